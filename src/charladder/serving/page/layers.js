// The layers at one position of the text: the predictions of every head.

import { byteMeaning, spoken, visible } from "./text.js";

const EARLY = 0.25; // a head that learned only in this part of training predicts badly

function make(name, className, ...content) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

const AHEAD = ["the next", "two ahead", "three ahead", "four ahead"];

function ahead(target) {
  return AHEAD[target - 1] ?? `${target} ahead`;
}

function percent(probability) {
  const value = probability * 100;
  if (value > 0 && value < 0.1) return "<0.1%";
  return `${value >= 99.95 ? value.toFixed(0) : value.toFixed(1)}%`;
}

/** `likelier`: the number of more likely symbols. */
function rank(likelier) {
  const number = likelier + 1;
  const tens = number % 100 >= 11 && number % 100 <= 13;
  return number + (tens ? "th" : (["th", "st", "nd", "rd"][number % 10] ?? "th"));
}

/** `end`: the last step of training, which is the latest step of any head, because the top layer always learns. */
function learned(last, end) {
  if (!last) return "when it last learned is not known";
  if (last.step >= end) return "learned to the end";
  const when = `${Math.round(last.progress * 100)}% of training, step ${last.step.toLocaleString("en")}`;
  return stale(last, end) ? `dimmed: it learned only until ${when}, and predicts worse` : `last learned at ${when}`;
}

function stale(last, end) {
  return Boolean(last) && last.step < end && last.progress < EARLY;
}

/** The earlier bytes of the character that byte `place` of `bytes` is a part of; `bytes` begins with a character. */
export function bytesBefore(bytes, place) {
  let start = place;
  while (start > 0 && bytes[start] >= 0x80 && bytes[start] < 0xc0) start -= 1;
  return [...bytes.subarray(start, place)];
}

/** `before`: the earlier bytes of this character; null where symbols are letters. */
function cell({ id, text, probability }, actual, before) {
  const shown = visible(text);
  const meaning = before && byteMeaning(before, id);
  const item = make("li", id === actual?.id ? "true" : "");
  const bar = make("span", "bar");
  bar.style.width = `${probability * 100}%`;
  item.append(make("span", shown.length > 2 ? "symbol long" : "symbol", shown));
  if (meaning) item.append(make("span", "meaning", visible(meaning)));
  item.append(make("span", "number", percent(probability)), make("span", "track", bar));
  if (id === actual?.id) item.append(make("span", "aloud", " (the actual one)"));
  return item;
}

function head({ term, target, last_learned, actual, likeliest }, end, bytes) {
  const before = bytes(target);
  const group = make("div", stale(last_learned, end) ? "head stale" : "head");
  group.dataset.target = target;
  const caption = make("p", "", make("strong", "", ahead(target)));
  if (before?.length) caption.append(` (byte ${before.length + 1} of a character, after ${hexadecimal(before)})`);
  if (actual) {
    const is = make("strong", "symbol", visible(actual.text));
    caption.append(": ", is, ` had ${percent(actual.probability)}, ${rank(actual.rank)}`);
  }
  caption.append(make("br"), make("span", "learned", learned(last_learned, end)));
  const list = make("ol", "likeliest", ...likeliest.map((candidate) => cell(candidate, actual, before)));
  list.setAttribute("aria-label", `likeliest, ${ahead(target)} (${term})`);
  group.append(caption, list);
  return group;
}

function hexadecimal(bytes) {
  return bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
}

function row({ layer, heads }, { top, end, note, bytes }) {
  const item = make("li", "layer");
  item.dataset.layer = layer;
  const name = make("h3", "", `Layer ${layer}`);
  if (layer === top) name.append(" ", make("small", "", "the top"));
  const content = make("div", "heads", ...heads.map((one) => head(one, end, bytes)));
  if (!heads.length) content.append(make("p", "note", note ? "There is no text before." : "This layer has no trained head."));
  item.append(name, content);
  return item;
}

/** `note`: why there are no predictions. `bytes(target)`: the earlier bytes of the character that a head predicts; null
 * where symbols are letters. */
export function drawLayers(list, { rows, note }, bytes) {
  const top = Math.max(...rows.map((row) => row.layer));
  const end = Math.max(...rows.flatMap((row) => row.heads.map((head) => head.last_learned?.step ?? 0)));
  list.replaceChildren(...rows.toReversed().map((entry) => row(entry, { top, end, note, bytes })));
}

/** One sentence about the position, which screen readers read aloud. `part`: which of the `count` symbols of the character. */
export function summary({ symbol, bits, rows, note }, { number, text, part, count }) {
  const main = rows.at(-1)?.heads.find((head) => head.target === 1);
  const first = main?.likeliest[0];
  const expected = first ? `the top layer expects ${spoken(first.text)} (${percent(first.probability)})` : "";
  if (!symbol) return `End of the text${expected && `: ${expected} next`}.${note ? ` ${sentence(note)}` : ""}`;
  if (count === 0) {
    const where = `Character ${number.toLocaleString("en")}, ${spoken(text)}`;
    return `${where}, is not in the network's alphabet and is left out${expected && `; ${expected} here`}.`;
  }
  const which = count > 1 ? `${spoken(text)}, part ${part + 1} of ${count} (${visible(symbol.text)})` : spoken(symbol.text);
  const place = `Character ${number.toLocaleString("en")}, ${which}`;
  const surprise = bits === null ? "is not scored" : `${bits.toFixed(2)} bits`;
  const had = main?.actual && `the top layer gave it ${percent(main.actual.probability)}, ${rank(main.actual.rank)}`;
  return `${place}: ${[surprise, had].filter(Boolean).join("; ")}.${note ? ` ${sentence(note)}` : ""}`;
}

function sentence(words) {
  return `${words[0].toUpperCase()}${words.slice(1)}.`;
}
