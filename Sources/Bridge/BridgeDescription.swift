/// What a bridge tells about itself to those who manage the node. Values, read anywhere.

/// What a bridge has counted since it was started.
public struct BridgeCounts: Sendable, Equatable {
    /// Why an event did not go across.
    public enum Reason: String, Sendable, CaseIterable {
        /// No topic of the bridge matches it, or its topic would be empty at the other side.
        case unmatched
        /// What it would be published as is no topic, is longer than topics may be, or begins with `$`.
        case badTopic = "bad_topic"
        /// The payload is not the text that it claims to be.
        case badPayload = "bad_payload"
        /// Larger than the node, or the broker, takes.
        case tooLarge = "too_large"
        /// A property cannot be said in MQTT.
        case badProperty = "bad_property"
        /// The access rules do not let the bridge publish it.
        case notAuthorized = "not_authorized"
        /// The bridge publishes more than its quota.
        case overQuota = "over_quota"
        /// A direct event while the broker is away.
        case disconnected
        /// A guaranteed event for which there was no room.
        case queueFull = "queue_full"
        /// Its time was over.
        case expired
        /// The broker refused it.
        case refused
        /// It has been at as many brokers and meshes as it may.
        case tooFar = "too_far"
        /// It waited when the node stopped.
        case stopping
    }

    /// Events taken from the broker and published.
    public var eventsIn: UInt64 = 0
    /// Events that the broker has: direct ones that were sent, guaranteed ones that it has acknowledged.
    public var eventsOut: UInt64 = 0
    /// Events not taken from the broker, by reason.
    public var droppedIn = [UInt64](repeating: 0, count: Reason.allCases.count)
    /// Events not given to it, by reason.
    public var droppedOut = [UInt64](repeating: 0, count: Reason.allCases.count)
    /// Events that had been here already and came back.
    public var loopsIn: UInt64 = 0
    /// Events that had been at the broker already and were not sent there again.
    public var loopsOut: UInt64 = 0
    /// Connections that were made.
    public var connects: UInt64 = 0
    /// Attempts that failed, and connections that were lost.
    public var failures: UInt64 = 0
    /// Connections given up because the node could not settle what had come in.
    public var holdsGivenUp: UInt64 = 0
    /// Sessions that the broker was made to forget because it took nothing in them.
    public var sessionsGivenUp: UInt64 = 0

    /// Nothing yet.
    public init() {}

    /// The place of a reason in the arrays.
    static func place(_ reason: Reason) -> Int { Reason.allCases.firstIndex(of: reason) ?? 0 }

    mutating func dropIn(_ reason: Reason, _ count: Int = 1) { droppedIn[Self.place(reason)] += UInt64(count) }
    mutating func dropOut(_ reason: Reason, _ count: Int = 1) { droppedOut[Self.place(reason)] += UInt64(count) }
}

/// A bridge as it is now.
public struct BridgeDescription: Sendable {
    /// What it is doing.
    public enum State: String, Sendable, CaseIterable {
        /// It dials, or waits for the broker's answer.
        case connecting
        /// Events go to and fro.
        case connected
        /// It waits for the next attempt.
        case waiting
        /// It has been removed, or the node stops.
        case stopped
        /// It could not be started; ``BridgeDescription/lastError`` says why.
        case failed
    }

    /// Its name.
    public var name: String
    /// Where the broker is.
    public var address: String
    /// What the broker is called.
    public var broker: String
    /// The version of MQTT.
    public var version: String
    /// Whether TLS is spoken.
    public var isSecure: Bool
    /// The client id.
    public var clientID: String
    /// What it is doing.
    public var state = State.connecting
    /// Why the last attempt failed, or the last connection was lost, or a change was refused; nil once that is over.
    public var lastError: String?
    /// When the next attempt is made, in lane's milliseconds; 0 for none.
    var nextAttemptAt: UInt64 = 0
    /// Whether the broker knew the session of this client id at the last connection.
    public var hadSession = false
    /// Events for the broker that it does not have yet, those under way included.
    public var queuedEvents = 0
    /// What they count for in limits.
    public var queuedBytes = 0
    /// Those of them that the bridge's thread has.
    public var inFlight = 0
    /// What it has counted.
    public var counts = BridgeCounts()

    /// Milliseconds until the next attempt; nil when it does not wait for one.
    public var nextAttemptMilliseconds: UInt64? {
        guard state == .waiting else { return nil }
        let now = BridgeWire.now
        return nextAttemptAt > now ? nextAttemptAt - now : 0
    }
}
