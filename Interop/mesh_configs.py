#!/usr/bin/env python3
"""The meshes of mesh-configs: every folder is started as its files say, each node with a data directory of its own;
then every node must reach all others, and an event must get from the first node to the last. In a network namespace
where that is permitted, because the ports are those of the files."""

import ctypes
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

from node import APUS, ROOT, check, main, until

CONFIGS = ROOT / "mesh-configs"
# The variant for two machines, here on one.
ON_ONE_MACHINE = {
    "secret-hamburg": {
        "APUS_LISTENERS_0_LISTEN": "127.0.0.1:1884",
        "APUS_ADMIN_LISTEN": "127.0.0.1:8223",
        "APUS_MESH_LINKS_0_TO": "127.0.0.1:7400",
    }
}
SECRET = {"APUS_MESH_SECRET": "a secret of this test only"}
CLONE_NEWNET = 0x40000000


def meshes():
    """Names and the files of each mesh, in the order of their names."""
    # What is for Kubernetes is checked by packaging/deployments.py.
    for folder in sorted(path for path in CONFIGS.iterdir() if path.is_dir() and path.name != "kubernetes"):
        # `node.yaml` is a node alone.
        files = sorted(file for file in folder.glob("*.yaml") if file.name != "node.yaml")
        for prefix in ("", "secret-"):
            nodes = [file for file in files if file.name.startswith("secret-") == bool(prefix)]
            if nodes:
                yield f"{folder.name}{' with a secret' if prefix else ''}", nodes


def leave_network():
    """This process and those it starts get a loopback interface of their own; without the right to, they do not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) == 0:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Process:
    """A node as its file says."""

    def __init__(self, file, directory):
        self.name = file.stem
        self.log = directory / f"{self.name}.log"
        self.environment = {**os.environ, **SECRET, **ON_ONE_MACHINE.get(self.name, {})}
        self.environment["APUS_NODE_DATA"] = str(directory / self.name)
        text = file.read_text()
        self.mqtt = self.address(r"protocol: mqtt, listen: ([0-9.:]+)", text, "APUS_LISTENERS_0_LISTEN")
        self.admin = self.address(r"admin: \{ listen: ([0-9.:]+)", text, "APUS_ADMIN_LISTEN")
        self.process = subprocess.Popen(
            [APUS, "run", "--config", str(file), "--log-format", "json"], env=self.environment, cwd=directory,
            stderr=self.log.open("wb"))

    def address(self, pattern, text, variable):
        found = re.search(pattern, text)
        check(found, f"{self.name} has no {pattern}")
        return self.environment.get(variable, found.group(1))

    def ask(self, *command):
        """What a command says, as JSON; nothing while the node does not answer."""
        answer = subprocess.run(
            [APUS, *command, "--json", "--admin", self.admin], capture_output=True, text=True, check=False)
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def reaches(self, count):
        check(self.process.poll() is None, f"{self.name} has ended: {self.log.read_text()[-2000:]}")
        mesh = self.ask("topology")
        return (
            mesh is not None and mesh["state"] == "joined" and len(mesh["nodes"]) == count
            and all(node["reachable"] for node in mesh["nodes"]))

    def client(self, command, *arguments):
        host, port = self.mqtt.rsplit(":", 1)
        return [APUS, command, "-h", host, "-p", port, *arguments]


def event_arrives(first, last):
    listener = subprocess.Popen(
        last.client("sub", "-q", "1", "-C", "1", "-W", "60", "-t", "configs/+"), stdout=subprocess.PIPE, text=True)
    name = last.ask("topology")["node"]
    until(lambda: any(node["node"] == name for node in (first.ask("explain", "configs/1") or {}).get("nodes", [])),
         f"{first.name} does not learn that {name} wants an event")
    subprocess.run(first.client("pub", "-q", "1", "-t", "configs/1", "-m", "arrived"), check=True)
    heard = listener.communicate(timeout=90)[0]
    check(heard == "arrived\n", f"from {first.name} to {last.name}: {heard!r}")


def play(name, files):
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        if any("./certs/" in file.read_text() for file in files):
            subprocess.run([APUS, "certs", "example"], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        nodes = [Process(file, pathlib.Path(directory)) for file in files]
        try:
            for node in nodes:
                until(lambda node=node: node.reaches(len(nodes)),
                     f"{node.name} of {name} does not reach {len(nodes)} nodes: {node.ask('topology')}")
            joined = time.monotonic() - started
            event_arrives(nodes[0], nodes[-1])
        finally:
            for node in nodes:
                node.process.terminate()
            endings = [(node, node.process.wait(60)) for node in nodes]
        for node, status in endings:
            check(status == 0, f"{node.name} ended with {status}")
    print(f"{name}: {len(nodes)} nodes, all reach all after {joined:.1f} s")


def needs_its_secret():
    """The variable is required: a node must not come up without the secret that its file names."""
    environment = {key: value for key, value in os.environ.items() if key != "APUS_MESH_SECRET"}
    file = CONFIGS / "pair/secret-berlin.yaml"
    answer = subprocess.run(
        [APUS, "check", str(file)], env=environment, capture_output=True, text=True, check=False)
    check(answer.returncode == 78 and "APUS_MESH_SECRET" in answer.stderr, f"without its secret: {answer}")


def body():
    leave_network()
    needs_its_secret()
    found = list(meshes())
    check(len(found) >= 5, f"only {len(found)} meshes in {CONFIGS}")
    for name, files in found:
        play(name, files)
    return f"{len(found)} meshes of mesh-configs"


if __name__ == "__main__":
    main(body)
