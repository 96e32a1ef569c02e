"""The clients of matrix.py, one class a protocol: senders that say all an event has in their protocol's words, and
receivers that read all there is back into the neutral form of mapping.py. `send` returns the event's id if the node
told it. They know nothing of what ought to arrive."""

import base64
import http.server
import itertools
import json
import threading
import urllib.parse

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from proton import Data, Message, symbol
from websockets.exceptions import ConnectionClosed

import mapping
import paho_client
import proton_client
import web
from amqp_websocket import Bridge
from mapping import TRACE, select
from node import check
from websocket_json import Socket

LIMIT = 1 << 25
# What Proton shows of a priority that is not there.
NORMAL = 4


def quoted(value, safe="~!@#$^&*()[]{}|;:,.<>/?=+'"):
    """A text or bytes as the value of a field."""
    return urllib.parse.quote(value, safe=safe)


def token(name):
    return urllib.parse.quote(name, safe="!#$&'*+-.^_`|~")


def event_of(**fields):
    """What a receiver has read. The partition key is found by the reader."""
    return select({**dict.fromkeys(mapping.NAMES), "retained": False, **fields})


def without_key(pairs):
    """User properties without the partition key, and the key."""
    for place, (name, value) in enumerate(pairs):
        if name == "partitionkey":
            return pairs[:place] + pairs[place + 1:], value
    return pairs, None


# --- MQTT

class MQTTSender:
    def __init__(self, node, name, version, is_web):
        self.five = version == mqtt.MQTTv5
        self.client = paho_client.Client(node, name, version=version, web=is_web)

    def send(self, event):
        said = Properties(PacketTypes.PUBLISH) if self.five else None
        if self.five:
            for name, value in (
                ("ContentType", event["content_type"]), ("PayloadFormatIndicator", 1 if event["text"] else None),
                ("CorrelationData", event["correlation"]), ("ResponseTopic", event["reply_to"]),
                ("MessageExpiryInterval", event["expiry"] and event["expiry"] // 1000),
            ):
                if value is not None:
                    setattr(said, name, value)
            pairs = list(event["properties"] or [])
            if event["partition_key"] is not None:
                # Anywhere among the others, as long as it is the first of its name.
                names = [name for name, _ in pairs] + ["partitionkey"]
                place = min(len(pairs) // 2, names.index("partitionkey"))
                pairs.insert(place, ("partitionkey", event["partition_key"]))
            if pairs:
                said.UserProperty = pairs
        sent = self.client.publish(event["topic"], event["payload"], event["qos"], event["retained"], said)
        sent.wait_for_publish(web.PATIENCE)
        check(sent.is_published(), f"{event['topic']}: not acknowledged")

    def close(self):
        self.client.disconnect()


class MQTTReceiver:
    """With `waits` its session outlives connections: it may `leave`, and another of its name goes on."""

    def __init__(self, node, name, version, is_web, filters, waits=False):
        said = None
        if waits and version == mqtt.MQTTv5:
            said = Properties(PacketTypes.CONNECT)
            said.SessionExpiryInterval = 300
        self.client = paho_client.Client(node, name, clean=not waits, version=version, properties=said, web=is_web)
        for topic_filter in filters:
            check(self.client.subscribe(topic_filter, 2) == [2], f"{name}: not subscribed")

    def take(self):
        with self.client.changed:
            taken, self.client.received = self.client.received, []
        return [self.read(message) for message in taken]

    @staticmethod
    def read(message):
        said = message.properties
        users, key = without_key([tuple(pair) for pair in getattr(said, "UserProperty", [])])
        expiry = getattr(said, "MessageExpiryInterval", None)
        return event_of(
            topic=message.topic, payload=bytes(message.payload), qos=message.qos, retained=bool(message.retain),
            content_type=getattr(said, "ContentType", None),
            text=True if getattr(said, "PayloadFormatIndicator", 0) == 1 else None,
            correlation=getattr(said, "CorrelationData", None), reply_to=getattr(said, "ResponseTopic", None),
            expiry=None if expiry is None else expiry * 1000, properties=users or None, partition_key=key)

    def leave(self):
        self.client.disconnect()

    close = leave


# --- AMQP

# Names of CloudEvents' attributes begin with either (AMQP binding §3.1.3.1).
PREFIXES = ("cloudEvents_", "cloudEvents:")


class AMQPSender:
    def __init__(self, node, name):
        self.prefixes = itertools.cycle(PREFIXES)
        self.client = proton_client.Client(node, name)
        self.sender = self.client.sender(None)

    def send(self, event):
        annotations = {}
        message = Message(address=event["topic"])
        if event["text"]:
            message.body = event["payload"].decode()
        else:
            message.body, message.inferred = event["payload"], True
        for name, value in (
            ("content_type", event["content_type"]), ("correlation_id", event["correlation"]),
            ("reply_to", event["reply_to"]), ("id", event["message_id"]), ("priority", event["priority"]),
            ("group_id", event["partition_key"]), ("durable", event["durable"]),
            ("ttl", event["expiry"] and event["expiry"] / 1000),
        ):
            if value is not None:
                setattr(message, name, value)
        pairs = event["properties"] or []
        attributes = dict(event["cloudevents"] or [])
        names = [name for name, _ in pairs]
        if pairs:
            prefix = next(self.prefixes)
            message.properties = {
                prefix * (name in attributes) + name: attributes.get(name, value) for name, value in pairs}
        if len(set(names)) < len(names) or "partitionkey" in names:
            listed = list(pairs)
            if event["partition_key"] is not None:
                listed.insert(0, ("partitionkey", event["partition_key"]))
            annotations[symbol("x-opt-user-properties")] = [word for pair in listed for word in pair]
        if event["retained"]:
            annotations[symbol("x-opt-retain")] = True
        for name, value in (event["foreign"] or {}).items():
            if name == "annotation":
                annotations[symbol("x-app")] = value
            else:
                setattr(message, name, value)
        message.annotations = annotations or None
        self.sender.accepted(message, settled=event["qos"] == 0)

    def close(self):
        self.client.close()


class AMQPReceiver:
    """With `waits` its links are durable, as MQTTReceiver's session."""

    def __init__(self, node, name, filters, waits=False):
        self.client = proton_client.Client(node, name)
        self.links = [
            self.client.receiver(topic_filter, name=topic_filter, durable=waits) for topic_filter in filters]

    def take(self):
        events = []
        for link in self.links:
            taken, link.received = link.received, []
            events += [self.read(got) for got in taken]
        return events

    @classmethod
    def read(cls, got):
        message = got.message
        annotations = {str(name): value for name, value in (message.annotations or {}).items()}
        topic = annotations.get("x-opt-topic")
        if message.address is not None and message.address != topic:
            topic = f"{topic} in the annotation, {message.address} in the properties"
        durable, priority = cls.header(got.raw)
        body = message.body
        users, attributes, key = cls.users(message, annotations.get("x-opt-user-properties"))
        correlation = proton_client.body_of(message.correlation_id)
        event = event_of(
            topic=topic, payload=body.encode() if isinstance(body, str) else bytes(body or b""),
            text=True if isinstance(body, str) else None, qos=0 if got.settled else 1,
            durable=durable or None, retained=annotations.get("x-opt-retain", False),
            # Proton's word for no content type is a symbol made of None.
            content_type=None if message.content_type in (None, "None") else str(message.content_type),
            correlation=correlation.encode() if isinstance(correlation, str) else correlation,
            reply_to=message.reply_to, message_id=message.id, priority=priority, properties=users or None,
            partition_key=key, expiry=round(message.ttl * 1000) if message.ttl else None,
            foreign=cls.foreign(message, annotations))
        event["cloudevents"] = sorted(attributes) or None
        return event

    @staticmethod
    def header(raw):
        """Durability and priority as they are written: Proton has a default for what is not there."""
        data = Data()
        data.decode(raw)
        data.next()
        described = data.get_object()
        if described.descriptor != 0x70:
            return None, None
        return (*described.value, None, None)[:2]

    @staticmethod
    def users(message, listed):
        """User properties, attributes of CloudEvents among them, partition key."""
        pairs, attributes = [], []
        for name, value in (message.properties or {}).items():
            if name.startswith(PREFIXES):
                name = name[len(PREFIXES[0]):]
                if name != "partitionkey":
                    attributes.append((name, value))
                elif value != message.group_id:
                    value = f"{value} in the map, {message.group_id} as the group"
            pairs.append((name, value))
        if listed is not None:
            # The map has one of each name, and must say nothing else.
            there = list(zip(listed[::2], listed[1::2]))
            wrong = [pair for pair in pairs if pair not in there]
            pairs = there + [("only in the map", pair) for pair in wrong]
        pairs, key = without_key(pairs)
        if key is not None and key != message.group_id:
            key = f"{key} in the properties, {message.group_id} as the group"
        return pairs, attributes, message.group_id if key is None else key

    @staticmethod
    def foreign(message, annotations):
        found = {
            "subject": message.subject, "user_id": proton_client.body_of(message.user_id) or None,
            "group_sequence": message.group_sequence or None, "creation_time": message.creation_time or None,
            "reply_to_group_id": message.reply_to_group_id, "annotation": annotations.get("x-app"),
        }
        return {name: value for name, value in found.items() if value is not None} or None

    def leave(self):
        for link in self.links:
            link.detach()
        self.client.close()

    def close(self):
        for link in self.links:
            link.close()
        self.client.close()


class OverWebSocket:
    """A client of AMQP whose bytes go through a WebSocket."""

    def __init__(self, make, node, *arguments):
        self.bridge = Bridge(node, True)
        self.inner = make(self.bridge, *arguments)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def leave(self):
        self.inner.leave()
        self.bridge.close()

    def close(self):
        self.inner.close()
        self.bridge.close()


# --- JSON

def to_json(event):
    members = {"topic": event["topic"], "qos": event["qos"]}
    if event["text"]:
        members["payload"] = event["payload"].decode()
    else:
        members["payload_base64"] = base64.b64encode(event["payload"]).decode()
    if event["correlation"] is not None:
        if mapping.is_utf8(event["correlation"]):
            members["correlation"] = event["correlation"].decode()
        else:
            members["correlation_base64"] = base64.b64encode(event["correlation"]).decode()
    for name, member in (
        ("content_type", "content_type"), ("reply_to", "reply_to"), ("message_id", "message_id"), ("expiry", "ttl"),
        ("priority", "priority"), ("partition_key", "partition_key"), ("properties", "properties"),
    ):
        if event[name] is not None:
            members[member] = event[name]
    if event["retained"]:
        members["retained"] = True
    return members


def from_json(members):
    payload, correlation = members.pop("payload", None), members.pop("correlation", None)
    is_text = payload is not None
    if is_text:
        payload = payload.encode()
    elif "payload_base64" in members:
        payload = base64.b64decode(members.pop("payload_base64"))
    if correlation is not None:
        correlation = correlation.encode()
    elif "correlation_base64" in members:
        correlation = base64.b64decode(members.pop("correlation_base64"))
    pairs = members.pop("properties", None)
    event = event_of(
        topic=members.pop("topic"), payload=payload, text=is_text or None, qos=members.pop("qos", 0),
        retained=members.pop("retained", False), expiry=members.pop("ttl", None), correlation=correlation,
        properties=pairs and [tuple(pair) for pair in pairs],
        **{name: members.pop(name, None) for name in (
            "content_type", "reply_to", "message_id", "priority", "partition_key")})
    # What nobody has asked for must show.
    event["foreign"] = members or None
    return event


class JSONSender:
    def __init__(self, node, name):
        self.socket = Socket(node, max_size=LIMIT)

    def send(self, event):
        return self.socket.ok(op="publish", **to_json(event))["event"]

    def close(self):
        self.socket.close()


class Collector:
    """A receiver with a thread of its own, which puts events where `take` finds them and goes on until it is closed."""

    def __init__(self):
        self.lock = threading.Lock()
        self.events = []
        self.ended = False

    def run(self):
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def add(self, event):
        with self.lock:
            self.events.append(event)

    def take(self):
        with self.lock:
            taken, self.events = self.events, []
        return taken

    def close(self):
        self.ended = True
        self.thread.join(web.PATIENCE)


class JSONReceiver(Collector):
    def __init__(self, node, name, filters):
        super().__init__()
        self.socket = Socket(node, max_size=LIMIT)
        for topic_filter in filters:
            self.socket.ok(op="subscribe", filter=topic_filter, qos=1)
        self.run()

    def read(self):
        try:
            while True:
                try:
                    message = self.socket.event() if self.socket.events else self.socket.read()
                except TimeoutError:
                    continue
                if message.pop("op") != "event":
                    continue
                if "seq" in message:
                    self.socket.send(op="ack", seq=message.pop("seq"))
                message.pop("subscriptions")
                self.add(from_json(message))
        except (ConnectionClosed, OSError):
            pass

    def close(self):
        self.socket.close()


# --- HTTP

def path_of(topic):
    return "/TOPIC/" + "/".join(quoted(level, "~!$&'()*,;=:@") for level in topic.split("/"))


def common_fields(event):
    fields = [f"Apus-Delivery-Mode: {'guaranteed' if event['qos'] else 'direct'}"]
    for name, value in (
        ("Correlation-Id", event["correlation"]), ("Reply-To", event["reply_to"]), ("Message-Id", event["message_id"]),
        ("Partition-Key", event["partition_key"]),
    ):
        if value is not None:
            fields.append(f"Apus-{name}: {quoted(value)}")
    if event["priority"] is not None:
        fields.append(f"Apus-Priority: {event['priority']}")
    if event["expiry"] is not None:
        fields.append(f"Apus-Time-To-Live: {event['expiry']}")
    if event["retained"]:
        fields.append("Apus-Retain: true")
    return fields


class RESTSender:
    """curl. Non-ASCII goes as UTF-8 every other time, percent-encoded else: both are the same."""

    def __init__(self, node, name):
        self.node = node
        self.count = 0

    def send(self, event):
        self.count += 1
        fields = common_fields(event)
        if event["content_type"] is not None:
            fields.append(f"Content-Type: {event['content_type']}")
        attributes = dict(event["cloudevents"] or [])
        for name, value in event["properties"] or []:
            if name in TRACE:
                fields.append(f"{name}: {value}")
            elif attributes.pop(name, None) is not None:
                fields.append(f"ce-{name}: {quoted(value, '~!@#$^&*()[]|;:,.<>/?=+')}")
            else:
                text = value.replace("%", "%25") if self.count % 2 and value == value.strip() else quoted(value)
                fields.append(f"Apus-Property-{token(name)}: {text}" if text else f"Apus-Property-{token(name)};")
        return web.publish(self.node, path_of(event["topic"]), event["payload"], *fields)["id"]

    def close(self):
        pass


class StructuredSender(RESTSender):
    def send(self, event):
        members = dict(event["properties"])
        for name, member in (("content_type", "datacontenttype"), ("partition_key", "partitionkey")):
            if event[name] is not None:
                members[member] = event[name]
        body = json.dumps(members)[:-1]
        if not event["text"]:
            body += f', "data_base64": "{base64.b64encode(event["payload"]).decode()}"'
        elif mapping.JSON_TYPE.apply(event["content_type"], event).endswith("json"):
            body += f', "data": {event["payload"].decode()}'
        else:
            body += f', "data": {json.dumps(event["payload"].decode())}'
        fields = common_fields({**event, "partition_key": None})
        return web.publish(self.node, path_of(event["topic"]), (body + "}").encode(), *fields,
                           "Content-Type: application/cloudevents+json; charset=utf-8")["id"]


class BatchSender(RESTSender):
    def send(self, event):
        answer = web.curl(self.node, "/events", body=json.dumps(to_json(event)).encode(),
                          headers=["Content-Type: application/x-ndjson"]).json()
        check(answer["accepted"] == 1, f"{event['topic']}: {answer}")
        return answer["items"][0]["id"]


class StreamReceiver:
    """curl on a stream, as JSON or as it comes."""

    def __init__(self, node, name, filters, is_json):
        query = "&".join("filter=" + urllib.parse.quote(topic_filter, safe="/") for topic_filter in filters)
        self.stream = web.Stream(node, query + "&format=json" * is_json)

    def take(self):
        events = []
        while not self.stream.events.empty():
            name, data, _ = self.stream.events.get()
            if name == "message":
                events.append(from_json(json.loads(data)))
            else:
                events.append(event_of(topic=name, payload=data.encode(), text=True, qos=None, retained=None))
        return events

    def close(self):
        self.stream.close()


class PollReceiver(Collector):
    def __init__(self, node, name, filters):
        super().__init__()
        self.node = node
        self.query = "&".join("filter=" + urllib.parse.quote(topic_filter, safe="/") for topic_filter in filters)
        self.next = web.curl(node, f"/poll?{self.query}&wait=0").json()["next"]
        self.run()

    def read(self):
        while not self.ended:
            answer = web.curl(self.node, f"/poll?{self.query}&wait=500&after={self.next}")
            if answer.status != 200:
                break
            told = answer.json()
            self.next = told["next"]
            for event in told["events"]:
                self.add(from_json(event))
            if told.get("gap"):
                self.add(event_of(topic="a gap", payload=b""))


class FieldReader:
    """Header fields as an event has them."""

    PLAIN = {
        "apus-reply-to": "reply_to", "apus-message-id": "message_id", "apus-partition-key": "partition_key",
    }

    @classmethod
    def read(cls, fields, topic, payload):
        event = event_of(topic=topic, payload=payload, retained=None)
        pairs, attributes, unknown = [], [], []
        for name, value in fields:
            lower = name.lower()
            if lower in cls.PLAIN:
                event[cls.PLAIN[lower]] = urllib.parse.unquote(value)
            elif lower == "content-type":
                event["content_type"] = value
            elif lower == "apus-correlation-id":
                event["correlation"] = urllib.parse.unquote_to_bytes(value)
            elif lower in ("apus-time-to-live", "apus-priority"):
                event["expiry" if lower.endswith("live") else "priority"] = int(value)
            elif lower == "apus-delivery-mode":
                event["qos"] = {"guaranteed": 1, "direct": 0}[value]
            elif lower in TRACE:
                pairs.append((lower, value))
            elif lower == "ce-partitionkey":
                event["partition_key"] = urllib.parse.unquote(value)
            elif lower.startswith("ce-"):
                pairs.append((name[3:], urllib.parse.unquote(value)))
                attributes.append(pairs[-1])
            elif lower.startswith("apus-property-"):
                pairs.append((urllib.parse.unquote(name[14:]), urllib.parse.unquote(value)))
            elif lower.startswith("apus-") and lower not in (
                    "apus-topic", "apus-webhook", "apus-delivery-attempt", "apus-retained"):
                unknown.append((name, value))
        event["properties"] = pairs or None
        select(event)
        event["cloudevents"] = sorted(attributes) or None
        event["foreign"] = unknown or None
        return event


class WebhookReceiver(Collector):
    """An HTTP server, which a webhook calls."""

    def __init__(self, node, name, filters):
        super().__init__()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                payload = self.rfile.read(int(self.headers["Content-Length"]))
                topic = urllib.parse.unquote(self.headers["Apus-Topic"])
                receiver.add(FieldReader.read(self.headers.items(), topic, payload))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.node, self.path = node, f"/webhooks/{name}"
        wanted = {"url": f"http://127.0.0.1:{self.server.server_port}/", "filters": filters}
        self.run()
        answer = web.curl(node, self.path, body=json.dumps(wanted).encode(), method="PUT",
                          headers=["Content-Type: application/json"])
        check(answer.status == 201, f"{name}: {answer}")

    def read(self):
        self.server.serve_forever()

    def close(self):
        web.curl(self.node, self.path, method="DELETE")
        self.server.shutdown()
        self.server.server_close()


def get(node, topic):
    """The last value by curl; None where there is none."""
    answer = web.curl(node, path_of(topic))
    if answer.status == 404:
        return None
    check(answer.status == 200, f"GET {topic}: {answer}")
    return FieldReader.read(answer.fields, topic, answer.body)


def sender(kind, node, name):
    three, five = mqtt.MQTTv311, mqtt.MQTTv5
    return {
        "mqtt3": lambda: MQTTSender(node, name, three, False), "mqtt5": lambda: MQTTSender(node, name, five, False),
        "ws-mqtt3": lambda: MQTTSender(node, name, three, True), "ws-mqtt5": lambda: MQTTSender(node, name, five, True),
        "amqp": lambda: AMQPSender(node, name), "ws-amqp": lambda: OverWebSocket(AMQPSender, node, name),
        "ws-json": lambda: JSONSender(node, name), "rest": lambda: RESTSender(node, name),
        "structured": lambda: StructuredSender(node, name), "batch": lambda: BatchSender(node, name),
    }[kind]()


def receiver(kind, node, name, filters, waits=False):
    three, five = mqtt.MQTTv311, mqtt.MQTTv5
    return {
        "mqtt3": lambda: MQTTReceiver(node, name, three, False, filters, waits),
        "mqtt5": lambda: MQTTReceiver(node, name, five, False, filters, waits),
        "ws-mqtt3": lambda: MQTTReceiver(node, name, three, True, filters, waits),
        "ws-mqtt5": lambda: MQTTReceiver(node, name, five, True, filters, waits),
        "amqp": lambda: AMQPReceiver(node, name, filters, waits),
        "ws-amqp": lambda: OverWebSocket(AMQPReceiver, node, name, filters, waits),
        "ws-json": lambda: JSONReceiver(node, name, filters),
        "stream": lambda: StreamReceiver(node, name, filters, True),
        "sse": lambda: StreamReceiver(node, name, filters, False),
        "poll": lambda: PollReceiver(node, name, filters), "webhook": lambda: WebhookReceiver(node, name, filters),
    }[kind]()
