/// What a webhook tells about itself to those who manage the node. A value, made on its lane and read anywhere.
public struct WebhookDescription: Sendable {
    /// Whether the target seems to be there.
    public enum Circuit: String, Sendable {
        /// Events are sent as they come.
        case closed
        /// Attempts have failed one after another; a single one is made from time to time.
        case open
        /// That single one is under way.
        case halfOpen = "half_open"
    }

    /// What was asked for, without the secret, and without user and password in the URL.
    public var definition: WebhookDefinition
    /// Whether requests are signed.
    public var hasSecret: Bool
    /// Whose rights it has; nil for an anonymous client.
    public var user: String?
    /// Whether the configuration says it; others are gone after a restart.
    public var isConfigured: Bool
    /// Whether the target seems to be there.
    public var circuit: Circuit
    /// Events that the target does not have yet, those under way included.
    public var queuedEvents: Int
    /// What they count for in limits.
    public var queuedBytes: Int
    /// Requests that wait for their answer, or for their turn among the node's.
    public var underWay: Int
    /// Events that the target has taken.
    public var delivered: UInt64
    /// Attempts that failed and were, or will be, followed by another.
    public var retried: UInt64
    /// Events that the target refused, or that had all their attempts.
    public var rejected: UInt64
    /// Events whose time was over before the target had them.
    public var expired: UInt64
    /// Events for which there was no room.
    public var dropped: UInt64
    /// The status of the last answer; nil before the first.
    public var lastStatus: Int?
    /// Why the last attempt did not succeed; nil when it did.
    public var lastError: String?
    /// Milliseconds until the next attempt, when all that is to be sent waits for its time.
    public var nextAttemptMilliseconds: UInt64?
}
