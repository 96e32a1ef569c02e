import Core
import Testing

@testable import Web

@Suite("Polls over HTTP")
struct PollTests {
    /// Takes the id out of an answer.
    private func next(_ body: String) -> String {
        guard let start = body.firstRange(of: #""next":""#) else { return "" }
        return String(body[start.upperBound...].prefix { $0 != "\"" })
    }

    /// The payloads in an answer.
    private func payloads(_ body: String) -> [String] {
        body.split(separator: #""payload":""#).dropFirst().map { String($0.prefix { $0 != "\"" }) }
    }

    @Test("Waits for the first event; nothing is missed between polls")
    func waits() throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/poll?filter=t")
        #expect(client.received().isEmpty)
        stand.publish("t", "1", qos: 1)
        let text = String(decoding: client.received(), as: UTF8.self)
        #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n"))
        #expect(text.contains("\r\nContent-Type: application/json\r\n"))
        #expect(text.contains("\r\nCache-Control: no-store\r\n"))
        let body = String(text[(text.firstRange(of: "\r\n\r\n")?.upperBound ?? text.startIndex)...])
        #expect(body == #"{"events":[{"topic":"t","payload":"1","qos":1}],"next":"\#(next(body))"}"#)
        stand.publish("t", "2")
        stand.publish("t", "3")
        client.get("/poll?filter=t&after=\(next(body))")
        let second = client.answer().body
        #expect(payloads(second) == ["2", "3"])
        // On the same connection, on with the same place, twice: the same.
        client.get("/poll?filter=t&after=\(next(body))&limit=1")
        let third = client.answer().body
        #expect(payloads(third) == ["2"])
        client.get("/poll?filter=t&after=\(next(third))")
        #expect(payloads(client.answer().body) == ["3"])
        client.get("/poll?filter=t&after=\(next(second))")
        #expect(client.received().isEmpty)
        stand.publish("t", "4")
        #expect(payloads(client.answer().body) == ["4"])
    }

    @Test("Ends when its time is over, and says where it stands")
    func timeOut() throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/poll?filter=t&wait=5000")
        stand.advance(milliseconds: 4_900)
        #expect(client.received().isEmpty)
        stand.advance(milliseconds: 200)
        let first = client.answer()
        #expect(first.status == "200")
        #expect(first.body == #"{"events":[],"next":"\#(next(first.body))"}"#)
        stand.publish("t", "between")
        client.get("/poll?filter=t&wait=0&after=\(next(first.body))")
        #expect(payloads(client.answer().body) == ["between"])
        client.get("/poll?filter=t")
        stand.advance(milliseconds: 24_000)
        #expect(client.received().isEmpty)
        stand.advance(milliseconds: 1_100)
        #expect(client.answer().status == "200")
        for query in ["wait=60001", "wait=-1", "wait=x", "limit=0", "limit=1001", "group=g"] {
            client.get("/poll?filter=t&\(query)")
            #expect(client.answer().status == "400", "\(query)")
        }
    }

    @Test("A poll whose connection has gone waits no longer; the events are there for the next")
    func gone() throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/poll?filter=t&wait=0")
        let place = next(client.answer().body)
        client.get("/poll?filter=t&after=\(place)")
        #expect(stand.streams().idleCount == 0)
        client.cut()
        #expect(stand.streams().idleCount == 1)
        stand.publish("t", "1")
        #expect(stand.counters.eventsOut == 0)
        let other = stand.client()
        other.get("/poll?filter=t&after=\(place)")
        #expect(payloads(other.answer().body) == ["1"])
    }

    @Test("Gaps are said; a poll renews its channel's time")
    func gaps() throws {
        var limits = Limits()
        limits.maxStreamWindowEvents = 3
        let stand = try StreamStand(limits: limits)
        let client = stand.client()
        client.get("/poll?filter=t&wait=0")
        let place = next(client.answer().body)
        for number in 0..<5 { stand.publish("t", "\(number)") }
        client.get("/poll?filter=t&after=\(place)")
        let body = client.answer().body
        #expect(payloads(body) == ["2", "3", "4"])
        #expect(body.hasSuffix(#","gap":true}"#))
        for bad in ["nonsense", place + "9"] {
            client.get("/poll?filter=t&after=\(bad)")
            let answer = client.answer().body
            #expect(answer == #"{"events":[],"next":"\#(next(body))","gap":true}"#)
        }
        for _ in 0..<5 {
            stand.advance(milliseconds: 50_000)
            client.get("/poll?filter=t&wait=0&after=\(next(body))")
            #expect(!client.answer().body.contains("gap"))
        }
        #expect(stand.streams().channelCount == 1)
    }

    @Test("A thousand polls of a user: one encoding")
    func encodeOnce() throws {
        let stand = try StreamStand()
        let clients = (0..<1_000).map { _ in stand.client() }
        for client in clients { client.get("/poll?filter=t") }
        stand.publish("t", "1")
        for client in clients { #expect(payloads(client.answer().body) == ["1"]) }
        #expect(stand.streams().encodings == 1)
        #expect(stand.counters.eventsOut == 1_000)
    }

    @Test("A connection moves to its channel's lane, with its keep-alive, its timers, and what it sent behind")
    func moves() throws {
        let stand = try StreamStand(lanes: 3)
        let client = stand.client(lane: 2)
        client.get("/poll?filter=t&wait=0")
        let place = next(client.answer().body)
        stand.publish("t", "1", lane: 1)
        let other = stand.client(lane: 0)
        other.send(
            "GET /lane HTTP/1.1\r\nHost: x\r\n\r\nGET /poll?filter=t&after=\(place) HTTP/1.1\r\nHost: x\r\n\r\n"
                + "GET /lane HTTP/1.1\r\nHost: x\r\n\r\nGET /poll?filter=t&wait=2000&after=")
        let text = String(decoding: other.received(), as: UTF8.self)
        #expect(text.split(separator: "HTTP/1.1 200 OK").count == 3)
        #expect(text.contains("\r\n\r\n0HTTP"))
        #expect(text.hasSuffix("\r\n\r\n2"))
        #expect(payloads(text) == ["1"])
        #expect(other.lane.number == 2)
        // The timer is the new lane's.
        other.send("\(place.dropLast())1 HTTP/1.1\r\nHost: x\r\n\r\n")
        stand.advance(milliseconds: 2_100)
        #expect(other.answer().body.contains(#""events":[]"#))
        // Between requests it is sent away like any other.
        stand.advance(milliseconds: 61_000)
        #expect(other.closing == .requestTimeout)
    }
}
