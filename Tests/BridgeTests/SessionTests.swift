import Core
import Glibc
import Synchronization
import Testing

@testable import Bridge

/// One after another: each has threads of its own.
@Suite("Sessions of brokers", .serialized) struct SessionTests {
    private static func numbers(_ range: Range<Int>) -> [String] { range.map { "\($0)" } }

    /// Whether CONNECT has Clean Start.
    private static func isClean(_ connect: FakeBroker.Packet) -> Bool { connect.body[7] & 2 != 0 }

    /// PUBLISH with RETAIN and QoS 2 to `a`, with the number 1.
    private static func retained(_ payload: String) -> [UInt8] {
        let packet = FakeBroker.publish("a", Array(payload.utf8), qos: 2, identifier: 1)
        return [packet[0] | 1] + packet.dropFirst()
    }

    @Test(
        "What was not released of a session that the broker has lost is not handed out for something new",
        arguments: [true, false])
    func unreleased(isKept: Bool) throws {
        let (stage, broker) = (try BridgeStage(), FakeBroker())
        defer { broker.stop() }
        var definition = stage.bridge(broker, [.init(filter: "a", direction: .incoming, qos: 2)])
        definition.isSessionKept = isKept
        stage.service.update([definition])
        #expect(broker.wait(for: 0x80).count == 1)
        broker.send(Self.retained("1"))
        #expect(broker.wait(for: 0x50).count == 1)
        broker.drop()
        #expect(broker.wait(for: 0x80, count: 2).count == 2)
        broker.send(Self.retained("2"))
        #expect(broker.wait(for: 0x50, count: 2).count == 2)
        broker.send([0x62, 2, 0, 1])
        #expect(broker.wait(for: 0x70).count == 1)
        #expect(stage.eventually { $0.counts.eventsIn == 1 })
        let value = Array("a".utf8).withUnsafeBytes { stage.router.retained($0, now: 0) }
        #expect(value.map { String(decoding: $0.payload, as: UTF8.self) } == "2")
        #expect(broker.connections == (isKept ? 3 : 2))
    }

    @Test("Events that are too large for the next connection are dropped and counted, and others go on")
    func smallerPackets() throws {
        let broker = FakeBroker { packet, connection in
            switch packet.first & 0xF0 {
            // Maximum Packet Size 100.
            case 0x10 where connection > 1: [0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 100]
            case 0x30 where connection == 1: []
            default: nil
            }
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.state == .connected })
        for _ in 0..<20 { stage.publish("a", String(repeating: "x", count: 200)) }
        #expect(broker.wait(for: 0x30, count: 20).count == 20)
        broker.drop()
        stage.publish("a", "small")
        #expect(stage.eventually { $0.counts.eventsOut == 1 && $0.queuedEvents == 0 })
        #expect(broker.packets(0x30).dropFirst(20).map(\.payload) == ["small"])
        #expect(stage.description?.counts.droppedOut[BridgeCounts.place(.tooLarge)] == 20)
    }

    @Test("An event is sent if its packet is as large as a broker takes, and not if it is a byte larger")
    func packetSize() throws {
        // Maximum Packet Size 200.
        let broker = FakeBroker { packet, _ in packet.first == 0x10 ? [0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 200] : nil }
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.state == .connected })
        for count in 100..<200 { stage.publish("a", String(repeating: "x", count: count)) }
        #expect(stage.eventually { $0.queuedEvents == 0 && $0.counts.eventsOut > 0 })
        // The length has two bytes.
        #expect(broker.packets(0x30).map { 3 + $0.body.count }.max() == 200)
        let sent = stage.description?.counts.eventsOut
        #expect(sent == UInt64(broker.packets(0x30).count))
        #expect(stage.description?.counts.droppedOut[BridgeCounts.place(.tooLarge)] == 100 - (sent ?? 0))
    }
}
