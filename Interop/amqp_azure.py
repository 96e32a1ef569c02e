#!/usr/bin/env python3
"""Proves that a client that has nothing of Qpid Proton in it works: Azure's Service Bus library, whose AMQP 1.0 is
written in Python. It authenticates by claims (`$cbs`), sends and receives on topics, settles in every way, over TCP and
over WebSocket.

Run it with the interpreter that python.sh prints."""

import sys
import time

from azure.servicebus import ServiceBusClient, ServiceBusMessage, TransportType
from azure.servicebus.exceptions import ServiceBusError

from node import Node, check, is_, main, run_parts
from proton_client import Client, data
from web import MEBIBYTE, publish

PATIENCE = 60


def service(node, web):
    """A client as for the vendor's emulator, which has no TLS either."""
    port = node.http_port if web else node.amqp_port
    words = f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=any;SharedAccessKey=a2V5;UseDevelopmentEmulator=true;"
    more = {}
    if web:
        more["transport_type"] = TransportType.AmqpOverWebsocket
        more["custom_endpoint_address"] = f"sb://127.0.0.1:{port}"
    return ServiceBusClient.from_connection_string(words, retry_total=0, **more)


def receive(receiver, count):
    got = []
    end = time.monotonic() + PATIENCE
    while len(got) < count and time.monotonic() < end:
        got += receiver.receive_messages(max_message_count=count - len(got), max_wait_time=2)
    check(len(got) == count, f"{len(got)} of {count} messages")
    return got


def body(message):
    return b"".join(message.body)


def exchange(node, web):
    """To itself, with everything that a message may say."""
    with service(node, web) as client, client.get_queue_receiver("azure/x", prefetch_count=100) as receiver:
        receiver.receive_messages(max_wait_time=0.2)
        with client.get_queue_sender("azure/x") as sender:
            for number in range(50):
                sender.send_messages(ServiceBusMessage(
                    f"message {number}", application_properties={"n": number, "b": b"x"}, content_type="text/plain",
                    correlation_id="c", subject="s", message_id=f"id-{number}", reply_to="there"))
            # It says that it takes messages of up to 1 MiB, and gets no larger ones.
            sender.send_messages(ServiceBusMessage(MEBIBYTE[:900_000]))
        got = receive(receiver, 51)
        for number, message in enumerate(got[:50]):
            is_("body", f"message {number}".encode(), body(message))
            is_("fields", ("text/plain", "c", "s", f"id-{number}", "there"), (
                message.content_type, message.correlation_id, message.subject, message.message_id, message.reply_to))
            is_("properties", {b"n": number, b"b": b"x"}, dict(message.application_properties))
        check(body(got[50]) == MEBIBYTE[:900_000], "900,000 bytes are not what was sent")
        for message in got:
            receiver.complete_message(message)


def with_others(node, web):
    """With a client of Proton and with curl, both ways."""
    other = Client(node)
    ears = other.receiver("azure/out")
    with service(node, web) as client:
        with client.get_topic_sender("azure/out") as sender:
            sender.send_messages(ServiceBusMessage("to proton", application_properties={"a": 1}))
        got = ears.wait(1)[0]
        is_("at Proton", (b"to proton", {"a": 1}), (got.body, got.message.properties))
        with client.get_queue_receiver("azure/in") as receiver:
            receiver.receive_messages(max_wait_time=0.2)
            other.sender("azure/in").accepted(data(b"from proton", subject="s", properties={"k": "v"}))
            publish(node, "/azure/in", b"from curl", "Apus-Property-k: v")
            for message, wanted in zip(receive(receiver, 2), (b"from proton", b"from curl")):
                is_("from the others", (wanted, {b"k": b"v"}), (
                    body(message), {k: v.encode() if isinstance(v, str) else v
                                    for k, v in message.application_properties.items()}))
                receiver.complete_message(message)
    other.close()


def refused(node, web):
    """What there is not is an error of the library's with the node's text, and soon."""
    with service(node, web) as client:
        start = node.clock()
        try:
            with client.get_queue_sender("queue://none") as sender:
                sender.send_messages(ServiceBusMessage("x"))
            check(False, "a queue was found")
        except ServiceBusError as failure:
            check("queue" in str(failure), f"refused with {failure}")
        check(node.clock() - start < 5, "the refusal took long")


PARTS = (exchange, with_others, refused)


def test(*only):
    with Node(http=True, amqp=True) as node:
        for web in (False, True):
            run_parts(PARTS, only, node, web, where=" over WebSocket" if web else " over TCP")
    return f"Azure's client: {len(PARTS)} parts passed, over TCP and WebSocket"


if __name__ == "__main__":
    main(test, *sys.argv[1:])
