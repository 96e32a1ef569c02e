#!/usr/bin/env python3
"""The clients of demo.sh that are no command of their own: AMQP 1.0 by Proton's Python client, and WebSocket, which
needs nothing but Python, for machines without Proton.

    demo-client.py listen amqp|websocket PORT FILTER       prints `milliseconds topic payload` for each event
    demo-client.py send amqp|websocket PORT TOPIC PAYLOAD
    demo-client.py judge FILE NUMBER                       what became of events 1 to NUMBER in what `listen` printed
"""

import base64
import json
import os
import socket
import struct
import sys
import time


def say(topic, payload):
    print(int(time.monotonic() * 1000), topic, payload, flush=True)


class AMQP:
    def __init__(self, port):
        from proton.utils import BlockingConnection

        self.connection = BlockingConnection(f"amqp://127.0.0.1:{port}")

    def listen(self, topic_filter):
        from proton.reactor import AtLeastOnce

        # Wildcards of AMQP's addresses are * and >.
        address = topic_filter.replace("+", "*").replace("#", ">")
        receiver = self.connection.create_receiver(address, credit=1000, options=AtLeastOnce())
        while True:
            message = receiver.receive(timeout=None)
            body = message.body
            say(message.annotations["x-opt-topic"], body if isinstance(body, str) else bytes(body).decode())
            receiver.accept()

    def send(self, topic, payload):
        from proton import Message

        self.connection.create_sender(topic).send(Message(payload, content_type="text/plain"))


class WebSocket:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Protocol: apus.v1.json\r\n\r\n".encode())
        self.input = self.socket.makefile("rb")
        if b" 101 " not in self.input.readline():
            sys.exit("no WebSocket")
        while self.input.readline() != b"\r\n":
            pass

    def write(self, opcode, data):
        mask = os.urandom(4)
        length = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack(">BH", 0x80 | 126, len(data))
        self.socket.sendall(
            bytes([0x80 | opcode]) + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))

    def read(self):
        """The next message; events of this demo fit one frame each."""
        while True:
            first, length = self.input.read(2)
            if length == 126:
                length = struct.unpack(">H", self.input.read(2))[0]
            data = self.input.read(length)
            if first & 15 == 9:
                self.write(10, data)
            elif first & 15 == 1:
                return json.loads(data)
            elif first & 15 == 8:
                sys.exit("the node has ended the connection")

    def ask(self, **message):
        self.write(1, json.dumps(message).encode())

    def listen(self, topic_filter):
        self.ask(op="subscribe", id=1, filter=topic_filter, qos=1)
        while True:
            message = self.read()
            if message["op"] == "event":
                say(message["topic"], message["payload"])
                if "seq" in message:
                    self.ask(op="ack", seq=message["seq"])

    def send(self, topic, payload):
        self.ask(op="publish", id=1, topic=topic, payload=payload, qos=1, content_type="text/plain")
        while "id" not in (answer := self.read()):
            pass
        if answer["op"] != "ok":
            sys.exit(str(answer))


def judge(path, count):
    events = [line.split() for line in open(path, encoding="utf-8") if line.split()[1] == "demo/count"]
    numbers = [int(event[2]) for event in events]
    times = [int(event[0]) for event in events]
    lost = count - len(set(numbers) & set(range(1, count + 1)))
    twice = len(numbers) - len(set(numbers))
    swapped = sum(1 for a, b in zip(numbers, numbers[1:]) if b < a)
    gap = max((b - a for a, b in zip(times, times[1:])), default=0)
    print(f"{count} sent, {lost} lost, {twice} twice, {swapped} out of order; longest pause between two {gap} ms")
    return lost == twice == swapped == 0


def main(command, *arguments):
    if command == "judge":
        sys.exit(0 if judge(arguments[0], int(arguments[1])) else 1)
    client = {"amqp": AMQP, "websocket": WebSocket}[arguments[0]](arguments[1])
    (client.listen if command == "listen" else client.send)(*arguments[2:])


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass
