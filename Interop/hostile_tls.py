#!/usr/bin/env python3
"""Proves that whoever means harm to TLS, to tokens and to names does none: old versions and suites, certificates that
are wrong in every way, handshakes that never end, floods of renegotiations and new keys, records and hellos that lie
about their lengths, the wrong protocol on a port; tokens that are forged; names of 64 KiB and names that would widen a
rule; guessing of passwords. Each is refused with a reason, counted and audited, while a pair of clients that behave
exchanges events all the time. And sslscan and testssl.sh find nothing.

    hostile_tls.py [NAME of a part…]

Run it with the interpreter that python.sh prints."""

import json
import os
import pathlib
import random
import re
import shutil
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree

from cryptography.hazmat.primitives import serialization

import amqp_wire
import hello as raw
from auth_matrix import KeyServer
from authority import DAY, SERVER, Authority
from node import Failure, check, connect_packet, is_, main, until
from secure import (
    AMQP, IS_DEBUG, MQTT, Calm, Issuer, Report, SecureNode, add_user, basic, bearer, context, encoded, gone, login,
    method, plain, why,
)
from web import Answer

LISTENERS = {
    "mqtts": "mqtt, tls: main", "amqps": "amqp, tls: main", "https": "http, tls: main", "strict": "mqtt, tls: strict",
    "unlisted": "mqtt, tls: unlisted", "mqtt": "mqtt", "amqp": "amqp", "http": "http",
}
TIMEOUT = 2
CONFIG = """tls:
  main:
    certificate: PKI/node.pem
    key: PKI/node.key
    client_ca: PKI/ca.pem
    crl: PKI/ca.crl
    user: "${cert.cn}"
    handshake_timeout: 2
  strict:
    certificate: PKI/node.pem
    key: PKI/node.key
    client_ca: PKI/ca.pem
    crl: PKI/ca.crl
    require_client_certificate: true
    handshake_timeout: 2
  unlisted: { certificate: PKI/node.pem, key: PKI/node.key, client_ca: PKI/ca.pem, handshake_timeout: 2 }
security:
  users: PKI/users
  anonymous: loopback
  tokens:
    - { issuer: "https://issuer.example", audience: apus, keys: PKI/jwks.json }
    - { issuer: "https://wrong-name.example", audience: apus, keys: "https://localhost:JWKS0/", ca: PKI/ca.pem }
    - { issuer: "https://expired.example", audience: apus, keys: "https://localhost:JWKS1/", ca: PKI/ca.pem }
    - { issuer: "https://self-signed.example", audience: apus, keys: "https://localhost:JWKS2/", ca: PKI/ca.pem }
    - { issuer: "https://client.example", audience: apus, keys: "https://localhost:JWKS3/", ca: PKI/ca.pem }
  access:
    - { deny: all, topics: ["secret/${username}/#"], users: [pia] }
    - { allow: all, topics: ["calm/#"], users: [calm] }
    - { allow: all, topics: ["dev/${username}/#", "cid/${clientid}/#"] }
    - { allow: all, topics: ["open/#"] }
limits: { connect_timeout: 3 }
"""


class World:
    def __init__(self, directory):
        self.pki = pathlib.Path(directory)
        self.authority = Authority(self.pki)
        self.middle = Authority(self.pki, "middle", parent=self.authority)
        self.stranger = Authority(self.pki, "stranger")
        self.authority.server("node", crl="http://localhost/ca.crl")
        self.good = self.authority.client("calm")
        self.revoked = self.authority.client("revoked")
        self.authority.revoke(self.revoked)
        self.late = Authority(self.pki, "late", parent=self.authority, start=-3 * DAY, end=-DAY)
        self.authority.write_revocations(self.pki / "ca.crl", self.middle, self.late)
        self.issuer = Issuer()
        self.issuer.add_key("rsa-1", "rsa2048")
        self.issuer.add_key("ec-1", "ec")
        self.issuer.write(self.pki / "jwks.json")
        self.elsewhere = Issuer("x")
        self.elsewhere.add_key("k", "ec")
        self.servers = [KeyServer(leaf) for leaf in (
            self.authority.server("elsewhere", hosts=["elsewhere.example"]),
            self.authority.server("old-server", start=-3 * DAY, end=-DAY),
            self.authority.server("self-server", self_signed=True),
            self.authority.client("no-server", hosts=["localhost"]),
        )]
        for server in self.servers:
            server.body = self.elsewhere.jwks()
        for user in ("pia", "una", "ulf", "eve"):
            add_user(self.pki / "users", user, f"word of {user}")
        add_user(self.pki / "users", "sam", "word of sam", scram=True)

    def node(self):
        config = CONFIG.replace("PKI", str(self.pki))
        for place, server in enumerate(self.servers):
            config = config.replace(f"JWKS{place}", str(server.port))
        return SecureNode(LISTENERS, config, scattered=True)

    def context(self, leaf=None, **more):
        return context(str(self.authority.path), leaf, **more)

    def calm(self, node):
        return Calm(node, *(MQTT(node.dial("mqtts", self.context(self.good)), 5, f"calm-{end}") for end in (1, 2)))


class Counted:
    """Sees to it that something is counted and audited: a block in which `times` connections are refused."""

    def __init__(self, node, what, *names, audit=None, times=1):
        self.node, self.what, self.names, self.audit, self.times = node, what, names, audit, times

    def count(self):
        counters = self.node.counters()
        return sum(counters.get(name, 0) for name in self.names)

    def __enter__(self):
        self.before, self.records = self.count(), self.heard()
        return self

    def heard(self):
        """Records, those left out included."""
        found = self.node.audits(**self.audit) if self.audit is not None else []
        return sum(1 + int(record.get("left_out", 0)) for record in found)

    def __exit__(self, kind, value, trace):
        if kind is not None:
            return
        until(lambda: self.count() >= self.before + self.times,
              lambda: f"{self.what}: {self.names} grew by {self.count() - self.before}, not {self.times}", 30, 0.05)
        if self.audit is not None:
            until(lambda: self.heard() > self.records,
                  lambda: f"{self.what}: no audit record {self.audit}; the last ones: {self.node.audits()[-2:]}", 30)


HANDSHAKE = {"kind": "connection"}


def refused_hello(node, what, words, alerts, listener="mqtts", seconds=TIMEOUT + 30):
    """Bytes instead of a handshake; the alert that they deserve."""
    with Counted(node, what, "closed_handshakeFailed", audit=HANDSHAKE):
        connection = node.dial(listener)
        try:
            for piece in words if isinstance(words, (list, tuple)) else [words]:
                connection.sendall(piece)
        except OSError:
            pass  # It was refused while we were talking.
        said, ended = raw.until_closed(connection, seconds)
        connection.close()
        check(ended, f"{what}: the connection stays")
        found = [alert for level, alert in raw.alerts(said) if level == 2]
        check(alerts is None or found and found[0] in alerts, f"{what}: alerts {found}, not {alerts}; said {said[:40]}")


def versions(world, node):
    """SSL 2 and 3, TLS 1.0 and 1.1; export, anonymous, empty and ancient suites."""
    protocol, failure, decode, parameter = 70, 40, 50, 47
    refused_hello(node, "SSL 2", raw.SSL2, None)
    for name, number in (
        ("SSL 3", 0x0300), ("TLS 1.0", 0x0301), ("TLS 1.1", 0x0302), ("version 0", 0), ("SSL 2.5", 0x0205),
    ):
        refused_hello(node, name, raw.hello(version=number), (protocol, failure))
    only = raw.extension(43, b"\x04\x03\x02\x03\x01")
    refused_hello(node, "supported_versions of 1.1 and 1.0", raw.hello(extensions=raw.STANDARD + only), (protocol,))
    for name, suites in (
        ("export suites", (0x0003, 0x0006, 0x0008, 0x0014, 0x0062, 0x0064)),
        ("no encryption", (0x0001, 0x0002, 0x003B, 0xC010)),
        ("nobody authenticated", (0x0018, 0x0034, 0x006C, 0xC018)), ("RC4", (0x0004, 0x0005, 0xC007, 0xC011)),
        ("3DES", (0x000A, 0xC012, 0x0016)), ("RSA key exchange", (0x002F, 0x0035, 0x009C, 0x009D)),
        ("suites nobody knows", (0x4444, 0xEEEE)), ("GREASE alone", (0x0A0A, 0x1A1A)),
    ):
        refused_hello(node, name, raw.hello(suites=suites), (failure,))
    refused_hello(node, "no suites", raw.hello(suites=()), (decode, failure, parameter))
    refused_hello(node, "a downgrade", raw.hello(version=0x0302, suites=(0x5600, 0xC02F, 0xC02B)), (protocol, 86))
    openssl = ["openssl", "s_client", "-connect", f"127.0.0.1:{node.ports['mqtts']}"]
    for words in ("-tls1", "-tls1_1"):
        command = [*openssl, words, "-cipher", "ALL:@SECLEVEL=0"]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=60)
        check(b"alert protocol version" in done.stderr, f"openssl s_client {words}: {done.stderr[-300:]}")
    for words in (("-tls1_2",), ("-tls1_3",)):
        done = subprocess.run([*openssl, *words], input=b"", capture_output=True, timeout=60)
        check(b"BEGIN CERTIFICATE" in done.stdout, f"openssl s_client {words}: {done.stderr[-300:]}")


def certificates(world, node):
    """Certificates that are wrong, shown where one is required and where one may be; alerts and reasons."""
    ca, stranger, pki = world.authority, world.stranger, world.pki
    fake = Authority(pki, "fake", parent=ca, constrained=False)
    unlisted = Authority(pki, "unlisted", parent=ca)
    hundred = ca.client("hundred", chain=[Authority(pki, f"h{n}", parent=ca).certificate for n in range(120)])
    cases = (
        ("expired", ca.client("expired", start=-3 * DAY, end=-DAY), ("EXPIRED",), "expired"),
        ("not yet valid", ca.client("early", start=DAY, end=3 * DAY), ("EXPIRED", "BAD_CERTIFICATE"), "not yet valid"),
        ("revoked", world.revoked, ("REVOKED",), "revoked"),
        ("self-signed", ca.client("self", self_signed=True), ("UNKNOWN_CA", "BAD_CERTIFICATE"), "self"),
        ("of another authority", stranger.client("strange"), ("UNKNOWN_CA", "BAD_CERTIFICATE"), "issuer"),
        ("for servers", ca.issue("usage", [SERVER]), ("UNSUPPORTED_CERTIFICATE", "BAD_CERTIFICATE"), "purpose|usage"),
        ("signed by a leaf", fake.client("below"), ("UNKNOWN_CA", "INVALID", "BAD_CERTIFICATE"), "CA|issuer"),
        ("below an expired one", world.late.client("late-leaf"), ("EXPIRED",), "expired"),
        ("below one without a list", unlisted.client("unlisted-leaf"), ("UNKNOWN_CA", "BAD_CERTIFICATE", "REVO"),
         "CRL|revocation"),
        ("of 30 in a chain", ca.long_chain("long", 30), ("UNKNOWN_CA", "BAD_CERTIFICATE", "HANDSHAKE"), "chain"),
        ("with 120 others", hundred, None, ""),
    )
    for what, leaf, alerts, reason in cases:
        # With a list the long chain would be refused because its authorities have none.
        for listener in ("unlisted",) if "chain" in what else ("strict", "mqtts"):
            for version in ("1.2", "1.3"):
                name = f"{what}, {listener}, TLS {version}"
                with Counted(node, name, "closed_handshakeFailed", audit=HANDSHAKE):
                    error = refused_certificate(world, node, leaf, listener, version)
                check(alerts is None or any(word in error for word in alerts), f"{name}: {error}")
        if reason:
            last = node.audits(**HANDSHAKE)[-1]
            check(re.search(reason, last.get("reason", "")), f"{what}: audited with {last.get('reason')!r}")
    for version in ("1.2", "1.3"):
        with Counted(node, "none where one is required", "closed_handshakeFailed", audit=HANDSHAKE):
            error = refused_certificate(world, node, None, "strict", version)
            check("HANDSHAKE_FAILURE" in error or "CERTIFICATE_REQUIRED" in error, f"no certificate: {error}")
    MQTT(node.dial("strict", world.context(world.middle.client("fine"))), 5, "fine").close()


def refused_certificate(world, node, leaf, listener, version):
    """The error of a handshake that must fail, in it or right behind it."""
    try:
        made = node.dial(listener, world.context(leaf, version=version))
        # With TLS 1.3 the client is done before the server has looked.
        made.sendall(login(5, "intruder"))
        ended = gone(made, 5)
        check(ended, f"let in with {leaf and leaf.name}")
        check(ended[1], "ended without an alert")
        return ended[1]
    except (ssl.SSLError, OSError) as error:
        return why(error)


def names(world, node):
    """Servers that this node asks for keys and that are not who they should be: their keys count for nothing."""
    for what in ("wrong-name", "expired", "self-signed", "client"):
        token = Issuer(f"https://{what}.example")
        token.keys = world.elsewhere.keys
        status = request(node, world, {"Authorization": f"Bearer {token.token('una')}"})
        is_(f"a token whose keys come from a server that is {what}", 401, status)
    is_("requests that reached these servers", [0] * 4, [server.asked for server in world.servers])
    lines = [x for x in node.log_records() if "localhost:" in json.dumps(x) and x.get("level") in ("warning", "error")]
    check(len(lines) >= 4, f"the log tells of {len(lines)} of four servers")
    # And a client that looks for another name refuses this node.
    try:
        node.dial("mqtts", world.context(), "elsewhere.example")
        check(False, "a client takes another name")
    except ssl.SSLCertVerificationError as error:
        check("mismatch" in str(error).lower(), f"{error}")


def request(node, world, fields, path="/TOPIC/open/x", body=b"x", listener="https"):
    """The status of a request by hand: fields of any size."""
    made = node.dial(listener, world.context() if listener == "https" else None)
    words = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", "Connection: close"]
    words += [f"{name}: {value}" for name, value in fields.items()]
    try:
        made.sendall("\r\n".join(words).encode("latin-1") + b"\r\n\r\n" + body)
    except (OSError, ssl.SSLError):
        pass
    said = b""
    made.settimeout(10)
    try:
        while chunk := made.recv(65_536):
            said += chunk
    except (OSError, ssl.SSLError):
        pass
    made.close()
    return Answer(said).status if said else None


def half_open(world, node):
    """Handshakes that do not go on: each ends in time, whatever drips."""
    whole = raw.hello()
    problems = []

    def run(what, listener, first, drip):
        connection = node.dial(listener)
        start, fair = time.monotonic(), node.clock()
        connection.sendall(first)
        pieces = iter(drip)
        ended = False
        while not ended and time.monotonic() - start < TIMEOUT + 20:
            piece = next(pieces, None)
            try:
                if piece is not None:
                    connection.sendall(bytes([piece]))
            except OSError:
                break
            ended = raw.until_closed(connection, 0.3)[1]
        lasted, most = time.monotonic() - start, node.clock() - fair
        if lasted < TIMEOUT - 0.5 or most > TIMEOUT + 2:
            problems.append(f"{what} at {listener}: {lasted:.1f} s")

    kinds = (
        ("nothing", b"", b""), ("one byte", whole[:1], b""), ("half a hello", whole[:60], b""),
        ("a hello in drops", whole[:1], whole[1:20]), ("a hello and silence", whole, b""),
    )
    cases = [(what, listener, first, drip) for listener in ("mqtts", "amqps", "https", "strict")
             for what, first, drip in kinds]
    with Counted(node, "half a handshake", "closed_handshakeFailed", audit=HANDSHAKE, times=len(cases)):
        threads = [threading.Thread(target=run, args=case) for case in cases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    check(not problems, "; ".join(problems))
    # 2,000 of them, held open: what each costs, and that all go.
    before = node.resident_kilobytes()
    held = [node.dial("mqtts") for _ in range(2_000)]
    for connection in held:
        connection.sendall(whole)
    grown = node.resident_kilobytes() - before
    start = time.monotonic()
    until(lambda: node.counters()["connections"] < 50, "half handshakes stay", TIMEOUT + 30, 0.2)
    for connection in held:
        connection.close()
    check(grown < 2_000 * 100, f"2,000 half handshakes cost {grown} KiB")
    return f"2,000 cost {grown >> 10} MiB for {time.monotonic() - start:.1f} s"


def slow_but_good(world, node):
    """Byte by byte is no crime: a handshake and a CONNECT in pieces of one byte succeed."""
    left, right = socket.socketpair()
    inner = node.dial("mqtts")

    def carry():
        try:
            while data := right.recv(4_096):
                for byte in data:
                    inner.sendall(bytes([byte]))
        except OSError:
            pass

    def back():
        try:
            while data := inner.recv(4_096):
                for byte in data:
                    right.sendall(bytes([byte]))
        except OSError:
            pass

    for target in (carry, back):
        threading.Thread(target=target, daemon=True).start()
    made = world.context(world.good).wrap_socket(left, server_hostname="localhost")
    one = MQTT(made, 5, "drops")
    is_("a subscription in drops", 0, one.subscribe("calm/drops"))
    one.close()
    inner.close()


def openssl_flood(world, node, letter, count, version, pause=0.3):
    """`openssl s_client` that is told to renegotiate, or to change its keys, again and again."""
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{node.ports['mqtts']}", version, "-CAfile",
         str(world.authority.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(pause)
    try:
        for _ in range(count):
            process.stdin.write(letter.encode() + b"\n")
            process.stdin.flush()
            time.sleep(0.002)
        time.sleep(pause)
        process.stdin.close()
    except OSError:
        pass
    try:
        said = process.communicate(timeout=10)[0] if not process.stdin.closed else process.stdout.read()
    except subprocess.TimeoutExpired:
        process.kill()
        said = b""
    process.wait(10)
    return said


def renegotiation(world, node):
    """Renegotiations are refused, a flood of them and of new keys costs little."""
    spent = node.processor_seconds()
    said = openssl_flood(world, node, "R", 1, "-tls1_2", 3)
    check(b"RENEGOTIATING" in said, f"s_client did not try: {said[-200:]}")
    check(b"no renegotiation" in said or b"handshake failure" in said or b"unexpected" in said,
          f"a renegotiation is not refused: {said[-300:]}")
    threads = [threading.Thread(target=openssl_flood, args=(world, node, "R", 300, "-tls1_2")) for _ in range(5)]
    threads += [threading.Thread(target=openssl_flood, args=(world, node, "K", 1_000, "-tls1_3")) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = node.processor_seconds() - spent
    check(spent < (8 if IS_DEBUG else 2), f"the floods cost {spent:.1f} s of the node's time")
    return f"{spent:.2f} s of the node's time"


def lies(world, node):
    """Lengths that are not true, records out of place; never more comes back than an alert."""
    for what, words, alerts in raw.lies():
        refused_hello(node, what, words, alerts)
    # Behind the server's part of the handshake, where Heartbleed bled.
    for what, words in raw.LATE:
        with Counted(node, what, "closed_handshakeFailed", audit=HANDSHAKE):
            connection = node.dial("mqtts")
            connection.sendall(raw.hello(suites=(0xC02B, 0xC02C, 0xC02F), extensions=raw.STANDARD + raw.HEARTBEAT))
            first = raw.flight(connection)
            check(first, "no answer to a hello")
            try:
                connection.sendall(words)
            except OSError:
                pass
            said, ended = raw.until_closed(connection, TIMEOUT + 30)
            check(ended, f"{what}: the connection stays")
            kinds = [kind for kind, _ in raw.records(said)]
            check(24 not in kinds and len(said) < 200, f"{what}: answered with {len(said)} bytes of {kinds}")
    chance = random.Random(20_261_121)
    whole = raw.hello()
    for number in range(600):
        mutant = bytearray(whole)
        for _ in range(chance.randrange(1, 5)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        connection = node.dial("mqtts")
        connection.sendall(mutant[: chance.choice((len(mutant), chance.randrange(1, len(mutant))))])
        if number % 3 == 0:
            connection.shutdown(socket.SHUT_WR)
        if number % 3 == 1:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def other_protocols(world, node):
    """Plaintext where TLS is spoken, TLS where it is not."""
    plain_words = {
        "MQTT": connect_packet("plain"), "AMQP": amqp_wire.HEADER, "SASL": amqp_wire.SASL_HEADER,
        "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "SSH": b"SSH-2.0-x\r\n", "zeros": bytes(600),
        "noise": random.Random(1).randbytes(5_000),
    }
    for listener in ("mqtts", "amqps", "https", "strict"):
        for what, words in plain_words.items():
            refused_hello(node, f"{what} at {listener}", words, None, listener)
        last = node.audits(**HANDSHAKE)[-1]
        check(last.get("reason"), f"no reason: {last}")
    refused_hello(node, "HTTP at https", plain_words["HTTP"], None, "https")
    last = node.audits(**HANDSHAKE)[-1]
    check(re.search("(?i)http|plain|not TLS|no TLS", last["reason"]), f"a reader learns little: {last['reason']!r}")
    for listener in ("mqtt", "amqp", "http"):
        connection = node.dial(listener)
        connection.sendall(raw.hello())
        said, ended = raw.until_closed(connection, 6)
        check(ended, f"TLS at {listener}: the connection stays")
        connection.close()


def tokens(world, node):
    """Forged and absurd tokens: no one gets in, the reason is in the audit."""
    issuer = world.issuer
    rsa = issuer.keys["rsa-1"].public_key()
    pem = rsa.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = rsa.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    mine = Issuer(issuer.name)
    mine.add_key("mine", "rsa2048")

    def confused(key, kid="rsa-1", algorithm="HS256"):
        made = Issuer(issuer.name)
        made.keys = {kid: key}
        return made.token("una", kid, algorithm)

    good = issuer.token("una")
    head, body, signature = good.split(".")
    ec = issuer.token("una", "ec-1")
    deep = "[" * 5_000 + "]" * 5_000
    cases = [(f"alg {name}", issuer.token("una", algorithm="none", header={"alg": name}), "algorithm|alg") for name in (
        "none", "None", "NONE", "nOnE", "", "null")]
    cases += [("alg null", issuer.token("una", algorithm="none", header={"alg": None}), ""),
              ("alg none with a signature", ".".join((encoded({"alg": "none"}), body, signature)), "")]
    cases += [(f"HS256 with the public key as {what}", confused(key), "algorithm|key|alg") for what, key in (
        ("PEM", pem), ("PEM without its end", pem.strip()), ("DER", der),
        ("JWK", json.dumps(issuer.jwk("rsa-1")).encode()),
        ("its modulus", rsa.public_numbers().n.to_bytes(256, "big")), ("nothing", b""))]
    cases += [("HS512 with the EC key", confused(pem, "ec-1", "HS512"), "algorithm|key|alg")]
    cases += [(f"ES256 of {what}", ec.rsplit(".", 1)[0] + "." + encoded(value), "signature") for what, value in (
        ("zeros", bytes(64)), ("ones", b"\xff" * 64), ("63 bytes", bytes(63)), ("r and s that are n", 2 * bytes.fromhex(
            "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")))]
    cases += [
        ("RS256 under the EC key's name", issuer.token("una", "rsa-1", header={"kid": "ec-1"}), ""),
        ("a key in the token", mine.token("una", "mine", header={"jwk": mine.jwk("mine")}), ""),
        ("a key elsewhere", mine.token("una", "mine", header={"jku": "https://localhost/k", "x5u": "https://x/"}), ""),
        ("a path for a key", mine.token("una", "mine", header={"kid": "../../../../dev/null"}), ""),
        ("a query for a key", mine.token("una", "mine", header={"kid": "' UNION SELECT 'x"}), ""),
        ("a critical extension", issuer.token("una", header={"crit": ["b64"], "b64": False}), ""),
        ("another audience", issuer.token("una", aud="other"), "audience"),
        ("an audience that begins alike", issuer.token("una", aud="apus2"), "audience"),
        ("a future nbf", issuer.token("una", nbf=int(time.time()) + 3_600), "not (yet )?valid|nbf|before"),
        ("an nbf beyond numbers", issuer.token("una", nbf=1e300), ""),
        ("an exp beyond numbers", issuer.token("una", exp=1e300), ""),
        ("a negative exp", issuer.token("una", exp=-1), ""), ("only a head", f"{head}.", ""),
        ("expired", issuer.token("una", lifetime=-3_600), "expired|exp"),
        ("a claim of 10,000 bytes", issuer.token("una", x="y" * 13_000), ""),
        ("1,000 claims", issuer.token("una", **{f"c{n}": n for n in range(1_000)}), ""),
        ("nesting", f"{head}.{encoded(deep.encode())}.{signature}", ""),
        ("nesting in the head", f"{encoded(deep.encode())}.{body}.{signature}", ""),
        ("a signed claim 9 deep", issuer.token("una", x=[[[[[[[[[[1]]]]]]]]]]), ""),
        ("60,000 bytes", issuer.token("una", x="y" * 45_000), ""),
        ("the head twice", f"{head}.{head}.{signature}", ""),
        ("noise", "eyJ" + "A" * 500 + ".eyJ" + "B" * 500 + ".C", ""),
        ("only dots", "eyJ..", ""), ("a hundred dots", "eyJ" + "." * 100, ""),
        ("a claim twice", f"{head}." + encoded(
            b'{"iss":"https://issuer.example","aud":"apus","sub":"una","sub":"pia","exp":9999999999}')
            + f".{signature}", ""),
    ]
    # Some claims are no crime; what counts is that the session is whose it says, and that nobody is hurt.
    may_pass = {"a claim of 10,000 bytes", "1,000 claims", "a signed claim 9 deep", "an exp beyond numbers"}
    problems, before = [], node.counters().get("closed_notAuthenticated", 0)
    for what, token, reason in cases:
        try:
            status = request(node, world, {"Authorization": f"Bearer {token}"})
            if what in may_pass:
                check(status in (202, 401), f"{status} by HTTP")
                continue
            check(status == 401 or len(token) > 8_000 and status in (431, 400, 413), f"{status} by HTTP")
            if reason and status == 401:
                last = node.wait_audit(what, kind="authentication", protocol="http")
                check(re.search(f"(?i){reason}", last.get("reason", "")), f"audited with {last.get('reason')!r}")
            one = MQTT(node.dial("mqtts", world.context()), 5, "forged", "", token, wants_refusal=True)
            check(one.refused in (0x86, 0x87, 0x89), f"{one.refused:#x} by MQTT")
            raw_amqp = AMQP(node.dial("amqps", world.context()))
            check(raw_amqp.sasl("OAUTHBEARER", bearer(token)) != 0, "let in by AMQP")
        except (Failure, OSError) as failure:
            problems.append(f"{what}: {failure!r}")
    check(not problems, f"{len(problems)} of {len(cases)}: " + "; ".join(problems))
    counted = node.counters().get("closed_notAuthenticated", 0) - before
    # Some are too long to be looked at, which ends the connection for another reason.
    check(counted >= 2 * (len(cases) - len(may_pass) - 1), f"{counted} of {len(cases)} are counted, by MQTT and AMQP")
    return f"{len(cases)} tokens"


def long_names(world, node):
    """User names, passwords and answers of 64 KiB, by every way in."""
    long = "u" * 65_535
    before = node.resident_kilobytes()
    for number in range(30):
        for user, password in ((long, "x"), ("una", long), (long, long), ("\x01" * 65_535, b"\xff" * 65_535)):
            one = MQTT(node.dial("mqtt"), 4 + number % 2, f"long-{number}", user, password, wants_refusal=True)
            check(one.refused in (4, 5, 3, 0x85, 0x86, 0x87, 0x89, 0x97), f"MQTT: {one.refused:#x}")
            one.close()
    for user in (long[:30_000], "\0" * 1_000):
        one = AMQP(node.dial("amqp"))
        check(one.sasl("PLAIN", b"\0" + user.encode() + b"\0" + b"x") != 0, "AMQP lets a long name in")
    for what, value in (("Basic", basic(long, "x")), ("Bearer", "Bearer " + long)):
        status = request(node, world, {"Authorization": value})
        check(status in (400, 401, 431), f"{what} of 64 KiB: {status}")
    for first in (b"n,,n=" + b"s" * 65_000 + b",r=x", b"n,,n=sam,r=" + b"r" * 65_000, b"n,," + b"m=x," * 16_000,
                  b"p=tls-unique,,n=sam,r=x", b"n,a=pia,n=sam,r=abcdefgh", b"y,,n=sam,r=", b"n,,n==41,r=x", b"",
                  b"n,,r=x,n=sam", b"\0" * 60_000):
        one = MQTT(node.dial("mqtt"), 5)
        one.send(login(5, "scram-long", more=method("SCRAM-SHA-256", first)))
        if first == b"n,a=pia,n=sam,r=abcdefgh":
            continue
        one.read(2)
        kinds = [(hex(kind), body[:2].hex()) for kind, body in one.arrived]
        is_let_in = any(kind == 0x20 and body[1] == 0 for kind, body in one.arrived)
        check(not is_let_in, f"SCRAM {first[:30]}: {kinds}")
        one.close()
    for answer in (b"", b"n", b"n,", b"n,,", b"n,,\1\1", b"n,,\1auth=\1\1", b"n,,\1auth=Basic x\1\1",
                   b"n,,\1" + b"k=v\1" * 15_000 + b"\1", b"n,a=" + b"x" * 60_000 + b",\1auth=Bearer x\1\1"):
        one = AMQP(node.dial("amqp"))
        check(one.sasl("OAUTHBEARER", answer) != 0, f"OAUTHBEARER {answer[:20]} is let in")
    grown = node.resident_kilobytes() - before
    check(grown < 24_576, f"names of 64 KiB cost {grown} KiB")
    text = node.log.read_text(errors="replace")
    check("u" * 2_000 not in text, "the log holds names of any length")
    check("\x01" not in text, "the log holds control characters")
    return f"{grown} KiB more"


STRANGE = ("+", "#", "*", ">", "a/b", "una/../pia", "/", "pia/", "/pia", "+/x", "#/x", "pia/#", "$SYS", "a*", "*a",
           "a>", "$share/g/x", "", " ", ".", "..", "${username}", "${clientid}", "%2B", "%2F", "\u2215", "\uff0b",
           "x" * 5_000)


def variables(world, node):
    """Names with wildcards and separators, as users and as client ids: a rule never gets wider, a denial never
    narrower."""
    issuer, problems = world.issuer, []
    for name in STRANGE:
        hidden = any(letter in name for letter in "+#*>/\0") or not name
        for how in ("user", "client id"):
            if how == "user":
                below, client, token = "dev", "strange", issuer.token(name)
            else:
                below, client, token = "cid", name, issuer.token("una")
            one = MQTT(node.dial("mqtts", world.context()), 5, client, "", token, wants_refusal=True)
            if one.refused:
                continue
            for topic_filter in (f"{below}/+/x", f"{below}/#", f"{below}/pia/x", "#", f"{below}/una/x", "+/pia/#"):
                if topic_filter == f"{below}/{name}/x" or how == "client id" and topic_filter == "dev/una/x":
                    continue
                code = one.subscribe(topic_filter)
                if code < 0x80:
                    problems.append(f"{how} {name[:20]!r} may subscribe to {topic_filter}")
            if hidden and name and len(name) < 100:
                code = one.subscribe(f"{below}/{name}/x")
                if code < 0x80:
                    problems.append(f"{how} {name[:20]!r} may subscribe to {below}/{name}/x")
            code = one.publish(f"{below}/pia/x", b"x")
            if code is not None and code < 0x80:
                problems.append(f"{how} {name[:20]!r} may publish to {below}/pia/x")
            one.close()
    one = MQTT(node.dial("mqtts", world.context()), 5, "una-own", "", issuer.token("una"))
    is_("una's own", 0, one.subscribe("dev/una/#"))
    is_("her client id's", 0, one.subscribe("cid/una-own/#"))
    check(not problems, f"{len(problems)}: " + "; ".join(problems[:8]))
    return f"{len(STRANGE)} names"


class From:
    """Connections from an address of the loopback network."""

    def __init__(self, node, address):
        self.node, self.address = node, address

    def mqtt(self, user, password):
        # A client id for each user: the connection of the one before may not have ended yet, and its id is its user's.
        client = f"guess-{user}"
        made = socket.socket()
        made.bind((self.address, 0))
        made.settimeout(10)
        made.connect(("127.0.0.1", self.node.ports["mqtt"]))
        one = MQTT(made, 5, client, user, password, wants_refusal=True)
        one.close()
        return one.refused


def guessing(world, node):
    """Passwords are guessed from one address, then from many: those who know theirs come in all the while, and
    guesses soon cost the node nothing."""
    here, there = From(node, "127.0.0.1"), From(node, "127.0.0.2")
    is_("ulf, once", 0, here.mqtt("ulf", "word of ulf"))
    codes, spent, start = [], node.processor_seconds(), time.monotonic()
    for number in range(300):
        codes.append(here.mqtt("eve", f"guess {number}"))
    taken, spent = time.monotonic() - start, node.processor_seconds() - spent
    check(all(codes), "a guess was right")
    check(len(set(codes)) == 2, f"codes of guesses: {set(map(hex, codes))}")
    later = codes.index(next(code for code in codes if code != codes[0]))
    check(10 <= later <= 40, f"the first {later} guesses were checked")
    # A hash takes 50 ms: 300 of them would be 15 s.
    check(spent < 6, f"300 guesses cost {spent:.1f} s of the node's time")
    is_("ulf, verified before, from the address of the guesser", 0, here.mqtt("ulf", "word of ulf"))
    is_("the guessed one herself, from her own address", 0, there.mqtt("eve", "word of eve"))
    is_("another, not seen before, from another address", 0, there.mqtt("una", "word of una"))
    is_("the guessed one, verified before, even from the guesser's address", 0, here.mqtt("eve", "word of eve"))
    node.wait_audit("guessing", kind="authentication", user="eve")
    # By name over many addresses.
    spread = [From(node, f"127.0.{1 + number // 200}.{1 + number % 200}") for number in range(400)]
    codes = [one.mqtt("eve", "guess") for one in spread]
    check(all(codes), "a guess was right")
    check(len(set(codes)) == 2, f"guesses of one name from 400 addresses are never limited: {set(codes)}")
    is_("eve, verified before, from a new address", 0, From(node, "127.0.9.9").mqtt("eve", "word of eve"))
    is_("pia, verified never, from a new address", 0, From(node, "127.0.9.8").mqtt("pia", "word of pia"))
    # Other ways in share the limits.
    one = AMQP(node.dial("amqp"))
    check(one.sasl("PLAIN", plain("sam", "guess")) != 0, "a guess by AMQP")
    status = request(node, world, {"Authorization": basic("sam", "guess")}, listener="http")
    check(status in (401, 429, 503), f"a guess by HTTP: {status}")
    # Somebody who comes after a good while is judged again.
    time.sleep(6)
    check(here.mqtt("nobody", "x"), "nobody is let in")
    return f"300 guesses in {taken:.1f} s, the first {later} checked; {spent:.1f} s of the node's time"


def timing(world, node):
    """An unknown user takes as long as a wrong password, from addresses that have no failures yet."""
    times = {"una": [], "nobody": []}
    for number in range(16):
        for user, taken in times.items():
            source = From(node, f"127.3.{number}.{1 + len(taken)}")
            start = node.clock()
            check(source.mqtt(user, f"guess {number}"), "a guess was right")
            taken.append(node.clock() - start)
    known, unknown = (statistics.median(taken) for taken in times.values())
    said = f"{unknown * 1e3:.1f} ms for an unknown user, {known * 1e3:.1f} ms for one there is"
    check(0.6 < unknown / known < 1.6, said)
    return said


def scanned(world, node):
    """sslscan: nothing old, weak or broken."""
    program = shutil.which("sslscan")
    check(program, "sslscan is not installed: scripts/packages.sh interop")
    counts = []
    for listener in ("mqtts", "https", "unlisted"):
        done = subprocess.run(
            [program, "--xml=-", "--no-colour", "--sni-name=localhost", f"127.0.0.1:{node.ports[listener]}"],
            capture_output=True, timeout=120)
        found = xml.etree.ElementTree.fromstring(done.stdout).find("ssltest")
        check(found is not None, f"sslscan says nothing: {done.stdout[:300]} {done.stderr[:300]}")
        versions_ = {(x.get("type") + x.get("version")): x.get("enabled") for x in found.findall("protocol")}
        is_("versions", {"tls1.2", "tls1.3"}, {name for name, is_on in versions_.items() if is_on == "1"})
        check(len(versions_) >= 4, f"sslscan looked for {versions_} only")
        check(all(x.get("vulnerable") == "0" for x in found.findall("heartbleed")), "Heartbleed")
        check(all(x.get("supported") == "0" for x in found.findall("compression")), "compression")
        renegotiation_ = found.find("renegotiation")
        check(renegotiation_ is None or renegotiation_.get("secure") == "1" or renegotiation_.get("supported") == "0",
              "insecure renegotiation")
        fallback = found.find("fallback")
        check(fallback is None or fallback.get("supported") == "1", "no TLS_FALLBACK_SCSV")
        for cipher in found.findall("cipher"):
            check(cipher.get("strength") in ("acceptable", "strong"), f"a suite: {cipher.attrib}")
            check(int(cipher.get("bits")) >= 128 and re.search("GCM|CHACHA20|CCM", cipher.get("cipher")),
                  f"a suite: {cipher.attrib}")
        counts.append(f"{len(found.findall('cipher'))} suites of {listener}")
    return ", ".join(counts)


# Of the test's certificate and of the machine, not of the node.
NOT_OURS = re.compile("cert_(trust|chain_of_trust|revocation|caIssuers)|DNS_|OCSP|certificate_transparency|"
                      "overall_grade|final_score|grade_cap|engine_problem|scanTime")


def testssl(world, node):
    """testssl.sh: no finding above low."""
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    check(program, "testssl.sh is not installed: scripts/packages.sh interop")
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory) / "found.json"
        subprocess.run(
            [program, "--quiet", "--color", "0", "--warnings", "batch", "--add-ca", str(world.authority.path),
             "--protocols", "--std", "--fs", "--server-preference", "--server-defaults", "--vulnerable", "--jsonfile",
             str(file), "--nodns", "none", "--ip", "127.0.0.1", "--openssl-timeout", "5",
             f"localhost:{node.ports['mqtts']}"], capture_output=True, timeout=580, env={**os.environ, "TERM": "dumb"})
        check(file.exists(), "testssl.sh wrote nothing")
        found = json.loads(file.read_text())
    check(len(found) > 60, f"testssl.sh looked at {len(found)} things only: {found[-3:]}")
    bad = [f"{x['id']}: {x['severity']} {x['finding']}" for x in found
           if x["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL") and not NOT_OURS.search(x["id"])]
    check(not bad, "; ".join(bad))
    return f"{len(found)} things looked at"


PARTS = (
    versions, certificates, names, half_open, slow_but_good, renegotiation, lies, other_protocols, tokens, long_names,
    variables, scanned, timing, guessing, testssl,
)


def test(*only):
    limit = 1
    with tempfile.TemporaryDirectory() as directory:
        world = World(directory)
        report = Report("hostile")
        slowest = 0.0
        with world.node() as node:
            calm = world.calm(node)
            for part in PARTS:
                if only and part.__name__ not in only:
                    continue
                report.run(part.__name__, part, world, node)
                check(node.process.poll() is None, f"the node is dead after {part.__name__}")
                check(not calm.problem, f"the pair that behaves, after {part.__name__}: {calm.problem}")
                lap = calm.lap() / 1_000
                slowest = max(slowest, lap)
                print(f"       the pair that behaves waited {lap * 1_000:.0f} ms at most", flush=True)
            report.run("the pair that behaves", calm.finish, limit, slowest)
            if not only or "versions" in only:
                counted = sum(value for name, value in node.metrics().items() if "handshake_failed" in name)
                check(counted > 0, "the metrics do not count handshakes that failed")
        report.finish()
    return f"hostile TLS, tokens, names: {report.count} parts passed; {calm.count} events of a pair that behaves, " \
           f"slowest {slowest * 1_000:.0f} ms"


if __name__ == "__main__":
    main(test, *sys.argv[1:])
