import Core

/// What an HTTP listener for events is told to be.
public struct WebSettings: Sendable, Equatable {
    /// Origins whose pages may use the listener from a browser; `*` for any.
    public var corsOrigins: [String] = []
    /// Whether `/echo` is there, for tools that test WebSocket conformance.
    public var isEchoOn = false
    /// Users who may manage webhooks; empty means whoever is on this machine.
    public var webhookUsers: [String] = []

    /// The defaults.
    public init() {}
}

/// What all HTTP connections of a node share.
final class WebContext: Sendable {
    let routers: [String: Router]
    let authenticator: any Authenticator
    let settings: WebSettings
    /// The node's name, for people.
    let nodeName: String
    /// The version of the program.
    let version: String
    /// What WebSocket may carry, by subprotocol.
    let adapters: [String: any Adapter]
    /// Who has the webhooks; nil where there are none.
    let webhooks: (any WebhookManaging)?
    /// Random; stands for this run of the node in ids of events, streams and replies. Letters and digits.
    let instance: String
    /// Requests that may be repeated.
    let idempotency: IdempotencyWindow
    /// Random numbers, unpredictable.
    let random: @Sendable () -> UInt64
    /// Milliseconds since 1970.
    let wallClock: @Sendable () -> UInt64

    init(
        routers: [String: Router], authenticator: any Authenticator, settings: WebSettings, nodeName: String,
        version: String, instance: String, adapters: [String: any Adapter], webhooks: (any WebhookManaging)?,
        random: @escaping @Sendable () -> UInt64,
        wallClock: @escaping @Sendable () -> UInt64
    ) {
        self.routers = routers
        self.authenticator = authenticator
        self.settings = settings
        self.nodeName = nodeName
        self.version = version
        self.instance = instance
        self.adapters = adapters
        self.webhooks = webhooks
        self.random = random
        self.wallClock = wallClock
        // All namespaces have the node's limits.
        idempotency = IdempotencyWindow(limits: routers.values.first?.limits ?? Limits(), random: random)
    }

    /// Whether bearer tokens are taken.
    var takesTokens: Bool { authenticator.mechanisms.contains(.oauthBearer) }

    /// Whether a name in `Host` is one that this node is known by: its own, or that of an origin in the configuration.
    func isKnown(host: String) -> Bool {
        let name = host.prefix { $0 != ":" }.lowercased()
        return name == nodeName.lowercased()
            || settings.corsOrigins.contains { origin in
                origin == "*"
                    || origin.lowercased().split(separator: "/").last.map { $0.prefix { $0 != ":" } == name }
                        ?? false
            }
    }

    /// What is kept for a lane.
    func state(of lane: Lane) -> WebLane {
        if let known = lane.belongings["web"] as? WebLane { return known }
        let made = WebLane(self, on: lane)
        lane.belongings["web"] = made
        return made
    }
}

/// What the HTTP plane keeps for a lane. Confined to the lane.
final class WebLane {
    /// The context outlives the lanes.
    unowned let context: WebContext
    let traffic: TrafficCounter
    /// What the turn being filled publishes, one for each run.
    var published: [Published] = []
    /// The topic of a path that has escapes.
    var decoded: [UInt8] = []
    /// The id made last.
    let eventID: UnsafeMutableRawPointer
    /// Where replies and receipts arrive, one of each for each namespace that was used.
    var replyPorts: [ReplyPort] = []
    var publisherPorts: [PublisherPort] = []
    /// Listings of topics under way.
    var listings = 0
    /// Events of the run being delivered as JSON, see ``json(of:_:on:)``.
    var jsonSerial: UInt64 = 0
    var jsonBytes: [UInt8] = []
    var jsonEnds: [Int] = []
    /// How often an event has been written as JSON for a run.
    var jsonWrites: UInt64 = 0
    private let prefixCount: Int
    private var eventNumber: UInt64 = 0

    /// The properties of an event of the turn, in the turn's memory; its id is the last of them.
    struct Properties {
        var bytes: UnsafeMutableRawPointer
        var count: Int
        var idCount: Int
    }

    /// An event of the turn and its id.
    struct Published {
        var id: UnsafeRawPointer
        var idCount: Int
    }

    init(_ context: WebContext, on lane: Lane) {
        self.context = context
        traffic = lane.traffic(of: "http").counter
        let prefix = Array("\(context.instance)-\(String(lane.number, radix: 36))-".utf8)
        eventID = .allocate(byteCount: prefix.count + 20, alignment: 8)
        eventID.copyMemory(from: prefix, byteCount: prefix.count)
        prefixCount = prefix.count
    }

    deinit { eventID.deallocate() }

    /// Makes a name for an event that brought none, unique among all nodes and runs, at ``eventID``.
    /// - Returns: its bytes.
    func nextEventID() -> Int {
        eventNumber &+= 1
        return prefixCount + Decimal.write(eventNumber, to: eventID + prefixCount)
    }

    /// The turn has been answered.
    func forgetPublished() { published.removeAll(keepingCapacity: true) }
}
