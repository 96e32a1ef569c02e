/// A queue in one piece of memory that grows and, once it is empty, gives its memory back: what streams keep in the
/// order of their counters.
struct Ring<Element> {
    private var slots: [Element?] = []
    private var head = 0
    private(set) var count = 0

    private static var smallest: Int { 16 }
    /// More than this is given back when the queue is empty.
    private static var kept: Int { 256 }

    var isEmpty: Bool { count == 0 }

    /// Memory it has, in elements.
    var capacity: Int { slots.count }

    @inline(__always)
    private func place(_ index: Int) -> Int { (head &+ index) & (slots.count &- 1) }

    /// The element at an index from 0, which must be below ``count``.
    subscript(index: Int) -> Element {
        get {
            precondition(index >= 0 && index < count)
            return slots[place(index)].unsafelyUnwrapped
        }
        _modify {
            precondition(index >= 0 && index < count)
            let place = place(index)
            var element = slots[place].unsafelyUnwrapped
            defer { slots[place] = element }
            yield &element
        }
    }

    var first: Element? { count == 0 ? nil : slots[head] }

    mutating func append(_ element: Element) {
        if count == slots.count { grow() }
        slots[place(count)] = element
        count += 1
    }

    mutating func prepend(_ element: Element) {
        if count == slots.count { grow() }
        head = (head &- 1) & (slots.count - 1)
        slots[head] = element
        count += 1
    }

    mutating func popFirst() -> Element? {
        guard count > 0 else { return nil }
        let element = slots[head]
        slots[head] = nil
        head = (head + 1) & (slots.count - 1)
        count -= 1
        if count == 0, slots.count > Self.kept { self = Ring() }
        return element
    }

    mutating func popLast() -> Element? {
        guard count > 0 else { return nil }
        let place = place(count - 1)
        let element = slots[place]
        slots[place] = nil
        count -= 1
        if count == 0, slots.count > Self.kept { self = Ring() }
        return element
    }

    private mutating func grow() {
        var larger: [Element?] = []
        larger.reserveCapacity(max(slots.count * 2, Self.smallest))
        for index in 0..<count { larger.append(slots[place(index)]) }
        larger.append(contentsOf: repeatElement(nil, count: max(slots.count * 2, Self.smallest) - count))
        slots = larger
        head = 0
    }
}
