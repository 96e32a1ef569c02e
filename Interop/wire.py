"""Raw MQTT 3.1.1 and 5 for the tests: packets of both versions by hand, and a connection that keeps what arrived."""

import time

from node import PATIENCE, check, packet, take_packets, text

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, PINGRESP, DISCONNECT = (
    0x20, 0x30, 0x40, 0x50, 0x62, 0x70, 0x90, 0xD0, 0xE0,
)
PINGREQ = b"\xc0\x00"


def properties(version, content=b""):
    """The property section: length and content in MQTT 5, nothing in 3.1.1."""
    if version < 5:
        return b""
    return packet(0, content)[1:]


def expiry(seconds):
    return b"\x11" + seconds.to_bytes(4, "big")


def connect(version, client, persistent=False, keep_alive=0, will=None, more=b""):
    """`will` is a topic and a payload, at QoS 1. `more` are further properties of MQTT 5."""
    flags = (0 if persistent else 2) | (0x0C if will else 0)
    content = (expiry(3600) if persistent else b"") + more
    body = text("MQTT") + bytes([version, flags]) + keep_alive.to_bytes(2, "big") + properties(version, content)
    body += text(client)
    if will:
        body += properties(version) + text(will[0]) + text(will[1])
    return packet(0x10, body)


def publish(version, topic, payload, qos=0, identifier=1, dup=False, more=b""):
    middle = identifier.to_bytes(2, "big") if qos else b""
    return packet(0x30 | qos << 1 | (8 if dup else 0), text(topic) + middle + properties(version, more) + payload)


def subscribe(version, topic_filter, qos=0, identifier=1):
    return packet(0x82, identifier.to_bytes(2, "big") + properties(version) + text(topic_filter) + bytes([qos]))


def unsubscribe(version, topic_filter, identifier=1):
    return packet(0xA2, identifier.to_bytes(2, "big") + properties(version) + text(topic_filter))


def acknowledgement(first, identifier):
    return bytes([first, 2]) + identifier.to_bytes(2, "big")


def number(length):
    """An identifier at the start of a body."""
    return int.from_bytes(length[:2], "big")


def variable_integer(body, place):
    """The value at `place` and where it ends."""
    value, shift = 0, 0
    while True:
        digit = body[place]
        value |= (digit & 127) << shift
        place += 1
        shift += 7
        if digit < 128:
            return value, place


class Event:
    """A PUBLISH that arrived."""

    def __init__(self, version, first, body):
        self.qos = first >> 1 & 3
        self.dup = bool(first & 8)
        end = 2 + number(body)
        self.topic = body[2:end].decode()
        self.identifier = number(body[end:]) if self.qos else 0
        end += 2 if self.qos else 0
        self.properties = b""
        if version == 5:
            length, start = variable_integer(body, end)
            end = start + length
            self.properties = body[start:end]
        self.payload = body[end:]


class Wire:
    """A connection. `arrived` holds the packets nobody has taken yet; `closed` tells that the node ended it."""

    def __init__(self, node, version, client=None, **options):
        self.version = version
        self.socket = node.connect()
        self.buffer = bytearray()
        self.arrived = []
        self.closed = False
        self.session_present = False
        if client is not None:
            self.send(connect(version, client, **options))
            body = self.expect(CONNACK)
            check(body[1] == 0, f"{client} was refused: {body.hex()}")
            self.session_present = bool(body[0])

    def send(self, frames):
        """What the node closes while we are talking shows in `closed` when it is read."""
        try:
            self.socket.settimeout(20)
            self.socket.sendall(frames)
        except (ConnectionResetError, BrokenPipeError):
            pass

    def read(self, seconds):
        """Waits for some bytes; False when none came."""
        self.socket.settimeout(max(seconds, 0.000_1))
        try:
            chunk = self.socket.recv(262_144)
        except TimeoutError:
            return False
        except ConnectionResetError:
            chunk = b""
        self.closed = self.closed or not chunk
        self.buffer += chunk
        self.arrived += take_packets(self.buffer)
        return bool(chunk)

    def take(self, kind, seconds=PATIENCE):
        """The body of the first packet of a kind, or None when there is none in time or before the end."""
        end = time.monotonic() + seconds
        while True:
            for place, (first, body) in enumerate(self.arrived):
                if first & 0xF0 == kind & 0xF0:
                    del self.arrived[place]
                    return body
            if self.closed or time.monotonic() > end:
                return None
            self.read(end - time.monotonic())

    def expect(self, kind, seconds=PATIENCE):
        body = self.take(kind, seconds)
        check(body is not None, f"no packet {kind:02x}: closed {self.closed}, arrived {self.arrived[:3]}")
        return body

    def drain(self, seconds=PATIENCE):
        """Reads until the node closes; the seconds that took, None if it did not."""
        start = time.monotonic()
        while not self.closed and time.monotonic() - start < seconds:
            self.read(seconds - (time.monotonic() - start))
        return time.monotonic() - start if self.closed else None

    def ping(self, seconds=PATIENCE):
        """A round trip: what was sent before has been looked at, unless the node closed."""
        self.send(PINGREQ)
        return self.take(PINGRESP, seconds) is not None

    def subscribe(self, topic_filter, qos=0):
        """The reason code of the SUBACK."""
        self.send(subscribe(self.version, topic_filter, qos))
        return self.expect(SUBACK)[-1]

    def events(self):
        """Takes the PUBLISH packets that arrived."""
        found = [Event(self.version, first, body) for first, body in self.arrived if first & 0xF0 == PUBLISH]
        self.arrived = [pair for pair in self.arrived if pair[0] & 0xF0 != PUBLISH]
        return found

    def disconnect_reason(self):
        """The reason of the DISCONNECT that arrived, None without."""
        for first, body in self.arrived:
            if first == DISCONNECT:
                return body[0] if body else 0
        return None

    def close(self):
        self.socket.close()
