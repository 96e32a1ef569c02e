/// Retained events that new subscriptions of a port begin with (MQTT 5 §3.8.4): looked up in bounded steps, and sent no
/// faster than the client takes them. Confined to the port's lane.
public final class RetainedDelivery {
    /// A subscription that has been granted.
    public struct Start {
        /// What is subscribed to.
        public var filter: TopicFilter
        /// The quality of service that was granted.
        public var qos: UInt8
        /// The client's number for the subscription; 0 for none.
        public var identifier: UInt32

        /// Makes a start.
        public init(filter: TopicFilter, qos: UInt8, identifier: UInt32) {
            self.filter = filter
            self.qos = qos
            self.identifier = identifier
        }
    }

    /// What is spent at once on the subscriptions of one packet, see ``Port/work(_:on:)``.
    public static let firstBudget = 128

    private var starts: [Start] = []
    private var first = 0
    private var cursor: RetainedCursor?
    private var found: [Event] = []
    private var sent = 0

    /// No subscriptions yet.
    public init() {}

    /// Subscriptions that have not had all of theirs.
    public var count: Int { starts.count - first }

    /// What is subscribed to with them; the first may have had a part of its events.
    public var filters: [TopicFilter] { starts[first...].map(\.filter) }

    /// Adds a subscription behind the others.
    public func add(_ start: Start) { starts.append(start) }

    /// The client no longer wants a filter's events.
    public func remove(_ filter: TopicFilter) {
        guard let index = starts[first...].firstIndex(where: { $0.filter == filter }) else { return }
        if index == first { (cursor, found, sent) = (nil, [], 0) }
        starts.remove(at: index)
    }

    /// What became of a portion of work.
    public enum Progress {
        /// Everything has been sent.
        case done
        /// The budget is used up.
        case more
        /// The client takes no more for now.
        case blocked
    }

    /// Looks up and sends a portion.
    /// - Parameters:
    ///   - budget: nodes that may be visited and events that may be sent; what was used is taken off.
    ///   - principal: who reads: what it may not read is left out and counted.
    ///   - send: sends an event, or says that there is no room for it.
    public func work(
        _ budget: inout Int, as principal: Principal, on lane: Lane, send: (Event, Start) -> Bool
    ) -> Progress {
        let router = principal.router
        // What an earlier call has left may be older by now than what the client has been sent meanwhile, or deleted.
        var mayBeOld = true
        while first < starts.count {
            let start = starts[first]
            while sent < found.count {
                let event = found[sent]
                if !principal.mayRead(event.topic) {
                    lane.counters.drop(.notReadable)
                } else if let event = mayBeOld ? router.retained(event.topic, now: lane.now) : event,
                    !send(event, start)
                {
                    return .blocked
                }
                sent += 1
                budget -= 1
            }
            if let cursor, cursor.isFinished {
                (self.cursor, found, sent) = (nil, [], 0)
                first += 1
                continue
            }
            guard budget > 0 else { return .more }
            let cursor = self.cursor ?? router.retainedCursor(matching: start.filter)
            self.cursor = cursor
            router.advance(cursor, nodes: min(budget, RetainedCursor.nodesPerStep), now: lane.now)
            budget -= cursor.visitedNodes
            (found, sent, mayBeOld) = (cursor.events, 0, false)
        }
        return .done
    }
}
