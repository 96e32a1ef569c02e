/// Credentials that were found good, so that a fleet which reconnects is not hashed again.
import COpenSSL

/// A name and a password, as a keyed digest. Without the key, which dies with the process, a memory dump does not give
/// a fast way to guess passwords offline.
struct CredentialDigest: Hashable, Sendable {
    private let words: (UInt64, UInt64, UInt64, UInt64)

    /// HMAC-SHA256 over the name's length, the name and the password.
    init(user: String, password: [UInt8], key: [UInt8]) throws(ScryptError) {
        var input: [UInt8] = []
        let name = user.utf8
        input.reserveCapacity(name.count + password.count + 2)
        // The length first, so that ("ab", "c") and ("a", "bc") differ.
        input.append(UInt8(truncatingIfNeeded: name.count >> 8))
        input.append(UInt8(truncatingIfNeeded: name.count))
        input.append(contentsOf: name)
        input.append(contentsOf: password)
        var output = [UInt8](repeating: 0, count: 32)
        var length = 0
        let done = EVP_Q_mac(
            nil, "HMAC", nil, "SHA256", nil, key, key.count, input, input.count, &output, output.count, &length)
        input.withUnsafeMutableBytes { OPENSSL_cleanse($0.baseAddress, $0.count) }
        guard done != nil, length == 32 else {
            ERR_clear_error()
            throw .unavailable
        }
        words = output.withUnsafeBytes { bytes in
            (
                bytes.loadUnaligned(as: UInt64.self), bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
                bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self),
                bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self)
            )
        }
    }

    // Looking a digest up leaks nothing useful: who does not know the key cannot choose its bits.
    static func == (a: Self, b: Self) -> Bool { a.words == b.words }

    func hash(into hasher: inout Hasher) { hasher.combine(words.0) }
}

/// A bounded map from digests to user names; the oldest entry makes room.
struct VerifiedCache: Sendable {
    private let capacity: Int
    private var names: [CredentialDigest: String] = [:]
    /// The digests in the order they came; a ring once full.
    private var order: [CredentialDigest] = []
    private var oldest = 0

    init(capacity: Int) { self.capacity = capacity }

    var count: Int { names.count }

    func user(for digest: CredentialDigest) -> String? { names[digest] }

    mutating func insert(_ digest: CredentialDigest, user: String) {
        guard capacity > 0, names[digest] == nil else { return }
        if order.count < capacity {
            order.append(digest)
        } else {
            names[order[oldest]] = nil
            order[oldest] = digest
            oldest = (oldest + 1) % capacity
        }
        names[digest] = user
    }

    mutating func removeAll() { self = VerifiedCache(capacity: capacity) }
}
