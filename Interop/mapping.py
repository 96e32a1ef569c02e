#!/usr/bin/env python3
"""What an event is in each protocol: the one place that says it. The tables of docs/mapping.md are made of this, and
matrix.py computes from it what must arrive where.

    mapping.py            writes the tables into docs/mapping.md
    mapping.py --check    fails when they are not what this file says

An event is a dictionary of the fields below, with None for what is not said. Between nodes nothing of it changes. For
each field and protocol a `Cell` says how it is written there and what becomes of it on the way in and on the way out:
KEPT, LOST, or a rule of its own. Needs nothing but Python."""

import pathlib
import sys
import urllib.parse

DOCUMENT = pathlib.Path(__file__).resolve().parent.parent / "docs" / "mapping.md"
TEXT_TYPE = "text/plain; charset=utf-8"
BYTES_TYPE = "application/octet-stream"
PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F))
TRACE = ("traceparent", "tracestate", "baggage")
# The node gives events that have none a message id, and tells it.
NAMING = ("http", "structured", "json")
MADE = object()


class Rule:
    """What becomes of a value. `apply` gets it and the whole event: on the way in as the sender said it, on the way out
    as the node has it. `says` is for the table, None for what it does not mention."""

    def __init__(self, says, apply):
        self.says, self.apply = says, apply


KEPT = Rule("yes", lambda value, event: value)
LOST = Rule("–", lambda value, event: None)


class Cell:
    """A field in a protocol: in the words of the table, and both ways."""

    def __init__(self, written, into=KEPT, out=KEPT):
        self.written, self.into, self.out = written, into, out


NONE = Cell("–", LOST, LOST)


class Field:
    """`is_bare`: from AMQP to AMQP it is passed on as it was, whatever the rules say."""

    def __init__(self, name, title, cells, is_bare=False):
        self.name, self.title, self.cells, self.is_bare = name, title, cells, is_bare


# --- Rules

def is_utf8(payload):
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_text_type(content_type):
    """Whether a content type means text, as MediaType.isText and MediaText.isText have it."""
    if content_type is None:
        return False
    lower = content_type.lower()
    if "charset=" in lower:
        return lower.split("charset=", 1)[1].lstrip('"').startswith(("utf-8", "us-ascii"))
    name = lower.split(";")[0].strip()
    return name.startswith("text/") or name in (
        "application/json", "application/xml", "application/x-ndjson") or name.endswith(("+json", "+xml"))


def text_by_type(value, event):
    return True if is_text_type(event["content_type"]) and is_utf8(event["payload"]) else None


def text_shown(value, event):
    return True if is_utf8(event["payload"]) and (value or b"\0" not in event["payload"]) else None


def is_one_event(event):
    """Whether the user properties are those of a CloudEvent: the first of each name counts."""
    first = {}
    for name, value in event["properties"] or []:
        first.setdefault(name, value)
    return first.get("specversion") == "1.0" and all(first.get(name) for name in ("id", "source", "type"))


def is_plain(event):
    """Whether a stream that is not asked for JSON has the payload only."""
    return bool(text_shown(event["text"], event))


def where_json(rule):
    if rule is LOST:
        return LOST
    return Rule("only where the payload is no text",
                lambda value, event: None if is_plain(event) else rule.apply(value, event))


WHOLE_SECONDS = Rule("yes, rounded up to seconds", lambda value, event: value and -(-value // 1000) * 1000)
AT_MOST_1 = Rule("yes, QoS 2 as QoS 1", lambda value, event: min(value, 1))
TEXT_BY_TYPE = Rule("by the content type", text_by_type)
TEXT_BY_BODY = Rule("yes, and by the content type", lambda value, event: value or text_by_type(value, event))
TEXT_SHOWN = Rule("whatever can be shown as text", text_shown)
TYPE_OF_TEXT = Rule("yes; `text/plain; charset=utf-8` for text without one; not if it is not ASCII",
                    lambda value, event: (value if value and value.isascii() else None)
                    or (TEXT_TYPE if event["text"] else None))
TYPE_ALWAYS = Rule("yes, percent-encoded where it is not ASCII; for text without one `text/plain; charset=utf-8`, else "
                   "`application/octet-stream`",
                   lambda value, event: urllib.parse.quote(value, PRINTABLE) if value
                   else TEXT_TYPE if event["text"] else BYTES_TYPE)
NAMED = Rule("yes; made by the node where it is missing", lambda value, event: value or MADE)
JSON_TYPE = Rule("yes; `application/json` for `data` without one",
                 lambda value, event: value or ("application/json" if event["text"] else None))
LINES = Rule("yes; line ends become LF; as JSON with base64 where it is no text", lambda value, event: (
    value.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if is_plain(event) else value))
IF_DATA = Rule("yes: `data`, not `data_base64`", KEPT.apply)

# --- The mapping

PROTOCOLS = {
    "mqtt5": "MQTT 5",
    "mqtt3": "MQTT 3.1, 3.1.1",
    "http": "HTTP request",
    "structured": "structured CloudEvent",
    "json": "JSON",
    "sse": "stream without `format=json`",
    "answer": "HTTP answer",
    "webhook": "webhook",
    "amqp": "AMQP 1.0",
}
COMES_IN = ("mqtt5", "mqtt3", "http", "structured", "json", "amqp")
GOES_OUT = ("mqtt5", "mqtt3", "json", "sse", "answer", "webhook", "amqp")
# Columns of the first table: what stands for those of a protocol that are not said apart.
WRITTEN = {
    "mqtt5": "MQTT 5", "mqtt3": "MQTT 3.1, 3.1.1", "http": "HTTP, in and out",
    "json": "JSON (`apus.v1.json`, streams, polls, batches)", "amqp": "AMQP 1.0",
}
SAME_AS = {"structured": "http", "answer": "http", "webhook": "http"}


def cells(mqtt5, mqtt3, http, json, amqp, **others):
    """The cells of a field. Those of `others` are what a protocol has of its own."""
    row = {"mqtt5": mqtt5, "mqtt3": mqtt3, "http": http, "json": json, "amqp": amqp}
    for name, model in SAME_AS.items():
        row[name] = others.get(name) or row[model]
    # A stream that is not asked for JSON has it where the payload is no text.
    row["sse"] = others.get("sse") or Cell(json.written, LOST, where_json(json.out))
    return row


FIELDS = [
    Field("topic", "topic", cells(
        Cell("topic"), Cell("topic"), Cell("path; of a webhook's request `Apus-Topic`"), Cell("`topic`"),
        Cell("out: `properties.to`; in: the link's address, or `to` on a link without one"), sse=Cell("`event:`"))),
    Field("payload", "payload", cells(
        Cell("payload"), Cell("payload"), Cell("body"), Cell("`payload`, or `payload_base64` where it is no text"),
        Cell("out: one `data` section; in: [below](#bodies-of-amqp)"), sse=Cell("`data:`", LOST, LINES))),
    Field("content_type", "content type", cells(
        Cell("content type"), NONE, Cell("`Content-Type`", KEPT, TYPE_ALWAYS), Cell("`content_type`"),
        Cell("`content-type`", KEPT, TYPE_OF_TEXT), structured=Cell("`datacontenttype`", JSON_TYPE, LOST)),
        is_bare=True),
    Field("text", "text or bytes", cells(
        Cell("payload format indicator"), NONE,
        Cell("in: set when `Content-Type` is text and the body UTF-8; out: see the content type", TEXT_BY_TYPE, LOST),
        Cell("set for `payload`", KEPT, TEXT_SHOWN),
        Cell("in: set for an `amqp-value` string, and when `content-type` is text and the body UTF-8; out: see the "
             "content type", TEXT_BY_BODY, LOST),
        structured=Cell("set for `data`", IF_DATA, LOST), sse=Cell("`data:` is the payload", LOST, TEXT_SHOWN)),
        is_bare=True),
    Field("correlation", "correlation", cells(
        Cell("correlation data"), NONE, Cell("`Apus-Correlation-Id`"), Cell("`correlation`, `correlation_base64`"),
        Cell("`correlation-id`")), is_bare=True),
    Field("reply_to", "reply to", cells(
        Cell("response topic"), NONE, Cell("`Apus-Reply-To`"), Cell("`reply_to`"), Cell("`reply-to`")), is_bare=True),
    Field("message_id", "message id", cells(
        NONE, NONE, Cell("`Apus-Message-Id`; made by the node when missing", NAMED, KEPT),
        Cell("`message_id`; the same", NAMED, KEPT), Cell("`message-id`")), is_bare=True),
    Field("expiry", "expiry", cells(
        Cell("message expiry interval (s)", KEPT, WHOLE_SECONDS), NONE, Cell("`Apus-Time-To-Live` (ms)"),
        Cell("`ttl` (ms)"), Cell("`header.ttl` (ms), in also `absolute-expiry-time`"))),
    Field("priority", "priority", cells(
        NONE, NONE, Cell("`Apus-Priority`"), Cell("`priority`"), Cell("`header.priority`"))),
    Field("partition_key", "partition key", cells(
        Cell("user property `partitionkey`"), NONE, Cell("`Apus-Partition-Key`"), Cell("`partition_key`"),
        Cell("`group-id`")), is_bare=True),
    Field("qos", "delivery mode", cells(
        Cell("QoS"), Cell("QoS"),
        Cell("`Apus-Delivery-Mode`: `direct` is QoS 0, `guaranteed` QoS 1", AT_MOST_1, AT_MOST_1),
        Cell("`qos`", AT_MOST_1, KEPT),
        Cell("unsettled is QoS 1, settled QoS 0", AT_MOST_1, AT_MOST_1), answer=NONE)),
    Field("durable", "durable", cells(
        NONE, NONE, NONE, NONE, Cell("`header.durable`; of events of other protocols set above QoS 0", KEPT,
                                     Rule("set above QoS 0", lambda value, event: True if event["qos"] else None))),
        is_bare=True),
    Field("retained", "retain", cells(
        Cell("RETAIN"), Cell("RETAIN"), Cell("`Apus-Retain`", KEPT, LOST), Cell("`retained`"),
        Cell("message annotation `x-opt-retain`, a boolean"))),
    Field("properties", "user properties", cells(
        Cell("user properties, in order, with duplicates"), NONE, Cell("`Apus-Property-<name>`"),
        Cell("`properties`, an array of pairs"),
        Cell("`application-properties`, see [below](#user-properties-in-amqp)")), is_bare=True),
    Field("trace", "trace context", cells(
        Cell("user properties `traceparent`, `tracestate`, `baggage`"), NONE, Cell("fields of these names"),
        Cell("in `properties`"), Cell("application properties of these names")), is_bare=True),
    Field("cloudevents", "CloudEvents", cells(
        Cell("unprefixed user properties"), NONE, Cell("`ce-*`; in also structured and batch bodies"),
        Cell("in `properties`"), Cell("application properties `cloudEvents_*`, in also `cloudEvents:*`"),
        structured=Cell("members")), is_bare=True),
    Field("foreign", "what only AMQP has", cells(
        NONE, NONE, NONE, NONE,
        Cell("`subject`, `user-id`, `creation-time`, `group-sequence`, `reply-to-group-id`, message annotations, "
             "footer")), is_bare=True),
]
NAMES = [field.name for field in FIELDS]


class Carrier:
    """A way to send or to receive: a protocol, and what carries it. `keeps`: a new subscription gets what its topics
    have kept. `waits`: a subscription may outlive its connection."""

    def __init__(self, name, title, protocol, sends=True, receives=True, keeps=True):
        self.name, self.title, self.protocol = name, title, protocol
        self.sends, self.receives, self.keeps = sends, receives, keeps
        self.waits = protocol in ("mqtt3", "mqtt5", "amqp")


CARRIERS = [
    Carrier("mqtt3", "MQTT 3.1.1", "mqtt3"),
    Carrier("mqtt5", "MQTT 5", "mqtt5"),
    Carrier("amqp", "AMQP 1.0", "amqp"),
    Carrier("ws-mqtt3", "MQTT 3.1.1, WebSocket", "mqtt3"),
    Carrier("ws-mqtt5", "MQTT 5, WebSocket", "mqtt5"),
    Carrier("ws-amqp", "AMQP 1.0, WebSocket", "amqp"),
    Carrier("ws-json", "JSON, WebSocket", "json"),
    Carrier("rest", "HTTP request", "http", receives=False),
    Carrier("structured", "structured CloudEvent", "structured", receives=False),
    Carrier("batch", "JSON, batch", "json", receives=False),
    Carrier("stream", "JSON, stream", "json", sends=False),
    Carrier("sse", "stream without `format=json`", "sse", sends=False),
    Carrier("poll", "JSON, poll", "json", sends=False, keeps=False),
    Carrier("webhook", "webhook", "webhook", sends=False, keeps=False),
    Carrier("get", "HTTP answer: the last value", "answer", sends=False),
]
SENDERS = [carrier for carrier in CARRIERS if carrier.sends]
RECEIVERS = [carrier for carrier in CARRIERS if carrier.receives]


# --- What must arrive

def select(event):
    """Fills in the fields that are views of the user properties."""
    pairs = event["properties"] or []
    event["trace"] = [pair for pair in pairs if pair[0] in TRACE] or None
    attributes = {}
    for name, value in pairs:
        if name.isascii() and name.isalnum() and name.lower() == name:
            attributes.setdefault(name, value)
    event["cloudevents"] = sorted(attributes.items()) if is_one_event(event) else None
    return event


def new_event(**fields):
    """An event of which only some fields are said."""
    return select({**dict.fromkeys(NAMES), "qos": 1, "retained": False, "payload": b"", **fields})


def passes(protocol, event, way):
    """An event through one side of a protocol. `way` is `into` or `out`."""
    through = {}
    for field in FIELDS:
        rule = getattr(field.cells[protocol], way)
        through[field.name] = rule.apply(event[field.name], event)
    return through


def sayable(sender, event):
    """What is left of an event for a sender to say: fields that its protocol has."""
    return {field.name: None if field.cells[sender.protocol].into is LOST else event[field.name] for field in FIELDS}


def arrives(sender, receiver, event, told=None, is_kept=False):
    """What a receiver must see of an event. `told`: the id that the node gave it, if it told one. `is_kept`: the
    receiver subscribed later, and gets what the topic has kept."""
    inside = passes(sender.protocol, {**event, "qos": event["qos"] or 0}, "into")
    inside["retained"] = is_kept
    if inside["message_id"] is MADE:
        inside["message_id"] = told
    outside = passes(receiver.protocol, inside, "out")
    if sender.protocol == receiver.protocol == "amqp":
        for field in FIELDS:
            if field.is_bare:
                outside[field.name] = event[field.name]
    return outside


# --- Tables

def line(*columns):
    return "| " + " | ".join(columns) + " |"


def table(head, rows):
    return [line(*head), "|" + "---|" * len(head), *(line(*row) for row in rows)]


def written_table():
    rows = [[field.title, *(field.cells[name].written for name in WRITTEN)] for field in FIELDS]
    return table(["Event", *WRITTEN.values()], rows)


def carried_table(way, names):
    rows = [[field.title, *(getattr(field.cells[name], way).says for name in names)] for field in FIELDS]
    return table(["Event", *(PROTOCOLS[name] for name in names)], rows)


def shared(sender, receiver):
    """How many fields go from one protocol to another, with or without a change."""
    return sum(
        field.cells[sender].into is not LOST and field.cells[receiver].out is not LOST for field in FIELDS)


def pairs_table():
    rows = [[PROTOCOLS[one], *(str(shared(one, other)) for other in GOES_OUT)] for one in COMES_IN]
    return table(["From, to", *(PROTOCOLS[name] for name in GOES_OUT)], rows)


PARTS = {
    "written": written_table,
    "in": lambda: carried_table("into", COMES_IN),
    "out": lambda: carried_table("out", GOES_OUT),
    "pairs": pairs_table,
}


def generated(text):
    """The document with its tables made anew."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}: made by Interop/mapping.py -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not found or not found_end:
            sys.exit(f"{DOCUMENT.name}: the marks of the table {name!r} are missing")
        text = before + begin + "\n" + "\n".join(make()) + "\n\n" + end + after
    return text


def main(arguments):
    there = DOCUMENT.read_text()
    wanted = generated(there)
    if arguments == ["--check"]:
        if wanted != there:
            pairs = zip(there.splitlines(), wanted.splitlines())
            first = next(((old, new) for old, new in pairs if old != new), ("", ""))
            sys.exit(f"docs/mapping.md is not what Interop/mapping.py says; run it. First difference:\n- {first[0]}\n"
                     f"+ {first[1]}")
        print(f"docs/mapping.md is what Interop/mapping.py says: {len(FIELDS)} fields, {len(PROTOCOLS)} protocols")
    else:
        DOCUMENT.write_text(wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
