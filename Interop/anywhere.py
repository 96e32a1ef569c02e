#!/usr/bin/env python3
"""Proves that nobody need know where a service runs: `hello` and those who ask it speak different protocols to
different nodes of a mesh of two regions; then the service moves from node to node, twenty times and in three ways, while
requests keep coming and other traffic flows. Whoever asks changes nothing; every answer is the right one.

    anywhere.py [--long] [PART…]     pairs at_once together following apart; --long moves more

Run it with the interpreter that python.sh prints."""

import itertools
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "mesh"))

import history  # noqa: E402
import meshnet  # noqa: E402
import services  # noqa: E402
from load import Load  # noqa: E402
from node import check, main  # noqa: E402
from services import (  # noqa: E402
    Answered, JSONRequester, MQTTRequester, MQTTResponder, AMQPRequester, RESTRequester, REQUESTERS, RESPONDERS,
)

NODES = ("east-1", "east-2", "west-1", "west-2")
# Two regions, two lines between them.
LINKS = (
    ("east-1", "east-2"), ("west-1", "west-2"), ("east-1", "west-1", {"cost": 100}), ("east-2", "west-2", {"cost": 100}),
)
MOVES = 20
# Where the service is: no two moves alike, into the other region and within one.
WAY = ("west-2", "east-1", "west-1", "east-2")
# A subscription is known everywhere after this, whatever the machine does.
SPREAD = 1.0
# Seconds between the moves.
STAY = 0.35


def milliseconds(values, share):
    return history.percentile(sorted(values), share)


def known(mesh, present=True, topic=services.TOPIC):
    """Waits until every node knows whether somebody at all has subscribed to a topic."""
    def told(node):
        return node.get(f"/v1/mesh/explain?topic={topic}")

    def has(said):
        return bool(said["nodes"] or said["local"] or any(g["localMembers"] or g["nodes"] for g in said["groups"]))

    mesh.until(lambda: all(has(told(node)) == present for node in mesh.nodes.values()), 30,
               lambda: f"{topic} is not known everywhere: " + str([told(node) for node in mesh.nodes.values()]))


def pairs(mesh, load, moves):
    """Every protocol asks every protocol, from another node each time; ten requests at once."""
    count = 10
    places = itertools.cycle(itertools.permutations(NODES, 2))
    for responder in RESPONDERS:
        for requester in REQUESTERS:
            asks, answers = next(places)
            answered = Answered()
            service = responder("one", mesh[answers], answered)
            known(mesh)
            client = requester("world", mesh[asks])
            known_replies(mesh, client)
            for _ in range(count):
                client.ask_next()
            what = f"{requester.protocol} at {asks} asks {responder.protocol} at {answers}"
            check(client.finish(20) == 0, f"{what}: {client.open} of {count} without answer, came {answered.counts}")
            check(not client.wrong, f"{what}: {client.wrong[:3]}")
            doubles = [len(request.answers) for request in client.requests if len(request.answers) != 1]
            check(not doubles and len(answered.counts) == count, f"{what}: {doubles} answers")
            client.close()
            service.leave()
            known(mesh, False)
    return f"{len(RESPONDERS) * len(REQUESTERS)} pairs of protocols, {count} answers each"


def known_replies(mesh, client):
    """Where replies go is known everywhere. Over HTTP that is the node's own affair, and AMQP's topic is dynamic."""
    if isinstance(client, MQTTRequester | JSONRequester):
        known(mesh, topic=f"replies/{client.name}")
    else:
        time.sleep(SPREAD)


def at_once(mesh, load, moves):
    """Who has just come asks as soon as it has subscribed to its answers, or in the same breath; the service is two
    links away. Subscriptions travel ahead of questions; nothing waits for them, so one in four may be missed, not more.
    """
    answered = Answered()
    service = MQTTResponder("far", mesh["west-2"], answered)
    known(mesh)
    said, lost, total = [], 0, 0
    for kind in REQUESTERS:
        missed = 0
        for number in range(8):
            client = kind(f"new-{kind.__name__}-{number}", mesh["east-1"])
            client.ask_next()
            missed += client.finish(5.0)
            total += 1
            client.close()
        said.append(f"{kind.protocol} {missed}")
        lost += missed
    service.leave()
    known(mesh, False)
    check(lost * 4 <= total, f"of {total} questions asked at once {lost} were not answered: {said}")
    return f"{total} questions asked at once, without answer: {', '.join(said)}"


def clients(mesh, retries=False):
    """Those who ask while the service moves: the first one is the one that counts, a hundred times a second."""
    made = [
        (MQTTRequester("first", mesh["east-1"], retries), 100),
        (AMQPRequester("second", mesh["east-2"], retries), 20),
        (RESTRequester("third", mesh["west-1"], retries), 20),
        (JSONRequester("fourth", mesh["west-2"], retries), 20),
    ]
    for client, _ in made:
        known_replies(mesh, client)
    for client, rate in made:
        client.run(rate)
    return [client for client, _ in made]


def near(moments, at):
    """A time by what happened last."""
    before, what = max((moment for moment in moments if moment[0] <= at), default=(at, "the start"))
    return f"{(at - before) / 1e6:.0f} ms after {what}"


def finish(what, asking, answered, moments, seconds=30):
    """Ends asking; prints times and gaps; each request has its answer, and more than one only if it was asked more
    than once, or came to a service more than once and said so."""
    time.sleep(0.3)
    for client in asking:
        client.is_over.set()
    total = lost = doubled = again = 0
    for client in asking:
        left = client.finish(seconds)
        check(not client.wrong, f"{what}, {client.protocol}: wrong answers {client.wrong[:3]}")
        times = sorted((request.answers[0] - request.first) / 1e6 for request in client.requests if request.answers)
        arrivals = sorted(request.answers[0] for request in client.requests if request.answers)
        gaps = sorted((after - before) / 1e6 for before, after in itertools.pairwise(arrivals))
        repeated = sum(request.asked > 1 for request in client.requests)
        more = [number for number, request in enumerate(client.requests) if len(request.answers) > 1]
        unexplained = [number for number in more if client.requests[number].asked == 1
                       and client.correlation(number) not in answered.repeated]
        told = sum(request.untold for request in client.requests)
        print(f"  {what}: {client.protocol:8} {len(client.requests):5} requests, {left} without answer; ms p50 "
              f"{milliseconds(times, .5):.1f} p99 {milliseconds(times, .99):.1f} max {milliseconds(times, 1):.0f}; "
              f"gap p99 {milliseconds(gaps, .99):.0f} max {milliseconds(gaps, 1):.0f}; told that nobody is there "
              f"{told}, asked again {repeated}, answered twice {len(more)}"
              + (f" {client.statuses}" if isinstance(client, RESTRequester) else ""), flush=True)
        lost_ones = [number for number, request in enumerate(client.requests) if not request.answers]
        for number in lost_ones[:5]:
            print(f"    no answer: {number}, {near(moments, client.requests[number].first)}, came to a service "
                  f"{answered.counts.get(client.correlation(number), 0)} times")
        for number in unexplained:
            came = answered.whos[client.correlation(number)]
            print(f"    answered twice: {number}, came to "
                  + ", ".join(f"{who} {near(moments, at)}" for who, at in came))
        check(not unexplained, f"{what}, {client.protocol}: answered twice for no reason: {unexplained[:5]}")
        total, lost = total + len(client.requests), lost + left
        doubled, again = doubled + len(more), again + repeated
        client.close()
    return total, lost, doubled, again


def together(mesh, load, moves):
    """Make before break: the new instance is there before the old one goes, as members of one group. Each instance is
    of another protocol than the one before. No request is lost, and none answered twice, but for what a webhook that is
    removed was working on."""
    answered, moments = Answered(), []
    service = RESPONDERS[0]("instance-0", mesh[WAY[0]], answered)
    known(mesh)
    asking = clients(mesh)
    time.sleep(0.5)
    for number in range(1, moves + 1):
        kind, place = RESPONDERS[number % len(RESPONDERS)], WAY[number % len(WAY)]
        new = kind(f"instance-{number}", mesh[place], answered)
        moments.append((time.monotonic_ns(), f"{kind.protocol} at {place} came"))
        time.sleep(SPREAD)
        moments.append((time.monotonic_ns(), f"{service.protocol} at {WAY[(number - 1) % len(WAY)]} goes"))
        service.leave()
        service = new
        time.sleep(STAY)
    total, lost, doubled, _ = finish("together", asking, answered, moments)
    service.leave()
    check(lost == 0, f"{lost} of {total} requests were not answered")
    check(len(answered.by_instance) == moves + 1, f"not every instance has answered: {answered.by_instance}")
    return f"{moves} moves of a group: {total} requests, all answered, {doubled} twice as a webhook was removed"


def following(mesh, load, moves):
    """Takeover: the service connects at the next node with the same client id, and its session follows it. What it had
    not acknowledged comes again and says so; nothing is lost."""
    answered, moments = Answered(), []
    service = MQTTResponder("life-0", mesh[WAY[0]], answered, group=False, session="the-service")
    known(mesh)
    asking = clients(mesh)
    time.sleep(0.5)
    for number in range(1, moves + 1):
        place = WAY[number % len(WAY)]
        moments.append((time.monotonic_ns(), f"a takeover by {place}"))
        new = MQTTResponder(
            f"life-{number}", mesh[place], answered, group=False, session="the-service", follows=service)
        check(service.ended.wait(30), f"the connection at {service.node.name} did not end")
        # A client that was just writing sees the end of the connection (0x80 of paho) before it reads why.
        check(service.reason in (0x8E, 0x80), f"the connection at {service.node.name} ended with {service.reason:#x}")
        service.client.loop_stop()
        service = new
        time.sleep(STAY)
    total, lost, doubled, _ = finish("following", asking, answered, moments)
    service.leave()
    check(lost == 0, f"{lost} of {total} requests were not answered")
    return f"{moves} takeovers: {total} requests answered, {doubled} twice because they came twice and said so"


def apart(mesh, load, moves):
    """Break before make: for half a second nobody is there. Who asks is told so, or hears nothing, and asks again."""
    answered, moments = Answered(), []
    service = MQTTResponder("alone-0", mesh[WAY[0]], answered)
    known(mesh)
    asking = clients(mesh, retries=True)
    time.sleep(0.5)
    for number in range(1, moves + 1):
        place = WAY[number % len(WAY)]
        moments.append((time.monotonic_ns(), f"{service.node.name} is left"))
        service.leave()
        time.sleep(0.4)
        service = MQTTResponder(f"alone-{number}", mesh[place], answered)
        moments.append((time.monotonic_ns(), f"{place} is there"))
        time.sleep(STAY)
    total, lost, doubled, again = finish("apart", asking, answered, moments)
    service.leave()
    check(lost == 0, f"{lost} of {total} requests were not answered although they were asked again")
    check(again > 0, "nobody had to ask again: nothing was shown")
    return f"{moves} times nobody there: {total} requests, {again} asked again, all answered, {doubled} twice"


PARTS = {part.__name__: part for part in (pairs, at_once, together, following, apart)}


def background(mesh):
    """Traffic of other topics between all nodes, at QoS 0 and 1."""
    load = Load(mesh)
    for qos in (0, 1):
        for node in mesh.names:
            load.publisher(f"p{qos}-{node}", node, f"load/q{qos}/{node}", 100, qos, 5)
        for node in mesh.names:
            load.subscriber(
                f"s{qos}-{node}", node, f"load/q{qos}/+", [f"p{qos}-{other}" for other in mesh.names], qos, 5)
    return load


def test(*words):
    is_long = "--long" in words
    wanted = [word for word in words if word != "--long"] or list(PARTS)
    said = []
    with meshnet.Mesh(NODES, LINKS, lanes=2, loopback=True) as mesh:
        mesh.wait()
        load = background(mesh)
        load.start()
        for name in wanted:
            start = time.monotonic()
            moves = {"apart": 6}.get(name, MOVES) * (5 if is_long else 1)
            said.append(PARTS[name](mesh, load, moves))
            print(f"{name}: {said[-1]} ({time.monotonic() - start:.0f} s)", flush=True)
        recorded = load.finish(quiet=3.0)
        recorded.alarms = [int(at * 1e9) for _, at, _ in mesh.false_alarms(recorded.faults)]
        verdict = history.judge(recorded)
        print(f"  beside it: {verdict}; links taken down for silence: {len(recorded.alarms)}")
        check(verdict.is_good, f"the traffic beside it: {verdict} {verdict.examples}")
    return "; ".join(said)


if __name__ == "__main__":
    main(test, *sys.argv[1:])
