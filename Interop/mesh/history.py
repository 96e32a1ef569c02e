"""What may happen to an event, in one place: judges a recorded history of publishes and receipts.

A publish is `ok` when its node has acknowledged it (QoS 1 and 2), else unknown: an unknown one may arrive or not. The
rules:

1. Nobody receives an event twice, at any QoS, whatever fails. One exception: what a node had delivered but not
   acknowledged to the origin when it was killed comes again to its next life, flagged between the nodes as a possible
   duplicate; who has subscribed there again by then gets it in the new session. Counted as repeated.
2. Nobody receives what was not published.
3. What a subscriber receives of a publisher is in the order of publishing.
4. At QoS 1 and 2 whoever was subscribed receives every event that is ok. Excused is only what one process alone held
   when it was killed: events of a killed node that had reached nobody yet, the newest ones; and what was on its way to
   a subscriber whose connection ended, again the newest ones.
5. At QoS 0 events may get lost while something fails and shortly after, and while a link is taken for dead that is
   not; they are counted, apart those from and to a node that was killed, stopped or cut off. Else not.

Times are nanoseconds of the monotonic clock, which all processes of a machine share."""

import bisect
from array import array
from dataclasses import dataclass, field

SECOND = 1_000_000_000
# A subscription may take so long until every node knows of it.
SETTLE = 1 * SECOND
# What a killed node alone may have held is not older than this.
HELD = 10 * SECOND
# Traces of a fault at QoS 0.
BEFORE, AFTER = 1 * SECOND, 4 * SECOND


@dataclass
class Publisher:
    """Events are numbered from 0: the time of each, and when it was acknowledged; 0 for not."""

    node: str
    qos: int
    sent: array = field(default_factory=lambda: array("q"))
    acknowledged: array = field(default_factory=lambda: array("q"))
    # Numbers that were sent again because their acknowledgement had not come when a connection ended.
    again: set = field(default_factory=set)


@dataclass
class Subscriber:
    """`sessions` are pairs of times: subscribed, and connection ended or None."""

    node: str
    qos: int
    publishers: list
    sessions: list = field(default_factory=list)
    # Of a client with a persistent session: when it connected, where, and whether its session was there.
    arrivals: list = field(default_factory=list)
    # Pairs of publisher's place and number that came with DUP.
    repeated: set = field(default_factory=set)


@dataclass
class Flow:
    """What a subscriber received of a publisher, as it came."""

    numbers: array = field(default_factory=lambda: array("q"))
    times: array = field(default_factory=lambda: array("q"))


@dataclass
class Fault:
    """`node` is set when it was killed (its memory is gone) or stopped; a link's fault touches nobody's memory."""

    name: str
    start: int
    end: int
    killed: str | None = None
    stopped: str | None = None

    @property
    def touched(self):
        return self.killed or self.stopped


@dataclass
class History:
    publishers: dict
    subscribers: dict
    flows: dict
    faults: list = field(default_factory=list)
    # When a node took a link for dead that was not, as happens where processors are short.
    alarms: list = field(default_factory=list)


@dataclass
class Verdict:
    """Counts over all flows; `examples` say which."""

    received: int = 0
    lost: int = 0
    lost_in_faults: int = 0
    cut_off: int = 0
    excused: int = 0
    duplicated: int = 0
    repeated: int = 0
    reordered: int = 0
    invented: int = 0
    examples: list = field(default_factory=list)
    # Flow: numbers that had to arrive and did not.
    losses: dict = field(default_factory=dict)

    @property
    def is_good(self):
        return not (self.lost or self.duplicated or self.reordered or self.invented)

    def __str__(self):
        share = self.lost_in_faults / max(1, self.received) * 100
        return (f"{self.received} received, lost {self.lost}, duplicated {self.duplicated}, reordered {self.reordered}"
                + (f", invented {self.invented}" if self.invented else "")
                + f"; at QoS 0 during faults lost {self.lost_in_faults} ({share:.3f} %), "
                f"from and to the node that failed {self.cut_off}; excused {self.excused}"
                + (f", repeated after a kill {self.repeated}" if self.repeated else ""))

    def note(self, text):
        if len(self.examples) < 12:
            self.examples.append(text)


def judge(history):
    verdict = Verdict()
    for name, subscriber in history.subscribers.items():
        for publisher in subscriber.publishers:
            flow = history.flows.get((name, publisher), Flow())
            judge_flow(history, verdict, name, publisher, flow)
    for what, numbers in verdict.losses.items():
        source = what.split(" -> ")[0]
        sent = history.publishers[source].sent
        verdict.note(f"{what}: {len(numbers)} lost, {numbers[0]} to {numbers[-1]}, from "
                     + where(history, sent[numbers[0]]) + " to " + where(history, sent[numbers[-1]]))
    return verdict


def where(history, time):
    """A time by the nearest fault: milliseconds from its beginning and its end."""
    if not history.faults:
        return f"{time / SECOND:.3f}"
    fault = min(history.faults, key=lambda f: min(abs(time - f.start), abs(time - f.end)))
    return f"{(time - fault.start) / 1e6:+.0f} ms of '{fault.name}' ({(time - fault.end) / 1e6:+.0f} ms of its end)"


def judge_flow(history, verdict, name, source, flow):
    publisher, subscriber = history.publishers[source], history.subscribers[name]
    what = f"{source} -> {name}"
    seen, last, life = {}, -1, 0
    verdict.received += len(flow.numbers)
    # When the subscriber's connection ended with its node.
    kills = [
        end for _, end in subscriber.sessions if end is not None
        and any(f.killed == subscriber.node and f.start <= end <= f.end + SECOND for f in history.faults)
    ]
    for number, time in zip(flow.numbers, flow.times):
        if sum(kill < time for kill in kills) != life:
            last, life = -1, life + 1
        if number in seen:
            if any(seen[number] < kill < time for kill in kills) and publisher.qos > 0:
                verdict.repeated += 1
            else:
                verdict.duplicated += 1
                verdict.note(f"{what}: {number} twice, {(time - seen[number]) / 1e6:.0f} ms apart")
            continue
        seen[number] = time
        if number >= len(publisher.sent):
            verdict.invented += 1
            verdict.note(f"{what}: {number} was never published")
        elif number < last:
            verdict.reordered += 1
            verdict.note(f"{what}: {number} after {last}")
        else:
            last = number
    qos = min(publisher.qos, subscriber.qos)
    for number, sent in enumerate(publisher.sent):
        if number in seen or (qos > 0 and publisher.acknowledged[number] == 0):
            continue
        reason = excuse(history, publisher, subscriber, flow, number, sent)
        if reason == "not subscribed":
            continue
        if reason is not None:
            verdict.excused += 1
        elif qos == 0 and any(alarm - 2 * BEFORE <= sent <= alarm + AFTER for alarm in history.alarms):
            verdict.lost_in_faults += 1
        elif qos == 0 and (near := [f for f in history.faults if f.start - BEFORE <= sent <= f.end + AFTER]):
            ends = (publisher.node, subscriber.node)
            if any(f.touched in ends for f in near):
                verdict.cut_off += 1
            else:
                verdict.lost_in_faults += 1
        else:
            verdict.lost += 1
            verdict.losses.setdefault(what, []).append(number)


def excuse(history, publisher, subscriber, flow, number, sent):
    """Why an event need not have arrived; None when it had to."""
    session = None
    for begin, end in subscriber.sessions:
        if begin + SETTLE <= sent and (end is None or sent < end):
            session = (begin, end)
    if session is None:
        return "not subscribed"
    if session[1] is not None:
        # In order: whatever came before the end of the connection is a bound below which nothing may be missing.
        if number > newest(flow, session[1]):
            return "on its way when the subscriber's connection ended"
    for fault in history.faults:
        if fault.killed != publisher.node or not 0 <= fault.start - sent < HELD:
            continue
        first_after = bisect.bisect_right(publisher.sent, fault.start)
        life = [n for n in flow.numbers if n < first_after]
        if not life or number > max(life):
            return "held by the killed node alone"
    return None


@dataclass
class Guaranteed:
    """Counts of guaranteed events over all pairs of a publisher and a subscriber, of clients that go to another node when
    theirs stops."""

    received: int = 0
    again: int = 0
    doubled: int = 0
    reordered: int = 0
    lost: int = 0
    told: int = 0
    without_session: int = 0
    examples: list = field(default_factory=list)

    def __str__(self):
        return (f"{self.received} received, lost {self.lost}, out of order {self.reordered}, twice for no reason "
                f"{self.doubled}; twice because sent again {self.again}, missed by a stream that was told of a gap "
                f"{self.told}, because a session had ended with its node {self.without_session}")


def judge_guaranteed(recorded, names, subscribers, gaps, end):
    """Whoever has subscribed receives whatever is acknowledged; `gaps` are the times at which a stream was told."""
    verdict = Guaranteed()
    for name in subscribers:
        subscriber = recorded.subscribers[name]
        begin = subscriber.sessions[0][0] + SETTLE
        for source in subscriber.publishers:
            publisher, flow = recorded.publishers[source], recorded.flows.get((name, source), Flow())
            index, seen, last = names.index(source), set(), -1
            verdict.received += len(flow.numbers)
            for number in flow.numbers:
                if number in seen:
                    if number in publisher.again or (index, number) in subscriber.repeated:
                        verdict.again += 1
                    else:
                        verdict.doubled += 1
                        verdict.examples.append(f"{source} -> {name}: {number} twice")
                elif number < last:
                    verdict.reordered += 1
                    verdict.examples.append(f"{source} -> {name}: {number} after {last}")
                seen.add(number)
                last = max(last, number)
            for number, sent in enumerate(publisher.sent):
                if number in seen or not publisher.acknowledged[number] or not begin <= sent <= end:
                    continue
                reason = missed(subscriber, publisher.acknowledged[number], sent, gaps.get(name))
                setattr(verdict, reason, getattr(verdict, reason) + 1)
                if reason == "lost" and len(verdict.examples) < 20:
                    verdict.examples.append(
                        f"{source} -> {name}: {number} lost, sent {where(recorded, sent)}")
    return verdict


def missed(subscriber, acknowledged, sent, gaps):
    """Why an event need not have come. Its session had ended with a node: it was sent before the client had another
    one and after what the last connection had taken."""
    for before, after in zip(subscriber.sessions, subscriber.sessions[1:]):
        if before[1] is None or not before[1] - SECOND <= sent <= after[0] + SETTLE:
            continue
        if gaps is not None:
            return "told" if any(after[0] <= gap <= after[0] + SECOND for gap in gaps) else "lost"
        if any(abs(at - after[0]) < SECOND and not is_there for at, _, is_there in subscriber.arrivals[1:]):
            return "without_session"
    return "lost"


def newest(flow, time):
    """The largest number received until a time."""
    count = bisect.bisect_right(flow.times, time)
    return max(flow.numbers[:count], default=-1)


def gaps(history, fault, window=2 * SECOND):
    """For each flow that neither begins nor ends at a node that was touched: the longest time without an event from
    shortly before the fault until it is over, in milliseconds, when that began after the fault, and the flow; sorted.
    """
    found = []
    for (name, source), flow in history.flows.items():
        ends = {history.subscribers[name].node, history.publishers[source].node}
        if fault.touched in ends or len(ends) == 1:
            continue
        first = bisect.bisect_left(flow.times, fault.start - SECOND // 5)
        last = bisect.bisect_right(flow.times, fault.end + window)
        times = flow.times[first:last]
        if len(times) > 1:
            gap, began = max((b - a, a) for a, b in zip(times, times[1:]))
            found.append((gap / 1e6, (began - fault.start) / 1e6, f"{source} -> {name}"))
    return sorted(found)


def losses(history, most=6):
    """The longest runs of events that did not arrive while something failed: flow, how many, and when in
    milliseconds from the beginning and the end of the nearest fault."""
    found = []
    for (name, source), flow in history.flows.items():
        publisher = history.publishers[source]
        if not history.faults or min(publisher.qos, history.subscribers[name].qos) > 0:
            continue
        seen, run = set(flow.numbers), None
        for number in range(len(publisher.sent) + 1):
            if number < len(publisher.sent) and number not in seen:
                run = number if run is None else run
            elif run is not None:
                at = publisher.sent[run]
                fault = min(history.faults, key=lambda f: min(abs(at - f.start), abs(at - f.end)))
                if fault.touched not in (publisher.node, history.subscribers[name].node):
                    found.append((number - run, f"{source} -> {name}: {number - run} from {where(history, at)}"))
                run = None
    return [text for _, text in sorted(found, reverse=True)[:most]]


def percentile(values, share):
    """Of sorted values; NaN of none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def latencies(history, every=16):
    """Sorted samples, in microseconds."""
    found = []
    for (_, source), flow in history.flows.items():
        sent = history.publishers[source].sent
        for place in range(0, len(flow.numbers), every):
            number = flow.numbers[place]
            if number < len(sent):
                found.append((flow.times[place] - sent[number]) / 1e3)
    return sorted(found)
