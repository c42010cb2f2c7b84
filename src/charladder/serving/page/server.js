// The server's addresses. What goes wrong becomes a Trouble with one sentence for the person.

const PATIENCE = 10_000; // ms without an answer after which the person is told

let token = "";
let slow = 0; // requests that have waited for longer than PATIENCE

/** Sends "slow" with true when a request has waited for too long, and with false when none does any more. */
export const server = new EventTarget();

export class Trouble extends Error {
  constructor(message, status) {
    super(message);
    this.status = status; // 0: nobody answered
  }
}

/** The token lives here and nowhere else: it is gone with the page. */
export function useToken(given) {
  token = given;
}

async function call(path, body, signal) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const request = { method: body ? "POST" : "GET", headers, signal };
  if (body) request.body = JSON.stringify(body);
  let answer;
  try {
    answer = await timed(fetch(path, request));
  } catch (error) {
    throw unreachable(error);
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Trouble(sentence(answer.status, said?.error?.message), answer.status);
}

/** What an answer that is an error means, and what the person can do. */
function sentence(status, message) {
  const reason = message ? `: ${message.replace(/[.\s]+$/, "")}.` : ".";
  if (status === 401) return `The server did not accept the token${reason}`;
  if (status === 429 || status === 503) return "The server is busy with other requests. This page tries again in a moment.";
  if (status === 408 || status === 504) return `The server took too long, try a shorter text${reason}`;
  if (status >= 500) return `The server failed with error ${status}${reason}`;
  return `The server refused this (${status})${reason}`;
}

/** The result of `promise`; says on the way when it takes too long. */
async function timed(promise) {
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    count(1);
  }, PATIENCE);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    if (late) count(-1);
  }
}

function count(change) {
  slow += change;
  server.dispatchEvent(new CustomEvent("slow", { detail: slow > 0 }));
}

function unreachable(error) {
  if (error.name === "AbortError" || error instanceof Trouble) return error;
  return new Trouble("The server cannot be reached, or broke off its answer. Is it still running?", 0);
}

/** The JSON answer of `path`; a POST where there is a body. */
export async function ask(path, body, signal) {
  const answer = await call(path, body, signal);
  try {
    return await timed(answer.json());
  } catch (error) {
    throw unreachable(error);
  }
}

/** The events of a streamed answer, one object at a time, until the server says that it is done. */
export async function* listen(path, body, signal) {
  const answer = await call(path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { value, done } = await timed(reader.read());
      if (done) throw new TypeError("the answer ended before its end");
      const events = (waiting + value).split(/\r?\n\r?\n/);
      waiting = events.pop();
      for (const event of events) {
        if (!event.startsWith("data:")) continue;
        const data = event.slice(5).trim();
        if (data === "[DONE]") return;
        const said = JSON.parse(data);
        if (said.error) throw new Trouble(said.error.message, 200);
        yield said;
      }
    }
  } catch (error) {
    throw unreachable(error);
  } finally {
    reader.cancel().catch(() => {}); // whoever stops listening closes the connection, and the server stops its work
  }
}
