import Testing

@testable import AMQP

/// Values by themselves: each encoding of §1.6, their text, and the walk over those that are nested.
@Suite struct ValueTests {
    private static let encodings: [(String, ValueType, String?)] = [
        ("40", .null, nil), ("41", .boolean, "true"), ("42", .boolean, "false"), ("56 00", .boolean, "false"),
        ("56 01", .boolean, "true"), ("50 ff", .ubyte, "255"), ("60 0100", .ushort, "256"),
        ("70 ffffffff", .uint, "4294967295"), ("52 07", .uint, "7"), ("43", .uint, "0"),
        ("80 ffffffffffffffff", .ulong, "18446744073709551615"), ("53 07", .ulong, "7"), ("44", .ulong, "0"),
        ("51 80", .byte, "-128"), ("61 8000", .short, "-32768"), ("71 80000000", .int, "-2147483648"),
        ("54 ff", .int, "-1"), ("81 8000000000000000", .long, "-9223372036854775808"), ("55 7f", .long, "127"),
        ("72 3fc00000", .float, "1.5"), ("82 3ff8000000000000", .double, "1.5"),
        ("72 7fc00000", .float, "nan"), ("82 fff0000000000000", .double, "-inf"),
        ("74 00000000", .decimal, nil), ("84 0000000000000000", .decimal, nil),
        ("94 00000000000000000000000000000000", .decimal, nil), ("73 0001f41c", .char, "\u{1F41C}"),
        ("83 0000000000000000", .timestamp, "1970-01-01T00:00:00.000Z"),
        ("83 ffffffffffffffff", .timestamp, "1969-12-31T23:59:59.999Z"),
        ("83 0000019adce6e8ff", .timestamp, "2025-12-02T02:31:51.807Z"),
        ("83 000000e8d4a513db", .timestamp, "2001-09-09T01:46:40.987Z"),
        ("83 000000dd9aa6e000", .timestamp, "2000-02-29T00:00:00.000Z"),
        ("83 000003bc5c9b0bff", .timestamp, "2100-02-28T23:59:59.999Z"),
        ("83 0000e677d21fdbff", .timestamp, "9999-12-31T23:59:59.999Z"),
        ("83 0000e677d21fdc00", .timestamp, "253402300800000"),
        ("83 ffffc77590fba000", .timestamp, "0000-01-01T00:00:00.000Z"),
        ("83 ffffc77590fb9fff", .timestamp, "-62167219200001"),
        ("83 8000000000000000", .timestamp, "-9223372036854775808"),
        ("98 00112233445566778899aabbccddeeff", .uuid, "00112233-4455-6677-8899-aabbccddeeff"),
        ("a0 03 010203", .binary, "AQID"), ("a0 02 fbff", .binary, "+/8="), ("a0 01 00", .binary, "AA=="),
        ("b0 00000004 00010203", .binary, "AAECAw=="), ("a0 00", .binary, ""), ("a1 01 'a'", .string, "a"),
        ("b1 00000003 e282ac", .string, "€"), ("a3 01 'a'", .symbol, "a"), ("b3 00000001 'a'", .symbol, "a"),
        ("45", .list, nil), ("c0 03 02 40 41", .list, nil), ("d0 00000005 00000001 40", .list, nil),
        ("c1 04 02 a1 00 40", .map, nil), ("d1 00000007 00000002 a1 00 40", .map, nil),
        ("e0 04 02 50 01 02", .array, nil), ("f0 00000007 00000002 50 01 02", .array, nil),
        ("00 53 01 a1 01 'a'", .described, nil), ("00 a3 01 'x' 00 53 01 45", .described, nil),
    ]

    @Test(arguments: encodings) func everyEncodingIsReadToItsEnd(_ text: String, _ type: ValueType, _ said: String?) {
        let bytes = hex(text)
        bytes.withUnsafeBytes { buffer in
            var reader = ValueReader(buffer)
            var budget = 100
            let value = try? reader.nextChecked(&budget)
            #expect(value?.type == type)
            #expect(reader.isAtEnd)
            var written: [UInt8] = []
            let isText = value.map { ValueText.append($0, to: &written) } ?? false
            #expect(isText == (said != nil) && String(decoding: written, as: UTF8.self) == said ?? "")
        }
        // With a byte less nothing can be read, and nothing is read beyond the end.
        for count in 0..<bytes.count { #expect(Self.failure(Array(bytes[..<count])) != nil, "\(count) bytes") }
    }

    @Test func whatIsNoConstructorIsRefused() {
        let known = Set(Self.encodings.compactMap { hex($0.0).first })
        #expect(known.count == 40, "all of §1.6, and 0 for a descriptor")
        for constructor in UInt8.min...UInt8.max where !known.contains(constructor) {
            #expect(Self.failure([constructor] + [UInt8](repeating: 0, count: 20)) == .unknownType, "\(constructor)")
        }
    }

    @Test(arguments: [
        ("c0 02 02 40", ValueError.endsEarly), ("c0 03 01 40 40", .wrongSize), ("c0 00", .endsEarly),
        ("d0 00000003 000000", .endsEarly), ("c1 03 01 40", .endsEarly), ("c1 02 01 40", .oddMap),
        ("c0 02 01 a1", .endsEarly), ("c0 03 01 a1 05", .endsEarly), ("c0 05 01 d0 00000000", .endsEarly),
        ("e0 01 00", .endsEarly), ("e0 03 02 50 01", .endsEarly), ("e0 04 01 50 01 02", .wrongSize),
        ("e0 02 01 57", .unknownType), ("f0 0000000a 7fffffff 50 0000000000", .endsEarly),
        ("f0 00000005 7fffffff 40", .tooMany), ("e0 03 02 a1 00", .endsEarly), ("e0 04 02 a1 00 01", .endsEarly),
        ("e0 05 03 a1 00 01 'a'", .endsEarly), ("e0 05 02 a1 00 01 ff", .notUTF8), ("e0 04 01 00 53 01", .endsEarly),
        ("e0 05 01 00 a1 00 40", .wrongType), ("e0 05 02 56 00 01 00", .wrongSize), ("e0 04 02 56 00 02", .notBoolean),
        ("00", .endsEarly), ("00 53", .endsEarly), ("00 53 01", .endsEarly), ("00 40 40", .wrongType),
        ("00 c0 01 00 40", .wrongType), ("00 00 53 01 53 01 40", .unknownType), ("a1 02 c328", .notUTF8),
        ("a1 03 eda080", .notUTF8), ("a3 01 80", .notASCII), ("56 02", .notBoolean), ("73 0000d800", .notCharacter),
        ("73 00110000", .notCharacter), ("b0 ffffffff 00", .endsEarly), ("d0 ffffffff 00000000", .endsEarly),
    ])
    func whatIsWrongInsideIsFound(_ text: String, _ error: ValueError) {
        #expect(Self.failure(hex(text)) == error)
    }

    @Test func nestingHasALimit() {
        func nested(_ depth: Int, _ wrap: ([UInt8]) -> [UInt8]) -> [UInt8] {
            (0..<depth).reduce([0x40]) { inner, _ in wrap(inner) }
        }
        let kinds: [([UInt8]) -> [UInt8]] = [
            { [0xC0, UInt8($0.count + 1), 1] + $0 }, { [0xC1, UInt8($0.count + 2), 2, 0x40] + $0 },
            { [0x00, 0x53, 0x01] + $0 },
        ]
        for wrap in kinds {
            #expect(Self.failure(nested(16, wrap)) == nil)
            #expect(Self.failure(nested(17, wrap)) == .tooDeep)
        }
        // 50,000 descriptors on end.
        let many = Array(repeatElement([0x00, 0x53, 0x01] as [UInt8], count: 50_000).joined()) + [0x40]
        #expect(Self.failure(many) == .tooDeep)
        // Arrays of arrays have no constructors of their own.
        var array: [UInt8] = [2, 1, 0x40]
        for _ in 1..<16 { array = [UInt8(array.count + 2), 1, 0xE0] + array }
        #expect(Self.failure([0xE0] + array) == nil)
        #expect(Self.failure([0xE0] + [UInt8(array.count + 2), 1, 0xE0] + array) == .tooDeep)
    }

    @Test func theBudgetCountsEveryValue() {
        let list: [UInt8] = [0xC0, 101, 100] + [UInt8](repeating: 0x40, count: 100)
        #expect(Self.failure(list, budget: 101) == nil)
        #expect(Self.failure(list, budget: 100) == .tooMany)
        #expect(Self.failure(hex("f0 00000005 00000064 40"), budget: 101) == nil)
        #expect(Self.failure(hex("f0 00000005 00000064 40"), budget: 100) == .tooMany)
    }

    @Test func listsAndMapsAreWrittenInTheirShorterForm() throws {
        let writer = ValueWriter(capacity: 1)
        for count in [0, 1, 2, 252, 253, 254, 255, 256, 300, 70_000] {
            writer.removeAll()
            let start = writer.begin()
            let text = [UInt8](repeating: 0x61, count: count)
            text.withUnsafeBytes { writer.string($0) }
            writer.null()
            writer.end(.map, at: start, count: 2)
            let isShort = count + 2 + 1 + 1 < 256
            #expect(writer.bytes[0] == (isShort ? 0xC1 : 0xD1), "\(count)")
            var reader = ValueReader(writer.bytes)
            var budget = 10
            let value = try reader.nextChecked(&budget)
            #expect(reader.isAtEnd)
            var (members, inner) = try value.members()
            #expect(members == 2)
            #expect(try inner.next().bytes.elementsEqual(text))
            #expect(try inner.next().type == .null)
        }
    }

    private static func failure(_ bytes: [UInt8], budget: Int = 1_000_000) -> ValueError? {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        defer { copy.deallocate() }
        copy.copyBytes(from: bytes)
        var reader = ValueReader(UnsafeRawBufferPointer(copy))
        var budget = budget
        do throws(ValueError) {
            _ = try reader.nextChecked(&budget)
            return nil
        } catch {
            return error
        }
    }
}
