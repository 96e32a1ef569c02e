import Core
import RawHTTP
import Reactor
import Testing

@testable import Web

@Suite("Requests that wait for a reply")
struct ReplyTests {
    private let wait = "Apus-Reply-Wait: 15000"

    @Test("A request gets the first reply, with its properties", arguments: [1, 2])
    func answered(lanes: Int) throws {
        let stage = try RequestStage(lanes: lanes)
        let responder = try stage.responder("svc/#", qos: 1)
        // As many connections as there are lanes: each lane has one.
        for (number, mode) in ["direct", "guaranteed"].enumerated() {
            let client = try stage.client()
            let headers = "\(wait)\nApus-Delivery-Mode: \(mode)\nApus-Correlation-Id: mine"
            try client.ask("POST", "/TOPIC/svc/add", headers, "1+1")
            let request = try responder.request()
            #expect(request.topic == "svc/add" && request.payload == "1+1" && request.correlation == "mine")
            #expect((request.packetID == nil) == (number == 0))
            let replyTo = try #require(request.replyTo)
            #expect(replyTo.hasPrefix("\(Replies.topicPrefix)/"))
            try responder.reply(replyTo, "2", contentType: "application/x-sum", note: "easy")
            let answer = try client.answer()
            #expect(answer.status == 200 && answer.body == "2")
            #expect(answer.headers["content-type"] == "application/x-sum")
            #expect(answer.headers["apus-property-note"] == "easy")
            // The connection goes on.
            try client.ask("POST", "/TOPIC/svc/add", wait, "2+2")
            let next = try responder.request()
            #expect(next.replyTo != replyTo && next.correlation?.isEmpty == false)
            try responder.reply(try #require(next.replyTo), "4")
            #expect(try client.answer().headers["content-type"] == "application/octet-stream")
        }
        #expect(stage.waiting == 0 && stage.dropped(.lateReply) == 0)
    }

    // One after the other: each connection takes two descriptors.
    @Test("Thousands are answered in any order, each to its own client", .serialized, arguments: [1, 2])
    func thousands(lanes: Int) throws {
        let stage = try RequestStage(lanes: lanes)
        let responders = try (0..<2).map { _ in try stage.responder("$share/g/svc/#") }
        let count = 5_000
        var clients: [RawClient] = []
        for number in 0..<count {
            let client = try stage.client()
            try client.ask("POST", "/TOPIC/svc/\(number % 7)", wait, "\(number)")
            clients.append(client)
        }
        #expect(stage.eventually { stage.waiting == count })
        // One pass more, and what they published has been posted to the other lane.
        #expect(stage.waiting == count)
        var requests: [(Responder, Responder.Request)] = []
        for responder in responders {
            try responder.ping()
            requests += responder.takeAll().map { (responder, $0) }
        }
        #expect(requests.count == count)
        for (responder, request) in requests.shuffled() {
            try responder.reply(try #require(request.replyTo), "re \(request.payload)")
        }
        for (number, client) in clients.enumerated() {
            let answer = try client.answer()
            if answer.status != 200 || answer.body != "re \(number)" { Issue.record("\(number): \(answer)") }
        }
        #expect(stage.waiting == 0 && stage.dropped(.lateReply) == 0)
    }

    @Test("Without a reply in time it is 504, and what comes late or twice is counted", arguments: [1, 2])
    func late(lanes: Int) throws {
        let stage = try RequestStage(lanes: lanes)
        let responder = try stage.responder("svc/#")
        let client = try stage.client()
        try client.ask("POST", "/TOPIC/svc/slow", "Apus-Reply-Wait: 50")
        let late = try #require(try responder.request().replyTo)
        let answer = try client.answer()
        #expect(answer.status == 504 && answer.body.contains("Apus-Reply-Wait"))
        #expect(stage.waiting == 0)
        try responder.reply(late, "too late")
        try responder.ping()
        #expect(stage.dropped(.lateReply) == 1)

        try client.ask("POST", "/TOPIC/svc/twice", wait)
        let twice = try #require(try responder.request().replyTo)
        try responder.reply(twice, "first")
        try responder.reply(twice, "second")
        #expect(try client.answer().body == "first")
        try responder.ping()
        #expect(stage.dropped(.lateReply) == 2)

        // Only the very topic counts.
        try client.ask("POST", "/TOPIC/svc/exact", wait)
        let exact = try #require(try responder.request().replyTo)
        let token = try #require(exact.split(separator: "/").last)
        let prefix = exact.dropLast(token.count)
        for wrong in ["0\(token)", token.uppercased() + "A", "", "zzzzzzzzzzzzzz", "1"] {
            try responder.reply("\(prefix)\(wrong)", "guessed")
        }
        try responder.ping()
        #expect(stage.dropped(.lateReply) == 7 && stage.waiting == 1)
        try responder.reply(exact, "found")
        #expect(try client.answer().body == "found")
    }

    @Test("In a mesh a lane's first requests wait until other nodes know where replies go", arguments: [1, 2])
    func early(lanes: Int) throws {
        let stage = try RequestStage(lanes: lanes)
        stage.joinMesh()
        let responder = try stage.responder("svc/#")
        let start = ContinuousClock.now
        let clients = try (0..<4).map { _ in try stage.client() }
        for (number, client) in clients.enumerated() {
            try client.ask("POST", "/TOPIC/svc/\(number)", wait, "\(number)")
        }
        let nobody = try stage.client()
        try nobody.ask("POST", "/TOPIC/nobody", wait)
        let requests = try clients.map { _ in try responder.request() }
        #expect(ContinuousClock.now - start >= .milliseconds(99))
        #expect(Set(requests.map(\.payload)) == ["0", "1", "2", "3"])
        for request in requests { try responder.reply(try #require(request.replyTo), "re \(request.payload)") }
        for (number, client) in clients.enumerated() { #expect(try client.answer().body == "re \(number)") }
        #expect(try nobody.answer().status == 503)
        // Nothing waits any more.
        try clients[0].ask("POST", "/TOPIC/svc/next", wait, "next")
        let next = try responder.request()
        #expect(next.payload == "next")
        try responder.reply(try #require(next.replyTo), "done")
        #expect(try clients[0].answer().body == "done")
        #expect(stage.waiting == 0 && stage.dropped(.lateReply) == 0)
    }

    @Test("A client that has gone is forgotten")
    func gone() throws {
        let stage = try RequestStage(lanes: 2)
        let responder = try stage.responder("svc/#")
        var clients = try (0..<4).map { _ in try stage.client() }
        for client in clients { try client.ask("POST", "/TOPIC/svc/x", wait) }
        let requests = try clients.map { _ in try #require(try responder.request().replyTo) }
        // A client that only says that it will send no more may still read; these do not.
        for client in clients { client.resetAtTheEnd() }
        clients.removeAll()
        #expect(stage.eventually { stage.waiting == 0 })
        for topic in requests { try responder.reply(topic, "nobody") }
        try responder.ping()
        #expect(stage.dropped(.lateReply) == 4)
    }

    @Test("What cannot be answered is said at once")
    func refused() throws {
        let stage = try RequestStage { $0.maxOutstandingRequests = 2 }
        let client = try stage.client()
        let nobody = try client.get("POST", "/TOPIC/svc/x", wait, "x")
        #expect(nobody.status == 503 && nobody.headers["retry-after"] == "1")
        #expect(nobody.body.contains("Nobody is subscribed to svc/x"))
        let responder = try stage.responder("svc/#")
        #expect(try client.get("POST", "/TOPIC/svc/x", "\(wait)\nApus-Reply-To: a").status == 400)
        #expect(try client.get("POST", "/TOPIC/svc/x", "\(wait)\nApus-Retain: true").status == 400)
        #expect(try client.get("POST", "/TOPIC/svc/x", "Apus-Reply-Wait: 999999999").status == 400)
        #expect(try client.get("POST", "/TOPIC/svc/+", wait).status == 400)
        #expect(stage.waiting == 0)
        let others = try (0..<2).map { _ in try stage.client() }
        for other in others { try other.ask("POST", "/TOPIC/svc/x", wait) }
        let topics = try others.map { _ in try #require(try responder.request().replyTo) }
        let full = try client.get("POST", "/TOPIC/svc/x", wait)
        #expect(full.status == 429 && full.headers["retry-after"] == "1")
        try responder.reply(topics[0], "1")
        try responder.ping()
        try client.ask("POST", "/TOPIC/svc/x", wait)
        try responder.reply(try #require(try responder.request().replyTo), "2")
        #expect(try client.answer().body == "2")
    }

    @Test("Rules: who may ask, who may answer, who may listen")
    func rules() throws {
        let stage = try RequestStage(
            lanes: 2,
            rules: [
                AccessRule(effect: .deny, action: .subscribe, topics: ["apus/reply/#"]),
                AccessRule(effect: .allow, action: .subscribe, topics: ["#"]),
                AccessRule(effect: .allow, action: .publish, topics: ["svc/#"], users: ["alice"]),
                AccessRule(effect: .allow, action: .publish, topics: ["apus/reply/#"], users: ["responder"]),
            ])
        #expect(throws: Responder.Refused.self) { try stage.responder("apus/reply/#", user: "eve") }
        #expect(throws: Responder.Refused.self) { try stage.responder("#", user: "eve") }
        let responder = try stage.responder("svc/#")
        let mute = try stage.responder("svc/#", user: "mute")
        let client = try stage.client()
        #expect(try client.get("POST", "/TOPIC/svc/x", wait).status == 401)
        #expect(try client.get("POST", "/TOPIC/svc/x", "User: bob\n\(wait)").status == 403)
        #expect(stage.waiting == 0)
        try client.ask("POST", "/TOPIC/svc/x", "User: alice\n\(wait)")
        let topic = try #require(try mute.request().replyTo)
        try mute.reply(topic, "no right")
        try mute.ping()
        #expect(stage.waiting == 1)
        try responder.reply(try #require(try responder.request().replyTo), "right")
        #expect(try client.answer().body == "right")
    }

    @Test("A node that stops does not let its clients wait")
    func stopping() throws {
        let stage = try RequestStage()
        let responder = try stage.responder("svc/#")
        let client = try stage.client()
        try client.ask("POST", "/TOPIC/svc/x", wait)
        _ = try responder.request()
        stage.reactor.stop(drainMilliseconds: 5_000)
        let answer = try client.answer()
        #expect(answer.status == 503 && answer.headers["connection"] == "close")
    }

    @Test("A guaranteed publish is answered when all lanes have taken it", arguments: [1, 2])
    func guaranteed(lanes: Int) throws {
        let stage = try RequestStage(lanes: lanes) { $0.maxInFlight = 1_000 }
        let subscribers = try (0..<3).map { _ in try stage.responder("g/#", qos: 1) }
        let clients = try (0..<4).map { _ in try stage.client() }
        for round in 0..<20 {
            for client in clients {
                try client.ask("POST", "/TOPIC/g/x", "Apus-Delivery-Mode: guaranteed", "\(round)")
            }
            for client in clients {
                let answer = try client.answer()
                #expect(answer.status == 202)
                #expect(answer.body == #"{"id":"id","matched":3,"stored":"memory"}"#)
            }
        }
        for subscriber in subscribers {
            for round in 0..<20 {
                for _ in clients { #expect(try subscriber.request().payload == "\(round)") }
            }
        }
        let left = stage.gather { state, _ in state.publisherPorts.reduce(0) { $0 + $1.count } }
        #expect(left.allSatisfy { $0 == 0 })
    }

    @Test("A full queue on whatever lane is said", arguments: [1, 2])
    func guaranteedRefused(lanes: Int) throws {
        let stage = try RequestStage(lanes: lanes) { ($0.maxQueuedEvents, $0.maxInFlight) = (2, 1) }
        // Without acknowledgements one event is under way and two wait.
        let subscriber = try stage.responder("g/#", qos: 1)
        for client in try (0..<lanes).map({ _ in try stage.client() }) {
            var refused = 0
            for _ in 0..<5 {
                let answer = try client.get("POST", "/TOPIC/g/x", "Apus-Delivery-Mode: guaranteed", "x")
                #expect(answer.status == 202)
                if answer.body == #"{"id":"id","matched":1,"refused":1,"stored":"memory"}"# { refused += 1 }
            }
            #expect(refused >= 2)
        }
        #expect(try subscriber.request().payload == "x")
        #expect(stage.dropped(.queueFull) == 5 * lanes - 3)
    }
}
