import Core

/// The oracles that need no look into the mesh: what was published against what was delivered. Those that look inside
/// are in `MeshOracles.swift`.
final class Observer {
    unowned let world: World
    let ledger = Ledger()
    private(set) var violations: [Violation] = []
    /// Times at which the mesh was not, or may not have been, in a state that everybody agrees on; ascending.
    private var unrest: [UInt64] = []
    /// When the mesh was found converged for the first time.
    private(set) var firstCalm = UInt64.max
    /// When it was found converged the last time.
    private(set) var lastCalm: UInt64 = 0
    /// Whether messages were judged as owed, for the report: an oracle that judges nothing proves nothing.
    private(set) var judged = 0

    /// In which a subscription gets everywhere, and an event to where it is wanted, while all is calm; microseconds.
    static let propagation: UInt64 = 1_500_000
    static let transit: UInt64 = 1_500_000

    init(_ world: World) { self.world = world }

    func violate(_ invariant: String, _ text: String) {
        guard violations.count < 20 else { return }
        violations.append(Violation(invariant: invariant, text: text, at: world.now))
    }

    // MARK: Calm

    func noteUnrest() { if unrest.last != world.now { unrest.append(world.now) } }

    func noteCalm() {
        if firstCalm == .max { firstCalm = world.now }
        lastCalm = world.now
    }

    /// Whether nothing happened to the mesh between two times, and it was converged all the while.
    func isCalm(_ start: UInt64, _ end: UInt64) -> Bool {
        guard firstCalm <= start, end <= world.now else { return false }
        var (low, high) = (0, unrest.count)
        while low < high {
            let middle = (low + high) / 2
            if unrest[middle] < start { low = middle + 1 } else { high = middle }
        }
        return low == unrest.count || unrest[low] > end
    }

    // MARK: Deliveries

    /// A listener is given an event.
    func delivered(
        _ payload: UnsafeRawBufferPointer, topic: UnsafeRawBufferPointer, to listener: Ledger.Listener,
        isRetained: Bool
    ) {
        listener.received += 1
        // A deleted value has no number.
        if payload.isEmpty { return }
        guard let number = Payload.number(payload), number < ledger.messages.count else {
            return violate("I4", "listener \(listener.number) was given \(payload.count) bytes that nobody published")
        }
        let message = ledger.messages[number]
        world.noteDelivery(listener.number, number)
        guard topic.elementsEqual(ledger.topics[message.topic]) else {
            return violate("I4", "message \(number) came with another topic")
        }
        let name = ledger.topics[message.topic]
        if !listener.mayHaveWanted(name, from: world.now &- min(world.now, Self.propagation), to: world.now) {
            violate("I2", "message \(number) came to listener \(listener.number), which does not want it")
        }
        judgeOnce(number, message, listener)
        if !message.isRetained { judgeOrder(message, number, listener) }
        ledger.deliver(number, Ledger.Delivery(listener: listener.number, at: world.now, isRetained: isRetained))
    }

    /// I4, I16: at most once for each listener, at most one listener of each group.
    private func judgeOnce(_ number: Int, _ message: Ledger.Message, _ listener: Ledger.Listener) {
        for delivery in message.deliveries {
            if delivery.listener == listener.number {
                // A stored value may come by replication before the event does.
                if message.isRetained { continue }
                violate("I4", "message \(describe(number)) came twice to listener \(describe(listener))")
            } else if let group = listener.group, ledger.listeners[delivery.listener].group == group {
                let other = ledger.listeners[delivery.listener]
                // What a node had not acknowledged when its process ended goes to its next life, flagged.
                let isNextLife = other.station == listener.station && other.life != listener.life && message.qos > 0
                if message.isRetained || isNextLife { continue }
                violate(
                    "I16",
                    "message \(describe(number)) came to two members of \(group): "
                        + "\(describe(ledger.listeners[delivery.listener])) and \(describe(listener))")
            }
        }
    }

    /// I10, I11: what one publisher sends in one kind arrives in order.
    private func judgeOrder(_ message: Ledger.Message, _ number: Int, _ listener: Ledger.Listener) {
        guard listener.group == nil else { return }
        let key = message.publisher * 2 + (message.qos > 0 ? 1 : 0)
        if let newest = listener.newest[key], newest > message.number {
            let kind = message.qos > 0 ? "I10" : "I11"
            violate(
                kind,
                "message \(describe(number)) came to listener \(describe(listener)) after the publisher's "
                    + "number \(newest)")
        }
        listener.newest[key] = max(listener.newest[key] ?? 0, message.number)
    }

    func describe(_ number: Int) -> String {
        let message = ledger.messages[number]
        return "\(number) (\(Topics.all[message.topic]), QoS \(message.qos), publisher \(message.publisher) on "
            + "n\(message.station).\(message.life), number \(message.number), at \(message.at / 1_000) ms)"
    }

    func describe(_ listener: Ledger.Listener) -> String {
        "\(listener.number) on n\(listener.station).\(listener.life)" + (listener.group.map { " in \($0)" } ?? "")
    }

    // MARK: The end

    /// What was owed and did not come. Called when everything is over and nothing is on its way.
    /// - Parameter lived: whether a life of a station lasted until now.
    func judgeCompleteness(lived: (Int, Int) -> Bool, wasGivenUp: (Ledger.Message, Int) -> Bool) {
        for (number, message) in ledger.messages.enumerated() where !message.isDelete && !message.isRetained {
            let start = message.at - min(message.at, Self.propagation)
            let end = message.at + Self.transit
            let isCalm = isCalm(start, end)
            let isLasting = message.qos > 0 && lived(message.station, message.life)
            guard isCalm || isLasting else { continue }
            var owedGroups: [String: Bool] = [:]
            for listener in ledger.listeners {
                let name = ledger.topics[message.topic]
                let isOwed =
                    isCalm
                    ? listener.wanted(name, from: start, to: end)
                    : isOwedForGood(message, name, listener, lived) && !wasGivenUp(message, listener.station)
                guard isOwed else { continue }
                let hasCome = message.deliveries.contains { $0.listener == listener.number }
                if let group = listener.group {
                    // One member of it is enough, and it need not be this one.
                    let hasOne = message.deliveries.contains { ledger.listeners[$0.listener].group == group }
                    owedGroups[group] = owedGroups[group] ?? false || hasOne
                } else {
                    judged += 1
                    if !hasCome {
                        let kind = isCalm ? "I2" : "I9"
                        violate(kind, "message \(describe(number)) never came to listener \(describe(listener))")
                    }
                }
            }
            // In a group, only an event in calm times is owed: members change.
            for (group, hasOne) in owedGroups.sorted(by: { $0.key < $1.key }) where isCalm {
                judged += 1
                if !hasOne { violate("I16", "message \(describe(number)) came to no member of \(group)") }
            }
        }
    }

    /// For how long a node that cannot be reached is still sent guaranteed events for certain; microseconds.
    private static let patience: UInt64 = 25_000_000

    /// I9: guaranteed, origin and destination lived on, and the origin knew of the subscription.
    private func isOwedForGood(
        _ message: Ledger.Message, _ name: [UInt8], _ listener: Ledger.Listener, _ lived: (Int, Int) -> Bool
    ) -> Bool {
        guard listener.group == nil, listener.goneAt == .max, lived(listener.station, listener.life),
            message.agreedAt != 0, message.at - message.agreedAt < Self.patience
        else { return false }
        return listener.wishes.contains { wish in
            wish.until == .max && wish.since + Self.propagation <= message.agreedAt
                && name.withUnsafeBytes { wish.filter.matches($0) }
        }
    }
}
