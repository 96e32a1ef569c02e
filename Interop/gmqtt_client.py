#!/usr/bin/env python3
"""Proves that gmqtt works with a node over MQTT 3.1.1 and 5: every QoS, retained events, wills, properties, aliases,
its own reconnection with a session, a shared subscription. Run it with the interpreter that python.sh prints."""

import asyncio
import logging

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.storage import PersistentStorage

from node import Node, check, main

BINARY = bytes(range(256))
USER = [("b", "1"), ("a", "2"), ("b", "1"), ("clé", "🐝")]


class Client:
    """A gmqtt client that remembers what it received; a context that connects and disconnects."""

    def __init__(self, node, name, version, keep=False, will=None, **properties):
        self.node, self.version = node, version
        self.received = asyncio.Queue()
        self.connections = asyncio.Queue()
        self.granted = asyncio.Queue()
        self.unsettled = PersistentStorage()
        self.gmqtt = gmqtt.Client(
            name, clean_session=not keep, will_message=will, persistent_storage=self.unsettled,
            session_expiry_interval=60 if keep else 0, **properties,
        )
        self.gmqtt.set_config({"reconnect_delay": 0})
        self.gmqtt.on_connect = lambda client, flags, code, properties: self.connections.put_nowait((flags, properties))
        self.gmqtt.on_message = lambda client, *message: self.received.put_nowait(message)
        self.gmqtt.on_subscribe = lambda client, identifier, codes, properties: self.granted.put_nowait(list(codes))

    async def __aenter__(self):
        await within(self.gmqtt.connect("127.0.0.1", self.node.port, version=self.version), "not connected")
        self.session_present, self.told = await within(self.connections.get(), "no CONNACK")
        return self

    async def __aexit__(self, *_):
        await within(self.gmqtt.disconnect(), "did not disconnect")

    async def subscribe(self, topic, qos, **options):
        self.gmqtt.subscribe(topic, qos, **options)
        codes = await within(self.granted.get(), "no SUBACK")
        check(codes == [qos], f"SUBACK {codes} for QoS {qos}")

    async def publish(self, topic, payload, qos=1, retain=False, **properties):
        """Publishes and waits until nothing is unacknowledged."""
        self.gmqtt.publish(topic, payload, qos, retain, **properties)
        await within(self.unsettled.wait_empty(), "no acknowledgement")

    async def take(self, count):
        """That many events, as they come: topic, payload, QoS, properties with `retain` and `dup`."""
        return [await within(self.received.get(), f"not {count} events") for _ in range(count)]

    def cut(self):
        """Ends the connection without DISCONNECT; the client reconnects by itself."""
        self.gmqtt._connection._transport.abort()

    def kill(self):
        """Ends the connection without DISCONNECT and for good."""
        self.gmqtt._is_active = False
        self.cut()


async def within(awaited, what, seconds=60):
    try:
        async with asyncio.timeout(seconds):
            return await awaited
    except TimeoutError:
        check(False, what)


async def qualities(node, version):
    async with Client(node, "sender", version) as sender, Client(node, "receiver", version) as receiver:
        for published in range(3):
            for asked in range(3):
                topic = f"q/{published}/{asked}"
                await receiver.subscribe(topic, asked)
                wanted = [BINARY, b"", bytes(1 << 20)] + [str(number).encode() for number in range(100)]
                for payload in wanted:
                    sender.gmqtt.publish(topic, payload, published)
                await within(sender.unsettled.wait_empty(), f"QoS {published} was not acknowledged")
                taken = await receiver.take(len(wanted))
                check([message[1] for message in taken] == wanted, f"QoS {published} to {asked}: other payloads")
                check({message[2] for message in taken} == {min(published, asked)}, "not the lower QoS")


async def retained(node, version):
    async with Client(node, "sender", version) as sender, Client(node, "late", version) as late:
        for topic, payload in (("kept/a", "old"), ("kept/a", "new"), ("kept/b", "b"), ("kept/c", "c"), ("kept/c", "")):
            await sender.publish(topic, payload, 1, True)
        await late.subscribe("kept/#", 1)
        got = sorted((topic, payload, given["retain"]) for topic, payload, _, given in await late.take(2))
        check(got == [("kept/a", b"new", 1), ("kept/b", b"b", 1)], f"retained: {got}")
        # Nothing else was retained, or it would come before this one.
        await sender.publish("kept/a", "live", 1, True)
        (_, payload, _, given), = await late.take(1)
        check((payload, given["retain"]) == (b"live", 0), f"live: {payload} {given}")
        for topic in ("kept/a", "kept/b"):
            await sender.publish(topic, "", 1, True)


async def wills(node, version):
    async with Client(node, "witness", version) as witness:
        await witness.subscribe("will/#", 2)
        for name in ("polite", "killed"):
            will = gmqtt.Message(f"will/{name}", BINARY, qos=2, user_property=USER, content_type="x")
            async with Client(node, name, version, will=will) as mortal:
                if name == "killed":
                    mortal.kill()
        # A will of the polite one would have come first.
        (topic, payload, qos, given), = await witness.take(1)
        check((topic, payload, qos) == ("will/killed", BINARY, 2), f"will: {topic} {qos}")
        if version == MQTTv50:
            check(given.get("user_property") == USER and given.get("content_type") == ["x"], f"of a will: {given}")


async def properties(node, version):
    values = dict(payload_format_id=1, content_type="text/ü", response_topic="reply/日本", correlation_data=BINARY)
    async with Client(node, "sender", MQTTv50) as sender, Client(node, "receiver", version) as receiver:
        options = {"subscription_identifier": 300} if version == MQTTv50 else {}
        await receiver.subscribe("prop/#", 2, **options)
        for qos in range(3):
            await sender.publish("prop/x", "grüezi", qos, user_property=USER, message_expiry_interval=60, **values)
        for _, payload, qos, given in await receiver.take(3):
            check(payload.decode() == "grüezi", f"other payload {payload}")
            if version == MQTTv311:
                check(set(given) == {"dup", "retain"}, f"3.1.1 with properties: {given}")
                continue
            for name, value in (values | {"subscription_identifier": 300}).items():
                check(given.get(name) == [value], f"{name} at QoS {qos}: {given.get(name)}")
            check(given.get("user_property") == USER, f"user properties at QoS {qos}: {given.get('user_property')}")
            check(50 <= given["message_expiry_interval"][0] <= 60, f"expiry {given['message_expiry_interval']}")


async def aliases(node, version):
    """This client resolves aliases: more topics than it takes, all arrive under their names, most without them."""
    if version == MQTTv311:
        return
    async with (
        Client(node, "sender", version) as sender,
        Client(node, "receiver", version, topic_alias_maximum=8) as receiver,
    ):
        await receiver.subscribe("alias/#", 1)
        wanted = [(f"alias/{number // 10 % 20}", str(number).encode()) for number in range(800)]
        for topic, payload in wanted:
            sender.gmqtt.publish(topic, payload, 1)
        taken = await receiver.take(len(wanted))
        check([message[:2] for message in taken] == wanted, "other topics by alias")
        given = [message[3].get("topic_alias", [0])[0] for message in taken]
        check(max(given) <= 8 and sum(alias > 0 for alias in given) >= 720, "aliases that it does not take, or few")
        await within(sender.unsettled.wait_empty(), "no acknowledgement")


async def reconnection(node, version):
    async with Client(node, "sender", version) as sender, Client(node, "keeper", version, keep=True) as keeper:
        check(not keeper.session_present, "a session before the first connection")
        await keeper.subscribe("session/#", 2)
        seen = set()
        for turn in range(5):
            keeper.cut()
            for number in range(50):
                sender.gmqtt.publish("session/x", f"{turn} {number}", 1 + number % 2)
            present, _ = await within(keeper.connections.get(), "it did not reconnect")
            check(present, "no session at a reconnection")
            await within(sender.unsettled.wait_empty(), "no acknowledgement")
            got = []
            while len(got) < 50:
                got += new(await keeper.take(1), seen)
            check(got == [f"{turn} {number}" for number in range(50)], f"turn {turn}: {got}")
    for keep in (True, False):
        async with Client(node, "keeper", version, keep=keep) as again:
            check(again.session_present == keep, f"session present: {again.session_present}")
            check(not new(await again.take(again.received.qsize()), seen), "an event from nowhere")


def new(taken, seen):
    """The payloads that are not in `seen`, which gets them. An event whose acknowledgement was lost with a connection
    comes again, marked; this client hands it over again, also at QoS 2."""
    found = []
    for _, payload, _, given in taken:
        payload = payload.decode()
        if payload in seen:
            check(given["dup"], f"{payload} comes again without DUP")
        else:
            seen.add(payload)
            found.append(payload)
    return found


async def shared(node, version):
    other = MQTTv311 if version == MQTTv50 else MQTTv50
    async with (
        Client(node, "one", version) as one, Client(node, "two", version) as two,
        # A group has members of any version.
        Client(node, "three", other) as three, Client(node, "sender", version) as sender,
    ):
        members = (one, two, three)
        for member in members:
            await member.subscribe("$share/g/work/+", 2)
        for number in range(300):
            sender.gmqtt.publish("work/x", str(number), 1 + number % 2)
        parts = await asyncio.gather(*(member.take(100) for member in members))
        got = sorted(int(message[1]) for part in parts for message in part)
        check(got == list(range(300)), f"{len(set(got))} of 300 different events")
        await within(sender.unsettled.wait_empty(), "no acknowledgement")


PARTS = (qualities, retained, wills, properties, aliases, reconnection, shared)


async def run(node):
    for version, name in ((MQTTv311, "3.1.1"), (MQTTv50, "5")):
        for part in PARTS:
            await part(node, version)
            drops = {key: value for key, value in node.counters().items() if key.startswith("dropped")}
            check(not drops, f"{name} {part.__name__}: dropped {drops}")
            print(f"{name} {part.__name__}: ok", flush=True)


def test():
    # It warns of every connection that the test cuts.
    logging.getLogger("gmqtt").setLevel(logging.ERROR)
    with Node() as node:
        asyncio.run(run(node))
    return f"gmqtt: {len(PARTS)} parts with 3.1.1 and with 5 passed, nothing dropped"


if __name__ == "__main__":
    main(test)
