/// Somebody whose tokens (RFC 7519) prove who a client is, as the configuration says it.

/// An issuer, what its tokens must say, and where its keys are.
public struct TokenIssuer: Sendable, Equatable {
    /// What `iss` must be.
    public let issuer: String
    /// What `aud` must be or contain.
    public let audience: String
    /// Where the keys are (a JWK set, RFC 7517).
    public let keys: KeyLocation
    /// The claim with the user's name.
    public let userClaim: String
    /// The claim with the groups, a text or a list of texts.
    public let groupsClaim: String
    /// What a signature may be made with.
    public let algorithms: [TokenAlgorithm]
    /// By how much the clocks of the issuer and of this machine may differ.
    public let leewaySeconds: Int
    /// A file with the authorities (PEM) that the server with the keys is checked with; nil for the system's.
    public let authorities: String?

    /// The most that is accepted as leeway.
    public static let maxLeewaySeconds = 600

    /// Why an issuer cannot be used; names the value and what would be right.
    public struct Failure: Error, Equatable, CustomStringConvertible {
        /// The reason.
        public let description: String
    }

    /// Checks and keeps what is configured.
    /// - Parameters:
    ///   - keys: a path, `file:PATH`, an `https:` URL, or an `http:` URL of this machine.
    ///   - algorithms: names as in a token's header; nil for all but the symmetric ones.
    public init(
        issuer: String, audience: String, keys: String, userClaim: String = "sub", groupsClaim: String = "groups",
        algorithms: [String]? = nil, leewaySeconds: Int = 30, authorities: String? = nil
    ) throws(Failure) {
        func fail(_ reason: String) -> Failure { Failure(description: reason) }
        if issuer.isEmpty { throw fail("issuer must not be empty: it is what the tokens say in 'iss'") }
        if audience.isEmpty { throw fail("audience must not be empty: it is what the tokens say in 'aud'") }
        if userClaim.isEmpty || groupsClaim.isEmpty { throw fail("user and groups must name a claim") }
        guard (0...Self.maxLeewaySeconds).contains(leewaySeconds) else {
            throw fail("leeway must be from 0 to \(Self.maxLeewaySeconds) seconds")
        }
        var known: [TokenAlgorithm] = []
        for name in algorithms ?? TokenAlgorithm.standard.map(\.rawValue) {
            guard let algorithm = TokenAlgorithm(rawValue: name) else {
                let names = TokenAlgorithm.allCases.map(\.rawValue).joined(separator: ", ")
                throw fail("algorithms: '\(name)' is none of \(names)")
            }
            if !known.contains(algorithm) { known.append(algorithm) }
        }
        if known.isEmpty { throw fail("algorithms must not be empty") }
        self.keys = try KeyLocation(keys)
        self.issuer = issuer
        self.audience = audience
        self.userClaim = userClaim
        self.groupsClaim = groupsClaim
        self.algorithms = known
        self.leewaySeconds = leewaySeconds
        self.authorities = authorities
    }
}

extension TokenIssuer {
    /// Why a node does not start with the keys of this issuer, which it reads from a file; nil when it does, or when
    /// they are at a URL and so come later. Blocks.
    public func reasonAgainstKeys() -> String? {
        guard case .file(let path) = keys else { return nil }
        return KeyFetcher.reasonAgainst(file: path)
    }
}

/// Where keys are.
public enum KeyLocation: Sendable, Hashable {
    /// In a file, read again when it changes.
    case file(String)
    /// At a URL, fetched from time to time.
    case url(String)

    /// The longest URL.
    static let maxURLBytes = 2_048

    init(_ text: String) throws(TokenIssuer.Failure) {
        if text.isEmpty { throw .init(description: "keys must name a file or a URL") }
        // A file: path by itself or after "file:"; anything else with a scheme is a URL.
        if text.hasPrefix("file://") {
            self = .file(String(text.dropFirst("file://".utf8.count)))
        } else if text.hasPrefix("file:") {
            self = .file(String(text.dropFirst("file:".utf8.count)))
        } else if text.contains("://") {
            if let reason = Self.reasonAgainst(url: text) { throw .init(description: "keys: '\(text)': \(reason)") }
            self = .url(text)
        } else {
            self = .file(text)
        }
    }

    /// Keys that somebody on the way can exchange prove nothing: http only where nobody is on the way.
    private static func reasonAgainst(url: String) -> String? {
        if url.utf8.count > maxURLBytes { return "a URL must not be longer than \(maxURLBytes) bytes" }
        if url.utf8.contains(where: { $0 <= 0x20 || $0 >= 0x7F }) { return "a URL must be ASCII without spaces" }
        let isPlain = url.hasPrefix("http://")
        guard isPlain || url.hasPrefix("https://") else {
            return "a URL must begin with https:// (or http://127.0.0.1)"
        }
        let authority = url.drop { $0 != "/" }.dropFirst(2).prefix { !"/?#".contains($0) }
        if url.contains("\\") { return "a URL must not contain '\\'" }
        if authority.contains("@") { return "a URL must not contain a user name or '@'" }
        var host = authority
        if let colon = authority.lastIndex(of: ":"), !authority[colon...].contains("]") { host = authority[..<colon] }
        if host.isEmpty { return "the URL has no host" }
        if isPlain, !["127.0.0.1", "[::1]", "localhost"].contains(host.lowercased()) {
            return "http:// is for this machine only (127.0.0.1, [::1], localhost); use https://"
        }
        return nil
    }

    /// The path or the URL.
    public var text: String {
        switch self {
        case .file(let path): path
        case .url(let url): url
        }
    }
}
