import Core
import Testing
import TestSupport

@testable import Web

/// Bodies with many events, and the topics of paths.
@Suite struct BatchTests {
    private func lines(_ text: String) throws -> [String] {
        try withBuffer(text) { bytes in
            try Batch.lines(of: bytes).map { UnsafeRawBufferPointer(rebasing: bytes[$0]).text }
        }
    }

    @Test(
        arguments: [
            ("", []), ("\n", []), ("\r\n \t\r\n\n", []), ("a", ["a"]), ("a\n", ["a"]), ("a\r\n", ["a"]),
            ("a\nb", ["a", "b"]),
            ("a\r\n\r\n b \r\n", ["a", " b "]), ("\n\na", ["a"]), ("a\rb\n", ["a\rb"]), ("a\r\r\n", ["a\r"]),
            ("\r", []),
        ] as [(String, [String])])
    func splitsLines(text: String, expected: [String]) throws { #expect(try lines(text) == expected) }

    @Test func linesAreBounded() throws {
        let most = String(repeating: "{}\n\n", count: Batch.maxEvents)
        #expect(try lines(most).count == Batch.maxEvents)
        #expect(throws: Problem.self) { try lines(most + "{}") }
    }

    @Test func oneThatIsWrongHarmsNoOther() throws {
        let body = "{\"topic\":\"a\",\"payload\":\"1\"}\r\n{\"topic\":1}\n{\n{\"topic\":\"b\",\"message_id\":\"m\"}"
        try withBuffer(body) { bytes in
            let batch = try Batch(bytes, form: .lines)
            let results = batch.items.map { item in
                Result { () throws(Problem) in try batch.event(item, in: bytes) }.map {
                    String(decoding: $0.topic, as: UTF8.self)
                }
            }
            #expect(results.map { try? $0.get() } == ["a", nil, nil, "b"])
        }
    }

    @Test func cloudEventsInAnArray() throws {
        let one = #"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"x"}"#
        try withBuffer("[\(one), {} ,\(one)]") { bytes in
            let batch = try Batch(bytes, form: .cloudEvents)
            #expect(batch.items.count == 3)
            let first = try batch.event(batch.items[0], in: bytes)
            #expect(first.topic == Array("x".utf8) && first.id == Array("1".utf8))
            #expect(throws: Problem.self) { try batch.event(batch.items[1], in: bytes) }
            let last = try batch.event(batch.items[2], in: bytes, fallback: Array("q".utf8))
            #expect(last.topic == Array("q".utf8))
        }
        try withBuffer(one) { bytes in
            let batch = try Batch(bytes, form: .cloudEvent)
            #expect(try batch.items.map { try batch.event($0, in: bytes).topic } == [Array("x".utf8)])
        }
        for text in ["{}", "", "[", "[1", one] {
            #expect(throws: Problem.self) { try withBuffer(text) { _ = try Batch($0, form: .cloudEvents) } }
        }
        #expect(throws: Problem.self) {
            try withBuffer("[" + String(repeating: "1,", count: Batch.maxEvents) + "1]") {
                _ = try Batch($0, form: .cloudEvents)
            }
        }
        #expect(try withBuffer("[]") { try Batch($0, form: .cloudEvents).items.isEmpty })
    }

    @Test(
        arguments: [
            ("application/x-ndjson", .lines), ("Application/X-NDJSON; charset=utf-8", .lines),
            ("application/cloudevents+json", .cloudEvent), ("application/cloudevents-batch+json ; x=y", .cloudEvents),
            ("application/json", nil), ("", nil), ("application/cloudevents", nil),
        ] as [(String, Batch.Form?)])
    func theTypeSaysTheForm(type: String, expected: Batch.Form?) {
        #expect(withBuffer(type) { Batch.Form(contentType: $0) } == expected)
    }

    @Test(arguments: [
        ("application/json", true, true), ("Application/Problem+JSON; x=y", true, true), ("text/html", false, true),
        ("text/plain; charset=UTF-8", false, true), ("text/plain;charset=\"utf-8\"", false, true),
        ("text/plain; charset=iso-8859-1", false, false), ("image/svg+xml", false, true), ("image/png", false, false),
        ("", false, false), ("application/jsonx", false, false), ("+json", true, true), (";", false, false),
    ])
    func mediaTypes(type: String, isJSON: Bool, isText: Bool) {
        #expect(withBuffer(type) { MediaType.isJSON($0) } == isJSON)
        #expect(withBuffer(type) { MediaType.isText($0) } == isText)
    }

    // MARK: Topics of paths

    private func topic(_ target: [UInt8]) throws -> (topic: [UInt8], isAsWritten: Bool) {
        var room = Array("left over".utf8)
        return try withBuffer(target) { bytes in
            switch try TopicPath.decode(bytes, into: &room) {
            case .asWritten(let count): (Array(bytes[..<count]), true)
            case .decoded: (room, false)
            }
        }
    }

    @Test(arguments: [
        ("a/b", "a/b", true), ("", "", true), ("/a//b/", "/a//b/", true), ("a?b=%2F&c", "a", true), ("?", "", true),
        ("a/b%20c?x", "a/b c", false), ("%61%2e", "a.", false), ("a%25%32%35", "a%25", false),
        ("ä/%C3%A4", "ä/ä", false),
        ("ä", "ä", true), ("a+b/*/>", "a+b/*/>", true), ("a%2Bb", "a+b", false), ("%23", "#", false),
        ("%3F?", "?", false),
        ("a/../b/.", "a/../b/.", true), ("%24SYS", "$SYS", false),
    ])
    func pathsAreTopics(target: String, expected: String, isAsWritten: Bool) throws {
        let found = try topic(Array(target.utf8))
        #expect(String(decoding: found.topic, as: UTF8.self) == expected && found.isAsWritten == isAsWritten)
    }

    @Test(arguments: [
        ("a%2Fb", "%2F"), ("a%2fb", "%2F"), ("%00", "NUL"), ("a%", "%25"), ("a%4", "%25"), ("a%4?1", "%25"),
        ("a%zz", "%25"),
        ("%ff", "UTF-8"), ("%C3", "UTF-8"), ("%C3/%A4", "UTF-8"), ("%ED%A0%80", "UTF-8"), ("%C0%AF", "UTF-8"),
        ("a#b", "%23"), ("a\u{0}", "NUL"),
    ])
    func otherPathsAreRefused(target: String, word: String) {
        #expect { try topic(Array(target.utf8)) } throws: { error in
            (error as? Problem)?.status == 400 && (error as? Problem)?.detail.contains(word) == true
        }
    }

    @Test func rawBytesAreUTF8Too() {
        #expect(throws: Problem.self) { try topic([0x61, 0xFF]) }
        #expect(throws: Problem.self) { try topic([0x61, 0xC3]) }
        #expect(throws: Problem.self) { try topic([0xC3] + Array("%A4".utf8) + [0xFF]) }
    }

    @Test func whatIsEncodedComesBack() throws {
        var input = Seeded(6)
        for _ in 0..<1_000 {
            let levels = (0..<1 + input.below(5)).map { _ in input.text(upTo: 12).replacing("/", with: "") }
            let path = levels.map { Percent.encode($0) }.joined(separator: "/")
            let found = try topic(Array("\(path)?a=%zz".utf8))
            #expect(found.topic == Array(levels.joined(separator: "/").utf8), "\(input.note)")
            #expect(found.isAsWritten == !path.contains("%"), "\(input.note)")
        }
    }
}
