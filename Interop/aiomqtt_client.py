#!/usr/bin/env python3
"""Proves that aiomqtt works with a node over MQTT 3.1.1 and 5: every QoS, retained events, wills, properties, a session
over a lost connection, a shared subscription. Run it with the interpreter that python.sh prints."""

import asyncio
import socket

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from node import Node, check, main

OLD, FIVE = aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5
BINARY = bytes(range(256))


def made(kind, **values):
    """Properties for a packet type."""
    properties = Properties(kind)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def client(node, name, version, keep=False, will=None):
    """A client whose session is kept for a minute or, with 3.1.1, as long as the node keeps any."""
    if version == FIVE:
        properties = made(PacketTypes.CONNECT, SessionExpiryInterval=60 if keep else 0)
        options = {"clean_start": not keep, "properties": properties}
    else:
        options = {"clean_session": not keep}
    return aiomqtt.Client(
        "127.0.0.1", node.port, identifier=name, protocol=version, will=will, timeout=60, **options
    )


async def take(receiver, count):
    """That many events, in the order in which they come."""
    taken = []
    try:
        async with asyncio.timeout(60):
            while len(taken) < count:
                taken.append(await anext(receiver.messages))
    except TimeoutError:
        check(False, f"{len(taken)} of {count} events")
    return taken


async def cut(connected):
    """Ends a connection without DISCONNECT; returns when the client has seen it."""
    connected._client.socket().shutdown(socket.SHUT_RDWR)
    try:
        async with asyncio.timeout(10):
            while True:
                await anext(connected.messages)
    except aiomqtt.MqttError:
        pass
    except TimeoutError:
        check(False, "a client did not see its connection end")


def codes(granted):
    return [getattr(code, "value", code) for code in granted]


async def qualities(node, version):
    async with client(node, "sender", version) as sender, client(node, "receiver", version) as receiver:
        for published in range(3):
            for asked in range(3):
                topic = f"q/{published}/{asked}"
                check(codes(await receiver.subscribe(topic, asked)) == [asked], "not granted as asked")
                wanted = [BINARY, b""] + [str(number).encode() for number in range(100)]
                for payload in wanted:
                    await sender.publish(topic, payload, published)
                taken = await take(receiver, len(wanted))
                check([message.payload for message in taken] == wanted, f"QoS {published} to {asked}: other payloads")
                lower = {min(published, asked)}
                check({message.qos for message in taken} == lower, f"QoS {published} to {asked}: not the lower")
                await receiver.unsubscribe(topic)


async def retained(node, version):
    async with client(node, "sender", version) as sender:
        for topic, payload in (("kept/a", "old"), ("kept/a", "new"), ("kept/b", "b"), ("kept/c", "c"), ("kept/c", "")):
            await sender.publish(topic, payload, 1, retain=True)
        async with client(node, "late", version) as late:
            await late.subscribe("kept/#", 1)
            taken = await take(late, 2)
            got = sorted((str(message.topic), message.payload, message.retain) for message in taken)
            check(got == [("kept/a", b"new", True), ("kept/b", b"b", True)], f"retained: {got}")
            # Live events are not marked; nothing else was retained, or it would come before this one.
            await sender.publish("kept/a", "live", 1, retain=True)
            live = (await take(late, 1))[0]
            check((live.payload, live.retain) == (b"live", False), f"live: {live.payload} {live.retain}")
        for topic in ("kept/a", "kept/b"):
            await sender.publish(topic, "", 1, retain=True)


async def wills(node, version):
    five = version == FIVE
    properties = made(PacketTypes.WILLMESSAGE, UserProperty=[("a", "1"), ("a", "2")], ContentType="x") if five else None
    async with client(node, "witness", version) as witness:
        await witness.subscribe("will/#", 2)
        for name in ("polite", "killed"):
            will = aiomqtt.Will(f"will/{name}", BINARY, 2, False, properties)
            async with client(node, name, version, will=will) as mortal:
                if name == "killed":
                    await cut(mortal)
        # A will of the polite one would have come first.
        got = (await take(witness, 1))[0]
        check((str(got.topic), got.payload, got.qos) == ("will/killed", BINARY, 2), f"will: {got.topic} {got.qos}")
        if five:
            check(got.properties.UserProperty == [("a", "1"), ("a", "2")], "user properties of a will")
            check(got.properties.ContentType == "x", "content type of a will")


async def properties(node, version):
    values = dict(
        PayloadFormatIndicator=1, ContentType="text/ü", ResponseTopic="reply/日本", CorrelationData=BINARY,
        UserProperty=[("b", "1"), ("a", "2"), ("b", "1"), ("", "")],
    )
    async with client(node, "sender", FIVE) as sender, client(node, "receiver", version) as receiver:
        await receiver.subscribe("prop/#", 2)
        for qos in range(3):
            given = made(PacketTypes.PUBLISH, MessageExpiryInterval=60, **values)
            await sender.publish("prop/x", "grüezi", qos, properties=given)
        for message in await take(receiver, 3):
            check(message.payload.decode() == "grüezi", f"other payload {message.payload}")
            if version == FIVE:
                for name, value in values.items():
                    got = getattr(message.properties, name, None)
                    check(got == value, f"{name} at QoS {message.qos}: {got}")
                check(50 <= message.properties.MessageExpiryInterval <= 60, "message expiry")


async def sessions(node, version):
    keeper = client(node, "keeper", version, keep=True)
    async with client(node, "sender", version) as sender:
        async with keeper:
            await keeper.subscribe("session/#", 2)
            await cut(keeper)
        for turn in range(3):
            for number in range(60):
                await sender.publish("session/x", str(number), 1 + number % 2)
            # The same client again, without subscribing again.
            keeper = client(node, "keeper", version, keep=True)
            async with keeper:
                taken = await take(keeper, 60)
                for qos in (1, 2):
                    got = [int(message.payload) for message in taken if message.qos == qos]
                    check(got == list(range(qos - 1, 60, 2)), f"turn {turn}, QoS {qos}: {got}")
                await sender.publish("session/x", "live", 1)
                check((await take(keeper, 1))[0].payload == b"live", "something comes twice")
        async with client(node, "keeper", version) as fresh:
            await sender.publish("session/x", "lost", 1)
            await fresh.subscribe("other", 1)
            await sender.publish("other", "marker", 1)
            check((await take(fresh, 1))[0].payload == b"marker", "a clean start with a subscription")


async def shared(node, version):
    async with (
        client(node, "one", version) as one, client(node, "two", version) as two,
        # The third is always of the other version: a group has members of any.
        client(node, "three", OLD if version == FIVE else FIVE) as three, client(node, "sender", version) as sender,
    ):
        members = (one, two, three)
        for member in members:
            await member.subscribe("$share/g/work/+", 2)
        for number in range(300):
            await sender.publish("work/x", str(number), 1 + number % 2)
        parts = await asyncio.gather(*(take(member, 100) for member in members))
        got = sorted(int(message.payload) for part in parts for message in part)
        check(got == list(range(300)), f"{len(set(got))} of 300 different events")


PARTS = (qualities, retained, wills, properties, sessions, shared)


async def run(node):
    for version in (OLD, FIVE):
        for part in PARTS:
            await part(node, version)
            drops = {key: value for key, value in node.counters().items() if key.startswith("dropped")}
            check(not drops, f"{version.name} {part.__name__}: dropped {drops}")
            print(f"{version.name} {part.__name__}: ok", flush=True)


def test():
    with Node() as node:
        asyncio.run(run(node))
    return f"aiomqtt: {len(PARTS)} parts with 3.1.1 and with 5 passed, nothing dropped"


if __name__ == "__main__":
    main(test)
