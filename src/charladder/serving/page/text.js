// Positions in a text are UTF-16 units in the editor, code points in the server's responses, symbols in the network.

const EXTENDS = /^[\p{M}\p{EMod}\u200d]/u;
const INVISIBLE = /^[\p{Z}\p{C}]$/u;
const PICTURES = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡" };
const BLOCKS = [
  [0x80, 0x24f, "Latin"], [0x250, 0x2af, "phonetic"], [0x300, 0x36f, "accents"], [0x370, 0x3ff, "Greek"],
  [0x400, 0x52f, "Cyrillic"], [0x530, 0x58f, "Armenian"], [0x590, 0x5ff, "Hebrew"], [0x600, 0x77f, "Arabic"],
  [0x900, 0xdff, "Indic"], [0xe00, 0xeff, "Thai and Lao"], [0x10a0, 0x10ff, "Georgian"], [0x2000, 0x206f, "punctuation"],
  [0x2070, 0x20cf, "signs"], [0x2100, 0x214f, "letterlike"], [0x2190, 0x21ff, "arrows"], [0x2200, 0x22ff, "mathematics"],
  [0x2500, 0x25ff, "boxes and shapes"], [0x2600, 0x27bf, "symbols"], [0x3000, 0x30ff, "Japanese"],
  [0x3400, 0x9fff, "Chinese"], [0xac00, 0xd7ff, "Korean"], [0x1f000, 0x1ffff, "pictures"],
]; // from, to, name

const NAMES = { " ": "space", "\n": "new line", "\t": "tab", "\r": "carriage return" };

/** Whether unit `unit` is the second half of a character. */
export function isTail(text, unit) {
  const code = text.charCodeAt(unit);
  if (!(code >= 0xdc00 && code < 0xe000)) return false;
  const before = text.charCodeAt(unit - 1);
  return before >= 0xd800 && before < 0xdc00;
}

/** Whether the character at `unit` joins the one before, like an accent. A text is never cut between them. */
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

/** The edit that turns `old` into `now`, in whole characters. */
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

/** A visible form of a symbol: blanks and control characters are replaced. */
export function visible(symbol) {
  if (symbol in PICTURES) return PICTURES[symbol];
  const code = symbol.codePointAt(0);
  if (symbol.length === 1 && code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (INVISIBLE.test(symbol)) return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  return EXTENDS.test(symbol) ? `◌${symbol}` : symbol;
}

/** The name of a symbol in a sentence. */
export function spoken(symbol) {
  return NAMES[symbol] ?? `“${visible(symbol)}”`;
}

/** What a byte means after the earlier bytes of its UTF-8 character: the character that it completes, or the range of
 * characters that it leaves possible. Empty for a character of one byte. */
export function byteMeaning(before, byte) {
  const bytes = [...before, byte];
  if (bytes.length === 1 && byte < 0x80) return "";
  const [first, ...rest] = bytes;
  const length = first >= 0xf0 && first < 0xf5 ? 4 : first >= 0xe0 && first < 0xf0 ? 3 : first >= 0xc2 && first < 0xe0 ? 2 : 0;
  if (!length || rest.length >= length || rest.some((one) => one < 0x80 || one >= 0xc0)) return "not UTF-8";
  const value = (all) => all.slice(1).reduce((sum, one) => sum * 64 + (one & 0x3f), all[0] & (0xff >> (length + 1)));
  const fill = (with_) => value([...bytes, ...Array(length - bytes.length).fill(with_)]);
  const [low, high] = [Math.max(fill(0x80), [0, 0, 0x80, 0x800, 0x10000][length]), Math.min(fill(0xbf), 0x10ffff)];
  if (low > high || (low >= 0xd800 && high < 0xe000)) return "not UTF-8";
  if (bytes.length === length) return String.fromCodePoint(low);
  const shown = (point) => `U+${point.toString(16).toUpperCase().padStart(4, "0")}`;
  return `${blockOf(low, high)}${shown(low)}–${shown(high)}`;
}

/** The name of the kind of characters between two code points, where one name covers them, and a blank. */
function blockOf(low, high) {
  const block = BLOCKS.find(([begin, end]) => begin <= low && high <= end);
  return block ? `${block[2]} ` : "";
}
