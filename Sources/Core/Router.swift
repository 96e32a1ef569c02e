import Synchronization

/// The router of one namespace: subscriptions, retained events, and the only gate. Whoever publishes or subscribes,
/// for whatever reason, comes through here with a ``Principal``.
///
/// Threading: shared by all lanes. Every call names the lane it is made on.
/// SAFETY: `index`, `lanes`, `changes`, `meshHook` and `redistributed` are used under `indexLock`, `retainedEvents`
/// under `retainedLock`, `sessions`, `movers` and `access` are in mutexes, generation, version and identity base are
/// atomics, `audit` is set before others know the router, everything else never changes.
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
    /// The filters that changed last, by generation; nil stands for any filter.
    private var changes = [TopicFilter?](repeating: nil, count: Router.changesKept)
    private let generation = Atomic<UInt64>(1)
    /// Whose turn it is when a shared group's events are given to another member.
    var redistributed: UInt32 = 0
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
    private let sessions = Mutex(SessionTable())
    private let movers = Mutex<(any SessionMover)?>(nil)
    /// What identities of guaranteed events begin with, random and this node's own; 0 while none are given.
    private let identityBase = Atomic<UInt64>(0)

    private static let changesKept = 256

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
        port.address = lane.place(port)
        port.number = indexLock.withLock { _ in
            if lanes == nil { lanes = lane.lanes }
            return index.addPort(port.address)
        }
    }

    /// Removes a port with all its subscriptions. Mail on its way to it is dropped.
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

    /// Called under the index's lock; nil stands for any filter. So do filters of absurd length, which are not kept.
    func noteChange(_ filter: TopicFilter?) {
        let next = generation.load(ordering: .relaxed) &+ 1
        let isShort = filter.map { $0.bytes.count <= 1_024 } ?? false
        changes[Int(truncatingIfNeeded: next) & (Self.changesKept - 1)] = isShort ? filter : nil
        generation.store(next, ordering: .releasing)
    }

    // MARK: Publishing

    /// Whether the mesh's port is given every guaranteed event, once and with ``DeliveryOptions/unmatched``: while the
    /// node does not know yet what other nodes want.
    public var meshTakesAll: Bool {
        get { isMeshJoining.load(ordering: .relaxed) }
        set { isMeshJoining.store(newValue, ordering: .relaxed) }
    }

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
    @discardableResult
    public func publish(
        _ event: Event, as principal: Principal, publisher: PortAddress = .none, on lane: Lane
    ) -> PublishOutcome {
        var run = EventRun(event: event, view: lane.singleEvent, publisher: publisher)
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
            if isUntouched(entry, since: entry.pointee.generation, current) {
                entry.pointee.generation = current
            } else {
                lane.counters.cacheMisses &+= 1
                lane.matchingWork &+= cache.fill(entry, from: index, generation: current)
            }
        }
    }

    /// Whether no filter that changed after `since` matches the entry's topic.
    private func isUntouched(
        _ entry: UnsafeMutablePointer<MatchCache.Entry>, since: UInt64, _ current: UInt64
    ) -> Bool {
        guard since != 0, current - since <= UInt64(Self.changesKept) else { return false }
        let topic = UnsafeRawBufferPointer(start: entry.pointee.block, count: Int(entry.pointee.topicLength))
        var number = since + 1
        while number <= current {
            let filter = changes[Int(truncatingIfNeeded: number) & (Self.changesKept - 1)]
            if filter?.matches(topic) ?? true { return false }
            number += 1
        }
        return true
    }

    // MARK: Other lanes and groups

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

    /// Each event of the run to one member of each group, in turn.
    @inline(never)
    private func deliverToGroups(
        _ run: UnsafePointer<EventRun>, _ entry: UnsafeMutablePointer<MatchCache.Entry>, on lane: Lane,
        _ outcome: inout PublishOutcome
    ) {
        for index in 0..<run.pointee.count {
            var single = run.pointee
            single.events += index
            single.owned = single.owned.map { $0 + index }
            single.count = 1
            if single.identity != 0 { single.identity &+= UInt64(truncatingIfNeeded: index) }
            if run.pointee.count > 1 {
                // Where one event's bytes end is the adapter's knowledge: without them a port encodes anew.
                single.layout = .none
                single.wireLength = 0
            }
            var start = 0
            for group in 0..<Int(entry.pointee.groupCount) {
                let end = Int(entry.pointee.groupEnds[group])
                let member = entry.pointee.members + start + Int(entry.pointee.cursor) % (end - start)
                start = end
                lane.group = entry.pointee.groupNumbers[group]
                lane.runSerial &+= 1
                withUnsafePointer(to: single) { single in
                    if member.pointee.address.lane == lane.number {
                        outcome.refused &+= Int32(truncatingIfNeeded: lane.deliver(single, member))
                    } else {
                        stage(single, member, 1, to: member.pointee.address.lane, on: lane, &outcome)
                    }
                }
            }
            entry.pointee.cursor &+= 1
        }
        lane.group = 0
    }

    /// Gives an event of a shared group to another member, because the one it was chosen for has left: to one that is
    /// present if there is one. Without a member it is dropped and counted.
    func redistribute(_ event: Event, group: UInt32, on lane: Lane) {
        guard !event.isExpired(at: lane.now) else { return lane.counters.drop(.expired) }
        let found = indexLock.withLock { _ -> (Target, UInt32)? in
            redistributed &+= 1
            return index.member(of: group, turn: redistributed, orAbsent: true)
                .flatMap { index.isReadable(event.topic, $0) ? $0.target : nil }
        }
        guard var (target, identifier) = found else { return lane.counters.drop(.noMember) }
        if identifier != 0 { target.identifierCount = 1 }
        var run = EventRun(event: event, view: lane.singleEvent, publisher: .none)
        run.owned = lane.singleOwned
        lane.singleOwned.pointee = Unmanaged.passRetained(event.storage)
        defer {
            lane.singleOwned.pointee?.release()
            lane.singleOwned.pointee = nil
        }
        var outcome = PublishOutcome(verdict: .routed, matched: 0, refused: 0, pending: 0, token: 0)
        lane.group = group
        lane.runSerial &+= 1
        withUnsafePointer(to: &identifier) { identifiers in
            lane.identifiers = identifiers
            if target.address.lane == lane.number {
                _ = lane.deliver(&run, &target)
            } else {
                stage(&run, &target, 1, to: target.address.lane, on: lane, &outcome)
            }
        }
        lane.group = 0
    }

    /// Whether a shared group has a member that is there to take events.
    public func hasPresentMember(_ group: UInt32) -> Bool {
        indexLock.withLock { _ in index.member(of: group, turn: 0, orAbsent: false) != nil }
    }

    // MARK: Sessions

    /// Where the session of a client id lives; nil when there is none.
    public func session(of clientID: String) -> PortAddress? { sessions.withLock { $0[clientID] } }

    /// What became of a claim to a client id.
    public enum SessionClaim: Sendable, Equatable {
        /// The claim holds.
        case held
        /// A session of this client id lives there.
        case taken(PortAddress)
        /// There are as many sessions as there may be.
        case overLimit
        /// The user has as many as the quotas allow.
        case overQuota
    }

    /// Claims a client id for a new session.
    public func claimSession(_ clientID: String, for address: PortAddress) -> SessionClaim {
        claimSession(clientID, for: address, after: nil, countedFor: nil, evenOverQuota: false)
    }

    /// Claims a client id for a new session of a principal, which counts for its user.
    /// - Parameters:
    ///   - former: a session of this client id that is to end: if it still has the id, the new one takes its place in
    ///     one step. Given up and claimed again, the id could be somebody else's on another lane in between.
    ///   - evenOverQuota: whether it is claimed even if it is one too many: a session that comes from another node is
    ///     there already.
    public func claimSession(
        _ clientID: String, for address: PortAddress, after former: PortAddress? = nil, as principal: Principal,
        evenOverQuota: Bool = false, on lane: Lane
    ) -> SessionClaim {
        let usage = principal.allowance?.sessions
        let claim = claimSession(
            clientID, for: address, after: former, countedFor: usage, evenOverQuota: evenOverQuota)
        if claim == .overQuota, let usage { principal.refuse(.sessions, usage, "connect", on: lane) }
        return claim
    }

    private func claimSession(
        _ clientID: String, for address: PortAddress, after former: PortAddress?, countedFor usage: Usage?,
        evenOverQuota: Bool
    ) -> SessionClaim {
        sessions.withLock { sessions in
            let known = sessions[clientID]
            if let known, known != former { return .taken(known) }
            guard known != nil || sessions.count < limits.maxSessions else { return .overLimit }
            guard sessions.count(clientID, for: usage, inAnyCase: evenOverQuota) else { return .overQuota }
            sessions[clientID] = address
            return .held
        }
    }

    /// Gives a client id up, if the session at `address` still has it.
    public func releaseSession(_ clientID: String, at address: PortAddress) {
        let isGone = sessions.withLock { sessions in
            guard sessions[clientID] == address else { return false }
            sessions[clientID] = nil
            sessions.uncount(clientID)
            return true
        }
        if isGone { mover?.sessionEnded(clientID) }
    }

    /// Brings sessions here from other nodes; nil without a mesh.
    public var mover: (any SessionMover)? { movers.withLock { $0 } }

    /// The node is part of a mesh. From now on every guaranteed event has an identity (``Event/identity``).
    /// - Parameter identityBase: random, not 0, and different on every node.
    public func attach(_ mover: any SessionMover, identityBase: UInt64) {
        movers.withLock { $0 = mover }
        self.identityBase.store(identityBase, ordering: .relaxed)
    }

    /// Sessions of the namespace, connected and absent.
    public var sessionCount: Int { sessions.withLock { $0.count } }

    /// For a look at the sessions; short, because lanes wait for it.
    func withSessions<Result: Sendable>(_ body: (borrowing SessionTable) -> Result) -> Result {
        sessions.withLock { body($0) }
    }
}
