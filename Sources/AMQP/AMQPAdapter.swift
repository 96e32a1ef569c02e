public import Core

/// The entry of AMQP 1.0: makes a conversation for each accepted connection.
public final class AMQPAdapter: Adapter {
    /// `amqp`, as in the configuration.
    public let name = AMQPAdapter.protocolName
    static let protocolName = "amqp"
    private let context: AMQPContext

    /// Makes the adapter.
    /// - Parameters:
    ///   - routers: the namespaces by name; `default` must be there.
    ///   - nodeName: the container id that clients see.
    ///   - version: the version that clients see.
    ///   - random: makes dynamic addresses unpredictable.
    ///   - wallClock: milliseconds since 1970, for messages that say when they expire.
    public init(
        routers: [String: Router], authenticator: any Authenticator, settings: AMQPSettings, nodeName: String,
        version: String, random: @escaping @Sendable () -> UInt64, wallClock: @escaping @Sendable () -> UInt64
    ) {
        context = AMQPContext(
            routers: routers, authenticator: authenticator, settings: settings, nodeName: nodeName, version: version,
            random: random, wallClock: wallClock)
    }

    /// A conversation for a new connection.
    public func makeConversation(link: Link, on lane: Lane) -> Conversation {
        AMQPConversation(context: context, link: link, on: lane)
    }
}

/// What all AMQP conversations of a node share.
final class AMQPContext: Sendable {
    let routers: [String: Router]
    let authenticator: any Authenticator
    let settings: AMQPSettings
    let nodeName: String
    let version: String
    let random: @Sendable () -> UInt64
    let wallClock: @Sendable () -> UInt64

    init(
        routers: [String: Router], authenticator: any Authenticator, settings: AMQPSettings, nodeName: String,
        version: String, random: @escaping @Sendable () -> UInt64, wallClock: @escaping @Sendable () -> UInt64
    ) {
        self.wallClock = wallClock
        self.routers = routers
        self.authenticator = authenticator
        self.settings = settings
        self.nodeName = nodeName
        self.version = version
        self.random = random
    }

    /// What the adapter keeps for a lane.
    func state(of lane: Lane) -> AMQPLane {
        if let known = lane.belongings["amqp"] as? AMQPLane { return known }
        let made = AMQPLane(context: self, lane: lane)
        lane.belongings["amqp"] = made
        lane.absentLists.append(made.absent)
        lane.chores.append { lane in made.endExpired(on: lane) }
        return made
    }

    /// In front of addresses that this node makes.
    var topicPrefix: String { settings.unprefixedAddress == .queue ? "topic://" : "" }

    /// An address that nobody can guess (§3.5.3): of a topic below those that replies to HTTP requests go to.
    func dynamicAddress() -> String {
        topicPrefix + "apus/reply/" + String(random(), radix: 36) + String(random(), radix: 36)
    }

    /// The lane of a container: the same for all of its connections, so that its durable subscriptions and the links
    /// it steals from itself are always there. See `docs/decisions/0012`.
    func lane(ofContainer name: String, in router: Router, count: Int) -> Int {
        var hash = router.hashSeed ^ 0xA0_0A
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
        return Int((hash >> 32) % UInt64(max(count, 1)))
    }
}

/// What the adapter keeps for a lane. Confined to the lane.
final class AMQPLane {
    /// The adapter's; it outlives the lanes.
    unowned let context: AMQPContext
    let traffic: TrafficCounter
    /// Events as messages.
    let outgoing: OutgoingMessages
    /// Durable subscriptions whose receivers are away.
    let absent = AbsentInboxes()
    /// The subscriptions of links, by container and name.
    var subscribers: [LinkKey: Subscriber] = [:]

    /// Bytes of messages that a turn refers to.
    private let arena = UnsafeMutableRawPointer.allocate(byteCount: AMQPLane.arenaSize, alignment: 64)
    private var arenaUsed = 0
    private static let arenaSize = 1 << 19

    init(context: AMQPContext, lane: Lane) {
        self.context = context
        traffic = lane.traffic(of: AMQPAdapter.protocolName).counter
        outgoing = OutgoingMessages(usesTopicPrefix: context.settings.unprefixedAddress == .queue)
    }

    /// A message that the arena is too small for.
    private var large: UnsafeMutableRawPointer?

    deinit {
        arena.deallocate()
        large?.deallocate()
    }

    /// Memory for a message of the turn that is being filled.
    /// - Returns: nil when the turn must be routed first.
    func room(_ count: Int, _ turn: Turn) -> UnsafeMutableRawPointer? {
        if turn.isEmpty { clear() }
        if Self.arenaSize - arenaUsed >= count {
            defer { arenaUsed += count }
            return arena + arenaUsed
        }
        // Not the turn's own memory: it would stay there if the message is not one, and the turn is never routed.
        guard turn.isEmpty else { return nil }
        let place = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 16)
        large = place
        return place
    }

    private func clear() {
        arenaUsed = 0
        large?.deallocate()
        large = nil
    }

    /// Ends durable subscriptions whose receivers have stayed away for too long.
    func endExpired(on lane: Lane) {
        absent.takeDue(at: lane.now) { inbox in
            guard let subscriber = inbox as? Subscriber else { return }
            lane.counters.sessionsExpired &+= 1
            subscriber.end(on: lane)
        }
    }
}

/// What names a link on its lane (§2.6.1): the container and the link's name, in a namespace.
struct LinkKey: Hashable {
    var namespace: Int
    var container: String
    var name: String
    var scope = Scope.durable

    /// Among whose links a name is one. A durable subscription keeps its name from everybody; names of links that leave
    /// nothing behind are each user's own, so that nobody can occupy those of others.
    enum Scope: Hashable {
        case durable
        /// nil for those without a name.
        case links(user: String?)
    }

    /// The same name among the links of a user.
    func ofLinks(_ user: String?) -> LinkKey {
        var key = self
        key.scope = .links(user: user)
        return key
    }

    /// The name that the subscription is listed under, among the clients of all protocols.
    var sessionName: String { "amqp:\(container)/\(name)" }
}
