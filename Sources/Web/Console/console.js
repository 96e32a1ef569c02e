// The page: wires the two forms to the node.

import { curl, publish } from "./publish.js";
import { Rows } from "./rows.js";
import { Stream } from "./stream.js";
import { count, make } from "./text.js";

const element = (id) => document.getElementById(id);

// Which node this is.

async function showNode() {
  const answer = await fetch("/console/node.json");
  if (!answer.ok) return;
  const { name, version } = await answer.json();
  element("node-name").textContent = name;
  element("node-version").textContent = `Apus ${version}`;
  document.title = `${name} – Apus`;
}

// Publishing.

const form = element("publish-form");
const result = element("result");
const button = element("publish-button");
let isPublishing = false;

function draft() {
  return {
    topic: element("topic").value,
    payload: element("payload").value,
    contentType: element("content-type").value.trim(),
    isRetained: element("retain").checked,
    isGuaranteed: element("guaranteed").checked,
  };
}

function showCommand() {
  element("curl").textContent = curl(draft(), location.origin);
}

function showResult({ answer, refusal }) {
  result.classList.toggle("refused", refusal !== undefined);
  if (refusal !== undefined) {
    result.replaceChildren(make("p", "", make("strong", "", "Not published. "), refusal));
    return;
  }
  const matched = answer.matched === 0
    ? "Nobody has subscribed to it" : `Matches ${count(answer.matched, "subscription", "subscriptions")}`;
  const stored = answer.stored ? `, stored in ${answer.stored}` : "";
  const id = make("span", "code", answer.id);
  result.replaceChildren(
    make("p", "", make("strong", "", "Published. "), `${matched}${stored}.`), make("p", "quiet", "id ", id));
}

form.addEventListener("submit", async (submit) => {
  submit.preventDefault();
  if (isPublishing) return;
  isPublishing = true;
  // Not `disabled`: that would take the focus away.
  button.setAttribute("aria-disabled", "true");
  showResult(await publish(draft()));
  button.setAttribute("aria-disabled", "false");
  isPublishing = false;
});

element("payload").addEventListener("keydown", (key) => {
  if (key.key === "Enter" && (key.ctrlKey || key.metaKey)) {
    key.preventDefault();
    form.requestSubmit();
  }
});
form.addEventListener("input", showCommand);

// Listening.

const words = {
  connecting: "connecting…",
  live: "live",
  lost: "connection lost, trying again…",
  refused: "refused",
  stopped: "not listening",
};
const filterField = element("filter");
const listen = element("listen");
let lostAt = 0;

const rows = new Rows(element("rows"), element("log"), element("empty"), {
  changed(seen, held) {
    const waiting = held > 0 ? `, ${count(held, "waits", "wait")}` : "";
    element("count").textContent = seen === 0 ? "" : count(seen, "event", "events") + waiting;
  },
});

const stream = new Stream({
  state(state, detail) {
    const was = element("state").dataset.state;
    element("state").dataset.state = state;
    element("state-text").textContent = detail ? `${words[state]}: ${detail}` : words[state];
    if (state === "lost" && was === "live") {
      lostAt = Date.now();
      rows.mark("Connection lost.");
    }
    if (state === "live" && lostAt > 0) {
      rows.mark(`Live again after ${((Date.now() - lostAt) / 1000).toFixed(1)} s.`);
      lostAt = 0;
    }
    showButton();
  },
  event: (event) => rows.event(event),
  gap: (reason) => rows.mark(reason, true),
});

let listensTo = null;

/// One button: it listens to another filter, and stops the one that is listened to.
function showButton() {
  listen.textContent = stream.isOpen && filterField.value === listensTo ? "Stop" : "Listen";
}

function start() {
  listensTo = filterField.value;
  lostAt = 0;
  rows.clear();
  stream.open(listensTo);
  showButton();
}

element("filter-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  if (stream.isOpen && filterField.value === listensTo) {
    stream.close();
  } else {
    start();
    // The address is the view: it can be kept and sent.
    history.replaceState(null, "", `?filter=${encodeURIComponent(listensTo)}`);
  }
});
filterField.addEventListener("input", showButton);

element("pause").addEventListener("click", ({ currentTarget }) => {
  rows.isPaused = !rows.isPaused;
  currentTarget.setAttribute("aria-pressed", String(rows.isPaused));
});
element("clear").addEventListener("click", () => rows.clear());
element("bytes").addEventListener("change", ({ currentTarget }) => (rows.bytesAs = currentTarget.value));

filterField.value = new URLSearchParams(location.search).get("filter") || filterField.value;
showCommand();
start();
await showNode();
