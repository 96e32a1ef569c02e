import Core
import Testing

@testable import Webhooks

@Suite("A webhook's request") struct RequestTests {
    private func fields(_ event: Event, attempt: Int = 1, now: UInt64 = 0) -> [String] {
        WebhookRequest(event, attempt: attempt, now: now, origin: "id/hook", signature: nil).fields.map {
            String(decoding: $0.name, as: UTF8.self) + ": " + String(decoding: $0.value, as: UTF8.self)
        }
    }

    @Test("What an event says of itself has its fields")
    func all() {
        var writer = EventPropertiesWriter()
        writer.add(.payloadFormat, byte: 1)
        writer.add(.contentType, Array("application/json; a=\"100%\"".utf8))
        writer.add(.responseTopic, Array("antwort/ü".utf8))
        writer.add(.correlationData, [0, 13, 10, 0x41, 0x25])
        writer.addUser(Array("partitionkey".utf8), Array("p 1".utf8))
        writer.addUser(Array("traceparent".utf8), Array("00-ab-cd-01".utf8))
        writer.addUser(Array("baggage".utf8), Array("user=a%20b".utf8))
        writer.addUser(Array("a b:c".utf8), Array(" x\u{1F600} ".utf8))
        writer.addUser(Array("empty".utf8), [])
        writer.add(.messageID, Array("m-1".utf8))
        writer.add(.priority, byte: 9)
        let (bytes, extensionLength) = writer.finish()
        let event = WebhookStage.event("straße/50%", [1], bytes, expiresAt: 1_500, extensionLength)
        #expect(
            fields(event, attempt: 3, now: 500) == [
                "Apus-Topic: stra%C3%9Fe/50%25", "Apus-Delivery-Mode: guaranteed", "Apus-Reply-To: antwort/%C3%BC",
                "Apus-Correlation-Id: %00%0D%0AA%25", "Apus-Partition-Key: p 1", "traceparent: 00-ab-cd-01",
                "baggage: user=a%20b", "Apus-Property-a%20b%3Ac: %20x%F0%9F%98%80%20", "Apus-Property-empty: ",
                "Apus-Message-Id: m-1", "Apus-Priority: 9", "Content-Type: application/json; a=\"100%\"",
                "Apus-Time-To-Live: 1000", "Apus-Delivery-Attempt: 3", "Apus-Webhook: id/hook",
            ])
    }

    /// As in HTTP answers: `ce-*`, each attribute once, and no other name for its partition key.
    @Test("A CloudEvent comes in binary mode")
    func cloudEvent() {
        let attributes = [("specversion", "1.0"), ("id", "A 1\""), ("source", "/s%"), ("type", "t")]
        let others = [("partitionkey", "p 1"), ("id", "again"), ("Line", "7"), ("traceparent", "00-ab")]
        var writer = EventPropertiesWriter()
        for (name, value) in attributes + others { writer.addUser(Array(name.utf8), Array(value.utf8)) }
        #expect(
            fields(WebhookStage.event("t", [], writer.finish().bytes))[2...8] == [
                "ce-specversion: 1.0", "ce-id: A%201%22", "ce-source: /s%25", "ce-type: t", "ce-partitionkey: p%201",
                "Apus-Property-id: again", "Apus-Property-Line: 7",
            ])
        // What lacks an attribute is none.
        writer = EventPropertiesWriter()
        for (name, value) in attributes.dropFirst() + others.prefix(1) + others.prefix(1) {
            writer.addUser(Array(name.utf8), Array(value.utf8))
        }
        #expect(
            fields(WebhookStage.event("t", [], writer.finish().bytes))[2...6] == [
                "Apus-Property-id: A 1\"", "Apus-Property-source: /s%25", "Apus-Property-type: t",
                "Apus-Partition-Key: p 1", "Apus-Property-partitionkey: p 1",
            ])
    }

    @Test("An event that says nothing has a type all the same")
    func types() {
        #expect(
            fields(WebhookStage.event("t", qos: 0))[1...2] == [
                "Apus-Delivery-Mode: direct", "Content-Type: application/octet-stream",
            ])
        var writer = EventPropertiesWriter()
        writer.add(.payloadFormat, byte: 1)
        #expect(
            fields(WebhookStage.event("t", [], writer.finish().bytes)).contains(
                "Content-Type: text/plain; charset=utf-8"))
    }

    /// Whatever the bytes are: nothing but printable ASCII comes out, and names are tokens.
    @Test("No byte of a publisher's can begin another field")
    func injection() {
        let all = Array(UInt8.min...UInt8.max) + Array("\r\nX-Evil: 1\r\n\r\n\0".utf8)
        let identifiers: [EventProperties.Identifier] = [.contentType, .responseTopic, .correlationData, .messageID]
        var writer = EventPropertiesWriter()
        for identifier in identifiers { writer.add(identifier, all) }
        for name in [all, Array("partitionkey".utf8), Array("traceparent".utf8), Array("tracestate".utf8)] {
            writer.addUser(name, all)
        }
        let (bytes, extensionLength) = writer.finish()
        let request = WebhookRequest(
            WebhookStage.event("a\r\nX-Evil: 1\nb", [], bytes, extensionLength), attempt: 1, now: 0, origin: "id/hook",
            signature: nil)
        #expect(request.fields.count >= 10)
        for field in request.fields {
            #expect(field.value.allSatisfy { (0x20...0x7E).contains($0) })
            #expect(field.value.first != 0x20 && field.value.last != 0x20)
            #expect(
                !field.name.isEmpty
                    && field.name.allSatisfy { $0 > 0x20 && $0 < 0x7F && !":\"(),/;<=>?@[\\]{}".utf8.contains($0) })
        }
    }

    @Test("An event with more properties than a request can hold is known as such")
    func tooLarge() {
        var writer = EventPropertiesWriter()
        for _ in 0..<2 { writer.addUser(Array("n".utf8), [UInt8](repeating: 0xFF, count: 60_000)) }
        let (bytes, _) = writer.finish()
        let request = WebhookRequest(
            WebhookStage.event("t", [], bytes), attempt: 1, now: 0, origin: "id/hook", signature: nil)
        #expect(request.isTooLarge)
    }

    /// The expected value is `printf '1700000000.hello' | openssl dgst -sha256 -hmac s3cret`.
    @Test("The signature is that of another program")
    func signature() throws {
        let value = Array("hello".utf8).withUnsafeBytes {
            WebhookSignature.value(secret: Array("s3cret".utf8), seconds: 1_700_000_000, body: $0)
        }
        #expect(
            String(decoding: try #require(value), as: UTF8.self)
                == "t=1700000000,v1=babfa8b593140ee3160bea38210f8fea6712e1f6e073328eb52c4e965bc0ab8d")
    }
}

@Suite("A webhook's definition") struct DefinitionTests {
    private func flaw(_ change: (inout WebhookDefinition) -> Void) -> String? {
        var definition = WebhookDefinition(name: "a", url: "http://h/", filters: ["a"])
        change(&definition)
        do throws(WebhookDefinition.Failure) { try definition.check() } catch { return error.field }
        return nil
    }

    @Test("What can be used")
    func good() {
        for url in [
            "http://h", "https://user:pass@example.com:8443/a/b?c=d", "http://[::1]:80/", "HTTP://1.2.3.4/%20",
            "http://a-b.c_d/?x=@",
        ] {
            #expect(flaw { $0.url = url } == nil, "\(url)")
        }
        #expect(flaw { $0.filters = ["a/#", "b/>", "c/*/d*", "$local/x", "$share/g/y"] } == nil)
        #expect(flaw { $0.name = "A.b_c-9" } == nil)
        #expect(
            flaw {
                $0.filters = ["a", "$local/b"]
                $0.group = "workers"
            } == nil)
    }

    @Test("What cannot, by the field that is wrong")
    func bad() {
        for url in [
            "", "h", "ftp://h/", "file:///etc/passwd", "http://", "http:///a", "http://h:0/", "http://h:65536/",
            "http://h:/", "http://h:8a/", "http://h/a b", "http://h/\r\nX: 1", "http://h/\u{0}", "http://ü/",
            "http://a@b@c/", "http://[::1", "http://[::1]a/", "http://[g::]/", "http://h/#f", "http://h\\a/",
            "http://h/" + String(repeating: "a", count: 2_048),
        ] {
            #expect(flaw { $0.url = url } == "url", "\(url)")
        }
        for name in ["", "a/b", "ä", "-a", ".", "a b", "a\r\n", String(repeating: "a", count: 65)] {
            #expect(flaw { $0.name = name } == "name", "\(name)")
        }
        #expect(flaw { $0.filters = [] } == "filters")
        #expect(flaw { $0.filters = ["a/#/b"] } == "filters")
        #expect(flaw { $0.filters = Array(repeating: "a", count: 101) } == "filters")
        #expect(
            flaw {
                $0.filters = ["$share/g/a"]
                $0.group = "g"
            } == "filters")
        #expect(flaw { $0.group = "a/b" } == "group")
        #expect(flaw { $0.weight = 5 } == "weight")
        for weight in [-1, 1_001] {
            #expect(
                flaw {
                    $0.group = "g"
                    $0.weight = weight
                } == "weight")
        }
        #expect(flaw { $0.parallelism = 0 } == "parallelism")
        #expect(flaw { $0.parallelism = 65 } == "parallelism")
        #expect(flaw { $0.retryFirstMilliseconds = 0 } == "retry_first")
        #expect(flaw { $0.retryMaxMilliseconds = 2_999 } == "retry_max")
        #expect(flaw { $0.attempts = -1 } == "attempts")
        #expect(flaw { $0.rejectedCodes = [204] } == "rejected_codes")
        #expect(flaw { $0.timeoutMilliseconds = 0 } == "timeout")
        #expect(flaw { $0.secret = "" } == "secret")
    }

    @Test("What is secret in a URL is not shown")
    func masked() {
        #expect(WebhookURL.masked("https://user:pass@h:1/p?a=@") == "https://***@h:1/p?a=@")
        #expect(WebhookURL.masked("http://h/@") == "http://h/@")
    }
}
