/// What has been used of quotas: one row for each rule and holder, shared by all lanes, in atomic numbers.

import Synchronization

/// Whose usage a row counts.
enum UsageHolder: Hashable, Sendable, CustomStringConvertible {
    case user(namespace: String, String?)
    case address(NetworkAddress)
    case listener(String)
    /// Those without a row of their own.
    case others

    var description: String {
        switch self {
        case .user(_, let name): name.map { "user '\($0)'" } ?? "the user without a name"
        case .address(let address): address.isIPv4 ? "address \(address)" : "network \(address)/64"
        case .listener(let name): "listener '\(name)'"
        case .others: "everybody without a row"
        }
    }
}

/// Where a row is found.
struct UsageKey: Hashable, Sendable {
    let rule: ObjectIdentifier
    let holder: UsageHolder
}

/// A rule with its limits, which may change while rows count against them.
final class QuotaLimits: Sendable {
    /// What a bucket looks like, in nanoseconds of the lanes' clock.
    final class Rate: Sendable {
        /// For one token, as the bits of a Double; infinite for a rate of 0.
        private let interval = Atomic<UInt64>(0)
        /// What the bucket holds: the burst.
        private let burst = Atomic<UInt64>(0)

        func set(_ rate: Int, burst tokens: Int) {
            let interval = rate > 0 ? 1e9 / Double(rate) : .infinity
            self.interval.store(interval.bitPattern, ordering: .relaxed)
            burst.store(rate > 0 ? UInt64(interval * Double(max(tokens, 1))) : 0, ordering: .relaxed)
        }

        @inline(__always)
        var shape: TokenBucket.Shape {
            TokenBucket.Shape(
                interval: Double(bitPattern: interval.load(ordering: .relaxed)), burst: burst.load(ordering: .relaxed))
        }
    }

    /// The rule's selectors; its limits may have changed.
    let rule: QuotaRule
    let counting: QuotaRule.Counting
    private let named: Atomic<Int>
    private let connections = Atomic<Int>(.max)
    private let sessions = Atomic<Int>(.max)
    private let subscriptions = Atomic<Int>(.max)
    private let payload = Atomic<Int>(.max)
    private let retainedEvents = Atomic<Int>(.max)
    private let retainedBytes = Atomic<Int>(.max)
    private let connectionRate = Atomic<Int>(.max)
    private let publishRate = Atomic<Int>(.max)
    private let publishBytes = Atomic<Int>(.max)
    let connectionBucket = Rate()
    let publishBucket = Rate()
    let bytesBucket = Rate()

    /// A rate that is not limited.
    private static let unlimited = 1_000_000_000_000

    init(_ rule: QuotaRule, number: Int) {
        self.rule = rule
        counting = rule.counting
        named = Atomic(0)
        change(rule, number: number)
    }

    func hasSelectors(of other: QuotaRule) -> Bool {
        rule.users == other.users && rule.groups == other.groups && rule.listeners == other.listeners
            && rule.addresses == other.addresses
    }

    /// Takes over another rule's limits. What is no longer named is not limited any more.
    func change(_ rule: QuotaRule, number: Int) {
        var named = 0
        for resource in QuotaResource.allCases {
            let limit = rule.limits[resource]
            if limit != nil { named |= 1 << resource.rawValue }
            set(resource, limit.map { max($0, 0) })
        }
        self.named.store(named, ordering: .relaxed)
    }

    func names(_ resource: QuotaResource) -> Bool {
        named.load(ordering: .relaxed) >> resource.rawValue & 1 == 1
    }

    private func set(_ resource: QuotaResource, _ limit: Int?) {
        let rate = min(limit ?? .max, Self.unlimited)
        switch resource {
        case .connections: connections.store(limit ?? .max, ordering: .relaxed)
        case .sessions: sessions.store(limit ?? .max, ordering: .relaxed)
        case .subscriptions: subscriptions.store(limit ?? .max, ordering: .relaxed)
        case .payload: payload.store(limit ?? .max, ordering: .relaxed)
        case .retainedEvents: retainedEvents.store(limit ?? .max, ordering: .relaxed)
        case .retainedBytes: retainedBytes.store(limit ?? .max, ordering: .relaxed)
        case .connectionRate:
            connectionRate.store(rate, ordering: .relaxed)
            // Devices come back together after an outage.
            connectionBucket.set(rate, burst: max(rate * 2, 10))
        case .publishRate:
            publishRate.store(rate, ordering: .relaxed)
            publishBucket.set(rate, burst: rate)
        case .publishBytes:
            publishBytes.store(rate, ordering: .relaxed)
            bytesBucket.set(rate, burst: rate)
        }
    }

    subscript(resource: QuotaResource) -> Int {
        switch resource {
        case .connections: connections.load(ordering: .relaxed)
        case .sessions: sessions.load(ordering: .relaxed)
        case .subscriptions: subscriptions.load(ordering: .relaxed)
        case .payload: payload.load(ordering: .relaxed)
        case .retainedEvents: retainedEvents.load(ordering: .relaxed)
        case .retainedBytes: retainedBytes.load(ordering: .relaxed)
        case .connectionRate: connectionRate.load(ordering: .relaxed)
        case .publishRate: publishRate.load(ordering: .relaxed)
        case .publishBytes: publishBytes.load(ordering: .relaxed)
        }
    }
}

/// A bucket of tokens in one word: when it will be full again. Taking is one exchange, without a lock; lanes whose
/// clocks differ by a pass only see it a pass earlier or later.
struct TokenBucket: ~Copyable {
    /// How fast it fills, and how much it holds, in nanoseconds.
    struct Shape {
        var interval: Double
        var burst: UInt64
    }

    /// Nanoseconds of the lanes' clock.
    private let fullAt = Atomic<UInt64>(0)

    /// What may be owed, in seconds: nobody waits longer, whatever was taken at once.
    static let maxDebtSeconds: UInt64 = 10

    @inline(__always)
    private static func nanoseconds(_ milliseconds: UInt64) -> UInt64 { milliseconds &* 1_000_000 }

    /// Takes `count` tokens whole if there is one, and may leave a debt: so the rate holds whatever the size of runs.
    /// - Parameter inAnyCase: whether they are taken even when there is none.
    /// - Returns: whether there was one.
    @inline(__always)
    func take(_ count: Int, _ shape: Shape, _ now: UInt64, inAnyCase: Bool = false) -> Bool {
        let now = Self.nanoseconds(now)
        let cost = UInt64(min(shape.interval * Double(count), 1e15))
        let most = now &+ shape.burst &+ Self.maxDebtSeconds &* 1_000_000_000
        var known = fullAt.load(ordering: .relaxed)
        while true {
            let from = max(known, now)
            let hasOne = from &- now &+ UInt64(min(shape.interval, 1e15)) <= shape.burst
            guard hasOne || inAnyCase else { return false }
            let (done, other) = fullAt.weakCompareExchange(
                expected: known, desired: max(min(from &+ cost, most), known), ordering: .relaxed)
            if done { return hasOne }
            known = other
        }
    }

    /// Whole tokens that are there.
    func left(_ shape: Shape, _ now: UInt64) -> Int {
        let now = Self.nanoseconds(now)
        let owed = max(fullAt.load(ordering: .relaxed), now) - now
        guard owed < shape.burst, shape.interval.isFinite else { return 0 }
        return Int(min(Double(shape.burst - owed) / shape.interval, 1e15))
    }

    /// Milliseconds until `count` tokens are there, at least one, and not more than the bucket holds.
    func wait(for count: Int, _ shape: Shape, _ now: UInt64) -> UInt64 {
        guard shape.interval.isFinite else { return Self.maxDebtSeconds * 1_000 }
        let now = Self.nanoseconds(now)
        let wanted = min(UInt64(min(shape.interval * Double(max(count, 1)), 1e15)), shape.burst)
        let ready = max(fullAt.load(ordering: .relaxed), now) - now + wanted
        return ready <= shape.burst ? 0 : (ready - shape.burst + 999_999) / 1_000_000
    }

    /// Whether every token is there.
    func isFull(_ now: UInt64) -> Bool { fullAt.load(ordering: .relaxed) <= Self.nanoseconds(now) }
}

/// What one holder has used of one rule. Counts may be above a limit that was lowered.
final class Usage: Sendable {
    let limits: QuotaLimits
    let holder: UsageHolder
    private let connections = Atomic<Int>(0)
    private let sessions = Atomic<Int>(0)
    private let subscriptions = Atomic<Int>(0)
    private let retainedEvents = Atomic<Int>(0)
    private let retainedBytes = Atomic<Int>(0)
    private let connectionBucket = TokenBucket()
    private let publishBucket = TokenBucket()
    private let bytesBucket = TokenBucket()
    /// Which resources' refusals have been recorded since when: milliseconds, and a bit for each resource.
    private let noted = Atomic<UInt64>(0)

    /// For how long a refusal that has been recorded is not recorded again.
    private static let notedMilliseconds: UInt64 = 10_000

    init(_ limits: QuotaLimits, _ holder: UsageHolder) {
        self.limits = limits
        self.holder = holder
    }

    var key: UsageKey { UsageKey(rule: ObjectIdentifier(limits), holder: holder) }

    // MARK: What there is

    /// What is used of a resource that is counted.
    func count(_ resource: QuotaResource) -> Int {
        switch resource {
        case .connections: connections.load(ordering: .relaxed)
        case .sessions: sessions.load(ordering: .relaxed)
        case .subscriptions: subscriptions.load(ordering: .relaxed)
        case .retainedEvents: retainedEvents.load(ordering: .relaxed)
        case .retainedBytes: retainedBytes.load(ordering: .relaxed)
        case .connectionRate, .publishRate, .publishBytes, .payload: 0
        }
    }

    /// Counts `count` more, unless that is more than the limit.
    func add(_ resource: QuotaResource, _ count: Int = 1, inAnyCase: Bool = false) -> Bool {
        let limit = limits[resource]
        let total = change(resource, count)
        guard total > limit, !inAnyCase else { return true }
        _ = change(resource, -count)
        return false
    }

    /// Counts less.
    func subtract(_ resource: QuotaResource, _ count: Int = 1) { _ = change(resource, -count) }

    private func change(_ resource: QuotaResource, _ count: Int) -> Int {
        switch resource {
        case .connections: connections.add(count, ordering: .relaxed).newValue
        case .sessions: sessions.add(count, ordering: .relaxed).newValue
        case .subscriptions: subscriptions.add(count, ordering: .relaxed).newValue
        case .retainedEvents: retainedEvents.add(count, ordering: .relaxed).newValue
        case .retainedBytes: retainedBytes.add(count, ordering: .relaxed).newValue
        case .connectionRate, .publishRate, .publishBytes, .payload: 0
        }
    }

    // MARK: What comes

    /// Takes tokens of a rate.
    @inline(__always)
    func take(_ count: Int, _ resource: QuotaResource, _ now: UInt64, inAnyCase: Bool = false) -> Bool {
        switch resource {
        case .publishRate: publishBucket.take(count, limits.publishBucket.shape, now, inAnyCase: inAnyCase)
        case .publishBytes: bytesBucket.take(count, limits.bytesBucket.shape, now, inAnyCase: inAnyCase)
        default: connectionBucket.take(count, limits.connectionBucket.shape, now, inAnyCase: inAnyCase)
        }
    }

    /// Tokens left of what is published.
    func left(_ resource: QuotaResource, _ now: UInt64) -> Int {
        resource == .publishRate
            ? publishBucket.left(limits.publishBucket.shape, now) : bytesBucket.left(limits.bytesBucket.shape, now)
    }

    /// Milliseconds until a hundredth of a second's tokens are there, at least one: so that nobody is woken for each.
    func wait(_ resource: QuotaResource, _ now: UInt64) -> UInt64 {
        let rate = limits[resource]
        return resource == .publishRate
            ? publishBucket.wait(for: rate / 100, limits.publishBucket.shape, now)
            : bytesBucket.wait(for: rate / 100, limits.bytesBucket.shape, now)
    }

    /// Whether nothing of any rate is used.
    func isFull(_ now: UInt64) -> Bool {
        connectionBucket.isFull(now) && publishBucket.isFull(now) && bytesBucket.isFull(now)
    }

    /// Whether a refusal should be recorded: the first of its resource in a while.
    func isWorthNoting(_ resource: QuotaResource, _ now: UInt64) -> Bool {
        let shift = UInt64(QuotaResource.allCases.count)
        let bit: UInt64 = 1 << UInt64(resource.rawValue)
        let known = noted.load(ordering: .relaxed)
        let isOver = known == 0 || (now << shift) &- ((known >> shift) << shift) >= (Self.notedMilliseconds << shift)
        let next = isOver ? now << shift | bit : known | bit
        guard next != known else { return false }
        return noted.compareExchange(expected: known, desired: next, ordering: .relaxed).exchanged
    }
}

/// The rows that decide for one principal, by resource. Shared with what counts on them.
final class Allowance: Sendable {
    let quotas: Quotas
    let connections: Usage?
    let connectionRate: Usage?
    let sessions: Usage?
    let subscriptions: Usage?
    let publishRate: Usage?
    let publishBytes: Usage?
    let payload: Usage?
    let retainedEvents: Usage?
    let retainedBytes: Usage?

    /// - Parameter rows: by the resources' numbers.
    init(_ rows: [Usage?], of quotas: Quotas) {
        self.quotas = quotas
        connections = rows[QuotaResource.connections.rawValue]
        connectionRate = rows[QuotaResource.connectionRate.rawValue]
        sessions = rows[QuotaResource.sessions.rawValue]
        subscriptions = rows[QuotaResource.subscriptions.rawValue]
        publishRate = rows[QuotaResource.publishRate.rawValue]
        publishBytes = rows[QuotaResource.publishBytes.rawValue]
        payload = rows[QuotaResource.payload.rawValue]
        retainedEvents = rows[QuotaResource.retainedEvents.rawValue]
        retainedBytes = rows[QuotaResource.retainedBytes.rawValue]
    }

    /// Whether publishing is limited in any way.
    var limitsPublishing: Bool { publishRate != nil || publishBytes != nil || payload != nil || limitsRetained }
    var limitsRetained: Bool { retainedEvents != nil || retainedBytes != nil }
}

/// Keeps a connection counted for as long as it lives; belongs to its ``Link`` and goes with it.
public final class QuotaStay: Sendable {
    private let counted: Usage?
    /// Rows that must not be forgotten meanwhile.
    private let keeping: Usage?
    private let allowance: Allowance?

    init(counted: Usage?, keeping: Usage? = nil, allowance: Allowance? = nil) {
        self.counted = counted
        self.keeping = keeping
        self.allowance = allowance
    }

    /// Whether it is this row that the connection is counted on.
    func counts(on usage: Usage?) -> Bool { usage != nil && counted === usage }

    deinit { counted?.subtract(.connections) }
}

/// The subscriptions of one port, as they count for somebody. Confined to the port's lane.
final class SubscriptionUsage {
    let usage: Usage
    private var count = 0

    init(_ usage: Usage) { self.usage = usage }

    deinit { usage.subtract(.subscriptions, count) }

    func add() -> Bool {
        guard usage.add(.subscriptions) else { return false }
        count += 1
        return true
    }

    func remove() {
        // One that the node itself made was not counted.
        guard count > 0 else { return }
        usage.subtract(.subscriptions)
        count -= 1
    }
}
