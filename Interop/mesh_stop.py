#!/usr/bin/env python3
"""A node of three gets SIGTERM while twenty clients with sessions are connected to it and events come all the time. The
clients go to the other nodes at once: every one finds its session there, and no guaranteed event is missing or out of
order. Then how long a node takes to stop when there is nothing to wait for, and when nobody comes; that groups of
webhooks and of bridges lose nothing when one of their nodes stops; and that a stop keeps to its time, and takes nothing
more from publishers, whoever does not answer."""

import collections
import contextlib
import http.server
import json
import pathlib
import signal
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "mesh"))

import meshnet  # noqa: E402
import wire  # noqa: E402
from bridging import bridge, connected, section, subscriber, topic  # noqa: E402
from fair import fair_end  # noqa: E402
from mosquitto import Mosquitto, free_port  # noqa: E402
from node import Node, check, main  # noqa: E402

CLIENTS, RATE = 10, 100


class Keeper(threading.Thread):
    """A client with a session. When its node sends it away it goes to the next one, at once."""

    def __init__(self, mesh, place):
        super().__init__(daemon=True)
        self.homes = [mesh["a"], mesh["b" if place % 2 else "c"]]
        self.name, self.is_over = f"keeper-{place}", False
        self.events, self.waited, self.found = {}, 0.0, None
        self.client = wire.Wire(self.homes[0], 5, self.name, persistent=True)
        self.client.subscribe("stop/#", 1)

    def run(self):
        while not self.is_over:
            self.read()
            if self.client.closed and len(self.homes) > 1:
                self.homes.pop(0)
                began = time.monotonic()
                self.client = wire.Wire(self.homes[0], 5, self.name, persistent=True)
                self.found, self.waited = self.client.session_present, time.monotonic() - began

    def read(self):
        if not self.client.arrived:
            self.client.read(0.05)
        arrived, self.client.arrived[:] = list(self.client.arrived), []
        for first, body in arrived:
            if first & 0xF0 != wire.PUBLISH & 0xF0:
                continue
            event = wire.Event(5, first, body)
            number = struct.unpack(">I", event.payload)[0]
            seen = self.events.setdefault(event.topic, [])
            # What was sent and not acknowledged is sent again.
            if not (event.dup and number in seen[-200:]):
                seen.append(number)
            self.client.send(wire.acknowledgement(wire.PUBACK, event.identifier))


class Source(threading.Thread):
    """Publishes at a node that stays."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.client, self.topic = wire.Wire(node, 5, f"source-{node.name}"), f"stop/{node.name}"
        self.count, self.is_over = 0, False

    def run(self):
        while not self.is_over:
            self.client.send(wire.publish(5, self.topic, struct.pack(">I", self.count), 1, self.count % 60_000 + 1))
            self.client.expect(wire.PUBACK)
            self.count += 1
            time.sleep(1 / RATE)


def sessions_follow(mesh):
    keepers = [Keeper(mesh, place) for place in range(CLIENTS)]
    time.sleep(0.5)
    sources = [Source(mesh[name]) for name in "bc"]
    for thread in keepers + sources:
        thread.start()
    time.sleep(1)
    took = stop(mesh["a"])
    time.sleep(2)
    for source in sources:
        source.is_over = True
        source.join(10)
    time.sleep(1)
    for keeper in keepers:
        keeper.is_over = True
        keeper.join(10)
    found = sum(keeper.found is True for keeper in keepers)
    check(found == CLIENTS, f"of {CLIENTS} clients {found} found their sessions")
    for keeper in keepers:
        for source in sources:
            seen = keeper.events.get(source.topic, [])
            check(seen == list(range(source.count)),
                  f"{keeper.name} got {len(seen)} of {source.count}, missing "
                  f"{sorted(set(range(source.count)) - set(seen))[:10]}")
        keeper.client.close()
    waited = sorted(keeper.waited for keeper in keepers)
    events = sum(source.count for source in sources)
    print(f"  {CLIENTS} sessions and {events} events for each: all there; clients waited {waited[0] * 1000:.0f} to "
          f"{waited[-1] * 1000:.0f} ms for their sessions; the node ended after {took * 1000:.0f} ms")
    return found, events


def stop(*nodes):
    """Seconds until all have ended, on a clock that stands still while they have no processor."""
    for node in nodes:
        node.process.send_signal(signal.SIGTERM)
    took = fair_end(*(node.process for node in nodes))
    for node in nodes:
        status = node.process.returncode
        check(status == 0, f"{getattr(node, 'name', 'the node')} ended with {status}")
    return took


def times(mesh):
    """How long stopping takes where sessions cannot go anywhere, or their clients do not come."""
    nodes = [mesh[name] for name in "abc"]
    took = {"a node without sessions": stop(nodes[0])}
    nodes[0].start()
    mesh.wait()
    wire.Wire(nodes[0], 5, "absent", persistent=True).close()
    time.sleep(0.2)
    took["one whose client does not come"] = stop(nodes[0])
    nodes[0].start()
    mesh.wait()
    for node in nodes:
        wire.Wire(node, 5, f"at-{node.name}", persistent=True).close()
    time.sleep(0.2)
    took["all at once"] = stop(*nodes)
    nodes[0].start()
    wire.Wire(nodes[0], 5, "alone", persistent=True).close()
    time.sleep(0.2)
    took["one that is alone"] = stop(nodes[0])
    print("  ended after: " + ", ".join(f"{what} {seconds * 1000:.0f} ms" for what, seconds in took.items()))
    for what, most in (("a node without sessions", 0.8), ("one whose client does not come", 2.5), ("all at once", 1.5),
                       ("one that is alone", 0.8)):
        check(took[what] < most, f"{what}: {took[what]:.2f} s")


class Target:
    """Takes what webhooks send. One that hangs reads requests and never answers."""

    def __init__(self, hangs=False):
        self.payloads, taken = [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                taken.payloads.append(body)
                while hangs:
                    time.sleep(1)
                self.send_response(204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def mute_broker():
    """A broker that takes everything and says yes to CONNECT alone. Its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        connection.recv(4096)
        connection.sendall(b"\x20\x03\x00\x00\x00")
        while connection.recv(65_536):
            pass

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def webhook(port, **more):
    fields = "".join(f", {key}: {value}" for key, value in more.items())
    return ('http:\n  webhooks:\n    - { name: hook, url: "http://127.0.0.1:%d/", filters: ["out/#"]%s }\n'
            % (port, fields))


def told(node):
    """What a node that has stopped says of events that did not get where they should."""
    records = [json.loads(line) for line in node.log.read_text().splitlines() if line.startswith("{")]
    return [record for record in records if "ends with events" in record.get("message", "")]


class Flow(threading.Thread):
    """Publishes guaranteed events, one after another, until told to stop or refused."""

    def __init__(self, node, pause):
        super().__init__(daemon=True)
        self.client, self.pause = wire.Wire(node, 5, "flow"), pause
        self.count, self.last, self.is_over = 0, 0.0, False

    def run(self):
        try:
            while not self.is_over:
                payload = str(self.count).encode()
                self.client.send(wire.publish(5, "out/a", payload, 1, self.count % 60_000 + 1))
                self.client.expect(wire.PUBACK)
                self.count, self.last = self.count + 1, time.monotonic()
                time.sleep(self.pause)
        except Exception:
            # The node has ended the connection.
            pass


def groups_go_on(what, first, second, received):
    """Two nodes have a member of the group each, a third one publishes; one of the two stops."""
    with contextlib.ExitStack() as stack:
        ports = free_port(), free_port()
        one = stack.enter_context(Node(http=True, extra=f'mesh: {{ listen: "127.0.0.1:{ports[0]}" }}\n' + first))
        two = stack.enter_context(Node(http=True, extra=(
            f'mesh: {{ listen: "127.0.0.1:{ports[1]}", links: [{{ to: "127.0.0.1:{ports[0]}" }}] }}\n' + second)))
        three = stack.enter_context(Node(extra=(
            f'mesh: {{ links: [{{ to: "127.0.0.1:{ports[0]}" }}, {{ to: "127.0.0.1:{ports[1]}" }}] }}\n')))
        for node, extra in ((one, first), (two, second)):
            if "bridges:" in extra:
                connected(node)
        time.sleep(1)
        # A session whose client does not come keeps the node in the mesh for a second.
        keeper = wire.Wire(one, 5, "absent", persistent=True)
        flow = Flow(three, 0.001)
        flow.start()
        time.sleep(2)
        before = flow.count
        check(before > 100, f"only {before} events before the stop")
        took = stop(one)
        keeper.close()
        time.sleep(2)
        flow.is_over = True
        flow.join(10)
        deadline = time.monotonic() + 20
        while len(set(received())) < flow.count and time.monotonic() < deadline:
            time.sleep(0.1)
        counts = collections.Counter(received())
        missing = sorted(set(range(flow.count)) - set(counts))
        twice = sum(count - 1 for count in counts.values())
        check(not missing, f"{what}: {len(missing)} of {flow.count} missing: {missing[:5]} … {missing[-5:]}")
        print(f"  {what}: of {flow.count} events none lost, {twice} twice; the node ended after {took * 1000:.0f} ms",
              flush=True)
        left = told(one)
        for record in left:
            check(record["lost"] == "0", f"{record}")
        return took, len(left)


def groups():
    target, hanging = Target(), Target(hangs=True)

    def numbers():
        return [int(payload) for payload in list(target.payloads)]

    good = webhook(target.port, group="pair", parallelism=8)
    took, _ = groups_go_on("webhooks", good, good, numbers)
    check(took < 4, f"it took {took:.1f} s")
    target.payloads.clear()
    bad = webhook(hanging.port, group="pair", parallelism=8, timeout=60)
    _, left = groups_go_on("webhooks, one of which hangs", bad, good, numbers)
    check(left == 1, "no word of events that went to others")
    for what, port in (("bridges", None), ("bridges, one of whose brokers says nothing", mute_broker())):
        with Mosquitto(kept=False) as broker:
            topics = [topic("out/#", "out", qos=1)]
            watcher = subscriber(broker)
            _, left = groups_go_on(
                what, section(bridge(port or broker, topics, client_id="one", group="pair")),
                section(bridge(broker, topics, client_id="two", group="pair")),
                lambda: [int(message.payload) for message in list(watcher.received)])
            # One that works may have been given some while it said good-bye: those have gone to the others as well.
            check(port is None or left == 1, "no word of events that went to others")


def keeps_to_its_time():
    """A webhook's target, a bridge's broker and a client that do nothing: one time for all of them together."""
    extra = section(bridge(mute_broker(), [topic("out/#", "out", qos=1)])) + webhook(Target(hangs=True).port)
    drain = 4

    class Draining(Node):
        def configuration(self, base):
            return super().configuration(base).replace("lanes: 2 }", f"lanes: 2, drain_seconds: {drain} }}")

    with Draining(http=True, extra=extra) as node:
        connected(node)
        flow = Flow(node, 0.01)
        flow.start()
        deaf = socket.create_connection(("127.0.0.1", node.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(wire.connect(4, "deaf") + wire.subscribe(4, "big/#", 0))
        loud = wire.Wire(node, 4, "loud")
        for _ in range(40):
            loud.send(wire.publish(4, "big/a", b"z" * 200_000, 0))
        time.sleep(1)
        began = time.monotonic()
        took = stop(node)
        check(took < drain + 1, f"it took {took:.1f} s of {drain}")
        late = flow.last - began
        check(late < 2, f"acknowledged {late:.2f} s after SIGTERM")
        lost = [int(record["lost"]) for record in told(node)]
        check(len(lost) == 2 and all(0 <= count - flow.count <= 2 for count in lost),
              f"{lost} lost of {flow.count} acknowledged")
        print(f"  where nobody answers: ended after {took:.2f} s of {drain}; {lost[0]} events lost, which it says")


def test():
    links = [("a", "b"), ("b", "c"), ("c", "a")]
    with meshnet.Mesh("abc", links, lanes=2, loopback=True) as mesh:
        mesh.wait()
        found, events = sessions_follow(mesh)
        mesh["a"].start()
        mesh.wait()
        times(mesh)
    groups()
    keeps_to_its_time()
    return f"{found} sessions followed their clients from a node that stopped, with {events} events each, none lost"


if __name__ == "__main__":
    main(test)
