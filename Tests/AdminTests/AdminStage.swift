import Admin
import Core
import Foundation
import Logging
import MQTT
import RawHTTP
import Reactor
import Security
import Web

/// Lanes, an MQTT listener and the management interface, wired as a node wires them.
final class AdminStage {
    let reactor: Reactor
    let router: Router
    let service: AdminService
    let address: String
    private let mqtt: String
    private let server: HTTPServer
    private let authenticator: NodeAuthenticator

    init(
        users: [User] = [], mayManage: [String] = [], lanes: Int = 2, handlerSeconds: Int = 5,
        mesh: (any MeshManaging)? = nil
    ) throws {
        let limits = Limits()
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        router = Router(limits: limits, hashKey: 7)
        authenticator = try NodeAuthenticator(IdentitySettings(users: users))
        reactor = try Reactor(lanes: lanes, limits: limits, logger: logger)
        let adapter = MQTTAdapter(
            routers: [router.name: router], authenticator: authenticator, random: { 1 })
        let listener = try Listener(SocketAddress("127.0.0.1:0"), adapter: adapter)
        reactor.listen(listener)
        mqtt = listener.address.description
        var settings = AdminService.Settings(name: "stage", version: "1")
        settings.users = mayManage
        let service = AdminService(
            settings, lanes: reactor.lanes, router: router, authenticator: authenticator, mesh: mesh,
            metrics: { reply in Thread.detachNewThread { reply("apus_test 1\n") } })
        self.service = service
        var bounds = AdminService.limits
        bounds.handlerSeconds = handlerSeconds
        server = try HTTPServer(limits: bounds, logger: logger) { service.handle($0, $1) }
        address = try server.listen("127.0.0.1:0")
    }

    deinit {
        reactor.stop(drainMilliseconds: 0)
        server.stop(graceMilliseconds: 100)
        authenticator.stop()
    }

    // MARK: HTTP

    func ask(
        _ method: String, _ target: String, host: String = "localhost", headers: [String] = []
    ) throws -> RawClient.Answer {
        let client = try RawClient(address, seconds: 10)
        let lines = ["\(method) \(target) HTTP/1.1", "Host: \(host)"] + headers
        try client.send(lines.joined(separator: "\n") + "\n\n")
        return try client.answer(hasBody: method != "HEAD")
    }

    func get<Document: Decodable>(_ target: String, as type: Document.Type = Document.self) throws -> Document {
        let answer = try ask("GET", target)
        guard answer.status == 200 else { throw Unexpected(what: "\(answer)") }
        let decoder = JSONDecoder()
        decoder.dateDecodingStrategy = .iso8601
        return try decoder.decode(type, from: Data(answer.body.utf8))
    }

    struct Unexpected: Error { let what: String }

    // MARK: MQTT 3.1.1

    /// Connects a client and waits until it is let in.
    func connect(_ id: String, clean: Bool = true, keepAlive: UInt8 = 0) throws -> RawClient {
        let client = try RawClient(mqtt)
        let body = Self.text("MQTT") + [4, clean ? 2 : 0, 0, keepAlive] + Self.text(id)
        try client.send(bytes: [0x10, UInt8(body.count)] + body)
        guard try client.receive(4).last == 0 else {
            throw Unexpected(what: "\(id) was not let in")
        }
        return client
    }

    /// Connects a client of MQTT 5 whose session outlives the connection by 100 seconds, with a will that is due 60
    /// seconds after the connection's end.
    func connect5(_ id: String, will: String) throws -> RawClient {
        let client = try RawClient(mqtt)
        let properties: [UInt8] = [5, 0x11, 0, 0, 0, 100]
        let willProperties: [UInt8] = [5, 0x18, 0, 0, 0, 60]
        let body =
            Self.text("MQTT") + [5, 0x06, 0, 0] + properties + Self.text(id) + willProperties + Self.text(will)
            + Self.text("bye")
        try client.send(bytes: [0x10, UInt8(body.count)] + body)
        let length = Int(try client.receive(2)[1])
        guard try client.receive(length)[1] == 0 else { throw Unexpected(what: "\(id) was not let in") }
        return client
    }

    /// Subscribes at QoS 1 and waits until it holds.
    func subscribe(_ client: RawClient, _ filter: String) throws {
        let body = [0, 1] + Self.text(filter) + [1]
        try client.send(bytes: [0x82, UInt8(body.count)] + body)
        _ = try client.receive(5)
    }

    /// Publishes at QoS 1 and waits for the acknowledgement.
    func publish(_ topic: String, _ payload: String, retain: Bool = true, by client: RawClient) throws {
        let body = Self.text(topic) + [0, 9] + Array(payload.utf8)
        try client.send(bytes: [retain ? 0x33 : 0x32, UInt8(body.count)] + body)
        _ = try client.receive(4)
    }

    private static func text(_ text: String) -> [UInt8] { [0, UInt8(text.utf8.count)] + Array(text.utf8) }
}
