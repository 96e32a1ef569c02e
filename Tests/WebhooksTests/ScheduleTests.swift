import Core
import Testing
import TestSupport

@testable import Webhooks

@Suite("A webhook's schedule") struct ScheduleTests {
    @Test("One at a time: every attempt and every end as the naive model says")
    func oneAtATime() {
        for run in 0..<2_000 as Range<UInt64> {
            var random = Seeded(run)
            let script = Script(&random, parallelism: 1)
            var shell = ScheduleRun(script)
            let hasEnded = shell.play()
            #expect(hasEnded, "run \(run) ends; \(random.note)")
            let expected = Oracle.log(of: script)
            guard shell.seen != expected else { continue }
            Issue.record("run \(run): \(shell.seen) instead of \(expected); \(random.note)")
            return
        }
    }

    @Test("Several at a time: each event has one end, attempts keep to the rules")
    func severalAtATime() {
        for run in 0..<2_000 as Range<UInt64> {
            var random = Seeded(10_000 + run)
            let script = Script(&random, parallelism: 2 + random.below(6))
            var shell = ScheduleRun(script)
            let hasEnded = shell.play()
            #expect(hasEnded, "run \(run) ends; \(random.note)")
            #expect(shell.mostUnderWay <= script.policy.parallelism, "run \(run); \(random.note)")
            if let flaw = Rules.flaw(in: shell) {
                Issue.record("run \(run): \(flaw): \(shell.seen); \(random.note)")
                return
            }
        }
    }

    private func schedule(parallelism: Int = 1, events: Int) -> WebhookSchedule {
        var policy = WebhookSchedule.Policy()
        policy.parallelism = parallelism
        policy.backoff = Backoff(first: 100, highest: 1_000)
        var schedule = WebhookSchedule(policy)
        for index in 0..<events {
            schedule.admit(
                EventQueue.Entry(event: WebhookStage.event("t", [UInt8(index)]), qos: 1, isRetained: false))
        }
        return schedule
    }

    /// Sends all that may be sent.
    private func send(_ schedule: inout WebhookSchedule, at now: UInt64) -> [UInt64] {
        var sent: [UInt64] = []
        while case .send(let sequence, _, _) = schedule.next(at: now) { sent.append(sequence) }
        return sent
    }

    @Test("Five failures in a row open the circuit: one probe at a time, until it is answered")
    func circuit() {
        var schedule = schedule(parallelism: 6, events: 6)
        #expect(send(&schedule, at: 0) == [1, 2, 3, 4, 5, 6])
        for sequence in 1...4 as ClosedRange<UInt64> {
            _ = schedule.finish(sequence, .failed, at: 10, random: 0)
            #expect(schedule.circuit == .closed)
        }
        #expect(schedule.finish(5, .failed, at: 10, random: 0) == .retry(at: 110))
        #expect(schedule.circuit == .open(probeAt: 110))
        // A straggler changes nothing.
        _ = schedule.finish(6, .failed, at: 60, random: 0)
        #expect(schedule.circuit == .open(probeAt: 110))
        #expect(schedule.deadline(after: 60) == 110)
        #expect(send(&schedule, at: 109) == [])
        #expect(send(&schedule, at: 110) == [1])
        #expect(schedule.circuit == .halfOpen(probe: 1))
        #expect(send(&schedule, at: 5_000) == [])
        #expect(schedule.finish(1, .failed, at: 5_000, random: 0) == .retry(at: 5_200))
        #expect(schedule.circuit == .open(probeAt: 5_200))
        #expect(send(&schedule, at: 5_200) == [1])
        // Whoever refuses is there.
        let refusal = WebhookSchedule.Outcome.answered(status: 404, retryAfterMilliseconds: 0)
        #expect(schedule.finish(1, refusal, at: 5_201, random: 0) == .rejected)
        #expect(schedule.circuit == .closed)
        #expect(send(&schedule, at: 5_201) == [2, 3, 4, 5, 6])
    }

    @Test("Retry-After keeps every event back, not only the one it was said of")
    func quiet() {
        var schedule = schedule(parallelism: 2, events: 2)
        #expect(send(&schedule, at: 0) == [1, 2])
        let busy = WebhookSchedule.Outcome.answered(status: 503, retryAfterMilliseconds: 3_000)
        #expect(schedule.finish(1, busy, at: 10, random: 0) == .retry(at: 3_010))
        #expect(schedule.finish(2, .failed, at: 20, random: 0) == .retry(at: 120))
        #expect(schedule.deadline(after: 20) == 3_010)
        #expect(send(&schedule, at: 3_009) == [])
        #expect(send(&schedule, at: 3_010) == [1, 2])
    }

    @Test("With nothing left to try it, an open circuit wants an event when the wait is over")
    func nothingToTry() {
        var schedule = schedule(parallelism: 5, events: 5)
        var policy = schedule.policy
        policy.attempts = 1
        schedule.change(policy)
        #expect(send(&schedule, at: 0).count == 5)
        for sequence in 1...5 as ClosedRange<UInt64> {
            #expect(schedule.wantsEvents(at: 0))
            #expect(schedule.finish(sequence, .failed, at: 10, random: 0) == .abandoned)
        }
        #expect(schedule.circuit == .open(probeAt: 110))
        #expect(schedule.deadline(after: 10) == 110)
        #expect(!schedule.wantsEvents(at: 109) && schedule.wantsEvents(at: 110))
        #expect(schedule.deadline(after: 110) == nil)
        schedule.admit(EventQueue.Entry(event: WebhookStage.event("t"), qos: 1, isRetained: false))
        #expect(send(&schedule, at: 110) == [6])
        #expect(schedule.circuit == .halfOpen(probe: 6) && !schedule.wantsEvents(at: 5_000))
    }

    @Test("A new definition is a new chance, and an outcome nobody waits for is ignored")
    func change() {
        var schedule = schedule(events: 1)
        for _ in 0..<9 {
            guard case .send(let sequence, _, _) = schedule.next(at: schedule.deadline(after: 0) ?? 0) else {
                Issue.record("nothing to send")
                return
            }
            _ = schedule.finish(sequence, .failed, at: 1_000_000, random: 0)
        }
        #expect(schedule.circuit != .closed)
        schedule.change(schedule.policy)
        #expect(schedule.circuit == .closed)
        #expect(send(&schedule, at: 1_000_000) == [1])
        #expect(schedule.takeAll().count == 1)
        #expect(schedule.finish(1, .failed, at: 1_000_001, random: 0) == .stale)
        #expect(schedule.deadline(after: 1_000_001) == nil && schedule.bytes == 0)
    }

    @Test("Waits double up to the highest, and chance takes off at most a fifth")
    func backoff() {
        let backoff = Backoff(first: 3_000, highest: 64_000)
        let waits = (1...8).map { backoff.delay(after: $0, random: 0) }
        #expect(waits == [3_000, 6_000, 12_000, 24_000, 48_000, 64_000, 64_000, 64_000])
        #expect(backoff.delay(after: 1, random: 600) == 2_400)
        #expect(backoff.delay(after: 1, random: 601) == 3_000)
        #expect(backoff.delay(after: .max, random: 0) == 64_000)
        var random = Seeded(1)
        for _ in 0..<1_000 {
            let wait = backoff.delay(after: 5, random: random.next())
            #expect((38_400...48_000).contains(wait))
        }
        #expect(Backoff(first: 1, highest: 1).delay(after: 70, random: .max) == 1)
    }
}

/// What holds in every run, checked from outside.
enum Rules {
    static func flaw(in run: ScheduleRun) -> String? {
        var fates: [Int: Seen.Fate] = [:]
        var attempts: [Int: Int] = [:]
        var lastFirst = -1
        for seen in run.seen {
            switch seen {
            case .sent(let event, let attempt, _):
                guard fates[event] == nil else { return "\(event) sent after its end" }
                guard attempt == attempts[event, default: 0] + 1 else { return "\(event): attempts out of order" }
                attempts[event] = attempt
                if attempt == 1 {
                    guard event > lastFirst else { return "\(event) begun after a younger one" }
                    lastFirst = event
                }
            case .ended(let event, let fate, let at):
                guard fates.updateValue(fate, forKey: event) == nil else { return "\(event) ended twice" }
                if let flaw = flaw(ofEnd: event, fate, at, attempts[event] ?? 0, run) { return flaw }
            }
        }
        guard fates.count == run.script.arrivals.count else { return "not every event has an end" }
        return flawOfTimes(in: run)
    }

    private static func flaw(
        ofEnd event: Int, _ fate: Seen.Fate, _ at: UInt64, _ attempts: Int, _ run: ScheduleRun
    ) -> String? {
        let arrival = run.script.arrivals[event]
        let last = attempts == 0 ? nil : run.script.attempt(event, attempts).outcome
        let isRight =
            switch fate {
            case .expired: arrival.expiresAt != 0 && arrival.expiresAt <= at
            case .delivered: last == .answered(status: 200, retryAfterMilliseconds: 0)
            case .rejected: last == .unsendable || last == .answered(status: 400, retryAfterMilliseconds: 50)
            case .abandoned: attempts == run.script.policy.attempts
            }
        return isRight ? nil : "\(event) must not end as \(fate)"
    }

    /// Walks outcomes and attempts in their order: waits, quiet, and one probe at a time while the circuit is open.
    private static func flawOfTimes(in run: ScheduleRun) -> String? {
        var due: [Int: UInt64] = [:]
        var number: [Int: Int] = [:]
        var failures = 0
        var quiet: UInt64 = 0
        var isOpen = false
        var probes: Set<Int> = []
        var next = 0
        for (place, seen) in run.seen.enumerated() {
            while next < run.outcomes.count, run.outcomes[next].place <= place {
                let (event, outcome, at, _) = run.outcomes[next]
                next += 1
                probes.remove(event)
                switch outcome {
                case .answered(200, _), .answered(400, _):
                    failures = 0
                    if isOpen { due = [:] }
                    isOpen = false
                case .unsendable: break
                case .answered, .failed:
                    failures += 1
                    isOpen = isOpen || failures >= 5
                    let random = run.script.attempt(event, number[event] ?? 1).random
                    due[event] = at + run.script.policy.backoff.delay(after: number[event] ?? 1, random: random)
                    if case .answered(_, let after) = outcome, after > 0 { quiet = max(quiet, at + after) }
                }
            }
            guard case .sent(let event, let attempt, let at) = seen else { continue }
            number[event] = attempt
            if at < due[event] ?? 0 { return "\(event) sent again at \(at), before \(due[event] ?? 0)" }
            if at < quiet { return "\(event) sent at \(at) although quiet was asked for until \(quiet)" }
            if isOpen {
                probes.insert(event)
                if probes.count > 1 { return "\(probes) sent at once while the circuit is open" }
            } else {
                probes = []
            }
        }
        return nil
    }
}
