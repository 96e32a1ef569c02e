import Core

/// What was published, who wanted it and who got it: the memory of the oracles.
final class Ledger {
    struct Delivery {
        var listener: Int
        var at: UInt64
        /// Whether it was a stored value rather than the event.
        var isRetained: Bool
    }

    /// One event.
    struct Message {
        /// Publisher in one life of its node: what order holds within.
        var publisher: Int
        /// Counts the publisher's events of the same kind (direct or guaranteed).
        var number: Int
        var station: Int
        var life: Int
        var topic: Int
        var qos: UInt8
        var isRetained: Bool
        /// An empty retained event; it carries no number, so nobody can say who was given it.
        var isDelete = false
        var at: UInt64
        /// When everybody, the publisher's node among them, agreed on everything the last time before; 0 for never in
        /// its life.
        var agreedAt: UInt64 = 0
        /// The publisher has been told that it is safe.
        var isSettled = false
        var deliveries: [Delivery] = []
    }

    /// A filter that a listener had for a time.
    struct Wish {
        var filter: TopicFilter
        var since: UInt64
        var until = UInt64.max
    }

    /// A subscriber in one life of its node.
    final class Listener {
        let number: Int
        let station: Int
        let life: Int
        /// Members of a shared group get a part only; nil for others.
        let group: String?
        var wishes: [Wish] = []
        /// The newest number had, by publisher and kind.
        var newest: [Int: Int] = [:]
        /// The node's process has ended, or the listener has gone.
        var goneAt = UInt64.max
        /// Retained events it was given, by topic: message numbers in order.
        var received = 0

        init(number: Int, station: Int, life: Int, group: String?) {
            self.number = number
            self.station = station
            self.life = life
            self.group = group
        }

        /// Whether it wanted a topic all the time from `start` to `end`, by one and the same wish.
        func wanted(_ topic: [UInt8], from start: UInt64, to end: UInt64) -> Bool {
            goneAt >= end
                && wishes.contains { wish in
                    wish.since <= start && wish.until >= end && topic.withUnsafeBytes { wish.filter.matches($0) }
                }
        }

        /// Whether it may have wanted a topic at some time from `start` to `end`.
        func mayHaveWanted(_ topic: [UInt8], from start: UInt64, to end: UInt64) -> Bool {
            wishes.contains { wish in
                wish.since <= end && wish.until >= start && topic.withUnsafeBytes { wish.filter.matches($0) }
            }
        }
    }

    private(set) var messages: [Message] = []
    private(set) var listeners: [Listener] = []
    private(set) var publishers = 0
    private(set) var deliveryCount = 0
    let topics = Topics.all.map { Array($0.utf8) }

    func addPublisher() -> Int {
        publishers += 1
        return publishers - 1
    }

    func addListener(station: Int, life: Int, group: String?) -> Listener {
        let listener = Listener(number: listeners.count, station: station, life: life, group: group)
        listeners.append(listener)
        return listener
    }

    func add(_ message: Message) -> Int {
        messages.append(message)
        return messages.count - 1
    }

    func settle(_ number: Int) { messages[number].isSettled = true }

    func deliver(_ number: Int, _ delivery: Delivery) {
        messages[number].deliveries.append(delivery)
        deliveryCount += 1
    }
}

/// An invariant that does not hold.
struct Violation: Equatable, Codable {
    /// I1 to I21, as the design counts them.
    var invariant: String
    var text: String
    /// Microseconds.
    var at: UInt64
}
