/// What a bridge's thread has still to hand to libmosquitto: pure, without a clock.
struct DepartureQueue {
    /// By ascending sequence; those before `first` have left.
    private var departures: [BridgeWire.Departure] = []
    private var first = 0
    /// So many that have left are let go of at once, and not each on its own.
    private static let maxGone = 128

    var isEmpty: Bool { first == departures.count }

    /// The next one.
    var next: BridgeWire.Departure? { isEmpty ? nil : departures[first] }

    /// Events that are kept in memory, those that have left and were not let go of yet among them.
    var keptCount: Int { departures.count }

    /// Adds some that come after all that there are.
    mutating func append(_ more: [BridgeWire.Departure]) { departures += more }

    /// Takes the next one.
    mutating func popFirst() -> BridgeWire.Departure? {
        guard let next else { return nil }
        first += 1
        if isEmpty {
            departures.removeAll(keepingCapacity: true)
            first = 0
        } else if first >= Self.maxGone, first * 2 > departures.count {
            departures.removeFirst(first)
            first = 0
        }
        return next
    }

    /// Puts one back that has left, where it was: before all that came after it, and after those from before it that
    /// have been put back already.
    mutating func putBack(_ departure: BridgeWire.Departure) {
        let place = departures[first...].firstIndex { $0.sequence > departure.sequence } ?? departures.count
        departures.insert(departure, at: place)
    }

    /// Takes out those that do not wait for a broker.
    mutating func takeDirect() -> [BridgeWire.Departure] {
        let direct = departures[first...].filter { $0.qos == 0 }
        departures = departures[first...].filter { $0.qos > 0 }
        first = 0
        return direct
    }
}
