"""The service `hello` and those who ask it, in every protocol, with client libraries of others. A request goes to the
topic `hello` with a reply-to and a correlation; its payload is a name that nobody else uses; the answer is `hello NAME`.
Every class has its own thread and may be told things from any other one."""

import http.client
import http.server
import json
import queue
import socket
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from proton import Message, symbol
from proton.handlers import MessagingHandler
from proton.reactor import ApplicationEvent, AtLeastOnce, Container, EventInjector
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import meshnet
from node import check

TOPIC = GROUP = "hello"
PATIENCE = 20
# A client of MQTT that finds nobody subscribed is told so.
NOBODY = 0x10
SESSION_EXPIRY = 300


class Request:
    """When it was asked, how often, what came back and when; times are nanoseconds."""

    __slots__ = ("first", "asked", "answers", "untold")

    def __init__(self, now):
        self.first, self.asked, self.answers, self.untold = now, 1, [], 0


class Requester:
    """Asks at a rate, or when told to. It knows one node and never another one. With `retries` it asks again when it
    is told that nobody has subscribed, or when nothing came for a second, as a careful program does."""

    def __init__(self, name, node, retries=False):
        self.name, self.node, self.retries = name, node, retries
        self.requests, self.wrong = [], []
        self.lock = threading.Lock()
        self.again = queue.SimpleQueue()
        self.is_over = threading.Event()
        self.thread = None

    def ask_next(self):
        with self.lock:
            number = len(self.requests)
            self.requests.append(Request(time.monotonic_ns()))
        self.send(number)
        return number

    def correlation(self, number):
        return f"{self.name}/{number}"

    def heard(self, correlation, payload):
        """An answer; what it must be is known from what was asked."""
        now = time.monotonic_ns()
        name, _, number = correlation.rpartition("/")
        if name != self.name or not number.isdigit() or int(number) >= len(self.requests):
            self.wrong.append((correlation, payload))
        elif payload != f"hello {correlation}":
            self.wrong.append((correlation, payload))
        else:
            with self.lock:
                self.requests[int(number)].answers.append(now)

    def nobody(self, number):
        """The node has told that nobody has subscribed."""
        request = self.requests[number]
        with self.lock:
            request.untold += 1
        if self.retries:
            self.again.put((time.monotonic() + 0.05, number))

    def run(self, rate):
        """Asks at a rate until it is over."""
        self.thread = threading.Thread(target=self._run, args=(rate,), daemon=True)
        self.thread.start()

    def _run(self, rate):
        due, waiting, looked, watched = time.monotonic(), [], time.monotonic(), 0
        while not self.is_over.is_set():
            now = time.monotonic()
            if now >= due:
                # A machine that is busy asks less, not all at once.
                due = max(due + 1 / rate, now - 0.1)
                self.ask_next()
            while not self.again.empty():
                waiting.append(self.again.get())
            if self.retries and now - looked > 0.1:
                looked = now
                watched = self._watch(watched)
            for entry in [entry for entry in waiting if entry[0] <= now]:
                waiting.remove(entry)
                self._repeat(entry[1])
            self.is_over.wait(max(0.0005, min(due - time.monotonic(), 0.02)))

    def _watch(self, watched):
        """Those that nothing came for within a second for each time they were asked; all before `watched` have an
        answer."""
        now = time.monotonic_ns()
        while watched < len(self.requests) and self.requests[watched].answers:
            watched += 1
        for number in range(watched, len(self.requests)):
            request = self.requests[number]
            if now - request.first < 1_000_000_000:
                break
            if not request.answers and not request.untold and now - request.first > request.asked * 1_000_000_000:
                self._repeat(number)
        return watched

    def _repeat(self, number):
        with self.lock:
            request = self.requests[number]
            if request.answers:
                return
            request.asked += 1
        self.send(number)

    def finish(self, seconds=5):
        """Ends asking and waits for what is still to come; how many have no answer."""
        self.is_over.set()
        if self.thread:
            self.thread.join(PATIENCE)
        end, watched = time.monotonic() + seconds, 0
        while time.monotonic() < end and self.open:
            if self.retries:
                while not self.again.empty():
                    self._repeat(self.again.get()[1])
                watched = self._watch(watched)
            time.sleep(0.05)
        return self.open

    @property
    def open(self):
        return sum(not request.answers for request in self.requests)


def properties_of(kind, **values):
    made = Properties(kind)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def paho_client(name, node, web, clean=True, started=True):
    """A client of MQTT 5, connected; `ready` is set when CONNACK has come."""
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5, reconnect_on_failure=False,
        transport="websockets" if web else "tcp")
    if web:
        client.ws_set_options(path="/mqtt")
    client.max_inflight_messages_set(1_000)
    # Paho leaves Nagle's algorithm on: small packets would wait for the acknowledgements of those before.
    client.on_socket_open = lambda client, data, opened: (
        getattr(opened, "_socket", opened).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
    ready = threading.Event()
    client.session_present = None

    def on_connect(client, data, flags, code, properties):
        client.session_present = flags.session_present
        if not code.is_failure:
            ready.set()

    client.on_connect = on_connect
    client.connect_now = lambda: (
        client.connect(
            node.address, meshnet.HTTP if web else meshnet.MQTT, keepalive=60, clean_start=clean,
            properties=properties_of(PacketTypes.CONNECT, SessionExpiryInterval=0 if clean else SESSION_EXPIRY)),
        client.loop_start(), check(ready.wait(PATIENCE), f"{name} was not connected"))
    if started:
        client.connect_now()
    return client


def subscribed(client, topic_filter, qos=1):
    """Subscribes and waits for the SUBACK."""
    told = threading.Event()
    codes = []

    def on_subscribe(client, data, identifier, reasons, properties):
        codes.extend(reasons)
        told.set()

    client.on_subscribe = on_subscribe
    client.subscribe(topic_filter, qos)
    check(told.wait(PATIENCE) and not any(code.is_failure for code in codes), f"not subscribed: {codes}")


class MQTTRequester(Requester):
    protocol, web = "MQTT 5", False

    def __init__(self, name, node, retries=False, qos=1):
        super().__init__(name, node, retries)
        self.qos, self.numbers = qos, {}
        self.client = paho_client(name, node, self.web)
        self.client.on_message = lambda client, data, message: self.heard(
            getattr(message.properties, "CorrelationData", b"").decode(), message.payload.decode())
        self.client.on_publish = self._published
        subscribed(self.client, f"replies/{name}", 1)

    def send(self, number):
        correlation = self.correlation(number)
        properties = properties_of(
            PacketTypes.PUBLISH, ResponseTopic=f"replies/{self.name}", CorrelationData=correlation.encode())
        information = self.client.publish(TOPIC, correlation, self.qos, properties=properties)
        self.numbers[information.mid] = number

    def _published(self, client, data, identifier, code, properties):
        # The acknowledgement may be faster than `publish` returns; then it is one with subscribers, or is asked again.
        number = self.numbers.pop(identifier, None)
        if number is not None and code.value == NOBODY:
            self.nobody(number)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class WebMQTTRequester(MQTTRequester):
    protocol, web = "MQTT/WebSocket", True


class JSONPeer:
    """A connection of `apus.v1.json`, its reader's thread."""

    def __init__(self, node, on_event, on_answer=None):
        self.socket = connect(
            f"ws://{node.address}:{meshnet.HTTP}/ws", subprotocols=["apus.v1.json"], compression=None)
        self.on_event, self.on_answer = on_event, on_answer
        self.answers = queue.SimpleQueue()
        self.lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for text in self.socket:
                message = json.loads(text)
                if message["op"] == "event":
                    self.on_event(message)
                elif str(message.get("id", "")).startswith("ask "):
                    self.answers.put(message)
                elif self.on_answer:
                    self.on_answer(message)
        except (ConnectionClosed, OSError):
            pass

    def send(self, **message):
        with self.lock:
            self.socket.send(json.dumps(message))

    def ask(self, op, **message):
        self.send(op=op, id=f"ask {op}", **message)
        answer = self.answers.get(timeout=PATIENCE)
        check(answer["op"] == "ok", f"{message}: {answer}")

    def close(self):
        self.socket.close()


class JSONRequester(Requester):
    protocol = "JSON"

    def __init__(self, name, node, retries=False):
        super().__init__(name, node, retries)
        self.peer = JSONPeer(node, self._event, self._told)
        self.peer.ask("subscribe", filter=f"replies/{name}", qos=1)

    def _event(self, event):
        self.heard(event.get("correlation", ""), event["payload"])
        if "seq" in event:
            self.peer.send(op="ack", seq=event["seq"])

    def _told(self, answer):
        if answer["op"] == "error" or answer.get("matched") == 0:
            self.nobody(answer["id"])

    def send(self, number):
        correlation = self.correlation(number)
        self.peer.send(op="publish", id=number, topic=TOPIC, payload=correlation, qos=1,
                       reply_to=f"replies/{self.name}", correlation=correlation)

    def close(self):
        self.peer.close()


class RESTRequester(Requester):
    """A few threads, each with a connection that waits for its answers."""

    protocol = "REST"

    def __init__(self, name, node, retries=False, threads=6):
        super().__init__(name, node, retries)
        self.statuses = {}
        self.work = queue.SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=self._serve, daemon=True).start()

    def send(self, number):
        self.work.put(number)

    def _serve(self):
        connection = None
        while (number := self.work.get()) is not None:
            correlation = self.correlation(number)
            try:
                connection = connection or http.client.HTTPConnection(
                    self.node.address, meshnet.HTTP, timeout=PATIENCE)
                connection.request(
                    "POST", f"/TOPIC/{TOPIC}", correlation,
                    {"Apus-Reply-Wait": "1000" if self.retries else "5000", "Apus-Delivery-Mode": "guaranteed",
                     "Apus-Correlation-Id": correlation})
                answer = connection.getresponse()
                status, body = answer.status, answer.read().decode()
                told = answer.getheader("Apus-Correlation-Id", "")
            except OSError:
                connection, status = None, 0
            with self.lock:
                self.statuses[status] = self.statuses.get(status, 0) + 1
            if status == 200:
                self.heard(told, body)
            else:
                self.nobody(number)

    def close(self):
        for _ in range(16):
            self.work.put(None)


class ProtonThread(MessagingHandler):
    """A container in a thread of its own; `do` runs something there and waits for it."""

    def __init__(self, node, name, **more):
        super().__init__(**more)
        self.node, self.name = node, name
        self.injector = EventInjector()
        self.ready, self.gone = threading.Event(), threading.Event()
        self.failure = None
        self.container = Container(self)
        self.container.container_id = name
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        check(self.ready.wait(PATIENCE) and not self.failure, f"{name} is not ready: {self.failure}")

    def _run(self):
        try:
            self.container.run()
        finally:
            self.gone.set()
            self.ready.set()

    def on_start(self, event):
        self.container.selectable(self.injector)
        self.connection = self.container.connect(f"amqp://{self.node.address}:{meshnet.AMQP}", reconnect=False)
        self.opening()

    def on_call(self, event):
        event.subject()

    def do(self, body):
        self.injector.trigger(ApplicationEvent("call", subject=_Call(body)))

    def wait(self, body):
        done = threading.Event()
        self.do(lambda: (body(), done.set()))
        return done.wait(5)

    def on_transport_error(self, event):
        self.failure = event.transport.condition

    def close(self):
        self.do(lambda: (self.connection.close(), self.injector.close()))
        self.thread.join(5)


class _Call:
    """Proton's events look at the class of their subject."""

    def __init__(self, body):
        self.body = body

    def __call__(self):
        self.body()


class AMQPRequester(Requester):
    protocol = "AMQP"

    def __init__(self, name, node, retries=False):
        super().__init__(name, node, retries)
        self.peer = _AMQPAsking(self, node, name)

    def send(self, number):
        self.peer.do(lambda: self.peer.ask(number))

    def close(self):
        self.peer.close()


class _AMQPAsking(ProtonThread):
    def __init__(self, requester, node, name):
        self.requester = requester
        super().__init__(node, name, prefetch=100)

    def opening(self):
        self.replies = self.container.create_receiver(self.connection, None, dynamic=True)
        self.sender = self.container.create_sender(self.connection, TOPIC)

    def on_link_opened(self, event):
        if event.receiver:
            self.reply_to = event.receiver.remote_source.address

    def on_sendable(self, event):
        if hasattr(self, "reply_to"):
            self.ready.set()

    def ask(self, number):
        correlation = self.requester.correlation(number)
        self.sender.send(Message(correlation, reply_to=self.reply_to, correlation_id=correlation))

    def on_message(self, event):
        self.requester.heard(f"{event.message.correlation_id}", body_text(event.message))


def body_text(message):
    body = message.body
    return body if isinstance(body, str) else bytes(body).decode()


# The service.


class Answered:
    """What all instances of a service share for a test's sake: how often a request came, and how often it said that it
    might have come before."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts, self.repeated, self.by_instance, self.whos = {}, set(), {}, {}

    def note(self, correlation, instance, may_be_repeated=False):
        with self.lock:
            self.counts[correlation] = self.counts.get(correlation, 0) + 1
            self.by_instance[instance] = self.by_instance.get(instance, 0) + 1
            self.whos.setdefault(correlation, []).append((instance, time.monotonic_ns()))
            if may_be_repeated:
                self.repeated.add(correlation)

    def may_repeat(self, correlations):
        """These may come to another instance as well."""
        with self.lock:
            self.repeated |= correlations


class MQTTResponder:
    """`group` shares the work with other instances. Without it the instance is known by its client id, and a new one
    takes over the session of the one before, on whatever node."""

    protocol = "MQTT 5"

    def __init__(self, name, node, answered, group=True, session=None, follows=None):
        self.name, self.node, self.answered = name, node, answered
        self.filter = f"$share/{GROUP}/{TOPIC}" if group else TOPIC
        self.ended, self.reason = threading.Event(), None
        self.client = paho_client(session or name, node, web=False, clean=session is None, started=False)
        self.client.on_message = self._request
        self.client.on_disconnect = self._gone
        self.client.connect_now()
        if not self.client.session_present:
            check(not follows, f"{name}: no session is there at {node.name}")
            subscribed(self.client, self.filter)

    def _request(self, client, data, message):
        correlation = message.properties.CorrelationData
        self.answered.note(correlation.decode(), self.name, message.dup)
        properties = properties_of(PacketTypes.PUBLISH, CorrelationData=correlation)
        client.publish(message.properties.ResponseTopic, b"hello " + message.payload, 1, properties=properties)

    def _gone(self, client, data, flags, code, properties):
        self.reason = code.value
        self.ended.set()

    def unsubscribe(self):
        done = threading.Event()
        self.client.on_unsubscribe = lambda *_: done.set()
        self.client.unsubscribe(self.filter)
        check(done.wait(PATIENCE), f"{self.name}: no UNSUBACK")

    def leave(self):
        """As a service should: no more requests, what came is answered and acknowledged, then the end."""
        self.unsubscribe()
        time.sleep(0.1)
        self.client.disconnect()
        self.client.loop_stop()


class JSONResponder:
    protocol = "JSON"

    def __init__(self, name, node, answered):
        self.name, self.answered = name, answered
        self.peer = JSONPeer(node, self._request)
        self.peer.ask("subscribe", filter=TOPIC, group=GROUP, qos=1)

    def _request(self, event):
        self.answered.note(event["correlation"], self.name)
        self.peer.send(op="publish", topic=event["reply_to"], payload="hello " + event["payload"], qos=1,
                       correlation=event["correlation"])
        if "seq" in event:
            self.peer.send(op="ack", seq=event["seq"])

    def leave(self):
        self.peer.ask("unsubscribe", filter=TOPIC, group=GROUP)
        self.peer.ask("ping")
        self.peer.close()


class AMQPResponder(ProtonThread):
    protocol = "AMQP"

    def __init__(self, name, node, answered):
        self.answered = answered
        super().__init__(node, name, prefetch=100)

    def opening(self):
        self.requests = self.container.create_receiver(
            self.connection, f"$share/{GROUP}/{TOPIC}", options=AtLeastOnce())
        self.replies = self.container.create_sender(self.connection, None)

    def on_link_opened(self, event):
        if event.receiver:
            self.ready.set()

    def on_message(self, event):
        request = event.message
        self.answered.note(f"{request.correlation_id}", self.name, bool(request.delivery_count))
        self.replies.send(Message(
            "hello " + body_text(request), address=request.reply_to, correlation_id=request.correlation_id))

    def leave(self):
        self.wait(self.requests.close)
        time.sleep(0.1)
        self.close()


class WebhookResponder:
    """A web server that knows nothing of subscriptions: the node posts requests to it, it posts answers to the node.
    What it answers to the POST itself goes nowhere."""

    protocol = "webhook"

    def __init__(self, name, node, answered):
        self.name, self.node, self.answered = name, node, answered
        self.local, self.lock = threading.local(), threading.Lock()
        # What has come and when: what the node has no answer to when the webhook goes it gives to other members, too.
        self.came, self.is_leaving = {}, False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.request(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((node.address, 0), Handler)
        self.server.daemon_threads = True
        # The node cuts what is under way when the webhook goes.
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.path = f"/webhooks/{name}"
        document = {"url": f"http://{node.address}:{self.server.server_port}/", "filters": [TOPIC], "group": GROUP,
                    "parallelism": 8}
        status, body = node.request("PUT", self.path, json.dumps(document), meshnet.HTTP,
                                    {"Content-Type": "application/json"})
        check(status == 201, f"webhook: {status} {body}")

    def request(self, headers, body):
        correlation = headers["Apus-Correlation-Id"]
        with self.lock:
            self.came[correlation] = time.monotonic()
            is_leaving = self.is_leaving
        self.answered.note(correlation, self.name, is_leaving or headers["Apus-Delivery-Attempt"] != "1")
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection(self.node.address, meshnet.HTTP, timeout=PATIENCE)
        connection = self.local.connection
        connection.request("POST", f"/TOPIC/{headers['Apus-Reply-To']}", b"hello " + body,
                           {"Apus-Correlation-Id": correlation, "Apus-Delivery-Mode": "guaranteed"})
        answer = connection.getresponse()
        answer.read()
        check(answer.status == 202, f"the answer was refused: {answer.status}")

    def leave(self):
        """Removes the webhook. Requests under way have gone to this server and to another member."""
        with self.lock:
            self.is_leaving = True
            now = time.monotonic()
            self.answered.may_repeat({correlation for correlation, at in self.came.items() if now - at < 1})
        status, body = self.node.request("DELETE", self.path, port=meshnet.HTTP)
        check(status == 204, f"webhook: {status} {body}")
        time.sleep(0.1)
        self.server.shutdown()
        self.server.server_close()


REQUESTERS = (MQTTRequester, AMQPRequester, RESTRequester, JSONRequester, WebMQTTRequester)
RESPONDERS = (MQTTResponder, AMQPResponder, JSONResponder, WebhookResponder)
