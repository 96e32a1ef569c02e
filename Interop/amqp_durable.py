#!/usr/bin/env python3
"""Proves that durable subscriptions of AMQP keep what they promise, with clients made with Qpid Proton: they outlive
their links by container and name, what was under way when a client was killed comes again and says so, groups share
out each event once and go on when members leave, and a full subscription stops its publishers instead of losing events.

    amqp_durable.py [--victim PORT]

Run it with the interpreter that python.sh prints."""

import os
import signal
import subprocess
import sys
import time

from node import Node, check, is_, main, run_parts
from proton_client import WORLD, Client, Receiver, data, rest, text, until

QUEUED = 100
CREDIT = 50
LIMITS = f"limits: {{ max_queued_events: {QUEUED}, amqp_credit: {CREDIT} }}\n"


def texts(first, count):
    return [f"{number}" for number in range(first, first + count)]


def send(sender, first, count):
    sender.send_all([text(body=body) for body in texts(first, count)])


def detached(node):
    """Detached and attached again, by the same connection and by another one: everything in order."""
    publisher = Client(node)
    sender = publisher.sender("durable/a")
    client = Client(node, "durable")
    receiver = client.receiver("durable/*", name="sub", durable=True)
    send(sender, 0, 10)
    is_("attached", texts(0, 10), receiver.bodies(10))
    receiver.detach()
    send(sender, 10, 20)
    receiver = client.receiver("durable/*", name="sub", durable=True)
    is_("attached again", texts(10, 20), receiver.bodies(20))
    receiver.detach()
    client.close()
    send(sender, 30, 20)
    client = Client(node, "durable")
    receiver = client.receiver("durable/*", name="sub", durable=True, grants=0)
    receiver.grant(5)
    is_("on another connection", texts(30, 5), receiver.bodies(5))
    # Without a word the connection's end detaches, too.
    client.close()
    send(sender, 50, 5)
    client = Client(node, "durable")
    receiver = client.receiver("durable/*", name="sub", durable=True)
    is_("and again", texts(35, 20), receiver.bodies(20))
    receiver.nothing_more(0.1)
    # A link of the same name in another container is another subscription.
    other = Client(node, "another").receiver("durable/*", name="sub", durable=True)
    other.nothing_more(0.1)
    other.close()
    other.client.close()
    # What is not durable is gone with its link.
    fleeting = client.receiver("durable/*", name="fleeting")
    fleeting.detach()
    send(sender, 55, 3)
    is_("the durable one", texts(55, 3), receiver.bodies(3))
    client.receiver("durable/*", name="fleeting").nothing_more(0.1)
    receiver.close()
    client.close()
    publisher.close()


def unsubscribed(node):
    """close ends a subscription; so does a link without a source, which first tells what there was."""
    publisher = Client(node)
    sender = publisher.sender("unsub")
    client = Client(node, "unsub")
    receiver = client.receiver("unsub", name="sub", durable=True)
    receiver.close()
    send(sender, 0, 3)
    receiver = client.receiver("unsub", name="sub", durable=True)
    receiver.nothing_more(0.2)
    receiver.detach()
    send(sender, 3, 3)
    # As JMS does it: attach to the name alone, see the source, close.
    known = client.receiver(None, name="sub", grants=0)
    is_("the source that is there", "unsub", known.address)
    is_("its durability", 2, int(known.link.remote_source.durability))
    known.close()
    error = client.refused(nameless, "sub")
    is_("when it is gone", "amqp:not-found", error.name)
    receiver = client.receiver("unsub", name="sub", durable=True)
    receiver.nothing_more(0.2)
    # Another topic under the same name is another subscription.
    receiver.detach()
    send(sender, 6, 1)
    receiver = client.receiver("unsub/other", name="sub", durable=True)
    send(sender, 7, 1)
    receiver.nothing_more(0.2)
    receiver.close()
    client.close()
    publisher.close()


def nameless(client, name):
    return Receiver(client, WORLD.create_receiver(client.connection, None, name=name))


def victim(port):
    """A process: takes ten events, settles three, and waits for its end."""

    class Address:
        amqp_port = port

    client = Client(Address, "victim")
    receiver = client.receiver("killed/x", name="sub", durable=True, holds=True, grants=0)
    receiver.grant(10)
    for number, got in enumerate(receiver.wait(10)):
        if number in (0, 1, 4):
            got.settle()
    rest(0.2)
    print("ready", flush=True)
    rest(60)


def killed(node):
    """What a killed client had not settled comes again, marked, before everything else."""
    client = Client(node, "victim")
    client.receiver("killed/x", name="sub", durable=True).detach()
    client.close()
    publisher = Client(node)
    sender = publisher.sender("killed/x")
    send(sender, 0, 15)
    for turn in range(3):
        process = subprocess.Popen(
            [sys.executable, __file__, "--victim", f"{node.amqp_port}"], stdout=subprocess.PIPE)
        check(process.stdout.readline() == b"ready\n", "the victim did not start")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        send(sender, 15 + 3 * turn, 3)
    back = Client(node, "victim").receiver("killed/x", name="sub", durable=True)
    got = back.wait(15)
    bodies = [one.body for one in got]
    # Three victims of ten settled each the first, second and fifth of what they got.
    left = texts(0, 24)
    for turn in range(3):
        left = [body for place, body in enumerate(left) if place not in (0, 1, 4)]
    is_("what is left, in order", left, bodies)
    counts = [one.message.delivery_count for one in got]
    check(counts == sorted(counts, reverse=True) and counts[0] == 3 and counts[-1] == 0, f"delivery counts: {counts}")
    check(got[0].message.first_acquirer is False, "the first that came again says that it had not been delivered")
    back.nothing_more(0.2)
    back.close()
    back.client.close()
    publisher.close()


def shared(node):
    """Members of a group get each event once between them, of one container or of several."""
    publisher = Client(node)
    sender = publisher.sender("shared/x")
    for names, capabilities, containers in (
        (("group", "group|1", "group|2"), ("shared",), ("one", "one", "one")),
        (("all|1", "all|2", "all"), ("shared", "global"), ("one", "two", "three")),
    ):
        clients = [Client(node, container) for container in containers]
        members = [
            client.receiver("shared/*", name=name, capabilities=capabilities, durable=False)
            for client, name in zip(clients, names)
        ]
        everybody = publisher.receiver("shared/*")
        send(sender, 0, 300)
        is_("the one that is not in the group", texts(0, 300), everybody.bodies(300))
        until(lambda: sum(len(member.received) for member in members) >= 300, "not everything came to the group")
        rest(0.1)
        counts = [len(member.received) for member in members]
        bodies = [got.body for member in members for got in member.received]
        is_("each once", sorted(texts(0, 300)), sorted(bodies))
        check(min(counts) > 10, f"shares: {counts}")
        for member in members:
            numbers = [int(got.body) for got in member.received]
            check(numbers == sorted(numbers), "a member got events out of order")
            member.received.clear()
        # One leaves with a close, one with its connection; the last one goes on.
        members[0].close()
        clients[1].close()
        send(sender, 300, 50)
        until(lambda: len(members[2].received) == 50, lambda: f"{len(members[2].received)} of 50 for the last member")
        members[2].received.clear()
        everybody.close()
        for client in (clients[0], clients[2]):
            client.close()
    publisher.close()


def shared_loss(node):
    """What a member of a durable group had not settled when it left goes to another one, and nothing is lost."""
    publisher = Client(node)
    sender = publisher.sender("loss/x")
    holder, other = Client(node, "holder"), Client(node, "other")
    options = {"capabilities": ("shared", "global"), "durable": True}
    holding = holder.receiver("loss/x", name="g|1", holds=True, grants=200, **options)
    going = other.receiver("loss/x", name="g|2", grants=200, **options)
    send(sender, 0, 60)
    until(lambda: len(holding.received) + len(going.received) == 60, "not everything came")
    check(len(holding.received) > 5, f"shares: {len(holding.received)} and {len(going.received)}")
    holding.link.close()
    until(lambda: len(going.received) == 60, lambda: f"{len(going.received)} of 60 after a member left")
    is_("each once", sorted(texts(0, 60)), sorted(got.body for got in going.received))
    going.close()
    for client in (holder, other, publisher):
        client.close()


def bounded(_):
    """A publisher to a full subscription runs out of credit at the bound; when it is read nothing is missing."""
    with Node(amqp=True, extra=LIMITS) as node:
        reader = Client(node, "reader")
        receiver = reader.receiver("bounded/x", name="sub", durable=True, grants=0)
        publishers = [Client(node) for _ in range(2)]
        senders = [client.sender("bounded/x") for client in publishers]
        sent = [0, 0]

        def push():
            for number, sender in enumerate(senders):
                while sender.credit > 0:
                    sender.put(text(body=f"{number}:{sent[number]}"))
                    sent[number] += 1

        until(lambda: push() or sum(sent) >= QUEUED and not any(sender.credit for sender in senders),
              lambda: f"{sent} were taken")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            push()
            rest(0.02)
        is_("credit", [0, 0], [sender.credit for sender in senders])
        # Each may have its credit under way, beyond what waits.
        check(QUEUED <= sum(sent) <= QUEUED + 2 * CREDIT + 20, f"{sent} were taken, and the bound is {QUEUED}")
        open_ = [len(sender.unsettled) for sender in senders]
        check(all(open_) and sum(sent) - sum(open_) <= QUEUED, f"{open_} of {sent} are unsettled")
        # Somebody else's events are not held up, and another protocol's is dropped and counted.
        other = Client(node)
        ears = other.receiver("bounded/other")
        other.sender("bounded/other").accepted(text(body="goes on"))
        is_("another topic", ["goes on"], ears.bodies(1))
        got = []
        receiver.grants = 20
        receiver.grant(20)
        end = time.monotonic() + 60
        while sum(sent) < 2_000 and time.monotonic() < end:
            push()
            rest(0.005)
        until(lambda: len(receiver.received) == sum(sent), lambda: f"{len(receiver.received)} of {sum(sent)} came")
        until(lambda: not any(sender.unsettled for sender in senders), "not everything was settled")
        got = [one.body for one in receiver.received]
        for number in range(2):
            own = [body for body in got if body.startswith(f"{number}:")]
            is_("in order", [f"{number}:{place}" for place in range(sent[number])], own)
        check(sum(sent) >= 2_000, f"only {sum(sent)} were sent")
        check(all(sender.credit > 0 for sender in senders), "credit does not come back")
        dropped = {key: value for key, value in node.counters().items() if key.startswith("dropped")}
        is_("dropped", {}, dropped)
        for client in [reader, other, *publishers]:
            client.close()
    return sum(sent)


def away(_):
    """The same while nobody is there; the publisher's connection may end meanwhile."""
    with Node(amqp=True, extra=LIMITS) as node:
        Client(node, "away").receiver("away/x", name="sub", durable=True, grants=0).detach()
        publisher = Client(node)
        sender = publisher.sender("away/x")
        sent = 0

        def confirmed_so_far():
            nonlocal sent
            while sender.credit > 0:
                sender.put(data(f"{sent}".encode()))
                sent += 1
            return sent - len(sender.unsettled)

        until(lambda: confirmed_so_far() >= QUEUED - 20, lambda: f"{sent} sent, {len(sender.unsettled)} unconfirmed")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            confirmed_so_far()
            rest(0.02)
        confirmed = sent - len(sender.unsettled)
        check(QUEUED - 20 <= confirmed <= QUEUED, f"{confirmed} confirmed")
        publisher.close()
        receiver = Client(node, "away").receiver("away/x", name="sub", durable=True)
        until(lambda: len(receiver.received) >= confirmed, "what was confirmed does not come")
        rest(0.2)
        numbers = [int(got.body) for got in receiver.received]
        is_("what came", list(range(len(numbers))), numbers)
        check(len(numbers) >= confirmed, f"{len(numbers)} of {confirmed}")


PARTS = (detached, unsubscribed, killed, shared, shared_loss, bounded, away)


def test(*only):
    with Node(amqp=True) as node:
        run_parts(PARTS, only, node)
    return f"durable subscriptions of AMQP: {len(PARTS)} parts passed"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--victim"]:
        victim(int(sys.argv[2]))
    else:
        main(test, *sys.argv[1:])
