import Core
import Testing
import TestSupport

@testable import Web

/// CloudEvents 1.0: the examples of the specification's HTTP binding and JSON format, and what is refused.
@Suite struct CloudEventsTests {
    private func read(_ text: String, topic: String? = nil, fallback: String? = nil) throws -> NewEvent {
        try withBuffer(text) { bytes in
            try CloudEvents.read(bytes, topic: topic.map { Array($0.utf8) }, fallback: fallback.map { Array($0.utf8) })
        }
    }

    private func said(_ event: NewEvent) -> [Said] { Said.list(event.properties.writer) }

    private func written(_ list: [Said], _ payload: [UInt8]) -> String? {
        var writer = JSONWriter()
        let isOne = withBuffer(Said.bytes(list)) { properties in
            withBuffer(payload) { CloudEvents.write(properties: properties, payload: $0, to: &writer) }
        }
        #expect(isOne || writer.bytes.isEmpty)
        return isOne ? String(decoding: writer.bytes, as: UTF8.self) : nil
    }

    private static let least: [Said] = [
        .user("specversion", "1.0"), .user("type", "com.example.someevent"), .user("source", "/mycontext/1"),
        .user("id", "A234-1234-1234"),
    ]

    // MARK: Binary mode

    /// HTTP binding §3.1.4.
    @Test func binaryModeOfTheSpecification() throws {
        let headers = try eventHeaders(
            "ce-specversion: 1.0", "ce-type: com.example.someevent", "ce-time: 2018-04-05T03:56:24Z",
            "ce-id: 1234-1234-1234", "ce-source: /mycontext/subcontext",
            "Content-Type: application/json; charset=utf-8",
            "CE-PartitionKey: p")
        #expect(headers.isCloudEvent && headers.saysText && headers.mode == .binary)
        #expect(
            Said.list(headers.properties) == [
                .user("specversion", "1.0"), .user("type", "com.example.someevent"),
                .user("time", "2018-04-05T03:56:24Z"), .user("id", "1234-1234-1234"),
                .user("source", "/mycontext/subcontext"), .text(.contentType, "application/json; charset=utf-8"),
                .user("partitionkey", "p"),
            ])
    }

    /// HTTP binding §3.1.3.2: what the attribute is, and how it is sent.
    @Test(arguments: [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"), ("\"Euro %E2%82%AC\"", "Euro €"), ("a\\b", "a\\b"),
        ("\"a \\\"b\\\" \\\\\"", "a \"b\" \\"), ("%22x%22", "\"x\""), ("%2525", "%25"), ("ünd", "ünd"), ("\"\"", ""),
    ])
    func attributesAreDecodedOnce(sent: String, expected: String) throws {
        let headers = try eventHeaders(
            "ce-specversion: 1.0", "ce-type: t", "ce-id: 1", "ce-source: s", "ce-x: \(sent)")
        #expect(Said.list(headers.properties).last == .user("x", expected))
        var input: [Said] = Self.least
        input.append(.user("x", expected))
        let fields = withBuffer(Said.bytes(input)) { EventHeaders.fields(of: $0) }
        #expect(fields["ce-x"]?.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "\"") } == true)
    }

    @Test(arguments: [
        (["ce-id: 1"], "ce-specversion"), (["ce-specversion: 0.3"], "ce-specversion"),
        (["ce-specversion: 1.0", "ce-source: s", "ce-type: t"], "ce-id"),
        (["ce-specversion: 1.0", "ce-source: s", "ce-type: t", "ce-id:"], "ce-id"),
        (["ce-specversion: 1.0", "ce-id: 1", "ce-type: t"], "ce-source"),
        (["ce-specversion: 1.0", "ce-id: 1", "ce-source: s"], "ce-type"), (["ce-id: 1", "CE-ID: 2"], "CE-ID"),
    ])
    func whatIsMissingIsNamed(lines: [String], name: String) {
        #expect { try eventHeaders(lines.map { Array($0.utf8) }) } throws: { error in
            (error as? Problem)?.detail.hasPrefix("\(name):") == true && (error as? Problem)?.status == 400
        }
    }

    /// Of a structured event, fields are copies.
    @Test func structuredModeIgnoresFields() throws {
        let headers = try eventHeaders(
            "Content-Type: application/cloudevents+json; charset=UTF-8", "ce-id: 1", "Apus-Priority: 3")
        #expect(headers.mode == .structured && !headers.isCloudEvent)
        #expect(Said.list(headers.properties) == [Said(identifier: .priority, bytes: [3])])
        let text = #"{"specversion":"1.0","id":"1","source":"s","type":"t","topic":"x"}"#
        let event = try withBuffer(text) { try CloudEvents.read($0, list: headers.list) }
        #expect(said(event).contains(Said(identifier: .priority, bytes: [3])) && said(event).count == 6)
        #expect(try eventHeaders("Content-Type: application/cloudevents-batch+json").mode == .batch)
    }

    // MARK: Structured mode

    /// JSON format §3.2, with the three ways of data.
    private static func example(_ data: String) -> String {
        """
        {
            "specversion" : "1.0",
            "type" : "com.example.someevent",
            "source" : "/mycontext",
            "subject": null,
            "id" : "C234-1234-1234",
            "time" : "2018-04-05T17:31:00Z",
            "comexampleextension1" : "value",
            "comexampleothervalue" : 5,
            "flag": true,
            "unsetextension": null\(data)
        }
        """
    }

    private static let attributes: [Said] = [
        .user("specversion", "1.0"), .user("type", "com.example.someevent"), .user("source", "/mycontext"),
        .user("id", "C234-1234-1234"), .user("time", "2018-04-05T17:31:00Z"), .user("comexampleextension1", "value"),
        .user("comexampleothervalue", "5"), .user("flag", "true"),
    ]

    private static let format = Said(identifier: .payloadFormat, bytes: [1])

    @Test(
        arguments: [
            (
                #","datacontenttype":"application/json","data":{ "a":[1, 2.50],"a":"\u00e4" }"#,
                #"{ "a":[1, 2.50],"a":"\u00e4" }"#, "application/json", true
            ),
            (#","data" :  "text" "#, #""text""#, "application/json", true),
            (#","data":null"#, "null", "application/json", true),
            (#","datacontenttype":"application/vnd.x+json","data":"{}""#, #""{}""#, "application/vnd.x+json", true),
            (
                #","datacontenttype":"application/xml","data":"<much wow=\"xml\"/>""#, "<much wow=\"xml\"/>",
                "application/xml", true
            ),
            (#","datacontenttype":"text/plain","data":[1]"#, "[1]", "text/plain", true),
            (
                #","datacontenttype":"application/vnd.apache.thrift.binary","data_base64":"aGk=""#, "hi",
                "application/vnd.apache.thrift.binary", false
            ),
            (#","data_base64":"aGk=","data":null"#, "hi", nil, false), ("", "", nil, false),
            (#","datacontenttype":"text/plain""#, "", "text/plain", false),
        ] as [(String, String, String?, Bool)])
    func structuredModeOfTheSpecification(data: String, payload: String, type: String?, isText: Bool) throws {
        let event = try read(Self.example(data), topic: "t")
        #expect(String(decoding: event.payload, as: UTF8.self) == payload)
        #expect(event.topic == Array("t".utf8) && event.id == Array("C234-1234-1234".utf8))
        let list = said(event)
        #expect(list.filter { $0.identifier == .userProperty } == Self.attributes)
        #expect(list.filter { $0.identifier == .contentType } == (type.map { [.text(.contentType, $0)] } ?? []))
        #expect(list.contains(Self.format) == isText)
    }

    @Test func theTopicComesFromWhereItIsSaid() throws {
        func topic(_ members: String, _ topic: String? = nil, _ fallback: String? = nil) throws -> String {
            let text = #"{"specversion":"1.0","id":"1","source":"s","type":"t"\#(members)}"#
            return String(decoding: try read(text, topic: topic, fallback: fallback).topic, as: UTF8.self)
        }
        let both = #","topic":"m","subject":"s""#
        #expect(try topic(both, "path", "query") == "path")
        #expect(try topic(both, nil, "query") == "m")
        #expect(try topic(#","subject":"s""#, nil, "query") == "query")
        #expect(try topic(#","subject":"s""#) == "s")
        #expect(throws: Problem.self) { try topic("") }
    }

    @Test(arguments: [
        (#"{"id":"1"}"#, "specversion"), (#"{"specversion":"1.0","id":"","source":"s","type":"t"}"#, "id"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":null}"#, "type"),
        (#"{"specversion":1.0,"id":"1","source":"s","type":"t"}"#, "specversion"),
        (#"{"specversion":"1.0","id":"1","id":"1","source":"s","type":"t"}"#, "id"),
        (#"{"specversion":"1.0","id":"1","\u0069d":"1","source":"s","type":"t"}"#, "id"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","Big":"x"}"#, "Big"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","a_b":"x"}"#, "a_b"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","x":{}}"#, "x"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","x":[]}"#, "x"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","x":1.5}"#, "x"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","x":"\u0000"}"#, "x"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":1,"data_base64":""}"#, "data_base64"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"?"}"#, "data_base64"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":1}"#, "data_base64"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":1}"#, "datacontenttype"),
        (#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#, "topic"),
        (#"[]"#, "The CloudEvent is no JSON object"), (#"{"#, "The CloudEvent is no JSON object"),
    ])
    func errorsNameTheMember(text: String, name: String) {
        #expect { try read(text) } throws: { error in
            (error as? Problem)?.detail.hasPrefix("\(name):") == true && (error as? Problem)?.status == 400
        }
    }

    @Test func writesOnlyWhatIsOne() {
        #expect(written(Self.least, []) != nil)
        for index in Self.least.indices {
            var list = Self.least
            list.remove(at: index)
            #expect(written(list, []) == nil)
            list.insert(Said(identifier: .userProperty, bytes: Self.least[index].bytes), at: index)
            #expect(written(list, []) == nil, "empty")
        }
        let other = [Said.user("specversion", "0.3")] + Self.least
        #expect(written(other, []) == nil, "the first counts")
    }

    @Test func writesDataAsWhatItIs() {
        func data(_ type: String?, _ payload: [UInt8], _ more: [Said] = []) -> String? {
            let list = more + Self.least + (type.map { [.text(.contentType, $0)] } ?? [])
            let start =
                #"{"specversion":"1.0","type":"com.example.someevent","source":"/mycontext/1","#
                + #""id":"A234-1234-1234""#
            let text = written(list, payload)
            return text.map { String($0.dropFirst(start.count).dropLast()) }
        }
        let json = #","datacontenttype":"application/json""#
        let plain = #","datacontenttype":"text/plain""#
        #expect(data("application/json", Array(#"{"a": 1.0}"#.utf8)) == json + #","data":{"a": 1.0}"#)
        // White space around a value would not come back.
        for text in [" 8", "8 ", "\n8"] {
            let base64 = String(decoding: Base64.encode(text.utf8), as: UTF8.self)
            #expect(data("application/json", Array(text.utf8)) == json + ",\"data_base64\":\"\(base64)\"")
        }
        #expect(data("application/json", Array("{a}".utf8)) == json + #","data_base64":"e2F9""#)
        #expect(data("text/plain", Array("h\"i".utf8)) == plain + #","data":"h\"i""#)
        #expect(data("text/plain", [0xFF]) == plain + #","data_base64":"/w==""#)
        #expect(data("text/plain", []) == plain)
        #expect(data(nil, Array("[1]".utf8)) == #","data":[1]"#)
        #expect(data(nil, Array("hi".utf8)) == #","data_base64":"aGk=""#)
        // What would be too deep inside of an event is bytes.
        func deep(_ count: Int) -> [UInt8] {
            Array((String(repeating: "[", count: count) + String(repeating: "]", count: count)).utf8)
        }
        #expect(data(nil, deep(62))?.hasPrefix(#","data":[["#) == true)
        #expect(data(nil, deep(63))?.hasPrefix(#","data_base64""#) == true)
        // What cannot be an attribute is left out.
        let others: [Said] = [.user("Big", "x"), .user("data", "x"), .user("a b", "x"), .text(.correlationData, "c")]
        #expect(data(nil, [], others) == "")
        #expect(written(Self.least + [.user("id", "2")], [])?.contains("\"2\"") == false)
    }

    @Test func structuredComesBack() throws {
        var input = Seeded(5)
        for _ in 0..<500 {
            var list = Self.least
            for number in 0..<input.below(4) { list.append(.user("x\(number)", input.text(upTo: 30))) }
            if input.below(2) == 0 { list.append(.user("partitionkey", input.text(upTo: 5))) }
            let type = ["application/json", "text/plain", "image/png"][input.below(3)]
            list.append(.text(.contentType, type))
            let payload = input.below(2) == 0 ? input.bytes(upTo: 30) : Array("[1, \"x\"]".utf8)
            let text = try #require(written(list, payload))
            let event = try read(text, topic: "t")
            #expect(event.payload == payload, "\(input.note)")
            #expect(Said.sorted(said(event)).filter { $0 != Self.format } == Said.sorted(list), "\(input.note)")
        }
    }
}
