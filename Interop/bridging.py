"""What the tests of bridges share: sections of a configuration, clients, how a bridge is, running by parts."""

import json
import pathlib
import signal
import sys
import time
import urllib.request

import paho.mqtt.client as mqtt
from paho.mqtt.subscribeoptions import SubscribeOptions

from paho_client import Client
from secure import Report, until

VERSIONS = {"5": mqtt.MQTTv5, "3.1.1": mqtt.MQTTv311}


def bridge(broker, topics, name="plant", **more):
    """The section of a configuration."""
    port = broker if isinstance(broker, int) else broker.port
    more = {"retry_max": 2, **more}
    lines = [f"  - name: {name}", f'    to: "{more.pop("host", "127.0.0.1")}:{port}"']
    for key, value in more.items():
        lines.append(f"    {key}: {json.dumps(value)}")
    lines.append("    topics:")
    for topic in topics:
        lines.append("      - " + json.dumps(topic))
    return "\n".join(lines) + "\n"


def section(*bridges):
    return "bridges:\n" + "".join(bridges)


def topic(filter_, direction, qos=2, local=None, remote=None):
    found = {"filter": filter_, "direction": direction, "qos": qos}
    if local is not None:
        found["local_prefix"] = local
    if remote is not None:
        found["remote_prefix"] = remote
    return found


def seen(node, name="plant"):
    with urllib.request.urlopen(f"http://{node.admin}/v1/bridges", timeout=10) as answer:
        bridges = json.load(answer)["bridges"]
    return next((each for each in bridges if each["name"] == name), None)


def brief(node, name="plant"):
    """What matters of a bridge, for messages."""
    found = seen(node, name) or {}
    return {key: value for key, value in found.items() if key in ("state", "lastError", "eventsIn", "eventsOut",
            "queuedEvents", "inFlight", "connects", "failures") or key.startswith(("dropped", "loops"))
            and value and (not isinstance(value, dict) or any(value.values()))}


def connected(node, *names, seconds=60):
    for name in names or ["plant"]:
        until(lambda: (seen(node, name) or {}).get("state") == "connected",
              lambda: f"bridge {name}: {brief(node, name)}", seconds)


def reload(node):
    """SIGHUP with the configuration as it is now."""
    base = pathlib.Path(node.directory.name)
    (base / "node.yaml").write_text(node.configuration(base))
    before = node.log.read_text().count("configuration reloaded")
    node.process.send_signal(signal.SIGHUP)
    until(lambda: node.log.read_text().count("configuration reloaded") > before,
          lambda: "no reload: " + node.log.read_text()[-500:])


def subscriber(broker, filter_="#", qos=2, name=None, version=mqtt.MQTTv5, **more):
    found = Client(broker, name or f"subscriber-{time.monotonic_ns()}", version=version, **more)
    if version == mqtt.MQTTv5:
        found.subscribe(filter_, options=SubscribeOptions(qos=qos, retainAsPublished=True))
    else:
        found.subscribe(filter_, qos)
    return found


def publisher(broker, version=mqtt.MQTTv5, name=None):
    return Client(broker, name or f"publisher-{time.monotonic_ns()}", version=version)


def got(client, count, seconds=60):
    return [(message.topic, message.payload) for message in client.wait(count, seconds)]


def user(message):
    return getattr(message.properties, "UserProperty", []) if message.properties else []


def run(name, parts, about):
    """The whole of a test: `parts` by their names, or those whose names hold a word of the command line."""
    wanted = sys.argv[1:]
    report = Report(name)
    for part, (body, *arguments) in parts.items():
        if not wanted or any(word in part for word in wanted):
            report.run(part, body, *arguments)
    report.finish()
    return f"{report.count} parts: {about}"
