import Core
import Foundation
import MQTT
import Synchronization
import Testing

@testable import Web

/// Knows who has `right` as the password, tokens `user:lifetime`, and certificates; answers at once, or when told to.
private final class Door: Authenticator {
    let mechanisms: [SASLMechanism]
    private let isLate = Mutex(false)
    private let waiting = Mutex<[@Sendable () -> Void]>([])
    private let questions = Mutex<[Credentials]>([])

    init(_ mechanisms: [SASLMechanism] = [.oauthBearer]) { self.mechanisms = mechanisms }

    /// From now on answers come when they are asked for.
    func beLate() { isLate.withLock { $0 = true } }

    func answer() {
        let all = waiting.withLock { waiting in
            defer { waiting = [] }
            return waiting
        }
        for reply in all { reply() }
    }

    /// Who has been asked about.
    var asked: [Credentials] { questions.withLock { $0 } }

    func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? {
        questions.withLock { $0.append(credentials) }
        let result = Self.judge(credentials)
        guard isLate.withLock({ $0 }) else { return result }
        waiting.withLock { $0.append { reply(result) } }
        return nil
    }

    private static func judge(_ credentials: Credentials) -> AuthenticationResult {
        if let token = credentials.token {
            let parts = String(decoding: token, as: UTF8.self).split(separator: ":").map(String.init)
            guard parts.first != "bad" else { return .refused(.badCredentials) }
            guard parts.first != "many" else { return .refused(.tooManyFailures) }
            var identity = Identity(user: parts.first, groups: Array(parts.dropFirst(2)))
            identity.lifetimeMilliseconds = parts.count > 1 ? UInt64(parts[1]) : nil
            identity.attributes["claim.exp"] = parts.count > 1 ? [parts[1]] : nil
            return .accepted(identity)
        }
        if let user = credentials.user {
            let isRight = credentials.password == Array("right".utf8)
            return isRight ? .accepted(Identity(user: user)) : .refused(.badCredentials)
        }
        if let user = credentials.certificateUser { return .accepted(Identity(user: user)) }
        return .refused(.anonymousNotAllowed)
    }
}

/// A site with its door, and a router.
private struct Scene {
    let door: Door
    let router: Router
    let stage: FakeStage

    init(_ door: Door = Door(), rules: [AccessRule] = [], quotas: [QuotaRule] = []) throws {
        self.door = door
        let router = Router(
            limits: Limits(), accessRules: try AccessRules(rules), quotas: Quotas(quotas), hashKey: 7)
        self.router = router
        let mqtt = MQTTAdapter(routers: ["default": router], authenticator: door, random: { 4 })
        let numbers = Atomic<UInt64>(7)
        stage = FakeStage(
            WebSite(
                WebSettings(), routers: ["default": router], authenticator: door, nodeName: "stage", version: "1",
                instance: "run", adapters: ["mqtt": mqtt], limits: Limits(),
                random: { numbers.add(1, ordering: .relaxed).newValue }, wallClock: { 0 }))
    }

    func connect(certificate: String? = nil) -> FakeConnection {
        let connection = stage.connect()
        connection.link.proven = certificate
        return connection
    }

    /// A WebSocket that has been opened.
    func open(_ path: String, _ protocols: String, _ fields: String = "") -> FakeConnection {
        let connection = connect()
        connection.send(
            "GET \(path) HTTP/1.1\n\(host)\(fields)Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
                + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: \(protocols)\n\n")
        #expect(connection.answers().map(\.status) == [101])
        return connection
    }
}

private let host = "Host: localhost\n"
private func bearer(_ token: String) -> String { "Authorization: Bearer \(token)\n" }
private func basic(_ user: String, _ password: String) -> String {
    "Authorization: Basic \(Data("\(user):\(password)".utf8).base64EncodedString())\n"
}
private func post(_ fields: String = "", _ topic: String = "/a") -> String {
    "POST \(topic) HTTP/1.1\n\(host)\(fields)Content-Length: 1\n\nx"
}

extension FakeConnection {
    fileprivate func ask(_ request: String) -> Answer? {
        send(request)
        return answers().first
    }

    /// A message of JSON, and the answers to it.
    fileprivate func say(_ text: String) -> [String] {
        send(ClientFrame.text(text))
        return (ServerFrame.all(bytes()) ?? []).map { String(decoding: $0.payload, as: UTF8.self) }
    }
}

/// Who is at the other end of HTTP and WebSocket: tokens, certificates, and the end of a proof.
@Suite struct AuthenticationTests {
    // MARK: Requests

    @Test func tokensAndPasswords() throws {
        let scene = try Scene()
        let client = scene.connect()
        #expect(client.ask(post(bearer("anna")))?.status == 202)
        #expect(client.ask(post("authorization: bEARER  bert \n"))?.status == 202)
        #expect(client.ask(post(basic("carl", "right")))?.status == 202)
        let asked = scene.door.asked
        #expect(asked.map { $0.token.map { String(decoding: $0, as: UTF8.self) } } == ["anna", "bert", nil])
        #expect(asked.map(\.user) == [nil, nil, "carl"])
        #expect(asked.allSatisfy { $0.protocolName == "http" && $0.peer == "fake" })
        // Nobody is asked twice about the same.
        #expect(client.ask(post(basic("carl", "right")))?.status == 202)
        #expect(scene.door.asked.count == 3)
    }

    @Test func challenges() throws {
        let known = try Scene()
        let client = known.connect()
        func challenges(_ request: String) -> [String] {
            let answer = client.ask(request)
            #expect(answer?.status == 401)
            return answer?.lines.filter { $0.hasPrefix("WWW-Authenticate: ") }.map { String($0.dropFirst(18)) } ?? []
        }
        let basicChallenge = #"Basic realm="apus", charset="UTF-8""#
        let invalid = #"Bearer realm="apus", error="invalid_token""#
        #expect(challenges(post()) == [basicChallenge, #"Bearer realm="apus""#])
        #expect(challenges(post(basic("anna", "wrong"))) == [basicChallenge, #"Bearer realm="apus""#])
        #expect(challenges(post(bearer("bad"))) == [basicChallenge, invalid])
        for value in ["Bearer", "Bearer ", "Bearer a b", "Bearer \u{e4}", "Digest x", "Basic ?", "Basic eA=="] {
            #expect(
                challenges(post("Authorization: \(value)\n")) == [basicChallenge, #"Bearer realm="apus""#], "\(value)")
        }
        #expect(client.ask(post(bearer("many")))?.status == 429)
        // Where there are none, tokens are not asked about.
        let scene = try Scene(Door([]))
        let answer = scene.connect().ask(post(bearer("anna")))
        #expect(answer?.status == 401)
        #expect(answer?.lines.filter { $0.hasPrefix("WWW-Authenticate") }.count == 1)
        #expect(scene.door.asked.isEmpty)
    }

    /// The same words for an unknown user and a wrong password.
    @Test func nobodyLearnsWhoThereIs() throws {
        let scene = try Scene()
        let answers = ["anna", "nobody"].map { scene.connect().ask(post(basic($0, "wrong"))) }
        #expect(answers[0]?.status == 401)
        #expect(answers[0]?.text == answers[1]?.text)
    }

    /// The certificate of the connection says who comes when the request does not.
    @Test func certificates() throws {
        let rules = [AccessRule(effect: .allow, action: .publish, topics: ["${username}"])]
        let scene = try Scene(rules: rules)
        let client = scene.connect(certificate: "anna")
        #expect(client.ask(post("", "/anna"))?.status == 202)
        #expect(client.ask(post("", "/bert"))?.status == 403)
        #expect(client.ask(post(bearer("bert"), "/bert"))?.status == 202)
        #expect(client.ask(post(basic("anna", "wrong"), "/anna"))?.status == 401)
        #expect(client.ask(post("", "/anna"))?.status == 202)
    }

    /// The next request is asked about anew, and those in one read as well.
    @Test func theEndBetweenRequests() throws {
        let scene = try Scene()
        let client = scene.connect()
        #expect(client.ask(post(bearer("anna:1000")))?.status == 202)
        scene.stage.advance(999)
        #expect(client.ask(post(bearer("anna:1000")))?.status == 202)
        #expect(scene.door.asked.count == 1)
        scene.stage.advance(1)
        #expect(client.ask(post(bearer("anna:1000")))?.status == 202)
        #expect(scene.door.asked.count == 2)
        scene.door.beLate()
        scene.stage.advance(1_000)
        client.send(post(bearer("anna:1000")) + post(bearer("anna:1000")))
        #expect(client.answers().isEmpty)
        scene.door.answer()
        scene.stage.settle()
        #expect(client.answers().map(\.status) == [202, 202])
        // A client that is gone hears nothing.
        client.send(post(bearer("bert")))
        client.cut()
        scene.door.answer()
        scene.stage.settle()
        #expect(client.answers().isEmpty)
    }

    // MARK: Streams and polls

    @Test(arguments: [UInt64(1_000), 15_000, 40_000]) func aStreamEnds(lifetime: UInt64) throws {
        let scene = try Scene()
        let client = scene.connect()
        client.send("GET /events?filter=a HTTP/1.1\n\(host)\(bearer("anna:\(lifetime)"))\n")
        #expect(String(decoding: client.bytes(), as: UTF8.self).hasPrefix("HTTP/1.1 200"))
        var left = Int(lifetime) - 1
        while left > 0 {
            scene.stage.advance(min(left, 5_000))
            left -= min(left, 5_000)
        }
        #expect(client.link.closing == nil)
        _ = client.bytes()
        scene.stage.advance(1)
        #expect(String(decoding: client.bytes(), as: UTF8.self) == ": the token or certificate has ended\n\n")
        #expect(client.link.closing == .proofEnded)
        client.conversation.close(.proofEnded, on: scene.stage.lane)
    }

    @Test func aPollEnds() throws {
        let scene = try Scene()
        let client = scene.connect()
        let request = "GET /poll?filter=a&wait=30000 HTTP/1.1\n\(host)\(bearer("anna:1000"))\n"
        client.send(request)
        scene.stage.advance(999)
        #expect(client.answers().isEmpty)
        scene.stage.advance(1)
        #expect(client.answers().map(\.status) == [200], "with what there is")
        #expect(scene.door.asked.count == 1)
        client.send(request)
        #expect(scene.door.asked.count == 2)
    }

    /// Who comes back with another token of his finds what he missed.
    @Test func aStreamGoesOnWithAnotherToken() throws {
        let scene = try Scene()
        let client = scene.connect()
        client.send("GET /events?filter=a HTTP/1.1\n\(host)\(bearer("anna:1000"))\n")
        let first = String(decoding: client.bytes(), as: UTF8.self)
        let id = try #require(first.split(separator: "\n").last { $0.hasPrefix("id: ") }?.dropFirst(4))
        client.cut()
        #expect(scene.connect().ask(post(bearer("bert")))?.status == 202)
        let again = scene.connect()
        again.send("GET /events?filter=a HTTP/1.1\n\(host)\(bearer("anna:2000"))Last-Event-ID: \(id)\n\n")
        let text = String(decoding: again.bytes(), as: UTF8.self)
        #expect(text.contains("data:") && !text.contains("gap"))
        let other = scene.connect()
        other.send("GET /events?filter=a HTTP/1.1\n\(host)\(bearer("anna:2000:group"))Last-Event-ID: \(id)\n\n")
        #expect(String(decoding: other.bytes(), as: UTF8.self).contains("gap"), "that is somebody else")
    }

    /// However often it says who it is, and of which protocol it becomes.
    @Test func connectionCountsOnce() throws {
        let scene = try Scene(quotas: [QuotaRule(users: ["anna"], limits: [.connections: 1])])
        let client = scene.connect()
        for token in ["anna:1000", "anna:2000", "anna:3000"] {
            #expect(client.ask(post(bearer(token)))?.status == 202, "\(token)")
        }
        #expect(scene.connect().ask(post(bearer("anna")))?.status == 429)
        let other = try Scene(quotas: [QuotaRule(users: ["anna"], limits: [.connections: 1])])
        let socket = other.open("/ws", "apus.v1.json", bearer("anna:5000"))
        #expect(socket.say(#"{"op":"authenticate","id":4,"token":"anna"}"#) == [#"{"op":"ok","id":4}"#])
        #expect(other.connect().ask(post(bearer("anna")))?.status == 429)
        let third = try Scene(quotas: [QuotaRule(users: ["anna"], limits: [.connections: 1])])
        let inside = third.open("/mqtt", "mqtt", bearer("anna"))
        inside.send(ClientFrame.binary([0x10, 13, 0, 4, 77, 81, 84, 84, 4, 2, 0, 60, 0, 1, 120]))
        #expect(ServerFrame.all(inside.bytes())?.first?.payload == [0x20, 2, 0, 0])
        #expect(third.connect().ask(post(bearer("anna")))?.status == 429)
    }

    // MARK: WebSocket

    @Test func jsonByToken() throws {
        let scene = try Scene()
        let client = scene.open("/ws", "apus.v1.json")
        #expect(client.say(#"{"op":"publish","id":1,"topic":"a","payload":"x"}"#).first?.contains("401") == true)
        for wrong in [
            #"{"op":"authenticate","id":2}"#, #"{"op":"authenticate","id":2,"user":"anna"}"#,
            #"{"op":"authenticate","id":2,"user":"anna","password":"right","token":"anna"}"#,
            #"{"op":"authenticate","id":2,"user":"anna","token":"anna"}"#, #"{"op":"authenticate","id":2,"token":7}"#,
        ] {
            #expect(client.say(wrong).first?.contains(#""status":400"#) == true, "\(wrong)")
        }
        #expect(scene.door.asked.count == 1, "the upgrade request alone")
        let bad = client.say(#"{"op":"authenticate","id":3,"token":"bad"}"#)
        #expect(bad == [#"{"op":"error","id":3,"status":401,"detail":"The token is not valid."}"#])
        #expect(client.say(#"{"op":"authenticate","id":3,"token":"many"}"#).first?.contains("429") == true)
        #expect(client.say(#"{"op":"authenticate","id":4,"token":"anna"}"#) == [#"{"op":"ok","id":4}"#])
        #expect(client.say(#"{"op":"subscribe","id":5,"filter":"a"}"#) == [#"{"op":"ok","id":5}"#])
        #expect(client.link.closing == nil)
    }

    /// How much of a group's events a member is to have.
    @Test func jsonWeights() throws {
        let scene = try Scene()
        let client = scene.open("/ws", "apus.v1.json", bearer("anna"))
        for wrong in [
            #""group":"g","weight":1001"#, #""group":"g","weight":-1"#, #""group":"g","weight":"5""#,
            #""group":"g","weight":0.5"#, #""group":"g","weight":null"#, #""weight":5"#,
        ] {
            let answer = client.say(#"{"op":"subscribe","id":1,"filter":"a",\#(wrong)}"#).first ?? ""
            #expect(answer.contains(#""status":400"#) && answer.contains("weight"), "\(wrong)")
        }
        #expect(scene.router.subscriptionCount == 0)
        let wish = #"{"op":"subscribe","id":2,"filter":"a","group":"g","weight":5}"#
        #expect(client.say(wish) == [#"{"op":"ok","id":2}"#])
        let filter = try TopicFilter("$share/g/a", grammar: .mqtt)
        #expect(scene.router.localWeight(of: filter)?.sum == 5)
    }

    /// With 1008, and a word before.
    @Test func jsonEnds() throws {
        for inUpgrade in [false, true] {
            let scene = try Scene()
            let client = scene.open("/ws", "apus.v1.json", inUpgrade ? bearer("anna:1000") : "")
            if !inUpgrade { _ = client.say(#"{"op":"authenticate","id":1,"token":"anna:1000"}"#) }
            #expect(client.say(#"{"op":"subscribe","id":5,"filter":"a"}"#) == [#"{"op":"ok","id":5}"#])
            scene.stage.advance(999)
            #expect(client.bytes().isEmpty)
            scene.stage.advance(1)
            let frames = ServerFrame.all(client.bytes()) ?? []
            #expect(frames.count == 2)
            let words = String(decoding: frames.first?.payload ?? [], as: UTF8.self)
            #expect(words.contains(#""status":401"#))
            #expect(frames.last?.opcode == 8)
            #expect(frames.last?.payload.starts(with: [0x03, 0xF0]) == true, "1008")
            #expect(client.link.finishing == .proofEnded)
            #expect(scene.router.subscriptionCount == 0)
        }
    }

    @Test func jsonIsRenewedByTheSameUser() throws {
        let rules = [
            AccessRule(effect: .allow, action: .subscribe, topics: ["#"]),
            AccessRule(effect: .allow, action: .publish, topics: ["a"], groups: ["g"]),
        ]
        let scene = try Scene(rules: rules)
        let client = scene.open("/ws", "apus.v1.json", bearer("anna:1000"))
        _ = client.say(#"{"op":"subscribe","id":5,"filter":"a"}"#)
        #expect(client.say(#"{"op":"publish","id":6,"topic":"a","payload":"x"}"#).first?.contains("403") == true)
        scene.stage.advance(900)
        #expect(client.say(#"{"op":"authenticate","id":7,"token":"bert:9000"}"#).first?.contains("403") == true)
        #expect(client.say(#"{"op":"authenticate","id":7,"token":"bad"}"#).first?.contains("401") == true)
        #expect(client.say(#"{"op":"authenticate","id":7,"token":"anna:1000:g"}"#) == [#"{"op":"ok","id":7}"#])
        scene.stage.advance(900)
        #expect(client.link.finishing == nil)
        #expect(client.say(#"{"op":"publish","id":6,"topic":"a","payload":"x"}"#).last?.contains("ok") == true)
        #expect(
            client.say(#"{"op":"authenticate","id":8,"user":"anna","password":"right"}"#) == [#"{"op":"ok","id":8}"#])
        scene.stage.advance(10_000)
        #expect(client.link.finishing == nil, "a password has no end")
    }

    /// The answer of a renewal comes when the connection has ended.
    @Test func jsonTooLate() throws {
        let scene = try Scene()
        let client = scene.open("/ws", "apus.v1.json", bearer("anna:1000"))
        _ = client.say(#"{"op":"subscribe","id":5,"filter":"a"}"#)
        scene.door.beLate()
        #expect(client.say(#"{"op":"authenticate","id":7,"token":"anna:1000"}"#).isEmpty)
        scene.stage.advance(1_000)
        #expect(client.link.finishing == .proofEnded)
        _ = client.bytes()
        scene.door.answer()
        scene.stage.settle()
        #expect(client.bytes().isEmpty)
    }

    /// MQTT inside: whoever the upgrade request was, unless CONNECT says another; and not for longer.
    @Test func mqttInside() throws {
        func packet(_ user: String?) -> [UInt8] {
            func text(_ text: String) -> [UInt8] { [0, UInt8(text.utf8.count)] + Array(text.utf8) }
            let flags: UInt8 = user == nil ? 2 : 0xC2
            let body = text("MQTT") + [4, flags, 0, 0] + text("c") + (user.map { text($0) + text("right") } ?? [])
            return [0x10, UInt8(body.count)] + body
        }
        for (fields, user, code) in [
            (bearer("anna:1000"), nil, 0), (bearer("anna:1000"), "bert", 0), ("", nil, 5), ("", "bert", 0),
        ] as [(String, String?, UInt8)] {
            let scene = try Scene()
            let client = scene.open("/mqtt", "mqtt", fields)
            scene.stage.advance(400)
            client.send(ClientFrame.binary(packet(user)))
            let frames = ServerFrame.all(client.bytes()) ?? []
            #expect(frames.first?.payload == [0x20, 2, 0, code])
            guard code == 0 else { continue }
            let address = try #require(scene.router.session(of: "c"))
            let inbox = scene.stage.lane.port(at: address) as? Inbox
            #expect(inbox?.principal.identity.user == user ?? "anna")
            scene.stage.advance(599)
            #expect(client.link.finishing == nil)
            scene.stage.advance(1)
            #expect(client.link.finishing == (user == nil ? .proofEnded : nil))
        }
        let scene = try Scene()
        let refused = scene.connect()
        refused.send(
            "GET /mqtt HTTP/1.1\n\(host)\(bearer("bad"))Connection: Upgrade\nUpgrade: websocket\n"
                + "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
                + "Sec-WebSocket-Protocol: mqtt\n\n")
        #expect(refused.answers().map(\.status) == [401])
    }
}
