#!/usr/bin/env python3
"""Follows README.md, docs/tutorial.md, the pages of docs/how-to, docs/certificates.md and docs/security.md as a reader
would: runs every command, in several terminals and in a browser, and compares what is shown with what the text says.

    Interop/tutorial.py [FILE…]           all of them if none is named; a file of the repository, with its own copy of it
    Interop/tutorial.py --clone [FILE…]   the repository is a clone of what is committed, and `make run` builds in it.
                                          BUILD names a .build directory whose program is taken instead of building
    Interop/tutorial.py --installed       the program is the one in the path, of the package; `make run` is `apus run`
    Interop/tutorial.py --show [FILE…]    print what the commands show, and when each block was done

APUS names the program (default .build/release/apus); it stands at .build/release/apus of the copy. Without --clone
`make run` is `make -o node run`: the Makefile's own lines without the build. But for README.md and the tutorial, who
reads has apus in the path.

The documents use the default ports and stop nodes by their names, so everything runs in a network and among processes
of its own (unshare). That needs root, or a kernel that lets everybody make user namespaces. Hosts of example.org are
this machine.

What the words after a fence's language mean, beyond those of docs_snippets.py. In README.md, the tutorial and docs/how-to
a block without words is a mistake.

    bash test                  run it to its end; it must succeed
    bash test soon             the same, again until it prints what the text says, ten seconds at most
    bash test fails            run it to its end; it must not succeed
    bash dry                   a target of make that takes too long to be followed: make -n must know all of it
    bash everywhere            what the reader types in every terminal before anything else
    bash terminal-2            start it in the second terminal; what runs there gets a Ctrl-C first
    bash install               packages of Debian: each of them must be here; run with --clone, and finds them installed
    bash package               not run: packaging/debian_package.py installs the package and uses it in a fresh system
    yaml FILE                  is written to that file and must pass `apus check`; `yaml FILE unchecked` is no node's
    text picture               nothing to run
    text output                what the last `bash test` shows; … stands for anything
    text output terminal-2     what the second terminal shows, before long, from where it was compared last
    text browser               what to do in a browser, a line each: open ADDRESS, LABEL: TEXT, tick LABEL, press BUTTON
    text output browser        events that the page shows, before long: topic and payload, the newest first
    … within-60                this must have been seen so many seconds after the first command; the time is reported
"""

import argparse
import collections
import fcntl
import os
import pathlib
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

from docs_snippets import pattern, sections
from node import APUS, PATIENCE, ROOT, Failure, check, main, until

# What is said to be seen soon is judged where it is within so many seconds (within-N); here it is waited for.
SOON = PATIENCE
# Control sequences of a terminal: colours, bracketed paste.
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
WORDS = {"test", "soon", "fails", "dry", "everywhere", "install", "package", "picture", "output", "browser", "unchecked"}
STARTS_NODE = re.compile(r"^(.*[ /])?(apus run|make (-o node )?run)\b", re.MULTILINE)
TERMINAL = re.compile(r"terminal-\d+")
WITHIN = re.compile(r"within-(\d+)")


class Command:
    """A command in a terminal of its own."""

    def __init__(self, text, directory, environment):
        self.shown = bytearray()
        self.compared = 0
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        modes = termios.tcgetattr(theirs)
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, modes)
        self.terminal = ours
        self.process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text], stdin=theirs, stdout=theirs, stderr=theirs, cwd=directory,
            env=environment, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        while True:
            try:
                data = os.read(self.terminal, 65536)
            except OSError:
                data = b""  # nobody has the terminal open any more
            if not data:
                # Whoever is still about to end must not be hung up.
                self.process.wait()
                return os.close(self.terminal)
            self.shown += data

    def text(self):
        return ESCAPES.sub(b"", bytes(self.shown)).decode(errors="replace").replace("\r\n", "\n")

    def finish(self):
        """Waits for its end; its status."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.end()
            raise Failure(f"not done in {PATIENCE} s; it shows\n{self.text()}") from None
        self.reader.join(5)
        return status

    def is_ready(self):
        """A node when it says so, others when they have shown something or have been connected for a while."""
        check(self.process.poll() is None, f"ended: {self.text()}")
        if STARTS_NODE.search(self.process.args[-1]):
            return " ready: " in self.text()
        if self.shown:
            return True
        if self.is_connected():
            # What it does first on its connection, such as to subscribe, takes a moment.
            time.sleep(3)
            return True
        return False

    def is_connected(self):
        """Whether one of its processes has a TCP connection."""
        connections = set()
        for table in ("tcp", "tcp6"):
            for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "01":
                    connections.add(f"socket:[{fields[9]}]")
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(process.name)) != self.process.pid:
                    continue
                for descriptor in (process / "fd").iterdir():
                    if os.readlink(descriptor) in connections:
                        return True
            except OSError:
                continue
        return False

    def interrupt(self):
        """Ctrl-C, as often as somebody would press it."""
        for _ in range(3):
            if self.process.poll() is not None:
                return
            os.write(self.terminal, b"\x03")
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                continue
        check(self.process.poll() is not None, f"does not end with Ctrl-C: {self.text()}")

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Page:
    """The node's page in a browser."""

    def __init__(self):
        from browser import open_browser

        self.browser = open_browser()

    def do(self, line):
        verb, _, rest = line.partition(" ")
        if verb == "open":
            self.browser.get(rest)
            until(self.is_live, lambda: f"the page is not live: {self.browser.page_source[:1000]}")
        elif verb == "press":
            self.browser.find_element("xpath", f"//button[normalize-space()='{rest}']").click()
        elif verb == "tick":
            self.labelled(rest).click()
        else:
            label, colon, value = line.partition(": ")
            check(colon, f"what is to be done in the browser by {line!r}?")
            field = self.labelled(label)
            field.clear()
            field.send_keys(value)

    def is_live(self):
        return self.browser.find_element("id", "state").get_attribute("data-state") == "live"

    def labelled(self, label):
        found = self.browser.find_elements("xpath", f"//label[starts-with(normalize-space(), '{label}')]")
        check(len(found) == 1, f"the page has {len(found)} fields {label!r}")
        name = found[0].get_attribute("for")
        return self.browser.find_element("id", name) if name else found[0]

    def text(self):
        rows = self.browser.execute_script(
            "return [...document.querySelectorAll('#rows > .row')].map(row =>"
            " row.querySelector('.topic').textContent + ' ' + row.querySelector('.payload').textContent)")
        return "\n".join(rows)


class Reader:
    """Somebody who follows a document from its beginning to its end."""

    def __init__(self, path, directory, arguments):
        self.path = path
        # Documents that say how to come by the program, and documents in which everything is to be followed.
        self.is_first = path.name in ("README.md", "tutorial.md")
        self.is_strict = self.is_first or path.parent.name == "how-to"
        self.directory = pathlib.Path(directory)
        self.is_clone = arguments.clone
        self.is_installed = arguments.installed
        self.has_built = arguments.built is not None
        self.is_shown = arguments.show
        self.environment = {
            name: value for name, value in os.environ.items()
            if not name.startswith(("APUS", "MAKE", "NO_COLOR", "BUILD")) and name != "PYTHONPATH"}
        self.environment.update(TERM="xterm", LC_ALL="C.UTF-8", PS1="$ ")
        # A reader has Debian's Python, for which Debian's packages are, and no environment of these tests.
        self.environment.pop("VIRTUAL_ENV", None)
        programs = ["/usr/bin", os.environ["PATH"]]
        if not self.is_first:
            programs.insert(0, str(self.directory / ".build/release"))
        self.environment["PATH"] = os.pathsep.join(programs)
        self.everywhere = ""
        self.terminals = {}
        self.pages = []
        self.last = None
        self.began = None
        self.counts = collections.Counter()
        self.reached = []

    def follow(self):
        try:
            for chapter in sections(self.path, every=self.is_strict):
                for place, block in enumerate(chapter):
                    following = chapter[place + 1] if place + 1 < len(chapter) else None
                    try:
                        self.step(block, following)
                        self.take_time(block)
                    except Failure as failure:
                        raise Failure(f"{block.place}: {failure}{self.what_terminals_show()}") from None
            if self.is_shown:
                print(self.what_terminals_show())
        finally:
            for page in self.pages:
                page.browser.quit()
            for command in self.terminals.values():
                command.end()

    def step(self, block, following):
        words = {word for word in block.words if not WITHIN.fullmatch(word)}
        if block.language == "yaml":
            return self.write(block, words)
        known = {word for word in words if word in WORDS or TERMINAL.fullmatch(word)}
        check(words and words == known, f"unknown words: {block.language} {' '.join(block.words) or '(none)'}")
        if block.language == "text":
            return self.text(block, words)
        check(block.language == "bash", f"blocks of {block.language or 'no language'} cannot be followed")
        terminal = next((word for word in words if TERMINAL.fullmatch(word)), None)
        if terminal:
            check(words == {terminal}, f"{' '.join(words)} together?")
            self.start(terminal, block.text)
        elif words == {"everywhere"}:
            self.everywhere += block.text + "\n"
            self.run(block.text, succeeds=True)
        elif words == {"dry"}:
            self.run(re.sub(r"^make ", "make -n ", block.text, flags=re.MULTILINE), succeeds=True)
        elif words == {"install"}:
            self.are_installed(block.text)
        elif words == {"package"}:
            self.counts["left to the package's test"] += 1
        elif words == {"test", "soon"}:
            check(following and following.words >= {"output"}, "soon, but what?")
            self.run_until(block.text, following.text)
        else:
            check(words in ({"test"}, {"test", "fails"}), f"{' '.join(words)} together?")
            self.run(block.text, succeeds="fails" not in words)

    def write(self, block, words):
        (name,) = words - {"unchecked"}
        (self.directory / name).write_text(block.text + "\n")
        self.counts["files"] += 1
        if "unchecked" not in words:
            self.run(f"apus check {name}", succeeds=True)

    def here(self, text):
        if self.began is None:
            self.began = time.monotonic()
        if self.is_installed:
            text = re.sub(r"^make run(?: ARGS='(.*)')?$", r"apus run \1", text, flags=re.MULTILINE)
            text = text.replace(".build/release/apus ", "apus ")
        elif not self.has_built:
            text = re.sub(r"^make run\b", "make -o node run", text, flags=re.MULTILINE)
        # What a reader waits for takes longer on a machine that does other work as well.
        text = re.sub(r"\bsleep (\d+)(?![.\d])", lambda found: f"sleep {int(found[1]) + 4}", text)
        return self.everywhere + text

    def command(self, text):
        self.counts["commands"] += 1
        return Command(self.here(text), self.directory, self.environment)

    def run(self, text, succeeds):
        self.last = self.command(text)
        status = self.last.finish()
        check((status == 0) == succeeds, f"ended with {status}: {self.last.text()}")

    def run_until(self, text, wanted):
        deadline = time.monotonic() + SOON
        while True:
            self.last = Command(self.here(text), self.directory, self.environment)
            status = self.last.finish()
            if status == 0 and pattern(wanted).fullmatch(self.last.text().strip()):
                break
            check(time.monotonic() < deadline, f"shows, still after {SOON} s\n{self.last.text()}\ninstead of\n{wanted}")
            time.sleep(0.1)
        self.counts["commands"] += 1

    def start(self, terminal, text):
        if terminal in self.terminals:
            self.terminals[terminal].interrupt()
        command = self.terminals[terminal] = self.command(text)
        until(command.is_ready, lambda: f"not ready; it shows\n{command.text()}", PATIENCE)

    def are_installed(self, text):
        packages = [word for line in text.splitlines() if "apt-get install" in line
                    for word in line.split("#")[0].split("install", 1)[1].split() if not word.startswith("-")]
        check(packages, "no packages are named")
        for package in packages:
            found = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True)
            check(found.stdout == b"installed", f"the package {package} is not here")
        if self.is_clone:
            text = text.replace("sudo ", "").replace("apt-get install", "apt-get install -y --no-upgrade")
            self.run(text, succeeds=True)
        self.counts["packages"] += len(packages)

    def text(self, block, words):
        terminal = next((word for word in words if TERMINAL.fullmatch(word)), None)
        if words == {"picture"}:
            return
        if words == {"browser"}:
            for line in block.text.splitlines():
                if line.startswith("open "):
                    self.pages.append(Page())
                self.pages[-1].do(line)
                self.counts["steps in a browser"] += 1
            return
        check(words in ({"output"}, {"output", "browser"}, {"output", terminal}), f"{' '.join(words)} together?")
        wanted = pattern(block.text)
        if "browser" in words:
            self.wait_for(wanted, self.pages[-1].text, block)
        elif terminal:
            check(terminal in self.terminals, f"nothing runs in {terminal}")
            shown = self.terminals[terminal]
            self.wait_for(wanted, lambda: shown.text()[shown.compared:].strip(), block)
            shown.compared = len(shown.text())
        else:
            check(self.last is not None, "nothing has been run")
            shown = self.last.text().strip()
            check(wanted.fullmatch(shown), f"shows\n{shown}\ninstead of\n{block.text}")
        self.counts["outputs"] += 1

    @staticmethod
    def wait_for(wanted, text, block):
        until(lambda: wanted.fullmatch(text()), lambda: f"shows\n{text()}\ninstead of\n{block.text}")

    def take_time(self, block):
        seconds = time.monotonic() - (self.began or time.monotonic())
        if self.is_shown:
            print(f"{seconds:7.1f} s  {block.place} {block.language} {' '.join(sorted(block.words))}", flush=True)
            if block.words & {"test", "everywhere"}:
                print(self.last.text(), flush=True)
        for word in block.words:
            limit = WITHIN.fullmatch(word)
            if limit:
                check(seconds <= int(limit[1]), f"seen after {seconds:.1f} s")
                self.reached.append(f"{block.place} after {seconds:.1f} s of {limit[1]}")

    def what_terminals_show(self):
        return "".join(
            f"\n--- {name} shows\n{command.text()[-1500:]}" for name, command in self.terminals.items())


def enter_own_namespaces():
    """Goes on in a network of its own, where the default ports are free, and among processes of its own."""
    command = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        command += ["--map-root-user"]
    try:
        works = subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Failure(f"{error.filename} is needed: scripts/packages.sh interop") from None
    check(works.returncode == 0, f"this needs root, or user namespaces: {works.stderr.strip()}")
    os.execvp(command[0], [*command, sys.executable, *sys.argv, "--inside"])


def copy_repository(directory, is_clone, is_installed=False):
    """What a reader has after `git clone`; with the program, unless it is to be built."""
    if is_clone:
        quiet = ["git", "-c", "safe.directory=*", "clone", "--quiet", "--no-hardlinks"]
        subprocess.run([*quiet, f"file://{ROOT}", str(directory)], check=True)
    else:
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others",
             "--exclude-standard"], check=True, capture_output=True)
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, directory / name, follow_symlinks=False)
    if is_installed or (is_clone and "BUILD" not in os.environ):
        return
    program = pathlib.Path(os.environ["BUILD"], "release", "apus") if is_clone else pathlib.Path(APUS)
    check(program.exists(), f"{program} is not there")
    (directory / ".build/release").mkdir(parents=True)
    (directory / ".build/release/apus").symlink_to(program.resolve())


def documents(names):
    if names:
        return [pathlib.Path(name).resolve() for name in names]
    docs = ROOT / "docs"
    return [ROOT / "README.md", docs / "tutorial.md", *sorted((docs / "how-to").glob("*.md")),
            docs / "certificates.md", docs / "security.md"]


def example_hosts(names):
    """The hosts of example.org that the documents name."""
    return sorted({host for path in documents(names) for host in re.findall(r"[\w-]+\.example\.org", path.read_text())})


def build(directory):
    """Builds as a reader's first command does, but where there is a network for the packages that it needs."""
    began = time.monotonic()
    built = subprocess.run(["make", "node"], cwd=directory, capture_output=True, text=True)
    check(built.returncode == 0, f"make node: {built.stdout[-3000:]}{built.stderr[-3000:]}")
    print(f"the clone was built in {time.monotonic() - began:.0f} s", flush=True)


def run(arguments):
    paths = documents(arguments.files)
    counts = collections.Counter()
    failures = []
    reached = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            check(not re.match(r"\s+```|~~~", line), f"{path.name}:{number}: a fence is not at the line's beginning")
        with tempfile.TemporaryDirectory() as scratch:
            if arguments.built:
                # What was built is good for this directory only: the documents take turns in it.
                directory = pathlib.Path(arguments.built)
                subprocess.run(["git", "clean", "-fdxq", "-e", ".build", "-e", "Package.resolved"], cwd=directory, check=True)
            else:
                directory = pathlib.Path(scratch, "apus")
                directory.mkdir()
                copy_repository(directory, arguments.clone, arguments.installed)
            if path.is_relative_to(ROOT):
                path = directory / path.relative_to(ROOT)
            reader = Reader(path, directory, arguments)
            try:
                reader.follow()
            except Failure as failure:
                failures.append(str(failure))
            counts += reader.counts
            reached += reader.reached
    check(not failures, "\n\n".join(failures))
    done = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"{len(paths)} documents: {done}; {'; '.join(reached)}"


def begin(arguments):
    if arguments.inside:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with tempfile.NamedTemporaryFile("w") as hosts:
            hosts.write("".join(f"127.0.0.1 {name}\n" for name in ["localhost", *example_hosts(arguments.files)]))
            hosts.flush()
            subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)
            return run(arguments)
    check(not arguments.installed or shutil.which("apus"), "there is no apus in the path")
    for path in documents(arguments.files):
        check(path.exists(), f"{path} is not there")
    if arguments.clone and not arguments.built and "BUILD" not in os.environ:
        # The one build serves all documents; it needs the network, which there is none of inside.
        directory = tempfile.mkdtemp(prefix="apus-clone-")
        try:
            copy_repository(pathlib.Path(directory), is_clone=True)
            build(directory)
            command = [sys.executable, *sys.argv, "--built", directory]
            status = subprocess.run(command).returncode
        finally:
            shutil.rmtree(directory)
        sys.exit(status)
    return enter_own_namespaces()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--clone", action="store_true", help="follow them in a clone")
    parser.add_argument("--installed", action="store_true", help="follow them with the program in the path")
    parser.add_argument("--show", action="store_true", help="print what the commands show, and when")
    parser.add_argument("--built", metavar="DIRECTORY", help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    sys.exit(main(begin, parser.parse_args()))
