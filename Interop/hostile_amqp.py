#!/usr/bin/env python3
"""Proves that clients of AMQP that mean harm do none: garbage in every place, frames in the wrong order, claims of
size, numbers out of range, messages that are none or never end, flows that would overwhelm. Each is answered with the
condition it deserves in the smallest scope (delivery, link, session, connection) and is counted; a pair of clients that
behave exchange messages all the while, none of which takes longer than 250 ms; memory and descriptors come back.

Run it with the interpreter that python.sh prints."""

import random
import socket
import struct
import sys
import threading
import time

import amqp_wire as wire
from amqp_wire import (
    ATTACH, BEGIN, CLOSE, DETACH, DISPOSITION, END, HEADER, OPEN, SASL_HEADER, Raw, attach_receiver, attach_sender,
    begin_frame, data_message, described, flow_frame, frame, listed, open_frame, performative, string, symbol,
    transfer_frame, ubyte, uint,
)
from node import Failure, Node, check, main

LARGEST = 1 << 20
EXTRA = (
    f"limits: {{ max_packet: {LARGEST >> 20}MiB, connect_timeout: 2, max_queued_events: 20, amqp_credit: 100 }}\n"
    "amqp: { idle_timeout: 4 }\n"
)
DECODE, FRAMING, LIMIT = "amqp:decode-error", "amqp:connection:framing-error", "amqp:resource-limit-exceeded"
INVALID, NOT_ALLOWED, NOT_FOUND = "amqp:invalid-field", "amqp:not-allowed", "amqp:not-found"


class Pair(threading.Thread):
    """Two clients that behave: each message is confirmed and arrives before the next one goes."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.clock = node.clock
        self.sender, self.receiver = Raw(node, container="good-1"), Raw(node, container="good-2")
        self.sender.send(begin_frame() + attach_sender("s", 0, "well/behaved"))
        self.sender.wait(ATTACH)
        self.receiver.send(begin_frame() + attach_receiver("r", 0, "well/behaved") + flow_frame(0, 0, 1_000))
        self.receiver.wait(ATTACH)
        self.slowest, self.count, self.problem = 0.0, 0, None
        self.must_stop = threading.Event()
        self.start()

    def run(self):
        try:
            while not self.must_stop.is_set():
                self.exchange()
                time.sleep(0.005)
        except (Failure, OSError) as failure:
            self.problem = repr(failure)

    def exchange(self):
        payload = struct.pack(">Q", self.count)
        start = self.clock()
        self.sender.send(transfer_frame(0, self.count, data_message(payload)))
        got = self.receiver.wait(wire.TRANSFER)
        said = self.sender.wait(DISPOSITION)
        self.slowest = max(self.slowest, self.clock() - start)
        check(got.payload.endswith(payload), "another payload")
        check(said.fields[1] == self.count and said.fields[4][0] == wire.ACCEPTED, f"said: {said}")
        self.count += 1
        settled = performative(
            wire.DISPOSITION, wire.TRUE, uint(got.fields[1]), None, wire.TRUE, described(wire.ACCEPTED, listed()))
        more = flow_frame(0, self.count, 1_000, next_incoming=self.count) if self.count % 100 == 0 else b""
        self.receiver.send(settled + more)
        if self.count % 500 == 0:
            self.sender.send(flow_frame(next_outgoing=self.count))

    def finish(self):
        self.must_stop.set()
        self.join(30)
        check(not self.problem, f"the pair that behaves: {self.problem}")
        check(self.count > 10, f"only {self.count} messages of the pair that behaves")
        check(self.slowest < 0.25, f"the pair that behaves waited {self.slowest * 1_000:.0f} ms")
        return f"{self.count} messages of a pair that behaves, slowest {self.slowest * 1_000:.0f} ms"


# What every case begins with.


def nothing(node):
    return Raw(node, say_hello=False)


def opened(node):
    return Raw(node)


def session(node):
    raw = Raw(node)
    raw.send(begin_frame())
    raw.wait(BEGIN)
    return raw


def sending(node):
    raw = session(node)
    raw.send(attach_sender("s", 0, "hostile/x"))
    raw.wait(ATTACH)
    return raw


def receiving(node):
    raw = session(node)
    raw.send(attach_receiver("r", 0, "hostile/x"))
    raw.wait(ATTACH)
    return raw


# What every case must lead to.


def header(raw, _):
    """The header that the node speaks, and the end."""
    check(raw.wait_closed(), "the connection is still there")
    check(raw.headers in ([SASL_HEADER], [HEADER]), f"answered with {raw.headers}")


def saslRefused(raw, _):
    outcome = raw.next(wire.SASL_OUTCOME, seconds=10)
    check(outcome and outcome.fields[0] == 1, f"answered with {outcome}")
    check(raw.wait_closed(), "the connection is still there")


def gone(raw, _):
    """The connection ends, whatever is said before."""
    check(raw.wait_closed(), "the connection is still there")


def connection(raw, conditions):
    closed = raw.next(CLOSE, seconds=10)
    check(closed, f"no close came, {'but the end' if raw.is_closed else 'and no end'}")
    check(closed.error and closed.error[0] in conditions, f"close: {closed.error} instead of {conditions}")
    check(len(closed.error[1] or "") > 8, f"nothing to read: {closed.error}")
    raw.send(performative(CLOSE))
    check(raw.wait_closed(4), "the connection is still there")


def session_ended(raw, conditions):
    ended = raw.next(END, CLOSE, seconds=10)
    check(ended and ended.code == END, f"no end came: {ended} {ended and ended.error}")
    check(ended.error and ended.error[0] in conditions, f"end: {ended.error}")
    # What was under way is ignored until the end is answered; the connection is as good as before.
    raw.send(flow_frame(0, 0, 1) + transfer_frame(0, 77, b"x") + performative(END) + begin_frame(7))
    check(raw.next(BEGIN, seconds=10), "no other session can be begun")


def link_ended(raw, conditions):
    ended = raw.next(DETACH, END, CLOSE, seconds=10)
    check(ended and ended.code == DETACH, f"no detach came: {ended} {ended and ended.error}")
    check(ended.fields[1] is True, "detached instead of closed")
    check(ended.error and ended.error[0] in conditions, f"detach: {ended.error}")
    raw.send(performative(DETACH, uint(ended.fields[0]), wire.TRUE) + attach_sender("other", 9, "hostile/x"))
    check(raw.next(ATTACH, seconds=10), "no other link can be attached")


def rejected(raw, conditions):
    said = raw.next(DISPOSITION, DETACH, END, CLOSE, seconds=10)
    check(said and said.code == DISPOSITION, f"no disposition came: {said} {said and said.error}")
    state = said.fields[4]
    check(state[0] == wire.REJECTED and state[1], f"outcome: {state}")
    check(state[1][0][1][0] in conditions, f"rejected: {state[1][0][1]}")
    raw.send(transfer_frame(0, said.fields[1] + 1, data_message(b"fine")))
    said = raw.next(DISPOSITION, seconds=10)
    check(said and said.fields[4][0] == wire.ACCEPTED, f"the next message: {said}")


def harmless(raw, _):
    raw.send(begin_frame(7))
    check(raw.next(BEGIN, seconds=10), f"the connection is unusable: {raw.frames[:3]}, closed: {raw.is_closed}")


def nested(depth, inner=b"\x45"):
    """Lists in lists."""
    for _ in range(depth):
        inner = b"\xd0" + struct.pack(">II", len(inner) + 4, 1) + inner
    return inner


def oversized(kind, size, count=None):
    """A value that claims more than there is."""
    return bytes([kind]) + struct.pack(">I", size) + (struct.pack(">I", count) if count is not None else b"")


def before_open():
    for what, words in (
        ("an HTTP request", b"GET / HTTP/1.1\r\n\r\n"), ("zeros", bytes(8)), ("AMQP 0-9-1", b"AMQP\x00\x00\x09\x01"),
        ("AMQP 0-10", b"AMQP\x01\x01\x00\x0a"), ("AMQP 1.0.1", b"AMQP\x00\x01\x00\x01"),
        ("AMQP 2.0", b"AMQP\x00\x02\x00\x00"), ("TLS of AMQP", b"AMQP\x02\x01\x00\x00"),
        ("SASL 2", b"AMQP\x03\x02\x00\x00"), ("MQTT", b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a"),
        ("a TLS hello", b"\x16\x03\x01\x02\0" + b"\x01" * 600), ("64 KiB of noise", random.Random(1).randbytes(65_536)),
    ):
        yield f"header: {what}", nothing, words, header, ()
    init = lambda *fields: frame(described(0x41, listed(*fields)), kind=1)
    for what, words in (
        ("no frames but a header", HEADER + open_frame()), ("an open", open_frame()), ("noise", b"\xff" * 64),
        ("an unknown mechanism", init(symbol("SCRAM-SHA-1"), wire.binary(b"x"))),
        ("no mechanism", init()), ("a mechanism that is a number", init(uint(5))),
        ("a mechanism of 60,000 bytes", init(symbol("X" * 60_000))),
        ("a response nobody asked for", frame(described(0x43, listed(wire.binary(b"x"))), kind=1)),
        ("an outcome of its own", frame(described(0x44, listed(ubyte(0))), kind=1)),
        ("PLAIN without a response", init(symbol("PLAIN"))),
        ("PLAIN with nothing in it", init(symbol("PLAIN"), wire.binary(b""))),
        ("PLAIN with one NUL", init(symbol("PLAIN"), wire.binary(b"\0a"))),
        ("PLAIN with five NULs", init(symbol("PLAIN"), wire.binary(b"\0a\0b\0c\0d"))),
        ("PLAIN of noise", init(symbol("PLAIN"), wire.binary(b"\0\xff\xfe\0\xff"))),
        ("PLAIN of 60,000 bytes", init(symbol("PLAIN"), wire.binary(b"\0" + b"u" * 30_000 + b"\0" + b"p" * 29_000))),
        ("EXTERNAL without a certificate", init(symbol("EXTERNAL"), wire.binary(b"admin"))),
        ("nesting", frame(nested(1_000), kind=1)), ("a frame of 4 GB", b"\xff\xff\xff\xff\x02\x01\0\0"),
        ("a frame of 3 bytes", b"\0\0\0\x03\x02\x01\0\0"),
    ):
        yield f"SASL: {what}", nothing, SASL_HEADER + words, saslRefused, ()
    sasl = SASL_HEADER + init(symbol("ANONYMOUS"), wire.binary(b"x"))
    yield "SASL twice", nothing, sasl + SASL_HEADER, gone, ()
    yield "SASL and then no header", nothing, sasl + open_frame(), gone, ()
    yield "a header and half of another", nothing, HEADER + HEADER, connection, (FRAMING,)


def first_frames():
    """Behind the header: the frame that should be open."""
    sizes = {size: struct.pack(">I", size) + b"\x02\x00\x00\x00" for size in (0, 1, 7, 0x7FFFFFFF, 0xFFFFFFFF, 65_537)}
    for size, words in sizes.items():
        yield f"a frame of {size} bytes", words + b"\0" * 8, (FRAMING, "amqp:frame-size-too-small")
    yield "data offset 0", b"\0\0\0\x10\x00\x00\0\0" + bytes(8), (FRAMING,)
    yield "data offset 1", b"\0\0\0\x10\x01\x00\0\0" + bytes(8), (FRAMING,)
    yield "data offset 255", b"\0\0\0\x10\xff\x00\0\0" + bytes(8), (FRAMING,)
    yield "frame type 7", b"\0\0\0\x10\x02\x07\0\0" + bytes(8), (FRAMING,)
    yield "a SASL frame", frame(described(0x41, listed(symbol("ANONYMOUS"))), kind=1), (FRAMING,)
    yield "begin", begin_frame(), (NOT_ALLOWED,)
    yield "close", performative(CLOSE), (NOT_ALLOWED,)
    yield "no container", performative(OPEN), (DECODE, INVALID)
    yield "a container that is a number", performative(OPEN, uint(1)), (DECODE, INVALID)
    yield "a container of 60,000 bytes", open_frame("x" * 60_000), (DECODE, INVALID, LIMIT)
    yield "open on channel 5", frame(described(OPEN, listed(string("x"))), 5), (FRAMING, NOT_ALLOWED)
    yield from bad_bodies(lambda value: performative(OPEN, string("x"), *[None] * 8, value), (DECODE, INVALID, LIMIT))


def bad_bodies(make, conditions):
    """A value where a map of properties should be."""
    odd = b"\xc1\x03\x01\xa1\x00"
    for what, value in (
        ("1,000 lists in each other", nested(1_000)),
        ("17 lists in each other", wire.mapped((symbol("k"), nested(17)))),
        ("a list where a map should be", b"\x45"), ("a map with an odd count", odd),
        ("a map that claims 4 GB", oversized(0xD1, 0xFFFFFFFF, 2)),
        ("a map of 2^30 pairs", oversized(0xD1, 4, 1 << 31)),
        ("a text that claims 4 GB", wire.mapped((symbol("k"), oversized(0xB1, 0xFFFFFFFF)))),
        ("a text behind its map", b"\xd1" + struct.pack(">II", 9, 2) + b"\xa3\x01k\xa1\x50"),
        ("an unknown constructor", wire.mapped((symbol("k"), b"\x3f"))),
        ("4,294,967,295 values of no width", wire.mapped((symbol("k"), b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40"))),
        ("16,000,000 empty lists", wire.mapped((symbol("k"), b"\xf0\0\0\0\x05\x00\xff\xff\xff\x45"))),
        ("an array of arrays of nothing", wire.mapped(
            (symbol("k"), wire.array(b"\xf0", b"\0\0\0\x05\xff\xff\xff\xff\x40")))),
        ("a list of 20,000 nulls", wire.mapped((symbol("k"), wire.listed(*[None] * 20_000)))),
        ("a described without a value", b"\x00\x53\x70"), ("described 1,000 deep", b"\x00\x53\x01" * 1_000 + b"\x40"),
        ("nothing at all", b""),
    ):
        yield what, make(value), conditions


def in_connection():
    """On an open connection: each closes it."""
    yield "a second open", open_frame(), (NOT_ALLOWED, "amqp:illegal-state")
    yield "channel 256", begin_frame(256), (FRAMING, NOT_ALLOWED)
    yield "channel 65,535", begin_frame(65_535), (FRAMING, NOT_ALLOWED)
    yield "begin as an answer", performative(
        BEGIN, wire.ushort(0), uint(0), uint(10), uint(10)), (NOT_ALLOWED, INVALID)
    for what, words in (
        ("attach", attach_sender("s", 0, "x")), ("flow", flow_frame()), ("transfer", transfer_frame(0, 0, b"")),
        ("disposition", performative(wire.DISPOSITION, wire.TRUE, uint(0))),
        ("detach", performative(DETACH, uint(0))), ("end", performative(END)),
    ):
        yield f"{what} without a session", words, (NOT_ALLOWED, FRAMING, "amqp:illegal-state")
    for code in (0x00, 0x0F, 0x19, 0x30, 0x41, 0x70):
        yield f"performative {code:#x}", performative(code), (DECODE, FRAMING, NOT_ALLOWED)
    yield "a performative by another name", frame(b"\0" + symbol("amqp:nothing:list") + b"\x45"), (DECODE, FRAMING)
    yield "no described value", frame(b"\x45"), (DECODE, FRAMING)
    yield "a map for a list", frame(b"\0\x53\x11" + wire.mapped()), (DECODE, FRAMING)
    yield "half a performative", frame(b"\0\x53\x11\xd0\0\0\0"), (DECODE, FRAMING)
    yield "bytes behind begin", frame(
        described(BEGIN, listed(None, uint(0), uint(1), uint(1))) + b"more"), (DECODE, FRAMING)
    yield "begin without windows", performative(BEGIN, None, uint(0)), (DECODE, INVALID)
    yield "begin with a text for a window", performative(BEGIN, None, uint(0), string("1"), uint(1)), (DECODE, INVALID)
    yield "a frame beyond the limit", struct.pack(">IBBH", 65_537, 2, 0, 0), (FRAMING,)
    yield "4 GB", b"\xff\xff\xff\xff\x02\0\0\0", (FRAMING,)
    yield from bad_bodies(
        lambda value: performative(BEGIN, None, uint(0), uint(9), uint(9), None, None, None, value),
        (DECODE, INVALID, LIMIT))


def in_session():
    """In a session, most of them end it: (what, bytes, outcome, conditions)."""
    yield "begin again", begin_frame(), connection, (NOT_ALLOWED,)
    yield "handle 1,024", attach_sender("s", 1_024, "x"), connection, (FRAMING, NOT_ALLOWED)
    yield "handle 4,294,967,295", attach_sender("s", 0xFFFFFFFF, "x"), connection, (FRAMING, NOT_ALLOWED)
    yield "attach without a role", performative(ATTACH, string("s"), uint(0)), connection, (DECODE, INVALID, LIMIT)
    yield "attach without a name", performative(ATTACH, None, uint(0), wire.FALSE), connection, (DECODE, INVALID, LIMIT)
    yield "a settle mode of 9", attach_sender("s", 0, "x", settle=9), connection, (DECODE, INVALID, LIMIT)
    yield "a name of 60,000 bytes", attach_sender("s" * 60_000, 0, "x"), connection, (DECODE, INVALID, LIMIT)
    wrong = (wire.target("x"), wire.target(None))
    yield "a source that is a target", performative(
        ATTACH, string("r"), uint(0), wire.TRUE, None, None, *wrong), connection, (DECODE, INVALID)
    for what, words in (("transfer", transfer_frame(5, 0, b"x")), ("flow", flow_frame(5, 0, 1)),
                        ("detach", performative(DETACH, uint(5)))):
        yield f"{what} on an unknown handle", words, session_ended, ("amqp:session:unattached-handle",)
    for first, last in ((0, 0xFFFFFFFF), (1, 0x80000001), (5, 4)):
        yield f"a disposition of {first} to {last}", performative(
            wire.DISPOSITION, wire.TRUE, uint(first), uint(last), wire.TRUE), session_ended, (INVALID,)
    for role in (wire.TRUE, wire.FALSE):
        yield f"a disposition of 2^31 deliveries nobody sent {role}", performative(
            wire.DISPOSITION, role, uint(0), uint(0x7FFFFFFF), wire.TRUE), harmless, ()
    yield "a state nobody knows", performative(
        wire.DISPOSITION, wire.TRUE, uint(0), None, wire.TRUE, described(0x99, listed())), harmless, ()
    for window in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF):
        yield f"a window of {window}", flow_frame(next_incoming=window, incoming=window, next_outgoing=window,
                                                  outgoing=window), harmless, ()
    yield "no target", performative(
        ATTACH, string("s"), uint(0), wire.FALSE, None, None, wire.source(None), None, None, None, uint(0)
    ), link_ended, (INVALID,)
    yield "no source", performative(
        ATTACH, string("r"), uint(0), wire.TRUE, None, None, None, wire.target(None)), link_ended, (NOT_FOUND,)
    yield "no address", attach_receiver("r", 0, None), link_ended, (NOT_FOUND,)
    yield "an address of 50,000 bytes", attach_receiver("r", 0, "x/" * 25_000), link_ended, (INVALID,)
    yield "an address with NUL", attach_sender("s", 0, "a\0b"), connection, (INVALID,)
    yield "a name with NUL", attach_sender("s\0", 0, "a"), connection, (INVALID,)
    yield "a target under $", attach_sender("s", 0, "$share/g/x"), link_ended, (INVALID,)


def in_links():
    yield "a handle again", sending, attach_sender("s2", 0, "x"), session_ended, ("amqp:session:handle-in-use",)
    yield "a name again", sending, attach_sender("s", 1, "x"), session_ended, (INVALID,)
    message = data_message(b"x")
    no_id = performative(wire.TRANSFER, uint(0), None, wire.binary(b"t"), payload=message)
    yield "a transfer without a number", sending, no_id, session_ended, (INVALID,)
    yield "numbers out of order", sending, (
        transfer_frame(0, 5, message, settled=True) + transfer_frame(0, 7, message, settled=True)
    ), session_ended, (INVALID,)
    yield "a number again", sending, transfer_frame(0, 0, message) * 2, session_ended, (INVALID,)
    yield "another number within a delivery", sending, (
        transfer_frame(0, 0, message, more=True) + transfer_frame(0, 1, message)
    ), session_ended, (INVALID,)
    tagged = transfer_frame(0, 0, message, tag=b"t" * 33)
    yield "a tag of 33 bytes", sending, tagged, connection, (DECODE, INVALID, LIMIT)
    yield "a flow of a sender without its count", sending, performative(
        wire.FLOW, uint(0), uint(9), uint(0), uint(9), uint(0), None, uint(1)), session_ended, (INVALID,)
    yield "a count far ahead", sending, flow_frame(0, 0x70000000, 0), session_ended, (INVALID,)
    yield "a transfer to a sender", receiving, transfer_frame(0, 0, message), session_ended, (NOT_ALLOWED,)
    for credit in (0x80000000, 0xFFFFFFFF):
        yield f"credit of {credit}", receiving, flow_frame(0, 0, credit), session_ended, (INVALID,)
    yield "credit of 2^31-1", receiving, flow_frame(0, 0, 0x7FFFFFFF), harmless, ()
    yield "a delivery given up", sending, (
        transfer_frame(0, 0, message, more=True) + transfer_frame(0, 0, b"", aborted=True)), harmless, ()
    for what, body in bad_messages():
        said = (DECODE, INVALID, LIMIT)
        yield f"unsettled, {what}", sending, transfer_frame(0, 0, body), rejected, said
        yield f"settled, {what}", sending, transfer_frame(0, 0, body, settled=True), link_ended, said
    piece = bytes(60_000)
    for settled in (False, True):
        pieces = transfer_frame(0, 0, piece, more=True, settled=settled) * (LARGEST // 60_000 + 2)
        yield f"a message beyond the limit, settled: {settled}", sending, pieces, link_ended, (
            "amqp:link:message-size-exceeded",)
    for what, body in (("nothing", b""), ("properties alone", described(0x73, listed(string("id"))))):
        yield f"a message of {what}", sending, transfer_frame(0, 0, body), harmless, ()
    yield "a message without a topic", anonymous, transfer_frame(0, 0, message), rejected_alone, (
        "amqp:precondition-failed",)


def anonymous(node):
    raw = session(node)
    raw.send(attach_sender("s", 0, None))
    raw.wait(ATTACH)
    return raw


def rejected_alone(raw, conditions):
    said = raw.next(DISPOSITION, seconds=10)
    check(said and said.fields[4][0] == wire.REJECTED, f"said: {said}")
    check(said.fields[4][1][0][1][0] in conditions, f"rejected: {said.fields[4]}")


def bad_messages():
    data = described(0x75, wire.binary(b"x"))
    properties = described(0x73, listed(string("id")))
    yield "a NUL", b"\0"
    yield "noise", b"\xff" * 100
    yield "half a section", data[:-1]
    yield "a section that claims 4 GB", described(0x75, oversized(0xB0, 0xFFFFFFFF))
    yield "sections out of order", data + properties
    yield "properties twice", properties + properties + data
    yield "an unknown section", described(0x79, wire.binary(b"x")) + data
    yield "data and a value", data + described(0x77, string("x"))
    yield "two values", described(0x77, string("x")) * 2
    yield "data that is text", described(0x75, string("x"))
    yield "a sequence that is a map", described(0x76, wire.mapped())
    yield "properties that are a map", described(0x73, wire.mapped()) + data
    yield "a value 1,000 lists deep", described(0x77, nested(1_000))
    yield "4,294,967,295 values of no width", described(0x77, b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40")
    yield "annotations with an odd count", described(0x72, b"\xc1\x03\x01\xa1\x00") + data
    yield "application properties in a list", described(0x74, b"\x45") + data
    yield "a header with too many fields", described(0x70, b"\x45") + described(0x70, b"\x45") + data
    yield "5,000 sections of data", described(0x75, b"\xa0\0") * 5_000


def cases():
    yield from before_open()
    for what, words, conditions in first_frames():
        yield f"first frame: {what}", nothing, HEADER + words, connection, conditions
    for what, words, conditions in in_connection():
        yield f"connection: {what}", opened, words, connection, conditions
    for what, words, outcome, conditions in in_session():
        yield f"session: {what}", session, words, outcome, conditions
    for what, state, words, outcome, conditions in in_links():
        yield f"link: {what}", state, words, outcome, conditions


def refusals(node):
    """What the node has counted of such things."""
    found = node.metrics()
    return sum(
        value for name, value in found.items()
        if name.startswith(("apus_frames_refused_total", "apus_subscriptions_refused_total"))
        or name.startswith("apus_connections_closed_total") and not any(
            reason in name for reason in ("client_disconnected", "connection_lost"))
    )


def run_cases(node):
    """Every case on a connection of its own, in one piece and in small ones."""
    failures, count = [], 0
    for number, (what, state, words, outcome, conditions) in enumerate(cases()):
        before = refusals(node)
        raw = state(node)
        try:
            size = len(words) if number % 2 == 0 or len(words) > 20_000 else max(5, len(words) // 200)
            for start in range(0, len(words), max(size, 1)):
                raw.send(words[start : start + size])
        except OSError:
            pass  # It was refused while we were talking.
        try:
            outcome(raw, conditions)
            raw.close()
            end = time.monotonic() + 10
            while outcome is not harmless and refusals(node) <= before:
                check(time.monotonic() < end, "no counter moved")
                time.sleep(0.01)
        except (Failure, OSError) as failure:
            failures.append(f"{what}: {failure}")
        raw.close()
        count += 1
        check(node.process.poll() is None, f"the node is dead after: {what}")
    check(not failures, f"{len(failures)} of {count}:\n  " + "\n  ".join(failures))
    return count


def slow(node):
    """Threads with connections that say too little, and how long each may stay."""
    problems = []
    init = frame(described(0x41, listed(symbol("ANONYMOUS"))), kind=1)
    cases = (
        ("silence", b"", b"", 2), ("half a header", b"AMQ", b"", 2), ("SASL and silence", SASL_HEADER, b"", 2),
        ("half of sasl-init", SASL_HEADER + init[:9], b"", 2), ("a header and silence", HEADER, b"", 2),
        ("half an open", HEADER + open_frame()[:9], b"", 2), ("empty frames for an open", HEADER, frame(b""), 2),
        ("open and silence", HEADER + open_frame(), b"", 4),
        ("half a frame and silence", HEADER + open_frame() + begin_frame()[:11], b"", 4),
    )

    def run(what, words, again, seconds):
        raw = Raw(node, say_hello=False)
        start, fair = time.monotonic(), node.clock()
        raw.send(words)
        while not raw.is_closed and time.monotonic() - start < seconds + 20:
            raw.read(0.3)
            try:
                raw.send(again)
            except OSError:
                break
        lasted, most = time.monotonic() - start, node.clock() - fair
        if lasted < seconds - 0.5 or most > seconds + 2.5:
            problems.append(f"{what}: {lasted:.1f} s instead of {seconds}")
        raw.close()

    threads = [threading.Thread(target=run, args=case, daemon=True) for case in cases]
    for thread in threads:
        thread.start()

    def finish():
        for thread in threads:
            thread.join(30)
        check(not problems, "; ".join(problems))
        return len(cases)

    return finish


def without_credit(node):
    """A publisher that goes on although a durable subscription is full loses its link."""
    keeper = session(node)
    keeper.send(attach_receiver_durable("kept", 0, "full/x"))
    keeper.wait(ATTACH)
    raw = session(node)
    raw.send(attach_sender("s", 0, "full/x"))
    credit = raw.wait(wire.FLOW).fields[6]
    check(credit == 100, f"credit {credit}")
    for number in range(400):
        raw.send(transfer_frame(0, number, data_message(b"x")))
    ended = raw.next(DETACH, END, CLOSE, seconds=5)
    check(ended and ended.error and ended.error[0] == "amqp:link:transfer-limit-exceeded",
          f"a publisher without credit: {ended} {ended and ended.error}")
    keeper.send(performative(DETACH, uint(0), wire.TRUE))
    keeper.wait(DETACH)
    for one in (raw, keeper):
        one.close()


def attach_receiver_durable(name, handle, address):
    source = wire.source(address, uint(2), symbol("never"))
    return performative(ATTACH, string(name), uint(handle), wire.TRUE, None, None, source, wire.target(None))


def many_partials(node):
    """Messages that never end, on many links: all of them together have a bound."""
    before = node.resident_kilobytes()
    for _ in range(3):
        raws = [session(node) for _ in range(5)]
        for raw in raws:
            for handle in range(8):
                raw.send(attach_sender(f"s{handle}", handle, "x"))
                raw.wait(ATTACH)
            seen = None
            for handle in range(8):
                for part in range(15):
                    raw.send(transfer_frame(handle, handle, bytes(60_000), more=True))
            seen = raw.next(DETACH, END, CLOSE, seconds=5)
            check(seen and seen.error[0] == LIMIT, f"7 MB of halves: {seen and seen.error}")
        for raw in raws:
            raw.close()
    grown = node.resident_kilobytes() - before
    check(grown < 40_000, f"messages that never end cost {grown} KiB")


def deaf(node):
    """Peers that ask for much and never read cost little."""
    before = node.resident_kilobytes()
    made = []
    flood = b"".join(begin_frame(channel) + performative(END, channel=channel) for channel in range(200))
    for words in (flood, flow_frame(echo=True) * 1_000, attach_and_detach(200), frame(b"") * 5_000):
        connection_ = socket.socket()
        connection_.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection_.connect(("127.0.0.1", node.amqp_port))
        connection_.sendall(HEADER + open_frame("deaf") + begin_frame(255))
        connection_.settimeout(0.3)
        sent, limit = 0, 30 << 20
        end = time.monotonic() + 1.5
        try:
            while sent < limit and time.monotonic() < end:
                connection_.sendall(words)
                sent += len(words)
        except OSError:
            pass  # It is no longer read, or has been closed, as it should be.
        made.append(connection_)
    grown = node.resident_kilobytes() - before
    check(grown < 65_536, f"peers that do not read cost {grown} KiB")
    for one in made:
        one.close()


def attach_and_detach(count):
    words = b""
    for number in range(count):
        words += attach_receiver(f"r{number}", 0, f"deaf/{number}", 255) + performative(
            DETACH, uint(0), wire.TRUE, channel=255)
    return words


def vanishing(node):
    """Connections reset in the middle of everything."""
    chance = random.Random(20_261_121)
    words = HEADER + open_frame("vanish") + begin_frame() + attach_sender("s", 0, "hostile/v") + attach_receiver(
        "r", 1, "hostile/v") + flow_frame(1, 0, 100)
    message = data_message(bytes(100))
    words += b"".join(transfer_frame(0, number, message, settled=number % 2 == 0) for number in range(50))
    for number in range(400):
        raw = Raw(node, say_hello=False)
        raw.send(words[: chance.randrange(len(words) + 1)])
        if number % 4:
            raw.read(0.01)
        if number % 2:
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()


def mutated(node, count=1_500):
    """A good exchange with bytes changed, left out and doubled."""
    chance = random.Random(5)
    parts = [
        HEADER, open_frame("mutant"), begin_frame(), attach_sender("s", 0, "hostile/m"),
        attach_receiver("r", 1, "hostile/*"), flow_frame(1, 0, 100),
        transfer_frame(0, 0, data_message(b"abc", string("id"))),
        transfer_frame(0, 1, described(0x74, wire.mapped((string("a"), uint(1)))) + described(0x77, string("t"))),
        performative(wire.DISPOSITION, wire.TRUE, uint(0), uint(1), wire.TRUE, described(wire.RELEASED, listed())),
        attach_receiver_durable("d", 2, "hostile/m"), performative(DETACH, uint(2)), performative(END),
        performative(CLOSE),
    ]
    for number in range(count):
        copy = [bytearray(part) for part in parts]
        for _ in range(chance.randrange(1, 4)):
            part = copy[chance.randrange(1, len(copy))]
            kind = chance.randrange(4)
            if kind == 0 and part:
                part[chance.randrange(len(part))] = chance.randrange(256)
            elif kind == 1 and part:
                part[chance.randrange(len(part))] ^= 1 << chance.randrange(8)
            elif kind == 2:
                copy.remove(part)
            else:
                copy.insert(chance.randrange(len(copy)), bytearray(part))
        raw = Raw(node, say_hello=False)
        try:
            raw.send(b"".join(copy))
            # No faster than the node answers; and some go before it has.
            if number % 10:
                raw.read(0.05)
        except OSError:
            pass
        raw.close()
        if number % 100 == 0:
            check(node.process.poll() is None, f"the node is dead after mutant {number}")
    return count


def settle(node, descriptors):
    end = time.monotonic() + 10
    while node.descriptors() > descriptors and time.monotonic() < end:
        time.sleep(0.1)
    check(node.descriptors() <= descriptors, f"{node.descriptors()} descriptors instead of {descriptors}")


def run(*only):
    with Node(amqp=True, extra=EXTRA) as node:
        mutated(node, 200)
        time.sleep(0.5)
        descriptors, memory = node.descriptors(), node.resident_kilobytes()
        pair = Pair(node)
        said = []
        for part in (slow, run_cases, without_credit, many_partials, deaf, vanishing, mutated):
            if only and part.__name__ not in only:
                continue
            start = time.monotonic()
            result = part(node)
            said.append((part.__name__, result))
            print(f"{part.__name__}: {time.monotonic() - start:.1f} s, {pair.slowest * 1000:.0f} ms", flush=True)
            check(node.process.poll() is None, f"the node is dead after {part.__name__}")
        slow_ones = [result() for name, result in said if name == "slow"]
        spoken = pair.finish()
        pair.sender.close()
        pair.receiver.close()
        settle(node, descriptors)
        grown = node.resident_kilobytes() - memory
        check(grown < 32_768, f"the node has grown by {grown} KiB")
        counts = {name: result for name, result in said if isinstance(result, int)}
    return f"hostile AMQP: {counts}, {sum(slow_ones)} slow; {spoken}; {grown} KiB more"


if __name__ == "__main__":
    main(run, *sys.argv[1:])
