import Core
import Foundation
import RawHTTP
import Testing
import TestSupport

@testable import Web

@Suite("Asking for retained values and topics")
struct QueryTests {
    private let retain = "Apus-Retain: true"

    @Test("The last value of a topic, with its properties")
    func retained() throws {
        let stage = try RequestStage(lanes: 2)
        let client = try stage.client()
        #expect(try client.get("GET", "/TOPIC/a/b").status == 404)
        let headers = "\(retain)\nContent-Type: text/plain\nApus-Property-unit: °C"
        #expect(try client.get("POST", "/TOPIC/a/b", headers, "21").status == 202)
        let answer = try client.get("GET", "/TOPIC/a/b")
        #expect(answer.status == 200 && answer.body == "21")
        #expect(answer.headers["content-type"] == "text/plain")
        #expect(answer.headers["apus-property-unit"] == "%C2%B0C")
        #expect(answer.headers["cache-control"] == "no-cache")
        let tag = try #require(answer.headers["etag"])
        #expect(tag.hasPrefix("\"") && tag.hasSuffix("\""))
        let head = try client.get("HEAD", "/TOPIC/a/b")
        #expect(head.status == 200 && head.headers["content-length"] == "2" && head.headers["etag"] == tag)
        for known in [tag, "W/\(tag)", "\"x\", \(tag)", "\"x\",\(tag) ", "*"] {
            let same = try client.get("GET", "/TOPIC/a/b", "If-None-Match: \(known)")
            #expect(same.status == 304 && same.body.isEmpty && same.headers["etag"] == tag, "\(known)")
        }
        #expect(try client.get("GET", "/TOPIC/a/b", "If-None-Match: \"x\"").status == 200)
        // The same value on another topic is the same; other properties or another value are not.
        #expect(try client.get("POST", "/TOPIC/a/c", headers, "21").status == 202)
        #expect(try client.get("POST", "/TOPIC/a/d", retain, "21").status == 202)
        #expect(try client.get("GET", "/TOPIC/a/d").headers["etag"] != tag)
        #expect(try client.get("POST", "/TOPIC/a/b", headers, "22").status == 202)
        let changed = try client.get("GET", "/TOPIC/a/b", "If-None-Match: \(tag)")
        #expect(changed.status == 200 && changed.body == "22")
        for path in ["/TOPIC/a/%2B", "/TOPIC/%23", "/TOPIC/a/+"] {
            #expect(try client.get("GET", path).status == 400, "\(path)")
        }
    }

    @Test("Clearing a value tells those who are subscribed")
    func cleared() throws {
        let stage = try RequestStage(lanes: 2)
        let client = try stage.client()
        #expect(try client.get("POST", "/TOPIC/a", retain, "1").status == 202)
        let subscriber = try stage.responder("a")
        #expect(try subscriber.request().payload == "1")
        #expect(try client.get("DELETE", "/TOPIC/a").status == 204)
        let told = try subscriber.request()
        #expect(told.topic == "a" && told.payload.isEmpty)
        #expect(try client.get("GET", "/TOPIC/a").status == 404)
        #expect(try client.get("DELETE", "/TOPIC/a").status == 204)
        #expect(try client.get("DELETE", "/TOPIC/a/+").status == 400)
    }

    @Test("Somebody reads, lists and clears what the rules let him")
    func rules() throws {
        let stage = try RequestStage(
            lanes: 2,
            rules: [
                AccessRule(effect: .allow, action: .all, topics: ["#"], users: ["root"]),
                AccessRule(effect: .deny, action: .subscribe, topics: ["a/secret"]),
                AccessRule(effect: .allow, action: .subscribe, topics: ["a/#"]),
                AccessRule(effect: .allow, action: .publish, topics: ["a/own"]),
            ])
        let client = try stage.client()
        for topic in ["a/own", "a/secret", "a/x", "b"] {
            #expect(try client.get("POST", "/TOPIC/\(topic)", "User: root\n\(retain)", topic).status == 202)
        }
        #expect(try client.get("GET", "/TOPIC/a/x", "User: u").body == "a/x")
        #expect(try client.get("GET", "/TOPIC/a/secret", "User: u").status == 403)
        #expect(try client.get("GET", "/TOPIC/a/secret").status == 401)
        #expect(try client.get("GET", "/TOPIC/b", "User: u").status == 403)
        #expect(try client.get("DELETE", "/TOPIC/a/x", "User: u").status == 403)
        #expect(try client.get("DELETE", "/TOPIC/a/own", "User: u").status == 204)
        #expect(try topics(client, "", "User: u").names == ["a/own", "a/x"])
        #expect(try topics(client, "", "User: root").names == ["a/own", "a/secret", "a/x", "b"])
    }

    private struct Document: Decodable {
        struct Topic: Decodable {
            var topic: String
            var retained: Bool
            var subscriptions: Int?
        }

        var topics: [Topic]
        var truncated: Bool

        var names: [String] { topics.map(\.topic) }
    }

    private func topics(_ client: RawClient, _ query: String, _ headers: String = "") throws -> Document {
        let answer = try client.get("GET", "/topics\(query)", headers)
        #expect(answer.status == 200 && answer.headers["content-type"] == "application/json", "\(answer)")
        return try JSONDecoder().decode(Document.self, from: Data(answer.body.utf8))
    }

    @Test("Topics are those with a value and those published to lately, on all lanes", arguments: [1, 2])
    func listing(lanes: Int) throws {
        let stage = try RequestStage(lanes: lanes)
        let subscriber = try stage.responder("a/#")
        // One on each lane.
        let clients = try (0..<2).map { _ in try stage.client() }
        #expect(try topics(clients[0], "").names.isEmpty)
        for (number, client) in clients.enumerated() {
            #expect(try client.get("POST", "/TOPIC/a/\(number)", "", "x").status == 202)
            #expect(try client.get("POST", "/TOPIC/b/\(number)", retain, "x").status == 202)
            #expect(try client.get("POST", "/TOPIC/a/both", "", "x").status == 202)
        }
        for client in clients {
            let all = try topics(client, "")
            #expect(all.names == ["a/0", "a/1", "a/both", "b/0", "b/1"])
            #expect(all.topics.map(\.retained) == [false, false, false, true, true])
            #expect(all.topics.map(\.subscriptions) == [1, 1, 1, 0, 0] && !all.truncated)
            let some = try topics(client, "?filter=a/%2B&limit=2")
            #expect(some.names == ["a/0", "a/1"] && some.truncated)
            let exact = try topics(client, "?filter=a/%3E&limit=3")
            #expect(exact.names.count == 3 && !exact.truncated)
        }
        for query in [
            "?limit=0", "?limit=10001", "?limit=x", "?filter=a/%23/b", "?filter=$share/g/a", "?filter=$local/a",
            "?filter=",
        ] {
            #expect(try clients[0].get("GET", "/topics\(query)").status == 400, "\(query)")
        }
        withExtendedLifetime(subscriber) {}
        let left = stage.gather { state, _ in state.listings }
        #expect(left.allSatisfy { $0 == 0 })
    }

    /// A lane without a thread, 100,000 retained topics, and 5,000 more that were only published to.
    private struct Bare {
        let lane: Lane
        let router: Router
        let state: WebLane
        let context: WebContext
        let principal: Principal

        init() {
            let lanes = Lanes(wakes: [{}], limits: Limits())
            lane = Lane(number: 0, lanes: lanes)
            router = Router(limits: Limits(), hashKey: 4711)
            context = WebContext(
                routers: ["default": router], authenticator: Nobody(), settings: WebSettings(), nodeName: "",
                version: "", instance: "run", adapters: [:], webhooks: nil, random: { 7 }, wallClock: { 0 })
            state = context.state(of: lane)
            principal = Principal(identity: Identity(), clientID: "", router: router)
            for number in 0..<105_000 {
                let topic = Array("t/\(number % 317)/\(number)".utf8)
                let event = topic.withUnsafeBytes {
                    Event(
                        topic: $0, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: $0, qos: 0,
                        isRetained: number < 100_000)
                }
                router.publish(event, as: principal, on: lane)
            }
        }

        /// One pass, as the reactor's lanes make it.
        func pass() {
            lane.readMail()
            lane.doWork()
        }
    }

    private struct Nobody: Authenticator {
        func authenticate(
            _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
        ) -> AuthenticationResult? { .refused(.busy) }
    }

    @Test("A listing of very many topics takes little of each pass")
    func manyTopics() throws {
        let bare = Bare()
        let filter = try TopicFilter("#", grammar: .mqtt)
        for quiet in [0, 1_000] {
            var answer: HTTPResponse?
            let listing = TopicListing(filter, limit: 1_000, bare.principal, bare.state) { answer = $0 }
            listing.begin(on: bare.lane)
            var passes = 0
            while answer == nil, passes < 1_000_000 {
                bare.lane.quietPasses = quiet
                bare.pass()
                passes += 1
            }
            // Three for each topic with its node, in portions of 32 while the lane is busy, of 1,024 otherwise.
            #expect(passes > 3 * 100_000 / (quiet == 0 ? 64 : 1_300), "\(passes) passes")
            let body = try #require(answer?.body)
            #expect(String(decoding: body, as: UTF8.self).hasSuffix(#"],"truncated":true}"#))
            #expect(body.count { $0 == UInt8(ascii: "{") } == 1_001)
            #expect(!bare.lane.hasWork && bare.state.listings == 0)
        }
    }

    @Test("What one portion spends is what it was given, and little more")
    func portions() throws {
        let bare = Bare()
        var answer: HTTPResponse?
        let filter = try TopicFilter("#", grammar: .mqtt)
        let listing = TopicListing(filter, limit: 10_000, bare.principal, bare.state) { answer = $0 }
        listing.begin(on: bare.lane)
        var spent = 0
        while answer == nil {
            bare.lane.readMail()
            var budget = 100
            _ = listing.work(&budget, on: bare.lane)
            // A step of the look-up may find an event in every second node, which counts for two.
            if budget < -102 { Issue.record("\(100 - budget) spent of 100") }
            spent += 100 - budget
        }
        #expect(spent > 3 * 100_000)
    }

    @Test("A listing ends with its client, and with its time")
    func ends() throws {
        let bare = Bare()
        let filter = try TopicFilter("#", grammar: .mqtt)
        var answer: HTTPResponse?
        let gone = TopicListing(filter, limit: 10, bare.principal, bare.state) { answer = $0 }
        gone.begin(on: bare.lane)
        for _ in 0..<10 { bare.pass() }
        gone.gone(on: bare.lane)
        for _ in 0..<10 { bare.pass() }
        #expect(answer == nil && !bare.lane.hasWork && bare.state.listings == 0)
        let late = TopicListing(filter, limit: 10, bare.principal, bare.state) { answer = $0 }
        late.begin(on: bare.lane)
        for _ in 0..<10 { bare.pass() }
        #expect(late.timedOut(on: bare.lane) && !late.timedOut(on: bare.lane))
        let body = String(decoding: try #require(answer?.body), as: UTF8.self)
        #expect(body.hasSuffix(#"],"truncated":true}"#) && body.hasPrefix(#"{"topics":[{"topic":"t/"#))
        for _ in 0..<10 { bare.pass() }
        #expect(!bare.lane.hasWork && bare.state.listings == 0)
    }

    @Test("The first of many topics, in whatever order they come")
    func firstTopics() {
        for round in 0..<200 {
            let (count, bytes) = (1 + round % 20, 20 + round)
            var topics = FirstTopics(count: count, bytes: bytes)
            let come = (0..<60).map { _ in Array(String(Int.random(in: 0..<200), radix: 5).utf8) }
            for topic in come { topics.add(topic, FirstTopics.Note(isRetained: true)) }
            var expected: [[UInt8]] = []
            var total = 0
            for topic in Set(come).sorted(by: { $0.lexicographicallyPrecedes($1) }) {
                total += topic.count
                guard expected.count < count, total <= bytes else { break }
                expected.append(topic)
            }
            #expect(topics.isTruncated == (expected.count < Set(come).count))
            var found: [[UInt8]] = []
            while let last = topics.removeLast() { found.append(last.topic) }
            if found.reversed() != expected { Issue.record("\(come): \(found), not \(expected)") }
        }
    }

    @Test("What is said of a topic comes together; the newest count holds")
    func notes() {
        var topics = FirstTopics(count: 2, bytes: 100)
        topics.add([1], FirstTopics.Note(subscriptions: 3, generation: 5))
        topics.add([1], FirstTopics.Note(isRetained: true))
        topics.add([1], FirstTopics.Note(subscriptions: 2, generation: 4))
        let note = topics.removeLast()?.note
        #expect(note?.isRetained == true && note?.subscriptions == 3)
    }
}
