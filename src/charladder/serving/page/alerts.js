// The alert line. Each kind of request removes its own message when it next succeeds.

import { ServerError, server } from "./server.js";

const SLOW = "The server has not answered for 10 seconds. This page is still waiting.";
const sentences = new Map();

server.addEventListener("slow", ({ detail: slow }) => {
  if (slow) sentences.set("slow", new ServerError(SLOW, null));
  else sentences.delete("slow");
  show();
});

export function failed(kind, error) {
  if (error.name === "AbortError") return; // replaced by a newer request, or stopped by the user
  if (!(error instanceof ServerError)) throw error;
  sentences.set(kind, error);
  show();
}

export function succeeded(kind) {
  sentences.delete(kind);
  for (const [other, error] of sentences) if (error.status === 0) sentences.delete(other); // the server responds again
  show();
}

function show() {
  const line = document.getElementById("error");
  const said = [...new Set([...sentences.values()].map((error) => error.message))].join(" ");
  if (line.textContent !== said) line.textContent = said;
  line.hidden = said === "";
}
