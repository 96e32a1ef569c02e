import Core
import Testing
import TestSupport

@testable import Web

/// The scanner and the writer against tables and against each other.
@Suite struct JSONTests {
    private func failure(_ bytes: [UInt8]) -> JSONScanner.Failure? {
        withBuffer(bytes) { bytes in
            do throws(JSONScanner.Failure) {
                _ = try JSONScanner.value(of: bytes)
                return nil
            } catch {
                return error
            }
        }
    }

    private static func nested(_ depth: Int, _ open: String = "[", _ close: String = "]") -> String {
        String(repeating: open, count: depth) + String(repeating: close, count: depth)
    }

    /// What a parser must accept; most after the cases of JSONTestSuite.
    private static let accepted: [String] = [
        "[[]   ]", "[\"\"]", "[]", "[\"a\"]", "[false]", "[null, 1, \"1\", {}]", "[null]", "[1\n]", " [1]",
        "[1,null,null,null,2]", "[2] ", "[123e65]", "[0e+1]", "[0e1]", "[ 4]",
        "[-0.000000000000000000000000000000000000000000000000000000000000000000000000000001]", "[20e1]", "[-0]",
        "[-123]", "[-1]", "[1E22]", "[1E-2]", "[1E+2]", "[123e45]", "[123.456e78]", "[1e-2]", "[1e+2]", "[123]",
        "[123.456789]", "[99999999999999999999999999999999]", "[1e9999]", "{\"asd\":\"sdf\", \"dfg\":\"fgh\"}",
        "{\"asd\":\"sdf\"}", "{\"a\":\"b\",\"a\":\"c\"}", "{}", "{\"\":0}", "{\"foo\\u0000bar\": 42}",
        "{ \"min\": -1.0e+28, \"max\": 1.0e+28 }", "{\"x\":[{\"id\": \"x\"}], \"id\": \"x\"}", "{\"a\":[]}",
        "{\n\"a\": \"b\"\n}", "[\"\\u0060\\u012a\\u12AB\"]", "[\"\\uD801\\udc37\"]",
        "[\"\\ud83d\\ude39\\ud83d\\udc8d\"]",
        "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]", "[\"\\\\u0000\"]", "[\"\\\"\"]", "[\"a/*b*/c/*d//e\"]", "[\"\\\\a\"]",
        "[\"\\\\n\"]", "[\"\\u0012\"]", "[\"\\uFFFF\"]", "[\"asd\"]", "[ \"asd\"]", "[\"\\uDBFF\\uDFFF\"]",
        "[\"new\\u00A0line\"]", "[\"\u{10FFFF}\"]", "[\"\u{FFFF}\"]", "[\"\\u0000\"]", "[\"\\u002c\"]", "[\"π\"]",
        "[\"\u{1BFFF}\"]", "[\"asd \"]", "\" \"", "[\"\\uD834\\uDd1e\"]", "[\"\\u0821\"]", "[\"\\u0123\"]",
        "[\"\u{2028}\"]", "[\"\u{2029}\"]", "[\"\\u0061\\u30af\\u30EA\\u30b9\"]", "[\"new\u{2029}line\"]",
        "[\"\u{7F}\"]", "[\"\\uA66D\"]", "[\"\\u005C\"]", "[\"⍂㈴⍂\"]", "[\"\\u200B\"]", "[\"\\uFDD0\"]", "[\"€𝄞\"]",
        "[\"aa\u{7F}bb\"]", "false", "42", "-0.1", "null", "\"asd\"", "true", "\"\"", "[\"a\"]\n", "[true]", " [] ",
        "\t\r\n[\t]\r\n", nested(64), "0", "1.5e300", "{\"a\":{\"b\":{\"c\":[1,[2,{\"d\":null}]]}}}",
        nested(63, "{\"a\":", "}").replacing("{\"a\":}", with: "{\"a\":0}"),
    ]

    @Test(arguments: accepted) func acceptsWhatIsJSON(text: String) {
        #expect(failure(Array(text.utf8)) == nil)
    }

    /// What a parser must refuse.
    private static let refused: [String] = [
        "[1 true]", "[\"\": 1]", "[\"\"],", "[,1]", "[1,,2]", "[\"x\",,]", "[\"x\"]]", "[\"\",]", "[\"x\"", "[x",
        "[3[4]]",
        "[1:2]", "[,]", "[-]", "[   , \"\"]", "[\"a\",\n4\n,1,", "[1,]", "[1,,]", "[\"\u{B}a\"\\f]", "[*]", "[\"\"",
        "[1,", "[1,\n1\n,1", "[{}", "[fals]", "[nul]", "[tru]", "[++1234]", "[+1]", "[+Inf]", "[-01]", "[-1.0.]",
        "[-2.]", "[-NaN]", "[.-1]", "[.2e-3]", "[0.1.2]", "[0.3e+]", "[0.3e]", "[0.e1]", "[0E+]", "[0E]", "[0e+]",
        "[0e]", "[1.0e+]", "[1.0e-]", "[1.0e]", "[1 000.0]", "[1eE2]", "[2.e+3]", "[2.e-3]", "[2.e3]", "[9.e+]",
        "[Inf]", "[NaN]", "[１]", "[1+2]", "[0x1]", "[0x42]", "[Infinity]", "[0e+-1]", "[-123.123foo]", "[-Infinity]",
        "[-foo]", "[- 1]", "[-012]", "[-.123]", "[-1x]", "[1ea]", "[1.]", "[.123]", "[1.2a-3]",
        "[1.8011670033376514H-308]",
        "[012]", "[\"x\", truth]", "{[: \"x\"}\n", "{\"x\", null}", "{\"x\"::\"b\"}", "{🇨🇭}", "{\"a\":\"a\" 123}",
        "{key: 'value'}", "{\"a\" b}", "{:\"b\"}", "{\"a\"", "{\"a\":", "{1:1}", "{9999E9999:1}",
        "{null:null,null:null}",
        "{\"id\":0,,,,,}", "{'a':0}", "{\"id\":0,}", "{\"a\":\"b\"}/**/", "{\"a\":\"b\"}//",
        "{\"a\":\"b\",,\"c\":\"d\"}",
        "{a: \"b\"}", "{\"a\":\"a", "{ \"foo\" : \"bar\", \"a\" }", "{\"a\":\"b\"}#", " ", "[\"\\uD800\\\"]",
        "[\"\\uD800\\u\"]", "[\"\\uD800\\u1\"]", "[\"\\uD800\\u1x\"]", "[é]", "[\"\\\u{0}\"]", "[\"\\\\\\\"]",
        "[\"\\\t\"]", "[\"\\🌀\"]", "[\"\\\"]", "[\"\\u00A\"]", "[\"\\uD834\\uDd\"]", "[\"\\uD800\\uD800\\x\"]",
        "[\"\\a\"]", "[\"\\uqqqq\"]", "[\\u0020\"asd\"]", "[\\n]", "\"", "['single quote']", "abc", "[\"\\",
        "[\"a\u{0}a\"]",
        "[\"new\nline\"]", "[\"\t\"]", "\"\\UA66D\"", "\"\"x", "[⁠]", "<.>", "[<null>]", "[1]x", "[1]]", "[\"asd]",
        "aå", "[True]", "1]", "{\"x\": true,", "[][]", "]", "{}}", "{\"\":", "{\"a\":/*comment*/\"b\"}",
        "{\"a\": true} \"x\"", "['", "[", "[{", "{", "{]", "{,", "{[", "{\"a", "{'a'", "*", "{\"a\":\"b\"}#{}",
        "[\u{C}]", "[\u{2060}]", "", "\u{FEFF}{}", "[\"\\u{41}\"]", "TRUE", "nulll", "1 2", "--1", "1e5.5", "\u{A0}1",
        "[\"\\ud800\"]", "[\"\\udc00\"]", "[\"\\udc00\\ud800\"]", "[\"\\ud800\\ud800\"]", "[\"\\ud800a\"]",
        "{\"\\ud800\":1}", "[\"\\ud83d\\n\"]", nested(65), nested(100_000, "[", ""), nested(65, "{\"a\":", "}"),
        nested(100_000, "{\"a\":", ""), "[1}", "{\"a\":1]",
    ]

    @Test(arguments: refused) func refusesWhatIsNot(text: String) throws {
        let bytes = Array(text.utf8)
        let found = try #require(failure(bytes))
        #expect((0...bytes.count).contains(found.offset) && !found.reason.isEmpty)
    }

    /// Bytes in a string that are no UTF-8; and the same outside of one.
    private static let noText: [[UInt8]] = [
        [0xFF], [0xC0, 0xAF], [0xE0, 0xFF], [0xFC, 0x83, 0xBF, 0xBF, 0xBF, 0xBF], [0xED, 0xA0, 0x80], [0xE5], [0x81],
        [0xF4, 0xBF, 0xBF, 0xBF], [0xC3], [0xE2, 0x82], [0xF0, 0x9F, 0x98], [0xC0, 0x80],
        [0xF8, 0x88, 0x80, 0x80, 0x80],
        Array("long enough for words ".utf8) + [0xE9] + Array(" and beyond".utf8),
    ]

    @Test(arguments: noText) func refusesWhatIsNoUTF8(bytes: [UInt8]) {
        #expect(failure(Array("[\"".utf8) + bytes + Array("\"]".utf8)) != nil)
        #expect(failure(Array("{\"".utf8) + bytes + Array("\":1}".utf8)) != nil)
        #expect(failure(bytes) != nil)
        #expect(failure(Array("[1,".utf8) + bytes + Array("]".utf8)) != nil)
    }

    /// Strings are passed over eight bytes at a time: what is special is seen at every place.
    @Test func everyByteIsSeenAtEveryPlace() {
        for byte in UInt8.min...0x7F {
            for place in 0..<20 {
                var text = Array("\"abcdefghijklmnopqrst\"".utf8)
                text[1 + place] = byte
                let isPlain = byte >= 0x20 && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\")
                // A backslash before one of these letters is an escape.
                let isEscape = byte == UInt8(ascii: "\\") && "bfnrt".utf8.contains(text[2 + place])
                #expect((failure(text) == nil) == (isPlain || isEscape), "\(byte) at \(place)")
            }
        }
    }

    @Test func entriesAreBounded() throws {
        let most = "[" + String(repeating: "1,", count: JSONScanner.maxEntries - 1) + "1]"
        #expect(try withBuffer(most) { try JSONScanner.elements(of: $0) }.count == JSONScanner.maxEntries)
        #expect(throws: JSONScanner.Failure.self) {
            try withBuffer("[1," + most.dropFirst()) { try JSONScanner.elements(of: $0) }
        }
        // Deeper ones are not handed out and need no memory.
        #expect(try withBuffer("[[1," + most.dropFirst() + "]") { try JSONScanner.elements(of: $0) }.count == 1)
    }

    @Test func membersComeInOrderWithTheirText() throws {
        let text = #" { "a" : [1, {"a":2}] ,"\u0061":-1.50e3,"é\"\n":{"b":[]},"":"\ud83e\udeb6x","n":null,"t":true}"#
        try withBuffer(text) { bytes in
            let members = try JSONScanner.members(of: bytes)
            #expect(members.map(\.name) == ["a", "a", "é\"\n", "", "n", "t"])
            #expect(members.map(\.value.kind) == [.array, .number, .object, .string, .null, .bool])
            let slices = members.map { JSONScanner.slice($0.value, of: bytes).text }
            #expect(slices == ["[1, {\"a\":2}]", "-1.50e3", "{\"b\":[]}", #""\ud83e\udeb6x""#, "null", "true"])
            #expect(JSONScanner.string(members[3].value, in: bytes) == "🪶x")
            #expect(JSONScanner.bool(members[5].value, in: bytes) == true)
            #expect(JSONScanner.duplicate(in: members) == "a")
            #expect(JSONScanner.duplicate(in: Array(members.dropFirst())) == nil)
        }
        #expect(throws: JSONScanner.Failure.self) { try withBuffer("[1]") { _ = try JSONScanner.members(of: $0) } }
        #expect(throws: JSONScanner.Failure.self) { try withBuffer("{}") { _ = try JSONScanner.elements(of: $0) } }
    }

    @Test(
        arguments: [
            ("0", 0), ("-0", 0), ("1", 1), ("-17", -17), ("9007199254740992", 1 << 53),
            ("-9007199254740992", -(1 << 53)),
            ("9007199254740993", nil), ("99999999999999999999", nil), ("9223372036854775808", nil), ("1.0", 1),
            ("-7.000", -7), ("1.5", nil),
            ("1e3", nil), ("\"1\"", nil), ("true", nil), ("null", nil), ("[1]", nil),
        ] as [(String, Int?)])
    func integersAreExactOrNothing(text: String, expected: Int?) throws {
        try withBuffer(text) { bytes in
            let value = try JSONScanner.value(of: bytes)
            #expect(JSONScanner.integer(value, in: bytes) == expected)
        }
    }

    @Test func aValueOfAnotherTextTrapsNothing() {
        withBuffer("ab") { bytes in
            for kind in [JSONScanner.Kind.string, .number, .bool] {
                for range in [0..<0, 0..<1, 0..<2, 1..<9, 7..<9] {
                    let value = JSONScanner.Value(kind: kind, range: range)
                    _ = JSONScanner.bytes(value, in: bytes)
                    #expect(JSONScanner.integer(value, in: bytes) == nil)
                    #expect(JSONScanner.bool(value, in: bytes) != true)
                }
            }
        }
    }

    // MARK: Writing

    @Test func writesCommasAndEscapes() {
        var writer = JSONWriter()
        writer.beginObject()
        writer.key("a")
        writer.number(-5)
        writer.key(text: "b\"".utf8)
        writer.beginArray()
        writer.string("\"\\/\n\r\t\u{1}\u{7F}ä")
        writer.beginObject()
        writer.endObject()
        writer.bool(true)
        writer.null()
        writer.raw("{\"x\":1 }".utf8)
        withBuffer([1, 2]) { writer.base64($0) }
        writer.endArray()
        writer.endObject()
        let expected = #"{"a":-5,"b\"":["\"\\/\n\r\t\u0001\u007Fä",{},true,null,{"x":1 },"AQI="]}"#
        #expect(String(decoding: writer.bytes, as: UTF8.self) == expected)
    }

    @Test func writesTextEvenOutOfWhatIsNone() throws {
        var writer = JSONWriter()
        writer.string([0x61, 0xFF, 0x22])
        #expect(String(decoding: writer.bytes, as: UTF8.self) == "\"a\u{FFFD}\\\"\"")
        #expect(failure(writer.bytes) == nil)
    }

    private indirect enum Tree: Equatable {
        case object([(String, Tree)]), array([Tree]), string(String), number(Int), bool(Bool), null

        static func == (a: Tree, b: Tree) -> Bool {
            switch (a, b) {
            case (.object(let a), .object(let b)):
                a.count == b.count && zip(a, b).allSatisfy { Array($0.0.utf8) == Array($1.0.utf8) && $0.1 == $1.1 }
            case (.array(let a), .array(let b)): a == b
            case (.string(let a), .string(let b)): Array(a.utf8) == Array(b.utf8)
            case (.number(let a), .number(let b)): a == b
            case (.bool(let a), .bool(let b)): a == b
            case (.null, .null): true
            default: false
            }
        }

        static func random(_ input: inout Seeded, depth: Int) -> Tree {
            switch input.below(depth > 0 ? 6 : 4) {
            case 0: .null
            case 1: .bool(input.below(2) == 0)
            case 2: .number((input.below(2) == 0 ? -1 : 1) * input.below((1 << input.below(54)) + 1))
            case 3: .string(input.text(upTo: 40))
            case 4: .array((0..<input.below(5)).map { _ in random(&input, depth: depth - 1) })
            default: .object((0..<input.below(5)).map { _ in (input.text(upTo: 8), random(&input, depth: depth - 1)) })
            }
        }

        func write(_ writer: inout JSONWriter) {
            switch self {
            case .null: writer.null()
            case .bool(let truth): writer.bool(truth)
            case .number(let number): writer.number(number)
            case .string(let text): writer.string(text)
            case .array(let trees):
                writer.beginArray()
                for tree in trees { tree.write(&writer) }
                writer.endArray()
            case .object(let members):
                writer.beginObject()
                for (name, tree) in members {
                    writer.key(text: name.utf8)
                    tree.write(&writer)
                }
                writer.endObject()
            }
        }

        static func read(_ value: JSONScanner.Value, in bytes: UnsafeRawBufferPointer) throws -> Tree {
            let inner = JSONScanner.slice(value, of: bytes)
            switch value.kind {
            case .null: return .null
            case .bool: return .bool(JSONScanner.bool(value, in: bytes) == true)
            case .number: return .number(try #require(JSONScanner.integer(value, in: bytes)))
            case .string: return .string(try #require(JSONScanner.string(value, in: bytes)))
            case .array: return .array(try JSONScanner.elements(of: inner).map { try read($0, in: inner) })
            case .object:
                return .object(try JSONScanner.members(of: inner).map { ($0.name, try read($0.value, in: inner)) })
            }
        }
    }

    @Test func whatIsWrittenIsReadBack() throws {
        var input = Seeded(1)
        for _ in 0..<2_000 {
            let tree = Tree.random(&input, depth: 5)
            var writer = JSONWriter()
            tree.write(&writer)
            try withBuffer(writer.bytes) { bytes in
                let value = try JSONScanner.value(of: bytes)
                #expect(value.range == 0..<bytes.count, "\(input.note)")
                #expect(try Tree.read(value, in: bytes) == tree, "\(input.note)")
            }
        }
    }

    /// A text that is cut anywhere is refused, except where what is left is a number.
    @Test func whatIsCutIsRefused() {
        let text = Array(#"{"a":[1,-2.5e3,"x\u00e4\ud83e\udeb6🪶"],"b":{"c":null,"d":true},"e":false} "#.utf8)
        for count in 0..<text.count - 1 { #expect(failure(Array(text[..<count])) != nil, "\(count) bytes") }
        #expect(failure(text) == nil)
    }

    // MARK: Base64

    @Test(arguments: [
        ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ])
    func base64OfTheStandard(data: String, text: String) {
        #expect(Base64.encode(data.utf8) == Array(text.utf8))
        #expect(Base64.decode(text.utf8) == Array(data.utf8))
    }

    @Test(arguments: [
        "Z", "Zg", "Zg=", "Zg===", "=", "====", "Z===", "Zh==", "Zm9=", "Zg==Zg", "Z=g=", "=Zg=", "Zm9v\n", "Zm 9v",
        "Zm9-", "Zm9_", "Zm9vé", "Zg==Zg==x",
    ])
    func base64ThatIsNone(text: String) { #expect(Base64.decode(text.utf8) == nil) }

    @Test func base64ComesBack() {
        var input = Seeded(2)
        for _ in 0..<2_000 {
            let data = input.bytes(upTo: 100)
            #expect(Base64.decode(Base64.encode(data)) == data, "\(input.note)")
        }
        let all = (0...255).map { UInt8($0) }
        #expect(Base64.decode(Base64.encode(all)) == all)
    }
}
