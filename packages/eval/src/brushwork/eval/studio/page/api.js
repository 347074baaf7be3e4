/** The server's side of the studio: questions with an answer, streams of events, downloads, and being there. */

const anyName = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// Kept with the tab, so that a page that is loaded again is the same client. A tab that is duplicated takes the name
// along: the two are one client then, and draw one after the other.
const CLIENT = sessionStorage.getItem("client") ?? anyName();
sessionStorage.setItem("client", CLIENT);

const LOST = "The studio does not answer. Is the server still running?";

/** What the server would not do, in its own words. */
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function request(path, { method = "GET", body, signal } = {}) {
  const headers = { "X-Client": CLIENT };
  if (method !== "GET") headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(LOST);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw new Refused(said?.message ?? `The server answered ${response.status} ${response.statusText}.`, response.status);
}

export const get = async (path) => (await request(path)).json();

export async function post(path, body = {}) {
  return (await request(path, { method: "POST", body })).json().catch(() => null);
}

export const remove = (path) => request(path, { method: "DELETE" });

/** The lines of an NDJSON answer, as they arrive. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(LOST);
    }
    if (piece.done) return;
    const parts = (rest + piece.value).split("\n");
    rest = parts.pop();
    for (const line of parts) if (line.trim()) yield JSON.parse(line);
  }
}

/** Has a drawing go on, and yields what happens to it. */
export async function* goOn(drawing, body, signal) {
  yield* lines(await request(`/api/drawings/${drawing}/go`, { method: "POST", body, signal }));
}

/** Fetches a file and hands it to the browser's downloads; what the server refuses is thrown, not saved. */
export async function download(path, name) {
  const url = URL.createObjectURL(await (await request(path)).blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Tells the server for as long as the page is open that somebody is there. */
export async function stay(onQueue, onLost) {
  for (;;) {
    try {
      for await (const line of lines(await request("/api/presence"))) onQueue(line.queue);
    } catch (error) {
      onLost(error);
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
