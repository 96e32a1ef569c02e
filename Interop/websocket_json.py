#!/usr/bin/env python3
"""Proves that the subprotocol `apus.v1.json` does what docs/websocket.md says, with the client library `websockets`:
every operation and its mistakes, the window of guaranteed events, 10,000 events, shared groups whose members are cut,
users who log in inside. Run it with the interpreter that python.sh prints."""

import base64
import json
import pathlib
import subprocess
import tempfile

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from node import APUS, PATIENCE, Node, check, main, until
from paho_client import Client
from web import BINARY, curl, publish

WINDOW = 32


class Socket:
    """A client. Events that come while an answer is awaited are kept in `events`."""

    def __init__(self, node, **more):
        self.inner = connect(
            f"ws://127.0.0.1:{node.http_port}/ws", subprotocols=["apus.v1.json"], compression=None, **more
        )
        self.events = []
        self.number = 0

    def send(self, **message):
        self.inner.send(json.dumps(message))

    def read(self, seconds=PATIENCE):
        message = json.loads(self.inner.recv(seconds))
        check(message["op"] in ("ok", "error", "event"), f"an unknown op: {message}")
        return message

    def ask(self, **message):
        """Sends a message and waits for its answer."""
        self.number += 1
        self.send(id=self.number, **message)
        while True:
            answer = self.read()
            if answer["op"] != "event":
                check(answer.get("id") == self.number, f"the answer to another message: {answer}")
                return answer
            self.events.append(answer)

    def ok(self, **message):
        answer = self.ask(**message)
        check(answer["op"] == "ok", f"{message}: {answer}")
        return answer

    def refused(self, status, **message):
        answer = self.ask(**message)
        check((answer["op"], answer.get("status")) == ("error", status), f"{message}: {answer}, not {status}")
        check(answer["detail"], f"{message}: no detail")

    def event(self):
        return self.events.pop(0) if self.events else self.read()

    def quiet(self):
        """Nothing more has come: the answer to a ping comes behind whatever was on its way."""
        self.ok(op="ping")
        check(not self.events, f"more than expected: {self.events[:2]}")

    def close(self):
        self.inner.close()

    def cut(self):
        """Ends the connection as a broken line would."""
        self.inner.socket.shutdown(2)
        self.inner.socket.close()


def operations(node):
    """Every operation, every member of an event, to and from MQTT 5."""
    one, two = Socket(node), Socket(node)
    one.ok(op="ping")
    one.inner.send('{"op":"ping","id":"text \\u00fc"}')
    check(one.read() == {"op": "ok", "id": "text ü"}, "an id that is a text")
    one.send(op="ping")
    one.ok(op="subscribe", filter="op/+", qos=1)
    members = {
        "content_type": "text/plain", "correlation": "c", "reply_to": "r/ü", "message_id": "m", "priority": 200,
        "partition_key": "k", "properties": [["b", "1"], ["a", "2"], ["b", "1"], ["", ""], ["clé", "🐝\n"]],
    }
    for qos in (0, 1):
        told = two.ok(op="publish", topic="op/x", payload="grüezi 🐝\0", qos=qos, ttl=60_000, **members)
        check(told["matched"] == 1 and told["event"] == "m", f"told: {told}")
        event = one.event()
        check(50_000 <= event.pop("ttl") <= 60_000, "ttl")
        check(event.pop("op") == "event" and ("seq" in event) == (qos > 0), f"{event}")
        seq = event.pop("seq", None)
        check(event.pop("subscriptions") == [2], f"subscriptions: {event}")
        if qos:
            check(event.pop("qos") == 1, "qos")
            one.ok(op="ack", seq=seq)
        check(event == {"topic": "op/x", "payload": "grüezi 🐝\0", **members}, f"at QoS {qos}: {event}")
    two.ok(op="publish", topic="op/x", payload_base64=base64.b64encode(BINARY).decode(), correlation_base64="/w==")
    event = one.event()
    check(base64.b64decode(event["payload_base64"]) == BINARY and event["correlation_base64"] == "/w==", f"{event}")
    two.ok(op="publish", topic="op/x", payload="", properties={"as": "an object"})
    event = one.event()
    check(event["payload"] == "" and event["properties"] == [["as", "an object"]], f"{event}")
    told = two.ok(op="publish", topic="op/nobody/hears", payload="x")
    check(told["matched"] == 0, f"nobody has subscribed: {told}")
    # Without an id there is no answer: the next is that of the ping.
    two.send(op="publish", topic="op/x", payload="quiet")
    two.ok(op="ping")
    check(one.event()["payload"] == "quiet", "a publish without an id")
    # From and to MQTT.
    plain = Client(node, "plain", web=True)
    plain.subscribe("op/x", 1)
    two.ok(op="publish", topic="op/x", payload="to MQTT", qos=1)
    check(plain.payloads(1) == ["to MQTT"], "to MQTT")
    one.ok(op="ack", seq=one.event()["seq"])
    plain.publish("op/x", "from MQTT", 1)
    one.ok(op="ack", seq=one.event()["seq"])
    plain.disconnect()
    # Retained events come first, and can be done without.
    two.ok(op="publish", topic="op/kept", payload="kept", retained=True)
    check("retained" not in one.event(), "a live event said to be retained")
    late = Socket(node)
    late.ok(op="subscribe", filter="op/kept")
    event = late.event()
    check(event["retained"] is True and event["payload"] == "kept", f"retained: {event}")
    late.close()
    two.ok(op="publish", topic="op/kept", payload="", retained=True)
    check(one.event()["payload"] == "", "the end of a retained event")
    check(curl(node, "/TOPIC/op/kept").status == 404, "it is still there")
    one.ok(op="unsubscribe", filter="op/+")
    told = two.ok(op="publish", topic="op/x", payload="x")
    check(told["matched"] == 0, "still subscribed")
    one.quiet()
    for socket in (one, two):
        socket.close()


def mistakes(node):
    """Each is answered with its reason, and the connection stays; but for what is no JSON object."""
    socket = Socket(node)
    for status, message in (
        (400, {"op": "shout"}), (400, {"op": 7}), (400, {"op": None}), (400, {"op": "subscribe"}),
        (400, {"op": "subscribe", "filter": "a/#/b"}), (400, {"op": "subscribe", "filter": "a", "qos": 2}),
        (404, {"op": "unsubscribe", "filter": "never"}), (400, {"op": "publish", "payload": "x"}),
        (400, {"op": "publish", "topic": "a/+", "payload": "x"}), (400, {"op": "publish", "topic": "", "payload": "x"}),
        (400, {"op": "publish", "topic": "a", "payload": 7}), (400, {"op": "publish", "topic": "a", "colour": "red"}),
        (400, {"op": "publish", "topic": "a", "payload_base64": "%"}), (400, {"op": "publish", "topic": "a", "qos": 3}),
        (400, {"op": "publish", "topic": "a", "payload": "x", "payload_base64": "eA=="}),
        (400, {"op": "ack"}), (400, {"op": "ack", "seq": "one"}), (404, {"op": "ack", "seq": 99}),
    ):
        socket.refused(status, **message)
    for text in ("", "[]", "7", "{", '{"op":"ping"} x', '{"op":"ping","op":"ping"', "{'op':'ping'}"):
        bad = Socket(node)
        bad.inner.send(text)
        answer = bad.read()
        check(answer["op"] == "error" and answer["status"] == 400, f"{text}: {answer}")
        try:
            bad.read()
            check(False, f"{text} does not end the connection")
        except ConnectionClosed as closed:
            check(closed.rcvd and closed.rcvd.code == 1002, f"{text}: {closed}")
    socket.ok(op="ping")
    socket.close()


def window(node):
    """Of guaranteed events not more than the window are on their way;
    each acknowledgement, in any order, lets one go."""
    receiver = Socket(node)
    receiver.ok(op="subscribe", filter="window", qos=1)
    for number in range(WINDOW * 3):
        publish(node, "/window", str(number).encode(), "Apus-Delivery-Mode: guaranteed")
    receiver.ok(op="ping")
    check(len(receiver.events) == WINDOW, f"{len(receiver.events)} events without acknowledgement, not {WINDOW}")
    sequence = [event["seq"] for event in receiver.events]
    for number in (9, 3, WINDOW - 1):
        receiver.ok(op="ack", seq=sequence[number])
    receiver.refused(404, op="ack", seq=sequence[9])
    receiver.ok(op="ping")
    check(len(receiver.events) == WINDOW + 3, f"{len(receiver.events)} events once 3 are acknowledged")
    acknowledged = {sequence[number] for number in (9, 3, WINDOW - 1)}
    while len(receiver.events) < WINDOW * 3:
        oldest = min({event["seq"] for event in receiver.events} - acknowledged)
        acknowledged.add(oldest)
        receiver.ok(op="ack", seq=oldest)
        receiver.ok(op="ping")
    got = [int(event["payload"]) for event in receiver.events]
    check(got == list(range(WINDOW * 3)), f"not in order: {got}")
    receiver.close()


def many(node):
    """10,000 guaranteed events from one WebSocket to another."""
    receiver, sender = Socket(node), Socket(node)
    receiver.ok(op="subscribe", filter="many", qos=1)
    total, sent, answered, got = 10_000, 0, 0, []
    while len(got) < total or answered < total:
        while sent < total and sent - len(got) < 500:
            sender.send(op="publish", id=sent, topic="many", payload=str(sent), qos=1)
            sent += 1
        while answered < sent:
            answer = sender.read()
            check(answer["op"] == "ok" and answer["matched"] == 1, f"{answer}")
            answered += 1
        while len(got) < sent:
            event = receiver.read()
            if event["op"] == "event":
                got.append(int(event["payload"]))
                receiver.send(op="ack", seq=event["seq"])
    check(got == list(range(total)), "not 10,000 in order")
    for socket in (receiver, sender):
        socket.close()


def groups(node):
    """A shared group of two WebSockets and a client of MQTT. One is cut with what it has not acknowledged: the others
    get that, and nothing is lost or comes to them twice."""
    members = [Socket(node), Socket(node)]
    for member in members:
        member.ok(op="subscribe", filter="work/#", group="g", qos=1)
    third = Client(node, "third", web=True)
    third.subscribe("$share/g/work/#", 1)
    total = 600
    lines = "".join(json.dumps({"topic": f"work/{n % 7}", "payload": str(n), "qos": 1}) + "\n" for n in range(total))
    told = curl(node, "/events", body=lines.encode(), headers=["Content-Type: application/x-ndjson"]).json()
    check(told["accepted"] == total, f"{told['accepted']} of {total}")
    # The first takes its window and no more.
    held = [members[0].event() for _ in range(WINDOW)]
    check(len({event["payload"] for event in held}) == WINDOW, "not a window of different events")
    members[0].cut()
    got = []

    def all_there():
        while len(got) < total:
            try:
                event = members[1].read(0.2)
            except TimeoutError:
                break
            if event["op"] == "event":
                got.append(int(event["payload"]))
                members[1].send(op="ack", seq=event["seq"])
        return len(got) + len(third.received) >= total

    until(all_there, "what a member that was cut had is lost")
    everything = sorted(got + [int(message.payload) for message in third.wait(0)])
    check(everything == list(range(total)), f"{len(everything)} events, {len(set(everything))} of {total} different")
    check(min(len(got), len(third.received)) > total / 6, "not divided")
    third.disconnect()
    members[1].close()


def users(node):
    """Who comes without a user says who it is inside; rules hold for everything."""
    anna = "Basic " + base64.b64encode(b"anna:right").decode()
    for socket in (Socket(node), Socket(node, additional_headers={"Authorization": anna})):
        if socket.inner.request.headers.get("Authorization") is None:
            socket.refused(401, op="publish", topic="a/x", payload="x")
            socket.refused(401, op="subscribe", filter="a/x")
            socket.refused(401, op="authenticate", user="anna", password="wrong")
            socket.refused(401, op="authenticate", user="nobody", password="right")
            socket.refused(400, op="authenticate", user="anna")
            socket.refused(401, op="publish", topic="a/x", payload="x")
            socket.ok(op="authenticate", user="anna", password="right")
        socket.ok(op="subscribe", filter="a/#", qos=1)
        socket.refused(403, op="subscribe", filter="#")
        socket.refused(403, op="subscribe", filter="b", group="g")
        socket.refused(403, op="publish", topic="b", payload="x")
        socket.refused(403, op="publish", topic="b", payload="x", qos=1, retained=True)
        told = socket.ok(op="publish", topic="a/x", payload="mine")
        check(told["matched"] == 1 and socket.event()["payload"] == "mine", "what anna may")
        # The same user may prove it anew.
        socket.ok(op="authenticate", user="anna", password="right")
        socket.quiet()
        socket.close()


PARTS = (operations, mistakes, window, many, groups)


def test():
    with Node(http=True, extra=f"limits: {{ max_in_flight: {WINDOW} }}\n") as node:
        for part in PARTS:
            part(node)
            print(f"{part.__name__}: ok", flush=True)
        drops = {key: value for key, value in node.counters().items() if key.startswith("dropped")}
        check(not drops, f"dropped: {drops}")
    with tempfile.TemporaryDirectory() as scratch:
        file = pathlib.Path(scratch) / "users"
        subprocess.run([APUS, "user", "add", "--file", file, "anna"], input=b"right\n", check=True, capture_output=True)
        security = f"security:\n  users: {file}\n  anonymous: never\n  access:\n"
        rule = '    - { allow: all, topics: ["a/#"], users: [anna] }\n'
        with Node(http=True, extra=security + rule) as node:
            users(node)
            print("users: ok", flush=True)
    return f"apus.v1.json: {len(PARTS) + 1} parts passed, nothing dropped"


if __name__ == "__main__":
    main(test)
