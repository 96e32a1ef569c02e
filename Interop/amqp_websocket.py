#!/usr/bin/env python3
"""Proves that AMQP over WebSocket is AMQP: the exchanges of amqp_clients.py with Qpid Proton, its bytes carried in
WebSocket frames of every size by the library `websockets`; subscriptions that move between TCP and WebSocket;
handshakes, text frames, pings, and the end of both protocols.

Run it with the interpreter that python.sh prints."""

import random
import socket
import sys
import threading
import time

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import amqp_clients
import amqp_wire as wire
from node import PATIENCE, Node, check, is_, main, run_parts
from proton_client import Client, data, text, until
from web import MEBIBYTE

PARTS = (
    "openings", "blocking", "addresses", "anonymous", "qualities", "large", "many_links", "request_reply", "no_local",
    "drain", "outcomes", "stealing", "bytes_kept", "values",
)


def address(node, path, **more):
    return connect(f"ws://127.0.0.1:{node.http_port}{path}", compression=None, max_size=1 << 25, **more)


class Bridge:
    """Carries the bytes of connections to a port of its own over WebSocket. What looks like a node to clients."""

    def __init__(self, node, whole):
        self.node, self.whole = node, whole
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.amqp_port = self.listener.getsockname()[1]
        self.frames = 0
        self.problems = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                made, _ = self.listener.accept()
            except OSError:
                return
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            web = address(self.node, "/amqp", subprotocols=["amqp"], ping_interval=None)
            threading.Thread(target=self._up, args=(made, web), daemon=True).start()
            threading.Thread(target=self._down, args=(made, web), daemon=True).start()

    def _up(self, made, web):
        chance = random.Random(self.amqp_port)
        try:
            while data_ := made.recv(1 << 17):
                while data_:
                    # Frames of AMQP and of WebSocket have nothing to do with each other.
                    size = len(data_) if self.whole or len(data_) > 20_000 else chance.choice((1, 3, 17, 500, 10_000))
                    web.send(data_[:size])
                    data_ = data_[size:]
                    self.frames += 1
            web.close()
        except (OSError, ConnectionClosed):
            pass

    def _down(self, made, web):
        try:
            for message in web:
                if not isinstance(message, bytes):
                    self.problems.append("a text frame")
                made.sendall(message)
        except (OSError, ConnectionClosed):
            pass
        finally:
            if web.protocol.close_code not in (1000, 1001, 1005, None):
                self.problems.append(f"closed with {web.protocol.close_code} {web.protocol.close_reason}")
            try:
                made.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def close(self):
        self.listener.close()
        check(not self.problems, "; ".join(self.problems[:5]))


def exchanges(node):
    """What works over TCP works here."""
    frames = 0
    for whole, names in ((True, PARTS), (False, ("openings", "addresses", "qualities", "request_reply", "bytes_kept"))):
        bridge = Bridge(node, whole)
        for name in names:
            start = time.monotonic()
            getattr(amqp_clients, name)(bridge)
            print(f"  {name}{'' if whole else ' in pieces'}: ok, {time.monotonic() - start:.1f} s", flush=True)
        bridge.close()
        frames += bridge.frames
    return frames


def between(node):
    """TCP and WebSocket meet: publishers and receivers, and a durable subscription that moves."""
    bridge = Bridge(node, True)
    over_web, over_tcp = Client(bridge), Client(node)
    receivers = [over_web.receiver("between"), over_tcp.receiver("between")]
    for client in (over_web, over_tcp):
        client.sender("between").send_all([data(f"{number}".encode()) for number in range(500)])
        client.sender("between").accepted(data(MEBIBYTE * 2))
    for receiver in receivers:
        got = [one.body for one in receiver.wait(1_002)]
        numbers = [f"{number}".encode() for number in range(500)]
        check(got == numbers + [MEBIBYTE * 2] + numbers + [MEBIBYTE * 2], "not what was sent, in order")
    sender = over_tcp.sender("moving")
    sent = []
    for turn in range(6):
        client = Client(bridge if turn % 2 else node, "mover")
        receiver = client.receiver("moving", name="sub", durable=True)
        is_(f"turn {turn}", sent, receiver.bodies(len(sent)))
        receiver.nothing_more(0.05)
        receiver.detach()
        client.close()
        sent = [f"{turn}-{number}" for number in range(20)]
        sender.send_all([text(body=body) for body in sent])
    over_web.close()
    over_tcp.close()
    bridge.close()


def refused(node, path, **more):
    """The answer to a handshake that must not succeed."""
    try:
        address(node, path, **more).close()
    except InvalidStatus as failure:
        return failure.response.status_code
    return None


def handshakes(node):
    for path, protocols, chosen in (
        ("/amqp", ["amqp"], "amqp"), ("/amqp", ["soap", "amqp"], "amqp"),
        ("/$servicebus/websocket", ["AMQPWSB10"], "AMQPWSB10"), ("/$servicebus/websocket", ["amqp"], "amqp"),
    ):
        with address(node, path, subprotocols=protocols) as web:
            is_(f"{protocols} at {path}", chosen, web.subprotocol)
    for path, protocols in (("/amqp", None), ("/amqp", ["mqtt"]), ("/mqtt", ["amqp"]), ("/ws", ["amqp"])):
        is_(f"{protocols} at {path}", 400, refused(node, path, subprotocols=protocols))
    is_("another origin", 403, refused(node, "/amqp", subprotocols=["amqp"], origin="http://evil.example"))


def ends(node):
    """Pings are answered; the end of AMQP is the end of the WebSocket; texts and garbage are none of ours."""
    def greeting():
        web = address(node, "/amqp", subprotocols=["amqp"])
        web.send(wire.HEADER + wire.open_frame("ends"))
        return web

    def rest_of(web):
        got = b""
        try:
            while True:
                got += web.recv(PATIENCE)
        except ConnectionClosed:
            return got, web.protocol.close_code

    with greeting() as web:
        check(web.ping(b"there?").wait(PATIENCE), "no pong")
        web.send([wire.begin_frame()[:5], wire.begin_frame()[5:], b""])
        web.send(wire.performative(wire.CLOSE))
        got, code = rest_of(web)
        codes = [wire.Frame(frame).code for frame in frames_of(got[8:])]
        is_("open, begin, close", [wire.OPEN, wire.BEGIN, wire.CLOSE], codes)
        is_("closed with", 1000, code)
    # All that a client has to say, in one frame: more topics than the node routes in one go, and the end behind them.
    watching = Client(node)
    watcher = watching.receiver("burst/*")
    with greeting() as web:
        links = range(40)
        web.send(wire.begin_frame() + b"".join(wire.attach_sender(f"l{link}", link, f"burst/{link}") for link in links))
        got = b""
        while sum(wire.Frame(frame).code == wire.FLOW for frame in frames_of(got[8:])) < len(links):
            got += web.recv(PATIENCE)
        web.send(b"".join(
            wire.transfer_frame(link, link, wire.data_message(str(link).encode()), settled=True)
            for link in links) + wire.performative(wire.CLOSE))
        got, code = rest_of(web)
        frames = [wire.Frame(frame) for frame in frames_of(got)]
        is_("the end", (wire.CLOSE, None, 1000), (frames[-1].code, frames[-1].error, code))
    is_("the burst", [str(link).encode() for link in links], [one.body for one in watcher.wait(len(links))])
    watching.close()
    with greeting() as web:
        web.send("a text")
        _, code = rest_of(web)
        check(code in (1003, 1002, 1007), f"a text is answered with {code}")
    with greeting() as web:
        web.send(b"\xff" * 64)
        got, _ = rest_of(web)
        closed = [frame for frame in map(wire.Frame, frames_of(got[8:])) if frame.code == wire.CLOSE]
        check(closed and closed[0].error[0] == "amqp:connection:framing-error", f"garbage: {closed}")
    with address(node, "/amqp", subprotocols=["amqp"]) as web:
        web.send(b"GET / HTTP/1.1\r\n\r\n")
        got, _ = rest_of(web)
        is_("another protocol", wire.SASL_HEADER, got)


def frames_of(data_):
    while data_:
        size = int.from_bytes(data_[:4], "big")
        yield data_[:size]
        data_ = data_[size:]


def test(*only):
    with Node(http=True, amqp=True) as node:
        said = run_parts((handshakes, ends, between, exchanges), only, node)
        until(lambda: node.metrics()['apus_connections{protocol="amqp"}'] == 0, "connections are left", 60)
    return f"AMQP over WebSocket: {len(said)} parts passed, {said.get('exchanges')} WebSocket frames sent"


if __name__ == "__main__":
    main(test, *sys.argv[1:])
