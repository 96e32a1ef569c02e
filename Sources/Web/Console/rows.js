// The list of events: newest first, bounded, drawn a few times a second however many come.

import { clock, count, decodeBase64, hex, make } from "./text.js";

const mostRows = 500;
const drawEvery = 150; // milliseconds
const readAloud = 3; // more than this many new rows at once are not announced
const longText = 400; // characters; longer payloads are folded
const mostText = 16_384; // characters of a payload that are drawn

/// `on.changed(seen, held)` is called when the number of events changes.
export class Rows {
  #list;
  #log;
  #empty;
  #on;
  #waiting = []; // newest last
  #timer = 0;
  #seen = 0;
  #held = 0; // events that came while paused
  #isPaused = false;
  #bytesAs = "hex";
  #shown = new WeakMap(); // row -> event, to draw it again

  constructor(list, log, empty, on) {
    this.#list = list;
    this.#log = log;
    this.#empty = empty;
    this.#on = on;
  }

  event(event) {
    this.#seen += 1;
    if (this.#isPaused) this.#held += 1;
    this.#add({ event, time: new Date() });
  }

  /// A line between the events: a gap, or that the connection was lost.
  mark(text, isGap = false) {
    this.#add({ text, isGap, time: new Date() });
  }

  get isPaused() {
    return this.#isPaused;
  }

  set isPaused(value) {
    this.#isPaused = value;
    if (!value) this.#held = 0;
    this.#soon();
  }

  /// How bytes that are no text are shown: hex or base64.
  set bytesAs(value) {
    this.#bytesAs = value;
    for (const row of this.#list.children) {
      const item = this.#shown.get(row);
      if (item?.event?.payload_base64 !== undefined) row.replaceWith(this.#row(item));
    }
  }

  clear() {
    this.#waiting = [];
    this.#list.replaceChildren();
    this.#seen = 0;
    this.#held = 0;
    this.#empty.hidden = false;
    this.#on.changed(0, 0);
  }

  #add(item) {
    this.#waiting.push(item);
    if (this.#waiting.length > 2 * mostRows) this.#waiting = this.#waiting.slice(-mostRows);
    this.#soon();
  }

  #soon() {
    if (this.#timer === 0) this.#timer = setTimeout(() => this.#draw(), drawEvery);
  }

  #draw() {
    this.#timer = 0;
    this.#on.changed(this.#seen, this.#held);
    if (this.#isPaused || this.#waiting.length === 0) return;
    const items = this.#waiting.slice(-mostRows).reverse();
    this.#waiting = [];
    // Nobody can listen to hundreds of events a second.
    this.#log.setAttribute("aria-live", items.length > readAloud ? "off" : "polite");
    this.#list.prepend(...items.map((item) => this.#row(item)));
    while (this.#list.children.length > mostRows) this.#list.lastElementChild.remove();
    this.#empty.hidden = true;
  }

  #row(item) {
    const time = make("time", "", clock(item.time));
    time.dateTime = item.time.toISOString();
    if (!item.event) return make("li", item.isGap ? "mark gap" : "mark", make("span", "", item.text), time);
    const row = make("li", "row", topic(item.event.topic), time, payload(item.event, this.#bytesAs));
    const list = properties(item.event);
    if (list.children.length > 0) row.append(list);
    this.#shown.set(row, item);
    return row;
  }
}

/// The topic with its levels set apart.
function topic(text) {
  const element = make("span", "topic");
  String(text).split("/").forEach((level, index) => {
    if (index > 0) element.append(make("i", "", "/"));
    element.append(level);
  });
  return element;
}

function payload(event, bytesAs) {
  if (event.payload_base64 !== undefined) {
    const bytes = decodeBase64(event.payload_base64);
    const shown = bytes.subarray(0, mostText / 4);
    const text = bytesAs === "hex" ? hex(shown) : event.payload_base64.slice(0, mostText);
    return folded(text, "payload bytes", count(bytes.length, "byte", "bytes"));
  }
  const text = event.payload ?? "";
  if (text === "") return make("div", "payload none", "no payload");
  return folded(text.slice(0, mostText), "payload", count(text.length, "character", "characters"));
}

/// Short text as it is, long text behind its beginning.
function folded(text, className, size) {
  const isShort = text.length <= longText && text.split("\n", 13).length <= 12;
  if (isShort) return make("div", className, text);
  const beginning = text.slice(0, 80).replaceAll("\n", " ");
  const summary = make("summary", "", `${beginning}… `, make("span", "quiet", size));
  const rest = make("div", className, text);
  if (text.length >= mostText) rest.append(make("span", "quiet", `… ${size} in all`));
  return make("details", "", summary, rest);
}

/// What is known about an event beside topic and payload, in the order of the API's description.
function properties(event) {
  const list = make("dl", "properties");
  const add = (name, value) => list.append(make("div", "", make("dt", "", name), make("dd", "", String(value))));
  if (event.qos) add("qos", event.qos);
  if (event.retained) add("retained", "yes");
  if (event.content_type !== undefined) add("content type", event.content_type);
  if (event.correlation !== undefined) add("correlation", event.correlation);
  if (event.correlation_base64 !== undefined) add("correlation", hex(decodeBase64(event.correlation_base64)));
  if (event.reply_to !== undefined) add("reply to", event.reply_to);
  if (event.message_id !== undefined) add("message id", event.message_id);
  if (event.ttl !== undefined) add("expires in", `${event.ttl.toLocaleString("en")} ms`);
  if (event.priority !== undefined) add("priority", event.priority);
  if (event.partition_key !== undefined) add("partition key", event.partition_key);
  for (const [name, value] of event.properties ?? []) add(name, value);
  return list;
}
