import Core
import Glibc
import Reactor
import Synchronization
import Testing

@testable import Bridge

/// What becomes of events, and of what has failed, when the configuration is read again. One after another: some
/// measure time.
@Suite("Bridges that are changed", .serialized) struct ReloadTests {
    /// A stage with two lanes: the bridge's, and another one to publish on.
    private struct TwoLanes {
        let stage: BridgeStage
        let own: Int
        var other: Int { 1 - own }

        init() throws {
            stage = try BridgeStage(lanes: 2)
            own = stage.service.laneNumber(of: "b")
        }

        /// Returns once a lane has done what it was given before, and has posted its mail.
        func flush(_ lane: Int) {
            for _ in 0..<2 {
                let flag = Flag()
                stage.reactor.lanes.call(lane) { _ in flag.raise() }
                flag.wait()
            }
        }
    }

    private final class Flag: Sendable {
        private let isUp = Atomic<Bool>(false)
        func raise() { isUp.store(true, ordering: .releasing) }
        func wait() { while !isUp.load(ordering: .acquiring) { usleep(1_000) } }
    }

    private static func numbers(_ range: Range<Int>) -> [String] { range.map { "\($0)" } }

    private static func payloads(_ broker: FakeBroker) -> [String] { broker.packets(0x30).map(\.payload) }

    // MARK: Nothing is lost

    @Test(
        "What is on its way to a bridge while it is changed arrives once", arguments: ["a/#", "a/+", "#"],
        [nil, "group"])
    func mailOnItsWay(filter: String, group: String?) throws {
        let (lanes, broker) = (try TwoLanes(), FakeBroker())
        defer { broker.stop() }
        let stage = lanes.stage
        var first = stage.bridge(broker, [.init(filter: "a/#")])
        first.group = group
        stage.service.update([first])
        #expect(stage.eventually { $0.state == .connected })
        let release = stage.block(lanes.own)
        for number in 0..<10 { stage.publish("a/b", "\(number)", on: lanes.other) }
        lanes.flush(lanes.other)
        var changed = stage.bridge(broker, [.init(filter: filter)])
        changed.keepAliveSeconds = 30
        changed.group = group
        stage.service.update([changed])
        for number in 10..<20 { stage.publish("a/b", "\(number)", on: lanes.other) }
        lanes.flush(lanes.other)
        release()
        #expect(stage.eventually { $0.counts.connects == 2 && $0.state == .connected && $0.queuedEvents == 0 })
        stage.publish("a/b", "20", on: lanes.other)
        #expect(broker.wait(for: 0x30, count: 21).count == 21)
        usleep(100_000)
        #expect(Self.payloads(broker) == Self.numbers(0..<21))
    }

    @Test("Changes under load lose nothing and send nothing twice to a broker that answers")
    func load() throws {
        let (lanes, broker) = (try TwoLanes(), FakeBroker())
        defer { broker.stop() }
        let stage = lanes.stage
        var definition = stage.bridge(broker, [.init(filter: "a/#")])
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .connected })
        var count = 0
        for round in 0..<20 {
            definition.keepAliveSeconds = UInt16(30 + round)
            definition.topics = [.init(filter: ["a/#", "a/+", "#"][round / 3 % 3])]
            for _ in 0..<50 {
                stage.publish("a/b", "\(count)", on: lanes.other)
                count += 1
            }
            stage.service.update([definition])
            usleep(UInt32(round % 4) * 10_000)
        }
        #expect(broker.wait(for: 0x30, count: count).count == count)
        #expect(stage.eventually { $0.queuedEvents == 0 && $0.state == .connected })
        let isAsPublished = Self.payloads(broker) == Self.numbers(0..<count)
        #expect(isAsPublished)
        #expect(stage.description?.counts.droppedOut.reduce(0, +) == 0)
    }

    @Test("What a broker has not acknowledged in time goes out again, ahead of what waits")
    func unacknowledged() throws {
        let broker = FakeBroker { packet, connection in
            packet.first & 0xF0 == 0x30 && connection == 1 ? [] : nil
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        var definition = stage.bridge(broker)
        definition.maxInFlight = 5
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .connected })
        for number in 0..<10 { stage.publish("a", "\(number)") }
        #expect(broker.wait(for: 0x30, count: 5).count == 5)
        definition.maxInFlight = 6
        stage.service.update([definition])
        for number in 10..<20 { stage.publish("a", "\(number)") }
        #expect(broker.wait(for: 0x30, count: 25).count == 25)
        #expect(Self.payloads(broker) == Self.numbers(0..<5) + Self.numbers(0..<20))
        #expect(stage.eventually { $0.queuedEvents == 0 && $0.inFlight == 0 && $0.counts.eventsOut == 20 })
    }

    @Test("What waits goes on with other topics as well, if they have it")
    func otherTopics() throws {
        let (stage, gone, broker) = (try BridgeStage(), FakeBroker(), FakeBroker())
        defer { broker.stop() }
        let definition = stage.bridge(gone, [.init(filter: "a/#"), .init(filter: "b/#")])
        gone.stop()
        stage.service.update([definition])
        #expect(stage.eventually { $0.lastError != nil })
        for number in 0..<10 { stage.publish(number % 2 == 0 ? "a/x" : "b/x", "\(number)") }
        #expect(stage.eventually { $0.queuedEvents == 10 })
        stage.service.update([stage.bridge(broker, [.init(filter: "a/#"), .init(filter: "c/#")])])
        stage.publish("b/x", "not asked for any more")
        stage.publish("c/x", "10")
        #expect(broker.wait(for: 0x30, count: 6).map(\.payload) == ["0", "2", "4", "6", "8", "10"])
        #expect(stage.eventually { $0.queuedEvents == 0 })
        #expect(stage.description?.counts.droppedOut[BridgeCounts.place(.unmatched)] == 5)
    }

    @Test("An echo that comes after a change is one still")
    func echo() throws {
        let broker = FakeBroker { packet, _ in
            switch packet.first & 0xF0 {
            case 0x10: [0x20, 2, 0, 0]
            case 0x80: [0x90, 3] + packet.identifier + [1]
            default: nil
            }
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        var definition = stage.bridge(broker)
        definition.version = .v311
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .connected })
        stage.publish("a", "1")
        #expect(stage.eventually { $0.counts.eventsOut == 1 && $0.queuedEvents == 0 })
        definition.keepAliveSeconds = 30
        stage.service.update([definition])
        #expect(broker.wait(for: 0x80, count: 2).count == 2)
        for _ in 0..<2 { broker.send([0x30, 4, 0, 1, 0x61, 0x31]) }
        #expect(stage.eventually { $0.counts.eventsIn + $0.counts.loopsIn == 2 })
        #expect(stage.description?.counts.loopsIn == 1)
    }

    // MARK: Retained events

    @Test("A bridge that is corrected sends the retained events that it could not send")
    func retainedOfCorrected() throws {
        let (stage, gone, broker) = (try BridgeStage(), FakeBroker(), FakeBroker())
        defer { broker.stop() }
        for number in 0..<5 { stage.publish("a/\(number)", "\(number)", isRetained: true) }
        let definition = stage.bridge(gone)
        gone.stop()
        stage.service.update([definition])
        #expect(stage.eventually { $0.lastError != nil })
        var changed = definition
        changed.port = broker.port
        stage.service.update([changed])
        #expect(Set(broker.wait(for: 0x30, count: 5).map(\.payload)) == Set(Self.numbers(0..<5)))
        #expect(broker.packets(0x30).allSatisfy { $0.first & 1 == 1 }, "without RETAIN")
        // And a broker that has had them does not get them again.
        #expect(stage.eventually { $0.queuedEvents == 0 && $0.state == .connected })
        changed.keepAliveSeconds = 30
        stage.service.update([changed])
        #expect(stage.eventually { $0.counts.connects == 2 && $0.state == .connected })
        stage.publish("a/x", "live")
        #expect(broker.wait(for: 0x30, count: 6).last?.payload == "live")
    }

    @Test("Retained events that are being sent while a bridge is changed are all sent")
    func retainedOfChanged() throws {
        let broker = FakeBroker { packet, _ in
            // Slow enough for the change to come into the middle of it.
            if packet.first & 0xF0 == 0x30 { usleep(1_000) }
            return nil
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        for number in 0..<1_000 { stage.publish("a/\(number)", "\(number)", isRetained: true) }
        var definition = stage.bridge(broker)
        definition.maxInFlight = 10
        stage.service.update([definition])
        _ = broker.wait(for: 0x30, count: 100)
        definition.keepAliveSeconds = 30
        stage.service.update([definition])
        #expect(Set(broker.wait(for: 0x30, count: 1_000).map(\.payload)).count == 1_000)
    }

    @Test("Retained events that had to wait do not go out after newer ones of the same topics")
    func retainedThatWait() throws {
        struct State {
            var isSilent = true
            var answers: [UInt8] = []
            var last: [[UInt8]: String] = [:]
        }
        let state = Mutex(State())
        let topics = 600
        let broker = FakeBroker { packet, _ in
            guard packet.first & 0xF0 == 0x30 else { return nil }
            return state.withLock { state in
                state.last[Array(packet.body[..<(2 + Int(packet.body[1]))])] = packet.payload
                guard state.isSilent else { return nil }
                state.answers += [0x40, 2] + packet.identifier
                return []
            }
        }
        let stage = try BridgeStage()
        defer { broker.stop() }
        for number in 0..<topics { stage.publish("r/\(number)", "old", isRetained: true) }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.inFlight == 256 })
        for number in 0..<topics { stage.publish("r/\(number)", number == 599 ? "" : "new", isRetained: true) }
        #expect(stage.eventually { $0.queuedEvents == 256 + topics })
        let answers = state.withLock { state in
            state.isSilent = false
            return state.answers
        }
        broker.send(answers)
        #expect(stage.eventually { $0.queuedEvents == 0 })
        stage.publish("r/last", "end")
        #expect(stage.eventually { $0.queuedEvents == 0 && $0.counts.eventsOut > UInt64(topics) })
        let last = state.withLock { $0.last }
        #expect(last.values.filter { $0 == "new" }.count == topics - 1)
        #expect(last.values.filter { $0 == "old" } == [])
    }

    @Test("Retained events of a new topic, and of one that has moved, are sent; others are not sent again")
    func retainedOfNewTopics() throws {
        let (stage, broker) = (try BridgeStage(), FakeBroker())
        defer { broker.stop() }
        for topic in ["a/x", "b/x", "c/x"] { stage.publish(topic, topic, isRetained: true) }
        stage.service.update([stage.bridge(broker, [.init(filter: "a/#"), .init(filter: "b/#")])])
        #expect(broker.wait(for: 0x30, count: 2).count == 2)
        #expect(stage.eventually { $0.queuedEvents == 0 && $0.state == .connected })
        stage.service.update([
            stage.bridge(
                broker, [.init(filter: "a/#"), .init(filter: "b/#", remotePrefix: "moved/"), .init(filter: "c/#")])
        ])
        #expect(stage.eventually { $0.counts.connects == 2 && $0.state == .connected })
        _ = broker.wait(for: 0x30, count: 4)
        stage.publish("a/x", "live")
        #expect(Set(broker.wait(for: 0x30, count: 5)[2...].map(\.payload)) == ["b/x", "c/x", "live"])
        // Another broker has none of them.
        let another = FakeBroker()
        defer { another.stop() }
        stage.service.update([stage.bridge(another, [.init(filter: "b/#"), .init(filter: "c/#")])])
        #expect(Set(another.wait(for: 0x30, count: 2).map(\.payload)) == ["b/x", "c/x"])
    }

    // MARK: What has failed

    private static let denied = [
        AccessRule(effect: .deny, action: .all, topics: ["b/#"], users: ["bridge:b"]),
        AccessRule(effect: .allow, action: .all, topics: ["#"]),
    ]

    @Test("A bridge that the rules did not let start is tried again, though it is the same")
    func failedByRules() throws {
        let (stage, broker) = (try BridgeStage(rules: try AccessRules(Self.denied)), FakeBroker())
        defer { broker.stop() }
        let definition = stage.bridge(broker, [.init(filter: "b/#")])
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .failed })
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .failed })
        stage.router.reload(.none)
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .connected && $0.lastError == nil })
        stage.publish("b/x", "1")
        #expect(broker.wait(for: 0x30).map(\.payload) == ["1"])
    }

    @Test("A change that the rules refuse leaves the bridge as it is, says so, and is tried again")
    func refusedChange() throws {
        let (lanes, broker) = (try TwoLanes(), FakeBroker())
        defer { broker.stop() }
        let stage = lanes.stage
        stage.router.reload(try AccessRules(Self.denied))
        let definition = stage.bridge(broker, [.init(filter: "a/#")])
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .connected })
        let changed = stage.bridge(broker, [.init(filter: "c/#"), .init(filter: "b/#")])
        stage.service.update([changed])
        #expect(stage.eventually { $0.lastError == "not changed: subscribing to b/# is not allowed" })
        #expect(stage.description?.state == .connected)
        stage.publish("c/x", "not asked for", on: lanes.other)
        stage.publish("a/x", "1", on: lanes.other)
        #expect(broker.wait(for: 0x30).map(\.payload) == ["1"])
        #expect(stage.eventually { $0.queuedEvents == 0 && $0.counts.connects == 1 })
        stage.router.reload(.none)
        stage.service.update([changed])
        #expect(stage.eventually { $0.lastError == nil && $0.counts.connects == 2 && $0.state == .connected })
        stage.publish("a/x", "not asked for", on: lanes.other)
        stage.publish("b/x", "2", on: lanes.other)
        #expect(broker.wait(for: 0x30, count: 2).map(\.payload) == ["1", "2"])
    }

    @Test("Files of TLS that are not there are looked for again")
    func missingFile() throws {
        let authority = try FakeAuthority()
        let (stage, broker) = (try BridgeStage(), FakeBroker(certificate: authority.identity))
        defer { broker.stop() }
        var definition = stage.bridge(broker)
        let path = try #require(authority.security.authorities)
        definition.security = authority.security
        definition.security?.authorities = path + ".later"
        stage.service.update([definition])
        #expect(stage.eventually { ($0.lastError ?? "").contains("cannot read") && $0.counts.failures > 2 })
        stage.publish("a", "1")
        #expect(link(path, path + ".later") == 0)
        #expect(broker.wait(for: 0x30).map(\.payload) == ["1"])
        #expect(stage.eventually { $0.state == .connected && $0.lastError == nil })
    }
}
