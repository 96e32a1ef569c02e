/// What is stored of a password for SCRAM-SHA-256 (RFC 5802 §3, RFC 7677): enough to check a proof, not enough to make
/// one.
import COpenSSL

/// A verifier. Its text is `$scram-sha-256$i=20000$<salt>$<StoredKey>$<ServerKey>`, base64 without padding; its
/// description shows none of the secrets.
///
/// PBKDF2 takes no memory, so who has stolen a user file guesses passwords faster with a verifier than with the scrypt
/// hash beside it: a user has one only where it was asked for.
public struct SCRAMVerifier: Sendable, Equatable, CustomStringConvertible {
    /// Rounds of PBKDF2 that a client computes at each login.
    public let iterations: Int
    let salt: [UInt8]
    let storedKey: [UInt8]
    let serverKey: [UInt8]

    /// The rounds of new verifiers unless told otherwise.
    public static let standardIterations = 20_000
    /// What is accepted: RFC 7677 asks for 4,096 at least; clients of small devices give up long before the upper
    /// bound.
    public static let iterationRange = 4_096...1_000_000
    static let saltBytes = 16

    /// Makes a verifier with a fresh random salt.
    public init(password: [UInt8], iterations: Int = standardIterations) throws(ScryptError) {
        try self.init(password: password, salt: secureRandomBytes(Self.saltBytes), iterations: iterations)
    }

    /// The same with a given salt.
    package init(password: [UInt8], salt: [UInt8], iterations: Int) throws(ScryptError) {
        if let reason = Self.reasonAgainst(password: password) { throw .malformed(reason) }
        guard Self.iterationRange.contains(iterations) else { throw .malformed(Self.iterationsReason) }
        var salted = [UInt8](repeating: 0, count: Digest.sha256.size)
        let done = password.withUnsafeBytes { bytes in
            PKCS5_PBKDF2_HMAC(
                bytes.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(bytes.count), salt, Int32(salt.count),
                Int32(iterations), EVP_sha256(), Int32(salted.count), &salted)
        }
        defer { salted.withUnsafeMutableBytes { OPENSSL_cleanse($0.baseAddress, $0.count) } }
        guard done == 1 else {
            ERR_clear_error()
            throw .unavailable
        }
        self.iterations = iterations
        self.salt = salt
        storedKey = try Digest.sha256(Digest.sha256.hmac(key: salted, Array("Client Key".utf8)))
        serverKey = try Digest.sha256.hmac(key: salted, Array("Server Key".utf8))
    }

    /// One that no password fits, for who has none.
    init(fakeSalt salt: [UInt8], key: [UInt8], iterations: Int) {
        self.iterations = iterations
        self.salt = salt
        storedKey = key
        serverKey = key
    }

    /// What is wrong with a password, or nil. SASLprep (RFC 4013) is reduced to this: control characters are refused,
    /// and all else is taken byte for byte, as MQTT and HTTP Basic take it. A client that prepares passwords agrees
    /// with that for ASCII, and for other text in normal form KC.
    public static func reasonAgainst(password: [UInt8]) -> String? {
        if password.isEmpty { return "a password for SCRAM must not be empty" }
        if password.contains(where: { $0 < 0x20 || $0 == 0x7F }) {
            return "a password for SCRAM must not contain control characters"
        }
        guard String(validating: password, as: UTF8.self) != nil else { return "a password for SCRAM must be UTF-8" }
        return nil
    }

    private static let iterationsReason =
        "the verifier's iterations must be from \(iterationRange.lowerBound) to \(iterationRange.upperBound)"

    /// Reads the text of ``encoded``.
    public init(parsing text: some StringProtocol) throws(ScryptError) {
        let parts = String(text).split(separator: "$", omittingEmptySubsequences: false)
        guard parts.count == 6, parts[0].isEmpty, parts[1] == "scram-sha-256", parts[2].hasPrefix("i=") else {
            throw .malformed(
                "the verifier must look like $scram-sha-256$i=20000$<salt>$<key>$<key>; make it with "
                    + "`apus user add --scram`")
        }
        guard let iterations = Int(parts[2].dropFirst(2)), Self.iterationRange.contains(iterations) else {
            throw .malformed(Self.iterationsReason)
        }
        guard let salt = Base64.decode(parts[3]), (8...64).contains(salt.count) else {
            throw .malformed("the verifier's salt must be 8 to 64 bytes in base64 without padding")
        }
        guard let storedKey = Base64.decode(parts[4]), let serverKey = Base64.decode(parts[5]),
            storedKey.count == Digest.sha256.size, serverKey.count == Digest.sha256.size
        else {
            throw .malformed("the verifier's keys must be 32 bytes each in base64 without padding")
        }
        self.iterations = iterations
        self.salt = salt
        self.storedKey = storedKey
        self.serverKey = serverKey
    }

    /// The text as it stands in a user file.
    public var encoded: String {
        let texts = [salt, storedKey, serverKey].map { Base64.encode($0) }
        return "$scram-sha-256$i=\(iterations)$" + texts.joined(separator: "$")
    }

    /// The cost, and nothing secret.
    public var description: String { "SCRAMVerifier(i=\(iterations))" }
}
