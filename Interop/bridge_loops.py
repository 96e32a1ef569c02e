"""Proves what docs/bridge.md says of loops: the triangle of brokers that loops with mosquitto, and does not with
bridges of Apus; two nodes of a mesh at one broker; what an event's trail says, true or not.

    bridge_loops.py [NAME of a part…]

Run it with the interpreter that python.sh prints."""

import collections
import contextlib
import time

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bridging import bridge, connected, got, publisher, run, section, seen, subscriber, topic
from mosquitto import Mosquitto, free_port
from node import Node, check, main
from secure import is_, until


def bridged(broker, name):
    """Waits for another mosquitto's bridge to be connected, and subscribed."""
    until(lambda: f"Sending SUBACK to {name}" in broker.log(), lambda: f"no bridge {name}: {broker.log()[-300:]}", 60)
    time.sleep(0.3)


def triangle(version=None, seconds=3):
    """Three mosquittos, bridged in a triangle with `topic # both`: copies of one event at each after some seconds."""
    ports = [free_port() for _ in range(3)]

    def link(here, there):
        more = f"bridge_protocol_version {version}\n" if version else ""
        return (f"connection to{there}\naddress 127.0.0.1:{ports[there]}\ntopic # both 0\nremote_clientid from{here}\n"
                f"try_private true\ncleansession true\nrestart_timeout 1\nnotifications false\n{more}")

    with contextlib.ExitStack() as stack:
        brokers = [stack.enter_context(Mosquitto(link(number, (number + 1) % 3), port=ports[number], kept=False))
                   for number in range(3)]
        watchers = [subscriber(broker, "t/#", qos=0) for broker in brokers]
        for number in range(3):
            bridged(brokers[(number + 1) % 3], f"from{number}")
        publisher(brokers[0]).publish("t/x", b"once", 0).wait_for_publish(5)
        time.sleep(seconds)
        return [len(watcher.received) for watcher in watchers]


def triangle_of_mosquittos():
    """It loops: that is what the others are compared with."""
    copies = triangle()
    check(min(copies) > 50, f"it does not loop: {copies}")
    return f"after 3 s each has {copies} copies of one event"


def counts_after(brokers, senders, events=10, seconds=3):
    """Publishes events at each of `senders` in turn; how often each arrives at each broker."""
    watchers = [subscriber(broker, "t/#", qos=0) for broker in brokers]
    for number in range(events):
        for index, sender in enumerate(senders):
            sender.publish(f"t/{index}", f"{index}-{number}", number % 3).wait_for_publish(10)
    for watcher in watchers:
        watcher.wait(len(senders) * events, 60)
    time.sleep(seconds)
    return [collections.Counter(message.payload.decode() for message in watcher.received) for watcher in watchers]


def triangle_through_apus(version):
    """All connections of the triangle are bridges of one node, or of a mesh: every event arrives everywhere once."""
    with contextlib.ExitStack() as stack:
        brokers = [stack.enter_context(Mosquitto(kept=False)) for _ in range(3)]
        bridges = [bridge(broker, [topic("#", "both")], f"b{number}", version=version)
                   for number, broker in enumerate(brokers)]
        node = stack.enter_context(Node(extra=section(*bridges)))
        connected(node, "b0", "b1", "b2")
        everybody = [*brokers, node]
        found = counts_after(everybody, [publisher(each) for each in everybody])
        for counts in found:
            is_("events", 40, len(counts))
            is_("copies", {1}, set(counts.values()))
        return f"40 events, each once at each of {len(everybody)}"


def one_connection_apus():
    """Two connections of the triangle are mosquitto's (MQTT 5) and the third is a node with two bridges. Mosquitto
    cannot tell that it has an event already, so there are copies; but they end."""
    ports = [free_port() for _ in range(3)]

    def link(here, there):
        return (f"connection to{there}\naddress 127.0.0.1:{ports[there]}\ntopic # both 0\nremote_clientid from{here}\n"
                f"try_private true\ncleansession true\nrestart_timeout 1\nnotifications false\n"
                f"bridge_protocol_version mqttv50\n")

    with contextlib.ExitStack() as stack:
        configs = [link(0, 1), link(1, 2), ""]
        brokers = [stack.enter_context(Mosquitto(config, port=ports[number], kept=False))
                   for number, config in enumerate(configs)]
        bridges = [bridge(brokers[number], [topic("#", "both")], f"b{number}") for number in (0, 2)]
        node = stack.enter_context(Node(extra=section(*bridges)))
        connected(node, "b0", "b2")
        bridged(brokers[1], "from0")
        bridged(brokers[2], "from1")
        everybody = [*brokers, node]
        found = counts_after(everybody, [publisher(each) for each in everybody])
        again = [sum(counts.values()) for counts in found]
        most = max(max(counts.values()) for counts in found)
        for counts in found:
            is_("events", 40, len(counts))
        check(most <= 4, f"more copies than there are ways: {most}")
        return f"copies of 40 events: {again}, of one at most {most}"


def mesh(version):
    """Two nodes of a mesh at one broker, in one group: every event crosses once, and none comes back. Then one of them
    goes, and the other does it all."""
    if version == "3.1.1":
        topics = [topic("in/#", "in"), topic("out/#", "out")]
    else:
        topics = [topic("#", "both")]
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Mosquitto())
        port = free_port()
        more = {"version": version, "group": "pair"}
        one = stack.enter_context(Node(extra=f'mesh: {{ listen: "127.0.0.1:{port}" }}\n'
                                       + section(bridge(broker, topics, client_id="one", **more))))
        two = stack.enter_context(Node(extra=f'mesh: {{ links: [{{ to: "127.0.0.1:{port}" }}] }}\n'
                                       + section(bridge(broker, topics, client_id="two", **more))))
        connected(one)
        connected(two)
        time.sleep(3)
        watchers = {"one": subscriber(one), "two": subscriber(two), "broker": subscriber(broker)}
        time.sleep(3)
        senders = {"out/1": publisher(one), "out/2": publisher(two), "in/3": publisher(broker)}
        for number in range(100):
            for topic_, sender in senders.items():
                sender.publish(topic_, str(number), 1)
        told = []
        for name, watcher in watchers.items():
            counts = collections.Counter((message.topic, message.payload) for message in watcher.wait(300))
            is_(f"{name}: events", 300, len(counts))
            is_(f"{name}: copies", {1}, set(counts.values()))
        told.append(f"in by {seen(one)['eventsIn']} and {seen(two)['eventsIn']}, "
                    f"out by {seen(one)['eventsOut']} and {seen(two)['eventsOut']}")
        return "; ".join(told)


def origin():
    """What a node of a mesh took from a broker, another one does not give to it; by whatever protocol it went on."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Mosquitto())
        port = free_port()
        one = stack.enter_context(Node(extra=f'mesh: {{ listen: "127.0.0.1:{port}" }}\n'
                                       + section(bridge(broker, [topic("#", "in")], version="3.1.1", client_id="one"))))
        two = stack.enter_context(Node(extra=f'mesh: {{ links: [{{ to: "127.0.0.1:{port}" }}] }}\n'
                                       + section(bridge(broker, [topic("#", "out")], version="3.1.1",
                                                        client_id="two"))))
        connected(one)
        connected(two)
        time.sleep(3)
        watcher, local = subscriber(broker), subscriber(two)
        sender = publisher(broker)
        for number in range(50):
            sender.publish("a", str(number), 1)
        is_("over the mesh", 50, len(local.wait(50)))
        is_("at the broker", 50, len(watcher.wait(51, 2)))
        is_("kept back", 50, seen(two)["loopsPreventedOut"])


def forgery():
    """The trail of an event is taken as it is, whoever wrote it: at worst an event stays where it is."""
    with Mosquitto() as broker, Node(extra=section(bridge(broker, [topic("#", "both")]))) as node:
        connected(node)
        given = Properties(PacketTypes.PUBLISH)
        given.UserProperty = [("apus-bridge", f"127.0.0.1:{broker.port}"), ("apus-bridge", "x" * 60_000)]
        watcher = subscriber(broker)
        sender = publisher(node)
        sender.publish_settled("kept", b"1", 1, properties=given)
        given = Properties(PacketTypes.PUBLISH)
        given.UserProperty = [("apus-bridge", " ".join("abcdefghijkl"))]
        sender.publish_settled("far", b"1", 1, properties=given)
        sender.publish_settled("goes", b"2", 1)
        is_("at the broker", [("goes", b"2")], got(watcher, 1))
        state = seen(node)
        is_("counted", (1, 1), (state["loopsPreventedOut"], state["droppedOut"]["too_far"]))


PARTS = {
    "forgery": (forgery,), "triangle of mosquittos": (triangle_of_mosquittos,),
    "triangle through Apus, MQTT 5": (triangle_through_apus, "5"),
    "triangle through Apus, MQTT 3.1.1": (triangle_through_apus, "3.1.1"),
    "triangle with one connection of Apus": (one_connection_apus,), "mesh": (mesh, "5"),
    "mesh with MQTT 3.1.1": (mesh, "3.1.1"), "origin": (origin,),
}


main(lambda: run("bridge_loops", PARTS, "bridges and loops"))
