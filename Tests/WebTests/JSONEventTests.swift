import Core
import Testing
import TestSupport

@testable import Web

/// An event as JSON, both ways, and what is refused.
@Suite struct JSONEventTests {
    private func write(
        _ topic: String, _ payload: [UInt8], _ list: [Said] = [], qos: UInt8 = 0, isRetained: Bool = false,
        expiresAt: UInt64 = 0, now: UInt64 = 0
    ) -> String {
        let properties = Said.bytes(list)
        let event = withBuffer(topic) { topic in
            withBuffer(properties) { properties in
                withBuffer(payload) { payload in
                    Event(
                        topic: topic, properties: properties, payload: payload, qos: qos, isRetained: isRetained,
                        expiresAt: expiresAt)
                }
            }
        }
        var owned = JSONWriter()
        JSONEvent.write(event, now: now, to: &owned)
        // The borrowed form says the same.
        var view = EventView(payload: event.bytes, payloadLength: 0)
        let run = withUnsafeMutablePointer(to: &view) { view in
            EventRun(event: event, view: view, publisher: PortAddress(lane: 0, slot: 0, generation: 0))
        }
        var borrowed = JSONWriter()
        JSONEvent.write(view, of: run, now: now, to: &borrowed)
        #expect(owned.bytes == borrowed.bytes)
        return String(decoding: owned.bytes, as: UTF8.self)
    }

    private func problem(_ text: String) -> Problem? {
        withBuffer(text) { bytes in
            do throws(Problem) {
                _ = try JSONEvent.read(bytes)
                return nil
            } catch {
                return error
            }
        }
    }

    @Test func writesWhatThereIsToSay() {
        #expect(write("a/b", Array("hé\"".utf8)) == #"{"topic":"a/b","payload":"hé\""}"#)
        #expect(write("a", []) == #"{"topic":"a","payload":""}"#)
        #expect(write("a", [0xFF, 0]) == #"{"topic":"a","payload_base64":"/wA="}"#)
        #expect(write("a", [0]) == #"{"topic":"a","payload_base64":"AA=="}"#)
        let says = Said(identifier: .payloadFormat, bytes: [1])
        #expect(write("a", [0], [says]) == #"{"topic":"a","payload":"\u0000"}"#)
        #expect(write("a", [0xFF], [says]) == #"{"topic":"a","payload_base64":"/w=="}"#)
        let all: [Said] = [
            .text(.contentType, "text/plain"), .user("k", "1"), .user("partitionkey", "p"), .user("k", "2"),
            .text(.responseTopic, "r/1"), .text(.correlationData, "c"), .text(.messageID, "m"),
            Said(identifier: .priority, bytes: [9]),
        ]
        #expect(
            write("a", [], all, qos: 2, isRetained: true, expiresAt: 1_500, now: 1_000)
                == #"{"topic":"a","payload":"","qos":2,"retained":true,"ttl":500,"content_type":"text/plain","#
                + #""partition_key":"p","reply_to":"r/1","correlation":"c","message_id":"m","priority":9,"#
                + #""properties":[["k","1"],["k","2"]]}"#)
        let binary = Said(identifier: .correlationData, bytes: [0xFF])
        #expect(write("a", [], [binary]).contains(#""correlation_base64":"/w==""#))
    }

    @Test func readsEveryMember() throws {
        let text = #"""
            {"topic":"a\/b","payload":"\u00e4","qos":1,"retained":true,"content_type":"text/plain","correlation":"c",
             "reply_to":"r","message_id":"m","ttl":5000,"priority":255,"partition_key":"p",
             "properties":[["k","1"],["k",""]], "x": 1}
            """#
        let members = try withBuffer(text) { bytes in
            try JSONEvent.read(try JSONScanner.members(of: bytes), in: bytes, others: ["x"])
        }
        #expect(members.topic == Array("a/b".utf8) && members.payload == Array("ä".utf8) && members.qos == 1)
        #expect(members.isRetained && members.ttlMilliseconds == 5_000 && members.id == Array("m".utf8))
        let expected: [Said] = [
            Said(identifier: .payloadFormat, bytes: [1]), .text(.contentType, "text/plain"), .text(.responseTopic, "r"),
            .text(.correlationData, "c"), .user("partitionkey", "p"), .user("k", "1"), .user("k", ""),
            .text(.messageID, "m"), Said(identifier: .priority, bytes: [255]),
        ]
        #expect(Said.sorted(Said.list(members.properties.writer)) == expected)
    }

    @Test func readsTheShortForms() throws {
        let event = try withBuffer(#"{"topic":"t","ttl":0,"qos":null,"properties":{"a":"1","b":"2"}}"#) {
            try JSONEvent.read($0)
        }
        #expect(event.payload.isEmpty && event.ttlMilliseconds == nil && !event.isRetained && event.id == nil)
        #expect(Said.list(event.properties.writer) == [.user("a", "1"), .user("b", "2")])
        let bytes = try withBuffer(#"{"payload_base64":"/wA=","topic":"t","correlation_base64":"AP8="}"#) {
            try JSONEvent.read($0)
        }
        #expect(bytes.payload == [0xFF, 0])
        #expect(Said.list(bytes.properties.writer) == [Said(identifier: .correlationData, bytes: [0, 0xFF])])
    }

    /// Each error begins with the name of the member.
    @Test(arguments: [
        (#"{}"#, "topic"), (#"{"topic":null}"#, "topic"), (#"{"topic":1}"#, "topic"),
        (#"{"topic":"a","topic":"b"}"#, "topic"),
        (#"{"topic":"a","payload":{}}"#, "payload"), (#"{"topic":"a","payload":1}"#, "payload"),
        (#"{"topic":"a","payload_base64":"x"}"#, "payload_base64"),
        (#"{"topic":"a","payload_base64":1}"#, "payload_base64"),
        (#"{"topic":"a","payload":"","payload_base64":""}"#, "payload_base64"),
        (#"{"topic":"a","correlation":"","correlation_base64":""}"#, "correlation_base64"),
        (#"{"topic":"a","qos":3}"#, "qos"), (#"{"topic":"a","qos":"1"}"#, "qos"), (#"{"topic":"a","qos":1.5}"#, "qos"),
        (#"{"topic":"a","retained":1}"#, "retained"), (#"{"topic":"a","ttl":-1}"#, "ttl"),
        (#"{"topic":"a","ttl":9007199254740993}"#, "ttl"), (#"{"topic":"a","ttl":1e3}"#, "ttl"),
        (#"{"topic":"a","content_type":"\u0000"}"#, "content_type"), (#"{"topic":"a","reply_to":"a/#"}"#, "reply_to"),
        (#"{"topic":"a","reply_to":""}"#, "reply_to"), (#"{"topic":"a","priority":256}"#, "priority"),
        (#"{"topic":"a","priority":-1}"#, "priority"), (#"{"topic":"a","priority":"1"}"#, "priority"),
        (#"{"topic":"a","partition_key":1}"#, "partition_key"), (#"{"topic":"a","properties":1}"#, "properties"),
        (#"{"topic":"a","properties":["a"]}"#, "properties"), (#"{"topic":"a","properties":[["a"]]}"#, "properties"),
        (#"{"topic":"a","properties":[["a",1]]}"#, "properties"),
        (#"{"topic":"a","properties":{"a":1}}"#, "properties"),
        (#"{"topic":"a","properties":[["a","b","c"]]}"#, "properties"),
        (#"{"topic":"a","properties":[["\u0000","b"]]}"#, "properties"), (#"{"topic":"a","qso":1}"#, "qso"),
        (#"{"topic":"a","message_id":[]}"#, "message_id"), (#"[]"#, "The event is no JSON object"),
        (#"{"topic":"a"}{}"#, "The event is no JSON object"),
    ])
    func errorsNameTheMember(text: String, name: String) throws {
        let found = try #require(problem(text))
        #expect(found.status == 400 && found.detail.hasPrefix("\(name):"), "\(found.detail)")
    }

    @Test func propertiesAreBounded() throws {
        func many(_ count: Int, _ length: Int) -> String {
            let pair = #"["k","\#(String(repeating: "v", count: length))"]"#
            return #"{"topic":"a","properties":[\#(Array(repeating: pair, count: count).joined(separator: ","))]}"#
        }
        #expect(problem(many(64, 1)) == nil)
        #expect(problem(many(65, 1))?.detail.contains("64") == true)
        #expect(problem(many(20_000, 0))?.detail.contains("64") == true)
        #expect(problem(many(1, 16_000)) == nil)
        #expect(problem(many(2, 9_000))?.detail.contains("16384") == true)
        let id = String(repeating: "i", count: 1_025)
        #expect(problem(#"{"topic":"a","message_id":"\#(id)"}"#)?.detail.contains("1024") == true)
    }

    @Test func whatIsWrittenIsReadBack() throws {
        var input = Seeded(3)
        for _ in 0..<1_000 {
            let payload = input.below(2) == 0 ? input.bytes(upTo: 60) : Array(input.text(upTo: 60).utf8)
            var list: [Said] = []
            if input.below(3) == 0 { list.append(.text(.contentType, input.text(upTo: 20))) }
            if input.below(3) == 0 { list.append(.text(.responseTopic, "r/\(input.next())")) }
            if input.below(3) == 0 { list.append(Said(identifier: .correlationData, bytes: input.bytes(upTo: 20))) }
            if input.below(3) == 0 { list.append(.user("partitionkey", input.text(upTo: 9))) }
            for _ in 0..<input.below(5) { list.append(.user(input.text(upTo: 6), input.text(upTo: 20))) }
            if input.below(3) == 0 { list.append(.text(.messageID, "m" + input.text(upTo: 20))) }
            if input.below(3) == 0 { list.append(Said(identifier: .priority, bytes: [UInt8(input.below(256))])) }
            let qos = UInt8(input.below(3))
            let text = write("t/ä", payload, list, qos: qos, isRetained: qos == 1, expiresAt: 7_000, now: 3_000)
            let event = try withBuffer(text) { try JSONEvent.read($0) }
            #expect(event.payload == payload && event.qos == qos && event.isRetained == (qos == 1), "\(input.note)")
            #expect(event.topic == Array("t/ä".utf8) && event.ttlMilliseconds == 4_000, "\(input.note)")
            // That the payload is text has been found out, not told.
            let read = Said.list(event.properties.writer).filter { $0.identifier != .payloadFormat }
            #expect(Said.sorted(read) == Said.sorted(list), "\(input.note)")
        }
    }
}
