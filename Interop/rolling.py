#!/usr/bin/env python3
"""Proves that a mesh can be renewed while it is used: three regions of two nodes each, every node is stopped in turn
and another version with another configuration comes in its place, under traffic of MQTT, AMQP, REST and Server-Sent
Events. Guaranteed events are neither lost nor out of order, and come twice only where a protocol has them sent again;
direct ones are lost only from and to the clients of the node that stops, and what its counters and those of the others
say of that is printed beside it.

    OLD=… NEW=… rolling.py [--long]     programs; APUS for both if they are not said. --long: nine nodes

Run it with the interpreter that python.sh prints."""

import base64
import bisect
import http.client
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "mesh"))

from proton import Message, Terminus  # noqa: E402
from proton.reactor import AtLeastOnce, LinkOption  # noqa: E402

import history  # noqa: E402
import meshnet  # noqa: E402
import wire  # noqa: E402
from history import SECOND, Flow, Publisher, Subscriber  # noqa: E402
from load import STAMP, Load  # noqa: E402
from node import APUS, Failure, check, main  # noqa: E402
from services import ProtonThread  # noqa: E402

OLD, NEW = os.environ.get("OLD", APUS), os.environ.get("NEW", APUS)
REGIONS = ("north", "south", "west")
# What the new version has and the old one has not, and where limits differ.
OLD_LISTENERS = (("mqtt", meshnet.MQTT), ("http", meshnet.HTTP))
NEW_LISTENERS = (*OLD_LISTENERS, ("amqp", meshnet.AMQP), ("mqtt", 1884))
OLD_EXTRA = "limits: { max_in_flight: 200 }\n"
NEW_EXTRA = "limits: { max_in_flight: 500, max_packet: 8MiB, max_stream_window_events: 5000 }\nmqtt: { sys_interval: 2 }\n"
# Between two replacements.
CALM = 2.0
# Direct events a second of a publisher.
RATE = 100


def plan(is_long):
    """Names and links: two border nodes in each region with a line to both neighbours, as in mesh-configs/regions."""
    links = []
    for region in REGIONS:
        links.append((f"{region}-1", f"{region}-2"))
        if is_long:
            links += [(f"{region}-3", f"{region}-1"), (f"{region}-3", f"{region}-2")]
    for place, region in enumerate(REGIONS):
        after = REGIONS[(place + 1) % len(REGIONS)]
        links += [(f"{region}-{number}", f"{after}-{number}", {"cost": 100}) for number in (1, 2)]
    names = [f"{region}-{number}" for number in range(1, 4 if is_long else 3) for region in REGIONS]
    return names, links


# Clients that are not of MQTT. Each is in a thread of its own, and goes to the other node of its region when it must.


class REST:
    """Publishes guaranteed events one after another. A request without an answer is sent again, with its key, elsewhere
    if need be."""

    def __init__(self, mesh, homes, place, rate):
        self.mesh, self.homes, self.place, self.rate = mesh, list(homes), place, rate
        self.record = Publisher(homes[0], 1)
        self.is_over, self.problems = threading.Event(), {}
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        connection, due = None, time.monotonic()
        while not self.is_over.is_set():
            due = max(due + 1 / self.rate, time.monotonic() - 0.1)
            self.is_over.wait(max(0, due - time.monotonic()))
            record, number = self.record, len(self.record.sent)
            record.sent.append(time.monotonic_ns())
            record.acknowledged.append(0)
            body = STAMP.pack(self.place, number, record.sent[number])
            while not record.acknowledged[number]:
                problem = None
                try:
                    connection = connection or http.client.HTTPConnection(
                        self.mesh[self.homes[0]].address, meshnet.HTTP, timeout=5)
                    connection.request("POST", "/TOPIC/roll/q1/rest", body, {
                        "Apus-Delivery-Mode": "guaranteed", "Idempotency-Key": f"key-{number}",
                        "Content-Type": "application/octet-stream"})
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status == 202:
                        record.acknowledged[number] = time.monotonic_ns()
                    else:
                        problem = answer.status
                except (OSError, http.client.HTTPException) as failure:
                    problem = type(failure).__name__
                if problem is not None:
                    self.problems[problem] = self.problems.get(problem, 0) + 1
                    record.again.add(number)
                    connection = None
                    self.homes.append(self.homes.pop(0))
                    time.sleep(0.01)

    def start(self):
        self.thread.start()

    def finish(self):
        self.is_over.set()
        self.thread.join(20)


class SSE:
    """Reads a stream of events; when it ends the next node is asked to go on after the last id. A node that does not
    know that id says so with a gap."""

    def __init__(self, mesh, homes, publishers):
        self.mesh, self.homes = mesh, list(homes)
        self.record = Subscriber(homes[0], 1, publishers)
        self.flows, self.told = {}, []
        self.is_over, self.ready = threading.Event(), threading.Event()
        self.last_id = None
        threading.Thread(target=self.run, daemon=True).start()
        check(self.ready.wait(20), "the stream of events was not opened")

    def run(self):
        while not self.is_over.is_set():
            try:
                self.read()
            except (OSError, http.client.HTTPException, ValueError):
                pass
            if self.record.sessions and self.record.sessions[-1][1] is None:
                self.record.sessions[-1] = (self.record.sessions[-1][0], time.monotonic_ns())
            self.homes.append(self.homes.pop(0))
            time.sleep(0.01)

    def read(self):
        node = self.mesh[self.homes[0]]
        connection = http.client.HTTPConnection(node.address, meshnet.HTTP, timeout=30)
        query = urllib.parse.urlencode({"filter": "roll/q1/#", "format": "json"})
        connection.request("GET", f"/events?{query}", headers={"Last-Event-ID": self.last_id} if self.last_id else {})
        answer = connection.getresponse()
        check(answer.status == 200, f"{answer.status}")
        name, data = "message", []
        for line in answer:
            key, _, value = line.rstrip(b"\n").partition(b":")
            value = value.removeprefix(b" ").decode()
            if key == b"" and value == "connected":
                self.record.sessions.append((time.monotonic_ns(), None))
                self.ready.set()
            elif key == b"id":
                self.last_id = value
            elif key == b"event":
                name = value
            elif key == b"data":
                data.append(value)
            elif not line.strip() and data:
                self.event(name, json.loads("\n".join(data)))
                name, data = "message", []

    def event(self, name, event):
        now = time.monotonic_ns()
        if name == "gap":
            self.told.append((now, event["reason"]))
            return
        payload = base64.b64decode(event["payload_base64"]) if "payload_base64" in event else event["payload"].encode()
        index, number, _ = STAMP.unpack_from(payload)
        flow = self.flows.setdefault(index, Flow())
        flow.numbers.append(number)
        flow.times.append(now)


class Durable(LinkOption):
    def apply(self, receiver):
        receiver.source.durability = Terminus.DELIVERIES
        receiver.source.expiry_policy = Terminus.EXPIRE_NEVER


class AMQP(ProtonThread):
    """Publishes unsettled messages and has a durable subscription, on a node that speaks AMQP since its replacement."""

    def __init__(self, node, place, publishers, rate):
        self.place, self.rate = place, rate
        self.sent = Publisher(node.name, 1)
        self.record = Subscriber(node.name, 1, publishers)
        self.flows, self.open, self.is_over = {}, {}, False
        super().__init__(node, "rolling", prefetch=500)

    def opening(self):
        self.receiver = self.container.create_receiver(
            self.connection, "topic://roll/q1/>", name="durable", options=[Durable(), AtLeastOnce()])
        self.sender = self.container.create_sender(self.connection, "topic://roll/q1/amqp")

    def on_link_opened(self, event):
        if event.receiver:
            self.record.sessions.append((time.monotonic_ns(), None))
            self.ready.set()
            self.container.schedule(1.5, self)

    def on_timer_task(self, event):
        if self.is_over:
            return
        if self.sender.credit > self.sender.queued:
            now, number = time.monotonic_ns(), len(self.sent.sent)
            self.sent.sent.append(now)
            self.sent.acknowledged.append(0)
            delivery = self.sender.send(Message(STAMP.pack(self.place, number, now), inferred=True))
            self.open[delivery.tag] = number
        self.container.schedule(1 / self.rate, self)

    def on_accepted(self, event):
        self.sent.acknowledged[self.open.pop(event.delivery.tag)] = time.monotonic_ns()

    def on_message(self, event):
        index, number, _ = STAMP.unpack_from(bytes(event.message.body))
        flow = self.flows.setdefault(index, Flow())
        flow.numbers.append(number)
        flow.times.append(time.monotonic_ns())
        if event.message.delivery_count:
            self.record.repeated.add((index, number))

    def finish(self):
        self.is_over = True


# What the nodes count.

COUNTED = (
    "apus_events_dropped_total", "apus_mesh_frames_dropped_total", "apus_mesh_link_frames_dropped_total",
    "apus_mesh_frames_missing_total", "apus_mesh_stream_events_dropped_total", "apus_mesh_frames_parked_total",
    "apus_mesh_link_frames_salvaged_total", "apus_mesh_stream_frames_resent_total", "apus_mesh_sessions_moved_total",
    "apus_mesh_sessions_not_moved_total", "apus_mesh_connections_ended_total", "apus_mesh_silences_total",
)


def counted(node):
    """What a node has counted of losses and of what goes with them, by metric and reason."""
    found = {}
    for series, value in node.metrics().items():
        metric, _, labels = series.partition("{")
        if metric in COUNTED and value:
            reason = next((part.split('"')[1] for part in labels.split(",")
                           if part.startswith(("reason=", "direction="))), "")
            key = metric.removeprefix("apus_").removesuffix("_total") + (f" {reason}" if reason else "")
            found[key] = found.get(key, 0) + int(value)
    return found


def add(sums, found, sign=1):
    for key, value in found.items():
        sums[key] = sums.get(key, 0) + sign * value


def ready(node):
    try:
        return node.request("GET", "/readyz", timeout=2)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


class LastWords:
    """What a node has counted, asked again and again in the moments in which it stops. Who asks keeps it from ending
    for up to a second."""

    def __init__(self, node):
        self.node, self.found = node, counted(node)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        end = time.monotonic() + 0.14
        try:
            while time.monotonic() < end:
                self.found = counted(self.node)
                time.sleep(0.02)
        except (OSError, http.client.HTTPException, Failure):
            pass

    def get(self):
        self.thread.join(5)
        return self.found


def replace(mesh, load, name, sums):
    """Stops a node as a supervisor does, and starts the new one in its place."""
    node = mesh[name]
    fault = load.fault(f"{name} replaced", stopped=name)
    fault.program = node.program
    last = LastWords(node)
    before = last.found
    status = node.terminate()
    fault.exited = time.monotonic_ns()
    fault.last = last.get()
    add(sums, fault.last)
    fault.last = {key: value - before.get(key, 0) for key, value in fault.last.items() if value > before.get(key, 0)}
    check(status == 0, f"{name} ended with {status}")
    stopped = time.monotonic()
    node.program, node.listeners, node.extra = NEW, NEW_LISTENERS, NEW_EXTRA
    node.start(wait=False)
    meshnet.Mesh.until(lambda: ready(node), 60, f"{name} is not ready", pause=0.01)
    load.over(fault)
    fault.ready_after = time.monotonic() - stopped
    return fault


def direct_losses(recorded, faults):
    """Direct events that were subscribed to and did not arrive, by fault: of the stopping node's publishers before it
    ended and after it was back, for its subscribers likewise, and all others."""
    found = {fault.name: dict.fromkeys(("from, stopping", "from, joining", "to, stopping", "to, joining", "others"), 0)
             for fault in faults}
    elsewhere = 0
    for name, subscriber in recorded.subscribers.items():
        for source in subscriber.publishers:
            publisher = recorded.publishers[source]
            if min(publisher.qos, subscriber.qos) > 0:
                continue
            flow = recorded.flows.get((name, source), Flow())
            seen = set(flow.numbers)
            begins = [begin for begin, _ in subscriber.sessions]
            for number, sent in enumerate(publisher.sent):
                if number in seen:
                    continue
                session = bisect.bisect_right(begins, sent) - 1
                if session < 0 or (subscriber.sessions[session][1] or sent + 1) <= sent:
                    continue
                near = [f for f in faults if f.start - SECOND <= sent <= f.end + 4 * SECOND]
                if not near:
                    elsewhere += 1
                    continue
                fault = near[-1]
                way = "to" if subscriber.node == fault.stopped else "from" if publisher.node == fault.stopped else None
                when = "stopping" if sent <= fault.exited else "joining"
                found[fault.name][f"{way}, {when}" if way else "others"] += 1
    return found, elsewhere


# The test.


def traffic(mesh, names):
    """Direct events between all nodes; guaranteed ones of clients that know both border nodes of their region."""
    load = Load(mesh)
    for name in names:
        load.publisher(f"direct {name}", name, f"roll/q0/{name}", RATE, 0, 5)
    homes = {region: (f"{region}-1", f"{region}-2") for region in REGIONS}
    for region, (first, second) in homes.items():
        load.publisher(f"sure {region}", first, f"roll/q1/{region}", RATE / 2, 1, 5, others=[second])
    guaranteed = [f"sure {region}" for region in REGIONS] + ["rest", "amqp"]
    for name in names:
        load.subscriber(f"ears {name}", name, "roll/q0/+", [f"direct {other}" for other in names], 0, 5)
    for region, (first, second) in homes.items():
        load.subscriber(f"keeper {region}", second, "roll/q1/+", guaranteed, 1, 5, others=[first])
    rest = REST(mesh, homes["west"], load.outside("rest"), RATE / 4)
    load.outside("amqp")
    sse = SSE(mesh, (homes["south"][1], homes["south"][0]), guaranteed)
    return load, rest, sse, guaranteed


def absent(mesh):
    """A session whose client is away when its node is replaced ends with it; the client is told so and begins anew."""
    node = mesh["west-1"]
    for place, name in enumerate(("west-1", "west-2")):
        client = wire.Wire(mesh[name], 5, "absent", persistent=True)
        check(not client.session_present, "the session of a client that was away outlived its node")
        if place == 0:
            client.subscribe("roll/absent", 1)
            client.close()
            node.terminate()
            node.start()
            meshnet.Mesh.until(lambda: ready(node), 60, "west-1 is not ready")
        else:
            client.close()


def roll(mesh, names):
    """Replaces all nodes in turn under load; what was seen."""
    mesh.wait()
    load, rest, sse, guaranteed = traffic(mesh, names)
    load.start()
    rest.start()
    time.sleep(CALM)
    sums, faults, amqp = {}, [], None
    for name in names:
        faults.append(replace(mesh, load, name, sums))
        if amqp is None:
            # Begins to publish once its subscription, and everybody's, is known.
            amqp = AMQP(mesh[name], len(load.publishers) + 1, guaranteed, RATE / 4)
        time.sleep(CALM)
    mesh.wait_routes()
    end = time.monotonic_ns()
    time.sleep(1)
    rest.finish()
    amqp.finish()
    recorded = load.finish(quiet=4)
    sse.is_over.set()
    for node in mesh.nodes.values():
        add(sums, counted(node))
    amqp.close()
    recorded.publishers |= {"rest": rest.record, "amqp": amqp.sent}
    recorded.subscribers |= {"stream": sse.record, "durable": amqp.record}
    order = [*load.publishers, *load.outsiders]
    for name, client in (("stream", sse), ("durable", amqp)):
        recorded.flows |= {(name, order[index]): flow for index, flow in client.flows.items()}
    keepers = [name for name in load.subscribers if name.startswith("keeper")]
    sure = history.judge_guaranteed(recorded, order, [*keepers, "stream", "durable"], {"stream": [at for at, _ in sse.told]}, end)
    return recorded, faults, sums, sure, keepers, rest, sse


def left(at, faults):
    """The replacement because of which a client came to another node at a time."""
    return [fault for fault in faults if fault.start <= at][-1]


def report(mesh, recorded, faults, sums, sure, keepers, rest, sse):
    """Prints what was seen, and says what must hold."""
    alarms = mesh.false_alarms(recorded.faults)
    losses, elsewhere = direct_losses(recorded, faults)
    # Clients of guaranteed events move: only of these it is known where they are.
    ears = history.History(
        recorded.publishers, {name: one for name, one in recorded.subscribers.items() if name.startswith("ears")},
        {key: flow for key, flow in recorded.flows.items() if key[0].startswith("ears")}, recorded.faults,
        [int(at * 1e9) for _, at, _ in alarms])
    for fault in faults:
        gaps = history.gaps(ears, fault, window=SECOND)
        longest, began, flow = gaps[-1]
        lost = {key: value for key, value in losses[fault.name].items() if value}
        print(f"  {fault.name}: ended after {(fault.exited - fault.start) / 1e6:.0f} ms, the next one ready "
              f"{fault.ready_after * 1000:.0f} ms later; traffic of others: gap ms p50 "
              f"{history.percentile([gap for gap, _, _ in gaps], .5):.0f} max {longest:.0f} ({flow}, {began:+.0f} ms); "
              f"direct events lost: {lost or 'none'}"
              + (f"; its last counts {fault.last}" if fault.last else ""))
    arrivals = [arrival for name in keepers for arrival in recorded.subscribers[name].arrivals[1:]]
    # How a node stops is up to the program that it ran: an old one may not wait for sessions.
    judged = [is_there for at, _, is_there in arrivals if left(at, faults).program == NEW]
    others = [is_there for at, _, is_there in arrivals if left(at, faults).program != NEW]
    check(all(judged), f"of {len(judged)} sessions only {sum(judged)} followed their clients")
    if others:
        print(f"  sessions of subscribers on nodes that ran the old program: {sum(others)} followed their clients, "
              f"{len(others) - sum(others)} ended with their nodes, which is not judged")
    print(f"  sessions of subscribers: {sum(judged)} followed their clients, {len(judged) - sum(judged)} did not; "
          f"the stream was told of {len(sse.told)} gaps; requests without an answer {rest.problems}")
    print(f"  guaranteed: {sure}")
    for example in sure.examples[:10]:
        print(f"    {example}")
    direct = sum(len(flow.numbers) for flow in ears.flows.values())
    total = sum(sum(found.values()) for found in losses.values()) + elsewhere
    print(f"  direct: {direct} received, {total} lost, of them {elsewhere} at no replacement; links taken down for "
          f"silence {len(alarms)}")
    print("  counted by all nodes: " + (", ".join(f"{key} {sums[key]}" for key in sorted(sums)) or "nothing"))
    verdict = history.judge(ears)
    print(f"  direct, judged as after any fault: {verdict}")
    check(verdict.is_good, f"direct events: {verdict} {verdict.examples}")
    others = sum(found["others"] for found in losses.values())
    check(others == 0 or alarms, f"{others} direct events of others were lost")
    check(not sums.get("mesh_frames_dropped time_to_live"), "frames went in circles")
    check(not (sure.lost or sure.doubled or sure.reordered), f"guaranteed events: {sure}")
    return sure, total, direct


def test(*words):
    names, links = plan("--long" in words)
    for program in dict.fromkeys((OLD, NEW)):
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        print(f"  {'old' * (program == OLD)} {'new' * (program == NEW)}: {said}, {program}")
    with meshnet.Mesh(names, links, lanes=2, loopback=True, program=OLD, listeners=OLD_LISTENERS,
                      extra=OLD_EXTRA) as mesh:
        sure, lost, direct = report(mesh, *roll(mesh, names))
        absent(mesh)
    return (f"{len(names)} nodes replaced: {sure.received} guaranteed events, none lost but {sure.without_session} with "
            f"their sessions; {direct} direct ones, {lost} lost at the nodes that stopped")


if __name__ == "__main__":
    main(test, *sys.argv[1:])
