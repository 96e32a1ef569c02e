/// Deadlines of connections, at most one each. Setting one links it into a wheel, taking a packet touches nothing: a
/// conversation notes the time and looks at it when its deadline comes. Confined to its lane.
struct TimerWheel: ~Copyable {
    private struct Entry {
        var deadline: UInt64 = 0
        var next: Int32 = -1
        var previous: Int32 = -1
    }

    static let tickMilliseconds: UInt64 = 128
    private static let spokes = 512

    private var entries: [Entry] = []
    private var heads = [Int32](repeating: -1, count: TimerWheel.spokes)
    private var position: UInt64
    private var count = 0

    init(now: UInt64) { position = now / Self.tickMilliseconds }

    /// Sets the deadline of a number, in place of the one it had.
    mutating func set(_ number: Int, deadline: UInt64) {
        while entries.count <= number { entries.append(Entry()) }
        cancel(number)
        // A deadline in the past is met at the next tick.
        let tick = max((deadline + Self.tickMilliseconds - 1) / Self.tickMilliseconds, position + 1)
        let spoke = Int(tick % UInt64(Self.spokes))
        entries[number] = Entry(deadline: tick, next: heads[spoke], previous: -1)
        if heads[spoke] >= 0 { entries[Int(heads[spoke])].previous = Int32(number) }
        heads[spoke] = Int32(number)
        count += 1
    }

    /// Forgets the deadline of a number, if it has one.
    mutating func cancel(_ number: Int) {
        guard number < entries.count, entries[number].deadline != 0 else { return }
        let entry = entries[number]
        if entry.previous >= 0 {
            entries[Int(entry.previous)].next = entry.next
        } else {
            heads[Int(entry.deadline % UInt64(Self.spokes))] = entry.next
        }
        if entry.next >= 0 { entries[Int(entry.next)].previous = entry.previous }
        entries[number] = Entry()
        count -= 1
    }

    /// Takes the numbers whose deadlines have come.
    mutating func advance(to now: UInt64) -> [Int] {
        let target = now / Self.tickMilliseconds
        guard count > 0 else {
            position = target
            return []
        }
        var due: [Int] = []
        // After a long sleep one full turn visits every spoke.
        let steps = min(target &- position, UInt64(Self.spokes))
        guard target > position else { return [] }
        for step in 0..<steps {
            let spoke = Int((target - step) % UInt64(Self.spokes))
            var number = heads[spoke]
            while number >= 0 {
                let entry = entries[Int(number)]
                if entry.deadline <= target { due.append(Int(number)) }
                number = entry.next
            }
        }
        position = target
        for number in due { cancel(number) }
        return due
    }

    /// Milliseconds until the next spoke that holds a deadline; nil when there is none.
    func wait(from now: UInt64) -> Int? {
        guard count > 0 else { return nil }
        for step in 1...UInt64(Self.spokes) where heads[Int((position + step) % UInt64(Self.spokes))] >= 0 {
            let time = (position + step) * Self.tickMilliseconds
            return time > now ? Int(time - now) : 0
        }
        return nil
    }
}
