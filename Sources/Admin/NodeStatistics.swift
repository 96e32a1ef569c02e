public import Core
import Dispatch
import FoundationEssentials

/// A node in numbers: what its lanes, its router and the system know, put together.
public struct NodeStatistics: Sendable {
    /// The node's name.
    public var name: String
    /// The version of the program.
    public var version: String
    /// When it was started, in seconds since 1970.
    public var startedAt: Double
    /// Seconds since then.
    public var uptimeSeconds: Double
    /// Each lane's own.
    public var lanes: [LaneStatistics]
    /// Sessions, connected and absent.
    public var sessions = 0
    /// Subscriptions; each member of a shared group counts.
    public var subscriptions = 0
    /// Memberships in shared groups among them.
    public var sharedSubscriptions = 0
    /// Topics with a retained event, without the node's own.
    public var retainedEvents = 0
    /// What all retained events count for in limits.
    public var retainedBytes = 0
    /// Protocols that the node speaks, used or not.
    public var protocols: [String] = []
    /// Audit records, by kind.
    public var auditRecords: [AuditRecord.Kind: Int] = [:]
    /// What the checks of passwords and tokens have come to.
    public var logins = IdentityCounters()
    /// What the mesh counts; nil for a node in none.
    public var mesh: MeshStatistics?
    /// Bridges to MQTT brokers, by name.
    public var bridges: [BridgeDocument] = []
    /// What the system says of the process; nil when nobody wanted to know.
    public var process: ProcessStatistics?

    /// Makes statistics of lanes; the rest is zero.
    public init(name: String, version: String, startedAt: Double, uptimeSeconds: Double, lanes: [LaneStatistics]) {
        self.name = name
        self.version = version
        self.startedAt = startedAt
        self.uptimeSeconds = uptimeSeconds
        self.lanes = lanes
    }

    /// The counters of all lanes, added up.
    public var counters: Counters { lanes.reduce(into: Counters()) { $0.add($1.counters) } }

    /// The latencies of all lanes.
    public var latency: LatencyStatistics { lanes.reduce(into: LatencyStatistics()) { $0.add($1.latency) } }

    /// Sessions whose clients are away.
    public var absentSessions: Int { min(lanes.reduce(0) { $0 + $1.absentInboxes }, sessions) }

    /// Sessions whose clients are connected.
    public var connectedSessions: Int { sessions - absentSessions }

    /// Connections, of clients that have logged in or not.
    public var connections: Int { lanes.reduce(0) { $0 + $1.connections } }

    /// Events that wait in sessions.
    public var queuedEvents: Int { lanes.reduce(0) { $0 + $1.queuedEvents } }

    /// What they count for in limits.
    public var queuedBytes: Int { lanes.reduce(0) { $0 + $1.queuedBytes } }

    /// Runs of events whose publishers wait for a full queue.
    public var heldRuns: Int { lanes.reduce(0) { $0 + $1.heldRuns } }

    /// The traffic of each protocol, those without any included.
    public var traffic: [TrafficStatistics] {
        var all = protocols.map { TrafficStatistics(protocolName: $0) }
        for traffic in lanes.flatMap(\.traffic) {
            if let known = all.firstIndex(where: { $0.protocolName == traffic.protocolName }) {
                all[known].add(traffic)
            } else {
                all.append(traffic)
            }
        }
        return all
    }
}

/// Gathers the statistics of a node. No lane is kept waiting, and none does more than copy its numbers.
public final class StatisticsSource: Sendable {
    private let name: String
    private let version: String
    private let protocols: [String]
    let lanes: Lanes
    let router: Router
    private let startedAt = Date()
    /// Where statistics are put together and written down, so that no lane does it.
    private let queue = DispatchQueue(label: "statistics")

    /// Makes the source of a node that starts now.
    public init(name: String, version: String, protocols: [String], lanes: Lanes, router: Router) {
        self.name = name
        self.version = version
        self.protocols = protocols
        self.lanes = lanes
        self.router = router
    }

    /// Asks all lanes and hands their answers on, on a thread that may take its time. A node that has stopped does not
    /// answer.
    public func gather(_ then: @escaping @Sendable (NodeStatistics) -> Void) {
        lanes.gather {
            $0.statistics()
        } then: { [self] lanes in
            queue.async {
                var statistics = self.statistics(of: lanes)
                statistics.process = ProcessStatistics.now()
                then(statistics)
            }
        }
    }

    /// What the lanes said, and what the router knows.
    public func statistics(of lanes: [LaneStatistics]) -> NodeStatistics {
        var statistics = NodeStatistics(
            name: name, version: version, startedAt: startedAt.timeIntervalSince1970,
            uptimeSeconds: max(0, Date().timeIntervalSince(startedAt)), lanes: lanes)
        statistics.protocols = protocols
        statistics.sessions = router.sessionCount
        statistics.subscriptions = router.subscriptionCount
        statistics.sharedSubscriptions = router.sharedSubscriptionCount
        statistics.retainedEvents = router.retainedCount
        statistics.retainedBytes = router.retainedBytes
        return statistics
    }
}
