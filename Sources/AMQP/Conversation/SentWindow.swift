import Core

/// Events that were sent and may come back, under small numbers that are used again. Number 0 means none.
struct SentWindow {
    /// An event and how often it has been sent in vain.
    struct Entry {
        var event: Event
        var group: UInt32
        var deliveryCount: UInt32 = 0
        /// The order in which events were first sent.
        var serial: UInt64 = 0

        init(event: Event, group: UInt32) {
            self.event = event
            self.group = group
        }
    }

    private var entries: [Entry?] = []
    private var free: [Int] = []
    private var nextSerial: UInt64 = 1
    /// What the events count for in limits.
    private(set) var bytes = 0

    /// Notes an event that is being sent.
    /// - Returns: its number.
    mutating func add(_ entry: Entry) -> Int {
        var entry = entry
        if entry.serial == 0 {
            entry.serial = nextSerial
            nextSerial += 1
        }
        bytes += entry.event.cost
        if let place = free.popLast() {
            entries[place] = entry
            return place + 1
        }
        entries.append(entry)
        return entries.count
    }

    /// Forgets an event.
    mutating func take(_ number: Int) -> Entry? {
        guard number > 0, number <= entries.count, let entry = entries[number - 1] else { return nil }
        entries[number - 1] = nil
        free.append(number - 1)
        bytes -= entry.event.cost
        return entry
    }

    /// Forgets all events.
    mutating func takeAll() -> [Entry] {
        defer { (entries, free, bytes) = ([], [], 0) }
        return entries.compactMap { $0 }
    }
}

/// Events that came back, in whatever order, and leave in the one in which they were first sent: a binary heap, so that
/// a client that gives ten thousand back from behind costs no more than another.
struct ReturnedEvents {
    private var heap: [SentWindow.Entry] = []

    /// Whether there is none.
    var isEmpty: Bool { heap.isEmpty }

    var count: Int { heap.count }

    /// Adds an event.
    mutating func add(_ entry: SentWindow.Entry) {
        heap.append(entry)
        var place = heap.count - 1
        while place > 0, heap[place].serial < heap[(place - 1) / 2].serial {
            heap.swapAt(place, (place - 1) / 2)
            place = (place - 1) / 2
        }
    }

    /// Takes the event that was sent first.
    mutating func next() -> SentWindow.Entry? {
        guard let last = heap.popLast() else { return nil }
        guard let first = heap.first else { return last }
        heap[0] = last
        sink()
        return first
    }

    private mutating func sink() {
        var place = 0
        while place * 2 + 1 < heap.count {
            var child = place * 2 + 1
            if child + 1 < heap.count, heap[child + 1].serial < heap[child].serial { child += 1 }
            guard heap[child].serial < heap[place].serial else { return }
            heap.swapAt(place, child)
            place = child
        }
    }

    /// Takes all events, the one that was sent first in front.
    mutating func takeAll() -> [SentWindow.Entry] {
        defer { heap = [] }
        return heap.sorted { $0.serial < $1.serial }
    }
}

/// Receipts of publishers that wait, oldest first.
struct HeldReceipts {
    private var receipts: [Lane.Receipt] = []
    private var first = 0

    /// Whether nobody waits.
    var isEmpty: Bool { first == receipts.count }

    /// Adds a receipt.
    mutating func add(_ receipt: Lane.Receipt) { receipts.append(receipt) }

    /// Takes the oldest receipt.
    mutating func next() -> Lane.Receipt? {
        guard first < receipts.count else { return nil }
        let receipt = receipts[first]
        first += 1
        if first == receipts.count {
            (receipts, first) = ([], 0)
        } else if first >= 1_024, first * 2 > receipts.count {
            receipts.removeFirst(first)
            first = 0
        }
        return receipt
    }
}
