// Saves the text and the cursor in the session storage of the tab, so that they survive a reload.

const TEXT = "text";
const CURSOR = "cursor";
const SAVE_DELAY = 300; // ms

let timer = 0;
let waiting = null;

/** The saved {text, cursor}; null in a new tab. */
export function load() {
  const text = sessionStorage.getItem(TEXT);
  return text === null ? null : { text, cursor: Number(sessionStorage.getItem(CURSOR)) || 0 };
}

/** Saves `{text, cursor}` after a short delay. */
export function save(editor) {
  waiting = editor;
  clearTimeout(timer);
  timer = setTimeout(write, SAVE_DELAY);
}

function write() {
  if (!waiting) return;
  try {
    sessionStorage.setItem(TEXT, waiting.text);
    sessionStorage.setItem(CURSOR, waiting.cursor);
  } catch {
    sessionStorage.removeItem(TEXT); // more than the browser stores
  }
  waiting = null;
}

addEventListener("pagehide", write);
