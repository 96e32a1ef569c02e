#!/usr/bin/env python3
"""The Debian package as somebody would use it: checked by lintian, its unit by systemd's own tools, then installed by
apt in a fresh system of nothing but Debian's essential packages, the node started by the unit's own command line as
its user, used, told to reload and to stop, the package removed and purged, and nothing left. Then the same system is
booted with systemd, and the service is what systemd makes of it, with all that the unit forbids.

    packaging/debian_package.py [--release bookworm] [--no-boot]      after `make deb`; as root

The fresh system is made by mmdebstrap from the mirror that this machine uses, and kept in .build/debian-RELEASE.tar
for a week. Everything happens in namespaces of its own: mounts and processes end with the test, and the ports are the node's.
"""

import argparse
import configparser
import ctypes
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / ".build"
# What the program may be linked to: C libraries of Debian. The runtime of Swift is in it.
LIBRARIES = {
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6",
    "libssl.so.3", "libcrypto.so.3", "libqpid-proton.so.11", "libmosquitto.so.1", "libyaml-0.so.2",
}
# Of an idle node, in kilobytes.
RESIDENT, ANONYMOUS = 40 << 10, 12 << 10
# In tenths, as systemd-analyze counts; less is better.
EXPOSURE = 15
# From the installed package to the first event, in seconds. What apt takes is also the mirror's.
FIRST_EVENT = 60
CACHE_SECONDS = 7 * 86400
# A mirror may not answer once.
RETRIES = ("-o", "Acquire::Retries=5")
# What installing anything changes.
NOISE = re.compile(
    r"^/(var/log|var/cache|var/lib/apt|var/lib/dpkg|tmp|run|proc|dev|sys)(/|$)"
    r"|^/etc/(passwd|group|shadow|gshadow)-$|^/etc/ld\.so\.cache$|^/etc/\.pwd\.lock$|^/var/lib/systemd/deb-systemd")


class Failure(Exception):
    """A check that did not hold."""


def check(condition, what):
    if not condition:
        raise Failure(what)


def run(*command, **options):
    """A command's output; what it says is shown when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    check(done.returncode == 0, f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def newest_package():
    found = sorted(BUILD.glob("apus_*.deb"), key=lambda file: file.stat().st_mtime)
    check(found, "there is no package in .build: make deb")
    return found[-1]


# Before anything is installed.

def look_at(package):
    """What can be said about the package without installing it."""
    verdict = subprocess.run(
        ["lintian", "--no-tag-display-limit", "--allow-root", str(package)], capture_output=True, text=True,
        check=False)
    print(verdict.stdout, end="")
    check(verdict.returncode in (0, 1) and "E:" not in verdict.stdout, f"lintian: {verdict.stdout}{verdict.stderr}")
    with tempfile.TemporaryDirectory() as directory:
        run("dpkg-deb", "-x", str(package), directory)
        tree = pathlib.Path(directory)
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", str(tree / "usr/bin/apus"))))
        check(needed <= LIBRARIES, f"the program needs {sorted(needed - LIBRARIES)}")
        print(f"linked to {', '.join(sorted(needed))}; {(tree / 'usr/bin/apus').stat().st_size >> 20} MiB")
        check_unit(unit_file(tree), tree)


def unit_file(tree):
    """Debian 12 has units in /lib, later releases in /usr/lib."""
    return next(tree / place / "systemd/system/apus.service" for place in ("lib", "usr/lib")
                if (tree / place / "systemd/system/apus.service").exists())


def service(unit):
    """The section Service of a unit; the last of several values of a key."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.optionxform = str
    parser.read(unit)
    return dict(parser["Service"])


def check_unit(unit, tree):
    """By systemd's own tools; it looks for the program where the unit says it is."""
    with tempfile.TemporaryDirectory() as directory:
        copy = pathlib.Path(directory) / "apus.service"
        copy.write_text(unit.read_text().replace("=/usr/bin/apus", f"={tree}/usr/bin/apus"))
        told = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
        # Units of this machine's own may be faulty; only what is said about ours counts.
        said = [line for line in (told.stdout + told.stderr).splitlines() if "apus.service" in line]
        check(not said, "systemd-analyze verify: " + "\n".join(said))
        shown = subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", str(copy)],
            capture_output=True, text=True, check=False)
        level = re.search(r"exposure level for apus.service: ([\d.]+)", shown.stdout)
        check(level and shown.returncode == 0, f"systemd-analyze security: {shown.stdout}{shown.stderr}")
        print(f"the unit's exposure is {level.group(1)} of 10")


# The fresh system.

def archive(release):
    """A system of Debian's essential packages and apt, as an archive."""
    file = BUILD / f"debian-{release}.tar"
    if file.exists() and time.time() - file.stat().st_mtime < CACHE_SECONDS:
        return file
    mine = re.search(r"^VERSION_CODENAME=(\w+)", pathlib.Path("/etc/os-release").read_text(), re.MULTILINE).group(1)
    form = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    sources = sorted(set(run(
        "apt-get", "indextargets", "--format", form, "Created-By: Packages", "Origin: Debian").splitlines()))
    sources = [line.replace(mine, release) for line in sources]
    check(sources, "apt knows no mirror of Debian: apt-get update")
    part = file.with_suffix(".part")
    run("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=tar",
        "--dpkgopt=path-exclude=/usr/share/locale/*", '--aptopt=Acquire::Retries "5"', release, str(part),
        "\n".join(sources))
    part.rename(file)
    return file


class System:
    """The chroot."""

    def __init__(self, directory, tar):
        self.path = pathlib.Path(directory)
        run("tar", "-C", directory, "-xf", str(tar))
        for name, kind in (("proc", "proc"), ("sys", "sysfs")):
            (self.path / name).mkdir(exist_ok=True)
            run("mount", "-t", kind, kind, str(self.path / name))
        run("mount", "--bind", "/dev", str(self.path / "dev"))
        shutil.copy("/etc/resolv.conf", self.path / "etc/resolv.conf")
        # As every machine has it; the archive is of no machine.
        (self.path / "etc/hosts").write_text("127.0.0.1 localhost\n")
        for file in pathlib.Path("/etc/apt/apt.conf.d").glob("*proxy*"):
            shutil.copy(file, self.path / "etc/apt/apt.conf.d")

    def run(self, *command, user="root", **options):
        return run(*self.command(*command, user=user), **options)

    def command(self, *command, user="root"):
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
                       "DEBIAN_FRONTEND=noninteractive", "HOME=/nonexistent"]
        return ["chroot", f"--userspec={user}:{'nogroup' if user == 'nobody' else user}", str(self.path), *environment,
                *command]

    def files(self):
        """Every path outside of what any installation changes."""
        found = run("find", str(self.path), "-xdev", "-printf", "/%P\n").splitlines()
        return {path for path in found if not NOISE.match(path)}

    def owned(self):
        """Every path of packages that are installed."""
        lists = (self.path / "var/lib/dpkg/info").glob("*.list")
        paths = {line for file in lists for line in file.read_text().splitlines()}
        # Some packages still name the places from before /lib was merged into /usr/lib.
        return paths | {"/usr" + path for path in paths}


# The use of it.

class Notifications:
    """The service manager's socket, as the unit's Type=notify has one."""

    def __init__(self, system):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = system.path / "run/notify"
        self.socket.bind(str(path))
        path.chmod(0o777)

    def wait(self, state, seconds=60):
        self.socket.settimeout(seconds)
        while True:
            try:
                message = self.socket.recv(4096).decode()
            except TimeoutError:
                raise Failure(f"the node does not say {state}") from None
            if state in message.splitlines():
                return


def start(system, unit):
    """The node, as the unit says: its command line, its user, its directory, its umask."""
    check(unit["User"] == "apus" and unit["Type"] == "notify", f"the unit is another one: {unit}")
    notifications = Notifications(system)
    began = time.monotonic()
    node = subprocess.Popen(
        system.command("NOTIFY_SOCKET=/run/notify", "sh", "-c",
                       f"umask {unit['UMask']}; cd {unit['WorkingDirectory']} && exec {unit['ExecStart']}",
                       user=unit["User"]),
        stderr=(system.path / "tmp/log").open("wb"))
    notifications.wait("READY=1")
    print(f"the node says that it is ready after {(time.monotonic() - began) * 1000:.0f} ms")
    return node, notifications


def memory(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return [int(re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE).group(1)) for name in ("VmRSS", "RssAnon")]


def first_event(system):
    """From one of the package's clients to another one."""
    with subprocess.Popen(
            system.command("apus", "sub", "-q", "1", "-C", "1", "-W", "60", "-t", "packages/+", "-v", user="nobody"),
            stdout=subprocess.PIPE, text=True) as listener:
        deadline = time.monotonic() + 60
        while "1 subscription(s)" not in system.run("apus", "status", user="nobody"):
            check(time.monotonic() < deadline, "nobody has subscribed")
        system.run("apus", "pub", "-q", "1", "-t", "packages/1", "-m", "arrived", user="nobody")
        heard = listener.communicate(timeout=90)[0]
    check(heard == "packages/1 arrived\n", f"heard {heard!r}")


def use(system, node, notifications):
    """The other protocols, reload and stop."""
    with urllib.request.urlopen("http://127.0.0.1:8222/readyz", timeout=5) as answer:
        check(answer.status == 200, f"/readyz answers {answer.status}")
    request = urllib.request.Request(
        "http://127.0.0.1:8080/TOPIC/packages/2", data=b"by HTTP", method="POST",
        headers={"Content-Type": "text/plain", "Apus-Retain": "true"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        check(answer.status // 100 == 2, f"a publish by HTTP answers {answer.status}")
    resident, anonymous = memory(node.pid)
    print(f"it holds {resident / 1024:.1f} MiB, {anonymous / 1024:.1f} of them its own")
    check(resident <= RESIDENT and anonymous <= ANONYMOUS, f"an idle node holds {resident} KB, {anonymous} its own")
    node.send_signal(signal.SIGHUP)
    notifications.wait("READY=1")
    node.send_signal(signal.SIGTERM)
    notifications.wait("STOPPING=1")
    check(node.wait(30) == 0, f"the node ended with {node.returncode}")


def completes(system):
    """What the shell offers after `apus sta` and Tab."""
    script = (". /usr/share/bash-completion/completions/apus; COMP_WORDS=(apus sta); COMP_CWORD=1; "
              "COMP_LINE='apus sta'; COMP_POINT=8; "
              "$(complete -p apus | sed 's/.*-F \\([^ ]*\\).*/\\1/') apus sta apus; echo \"${COMPREPLY[*]}\"")
    offered = system.run("bash", "-c", script, user="nobody").split()
    check(offered == ["status"], f"bash offers {offered}")


def users(system):
    """How docs/install.md has users made: by root, read by the node."""
    (system.path / "tmp/password").write_text("correct horse\n")
    system.run("apus", "user", "add", "--file", "/etc/apus/users", "--password-file", "/tmp/password", "olivia")
    system.run("chown", "apus:apus", "/etc/apus/users")
    system.run("apus", "user", "add", "--file", "/etc/apus/users", "--password-file", "/tmp/password", "pump-17")
    system.run("cat", "/etc/apus/users", user="apus")
    (system.path / "etc/apus/users").unlink()


def apt(system, *arguments):
    return system.run("apt-get", *RETRIES, "-q", "-y", "--no-install-recommends", *arguments)


def play(package, directory, tar):
    system = System(directory, tar)
    apt(system, "update")
    before = system.files()
    shutil.copy(package, system.path / "tmp/apus.deb")
    began = time.monotonic()
    apt(system, "install", "/tmp/apus.deb")
    installed = time.monotonic() - began
    leave_network()
    unit = service(unit_file(system.path))
    system.run("apus", "check", "/etc/apus/apus.yaml")
    node, notifications = start(system, unit)
    try:
        first_event(system)
        seconds = time.monotonic() - began
        print(f"from the package to the first event: {seconds:.1f} s, {installed:.1f} of them apt's")
        use(system, node, notifications)
    except BaseException:
        sys.stderr.write((system.path / "tmp/log").read_text()[-3000:])
        node.kill()
        raise
    check(seconds - installed < FIRST_EVENT, f"after apt, the first event took {seconds - installed:.1f} s")
    completes(system)
    users(system)
    enabled = system.path / "etc/systemd/system/multi-user.target.wants/apus.service"
    check(enabled.is_symlink(), "the service is not enabled")
    # Somebody's own configuration survives another installation, and the removal.
    config = system.path / "etc/apus/apus.yaml"
    config.write_text(config.read_text() + "log: { level: notice }\n")
    system.run("dpkg", "--force-confold", "-i", "/tmp/apus.deb")
    check("level: notice" in config.read_text(), "a new installation has replaced the configuration")
    system.run("dpkg", "--remove", "apus")
    check(config.exists() and not (system.path / "usr/bin/apus").exists(), "removed: program or configuration")
    system.run("dpkg", "--purge", "apus")
    system.run("apt-get", "-q", "-y", "autoremove", "--purge")
    (system.path / "tmp/log").unlink()
    # What apt keeps of the dependencies, because another package recommends it, is not ours.
    left = system.files() - before - system.owned()
    gone = before - system.files()
    check(not left and not gone, f"after the purge: left {sorted(left)}, gone {sorted(gone)}")


# With a real service manager.

PROBE = """\
#!/bin/sh
# Run by systemd inside; each line is a fact.
say() { echo "$1=$2" >>/root/facts; }
status() { systemctl show -p "$1" --value apus; }
say active "$(systemctl is-active apus)"
apus sub -t 'booted/#' -C 1 -W 20 >/root/heard &
until apus status | grep -q '1 subscription(s)'; do sleep 0.2; done
apus pub -t booted/1 -m arrived
wait
say heard "$(cat /root/heard)"
systemctl reload apus && say reload done
say forbidden "$(sed -n 's/^NoNewPrivs:.//p; s/^CapEff:.//p; s/^Seccomp:.//p' /proc/$(status MainPID)/status | xargs)"
echo 'mesh: { id: booted, listen: "0.0.0.0:7400", secret: "${MESH_SECRET}" }' >>/etc/apus/apus.yaml
echo 'MESH_SECRET=a secret of this test only' >/etc/apus/environment
chmod 600 /etc/apus/environment
systemctl restart apus
until apus status >/dev/null; do sleep 0.2; done
say mesh "$(apus topology | head -1)"
echo 'nonsense: 1' >>/etc/apus/apus.yaml
systemctl restart apus
say mistaken "$(status ExecMainStatus) $(status NRestarts)"
sed -i '$d' /etc/apus/apus.yaml
systemctl start apus
systemctl stop apus
say stopped "$(status Result) $(status ExecMainStatus)"
# Whatever libraries say that is not the node's log; but for the one line of a system that runs with niceness
# (docs/troubleshooting.md), as a test's may.
say noise "$(journalctl -t apus -o cat | grep -v -e '^{' -e nonsense -e 'Failed to set thread priority')"
systemctl --no-block poweroff
"""
FACTS = {
    "active": "active", "heard": "arrived", "reload": "done", "forbidden": "0000000000000000 1 2",
    "mesh": "fresh has joined the mesh 'booted'", "mistaken": "78 0", "stopped": "success 0", "noise": "",
}


def boot(package, tar):
    """The package in a system that systemd starts: what the unit allows is enough, and what it forbids is forbidden."""
    with tempfile.TemporaryDirectory(prefix="apus-boot-") as directory:
        path = pathlib.Path(directory)
        run("tar", "-C", directory, "-xf", str(tar))
        shutil.copy("/etc/resolv.conf", path / "etc/resolv.conf")
        (path / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (path / "etc/hostname").write_text("fresh\n")
        for file in pathlib.Path("/etc/apt/apt.conf.d").glob("*proxy*"):
            shutil.copy(file, path / "etc/apt/apt.conf.d")
        shutil.copy(package, path / "root/apus.deb")
        (path / "root/probe").write_text(PROBE)
        (path / "root/probe").chmod(0o755)
        (path / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
        (path / "etc/systemd/system/probe.service").write_text(
            "[Unit]\nAfter=apus.service multi-user.target\n[Service]\nExecStart=/root/probe\n"
            "[Install]\nWantedBy=multi-user.target\n")
        chroot = ["chroot", directory, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                  "DEBIAN_FRONTEND=noninteractive"]
        run(*chroot, "apt-get", *RETRIES, "-q", "update")
        run(*chroot, "apt-get", *RETRIES, "-q", "-y", "--no-install-recommends", "install", "systemd",
            "systemd-sysv", "/root/apus.deb")
        run(*chroot, "systemctl", "enable", "probe.service")
        # It boots, the probe runs, and it goes down by itself.
        said = subprocess.run(
            ["timeout", "600", "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network",
             "--machine=fresh", "--directory", directory, "--console=pipe", "--boot"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        file = path / "root/facts"
        lines = file.read_text().splitlines() if file.exists() else []
        facts = dict(line.split("=", 1) for line in lines if "=" in line)
        wrong = {key: facts.get(key) for key, value in FACTS.items() if facts.get(key) != value}
        check(not wrong, f"as a service: {wrong}\n{said.stdout[-2000:]}{said.stderr[-2000:]}")
    print("booted with systemd: started, used, reloaded, in a mesh, refused a mistake, stopped; without privileges")


def leave_network():
    """A loopback interface of our own: the ports of a node as it comes may be taken here."""
    check(ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0, "no network namespace")
    run("ip", "link", "set", "lo", "up")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--release", default="bookworm")
    arguments.add_argument("--no-boot", action="store_true")
    arguments.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    package = newest_package()
    if chosen.inside:
        return play(package, *chosen.inside)
    look_at(package)
    check(os.geteuid() == 0, "a chroot needs root")
    tar = archive(chosen.release)
    with tempfile.TemporaryDirectory(prefix="apus-package-") as directory:
        # Mounts and processes are of namespaces that end with the process inside, however it ends.
        status = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
             sys.executable, __file__, "--inside", directory, str(tar)], check=False).returncode
    check(status == 0, f"the test ended with {status}")
    if not chosen.no_boot:
        boot(package, tar)
    return f"{package.name} on {chosen.release}: installed, used, removed without a trace"


if __name__ == "__main__":
    try:
        said = main()
        if said:
            print(said)
    except Failure as failure:
        sys.exit(f"FAILED: {failure}")
