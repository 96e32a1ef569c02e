#!/usr/bin/env python3
"""Proves that the Eclipse Paho client works with a node: counts and order at every QoS, a persistent session, a
takeover, a will, a payload of 1 MiB, 1,000 events in order. Run it with the interpreter that python.sh prints."""

import hashlib
import threading

import paho.mqtt.client as mqtt

from node import Node, check, main


class Client:
    """A Paho client that remembers what it received: events, acknowledgements by packet identifier, how it ended.
    `properties` are those of CONNECT (MQTT 5); with `hold` it acknowledges nothing until told to; with `web` it comes
    over WebSocket. Paho's thread writes, the test's thread reads: both under `changed`."""

    def __init__(self, node, name, clean=True, will=None, keep_alive=60, version=mqtt.MQTTv311, properties=None,
                 hold=False, web=False):
        self.received = []
        self.changed = threading.Condition()
        self.connected = threading.Event()
        self.ended = threading.Event()
        self.granted = {}
        self.ungranted = {}
        self.acknowledged = {}
        self.session_present = None
        self.told = None
        self.end_reason = None
        five = version == mqtt.MQTTv5
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=None if five else clean, protocol=version,
            reconnect_on_failure=False, manual_ack=hold, transport="websockets" if web else "tcp",
        )
        if web:
            client.ws_set_options(path="/mqtt")
        client.max_inflight_messages_set(200)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_publish = self._on_publish
        if will:
            client.will_set(*will)
        options = {"clean_start": clean, "properties": properties} if five else {}
        client.connect("127.0.0.1", node.http_port if web else node.port, keepalive=keep_alive, **options)
        client.loop_start()
        self.paho = client
        check(self.connected.wait(60), f"{name} was not connected")

    def _on_connect(self, client, data, flags, code, properties):
        self.session_present = flags.session_present
        self.told = properties
        if not code.is_failure:
            self.connected.set()

    def _on_disconnect(self, client, data, flags, code, properties):
        self.end_reason = code.value
        self.ended.set()

    def _on_message(self, client, data, message):
        with self.changed:
            self.received.append(message)
            self.changed.notify_all()

    def _on_subscribe(self, client, data, identifier, codes, properties):
        with self.changed:
            self.granted[identifier] = [code.value for code in codes]
            self.changed.notify_all()

    def _on_unsubscribe(self, client, data, identifier, codes, properties):
        with self.changed:
            self.ungranted[identifier] = [code.value for code in codes]
            self.changed.notify_all()

    def _on_publish(self, client, data, identifier, code, properties):
        with self.changed:
            self.acknowledged[identifier] = code.value
            self.changed.notify_all()

    def _answer(self, answers, identifier, what):
        with self.changed:
            check(self.changed.wait_for(lambda: identifier in answers, 60), f"no {what}")
            return answers[identifier]

    def subscribe(self, topic, qos=0, options=None, properties=None):
        """Subscribes, with `options` of MQTT 5 instead of a QoS if given; the codes of SUBACK."""
        result, identifier = self.paho.subscribe(topic, qos, options, properties)
        check(result == mqtt.MQTT_ERR_SUCCESS, f"paho did not subscribe: {result}")
        return self._answer(self.granted, identifier, "SUBACK")

    def unsubscribe(self, topics):
        _, identifier = self.paho.unsubscribe(topics)
        return self._answer(self.ungranted, identifier, "UNSUBACK")

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        return self.paho.publish(topic, payload, qos, retain, properties)

    def publish_settled(self, topic, payload, qos=1, retain=False, properties=None):
        """Publishes and waits for the acknowledgement; its code."""
        information = self.publish(topic, payload, qos, retain, properties)
        return self._answer(self.acknowledged, information.mid, "acknowledgement")

    def wait(self, count, seconds=60):
        """Waits for a number of events and for a moment that no more come."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.received) >= count, seconds)
            self.changed.wait_for(lambda: len(self.received) > count, 0.2)
            return list(self.received)

    def payloads(self, count):
        return [message.payload.decode() for message in self.wait(count)]

    def disconnect(self):
        self.paho.disconnect()
        self.paho.loop_stop()

    def kill(self):
        """Ends without a DISCONNECT."""
        self.paho._sock.close()
        self.paho.loop_stop()


def qualities(node):
    sender = Client(node, "sender")
    for published in range(3):
        for granted in range(3):
            receiver = Client(node, "receiver")
            topic = f"q/{published}/{granted}"
            check(receiver.subscribe(topic, granted) == [granted], "not granted as asked")
            wanted = [str(number) for number in range(1_000)]
            last = None
            for payload in wanted:
                last = sender.publish(topic, payload, published)
            last.wait_for_publish(60)
            check(last.is_published(), f"QoS {published} was not acknowledged")
            check(receiver.payloads(1_000) == wanted, f"QoS {published} to {granted}: not 1,000 in order")
            check({m.qos for m in receiver.received} == {min(published, granted)}, "not the lower QoS")
            receiver.disconnect()
    sender.disconnect()


def persistent_session(node):
    first = Client(node, "keeper", clean=False)
    check(not first.session_present, "a session before the first connection")
    first.subscribe("p/#", 2)
    first.disconnect()
    sender = Client(node, "sender")
    for number in range(100):
        sender.publish("p/x", str(number), 1 + number % 2).wait_for_publish(10)
    sender.publish("p/x", "direct", 0)
    # Acknowledged after the direct event was routed: it must not arrive while the keeper is back already.
    sender.publish("elsewhere", "", 1).wait_for_publish(10)
    second = Client(node, "keeper", clean=False)
    check(second.session_present, "no session present")
    # Paho hands an event of QoS 2 over at its PUBREL, so the order is checked for each QoS.
    waited = second.wait(100)
    check(len(waited) == 100, f"{len(waited)} of 100 had waited")
    for qos in (1, 2):
        numbers = [int(message.payload) for message in waited if message.qos == qos]
        check(numbers == list(range(qos - 1, 100, 2)), f"QoS {qos}: not what had waited, in order: {numbers}")
    # Taken over: the old connection ends, the session goes on.
    third = Client(node, "keeper", clean=False)
    check(second.ended.wait(60), "the old connection was not ended")
    check(third.session_present, "no session present at a takeover")
    sender.publish("p/x", "after", 1)
    check(third.payloads(1) == ["after"], "nothing after the takeover")
    third.disconnect()
    fresh = Client(node, "keeper", clean=True)
    check(not fresh.session_present, "a clean connection with a session")
    fresh.disconnect()
    sender.disconnect()


def wills(node):
    witness = Client(node, "witness")
    witness.subscribe("will/#", 1)
    for name, end in (("polite", Client.disconnect), ("killed", Client.kill)):
        end(Client(node, name, will=(f"will/{name}", name, 1, True)))
    check(witness.payloads(1) == ["killed"], "not the one will that is due")
    late = Client(node, "late")
    late.subscribe("will/#", 1)
    check(late.payloads(1) == ["killed"] and late.received[0].retain, "the will was not retained")
    for client in (witness, late):
        client.disconnect()


def large(node):
    payload = bytes(number * 31 % 251 for number in range(1 << 20))
    receiver = Client(node, "receiver")
    receiver.subscribe("large", 2)
    sender = Client(node, "sender")
    for qos in range(3):
        for _ in range(5):
            sender.publish("large", payload, qos)
    wanted = hashlib.sha256(payload).digest()
    received = receiver.wait(15)
    check(len(received) == 15, f"{len(received)} of 15 large payloads")
    check(all(hashlib.sha256(message.payload).digest() == wanted for message in received), "a payload has changed")
    receiver.disconnect()
    sender.disconnect()


def test():
    with Node() as node:
        for part in (qualities, persistent_session, wills, large):
            part(node)
            print(f"{part.__name__}: ok", flush=True)
        counters = node.counters()
        drops = {key: value for key, value in counters.items() if key.startswith("dropped")}
        check(not drops, f"dropped: {drops}")
    return "paho: 9 QoS pairs of 1,000, persistent session, takeover, will, 15 payloads of 1 MiB"


if __name__ == "__main__":
    main(test)
