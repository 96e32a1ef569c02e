// A live view of one filter: an EventSource that also says why it was refused, and that comes back by itself.

const longestWait = 15_000; // milliseconds between two attempts

/// Why events are missing, by the node's word for it.
const reasons = {
  window: "more came than the node keeps for those who are away",
  unknown: "the node does not know this stream any more",
  filters: "the stream had another filter",
};

/// Calls `on.state(state, detail)`, `on.event(object)` and `on.gap(reason)`. The states: connecting, live, lost (it
/// tries again), refused (it does not: the detail says why), stopped.
export class Stream {
  #on;
  #source = null;
  #filter = "";
  #timer = 0;
  #attempts = 0;
  #wasLive = false;
  #lastID = "";
  #question = null; // the request that asks for the reason of a refusal

  constructor(on) {
    this.#on = on;
  }

  get isOpen() {
    return this.#source !== null || this.#timer !== 0 || this.#question !== null;
  }

  /// Begins to listen, to nothing else any more.
  open(filter) {
    this.#end();
    this.#filter = filter;
    this.#attempts = 0;
    this.#wasLive = false;
    this.#lastID = "";
    this.#connect();
  }

  close() {
    this.#end();
    this.#on.state("stopped");
  }

  #end() {
    this.#source?.close();
    this.#source = null;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#question?.abort();
    this.#question = null;
  }

  get #url() {
    const place = this.#lastID ? `&last_event_id=${encodeURIComponent(this.#lastID)}` : "";
    return `/events?filter=${encodeURIComponent(this.#filter)}&format=json${place}`;
  }

  #connect() {
    this.#timer = 0;
    this.#on.state(this.#wasLive ? "lost" : "connecting");
    const source = new EventSource(this.#url);
    // After an interruption a browser says where it was; a new EventSource only knows the last event's id.
    const isAnew = this.#wasLive && this.#lastID === "";
    source.onopen = () => {
      if (isAnew && this.#attempts > 0) this.#on.gap("Events may be missing: the stream began anew.");
      this.#attempts = 0;
      this.#wasLive = true;
      this.#on.state("live");
    };
    source.onmessage = (message) => this.#take(message);
    source.addEventListener("gap", (message) => this.#gap(message));
    source.onerror = () => {
      if (source !== this.#source) return;
      if (source.readyState === EventSource.CONNECTING) return this.#on.state(this.#wasLive ? "lost" : "connecting");
      this.#source = null;
      this.#ask();
    };
    this.#source = source;
  }

  #take(message) {
    this.#lastID = message.lastEventId;
    let event;
    try {
      event = JSON.parse(message.data);
    } catch {
      return this.#on.gap("The node sent an event that is not JSON.");
    }
    this.#on.event(event);
  }

  #gap(message) {
    let reason = message.data;
    try {
      const word = JSON.parse(message.data).reason;
      reason = reasons[word] ?? word ?? reason;
    } catch {
      // Then it is text.
    }
    this.#on.gap(`Events are missing: ${reason}.`);
  }

  /// The EventSource has given up and does not tell why: ask once more, for the status and its detail.
  async #ask() {
    const question = new AbortController();
    this.#question = question;
    let refusal = null;
    try {
      const answer = await fetch(this.#url, { headers: { Accept: "text/event-stream" }, signal: question.signal });
      // 429 and 5xx pass; other refusals stay what they are until something is changed.
      if (answer.status >= 400 && answer.status < 500 && answer.status !== 429) refusal = await problem(answer);
    } catch {
      // Nobody is there, or this was closed.
    }
    if (question !== this.#question) return;
    question.abort();
    this.#question = null;
    if (refusal) return this.#on.state("refused", refusal);
    this.#attempts += 1;
    const wait = Math.min(1000 * 2 ** (this.#attempts - 1), longestWait);
    this.#on.state(this.#wasLive ? "lost" : "connecting");
    this.#timer = setTimeout(() => this.#connect(), wait);
  }
}

/// What an answer that is no success says, in one line.
export async function problem(answer) {
  try {
    const { title, detail } = await answer.json();
    return detail || title || `status ${answer.status}`;
  } catch {
    return `status ${answer.status} ${answer.statusText}`.trim();
  }
}
