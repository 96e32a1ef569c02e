/// A signed token (JWT, RFC 7519, in the compact form of RFC 7515 §3.1), read but not yet believed.

/// Why a token proves nothing.
struct TokenRefusal: Error, Equatable {
    /// For the audit record: says what the client is not told.
    var reason: String
    /// Whether the issuer has signed it.
    var isSigned: Bool
    /// Whether it counts as a failure: not where somebody is late or at the wrong door, or where keys are not to be
    /// had.
    var isGuess: Bool

    init(_ reason: String, isSigned: Bool = false, isGuess: Bool? = nil) {
        self.reason = reason
        self.isSigned = isSigned
        self.isGuess = isGuess ?? !isSigned
    }
}

/// The parts of a token.
struct Token {
    /// The whole text.
    static let maxBytes = 16 << 10

    let algorithm: TokenAlgorithm
    /// The name of the key; nil when the token does not say.
    let keyIdentifier: String?
    let claims: [String: StrictJSON]
    /// What is signed.
    let signedBytes: [UInt8]
    let signature: [UInt8]

    /// Whether a password looks like a token: base64url of an object that begins with a quote, and two dots.
    static func isLike(_ bytes: [UInt8]) -> Bool {
        bytes.starts(with: "eyJ".utf8) && bytes.count(where: { $0 == UInt8(ascii: ".") }) == 2
    }

    /// Takes a token apart; refuses everything that would make two readers disagree about it.
    init(parsing bytes: [UInt8]) throws(TokenRefusal) {
        guard bytes.count <= Self.maxBytes else { throw TokenRefusal("it is larger than \(Self.maxBytes) bytes") }
        let parts = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard parts.count == 3 else {
            throw TokenRefusal("it is no signed token: three parts with dots between are expected")
        }
        let header = try Self.object(parts[0], "header")
        algorithm = try Self.algorithm(header)
        if header["crit"] != nil { throw TokenRefusal("its header asks for extensions ('crit')") }
        if let type = header["typ"] {
            // RFC 8725 §3.11: a token for another purpose, as for logging out, is none for this one.
            let word = type.text?.lowercased() ?? ""
            let name = word.hasPrefix("application/") ? String(word.dropFirst("application/".utf8.count)) : word
            guard name == "jwt" || name == "at+jwt" else {
                throw TokenRefusal("it is of another type than JWT or at+jwt")
            }
        }
        if let identifier = header["kid"] {
            guard let text = identifier.text, text.utf8.count <= 256 else {
                throw TokenRefusal("its key's name ('kid') is no text of at most 256 bytes")
            }
            keyIdentifier = text
        } else {
            keyIdentifier = nil
        }
        claims = try Self.object(parts[1], "claims")
        guard let signature = Base64.decode(parts[2], .url) else {
            throw TokenRefusal("its signature is not base64url")
        }
        self.signature = signature
        signedBytes = Array(bytes[..<parts[1].endIndex])
    }

    private static func object(_ part: ArraySlice<UInt8>, _ name: String) throws(TokenRefusal) -> [String: StrictJSON] {
        guard let text = Base64.decode(part, .url) else { throw TokenRefusal("its \(name) is not base64url") }
        do throws(StrictJSON.Failure) {
            guard let members = try StrictJSON(text[...]).members else {
                throw StrictJSON.Failure("a JSON object is expected")
            }
            return members
        } catch {
            throw TokenRefusal("its \(name): \(error.reason)")
        }
    }

    private static func algorithm(_ header: [String: StrictJSON]) throws(TokenRefusal) -> TokenAlgorithm {
        guard let name = header["alg"]?.text else { throw TokenRefusal("its header names no algorithm") }
        if name.lowercased() == "none" { throw TokenRefusal("algorithm none is never accepted") }
        guard let algorithm = TokenAlgorithm(rawValue: name) else {
            throw TokenRefusal("algorithm '\(name.prefix(16))' is unknown")
        }
        return algorithm
    }
}
