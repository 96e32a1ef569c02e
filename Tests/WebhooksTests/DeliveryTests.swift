import Core
import Foundation
import Glibc
import Testing

@testable import Webhooks

/// Real requests to a real server. One after another: some measure time.
@Suite("Deliveries", .serialized) struct DeliveryTests {
    @Test("An event arrives as it was published, with its fields")
    func arrives() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .status(204) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url + "?k=v", ["a/+"])) == .created)
        var writer = EventPropertiesWriter()
        writer.addUser(Array("color".utf8), Array("blau\r\nX-Evil: 1".utf8))
        writer.addUser(Array("empty".utf8), [])
        writer.add(.contentType, Array("text/x\r\n\r\nPOST / HTTP/1.1".utf8))
        #expect(try stage.publish(["hällo"], to: "a/ü", properties: writer) == 1)
        #expect(try stage.publish(["other"], to: "b/c") == 0)
        let request = try #require(server.wait(for: 1).first)
        #expect(request.target == "/hook?k=v")
        #expect(request.text == "hällo")
        #expect(request.head.hasPrefix("POST /hook?k=v HTTP/1.1\r\n"))
        #expect(request["Apus-Topic"] == "a/%C3%BC")
        #expect(request["User-Agent"] == "apus/9.9")
        #expect(request["Apus-Webhook"] == "c0ffee/hook")
        #expect(request["Apus-Delivery-Attempt"] == "1")
        #expect(request["Apus-Property-color"] == "blau%0D%0AX-Evil: 1")
        #expect(request["Apus-Property-empty"] == "", "libcurl leaves such a field out unless it is told")
        #expect(request["Content-Type"] == "text/x%0D%0A%0D%0APOST / HTTP/1.1")
        #expect(request["X-Evil"] == nil)
        #expect(request["Apus-Signature"] == nil && request["Expect"] == nil)
        let description = try #require(try stage.eventually { $0.delivered == 1 })
        #expect(description.delivered == 1 && description.lastStatus == 204 && description.lastError == nil)
        #expect(description.queuedEvents == 0 && description.circuit == .closed)
    }

    @Test("10,000 events arrive in order, each once, over one connection, from either lane", arguments: [0, 1])
    func inOrder(lane: Int) throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .status(200, body: "thank you") }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        let payloads = (0..<10_000).map { "\($0)" }
        try stage.publish(payloads, lane: lane)
        #expect(server.wait(for: 10_000, seconds: 60).map(\.text) == payloads)
        #expect(server.connectionCount == 1)
        #expect(try stage.eventually { $0.delivered == 10_000 }?.delivered == 10_000)
    }

    @Test("503, then 200: the event comes again, and those behind it wait")
    func comesAgain() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, number in .status(number < 3 ? 503 : 200) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        try stage.publish(["1", "2"])
        let requests = server.wait(for: 4)
        #expect(requests.map(\.text) == ["1", "1", "1", "2"])
        #expect(requests.map { $0["Apus-Delivery-Attempt"] } == ["1", "2", "3", "1"])
        let description = try #require(try stage.eventually { $0.delivered == 2 })
        #expect(description.delivered == 2 && description.retried == 2 && description.rejected == 0)
    }

    @Test("Retry-After is kept to")
    func retryAfter() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, number in .status(number == 1 ? 429 : 200, fields: ["Retry-After: 1"]) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        let start = ContinuousClock.now
        try stage.publish(["1"])
        #expect(server.wait(for: 2).count == 2)
        #expect(ContinuousClock.now - start >= .milliseconds(990))
    }

    @Test("What is to be tried again is not, once the rules do not let its webhook read it any more")
    func rulesBetweenAttempts() throws {
        let stage = try WebhookStage(rules: AccessRules([AccessRule(effect: .allow, action: .all, topics: ["#"])]))
        let server = try TestServer { _, number in .status(number == 1 ? 503 : 200, fields: ["Retry-After: 1"]) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url, ["#"])) == .created)
        try stage.publish(["secret", "too"], to: "a/secret")
        #expect(server.wait(for: 1).count == 1)
        _ = try stage.eventually { $0.retried == 1 }
        stage.router.reload(
            try AccessRules(
                [
                    AccessRule(effect: .deny, action: .subscribe, topics: ["a/secret"]),
                    AccessRule(effect: .allow, action: .all, topics: ["#"]),
                ], broadSubscriptions: .filter))
        try stage.publish(["open"], to: "a/open")
        let description = try #require(try stage.eventually { $0.delivered == 1 })
        #expect(description.delivered == 1 && description.queuedEvents == 0)
        #expect(server.wait(for: 2).map(\.text) == ["secret", "open"])
        #expect(stage.dropped(.notReadable) == 2)
    }

    @Test("Refused codes end an event and are counted; a redirect is not followed but tried again")
    func refused() throws {
        let stage = try WebhookStage()
        let server = try TestServer { request, number in
            switch request.text {
            case "bad": .status(404)
            case "moved" where number < 4: .status(302, fields: ["Location: /elsewhere"])
            default: .status(200)
            }
        }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        try stage.publish(["bad", "moved", "good"])
        let requests = server.wait(for: 5)
        #expect(requests.map(\.text) == ["bad", "moved", "moved", "moved", "good"])
        #expect(requests.allSatisfy { $0.target == "/hook" })
        let description = try #require(try stage.eventually { $0.delivered == 2 })
        #expect(description.delivered == 2 && description.rejected == 1 && description.retried == 2)
        #expect(stage.dropped(.webhookRejected) == 1)
    }

    @Test("Nobody listens, then somebody does: the circuit opens and closes")
    func refusedThenUp() throws {
        let stage = try WebhookStage()
        let first = try TestServer { _, _ in .status(200) }
        first.stop()
        #expect(try stage.put(WebhookStage.definition("hook", first.url)) == .created)
        try stage.publish(["1", "2", "3"])
        let open = try #require(try stage.eventually { $0.circuit == .open && $0.retried >= 5 })
        #expect(open.circuit == .open && open.queuedEvents == 3 && open.delivered == 0 && open.lastStatus == nil)
        #expect(open.lastError?.contains("connect") == true)
        let second = try TestServer(port: first.port) { _, _ in .status(200) }
        defer { second.stop() }
        #expect(second.wait(for: 3).map(\.text) == ["1", "2", "3"])
        let closed = try #require(try stage.eventually { $0.delivered == 3 })
        #expect(closed.circuit == .closed && closed.delivered == 3 && closed.lastError == nil)
    }

    @Test("An answer that does not come in time is a failure")
    func timeout() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, number in number == 1 ? .silence : .status(200) }
        defer { server.stop() }
        var definition = WebhookStage.definition("hook", server.url)
        definition.timeoutMilliseconds = 150
        #expect(try stage.put(definition) == .created)
        let start = ContinuousClock.now
        try stage.publish(["1"])
        #expect(server.wait(for: 2).map { $0["Apus-Delivery-Attempt"] } == ["1", "2"])
        #expect(ContinuousClock.now - start >= .milliseconds(150))
        #expect(try stage.eventually { $0.delivered == 1 }?.retried == 1)
    }

    @Test("An answer of any length counts by its status, but is not read to its end")
    func longAnswer() throws {
        let stage = try WebhookStage()
        let body = String(repeating: "x", count: 4 << 20)
        let server = try TestServer { _, _ in .status(200, body: body) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        try stage.publish(["1", "2"])
        #expect(server.wait(for: 2).map(\.text) == ["1", "2"])
        let description = try #require(try stage.eventually { $0.delivered == 2 })
        #expect(description.delivered == 2 && description.retried == 0)
        #expect(server.connectionCount == 2)
    }

    @Test("The signature is the HMAC of time and body")
    func signed() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .status(200) }
        defer { server.stop() }
        var definition = WebhookStage.definition("hook", server.url)
        definition.secret = "s3cret"
        #expect(try stage.put(definition) == .created)
        try stage.publish(["hello"])
        let header = try #require(server.wait(for: 1).first?["Apus-Signature"])
        let parts = header.split(separator: ",").map(String.init)
        try #require(parts.count == 2 && parts[0].hasPrefix("t=") && parts[1].hasPrefix("v1="))
        let seconds = try #require(Int(parts[0].dropFirst(2)))
        #expect(abs(seconds - time(nil)) < 30)
        #expect(String(parts[1].dropFirst(3)) == (try Self.openssl("\(seconds).hello", key: "s3cret")))
        let description = try #require(try stage.describe())
        #expect(description.hasSecret && description.definition.secret == nil)
    }

    /// The HMAC as another program computes it.
    private static func openssl(_ text: String, key: String) throws -> String {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = ["openssl", "dgst", "-sha256", "-hmac", key, "-r"]
        let (input, output) = (Pipe(), Pipe())
        (process.standardInput, process.standardOutput) = (input, output)
        try process.run()
        input.fileHandleForWriting.write(Data(text.utf8))
        try input.fileHandleForWriting.close()
        let answer = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return String(answer.prefix { $0 != " " })
    }

    @Test("Several at a time, never more than allowed")
    func parallel() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .held(200) }
        defer { server.stop() }
        var definition = WebhookStage.definition("hook", server.url)
        definition.parallelism = 4
        #expect(try stage.put(definition) == .created)
        let payloads = (0..<40).map { "\($0)" }
        try stage.publish(payloads)
        #expect(server.wait(for: 4).count == 4)
        let description = try #require(try stage.describe())
        #expect(description.underWay == 4 && description.queuedEvents == 40)
        #expect(server.all.count == 4)
        server.release()
        #expect(Set(server.wait(for: 40).map(\.text)) == Set(payloads))
        #expect(server.connectionCount == 4)
    }

    @Test("An event whose time is over is not sent, nor one too many")
    func expiryAndRoom() throws {
        var limits = Limits()
        limits.maxQueuedEvents = 10
        let stage = try WebhookStage(limits: limits)
        let server = try TestServer { _, _ in .held(200) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        try stage.publish(["first"])
        #expect(server.wait(for: 1).count == 1)
        try stage.publish(["short"], ttl: 1_000)
        try stage.publish((0..<20).map { "\($0)" })
        let full = try #require(try stage.eventually { $0.queuedEvents == 11 })
        #expect(full.queuedEvents == 11 && full.dropped == 11)
        #expect(stage.dropped(.queueFull) == 11)
        // Longer than the short one lives, whatever the lane's clock shows.
        usleep(1_100_000)
        server.release()
        #expect(server.wait(for: 10).map(\.text) == ["first"] + (0..<9).map { "\($0)" })
        #expect(try stage.eventually { $0.delivered == 10 }?.expired == 1)
    }

    @Test("Attempts that are limited end an event")
    func attempts() throws {
        let stage = try WebhookStage()
        let server = try TestServer { request, _ in .status(request.text == "bad" ? 500 : 200) }
        defer { server.stop() }
        var definition = WebhookStage.definition("hook", server.url)
        definition.attempts = 3
        #expect(try stage.put(definition) == .created)
        try stage.publish(["bad", "good"])
        #expect(server.wait(for: 4).map(\.text) == ["bad", "bad", "bad", "good"])
        let description = try #require(try stage.eventually { $0.delivered == 1 })
        #expect(description.rejected == 1 && description.retried == 2)
    }

    @Test("Stopping waits for what is under way, and for what waits")
    func stopWaits() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .held(200) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        try stage.publish(["1", "2"])
        #expect(server.wait(for: 1).count == 1)
        Thread.detachNewThread {
            usleep(100_000)
            server.release()
        }
        stage.service.stop(graceMilliseconds: 10_000)
        #expect(try stage.describe()?.delivered == 2)
        #expect(server.all.map(\.text) == ["1", "2"])
        #expect(stage.dropped(.stopping) == 0)
        #expect(try stage.publish(["late"]) == 0, "it has gone")
        #expect(try stage.put(WebhookStage.definition("late", server.url)) == .unavailable("the node is stopping"))
    }

    @Test("All webhooks together make at most 256 requests at once, also when the node ends")
    func together() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .held(200) }
        defer { server.stop() }
        for number in 0..<5 {
            var definition = WebhookStage.definition("hook\(number)", server.url)
            definition.parallelism = 64
            #expect(try stage.put(definition) == .created)
        }
        #expect(try stage.publish((0..<64).map { "\($0)" }) == 320)
        #expect(server.wait(for: 256).count == 256)
        let all: [WebhookDescription] = try WebhookStage.answer { stage.service.list(answer: $0) }
        #expect(all.reduce(0) { $0 + $1.underWay } == 320)
        Thread.detachNewThread {
            usleep(100_000)
            server.release()
        }
        stage.service.stop(graceMilliseconds: 10_000)
        #expect(server.all.count == 320)
        #expect(server.connectionCount == 256)
    }

    @Test("Stopping does not wait longer than it may; what is left is counted")
    func stopGivesUp() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .silence }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        try stage.publish(["1"])
        #expect(server.wait(for: 1).count == 1)
        let start = ContinuousClock.now
        try stage.publish(["2", "3"])
        stage.service.stop(graceMilliseconds: 100)
        let took = ContinuousClock.now - start
        #expect(took >= .milliseconds(90) && took < .seconds(5))
        #expect(try stage.describe()?.dropped == 3)
        #expect(stage.dropped(.stopping) == 3)
    }

    @Test("Stopping does not wait for a target that fails, but gives what it has to others of the group")
    func stopsGroup() throws {
        let stage = try WebhookStage()
        let dead = try TestServer { _, _ in .status(500) }
        defer { dead.stop() }
        var definition = WebhookStage.definition("dead", dead.url)
        definition.group = "g"
        definition.retryFirstMilliseconds = 60_000
        definition.retryMaxMilliseconds = 60_000
        #expect(try stage.put(definition) == .created)
        try stage.publish((0..<100).map { "\($0)" })
        #expect(dead.wait(for: 1).count == 1)
        #expect(try stage.eventually("dead") { $0.retried == 1 }?.retried == 1)
        let other = try stage.join("$share/g/#")
        let start = ContinuousClock.now
        stage.service.stop(graceMilliseconds: 20_000)
        #expect(ContinuousClock.now - start < .seconds(10))
        try stage.publish(["later"])
        #expect(other.wait(for: 101) == (0..<100).map { "\($0)" } + ["later"])
        #expect(stage.dropped(.stopping) == 0 && stage.dropped(.noMember) == 0)
    }
}
