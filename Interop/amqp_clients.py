#!/usr/bin/env python3
"""Proves that clients of AMQP 1.0 made with Qpid Proton work with a node, both with the binding of PyPI and with
Debian's, which is older: addresses in every form, wildcards, credit and drain, every settlement, large messages, many
links, dynamic sources, refusals that say why, messages that arrive byte by byte as they were sent.

    amqp_clients.py [--here]     with --here only with the binding of this interpreter

Run it with the interpreter that python.sh prints."""

import decimal
import struct
import subprocess
import sys
import threading
import uuid

import proton
from proton import Delivery, Described, Link, Message, symbol
from proton.handlers import MessagingHandler
from proton.reactor import Container
from proton.utils import BlockingConnection, LinkDetached, SendException

import amqp_wire as wire
from amqp_wire import Raw
from node import PATIENCE, Node, check, is_, main, run_parts
from proton_client import BINARY, MEBIBYTE, WORLD, Client, Options, Receiver, Sender, data, rest, text, until

DEBIAN_PYTHON = "/usr/bin/python3"
STATES = {"accept": Delivery.ACCEPTED, "reject": Delivery.REJECTED, "release": Delivery.RELEASED}


def openings(node):
    """What the node says of itself, and every way to name the host."""
    client = Client(node)
    is_("container", "interop", client.connection.remote_container)
    is_("product", "Apus", client.properties.get("product"))
    check(client.properties.get("version"), f"no version: {client.properties}")
    offered = [str(name) for name in client.connection.remote_offered_capabilities or ()]
    check("ANONYMOUS-RELAY" in offered, f"offered: {offered}")
    transport = client.connection.transport
    is_("frames", 65_536, transport.remote_max_frame_size)
    is_("idle time-out", 30.0, transport.remote_idle_timeout)
    client.close()
    for host in ("", "localhost", "a.example:5672", "vhost:x", "ü" * 100):
        client = Client(node, virtual_host=host, sasl_enabled=len(host) < 15)
        client.sender("opened").accepted(text(body="x"))
        client.close()


def blocking(node):
    """The binding's calls that block, as its documentation has them."""
    connection = BlockingConnection(f"amqp://127.0.0.1:{node.amqp_port}", timeout=PATIENCE)
    receiver = connection.create_receiver("blocking", credit=5)
    sender = connection.create_sender("blocking")
    for number in range(100):
        sender.send(Message(body=f"number {number}", subject="s", properties={"n": number}))
        got = receiver.receive(timeout=PATIENCE)
        is_("body", f"number {number}", got.body)
        is_("fields", ("s", {"n": number}), (got.subject, got.properties))
        receiver.accept()
    anonymous = connection.create_sender(None)
    anonymous.send(Message(address="blocking", body="by name"))
    is_("by name", "by name", receiver.receive(timeout=PATIENCE).body)
    receiver.accept()
    try:
        anonymous.send(Message(body="to nobody"))
        check(False, "a message without `to` was taken")
    except SendException as failure:
        is_("without `to`", Delivery.REJECTED, failure.state)
    try:
        connection.create_receiver("queue://none")
        check(False, "a queue was found")
    except LinkDetached as failure:
        check("amqp:not-implemented" in str(failure), f"a queue: {failure}")
    connection.close()


class Numbers(MessagingHandler):
    """Sender and receiver of the binding's examples in one."""

    def __init__(self, url, count):
        super().__init__(prefetch=50)
        self.url, self.count = url, count
        self.sent = self.confirmed = 0
        self.received = []
        self.failure = None
        self.sender = None

    def on_start(self, event):
        connection = event.container.connect(self.url, reconnect=False)
        event.container.create_receiver(connection, "handler/numbers")
        self.connection = connection

    def on_link_opened(self, event):
        if event.receiver:
            self.sender = event.container.create_sender(self.connection, "handler/numbers")

    def on_sendable(self, event):
        while event.sender.credit and self.sent < self.count:
            event.sender.send(Message(id=self.sent, body={"sequence": self.sent}))
            self.sent += 1

    def on_message(self, event):
        self.received.append((event.message.id, event.message.body["sequence"]))
        self._end(event)

    def on_accepted(self, event):
        self.confirmed += 1
        self._end(event)

    def on_rejected(self, event):
        self.failure = "rejected"

    def on_transport_error(self, event):
        self.failure = f"{event.transport.condition}"

    def _end(self, event):
        if self.confirmed == self.count == len(self.received):
            event.connection.close()


def handler(node):
    numbers = Numbers(f"127.0.0.1:{node.amqp_port}", 2_000)
    thread = threading.Thread(target=Container(numbers).run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    check(not thread.is_alive() and not numbers.failure, f"{numbers.confirmed} confirmed, {numbers.failure}")
    is_("numbers", [(number, number) for number in range(2_000)], numbers.received)


def addresses(node):
    """What one form of an address sends, every other one receives."""
    client = Client(node)
    forms = (
        ("addr/x", ()), ("addr/x", ("topic",)), ("topic://addr/x", ()), ("TOPIC://addr/x", ()),
        ("/exchanges/amq.topic/addr.x", ()), ("/topic/addr.x", ()), (f"amqp://127.0.0.1:{node.amqp_port}/addr/x", ()),
    )
    receivers = [client.receiver(address, capabilities=names) for address, names in forms]
    for address, names in forms:
        client.sender(address, capabilities=names).accepted(text(body=f"{address} {names}"))
    relay = client.sender(None)
    for address, _ in forms:
        relay.accepted(text(address, body=address))
    wanted = [f"{address} {names}" for address, names in forms] + [address for address, _ in forms]
    for (address, names), receiver in zip(forms, receivers):
        is_(f"{address} {names}", wanted, receiver.bodies(len(wanted)))
    # In keys of RabbitMQ's a percent and a slash can be said.
    receiver = client.receiver("addr/50%/ü")
    client.sender("/exchanges/amq.topic/addr.50%25.%C3%BC").accepted(text(body="percent"))
    is_("percent", ["percent"], receiver.bodies(1))
    client.close()


def wildcards(node):
    client = Client(node)
    topics = ("wild", "wild/a/temp", "wild/b/temp", "wild/b/c/temp", "wild/red", "wild/reed/x")
    filters = {
        "wild/*/temp": [1, 2], "wild/>": [1, 2, 3, 4, 5], "wild/re*": [4], "wild/+/temp": [1, 2],
        "wild/#": [0, 1, 2, 3, 4, 5], "topic://wild/re*/x": [5], "/exchanges/amq.topic/wild.*.temp": [1, 2],
        "/exchanges/amq.topic/wild.#": [0, 1, 2, 3, 4, 5],
    }
    receivers = {name: client.receiver(name) for name in filters}
    for topic in topics:
        client.sender(topic).accepted(text(body=topic))
    for name, numbers in filters.items():
        got = receivers[name].wait(len(numbers))
        is_(name, [topics[number] for number in numbers], [one.body for one in got])
        said = [(one.message.annotations or {}).get(symbol("x-opt-topic")) for one in got]
        is_(f"{name}: topics", [topics[number] for number in numbers], said)
    for receiver in receivers.values():
        receiver.nothing_more(0.02)
    for address in ("wild/+/>", "wild/#/x", "wild/a+"):
        is_(address, "amqp:invalid-field", client.refused(receiver_of, address).name)
    for address in ("wild/+", "wild/>", "wild/#"):
        is_(f"to {address}", "amqp:invalid-field", client.refused(sender_of, address).name)
    client.close()


def receiver_of(client, address, **options):
    link = WORLD.create_receiver(client.connection, address, options=Options(**options))
    return Receiver(client, link)


def sender_of(client, address, **options):
    return Sender(client, WORLD.create_sender(client.connection, address, options=Options(**options)))


def anonymous(node):
    """A sender without an address: each message says where it goes."""
    client = Client(node)
    receivers = [client.receiver(f"relay/{number}") for number in range(5)]
    relay = client.sender(None)
    for number in range(50):
        relay.accepted(text(f"relay/{number % 5}", f"{number}"), settled=number % 3 == 0)
    for number, receiver in enumerate(receivers):
        is_(f"relay/{number}", [f"{place}" for place in range(number, 50, 5)], receiver.bodies(10))
    for to, condition in (
        (None, "amqp:precondition-failed"), ("relay/+", "amqp:invalid-field"), ("queue://x", "amqp:not-found"),
        ("relay/>", "amqp:invalid-field"),
    ):
        sent = relay.send(text(to, "nowhere"))
        is_(f"to {to}", (Delivery.REJECTED, condition), (sent.state, sent.error.name))
        check(len(sent.error.text) > 10, f"to {to}: {sent.error}")
    relay.accepted(text("relay/0", "still good"))
    is_("after them", ["still good"], receivers[0].bodies(1))
    # Whoever wants no answer can be told by the end of the link only.
    relay.put(text(None, "nowhere"), settled=True)
    is_("settled and without `to`", "amqp:precondition-failed", relay.ended().name)
    client.close()


def qualities(node):
    """Both qualities, from each to each, in order."""
    sender_side, receiver_side = Client(node), Client(node)
    for sent_settled in (False, True):
        for mode in (Link.SND_MIXED, Link.SND_SETTLED, Link.SND_UNSETTLED):
            name = f"quality/{sent_settled}/{mode}"
            receiver = receiver_side.receiver(name, settle=mode, grants=500)
            sender = sender_side.sender(name, settle=Link.SND_SETTLED if sent_settled else Link.SND_UNSETTLED)
            sender.send_all([data(struct.pack(">I", number)) for number in range(2_000)], sent_settled)
            got = receiver.wait(2_000)
            is_(name, list(range(2_000)), [struct.unpack(">I", one.body)[0] for one in got])
            if mode == Link.SND_SETTLED or sent_settled and mode == Link.SND_MIXED:
                check(all(one.settled for one in got), f"{name}: deliveries are unsettled")
            elif not sent_settled:
                check(not any(one.settled for one in got), f"{name}: deliveries are settled")
            receiver.close()
            sender.close()
    sender_side.close()
    receiver_side.close()


def large(node):
    """5 MB intact, to two receivers; more than the limit ends the link, and nothing else."""
    client, other = Client(node), Client(node)
    receivers = [client.receiver("large"), other.receiver("large")]
    sender = client.sender("large")
    five = MEBIBYTE * 5
    for body in (five, b"", five[:65_535], five[:65_536], "ü" * 2_500_000):
        sender.accepted(data(body) if isinstance(body, bytes) else text(body=body))
        for receiver in receivers:
            check(receiver.wait(1)[0].body == body, f"{len(body)} bytes are not what was sent")
    is_("largest message", 16 << 20, sender.link.remote_max_message_size)
    sender.put(data(five * 4))
    is_("20 MB", "amqp:link:message-size-exceeded", sender.ended().name)
    client.sender("large").accepted(text(body="still here"))
    for receiver in receivers:
        is_("afterwards", ["still here"], receiver.bodies(1))
    # A receiver that takes less does not get more.
    small = other.receiver("large", maximum=1_000)
    client.sender("large").accepted(data(five[:2_000]))
    client.sender("large").accepted(data(five[:500]))
    is_("what a receiver of 1,000 bytes gets", [five[:500]], small.bodies(1))
    client.close()
    other.close()


def many_links(node):
    """100 links on one connection, all at work at once."""
    client = Client(node)
    receivers = [client.receiver(f"many/{number}") for number in range(50)]
    senders = [client.sender(f"many/{number}") for number in range(50)]
    for round_ in range(20):
        for sender in senders:
            sender.put(text(body=f"{round_}"))
    for receiver in receivers:
        is_("of each", [f"{number}" for number in range(20)], receiver.bodies(20))
    until(lambda: not any(sender.unsettled for sender in senders), "not all are settled")
    for link in receivers + senders:
        link.close()
    client.sender("many").accepted(text(body="x"))
    client.close()


def request_reply(node):
    """Dynamic sources, and replies by correlation."""
    asking, answering = Client(node), Client(node)
    requests = answering.receiver("service/upper")
    relay = answering.sender(None)
    replies = asking.receiver(None, dynamic=True)
    other = asking.receiver(None, dynamic=True)
    check(replies.address and other.address and replies.address != other.address, f"dynamic: {replies.address}")
    sender = asking.sender("service/upper")
    for number in range(100):
        sender.accepted(text(body=f"request {number}", reply_to=replies.address, correlation_id=number))
    for got in reversed(requests.wait(100)):
        message = got.message
        relay.accepted(text(message.reply_to, message.body.upper(), correlation_id=message.correlation_id))
    answers = {got.message.correlation_id: got.body for got in replies.wait(100)}
    is_("answers", {number: f"REQUEST {number}" for number in range(100)}, answers)
    other.nothing_more(0.05)
    asking.close()
    # The one who asked has gone: nobody is there, which is no error.
    relay.accepted(text(replies.address, "too late"))
    answering.close()


def no_local(node):
    one, other = Client(node), Client(node)
    deaf = one.receiver("local", no_local=True)
    hearing = one.receiver("local")
    one.sender("local").accepted(text(body="own"))
    other.sender("local").accepted(text(body="other's"))
    is_("all", ["own", "other's"], hearing.bodies(2))
    is_("no-local", ["other's"], deaf.bodies(1))
    deaf.nothing_more(0.1)
    filters = {str(key): value for key, value in deaf_filters(deaf).items()}
    check(any("no-local" in name for name in filters), f"the filter is not confirmed: {filters}")
    one.close()
    other.close()


def deaf_filters(receiver):
    found = receiver.link.remote_source.filter
    found.rewind()
    return found.get_dict() if found.next() else {}


def refusals(node):
    """What is not offered is refused with words a person can use; the connection lives on."""
    client = Client(node)
    selector = {symbol("selector"): Described(symbol("apache.org:selector-filter:string"), "colour = 'red'")}
    by_number = {symbol("jms-selector"): Described(proton.ulong(0x0000468C00000004), "colour = 'red'")}
    for make, address, options in (
        (receiver_of, "refused", {"filters": selector}), (receiver_of, "refused", {"filters": by_number}),
        (receiver_of, "refused", {"copy": True}), (receiver_of, "queue://refused", {}),
        (sender_of, "queue://refused", {}), (receiver_of, "refused", {"capabilities": ("queue",)}),
        (sender_of, "/queues/refused", {}), (sender_of, "$management", {}), (receiver_of, "$management", {}),
        (sender_of, "/management", {}), (sender_of, None, {"coordinator": True}),
    ):
        error = client.refused(make, address, **options)
        is_(f"{make.__name__} {address} {options}", "amqp:not-implemented", error.name)
        check(len(error.text) > 20 and " " in error.text, f"{address} {options}: {error}")
    is_("to a group", "amqp:invalid-field", client.refused(sender_of, "$share/g/x").name)
    sent = client.sender("$SYS/x").send(text(body="not theirs"))
    is_("to the node's own topics", (Delivery.REJECTED, "amqp:unauthorized-access"), (sent.state, sent.error.name))
    is_("no exchange", "amqp:not-found", client.refused(sender_of, "/exchanges/mine/x").name)
    is_("no source", "amqp:not-found", client.refused(receiver_of, None).name)
    client.sender("refused").accepted(text(body="x"))
    client.close()


def credit(node):
    """A receiver holds as many messages as it has asked for."""
    client, other = Client(node), Client(node)
    receiver = other.receiver("credit", grants=0, holds=True)
    sender = client.sender("credit")
    receiver.grant(10)
    rest(0.1)
    for number in range(30):
        sender.accepted(text(body=f"{number}"))
    first = receiver.wait(10)
    receiver.nothing_more(0.5)
    receiver.grant(1)
    eleventh = receiver.wait(1)
    receiver.nothing_more(0.2)
    receiver.grant(1_000_000)
    others = receiver.wait(19)
    all_of_them = first + eleventh + others
    is_("order", [f"{number}" for number in range(30)], [got.body for got in all_of_them])
    for got in all_of_them:
        got.settle()
    # With a large window everything comes at once.
    receiver.holds = False
    sender.send_all([text(body=f"{number}") for number in range(20_000)])
    is_("of 20,000", [f"{number}" for number in range(20_000)], receiver.bodies(20_000))
    client.close()
    other.close()


def drain(node):
    client = Client(node)
    receiver = client.receiver("drain", grants=0)
    sender = client.sender("drain")
    receiver.link.drain(10)
    until(lambda: not receiver.link.draining(), "an empty source was not drained")
    is_("credit behind it", 0, receiver.link.credit)
    receiver.link.drain_mode = False
    for number in range(3):
        sender.accepted(text(body=f"{number}"))
    receiver.nothing_more(0.1)
    receiver.link.drain(10)
    is_("what was there", ["0", "1", "2"], receiver.bodies(3))
    until(lambda: not receiver.link.draining(), "a source with three was not drained")
    is_("credit behind them", 0, receiver.link.credit)
    for number in range(3, 8):
        sender.accepted(text(body=f"{number}"))
    receiver.link.drain(2)
    is_("as many as asked for", ["3", "4"], receiver.bodies(2))
    until(lambda: not receiver.link.draining(), "a source with more was not drained")
    receiver.nothing_more(0.1)
    receiver.link.drain_mode = False
    receiver.grant(10)
    is_("the others", ["5", "6", "7"], receiver.bodies(3))
    client.close()


def outcomes(node):
    """What becomes of deliveries of a durable subscription, by what the receiver says of them."""
    client = Client(node, "outcomes")
    receiver = client.receiver("outcome", name="sub", durable=True, holds=True, grants=0)
    receiver.grant(1)
    sender = client.sender("outcome")

    def deliver(body, wanted_count=0):
        got = receiver.wait(1)[0]
        is_(f"{body}: deliveries before", wanted_count, got.message.delivery_count)
        is_("body", body, got.body)
        return got

    def after(got, state, **more):
        # Proton writes flows before dispositions, whichever was said first.
        got.settle(state, **more)
        rest(0.02)
        receiver.grant(1)

    for body, state, more in (
        ("accepted", Delivery.ACCEPTED, {}), ("rejected", Delivery.REJECTED, {}),
        ("undeliverable", Delivery.MODIFIED, {"failed": True, "undeliverable": True}),
    ):
        sender.accepted(text(body=body))
        after(deliver(body), state, **more)
        receiver.nothing_more(0.1)
    sender.accepted(text(body="released"))
    sender.accepted(text(body="behind it"))
    for _ in range(5):
        after(deliver("released"), Delivery.RELEASED)
    for count in range(5):
        after(deliver("released", count), Delivery.MODIFIED, failed=True, undeliverable=False)
    after(deliver("released", 5), Delivery.MODIFIED, failed=False, undeliverable=False)
    after(deliver("released", 5), Delivery.ACCEPTED)
    after(deliver("behind it"), Delivery.ACCEPTED)
    # Settled without a word, and no default outcome asked for: as released (§3.5.3).
    sender.accepted(text(body="wordless"))
    deliver("wordless").delivery.settle()
    rest(0.02)
    receiver.grant(1)
    after(deliver("wordless"), Delivery.ACCEPTED)
    receiver.nothing_more(0.1)
    receiver.close()
    # Not durable: what comes back is counted and gone.
    receiver = client.receiver("outcome", holds=True, grants=5)
    for body, state in (("released", Delivery.RELEASED), ("rejected", Delivery.REJECTED)):
        sender.accepted(text(body=body))
        receiver.wait(1)[0].settle(state)
    receiver.nothing_more(0.2)
    client.close()


def stealing(node):
    """A link that is attached elsewhere by the same container moves there."""
    first, second = Client(node, "thief"), Client(node, "thief")
    old = first.receiver("stolen/x", name="sub", durable=True)
    new = second.receiver("stolen/x", name="sub", durable=True)
    is_("the old one", "amqp:link:stolen", old.ended().name)
    sender = first.sender("stolen/x")
    sender.accepted(text(body="x"))
    is_("at the new one", ["x"], new.bodies(1))
    # Another container may have a link of the same name.
    stranger = Client(node, "stranger").receiver("stolen/x", name="sub", durable=True)
    sender.accepted(text(body="y"))
    is_("for both", (["y"], ["y"]), (new.bodies(1), stranger.bodies(1)))
    new.close()
    stranger.close()
    stranger.client.close()
    first.close()
    second.close()


def idle(_):
    """A client that asks for signs of life gets some; one that gives none is given up."""
    with Node(amqp=True, extra="amqp: { idle_timeout: 2 }\n") as node:
        client = Client(node, heartbeat=1)
        receiver = client.receiver("idle")
        is_("idle time-out", 1.0, client.connection.transport.remote_idle_timeout)
        silent = Raw(node)
        start = node.clock()
        rest(3.5)
        check(not client.is_gone, f"the client was given up: {client.error}")
        client.sender("idle").accepted(text(body="alive"))
        is_("afterwards", ["alive"], receiver.bodies(1))
        check(silent.wait_closed(), "a silent client was not given up")
        took = node.clock() - start
        check(took < 6, f"a silent client was given up after {took:.1f} s")
        closes = [frame for frame in silent.frames if frame.code == wire.CLOSE]
        check(closes and closes[0].error, "a silent client was not told")
        is_("what it was told", "amqp:resource-limit-exceeded", closes[0].error[0])
        client.close()


# Messages as bytes, in encodings that no encoder would choose.


def value(encoded):
    return wire.described(0x77, encoded)


def application_properties():
    """One of every simple type."""
    fixed = {
        "null": b"\x40", "true": b"\x41", "false": b"\x42", "boolean": b"\x56\x01", "ubyte": b"\x50\xff",
        "ushort": b"\x60\xff\xff", "uint": b"\x70\0\0\0\x07", "smalluint": b"\x52\xff", "uint0": b"\x43",
        "ulong": b"\x80" + b"\xff" * 8, "smallulong": b"\x53\x07", "ulong0": b"\x44", "byte": b"\x51\x80",
        "short": b"\x61\x80\0", "int": b"\x71\x80\0\0\0", "smallint": b"\x54\x80", "long": b"\x81" + b"\x80" + bytes(7),
        "smalllong": b"\x55\xff", "float": b"\x72\x3f\x80\0\0", "double": b"\x82\x7f\xf8" + bytes(6),
        "decimal32": b"\x74\x22\x50\0\x01", "decimal64": b"\x84" + bytes(range(8)), "decimal128": b"\x94" + bytes(16),
        "char": b"\x73\0\x01\xf4\x1d", "timestamp": b"\x83\0\0\x01\x8f" + bytes(4), "uuid": b"\x98" + bytes(range(16)),
        "binary": b"\xa0\x03\0\xff\0", "binary32": b"\xb0\0\0\0\x01\xff", "string": b"\xa1\x02\xc3\xbc",
        "string32": b"\xb1\0\0\0\x01x", "symbol": b"\xa3\x01s", "symbol32": b"\xb3\0\0\0\x01s", "": b"\xa1\0",
    }
    pairs = [(wire.string(name), encoded) for name, encoded in fixed.items()]
    return wire.described(0x74, wire.mapped(*pairs))


def properties(message_id, correlation):
    return wire.described(0x73, wire.listed(
        message_id, wire.binary(b"user"), wire.string("topic://bytes/x"), wire.string("subject"),
        wire.string("reply/here"), correlation, wire.symbol("text/x"), wire.symbol("gzip"),
        b"\x83" + struct.pack(">q", 4_102_444_800_000), b"\x83" + struct.pack(">q", 1_700_000_000_000),
        wire.string("group"), wire.uint(7), wire.string("reply group"),
    ))


def messages():
    """Names and encoded messages."""
    everything = wire.mapped(
        (wire.symbol("a"), wire.listed(wire.ulong(1), b"\x45", wire.array(b"\x71", b"\0\0\0\1", b"\0\0\0\2"))),
        (b"\x40", wire.described(0x99, wire.string("described"))), (wire.string("k"), wire.mapped()),
    )
    names = {
        "nothing but data": wire.described(0x75, wire.binary(BINARY)),
        "data with a long length": wire.described(0x75, b"\xb0\0\0\0\x02hi"),
        "a long descriptor": b"\x00\x80" + struct.pack(">Q", 0x75) + b"\xa0\x01x",
        "a descriptor that is a symbol": b"\x00" + wire.symbol("amqp:data:binary") + b"\xa0\x01x",
        "empty data": wire.described(0x75, b"\xa0\0"),
        "three sections of data": b"".join(wire.described(0x75, wire.binary(part)) for part in (b"a", b"", b"c" * 300)),
        "a sequence": wire.described(0x76, wire.listed(wire.uint(1), wire.string("two"))),
        "two sequences": wire.described(0x76, b"\x45") + wire.described(0x76, wire.listed(wire.TRUE)),
        "text": value(wire.string("grüezi")), "long text": value(b"\xb1\0\0\0\x01x"), "null": value(b"\x40"),
        "a number": value(b"\x53\x2a"), "a symbol": value(wire.symbol("s")), "bytes": value(wire.binary(b"\0")),
        "a map of everything": value(everything), "an empty list": value(b"\x45"), "a described value":
        value(b"\x00" + wire.symbol("example:thing") + wire.listed(wire.TRUE)),
        "empty properties": wire.described(0x73, b"\x45") + wire.described(0x75, b"\xa0\x01x"),
        "empty application properties": wire.described(0x74, b"\xc1\x01\0") + wire.described(0x75, b"\xa0\x01x"),
    }
    for kind, identifier in (
        ("ulong", b"\x80" + b"\xfe" * 8), ("small ulong", b"\x53\x05"), ("uuid", b"\x98" + uuid.UUID(int=5).bytes),
        ("binary", wire.binary(BINARY[:32])), ("string", wire.string("ü")),
    ):
        names[f"ids of {kind}"] = properties(identifier, identifier) + application_properties() + value(wire.TRUE)
        names[f"ids of {kind} and data"] = properties(identifier, identifier) + wire.described(0x75, wire.binary(b"d"))
    around = wire.described(0x70, wire.listed(wire.TRUE, wire.ubyte(9), wire.uint(100_000)))
    annotations = wire.described(0x72, wire.mapped((wire.symbol("x-opt-mine"), wire.string("kept"))))
    instructions = wire.described(0x71, wire.mapped((wire.symbol("x-hop"), wire.string("to the node only"))))
    footer = wire.described(0x78, wire.mapped((wire.symbol("x-sum"), wire.uint(5))))
    full = properties(wire.string("id"), wire.binary(b"c")) + application_properties()
    bodies = (("data", wire.described(0x75, wire.binary(MEBIBYTE[:100_000]))), ("text", value(wire.string("t"))))
    for name, body in bodies:
        names[f"every section and {name}"] = around + instructions + annotations + full + body + footer
        names[f"every section but a footer and {name}"] = around + instructions + annotations + full + body
    return names


def sections_alike(what, sent, got):
    check(wire.bare(sent) == wire.bare(got), f"{what}: not as it was sent\n{sent.hex()[:500]}\n{got.hex()[:500]}")
    for code, name in ((0x78, "footer"),):
        of = [[raw for number, raw in wire.sections(message) if number == code] for message in (sent, got)]
        is_(f"{what}: {name}", of[0], of[1])
    head = {code: wire.decode(raw)[0][1] for code, raw in wire.sections(got)}
    if b"x-opt-mine" in sent:
        is_(f"{what}: annotation", "kept", (head.get(0x72) or {}).get("x-opt-mine"))
        is_(f"{what}: priority", 9, (head.get(0x70) or [None, None])[1])
        check((head[0x70] + [None] * 3)[2] and 50_000 < head[0x70][2] <= 100_000, f"{what}: ttl {head.get(0x70)}")
    check(b"x-hop" not in got, f"{what}: the delivery annotations of another hop")


def bytes_kept(node):
    """The bare message comes as it went, at once, out of a queue and out of a durable subscription."""
    client, keeper = Client(node), Client(node, "keeper")
    now = client.receiver("bytes/x", grants=1_000)
    later = client.receiver("bytes/x", grants=0)
    wild = client.receiver("bytes/*", grants=1_000)
    keeper.receiver("bytes/x", name="kept", durable=True, grants=0).detach()
    sender = client.sender("bytes/x")
    all_messages = messages()
    for number, (name, message) in enumerate(all_messages.items()):
        sender.accepted(message, settled=number % 4 == 3)
    later.grant(1_000)
    kept = keeper.receiver("bytes/x", name="kept", durable=True, grants=1_000)
    for place, receiver in (("at once", now), ("to a wildcard", wild), ("out of a queue", later)):
        got = receiver.wait(len(all_messages))
        for (name, message), one in zip(all_messages.items(), got):
            sections_alike(f"{name} {place}", message, one.raw)
    guaranteed = [item for number, item in enumerate(all_messages.items()) if number % 4 != 3]
    for (name, message), one in zip(guaranteed, kept.wait(len(guaranteed))):
        sections_alike(f"{name}, kept", message, one.raw)
    kept.close()
    client.close()
    keeper.close()


def values(node):
    """The binding's own types go through unharmed."""
    client = Client(node)
    receiver = client.receiver("values")
    sender = client.sender("values")
    bodies = [
        None, True, 42, -1, 2**40, 1.5, "text", b"bytes", symbol("s"), uuid.UUID(int=1), proton.timestamp(12_345),
        [1, "two", [3]], {"a": {"b": [True, None]}}, proton.char("x"), proton.ubyte(1), proton.ulong(2**63),
        proton.decimal32(1) if hasattr(proton, "decimal32") else decimal.Decimal(1) and 1,
        Described(symbol("d"), [1, 2]), proton.Array(proton.UNDESCRIBED, proton.Data.INT, 1, 2, 3),
    ]
    for body in bodies:
        sender.accepted(Message(body=body, properties={"one": 1, "flag": True, "none": None}, ttl=60, priority=7))
        got = receiver.wait(1)[0]
        is_(f"{body!r}", body, got.body)
        is_("properties", {"one": 1, "flag": True, "none": None}, got.message.properties)
        is_("priority", 7, got.message.priority)
        check(50 < got.message.ttl <= 60, f"ttl {got.message.ttl}")
    client.close()


PARTS = (
    openings, blocking, handler, addresses, wildcards, anonymous, qualities, large, many_links, request_reply, no_local,
    refusals, credit, drain, outcomes, stealing, idle, bytes_kept, values,
)


def version():
    import cproton
    return f"{cproton.PN_VERSION_MAJOR}.{cproton.PN_VERSION_MINOR}"


def test(only=()):
    with Node(amqp=True) as node:
        said = run_parts(PARTS, only, node)
    return f"clients of Proton {version()}: {len(said)} parts passed"


def both(*only):
    """This interpreter's binding, then Debian's."""
    said = [test(only)]
    print(said[0], flush=True)
    done = subprocess.run([DEBIAN_PYTHON, __file__, "--here", *only], stdout=subprocess.PIPE, text=True, timeout=900)
    print(done.stdout, end="")
    check(done.returncode == 0, f"Debian's binding: status {done.returncode}")
    return "; ".join(said + [done.stdout.splitlines()[-1]])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        main(test, sys.argv[2:])
    else:
        main(both, *sys.argv[1:])
