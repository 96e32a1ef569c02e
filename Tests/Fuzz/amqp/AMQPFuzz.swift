import Core

@testable import AMQP

/// Whole AMQP conversations, libqpid-proton included: what a client sends behind the header, alone or once it has a
/// session with links, while another connection publishes, reads, is stalled, cut, kicked, and time passes. At the end
/// everybody leaves, and nothing may be left.

/// The first byte: bit 0 whether the rest is records (see ``Play``) or bytes as they are, bit 1 whether the client has
/// links already, bit 2 whether there are two lanes, bit 3 whether it comes by SASL, whose frames the records are then
/// (on odd channels).
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 1 else { return 0 }
    let rest = Array(UnsafeBufferPointer(start: start + 1, count: count - 1))
    let lanes = start[0] & 4 == 0 ? 1 : 2
    guard var play = try? Play(lanes: lanes, isEstablished: start[0] & 2 != 0, hasSASL: start[0] & 8 != 0) else {
        return 0
    }
    if start[0] & 1 == 0 { play.bytes(rest) } else { play.records(rest) }
    play.finish()
    return 0
}

private struct Play {
    private let node: FieldNode
    private let isEstablished: Bool
    private let hasSASL: Bool
    private let container: String
    private var client: FieldConnection
    private var other: FieldConnection
    private var published: UInt8 = 0

    init(lanes: Int, isEstablished: Bool, hasSASL: Bool) throws {
        var limits = Limits()
        limits.maxPacketBytes = 2_000
        limits.maxAMQPFrameBytes = 1_024
        limits.maxAMQPSessions = 4
        limits.maxAMQPLinks = 8
        limits.amqpCredit = 6
        limits.maxUnsettledDeliveries = 5
        limits.maxQueuedEvents = 6
        limits.maxQueuedBytes = 4_000
        limits.maxOutputBytes = 4_000
        limits.sessionExpirySeconds = 3
        node = try FieldNode(
            lanes: lanes, limits: limits, authenticator: hasSASL ? ScriptedAuthenticator() : FieldAuthenticator())
        // Who skips SASL is somebody as well.
        node.prepare = { $0.letIn = Identity(user: "somebody") }
        self.isEstablished = isEstablished && !hasSASL
        self.hasSASL = hasSASL
        container = node.container(on: 0)
        client = node.accept()
        other = node.accept()
        begin()
        let name = node.container(on: lanes - 1, "o")
        node.receive(other, Canned.start(container: name) + Canned.links)
        node.settle()
        precondition(other.amqp?.incomingLinks.count == 1 && other.amqp?.outgoingLinks.count == 2, "no links")
    }

    private func begin() {
        guard !hasSASL else { return node.receive(client, Canned.saslHeader) }
        guard isEstablished else { return node.receive(client, Canned.header) }
        node.receive(client, Canned.start(container: container) + Canned.links)
        node.settle()
    }

    func bytes(_ bytes: [UInt8]) {
        node.receive(client, bytes)
        node.settle()
    }

    /// Two bytes of length and one of channel, then the body of a frame. Lengths from 0xFF00 on are something else that
    /// happens.
    mutating func records(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while rest.count >= 3, let (high, low, channel) = Self.head(&rest) {
            guard high == 0xFF else {
                let body = rest.prefix(Int(high) << 8 | Int(low))
                rest = rest.dropFirst(body.count)
                let isSASL = hasSASL && channel % 2 == 1
                node.receive(client, Canned.frame(Array(body), channel: isSASL ? 0 : channel, type: isSASL ? 1 : 0))
                continue
            }
            happen(low, channel)
        }
    }

    private static func head(_ rest: inout ArraySlice<UInt8>) -> (UInt8, UInt8, UInt8)? {
        guard let high = rest.popFirst(), let low = rest.popFirst(), let last = rest.popFirst() else { return nil }
        return (high, low, last)
    }

    private mutating func happen(_ what: UInt8, _ number: UInt8) {
        switch what % 12 {
        case 0: node.settle()
        case 1: node.lanes[node.lanes.count - 1].pass()
        case 2: node.advance(milliseconds: UInt64(number) * 40)
        case 3: client.link.isStalled = true
        case 4: _ = node.goOnReading(client)
        case 5:
            node.cut(client)
            if number % 2 == 0 { node.settle() }
            client = node.accept(lane: Int(number) % node.lanes.count)
            begin()
        case 6: publish(number)
        case 7: node.receive(other, Canned.frame(Canned.disposition(number), channel: 0))
        case 8: node.receive(other, Canned.frame(Canned.flow(handle: number % 3, credit: number), channel: 0))
        case 9:
            let names = ["amqp:\(container)", "amqp:\(container)/keeps", "amqp:\(container)/all"]
            node.inbox(names[Int(number) % 3])?.kick(endsSession: number & 4 != 0, on: node.lanes[0])
            for lane in node.lanes { lane.pass() }
        case 10: node.lanes[0].yieldsAlways = number % 2 == 0
        default: node.stop(client)
        }
    }

    /// The other client publishes a message.
    private mutating func publish(_ number: UInt8) {
        let body = Canned.transfer(published, isSettled: number % 2 == 0) + Canned.message(Int(number))
        published = (published + 1) % 128
        node.receive(other, Canned.frame(body, channel: 0))
    }

    func finish() {
        node.settle()
        for connection in [client, other] {
            _ = node.goOnReading(connection)
            node.cut(connection)
        }
        node.settle()
        for _ in 0..<8 { node.advance(milliseconds: 1_000) }
        precondition(node.router.sessionCount == 0, "sessions are left")
        precondition(node.router.subscriptionCount == 0, "subscriptions are left")
        precondition(node.waiting == 0, "events are left")
        precondition(node.lanes.allSatisfy { $0.turn.isEmpty }, "a turn is left")
    }
}

/// What well-behaved clients send.
private enum Canned {
    static let header: [UInt8] = Array("AMQP".utf8) + [0, 1, 0, 0]
    static let saslHeader: [UInt8] = Array("AMQP".utf8) + [3, 1, 0, 0]

    static func frame(_ body: [UInt8], channel: UInt8, type: UInt8 = 0) -> [UInt8] {
        let size = body.count + 8
        return [0, 0, UInt8(truncatingIfNeeded: size >> 8), UInt8(truncatingIfNeeded: size), 2, type, 0, channel] + body
    }

    /// A described list with up to 255 bytes.
    private static func list(_ descriptor: UInt8, _ count: UInt8, _ fields: [UInt8]) -> [UInt8] {
        [0, 0x53, descriptor, 0xC0, UInt8(fields.count + 1), count] + fields
    }

    private static func string(_ text: String) -> [UInt8] { [0xA1, UInt8(text.utf8.count)] + Array(text.utf8) }

    /// Header, open, and begin with windows of a thousand.
    static func start(container: String) -> [UInt8] {
        let window: [UInt8] = [0x70, 0, 0, 4, 0]
        return header + frame(list(0x10, 1, string(container)), channel: 0)
            + frame(list(0x11, 4, [0x40, 0x43] + window + window), channel: 0)
    }

    /// A sender to `a/b`, a receiver of everything, a durable one, and some credit for both.
    static var links: [UInt8] {
        let keeps: [UInt8] = [0x52, 2, 0xA3, 5] + Array("never".utf8)
        return frame(attach("s", 0, receives: false, [0x40], list(0x29, 1, string("a/b"))), channel: 0)
            + frame(attach("all", 1, receives: true, list(0x28, 1, string("#")), [0x40]), channel: 0)
            + frame(attach("keeps", 2, receives: true, list(0x28, 3, string("a/#") + keeps), [0x40]), channel: 0)
            + frame(flow(handle: 1, credit: 4), channel: 0) + frame(flow(handle: 2, credit: 4), channel: 0)
    }

    private static func attach(
        _ name: String, _ handle: UInt8, receives: Bool, _ source: [UInt8], _ target: [UInt8]
    ) -> [UInt8] {
        let start: [UInt8] = string(name) + [0x52, handle, receives ? 0x41 : 0x42, 0x40, 0x40]
        let empty = list(receives ? 0x29 : 0x28, 0, [])
        return list(
            0x12, 10, start + (receives ? source : empty) + (receives ? empty : target) + [0x40, 0x40, 0x43])
    }

    static func flow(handle: UInt8, credit: UInt8) -> [UInt8] {
        let window: [UInt8] = [0x43, 0x70, 0, 0, 4, 0, 0x43, 0x70, 0, 0, 4, 0]
        return list(0x13, 9, window + [0x52, handle, 0x43, 0x52, credit, 0x43, credit % 3 == 0 ? 0x41 : 0x42])
    }

    static func transfer(_ number: UInt8, isSettled: Bool) -> [UInt8] {
        list(0x14, 5, [0x43, 0x52, number, 0xA0, 1, number, 0x43, isSettled ? 0x41 : 0x42])
    }

    /// Accepts, rejects, releases or modifies deliveries up to a number.
    static func disposition(_ number: UInt8) -> [UInt8] {
        let state = list(0x24 + number % 4, 0, [])
        return list(0x15, 5, [0x41, 0x43, 0x52, number / 4, 0x41] + state)
    }

    static func message(_ count: Int) -> [UInt8] {
        [0, 0x53, 0x75, 0xA0, UInt8(count)] + [UInt8](repeating: 0x78, count: count)
    }
}
