import Core
import FoundationEssentials
import Glibc
import Synchronization

/// What the node publishes about itself under `$SYS/`, by the names that mosquitto's users know: retained, at QoS 0,
/// and only what has changed. `docs/metrics.md` lists the topics.
///
/// Threading: everything happens on lane 0, as a chore of its.
public final class SystemTopics: Sendable {
    private let source: StatisticsSource
    private let intervalMilliseconds: UInt64
    private let book = Mutex(SystemTopicBook())
    private let nextAt = Atomic<UInt64>(0)

    /// Makes the topics of a node; nothing is published before ``start()``.
    /// - Parameter intervalSeconds: how often values are published; at least 1.
    public init(_ source: StatisticsSource, intervalSeconds: Int) {
        self.source = source
        intervalMilliseconds = UInt64(max(intervalSeconds, 1)) * 1_000
    }

    /// Publishes now and at every interval.
    public func start() {
        source.lanes.call(0) { [self] lane in
            lane.chores.append { lane in
                // Chores run about once a second: what is nearly due is done.
                guard lane.now + 500 >= self.nextAt.load(ordering: .relaxed) else { return }
                self.nextAt.store(lane.now + self.intervalMilliseconds, ordering: .relaxed)
                self.gather()
            }
        }
    }

    private func gather() {
        source.lanes.gather {
            $0.statistics()
        } then: { [self] lanes in
            source.lanes.call(0) { lane in
                self.publish(self.source.statistics(of: lanes), on: lane)
            }
        }
    }

    private func publish(_ node: NodeStatistics, on lane: Lane) {
        let changed = book.withLock { $0.changes(node) }
        let principal = Principal.node(source.router)
        for (topic, value) in changed {
            let event = Array(topic.utf8).withUnsafeBytes { topic in
                Array(value.utf8).withUnsafeBytes { value in
                    Event(
                        topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: value, qos: 0,
                        isRetained: true)
                }
            }
            source.router.publish(event, as: principal, on: lane)
        }
    }
}

/// What was published last, and the averages. Pure: the same statistics give the same topics.
struct SystemTopicBook {
    /// A counter whose rate is averaged.
    private struct Load {
        let topic: String
        let count: (SystemTopicBook.Counts) -> UInt64
        var averages: [Double] = [0, 0, 0]
        var published: [Double?] = [nil, nil, nil]
    }

    /// The totals that the topics are made of.
    struct Counts {
        var messagesReceived: UInt64 = 0
        var messagesSent: UInt64 = 0
        var publishReceived: UInt64 = 0
        var publishSent: UInt64 = 0
        var publishDropped: UInt64 = 0
        var publishBytesReceived: UInt64 = 0
        var publishBytesSent: UInt64 = 0
        var bytesReceived: UInt64 = 0
        var bytesSent: UInt64 = 0
        var sockets: UInt64 = 0
        var connections: UInt64 = 0

        init() {}

        init(_ node: NodeStatistics) {
            let counters = node.counters
            for traffic in node.traffic {
                publishReceived &+= traffic.eventsIn.reduce(0, &+)
                publishSent &+= traffic.eventsOut.reduce(0, &+)
                publishBytesReceived &+= traffic.bytesIn.reduce(0, &+)
                publishBytesSent &+= traffic.bytesOut.reduce(0, &+)
            }
            messagesReceived = publishReceived &+ counters.packetsIn
            messagesSent = publishSent &+ counters.packetsOut
            // An event that was not retained was delivered.
            for reason in DropReason.allCases where reason != .retainedFull {
                publishDropped &+= counters.dropped[reason.rawValue]
            }
            bytesReceived = counters.socketBytesIn
            bytesSent = counters.socketBytesOut
            sockets = counters.accepted
            connections = counters.connects
        }
    }

    private static let minutes: [(name: String, seconds: Double)] = [("1min", 60), ("5min", 300), ("15min", 900)]

    private var values: [String: String] = [:]
    private var last = Counts()
    private var lastUptime: Double?
    private var maximum = 0
    private var loads: [Load] = [
        Load(topic: "messages/received") { $0.messagesReceived },
        Load(topic: "messages/sent") { $0.messagesSent },
        Load(topic: "publish/received") { $0.publishReceived },
        Load(topic: "publish/sent") { $0.publishSent },
        Load(topic: "publish/dropped") { $0.publishDropped },
        Load(topic: "bytes/received") { $0.bytesReceived },
        Load(topic: "bytes/sent") { $0.bytesSent },
        Load(topic: "sockets") { $0.sockets },
        Load(topic: "connections") { $0.connections },
    ]

    /// The topics whose values are others than before, in a fixed order.
    mutating func changes(_ node: NodeStatistics) -> [(topic: String, value: String)] {
        let counts = Counts(node)
        maximum = max(maximum, node.sessions)
        var changed: [(topic: String, value: String)] = []
        for (name, value) in plain(node, counts) {
            let topic = "$SYS/broker/" + name
            guard values.updateValue(value, forKey: topic) != value else { continue }
            changed.append((topic, value))
        }
        average(counts, uptime: node.uptimeSeconds)
        for load in loads.indices {
            for (index, minute) in Self.minutes.enumerated() {
                let value = loads[load].averages[index]
                // Less than what two decimals show is no change.
                if let old = loads[load].published[index], abs(old - value) < 0.01 { continue }
                loads[load].published[index] = value
                let topic = "$SYS/broker/load/\(loads[load].topic)/\(minute.name)"
                changed.append((topic, Self.twoDecimals(value)))
            }
        }
        return changed
    }

    /// "0.50".
    private static func twoDecimals(_ value: Double) -> String {
        guard let hundredths = Int(exactly: (value * 100).rounded()) else { return "\(value)" }
        let rest = hundredths % 100
        return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)"
    }

    private func plain(_ node: NodeStatistics, _ counts: Counts) -> [(name: String, value: String)] {
        func whole(_ value: some BinaryInteger) -> String { String(value) }
        let stored = whole(node.retainedEvents + node.queuedEvents)
        return [
            ("version", "apus version \(node.version)"),
            ("uptime", "\(Int(node.uptimeSeconds)) seconds"),
            ("clients/total", whole(node.sessions)),
            ("clients/connected", whole(node.connectedSessions)),
            ("clients/disconnected", whole(node.absentSessions)),
            ("clients/maximum", whole(maximum)),
            ("clients/expired", whole(node.counters.sessionsExpired)),
            ("messages/received", whole(counts.messagesReceived)),
            ("messages/sent", whole(counts.messagesSent)),
            ("messages/stored", stored),
            ("store/messages/count", stored),
            ("store/messages/bytes", whole(node.retainedBytes + node.queuedBytes)),
            ("publish/messages/received", whole(counts.publishReceived)),
            ("publish/messages/sent", whole(counts.publishSent)),
            ("publish/messages/dropped", whole(counts.publishDropped)),
            ("publish/bytes/received", whole(counts.publishBytesReceived)),
            ("publish/bytes/sent", whole(counts.publishBytesSent)),
            ("bytes/received", whole(counts.bytesReceived)),
            ("bytes/sent", whole(counts.bytesSent)),
            ("subscriptions/count", whole(node.subscriptions)),
            ("shared_subscriptions/count", whole(node.sharedSubscriptions)),
            ("retained messages/count", whole(node.retainedEvents)),
        ]
    }

    /// Exponentially weighted averages of the rates per minute, as the load of a Unix system is computed.
    private mutating func average(_ counts: Counts, uptime: Double) {
        defer { (last, lastUptime) = (counts, uptime) }
        guard let lastUptime, uptime > lastUptime else { return }
        let elapsed = uptime - lastUptime
        for load in loads.indices {
            let rate = Double(loads[load].count(counts) &- loads[load].count(last)) * 60 / elapsed
            for (index, minute) in Self.minutes.enumerated() {
                let kept = exp(-elapsed / minute.seconds)
                loads[load].averages[index] = rate + kept * (loads[load].averages[index] - rate)
            }
        }
    }
}
