// The bits of every symbol of the text. An edit removes those from its position on.

import { NONE, UNKNOWN, level } from "./colours.js";
import { beginnings, joins } from "./text.js";

export class Scores {
  bits = [];
  offsets = []; // of each symbol: which code point of the text it belongs to
  complete = true;

  /** Removes the symbols from code point `point` on. */
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

  /** Adds the server's scores. `points`: for each code point that was sent, its index in the text. */
  take(answer, points) {
    answer.bits.forEach((bits) => this.bits.push(bits));
    answer.offsets.forEach((offset) => this.offsets.push(points[offset]));
    this.complete = true;
  }

  /** The most surprising code point from `least` on. */
  mostSurprising(least) {
    const first = this.first(least);
    let found = first;
    for (let symbol = first; symbol < this.bits.length; symbol += 1) if (this.bits[symbol] > this.bits[found]) found = symbol;
    return this.offsets[found] ?? 0;
  }

  get total() {
    return this.bits.reduce((sum, bits) => sum + bits, 0);
  }

  /** The colour levels of `text` from symbol `symbol` on, one for each unit, and the first unit. */
  levels(text, symbol) {
    const units = beginnings(text);
    const points = units.length - 1;
    let point = symbol < this.offsets.length ? this.offsets[symbol] : points;
    while (point > 0 && point < points && joins(text, units[point])) point -= 1;
    symbol = this.first(point);
    const start = units[point];
    const levels = new Uint8Array(text.length - start).fill(NONE);
    while (point < points) {
      // A letter and its accents are one drawn character, coloured by the sum of their bits.
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
