// The line that says what went wrong. Each kind of work takes back its own sentence when it next succeeds.

import { Trouble, server } from "./server.js";

const SLOW = "The server has not answered for 10 seconds. This page is still waiting.";
const sentences = new Map();

server.addEventListener("slow", ({ detail: slow }) => {
  if (slow) sentences.set("slow", new Trouble(SLOW, null));
  else sentences.delete("slow");
  show();
});

export function failed(kind, error) {
  if (error.name === "AbortError") return; // overtaken or stopped on purpose
  if (!(error instanceof Trouble)) throw error;
  sentences.set(kind, error);
  show();
}

export function succeeded(kind) {
  sentences.delete(kind);
  for (const [other, error] of sentences) if (error.status === 0) sentences.delete(other); // the server is there again
  show();
}

function show() {
  const line = document.getElementById("error");
  const said = [...new Set([...sentences.values()].map((error) => error.message))].join(" ");
  if (line.textContent !== said) line.textContent = said;
  line.hidden = said === "";
}
