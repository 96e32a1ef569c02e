import Core

/// Whole conversations on two lanes, with the unit tests' harness instead of sockets: whatever clients send, in pieces
/// or at once, cut at any time, the node neither traps nor says what is no MQTT, and nothing is left behind.

/// An even first byte: the rest is one client's bytes, cut into reads. An odd one: the rest is a script for four.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 0 else { return 0 }
    var play = Play(Array(UnsafeBufferPointer(start: start + 1, count: count - 1)))
    if start[0] & 1 == 0 { play.stream(pieces: Int(start[0] >> 1)) } else { play.script() }
    play.finish()
    return 0
}

private struct Play {
    private let node: TestNode
    private let input: [UInt8]
    private var place = 0
    private var connections: [TestConnection?] = [nil, nil, nil, nil]
    private var unread: [[UInt8]] = [[], [], [], []]

    init(_ input: [UInt8]) {
        var limits = Limits()
        limits.maxInFlight = 4
        limits.maxUnsettled = 4
        limits.maxQueuedEvents = 8
        limits.maxRetainedEvents = 8
        limits.maxSubscriptionsPerSession = 8
        limits.sessionExpirySeconds = 60
        limits.maxPacketBytes = 4_096
        guard let node = try? TestNode(lanes: 2, limits: limits) else { fatalError("no node") }
        self.node = node
        self.input = input
    }

    // MARK: One client

    mutating func stream(pieces: Int) {
        let connection = node.accept()
        connections[0] = connection
        let size = pieces == 0 ? max(input.count, 1) : pieces
        while place < input.count {
            let end = min(place + size, input.count)
            node.receive(connection, Array(input[place..<end]))
            place = end
            node.settle()
        }
        read(0)
    }

    // MARK: A script

    private mutating func byte() -> UInt8 {
        guard place < input.count else { return 0 }
        defer { place += 1 }
        return input[place]
    }

    private mutating func bytes(_ count: Int) -> [UInt8] {
        let end = min(place + count, input.count)
        defer { place = end }
        return Array(input[place..<end])
    }

    mutating func script() {
        while place < input.count {
            let operation = byte()
            let who = Int(operation & 3)
            switch operation >> 2 % 16 {
            case 0: open(who)
            case 1: if let connection = connections[who] { node.cut(connection) }
            case 2: node.lanes[who % 2].pass()
            case 3: node.settle()
            case 4: node.advance(milliseconds: UInt64(byte()) * 100)
            case 5: connections[who]?.link.isCongested = true
            case 6: if let connection = connections[who] { node.drain(connection) }
            case 7: node.authenticator.answers { _ in nil }
            case 8: node.authenticator.answers { .accepted(Identity(user: $0.user)) }
            case 9: node.authenticator.answer(who == 0 ? .refused(.badCredentials) : .accepted(Identity()))
            case 10: send(who, bytes(Int(byte())))
            default: send(who, frame())
            }
            read(who)
        }
    }

    private mutating func open(_ who: Int) {
        read(who)
        if let old = connections[who] { node.cut(old) }
        unread[who] = []
        connections[who] = node.accept(lane: who % 2)
        let flags = byte()
        let will = flags & 4 == 0 ? nil : Frame.Will(topic: topic(), qos: flags >> 3 & 1, isRetained: flags & 32 != 0)
        send(
            who,
            Frame.connect(
                "c\(flags >> 6)", clean: flags & 1 == 0, keepAlive: UInt16(flags & 2), will: will))
    }

    private func send(_ who: Int, _ frame: [UInt8]) {
        if let connection = connections[who] { node.receive(connection, frame) }
    }

    private mutating func topic() -> String { ["a", "a/b", "b", "$x", "a/b/c"][Int(byte() % 5)] }
    private mutating func filter() -> String {
        ["a", "#", "a/+", "+/b", "$share/g/a", "a/#", "$share/h/#", "bad/#/x"][Int(byte() & 7)]
    }

    /// A well-formed packet, so that the search need not find the framing every time.
    private mutating func frame() -> [UInt8] {
        let kind = byte()
        let id = UInt16(byte() % 8) + 1
        switch kind % 9 {
        case 0: return Frame.subscribe(id, [(filter(), kind >> 4 % 3), (filter(), 1)])
        case 1: return Frame.unsubscribe(id, [filter()])
        case 2: return Frame.puback(id)
        case 3: return Frame.pubrec(id)
        case 4: return Frame.pubrel(id)
        case 5: return Frame.pubcomp(id)
        case 6: return kind < 200 ? Frame.pingreq : Frame.disconnect
        default:
            let qos = kind >> 4 % 3
            let payload = bytes(Int(byte() % 16))
            return Frame.publish(topic(), payload, qos: qos, id: id, retain: kind & 1 == 1, dup: qos > 0 && kind > 127)
        }
    }

    // MARK: What must hold

    private mutating func read(_ who: Int) {
        guard let connection = connections[who] else { return }
        unread[who] += connection.link.takeSent()
        for answer in Answer.takeAll(&unread[who]) {
            switch answer {
            case .other(let bytes): precondition(bytes == [0x20, 3, 0, 0x84, 0], "not MQTT: \(bytes)")
            case .publish(let event):
                precondition((event.qos > 0) == (event.id > 0), "\(event)")
                precondition(!event.topic.isEmpty && !event.topic.contains { "+#\0".contains($0) }, "\(event)")
            case .suback(let id, let codes):
                precondition(id != 0 && !codes.isEmpty && codes.allSatisfy { $0 < 3 || $0 == 0x80 })
            default: break
            }
        }
        precondition(unread[who].isEmpty, "half a packet: \(unread[who])")
    }

    mutating func finish() {
        node.settle()
        for who in connections.indices {
            read(who)
            if let connection = connections[who] { node.cut(connection) }
        }
        node.settle()
        // Time for every session to expire: nothing may remain.
        for _ in 0..<3 { node.advance(milliseconds: 61_000) }
        precondition(node.router.sessionCount == 0, "\(node.router.sessionCount) sessions left")
        precondition(node.router.subscriptionCount == 0, "\(node.router.subscriptionCount) subscriptions left")
        precondition(node.router.retainedCount <= 8)
    }
}
