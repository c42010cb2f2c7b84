// The bits of every symbol of the text, as far as they are known: an edit forgets those from its place on.

import { NONE, UNKNOWN, level } from "./colours.js";
import { beginnings, joins } from "./text.js";

export class Scores {
  bits = [];
  offsets = []; // of each symbol: which code point of the text it belongs to
  complete = true;

  /** Forgets the symbols from code point `point` on. */
  forget(point) {
    const kept = this.first(point);
    this.bits.length = kept;
    this.offsets.length = kept;
    this.complete = false;
  }

  /** The first symbol at or after code point `point`. */
  first(point) {
    let [low, high] = [0, this.offsets.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.offsets[middle] < point) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Takes what the server said of the symbols that were asked for. `points`: of each code point that was sent, which
   * one of the text it is. */
  take(answer, points) {
    answer.bits.forEach((bits) => this.bits.push(bits));
    answer.offsets.forEach((offset) => this.offsets.push(points[offset]));
    this.complete = true;
  }

  /** The code point that was the greatest surprise, from `least` on. */
  surprise(least) {
    const first = this.first(least);
    let found = first;
    for (let symbol = first; symbol < this.bits.length; symbol += 1) if (this.bits[symbol] > this.bits[found]) found = symbol;
    return this.offsets[found] ?? 0;
  }

  get total() {
    return this.bits.reduce((sum, bits) => sum + bits, 0);
  }

  /** The levels of `text` from symbol `symbol` on, one a unit, and the unit where they begin. */
  levels(text, symbol) {
    const units = beginnings(text);
    const points = units.length - 1;
    let point = symbol < this.offsets.length ? this.offsets[symbol] : points;
    while (point > 0 && point < points && joins(text, units[point])) point -= 1;
    symbol = this.first(point);
    const start = units[point];
    const levels = new Uint8Array(text.length - start).fill(NONE);
    while (point < points) {
      // One character as it is drawn: a letter with its accents is coloured by the sum.
      let end = point + 1;
      while (end < points && joins(text, units[end])) end += 1;
      const before = symbol;
      let sum = 0;
      for (; symbol < this.offsets.length && this.offsets[symbol] < end; symbol += 1) sum += this.bits[symbol];
      const shown = symbol > before ? level(sum) : this.complete ? UNKNOWN : NONE;
      levels.fill(shown, units[point] - start, units[end] - start);
      point = end;
    }
    return { start, levels };
  }
}
