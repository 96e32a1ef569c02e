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
    /// Random; stands for this run of the node in ids of events, streams and replies. Letters and digits.
    let instance: String
    /// Random numbers, unpredictable.
    let random: @Sendable () -> UInt64
    /// Milliseconds since 1970.
    let wallClock: @Sendable () -> UInt64

    init(
        routers: [String: Router], authenticator: any Authenticator, settings: WebSettings, nodeName: String,
        random: @escaping @Sendable () -> UInt64, wallClock: @escaping @Sendable () -> UInt64
    ) {
        self.routers = routers
        self.authenticator = authenticator
        self.settings = settings
        self.nodeName = nodeName
        self.random = random
        self.wallClock = wallClock
        instance = String(random() >> 16, radix: 36)
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
    private var eventNumber: UInt64 = 0
    private let prefix: [UInt8]

    init(_ context: WebContext, on lane: Lane) {
        self.context = context
        traffic = lane.traffic(of: "http").counter
        prefix = Array("\(context.instance)-\(String(lane.number, radix: 36))-".utf8)
    }

    /// A name for an event that brought none, unique among all nodes and runs: appended to `bytes`.
    func appendEventID(to bytes: inout [UInt8]) {
        eventNumber &+= 1
        bytes.append(contentsOf: prefix)
        withUnsafeTemporaryAllocation(byteCount: 20, alignment: 1) { room in
            guard let base = room.baseAddress else { return }
            let count = Decimal.write(eventNumber, to: base)
            bytes.append(contentsOf: UnsafeRawBufferPointer(start: base, count: count))
        }
    }
}
