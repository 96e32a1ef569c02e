"""Proves what docs/bridge.md says of bridges when something fails: the session that is kept; mosquitto killed and the
node killed while events flow, with what is lost counted; brokers that misbehave or say nothing; queues that are
full.

    bridge_faults.py [NAME of a part…]

Run it with the interpreter that python.sh prints."""

import collections
import contextlib
import socket
import threading
import time

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bridging import VERSIONS, bridge, brief, connected, got, publisher, reload, run, section, seen, subscriber, topic
from mosquitto import Mosquitto
from node import Node, check, main, packet, take_packets, text
from secure import is_, until


def difference(wanted, numbers):
    """In a few words, how one list of numbers is not the other."""
    counts = collections.Counter(numbers)
    return {"count": len(numbers), "twice": sorted(number for number in counts if counts[number] > 1),
            "missing": sorted(set(wanted) - set(numbers)),
            "falls after": [pair for pair in zip(numbers, numbers[1:]) if pair[0] >= pair[1]]}


def session():
    """What is published at the broker while the node is away waits there; what is published at the node while the
    broker is away waits here: guaranteed events, all of them, in order."""
    topics = [topic("in/#", "in"), topic("out/#", "out")]
    for version in VERSIONS:
        with Mosquitto() as broker, Node(extra=section(bridge(broker, topics, version=version))) as node:
            connected(node)
            broker.kill()
            until(lambda: seen(node)["state"] != "connected", "still connected")
            client = publisher(node)
            for number in range(500):
                client.publish(f"out/{number % 2}", str(number), 1 + number % 2)
            client.publish("out/direct", b"lost", 0)
            client.publish_settled("out/0", b"500", 1)
            until(lambda: seen(node)["queuedEvents"] == 501, lambda: f"501 are to wait: {brief(node)}")
            is_("direct ones", 1, seen(node)["droppedOut"]["disconnected"])
            check("nextAttemptSeconds" in seen(node) or seen(node)["state"] == "connecting", "no next attempt")
            # The broker's clients come first.
            broker_up = threading.Thread(target=broker.start)
            broker_up.start()
            broker_up.join()
            # Mosquitto 2.0.11 overtakes itself at a subscriber with QoS 1 or 2 that has more than 20 of them under way:
            # what came in in order (by a capture) goes out otherwise. At one with QoS 0 it keeps the order.
            watcher = subscriber(broker, "out/#", qos=0)
            connected(node)
            found = got(watcher, 501)
            for parity in (0, 1):
                numbers = [int(payload) for topic_, payload in found if topic_ == f"out/{parity}"]
                # Mosquitto may have been quicker than its subscriber: what came is the end of what was sent.
                wanted = list(range(parity, 501, 2))
                is_(f"out, {difference(wanted, numbers)}", wanted[len(wanted) - len(numbers):], numbers)
            until(lambda: seen(node)["queuedEvents"] == 0, "still waiting")
            is_("events out", 501, seen(node)["eventsOut"])
            node.kill()
            client = publisher(broker)
            for number in range(500):
                client.publish("in/a", str(number), 1 + number % 2).wait_for_publish(10)
            node.start()
            watcher = subscriber(node, "in/#")
            connected(node)
            until(lambda: seen(node)["eventsIn"] == 500, lambda: f"in: {brief(node)}")


def flow(stop, client, topic_, qos, sent, window=None):
    """Publishes until told to stop. With `window` no more are under way: a mosquitto ends a connection with more than
    20 of QoS 2."""
    number = 0
    while not stop.is_set():
        information = client.publish(topic_, str(number), qos)
        if window and number >= window:
            sent[number - window][1].wait_for_publish(20)
        sent.append((number, information))
        number += 1
        time.sleep(0.002)


def broker_killed():
    """mosquitto is killed three times while events flow both ways. Out: every event that the node has taken arrives at
    the broker, a guaranteed one twice at worst. In: every event that mosquitto has acknowledged and written down
    arrives."""
    topics = [topic("in/#", "in"), topic("out/#", "out")]
    told = []
    for qos in (1, 2):
        with Mosquitto() as broker, Node(extra=section(bridge(broker, topics))) as node:
            connected(node)
            stop, sent = threading.Event(), []
            worker = threading.Thread(target=flow, args=(stop, publisher(node), "out/a", qos, sent), daemon=True)
            worker.start()
            arrived = collections.Counter()
            for _ in range(3):
                watcher = subscriber(broker, "out/#", name="watcher", clean=False,
                                     properties=expiry()) if broker.process.poll() is None else None
                time.sleep(1)
                broker.kill()
                arrived.update(int(message.payload) for message in watcher.received)
                time.sleep(0.3)
                broker.start()
            watcher = subscriber(broker, "out/#", name="watcher", clean=False, properties=expiry())
            connected(node)
            time.sleep(1)
            stop.set()
            worker.join()
            until(lambda: seen(node)["queuedEvents"] == 0, lambda: f"still waiting: {brief(node)}", 30)
            time.sleep(0.5)
            arrived.update(int(message.payload) for message in watcher.received)
            state = seen(node)
            is_("settled", len(sent), state["eventsOut"] + sum(state["droppedOut"].values()))
            is_("dropped", 0, sum(state["droppedOut"].values()))
            missing = [number for number, _ in sent if number not in arrived]
            twice = sum(1 for count in arrived.values() if count > 1)
            # All were acknowledged by the broker; what it had not written down or sent on when it was killed is its
            # own.
            told.append(f"QoS {qos}: {len(sent)} out, {len(missing)} lost by the killed broker, {twice} twice")
    return "; ".join(told)


def expiry(seconds=3600):
    found = Properties(PacketTypes.CONNECT)
    found.SessionExpiryInterval = seconds
    return found


def stale(broker, client_id):
    """Lets the broker have as many events of QoS 2 under way in a session as it takes at once, none of which will ever
    be released: what a mosquitto that was killed may be left with."""
    connect = text("MQTT") + b"\x05\x00\x00\x3c\x05\x11\x00\x00\x0e\x10" + text(client_id)
    with socket.create_connection(("127.0.0.1", broker.port), 5) as connection:
        connection.sendall(packet(0x10, connect))
        for number in range(20):
            connection.sendall(packet(0x34, text("stale") + (1000 + number).to_bytes(2, "big") + b"\x00"))
        buffer, answers = bytearray(), []
        while len(answers) < 21:
            data = connection.recv(4096)
            check(data, f"mosquitto ended the connection after {len(answers)} answers")
            buffer += data
            answers += [first for first, _ in take_packets(buffer)]
    is_("answers", [0x20] + 20 * [0x50], answers)


def deadlocked():
    """A broker that takes no more events in the session that it has kept: the bridge begins another one, loses nothing
    of what goes out, and subscribes anew."""
    topics = [topic("in/#", "in"), topic("out/#", "out")]
    with Mosquitto() as broker:
        stale(broker, "plant-bridge")
        with Node(extra=section(bridge(broker, topics, client_id="plant-bridge"))) as node:
            watcher = subscriber(broker, "out/#", qos=0)
            client = publisher(node)
            connected(node)
            for number in range(50):
                client.publish("out/a", str(number), 2)
            start = time.monotonic()
            until(lambda: seen(node)["eventsOut"] == 50, lambda: f"still waiting: {brief(node)}", 60)
            taken = time.monotonic() - start
            is_("out", [str(number).encode() for number in range(50)], [payload for _, payload in got(watcher, 50)])
            is_("sessions given up", 1, seen(node)["sessionsGivenUp"])
            inside = subscriber(node, "in/#")
            publisher(broker).publish_settled("in/a", b"back", 1)
            is_("in", [("in/a", b"back")], got(inside, 1))
    return f"another session after {taken:.0f} s"


def node_killed():
    """The node is killed three times while guaranteed events come in: none is lost with QoS 1, and with QoS 2 only what
    was between two of its packets."""
    told = []
    for qos in (1, 2):
        topics = [topic("in/#", "in", qos=qos)]
        with Mosquitto() as broker, Node() as node:
            plain, bridging = "", section(bridge(broker, topics))
            stop, sent = threading.Event(), []
            client = publisher(broker)
            worker = threading.Thread(target=flow, args=(stop, client, "in/a", qos, sent, 10), daemon=True)
            arrived = collections.Counter()
            node.extra = bridging
            reload(node)
            connected(node)
            first = subscriber(node, "in/#")
            worker.start()
            for life in range(4):
                # Its subscriber first, or events that wait at the broker find nobody.
                watcher = subscriber(node, "in/#")
                node.extra = bridging
                reload(node)
                connected(node)
                time.sleep(1)
                if life == 3:
                    break
                # What the node has taken it has routed, and what it has routed it has written: all that is in sockets
                # when it dies arrives.
                node.kill()
                for each in (watcher, first):
                    each.ended.wait(60)
                arrived.update({int(message.payload) for message in watcher.received + first.received})
                first.received = []
                node.extra = plain
                node.start()
            stop.set()
            worker.join()
            for _, information in sent:
                information.wait_for_publish(10)
            client.publish("in/last", b"-1", qos)
            until(lambda: any(message.topic == "in/last" for message in watcher.received), "the last is missing", 30)
            arrived.update(int(message.payload) for message in watcher.received)
            missing = [number for number, _ in sent if number not in arrived]
            twice = sum(1 for number, count in arrived.items() if number >= 0 and count > 1)
            check(qos == 2 or not missing, f"lost with QoS 1: {missing[:20]}")
            told.append(f"QoS {qos}: {len(sent)} in, {len(missing)} lost, {twice} twice")
    return "; ".join(told)


class Fake:
    """A broker that does as it is told: `answer(first, body)` for each packet, None for the usual answer."""

    def __init__(self, answer=lambda first, body: None, greeting=b"\x20\x03\x00\x00\x00"):
        self.answer, self.greeting = answer, greeting
        self.packets, self.connections = [], []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                self.connections.append(connection)
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                buffer += data
                for first, body in take_packets(buffer):
                    self.packets.append((first, body, time.monotonic()))
                    said = self.answer(first, body)
                    if said is None and first == 0x10:
                        said = self.greeting
                    if said is None and first == 0x82:
                        said = packet(0x90, body[:2] + b"\x00\x02")
                    if said is None and first == 0xC0:
                        said = b"\xd0\x00"
                    if said:
                        connection.sendall(said)

    def send(self, data):
        self.connections[-1].sendall(data)

    def close(self):
        self.server.close()
        for connection in self.connections:
            connection.close()


def five(topic_, payload, qos=0, identifier=1, properties=b""):
    middle = identifier.to_bytes(2, "big") if qos else b""
    return packet(0x30 | qos << 1, text(topic_) + middle + bytes([len(properties)]) + properties + payload)


def hostile():
    """Brokers that misbehave: what they send is dropped and counted, or the connection is lost, and nothing else."""
    fake = Fake()
    topics = [topic("#", "in"), topic("$SYS/#", "in", local="sys/")]
    with Node(extra=section(bridge(fake, topics, retry_max=1)) + "limits: { max_packet: 64KiB }\n") as node:
        connected(node)
        watcher = subscriber(node)
        deep = "/".join("x" * 200)
        fake.send(five("good", b"1") + five("$SYS/x", b"2") + five("$other", b"3") + five(deep, b"4")
                  + five("text", b"\xff\xfe", properties=b"\x01\x01") + five("big", b"x" * 70_000)
                  + five("loop", b"5", properties=b"\x26" + text("apus-bridge") + text("a node/interop b"))
                  + five("far", b"6", properties=b"\x26" + text("apus-bridge") + text("a b c d e f g h"))
                  + five("gone", b"7", properties=b"\x02\x00\x00\x00\x00")
                  + five("wild/answer", b"8", properties=b"\x08" + text("a/+"))
                  + five("end", b"9"))
        is_("taken", [("good", b"1"), ("sys/$SYS/x", b"2"), ("end", b"9")], got(watcher, 3))
        counted = seen(node)
        dropped = {reason: count for reason, count in counted["droppedIn"].items() if count}
        wanted = {"unmatched": 1, "bad_topic": 1, "bad_payload": 1, "too_large": 1, "too_far": 1, "expired": 1,
                  "bad_property": 1}
        is_("dropped", wanted, dropped)
        is_("loops", 1, counted["loopsPreventedIn"])
        told = []
        for name, data in {
            "bad UTF-8 in a topic": packet(0x30, b"\x00\x02\xc3\x28\x00x"),
            "a topic with NUL": packet(0x30, b"\x00\x03a\x00b\x00x"),
            "no topic": packet(0x30, b"\x00\x00\x00x"),
            "QoS 3": packet(0x36, text("a") + b"\x00\x01\x00"),
            "a length without end": b"\x30\xff\xff\xff\xff\xff",
            "a property too long": packet(0x30, text("a") + b"\x05\x26\x00\x50ab"),
            "a CONNECT": packet(0x10, text("MQTT") + b"\x05\x02\x00\x00\x00\x00\x00"),
            "noise": bytes(range(0xF0, 0x100)) * 8,
        }.items():
            before = seen(node)["connects"]
            fake.send(data)
            try:
                until(lambda: seen(node)["connects"] > before, f"{name}: not connected again", 8)
                told.append(f"{name}: ended")
            except Exception:
                told.append(f"{name}: stayed")
                fake.connections[-1].close()
                until(lambda: seen(node)["connects"] > before, f"{name}: not connected again", 20)
        publisher(node).publish_settled("still", b"there", 1)
        fake.close()
    return ", ".join(told)


def silent():
    """A broker that says nothing, and one that never answers TLS: the bridge gives up after 15 s, and a node ends
    although its bridges wait."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    topics = [topic("#", "both")]
    with Node(extra=section(bridge(port, topics, "mute"),
                            bridge(port, topics, "deaf", tls={"verify_name": False}),
                            bridge(1, topics, "nobody"))) as node:
        until(lambda: "refused" in (seen(node, "nobody")["lastError"] or ""), "no error")
        until(lambda: "answer" in (seen(node, "mute").get("lastError") or ""), lambda: str(seen(node, "mute")), 25)
        until(lambda: seen(node, "deaf").get("lastError"), lambda: str(seen(node, "deaf")), 10)
        start = time.monotonic()
    check(time.monotonic() - start < 15, "the node waited for its bridges")
    listener.close()
    return f"the node ended in {time.monotonic() - start:.1f} s"


def acknowledged():
    """An event is acknowledged once the node has it: while a subscriber that may hold its publishers is full, nothing
    is."""
    fake = Fake()
    with Node(extra=section(bridge(fake, [topic("#", "in")]))) as node:
        connected(node)
        watcher = subscriber(node)
        fake.send(five("a", b"1", 1, 7) + five("a", b"2", 2, 8))
        until(lambda: any(first == 0x40 for first, _, _ in fake.packets), "no PUBACK")
        until(lambda: any(first == 0x50 for first, _, _ in fake.packets), "no PUBREC")
        fake.send(packet(0x62, b"\x00\x08"))
        until(lambda: any(first == 0x70 for first, _, _ in fake.packets), "no PUBCOMP")
        is_("taken", [b"1", b"2"], [payload for _, payload in got(watcher, 2)])
        fake.close()


def full():
    """A queue that is full drops, and that is counted."""
    with Mosquitto() as broker, Node(
            extra=section(bridge(broker, [topic("#", "out")])) + "limits: { max_queued_events: 10 }\n") as node:
        connected(node)
        broker.kill()
        until(lambda: seen(node)["state"] != "connected", "still connected")
        sender = publisher(node)
        for number in range(15):
            sender.publish_settled("a", str(number), 1)
        until(lambda: (seen(node)["queuedEvents"], seen(node)["droppedOut"]["queue_full"]) == (10, 5),
              lambda: f"10 are to wait and 5 to be dropped: {brief(node)}")


PARTS = {
    "session": (session,), "deadlocked": (deadlocked,), "broker killed": (broker_killed,),
    "node killed": (node_killed,),
    "acknowledged": (acknowledged,), "hostile": (hostile,), "silent": (silent,), "full": (full,),
}


main(lambda: run("bridge_faults", PARTS, "bridges when brokers and nodes fail"))
