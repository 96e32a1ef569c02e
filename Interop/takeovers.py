#!/usr/bin/env python3
"""Proves that sessions survive takeovers under load: persistent clients reconnect all the time, mostly over their own
living connection and from the other lane, while a publisher and the clients themselves send numbered events at QoS 1.
Every client must get every event of every publisher, none missing, none out of order (duplicates are allowed).

    takeovers.py [takeovers, default 10000]

Needs nothing but Python."""

import random
import select
import sys
import threading
import time

from node import Failure, Node, check, connect_packet, main, publish_packet, subscribe_packet, take_packets

CLIENTS = 8
# How far the publisher may be ahead of the slowest subscriber: well below the node's queue limit.
AHEAD = 1_000


class Load:
    """What the threads share."""

    def __init__(self, node, takeovers):
        self.node = node
        self.left = takeovers
        self.lock = threading.Lock()
        self.problems = []
        self.sent = {}
        self.clients = [Client(self, f"mover{number}") for number in range(CLIENTS)]
        self.all_subscribed = threading.Barrier(CLIENTS + 1)
        self.publisher_must_stop = False
        self.may_finish = threading.Event()

    def take_one(self):
        with self.lock:
            self.left -= 1
            return self.left >= 0 and not self.problems


class Client(threading.Thread):
    """A persistent client on the move, which also hears itself."""

    def __init__(self, load, name):
        super().__init__(daemon=True)
        self.load = load
        self.name = name
        self.random = random.Random(name)
        self.last = {}
        self.duplicates = 0
        self.socket = None
        self.buffer = bytearray()
        # The one publish on its way; sent again on the next connection until it is acknowledged.
        self.number = 0
        self.is_acknowledged = True
        self.is_connected = False
        self.is_subscribed = False
        self.done = False

    def run(self):
        try:
            self.move()
            self.socket.sendall(subscribe_packet(1, "t/#", 1))
            while not self.is_subscribed:
                self.read()
            # An event before somebody's subscription would rightly be missing there.
            self.load.all_subscribed.wait(60)
            while self.load.take_one():
                self.move()
                self.listen(self.random.choice([0, 0, 0.001, 0.003]))
            self.load.may_finish.wait()
            self.catch_up()
        except (OSError, Failure, threading.BrokenBarrierError) as failure:
            self.load.problems.append(f"{self.name}: {failure!r}")

    def move(self):
        """Connects anew; the old connection is still there, three times of four."""
        old = self.socket
        if old and self.random.random() < 0.25:
            old.close()
        fresh = self.load.node.connect()
        fresh.settimeout(60)
        frames = connect_packet(self.name, clean=False)
        if self.is_subscribed:
            # Behind CONNECT, in the same segment: it moves to the session's lane along with the connection.
            if self.is_acknowledged:
                self.number += 1
                self.is_acknowledged = False
                self.load.sent[f"t/{self.name}"] = self.number
                frames += publish_packet(f"t/{self.name}", str(self.number).encode(), 1, 7)
            else:
                frames += publish_packet(f"t/{self.name}", str(self.number).encode(), 1, 7, dup=True)
        fresh.sendall(frames)
        self.buffer.clear()
        self.socket = fresh
        self.is_connected = False
        while not self.is_connected:
            self.read()
        if old:
            old.close()

    def listen(self, seconds):
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if not select.select([self.socket], [], [], max(left, 0))[0]:
                return
            self.read()
            if left <= 0:
                return

    def catch_up(self):
        end = time.monotonic() + 60
        if not self.is_acknowledged:
            self.socket.sendall(publish_packet(f"t/{self.name}", str(self.number).encode(), 1, 7, dup=True))
        while time.monotonic() < end:
            self.done = self.is_acknowledged and all(self.last.get(t, 0) == n for t, n in self.load.sent.items())
            if self.done and all(client.done for client in self.load.clients):
                return
            self.listen(0.05)
        behind = {t: (self.last.get(t, 0), n) for t, n in self.load.sent.items() if self.last.get(t, 0) != n}
        if behind or not self.is_acknowledged:
            self.load.problems.append(f"{self.name} did not get everything: {behind}")

    def read(self):
        chunk = self.socket.recv(262_144)
        check(chunk, "closed by the node")
        self.buffer += chunk
        answer = bytearray()
        for first, body in take_packets(self.buffer):
            if first == 0x20:
                check(body[1] == 0, f"refused with {body[1]}")
                self.is_connected = True
            elif first & 0xF0 == 0x30:
                check(self.is_connected, "an event before CONNACK")
                answer += self.event(first, body)
            elif first == 0x90:
                check(body[2:] == b"\x01", "the subscription was refused")
                self.is_subscribed = True
            elif first == 0x40:
                self.is_acknowledged = True
        if answer:
            self.socket.sendall(answer)

    def event(self, first, body):
        length = int.from_bytes(body[:2], "big")
        topic = body[2 : 2 + length].decode()
        check(first & 6 == 2, f"QoS {first >> 1 & 3} instead of 1")
        number = int(body[length + 4 :])
        last = self.last.get(topic, 0)
        if number <= last:
            self.duplicates += 1
        else:
            check(number == last + 1, f"{topic}: {number} after {last}")
            self.last[topic] = number
        return b"\x40\x02" + body[2 + length : 4 + length]


def publish(load):
    """The publisher: numbered events, at most 200 unacknowledged, not too far ahead."""
    connection = load.node.connect()
    connection.sendall(connect_packet("publisher"))
    connection.settimeout(60)
    buffer = bytearray()
    sent, acknowledged = 0, 0
    connected = False
    while not connected or acknowledged < sent or not load.publisher_must_stop:
        slowest = min(client.last.get("t/main", 0) for client in load.clients)
        frames = bytearray()
        while connected and sent - acknowledged < 200 and sent - slowest < AHEAD and not load.publisher_must_stop:
            sent += 1
            frames += publish_packet("t/main", str(sent).encode(), 1, sent % 65_535 + 1)
            if len(frames) > 600:
                break
        if frames:
            load.sent["t/main"] = sent
            connection.sendall(frames)
        if select.select([connection], [], [], 0.002)[0]:
            buffer += connection.recv(65_536)
            for first, body in take_packets(buffer):
                connected = connected or first == 0x20
                if first == 0x40:
                    acknowledged += 1
                    if int.from_bytes(body, "big") != acknowledged % 65_535 + 1:
                        load.problems.append(f"PUBACK {body.hex()} out of order")
        if load.problems:
            return
    connection.close()


def test(takeovers):
    with Node(lanes=2) as node:
        load = Load(node, takeovers)
        for client in load.clients:
            client.start()
        load.all_subscribed.wait(60)
        publisher = threading.Thread(target=publish, args=(load,), daemon=True)
        publisher.start()
        while load.left > 0 and not load.problems:
            time.sleep(0.05)
        load.publisher_must_stop = True
        publisher.join(30)
        load.may_finish.set()
        for client in load.clients:
            client.join(60)
        check(not load.problems, "; ".join(load.problems[:5]))
        check(not publisher.is_alive(), "the publisher was not acknowledged")
        counters = node.counters()
        drops = {key: value for key, value in counters.items() if key.startswith("dropped")}
        check(not drops, f"dropped: {drops}")
        taken = counters.get("closed_takenOver", 0)
        check(taken > takeovers // 2, f"only {taken} takeovers of a living connection")
        events = sum(load.sent.values())
        duplicates = sum(client.duplicates for client in load.clients)
    return (
        f"takeovers: {takeovers} reconnects, {taken} over a living connection, {events} events to {CLIENTS} clients "
        f"each, none lost or out of order, {duplicates} duplicates"
    )


if __name__ == "__main__":
    main(test, int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
