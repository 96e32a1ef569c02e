"""What the scenarios share: running them by name, traffic between all nodes, faults in turn, a line of figures.

A scenario fails on what must hold on every machine: nothing doubled, nothing reordered, nothing lost that is
guaranteed, convergence at all. Times are printed beside their goals and never fail: machines differ."""

import sys
import time
import traceback

import history
from load import Load
from node import Failure, check


def everybody_to_everybody(mesh, nodes=None, rate=1000, qos=0, size=64, version=4):
    """One publisher on every node, one subscriber on every node that wants those of all other nodes."""
    load = Load(mesh)
    add_everybody(load, nodes or mesh.names, rate, qos, size, version)
    return load


def add_everybody(load, nodes, rate, qos, size=64, version=4):
    tag = f"q{qos}"
    for node in nodes:
        load.publisher(f"p{qos}-{node}", node, f"load/{tag}/{node}", rate, qos, version, size)
    for node in nodes:
        load.subscriber(f"s{qos}-{node}", node, f"load/{tag}/+", [f"p{qos}-{other}" for other in nodes], qos, version)


def figures(recorded, goal=None, what="", mesh=None):
    """Judges a history and prints it: gaps over all faults, then what was lost, doubled, reordered, and with `mesh`
    the links that its nodes took down without a reason."""
    alarms = mesh.false_alarms(recorded.faults) if mesh else []
    recorded.alarms = [int(at * 1e9) for _, at, _ in alarms]
    verdict = history.judge(recorded)
    worst = sorted(((*gap, fault.name) for fault in recorded.faults for gap in history.gaps(recorded, fault)))
    found = [gap for gap, _, _, _ in worst]
    delay = history.latencies(recorded)
    p50, p99 = (history.percentile(found, share) for share in (0.5, 0.99))
    longest = found[-1] if found else float("nan")
    text = f"    {what + ': ' if what else ''}gap ms p50 {p50:.1f} p99 {p99:.1f} max {longest:.1f}"
    if goal is not None:
        text += f" (goal p99 {goal})"
    text += f"; delay us p50 {history.percentile(delay, 0.5):.0f} p99 {history.percentile(delay, 0.99):.0f}"
    print(text)
    print(f"    {verdict}", flush=True)
    if alarms:
        print(f"    links taken down for silence without a fault: {len(alarms)} {alarms[:3]}")
    for gap, began, flow, fault in worst[-3:] if goal is not None and found and p99 > goal else ():
        print(f"      {flow}: nothing for {gap:.0f} ms, from {began:+.0f} ms of '{fault}'")
    for line in history.losses(recorded):
        print(f"      lost at QoS 0: {line}")
    for example in verdict.examples:
        print(f"      {example}")
    return verdict


def check_verdict(verdict):
    check(verdict.received > 0, "nothing was received")
    check(verdict.is_good, str(verdict))


def wait_while(seconds, load):
    """Lets traffic flow; what goes wrong in the load shows at once."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if load.pipe.poll(0.1):
            load.expect("nothing", 0)


def run(scenarios):
    """Runs those named on the command line, else all; the exit status says whether all held."""
    wanted = sys.argv[1:] or list(scenarios)
    unknown = [name for name in wanted if name not in scenarios]
    if unknown:
        sys.exit(f"there is no {', '.join(unknown)}; there are: {' '.join(scenarios)}")
    failed = []
    for name in wanted:
        body = scenarios[name]
        print(f"{name}: {(body.__doc__ or '').strip().splitlines()[0]}", flush=True)
        start = time.monotonic()
        try:
            outcome = body() or "holds"
        except Failure as failure:
            outcome = f"FAILED: {failure}"
            failed.append(name)
        except Exception:
            outcome = "FAILED: " + traceback.format_exc()
            failed.append(name)
        print(f"  {name} {outcome} ({time.monotonic() - start:.0f} s)", flush=True)
    if failed:
        print(f"FAILED: {' '.join(failed)}")
        sys.exit(1)
    print(f"all of {len(wanted)} hold")
