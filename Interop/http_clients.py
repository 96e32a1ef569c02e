#!/usr/bin/env python3
"""Proves that events pass between HTTP and MQTT unchanged, with curl on one side and the mosquitto clients on the
other: properties both ways, payloads of every kind, topics in paths, the last value, CloudEvents, batches, repeated
requests. Needs nothing but Python, curl and mosquitto's clients."""

import base64
import json
import urllib.parse

from node import Node, check, is_, main
from web import BINARY, MEBIBYTE, Stream, Subscriber, curl, mosquitto_pub, properties, publish

PAYLOADS = (b"", b"x", BINARY, MEBIBYTE)
FORM = "%t|%p|%P|%C|%R|%D|%F|%E"


def properties_to_mqtt(node):
    """Order, duplicates and bytes of properties, in both spellings, at both delivery modes, also for 3.1.1."""
    ours = (
        "Content-Type: text/plain; charset=utf-8", "Apus-Property-b: 1", "Apus-Property-a: 2", "Apus-Property-b: 1",
        "Apus-Property-Stra%C3%9Fe: grüezi 🐝", "Apus-Property-pct: 100%25", "Apus-Property-nothing;",
        "Apus-Correlation-Id: 42 of 43", "Apus-Reply-To: reply/ü", "Apus-Time-To-Live: 60000", "Apus-Priority: 9",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    theirs = (
        "content-type: text/plain; charset=utf-8", "Solace-User-Property-b: 1; type=string",
        "solace-user-property-a: 2", "Solace-User-Property-b: 1", "Solace-User-Property-pct: 100% 🐝",
        "Solace-Correlation-ID: 42 of 43", "Solace-Reply-To-Destination: /TOPIC/reply/ü",
        "Solace-Time-To-Live-In-ms: 60000", "Solace-Message-Priority: 9", "Solace-Client-Name: somebody",
    )
    trace = "traceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for mode in ("direct", "guaranteed", "persistent"):
        fields = theirs if mode == "persistent" else ours
        name = "Solace-Delivery-Mode" if mode == "persistent" else "Apus-Delivery-Mode"
        user = "b:1 a:2 b:1 pct:100% 🐝"
        if mode != "persistent":
            user = f"b:1 a:2 b:1 Straße:grüezi 🐝 pct:100% nothing: {trace}"
        five = Subscriber(node, "prop/#", 1, FORM + "|%q")
        old = Subscriber(node, "prop/#", 1, "%t|%p|%q", version="mqttv311")
        told = publish(node, "/TOPIC/prop/x", "grüezi".encode(), *fields, f"{name}: {mode}")
        is_(f"matched at {mode}", 2, told["matched"])
        is_(f"stored at {mode}", None if mode == "direct" else "memory", told.get("stored"))
        qos = 0 if mode == "direct" else 1
        *got, expiry, got_qos = "\n".join(five.lines()).split("|")
        wanted = ["prop/x", "grüezi", user, "text/plain; charset=utf-8", "reply/ü", "42 of 43", "1"]
        is_(f"MQTT 5 at {mode}", wanted, got)
        is_(f"QoS at {mode}", str(qos), got_qos)
        check(50 <= int(expiry) <= 60, f"expiry at {mode}: {expiry}")
        is_(f"3.1.1 at {mode}", [f"prop/x|grüezi|{qos}"], old.lines())


def properties_from_mqtt(node):
    """mosquitto_pub with every property to a stream in both formats, to a poll, and to the last value and back."""
    values = (
        ("user-property", ("b", "1")), ("user-property", ("a", "2")), ("user-property", ("b", "1")),
        ("user-property", ("clé ", "日本 🐝%")), ("user-property", ("empty", "")),
        ("content-type", "text/plain; charset=utf-8"), ("response-topic", "reply/ü"),
        ("correlation-data", "42 of 43"), ("payload-format-indicator", "1"), ("message-expiry-interval", "60"),
    )
    auto, full = Stream(node, "filter=back/%23"), Stream(node, "filter=back/%2B&format=json")
    place = curl(node, "/poll?filter=back/%23&wait=0").json()["next"]
    mosquitto_pub(node, "back/x", "line 1\nzwei".encode(), "-r", *properties(values))
    is_("a stream", ("back/x", "line 1\nzwei"), auto.event()[:2])
    pairs = [["b", "1"], ["a", "2"], ["b", "1"], ["clé ", "日本 🐝%"], ["empty", ""]]
    for what, event in (
        ("a stream of JSON", full.json()),
        ("a poll", curl(node, f"/poll?filter=back/%23&wait=10000&after={place}").json()["events"][0]),
    ):
        check(50_000 <= event.pop("ttl") <= 60_000, f"ttl in {what}")
        is_(what, {
            "topic": "back/x", "payload": "line 1\nzwei", "qos": 1, "content_type": "text/plain; charset=utf-8",
            "reply_to": "reply/ü", "correlation": "42 of 43", "properties": pairs,
        }, event)
    kept = curl(node, "/TOPIC/back/x")
    is_("the last value", (200, "line 1\nzwei"), (kept.status, kept.body.decode()))
    is_("its content type", "text/plain; charset=utf-8", kept.headers["content-type"])
    is_("its correlation", "42 of 43", kept.headers["apus-correlation-id"])
    is_("its reply topic", "reply/%C3%BC", kept.headers["apus-reply-to"])
    check(50_000 <= int(kept.headers["apus-time-to-live"]) <= 60_000, "its time to live")
    users = [field for field in kept.fields if field[0].startswith("Apus-Property-")]
    is_("its properties", [
        ("Apus-Property-b", "1"), ("Apus-Property-a", "2"), ("Apus-Property-b", "1"),
        ("Apus-Property-cl%C3%A9%20", "%E6%97%A5%E6%9C%AC%20%F0%9F%90%9D%25".replace("%20", " ")),
        ("Apus-Property-empty", ""),
    ], users)
    known = curl(node, "/TOPIC/back/x", headers=[f"If-None-Match: {kept.headers['etag']}"])
    is_("If-None-Match", (304, b""), (known.status, known.body))
    # What was read can be published again as it is: nothing is lost on the way round.
    subscriber = Subscriber(node, "round/#", 1, "%t|%p|%P|%C|%R|%D|%F")
    fields = [f"{name}: {value}" if value else f"{name};" for name, value in kept.fields
              if name.startswith("Apus-") or name == "Content-Type"]
    publish(node, "/TOPIC/round/x", kept.body, *fields)
    is_("round", "round/x|line 1\nzwei|b:1 a:2 b:1 clé :日本 🐝% empty:|text/plain; charset=utf-8|reply/ü|42 of 43|1",
        "\n".join(subscriber.lines()))
    for stream in (auto, full):
        stream.close()
    is_("DELETE", 204, curl(node, "/TOPIC/back/x", method="DELETE").status)
    is_("after DELETE", 404, curl(node, "/TOPIC/back/x").status)


def payloads(node):
    """Every kind of payload both ways, live and kept."""
    for payload in PAYLOADS:
        what = f"{len(payload)} bytes"
        for qos, mode in enumerate(("direct", "guaranteed")):
            subscribers = [
                Subscriber(node, "payload/#", 1, "%x", version=version, qos=qos)
                for version in ("5", "mqttv311", "mqttv31")
            ]
            publish(node, "/payload/x", payload, f"Apus-Delivery-Mode: {mode}")
            for subscriber in subscribers:
                is_(f"{what}, {mode}, to MQTT", [payload.hex()], subscriber.lines())
        stream = Stream(node, "filter=payload/%23&format=json")
        place = curl(node, "/poll?filter=payload/%23&wait=0").json()["next"]
        mosquitto_pub(node, "payload/x", payload, "-r")
        polled = curl(node, f"/poll?filter=payload/%23&wait=10000&after={place}").json()
        ways = [("a stream", stream.json())]
        if payload == MEBIBYTE:
            # More than is kept between two polls, which the second is told.
            is_("a poll behind 1 MiB", ([], True), (polled["events"], polled["gap"]))
        else:
            ways.append(("a poll", polled["events"][0]))
        for way, event in ways:
            encoded = event.get("payload_base64")
            got = event["payload"].encode() if encoded is None else base64.b64decode(encoded, validate=True)
            is_(f"{what} to {way}", payload, got)
        stream.close()
        kept = curl(node, "/TOPIC/payload/x")
        # An empty one clears what there is.
        is_(f"{what}, kept by MQTT", (200, payload) if payload else (404, kept.body), (kept.status, kept.body))
        publish(node, "/payload/x", payload, "Apus-Retain: true")
        if payload:
            late = Subscriber(node, "payload/#", 1, "%x|%r", comes_late=True)
            is_(f"{what}, kept by HTTP", [payload.hex() + "|1"], late.lines())
        publish(node, "/payload/x", b"", "Apus-Retain: true")


def topics(node):
    """What a path may spell, and what it may not."""
    for path, topic in (
        ("/TOPIC/path/a%20b", "path/a b"), ("/TOPIC/path/gr%C3%BCezi/%F0%9F%90%9D", "path/grüezi/🐝"),
        ("/TOPIC/path/100%25", "path/100%"), ("/TOPIC/path/%61", "path/a"), ("/TOPIC/path//x/", "path//x/"),
        ("/TOPIC/path/a*b/%3E", "path/a*b/>"), ("/path/%3F%26=&x?query=1", "path/?&=&x"),
        ("/TOPIC/path/./..", "path/./.."), ("/path/x%7Cy", "path/x|y"), ("/TOPIC/events", "events"),
    ):
        subscriber = Subscriber(node, topic, 1, "%t")
        publish(node, path, b"x", "Apus-Retain: true")
        is_(path, [topic], subscriber.lines())
        event = curl(node, f"/poll?filter={urllib.parse.quote(topic)}&wait=0")
        is_(f"{path} as a filter", 200, event.status)
        back = path if path.startswith("/TOPIC/") else "/TOPIC" + path
        is_(f"GET {back}", (200, b"x"), (curl(node, back).status, curl(node, back).body))
        is_(f"DELETE {back}", 204, curl(node, back, method="DELETE").status)
    for path in (
        "/TOPIC/path/a%2Bb", "/TOPIC/path/%23", "/TOPIC/path/+", "/TOPIC/path/a%2Fb", "/TOPIC/path/%00",
        "/TOPIC/path/%C3", "/TOPIC/path/%", "/TOPIC/path/%4", "/TOPIC/path/%zz", "/TOPIC/", "/TOPIC/" + "x" * 70_000,
    ):
        answer = curl(node, path, body=b"x")
        check(answer.status == 400 or len(path) > 1_000 and answer.status in (414, 431), f"{path[:50]}: {answer}")
        is_(f"{path[:50]}: type", "application/problem+json", answer.headers["content-type"])
        check(answer.json()["detail"], f"{path[:50]}: no detail")
    # Nobody publishes below $.
    is_("$SYS", 401, curl(node, "/TOPIC/$SYS/x", body=b"x").status)
    is_("an unknown field", 400, curl(node, "/TOPIC/path/x", body=b"x", headers=["Apus-Retained: true"]).status)


EVENT = {"specversion": "1.0", "id": "A 1", "source": "/plant/press-4", "type": "com.example.door"}
ATTRIBUTES = ["ce-specversion: 1.0", "ce-id: A%201", "ce-source: /plant/press-4", "ce-type: com.example.door"]
AS_MQTT = ["id:A 1", "source:/plant/press-4", "specversion:1.0", "type:com.example.door"]


def cloud_events(node):
    """Binary, structured and in a batch to MQTT 5, whose clients get and give them as its binding says."""
    def heard(what, wanted_payload, wanted_type, extra=()):
        payload, attributes, kind = subscriber.lines()[0].split("|")
        is_(f"{what}: payload", wanted_payload, payload)
        # Values with a space are taken apart by the format of mosquitto_sub only.
        for attribute in (*AS_MQTT, *extra):
            check(attribute in attributes, f"{what}: {attribute} is not in {attributes}")
        is_(f"{what}: content type", wanted_type, kind)

    subscriber = Subscriber(node, "ce/x", 1, "%p|%P|%C")
    publish(node, "/TOPIC/ce/x", b'{"a":1}', *ATTRIBUTES, "ce-ext: %C3%BC", "Content-Type: application/json")
    heard("binary", '{"a":1}', "application/json", ["ext:ü"])
    structured = "application/cloudevents+json"
    for path, extra in (("/TOPIC/ce/x", {}), ("/events", {"topic": "ce/x"}), ("/events?topic=ce/x", {})):
        subscriber = Subscriber(node, "ce/x", 1, "%p|%P|%C")
        body = json.dumps({**EVENT, **extra, "data": {"open": True}}).encode()
        answer = curl(node, path, body=body, headers=[f"Content-Type: {structured}; charset=utf-8"])
        check(answer.status in (200, 202), f"structured to {path}: {answer}")
        heard(f"structured to {path}", '{"open": true}', "application/json")
    subscriber = Subscriber(node, "ce/#", 2, "%t|%p|%C")
    batch = [
        {**EVENT, "subject": "ce/text", "data": "plain", "datacontenttype": "text/plain"}, {"specversion": "1.0"},
        {**EVENT, "subject": "ce/bytes", "data_base64": "YWJj", "datacontenttype": "application/octet-stream"},
    ]
    answer = curl(node, "/events", body=json.dumps(batch).encode(),
                  headers=["Content-Type: application/cloudevents-batch+json"]).json()
    is_("a batch", (2, 1), (answer["accepted"], answer["refused"]))
    is_("what was wrong in it", 400, answer["items"][1]["status"])
    is_("a batch to MQTT", ["ce/text|plain|text/plain", "ce/bytes|abc|application/octet-stream"], subscriber.lines())
    for attributes in (ATTRIBUTES[1:], [*ATTRIBUTES, "ce-Bad_Name: x"], ["ce-specversion: 0.3", *ATTRIBUTES[1:]]):
        is_(f"{attributes}", 400, curl(node, "/TOPIC/ce/x", body=b"x", headers=attributes).status)
    # From MQTT: fields of the last value.
    values = [("user-property", tuple(attribute.split(":", 1))) for attribute in (*AS_MQTT, "ext:ü \"%")]
    mosquitto_pub(node, "ce/kept", b'{"a":1}', "-r", *properties([*values, ("content-type", "application/json")]))
    kept = curl(node, "/TOPIC/ce/kept")
    got = {name: value for name, value in kept.headers.items() if name.startswith("ce-")}
    is_("as fields", {
        "ce-specversion": "1.0", "ce-id": "A%201", "ce-source": "/plant/press-4", "ce-type": "com.example.door",
        "ce-ext": "%C3%BC%20%22%25",
    }, got)
    is_("content type of the fields", "application/json", kept.headers["content-type"])
    is_("clear", 204, curl(node, "/TOPIC/ce/kept", method="DELETE").status)


def batches(node):
    """Lines of JSON: each judged for itself, in order, nothing added or lost."""
    lines = [
        {"topic": "batch/1", "payload": "grüezi", "content_type": "text/plain", "properties": {"line": "7"}},
        {"topic": "batch/+", "payload": "x"}, "no JSON", {"topic": "batch/2", "payload": "x", "colour": "red"},
        {"topic": "batch/3", "payload_base64": base64.b64encode(BINARY).decode(), "qos": 1, "correlation": "c",
         "reply_to": "r", "ttl": 60_000, "properties": [["a", "1"], ["a", "1"]], "message_id": "mine"},
        {"payload": "x"}, {"topic": "batch/4"},
    ]
    subscriber = Subscriber(node, "batch/#", 3, "%t|%x|%P|%C|%R|%D|%q")
    body = "\r\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()
    told = curl(node, "/events", body=body, headers=["Content-Type: application/x-ndjson"]).json()
    is_("accepted and refused", (3, 4), (told["accepted"], told["refused"]))
    is_("items", [None, 400, 400, 400, None, 400, None], [item.get("status") for item in told["items"]])
    is_("an id of the client's", "mine", told["items"][4]["id"])
    check("colour" in told["items"][3]["detail"], f"detail: {told['items'][3]}")
    is_("a batch to MQTT", [
        f"batch/1|{'grüezi'.encode().hex()}|line:7|text/plain|||0", f"batch/3|{BINARY.hex()}|a:1 a:1||r|c|1",
        "batch/4||||||0",
    ], subscriber.lines())
    # 10,000 and not one more.
    line = b'{"topic":"batch/many","payload":"x","qos":1}\n'
    many = curl(node, "/events", body=line * 10_000, headers=["Content-Type: application/x-ndjson"]).json()
    is_("10,000 events", (10_000, 0), (many["accepted"], many["refused"]))
    more = curl(node, "/events", body=line * 10_001, headers=["Content-Type: application/x-ndjson"])
    is_("10,001 events", 400, more.status)
    is_("another type", 415, curl(node, "/events", body=line, headers=["Content-Type: text/csv"]).status)


def repeated(node):
    """A key makes a request one request."""
    subscriber = Subscriber(node, "once/#", 3, "%t|%p")
    fields = ["Idempotency-Key: k-1", "Apus-Delivery-Mode: guaranteed"]
    first = curl(node, "/TOPIC/once/x", body=b"42", headers=fields)
    second = curl(node, "/TOPIC/once/x", body=b"42", headers=fields)
    is_("status", (202, 202), (first.status, second.status))
    is_("the answer again", first.body, second.body)
    is_("said so", (None, "true"), tuple(a.headers.get("idempotency-replayed") for a in (first, second)))
    is_("another body", 422, curl(node, "/TOPIC/once/x", body=b"43", headers=fields).status)
    publish(node, "/TOPIC/once/y", b"43", "Idempotency-Key: k-2")
    lines = b'{"topic":"once/z","payload":"44"}\n'
    for turn in range(2):
        answer = curl(node, "/events", body=lines,
                      headers=["Content-Type: application/x-ndjson", "Idempotency-Key: k-3"])
        is_(f"a batch, turn {turn}", (200, "true" if turn else None),
            (answer.status, answer.headers.get("idempotency-replayed")))
    is_("each once", ["once/x|42", "once/y|43", "once/z|44"], subscriber.lines())


def listing(node):
    publish(node, "/TOPIC/listed/a%20b", b"x", "Apus-Retain: true")
    found = curl(node, "/topics?filter=listed/%23").json()
    is_("topics", ["listed/a b"], [topic["topic"] for topic in found["topics"]])
    is_("another filter", [], curl(node, "/topics?filter=unlisted/%23").json()["topics"])
    is_("no filter", 400, curl(node, "/topics?filter=a/%23/b").status)
    is_("clear", 204, curl(node, "/TOPIC/listed/a%20b", method="DELETE").status)


PARTS = (
    properties_to_mqtt, properties_from_mqtt, payloads, topics, cloud_events, batches, repeated, listing,
)


def test():
    with Node(http=True) as node:
        for part in PARTS:
            part(node)
            print(f"{part.__name__}: ok", flush=True)
        counters = node.counters()
        drops = {key: value for key, value in counters.items() if key.startswith("dropped")}
        check(set(drops) <= {"dropped_notAuthorized"}, f"dropped: {drops}")
        is_("retained", 0, counters["retained"])
    return f"curl and mosquitto: {len(PARTS)} parts passed, nothing dropped"


if __name__ == "__main__":
    main(test)
