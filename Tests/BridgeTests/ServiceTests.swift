import Core
import Foundation
import Logging
import Reactor
import Synchronization
import Testing

@testable import Bridge

/// Lanes, a router and bridges, for as long as a test needs them.
final class BridgeStage {
    let reactor: Reactor
    let router: Router
    let service: BridgeService

    init(limits: Limits = Limits(), rules: AccessRules = .none, lanes: Int = 1, sessionPatience: UInt64? = nil) throws {
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        router = Router(limits: limits, accessRules: rules, hashKey: 42)
        reactor = try Reactor(lanes: lanes, limits: limits, logger: logger)
        var settings = BridgeSettings(nodeName: "n", place: "node/n", logger: logger, random: { 0 })
        if let sessionPatience { settings.sessionPatience = sessionPatience }
        service = BridgeService(settings, lanes: reactor.lanes, router: router)
    }

    deinit {
        service.stop(graceMilliseconds: 0)
        reactor.stop(drainMilliseconds: 0)
    }

    func bridge(_ broker: FakeBroker, _ topics: [BridgeDefinition.Topic] = [.init(filter: "#")]) -> BridgeDefinition {
        var definition = BridgeDefinition(name: "b", host: "127.0.0.1", port: broker.port, topics: topics)
        definition.backoff = Backoff(first: 20, highest: 100)
        return definition
    }

    var description: BridgeDescription? { service.list().first }

    /// Looks again until it holds or ten seconds are over.
    func eventually(_ condition: (BridgeDescription) -> Bool) -> Bool {
        for _ in 0..<2_000 {
            if let description, condition(description) { return true }
            usleep(5_000)
        }
        return false
    }

    func publish(
        _ topic: String, _ payload: String, qos: UInt8 = 1, properties: [UInt8] = [], isRetained: Bool = false,
        on lane: Int = 0
    ) {
        let router = router
        reactor.lanes.call(lane) { lane in
            let principal = Principal(identity: Identity(), clientID: "publisher", router: router)
            let event = Array(topic.utf8).withUnsafeBytes { topic in
                Array(payload.utf8).withUnsafeBytes { payload in
                    properties.withUnsafeBytes {
                        Event(topic: topic, properties: $0, payload: payload, qos: qos, isRetained: isRetained)
                    }
                }
            }
            router.publish(event, as: principal, on: lane)
        }
    }

    /// Keeps a lane busy until the block it returns is called.
    func block(_ lane: Int = 0) -> () -> Void {
        let semaphore = DispatchSemaphore(value: 0)
        reactor.lanes.call(lane) { _ in semaphore.wait() }
        return { semaphore.signal() }
    }
}

/// One after another: some measure time.
@Suite("A bridge and its broker", .serialized) struct ServiceTests {
    @Test("What comes in is acknowledged once the node has it, and not before", arguments: [UInt8(1), 2])
    func acknowledgements(qos: UInt8) throws {
        let (stage, broker) = (try BridgeStage(), FakeBroker())
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(broker.wait(for: 0x80).count == 1)
        #expect(stage.eventually { $0.state == .connected })
        let release = stage.block()
        broker.send(FakeBroker.publish("a", [1], qos: qos, identifier: 9))
        if qos == 2 {
            #expect(broker.wait(for: 0x50).count == 1, "PUBREC is libmosquitto's own")
            broker.send([0x62, 2, 0, 9])
        }
        usleep(400_000)
        let kind: UInt8 = qos == 1 ? 0x40 : 0x70
        #expect(!broker.packets.contains { $0.first & 0xF0 == kind }, "the lane has not seen it yet")
        release()
        #expect(broker.wait(for: kind).count == 1)
        #expect(stage.eventually { $0.counts.eventsIn == 1 })
    }

    @Test("What goes out is settled once the broker has acknowledged it")
    func settled() throws {
        let (stage, broker) = (try BridgeStage(), FakeBroker())
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.state == .connected })
        for number in 0..<500 { stage.publish("a/b", "\(number)") }
        let packets = broker.wait(for: 0x30, count: 500)
        #expect(packets.count == 500)
        #expect(stage.eventually { $0.counts.eventsOut == 500 && $0.queuedEvents == 0 && $0.inFlight == 0 })
        broker.drop()
        #expect(stage.eventually { $0.counts.failures == 1 && $0.state == .connected })
        #expect(stage.description?.counts.connects == 2)
        stage.publish("a/b", "again")
        #expect(stage.eventually { $0.counts.eventsOut == 501 })
    }

    @Test("Events wait for a broker that is away; a changed bridge takes them over, a removed one forgets them")
    func waits() throws {
        let (stage, gone, broker) = (try BridgeStage(), FakeBroker(), FakeBroker())
        defer { broker.stop() }
        let definition = stage.bridge(gone)
        gone.stop()
        stage.service.update([definition])
        #expect(stage.eventually { $0.lastError != nil })
        for number in 0..<10 { stage.publish("a", "\(number)") }
        stage.publish("a", "direct", qos: 0)
        #expect(stage.eventually { $0.queuedEvents == 10 })
        var changed = definition
        changed.port = broker.port
        stage.service.update([changed])
        #expect(broker.wait(for: 0x30, count: 10).count == 10)
        #expect(stage.eventually { $0.counts.eventsOut == 10 && $0.queuedEvents == 0 })
        stage.service.update([])
        #expect(broker.wait(for: 0xE0).first?.body == [0, 5, 0x11, 0, 0, 0, 0], "the session is to end as well")
        #expect(stage.service.list().isEmpty)
    }

    @Test("A bridge that may not read what it is to send is not started, and says why")
    func refused() throws {
        let rules = try AccessRules([
            AccessRule(effect: .deny, action: .all, topics: ["#"], users: ["bridge:b"])
        ])
        let (stage, broker) = (try BridgeStage(rules: rules), FakeBroker())
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.state == .failed && $0.lastError == "subscribing to # is not allowed" })
        #expect(broker.connections == 0)
    }

    @Test("A node ends while its bridges are in the middle of things")
    func stops() throws {
        let broker = FakeBroker()
        defer { broker.stop() }
        for round in 0..<20 {
            let stage = try BridgeStage()
            stage.service.update([stage.bridge(broker)])
            if round % 2 == 0 { #expect(stage.eventually { $0.state == .connected }, "round \(round)") }
            for number in 0..<100 { stage.publish("a", "\(number)") }
            stage.service.stop(graceMilliseconds: UInt64(round % 3) * 50)
        }
    }

    @Test("What waits when a node ends reaches the broker first, and nothing comes any more")
    func leaves() throws {
        let (stage, broker) = (try BridgeStage(), FakeBroker())
        defer { broker.stop() }
        var definition = stage.bridge(broker)
        definition.maxInFlight = 2
        stage.service.update([definition])
        #expect(stage.eventually { $0.state == .connected })
        for number in 0..<1_000 { stage.publish("a", "\(number)") }
        let start = ContinuousClock.now
        stage.service.stop(graceMilliseconds: 20_000)
        #expect(ContinuousClock.now - start < .seconds(15))
        #expect(broker.packets(0x30).count == 1_000)
        #expect(broker.wait(for: 0xE0).count == 1, "good-bye")
        #expect(stage.description?.counts.eventsOut == 1_000)
        #expect(stage.reactor.counters().dropped[DropReason.stopping.rawValue] == 0)
    }

    @Test(
        "What a broker that is away, or says nothing, does not get is counted when a node ends",
        arguments: [true, false])
    func leavesBehind(isAway: Bool) throws {
        let (stage, broker) = (try BridgeStage(), FakeBroker { packet, _ in packet.first & 0xF0 == 0x30 ? [] : nil })
        defer { broker.stop() }
        stage.service.update([stage.bridge(broker)])
        #expect(stage.eventually { $0.state == .connected })
        if isAway {
            broker.stop()
            #expect(stage.eventually { $0.counts.failures > 0 })
        }
        for number in 0..<10 { stage.publish("a", "\(number)") }
        #expect(stage.eventually { $0.queuedEvents == 10 })
        let start = ContinuousClock.now
        stage.service.stop(graceMilliseconds: 1_000)
        let took = ContinuousClock.now - start
        #expect(isAway ? took < .milliseconds(900) : took >= .milliseconds(990))
        let place = try #require(BridgeCounts.Reason.allCases.firstIndex(of: .stopping))
        #expect(stage.description?.counts.droppedOut[place] == 10)
        #expect(stage.reactor.counters().dropped[DropReason.stopping.rawValue] == 10)
    }
}
