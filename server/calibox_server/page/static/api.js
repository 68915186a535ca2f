// What is asked of the server. Addresses are relative, so that the page also works below a path.

/** A refusal; `message` is the sentence for the person, `code` the server's stable one. */
export class Refusal extends Error {
  constructor(message, { code = "", status = 0 } = {}) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/** Every version of every model, as `GET /v1/models` says. */
export async function listModels(key) {
  return (await (await ask("v1/models", { key })).json()).models;
}

/** A model's example picture as `{blob, name}`. */
export async function fetchExample(model, key) {
  const path = `v1/models/${encodeURIComponent(model.name)}/example?version=${encodeURIComponent(model.version)}`;
  return { blob: await (await ask(path, { key })).blob(), name: model.example };
}

/** Detections of one picture: `{width, height, detections, stages, roundTrip}`; stages as [name, ms]. */
export async function detect(blob, query, key, signal) {
  const started = performance.now();
  const answer = await ask(`v1/detect?${query}`, {
    key,
    signal,
    method: "POST",
    body: blob,
    headers: { "Content-Type": mediaType(blob) },
  });
  const [result] = (await answer.json()).results;
  const stages = readServerTiming(answer.headers.get("Server-Timing") ?? "");
  return { ...result, stages, roundTrip: performance.now() - started };
}

/** The content type that a picture is sent with. */
export function mediaType(blob) {
  return blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
}

/** `decode;dur=1.5, queue;dur=0.1` as [["decode", 1.5], ["queue", 0.1]]; entries without a time are left out. */
export function readServerTiming(header) {
  return header
    .split(",")
    .map((entry) => [entry.split(";")[0].trim(), Number(/;\s*dur="?([0-9.]+)/.exec(entry)?.[1] ?? NaN)])
    .filter(([, ms]) => Number.isFinite(ms));
}

async function ask(path, { key, headers = {}, ...options }) {
  const authorization = key ? { Authorization: `Bearer ${key}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers, ...authorization }, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server cannot be reached, or closed the connection while the picture was sent; try again.");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  const sentence = problem.detail ?? `The server answered ${answer.status} without a reason; its log may have one.`;
  throw new Refusal(sentence, { code: problem.code, status: answer.status });
}
