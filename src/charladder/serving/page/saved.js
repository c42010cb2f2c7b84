// The text and the cursor outlive a reload of the page: they are kept for this tab, by the browser, until it is closed.

const TEXT = "text";
const CURSOR = "cursor";
const PAUSE = 300; // ms

let timer = 0;
let waiting = null;

/** What was saved: {text, cursor}; null in a new tab. */
export function saved() {
  const text = sessionStorage.getItem(TEXT);
  return text === null ? null : { text, cursor: Number(sessionStorage.getItem(CURSOR)) || 0 };
}

/** Saves `{text, cursor}` in a moment. */
export function save(sheet) {
  waiting = sheet;
  clearTimeout(timer);
  timer = setTimeout(write, PAUSE);
}

function write() {
  if (!waiting) return;
  try {
    sessionStorage.setItem(TEXT, waiting.text);
    sessionStorage.setItem(CURSOR, waiting.cursor);
  } catch {
    sessionStorage.removeItem(TEXT); // longer than the browser keeps
  }
  waiting = null;
}

addEventListener("pagehide", write);
