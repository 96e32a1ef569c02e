#!/usr/bin/env python3
"""The matrix of failures with real processes: what a mesh does while links and nodes fail.

    matrix.py [P1 P2 …]

MESH_LONG=1 makes P4 and P6 as long as the design says (10 and 5 minutes). Needs nothing but Python and a C compiler."""

import os
import time

import history
import scenario
import wire  # after scenario, which says where it is
from load import Load
from meshnet import Mesh, run
from node import check
from scenario import check_verdict, everybody_to_everybody, figures, wait_while
from wire import Wire

IS_LONG = bool(os.environ.get("MESH_LONG"))
TRIANGLE = ["a", "b", "c"], [("a", "b"), ("b", "c"), ("c", "a")]


def ring(count):
    names = [chr(ord("a") + place) for place in range(count)]
    return names, [(names[place], names[(place + 1) % count]) for place in range(count)]


def p1():
    """Triangle at half load, each link in turn reset and kept down for a second."""
    with Mesh(*TRIANGLE, lanes=1) as mesh:
        mesh.wait()
        load = everybody_to_everybody(mesh, rate=1000)
        load.start()
        wait_while(1, load)
        for link in mesh.links * 2:
            # Two links down at once would cut a node off.
            mesh.wait_routes()
            fault = load.fault(f"reset {link.way}")
            link.refuse(True)
            wait_while(1, load)
            load.over(fault)
            link.refuse(False)
            wait_while(1, load)
        check_verdict(figures(load.finish(), goal=30, mesh=mesh))
        print(f"    converged again after {mesh.wait() * 1000:.0f} ms")


def p2():
    """Triangle, each link in turn silent in both directions for 3 s, QoS 0 and QoS 1."""
    silent("standard", 600)


def p2f():
    """The same with the fast profile."""
    silent("fast", 200)


def silent(profile, goal):
    with Mesh(*TRIANGLE, profile=profile) as mesh:
        mesh.wait()
        load = Load(mesh)
        scenario.add_everybody(load, mesh.names, 500, 0)
        scenario.add_everybody(load, mesh.names, 300, 1)
        load.start()
        wait_while(1, load)
        for link in mesh.links * 2:
            mesh.wait_routes()
            fault = load.fault(f"silence {link.way}")
            link.silence()
            wait_while(3, load)
            load.over(fault)
            link.silence(0)
            wait_while(1, load)
        check_verdict(figures(load.finish(), goal=goal, mesh=mesh))


def p2s():
    """Triangle, a link silent in one direction, in the other 150 ms later: its ends notice at different times."""
    with Mesh(*TRIANGLE) as mesh:
        mesh.wait()
        load = everybody_to_everybody(mesh, rate=500)
        load.start()
        wait_while(1, load)
        for direction in (1, 2, 1):
            mesh.wait_routes()
            link = mesh.link("a", "b")
            fault = load.fault(f"silence {direction} first")
            link.silence(direction)
            time.sleep(0.15)
            link.silence()
            wait_while(2, load)
            load.over(fault)
            link.silence(0)
            wait_while(1, load)
        check_verdict(figures(load.finish(), goal=600, mesh=mesh))
        print("    (goal for what is lost at QoS 0: 0.02 %)")


def p3():
    """Ring of six, each node in turn killed and back after 0.2 s: converges, nothing of the former life remains."""
    names, links = ring(6)
    with Mesh(names, links) as mesh:
        mesh.wait()
        clients = {name: Wire(mesh[name], 4, f"c-{name}") for name in names}
        for name, client in clients.items():
            client.subscribe(f"p3/{name}", 0)
        others = lambda name: [other for other in names if other != name]
        mesh.until(lambda: all(mesh[o].topology().filters(n) == 1 for n in names for o in others(n)), 5,
                   lambda: f"interest: {[(n, o, mesh[o].topology().filters(n)) for n in names for o in others(n)]}")
        slowest = 0
        for name in names:
            mesh[name].restart(after=0.2)
            start = time.monotonic()
            mesh.wait(seconds=10)
            # The clients of the former life are gone, so is what they wanted.
            mesh.until(lambda: all(mesh[o].topology().filters(name) == 0 for o in others(name)), 5,
                       lambda: f"stale interest of {name}")
            slowest = max(slowest, time.monotonic() - start)
            clients[name] = Wire(mesh[name], 4, f"c-{name}")
            clients[name].subscribe(f"p3/{name}", 0)
            mesh.until(lambda: all(mesh[o].topology().filters(name) == 1 for o in others(name)), 5,
                       f"the new interest of {name} is not known")
        print(f"    ready -> converged, no stale interest: {slowest * 1000:.0f} ms at most (goal 1000)")


def p4():
    """Satellite: 250 to 1,000 ms each way, stalls as of lost segments; QoS 1 loses nothing."""
    with Mesh(["a", "b"], [("a", "b", {"profile": "satellite"})], profile="satellite") as mesh:
        link = mesh.links[0]
        link.set(delay=250, jitter=750)
        mesh.wait(60)
        load = everybody_to_everybody(mesh, rate=50, qos=1)
        load.start(settle=5)
        end = time.monotonic() + (600 if IS_LONG else 45)
        stalls = 0
        while time.monotonic() < end:
            wait_while(4, load)
            # A lost segment stops a direction for a round trip; 7 % of them hardly more than that.
            link.silence(1 + stalls % 3)
            wait_while(1.2, load)
            link.silence(0)
            stalls += 1
        verdict = figures(load.finish(quiet=12, at_most=90))
        check_verdict(verdict)
        print(f"    {stalls} stalls; connections of the link: {link.statistics()['accepted']} (2 if it never fell)")


def p5():
    """Star, one link at 64 kbit with 5,000 events a second for it: the other link is as before, memory is bounded."""
    with Mesh(["a", "b", "c"], [("a", "b"), ("a", "c")]) as mesh:
        mesh.wait()
        slow = mesh.link("a", "b")
        figures_before = p5_side(mesh)
        slow.set(rate=8_000)
        flood = Load(mesh)
        fault = flood.fault("slow link")
        flood.publisher("flood", "a", "flood/x", 5_000, 0, size=200)
        flood.subscriber("drain", "b", "flood/x", ["flood"])
        flood.start()
        time.sleep(5)
        before = mesh["a"].resident_kilobytes()
        during = p5_side(mesh)
        time.sleep(5)
        after = mesh["a"].resident_kilobytes()
        flood.over(fault)
        recorded = flood.finish(quiet=3, at_most=8)
        verdict = figures(recorded, what="slow link")
        check(verdict.duplicated == 0 and verdict.reordered == 0, str(verdict))
        check(set(mesh["a"].topology().up) == {"b", "c"}, f"a's links: {mesh['a'].topology().up}")
        print(f"    other link, delay us p50/p99 before {figures_before}, during {during} (goal p99 + 5 %)")
        print(f"    resident KiB of a: {before} then {after}")
        check(after < before + 20_000, f"memory grows: {before} -> {after} KiB")


def p5_side(mesh):
    """Delays of quiet traffic from a to c."""
    load = Load(mesh)
    load.publisher("side", "a", "side/x", 500, 0)
    load.subscriber("side-c", "c", "side/x", ["side"])
    load.start()
    wait_while(4, load)
    recorded = load.finish(quiet=0.5)
    check_verdict(history.judge(recorded))
    delay = history.latencies(recorded, every=1)
    return f"{history.percentile(delay, 0.5):.0f}/{history.percentile(delay, 0.99):.0f}"


def p6():
    """Triangle, one link 1 s down and 1 s up, over and over: nothing doubled, coming up is damped."""
    with Mesh(*TRIANGLE) as mesh:
        mesh.wait()
        link = mesh.link("a", "b")
        load = everybody_to_everybody(mesh, rate=500)
        load.start()
        wait_while(1, load)
        cycles = 150 if IS_LONG else 15
        for _ in range(cycles):
            fault = load.fault("flap")
            link.refuse(True)
            wait_while(1, load)
            load.over(fault)
            link.refuse(False)
            wait_while(1, load)
        check_verdict(figures(load.finish(), goal=30, mesh=mesh))
        print(f"    {cycles} flaps; converged after {mesh.wait(60) * 1000:.0f} ms, damping included")


def p8():
    """100,000 subscriptions on one node, the link to the other reset: resuming costs little when nothing changed."""
    count, batch = 100_000, 500
    with Mesh(["a", "b"], [("a", "b")]) as mesh:
        mesh.wait()
        link = mesh.links[0]
        client = Wire(mesh["a"], 4, "many")
        start = time.monotonic()
        for first in range(0, count, batch):
            body = (1).to_bytes(2, "big") + b"".join(
                wire.text(f"p8/{number % 317}/{number}/state") + b"\0" for number in range(first, first + batch))
            client.send(wire.packet(0x82, body))
            check(client.expect(wire.SUBACK, 30) is not None, "no SUBACK")
        subscribed = time.monotonic() - start
        mesh.until(lambda: mesh["b"].topology().filters("a") == count, 60,
                   lambda: f"b knows {mesh['b'].topology().filters('a')} filters of a")
        known = time.monotonic() - start
        time.sleep(1)
        idle = link.statistics()
        time.sleep(2)
        after = link.statistics()
        idle = {key: after[key] - idle[key] for key in ("forth", "back")}
        before = link.statistics()
        link.reset()
        mesh.wait(15)
        time.sleep(2)
        now = link.statistics()
        check(now["accepted"] > before["accepted"], "the link was not made again")
        spent = sum(now[key] - before[key] - idle[key] for key in ("forth", "back"))
        check(mesh["b"].topology().filters("a") == count, "interest was lost")
        print(f"    {count} filters: subscribed in {subscribed:.1f} s, all known at b after {known:.1f} s")
        print(f"    resuming: {spent} bytes, both directions, beyond idle traffic (goal 10240)")


def p11():
    """Triangle, one direction of a link silent: both ends take it down."""
    with Mesh(*TRIANGLE) as mesh:
        mesh.wait()
        load = everybody_to_everybody(mesh, rate=300)
        load.start()
        wait_while(1, load)
        slowest = 0
        for direction in (1, 2, 1, 2):
            link = mesh.link("a", "b")
            fault = load.fault(f"silence {direction}")
            start = time.monotonic()
            link.silence(direction)
            mesh.until(lambda: "b" not in mesh["a"].topology().up and "a" not in mesh["b"].topology().up, 5,
                       "an end does not notice", pause=0.01)
            slowest = max(slowest, time.monotonic() - start)
            wait_while(1.5, load)
            load.over(fault)
            link.silence(0)
            mesh.wait(30)
        check_verdict(figures(load.finish(), goal=600, mesh=mesh))
        print(f"    both ends down after {slowest * 1000:.0f} ms at most (goal 600)")


def p14():
    """A path drops packets above 900 bytes without a word: events get through, or the link is found dead."""
    with Mesh(["a", "b"], [("a", "b")]) as mesh:
        if not mesh.in_namespaces:
            return "skipped: there are no network namespaces here"
        mesh.wait()
        load = everybody_to_everybody(mesh, rate=100, qos=1, size=4000)
        load.start()
        wait_while(2, load)
        fault = load.fault("MTU 900")
        # The receiving device drops what is too large; segments must not be merged on their way.
        for node, device in (("a", "a0"), ("b", "b0")):
            run("ip", "-n", mesh[node].namespace, "link", "set", device, "gso_max_segs", "1")
        run("ip", "-n", mesh["b"].namespace, "link", "set", "b0", "mtu", "900")
        wait_while(15, load)
        load.over(fault)
        verdict = figures(load.finish(quiet=5, at_most=60))
        check_verdict(verdict)
        accepted = mesh.links[0].statistics()["accepted"]
        print(f"    connections of the link: {accepted} (2: it went on; more: it was found dead and made again)")


SCENARIOS = {
    "P1": p1, "P2": p2, "P2f": p2f, "P2s": p2s, "P3": p3, "P4": p4, "P5": p5, "P6": p6, "P8": p8, "P11": p11, "P14": p14,
}

if __name__ == "__main__":
    scenario.run(SCENARIOS)
