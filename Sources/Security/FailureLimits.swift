/// How often somebody may be wrong: by address, by name, and by both. Guessing becomes slow; nobody is locked out of
/// what was verified before, and nobody fills the memory with names.

/// How many failures are forgiven at once, and after what time one is forgotten.
public struct FailureBounds: Sendable, Equatable {
    /// Failures in a row.
    public var burst: Int
    /// One failure is forgotten in this time.
    public var milliseconds: Int

    /// Makes bounds.
    public init(burst: Int, milliseconds: Int) {
        self.burst = burst
        self.milliseconds = milliseconds
    }

    /// From one address, with whatever names.
    public static let address = FailureBounds(burst: 20, milliseconds: 5_000)
    /// From one address with one name.
    public static let nameAndAddress = FailureBounds(burst: 10, milliseconds: 10_000)
    /// With one name, from wherever.
    public static let name = FailureBounds(burst: 100, milliseconds: 1_000)
}

/// Confined to a lock. Times are monotonic nanoseconds, brought by the caller.
struct FailureLimits: Sendable {
    /// Entries of each table.
    static let maxEntries = 65_536

    private var byAddress: FailureTable
    private var byNameAndAddress: FailureTable
    private var byName: FailureTable
    /// Addresses from which a user has logged in: failures elsewhere are no reason to keep the user out here.
    private var known: BoundedCache<UInt64, Void>

    init(
        address: FailureBounds = .address, nameAndAddress: FailureBounds = .nameAndAddress,
        name: FailureBounds = .name, entries: Int = maxEntries
    ) {
        byAddress = FailureTable(address, entries)
        byNameAndAddress = FailureTable(nameAndAddress, entries)
        byName = FailureTable(name, entries)
        known = BoundedCache(capacity: entries)
    }

    /// Why the next attempt is not even looked at; nil when it is.
    /// - Parameter name: nil where a failure is no guess about somebody, as with tokens.
    func reasonAgainst(name: String?, address: String, now: UInt64) -> String? {
        guard let name else {
            return byAddress.isFull(Self.key("", address), now) ? "too many failures from this address" : nil
        }
        let pair = Self.key(name, address)
        if byNameAndAddress.isFull(pair, now) { return "too many failures with this name from this address" }
        if known[pair] != nil { return nil }
        if byAddress.isFull(Self.key("", address), now) { return "too many failures from this address" }
        if byName.isFull(Self.key(name, ""), now) { return "too many failures with this name" }
        return nil
    }

    /// Somebody was wrong.
    mutating func failed(name: String?, address: String, now: UInt64) {
        byAddress.add(Self.key("", address), now)
        guard let name else { return }
        byNameAndAddress.add(Self.key(name, address), now)
        byName.add(Self.key(name, ""), now)
    }

    /// Somebody was right: what was mistyped before does not count. What else came from the address does, or who has
    /// one account could guess at the others.
    mutating func succeeded(name: String, address: String) {
        let pair = Self.key(name, address)
        byNameAndAddress.remove(pair)
        known.insert(pair, ())
    }

    /// Entries of all tables.
    var count: Int { byAddress.count + byNameAndAddress.count + byName.count }

    /// SipHash with the process's random key: nobody can choose names that collide.
    private static func key(_ name: String, _ address: String) -> UInt64 {
        var hasher = Hasher()
        hasher.combine(name)
        hasher.combine(address)
        return UInt64(bitPattern: Int64(hasher.finalize()))
    }
}

/// Leaky buckets. For each the moment when it will be empty says all about it.
private struct FailureTable: Sendable {
    private let interval: UInt64
    private let depth: UInt64
    private let capacity: Int
    /// When the bucket will be empty.
    private var emptyAt: [UInt64: UInt64] = [:]

    init(_ bounds: FailureBounds, _ capacity: Int) {
        interval = UInt64(max(1, bounds.milliseconds)) * 1_000_000
        depth = interval * UInt64(max(1, bounds.burst))
        self.capacity = max(8, capacity)
    }

    var count: Int { emptyAt.count }

    /// Whether one more failure would overflow the bucket.
    func isFull(_ key: UInt64, _ now: UInt64) -> Bool {
        guard let at = emptyAt[key], at > now else { return false }
        return at - now > depth - interval
    }

    mutating func add(_ key: UInt64, _ now: UInt64) {
        let at = max(emptyAt[key] ?? 0, now)
        if emptyAt[key] == nil, emptyAt.count >= capacity { makeRoom(now) }
        // A little beyond the rim: who was admitted before the bucket was full may fail after.
        emptyAt[key] = min(at + interval, now + depth + interval)
    }

    mutating func remove(_ key: UInt64) { emptyAt[key] = nil }

    /// Gives up the empty ones, and if that is too little the emptiest eighth: so the cost is spread over as many
    /// failures as make it necessary again.
    private mutating func makeRoom(_ now: UInt64) {
        emptyAt = emptyAt.filter { $0.value > now }
        let surplus = emptyAt.count - capacity * 7 / 8
        guard surplus > 0 else { return }
        let emptiest = emptyAt.sorted { $0.value < $1.value }.prefix(surplus)
        for (key, _) in emptiest { emptyAt[key] = nil }
    }
}
