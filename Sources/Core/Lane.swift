import Synchronization

/// What the lanes of a node share: each other's mailboxes and loads.
/// SAFETY: the mailboxes guard themselves, the loads are atomics, the array never changes.
public final class Lanes: @unchecked Sendable {
    struct Shared {
        let mailbox = Mailbox()
        let wake: @Sendable () -> Void
        let load: Load
    }

    final class Load: Sendable { let connections = Atomic<Int>(0) }

    let shared: [Shared]
    /// The node's limits.
    public let limits: Limits

    /// Makes the common part of `wakes.count` lanes.
    /// - Parameter wakes: what wakes each lane out of its wait; called from any thread.
    public init(wakes: [@Sendable () -> Void], limits: Limits) {
        shared = wakes.map { Shared(wake: $0, load: Load()) }
        self.limits = limits
    }

    /// Lanes there are.
    public var count: Int { shared.count }

    /// Runs `body` on a lane, after what was posted before. Callable from any thread.
    public func call(_ lane: Int, _ body: @escaping @Sendable (Lane) -> Void) {
        if shared[lane].mailbox.post([.call(body)], bytes: 0) { shared[lane].wake() }
    }

    /// Runs `body` on every lane and then `then`, with the answers in the order of the lanes, on the last that
    /// answered. Callable from any thread; nobody waits. Lanes that have stopped never answer.
    public func gather<Answer: Sendable>(
        _ body: @escaping @Sendable (Lane) -> Answer, then: @escaping @Sendable ([Answer]) -> Void
    ) {
        let answers = Gathering<Answer>(count: count)
        for lane in 0..<count {
            call(lane) { lane in
                if let all = answers.add(body(lane), from: lane.number) { then(all) }
            }
        }
    }

    /// The lane with the fewest connections, the first of equals, which is given one more.
    public func assignConnection() -> Int {
        var best = 0
        for lane in 1..<max(shared.count, 1)
        where shared[lane].load.connections.load(ordering: .relaxed)
            < shared[best].load.connections.load(ordering: .relaxed)
        {
            best = lane
        }
        shared[best].load.connections.add(1, ordering: .relaxed)
        return best
    }

    /// A lane is given one more connection, whatever the others have.
    public func assignConnection(to lane: Int) -> Int {
        connectionJoined(lane)
        return lane
    }

    /// A connection of a lane has ended or moved away.
    public func connectionLeft(_ lane: Int) { shared[lane].load.connections.subtract(1, ordering: .relaxed) }
    /// A connection has moved to a lane.
    public func connectionJoined(_ lane: Int) { shared[lane].load.connections.add(1, ordering: .relaxed) }
    /// Connections of all lanes.
    public var connectionCount: Int { shared.reduce(0) { $0 + $1.load.connections.load(ordering: .relaxed) } }
}

/// Answers of several lanes on their way together.
private final class Gathering<Answer: Sendable>: Sendable {
    private let answers: Mutex<[Answer?]>

    init(count: Int) { answers = Mutex(Array(repeating: nil, count: count)) }

    /// - Returns: all answers, when this was the last.
    func add(_ answer: Answer, from lane: Int) -> [Answer]? {
        answers.withLock { answers in
            answers[lane] = answer
            let all = answers.compactMap { $0 }
            return all.count == answers.count ? all : nil
        }
    }
}

/// Something that a lane calls at a time. Confined to its lane.
public final class Alarm {
    /// When, in the lane's milliseconds; .max for never.
    public var at = UInt64.max
    fileprivate let ring: (Lane) -> Void

    /// Makes an alarm that is not set. It is to set itself again.
    public init(_ ring: @escaping (Lane) -> Void) { self.ring = ring }
}

/// One thread with one event loop, as the router sees it: ports, a match cache, mail for the other lanes. The epoll
/// reactor and the HTTP plane each have their own kind.
///
/// Threading: everything here is used on the lane's own thread only.
open class Lane {
    /// What is routed once the current turn is over.
    private enum Deferred {
        case publish(Event, Principal)
        case redistribute(Event, group: UInt32, Router)
        case receipt(Receipt, refused: Int)
    }

    struct Slot {
        var generation: UInt32
        var port: Unmanaged<Port>?
    }

    /// The lane's number, from 0.
    public final let number: Int
    /// All lanes.
    public final let lanes: Lanes
    /// The node's limits.
    public final let limits: Limits
    /// Monotonic milliseconds at the beginning of this pass.
    public final var now: UInt64 = 1
    /// What this lane has counted.
    public final var counters = Counters()
    /// The turn that conversations of this lane fill.
    public final let turn = Turn()
    /// Subscription identifiers of the match being delivered; see ``Target/identifierStart``.
    public final var identifiers: UnsafePointer<UInt32>

    /// The shared group that the delivery in progress is a member's share of; 0 for none. See
    /// ``Router/redistribute(_:group:from:on:)``.
    public final internal(set) var group: UInt32 = 0
    /// The number of the router that ``group`` is one of; of no meaning without a group.
    final var groupRouter: UInt32 = 0
    /// Guaranteed runs that were given an identity here.
    final var identitiesMade: UInt64 = 0
    /// Counts deliveries of runs: while it stands still, a port is offered the same run as the port before.
    public final internal(set) var runSerial: UInt64 = 0

    /// What adapters keep for a lane, under their names.
    public final var belongings: [String: AnyObject] = [:]
    /// Called about once a second: expiry and the like.
    public final var chores: [(Lane) -> Void] = []
    /// What wants to be called at certain times, more precisely than chores: few of them. The mesh has one.
    public final var alarms: [Alarm] = []
    /// Adapters' inboxes that wait for their clients, for the statistics.
    public final var absentLists: [AbsentInboxes] = []
    /// Events that wait in this lane's inboxes; kept by ``Inbox``.
    public final internal(set) var queuedEvents = 0
    /// What they count for in limits.
    public final internal(set) var queuedBytes = 0
    /// Runs whose publishers wait, because a full port of this lane holds their receipts.
    public final private(set) var heldRuns = 0
    final var traffics: [Traffic] = []
    final let meter = LaneMeter()

    final var slots: UnsafeMutablePointer<Slot>
    final var slotCapacity = 64
    private final var slotsUsed = 0
    /// Those that this lane's ports belong, or belonged, to; few.
    private final var routers: [Router] = []
    private final var freeSlots: [Int] = []
    private final var caches: [MatchCache?] = []
    private final var deferred: [Deferred] = []
    final var staged: [[Mail]]
    final var stagedBlocks: [MailBlock?]
    final var stagedBytes: [Int]
    final var hasStaged = false
    private final var nextToken: UInt32 = 1
    /// The token of the receipts for the run being delivered; 0 when none has been wanted yet.
    final var runToken: UInt32 = 0
    /// Receipts for the run being delivered that its ports have held.
    final var held = 0
    private final let unpackedRun = UnpackedRun()
    final let mailbox: Mailbox
    final let singleEvent: UnsafeMutablePointer<EventView>
    final let singleOwned: UnsafeMutablePointer<Unmanaged<EventStorage>?>

    /// Makes a lane.
    public init(number: Int, lanes: Lanes) {
        self.number = number
        self.lanes = lanes
        limits = lanes.limits
        mailbox = lanes.shared[number].mailbox
        slots = .allocate(capacity: slotCapacity)
        slots.initialize(repeating: Slot(generation: 0, port: nil), count: slotCapacity)
        staged = Array(repeating: [], count: lanes.count)
        stagedBlocks = Array(repeating: nil, count: lanes.count)
        stagedBytes = Array(repeating: 0, count: lanes.count)
        singleEvent = .allocate(capacity: 1)
        singleOwned = .allocate(capacity: 1)
        singleOwned.initialize(to: nil)
        identifiers = UnsafePointer(bitPattern: 16).unsafelyUnwrapped
    }

    deinit {
        for slot in 0..<slotsUsed { slots[slot].port?.release() }
        slots.deallocate()
        singleEvent.deallocate()
        singleOwned.deallocate()
    }

    // MARK: Ports

    /// The port at an address; nil when it has left.
    public final func port(at address: PortAddress) -> Port? {
        guard address.lane == number, address.slot < slotsUsed, slots[address.slot].generation == address.generation
        else { return nil }
        return slots[address.slot].port?.takeUnretainedValue()
    }

    final func place(_ port: Port, of router: Router) -> PortAddress {
        if !routers.contains(where: { $0 === router }) { routers.append(router) }
        let slot = freeSlots.popLast() ?? slotsUsed
        if slot == slotsUsed {
            if slotsUsed == slotCapacity { growSlots() }
            slotsUsed += 1
        }
        slots[slot].generation &+= 1
        if slots[slot].generation == 0 { slots[slot].generation = 1 }
        slots[slot].port = Unmanaged.passRetained(port)
        return PortAddress(lane: number, slot: slot, generation: slots[slot].generation)
    }

    final func displace(_ address: PortAddress) {
        guard address.slot < slotsUsed, slots[address.slot].generation == address.generation else { return }
        slots[address.slot].port?.release()
        slots[address.slot].port = nil
        // The next tenant gets another generation, and until then nobody fits.
        slots[address.slot].generation &+= 1
        freeSlots.append(address.slot)
    }

    /// Ports that have a place.
    final var portCount: Int { slotsUsed - freeSlots.count }

    private final func growSlots() {
        let larger = UnsafeMutablePointer<Slot>.allocate(capacity: slotCapacity * 2)
        larger.moveInitialize(from: slots, count: slotCapacity)
        (larger + slotCapacity).initialize(repeating: Slot(generation: 0, port: nil), count: slotCapacity)
        slots.deallocate()
        slots = larger
        slotCapacity *= 2
    }

    /// Delivers a run to one port of this lane.
    /// - Returns: how many guaranteed events were refused.
    @inline(__always)
    final func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>) -> Int {
        let slot = slots + target.pointee.address.slot
        guard slot.pointee.generation == target.pointee.address.generation, let port = slot.pointee.port else {
            tooLate(run, target)
            return 0
        }
        return port._withUnsafeGuaranteedRef { port in
            if run.pointee.packing == nil || port.takesPacked { return port.deliver(run, target, on: self) }
            return port.deliver(unpacked(run), target, on: self)
        }
    }

    /// The port has left since the run was sent to its lane. What nobody else has is given to another member of its
    /// shared group, unless it is direct; whoever subscribed alone has just not been there any more.
    @inline(never)
    private final func tooLate(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>) {
        guard group != 0 else { return }
        // The place may have a tenant of another router by now, in which the group's number is another's.
        let number = groupRouter
        guard run.pointee.qos > 0,
            let router = routers.first(where: { UInt32(truncatingIfNeeded: $0.number) == number }),
            router.filter(ofGroup: group)?.matches(run.pointee.topicBytes) ?? false
        else { return counters.drop(.noMember, run.pointee.count) }
        let run = unpacked(run)
        for index in 0..<run.pointee.count {
            redistributeLater(run.pointee.event(index), group: group, in: router)
        }
    }

    /// A run with its properties as ``EventProperties`` reads them: taken out of their packing for the first who asks,
    /// and valid during the delivery. A run that is not packed is returned as it is.
    @inline(never)
    public final func unpacked(_ run: UnsafePointer<EventRun>) -> UnsafePointer<EventRun> {
        guard let packing = run.pointee.packing else { return run }
        return unpackedRun.unpacked(run, packing, serial: runSerial)
    }

    // MARK: Receipts

    /// Who is told what became of a run, see ``hold(_:evenImpatient:)``.
    public struct Receipt: Sendable, BitwiseCopyable {
        let publisher: PortAddress
        let token: UInt32
    }

    /// The token of the receipts for the run being delivered.
    final func receiptToken() -> UInt32 {
        if runToken == 0 {
            runToken = nextToken
            nextToken = nextToken == .max ? 1 : nextToken + 1
        }
        return runToken
    }

    /// Called by a port that is being delivered a guaranteed run and has taken it although it is full: the publisher
    /// waits until ``answer(_:refused:)`` is called with what this returns.
    /// - Parameter evenImpatient: whether publishers that are not patient wait, too. Their clients have no other way to
    ///   be told that they are too fast than an acknowledgement that comes late, so this is for what would be lost
    ///   otherwise although nobody is slow on purpose: the way to other nodes.
    /// - Returns: nil when the publisher cannot wait.
    public final func hold(_ run: UnsafePointer<EventRun>, evenImpatient: Bool = false) -> Receipt? {
        guard run.pointee.isPatient || evenImpatient, run.pointee.publisher != .none, run.pointee.qos > 0 else {
            return nil
        }
        // On the way from another lane the token is the publisher's lane's; without one nobody waits.
        guard runToken != 0 || run.pointee.publisher.lane == number else { return nil }
        held += 1
        heldRuns += 1
        return Receipt(publisher: run.pointee.publisher, token: receiptToken())
    }

    /// A port that held a run has room again, or gives it up.
    public final func answer(_ receipt: Receipt, refused: Int = 0) {
        heldRuns -= 1
        if receipt.publisher.lane == number {
            // Not at once: this may be in the middle of a conversation, and the publisher's is another one.
            deferred.append(.receipt(receipt, refused: refused))
        } else {
            stageReceipt(to: receipt.publisher, token: receipt.token, refused: refused, more: 0)
        }
    }

    // MARK: Costly matching

    /// What a turn may spend on look-ups in the index before the next ones are made smaller, and what a pass may before
    /// connections let each other go first: about a millisecond.
    private static let matchingBudget = 8_192

    /// What look-ups in the index have cost in this pass, in nodes and subscriptions.
    final var matchingWork = 0

    /// Whether a connection should leave what else it has for the next pass, so that others have their turn.
    public final var isMatchingCostly: Bool { matchingWork > Self.matchingBudget }

    /// Notes other work that a peer may ask for at will, such as attaching links; a unit is about a tenth of a
    /// microsecond.
    public final func note(work: Int) { matchingWork &+= work }

    /// A turn has been routed. When very many filters match every topic, as somebody may have subscribed on purpose, a
    /// turn of many topics would keep the lane for seconds: from then on turns have fewer runs, and more again little
    /// by little, by ``forgiveCostlyTurns()``.
    final func judge(_ turn: Turn, cost: Int) {
        if cost > Self.matchingBudget, turn.runCount > 1 {
            turn.runCeiling = max(1, min(turn.runCeiling, turn.runCount * Self.matchingBudget / cost))
            turn.runLimit = turn.runCeiling
        } else {
            turn.runLimit = min(turn.runLimit * 2, turn.runCeiling)
        }
    }

    /// Called about once a second.
    public final func forgiveCostlyTurns() { turn.runCeiling = min(turn.runCeiling + 4, Turn.runCapacity) }

    // MARK: Alarms

    /// The time of the next alarm; nil for none. The loop does not wait longer.
    public final var nextAlarm: UInt64? {
        var next = UInt64.max
        for alarm in alarms { next = min(next, alarm.at) }
        return next == .max ? nil : next
    }

    /// Calls the alarms whose time has come; the loop calls it once a pass, after sockets and mail.
    public final func ringAlarms() {
        for alarm in alarms where alarm.at <= now {
            alarm.at = .max
            alarm.ring(self)
        }
    }

    // MARK: Work in portions

    /// What is spent in one pass on work in portions: some ten microseconds while others use the lane, so that they
    /// notice little of it, and a few hundred when nobody has for a while.
    private static let (smallPortion, largePortion) = (32, 1_024)
    private static let quietPassesForLarge = 64

    /// Passes since the loop last had anything else to do; kept by the loop.
    public final var quietPasses = 0

    /// Ports that have something long to do, in turn.
    private final var workers: [PortAddress] = []

    /// Whether the loop must not wait, because ``doWork()`` has something to do.
    public final var hasWork: Bool { !workers.isEmpty }

    /// Calls ``Port/work(_:on:)`` from the end of this pass on, until it has nothing more to do.
    public final func workLater(_ port: Port) {
        guard !port.isWorking else { return }
        port.isWorking = true
        workers.append(port.address)
    }

    /// Lets ports go on in turn until a pass's share of time is used up; the loop calls it once a pass, before it
    /// sends.
    public final func doWork() {
        guard !workers.isEmpty else { return }
        var budget = quietPasses < Self.quietPassesForLarge ? Self.smallPortion : Self.largePortion
        var turn = workers
        workers = []
        var done = 0
        while done < turn.count, budget > 0 {
            let address = turn[done]
            done += 1
            guard let port = port(at: address) else { continue }
            // At least something for each, so that the budget ends.
            budget -= 1
            if port.work(&budget, on: self) { turn.append(address) } else { port.isWorking = false }
        }
        workers.insert(contentsOf: turn[done...], at: 0)
    }

    // MARK: Routing

    /// The match caches of all routers that were used here.
    final var matchCaches: [MatchCache] { caches.compactMap { $0 } }

    final func cache(for router: Router) -> MatchCache {
        if router.number < caches.count, let cache = caches[router.number] { return cache }
        while caches.count <= router.number { caches.append(nil) }
        let cache = MatchCache(key: router.hashKey, lane: number)
        caches[router.number] = cache
        return cache
    }

    /// Publishes an owned event once the current turn is over: wills, and whatever else the node itself sends.
    public final func publishLater(_ event: Event, as principal: Principal) {
        deferred.append(.publish(event, principal))
    }

    /// Gives an event of a shared group that its member can no longer take to another member, once the current turn is
    /// over.
    public final func redistributeLater(_ event: Event, group: UInt32, in router: Router) {
        deferred.append(.redistribute(event, group: group, router))
    }

    /// Whether something has been put off, or mail staged, since the loop last had it routed and posted: a conversation
    /// that sends at the end of a pass may do so. Then the loop must not wait.
    public final var hasPutOff: Bool { !deferred.isEmpty || hasStaged }

    /// Routes what was put off; the loop calls it after every turn's end and before it sends.
    public final func routeDeferred() {
        guard !deferred.isEmpty else { return }
        // A will may close nobody, so this ends; what is added meanwhile is routed as well.
        while !deferred.isEmpty {
            let batch = deferred
            deferred = []
            for item in batch {
                switch item {
                case .publish(let event, let principal): principal.router.publish(event, as: principal, on: self)
                case .redistribute(let event, let group, let router):
                    router.redistribute(event, group: group, on: self)
                case .receipt(let receipt, let refused):
                    port(at: receipt.publisher)?
                        .receiptArrived(token: receipt.token, refused: refused, more: 0, on: self)
                }
            }
        }
    }
}
