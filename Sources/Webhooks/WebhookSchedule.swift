/// What a webhook does next: which event is sent when, what an answer means for it, and whether the target seems to be
/// there at all. No socket, clock or thread: events, times and outcomes come in, steps come out.
import Core

/// The events that are being delivered, the oldest first, and the state of the target. Behind them wait further ones,
/// in the inbox.
struct WebhookSchedule {
    /// The definition's part of it.
    struct Policy: Equatable {
        /// Requests at once.
        var parallelism = 1
        /// When to try again.
        var backoff = Backoff(first: 3_000, highest: 64_000)
        /// Attempts for one event; 0 for any number.
        var attempts = 0
        /// What the target says when it will never take an event.
        var rejectedCodes = WebhookDefinition.standardRejectedCodes
    }

    /// What became of an attempt.
    enum Outcome: Equatable {
        /// The target answered, and may have said when to come back.
        case answered(status: Int, retryAfterMilliseconds: UInt64)
        /// It did not, or not in time, or not to the end.
        case failed
        /// The event cannot be put into a request.
        case unsendable
    }

    /// What an outcome means for the event.
    enum Verdict: Equatable {
        /// The target has it.
        case delivered
        /// The target will not have it.
        case rejected
        /// It has had all its attempts.
        case abandoned
        /// It will be tried again, at this time at the earliest.
        case retry(at: UInt64)
        /// Nobody waits for this outcome any more.
        case stale
    }

    /// What is to be done.
    enum Step {
        /// Send this event; the outcome is asked for by ``finish(_:_:at:random:)`` with the sequence number.
        case send(sequence: UInt64, event: Event, attempt: Int)
        /// This event's time was over before the target had it.
        case expired
    }

    /// Whether the target seems to be there.
    enum Circuit: Equatable {
        case closed
        /// Many attempts in a row have failed: one event at a time is tried, and not before this time.
        case open(probeAt: UInt64)
        /// That one event is under way.
        case halfOpen(probe: UInt64)
    }

    private struct Held {
        var sequence: UInt64
        var entry: EventQueue.Entry
        var attempts = 0
        var dueAt: UInt64 = 0
        var isUnderWay = false
    }

    /// Failures in a row that open the circuit.
    static let failuresToOpen = 5

    private(set) var policy: Policy
    private(set) var circuit = Circuit.closed
    private var held: [Held] = []
    /// What the events count for in limits.
    private(set) var bytes = 0
    private(set) var underWay = 0
    private var nextSequence: UInt64 = 1
    private var failures = 0
    /// The target asked for quiet until then.
    private var notBefore: UInt64 = 0

    init(_ policy: Policy) { self.policy = policy }

    /// Events that are being delivered.
    var count: Int { held.count }

    /// Whether another event can be taken, when all together may count for `maxBytes`.
    func hasRoom(maxBytes: Int) -> Bool { held.count < policy.parallelism && bytes < maxBytes }

    /// Takes an event, behind all others.
    mutating func admit(_ entry: EventQueue.Entry) {
        held.append(Held(sequence: nextSequence, entry: entry))
        nextSequence += 1
        bytes += entry.event.cost
    }

    /// The next thing to do; nil when there is none before ``deadline(after:)``, an outcome or another event.
    mutating func next(at now: UInt64) -> Step? {
        if let index = held.firstIndex(where: { !$0.isUnderWay && $0.entry.event.isExpired(at: now) }) {
            remove(at: index)
            return .expired
        }
        guard now >= notBefore, underWay < policy.parallelism else { return nil }
        if case .halfOpen = circuit { return nil }
        if case .open(let probeAt) = circuit, now < probeAt { return nil }
        guard let index = held.firstIndex(where: { !$0.isUnderWay && $0.dueAt <= now }) else { return nil }
        held[index].isUnderWay = true
        held[index].attempts += 1
        underWay += 1
        if case .open = circuit { circuit = .halfOpen(probe: held[index].sequence) }
        return .send(
            sequence: held[index].sequence, event: held[index].entry.event, attempt: held[index].attempts)
    }

    /// Whether further events should come here, if somebody else could take them: not while attempts fail, unless one
    /// is needed to try.
    func wantsEvents(at now: UInt64) -> Bool {
        switch circuit {
        case .closed: true
        case .halfOpen: false
        case .open(let probeAt): held.isEmpty && now >= max(probeAt, notBefore)
        }
    }

    /// When ``next(at:)`` and ``wantsEvents(at:)`` are to be asked again, if nothing else happens before.
    func deadline(after now: UInt64) -> UInt64? {
        if case .open(let probeAt) = circuit, held.isEmpty {
            let time = max(probeAt, notBefore)
            return time > now ? time : nil
        }
        var expiry: UInt64?
        var due: UInt64?
        for event in held where !event.isUnderWay {
            let end = event.entry.event.expiresAt
            if end != 0 { expiry = min(expiry ?? .max, end) }
            due = min(due ?? .max, event.dueAt)
        }
        guard let due, underWay < policy.parallelism else { return expiry }
        switch circuit {
        case .halfOpen: return expiry
        case .open(let probeAt): return min(expiry ?? .max, max(due, notBefore, probeAt))
        case .closed: return min(expiry ?? .max, max(due, notBefore))
        }
    }

    /// Whether something may still come of waiting until a time, if nothing new comes: an answer, or another attempt at
    /// a target that has not failed for good.
    func isWorthWaiting(until end: UInt64, at now: UInt64) -> Bool {
        if underWay > 0 { return true }
        guard circuit == .closed, let next = deadline(after: now) else { return false }
        return next < end
    }

    /// An attempt has come to its end.
    /// - Parameter random: any number, for the wait before the next attempt.
    mutating func finish(_ sequence: UInt64, _ outcome: Outcome, at now: UInt64, random: UInt64) -> Verdict {
        guard let index = held.firstIndex(where: { $0.sequence == sequence }), held[index].isUnderWay else {
            return .stale
        }
        held[index].isUnderWay = false
        underWay -= 1
        var retryAfter: UInt64 = 0
        switch outcome {
        case .answered(200..<300, _):
            remove(at: index)
            targetAnswered()
            return .delivered
        case .answered(let status, _) where policy.rejectedCodes.contains(status):
            // Not what was hoped for, but somebody is there.
            remove(at: index)
            targetAnswered()
            return .rejected
        case .unsendable:
            // This says nothing about the target; a probe that never left must not keep others waiting.
            if case .halfOpen(sequence) = circuit { circuit = .open(probeAt: now) }
            remove(at: index)
            return .rejected
        case .answered(_, let after): retryAfter = after
        case .failed: break
        }
        let attempts = held[index].attempts
        let wait = max(policy.backoff.delay(after: attempts, random: random), retryAfter)
        if retryAfter > 0 { notBefore = max(notBefore, now + retryAfter) }
        targetFailed(sequence, probeAt: now + wait)
        if policy.attempts > 0, attempts >= policy.attempts {
            remove(at: index)
            return .abandoned
        }
        held[index].dueAt = now + wait
        return .retry(at: now + wait)
    }

    /// Gives up events that are not under way.
    /// - Returns: those that were.
    mutating func giveUp(where isUnwanted: (EventQueue.Entry) -> Bool) -> [EventQueue.Entry] {
        var entries: [EventQueue.Entry] = []
        for index in held.indices.reversed() where !held[index].isUnderWay && isUnwanted(held[index].entry) {
            entries.append(held[index].entry)
            remove(at: index)
        }
        return entries.reversed()
    }

    private mutating func remove(at index: Int) {
        bytes -= held[index].entry.event.cost
        held.remove(at: index)
    }

    private mutating func targetAnswered() {
        failures = 0
        guard circuit != .closed else { return }
        circuit = .closed
        beginAnew()
    }

    /// Whoever waits need not wait any longer.
    private mutating func beginAnew() {
        for index in held.indices where !held[index].isUnderWay { held[index].dueAt = 0 }
    }

    private mutating func targetFailed(_ sequence: UInt64, probeAt: UInt64) {
        failures += 1
        switch circuit {
        case .closed where failures >= Self.failuresToOpen: circuit = .open(probeAt: probeAt)
        case .halfOpen(sequence): circuit = .open(probeAt: probeAt)
        // What was sent before the circuit opened changes nothing.
        case .closed, .halfOpen, .open: break
        }
    }

    /// The definition has changed, perhaps because the target was wrong: a fresh start for every event.
    mutating func change(_ policy: Policy) {
        self.policy = policy
        circuit = .closed
        failures = 0
        notBefore = 0
        beginAnew()
    }

    /// Gives up everything, those under way as well.
    /// - Returns: the events in order.
    mutating func takeAll() -> [EventQueue.Entry] {
        defer {
            held = []
            bytes = 0
            underWay = 0
        }
        return held.map(\.entry)
    }
}
