"""A clock for judging how quick a node is while the machine does other work as well.

It is the monotonic clock less the time for which threads of the node and of this process were ready to run and had no
processor. What a node computes for others, sleeps or waits for a lock counts; that seven compilers run beside it does
not. Where several threads wait at once each of them counts: on a busy machine the clock is lenient, on an idle one it
is the time."""

import glob
import os
import time

# By process: nanoseconds without a processor, by thread. A thread that has ended keeps its share, so that the sum never
# falls.
_waited = {}


def starved(*processes):
    """Seconds for which threads of these processes and of this one have waited for a processor."""
    total = 0
    for process in (os.getpid(), *processes):
        threads = _waited.setdefault(process, {})
        for path in glob.glob(f"/proc/{process}/task/*/schedstat"):
            try:
                with open(path, "rb") as file:
                    # On a processor, ready without one (both in nanoseconds), how often.
                    threads[path] = max(int(file.read().split()[1]), threads.get(path, 0))
            except OSError:
                pass  # It has just ended.
        total += sum(list(threads.values()))
    return total / 1e9


def fair_seconds(*processes):
    """The clock. Differences mean something, when the processes are the same ones."""
    return time.monotonic() - starved(*processes)


def fair_end(*processes, patience=60):
    """Waits until these, of the class Popen, have ended; the seconds of the clock that took. One that does not end has
    no return code."""
    pids = [process.pid for process in processes]
    start = now = fair_seconds(*pids)
    end = time.monotonic() + patience
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        now = fair_seconds(*pids)
        time.sleep(0.01)
    return now - start
