"""What the tests of security share: nodes with several listeners, over TLS or not, users and tokens, MQTT and AMQP over
whatever socket there is, and a pair of clients that behave."""

import base64
import hashlib
import hmac
import itertools
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import traceback
import urllib.request

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

import websocket

import amqp_wire
import wire
from authority import new_key, put
from node import APUS, PATIENCE, Failure, Node, check, is_, packet, text, until  # noqa: F401 its users take is_ here

NUMBERS = itertools.count()
# A build with all its checks is slower, and several of them may share the machine.
IS_DEBUG = "debug" in APUS


class SecureNode(Node):
    """A node with the listeners of a dictionary: name to protocol and further keys, as `{"mqtts": "mqtt, tls: main"}`.
    `node.ports[name]` is where each listens. With `admin_context` its management is asked over TLS. What is `scattered`
    is dialled from ever new addresses of the loopback network: who is often wrong from one is kept out for a while."""

    def __init__(self, listeners, extra="", lanes=2, admin_context=None, scattered=False):
        super().__init__(lanes=lanes, extra=extra)
        self.listeners = listeners
        self.scattered = scattered
        self.ports = dict.fromkeys(listeners, 0)
        self.admin_context = admin_context

    def configuration(self, base):
        lines = [f"node: {{ name: interop, data: {base}/data, lanes: {self.lanes} }}", "listeners:"]
        for name, words in self.listeners.items():
            lines.append(f'  - {{ name: {name}, listen: "127.0.0.1:{self.ports[name]}", protocol: {words} }}')
        return "\n".join(lines) + "\n" + self.extra.replace("DIRECTORY", str(base))

    def take_ports(self, listeners):
        # In the order of the configuration; the mesh stands last.
        for name, listener in zip(list(self.listeners), listeners):
            self.ports[name] = int(listener["address"].rsplit(":", 1)[1])
        for listener in listeners[len(self.listeners):]:
            self.ports[listener["protocol"]] = int(listener["address"].rsplit(":", 1)[1])

    @property
    def source(self):
        """Where the next connection comes from; None for wherever."""
        number = next(NUMBERS)
        address = f"127.{10 + (number >> 16) % 100}.{number >> 8 & 255}.{1 + number % 254}"
        return (address, 0) if self.scattered else None

    def dial(self, name, context=None, server="localhost", timeout=10):
        """A connection to a listener, over TLS with a context."""
        made = socket.create_connection(("127.0.0.1", self.ports[name]), timeout, self.source)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(made, server_hostname=server) if context else made

    def metrics(self):
        scheme = "https" if self.admin_context else "http"
        address = self.admin.replace("127.0.0.1", "localhost") if self.admin_context else self.admin
        with urllib.request.urlopen(f"{scheme}://{address}/metrics", timeout=10, context=self.admin_context) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}

    def log_records(self, component=None):
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if component is None or record.get("component") == component:
                found.append(record)
        return found

    def audits(self, **wanted):
        """Audit records whose fields hold these texts."""
        return [record for record in self.log_records("audit")
                if all(str(value) in str(record.get(key, "")) for key, value in wanted.items())]

    def wait_audit(self, what="", seconds=30, **wanted):
        until(lambda: self.audits(**wanted), lambda: f"{what or 'something'} was not audited: no record with {wanted} "
              f"among {[compact(x) for x in self.audits()[-4:]]}", seconds)
        return self.audits(**wanted)[-1]

    def reload(self, is_good=True):
        """SIGHUP, and waits for what the node says of it; the record."""
        def found():
            return [x for x in self.log_records() if x.get("message", "").startswith(
                ("configuration reloaded", "reload refused"))]

        before = len(found())
        self.process.send_signal(signal.SIGHUP)
        until(lambda: len(found()) > before, "the node says nothing of the reload")
        said = found()[-1]
        check(said["message"].startswith("configuration reloaded") == is_good, f"the reload: {said}")
        return said


def compact(record):
    return {key: value for key, value in record.items() if key not in ("time", "level", "component", "message")}


class Report:
    """Collects what fails, so that one hole does not hide the next."""

    def __init__(self, title):
        self.title, self.count, self.failures = title, 0, []

    def run(self, what, body, *arguments, **options):
        self.count += 1
        start = time.monotonic()
        try:
            result = body(*arguments, **options)
        except Exception as failure:  # noqa: BLE001 whatever it is, the part has failed
            self.failures.append(f"{what}: {failure if isinstance(failure, Failure) else repr(failure)}")
            print(f"FAILED {what}: {failure!r:.600}", flush=True)
            if not isinstance(failure, Failure):
                traceback.print_exc()
            return None
        print(f"ok     {what} ({time.monotonic() - start:.1f} s){f': {result}' if result else ''}", flush=True)
        return result

    def finish(self):
        check(not self.failures, f"{len(self.failures)} of {self.count}:\n  " + "\n  ".join(self.failures))


# TLS


def context(authority, leaf=None, version=None, alpn=(), check_name=True):
    """What a client knows: the authority's path, its own certificate, the one version it speaks."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(authority)
    made.check_hostname = check_name
    if leaf:
        made.load_cert_chain(leaf.path, leaf.key)
    if version:
        number = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        made.minimum_version = made.maximum_version = number
    if alpn:
        made.set_alpn_protocols(list(alpn))
    return made


def why(error):
    """The reason of an error of TLS, as `CERTIFICATE_REVOKED`."""
    return (getattr(error, "reason", None) or str(error)).upper().replace(" ", "_")


def gone(connection, seconds=5):
    """Reads until the peer ends the connection; the seconds that took and the error, or None."""
    start = time.monotonic()
    while (left := seconds - (time.monotonic() - start)) > 0:
        connection.settimeout(left)
        try:
            if not connection.recv(65_536):
                return time.monotonic() - start, ""
        except TimeoutError:
            return None
        except (OSError, ssl.SSLError) as error:
            return time.monotonic() - start, why(error)
    return None


# Users and tokens


def add_user(file, name, password, *groups, scram=False):
    options = [word for group in groups for word in ("--group", group)] + ["--scram"] * scram
    done = subprocess.run([APUS, "user", "add", "--file", str(file), *options, name], input=f"{password}\n".encode(),
                          capture_output=True, timeout=PATIENCE)
    check(done.returncode == 0, f"apus user add {name}: {done.stderr.decode()}")


def encoded(raw):
    raw = raw if isinstance(raw, bytes) else json.dumps(raw, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def integer(number, size=None):
    return encoded(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))


class Issuer:
    """Issues tokens. Keys by their ids: RSA, EC, Ed25519, or bytes for HS256."""

    def __init__(self, name="https://issuer.example", audience="apus"):
        self.name, self.audience, self.keys = name, audience, {}

    def add_key(self, kid, kind="ec"):
        self.keys[kid] = os.urandom(32) if kind == "oct" else new_key(kind)
        return self.keys[kid]

    def jwk(self, kid):
        key = self.keys[kid]
        if isinstance(key, bytes):
            return {"kty": "oct", "kid": kid, "k": encoded(key), "alg": "HS256"}
        public = key.public_key()
        if isinstance(key, rsa.RSAPrivateKey):
            numbers = public.public_numbers()
            return {"kty": "RSA", "kid": kid, "use": "sig", "n": integer(numbers.n), "e": integer(numbers.e)}
        if isinstance(key, ec.EllipticCurvePrivateKey):
            numbers, size = public.public_numbers(), (key.key_size + 7) // 8
            return {"kty": "EC", "kid": kid, "crv": f"P-{key.key_size}", "use": "sig", "x": integer(numbers.x, size),
                    "y": integer(numbers.y, size)}
        return {"kty": "OKP", "kid": kid, "crv": "Ed25519", "x": encoded(public.public_bytes_raw())}

    def jwks(self, *kids):
        return json.dumps({"keys": [self.jwk(kid) for kid in kids or self.keys]}).encode()

    def write(self, path, *kids):
        put(path, self.jwks(*kids))

    def claims(self, user="anna", lifetime=3_600, **more):
        at = int(time.time())
        made = {"iss": self.name, "aud": self.audience, "sub": user, "iat": at, "exp": at + lifetime, **more}
        return {name: value for name, value in made.items() if value is not None}

    def token(self, user="anna", kid=None, algorithm=None, lifetime=3_600, header=None, signature=None, **more):
        kid = kid or next(iter(self.keys))
        key = self.keys.get(kid)
        algorithm = algorithm or algorithm_of(key)
        head = {"alg": algorithm, "typ": "JWT", "kid": kid, **(header or {})}
        body = f"{encoded(head)}.{encoded(self.claims(user, lifetime, **more))}"
        return f"{body}.{encoded(sign(key, algorithm, body.encode()) if signature is None else signature)}"


def algorithm_of(key):
    if isinstance(key, bytes):
        return "HS256"
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return "ES256" if key.key_size == 256 else "ES384"
    return "EdDSA"


def sign(key, algorithm, body):
    """A signature (RFC 7518); with bytes for a key and HS… whatever they are."""
    digest = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}.get(algorithm[2:])
    if algorithm == "none":
        return b""
    if algorithm.startswith("HS"):
        return hmac.new(key, body, f"sha{algorithm[2:]}").digest()
    if algorithm.startswith("RS"):
        return key.sign(body, padding.PKCS1v15(), digest())
    if algorithm.startswith("PS"):
        return key.sign(body, padding.PSS(padding.MGF1(digest()), digest.digest_size), digest())
    if algorithm == "EdDSA":
        return key.sign(body)
    size = (key.key_size + 7) // 8
    return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(key.sign(body, ec.ECDSA(digest()))))


class Scram:
    """A client of SCRAM-SHA-256 (RFC 5802, 7677)."""

    def __init__(self, user, password, nonce=None):
        self.user, self.password = user, password
        self.nonce = nonce or base64.b64encode(os.urandom(18)).decode()
        self.bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={self.nonce}"

    def first(self):
        return f"n,,{self.bare}".encode()

    def final(self, challenge):
        self.challenge = challenge.decode()
        fields = dict(part.split("=", 1) for part in self.challenge.split(","))
        check(fields["r"].startswith(self.nonce) and len(fields["r"]) > len(self.nonce), "the server's nonce")
        check(int(fields["i"]) >= 4_096, f"only {fields['i']} iterations")
        salt = base64.b64decode(fields["s"], validate=True)
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without = f"c=biws,r={fields['r']}"
        told = f"{self.bare},{self.challenge},{without}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), told, "sha256")
        self.expected = base64.b64encode(
            hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), told, "sha256")).decode()
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature))).decode()
        return f"{without},p={proof}".encode()

    def check_server(self, message):
        check(message.decode() == f"v={self.expected}", f"the server does not know the password: {message}")


# MQTT


def prefixed(raw):
    raw = raw if isinstance(raw, bytes) else raw.encode()
    return len(raw).to_bytes(2, "big") + raw


def login(version, client, user=None, password=None, clean=True, keep_alive=0, will=None, more=b""):
    """A CONNECT with a user; `more` are properties of MQTT 5."""
    flags = (2 if clean else 0) | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
    flags |= (0x0C | (0x20 if len(will) > 2 and will[2] else 0)) if will else 0
    body = text("MQTT") + bytes([version, flags]) + keep_alive.to_bytes(2, "big") + wire.properties(version, more)
    body += prefixed(client)
    if will:
        body += wire.properties(version) + text(will[0]) + text(will[1])
    for secret in (user, password):
        body += prefixed(secret) if secret is not None else b""
    return packet(0x10, body)


def method(name, data=None):
    """The properties of authentication: its method and what it says."""
    return b"\x15" + prefixed(name) + (b"\x16" + prefixed(data) if data is not None else b"")


AUTH = 0xF0


def auth_packet(code, more):
    return packet(AUTH, bytes([code]) + wire.properties(5, more))


def auth_fields(body, start=1):
    """Reason code and data of an AUTH; with 2 for `start`, those of a CONNACK."""
    code = body[start - 1] if body else 0
    length, place = wire.variable_integer(body, start) if len(body) > start else (0, start)
    end, data, said = place + length, None, None
    while place < end:
        kind = body[place]
        if kind in (0x15, 0x16, 0x1F, 0x12, 0x1A, 0x1C):
            size = int.from_bytes(body[place + 1 : place + 3], "big")
            value = body[place + 3 : place + 3 + size]
            data, said = (value, said) if kind == 0x16 else (data, value) if kind == 0x1F else (data, said)
            place += 3 + size
        else:
            place += 1 + {0x11: 4, 0x27: 4, 0x21: 2, 0x22: 2, 0x13: 2}.get(kind, 1)
    return code, data, said


class MQTT(wire.Wire):
    """A raw connection over a socket that is there already; logs in unless `client` is None. `refused` is the code of
    a CONNACK that says no, with `wants_refusal`, else such a CONNACK is a failure."""

    def __init__(self, made, version=5, client=None, user=None, password=None, wants_refusal=False, scram=None, **more):
        self.version, self.socket, self.buffer, self.arrived = version, made, bytearray(), []
        self.closed, self.session_present, self.error, self.refused = False, False, "", None
        if client is None:
            return
        if scram:
            more["more"] = more.get("more", b"") + method("SCRAM-SHA-256", scram.first())
        self.send(login(version, client, user, password, **more))
        if scram:
            self.exchange(scram)
        body = self.take(wire.CONNACK, PATIENCE)
        check(body is not None, f"no CONNACK for {client}: closed {self.closed} {self.error} {self.arrived[:2]}")
        self.session_present, self.connack = bool(body[0]), body
        self.refused = body[1]
        if not wants_refusal:
            check(body[1] == 0, f"{client} was refused: {body.hex()}")
        if scram and body[1] == 0:
            scram.check_server(auth_fields(body, 2)[1] or b"")

    def exchange(self, scram):
        """Answers the challenge, unless there is none."""
        end = time.monotonic() + PATIENCE
        while not self.arrived and not self.closed and time.monotonic() < end:
            self.read(0.1)
        if self.arrived and self.arrived[0][0] == AUTH:
            code, data, _ = auth_fields(self.take(AUTH))
            check(code == 0x18 and data, f"an AUTH with {code:#x}")
            self.send(auth_packet(0x18, method("SCRAM-SHA-256", scram.final(data))))

    def read(self, seconds):
        try:
            return super().read(seconds)
        except (ssl.SSLError, OSError) as error:
            if isinstance(error, TimeoutError):
                return False
            self.closed, self.error = True, why(error)
            return False

    def send(self, frames):
        try:
            super().send(frames)
        except ssl.SSLError as error:
            self.error = why(error)

    def publish(self, topic, payload, qos=1, identifier=9, retain=False, seconds=30):
        """The reason code of the acknowledgement, 0 where it has none and where nobody has subscribed; None when the
        connection ended."""
        frame = bytearray(wire.publish(self.version, topic, payload, qos, identifier))
        frame[0] |= 1 if retain else 0
        self.send(bytes(frame))
        if qos == 0:
            return 0
        body = self.take(wire.PUBACK if qos == 1 else wire.PUBREC, seconds)
        return None if body is None else body[2] if len(body) > 2 and body[2] != 0x10 else 0

    def event(self, seconds=30):
        body = None
        end = time.monotonic() + seconds
        while body is None and not self.closed and time.monotonic() < end:
            for place, (first, found) in enumerate(self.arrived):
                if first & 0xF0 == wire.PUBLISH:
                    del self.arrived[place]
                    event = wire.Event(self.version, first, found)
                    if event.qos == 1:
                        self.send(wire.acknowledgement(wire.PUBACK, event.identifier))
                    return event
            self.read(max(end - time.monotonic(), 0.001))
        return None


class Web:
    """A WebSocket over a socket that is there already. The library is one without threads: Python's TLS cannot be
    written to while another thread reads."""

    class Refused(Failure):
        """A handshake that was answered with another status."""

        def __init__(self, status):
            super().__init__(f"the handshake was answered with {status}")
            self.status = status

    def __init__(self, made, path, protocol, fields=None, host="localhost"):
        made.settimeout(PATIENCE)
        try:
            self.inner = websocket.create_connection(
                f"ws://{host}{path}", socket=made, subprotocols=[protocol], header=fields or {}, suppress_origin=True,
                timeout=PATIENCE)
        except websocket.WebSocketBadStatusException as refused:
            raise self.Refused(refused.status_code) from refused

    def send(self, message):
        try:
            self.inner.send(message, websocket.ABNF.OPCODE_TEXT if isinstance(message, str)
                            else websocket.ABNF.OPCODE_BINARY)
        except websocket.WebSocketConnectionClosedException as closed:
            raise ConnectionResetError(str(closed)) from closed

    def recv(self, seconds=PATIENCE):
        """The next message; empty at the end."""
        self.inner.settimeout(seconds)
        try:
            return self.inner.recv()
        except websocket.WebSocketTimeoutException as late:
            raise TimeoutError from late
        except (websocket.WebSocketException, ssl.SSLError):
            return b""

    def close(self):
        self.inner.close(timeout=1)


class WebBytes:
    """A WebSocket with the manners of a socket."""

    def __init__(self, inner):
        self.inner, self.timeout, self.rest = inner, None, b""

    def settimeout(self, seconds):
        self.timeout = seconds

    def sendall(self, data):
        self.inner.send(bytes(data))

    def recv(self, count):
        if not self.rest:
            self.rest = self.inner.recv(self.timeout) or b""
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def close(self):
        self.inner.close()


# AMQP


class AMQP(amqp_wire.Raw):
    """A raw connection over a socket that is there already."""

    def __init__(self, made):
        self.socket, self.buffer, self.frames, self.headers = made, bytearray(), [], []
        self.is_closed = self.was_reset = False
        self.error = ""

    def read(self, seconds=10):
        try:
            return super().read(seconds)
        except ssl.SSLError as error:
            self.is_closed, self.error = True, why(error)
            return False

    def sasl(self, mechanism, response=None, scram=None):
        """Logs in; the code of the outcome."""
        self.send(amqp_wire.SASL_HEADER)
        offered = self.wait(amqp_wire.SASL_MECHANISMS).fields[0]
        self.offered = [str(name) for name in (offered if isinstance(offered, list) else [offered])]
        first = scram.first() if scram else response
        self.send(amqp_wire.frame(amqp_wire.described(amqp_wire.SASL_INIT, amqp_wire.listed(
            amqp_wire.symbol(mechanism), amqp_wire.binary(first) if first is not None else None)), kind=1))
        while True:
            arrived = self.next(amqp_wire.SASL_CHALLENGE, amqp_wire.SASL_OUTCOME, seconds=PATIENCE)
            check(arrived, f"{mechanism}: no outcome, closed: {self.is_closed} {self.error}")
            if arrived.code == amqp_wire.SASL_OUTCOME:
                if scram and arrived.fields[0] == 0 and arrived.fields[1]:
                    scram.check_server(bytes(arrived.fields[1]))
                self.more = arrived.fields[1]
                return arrived.fields[0]
            challenge = bytes(arrived.fields[0])
            # What OAUTHBEARER says of a failure is answered with one byte (RFC 7628 section 3.2.3).
            answer = (b"\1" if not scram else scram.check_server(challenge) or b""
                      if challenge.startswith(b"v=") else scram.final(challenge))
            self.send(amqp_wire.frame(amqp_wire.described(amqp_wire.SASL_RESPONSE, amqp_wire.listed(
                amqp_wire.binary(answer))), kind=1))

    def open(self, container="raw"):
        self.send(amqp_wire.HEADER + amqp_wire.open_frame(container) + amqp_wire.begin_frame())
        self.wait(amqp_wire.BEGIN)
        return self

    def receiver(self, address, name="r", handle=0, credit=100):
        """Attaches; the condition of the refusal, or None."""
        self.send(amqp_wire.attach_receiver(name, handle, address))
        return self._attached(handle, credit)

    def sender(self, address, name="s", handle=1):
        self.send(amqp_wire.attach_sender(name, handle, address))
        return self._attached(handle, None)

    def _attached(self, handle, credit):
        answer = self.wait(amqp_wire.ATTACH, amqp_wire.DETACH, amqp_wire.CLOSE)
        if answer.code == amqp_wire.CLOSE:
            return f"close: {answer.error}"
        terminus = answer.fields[6] if answer.fields[2] is True else answer.fields[5]
        # A refused link is answered with an attach that has no terminus, and the reason behind it.
        if answer.fields[2] is True and terminus is None or answer.fields[2] is False and answer.fields[5] is None:
            ended = self.wait(amqp_wire.DETACH)
            return ended.error[0] if ended.error else "no reason"
        self.send(amqp_wire.flow_frame(handle, 0, credit) if credit else amqp_wire.flow_frame())
        ended = self.next(amqp_wire.DETACH, seconds=0.15)
        return ended.error[0] if ended and ended.error else None


def plain(user, password):
    return b"\0" + user.encode() + b"\0" + password.encode()


def bearer(token, user=""):
    return f"n,{f'a={user}' if user else ''},\1auth=Bearer {token}\1\1".encode()


def basic(user, password):
    """The value of a header field Authorization."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Calm(threading.Thread):
    """A publisher and a subscriber that must not notice anything: each event has come before the next one goes. Made of
    two connections of MQTT which are logged in; how long an event takes is measured by the node's clock()."""

    def __init__(self, node, publisher, subscriber, topic="calm/x", pause=0.005):
        super().__init__(daemon=True)
        self.clock = node.clock
        self.publisher, self.subscriber, self.topic, self.pause = publisher, subscriber, topic, pause
        check(subscriber.subscribe(topic, 0) < 3, "the pair that behaves may not subscribe")
        self.slowest, self.count, self.problem = 0.0, 0, None
        self.must_stop = threading.Event()
        self.start()

    def run(self):
        try:
            while not self.must_stop.is_set():
                payload = struct.pack(">Q", self.count)
                start = self.clock()
                self.publisher.publish(self.topic, payload, qos=0)
                got = self.subscriber.event(PATIENCE)
                check(got and got.payload == payload, f"event {self.count}: {got and got.payload}")
                self.slowest = max(self.slowest, self.clock() - start)
                self.count += 1
                time.sleep(self.pause)
        except (Failure, OSError) as failure:
            self.problem = repr(failure)

    def lap(self):
        """The longest wait since the last call, in milliseconds."""
        longest, self.slowest = self.slowest, 0.0
        return longest * 1_000

    def finish(self, limit=0.5 if IS_DEBUG else 0.1, slowest=None):
        self.must_stop.set()
        self.join(PATIENCE + 5)
        check(not self.problem, f"the pair that behaves: {self.problem}")
        check(self.count > 10, f"only {self.count} events of the pair that behaves")
        slowest = max(self.slowest, slowest or 0)
        check(slowest < limit, f"the pair that behaves waited {slowest * 1_000:.0f} ms")
        return f"{self.count} events of a pair that behaves, slowest {slowest * 1_000:.0f} ms"
