"""Proves that bridges to Debian's mosquitto do what docs/bridge.md says: events in, out and both ways with prefixes, at
every QoS, with both versions of MQTT; properties; retained events; TLS with a certificate of its own, and what is said
when a certificate or password is wrong; access rules; SIGHUP. What goes wrong with brokers and nodes is in
bridge_faults.py, what goes in circles in bridge_loops.py, what changes under load in bridge_reload.py.

    bridge.py [NAME of a part…]

Run it with the interpreter that python.sh prints."""

import collections
import json
import os
import subprocess
import tempfile
import time

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from authority import Authority
from bridging import (VERSIONS, bridge, brief, connected, got, publisher, reload, run, section, seen, subscriber,
                      topic, user)
from mosquitto import Mosquitto, free_port
from node import Node, check, main
from secure import is_, until

BINARY = bytes(range(256))
MEBIBYTE = bytes(number * 31 % 251 for number in range(1 << 20))


def ways(version):
    """In, out and both, prefixes, every QoS, payloads of all sizes; an event that went out does not come back."""
    topics = [topic("in/#", "in", local="here/", remote="there/"),
              topic("out/+", "out", local="here/", remote="there/"), topic("both/#", "both"),
              topic("low/#", "both", qos=0)]
    with Mosquitto() as broker, Node(extra=section(bridge(broker, topics, version=version))) as node:
        connected(node)
        here, there = subscriber(node), subscriber(broker)
        at_node, at_broker = publisher(node), publisher(broker)
        wanted = collections.defaultdict(list)
        for qos in range(3):
            for payload in (b"text", b"", b"\x00", BINARY, MEBIBYTE):
                for sender, topic_, other, mapped in (
                        (at_broker, "there/in/a/b", "here", "here/in/a/b"),
                        (at_node, "here/out/x", "there", "there/out/x"),
                        (at_node, "both/x", "there", "both/x"), (at_broker, "both/y/z", "here", "both/y/z"),
                        (at_node, "low/x", "there", "low/x")):
                    sender.publish(topic_, payload, qos).wait_for_publish(20)
                    wanted[other].append((mapped, payload, 0 if topic_.startswith("low") else qos))
        at_node.publish("here/out/x/y", b"deeper than the filter", 1)
        at_broker.publish("there/other", b"not asked for", 1)
        own_here = [("here/out/x", 15), ("both/x", 15), ("low/x", 15), ("here/out/x/y", 1)]
        own_there = [("there/in/a/b", 15), ("both/y/z", 15), ("there/other", 1)]
        for client, side, own in ((here, "here", own_here), (there, "there", own_there)):
            messages = client.wait(len(wanted[side]) + sum(count for _, count in own), 40)
            counts = collections.Counter(message.topic for message in messages)
            for topic_, count in own:
                is_(f"{side}: own events of {topic_}", count, counts[topic_])
            for mapped in {entry[0] for entry in wanted[side]}:
                is_(f"{side}: {mapped}", [(payload, qos) for topic_, payload, qos in wanted[side] if topic_ == mapped],
                    [(message.payload, message.qos) for message in messages if message.topic == mapped])
        # The last acknowledgements and echoes are behind the events.
        until(lambda: seen(node)["eventsOut"] == 45 and (version == "5" or seen(node)["loopsPreventedIn"] == 30),
              lambda: str(brief(node)))
        state = seen(node)
        is_("in", 30, state["eventsIn"])
        is_("out", 45, state["eventsOut"])
        if version == "3.1.1":
            is_("echoes", 30, state["loopsPreventedIn"])
        metrics = node.metrics()
        is_("metric", 30.0, metrics['apus_bridge_events_total{bridge="plant",direction="in"}'])
        is_("metric", 1.0, metrics['apus_bridge_connected{bridge="plant"}'])


def properties():
    """All of MQTT 5 goes across, in both directions, user properties in order and with duplicates."""
    topics = [topic("#", "both", local="l/", remote="r/")]
    with Mosquitto() as broker, Node(extra=section(bridge(broker, topics))) as node:
        connected(node)
        for sender, other, before, after in ((node, broker, "l/", "r/"), (broker, node, "r/", "l/")):
            receiver = subscriber(other)
            given = Properties(PacketTypes.PUBLISH)
            given.ContentType = "text/plain; charset=utf-8"
            given.CorrelationData = BINARY
            given.ResponseTopic = before + "answers/1"
            given.PayloadFormatIndicator = 1
            given.MessageExpiryInterval = 100
            given.UserProperty = [("a", "1"), ("ä", "ö"), ("a", "2"), ("empty", ""), ("a", "1")]
            client = publisher(sender)
            client.publish_settled(before + "request", "grüße".encode(), 1, properties=given)
            message = receiver.wait(1)[0]
            is_("topic", after + "request", message.topic)
            is_("payload", "grüße".encode(), message.payload)
            is_("content type", given.ContentType, message.properties.ContentType)
            is_("correlation", BINARY, message.properties.CorrelationData)
            is_("response topic", after + "answers/1", message.properties.ResponseTopic)
            is_("format", 1, message.properties.PayloadFormatIndicator)
            check(95 <= message.properties.MessageExpiryInterval <= 100, "expiry")
            is_("user properties", given.UserProperty, [pair for pair in user(message) if pair[0] != "apus-bridge"])
            trail = [value for name, value in user(message) if name == "apus-bridge"]
            is_("trail", ["node/interop"] if sender is node else [f"127.0.0.1:{broker.port}"], trail)
            # And the answer comes back.
            requester = subscriber(sender, before + "answers/1")
            publisher(other).publish_settled(message.properties.ResponseTopic, b"answer", 1)
            is_("answer", [(before + "answers/1", b"answer")], got(requester, 1))
            receiver.disconnect()
            requester.disconnect()


def retained():
    """Retained events go across with RETAIN, those from before the bridge as well; deletions too."""
    topics = [topic("in/#", "in"), topic("out/#", "out")]
    with Mosquitto() as broker, Node() as node:
        publisher(broker).publish_settled("in/old", b"1", 1, retain=True)
        publisher(node).publish_settled("out/old", b"2", 1, retain=True)
        node.extra = section(bridge(broker, topics))
        node.kill()
        node.start()
        connected(node)
        publisher(node).publish_settled("out/old", b"2", 1, retain=True)
        publisher(broker).publish_settled("in/new", b"3", 1, retain=True)
        publisher(node).publish_settled("out/new", b"4", 1, retain=True)
        publisher(broker).publish_settled("in/gone", b"5", 1, retain=True)
        publisher(broker).publish_settled("in/gone", b"", 1, retain=True)
        time.sleep(3)
        is_("at the node", {("in/old", b"1"), ("in/new", b"3")}, set(got(subscriber(node, "in/#"), 2)))
        is_("at the broker", {("out/old", b"2"), ("out/new", b"4")}, set(got(subscriber(broker, "out/#"), 2)))
        # A broker that comes back sends none of them again.
        watcher = subscriber(node, "in/#")
        watcher.wait(2)
        before = len(watcher.received)
        connects = seen(node)["connects"]
        broker.kill()
        broker.start()
        until(lambda: seen(node)["connects"] > connects, "not connected again", 20)
        time.sleep(0.7)
        new = [message for message in watcher.received[before:]]
        return f"{len(new)} retained events came again after the broker's kill"


def retained_before():
    """Retained events that a node has when a bridge begins go out once, and come with SIGHUP as well."""
    with Mosquitto() as broker, Node() as node:
        publisher(node).publish_settled("out/a", b"1", 1, retain=True)
        node.extra = section(bridge(broker, [topic("out/#", "out")]))
        reload(node)
        connected(node)
        is_("at the broker", [("out/a", b"1")], got(subscriber(broker, "out/#"), 1))
        found = subscriber(broker, "out/#").wait(1)[0]
        check(found.retain, "without RETAIN")


def tls():
    """TLS with an authority and a certificate of the bridge's own; and what the log says when something is wrong."""
    with tempfile.TemporaryDirectory() as directory:
        authority, other = Authority(directory), Authority(directory, "other")
        server, stranger = authority.server("broker"), other.server("stranger")
        named = authority.server("named", hosts=["broker.example"])
        client = authority.client("plant")
        port, bare_name = free_port(), free_port()
        extra = (f"listener {port} 127.0.0.1\ncafile {authority.path}\ncertfile {server.path}\nkeyfile {server.key}\n"
                 f"require_certificate true\nuse_identity_as_username true\n"
                 f"listener {bare_name} 127.0.0.1\ncafile {authority.path}\ncertfile {named.path}\n"
                 f"keyfile {named.key}\n")
        good = {"ca": str(authority.path), "certificate": str(client.path), "key": str(client.key)}
        with Mosquitto(extra) as broker:
            topics = [topic("#", "both")]
            cases = {
                "good": bridge(port, topics, "good", tls=good, host="localhost"),
                "none": bridge(port, topics, "none", tls={"ca": str(authority.path)}, host="localhost"),
                "wrong": bridge(port, topics, "wrong", tls={"ca": str(other.path)}, host="localhost"),
                "named": bridge(bare_name, topics, "named", tls={"ca": str(authority.path)}, host="localhost"),
                "unverified": bridge(bare_name, [topic("u/#", "in")], "unverified", host="localhost",
                                     tls={"ca": str(authority.path), "verify_name": False}),
                "plain": bridge(broker.port, topics, "plain", tls={"ca": str(authority.path)}, host="localhost"),
                "missing": bridge(port, topics, "missing", tls={"ca": directory + "/nothing.pem"}),
                "unspoken": bridge(port, topics, "unspoken", host="localhost"),
            }
            with Node(extra=section(*cases.values())) as node:
                connected(node, "good", "unverified")
                receiver = subscriber(broker, "over")
                publisher(node).publish_settled("over", b"tls", 1)
                is_("over TLS", [("over", b"tls")], got(receiver, 1))
                wanted = {"none": "certificate", "wrong": "certificate", "named": "name", "plain": "TLS",
                          "missing": "nothing.pem", "unspoken": "lost"}
                for name, word in wanted.items():
                    until(lambda: word in (seen(node, name).get("lastError") or ""),
                          lambda: f"{name}: {brief(node, name)}")
                check("plant" in broker.log(), "the certificate's name is not the user")
                return "; ".join(f"{name}: {seen(node, name)['lastError']}" for name in wanted)


def login():
    """User and password, the password from a variable; a wrong one is said clearly and never written down."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mosquitto_passwd", "-b", "-c", directory + "/users", "anna", "secret of anna"], check=True)
        os.chmod(directory + "/users", 0o644)
        os.environ["BRIDGE_PASSWORD"] = "secret of anna"
        told = []
        for version in VERSIONS:
            with Mosquitto(f"password_file {directory}/users", anonymous=False) as broker:
                topics = [topic("#", "both")]
                cases = [bridge(broker, topics, "good", user="anna", password="${BRIDGE_PASSWORD}", version=version),
                         bridge(broker, topics, "wrong", user="anna", password="guess-what", version=version),
                         bridge(broker, topics, "nobody", version=version)]
                with Node(extra=section(*cases)) as node:
                    connected(node, "good")
                    for name, word in (("wrong", "user 'anna'"), ("nobody", "without a user name")):
                        until(lambda: word in (seen(node, name).get("lastError") or ""),
                              lambda: f"{name}: {brief(node, name)}")
                        until(lambda: f'"{name}"' in node.log.read_text() and word in node.log.read_text(),
                              "not in the log")
                    check("guess-what" not in node.log.read_text() and "secret of anna" not in node.log.read_text(),
                          "a password is in the log")
                    told.append(seen(node, "wrong")["lastError"])
        return "; ".join(told)


def rules():
    """Access rules name a bridge as the user bridge:<name>."""
    extra = """security:
  anonymous: everywhere
  access:
    - { allow: all, topics: ["ok/#"], users: ["bridge:plant"] }
    - { deny: all, topics: ["#"], users: ["bridge:plant"] }
    - { allow: all, topics: ["#"] }
"""
    with Mosquitto() as broker, Node(
            extra=extra + section(bridge(broker, [topic("ok/#", "both"), topic("bad/#", "in")]),
                                  bridge(broker, [topic("bad/#", "out")], "second", client_id="second"))) as node:
        connected(node)
        receiver = subscriber(node)
        sender = publisher(broker)
        sender.publish_settled("bad/x", b"no", 1)
        sender.publish_settled("ok/x", b"yes", 1)
        is_("in", [("ok/x", b"yes")], got(receiver, 1))
        is_("refused", 1, seen(node)["droppedIn"]["not_authorized"])


def live():
    """Bridges come, change and go with SIGHUP; the others stay connected, and what waits is kept."""
    with Mosquitto() as one, Mosquitto() as two, Node() as node:
        first = bridge(one, [topic("a/#", "both")], "first")
        node.extra = section(first)
        reload(node)
        connected(node, "first")
        second = bridge(two, [topic("a/#", "out")], "second")
        two.kill()
        node.extra = section(first, second)
        reload(node)
        until(lambda: seen(node, "second")["lastError"], "no error")
        sender = publisher(node)
        for number in range(100):
            sender.publish("a/x", str(number), 1)
        sender.publish_settled("a/x", b"100", 1)
        until(lambda: seen(node, "second")["queuedEvents"] == 101,
              lambda: f"101 are to wait: {brief(node, 'second')}")
        # Another broker for the same events: what waits goes there.
        with Mosquitto() as three:
            watcher = subscriber(three, "a/#")
            node.extra = section(first, bridge(three, [topic("a/#", "out")], "second"))
            reload(node)
            connected(node, "second")
            is_("what waited", [str(number).encode() for number in range(101)],
                [payload for _, payload in got(watcher, 101)])
            is_("the first stayed", 1, seen(node, "first")["connects"])
            node.extra = ""
            reload(node)
            until(lambda: seen(node, "first") is None, "still there")
            until(lambda: "first" not in str(json.dumps(node.metrics())), "still in the metrics")
            sender.publish_settled("a/x", b"nobody", 1)
            is_("nothing more", 101, len(watcher.wait(102, 0.5)))


def memory():
    """A node without bridges is as light as before; one with an idle bridge has a thread more."""
    def weigh(extra):
        with Node(extra=extra, lanes=1) as node:
            time.sleep(1)
            fields = dict(line.split(":", 1) for line in open(f"/proc/{node.process.pid}/smaps_rollup").readlines()[1:])
            return int(fields["Rss"].split()[0]), int(fields["Anonymous"].split()[0])

    with Mosquitto() as broker:
        without, one = weigh(""), weigh(section(bridge(broker, [topic("#", "both")])))
    return f"without: {without[0]} kB, anonymous {without[1]}; with one: {one[0]} kB, anonymous {one[1]}"


PARTS = {
    "ways with MQTT 5": (ways, "5"), "ways with MQTT 3.1.1": (ways, "3.1.1"), "properties": (properties,),
    "retained": (retained,), "retained from before": (retained_before,), "TLS": (tls,), "login": (login,),
    "rules": (rules,), "live": (live,), "memory": (memory,),
}


main(lambda: run("bridge", PARTS, "bridges to mosquitto"))
