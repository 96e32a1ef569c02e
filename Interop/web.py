"""What the tests of HTTP and WebSocket share: curl, the mosquitto clients and streams of events as subprocesses."""

import itertools
import json
import queue
import re
import subprocess
import threading

from node import PATIENCE, check, until

MEBIBYTE = bytes(number * 31 % 251 for number in range(1 << 20))
BINARY = bytes(range(256))
NUMBERS = itertools.count()


class Answer:
    """The answer to a request. Names of fields are lower case; of several of a name the last counts."""

    def __init__(self, raw):
        self.interim = []
        while True:
            head, _, raw = raw.partition(b"\r\n\r\n")
            status, *lines = head.decode("latin-1").split("\r\n")
            words = status.split(" ", 2)
            check(len(words) > 1 and words[1].isdigit(), f"no answer: {head[:200]}")
            self.version, self.status = words[0], int(words[1])
            if self.status >= 200:
                break
            self.interim.append(self.status)
        self.fields = [tuple(part.strip() for part in line.split(":", 1)) for line in lines]
        self.headers = {name.lower(): value for name, value in self.fields}
        self.body = raw

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:300]}"


def curl(node, path, *options, body=None, headers=(), method=None, stdin=None):
    """A request by curl. `body` is sent as it is, with POST unless `method` says otherwise; `stdin` is for `options`
    that read."""
    command = ["curl", "-si", "--path-as-is", "--max-time", str(PATIENCE), *options]
    for header in headers:
        command += ["-H", header]
    if body is not None:
        command += ["--data-binary", "@-"]
        if not any(header.lower().startswith("content-type") for header in headers):
            # What curl says of itself would be taken for the event's.
            command += ["-H", "Content-Type:"]
    if method:
        command += ["-X", method]
    url = f"http://127.0.0.1:{node.http_port}{path}"
    given = body if stdin is None else stdin
    done = subprocess.run([*command, url], input=given, stdout=subprocess.PIPE, timeout=PATIENCE + 5)
    check(done.stdout, f"curl ended with {done.returncode}: {path}")
    return Answer(done.stdout)


def publish(node, path, body=b"", *headers, **more):
    """A publish by curl that must be accepted; what the node said."""
    answer = curl(node, path, body=body, headers=headers, **more)
    check(answer.status == 202, f"publish to {path}: {answer}")
    return answer.json()


class Subscriber:
    """mosquitto_sub, in the background. It is subscribed once this has been made, unless it `comes_late`: then it is
    for what is retained, and may be gone already."""

    def __init__(self, node, topic_filter, count, form, *options, version="5", qos=2, comes_late=False):
        probe = f"probe/{next(NUMBERS)}"
        # Events that `-T` names are neither printed nor counted.
        self.process = subprocess.Popen(
            ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(node.port), "-V", version, "-q", str(qos), "-W",
             str(PATIENCE), "-C", str(count), "-F", form, *options, "-t", topic_filter, "-t", probe, "-T", probe],
            stdout=subprocess.PIPE,
        )
        if not comes_late:
            until(lambda: publish(node, f"/{probe}")["matched"] > 0, f"mosquitto_sub did not subscribe: {form}")

    def lines(self):
        """What it has received, once that is all."""
        output, _ = self.process.communicate(timeout=PATIENCE + 5)
        check(self.process.returncode == 0, f"mosquitto_sub ended with {self.process.returncode}: {output[:500]}")
        return output.decode().splitlines()


def mosquitto_pub(node, topic, payload, *options, version="5", qos=1):
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(node.port), "-V", version, "-q", str(qos), "-t", topic]
    command += ["-s"] if payload else ["-n"]
    done = subprocess.run([*command, *options], input=payload, timeout=PATIENCE)
    check(done.returncode == 0, f"mosquitto_pub to {topic} ended with {done.returncode}")


def properties(values):
    """Options of mosquitto_pub for properties: pairs, whose value may be a pair itself."""
    options = []
    for name, value in values:
        options += ["-D", "publish", name, *((value,) if isinstance(value, str) else value)]
    return options


class Stream:
    """`curl -N` on a stream of events, read as the specification of Server-Sent Events says."""

    def __init__(self, node, query, *headers):
        options = [word for header in headers for word in ("-H", header)]
        self.process = subprocess.Popen(
            ["curl", "-sNi", *options, f"http://127.0.0.1:{node.http_port}/events?{query}"], stdout=subprocess.PIPE
        )
        self.events = queue.Queue()
        self.last_id = ""
        self.status = None
        self.comments = []
        self.is_open = threading.Event()
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        check(self.is_open.wait(PATIENCE), f"the stream {query} was not opened")
        check(self.status == 200, f"the stream {query} was answered with {self.status}")

    def _read(self):
        output = self.process.stdout
        head = re.match(rb"HTTP/1.1 (\d+)", output.readline())
        while output.readline().strip():
            pass
        self.status = int(head[1]) if head else 0
        if self.status != 200:
            self.is_open.set()
        name, data = "message", []
        for line in output:
            field, _, value = line.rstrip(b"\n").partition(b":")
            value = value.removeprefix(b" ").decode()
            if field == b"" and line != b"\n":
                self.comments.append(value)
                if value == "connected":
                    self.is_open.set()
            elif field == b"id":
                self.last_id = value
            elif field == b"event":
                name = value
            elif field == b"data":
                data.append(value)
            elif not field:
                if data:
                    self.events.put((name, "\n".join(data), self.last_id))
                name, data = "message", []
        self.ended.set()
        self.is_open.set()

    def event(self):
        """The next event: its name, its data, its id."""
        try:
            return self.events.get(timeout=PATIENCE)
        except queue.Empty:
            check(False, "no event came from the stream")

    def json(self):
        name, data, _ = self.event()
        check(name == "message", f"an event named {name} instead of JSON")
        return json.loads(data)

    def close(self):
        """Cuts the connection; the id of the last event."""
        self.process.kill()
        self.process.wait()
        return self.last_id
