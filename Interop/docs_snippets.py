#!/usr/bin/env python3
"""Runs the snippets of the tutorials against a node and compares what they print with what the text says.

    Interop/docs_snippets.py [FILE…]      docs/rest.md, docs/websocket.md and docs/amqp.md if none is named

APUS_HTTP, APUS_MQTT and APUS_AMQP (ADDRESS:PORT) name the listeners of a running node; without them one is started. In
the snippets the addresses are the defaults, ports 8080, 1883 and 5672 of 127.0.0.1, and replaced before they run.

What the words after a fence's language mean:

    bash test, python test, javascript test    run it to its end
    javascript browser                         the same, in a page of the node
    … background                               start it; it is ready when it has printed something, and is ended with
                                               its section (at the next heading)
    text output                                what the last snippet has printed; … stands for anything
    text output background                     what the last background snippet prints before long
"""

import collections
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from node import PATIENCE, ROOT, Failure, Node, check, main, until

LANGUAGES = {"bash": "sh", "python": "py", "javascript": "mjs"}
Block = collections.namedtuple("Block", "place language words text")


def sections(path, every=False):
    """The blocks of a document that have words, or all of them, in a list for each heading."""
    found = [[]]
    fence = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if fence:
            if line == "```":
                if fence[2] or every:
                    found[-1].append(Block(*fence, "\n".join(lines)))
                fence = None
            else:
                lines.append(line)
        elif line.startswith("```"):
            language, *words = line[3:].split() or [""]
            fence, lines = (f"{path.name}:{number}", language, frozenset(words)), []
        elif line.startswith("#"):
            found.append([])
    check(fence is None, f"{path.name}: a fence is not closed")
    return [blocks for blocks in found if blocks]


def pattern(text):
    return re.compile(".*?".join(re.escape(part) for part in text.strip().split("…")), re.DOTALL)


class Running:
    """A snippet in a process of its own."""

    def __init__(self, block, command):
        self.block = block
        self.output = tempfile.TemporaryFile()
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdout=self.output, stderr=self.errors, stdin=subprocess.DEVNULL, start_new_session=True
        )

    @staticmethod
    def read(file):
        # Not seek and read: its process writes at the same offset.
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")

    def text(self):
        return self.read(self.output)

    def finish(self):
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.end()
            raise Failure(f"{self.block.place}: not done in {PATIENCE} s; printed {self.text()!r}") from None
        check(status == 0, f"{self.block.place}: ended with {status}: {self.text()}{self.read(self.errors)}")

    def is_ready(self):
        check(self.process.poll() is None, f"{self.block.place}: ended: {self.text()}{self.read(self.errors)}")
        return self.text() != ""

    def end(self):
        """Ends the process and what it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class InBrowser:
    """A snippet in a page of the node, in a tab of its own."""

    def __init__(self, block, browser, address):
        self.block = block
        self.browser = browser
        browser.switch_to.new_window("tab")
        self.tab = browser.current_window_handle
        browser.get(address)
        browser.execute_script(
            "window.printed = []; window.state = 'running';"
            "const console = { log: (...words) => window.printed.push(words.join(' ')) };"
            "(async () => {\n" + block.text + "\n})().then(() => window.state = 'done',"
            " (error) => window.state = String(error))"
        )

    def ask(self, name):
        self.browser.switch_to.window(self.tab)
        return self.browser.execute_script(f"return window.{name}")

    def text(self):
        return "\n".join(self.ask("printed"))

    def finish(self):
        until(lambda: self.ask("state") != "running", lambda: f"{self.block.place}: not done: {self.text()!r}")
        check(self.ask("state") == "done", f"{self.block.place}: {self.ask('state')}")

    def is_ready(self):
        state = self.ask("state")
        check(state in ("running", "done"), f"{self.block.place}: {state}")
        return self.text() != ""

    def end(self):
        self.browser.switch_to.window(self.tab)
        self.browser.close()
        self.browser.switch_to.window(self.browser.window_handles[0])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Runner:
    def __init__(self, http, mqtt, amqp, scratch):
        self.http = http
        self.addresses = {"8080": http, "1883": mqtt, "5672": amqp, "9000": f"127.0.0.1:{free_port()}"}
        self.scratch = pathlib.Path(scratch)
        self.browser = None
        self.node_program = shutil.which("node") or shutil.which("nodejs")
        self.counts = collections.Counter()

    def here(self, text):
        """The snippet with the addresses of this node, in each of the ways in which snippets spell them."""
        for port, address in self.addresses.items():
            host, actual = address.rsplit(":", 1)
            text = text.replace(f"127.0.0.1:{port}", address)
            text = text.replace(f"127.0.0.1 -p {port}", f"{host} -p {actual}")
            text = text.replace(f'"127.0.0.1", {port}', f'"{host}", {actual}')
        return text

    def start(self, block):
        block = block._replace(text=self.here(block.text))
        if "browser" in block.words:
            if self.browser is None:
                from browser import open_browser

                self.browser = open_browser()
            return InBrowser(block, self.browser, f"http://{self.http}/")
        file = self.scratch / f"snippet.{LANGUAGES[block.language]}"
        file.write_text(block.text + "\n")
        commands = {
            "bash": ["bash", "-euo", "pipefail"],
            "python": [sys.executable, "-u"],
            "javascript": [self.node_program],
        }
        return Running(block, [*commands[block.language], str(file)])

    def section(self, blocks):
        last = background = None
        started = []
        try:
            for block in blocks:
                if block.language == "text":
                    check("output" in block.words, f"{block.place}: unknown words {set(block.words)}")
                    self.compare(block, background if "background" in block.words else last)
                    continue
                check(
                    block.language in LANGUAGES and block.words <= {"test", "browser", "background"},
                    f"{block.place}: unknown words {block.language} {set(block.words)}",
                )
                if block.language == "javascript" and "test" in block.words and not self.node_program:
                    self.counts["skipped"] += 1
                    last = background = None
                    continue
                running = self.start(block)
                self.counts["snippets"] += 1
                if "background" in block.words:
                    started.append(running)
                    until(running.is_ready, lambda: f"{running.block.place}: has printed nothing")
                    background = running
                else:
                    if isinstance(running, InBrowser):
                        started.append(running)
                    running.finish()
                    last = running
        finally:
            for running in reversed(started):
                running.end()

    def compare(self, block, running):
        if running is None:
            return
        wanted = pattern(block.text)
        failure = lambda: f"{block.place}: printed\n{running.text()}\ninstead of\n{block.text}"  # noqa: E731
        if "background" in block.words:
            until(lambda: wanted.fullmatch(running.text().strip()), failure)
        else:
            check(wanted.fullmatch(running.text().strip()), failure())
        self.counts["outputs"] += 1

    def end(self):
        if self.browser is not None:
            self.browser.quit()


def run(paths, http, mqtt, amqp):
    failures = []
    with tempfile.TemporaryDirectory() as scratch:
        runner = Runner(http, mqtt, amqp, scratch)
        try:
            for path in paths:
                for blocks in sections(path):
                    try:
                        runner.section(blocks)
                    except Failure as failure:
                        failures.append(str(failure))
        finally:
            runner.end()
    check(not failures, "\n\n".join(failures))
    counts = runner.counts
    skipped = f", {counts['skipped']} skipped: there is no Node.js" if counts["skipped"] else ""
    return f"{counts['snippets']} snippets, {counts['outputs']} outputs compared{skipped}"


def test():
    names = sys.argv[1:] or [ROOT / "docs" / name for name in ("rest.md", "websocket.md", "amqp.md")]
    paths = [pathlib.Path(name) for name in names]
    if "APUS_HTTP" in os.environ:
        mqtt, amqp = os.environ.get("APUS_MQTT", "127.0.0.1:1883"), os.environ.get("APUS_AMQP", "127.0.0.1:5672")
        return run(paths, os.environ["APUS_HTTP"], mqtt, amqp)
    with Node(http=True, amqp=True) as node:
        ports = node.http_port, node.port, node.amqp_port
        return run(paths, *(f"127.0.0.1:{port}" for port in ports))


if __name__ == "__main__":
    main(test)
