"""Traffic for meshes: publishers that stamp their events and subscribers that record what comes, raw MQTT, all of them
in one thread of a process of its own. It reconnects when a node is gone. The result is a `history.History`.

    load = Load(mesh)
    load.publisher("p-a", "a", "load/a", rate=1000, qos=0)
    load.subscriber("s-b", "b", "load/+", ["p-a"])
    load.start(); …; history = load.finish()"""

import errno
import multiprocessing
import select
import socket
import struct
import time
import traceback

import meshnet
import wire
from history import Fault, Flow, History, Publisher, Subscriber
from node import Failure, check, packet, text

STAMP = struct.Struct("<HxxIQ")
# Events of a publisher at QoS 1 and 2 on their way.
WINDOW = 400
# Bytes of a client that the socket has not taken; beyond, a publisher skips its turn.
MAX_PENDING = 256 << 10
RECONNECT = 0.1


class Client:
    """A connection in the making, or made, or to be made again. With `others` its session is persistent, and when its
    connection ends it goes to the next of these nodes, at once."""

    def __init__(self, name, node, mesh, version, others=()):
        self.name, self.node, self.mesh, self.version = name, node, mesh, version
        self.homes, self.is_persistent = [node, *others], bool(others)
        self.socket = None
        self.is_ready = False
        self.buffer = bytearray()
        self.output = bytearray()
        self.retry_at = 0.0

    def dial(self, poller):
        """Begins to connect; never waits."""
        node = self.mesh[self.node]
        with meshnet.inside(node.namespace):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = self.socket.connect_ex((node.address, meshnet.MQTT))
        if result not in (0, errno.EINPROGRESS):
            self.socket.close()
            self.socket = None
            self.retry_at = time.monotonic() + RECONNECT
            return
        self.buffer.clear()
        self.output = bytearray(wire.connect(self.version, self.name, self.is_persistent))
        poller.register(self.socket, select.EPOLLIN | select.EPOLLOUT)

    def close(self, poller):
        if self.socket is not None:
            poller.unregister(self.socket)
            self.socket.close()
        self.socket = None
        if self.is_ready:
            self.ended()
        # Who was connected may find the next node ready; who was refused has looked everywhere soon.
        self.retry_at = time.monotonic() + (0 if self.is_ready and self.is_persistent else RECONNECT)
        self.is_ready = False
        self.homes.append(self.homes.pop(0))
        self.node = self.homes[0]

    def flush(self, poller):
        try:
            while self.output:
                sent = self.socket.send(memoryview(self.output)[:65_536])
                del self.output[:sent]
        except BlockingIOError:
            poller.modify(self.socket, select.EPOLLIN | select.EPOLLOUT)
            return
        except OSError:
            self.close(poller)
            return
        poller.modify(self.socket, select.EPOLLIN)

    def readable(self, poller):
        try:
            data = self.socket.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close(poller)
            return
        self.buffer += data
        self.take(time.monotonic_ns())
        if self.output:
            self.flush(poller)

    def take(self, now):
        """Takes complete packets."""
        buffer, place, end = self.buffer, 0, len(self.buffer)
        while end - place >= 2:
            length, body = buffer[place + 1], place + 2
            if length > 127:
                shift, length, body = 0, 0, place + 1
                while body < end:
                    digit = buffer[body]
                    length |= (digit & 127) << shift
                    shift += 7
                    body += 1
                    if digit < 128:
                        break
                else:
                    break
            if end - body < length:
                break
            self.packet(buffer[place], body, length, now)
            place = body + length
        del buffer[:place]

    def packet(self, first, body, length, now):
        kind = first & 0xF0
        if kind == wire.CONNACK:
            code = self.buffer[body + 1]
            check(code == 0, f"{self.name}: refused with {code}")
            self.connected(now, bool(self.buffer[body]))
        elif kind == wire.DISCONNECT:
            pass


class PublisherClient(Client):
    """Keeps its rate as far as its window, or its socket, lets it."""

    def __init__(self, name, node, mesh, version, index, topic, rate, qos, size, others):
        super().__init__(name, node, mesh, version, others)
        self.record = Publisher(node, qos)
        self.index, self.qos, self.rate = index, qos, rate
        self.padding = bytes(max(0, size - STAMP.size))
        self.topic = topic
        middle = b"\0\0" if qos else b""
        frame = packet(0x30 | qos << 1, text(topic) + middle + wire.properties(version) + bytes(STAMP.size)
                       + self.padding)
        self.frame = bytearray(frame)
        self.stamp_at = len(frame) - len(self.padding) - STAMP.size
        self.identifier_at = self.stamp_at - len(wire.properties(version)) - 2
        self.open = {}
        self.due = 0.0
        self.last_tick = None

    def connected(self, now, is_present):
        self.is_ready = True
        self.last_tick = None
        if not self.is_persistent:
            self.open.clear()
        # What has no acknowledgement is sent again, in its order, before anything else (MQTT 5 §4.4).
        for number in self.open.values():
            self.record.again.add(number)
            self.put(number, self.record.sent[number], dup=True)

    def ended(self):
        if not self.is_persistent:
            self.open.clear()

    def put(self, number, stamp, dup=False):
        """Appends an event to what is to be sent."""
        frame = self.frame
        STAMP.pack_into(frame, self.stamp_at, self.index, number, stamp)
        if self.qos:
            identifier = number % 65_535 + 1
            frame[self.identifier_at : self.identifier_at + 2] = identifier.to_bytes(2, "big")
            self.open[identifier] = number
        frame[0] = frame[0] & 0xF7 | (8 if dup else 0)
        self.output += frame

    def tick(self, now):
        """Publishes what is due."""
        if self.last_tick is None:
            self.last_tick = now
        self.due = min(self.due + (now - self.last_tick) * self.rate / 1e9, max(50, self.rate / 20))
        self.last_tick = now
        count = int(self.due)
        if self.qos:
            count = min(count, WINDOW - len(self.open))
        if count <= 0 or len(self.output) > MAX_PENDING:
            return
        self.due -= count
        record = self.record
        for number in range(len(record.sent), len(record.sent) + count):
            record.sent.append(now)
            record.acknowledged.append(0)
            self.put(number, now)

    def packet(self, first, body, length, now):
        kind = first & 0xF0
        if kind == wire.PUBACK or kind == wire.PUBREC:
            identifier = self.buffer[body] << 8 | self.buffer[body + 1]
            reason = self.buffer[body + 2] if length > 2 else 0
            if kind == wire.PUBREC and reason < 0x80:
                self.output += wire.acknowledgement(wire.PUBREL, identifier)
            number = self.open.get(identifier)
            if number is not None and reason < 0x80:
                self.record.acknowledged[number] = now
            if kind == wire.PUBACK or reason >= 0x80:
                self.open.pop(identifier, None)
        elif kind == 0x70:
            self.open.pop(self.buffer[body] << 8 | self.buffer[body + 1], None)
        else:
            super().packet(first, body, length, now)


class SubscriberClient(Client):
    """Records what comes."""

    def __init__(self, name, node, mesh, version, topic_filter, qos, publishers, others):
        super().__init__(name, node, mesh, version, others)
        self.record = Subscriber(node, qos, publishers)
        self.filter, self.qos = topic_filter, qos
        self.flows = {}

    def connected(self, now, is_present):
        if self.is_persistent:
            self.record.arrivals.append((now, self.node, is_present))
        if is_present:
            self.subscribed(now)
        else:
            self.output += wire.subscribe(self.version, self.filter, self.qos)

    def subscribed(self, now):
        self.is_ready = True
        self.record.sessions.append((now, None))

    def ended(self):
        self.record.sessions[-1] = (self.record.sessions[-1][0], time.monotonic_ns())

    def packet(self, first, body, length, now):
        kind = first & 0xF0
        buffer = self.buffer
        if kind == wire.PUBLISH:
            qos = first >> 1 & 3
            place = body + 2 + (buffer[body] << 8 | buffer[body + 1])
            if qos:
                identifier = buffer[place : place + 2]
                place += 2
                self.output += bytes([0x40 if qos == 1 else 0x50, 2]) + identifier
            if self.version == 5:
                extra, place = wire.variable_integer(buffer, place)
                place += extra
            index, number, _ = STAMP.unpack_from(buffer, place)
            flow = self.flows.get(index)
            if flow is None:
                flow = self.flows[index] = Flow()
            flow.numbers.append(number)
            flow.times.append(now)
            if first & 8:
                self.record.repeated.add((index, number))
        elif kind == 0x60:
            self.output += wire.acknowledgement(wire.PUBCOMP, buffer[body] << 8 | buffer[body + 1])
        elif kind == wire.SUBACK:
            check(buffer[body + length - 1] < 0x80, f"{self.name}: SUBACK {buffer[body + length - 1]:02x}")
            self.subscribed(now)
        else:
            super().packet(first, body, length, now)


class Load:
    """All clients of a test."""

    def __init__(self, mesh):
        self.mesh = mesh
        self.publishers, self.subscribers = {}, {}
        self.faults = []
        self.outsiders = []
        self.process = None

    def publisher(self, name, node, topic, rate=1000, qos=0, version=4, size=64, others=()):
        self.publishers[name] = PublisherClient(
            name, node, self.mesh, version, len(self.publishers), topic, rate, qos, size, others)

    def outside(self, name):
        """A publisher that is not one of these clients: its place, which is in its stamps. After all of these."""
        self.outsiders.append(name)
        return len(self.publishers) + len(self.outsiders) - 1

    def subscriber(self, name, node, topic_filter, publishers, qos=0, version=4, others=()):
        self.subscribers[name] = SubscriberClient(
            name, node, self.mesh, version, topic_filter, qos, list(publishers), others)

    def start(self, settle=1.5):
        """Connects everybody, waits until subscriptions are known everywhere, begins to publish."""
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=self.run, args=(theirs,), daemon=True)
        self.process.start()
        self.expect("ready", 20)
        time.sleep(settle)
        self.pipe.send("publish")

    def expect(self, word, seconds):
        check(self.pipe.poll(seconds), f"the load does not say '{word}'")
        said = self.pipe.recv()
        if isinstance(said, str) and said.startswith("failed"):
            raise Failure(said)
        check(word is None or said == word, f"the load says {said}")
        return said

    def fault(self, name, start=None, killed=None, stopped=None):
        """Begins a fault; `over` ends it."""
        fault = Fault(name, start or time.monotonic_ns(), 0, killed, stopped)
        fault.end = fault.start
        self.faults.append(fault)
        return fault

    @staticmethod
    def over(fault):
        fault.end = time.monotonic_ns()

    def finish(self, quiet=2.0, at_most=40.0):
        """Ends publishing, waits until nothing has come for a while; the history."""
        self.pipe.send(("finish", quiet, at_most))
        history = self.expect(None, at_most + 30)
        self.process.join(5)
        history.faults = self.faults
        return history

    # In the process of the load from here on.

    def run(self, pipe):
        try:
            self.loop(pipe)
        except BaseException:
            pipe.send("failed: " + traceback.format_exc())

    def loop(self, pipe):
        poller = select.epoll()
        clients = [*self.subscribers.values(), *self.publishers.values()]
        by_descriptor = {}
        is_ready, is_publishing, ends_at, quiet, heard = False, False, None, 0.0, time.monotonic()
        next_tick = 0.0
        while True:
            now = time.monotonic()
            for client in clients:
                if client.socket is None and now >= client.retry_at:
                    client.dial(poller)
                    if client.socket is not None:
                        by_descriptor[client.socket.fileno()] = client
            if pipe.poll():
                said = pipe.recv()
                is_publishing = said == "publish"
                if said != "publish":
                    quiet, ends_at, heard = said[1], now + said[2], now
            if not is_ready and all(client.is_ready for client in clients):
                is_ready = True
                pipe.send("ready")
            if is_publishing and now >= next_tick:
                next_tick = now + 0.001
                stamp = time.monotonic_ns()
                for client in self.publishers.values():
                    if client.is_ready and client.socket is not None:
                        client.tick(stamp)
                        if client.output:
                            client.flush(poller)
            for descriptor, events in poller.poll(max(0.0005, next_tick - now) if is_publishing else 0.02):
                client = by_descriptor[descriptor]
                if client.socket is None or client.socket.fileno() != descriptor:
                    continue
                if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    if isinstance(client, SubscriberClient):
                        heard = now
                    client.readable(poller)
                if client.socket is not None and events & select.EPOLLOUT:
                    client.flush(poller)
            if ends_at is not None and (now - heard > quiet or now > ends_at):
                break
        names = [*self.publishers, *self.outsiders]
        flows = {
            (subscriber, names[index]): flow
            for subscriber, client in self.subscribers.items() for index, flow in client.flows.items()
        }
        pipe.send(History(
            {name: client.record for name, client in self.publishers.items()},
            {name: client.record for name, client in self.subscribers.items()}, flows))
