import Admin
import Core
import Foundation
import RawHTTP
import Reactor
import Security
import Testing
import Web

@testable import Node

@Suite struct AdminTests {
    @Test func everyRouteIsDescribedAndTheReverse() throws {
        let stage = try AdminStage()
        let page = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "docs/openapi-admin.yaml")
        let text = try String(contentsOf: page, encoding: .utf8)
        let document = try #require(Self.plain(Setting.parse(yaml: text, file: page.path)) as? [String: Any])
        #expect(document["openapi"] as? String == "3.1.0")
        let paths = try #require(document["paths"] as? [String: [String: Any]])
        let methods = Set(Method.allCases.map { $0.rawValue.lowercased() })
        var described: Set<String> = []
        for (path, item) in paths {
            for (method, operation) in item where methods.contains(method) {
                described.insert("\(method.uppercased()) \(path)")
                let operation = try #require(operation as? [String: Any], "\(path)")
                #expect(operation["summary"] is String, "\(method) \(path)")
                #expect((operation["responses"] as? [String: Any])?.isEmpty == false, "\(method) \(path)")
            }
        }
        #expect(described == Set(stage.service.routes.map { "\($0.method.rawValue) \($0.pattern)" }))
        // What is served is what is in the documents.
        #expect(try stage.ask("GET", "/openapi.yaml").body == text)
        // References lead somewhere.
        for part in text.components(separatedBy: "$ref: \"#/").dropFirst() {
            var place: Any? = document
            for step in part.prefix(while: { $0 != "\"" }).split(separator: "/") {
                place = (place as? [String: Any])?[String(step)]
            }
            #expect(place != nil, "\(part.prefix(40))")
        }
    }

    /// A tree of YAML as dictionaries, arrays and strings.
    private static func plain(_ setting: Setting) -> Any {
        switch setting {
        case .text(let text, _): text
        case .list(let items, _): items.map(plain)
        case .map(let entries, _):
            Dictionary(entries.map { ($0.name, plain($0.value)) }, uniquingKeysWith: { first, _ in first })
        case .nothing: ""
        }
    }

    @Test func healthReadinessAndTheNode() throws {
        let stage = try AdminStage()
        #expect(try stage.ask("GET", "/healthz").status == 200)
        let starting = try stage.ask("GET", "/readyz")
        #expect(starting.status == 503)
        #expect(starting.headers["content-type"] == "application/problem+json")
        stage.service.becomeReady([.init(protocol: "mqtt", address: "a:1")])
        #expect(try stage.ask("GET", "/readyz").status == 200)
        let client = try stage.connect("c")
        try stage.subscribe(client, "a/#")
        let node: NodeDocument = try stage.get("/v1/node")
        #expect(node.name == "stage" && node.state == "ready")
        #expect(node.listeners == [.init(protocol: "mqtt", address: "a:1")])
        let counts: [Int] = [node.connections, node.sessions, node.subscriptions, node.retained]
        #expect(counts == [1, 1, 1, 0])
        #expect(try stage.ask("GET", "/metrics").body == "apus_test 1\n")
        stage.service.becomeDraining()
        #expect(try stage.ask("GET", "/readyz").status == 503)
        #expect(try stage.ask("GET", "/healthz").status == 200)
    }

    @Test func clientsAreListedInPages() throws {
        let stage = try AdminStage()
        let ids = ["a", "b/c", "ä ö%2F", "pump-1", "pump-2", "x\"y"]
        let clients = try ids.map { try stage.connect($0, clean: false) }
        _ = try stage.connect("pump-gone", clean: false)
        try #require(
            eventually { try stage.get("/v1/clients?state=absent", as: ClientPageDocument.self).clients.count == 1 })
        for limit in [1, 2, 3, 100] {
            var found: [String] = []
            var next: String? = ""
            while let after = next {
                let query = after.isEmpty ? "" : "&after=\(Percent.encode(after))"
                let page: ClientPageDocument = try stage.get("/v1/clients?limit=\(limit)\(query)")
                #expect(page.clients.count <= limit)
                found += page.clients.map(\.id)
                next = page.next
            }
            #expect(found.sorted() == (ids + ["pump-gone"]).sorted(), "limit \(limit)")
        }
        func names(_ query: String) throws -> Set<String> {
            Set(try stage.get("/v1/clients?\(query)", as: ClientPageDocument.self).clients.map(\.id))
        }
        #expect(try names("prefix=pump-") == ["pump-1", "pump-2", "pump-gone"])
        #expect(try names("prefix=pump-&state=connected") == ["pump-1", "pump-2"])
        #expect(try names("state=absent") == ["pump-gone"])
        #expect(try names("prefix=%C3%A4") == ["ä ö%2F"])
        for query in ["limit=0", "limit=1001", "limit=x", "state=odd"] {
            #expect(try stage.ask("GET", "/v1/clients?\(query)").status == 400, "\(query)")
        }
        withExtendedLifetime(clients) {}
    }

    @Test func aSessionTellsEverything() throws {
        let stage = try AdminStage()
        let id = "a/b ä%"
        var client: RawClient? = try stage.connect(id, clean: false, keepAlive: 30)
        try stage.subscribe(try #require(client), "x/+")
        try stage.subscribe(try #require(client), "$share/g/y/#")
        let path = "/v1/clients/\(Percent.encode(id))"
        let shown: ClientDocument = try stage.get(path)
        #expect(shown.id == id && shown.connected && shown.user == nil && shown.protocol == "MQTT 3.1.1")
        #expect(shown.peer?.hasPrefix("127.0.0.1:") == true)
        #expect(shown.keepAliveSeconds == 30 && shown.clean == false && shown.will == false)
        #expect(abs(try #require(shown.connectedSince).timeIntervalSinceNow) < 5)
        #expect(Set(shown.subscriptions?.map(\.filter) ?? []) == ["x/+", "$share/g/y/#"])
        #expect(shown.subscriptions?.allSatisfy { $0.qos == 1 } == true && shown.subscriptionCount == 2)
        client = nil
        try #require(eventually { try stage.get(path, as: ClientDocument.self).connected == false })
        let publisher = try stage.connect("p")
        try stage.publish("x/1", "waits", by: publisher)
        let absent: ClientDocument = try stage.get(path)
        #expect(absent.queuedEvents == 1 && absent.queuedBytes > 5 && absent.peer == nil)
        #expect(try #require(absent.endsAt).timeIntervalSinceNow > 86_400)
        #expect(try stage.ask("GET", "/v1/clients/nobody").status == 404)
    }

    @Test func clientsAreEnded() throws {
        let stage = try AdminStage()
        let client = try stage.connect("c", clean: false)
        #expect(try stage.ask("DELETE", "/v1/clients/c").status == 204)
        #expect(try client.isEnded())
        let closed = stage.reactor.counters().closed
        #expect(closed[CloseReason.administrative.rawValue] == 1)
        #expect(try stage.ask("DELETE", "/v1/clients/c").status == 409)
        #expect(try stage.ask("DELETE", "/v1/clients/c?session=maybe").status == 400)
        #expect(try stage.ask("DELETE", "/v1/clients/c?session=true").status == 204)
        #expect(try stage.ask("DELETE", "/v1/clients/c?session=true").status == 404)
        let again = try stage.connect("c", clean: false)
        try stage.subscribe(again, "a")
        #expect(try stage.ask("DELETE", "/v1/clients/c?session=true").status == 204)
        #expect(try again.isEnded())
        #expect(stage.router.sessionCount == 0 && stage.router.subscriptionCount == 0)
        #expect(try stage.ask("PUT", "/v1/clients/c/trace").status == 404)
        let traced = try stage.connect("c")
        #expect(try stage.ask("PUT", "/v1/clients/c/trace").status == 204)
        #expect(try stage.ask("DELETE", "/v1/clients/c/trace").status == 204)
        withExtendedLifetime(traced) {}
    }

    @Test func clientsOfMQTT5AreToldAndTheirWillsPublished() throws {
        let stage = try AdminStage()
        let listener = try stage.connect("listener")
        try stage.subscribe(listener, "wills/#")
        let client = try stage.connect5("c", will: "wills/c")
        let shown: ClientDocument = try stage.get("/v1/clients/c")
        #expect(shown.protocol == "MQTT 5" && shown.will == true && shown.sessionExpirySeconds == 100)
        #expect(try stage.ask("DELETE", "/v1/clients/c").status == 204)
        // DISCONNECT, administrative action.
        let packet = try client.receive(3)
        #expect(packet[0] == 0xE0 && packet[2] == 0x98)
        // The session waits, and its will with it, until it is ended: nothing else happens on the lane meanwhile.
        let absent: ClientDocument = try stage.get("/v1/clients/c")
        #expect(absent.connected == false && absent.will == true)
        #expect(abs(try #require(absent.endsAt).timeIntervalSinceNow - 100) < 5)
        #expect(try stage.ask("DELETE", "/v1/clients/c?session=true").status == 204)
        let body = [0, 7] + Array("wills/c".utf8) + Array("bye".utf8)
        #expect(try listener.receive(2 + body.count) == [0x30, UInt8(body.count)] + body)
    }

    @Test func retainedEvents() throws {
        let stage = try AdminStage()
        let client = try stage.connect("c")
        let topics = ["a", "a/b", "/a//b/", "ä/ü", "q?x=1&y", "%2F", "a/.", "a/.."]
        for topic in topics { try stage.publish(topic, "value of \(topic)", by: client) }
        for topic in topics {
            let answer = try stage.ask("GET", "/v1/retained/\(Percent.encode(topic))")
            #expect(answer.body == "value of \(topic)" && answer.headers["apus-qos"] == "1", "\(topic)")
        }
        #expect(try stage.ask("GET", "/v1/retained//a//b/").body == "value of /a//b/")
        var found: [String] = []
        var after = "0"
        while true {
            let page: RetainedPageDocument = try stage.get("/v1/retained?limit=3&after=\(after)")
            #expect(page.retained.count <= 3)
            found += page.retained.map(\.topic)
            guard let next = page.next else { break }
            after = next
        }
        #expect(found.sorted() == topics.sorted())
        #expect(try stage.get("/v1/retained?filter=a/%2B", as: RetainedPageDocument.self).retained.count == 3)
        #expect(try stage.ask("DELETE", "/v1/retained/a").status == 204)
        #expect(try stage.ask("DELETE", "/v1/retained/a").status == 404)
        #expect(try stage.ask("GET", "/v1/retained/a").status == 404)
        #expect(try stage.ask("DELETE", "/v1/retained").status == 400)
        for filter in ["a%23", "%24share/g/a", ""] {
            #expect(try stage.ask("DELETE", "/v1/retained?filter=\(filter)").status == 400, "\(filter)")
        }
        #expect(try stage.ask("DELETE", "/v1/retained?filter=a/%23").body == #"{"removed":3}"#)
        #expect(stage.router.retainedCount == 4)
        for number in 0..<2_500 { try stage.publish("many/\(number)", "x", by: client) }
        #expect(try stage.ask("DELETE", "/v1/retained?filter=many/%23").body == #"{"removed":2500}"#)
        #expect(stage.router.retainedCount == 4)
    }

    @Test func onlyThisMachineAndNoForeignPage() throws {
        let stage = try AdminStage()
        for host in ["localhost", "LOCALHOST:8222", "127.0.0.1:1", "[::1]:8222", "10.0.0.1"] {
            #expect(try stage.ask("GET", "/v1/node", host: host).status == 200, "\(host)")
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8222", "1.2.3"] {
            #expect(try stage.ask("GET", "/v1/node", host: host).status == 421, "\(host)")
        }
        for origin in ["http://evil.example", "null", "http://localhost:99", "https://evil.localhost"] {
            let answer = try stage.ask("DELETE", "/v1/clients/x", headers: ["Origin: \(origin)"])
            #expect(answer.status == 403, "\(origin)")
        }
        #expect(try stage.ask("DELETE", "/v1/clients/x", headers: ["Origin: http://localhost"]).status == 404)
    }

    @Test func namedUsersOnly() throws {
        let users = try ["anna", "bert"].map { try User(name: $0, hash: ScryptHash(password: Array("pw:\($0)".utf8))) }
        let stage = try AdminStage(users: users, mayManage: ["anna"])
        func status(_ user: String, _ password: String) throws -> Int {
            let word = Data("\(user):\(password)".utf8).base64EncodedString()
            return try stage.ask("GET", "/v1/node", host: "any.name", headers: ["Authorization: Basic \(word)"]).status
        }
        let nobody = try stage.ask("GET", "/v1/node")
        #expect(nobody.status == 401)
        #expect(nobody.headers["www-authenticate"]?.hasPrefix("Basic realm=") == true)
        #expect(try status("anna", "pw:anna") == 200)
        #expect(try status("anna", "wrong") == 401)
        #expect(try status("bert", "pw:bert") == 403)
        #expect(try status("carl", "pw:anna") == 401)
        for header in ["Basic", "Basic !!!", "Basic YQ==", "Bearer x"] {
            #expect(try stage.ask("GET", "/v1/node", headers: ["Authorization: \(header)"]).status == 401, "\(header)")
        }
        #expect(try stage.ask("GET", "/healthz").status == 200)
    }

    @Test func aLaneThatDoesNotAnswer() throws {
        let stage = try AdminStage(lanes: 1, handlerSeconds: 1)
        let client = try stage.connect("c")
        let gate = DispatchSemaphore(value: 0)
        stage.reactor.lanes.call(0) { _ in gate.wait() }
        #expect(try stage.ask("GET", "/v1/clients").status == 503)
        #expect(try stage.ask("GET", "/healthz").status == 200)
        gate.signal()
        #expect(try stage.ask("GET", "/v1/clients/c").status == 200)
        withExtendedLifetime(client) {}
    }

    /// Looks again until it holds or five seconds are over.
    private func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
        for _ in 0..<500 {
            if try condition() { return true }
            usleep(10_000)
        }
        return try condition()
    }
}
