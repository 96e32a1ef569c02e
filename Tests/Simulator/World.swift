/// Virtual time and what happens in it: a heap of happenings, the stations, and the cables between them. One thread,
/// no clock: the same scenario makes the same world, byte by byte.

/// What can happen.
enum Happening {
    /// A station's loop has something to do; the number tells stale wakes apart.
    case pass(Station, UInt64)
    /// Bytes may have come to the end of a wire.
    case arrival(Wire)
    /// A dial's first packet has reached the other side, its answer this one, or its time is over.
    case dial(Dial, Dial.Step)
    /// A fault of the scenario begins (or ends).
    case fault(Int, begins: Bool)
    /// A member of a station acts.
    case member(Int)
    /// The observer looks at everything.
    case look
    /// What a test has put in.
    case errand(Int)
}

final class World {
    private struct Entry {
        var time: UInt64
        /// Random, so that what happens at the same time does so in any order; then the order of planning.
        var tie: UInt64
        var happening: Happening

        static func < (a: Entry, b: Entry) -> Bool { (a.time, a.tie) < (b.time, b.tie) }
    }

    /// Microseconds since the world began.
    private(set) var now: UInt64 = 0
    private var heap: [Entry] = []
    private var planned: UInt64 = 0
    private var ties: Randomness
    private(set) var trace = TraceHash()
    /// What every part draws from, by splitting.
    let randomness: Randomness

    var stations: [Station] = []
    var cables: [Cable] = []
    /// All there were: their ends refer to them without counting.
    var connections: [Connection] = []
    var errands: [() -> Void] = []
    /// Faults, members and looks; the scenario's run sets them.
    var onFault: (Int, Bool) -> Void = { _, _ in }
    var onMember: (Int) -> Void = { _ in }
    var onLook: () -> Void = {}
    /// Anything that may change routes or lose bytes, for the oracles.
    var onUnrest: () -> Void = {}
    /// Every piece that a socket takes.
    var onSent: (SocketEnd, UnsafeRawBufferPointer) -> Void = { _, _ in }

    init(seed: UInt64) {
        randomness = Randomness(seed: seed)
        ties = randomness.split(1)
    }

    // MARK: Planning

    func plan(_ happening: Happening, at time: UInt64) {
        planned += 1
        let entry = Entry(
            time: max(time, now), tie: ties.next() & 0xFFFF_FFFF_0000_0000 | planned & 0xFFFF_FFFF, happening: happening
        )
        heap.append(entry)
        var place = heap.count - 1
        while place > 0 {
            let parent = (place - 1) / 2
            guard heap[place] < heap[parent] else { break }
            heap.swapAt(place, parent)
            place = parent
        }
    }

    /// Calls `body` at a time.
    func plan(at time: UInt64, _ body: @escaping () -> Void) {
        errands.append(body)
        plan(.errand(errands.count - 1), at: time)
    }

    private func takeFirst() -> Entry {
        let first = heap[0]
        let last = heap.removeLast()
        guard !heap.isEmpty else { return first }
        heap[0] = last
        var place = 0
        while true {
            var least = place
            for child in [2 * place + 1, 2 * place + 2] where child < heap.count && heap[child] < heap[least] {
                least = child
            }
            guard least != place else { return first }
            heap.swapAt(place, least)
            place = least
        }
    }

    /// Lets everything happen up to a time.
    /// - Parameter goesOn: asked after every happening; false ends it early.
    func run(until end: UInt64, while goesOn: () -> Bool = { true }) {
        while let first = heap.first, first.time <= end, goesOn() {
            let entry = takeFirst()
            now = entry.time
            happen(entry.happening)
        }
        if heap.first.map({ $0.time > end }) ?? true { now = max(now, end) }
    }

    private func happen(_ happening: Happening) {
        switch happening {
        case .pass(let station, let number):
            guard station.isExpected(number) else { return }
            trace.note(now, UInt64(station.index) << 8 | 1)
            station.pass()
        case .arrival(let wire): wire.arrive()
        case .dial(let dial, let step):
            trace.note(now, UInt64(dial.number) << 8 | 2)
            dial.take(step)
        case .fault(let number, let begins):
            trace.note(now, UInt64(number) << 8 | (begins ? 3 : 4))
            onUnrest()
            onFault(number, begins)
        case .member(let number):
            trace.note(now, UInt64(number) << 8 | 5)
            onMember(number)
        case .look: onLook()
        case .errand(let number): errands[number]()
        }
    }

    /// Notes bytes in the trace.
    func note(_ kind: UInt64, _ number: Int, _ bytes: UnsafeRawBufferPointer) {
        trace.note(now, UInt64(number) << 8 | kind)
        trace.note(bytes)
    }

    /// Notes that a listener was given a message.
    func noteDelivery(_ listener: Int, _ message: Int) {
        trace.note(now, UInt64(listener) << 40 | UInt64(message) << 8 | 7)
    }

    /// The cable that a dial from one station to another takes.
    func cable(from: Int, to: Int, number: Int) -> Cable? {
        stations[from].cables.first { $0.connects(from, to) && $0.number == number }
    }
}
