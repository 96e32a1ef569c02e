import Core
import TestSupport

@testable import Webhooks

/// What happens to a webhook in a test without I/O: when events come, how attempts end.
struct Script {
    struct Arrival {
        var at: UInt64
        /// 0 for never.
        var expiresAt: UInt64
    }

    struct Attempt {
        var milliseconds: UInt64
        var outcome: WebhookSchedule.Outcome
        var random: UInt64
    }

    var policy = WebhookSchedule.Policy()
    var arrivals: [Arrival] = []
    /// By event, then by attempt; what is not there succeeds at once.
    var attempts: [[Attempt]] = []

    func attempt(_ event: Int, _ number: Int) -> Attempt {
        guard number <= attempts[event].count else {
            return Attempt(
                milliseconds: 0, outcome: .answered(status: 200, retryAfterMilliseconds: 0), random: 0)
        }
        return attempts[event][number - 1]
    }

    /// Draws a script.
    init(_ random: inout Seeded, parallelism: Int) {
        policy.parallelism = parallelism
        policy.backoff = Backoff(first: UInt64(1 + random.below(40)), highest: UInt64(40 + random.below(300)))
        policy.attempts = random.once(in: 2) ? 0 : 1 + random.below(8)
        let failsMostly = random.once(in: 2)
        var now: UInt64 = 1
        for _ in 0..<random.below(40) {
            if random.once(in: 2) { now += UInt64(random.below(200)) }
            let expires = random.once(in: 3)
            arrivals.append(Arrival(at: now, expiresAt: expires ? now + UInt64(1 + random.below(600)) : 0))
            var all: [Attempt] = []
            while random.below(10) < (failsMostly ? 8 : 3), all.count < 20 { all.append(Self.attempt(&random)) }
            attempts.append(all)
        }
    }

    private static func attempt(_ random: inout Seeded) -> Attempt {
        let outcome: WebhookSchedule.Outcome =
            switch random.below(12) {
            case 0: .answered(status: 503, retryAfterMilliseconds: UInt64(random.below(400)))
            case 1: .answered(status: 429, retryAfterMilliseconds: 0)
            case 2: .answered(status: 302, retryAfterMilliseconds: 0)
            case 3 where random.once(in: 2): .answered(status: 400, retryAfterMilliseconds: 50)
            case 4 where random.once(in: 3): .unsendable
            default: .failed
            }
        return Attempt(milliseconds: UInt64(random.below(50)), outcome: outcome, random: random.next())
    }
}

/// What was seen, or is expected.
enum Seen: Equatable {
    case sent(event: Int, attempt: Int, at: UInt64)
    case ended(event: Int, Fate, at: UInt64)

    enum Fate { case delivered, rejected, abandoned, expired }
}

/// Plays a script: the shell around a schedule, with a clock of its own.
struct ScheduleRun {
    struct Flight {
        var sequence: UInt64
        var event: Int
        var attempt: Int
        var endsAt: UInt64
    }

    let script: Script
    private(set) var schedule: WebhookSchedule
    private(set) var seen: [Seen] = []
    /// Outcomes in their order, for what is checked afterwards.
    private(set) var outcomes: [(event: Int, outcome: WebhookSchedule.Outcome, at: UInt64, place: Int)] = []
    private(set) var mostUnderWay = 0
    private var queue: [Int] = []
    private var flights: [Flight] = []
    private var arrived = 0
    private var now: UInt64 = 0

    init(_ script: Script) {
        self.script = script
        schedule = WebhookSchedule(script.policy)
    }

    /// - Returns: false when it does not come to an end.
    mutating func play() -> Bool {
        for _ in 0..<100_000 {
            pump()
            let arrival = arrived < script.arrivals.count ? script.arrivals[arrived].at : nil
            let times = [arrival, schedule.deadline(after: now), flights.map(\.endsAt).min()].compactMap { $0 }
            guard let next = times.min() else { return schedule.count == 0 && queue.isEmpty }
            now = max(now, next)
            land()
            while arrived < script.arrivals.count, script.arrivals[arrived].at <= now {
                queue.append(arrived)
                arrived += 1
            }
        }
        return false
    }

    private func event(_ index: Int) -> Event {
        WebhookStage.event("t", [UInt8(index)], expiresAt: script.arrivals[index].expiresAt)
    }

    private mutating func pump() {
        while true {
            while schedule.hasRoom(maxBytes: .max), !queue.isEmpty {
                let index = queue.removeFirst()
                let event = event(index)
                if event.isExpired(at: now) {
                    seen.append(.ended(event: index, .expired, at: now))
                } else {
                    schedule.admit(EventQueue.Entry(event: event, qos: 1, isRetained: false))
                }
            }
            let before = unfinished
            guard let step = schedule.next(at: now) else { return }
            switch step {
            case .expired:
                let gone = before.filter { !unfinished.contains($0) }
                for index in gone { seen.append(.ended(event: index, .expired, at: now)) }
            case .send(let sequence, let event, let attempt):
                let index = Int(event.payload[0])
                seen.append(.sent(event: index, attempt: attempt, at: now))
                flights.append(
                    Flight(
                        sequence: sequence, event: index, attempt: attempt,
                        endsAt: now + script.attempt(index, attempt).milliseconds))
                mostUnderWay = max(mostUnderWay, flights.count)
            }
        }
    }

    private var unfinished: [Int] {
        var copy = schedule
        return copy.takeAll().map { Int($0.event.payload[0]) }
    }

    private mutating func land() {
        for flight in flights.filter({ $0.endsAt <= now }) {
            flights.removeAll { $0.sequence == flight.sequence }
            let attempt = script.attempt(flight.event, flight.attempt)
            outcomes.append((flight.event, attempt.outcome, now, seen.count))
            switch schedule.finish(flight.sequence, attempt.outcome, at: now, random: attempt.random) {
            case .delivered: seen.append(.ended(event: flight.event, .delivered, at: now))
            case .rejected: seen.append(.ended(event: flight.event, .rejected, at: now))
            case .abandoned: seen.append(.ended(event: flight.event, .abandoned, at: now))
            case .retry, .stale: break
            }
        }
    }
}

/// What must happen with one request at a time, event after event, without any machinery.
enum Oracle {
    static func log(of script: Script) -> [Seen] {
        var seen: [Seen] = []
        var free: UInt64 = 0
        var quietUntil: UInt64 = 0
        var probeAt: UInt64?
        var failures = 0
        for (index, arrival) in script.arrivals.enumerated() {
            var time = max(arrival.at, free)
            var attempt = 0
            var due = time
            life: while true {
                let sendAt = max(due, quietUntil, probeAt ?? 0)
                if arrival.expiresAt != 0, arrival.expiresAt <= sendAt {
                    free = max(arrival.expiresAt, time)
                    seen.append(.ended(event: index, .expired, at: free))
                    break life
                }
                attempt += 1
                seen.append(.sent(event: index, attempt: attempt, at: sendAt))
                let played = script.attempt(index, attempt)
                time = sendAt + played.milliseconds
                free = time
                var after: UInt64 = 0
                switch played.outcome {
                case .answered(let status, _) where status < 300:
                    (failures, probeAt) = (0, nil)
                    seen.append(.ended(event: index, .delivered, at: time))
                    break life
                case .answered(400, _):
                    (failures, probeAt) = (0, nil)
                    seen.append(.ended(event: index, .rejected, at: time))
                    break life
                case .unsendable:
                    if probeAt != nil { probeAt = time }
                    seen.append(.ended(event: index, .rejected, at: time))
                    break life
                case .answered(_, let said): after = said
                case .failed: break
                }
                failures += 1
                var wait = script.policy.backoff.first
                for _ in 0..<(attempt - 1) where wait < script.policy.backoff.highest { wait *= 2 }
                wait = min(wait, script.policy.backoff.highest)
                wait = max(wait - played.random % (wait / 5 + 1), after)
                if after > 0 { quietUntil = max(quietUntil, time + after) }
                if probeAt != nil || failures >= 5 { probeAt = time + wait }
                if attempt == script.policy.attempts {
                    seen.append(.ended(event: index, .abandoned, at: time))
                    break life
                }
                due = time + wait
            }
        }
        return seen
    }
}
