import Core
import Foundation
import Logging
import MQTT
import RawHTTP
import Reactor
import Testing

@testable import Web

/// The handshake, and WebSocket over real sockets: a reactor with two lanes, an HTTP listener, blocking clients.

private func head(_ text: String, _ body: (RequestHead) throws -> Void) throws {
    let bytes = Array(text.replacing("\n", with: "\r\n").utf8)
    let storage = RequestHead.Storage()
    try bytes.withUnsafeBytes { bytes in
        let outcome = try RequestHead.parse(bytes, headerBytes: 8_192, targetBytes: 1_024, storage)
        guard case .complete(let head) = outcome else { throw CancellationError() }
        try body(head)
    }
}

private let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
private let upgrade = "Host: localhost\nUpgrade: websocket\nConnection: Upgrade\n"
private let version = "Sec-WebSocket-Version: 13\n"

private func request(
    _ path: String = "/mqtt", protocols: String? = "mqtt", upgrade: String = upgrade, key: String = key,
    version: String = version, more: String = ""
) -> String {
    let protocols = protocols.map { "Sec-WebSocket-Protocol: \($0)\n" } ?? ""
    return "GET \(path) HTTP/1.1\n\(upgrade)\(key)\(version)\(protocols)\(more)\n"
}

@Suite struct WebSocketHandshakeTests {
    @Test func theExampleOfTheSpecification() throws {
        try head(request(protocols: "chat, mqtt")) { head in
            let handshake = try WebSocketHandshake(head, offered: ["mqttv3.1", "mqtt"])
            #expect(handshake.subprotocol == "mqtt")
            #expect(handshake.fields.map(\.name) == ["Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"])
            #expect(handshake.fields.map(\.value) == ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "mqtt"])
        }
    }

    @Test(arguments: [
        ("mqtt", "mqtt"), ("mqttv3.1", "mqttv3.1"), ("mqttv3.1, mqtt", "mqttv3.1"), ("mqtt,mqttv3.1", "mqtt"),
        ("a,\tb ,mqtt", "mqtt"), ("x\nSec-WebSocket-Protocol: mqtt", "mqtt"),
    ])
    func theFirstProtocolOfTheClientThatIsKnownIsTaken(asked: String, chosen: String) throws {
        try head(request(protocols: asked)) { head in
            let handshake = try WebSocketHandshake(head, offered: ["mqtt", "mqttv3.1"])
            #expect(handshake.subprotocol == chosen)
        }
    }

    @Test func protocolsMayBeOptional() throws {
        for asked in [nil, "soap"] {
            try head(request(protocols: asked)) { head in
                let handshake = try WebSocketHandshake(head, offered: ["x"], isSubprotocolOptional: true)
                #expect(handshake.subprotocol == nil)
                #expect(handshake.fields.count == 1)
            }
        }
        try head(request(upgrade: "Host: a\nUpgrade: h2c, WebSocket\nConnection: keep-alive, Upgrade\n")) { head in
            let handshake = try WebSocketHandshake(head, offered: ["mqtt"])
            #expect(handshake.subprotocol == "mqtt")
        }
    }

    @Test(arguments: [
        (request(protocols: nil), 400, "Sec-WebSocket-Protocol"), (request(protocols: "soap"), 400, "mqtt"),
        (request(protocols: "MQTT"), 400, "mqtt"), (request(protocols: "mq tt"), 400, "tokens"),
        (request(version: ""), 400, "Version"), (request(version: "Sec-WebSocket-Version: 8\n"), 426, "13"),
        (request(version: version + version), 400, "Version"), (request(key: ""), 400, "Key"),
        (request(key: key + key), 400, "Key"), (request(key: "Sec-WebSocket-Key: short\n"), 400, "base64"),
        (request(key: "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!==\n"), 400, "base64"),
        (request(key: "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQaa\n"), 400, "base64"),
        (request(upgrade: "Host: a\nConnection: Upgrade\n"), 426, "Upgrade"),
        (request(upgrade: "Host: a\nUpgrade: h2c\nConnection: Upgrade\n"), 426, "Upgrade"),
        (request(upgrade: "Host: a\nUpgrade: websocket\n"), 400, "Connection"),
        (request(more: "Content-Length: 1\n"), 400, "body"),
        (request(more: "Transfer-Encoding: chunked\n"), 400, "body"),
        (request().replacing("HTTP/1.1", with: "HTTP/1.0"), 400, "HTTP/1.1"),
        (request().replacing("GET", with: "POST"), 405, "GET"),
    ])
    func whatIsNoHandshakeIsRefused(text: String, status: Int, word: String) throws {
        try head(text) { head in
            let problem = #expect(throws: Problem.self) { try WebSocketHandshake(head, offered: ["mqtt"]) }
            #expect(problem?.status == status)
            #expect(problem?.detail.contains(word) == true, "\(problem?.detail ?? "")")
            #expect((problem?.headers["Sec-WebSocket-Version"] == "13") == (status == 426))
            #expect((problem?.headers["Upgrade"] == "websocket") == (status == 426))
        }
    }
}

/// Upgrades `/mqtt` and `/echo`.
private final class UpgradeSite: HTTPSite {
    let limits = HTTPLimits()
    let mqtt: MQTTAdapter

    init(_ mqtt: MQTTAdapter) { self.mqtt = mqtt }

    func take(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, of connection: HTTPConversation, _ turn: Turn,
        on lane: Lane
    ) -> RequestVerdict {
        let isEcho = head.target.elementsEqual("/echo".utf8)
        do throws(Problem) {
            let handshake = try WebSocketHandshake(head, offered: isEcho ? [] : ["mqtt"])
            connection.switchToWebSocket(handshake.fields)
            return .upgraded(
                WebSocketConversation(on: connection.link, kind: isEcho ? .any : .binary, lane: lane) { link in
                    isEcho ? EchoConversation(link: link) : mqtt.makeConversation(link: link, on: lane)
                })
        } catch {
            connection.respond(error)
            return .answered
        }
    }

    func routed(_ turn: Turn, of connection: HTTPConversation, on lane: Lane) {}
}

@Suite struct WebSocketServerTests {
    private struct Anybody: Authenticator {
        func authenticate(
            _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
        ) -> AuthenticationResult? {
            // From elsewhere, so that the answer crosses to the conversation inside.
            Thread.detachNewThread { reply(.accepted(Identity())) }
            return nil
        }
    }

    private final class Stage {
        let reactor: Reactor
        let address: String

        init(lanes: Int = 2) throws {
            let router = Router(limits: Limits(), accessRules: try AccessRules([]), hashKey: 1)
            let mqtt = MQTTAdapter(routers: ["default": router], authenticator: Anybody(), random: { 4 })
            let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            reactor = try Reactor(lanes: lanes, limits: Limits(), logger: logger)
            let adapter = HTTPAdapter(site: UpgradeSite(mqtt)) { Int(Date().timeIntervalSince1970) }
            let listener = try Listener(try SocketAddress("127.0.0.1:0"), adapter: adapter)
            reactor.listen(listener)
            address = listener.address.description
        }

        deinit { reactor.stop(drainMilliseconds: 500) }

        /// A client whose handshake has been answered; `early` comes with the request in one piece.
        func client(_ path: String, early: [UInt8] = []) throws -> RawClient {
            let client = try RawClient(address)
            let protocols = path == "/mqtt" ? "mqtt" : nil
            let text = request(path, protocols: protocols).replacing("\n", with: "\r\n")
            try client.send(bytes: Array(text.utf8) + early)
            let answer = try client.answer(hasBody: false)
            #expect(answer.status == 101)
            #expect(answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            #expect(answer.headers["upgrade"] == "websocket")
            #expect(answer.headers["connection"] == "Upgrade")
            #expect(answer.headers["sec-websocket-protocol"] == protocols)
            return client
        }
    }

    private func frame(_ client: RawClient) throws -> ServerFrame {
        var bytes = try client.receive(2)
        if bytes[1] >= 126 { bytes += try client.receive(bytes[1] == 126 ? 2 : 8) }
        let length = bytes.count == 2 ? Int(bytes[1]) : bytes[2...].reduce(0) { $0 << 8 | Int($1) }
        return try #require(ServerFrame.all(bytes + client.receive(length))?.first)
    }

    @Test func echoesLargeAndSmallMessages() throws {
        let stage = try Stage()
        let client = try stage.client("/echo", early: ClientFrame.text("early"))
        #expect(try frame(client) == .text("early"))
        for size in [0, 125, 126, 65_535, 65_536, 5_000_000] {
            let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 7) }
            // The peer reads only when all has been written, so that output is congested now and then.
            try client.send(bytes: ClientFrame.binary(bytes))
            var message = try frame(client)
            while !message.isFinal {
                let more = try frame(client)
                message.payload += more.payload
                message.isFinal = more.isFinal
            }
            #expect(message == .binary(bytes), "\(size) bytes")
        }
        try client.send(bytes: ClientFrame.close(4_000) + ClientFrame.text("too late"))
        #expect(try frame(client).closeCode == 4_000)
        #expect(try client.isEnded())
    }

    @Test func mqttOverWebSocketTakesSessionsOver() throws {
        let stage = try Stage()
        let connect = WebSocketStreamTests.connect("c", clean: false)
        let subscribe = WebSocketStreamTests.subscribe
        let first = try stage.client("/mqtt", early: ClientFrame.binary(connect + subscribe))
        var heard: [UInt8] = []
        while heard.count < 9 { heard += try frame(first).payload }
        #expect(heard == [0x20, 2, 0, 0, 0x90, 3, 0, 1, 1])
        // Each comes on the other lane, and moves to the session's with what has been sent meanwhile.
        var before = first
        for _ in 0..<6 {
            let publish = WebSocketStreamTests.publish([42], qos: 1)
            let client = try stage.client("/mqtt", early: ClientFrame.binary(connect + publish))
            var heard: [UInt8] = []
            while heard.count < 4 + 10 + 4 { heard += try frame(client).payload }
            #expect(heard.prefix(4) == [0x20, 2, 1, 0])
            #expect(heard.contains(42) && heard.contains(0x40))
            try client.send(bytes: ClientFrame.binary([0x40, 2, heard[11], heard[12]]))
            #expect(try frame(before).closeCode == 1_008)
            #expect(try before.isEnded())
            before = client
        }
    }

    @Test func aWrongFrameEndsItsConnectionOnly() throws {
        let stage = try Stage()
        let good = try stage.client("/echo")
        let bad = try stage.client("/echo")
        try bad.send(bytes: ClientFrame.text("a") + [0xFF, 0xFF] + [UInt8](repeating: 1, count: 100_000))
        #expect(try frame(bad) == .text("a"))
        #expect(try frame(bad).closeCode == 1_002)
        #expect(try bad.isEnded())
        try good.send(bytes: ClientFrame.text("still here"))
        #expect(try frame(good) == .text("still here"))
    }

    @Test func theHandshakeIsCheckedOverTheWire() throws {
        let stage = try Stage()
        let client = try RawClient(stage.address)
        try client.send("GET /mqtt HTTP/1.1\nHost: localhost\n\n")
        let answer = try client.answer()
        #expect(answer.status == 426)
        #expect(answer.headers["sec-websocket-version"] == "13")
    }

    @Test func aStoppingNodeSaysGoodbye() throws {
        let stage = try Stage(lanes: 1)
        let client = try stage.client("/echo", early: ClientFrame.text("a"))
        #expect(try frame(client) == .text("a"))
        Thread.detachNewThread { [reactor = stage.reactor] in reactor.stop(drainMilliseconds: 3_000) }
        #expect(try frame(client).closeCode == 1_001)
        #expect(try client.isEnded())
    }
}
