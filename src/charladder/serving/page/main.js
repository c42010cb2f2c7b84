// The explorer page: connects the editor, the scores, the layers and the server.

import { failed, succeeded } from "./alerts.js";
import { drawLegend } from "./colours.js";
import { Continuing } from "./continuing.js";
import { examplesFor, spelled } from "./examples.js";
import { bytesBefore, drawLayers, summary } from "./layers.js";
import { DebouncedTask } from "./debounce.js";
import { load, save } from "./storage.js";
import { Scores } from "./scores.js";
import { ask, useToken } from "./server.js";
import { Editor } from "./editor.js";
import { beginnings, endOfCharacter, pointsBefore } from "./text.js";

const SCORE_DELAY = 250; // ms after the last edit
const LAYERS_EDIT_DELAY = 600; // ms after the last edit, because screen readers read the layers aloud
const LAYERS_MOVE_DELAY = 120; // ms after the cursor moved
const RETRY_DELAY = 3000; // ms
const SKIPPED_CHARACTERS = 8; // at the beginning of an example, which every network finds surprising
const TEMPORARY_ERRORS = [0, 429, 503]; // 0: no response

const field = (name) => document.getElementById(name);
const before = load();
if (before) field("text").value = before.text;
const editor = new Editor(field("text"), field("backdrop"), field("editor"));
const continuing = new Continuing(editor, known);
const scores = new Scores();
const scoring = new DebouncedTask();
const layersTask = new DebouncedTask();
const encoder = new TextEncoder();
let about = null;
let part = 0; // which symbol of the character at the cursor: one may be several bytes, or a letter and its accents
let editedAt = 0;
let letters = null; // a Set, for an alphabet that lacks letters
let showsSurprise = false; // whether the cursor moves to the most surprising character after scoring

async function start() {
  try {
    about = await ask("about");
  } catch (error) {
    if (error.status === 401) askForToken();
    else setTimeout(start, RETRY_DELAY);
    if (error.status !== 401 || field("token").value) failed("about", error); // the first time, the form says it
    return;
  }
  succeeded("about");
  const { model, alphabet, layers, width, context } = about;
  const spelling = alphabet.kind === "bytes" ? "spells in bytes" : `spells with ${alphabet.size} letters`;
  field("model").textContent = `${model}: ${layers} layers of width ${width}, ${spelling}, a context of ${context}`;
  letters = alphabet.letters && alphabet.unknown !== "replace" ? new Set(alphabet.letters) : null;
  continuing.offer(about);
  offerExamples(alphabet.letters);
  score();
  showLayers();
}

function askForToken() {
  field("token-form").hidden = false;
  field("token").focus();
}

/** The buttons with example texts. The first is shown where there is no text of an earlier visit. */
function offerExamples(alphabet) {
  const examples = examplesFor(alphabet);
  const buttons = examples.map(({ name, text }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => {
      if (field("text").readOnly) return;
      editor.replace(0, editor.text.length, text);
      showsSurprise = true;
    });
    return button;
  });
  field("examples").replaceChildren(field("examples").firstElementChild, ...buttons);
  if (before || editor.text) return;
  editor.show(examples[0].text);
  showsSurprise = true;
}

/** The characters of a text that are in the network's alphabet, and their code points in the text. */
function known(text) {
  return spelled(text, letters);
}

/** Shows an error. A restarted server may need a token at any time. */
function reportError(kind, error) {
  failed(kind, error);
  if (error.status === 401) askForToken();
}

field("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(field("token").value);
  field("token-form").hidden = true;
  field("text").focus();
  start();
});

function score(wait = SCORE_DELAY) {
  field("totals").setAttribute("aria-busy", "true");
  scoring.request(wait, async (signal) => {
    const text = editor.wellFormed();
    const begin = scores.bits.length;
    try {
      const sent = known(text);
      const answer = sent.text ? await ask("score", { text: sent.text, begin }, signal) : { bits: [], offsets: [] };
      if (signal.aborted) return;
      scores.take(answer, sent.points);
    } catch (error) {
      reportError("score", error);
      if (signal.aborted) return;
      editor.colour(scores.levels(text, begin)); // unknown scores have no colour
      field("total").textContent = field("average").textContent = "–";
      if (TEMPORARY_ERRORS.includes(error.status)) score(RETRY_DELAY);
      else field("totals").removeAttribute("aria-busy");
      return;
    }
    succeeded("score");
    editor.colour(scores.levels(text, begin));
    showTotals(text);
    if (showsSurprise && scores.bits.length) {
      showsSurprise = false;
      editor.place(beginnings(text)[scores.mostSurprising(SKIPPED_CHARACTERS)]);
    }
    if (about?.alphabet.kind !== "bytes") showLayers();
  });
}

function showTotals(text) {
  const symbols = scores.bits.length;
  const characters = pointsBefore(text, text.length);
  const left = characters - new Set(scores.offsets).size;
  field("total").textContent = scores.total.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  field("average").textContent = symbols ? (scores.total / symbols).toFixed(3) : "–";
  field("unit").textContent = symbols > characters ? "bits per byte" : "bits per character";
  field("left-out").hidden = !left;
  field("left-out").textContent = `${left} of these characters are not in the network's alphabet: they are left out.`;
  field("totals").removeAttribute("aria-busy");
}

/** The number of symbols before `unit`; null if it is not known yet. */
function symbolsBefore(unit) {
  if (about.alphabet.kind === "bytes") return encoder.encode(editor.wellFormed(unit)).length;
  const point = pointsBefore(editor.text, unit);
  return scores.complete || point <= (scores.offsets.at(-1) ?? -1) ? scores.first(point) : null;
}

function showLayers() {
  if (!about || field("text").readOnly) return;
  const wait = Math.max(LAYERS_MOVE_DELAY, LAYERS_EDIT_DELAY - (performance.now() - editedAt));
  layersTask.request(wait, async (signal) => {
    const { cursor, text } = editor;
    const piece = known(editor.wellFormed());
    const end = endOfCharacter(text, cursor);
    const first = symbolsBefore(cursor);
    if (first === null) return;
    const count = (symbolsBefore(end) ?? 0) - first;
    try {
      const answer = await ask("layers", { text: piece.text, place: first + part }, signal);
      if (signal.aborted) return;
      succeeded("layers");
      const bytes = about.alphabet.kind === "bytes" ? encoder.encode(editor.wellFormed().slice(cursor, cursor + 16)) : null;
      drawLayers(field("layer-list"), answer, (target) => bytes && bytesBefore(bytes, part + target - 1));
      const character = { number: pointsBefore(text, cursor) + 1, text: text.slice(cursor, end), part, count };
      field("place").textContent = summary(answer, character);
      showParts(count);
    } catch (error) {
      reportError("layers", error);
    }
  });
}

/** Shows the buttons that step through the symbols of one character. They use aria-disabled, because a disabled button
 * loses the keyboard's focus. */
function showParts(count) {
  field("bytes").hidden = count < 2;
  field("byte-place").textContent = `${about.alphabet.kind === "bytes" ? "byte" : "letter"} ${part + 1} of ${count}`;
  field("byte-before").setAttribute("aria-disabled", part === 0);
  field("byte-after").setAttribute("aria-disabled", part >= count - 1);
}

function step(event, by) {
  if (event.currentTarget.getAttribute("aria-disabled") === "true") return;
  part += by;
  showLayers();
}

drawLegend(field("swatches"));
editor.addEventListener("edit", (event) => {
  scores.forget(pointsBefore(editor.text, event.detail.start));
  part = 0;
  editedAt = performance.now();
  showsSurprise = false;
  save(editor);
  if (field("text").readOnly) scoring.stop();
  else score();
  showLayers();
});
editor.addEventListener("move", () => {
  part = 0;
  save(editor);
  showLayers();
});
field("byte-before").addEventListener("click", (event) => step(event, -1));
field("byte-after").addEventListener("click", (event) => step(event, 1));
field("all-layers").addEventListener("click", ({ currentTarget: button }) => {
  const open = field("layers").classList.toggle("open");
  button.setAttribute("aria-expanded", open);
  button.textContent = open ? "Top layer only" : "All layers";
});
if (before) editor.place(Math.min(before.cursor, editor.text.length));
start();
