// Colour levels of bits, and their legend.

/** The bits at which each level but the first begins. */
const BEGINNINGS = [0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10];
export const NONE = BEGINNINGS.length + 1; // not scored: no colour
export const UNKNOWN = NONE + 1; // not in the alphabet of the network

export function level(bits) {
  let place = 0;
  while (place < BEGINNINGS.length && bits >= BEGINNINGS[place]) place += 1;
  return place;
}

export function drawLegend(list) {
  const shown = (bits) => String(bits).replace("0.25", "¼").replace("0.5", "½").replace(".5", "½");
  [0, ...BEGINNINGS].forEach((bits, place) => {
    const item = document.createElement("li");
    item.className = `b${place}`;
    item.textContent = shown(bits) + (place === BEGINNINGS.length ? "+" : "");
    list.append(item);
  });
}
