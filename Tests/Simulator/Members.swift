import Core

/// Who publishes and subscribes at a station: real ports at a real router, on the station's lane.

/// A payload: the message's number, a check, and padding.
enum Payload {
    static let size = 8
    private static let key: UInt32 = 0xA5A5_5A5A

    static func make(_ number: Int, size: Int) -> [UInt8] {
        let word = UInt64(UInt32(number)) | UInt64(UInt32(number) ^ key) << 32
        var bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: max(size, Self.size))
        for index in 0..<8 { bytes[index] = UInt8(truncatingIfNeeded: word >> UInt64(index * 8)) }
        return bytes
    }

    /// The number; nil when the bytes are not whole.
    /// - Parameter isHead: whether the bytes are only the first ones.
    static func number(_ bytes: UnsafeRawBufferPointer, isHead: Bool = false) -> Int? {
        guard bytes.count >= size else { return nil }
        let word = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        let number = UInt32(truncatingIfNeeded: word)
        guard UInt32(truncatingIfNeeded: word >> 32) == number ^ key else { return nil }
        let filler = UInt8(truncatingIfNeeded: number)
        guard isHead || bytes.count == size || bytes[bytes.count - 1] == filler else { return nil }
        return Int(number)
    }
}

/// A subscriber's port.
final class ListenerPort: Port {
    unowned let observer: Observer
    let listener: Ledger.Listener

    init(_ observer: Observer, _ listener: Ledger.Listener) {
        self.observer = observer
        self.listener = listener
        super.init()
    }

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        let topic = run.pointee.topicBytes
        for index in 0..<run.pointee.count {
            let view = run.pointee.events[index]
            observer.delivered(
                UnsafeRawBufferPointer(start: view.payload, count: Int(view.payloadLength)), topic: topic,
                to: listener, isRetained: run.pointee.isRetained)
        }
        return 0
    }
}

/// A publisher's port: it is told when guaranteed events are settled.
final class PublisherPort: Port {
    private var waiting: [UInt32: (left: Int, messages: [Int])] = [:]
    unowned let ledger: Ledger
    /// Messages not settled yet.
    var outstanding: Int { waiting.count }

    init(_ ledger: Ledger) {
        self.ledger = ledger
        super.init()
    }

    func published(_ outcome: PublishOutcome, _ messages: [Int]) {
        guard outcome.verdict == .routed else { return }
        if outcome.pending <= 0 { return messages.forEach { ledger.settle($0) } }
        waiting[outcome.token] = (Int(outcome.pending), messages)
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        guard var entry = waiting[token] else { return }
        entry.left += more - 1
        if entry.left > 0 {
            waiting[token] = entry
        } else {
            waiting[token] = nil
            entry.messages.forEach { ledger.settle($0) }
        }
    }
}

/// Somebody who publishes, in one life of the node.
final class Publisher {
    let number: Int
    let station: Station
    let life: Int
    /// When its node's process began.
    let startedAt: UInt64
    let port: PublisherPort
    let principal: Principal
    private var counts = [0, 0]

    init(_ station: Station, _ ledger: Ledger) {
        self.station = station
        number = ledger.addPublisher()
        life = station.life
        startedAt = station.startedAt
        port = PublisherPort(ledger)
        principal = Principal(
            identity: Identity(user: "p\(number)"), clientID: "p\(number)", router: station.router)
        station.router.register(port, on: station.lane)
    }

    /// Publishes events of one run. Called within a pass.
    func publish(
        topic: Int, sizes: [Int], qos: UInt8, isRetained: Bool, isDelete: Bool, _ ledger: Ledger, agreedAt: UInt64
    ) {
        let lane = station.lane
        guard let lane else { return }
        var numbers: [Int] = []
        var bytes: [UInt8] = []
        var lengths: [Int] = []
        let kind = qos > 0 ? 1 : 0
        for size in isDelete ? [0] : sizes {
            counts[kind] += 1
            let number = ledger.add(
                Ledger.Message(
                    publisher: self.number, number: counts[kind], station: station.index, life: life, topic: topic,
                    qos: qos, isRetained: isRetained, isDelete: isDelete, at: station.world.now,
                    agreedAt: agreedAt))
            numbers.append(number)
            let payload = isDelete ? [] : Payload.make(number, size: size)
            bytes += payload
            lengths.append(payload.count)
        }
        let name = ledger.topics[topic]
        let turn = lane.turn
        name.withUnsafeBytes { name in
            bytes.withUnsafeBytes { bytes in
                guard let base = name.baseAddress else { return }
                var place = bytes.baseAddress ?? base
                for (index, length) in lengths.enumerated() {
                    turn.events[index] = EventView(payload: place, payloadLength: length)
                    place += length
                }
                turn.eventCount = lengths.count
                turn.runs[0] = EventRun(
                    topic: base, topicLength: name.count, events: turn.events, count: lengths.count,
                    wire: base, wireLength: 0, properties: base, propertiesLength: 0, publisher: port.address,
                    layout: .none, qos: qos, isRetained: isRetained)
                turn.runCount = 1
                turn.principal = principal
                station.router.route(turn, on: lane)
                port.published(turn.outcomes[0], numbers)
                turn.removeAll()
            }
        }
        lane.routeDeferred()
    }
}
