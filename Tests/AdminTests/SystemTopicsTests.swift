import Core
import Reactor
import Testing

@testable import Admin

/// The topics under `$SYS/`: values and averages, and who hears them.
@Suite("System topics", .serialized) struct SystemTopicsTests {
    private func node(uptime: Double, _ change: (inout Counters) -> Void = { _ in }) -> NodeStatistics {
        let lane = Lane(number: 0, lanes: Lanes(wakes: [{}], limits: Limits()))
        change(&lane.counters)
        return NodeStatistics(
            name: "n", version: "9.8", startedAt: 0, uptimeSeconds: uptime, lanes: [lane.statistics()])
    }

    @Test func onlyWhatHasChangedIsSaid() throws {
        var book = SystemTopicBook()
        let first = book.changes(node(uptime: 0))
        #expect(first.count == 22 + 27 && Set(first.map(\.topic)).count == first.count)
        #expect(first.contains { $0 == ("$SYS/broker/version", "apus version 9.8") })
        #expect(first.contains { $0 == ("$SYS/broker/load/sockets/15min", "0.00") })
        #expect(first.contains { $0 == ("$SYS/broker/retained messages/count", "0") })
        #expect(book.changes(node(uptime: 0)).isEmpty)
        let later = book.changes(node(uptime: 10) { $0.dropped[DropReason.queueFull.rawValue] = 5 })
        #expect(
            later.map(\.topic) == [
                "$SYS/broker/uptime", "$SYS/broker/publish/messages/dropped", "$SYS/broker/load/publish/dropped/1min",
                "$SYS/broker/load/publish/dropped/5min", "$SYS/broker/load/publish/dropped/15min",
            ])
        #expect(later[0].value == "10 seconds" && later[1].value == "5")
        // 30 a minute for ten seconds, of which 1 - e^(-10/60), 1 - e^(-10/300) and 1 - e^(-10/900) count.
        #expect(later[2...].map(\.value) == ["4.61", "0.98", "0.33"])
    }

    @Test func averagesForget() {
        var book = SystemTopicBook()
        _ = book.changes(node(uptime: 0))
        _ = book.changes(node(uptime: 60) { $0.accepted = 600 })
        let quiet = book.changes(node(uptime: 120) { $0.accepted = 600 })
        let values = Dictionary(uniqueKeysWithValues: quiet.map { ($0.topic, $0.value) })
        // 600 a minute, (1 - e^-1) of it after the first minute, e^-1 of that after the second.
        #expect(values["$SYS/broker/load/sockets/1min"] == "139.53")
        // An average that stays is not said again.
        var steady = SystemTopicBook()
        for minute in 0...200 { _ = steady.changes(node(uptime: Double(minute) * 60) { $0.accepted = UInt64(minute) }) }
        let last = steady.changes(node(uptime: 201 * 60) { $0.accepted = 201 })
        #expect(!last.contains { $0.topic.hasPrefix("$SYS/broker/load/sockets") })
    }

    @Test func maximumIsTheHighestSeen() {
        var book = SystemTopicBook()
        func maximum(_ sessions: Int) -> String? {
            var node = node(uptime: 1)
            node.sessions = sessions
            return book.changes(node).first { $0.topic == "$SYS/broker/clients/maximum" }?.value
        }
        #expect(maximum(3) == "3" && maximum(2) == nil && maximum(4) == "4")
    }

    @Test func clientsHearThemAndCannotForgeThem() async throws {
        let node = try RunningNode()
        let everything = try Client(node, "everything")
        try everything.subscribe("#")
        let listener = try Client(node, "listener")
        SystemTopics(node.source, intervalSeconds: 1).start()
        // Retained: whoever comes later gets them all at once.
        _ = try await node.metrics { _ in
            node.router.retained(Array("$SYS/broker/version".utf8), now: 0) != nil
        }
        #expect(try listener.subscribe("$SYS/broker/#") == 0)
        var values: [String: String] = [:]
        while values["$SYS/broker/version"] == nil || values["$SYS/broker/load/connections/15min"] == nil {
            let event = try listener.event()
            if values.isEmpty { #expect(event.isRetained) }
            values[event.topic] = event.payload
        }
        #expect(values["$SYS/broker/version"] == "apus version 1.2.3")
        try listener.publish("$SYS/broker/version", "forged")
        try listener.publish("x", "to everything")
        // What has changed comes again, as an event and not as a retained one.
        var again = try listener.event()
        while again.isRetained || again.topic != "$SYS/broker/uptime" { again = try listener.event() }
        #expect(again.payload.hasSuffix(" seconds"))
        let event = try everything.event()
        #expect(event.topic == "x", "nothing under $ reached #")
        let metrics = try await node.metrics()
        #expect(metrics.value("apus_events_dropped_total", ["reason": "not_authorized"]) == 1)
        #expect(metrics.value("apus_retained_events") == 0)
        // Two publishes of a client, none of the node.
        #expect(metrics.value("apus_events_received_total", ["protocol": "mqtt", "qos": "0"]) == 2)
        #expect(node.reactor.counters().eventsIn == 2)
        #expect(
            node.router.retained(Array("$SYS/broker/version".utf8), now: 0)?.payload.elementsEqual(
                "apus version 1.2.3".utf8) ?? false)
    }

    @Test func withRulesOnlyThoseWhoMayHearThem() async throws {
        let rules = try AccessRules([
            AccessRule(effect: .allow, action: .all, topics: ["#"]),
            AccessRule(effect: .allow, action: .subscribe, topics: ["$SYS/#"], users: ["operator"]),
        ])
        let node = try RunningNode(rules: rules)
        SystemTopics(node.source, intervalSeconds: 1).start()
        #expect(try Client(node, "a", user: "somebody").subscribe("$SYS/#") == 0x80)
        let operator_ = try Client(node, "b", user: "operator")
        #expect(try operator_.subscribe("$SYS/broker/uptime") == 0)
        #expect(try operator_.event().payload.hasSuffix(" seconds"))
    }

    @Test func limitsOfRetainedEventsAreTheClientsAlone() async throws {
        var limits = Limits()
        limits.maxRetainedEvents = 1
        limits.maxRetainedBytes = 200
        let node = try RunningNode(limits: limits)
        let listener = try Client(node, "listener")
        try listener.subscribe("$SYS/broker/uptime")
        SystemTopics(node.source, intervalSeconds: 1).start()
        #expect(try listener.event().isRetained == false)
        #expect(node.router.retained(Array("$SYS/broker/load/connections/15min".utf8), now: 0) != nil)
        try listener.publish("a", "kept", retain: true)
        try listener.publish("b", "one too many", retain: true)
        let metrics = try await node.metrics {
            $0.value(
                "apus_events_dropped_total", ["reason": "retained_full"]) == 1
        }
        #expect(metrics.value("apus_retained_events") == 1 && metrics.value("apus_retained_bytes") == 69)
        #expect(metrics.value("apus_events_dropped_total", ["reason": "retained_full"]) == 1)
    }
}

extension Router {
    /// The retained event of a topic given as bytes.
    fileprivate func retained(_ topic: [UInt8], now: UInt64) -> Event? {
        topic.withUnsafeBytes { retained($0, now: now) }
    }
}
