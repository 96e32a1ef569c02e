import Core
import Testing

@testable import MQTT

/// The codec alone: every packet there and back.
@Suite struct CodecTests {
    private func body(_ frame: [UInt8]) throws -> [UInt8] {
        try frame.withUnsafeBytes { bytes in
            guard case .packet(let header, let remaining) = Framing.of(bytes) else { throw Unframed() }
            #expect(frame.count == header + remaining)
            return Array(frame.dropFirst(header))
        }
    }

    private struct Unframed: Error {}

    private func connect(_ frame: [UInt8]) throws -> ConnectPacket {
        try body(frame).withUnsafeBytes { bytes throws(MQTTFailure) in try ConnectPacket(bytes, limits: Limits()) }
    }

    @Test func connectWithNothing() throws {
        let packet = try connect(Frame.connect("a", clean: true, keepAlive: 65_535))
        #expect(packet.version == .v3_1_1)
        #expect(packet.isClean)
        #expect(packet.keepAliveSeconds == 65_535)
        #expect(packet.clientID == "a")
        #expect(packet.will == nil && packet.user == nil && packet.password == nil)
    }

    @Test(arguments: [UInt8(0), 1, 2], [false, true])
    func connectWithEverything(qos: UInt8, isRetained: Bool) throws {
        let will = Frame.Will(topic: "w/ü", payload: [0, 255], qos: qos, isRetained: isRetained)
        let packet = try connect(
            Frame.connect("klient-ж", clean: false, keepAlive: 1, will: will, user: "u", password: "p"))
        #expect(!packet.isClean)
        #expect(packet.keepAliveSeconds == 1)
        #expect(packet.clientID == "klient-ж")
        #expect(
            packet.will == .init(topic: Array("w/ü".utf8), payload: [0, 255], qos: qos, isRetained: isRetained))
        #expect(packet.user == "u")
        #expect(packet.password == Array("p".utf8))
    }

    @Test func connectOfVersion31() throws {
        #expect(try connect(Frame.connect("a", name: "MQIsdp", level: 3)).version == .v3_1)
        // Bridges of other makes set the upper bit.
        let level = try body(Frame.connect("a", name: "MQIsdp", level: 0x83)).withUnsafeBytes {
            bytes throws(MQTTFailure) in try ConnectPacket.level(bytes)
        }
        #expect(level == 3)
    }

    @Test func subscribeAndUnsubscribe() throws {
        let subscribe = try body(Frame.subscribe(0x1234, [("a/+", 0), ("#", 1), ("$share/g/b", 2)]))
        let packet = try subscribe.withUnsafeBytes { bytes throws(MQTTFailure) in
            try SubscribePacket(bytes, version: .v3_1_1)
        }
        #expect(packet.identifier == 0x1234)
        #expect(packet.entries.map { String(decoding: $0.filter, as: UTF8.self) } == ["a/+", "#", "$share/g/b"])
        #expect(packet.entries.map(\.options.qos) == [0, 1, 2])
        let unsubscribe = try body(Frame.unsubscribe(0xFFFF, ["a", "b"]))
        let second = try unsubscribe.withUnsafeBytes { bytes throws(MQTTFailure) in
            try UnsubscribePacket(bytes, version: .v3_1_1)
        }
        #expect(second.identifier == 0xFFFF)
        #expect(second.filters.map { String(decoding: $0, as: UTF8.self) } == ["a", "b"])
    }

    private func written(_ body: (TestLink) -> Void) throws -> [Answer] {
        let client = TestClient(try TestNode())
        body(client.connection.link)
        let answers = client.answers()
        #expect(client.incomplete.isEmpty)
        return answers
    }

    @Test func everythingTheNodeSends() throws {
        let answers = try written { link in
            PacketWriter.connack(.accepted, sessionPresent: true, to: link)
            PacketWriter.connack(.notAuthorized, sessionPresent: false, to: link)
            #expect(
                PacketWriter.connack5(
                    .unsupportedProtocolVersion, sessionPresent: false, PacketWriter.Properties(), ClientLimits(),
                    to: link))
            PacketWriter.acknowledge(0x40, 1, to: link)
            PacketWriter.acknowledge(0x50, 0x0102, to: link)
            PacketWriter.acknowledge(0x62, 65_535, to: link)
            PacketWriter.acknowledge(0x70, 4, to: link)
            PacketWriter.acknowledge(0xB0, 5, to: link)
            PacketWriter.pingresp(to: link)
            PacketWriter.suback(6, [0, 1, 2, 0x80], to: link)
        }
        #expect(
            answers == [
                .connack(present: true, code: 0), .connack(present: false, code: 5), .other([0x20, 3, 0, 0x84, 0]),
                .puback(1), .pubrec(0x0102), .pubrel(65_535), .pubcomp(4), .unsuback(5), .pingresp,
                .suback(6, [0, 1, 2, 0x80]),
            ])
    }

    /// Payload sizes on both sides of every length of the remaining length.
    @Test(arguments: [0, 1, 120, 121, 122, 127, 128, 16_376, 16_377, 16_378, 16_384, 2_097_144, 2_097_146, 2_097_160])
    func publishOfEverySize(count: Int) throws {
        let payload = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            for index in 0..<count { buffer[index] = UInt8(truncatingIfNeeded: index &* 31) }
            filled = count
        }
        for (first, identifier) in [(UInt8(0x30), UInt16(0)), (0x3B, 7), (0x34, 65_535)] {
            let answers = try written { link in
                let topic = Array("t/x".utf8)
                let event = topic.withUnsafeBytes { topic in
                    payload.withUnsafeBytes { payload in
                        Event(
                            topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: payload,
                            qos: 0, isRetained: false)
                    }
                }
                PacketWriter.publish(first, PublishParts(event), identifier: identifier, to: link)
                withExtendedLifetime(event) {}
            }
            let wanted = Answer.Publish(
                topic: "t/x", payload: payload, qos: first >> 1 & 3, id: identifier, retain: first & 1 == 1,
                dup: first & 8 == 8)
            #expect(answers == [.publish(wanted)])
        }
    }

    @Test func publishGoesThroughTheNodeUnchanged() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        client.subscribe("#", qos: 2)
        for count in [0, 1, 125, 126, 127, 128, 129, 16_382, 16_383, 16_384, 100_000] {
            let payload = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
            #expect(
                client.ask(Frame.publish("a/b", payload)) == [.publish(Answer.Publish(topic: "a/b", payload: payload))])
        }
    }

    @Test func remainingLength() {
        func framing(_ bytes: [UInt8]) -> Framing { bytes.withUnsafeBytes { Framing.of($0) } }
        for (bytes, count) in [
            ([UInt8(0)], 0), ([0x7F], 127), ([0x80, 1], 128), ([0xFF, 0x7F], 16_383), ([0x80, 0x80, 1], 16_384),
            ([0xFF, 0xFF, 0x7F], 2_097_151), ([0x80, 0x80, 0x80, 1], 2_097_152),
            ([0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
        ] {
            #expect(framing([0x30] + bytes) == .packet(header: 1 + bytes.count, remaining: count))
            #expect(Frame.length(count) == bytes)
            for shorter in 0..<bytes.count { #expect(framing([0x30] + bytes.prefix(shorter)) == .incomplete) }
        }
        #expect(framing([]) == .incomplete)
        #expect(framing([0x30, 0x80, 0x80, 0x80, 0x80]) == .malformed)
        #expect(framing([0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]) == .malformed)
    }

    @Test func text() {
        let good: [[UInt8]] = [
            [], [0x41], [0xC2, 0x80], [0xDF, 0xBF], [0xE0, 0xA0, 0x80], [0xED, 0x9F, 0xBF], [0xEE, 0x80, 0x80],
            [0xEF, 0xBB, 0xBF], [0xEF, 0xBF, 0xBF], [0xF0, 0x90, 0x80, 0x80], [0xF4, 0x8F, 0xBF, 0xBF],
        ]
        for bytes in good { #expect(bytes.withUnsafeBytes(Topic.isText), "\(bytes)") }
        for bytes in Self.badText { #expect(!bytes.withUnsafeBytes(Topic.isText), "\(bytes)") }
    }

    /// NUL, surrogates, overlong forms, beyond U+10FFFF, cut and stray bytes (§1.5.3).
    static let badText: [[UInt8]] = [
        [0], [0x41, 0, 0x42], [0xED, 0xA0, 0x80], [0xED, 0xBF, 0xBF], [0xED, 0xA0, 0x81, 0xED, 0xB0, 0x80],
        [0xC0, 0x80],
        [0xC1, 0xBF], [0xE0, 0x80, 0x80], [0xE0, 0x9F, 0xBF], [0xF0, 0x80, 0x80, 0x80], [0xF0, 0x8F, 0xBF, 0xBF],
        [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xFF], [0xFE], [0x80], [0xBF], [0xC2], [0xE1, 0x80],
        [0xF1, 0x80, 0x80], [0xC2, 0x41], [0xE1, 0x80, 0x41], [0xF1, 0x80, 0x80, 0x41],
    ]
}
