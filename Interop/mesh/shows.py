#!/usr/bin/env python3
"""What a mesh of real nodes is expected to show: it heals under load, sends one frame per link, knows what is wanted a
second after a restart, never loops, and a node that joined by one address stays when that one is gone.

    shows.py [ring_killed ring_stopped ring_cut ring_restarted one_frame protocols chain loops join
              retained roaming]

Needs nothing but Python and a C compiler."""

import re
import time

import scenario
import amqp_wire  # after scenario, which says where it is
import wire
from load import Load
from meshnet import AMQP, HTTP, MESH, Mesh
from node import check
from scenario import check_verdict, figures, wait_while
from wire import Wire

RING = ["a", "b", "c", "d", "e"], [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "a"), ("a", "c")]


def ring(kind, goal, rate=1000, guaranteed=200):
    """Each node of a ring of five with a chord fails in turn, under load between all of them."""
    with Mesh(*RING) as mesh:
        mesh.wait()
        load = Load(mesh)
        scenario.add_everybody(load, mesh.names, rate, 0)
        scenario.add_everybody(load, mesh.names, guaranteed, 1)
        scenario.add_everybody(load, mesh.names, guaranteed, 2, version=5)
        load.start()
        wait_while(1, load)
        for name in mesh.names:
            mesh.wait_routes()
            fail(mesh, load, kind, name)
        check_verdict(figures(load.finish(), goal, mesh=mesh))
        mesh.wait(30)


def ring_killed():
    """Ring of five with a chord under load, QoS 0, 1 and 2: each node killed and started again."""
    ring("killed", 80)


def ring_stopped():
    """The same, each node stopped for 5 s."""
    ring("stopped", 600)


def ring_cut():
    """The same, all links of a node silent for 3 s."""
    ring("cut off", 600)


def ring_restarted():
    """The same, each node killed and back at once, sooner than its silence is noticed."""
    ring("restarted", 80)


def fail(mesh, load, kind, name):
    """One node fails in one way and comes back."""
    node = mesh[name]
    if kind == "killed":
        fault = load.fault(f"kill {name}", killed=name)
        node.kill()
        wait_while(2, load)
        node.start()
    elif kind == "stopped":
        fault = load.fault(f"stop {name}", stopped=name)
        node.stop()
        wait_while(5, load)
        node.go_on()
    elif kind == "cut off":
        fault = load.fault(f"cut off {name}", stopped=name)
        for link in mesh.links_of(name):
            link.silence()
        wait_while(3, load)
        for link in mesh.links_of(name):
            link.silence(0)
    else:
        fault = load.fault(f"restart {name}", killed=name)
        node.restart(after=0.05)
    load.over(fault)
    wait_while(2, load)


def one_frame():
    """500 subscribers on one node, a publisher three hops away: one frame on each link of the path, none elsewhere."""
    names = ["a", "b", "c", "d", "x"]
    with Mesh(names, [("a", "b"), ("b", "c"), ("c", "d"), ("b", "x"), ("x", "c", {"cost": 50})]) as mesh:
        mesh.wait()
        subscribers = [Wire(mesh["d"], 4, f"s{number}") for number in range(500)]
        for place, subscriber in enumerate(subscribers):
            check(subscriber.subscribe(("show/one", "show/+", "show/#")[place % 3], 0) == 0, "refused")
        publisher = Wire(mesh["a"], 4, "publisher")
        wait_filters(mesh, "d", 1)
        before = frames(mesh)
        count = 100
        for number in range(count):
            publisher.send(publish("show/one", str(number)))
            # One at a time: a frame may carry a run of events.
            mesh.until(lambda n=number: subscribers[0].read(0.01) and False or len(subscribers[0].arrived) > n, 5,
                       f"event {number} does not come", pause=0)
        for subscriber in subscribers:
            mesh.until(lambda s=subscriber: len(s.arrived) >= count or s.read(0.01) and False, 10,
                       lambda s=subscriber: f"{len(s.arrived)} of {count} events", pause=0)
        time.sleep(0.3)
        check(all(len(s.events()) == count for s in subscribers), "too many events")
        after = frames(mesh)
        spent = {way: after[way] - before[way] for way in after if after[way] != before[way]}
        check(spent == {("a", "b"): count, ("b", "c"): count, ("c", "d"): count}, f"frames: {spent}")
        print(f"    {count} events for 500 subscribers: {spent}")


def publish(topic, payload):
    return wire.publish(4, topic, payload.encode())


def frames(mesh):
    """Frames of events that crossed each link, counted where they arrive: (from, to)."""
    return {
        (link["peer"], name): link["framesIn"] for name in mesh.names for link in mesh[name].topology().raw["links"]
    }


def wait_filters(mesh, name, least, seconds=5, at=None):
    """Until others know so many filters of a node; the seconds that took."""
    nodes = at or [other for other in mesh.names if other != name]
    return mesh.until(lambda: all(mesh[other].topology().filters(name) >= least for other in nodes), seconds,
                      lambda: f"filters of {name}: {[(o, mesh[o].topology().filters(name)) for o in nodes]}")


def protocols():
    """A publisher of MQTT, QoS 1, and subscribers of every protocol three nodes away; nodes between are killed."""
    # Ring: a-b-c-d and a-e-c: two ways from a to d's neighbour c.
    with Mesh(["a", "b", "c", "d", "e"], [("a", "b"), ("b", "c"), ("c", "d"), ("a", "e"), ("e", "c")]) as mesh:
        mesh.wait()
        ears = [ear(mesh["d"]) for ear in (listen_mqtt, listen_sse, listen_websocket, listen_amqp)]
        publisher = Wire(mesh["a"], 5, "publisher")
        wait_filters(mesh, "d", 1)
        time.sleep(0.5)
        count = 600
        for number in range(count):
            publisher.send(wire.publish(5, "show/protocols", f"n{number};".encode(), 1, number + 1))
            time.sleep(0.01)
            if number in (150, 400):
                killed = mesh["b" if number == 150 else "e"]
                killed.kill()
            elif number == 300:
                mesh["b"].start()
                mesh.wait()
        for ear in ears:
            mesh.until(lambda e=ear: len(e.read()) >= count, 10, lambda e=ear: f"{e.name}: {len(e.numbers)} of {count}")
        time.sleep(0.5)
        for ear in ears:
            ear.read()
            check(ear.numbers == list(range(count)), f"{ear.name}: lost, doubled or out of order: {ear.odd()}")
        print(f"    {count} events each by {', '.join(ear.name for ear in ears)}, b and e killed on the way")
        mesh["e"].start()


class Ear:
    """A subscriber of some protocol: a socket in whose bytes the payloads `n123;` stand."""

    def __init__(self, name, connection):
        self.name, self.socket, self.rest, self.numbers = name, connection, b"", []

    def read(self):
        self.socket.settimeout(0.01)
        try:
            while data := self.socket.recv(1 << 18):
                self.rest += data
        except TimeoutError:
            pass
        end = self.rest.rfind(b";") + 1
        self.numbers += [int(number) for number in re.findall(rb"n(\d+);", self.rest[:end])]
        self.rest = self.rest[end:]
        return self.numbers

    def odd(self):
        """The first few places where it does not go on by one."""
        return [pair for pair in zip(self.numbers, self.numbers[1:]) if pair[1] != pair[0] + 1][:5]


def listen_mqtt(node):
    client = Wire(node, 4, "ear")
    check(client.subscribe("show/protocols", 0) == 0, "refused")
    return Ear("MQTT", client.socket)


def expect(connection, words, request):
    connection.sendall(request)
    answer = b""
    while words not in answer:
        more = connection.recv(4096)
        check(more, f"{words} does not come: {answer}")
        answer += more


def listen_sse(node):
    connection = node.dial(HTTP)
    expect(connection, b" 200 ", b"GET /events?filter=show/protocols HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return Ear("Server-Sent Events", connection)


def listen_websocket(node):
    connection = node.dial(HTTP)
    expect(connection, b" 101 ", b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Protocol: apus.v1.json\r\n\r\n")
    words = b'{"op":"subscribe","id":1,"filter":"show/protocols"}'
    # A mask of zeros leaves them as they are.
    expect(connection, b'"ok"', bytes([0x81, 0x80 | len(words), 0, 0, 0, 0]) + words)
    return Ear("WebSocket", connection)


def listen_amqp(node):
    connection = node.dial(AMQP)
    expect(connection, b"AMQP\0\1\0\0", amqp_wire.HEADER + amqp_wire.open_frame("ear") + amqp_wire.begin_frame()
           + amqp_wire.attach_receiver("r", 0, "show/protocols") + amqp_wire.flow_frame(0, 0, 1_000))
    time.sleep(0.5)
    return Ear("AMQP", connection)


def retained():
    """Retained events set and deleted on both sides of a partition: afterwards both have the same, the newest."""
    with Mesh(["a", "b", "c"], [("a", "b"), ("b", "c")]) as mesh:
        mesh.wait()
        a, c = (Wire(mesh[name], 5, f"writer-{name}") for name in ("a", "c"))

        def put(client, topic, payload):
            client.send(b"\x33" + wire.publish(5, topic, payload, 1, 1)[1:])
            check(client.take(wire.PUBACK, 5) is not None, "no PUBACK")

        def seen(name):
            """What a new wildcard subscription gets."""
            client = Wire(mesh[name], 5, f"reader-{name}")
            check(client.subscribe("keep/#", 1) == 1, "refused")
            while client.read(0.3):
                pass
            found = {event.topic: event.payload for event in client.events()}
            client.close()
            return found

        for topic in ("keep/old", "keep/gone", "keep/both"):
            put(a, topic, b"first")
        mesh.until(lambda: all(len(seen(name)) == 3 for name in mesh.names), 10,
                   lambda: f"not everywhere: {[seen(name) for name in mesh.names]}")
        link = mesh.link("b", "c")
        link.refuse(True)
        mesh.until(lambda: "c" not in mesh["a"].topology().reachable, 5, "no partition")
        put(a, "keep/both", b"from a")
        put(a, "keep/left", b"of a")
        time.sleep(0.05)
        put(c, "keep/both", b"from c, later")
        put(c, "keep/right", b"of c")
        put(c, "keep/gone", b"")
        expected = {"keep/old": b"first", "keep/both": b"from c, later", "keep/left": b"of a", "keep/right": b"of c"}
        link.refuse(False)
        mesh.wait_routes()
        taken = mesh.until(lambda: all(seen(name) == expected for name in mesh.names), 15,
                           lambda: f"not the same: {[seen(name) for name in mesh.names]}")
        time.sleep(3)
        check(all(seen(name) == expected for name in mesh.names), f"not for long: {[seen(n) for n in mesh.names]}")
        print(f"    the same everywhere {taken * 1000:.0f} ms after the routes are back")


def roaming():
    """A client comes to another node: its old connection is closed with 0x8E, its session goes on there, in order."""
    with Mesh(["a", "b", "c"], [("a", "b"), ("b", "c")]) as mesh:
        mesh.wait()
        publisher = Wire(mesh["b"], 5, "publisher")
        number, got = 0, []

        def publish_some(count):
            nonlocal number
            for _ in range(count):
                number += 1
                publisher.send(wire.publish(5, "roam/x", str(number).encode(), 1, number))
                check(publisher.take(wire.PUBACK, 5) is not None, "no PUBACK")

        def take(client, seconds=0.5):
            while client.read(seconds):
                for event in client.events():
                    got.append(int(event.payload))
                    client.send(wire.acknowledgement(wire.PUBACK, event.identifier))

        client = Wire(mesh["a"], 5, "rover", persistent=True)
        check(client.subscribe("roam/x", 1) == 1, "refused")
        wait_filters(mesh, "a", 1)
        publish_some(20)
        take(client)
        for name in ("c", "a", "b", "c"):
            before = client
            # While nobody takes them, these wait in the session.
            publish_some(20)
            client = Wire(mesh[name], 5, "rover", persistent=True)
            check(client.session_present, f"at {name}: no session")
            before.drain(3)
            check(before.closed and before.disconnect_reason() == 0x8E,
                  f"the old connection: closed {before.closed}, reason {before.disconnect_reason()}")
            for event in before.events():
                # Sent before the move and never acknowledged: these come again.
                check(int(event.payload) > max(got), f"{event.payload} after {max(got)}")
            publish_some(20)
            take(client)
            check(sorted(set(got)) == list(range(1, number + 1)),
                  f"at {name}: lost {sorted(set(range(1, number + 1)) - set(got))[:10]}")
            check(got == sorted(got), f"at {name}: out of order {got[-50:]}")
            check(len(got) == len(set(got)), f"at {name}: doubled")
        print(f"    {number} events at four nodes in turn, each once and in order")


def chain():
    """Chain A-B-C-D: D restarted, then B, then both: what D wants is known on A within a second each time."""
    with Mesh(["a", "b", "c", "d"], [("a", "b"), ("b", "c"), ("c", "d")]) as mesh:
        mesh.wait()
        publisher = Wire(mesh["a"], 4, "publisher")
        for turn, restarted in enumerate((["d"], ["b"], ["b", "d"], ["d"], ["b"])):
            for name in restarted:
                mesh[name].kill()
            for name in restarted:
                mesh[name].start(wait=False)
            for name in restarted:
                mesh[name].wait_ready()
            topic = f"chain/{turn}"
            subscriber = Wire(mesh["d"], 4, "subscriber")
            check(subscriber.subscribe(topic, 0) == 0, "refused")
            start = time.monotonic()
            arrived = None
            while arrived is None:
                check(time.monotonic() - start < 10, f"after {restarted}: nothing arrives")
                publisher.send(publish(topic, "x"))
                arrived = subscriber.take(0x30, 0.02)
            first = time.monotonic() - start
            # Nothing of former lives: exactly what this one wants.
            mesh.until(lambda: mesh["a"].topology().filters("d") == 1, 5,
                       lambda: f"a knows {mesh['a'].topology().filters('d')} filters of d, there is 1")
            correct = time.monotonic() - start
            print(f"    restarted {'+'.join(restarted)}: first event after {first * 1000:.0f} ms, "
                  f"interest correct after {correct * 1000:.0f} ms (goal 1000)")
            subscriber.close()


def loops():
    """Triangle with every filter everywhere: one publish, one delivery."""
    names = ["a", "b", "c"]
    with Mesh(names, [("a", "b"), ("b", "c"), ("c", "a")]) as mesh:
        mesh.wait()
        clients = {name: Wire(mesh[name], 4, f"all-{name}") for name in names}
        for client in clients.values():
            check(client.subscribe("#", 2) == 2, "refused")
        for name in names:
            wait_filters(mesh, name, 1)
        for name in names:
            for qos in (0, 1, 2):
                sender = Wire(mesh[name], 4, f"from-{name}-{qos}")
                sender.send(publish_qos(f"loop/{name}/{qos}", qos))
                time.sleep(0.05)
        time.sleep(2)
        for name, client in clients.items():
            while client.read(0.2):
                pass
            topics = sorted(event.topic for event in client.events())
            expected = sorted(f"loop/{origin}/{qos}" for origin in names for qos in (0, 1, 2))
            check(topics == expected, f"{name} got {topics}")


def publish_qos(topic, qos):
    return wire.publish(4, topic, b"x", qos, 1)


def join():
    """A node with one seed address joins a mesh of five; its seed dies, and it stays joined."""
    names = ["a", "b", "c", "d", "e"]
    with Mesh(names, RING[1], loopback=True) as mesh:
        mesh.wait()
        mesh.join = "full"
        late = mesh.add_node("f", [f"{mesh['a'].address}:{MESH}"])
        everybody = set(names) | {"f"}
        joined = mesh.until(lambda: late.topology().reachable == everybody
                            and all(mesh[name].topology().reachable == everybody for name in names), 15,
                            lambda: f"f reaches {late.topology().reachable}")
        mesh.until(lambda: len(set(late.topology().up)) == 5, 15, lambda: f"f has links to {late.topology().up}")
        subscriber = Wire(late, 4, "late")
        check(subscriber.subscribe("join/#", 1) == 1, "refused")
        mesh["a"].kill()
        rest = everybody - {"a"}
        healed = mesh.until(lambda: late.topology().reachable == rest, 10,
                            lambda: f"f reaches {late.topology().reachable}")
        for name in rest - {"f"}:
            mesh.until(lambda n=name: mesh[n].topology().filters("f") >= 1, 5, f"{name} does not know what f wants")
            Wire(mesh[name], 4, f"from-{name}").send(publish_qos(f"join/{name}", 1))
        mesh.until(lambda: subscriber.read(0.05) and False or len(subscriber.arrived) >= 4, 10,
                   lambda: f"{len(subscriber.arrived)} of 4 events", pause=0)
        check(sorted(e.topic for e in subscriber.events()) == [f"join/{n}" for n in sorted(rest - {"f"})], "not those")
        print(f"    joined in {joined * 1000:.0f} ms, without its seed again in {healed * 1000:.0f} ms")
        mesh["a"].start()


SCENARIOS = {
    "ring_killed": ring_killed, "ring_stopped": ring_stopped, "ring_cut": ring_cut, "ring_restarted": ring_restarted,
    "one_frame": one_frame, "protocols": protocols, "chain": chain, "loops": loops, "join": join,
    "retained": retained, "roaming": roaming,
}

if __name__ == "__main__":
    scenario.run(SCENARIOS)
