/// What an inbox tells about itself to those who manage the node. A value, made on the inbox's lane and read anywhere.
public struct InboxDescription: Sendable {
    /// One subscription.
    public struct Subscription: Sendable {
        /// The filter as its client wrote it, with the group if it is shared.
        public var filter: String
        /// Quality of service, no-local, retain-as-published.
        public var options: DeliveryOptions
        /// The subscriber's own number for it; 0 for none.
        public var identifier: UInt32
        /// What it has said of its weight in its shared group; nil for nothing.
        public var weight: UInt16?
    }

    /// The connection that is attached.
    public struct Connection: Sendable {
        /// The peer's address.
        public var peer: String
        /// Milliseconds since it was accepted; nil when the protocol does not say.
        public var ageMilliseconds: UInt64?
        /// Seconds between signs of life that the client promised; nil for none.
        public var keepAliveSeconds: Int?

        /// Makes a description.
        public init(peer: String, ageMilliseconds: UInt64? = nil, keepAliveSeconds: Int? = nil) {
            self.peer = peer
            self.ageMilliseconds = ageMilliseconds
            self.keepAliveSeconds = keepAliveSeconds
        }
    }

    /// The client's id.
    public var clientID: String
    /// The user; nil for an anonymous client.
    public var user: String?
    /// Protocol and version, as `MQTT 3.1.1`; nil when the inbox does not know.
    public var protocolName: String?
    /// The connection; nil while the client is away.
    public var connection: Connection?
    /// Whether the session ends with its connection.
    public var isClean = false
    /// Seconds that the session outlives its connection; 0 when it does not.
    public var expirySeconds = 0
    /// Milliseconds until the session ends if its client stays away; nil while it is there.
    public var endsInMilliseconds: UInt64?
    /// Subscriptions, at most as many as were asked for.
    public var subscriptions: [Subscription] = []
    /// Subscriptions there are.
    public var subscriptionCount = 0
    /// Events that wait.
    public var queuedEvents = 0
    /// What they count for in limits.
    public var queuedBytes = 0
    /// Events sent and not yet acknowledged.
    public var inFlight = 0
    /// Whether an event will be published when the connection is lost.
    public var hasWill = false

    /// What is known of any inbox.
    public init(of inbox: Inbox, on lane: Lane, maxSubscriptions: Int) {
        clientID = inbox.principal.clientID
        user = inbox.principal.identity.user
        connection = inbox.link.map { Connection(peer: $0.peer) }
        queuedEvents = inbox.waiting.count
        queuedBytes = inbox.waiting.bytes
        let router = inbox.principal.router
        subscriptionCount = router.subscriptionCount(of: inbox)
        guard maxSubscriptions > 0 else { return }
        for subscription in router.subscriptions(of: inbox, limit: maxSubscriptions) {
            subscriptions.append(
                Subscription(
                    filter: subscription.filter.wholeText, options: subscription.options,
                    identifier: subscription.identifier, weight: subscription.weight))
        }
    }
}
