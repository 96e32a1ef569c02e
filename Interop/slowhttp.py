#!/usr/bin/env python3
"""Proves that slow HTTP clients keep nobody out: Debian's slowhttptest holds 1,000 connections for 20 seconds with slow
headers, then with slow bodies, then with slow reads, while somebody comes again and again, each time on a new
connection, and is answered.

    slowhttp.py [attack…]

Needs nothing but Python and slowhttptest, whose own probe is not asked: on a busy machine it is itself too late."""

import http.client
import subprocess
import sys
import tempfile
import time

from node import Node, check, main, until

CONNECTIONS = 1_000
# Seconds of each attack, and how long it may last where a busy machine lets the attacker connect but slowly.
LENGTH, LONGEST = 20, 60
# Seconds for which somebody else may wait, on a clock that stands still while the node has no processor.
MOST_DELAY = 3
# Seconds without an answer after which nobody waits any longer.
PATIENCE = 60
# So many visits must fall into the time in which at least so many connections are held: mostly it is all of them, but
# the node ends those with slow headers after 10 s, and on a busy machine the attacker takes that long to make them.
VISITS, HELD = 5, 50
ATTACKS = {
    "headers": ("-H", "/", ()),
    "bodies": ("-B", "/TOPIC/slow", ("-s", "100000")),
    "reads": ("-X", "/openapi.json", ("-k", "10", "-w", "512", "-y", "1024", "-n", "5", "-z", "32")),
}


def visit(node):
    """A new connection and a request; the seconds that took by the node's clock."""
    start = node.clock()
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=PATIENCE)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
    except OSError as error:
        check(False, f"a visitor is not answered: {error!r}")
    connection.close()
    check(answer.status == 200, f"a visitor is answered {answer.status}")
    return node.clock() - start


def attack(node, name):
    mode, path, more = ATTACKS[name]
    idle, visits, slowest, most = node.descriptors(), 0, 0, 0
    with tempfile.TemporaryFile() as log:
        attacker = subprocess.Popen(
            ["slowhttptest", mode, "-c", str(CONNECTIONS), "-r", "500", "-l", str(LONGEST), "-i", "2", "-v", "1",
             "-u", f"http://127.0.0.1:{node.http_port}{path}", *more], stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + LENGTH
            while attacker.poll() is None and (time.monotonic() < end or visits < VISITS):
                held = node.descriptors() - idle
                seconds = visit(node)
                check(seconds < MOST_DELAY, f"{name}: a visitor waited {seconds:.2f} s beside {held} slow connections")
                slowest, most = max(slowest, seconds), max(most, held)
                # Those that were there before the visit and after it.
                visits += min(held, node.descriptors() - idle) >= HELD
                time.sleep(0.1)
        finally:
            attacker.kill()
            attacker.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")[-1_500:]
    check(visits >= VISITS, f"{name}: {visits} visits while at least {HELD} were held, {most} at most\n{said}")
    return f"{name}: {most} held, {visits} visits of {slowest * 1000:.0f} ms at most"


def test(*wanted):
    with Node(http=True) as node:
        said = []
        quiet = node.descriptors()
        for name in wanted or ATTACKS:
            said.append(attack(node, name))
            print(said[-1], flush=True)
            # What the next one holds is counted from what is open before it.
            until(lambda: node.descriptors() <= quiet + 10, "connections of an attacker that is gone stay")
            visit(node)
    return f"slow HTTP: {'; '.join(said)}"


if __name__ == "__main__":
    main(test, *sys.argv[1:])
