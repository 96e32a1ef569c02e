#!/usr/bin/env python3
"""Proves that a request over HTTP gets its reply from a client of MQTT 5, over TCP and over WebSocket, and from one of
HTTP: properties both ways, 1,000 requests at once answered in shuffled order, time-outs, replies that come too late.
Run it with the interpreter that python.sh prints."""

import http.client
import random
import socket
import struct
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from node import PATIENCE, Node, check, is_, main, until
from paho_client import Client
from web import BINARY, MEBIBYTE, Answer, Stream, curl, publish

THREADS = 50
TOTAL = 1_000


class Responder(Client):
    """A client of MQTT 5 that keeps requests until it is told to answer them."""

    def __init__(self, node, name, web):
        super().__init__(node, name, version=mqtt.MQTTv5, web=web)

    def reply(self, request, payload, qos=0, **values):
        properties = Properties(PacketTypes.PUBLISH)
        correlation = getattr(request.properties, "CorrelationData", None)
        for name, value in {"CorrelationData": correlation, **values}.items():
            if value is not None:
                setattr(properties, name, value)
        return self.publish(request.properties.ResponseTopic, payload, qos, properties=properties)


class Asking(threading.Thread):
    """curl in the background, with a request that waits."""

    def __init__(self, node, path, body, *headers, wait=60_000):
        super().__init__(daemon=True)
        self.arguments = (node, path, body, [f"Apus-Reply-Wait: {wait}", *headers])
        self.result = None
        self.start()

    def run(self):
        node, path, body, headers = self.arguments
        self.result = curl(node, path, body=body, headers=headers)

    def answer(self):
        self.join(PATIENCE)
        check(self.result is not None, f"{self.arguments[1]} was not answered")
        return self.result


def properties(node, responder):
    """What the request says arrives at the responder, what the reply says arrives as header fields."""
    for number, payload in enumerate((b"", b"x", BINARY, MEBIBYTE)):
        asking = Asking(node, "/ask/x", payload, "Apus-Property-a: 1", "Content-Type: application/x-thing",
                        *(["Apus-Correlation-Id: mine"] if number else []),
                        *(["Apus-Delivery-Mode: guaranteed"] if number % 2 else []))
        request = responder.wait(number + 1)[-1]
        is_("the request", payload, request.payload)
        is_("its type", "application/x-thing", request.properties.ContentType)
        is_("its properties", [("a", "1")], request.properties.UserProperty)
        check(request.properties.ResponseTopic.startswith("apus/reply/"), request.properties.ResponseTopic)
        if number:
            is_("its correlation", b"mine", request.properties.CorrelationData)
        responder.reply(
            request, payload[::-1], number % 2, ContentType="text/plain; charset=utf-8", MessageExpiryInterval=60,
            UserProperty=[("b", "1"), ("a", "ü"), ("b", "1")],
        )
        answer = asking.answer()
        is_("the reply", (200, payload[::-1]), (answer.status, answer.body))
        is_("the reply's type", "text/plain; charset=utf-8", answer.headers["content-type"])
        users = [field for field in answer.fields if field[0].startswith("Apus-Property-")]
        wanted = [("Apus-Property-b", "1"), ("Apus-Property-a", "%C3%BC"), ("Apus-Property-b", "1")]
        is_("its properties", wanted, users)
        is_("the correlation that came back", request.properties.CorrelationData.decode(),
            answer.headers["apus-correlation-id"])
        check(50_000 <= int(answer.headers["apus-time-to-live"]) <= 60_000, "its time")
    responder.received.clear()


def over_http(node, _):
    """Neither side need know of MQTT: the responder reads a stream and posts its reply."""
    stream = Stream(node, "filter=http/ask&format=json")
    asking = Asking(node, "/http/ask", b"over HTTP")
    request = stream.json()
    publish(node, "/TOPIC/" + request["reply_to"], request["payload"].upper().encode(),
            f"Apus-Correlation-Id: {request['correlation']}")
    answer = asking.answer()
    is_("over HTTP", (200, b"OVER HTTP"), (answer.status, answer.body))
    stream.close()


def raw_request(node, payload):
    """A request that waits, on a connection of its own."""
    made = socket.create_connection(("127.0.0.1", node.http_port), PATIENCE)
    made.sendall(b"POST /ask/x HTTP/1.1\r\nHost: localhost\r\nApus-Reply-Wait: 60000\r\nContent-Length: %d\r\n\r\n%s"
                 % (len(payload), payload))
    return made


def failures(node, responder):
    is_("nobody has subscribed", 503, curl(node, "/nobody", body=b"x", headers=["Apus-Reply-Wait: 60000"]).status)
    for headers in (
        ["Apus-Reply-Wait: 300001"], ["Apus-Reply-Wait: soon"], ["Apus-Reply-Wait: 9", "Apus-Reply-To: x"],
        ["Apus-Reply-Wait: 9", "Apus-Retain: true"], ["Apus-Reply-Wait: 9", "Solace-Reply-Wait-Time-In-ms: 9"],
    ):
        is_(f"{headers}", 400, curl(node, "/ask/x", body=b"x", headers=headers).status)
    late = node.counters().get("dropped_lateReply", 0)
    before = time.monotonic()
    answer = Asking(node, "/ask/x", b"too slow", wait=300).answer()
    took = time.monotonic() - before
    is_("no reply in time", (504, "application/problem+json"), (answer.status, answer.headers["content-type"]))
    check(0.3 <= took < 30, f"504 after {took:.1f} s")
    request = responder.wait(1)[0]
    responder.reply(request, "late", 1)
    until(lambda: node.counters().get("dropped_lateReply", 0) == late + 1, "a late reply is not counted")
    # The second reply to the same request is too late, too.
    asking = Asking(node, "/ask/x", b"twice")
    request = responder.wait(2)[-1]
    responder.reply(request, "first", 1)
    responder.reply(request, "second", 1)
    is_("the first reply", b"first", asking.answer().body)
    until(lambda: node.counters().get("dropped_lateReply", 0) == late + 2, "a second reply is not counted")
    # Whoever has said all may still listen; who has gone gets nothing, and its reply is counted.
    half, gone = raw_request(node, b"half"), raw_request(node, b"gone")
    requests = {request.payload: request for request in responder.wait(4)[2:]}
    half.shutdown(socket.SHUT_WR)
    ended = node.counters().get("closed_connectionLost", 0)
    # Without lingering the connection is reset, not ended.
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    until(lambda: node.counters().get("closed_connectionLost", 0) > ended, "the reset was not noticed")
    for request in requests.values():
        responder.reply(request, "there", 1)
    answer = Answer(half.recv(65_536))
    is_("to a connection that is half closed", (200, b"there"), (answer.status, answer.body))
    half.close()
    until(lambda: node.counters().get("dropped_lateReply", 0) == late + 3, "a reply to somebody gone is not counted")
    # With a key who comes back gets the reply, without asking a second time.
    asking = Asking(node, "/ask/x", b"key", "Idempotency-Key: reply")
    request = responder.wait(5)[-1]
    responder.reply(request, "once", 1)
    is_("with a key", b"once", asking.answer().body)
    again = Asking(node, "/ask/x", b"key", "Idempotency-Key: reply").answer()
    is_("with a key again", (b"once", "true"), (again.body, again.headers.get("idempotency-replayed")))
    is_("asked once", 5, len(responder.wait(5)))
    responder.received.clear()


def outstanding(node, responder):
    """1,000 requests wait at the same time, of 50 threads with 20 connections each; each gets its own answer."""
    problems = []

    def ask(thread):
        connections = []
        for number in range(TOTAL // THREADS):
            connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=60)
            connection.request("POST", f"/TOPIC/ask/{thread}", body=f"{thread}-{number}".encode(),
                               headers={"Apus-Reply-Wait": "60000"})
            connections.append((f"answer to {thread}-{number}", connection))
        for wanted, connection in connections:
            answer = connection.getresponse()
            got = answer.read().decode()
            if (answer.status, got) != (200, wanted):
                problems.append(f"{answer.status} {got} instead of {wanted}")
            connection.close()

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    requests = responder.wait(TOTAL, 60)
    is_("requests", TOTAL, len(requests))
    is_("reply topics", TOTAL, len({request.properties.ResponseTopic for request in requests}))
    random.Random(1).shuffle(requests)
    for request in requests:
        responder.reply(request, b"answer to " + request.payload, random.Random(request.payload).randrange(2))
    for thread in threads:
        thread.join(60)
    check(not any(thread.is_alive() for thread in threads), "not all were answered")
    check(not problems, "; ".join(problems[:5]))
    responder.received.clear()


PARTS = (properties, over_http, failures, outstanding)


def test():
    with Node(http=True) as node:
        for web in (False, True):
            responder = Responder(node, f"responder {web}", web)
            responder.subscribe("ask/#", 1)
            for part in PARTS:
                if part is not failures or not web:
                    part(node, responder)
                    print(f"{part.__name__} over {'WebSocket' if web else 'TCP'}: ok", flush=True)
            responder.disconnect()
        drops = {key: value for key, value in node.counters().items() if key.startswith("dropped")}
        is_("dropped", {"dropped_lateReply": 3}, drops)
    return f"request and reply: {len(PARTS)} parts passed, twice {TOTAL} at once, 3 late replies counted"


if __name__ == "__main__":
    main(test)
