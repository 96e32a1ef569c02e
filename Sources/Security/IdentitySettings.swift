/// What the configuration says of who may come.

/// Who may come without a user name. A client with a user name is never anonymous.
public enum AnonymousPolicy: String, Sendable, CaseIterable {
    /// Clients on this machine.
    case loopback
    /// Every client, from anywhere.
    case everywhere
    /// Nobody.
    case never
}

/// Users, tokens and anonymous clients. All of it changes at a reload.
public struct IdentitySettings: Sendable {
    /// The users who may log in with a password; may be empty.
    public var users: [User] = []
    /// Who may come without a user name.
    public var anonymous = AnonymousPolicy.loopback
    /// The same for single listeners, by their names.
    public var anonymousByListener: [String: AnonymousPolicy] = [:]
    /// Whose tokens are taken.
    public var issuers: [TokenIssuer] = []
    /// Makes the salts of users that do not exist, or have no verifier: the same ones after a restart if this is the
    /// same. 32 random bytes that nobody knows; empty for new ones with every process.
    public var fakeSaltKey: [UInt8] = []

    /// Nobody but anonymous clients of this machine.
    public init() {}

    /// Users and a policy.
    public init(users: [User], anonymous: AnonymousPolicy = .loopback) {
        self.users = users
        self.anonymous = anonymous
    }
}

/// Why the identities cannot be used.
public struct IdentityFailure: Error, Equatable, CustomStringConvertible {
    /// The reason; names the file or value and what would be right.
    public let description: String
}

/// Bounds of a ``NodeAuthenticator``.
public struct IdentityBounds: Sendable {
    /// Verified credentials kept; about 150 bytes each.
    public var cachedCredentials = 100_000
    /// Verified tokens kept; as large as what they say.
    public var cachedTokens = 10_000
    /// Clients that may wait for a check; more are refused as busy.
    public var waitingClients = 10_000
    /// Bytes of all tokens that may wait at a time; clients with more are refused as busy.
    public var waitingTokenBytes = 16 << 20
    /// Threads that hash passwords. One checks about 20 a second and never takes more than one core. Tokens have a
    /// thread of their own.
    public var threads = 1
    /// How often one address may be wrong.
    public var addressFailures = FailureBounds.address
    /// How often one address may be wrong about one name.
    public var nameAndAddressFailures = FailureBounds.nameAndAddress
    /// How often all together may be wrong about one name.
    public var nameFailures = FailureBounds.name
    /// Addresses, names and pairs of them whose failures are kept.
    public var failureEntries = 65_536

    /// The default bounds.
    public init() {}
}
