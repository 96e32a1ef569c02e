/// Guaranteed publishes that other lanes have still to take. Acknowledgements leave in the order of the publishes
/// (MQTT 3.1.1 §4.6), so one that waits holds those behind it.
struct PendingAcknowledgements {
    private struct Group {
        var token: UInt32
        var pending: Int32
        var qos: UInt8
        var identifiers: [UInt16]
    }

    private var groups: [Group] = []
    private(set) var count = 0

    var isEmpty: Bool { groups.isEmpty }

    mutating func append(_ identifiers: [UInt16], qos: UInt8, token: UInt32, pending: Int32) {
        groups.append(Group(token: token, pending: pending, qos: qos, identifiers: identifiers))
        count += identifiers.count
    }

    /// One lane has answered.
    mutating func receipt(_ token: UInt32) {
        guard let index = groups.firstIndex(where: { $0.token == token && $0.pending > 0 }) else { return }
        groups[index].pending -= 1
    }

    /// Takes what may be acknowledged now, in order.
    mutating func takeReady(_ body: (_ qos: UInt8, _ identifier: UInt16) -> Void) {
        var done = 0
        while done < groups.count, groups[done].pending == 0 {
            for identifier in groups[done].identifiers { body(groups[done].qos, identifier) }
            count -= groups[done].identifiers.count
            done += 1
        }
        groups.removeFirst(done)
    }
}
