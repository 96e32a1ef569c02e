"""What the Python tests share: starting a node (the one place here that knows the command line), raw packets."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from fair import fair_seconds

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Seconds that nobody waits for something in vain; how soon it came is for the clock() of a node to say.
PATIENCE = 60
APUS = os.environ.get("APUS", str(ROOT / ".build/release/apus"))


class Failure(Exception):
    """A check that did not hold."""


def check(condition, what):
    if not condition:
        raise Failure(what)


def is_(what, wanted, got):
    check(wanted == got, f"{what}: wanted {wanted!r:.600}, got {got!r:.600}")


def until(condition, what, seconds=PATIENCE, pause=0.05):
    """Waits for what only somebody else can tell; the seconds that took. `what` says what is wrong if it does not come,
    or is a function that does."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise Failure(what() if callable(what) else what)
        time.sleep(pause)
    return time.monotonic() - start


def run_parts(parts, only, *arguments, where=""):
    """Runs the parts of a test, those whose names are in `only` if there are any; what each returned, by its name."""
    said = {}
    for part in parts:
        if only and part.__name__ not in only:
            continue
        start = time.monotonic()
        said[part.__name__] = part(*arguments)
        print(f"{part.__name__}{where}: ok, {time.monotonic() - start:.1f} s", flush=True)
    return said


class Node:
    """A node on free ports, ended with the block. With `http` it has a listener for HTTP, too, at `http_port`, with
    `amqp` one for AMQP at `amqp_port`. It is managed at `admin`."""

    def __init__(self, lanes=2, extra="", http=False, amqp=False):
        self.lanes = lanes
        self.extra = extra
        self.protocols = ["mqtt"] + ["http"] * http + ["amqp"] * amqp
        self.ports = dict.fromkeys(("mqtt", "http", "amqp"), 0)
        self.admin = None

    @property
    def port(self):
        return self.ports["mqtt"]

    @property
    def http_port(self):
        return self.ports["http"]

    @property
    def amqp_port(self):
        return self.ports["amqp"]

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.start()
        return self

    def start(self):
        """Starts the process; after a kill, on the ports it had."""
        base = pathlib.Path(self.directory.name)
        config = base / "node.yaml"
        config.write_text(self.configuration(base))
        self.log = base / "node.log"
        self.process = subprocess.Popen(
            [APUS, "run", "--config", str(config), "--admin", "127.0.0.1:0", "--log-format", "json"],
            stderr=self.log.open("wb"),
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            for record in self.records("ready"):
                self.take_ports(record["listeners"])
                self.admin = record["admin"]
                return
            time.sleep(0.05)
        self.kill()
        raise Failure("the node did not start: " + self.log.read_text()[:1500])

    def configuration(self, base):
        listeners = "".join(
            f'  - {{ protocol: {name}, listen: "127.0.0.1:{self.ports[name]}" }}\n' for name in self.protocols)
        return (f"node: {{ name: interop, data: {base}/data, lanes: {self.lanes} }}\nlisteners:\n" + listeners
                + self.extra.replace("DIRECTORY", str(base)))

    def take_ports(self, listeners):
        for listener in listeners:
            self.ports[listener["protocol"]] = int(listener["address"].rsplit(":", 1)[1])

    def kill(self):
        """Ends the process as a power failure would."""
        self.process.kill()
        self.process.wait()

    def __exit__(self, kind, value, trace):
        if kind is not None:
            sys.stderr.write("".join(self.log.read_text().splitlines(True)[-5:]))
        self.process.terminate()
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = "a kill: it did not end"
        if kind is None and status != 0:
            lines = [line for line in self.log.read_text(errors="replace").splitlines(True)
                     if "Fatal" in line or "crashed" in line or re.match(r" *\d+ .* in ", line)]
            sys.stderr.write("".join(lines[:20]))
        self.directory.cleanup()
        if kind is None:
            check(status == 0, f"the node ended with {status}")

    def records(self, event):
        found = []
        for line in self.log.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("event") == event:
                found.append(record)
        return found

    def counters(self):
        """Everything the node has counted, as numbers."""
        before = len(self.records("counters"))
        self.process.send_signal(signal.SIGUSR1)
        for _ in range(1200):
            records = self.records("counters")
            if len(records) > before:
                return {key: int(value) for key, value in records[-1].items() if str(value).isdigit()}
            time.sleep(0.05)
        raise Failure("no counters")

    def metrics(self):
        """The metrics as Prometheus reads them, by name and labels."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def processor_seconds(self):
        """What the node has used of processors, whatever else the machine does."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def clock(self):
        """Seconds of a clock for judging how quick the node is, whatever else the machine does: see fair.py."""
        return fair_seconds(self.process.pid)

    def resident_kilobytes(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    def connect(self):
        """A raw connection."""
        made = socket.create_connection(("127.0.0.1", self.port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


def text(value):
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw


def packet(first, body):
    length = bytearray()
    left = len(body)
    while True:
        digit = left % 128
        left //= 128
        length.append(digit | (128 if left else 0))
        if not left:
            return bytes([first]) + bytes(length) + body


def connect_packet(client, clean=True, keep_alive=0):
    flags = 2 if clean else 0
    return packet(0x10, text("MQTT") + bytes([4, flags]) + keep_alive.to_bytes(2, "big") + text(client))


def connect5_packet(client, properties=b"", clean=True):
    """A CONNECT of MQTT 5; `properties` as on the wire, shorter than 128 bytes, without their length."""
    flags = 2 if clean else 0
    return packet(
        0x10, text("MQTT") + bytes([5, flags, 0, 0, len(properties)]) + properties + text(client)
    )


def subscribe_packet(identifier, topic_filter, qos):
    return packet(0x82, identifier.to_bytes(2, "big") + text(topic_filter) + bytes([qos]))


def publish_packet(topic, payload, qos=0, identifier=0, dup=False):
    middle = identifier.to_bytes(2, "big") if qos else b""
    return packet(0x30 | qos << 1 | (8 if dup else 0), text(topic) + middle + payload)


def take_packets(buffer):
    """Takes complete packets off a bytearray: pairs of first byte and body."""
    packets = []
    start = 0
    while len(buffer) - start >= 2:
        length, shift, place = 0, 0, start + 1
        while place < len(buffer):
            digit = buffer[place]
            length |= (digit & 127) << shift
            shift += 7
            place += 1
            if digit < 128:
                break
        else:
            break
        if len(buffer) - place < length:
            break
        packets.append((buffer[start], bytes(buffer[place : place + length])))
        start = place + length
    del buffer[:start]
    return packets


def read_until(connection, buffer, condition, seconds=60):
    """Reads packets from a raw connection until `condition` holds for all of them together; those packets."""
    packets = []
    connection.settimeout(seconds)
    while not condition(packets):
        try:
            data = connection.recv(65536)
        except TimeoutError:
            data = b""
        check(data, f"nothing more after {[(hex(first), body.hex()[:80]) for first, body in packets]}")
        buffer += data
        packets += take_packets(buffer)
    return packets


def main(body, *arguments):
    """Runs a test and says how it went; the last line is for run.sh."""
    try:
        print(body(*arguments))
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
