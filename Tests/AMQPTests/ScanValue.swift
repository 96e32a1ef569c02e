@testable import AMQP

/// A value to be encoded for the scanner (OASIS AMQP 1.0 §1.6): in its shortest form, or in another on demand.
indirect enum ScanValue: Sendable {
    case null, yes, no
    case ubyte(UInt8)
    case ushort(UInt16)
    case uint(UInt32)
    case ulong(UInt64)
    case string(String)
    case symbol(String)
    case binary([UInt8])
    case list([ScanValue])
    case map([ScanValue])
    case symbols([String])
    case described(UInt64, ScanValue)
    case raw([UInt8])

    var bytes: [UInt8] { encoded { 0 } }

    /// - Parameter choice: called at each value; which of its encodings to take, from the shortest one on.
    func encoded(_ choice: () -> Int) -> [UInt8] {
        switch self {
        case .null: return [0x40]
        case .yes: return choice() % 2 == 0 ? [0x41] : [0x56, 1]
        case .no: return choice() % 2 == 0 ? [0x42] : [0x56, 0]
        case .ubyte(let number): return [0x50, number]
        case .ushort(let number): return [0x60] + Self.big(number)
        case .uint(let number):
            let form = choice() % 3
            if number == 0, form == 0 { return [0x43] }
            return number < 256 && form <= 1 ? [0x52, UInt8(number)] : [0x70] + Self.big(number)
        case .ulong(let number):
            let form = choice() % 3
            if number == 0, form == 0 { return [0x44] }
            return number < 256 && form <= 1 ? [0x53, UInt8(number)] : [0x80] + Self.big(number)
        case .string(let text): return Self.sized(0xA1, Array(text.utf8), choice())
        case .symbol(let text): return Self.sized(0xA3, Array(text.utf8), choice())
        case .binary(let bytes): return Self.sized(0xA0, bytes, choice())
        case .list(let values):
            if values.isEmpty, choice() % 2 == 0 { return [0x45] }
            return Self.container(0xC0, values.count, values.flatMap { $0.encoded(choice) }, choice())
        case .map(let values):
            return Self.container(0xC1, values.count, values.flatMap { $0.encoded(choice) }, choice())
        case .symbols(let names):
            let elements = names.flatMap { Self.big(UInt32($0.utf8.count)) + Array($0.utf8) }
            return Self.container(0xE0, names.count, [0xB3] + elements, choice())
        case .described(let code, let value): return [0] + ScanValue.ulong(code).encoded(choice) + value.encoded(choice)
        case .raw(let bytes): return bytes
        }
    }

    static func big<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
        withUnsafeBytes(of: number.bigEndian) { Array($0) }
    }

    private static func sized(_ code: UInt8, _ bytes: [UInt8], _ choice: Int) -> [UInt8] {
        bytes.count < 256 && choice % 2 == 0
            ? [code, UInt8(bytes.count)] + bytes : [code + 0x10] + big(UInt32(bytes.count)) + bytes
    }

    private static func container(_ code: UInt8, _ count: Int, _ bytes: [UInt8], _ choice: Int) -> [UInt8] {
        count < 256 && bytes.count < 255 && choice % 2 == 0
            ? [code, UInt8(bytes.count + 1), UInt8(count)] + bytes
            : [code + 0x10] + big(UInt32(bytes.count + 4)) + big(UInt32(count)) + bytes
    }
}

/// Frames for the scanner.
enum ScanFrames {
    static func frame(_ body: [UInt8], channel: UInt16 = 0, type: UInt8 = 0, offset: UInt8 = 2) -> [UInt8] {
        ScanValue.big(UInt32(body.count + 8)) + [offset, type] + ScanValue.big(channel) + body
    }

    static func frame(
        _ performative: Frame.Performative, _ fields: [ScanValue], channel: UInt16 = 0, payload: [UInt8] = []
    ) -> [UInt8] {
        frame(
            ScanValue.described(UInt64(performative.rawValue), .list(fields)).bytes + payload, channel: channel)
    }

    /// A performative with all of its fields.
    static func full(_ performative: Frame.Performative) -> [ScanValue] {
        let error = ScanValue.described(
            0x1D, .list([.symbol("amqp:not-found"), .string("gone"), .map([.symbol("k"), .string("v")])]))
        let map = ScanValue.map([.symbol("product"), .string("x"), .symbol("n"), .uint(700)])
        switch performative {
        case .open:
            return [
                .string("c"), .string("h"), .uint(65_536), .ushort(255), .uint(30_000), .symbol("en-US"),
                .symbols(["en-US"]), .symbols(["A", "B"]), .symbols(["C"]), map,
            ]
        case .begin:
            return [
                .null, .uint(0), .uint(2_048), .uint(2_048), .uint(1_023), .symbols(["A"]), .symbol("B"), map,
            ]
        case .attach:
            let source = ScanValue.described(
                0x28,
                .list([
                    .string("a/b"), .uint(2), .symbol("never"), .uint(0), .no, map, .symbol("move"),
                    .map([.symbol("f"), .described(0x4_68C0_0000_0004, .string("x"))]),
                    .described(0x26, .list([])), .symbols(["amqp:accepted:list"]), .symbols(["topic"]),
                ]))
            let target = ScanValue.described(
                0x29,
                .list([.string("a/b"), .uint(0), .symbol("session-end"), .uint(0), .yes, map, .symbols(["topic"])]))
            let unsettled = ScanValue.map([.binary([1]), .described(0x24, .list([]))])
            return [
                .string("l"), .uint(3), .no, .ubyte(2), .ubyte(1), source, target, unsettled, .yes, .uint(0),
                .ulong(1 << 20), .symbols(["A"]), .symbols(["B"]), map,
            ]
        case .flow:
            return [
                .uint(1), .uint(2_048), .uint(0), .uint(2_048), .uint(3), .uint(0), .uint(100), .uint(0), .no, .yes,
                map,
            ]
        case .transfer:
            return [
                .uint(3), .uint(0), .binary([0]), .uint(0), .yes, .no, .ubyte(0), .described(0x24, .list([])), .no, .no,
                .no,
            ]
        case .disposition:
            let rejected = ScanValue.described(0x25, .list([error]))
            return [.yes, .uint(0), .uint(5), .yes, rejected, .no]
        case .detach: return [.uint(3), .yes, error]
        case .end, .close: return [error]
        }
    }

    static let all: [Frame.Performative] = [
        .open, .begin, .attach, .flow, .transfer, .disposition, .detach, .end, .close,
    ]

    static func scan(_ bytes: [UInt8], most: Int = 65_536) -> FrameScan {
        bytes.withUnsafeBytes { FrameScanner(maxFrameBytes: most).scan($0) }
    }

    /// The frame's fields when it passes; nil otherwise.
    static func fields(_ bytes: [UInt8]) -> Frame.Fields? {
        if case .frame(let frame) = scan(bytes) { frame.fields } else { nil }
    }

    static func failure(_ bytes: [UInt8], most: Int = 65_536) -> AMQPError? {
        if case .failure(let error) = scan(bytes, most: most) { error } else { nil }
    }

    static func isIncomplete(_ bytes: [UInt8]) -> Bool {
        if case .incomplete = scan(bytes) { true } else { false }
    }
}
