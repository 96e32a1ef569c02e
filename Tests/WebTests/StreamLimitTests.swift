import Core
import Glibc
import Testing

@testable import Web

/// What streams are refused, what is said when something is missing, and how long channels live.
@Suite("Streams over HTTP: gaps, limits, rules")
struct StreamLimitTests {
    /// The data of the first gap.
    private func gap(_ client: StandClient) -> String? { client.read().messages.first { $0.name == "gap" }?.data }

    @Test("Gaps say why")
    func gaps() throws {
        var limits = Limits()
        limits.maxStreamWindowEvents = 10
        let stand = try StreamStand(lanes: 2, limits: limits)
        let client = stand.client()
        client.get("/events?filter=t", "User: u")
        let start = client.read().lastID
        let channel = String(start.dropLast(2))
        for number in 1...12 { stand.publish("t", "\(number)") }
        func ask(_ id: String, _ filters: String = "filter=t", user: String = "u", lane: Int = 0) -> StandClient {
            let client = stand.client(lane: lane)
            client.get("/events?\(filters)", "Last-Event-ID: \(id)", "User: \(user)")
            return client
        }
        for lane in 0...1 {
            let reader = ask(start, lane: lane).read()
            #expect(reader.messages.first?.data == #"{"reason":"window","after":"\#(start)"}"#)
            #expect(reader.messages.dropFirst().map(\.data) == (3...12).map { "\($0)" })
            let whole = ask("\(channel)-2", lane: lane).read()
            #expect(whole.messages.map(\.data) == (3...12).map { "\($0)" })
            let none = ask("\(channel)-12", lane: lane).read()
            #expect(none.messages.isEmpty)
            #expect(none.lastID == "\(channel)-12")
            #expect(
                gap(ask("\(channel)-12", "filter=t&filter=u", lane: lane))?.contains(#""reason":"filters""#) == true)
            #expect(gap(ask("\(channel)-12", "filter=t&group=g", lane: lane))?.contains(#""reason":"filters""#) == true)
            for (id, user) in [
                ("\(channel)-13", "u"), ("\(channel)-12", "v"), ("nonsense", "u"), ("x\(channel)-1", "u"),
            ] {
                #expect(
                    gap(ask(id, user: user, lane: lane)) == #"{"reason":"unknown","after":"\#(id)"}"#,
                    "\(id) of \(user)")
            }
        }
        let query = stand.client()
        query.get("/events?filter=t&last_event_id=\(channel)-11", "User: u")
        #expect(query.read().messages.map(\.data) == ["12"])
        let hostile = ask("\"\\" + String(repeating: "é", count: 500))
        #expect(hostile.read().messages.first?.name == "gap")
    }

    @Test("The window is bounded in bytes, for a channel and for a lane; what is too large for it is still delivered")
    func windowBytes() throws {
        var limits = Limits()
        limits.maxStreamWindowBytes = 10_000
        limits.maxStreamBytes = 15_000
        let stand = try StreamStand(limits: limits)
        let (a, b) = (stand.client(), stand.client())
        a.get("/events?filter=a")
        b.get("/events?filter=b")
        let large = String(repeating: "x", count: 20_000)
        stand.publish("a", large)
        #expect(a.read().messages.map(\.data) == [large])
        #expect(stand.streams().windowBytes == 0)
        let poll = stand.client()
        poll.get("/poll?filter=a")
        stand.publish("a", large)
        #expect(poll.answer().body.hasPrefix(#"{"events":[{"topic":"a","payload":"xxx"#))
        for _ in 0..<100 {
            stand.publish("a", String(repeating: "x", count: 900))
            stand.publish("b", String(repeating: "x", count: 900))
            #expect(stand.streams().windowBytes <= 15_000)
        }
        #expect(stand.streams().windowBytes > 13_000)
    }

    @Test("A channel that nobody reads goes on collecting for a minute, and then is gone with its subscriptions")
    func idle() throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/events?filter=t&filter=u")
        let start = client.read().lastID
        client.cut()
        #expect(stand.streams().idleCount == 1)
        stand.publish("t", "1")
        stand.advance(milliseconds: 59_000)
        let again = stand.client()
        again.get("/events?filter=t&filter=u", "Last-Event-ID: \(start)")
        #expect(again.read().messages.map(\.data) == ["1"])
        #expect(stand.streams().idleCount == 0)
        stand.advance(milliseconds: 61_000)
        #expect(stand.streams().channelCount == 1)
        again.cut()
        stand.advance(milliseconds: 61_000)
        #expect(stand.streams().channelCount == 0)
        #expect(stand.router.subscriptionCount == 0)
        #expect(stand.streams().windowBytes == 0)
        #expect(stand.publish("t", "2").matched == 0)
        let late = stand.client()
        late.get("/events?filter=t&filter=u", "Last-Event-ID: \(start)")
        #expect(gap(late)?.contains("unknown") == true)
    }

    @Test("Channels have a limit")
    func channels() throws {
        var limits = Limits()
        limits.maxChannels = 2
        let stand = try StreamStand(limits: limits)
        for number in 0..<2 { stand.client().get("/events?filter=t\(number)") }
        let third = stand.client()
        third.get("/events?filter=t2")
        let text = String(decoding: third.received(), as: UTF8.self)
        #expect(text.hasPrefix("HTTP/1.1 429 "))
        #expect(text.contains("\r\nRetry-After: 5\r\n"))
        let same = stand.client()
        same.get("/events?filter=t0")
        #expect(same.read().comments == [" connected"])
    }

    @Test(
        "Requests that are wrong",
        arguments: [
            ("", "filter"), ("filter=", "filter"), ("filter=a/%23/b", "stand alone in a level"),
            ("filter=a&format=xml", "format"),
            ("filter=a&retained=maybe", "retained"), ("filter=a&group=x/y", "group"), ("filter=a&group=", "group"),
            ("filter=a&group=g&weight=1001", "weight"), ("filter=a&group=g&weight=x", "weight"),
            ("filter=a&group=g&weight=-1", "weight"), ("filter=a&weight=5", "weight"),
            ("filter=$share/g/a", "group="), ("filter=a&fliter=b", "fliter"), ("filter=a%00", "text"),
            ((0..<65).map { "filter=t\($0)" }.joined(separator: "&"), "64"),
        ])
    func malformed(query: String, word: String) throws {
        let stand = try StreamStand()
        for path in ["events", "poll"] {
            if path == "poll", query.contains("format") || query.contains("retained") || query.contains("group=x") {
                continue
            }
            let client = stand.client()
            client.get("/\(path)?\(query)")
            let answer = client.answer()
            #expect(answer.status == "400", "\(answer)")
            #expect(answer.body.contains(word) || path == "poll", "\(answer.body)")
            #expect(client.closing == nil)
        }
        let client = stand.client()
        client.send("HEAD /events?filter=a HTTP/1.1\r\nHost: x\r\n\r\n")
        #expect(client.answer().status == "405")
        #expect(stand.streams().channelCount == 0)
    }

    @Test("Access rules: no stream of what may not be heard, and each new reader is judged anew")
    func rules() throws {
        let allow = AccessRule(effect: .allow, action: .all, topics: ["${username}/#"])
        let publisher = AccessRule(effect: .allow, action: .publish, topics: ["#"], users: ["publisher"])
        let stand = try StreamStand(rules: [allow, publisher])
        func open(_ filter: String, _ user: String) -> StandClient {
            let client = stand.client()
            client.get("/events?filter=\(filter)", "User: \(user)")
            return client
        }
        for (filter, user) in [("v/x", "u"), ("%23", "u"), ("u/%23&filter=v/%23", "u")] {
            let refused = open(filter, user)
            #expect(refused.answer().status == "403")
        }
        let anonymous = stand.client()
        anonymous.get("/poll?filter=u/x")
        #expect(anonymous.answer().status == "401")
        #expect(stand.streams().channelCount == 0)
        #expect(stand.counters.subscriptionsRefused == 4)
        let first = open("u/%23", "u")
        let start = first.read().lastID
        stand.router.reload(try AccessRules([publisher]))
        stand.publish("u/1", "not any more")
        #expect(!String(decoding: first.received(), as: UTF8.self).contains("not any more"))
        #expect(open("u/%23", "u").answer().status == "403")
        let back = stand.client()
        back.get("/events?filter=u/%23", "User: u", "Last-Event-ID: \(start)")
        #expect(back.answer().status == "403")
    }

    @Test("Retained events first, each once and marked, live ones after; none for who comes back")
    func retained() throws {
        let stand = try StreamStand()
        for number in 0..<3_000 { stand.publish("r/\(number)", "\(number)", retained: true) }
        let client = stand.client()
        client.get("/events?filter=r/%2B&filter=r/1*&filter=live&format=json")
        stand.publish("live", "1")
        let reader = client.read()
        #expect(reader.messages.count == 3_001)
        #expect(Set(reader.messages.dropLast().map(\.data)).count == 3_000)
        #expect(reader.messages.dropLast().allSatisfy { $0.data.contains(#""retained":true"#) && $0.id.isEmpty })
        #expect(reader.messages.last?.data == #"{"topic":"live","payload":"1"}"#)
        let none = stand.client()
        none.get("/events?filter=r/%2B&retained=false")
        stand.publish("r/1", "now", retained: true)
        #expect(none.read().messages.map(\.data) == ["now"])
        let back = stand.client()
        back.get("/events?filter=r/%2B&filter=r/1*&filter=live&format=json", "Last-Event-ID: \(reader.lastID)")
        #expect(back.read().messages.map(\.data) == [#"{"topic":"r/1","payload":"now"}"#])
    }

    @Test("A stream that is cut among its retained events gets them again")
    func retainedCut() throws {
        let stand = try StreamStand()
        for number in 0..<300 { stand.publish("r/\(number)", "\(number)", retained: true) }
        let client = stand.client()
        client.link.congestsWithAnswer = true
        client.get("/events?filter=r/%2B")
        stand.publish("r/live", "x")
        let reader = client.read()
        #expect(reader.messages.isEmpty)
        #expect(reader.lastID.isEmpty)
        client.drain()
        var rest = EventSourceReader()
        rest.take("HTTP/1.1 200 OK\r\n\r\n".utf8)
        rest.take(client.received())
        #expect(rest.messages.count == 301)
        #expect(rest.messages.last?.data == "x")
    }

    @Test("An event whose time is over is not brought up again")
    func expired() throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/events?filter=t")
        let start = client.read().lastID
        stand.publish("t", Array("short".utf8), expiresAt: stand.now + 1_000)
        stand.publish("t", "long")
        stand.advance(milliseconds: 2_000)
        let back = stand.client()
        back.get("/events?filter=t", "Last-Event-ID: \(start)")
        #expect(back.read().messages.map(\.data) == ["long"])
        #expect(stand.dropped(.expired) == 1)
    }

    @Test("Stopping ends streams, and answers polls with what there is")
    func drain() throws {
        let stand = try StreamStand()
        let (stream, poll) = (stand.client(), stand.client())
        stream.get("/events?filter=t")
        poll.get("/poll?filter=t")
        #expect(poll.received().isEmpty)
        stream.stop()
        poll.stop()
        #expect(stream.read().comments == [" connected", " the node is stopping"])
        #expect(stream.closing == .shutdown)
        #expect(poll.answer().body.hasPrefix(#"{"events":[],"next":""#))
        #expect(stand.streams().idleCount == 1)
    }

    @Test("An idle stream costs little")
    func memory() throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/events?filter=t")
        let stream = try #require(client.stream)
        // What the allocator gave for it.
        typealias Size = @convention(c) (UnsafeRawPointer) -> Int
        let symbol = try #require(dlsym(nil, "malloc_usable_size"))
        let bytes = unsafeBitCast(symbol, to: Size.self)(Unmanaged.passUnretained(stream).toOpaque())
        #expect((1...128).contains(bytes))
    }
}
