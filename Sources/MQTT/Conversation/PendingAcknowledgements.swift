/// Guaranteed publishes that other lanes have still to take, or that a full port holds. Acknowledgements leave in the
/// order of the publishes (MQTT 5 §4.6), so one that waits holds those behind it.
struct PendingAcknowledgements {
    struct Group {
        var identifiers: [UInt16]
        var qos: UInt8
        /// What the client is told.
        var code: ReasonCode
        /// Lanes and ports that have not answered, and the token that they answer with.
        var pending: Int32
        var token: UInt32
    }

    private var groups: [Group] = []
    private var total: UInt32 = 0
    private var qos1Total: UInt32 = 0

    /// Publishes that wait.
    var count: Int { Int(total) }
    /// Those at QoS 1; those at QoS 2 are unsettled until their PUBREL and counted by the session.
    var qos1Count: Int { Int(qos1Total) }

    var isEmpty: Bool { groups.isEmpty }

    mutating func append(_ group: Group) {
        groups.append(group)
        total += UInt32(group.identifiers.count)
        if group.qos == 1 { qos1Total += UInt32(group.identifiers.count) }
    }

    /// One lane has answered, or one port that held a run.
    /// - Parameter more: how many further answers it promises.
    mutating func receipt(_ token: UInt32, more: Int) {
        guard let index = groups.firstIndex(where: { $0.token == token && $0.pending > 0 }) else { return }
        groups[index].pending += Int32(truncatingIfNeeded: more - 1)
    }

    /// Takes what may be acknowledged now, in order.
    mutating func takeReady(_ body: (Group) -> Void) {
        var done = 0
        while done < groups.count, groups[done].pending == 0 {
            body(groups[done])
            total -= UInt32(groups[done].identifiers.count)
            if groups[done].qos == 1 { qos1Total -= UInt32(groups[done].identifiers.count) }
            done += 1
        }
        groups.removeFirst(done)
    }
}
