/// Password hashes: scrypt, computed by libcrypto. One check costs tens of milliseconds and 16 MiB by design, so it
/// never runs on a lane.
import COpenSSL

/// What a scrypt computation costs. Memory is 128 · 2^logN · r bytes, time grows with memory and with `p`.
public struct ScryptCost: Sendable, Equatable {
    /// Binary logarithm of the number of rounds.
    public let logN: Int
    /// Block size.
    public let r: Int
    /// Parallelism, that is: repetitions.
    public let p: Int

    /// What new hashes cost: 16 MiB, about 50 ms.
    public static let standard = ScryptCost(logN: 14, r: 8, p: 1)
    /// The least that is accepted, cheap enough for tests.
    package static let least = ScryptCost(logN: 10, r: 8, p: 1)

    /// Memory of one computation in bytes.
    public var memoryBytes: Int { 128 * (1 << logN) * r }

    private init(logN: Int, r: Int, p: Int) {
        self.logN = logN
        self.r = r
        self.p = p
    }

    /// Makes a cost, or nil outside of what is accepted: a user file must neither carry toy hashes nor make a check
    /// take gigabytes or minutes.
    public init?(checkingLogN logN: Int, r: Int, p: Int) {
        guard (10...17).contains(logN), (1...16).contains(r), (1...8).contains(p) else { return nil }
        self.init(logN: logN, r: r, p: p)
        guard memoryBytes <= 128 << 20 else { return nil }
    }
}

/// Why a password could not be hashed, or a hash not be read. Never holds the password or the hash.
public enum ScryptError: Error, Equatable, CustomStringConvertible {
    /// libcrypto refused: out of memory, or a build without scrypt.
    case unavailable
    /// The text is not a hash of ours; the reason says why.
    case malformed(String)

    /// The reason.
    public var description: String {
        switch self {
        case .unavailable: "libcrypto could not compute scrypt (out of memory?)"
        case .malformed(let reason): reason
        }
    }
}

/// The stored form of a password. Its text is a PHC string, `$scrypt$ln=14,r=8,p=1$<salt>$<key>`; its description
/// shows neither salt nor key.
public struct ScryptHash: Sendable, Equatable, CustomStringConvertible {
    /// What a check costs.
    public let cost: ScryptCost
    private let salt: [UInt8]
    private let key: [UInt8]

    private static let saltBytes = 16
    private static let keyBytes = 32

    /// Hashes `password` with a fresh random salt.
    public init(password: [UInt8], cost: ScryptCost = .standard) throws(ScryptError) {
        let salt = try secureRandomBytes(Self.saltBytes)
        self.cost = cost
        self.salt = salt
        key = try Self.derive(password: password, salt: salt, cost: cost, bytes: Self.keyBytes)
    }

    /// Reads the PHC form; refuses costs out of bounds, see ``ScryptCost/init(checkingLogN:r:p:)``.
    public init(parsing text: some StringProtocol) throws(ScryptError) {
        let text = String(text)
        let parts = text.split(separator: "$", omittingEmptySubsequences: false)
        guard parts.count == 5, parts[0].isEmpty, parts[1] == "scrypt" else {
            throw .malformed("the hash must look like $scrypt$ln=14,r=8,p=1$<salt>$<key>; make it with `apus user add`")
        }
        cost = try Self.cost(parsing: parts[2])
        guard let salt = Base64.decode(parts[3]), (8...64).contains(salt.count) else {
            throw .malformed("the hash's salt must be 8 to 64 bytes in base64 without padding")
        }
        guard let key = Base64.decode(parts[4]), (16...64).contains(key.count) else {
            throw .malformed("the hash's key must be 16 to 64 bytes in base64 without padding")
        }
        self.salt = salt
        self.key = key
    }

    private static func cost(parsing text: Substring) throws(ScryptError) -> ScryptCost {
        var values: [Int] = []
        for (field, name) in zip(text.split(separator: ",", omittingEmptySubsequences: false), ["ln=", "r=", "p="]) {
            guard field.hasPrefix(name), let value = Int(field.dropFirst(name.count)) else { break }
            values.append(value)
        }
        guard values.count == 3, text.utf8.count(where: { $0 == UInt8(ascii: ",") }) == 2 else {
            throw .malformed("the hash's parameters must look like ln=14,r=8,p=1")
        }
        guard let cost = ScryptCost(checkingLogN: values[0], r: values[1], p: values[2]) else {
            throw .malformed(
                "the hash's parameters are out of bounds (ln 10 to 17, r 1 to 16, p 1 to 8, at most 128 MiB)")
        }
        return cost
    }

    /// The PHC form, as it stands in a user file.
    public var encoded: String {
        "$scrypt$ln=\(cost.logN),r=\(cost.r),p=\(cost.p)$\(Base64.encode(salt))$\(Base64.encode(key))"
    }

    /// The cost, and nothing secret.
    public var description: String { "ScryptHash(ln=\(cost.logN),r=\(cost.r),p=\(cost.p))" }

    /// Whether `password` is the hashed one. Takes as long for a wrong password as for the right one.
    /// - Throws: ``ScryptError`` when libcrypto cannot compute it, as for lack of memory; never for a wrong password.
    public func matches(_ password: [UInt8]) throws(ScryptError) -> Bool {
        let candidate = try Self.derive(password: password, salt: salt, cost: cost, bytes: key.count)
        return CRYPTO_memcmp(candidate, key, key.count) == 0
    }

    private static func derive(
        password: [UInt8], salt: [UInt8], cost: ScryptCost, bytes: Int
    ) throws(ScryptError) -> [UInt8] {
        var key = [UInt8](repeating: 0, count: bytes)
        // libcrypto wants room for its other blocks as well; our own bound is that of ScryptCost.
        let memory = UInt64(cost.memoryBytes + 256 * cost.r * (cost.p + 2) + (1 << 20))
        // In libcrypto 3 this is EVP_KDF "SCRYPT" behind a plain signature.
        let done = password.withUnsafeBytes { password in
            EVP_PBE_scrypt(
                // An empty array may have no address, and no address means "only check the parameters" to libcrypto.
                password.baseAddress.map { $0.assumingMemoryBound(to: CChar.self) } ?? emptyText, password.count,
                salt, salt.count, 1 << UInt64(cost.logN), UInt64(cost.r), UInt64(cost.p), memory, &key, bytes)
        }
        guard done == 1 else {
            ERR_clear_error()
            throw .unavailable
        }
        return key
    }

    private static let emptyPassword: StaticString = ""
    private static var emptyText: UnsafePointer<CChar> {
        UnsafeRawPointer(emptyPassword.utf8Start).assumingMemoryBound(to: CChar.self)
    }
}

/// `count` bytes from libcrypto's generator.
func secureRandomBytes(_ count: Int) throws(ScryptError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    guard RAND_bytes(&bytes, Int32(count)) == 1 else {
        ERR_clear_error()
        throw .unavailable
    }
    return bytes
}
