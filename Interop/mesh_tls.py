#!/usr/bin/env python3
"""Proves that a mesh over TLS lets in whom it should: two and three nodes whose certificates say who they are; peers
without one, of another authority, with another node's, for another mesh, expired or not allowed are refused, with
reasons that both logs can be read for, and without a storm of further attempts; a revoked node is out at once and the
others stay. That what a policy keeps back never crosses its link, as a capture of all bytes shows: direct events,
guaranteed and retained ones, wills, and those that wait in a session that moves. And that `apus invite`, `apus join`
and `apus leave` are all it takes.

    mesh_tls.py [NAME of a part…]

Needs the package cryptography: run it with the interpreter that python.sh prints."""

import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "mesh"))

import wire  # noqa: E402
from authority import DAY, NUMBERS, Authority  # noqa: E402
from meshnet import Topology  # noqa: E402
from fair import fair_seconds  # noqa: E402
from node import APUS, Failure, check, is_, main, until  # noqa: E402
from mesh_wire import BYE, INITIATE, Reader, block, frame as mesh_frame  # noqa: E402
from secure import AMQP, MQTT, Report, SecureNode, context, why  # noqa: E402
import amqp_wire  # noqa: E402

SECTION = """tls:
  mesh:
    certificate: {path}
    key: {key}
    client_ca: {ca}
    crl: {crl}
    require_client_certificate: true
"""


def new_id():
    return os.urandom(16).hex()


class Relay:
    """Carries what is dialled at `port` to a node, and keeps all bytes of both directions."""

    def __init__(self, node):
        self.node = node
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.accepted, self.forth, self.back = 0, bytearray(), bytearray()
        self.pairs = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                far = socket.create_connection(("127.0.0.1", self.node.ports["mesh"]), 5)
            except OSError:
                near.close()
                continue
            for connection in (near, far):
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.pairs.append((near, far))
            for source, target, kept in ((near, far, self.forth), (far, near, self.back)):
                threading.Thread(target=self._carry, args=(source, target, kept), daemon=True).start()

    @staticmethod
    def _carry(source, target, kept):
        try:
            while data := source.recv(65_536):
                kept += data
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        for pair in self.pairs:
            for one in pair:
                one.close()
        self.pairs = []

    def close(self):
        self.server.close()
        self.cut()


class Member(SecureNode):
    """A node of the mesh. `leaf` is its certificate, None for a mesh without TLS; `links` are ports of this machine or
    whole entries; `more` further lines of the section."""

    def __init__(self, name, leaf=None, ca=None, crl=None, links=(), more=(), mesh="interop", extra=""):
        super().__init__({"mqtt": "mqtt", "amqp": "amqp", "http": "http"})
        self.name, self.leaf, self.ca, self.crl = name, leaf, ca, crl
        self.links, self.more, self.mesh, self.rest = list(links), list(more), mesh, extra
        self.ports["mesh"] = 0

    def configuration(self, base):
        self.extra = ""
        lines = [super().configuration(base).replace("name: interop,", f"name: {self.name},", 1).rstrip("\n")]
        if self.leaf:
            lines.append(SECTION.format(path=self.leaf.path, key=self.leaf.key, ca=self.ca, crl=self.crl).rstrip("\n"))
        lines += ["mesh:", f"  id: {self.mesh}", f'  listen: "127.0.0.1:{self.ports["mesh"]}"', "  join: configured",
                  "  profile: fast"]
        lines += ["  tls: mesh"] if self.leaf else []
        entries = [link if isinstance(link, str) else f'{{ to: "127.0.0.1:{link}" }}' for link in self.links]
        lines += ["  links:", *(f"    - {entry}" for entry in entries)] if entries else []
        lines += [f"  {line}" for line in self.more]
        return "\n".join(lines) + "\n" + self.rest

    def topology(self):
        with urllib.request.urlopen(f"http://{self.admin}/v1/mesh/topology", timeout=10) as answer:
            return Topology(json.load(answer))

    def wait_links(self, *names, seconds=30):
        until(lambda: self.topology().up == sorted(names),
              lambda: f"{self.name} has links to {self.topology().up}, not {sorted(names)}: {self.complaints()}",
              seconds)

    def complaints(self):
        """What the log says of peers, the last of it."""
        return [x.get("message", "") + " " + str({k: v for k, v in x.items() if k in ("reason", "problem", "peer")})
                for x in self.log_records() if x.get("component") in ("mesh", "audit", "reactor", "tls")][-4:]

    def says(self, *words, seconds=30):
        """Waits until a record of the log holds all of these."""
        def found():
            for record in self.log_records():
                line = json.dumps(record).lower()
                if record.get("level") != "info" and all(word.lower() in line for word in words):
                    return True
            return False

        until(found, lambda: f"the log of {self.name} does not say {words}: {self.complaints()}", seconds)

    def client(self, name, **more):
        return MQTT(self.dial("mqtt"), 5, name, **more)


class World:
    def __init__(self, directory):
        self.pki = pathlib.Path(directory)
        self.authority = Authority(self.pki)
        self.other = Authority(self.pki, "other-ca")
        self.crl = self.pki / "ca.crl"
        self.authority.write_revocations(self.crl)
        self.other.write_revocations(self.pki / "other.crl")

    def leaf(self, name, identity=None, authority=None, file=None, **more):
        # Files of their own, whatever the name.
        file = f"{file or name}-{next(NUMBERS)}"
        return (authority or self.authority).node(name, identity or new_id(), file=file, **more)

    def member(self, name, leaf=None, **more):
        return Member(name, leaf or self.leaf(name), self.authority.path, self.crl, **more)


def crosses(one, other, topic="cross/x", payload=b"crosses"):
    """An event published at one node arrives at the other."""
    subscriber, publisher = other.client("crossing-sub"), one.client("crossing-pub")
    is_("subscribe", 1, subscriber.subscribe(topic, 1))
    got = None
    end = time.monotonic() + 30
    while got is None:
        check(time.monotonic() < end, f"nothing crosses from {one.name} to {other.name}")
        publisher.publish(topic, payload, 1)
        got = subscriber.event(0.3)
    is_("what crosses", payload, got.payload)
    subscriber.close()
    publisher.close()


def three(world):
    """Three nodes in a line: links come up, events cross, nothing can be read on the way."""
    with world.member("a") as a:
        relay = Relay(a)
        with world.member("b", links=[relay.port]) as b, world.member("c", links=[b.ports["mesh"]]) as c:
            a.wait_links("b")
            b.wait_links("a", "c")
            c.wait_links("b")
            crosses(c, a, "tls/secret-topic", b"a payload nobody reads")
            crosses(a, c)
            for kept in (relay.forth, relay.back):
                check(b"secret-topic" not in kept and b"nobody reads" not in kept, "the link can be read")
                check(len(kept) > 500, "nothing has crossed")
                check(kept[:2] == b"\x16\x03", f"no handshake first: {bytes(kept[:8])}")
            # A node that is killed and comes back is let in again.
            b.kill()
            b.start()
            b.wait_links("a", "c", seconds=60)
            crosses(a, c, "tls/again")
        relay.close()


def refused(world, what, host, guest, at_host, at_guest):
    """A node that dials another and must not become its neighbour: reasons on both sides, few attempts, and one that
    may come still can."""
    with host:
        relay = Relay(host)
        guest.links = [relay.port]
        with guest:
            start = time.monotonic()
            if at_host:
                host.says(*at_host)
            if at_guest:
                guest.says(*at_guest)
            time.sleep(max(0, 8 - (time.monotonic() - start)))
            check(not host.topology().up and not guest.topology().up, f"{what}: the link is up")
            # A link is two connections; with pauses that grow there are few attempts in eight seconds.
            check(relay.accepted <= 24, f"{what}: {relay.accepted} attempts in 8 s")
            records = [x for node in (host, guest) for kind in ("mesh", "connection") for x in node.audits(kind=kind)]
            check(records, f"{what}: nothing is audited")
            lines = len(guest.log_records())
            check(lines < 120, f"{what}: {lines} lines in the log of who is refused")
            said = f"{relay.accepted} attempts"
        relay.close()
    return said


def strangers(world, report):
    """Everybody who must not come in."""
    thief = world.leaf("thief", new_id())
    identity = new_id()
    one = world.leaf("one", identity)
    cases = (
        ("no TLS", world.member("host"), Member("guest"), (), ("127.0.0.1",)),
        ("another authority", world.member("host"), Member(
            "guest", world.leaf("guest", authority=world.other), world.authority.path, world.crl),
         ("issuer",), ("unknown ca",)),
        ("a node that trusts another authority", world.member("host"), Member(
            "guest", world.leaf("guest"), world.other.path, world.pki / "other.crl"), ("unknown ca",), ("issuer",)),
        ("a certificate for another mesh", world.member("host"), world.member("guest", world.authority.issue(
            "other-mesh", None, hosts=("127.0.0.1",), uris=[f"apus:node:{new_id()}", "apus:mesh:elsewhere"])),
         ("another mesh",), ()),
        ("an expired one", world.member("host"), world.member(
            "guest", world.leaf("guest", file="expired", start=-3 * DAY, end=-DAY)), ("expired",), ("expired",)),
        ("not in mesh.allow", world.member("host", more=["allow: [friend]"]), world.member("guest"),
         ("mesh.allow",), ("not", "allow")),
        ("a host not in mesh.allow of the guest", world.member("host"), world.member("guest", more=["allow: [friend]"]),
         ("allow",), ("mesh.allow",)),
    )
    for what, host, guest, at_host, at_guest in cases:
        report.run(f"refused: {what}", refused, world, what, host, guest, at_host, at_guest)
    report.run("refused: another node's certificate", stolen, world, one, thief)
    report.run("refused: a link to somebody else", wrong_link, world)
    report.run("refused: another mesh", refused, world, "another mesh", world.member("host"),
               world.member("guest", mesh="elsewhere"), ("mesh",), ("mesh",))


def stolen(world, one, thief):
    """A node that has had a life with one id shows the certificate of another."""
    host, guest = world.member("host"), world.member("guest", one)
    with host:
        relay = Relay(host)
        guest.links = [relay.port]
        with guest:
            host.wait_links("guest")
            guest.process.terminate()
            guest.process.wait(15)
            guest.leaf = thief
            try:
                guest.start()
            except Failure as failure:
                check("certificate" in str(failure), f"it does not start, and says {failure}")
                guest.leaf = one
                guest.start()
                return "it does not even start"
            host.says("certificate", "node")
            time.sleep(3)
            check(not host.topology().up, "the link is up")


def greeting(mesh, identity, name):
    """The first frame of a link (docs/wire-format.md)."""
    raw = struct.pack("<QQ", int(identity[:16], 16), int(identity[16:], 16))
    return mesh_frame(INITIATE, b"apus" + bytes([1, 1]) + struct.pack("<Q", 0) + block(mesh.encode())
                      + raw + struct.pack("<QQ", 1 << 16, 1) + block(name.encode()) + bytes([0])
                      + block(b"") + struct.pack("<QQBHQIBI", 1, 2, 0, 1, 0, 100, 4, 25))


def greeted(host, world, leaf, identity, name="impostor", mesh="interop"):
    """Greets a node over TLS with a certificate as whoever; what it says: None for nothing against it, else why."""
    made = socket.create_connection(("127.0.0.1", host.ports["mesh"]), 5)
    tls = context(str(world.authority.path), leaf, alpn=["apus-mesh"], check_name=False)
    connection = tls.wrap_socket(made)
    connection.sendall(greeting(mesh, identity, name))
    buffer, end = b"", time.monotonic() + 2
    connection.settimeout(0.2)
    while time.monotonic() < end:
        try:
            chunk = connection.recv(65_536)
        except TimeoutError:
            continue
        except OSError as error:
            return why(error)
        if not chunk:
            break
        buffer += chunk
    connection.close()
    while len(buffer) >= 8:
        size = int.from_bytes(buffer[:3], "little")
        if buffer[3] == BYE:
            reader = Reader(buffer[9:size])
            return reader.block().decode()
        buffer = buffer[size:]
    return None


def impostors(world):
    """Frames by hand, because no node would start so: good certificates, shown by somebody who says to be another."""
    one, other = new_id(), new_id()
    with world.member("host") as host:
        own = world.leaf("impostor", one)
        is_("who is who it says", None, greeted(host, world, own, one))
        with world.member("known", world.leaf("known", other), links=[host.ports["mesh"]]) as known:
            host.wait_links("known")
            cases = (
                ("another's id", own, new_id(), "interop", "certificate"),
                ("the id of a neighbour", own, other, "interop", "certificate"),
                ("a client's certificate", world.authority.client("plain-client"), one, "interop", "apus:node:"),
                ("a server's certificate", world.authority.server("plain-server"), one, "interop",
                 "UNSUPPORTED_CERTIFICATE"),
                ("two nodes in one", world.authority.issue("double", None, uris=[
                    f"apus:node:{one}", f"apus:node:{other}"]), one, "interop", "several"),
                ("a node that is none", world.authority.issue("zero", None, uris=["apus:node:abc"]), one, "interop",
                 "certificate"),
                ("another mesh", own, one, "elsewhere", "mesh"),
            )
            for what, leaf, identity, mesh, reason in cases:
                said = greeted(host, world, leaf, identity, mesh=mesh)
                check(said and reason in said, f"{what}: answered with {said!r}")
                if "CERTIFICATE" in said:
                    host.wait_audit(what, kind="connection")
                else:
                    host.wait_audit(what, kind="mesh", reason=said[:40])
            is_("links", ["known"], host.topology().up)
            crosses(host, known)
    return f"{len(cases)} of them"


def wrong_link(world):
    """`links[].allow`: somebody good, but not the one that was meant."""
    with world.member("host") as host:
        entry = f'{{ to: "127.0.0.1:{host.ports["mesh"]}", allow: [somebody-else] }}'
        with world.member("guest", links=[entry]) as guest:
            guest.says("allow")
            time.sleep(2)
            check(not guest.topology().up, "the link is up")
            good = f'{{ to: "127.0.0.1:{host.ports["mesh"]}", allow: [host] }}'
            with world.member("second", links=[good]) as second:
                second.wait_links("host")


def revoked(world):
    """One of three is revoked: its links end within a second of SIGHUP, those of the others do not."""
    leaf = world.leaf("bad")
    with world.member("good-1") as one, world.member("good-2", links=[one.ports["mesh"]]) as two:
        with world.member("bad", leaf, links=[one.ports["mesh"], two.ports["mesh"]]) as bad:
            one.wait_links("bad", "good-2")
            two.wait_links("bad", "good-1")
            world.authority.revoke(leaf)
            world.authority.write_revocations(world.crl)
            pids = [node.process.pid for node in (one, two, bad)]
            start = fair_seconds(*pids)
            for node in (one, two):
                node.process.send_signal(signal.SIGHUP)
            for node, other in ((one, "good-2"), (two, "good-1")):
                until(lambda: node.topology().up == [other],
                      lambda: f"{node.name} still has links to {node.topology().up}")
            taken = fair_seconds(*pids) - start
            check(taken < 1.5, f"the revoked node was out after {taken:.1f} s")
            one.says("revoked")
            crosses(one, two, "still/here")
            time.sleep(4)
            check(one.topology().up == ["good-2"], f"it came back: {one.topology().up}")
            accepted = one.counters()["accepted"]
            time.sleep(4)
            again = one.counters()["accepted"] - accepted
            check(again <= 12, f"{again} attempts in 4 s")
            check("good-1" not in bad.topology().up, "the revoked node believes in its link")
    return f"out after {taken * 1_000:.0f} ms"


SECRET, OPEN = b"geheim-77", b"offen-77"


def publish_all(node, prefix, marker):
    """Every way to publish: direct, QoS 1, QoS 2, retained, a will, AMQP, HTTP."""
    topic = f"{prefix}/{marker.decode()}"
    one = node.client(f"publisher-{prefix}")
    for qos in (0, 1):
        one.publish(f"{topic}/mqtt{qos}", marker, qos, identifier=20 + qos)
    one.send(wire.publish(5, f"{topic}/mqtt2", marker, 2, 30))
    one.take(wire.PUBREC)
    one.send(wire.acknowledgement(wire.PUBREL, 30))
    one.publish(f"{topic}/kept", marker, 1, 31, retain=True)
    one.publish(f"{topic}/kept0", marker, 0, retain=True)
    one.ping()
    one.close()
    willing = MQTT(node.dial("mqtt"), 5, f"will-{prefix}", will=(f"{topic}/will", marker.decode(), True))
    willing.socket.close()
    raw = AMQP(node.dial("amqp"))
    raw.sasl("ANONYMOUS", b"x")
    raw.open()
    raw.sender(f"{topic}/amqp", "s", 1)
    raw.send(amqp_wire.transfer_frame(1, 0, amqp_wire.data_message(marker)))
    raw.wait(amqp_wire.DISPOSITION)
    raw.close()
    for mode in ("direct", "guaranteed"):
        request = urllib.request.Request(
            f"http://127.0.0.1:{node.http_port}/TOPIC/{topic}/http-{mode}", marker, {"Apus-Delivery-Mode": mode})
        urllib.request.urlopen(request, timeout=10).read()


EXPECTED = {"mqtt0", "mqtt1", "mqtt2", "kept", "kept0", "will", "amqp", "http-direct", "http-guaranteed"}


def topics_of(subscriber, seconds=2.0):
    """The topics of the events that come until nothing does."""
    found = []
    while (event := subscriber.event(seconds)) is not None:
        found.append(event.topic)
    return found


def policy(key, value):
    return ["policies:", f"  - {{ {PEERS.format(value)}, {key} }}"]


PEERS = "peers: [{}]"


def policies(world):
    """`export: { deny: ["de/>"] }` at one node: not a byte of it crosses, everything else does; also of what was kept
    before the link was up."""
    with Member("inside", more=policy('export: { deny: ["de/>"] }', "outside")) as inside:
        relay = Relay(inside)
        # Kept and waiting before anybody is linked.
        publish_all(inside, "de", SECRET)
        with Member("outside", links=[relay.port]) as outside:
            inside.wait_links("outside")
            crosses(inside, outside)
            subscriber = outside.client("outside-sub")
            is_("subscribe", 1, subscriber.subscribe("#", 1))
            is_("subscribe", 1, subscriber.subscribe("de/#", 1))
            is_("subscribe", 1, subscriber.subscribe("$share/g/+/+/mqtt1", 1))
            at_home = inside.client("inside-sub")
            is_("subscribe", 1, at_home.subscribe("de/#", 1))
            time.sleep(3)
            at_home.events()
            publish_all(inside, "de", SECRET)
            publish_all(inside, "fr", OPEN)
            home = {topic.rsplit("/", 1)[1] for topic in topics_of(at_home)}
            is_("heard at home", EXPECTED, home)
            away = topics_of(subscriber)
            check({topic.rsplit("/", 1)[1] for topic in away if topic.startswith("fr/")} == EXPECTED,
                  f"what may cross does not: {away}")
            check(not [topic for topic in away if topic.startswith("de/")], f"heard outside: {away}")
            retained_and_roaming(inside, outside)
            # The link breaks and comes back: whatever is compared anew, nothing of it crosses.
            relay.cut()
            inside.wait_links("outside", seconds=60)
            crosses(outside, inside)
            time.sleep(3)
            for way, kept in (("forth", relay.forth), ("back", relay.back)):
                check(SECRET not in kept, f"{way}: {kept[max(0, kept.find(SECRET) - 60) :][:120]!r} has crossed")
            check(OPEN in relay.back, "the capture has not even what may cross")
            until(lambda: inside.counters().get("dropped_linkPolicy", 0) > 0, "dropped_linkPolicy counts nothing")
        relay.close()
    return f"{len(relay.back)} bytes captured"


def retained_and_roaming(inside, outside):
    """A late subscriber outside sees nothing kept below de/, and a session that moves leaves it behind."""
    late = outside.client("late")
    is_("subscribe", 1, late.subscribe("+/+/kept", 1))
    is_("kept, seen outside", ["fr/offen-77/kept"], topics_of(late, 1.0))
    roamer = inside.client("roamer", clean=False, more=wire.expiry(300))
    is_("subscribe", 1, roamer.subscribe("de/#", 1))
    is_("subscribe", 1, roamer.subscribe("fr/#", 1))
    topics_of(roamer, 0.5)
    roamer.close()
    time.sleep(0.3)
    publisher = inside.client("for-roamer")
    for prefix, marker in (("de", SECRET), ("fr", OPEN)):
        is_("publish", 0, publisher.publish(f"{prefix}/{marker.decode()}/waiting", marker, 1))
    moved = MQTT(outside.dial("mqtt"), 5, "roamer", clean=False, more=wire.expiry(300))
    heard = topics_of(moved, 2.0)
    check(not [topic for topic in heard if topic.startswith("de/")], f"moved with its session: {heard}")
    moved.close()


def imports(world):
    """`import: { allow: [...] }` at the other end, and a rate."""
    with Member("giver") as giver:
        with Member("taker", links=[giver.ports["mesh"]], more=policy(
                'import: { allow: ["ok/>"], rate: 50 }', "giver")) as taker:
            taker.wait_links("giver")
            crosses(giver, taker, "ok/first")
            subscriber = taker.client("taker-sub")
            is_("subscribe", 1, subscriber.subscribe("#", 1))
            publish_all(giver, "no", SECRET)
            publish_all(giver, "ok", OPEN)
            heard = topics_of(subscriber)
            is_("taken", EXPECTED, {topic.rsplit("/", 1)[1] for topic in heard if topic.startswith("ok/")})
            check(all(topic.startswith("ok/") for topic in heard), f"taken although it may not: {heard}")
            publisher = giver.client("fast")
            # A frame with one run of events passes whole, and the rate makes up for it: what follows waits. How many are
            # in a frame is chance.
            counts = []
            for _ in range(3):
                for number in range(2_000):
                    publisher.publish("ok/fast", b"%d" % number, 0)
                publisher.ping()
                counts.append(len(topics_of(subscriber, 1.5)))
            is_limited = all(after <= 200 for before, after in zip(counts, counts[1:]) if before > 300)
            check(sum(counts) >= 20 and min(counts) <= 300 and is_limited,
                  f"{counts} of 2,000 direct events came at a rate of 50 a second")
    return f"{counts} of 2,000 each by a rate of 50/s"


def apus(*words, stdin=None, fails=False):
    done = subprocess.run([APUS, *map(str, words)], input=stdin, capture_output=True, text=True, timeout=60)
    check((done.returncode != 0) == fails, f"apus {' '.join(map(str, words[:2]))}: {done.returncode} {done.stderr}")
    return done.stdout.strip(), done.stderr.strip()


class Joined(Member):
    """A node that runs with what `apus join` wrote, and no configuration of the mesh."""

    def __init__(self, name, data):
        super().__init__(name)
        self.data = data

    def configuration(self, base):
        lines = [f"node: {{ name: {self.name}, data: {self.data}, lanes: 1 }}", "listeners:"]
        lines += [f'  - {{ name: {name}, listen: "127.0.0.1:{self.ports[name]}", protocol: {words} }}'
                  for name, words in self.listeners.items()]
        return "\n".join(lines) + "\n"


def invitations(world):
    """As a user would: an authority, a node, an invitation, a node that joins by it and leaves again."""
    home = world.pki / "user"
    authority = home / "certs"
    home.mkdir()
    apus("certs", "init", "--dir", authority)
    apus("certs", "node", "first", "--dir", authority, "--host", "localhost", "--host", "127.0.0.1",
         "--mesh", "interop")

    class Leaf:
        path, key = authority / "first.crt", authority / "first.key"

    with Member("first", Leaf, authority / "ca.crt", authority / "ca.crl") as first:
        address = f"127.0.0.1:{first.ports['mesh']}"
        token, warning = apus("invite", "second", "--dir", authority, "--address", address, "--mesh", "interop")
        check("\n" not in token and len(token) > 100, f"no token on one line: {token[:100]}")
        check("secret" in warning.lower(), f"nothing says that the token is one: {warning}")
        data = home / "second"
        # Tokens that are none.
        for wrong in (token[:-10], token[:200], token.replace(token[150:156], "AAAAAA", 1), "apus1.AAAA", ""):
            _, said = apus("join", wrong, "--data", home / "wrong", fails=True)
            check(said and "Fatal" not in said, f"a wrong token: {said}")
        apus("join", "-", "--data", data, stdin=token + "\n")
        for file in data.rglob("*"):
            if file.is_file() and "PRIVATE KEY" in file.read_text(errors="replace"):
                check(file.stat().st_mode & 0o077 == 0, f"{file.name} can be read by others")
        _, said = apus("join", token, "--data", data, fails=True)
        check("join" in said.lower() or "--force" in said, f"joining twice: {said}")
        with Joined("second", data) as second:
            second.wait_links("first")
            first.wait_links("second")
            crosses(second, first)
            crosses(first, second)
            out, _ = apus("leave", "--data", data, "--admin", second.admin)
            check("revoke second" in out, f"it does not say what is left to do: {out}")
            until(lambda: not first.topology().up, "the link is still up", 30)
            # It serves its clients alone.
            crosses(second, second, "alone/x")
            second.process.terminate()
            second.process.wait(15)
            second.start()
            time.sleep(2)
            check(not first.topology().up, "it is back after its next start")
        # The same token again, elsewhere: whoever has it is the node, until it is revoked.
        apus("certs", "revoke", "second", "--dir", authority)
        first.process.send_signal(signal.SIGHUP)
        again = home / "again"
        apus("join", token, "--data", again)
        with Joined("second", again) as second:
            first.says("revoked")
            time.sleep(2)
            check(not first.topology().up and not second.topology().up, "a revoked token joins")
        _, said = apus("invite", "third", "--dir", authority, "--address", "not an address", fails=True)
        check(said, "no word of a wrong address")


PARTS = (three, strangers, impostors, revoked, policies, imports, invitations)


def test(*only):
    with tempfile.TemporaryDirectory() as directory:
        world = World(directory)
        report = Report("mesh")
        for part in PARTS:
            if only and part.__name__ not in only:
                continue
            if part is strangers:
                strangers(world, report)
            else:
                report.run(part.__name__, part, world)
        report.finish()
    return f"mesh over TLS: {report.count} parts passed: strangers refused, a revoked node out, policies by capture"


if __name__ == "__main__":
    main(test, *sys.argv[1:])
