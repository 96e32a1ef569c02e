#!/usr/bin/env python3
"""Proves that AMQP shares topics, properties, requests and rules with MQTT and HTTP: Qpid Proton between the mosquitto
clients, Paho and curl. Field by field each way and round, retained events, requests of each protocol answered in
another with 1,000 at once, passwords and access rules.

Run it with the interpreter that python.sh prints."""

import http.client
import random
import subprocess
import sys
import threading
import uuid

import paho.mqtt.client as mqtt
import proton
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from proton import Delivery, Message, symbol

from node import APUS, PATIENCE, Node, check, is_, main, run_parts
from paho_client import Client as Paho
from proton_client import BINARY, WORLD, Client, Options, Receiver, body_of, data, rest, text, until
from web import MEBIBYTE, Stream, Subscriber, curl, mosquitto_pub, properties, publish

TOTAL = 1_000
THREADS = 50
FORM = "%t|%x|%P|%C|%R|%D|%F|%q"
USERS = [("b", "1"), ("a", "2"), ("b", "1"), ("clé ", "日本 🐝%"), ("empty", ""), ("b", "3"), ("partitionkey", "p 7")]
VALUES = [("user-property", pair) for pair in USERS] + [
    ("content-type", "application/x-thing"), ("response-topic", "reply/ü"), ("correlation-data", "42 of 43"),
    ("message-expiry-interval", "60"),
]


def annotation(message, name):
    return (message.annotations or {}).get(symbol(name))


def from_mqtt_and_back(node):
    """Every property of MQTT 5 to AMQP, where all fields are as the table says, and back to MQTT 5 unharmed."""
    client = Client(node)
    receiver = client.receiver("map/x")
    wild = client.receiver("map/*")
    for payload in (b"x", BINARY, "grüezi".encode(), MEBIBYTE):
        mosquitto_pub(node, "map/x", payload, *properties(VALUES))
        got = receiver.wait(1)[0]
        is_("on the wildcard", (got.body, "map/x"), (wild.wait(1)[0].body, "map/x"))
        message = got.message
        is_("payload", payload, got.body)
        check(not got.settled, "an event at QoS 1 came settled")
        is_("fields", ("map/x", "application/x-thing", "reply/ü", "42 of 43", "p 7"), (
            message.address, str(message.content_type), message.reply_to, message.correlation_id, message.group_id))
        is_("the map", {"a": "2", "b": "3", "clé ": "日本 🐝%", "empty": ""}, dict(message.properties))
        is_("the list", [word for pair in USERS for word in pair], list(annotation(message, "x-opt-user-properties")))
        check(55 <= message.ttl <= 60, f"ttl {message.ttl}")
        # On to another topic as it came, as bytes and as the binding writes it.
        for bytes_ in (got.raw, None):
            subscriber = Subscriber(node, "back/x", 1, "%t|%x|%P|%C|%R|%D|%E|%q")
            client.sender("back/x").accepted(bytes_ or message)
            *back, expiry, qos = "\n".join(subscriber.lines()).split("|")
            is_("back", ["back/x", payload.hex(), " ".join(f"{name}:{value}" for name, value in USERS),
                         "application/x-thing", "reply/ü", "42 of 43"], back)
            is_("QoS", "1", qos)
            check(50 <= int(expiry) <= 60, f"expiry {expiry}")
    mosquitto_pub(node, "map/x", b"text", *properties([("payload-format-indicator", "1")]), qos=0)
    got = receiver.wait(1)[0]
    is_("of text", "text/plain; charset=utf-8", str(got.message.content_type))
    check(got.settled, "an event at QoS 0 came unsettled")
    mosquitto_pub(node, "map/x", b"old", version="311")
    got = receiver.wait(1)[0]
    is_("of 3.1.1", ("map/x", b"old", None), (got.message.address, got.body, got.message.properties))
    client.close()


def to_mqtt(node):
    """What a client of AMQP says reaches MQTT 5; names and values that are no text as text."""
    client = Client(node)
    sender = client.sender("out/x")
    subscriber = Subscriber(node, "out/#", 10, FORM)
    identifier = uuid.UUID("12345678-1234-5678-1234-567812345678")
    for message, settled in (
        (text(body="grüezi"), False), (data(b"bytes"), True),
        (data(b"text", content_type="text/plain"), False), (data(b"\xff", content_type="text/plain"), False),
        (Message(body="x", correlation_id=proton.ulong(2**63), reply_to="topic://reply/there"), False),
        (Message(body="x", correlation_id=identifier, reply_to="reply/here"), False),
        (Message(body="x", correlation_id="a string", group_id="key"), False),
        (Message(body="x", properties={"number": 1, "flag": True, "float": 1.5, "id": identifier, "text": "ü"}), False),
        (Message(body={"a": 1}), False), (data(b"zip", content_type="a/b", content_encoding="gzip"), False),
    ):
        sender.accepted(message, settled)
    lines = [line.split("|") for line in subscriber.lines()]
    for line in lines:
        line[1] = bytes.fromhex(line[1])
    lines = ["|".join([line[0], line[1].decode(errors="replace"), *line[2:]]) for line in lines]
    is_("text, bytes, types", [
        "out/x|grüezi|||||1|1", "out/x|bytes||||||0", "out/x|text||text/plain|||1|1"], lines[:3])
    is_("correlation", [
        "out/x|x|||reply/there|9223372036854775808|1|1", f"out/x|x|||reply/here|{identifier}|1|1",
        "out/x|x|partitionkey:key|||a string|1|1"], lines[4:7])
    users = lines[7].split("|")[2].split(" ")
    is_("values", sorted(["number:1", "flag:true", "float:1.5", f"id:{identifier}", "text:ü"]), sorted(users))
    check("|message/vnd.amqp|" in lines[8], f"a map: {lines[8]!r}")
    is_("encoding", "out/x|zip|content-encoding:gzip|a/b||||1", lines[9])
    client.close()


def http_to_amqp(node):
    client = Client(node)
    receiver = client.receiver("web/x")
    for mode in ("direct", "guaranteed"):
        told = publish(
            node, "/TOPIC/web/x", BINARY, f"Apus-Delivery-Mode: {mode}", "Content-Type: application/x-thing",
            "Apus-Property-b: 1", "Apus-Property-a: 2", "Apus-Property-b: 3", "Apus-Correlation-Id: c",
            "Apus-Reply-To: reply/x", "Apus-Time-To-Live: 60000", "Apus-Priority: 9", "Apus-Partition-Key: p",
            "Apus-Message-Id: mine",
        )
        is_("matched", 1, told["matched"])
        got = receiver.wait(1)[0]
        message = got.message
        is_("settled", mode == "direct", got.settled)
        is_("fields", (BINARY, "web/x", "application/x-thing", "c", "reply/x", 9, "p", "mine"), (
            got.body, message.address, str(message.content_type), message.correlation_id, message.reply_to,
            message.priority, message.group_id, message.id))
        is_("properties", {"a": "2", "b": "3"}, dict(message.properties))
        check(50 < message.ttl <= 60, f"ttl {message.ttl}")
    client.close()


def amqp_to_http(node):
    """To a stream, to a poll, and to the last value."""
    client = Client(node)
    auto, full = Stream(node, "filter=feed/%23"), Stream(node, "filter=feed/%2B&format=json")
    place = curl(node, "/poll?filter=feed/%23&wait=0").json()["next"]
    message = text(
        body="line", content_type="text/plain", correlation_id="c", reply_to="topic://reply/x", id="mine", ttl=60,
        priority=7, group_id="p", properties={"a": "1", "n": 5}, annotations={symbol("x-opt-retain"): True})
    client.sender("feed/x").accepted(message)
    is_("a stream", ("feed/x", "line"), auto.event()[:2])
    for what, event in (
        ("a stream of JSON", full.json()),
        ("a poll", curl(node, f"/poll?filter=feed/%23&wait=10000&after={place}").json()["events"][0]),
    ):
        check(50_000 <= event.pop("ttl") <= 60_000, f"ttl in {what}")
        pairs = {tuple(pair) for pair in event.pop("properties")}
        check({("a", "1"), ("n", "5")} <= pairs, f"{what}: {pairs}")
        event.pop("partition_key", None)
        is_(what, {"topic": "feed/x", "payload": "line", "qos": 1, "content_type": "text/plain", "reply_to": "reply/x",
                   "correlation": "c", "message_id": "mine", "priority": 7}, event)
    kept = curl(node, "/TOPIC/feed/x")
    is_("the last value", (200, b"line", "text/plain"), (kept.status, kept.body, kept.headers["content-type"]))
    is_("its fields", ("c", "reply/x", "mine", "7", "p"), tuple(
        kept.headers.get(f"apus-{name}") for name in (
            "correlation-id", "reply-to", "message-id", "priority", "partition-key")))
    is_("DELETE", 204, curl(node, "/TOPIC/feed/x", method="DELETE").status)
    for stream in (auto, full):
        stream.close()
    client.close()


def retained(node):
    """What topics have kept is there for new receivers, whoever published it, and says so."""
    client = Client(node)
    mosquitto_pub(node, "kept/mqtt", b"m", "-r", *properties(VALUES))
    publish(node, "/TOPIC/kept/http", b"h", "Apus-Retain: true", "Apus-Property-a: 1")
    client.sender("kept/amqp").accepted(
        Message(body={"any": ["thing"]}, subject="s", annotations={symbol("x-opt-retain"): True}))
    for address in ("kept/>", "kept/+"):
        receiver = client.receiver(address)
        got = {got.message.annotations[symbol("x-opt-topic")]: got.message for got in receiver.wait(3)}
        is_("topics", {"kept/mqtt", "kept/http", "kept/amqp"}, set(got))
        check(all(annotation(message, "x-opt-retain") is True for message in got.values()), "x-opt-retain is missing")
        is_("of AMQP", ({"any": ["thing"]}, "s"), (got["kept/amqp"].body, got["kept/amqp"].subject))
        is_("of HTTP", (b"h", {"a": "1"}), (bytes(got["kept/http"].body), got["kept/http"].properties))
        is_("of MQTT", [word for pair in USERS for word in pair],
            list(annotation(got["kept/mqtt"], "x-opt-user-properties")))
        # To those who are there already it comes like any other.
        client.sender("kept/amqp").accepted(text(body="new", annotations={symbol("x-opt-retain"): True}))
        one = receiver.wait(1)[0]
        is_("live", ("new", None), (one.body, annotation(one.message, "x-opt-retain")))
        client.sender("kept/amqp").accepted(
            Message(body={"any": ["thing"]}, subject="s", annotations={symbol("x-opt-retain"): True}))
        receiver.wait(1)
        receiver.close()
    subscriber = Subscriber(node, "kept/amqp", 1, "%t|%r", comes_late=True)
    is_("retained for MQTT", ["kept/amqp|1"], subscriber.lines())
    # One at a time, as the credit comes.
    slow = client.receiver("kept/#", grants=0)
    for _ in range(3):
        slow.grant(1)
        slow.wait(1)
        slow.nothing_more(0.05)
    slow.grant(10)
    slow.nothing_more(0.1)
    # An empty body clears the topic.
    for name in ("mqtt", "http", "amqp"):
        client.sender(f"kept/{name}").accepted(data(b"", annotations={symbol("x-opt-retain"): True}))
    client.receiver("kept/>").nothing_more(0.2)
    is_("retained", 0, node.counters()["retained"])
    client.close()


def asked_by_amqp(node):
    """1,000 requests of a client of AMQP at once, answered by one of MQTT 5."""
    responder = Paho(node, "responder", version=mqtt.MQTTv5)
    responder.subscribe("ask/amqp", 1)
    client = Client(node)
    replies = client.receiver(None, dynamic=True, grants=500)
    sender = client.sender("ask/amqp")
    sender.send_all([
        text(body=f"{number}", reply_to=replies.address, correlation_id=f"id-{number}") for number in range(TOTAL)])
    requests = responder.wait(TOTAL)
    is_("requests", TOTAL, len(requests))
    random.Random(1).shuffle(requests)
    for request in requests:
        reply = Properties(PacketTypes.PUBLISH)
        reply.CorrelationData = request.properties.CorrelationData
        reply.UserProperty = [("by", "mqtt"), ("by", "mqtt")]
        responder.publish(request.properties.ResponseTopic, b"answer " + request.payload, 1, properties=reply)
    got = replies.wait(TOTAL)
    is_("answers", {f"id-{number}": f"answer {number}".encode() for number in range(TOTAL)},
        {one.message.correlation_id: one.body for one in got})
    is_("their properties", {"by": "mqtt"}, dict(got[0].message.properties))
    responder.disconnect()
    client.close()


def asked_by_mqtt(node):
    """1,000 requests of a client of MQTT 5 at once, answered by one of AMQP."""
    client = Client(node)
    requests = client.receiver("ask/mqtt", grants=500)
    asker = Paho(node, "asker", version=mqtt.MQTTv5)
    asker.subscribe("answers/asker", 1)
    for number in range(TOTAL):
        ask = Properties(PacketTypes.PUBLISH)
        ask.ResponseTopic, ask.CorrelationData = "answers/asker", number.to_bytes(4, "big")
        asker.publish("ask/mqtt", f"{number}", 1, properties=ask)
    got = requests.wait(TOTAL)
    random.Random(2).shuffle(got)
    relay = client.sender(None)
    relay.send_all([
        text(one.message.reply_to, f"answer {one.body.decode()}", correlation_id=body_of(one.message.correlation_id))
        for one in got])
    answers = asker.wait(TOTAL)
    is_("answers", {number: f"answer {number}".encode() for number in range(TOTAL)},
        {int.from_bytes(one.properties.CorrelationData, "big"): one.payload for one in answers})
    asker.disconnect()
    client.close()


def asked_by_http(node):
    """1,000 requests over HTTP that wait at once, answered by a client of AMQP in shuffled order."""
    client = Client(node)
    requests = client.receiver("ask/http/#", grants=500)
    problems = []

    def ask(thread):
        connections = []
        for number in range(TOTAL // THREADS):
            connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=60)
            connection.request("POST", f"/TOPIC/ask/http/{thread}", body=f"{thread}-{number}",
                               headers={"Apus-Reply-Wait": "60000", "Content-Type": "text/plain"})
            connections.append((f"answer to {thread}-{number}", connection))
        for wanted, connection in connections:
            answer = connection.getresponse()
            got = answer.read().decode()
            kept = answer.headers.get("Apus-Property-by")
            if (answer.status, got, kept) != (200, wanted, "amqp"):
                problems.append(f"{answer.status} {got} {kept} instead of {wanted}")
            connection.close()

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    got = requests.wait(TOTAL, 60)
    is_("reply topics", TOTAL, len({one.message.reply_to for one in got}))
    random.Random(3).shuffle(got)
    relay = client.sender(None)
    relay.send_all([
        text(one.message.reply_to, f"answer to {one.body.decode()}", correlation_id=one.message.correlation_id,
             properties={"by": "amqp"})
        for one in got])
    for thread in threads:
        thread.join(60)
    check(not any(thread.is_alive() for thread in threads), "not all were answered")
    check(not problems, "; ".join(problems[:5]))
    client.close()


ACCESS = """security:
  users: DIRECTORY/users
  anonymous: never
  access:
    - { allow: all, topics: ["own/${username}/#"], groups: [devices] }
    - { allow: publish, topics: ["inbox/#", "apus/reply/#"], groups: [devices] }
    - { allow: all, topics: ["#"], users: [olivia] }
"""


class Guarded(Node):
    """A node with users."""

    def start(self):
        for user, password, group in (("olivia", "right", "operators"), ("pump", "wet", "devices")):
            subprocess.run(
                [APUS, "user", "add", "--file", f"{self.directory.name}/users", "--group", group, user],
                input=password.encode(), stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE)
        super().start()


def login(node, **more):
    client = Client(node, wait=False, **more)
    until(lambda: client.is_open or client.is_gone, "neither let in nor turned away")
    return client


def passwords(node):
    for more in (
        {"user": "olivia", "password": "wrong"}, {"user": "nobody", "password": "right"}, {}, {"sasl_enabled": False},
        {"user": "olivia", "password": ""}, {"user": "olivia", "password": "right", "allowed_mechs": "ANONYMOUS"},
    ):
        before = node.counters().get("closed_notAuthenticated", 0)
        client = login(node, **more)
        check(client.is_gone and not client.is_open, f"{more} is let in")
        if "sasl_enabled" not in more:
            is_(f"{more} is told", "amqp:unauthorized-access", client.error.name)
        until(lambda: node.counters().get("closed_notAuthenticated", 0) == before + 1, f"{more} is not counted")
    for user, password in (("olivia", "right"), ("pump", "wet")):
        client = login(node, user=user, password=password, allowed_mechs="PLAIN")
        check(client.is_open, f"{user} is turned away: {client.error}")
        client.close()


def rules(node):
    """What the rules do not allow is refused in AMQP's terms, and the connection goes on."""
    boss, pump = login(node, user="olivia", password="right"), login(node, user="pump", password="wet")
    everything = boss.receiver("#")
    for address in ("own/other/x", "inbox/x", "#", "own/#"):
        error = pump.refused(lambda c, a: Receiver(c, WORLD.create_receiver(c.connection, a)), address)
        is_(address, "amqp:unauthorized-access", error.name)
    own = pump.receiver("own/pump/#")
    relay = pump.sender(None)
    for topic in ("own/other/x", "secret"):
        for sent in (pump.sender(topic).send(text(body="x")), relay.send(text(topic, "x"))):
            is_(topic, (Delivery.REJECTED, "amqp:unauthorized-access"), (sent.state, sent.error.name))
    for topic in ("own/pump/x", "inbox/pump"):
        pump.sender(topic).accepted(text(body=topic))
        relay.accepted(text(topic, topic))
    is_("its own", ["own/pump/x"] * 2, own.bodies(2))
    is_("everything", ["own/pump/x"] * 2 + ["inbox/pump"] * 2, everything.bodies(4))
    # Without asking for an outcome nobody is told, and nothing goes through.
    before = node.counters().get("dropped_notAuthorized", 0)
    relay.put(text("secret", "x"), settled=True)
    rest(0.2)
    everything.nothing_more(0.1)
    is_("counted", before + 1, node.counters().get("dropped_notAuthorized", 0))
    # A dynamic source needs no right to subscribe.
    replies = pump.receiver(None, dynamic=True)
    boss.sender(None).accepted(text(replies.address, "yes"))
    is_("a reply", ["yes"], replies.bodies(1))
    # Another user cannot take a subscription over by its name.
    one = login(node, name="shared name", user="olivia", password="right")
    one.receiver("own/pump/#", name="sub", durable=True).detach()
    other = login(node, name="shared name", user="pump", password="wet")
    error = other.refused(lambda c, a: Receiver(c, WORLD.create_receiver(
        c.connection, a, name="sub", options=Options(durable=True))), "own/pump/#")
    is_("somebody else's", "amqp:resource-locked", error.name)
    for client in (boss, pump, one, other):
        client.close()


PARTS = (
    from_mqtt_and_back, to_mqtt, http_to_amqp, amqp_to_http, retained, asked_by_amqp, asked_by_mqtt, asked_by_http,
)
GUARDED = (passwords, rules)


def test(*only):
    for parts, make, extra in ((PARTS, Node, ""), (GUARDED, Guarded, ACCESS)):
        chosen = [part for part in parts if not only or part.__name__ in only]
        if not chosen:
            continue
        with make(http=True, amqp=True, extra=extra) as node:
            run_parts(chosen, only, node)
            if parts is PARTS:
                drops = {key: value for key, value in node.counters().items() if key.startswith("dropped")}
                is_("dropped", {}, drops)
    return f"AMQP with MQTT and HTTP: {len(PARTS) + len(GUARDED)} parts passed, three times {TOTAL} at once"


if __name__ == "__main__":
    main(test, *sys.argv[1:])
