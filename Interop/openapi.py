#!/usr/bin/env python3
"""The interface for events is what its description says: the node serves the very file of the documents, and
schemathesis, which makes requests from a description, right ones and wrong ones, finds no answer that it does not know.

Streams do not end and WebSockets are no HTTP: both are left out here. Arguments are handed to schemathesis.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import yaml

from node import ROOT, Failure, Node, check, main

DESCRIPTION = ROOT / "docs/openapi.yaml"
# Header fields that the description does not name are nobody's mistake in HTTP.
SETTINGS = "[generation]\nallow-extra-parameters = false\n"


def get(address):
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read()


def explore(node, *arguments):
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    command = [
        str(program), "run", str(DESCRIPTION), "--url", f"http://127.0.0.1:{node.http_port}",
        "--exclude-tag", "streams", "--exclude-tag", "websocket", "--phases", "examples,coverage,fuzzing",
        "--request-timeout", "10", "--seed", "1", "--no-color", *arguments, *sys.argv[1:],
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(ROOT / "Interop")}
    # It leaves notes where it runs.
    with tempfile.TemporaryDirectory() as scratch:
        (pathlib.Path(scratch) / "schemathesis.toml").write_text(SETTINGS)
        done = subprocess.run(
            command, cwd=scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    if done.returncode != 0:
        raise Failure(done.stdout)
    cases = [line.strip() for line in done.stdout.splitlines() if "generated" in line]
    return cases[-1] if cases else "nothing generated"


def test():
    with Node(http=True) as node:
        address = f"http://127.0.0.1:{node.http_port}"
        check(get(f"{address}/openapi.yaml").decode() == DESCRIPTION.read_text(), "the node serves another description")
        check(
            json.loads(get(f"{address}/openapi.json")) == yaml.safe_load(DESCRIPTION.read_text()),
            "openapi.json is not openapi.yaml: run scripts/openapi-json.py",
        )
        # A batch is accepted although items of it are refused, so there only the right ones can be judged.
        batch = ["--include-path", "/events"]
        return "; ".join(
            [explore(node, "--exclude-path", "/events"), explore(node, *batch, "--mode", "positive")]
        )


if __name__ == "__main__":
    main(test)
