/// Who knocks, and the answer. A conversation asks with ``Credentials`` and waits; the answer may come from another
/// thread and crosses back through the lane's mailbox. Nothing here blocks a lane.

/// What a client presented. Holds secrets: never logged, never described.
public struct Credentials: Sendable, CustomStringConvertible {
    /// The protocol's name for the client (MQTT client id, AMQP container id); may be empty.
    public var clientID: String
    /// The user name, or nil when the client gave none.
    public var user: String?
    /// The password's bytes, or nil when the client gave none.
    public var password: [UInt8]?
    /// Who the transport has proven the client to be, if the client wants to be that one; then there is no password.
    public var provenUser: String?
    /// Whether the connection comes from this machine: a loopback address or a Unix socket.
    public var isLocal: Bool
    /// The peer's address as text, for the log and for rate limits.
    public var peer: String

    /// Collects what a client presented.
    public init(clientID: String, user: String?, password: [UInt8]?, isLocal: Bool, peer: String) {
        self.clientID = clientID
        self.user = user
        self.password = password
        self.isLocal = isLocal
        self.peer = peer
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
}

/// The answer to ``Credentials``.
public enum AuthenticationResult: Sendable, Equatable {
    case accepted(Identity)
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
}
