import Testing

@testable import AMQP

@Suite struct FrameScannerTests {
    /// Frames that are wrong in themselves, what is said of them, and a word of the text.
    private static let malformed: [(what: String, bytes: [UInt8], condition: AMQPError.Condition, text: String)] = [
        ("size 0", [0, 0, 0, 0], .framingError, "less than its header"),
        ("size 7", [0, 0, 0, 7, 2, 0, 0, 0], .framingError, "7 bytes"),
        ("size beyond the limit", [0, 1, 0, 1], .framingError, "65536 are allowed"),
        ("size 4 GiB", [255, 255, 255, 255, 2, 0, 0, 0], .framingError, "4294967295"),
        ("data offset 0", frame([], offset: 0), .framingError, "data offset is 0"),
        ("data offset 1", frame([0x40], offset: 1), .framingError, "data offset is 1"),
        ("data offset behind the end", frame([1, 2, 3, 4], offset: 4), .framingError, "data offset is 4"),
        ("data offset 255", frame([], offset: 255), .framingError, "data offset is 255"),
        ("type 2", frame([], type: 2), .framingError, "type 2"),
        ("type 255", frame([0x40], type: 255), .framingError, "type 255"),
        ("body a null", frame([0x40]), .framingError, "not null"),
        ("body a list", frame([0x45]), .framingError, "not a list"),
        ("body a string", frame([0xA1, 1, 65]), .framingError, "not a string"),
        ("body an unknown type", frame([0x10]), .framingError, "an unknown type"),
        ("descriptor cut", frame([0x00]), .decodeError, "descriptor"),
        ("small descriptor cut", frame([0x00, 0x53]), .decodeError, "descriptor"),
        ("long descriptor cut", frame([0x00, 0x80, 0, 0]), .decodeError, "descriptor"),
        ("symbol descriptor cut", frame([0x00, 0xA3, 14] + "amqp:open:lis".utf8), .decodeError, "descriptor"),
        ("long symbol descriptor cut", frame([0x00, 0xB3, 255, 255, 255, 255, 1]), .decodeError, "descriptor"),
        ("unknown symbol", frame([0x00, 0xA3, 1, 65, 0x45]), .decodeError, "descriptor"),
        ("empty symbol", frame([0x00, 0xA3, 0, 0x45]), .decodeError, "descriptor"),
        ("descriptor a string", frame([0x00, 0xA1, 1, 65, 0x45]), .decodeError, "descriptor"),
        ("descriptor a uint", frame([0x00, 0x52, 0x10, 0x45]), .decodeError, "descriptor"),
        ("descriptor described", frame([0x00, 0x00, 0x53, 0x10, 0x45]), .decodeError, "descriptor"),
        ("descriptor 0", frame([0x00, 0x44, 0x45]), .framingError, "0x0"),
        ("descriptor 0x0f", frame([0x00, 0x53, 0x0F, 0x45]), .framingError, "0xf"),
        ("descriptor 0x19", frame([0x00, 0x53, 0x19, 0x45]), .framingError, "0x19"),
        ("descriptor of a section", frame([0x00, 0x53, 0x75, 0x45]), .framingError, "0x75"),
        ("descriptor of SASL", frame([0x00, 0x53, 0x41, 0x45]), .framingError, "0x41"),
        (
            "descriptor that is 0x10 in its low byte", frame([0x00, 0x80, 1, 0, 0, 0, 0, 0, 0, 0x10, 0x45]),
            .framingError, "0x100000000000010"
        ),
        ("SASL with an AMQP descriptor", frame([0x00, 0x53, 0x10, 0x45], type: 1), .framingError, "SASL"),
        ("SASL with bytes behind", frame([0x00, 0x53, 0x44, 0x45, 0], type: 1), .framingError, "bytes follow"),
        ("SASL cut", frame([0x00, 0x53, 0x44, 0xC0, 9, 1], type: 1), .decodeError, "goes on"),
        ("no list", frame([0x00, 0x53, 0x10]), .decodeError, "not a list"),
        ("a map", frame([0x00, 0x53, 0x10, 0xC1, 1, 0]), .decodeError, "not a list"),
        ("an array", frame([0x00, 0x53, 0x10, 0xE0, 2, 0, 0x40]), .decodeError, "not a list"),
        ("a described list in it", frame([0x00, 0x53, 0x10, 0x00, 0x53, 0x10, 0x45]), .decodeError, "not a list"),
        ("bytes behind a close", frame([0x00, 0x53, 0x18, 0x45, 0]), .framingError, "1 bytes follow close"),
        ("list8 without a size", frame([0x00, 0x53, 0x18, 0xC0]), .decodeError, "goes on"),
        ("list8 without a count", frame([0x00, 0x53, 0x18, 0xC0, 0]), .decodeError, "goes on"),
        ("list8 behind the end", frame([0x00, 0x53, 0x18, 0xC0, 2, 0]), .decodeError, "goes on"),
        ("list32 with half a size", frame([0x00, 0x53, 0x18, 0xD0, 0, 0]), .decodeError, "goes on"),
        (
            "list32 with a huge size", frame([0x00, 0x53, 0x18, 0xD0, 255, 255, 255, 255, 0, 0, 0, 0]), .decodeError,
            "goes on"
        ),
        (
            "list32 with a size of 3", frame([0x00, 0x53, 0x18, 0xD0, 0, 0, 0, 3, 0, 0, 0]), .decodeError, "goes on"
        ),
        (
            "list32 with a huge count", frame([0x00, 0x53, 0x18, 0xD0, 0, 0, 0, 4, 255, 255, 255, 255]),
            .resourceLimitExceeded, "4096 values"
        ),
        ("more values than bytes", frame([0x00, 0x53, 0x18, 0xC0, 2, 2, 0x40]), .decodeError, "counted"),
        ("fewer values than bytes", frame([0x00, 0x53, 0x18, 0xC0, 3, 1, 0x40, 0x40]), .decodeError, "larger"),
        ("count 0 with bytes", frame([0x00, 0x53, 0x18, 0xC0, 2, 0, 0x40]), .decodeError, "larger"),
        ("too many fields", frame(.close, [.null, .null]), .decodeError, "1 fields at most, and 2"),
        ("too many fields of a transfer", frame(.transfer, full(.transfer) + [.null]), .decodeError, "11 fields"),
        ("too many fields of an attach", frame(.attach, full(.attach) + [.null]), .decodeError, "14 fields"),
        ("too many fields of a source", attach(source: .described(0x28, .list(nulls(12)))), .decodeError, "source"),
        ("a source without descriptor", attach(source: .list([])), .decodeError, "attach.source is to be a source"),
        ("a source that is a target", attach(source: .described(0x29, .list([]))), .decodeError, "not known"),
        ("a source that is a map", attach(source: .described(0x28, .map([]))), .decodeError, "not a map"),
        ("a source's address a uint", attach(source: source([.uint(1)])), .decodeError, "address is to be a string"),
        ("a source's durability 3", attach(source: source([.null, .uint(3)])), .decodeError, "durable is 3"),
        (
            "a source's policy a string", attach(source: source([.null, .null, .string("never")])), .decodeError,
            "policy"
        ),
        ("a filter a list", attach(source: source(nulls(7) + [.list([])])), .decodeError, "filter is to be a map"),
        ("capabilities a string", attach(source: source(nulls(10) + [.string("a")])), .decodeError, "capabilities"),
        ("capabilities a list", attach(source: source(nulls(10) + [.list([.symbol("a")])])), .decodeError, "array of"),
        (
            "capabilities an array of strings", attach(source: source(nulls(10) + [.raw([0xE0, 4, 1, 0xA1, 1, 65])])),
            .decodeError, "not an array"
        ),
        ("an error without condition", frame(.close, [.described(0x1D, .list([]))]), .decodeError, "condition"),
        (
            "an error's condition a string", frame(.end, [.described(0x1D, .list([.string("a")]))]), .decodeError,
            "symbol"
        ),
        ("an error that is a state", frame(.close, [.described(0x24, .list([]))]), .decodeError, "not known"),
        ("a state without descriptor", disposition(.list([])), .decodeError, "delivery state"),
        ("a state that is no list", disposition(.described(0x24, .null)), .decodeError, "delivery state"),
        ("accepted with fields", disposition(.described(0x24, .list([.null]))), .decodeError, "0 fields"),
        ("received without fields", disposition(.described(0x23, .list([]))), .decodeError, "section-number"),
        (
            "rejected with a string", disposition(.described(0x25, .list([.string("a")]))), .decodeError,
            "rejected.error"
        ),
        ("modified with a uint", disposition(.described(0x27, .list([.uint(1)]))), .decodeError, "delivery-failed"),
        ("a boolean of 2", frame(.detach, [.uint(0), .raw([0x56, 2])]), .decodeError, "detach.closed"),
        (
            "settle mode 3", frame(.attach, [.string("l"), .uint(0), .no, .ubyte(3)]), .decodeError,
            "snd-settle-mode is 3"
        ),
        (
            "a tag of 33 bytes", transfer([.binary([UInt8](repeating: 0, count: 33))]), .resourceLimitExceeded,
            "tag has 33"
        ),
        ("a name too long", attach(name: 1_025), .resourceLimitExceeded, "attach.name has 1025"),
        ("a container id too long", open(id: 1_025), .resourceLimitExceeded, "open.container-id has 1025"),
        (
            "a symbol too long", frame(.open, [.string("c")] + nulls(6) + [.symbol(text(1_025))]),
            .resourceLimitExceeded,
            "symbol of more"
        ),
        (
            "an array of long symbols", frame(.open, [.string("c")] + nulls(6) + [.symbols([text(1_025)])]),
            .resourceLimitExceeded, "symbol of more"
        ),
    ]

    @Test(arguments: malformed.indices)
    func malformedFramesFail(_ index: Int) throws {
        let expected = Self.malformed[index]
        let error = try #require(ScanFrames.failure(expected.bytes), "\(expected.what)")
        #expect(error.condition == expected.condition, "\(expected.what): \(error.text)")
        #expect(error.text.contains(expected.text), "\(expected.what): \(error.text)")
    }

    /// Each field with values of other types: the text says which one it is, and what it should be.
    @Test func fieldsOfWrongTypesFail() {
        var tried = 0
        let values: [ScanValue] = [.yes, .uint(1), .string("s"), .list([]), .ulong(1)]
        for performative in ScanFrames.all {
            let composite = FrameComposite.of(performative)
            for (index, field) in composite.fields.enumerated() {
                for value in values where !Self.fits(value, field.kind) {
                    var fields = ScanFrames.full(performative)
                    fields[index] = value
                    let error = ScanFrames.failure(ScanFrames.frame(performative, fields))
                    #expect(error?.condition == .decodeError, "\(composite.name).\(field.name)")
                    let text = error?.text ?? ""
                    #expect(text.contains("\(composite.name).\(field.name) is to be a"), "\(text)")
                    tried += 1
                }
            }
        }
        #expect(tried >= 200)
    }

    private static func fits(_ value: ScanValue, _ kind: FrameField.Kind) -> Bool {
        switch (value, kind) {
        case (.yes, .boolean), (.uint, .uint), (.string, .string), (.ulong, .ulong), (_, .any): true
        default: false
        }
    }

    @Test func mandatoryFieldsAreDemanded() {
        let mandatory: [(Frame.Performative, [String])] = [
            (.open, ["container-id"]), (.begin, ["next-outgoing-id", "incoming-window", "outgoing-window"]),
            (.attach, ["name", "handle", "role"]), (.flow, ["incoming-window", "next-outgoing-id", "outgoing-window"]),
            (.transfer, ["handle"]), (.disposition, ["role", "first"]), (.detach, ["handle"]), (.end, []), (.close, []),
        ]
        for (performative, names) in mandatory {
            let composite = FrameComposite.of(performative)
            for (index, field) in composite.fields.enumerated() {
                var fields = ScanFrames.full(performative)
                fields[index] = .null
                let error = ScanFrames.failure(ScanFrames.frame(performative, fields))
                let isMandatory = names.contains("\(field.name)")
                #expect(isMandatory == (error != nil), "\(composite.name).\(field.name)")
                guard isMandatory else { continue }
                #expect(error?.condition == .decodeError)
                #expect(error?.text == "\(composite.name) lacks the mandatory field \(field.name)")
                // Left out at the end is the same as null.
                #expect(ScanFrames.failure(ScanFrames.frame(performative, Array(fields[..<index]))) == error)
            }
        }
    }

    @Test func wholePerformativesPassAndTheirPrefixesAreIncomplete() throws {
        for performative in ScanFrames.all {
            let bytes = ScanFrames.frame(performative, ScanFrames.full(performative), channel: 258)
            guard case .frame(let frame) = ScanFrames.scan(bytes + [1, 2, 3]) else {
                Issue.record("\(performative): \(ScanFrames.failure(bytes)?.text ?? "incomplete")")
                continue
            }
            #expect(frame.length == bytes.count && frame.channel == 258 && frame.type == 0)
            #expect(frame.performative == performative)
            #expect(frame.performativeLength == bytes.count - 8)
            for count in 0..<bytes.count {
                #expect(ScanFrames.isIncomplete(Array(bytes[..<count])), "\(performative), \(count) bytes")
            }
        }
    }

    @Test func descriptorsCanBeWrittenInTwoWaysAndNotAsSymbols() {
        let names = ["open", "begin", "attach", "flow", "transfer", "disposition", "detach", "end", "close"]
        for (performative, name) in zip(ScanFrames.all, names) {
            let list = ScanValue.list(ScanFrames.full(performative)).bytes
            let symbol = Array("amqp:\(name):list".utf8)
            for descriptor: [UInt8] in [
                [0x53, performative.rawValue], [0x80, 0, 0, 0, 0, 0, 0, 0, performative.rawValue],
            ] {
                guard case .frame(let frame) = ScanFrames.scan(ScanFrames.frame([0] + descriptor + list)) else {
                    Issue.record("\(name) \(descriptor)")
                    continue
                }
                #expect(frame.performative == performative)
            }
            let count = UInt8(symbol.count)
            for descriptor: [UInt8] in [[0xA3, count] + symbol, [0xB3, 0, 0, 0, count] + symbol] {
                let error = ScanFrames.failure(ScanFrames.frame([0] + descriptor + list))
                #expect(error?.condition == .notImplemented)
                #expect(error?.text.hasPrefix("\(name) is described by a symbol") == true)
            }
        }
    }

    /// Where the engine would miss an outcome or a target, symbols are refused; elsewhere it does not look at them.
    @Test func compositesInFieldsAreDescribedByNumbers() {
        func symbolic(_ name: String, _ fields: [ScanValue] = []) -> ScanValue {
            .raw([0] + ScanValue.symbol(name).bytes + ScanValue.list(fields).bytes)
        }
        let attach: [ScanValue] = [.string("l"), .uint(0), .no, .null, .null]
        #expect(ScanFrames.failure(Self.disposition(symbolic("amqp:accepted:list")))?.condition == .notImplemented)
        let target = ScanFrames.frame(.attach, attach + [.null, symbolic("amqp:target:list")])
        #expect(ScanFrames.failure(target)?.condition == .notImplemented)
        #expect(ScanFrames.fields(ScanFrames.frame(.attach, attach + [symbolic("amqp:source:list")])) != nil)
        let error = symbolic("amqp:error:list", [.symbol("amqp:not-found")])
        #expect(ScanFrames.fields(ScanFrames.frame(.close, [error])) != nil)
        #expect(ScanFrames.fields(Self.disposition(symbolic("x:my-outcome:list"))) != nil)
    }

    @Test func emptyFramesAndExtendedHeadersPass() {
        for type: UInt8 in [0, 1] {
            guard case .frame(let frame) = ScanFrames.scan(ScanFrames.frame([], channel: 7, type: type)) else {
                Issue.record("an empty frame")
                return
            }
            #expect(frame.performative == nil && frame.type == type && frame.channel == 7 && frame.length == 8)
        }
        let close: [UInt8] = [0xDE, 0xAD, 0xBE, 0xEF, 0x00, 0x53, 0x18, 0x45]
        guard case .frame(let frame) = ScanFrames.scan(ScanFrames.frame(close, offset: 3)) else {
            Issue.record("an extended header")
            return
        }
        #expect(frame.performative == .close && frame.body.count == 4)
    }

    @Test func guardsFieldsAreRead() throws {
        let attach = try #require(ScanFrames.fields(ScanFrames.frame(.attach, ScanFrames.full(.attach))))
        #expect(
            attach.handle == 3 && attach.id == 0 && attach.said == [.handle, .id, .resume] && attach.nameLength == 1)
        let open = try #require(ScanFrames.fields(ScanFrames.frame(.open, ScanFrames.full(.open))))
        #expect(open.limit == 255 && open.said == .limit)
        let begin = try #require(
            ScanFrames.fields(ScanFrames.frame(.begin, [.ushort(8), .uint(7), .uint(1), .uint(1), .uint(9)])))
        #expect(
            begin.handle == 8 && begin.id == 7 && begin.limit == 9 && begin.said == [.limit, .id, .remoteChannel])
        let flow = try #require(ScanFrames.fields(ScanFrames.frame(.flow, ScanFrames.full(.flow))))
        #expect(flow.handle == 3 && flow.limit == 100 && flow.said == [.handle, .id, .limit, .echo])
        let disposition = try #require(
            ScanFrames.fields(ScanFrames.frame(.disposition, ScanFrames.full(.disposition))))
        #expect(
            disposition.id == 0 && disposition.limit == 5
                && disposition.said == [.receiver, .settled, .id, .limit, .state])
        let one = try #require(ScanFrames.fields(ScanFrames.frame(.disposition, [.no, .uint(9)])))
        #expect(one.id == 9 && one.limit == 9 && one.said == .id)
        #expect(ScanFrames.fields(ScanFrames.frame(.detach, [.uint(77)]))?.handle == 77)
    }

    /// The hot path and the general way agree on what a transfer says, in every encoding.
    @Test func bothWaysReadTransfersAlike() throws {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            var fields: [ScanValue] = [
                .uint([0, 3, 255, 256, .max].randomElement() ?? 0), .uint(.random(in: 0...600)),
                .binary((0..<Int.random(in: 0...32)).map { UInt8($0) }), .uint(0), .no, .no, .null, .null, .null, .null,
                .null,
            ]
            for index in 1..<11 where Bool.random() { fields[index] = .null }
            for index in [4, 5, 8, 9, 10] { fields[index] = [.null, .yes, .no].randomElement() ?? .null }
            fields.removeLast(Int.random(in: 0...10))
            let list = ScanValue.list(fields).encoded { Int.random(in: 0...2, using: &random) }
            let payload = (0..<Int.random(in: 0...20)).map { _ in UInt8.random(in: 0...255) }
            let quick = ScanFrames.frame([0, 0x53, 0x14] + list + payload, channel: 1)
            // With a long descriptor it takes the general way.
            let slow = ScanFrames.frame([0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x14] + list + payload, channel: 1)
            guard case .frame(let a) = ScanFrames.scan(quick), case .frame(let b) = ScanFrames.scan(slow) else {
                Issue.record("\(quick): \(ScanFrames.failure(quick)?.text ?? "")")
                return
            }
            #expect(a.fields.said == b.fields.said && a.fields.handle == b.fields.handle && a.fields.id == b.fields.id)
            #expect(a.performativeLength + 7 == b.performativeLength)
            #expect(quick[(8 + a.performativeLength)...].elementsEqual(payload))
        }
    }

    @Test func bothWaysReadDispositionsAlike() throws {
        for _ in 0..<10_000 {
            let states: [ScanValue] = [
                .null, .described(0x24, .list([])), .described(0x26, .list([])), .described(0x25, .list([])),
                .described(0x27, .list([.yes])),
            ]
            var fields: [ScanValue] = [
                [.yes, .no].randomElement() ?? .no, .uint(.random(in: 0...600)),
                [.null, .uint(.random(in: 0...600))].randomElement() ?? .null,
                [.null, .yes, .no].randomElement() ?? .no, states.randomElement() ?? .null,
                [.null, .yes, .no].randomElement() ?? .no,
            ]
            fields.removeLast(Int.random(in: 0...4))
            let list = ScanValue.list(fields).encoded { Int.random(in: 0...2) }
            let quick = ScanFrames.fields(ScanFrames.frame([0, 0x53, 0x15] + list))
            let slow = ScanFrames.fields(ScanFrames.frame([0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x15] + list))
            let (a, b) = (try #require(quick), try #require(slow))
            #expect(a.said == b.said && a.id == b.id && a.limit == b.limit, "\(list)")
        }
        #expect(ScanFrames.failure(ScanFrames.frame([0, 0x53, 0x15, 0xC0, 5, 3, 0x41, 0x43, 0x40, 0x40])) != nil)
    }

    // MARK: Frames

    private static func frame(_ body: [UInt8], type: UInt8 = 0, offset: UInt8 = 2) -> [UInt8] {
        ScanFrames.frame(body, type: type, offset: offset)
    }
    private static func frame(_ performative: Frame.Performative, _ fields: [ScanValue]) -> [UInt8] {
        ScanFrames.frame(performative, fields)
    }
    private static func full(_ performative: Frame.Performative) -> [ScanValue] { ScanFrames.full(performative) }
    private static func nulls(_ count: Int) -> [ScanValue] { Array(repeating: .null, count: count) }
    private static func text(_ count: Int) -> String { String(repeating: "a", count: count) }
    private static func source(_ fields: [ScanValue]) -> ScanValue { .described(0x28, .list(fields)) }
    private static func attach(source: ScanValue) -> [UInt8] {
        frame(.attach, [.string("l"), .uint(0), .no, .null, .null, source])
    }
    private static func attach(name: Int) -> [UInt8] { frame(.attach, [.string(text(name)), .uint(0), .no]) }
    private static func open(id: Int) -> [UInt8] { frame(.open, [.string(text(id))]) }
    private static func disposition(_ state: ScanValue) -> [UInt8] {
        frame(.disposition, [.yes, .uint(0), .null, .no, state])
    }
    private static func transfer(_ fields: [ScanValue]) -> [UInt8] { frame(.transfer, [.uint(0), .uint(0)] + fields) }
}
