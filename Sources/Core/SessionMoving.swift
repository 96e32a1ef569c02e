/// The seam through which a session follows its client to another node. A router of a node without a mesh has no
/// mover, and nothing of this is used.

/// A client that has been authenticated and is about to take over its session, or to begin one.
public struct SessionClaim: Sendable {
    /// The client's id.
    public var clientID: String
    /// Who it is; only the same user is given a session.
    public var identity: Identity
    /// Whether what there is of the session is to be thrown away (clean start).
    public var isClean: Bool
    /// Makes the session here of what another node sends.
    public var maker: any SessionMaker

    /// Makes a claim.
    public init(clientID: String, identity: Identity, isClean: Bool, maker: any SessionMaker) {
        self.clientID = clientID
        self.identity = identity
        self.isClean = isClean
        self.maker = maker
    }
}

/// How a claim ended.
public enum SessionClaimAnswer: Sendable {
    /// What there was elsewhere is here: the client may take over what this node has now, or begin anew.
    case proceed
    /// The session is another user's.
    case refused
    /// Another connection of the same client came later, at another node.
    case lost
}

/// Knows which node has a client's session, and brings it here. Called on any lane.
public protocol SessionMover: AnyObject, Sendable {
    /// A client claims its id. Any other node's connection of it is closed.
    /// - Parameter answer: called once, on any lane; nil for who does not wait.
    func claim(_ claim: SessionClaim, on lane: Lane, answer: (@Sendable (SessionClaimAnswer) -> Void)?)
    /// A session has ended here.
    func sessionEnded(_ clientID: String)
}

/// The protocol whose sessions move.
public protocol SessionMaker: AnyObject, Sendable {
    /// Makes a session that is subscribed and has nothing else yet; what this node still had under the id is thrown
    /// away.
    /// - Parameter outline: what ``Inbox/surrender(_:to:on:)`` said at the other node.
    /// - Returns: nil when it makes no sense, or there are too many sessions.
    func makeSession(_ claim: SessionClaim, outline: [UInt8], in router: Router, on lane: Lane) -> Inbox?
}

/// What another node wants of a session.
public enum SurrenderMode: UInt8, Sendable {
    /// All of it.
    case move = 0
    /// Its end.
    case clean = 1
    /// The end of its connection; the other node has gone on without it.
    case yield = 2
    /// The same, whoever it is that came later.
    case superseded = 3
}

/// What became of it.
public enum Surrender: Sendable {
    /// There is nothing to move, or nothing any more.
    case nothing
    /// It is another user's, and has not been touched.
    case refused
    /// The connection is closed, and this is what the other node needs to subscribe.
    case outline([UInt8])
}

extension Lane {
    /// What tells the events of a run from all others: the first one's number, those of the others follow.
    /// - Parameter base: the router's, which differs from node to node.
    @inline(__always)
    final func makeIdentity(_ base: UInt64) -> UInt64 {
        identitiesMade &+= 1
        var word = base &+ (UInt64(truncatingIfNeeded: number) << 56 | identitiesMade) &* 0x9E37_79B9_7F4A_7C15
        word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
        return max(1, word ^ word >> 31)
    }
}
