/// What an operator must be able to find out afterwards: refusals, and acts of administration. One record for each.

/// One thing that happened. Holds no secret.
public struct AuditRecord: Sendable, Equatable {
    /// What it is about; the last level of its topic `$SYS/audit/<kind>`.
    public enum Kind: String, Sendable, CaseIterable {
        /// Somebody was not let in, or was put out because the proof of who it is has ended.
        case authentication
        /// A publish, a subscription or a retained event that the rules do not allow.
        case access
        /// A limit for one user, address or listener was reached.
        case quota
        /// A connection that ended before anybody was asked who it is: TLS, PROXY header, rate.
        case connection
        /// A peer of the mesh was refused, or a policy kept an event back.
        case mesh
        /// Somebody changed something by the management interface, by a signal or by a file.
        case administration
    }

    /// What it is about.
    public var kind: Kind
    /// Whether it was refused; false for something that was done.
    public var isRefusal: Bool
    /// What was tried or done: `connect`, `publish`, `subscribe`, `retain`, `share`, `link.add`, `reload`, ….
    public var action: String
    /// What with: a topic, a filter, a path; empty when there is nothing to say.
    public var object = ""
    /// The user; nil for one without a name, or one not known yet.
    public var user: String?
    /// The protocol's name for the client.
    public var clientID = ""
    /// The peer's address.
    public var peer = ""
    /// The protocol: `mqtt`, `amqp`, `http`, `mesh`, `admin`.
    public var protocolName = ""
    /// Why, in words for people.
    public var reason = ""

    /// A record; what is known besides is filled in afterwards.
    public init(_ kind: Kind, _ action: String, isRefusal: Bool = true, reason: String = "") {
        self.kind = kind
        self.action = action
        self.isRefusal = isRefusal
        self.reason = reason
    }
}

/// Takes records: writes them to the log and publishes them. Called on any thread; never blocks. A flood of records is
/// thinned out by the sink, which says how many it left out.
public protocol AuditSink: Sendable {
    /// Takes one record.
    func record(_ record: AuditRecord)
}
