#!/usr/bin/env python3
"""Proves that MQTT over WebSocket is MQTT, with the Eclipse Paho client, and that the WebSocket around it is one, with
the client library `websockets`: every QoS, large messages, sessions that move between TCP and WebSocket under load;
handshakes, fragments, pings, closing. Run it with the interpreter that python.sh prints."""

import http.client
import itertools
import json
import random
import threading
import time
import urllib.request

import paho.mqtt.client as mqtt
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from node import PATIENCE, Failure, Node, check, connect_packet, main, packet, until
from paho_client import Client
from web import BINARY, MEBIBYTE

TAKEOVERS = 200


def qualities(node):
    """Every QoS in both versions, from WebSocket to WebSocket and TCP, and back."""
    for version in (mqtt.MQTTv5, mqtt.MQTTv311):
        web = Client(node, "web", version=version, web=True)
        tcp = Client(node, "tcp", version=version)
        for client in (web, tcp):
            check(client.subscribe("quality/#", 2) == [2], "not granted as asked")
        wanted = []
        for sender in (web, tcp):
            for qos in range(3):
                for payload in (b"", b"x", BINARY, MEBIBYTE * 2, *(str(number).encode() for number in range(200))):
                    last = sender.publish(f"quality/{qos}", payload, qos)
                    wanted.append((qos, payload))
                last.wait_for_publish(PATIENCE)
        for client in (web, tcp):
            for qos in range(3):
                got = [m.payload for m in client.wait(len(wanted)) if m.topic == f"quality/{qos}"]
                check(got == [payload for q, payload in wanted if q == qos], f"QoS {qos}: not what was sent, in order")
            check(len(client.received) == len(wanted), "something came twice")
            client.disconnect()


class Mover:
    """A client with one session that connects anew all the time, by TCP and by WebSocket in turn."""

    def __init__(self, node):
        self.node = node
        self.seen = {}
        self.problems = []
        self.client = None

    def move(self, web, polite):
        old = self.client
        if old and polite:
            old.disconnect()
            self.collect(old)
        self.client = Client(self.node, "mover", clean=False, web=web)
        if not old:
            self.client.subscribe("moving", 1)
        elif not self.client.session_present:
            self.problems.append("the session was lost")
        if old and not polite:
            check(old.ended.wait(PATIENCE), "a connection outlived its takeover")
            old.paho.loop_stop()
            self.collect(old)

    def collect(self, client):
        """What a client has received; repetitions must be marked."""
        for message in client.wait(0):
            number = int(message.payload)
            if number in self.seen and not message.dup:
                self.problems.append(f"event {number} came twice without DUP")
            self.seen[number] = self.seen.get(number, 0) + 1
        client.received.clear()


def takeovers(node):
    """One session moves 200 times between TCP and WebSocket, over living connections and between them, under load:
    nothing is lost, and what comes again says so."""
    mover = Mover(node)
    mover.move(web=False, polite=True)
    sender = Client(node, "sender", web=True)
    must_stop = threading.Event()
    sent = []

    def send():
        # At most 200 are on their way to the node, so that the session's queue has room for what waits.
        while not must_stop.is_set():
            batch = [sender.publish("moving", str(len(sent) + place), 1) for place in range(20)]
            sent.extend(range(len(sent), len(sent) + 20))
            for information in batch:
                information.wait_for_publish(PATIENCE)
            time.sleep(0.002)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    chance = random.Random(1)
    for turn in range(TAKEOVERS):
        mover.move(web=turn % 2 == 0, polite=chance.random() < 0.3)
    must_stop.set()
    thread.join(PATIENCE)
    check(not thread.is_alive(), "the sender was not acknowledged")
    mover.client.wait(0)
    until(lambda: len({int(m.payload) for m in mover.client.wait(0)} | set(mover.seen)) >= len(sent), "events are lost")
    mover.collect(mover.client)
    check(not mover.problems, "; ".join(mover.problems[:5]))
    check(sorted(mover.seen) == sent, f"{len(mover.seen)} of {len(sent)} events")
    check(node.counters().get("closed_takenOver", 0) > TAKEOVERS / 2, "too few takeovers of a living connection")
    mover.client.disconnect()
    # At rest what waits comes exactly once, whichever way its client comes.
    for web, number in itertools.product((True, False), range(5)):
        for place in range(20):
            sender.publish_settled("moving", str(place))
        back = Client(node, "mover", clean=False, web=web)
        got = [(int(message.payload), message.dup) for message in back.wait(20)]
        check(got == [(place, False) for place in range(20)], f"turn {number}: what waited is {got}")
        back.disconnect()
    sender.disconnect()
    return len(sent)


def address(node, path, **more):
    return connect(f"ws://127.0.0.1:{node.http_port}{path}", compression=None, max_size=1 << 25, **more)


def refused(node, path, **more):
    """The answer to a handshake that must not succeed."""
    try:
        address(node, path, **more).close()
    except InvalidStatus as failure:
        return failure.response
    raise Failure(f"a handshake was not refused: {path} {more}")


def handshakes(node):
    for path, protocol in (("/mqtt", "soap"), ("/ws", "mqtt"), ("/mqtt", None), ("/mqtt", "apus.v1.json")):
        answer = refused(node, path, subprotocols=[protocol] if protocol else None)
        check(answer.status_code == 400, f"{protocol} at {path}: {answer.status_code}")
        check("Sec-WebSocket-Protocol" in json.loads(answer.body)["detail"], f"{protocol} at {path}: {answer.body}")
    check(refused(node, "/nowhere/x", subprotocols=["mqtt"]).status_code in (404, 405), "a path that is none")
    for offered, chosen in ((["soap", "mqtt"], "mqtt"), (["mqttv3.1"], "mqttv3.1"), (["mqttv3.1", "mqtt"], "mqttv3.1")):
        with address(node, "/mqtt", subprotocols=offered) as socket:
            check(socket.subprotocol == chosen, f"{offered}: {socket.subprotocol}")
    for version in ("12", "8", "14"):
        plain = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=PATIENCE)
        plain.request("GET", "/mqtt", headers={
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": version,
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "mqtt",
        })
        answer = plain.getresponse()
        check(answer.status == 426, f"version {version}: {answer.status}")
        check(answer.headers["Sec-WebSocket-Version"] == "13", f"version {version}: which one is not said")
        answer.read()
        # The connection is as good as before.
        plain.request("GET", "/openapi.json")
        check(plain.getresponse().status == 200, "a connection behind a refused handshake")
        plain.close()
    for path, protocol in (("/mqtt", "mqtt"), ("/ws", "apus.v1.json"), ("/echo", None)):
        protocols = [protocol] if protocol else None
        check(refused(node, path, subprotocols=protocols, origin="http://evil.example").status_code == 403, path)
        check(refused(node, path, subprotocols=protocols, origin="null").status_code == 403, f"{path}: null")
        for origin in (f"http://127.0.0.1:{node.http_port}", "https://friend.example"):
            with address(node, path, subprotocols=protocols, origin=origin) as socket:
                check(socket.subprotocol == protocol, f"{path} for {origin}")
    # Extensions are declined; the client goes on without.
    with connect(f"ws://127.0.0.1:{node.http_port}/echo", compression="deflate") as socket:
        check("Sec-WebSocket-Extensions" not in socket.response.headers, "an extension")
        socket.send("plain")
        check(socket.recv(PATIENCE) == "plain", "without the extension that was declined")


def frames(node):
    """Fragments, large messages and pings against the echo."""
    with address(node, "/echo") as socket:
        for size in (0, 1, 125, 126, 65_535, 65_536, 2 << 20):
            data = (MEBIBYTE * 2)[:size]
            socket.send(data)
            check(socket.recv(PATIENCE) == data, f"{size} bytes")
            socket.send("ü" * (size // 2))
            check(socket.recv(PATIENCE) == "ü" * (size // 2), f"a text of {size} bytes")
        whole = MEBIBYTE * 2
        for piece in (len(whole) // 3, 10_007, 999):
            socket.send(whole[start : start + piece] for start in range(0, len(whole), piece))
            check(socket.recv(PATIENCE) == whole, f"2 MiB in fragments of {piece} bytes")
        socket.send(["grü", "", "ezi ", "🐝"])
        check(socket.recv(PATIENCE) == "grüezi 🐝", "a text in fragments")
        for data in (b"", b"x", b"y" * 125):
            check(socket.ping(data).wait(PATIENCE), f"no pong for a ping of {len(data)} bytes")
        socket.pong(b"nobody asked")
        pongs = [socket.ping(f"{number}".encode()) for number in range(100)]
        check(all(pong.wait(PATIENCE) for pong in pongs), "a ping of 100 was not answered")
        socket.send("still here")
        check(socket.recv(PATIENCE) == "still here", "after pings")


def end_of(socket):
    """The code with which the node closes."""
    try:
        while True:
            socket.recv(PATIENCE)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


def closing(node):
    for code in (1000, 1001, 3000, 4999):
        socket = address(node, "/echo")
        socket.close(code, "goodbye")
        check(socket.close_code == code, f"goodbye with {code} was answered with {socket.close_code}")
    hello = connect_packet("closing")
    wrong = [("text", 1003), (hello + packet(0xF0, b""), 1002), (hello + packet(0xE0, b""), 1000), (b"\x30\x00", 1002)]
    for data, code in wrong:
        with address(node, "/mqtt", subprotocols=["mqtt"]) as socket:
            socket.send(data)
            got = end_of(socket)
            check(got == code, f"{data!r} to MQTT was closed with {got}, not {code}")
    with address(node, "/ws", subprotocols=["apus.v1.json"]) as socket:
        socket.send(b"binary")
        check(end_of(socket) == 1003, "a binary message to JSON")
    with address(node, "/echo") as socket:
        socket.send(b"x" * ((16 << 20) + 1))
        got = end_of(socket)
        check(got == 1009, f"a message beyond the limit was closed with {got}")
    # One packet in many frames, many packets in one frame: MQTT does not care.
    with address(node, "/mqtt", subprotocols=["mqtt"]) as socket:
        for place in range(len(hello)):
            socket.send(hello[place : place + 1])
        check(socket.recv(PATIENCE) == b"\x20\x02\x00\x00", "CONNECT byte by byte")
        socket.send(packet(0xC0, b"") * 50)
        got = b""
        while len(got) < 100:
            got += socket.recv(PATIENCE)
        check(got == b"\xd0\x00" * 50, "50 PINGREQ in a frame")


PARTS = (qualities, takeovers, handshakes, frames, closing)


def test():
    extra = 'http: { debug_echo: true, cors_origins: ["https://friend.example"] }\n'
    moved = 0
    with Node(http=True, extra=extra) as node:
        for part in PARTS:
            moved = part(node) or moved
            print(f"{part.__name__}: ok", flush=True)
        drops = {key: value for key, value in node.counters().items() if key.startswith("dropped")}
        check(not drops, f"dropped: {drops}")
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/", timeout=PATIENCE) as page:
            check(page.status == 200, "the page, at the end")
    return f"WebSocket: {len(PARTS)} parts passed, {TAKEOVERS} takeovers with {moved} events, nothing lost or dropped"


if __name__ == "__main__":
    main(test)
