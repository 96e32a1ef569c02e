import Core
import Foundation
import Reactor
import Testing

@testable import Webhooks

/// Creating, replacing, removing; whose rights; groups.
@Suite("The service", .serialized) struct ServiceTests {
    @Test("Replacing keeps what waits when the filters are the same, and not otherwise")
    func replace() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .status(200) }
        defer { server.stop() }
        // Nobody listens there.
        let nowhere = WebhookStage.definition("hook", "http://127.0.0.1:1/", ["a/#"])
        #expect(try stage.put(nowhere) == .created)
        try stage.publish(["1", "2"])
        #expect(try stage.eventually { $0.retried > 0 }?.queuedEvents == 2)
        #expect(try stage.put(WebhookStage.definition("hook", server.url, ["a/#"])) == .replaced)
        #expect(server.wait(for: 2).map(\.text) == ["1", "2"])

        #expect(try stage.put(nowhere) == .replaced)
        try stage.publish(["3"])
        #expect(try stage.eventually { $0.queuedEvents == 1 }?.queuedEvents == 1)
        #expect(try stage.put(WebhookStage.definition("hook", server.url, ["a/b", "c"])) == .replaced)
        try stage.publish(["4"], to: "c")
        #expect(server.wait(for: 3).map(\.text) == ["1", "2", "4"])
        #expect(try stage.describe()?.queuedEvents == 0 || server.all.count == 3)
    }

    @Test("Another identity does not get what waits")
    func replaceByAnother() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .status(200) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", "http://127.0.0.1:1/", ["a/#"]), as: "ann") == .created)
        try stage.publish(["ann's"])
        #expect(try stage.put(WebhookStage.definition("hook", server.url, ["a/#"]), as: "ben") == .replaced)
        try stage.publish(["both"])
        #expect(server.wait(for: 1).map(\.text) == ["both"])
        #expect(try stage.describe()?.user == "ben")
    }

    @Test("Access rules hold; what was there stays when its successor is refused")
    func rights() throws {
        let rules = try AccessRules([
            AccessRule(effect: .allow, action: .subscribe, topics: ["a/#"], users: ["ann", "webhook:configured"]),
            AccessRule(effect: .allow, action: .publish, topics: ["#"]),
        ])
        let stage = try WebhookStage(rules: rules)
        let server = try TestServer { _, _ in .status(200) }
        defer { server.stop() }
        let allowed = WebhookStage.definition("hook", server.url, ["a/b"])
        #expect(try stage.put(allowed, as: "ben") == .notAuthorized(filter: "a/b"))
        #expect(try stage.describe() == nil)
        #expect(try stage.put(allowed, as: "ann") == .created)
        #expect(
            try stage.put(WebhookStage.definition("hook", server.url, ["a/b", "b"]), as: "ann")
                == .notAuthorized(filter: "b"))
        try stage.publish(["1"])
        #expect(server.wait(for: 1).map(\.text) == ["1"])
        stage.router.reload(
            try AccessRules([AccessRule(effect: .deny, action: .subscribe, topics: ["#"])]))
        #expect(try stage.put(allowed, as: "ann") == .notAuthorized(filter: "a/b"))
    }

    @Test("The configuration's webhooks have a user of their own and are not to be changed")
    func configured() throws {
        let rules = try AccessRules([
            AccessRule(effect: .allow, action: .all, topics: ["a/#"], users: ["webhook:conf", "anonymous"])
        ])
        let stage = try WebhookStage(rules: rules)
        let server = try TestServer { _, _ in .status(200) }
        defer { server.stop() }
        let definition = WebhookStage.definition("conf", server.url, ["a/#"])
        let answer: WebhookService.PutAnswer = try WebhookStage.answer { done in
            stage.service.start([
                .init(definition: definition, identity: WebhookService.identity(ofConfigured: "conf"))
            ]) { _, answer in done(answer) }
        }
        #expect(answer == .created)
        try stage.publish(["1"])
        #expect(server.wait(for: 1).count == 1)
        #expect(try stage.put(definition) == .configured)
        #expect(try stage.remove("conf") == .configured)
        let description = try #require(try stage.describe("conf"))
        #expect(description.isConfigured && description.user == "webhook:conf")
    }

    @Test("There are as many as there may be")
    func limit() throws {
        var limits = Limits()
        limits.maxWebhooks = 2
        let stage = try WebhookStage(limits: limits)
        for name in ["a", "b"] {
            #expect(try stage.put(WebhookStage.definition(name, "http://127.0.0.1:1/")) == .created)
        }
        #expect(try stage.put(WebhookStage.definition("c", "http://127.0.0.1:1/")) == .overLimit)
        #expect(try stage.put(WebhookStage.definition("a", "http://127.0.0.1:1/x")) == .replaced)
        let names: [WebhookDescription] = try WebhookStage.answer { stage.service.list(answer: $0) }
        #expect(names.map(\.definition.name) == ["a", "b"])
        #expect(try stage.remove("a") == .removed)
        #expect(try stage.remove("a") == .unknown)
        #expect(try stage.describe("a") == nil)
        #expect(try stage.put(WebhookStage.definition("c", "http://127.0.0.1:1/")) == .created)
        let flawed = WebhookStage.definition("d", "gopher://h/")
        #expect(
            try stage.put(flawed) == .invalid(.init(field: "url", rule: "must begin with http:// or https://")))
    }

    @Test("What was removed sends nothing more, and the router has forgotten it")
    func removed() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .status(503) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        try stage.publish(["1", "2"])
        #expect(server.wait(for: 2).count >= 2)
        #expect(try stage.remove("hook") == .removed)
        #expect(stage.router.subscriptionCount == 0)
        #expect(try stage.publish(["3"]) == 0)
        #expect(stage.reactor.statistics().reduce(0) { $0 + $1.queuedEvents } == 0)
        // The courier has heard of it once the next one's request is out.
        let other = try TestServer { _, _ in .status(200) }
        defer { other.stop() }
        #expect(try stage.put(WebhookStage.definition("other", other.url)) == .created)
        try stage.publish(["4"])
        #expect(other.wait(for: 1).count == 1)
        let before = server.all.count
        usleep(250_000)  // More than two of the longest waits: a retry would have come.
        #expect(server.all.count == before)
    }

    @Test("In a shared group each event goes to one; when that one fails, or leaves, to another")
    func group() throws {
        let stage = try WebhookStage()
        let good = try TestServer { _, _ in .status(200) }
        let bad = try TestServer { _, _ in .status(500) }
        defer {
            good.stop()
            bad.stop()
        }
        for (name, server) in [("good", good), ("bad", bad)] {
            var definition = WebhookStage.definition(name, server.url)
            definition.group = "workers"
            #expect(try stage.put(definition) == .created)
        }
        let payloads = (0..<20).map { "\($0)" }
        #expect(try stage.publish(payloads) == 20)
        // All but the one that the bad one is busy with; the others leave it when its circuit opens.
        #expect(try stage.eventually("bad") { $0.circuit != .closed }?.circuit != .closed)
        #expect(Set(good.wait(for: 19).map(\.text)).count == 19)
        // And while it is open no new ones come to it.
        try stage.publish(["a", "b", "c", "d"])
        #expect(Set(good.wait(for: 23).map(\.text)).isSuperset(of: ["a", "b", "c", "d"]))
        #expect(try stage.remove("bad") == .removed)
        #expect(Set(good.wait(for: 24).map(\.text)) == Set(payloads + ["a", "b", "c", "d"]))
    }

    @Test("A member of a group that failed and has nothing left is tried again")
    func groupComesBack() throws {
        let stage = try WebhookStage()
        let good = try TestServer { _, _ in .status(200) }
        let moody = try TestServer { _, number in .status(number <= 5 ? 500 : 200) }
        defer {
            good.stop()
            moody.stop()
        }
        for (name, server) in [("good", good), ("moody", moody)] {
            var definition = WebhookStage.definition(name, server.url)
            definition.group = "workers"
            definition.attempts = 1
            #expect(try stage.put(definition) == .created)
        }
        try stage.publish((0..<10).map { "\($0)" })
        #expect(moody.wait(for: 5).count == 5)
        #expect(try stage.eventually("moody") { $0.circuit == .open }?.rejected == 5)
        _ = try stage.eventually("moody") { _ in
            _ = try? stage.publish(["again"])
            return moody.all.count > 5
        }
        #expect(try stage.eventually("moody") { $0.delivered > 0 }?.circuit == .closed)
    }

    @Test("Removing ends the request that is under way")
    func removedUnderWay() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, _ in .silence }
        defer { server.stop() }
        var definition = WebhookStage.definition("hook", server.url)
        definition.timeoutMilliseconds = 3_600_000
        #expect(try stage.put(definition) == .created)
        try stage.publish(["1"])
        #expect(server.wait(for: 1).count == 1)
        #expect(try stage.remove("hook") == .removed)
        #expect(server.isDeserted())
    }

    @Test("Direct events wait as well")
    func direct() throws {
        let stage = try WebhookStage()
        let server = try TestServer { _, number in .status(number < 3 ? 503 : 200) }
        defer { server.stop() }
        #expect(try stage.put(WebhookStage.definition("hook", server.url)) == .created)
        try stage.publish(["1", "2"], qos: 0)
        #expect(server.wait(for: 4).map(\.text) == ["1", "1", "1", "2"])
        #expect(server.all.last?["Apus-Delivery-Mode"] == "direct")
    }
}
