"""Meshes of real nodes for the tests: processes with generated configurations, joined by relays (relay.c) that delay,
hold back or reset what crosses them; in network namespaces where those are permitted, else on addresses of the loopback
interface. MESH_NET=loopback or namespaces decides by hand.

Nothing here judges a node: load.py makes traffic, history.py knows what may happen to it."""

import atexit
import contextlib
import ctypes
import datetime
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from node import APUS, ROOT, Failure, check  # noqa: E402

MQTT, AMQP, HTTP, ADMIN, MESH = 1883, 5672, 8080, 9900, 7400
SECRET = "a secret of these tests only"
LISTENERS = (("mqtt", MQTT), ("amqp", AMQP), ("http", HTTP))


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def namespaces_are_permitted():
    choice = os.environ.get("MESH_NET")
    if choice:
        return choice == "namespaces"
    name = f"apus-probe-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    try:
        run("ip", "netns", "exec", name, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        return True
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        run("ip", "netns", "del", name)


@contextlib.contextmanager
def inside(namespace):
    """This thread is in a namespace for the time of the block; sockets made there stay there."""
    if namespace is None:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        check(libc.setns(there, 0) == 0, f"setns: {os.strerror(ctypes.get_errno())}")
        yield
    finally:
        libc.setns(before, 0)
        os.close(before)
        os.close(there)


class Relay:
    """A relay process: one for everything, or one in each namespace that something is dialled from."""

    program = None
    lock = threading.Lock()

    def __init__(self, directory, name, namespace):
        self.path = str(pathlib.Path(directory) / f"relay-{name}")
        prefix = ["ip", "netns", "exec", namespace] if namespace else []
        self.process = subprocess.Popen([*prefix, self.compiled(), self.path])
        self.socket = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + 60
        while True:
            try:
                self.socket.connect(self.path)
                break
            except OSError:
                check(time.monotonic() < end, "the relay does not start")
                time.sleep(0.01)

    @classmethod
    def compiled(cls):
        """The program, made anew when its source is newer."""
        source = pathlib.Path(__file__).with_name("relay.c")
        made = ROOT / ".build" / "mesh-relay"
        with cls.lock:
            if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
                made.parent.mkdir(exist_ok=True)
                run("cc", "-O2", "-o", str(made), str(source))
        return str(made)

    def ask(self, *words):
        self.socket.sendall((" ".join(map(str, words)) + "\n").encode())
        answer = b""
        while not answer.endswith(b"\n"):
            more = self.socket.recv(4096)
            check(more, f"the relay is gone: {words}")
            answer += more
        check(answer.startswith(b"ok"), f"relay {words}: {answer.decode().strip()}")
        return [int(number) for number in answer.split()[1:]]

    def end(self):
        self.process.kill()
        self.process.wait()


class Link:
    """A link as configured: one node dials, through a relay. `name` tells parallel ones apart."""

    def __init__(self, mesh, place, dialler, target, cost=10, name="", profile=None):
        self.mesh, self.place, self.cost, self.name, self.profile = mesh, place, cost, name, profile
        self.dialler, self.target = dialler, target
        self.way = f"{dialler}-{target}{'-' + name if name else ''}"
        self.port = 17_400 + place
        self.relay = None

    @property
    def address(self):
        """What the dialler's configuration says."""
        return f"{self.mesh.address(250)}:{self.port}"

    def open(self):
        node = self.mesh[self.target]
        self.relay = self.mesh.relay(self.dialler)
        if self.mesh.in_namespaces:
            ours, theirs = self.mesh[self.dialler].namespace, node.namespace
            near, far = f"a{self.place}", f"b{self.place}"
            run("ip", "link", "add", near, "netns", ours, "type", "veth", "peer", "name", far, "netns", theirs)
            for namespace, device, last in ((ours, near, 1), (theirs, far, 2)):
                run("ip", "-n", namespace, "addr", "add", f"10.77.{self.place}.{last}/30", "dev", device)
                run("ip", "-n", namespace, "link", "set", device, "up")
            target = f"10.77.{self.place}.2"
        else:
            target = node.address
        self.relay.ask("open", self.way, self.address, f"{target}:{MESH}")

    def set(self, **values):
        """delay and jitter in ms, rate in bytes a second, silent 0 to 3."""
        self.relay.ask("set", self.way, *(f"{key}={value}" for key, value in values.items()))

    def silence(self, direction=3):
        """Nothing gets through any more, and nobody is told: 1 = from the dialler, 2 = to it, 3 = both."""
        self.set(silent=direction)

    def reset(self):
        """Its connections end with RST; they may be made again at once."""
        self.relay.ask("reset", self.way)

    def refuse(self, is_down):
        """With True, the link is down and stays so; connections are refused, so both ends know."""
        self.relay.ask("refuse", self.way, int(is_down))
        if is_down:
            self.reset()

    def statistics(self):
        accepted, is_open, forth, back = self.relay.ask("stat", self.way)
        return {"accepted": accepted, "open": is_open, "forth": forth, "back": back}


class MeshNode:
    """A node process of a mesh."""

    def __init__(self, mesh, place, name):
        self.mesh, self.place, self.name = mesh, place, name
        self.address = mesh.address(place + 1)
        self.namespace = f"apus{os.getpid()}-{place}" if mesh.in_namespaces else None
        self.directory = mesh.directory / name
        self.directory.mkdir()
        self.log = self.directory / "node.log"
        self.process = None
        self.starts = 0
        self.extra_links = []
        # What may be another one at the next start.
        self.program, self.listeners, self.extra = mesh.program, mesh.listeners, mesh.extra
        if self.namespace:
            run("ip", "netns", "add", self.namespace)
            run("ip", "-n", self.namespace, "link", "set", "lo", "up")

    def configuration(self):
        lines = [f"node: {{ name: {self.name}, data: {self.directory}/data, lanes: {self.mesh.lanes} }}", "listeners:"]
        for protocol, port in self.listeners:
            lines.append(f'  - {{ protocol: {protocol}, listen: "{self.address}:{port}" }}')
        listen = "0.0.0.0" if self.namespace else self.address
        lines += ["mesh:", f"  id: {self.mesh.id}", f'  listen: "{listen}:{MESH}"', f"  join: {self.mesh.join}",
                  f"  profile: {self.mesh.profile}", f'  secret: "{SECRET}"']
        lines += [f"  {key}: {value}" for key, value in self.mesh.settings.items()]
        links = [link for link in self.mesh.links if link.dialler == self.name]
        entries = [
            f'    - {{ to: "{link.address}", cost: {link.cost}'
            + (f", name: {link.name}" if link.name else "")
            + (f", profile: {link.profile}" if link.profile else "") + " }"
            for link in links
        ] + [f'    - {{ to: "{address}" }}' for address in self.extra_links]
        if entries:
            lines += ["  links:", *entries]
        return "\n".join(lines) + "\n" + self.extra

    def start(self, wait=True):
        config = self.directory / "node.yaml"
        config.write_text(self.configuration())
        prefix = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        self.starts += 1
        with self.log.open("ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                [*prefix, self.program, "run", "--config", str(config), "--admin", f"{self.address}:{ADMIN}", "--log-format",
                 "json"], stdout=log, stderr=log)
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while not self.records("ready"):
            check(self.process.poll() is None, f"{self.name} did not start: {self.log.read_text()[-2000:]}")
            check(time.monotonic() < end, f"{self.name} is not ready: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def records(self, event=None):
        """Records of the log since the last start."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            lines = log.read().splitlines()
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if event is None or record.get("event") == event:
                    found.append(record)
        return found

    def log_text(self):
        return self.log.read_text(errors="replace")

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """SIGKILL: the kernel closes its connections."""
        self.process.kill()
        self.process.wait()

    def restart(self, after=0.0, wait=True):
        """Killed and started again, sooner than anybody would notice its silence."""
        self.kill()
        time.sleep(after)
        self.start(wait)

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def terminate(self):
        """In an orderly way; what it ended with."""
        if not self.is_running:
            return 0
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "a kill: it did not end"

    def dial(self, port, timeout=5):
        """A connection to a listener."""
        with inside(self.namespace):
            made = socket.socket()
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.settimeout(timeout)
        made.connect((self.address, port))
        return made

    def connect(self):
        """For `Wire`."""
        return self.dial(MQTT)

    def request(self, method, path, body=None, port=ADMIN, headers=None, timeout=5):
        """Status and body of an HTTP request."""
        connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        connection.sock = self.dial(port, timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path):
        status, body = self.request("GET", path)
        check(status == 200, f"{self.name}: GET {path}: {status} {body[:200]}")
        return json.loads(body)

    def metrics(self):
        status, body = self.request("GET", "/metrics")
        check(status == 200, f"{self.name}: GET /metrics: {status}")
        lines = body.decode().splitlines()
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if x and x[0] != "#")}

    def metric(self, name, **labels):
        """The sum of a metric over all series with these labels."""
        found = 0.0
        for series, value in self.metrics().items():
            if series.split("{")[0] == name and all(f'{key}="{text}"' in series for key, text in labels.items()):
                found += value
        return found

    def resident_kilobytes(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    def topology(self):
        return Topology(self.get("/v1/mesh/topology"))


class Topology:
    """The one place here that knows how a node tells of its mesh."""

    def __init__(self, raw):
        self.raw = raw

    @property
    def reachable(self):
        """Names of the nodes that can be reached, this one included."""
        return {node["name"] for node in self.raw["nodes"] if node["reachable"]}

    @property
    def up(self):
        """Names of the neighbours with a link that carries events; one for each link."""
        return sorted(link["peer"] for link in self.raw["links"] if link["state"] == "up")

    def filters(self, name):
        """Filters of a node, as known here."""
        return sum(node.get("filters", 0) for node in self.raw["nodes"] if node["name"] == name and node["reachable"])

    def neighbours(self, name):
        """Nodes that one is known to be linked to, by what both ends tell: what routes are made of."""
        return {
            neighbour["name"] for node in self.raw["nodes"] if node["name"] == name
            for neighbour in node["neighbours"] if neighbour["twoWay"]
        }

    def links_to(self, peer):
        return [link for link in self.raw["links"] if link["peer"] == peer]

    @property
    def counters(self):
        return self.raw.get("counters", {})


class Mesh:
    """Nodes and links between them; ended with the block. `links` are pairs of names, the first dials, with options as
    a third: {"cost": 5}. With `loopback` there are no namespaces, and every node can dial every other. `extra` is the
    end of every configuration, `listeners` are pairs of protocol and port."""

    def __init__(self, names, links, *, lanes=1, join="configured", profile="standard", settings=None, extra="",
                 mesh_id="interop", loopback=False, program=APUS, listeners=LISTENERS):
        self.names, self.lanes, self.join, self.profile, self.id = list(names), lanes, join, profile, mesh_id
        self.settings, self.extra = settings or {}, extra
        self.pairs, self.loopback, self.program, self.listeners = links, loopback, program, listeners
        self.nodes, self.links, self.relays = {}, [], {}

    def __enter__(self):
        self.in_namespaces = not self.loopback and namespaces_are_permitted()
        self.temporary = tempfile.mkdtemp(prefix="apus-mesh-")
        self.directory = pathlib.Path(self.temporary)
        atexit.register(self.clean)
        try:
            for place, name in enumerate(self.names):
                self.nodes[name] = MeshNode(self, place, name)
            for place, (dialler, target, *options) in enumerate(self.pairs):
                self.links.append(Link(self, place, dialler, target, **(options[0] if options else {})))
            for link in self.links:
                link.open()
            for node in self.nodes.values():
                node.start(wait=False)
            for node in self.nodes.values():
                node.wait_ready()
            return self
        except BaseException:
            self.clean()
            raise

    def __exit__(self, kind, value, trace):
        ended = {}
        if kind is None:
            ended = {node.name: node.terminate() for node in self.nodes.values()}
        else:
            for node in self.nodes.values():
                warnings = [line for line in node.log_text().splitlines() if '"level":"info"' not in line]
                sys.stderr.write(f"--- {node.name}\n" + "\n".join(warnings[-8:]) + "\n")
        if kind is not None and os.environ.get("MESH_KEEP"):
            shutil.copytree(self.directory, os.environ["MESH_KEEP"], dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("relay-*"))
        self.clean()
        if kind is None:
            check(all(status == 0 for status in ended.values()), f"nodes ended with {ended}")

    def clean(self):
        for node in self.nodes.values():
            if node.is_running:
                node.process.kill()
                node.process.wait()
        for relay in self.relays.values():
            relay.end()
        for node in self.nodes.values():
            if node.namespace:
                subprocess.run(["ip", "netns", "del", node.namespace], check=False, stderr=subprocess.DEVNULL)
        self.relays = {}
        shutil.rmtree(self.temporary, ignore_errors=True)
        atexit.unregister(self.clean)

    def address(self, last):
        """An address of the loopback interface that no other run uses."""
        return f"127.{os.getpid() >> 7 & 127 | 128}.{os.getpid() & 127 | 64}.{last}"

    def relay(self, dialler):
        namespace = self.nodes[dialler].namespace
        if namespace not in self.relays:
            self.relays[namespace] = Relay(self.directory, namespace or "all", namespace)
        return self.relays[namespace]

    def __getitem__(self, name):
        return self.nodes[name]

    def link(self, one, other, name=""):
        """The link between two nodes, whoever dials."""
        for link in self.links:
            if {link.dialler, link.target} == {one, other} and link.name == name:
                return link
        raise Failure(f"no link {one}-{other}")

    def links_of(self, name):
        return [link for link in self.links if name in (link.dialler, link.target)]

    def add_node(self, name, seeds=(), wait=True):
        """A node beyond those of the beginning; it dials addresses, not through relays."""
        node = MeshNode(self, len(self.nodes), name)
        node.extra_links = list(seeds)
        self.nodes[name] = node
        node.start(wait)
        return node

    def wait(self, seconds=60, names=None, without=(), links=True):
        """Waits until each of the nodes reaches exactly all of them; the seconds that took."""
        wanted = set(names or self.names) - set(without)
        expected = {
            name: sorted(
                link.target if link.dialler == name else link.dialler for link in self.links_of(name)
                if {link.dialler, link.target} <= wanted)
            for name in wanted
        }
        return self.until(
            lambda: all(
                (t := self.nodes[name].topology()).reachable == wanted and (not links or t.up == expected[name])
                for name in wanted),
            seconds, lambda: "no convergence: " + str({
                name: (sorted(self.nodes[name].topology().reachable), self.nodes[name].topology().up)
                for name in wanted}))

    def wait_routes(self, seconds=45):
        """Waits until every node routes over every link: one that has come up again too often is held back a while."""
        expected = {
            name: {link.target if link.dialler == name else link.dialler for link in self.links_of(name)}
            for name in self.names
        }
        return self.until(
            lambda: all(
                (t := node.topology()) and all(t.neighbours(name) == expected[name] for name in self.names)
                for node in (self.nodes[name] for name in self.names)),
            seconds, "not every link is used", pause=0.1)

    def false_alarms(self, faults):
        """Links taken down for silence that no fault explains: (node, seconds of the monotonic clock, message)."""
        offset = time.time() - time.monotonic()
        found = []
        for node in self.nodes.values():
            for line in node.log_text().splitlines():
                if "is down: nothing was heard" not in line:
                    continue
                record = json.loads(line)
                at = datetime.datetime.fromisoformat(record["time"].replace("Z", "+00:00")).timestamp() - offset
                peer = record["message"].split()[2]
                if not any(f.start / 1e9 - 0.1 <= at <= f.end / 1e9 + 1
                           and (f.touched is None or f.touched in (node.name, peer)) for f in faults):
                    found.append((node.name, round(at, 3), record["message"]))
        return found

    @staticmethod
    def until(condition, seconds, what, pause=0.02):
        start = time.monotonic()
        while True:
            try:
                if condition():
                    return time.monotonic() - start
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() - start > seconds:
                raise Failure(what() if callable(what) else what)
            time.sleep(pause)
