#!/usr/bin/env python3
"""Proves that clients that mean harm do none: garbage, half a CONNECT, silence, claims of 256 MB, floods and resets,
while a Paho pair exchanges events undisturbed. Run it with the interpreter that python.sh prints."""

import random
import socket
import struct
import threading
import time

from node import (
    PATIENCE, Node, check, connect_packet, main, packet, publish_packet, subscribe_packet, take_packets, text, until,
)
from paho_client import Client



def is_closed(connection, seconds=PATIENCE):
    """Whether the node closes within `seconds`; reads whatever it says."""
    end = time.monotonic() + seconds
    connection.settimeout(0.1)
    while time.monotonic() < end:
        try:
            if not connection.recv(65_536):
                return True
        except socket.timeout:
            continue
        except OSError:
            return True
    return False


class Pair:
    """A publisher and a subscriber that must not notice anything."""

    def __init__(self, node):
        self.receiver = Client(node, "undisturbed-receiver")
        self.receiver.subscribe("undisturbed/#", 1)
        self.sender = Client(node, "undisturbed-sender")
        self.sent = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self.stop.is_set():
            self.sender.publish(f"undisturbed/{self.sent % 7}", str(self.sent), 1).wait_for_publish(10)
            self.sent += 1
            time.sleep(0.002)

    def finish(self):
        self.stop.set()
        self.thread.join()
        check(not self.receiver.ended.is_set() and not self.sender.ended.is_set(), "the pair was disconnected")
        wanted = [str(number) for number in range(self.sent)]
        check(self.receiver.payloads(self.sent) == wanted, f"the pair did not get its {self.sent} in order")
        return self.sent


def garbage(node):
    generator = random.Random(20_261_121)
    for size in [1, 2, 5, 64, 1_000, 65_536, 300_000] * 10:
        connection = node.connect()
        try:
            connection.sendall(generator.randbytes(size))
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # It was closed while we were talking.
        check(is_closed(connection), f"garbage of {size} bytes is not closed")
        connection.close()
    for words in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 200, b"\x16\x03\x01\x02\x00" + b"\x01" * 600, b"SSH-2.0-x\r\n"):
        connection = node.connect()
        connection.sendall(words)
        check(is_closed(connection), f"{words[:10]} is not closed")


def after_connect(node):
    """Each of these ends its connection at once."""
    bad = [
        b"\x00\x00", b"\xf0\x00", connect_packet("x"), packet(0x30, text("a/#") + b"x"), packet(0x36, text("a") + b"\0\1"),
        packet(0x32, text("a") + b"\0\0"), packet(0x38, text("a")), packet(0x82, b"\0\1"), packet(0x80, b"\0\1\0\1a\0"),
        packet(0x30, b"\0\3\xed\xa0\x80"), packet(0x30, b"\0\1\0"), b"\x30\x80\x80\x80\x80\x01", packet(0x20, b"\0\0"),
        packet(0x62, b"\0\0"), packet(0x0F, b"what is this"), packet(0xE0, b"\0"), packet(0xC1, b""),
    ]
    for words in bad:
        connection = node.connect()
        connection.sendall(connect_packet("hostile"))
        check(connection.recv(4) == b"\x20\x02\x00\x00", "no CONNACK")
        start = node.clock()
        connection.sendall(words)
        check(is_closed(connection), f"{words[:12].hex()} is not closed")
        seconds = node.clock() - start
        check(seconds < 1, f"{words[:12].hex()} is not closed at once, but after {seconds:.1f} s")


def half_a_connect(node, results):
    # The first one's time begins before the last one is connected.
    start, connections = time.monotonic(), []
    for words in (b"", b"\x10", connect_packet("half")[:-1]):
        connection = node.connect()
        connection.sendall(words)
        connections.append((words, connection))
    # This one drips: a byte now and then must not prolong it.
    words, dripping = connect_packet("drip"), node.connect()
    connections.append((words, dripping))
    fair = node.clock()

    def drip():
        for byte in words[:-1]:
            try:
                dripping.sendall(bytes([byte]))
            except OSError:
                return
            time.sleep(0.4)

    threading.Thread(target=drip, daemon=True).start()
    for kind, connection in connections:
        was_closed = is_closed(connection)
        seconds, most = time.monotonic() - start, node.clock() - fair
        if not was_closed or seconds < 4.5 or most > 6.5:
            results.append(f"{len(kind)} bytes of a CONNECT: closed {was_closed} after {seconds:.1f} s instead of 5")


def silence(node, results):
    # Before it: the node's time begins with the CONNECT, whenever we come to read the answer.
    start, fair = time.monotonic(), node.clock()
    connection = node.connect()
    connection.sendall(connect_packet("silent", keep_alive=2))
    connection.recv(4)
    was_closed = is_closed(connection)
    seconds, most = time.monotonic() - start, node.clock() - fair
    if not was_closed or seconds < 2.9 or most > 4.5:
        results.append(f"keep-alive 2 s and silence: closed {was_closed} after {seconds:.1f} s instead of 3 to 4")
    lively = node.connect()
    lively.sendall(connect_packet("lively", keep_alive=2))
    for _ in range(6):
        time.sleep(1)
        lively.sendall(b"\xc0\x00")
    if is_closed(lively, 1):
        results.append("a client that pings was closed")


def claims(node):
    """256 MB announced, before CONNECT and after: closed at once, nothing kept for it."""
    before = node.resident_kilobytes()
    connections = []
    for number in range(200):
        connection = node.connect()
        if number % 2:
            connection.sendall(connect_packet(f"claim{number}"))
            connection.recv(4)
        connection.sendall(b"\x30\xff\xff\xff\x7f" + b"\0\1a" + b"x" * 1_000)
        connections.append(connection)
    for connection in connections:
        check(is_closed(connection), "a claim of 256 MB is not closed")
        connection.close()
    # Just below the limit, and never completed: only what was sent is kept.
    held = []
    for number in range(200):
        connection = node.connect()
        connection.sendall(connect_packet(f"held{number}"))
        connection.recv(4)
        connection.sendall(b"\x30" + b"\xf0\xff\xff\x07" + b"\0\1a" + b"x" * 1_000)
        held.append(connection)
    time.sleep(0.3)
    grown = node.resident_kilobytes() - before
    check(grown < 32_768, f"200 unfinished packets of 16 MB cost {grown} KiB")
    for connection in held:
        connection.close()


def resets(node):
    """Connections reset in the middle of everything."""
    for number in range(500):
        connection = node.connect()
        connection.sendall(connect_packet(f"reset{number % 10}") + subscribe_packet(1, "#", number % 3))
        connection.sendall(publish_packet("reset", b"x" * (number * 37 % 5_000), number % 3, 1)[: number % 97 + 20])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def flood_of_unreleased(node):
    """5,000 publishes at QoS 2 and never a PUBREL: ended at the limit of 1,024."""
    connection = node.connect()
    connection.sendall(connect_packet("flood"))
    answered = bytearray()
    try:
        for number in range(1, 5_001):
            connection.sendall(publish_packet("flood", b"x", 2, number))
    except OSError:
        pass
    connection.settimeout(PATIENCE)
    try:
        while chunk := connection.recv(65_536):
            answered += chunk
    except OSError:
        pass
    count = sum(1 for first, _ in take_packets(answered) if first == 0x50)
    check(count <= 1_024, f"{count} publishes without PUBREL were taken")


def never_reads(node):
    """A subscriber that does not read while 64 MB are published to it: the node's memory stays bounded."""
    lazy = node.connect()
    lazy.sendall(connect_packet("lazy") + subscribe_packet(1, "lazy/#", 0))
    time.sleep(0.2)
    before = node.resident_kilobytes()
    sender = node.connect()
    sender.sendall(connect_packet("lazy-sender"))
    for _ in range(1_000):
        sender.sendall(publish_packet("lazy/x", b"x" * 65_536))
    time.sleep(0.3)
    grown = node.resident_kilobytes() - before
    check(grown < 32_768, f"a subscriber that does not read costs {grown} KiB")
    lazy.close()
    sender.close()


def test():
    with Node() as node:
        pair = Pair(node)
        results = []
        slow = [threading.Thread(target=part, args=(node, results)) for part in (half_a_connect, silence)]
        try:
            for thread in slow:
                thread.start()
            for part in (garbage, after_connect, claims, resets, flood_of_unreleased, never_reads):
                part(node)
                print(f"{part.__name__}: ok", flush=True)
            for thread in slow:
                thread.join()
            check(not results, "; ".join(results))
        except BaseException:
            pair.stop.set()
            raise
        count = pair.finish()
        for client in (pair.receiver, pair.sender):
            client.disconnect()
        until(lambda: node.counters()["connections"] == 0, "connections are left")
    return f"hostile: 8 kinds of attack, a pair exchanged {count} events undisturbed"


if __name__ == "__main__":
    main(test)
