/// Quotas: what one user, one address or one listener may have of the node. Rules are ordered; for each resource the
/// first rule that matches and names it decides. `docs/security.md` has the whole picture.

import Synchronization

/// What a quota can limit.
public enum QuotaResource: Int, CaseIterable, Sendable {
    /// Connections at once.
    case connections
    /// Connections made in a second.
    case connectionRate
    /// Sessions, connected and absent.
    case sessions
    /// Subscriptions of all sessions.
    case subscriptions
    /// Events published in a second.
    case publishRate
    /// Bytes published in a second, as they were received.
    case publishBytes
    /// Bytes of one event's payload.
    case payload
    /// Topics whose retained event was published.
    case retainedEvents
    /// Bytes of these events, as the limit of the node counts them (``Event/cost``).
    case retainedBytes

    /// The key in a rule of the configuration, and the name in records and metrics.
    public var key: String {
        switch self {
        case .connections: "max_connections"
        case .connectionRate: "connection_rate"
        case .sessions: "max_sessions"
        case .subscriptions: "max_subscriptions"
        case .publishRate: "publish_rate"
        case .publishBytes: "publish_bytes"
        case .payload: "max_payload"
        case .retainedEvents: "max_retained_events"
        case .retainedBytes: "max_retained"
        }
    }
}

/// One line of the quotas, as configured. Selectors that are empty select everything; those that are given must all
/// fit.
public struct QuotaRule: Sendable, Equatable {
    /// Users the rule is for; `anonymous` means clients without a user name, who are one user together.
    public var users: [String] = []
    /// Groups the rule is for.
    public var groups: [String] = []
    /// Listeners the rule is for, by name.
    public var listeners: [String] = []
    /// Addresses the rule is for. A Unix socket has none.
    public var addresses: [AddressRange] = []
    /// What the rule limits. A rate of 0 lets nothing through, like any limit of 0.
    public var limits: [QuotaResource: Int] = [:]

    /// A rule that limits nothing yet.
    public init() {}

    /// Makes a rule.
    public init(
        users: [String] = [], groups: [String] = [], listeners: [String] = [], addresses: [AddressRange] = [],
        limits: [QuotaResource: Int]
    ) {
        self.users = users
        self.groups = groups
        self.listeners = listeners
        self.addresses = addresses
        self.limits = limits
    }

    /// What a rule counts by.
    public enum Counting: Sendable, Equatable { case user, address, listener }

    /// Every user has an allowance of its own where the rule is about users or about everybody; else every address,
    /// IPv6 by networks of 64 bits; else the listener.
    public var counting: Counting {
        if !users.isEmpty || !groups.isEmpty { return .user }
        if !addresses.isEmpty { return .address }
        return listeners.isEmpty ? .user : .listener
    }

    fileprivate func selects(listener: String, address: NetworkAddress?) -> Bool {
        guard listeners.isEmpty || listeners.contains(listener) else { return false }
        guard !addresses.isEmpty else { return true }
        return address.map { address in addresses.contains { $0.contains(address) } } ?? false
    }

    fileprivate func selects(_ identity: Identity) -> Bool {
        guard users.isEmpty || users.contains(identity.user ?? Self.anonymous) else { return false }
        return groups.isEmpty || groups.contains(where: identity.groups.contains)
    }

    /// What clients without a user name are called.
    fileprivate static let anonymous = "anonymous"
}

/// The quotas of a node and what has been used of them, over all lanes and listeners.
///
/// Threading: any thread. Looked at when somebody connects or logs in; what is counted for each event is found there
/// once and kept by its ``Principal``.
public final class Quotas: Sendable {
    private struct Table: ~Copyable {
        var rules: [QuotaLimits] = []
        var places: [UsageKey: Int] = [:]
        var rows: [Usage] = []
        /// Where the sweep goes on.
        var cursor = 0
        /// What all those share that found the table full, by rule.
        var shared: [Usage] = []
    }

    private let table: Mutex<Table>
    private let hasRules: Atomic<Bool>
    /// The lanes' time, as of the last look.
    private let clock = Atomic<UInt64>(0)
    private let maxRows: Int
    /// Who hears of what was refused; nil for nobody.
    let audit: (any AuditSink)?
    /// Where the rules stand.
    private let section: String

    /// Rows that are looked at whenever one is added: more than one, so that what is unused goes faster than it comes.
    private static let sweptAtOnce = 4
    /// Rows that ``sweep(now:)`` looks at.
    private static let sweptByChore = 4_096

    /// Makes the quotas.
    /// - Parameters:
    ///   - maxRows: users, addresses and listeners that are counted at once; those beyond share one allowance for each
    ///     rule.
    ///   - section: where the rules stand, for the record of a refusal.
    public init(
        _ rules: [QuotaRule], audit: (any AuditSink)? = nil, section: String = "security.quotas", maxRows: Int = 200_000
    ) {
        self.audit = audit
        self.section = section
        self.maxRows = max(maxRows, 1)
        hasRules = Atomic(!rules.isEmpty)
        var table = Table()
        table.rules = rules.enumerated().map { QuotaLimits($1, number: $0) }
        table.shared = table.rules.map { Usage($0, .others) }
        self.table = Mutex(table)
    }

    /// Replaces the rules. A rule whose selectors are as before keeps what was counted, and its new limits hold at
    /// once, for connections that are there as well; what it names for the first time, and other rules, hold for those
    /// who log in from now on. What is there already stays, even if it is too much now.
    public func reload(_ rules: [QuotaRule]) {
        table.withLock { table in
            var old = table.rules
            table.rules = rules.enumerated().map { number, rule in
                guard let place = old.firstIndex(where: { $0.hasSelectors(of: rule) }) else {
                    return QuotaLimits(rule, number: number)
                }
                let kept = old.remove(at: place)
                kept.change(rule, number: number)
                return kept
            }
            let shared = table.shared
            table.shared = table.rules.map { rule in shared.first { $0.limits === rule } ?? Usage(rule, .others) }
        }
        hasRules.store(!rules.isEmpty, ordering: .relaxed)
    }

    /// Users, addresses and listeners that are counted now.
    public var rowCount: Int { table.withLock { $0.rows.count } }

    // MARK: Before anybody says who it is

    /// Counts a connection for its address or its listener: by the first rule for each resource that selects addresses
    /// or listeners, but no users or groups.
    /// - Parameters:
    ///   - peer: for the record of a refusal.
    ///   - now: the lane's time in milliseconds.
    /// - Returns: what counts for as long as it lives, nil when no rule does; or what is used up.
    public func admit(
        listener: String, address: NetworkAddress?, peer: @autoclosure () -> String, now: UInt64
    ) -> Result<QuotaStay?, OverQuota> {
        guard hasRules.load(ordering: .relaxed) else { return .success(nil) }
        clock.store(now, ordering: .relaxed)
        let (rate, connections) = table.withLock { table -> (Usage?, Usage?) in
            func find(_ resource: QuotaResource) -> Usage? {
                let rule = table.rules.first {
                    $0.counting != .user && $0.names(resource) && $0.rule.selects(listener: listener, address: address)
                }
                guard let rule else { return nil }
                let holder: UsageHolder =
                    rule.counting == .listener
                    ? .listener(listener) : address.map { .address($0.network) } ?? .others
                return row(rule, holder, &table, now)
            }
            return (find(.connectionRate), find(.connections))
        }
        guard rate != nil || connections != nil else { return .success(nil) }
        var record = AuditRecord(.quota, "connect")
        if let over = Self.enter(rate, connections, now) {
            note(over.0, over.1, now) {
                record.peer = peer()
                return record
            }
            return .failure(OverQuota(resource: over.0))
        }
        return .success(QuotaStay(counted: connections, keeping: rate))
    }

    /// Takes a token and counts a connection.
    /// - Returns: what is used up.
    static func enter(_ rate: Usage?, _ connections: Usage?, _ now: UInt64) -> (QuotaResource, Usage)? {
        // The count first: who has too many connections must not use up the rate of those to come.
        if let connections, !connections.add(.connections) { return (.connections, connections) }
        if let rate, !rate.take(1, .connectionRate, now) {
            connections?.subtract(.connections)
            return (.connectionRate, rate)
        }
        return nil
    }

    // MARK: Somebody who has logged in

    /// What the rules give to one who has logged in; nil when they say nothing.
    func allowance(of identity: Identity, link: Link?) -> Allowance? {
        guard hasRules.load(ordering: .relaxed) else { return nil }
        let (listener, address) = (link?.listenerName ?? "", link?.address)
        let now = clock.load(ordering: .relaxed)
        return table.withLock { table in
            func find(_ resource: QuotaResource) -> Usage? {
                let isForLogin = resource == .connections || resource == .connectionRate
                for rule in table.rules where rule.names(resource) {
                    // Those were asked when the connection was accepted.
                    if isForLogin, rule.counting != .user { continue }
                    guard rule.rule.selects(identity), rule.rule.selects(listener: listener, address: address) else {
                        continue
                    }
                    let holder: UsageHolder =
                        switch rule.counting {
                        case .user: .user(namespace: identity.namespace, identity.user)
                        case .address: address.map { .address($0.network) } ?? .others
                        case .listener: .listener(listener)
                        }
                    return row(rule, holder, &table, now)
                }
                return nil
            }
            let found = QuotaResource.allCases.map(find)
            return found.contains { $0 != nil } ? Allowance(found, of: self) : nil
        }
    }

    // MARK: Rows

    /// The row of a rule and a holder, made if it is not there. Under the lock.
    private func row(_ rule: QuotaLimits, _ holder: UsageHolder, _ table: inout Table, _ now: UInt64) -> Usage {
        let key = UsageKey(rule: ObjectIdentifier(rule), holder: holder)
        if let place = table.places[key] { return table.rows[place] }
        sweep(&table, count: Self.sweptAtOnce, now)
        guard table.rows.count < maxRows, holder != .others else {
            return table.shared.first { $0.limits === rule } ?? Usage(rule, .others)
        }
        let made = Usage(rule, holder)
        table.places[key] = table.rows.count
        table.rows.append(made)
        return made
    }

    /// Forgets rows that nobody holds and whose tokens are all there again.
    private func sweep(_ table: inout Table, count: Int, _ now: UInt64) {
        for _ in 0..<min(count, table.rows.count) {
            if table.cursor >= table.rows.count { table.cursor = 0 }
            let place = table.cursor
            // Whoever counts on a row refers to it, and new references are given out under this lock only.
            guard isKnownUniquelyReferenced(&table.rows[place]), table.rows[place].isFull(now) else {
                table.cursor += 1
                continue
            }
            table.places[table.rows[place].key] = nil
            let last = table.rows.removeLast()
            guard place < table.rows.count else { continue }
            table.rows[place] = last
            table.places[last.key] = place
        }
    }

    /// Forgets what is unused; for a periodic chore. Looks at a bounded number of rows.
    public func sweep(now: UInt64) {
        clock.store(now, ordering: .relaxed)
        table.withLock { sweep(&$0, count: Self.sweptByChore, now) }
    }

    /// Has a lane forget what is unused, about once a second.
    public func sweepRegularly(on lanes: Lanes) {
        lanes.call(0) { lane in lane.chores.append { self.sweep(now: $0.now) } }
    }

    // MARK: Refusals

    /// Records that something was refused: once in ten seconds for each holder and resource.
    func note(_ resource: QuotaResource, _ usage: Usage, _ now: UInt64, _ make: () -> AuditRecord) {
        guard let audit, usage.isWorthNoting(resource, now) else { return }
        var record = make()
        if record.object.isEmpty { record.object = resource.key }
        let limit = usage.limits[resource]
        record.reason = "\(usage.holder) has used up \(resource.key) (\(limit)) of \(section)"
        audit.record(record)
    }
}

/// What was used up.
public struct OverQuota: Error, Sendable, Equatable {
    /// The resource.
    public var resource: QuotaResource
}
