import Testing

@testable import AMQP

/// Frames that the engine's library would believe, stop at silently, or end the process for, as Debian builds it with
/// its assertions: the smallest thing that they concern is ended with a condition, and others go on.
@Suite struct HostileFrameTests {
    private struct Case {
        let what: String
        let frames: [[UInt8]]
        /// What is sent, and why; nil when the frames are harmless.
        let answer: (Frame.Performative, AMQPError.Condition)?

        init(_ what: String, _ frames: [[UInt8]], _ answer: (Frame.Performative, AMQPError.Condition)?) {
            (self.what, self.frames, self.answer) = (what, frames, answer)
        }
    }

    /// On handle 0, where the peer sends.
    private static func transfer(
        _ id: UInt32?, handle: UInt32 = 0, more: Bool = false, state: ScanValue = .null, resume: Bool = false,
        aborted: Bool = false
    ) -> [UInt8] {
        ScanFrames.frame(
            .transfer,
            [
                .uint(handle), id.map { .uint($0) } ?? .null, .binary([1]), .uint(0), .no, more ? .yes : .no, .null,
                state, resume ? .yes : .null, aborted ? .yes : .null,
            ], payload: FieldClient.message("x"))
    }

    private static func attach(
        _ name: String, _ handle: UInt32, receives: Bool, address: String = "h", unsettled: ScanValue = .null,
        isIncomplete: Bool = false
    ) -> [UInt8] {
        ScanFrames.frame(
            .attach,
            [
                .string(name), .uint(handle), receives ? .yes : .no, .null, .null,
                .described(0x28, .list([.string(address)])), .described(0x29, .list([.string(address)])), unsettled,
                isIncomplete ? .yes : .null, .uint(0),
            ])
    }

    private static func flow(_ handle: UInt32, count: UInt32, credit: UInt32) -> [UInt8] {
        ScanFrames.frame(
            .flow,
            [.uint(0), .uint(.max), .uint(0), .uint(.max), .uint(handle), .uint(count), .uint(credit)])
    }

    private static func disposition(
        _ role: ScanValue, _ first: UInt32, _ last: UInt32, _ state: ScanValue
    ) -> [UInt8] {
        ScanFrames.frame(.disposition, [role, .uint(first), .uint(last), .no, state])
    }

    private static let transaction = ScanValue.described(0x34, .list([.binary([1]), .described(0x24, .list([]))]))

    private static let cases = [
        Case("no delivery-id", [transfer(nil)], (.end, .invalidField)),
        Case("no delivery-id, more to come", [transfer(nil, more: true)], (.end, .invalidField)),
        Case(
            "no delivery-id behind a delivery, more to come", [transfer(0), transfer(nil, more: true)],
            (.end, .invalidField)),
        Case(
            "no delivery-id behind a delivery of two frames",
            [transfer(0, more: true), transfer(nil), transfer(nil, more: true)], (.end, .invalidField)),
        Case(
            "no delivery-id behind an abandoned delivery",
            [transfer(0, more: true), transfer(nil, more: true, aborted: true), transfer(nil, more: true)],
            (.end, .invalidField)),
        Case(
            "an abandoned delivery of one frame", [transfer(0, more: true, aborted: true), transfer(1)], nil),
        Case("a transfer from a receiver", [transfer(0, handle: 1)], (.end, .notAllowed)),
        Case("a transfer from a receiver, more to come", [transfer(0, handle: 1, more: true)], (.end, .notAllowed)),
        Case(
            "a transfer on a refused link",
            [attach("q", 2, receives: false, address: "queue://q"), transfer(0, handle: 2, more: true)], nil),
        Case(
            "a transfer from a refused receiver",
            [attach("q", 2, receives: true, address: "queue://q"), transfer(0, handle: 2)], (.end, .notAllowed)),
        Case("a delivery that is resumed", [transfer(0, resume: true)], (.end, .notImplemented)),
        Case("a transaction's transfer", [transfer(0, state: transaction)], (.end, .notImplemented)),
        Case("a transaction's disposition", [disposition(.yes, 0, 0, transaction)], (.end, .notImplemented)),
        Case(
            "an incomplete map of unsettled deliveries",
            [attach("u", 2, receives: true, unsettled: .map([]), isIncomplete: true)], (.end, .notImplemented)),
        Case(
            "a map of unsettled deliveries",
            [
                attach(
                    "u", 2, receives: true, unsettled: .map([.binary([1]), .described(0x24, .list([]))]))
            ], nil),
        Case(
            "a begin that answers", [ScanFrames.frame(.begin, [.ushort(0), .uint(0), .uint(1), .uint(1)], channel: 1)],
            (.close, .notAllowed)),
        Case(
            "a channel with its highest bit",
            [ScanFrames.frame(.begin, [.null, .uint(0), .uint(1), .uint(1)], channel: 0x8000)],
            (.close, .framingError)),
        Case(
            "a handle with its highest bit", [attach("x", 0x8000_0000, receives: true)], (.close, .framingError)),
        Case("a NUL in a name", [attach("x\0y", 2, receives: true)], (.close, .invalidField)),
        Case("a NUL in an address", [attach("x", 2, receives: true, address: "x\0y")], (.close, .invalidField)),
        Case("more credit than there is", [flow(1, count: 0, credit: .max)], (.end, .invalidField)),
        Case("less credit than nothing", [flow(1, count: 0x8000_0000, credit: 0)], nil),
        Case("credit that goes round", [flow(1, count: .max, credit: 0x7FFF_FFFF)], nil),
        Case("dispositions of nothing", [disposition(.yes, 7, 900_000, .described(0x24, .list([])))], nil),
        Case("dispositions of the other role", [disposition(.no, 0, 5, .described(0x26, .list([])))], nil),
        Case(
            "an idle time-out of a millisecond",
            [
                ScanFrames.frame(.open, [.string("c"), .null, .null, .null, .uint(1)])
            ], (.close, .notAllowed)),
        Case(
            "the smallest frames", [ScanFrames.frame(.open, [.string("c"), .null, .uint(1)])], nil),
        Case("frames without a bound", [ScanFrames.frame(.open, [.string("c"), .null, .uint(0)])], nil),
    ]

    /// An open, a session, links 0 (the peer sends) and 1 (it receives).
    private static let beginning =
        ScanFrames.frame(.begin, [.null, .uint(0), .uint(1_000), .uint(1_000)])
        + attach("s", 0, receives: false) + attach("r", 1, receives: true) + flow(1, count: 0, credit: 10)

    @Test(arguments: cases.indices) func isAnswered(_ index: Int) throws {
        let test = Self.cases[index]
        let node = try FieldNode()
        let other = FieldClient(node, "other")
        let receiver = other.receiver(from: "h", credit: 100)
        let connection = node.accept()
        let opens = test.frames.first?[10] == Frame.Performative.open.rawValue
        let open = opens ? [] : ScanFrames.frame(.open, [.string("hostile")])
        node.receive(connection, Array("AMQP".utf8) + [0, 1, 0, 0] + open + (opens ? [] : Self.beginning))
        node.settle()
        let answered = connection.link.takeSent()
        // In one piece, and what follows is in order again.
        node.receive(connection, Array(test.frames.joined()) + (opens ? Self.beginning : []))
        node.settle()
        let sent = answered + connection.link.takeSent()
        let (ends, closes) = (Search.frame(0x17, in: sent), Search.frame(0x18, in: sent))
        switch test.answer {
        case (.end, let condition)?:
            #expect(closes == nil && ends.map { Search.count(Array(condition.rawValue.utf8), in: $0) } == 1, "\(sent)")
            // The channel begins again.
            node.receive(connection, ScanFrames.frame(.end, []) + Self.beginning)
            node.settle()
            #expect(Search.frame(0x11, in: connection.link.takeSent()) != nil)
        case (_, let condition)?:
            #expect(closes.map { Search.count(Array(condition.rawValue.utf8), in: $0) } == 1, "\(sent)")
            #expect(connection.closing != nil)
        case nil:
            #expect(ends == nil && closes == nil, "\(test.what)")
            #expect(connection.closing == nil)
        }
        // Somebody else.
        let deliveries = other.send(["y"], on: other.sender(to: "h"))
        other.pump()
        #expect(other.texts(receiver).last == "y")
        #expect(deliveries.allSatisfy { FieldClient.outcome($0) == accepted })
    }
}
