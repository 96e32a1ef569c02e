#!/usr/bin/env python3
"""Three nodes with exactly the variables of each way to deploy: the manifests of Kubernetes with and without TLS, the
chart, the compose file, the Terraform module. Each node is in a network namespace of its own with an address of its
own, finds the others by the names in the variables, runs as the user of the image without any privilege, is probed by
the command of the manifests, and is stopped as Kubernetes would stop it. Events go from the first to the last node.

As root: everything is in namespaces that end with the test.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from deployments import NAMESPACE, Failure, check, run, settings

APUS = os.environ.get("APUS", str(pathlib.Path(__file__).resolve().parent.parent / ".build/release/apus"))
USER = "10001"
SECRET = "a secret of this test only"
PASSWORD = "correct horse"
CLIENTS = f"apus-clients.{NAMESPACE}.svc"


class Pod:
    """A node in namespaces of its own, as its container would be."""

    def __init__(self, name, index, environment, directory):
        self.name = name
        self.environment = environment
        self.directory = directory / name
        self.data = self.directory / "data"
        self.data.mkdir(parents=True)
        shutil.chown(self.data, int(USER), int(USER))
        self.address = f"10.200.0.{10 + index}"
        self.interface = f"v{index}"
        self.namespace = f"pod{index}"
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self.interface, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "link", "set", self.interface, "master", "bridge", "up")
        for arguments in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                          ["link", "set", "lo", "up"]):
            run("ip", "-n", self.namespace, *arguments)

    def command(self, *words):
        """A command in the container: its environment and nothing else, its user, no capabilities."""
        script = (f"echo {self.name} >/proc/sys/kernel/hostname && mount --bind {self.data} /var/lib/apus && "
                  "cd /var/lib/apus && exec \"$@\"")
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", script, "sh",
                "setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "env", "-i",
                "PATH=/usr/bin:/bin", *(f"{key}={value}" for key, value in self.environment.items()), *words]

    def start(self):
        self.log = self.directory / "log"
        self.process = subprocess.Popen(self.command(APUS, "run"), stderr=self.log.open("wb"))

    def probe(self, probe):
        check(self.process.poll() is None, f"{self.name} has ended: {self.log.read_text()[-2000:]}")
        words = [APUS if word == "apus" else word for word in probe]
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False)

    def reaches(self):
        """How many nodes are in the mesh, as this one sees it."""
        said = json.loads(self.probe(["apus", "topology", "--json"]).stdout or "{}")
        return sum(node["reachable"] for node in said.get("nodes", []))

    def end(self):
        # The kernel takes its time to remove what a namespace had; the next mesh has the same names.
        run("ip", "link", "del", self.interface)
        run("ip", "netns", "del", self.namespace)


def wait(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < deadline, what())
        time.sleep(0.2)


def secrets():
    """What the Secrets hold: users; certificates of the mesh and for clients."""
    place = pathlib.Path("/etc/apus")
    for name in ("users", "tls", "mesh"):
        (place / name).mkdir(parents=True, exist_ok=True)
    password = place / "password"
    password.write_text(PASSWORD + "\n")
    users = place / "users/users"
    run(APUS, "user", "add", "--file", users, "--password-file", password, "--group", "operators", "olivia")
    certs = place / "authority"
    run(APUS, "certs", "init", "--dir", certs, "--name", "deployments")
    for pod in ("apus-0", "apus-1", "apus-2"):
        run(APUS, "certs", "node", pod, "--dir", certs, "--mesh", "kubernetes", "--host", f"{pod}.apus.{NAMESPACE}.svc")
    run(APUS, "certs", "server", "clients", "--dir", certs, "--host", CLIENTS)
    for file in (*certs.glob("apus-*.*"), certs / "ca.crt"):
        shutil.copy(file, place / "mesh")
    shutil.copy(certs / "clients.crt", place / "tls/tls.crt")
    shutil.copy(certs / "clients.key", place / "tls/tls.key")
    # As fsGroup and defaultMode have them: the group may read.
    for file in place.rglob("*"):
        shutil.chown(file, 0, int(USER))
        file.chmod(0o750 if file.is_dir() else 0o440)
    (place / "authority/ca.crt").chmod(0o444)


def names(pods):
    """What the cluster's name service would say; the clients' service is the first pod here."""
    lines = ["127.0.0.1 localhost", f"{pods[0].address} {CLIENTS}"]
    for pod in pods:
        lines.append(f"{pod.address} {pod.name} {pod.name}.apus.{NAMESPACE}.svc")
    pathlib.Path("/etc/hosts").write_text("\n".join(lines) + "\n")


def client(pods, pod, command, *words):
    """A client outside of the nodes, by the protocol that they have open."""
    environment = pod.environment
    number = next(i for i in range(3) if environment.get(f"APUS_LISTENERS_{i}_PROTOCOL") == "mqtt")
    port = environment[f"APUS_LISTENERS_{number}_LISTEN"]
    secure = "APUS_MESH_TLS" in environment
    # Certificates are for the service's name, which is the first pod here.
    host = CLIENTS if pod is pods[0] else pod.address
    tls = ["--cafile", "/etc/apus/authority/ca.crt", *([] if pod is pods[0] else ["--insecure"])] if secure else []
    return [APUS, command, "-h", host, "-p", port.rsplit(":", 1)[1], *tls, "-u", "olivia", "-P", PASSWORD, *words]


def play(name, environments, probe, directory):
    began = time.monotonic()
    pods = [Pod(node, index, environment, directory) for index, (node, environment) in enumerate(environments.items())]
    names(pods)
    try:
        for pod in pods:
            pod.start()
        for pod in pods:
            wait(lambda pod=pod: pod.probe(probe).returncode == 0,
                 lambda pod=pod: f"{pod.name} is not ready: {pod.probe(probe)} {pod.log.read_text()[-2000:]}")
            wait(lambda pod=pod: pod.reaches() == len(pods),
                 lambda pod=pod: f"{pod.name} reaches {pod.reaches()} nodes")
        joined = time.monotonic() - began
        listener = subprocess.Popen(
            client(pods, pods[2], "sub", "-q", "1", "-C", "1", "-W", "60", "-t", "deployed/#"), stdout=subprocess.PIPE,
            text=True)
        wait(lambda: "node " + pods[2].name in pods[0].probe(["apus", "explain", "deployed/1"]).stdout,
             lambda: "the first node does not learn of the subscription")
        run(*client(pods, pods[0], "pub", "-q", "1", "-t", "deployed/1", "-m", "arrived"))
        heard = listener.communicate(timeout=90)[0]
        check(heard == "arrived\n", f"{name}: heard {heard!r}")
        stranger = client(pods, pods[0], "pub", "-q", "1", "-t", "deployed/1", "-m", "x")
        stranger[stranger.index("-P") + 1] = "wrong"
        refused = subprocess.run(stranger, capture_output=True, check=False).returncode != 0
        check(refused, f"{name}: a stranger comes in")
        stopped = time.monotonic()
        for pod in pods:
            pod.process.terminate()
        for pod in pods:
            status = pod.process.wait(40)
            check(status == 0, f"{pod.name} ended with {status}: {pod.log.read_text()[-2000:]}")
        print(f"{name}: three nodes joined after {joined:.1f} s, an event crossed, stopped within "
              f"{time.monotonic() - stopped:.1f} s")
    finally:
        for pod in pods:
            pod.process.kill()
            pod.process.wait()
            pod.end()


def refuses_service_links(environment):
    """Why the manifests have enableServiceLinks: false."""
    done = subprocess.run(
        ["env", "-i", *(f"{key}={value}" for key, value in environment.items()), "APUS_CLIENTS_SERVICE_HOST=10.0.0.1",
         APUS, "run"], capture_output=True, text=True, check=False, timeout=20)
    check(done.returncode == 78 and "APUS_CLIENTS_SERVICE_HOST" in done.stderr, f"with links of services: {done}")


def inside():
    # Files of the containers, over those of this machine; writable and gone with the namespace.
    for place in ("/etc", "/run", "/var/lib"):
        with tempfile.TemporaryDirectory() as directory:
            run("mount", "-t", "tmpfs", "tmpfs", directory)
            for name in ("upper", "work"):
                pathlib.Path(directory, name).mkdir()
            run("mount", "-t", "overlay", "overlay", "-o",
                f"lowerdir={place},upperdir={directory}/upper,workdir={directory}/work", place)
            run("umount", "--lazy", directory)
    pathlib.Path("/var/lib/apus").mkdir(exist_ok=True)
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "addr", "add", "10.200.0.1/24", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")
    secrets()
    found = settings(SECRET)
    refuses_service_links(found["Kubernetes, base"][0]["apus-0"])
    for name, (environments, probe) in found.items():
        # The compose file and the Terraform module have the users as a file, Kubernetes in a directory.
        users = environments[next(iter(environments))]["APUS_SECURITY_USERS"]
        place = pathlib.Path("/etc/apus/users")
        if users == str(place) and place.is_dir():
            content = (place / "users").read_bytes()
            shutil.rmtree(place)
            place.write_bytes(content)
            shutil.chown(place, int(USER), int(USER))
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory).chmod(0o755)
            play(name, environments, probe, pathlib.Path(directory))


def main():
    if sys.argv[1:] == ["--inside"]:
        inside()
        return
    check(os.geteuid() == 0, "namespaces need root")
    status = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
         sys.executable, __file__, "--inside"], check=False).returncode
    check(status == 0, f"the test ended with {status}")
    print("every way to deploy has settings that work")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"FAILED: {failure}")
