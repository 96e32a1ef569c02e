import Core
import Glibc
import Reactor
import Synchronization
import Testing

@testable import Bridge

/// One after another: each has threads of its own.
@Suite("Sessions of brokers", .serialized) struct SessionTests {
    private static func numbers(_ range: Range<Int>) -> [String] { range.map { "\($0)" } }

    /// Whether CONNECT has Clean Start.
    static func isClean(_ connect: FakeBroker.Packet) -> Bool { connect.body[7] & 2 != 0 }

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

    @Test(
        "Events that are too large for the next connection are dropped and counted, and others go on",
        arguments: [UInt8(1), 2], [BridgeDefinition.Direction.outgoing, .both])
    func smallerPackets(qos: UInt8, direction: BridgeDefinition.Direction) throws {
        let broker = FakeBroker { packet, connection in
            switch packet.first & 0xF0 {
            // Maximum Packet Size 100.
            case 0x10 where connection > 1: [0x20, 8, 1, 0, 5, 0x27, 0, 0, 0, 100]
            case 0x30 where connection == 1: []
            default: nil
            }
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker, [.init(filter: "#", direction: direction, qos: 2)])])
        #expect(stage.eventually { $0.state == .connected })
        for _ in 0..<20 { stage.publish("a", String(repeating: "x", count: 200), qos: qos) }
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

    // MARK: Numbers

    /// A broker that keeps its session, and takes no event with a number that it knows from one that was not released.
    private final class Keeper: Sendable {
        struct State {
            var hasSession = false
            var known: Set<[UInt8]> = []
            var taken: [String] = []
            /// Events that it answers to; it notes the others.
            var patience = Int.max
        }
        let state = Mutex(State())

        init(patience: Int = .max) { state.withLock { $0.patience = patience } }

        var taken: [String] { state.withLock { $0.taken } }

        func broker() -> FakeBroker {
            FakeBroker { [self] packet, connection in
                state.withLock { state in
                    switch packet.first & 0xF0 {
                    case 0x10:
                        if SessionTests.isClean(packet) { (state.hasSession, state.known) = (false, []) }
                        defer { state.hasSession = true }
                        return [0x20, 3, state.hasSession ? 1 : 0, 0, 0]
                    case 0x30:
                        let isNew = packet.qos < 2 || state.known.insert(packet.identifier).inserted
                        if isNew { state.taken.append(packet.payload) }
                        return connection == 1 && state.taken.count > state.patience ? [] : nil
                    case 0x60: state.known.remove(packet.identifier)
                    default: break
                    }
                    return nil
                }
            }
        }
    }

    @Test(
        "A new client does not use numbers that the broker's session may know",
        arguments: [BridgeDefinition.Direction.both, .outgoing])
    func numbers(direction: BridgeDefinition.Direction) throws {
        let keeper = Keeper(patience: 5)
        let (stage, broker) = (try BridgeStage(), keeper.broker())
        defer { broker.stop() }
        var definition = stage.bridge(broker, [.init(filter: "a", direction: direction, qos: 2)])
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .connected })
        for number in 0..<25 { stage.publish("a", "\(number)", qos: 2) }
        #expect(broker.wait(for: 0x30, count: 25).count == 25)
        definition.keepAliveSeconds = 30
        stage.service.update([definition])
        // Once the lane has heard of it the thread does not connect again.
        let isHeard = Atomic(false)
        stage.reactor.lanes.call(stage.service.laneNumber(of: "b")) { _ in isHeard.store(true, ordering: .releasing) }
        while !isHeard.load(ordering: .acquiring) { usleep(1_000) }
        broker.drop()
        for number in 25..<35 { stage.publish("a", "\(number)", qos: 2) }
        #expect(stage.eventually { $0.queuedEvents == 0 && $0.counts.eventsOut == 35 })
        #expect(Set(keeper.taken) == Set(Self.numbers(0..<35)))
        // Without a session that is worth something QoS 2 stays.
        #expect(broker.packets(0x30).last?.qos == (direction == .both ? 1 : 2))
        #expect(broker.packets(0x10).contains(where: Self.isClean) == (direction == .outgoing))
    }

    @Test("A bridge that is changed with nothing under way goes on with QoS 2")
    func numbersKnown() throws {
        let keeper = Keeper()
        let (stage, broker) = (try BridgeStage(), keeper.broker())
        defer { broker.stop() }
        var definition = stage.bridge(broker, [.init(filter: "a", qos: 2)])
        for round in 0..<3 {
            definition.keepAliveSeconds = 30 + UInt16(round)
            stage.service.update([definition])
            #expect(stage.eventually { $0.counts.connects == round + 1 && $0.state == .connected })
            for number in 0..<10 { stage.publish("a", "\(round * 10 + number)", qos: 2) }
            #expect(stage.eventually { $0.counts.eventsOut == round * 10 + 10 && $0.queuedEvents == 0 })
        }
        #expect(keeper.taken == Self.numbers(0..<30))
        #expect(broker.packets(0x30).allSatisfy { $0.qos == 2 })
    }
}
