import Core
import Testing
import TestSupport

@testable import AMQP

/// Whole conversations with a client that makes its frames up: each of them is right in itself, many make no sense
/// where they stand. Nothing breaks, whatever is sent back is right, and honest clients of the node notice nothing.
@Suite struct RandomConversationTests {
    @Test func honestClientsNoticeNothing() throws {
        var seen = RandomSession.Seen()
        for seed in 0..<15 as Range<UInt64> { try RandomSession.play(seed, &seen) }
        #expect(seen.frames > 5_000 && seen.attached > 1_500 && seen.flows > 500 && seen.transfers > 150)
        #expect(seen.ends > 200 && seen.refused > 800)
    }
}

/// One node with a client that makes its frames up, and two honest ones.
private enum RandomSession {
    /// What the node has sent to those clients.
    struct Seen {
        var (frames, attached, flows, transfers, ends, refused) = (0, 0, 0, 0, 0, 0)

        mutating func add(_ bytes: [UInt8]) {
            var bytes = bytes[...]
            if bytes.starts(with: Array("AMQP".utf8)) { bytes = bytes.dropFirst(8) }
            while !bytes.isEmpty {
                let scan = bytes.withUnsafeBytes { FrameScanner(maxFrameBytes: 1 << 24).scan($0) }
                guard case .frame(let frame) = scan else {
                    if case .failure(let error) = scan { Issue.record("the node sent \(error.text)") }
                    return
                }
                frames += 1
                switch frame.performative {
                case .attach: attached += 1
                case .flow: flows += 1
                case .transfer: transfers += 1
                case .end: ends += 1
                case .detach: refused += 1
                default: break
                }
                bytes = bytes.dropFirst(frame.length)
            }
        }
    }

    static func play(_ seed: UInt64, _ seen: inout Seen) throws {
        var limits = Limits()
        limits.maxAMQPLinks = 8
        limits.amqpCredit = 30
        limits.maxPacketBytes = 1_000
        let node = try FieldNode(lanes: 2, limits: limits)
        let publisher = FieldClient(node, node.container(on: 0, "p"))
        let reader = FieldClient(node, node.container(on: 1, "r"))
        let receiver = reader.receiver(from: "a/b", credit: 1_000)
        let sender = publisher.sender(to: "a/b")
        var random = RandomFrames(seed: seed)
        var sent: [String] = []
        for round in 0..<6 {
            let connection = node.accept(lane: round % 2)
            var output: [UInt8] = []
            random.start()
            node.receive(
                connection,
                Array("AMQP".utf8) + [0, 1, 0, 0] + ScanFrames.frame(.open, [.string("h\(random.below(3))")]))
            node.settle()
            for step in 0..<40 where connection.closing == nil {
                var bytes: [UInt8] = []
                for _ in 0..<random.below(8) { bytes += random.next() }
                let cut = random.below(bytes.count + 1)
                node.receive(connection, Array(bytes[..<cut]))
                if random.below(4) == 0 { node.settle() }
                node.receive(connection, Array(bytes[cut...]))
                node.settle()
                connection.link.isStalled = random.below(10) == 0
                output += connection.link.takeSent()
                guard step % 10 == 0 else { continue }
                let text = "honest \(seed) \(round) \(step)"
                sent.append(text)
                publisher.send([text], on: sender)
                publisher.pump()
                reader.pump()
                if random.below(5) == 0 { node.advance(milliseconds: 400) }
            }
            output += node.goOnReading(connection)
            node.settle()
            output += connection.link.takeSent()
            seen.add(output)
            if connection.closing == nil { node.cut(connection) }
            node.settle()
        }
        reader.pump()
        let texts = reader.texts(receiver).filter { $0.hasPrefix("honest") }
        #expect(texts == sent, "seed \(seed)")
        #expect(publisher.closing == nil && reader.closing == nil)
    }
}

/// Frames from a seed, by ``ScanRandom`` and with richer attaches.
private struct RandomFrames {
    private var random: ScanRandom
    private var messages: RandomMessage
    private var guardian = FrameGuard(channelMax: 255, handleMax: 7)
    private let seed: UInt64
    private var starts: UInt64 = 0

    init(seed: UInt64) {
        self.seed = seed
        random = ScanRandom(state: seed)
        messages = RandomMessage(seed: seed)
    }

    mutating func below(_ bound: Int) -> Int { random.below(bound) }

    /// A new connection.
    mutating func start() {
        starts += 1
        random = ScanRandom(state: seed &* 1_000 &+ starts)
        guardian = FrameGuard(channelMax: 255, handleMax: 7)
        judge(ScanFrames.frame(.open, [.string("c")]))
    }

    /// The next frame. A guard of the generator's own says what has passed, so that what comes next often fits.
    mutating func next() -> [UInt8] {
        for _ in 0..<20 {
            let bytes = below(4) == 0 ? attach() : withMessage(random.frame())
            // Most of what would end the session, and all that would close the connection, is left out.
            var judged = guardian
            let verdict = bytes.withUnsafeBytes { bytes -> FrameGuard.Verdict in
                guard case .frame(let frame) = FrameScanner(maxFrameBytes: 65_536).scan(bytes) else { return .discard }
                return judged.admit(frame)
            }
            switch verdict {
            case .pass: break
            case .end: if below(20) != 0 { continue }
            case .close, .discard: if below(200) != 0 { continue }
            }
            judge(bytes)
            return bytes
        }
        return ScanFrames.frame([])
    }

    /// A transfer mostly gets a message that can be read.
    private mutating func withMessage(_ bytes: [UInt8]) -> [UInt8] {
        guard below(6) > 0, case .frame(let frame) = ScanFrames.scan(bytes), frame.performative == .transfer else {
            return bytes
        }
        let start = bytes.count - frame.body.count
        let message = below(2) == 0 ? messages.next() : FieldClient.message("m\(below(1_000))")
        return ScanFrames.frame(
            Array(bytes[start..<start + frame.performativeLength]) + message, channel: frame.channel)
    }

    private mutating func judge(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { bytes in
            guard case .frame(let frame) = FrameScanner(maxFrameBytes: 65_536).scan(bytes) else { return }
            switch guardian.admit(frame) {
            case .pass: random.passed(frame)
            case .end(let channel, _): random.ended(channel)
            case .close, .discard: break
            }
        }
    }

    // MARK: Attach

    private static let addresses: [ScanValue] = [
        .null, .string(""), .string("a"), .string("a/b"), .string("a/#"), .string("#"), .string("a/+"),
        .string("topic://a/b"), .string("queue://q"), .string("$cbs"), .string("$management"),
        .string("/exchanges/amq.topic/a.b"), .string("a/b"), .string("a/b"),
    ]

    private mutating func maybe(_ value: ScanValue) -> ScanValue { below(3) == 0 ? value : .null }
    private mutating func pick(_ values: [ScanValue]) -> ScanValue { values[below(values.count)] }
    private mutating func map() -> ScanValue {
        .map((0..<below(3)).flatMap { [.symbol("k\($0)"), .raw(value(0))] })
    }
    private mutating func capabilities() -> ScanValue {
        pick([
            .null, .symbol("topic"), .symbol("queue"), .symbols(["shared"]), .symbols(["shared", "global"]),
            .symbols([]), .symbol("temporary-topic"),
        ])
    }

    private mutating func filters() -> ScanValue {
        let known: [[ScanValue]] = [
            [.symbol("no-local"), .described(0x0000_468C_0000_0003, .raw(value(0)))],
            [.symbol("x"), .raw(value(0))], [.symbol("apache.org:no-local-filter:list"), .raw(value(0))],
            [.symbol("y"), .described(7, .raw(value(0)))],
        ]
        return .map((0..<below(3)).flatMap { _ in known[below(known.count)] })
    }

    private mutating func terminus() -> [ScanValue] {
        [
            pick(Self.addresses), maybe(.uint(UInt32(below(3)))),
            maybe(pick([.symbol("never"), .symbol("link-detach"), .symbol("session-end"), .symbol("what")])),
            maybe(.uint(UInt32(below(3)))), below(8) == 0 ? .yes : .null, maybe(map()),
        ]
    }

    private mutating func attach() -> [UInt8] {
        let end = terminus()
        let source = ScanValue.described(
            0x28,
            .list(
                end + [
                    maybe(pick([.symbol("move"), .symbol("copy")])), maybe(filters()), .raw(value(3)),
                    maybe(pick([.symbol("amqp:accepted:list"), .symbols(["amqp:released:list"])])), capabilities(),
                ]))
        let target =
            below(20) == 0
            ? ScanValue.described(0x30, .list([capabilities()]))
            : .described(0x29, .list(end + [capabilities()]))
        return ScanFrames.frame(
            .attach,
            [
                .string("n\(below(12))"), .uint(UInt32(below(8))), pick([.yes, .no]), maybe(.ubyte(UInt8(below(3)))),
                maybe(.ubyte(UInt8(below(2)))), below(9) == 0 ? .null : source, below(9) == 0 ? .null : target,
                maybe(.map([.binary([1]), .null])), .null, .uint(0), maybe(.ulong(UInt64(below(300)))),
                capabilities(), capabilities(), maybe(map()),
            ])
    }

    // MARK: Values

    private mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(below(256)) } }

    /// What comes behind a constructor, of those that have no values of their own inside.
    private mutating func content(_ code: UInt8) -> [UInt8] {
        switch code >> 4 {
        case 0xA: [2] + [0x61, 0x62]
        case 0xB: [0, 0, 0, 1, 0x63]
        default: code == 0x56 ? [UInt8(below(2))] : bytes(ValueWalker.width(code))
        }
    }

    private static let plain: [UInt8] = [
        0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x60, 0x61, 0x70, 0x71, 0x72,
        0x73, 0x74, 0x80, 0x81, 0x82, 0x83, 0x84, 0x94, 0x98, 0xA0, 0xA1, 0xA3, 0xB0, 0xB1, 0xB3,
    ]

    private mutating func container(_ code: UInt8, _ count: Int, _ content: [UInt8]) -> [UInt8] {
        content.count < 250 && below(3) > 0
            ? [code, UInt8(content.count + 1), UInt8(count)] + content
            : [code + 0x10] + ScanValue.big(UInt32(content.count + 4)) + ScanValue.big(UInt32(count)) + content
    }

    /// Any value, no deeper than eight.
    private mutating func value(_ depth: Int) -> [UInt8] {
        let code = Self.plain[below(Self.plain.count)]
        guard depth < 8, below(2) == 0 else { return [code] + content(code) }
        switch below(5) {
        case 0:
            let count = below(4)
            return container(0xC0, count, (0..<count).flatMap { _ in value(depth + 1) })
        case 1:
            let count = below(3) * 2
            return container(0xC1, count, (0..<count).flatMap { _ in value(depth + 1) })
        case 2: return [0x00, 0x53, UInt8(below(256))] + [code] + content(code)
        case 3:
            let count = below(4)
            let lists = (0..<count).flatMap { _ -> [UInt8] in [2, 1, 0x40] }
            return container(0xE0, count, [0xC0] + lists)
        default:
            let count = below(4)
            let descriptor: [UInt8] = below(4) == 0 ? [0x00, 0xA3, 1, 0x64] : []
            return container(0xE0, count, descriptor + [code] + (0..<count).flatMap { _ in content(code) })
        }
    }
}
