import Testing

@testable import AMQP

@Suite struct FrameGuardTests {
    /// What a guard says of a frame.
    private enum Said: Equatable, CustomStringConvertible {
        case pass, discard
        case end(UInt16, AMQPError.Condition)
        case close(AMQPError.Condition)

        var description: String {
            switch self {
            case .pass: "pass"
            case .discard: "discard"
            case .end(let channel, let condition): "end \(channel) \(condition.rawValue)"
            case .close(let condition): "close \(condition.rawValue)"
            }
        }
    }

    private typealias Step = (frame: [UInt8], said: Said)

    private static func admit(_ bytes: [UInt8], _ guardian: inout FrameGuard) -> (Said?, String) {
        bytes.withUnsafeBytes { bytes in
            guard case .frame(let frame) = FrameScanner(maxFrameBytes: 65_536).scan(bytes) else { return (nil, "scan") }
            switch guardian.admit(frame) {
            case .pass: return (.pass, "")
            case .discard: return (.discard, "")
            case .end(let channel, let error): return (.end(channel, error.condition), error.text)
            case .close(let error): return (.close(error.condition), error.text)
            }
        }
    }

    // MARK: Frames

    private static let open = ScanFrames.frame(.open, [.string("c")])
    private static let close = ScanFrames.frame(.close, [])
    private static let empty = ScanFrames.frame([])
    private static func begin(_ channel: UInt16 = 0, handleMax: UInt32? = nil) -> [UInt8] {
        ScanFrames.frame(
            .begin, [.null, .uint(0), .uint(10), .uint(10), handleMax.map { .uint($0) } ?? .null], channel: channel)
    }
    private static func end(_ channel: UInt16 = 0) -> [UInt8] { ScanFrames.frame(.end, [], channel: channel) }
    private static func attach(
        _ handle: UInt32, _ name: String, receives: Bool = false, _ channel: UInt16 = 0
    ) -> [UInt8] {
        ScanFrames.frame(
            .attach,
            [.string(name), .uint(handle), receives ? .yes : .no, .null, .null, .null, .null, .null, .null, .uint(0)],
            channel: channel)
    }
    private static func detach(_ handle: UInt32, _ channel: UInt16 = 0) -> [UInt8] {
        ScanFrames.frame(.detach, [.uint(handle), .yes], channel: channel)
    }
    private static func transfer(
        _ handle: UInt32, _ id: UInt32?, settled: Bool? = nil, more: Bool = false, aborted: Bool = false,
        _ channel: UInt16 = 0
    ) -> [UInt8] {
        ScanFrames.frame(
            .transfer,
            [
                .uint(handle), id.map { .uint($0) } ?? .null, .binary([1]), .uint(0),
                settled.map { $0 ? .yes : .no } ?? .null, more ? .yes : .no, .null, .null, .null, aborted ? .yes : .no,
            ], channel: channel, payload: [0, 0x53, 0x75, 0xA0, 0])
    }
    private static func flow(
        _ handle: UInt32?, count: UInt32? = nil, credit: UInt32? = nil, _ channel: UInt16 = 0
    ) -> [UInt8] {
        ScanFrames.frame(
            .flow,
            [
                .uint(0), .uint(10), .uint(0), .uint(10), handle.map { .uint($0) } ?? .null,
                count.map { .uint($0) } ?? .null, credit.map { .uint($0) } ?? .null,
            ], channel: channel)
    }
    private static func disposition(
        _ first: UInt32, _ last: UInt32?, settled: ScanValue = .yes, state: ScanValue = .null, _ channel: UInt16 = 0
    ) -> [UInt8] {
        ScanFrames.frame(
            .disposition, [.yes, .uint(first), last.map { .uint($0) } ?? .null, settled, state], channel: channel)
    }

    private static func state(_ code: UInt64, _ fields: [ScanValue] = []) -> ScanValue {
        .described(code, .list(fields))
    }

    // MARK: Scripts

    /// A connection's beginning: an open, a session on channel 0, links 0 (the peer sends) and 1 (it receives).
    private static let started: [Step] = [
        (open, .pass), (begin(), .pass), (attach(0, "a"), .pass), (attach(1, "a", receives: true), .pass),
    ]

    /// `isStarted`: the steps come behind ``started``.
    private static let scripts: [(what: String, isStarted: Bool, steps: [Step])] = [
        (
            "a life", true,
            [
                (transfer(0, 7), .pass), (flow(1, count: 0, credit: 10), .pass), (disposition(0, 0), .pass),
                (detach(0), .pass), (detach(1), .pass), (end(), .pass), (empty, .pass), (close, .pass),
                (empty, .discard),
            ]
        ),
        ("empty frames before open", false, [(empty, .pass), (open, .pass), (empty, .pass)]),
        (
            "begin before open", false,
            [(begin(), .close(.notAllowed)), (open, .discard), (empty, .discard), (close, .pass)]
        ),
        ("transfer before open", false, [(transfer(0, 0), .close(.notAllowed))]),
        ("close before open", false, [(close, .close(.notAllowed))]),
        ("two opens", false, [(open, .pass), (open, .close(.notAllowed)), (begin(), .discard), (close, .pass)]),
        ("open on channel 1", false, [(ScanFrames.frame(.open, [.string("c")], channel: 1), .close(.framingError))]),
        (
            "SASL late", false,
            [
                (open, .pass), (ScanFrames.frame([0, 0x53, 0x44, 0x45], type: 1), .close(.framingError)),
                (ScanFrames.frame([], type: 1), .discard), (close, .pass),
            ]
        ),
        (
            "frames after close", false,
            [
                (open, .pass), (begin(), .pass), (close, .pass), (end(), .discard), (begin(), .discard),
                (close, .discard),
                (transfer(0, 0), .discard),
            ]
        ),
        ("transfers after close", true, [(transfer(0, 0), .pass), (close, .pass), (transfer(0, 1), .discard)]),
        ("attach without session", false, [(open, .pass), (attach(0, "a"), .close(.notAllowed))]),
        ("flow without session", false, [(open, .pass), (flow(nil), .close(.notAllowed))]),
        ("disposition without session", false, [(open, .pass), (disposition(0, 0), .close(.notAllowed))]),
        ("transfer without session", false, [(open, .pass), (transfer(0, 0), .close(.notAllowed))]),
        ("detach without session", false, [(open, .pass), (detach(0), .close(.notAllowed))]),
        ("end without session", false, [(open, .pass), (end(), .close(.notAllowed))]),
        ("another channel", true, [(transfer(0, 0, 1), .close(.notAllowed))]),
        ("begin twice", false, [(open, .pass), (begin(), .pass), (begin(), .close(.notAllowed))]),
        ("end twice", false, [(open, .pass), (begin(), .pass), (end(), .pass), (end(), .close(.notAllowed))]),
        (
            "a channel again", false,
            [(open, .pass), (begin(), .pass), (end(), .pass), (begin(), .pass), (end(), .pass)]
        ),
        ("the highest channel", false, [(open, .pass), (begin(7), .pass), (begin(8), .close(.framingError))]),
        (
            "the peer's channel-max", false,
            [
                (ScanFrames.frame(.open, [.string("c"), .null, .null, .ushort(2)]), .pass), (begin(2), .pass),
                (begin(3), .close(.framingError)),
            ]
        ),
        (
            "an answer to no begin", false,
            [
                (open, .pass),
                (ScanFrames.frame(.begin, [.ushort(0), .uint(0), .uint(1), .uint(1)]), .close(.notAllowed)),
            ]
        ),
        (
            "a handle twice", true,
            [
                (attach(0, "b"), .end(0, .handleInUse)), (transfer(0, 0), .discard), (attach(5, "c"), .discard),
                (flow(nil), .discard), (disposition(0, 0), .discard), (detach(0), .discard), (end(), .pass),
                (begin(), .pass), (attach(0, "b"), .pass),
            ]
        ),
        (
            "begin before the end of an ended session", true,
            [
                (detach(9), .end(0, .unattachedHandle)), (begin(), .close(.notAllowed)),
            ]
        ),
        (
            "other sessions go on", true,
            [
                (begin(1), .pass), (attach(0, "a", 1), .pass), (transfer(9, 0), .end(0, .unattachedHandle)),
                (transfer(0, 0, 1), .pass), (transfer(0, 0), .discard), (transfer(0, 1, 1), .pass), (end(), .pass),
                (transfer(0, 2, 1), .pass),
            ]
        ),
        ("a name twice", true, [(attach(2, "a"), .end(0, .invalidField))]),
        ("a name twice, as receiver", true, [(attach(2, "a", receives: true), .end(0, .invalidField))]),
        ("a name again after detach", true, [(detach(0), .pass), (attach(2, "a"), .pass)]),
        (
            "a handle again after detach", true,
            [
                (detach(0), .pass), (transfer(0, 0), .end(0, .unattachedHandle)),
            ]
        ),
        (
            "a handle for another link", true,
            [
                (transfer(0, 0, more: true), .pass), (detach(0), .pass), (attach(0, "b"), .pass),
                (transfer(0, 1), .pass),
            ]
        ),
        ("the highest handle", true, [(attach(15, "b"), .pass), (attach(16, "c"), .close(.framingError))]),
        (
            "the peer's handle-max", false,
            [
                (open, .pass), (begin(handleMax: 1), .pass), (attach(9, "a"), .pass), (attach(8, "b"), .pass),
                (attach(7, "c"), .end(0, .notAllowed)),
            ]
        ),
        ("detach of nothing", true, [(detach(2), .end(0, .unattachedHandle))]),
        ("flow of nothing", true, [(flow(2, count: 0, credit: 1), .end(0, .unattachedHandle))]),
        ("transfer to nothing", true, [(transfer(2, 0), .end(0, .unattachedHandle))]),
        ("transfer from a receiver", true, [(transfer(1, 0), .end(0, .notAllowed))]),
        ("flow of the session", true, [(flow(nil), .pass), (flow(nil, count: 99, credit: 99), .pass)]),
        (
            "the highest credit", true,
            [
                (flow(1, count: 0, credit: 0x7FFF_FFFF), .pass),
                (flow(1, count: 0, credit: 0x8000_0000), .end(0, .invalidField)),
            ]
        ),
        (
            "a sender's flow", true,
            [
                (transfer(0, 0), .pass), (flow(0, count: 1, credit: 0), .pass), (flow(0, count: 0), .pass),
                (flow(0, count: 65_536), .pass), (flow(0, count: 131_072), .end(0, .invalidField)),
            ]
        ),
        ("a sender's flow without count", true, [(flow(0), .end(0, .invalidField))]),
        ("a sender that skips far", true, [(flow(0, count: 0x7FFF_FFFF), .end(0, .invalidField))]),
        (
            "delivery ids", true,
            [
                (transfer(0, .max), .pass), (transfer(0, 0), .pass), (transfer(0, 1), .pass),
                (transfer(0, 3), .end(0, .invalidField)), (end(), .pass),
            ]
        ),
        ("a delivery id again", true, [(transfer(0, 5), .pass), (transfer(0, 5), .end(0, .invalidField))]),
        ("no delivery id", true, [(transfer(0, nil), .end(0, .invalidField))]),
        ("no delivery id and more to come", true, [(transfer(0, nil, more: true), .end(0, .invalidField))]),
        (
            "no delivery id after a delivery of many frames", true,
            [
                (transfer(0, 5, more: true), .pass), (transfer(0, nil), .pass),
                (transfer(0, nil, more: true), .end(0, .invalidField)),
            ]
        ),
        (
            "no delivery id after an abandoned delivery", true,
            [
                (transfer(0, 5, more: true), .pass), (transfer(0, nil, more: true, aborted: true), .pass),
                (transfer(0, nil, more: true), .end(0, .invalidField)),
            ]
        ),
        ("more to come from a receiver", true, [(transfer(1, 0, more: true), .end(0, .notAllowed))]),
        (
            "deliveries that are resumed", true,
            [
                (transfer(0, 0), .pass),
                (
                    ScanFrames.frame(
                        .transfer,
                        [.uint(0), .uint(1), .binary([1]), .null, .null, .null, .null, .null, .yes]),
                    .end(0, .notImplemented)
                ),
            ]
        ),
        (
            "links that are resumed", true,
            [
                (
                    ScanFrames.frame(
                        .attach,
                        [
                            .string("u"), .uint(3), .no, .null, .null, .null, .null,
                            .map([.binary([1]), state(0x24)]), .no, .uint(0),
                        ]), .pass
                ),
                (
                    ScanFrames.frame(
                        .attach,
                        [
                            .string("i"), .uint(4), .no, .null, .null, .null, .null, .map([]), .yes, .uint(0),
                        ]), .end(0, .notImplemented)
                ),
            ]
        ),
        (
            "a transfer of a transaction", true,
            [
                (
                    ScanFrames.frame(
                        .transfer,
                        [
                            .uint(0), .uint(0), .binary([1]), .null, .null, .null, .null,
                            state(0x34, [.binary([1])]),
                        ]), .end(0, .notImplemented)
                )
            ]
        ),
        (
            "a disposition of a transaction", true,
            [(disposition(0, 0, state: state(0x34, [.binary([1]), state(0x24)])), .end(0, .notImplemented))]
        ),
        ("no second delivery id", true, [(transfer(0, 5), .pass), (transfer(0, nil), .end(0, .invalidField))]),
        (
            "frames of one delivery", true,
            [
                (transfer(0, 5, more: true), .pass), (transfer(0, nil, more: true), .pass),
                (transfer(0, 5, more: true), .pass),
                (transfer(0, nil), .pass), (transfer(0, 6), .pass),
            ]
        ),
        (
            "another id within a delivery", true,
            [
                (transfer(0, 5, more: true), .pass), (transfer(0, 6), .end(0, .invalidField)),
            ]
        ),
        (
            "an abandoned delivery", true,
            [
                (transfer(0, 5, more: true), .pass), (transfer(0, nil, aborted: true), .pass), (transfer(0, 6), .pass),
                (transfer(0, 7, more: true, aborted: true), .pass), (transfer(0, 8), .pass),
            ]
        ),
        (
            "unsettled within a settled delivery", true,
            [
                (transfer(0, 5, settled: true, more: true), .pass), (transfer(0, nil, more: true), .pass),
                (transfer(0, nil, settled: false), .end(0, .invalidField)),
            ]
        ),
        (
            "settled at the end", true,
            [
                (transfer(0, 5, settled: false, more: true), .pass), (transfer(0, nil, settled: true), .pass),
                (transfer(0, 6, settled: false), .pass),
            ]
        ),
        (
            "deliveries of two links in turns", true,
            [
                (attach(2, "b"), .pass), (transfer(0, 5, more: true), .pass), (transfer(2, 6, more: true), .pass),
                (transfer(0, nil, more: true), .pass), (transfer(2, nil), .pass), (transfer(0, 5), .pass),
                (transfer(2, 7), .pass),
            ]
        ),
        (
            "ranges", true,
            [
                (disposition(5, nil), .pass), (disposition(5, 4), .end(0, .invalidField)),
            ]
        ),
        (
            "dispositions that change nothing", true,
            [
                (disposition(0, 9, settled: .no), .discard), (disposition(0, 9, settled: .null), .discard),
                (disposition(0, 9, settled: .no, state: state(0x23, [.uint(0), .ulong(0)])), .discard),
                (disposition(0, 9, settled: .no, state: state(0x24)), .pass),
                (disposition(0, 9, settled: .no, state: state(0x27, [.yes])), .pass),
                (disposition(0, 9, settled: .no, state: state(0x99)), .pass),
            ]
        ),
        ("the whole range", true, [(disposition(0, .max), .end(0, .invalidField))]),
        ("half of the range", true, [(disposition(0, 0x7FFF_FFFF), .pass), (disposition(.max, 3), .pass)]),
        ("more than half", true, [(disposition(0, 0x8000_0000), .end(0, .invalidField))]),
    ]

    @Test(arguments: scripts.indices)
    func scriptsPlay(_ index: Int) {
        let (what, isStarted, steps) = Self.scripts[index]
        var guardian = FrameGuard(channelMax: 7, handleMax: 15)
        for (number, step) in ((isStarted ? Self.started : []) + steps).enumerated() {
            let (said, text) = Self.admit(step.frame, &guardian)
            #expect(said == step.said, "\(what), step \(number): \(text)")
        }
    }

    @Test func verdictsSayWhatIsWrong() {
        var guardian = FrameGuard(channelMax: 7, handleMax: 15)
        for step in Self.started { _ = Self.admit(step.frame, &guardian) }
        _ = Self.admit(Self.transfer(0, 5), &guardian)
        #expect(
            Self.admit(Self.transfer(0, 9), &guardian).1
                == "transfer.delivery-id is 9, and 6 is the next of the session")
        #expect(Self.admit(Self.begin(9), &guardian).1 == "begin on channel 9, and channel-max is 7")
    }

    @Test func manyLinksAndSessionsAreFound() {
        var guardian = FrameGuard(channelMax: 65_535, handleMax: 4_095)
        #expect(Self.admit(Self.open, &guardian).0 == .pass)
        let channels: [UInt16] = (0..<40).map { $0 &* 1_601 }
        for channel in channels { #expect(Self.admit(Self.begin(channel), &guardian).0 == .pass) }
        let handles: [UInt32] = (0..<300).map { $0 * 13 }
        for handle in handles {
            #expect(Self.admit(Self.attach(handle, "l\(handle)", 1_601), &guardian).0 == .pass)
        }
        for (id, handle) in handles.shuffled().enumerated() {
            #expect(Self.admit(Self.transfer(handle, UInt32(id), 1_601), &guardian).0 == .pass)
        }
        for (number, handle) in handles.shuffled().enumerated() where number < 297 {
            #expect(Self.admit(Self.detach(handle, 1_601), &guardian).0 == .pass)
            #expect(Self.admit(Self.attach(handle + 1, "l\(handle)", 1_601), &guardian).0 == .pass)
            #expect(Self.admit(Self.detach(handle + 1, 1_601), &guardian).0 == .pass)
        }
        for channel in channels.shuffled() { #expect(Self.admit(Self.end(channel), &guardian).0 == .pass) }
        #expect(Self.admit(Self.end(1_601), &guardian).0 == .close(.notAllowed))
    }

    @Test func sessionsGetTheirEnginesInTheOrderOfTheirBegins() throws {
        let engines = (1...4).compactMap { OpaquePointer(bitPattern: $0 * 64).map { Engine.Session(pointer: $0) } }
        var guardian = FrameGuard(channelMax: 7, handleMax: 15)
        // The second one ends, and the channel begins again, before any event has come.
        let frames = [
            Self.open, Self.begin(3), Self.begin(5), Self.end(5), Self.begin(5), Self.begin(1),
        ]
        for bytes in frames { #expect(Self.admit(bytes, &guardian).0 == .pass) }
        #expect(guardian.session(on: 3) == nil)
        for engine in engines { guardian.begun(engine) }
        #expect(guardian.session(on: 3) == engines[0])
        #expect(guardian.session(on: 5) == engines[2])
        #expect(guardian.session(on: 1) == engines[3])
        #expect(guardian.session(on: 0) == nil)
        guardian.begun(engines[0])
        guardian.endedByUs(channel: 5)
        #expect(Self.admit(Self.flow(nil, 5), &guardian).0 == .discard)
        #expect(guardian.session(on: 5) == engines[2])
        #expect(Self.admit(Self.end(5), &guardian).0 == .pass)
        #expect(guardian.session(on: 5) == nil)
        guardian.endedByUs(channel: 5)
    }
}
