// The ladder of one place in the text: what every head of every rung expected there.

import { spoken, visible } from "./text.js";

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

/** `likelier`: how many were held likelier, 0 for the first guess. */
function rank(likelier) {
  const number = likelier + 1;
  const tens = number % 100 >= 11 && number % 100 <= 13;
  return number + (tens ? "th" : (["th", "st", "nd", "rd"][number % 10] ?? "th"));
}

/** `end`: the last step of training. The top rung learns at every step, so the latest step of any head is that. */
function learned(last, end) {
  if (!last) return "when it last learned is not known";
  if (last.step >= end) return "learned to the end";
  return `last learned at ${Math.round(last.progress * 100)}% of training, step ${last.step.toLocaleString("en")}`;
}

function cell({ id, text, probability }, actual) {
  const shown = visible(text);
  const item = make("li", id === actual?.id ? "true" : "");
  const bar = make("span", "bar");
  bar.style.width = `${probability * 100}%`;
  item.append(make("span", shown.length > 2 ? "symbol long" : "symbol", shown));
  item.append(make("span", "number", percent(probability)), make("span", "track", bar));
  if (id === actual?.id) item.append(make("span", "aloud", " (stands there)"));
  return item;
}

function head({ term, target, last_learned, actual, likeliest }, end) {
  const group = make("div", "head");
  group.dataset.target = target;
  const caption = make("p", "", make("strong", "", ahead(target)));
  if (actual) {
    const is = make("strong", "symbol", visible(actual.text));
    caption.append(": ", is, ` had ${percent(actual.probability)}, ${rank(actual.rank)}`);
  }
  caption.append(make("br"), make("span", "learned", learned(last_learned, end)));
  const list = make("ol", "likeliest", ...likeliest.map((candidate) => cell(candidate, actual)));
  list.setAttribute("aria-label", `likeliest, ${ahead(target)} (${term})`);
  group.append(caption, list);
  return group;
}

function row({ rung, heads }, { top, end, note }) {
  const item = make("li", "rung");
  item.dataset.rung = rung;
  const name = make("h3", "", `Rung ${rung}`);
  if (rung === top) name.append(" ", make("small", "", "the top"));
  const content = make("div", "heads", ...heads.map((one) => head(one, end)));
  if (!heads.length) content.append(make("p", "note", note ? "Nothing to go by." : "It was never asked to predict."));
  item.append(name, content);
  return item;
}

/** `note`: why there is nothing to show. */
export function drawLadder(list, { rows, note }) {
  const top = Math.max(...rows.map((row) => row.rung));
  const end = Math.max(...rows.flatMap((row) => row.heads.map((head) => head.last_learned?.step ?? 0)));
  list.replaceChildren(...rows.map((entry) => row(entry, { top, end, note })));
}

/** One sentence about the place: for the eye, and read aloud. `part`: which of the `count` symbols of the character. */
export function summary({ symbol, bits, rows, note }, { number, text, part, count }) {
  const main = rows.at(-1)?.heads.find((head) => head.target === 1);
  const first = main?.likeliest[0];
  const expected = first ? `the top rung expects ${spoken(first.text)} (${percent(first.probability)})` : "";
  if (!symbol) return `End of the text${expected && `: ${expected} next`}.${note ? ` ${sentence(note)}` : ""}`;
  const which = count > 1 ? `${spoken(text)}, part ${part + 1} of ${count} (${visible(symbol.text)})` : spoken(symbol.text);
  const place = `Character ${number.toLocaleString("en")}, ${which}`;
  const surprise = bits === null ? "is not scored" : `${bits.toFixed(2)} bits`;
  const had = main?.actual && `the top rung gave it ${percent(main.actual.probability)}, ${rank(main.actual.rank)}`;
  return `${place}: ${[surprise, had].filter(Boolean).join("; ")}.${note ? ` ${sentence(note)}` : ""}`;
}

function sentence(words) {
  return `${words[0].toUpperCase()}${words.slice(1)}.`;
}
