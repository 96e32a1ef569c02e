"""AMQP 1.0 by hand for the tests: values and frames as bytes, a connection that keeps what arrived, and the sections
of a message. Written after the OASIS specification (parts 1 to 3), with nothing of a client library in it."""

import socket
import struct
import time

from node import check

HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
NAMES = dict(zip(range(0x10, 0x19), "open begin attach flow transfer disposition detach end close".split()))
SASL_MECHANISMS, SASL_INIT, SASL_CHALLENGE, SASL_RESPONSE, SASL_OUTCOME = range(0x40, 0x45)
ERROR, ACCEPTED, REJECTED, RELEASED, MODIFIED, SOURCE, TARGET = 0x1D, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29


# Values (part 1). Each of these is a function that makes bytes; `encode` chooses by the Python type.


def ubyte(value):
    return b"\x50" + struct.pack(">B", value)


def ushort(value):
    return b"\x60" + struct.pack(">H", value)


def uint(value):
    return b"\x70" + struct.pack(">I", value)


def ulong(value):
    return b"\x80" + struct.pack(">Q", value)


def symbol(value):
    raw = value.encode()
    return b"\xa3" + bytes([len(raw)]) + raw if len(raw) < 256 else b"\xb3" + struct.pack(">I", len(raw)) + raw


def string(value):
    raw = value.encode()
    return b"\xa1" + bytes([len(raw)]) + raw if len(raw) < 256 else b"\xb1" + struct.pack(">I", len(raw)) + raw


def binary(raw):
    return b"\xa0" + bytes([len(raw)]) + raw if len(raw) < 256 else b"\xb0" + struct.pack(">I", len(raw)) + raw


def listed(*items):
    """A list of values that are encoded already; None is null."""
    body = b"".join(b"\x40" if item is None else item for item in items)
    return b"\xd0" + struct.pack(">II", len(body) + 4, len(items)) + body


def mapped(*pairs):
    body = b"".join(key + value for key, value in pairs)
    return b"\xd1" + struct.pack(">II", len(body) + 4, 2 * len(pairs)) + body


def array(constructor, *items):
    """An array of values that are encoded already, without their constructors."""
    body = constructor + b"".join(items)
    return b"\xf0" + struct.pack(">II", len(body) + 4, len(items)) + body


def symbols(*names):
    return array(b"\xb3", *(struct.pack(">I", len(name)) + name.encode() for name in names))


def described(code, value):
    return b"\x00\x53" + bytes([code]) + value


TRUE, FALSE, NULL = b"\x41", b"\x42", b"\x40"


class Described(tuple):
    """A described value: descriptor and value."""


class Symbol(str):
    """A symbol."""


def decode(data, place=0):
    """The value at a place and the place behind it."""
    code = data[place]
    return _decode(code, data, place + 1)


FIXED = {
    0x40: (0, None), 0x41: (0, True), 0x42: (0, False), 0x43: (0, 0), 0x44: (0, 0),
    0x50: (1, ">B"), 0x51: (1, ">b"), 0x52: (1, ">B"), 0x53: (1, ">B"), 0x54: (1, ">b"), 0x55: (1, ">b"),
    0x56: (1, ">?"), 0x60: (2, ">H"), 0x61: (2, ">h"), 0x70: (4, ">I"), 0x71: (4, ">i"), 0x72: (4, ">f"),
    0x73: (4, ">I"), 0x74: (4, ">I"), 0x80: (8, ">Q"), 0x81: (8, ">q"), 0x82: (8, ">d"), 0x83: (8, ">q"),
    0x84: (8, ">Q"), 0x94: (16, None), 0x98: (16, None),
}


def _decode(code, data, place):
    if code == 0:
        descriptor, place = decode(data, place)
        value, place = decode(data, place)
        return Described((descriptor, value)), place
    if code == 0x45:
        return [], place
    if code in FIXED:
        size, form = FIXED[code]
        if not size:
            return form, place
        raw = data[place : place + size]
        return (struct.unpack(form, raw)[0] if form else bytes(raw)), place + size
    width = 4 if code & 0x10 else 1
    size = int.from_bytes(data[place : place + width], "big")
    place += width
    end = place + size
    check(end <= len(data), f"a value ends behind its frame: {data[:80].hex()}")
    kind = code & 0xEF
    if kind in (0xA0, 0xA1, 0xA3):
        raw = bytes(data[place:end])
        return (raw if kind == 0xA0 else raw.decode() if kind == 0xA1 else Symbol(raw.decode())), end
    count = int.from_bytes(data[place : place + width], "big")
    place += width
    items = []
    if kind == 0xE0:
        constructor, descriptor = data[place], None
        place += 1
        if constructor == 0:
            descriptor, place = decode(data, place)
            constructor = data[place]
            place += 1
        for _ in range(count):
            item, place = _decode(constructor, data, place)
            items.append(item if descriptor is None else Described((descriptor, item)))
        return items, end
    check(kind in (0xC0, 0xC1), f"no constructor: {code:#x}")
    for _ in range(count):
        item, place = decode(data, place)
        items.append(item)
    check(place == end, "a list of another size than it says")
    return (items if kind == 0xC0 else dict(zip(items[::2], items[1::2]))), end


# Frames (part 2)


def frame(body, channel=0, kind=0):
    return struct.pack(">IBBH", len(body) + 8, 2, kind, channel) + body


def performative(code, *fields, channel=0, payload=b""):
    """A frame; trailing fields may be left out."""
    return frame(described(code, listed(*fields)) + payload, channel)


def open_frame(container="raw", hostname="localhost", max_frame=None, channel_max=None, idle=None):
    return performative(
        OPEN, string(container), string(hostname), uint(max_frame) if max_frame is not None else None,
        ushort(channel_max) if channel_max is not None else None, uint(idle) if idle is not None else None,
    )


def begin_frame(channel=0, next_outgoing=0, incoming=2_048, outgoing=2_048, handle_max=None):
    return performative(
        BEGIN, None, uint(next_outgoing), uint(incoming), uint(outgoing),
        uint(handle_max) if handle_max is not None else None, channel=channel,
    )


def source(address, *fields):
    return described(SOURCE, listed(string(address) if address is not None else None, *fields))


def target(address, *fields):
    return described(TARGET, listed(string(address) if address is not None else None, *fields))


def attach_sender(name, handle, address, channel=0, settle=None, more=()):
    """The peer sends to `address`."""
    return performative(
        ATTACH, string(name), uint(handle), FALSE, ubyte(settle) if settle is not None else None, None,
        source(None), target(address), None, None, uint(0), *more, channel=channel,
    )


def attach_receiver(name, handle, address, channel=0, more=()):
    return performative(
        ATTACH, string(name), uint(handle), TRUE, None, None, source(address), target(None), *more, channel=channel,
    )


def flow_frame(handle=None, count=0, credit=None, channel=0, next_incoming=0, incoming=2_048, next_outgoing=0,
               outgoing=2_048, drain=False, echo=False):
    return performative(
        FLOW, uint(next_incoming), uint(incoming), uint(next_outgoing), uint(outgoing),
        uint(handle) if handle is not None else None, uint(count) if handle is not None else None,
        uint(credit) if credit is not None else None, None, TRUE if drain else None, TRUE if echo else None,
        channel=channel,
    )


def transfer_frame(handle, number, message, channel=0, settled=False, more=False, tag=None, aborted=False):
    return performative(
        TRANSFER, uint(handle), uint(number) if number is not None else None,
        binary(tag if tag is not None else struct.pack(">I", (number or 0) & 0xFFFFFFFF)), uint(0),
        TRUE if settled else FALSE, TRUE if more else FALSE, None, None, None, TRUE if aborted else None,
        channel=channel, payload=message,
    )


def data_message(payload, *properties):
    """A message with one data section; `properties` are fields of the section properties."""
    head = described(0x73, listed(*properties)) if properties else b""
    return head + described(0x75, binary(payload))


def sections(message):
    """The sections of an encoded message: pairs of code and bytes, each with its descriptor."""
    found, place = [], 0
    while place < len(message):
        check(message[place] == 0, f"no section at {place} of {message[:100].hex()}")
        code, behind = decode(message, place + 1)
        _, end = decode(message, behind)
        found.append((code, bytes(message[place:end])))
        place = end
    return found


def bare(message):
    """The part that nobody on the way may change: properties, application properties and body."""
    return b"".join(raw for code, raw in sections(message) if code in (0x73, 0x74, 0x75, 0x76, 0x77))


class Frame:
    """A frame that has come. `fields` are padded with None up to what the specification knows."""

    def __init__(self, raw):
        _, offset, self.kind, self.channel = struct.unpack(">IBBH", raw[:8])
        body = raw[offset * 4 :]
        self.code, self.fields, self.payload = None, [], b""
        if body:
            value, end = decode(body)
            self.code, self.fields = value[0], list(value[1]) + [None] * 15
            self.payload = bytes(body[end:])

    @property
    def error(self):
        """Condition and text of the error of a detach, end or close."""
        place = {DETACH: 2, END: 0, CLOSE: 0}.get(self.code)
        found = self.fields[place] if place is not None else None
        return (str(found[1][0]), (found[1] + [None] * 2)[1]) if found is not None else None

    def __repr__(self):
        return f"{NAMES.get(self.code, self.code)} {self.fields and [f for f in self.fields if f is not None]}"


class Raw:
    """A raw connection. What has come and nobody has asked for yet is in `frames`."""

    def __init__(self, node, say_hello=True, container="raw", **more):
        self.socket = socket.create_connection(("127.0.0.1", node.amqp_port), 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(60)
        self.buffer = bytearray()
        self.frames = []
        self.headers = []
        self.is_closed = False
        self.was_reset = False
        if say_hello:
            self.send(HEADER + open_frame(container, **more))
            self.wait(OPEN)

    def send(self, data):
        self.socket.sendall(data)

    def read(self, seconds=60):
        """Reads once; whether something came."""
        self.socket.settimeout(max(seconds, 0.001))
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            return False
        except ConnectionError:
            data, self.was_reset = b"", True
        if not data:
            self.is_closed = True
            return False
        self.buffer += data
        while len(self.buffer) >= 8:
            if self.buffer[:4] == b"AMQP":
                self.headers.append(bytes(self.buffer[:8]))
                del self.buffer[:8]
                continue
            size = int.from_bytes(self.buffer[:4], "big")
            check(8 <= size < 1 << 24, f"no frame: {bytes(self.buffer[:40]).hex()}")
            if len(self.buffer) < size:
                break
            self.frames.append(Frame(bytes(self.buffer[:size])))
            del self.buffer[:size]
        return True

    def next(self, *codes, seconds=60):
        """The next frame of one of these codes; empty ones and others are forgotten. None if none comes."""
        end = time.monotonic() + seconds
        while True:
            while self.frames:
                arrived = self.frames.pop(0)
                if arrived.code in codes:
                    return arrived
            if self.is_closed or time.monotonic() >= end:
                return None
            self.read(end - time.monotonic())

    def wait(self, *codes, seconds=60):
        arrived = self.next(*codes, seconds=seconds)
        state = "the connection ended" if self.is_closed else "nothing came"
        check(arrived, f"waited for {[NAMES.get(code, code) for code in codes]}: {state}")
        return arrived

    def wait_closed(self, seconds=60):
        """Reads until the end of the connection; whether it came in time."""
        end = time.monotonic() + seconds
        while not self.is_closed and time.monotonic() < end:
            self.read(end - time.monotonic())
        return self.is_closed

    def close(self):
        self.socket.close()
