import Glibc
import RawHTTP
import Testing
import TestSupport

@testable import Core
@testable import Web

@Suite("Requests that may be repeated")
struct IdempotencyTests {
    private static let seed = getenv("APUS_SEED").flatMap { UInt64(String(cString: $0)) } ?? .random(in: 1...1 << 40)

    /// SplitMix64.
    private struct Random {
        var state: UInt64

        mutating func below(_ bound: Int) -> Int {
            state &+= 0x9E37_79B9_7F4A_7C15
            var word = state
            word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
            word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
            return Int((word ^ (word >> 31)) % UInt64(bound))
        }
    }

    /// What the window should know, kept in the simplest way: a list in the order of the claims.
    private struct Oracle {
        struct Entry {
            var key: Int
            var request: Int
            var number: Int
            var endsAt: UInt64
            var answer: Int?
            var isLong = false
        }

        var entries: [Entry] = []
        let capacity: Int
        let milliseconds: UInt64

        mutating func claim(_ key: Int, _ request: Int, _ number: Int, now: UInt64) -> String {
            entries.removeAll { $0.endsAt <= now }
            if let known = entries.first(where: { $0.key == key }) {
                if known.request != request { return "different" }
                guard let answer = known.answer else { return "under way" }
                return known.isLong ? "long \(answer)" : "answered \(answer)"
            }
            if entries.count == capacity { entries.removeFirst() }
            entries.append(Entry(key: key, request: request, number: number, endsAt: now + milliseconds))
            return "new"
        }

        mutating func settle(_ number: Int, _ answer: Int?, isLong: Bool) {
            guard let place = entries.firstIndex(where: { $0.number == number }) else { return }
            guard let answer else {
                entries.remove(at: place)
                return
            }
            (entries[place].answer, entries[place].isLong) = (answer, isLong)
        }
    }

    private func digest(_ number: Int) -> Digest {
        // Five chains for small numbers, so that they have several links; a chain of their own for large ones.
        if number.magnitude >= 1_000 { return Digest(high: 1, low: UInt64(truncatingIfNeeded: number)) }
        return Digest(high: UInt64(truncatingIfNeeded: number), low: UInt64(number.magnitude % 5))
    }

    private func text(_ claim: IdempotencyWindow.Claim) -> String {
        switch claim {
        case .new: "new"
        case .answered(let response): "answered \(response.status)"
        case .answeredAtLength(let status): "long \(status)"
        case .underWay: "under way"
        case .different: "different"
        }
    }

    @Test("The window says what a list would", arguments: [1, 7, 40])
    func likeAList(capacity: Int) {
        var random = Random(state: Self.seed &+ UInt64(capacity))
        var limits = Limits()
        (limits.maxIdempotencyKeys, limits.idempotencySeconds) = (capacity, 2)
        let window = IdempotencyWindow(limits: limits) { 1 }
        var oracle = Oracle(capacity: capacity, milliseconds: 2_000)
        var open: [(number: Int, ticket: IdempotencyTicket)] = []
        var now: UInt64 = 10
        for number in 0..<40_000 {
            now += UInt64(random.below(random.below(500) == 0 ? 3_000 : 60))
            if random.below(3) > 0 {
                let (key, request) = (random.below(60), random.below(8) == 0 ? 1 : 0)
                let claim = window.claim(digest(key), digest(request), now: now)
                let expected = oracle.claim(key, request, number, now: now)
                if text(claim) != expected {
                    Issue.record("\(number): \(text(claim)), not \(expected); repeat with APUS_SEED=\(Self.seed)")
                    return
                }
                if case .new(let ticket) = claim { open.append((number, ticket)) }
            } else if !open.isEmpty {
                let (which, ticket) = open.remove(at: random.below(open.count))
                if random.below(4) == 0 {
                    ticket.abandon()
                    oracle.settle(which, nil, isLong: false)
                } else {
                    let isLong = random.below(4) == 0
                    ticket.settle(HTTPResponse(status: number, body: [UInt8](repeating: 0, count: isLong ? 4_097 : 9)))
                    oracle.settle(which, number, isLong: isLong)
                }
            }
            #expect(window.count <= capacity)
        }
    }

    @Test("The bytes of answers have a bound, and the oldest go first")
    func bytes() {
        let window = IdempotencyWindow(limits: Limits()) { 1 }
        let count = IdempotencyWindow.maxBytes / IdempotencyWindow.maxAnswerBytes
        let answer = HTTPResponse(status: 200, body: [UInt8](repeating: 0, count: IdempotencyWindow.maxAnswerBytes))
        for number in 0..<count + 100 {
            guard case .new(let ticket) = window.claim(digest(number), digest(0), now: 1) else {
                Issue.record("\(number) is known")
                return
            }
            ticket.settle(answer)
        }
        #expect(window.bytes == IdempotencyWindow.maxBytes && window.count == count)
        #expect(text(window.claim(digest(100), digest(0), now: 1)) == "answered 200")
        #expect(text(window.claim(digest(99), digest(0), now: 1)) == "new")
        // What is over goes little by little, with the claims that follow.
        let later = UInt64(Limits().idempotencySeconds) * 1_000 + 1
        for number in 0..<count { _ = window.claim(digest(-1 - number), digest(0), now: later) }
        #expect(window.bytes == 0 && window.count == count)
    }

    @Test("Digests tell parts apart")
    func digests() {
        func made(_ secret: [UInt64], _ parts: [String]) -> Digest? {
            var maker = Digest.Maker(secret)
            for part in parts { maker.add(Array(part.utf8)) }
            return maker.finish()
        }
        let all = [
            made([1], ["a", "b"]), made([1], ["ab"]), made([1], ["", "ab"]), made([1], ["ab", ""]),
            made([2], ["a", "b"]), made([], ["a", "b"]),
        ]
        #expect(Set(all).count == all.count && !all.contains(nil))
        #expect(made([1], ["a", "b"]) == all[0])
    }

    private let guaranteed = "Apus-Delivery-Mode: guaranteed"

    @Test("A repeated publish is published once", arguments: [1, 2])
    func publishes(lanes: Int) throws {
        let stage = try RequestStage(lanes: lanes)
        let subscriber = try stage.responder("#")
        // On several lanes, for the window is the node's.
        let clients = try (0..<2).map { _ in try stage.client() }
        let headers = "\(guaranteed)\nIdempotency-Key: \"k\""
        let first = try clients[0].get("POST", "/TOPIC/a", headers, "1")
        #expect(first.status == 202 && first.headers["idempotency-replayed"] == nil)
        for client in clients {
            let again = try client.get("POST", "/TOPIC/a", headers, "1")
            #expect(again.status == 202 && again.body == first.body)
            #expect(again.headers["content-type"] == first.headers["content-type"])
            #expect(again.headers["idempotency-replayed"] == "true")
            #expect(try client.get("POST", "/TOPIC/a", headers, "2").status == 422)
            #expect(try client.get("POST", "/TOPIC/b", headers, "1").status == 422)
        }
        // Another user's key is another key, and so is that of a user without a name.
        for user in ["User: a", "User: b"] {
            #expect(try clients[0].get("POST", "/TOPIC/a", "\(user)\n\(headers)", "1").status == 202)
        }
        #expect(try clients[0].get("POST", "/TOPIC/end", guaranteed, "end").status == 202)
        var seen: [String] = []
        while seen.last != "end" { seen.append(try subscriber.request().payload) }
        #expect(seen == ["1", "1", "1", "end"])
        let long = String(repeating: "k", count: 256)
        #expect(try clients[0].get("POST", "/TOPIC/a", "Idempotency-Key: \(long)", "1").status == 400)
    }

    @Test("While the first is under way the second is told; what was refused may be tried again")
    func underWay() throws {
        let stage = try RequestStage(
            lanes: 2,
            rules: [
                AccessRule(effect: .deny, action: .publish, topics: ["no"]),
                AccessRule(effect: .allow, action: .all, topics: ["#"]),
            ])
        let clients = try (0..<2).map { _ in try stage.client() }
        let headers = "Apus-Reply-Wait: 15000\nIdempotency-Key: k"
        // Nobody is there: it came to nothing.
        #expect(try clients[0].get("POST", "/TOPIC/svc", headers).status == 503)
        #expect(try clients[0].get("POST", "/TOPIC/no", "User: u\nIdempotency-Key: no").status == 403)
        #expect(try clients[0].get("POST", "/TOPIC/no", "User: u\nIdempotency-Key: no", "other").status == 403)
        let responder = try stage.responder("svc")
        try clients[0].ask("POST", "/TOPIC/svc", headers)
        let topic = try #require(try responder.request().replyTo)
        let second = try clients[1].get("POST", "/TOPIC/svc", headers)
        #expect(second.status == 409 && second.headers["retry-after"] == "1")
        try responder.reply(topic, "done")
        #expect(try clients[0].answer().body == "done")
        let third = try clients[1].get("POST", "/TOPIC/svc", headers)
        #expect(third.body == "done" && third.headers["idempotency-replayed"] == "true")
        // Answers that are not small are not kept, but the request is known.
        let large = "Apus-Reply-Wait: 15000\nIdempotency-Key: large"
        try clients[0].ask("POST", "/TOPIC/svc", large)
        let text = String(repeating: "x", count: 5_000)
        try responder.reply(try #require(try responder.request().replyTo), text)
        #expect(try clients[0].answer().body == text)
        let unkept = try clients[1].get("POST", "/TOPIC/svc", large)
        #expect(unkept.status == 409 && unkept.body.contains("200"))
    }

    @Test("What requests need for their topics is freed with them, whatever becomes of their events")
    func topics() throws {
        let stage = try RequestStage(lanes: 1)
        let client = try stage.client()
        for _ in 0..<20 {
            #expect(try client.get("POST", "/TOPIC/a%23", guaranteed).status != 202)
            #expect(try client.get("POST", "/TOPIC/%61", guaranteed).status == 202)
        }
        #expect(stage.gather { _, lane in lane.turn.scratchCount } == [0])
    }

    @Test("Whoever lost the answer with the connection is given it on another")
    func lost() throws {
        let stage = try RequestStage(lanes: 2)
        let responder = try stage.responder("svc")
        let headers = "Apus-Reply-Wait: 15000\nIdempotency-Key: k"
        let client = try stage.client()
        let topic: String
        do {
            let lost = try stage.client()
            lost.resetAtTheEnd()
            try lost.ask("POST", "/TOPIC/svc", headers)
            topic = try #require(try responder.request().replyTo)
        }
        // Nobody reads, but the reply is still awaited.
        let orphans = { stage.gather { state, _ in state.replyPorts.reduce(0) { $0 + $1.orphanCount } }.reduce(0, +) }
        #expect(stage.eventually { orphans() == 1 })
        #expect(stage.waiting == 1)
        try responder.reply(topic, "found")
        try responder.ping()
        #expect(stage.waiting == 0 && orphans() == 0)
        let again = try client.get("POST", "/TOPIC/svc", headers)
        #expect(again.body == "found" && again.headers["idempotency-replayed"] == "true")

        // And one whose reply never comes ends as well, within a second after its time.
        do {
            let lost = try stage.client()
            lost.resetAtTheEnd()
            try lost.ask("POST", "/TOPIC/svc", "Apus-Reply-Wait: 1500\nIdempotency-Key: never")
            _ = try responder.request()
        }
        #expect(stage.eventually { orphans() == 1 })
        #expect(stage.eventually { stage.waiting == 0 })
        let never = try client.get("POST", "/TOPIC/svc", "Apus-Reply-Wait: 1500\nIdempotency-Key: never")
        #expect(never.status == 504 && never.headers["idempotency-replayed"] == "true")
    }
}
