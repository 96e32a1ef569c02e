import Core
import Glibc
import Synchronization
import Testing

@testable import Bridge

/// Packets that a broker may not send, or may, but not so many of; of an odd length in all, so that their ends are
/// seldom those of TLS records.
private let noises: [String: [UInt8]] = [
    "PINGRESP": [0xD0, 0],
    "CONNACK": [0x20, 3, 0, 0, 0],
    "events that nobody wants": FakeBroker.publish("$other", [1], qos: 0),
    "events with a bad topic": FakeBroker.publish("a//", [1, 2, 3], qos: 0),
]

/// One after another: each has threads of its own, and some send as much as they can.
@Suite("Brokers that are difficult", .serialized) struct DifficultBrokerTests {
    /// An answer that says no to an event for the moment, to PUBLISH of QoS 1 or 2.
    private static func refuses(_ packet: FakeBroker.Packet) -> [UInt8] {
        [packet.qos == 1 ? 0x40 : 0x50, 3] + packet.identifier + [0x97]
    }

    private static func takes(_ packet: FakeBroker.Packet) -> [UInt8] {
        [packet.qos == 1 ? 0x40 : 0x50, 2] + packet.identifier
    }

    /// A broker that answers to what it is sent as it sees fit.
    private final class Clerk: Sendable {
        struct State {
            var waiting: [FakeBroker.Packet] = []
            /// Payloads of events that it has taken, in order.
            var taken: [String] = []
            /// Events that were not answered at once, at most.
            var mostWaiting = 0
            /// Whether it answers to nothing.
            var isSilent = false
        }
        let state = Mutex(State())

        var taken: [String] { state.withLock { $0.taken } }

        /// A broker that says nothing until it has 20 events, then this, and takes all after that.
        func answeringAtTwenty(_ answer: @escaping @Sendable (inout State) -> [UInt8]) -> FakeBroker {
            FakeBroker { [self] packet, _ in
                guard packet.first & 0xF0 == 0x30 else { return nil }
                return state.withLock { state in
                    if state.mostWaiting == 20 {
                        state.taken.append(packet.payload)
                        return nil
                    }
                    state.waiting.append(packet)
                    state.mostWaiting = state.waiting.count
                    return state.waiting.count == 20 ? answer(&state) : []
                }
            }
        }

        /// Waits for a number of events that it has taken, ten seconds at most.
        func wait(for count: Int) -> [String] {
            for _ in 0..<2_000 where taken.count < count { usleep(5_000) }
            return taken
        }
    }

    private static func numbers(_ range: Range<Int>) -> [String] { range.map { "\($0)" } }

    // MARK: Order

    @Test(
        "Events that a broker refuses for the moment go out again in their order",
        arguments: [UInt8(1), 2], [1, 2])
    func refused(qos: UInt8, every: Int) throws {
        let clerk = Clerk()
        // It answers when it has 20, refuses each or every other, and takes all after that.
        let broker = clerk.answeringAtTwenty { state in
            state.waiting.enumerated().flatMap { index, packet in
                if index % every == 0 { return Self.refuses(packet) }
                state.taken.append(packet.payload)
                return Self.takes(packet)
            }
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker, [.init(filter: "#", qos: qos)])])
        #expect(stage.eventually { $0.state == .connected })
        for number in 0..<60 { stage.publish("a", "\(number)", qos: qos) }
        let refused = Self.numbers(0..<20).filter { (Int($0) ?? 0) % every == 0 }
        let wanted = Self.numbers(0..<20).filter { !refused.contains($0) } + refused + Self.numbers(20..<60)
        #expect(clerk.wait(for: 60) == wanted)
        #expect(stage.eventually { $0.counts.eventsOut == 60 && $0.queuedEvents == 0 })
    }

    @Test("While the broker has not answered for all, none goes ahead of one that may still be refused")
    func refusedLate() throws {
        let clerk = Clerk()
        // It answers when it has 20: it refuses the first, says nothing to the second and takes the others.
        let broker = clerk.answeringAtTwenty { state in
            state.taken = state.waiting[2...].map(\.payload)
            return Self.refuses(state.waiting[0]) + state.waiting[2...].flatMap { Self.takes($0) }
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.state == .connected })
        for number in 0..<60 { stage.publish("a", "\(number)") }
        #expect(clerk.wait(for: 18) == Self.numbers(2..<20))
        // Longer than the bridge pauses.
        usleep(1_000_000)
        #expect(clerk.taken == Self.numbers(2..<20))
        for packet in clerk.state.withLock({ $0.waiting[1..<2] }) { broker.send(Self.refuses(packet)) }
        #expect(clerk.wait(for: 60) == Self.numbers(2..<20) + Self.numbers(0..<2) + Self.numbers(20..<60))
    }

    // MARK: Sessions

    /// Whether CONNECT has Clean Start.
    private static func isClean(_ connect: FakeBroker.Packet) -> Bool { connect.body[7] & 2 != 0 }

    @Test("A session is given up for what the broker says, and not because connections end", arguments: [false, true])
    func sessionGivenUp(saysWhy: Bool) throws {
        // In the session that it has kept it takes nothing with its first twelve connections.
        let isNew = Atomic(false)
        let broker = FakeBroker { packet, connection in
            switch packet.first & 0xF0 {
            case 0x10:
                if Self.isClean(packet) { isNew.store(true, ordering: .releasing) }
                return [0x20, 3, isNew.load(ordering: .acquiring) ? 0 : 1, 0, 0]
            case 0x30 where !isNew.load(ordering: .acquiring) && connection <= 12:
                // A DISCONNECT: Receive Maximum exceeded, or an error that it does not name.
                return [0xE0, 1, saysWhy ? 0x93 : 0x80]
            default: return nil
            }
        }
        let stage = try BridgeStage(sessionPatience: 0)
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.state == .connected })
        for number in 0..<3 { stage.publish("a", "\(number)") }
        #expect(stage.eventually { $0.counts.eventsOut == 3 && $0.queuedEvents == 0 })
        #expect(stage.description?.counts.sessionsGivenUp == (saysWhy ? 1 : 0))
        #expect(broker.packets(0x10).contains(where: Self.isClean) == saysWhy)
    }

    // MARK: What a broker takes

    @Test("A broker that takes other qualities of service with later connections")
    func maximumQoS() throws {
        let broker = FakeBroker { packet, connection in
            // The first and the last connection say nothing of it.
            guard packet.first == 0x10, let most: UInt8 = [2: 1, 3: 0, 4: 1][connection] else { return nil }
            return [0x20, 5, 0, 0, 2, 0x24, most]
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker, [.init(filter: "#", direction: .outgoing, qos: 2)])])
        for connection in 1...5 {
            #expect(stage.eventually { $0.state == .connected && $0.counts.connects == UInt64(connection) })
            for number in 0..<50 { stage.publish("a", "\(connection)-\(number)", qos: 2) }
            #expect(stage.eventually { $0.counts.eventsOut == UInt64(connection) * 50 && $0.queuedEvents == 0 })
            #expect(broker.wait(for: 0x30, count: connection * 50).count == connection * 50)
            broker.drop()
        }
        let qualities = (1...5).map { connection in
            Set(broker.packets(0x30).filter { $0.payload.hasPrefix("\(connection)-") }.map(\.qos))
        }
        #expect(qualities == [[2], [1], [0], [1], [1]])
    }

    @Test("Events that are under way when a broker takes a lower quality of service", arguments: [UInt8(0), 1])
    func maximumQoSOfEventsUnderWay(most: UInt8) throws {
        let broker = FakeBroker { packet, connection in
            switch packet.first & 0xF0 {
            case 0x10 where connection > 1: return [0x20, 5, 0, 0, 2, 0x24, most]
            case 0x30 where connection == 1: return []
            // DISCONNECT, QoS not supported.
            case 0x30 where packet.qos > most: return [0xE0, 1, 0x9B]
            default: return nil
            }
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker, [.init(filter: "#", qos: 2)])])
        #expect(stage.eventually { $0.state == .connected })
        for number in 0..<50 { stage.publish("a", "\(number)", qos: 2) }
        #expect(broker.wait(for: 0x30, count: 20).count == 20)
        broker.drop()
        #expect(stage.eventually { $0.counts.eventsOut == 50 && $0.queuedEvents == 0 })
        // What has QoS 0 is out once it is written.
        let later = broker.wait(for: 0x30, count: 70).dropFirst(20)
        #expect(later.map(\.payload) == Self.numbers(0..<50))
        #expect(Set(later.map(\.qos)) == [most])
    }

    /// Publishes a direct event that the bridge takes: its lane hears of a connection a moment after the broker.
    private func publishDirect(_ stage: BridgeStage) -> Bool {
        func dropped(_ description: BridgeDescription) -> UInt64 {
            description.counts.droppedOut[BridgeCounts.place(.disconnected)]
        }
        while let before = stage.description {
            stage.publish("a", "direct", qos: 0)
            let isSettled = stage.eventually {
                $0.queuedEvents > before.queuedEvents || dropped($0) > dropped(before)
            }
            guard isSettled, let after = stage.description else { return false }
            if after.queuedEvents > before.queuedEvents { return true }
        }
        return false
    }

    @Test("A broker that takes fewer events at once with a later connection")
    func receiveMaximum() throws {
        let clerk = Clerk()
        let broker = FakeBroker { packet, connection in
            clerk.state.withLock { state in
                switch packet.first & 0xF0 {
                case 0x10:
                    (state.waiting, state.taken, state.isSilent) = ([], [], true)
                    // Receive Maximum 2 with the second connection; the third says nothing of it.
                    return connection == 2 ? [0x20, 6, 0, 0, 3, 0x21, 0, 2] : nil
                case 0x30 where connection > 1:
                    state.taken.append(packet.payload)
                    guard packet.qos > 0 else { return [] }
                    // One is always left waiting, so that a third would be seen.
                    state.waiting.append(packet)
                    state.mostWaiting = max(state.mostWaiting, state.waiting.count)
                    return state.isSilent || state.waiting.count < 2 ? [] : Self.takes(state.waiting.removeFirst())
                case 0x30: return []
                default: return nil
                }
            }
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.state == .connected })
        for number in 0..<100 { stage.publish("a", "\(number)") }
        #expect(broker.wait(for: 0x30, count: 20).count == 20, "all that a bridge has under way")
        for connection in 2...3 {
            broker.drop()
            let isConnected = stage.eventually { $0.state == .connected && $0.counts.connects == UInt64(connection) }
            #expect(isConnected, "\(String(describing: stage.description))")
            if connection == 3 { for number in 0..<50 { stage.publish("a", "\(number)") } }
            #expect(clerk.wait(for: 2).count == 2)
            // A direct event does not overtake those that wait.
            #expect(stage.eventually { $0.queuedEvents == (connection == 2 ? 100 : 51) })
            #expect(publishDirect(stage))
            stage.publish("a", "last")
            usleep(200_000)
            let first = clerk.state.withLock { state in
                state.isSilent = false
                return state.waiting.isEmpty ? nil : state.waiting.removeFirst()
            }
            if let first { broker.send(Self.takes(first)) }
            let wanted =
                (connection == 2 ? Self.numbers(0..<100) : ["last"] + Self.numbers(0..<50)) + ["direct", "last"]
            #expect(clerk.wait(for: wanted.count) == wanted)
            #expect(clerk.state.withLock { $0.mostWaiting } == 2)
            #expect(stage.eventually { $0.queuedEvents == 1 })
        }
    }

    // MARK: Properties

    @Test("An event with a hundred thousand user properties is dealt with, on its way in and out")
    func properties() throws {
        let broker = FakeBroker()
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([
            stage.bridge(
                broker,
                [
                    .init(filter: "in/#", direction: .incoming), .init(filter: "out/#", direction: .outgoing),
                ])
        ])
        #expect(stage.eventually { $0.state == .connected })
        let many = [[UInt8]](repeating: [0x26, 0, 1, 0x61, 0, 1, 0x62], count: 100_000).flatMap { $0 }
        broker.send(FakeBroker.publish("in/a", [1], qos: 1, identifier: 1, properties: many))
        broker.send(FakeBroker.publish("in/a", [2], qos: 1, identifier: 2))
        #expect(broker.wait(for: 0x40, count: 2).map(\.identifier) == [[0, 1], [0, 2]])
        #expect(stage.eventually { $0.counts.eventsIn == 2 })
        // What the bridge says to the broker ends with the trail.
        for (count, goes) in [(999, true), (100_000, false)] {
            let before = broker.packets(0x30).count
            let dropped = stage.description?.counts.droppedOut[BridgeCounts.place(.badProperty)] ?? 0
            var writer = EventPropertiesWriter()
            for _ in 0..<count { writer.addUser("a".utf8, "b".utf8) }
            stage.publish("out/a", "many", properties: writer.finish().bytes)
            stage.publish("out/a", "plain")
            #expect(broker.wait(for: 0x30, count: before + (goes ? 2 : 1)).count == before + (goes ? 2 : 1))
            #expect(
                stage.eventually {
                    $0.counts.droppedOut[BridgeCounts.place(.badProperty)] == dropped + (goes ? 0 : 1)
                        && $0.queuedEvents == 0
                }, "\(count)")
        }
    }

    // MARK: Noise

    @Test("A broker that answers CONNECT twice loses the connection")
    func twice() throws {
        let yes: [UInt8] = [0x20, 3, 0, 0, 0]
        let broker = FakeBroker { packet, connection in packet.first == 0x10 && connection == 1 ? yes + yes : nil }
        let stage = try BridgeStage()
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.counts.failures == 1 && $0.state == .connected })
        stage.publish("a", "1")
        #expect(stage.eventually { $0.counts.eventsOut == 1 })
        broker.send(yes)
        #expect(stage.eventually { $0.counts.failures == 2 })
    }

    @Test(
        "While a broker makes noise events go out, and the bridge ends when it is told to",
        arguments: noises.keys.sorted(), [false, true])
    func noise(kind: String, isSecure: Bool) throws {
        let packet = try #require(noises[kind])
        let authority = isSecure ? try FakeAuthority() : nil
        let broker = FakeBroker(certificate: authority?.identity)
        let stage = try BridgeStage()
        defer { broker.stop() }
        var definition = stage.bridge(
            broker,
            [
                .init(filter: "a/#"), .init(filter: "out/#", direction: .outgoing),
            ])
        definition.security = authority?.security
        stage.service.update([definition])
        #expect(broker.wait(for: 0x80).count == 1)
        let event = FakeBroker.publish("a", [0], qos: 0)
        let burst = event + (0..<1 << 18 / packet.count).flatMap { _ in packet }
        let gauge = broker.flood(burst)
        if kind != "CONNACK" {
            #expect(stage.eventually { _ in gauge.bytes > 1 << 16 })
            stage.publish("out/a", "1")
            // The broker's answer to it is behind all the noise.
            #expect(broker.wait(for: 0x30).count == 1, "it does not get round to sending")
        }
        stage.service.stop(graceMilliseconds: 100)
        #expect(stage.eventually { $0.state == .stopped }, "it does not get round to ending")
    }

    @Test("However much a broker sends while the node is busy, little is taken", arguments: [false, true])
    func backPressure(isSecure: Bool) throws {
        let authority = isSecure ? try FakeAuthority() : nil
        let broker = FakeBroker(certificate: authority?.identity)
        let stage = try BridgeStage()
        defer { broker.stop() }
        var definition = stage.bridge(broker)
        definition.security = authority?.security
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .connected })
        #expect(broker.wait(for: 0x80).count == 1)
        let release = stage.block()
        // Of a length that shares no factor with that of TLS records: with TLS one call of libmosquitto would read all.
        let packet = FakeBroker.publish("a/b", [UInt8](repeating: 0x78, count: 1_010), qos: 0)
        let count = 40_000
        let gauge = broker.flood((0..<count).flatMap { _ in packet }, times: 1)
        let most = 24 << 20
        let taken = gauge.settle(atMost: most)
        #expect(taken <= most)
        release()
        #expect(stage.eventually { $0.counts.eventsIn == UInt64(count) })
        #expect(stage.description?.counts.failures == 0)
    }
}
