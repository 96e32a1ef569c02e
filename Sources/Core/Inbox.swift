/// What outlives a connection: the port that a durable subscriber's events go to, whether or not a conversation is
/// attached to it. Subscriptions are not here but in the router's index, under the port's number; windows of what is
/// on the wire are the protocol's own and belong to its subclass.
///
/// Threading: belongs to one lane, and stays there (`docs/decisions/0001`).
open class Inbox: Port {
    /// Who the events are for.
    public final private(set) var principal: Principal
    /// The attached connection's output. Unmanaged, so that a delivery costs no reference count: the connection
    /// outlives its attachment, because ``detach()`` is called before it ends.
    public final private(set) var attachedLink: Unmanaged<Link>?
    /// Guaranteed events that wait for their turn, and direct ones that came behind them.
    public final private(set) var waiting = EventQueue()
    /// When it will end if nobody comes back, in the lane's milliseconds; 0 while attached.
    public final internal(set) var expiresAt: UInt64 = 0

    /// Makes an inbox that nobody is attached to.
    public init(principal: Principal) { self.principal = principal }

    /// The attached connection's output, if there is one.
    public final var link: Link? { attachedLink?.takeUnretainedValue() }

    /// A connection takes the inbox over.
    public final func attach(_ link: Link, principal: Principal) {
        attachedLink = Unmanaged.passUnretained(link)
        self.principal = principal
        expiresAt = 0
    }

    /// The connection is gone. From here on direct events pass by and guaranteed ones wait.
    public final func detach() { attachedLink = nil }

    /// Lets an event wait.
    /// - Returns: false when ``Limits/maxQueuedEvents`` or ``Limits/maxQueuedBytes`` is reached; the event is dropped
    ///   and counted.
    public final func wait(_ entry: EventQueue.Entry, on lane: Lane) -> Bool {
        guard waiting.count < lane.limits.maxQueuedEvents,
            waiting.bytes + entry.event.cost <= lane.limits.maxQueuedBytes
        else {
            lane.counters.drop(.queueFull)
            return false
        }
        waiting.append(entry)
        return true
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
    open func setTrace(_ isOn: Bool, on lane: Lane) {}

    /// Takes the event that has waited longest.
    public final func nextWaiting() -> EventQueue.Entry? { waiting.popFirst() }
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

        /// Makes an entry.
        public init(event: Event, qos: UInt8, isRetained: Bool) {
            self.event = event
            self.qos = qos
            self.isRetained = isRetained
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

    mutating func append(_ entry: Entry) {
        bytes += entry.event.cost
        entries.append(entry)
    }

    mutating func popFirst() -> Entry? {
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

/// Inboxes of a lane that wait for their clients, in the order they will end. Confined to the lane.
public final class AbsentInboxes {
    private struct Entry {
        var address: PortAddress
        var expiresAt: UInt64
    }

    private var entries: [Entry] = []
    private var head = 0

    /// Makes an empty list.
    public init() {}

    /// Adds an inbox that has just been detached. All of one list wait equally long.
    public func add(_ inbox: Inbox, expiresAt: UInt64) {
        inbox.expiresAt = expiresAt
        entries.append(Entry(address: inbox.address, expiresAt: expiresAt))
    }

    /// Calls `body` with each inbox whose time has come; one that has been attached since is passed over.
    public func expire(on lane: Lane, _ body: (Inbox) -> Void) {
        while head < entries.count, entries[head].expiresAt <= lane.now {
            let entry = entries[head]
            head += 1
            guard let inbox = lane.port(at: entry.address) as? Inbox, inbox.expiresAt == entry.expiresAt else {
                continue
            }
            body(inbox)
        }
        if head > 1_024, head * 2 > entries.count {
            entries.removeFirst(head)
            head = 0
        }
    }
}
