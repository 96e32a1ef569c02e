#!/usr/bin/env python3
"""A second node of the mesh made of nothing but docs/wire-format.md: it shakes hands with a real one, tells of itself
and of what it wants, takes and sends direct and guaranteed events, acknowledges, answers a probe, and reads every frame
that it waits for to its last byte. So the document is not only what somebody believes.

Needs nothing but Python."""

import hashlib
import hmac
import json
import os
import select
import socket
import struct
import threading
import time
import urllib.request

from node import Node, check, connect_packet, main, publish_packet, read_until, subscribe_packet

(INITIATE, HELLO, ADVERTISEMENT, ADVERTISEMENT_REQUEST, DELTA, SNAPSHOT, INTEREST_REQUEST, DATA, STREAM_DATA,
 STREAM_ACK, STREAM_SYNC, LINK_ACK, RETAINED_DIGESTS, RETAINED_VALUES, RETAINED_REQUEST, BYE, TRACE, AUTHENTICATE,
 ADVERTISEMENT_VERSIONS, INTEREST_VERSIONS, ROUTED, SESSION, TRACE_ANSWER) = (
    1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16, 17, 18, 20, 22, 23, 24, 25, 26, 28, 29)
SECRET = "a secret of this test only"
MASK = (1 << 64) - 1


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def block(data):
    return varint(len(data)) + data


def frame(kind, body, frame_class=0, live=0, lane=0, flags=0):
    return (8 + len(body)).to_bytes(3, "little") + bytes([kind, flags, frame_class, live, lane]) + body


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, count):
        check(len(self.data) >= count, f"{count} bytes of {self.data.hex()}")
        found, self.data = self.data[:count], self.data[count:]
        return found

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def varint(self):
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def block(self):
        return self.take(self.varint())

    def end(self, what):
        check(not self.data, f"{len(self.data)} bytes behind {what}: {self.data.hex()}")


def folded(a, b):
    product = (a & MASK) * (b & MASK)
    return product >> 64 ^ product & MASK


def hashed(data, key):
    """The document's hash of bytes."""
    def word(place, size=8):
        return int.from_bytes(data[place : place + size], "little")

    state = key ^ len(data) * 0x9E3779B97F4A7C15 & MASK
    if len(data) >= 8:
        place = 0
        while place + 16 < len(data):
            state = folded(word(place) ^ 0xA0761D6478BD642F, word(place + 8) ^ state)
            place += 16
        first, second = word(min(place, len(data) - 8)), word(len(data) - 8)
    elif len(data) >= 4:
        first, second = word(0, 4), word(len(data) - 4, 4)
    elif data:
        first, second = data[0] << 16 | data[len(data) >> 1] << 8 | data[-1], 0
    else:
        first = second = 0
    return folded(first ^ 0xE7037ED1A0B428DB ^ key, second ^ 0x8EBC6AF09C88C6E3 ^ state)


def filter_hash(canonical):
    value = hashed(canonical, 0x496E746572657374) ^ 0x9E3779B97F4A7C15
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


class Connection:
    """One of the two of a link."""

    def __init__(self, port, own, purpose, token=0):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.buffer = bytearray()
        self.frames = []
        self.last = {}
        self.routed = []
        nonces = struct.unpack("<QQ", os.urandom(16))
        link = 0 if purpose else own.link
        ours = frame(INITIATE, b"apus" + bytes([1, 1]) + struct.pack("<Q", 0) + block(b"apus") + own.id
                     + struct.pack("<QQ", own.epoch, own.instance) + block(b"paper") + bytes([purpose]) + block(b"")
                     + struct.pack("<QQBHQIBI", *nonces, 1, link, token, 100, 100, 25) + b"of a later version")
        self.socket.sendall(ours)
        theirs = self.wait(INITIATE)
        reader = Reader(theirs[8:])
        check(reader.take(4) == b"apus" and reader.take(2) == b"\1\1" and reader.number(8) == 0, "a first frame")
        check(reader.block() == b"apus", "the mesh")
        self.peer, self.epoch, self.instance = reader.take(16), reader.number(8), reader.number(8)
        self.name = reader.block()
        check(reader.number(1) == purpose and reader.block() == b"", "purpose and name of the link are repeated")
        their_nonces = (reader.number(8), reader.number(8))
        check(reader.number(1) == 1, "it has a secret")
        self.link, their_token = reader.number(2), reader.number(8)
        check(their_token == 0 and (purpose or self.link > 0), f"link {self.link}, token {their_token}")
        check((reader.number(4), reader.number(1), reader.number(4)) == (100, 4, 1), "profile and cost")
        reader.end("initiate")
        self.nonce = nonces[0] + their_nonces[1] & MASK

        def proof(side):
            return hmac.new(SECRET.encode(), b"apus mesh 1" + side + ours + theirs, hashlib.sha256).digest()

        self.socket.sendall(frame(AUTHENTICATE, proof(b"\1")))
        check(self.wait(AUTHENTICATE)[8:] == proof(b"\2"), "its proof")

    def send(self, data):
        self.socket.sendall(data)

    def read(self, seconds):
        if not select.select([self.socket], [], [], seconds)[0]:
            return
        data = self.socket.recv(1 << 18)
        check(data, f"the connection has ended: {[x.hex() for x in self.frames]}")
        self.buffer += data
        while len(self.buffer) >= 8 and len(self.buffer) >= int.from_bytes(self.buffer[:3], "little"):
            length = int.from_bytes(self.buffer[:3], "little")
            self.frames.append(bytes(self.buffer[:length]))
            self.last[self.frames[-1][3]] = self.frames[-1]
            if self.frames[-1][3] == ROUTED:
                self.routed.append(self.frames[-1][20:])
            del self.buffer[:length]

    def wait(self, kind, fits=lambda _: True, seconds=30):
        """The next frame of a kind; those before it are let go."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while self.frames:
                found = self.frames.pop(0)
                if found[3] == kind and fits(found):
                    return found
                check(found[3] != BYE or kind == BYE, f"it says goodbye: {found[8:]}")
            self.read(0.05)
        check(False, f"no frame of type {kind}")


class Paper:
    """The node of paper."""

    short, link = 4711, 9

    def __init__(self, port):
        # The larger id: the other one leads when retained events are compared.
        self.id, self.instance = b"\xff" * 8 + os.urandom(8), int.from_bytes(os.urandom(8), "little")
        self.epoch = 5 << 16 | 77
        self.control = Connection(port, self, 0)
        self.heard = 0
        self.data = Connection(port, self, 1, self.control.nonce)
        check(self.data.peer == self.control.peer and self.data.instance == self.control.instance, "one node")
        self.sequence = 0
        threading.Thread(target=self.hellos, daemon=True).start()
        self.sent = [0, 0, 0, 0]

    def hellos(self):
        """Flags: the data connection is there. The digests are none; what differs is repaired, and changes nothing."""
        while True:
            self.sequence += 1
            try:
                self.control.send(frame(HELLO, varint(self.sequence) + varint(self.heard) + varint(0) + b"\1"
                                        + bytes(24) + b"of a later version"))
            except OSError:
                return
            time.sleep(0.1)

    def advertise(self):
        """Claims a number, and tells of the link."""
        adjacency = self.control.peer + struct.pack("<HHQI", self.link, self.control.link, self.control.nonce, 25)
        self.control.send(frame(ADVERTISEMENT, struct.pack("<HHI", 0, 0, 300_000) + self.id
                                + struct.pack("<QQQHI", self.epoch, self.instance, 1, self.short, 1) + block(b"paper")
                                + varint(1) + block(b"127.0.0.1:9") + varint(1) + adjacency
                                + struct.pack("<H", 77) + block(b"an extension")))

    def want(self, canonical):
        changes = varint(1) + varint(0) + varint(0) + varint(0) + bytes([min(len(canonical), 15) << 4])
        if len(canonical) >= 15:
            changes += varint(len(canonical) - 15)
        self.control.send(frame(DELTA, self.id + struct.pack("<Q", self.epoch) + varint(1)
                                + struct.pack("<Q", filter_hash(canonical)) + changes + canonical))

    def route(self, inner):
        self.control.send(frame(ROUTED, self.way() + inner, live=24))

    def route_bulk(self, inner):
        whole = frame(ROUTED, self.way() + inner, 3, 24)
        self.sent[3] += len(whole)
        self.data.send(whole)

    def way(self):
        return struct.pack("<HHQ", self.their_short, self.short, self.epoch)

    def events(self, whole, kind):
        """Reads a frame of events: counter, topic, payloads, and what stands between."""
        frame_class = 2 if kind == DATA else 1
        check(whole[5] == frame_class and whole[6] == 24 and whole[7] >> 4 == frame_class, whole[:8].hex())
        reader = Reader(whole[8:])
        check(reader.number(2) == self.their_short, "the origin's number")
        check(reader.take(4) == bytes(4) and reader.number(2) == 1, "area, namespace, one destination in a list")
        check(reader.number(8) == self.control.epoch, "the origin's epoch")
        check((reader.number(2), reader.number(2)) == (self.short, 5), "this node, in this life")
        counter = reader.number(4)
        flags, shares, topic, extension = reader.number(1), reader.number(1), reader.number(2), reader.number(2)
        count, properties, left = reader.number(2), reader.number(4), reader.number(4)
        identity = reader.number(8) if flags & 3 else 0
        version = (reader.number(8), reader.number(8)) if flags & 4 else None
        check(shares == 0 and extension <= properties and left == 0, "nothing of these")
        topic = reader.take(topic).decode()
        reader.take(properties)
        payloads = [reader.take(reader.number(4)) for _ in range(count)]
        reader.end("events")
        return counter, flags, topic, payloads, identity, version


def read_advertisement(whole):
    reader = Reader(whole[8:])
    check(reader.number(2) == 0, "area")
    flags, lifetime = reader.number(2), reader.number(4)
    check(0 < lifetime <= 300_000, "lifetime")
    identity, epoch, instance, sequence = reader.take(16), reader.number(8), reader.number(8), reader.number(8)
    short, claims = reader.number(2), reader.number(4)
    check(short > 0 and claims > 0 and sequence > 0, "a claim")
    name = reader.block().decode()
    addresses = [reader.block().decode() for _ in range(reader.varint())]
    links = [(reader.take(16), *struct.unpack("<HHQI", reader.take(16))) for _ in range(reader.varint())]
    reader.end("advertisement")
    return identity, (epoch, instance, flags, short, name, addresses, links)


def control_frames(paper):
    """What a link begins with."""
    control = paper.control
    hello = Reader(control.wait(HELLO, lambda x: x[8] == 1)[8:])
    check((hello.varint(), hello.varint(), hello.varint()) == (1, 0, 0), "the first hello has heard none")
    check(hello.number(1) & ~3 == 0, "flags of hello")
    hello.take(24)
    hello.end("hello")
    control.frames = []
    paper.control.send(frame(200, b"a type of a later version"))
    paper.data.send(frame(201, b"the same", frame_class=3))
    paper.sent[3] += len(frame(201, b"the same"))
    paper.control.send(frame(ADVERTISEMENT_REQUEST, varint(1) + control.peer))
    paper.advertise()

    def is_linked(whole):
        identity, said = read_advertisement(whole)
        return identity == control.peer and any(link[0] == paper.id for link in said[6])

    identity, said = read_advertisement(control.wait(ADVERTISEMENT, is_linked))
    epoch, instance, _, paper.their_short, name, addresses, links = said
    check((epoch, instance, name) == (control.epoch, control.instance, "interop"), f"what it says of itself: {said}")
    check(links == [(paper.id, control.link, paper.link, control.nonce, 25)], f"its link: {links}")
    check(len(addresses) == 1 and addresses[0].startswith("127.0.0.1:"), f"its address: {addresses}")
    # Digests that differ: it tells what it has.
    versions = Reader(control.wait(ADVERTISEMENT_VERSIONS)[8:])
    told = [(versions.take(16), versions.number(8), versions.number(8)) for _ in range(versions.varint())]
    versions.end("versions of advertisements")
    check({paper.id, control.peer} == {entry[0] for entry in told}, f"versions of both: {told}")


def interest_frames(paper, subscriber):
    control = paper.control
    subscriber.sendall(subscribe_packet(7, "back/+/x", 1))
    delta = Reader(control.wait(DELTA, lambda x: len(x) > 50)[8:])
    check(delta.take(16) == control.peer and delta.number(8) == control.epoch, "whose interest")
    sequence, said = delta.varint(), delta.number(8)
    check(sequence > 0 and (delta.varint(), delta.varint(), delta.varint()) == (1, 0, 0), "one filter begins")
    check((delta.varint(), delta.number(1)) == (0, len(b"back/\0+/x") << 4), "coded in full")
    canonical = delta.take(len(b"back/\0+/x"))
    delta.end("delta")
    check(canonical == b"back/\0+/x" and said == filter_hash(canonical), f"{canonical}, hash {said:x}")
    versions = Reader(control.wait(INTEREST_VERSIONS, lambda x: x[8] == 1)[8:])
    versions.take(1)
    for _ in range(versions.varint()):
        versions.take(24)
        versions.varint()
        versions.take(8)
    versions.end("versions of interest")


def whole_set(paper):
    """All that the node wants, asked for."""
    paper.control.send(frame(INTEREST_REQUEST, bytes([0]) + paper.control.peer
                             + struct.pack("<Q", paper.control.epoch) + varint(0) + b"\1"))
    part = Reader(paper.control.wait(SNAPSHOT)[8:])
    check(part.take(16) == paper.control.peer and part.number(8) == paper.control.epoch, "whose set")
    check(part.varint() > 0 and part.varint() == 0 and part.number(1) == 1, "a job, its first part and its last")
    versions, said = (part.varint(), part.varint()), part.number(8)
    check(0 < versions[0] <= versions[1], f"from version to version: {versions}")
    check((part.varint(), part.varint(), part.varint()) == (1, 0, 0), "one filter")
    check((part.varint(), part.number(1)) == (0, len(b"back/\0+/x") << 4), "coded in full")
    check(part.take(len(b"back/\0+/x")) == b"back/\0+/x" and said == filter_hash(b"back/\0+/x"), "the set")
    part.end("part of a set")


def retained(paper):
    """The node leads: its digest, the buckets of nothing, its listing, a request, the value, the answer."""
    digest = Reader(paper.control.wait(RETAINED_DIGESTS, lambda x: x[8] == 0, seconds=15)[9:])
    over_all, since = digest.number(8), digest.number(8)
    digest.end("digest")
    check(abs(since - time.time() * 1000) < 60_000, "since when")
    now = int(time.time() * 1000)
    paper.control.send(frame(RETAINED_DIGESTS, struct.pack("<BQQ", 1, 0, now) + bytes(8 * 1_024)))

    def is_bulk(kind):
        return lambda x: x[5] == 3 and x[20 + 3] == kind

    listing = Reader(paper.data.wait(ROUTED, is_bulk(RETAINED_DIGESTS))[20 + 8 :])
    check(listing.number(1) == 3 and listing.number(4) > 0, "a round")
    check(listing.number(4) == 1 and listing.varint() == 1, "its first portion, of one bucket")
    first, last = listing.number(8), listing.number(8)
    check(listing.varint() == 1, "one entry")
    topic, version, place = listing.number(8), (listing.number(8), listing.number(8)), listing.number(4)
    listing.end("listing")
    check(topic == hashed(b"kept/1", 0x41707573526574) and first <= topic <= last, "the hash of the topic")
    check(topic >> 54 == first >> 54 == last >> 54, "all of a bucket")
    mixture = folded(topic ^ 0xA0761D6478BD642F, version[0] ^ 0xE7037ED1A0B428DB)
    check(over_all == folded(mixture ^ 0x8EBC6AF09C88C6E3, version[1] ^ 0x9E3779B97F4A7C15), "the digest is its own")
    paper.route_bulk(frame(RETAINED_REQUEST, struct.pack("<I", 12) + varint(1)
                           + struct.pack("<BIQI", 1, place, topic, 0), 3))
    values = Reader(paper.data.wait(ROUTED, is_bulk(RETAINED_VALUES))[20 + 8 :])
    check((values.number(4), values.varint(), values.number(1)) == (12, 1, 2), "one value")
    check((values.number(8), values.number(8)) == version and values.number(8) == 0, "its version; for ever")
    check((values.number(1), values.number(2), values.number(2)) == (1, 0, 6), "QoS, extension, topic")
    check((values.number(4), values.number(4), values.number(4)) == (0, 4, 0), "properties, payload, offset")
    check(values.block() == b"kept/1kept", "topic and payload")
    values.end("value")


def what_was_routed(paper):
    """Frames for this node alone, whatever came of them: all of their bodies are as the document says."""
    bodies = {STREAM_SYNC: lambda x: len(x) == 17, SESSION: is_session}
    for inner in paper.control.routed:
        check(int.from_bytes(inner[:3], "little") == len(inner), "the length inside")
        check(bodies.get(inner[3], lambda _: True)(inner[8:]), f"type {inner[3]}: {inner[8:].hex()}")


def is_session(body):
    kind, rest = body[0], len(body) - 1
    return {1: rest == 8 + 16 + 8 + 4, 11: rest % 24 == 0, 13: rest % 24 == 0}.get(kind, False)


def events_come(paper, publisher):
    paper.want(b"wire/\0+")
    end = time.monotonic() + 30
    while not paper.data.frames:
        check(time.monotonic() < end, "no event comes")
        publisher.sendall(publish_packet("wire/1", b"direct"))
        paper.data.read(0.1)
    first = paper.events(paper.data.wait(DATA), DATA)
    check(first[0] == 1 and first[1:] == (0, "wire/1", first[3], 0, None), f"the first event: {first}")
    check(set(first[3]) == {b"direct"}, f"its payloads: {first[3]}")
    publisher.sendall(publish_packet("wire/2", b"guaranteed", qos=1, identifier=3))
    counter, flags, topic, payloads, identity, _ = paper.events(paper.data.wait(STREAM_DATA), STREAM_DATA)
    check((counter, flags, topic, payloads) == (1, 1, "wire/2", [b"guaranteed"]) and identity, "a guaranteed event")
    publisher.sendall(publish_packet("kept/1", b"kept", qos=1, identifier=4).replace(b"\x32", b"\x33", 1))
    again = paper.data.wait(STREAM_DATA, lambda x: x[24 + 4] == 2)
    counter, flags, topic, payloads, _, version = paper.events(again, STREAM_DATA)
    check((counter, flags, topic, payloads) == (2, 5, "kept/1", [b"kept"]), "a retained one, to all nodes")
    check(abs((version[0] >> 16) - time.time() * 1000) < 60_000, "its version is of now")
    check(version[1] == int.from_bytes(paper.control.peer[:8], "little"), "and of this node")
    # Nothing comes again once all is acknowledged.
    said = struct.pack("<QQ", paper.control.epoch, paper.epoch) + varint(2) + varint(100) + varint(1 << 20)
    paper.route(frame(STREAM_ACK, said + varint(0) + bytes([0, 0])))
    paper.data.frames = []
    end = time.monotonic() + 1.8
    while time.monotonic() < end:
        paper.data.read(0.1)
    again = [x for x in paper.data.frames if x[3] == STREAM_DATA and x[28] <= 2]
    check(not again, "an event comes again although it was acknowledged")


def events_go(paper, subscriber):
    def events(kind, frame_class, payload, qos, flags=0, counter=1):
        sealed = (bytes([qos, 0]) + struct.pack("<HHHII", 8, 0, 1, 0, 0) + (struct.pack("<Q", 99) if qos else b"")
                  + b"back/1/x" + struct.pack("<I", len(payload)) + payload)
        place = struct.pack("<HHHHQ", paper.short, 0, 0, 1, paper.epoch)
        destination = struct.pack("<HHI", paper.their_short, paper.control.epoch >> 16 & 0xFFFF, counter)
        whole = frame(kind, place + destination + sealed, frame_class, 24, frame_class << 4, flags)
        paper.sent[frame_class] += len(whole)
        paper.data.send(whole)

    events(DATA, 2, b"direct", 0)
    events(DATA, 2, b"the same counter again", 0)
    events(STREAM_DATA, 1, b"guaranteed", 1)
    buffer = bytearray()
    packets = read_until(subscriber, buffer, lambda all: sum(1 for x in all if x[0] >> 4 == 3) == 2)
    payloads = sorted(body.rpartition(b"back/1/x")[2] for first, body in packets if first >> 4 == 3)
    # With a packet identifier in front at QoS 1.
    check([x.lstrip(b"\0\1") for x in payloads] == [b"guaranteed", b"direct"], f"heard {payloads}")
    # One that comes before the other lane has taken the event says so.
    said = Reader(paper.control.wait(ROUTED, lambda x: x[20 + 3] == STREAM_ACK and x[20 + 8 + 16] > 0)[8:])
    check((said.number(2), said.number(2), said.number(8)) ==
          (paper.short, paper.their_short, paper.control.epoch), "from where to where")
    said.take(8)
    check((said.number(8), said.number(8)) == (paper.epoch, paper.control.epoch), "which stream")
    check(said.varint() == 1 and said.varint() > 0 and said.varint() > 0 and said.varint() == 0, "all settled")
    check(said.take(2) == b"\0\0", "no ranges, no refusals")
    said.end("acknowledgement of a stream")

    end = time.monotonic() + 30
    while True:
        reader = Reader(paper.control.last.get(LINK_ACK, bytes(11))[8:])
        found = [reader.varint() for _ in range(3)]
        reader.end("acknowledgement of a link")
        if found == paper.sent[1:]:
            break
        check(time.monotonic() < end, f"the link has acknowledged {found} of {paper.sent[1:]}")
        paper.control.read(0.1)


def probe(paper, node):
    found = {}

    def ask():
        with urllib.request.urlopen(f"http://{node.admin}/v1/mesh/trace?topic=wire/1", timeout=5) as answer:
            found.update(json.load(answer))

    asking = threading.Thread(target=ask)
    asking.start()
    whole = paper.data.wait(TRACE)
    check(whole[5] == 2 and whole[7] == 15, "class and lane of a probe")
    sealed = whole[24 + 8 :]
    check(len(sealed) == 8 + 10 and struct.unpack("<H", sealed[8:10])[0] == paper.their_short, "one stamp")
    check(abs(struct.unpack("<Q", sealed[10:])[0] / 1e6 - time.time()) < 60, "of now")
    stamp = struct.pack("<HQ", paper.short, int(time.time() * 1e6))
    paper.route(frame(TRACE_ANSWER, sealed + stamp))
    asking.join()
    path = found["paths"][0]
    check([hop["node"] for hop in path["hops"]] == ["interop", "paper"], f"the probe's way: {found}")


def body():
    with Node(extra=f'mesh: {{ listen: "127.0.0.1:0", secret: "{SECRET}", join: configured }}\n') as node:
        paper = Paper(node.ports["mesh"])
        control_frames(paper)
        with node.connect() as subscriber, node.connect() as publisher:
            for client, name in ((subscriber, "subscriber"), (publisher, "publisher")):
                client.sendall(connect_packet(name))
                read_until(client, bytearray(), lambda all: bool(all))
            interest_frames(paper, subscriber)
            whole_set(paper)
            events_come(paper, publisher)
            events_go(paper, subscriber)
            probe(paper, node)
            retained(paper)
        what_was_routed(paper)
        node.process.terminate()
        goodbye = Reader(paper.control.wait(BYE)[8:])
        check(goodbye.number(1) == 1 and goodbye.block() == b"the node is stopping", "why it ends")
        goodbye.end("bye")
    return "a node made of docs/wire-format.md is one of the mesh"


if __name__ == "__main__":
    main(body)
