// The explorer: what happens when. The parts know nothing of each other.

import { failed, succeeded } from "./alerts.js";
import { drawLegend } from "./colours.js";
import { Continuing } from "./continuing.js";
import { examplesFor, spelled } from "./examples.js";
import { bytesBefore, drawLayers, summary } from "./layers.js";
import { Later } from "./later.js";
import { saved, save } from "./saved.js";
import { Scores } from "./scores.js";
import { ask, useToken } from "./server.js";
import { Sheet } from "./sheet.js";
import { beginnings, endOfCharacter, pointsBefore } from "./text.js";

const TYPING = 250; // ms without a key after which the text is scored
const READING = 600; // ... and after which the layers are read aloud
const MOVING = 120; // ms for which the cursor rests before its ladder is asked for
const RETRY = 3000;
const COLD = 8; // characters at the beginning of an example, which every network finds surprising
const PASSING = [0, 429, 503]; // nobody answers, or has no time: later perhaps

const field = (name) => document.getElementById(name);
const before = saved();
if (before) field("text").value = before.text;
const sheet = new Sheet(field("text"), field("backdrop"), field("editor"));
const continuing = new Continuing(sheet, known);
const scores = new Scores();
const scoring = new Later();
const climbing = new Later();
const encoder = new TextEncoder();
let about = null;
let part = 0; // which symbol of the character at the cursor: one may be several bytes, or a letter and its accents
let edited = 0; // when
let letters = null; // the alphabet, where it is not the bytes and lacks letters
let showing = false; // whether the caret goes to the greatest surprise when the text has been scored

async function start() {
  try {
    about = await ask("about");
  } catch (error) {
    if (error.status === 401) askForToken();
    else setTimeout(start, RETRY);
    if (error.status !== 401 || field("token").value) failed("about", error); // the form says it the first time
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
  climb();
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
      sheet.replace(0, sheet.text.length, text);
      showing = true;
    });
    return button;
  });
  field("examples").replaceChildren(field("examples").firstElementChild, ...buttons);
  if (before || sheet.text) return;
  sheet.show(examples[0].text);
  showing = true;
}

/** The part of a text that the network's alphabet has, and which code point of the text each of its code points is. */
function known(text) {
  return spelled(text, letters);
}

/** A token may be asked for at any time: the server may have been started anew. */
function troubled(kind, error) {
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

function score(wait = TYPING) {
  field("totals").setAttribute("aria-busy", "true");
  scoring.ask(wait, async (signal) => {
    const text = sheet.wellFormed();
    const begin = scores.bits.length;
    try {
      const sent = known(text);
      const answer = sent.text ? await ask("score", { text: sent.text, begin }, signal) : { bits: [], offsets: [] };
      if (signal.aborted) return;
      scores.take(answer, sent.points);
    } catch (error) {
      troubled("score", error);
      if (signal.aborted) return;
      sheet.colour(scores.levels(text, begin)); // what is not known has no colour
      field("total").textContent = field("average").textContent = "–";
      if (PASSING.includes(error.status)) score(RETRY);
      else field("totals").removeAttribute("aria-busy");
      return;
    }
    succeeded("score");
    sheet.colour(scores.levels(text, begin));
    showTotals(text);
    if (showing && scores.bits.length) {
      showing = false;
      sheet.place(beginnings(text)[scores.surprise(COLD)]);
    }
    if (about?.alphabet.kind !== "bytes") climb();
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

/** How many symbols the text has before `unit`; null where it is not known yet. */
function symbolsBefore(unit) {
  if (about.alphabet.kind === "bytes") return encoder.encode(sheet.wellFormed(unit)).length;
  const point = pointsBefore(sheet.text, unit);
  return scores.complete || point <= (scores.offsets.at(-1) ?? -1) ? scores.first(point) : null;
}

function climb() {
  if (!about || field("text").readOnly) return;
  const wait = Math.max(MOVING, READING - (performance.now() - edited));
  climbing.ask(wait, async (signal) => {
    const { cursor, text } = sheet;
    const piece = known(sheet.wellFormed());
    const end = endOfCharacter(text, cursor);
    const first = symbolsBefore(cursor);
    if (first === null) return;
    const count = (symbolsBefore(end) ?? 0) - first;
    try {
      const answer = await ask("layers", { text: piece.text, place: first + part }, signal);
      if (signal.aborted) return;
      succeeded("layers");
      const bytes = about.alphabet.kind === "bytes" ? encoder.encode(sheet.wellFormed().slice(cursor, cursor + 16)) : null;
      drawLayers(field("layer-list"), answer, (target) => bytes && bytesBefore(bytes, part + target - 1));
      const character = { number: pointsBefore(text, cursor) + 1, text: text.slice(cursor, end), part, count };
      field("place").textContent = summary(answer, character);
      showParts(count);
    } catch (error) {
      troubled("layers", error);
    }
  });
}

/** The buttons that step through the symbols of a character that has several. They keep the keyboard's focus where
 * they lead nowhere, which a button that is disabled loses. */
function showParts(count) {
  field("bytes").hidden = count < 2;
  field("byte-place").textContent = `${about.alphabet.kind === "bytes" ? "byte" : "letter"} ${part + 1} of ${count}`;
  field("byte-before").setAttribute("aria-disabled", part === 0);
  field("byte-after").setAttribute("aria-disabled", part >= count - 1);
}

function step(event, by) {
  if (event.currentTarget.getAttribute("aria-disabled") === "true") return;
  part += by;
  climb();
}

drawLegend(field("swatches"));
sheet.addEventListener("edit", (event) => {
  scores.forget(pointsBefore(sheet.text, event.detail.start));
  part = 0;
  edited = performance.now();
  showing = false;
  save(sheet);
  if (field("text").readOnly) scoring.stop();
  else score();
  climb();
});
sheet.addEventListener("move", () => {
  part = 0;
  save(sheet);
  climb();
});
field("byte-before").addEventListener("click", (event) => step(event, -1));
field("byte-after").addEventListener("click", (event) => step(event, 1));
field("all-layers").addEventListener("click", ({ currentTarget: button }) => {
  const open = field("layers").classList.toggle("open");
  button.setAttribute("aria-expanded", open);
  button.textContent = open ? "Top layer only" : "All layers";
});
if (before) sheet.place(Math.min(before.cursor, sheet.text.length));
start();
