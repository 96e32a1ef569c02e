/// At a destination: which direct frames of an origin's lane are new, late or early. Order is strict: what is late is
/// dropped. While routes change, early frames are held for a moment, because those in front of them may come another
/// way. Confined to the mesh's lane.
struct ArrivalOrder {
    /// What to do with a frame.
    enum Verdict { case deliver, late, hold }

    /// A frame that is held.
    struct Held {
        var counter: UInt32
        var frame: [UInt8]
        var until: UInt64
    }

    /// For how long a frame is held, in milliseconds.
    static let holdMilliseconds: UInt64 = 100
    /// For how long after a change of routes frames are held at all.
    static let unrestMilliseconds: UInt64 = 2_000

    private var last: UInt32 = 0
    private(set) var hasBegun = false
    /// By counter, ascending.
    private(set) var held: [Held] = []
    /// Bytes of them.
    private(set) var heldBytes = 0
    /// Frames that never came.
    private(set) var missing: UInt64 = 0

    /// - Parameters:
    ///   - isUnrest: whether routes have changed lately.
    ///   - hasRoom: whether a frame may be held at all.
    mutating func judge(_ counter: UInt32, isUnrest: Bool, hasRoom: Bool) -> Verdict {
        guard hasBegun else {
            hasBegun = true
            last = counter
            return .deliver
        }
        let ahead = Int32(bitPattern: counter &- last)
        if ahead <= 0 { return .late }
        if ahead > 1, hasRoom, isUnrest || !held.isEmpty {
            return held.contains { $0.counter == counter } ? .late : .hold
        }
        // Without room it goes on, and what is held and older is late.
        accept(counter)
        return .deliver
    }

    private mutating func accept(_ counter: UInt32) {
        missing &+= UInt64(counter &- last &- 1)
        last = counter
    }

    mutating func hold(_ counter: UInt32, _ frame: [UInt8], until: UInt64) {
        heldBytes += frame.count
        let place = held.firstIndex { Int32(bitPattern: $0.counter &- counter) > 0 } ?? held.count
        held.insert(Held(counter: counter, frame: frame, until: until), at: place)
    }

    /// The next held frame whose turn it is, or whose time is over.
    /// - Parameter late: counts held frames that others have overtaken.
    mutating func takeHeld(now: UInt64, late: inout UInt64) -> Held? {
        while let first = held.first, Int32(bitPattern: first.counter &- last) <= 0 {
            late &+= 1
            removeFirst()
        }
        guard let first = held.first else { return nil }
        guard first.counter == last &+ 1 || held.contains(where: { $0.until <= now }) else { return nil }
        accept(first.counter)
        removeFirst()
        return first
    }

    private mutating func removeFirst() { heldBytes -= held.removeFirst().frame.count }

    /// When the first of the held frames is let go.
    var deadline: UInt64? { held.map(\.until).min() }
}
