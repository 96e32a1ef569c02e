#!/usr/bin/env python3
"""Proves that hostile clients of MQTT 3.1.1 and 5 get the answer that their version has for them, and that nobody else
notices: each attack on a raw socket, with the expected reason code, closed where it must be, at most 1 s of the
node's CPU for any single packet, while a pair of others measures its round trips.

    hostile5.py [attack…]

Needs nothing but Python."""

import multiprocessing
import random
import sys
import threading
import time

import wire
from hostile5_packets import combined_filters, long_packets, malformed_connects, malformed_packets, refused_filters
from node import Failure, Node, check, main, packet, text
from wire import Wire, acknowledgement

# Milliseconds of the node's CPU that a single packet may cost. What this looks for is quadratic and takes seconds; the
# dearest one that is not takes 100, and a few times as long where others use the same caches.
MOST_CPU = 1_000
# Seconds of a round trip of the undisturbed pair and until what breaks the rules is closed, by the node's clock.
MOST_DELAY = 1
# Seconds after which something that must happen, however busy the machine, does not happen.
PATIENCE = 60


class Attack:
    """What the attacks of one version share: the node, an innocent connection, and everything that went wrong."""

    def __init__(self, node, version):
        self.node = node
        self.version = version
        self.innocent = Wire(node, version, f"innocent{version}")
        self.problems = []
        self.most_cpu = (0, "")

    def expect(self, condition, what):
        if not condition:
            self.problems.append(f"version {self.version}: {what}")

    def connect(self, name="hostile", **options):
        return Wire(self.node, self.version, name, **options)

    def measured(self, what, body):
        """Runs `body`, which sends a packet and waits for its effect; then somebody else must be answered."""
        before = self.node.processor_seconds()
        outcome = body()
        check(self.innocent.ping(), f"{what}: the innocent was not answered")
        spent = round((self.node.processor_seconds() - before) * 1_000)
        self.most_cpu = max(self.most_cpu, (spent, what))
        self.expect(spent <= MOST_CPU, f"{what}: {spent} ms of CPU")
        return outcome

    def closed_at_once(self, what, connection, frame):
        """Sends what the node answers by closing."""
        start = self.node.clock()
        connection.send(frame)
        connection.drain(PATIENCE)
        seconds = self.node.clock() - start
        self.expect(connection.closed, f"{what}: not closed")
        self.expect(seconds < MOST_DELAY, f"{what}: closed after {seconds:.1f} s instead of at once")

    def must_close(self, what, frame, reasons, connection=None):
        """The frame ends its connection at once; in MQTT 5 with DISCONNECT and one of the reasons."""
        connection = connection or self.connect()
        self.measured(what, lambda: self.closed_at_once(what, connection, frame))
        reason = connection.disconnect_reason()
        if self.version < 5:
            self.expect(not connection.arrived, f"{what}: answered with {connection.arrived[:2]}")
        else:
            names = " or ".join(f"{reason:#04x}" for reason in reasons)
            got = "no DISCONNECT" if reason is None else f"{reason:#04x}"
            self.expect(reason in reasons, f"{what}: {got} instead of {names}")
        connection.close()

    def answer(self, what, connection, frame, kind):
        """The body of the answer of a kind; the connection must live on."""
        body = self.measured(what, lambda: (connection.send(frame), connection.take(kind))[1])
        self.expect(body is not None, f"{what}: no {kind:#04x}, closed {connection.closed}, {connection.arrived[:2]}")
        self.expect(connection.ping(), f"{what}: the connection did not survive")
        return body or b""


def run_pair(node, stop, result):
    """A process: an event each 50 ms from one to another, QoS 1; sends the count and the longest round trip."""
    try:
        receiver, sender = Wire(node, 5, "undisturbed-receiver"), Wire(node, 4, "undisturbed-sender")
        receiver.subscribe("undisturbed", 1)
        result.send("ready")
        count, longest = 0, 0
        while not stop.is_set():
            count += 1
            start = node.clock()
            sender.send(wire.publish(4, "undisturbed", str(count).encode(), 1, count % 65_535 + 1))
            first, body = 0x32, receiver.expect(wire.PUBLISH, PATIENCE)
            event = wire.Event(5, first, body)
            receiver.send(acknowledgement(wire.PUBACK, event.identifier))
            sender.expect(wire.PUBACK, PATIENCE)
            check(event.payload == str(count).encode(), f"the pair: {event.payload} instead of {count}")
            longest = max(longest, node.clock() - start)
            stop.wait(0.05)
        result.send((count, longest))
    except (Failure, OSError) as failure:
        result.send(f"the pair: {failure!r}")


def malformed(attack):
    """Packets that end their connection, each with its reason."""
    for what, frame, reasons in malformed_packets(attack.version):
        attack.must_close(what, frame, reasons)


def connects(attack):
    """Bad CONNECTs: MQTT 5 may be told in CONNACK, and Apus does; 3.1.1 is closed without a word."""
    for what, frame, reasons in malformed_connects(attack.version):
        connection = Wire(attack.node, attack.version)
        attack.measured(what, lambda w=what, c=connection, f=frame: attack.closed_at_once(w, c, f))
        got = [(first, body[1]) for first, body in connection.arrived if len(body) > 1]
        expected = [[(wire.CONNACK, reason)] for reason in reasons] if attack.version == 5 else [[]]
        attack.expect(got in expected, f"{what}: {got} instead of one of {expected}")


def identifiers(attack):
    """Acknowledgements of what never was."""
    version = attack.version
    connection = attack.connect()
    body = attack.answer("PUBREL of nothing", connection, acknowledgement(wire.PUBREL, 99), wire.PUBCOMP)
    attack.expect(body[:3] == (b"\0\x63\x92" if version == 5 else b"\0\x63"), f"PUBREL of nothing: {body.hex()}")
    if version == 5:
        body = attack.answer("PUBREC of nothing", connection, acknowledgement(wire.PUBREC, 99), wire.PUBREL)
        attack.expect(body[:3] == b"\0\x63\x92", f"PUBREC of nothing: {body.hex()}")
    for kind in (wire.PUBACK, wire.PUBREC, wire.PUBCOMP):
        attack.measured(f"{kind:#x} of nothing", lambda k=kind: connection.send(acknowledgement(k, 98) * 1_000))
        attack.expect(connection.ping(), f"1,000 x {kind:#x} of nothing: closed")
    connection.close()


def filters(attack):
    """Filters that are none: refused each by itself, the connection lives on."""
    version = attack.version
    connection = attack.connect()
    refused = 0x8F if version == 5 else 0x80
    for topic_filter in refused_filters():
        what = f"filter {topic_filter[:20]} of {len(topic_filter)}"
        body = attack.answer(f"SUBSCRIBE {what}", connection, wire.subscribe(version, topic_filter, 1, 5), wire.SUBACK)
        attack.expect(body[-1:] == bytes([refused]), f"SUBSCRIBE {what}: {body.hex()[:20]} instead of {refused:#x}")
        frame = wire.unsubscribe(version, topic_filter, 6)
        body = attack.answer(f"UNSUBSCRIBE {what}", connection, frame, 0xB0)
        if version == 5:
            attack.expect(body[-1:] == b"\x8f", f"UNSUBSCRIBE {what}: {body.hex()[:20]} instead of 0x8f")
    connection.close()


def large(attack):
    """Large packets that are all right: each is answered, and cheap."""
    connection = attack.connect()
    for what, frame, kind in long_packets(attack.version):
        attack.answer(what, connection, frame, kind)
    attack.measured("the end of all its subscriptions", lambda: (connection.close(), attack.innocent.ping()))


def user_properties(attack):
    """8,000 user properties: forwarded in order, byte for byte."""
    if attack.version < 5:
        return
    receiver, sender = attack.connect("receiver"), attack.connect("sender")
    receiver.subscribe("many", 1)
    pairs = [(f"key{number % 97}", f"value {number}") for number in range(8_000)]
    many = b"".join(b"\x26" + text(key) + text(value) for key, value in pairs)
    body = attack.answer("8,000 user properties", sender, wire.publish(5, "many", b"x", 1, 3, more=many), wire.PUBACK)
    attack.expect(body == b"\0\3", f"8,000 user properties: PUBACK {body.hex()}")
    body = receiver.take(wire.PUBLISH)
    attack.expect(body and wire.Event(5, 0x32, body).properties == many, "8,000 user properties: changed on their way")
    receiver.close()
    sender.close()


def claims(attack):
    """256 MB announced, after CONNECT and before."""
    before = attack.node.resident_kilobytes()
    claim = b"\x30\xff\xff\xff\x7f" + b"\0\1a" + b"x" * 1_000
    for _ in range(50):
        attack.must_close("a claim of 256 MB", claim, [0x95])
        connection = Wire(attack.node, attack.version)
        attack.closed_at_once("a claim of 256 MB before CONNECT", connection, claim)
        connection.close()
    grown = attack.node.resident_kilobytes() - before
    attack.expect(grown < 16_384, f"claims of 256 MB cost {grown} KiB")


def unreleased(attack):
    """5,000 at QoS 2 without PUBREL: ended at the receive maximum of 1,024."""
    connection = attack.connect()
    frames = b"".join(wire.publish(attack.version, "u", b"x", 2, number) for number in range(1, 5_001))
    connection.send(frames)
    attack.expect(connection.drain() is not None, "5,000 without PUBREL: not closed")
    count = sum(first == wire.PUBREC for first, _ in connection.arrived)
    attack.expect(count <= 1_024, f"5,000 without PUBREL: {count} were taken")
    if attack.version == 5:
        reason = connection.disconnect_reason()
        attack.expect(reason == 0x93, f"5,000 without PUBREL: {reason} instead of 0x93")


def same_identifier(attack):
    """One identifier 5,000 times: QoS 1 is fine, at QoS 2 it is one publish."""
    receiver, sender = attack.connect("receiver"), attack.connect("sender")
    receiver.subscribe("same", 0)
    for qos, kind, expected in ((1, wire.PUBACK, 5_000), (2, wire.PUBREC, 1)):
        for _ in range(10):
            sender.send(wire.publish(attack.version, "same", b"x", qos, 7) * 500)
            answered = sum(sender.take(kind) is not None for _ in range(500))
            attack.expect(answered == 500, f"the same identifier at QoS {qos}: {answered} of 500 answered")
        attack.expect(sender.ping() and receiver.ping(), f"the same identifier at QoS {qos}: closed")
        # The receiver may be on another lane: behind this one nothing of the above can come.
        sender.send(acknowledgement(wire.PUBREL, 7) + wire.publish(attack.version, "same", b"last", 0))
        events = []
        end = time.monotonic() + PATIENCE
        while not (events and events[-1].payload == b"last") and time.monotonic() < end:
            receiver.read(1)
            events += receiver.events()
        attack.expect(len(events) - 1 == expected, f"QoS {qos}: {len(events) - 1} deliveries instead of {expected}")
    receiver.close()
    sender.close()


def takeovers(attack):
    """300 CONNECTs with one identifier from ten threads with jitter: exactly one survives."""
    wires = [Wire(attack.node, attack.version) for _ in range(300)]
    generator = random.Random(5)
    delays = [generator.expovariate(1 / 0.002) for _ in wires]

    def run(part):
        for place in part:
            time.sleep(delays[place])
            wires[place].send(wire.connect(attack.version, "taken", place % 2 == 0, keep_alive=60))

    threads = [threading.Thread(target=run, args=(range(start, 300, 10),)) for start in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(attack.innocent.ping(), "takeovers: the innocent was closed")
    survivors = []
    for connection in wires:
        if connection.ping():
            survivors.append(connection)
            continue
        attack.expect(connection.closed, "a takeover: neither answered nor closed")
        if attack.version == 5:
            reason = connection.disconnect_reason()
            attack.expect(reason == 0x8E, f"a takeover: {reason} instead of 0x8e, arrived {connection.arrived[:3]}")
    alive = [connection for connection in survivors if connection.ping()]
    attack.expect(len(alive) == 1, f"{len(alive)} of 300 survive instead of 1")
    for connection in wires:
        connection.close()


def burst(attack):
    """5,000 at QoS 1 in one write: all acknowledged in order, or in MQTT 5 ended with 0x93."""
    connection = attack.connect()
    frames = b"".join(wire.publish(attack.version, "burst", b"x", 1, number) for number in range(1, 5_001))
    connection.send(frames)
    alive = connection.ping()
    answered = [wire.number(body) for first, body in connection.arrived if first == wire.PUBACK]
    attack.expect(answered == list(range(1, len(answered) + 1)), "5,000 at QoS 1: PUBACKs out of order")
    if alive:
        attack.expect(len(answered) == 5_000, f"5,000 at QoS 1: {len(answered)} acknowledged")
    else:
        reason = connection.disconnect_reason()
        attack.expect(attack.version == 5 and reason == 0x93, f"5,000 at QoS 1: closed with {reason}")
    connection.close()


def hold_wills(node, version, result):
    """A process that will be killed: 200 clients with wills."""
    held = []
    for place in range(200):
        held.append(Wire(node, version, f"will{place}", will=(f"wills/{place}", "gone")))
    result.send(len(held))
    time.sleep(2 * PATIENCE)


def wills(attack):
    """200 clients with wills die with their process at once: 200 wills arrive, each once."""
    receiver = attack.connect("receiver")
    receiver.subscribe("wills/#", 1)
    ours, theirs = multiprocessing.Pipe()
    arguments = (attack.node, attack.version, theirs)
    process = multiprocessing.get_context("fork").Process(target=hold_wills, args=arguments, daemon=True)
    process.start()
    check(ours.poll(PATIENCE) and ours.recv() == 200, "200 clients with wills did not connect")
    process.kill()
    process.join()
    topics = []
    end = time.monotonic() + PATIENCE
    while len(topics) < 200 and time.monotonic() < end:
        receiver.read(1)
        topics += [event.topic for event in receiver.events()]
    receiver.ping()
    topics += [event.topic for event in receiver.events()]
    expected = sorted(f"wills/{place}" for place in range(200))
    attack.expect(sorted(topics) == expected, f"{len(topics)} wills of {len(set(topics))} clients instead of 200")
    receiver.close()


def costly_filters(attack):
    """65,536 filters of one client, all combinations of + and a, that every topic below a/a/a walks through; then 200
    such topics in one write. Others on any lane must be answered meanwhile, and afterwards when the filters end."""
    others = [attack.connect(f"other{place}") for place in range(4)]
    greedy, sender = attack.connect("greedy"), attack.connect("sender")
    for batch in combined_filters(16):
        greedy.send(packet(0x82, b"\0\1" + wire.properties(attack.version) + batch))
        attack.expect(greedy.take(wire.SUBACK) is not None, "costly filters: no SUBACK")
    topic = "a/" * 16
    sender.send(b"".join(wire.publish(attack.version, f"{topic}{place}", b"x") for place in range(200)))
    start = attack.node.clock()
    check(all(other.ping(PATIENCE) for other in others), "costly filters: others were not answered")
    seconds = attack.node.clock() - start
    attack.expect(seconds < MOST_DELAY, f"costly filters: others waited {seconds:.1f} s while 200 events were matched")
    # Seconds of work: on a busy machine they take minutes.
    sender.send(wire.PINGREQ)
    while sender.take(wire.PINGRESP, 1) is None:
        check(not sender.closed and attack.node.clock() - start < PATIENCE, "costly filters: the sender got no answer")
    attack.measured("the end of 65,536 filters", lambda: (greedy.close(), all(other.ping() for other in others)))
    for connection in [sender, *others]:
        connection.close()


def half_a_connect(attack):
    # The first one's time begins before the last one is connected.
    start, connections = time.monotonic(), []
    whole = wire.connect(attack.version, "half")
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        connection = Wire(attack.node, attack.version)
        connection.send(whole[:size])
        connections.append(connection)
    fair = attack.node.clock()
    for connection in connections:
        connection.drain(PATIENCE)
        seconds, most = time.monotonic() - start, attack.node.clock() - fair
        attack.expect(connection.closed and seconds >= 4.5 and most <= 6.5,
                      f"half a CONNECT: closed {connection.closed} after {seconds:.1f} s, {most:.1f} s of the node's")


def silence(attack):
    start, fair = time.monotonic(), attack.node.clock()
    connection = attack.connect("silent", keep_alive=2)
    connection.drain(PATIENCE)
    seconds, most = time.monotonic() - start, attack.node.clock() - fair
    attack.expect(connection.closed and seconds >= 2.9 and most <= 4.5,
                  f"silence: closed {connection.closed} after {seconds:.1f} s, {most:.1f} s of the node's, not 3 to 4")
    if attack.version == 5:
        attack.expect(connection.disconnect_reason() == 0x8D, f"silence: {connection.disconnect_reason()}")


ATTACKS = [
    malformed, connects, identifiers, filters, user_properties, large, claims, unreleased, same_identifier, takeovers,
    burst, wills, costly_filters,
]


def attack_with(node, version, wanted):
    """All attacks of a version; returns the problems and the most expensive packet."""
    attack = Attack(node, version)
    slow = [threading.Thread(target=part, args=(attack,)) for part in (half_a_connect, silence)]
    for thread in slow:
        thread.start()
    for part in ATTACKS:
        if wanted and part.__name__ not in wanted:
            continue
        start, count = time.monotonic(), len(attack.problems)
        try:
            part(attack)
        except (Failure, OSError) as failure:
            attack.problems.append(f"version {version}: {part.__name__}: {failure!r}")
        state = "ok" if len(attack.problems) == count else f"{len(attack.problems) - count} problems"
        print(f"version {version}, {part.__name__}: {state}, {time.monotonic() - start:.1f} s", flush=True)
    for thread in slow:
        thread.join()
    attack.innocent.close()
    return attack.problems, attack.most_cpu


def test(*wanted):
    with Node() as node:
        stop = multiprocessing.get_context("fork").Event()
        ours, theirs = multiprocessing.Pipe()
        arguments = (node, stop, theirs)
        process = multiprocessing.get_context("fork").Process(target=run_pair, args=arguments, daemon=True)
        process.start()
        check(ours.poll(PATIENCE) and ours.recv() == "ready", "the pair did not start")
        before = node.descriptors()
        problems, most_cpu = [], (0, "")
        for version in (4, 5):
            found, cpu = attack_with(node, version, wanted)
            problems += found
            most_cpu = max(most_cpu, cpu)
        end = time.monotonic() + PATIENCE
        while node.descriptors() > before and time.monotonic() < end:
            time.sleep(0.02)
        after = node.descriptors()
        stop.set()
        check(ours.poll(2 * PATIENCE), "the pair does not end")
        outcome = ours.recv()
        check(isinstance(outcome, tuple), outcome)
        if outcome[1] > MOST_DELAY:
            problems.append(f"the pair: {outcome[1]:.2f} s for a round trip")
        if after > before:
            problems.append(f"{after} descriptors instead of {before}")
        check(not problems, f"{len(problems)} problems\n" + "\n".join(problems))
    return (
        f"hostile 3.1.1 and 5: at most {most_cpu[0]} ms of CPU for a packet ({most_cpu[1]}), the pair's "
        f"{outcome[0]} round trips took at most {outcome[1] * 1000:.0f} ms"
    )


if __name__ == "__main__":
    main(test, *sys.argv[1:])
