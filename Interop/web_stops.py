#!/usr/bin/env python3
"""Proves what a node's end means to clients over HTTP and WebSocket: when it is told to stop, streams end cleanly,
WebSockets are told to go, whoever waits gets an answer, and the node is gone in time; when it is killed, clients that
come back learn of the gap. Run it with the interpreter that python.sh prints."""

import http.client
import json
import os
import signal
import socket
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from fair import fair_end
from node import PATIENCE, Node, check, is_, main, until
from paho_client import Client
from web import Stream, curl, mosquitto_pub, publish

DRAIN = 5
STREAMS = 20


class Waiting(threading.Thread):
    """A request in the background, by http.client."""

    def __init__(self, node, method, path, body=None, headers=None):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=60)
        self.connection.request(method, path, body=body, headers=headers or {})
        self.status, self.body, self.problem = None, None, None
        self.start()

    def run(self):
        try:
            answer = self.connection.getresponse()
            self.body = answer.read()
            self.status = answer.status
        except (OSError, http.client.HTTPException) as failure:
            self.problem = failure

    def finish(self):
        self.join(PATIENCE)
        check(self.status is not None, f"no answer: {self.problem!r}")
        return self.status, self.body


def ws(node, path, protocol=None):
    return connect(
        f"ws://127.0.0.1:{node.http_port}{path}", subprotocols=[protocol] if protocol else None, compression=None
    )


def code_of(socket):
    """The code with which the node has closed a WebSocket; what came before it is passed over."""
    try:
        while True:
            socket.recv(PATIENCE)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


def terminated(node):
    """SIGTERM with everything open."""
    streams = [Stream(node, "filter=stop/%23") for _ in range(STREAMS)]
    streams.append(Stream(node, "filter=stop/%23&group=g"))
    place = curl(node, "/poll?filter=stop/%23&wait=0").json()["next"]
    polls = [Waiting(node, "GET", f"/poll?filter=stop/%23&wait=60000&after={place}") for _ in range(5)]
    sockets = [ws(node, "/ws", "apus.v1.json"), ws(node, "/mqtt", "mqtt"), ws(node, "/echo")]
    sockets[0].send(json.dumps({"op": "subscribe", "id": 1, "filter": "stop/#"}))
    check(json.loads(sockets[0].recv(PATIENCE))["op"] == "ok", "not subscribed")
    five = Client(node, "five", version=mqtt.MQTTv5, web=True)
    five.subscribe("ask", 1)
    keeper = Client(node, "keeper", version=mqtt.MQTTv5, clean=False, properties=with_expiry(60), web=True)
    keeper.subscribe("stop/#", 1)
    asking = Waiting(node, "POST", "/ask", body=b"x", headers={"Apus-Reply-Wait": "60000"})
    is_("the request that waits", 1, len(five.wait(1)))
    idle = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=PATIENCE)
    idle.request("GET", "/topics")
    idle.getresponse().read()
    half = socket.create_connection(("127.0.0.1", node.http_port), PATIENCE)
    half.sendall(b"POST /stop/half HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbegun")
    publish(node, "/TOPIC/stop/last", b"the last one", "Apus-Delivery-Mode: guaranteed")
    for poll in polls:
        status, body = poll.finish()
        is_("a poll", (200, ["the last one"]), (status, [event["payload"] for event in json.loads(body)["events"]]))
    for stream in streams:
        is_("an event", ("stop/last", "the last one"), stream.event()[:2])
    subscriptions = node.counters()["subscriptions"]
    polls = [Waiting(node, "GET", f"/poll?filter=other/{number}&wait=60000") for number in range(5)]
    until(lambda: node.counters()["subscriptions"] >= subscriptions + 5, "polls did not subscribe")
    node.process.send_signal(signal.SIGTERM)
    took = fair_end(node.process)
    is_("the node's status", 0, node.process.returncode)
    check(took < DRAIN + 1, f"the node took {took:.1f} s of {DRAIN}")
    for stream in streams:
        # curl says with 18 when the last chunk is missing.
        is_("how curl ends", 0, stream.process.wait(PATIENCE))
        check(stream.ended.wait(PATIENCE) and stream.comments[-1] == "the node is stopping", f"{stream.comments}")
    for poll in polls:
        status, body = poll.finish()
        check(status == 200 and json.loads(body)["events"] == [], f"a poll at the end: {status} {body}")
    status, body = asking.finish()
    is_("the request that waited", 503, status)
    check("stopping" in json.loads(body)["detail"], f"{body}")
    for name, inner in zip(("/ws", "/mqtt", "/echo"), sockets):
        is_(f"the end of {name}", 1001, code_of(inner))
    for client in (five, keeper):
        check(client.ended.wait(PATIENCE), "a client of MQTT was not ended")
        is_("what MQTT 5 was told", 0x8B, client.end_reason)
        client.paho.loop_stop()
    is_("an idle connection", b"", idle.sock.recv(100))
    idle.close()
    half.close()
    return took


def with_expiry(seconds):
    made = Properties(PacketTypes.CONNECT)
    made.SessionExpiryInterval = seconds
    return made


def came_back(node):
    """A reader that comes back to the same run goes on where it was, over and over; to another run it is told."""
    stream = Stream(node, "filter=back/%23")
    sent, got = 0, []
    for turn in range(20):
        for _ in range(10):
            mosquitto_pub(node, "back/x", str(sent).encode()) if turn == 0 else publish(
                node, "/back/x", str(sent).encode(), *(["Apus-Delivery-Mode: guaranteed"] if turn % 2 else []))
            sent += 1
        while len(got) < sent:
            name, data, _ = stream.event()
            is_("its name", "back/x", name)
            got.append(int(data))
        last = stream.close()
        # What comes while it is away waits.
        for _ in range(5):
            publish(node, "/back/x", str(sent).encode())
            sent += 1
        stream = Stream(node, "filter=back/%23", f"Last-Event-ID: {last}")
    while len(got) < sent:
        got.append(int(stream.event()[1]))
    is_("each once, in order", list(range(sent)), got)
    last = stream.close()
    # Another stream's id, and more than a window.
    other = Stream(node, "filter=other/%23", f"Last-Event-ID: {last}")
    name, data, _ = other.event()
    is_("other filters", ("gap", "filters", last), (name, *json.loads(data).values()))
    other.close()
    lines = "".join(json.dumps({"topic": "back/x", "payload": str(number)}) + "\n" for number in range(1_500))
    told = curl(node, "/events", body=lines.encode(), headers=["Content-Type: application/x-ndjson"]).json()
    is_("many", 1_500, told["accepted"])
    stream = Stream(node, "filter=back/%23", f"Last-Event-ID: {last}")
    name, data, _ = stream.event()
    is_("a window", ("gap", "window", last), (name, *json.loads(data).values()))
    is_("what follows", [str(number) for number in range(500, 1_500)], [stream.event()[1] for _ in range(1_000)])
    last = stream.last_id
    polled = curl(node, "/poll?filter=polled&wait=0").json()["next"]
    node.kill()
    check(stream.ended.wait(PATIENCE), "a stream outlived its node")
    node.start()
    stream = Stream(node, "filter=back/%23", f"Last-Event-ID: {last}")
    name, data, _ = stream.event()
    is_("after a kill", ("gap", "unknown", last), (name, *json.loads(data).values()))
    publish(node, "/back/x", b"anew")
    is_("and on", ("back/x", "anew"), stream.event()[:2])
    check(stream.last_id and stream.last_id != last, f"an id of the run before: {stream.last_id}")
    stream.close()
    answer = curl(node, f"/poll?filter=polled&wait=0&after={polled}").json()
    is_("a poll after a kill", True, answer.get("gap"))


def test():
    extra = "http: { debug_echo: true }\n"
    with Node(http=True, extra=extra) as node:
        came_back(node)
        print("came_back: ok", flush=True)
    os.environ["APUS_NODE_DRAIN_SECONDS"] = str(DRAIN)
    with Node(http=True, extra=extra) as node:
        took = terminated(node)
        print("terminated: ok", flush=True)
    return f"a node's end: streams, polls, WebSockets and requests ended cleanly in {took:.1f} s; gaps are told"


if __name__ == "__main__":
    main(test)
