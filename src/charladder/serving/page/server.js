// The server's addresses. What goes wrong becomes a Trouble with one sentence for the person.

let token = "";

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
    answer = await fetch(path, request);
  } catch (error) {
    throw unreachable(error);
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Trouble(said?.error?.message ?? `The server answered ${answer.status} and did not say why.`, answer.status);
}

function unreachable(error) {
  if (error.name === "AbortError" || error instanceof Trouble) return error;
  return new Trouble("The server cannot be reached, or broke off its answer. Is it still running?", 0);
}

/** The JSON answer of `path`; a POST where there is a body. */
export async function ask(path, body, signal) {
  const answer = await call(path, body, signal);
  try {
    return await answer.json();
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
      const { value, done } = await reader.read();
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
