/// What outlives a connection: the port that a durable subscriber's events go to, whether or not a conversation is
/// attached to it. Subscriptions are not here but in the router's index, under the port's number; windows of what is
/// on the wire are the protocol's own and belong to its subclass.
///
/// Threading: belongs to one lane, and stays there (`docs/decisions/0001`).
open class Inbox: Port {
    /// Its place among the absent ones; -1 while attached.
    final var absentPlace: Int32 = -1
    /// Who the events are for.
    public final private(set) var principal: Principal
    /// The attached connection's output. Unmanaged, so that a delivery costs no reference count: the connection
    /// outlives its attachment, because ``detach()`` is called before it ends.
    public final private(set) var attachedLink: Unmanaged<Link>?
    /// Guaranteed events that wait for their turn, and direct ones that came behind them.
    public final private(set) var waiting = EventQueue()
    /// When something is to be done about it if nobody comes back, in the lane's milliseconds; 0 while attached.
    public final internal(set) var dueAt: UInt64 = 0

    /// Makes an inbox that nobody is attached to.
    public init(principal: Principal, takesPacked: Bool = false) {
        self.principal = principal
        judgedBy = UInt32(truncatingIfNeeded: principal.router.accessVersion)
        super.init(takesPacked: takesPacked)
    }

    /// The attached connection's output, if there is one.
    public final var link: Link? { attachedLink?.takeUnretainedValue() }

    /// A connection takes the inbox over.
    public final func attach(_ link: Link, principal: Principal) {
        attachedLink = Unmanaged.passUnretained(link)
        let former = self.principal
        self.principal = principal
        guard former !== principal else { return }
        _ = principal.router.replaceReader(of: self, principal)
        // Also where nothing is subscribed to any more: something may be left of what was.
        if !former.reader.hasSameRights(as: principal.reader) { judgeKept() }
    }

    /// What waits, and what was sent and may be sent again, was matched under other rights than the reader may have
    /// now: it is looked at before it is sent.
    public final func judgeKept() {
        judgesWaiting = !waiting.isEmpty
        judgesSent = true
        judgedBy = UInt32(truncatingIfNeeded: principal.router.accessVersion)
    }

    open override func rightsChanged(on lane: Lane) { judgeKept() }

    /// Whether an event that was sent before may be sent again.
    /// - Parameter group: the shared group that it is this member's share of; 0 for none.
    public final func maySendAgain(_ event: Event, group: UInt32) -> Bool {
        noticeRules()
        return !judgesSent || mayTake(event, group: group)
    }

    /// Rules that were reloaded while nothing was subscribed to have told nobody.
    private final func noticeRules() {
        if UInt32(truncatingIfNeeded: principal.router.accessVersion) != judgedBy { judgeKept() }
    }

    /// The connection is gone. From here on direct events pass by and guaranteed ones wait.
    public final func detach() { attachedLink = nil }

    /// Lets an event wait.
    /// - Returns: false when ``Limits/maxQueuedEvents`` or ``Limits/maxQueuedBytes`` is reached and the event was
    ///   dropped and counted; by ``Limits/queueFull`` the oldest ones make room for it.
    public final func wait(_ entry: EventQueue.Entry, on lane: Lane) -> Bool {
        while !hasRoom(for: entry.event, lane.limits) {
            lane.counters.drop(.queueFull)
            guard lane.limits.queueFull == .dropOldest, popWaiting(on: lane) != nil else { return false }
        }
        waiting.append(entry)
        lane.queuedEvents += 1
        lane.queuedBytes += entry.event.cost
        return true
    }

    /// Lets a guaranteed event wait beyond the limits, because its publisher is held meanwhile (``Lane/hold(_:)``).
    public final func waitBeyondLimits(_ entry: EventQueue.Entry, on lane: Lane) {
        waiting.append(entry)
        lane.queuedEvents += 1
        lane.queuedBytes += entry.event.cost
    }

    private final func popWaiting(on lane: Lane) -> EventQueue.Entry? {
        guard let entry = waiting.popFirst() else { return nil }
        lane.queuedEvents -= 1
        lane.queuedBytes -= entry.event.cost
        return entry
    }

    // MARK: Leaving a shared group

    /// Gives what the client has not taken of its shared groups to other members (MQTT 5 §4.8.2): while the inbox lives
    /// only to those that are present, when it ends to any. First what was sent, then what waits: the order in which it
    /// was published.
    /// - Parameter takeSent: takes what was sent and may leave, by the group; what may not stays with the protocol.
    /// - Returns: how many events waited that nobody else can take: they stay, or end with the inbox.
    @discardableResult
    public final func shareOut(
        isEnding: Bool, on lane: Lane, takeSent: (_ mayLeave: (UInt32) -> Bool) -> [(Event, UInt32)]
    ) -> Int {
        let router = principal.router
        var answers: [UInt32: Bool] = [:]
        func mayLeave(_ group: UInt32) -> Bool {
            if group == 0 || isEnding { return group != 0 }
            if let known = answers[group] { return known }
            let answer = router.hasPresentMember(group)
            answers[group] = answer
            return answer
        }
        for (event, group) in takeSent(mayLeave) { lane.redistributeLater(event, group: group, in: router) }
        var queue = takeWaiting(on: lane)
        var kept = EventQueue()
        while let entry = queue.popFirst() {
            if mayLeave(entry.group) {
                lane.redistributeLater(entry.event, group: entry.group, in: router)
            } else {
                kept.append(entry)
            }
        }
        if !isEnding { putBack(kept, on: lane) }
        return kept.count
    }

    // MARK: Management

    /// What it tells about itself, with at most `maxSubscriptions` of its subscriptions.
    open func describe(on lane: Lane, maxSubscriptions: Int) -> InboxDescription {
        InboxDescription(of: self, on: lane, maxSubscriptions: maxSubscriptions)
    }

    /// Ends the connection, if there is one, and with `endsSession` all that would have waited for the next.
    /// Never called from within a conversation.
    open func kick(endsSession: Bool, on lane: Lane) { link?.close(.administrative) }

    /// Switches the log of its connections' packets on or off.
    /// - Returns: false when its protocol has none.
    open func setTrace(_ isOn: Bool, on lane: Lane) -> Bool { false }

    // MARK: Moving to another node; see SessionMoving.swift

    /// Another node claims the session: its connection is closed. Never called from within a conversation, as all that
    /// follows.
    /// - Parameter user: who claims it.
    open func surrender(_ mode: SurrenderMode, to user: String?, on lane: Lane) -> Surrender { .nothing }

    /// All that is in the session, to be sent to the other node. It stays here until ``handOver(on:)`` or
    /// ``keep(on:)``; what comes from now on waits behind it.
    open func packContents(on lane: Lane) -> [UInt8]? { nil }

    /// The other node has the contents. What still comes in is for ``packTail(on:)``, until ``retire(on:)``.
    open func handOver(on lane: Lane) {}

    /// What has come in since, to be sent after the contents; nil when there is nothing.
    open func packTail(on lane: Lane) -> [UInt8]? { nil }

    /// The other node has not taken the session: it stays here.
    open func keep(on lane: Lane) {}

    /// It is over; nobody is told, and no will is published.
    open func retire(on lane: Lane) {}

    /// At the other node: puts the contents in front of what has come in since the session was made.
    /// - Returns: false when they make no sense.
    open func unpackContents(_ bytes: [UInt8], on lane: Lane) -> Bool { false }

    /// At the other node: adds what came late, leaving out what is here already.
    /// - Returns: false when it makes no sense.
    open func unpackTail(_ bytes: [UInt8], on lane: Lane) -> Bool { false }

    /// Whether one more event may wait.
    public final func hasRoom(for event: Event, _ limits: Limits) -> Bool {
        waiting.count < limits.maxQueuedEvents && waiting.bytes + event.cost <= limits.maxQueuedBytes
    }

    /// Takes the event that has waited longest; those whose time is over are dropped and counted.
    public final func nextWaiting(on lane: Lane) -> EventQueue.Entry? {
        noticeRules()
        while let entry = popWaiting(on: lane) {
            if entry.event.isExpired(at: lane.now) {
                lane.counters.drop(.expired)
            } else if !judgesWaiting || mayTake(entry.event, group: entry.group) {
                return entry
            } else if entry.group == 0 {
                lane.counters.drop(.notReadable)
            } else {
                lane.redistributeLater(entry.event, group: entry.group, in: principal.router)
            }
        }
        judgesWaiting = false
        return nil
    }

    /// Whether the reader may have an event now. Of a shared group that is everybody who may be a member.
    private final func mayTake(_ event: Event, group: UInt32) -> Bool {
        guard group != 0, let filter = principal.router.filter(ofGroup: group) else {
            // Where the node itself has subscribed for its client no rules are asked.
            return principal.mayRead(event.topic) || principal.router.isNodesOwn(self)
        }
        return principal.reach(filter).reach != .nothing
    }

    /// Takes everything that waits.
    public final func takeWaiting(on lane: Lane) -> EventQueue {
        defer { waiting = EventQueue() }
        count(waiting, -1, on: lane)
        return waiting
    }

    /// Puts back what was taken, in order, while nothing else waits.
    public final func putBack(_ queue: EventQueue, on lane: Lane) {
        waiting = queue
        count(queue, 1, on: lane)
    }

    /// Whether what waits is part of the lane's sums.
    private final var isCounted = true
    /// Whether what waits is to be looked at before it is sent.
    private final var judgesWaiting = false
    /// The same for what was sent and may be sent again.
    private final var judgesSent = false
    /// The version of the access rules that all that was noticed by.
    private final var judgedBy: UInt32

    private final func count(_ queue: EventQueue, _ sign: Int, on lane: Lane) {
        guard isCounted else { return }
        lane.queuedEvents += sign * queue.count
        lane.queuedBytes += sign * queue.bytes
    }

    /// What waits is still there to be given to others, but no longer counts as the lane's.
    public final override func unregistered(on lane: Lane) {
        count(waiting, -1, on: lane)
        isCounted = false
    }
}

/// Events in the order they came, oldest first.
public struct EventQueue {
    /// One event and how it is to be delivered.
    public struct Entry {
        /// The event.
        public var event: Event
        /// Quality of service for this subscriber.
        public var qos: UInt8
        /// Whether it goes out as a retained event.
        public var isRetained: Bool
        /// The shared group that it is this member's share of; 0 for none.
        public var group: UInt32
        /// Identifiers of the subscriptions that matched.
        public var identifiers: [UInt32]

        /// Makes an entry.
        public init(event: Event, qos: UInt8, isRetained: Bool, group: UInt32 = 0, identifiers: [UInt32] = []) {
            self.event = event
            self.qos = qos
            self.isRetained = isRetained
            self.group = group
            self.identifiers = identifiers
        }
    }

    private var entries: [Entry?] = []
    private var head = 0
    /// What the events count for in limits.
    public private(set) var bytes = 0

    /// Events in the queue.
    public var count: Int { entries.count - head }
    /// Whether there is none.
    public var isEmpty: Bool { head == entries.count }

    /// A queue with nothing in it.
    public init() {}

    /// Adds an event behind all others.
    public mutating func append(_ entry: Entry) {
        bytes += entry.event.cost
        entries.append(entry)
    }

    /// Takes the oldest event.
    public mutating func popFirst() -> Entry? {
        guard head < entries.count, let entry = entries[head] else { return nil }
        entries[head] = nil
        head += 1
        bytes -= entry.event.cost
        if head == entries.count {
            // An empty queue holds no memory: most sessions of a fleet never queue anything.
            entries = []
            head = 0
        } else if head >= 1_024, head * 2 > entries.count {
            entries.removeFirst(head)
            head = 0
        }
        return entry
    }
}

/// Inboxes of a lane that wait for their clients, the next one due on top: a binary heap that knows where each inbox
/// is, so that one whose client is back leaves it at once. Confined to the lane.
public final class AbsentInboxes {
    private var heap: [Inbox] = []

    /// Makes an empty list.
    public init() {}

    /// Inboxes that wait.
    public var count: Int { heap.count }

    /// Adds an inbox that has just been detached, or changes when it is due.
    public func add(_ inbox: Inbox, dueAt: UInt64) {
        remove(inbox)
        inbox.dueAt = dueAt
        inbox.absentPlace = Int32(heap.count)
        heap.append(inbox)
        rise(heap.count - 1)
    }

    /// Removes an inbox whose client is back, or that has ended.
    public func remove(_ inbox: Inbox) {
        let place = Int(inbox.absentPlace)
        guard place >= 0 else { return }
        inbox.absentPlace = -1
        inbox.dueAt = 0
        let last = heap.removeLast()
        guard last !== inbox else { return }
        put(last, at: place)
        rise(place)
        sink(Int(last.absentPlace))
    }

    /// Takes out the inboxes whose time has come and calls `body` with each, which may add it again.
    public func takeDue(at now: UInt64, _ body: (Inbox) -> Void) {
        while let first = heap.first, first.dueAt <= now {
            remove(first)
            body(first)
        }
    }

    private func put(_ inbox: Inbox, at place: Int) {
        heap[place] = inbox
        inbox.absentPlace = Int32(place)
    }

    private func rise(_ start: Int) {
        var place = start
        let inbox = heap[place]
        while place > 0, heap[(place - 1) / 2].dueAt > inbox.dueAt {
            put(heap[(place - 1) / 2], at: place)
            place = (place - 1) / 2
        }
        put(inbox, at: place)
    }

    private func sink(_ start: Int) {
        var place = start
        let inbox = heap[place]
        while place * 2 + 1 < heap.count {
            var child = place * 2 + 1
            if child + 1 < heap.count, heap[child + 1].dueAt < heap[child].dueAt { child += 1 }
            guard heap[child].dueAt < inbox.dueAt else { break }
            put(heap[child], at: place)
            place = child
        }
        put(inbox, at: place)
    }
}
