// Continues the text from the cursor with the server's stream.

import { failed, succeeded } from "./alerts.js";
import { listen } from "./server.js";

const field = (name) => document.getElementById(name);

/** `editor`: where the text is inserted (editor.js). `known`: a function that keeps the characters of the alphabet. */
export class Continuing {
  #editor;
  #model = "";
  #known;
  #stopping = null;
  #pieces = []; // {start, end} of the generated texts that remain, the newest last

  constructor(editor, known) {
    this.#editor = editor;
    this.#known = known;
    field("continue-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#begin();
    });
    field("stop").addEventListener("click", () => this.#stopping?.abort());
    field("back").addEventListener("click", () => this.#takeBack());
    field("text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) field("continue-form").requestSubmit();
      else return;
      event.preventDefault();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#stopping?.abort();
    });
    editor.addEventListener("edit", ({ detail }) => this.#shift(detail));
  }

  /** Fills the controls from the server's `/about`. */
  offer(about) {
    this.#model = about.model;
    field("length").max = about.limits.completion;
    field("continue").disabled = false;
    const chosen = field("draft").value;
    field("draft").replaceChildren(...about.drafters.map((name) => new Option(name, name, false, name === chosen)));
  }

  async #begin() {
    if (this.#stopping) return;
    const seed = field("seed").value === "" ? Math.floor(Math.random() * 2 ** 31) : field("seed").valueAsNumber;
    const start = this.#editor.cursor;
    const request = {
      model: this.#model,
      prompt: this.#known(this.#editor.wellFormed(start)).text,
      max_tokens: field("length").valueAsNumber,
      temperature: field("temperature").valueAsNumber,
      stream: true,
      seed,
      draft: field("draft").value,
    };
    this.#stopping = new AbortController();
    this.#turn(true);
    field("speed").textContent = "Writing …";
    const tally = { start, end: start, characters: 0, drafted: 0, began: performance.now(), last: null, seed };
    let ending = "Stopped";
    try {
      for await (const said of listen("v1/completions", request, this.#stopping.signal)) this.#write(said, tally);
      ending = "Written";
      succeeded("continue");
    } catch (error) {
      if (error.name !== "AbortError") ending = "Broken off";
      failed("continue", error);
    } finally {
      this.#stopping = null;
      if (tally.end > start) this.#pieces.push({ start, end: tally.end });
      field("speed").textContent = report(ending, tally);
      this.#turn(false);
      this.#editor.finish(start, tally.end);
    }
  }

  #write({ choices: [{ text, charladder }] }, tally) {
    // The text area normalises line ends.
    const points = [...text.replaceAll("\r", "\n")];
    const drafted = points.flatMap((point, place) => Array(point.length).fill(charladder?.drafted?.[place] === "1"));
    this.#editor.insert(tally.end, points.join(""), drafted);
    tally.end += drafted.length;
    tally.characters += points.length;
    tally.drafted += (charladder?.drafted?.match(/1/g) ?? []).length;
    tally.last = charladder;
  }

  /** Switches the controls, and the keyboard's focus, between generating and idle. */
  #turn(on) {
    const focused = document.activeElement;
    this.#editor.lock(on);
    field("continue").disabled = on;
    field("stop").disabled = !on;
    field("back").disabled = on || !this.#pieces.length;
    if (on && focused === field("continue")) field("stop").focus();
    if (!on && focused === field("stop")) field("continue").focus();
  }

  #takeBack() {
    const { start, end } = this.#pieces.at(-1);
    this.#editor.replace(start, end - start, "");
    field("speed").textContent = "Taken back.";
    field("continue").focus();
  }

  /** Moves the generated pieces with an edit. Text typed at their ends is not part of them. */
  #shift({ start, removed, inserted }) {
    const [end, by] = [start + removed, inserted.length - removed];
    for (const piece of this.#pieces) {
      piece.start = piece.start >= end ? piece.start + by : piece.start >= start ? start + inserted.length : piece.start;
      piece.end = piece.end > end ? piece.end + by : Math.min(piece.end, start);
    }
    this.#pieces = this.#pieces.filter((piece) => piece.end > piece.start);
    field("back").disabled = this.#stopping !== null || !this.#pieces.length;
  }
}

function report(ending, { characters, drafted, began, last, seed }) {
  const count = (number, name) => `${number.toLocaleString("en")} ${name}${number === 1 ? "" : "s"}`;
  const rate = last?.characters_per_second ?? characters / ((performance.now() - began) / 1000);
  const parts = [`${ending}: ${count(characters, "character")}`, `${Math.round(rate).toLocaleString("en")} a second`];
  if (last?.accepted_per_pass) parts.push(`${last.accepted_per_pass.toFixed(2)} accepted per pass (${last.draft})`);
  if (drafted) parts.push(`${count(drafted, "character")} from drafts`);
  return `${parts.join(", ")}. Seed ${seed}.`;
}
