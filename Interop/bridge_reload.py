"""Proves what docs/bridge.md says of SIGHUP: bridges that are changed while publishers on several lanes publish lose
nothing, whether their topics stay or not; one that is corrected sends the retained events; those that could not be
started or changed are tried again, and what waits in them goes on.

    bridge_reload.py [NAME of a part…]

Run it with the interpreter that python.sh prints."""

import collections
import pathlib
import socket
import tempfile
import threading
import time

import wire
from authority import Authority
from bridging import bridge, brief, connected, got, publisher, reload, run, section, seen, subscriber, topic
from mosquitto import Mosquitto, free_port
from node import Node, check, main
from secure import is_, until

LIMITS = "limits: { max_queued_events: 1000000, max_queued: 1GiB }\n"
WINDOW = 64


class Publisher(threading.Thread):
    """Publishes numbers with QoS 1 as fast as it is let, until told to stop; `count` are acknowledged then."""

    def __init__(self, node, name, stop):
        super().__init__(daemon=True)
        self.name, self.stopped, self.count, self.failure = name, stop, 0, None
        self.socket = socket.create_connection(("127.0.0.1", node.port))
        self.socket.settimeout(20)
        self.socket.sendall(wire.connect(4, name))
        check(len(self.socket.recv(4)) == 4, "no CONNACK")

    def run(self):
        sent, rest = 0, 0
        try:
            while True:
                while not self.stopped.is_set() and sent - self.count < WINDOW:
                    self.socket.sendall(
                        wire.publish(4, f"out/{self.name}", str(sent).encode(), 1, sent % 60_000 + 1))
                    sent += 1
                    time.sleep(0.0003)
                if self.count == sent:
                    return
                data = self.socket.recv(65_536)
                check(data, "the node has ended the connection")
                # PUBACKs of four bytes.
                rest += len(data)
                self.count, rest = self.count + rest // 4, rest % 4
        except Exception as error:
            self.failure = error


def under_load(changes):
    """24 reloads, each of which changes the bridge, under six publishers of four lanes: every event that the node has
    acknowledged arrives."""
    with Mosquitto("max_inflight_messages 1000", kept=False) as broker:
        more = {"max_in_flight": 1_000}
        first = bridge(broker, changes[0], keep_alive=30, **more)
        with Node(lanes=4, extra=LIMITS + section(first)) as node:
            connected(node)
            watcher = subscriber(broker, "out/#", qos=0)
            stop = threading.Event()
            publishers = [Publisher(node, f"p{number}", stop) for number in range(6)]
            for each in publishers:
                each.start()
            for number in range(24):
                time.sleep(0.2)
                topics = changes[number % len(changes)]
                node.extra = LIMITS + section(bridge(broker, topics, keep_alive=31 + number, **more))
                reload(node)
            stop.set()
            for each in publishers:
                each.join(60)
                check(each.failure is None and not each.is_alive(), f"publisher {each.name}: {each.failure}")
            total = sum(each.count for each in publishers)
            until(lambda: seen(node)["queuedEvents"] == 0 and seen(node)["state"] == "connected",
                  lambda: f"still waiting: {brief(node)}", 60)
            found = collections.defaultdict(collections.Counter)
            last = -1
            while last != len(watcher.received):
                last = len(watcher.received)
                time.sleep(1)
            for message in watcher.received:
                found[message.topic][int(message.payload)] += 1
            for each in publishers:
                counts = found[f"out/{each.name}"]
                missing = [number for number in range(each.count) if number not in counts]
                check(not missing, f"{each.name}: {len(missing)} of {each.count} lost, the first {missing[:5]}")
            twice = sum(1 for counts in found.values() for count in counts.values() if count > 1)
            connects = seen(node)["connects"]
            check(connects > 3, f"{connects} connections only: the changes were not made")
            return f"{total} events, none lost, {twice} twice, {connects} connections"


def corrected():
    """A bridge that had the wrong address sends the retained events, and what has waited, once it has the right one;
    with the next change it sends none of them again."""
    topics = [topic("out/#", "out", qos=1)]
    with Mosquitto(kept=False) as broker, Node() as node:
        client = publisher(node)
        for number in range(5):
            client.publish_settled(f"out/{number}", b"retained", 1, retain=True)
        node.extra = section(bridge(free_port(), topics))
        reload(node)
        until(lambda: (seen(node) or {}).get("lastError"), "no error")
        client.publish_settled("out/waits", b"waits", 1)
        node.extra = section(bridge(broker, topics))
        reload(node)
        connected(node)
        wanted = {(f"out/{number}", b"retained") for number in range(5)}
        until(lambda: seen(node)["eventsOut"] == 6, lambda: f"not sent: {brief(node)}")
        is_("at the broker", wanted, set(got(subscriber(broker, "out/#"), 5)))
        node.extra = section(bridge(broker, topics, keep_alive=30))
        reload(node)
        until(lambda: seen(node)["connects"] == 2, "not connected again")
        client.publish_settled("out/last", b"last", 1)
        until(lambda: seen(node)["queuedEvents"] == 0, "still waiting")
        is_("sent", 7, seen(node)["eventsOut"])


RULES = """security:
  anonymous: everywhere
  access:
    - { deny: all, topics: ["out/#"], users: ["bridge:plant"] }
    - { allow: all, topics: ["#"] }
"""


def failed():
    """A bridge that the rules do not let start is tried again with SIGHUP, though its own lines are the same. So is a
    change that they refuse, and until then the bridge goes on as it was."""
    with Mosquitto(kept=False) as broker, Node(extra=RULES) as node:
        node.extra = RULES + section(bridge(broker, [topic("out/#", "out")]))
        reload(node)
        until(lambda: (seen(node) or {}).get("state") == "failed", lambda: str(brief(node)))
        node.extra = section(bridge(broker, [topic("out/#", "out")]))
        reload(node)
        connected(node)
        node.extra = RULES
        reload(node)
        until(lambda: seen(node) is None, "still there")
        node.extra = RULES + section(bridge(broker, [topic("a/#", "out")]))
        reload(node)
        connected(node)
        changed = section(bridge(broker, [topic("out/#", "out")]))
        node.extra = RULES + changed
        reload(node)
        until(lambda: "not changed" in (seen(node).get("lastError") or ""), lambda: str(brief(node)))
        check("bridge not changed" in node.log.read_text(), "not in the log")
        watcher = subscriber(broker, "#")
        client = publisher(node)
        client.publish_settled("a/x", b"1", 1)
        is_("as before", [("a/x", b"1")], got(watcher, 1))
        node.extra = changed
        reload(node)
        until(lambda: seen(node).get("lastError") is None, lambda: str(brief(node)))
        client.publish_settled("a/x", b"not asked for", 1)
        client.publish_settled("out/x", b"2", 1)
        is_("as it is now", [("a/x", b"1"), ("out/x", b"2")], got(watcher, 2))


def late_files():
    """A bridge whose authority's file comes late connects without a reload; what waited goes out."""
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority(directory)
        server = authority.server("broker")
        late = pathlib.Path(directory) / "late.pem"
        port = free_port()
        with Mosquitto(f"listener {port} 127.0.0.1\ncertfile {server.path}\nkeyfile {server.key}\n",
                       kept=False) as broker:
            plant = bridge(port, [topic("out/#", "out")], tls={"ca": str(late)}, host="localhost")
            with Node(extra=section(plant)) as node:
                until(lambda: "late.pem" in (seen(node).get("lastError") or ""), lambda: str(brief(node)))
                is_("state", "waiting", seen(node)["state"])
                watcher = subscriber(broker, "out/#")
                publisher(node).publish_settled("out/x", b"waits", 1)
                late.write_bytes(pathlib.Path(authority.path).read_bytes())
                is_("over TLS", [("out/x", b"waits")], got(watcher, 1))


SAME = [[topic("out/#", "out", qos=1)]]
OTHER = [[topic("out/+", "out", qos=1), topic("more/#", "out")], [topic("out/#", "out", qos=1)],
         [topic("#", "out", qos=1)]]
PARTS = {
    "under load": (under_load, SAME), "under load, topics as well": (under_load, OTHER), "corrected": (corrected,),
    "failed": (failed,), "files that come late": (late_files,),
}


main(lambda: run("bridge_reload", PARTS, "bridges that are changed"))
