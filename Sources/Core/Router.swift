import Synchronization

/// The router of one namespace: subscriptions, retained events, and the only gate. Whoever publishes or subscribes,
/// for whatever reason, comes through here with a ``Principal``.
///
/// Threading: shared by all lanes. Every call names the lane it is made on.
/// SAFETY: `index`, `lanes`, `changes` and `meshHook` are used under `indexLock`, `retainedEvents` under
/// `retainedLock`, `sessions`, `movers` and `access` are in mutexes, generation, version and identity base are atomics,
/// `audit` is set before others know the router, everything else never changes.
public final class Router: @unchecked Sendable {
    /// The namespace's name.
    public let name: String
    /// The namespace's number; match caches are kept under it.
    public let number: Int
    /// The limits it enforces.
    public let limits: Limits
    /// What users may have of them; nil without quotas.
    public let quotas: Quotas?
    let hashKey: UInt64
    /// Takes records of what is refused. Set once, before there is traffic.
    public var audit: (any AuditSink)?
    /// Random; for tables outside that are keyed by what peers choose.
    public var hashSeed: UInt64 { hashKey &* 0x9E37_79B9_7F4A_7C15 }

    private let access: Mutex<(rules: AccessRules, version: UInt64)>
    private let accessCounter = Atomic<UInt64>(1)
    let indexLock = Mutex(())
    var index: TopicIndex
    /// The lanes that there are ports on; nil before the first. Used under `indexLock`.
    var lanes: Lanes?
    /// What the mesh is told; nil on a node without one.
    var meshHook: MeshHook?
    /// Generations count the changes in it.
    private var changes = RecentChanges()
    private let generation = Atomic<UInt64>(1)
    /// Held for one event, or one bounded step of a look-up. Used in `Router+Retained.swift` and
    /// `Router+RetainedVersions.swift` only.
    let retainedLock = Mutex(())
    var retainedEvents: RetainedEvents
    /// Called when a value was removed that no event tells other nodes of. Used under `retainedLock`.
    var retainedChanged: (@Sendable () -> Void)?
    let packedMeshPort = Atomic<UInt64>(0)
    private let isMeshJoining = Atomic<Bool>(false)
    /// Whether retained events have versions. Never goes back.
    let keepsVersions = Atomic<Bool>(false)
    let sessions = Mutex(SessionTable())
    private let movers = Mutex<(any SessionMover)?>(nil)
    /// What identities of guaranteed events begin with, random and this node's own; 0 while none are given.
    private let identityBase = Atomic<UInt64>(0)

    /// Makes a router.
    /// - Parameter hashKey: random; makes the places of topics in tables unpredictable.
    public init(
        name: String = "default", number: Int = 0, limits: Limits, accessRules: AccessRules = .none,
        quotas: Quotas? = nil, hashKey: UInt64
    ) {
        self.quotas = quotas
        self.name = name
        self.number = number
        self.limits = limits
        access = Mutex((accessRules, 1))
        self.hashKey = hashKey
        index = TopicIndex(key: hashKey)
        index.readerRules = accessRules
        index.readersVersion = accessRules.rules.isEmpty ? 0 : 1
        retainedEvents = RetainedEvents(key: hashKey, limits: limits)
    }

    // MARK: Access rules

    /// The rules in force and their version.
    var accessRules: (rules: AccessRules, version: UInt64) { access.withLock { $0 } }
    /// Whether there are any rules; without them everything is allowed.
    public var hasAccessRules: Bool { access.withLock { !$0.rules.rules.isEmpty } }
    /// What the rules say of somebody who wants to use the management interface; nil when none of them is for him.
    public func mayAdminister(_ identity: Identity) -> Bool? {
        let rules = accessRules.rules
        guard let rule = rules.administrationRule(for: identity) else { return nil }
        return rules.rules[rule].effect == .allow
    }
    /// Whether any rule says who may use the management interface.
    public var hasAdministrationRules: Bool {
        access.withLock { $0.rules.rules.contains { $0.action == .admin } }
    }
    /// The version of the rules in force.
    var accessVersion: UInt64 { accessCounter.load(ordering: .acquiring) }

    /// Replaces the rules, for publishers and for readers.
    /// - Returns: the lanes there are ports on; nil while there is none.
    func replaceRules(_ rules: AccessRules) -> Lanes? {
        access.withLock { access in
            access = (rules, access.version + 1)
            accessCounter.store(access.version, ordering: .releasing)
            return indexLock.withLock { _ in
                index.readerRules = rules
                index.readersVersion = rules.rules.isEmpty ? 0 : UInt32(truncatingIfNeeded: access.version)
                noteChange(nil)
                return lanes
            }
        }
    }

    // MARK: Ports

    /// Gives a port a place on a lane, so that it can subscribe and be delivered to.
    public func register(_ port: Port, on lane: Lane) {
        port.address = lane.place(port, of: self)
        port.number = indexLock.withLock { _ in
            if lanes == nil { lanes = lane.lanes }
            return index.addPort(port.address)
        }
    }

    /// Removes a port with all its subscriptions. Mail on its way to it is dropped, but for guaranteed events of shared
    /// groups: those go to other members.
    public func unregister(_ port: Port, on lane: Lane) {
        changingInterest { index.removePort(port.number, hook: meshHook) { noteChange($0) } }
        port.subscriptionUsage = nil
        lane.displace(port.address)
        port.unregistered(on: lane)
    }

    /// Notes whether somebody is attached to a port: shared groups choose among members that are present.
    public func setPresence(_ port: Port, _ isPresent: Bool) {
        changingInterest { index.setPresence(port.number, isPresent, hook: meshHook) { noteChange($0) } }
    }

    // MARK: Subscribing

    /// What became of a subscription.
    public enum SubscribeOutcome: Sendable, Equatable {
        /// It holds; `isNew` is false when it replaced one with the same filter.
        case granted(isNew: Bool)
        /// The access rules do not allow all of it.
        case notAuthorized
        /// The session has as many as it may.
        case overLimit
        /// The user has as many as the quotas allow.
        case overQuota
    }

    /// Subscribes a port. From the return on, every lane's next turn sees it.
    public func subscribe(
        _ port: Port, _ subscription: Subscription, as principal: Principal, on lane: Lane
    ) -> SubscribeOutcome {
        let (reach, version) = principal.reach(subscription.filter)
        guard reach != .nothing else {
            refused(subscription.filter, as: principal, on: lane)
            return .notAuthorized
        }
        var subscription = subscription
        // Options may come from a file or another node.
        subscription.options.remove(.filtered)
        if reach == .something { subscription.options.insert(.filtered) }
        let usage = principal.allowance?.subscriptions
        let outcome: SubscribeOutcome = changingInterest { [subscription] in
            let count = index.ports[port.number].count
            let isFull = count >= limits.maxSubscriptionsPerSession
            if isFull || usage != nil, index.find(port.number, subscription.filter) == 0 {
                guard !isFull else { return .overLimit }
                guard usage.map(port.countSubscription) ?? true else { return .overQuota }
            }
            let isNew = index.subscribe(port.number, subscription)
            index.noteReader(principal.reader, of: port.number, judgedBy: version, isFirst: count == 0)
            noteLocalChange(subscription.filter)
            return .granted(isNew: isNew)
        }
        if case .granted = outcome { return outcome }
        lane.counters.subscriptionsRefused &+= 1
        if outcome == .overQuota, let usage { principal.refuse(.subscriptions, usage, "subscribe", on: lane) }
        return outcome
    }

    /// Whether a principal may have the events of a subscription that a port has already: for ports with several
    /// readers, who must have the same rights. A refusal is counted.
    public func mayShare(_ filter: TopicFilter, as principal: Principal, on lane: Lane) -> Bool {
        if principal.reach(filter).reach != .nothing { return true }
        refused(filter, as: principal, on: lane)
        return false
    }

    /// Removes a subscription.
    /// - Returns: whether it was there.
    @discardableResult
    public func unsubscribe(_ port: Port, _ filter: TopicFilter) -> Bool {
        changingInterest {
            guard index.unsubscribe(port.number, filter) else { return false }
            port.subscriptionUsage?.remove()
            noteLocalChange(filter)
            return true
        }
    }

    /// The subscriptions of a port, at most `limit`.
    public func subscriptions(of port: Port, limit: Int = .max) -> [Subscription] {
        var found: [Subscription] = []
        indexLock.withLock { _ in index.forEachSubscription(of: port.number, limit: limit) { found.append($0) } }
        return found
    }

    /// The identifier of a port's subscription to a filter; nil when there is none.
    public func identifier(of port: Port, _ filter: TopicFilter) -> UInt32? {
        indexLock.withLock { _ in index.identifier(of: port.number, filter) }
    }

    /// How many subscriptions a port has.
    public func subscriptionCount(of port: Port) -> Int {
        indexLock.withLock { _ in Int(index.ports[port.number].count) }
    }

    /// Subscriptions of the namespace.
    public var subscriptionCount: Int { indexLock.withLock { _ in index.subscriptionCount } }

    /// Memberships in shared groups among them.
    public var sharedSubscriptionCount: Int { indexLock.withLock { _ in index.membershipCount } }

    /// The same for all that a port subscribes to.
    func noteChanges(of port: UInt32) {
        guard index.ports[port].count <= TopicIndex.manyChanges else { return noteChange(nil) }
        index.forEachSubscription(of: port) { noteChange($0.filter) }
    }

    /// Called under the index's lock; nil stands for any filter.
    func noteChange(_ filter: TopicFilter?) {
        let next = generation.load(ordering: .relaxed) &+ 1
        changes.note(filter, generation: next)
        generation.store(next, ordering: .releasing)
    }

    // MARK: In a mesh

    /// Whether the mesh's port is given every guaranteed event, once and with ``DeliveryOptions/unmatched``: while the
    /// node does not know yet what other nodes want.
    public var meshTakesAll: Bool {
        get { isMeshJoining.load(ordering: .relaxed) }
        set { isMeshJoining.store(newValue, ordering: .relaxed) }
    }

    /// Brings sessions here from other nodes; nil without a mesh.
    public var mover: (any SessionMover)? { movers.withLock { $0 } }

    /// The node is part of a mesh. From now on every guaranteed event has an identity (``Event/identity``).
    /// - Parameter identityBase: random, not 0, and different on every node.
    public func attach(_ mover: any SessionMover, identityBase: UInt64) {
        movers.withLock { $0 = mover }
        self.identityBase.store(identityBase, ordering: .relaxed)
    }

    // MARK: Publishing

    /// Routes a turn: checks the principal's right, matches, delivers to this lane's ports, stages mail for others.
    public func route(_ turn: Turn, on lane: Lane) {
        guard let principal = turn.principal else { return }
        let cache = lane.cache(for: self)
        var bytes = 0
        // All look-ups first: independent of each other, they wait for memory together instead of one after another.
        for number in 0..<turn.runCount {
            let run = turn.runs + number
            bytes &+= run.pointee.wireLength
            let hash = cache.hash(run.pointee.topic, run.pointee.topicLength)
            run.pointee.hash = hash
            run.pointee.known = UnsafeMutableRawPointer(
                cache.find(run.pointee.topic, run.pointee.topicLength, hash: hash))
        }
        lane.counters.eventsIn &+= UInt64(truncatingIfNeeded: turn.eventCount)
        lane.counters.bytesIn &+= UInt64(truncatingIfNeeded: bytes)
        lane.counters.cacheLookups &+= UInt64(truncatingIfNeeded: turn.runCount)
        let serial = cache.nextSerial
        let identities = identityBase.load(ordering: .relaxed)
        let workBefore = lane.matchingWork
        defer { lane.judge(turn, cost: lane.matchingWork - workBefore) }
        for number in 0..<turn.runCount {
            let run = turn.runs + number
            if cache.nextSerial != serial { run.pointee.known = nil }
            // Only these runs are shared as owned events, and only their copies are released afterwards.
            let isShared = run.pointee.qos > 0 || run.pointee.isRetained
            run.pointee.owned = isShared ? turn.owned + (run.pointee.events - turn.events) : nil
            if identities != 0, run.pointee.qos > 0, run.pointee.identity == 0 {
                run.pointee.identity = lane.makeIdentity(identities)
            }
            let outcome = publish(UnsafePointer(run), as: principal, on: lane, cache)
            turn.outcomes[number] = outcome
            turn.releaseOwned(run.pointee)
            if outcome.verdict == .malformedTopic { return }
        }
    }

    /// Publishes one owned event, such as a will.
    /// - Parameters:
    ///   - publisher: who gets its receipts.
    ///   - isPatient: whether the publisher waits for them, see ``EventRun/isPatient``.
    @discardableResult
    public func publish(
        _ event: Event, as principal: Principal, publisher: PortAddress = .none, isPatient: Bool = false,
        on lane: Lane
    ) -> PublishOutcome {
        var run = EventRun(event: event, view: lane.singleEvent, publisher: publisher)
        run.isPatient = isPatient
        let identities = identityBase.load(ordering: .relaxed)
        var event = event
        if identities != 0, run.qos > 0, run.identity == 0 {
            run.identity = lane.makeIdentity(identities)
            event = event.identified(run.identity)
        }
        run.owned = lane.singleOwned
        lane.singleOwned.pointee = Unmanaged.passRetained(event.storage)
        defer {
            lane.singleOwned.pointee?.release()
            lane.singleOwned.pointee = nil
        }
        let cache = lane.cache(for: self)
        // What the node says of itself is no client's traffic.
        if !principal.isNode { lane.counters.eventsIn &+= 1 }
        lane.counters.cacheLookups &+= 1
        run.hash = cache.hash(run.topic, run.topicLength)
        return withUnsafePointer(to: &run) { publish($0, as: principal, on: lane, cache) }
    }

    @inline(__always)
    private func publish(
        _ run: UnsafePointer<EventRun>, as principal: Principal, on lane: Lane, _ cache: MatchCache
    ) -> PublishOutcome {
        var outcome = PublishOutcome(verdict: .routed, matched: 0, refused: 0, pending: 0, token: 0)
        let count = run.pointee.count
        guard let entry = match(run, on: lane, cache) else {
            outcome.verdict = .malformedTopic
            return outcome
        }
        let isRetained = run.pointee.isRetained
        guard principal.mayPublish(run.pointee.topicBytes, isRetained: isRetained, serial: entry.pointee.serial)
        else {
            refused(isRetained ? .retain : .publish, run.pointee.topicBytes, count, as: principal, on: lane)
            outcome.verdict = .notAuthorized
            return outcome
        }
        if principal.isMetered {
            if let verdict = principal.meter(run, on: lane) {
                lane.counters.drop(.quotaExceeded, count)
                outcome.verdict = verdict
                return outcome
            }
            if run.pointee.isRetained, !mayKeep(run, as: principal, on: lane) {
                var run = run.pointee
                run.isRetained = false
                outcome.isKept = false
                distribute(&run, entry, as: principal, on: lane, &outcome)
                return outcome
            }
        }
        distribute(run, entry, as: principal, on: lane, &outcome)
        return outcome
    }

    /// Delivers a run that may be published.
    @inline(__always)
    private func distribute(
        _ run: UnsafePointer<EventRun>, _ entry: UnsafeMutablePointer<MatchCache.Entry>, as principal: Principal,
        on lane: Lane, _ outcome: inout PublishOutcome
    ) {
        outcome.matched = entry.pointee.matched
        let source: UInt32 = run.pointee.isFromMesh ? 2 : 1
        if entry.pointee.sources & (source | MatchCache.Entry.unreadable) != source {
            lane.counters.drop(.notReadable, entry.pointee.note(source: source) &* run.pointee.count)
        }
        lane.runToken = 0
        lane.held = 0
        lane.identifiers = UnsafePointer(entry.pointee.identifiers)
        lane.runSerial &+= 1
        let targets = UnsafePointer(entry.pointee.targets)
        var refused = 0
        for index in 0..<Int(entry.pointee.localCount) { refused &+= lane.deliver(run, targets + index) }
        outcome.refused = Int32(truncatingIfNeeded: refused)
        if entry.pointee.localCount < entry.pointee.targetCount { stageRemote(run, entry, on: lane, &outcome) }
        if entry.pointee.groupCount > 0, !run.pointee.isFromMesh { deliverToGroups(run, entry, on: lane, &outcome) }
        if run.pointee.isRetained {
            keep(lane.unpacked(run), as: principal, on: lane, &outcome)
        } else if run.pointee.qos > 0, meshTakesAll, !run.pointee.isFromMesh {
            lane.runSerial &+= 1
            deliverToMesh(run, .unmatched, on: lane, &outcome)
        }
        outcome.token = lane.runToken
        outcome.pending &+= Int32(truncatingIfNeeded: lane.held)
    }

    /// The targets of a topic: from the cache, from the cache after a look at what changed, or from the index.
    @inline(__always)
    private func match(
        _ run: UnsafePointer<EventRun>, on lane: Lane, _ cache: MatchCache
    ) -> UnsafeMutablePointer<MatchCache.Entry>? {
        let current = generation.load(ordering: .acquiring)
        if let entry = run.pointee.known?.assumingMemoryBound(to: MatchCache.Entry.self),
            entry.pointee.generation == current
        {
            return entry
        }
        return matchAgain(run, on: lane, cache)
    }

    @inline(never)
    private func matchAgain(
        _ run: UnsafePointer<EventRun>, on lane: Lane, _ cache: MatchCache
    ) -> UnsafeMutablePointer<MatchCache.Entry>? {
        let (topic, count, hash) = (run.pointee.topic, run.pointee.topicLength, run.pointee.hash)
        guard let entry = cache.find(topic, count, hash: hash) else {
            return matchNew(topic, count, hash, on: lane, cache)
        }
        if entry.pointee.generation != generation.load(ordering: .acquiring) { refresh(entry, on: lane, cache) }
        return entry
    }

    private func matchNew(
        _ topic: UnsafeRawPointer, _ count: Int, _ hash: UInt64, on lane: Lane, _ cache: MatchCache
    ) -> UnsafeMutablePointer<MatchCache.Entry>? {
        // A topic in the cache has passed this check before.
        guard Topic.isValid(UnsafeRawBufferPointer(start: topic, count: count), limits: limits) else { return nil }
        let entry = cache.place(topic, count, hash: hash)
        refresh(entry, on: lane, cache)
        return entry
    }

    @inline(never)
    private func refresh(_ entry: UnsafeMutablePointer<MatchCache.Entry>, on lane: Lane, _ cache: MatchCache) {
        indexLock.withLock { _ in
            let current = generation.load(ordering: .relaxed)
            let topic = UnsafeRawBufferPointer(start: entry.pointee.block, count: Int(entry.pointee.topicLength))
            if changes.isUntouched(topic, since: entry.pointee.generation, until: current) {
                entry.pointee.generation = current
            } else {
                lane.counters.cacheMisses &+= 1
                lane.matchingWork &+= cache.fill(entry, from: index, generation: current)
            }
        }
    }

    // MARK: Other lanes

    @inline(never)
    private func stageRemote(
        _ run: UnsafePointer<EventRun>, _ entry: UnsafeMutablePointer<MatchCache.Entry>, on lane: Lane,
        _ outcome: inout PublishOutcome
    ) {
        let targets = UnsafePointer(entry.pointee.targets)
        let count = Int(entry.pointee.targetCount)
        var start = Int(entry.pointee.localCount)
        while start < count {
            let remote = targets[start].address.lane
            var end = start + 1
            while end < count, targets[end].address.lane == remote { end += 1 }
            stage(run, targets + start, end - start, to: remote, on: lane, &outcome)
            start = end
        }
    }

    func stage(
        _ run: UnsafePointer<EventRun>, _ targets: UnsafePointer<Target>, _ count: Int, to remote: Int, on lane: Lane,
        _ outcome: inout PublishOutcome
    ) {
        let wantsReceipt = run.pointee.qos > 0 && run.pointee.publisher != .none
        let token = wantsReceipt ? lane.receiptToken() : 0
        if lane.stage(run, targets, count, to: remote, token: token) {
            if wantsReceipt { outcome.pending += 1 }
        } else {
            lane.counters.drop(.mailboxFull, run.pointee.count * count)
        }
    }
}
