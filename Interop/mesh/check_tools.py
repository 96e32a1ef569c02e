#!/usr/bin/env python3
"""Proves that the tools of these tests see what they are there to see: the history's rules find planted mistakes, the
relay delays, holds back, limits and resets, and is fast enough. Starts no node."""

import copy
import socket
import tempfile
import threading
import time

import meshnet
from history import SECOND, Fault, Flow, History, Publisher, Subscriber, judge, judge_guaranteed
from node import check, main


def recorded():
    """1,000 events, one each ms from second 10 on, all received 1 ms later."""
    publisher = Publisher("a", 1)
    flow = Flow()
    for number in range(1000):
        sent = 10 * SECOND + number * 1_000_000
        publisher.sent.append(sent)
        publisher.acknowledged.append(sent + 500_000)
        flow.numbers.append(number)
        flow.times.append(sent + 1_000_000)
    return History({"p": publisher}, {"s": Subscriber("b", 1, ["p"], [(SECOND, None)])}, {("s", "p"): flow})


def drop(history, number):
    flow = history.flows["s", "p"]
    place = flow.numbers.index(number)
    del flow.numbers[place], flow.times[place]


def check_moving_rules():
    """The rules for clients that move: what must not be missing, come twice or in another order."""
    def judged(change, gaps=None):
        planted = recorded()
        change(planted, planted.flows["s", "p"], planted.subscribers["s"], planted.publishers["p"])
        return judge_guaranteed(planted, ["p"], ["s"], gaps or {}, 20 * SECOND)

    def lose(h, flow, subscriber, publisher):
        for number in range(400, 500):
            drop(h, number)

    def move(is_there):
        def change(h, flow, subscriber, publisher):
            lose(h, flow, subscriber, publisher)
            at = publisher.sent[500]
            subscriber.sessions = [(SECOND, at - SECOND // 5), (at, None)]
            subscriber.arrivals = [(SECOND, "b", False), (at, "c", is_there)]
        return change

    def twice(is_again):
        def change(h, flow, subscriber, publisher):
            flow.numbers.insert(600, 500)
            flow.times.insert(600, flow.times[600])
            if is_again == "publisher":
                publisher.again.add(500)
            elif is_again:
                subscriber.repeated.add((0, 500))
        return change

    def swap(h, flow, subscriber, publisher):
        flow.numbers[500], flow.numbers[501] = flow.numbers[501], flow.numbers[500]

    def refuse(h, flow, subscriber, publisher):
        lose(h, flow, subscriber, publisher)
        for number in range(400, 500):
            publisher.acknowledged[number] = 0

    nothing = judged(lambda *_: None)
    check(nothing.received == 1000 and not nothing.lost and not nothing.doubled and not nothing.reordered, f"{nothing}")
    check(judged(lose).lost == 100, "a loss is not seen")
    check(judged(refuse).lost == 0, "what was never acknowledged is owed")
    check(judged(move(True)).lost == 100, "a session that followed its client may lose nothing")
    check(judged(move(False)).without_session == 100, "a session that ended with its node is taken for a loss")
    at = recorded().publishers["p"].sent[500]
    check(judged(move(False), {"s": [at + 1]}).told == 100, "a gap that was told is taken for a loss")
    check(judged(move(False), {"s": []}).lost == 100, "a gap that was not told is not seen")
    check(judged(twice(None)).doubled == 1, "a duplicate is not seen")
    check(judged(twice("publisher")).again == 1 and judged(twice("node")).again == 1, "who sends again may double")
    check(judged(swap).reordered == 1, "disorder is not seen")


def check_rules():
    good = recorded()
    check(judge(good).is_good and judge(good).received == 1000, "a good history is refused")

    def judged(change):
        planted = copy.deepcopy(good)
        change(planted)
        return judge(planted)

    check(judged(lambda h: drop(h, 500)).lost == 1, "a loss is not seen")
    check(judged(lambda h: drop(h, 999)).lost == 1, "a loss at the end is not seen")

    def twice(h):
        h.flows["s", "p"].numbers.insert(600, 500)
        h.flows["s", "p"].times.insert(600, h.flows["s", "p"].times[600])

    check(judged(twice).duplicated == 1, "a duplicate is not seen")

    def swap(h):
        numbers = h.flows["s", "p"].numbers
        numbers[500], numbers[501] = numbers[501], numbers[500]

    check(judged(swap).reordered == 1, "disorder is not seen")

    def invent(h):
        h.flows["s", "p"].numbers[999] = 5000

    check(judged(invent).invented == 1, "an invention is not seen")

    def unknown(h):
        h.publishers["p"].acknowledged[500] = 0
        drop(h, 500)

    check(judged(unknown).is_good, "an unknown publish must arrive")

    def direct(h):
        h.publishers["p"].qos = 0
        drop(h, 500)

    check(judged(direct).lost == 1, "a loss at QoS 0 without a fault is not seen")

    def direct_in_fault(h):
        direct(h)
        h.faults.append(Fault("link", 10 * SECOND, 11 * SECOND))

    check(judged(direct_in_fault).lost_in_faults == 1 and judged(direct_in_fault).is_good, "faults excuse no QoS 0")

    def killed(h):
        h.faults.append(Fault("kill a", 10 * SECOND + 990_000_000, 12 * SECOND, killed="a"))
        for number in range(985, 991):
            drop(h, number)

    check(judged(killed).is_good and judged(killed).excused == 6, "what the killed node held is not excused")

    def killed_and_hole(h):
        killed(h)
        drop(h, 900)

    check(judged(killed_and_hole).lost == 1, "a hole before the newest is excused")

    def repeated(h):
        """The subscriber's node is killed after 500 was received, and 500 comes again."""
        h.subscribers["s"].sessions = [(SECOND, h.flows["s", "p"].times[500] + 1), (11 * SECOND, None)]
        h.faults.append(Fault("kill b", h.flows["s", "p"].times[500] + 1, 11 * SECOND, killed="b"))
        h.flows["s", "p"].numbers.insert(501, 500)
        h.flows["s", "p"].times.insert(501, h.flows["s", "p"].times[501])

    check(judged(repeated).is_good and judged(repeated).repeated == 1, "a repetition after a kill is a duplicate")

    def reconnected(h):
        at = 10 * SECOND + 500_000_000
        h.subscribers["s"].sessions = [(SECOND, at), (at + 1_000_000, None)]
        for number in range(499, 700):
            drop(h, number)

    check(judged(reconnected).is_good, "events without a subscription are missed")


class Echo(threading.Thread):
    """Counts what it gets, and sends short words back."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.count = 0
        self.start()

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := connection.recv(1 << 20):
                self.count += len(data)
                if data in (b"ping", b"late"):
                    connection.sendall(data)
        except OSError:
            pass


def round_trip(connection):
    start = time.monotonic()
    connection.sendall(b"ping")
    check(connection.recv(16) == b"ping", "no echo")
    return time.monotonic() - start


def check_relay():
    echo = Echo()
    with tempfile.TemporaryDirectory() as directory:
        relay = meshnet.Relay(directory, "test", None)
        try:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            relay.ask("open", "w", f"127.0.0.1:{port}", f"127.0.0.1:{echo.listener.getsockname()[1]}")
            made = socket.create_connection(("127.0.0.1", port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.settimeout(5)
            plain = min(round_trip(made) for _ in range(50))
            relay.ask("set", "w", "delay=50")
            delayed = min(round_trip(made) for _ in range(5))
            check(0.1 <= delayed < 1, f"50 ms each way take {delayed:.3f} s")
            relay.ask("set", "w", "delay=0")
            check_silence(relay, made)
            rate = throughput(echo, made)
            relay.ask("set", "w", "rate=200000")
            start, before = time.monotonic(), echo.count
            made.sendall(bytes(200_000))
            while echo.count < before + 200_000:
                time.sleep(0.01)
                check(time.monotonic() - start < 10, "a limited link stands still")
            check(time.monotonic() - start > 0.6, f"200 kB at 200 kB/s took {time.monotonic() - start:.2f} s")
            relay.ask("reset", "w")
            try:
                check(False, f"after the reset came {made.recv(16)}")
            except ConnectionResetError:
                pass
            relay.ask("refuse", "w", "1")
            try:
                refused = socket.create_connection(("127.0.0.1", port))
                refused.settimeout(5)
                check(refused.recv(16) == b"", "a connection was not refused")
            except ConnectionResetError:
                pass
            return plain, rate
        finally:
            relay.end()


def check_silence(relay, made):
    """Bytes are held and come later, in each direction."""
    for direction in (1, 2, 3):
        relay.ask("set", "w", f"silent={direction}")
        made.sendall(b"late")
        made.settimeout(0.3)
        try:
            check(False, f"through silence came {made.recv(16)}")
        except TimeoutError:
            pass
        relay.ask("set", "w", "silent=0")
        made.settimeout(5)
        check(made.recv(16) == b"late", "what was held is gone")


def throughput(echo, made):
    before, block, start = echo.count, bytes(1 << 20), time.monotonic()
    for _ in range(200):
        made.sendall(block)
    while echo.count < before + (200 << 20):
        time.sleep(0.001)
    return 200 / (time.monotonic() - start)


def test():
    check_rules()
    check_moving_rules()
    plain, rate = check_relay()
    check(rate >= 20, f"the relay moves {rate:.0f} MB/s only")
    return f"tools: the history's rules hold; relay: round trip {plain * 1e6:.0f} us, {rate:.0f} MB/s"


if __name__ == "__main__":
    main(test)
