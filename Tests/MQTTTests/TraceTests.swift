import Core
import MQTT
import Synchronization
import Testing
import TestSupport

/// The packet log of single clients: complete, in order, without secrets, within bounds.
@Suite struct TraceTests {
    /// Where a trace's lines go.
    private final class Log: Sendable {
        private let lines = Mutex<[TraceLine]>([])

        func settings(showsPayload: Bool = false, linesPerSecond: Int = 1_000) -> TraceSettings {
            var settings = TraceSettings { line in self.lines.withLock { $0.append(line) } }
            settings.showsPayload = showsPayload
            settings.linesPerSecond = linesPerSecond
            return settings
        }

        var all: [TraceLine] { lines.withLock { $0 } }
        /// `>` for what the client sent, `<` for what it was sent, `!` for what is said about the trace.
        var texts: [String] {
            all.map { line in
                switch line.direction {
                case .received?: "> \(line.text)"
                case .sent?: "< \(line.text)"
                case nil: "! \(line.text)"
                }
            }
        }

        func clear() { lines.withLock { $0 = [] } }
    }

    private func switchTrace(_ isOn: Bool, of clientID: String, _ node: TestNode) throws {
        let address = try #require(node.router.session(of: clientID))
        let lane = node.lanes[address.lane]
        let inbox = try #require(lane.port(at: address) as? Inbox)
        #expect(inbox.setTrace(isOn, on: lane))
    }

    @Test func everyPacketOfAConnectionIsALine() throws {
        let log = Log()
        let node = try TestNode(trace: log.settings())
        let client = TestClient(node, "sensor", clean: false)
        try switchTrace(true, of: "sensor", node)
        client.send(Frame.subscribe(7, [("a/+", 1), ("b", 0)]))
        client.send(Frame.publish("a/b", "hello", qos: 1, id: 3))
        client.send(Frame.puback(1), Frame.pingreq)
        client.send(Frame.publish("b", "x", qos: 2, id: 4), Frame.pubrel(4))
        client.send(Frame.unsubscribe(8, ["b"]), Frame.disconnect)
        _ = client.answers()
        #expect(
            log.texts
                == [
                    #"> SUBSCRIBE id=7 filter="a/+":1 filter="b":0"#, "< SUBACK id=7 reasons=0x01,0x00",
                    #"> PUBLISH qos=1 id=3 topic="a/b" payload=5B"#, #"< PUBLISH qos=1 id=1 topic="a/b" payload=5B"#,
                    "< PUBACK id=3", "> PUBACK id=1", "> PINGREQ", "< PINGRESP",
                    #"> PUBLISH qos=2 id=4 topic="b" payload=1B"#, "> PUBREL id=4",
                    #"< PUBLISH qos=0 topic="b" payload=1B"#, "< PUBREC id=4", "< PUBCOMP id=4",
                    #"> UNSUBSCRIBE id=8 filter="b""#, "> DISCONNECT", "< UNSUBACK id=8",
                ].reordered(like: log.texts))
        #expect(log.all.allSatisfy { $0.clientID == "sensor" })
        #expect(log.all.filter { $0.text == "PINGREQ" }.map(\.bytes) == [2])
    }

    @Test func aTraceSurvivesItsConnectionUntilItIsSwitchedOff() throws {
        let log = Log()
        let node = try TestNode(trace: log.settings())
        let first = TestClient(node, "sensor")
        try switchTrace(true, of: "sensor", node)
        first.cut()
        log.clear()
        let second = TestClient(node)
        second.send(Frame.connect("sensor", user: "anna", password: "hunter2"))
        _ = second.answers()
        #expect(
            log.texts == [
                #"> CONNECT "MQTT"/4 clean=1 keepalive=0 client="sensor" user="anna" password=***"#,
                "< CONNACK session=0 reason=0x00",
            ])
        let other = TestClient(node, "other")
        other.send(Frame.pingreq)
        #expect(log.all.allSatisfy { $0.clientID == "sensor" })
        try switchTrace(false, of: "sensor", node)
        log.clear()
        second.send(Frame.pingreq)
        _ = second.answers()
        second.cut()
        TestClient(node, "sensor").send(Frame.pingreq)
        #expect(log.all.isEmpty)
    }

    @Test func whatWasWrittenBeforeIsNotPartOfTheTrace() throws {
        let log = Log()
        let node = try TestNode(trace: log.settings())
        let client = TestClient(node, "sensor")
        client.send(Frame.subscribe(1, [("t", 0)]), Frame.pingreq)
        // The answers still lie in the connection's window.
        try switchTrace(true, of: "sensor", node)
        client.send(Frame.pingreq)
        _ = client.answers()
        #expect(log.texts == ["> PINGREQ", "< PINGRESP"])
        client.send(Frame.pingreq)
        try switchTrace(false, of: "sensor", node)
        #expect(log.texts == ["> PINGREQ", "< PINGRESP", "> PINGREQ", "< PINGRESP"], "up to the switch, all of it")
    }

    @Test func manyClientsAreNotTracedAtOnce() throws {
        let log = Log()
        let node = try TestNode(trace: log.settings())
        let clients = (0...TracedClients.limit).map { TestClient(node, "client \($0)") }
        for number in clients.indices { try switchTrace(true, of: "client \(number)", node) }
        #expect(log.texts == ["! not traced: 100 clients are traced already"])
        log.clear()
        clients[TracedClients.limit].send(Frame.pingreq)
        #expect(log.all.isEmpty)
        try switchTrace(false, of: "client 0", node)
        try switchTrace(true, of: "client 100", node)
        clients[TracedClients.limit].send(Frame.pingreq)
        #expect(log.texts == ["> PINGREQ"])
    }

    @Test func aBusyClientDoesNotFloodTheLog() throws {
        let log = Log()
        let node = try TestNode(trace: log.settings(linesPerSecond: 10))
        let client = TestClient(node, "sensor")
        try switchTrace(true, of: "sensor", node)
        for _ in 0..<25 { client.send(Frame.publish("t", "x")) }
        #expect(log.all.count == 10)
        node.advance(milliseconds: 1_000)
        client.send(Frame.pingreq)
        #expect(log.texts[10...].starts(with: ["! 15 packets were left out: more than 10 a second", "> PINGREQ"]))
        for _ in 0..<12 { client.send(Frame.publish("t", "x")) }
        log.clear()
        try switchTrace(false, of: "sensor", node)
        #expect(log.texts == ["! 4 packets were left out: more than 10 a second"], "said at the latest at the end")
    }

    private func nodeWithSession(_ clientID: String, _ node: TestNode) throws -> TestNode {
        _ = TestClient(node, clientID)
        return node
    }

    @Test func payloadsAreShownOnlyWhenAskedFor() throws {
        for isAsked in [false, true] {
            let log = Log()
            let node = try TestNode(trace: log.settings(showsPayload: isAsked))
            let client = TestClient(node, "sensor")
            try switchTrace(true, of: "sensor", node)
            client.send(Frame.publish("t", "se\ncret\""))
            client.send(Frame.publish("t", String(repeating: "x", count: 100_000)))
            let texts = log.texts
            #expect(texts[0] == #"> PUBLISH qos=0 topic="t" payload=8B"# + (isAsked ? #" "se\u{a}cret\"""# : ""))
            let beginning = " \"" + String(repeating: "x", count: 128) + "…\""
            #expect(texts[1] == #"> PUBLISH qos=0 topic="t" payload=100000B"# + (isAsked ? beginning : ""))
            #expect(log.all[1].bytes == 100_000 + 3 + 1 + 3)
        }
    }

    @Test func version5IsDescribedWithItsProperties() throws {
        let log = Log()
        let node = try TestNode(trace: log.settings())
        TestClient(node, "five").cut()
        try switchTrace(true, of: "five", try nodeWithSession("five", node))
        let client = TestClient(node)
        let connect = Frame.text("MQTT") + [5, 2] + Frame.uint16(30) + [5, 0x11, 0, 0, 0, 60] + Frame.text("five")
        client.send(Frame.packet(0x10, connect))
        let user: [UInt8] = [0x26] + Frame.text("k") + Frame.text("v")
        let properties = [0x01, 0x01] + user + [0x09] + Frame.binary([1, 2, 3])
        client.send(
            Frame.packet(0x30, Frame.text("t") + [UInt8(properties.count)] + properties + Array("hi".utf8)),
            Frame.packet(0x32, Frame.text("t") + Frame.uint16(6) + [0]),
            Frame.packet(0xE0, [0x04, 0]))
        _ = client.answers()
        #expect(
            log.texts.contains(#"> CONNECT "MQTT"/5 clean=1 keepalive=30 {sessionExpiry=60} client="five""#),
            "\(log.texts)")
        let connack = try #require(log.texts.first { $0.hasPrefix("< CONNACK") })
        #expect(connack.hasPrefix("< CONNACK session=0 reason=0x00(success) {receiveMaximum=1024 "))
        #expect(
            log.texts.contains(
                #"> PUBLISH qos=0 topic="t" {payloadFormat=1 userProperty="k":"v" correlationData=3B} payload=2B"#))
        #expect(log.texts.contains("< PUBACK id=6 reason=0x10(noMatchingSubscribers)"))
        #expect(log.texts.contains("> DISCONNECT reason=0x04(disconnectWithWill)"))
    }

    /// A lane, and a tap on it that says what it understood.
    private func tap(_ log: Log) throws -> (node: TestNode, lane: Lane, tap: LinkTap) {
        let node = try TestNode(trace: log.settings())
        let client = TestClient(node, "sensor")
        try switchTrace(true, of: "sensor", node)
        return (node, node.lanes[0], try #require(client.connection.link.tap))
    }

    private func show(_ bytes: [UInt8], to tap: LinkTap, on lane: Lane, sent: Bool = false) {
        bytes.withUnsafeBytes { sent ? tap.sent($0, on: lane) : tap.received($0, on: lane) }
    }

    @Test func packetsAreFoundHoweverTheyAreCut() throws {
        let packets = [
            Frame.publish("a/b", String(repeating: "y", count: 300), qos: 2, id: 9, retain: true, dup: true),
            Frame.pingreq, Frame.subscribe(2, [("x/#", 2)]),
        ]
        let whole = Log()
        let (_, lane, all) = try tap(whole)
        show(packets.flatMap { $0 }, to: all, on: lane)
        #expect(whole.texts[0] == #"> PUBLISH qos=2 dup retain id=9 topic="a/b" payload=300B"#)
        #expect(whole.texts.count == 3)
        for size in [1, 2, 3, 7, 64, 300] {
            let log = Log()
            let (_, lane, tap) = try tap(log)
            let bytes = packets.flatMap { $0 }
            for start in stride(from: 0, to: bytes.count, by: size) {
                show(Array(bytes[start..<min(start + size, bytes.count)]), to: tap, on: lane)
            }
            #expect(log.texts == whole.texts, "in pieces of \(size)")
        }
    }

    @Test func whatIsLongerThanWhatIsKeptIsSaidToBeSo() throws {
        let log = Log()
        let (_, lane, tap) = try tap(log)
        show(Frame.publish(String(repeating: "t", count: 5_000), "x"), to: tap, on: lane)
        show(Frame.subscribe(1, (0..<400).map { ("filter/\($0)/and/more", 0) }), to: tap, on: lane)
        let topic = String(repeating: "t", count: 256)
        #expect(log.texts[0] == "> PUBLISH qos=0 topic=\"\(topic)…\" (beginning)")
        #expect(log.texts[1].hasPrefix(#"> SUBSCRIBE id=1 filter="filter/0/and/more":0 "#))
        #expect(log.texts[1].hasSuffix("(beginning)") && log.texts[1].utf8.count < 1_000)
    }

    @Test func whatIsNoPacketEndsADirectionAndHarmsNobody() throws {
        let log = Log()
        let (_, lane, tap) = try tap(log)
        show([0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3], to: tap, on: lane)
        show(Frame.pingreq, to: tap, on: lane)
        show([0xD0, 0], to: tap, on: lane, sent: true)
        #expect(log.texts == ["> these bytes are no packet; nothing more is described", "< PINGRESP"])
    }

    /// Any bytes at all, as packets of every type, whole, cut off, and with lengths that lie.
    @Test func anyBytesAreDescribed() throws {
        var random = Seeded(seed: 20)
        let log = Log()
        let (_, lane, tap) = try tap(log)
        var count = 0
        for type in UInt8(0)...15 {
            for _ in 0..<200 {
                let body = (0..<Int.random(in: 0...40, using: &random)).map { _ in
                    UInt8.random(in: 0...255, using: &random)
                }
                show(Frame.packet(type << 4 | UInt8.random(in: 0...15, using: &random), body), to: tap, on: lane)
                count += 1
                if count % 900 == 0 { lane.now += 1_000 }
            }
        }
        #expect(log.all.count == count)
        #expect(log.all.allSatisfy { !$0.text.isEmpty && $0.text.utf8.count < 20_000 })
        #expect(log.all.allSatisfy { line in !line.text.unicodeScalars.contains { $0.value < 0x20 } })
    }
}

extension [String] {
    /// The same lines in the order of others, if they are the same: acknowledgements and events of one pass may leave
    /// in either order.
    fileprivate func reordered(like other: [String]) -> [String] {
        sorted() == other.sorted() ? other : self
    }
}
