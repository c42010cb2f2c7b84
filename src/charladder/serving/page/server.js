// Requests to the server. Failures become a ServerError with one sentence for the user.

const SLOW_MS = 10_000; // without a response, after which the page says so

let token = "";
let slow = 0; // requests that have waited for longer than SLOW_MS

/** Sends "slow": true when a request has waited too long, false when none waits any more. */
export const server = new EventTarget();

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status; // 0: no response
  }
}

/** Sets the token. It is never stored, so it is lost with the page. */
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
  throw new ServerError(sentence(answer.status, said?.error?.message), answer.status);
}

/** The meaning of an error status, and what the user can do. */
function sentence(status, message) {
  const reason = message ? `: ${message.replace(/[.\s]+$/, "")}.` : ".";
  if (status === 401) return `The server did not accept the token${reason}`;
  if (status === 429 || status === 503) return "The server is busy with other requests. This page tries again in a moment.";
  if (status === 408 || status === 504) return `The server took too long, try a shorter text${reason}`;
  if (status >= 500) return `The server failed with error ${status}${reason}`;
  return `The server refused this (${status})${reason}`;
}

/** The result of `promise`. Sends "slow" if it takes too long. */
async function timed(promise) {
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    count(1);
  }, SLOW_MS);
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
  if (error.name === "AbortError" || error instanceof ServerError) return error;
  return new ServerError("The server cannot be reached, or closed the connection. Is it still running?", 0);
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
      if (done) throw new TypeError("the stream ended early");
      const events = (waiting + value).split(/\r?\n\r?\n/);
      waiting = events.pop();
      for (const event of events) {
        if (!event.startsWith("data:")) continue;
        const data = event.slice(5).trim();
        if (data === "[DONE]") return;
        const said = JSON.parse(data);
        if (said.error) throw new ServerError(said.error.message, 200);
        yield said;
      }
    }
  } catch (error) {
    throw unreachable(error);
  } finally {
    reader.cancel().catch(() => {}); // closes the connection, so that the server stops
  }
}
