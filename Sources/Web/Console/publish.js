// Publishing over REST: the request, what its answer means, and the same as a command.

import { problem } from "./stream.js";
import { shellWord } from "./text.js";

const patience = 30_000; // milliseconds

/// The path that publishes to a topic. Slashes stay, except where a level is `.` or `..`: a browser would take these
/// for directories, and an escaped slash separates levels as well.
function path(topic) {
  const escaped = encodeURIComponent(topic);
  const hasDots = topic.split("/").some((level) => level === "." || level === "..");
  return `/TOPIC/${hasDots ? escaped : escaped.replaceAll("%2F", "/")}`;
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
  let answer;
  try {
    answer = await fetch(path(event.topic), {
      method: "POST",
      headers: headers(event),
      // Bytes, because a text would get a content type that nobody asked for.
      body: new TextEncoder().encode(event.payload),
      signal: AbortSignal.timeout(patience),
    });
  } catch (error) {
    const isLate = error.name === "TimeoutError";
    return { refusal: isLate ? `No answer in ${patience / 1000} seconds.` : "The node does not answer. Is it running?" };
  }
  if (!answer.ok) return { refusal: await problem(answer) };
  return { answer: await answer.json() };
}

/// The command that does the same.
export function curl(event, origin) {
  const words = ["curl"];
  for (const [name, value] of Object.entries(headers(event))) words.push("-H", shellWord(`${name}: ${value}`));
  if (!event.contentType) words.push("-H", "Content-Type:");
  words.push("--data-raw", shellWord(event.payload));
  words.push(shellWord(origin + path(event.topic)));
  return words.join(" ");
}
