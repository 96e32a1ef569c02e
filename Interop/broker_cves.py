#!/usr/bin/env python3
"""Proves that a node has none of the holes that brokers have had, one part for each class: wills of refused topics,
sessions of other users, filters past the rule, retained events past the rule, $SYS for plain users, names that inject
patterns or variables, memory taken before anybody has said who it is, takeovers that race, names chosen to collide.

    broker_cves.py [NAME of a part…]

Run it with the interpreter that python.sh prints."""

import http.client
import json
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import amqp_wire
import wire
from amqp_wire import performative, string, symbol, uint
from authority import Authority
from mesh_wire import hashed
from node import APUS, ROOT, Failure, check, is_, main, until
from secure import AMQP, IS_DEBUG, MQTT, Calm, Report, Scram, SecureNode, add_user, basic, login, method, plain

LISTENERS = {"mqtt": "mqtt", "amqp": "amqp", "http": "http", "mqtts": "mqtt, tls: main"}
CONFIG = """tls:
  main: { certificate: PKI/node.pem, key: PKI/node.key }
security:
  users: PKI/users
  anonymous: never
  access:
    - { deny: all, topics: ["vault/#"], users: [anna, bert] }
    - { deny: retain, topics: ["unkept/#"] }
    - { deny: share, topics: ["alone/#"] }
    - { allow: all, topics: ["#"], users: [olga] }
    - { allow: subscribe, topics: ["$SYS/#"], users: [olga] }
    - { allow: all, topics: ["u/${username}/#", "c/${clientid}/#", "calm/#", "unkept/#", "alone/#"] }
    - { allow: publish, topics: ["in/#"] }
    - { allow: subscribe, topics: ["out/+/news"] }
    - { allow: all, topics: ["staff/#"], groups: [staff] }
    - { allow: subscribe, topics: ["regex/#"], users: [".*", "^anna$", "an.a", "*", "anna "] }
    FLOOD
mqtt: { sys_interval: 1 }
http: { webhook_users: [olga] }
limits: { connect_timeout: 10, max_connections: 15000 }
"""
DENIED = {5: 0x87, 4: 0x80}
USERS = ("anna", "bert", "olga", "carl")


class World:
    def __init__(self, directory):
        self.pki = pathlib.Path(directory)
        self.authority = Authority(self.pki)
        self.authority.server("node")
        for user in USERS:
            add_user(self.pki / "users", user, f"word of {user}", *(["staff"] if user == "carl" else []))
        add_user(self.pki / "users", "sam", "word of sam", scram=True)

    def config(self, flood=False):
        rule = '- { allow: all, topics: ["flood/#", "plain/#"] }' if flood else ""
        return CONFIG.replace("PKI", str(self.pki)).replace("FLOOD", rule)

    def node(self, **more):
        return SecureNode(LISTENERS, self.config(**more))


def mqtt(node, user, client=None, version=5, **more):
    return MQTT(node.dial("mqtt"), version, client or f"{user}-1", user, f"word of {user}", **more)


def amqp(node, user, container=None):
    raw = AMQP(node.dial("amqp"))
    is_("SASL", 0, raw.sasl("PLAIN", plain(user, f"word of {user}")))
    return raw.open(container or f"{user}-amqp")


def request(node, user, verb, path, body=None, **fields):
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=15)
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    connection.request(verb, path, body, {"Authorization": basic(user, f"word of {user}"), **fields})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def wills(world, node):
    """A will of a topic that its client may not publish to is never published: not on a broken line, a takeover or a
    wrong packet, not with a delay, retained or not, and not when the rules change after CONNECT."""
    watch = mqtt(node, "olga", "olga-watch")
    is_("subscribe", 1, watch.subscribe("#", 1))
    dropped = node.counters().get("dropped_notAuthorized", 0)
    count = 0
    for version in (4, 5):
        for topic in ("vault/x", "u/bert/x", "staff/x", "out/a/news", "u", "c/anna"):
            for retain in (False, True):
                for how in ("cut", "garbage", "takeover"):
                    client = f"will-{version}"
                    try:
                        one = mqtt(node, "anna", client, version, wants_refusal=True,
                                   will=(topic, "last words", retain))
                    except Failure as failure:
                        check("no CONNACK" not in str(failure), f"{failure}")
                        continue
                    if one.refused:
                        continue
                    count += 1
                    if how == "cut":
                        one.socket.close()
                    elif how == "garbage":
                        one.send(b"\xff\xff\xff\xff\xff")
                        one.drain()
                    else:
                        mqtt(node, "anna", client, version).close()
    allowed = mqtt(node, "anna", "will-good", will=("u/anna/will", "last words", True))
    allowed.socket.close()
    event = watch.event()
    check(event and event.topic == "u/anna/will", f"heard {event and event.topic}")
    check(watch.event(0.5) is None, "a refused will was published")
    is_("kept", 404, request(node, "olga", "GET", "/TOPIC/vault/x")[0])
    if count:
        until(lambda: node.counters().get("dropped_notAuthorized", 0) >= dropped + count,
              "refused wills are not counted", 5, 0.1)
    # The right is judged when the will is due: a reload takes it away in between.
    one = mqtt(node, "anna", "will-reload", will=("in/x", "last words"))
    config = pathlib.Path(node.directory.name) / "node.yaml"
    before = config.read_text()
    config.write_text(before.replace('topics: ["in/#"]', 'topics: ["elsewhere/#"]'))
    node.reload()
    one.socket.close()
    check(watch.event(1) is None, "a will whose right was taken away was published")
    config.write_text(before)
    node.reload()
    request(node, "olga", "DELETE", "/TOPIC/u/anna/will")
    return f"{count} wills"


def sessions(world, node):
    """Nothing of a user's session, subscription, place or answer can be had by another user."""
    kept = mqtt(node, "anna", "shared-id", clean=False, more=wire.expiry(3_600))
    is_("subscribe", 1, kept.subscribe("u/anna/#", 1))
    kept.close()
    is_("publish", 0, mqtt(node, "anna", "anna-2").publish("u/anna/waiting", b"for anna"))
    for version in (4, 5):
        for clean in (False, True):
            other = mqtt(node, "bert", "shared-id", version, clean=clean, wants_refusal=True)
            check(other.refused, f"bert has anna's client id: clean {clean}, MQTT {version}")
            check(not [x for x in other.arrived if x[0] & 0xF0 == 0x30], "an event of anna's")
    again = mqtt(node, "anna", "shared-id", clean=False, more=wire.expiry(3_600))
    check(again.session_present, "anna's session is gone")
    is_("what waited", b"for anna", again.event().payload)
    # A connected one cannot be pushed out, either.
    other = mqtt(node, "bert", "shared-id", wants_refusal=True)
    check(other.refused and again.ping(), "bert takes anna's connection over")
    again.send(bytes([0xE0, 7, 0, 5]) + b"\x11" + (0).to_bytes(4, "big"))
    # A durable subscription of AMQP: the same container and link names.
    source = amqp_wire.source("u/anna/>", uint(2), symbol("never"))
    attach = performative(amqp_wire.ATTACH, string("kept"), uint(0), amqp_wire.TRUE, None, None, source,
                          amqp_wire.target(None))
    one = amqp(node, "anna", "same")
    one.send(attach)
    one.wait(amqp_wire.ATTACH)
    one.send(performative(amqp_wire.DETACH, uint(0)))
    one.wait(amqp_wire.DETACH)
    one.close()
    is_("publish", 0, mqtt(node, "anna", "anna-2").publish("u/anna/durable", b"for anna"))
    two = amqp(node, "bert", "same")
    two.send(attach + amqp_wire.flow_frame(0, 0, 10))
    check(two.next(amqp_wire.TRANSFER, seconds=0.5) is None, "bert gets what waited for anna")
    # No address: whatever is there under this name is asked for.
    two = amqp(node, "bert", "same")
    two.send(performative(amqp_wire.ATTACH, string("kept"), uint(0), amqp_wire.TRUE, None, None, None,
                          amqp_wire.target(None)))
    found = two.next(amqp_wire.ATTACH, seconds=1)
    check(not found or found.fields[5] is None, f"bert finds anna's subscription: {found}")
    # Streams and polls: places of another user.
    place = json.loads(request(node, "anna", "GET", "/poll?filter=u/anna/%23&wait=0")[1])["next"]
    is_("publish", 202, request(node, "anna", "POST", "/TOPIC/u/anna/poll", b"for anna")[0])
    query = urllib.parse.urlencode({"filter": "u/anna/#", "wait": 0, "after": place})
    is_("anna's place, asked for by bert", 403, request(node, "bert", "GET", f"/poll?{query}")[0])
    query = urllib.parse.urlencode({"filter": "u/bert/#", "wait": 0, "after": place})
    status, body = request(node, "bert", "GET", f"/poll?{query}")
    check(b"for anna" not in body, f"bert reads on from anna's place: {status} {body}")
    # An answer that is remembered for a key is its user's.
    for user in ("anna", "bert"):
        status, _ = request(node, user, "POST", "/TOPIC/in/x", user.encode(), Idempotency_Key="one key")
        is_(f"the key of {user}", 202, status)
    # Webhooks, clients: nobody but who may.
    for path in ("/webhooks", "/webhooks/x"):
        status, _ = request(node, "bert", "GET", path)
        check(status in (401, 403, 404, 405), f"GET {path}: {status}")
    status, _ = request(node, "bert", "PUT", "/webhooks/x", json.dumps(
        {"url": "http://127.0.0.1:1/", "filters": ["u/anna/#"]}).encode(), Content_Type="application/json")
    is_("bert makes a webhook of anna's topics", 403, status)


PAST = (
    "#", "+", "+/#", "u/#", "u/+/x", "+/anna/#", "u/+/#", "u//anna/x", "/u/bert/x", "u/bert", "u/bert/", "u/bert/#",
    "U/BERT/x", "U/anna/x", "u/anna2/#", "u/ann/#", "u/ann+", "out/#", "out/+/+", "out/+/news/#", "out/a/news/x",
    "out/a/New", "out/+/", "vault/#", "vault/x", "vault", "+/x", "staff/#", "staff", "c/anna-9/#", "in/#", "in/x", "*",
    ">", "u/>", "u/*/x", "u/%23", "u/b%65rt/x", "$share/g/#", "$share/g/u/bert/#", "$share/g/vault/x",
    "$share/g/alone/x", "$share/anna/u/+/x", "$queue/u/bert/x", "$local/u/bert/x", "$exclusive/u/bert/x",
    "$delayed/1/u/bert/x", "$SYS/#", "$SYS/../u/bert/x", "$/u/bert", "regex/x",
)


def strangers(body):
    """The topics of a list that anna may not hear."""
    return [entry["topic"] for entry in json.loads(body)["topics"]
            if not entry["topic"].startswith(("u/anna", "c/", "calm/", "unkept/", "alone/"))
            and not (entry["topic"].startswith("out/") and entry["topic"].endswith("/news"))]


def filters(world, node):
    """Every filter that is more than a rule gives is refused, by every protocol, and by what is granted nothing of
    others arrives."""
    one, problems = mqtt(node, "anna", "anna-past"), []
    old = mqtt(node, "anna", "anna-old", 4)
    for topic_filter in PAST:
        for version, client in ((5, one), (4, old)):
            code = client.subscribe(topic_filter, 1)
            # Star and greater-than are letters in MQTT, and $local and its like are plain topics: those must be refused
            # as any other that no rule allows.
            if code < 0x80:
                problems.append(f"MQTT {version}: {topic_filter} is granted")
    raw = amqp(node, "anna")
    for number, address in enumerate((">", "*", "u/>", "u/*/x", "*/anna/>", "out/>", "vault/x", "vault/>", "staff/>",
                                      "topic://u/bert/x", "/u/bert/x", "u/bert/>", "#", "u/#", "u/+/x", "$SYS/>")):
        said = raw.receiver(address, f"r{number}", number)
        if said is None:
            problems.append(f"AMQP: {address} is granted")
    for path in ("%23", "u/%23", "u/%2B/x", "u/bert/x", "vault/x", "out/%23", "%2B/anna/%23", ">", "u/%3E",
                 "u/anna/%23&filter=u/bert/%23", "u/b%2565rt/x"):
        for what in (f"/events?filter={path}", f"/poll?filter={path}&wait=0"):
            try:
                status = request(node, "anna", "GET", what)[0]
            except (TimeoutError, OSError):
                status = 200
            if status < 400:
                problems.append(f"HTTP: {what} is answered with {status}")
        # A list of topics has those that its reader may hear.
        status, body = request(node, "anna", "GET", f"/topics?filter={path}")
        if status == 200 and strangers(body):
            problems.append(f"HTTP: /topics?filter={path} lists {strangers(body)[:5]}")
    # What anna has been granted gives her nothing of others.
    for topic_filter in ("u/anna/#", "out/+/news", "calm/#", "alone/x", "$share/g/u/anna/x"):
        check(one.subscribe(topic_filter, 1) < 0x80, f"{topic_filter} is refused")
    olga = mqtt(node, "olga", "olga-pub")
    for topic in ("u/bert/x", "vault/x", "staff/x", "out/a/b/news", "out/news", "u/anna2/x", "u/ann/x", "u/ANNA/x",
                  "in/x", "uanna/x", "u/annax", "alone2/x"):
        is_("publish", 0, olga.publish(topic, b"of others"))
    is_("publish", 0, olga.publish("u/anna/x", b"anna's"))
    first = one.event()
    check(first and first.topic == "u/anna/x", f"anna hears {first and first.topic}")
    # Publishing past the rule.
    for topic in ("u/bert/x", "vault/x", "out/a/news", "u", "u/anna2", "staff/x", "U/anna/x", "regex/x", "$SYS/x",
                  "$share/g/u/anna/x", "u//x", " u/anna/x"):
        code = one.publish(topic, b"x")
        if code is None or code < 0x80:
            problems.append(f"publish to {topic}: {code}")
            if code is None:
                one = mqtt(node, "anna", "anna-past")
    check(not problems, f"{len(problems)}: " + "; ".join(problems[:12]))
    return f"{len(PAST)} filters"


def kept(world, node):
    """Retained events: kept and read only by those who may, live or late, by every way."""
    olga = mqtt(node, "olga", "olga-keeps")
    for topic in ("vault/kept", "u/bert/kept", "out/a/news", "out/a/news/deep", "staff/kept", "u/anna/kept"):
        is_("publish", 0, olga.publish(topic, topic.encode(), retain=True))
    anna = mqtt(node, "anna", "anna-late")
    for topic_filter in ("out/+/news", "u/anna/#"):
        check(anna.subscribe(topic_filter, 1) < 0x80, "refused")
    found = set()
    while (event := anna.event(0.5)) is not None:
        found.add(event.topic)
    is_("kept for anna", {"out/a/news", "u/anna/kept"}, found)
    for topic in ("vault/kept", "u/bert/kept", "staff/kept", "out/a/news/deep"):
        for verb in ("GET", "HEAD", "DELETE"):
            is_(f"{verb} of {topic}", 403, request(node, "anna", verb, f"/TOPIC/{topic}")[0])
    status, body = request(node, "anna", "GET", "/topics?filter=%23")
    check(status == 403 or not strangers(body), f"topics: {status} {body}")
    # Where nothing may be kept events still arrive. A refusal of the whole publish would do, too.
    watch = mqtt(node, "olga", "olga-unkept")
    watch.subscribe("unkept/#", 1)
    code = anna.publish("unkept/x", b"live", retain=True)
    event = watch.event(1)
    check(code is not None and (code >= 0x80) == (event is None), f"PUBACK {code}, event {event and event.topic}")
    is_("kept where nothing may be", 404, request(node, "olga", "GET", "/TOPIC/unkept/x")[0])
    status, _ = request(node, "anna", "POST", "/TOPIC/unkept/y", b"x", Apus_Retain="true")
    is_("kept by HTTP", 404, request(node, "olga", "GET", "/TOPIC/unkept/y")[0])
    is_("publish without keeping", 0, anna.publish("unkept/x", b"live"))
    # Deleting is keeping nothing.
    is_("publish", 0, olga.publish("out/a/news", b"kept", retain=True))
    check(anna.publish("out/a/news", b"", retain=True) >= 0x80, "anna deletes what she may not write")
    is_("what was kept", 200, request(node, "olga", "GET", "/TOPIC/out/a/news")[0])
    # A right that ends: kept before, not read after.
    config = pathlib.Path(node.directory.name) / "node.yaml"
    before = config.read_text()
    config.write_text(before.replace('topics: ["out/+/news"]', 'topics: ["out/+/old"]'))
    node.reload()
    late = mqtt(node, "anna", "anna-later")
    is_("a right that has ended", 0x87, late.subscribe("out/+/news", 1))
    is_("GET", 403, request(node, "anna", "GET", "/TOPIC/out/a/news")[0])
    config.write_text(before)
    node.reload()
    for topic in ("vault/kept", "u/bert/kept", "out/a/news", "out/a/news/deep", "staff/kept", "u/anna/kept"):
        is_("DELETE", 204, request(node, "olga", "DELETE", f"/TOPIC/{topic}")[0])


def system(world, node):
    """$SYS is for those whom a rule names: neither read nor written by others, by no way."""
    anna, olga = mqtt(node, "anna", "anna-sys"), mqtt(node, "olga", "olga-sys")
    for topic_filter in ("$SYS/#", "$SYS/+", "$SYS/broker/#", "$SYS/audit/#", "$SYS/audit/access", "$share/g/$SYS/#",
                         "+/audit/#", "$sys/#", "$SYS", "$+/#"):
        check(anna.subscribe(topic_filter) >= 0x80, f"anna may subscribe to {topic_filter}")
    for path in ("$SYS/%23", "%24SYS/%23", "%2B/audit/%23"):
        for what in ("events", "poll"):
            status = request(node, "anna", "GET", f"/{what}?filter={path}")[0]
            check(status >= 400, f"anna: {what} of {path}: {status}")
        status, body = request(node, "anna", "GET", f"/topics?filter={path}")
        check(status >= 400 or b"SYS" not in body.split(b"topics", 1)[1], f"anna: topics of {path}: {body}")
    check(amqp(node, "anna").receiver("$SYS/>") is not None, "anna by AMQP")
    check(olga.subscribe("$SYS/#") < 0x80, "olga may not")
    everything = mqtt(node, "olga", "olga-all")
    everything.subscribe("#")
    end = time.monotonic() + 10
    audits = []
    # What anna does now is refused, audited and published for olga.
    anna.publish("vault/x", b"x")
    anna.subscribe("vault/#")
    while time.monotonic() < end and len(audits) < 2:
        event = olga.event(1)
        if event and event.topic.startswith("$SYS/audit/"):
            record = json.loads(event.payload)
            if record.get("user") == "anna" and "vault" in record.get("object", ""):
                audits.append(record)
    check(len(audits) >= 2, f"$SYS/audit tells olga {audits}")
    check({x["action"] for x in audits} >= {"publish", "subscribe"}, f"actions: {audits}")
    check(all(x.get("outcome") == "refused" and x.get("peer") for x in audits), f"records: {audits}")
    check(not [x for x in everything.events() if x.topic.startswith("$")], "# covers $SYS")
    # Nobody writes there, the one who may do everything included.
    for who in (anna, olga):
        for topic in ("$SYS/audit/access", "$SYS/x", "$x", "$SYS/broker/version"):
            code = who.publish(topic, b"forged", retain=True)
            check(code is None or code >= 0x80, f"somebody publishes to {topic}: {code}")
            if code is None:
                break
    for user in ("anna", "olga"):
        status = request(node, user, "POST", "/TOPIC/$SYS/x", b"forged")[0]
        check(status in (400, 403), f"{user} publishes to $SYS by HTTP: {status}")
    check(not any(x.payload == b"forged" for x in olga.events()), "something forged was heard")


INJECTED = (
    "anna|bert", ".*", "^.*$", "an(n)a", "anna\n", "anna ", " anna", "Anna", "ANNA", "anna\r", "ann\u0430", "anna%00",
    "${username}", "${clientid}", "{username}", "%u", "%c", "$anna", "anna:bert", "anna,bert", "anna'--", "a\"b",
    "users: [olga]", "\u200banna", "anna\u0301",
)


def injection(world, node):
    """Names that are patterns, variables or something else for somebody: they are names, and never somebody else's."""
    file, problems, made = world.pki / "users", [], 0
    for number, name in enumerate(INJECTED):
        done = subprocess.run([APUS, "user", "add", "--file", str(file), "--", name], input=b"word\n",
                              capture_output=True, timeout=20)
        if done.returncode != 0:
            continue  # The file takes no such names, which is as good.
        made += 1
    node.reload()
    for name in INJECTED:
        for client in ("injected", name):
            one = MQTT(node.dial("mqtt"), 5, client, name, "word", wants_refusal=True)
            if one.refused:
                break
            for topic_filter in ("u/anna/x", "u/bert/x", "u/+/x", "u/#", "#", "vault/x", "regex/x", "staff/x",
                                 "c/anna-1/x", "c/+/x"):
                if topic_filter == f"u/{name}/x" or topic_filter == f"c/{client}/x":
                    continue
                if name in (".*", "anna ") and topic_filter == "regex/x":
                    continue  # A rule names the user whose name is exactly that.
                if one.subscribe(topic_filter) < 0x80:
                    problems.append(f"{name!r} may subscribe to {topic_filter}")
            one.close()
    # The rules' own user names are names, too: none of the patterns in `regex/#` is anna.
    one = mqtt(node, "anna", "anna-regex")
    is_("a rule for the user .*", 0x87, one.subscribe("regex/x"))
    check(not problems, f"{len(problems)}: " + "; ".join(problems[:8]))
    # Client ids that look like variables or filters.
    for client in ("+", "#", "anna-1/#", "${username}", "../anna-1", "anna-1/", "/anna-1", "a+b", "*", ">"):
        one = mqtt(node, "bert", client, wants_refusal=True)
        if one.refused:
            continue
        for topic_filter in ("c/anna-1/x", "c/+/x", "c/#", "c/bert/x"):
            check(one.subscribe(topic_filter) >= 0x80, f"client id {client!r} may subscribe to {topic_filter}")
        one.close()
    # What a log line, a metric or a page shows of such names stays on its line.
    forged = '\n{"event":"forged"}'
    one = MQTT(node.dial("mqtt"), 5, f"log{forged}", f"anna{forged}", "x", wants_refusal=True)
    check(one.refused, "let in")
    for record in node.log_records():
        check(record.get("event") != "forged", "a log record was forged")
    for line in node.log.read_text().splitlines():
        json.loads(line)
    return f"{len(INJECTED)} names, of which the user file took {made}"


CLAIMS = {
    "mqtt": (b"\x10\xff\xff\xff\x7f\0\4MQTT\5", b"\x10\xf0\xff\xff\x07\0\4MQTT\5\2\0\0\0\xff\xff",
             b"\x10\xff\xff\x03\0\4MQTT\5\xc2\0\0\0\0\0\xff\xffxxx"),
    "amqp": (b"AMQP\3\1\0\0" + b"\0\0\xff\xff\2\1\0\0\0\x53\x41\xd0\0\0\xff\xf0\0\0\0\3",
             b"AMQP\0\1\0\0\xff\xff\xff\xff\2\0\0\0",
             b"AMQP\3\1\0\0\0\0\2\0\2\1\0\0\0\x53\x41\xd0\x7f\xff\xff\xff\x7f\xff\xff\xff"),
    "http": (b"POST /TOPIC/in/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16777216\r\n\r\nx",
             b"POST /TOPIC/in/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\nx",
             b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 2_000),
    "mqtts": (b"\x16\x03\x01\x40\0\1\0\x3f\xfc\3\3" + bytes(40), b"\x16\x03\x01\x02\0\1\0\x01\xfc\3\3" + bytes(100),
              b"\x16\x03\3\xff\xff"),
}


def before_login(world, node):
    """10,000 connections that announce much and send little, 2,500 at each listener: memory stays bounded, others are
    served, and it all comes back."""
    calm = Calm(node, mqtt(node, "anna", "calm-1"), mqtt(node, "anna", "calm-2"))
    before, results = node.resident_kilobytes(), []
    held = []
    for listener, claims in CLAIMS.items():
        start = node.resident_kilobytes()
        for number in range(2_500):
            connection = socket.create_connection(("127.0.0.1", node.ports[listener]))
            held.append(connection)
            try:
                connection.sendall(claims[number % len(claims)])
            except OSError:
                pass
        time.sleep(0.2)
        results.append(f"{listener} {(node.resident_kilobytes() - start) / 2_500:.1f}")
    grown = node.resident_kilobytes() - before
    one = mqtt(node, "anna", "in-between")
    check(one.ping(), "nobody else gets in")
    one.close()
    check(grown < 200 << 10, f"10,000 connections cost {grown >> 10} MiB: {results} KiB each")
    until(lambda: node.counters()["connections"] < 100, "they stay", 40, 0.3)
    for connection in held:
        connection.close()
    said = calm.finish(limit=1.0 if IS_DEBUG else 0.3)
    return f"{grown >> 10} MiB for 10,000 ({', '.join(results)} KiB each); {said}"


class Racer(threading.Thread):
    """Takes the client id over, again and again, with pauses of any length, as who may or as somebody else."""

    def __init__(self, node, user, seed, seconds, problems, client="raced", is_clean=False):
        super().__init__(daemon=True)
        self.client, self.is_clean = client, is_clean
        self.node, self.user, self.problems, self.seconds = node, user, problems, seconds
        self.chance, self.count, self.alive = random.Random(seed), 0, None
        self.start()

    def run(self):
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            try:
                self.once()
            except (OSError, Failure) as failure:
                self.problems.append(f"{self.user}: {failure!r:.300}")
                return

    def once(self):
        password = f"word of {self.user}"
        made = self.node.dial("mqtt")
        frames = login(5, self.client, self.user, password, clean=self.is_clean, more=wire.expiry(60))
        # In pieces, with what comes behind CONNECT already there, and gone in the middle of it.
        frames += wire.subscribe(5, f"u/{self.user}/#", 1) + wire.publish(5, f"u/{self.user}/race", b"x", 1, 7)
        cut = self.chance.randrange(len(frames) + 1)
        one = MQTT(made, 5)
        one.send(frames[:cut])
        time.sleep(self.chance.choice((0, 0, 0.001, 0.005, 0.02)))
        one.send(frames[cut:])
        if self.chance.random() < 0.2:
            one.socket.close()
            return
        body = one.take(wire.CONNACK, 20)
        self.count += 1
        if self.user != "anna":
            check(body is None or body[1] >= 0x80, f"{self.user} got in: {body and body.hex()}")
            check(not one.events(), f"{self.user} got events")
        elif body is not None:
            check(body[1] in (0, 0x8E, 0x97), f"anna was refused: {body.hex()}")
            time.sleep(self.chance.choice((0, 0.002, 0.01)))
            for event in one.events():
                check(f"{event.topic}/".startswith("u/anna/"), f"anna hears {event.topic}")
        if self.alive:
            self.alive.socket.close()
        self.alive = one


def takeovers(world, node, seconds=8):
    """One client id, claimed at once by its user, by others with good passwords, by wrong passwords and by exchanges
    that are never finished: only its user ever has it, one connection at a time."""
    mqtt(node, "anna", "raced", clean=False, more=wire.expiry(60)).close()
    problems = []
    racers = [Racer(node, user, f"{user}{number}", seconds, problems)
              for number in range(3) for user in ("anna", "bert", "olga")]
    end = time.monotonic() + seconds
    unfinished = []
    while time.monotonic() < end:
        one = MQTT(node.dial("mqtt"), 5)
        one.send(login(5, "raced", more=method("SCRAM-SHA-256", Scram("sam", "x").first())))
        unfinished.append(one)
        time.sleep(0.02)
    for racer in racers:
        racer.join(30)
    check(not problems, f"{len(problems)}: " + "; ".join(problems[:4]))
    for one in unfinished:
        one.socket.close()
    last = mqtt(node, "anna", "raced", clean=False, more=wire.expiry(60))
    check(last.session_present, "the session is gone")
    living = []
    for racer in racers:
        if racer.alive and racer.user == "anna":
            racer.alive.read(0.2)
            living += [racer] if not racer.alive.closed and racer.alive.ping() else []
    is_("connections that live beside the last one", [], living)
    is_("subscribe", 1, last.subscribe("u/anna/#", 1))
    last.publish("u/anna/after", b"after")
    while (event := last.event(10)) is not None and event.topic != "u/anna/after":
        pass
    check(event, "the session does not work any more")
    counts = {user: sum(r.count for r in racers if r.user == user) for user in ("anna", "bert", "olga")}
    return f"connects: {counts}, {len(unfinished)} exchanges that never end"


def colliding_names(count=100_000):
    """Names whose hash with the public key of the mesh's digests is one and the same; made once."""
    file = ROOT / ".build" / "colliding-names"
    names = file.read_text().splitlines() if file.exists() else []
    if len(names) < count:
        program = ROOT / ".build" / "collide"
        program.parent.mkdir(exist_ok=True)
        source = pathlib.Path(__file__).with_name("collide.c")
        subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
        made = subprocess.run([str(program), "0041707573526574", str(count)], capture_output=True, check=True)
        file.write_bytes(made.stdout)
        names = made.stdout.decode().splitlines()
    check({hashed(name.encode(), 0x41707573526574) for name in names[:1_000]} == {0}, "these names do not collide")
    return names[:count]


def random_names(count, seed=1):
    chance = random.Random(seed)
    letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz()=;,.-_!&~"
    return ["plain/" + "".join(chance.choices(letters, k=18)) for _ in range(count)]


def spent(node, body, *arguments):
    before = node.processor_seconds()
    body(*arguments)
    return node.processor_seconds() - before


def published(node, names, qos=1, retain=False):
    """Publishes to all of them, no faster than it is acknowledged."""
    one = mqtt(node, "anna", "flood")
    for start in range(0, len(names), 500):
        block = names[start : start + 500]
        frames = bytearray()
        for number, name in enumerate(block):
            frame = bytearray(wire.publish(5, name, b"x", qos, number + 1))
            frame[0] |= retain
            frames += frame
        one.send(bytes(frames))
        for _ in block:
            body = one.take(wire.PUBACK, 30)
            check(body is not None and (len(body) < 3 or body[2] < 0x80), f"PUBACK {body and body.hex()}")
    one.close()


def subscribed(node, names):
    one = mqtt(node, "anna", "flood-sub")
    for start in range(0, len(names), 500):
        block = names[start : start + 500]
        one.send(b"".join(wire.subscribe(5, name, 0, number + 1) for number, name in enumerate(block)))
        for _ in block:
            body = one.take(wire.SUBACK, 30)
            check(body is not None and body[-1] < 0x80, f"SUBACK {body and body.hex()}")
    one.close()
    until(lambda: node.counters()["subscriptions"] < 100, "subscriptions stay", 30, 0.2)


def connected(node, names):
    for name in names:
        one = mqtt(node, "anna", name, clean=False, more=wire.expiry(30))
        one.socket.close()


def read_all(node, names):
    """A reader who gets them all from the retained store."""
    one = mqtt(node, "anna", "flood-reader")
    check(one.subscribe(names[0].split("/")[0] + "/#") < 0x80, "refused")
    count, end = 0, time.monotonic() + 60
    while count < len(names) and time.monotonic() < end:
        one.read(1)
        count += len(one.events())
    is_("retained events read", len(names), count)
    one.close()


def flooded(world):
    """10^5 names that collide cost what 10^5 random ones cost: as topics, filters, kept topics and client ids."""
    count, results = 20_000 if IS_DEBUG else 100_000, []
    chosen, plain_names = colliding_names()[:count], random_names(count)
    with world.node(flood=True) as node:
        calm = Calm(node, mqtt(node, "olga", "calm-1"), mqtt(node, "olga", "calm-2"))
        clients = max(count // 20, 1_000)
        for what, body, size in (
            ("topics", published, count), ("filters", subscribed, count), ("client ids", connected, clients),
            ("kept topics", lambda n, names: published(n, names, retain=True), count), ("read", read_all, count),
        ):
            for _ in range(3):
                times = [spent(node, body, node, names[:size]) for names in (plain_names, chosen)]
                if times[1] < 1.6 * times[0] + 0.3:
                    break  # If not, something else may have been busy: what collides does so each time.
            results.append(f"{what} {times[1] / max(times[0], 0.01):.2f}")
            check(times[1] < 1.6 * times[0] + 0.3, f"{what}: {times[1]:.2f} s for chosen ones, else {times[0]:.2f} s")
        said = calm.finish(limit=1.5)
    return f"time of {count} chosen names by that of random ones: {', '.join(results)}; {said}"


def keep(one, names):
    for start in range(0, len(names), 500):
        block = names[start : start + 500]
        frames = bytearray()
        for number, name in enumerate(block):
            frame = bytearray(wire.publish(5, name, b"x", 1, number + 1))
            frame[0] |= 1
            frames += frame
        one.send(bytes(frames))
        for _ in block:
            check(one.take(wire.PUBACK, 30) is not None, "no PUBACK")


def arrived(node, topic_filter):
    """How many kept events a node has for a filter."""
    one = MQTT(node.dial("mqtt"), 5, "counting")
    check(one.subscribe(topic_filter) < 0x80, "refused")
    count, heard = 0, node.clock()
    while node.clock() - heard < 0.5:
        if one.read(0.1):
            count, heard = count + len(one.events()), node.clock()
    one.close()
    return count


def joined_by(left, what, names, others, must_arrive):
    """A second node joins one that keeps all these; the processor seconds of both, how many of the names it got, and
    seconds a second that both spend when nothing happens any more."""
    from mesh_tls import Member
    one = MQTT(left.dial("mqtt"), 5, "keeper")
    keep(one, names)
    keep(one, others)
    with Member("right", links=[left.ports["mesh"]]) as right:
        def used():
            return left.processor_seconds() + right.processor_seconds()

        before = used()
        right.wait_links("left")
        wanted = len(others) + (len(names) if must_arrive else 0)
        until(lambda: right.counters()["retained"] >= wanted,
              lambda: f"{what}: {right.counters()['retained']} of {wanted} kept events arrived", 40, 0.5)
        if not must_arrive:
            time.sleep(5)
        spent_, count = used() - before, arrived(right, "flood/#")
        is_(f"{what}: others that arrived", len(others), arrived(right, "plain/#"))
        if must_arrive:
            # A value that changes while they are together, and one that is deleted.
            is_("change", 0, one.publish(names[7], b"changed", retain=True))
            is_("delete", 0, one.publish(names[8], b"", retain=True))
            until(lambda: right.counters()["retained"] == wanted - 1, f"{what}: a deletion does not arrive", 20, 0.2)
        time.sleep(3)
        idle = used()
        time.sleep(4)
        return spent_, count, (used() - idle) / 4


def flooded_mesh(world):
    """Nodes compare what they keep by a hash whose key is public. Names that collide there keep nothing of others back
    and cost little; up to 1,000 with one and the same hash arrive as all others do."""
    from mesh_tls import Member
    count, others, said = 5_000, random_names(3_000, 3), []
    plain_ones = ["flood/" + name[6:] for name in random_names(count, 2)]
    for what, names, must_arrive in (
        ("random", plain_ones, True), ("1,000 chosen", colliding_names()[:1_000], True),
        ("chosen", colliding_names()[:count], False),
    ):
        with Member("left") as left:
            spent_, found, idle = joined_by(left, what, names, others, must_arrive)
        check(spent_ < (15 if IS_DEBUG else 5), f"{what}: {spent_:.1f} s of both nodes")
        check(idle < 0.3, f"{what}: {idle:.2f} s a second of both nodes, without end")
        said.append(f"{what}: {found} of {len(names)} in {spent_:.2f} s, then {idle:.2f} s a second")
    return "; ".join(said)


PARTS = (wills, sessions, filters, kept, system, injection, takeovers, before_login)
ALONE = (flooded, flooded_mesh)


def test(*only):
    with tempfile.TemporaryDirectory() as directory:
        world = World(directory)
        report = Report("classes of holes")
        if not only or {part.__name__ for part in PARTS} & set(only):
            with world.node() as node:
                for part in PARTS:
                    if not only or part.__name__ in only:
                        report.run(part.__name__, part, world, node)
                        check(node.process.poll() is None, f"the node is dead after {part.__name__}")
        for part in ALONE:
            if not only or part.__name__ in only:
                report.run(part.__name__, part, world)
        report.finish()
    return f"classes of brokers' holes: {report.count} parts passed"


if __name__ == "__main__":
    main(test, *sys.argv[1:])
