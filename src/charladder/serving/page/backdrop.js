// The coloured text behind the text area, in chunks. An edit replaces the chunks it touches, and only chunks in or near
// the viewport are coloured, so that typing costs the same in a long text as in a short one.

import { NONE, UNKNOWN } from "./colours.js";
import { joins } from "./text.js";

const CHUNK = 200; // units
const WRITTEN = 16;
const DRAFTED = 32;
const HERE = 64;
const LEVELS = 15; // the bits of a mark that hold its level

export class Backdrop {
  #element;
  #text = "";
  #marks = new Uint8Array(0); // for each unit: its level, and the flags WRITTEN, DRAFTED and HERE (at the cursor)
  #chunks = []; // {element, length, near, drawn}
  #here = [0, 0];
  #watcher;

  /** `element` is filled, and scrolls in `scroller`. */
  constructor(element, scroller) {
    this.#element = element;
    // Without it an empty last line has no height.
    element.append("\u200b");
    const options = { root: scroller, rootMargin: "300px 0px" };
    this.#watcher = new IntersectionObserver((seen) => this.#sighted(seen), options);
  }

  /** Replaces `removed` units from `start` on by `inserted`. `drafted`: for each new unit 1 or 0 if the network generated
   * it; null for text of the user. */
  edit(start, removed, inserted, drafted = null) {
    const fresh = new Uint8Array(inserted.length).fill(NONE);
    drafted?.forEach((draft, unit) => (fresh[unit] |= draft ? WRITTEN | DRAFTED : WRITTEN));
    const marks = new Uint8Array(this.#marks.length - removed + fresh.length);
    marks.set(this.#marks.subarray(0, start));
    marks.set(fresh, start);
    marks.set(this.#marks.subarray(start + removed), start + fresh.length);
    this.#text = this.#text.slice(0, start) + inserted + this.#text.slice(start + removed);
    this.#marks = marks;
    this.#here = this.#here.map((unit) => (unit >= start + removed ? unit + fresh.length - removed : Math.min(unit, start)));
    this.#cut(start, removed, fresh.length);
  }

  /** Colours from `start` on; `levels` has one for each unit. */
  colour(start, levels) {
    for (let unit = 0; unit < levels.length; unit += 1) {
      this.#marks[start + unit] = (this.#marks[start + unit] & ~LEVELS) | levels[unit];
    }
    this.#draw(start, start + levels.length);
  }

  /** Marks the character from `start` to `end` as the one at the cursor. */
  point(start, end) {
    const [from, to] = this.#here;
    if (from === start && to === end) return;
    for (let unit = from; unit < to; unit += 1) this.#marks[unit] &= ~HERE;
    for (let unit = start; unit < end; unit += 1) this.#marks[unit] |= HERE;
    this.#here = [start, end];
    this.#draw(from, to);
    this.#draw(start, end);
  }

  /** Where unit `unit` is on the screen, roughly: the box of its chunk. */
  box(unit) {
    let end = 0;
    const chunk = this.#chunks.find((chunk) => (end += chunk.length) >= unit);
    return chunk?.element.getBoundingClientRect();
  }

  /** Replaces the chunks that an edit has touched by new ones. */
  #cut(start, removed, added) {
    let first = 0;
    let from = 0;
    while (first < this.#chunks.length && from + this.#chunks[first].length < start) from += this.#chunks[first++].length;
    let last = first;
    let end = from;
    // At least one chunk, and a neighbour if little is left, so that deletions do not leave many tiny chunks.
    while (last < this.#chunks.length && (end < start + removed || end - from + added - removed < CHUNK / 4)) {
      end += this.#chunks[last++].length;
    }
    const old = this.#chunks.slice(first, last);
    const near = old.length === 0 || old.some((chunk) => chunk.near);
    const fresh = this.#pieces(from, end - removed + added).map((length) => {
      const element = document.createElement("span");
      return { element, length, near, drawn: null };
    });
    const next = this.#chunks[last]?.element ?? this.#element.lastChild;
    for (const chunk of old) {
      this.#watcher.unobserve(chunk.element);
      chunk.element.remove();
    }
    this.#chunks.splice(first, last - first, ...fresh);
    for (const chunk of fresh) {
      this.#fill(chunk, from);
      from += chunk.length;
      next.before(chunk.element);
      this.#watcher.observe(chunk.element);
    }
  }

  /** The text between two units in equal pieces of at most CHUNK, more or less: never cut inside a character. */
  #pieces(from, to) {
    const count = Math.ceil((to - from) / CHUNK);
    const lengths = [];
    for (let piece = 1; from < to; piece += 1) {
      let end = from + Math.ceil((to - from) / Math.max(1, count - piece + 1));
      while (end < to && joins(this.#text, end)) end += 1;
      lengths.push(end - from);
      from = end;
    }
    return lengths;
  }

  /** Redraws the chunks between two units. */
  #draw(from, to) {
    let start = 0;
    for (const chunk of this.#chunks) {
      const end = start + chunk.length;
      if (start < to && end > from) this.#fill(chunk, start);
      start = end;
    }
  }

  #sighted(seen) {
    const near = new Map(seen.map((entry) => [entry.target, entry.isIntersecting]));
    let start = 0;
    for (const chunk of this.#chunks) {
      const now = near.get(chunk.element);
      if (now !== undefined && now !== chunk.near) {
        chunk.near = now;
        chunk.drawn = null;
        this.#fill(chunk, start);
      }
      start += chunk.length;
    }
  }

  #fill(chunk, start) {
    const end = start + chunk.length;
    if (!chunk.near) {
      if (chunk.drawn !== "") chunk.element.textContent = this.#text.slice(start, end);
      chunk.drawn = "";
      return;
    }
    const runs = this.#runs(start, end);
    const drawn = runs.join();
    if (drawn === chunk.drawn) return;
    chunk.drawn = drawn;
    chunk.element.replaceChildren(
      ...runs.map(([from, to, mark]) => {
        const run = document.createElement("span");
        run.className = classes(mark);
        // The blank gives a line end a colour. At the end of a line it takes no space.
        run.textContent = this.#text.slice(start + from, start + to).replaceAll("\n", " \n");
        return run;
      }),
    );
  }

  /** Runs of equal marks as [from, to, mark], relative to `start`. */
  #runs(start, end) {
    const runs = [];
    let mark = -1;
    for (let unit = start; unit < end; unit += 1) {
      if (this.#marks[unit] !== mark && !(runs.length && joins(this.#text, unit))) {
        mark = this.#marks[unit];
        runs.push([unit - start, unit - start, mark]);
      }
      runs.at(-1)[1] = unit - start + 1;
    }
    return runs;
  }
}

function classes(mark) {
  const names = [];
  const level = mark & LEVELS;
  if (level === UNKNOWN) names.push("unknown");
  else if (level !== NONE) names.push(`b${level}`);
  if (mark & WRITTEN) names.push("written");
  if (mark & DRAFTED) names.push("drafted");
  if (mark & HERE) names.push("here");
  return names.join(" ");
}
