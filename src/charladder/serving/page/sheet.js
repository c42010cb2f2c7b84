// The text as the person sees it: the text area, the colours behind it, and where the cursor is.

import { Backdrop } from "./backdrop.js";
import { difference, endOfCharacter } from "./text.js";

/** Sends "edit" (detail: {start, removed, inserted} of what changed) and "move" (the cursor is before another character). */
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

  /** Adds to the text that is being written. The text area has it when `finish` is called: pieces that a script puts
   * there one by one would each empty its undo history. Until then the backdrop shows the text. */
  insert(at, piece, drafted) {
    this.#change({ start: at, removed: 0, inserted: piece }, drafted);
    this.#follow(at + piece.length);
  }

  /** Replaces `length` units from `at` on, as one step of the browser's undo history. */
  replace(at, length, piece) {
    if (!length && !piece) return; // "delete" without a selection would take the character before
    const focused = document.activeElement;
    this.#area.focus({ preventScroll: true });
    this.#area.setSelectionRange(at, at + length);
    // Deprecated, and the only call that leaves the undo history whole.
    const done = document.execCommand(piece ? "insertText" : "delete", false, piece);
    if (!done) this.#area.setRangeText(piece, at, at + length, "end");
    this.#edited();
    if (focused !== this.#area) focused?.focus({ preventScroll: true });
  }

  /** While the server writes the person does not. */
  lock(on) {
    this.#area.readOnly = on;
    this.#scroller.classList.toggle("writing", on);
  }

  /** Puts what was written from `start` to `end` into the text area, and the cursor after it. */
  finish(start, end) {
    this.replace(start, 0, this.text.slice(start, end));
    this.place(end);
    this.dispatchEvent(new CustomEvent("edit", { detail: { start: end, removed: 0, inserted: "" } }));
  }

  /** Puts a text there before the person has done anything: nothing to undo, and the keyboard's focus stays. */
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
