#!/usr/bin/env python3
"""Proves that a canary gets the share of a group's events that its weight says, wherever it is and whatever it speaks:
three nodes in a chain, a shared group with members that speak MQTT 5, AMQP, Server-Sent Events and apus.v1.json, and
20,000 events published over MQTT, AMQP and REST, each at another node. 5 % must arrive within one per cent of all, each
event at exactly one member. Then the canary says another weight by subscribing again; and one that is killed leaves
nothing behind that the others do not get.

    canary.py [--victim PORT]

Run it with the interpreter that python.sh prints."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from proton import symbol
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from node import Failure, Node, check, main, run_parts
from proton_client import WORLD, Client, Options, Receiver, rest, text, until
from web import Stream

EVENTS = 20_000
FILTER = "orders/+"
SHARED = f"$share/canary/{FILTER}"


class Member(Node):
    """A node of the chain."""

    def __init__(self, name, *links):
        super().__init__(http=True, amqp=True)
        self.name, self.links = name, links
        self.ports["mesh"] = 0

    def configuration(self, base):
        lines = [super().configuration(base).replace("name: interop,", f"name: {self.name},", 1).rstrip("\n")]
        lines += ["mesh:", "  id: canary", f'  listen: "127.0.0.1:{self.ports["mesh"]}"', "  join: configured"]
        lines += ["  links:", *(f'    - {{ to: "127.0.0.1:{link.ports["mesh"]}" }}' for link in self.links)] \
            if self.links else []
        return "\n".join(lines) + "\n"

    def reachable(self):
        with urllib.request.urlopen(f"http://{self.admin}/v1/mesh/topology", timeout=10) as answer:
            return sum(bool(node["reachable"]) for node in json.load(answer)["nodes"])


def weight_property(packet, weight):
    properties = Properties(packet)
    properties.UserProperty = [("apus-weight", str(weight))]
    return properties


class MQTT:
    """A member that speaks MQTT 5. `got` are the payloads it has had."""

    def __init__(self, node, name, weight, take=None):
        self.got, self.granted = [], threading.Event()
        take = take or self.got.append
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        self.client.on_message = lambda client, data, message: take(message.payload.decode())
        self.client.on_subscribe = self._subscribed
        self.connected = threading.Event()
        self.client.on_connect = lambda *arguments: self.connected.set()
        self.client.connect("127.0.0.1", node.port)
        self.client.loop_start()
        check(self.connected.wait(60), f"{name} was not connected")
        self.subscribe(weight)

    def _subscribed(self, client, data, identifier, codes, properties):
        self.codes, self.reason = codes, getattr(properties, "ReasonString", None)
        self.granted.set()

    def subscribe(self, weight, refused=False):
        self.granted.clear()
        options = paho.SubscribeOptions(qos=1)
        properties = None if weight is None else weight_property(PacketTypes.SUBSCRIBE, weight)
        self.client.subscribe(SHARED, options=options, properties=properties)
        check(self.granted.wait(60), "no SUBACK")
        code = self.codes[0].value
        check(code == (0x83 if refused else 1), f"weight {weight} was answered with {code:#x}")

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class AMQP:
    """A member that speaks AMQP; it lives while the test's thread lets it."""

    class Weighted(Options):
        def __init__(self, weight):
            super().__init__(capabilities=("shared", "global"))
            self.weight = weight

        def apply(self, link):
            super().apply(link)
            if self.weight is not None:
                link.properties = {symbol("apus:weight"): self.weight}

    def __init__(self, node, weight):
        self.client = Client(node)
        self.receiver = self.attach(weight).opened()

    def attach(self, weight, name="canary|amqp"):
        link = WORLD.create_receiver(self.client.connection, f"topic://{FILTER}", name=name,
                                     options=self.Weighted(weight))
        return Receiver(self.client, link, grants=500)

    @property
    def got(self):
        return [one.body for one in self.receiver.received]

    def close(self):
        self.client.close()


class SSE:
    def __init__(self, node, weight):
        self.kept = []
        self.stream = Stream(node, f"filter=orders/%2B&group=canary&weight={weight}")

    @property
    def got(self):
        while not self.stream.events.empty():
            _, body, _ = self.stream.events.get_nowait()
            self.kept.append(body)
        return self.kept

    def close(self):
        self.stream.close()


class JSON:
    """A member that speaks apus.v1.json and acknowledges what it gets."""

    def __init__(self, node, weight):
        self.got, self.answers = [], 0
        self.socket = connect(f"ws://127.0.0.1:{node.http_port}/ws", subprotocols=["apus.v1.json"], compression=None)
        threading.Thread(target=self._read, daemon=True).start()
        self.ask(op="subscribe", filter=FILTER, group="canary", qos=1, weight=weight)

    def ask(self, **message):
        before = self.answers
        self.socket.send(json.dumps({"id": 1, **message}))
        wait(lambda: self.answers > before, f"no answer to {message}")
        check(self.last["op"] == "ok", f"{message}: {self.last}")

    def _read(self):
        try:
            for text_ in self.socket:
                message = json.loads(text_)
                if message["op"] != "event":
                    self.last, self.answers = message, self.answers + 1
                    continue
                self.got.append(message["payload"])
                if "seq" in message:
                    self.socket.send(json.dumps({"op": "ack", "seq": message["seq"]}))
        except ConnectionClosed:
            pass

    def close(self):
        self.socket.close()


def wait(condition, what, seconds=60):
    until(condition, what, seconds)


# Publishers. Each sends `count` events, numbered from `first`.


def over_mqtt(node, first, count):
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", node.port)
    client.loop_start()
    last = [client.publish(f"orders/{number % 7}", f"{number}", qos=1) for number in range(first, first + count)]
    for one in last:
        one.wait_for_publish(60)
    client.disconnect()
    client.loop_stop()


def over_rest(node, first, count):
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=30)
    for number in range(first, first + count):
        connection.request("POST", f"/TOPIC/orders/{number % 7}", body=f"{number}".encode(),
                           headers={"Content-Type": "text/plain", "Apus-Delivery-Mode": "guaranteed"})
        answer = connection.getresponse()
        answer.read()
        check(answer.status == 202, f"REST answered {answer.status}")
    connection.close()


def over_amqp(node, first, count):
    client = Client(node)
    senders = [client.sender(f"topic://orders/{number}") for number in range(7)]
    for place, sender in enumerate(senders):
        sender.send_all(text(body=f"{number}") for number in range(first, first + count) if number % 7 == place)
    client.close()


def publish(nodes, first, count):
    """A third over each protocol, at one node each, all at once."""
    problems = []

    def run(body, *arguments):
        try:
            body(*arguments)
        except Exception as problem:  # noqa: BLE001
            problems.append(problem)

    part = count // 3
    threads = [
        threading.Thread(target=run, args=(over_mqtt, nodes[0], first, part)),
        threading.Thread(target=run, args=(over_rest, nodes[2], first + part, part)),
    ]
    for thread in threads:
        thread.start()
    over_amqp(nodes[1], first + 2 * part, count - 2 * part)
    until(lambda: not any(thread.is_alive() for thread in threads), "the publishers do not end", 180)
    if problems:
        raise Failure(f"a publisher: {problems[0]!r}")


def shares(members, canary, first, count, wanted, nodes):
    """Publishes, waits until everything is there, and judges: each once, and the canary's part."""
    before = {name: len(member.got) for name, member in members.items()}
    publish(nodes, first, count)
    new = {}

    def everything():
        new.update({name: member.got[before[name]:] for name, member in members.items()})
        return sum(map(len, new.values())) >= count

    until(everything, lambda: f"{sum(map(len, new.values()))} of {count} arrived", 60)
    rest(0.3)
    everything()
    got = sorted(int(one) for bodies in new.values() for one in bodies)
    check(got == list(range(first, first + count)), f"{len(got)} arrived, {len(set(got))} different ones, of {count}")
    part = 100 * len(new[canary]) / count
    print(f"{count} events: " + ", ".join(f"{name} {len(bodies)}" for name, bodies in new.items())
          + f"; {canary} {part:.2f} %, wanted {wanted} %", flush=True)
    check(abs(part - wanted) <= 1, f"{canary} got {part:.2f} %, not {wanted} %")
    return new


def canaries(nodes):
    """5 % to each protocol in turn, and members that say another weight meanwhile."""
    a, b, c = nodes
    members = {"MQTT": MQTT(a, "stable", 95), "AMQP": AMQP(b, 95), "SSE": SSE(c, 95), "JSON": JSON(c, 15)}
    rest(3)
    first = EVENTS
    shares(members, "JSON", 0, EVENTS, 5, nodes)
    # By subscribing again MQTT becomes the canary, and JSON one of the others.
    members["MQTT"].subscribe(15)
    members["JSON"].ask(op="subscribe", filter=FILTER, group="canary", qos=1, weight=95)
    rest(3)
    shares(members, "MQTT", first, 6_000, 5, nodes)
    # Weight 0: as long as there are others nothing at all.
    members["MQTT"].subscribe(0)
    rest(3)
    got = shares(members, "MQTT", first + 6_000, 3_000, 0, nodes)
    check(not got["MQTT"], f"weight 0 got {len(got['MQTT'])} events")
    # A canary that speaks AMQP, at the node in the middle.
    members["AMQP"].receiver.close()
    members["MQTT"].subscribe(95)
    members["AMQP"].receiver = members["AMQP"].attach(15).opened()
    members["AMQP"].receiver.received = []
    rest(3)
    shares(members, "AMQP", first + 9_000, 6_000, 5, nodes)
    for member in members.values():
        member.close()


def killed(nodes):
    """A canary ended by kill -9 in the middle of it: what it has not had the others get."""
    a, b, c = nodes
    members = {"MQTT": MQTT(a, "stable", 95), "AMQP": AMQP(b, None), "SSE": SSE(c, 95)}
    victim = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--victim", str(c.port)],
                              stdout=subprocess.PIPE, text=True)
    check(victim.stdout.readline() == "ready\n", "the victim does not start")
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(line.strip() for line in victim.stdout), daemon=True)
    reader.start()
    rest(1)
    before = {name: len(member.got) for name, member in members.items()}
    count = 6_000

    def end():
        while len(lines) < 40 and victim.poll() is None:
            time.sleep(0.005)
        os.kill(victim.pid, signal.SIGKILL)

    threading.Thread(target=end, daemon=True).start()
    publish(nodes, 0, count)
    victim.wait(10)
    reader.join(10)
    check(victim.returncode == -signal.SIGKILL, f"the victim ended with {victim.returncode}")
    new = {}

    def everything():
        new.update({name: [int(one) for one in member.got[before[name]:]] for name, member in members.items()})
        return set().union(*new.values(), map(int, lines)) >= set(range(count))

    until(everything, lambda: f"{count - len(set().union(*new.values(), map(int, lines)))} of {count} are missing", 60)
    check(40 <= len(lines) < count // 10, f"the canary had {len(lines)} of {count} events before it was killed")
    print(f"killed after {len(lines)} of {count} events: " + ", ".join(f"{name} {len(x)}" for name, x in new.items()),
          flush=True)
    for member in members.values():
        member.close()


def refused(nodes):
    """What is no number of 0 to 1000 is refused in the protocol's own terms."""
    a, b, c = nodes
    client = MQTT(a, "refused", 1)
    for wrong in ("1001", "-1", "many", ""):
        client.subscribe(wrong, refused=True)
        check("0 to 1000" in (client.reason or ""), f"the reason is {client.reason}")
    client.close()
    amqp = AMQP(b, 1)
    for wrong in (1_001, -1, "many", 0.5):
        error = amqp.attach(wrong, name="canary|wrong").ended()
        check(error.name == "amqp:invalid-field" and "0 to 1000" in error.text, f"{wrong}: {error}")
    amqp.close()
    for query in ("group=g&weight=1001", "group=g&weight=x", "weight=5"):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{c.http_port}/events?filter=t&{query}", timeout=10)
            check(False, f"{query} was taken")
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            check(error.code == 400 and "weight" in problem["detail"], f"{query}: {error.code} {problem}")


PARTS = (refused, canaries, killed)


def test(*only):
    with Member("a") as a, Member("b", a) as b, Member("c", b) as c:
        nodes = (a, b, c)
        until(lambda: all(node.reachable() == 3 for node in nodes), "the nodes do not find each other")
        run_parts(PARTS, only, nodes)
    return f"canary: {len(PARTS)} parts passed"


def victim(port):
    class Here:
        pass

    node = Here()
    node.port = port
    # An event is written down before it is acknowledged: what is acknowledged nobody else gets.
    MQTT(node, "victim", 15, lambda payload: print(payload, flush=True))
    print("ready", flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--victim"]:
        victim(int(sys.argv[2]))
    else:
        main(test, *sys.argv[1:])
