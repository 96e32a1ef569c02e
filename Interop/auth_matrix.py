#!/usr/bin/env python3
"""Proves that every way to authenticate works with every protocol, and that the rules are the same whichever way and
protocol somebody comes by: password, client certificate, token (JWT), SCRAM-SHA-256 and anonymous, by MQTT 3.1.1 and 5,
AMQP, HTTP and WebSocket, each for what is allowed, what is denied and what is broader than allowed. Prints the matrix.
And that tokens end and are renewed, that keys of issuers rotate by file and by URL, and that subscriptions which are
too broad are filtered where the configuration says so.

    auth_matrix.py [NAME of a part…]

Run it with the interpreter that python.sh prints."""

import http.client
import http.server
import json
import pathlib
import ssl
import sys
import tempfile
import threading
import time

import amqp_wire
from authority import Authority
from node import PATIENCE, check, is_, main, until
from secure import (
    AMQP, AUTH, MQTT, Issuer, Report, Scram, SecureNode, Web, WebBytes, add_user, auth_fields, auth_packet, basic,
    bearer, context, login, method, plain,
)

LISTENERS = {"mqtts": "mqtt, tls: main", "amqps": "amqp, tls: main", "https": "http, tls: main"}
CONFIG = """tls:
  main:
    certificate: PKI/node.pem
    key: PKI/node.key
    client_ca: PKI/ca.pem
    user: "${cert.cn}"
security:
  users: PKI/users
  anonymous: loopback
  BROAD
  tokens:
    - { issuer: "https://issuer.example", audience: apus, keys: PKI/jwks.json, groups: roles, leeway: 0 }
    - { issuer: "https://web.example", audience: apus, keys: "https://localhost:JWKS/keys", ca: PKI/ca.pem }
  access:
    - { allow: all, topics: ["ways/${username}/#"] }
    - { allow: all, topics: ["ways/anonymous/#"], users: [anonymous] }
    - { allow: all, topics: ["teams/${claim.team}/#"] }
    - { allow: subscribe, topics: ["watch/#"], groups: [watchers] }
    - { allow: publish, topics: ["spread/#"] }
"""
NOT_AUTHORIZED, UNAUTHORIZED = 0x87, "amqp:unauthorized-access"


class KeyServer:
    """Gives keys out over HTTPS, and counts who asks."""

    def __init__(self, leaf):
        self.body, self.status, self.asked = b"{}", 200, 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked += 1
                self.send_response(server.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            def log_message(self, *_):
                pass

        self.inner = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(leaf.path, leaf.key)
        self.inner.socket = tls.wrap_socket(self.inner.socket, server_side=True)
        self.port = self.inner.server_address[1]
        threading.Thread(target=self.inner.serve_forever, daemon=True).start()


class World:
    def __init__(self, directory, broad=False):
        self.pki = pathlib.Path(directory)
        self.authority = Authority(self.pki)
        self.authority.server("node")
        self.carla = self.authority.client("carla")
        self.issuer, self.web = Issuer(), Issuer("https://web.example")
        self.issuer.add_key("rsa-1", "rsa2048")
        self.issuer.add_key("ec-1", "ec")
        self.issuer.add_key("ec-384", "ec384")
        self.issuer.add_key("ed-1", "ed25519")
        self.issuer.write(self.pki / "jwks.json")
        self.web.add_key("web-1", "ec")
        self.server = KeyServer(self.authority.server("keys"))
        self.server.body = self.web.jwks()
        add_user(self.pki / "users", "pia", "word of pia")
        add_user(self.pki / "users", "sam", "word of sam", scram=True)
        self.broad = "broad_subscriptions: filter" if broad else "broad_subscriptions: refuse"

    def node(self):
        config = CONFIG.replace("PKI", str(self.pki)).replace("BROAD", self.broad)
        return SecureNode(LISTENERS, config.replace("JWKS", str(self.server.port)), scattered=True)

    def context(self, leaf=None):
        return context(str(self.authority.path), leaf)


class Way:
    """A way to say who one is: what to give to each protocol."""

    def __init__(self, world, name, user, password=None, leaf=None, token=None, scram=None):
        self.world, self.name, self.user = world, name, user
        self.password, self.leaf, self.token, self.scram = password, leaf, token, scram

    def dial(self, node, listener):
        return node.dial(listener, self.world.context(self.leaf))

    def mqtt(self, node, client, version=5, made=None, **more):
        made = made or self.dial(node, "mqtts")
        if self.scram:
            return MQTT(made, version, client, scram=Scram(*self.scram), **more)
        if self.token:
            # As a password: a client that knows nothing of tokens.
            return MQTT(made, version, client, "", self.token(), **more)
        return MQTT(made, version, client, self.user if self.password else None, self.password, **more)

    def amqp(self, node, made=None):
        raw = AMQP(made or self.dial(node, "amqps"))
        if self.scram:
            code = raw.sasl("SCRAM-SHA-256", scram=Scram(*self.scram))
        elif self.token:
            code = raw.sasl("OAUTHBEARER", bearer(self.token()))
        elif self.leaf:
            code = raw.sasl("EXTERNAL", b"")
        elif self.password:
            code = raw.sasl("PLAIN", plain(self.user, self.password))
        else:
            code = raw.sasl("ANONYMOUS", b"somebody")
        is_(f"SASL of {self.name}, offered {raw.offered}", 0, code)
        return raw.open(f"{self.user}-amqp")

    @property
    def fields(self):
        """Header fields of HTTP."""
        if self.token:
            return {"Authorization": f"Bearer {self.token()}"}
        if self.password or self.scram:
            user, password = self.scram or (self.user, self.password)
            return {"Authorization": basic(user, password)}
        return {}

    def websocket(self, node, path, protocol, with_fields=True):
        return Web(self.dial(node, "https"), path, protocol, self.fields if with_fields else None)

    def request(self, node, method_, path, body=None, **more):
        """Status and body."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", node.ports["https"], timeout=10, context=self.world.context(self.leaf),
            source_address=node.source)
        connection.request(method_, path, body, {**self.fields, **more})
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found


def ways(world):
    return (
        Way(world, "password", "pia", password="word of pia"), Way(world, "certificate", "carla", leaf=world.carla),
        Way(world, "token", "jan", token=lambda: world.issuer.token("jan")),
        Way(world, "SCRAM", "sam", scram=("sam", "word of sam")), Way(world, "anonymous", "anonymous"),
    )


# A cell of the matrix: three functions, for what is allowed, denied, and broader than allowed.


def over_mqtt(node, way, version, made=None):
    one = way.mqtt(node, f"{way.user}-{version}", version, made)
    refusal = NOT_AUTHORIZED if version == 5 else 0x80

    def allowed():
        is_("SUBACK", 1, one.subscribe(f"ways/{way.user}/#", 1))
        is_("PUBACK", 0, one.publish(f"ways/{way.user}/x", b"mine"))
        got = one.event()
        check(got and got.payload == b"mine", "the event did not come back")

    def denied():
        is_("SUBACK", refusal, one.subscribe("ways/other/x", 1))
        is_("shared SUBACK", refusal, one.subscribe("$share/g/ways/other/x", 1))
        is_("PUBACK", NOT_AUTHORIZED if version == 5 else 0, one.publish("ways/other/x", b"not mine"))

    def broader():
        for topic_filter in ("ways/#", "ways/+/x", "#", "+/+/x", "ways/+/#", f"+/{way.user}/#"):
            is_(f"SUBACK of {topic_filter}", refusal, one.subscribe(topic_filter, 1))
        check(one.ping(), "the connection has ended")

    return allowed, denied, broader


def over_amqp(node, way, made=None):
    one = way.amqp(node, made)
    number, deliveries = iter(range(100)), iter(range(100))

    def attach(address):
        place = next(number)
        return one.receiver(address, f"r{place}", 10 + place)

    def send(address):
        """The outcome of a message: 0x24 accepted, or the condition of the rejection or of the link's end."""
        place = next(number)
        refused = one.sender(address, f"s{place}", 10 + place)
        if refused:
            return refused
        one.send(amqp_wire.transfer_frame(10 + place, next(deliveries), amqp_wire.data_message(b"mine")))
        said = one.wait(amqp_wire.DISPOSITION, amqp_wire.DETACH)
        if said.code == amqp_wire.DETACH:
            return said.error and said.error[0]
        state = said.fields[4]
        return state[0] if state[0] != amqp_wire.REJECTED else str(state[1][0][1][0])

    def allowed():
        is_("attach", None, attach(f"ways/{way.user}/>"))
        # The event comes first, the outcome of the message may stand behind it.
        place = next(number)
        is_("attach", None, one.sender(f"ways/{way.user}/x", f"s{place}", 10 + place))
        one.send(amqp_wire.transfer_frame(10 + place, next(deliveries), amqp_wire.data_message(b"mine")))
        found = [one.wait(amqp_wire.TRANSFER, amqp_wire.DISPOSITION) for _ in range(2)]
        check({x.code for x in found} == {amqp_wire.TRANSFER, amqp_wire.DISPOSITION}, f"came: {found}")
        is_("outcome", amqp_wire.ACCEPTED, [x for x in found if x.code == amqp_wire.DISPOSITION][0].fields[4][0])

    def denied():
        is_("attach", UNAUTHORIZED, attach("ways/other/x"))
        is_("a message", UNAUTHORIZED, send("ways/other/x"))

    def broader():
        for address in ("ways/>", "ways/*/x", ">", "*/*/x"):
            is_(f"attach of {address}", UNAUTHORIZED, attach(address))

    return allowed, denied, broader


def over_http(node, way):
    def stream(query):
        """The status of a stream of events; the connection when it is 200."""
        connection = http.client.HTTPSConnection(
            "localhost", node.ports["https"], timeout=10, context=way.world.context(way.leaf))
        connection.request("GET", f"/events?filter={query}", headers=way.fields)
        return connection.getresponse()

    # Whoever has no name may learn that a name would help.
    refusal = 401 if way.name == "anonymous" else 403

    def allowed():
        events = stream(f"ways/{way.user}/%23")
        is_("a stream", 200, events.status)
        is_("a publish", 202, way.request(node, "POST", f"/TOPIC/ways/{way.user}/x", b"mine")[0])
        end = time.monotonic() + 5
        while b"mine" not in events.readline():
            check(time.monotonic() < end, "no event in the stream")
        is_("a poll", 200, way.request(node, "GET", f"/poll?filter=ways/{way.user}/x&wait=0")[0])

    def denied():
        is_("a stream", refusal, stream("ways/other/x").status)
        is_("a publish", refusal, way.request(node, "POST", "/TOPIC/ways/other/x", b"x")[0])
        is_("a last value", refusal, way.request(node, "GET", "/TOPIC/ways/other/x")[0])
        is_("deleting it", refusal, way.request(node, "DELETE", "/TOPIC/ways/other/x")[0])

    def broader():
        for query in ("ways/%23", "ways/%2B/x", "%23"):
            is_(f"a stream of {query}", refusal, stream(query).status)
            is_(f"a poll of {query}", refusal, way.request(node, "GET", f"/poll?filter={query}&wait=0")[0])
            # A list of topics has those that its reader may hear.
            status, body = way.request(node, "GET", f"/topics?filter={query}")
            check(status == refusal or status == 200 and own(body, way.user), f"topics of {query}: {status} {body}")

    return allowed, denied, broader


def own(body, user):
    """Whether a list of topics has no others."""
    return all(entry["topic"].startswith(f"ways/{user}") for entry in json.loads(body)["topics"])


def over_json(node, way):
    one = way.websocket(node, "/ws", "apus.v1.json")
    refusal = 401 if way.name == "anonymous" else 403

    def ask(**message):
        one.send(json.dumps({"id": 1, **message}))
        while True:
            answer = json.loads(one.recv(PATIENCE))
            if answer["op"] != "event":
                return answer.get("status", 0)
            events.append(answer)

    events = []

    def allowed():
        is_("subscribe", 0, ask(op="subscribe", filter=f"ways/{way.user}/#"))
        is_("publish", 0, ask(op="publish", topic=f"ways/{way.user}/x", payload="mine"))
        event = events.pop() if events else json.loads(one.recv(5))
        is_("the event", "mine", event["payload"])

    def denied():
        is_("subscribe", refusal, ask(op="subscribe", filter="ways/other/x"))
        is_("publish", refusal, ask(op="publish", topic="ways/other/x", payload="x"))

    def broader():
        for topic_filter in ("ways/#", "ways/+/x", "#"):
            is_(f"subscribe to {topic_filter}", refusal, ask(op="subscribe", filter=topic_filter))

    return allowed, denied, broader


PROTOCOLS = {
    "mqtt 3.1.1": lambda node, way: over_mqtt(node, way, 4), "mqtt 5": lambda node, way: over_mqtt(node, way, 5),
    "amqp": over_amqp, "http": over_http, "ws json": over_json,
    "ws mqtt": lambda node, way: over_mqtt(node, way, 5, WebBytes(way.websocket(node, "/mqtt", "mqtt", False))),
    "ws amqp": lambda node, way: over_amqp(node, way, WebBytes(way.websocket(node, "/amqp", "amqp", False))),
}
# MQTT 3.1.1 has no place for an exchange. Over HTTP the user of a SCRAM entry comes with Basic.
NOT_THERE = {("SCRAM", "mqtt 3.1.1")}
AS_BASIC = {("SCRAM", "http"), ("SCRAM", "ws json")}


def matrix(world, node, report):
    rows = []
    for way in ways(world):
        row = []
        for protocol, make in PROTOCOLS.items():
            if (way.name, protocol) in NOT_THERE:
                row.append("n/a")
                continue
            cell = ""
            try:
                checks = make(node, way)
            except (Exception,) as failure:  # noqa: BLE001 whatever it is, the cell has failed
                report.count += 1
                report.failures.append(f"{way.name} by {protocol}: {failure!r:.300}")
                row.append("no login")
                continue
            for letter, body in zip("adb", checks):
                before = len(report.failures)
                report.run(f"{way.name} by {protocol}, {body.__name__}", body)
                cell += letter.upper() if len(report.failures) == before else "-"
            row.append(cell + ("*" if (way.name, protocol) in AS_BASIC else ""))
        rows.append((way.name, row))
    print(f"\n{'':12}" + "".join(f"{name:>12}" for name in PROTOCOLS))
    for name, row in rows:
        print(f"{name:12}" + "".join(f"{cell:>12}" for cell in row))
    print("A allowed, D denied, B broader: as they must be; n/a: the protocol has no place for it; *: as Basic\n")


def wrong(world, node):
    """Each way with a wrong secret, by each protocol: the right code, and an audit record."""
    bad = (
        Way(world, "password", "pia", password="not hers 17"), Way(world, "no such user", "nobody", password="x"),
        Way(world, "SCRAM", "sam", scram=("sam", "not his 17")),
        Way(world, "SCRAM of nobody", "nobody", scram=("nobody", "x")),
        Way(world, "token", "jan", token=lambda: world.issuer.token("jan")[:-6] + "AAAAAA"),
    )
    for way in bad:
        if not way.scram:
            one = way.mqtt(node, "bad-4", 4, wants_refusal=True)
            check(one.refused in (4, 5), f"{way.name}, MQTT 3.1.1: {one.refused}")
        one = way.mqtt(node, "bad-5", 5, wants_refusal=True)
        check(one.refused in (0x86, 0x87), f"{way.name}, MQTT 5: {one.refused:#x}")
        check(one.drain() is not None, f"{way.name}: the connection stays")
        try:
            way.amqp(node)
            check(False, f"{way.name}: AMQP lets it in")
        except Exception as failure:  # noqa: BLE001
            check("wanted 0, got 1" in str(failure), f"{way.name}, AMQP: {failure}")
        if "SCRAM" not in way.name:
            status, body = way.request(node, "POST", "/TOPIC/ways/anonymous/x", b"x")
            is_(f"{way.name}, HTTP", 401, status)
        try:
            way.websocket(node, "/ws", "apus.v1.json")
            check(False, f"{way.name}: WebSocket lets it in")
        except Web.Refused as refused:
            is_(f"{way.name}, WebSocket", 401, refused.status)
    node.wait_audit("a wrong password", kind="authentication", user="pia", protocol="mqtt")
    node.wait_audit("a wrong password", kind="authentication", user="pia", protocol="amqp")
    node.wait_audit("a wrong password", kind="authentication", user="pia", protocol="http")
    text = node.log.read_text()
    head = world.issuer.token("jan").split(".")[0]
    for secret in ("not hers 17", "not his 17", "word of pia", "word of sam", f"{head}."):
        check(secret not in text, f"the log holds {secret!r}")


def token_kinds(world, node):
    """Keys and algorithms; the places for a token in each protocol; claims as groups and variables."""
    issuer = world.issuer
    for kid, algorithms in (("rsa-1", "RS256 RS384 RS512 PS256 PS384 PS512"), ("ec-1", "ES256"), ("ec-384", "ES384"),
                            ("ed-1", "EdDSA")):
        for algorithm in algorithms.split():
            token = issuer.token("jan", kid, algorithm)
            way = Way(world, algorithm, "jan", token=lambda token=token: token)
            is_(f"{algorithm} by HTTP", 202, way.request(node, "POST", "/TOPIC/ways/jan/x", b"x")[0])
            way.mqtt(node, "jan-kinds").close()
    one = MQTT(Way(world, "", "").dial(node, "mqtts"), 5, "jan-same", "jan", issuer.token("jan"))
    is_("a user name beside the token", 0, one.subscribe("ways/jan/#"))
    one = MQTT(Way(world, "", "").dial(node, "mqtts"), 5, "jan-other", "pia", issuer.token("jan"), wants_refusal=True)
    check(one.refused in (0x86, 0x87), f"another user name beside the token: {one.refused:#x}")
    # OAUTHBEARER by MQTT 5.
    made = Way(world, "", "").dial(node, "mqtts")
    one = MQTT(made, 5, "jan-auth", more=method("OAUTHBEARER", bearer(issuer.token("jan"))))
    is_("OAUTHBEARER by MQTT", 0, one.subscribe("ways/jan/#"))
    # HTTP Basic with a token as the password, too.
    way = Way(world, "", "jan", password=issuer.token("jan"))
    is_("a token as a password of Basic", 202, way.request(node, "POST", "/TOPIC/ways/jan/x", b"x")[0])
    # Claims.
    token = issuer.token("jan", team="red", roles=["watchers"], teams=["a", "b"])
    one = MQTT(Way(world, "", "").dial(node, "mqtts"), 5, "jan-claims", "", token)
    is_("${claim.team}", 0, one.subscribe("teams/red/#"))
    is_("another team", NOT_AUTHORIZED, one.subscribe("teams/blue/#"))
    is_("a group of the token", 0, one.subscribe("watch/x"))
    # authenticate inside of a WebSocket.
    for how in ({"user": "", "password": token}, {"token": token}):
        inner = Way(world, "", "").websocket(node, "/ws", "apus.v1.json")
        inner.send(json.dumps({"op": "authenticate", "id": 1, **how}))
        answer = json.loads(inner.recv(5))
        is_(f"authenticate with {list(how)}: {answer}", "ok", answer["op"])
        inner.close()


def bad_tokens(world, node):
    """What makes a token none; each over HTTP and MQTT."""
    issuer = world.issuer
    good = issuer.token("jan")
    strange = Issuer("https://issuer.example")
    strange.add_key("rsa-1", "rsa2048")
    other = Issuer("https://elsewhere.example")
    other.keys = issuer.keys
    for what, token in (
        ("expired", issuer.token("jan", lifetime=-120)), ("another audience", issuer.token("jan", aud="others")),
        ("no audience", issuer.token("jan", aud=None)), ("another issuer", other.token("jan")),
        ("another's key by the same name", strange.token("jan")), ("a key nobody has", issuer.token("jan", header={
            "kid": "unknown"})), ("from the future", issuer.token("jan", nbf=int(time.time()) + 3_600)),
        ("no end", issuer.token("jan", exp=None)), ("no user", issuer.token(None)), ("an empty user", issuer.token("")),
        ("a user that is a number", issuer.token(5)), ("no signature", issuer.token("jan", signature=b"")),
        ("alg none", issuer.token("jan", algorithm="none")),
        ("an end that is a text", issuer.token("jan", exp="tomorrow")), ("two parts", ".".join(good.split(".")[:2])),
        ("four parts", good + ".x"), ("spaces", good.replace(".", " .", 1)),
    ):
        way = Way(world, what, "jan", token=lambda token=token: token)
        is_(f"{what} by HTTP", 401, way.request(node, "POST", "/TOPIC/ways/jan/x", b"x")[0])
        one = way.mqtt(node, "jan-bad", wants_refusal=True)
        check(one.refused in (0x86, 0x87), f"{what} by MQTT: {one.refused:#x}")
    list_of = issuer.token("jan", aud=["others", "apus"])
    is_("one of several audiences", 202, Way(world, "", "jan", token=lambda: list_of).request(
        node, "POST", "/TOPIC/ways/jan/x", b"x")[0])


def expiry(world, node):
    """A token of ten seconds, in four protocols: all are out when it ends, and told why; who renews stays."""
    lifetime = 10
    start, fair = time.monotonic(), node.clock()
    token = world.issuer.token("jan", lifetime=lifetime, jti="short")
    way = Way(world, "short", "jan", token=lambda: token)
    mqtt = way.mqtt(node, "jan-short")
    old = way.mqtt(node, "jan-old", 4)
    amqp = way.amqp(node)
    web = way.websocket(node, "/ws", "apus.v1.json")
    stream = http.client.HTTPSConnection(
        "localhost", node.ports["https"], timeout=lifetime + 20, context=world.context())
    stream.request("GET", "/events?filter=ways/jan/%23", headers=way.fields)
    events = stream.getresponse()
    is_("a stream", 200, events.status)
    renewing = MQTT(way.dial(node, "mqtts"), 5, "jan-renews", more=method("OAUTHBEARER", bearer(token)))
    cheating = MQTT(way.dial(node, "mqtts"), 5, "jan-cheats", more=method("OAUTHBEARER", bearer(token)))
    time.sleep(1)
    renewing.send(auth_packet(0x19, method("OAUTHBEARER", bearer(world.issuer.token("jan", lifetime=3_600)))))
    body = renewing.take(AUTH, 5)
    check(body is not None and auth_fields(body)[0] == 0, f"AUTH was answered with {body}")
    # Somebody else's token renews nothing.
    cheating.send(auth_packet(0x19, method("OAUTHBEARER", bearer(world.issuer.token("mallory")))))
    check(cheating.drain() is not None, "a renewal by another user is taken")
    took = {}
    for what, drain in (
        ("MQTT 5", lambda: mqtt.drain(lifetime + 20)), ("MQTT 3.1.1", lambda: old.drain(lifetime + 20)),
        ("AMQP", lambda: amqp.wait_closed(lifetime + 20) or amqp.next(amqp_wire.CLOSE, seconds=0.1)),
        ("HTTP", lambda: events.read() is not None), ("WebSocket", lambda: closed(web, lifetime + 20)),
    ):
        found = drain()
        check(found is not None and found is not False, f"{what}: the session outlives its token")
        took[what] = round(time.monotonic() - start, 1)
    late = node.clock() - fair
    check(lifetime - 1.2 <= min(took.values()) and late < lifetime + 2.5, f"out after {took}")
    check(mqtt.disconnect_reason() in (0x87, 0xA0), f"DISCONNECT with {mqtt.disconnect_reason()}")
    check(renewing.ping(), "who has renewed is out as well")
    check(node.counters().get("closed_proofEnded", 0) >= 3, "closed_proofEnded does not count it")
    node.wait_audit("the end of a token", kind="authentication", user="jan", reason="")
    return f"out after {took}"


def closed(web, seconds):
    try:
        while web.recv(seconds):
            pass
        return True
    except TimeoutError:
        return False


def scram_again(world, node):
    """MQTT 5 AUTH: SCRAM once more on a living connection; wrong ones end it."""
    way = ways(world)[3]
    one = way.mqtt(node, "sam-again")
    for secret, is_good in (("word of sam", True), ("wrong", False)):
        scram = Scram("sam", secret)
        one.send(auth_packet(0x19, method("SCRAM-SHA-256", scram.first())))
        body = one.expect(AUTH)
        code, data, _ = auth_fields(body)
        is_("AUTH", 0x18, code)
        one.send(auth_packet(0x18, method("SCRAM-SHA-256", scram.final(data))))
        if is_good:
            code, data, _ = auth_fields(one.expect(AUTH))
            is_("AUTH", 0, code)
            scram.check_server(data)
            check(one.ping(), "the connection is gone")
        else:
            check(one.drain() is not None and one.disconnect_reason() in (0x86, 0x87),
                  f"a wrong exchange: {one.disconnect_reason()}")
    one = MQTT(way.dial(node, "mqtts"), 5, "unknown", more=method("SCRAM-SHA-1", b"n,,n=sam,r=x"), wants_refusal=True)
    is_("an unknown method", 0x8C, one.refused)
    # Another method on the way ends the connection (MQTT 5 section 4.12.1), as does AUTH where none was agreed on.
    one = way.mqtt(node, "sam-changes")
    one.send(auth_packet(0x19, method("OAUTHBEARER", bearer(world.issuer.token("sam")))))
    check(one.drain() is not None, "another method is taken")
    one = ways(world)[0].mqtt(node, "pia-auth")
    one.send(auth_packet(0x19, method("SCRAM-SHA-256", Scram("pia", "x").first())))
    check(one.drain() is not None, "AUTH where none was agreed on is taken")
    # A nonce that was not given out, and a message twice.
    for change in (lambda m: m.replace(b"r=", b"r=x"), lambda m: m.replace(b"c=biws", b"c=eSws"), lambda m: b"",
                   lambda m: b"\xff" * 100, lambda m: m + b"," * 60_000):
        scram = Scram("sam", "word of sam")
        one = MQTT(way.dial(node, "mqtts"), 5)
        one.send(login(5, "sam-bad", more=method("SCRAM-SHA-256", scram.first())))
        _, data, _ = auth_fields(one.expect(AUTH))
        one.send(auth_packet(0x18, method("SCRAM-SHA-256", change(scram.final(data))[:65_000])))
        check(one.drain() is not None, "a message that is none is taken")
        check(all(body[1] for first, body in one.arrived if first == 0x20), "let in")


def rotation(world, node):
    """New keys in the file and behind the URL are taken, old ones no longer."""
    def status(issuer, kid):
        token = issuer.token("jan", kid)
        return Way(world, "", "jan", token=lambda: token).request(node, "POST", "/TOPIC/ways/jan/x", b"x")[0]

    issuer, web = world.issuer, world.web
    is_("a key behind a URL", 202, status(web, "web-1"))
    issuer.add_key("ec-2", "ec")
    is_("a key that is not published yet", 401, status(issuer, "ec-2"))
    kept = world.mqtt_session = ways(world)[2].mqtt(node, "jan-rotates")
    issuer.write(world.pki / "jwks.json", "ec-2")
    node.reload()
    is_("the new key", 202, status(issuer, "ec-2"))
    is_("the old key", 401, status(issuer, "rsa-1"))
    check(kept.ping(), "a session ends because a key rotates")
    issuer.write(world.pki / "jwks.json")
    node.reload()
    # Behind the URL: an unknown key is a reason to ask again, but not each time.
    web.add_key("web-2", "rsa2048")
    world.server.body = web.jwks("web-2")
    seconds = until(lambda: status(web, "web-2") == 202, "a new key behind a URL is not taken", 90, 0.5)
    before = world.server.asked
    for number in range(50):
        web.keys[f"none-{number}"] = web.keys["web-2"]
        is_("an unknown key", 401, status(web, f"none-{number}"))
        del web.keys[f"none-{number}"]
    asked = world.server.asked - before
    check(asked <= 5, f"50 tokens with unknown keys made the node ask {asked} times")
    # The server fails, gives nonsense, gives too much: what is known goes on.
    for status_, body in ((500, b""), (200, b"no JSON"), (200, b"[" * 100_000), (200, b"{" + b" " * (8 << 20))):
        world.server.status, world.server.body = status_, body
        node.reload()
        is_(f"keys as before, {status_} {body[:10]}", 202, status(web, "web-2"))
    world.server.status, world.server.body = 200, web.jwks("web-2")
    return f"a new key behind the URL after {seconds:.1f} s"


def filtered(directory):
    """`broad_subscriptions: filter`: granted, and every event is judged."""
    world = World(directory, broad=True)
    with world.node() as node:
        pia, other = ways(world)[0], ways(world)[2]
        one, two = pia.mqtt(node, "pia-broad"), other.mqtt(node, "jan-broad")
        is_("SUBACK", 1, one.subscribe("ways/#", 1))
        for topic, payload in (("ways/jan/x", b"not pia's"), ("spread/x", b"neither")):
            is_("PUBACK", 0, two.publish(topic, payload))
        is_("PUBACK", 0, one.publish("ways/pia/x", b"pia's"))
        got = one.event()
        check(got and got.payload == b"pia's", f"got {got and got.topic}")
        check(one.event(0.3) is None, "something else came")
        until(lambda: node.counters().get("dropped_notReadable", 0) >= 1, "dropped_notReadable does not count it")
        # Retained events and other protocols.
        is_("PUBACK", 0, two.publish("ways/jan/kept", b"not pia's", retain=True))
        is_("PUBACK", 0, one.publish("ways/pia/kept", b"kept", retain=True))
        one.event()
        late = pia.mqtt(node, "pia-late")
        is_("SUBACK", 1, late.subscribe("#", 1))
        got = late.event()
        check(got and got.payload == b"kept", f"got {got and got.topic}")
        check(late.event(0.3) is None, "something else was kept for her")
        raw = pia.amqp(node)
        is_("attach", None, raw.receiver("ways/>"))
        two.publish("ways/jan/x", b"not pia's")
        one.publish("ways/pia/x", b"amqp")
        check(b"amqp" in raw.wait(amqp_wire.TRANSFER).payload, "AMQP")
        check(raw.next(amqp_wire.TRANSFER, seconds=0.3) is None, "AMQP gives too much")
        status, body = pia.request(node, "GET", "/topics?filter=%23")
        check(status == 403 or own(body, "pia"), f"HTTP lists {status} {body}")


PARTS = (wrong, token_kinds, bad_tokens, scram_again, expiry, rotation)


def test(*only):
    with tempfile.TemporaryDirectory() as directory:
        world = World(directory)
        report = Report("authentication")
        with world.node() as node:
            if not only or "matrix" in only:
                matrix(world, node, report)
            for part in PARTS:
                if not only or part.__name__ in only:
                    report.run(part.__name__, part, world, node)
                    check(node.process.poll() is None, f"the node is dead after {part.__name__}")
        if not only or "filtered" in only:
            with tempfile.TemporaryDirectory() as second:
                report.run("filtered", filtered, second)
        report.finish()
    return f"authentication: {report.count} checks passed: 5 ways by {len(PROTOCOLS)} protocols; tokens end and rotate"


if __name__ == "__main__":
    main(test, *sys.argv[1:])
