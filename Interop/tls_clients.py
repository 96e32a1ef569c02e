#!/usr/bin/env python3
"""Proves that everyday clients speak TLS with a node: mosquitto_pub and _sub with both versions, Paho, curl with REST,
streams and the management interface, Qpid Proton with EXTERNAL, WebSocket in its three protocols; certificates as users
with rules; SNI, ALPN, resumption, 5 MiB, 1,000 connections. And that a certificate that is revoked is out within a
second of SIGHUP, or a few of the list's change, while all others keep their connections; that a new certificate is seen
by new connections only, and a broken one by nobody.

    tls_clients.py [NAME of a part…]

Run it with the interpreter that python.sh prints."""

import hashlib
import json
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import paho.mqtt.client as paho
from proton import SSLDomain

import amqp_wire
from authority import Authority
from node import PATIENCE, check, is_, main, until
from proton_client import Client as Proton, data, text as amqp_text, until as proton_until
from secure import AMQP, MQTT, Calm, Report, SecureNode, Web, WebBytes, add_user, context, gone, why
from web import Answer

LISTENERS = {
    "mqtt": "mqtt", "mqtts": "mqtt, tls: main", "amqps": "amqp, tls: main", "https": "http, tls: main",
    "strict": "mqtt, tls: strict", "modern": "mqtt, tls: modern",
}
CONFIG = """tls:
  main:
    certificate: PKI/node.pem
    key: PKI/node.key
    more:
      - { certificate: PKI/other.pem, key: PKI/other.key, passphrase: "open sesame" }
    client_ca: PKI/ca.pem
    crl: PKI/ca.crl
    user: "${cert.cn}"
    groups: ["${cert.ou}"]
  strict:
    certificate: PKI/node.pem
    key: PKI/node.key
    client_ca: PKI/ca.pem
    require_client_certificate: true
    user: "${cert.email}"
  modern: { certificate: PKI/rsa.pem, key: PKI/rsa.key, min_version: "1.3" }
security:
  users: PKI/users
  anonymous: never
  access:
    - { allow: all, topics: ["calm/#"], groups: [calm] }
    - { allow: all, topics: ["devices/${username}/#", "certs/${cert.cn}/#"], groups: [devices] }
    - { allow: subscribe, topics: ["#"], groups: [operators] }
    - { allow: publish, topics: ["devices/#"], groups: [operators] }
    - { allow: all, topics: ["users/${username}/#"] }
admin: { tls: main }
limits: { max_packet: 16MiB, max_connections: 3000 }
"""


class World:
    """The certificates, and clients that know them."""

    def __init__(self, directory):
        self.pki = pathlib.Path(directory)
        self.authority = Authority(self.pki)
        self.middle = Authority(self.pki, "middle", parent=self.authority)
        self.server = self.middle.server("node")
        self.authority.server("other", hosts=["other.example"], key="rsa2048", passphrase="open sesame")
        self.authority.server("rsa", key="rsa2048")
        self.anna = self.authority.client("anna", units=["devices"], emails=["anna@example.com"])
        self.bert = self.middle.client("bert", units=["devices", "operators"], key="rsa2048")
        self.carl = self.authority.client("carl", units=["devices"], key="ed25519")
        self.dora = self.authority.client("dora", units=["devices"])
        self.calm = self.authority.client("calm", units=["calm"])
        self.write_revocations()
        add_user(self.pki / "users", "paul", "secret of paul")

    def write_revocations(self):
        self.authority.write_revocations(self.pki / "ca.crl", self.middle)

    @property
    def ca(self):
        return str(self.authority.path)

    def context(self, leaf=None, **more):
        return context(self.ca, leaf, **more)

    def node(self):
        return SecureNode(LISTENERS, CONFIG.replace("PKI", str(self.pki)), admin_context=self.context())

    def mqtt(self, node, leaf, client, listener="mqtts", version=5, tls=None, **more):
        made = node.dial(listener, self.context(leaf, version=tls))
        return MQTT(made, version, client, **more)

    def proton(self, node, leaf, name=None, **more):
        domain = SSLDomain(SSLDomain.MODE_CLIENT)
        domain.set_trusted_ca_db(self.ca)
        if leaf:
            domain.set_credentials(str(leaf.path), str(leaf.key), None)
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER_NAME)
        options = {"allowed_mechs": "EXTERNAL"} if leaf else {}
        return Proton(node, name, url=f"amqps://localhost:{node.ports['amqps']}", ssl_domain=domain, **options, **more)

    def curl(self, node, path, *options, leaf=None, body=None, port=None, scheme="https"):
        words = ["--cacert", self.ca, *options]
        words += ["--cert", str(leaf.path), "--key", str(leaf.key)] if leaf else []
        words += ["--data-binary", "@-", "-H", "Content-Type:"] if body is not None else []
        done = subprocess.run(
            ["curl", "-si", "--path-as-is", "--max-time", str(PATIENCE), *words,
             f"{scheme}://localhost:{port or node.ports['https']}{path}"], input=body, capture_output=True)
        check(done.stdout, f"curl ended with {done.returncode}: {path} {done.stderr.decode()}")
        return Answer(done.stdout)

    def websocket(self, node, path, protocol, leaf):
        return Web(node.dial("https", self.context(leaf)), path, protocol)


def mosquitto(world, node, program, leaf, *options, tls="tlsv1.3", version="5", listener="mqtts", **more):
    words = ["--cafile", world.ca, "--tls-version", tls]
    words += ["--cert", str(leaf.path), "--key", str(leaf.key)] if leaf else []
    command = [program, "-h", "localhost", "-p", str(node.ports[listener]), "-V", version, *words, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.PIPE, **more)


def pub(world, node, leaf, topic, *options, payload=b"x", **more):
    """mosquitto_pub; what it ended with and said."""
    process = mosquitto(world, node, "mosquitto_pub", leaf, "-t", topic, "-s", "-q", "1", *options, **more)
    said, _ = process.communicate(payload, PATIENCE)
    return process.returncode, said.decode(errors="replace").strip()


def sub(world, node, leaf, topic, count=1, *options, **more):
    before = None
    while before != (before := node.counters()["subscriptions"]):
        pass  # Until two readings are the same: the subscription before this one may be just leaving.
    process = mosquitto(world, node, "mosquitto_sub", leaf, "-t", topic, "-C", str(count), "-W", str(PATIENCE),
                        "-F", "%t %x", *options, **more)
    until(lambda: node.counters()["subscriptions"] > before or process.poll() is not None, "no subscription",
          pause=0.05)
    return process


def heard(process, wanted, what):
    said, _ = process.communicate(timeout=PATIENCE + 5)
    is_(what, wanted, said.decode(errors="replace").split("\n")[: len(wanted)])


def mosquitto_clients(world, node):
    """Both versions of TLS, three of MQTT, certificates of two kinds and none."""
    for tls in ("tlsv1.2", "tlsv1.3"):
        for version in ("mqttv31", "mqttv311", "5"):
            what = f"{tls}, {version}"
            listener = sub(world, node, world.anna, "devices/anna/#", tls=tls, version=version)
            is_(what, (0, ""), pub(world, node, world.bert, "devices/anna/1", tls=tls, version=version))
            heard(listener, [f"devices/anna/1 {b'x'.hex()}"], what)
    is_("Ed25519", (0, ""), pub(world, node, world.carl, "certs/carl/1"))
    # A certificate is no licence for the topics of another.
    code, said = pub(world, node, world.anna, "devices/bert/1")
    check("135" in said or "uthorized" in said, f"anna published below bert: {code} {said}")
    refused = sub(world, node, world.anna, "#")
    said = refused.communicate(timeout=PATIENCE)[0].decode()
    check("denied" in said, f"anna subscribed to everything: {said}")
    # Without one the rules of users hold: a password, or nobody.
    is_("a password", (0, ""), pub(world, node, None, "users/paul/1", "-u", "paul", "-P", "secret of paul"))
    for what, words in (("nobody", ()), ("a wrong password", ("-u", "paul", "-P", "wrong"))):
        code, said = pub(world, node, None, "users/paul/1", *words)
        check(code != 0, f"{what} was let in: {said}")
    # A name that is not the certificate's own needs its password.
    code, said = pub(world, node, world.anna, "users/paul/1", "-u", "paul")
    check(code != 0, f"anna is paul without his password: {said}")
    is_("another's password", (0, ""),
        pub(world, node, world.anna, "users/paul/1", "-u", "paul", "-P", "secret of paul"))
    code, said = pub(world, node, None, "users/x", listener="strict")
    check(code != 0, f"without a certificate where it is required: {said}")
    is_("with one", (0, ""), pub(world, node, world.anna, "users/anna@example.com/1", listener="strict"))


def paho_clients(world, node):
    """Paho, both versions of MQTT; 5 MiB there and back."""
    large = bytes(number * 31 % 251 for number in range(5 << 20))
    for version in (paho.MQTTv311, paho.MQTTv5):
        got, ready, subscribed = [], threading.Event(), threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"paho-{version}", protocol=version)
        client.tls_set(world.ca, str(world.anna.path), str(world.anna.key), tls_version=ssl.PROTOCOL_TLS_CLIENT)
        client.on_connect = lambda *_: ready.set()
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _, __, message: got.append(message.payload)
        client.connect("localhost", node.ports["mqtts"])
        client.loop_start()
        check(ready.wait(PATIENCE), "not connected")
        client.subscribe("devices/anna/paho", 2)
        check(subscribed.wait(PATIENCE), "not subscribed")
        for qos, payload in ((0, b"a"), (1, b"b"), (2, large)):
            client.publish("devices/anna/paho", payload, qos).wait_for_publish(PATIENCE)
        until(lambda: len(got) == 3, lambda: f"{len(got)} of 3 events")
        check(got[:2] == [b"a", b"b"] and hashlib.sha256(got[2]).digest() == hashlib.sha256(large).digest(), "changed")
        client.disconnect()
        client.loop_stop()


class Stream:
    """A stream of events by curl; lines that have come, and whether it has ended."""

    def __init__(self, world, node, leaf, query, *options):
        words = ["--cert", str(leaf.path), "--key", str(leaf.key)] if leaf else []
        self.process = subprocess.Popen(
            ["curl", "-sNi", "--cacert", world.ca, *words, *options,
             f"https://localhost:{node.ports['https']}/events?{query}"], stdout=subprocess.PIPE)
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()
        until(lambda: any(": connected" in line for line in self.lines) or self.ended,
              lambda: f"the stream was not opened: {self.lines}")

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    @property
    def ended(self):
        return self.process.poll() is not None

    def wait(self, payload):
        until(lambda: f"data: {payload}" in self.lines, lambda: f"no {payload}: {self.lines[-5:]}, ended: {self.ended}")

    def close(self):
        self.process.kill()
        self.process.wait()


def curl_clients(world, node):
    """REST, a stream, and the management interface."""
    stream = Stream(world, node, world.bert, "filter=devices/%23")
    answer = world.curl(node, "/TOPIC/devices/anna/kept", "-H", "Apus-Retain: true", leaf=world.anna, body=b"by curl")
    is_("a publish", 202, answer.status)
    stream.wait("by curl")
    stream.close()
    is_("the last value", (200, b"by curl"), (lambda a: (a.status, a.body))(
        world.curl(node, "/TOPIC/devices/anna/kept", leaf=world.anna)))
    is_("anna below bert", 403, world.curl(node, "/TOPIC/devices/bert/x", leaf=world.anna, body=b"x").status)
    is_("nobody", 401, world.curl(node, "/TOPIC/devices/bert/x", body=b"x").status)
    is_("Basic", 202, world.curl(node, "/TOPIC/users/paul/x", "-u", "paul:secret of paul", body=b"x").status)
    for version in ("--tlsv1.2 --tls-max 1.2", "--tlsv1.3"):
        is_(version, 202, world.curl(
            node, "/TOPIC/devices/anna/x", *version.split(), leaf=world.anna, body=bytes(5 << 20)).status)
    port = int(node.admin.rsplit(":", 1)[1])
    is_("healthz", 200, world.curl(node, "/healthz", port=port).status)
    check(b"apus_build_info" in world.curl(node, "/metrics", port=port).body, "no metrics over TLS")
    plain = subprocess.run(["curl", "-si", "--max-time", "5", f"http://localhost:{port}/healthz"], capture_output=True)
    check(b"200 OK" not in plain.stdout, f"the management interface speaks plain, too: {plain.stdout[:100]}")
    world.curl(node, "/TOPIC/devices/anna/kept", "-X", "DELETE", leaf=world.anna)


def proton_clients(world, node):
    """Qpid Proton over amqps: EXTERNAL, PLAIN, nobody; 5 MiB."""
    anna, bert = world.proton(node, world.anna, "anna-amqp"), world.proton(node, world.bert, "bert-amqp")
    receiver = bert.receiver("devices/*/amqp")
    large = bytes(number * 7 % 253 for number in range(5 << 20))
    sender = anna.sender("devices/anna/amqp")
    for body in (b"by proton", large):
        sender.accepted(data(body))
    got = receiver.bodies(2)
    check(got[0] == b"by proton" and got[1] == large, "another body")
    error = anna.refused(Proton.receiver, ">")
    is_("anna receives everything", "amqp:unauthorized-access", error.name)
    outcome = anna.sender("devices/bert/amqp").send(data(b"x"))
    check(outcome.error.name == "amqp:unauthorized-access", f"anna below bert: {outcome.state} {outcome.error}")
    for one in (anna, bert):
        one.close()
    paul = world.proton(node, None, "paul-amqp", user="paul", password="secret of paul", allowed_mechs="PLAIN")
    paul.sender("users/paul/x").accepted(amqp_text(body="x"))
    paul.close()
    nobody = world.proton(node, None, "nobody", wait=False, allowed_mechs="ANONYMOUS")
    proton_until(lambda: nobody.is_gone, "a client without a name stays")
    # EXTERNAL without a certificate is not offered; with another's name it is refused.
    raw = AMQP(node.dial("amqps", world.context()))
    is_("EXTERNAL without a certificate", 1, raw.sasl("EXTERNAL", b""))
    check("EXTERNAL" not in raw.offered, f"offered: {raw.offered}")
    for name, code in ((b"", 0), (b"anna", 0), (b"bert", 1)):
        raw = AMQP(node.dial("amqps", world.context(world.anna)))
        is_(f"EXTERNAL as {name}", code, raw.sasl("EXTERNAL", name))
        check("EXTERNAL" in raw.offered, f"offered: {raw.offered}")


def websockets(world, node):
    """wss: MQTT, AMQP and JSON, each with a certificate and with 5 MiB."""
    large = bytes(5 << 20)
    mqtt = MQTT(WebBytes(world.websocket(node, "/mqtt", "mqtt", world.anna)), 5, "anna-web")
    is_("a filter beyond the rule", 0x87, mqtt.subscribe("devices/#"))
    is_("a filter", 1, mqtt.subscribe("devices/anna/web", 1))
    amqp = AMQP(WebBytes(world.websocket(node, "/amqp", "amqp", world.anna)))
    is_("EXTERNAL", 0, amqp.sasl("EXTERNAL", b""))
    amqp.open()
    is_("an address", None, amqp.receiver("devices/anna/web"))
    is_("an address beyond the rule", "amqp:unauthorized-access", amqp.receiver("devices/>", "r2", 2))
    inner = world.websocket(node, "/ws", "apus.v1.json", world.anna)
    inner.send(json.dumps({"op": "subscribe", "id": 1, "filter": "devices/anna/web"}))
    is_("a subscription", "ok", json.loads(inner.recv(5))["op"])
    inner.send(json.dumps({"op": "subscribe", "id": 2, "filter": "devices/+/web"}))
    is_("one beyond the rule", 403, json.loads(inner.recv(5))["status"])
    for payload in (b"small", large):
        is_("a publish", 0, mqtt.publish("devices/anna/web", payload, seconds=PATIENCE))
        check(mqtt.event(PATIENCE).payload == payload, "to MQTT")
        got = b""
        while len(got) < len(payload):
            got += amqp_payload(amqp.wait(amqp_wire.TRANSFER).payload)
        check(got == payload, f"to AMQP: {len(got)} bytes instead of {len(payload)}")
        event = json.loads(inner.recv(PATIENCE))
        check(event["op"] == "event" and len(event.get("payload", "")) + len(event.get("payload_base64", "")) >= len(
            payload), "to JSON")
    for one in (mqtt, amqp, inner):
        one.close()


def amqp_payload(part):
    """The part of a message's data that a transfer carries: all of it behind the head of its sections."""
    place = part.find(b"\0\x53\x75")
    if place < 0 or place > 400:
        return part
    _, behind = 0, place + 3
    return part[behind + (2 if part[behind] == 0xA0 else 5) :]


def names(world, node):
    """Which certificate is shown: by SNI, and the first one without."""
    for server, subject in (
        (None, "node"), ("localhost", "node"), ("other.example", "other"), ("OTHER.example", "other"),
        ("unknown.example", "node"), ("x" * 60 + ".example", "node"),
    ):
        for version in ("1.2", "1.3"):
            made = world.context(version=version, check_name=False)
            connection = node.dial("mqtts", made, server)
            shown = dict(pair[0] for pair in connection.getpeercert()["subject"])
            is_(f"the certificate for {server and server[:20]}, TLS {version}", subject, shown["commonName"])
            connection.close()
    is_("versions of `modern`", "TLSv1.3", node.dial("modern", world.context()).version())
    try:
        node.dial("modern", world.context(version="1.2"))
        check(False, "TLS 1.2 where 1.3 is the oldest")
    except ssl.SSLError as error:
        check("PROTOCOL_VERSION" in why(error), f"TLS 1.2 is refused with {error}")


def protocols(world, node):
    """ALPN: the listener's own, none when none is asked for, none in common is an alert."""
    for listener, own in (("mqtts", "mqtt"), ("amqps", "amqp"), ("https", "http/1.1")):
        for offered, wanted in (([own], own), (["h2", own], own), ([], None)):
            made = node.dial(listener, world.context(alpn=offered))
            is_(f"{listener} of {offered}", wanted, made.selected_alpn_protocol())
            made.close()
        try:
            made = node.dial(listener, world.context(alpn=["smtp"]))
            is_(f"{listener} of smtp", None, made.selected_alpn_protocol())
        except ssl.SSLError as error:
            check("APPLICATION_PROTOCOL" in why(error), f"{listener} of smtp: {error}")


def resumption(world, node):
    """A second handshake with the session of the first, also as the user that the certificate has named."""
    for version in ("1.2", "1.3"):
        made = world.context(world.anna, version=version)
        first = MQTT(node.dial("mqtts", made), 5, "resume-1")
        check(first.ping(), "no answer")
        session = first.socket.session
        check(session, f"no session with TLS {version}")
        raw = socket.create_connection(("127.0.0.1", node.ports["mqtts"]), 10)
        second = MQTT(made.wrap_socket(raw, server_hostname="localhost", session=session), 5, "resume-2")
        check(second.socket.session_reused, f"TLS {version}: not resumed")
        is_("who that is", 0, second.subscribe("devices/anna/x"))
        is_("who that is not", 0x87, second.subscribe("devices/bert/x"))
        # What was proven in another context proves nothing here.
        raw = socket.create_connection(("127.0.0.1", node.ports["modern"]), 10)
        try:
            other = made.wrap_socket(raw, server_hostname="localhost", session=session)
            check(not other.session_reused, "a session of another section is taken")
            other.close()
        except ssl.SSLError:
            check(version == "1.2", "not even a full handshake")
        for one in (first, second):
            one.close()


def many(world, node, count=1_000):
    """1,000 connections at once, all of them heard."""
    made, tls = [], world.context(world.carl)
    before = node.resident_kilobytes()
    start = time.monotonic()
    for number in range(count):
        one = MQTT(node.dial("mqtts", tls), 4, f"many-{number}")
        made.append(one)
    taken = time.monotonic() - start
    each = (node.resident_kilobytes() - before) / count
    for place, one in enumerate(made):
        one.send(b"\xc0\0")
    for place, one in enumerate(made):
        check(one.take(0xD0, 10) is not None, f"connection {place} is dead: {one.error}")
    for one in made:
        one.close()
    until(lambda: node.counters()["connections"] < 100, "connections stay", pause=0.1)
    return f"{count} in {taken:.1f} s, {each:.1f} KiB each"


class Everybody:
    """A client of every protocol with one certificate."""

    def __init__(self, world, node, leaf):
        self.leaf, self.node, name = leaf, node, leaf.name
        self.mqtt = world.mqtt(node, leaf, f"{name}-mqtt")
        is_("subscribe", 0, self.mqtt.subscribe(f"devices/{name}/revoke"))
        self.old = world.mqtt(node, leaf, f"{name}-old", version=4, tls="1.2")
        self.raw = AMQP(node.dial("amqps", world.context(leaf)))
        is_("EXTERNAL", 0, self.raw.sasl("EXTERNAL", b""))
        self.raw.open(f"{name}-raw")
        is_("attach", None, self.raw.receiver(f"devices/{name}/revoke"))
        self.proton = world.proton(node, leaf, f"{name}-proton")
        self.receiver = self.proton.receiver(f"devices/{name}/revoke")
        self.web = MQTT(WebBytes(world.websocket(node, "/mqtt", "mqtt", leaf)), 5, f"{name}-web")
        self.stream = Stream(world, node, leaf, f"filter=devices/{name}/revoke")
        self.mosquitto = sub(world, node, leaf, f"devices/{name}/revoke")

    def seconds_until_gone(self, start, limit):
        """How long it took until the last of them was out, by the node's clock()."""
        for what, one in (("MQTT", self.mqtt), ("MQTT 3.1.1", self.old), ("WebSocket", self.web)):
            check(one.drain(limit + 20) is not None, f"{self.leaf.name} is still there by {what}")
        check(self.raw.wait_closed(limit + 20), "still there by AMQP")
        until(lambda: self.stream.ended, "still there by HTTP", limit + 20)
        taken = self.node.clock() - start
        proton_until(lambda: self.proton.is_gone, "still there by Proton", limit + 20)
        check(taken < limit, f"{self.leaf.name} was out after {taken:.1f} s")
        self.mosquitto.kill()
        self.mosquitto.communicate()
        return taken

    def check_alive(self, world, payload):
        is_("publish", (0, ""), pub(world, self.node, world.bert, f"devices/{self.leaf.name}/revoke", payload=payload))
        got = self.mqtt.event()
        check(got and got.payload == payload, f"MQTT of {self.leaf.name}: {got and got.payload} {self.mqtt.error}")
        check(self.old.ping(), "MQTT 3.1.1 is gone")
        check(self.web.ping(), "WebSocket is gone")
        check(self.raw.wait(amqp_wire.TRANSFER).payload.endswith(payload), "AMQP")
        is_("Proton", [payload], self.receiver.bodies(1))
        self.stream.wait(payload.decode())
        heard(self.mosquitto, [f"devices/{self.leaf.name}/revoke {payload.hex()}"], "mosquitto_sub")

    def close(self):
        for one in (self.mqtt, self.old, self.raw, self.proton, self.web, self.stream):
            one.close()


def refused_anew(world, node, leaf):
    """A new connection with a certificate ends in the handshake, or right behind it with TLS 1.3."""
    for version in ("1.2", "1.3"):
        try:
            one = node.dial("mqtts", world.context(leaf, version=version))
            ended = gone(one)
            check(ended, f"{leaf.name} gets in again with TLS {version}")
            check("REVOKED" in ended[1], f"{leaf.name} is refused with {ended[1]!r}, TLS {version}")
        except ssl.SSLError as error:
            check("REVOKED" in why(error), f"{leaf.name} is refused with {error}, TLS {version}")


def revoked(world, node):
    """Revoked, list written, SIGHUP: out within a second; then another by the list alone, a few seconds later."""
    times = []
    for leaf, signals in ((world.anna, True), (world.dora, False)):
        victim, witness = Everybody(world, node, leaf), Everybody(world, node, world.bert)
        calm = Calm(node, world.mqtt(node, world.calm, "calm-1"), world.mqtt(node, world.calm, "calm-2"))
        closed = node.counters().get("closed_proofEnded", 0)
        world.authority.revoke(leaf)
        world.write_revocations()
        start = node.clock()
        if signals:
            node.process.send_signal(1)
        times.append(victim.seconds_until_gone(start, 1.0 if signals else 10))
        witness.check_alive(world, f"after {leaf.name}".encode())
        victim.close()
        witness.close()
        refused_anew(world, node, leaf)
        check(node.counters().get("closed_proofEnded", 0) >= closed + 5,
              f"closed_proofEnded: {node.counters().get('closed_proofEnded', 0)} after {closed}")
        check(node.audits(reason="revoked"), "no audit record says that a certificate is revoked")
        calm.finish(limit=1.0)
    return f"out after {times[0] * 1_000:.0f} ms with SIGHUP, {times[1]:.1f} s without"


def shown(world, node, leaf_name="node"):
    connection = node.dial("mqtts", world.context())
    serial = int(connection.getpeercert()["serialNumber"], 16)
    connection.close()
    return serial


def renewed(world, node):
    """A new server certificate: new connections see it, old ones go on."""
    old = world.mqtt(node, world.bert, "before-renewal")
    is_("the first", world.server.serial, shown(world, node))
    fresh = world.middle.server("node")
    node.reload()
    is_("the renewed", fresh.serial, shown(world, node))
    check(old.ping(), "an old connection has ended")
    watched = world.middle.server("node", key="rsa2048")
    seconds = until(lambda: shown(world, node) == watched.serial, "a new file is not noticed without SIGHUP", 10, 0.2)
    check(old.ping(), "an old connection has ended")
    world.server = watched
    old.close()
    return f"noticed after {seconds:.1f} s"


def refused_files(node):
    """SIGHUP, and what the log then says of files that are no good."""
    def found():
        return [x["problem"] for x in node.log_records("tls") if x["message"].startswith("certificates refused")]

    before = len(found())
    node.reload()
    until(lambda: len(found()) > before, "the log says nothing of a file that is no good", 5)
    return " ".join(found()[before:])


def broken(world, node):
    """Certificates that are none: the reload is refused, says which file, and the old goes on."""
    path, key = world.server.path, world.server.key
    good = path.read_bytes(), key.read_bytes()
    old = world.mqtt(node, world.bert, "before-broken")
    for what, file, content in (
        ("no certificate", path, b"this is no certificate\n"), ("half a file", path, good[0][:300]),
        ("nothing", path, b""),
        ("another's key", key, world.bert.key.read_bytes()),
        ("no list", world.pki / "ca.crl", b"nothing of that kind\n"),
        ("no authority", world.pki / "ca.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ):
        before = file.read_bytes()
        file.write_bytes(content)
        said = refused_files(node)
        file.write_bytes(before)
        check(file.name in said, f"{what}: the log does not name {file.name}: {said}")
        check(shown(world, node) == world.server.serial, f"{what}: another certificate is shown")
        check(old.ping(), f"{what}: an old connection has ended")
        check(world.mqtt(node, world.bert, "after-broken").ping(), f"{what}: no new connection")
    path.unlink()
    said = refused_files(node)
    path.write_bytes(good[0])
    check("node.pem" in said, f"a missing file: {said}")
    node.reload()
    check(old.ping(), "an old connection has ended")
    old.close()


def not_starting(world):
    """Without a certificate no node starts, and it says why."""
    wrong = CONFIG.replace("PKI", str(world.pki)).replace("node.pem", "nowhere.pem")
    try:
        with SecureNode(LISTENERS, wrong):
            check(False, "a node started without its certificate")
    except Exception as failure:  # noqa: BLE001 whatever says so
        check("nowhere.pem" in str(failure), f"it says {failure}")


PARTS = (
    mosquitto_clients, paho_clients, curl_clients, proton_clients, websockets, names, protocols, resumption, many,
    renewed, broken, revoked,
)


def test(*only):
    with tempfile.TemporaryDirectory() as directory:
        world = World(directory)
        report = Report("TLS")
        with world.node() as node:
            for part in PARTS:
                if not only or part.__name__ in only:
                    report.run(part.__name__, part, world, node)
                    check(node.process.poll() is None, f"the node is dead after {part.__name__}")
        if not only or "not_starting" in only:
            report.run("not_starting", not_starting, world)
        report.finish()
    return f"TLS: {report.count} parts passed: mosquitto, Paho, curl, Proton, WebSocket; revoked ones out, others stay"


if __name__ == "__main__":
    main(test, *sys.argv[1:])
