import Testing

@testable import Reactor

@Suite("The timer wheel")
struct TimerWheelTests {
    @Test("Against a plain table: never early, at most one tick late, none lost", arguments: 1...5)
    func oracle(_ seed: UInt64) {
        var state = seed &* 0x9E37_79B9_7F4A_7C15
        func below(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int((state >> 33) % UInt64(bound))
        }
        let tick = TimerWheel.tickMilliseconds
        var now: UInt64 = 1_000_000
        var wheel = TimerWheel(now: now)
        var deadlines: [Int: UInt64] = [:]
        for _ in 0..<20_000 {
            let number = below(300)
            switch below(4) {
            case 0:
                wheel.cancel(number)
                deadlines[number] = nil
            case 1, 2:
                let span = [50, 1_000, 60_000, 200_000][below(4)]
                let deadline = now + UInt64(below(span))
                wheel.set(number, deadline: deadline)
                deadlines[number] = deadline
            default:
                now += UInt64([0, 1, 100, 128, 3_000, 140_000][below(6)])
                let due = wheel.advance(to: now)
                for number in due {
                    guard let deadline = deadlines.removeValue(forKey: number), deadline <= now else {
                        Issue.record("\(number) came early or twice, seed \(seed)")
                        continue
                    }
                }
                for (number, deadline) in deadlines where deadline + 2 * tick <= now {
                    Issue.record("\(number) is late by \(now - deadline), seed \(seed)")
                }
            }
            let wait = wheel.wait(from: now)
            #expect((wait == nil) == deadlines.isEmpty)
            if let wait, let first = deadlines.values.min(), now + UInt64(wait) > first + 2 * tick {
                Issue.record("waits \(wait) for a deadline in \(first - now), seed \(seed)")
            }
        }
    }

    @Test("A deadline in the past comes with the next tick; setting again replaces")
    func past() {
        var wheel = TimerWheel(now: 10_000)
        wheel.set(3, deadline: 1)
        wheel.set(4, deadline: 10_200)
        wheel.set(4, deadline: 90_000)
        wheel.cancel(7)
        let first = wheel.advance(to: 10_000 + 128)
        let second = wheel.advance(to: 60_000)
        let third = wheel.advance(to: 90_128)
        #expect(first == [3] && second == [] && third == [4])
        let wait = wheel.wait(from: 90_128)
        #expect(wait == nil)
    }
}
