// Example texts in the alphabet of the network.

const EXAMPLES = [
  {
    name: "Prose",
    text:
      "The harbour was quiet that morning. Gulls walked along the wall, and the keeper of the lighthouse wrote " +
      "in his book that the harbour was quiet.",
  },
  { name: "Code", text: "def add(first, second):\n    return first + second\n\ndef subtract(first, second):\n    return first * second\n" },
  { name: "A broken pattern", text: "one two three, one two three, one two three, one two four, one two three" },
];

/** The characters of a text that are in `letters`: {text, points}, where `points` are their code points in the text.
 * `letters`: a Set, or null for all characters. */
export function spelled(text, letters) {
  const kept = [];
  const points = [];
  let point = 0;
  for (const letter of text) {
    if (!letters || letters.has(letter)) {
      kept.push(letter);
      points.push(point);
    }
    point += 1;
  }
  return { text: letters ? kept.join("") : text, points };
}

/** The examples for an alphabet (a string of its letters; undefined for bytes). For an alphabet that lacks
 * most of their letters, such as that of DNA, a pattern of its own letters. */
export function examplesFor(alphabet) {
  if (!alphabet) return EXAMPLES;
  const letters = new Set(alphabet);
  const fits = EXAMPLES.map(({ name, text }) => {
    const lower = [...text].map((letter) => (letters.has(letter) ? letter : letter.toLowerCase())).join("");
    return { name, text: spelled(lower, letters).text, whole: text.length };
  }).filter(({ text, whole }) => text.length > whole / 2);
  if (fits.length) return fits;
  const some = [...letters].slice(0, 6);
  return [{ name: "A broken pattern", text: some.join("").repeat(6) + some.toReversed().join("") }];
}
