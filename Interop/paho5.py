#!/usr/bin/env python3
"""Proves that the Eclipse Paho client works with a node over MQTT 5, and the same node over 3.1.1 where that applies:
payloads, properties, aliases, limits of the client, subscription options, reason codes, takeovers, sessions, shared
groups, request and response. Run it with the interpreter that python.sh prints."""

import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from node import Node, check, connect5_packet, main, packet, read_until, text, until
from paho_client import Client

BINARY = bytes(range(256))
MEBIBYTE = bytes(number * 31 % 251 for number in range(1 << 20))


def made(kind, **values):
    """Properties for a packet type."""
    properties = Properties(kind)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def five(node, name, clean=True, hold=False, **values):
    """A client of MQTT 5 with these properties of CONNECT."""
    return Client(
        node, name, clean=clean, hold=hold, version=mqtt.MQTTv5, properties=made(PacketTypes.CONNECT, **values)
    )


def payloads(node):
    for version in (mqtt.MQTTv5, mqtt.MQTTv311):
        sender = Client(node, "sender", version=version)
        receiver = Client(node, "receiver", version=version)
        check(receiver.subscribe("payload", 2) == [2], "not granted as asked")
        wanted = []
        for qos in range(3):
            for payload in (BINARY, b"", MEBIBYTE):
                sender.publish("payload", payload, qos).wait_for_publish(20)
                wanted.append((qos, payload))
        got = [(message.qos, message.payload) for message in receiver.wait(len(wanted))]
        check(got == wanted, f"{version.name}: other payloads: {[(qos, len(payload)) for qos, payload in got]}")
        sender.disconnect()
        receiver.disconnect()


ALL = dict(
    PayloadFormatIndicator=1,
    MessageExpiryInterval=60,
    ContentType="text/plain; ü",
    ResponseTopic="reply/日本",
    CorrelationData=BINARY,
    UserProperty=[("b", "1"), ("a", "2"), ("b", "1"), ("", ""), ("clé", "🐝")],
)


def properties(node):
    sender = five(node, "sender")
    old_sender = Client(node, "old sender")
    receiver = five(node, "receiver")
    old_receiver = Client(node, "old receiver")
    for client in (receiver, old_receiver):
        client.subscribe("prop/#", 2)
    for qos in range(3):
        sender.publish("prop/live", "grüezi", qos, properties=made(PacketTypes.PUBLISH, **ALL)).wait_for_publish(10)
    sender.publish_settled("prop/kept", "kept", 1, True, made(PacketTypes.PUBLISH, **ALL))
    late = five(node, "late")
    late.subscribe("prop/kept", 1)
    for message in receiver.wait(4) + late.wait(1):
        for name, value in ALL.items():
            got = getattr(message.properties, name, None)
            if name == "MessageExpiryInterval":
                check(got is not None and 50 <= got <= 60, f"{name} at QoS {message.qos}: {got}")
            else:
                check(got == value, f"{name} at QoS {message.qos}: {got}")
    check(len(receiver.received) == 4 and len(late.received) == 1, "not all events with properties")
    check(late.received[0].retain and not any(message.retain for message in receiver.received), "retain flags")
    # Paho hands an event of QoS 2 on when it is released, so one of QoS 1 that came later may be before it.
    old, new = ([m.payload for m in client.wait(4)] for client in (old_receiver, receiver))
    check(sorted(old) == sorted(new), f"5 to 3.1.1: {old}, not {new}")
    old_sender.publish("prop/live", "plain", 1)
    last = receiver.wait(5)[-1]
    check(last.payload == b"plain" and last.properties.isEmpty(), f"3.1.1 to 5: {last.properties}")
    sender.publish_settled("prop/kept", b"", 1, True)
    for client in (sender, old_sender, receiver, old_receiver, late):
        client.disconnect()


def aliases_from_client(node):
    sender = five(node, "sender")
    check(sender.told.TopicAliasMaximum == 64, f"topic alias maximum: {sender.told.TopicAliasMaximum}")
    receiver = five(node, "receiver")
    receiver.subscribe("alias/#", 2)
    wanted = []
    for turn in range(4):
        for number in range(1, 65):
            # The third turn gives each alias another topic.
            name = f"alias/{number if turn < 2 else 100 - number}"
            properties = made(PacketTypes.PUBLISH, TopicAlias=number)
            sender.publish(name if turn % 2 == 0 else "", f"{turn} {number}", turn % 3, properties=properties)
            wanted.append((name, f"{turn} {number}"))
    got = [(message.topic, message.payload.decode()) for message in receiver.wait(len(wanted))]
    check(sorted(got) == sorted(wanted), f"{len(got)} of {len(wanted)} by alias, or to other topics")
    sender.publish("alias/x", "", 0, properties=made(PacketTypes.PUBLISH, TopicAlias=65))
    check(sender.ended.wait(10) and sender.end_reason == 0x94, f"alias 65: {sender.end_reason}")
    sender.paho.loop_stop()
    receiver.disconnect()


def aliases_from_node(node):
    """Raw, because Paho does not resolve aliases that it receives."""
    connection, buffer = node.connect(), bytearray()
    connection.sendall(connect5_packet("aliased", b"\x22\x00\x02"))
    connection.sendall(packet(0x82, b"\x00\x01\x00" + text("alias/#") + b"\x00"))
    read_until(connection, buffer, lambda packets: len(packets) >= 2)
    sender = five(node, "sender")
    # Three topics, two aliases: one gives way to another. The second of two in a row has its alias in any case.
    wanted = [(f"alias/{number // 2 % 3}", str(number)) for number in range(60)]
    for topic, payload in wanted:
        sender.publish(topic, payload)
    packets = read_until(connection, buffer, lambda packets: len(packets) >= len(wanted))
    known, got, short = {}, [], 0
    for first, body in packets:
        check(first == 0x30, f"not a PUBLISH: {first:#x}")
        end = 2 + int.from_bytes(body[:2], "big")
        topic, length = body[2:end].decode(), body[end]
        given = body[end + 1 : end + 1 + length]
        if given:
            check(given[0] == 0x23 and length == 3, f"other properties: {given.hex()}")
            alias = int.from_bytes(given[1:], "big")
            check(1 <= alias <= 2, f"alias {alias} for a client that takes 2")
            check(topic or alias in known, f"alias {alias} before its topic")
            short += not topic
            topic = known[alias] = topic or known[alias]
        got.append((topic, body[end + 1 + length :].decode()))
    check(got == wanted, f"by alias: {got}")
    check(short >= 30, f"{short} of 60 by alias alone")
    connection.close()
    sender.disconnect()


def receive_maximum(node):
    sender = five(node, "sender")
    witness = five(node, "witness")
    narrow = five(node, "narrow", hold=True, ReceiveMaximum=1)
    for client in (witness, narrow):
        client.subscribe("window", 1)
    for number in range(20):
        sender.publish("window", str(number), 1)
    witness.wait(20)
    for number in range(20):
        with narrow.changed:
            check(narrow.changed.wait_for(lambda: len(narrow.received) > number, 60), f"not event {number}")
        # What the node would send too early would be there before the SUBACK.
        narrow.subscribe(f"barrier/{number}", 0)
        check(len(narrow.received) == number + 1, f"{len(narrow.received) - number} unacknowledged, receive maximum 1")
        narrow.paho.ack(narrow.received[-1].mid, 1)
    check(narrow.payloads(20) == [str(number) for number in range(20)], "not in order")
    for client in (sender, witness, narrow):
        client.disconnect()


def maximum_packet_size(node):
    before = node.counters().get("dropped_clientLimit", 0)
    sender = five(node, "sender")
    small = five(node, "small", MaximumPacketSize=1_000)
    large = five(node, "large")
    for client in (small, large):
        client.subscribe("size", 2)
    for qos in range(3):
        sender.publish_settled("size", f"before {qos}", qos)
        sender.publish_settled("size", bytes(1_000), qos)
        sender.publish_settled("size", f"after {qos}", qos)
    check(len(large.wait(9)) == 9, "the client without a limit missed some")
    wanted = [f"{when} {qos}" for qos in range(3) for when in ("before", "after")]
    check(sorted(small.payloads(6)) == sorted(wanted), f"a limit of 1,000 bytes: {small.payloads(6)}")
    dropped = node.counters().get("dropped_clientLimit", 0) - before
    check(dropped == 3, f"{dropped} counted as over the client's limit, not 3")
    check(sender.told.MaximumPacketSize == 16 << 20, f"maximum packet size: {sender.told.MaximumPacketSize}")
    for client in (sender, small, large):
        client.disconnect()


def identifiers(node):
    client = five(node, "client")
    for number, (topic, qos) in enumerate((("id/#", 0), ("id/+", 2), ("id/x", 1)), 1):
        client.subscribe(topic, qos, properties=made(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=number))
    client.subscribe("+/x", 0)
    client.publish_settled("id/x", "all", 2)
    client.unsubscribe("id/x")
    # The same filter again replaces its identifier.
    client.subscribe("id/#", 1, properties=made(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=268_435_455))
    client.publish_settled("id/x", "two", 2)
    client.publish_settled("other/x", "none", 1)
    got = [
        (message.payload.decode(), message.qos, sorted(getattr(message.properties, "SubscriptionIdentifier", [])))
        for message in client.wait(3)
    ]
    wanted = [("all", 2, [1, 2, 3]), ("two", 2, [2, 268_435_455]), ("none", 0, [])]
    check(sorted(got) == sorted(wanted), f"overlapping subscriptions: {got}")
    client.disconnect()


def no_local(node):
    one, other = five(node, "one"), five(node, "other")
    one.subscribe("local/#", options=SubscribeOptions(qos=1, noLocal=True))
    other.subscribe("local/#", options=SubscribeOptions(qos=1))
    one.publish_settled("local/x", "mine")
    other.publish_settled("local/x", "theirs")
    check(one.payloads(1) == ["theirs"], f"no-local: {one.payloads(1)}")
    check(other.payloads(2) == ["mine", "theirs"], f"without no-local: {other.payloads(2)}")
    # One of the matching subscriptions does want it.
    one.subscribe("local/x", options=SubscribeOptions(qos=0))
    one.publish_settled("local/x", "wanted")
    check(one.payloads(2)[1:] == ["wanted"], "no-local of one filter hides what another wants")
    for client in (one, other):
        client.disconnect()
    wrong = five(node, "wrong")
    wrong.paho.subscribe("$share/g/a", options=SubscribeOptions(qos=0, noLocal=True))
    check(wrong.ended.wait(10) and wrong.end_reason == 0x82, f"no-local shared: {wrong.end_reason}")
    wrong.paho.loop_stop()


def retain_handling(node):
    sender = five(node, "sender")
    sender.publish_settled("kept/a", "a", 1, True)
    sender.publish_settled("kept/b", "b", 1, True)
    for handling, wanted in ((0, (2, 2)), (1, (2, 0)), (2, (0, 0))):
        client = five(node, f"handling {handling}")
        for turn in range(2):
            client.subscribe("kept/#", options=SubscribeOptions(qos=1, retainHandling=handling))
            got = len(client.wait(sum(wanted[: turn + 1])))
            check(got == sum(wanted[: turn + 1]), f"retain handling {handling}, subscription {turn + 1}: {got} events")
        check(all(message.retain for message in client.received), f"retain handling {handling}: not marked retained")
        client.disconnect()
    plain, published = five(node, "plain"), five(node, "published")
    plain.subscribe("kept/#", options=SubscribeOptions(qos=1, retainHandling=2))
    published.subscribe("kept/#", options=SubscribeOptions(qos=1, retainHandling=2, retainAsPublished=True))
    sender.publish_settled("kept/a", "live", 1, True)
    sender.publish_settled("kept/a", "passing", 1, False)
    check([message.retain for message in plain.wait(2)] == [False, False], "retained without being asked")
    check([message.retain for message in published.wait(2)] == [True, False], "retain as published")
    for topic in ("kept/a", "kept/b"):
        sender.publish_settled(topic, "", 1, True)
    for client in (sender, plain, published):
        client.disconnect()


def assigned_identifier(node):
    names = []
    for clean in (True, False):
        client = five(node, "", clean=clean, SessionExpiryInterval=60)
        names.append(client.told.AssignedClientIdentifier)
        client.subscribe("assigned", 1)
        client.disconnect()
    check(all(names) and names[0] != names[1], f"assigned: {names}")
    for name in names:
        client = five(node, name, clean=False)
        check(client.session_present, f"no session under the assigned {name}")
        check(not hasattr(client.told, "AssignedClientIdentifier"), "assigned although there is one")
        client.disconnect()


def reason_codes(node):
    sender = five(node, "sender")
    code = sender.publish_settled("nobody/here", "")
    check(code == 0x10, f"PUBACK when nobody has subscribed: {code:#x}")
    receiver = five(node, "receiver")
    receiver.subscribe("somebody/+", 1)
    code = sender.publish_settled("somebody/here", "")
    check(code == 0, f"PUBACK when somebody has subscribed: {code:#x}")
    codes = receiver.unsubscribe(["somebody/+", "somebody/+", "never"])
    check(codes == [0, 0x11, 0x11], f"UNSUBACK: {codes}")
    filters = ["$share/g", "ok/#", "$share//a", "$share/g/ok"]
    codes = receiver.subscribe([(topic, SubscribeOptions(qos=1)) for topic in filters])
    check(codes == [0x8F, 1, 0x8F, 1], f"SUBACK: {codes}")
    old = Client(node, "old")
    codes = old.subscribe([(topic, 1) for topic in filters])
    check(codes == [0x80, 1, 0x80, 1], f"SUBACK of 3.1.1: {codes}")
    for client in (sender, receiver, old):
        client.disconnect()


def takeover(node):
    first = five(node, "twice", SessionExpiryInterval=60)
    first.subscribe("twice", 1)
    second = five(node, "twice", clean=False, SessionExpiryInterval=60)
    check(first.ended.wait(10), "the older connection was not ended")
    check(first.end_reason == 0x8E, f"the loser was told {first.end_reason}, not 0x8E")
    check(second.session_present, "no session at a takeover")
    # By the other version: the session goes on.
    third = Client(node, "twice", clean=False)
    check(second.ended.wait(10) and second.end_reason == 0x8E, f"the loser to 3.1.1 was told {second.end_reason}")
    check(third.session_present, "no session at a takeover by 3.1.1")
    third.publish("twice", "still", 1)
    check(third.payloads(1) == ["still"], "a subscription was lost at a takeover")
    fourth = five(node, "twice")
    check(third.ended.wait(10), "the client of 3.1.1 was not ended")
    check(not fourth.session_present, "a clean start with a session")
    fourth.disconnect()
    for client in (first, second, third):
        client.paho.loop_stop()


def sessions(node):
    first = five(node, "keeper", SessionExpiryInterval=60)
    first.subscribe("session/#", 2)
    first.disconnect()
    sender = five(node, "sender")
    for number in range(100):
        sender.publish_settled("session/x", str(number), 1 + number % 2)
    second = five(node, "keeper", clean=False, hold=True, SessionExpiryInterval=60)
    check(second.session_present, "no session present")
    waited = second.wait(100)
    for qos in (1, 2):
        numbers = [int(message.payload) for message in waited if message.qos == qos]
        check(numbers == list(range(qos - 1, 100, 2)), f"QoS {qos}: not what had waited, in order: {numbers}")
    # It has acknowledged nothing at QoS 1: that comes again, marked.
    second.kill()
    third = five(node, "keeper", clean=False, SessionExpiryInterval=60)
    again = [message for message in third.wait(50) if message.qos == 1]
    check([int(message.payload) for message in again] == list(range(0, 100, 2)), f"{len(again)} of 50 again")
    check(all(message.dup for message in again), "sent again without DUP")
    # DISCONNECT ends the session after all.
    third.paho.disconnect(properties=made(PacketTypes.DISCONNECT, SessionExpiryInterval=0))
    third.paho.loop_stop()
    fourth = five(node, "keeper", clean=False, SessionExpiryInterval=1)
    check(not fourth.session_present, "a session that DISCONNECT had ended")
    fourth.subscribe("session/#", 1)
    present = node.counters()["sessions"]
    fourth.kill()
    until(lambda: node.counters()["sessions"] == present - 1, "a session of 1 s did not expire")
    fifth = five(node, "keeper", clean=False)
    check(not fifth.session_present, "an expired session")
    fifth.disconnect()
    sender.disconnect()


def settled(members, mortal, total, seconds=60):
    """Waits until the living members of a group have got everything together; else says what is missing."""
    deadline = time.monotonic() + seconds
    while sum(len(member.received) for member in members) < total:
        if time.monotonic() > deadline:
            held = {int(message.payload) for message in mortal.received}
            lost = set(range(total)) - {int(message.payload) for member in members for message in member.received}
            check(False, f"{len(lost)} events are lost, {len(lost & held)} of {len(held)} that a killed member had, "
                  f"{'' if mortal.ended.is_set() else 'which has not ended: '}{sorted(lost)[:10]}")
        time.sleep(0.05)


def shared_group(node, expiry=0):
    """Nothing is lost when a member that holds its part is killed, and nothing comes twice to those who acknowledge."""
    total = 3_000
    members = [five(node, f"member{number}") for number in range(2)]
    mortal = five(node, "mortal", hold=True, SessionExpiryInterval=expiry)
    for member in members + [mortal]:
        member.subscribe("$share/workers/work/#", 1)
    sender = five(node, "sender")
    held = threading.Event()

    def kill():
        with mortal.changed:
            if mortal.changed.wait_for(lambda: len(mortal.received) >= 200, 60):
                held.set()
        mortal.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    last = [sender.publish(f"work/{number % 7}", str(number), 1) for number in range(total)]
    killer.join()
    check(held.is_set(), "the member that is killed got too little")
    for information in last:
        information.wait_for_publish(60)
    settled(members, mortal, total)
    got = sorted(int(message.payload) for member in members for message in member.wait(0))
    check(got == list(range(total)), f"{len(got)} events, {len(set(got))} of {total} different ones")
    check(all(len(member.received) > total / 4 for member in members), "not divided")
    for client in members + [sender]:
        client.disconnect()
    if expiry:
        back = five(node, "mortal", clean=False)
        check(back.session_present and not back.wait(0), "what was given on came to its old member too")
        back.disconnect()


def shared_group_that_stays(node):
    shared_group(node, expiry=60)


def shared_group_of_many_topics(node):
    """Work is divided also when every event has a topic of its own."""
    members = [five(node, f"member{number}") for number in range(3)]
    for member in members:
        member.subscribe("$share/workers/each/+", 1)
    sender = five(node, "sender")
    for number in range(300):
        sender.publish_settled(f"each/{number}", "")
    until(lambda: sum(len(member.received) for member in members) >= 300, "not 300 events")
    parts = [len(member.received) for member in members]
    check(min(parts) >= 50, f"300 events of as many topics were divided into {parts}")
    for client in members + [sender]:
        client.disconnect()


def shared_group_beside_others(node):
    """What a session got by its own subscription waits for it, however busy the shared groups of its node are."""
    workers = [five(node, f"worker{number}") for number in range(4)]
    for worker in workers:
        worker.subscribe("$share/workers/work", 1)
    keepers = [five(node, f"keeper{number}", hold=True, SessionExpiryInterval=60) for number in range(4)]
    for number, keeper in enumerate(keepers):
        keeper.subscribe(f"own/{number}", 1)
    # Clients are spread over the lanes: every sender to every keeper, with shared events before each.
    senders = [five(node, f"sender{number}") for number in range(4)]
    for turn in range(8):
        for sender in senders:
            for number in range(4):
                for other in senders:
                    other.publish_settled("work", "")
                sender.publish_settled(f"own/{number}", str(turn))
    for number, keeper in enumerate(keepers):
        keeper.wait(32)
        keeper.kill()
        back = five(node, f"keeper{number}", clean=False)
        got = len(back.wait(32))
        foreign = {message.topic for worker in workers for message in worker.received} - {"work"}
        check(not foreign, f"members of a shared group got {sorted(foreign)}, which they did not subscribe to")
        check(got == 32, f"{got} of 32 unacknowledged events came again")
        back.disconnect()
    for client in workers + senders:
        client.disconnect()


def request_response(node):
    requester = five(node, "requester", RequestResponseInformation=1)
    base = getattr(requester.told, "ResponseInformation", None)
    check(base == "replies/requester", f"response information: {base}")
    responder = five(node, "responder")
    check(not hasattr(responder.told, "ResponseInformation"), "response information without asking")
    requester.subscribe(f"{base}/#", 1)
    responder.subscribe("ask/#", 1)
    requester.publish(
        "ask/x", "question", 1,
        properties=made(PacketTypes.PUBLISH, ResponseTopic=f"{base}/1", CorrelationData=BINARY),
    )
    asked = responder.wait(1)[0]
    responder.publish_settled(
        asked.properties.ResponseTopic, asked.payload + b" answered", 1,
        properties=made(PacketTypes.PUBLISH, CorrelationData=asked.properties.CorrelationData),
    )
    answer = requester.wait(1)[0]
    check(answer.topic == f"{base}/1" and answer.payload == b"question answered", "not the answer")
    check(answer.properties.CorrelationData == BINARY, "other correlation data")
    requester.disconnect()
    responder.disconnect()


PARTS = (
    payloads, properties, aliases_from_client, aliases_from_node, receive_maximum, maximum_packet_size, identifiers,
    no_local, retain_handling, assigned_identifier, reason_codes, takeover, sessions, shared_group,
    shared_group_that_stays, request_response, shared_group_beside_others, shared_group_of_many_topics,
)


def test():
    with Node() as node:
        for part in PARTS:
            part(node)
            print(f"{part.__name__}: ok", flush=True)
        drops = {key: value for key, value in node.counters().items() if key.startswith("dropped")}
        check(drops == {"dropped_clientLimit": 3}, f"dropped: {drops}")
    return f"paho with MQTT 5: {len(PARTS)} parts passed, nothing dropped but the 3 over a client's limit"


if __name__ == "__main__":
    main(test)
