import Core

/// The metrics of the mesh, for a node that is in one.
extension Metrics {
    static func mesh(_ mesh: MeshStatistics, _ text: inout MetricsText) {
        text.gauge("apus_mesh_joined", "Whether the node takes part in its mesh.", mesh.isJoined ? 1 : 0)
        text.gauge(
            "apus_mesh_nodes", "Other nodes that are known, by whether there is a way to them.",
            [true, false].map { isReachable in
                let count = mesh.nodes.count { $0.isReachable == isReachable }
                return ([("state", isReachable ? "reachable" : "unreachable")], "\(count)")
            })
        links(mesh.links, &text)
        frames(mesh, &text)
        parts(mesh, &text)
        nodes(mesh, &text)
        convergence(mesh.convergence, &text)
    }

    private static func links(_ links: [MeshStatistics.Link], _ text: inout MetricsText) {
        func each(_ value: (MeshStatistics.Link) -> String) -> [MetricsText.Sample] {
            links.map { ([("peer", $0.peer), ("peer_id", $0.peerID), ("name", $0.name)], value($0)) }
        }
        text.gauge("apus_mesh_link_up", "Whether events cross the link.", each { $0.isUp ? "1" : "0" })
        text.gauge("apus_mesh_link_cost", "What a frame costs on the link.", each { "\($0.cost)" })
        text.gauge(
            "apus_mesh_link_round_trip_seconds", "To the other node and back, smoothed.",
            each { MetricsText.seconds($0.roundTrip * 1_000) })
        text.counter("apus_mesh_link_frames_sent_total", "Frames for the other node.", each { "\($0.framesOut)" })
        text.counter(
            "apus_mesh_link_frames_received_total", "Frames from the other node.", each { "\($0.framesIn)" })
        text.counter("apus_mesh_link_bytes_sent_total", "Bytes of frames sent.", each { "\($0.bytesOut)" })
        text.counter("apus_mesh_link_bytes_received_total", "Bytes of frames received.", each { "\($0.bytesIn)" })
        text.counter(
            "apus_mesh_link_control_bytes_sent_total", "Bytes sent on the control connection.",
            each { "\($0.controlBytesOut)" })
        text.counter(
            "apus_mesh_link_control_bytes_received_total", "Bytes received on the control connection.",
            each { "\($0.controlBytesIn)" })
        text.gauge("apus_mesh_link_waiting_bytes", "Bytes that wait for the link.", each { "\($0.waitingBytes)" })
        text.gauge(
            "apus_mesh_link_unacknowledged_bytes", "Bytes sent and not taken by the other node yet.",
            each { "\($0.unacknowledgedBytes)" })
        text.counter(
            "apus_mesh_link_frames_dropped_total", "Frames given up because too much waited for the link.",
            each { "\($0.dropped)" })
        text.counter(
            "apus_mesh_link_frames_salvaged_total", "Frames sent another way when the link went down.",
            each { "\($0.salvaged)" })
    }

    private static func frames(_ mesh: MeshStatistics, _ text: inout MetricsText) {
        text.counter(
            "apus_mesh_frames_dropped_total", "Frames of the mesh that did not get where they should, by reason.",
            samples(mesh.dropped, "reason"))
        text.counter(
            "apus_mesh_connections_ended_total", "Connections of the mesh refused or ended with a reason.",
            samples(mesh.ended, "reason"))
    }

    /// What is counted once, in alphabetical order.
    static var meshCounts: [String] { help.keys.sorted() }

    private static let help = [
        "frames_missing": "Direct frames that never came.",
        "frames_held": "Direct frames held for a moment to be in order.",
        "frames_parked": "Frames that waited because their way led back.",
        "frames_transit": "Frames that passed through.",
        "events_sent": "Events of this node's publishers for other nodes.",
        "events_received": "Events from other nodes.",
        "silences": "Links that ended because nothing was heard.",
        "stream_frames_sent": "Frames with guaranteed events sent, those sent again included.",
        "stream_frames_resent": "Frames with guaranteed events sent again.",
        "stream_publishers_held": "Times a publisher had to wait for a destination.",
        "interest_bytes_sent": "Bytes of frames about interest sent.",
        "interest_repairs": "Sets of filters that were not what their hash says.",
        "weights_malformed": "Advertisements whose weights of shared groups could not be read, and were left out.",
        "weights_untold": "Changes of weights while more shared groups had some than other nodes are told of.",
        "filters_refused": "Filters of other nodes that were refused.",
        "route_computations": "Computations of all routes.",
        "advertisements_refused": "Link-state advertisements refused for their rate or number.",
        "retained_sent": "Retained values and deletions sent to repair a neighbour.",
        "retained_received": "Retained values and deletions received for repair.",
        "retained_taken": "Those of them that were newer.",
        "retained_refused": "Retained values that there was no room for.",
        "session_claims": "Claims to client ids decided for clients of this node.",
        "session_bytes_sent": "Bytes of sessions sent to other nodes.",
    ]

    private static func parts(_ mesh: MeshStatistics, _ text: inout MetricsText) {
        for count in mesh.counts {
            text.counter("apus_mesh_\(count.name)_total", help[count.name] ?? "Counted by the mesh.", count.value)
        }
        text.counter(
            "apus_mesh_stream_events_dropped_total", "Guaranteed events given up for a destination, by reason.",
            samples(mesh.streamDrops, "reason"))
        text.counter(
            "apus_mesh_sessions_moved_total", "Sessions that moved between nodes.", samples(mesh.moved, "direction"))
        text.counter(
            "apus_mesh_sessions_not_moved_total", "Sessions that did not move although they should, by reason.",
            samples(mesh.notMoved, "reason"))
    }

    private static func nodes(_ mesh: MeshStatistics, _ text: inout MetricsText) {
        func each(_ value: (MeshStatistics.Node) -> String) -> [MetricsText.Sample] {
            mesh.nodes.map { ([("node", $0.name), ("node_id", $0.id)], value($0)) }
        }
        text.gauge("apus_mesh_own_filters", "Filters that this node tells the others.", mesh.ownFilters)
        text.gauge("apus_mesh_filters", "Filters that another node wants events of.", each { "\($0.filters)" })
        text.gauge(
            "apus_mesh_stream_waiting_bytes", "Guaranteed events that another node has not settled.",
            each { "\($0.streamBytes)" })
    }

    private static func convergence(_ convergence: ConvergenceStatistics, _ text: inout MetricsText) {
        var sum: UInt64 = 0
        var buckets: [(bound: String, count: UInt64)] = []
        for (index, bound) in ConvergenceStatistics.bounds.enumerated() {
            sum += convergence.counts[index]
            buckets.append((MetricsText.seconds(bound * 1_000), sum))
        }
        text.histogram(
            "apus_mesh_convergence_seconds", "From a link's going down or coming up to the routes that follow.",
            buckets: buckets, sum: MetricsText.seconds(convergence.sum &* 1_000), count: convergence.count)
    }

    private static func samples(_ counts: [MeshStatistics.Count], _ label: String) -> [MetricsText.Sample] {
        counts.map { ([(label, $0.name)], "\($0.value)") }
    }
}
