#!/usr/bin/env python3
"""Proves docs/mapping.md: an event published over each protocol is received over each, on the same node and two hops
away, and every field is what mapping.py says. Senders and receivers are third-party clients: Paho, Qpid Proton, the
library `websockets`, curl, and an HTTP server for webhooks.

    matrix.py                          all of it
    matrix.py --sabotage=expected      one field of one expectation is altered: this must fail
    matrix.py --sabotage=received      the same of one event that was received

Nothing here knows of pairs: what must arrive is computed. Run it with the interpreter that python.sh prints."""

import json
import sys
import time
import urllib.request

import mapping
import matrix_clients as clients
from mapping import NAMES, RECEIVERS, SENDERS, arrives, new_event, sayable, select
from node import PATIENCE, Node, check, main
from proton_client import rest, until
from web import BINARY, MEBIBYTE

# How much of an event's time may be used up on its way, in milliseconds.
SLOWEST = 55_000
# What is to expire does so after this.
SHORT = 1_000
SHOWN = 40
# Which of the events that arrive is altered on demand.
SABOTAGED = 1_000
CHAIN = """mesh:
  id: matrix
  listen: "127.0.0.1:{port}"
  join: configured
  profile: satellite
{links}limits: {{ max_stream_window: 64MiB }}
"""


class ChainedNode(Node):
    """A node of the chain."""

    def __init__(self, name, target=None):
        super().__init__(http=True, amqp=True)
        self.name, self.target = name, target
        self.ports["mesh"] = 0

    def configuration(self, base):
        links = f'  links: [{{ to: "127.0.0.1:{self.target.ports["mesh"]}" }}]\n' if self.target else ""
        lines = super().configuration(base).replace("name: interop,", f"name: {self.name},", 1)
        return lines + CHAIN.format(port=self.ports["mesh"], links=links)


# --- Cases

PAIRS = [("b", "1"), ("a", "2"), ("b", "1"), ("clé ", " 日本 🐝% "), ("empty", ""), ("b", "3"), ("quote", '"\\;,')]
TRACING = [
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "a=1,b=%20"),
    ("baggage", "user=%C3%BC"),
]
ATTRIBUTES = [
    ("specversion", "1.0"), ("id", "A 1%"), ("source", "/plant/press-4"), ("type", "com.example.döör"),
    ("subject", "press \"4\""), ("ext1", "日本"),
]
PLAIN = "text/plain; charset=utf-8"
TEXT = "grüezi 🐝\nzwei".encode()
EVERYTHING = {
    "payload": TEXT, "text": True, "content_type": PLAIN, "correlation": b"42 of 43", "reply_to": "reply/ü/x",
    "message_id": "mine 7", "expiry": 600_000, "priority": 9, "partition_key": "key ü%",
    "properties": PAIRS + TRACING,
}
# What waits for who is not there.
WAITING = ("everything", "bytes", "cloudevent of text", "foreign", "properties", "message id")
# Name, fields; `cloudevent` cases are the only ones that a structured CloudEvent can say.
CASES = [
    ("text", {"payload": TEXT, "text": True}),
    ("text that nobody calls so", {"payload": TEXT}),
    ("text with NUL", {"payload": b"a\0b", "text": True}),
    ("lines", {"payload": b"1\r\n2\r3\n\n4\n", "text": True}),
    ("bytes", {"payload": BINARY}),
    ("nothing", {"payload": b""}),
    ("nothing, but text", {"payload": b"", "text": True}),
    ("one byte", {"payload": b"\xff"}),
    ("mebibyte", {"payload": MEBIBYTE}),
    ("type of bytes", {"payload": BINARY, "content_type": "application/x-thing; a=b"}),
    ("type of text", {"payload": TEXT, "content_type": PLAIN}),
    ("type of text, called so", {"payload": TEXT, "content_type": "text/csv", "text": True}),
    ("type of JSON", {"payload": b' {"a": 1 }\n', "content_type": "application/json"}),
    ("type that is not ASCII", {"payload": b"x", "content_type": 'text/plain; title="ü 100%"'}),
    ("type that is wrong", {"payload": b"\xff\xfe", "content_type": "text/plain"}),
    ("correlation", {"correlation": b"42 of 43"}),
    ("correlation, not ASCII", {"correlation": "ü%".encode()}),
    ("correlation, bytes", {"correlation": bytes(range(0, 256, 5))}),
    ("reply to", {"reply_to": "reply/ü/a b%"}),
    ("message id", {"message_id": "mine ü%"}),
    ("expiry", {"expiry": 60_000}),
    ("priority", {"priority": 9}),
    ("lowest priority", {"priority": 0}),
    ("highest priority", {"priority": 255}),
    ("expiry of fractions", {"expiry": 60_500}),
    ("partition key", {"partition_key": "key ü%"}),
    ("partition key and others", {"partition_key": "k", "properties": [("a", "1"), ("z", "2")]}),
    ("partition key and another", {"partition_key": "k", "properties": [("a", "1"), ("partitionkey", "no key")]}),
    ("one property", {"properties": [("line", "7")]}),
    ("properties", {"properties": PAIRS}),
    ("names of properties", {"properties": [
        ("Group-Id", "x"), ("a:b", "1"), ("ce-x", "2"), ("ä%(", "3"), ("", "nameless")]}),
    ("trace", {"properties": TRACING}),
    ("everything", EVERYTHING),
    ("everything, direct", {**EVERYTHING, "payload": BINARY, "text": None, "content_type": "image/x", "qos": 0}),
    ("everything, QoS 2", {**EVERYTHING, "qos": 2}),
    ("direct", {"payload": b"direct", "qos": 0}),
    ("QoS 2", {"payload": b"exactly once", "qos": 2}),
    ("cloudevent of JSON", {
        "payload": b'{"a": [1, 2 ]}', "text": True, "content_type": "application/json", "properties": ATTRIBUTES}),
    ("cloudevent of text", {
        "payload": TEXT, "text": True, "content_type": "text/plain", "properties": ATTRIBUTES,
        "partition_key": "key ü%", "expiry": 60_000, "priority": 3, "correlation": b"c"}),
    ("cloudevent of bytes", {
        "payload": BINARY, "content_type": "application/x-thing", "properties": ATTRIBUTES, "qos": 0}),
    ("cloudevent and others", {
        "payload": b"1", "content_type": "text/x", "properties": [*ATTRIBUTES, ("Line", "7"), ("id", "again")]}),
    ("cloudevent by half", {"payload": b"1", "properties": ATTRIBUTES[1:]}),
    ("foreign", {"payload": b"x", "foreign": {
        "subject": "the subject", "user_id": b"somebody", "group_sequence": 7, "creation_time": 1.5,
        "reply_to_group_id": "group", "annotation": "kept"}}),
    ("durable", {"payload": b"x", "durable": True}),
    ("durable and direct", {"payload": b"x", "durable": True, "qos": 0}),
    ("topic/ä b/%41/~", {"payload": b"x"}),
    ("topic//$x/", {"payload": b"x"}),
    ("topic/*/red*/>", {"payload": b"x"}),
]


def can_say(sender, case, event):
    """Whether a sender takes part: others than structured CloudEvents always do, and leave out what they cannot say."""
    if case == "type that is not ASCII":
        return sender.protocol in ("mqtt5", "json", "http")
    if "*" in case:
        # A sender's address is no filter, and might be meant for one (docs/amqp.md).
        return sender.protocol not in ("amqp", "structured")
    return sender.protocol != "structured" or (event["cloudevents"] and case != "cloudevent and others")


# --- Comparing

class Judge:
    """Compares what arrives with what must, field by field, and keeps what is wrong."""

    def __init__(self, sabotage=None):
        self.sabotage, self.comparisons, self.events, self.wrong = sabotage, 0, 0, []
        self.pairs = set()

    def compare(self, sender, receiver, hops, case, wanted, got):
        self.events += 1
        self.pairs.add((sender.name, receiver.name, hops))
        if self.sabotage and self.events == SABOTAGED:
            altered = wanted if self.sabotage == "expected" else got
            altered["reply_to"] = "sabotage"
        for name in NAMES:
            self.comparisons += 1
            if not same(name, wanted[name], got[name]):
                self.note(sender, receiver, hops, case, name, wanted[name], got[name])

    def note(self, sender, receiver, hops, case, field, wanted, got):
        where = "same node" if hops == 0 else f"{hops} hops"
        self.wrong.append(
            f"{sender.title} -> {receiver.title}, {where}, {case}: {field}: wanted {shown(wanted)}, got {shown(got)}")

    def verdict(self):
        for words in self.wrong[:SHOWN]:
            print(words, file=sys.stderr)
        check(not self.wrong, f"{len(self.wrong)} of {self.comparisons} comparisons failed")


def shown(value):
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:400]}… ({len(value)} long)"


def same(name, wanted, got):
    if name == "expiry" and wanted is not None:
        return isinstance(got, int) and wanted - SLOWEST < got <= wanted
    if isinstance(wanted, list) and isinstance(got, list):
        return [tuple(pair) for pair in wanted] == [tuple(pair) for pair in got]
    return wanted == got


# --- Running

class Matrix:
    def __init__(self, near, far, judge):
        self.nodes = {0: near, 2: far}
        self.judge = judge
        self.senders = {sender: clients.sender(sender.name, near, f"sender {sender.name}") for sender in SENDERS}
        self.said = {}

    def receivers(self, round_, filters, kinds=lambda carrier: True, waits=False):
        """A receiver of each kind on both nodes, by carrier and hops."""
        return {
            (carrier, hops): clients.receiver(carrier.name, node, f"{round_}-{carrier.name}-{hops}", filters, waits)
            for hops, node in self.nodes.items() for carrier in RECEIVERS
            if carrier.name != "get" and kinds(carrier)
        }

    def send(self, sender, topic, event):
        event = select(sayable(sender, {**event, "topic": topic}))
        told = self.senders[sender].send(event)
        if sender.protocol in mapping.NAMING:
            check(told, f"{topic}: the node told no id")
        self.said[topic] = (sender, event, told, time.monotonic())

    def collect(self, receivers, topics, got):
        """Waits until all receivers have seen all topics; `got` collects everything."""
        def missing():
            for key, receiver in receivers.items():
                for event in receiver.take():
                    got.setdefault(key, {}).setdefault(event["topic"], []).append(event)
            return [(key, topic) for key in receivers for topic in topics if topic not in got.get(key, {})]

        start = time.monotonic()
        while (left := missing()) and time.monotonic() < start + PATIENCE:
            rest(0.01)
        return left

    def ready(self, receivers, prefix):
        """Waits until what is published at the near node reaches all receivers."""
        sender, number, got = self.senders[SENDERS[0]], 0, {}
        while True:
            topic = f"{prefix}/probe/{number}"
            sender.send(new_event(topic=topic))
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                for key, receiver in receivers.items():
                    got.setdefault(key, set()).update(event["topic"] for event in receiver.take())
                if all(got.get(key) for key in receivers):
                    return
                rest(0.01)
            number += 1
            check(number < 400, f"not subscribed: {[key[0].name for key in receivers if not got[key]]}")

    def judge_all(self, receivers, got, cases, until_when=None, is_kept=False, may_miss=()):
        """Compares all that was said under these topics with what came: at once, or not before it had waited so long.
        `is_kept`: because its topic had kept it."""
        for (carrier, hops), receiver in receivers.items():
            came = got.get((carrier, hops), {})
            for topic, case in cases.items():
                sender, event, told, sent = self.said[topic]
                found = came.pop(topic, [])
                if len(found) != 1 and (found or topic not in may_miss):
                    self.judge.note(sender, carrier, hops, case, "the event", "once", f"{len(found)} times")
                for one in found[:1]:
                    wanted = arrives(sender, carrier, event, told, is_kept)
                    if until_when is not None and wanted["expiry"] is not None:
                        # What is left, rounded up to seconds by some.
                        wanted["expiry"] -= int((until_when - sent) * 1000) - 1000
                    self.judge.compare(sender, carrier, hops, case, wanted, one)
            for topic in came:
                if "/probe/" not in topic:
                    self.judge.note(SENDERS[0], carrier, hops, topic, "the event", "nothing", came[topic][0])

    def live(self):
        """Every case to receivers that are there."""
        receivers = self.receivers("live", ["m/#"])
        self.ready(receivers, "m")
        cases, got = {}, {}
        for case, fields in CASES:
            event = new_event(**fields)
            topics = []
            for sender in self.senders:
                if not can_say(sender, case, event):
                    continue
                topics.append(f"m/{sender.name}/{case}")
                self.send(sender, topics[-1], event)
                if len(event["payload"]) >= 1 << 20:
                    self.collect(receivers, topics, got)
            cases.update(dict.fromkeys(topics, case))
        self.collect(receivers, cases, got)
        # A moment for what comes twice.
        rest(0.3)
        self.collect(receivers, [], got)
        self.judge_all(receivers, got, cases)
        for receiver in receivers.values():
            receiver.close()
        return f"{len(receivers)} receivers, {len(cases)} events"

    def kept(self):
        """What topics keep: for those who are there an event like others, for later ones marked, then deleted. What has
        a short time is gone for later ones."""
        there = self.receivers("there", ["k/#"])
        self.ready(there, "k")
        structured = {**EVERYTHING, "properties": ATTRIBUTES}
        kept, brief = {}, {}
        for sender in self.senders:
            kept[f"k/{sender.name}"] = "kept"
            is_event = sender.protocol == "structured"
            self.send(sender, f"k/{sender.name}", new_event(**(structured if is_event else EVERYTHING), retained=True))
            if sender.protocol != "mqtt3":
                brief[f"k/short/{sender.name}"] = "kept for a second"
                fields = {"payload": b"{}", "text": True, "expiry": SHORT, "retained": True}
                self.send(sender, f"k/short/{sender.name}", new_event(
                    **fields, **({"properties": ATTRIBUTES} if is_event else {})))
        ended = time.monotonic() + SHORT / 1000 + 1
        got, short = {}, {}
        self.collect(there, kept, got)
        self.set_apart(got, brief, short)
        self.judge_all(there, got, kept)
        self.last_values(kept)
        until(lambda: time.monotonic() > ended, "", 10)
        for hops, node in self.nodes.items():
            for topic in brief:
                until(lambda: clients.get(node, topic) is None, f"{topic} has not run out {hops} hops away")
        self.late("late", kept)
        for sender in self.senders:
            # A structured CloudEvent without bytes is empty, too.
            fields = {"properties": ATTRIBUTES} if sender.protocol == "structured" else {}
            self.send(sender, f"k/{sender.name}", new_event(**fields, retained=True))
        got = {}
        self.collect(there, kept, got)
        self.set_apart(got, brief, short)
        self.judge_all(there, got, dict.fromkeys(kept, "the end of what was kept"))
        # On a busy machine a second may be over before a poll comes for it, or its answer be read late.
        self.judge_all(there, short, brief, may_miss=brief)
        for hops, node in self.nodes.items():
            for topic in kept:
                until(lambda: clients.get(node, topic) is None, f"{topic} is still kept {hops} hops away")
        self.late("last", {})
        for receiver in there.values():
            receiver.close()
        return f"{len(kept)} kept, {len(brief)} for a second"

    @staticmethod
    def set_apart(got, topics, others):
        """Moves what came of some topics to `others`."""
        for key, came in got.items():
            for topic in topics:
                if topic in came:
                    others.setdefault(key, {}).setdefault(topic, []).extend(came.pop(topic))

    def waited(self):
        """What comes while nobody is there waits in sessions and durable subscriptions; what has run out does not."""
        def kinds(carrier):
            return carrier.waits

        receivers = self.receivers("waiting", ["w/#"], kinds, waits=True)
        self.ready(receivers, "w")
        for receiver in receivers.values():
            receiver.leave()
        cases = {}
        for sender in self.senders:
            for case, fields in CASES:
                event = new_event(**fields)
                if case in WAITING and can_say(sender, case, event):
                    cases[f"w/{sender.name}/{case}"] = case
                    self.send(sender, f"w/{sender.name}/{case}", event)
            if sender.protocol not in ("mqtt3", "structured"):
                self.send(sender, f"w/{sender.name}/short", new_event(expiry=SHORT))
        ended = time.monotonic() + SHORT / 1000 + 3
        until(lambda: time.monotonic() > ended, "", 10)
        start = time.monotonic()
        back, got = self.receivers("waiting", ["w/#"], kinds, waits=True), {}
        self.collect(back, cases, got)
        rest(0.3)
        self.collect(back, [], got)
        self.judge_all(back, got, cases, start)
        for receiver in back.values():
            receiver.close()
        return f"{len(back)} receivers, {len(cases)} events"

    def last_values(self, topics):
        """GET, once the far node has them as well."""
        carrier = next(one for one in RECEIVERS if one.name == "get")
        for hops, node in self.nodes.items():
            for topic, case in topics.items():
                sender, event, told, _ = self.said[topic]
                until(lambda: clients.get(node, topic) is not None, f"{topic} is not kept {hops} hops away")
                wanted = arrives(sender, carrier, event, told, is_kept=True)
                self.judge.compare(sender, carrier, hops, case, wanted, clients.get(node, topic))

    def late(self, round_, wanted):
        """Receivers that come later get what is kept and nothing else."""
        start = time.monotonic()
        late = self.receivers(round_, ["k/#"], lambda carrier: carrier.keeps)
        got = {}
        self.collect(late, wanted, got)
        self.ready_late(late, round_, got)
        self.judge_all(late, got, wanted, start, is_kept=True)
        for receiver in late.values():
            receiver.close()

    def ready_late(self, late, round_, got):
        """A probe behind what is kept: nothing else was on its way."""
        topic = f"k/probe/{round_}"
        end = time.monotonic() + PATIENCE
        while any(topic not in got.get(key, {}) for key in late):
            check(time.monotonic() < end, f"no probe came to {round_} receivers")
            self.senders[SENDERS[0]].send(new_event(topic=topic))
            rest(0.05)
            self.collect(late, [], got)

    def close(self):
        for sender in self.senders.values():
            sender.close()


def can_fail():
    """That a comparison finds each field that is altered, one that is missing and one too many."""
    one = SENDERS[1]
    event = arrives(one, RECEIVERS[1], new_event(**EVERYTHING, topic="t"))
    full = {name: "something" if value is None else value for name, value in event.items()}
    for name in NAMES:
        for wanted, got in (({**full, name: None}, full), (full, {**full, name: None}), (full, {**full, name: "x"})):
            judge = Judge()
            judge.compare(one, RECEIVERS[1], 0, "sabotage", wanted, got)
            check(len(judge.wrong) == 1 and f": {name}: " in judge.wrong[0], f"{name} is not compared: {judge.wrong}")
    return f"{len(NAMES)} fields, each altered, left out and added"


def linked(nodes):
    """Waits until the ends of the chain see each other."""
    def reachable():
        with urllib.request.urlopen(f"http://{nodes[0].admin}/v1/mesh/topology", timeout=10) as answer:
            found = json.load(answer)["nodes"]
        return sum(bool(node["reachable"]) for node in found) == len(nodes)

    until(reachable, "the chain is not linked")


def test(*options):
    known = {"--sabotage=expected": "expected", "--sabotage=received": "received"}
    check(len(options) <= 1 and set(options) <= set(known), f"options: {', '.join(known)}")
    judge = Judge(known[options[0]] if options else None)
    print(f"can_fail: {can_fail()}", flush=True)
    with ChainedNode("near") as near, ChainedNode("middle", near) as middle, ChainedNode("far", middle) as far:
        linked([near, middle, far])
        matrix = Matrix(near, far, judge)
        for part in (matrix.live, matrix.kept, matrix.waited):
            start = time.monotonic()
            print(f"{part.__name__}: {part()}, {time.monotonic() - start:.1f} s", flush=True)
        matrix.close()
        judge.verdict()
        for node in (near, middle, far):
            drops = {name: count for name, count in node.counters().items() if name.startswith("dropped")}
            check(not set(drops) - {"dropped_expired"}, f"{node.name} dropped: {drops}")
    return (f"the matrix: {len(judge.pairs)} pairs of carriers and places, {len(CASES) + 3} cases, "
            f"{judge.comparisons} comparisons of {judge.events} events")


if __name__ == "__main__":
    main(test, *sys.argv[1:])
