/// The signatures that tokens may carry (RFC 7518 §3, RFC 8037 §3.1).

/// An algorithm by its name in the header. `none` is no case: it cannot be asked for.
public enum TokenAlgorithm: String, Sendable, CaseIterable {
    /// RSA with padding of PKCS #1 v1.5, SHA-256.
    case rs256 = "RS256"
    /// The same with SHA-384.
    case rs384 = "RS384"
    /// The same with SHA-512.
    case rs512 = "RS512"
    /// RSA with PSS, SHA-256.
    case ps256 = "PS256"
    /// The same with SHA-384.
    case ps384 = "PS384"
    /// The same with SHA-512.
    case ps512 = "PS512"
    /// ECDSA with P-256 and SHA-256.
    case es256 = "ES256"
    /// ECDSA with P-384 and SHA-384.
    case es384 = "ES384"
    /// With Ed25519.
    case edDSA = "EdDSA"
    /// The same by its newer name (RFC 9864).
    case ed25519 = "Ed25519"
    /// HMAC with SHA-256: a secret that both sides have.
    case hs256 = "HS256"
    /// The same with SHA-384.
    case hs384 = "HS384"
    /// The same with SHA-512.
    case hs512 = "HS512"

    /// How the signature is made.
    enum Family: Sendable {
        case rsaPKCS1, rsaPSS, ecdsa, edDSA, hmac
    }

    var family: Family {
        switch self {
        case .rs256, .rs384, .rs512: .rsaPKCS1
        case .ps256, .ps384, .ps512: .rsaPSS
        case .es256, .es384: .ecdsa
        case .edDSA, .ed25519: .edDSA
        case .hs256, .hs384, .hs512: .hmac
        }
    }

    /// The hash that is signed; EdDSA has its own.
    var digest: Digest {
        switch self {
        case .rs256, .ps256, .es256, .hs256, .edDSA, .ed25519: .sha256
        case .rs384, .ps384, .es384, .hs384: .sha384
        case .rs512, .ps512, .hs512: .sha512
        }
    }

    /// Whether who can verify can sign as well.
    public var isSymmetric: Bool { family == .hmac }

    /// What is accepted where nothing is said: all but the symmetric ones.
    public static let standard = allCases.filter { !$0.isSymmetric }
}
