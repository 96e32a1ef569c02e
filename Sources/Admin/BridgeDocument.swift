/// What the management interface and the metrics tell of bridges to MQTT brokers.

/// One bridge.
public struct BridgeDocument: Codable, Sendable, Equatable {
    /// Its name.
    public var name: String
    /// Where the broker is.
    public var to: String
    /// What the broker is called in trails.
    public var broker: String
    /// The version of MQTT.
    public var version: String
    /// Whether TLS is spoken.
    public var tls: Bool
    /// The client id.
    public var clientId: String
    /// `connecting`, `connected`, `waiting`, `stopped` or `failed`.
    public var state: String
    /// Why the last attempt failed, the last connection was lost, or a change was refused.
    public var lastError: String?
    /// Seconds until the next attempt.
    public var nextAttemptSeconds: Double?
    /// Events for the broker that it does not have yet.
    public var queuedEvents = 0
    /// What they count for in limits.
    public var queuedBytes = 0
    /// Those of them that were handed to it.
    public var inFlight = 0
    /// Events taken from the broker.
    public var eventsIn: UInt64 = 0
    /// Events that the broker has.
    public var eventsOut: UInt64 = 0
    /// Events not taken from it, by reason.
    public var droppedIn: [String: UInt64] = [:]
    /// Events not given to it, by reason.
    public var droppedOut: [String: UInt64] = [:]
    /// Events that had been here and came back.
    public var loopsPreventedIn: UInt64 = 0
    /// Events that had been there and were not sent there again.
    public var loopsPreventedOut: UInt64 = 0
    /// Connections that were made.
    public var connects: UInt64 = 0
    /// Attempts that failed, and connections that were lost.
    public var failures: UInt64 = 0
    /// Connections given up because the node could not settle what had come in.
    public var holdsGivenUp: UInt64 = 0
    /// Sessions that the broker was made to forget because it took nothing in them.
    public var sessionsGivenUp: UInt64 = 0

    /// Makes one that has counted nothing yet.
    public init(
        name: String, to: String, broker: String, version: String, tls: Bool, clientId: String, state: String
    ) {
        self.name = name
        self.to = to
        self.broker = broker
        self.version = version
        self.tls = tls
        self.clientId = clientId
        self.state = state
    }
}

/// The answer to `GET /v1/bridges`.
public struct BridgeListDocument: Codable, Sendable {
    /// By name.
    public var bridges: [BridgeDocument]
}

extension Metrics {
    /// Bridges, by name. A node without any has none of these metrics.
    static func bridges(_ bridges: [BridgeDocument], _ text: inout MetricsText) {
        guard !bridges.isEmpty else { return }
        func samples(_ value: (BridgeDocument) -> Int) -> [MetricsText.Sample] {
            bridges.map { ([("bridge", $0.name)], "\(value($0))") }
        }
        func ways(_ values: (BridgeDocument) -> (UInt64, UInt64)) -> [MetricsText.Sample] {
            bridges.flatMap { bridge in
                let (inward, outward) = values(bridge)
                return [
                    ([("bridge", bridge.name), ("direction", "in")], "\(inward)"),
                    ([("bridge", bridge.name), ("direction", "out")], "\(outward)"),
                ]
            }
        }
        text.gauge(
            "apus_bridge_connected", "Whether the bridge is connected to its broker.",
            samples { $0.state == "connected" ? 1 : 0 })
        text.gauge(
            "apus_bridge_queued_events", "Events that the broker does not have yet.", samples { $0.queuedEvents })
        text.gauge(
            "apus_bridge_queued_bytes", "What the events that the broker does not have yet count for.",
            samples { $0.queuedBytes })
        text.counter(
            "apus_bridge_events_total", "Events that went across, by direction.", ways { ($0.eventsIn, $0.eventsOut) })
        text.counter(
            "apus_bridge_loops_prevented_total", "Events that did not go where they had been, by direction.",
            ways { ($0.loopsPreventedIn, $0.loopsPreventedOut) })
        let dropped = bridges.flatMap { bridge in
            [("in", bridge.droppedIn), ("out", bridge.droppedOut)].flatMap { direction, numbers in
                numbers.sorted { $0.key < $1.key }.map { reason, number -> MetricsText.Sample in
                    ([("bridge", bridge.name), ("direction", direction), ("reason", reason)], "\(number)")
                }
            }
        }
        text.counter("apus_bridge_dropped_total", "Events that did not go across, by direction and reason.", dropped)
        text.counter(
            "apus_bridge_connects_total", "Connections made to brokers.", samples { Int(clamping: $0.connects) })
        text.counter(
            "apus_bridge_failures_total", "Attempts to connect that failed, and connections lost.",
            samples { Int(clamping: $0.failures) })
    }
}
