import Core
import Foundation
import Logging
import RawHTTP
import Reactor
import Synchronization
import Testing

@testable import Web

/// Knows `olivia` with the password `right`, and answers when it is told to.
private final class SlowDoor: Authenticator {
    private let waiting = Mutex<[@Sendable () -> Void]>([])
    let isAnonymousAllowed: Bool

    init(isAnonymousAllowed: Bool) { self.isAnonymousAllowed = isAnonymousAllowed }

    var count: Int { waiting.withLock { $0.count } }

    func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? {
        guard let user = credentials.user else {
            return isAnonymousAllowed ? .accepted(Identity()) : .refused(.anonymousNotAllowed)
        }
        let isRight = user == "olivia" && credentials.password == Array("right".utf8)
        waiting.withLock {
            $0.append { reply(isRight ? .accepted(Identity(user: user)) : .refused(.badCredentials)) }
        }
        return nil
    }

    /// Answers everybody who waits.
    func answer() {
        let all = waiting.withLock { waiting in
            defer { waiting = [] }
            return waiting
        }
        for reply in all { reply() }
    }
}

/// A protocol called `amqp` that takes everything and says nothing.
private struct Silent: Adapter {
    let name = "amqp"
    func makeConversation(link: Link, on lane: Lane) -> Conversation { Conversation() }
}

/// The site of a node over real sockets.
private final class SiteStage {
    let door: SlowDoor
    let router: Router
    private let reactor: Reactor
    private let address: String

    init(
        isAnonymousAllowed: Bool = true, rules: AccessRules = .none, lanes: Int = 1,
        settings: WebSettings = WebSettings(), adapters: [String: any Adapter] = [:]
    ) throws {
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        door = SlowDoor(isAnonymousAllowed: isAnonymousAllowed)
        router = Router(limits: Limits(), accessRules: rules, hashKey: 7)
        reactor = try Reactor(lanes: lanes, limits: Limits(), logger: logger)
        let site = WebSite(
            settings, routers: ["default": router], authenticator: door, nodeName: "stage", version: "1",
            instance: "run", adapters: adapters, limits: Limits(), random: { UInt64.random(in: .min ... .max) },
            wallClock: { 0 })
        let listener = try Listener(
            try SocketAddress("127.0.0.1:0"), adapter: HTTPAdapter(site: site, wallClock: { 0 }))
        reactor.listen(listener)
        address = listener.address.description
    }

    deinit { reactor.stop(drainMilliseconds: 500) }

    func client() throws -> RawClient { try RawClient(address) }

    func until(_ condition: () -> Bool) -> Bool {
        for _ in 0..<2_000 where !condition() { usleep(1_000) }
        return condition()
    }
}

private let host = "Host: localhost\n"
private let olivia = "Authorization: Basic \(Data("olivia:right".utf8).base64EncodedString())\n"
private let wrong = "Authorization: Basic \(Data("olivia:wrong".utf8).base64EncodedString())\n"

private func post(_ topic: String, _ fields: String = "", _ body: String = "x") -> String {
    // The client sends each line end as two bytes.
    let length = body.utf8.count + body.utf8.count { $0 == 10 }
    return "POST \(topic) HTTP/1.1\n\(host)\(fields)Content-Length: \(length)\n\n\(body)"
}

@Suite struct SiteTests {
    @Test func whoIsStillBeingCheckedWaits() throws {
        let rules = try AccessRules([AccessRule(effect: .allow, action: .all, topics: ["#"], users: ["olivia"])])
        let stage = try SiteStage(rules: rules)
        let client = try stage.client()
        // Both in one read: the second is looked at again when the first has been routed, and its answer is not there.
        try client.send(post("/a") + post("/b", olivia))
        #expect(try client.answer().status == 401)
        #expect(stage.until { stage.door.count == 1 })
        try client.send(post("/c", olivia))
        stage.door.answer()
        for _ in 0..<2 { #expect(try client.answer().status == 202) }
        try client.send(post("/d", wrong))
        #expect(stage.until { stage.door.count == 1 })
        stage.door.answer()
        #expect(try client.answer().status == 401)
        try client.send(post("/e"))
        #expect(try client.answer().status == 401)
    }

    @Test func usersOfOneConnectionAreNotTakenForEachOther() throws {
        let rules = try AccessRules([
            AccessRule(effect: .allow, action: .publish, topics: ["open/#"]),
            AccessRule(effect: .allow, action: .publish, topics: ["hers/#"], users: ["olivia"]),
        ])
        let stage = try SiteStage(rules: rules)
        let client = try stage.client()
        try client.send(post("/hers/1", olivia))
        #expect(stage.until { stage.door.count == 1 })
        stage.door.answer()
        #expect(try client.answer().status == 202)
        try client.send(post("/open/1") + post("/hers/2"))
        #expect(try client.answer().status == 202)
        #expect(try client.answer().status == 401)
    }

    @Test func wrongCredentialsOpenNoWebSocket() throws {
        let stage = try SiteStage(isAnonymousAllowed: false)
        let upgrade =
            "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
            + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: apus.v1.json\n\n"
        let stranger = try stage.client()
        try stranger.send("GET /ws HTTP/1.1\n\(host)\(wrong)\(upgrade)")
        #expect(stage.until { stage.door.count == 1 })
        stage.door.answer()
        #expect(try stranger.answer().status == 401)
        // Without any it is said inside.
        let client = try stage.client()
        try client.send("GET /ws HTTP/1.1\n\(host)\(upgrade)")
        #expect(try client.answer(hasBody: false).status == 101)
    }

    @Test(arguments: [
        ("/amqp", "amqp", "amqp"), ("/amqp", "binary, AMQPWSB10, amqp", "AMQPWSB10"),
        ("/$servicebus/websocket", "AMQPWSB10", "AMQPWSB10"), ("/$servicebus/websocket?a=b", "amqp", "amqp"),
    ]) func whereClientsLookForAMQP(path: String, offered: String, chosen: String) throws {
        let stage = try SiteStage(adapters: ["amqp": Silent(), "AMQPWSB10": Silent()])
        let upgrade =
            "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
            + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: "
        let stranger = try stage.client()
        try stranger.send("GET \(path) HTTP/1.1\n\(host)\(upgrade)mqtt\n\n")
        #expect(try stranger.answer().status == 400)
        let client = try stage.client()
        try client.send("GET \(path) HTTP/1.1\n\(host)\(upgrade)\(offered)\n\n")
        let answer = try client.answer(hasBody: false)
        #expect(answer.status == 101 && answer.headers["sec-websocket-protocol"] == chosen)
        let without = try SiteStage()
        let other = try without.client()
        try other.send("GET \(path) HTTP/1.1\n\(host)\(upgrade)\(offered)\n\n")
        #expect(try other.answer().status == 404)
    }

    @Test(arguments: [
        ("Origin: http://localhost\n", 202), ("Origin: http://evil.example\n", 403), ("Origin: null\n", 403),
        ("Origin: https://page.example\n", 202), ("", 202),
    ])
    func pagesFromElsewhere(origin: String, status: Int) throws {
        var settings = WebSettings()
        settings.corsOrigins = ["https://page.example"]
        let stage = try SiteStage(settings: settings)
        let client = try stage.client()
        try client.send(post("/a", origin))
        let answer = try client.answer()
        #expect(answer.status == status)
        #expect((answer.headers["access-control-allow-origin"] != nil) == origin.contains("page.example"))
    }

    @Test func namesThatWereMadeToMeanThisMachine() throws {
        let stage = try SiteStage()
        for (name, status) in [
            ("localhost", 202), ("127.0.0.1:8080", 202), ("[::1]:1", 202), ("stage", 202), ("evil.example", 421),
            ("127.0.0.1.evil.example", 421),
        ] {
            let client = try stage.client()
            try client.send("POST /a HTTP/1.1\nHost: \(name)\nContent-Length: 0\n\n")
            #expect(try client.answer().status == status, "\(name)")
        }
        let client = try stage.client()
        try client.send("GET /poll?filter=a&wait=1 HTTP/1.1\n\(host)Sec-Fetch-Site: cross-site\n\n")
        #expect(try client.answer().status == 403)
        try client.send("GET /poll?filter=a&wait=1 HTTP/1.1\n\(host)Sec-Fetch-Site: same-origin\n\n")
        #expect(try client.answer().status == 200)
    }

    @Test func everyPathSaysWhatItKnows() throws {
        let stage = try SiteStage()
        let client = try stage.client()
        for (path, allow) in [
            ("/", "GET, HEAD, OPTIONS"), ("/openapi.json", "GET, HEAD, OPTIONS"), ("/topics", "GET, HEAD, OPTIONS"),
            ("/events", "GET, POST, OPTIONS"), ("/poll", "GET, OPTIONS"), ("/mqtt", "GET, HEAD, OPTIONS"),
            ("/TOPIC/a", "GET, HEAD, POST, DELETE, OPTIONS"), ("/a/b", "POST, OPTIONS"),
            ("/echo", "GET, HEAD, OPTIONS"),
            ("/webhooks", "GET, HEAD, OPTIONS"), ("/webhooks/a", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ] {
            try client.send("OPTIONS \(path) HTTP/1.1\n\(host)\n")
            let options = try client.answer()
            #expect(options.status == 204 && options.headers["allow"] == allow, "\(path)")
            try client.send("PATCH \(path) HTTP/1.1\n\(host)\n")
            let other = try client.answer()
            #expect(other.status == 405 && other.headers["allow"] == allow, "\(path)")
        }
        // Who looks for these here is told where they are.
        try client.send("GET /metrics HTTP/1.1\n\(host)\n")
        let misplaced = try client.answer()
        #expect(misplaced.status == 405 && misplaced.body.contains("admin.listen"), "\(misplaced.body)")
        try client.send("GET /QUEUE/a HTTP/1.1\n\(host)\n")
        #expect(try client.answer().status == 404)
    }

    @Test func idsAreUniqueAndTopicsAreDecodedOnce() throws {
        let stage = try SiteStage(lanes: 2)
        var ids: Set<String> = []
        let clients = try (0..<4).map { _ in try stage.client() }
        for _ in 0..<25 {
            for client in clients { try client.send(String(repeating: post("/a%2525/b"), count: 10)) }
            for client in clients { for _ in 0..<10 { ids.insert(try client.answer().body) } }
        }
        #expect(ids.count == 1_000)
        let client = clients[0]
        try client.send(post("/TOPIC/a%25", "Apus-Retain: true\nContent-Type: text/plain\n", "kept"))
        #expect(try client.answer().status == 202)
        try client.send("GET /TOPIC/a%25 HTTP/1.1\n\(host)\n")
        #expect(try client.answer().body == "kept")
        for topic in ["/a%2Fb", "/a/%23", "/a/+", "/%00", "/%ff", "/$SYS/a"] {
            try client.send(post(topic))
            #expect([400, 401].contains(try client.answer().status), "\(topic)")
        }
    }

    @Test func aBatchSaysWhatBecameOfEach() throws {
        let stage = try SiteStage()
        let client = try stage.client()
        let lines = (0..<200).map { #"{"topic":"n/\#($0 % 3 == 2 ? "#" : "\($0)")","payload":"x"}"# }
        try client.send(post("/events", "Content-Type: application/x-ndjson\n", lines.joined(separator: "\n")))
        let answer = try client.answer()
        #expect(answer.status == 200)
        #expect(answer.body.hasPrefix(#"{"accepted":134,"refused":66,"items":[{"id":"run-0-1","matched":0},"#))
        #expect(answer.body.components(separatedBy: #""status":400"#).count == 67)
        try client.send(post("/events", "Content-Type: text/plain\n"))
        #expect(try client.answer().status == 415)
    }
}
