#!/usr/bin/env python3
"""The reference says what the program does: commands, keys of the configuration, metrics and the descriptions of both
HTTP interfaces are compared with the program and with a node that is in a mesh. Limits have their own table, whose keys
must be those of the configuration. And links into a document lead to a heading that is there."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request

import yaml

from node import APUS, ROOT, Failure, Node, check, main

DOCS = ROOT / "docs"
MESH = "mesh: { listen: 127.0.0.1:0, links: [LINKS] }\n"
# Metrics of bridges are there with the first one, whether it reaches its broker or not.
BRIDGE = 'bridges: [{ name: nowhere, to: "127.0.0.1:1", topics: [{ filter: "x", direction: out }] }]\n'
# Metrics of a link are there once the node has one.
DEADLINE = 60


def commands():
    """docs/commands.md is what scripts/commands-doc.py would write now."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/commands-doc.py"), "--check"], env={**os.environ, "APUS": APUS},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check(done.returncode == 0, done.stdout)
    return (DOCS / "commands.md").read_text().count("# apus ")


def keys():
    """The table of docs/configuration.md is what `apus check --keys` prints, and every limit has a row in limits.md."""
    printed = subprocess.run([APUS, "check", "--keys"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    rows = re.findall(r"^\| `([^`]+)` \|.*$", printed, re.M)
    check(len(rows) > 100, f"apus check --keys has {len(rows)} keys")
    text = (DOCS / "configuration.md").read_text()
    if printed not in text:
        there = set(text.splitlines())
        missing = [line for line in printed.splitlines() if line not in there]
        raise Failure("docs/configuration.md is not what `apus check --keys` prints:\n" + "\n".join(missing or rows))
    stale = set(re.findall(r"^\| `([a-z_.\[\]<>]+)` \|.* \| (?:yes|restart) \|$", text, re.M)) - set(rows)
    check(not stale, f"docs/configuration.md has keys that are not there: {sorted(stale)}")
    limits = {row.removeprefix("limits.") for row in rows if row.startswith("limits.")} - {"queue_full"}
    explained = set(re.findall(r"^\| `(\w+)` \| `\w+` \|", (DOCS / "limits.md").read_text(), re.M))
    check(limits == explained, f"docs/limits.md and the configuration differ: {sorted(limits ^ explained)}")
    return len(rows)


def metrics(node):
    """Names and types of docs/metrics.md are those of /metrics, labels too where a metric has values."""
    deadline = time.monotonic() + DEADLINE
    while "apus_mesh_link_up{" not in (text := get(f"http://{node.admin}/metrics").decode()):
        check(time.monotonic() < deadline, "the two nodes have no link")
        time.sleep(0.1)
    served = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    written, labels, above = {}, {}, set()
    for name, kind, its in re.findall(
            r"^\| `((?:apus|process)_\w+)` \| (\w+) \|([^|]*)\|", (DOCS / "metrics.md").read_text(), re.M):
        check(name not in written, f"docs/metrics.md has {name} twice")
        if "the same" not in its:
            above = set(re.findall(r"`(\w+)`", its))
        written[name], labels[name] = kind, above
    check(len(written) > 50, f"docs/metrics.md has {len(written)} metrics")
    check(set(written) == set(served), f"docs/metrics.md and /metrics differ: {sorted(set(written) ^ set(served))}")
    for name, kind in served.items():
        check(written[name] == kind, f"{name} is a {kind}, docs/metrics.md says {written[name]}")
    for name, its in re.findall(r"^(\w+)\{([^}]*)\} ", text, re.M):
        name = name if name in served else re.sub(r"_(bucket|sum|count)$", "", name)
        found = set(re.findall(r'(\w+)="', its)) - {"le"}
        check(found <= labels[name], f"{name} has the labels {sorted(found)}, docs/metrics.md says {labels[name]}")
    return len(served)


def descriptions(node):
    """Both interfaces serve the very files of the documents."""
    for file, address in (("openapi.yaml", f"127.0.0.1:{node.http_port}"), ("openapi-admin.yaml", node.admin)):
        text = (DOCS / file).read_text()
        check(get(f"http://{address}/openapi.yaml").decode() == text, f"the node serves another docs/{file}")
    served = json.loads(get(f"http://127.0.0.1:{node.http_port}/openapi.json"))
    check(served == yaml.safe_load((DOCS / "openapi.yaml").read_text()), "openapi.json is not openapi.yaml")


def anchors():
    """Where a link between documents names a heading, the heading is there."""
    headings, texts = {}, {}
    for path in [*ROOT.glob("*.md"), *ROOT.glob("mesh-configs/*.md"), *DOCS.rglob("*.md")]:
        texts[path] = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
        headings[path] = set()
        for heading in re.findall(r"^#+ (.*)$", texts[path], re.M):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower().replace(" ", "-")
            anchor, number = re.sub(r"[^\w-]", "", plain), 0
            while anchor in headings[path]:
                number += 1
                anchor = f"{anchor.removesuffix(f'-{number - 1}')}-{number}"
            headings[path].add(anchor)
    followed = 0
    for path, text in texts.items():
        for file, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", text):
            target = (path.parent / file).resolve() if file else path
            if target in headings:
                followed += 1
                check(anchor in headings[target], f"{path.relative_to(ROOT)}: {file}#{anchor}: no such heading")
    check(followed > 100, f"{followed} links to headings")
    return followed


def get(address):
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read()


def test():
    how_many = [f"{commands()} commands", f"{keys()} keys", f"{anchors()} headings"]
    with Node(extra=MESH.replace("LINKS", "")) as first:
        address = f"127.0.0.1:{first.ports['mesh']}"
        with Node(http=True, amqp=True, extra=MESH.replace("LINKS", f'{{ to: "{address}" }}') + BRIDGE) as second:
            how_many.append(f"{metrics(second)} metrics")
            descriptions(second)
    return ", ".join(how_many)


main(test)
