import Core
import TestSupport
import Testing

@testable import Web

@Suite("Streams and polls that are broader than the rules")
struct AccessStreamTests {
    private func stand(_ broad: BroadSubscriptions, lanes: Int = 1) throws -> StreamStand {
        let stand = try StreamStand(lanes: lanes)
        try load(["open/#"], broad, into: stand)
        return stand
    }

    private func load(_ topics: [String], _ broad: BroadSubscriptions, into stand: StreamStand) throws {
        stand.router.reload(
            try AccessRules(
                [
                    AccessRule(effect: .allow, action: .publish, topics: ["#"], users: ["publisher"]),
                    AccessRule(effect: .allow, action: .subscribe, topics: topics),
                ], broadSubscriptions: broad))
        stand.settle()
    }

    private func text(_ client: StandClient) -> String { String(decoding: client.received(), as: UTF8.self) }

    @Test("Wildcard past the rule: 403, or what may be heard")
    func broad() throws {
        let strict = try stand(.refuse)
        let refused = strict.client()
        refused.get("/events?filter=%23", "User: u")
        #expect(refused.answer().status == "403")
        let stand = try stand(.filter)
        for topic in ["open/r", "closed/r"] { stand.publish(topic, "kept \(topic)", retained: true) }
        let client = stand.client()
        client.get("/events?filter=%23", "User: u")
        for topic in ["open/1", "closed/1"] { stand.publish(topic, "live \(topic)") }
        let heard = text(client)
        #expect(heard.contains("kept open/r") && heard.contains("live open/1") && !heard.contains("closed"))
        let poll = stand.client()
        poll.get("/poll?filter=%23", "User: u")
        stand.publish("closed/2", "closed")
        #expect(text(poll).isEmpty)
        stand.publish("open/2", "open")
        #expect(text(poll).contains(#""topic":"open/2""#))
        let shared = stand.client()
        shared.get("/events?filter=%23&group=g", "User: u")
        #expect(shared.answer().status == "403", "a share is all or nothing")
    }

    @Test("Rules that change: streams of what may not be heard any more are cut, and the window is closed to them")
    func reload() throws {
        let stand = try stand(.refuse)
        let client = stand.client()
        client.get("/events?filter=open/%23", "User: u")
        let start = client.read().lastID
        stand.publish("open/a", "before")
        #expect(text(client).contains("before"))
        try load(["open/b"], .refuse, into: stand)
        #expect(client.closing == .administrative)
        let back = stand.client()
        back.get("/events?filter=open/%23", "User: u", "Last-Event-ID: \(start)")
        #expect(back.answer().status == "403")
        // With `filter` it may come back, but not to what was kept for it under the former rules.
        try load(["open/b"], .filter, into: stand)
        let again = stand.client()
        again.get("/events?filter=open/%23", "User: u", "Last-Event-ID: \(start)")
        for topic in ["open/a", "open/b"] { stand.publish(topic, "after \(topic)") }
        let heard = text(again)
        #expect(!heard.contains("before") && !heard.contains("after open/a"))
        #expect(stand.counters.dropped[DropReason.notReadable.rawValue] > 0)
    }

    @Test("Who has proven different things shares no channel, whatever the name")
    func claims() throws {
        let stand = try stand(.refuse)
        try load(["${claim.department}/#"], .filter, into: stand)
        let clients = ["ops", "sales", "ops", "#"].map { department in
            let client = stand.client()
            client.get("/events?filter=%2B/news", "User: u", "Department: \(department)")
            return client
        }
        for department in ["ops", "sales"] { stand.publish("\(department)/news", "for \(department)") }
        let heard = clients.map { text($0) }
        #expect(heard[0].contains("for ops") && !heard[0].contains("for sales"))
        #expect(heard[1].contains("for sales") && !heard[1].contains("for ops"))
        #expect(heard[2].contains("for ops") && stand.streams().channelCount == 2)
        #expect(heard[3].hasPrefix("HTTP/1.1 403"))
    }
}

/// The same for clients of `apus.v1.json`.
@Suite("Subscriptions over WebSocket that are broader than the rules")
struct AccessSocketTests {
    private struct NoDoor: Authenticator {
        func authenticate(
            _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
        ) -> AuthenticationResult? { .refused(.badCredentials) }
    }

    @Test(
        "Broad subscriptions get what may be heard; one that is not allowed any more ends with a word",
        arguments: [("u", 403), (nil, 401)] as [(String?, Int)])
    func rules(_ user: String?, _ refusal: Int) throws {
        let stage = WebSocketStage(lanes: 1)
        let router = Router(limits: Limits(), hashKey: 4_711)
        let context = WebContext(
            routers: ["default": router], authenticator: NoDoor(), settings: WebSettings(), nodeName: "test",
            version: "0", instance: "run", adapters: [:], webhooks: nil, random: { 4 }, wallClock: { 0 })
        func load(_ topics: [String], _ broad: BroadSubscriptions) throws {
            router.reload(
                try AccessRules(
                    [
                        AccessRule(effect: .allow, action: .publish, topics: ["open/#", "closed/#"]),
                        AccessRule(effect: .allow, action: .subscribe, topics: topics),
                    ], broadSubscriptions: broad))
            stage.settle()
        }
        try load(["open/#"], .refuse)
        let principal = Principal(identity: Identity(user: user), clientID: "", router: router)
        let connection = stage.open(.text) { link in
            JSONConversation(context, link: link, principal: principal, until: .max, on: stage.lanes[0])
        }
        func ask(_ text: String) -> String {
            (connection.ask(ClientFrame.text(text)) ?? []).map { String(decoding: $0.payload, as: UTF8.self) }.joined()
        }
        #expect(ask(##"{"op":"subscribe","id":1,"filter":"#"}"##).contains(#""status":\#(refusal)"#))
        for qos in 0...1 {
            let answer = ask(#"{"op":"publish","id":1,"topic":"no","payload":"x","qos":\#(qos)}"#)
            #expect(answer.contains(#""status":\#(refusal)"#), "as for requests: a user may be allowed to")
        }
        try load(["open/#"], .filter)
        #expect(ask(##"{"op":"subscribe","id":2,"filter":"#"}"##).contains(#""op":"ok""#))
        let published = #"{"op":"publish","topic":"TOPIC","payload":"x"}"#
        let first = ["open/1", "closed/1"].map { ask(published.replacing("TOPIC", with: $0)) }.joined()
        #expect(first.contains("open/1") && !first.contains("closed/1"))
        try load(["other"], .refuse)
        let frames = try #require(ServerFrame.all(connection.link.takeSent()))
        let said = frames.map { String(decoding: $0.payload, as: UTF8.self) }.joined()
        #expect(said.contains(#""status":\#(refusal)"#) && said.contains("the subscription to # has ended"))
        #expect(router.subscriptionCount == 0)
        #expect(ask(published.replacing("TOPIC", with: "open/1")).isEmpty)
    }
}
