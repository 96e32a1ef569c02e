import Core

/// The last events of a channel under consecutive numbers, for readers that come back. A ring that grows by doubling;
/// an empty one holds no memory. The channel sees to its bounds.
struct EventWindow {
    /// One event.
    struct Entry {
        /// The event; nil when another member of the shared group has got it.
        var event: Event?
        /// The shared group that it is this channel's share of; 0 for none.
        var group: UInt32
    }

    private var ring: [Entry?] = []
    private var start = 0
    private(set) var count = 0
    /// What the events count for in limits.
    private(set) var bytes = 0
    /// The number that the next event gets; the first is 1.
    private(set) var next: UInt64 = 1

    /// The number of the oldest event that is there, or that will be.
    var first: UInt64 { next - UInt64(count) }

    /// Takes an event in.
    /// - Returns: what it counts for.
    @discardableResult
    mutating func append(_ event: Event, group: UInt32) -> Int {
        if count == ring.count { grow() }
        ring[(start + count) & (ring.count - 1)] = Entry(event: event, group: group)
        count += 1
        next += 1
        bytes += event.cost
        return event.cost
    }

    /// Takes the oldest out.
    mutating func removeFirst() -> Entry? {
        guard count > 0, let entry = ring[start] else { return nil }
        ring[start] = nil
        start = (start + 1) & (ring.count - 1)
        count -= 1
        bytes -= entry.event?.cost ?? 0
        if count == 0 { (ring, start) = ([], 0) }
        return entry
    }

    /// The event of a number; nil when it is not there any more.
    func event(_ number: UInt64) -> Event? { entry(number)?.event }

    /// The event of a number with its group; nil when it is not there any more.
    func entry(_ number: UInt64) -> Entry? {
        guard number >= first, number < next else { return nil }
        return ring[place(number)]
    }

    /// Takes an event out, because somebody else gets it. Its number stays.
    mutating func giveAway(_ number: UInt64) -> Entry? {
        guard let entry = entry(number), let event = entry.event else { return nil }
        ring[place(number)]?.event = nil
        bytes -= event.cost
        return entry
    }

    private func place(_ number: UInt64) -> Int { (start + Int(number - first)) & (ring.count - 1) }

    private mutating func grow() {
        var larger = [Entry?](repeating: nil, count: max(4, ring.count * 2))
        for index in 0..<count { larger[index] = ring[(start + index) & (ring.count - 1)] }
        (ring, start) = (larger, 0)
    }
}
