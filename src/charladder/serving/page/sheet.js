// The text as the person sees it: the text area, the colours behind it, and where the cursor is.

import { Backdrop } from "./backdrop.js";
import { difference, endOfCharacter } from "./text.js";

/** Sends "edit" (detail: the first unit that changed) and "move" (the cursor is before another character). */
export class Sheet extends EventTarget {
  #area;
  #scroller;
  #backdrop;
  #cursor = 0;
  text = "";

  constructor(area, backdrop, scroller) {
    super();
    this.#area = area;
    this.#scroller = scroller;
    this.#backdrop = new Backdrop(backdrop, scroller);
    area.addEventListener("input", () => this.#edited());
    // Which of the two is told of a cursor that moves differs between browsers; both may be.
    for (const source of [document, area]) source.addEventListener("selectionchange", () => this.#moved());
    this.#edited(); // a browser may have kept the text of an earlier visit
  }

  /** The unit before which the cursor stands, or a selection ends. */
  get cursor() {
    return Math.min(this.#cursor, this.text.length);
  }

  /** The text up to a unit as it can be sent: half characters become U+FFFD. */
  wellFormed(end = this.text.length) {
    return this.text.slice(0, end).toWellFormed();
  }

  insert(at, piece, drafted) {
    this.#area.setRangeText(piece, at, at, "preserve");
    this.#change({ start: at, removed: 0, inserted: piece }, drafted);
    this.#follow(at + piece.length);
  }

  remove(at, length) {
    this.#area.setRangeText("", at, at + length, "end");
    this.#change({ start: at, removed: length, inserted: "" });
    this.#moved();
  }

  /** While the server writes the person does not. */
  lock(on) {
    this.#area.readOnly = on;
  }

  finish(end) {
    this.#area.setSelectionRange(end, end);
    this.#moved();
    this.dispatchEvent(new CustomEvent("edit", { detail: end }));
  }

  colour({ start, levels }) {
    this.#backdrop.colour(start, levels);
  }

  #edited() {
    this.#change(difference(this.text, this.#area.value));
    this.#moved();
  }

  #change({ start, removed, inserted }, drafted = null) {
    if (!removed && !inserted) return;
    this.text = this.text.slice(0, start) + inserted + this.text.slice(start + removed);
    this.#backdrop.edit(start, removed, inserted, drafted);
    this.dispatchEvent(new CustomEvent("edit", { detail: start }));
  }

  #moved() {
    if (this.#area.value.length !== this.text.length) return; // the "input" of this change is still to come
    const place = this.#area.selectionEnd;
    this.#backdrop.point(place, endOfCharacter(this.text, place));
    if (place === this.#cursor) return;
    this.#cursor = place;
    this.dispatchEvent(new Event("move"));
  }

  /** Keeps what is being written in sight, without moving the page. */
  #follow(unit) {
    const box = this.#backdrop.box(unit);
    const view = this.#scroller.getBoundingClientRect();
    if (box && box.bottom > view.bottom) this.#scroller.scrollTop += box.bottom - view.bottom + 8;
  }
}
