#!/usr/bin/env python3
"""Proves that client processes killed in mid-packet (SIGKILL) harm nobody: 1,000 of them, of both versions, with clean
and persistent sessions, while two pairs send each other events at QoS 2. The pairs lose nothing, get nothing twice and
everything in order; half packets have no effect; queues for the dead are bounded; the node leaks no descriptor.

    killed_clients.py [kills, default 1000]

Needs nothing but Python."""

import multiprocessing
import os
import select
import signal
import sys
import time

import wire
from node import Failure, Node, check, main
from wire import Event, Wire, acknowledgement

# Clients that are alive at a time, each a process.
AT_ONCE = 8
# Events of one half of a pair on their way.
WINDOW = 4
QUEUED, IN_FLIGHT = 300, 50
EXTRA = f"limits: {{ max_queued_events: {QUEUED}, max_in_flight: {IN_FLIGHT} }}\n"


class Half:
    """One of a pair: sends numbered events at QoS 2 to the other and checks those that come from it."""

    def __init__(self, node, version, name, other):
        self.wire = Wire(node, version, name)
        check(self.wire.subscribe(f"pair/{name}", 2) == 2, "the subscription was refused")
        self.name = name
        self.topic = f"pair/{other}"
        self.sent = self.completed = self.received = 0
        # Received and not yet released.
        self.open = set()

    def send_more(self):
        frames = b""
        while self.sent - self.completed < WINDOW:
            self.sent += 1
            payload = str(self.sent).encode()
            frames += wire.publish(self.wire.version, self.topic, payload, 2, self.sent % 65_535 + 1)
        if frames:
            self.wire.send(frames)

    def read(self):
        self.wire.read(1)
        check(not self.wire.closed, f"{self.name} was closed")
        answer = b""
        for first, body in self.wire.arrived:
            identifier = wire.number(body)
            if first & 0xF0 == wire.PUBLISH:
                answer += self.event(Event(self.wire.version, first, body))
            elif first == wire.PUBREC:
                check(len(body) == 2, f"PUBREC {body.hex()}")
                answer += acknowledgement(wire.PUBREL, identifier)
            elif first == wire.PUBREL:
                check(identifier in self.open, f"{self.name}: PUBREL of an unknown {identifier}")
                self.open.discard(identifier)
                answer += acknowledgement(wire.PUBCOMP, identifier)
            elif first == wire.PUBCOMP:
                self.completed += 1
                check(identifier == self.completed % 65_535 + 1, f"{self.name}: PUBCOMP {identifier} out of order")
        self.wire.arrived.clear()
        if answer:
            self.wire.send(answer)

    def event(self, event):
        check(event.qos == 2 and not event.dup, f"{self.name}: QoS {event.qos}, dup {event.dup}")
        check(event.identifier not in self.open, f"{self.name}: identifier {event.identifier} twice")
        self.open.add(event.identifier)
        check(int(event.payload) == self.received + 1, f"{self.name}: {event.payload} after {self.received}")
        self.received += 1
        return acknowledgement(wire.PUBREC, event.identifier)


def run_pair(node, versions, names, stop, result):
    """A process: the events of a pair until `stop`, then those still on their way. Sends the count or what failed."""
    try:
        one = Half(node, versions[0], names[0], names[1])
        other = Half(node, versions[1], names[1], names[0])
        result.send("ready")
        end = None
        while end is None or time.monotonic() < end:
            if end is None and stop.is_set():
                end = time.monotonic() + 60
            for half in (one, other):
                if end is None:
                    half.send_more()
            for half in (one, other):
                if select.select([half.wire.socket], [], [], 0.002)[0]:
                    half.read()
            is_done = one.received == other.completed == other.sent and other.received == one.completed == one.sent
            if end is not None and is_done and not one.open and not other.open:
                result.send(one.sent + other.sent)
                return
        lost = [(half.name, half.sent, half.completed, half.received) for half in (one, other)]
        result.send(f"not everything arrived (name, sent, completed, received): {lost}")
    except (Failure, OSError) as failure:
        result.send(f"{names}: {failure!r}")


class Victim:
    """What a client does up to the moment in which it is killed. Runs in a process of its own."""

    def __init__(self, node, version, is_persistent, kind, name):
        self.node, self.version, self.name = node, version, name
        self.is_persistent, self.kind = is_persistent, kind

    def run(self):
        whole = wire.connect(self.version, self.name, self.is_persistent)
        if self.kind == "half CONNECT":
            connection = Wire(self.node, self.version)
            connection.send(whole[: len(whole) // 2])
            return connection
        connection = Wire(self.node, self.version, self.name, persistent=self.is_persistent)
        topic = f"killed/{self.name}"
        if self.kind.startswith("half PUBLISH"):
            frame = wire.publish(self.version, topic, b"half" * 50, int(self.kind[-1]), 9)
            connection.send(frame[: len(frame) // 2])
        elif self.kind == "half SUBSCRIBE":
            frame = wire.subscribe(self.version, "killed/#", 2)
            connection.send(frame[: len(frame) // 2])
        elif self.kind == "no PUBREL":
            connection.send(wire.publish(self.version, topic, b"whole", 2, 7))
        elif self.kind == "half PUBREL":
            connection.send(wire.publish(self.version, topic, b"whole", 2, 7))
            connection.expect(wire.PUBREC)
            connection.send(acknowledgement(wire.PUBREL, 7)[:3])
        else:
            self.subscribe(connection)
        return connection

    def subscribe(self, connection):
        """Takes events of the pairs and does not acknowledge them, or only with PUBREC."""
        check(connection.subscribe("pair/#", 2) == 2, "the subscription was refused")
        end = time.monotonic() + 60
        while time.monotonic() < end and not connection.closed:
            for first, body in connection.arrived:
                if first == wire.PUBREL:
                    # It acknowledged this one in an earlier life, and does not complete it now either.
                    return
                if first & 0xF0 == wire.PUBLISH:
                    if self.kind == "no PUBCOMP":
                        event = Event(self.version, first, body)
                        connection.send(acknowledgement(wire.PUBREC, event.identifier))
                    return
            connection.read(1)
        raise Failure("no event of the pairs")


KINDS = [
    "half CONNECT", "half PUBLISH 0", "half PUBLISH 1", "half PUBLISH 2", "half SUBSCRIBE", "no PUBREL", "half PUBREL",
    "no PUBREC", "no PUBCOMP",
]


def victims(node, count):
    """In turn all kinds, versions and sessions; three names of each, so sessions are found again by the next life."""
    for place in range(count):
        kind = KINDS[place % len(KINDS)]
        turn = place // len(KINDS)
        version, is_persistent = (4, 5)[turn % 2], turn // 2 % 2 == 1
        session = "kept" if is_persistent else "clean"
        name = f"{kind.replace(' ', '-')}-{version}-{session}-{turn // 4 % 3}"
        yield Victim(node, version, is_persistent, kind, name)


def spawn(victim):
    """Forks the client; the pipe carries one byte when it has written what it had to write."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader, victim
    word, connection = b"x", None
    try:
        connection = victim.run()
    except BaseException as failure:  # Nothing of the child may go on in the parent's code.
        word = repr(failure).encode()
    os.write(writer, word)
    while True:
        signal.pause()  # With `connection` still open.


def kill_them(node, count):
    """Kills `count` clients; what they could not do is a failure."""
    all_victims = list(victims(node, count))
    for start in range(0, count, AT_ONCE):
        children = [spawn(victim) for victim in all_victims[start : start + AT_ONCE]]
        words = []
        for child, reader, victim in children:
            words.append(f"{victim.name}: {os.read(reader, 1_000).decode()}")
            os.close(reader)
            os.kill(child, signal.SIGKILL)
        for child, _, _ in children:
            os.waitpid(child, 0)
        failed = [word for word in words if not word.endswith(": x")]
        check(not failed, "; ".join(failed))
    return all_victims


def check_witness(witness, all_victims):
    """Half packets had no effect. A publish of a session that was kept counts once, however often it was repeated."""
    check(witness.ping(), "the witness was closed")
    seen = {}
    for event in witness.events():
        check(event.payload == b"whole", f"half a packet was delivered: {event.topic}")
        seen[event.topic[len("killed/") :]] = seen.get(event.topic[len("killed/") :], 0) + 1
    publishers = [victim for victim in all_victims if victim.kind == "half PUBREL"]
    for name in {victim.name for victim in publishers}:
        lives = sum(victim.name == name for victim in publishers)
        expected = 1 if "kept" in name else lives
        check(seen.get(name, 0) == expected, f"{name}: {seen.get(name, 0)} deliveries instead of {expected}")
    for name, count in seen.items():
        check("kept" not in name or count == 1, f"{name}: {count} deliveries of one QoS 2 publish")
    return sum(seen.values())


def check_queues(node, all_victims):
    """Comes back as each client with a kept subscription: what waited is bounded, in order, each event once."""
    kept = {v.name: v for v in all_victims if v.is_persistent and v.kind in ("no PUBREC", "no PUBCOMP")}
    most = 0
    for name, victim in kept.items():
        connection = Wire(node, victim.version, name, persistent=True)
        check(connection.session_present, f"{name}: the session is gone")
        numbers, count = {}, 0
        # Some may have come along with CONNACK.
        while connection.arrived or connection.read(0.3 if count else 60):
            answer = b""
            for first, body in connection.arrived:
                if first & 0xF0 == wire.PUBLISH:
                    event = Event(victim.version, first, body)
                    last = numbers.get(event.topic, 0)
                    check(int(event.payload) > last, f"{name}: {event.topic} {event.payload} after {last}")
                    numbers[event.topic] = int(event.payload)
                    answer += acknowledgement(wire.PUBREC, event.identifier)
                    count += 1
                elif first == wire.PUBREL:
                    answer += acknowledgement(wire.PUBCOMP, wire.number(body))
            connection.arrived.clear()
            if answer:
                connection.send(answer)
        check(not connection.closed, f"{name} was closed")
        check(0 < count <= QUEUED + IN_FLIGHT, f"{name}: {count} events waited")
        most = max(most, count)
        connection.close()
    return most


def test(count):
    with Node(extra=EXTRA) as node:
        # The pairs are processes: the killer forks and must have no threads.
        stop = multiprocessing.get_context("fork").Event()
        pairs = []
        for versions, names in (((4, 5), ("a", "b")), ((5, 5), ("c", "d"))):
            ours, theirs = multiprocessing.Pipe()
            arguments = (node, versions, names, stop, theirs)
            process = multiprocessing.get_context("fork").Process(target=run_pair, args=arguments, daemon=True)
            process.start()
            pairs.append((process, ours))
        for _, ours in pairs:
            check(ours.poll(60), "a pair did not start")
            check(ours.recv() == "ready", "a pair did not start")
        witness = Wire(node, 5, "witness")
        witness.subscribe("killed/#", 0)
        before = node.descriptors()
        all_victims = kill_them(node, count)
        end = time.monotonic() + 60
        while node.descriptors() > before and time.monotonic() < end:
            time.sleep(0.02)
        check(node.descriptors() <= before, f"{node.descriptors()} descriptors instead of {before}")
        check(node.counters()["connections"] == 5, f"{node.counters()['connections']} connections instead of 5")
        stop.set()
        sent = 0
        for process, ours in pairs:
            check(ours.poll(90), "a pair does not end")
            outcome = ours.recv()
            check(isinstance(outcome, int), outcome)
            sent += outcome
            process.join(5)
        seen = check_witness(witness, all_victims)
        most = check_queues(node, all_victims)
        witness.close()
    return (
        f"killed clients: {count} killed in mid-packet, {sent} events at QoS 2 between the pairs exactly once and in "
        f"order, {seen} whole ones of the killed, at most {most} waited for one of them"
    )


if __name__ == "__main__":
    main(test, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
