#!/usr/bin/env python3
"""Proves that connections and links of AMQP come and go without a trace: 1,000 connections of Qpid Proton opened and
closed one after another at a steady pace, links attached and detached in two long rounds of which the second leaves
hardly more memory than the first, and clients killed at work whose sockets and links are gone at once. And that clients
are told why the node ends their connections.

    amqp_connections.py [links a round, default 5000]

Run it with the interpreter that python.sh prints."""

import os
import signal
import socket
import statistics
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import amqp_wire as wire
from amqp_wire import ATTACH, DETACH, HEADER, Raw, attach_receiver, attach_sender, begin_frame, open_frame
from node import Node, check, is_, main
from proton_client import Client, text, until

CONNECTIONS = 1_000
KILLED = 60


def paced(node):
    """Each is opened, used, closed; the last hundred are as quick as the first."""
    times, marks = [], []
    receiver = Client(node).receiver("paced", grants=1_000)
    for number in range(CONNECTIONS):
        if number % 250 == 0:
            marks.append(node.processor_seconds())
        start = node.clock()
        client = Client(node, f"paced-{number}")
        client.sender("paced").accepted(text(body=f"{number}"))
        client.close()
        times.append(node.clock() - start)
    check(receiver.bodies(CONNECTIONS) == [f"{number}" for number in range(CONNECTIONS)], "not what was sent")
    receiver.client.close()
    marks.append(node.processor_seconds())
    first, last = marks[1] - marks[0], marks[4] - marks[3]
    check(last < 2 * first + 0.3, f"the last quarter took {last:.2f} s of the node's time, the first {first:.2f} s")
    # Nobody waits for a timer: an acknowledgement that is put off takes 40 ms.
    check(statistics.median(times) < 0.03, f"a connection takes {statistics.median(times) * 1e3:.1f} ms")
    return f"{CONNECTIONS} connections of {statistics.median(times) * 1e3:.1f} ms, {last / 250 * 1e6:.0f} us of the node's"


def raw_pace(node):
    """From connect to the answered open, without a client library in between."""
    times = []
    for number in range(500):
        start = node.clock()
        raw = Raw(node, container=f"raw-{number}")
        times.append(node.clock() - start)
        raw.send(wire.performative(wire.CLOSE))
        raw.wait(wire.CLOSE)
        check(raw.wait_closed(), "the connection outlives its close")
        raw.close()
    middle = statistics.median(times)
    check(middle < 0.01, f"an open takes {middle * 1e3:.2f} ms")
    return f"{middle * 1e6:.0f} us to an open"


class Rounds:
    """Attaches and detaches links on one connection."""

    def __init__(self, node):
        self.node = node
        self.raw = Raw(node, container="rounds")
        self.raw.send(begin_frame())
        self.raw.wait(wire.BEGIN)
        self.number = 0

    def batch(self, count):
        words = b""
        for place in range(count):
            name = f"round-{self.number}"
            self.number += 1
            address = (f"round/{self.number}", "round/*/x", "$share/g/round/#", "round/fixed")[self.number % 4]
            if self.number % 5 == 0:
                words += attach_sender(name, place, f"round/{self.number}")
            elif self.number % 7 == 0:
                durable = wire.source(address, wire.uint(2), wire.symbol("never"))
                words += wire.performative(
                    ATTACH, wire.string(name), wire.uint(place), wire.TRUE, None, None, durable, wire.target(None))
            else:
                words += attach_receiver(name, place, address)
            words += wire.performative(DETACH, wire.uint(place), wire.TRUE)
        self.raw.send(words)
        for _ in range(count):
            ended = self.raw.wait(DETACH)
            check(ended.error is None, f"a link was refused: {ended.error}")

    def run(self, count):
        """The node's time that it takes."""
        start = self.node.processor_seconds()
        while count > 0:
            self.batch(min(count, 100))
            count -= 100
        return self.node.processor_seconds() - start


def rounds(node, count):
    # What is made once and kept is there before the rounds.
    worker = Rounds(node)
    worker.run(500)
    sizes, times = [], []
    for _ in range(2):
        times.append(worker.run(count))
        time.sleep(0.5)
        sizes.append(node.resident_kilobytes())
    allowed = sizes[0] * 1.05 + 2_048
    check(sizes[1] <= allowed, f"{sizes[1]} KiB after the second round, {sizes[0]} after the first")
    check(times[1] < 2 * times[0] + 0.5, f"the second round took {times[1]:.1f} s, the first {times[0]:.1f}")
    found = node.metrics()
    check(found["apus_subscriptions"] == 0, f"{found['apus_subscriptions']} subscriptions are left")
    worker.raw.close()
    return f"2 x {count} links, {sizes[0]} and {sizes[1]} KiB, {times[1] / count * 1e6:.0f} us each"


def work_until_killed(node, number):
    """A process with links in every state, that sends and never settles."""
    raw = Raw(node, container=f"killed-{number}")
    raw.send(begin_frame() + attach_sender("s", 0, "killed") + attach_receiver("r", 1, "killed")
             + attach_receiver("w", 2, "killed/#") + wire.flow_frame(1, 0, 1_000) + wire.flow_frame(2, 0, 1_000))
    sent = 0
    while True:
        raw.send(wire.transfer_frame(0, sent, wire.data_message(bytes(500)), settled=sent % 2 == 0))
        sent += 1
        if sent > 20:
            raw.send(wire.transfer_frame(0, sent, bytes(50), more=True)[:-17])
            time.sleep(60)


def killed(node):
    before = node.descriptors()
    for number in range(KILLED):
        child = os.fork()
        if not child:
            try:
                work_until_killed(node, number)
            finally:
                os._exit(1)
        time.sleep(0.02 + 0.005 * (number % 7))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # And some that reset instead of ending.
    for number in range(KILLED):
        made = socket.create_connection(("127.0.0.1", node.amqp_port))
        made.sendall(HEADER + open_frame(f"reset-{number}") + begin_frame() + attach_receiver("r", 0, "killed"))
        if number % 2:
            made.recv(1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.close()
    end = time.monotonic() + 20
    while (node.descriptors() > before or node.metrics()["apus_subscriptions"]) and time.monotonic() < end:
        time.sleep(0.05)
    check(node.descriptors() <= before, f"{node.descriptors()} descriptors instead of {before}")
    found = node.metrics()
    check(found['apus_connections{protocol="amqp"}'] == 0, "connections of the dead")
    check(found["apus_subscriptions"] == 0, "subscriptions of the dead")
    return f"{2 * KILLED} killed or reset"


def manage(node, method, name, rest=""):
    """The status of a request about a client to the management interface."""
    path = f"/v1/clients/{urllib.parse.quote(name, safe='')}{rest}"
    try:
        return urllib.request.urlopen(urllib.request.Request(f"http://{node.admin}{path}", method=method)).status
    except urllib.error.HTTPError as error:
        return error.code


def forced(client):
    """What a client is told whose connection the node ends."""
    until(lambda: client.is_gone, f"{client.name} is still connected")
    is_("the connection's end", "amqp:connection:forced", client.error.name)
    return client.error.text


def ended(node):
    """Ended by an administrator, by the connection's name and by a link's, and by the node's stop."""
    client = Client(node, "press 4/a?b%2F#1")
    name = f"amqp:{client.name}"
    is_("a look", 200, manage(node, "GET", name))
    is_("a trace", 409, manage(node, "PUT", name, "/trace"))
    is_("an end", 204, manage(node, "DELETE", name))
    is_("its reason", "ended by an administrator", forced(client))
    client = Client(node, "kicked")
    client.receiver("kicked/#", name="link/#", durable=True)
    is_("an end by a link", 204, manage(node, "DELETE", "amqp:kicked/link/#"))
    is_("its reason", "ended by an administrator", forced(client))
    is_("what is durable", 409, manage(node, "DELETE", "amqp:kicked/link/#"))
    is_("its end", 204, manage(node, "DELETE", "amqp:kicked/link/#", "?session=true"))
    is_("a look at it", 404, manage(node, "GET", "amqp:kicked/link/#"))
    clients = [Client(node), Client(node)]
    clients[0].receiver("stop/#")
    node.process.send_signal(signal.SIGTERM)
    is_("its reason", ["the node is stopping"] * 2, [forced(client) for client in clients])
    return "told why they end"


def test(count):
    with Node(amqp=True) as node:
        said = []
        for part in (raw_pace, paced, lambda node: rounds(node, count), killed, ended):
            said.append(part(node))
            print(said[-1], flush=True)
    return "connections: " + "; ".join(said)


if __name__ == "__main__":
    main(test, int(sys.argv[1]) if len(sys.argv) > 1 else 5_000)
