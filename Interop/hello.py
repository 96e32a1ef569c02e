"""Raw TLS for the tests: hellos of every version, records that lie, and what comes back; nothing of a library."""

import os
import struct
import time


def record(kind, body, version=0x0301, length=None):
    return struct.pack(">BHH", kind, version, len(body) if length is None else length) + body


def handshake(kind, body, length=None):
    return bytes([kind]) + (len(body) if length is None else length).to_bytes(3, "big") + body


def extension(kind, body, length=None):
    return struct.pack(">HH", kind, len(body) if length is None else length) + body


def server_name(name):
    raw = name if isinstance(name, bytes) else name.encode()
    entry = b"\0" + struct.pack(">H", len(raw)) + raw
    return extension(0, struct.pack(">H", len(entry)) + entry)


# Groups, formats of points, and algorithms of signatures: what a server needs to choose a suite.
STANDARD = (extension(10, b"\0\6\0\x1d\0\x17\0\x18") + extension(11, b"\1\0")
            + extension(13, b"\0\x0e\4\3\5\3\6\3\4\1\5\1\6\1\x08\4") + extension(0xFF01, b"\0"))
HEARTBEAT = extension(15, b"\1")
SUITES = (0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8)
SSL2 = b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80\x03\x00\x80\x04\x00\x80\x05\x00\x80" \
       b"\x06\x00\x40\x07\x00\xc0" + bytes(range(16))


def hello_body(version=0x0303, suites=SUITES, extensions=STANDARD, session=b"", compression=b"\0", suites_length=None,
               session_length=None, extensions_length=None):
    chosen = b"".join(struct.pack(">H", suite) for suite in suites)
    body = struct.pack(">H", version) + os.urandom(32)
    body += bytes([len(session) if session_length is None else session_length]) + session
    body += struct.pack(">H", len(chosen) if suites_length is None else suites_length) + chosen
    body += bytes([len(compression)]) + compression
    return body + struct.pack(">H", len(extensions) if extensions_length is None else extensions_length) + extensions


def hello(record_version=0x0301, message_length=None, record_length=None, **more):
    return record(22, handshake(1, hello_body(**more), message_length), record_version, record_length)


def lies():
    """Beginnings that are none: (what, bytes, alerts that would do or None for any end)."""
    whole = hello()
    body = hello_body()
    yield "a record of 65,535 bytes", record(22, whole[5:], length=65_535) + bytes(70_000), None
    yield "a record of 16,641 bytes", record(22, handshake(1, body + bytes(16_641 - len(body) - 4))), None
    yield "an empty record", record(22, b""), None
    yield "1,000 empty records", record(22, b"") * 1_000, None
    yield "a hello of 16 MB", hello(message_length=0xFFFFFF) + record(22, bytes(16_000)) * 20, None
    yield "a hello shorter than it is", hello(message_length=40), (50, 47, 10, 40, 70, 80)
    yield "a session id beyond its end", hello(session_length=255), (50, 47)
    yield "a session id of 33 bytes", hello(session=bytes(33)), (50, 47)
    yield "suites beyond their end", hello(suites_length=0xFFFE), (50, 47)
    yield "an odd number of bytes of suites", hello(suites_length=len(SUITES) * 2 - 1), (50, 47)
    yield "extensions beyond their end", hello(extensions_length=0xFFFF), (50, 47)
    yield "extensions shorter than they are", hello(extensions_length=4), (50, 47)
    yield "an extension beyond its end", hello(extensions=STANDARD + extension(35, b"x", 5_000)), (50, 47)
    yield "no compression", hello(compression=b""), (50, 47)
    yield "an extension twice", hello(extensions=STANDARD + HEARTBEAT + HEARTBEAT), None
    yield "2,000 extensions", hello(extensions=STANDARD + b"".join(extension(0x5000 + n, b"") for n in range(2_000))
                                    + extension(35, b"x", 9)), (50, 47)
    yield "an empty server name", hello(extensions=STANDARD + server_name("")), None
    yield "a server name with NUL", hello(extensions=STANDARD + server_name("localhost\0.evil")), (50, 47, 112)
    yield "a server name of 10,000 bytes", hello(extensions=STANDARD + server_name("x" * 10_000)), (50, 47, 112)
    yield "a group list beyond its end", hello(extensions=extension(10, b"\xff\xff\0\x1d")), (50, 47, 40)
    yield "application data first", record(23, bytes(100)), (10,)
    yield "a change of cipher first", record(20, b"\1"), (10,)
    yield "an alert first", record(21, b"\2\x28"), None
    yield "warnings without end", record(21, b"\1\x5a") * 500, None
    yield "a record of type 99", record(99, bytes(10)), (10,)
    yield "a finished first", record(22, handshake(20, bytes(12))), (10,)
    yield "a certificate first", record(22, handshake(11, b"\0\0\0")), (10,)
    yield "a heartbeat first", record(24, b"\1\xff\xff"), (10,)
    yield "a record of version 9.9", hello(record_version=0x0909), None


def heartbeats(length):
    return record(24, b"\1" + struct.pack(">H", length) + b"x" * 16, 0x0303)


# Behind the server's first flight.
LATE = (
    ("a heartbeat of 64 KiB that has 16 bytes", heartbeats(0xFFFF)), ("a heartbeat of 16 KiB", heartbeats(0x4000)),
    ("an empty heartbeat", record(24, b"\1\0\0", 0x0303)), ("1,000 heartbeats", heartbeats(0x4000) * 1_000),
    ("a second hello", hello()),
    ("a key exchange beyond its end", record(22, handshake(16, b"\xff" + bytes(10)), 0x0303)),
    ("a point that is none", record(22, handshake(16, b"\x41\x04" + bytes(64)), 0x0303)),
    ("a change of cipher without keys", record(20, b"\1", 0x0303) + record(22, bytes(40), 0x0303)),
    ("application data in the middle", record(23, bytes(64), 0x0303)),
    ("a certificate message of 16 MB", record(22, handshake(11, b"\xff\xff\xff", 0xFFFFFF), 0x0303)
     + record(22, bytes(16_000), 0x0303) * 30),
    ("a certificate nobody asked for", record(22, handshake(11, b"\0\0\x10\0\0\x0d" + bytes(13)), 0x0303)),
)


def records(said):
    """Pairs of type and body of the records that came whole."""
    place, found = 0, []
    while place + 5 <= len(said):
        kind, _, length = struct.unpack(">BHH", said[place : place + 5])
        found.append((kind, said[place + 5 : place + 5 + length]))
        place += 5 + length
    return found


def alerts(said):
    return [(body[0], body[1]) for kind, body in records(said) if kind == 21 and len(body) == 2]


def until_closed(connection, seconds):
    """What comes until the peer closes, and whether it does."""
    said, end = b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            chunk = connection.recv(65_536)
        except TimeoutError:
            break
        except OSError:
            return said, True
        if not chunk:
            return said, True
        said += chunk
    return said, False


def flight(connection, seconds=5):
    """The server's first flight: everything up to its hello done (TLS 1.2)."""
    said, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        connection.settimeout(max(end - time.monotonic(), 0.01))
        try:
            chunk = connection.recv(65_536)
        except OSError:
            return None
        if not chunk:
            return None
        said += chunk
        if any(kind == 22 and body[-4:] == b"\x0e\0\0\0" for kind, body in records(said)):
            return said
    return None
