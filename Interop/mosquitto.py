"""Debian's mosquitto for the tests: a broker on a free port, ended with the block, that can be killed and comes back."""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from node import Failure

PROGRAM = os.environ.get("MOSQUITTO", "/usr/sbin/mosquitto")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Mosquitto:
    """With `extra` as further lines of its configuration, where DIRECTORY is its own. `kept` lets it write its
    sessions down."""

    def __init__(self, extra="", port=None, anonymous=True, kept=True):
        self.port = port or free_port()
        self.extra, self.anonymous, self.kept = extra, anonymous, kept
        self.process = None

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.base = pathlib.Path(self.directory.name)
        self.start()
        return self

    def start(self):
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {'true' if self.anonymous else 'false'}",
                 "log_dest file " + str(self.base / "log"), "log_type all", "max_queued_messages 0",
                 "set_tcp_nodelay true"]
        if os.getuid() == 0:
            lines.append("user root")
        if self.kept:
            # Written after every change: what a kill takes away then is mosquitto's last moment only.
            lines += ["persistence true", f"persistence_location {self.base}/", "autosave_on_changes true",
                      "autosave_interval 1"]
        config = self.base / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n" + self.extra.replace("DIRECTORY", str(self.base)) + "\n")
        self.process = subprocess.Popen([PROGRAM, "-c", str(config)], stdout=subprocess.DEVNULL,
                                        stderr=(self.base / "errors").open("ab"))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise Failure("mosquitto did not start: " + (self.base / "errors").read_text()[:800])

    def kill(self):
        """Ends it as a power failure would."""
        self.process.kill()
        self.process.wait()

    def log(self):
        path = self.base / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __exit__(self, kind, value, trace):
        if kind is not None:
            lines = [line for line in self.log().splitlines(True) if "isconnect" in line or "rror" in line]
            sys.stderr.write("".join(lines[-5:]))
            if os.environ.get("KEEP_LOG"):
                pathlib.Path(os.environ["KEEP_LOG"]).write_text(self.log())
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.directory.cleanup()
