import Core
import Foundation
import Testing

@testable import Admin

/// The root of the package.
private let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

/// The metrics: their format, their values, and that documents, dashboard and alerts speak of metrics that exist.
@Suite("Metrics", .serialized) struct MetricsTests {
    private static let promtool = "/usr/bin/promtool"
    private static var hasPromtool: Bool { FileManager.default.isExecutableFile(atPath: promtool) }

    /// A node that has nothing to tell yet.
    private func silent() -> NodeStatistics {
        var node = NodeStatistics(name: "n", version: "1", startedAt: 1_700_000_000.5, uptimeSeconds: 1, lanes: [])
        node.protocols = ["mqtt"]
        node.mesh = mesh()
        var bridge = BridgeDocument(
            name: "b", to: "h:1", broker: "h:1", version: "5", tls: false, clientId: "c", state: "connected")
        (bridge.droppedIn, bridge.droppedOut) = (["expired": 0], ["expired": 0])
        node.bridges = [bridge]
        node.process = ProcessStatistics.now()
        return node
    }

    /// The mesh of such a node, with one link and one other node.
    private func mesh() -> MeshStatistics {
        var mesh = MeshStatistics()
        mesh.links = [MeshStatistics.Link(peer: "b", peerID: "0b", name: "")]
        mesh.nodes = [.init(name: "b", id: "0b", isReachable: false, filters: 0, streamBytes: 0)]
        mesh.counts = Metrics.meshCounts.map { .init($0, 0) }
        (mesh.dropped, mesh.ended, mesh.streamDrops) = ([.init("late", 0)], [.init("secret", 0)], [.init("full", 0)])
        (mesh.moved, mesh.notMoved) = ([.init("in", 0)], [.init("lost", 0)])
        return mesh
    }

    @Test func theMeshIsTold() throws {
        var node = silent()
        node.mesh?.isJoined = true
        node.mesh?.links[0].isUp = true
        node.mesh?.links[0].roundTrip = 1_500
        node.mesh?.links[0].framesOut = 7
        var gone = MeshStatistics.Link(peer: "b", peerID: "0b", name: "radio")
        gone.salvaged = 3
        node.mesh?.links.append(gone)
        node.mesh?.nodes[0].isReachable = true
        node.mesh?.nodes[0].streamBytes = 99
        node.mesh?.dropped = [.init("late", 4), .init("no_route", 5)]
        node.mesh?.counts = [.init("silences", 6)]
        node.mesh?.convergence.add(microseconds: 1_500)
        node.mesh?.convergence.add(microseconds: 40_000_000)
        let metrics = try ParsedMetrics(Metrics.prometheus(node))
        func value(_ name: String, _ labels: [String: String] = [:]) -> Double? {
            metrics.value("apus_mesh_" + name, labels)
        }
        let link = ["peer": "b", "peer_id": "0b", "name": ""]
        let radio = ["peer": "b", "peer_id": "0b", "name": "radio"]
        #expect(value("joined") == 1)
        #expect(value("link_up", link) == 1 && value("link_up", radio) == 0)
        #expect(value("link_round_trip_seconds", link) == 0.0015 && value("link_frames_sent_total", link) == 7)
        #expect(value("link_frames_salvaged_total", radio) == 3)
        #expect(value("nodes", ["state": "reachable"]) == 1 && value("nodes", ["state": "unreachable"]) == 0)
        #expect(value("stream_waiting_bytes", ["node": "b", "node_id": "0b"]) == 99)
        #expect(value("frames_dropped_total", ["reason": "late"]) == 4)
        #expect(value("frames_dropped_total", ["reason": "no_route"]) == 5 && value("silences_total") == 6)
        #expect(value("convergence_seconds_bucket", ["le": "0.001"]) == 0)
        #expect(value("convergence_seconds_bucket", ["le": "0.002"]) == 1)
        #expect(value("convergence_seconds_bucket", ["le": "30"]) == 1)
        #expect(value("convergence_seconds_bucket", ["le": "+Inf"]) == 2)
        #expect(value("convergence_seconds_sum") == 40.0015 && value("convergence_seconds_count") == 2)
        node.mesh = nil
        #expect(!Metrics.prometheus(node).contains("apus_mesh"))
    }

    @Test func loginsAreTold() throws {
        var node = silent()
        node.logins.hashes = 3
        node.logins.tokens = 4
        node.logins.cacheHits = 5
        node.logins.coalesced = 6
        node.logins.failures = 7
        node.logins.refused = 20
        node.logins.refusedBusy = 8
        node.logins.refusedLimited = 9
        node.logins.waiting = 10
        node.logins.cached = 11
        let metrics = try ParsedMetrics(Metrics.prometheus(node))
        func value(_ name: String, _ labels: [String: String] = [:]) -> Double? {
            metrics.value("apus_login" + name, labels)
        }
        #expect(value("_checks_total", ["kind": "password"]) == 3 && value("_checks_total", ["kind": "token"]) == 4)
        #expect(value("_cache_hits_total") == 5 && value("_checks_shared_total") == 6)
        #expect(value("_checks_failed_total") == 7)
        #expect(value("s_refused_total", ["reason": "busy"]) == 8)
        #expect(value("s_refused_total", ["reason": "too_many_failures"]) == 9)
        #expect(value("s_refused_total", ["reason": "other"]) == 3, "the rest")
        #expect(value("s_waiting") == 10 && value("_cache_entries") == 11)
    }

    @Test func everyReasonIsThereFromTheStart() throws {
        let metrics = try ParsedMetrics(Metrics.prometheus(silent()))
        for reason in DropReason.allCases {
            #expect(metrics.value("apus_events_dropped_total", ["reason": Metrics.label(reason)]) == 0, "\(reason)")
        }
        for reason in CloseReason.allCases {
            #expect(metrics.value("apus_connections_closed_total", ["reason": Metrics.label(reason)]) == 0)
        }
        for qos in ["0", "1", "2"] {
            let labels = ["protocol": "mqtt", "qos": qos]
            #expect(metrics.value("apus_events_received_total", labels) == 0)
            #expect(metrics.value("apus_events_sent_total", labels) == 0)
        }
        #expect(metrics.value("apus_sessions", ["state": "connected"]) == 0)
        #expect(metrics.value("apus_delivery_latency_seconds_bucket", ["le": "+Inf"]) == 0)
        #expect(Metrics.label(CloseReason.badClientID) == "bad_client_id")
        #expect(Metrics.label(DropReason.outputFull) == "output_full")
        #expect(Metrics.label(CloseReason.shutdown) == "shutdown")
    }

    @Test func namesAreAsConventionsWantThem() throws {
        let metrics = try ParsedMetrics(Metrics.prometheus(silent()))
        #expect(metrics.families.count > 30)
        for (name, family) in metrics.families {
            #expect(name.hasPrefix("apus_") || name.hasPrefix("process_"), "\(name)")
            #expect(name.hasSuffix("_total") == (family.type == "counter"), "\(name)")
            #expect(family.help.hasSuffix("."), "\(name): \(family.help)")
        }
    }

    @Test func secondsAreExact() {
        #expect(MetricsText.seconds(0) == "0")
        #expect(MetricsText.seconds(8_000) == "0.000008")
        #expect(MetricsText.seconds(1_048_576_000) == "1.048576")
        #expect(MetricsText.seconds(30_000_000_000) == "30")
        #expect(MetricsText.seconds(.max) == "18446744073.709551615")
    }

    @Test func aRunningNodeTellsWhatHappened() async throws {
        let node = try RunningNode()
        let subscriber = try Client(node, "subscriber")
        try subscriber.subscribe("t/#")
        let absent = try Client(node, "absent", clean: false)
        try absent.subscribe("t/#", qos: 1)
        try absent.disconnect()
        var metrics = try await node.metrics { $0.value("apus_sessions", ["state": "absent"]) == 1 }
        #expect(metrics.value("apus_connections_closed_total", ["reason": "client_disconnected"]) == 1)
        let publisher = try Client(node, "publisher")
        for number in 0..<20 {
            try publisher.publish("t/\(number % 2)", "payload", qos: 1)
            #expect(try subscriber.event().payload == "payload")
        }
        metrics = try await node.metrics { $0.value("apus_delivery_latency_seconds_count") == 20 }
        func value(_ name: String, _ labels: [String: String] = [:]) -> Double? { metrics.value(name, labels) }
        #expect(value("apus_build_info", ["version": "1.2.3", "node": #"test \"node\""#]) == 1)
        #expect(value("apus_connections", ["protocol": "mqtt"]) == 2)
        #expect(value("apus_sessions", ["state": "connected"]) == 2 && value("apus_subscriptions") == 2)
        #expect(value("apus_events_received_total", ["protocol": "mqtt", "qos": "1"]) == 20)
        #expect(value("apus_events_sent_total", ["protocol": "mqtt", "qos": "0"]) == 20)
        #expect(value("apus_event_bytes_received_total", ["protocol": "mqtt", "qos": "1"]) == 320)
        #expect(value("apus_event_bytes_sent_total", ["protocol": "mqtt", "qos": "0"]) == 280)
        #expect(value("apus_queued_events") == 20 && value("apus_queued_bytes") == Double(20 * (3 + 7 + 64)))
        #expect(value("apus_connections_accepted_total") == 3 && value("apus_connect_requests_total") == 3)
        #expect(value("apus_match_cache_lookups_total", ["result": "miss"]) == 2)
        #expect(value("apus_match_cache_lookups_total", ["result": "hit"]) == 18)
        // CONNECT thrice, SUBSCRIBE twice, DISCONNECT; CONNACK thrice, SUBACK twice, PUBACK for each event.
        #expect(value("apus_control_packets_received_total") == 6)
        #expect(value("apus_control_packets_sent_total") == 25)
        #expect(value("apus_delivery_latency_seconds_bucket", ["le": "+Inf"]) == 20)
        #expect((value("apus_delivery_latency_seconds_sum") ?? 0) > 0)
        for lane in ["0", "1"] {
            #expect((value("apus_lane_busy_seconds_total", ["lane": lane]) ?? 0) > 0)
            #expect(value("apus_mailbox_bytes", ["lane": lane]) == 0)
        }
        #expect((value("process_resident_memory_bytes") ?? 0) > 1_000_000)
        #expect((value("process_open_fds") ?? 0) > 5 && (value("process_max_fds") ?? 0) > 5)
        #expect((value("process_cpu_seconds_total") ?? 0) > 0)
        withExtendedLifetime((subscriber, publisher)) {}
    }

    @Test func bucketsAddUp() throws {
        var node = silent()
        let lane = Lane(number: 0, lanes: Lanes(wakes: [{}], limits: Limits()))
        var time: UInt64 = 1_000_000_000
        for latency in [1_000, 9_000, 9_000, 2_000_000_000] as [UInt64] {
            lane.beginPass(at: time)
            lane.counters.eventsOut += 3
            lane.endPass(at: time + latency)
            time += latency + 1_000
        }
        node.lanes = [lane.statistics()]
        let metrics = try ParsedMetrics(Metrics.prometheus(node))
        let name = "apus_delivery_latency_seconds"
        let buckets = metrics.families[name]?.samples.filter { $0.name == name + "_bucket" } ?? []
        #expect(buckets.count == LatencyStatistics.boundCount + 1)
        #expect(zip(buckets, buckets.dropFirst()).allSatisfy { $0.value <= $1.value }, "cumulative")
        #expect(buckets[0].value == 3 && buckets[1].value == 9 && buckets[17].value == 9 && buckets[18].value == 12)
        #expect(metrics.value(name + "_count") == 12)
        #expect(metrics.value(name + "_sum") == 3 * 2.000019)
    }

    // MARK: Documents

    private func names(in path: String) throws -> Set<String> {
        let text = try String(contentsOf: root.appending(path: path), encoding: .utf8)
        return Set(text.matches(of: /\b(?:apus|process)_[a-z0-9_]+[a-z0-9]/).map { String($0.output) })
    }

    @Test(arguments: ["docs/grafana/apus.json", "docs/grafana/alerts.yaml", "docs/metrics.md"])
    func whatIsSpokenOfExists(path: String) throws {
        let metrics = try ParsedMetrics(Metrics.prometheus(silent()))
        let samples = Set(metrics.families.values.flatMap { $0.samples.map(\.name) }).union(metrics.families.keys)
        let lanes: Set = [
            "apus_mailbox_bytes", "apus_lane_busy_seconds_total", "apus_lane_idle_seconds_total",
            "apus_lane_passes_total",
        ]
        let used = try names(in: path)
        #expect(used.count > 5)
        for name in used { #expect(samples.contains(name) || lanes.contains(name), "\(name)") }
    }

    @Test func everyMetricIsInTheReference() async throws {
        let node = try RunningNode(lanes: 1)
        let described = try names(in: "docs/metrics.md")
        for name in try await node.metrics().families.keys { #expect(described.contains(name), "\(name)") }
        for name in try ParsedMetrics(Metrics.prometheus(silent())).families.keys {
            #expect(described.contains(name), "\(name)")
        }
    }

    @Test func theDashboardIsJSON() throws {
        let data = try Data(contentsOf: root.appending(path: "docs/grafana/apus.json"))
        let dashboard = try #require(JSONSerialization.jsonObject(with: data) as? [String: Any])
        let panels = try #require(dashboard["panels"] as? [[String: Any]])
        let ids = panels.compactMap { $0["id"] as? Int }
        #expect(panels.count > 10 && Set(ids).count == panels.count)
    }

    // MARK: The reference implementation

    private func promtool(_ arguments: [String], input: String? = nil) throws -> (status: Int32, output: String) {
        let process = Process()
        process.executableURL = URL(filePath: Self.promtool)
        process.arguments = arguments
        let (standardInput, output) = (Pipe(), Pipe())
        process.standardInput = standardInput
        process.standardOutput = output
        process.standardError = output
        try process.run()
        if let input { try standardInput.fileHandleForWriting.write(contentsOf: Data(input.utf8)) }
        try standardInput.fileHandleForWriting.close()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, text)
    }

    @Test(.enabled(if: hasPromtool)) func promtoolTakesTheMetrics() async throws {
        let node = try RunningNode()
        let client = try Client(node, "client")
        try client.subscribe("t")
        try client.publish("t", "x")
        _ = try client.event()
        let result = try promtool(["check", "metrics"], input: Metrics.prometheus(await node.statistics()))
        #expect(result.status == 0 && result.output.isEmpty, "\(result.output)")
    }

    @Test(.enabled(if: hasPromtool)) func promtoolTakesTheAlerts() throws {
        let path = root.appending(path: "docs/grafana/alerts.yaml").path
        let result = try promtool(["check", "rules", path])
        #expect(result.status == 0, "\(result.output)")
    }
}
