import Core
import Testing
import TestSupport

@testable import Web

extension StandClient {
    /// What a stream has sent since the last call, read anew.
    func read() -> EventSourceReader {
        var reader = EventSourceReader()
        reader.take(received())
        return reader
    }

    /// Status and body of an answer.
    func answer() -> (status: String, body: String) {
        let text = String(decoding: received(), as: UTF8.self)
        guard let end = text.firstRange(of: "\r\n\r\n") else { return ("", text) }
        return (String(text.dropFirst(9).prefix(3)), String(text[end.upperBound...]))
    }
}

@Suite("Streams over HTTP")
struct StreamTests {
    @Test("Head, first lines, events with ids")
    func stream() throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/events?filter=a/%23")
        stand.publish("a/b", "one")
        stand.publish("a/c", "two", qos: 1)
        stand.publish("b", "not this")
        let reader = client.read()
        let head = try #require(reader.head)
        #expect(head.hasPrefix("HTTP/1.1 200 OK\r\n"))
        for line in [
            "Content-Type: text/event-stream", "Cache-Control: no-store", "X-Accel-Buffering: no", "Connection: close",
        ] { #expect(head.contains("\r\n\(line)\r\n"), "\(line)") }
        #expect(reader.retry == 2_000)
        #expect(reader.comments == [" connected"])
        #expect(reader.messages.map(\.name) == ["a/b", "a/c"])
        #expect(reader.messages.map(\.data) == ["one", "two"])
        let ids = reader.messages.map { $0.id.split(separator: "-") }
        #expect(ids.map { $0[1] } == ["1", "2"])
        #expect(ids[0][0] == ids[1][0])
        #expect(
            ids[0][0].utf8.allSatisfy {
                ("a"..."z").contains(Character(.init($0))) || ("0"..."9").contains(Character(.init($0)))
            })
    }

    @Test(
        "Payloads come through as a browser reads them",
        arguments: [
            ("", ""), ("a\nb", "a\nb"), ("a\r\nb\r\n", "a\nb\n"), ("\r\r", "\n\n"), ("\n\r", "\n\n"), (" a", " a"),
            ("id: 7", "id: 7"), (":", ":"), ("ä\u{2028}€", "ä\u{2028}€"), ("\u{FEFF}x", "\u{FEFF}x"),
        ])
    func payloads(payload: String, data: String) throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/events?filter=t")
        stand.publish("t", payload)
        stand.publish("t", "end")
        #expect(client.read().messages.map(\.data) == [data, "end"])
    }

    @Test("What has a name is a payload, what has none is JSON")
    func names() throws {
        let stand = try StreamStand()
        let (auto, json) = (stand.client(), stand.client())
        auto.get("/events?filter=%23&filter=$x&format=auto")
        json.get("/events?filter=%23&filter=$x&format=json")
        stand.publish("t", [0xFF, 0])
        stand.publish("gap", "1")
        stand.publish("message", "2")
        stand.publish("open", "3")
        stand.publish("error", "4")
        stand.publish("a\r\nid: 9", "5")
        stand.publish(" messages", "6\n7")
        let read = auto.read().messages
        #expect(read.map(\.name) == Array(repeating: "message", count: 6) + [" messages"])
        #expect(
            read.map(\.data) == [
                #"{"topic":"t","payload_base64":"/wA="}"#, #"{"topic":"gap","payload":"1"}"#,
                #"{"topic":"message","payload":"2"}"#, #"{"topic":"open","payload":"3"}"#,
                #"{"topic":"error","payload":"4"}"#, #"{"topic":"a\r\nid: 9","payload":"5"}"#, "6\n7",
            ])
        let all = json.read().messages
        #expect(all.allSatisfy { $0.name == "message" })
        #expect(all.map(\.data).prefix(6).elementsEqual(read.map(\.data).prefix(6)))
        #expect(all.last?.data == #"{"topic":" messages","payload":"6\n7"}"#)
        #expect(all.map(\.id) == read.map(\.id))
    }

    @Test("A payload that says it is text may hold NUL")
    func textWithNUL() throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/events?filter=t")
        stand.publish("t", [0x61, 0], properties: [1, 1])
        #expect(client.read().messages.map(\.name) == ["t"])
    }

    @Test("One delivery and one encoding for a thousand streams of a user, another for each other user's bytes not")
    func encodeOnce() throws {
        let stand = try StreamStand()
        let clients = (0..<1_000).map { _ in stand.client() }
        for client in clients { client.get("/events?filter=t/%2B&filter=u") }
        #expect(stand.streams().channelCount == 1)
        let others = (0..<10).map { _ in stand.client() }
        for (number, other) in others.enumerated() {
            other.get("/events?filter=u&filter=t/%2B", "User: u\(number % 5)")
        }
        #expect(stand.streams().channelCount == 6)
        for client in clients + others { _ = client.received() }
        let before = stand.streams().encodings
        let outcome = stand.publish("t/1", "x")
        #expect(outcome.matched == 6)
        #expect(stand.streams().encodings == before + 1)
        for client in clients + others {
            #expect(String(decoding: client.received(), as: UTF8.self).hasSuffix("-1\nevent: t/1\ndata: x\n\n"))
        }
        #expect(stand.counters.eventsOut == 1_010)
        let json = stand.client()
        json.get("/events?filter=t/%2B&filter=u&format=json")
        stand.publish("t/2", "y")
        #expect(stand.streams().encodings == before + 3)
    }

    @Test("A heartbeat after fifteen seconds without anything else")
    func heartbeat() throws {
        let stand = try StreamStand()
        let client = stand.client()
        client.get("/events?filter=t")
        _ = client.received()
        stand.advance(milliseconds: 14_900)
        #expect(client.received().isEmpty)
        stand.publish("t", "x")
        _ = client.received()
        stand.advance(milliseconds: 14_900)
        #expect(client.received().isEmpty)
        stand.advance(milliseconds: 100)
        #expect(client.received() == Array(":\n\n".utf8))
        for _ in 0..<3 {
            stand.advance(milliseconds: 15_000)
            #expect(client.received() == Array(":\n\n".utf8))
        }
        // Who takes not even these has gone.
        client.link.isCongested = true
        stand.advance(milliseconds: 15_000)
        #expect(client.closing == .slowReader)
    }

    @Test("A slow reader is cut and counted, the others are not, and it can come back for what it missed")
    func slowReader() throws {
        let stand = try StreamStand()
        let (slow, other) = (stand.client(), stand.client())
        for client in [slow, other] { client.get("/events?filter=t") }
        stand.publish("t", "1")
        slow.link.isCongested = true
        stand.publish("t", "2")
        stand.publish("t", "3")
        #expect(slow.closing == .slowReader)
        #expect(stand.closed(.slowReader) == 1)
        let reader = slow.read()
        #expect(reader.messages.map(\.data) == ["1"])
        #expect(other.read().messages.map(\.data) == ["1", "2", "3"])
        let again = stand.client()
        again.get("/events?filter=t", "Last-Event-ID: \(reader.lastID)")
        stand.publish("t", "4")
        #expect(again.read().messages.map(\.data) == ["2", "3", "4"])
    }

    @Test("Who comes back slowly gets the window in portions, and is cut when it moves on")
    func slowReturn() throws {
        var limits = Limits()
        limits.maxStreamWindowEvents = 100
        let stand = try StreamStand(limits: limits)
        let first = stand.client()
        first.get("/events?filter=t")
        let start = first.read().lastID
        first.cut()
        for number in 0..<50 { stand.publish("t", "\(number)") }
        let again = stand.client()
        again.link.congestsWithAnswer = true
        again.get("/events?filter=t", "Last-Event-ID: \(start)")
        #expect(again.read().messages.isEmpty)
        stand.publish("t", "50")
        #expect(again.closing == nil)
        again.drain()
        #expect(again.received().count > 1_000)
        let slow = stand.client()
        slow.link.congestsWithAnswer = true
        slow.get("/events?filter=t", "Last-Event-ID: \(start)")
        for number in 0..<60 { stand.publish("t", "\(number)") }
        #expect(slow.closing == .slowReader)
        #expect(again.closing == nil)
    }

    @Test("Nothing is lost and nothing comes twice while streams are killed at random", arguments: 0..<40)
    func resume(seed: UInt64) throws {
        var random = Seeded(seed: seed)
        let lanes = Int.random(in: 1...3, using: &random)
        let stand = try StreamStand(lanes: lanes)
        struct Reader {
            var client: StandClient
            var unread: [UInt8] = []
            var reader = EventSourceReader()
            var user: String
            var expected: [String] = []
        }
        let users = ["u", "u", "u", "v", "v", "w"]
        var readers = users.map {
            Reader(client: stand.client(lane: Int.random(in: 0..<lanes, using: &random)), user: $0)
        }
        for index in readers.indices {
            readers[index].client.get(
                "/events?filter=t/%23&format=\(index % 2 == 0 ? "auto" : "json")", "User: \(readers[index].user)")
            readers[index].reader.take(readers[index].client.received())
        }
        for number in 0..<400 {
            if random.next() % 3 > 0 {
                let payload = String(repeating: "\n", count: Int(random.next() % 3)) + "\(number)"
                stand.publish(
                    "t/\(random.next() % 4)", payload, qos: UInt8(random.next() % 3),
                    lane: Int(random.next() % UInt64(lanes)))
                for index in readers.indices { readers[index].expected.append(payload) }
            }
            if random.next() % 20 == 0 { stand.advance(milliseconds: 1_000) }
            let index = Int(random.next() % UInt64(readers.count))
            var reader = readers[index]
            reader.unread += reader.client.received()
            let count = Int.random(in: 0...reader.unread.count, using: &random)
            reader.reader.take(reader.unread.prefix(count))
            reader.unread.removeFirst(count)
            if random.next() % 4 == 0, !reader.reader.lastID.isEmpty {
                // What was on its way is gone; the end may be noticed before or after the return.
                let old = reader.client
                if random.next() % 2 == 0 { old.cut() }
                reader.unread = []
                reader.reader.reconnect()
                reader.client = stand.client(lane: Int.random(in: 0..<lanes, using: &random))
                reader.client.get(
                    "/events?filter=t/%23&format=\(index % 2 == 0 ? "auto" : "json")", "User: \(reader.user)",
                    "Last-Event-ID: \(reader.reader.lastID)")
                if old.closing == nil { old.cut() }
            }
            readers[index] = reader
        }
        for (index, reader) in readers.enumerated() {
            var reader = reader
            reader.reader.take(reader.unread + reader.client.received())
            #expect(!reader.reader.messages.contains { $0.name == "gap" })
            let got = reader.reader.messages.map { message in
                index % 2 == 0
                    ? message.data : String(message.data.split(separator: "\"payload\":\"")[1].prefix { $0 != "\"" })
            }
            let expected = index % 2 == 0 ? reader.expected : reader.expected.map { $0.replacing("\n", with: "\\n") }
            #expect(got == expected, "seed \(seed), reader \(index)")
        }
    }
}
