/// Every limit of a node, in one place. A peer can make nothing grow beyond what stands here; `docs/limits.md` says
/// what happens at each. Sizes are bytes.
public struct Limits: Sendable, Equatable {
    /// Connections at once; further ones are accepted and closed at once, so that they see an answer.
    public var maxConnections = 100_000
    /// One packet as received, header included; a larger one closes its connection before it is read.
    public var maxPacketBytes = 16 << 20
    /// Levels of a topic or filter. At most ``Topic/maxLevels``.
    public var maxTopicLevels = 128
    /// Bytes of a topic or filter.
    public var maxTopicBytes = 65_535
    /// Subscriptions of one session; the next is refused.
    public var maxSubscriptionsPerSession = 100_000
    /// Sessions of a namespace, connected or absent; the next new one is refused.
    public var maxSessions = 1_000_000
    /// Guaranteed events waiting in one session beyond its window; then one is dropped and counted.
    public var maxQueuedEvents = 10_000
    /// Bytes of guaranteed events waiting in one session.
    public var maxQueuedBytes = 16 << 20
    /// Which event a full queue gives up.
    public var queueFull = QueueFull.dropNewest
    /// Guaranteed events sent to a client and not yet acknowledged; further ones wait in the queue.
    public var maxInFlight = 1_024
    /// Guaranteed events received from a client and not yet settled; reading stops until some are.
    public var maxUnsettled = 1_024
    /// Bytes waiting for a slow reader; beyond it direct events are dropped and the client is no longer read.
    public var maxOutputBytes = 1 << 20
    /// Bytes waiting in a lane's mailbox; beyond it direct events are dropped.
    public var maxMailboxBytes = 16 << 20
    /// Retained events of a namespace; the next new topic is refused and counted.
    public var maxRetainedEvents = 1_000_000
    /// Bytes of retained events of a namespace.
    public var maxRetainedBytes = 1 << 30
    /// Seconds from accept to a complete CONNECT; then the connection is closed.
    public var connectTimeoutSeconds = 5
    /// In which a peer must take the last bytes of a connection that ends, besides what ``lastBytesPerSecond`` adds.
    public var lastBytesMilliseconds = 30_000
    /// Last bytes for which a peer has a second more.
    public var lastBytesPerSecond = 64 << 10
    /// For how long a peer that has got the last bytes may read them before the connection ends.
    public var lingerMilliseconds = 2_000
    /// Topic aliases a connection may use, in each direction (MQTT 5 §3.3.2.3.4).
    public var maxTopicAliases = 64
    /// Bytes of topics that one client's aliases may stand for; beyond it the connection is closed.
    public var maxTopicAliasBytes = 1 << 16
    /// The longest keep-alive, in seconds; an MQTT 5 client is told, others are left alone. 0 means any.
    public var maxKeepAliveSeconds = 0
    /// Seconds an absent session is kept at most.
    public var sessionExpirySeconds = 7 * 86_400
    /// Events a second that one connection may publish, with a burst of one second; 0 means unlimited.
    public var maxPublishRate = 0

    /// The defaults.
    public init() {}

    /// What a session's queue does when it is full.
    public enum QueueFull: String, Sendable, CaseIterable {
        /// The event that came last is dropped: what waits is complete up to a point.
        case dropNewest = "drop_newest"
        /// The events that have waited longest are dropped: what waits is what is new.
        case dropOldest = "drop_oldest"
    }
}
