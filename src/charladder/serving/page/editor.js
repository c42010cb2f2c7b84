// The editor: the text area, the coloured text behind it, and the cursor.

import { Backdrop } from "./backdrop.js";
import { difference, endOfCharacter } from "./text.js";

/** Sends "edit" (detail: {start, removed, inserted} of what changed) and "move" (the cursor moved). */
export class Editor extends EventTarget {
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
    // Browsers send it to one of the two, or to both.
    for (const source of [document, area]) source.addEventListener("selectionchange", () => this.#moved());
    this.#edited(); // a browser may have kept the text of an earlier visit
  }

  /** The unit at the cursor, or at the end of a selection. */
  get cursor() {
    return Math.min(this.#cursor, this.text.length);
  }

  /** The text up to a unit, where half surrogate pairs are U+FFFD. */
  wellFormed(end = this.text.length) {
    return this.text.slice(0, end).toWellFormed();
  }

  /** Adds generated text to the backdrop only. `finish` puts it into the text area at once, because each change by a
   * script clears the undo history. */
  insert(at, piece, drafted) {
    this.#change({ start: at, removed: 0, inserted: piece }, drafted);
    this.#follow(at + piece.length);
  }

  /** Replaces `length` units from `at` on, as one step of the browser's undo history. */
  replace(at, length, piece) {
    if (!length && !piece) return; // "delete" without a selection removes the character before
    const focused = document.activeElement;
    this.#area.focus({ preventScroll: true });
    this.#area.setSelectionRange(at, at + length);
    // Deprecated, but the only call that keeps the undo history.
    const done = document.execCommand(piece ? "insertText" : "delete", false, piece);
    if (!done) this.#area.setRangeText(piece, at, at + length, "end");
    this.#edited();
    if (focused !== this.#area) focused?.focus({ preventScroll: true });
  }

  /** Makes the text read-only while the server generates. */
  lock(on) {
    this.#area.readOnly = on;
    this.#scroller.classList.toggle("writing", on);
  }

  /** Puts the generated text from `start` to `end` into the text area, and the cursor after it. */
  finish(start, end) {
    this.replace(start, 0, this.text.slice(start, end));
    this.place(end);
    this.dispatchEvent(new CustomEvent("edit", { detail: { start: end, removed: 0, inserted: "" } }));
  }

  /** Sets the first text, without an undo step and without moving the focus. */
  show(text) {
    this.#area.value = text;
    this.#edited();
  }

  /** Puts the cursor before a unit. */
  place(unit) {
    this.#area.setSelectionRange(unit, unit);
    this.#moved();
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
    this.dispatchEvent(new CustomEvent("edit", { detail: { start, removed, inserted } }));
  }

  #moved() {
    if (this.#area.value.length !== this.text.length) return; // the "input" event of this change comes later
    const place = this.#area.selectionEnd;
    this.#backdrop.point(place, endOfCharacter(this.text, place));
    if (place === this.#cursor) return;
    this.#cursor = place;
    this.dispatchEvent(new Event("move"));
  }

  /** Scrolls the generated text into view, without moving the page. */
  #follow(unit) {
    const box = this.#backdrop.box(unit);
    const view = this.#scroller.getBoundingClientRect();
    if (box && box.bottom > view.bottom) this.#scroller.scrollTop += box.bottom - view.bottom + 8;
  }
}
