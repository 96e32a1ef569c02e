#!/usr/bin/env python3
"""Proves that HTTP is spoken as clients expect it, with curl and Python's own clients: methods, preflights, uploads in
chunks, `Expect`, limits, HTTP/1.0, pipelines, connections that stay; and that users and access rules hold on every
path, for WebSocket too. Run it with the interpreter that python.sh prints."""

import base64
import http.client
import json
import pathlib
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request

import paho.mqtt.client as mqtt
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from node import APUS, PATIENCE, Node, check, is_, main
from web import BINARY, MEBIBYTE, Answer, Stream, Subscriber, curl, mosquitto_pub, publish

FRIEND = "https://friend.example"


def methods(node):
    """HEAD is GET without a body; OPTIONS and 405 say what there is."""
    publish(node, "/TOPIC/method/x", b"kept", "Apus-Retain: true", "Apus-Property-a: 1", "Content-Type: text/plain")
    for path in ("/TOPIC/method/x", "/", "/openapi.json", "/openapi.yaml", "/topics"):
        full, head = curl(node, path), curl(node, path, "-I")
        is_(f"HEAD {path}", (200, b""), (head.status, head.body))
        for name in ("content-length", "content-type", "etag", "apus-property-a"):
            is_(f"{name} of HEAD {path}", full.headers.get(name), head.headers.get(name))
        is_(f"length of {path}", len(full.body), int(full.headers["content-length"]))
    is_("HEAD of nothing", 404, curl(node, "/TOPIC/method/nothing", "-I").status)
    for path, allowed in (
        ("/TOPIC/method/x", "GET HEAD POST DELETE OPTIONS"), ("/events", "GET POST OPTIONS"),
        ("/poll", "GET OPTIONS"), ("/topics", "GET HEAD OPTIONS"), ("/mqtt", "GET HEAD OPTIONS"),
    ):
        options, wrong = curl(node, path, method="OPTIONS"), curl(node, path, method="PATCH")
        is_(f"OPTIONS {path}", (204, set(allowed.split())), (options.status, set(options.headers["allow"].split(", "))))
        is_(f"PATCH {path}", (405, options.headers["allow"]), (wrong.status, wrong.headers["allow"]))
    is_("OPTIONS *", 204, curl(node, "/", "--request-target", "*", method="OPTIONS").status)
    is_("nothing here", 404, curl(node, "/QUEUE/x").status)
    is_("clear", 204, curl(node, "/TOPIC/method/x", method="DELETE").status)


def origins(node):
    """Preflights and answers for pages of other origins."""
    asked = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type, apus-retain"]
    for path in ("/TOPIC/cors/x", "/events", "/poll?filter=x", "/topics"):
        answer = curl(node, path, headers=[f"Origin: {FRIEND}", *asked], method="OPTIONS")
        is_(f"preflight of {path}", 204, answer.status)
        is_("origin", FRIEND, answer.headers["access-control-allow-origin"])
        is_("headers", "content-type, apus-retain", answer.headers["access-control-allow-headers"])
        check("POST" in answer.headers["access-control-allow-methods"], f"methods: {answer.headers}")
        strange = curl(node, path, headers=["Origin: https://evil.example", *asked], method="OPTIONS")
        is_(f"preflight of {path} for a stranger", 403, strange.status)
        check("access-control-allow-origin" not in strange.headers, "a stranger is allowed")
    answer = curl(node, "/TOPIC/cors/x", body=b"x", headers=[f"Origin: {FRIEND}"])
    is_("a friend's page", (202, FRIEND), (answer.status, answer.headers["access-control-allow-origin"]))
    is_("what varies", "Origin", answer.headers["vary"])
    for origin in ("https://evil.example", "null", f"{FRIEND}.evil.example", "http://friend.example"):
        for path, body in (("/TOPIC/cors/x", b"x"), ("/events?filter=x", None), ("/topics", None)):
            is_(f"{path} for {origin}", 403, curl(node, path, body=body, headers=[f"Origin: {origin}"]).status)
    own = f"Origin: http://127.0.0.1:{node.http_port}"
    is_("the node's own page", 202, curl(node, "/TOPIC/cors/x", body=b"x", headers=[own]).status)
    # A name that was made to mean this machine.
    is_("another host", 421, curl(node, "/TOPIC/cors/x", body=b"x", headers=["Host: evil.example"]).status)


def uploads(node):
    """Bodies in chunks, with and without `Expect`, up to the limit and beyond; by curl, which waits for 100."""
    for body in (b"", b"x", BINARY, MEBIBYTE):
        subscriber = Subscriber(node, "upload/#", 3, "%x")
        for options in (["-T", "-"], ["-T", "-", "-H", "Expect: 100-continue"]):
            answer = curl(node, "/upload/x", *options, "-H", "Content-Type:", body=None, method="POST", stdin=body)
            is_(f"{len(body)} bytes in chunks", 202, answer.status)
        answer = curl(node, "/upload/x", "--expect100-timeout", "10", body=body, headers=["Expect: 100-continue"])
        is_(f"{len(body)} bytes after 100", (202, [100] if body else answer.interim), (answer.status, answer.interim))
        is_(f"{len(body)} bytes", [body.hex()] * 3, subscriber.lines())
    limit = 2 << 20
    large = b"x" * (limit + 1)
    # A client that waits for 100 sends nothing of what is too large.
    answer = curl(node, "/upload/x", "--expect100-timeout", "10", body=large, headers=["Expect: 100-continue"])
    is_("too large, announced", (413, []), (answer.status, answer.interim))
    is_("too large", 413, curl(node, "/upload/x", body=large, headers=["Expect:"]).status)
    is_("too large, in chunks", 413, curl(node, "/upload/x", "-T", "-", method="POST", stdin=large).status)
    is_("as large as may be", 202, curl(node, "/upload/x", body=large[1:]).status)
    is_("another expectation", 417, curl(node, "/upload/x", body=b"x", headers=["Expect: wonders"]).status)
    is_("compressed", 415, curl(node, "/upload/x", body=b"x", headers=["Content-Encoding: gzip"]).status)
    is_("large header", 431, curl(node, "/upload/x", body=b"x", headers=["X: " + "x" * 40_000]).status)


def versions(node):
    """HTTP/1.0 ends its connection, unless asked otherwise; a pipeline is answered in its order."""
    answer = curl(node, "/version/x", "--http1.0", body=b"x")
    is_("HTTP/1.0", (202, "close"), (answer.status, answer.headers.get("connection")))
    is_("HTTP/2 by upgrade", 202, curl(node, "/version/x", "--http2", body=b"x").status)
    subscriber = Subscriber(node, "pipe/#", 300, "%t %p")
    with socket.create_connection(("127.0.0.1", node.http_port), PATIENCE) as connection:
        wanted = []
        requests = b""
        for number in range(300):
            kind = number % 3
            extra = ("", "Apus-Property-a: 1\r\n", "Apus-Delivery-Mode: guaranteed\r\n")[kind]
            requests += f"POST /pipe/{number} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n{extra}\r\nx".encode()
            requests += b"GET /TOPIC/pipe/none HTTP/1.1\r\nHost: localhost\r\n\r\n" if kind == 0 else b""
            wanted += [202, 404] if kind == 0 else [202]
        requests += b"GET /topics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(requests)
        raw = b""
        while piece := connection.recv(1 << 16):
            raw += piece
    statuses = []
    while raw:
        answer = Answer(raw)
        length = int(answer.headers["content-length"])
        statuses.append(answer.status)
        raw = answer.body[length:]
    is_("a pipeline", [*wanted, 200], statuses)
    is_("its events", [f"pipe/{number} x" for number in range(300)], subscriber.lines())
    bad = socket.create_connection(("127.0.0.1", node.http_port), PATIENCE)
    bad.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    is_("two lengths", 400, Answer(bad.recv(65_536)).status)
    is_("and its end", b"", bad.recv(65_536))
    bad.close()


def python(node):
    """http.client on one connection, and urllib."""
    subscriber = Subscriber(node, "python/#", 1_002, "%p")
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=PATIENCE)
    for number in range(1_000):
        connection.request("POST", "/TOPIC/python/x", body=str(number).encode())
        answer = connection.getresponse()
        check(answer.status == 202 and json.loads(answer.read())["matched"] == 1, f"request {number}: {answer.status}")
    # An iterator without a length goes in chunks.
    connection.request("POST", "/TOPIC/python/x", body=iter([b"10", b"00"]), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})
    is_("http.client in chunks", 202, connection.getresponse().status)
    connection.close()
    site = f"http://127.0.0.1:{node.http_port}"
    with urllib.request.urlopen(f"{site}/python/x", data=b"1001", timeout=PATIENCE) as answer:
        is_("urllib", (202, "application/json"), (answer.status, answer.headers.get_content_type()))
    is_("in their order", [str(number) for number in range(1_002)], subscriber.lines())
    try:
        urllib.request.urlopen(f"{site}/TOPIC/python/none", timeout=PATIENCE).close()
        check(False, "nothing was found")
    except urllib.error.HTTPError as failure:
        is_("urllib's error", (404, "application/problem+json"), (failure.code, failure.headers.get_content_type()))


# What each may: nobody without a user, anna everything below a/, bert hear everything. A request is path, body, fields.
GUARANTEED = ("Apus-Delivery-Mode: guaranteed",)
WAIT = ("Apus-Reply-Wait: 1000",)
LINES = ("Content-Type: application/x-ndjson",)
CLOUD = ("ce-specversion: 1.0", "ce-id: 1", "ce-source: s", "ce-type: t")
REQUESTS = (
    # path, options, body, fields, anna, bert
    ("/TOPIC/a/x", (), b"x", (), 202, 403), ("/a/x", (), b"x", (), 202, 403), ("/b/x", (), b"x", (), 403, 403),
    ("/TOPIC/a/x", (), b"x", GUARANTEED, 202, 403), ("/TOPIC/b/x", (), b"x", GUARANTEED, 403, 403),
    ("/TOPIC/a/x", (), b"x", CLOUD, 202, 403), ("/TOPIC/b/x", (), b"x", CLOUD, 403, 403),
    ("/TOPIC/a/nobody", (), b"x", WAIT, 503, 403), ("/TOPIC/b/x", (), b"x", WAIT, 403, 403),
    ("/TOPIC/b/x", (), b"x", ("Apus-Retain: true",), 403, 403), ("/TOPIC/a/x", (), None, (), 404, 404),
    ("/TOPIC/a/x", ("-I",), None, (), 404, 404), ("/TOPIC/b/x", (), None, (), 403, 404),
    ("/TOPIC/a/x", ("-XDELETE",), None, (), 204, 403), ("/TOPIC/b/x", ("-XDELETE",), None, (), 403, 403),
    ("/events?filter=b/%23", (), None, (), 403, None), ("/events?filter=a/x&filter=%23", (), None, (), 403, None),
    ("/poll?filter=a/%23&wait=0", (), None, (), 200, 200), ("/poll?filter=b&wait=0", (), None, (), 403, 200),
    ("/topics", (), None, (), 200, 200), ("/", (), None, (), 200, 200), ("/openapi.json", (), None, (), 200, 200),
    ("/console/console.js", (), None, (), 200, 200), ("/events", (), b"", LINES, 200, 200),
)


def users(node):
    """The same for every path: 401 for who is not known, 403 for who may not, and the rest for who may."""
    for number, (path, options, body, fields, anna, bert) in enumerate(REQUESTS):
        # Who guesses too often from one address is told to wait: these come from ever new ones.
        stranger = ("--interface", f"127.9.0.{number + 1}")
        for user, wanted in (("anna:right", anna), ("bert:other", bert)):
            if wanted is not None:
                got = curl(node, path, "-u", user, *options, body=body, headers=fields)
                is_(f"{path} {fields} by {user}", wanted, got.status)
        for options_of_user in ((), ("-u", "anna:wrong"), ("-u", "nobody:right"), ("-H", "Authorization: Bearer x"),
                                ("-H", "Authorization: Basic %%%")):
            got = curl(node, path, *stranger, *options_of_user, *options, body=body, headers=fields)
            is_(f"{path} {fields} with {options_of_user}", 401, got.status)
            is_("the challenge", 'Basic realm="apus", charset="UTF-8"', got.headers["www-authenticate"])
    lines = "".join(json.dumps({"topic": topic, "payload": "x"}) + "\n" for topic in ("a/x", "b/x", "a/y")).encode()
    told = curl(node, "/events", "-u", "anna:right", body=lines, headers=LINES).json()
    is_("a batch", [None, 403, None], [item.get("status") for item in told["items"]])
    # What anna does not hear she does not see.
    told = curl(node, "/TOPIC/a/kept", "-u", "anna:right", body=b"x", headers=["Apus-Retain: true"])
    mosquitto_pub(node, "c/kept", b"x", "-r", "-u", "root", "-P", "root")
    seen = {user: {topic["topic"] for topic in curl(node, "/topics", "-u", user).json()["topics"]}
            for user in ("anna:right", "bert:other")}
    check("a/kept" in seen["anna:right"] and "c/kept" not in seen["anna:right"], f"anna sees {seen['anna:right']}")
    check({"a/kept", "c/kept"} <= seen["bert:other"], f"bert sees {seen['bert:other']}")
    # One connection, many users.
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=PATIENCE)
    for turn in range(3):
        for user, wanted in (("anna:right", 202), ("bert:other", 403), ("anna:wrong", 401), (None, 401)):
            fields = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()} if user else {}
            connection.request("POST", "/a/x", body=b"x", headers=fields)
            answer = connection.getresponse()
            answer.read()
            is_(f"turn {turn} as {user}", wanted, answer.status)
    connection.close()
    token = base64.b64encode(b"bert:other").decode()
    stream = Stream(node, "filter=%23", f"Authorization: Basic {token}")
    names = {stream.event()[0] for _ in range(2)}
    is_("what bert hears", {"a/kept", "c/kept"}, names)
    stream.close()


def users_of_sockets(node):
    """MQTT inside of WebSocket: users and rules are those of MQTT."""
    def connected(user, password):
        codes = []
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, transport="websockets",
                             reconnect_on_failure=False)
        client.ws_set_options(path="/mqtt")
        client.username_pw_set(user, password)
        client.on_connect = lambda client, data, flags, code, more: codes.append(("CONNACK", code.value))
        client.on_subscribe = lambda client, data, number, given, more: codes.append([code.value for code in given])
        client.on_publish = lambda client, data, number, code, more: codes.append(("PUBACK", code.value))
        client.connect("127.0.0.1", node.http_port)
        return client, codes

    def loop(client, codes, count):
        for _ in range(400):
            if len(codes) >= count:
                break
            client.loop(0.05)
        return codes

    for user, password in (("anna", "wrong"), ("nobody", "right"), (None, None)):
        client, codes = connected(user, password)
        # 0x86 and 0x87: a bad user or password, and not authorized.
        check(loop(client, codes, 1)[0][1] in (0x86, 0x87), f"{user} {password}: {codes}")
    client, codes = connected("anna", "right")
    is_("anna", [("CONNACK", 0)], loop(client, codes, 1))
    client.subscribe([("a/#", 1), ("#", 1)])
    is_("anna's filters", [1, 0x87], loop(client, codes, 2)[1])
    client.publish("b", "x", 1)
    is_("anna's publish", ("PUBACK", 0x87), loop(client, codes, 3)[2])
    client.disconnect()
    for path, protocol, wanted in (("/mqtt", "mqtt", 101), ("/ws", "apus.v1.json", 101), ("/echo", None, 401)):
        status = 101
        try:
            connect(f"ws://127.0.0.1:{node.http_port}{path}", subprotocols=[protocol] if protocol else None).close()
        except InvalidStatus as failure:
            status = failure.response.status_code
        is_(f"a handshake at {path} without a user", wanted, status)


PLAIN = (methods, origins, uploads, versions, python)


def test():
    extra = f'http: {{ debug_echo: true, cors_origins: ["{FRIEND}"] }}\n'
    with Node(http=True, extra=extra + "limits: { max_packet: 2MiB }\n") as node:
        for part in PLAIN:
            part(node)
            print(f"{part.__name__}: ok", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        file = pathlib.Path(scratch) / "users"
        for user, password, *group in (("anna", "right"), ("bert", "other", "--group", "readers"), ("root", "root")):
            subprocess.run([APUS, "user", "add", "--file", file, *group, user], input=password.encode() + b"\n",
                           check=True, capture_output=True)
        rules = f"""security:
  users: {file}
  anonymous: never
  access:
    - {{ allow: all, topics: ["a/#"], users: [anna] }}
    - {{ allow: subscribe, topics: ["#"], groups: [readers] }}
    - {{ allow: all, topics: ["#", "probe/#"], users: [root] }}
"""
        with Node(http=True, extra=extra + rules) as node:
            users(node)
            users_of_sockets(node)
            print("users: ok", flush=True)
    return f"HTTP: {len(PLAIN)} parts and {len(REQUESTS)} requests of users passed"


if __name__ == "__main__":
    main(test)
