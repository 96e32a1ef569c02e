#!/usr/bin/env python3
"""Does what docs/security.md and docs/certificates.md say, in order, as somebody would who follows them, and compares
what their commands print with what the text says.

    Interop/security_snippets.py [FILE…]

Each document has a directory of its own, with a copy of mesh-configs in it. Ports become free ones, and the hosts of
the examples this machine. `pkill -HUP -x apus` goes to the nodes of the document.

What the words after a fence's language mean:

    yaml FILE          is written to that file and must pass `apus check`
    bash test          run it to its end
    bash test fails    the same, and its last command must not succeed
    bash background    start it; it is ready when it has printed something, a node when it says so, and is ended with
                       its chapter (at the next heading of the second level)
    text output        what the last snippet has printed; … stands for anything
"""

import collections
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from docs_snippets import Running, free_port, pattern, sections, wait
from node import APUS, ROOT, Failure, check, main

# Ports that documents and the files in mesh-configs name.
PORT = re.compile(r"(:|-p )(1883|8883|8884|8885|5671|5672|8080|8443|8222|8223|7400|7401)\b")


class Step(Running):
    """A snippet that runs in the document's directory."""

    def __init__(self, block, directory, environment):
        self.block = block
        self.output = tempfile.TemporaryFile()
        self.errors = self.output if "background" not in block.words else tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", block.text], stdout=self.output, stderr=self.errors,
            stdin=subprocess.DEVNULL, start_new_session=True, cwd=directory, env=environment,
        )

    def is_ready(self):
        check(self.process.poll() is None, f"{self.block.place}: ended: {self.text()}{self.read(self.errors)}")
        if "apus run" in self.block.text:
            return '"ready"' in self.read(self.errors)
        return self.text() != ""

    def end(self):
        """Ends the process and what it has started, a node in its own way."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Follower:
    """Somebody who follows a document from its beginning to its end."""

    def __init__(self, path, directory):
        self.path = path
        self.directory = pathlib.Path(directory)
        self.ports = {}
        self.running = []
        self.counts = collections.Counter()
        programs = self.directory / ".bin"
        programs.mkdir()
        (programs / "apus").symlink_to(pathlib.Path(APUS).resolve())
        self.environment = dict(os.environ, PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
        self.environment = {
            name: value for name, value in self.environment.items() if not name.startswith("APUS")}
        shutil.copytree(ROOT / "mesh-configs", self.directory / "mesh-configs")
        for file in (self.directory / "mesh-configs").rglob("*.yaml"):
            file.write_text(self.here(file.read_text()))

    def here(self, text):
        """The text with the ports, hosts and paths of this run."""
        def port(found):
            return found[1] + str(self.ports.setdefault(found[2], free_port()))

        text = PORT.sub(port, text)
        text = re.sub(r"(node-\d|mqtt|web)\.example\.org:(?=\d)", "localhost:", text)
        text = text.replace("--host node-1.example.org", "--host localhost").replace("/var/lib/apus", "./node-2-data")
        # Each runs in a session of its own.
        nodes = ",".join(str(step.process.pid) for step in self.running if "apus run" in step.block.text)
        return text.replace("pkill -HUP -x apus", f"pkill -HUP -x apus -s {nodes or 'none'}")

    def follow(self):
        try:
            for chapter in sections(self.path, "## "):
                last = None
                for block in chapter:
                    last = self.step(block._replace(text=self.here(block.text)), last)
                self.end()
        finally:
            self.end()

    def step(self, block, last):
        if block.language == "text":
            check(block.words == {"output"}, f"{block.place}: unknown words {set(block.words)}")
            self.compare(block, last)
            return last
        if block.language == "yaml":
            (name,) = block.words
            (self.directory / name).write_text(block.text + "\n")
            block = block._replace(text=f"apus check {name}", words=frozenset({"test"}))
        check(
            block.language in ("bash", "yaml") and block.words in ({"test"}, {"test", "fails"}, {"background"}),
            f"{block.place}: unknown words {block.language} {set(block.words)}",
        )
        step = Step(block, self.directory, self.environment)
        self.counts["snippets"] += 1
        if "background" in block.words:
            self.running.append(step)
            wait(step.is_ready, lambda: f"{block.place}: not ready: {step.text()}{step.read(step.errors)}")
        elif "fails" in block.words:
            check(step.process.wait(60) != 0, f"{block.place}: should have failed: {step.text()}")
        else:
            step.finish()
        return step

    def compare(self, block, last):
        check(last is not None, f"{block.place}: nothing has been run")
        wanted = pattern(block.text)
        check(
            wanted.fullmatch(last.text().strip()),
            f"{block.place}: printed\n{last.text()}\ninstead of\n{block.text}")
        self.counts["outputs"] += 1

    def end(self):
        for step in reversed(self.running):
            step.end()
        self.running.clear()


def test():
    names = sys.argv[1:] or [ROOT / "docs" / name for name in ("certificates.md", "security.md")]
    counts = collections.Counter()
    failures = []
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            follower = Follower(pathlib.Path(name), directory)
            try:
                follower.follow()
            except Failure as failure:
                failures.append(str(failure))
            counts += follower.counts
    check(not failures, "\n\n".join(failures))
    return f"{counts['snippets']} snippets, {counts['outputs']} outputs compared"


if __name__ == "__main__":
    main(test)
