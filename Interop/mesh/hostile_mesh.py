#!/usr/bin/env python3
"""Peers that misbehave at a node's mesh port: another mesh, another version, a wrong secret, garbage, a clone, floods,
sets of a million filters, events for nodes that do not exist. Each is refused or bounded, told why, and the pair of
nodes beside it goes on as if nothing were.

    hostile_mesh.py [NAMES of checks]

Needs nothing but Python. The frames are those of docs/wire-format.md."""

import hashlib
import hmac
import os
import select
import shutil
import struct
import time

import scenario
import meshnet
import wire  # after scenario, which says where it is
from meshnet import MESH, SECRET, Mesh, MeshNode
from node import check
from wire import Wire

INITIATE, HELLO, ADVERTISEMENT, DELTA, SNAPSHOT, DATA, BYE, AUTHENTICATE = 1, 2, 3, 5, 6, 9, 20, 23
INTEREST_VERSIONS, STREAM_DATA = 25, 10
MAGIC = 0x7375_7061


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value):
    raw = value.encode()
    return varint(len(raw)) + raw


def on_wire(identity):
    """A node's id of 32 hexadecimal digits: two numbers."""
    return struct.pack("<QQ", int(identity[:16], 16), int(identity[16:], 16))


def frame(kind, body, flags=0, frame_class=0, ttl=0, lane=0):
    return (8 + len(body)).to_bytes(3, "little") + bytes([kind, flags, frame_class, ttl, lane]) + body


class Peer:
    """What dials a node and says what it likes. `fields` change its first frame."""

    def __init__(self, node, identity=None, secret=SECRET, **fields):
        self.node = node
        self.secret = secret
        self.fields = {
            "magic": MAGIC, "low": 1, "high": 1, "mesh": node.mesh.id, "id": identity or os.urandom(16),
            "epoch": 1 << 16, "instance": int.from_bytes(os.urandom(8), "little"), "name": "hostile", "purpose": 0,
            "token": 0, "hello": 100, "multiplier": 4, **fields}
        self.socket = node.dial(MESH)
        self.buffer = bytearray()
        self.frames = []
        self.farewell = None
        self.is_closed = False
        self.sequence = 0

    def first(self):
        f = self.fields
        self.nonces = struct.unpack("<QQ", os.urandom(16))
        return frame(INITIATE, struct.pack("<IBBQ", f["magic"], f["low"], f["high"], 0) + text(f["mesh"]) + f["id"]
                     + struct.pack("<QQ", f["epoch"], f["instance"]) + text(f["name"]) + bytes([f["purpose"]])
                     + text("") + struct.pack("<QQBHQIBI", *self.nonces, self.secret is not None, 7, f["token"],
                                              f["hello"], f["multiplier"], 10))

    def send(self, data):
        try:
            self.socket.settimeout(5)
            self.socket.sendall(data)
            return True
        except TimeoutError:
            return False
        except OSError:
            self.is_closed = True
            return False

    def read(self, seconds):
        """Takes what comes in that time; False at the end of the connection."""
        end = time.monotonic() + seconds
        while not self.is_closed:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return True
            try:
                data = self.socket.recv(1 << 18)
            except OSError:
                data = b""
            self.is_closed = not data
            self.buffer += data
            while len(self.buffer) >= 8:
                length = int.from_bytes(self.buffer[:3], "little")
                if len(self.buffer) < length:
                    break
                self.take(bytes(self.buffer[:length]))
                del self.buffer[:length]
            if self.frames and seconds == 0:
                return True
        return False

    def take(self, whole):
        if whole[3] == BYE:
            length = whole[9]
            self.farewell = (whole[8], whole[10 : 10 + length].decode())
        else:
            self.frames.append(whole)

    def wait_frame(self, kind, seconds=5):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for whole in self.frames:
                if whole[3] == kind:
                    return whole
            if self.is_closed:
                return None
            self.read(0.05)
        return None

    def prove(self, ours, theirs):
        message = b"apus mesh 1" + b"\1" + ours + theirs
        return hmac.new((self.secret or "").encode(), message, hashlib.sha256).digest()

    def shake(self):
        """The handshake; whether the node let it in."""
        ours = self.first()
        self.send(ours)
        theirs = self.wait_frame(INITIATE)
        if theirs is None:
            return False
        self.their_nonces = self.nonces_of(theirs)
        self.send(frame(AUTHENTICATE, self.prove(ours, theirs)))
        return self.wait_frame(AUTHENTICATE) is not None

    @staticmethod
    def nonces_of(first):
        """Reads over what stands before them."""
        place = 8 + 4 + 2 + 8
        place += 1 + first[place]
        place += 16 + 16
        place += 1 + first[place]
        place += 1
        place += 1 + first[place]
        return struct.unpack_from("<QQ", first, place)

    def join(self):
        """A link with both connections, up. The data connection is `data`."""
        check(self.shake(), f"an honest peer is refused: {self.farewell}")
        token = (self.nonces[0] + self.their_nonces[1]) & (1 << 64) - 1
        same = {key: self.fields[key] for key in ("epoch", "instance", "name")}
        self.data = Peer(self.node, self.fields["id"], self.secret, purpose=1, token=token, **same)
        check(self.data.shake(), f"the data connection is refused: {self.data.farewell}")
        for _ in range(6):
            self.hello()
            self.read(0.05)
        return self

    def hello(self):
        self.sequence += 1
        self.send(frame(HELLO, varint(self.sequence) + varint(0) + varint(0) + bytes([1]) + bytes(24)))

    def stay(self, seconds):
        """Keeps the link alive; whether it is still there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.is_closed:
            self.hello()
            self.read(0.08)
        return not self.is_closed

    def advertisement(self, sequence, identity=None, short_id=4000, adjacencies=(), epoch=None, name="hostile"):
        body = struct.pack("<HHI", 0, 0, 300_000) + (identity or self.fields["id"])
        body += struct.pack("<QQQHI", epoch or self.fields["epoch"], self.fields["instance"], sequence, short_id, 1)
        body += text(name) + varint(0) + varint(len(adjacencies)) + b"".join(adjacencies)
        return frame(ADVERTISEMENT, body)

    def close(self):
        self.socket.close()
        if hasattr(self, "data"):
            self.data.close()


class Pair:
    """Two nodes with traffic between them, which nothing may disturb."""

    def __init__(self, loopback=False):
        self.mesh = Mesh(["a", "b"], [("a", "b")], loopback=loopback)

    def __enter__(self):
        self.mesh.__enter__()
        self.mesh.wait()
        self.subscriber = Wire(self.mesh["b"], 4, "subscriber")
        check(self.subscriber.subscribe("pair/#", 1) == 1, "refused")
        self.publisher = Wire(self.mesh["a"], 4, "publisher")
        self.mesh.until(lambda: self.mesh["a"].topology().filters("b") == 1, 5, "interest")
        self.sent = 0
        self.slowest = 0.0
        self.undisturbed(20)
        return self

    def __exit__(self, *what):
        return self.mesh.__exit__(*what)

    def undisturbed(self, count=50):
        """Events go from a to b, one after another, each within a second."""
        for _ in range(count):
            self.sent += 1
            start = time.monotonic()
            self.publisher.send(wire.publish(4, "pair/x", str(self.sent).encode(), 1, self.sent % 65_535 + 1))
            while not any(first & 0xF0 == 0x30 for first, _ in self.subscriber.arrived):
                check(not self.subscriber.closed and time.monotonic() - start < 5, f"event {self.sent} does not come")
                self.subscriber.read(0.2)
            events = self.subscriber.events()
            check([int(event.payload) for event in events] == [self.sent], f"{[e.payload for e in events]}")
            self.subscriber.send(wire.acknowledgement(wire.PUBACK, events[0].identifier))
            self.subscriber.arrived.clear()
            self.slowest = max(self.slowest, time.monotonic() - start)
            self.publisher.read(0.000_1)
            self.publisher.arrived.clear()
        check(self.mesh["a"].topology().up.count("b") == 1, "the link of the pair has gone")

    def refused(self, peer, words, what):
        """The node says goodbye with a reason that has these words, and notes it in its log when the connection is
        gone, which the peer may delay a little."""
        end = time.monotonic() + 7
        while not peer.is_closed and time.monotonic() < end:
            peer.read(0.1)
        check(peer.is_closed, f"{what}: the connection stays")
        check(peer.farewell is not None, f"{what}: no reason was given")
        check(words in peer.farewell[1], f"{what}: the reason is {peer.farewell}")
        self.mesh.until(lambda: words in self.mesh["a"].log_text(), 5, f"{what}: nothing in the log about it")
        print(f"    {what}: {peer.farewell[1]}")


def strangers():
    """Another mesh, another version, wrong or missing secret, itself, the id of a node that is alive."""
    with Pair() as pair:
        a = pair.mesh["a"]
        for what, words, options in (
            ("other mesh", "mesh.id", {"mesh": "other"}),
            ("version 2 to 9", "versions", {"low": 2, "high": 9}),
            ("version 0", "versions", {"low": 0, "high": 0}),
            ("no secret", "secret", {"secret": None}),
            ("wrong secret", "secret", {"secret": "not the secret of this mesh"}),
        ):
            peer = Peer(a, **options)
            check(not peer.shake(), f"{what}: was let in")
            pair.refused(peer, words, what)
            peer.close()
        own, other = (on_wire(pair.mesh[name].topology().raw["id"]) for name in ("a", "b"))
        for what, identity in (("the node's own id", own), ("the id of its neighbour", other)):
            peer = Peer(a, identity)
            check(not peer.shake(), f"{what}: was let in")
            pair.refused(peer, "data directory", what)
            peer.close()
        pair.undisturbed()


def garbage():
    """Bytes that are no frames, frames that lie about their length, every frame type with nonsense in it."""
    with Pair() as pair:
        a = pair.mesh["a"]
        for what, bytes_ in (
            ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), ("zeros", bytes(64)), ("ones", b"\xff" * 64),
            ("a first frame cut short", frame(INITIATE, b"\x61\x70\x75\x73")),
            ("a frame of 7 bytes", b"\x07\0\0\x01\0\0\0\0"), ("an empty body", frame(INITIATE, b"")),
        ):
            peer = Peer(a)
            peer.send(bytes_)
            pair.refused(peer, "", what)
            peer.close()
        silent = Peer(a)
        silent.send(b"\x40\0\0\x01")
        seed = int(os.environ.get("SEED", "1"))
        closed, total = 0, 0
        for kind in range(0, 256):
            if kind in (BYE, HELLO) or (kind > 40 and kind % 31):
                continue
            for size in (0, 3, 40, 300):
                body = hashlib.shake_128(f"{seed} {kind} {size}".encode()).digest(size)
                total += 1
                peer = Peer(a)
                check(peer.shake(), f"an honest handshake is refused: {peer.farewell}")
                peer.send(frame(kind, body))
                peer.hello()
                peer.read(0.02)
                closed += peer.is_closed
                peer.close()
        print(f"    {total} frames of nonsense on control connections; {closed} ended their link at once")
        pair.undisturbed()
        end = time.monotonic() + 8
        while not silent.is_closed and time.monotonic() < end:
            silent.read(0.2)
        check(silent.is_closed, "half a first frame holds a connection for ever")
        silent.close()


def clone():
    """A copy of a node's data directory is started: one of the two goes on, the other says why not, and no storm."""
    with Pair(loopback=True) as pair:
        mesh = pair.mesh
        late = mesh.add_node("c", [f"{mesh['a'].address}:{MESH}"])
        mesh.until(lambda: "c" in mesh["a"].topology().up, 10, "c does not join")
        twin = MeshNode(mesh, len(mesh.nodes), "twin")
        mesh.nodes["twin"] = twin
        twin.extra_links = [f"{mesh['a'].address}:{MESH}"]
        shutil.copytree(late.directory / "data" / "mesh", twin.directory / "data" / "mesh")
        twin.start()
        time.sleep(3)
        pair.undisturbed()
        said = [name for name in ("c", "twin") if "data directory" in mesh[name].log_text()
                or "left the mesh" in mesh[name].log_text()]
        check(said, "neither says that there are two of them")
        before = [len(mesh["a"].records())]
        time.sleep(3)
        grown = len(mesh["a"].records()) - before[0]
        check(grown < 20, f"a writes {grown} lines in 3 s about the clone")
        reached = mesh["b"].topology().reachable
        print(f"    {' and '.join(said)} say so; b reaches {sorted(reached)}; {grown} lines in 3 s")
        check("c" in reached or "twin" in reached, "neither takes part any more")


def flood_advertisements():
    """A neighbour sends 10,000 advertisements a second, of itself and of nodes there are none of; others still join."""
    with Pair(loopback=True) as pair:
        a = pair.mesh["a"]
        peer = Peer(a).join()
        memory = a.resident_kilobytes()
        start, sequence = time.monotonic(), 0
        while time.monotonic() - start < 3 and not peer.is_closed:
            batch = b""
            for _ in range(200):
                sequence += 1
                identity = None if sequence % 2 else hashlib.md5(str(sequence).encode()).digest()
                batch += peer.advertisement(sequence, identity, short_id=sequence % 65_535 + 1)
            peer.send(batch)
            peer.hello()
            peer.read(0.01)
        rate = sequence / (time.monotonic() - start)
        during = pair.slowest
        pair.slowest = 0
        pair.undisturbed()
        grown = a.resident_kilobytes() - memory
        known = len(a.topology().raw["nodes"])
        print(f"    {rate:.0f} a second; {known} nodes known afterwards, {grown} KiB more, slowest event "
              f"{pair.slowest * 1000:.0f} ms (before {during * 1000:.0f}), peer "
              + (f"refused: {peer.farewell}" if peer.is_closed else "kept"))
        check(known <= 1_100, f"{known} nodes are known")
        check(grown < 64_000, f"{grown} KiB more")
        peer.close()
        late = pair.mesh.add_node("c", [f"{a.address}:{MESH}"])
        b = pair.mesh["b"]
        joined = pair.mesh.until(
            lambda: {"a", "b", "c"} <= late.topology().reachable and "c" in b.topology().reachable, 20,
            lambda: f"a node that comes afterwards is not taken: b reaches {b.topology().reachable}, c "
            f"{late.topology().reachable}")
        print(f"    a new node is reached by all after {joined * 1000:.0f} ms")


def filter_frame(peer, first, count, sequence, kind=DELTA, identity=None):
    """A delta that begins `count` filters; nothing is shared between them."""
    body = (identity or peer.fields["id"]) + struct.pack("<Q", peer.fields["epoch"]) + varint(sequence)
    body += struct.pack("<Q", 1) + varint(count) + varint(0) + varint(0)
    for number in range(first, first + count):
        name = f"hostile/{number:08}".encode()
        body += varint(0) + bytes([0xF0]) + varint(len(name) - 15) + name
    return frame(kind, body)


def million_filters():
    """Sets of more filters than a node takes of one, forged and of an honest node: bounded, nobody is disturbed."""
    with Pair() as pair:
        mesh = pair.mesh
        mesh.settings["max_filters"] = 20_000
        a = mesh["a"]
        a.restart()
        mesh.wait()
        pair.publisher = Wire(a, 4, "publisher")
        mesh.until(lambda: a.topology().filters("b") == 1, 5, "interest")
        peer = Peer(a).join()
        peer.send(peer.advertisement(1))
        peer.stay(0.3)
        memory = a.resident_kilobytes()
        sequence = 0
        for first in range(0, 1_000_000, 1_000):
            sequence += 1
            if not peer.send(filter_frame(peer, first, 1_000, sequence)):
                break
            if sequence % 20 == 0:
                peer.hello()
                peer.read(0.001)
        peer.stay(0.5)
        grown = a.resident_kilobytes() - memory
        print(f"    {sequence * 1000} filters sent, {a.topology().filters('hostile')} taken, {grown} KiB more; "
              + (f"refused: {peer.farewell}" if peer.is_closed else "the link stays"))
        check(a.topology().filters("hostile") <= 20_000, "more filters than allowed")
        check(grown < 64_000, f"{grown} KiB more")
        pair.undisturbed()
        peer.close()
        client = Wire(mesh["b"], 4, "many")
        for first in range(0, 30_000, 500):
            body = (1).to_bytes(2, "big") + b"".join(
                wire.text(f"many/{number}/x") + b"\0" for number in range(first, first + 500))
            client.send(wire.packet(0x82, body))
            check(client.take(wire.SUBACK, 20) is not None, "no SUBACK")
        time.sleep(3)
        taken = a.topology().filters("b")
        told = [line for line in a.log_text().splitlines() if "filters" in line]
        print(f"    an honest node's 30,001 filters: {taken} taken; in the log: {told[-1:]}")
        check(taken <= 20_000, "more filters than allowed")
        check(told, "nothing in the log about it")
        client.close()
        mesh.until(lambda: a.topology().filters("b") == 1, 15, lambda: f"{a.topology().filters('b')} filters remain")
        pair.undisturbed()


def nowhere():
    """Events for nodes that do not exist, from nodes that do not exist, for other lives, with lying sets."""
    with Pair() as pair:
        a = pair.mesh["a"]
        peer = Peer(a).join()
        peer.send(peer.advertisement(1))
        peer.stay(0.3)
        shorts = {node["name"]: node["shortID"] for node in a.topology().raw["nodes"]}
        sealed = struct.pack("<BBHHHII", 0, 0, 6, 0, 1, 0, 0) + b"pair/x" + struct.pack("<I", 4) + b"evil"

        def data(destinations, origin=4000, epoch=None, word=None, kind=DATA, body=sealed, count=None):
            head = struct.pack("<HHHHQ", origin, 0, 0, len(destinations) if word is None else word,
                               epoch or peer.fields["epoch"])
            entries = b"".join(struct.pack("<HHI", *destination) for destination in destinations)
            return frame(kind, head + entries + body, frame_class=2 if kind == DATA else 1, ttl=8)

        cases = {
            "unknown destinations": data([(number, 1, 1) for number in range(30_000, 30_500)]),
            "unknown origin": data([(shorts["b"], 1, 1)], origin=12_345),
            "another life of the origin": data([(shorts["b"], 1, 1)], epoch=77 << 16),
            "another life of the destination": data([(shorts["b"], 60_000, 1)]),
            "the same destination 1,000 times": data([(shorts["b"], 60_000, 1)] * 1_000),
            "the origin is the node itself": data([(shorts["b"], 1, 1)], origin=shorts["a"]),
            "streams for nobody": data([(31_000, 1, 1)], kind=STREAM_DATA),
            "a set that is not there": data([], word=500, body=b""),
            "an unknown kind of set": data([(1, 1, 1)], word=0x3001),
            "an empty set": data([], word=0),
            "a topic beyond the frame": data([(shorts["a"], 1, 1)], body=b"\0\0\xff\xff" + bytes(12)),
        }
        for what, whole in cases.items():
            if peer.is_closed or peer.data.is_closed:
                peer.close()
                peer = Peer(a).join()
                peer.send(peer.advertisement(1))
                peer.stay(0.2)
            for _ in range(20):
                peer.data.send(whole)
            peer.stay(0.15)
            peer.data.read(0.05)
            ended = peer.farewell or peer.data.farewell
            print(f"    {what}: {ended[1] if ended else 'counted and dropped'}")
            pair.undisturbed(5)
        peer.close()
        check(not any(b"evil" in event.payload for event in pair.subscriber.events()), "a forged event was delivered")


def storm():
    """A node whose secret is wrong dials again and again, but seldom."""
    with Pair(loopback=True) as pair:
        mesh = pair.mesh
        right, meshnet.SECRET = meshnet.SECRET, "a secret that is another one"
        try:
            late = mesh.add_node("c", [f"{mesh['a'].address}:{MESH}"])
        finally:
            meshnet.SECRET = right
        time.sleep(10)
        lines = mesh["a"].log_text().count("mesh.secret")
        told = late.log_text().count("mesh.secret")
        check(told >= 1, "the node that is refused does not say why")
        check(lines >= 1, "the node that refuses does not say so")
        check(lines <= 30, f"refused {lines} times in 10 s")
        print(f"    in 10 s: {lines} lines at the node that refuses, {told} at the refused one")
        pair.undisturbed()


SCENARIOS = {
    "strangers": strangers, "garbage": garbage, "clone": clone, "flood_advertisements": flood_advertisements,
    "million_filters": million_filters, "nowhere": nowhere, "storm": storm,
}

if __name__ == "__main__":
    scenario.run(SCENARIOS)
