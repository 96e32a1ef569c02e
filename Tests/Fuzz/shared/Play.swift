import Core
import TestSupport

/// Whole conversations on two lanes, with the unit tests' harness instead of sockets: whatever clients send, in pieces
/// or at once, cut at any time, the node neither traps nor says what is no MQTT, and nothing is left behind.

struct Play {
    private let node: TestNode
    private let input: [UInt8]
    private var place = 0
    private var connections: [TestConnection?] = [nil, nil, nil, nil]
    private var heard = [Heard](repeating: Heard(), count: 4)
    /// Which of the four were opened with MQTT 5, so that the script writes the packets of their version.
    private var isVersion5 = [false, false, false, false]

    init(_ input: [UInt8]) {
        var limits = Limits()
        limits.maxInFlight = 4
        limits.maxUnsettled = 4
        limits.maxQueuedEvents = 8
        limits.maxRetainedEvents = 8
        limits.maxSubscriptionsPerSession = 8
        limits.sessionExpirySeconds = 60
        limits.maxPacketBytes = 4_096
        limits.maxTopicAliases = 4
        limits.maxTopicAliasBytes = 256
        limits.maxKeepAliveSeconds = 30
        guard let node = try? TestNode(lanes: 2, limits: limits) else { fatalError("no node") }
        node.authenticator.offers([.scramSHA256]) { _, messages in
            if messages.count == 1 { return messages[0].count == 1 ? nil : .challenge(messages[0]) }
            guard messages[1].first != 0 else { return .finished(.refused(.badCredentials), messages[1]) }
            var identity = Identity(user: messages[0].first == 97 ? "u" : nil)
            identity.lifetimeMilliseconds = messages[0].last.map { UInt64($0) * 100 }
            return .finished(.accepted(identity), messages[1])
        }
        self.node = node
        self.input = input
    }

    // MARK: One client

    mutating func stream(pieces: Int) {
        connections[0] = node.accept()
        stream(more: pieces)
    }

    /// A client that is let in before the input begins, while others of both versions listen to everything; the first
    /// byte chooses its version and what it says of itself, the second how its bytes are cut.
    mutating func established() {
        for who in 2...3 {
            isVersion5[who] = who == 3
            connections[who] = node.accept(lane: who % 2)
            let properties: [UInt8] = [0x22, 0, 2, 0x21, 0, 3]
            send(who, who == 3 ? Frame5.connect("l5", properties: properties) : Frame.connect("l3"))
            send(
                who, who == 3 ? Frame5.subscribe(1, [("#", 2), ("$x", 1)], [0x0B, 9]) : Frame.subscribe(1, [("#", 1)]))
        }
        let choice = byte()
        let pieces = Int(byte() & 15)
        connections[0] = node.accept()
        let user = choice & 4 == 0 ? nil : "u"
        let will = choice & 8 == 0 ? nil : Frame.Will(qos: choice >> 4 & 1)
        switch choice % 4 {
        case 0: send(0, Frame.connect("c", clean: false, will: will, user: user, name: "MQIsdp", level: 3))
        case 1: send(0, Frame.connect("c", clean: false, will: will, user: user))
        default:
            var properties: [UInt8] = [0x11, 0, 0, 0, choice & 32 == 0 ? 0 : 30]
            if choice & 64 != 0 { properties += [0x21, 0, 1, 0x22, 0, 3] }
            if choice & 128 != 0 { properties += [0x27, 0, 0, 0, 40] }
            heard[0].maxPublish = choice & 128 == 0 ? .max : 40
            send(0, Frame5.connect("c", clean: choice & 16 == 0, properties: properties, hasWill: choice & 8 != 0))
        }
        node.settle()
        read(0)
        precondition(heard[0].version != nil && connections[0]?.closing == nil, "a CONNECT in order was refused")
        stream(more: pieces)
        for who in 2...3 { read(who) }
    }

    private mutating func stream(more pieces: Int) {
        guard let connection = connections[0] else { return }
        while place < input.count {
            let end = pieces == 0 ? input.count : min(place + pieces, input.count)
            node.receive(connection, Array(input[place..<end]))
            place = end
            node.settle()
            read(0)
        }
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
            case 9:
                node.authenticator.answer(who == 0 ? .refused(.badCredentials) : .accepted(Identity()))
                node.authenticator.step(who == 0 ? .challenge([1]) : .finished(.accepted(Identity()), []))
            case 10: send(who, bytes(Int(byte())))
            default: send(who, isVersion5[who] ? frame5() : frame())
            }
            read(who)
        }
    }

    private mutating func open(_ who: Int) {
        read(who)
        if let old = connections[who] { node.cut(old) }
        heard[who] = Heard()
        connections[who] = node.accept(lane: who % 2)
        let flags = byte()
        isVersion5[who] = flags & 16 != 0
        guard !isVersion5[who] else { return open5(who, flags) }
        let will = flags & 4 == 0 ? nil : Frame.Will(topic: topic(), qos: flags >> 3 & 1, isRetained: flags & 32 != 0)
        send(
            who,
            Frame.connect(
                "c\(flags >> 6)", clean: flags & 1 == 0, keepAlive: UInt16(flags & 2), will: will))
    }

    private mutating func open5(_ who: Int, _ flags: UInt8) {
        var properties: [UInt8] = [0x11, 0, 0, 0, byte() & 63]
        let limits = byte()
        if limits & 1 != 0 { properties += [0x21, 0, 1 + (limits >> 6)] }
        if limits & 2 != 0 { properties += [0x22, 0, limits >> 5] }
        if limits & 4 != 0 {
            heard[who].maxPublish = 24
            properties += [0x27, 0, 0, 0, 24]
        }
        if limits & 8 != 0 { properties += [0x17, 0] }
        send(
            who,
            Frame5.connect("c\(flags >> 6)", clean: flags & 1 == 0, properties: properties, hasWill: flags & 4 != 0))
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

    /// Properties of a publish, in any order; the two that only the node reads among them.
    private mutating func properties() -> [UInt8] {
        var properties: [UInt8] = []
        let kinds = byte()
        if kinds & 1 != 0 { properties += [0x02, 0, 0, 0, byte() & 63] }
        if kinds & 2 != 0 { properties += [0x26, 0, 1, 107, 0, 1, 118] }
        if kinds & 4 != 0 { properties += [0x23, 0, byte() & 7] }
        if kinds & 8 != 0 { properties += [0x01, 1] }
        if kinds & 16 != 0 { properties += [0x08, 0, 1, 114, 0x09, 0, 1, byte()] }
        return properties
    }

    private mutating func frame5() -> [UInt8] {
        let kind = byte()
        let id = UInt16(byte() % 8) + 1
        switch kind % 10 {
        case 0:
            let identifier = byte() & 3
            return Frame5.subscribe(
                id, [(filter(), byte() & 0x3F), (filter(), 1)], identifier > 0 ? [0x0B, identifier] : [])
        case 1: return Frame5.unsubscribe(id, [filter(), filter()])
        case 2: return Frame5.acknowledge(0x40, id, byte() & 1 == 0 ? 0 : 0x80)
        case 3: return Frame5.acknowledge(0x50, id, byte() & 1 == 0 ? 0 : 0x97)
        case 4: return Frame5.acknowledge(0x62, id, byte() & 1 == 0 ? 0 : 0x92)
        case 5: return Frame5.acknowledge(0x70, id, byte() & 1 == 0 ? 0 : 0x92)
        case 6: return kind < 200 ? Frame.pingreq : Frame.packet(0xE0, [byte() & 4, 5, 0x11, 0, 0, 0, byte() & 63])
        default:
            let qos = kind >> 4 % 3
            let section = properties()
            let name = section.contains(0x23) && kind & 2 != 0 ? "" : topic()
            return Frame5.publish(name, bytes(Int(byte() % 16)), qos: qos, id: id, retain: kind & 1 == 1, section)
        }
    }

    // MARK: What must hold

    private mutating func read(_ who: Int) {
        guard let connection = connections[who] else { return }
        heard[who].take(connection.link.takeSent())
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
