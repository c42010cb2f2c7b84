// A text has three measures: UTF-16 units in the editor, code points in the server's answers, symbols in the network.

const EXTENDS = /^[\p{M}\p{EMod}\u200d]/u;
const INVISIBLE = /^[\p{Z}\p{C}]$/u;
const PICTURES = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡" };
const NAMES = { " ": "space", "\n": "new line", "\t": "tab", "\r": "carriage return" };

/** Whether unit `unit` is the second half of a character. */
export function isTail(text, unit) {
  const code = text.charCodeAt(unit);
  if (!(code >= 0xdc00 && code < 0xe000)) return false;
  const before = text.charCodeAt(unit - 1);
  return before >= 0xd800 && before < 0xdc00;
}

/** Whether the character at `unit` is drawn as one with the one before, as an accent is: never cut between the two. */
export function joins(text, unit) {
  if (text.charCodeAt(unit) < 0x300) return false;
  return isTail(text, unit) || text.charCodeAt(unit - 1) === 0x200d || EXTENDS.test(text.slice(unit, unit + 2));
}

/** How many code points begin before `unit`. */
export function pointsBefore(text, unit) {
  let points = 0;
  for (let place = 0; place < unit; place += 1) if (!isTail(text, place)) points += 1;
  return points;
}

/** The unit at which every code point begins, and the length at the end. */
export function beginnings(text) {
  const units = new Uint32Array(text.length + 1);
  let points = 0;
  for (let unit = 0; unit < text.length; unit += 1) if (!isTail(text, unit)) units[points++] = unit;
  units[points] = text.length;
  return units.subarray(0, points + 1);
}

/** The unit where the character ends that begins at `unit`, with the accents on it. */
export function endOfCharacter(text, unit) {
  let end = Math.min(unit + 1, text.length);
  while (end < text.length && joins(text, end)) end += 1;
  return end;
}

/** What to replace where to get from `old` to `now`; never half a character. */
export function difference(old, now) {
  const shorter = Math.min(old.length, now.length);
  let start = 0;
  while (start < shorter && old.charCodeAt(start) === now.charCodeAt(start)) start += 1;
  let same = 0;
  while (same < shorter - start && old.charCodeAt(old.length - 1 - same) === now.charCodeAt(now.length - 1 - same)) {
    same += 1;
  }
  while (start > 0 && (isTail(old, start) || isTail(now, start))) start -= 1;
  while (same > 0 && (isTail(old, old.length - same) || isTail(now, now.length - same))) same -= 1;
  return { start, removed: old.length - same - start, inserted: now.slice(start, now.length - same) };
}

/** A symbol so that one sees it: blanks and what has no picture of its own. */
export function visible(symbol) {
  if (symbol in PICTURES) return PICTURES[symbol];
  const code = symbol.codePointAt(0);
  if (symbol.length === 1 && code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (INVISIBLE.test(symbol)) return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  return EXTENDS.test(symbol) ? `◌${symbol}` : symbol;
}

/** A symbol as one says it. */
export function spoken(symbol) {
  return NAMES[symbol] ?? `“${visible(symbol)}”`;
}
