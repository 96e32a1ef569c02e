// Publishing over REST: the request, what its answer means, and the same as a command.

import { problem } from "./stream.js";
import { shellWord } from "./text.js";

const patience = 30_000; // milliseconds

/// The path that publishes to a topic.
function path(topic) {
  return `/TOPIC/${encodeURIComponent(topic).replaceAll("%2F", "/")}`;
}

/// Whether a topic has a level that HTTP clients take for a directory, and leave out of a path.
function hasDots(topic) {
  return topic.split("/").some((level) => level === "." || level === "..");
}

function headers(event) {
  const list = {};
  if (event.contentType) list["Content-Type"] = event.contentType;
  if (event.isRetained) list["Apus-Retain"] = "true";
  if (event.isGuaranteed) list["Apus-Delivery-Mode"] = "guaranteed";
  return list;
}

/// `event` has topic, payload, contentType, isRetained, isGuaranteed. Returns `{ answer }`, the node's document, or
/// `{ refusal }`, the reason in one line.
export async function publish(event) {
  const request = hasDots(event.topic) ? asBatch(event) : asPayload(event);
  let answer;
  try {
    answer = await fetch(request.path, {
      method: "POST", headers: request.headers, body: request.body, signal: AbortSignal.timeout(patience),
    });
  } catch (error) {
    const isLate = error.name === "TimeoutError";
    return { refusal: isLate ? `No answer in ${patience / 1000} seconds.` : "The node does not answer. Is it running?" };
  }
  if (!answer.ok) return { refusal: await problem(answer) };
  const document = await answer.json();
  const item = document.items ? document.items[0] : document;
  return item.detail ? { refusal: item.detail } : { answer: item };
}

function asPayload(event) {
  // Bytes, because a text would get a content type that nobody asked for.
  return { path: path(event.topic), headers: headers(event), body: new TextEncoder().encode(event.payload) };
}

/// The same as a batch of one, where the topic is not in the path.
function asBatch(event) {
  const item = { topic: event.topic, payload: event.payload };
  if (event.contentType) item.content_type = event.contentType;
  if (event.isRetained) item.retained = true;
  if (event.isGuaranteed) item.qos = 1;
  return { path: "/events", headers: { "Content-Type": "application/x-ndjson" }, body: JSON.stringify(item) };
}

/// The command that does the same.
export function curl(event, origin) {
  const words = ["curl"];
  for (const [name, value] of Object.entries(headers(event))) words.push("-H", shellWord(`${name}: ${value}`));
  if (!event.contentType) words.push("-H", "Content-Type:");
  if (hasDots(event.topic)) words.push("--path-as-is");
  words.push("--data-raw", shellWord(event.payload));
  words.push(shellWord(origin + path(event.topic)));
  return words.join(" ");
}
