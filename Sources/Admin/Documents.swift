/// The JSON documents of the management interface, as `docs/openapi-admin.yaml` describes them. Written by the node,
/// read by the commands; a field that is nil is left out.
public import FoundationEssentials

/// `GET /v1/node`.
public struct NodeDocument: Codable, Sendable {
    /// One listener.
    public struct Listener: Codable, Sendable, Equatable {
        /// What it speaks.
        public var `protocol`: String
        /// Where it listens.
        public var address: String

        /// Makes a listener's entry.
        public init(protocol: String, address: String) {
            self.protocol = `protocol`
            self.address = address
        }
    }

    /// The node's name.
    public var name: String
    /// The version of the program.
    public var version: String
    /// The directory of everything it keeps.
    public var data: String?
    /// `starting`, `joining`, `ready` or `draining`.
    public var state: String
    /// When the process began.
    public var startedAt: Date
    /// Seconds since then.
    public var uptimeSeconds: Int
    /// Where clients come in.
    public var listeners: [Listener]
    /// Connections now.
    public var connections: Int
    /// Sessions now, connected and absent.
    public var sessions: Int
    /// Subscriptions now.
    public var subscriptions: Int
    /// Topics with a retained event now.
    public var retained: Int
}

/// An entry of `GET /v1/clients`; `GET /v1/clients/{id}` has all fields.
public struct ClientDocument: Codable, Sendable {
    /// One subscription.
    public struct Subscription: Codable, Sendable, Equatable {
        /// The filter, with the group if it is shared.
        public var filter: String
        /// The highest quality of service.
        public var qos: Int
        /// Not to the publisher itself.
        public var noLocal: Bool
        /// Whether live events keep their retain flag.
        public var retainAsPublished: Bool
        /// The client's own number for it.
        public var identifier: Int?
        /// What it has said of its weight in its shared group.
        public var weight: Int?
    }

    /// The client's id.
    public var id: String
    /// The user; left out for an anonymous client.
    public var user: String?
    /// Whether there is a connection.
    public var connected: Bool
    /// Protocol and version.
    public var `protocol`: String?
    /// The peer's address.
    public var peer: String?
    /// When the connection was accepted.
    public var connectedSince: Date?
    /// When the session ends if its client stays away.
    public var endsAt: Date?
    /// Subscriptions there are.
    public var subscriptionCount: Int
    /// Events that wait for the client.
    public var queuedEvents: Int
    /// What they count for in limits.
    public var queuedBytes: Int
    /// Events sent and not yet acknowledged.
    public var inFlight: Int
    /// Seconds between signs of life that the client promised.
    public var keepAliveSeconds: Int?
    /// Whether the session ends with its connection.
    public var clean: Bool?
    /// Seconds that the session outlives its connection.
    public var sessionExpirySeconds: Int?
    /// Whether an event will be published when the connection is lost.
    public var will: Bool?
    /// The lane that the session lives on.
    public var lane: Int?
    /// The subscriptions, at most 1,000.
    public var subscriptions: [Subscription]?
}

/// `GET /v1/clients`.
public struct ClientPageDocument: Codable, Sendable {
    /// The clients.
    public var clients: [ClientDocument]
    /// What to pass as `after` for the next page; left out when there is none.
    public var next: String?
}

/// An entry of `GET /v1/retained`.
public struct RetainedDocument: Codable, Sendable, Equatable {
    /// The topic.
    public var topic: String
    /// Quality of service as published.
    public var qos: Int
    /// Bytes of the payload.
    public var bytes: Int
}

/// `GET /v1/retained`.
public struct RetainedPageDocument: Codable, Sendable {
    /// The topics.
    public var retained: [RetainedDocument]
    /// What to pass as `after` for the next page; left out when there is none.
    public var next: String?
}

/// `DELETE /v1/retained`.
public struct RemovedDocument: Codable, Sendable {
    /// Topics whose retained event was removed.
    public var removed: Int

    /// Makes the answer.
    public init(removed: Int) { self.removed = removed }
}

/// A link of `GET /v1/mesh/links`: one that is there, or one that is dialled and not there.
public struct LinkDocument: Codable, Sendable, Equatable {
    /// Where the node dials it; left out for one that the other node has dialled.
    public var to: String?
    /// Tells several links to the same node apart; left out when it has no name.
    public var name: String?
    /// The other node's name; left out while unknown.
    public var peer: String?
    /// `up`, `starting` until both connections are there, or `missing`.
    public var state: String
    /// Who wanted it: `configured`, `added` by a command, `learnt` from the mesh, or `accepted` from the other node.
    public var origin: String
    /// What a frame costs.
    public var cost: Int
    /// Microseconds to the other node and back; left out while unknown.
    public var roundTripMicroseconds: Int?
    /// Why it is missing.
    public var problem: String?

    /// Makes a link's entry.
    public init(to: String?, name: String?, peer: String? = nil, state: String, origin: String, cost: Int) {
        self.to = to
        self.name = name
        self.peer = peer
        self.state = state
        self.origin = origin
        self.cost = cost
    }
}

/// `GET /v1/mesh/links`.
public struct LinkListDocument: Codable, Sendable {
    /// The links; those that are there first.
    public var links: [LinkDocument]

    /// Makes the answer.
    public init(links: [LinkDocument]) { self.links = links }
}

/// What a node says when something is wrong (RFC 9457).
public struct ProblemDocument: Codable, Sendable {
    /// The status code.
    public var status: Int
    /// What the status means.
    public var title: String
    /// What happened.
    public var detail: String
}
