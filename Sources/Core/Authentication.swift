/// Who knocks, and the answer. A conversation asks with ``Credentials`` and waits; the answer may come from another
/// thread and crosses back through the lane's mailbox. Nothing here blocks a lane.

/// What a client presented. Holds secrets: never logged, never described.
public struct Credentials: Sendable, CustomStringConvertible {
    /// The protocol's name for the client (MQTT client id, AMQP container id); may be empty.
    public var clientID: String
    /// The user name, or nil when the client gave none.
    public var user: String?
    /// The password's bytes, or nil when the client gave none. May be a token as well.
    public var password: [UInt8]?
    /// A bearer token (RFC 6750), where the protocol has a place of its own for it.
    public var token: [UInt8]?
    /// Who the transport has proven the client to be, if the client wants to be that one; then there is no password.
    public var provenUser: String?
    /// Whether the connection comes from this machine: a loopback address or a Unix socket.
    public var isLocal: Bool
    /// The peer's address as text, for the log and for rate limits.
    public var peer: String
    /// Who the transport has proven the client to be, whether it wants to be that one or not; nil for nobody.
    public var certificateUser: String?
    /// The groups that the certificate puts its owner into.
    public var certificateGroups: [String] = []
    /// The certificate that the transport has verified; nil for none.
    public var certificate: PeerCertificate?
    /// The protocol: `mqtt`, `amqp`, `http`, `admin`.
    public var protocolName = ""
    /// The listener's name.
    public var listener = ""

    /// Collects what a client presented.
    public init(clientID: String, user: String?, password: [UInt8]?, isLocal: Bool, peer: String) {
        self.clientID = clientID
        self.user = user
        self.password = password
        self.isLocal = isLocal
        self.peer = peer
    }

    /// Collects what a client presented on a connection.
    public init(_ link: Link, _ protocolName: String, clientID: String = "", user: String?, password: [UInt8]?) {
        self.init(clientID: clientID, user: user, password: password, isLocal: link.isLocal, peer: link.peer)
        certificate = link.certificate
        certificateUser = link.provenUser
        certificateGroups = link.provenGroups
        self.protocolName = protocolName
        listener = link.listenerName
    }

    /// The user and the address, nothing secret.
    public var description: String { "Credentials(user: \(user ?? "-"), peer: \(peer))" }
}

/// A proven identity. It becomes a ``Principal`` together with the client id.
public struct Identity: Sendable, Equatable {
    /// The namespace whose router the client uses.
    public var namespace: String
    /// The user's name; nil for an anonymous client.
    public var user: String?
    /// Groups that access rules may name.
    public var groups: [String]
    /// What else has been proven, by the variables' names in access rules: `cert.cn`, `claim.department`.
    public var attributes: [String: [String]] = [:]
    /// For how long it holds from the answer on, in milliseconds; nil for as long as the connection.
    public var lifetimeMilliseconds: UInt64?

    /// When it ends if it was proven at `now`, both in a lane's milliseconds; `max` for never.
    public func end(from now: UInt64) -> UInt64 {
        guard let lifetimeMilliseconds else { return .max }
        let (end, isBeyond) = now.addingReportingOverflow(lifetimeMilliseconds)
        return isBeyond ? .max : end
    }

    /// Whether access rules cannot tell it from another one: all but the lifetime is the same.
    public func hasSameRights(as other: Identity) -> Bool {
        var other = other
        other.lifetimeMilliseconds = lifetimeMilliseconds
        return self == other
    }

    /// Makes an identity; without arguments it is the anonymous one in the namespace `default`.
    public init(namespace: String = "default", user: String? = nil, groups: [String] = []) {
        self.namespace = namespace
        self.user = user
        self.groups = groups
    }
}

/// Why a client was not let in. Each protocol words it in its own terms.
public enum AuthenticationRefusal: Sendable, Equatable {
    /// User unknown or password wrong; deliberately the same for both.
    case badCredentials
    /// Anonymous access is not allowed here.
    case anonymousNotAllowed
    /// Too many checks are waiting; the client may come back.
    case busy
    /// Too many wrong attempts came from this address or with this name; the client may come back in a minute.
    case tooManyFailures
}

/// What an authenticator has done so far, for metrics and tests.
public struct IdentityCounters: Sendable, Equatable {
    /// Passwords hashed, dummies for unknown users included.
    public var hashes = 0
    /// Logins answered without a check because their credentials were verified before.
    public var cacheHits = 0
    /// Clients that shared the check of another one with the same credentials.
    public var coalesced = 0
    /// Clients refused because too many were waiting.
    public var refusedBusy = 0
    /// Checks that could not be computed, as for lack of memory; their clients were refused as busy.
    public var failures = 0
    /// Tokens verified, good or not.
    public var tokens = 0
    /// Logins that were refused, for whatever reason.
    public var refused = 0
    /// Those among them that were not looked at, after too many failures.
    public var refusedLimited = 0
    /// Clients waiting for a check now.
    public var waiting = 0
    /// Verified passwords and tokens in the caches now.
    public var cached = 0

    /// All zero.
    public init() {}
}

/// A way to prove who one is by an exchange of messages (SASL, RFC 4422), for MQTT 5 AUTH and AMQP.
public enum SASLMechanism: String, Sendable, CaseIterable {
    /// RFC 7677: password and salt, neither of which goes over the wire.
    case scramSHA256 = "SCRAM-SHA-256"
    /// RFC 7628: a bearer token.
    case oauthBearer = "OAUTHBEARER"
}

/// What comes of a client's message in an exchange.
public enum AuthenticationStep: Sendable, Equatable {
    /// The client must answer this.
    case challenge([UInt8])
    /// It is over; the bytes are for the client, and may be empty. With a refusal they may only be sent where the
    /// protocol has a place for them.
    case finished(AuthenticationResult, [UInt8])
}

/// One exchange, confined to the lane of its connection.
public protocol AuthenticationExchange: AnyObject {
    /// Takes the client's next message.
    /// - Parameter reply: called once, from any thread, if and only if this function returned nil.
    func respond(
        to message: [UInt8], reply: @escaping @Sendable (AuthenticationStep) -> Void
    ) -> AuthenticationStep?
}

/// The answer to ``Credentials``.
public enum AuthenticationResult: Sendable, Equatable {
    /// They are good; who it is.
    case accepted(Identity)
    /// They are not, or there is no saying now.
    case refused(AuthenticationRefusal)
}

/// Checks credentials. Called on a lane, so it must not block: what takes time answers later through `reply`.
public protocol Authenticator: Sendable {
    /// Checks `credentials`.
    /// - Parameter reply: called once, from any thread, if and only if this function returned nil.
    /// - Returns: the answer when it is known at once, nil when it follows through `reply`.
    func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult?

    /// The mechanisms that can be used now, the best one first.
    var mechanisms: [SASLMechanism] { get }

    /// Begins an exchange. `credentials` says all but the user and the secret.
    /// - Returns: nil when the mechanism is not offered.
    func begin(_ mechanism: SASLMechanism, _ credentials: Credentials) -> (any AuthenticationExchange)?
}

extension Authenticator {
    /// None.
    public var mechanisms: [SASLMechanism] { [] }
    /// Nothing is offered.
    public func begin(_ mechanism: SASLMechanism, _ credentials: Credentials) -> (any AuthenticationExchange)? { nil }
}
