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
    /// Deleted topics that a node of a mesh remembers, so that a value from before does not come back with a node that
    /// was away; beyond it the oldest is forgotten. They may have 256 bytes each on average.
    public var maxTombstones = 100_000
    /// Seconds a deleted topic is remembered.
    public var tombstoneSeconds = 86_400
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
    /// Requests of HTTP clients that wait for their reply at once, shared out among the lanes; the next is refused.
    public var maxOutstandingRequests = 100_000
    /// Requests with an idempotency key that are remembered; beyond it the oldest is forgotten.
    public var maxIdempotencyKeys = 100_000
    /// Seconds an idempotency key is remembered.
    public var idempotencySeconds = 600
    /// Channels of streams over HTTP on a lane: one for each user and set of filters, while somebody reads it and for
    /// ``streamResumeSeconds`` afterwards. Beyond it a new stream is refused with 429.
    public var maxChannels = 10_000
    /// Filters of one stream over HTTP.
    public var maxStreamFilters = 64
    /// Events that a channel keeps for readers that come back.
    public var maxStreamWindowEvents = 1_000
    /// Bytes of these events.
    public var maxStreamWindowBytes = 1 << 20
    /// Bytes of these events in all channels of a lane; beyond it a channel gives up its oldest for new ones.
    public var maxStreamBytes = 256 << 20
    /// Seconds that a channel without readers goes on collecting events.
    public var streamResumeSeconds = 60
    /// Webhooks of a node, configured and created ones together; the next one is refused.
    public var maxWebhooks = 1_000
    /// One frame of AMQP as received, header included, and what a client is told (max-frame-size); a larger one closes
    /// its connection before it is read. A message may be spread over many, see ``maxPacketBytes``.
    public var maxAMQPFrameBytes = 64 << 10
    /// Sessions of one connection of AMQP (channel-max is one less).
    public var maxAMQPSessions = 256
    /// Links of one session of AMQP (handle-max is one less).
    public var maxAMQPLinks = 1_024
    /// Deliveries that a publisher may have under way on a link of AMQP: its credit. They count until they are settled.
    public var amqpCredit = 1_000
    /// Deliveries sent on a link of AMQP that its receiver has not settled; further ones wait in the queue.
    public var maxUnsettledDeliveries = 10_000

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
