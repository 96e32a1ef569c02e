/// Credentials that were found good, so that a fleet which reconnects is not checked again.
import COpenSSL

/// A name and a password, as a keyed digest. Without the key, which dies with the process, a memory dump does not give
/// a fast way to guess passwords offline.
struct CredentialDigest: Hashable, Sendable {
    private let words: (UInt64, UInt64, UInt64, UInt64)

    /// HMAC-SHA256 over the name's length, the name and the password. Tokens have no name: no user has an empty one.
    init(user: String, password: [UInt8], key: [UInt8]) throws(ScryptError) {
        var input: [UInt8] = []
        let name = user.utf8
        input.reserveCapacity(name.count + password.count + 2)
        // The length first, so that ("ab", "c") and ("a", "bc") differ.
        input.append(UInt8(truncatingIfNeeded: name.count >> 8))
        input.append(UInt8(truncatingIfNeeded: name.count))
        input.append(contentsOf: name)
        input.append(contentsOf: password)
        defer { input.withUnsafeMutableBytes { OPENSSL_cleanse($0.baseAddress, $0.count) } }
        let output = try Digest.sha256.hmac(key: key, input)
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

/// A bounded map; the oldest entry makes room.
struct BoundedCache<Key: Hashable & Sendable, Value: Sendable>: Sendable {
    private let capacity: Int
    private var values: [Key: Value] = [:]
    /// The keys in the order they came; a ring once full. Each key of `values` is here once.
    private var order: [Key] = []
    private var oldest = 0

    init(capacity: Int) { self.capacity = capacity }

    var count: Int { values.count }

    subscript(key: Key) -> Value? { values[key] }

    /// Adds an entry, or puts another value in the place of the one that is there.
    mutating func insert(_ key: Key, _ value: Value) {
        guard capacity > 0 else { return }
        if values.updateValue(value, forKey: key) != nil { return }
        if order.count < capacity {
            order.append(key)
        } else {
            values[order[oldest]] = nil
            order[oldest] = key
            oldest = (oldest + 1) % capacity
        }
    }

    /// Keeps only the entries that `isKept` says yes to. Takes time for all of them.
    mutating func keep(_ isKept: (Value) -> Bool) {
        var kept = BoundedCache(capacity: capacity)
        for index in order.indices {
            let key = order[(oldest + index) % order.count]
            if let value = values[key], isKept(value) { kept.insert(key, value) }
        }
        self = kept
    }

    mutating func removeAll() { self = BoundedCache(capacity: capacity) }
}
