import Core
import Testing
import TestSupport

@testable import Web

/// Header fields of a publish, both spellings, and the way back.
@Suite struct EventHeadersTests {
    private func problem(_ lines: String...) -> String? {
        do {
            _ = try eventHeaders(lines.map { Array($0.utf8) })
            return nil
        } catch let problem as Problem {
            #expect(problem.status == 400)
            return problem.detail
        } catch {
            return "no head: \(error)"
        }
    }

    private func said(_ lines: String...) throws -> [Said] {
        Said.list(try eventHeaders(lines.map { Array($0.utf8) }).properties)
    }

    @Test func bothSpellingsSayTheSame() throws {
        let ours = try eventHeaders(
            "apus-delivery-MODE: Guaranteed", "Apus-Time-To-Live: 1500", "Apus-Priority: 0", "Apus-Partition-Key: k",
            "Apus-Correlation-Id: c 1", "Apus-Reply-To: a/b", "Apus-Message-Id: m", "Apus-Reply-Wait: 20",
            "Apus-Property-Color: red", "Content-Type: text/plain")
        let solace = try eventHeaders(
            "Solace-Delivery-Mode: Persistent", "SOLACE-time-to-live-in-ms: 1500", "Solace-Message-Priority: 0",
            "Solace-Partition-Key: k", "Solace-Correlation-ID: c 1", "Solace-Reply-To-Destination: /TOPIC/a/b",
            "Solace-Message-ID: m", "Solace-Reply-Wait-Time-In-ms: 20",
            "Solace-User-Property-Color: red; type=string", "Content-Type: text/plain", "Solace-Client-Name: ignored")
        let expected: [Said] = [
            .user("partitionkey", "k"), .text(.correlationData, "c 1"), .text(.responseTopic, "a/b"),
            .user("Color", "red"), .text(.contentType, "text/plain"), .text(.messageID, "m"),
            Said(identifier: .priority, bytes: [0]),
        ]
        for headers in [ours, solace] {
            #expect(headers.qos == 1 && headers.ttlMilliseconds == 1_500 && headers.replyWaitMilliseconds == 20)
            #expect(headers.messageID == Array("m".utf8) && !headers.isRetained && headers.saysText)
            #expect(Said.sorted(Said.list(headers.properties)) == Said.sorted(expected))
        }
    }

    @Test func whatIsNotSaidIsNotThere() throws {
        let headers = try eventHeaders("Accept: */*", "User-Agent: x", "Cookie: a=b", "Content-Type:")
        #expect(headers.properties.isEmpty && headers.qos == 0 && !headers.isRetained && !headers.isCloudEvent)
        #expect(headers.ttlMilliseconds == nil && headers.replyWaitMilliseconds == nil && headers.messageID == nil)
        #expect(headers.idempotencyKey == nil && !headers.saysText && headers.mode == .binary)
        #expect(try eventHeaders("Apus-Time-To-Live: 0").ttlMilliseconds == nil)
        #expect(try eventHeaders("Apus-Retain: TRUE").isRetained)
        #expect(try eventHeaders("Idempotency-Key: \"a\"").idempotencyKey == Array("\"a\"".utf8))
        #expect(try eventHeaders("Solace-Delivery-Mode: non-persistent").qos == 1)
        #expect(try eventHeaders("Solace-Delivery-Mode: direct").qos == 0)
    }

    @Test func valuesAreTextOrEscapes() throws {
        #expect(try said("Apus-Property-a%20B: 100%25 ä%C3%a4") == [.user("a B", "100% ää")])
        #expect(try said("Solace-User-Property-p%20: 100%") == [.user("p%20", "100%")])
        #expect(try said("Solace-User-Property-p: a; b ;type=int64") == [.user("p", "a; b")])
        #expect(try said("Solace-User-Property-p: a; b") == [.user("p", "a; b")])
        #expect(
            try said("Apus-Property-: x", "Apus-Property-a: 1", "Apus-Property-a: 2")
                == [.user("", "x"), .user("a", "1"), .user("a", "2")])
        #expect(
            try said("Apus-Correlation-Id: %ff%00")
                == [Said(identifier: .correlationData, bytes: [0xFF, 0])])
        #expect(try said("Solace-Reply-To-Destination: a/b") == [.text(.responseTopic, "a/b")])
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        #expect(
            try said("TraceParent: \(trace)", "tracestate: a=1,b=%20", "Baggage: k=%C3%A4")
                == [.user("traceparent", trace), .user("tracestate", "a=1,b=%20"), .user("baggage", "k=%C3%A4")])
    }

    /// Each error begins with the field's name as the client wrote it.
    @Test(arguments: [
        "Apus-Prioritty: 1", "Apus-: 1", "Apus-Delivery-Mode: persistent", "Apus-Delivery-Mode: 1",
        "Solace-Delivery-Mode: often", "Apus-Time-To-Live: -1", "Apus-Time-To-Live: 1.5", "Apus-Time-To-Live:",
        "Apus-Time-To-Live: 9007199254740993", "Apus-Time-To-Live: 99999999999999999999", "Apus-Priority: 256",
        "Apus-Priority: high", "Solace-Message-Priority: -1", "Apus-Retain: yes", "Apus-Reply-Wait: 1s",
        "Apus-Reply-To: a/+", "Apus-Reply-To:", "Apus-Reply-To: a%00", "Apus-Message-Id: %00", "Apus-Message-Id: %ff",
        "Apus-Property-a: %", "Apus-Property-a: %4", "Apus-Property-a: %zz", "Apus-Property-a%: x",
        "Apus-Property-%00: x", "Apus-Property-a: %00", "Apus-Property-a: %ff", "Apus-Correlation-Id: 50%",
        "Solace-Reply-To-Destination: /QUEUE/q", "Solace-Reply-To-Destination: /TOPIC/", "Idempotency-Key:",
        "ce-id: 1%", "ce-my-name: x", "ce-: x", "ce-data: x", "ce-datacontenttype: text/plain", "ce-id: \"a",
        "ce-a: \"a\\\"",
    ])
    func errorsNameTheField(line: String) throws {
        let name = try #require(line.split(separator: ":").first)
        let detail = try #require(problem(line))
        // A quote that is not closed is a quote; then it is another attribute that is missing.
        let isQuote = line == "ce-id: \"a"
        #expect(detail.hasPrefix("\(isQuote ? "ce-specversion" : name):"), "\(detail)")
    }

    @Test func whatIsSaidOnceIsNotSaidTwice() {
        for pair in [
            ["Apus-Priority: 1", "Apus-Priority: 1"], ["Apus-Priority: 1", "Solace-Message-Priority: 1"],
            ["Apus-Partition-Key: a", "Solace-Partition-Key: a"], ["Apus-Retain: true", "Apus-Retain: false"],
            ["Content-Type: a/b", "Content-Type: a/b"], ["Idempotency-Key: a", "Idempotency-Key: b"],
            ["Apus-Reply-To: a", "Solace-Reply-To-Destination: a"], ["Apus-Partition-Key: a", "ce-partitionkey: a"],
        ] {
            let detail = problem(pair[0], pair[1])
            #expect(detail?.hasSuffix("given twice.") == true, "\(pair): \(detail ?? "accepted")")
        }
    }

    @Test func propertiesAreBounded() throws {
        let many = (0..<65).map { Array("Apus-Property-\($0): x".utf8) }
        #expect(Said.list(try eventHeaders(Array(many.dropLast())).properties).count == 64)
        #expect(throws: Problem.self) { try eventHeaders(many) }
        let half = "Apus-Property-a: \(String(repeating: "v", count: 8_300))"
        #expect(problem(half) == nil)
        #expect(problem(half, half)?.contains("16384") == true)
        #expect(problem("Apus-Message-Id: \(String(repeating: "i", count: 1_025))")?.contains("1024") == true)
        #expect(problem("Idempotency-Key: \(String(repeating: "i", count: 256))") != nil)
        // A long name is not repeated in full.
        let name = "Apus-" + String(repeating: "x", count: 5_000)
        #expect(try #require(problem("\(name): 1")).utf8.count < 200)
    }

    // MARK: The way back

    private func fields(_ list: [Said], expiresAt: UInt64 = 0, now: UInt64 = 0) -> [String] {
        let headers = withBuffer(Said.bytes(list)) { EventHeaders.fields(of: $0, expiresAt: expiresAt, now: now) }
        return headers.fields.map { "\($0.name): \($0.value)" }
    }

    @Test func everyPropertyHasItsField() {
        let list: [Said] = [
            .text(.contentType, "text/plain; charset=\"utf-8\""), .text(.responseTopic, "a/ä"),
            .text(.correlationData, "100% \r\n"), .user("partitionkey", "k"), .user("a b", " x y "), .user("é", "é"),
            .user("traceparent", "00-1-2-01"), .user("baggage", "a=%20"), .user("partitionkey", "2"),
            .text(.messageID, "m"), Said(identifier: .priority, bytes: [7]),
        ]
        #expect(
            fields(list, expiresAt: 900, now: 400) == [
                "Content-Type: text/plain; charset=\"utf-8\"", "Apus-Reply-To: a/%C3%A4",
                "Apus-Correlation-Id: 100%25 %0D%0A", "Apus-Partition-Key: k", "Apus-Property-a%20b: %20x y%20",
                "Apus-Property-%C3%A9: %C3%A9", "traceparent: 00-1-2-01", "baggage: a=%20",
                "Apus-Property-partitionkey: 2", "Apus-Message-Id: m", "Apus-Priority: 7", "Apus-Time-To-Live: 500",
            ])
        // A CloudEvent has each attribute once; what else has its name is a property.
        let event: [Said] = [
            .user("specversion", "1.0"), .user("id", "a \"b\""), .user("source", "s"), .user("type", "t"),
            .user("partitionkey", "k"), .user("id", "2"), .user("Big", "x"), .user("data", "x"),
        ]
        #expect(
            fields(event) == [
                "ce-specversion: 1.0", "ce-id: a%20%22b%22", "ce-source: s", "ce-type: t", "ce-partitionkey: k",
                "Apus-Property-id: 2", "Apus-Property-Big: x", "Apus-Property-data: x",
            ])
        #expect(fields([]).isEmpty)
        #expect(fields([], expiresAt: 1, now: 2) == ["Apus-Time-To-Live: 0"])
        #expect(fields([Said(identifier: .payloadFormat, bytes: [1])]) == ["Content-Type: text/plain; charset=utf-8"])
    }

    /// Nothing that a publisher of another protocol says ends a line or begins one.
    @Test(arguments: [
        "x\r\nSet-Cookie: a=b", "\r\n\r\n<html>", "\n", "\r", "a\u{0}b", "\u{85}", "\u{2028}", "ä\r\nb: c",
        "\t", "a: b", "\u{7F}", "嘊嘍Set-Cookie: x", "%0d%0aX: y", "a\u{B}b",
    ])
    func noPropertyInjectsAField(evil: String) {
        for list: [Said] in [
            [.text(.contentType, evil)], [.text(.correlationData, evil)], [.text(.responseTopic, evil)],
            [.text(.messageID, evil)], [.user(evil, "v")], [.user("n", evil)], [.user("traceparent", evil)],
            [.user("partitionkey", evil)],
            [.user("specversion", "1.0"), .user("id", evil), .user("source", "s"), .user("type", "t")],
            [
                .user("specversion", "1.0"), .user("id", "i"), .user("source", "s"), .user("type", "t"),
                .user(evil, evil),
            ],
        ] {
            let headers = withBuffer(Said.bytes(list)) { EventHeaders.fields(of: $0) }
            let bytes = headers.fields.flatMap { Array("\($0.name): \($0.value)\r\n".utf8) }
            #expect(bytes.allSatisfy { $0 == 13 || $0 == 10 || (0x20..<0x7F).contains($0) })
            let lines = bytes.split(separator: 10, omittingEmptySubsequences: false)
            #expect(lines.count == list.count + 1, "as many lines as properties")
            for line in lines.dropLast() {
                let name = line.prefix { $0 != UInt8(ascii: ":") }
                #expect(line.last == 13 && !line.dropLast().contains(13))
                #expect(!name.isEmpty && name.allSatisfy { Token.contains($0) })
            }
        }
    }

    @Test func whatIsWrittenIsReadBack() throws {
        var input = Seeded(4)
        for round in 0..<1_000 {
            var list: [Said] = []
            // A media type is not escaped, so it is one here.
            if input.below(3) == 0 { list.append(.text(.contentType, "a/b%20; c=\"d\"")) }
            if input.below(3) == 0 { list.append(.text(.responseTopic, "r/ä %\r\n\(input.next())")) }
            if input.below(3) == 0 { list.append(Said(identifier: .correlationData, bytes: input.bytes(upTo: 30))) }
            if input.below(3) == 0 { list.append(.user("partitionkey", input.text(upTo: 9))) }
            if round % 2 == 0 {
                list += [.user("specversion", "1.0"), .user("id", "1" + input.text(upTo: 9)), .user("source", "/ä %")]
                list += [.user("type", "a\"b\" c"), .user("x\(input.below(9))", input.text(upTo: 30))]
            }
            for _ in 0..<input.below(6) { list.append(.user(input.text(upTo: 8), input.text(upTo: 30))) }
            if input.below(3) == 0 { list.append(.text(.messageID, "m" + input.text(upTo: 20))) }
            if input.below(3) == 0 { list.append(Said(identifier: .priority, bytes: [UInt8(input.below(256))])) }
            let headers = try eventHeaders(fields(list, expiresAt: 12, now: 5).map { Array($0.utf8) })
            #expect(Said.sorted(Said.list(headers.properties)) == Said.sorted(list), "\(input.note)")
            #expect(headers.ttlMilliseconds == 7 && headers.isCloudEvent == (round % 2 == 0), "\(input.note)")
        }
    }
}
