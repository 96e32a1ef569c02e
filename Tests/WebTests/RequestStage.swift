import Core
import Foundation
import Logging
import MQTT
import RawHTTP
import Reactor
import Synchronization
import Testing

@testable import Web

/// A site that knows requests with replies, guaranteed publishes, retained values and topics, and nothing else. Who
/// asks says so in the field `User`.
private final class RequestSite: HTTPSite {
    let limits: HTTPLimits
    let context: WebContext

    init(_ router: Router, _ limits: HTTPLimits) {
        self.limits = limits
        context = WebContext(
            routers: ["default": router], authenticator: OpenDoor(), settings: WebSettings(), nodeName: "test",
            version: "0", instance: "run", adapters: [:], webhooks: nil, random: { UInt64.random(in: .min ... .max) },
            wallClock: { 0 })
    }

    func take(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, of connection: HTTPConversation, _ turn: Turn,
        on lane: Lane
    ) -> RequestVerdict {
        do throws(Problem) {
            guard let router = context.routers["default"] else { throw Problem(500, "No router.") }
            let identity = Identity(user: head.value("user").map { $0.text })
            let principal = Principal(identity: identity, clientID: "", router: router)
            let request = try HTTPRequest(head, body: body, link: connection.link)
            let state = context.state(of: lane)
            if request.path == "/topics" { return try Queries.topics(request, principal, state, connection, on: lane) }
            let topic = Array(request.segments.dropFirst().joined(separator: "/").utf8)
            // It is borrowed until the turn is over, which nothing of it outlives.
            let copy = turn.makeScratch(topic.count)
            copy.copyMemory(from: topic, byteCount: topic.count)
            let bytes = UnsafeRawBufferPointer(start: copy, count: topic.count)
            switch request.method {
            case .get, .head: return try Queries.retained(bytes, request, principal, state, connection, on: lane)
            case .delete: return try Queries.clear(bytes, principal, state, connection, on: lane)
            default: return try publish(bytes, body, head, principal, connection, lane)
            }
        } catch {
            connection.respond(error)
            return .answered
        }
    }

    private func publish(
        _ topic: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer, _ head: RequestHead, _ principal: Principal,
        _ connection: HTTPConversation, _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        let headers = try EventHeaders(head)
        let state = context.state(of: lane)
        var ticket: IdempotencyTicket?
        if let key = headers.idempotencyKey {
            let verdict = try Idempotency.judge(
                key: key, method: head.method, target: head.target, body: body, principal, context.idempotency,
                now: lane.now)
            switch verdict {
            case .proceed(let made): ticket = made
            case .repeated(let response):
                connection.respond(response)
                return .answered
            }
        }
        if let wait = headers.replyWaitMilliseconds {
            let request = ReplyRequest(
                topic: topic, payload: body, properties: headers.properties, qos: headers.qos,
                isRetained: headers.isRetained, waitMilliseconds: wait, ticket: ticket)
            return try Replies.ask(request, principal, state, connection, on: lane)
        }
        let (properties, extensionLength) = headers.properties.finish()
        let event = properties.withUnsafeBytes {
            Event(
                topic: topic, properties: $0, payload: body, qos: headers.qos, isRetained: headers.isRetained,
                extensionLength: extensionLength)
        }
        let port = PublisherPort.of(principal.router, state, on: lane)
        let outcome = principal.router.publish(event, as: principal, publisher: port.address, on: lane)
        guard outcome.verdict == .routed else {
            ticket?.abandon()
            throw .forbidden("No.", principal, context)
        }
        return StoredAnswer.answer(outcome, id: Array("id".utf8), port, connection, ticket: ticket, on: lane)
    }

    func routed(_ turn: Turn, of connection: HTTPConversation, on lane: Lane) {}
}

/// Everybody is who he says.
private struct OpenDoor: Authenticator {
    func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? { .accepted(Identity(user: credentials.user)) }
}

/// A node with an HTTP and an MQTT listener, for as long as a test needs it.
final class RequestStage {
    let reactor: Reactor
    let router: Router
    private let site: RequestSite
    private let http: String
    private let mqtt: String

    init(lanes: Int = 1, rules: [AccessRule] = [], limits change: (inout Limits) -> Void = { _ in }) throws {
        var limits = Limits()
        change(&limits)
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        reactor = try Reactor(lanes: lanes, limits: limits, logger: logger)
        router = Router(limits: limits, accessRules: try AccessRules(rules), hashKey: UInt64.random(in: .min ... .max))
        site = RequestSite(router, HTTPLimits())
        let web = try Listener(
            try SocketAddress("127.0.0.1:0"),
            adapter: HTTPAdapter(site: site) { Int(Date().timeIntervalSince1970) })
        let broker = MQTTAdapter(routers: ["default": router], authenticator: OpenDoor()) {
            UInt64.random(in: .min ... .max)
        }
        let other = try Listener(try SocketAddress("127.0.0.1:0"), adapter: broker)
        reactor.listen(web)
        reactor.listen(other)
        (http, mqtt) = (web.address.description, other.address.description)
    }

    deinit { reactor.stop(drainMilliseconds: 500) }

    func client() throws -> RawClient { try RawClient(http, seconds: 20) }

    /// From now on the node is one of a mesh, of which nothing is heard.
    func joinMesh() {
        let router = router
        reactor.lanes.call(0) { router.attachMesh(Port(), on: $0) {} }
        _ = eventually { router.meshAddress != .none }
    }

    /// An MQTT client that has subscribed.
    func responder(_ filter: String, qos: UInt8 = 0, user: String = "responder") throws -> Responder {
        let made = try Responder(mqtt, user: user)
        try made.subscribe(filter, qos: qos)
        return made
    }

    /// What all lanes say, in their order.
    func gather<Answer: Sendable>(_ body: @escaping @Sendable (WebLane, Lane) -> Answer) -> [Answer] {
        let answers = Mutex<[Answer]>([])
        let done = DispatchSemaphore(value: 0)
        let context = site.context
        let boxed = Box(answers)
        reactor.lanes.gather {
            body(context.state(of: $0), $0)
        } then: { all in
            boxed.value.withLock { $0 = all }
            done.signal()
        }
        done.wait()
        return boxed.value.withLock { $0 }
    }

    func dropped(_ reason: DropReason) -> Int { Int(reactor.counters().dropped[reason.rawValue]) }

    /// Requests that wait for replies.
    var waiting: Int { gather { state, _ in state.replyPorts.reduce(0) { $0 + $1.count } }.reduce(0, +) }

    /// Waits for something that a connection's end brings about, of which nobody is told.
    func eventually(_ holds: () -> Bool) -> Bool {
        for _ in 0..<1_000 {
            if holds() { return true }
            usleep(5_000)
        }
        return false
    }

    private final class Box<Value: ~Copyable & Sendable>: Sendable {
        let value: Value
        init(_ value: consuming Value) { self.value = value }
    }
}

/// An MQTT 5 client that reads requests and answers them, byte by byte.
final class Responder {
    struct Request {
        var topic: String
        var payload: String
        var replyTo: String?
        var correlation: String?
        var packetID: Int?
    }

    private let client: RawClient
    /// What came while something else was waited for.
    private var requests: [Request] = []

    init(_ address: String, user: String, session: String? = nil) throws {
        client = try RawClient(address, seconds: 20)
        // CONNECT, version 5; a session that is kept for a minute, if it has a name.
        var body = Self.text("MQTT") + [5, session == nil ? 0x82 : 0x80, 0, 0]
        body += session == nil ? [0] : [5, 0x11, 0, 0, 0, 60]
        body += Self.text(session ?? "") + Self.text(user)
        try client.send(bytes: Self.packet(0x10, body))
        let answer = try packet()
        guard answer.type == 0x20, answer.body[1] == 0 else { throw Refused() }
    }

    struct Refused: Error {}

    func subscribe(_ filter: String, qos: UInt8) throws {
        try client.send(bytes: Self.packet(0x82, [0, 1, 0] + Self.text(filter) + [qos]))
        // Retained events may come before the answer.
        guard try packet(0x90).last == qos else { throw Refused() }
    }

    /// The next event that arrives.
    func request() throws -> Request {
        while requests.isEmpty {
            let (type, body) = try packet()
            if type & 0xF0 == 0x30 { requests.append(Self.parse(type, body)) }
        }
        return requests.removeFirst()
    }

    /// What came while something else was waited for.
    func takeAll() -> [Request] {
        defer { requests = [] }
        return requests
    }

    func reply(_ topic: String, _ payload: String, contentType: String? = nil, note: String? = nil) throws {
        var properties: [UInt8] = []
        if let contentType { properties += [0x03] + Self.text(contentType) }
        if let note { properties += [0x26] + Self.text("note") + Self.text(note) }
        let body = Self.text(topic) + Self.length(properties.count) + properties + Array(payload.utf8)
        try client.send(bytes: Self.packet(0x30, body))
    }

    /// Returns once the node has routed everything that was sent before.
    func ping() throws {
        try client.send(bytes: [0xC0, 0])
        _ = try packet(0xD0)
    }

    /// The next packet of a type; events before it are kept.
    private func packet(_ wanted: UInt8) throws -> [UInt8] {
        while true {
            let (type, body) = try packet()
            if type == wanted { return body }
            if type & 0xF0 == 0x30 { requests.append(Self.parse(type, body)) }
        }
    }

    private func packet() throws -> (type: UInt8, body: [UInt8]) {
        let type = try client.receive(1)[0]
        var (length, shift) = (0, 0)
        while true {
            let byte = try client.receive(1)[0]
            length |= Int(byte & 0x7F) << shift
            shift += 7
            if byte & 0x80 == 0 { break }
        }
        return (type, try client.receive(length))
    }

    private static func parse(_ type: UInt8, _ body: [UInt8]) -> Request {
        var rest = body[...]
        func take(_ count: Int) -> [UInt8] {
            defer { rest = rest.dropFirst(count) }
            return Array(rest.prefix(count))
        }
        func number(_ bytes: [UInt8]) -> Int { bytes.reduce(0) { $0 << 8 | Int($1) } }
        func text() -> String { String(decoding: take(number(take(2))), as: UTF8.self) }
        var request = Request(topic: text(), payload: "")
        if type & 0x06 != 0 { request.packetID = number(take(2)) }
        var left = 0
        var shift = 0
        while true {
            let byte = take(1)[0]
            left |= Int(byte & 0x7F) << shift
            shift += 7
            if byte & 0x80 == 0 { break }
        }
        let end = rest.count - left
        while rest.count > end {
            switch take(1)[0] {
            case 0x01: _ = take(1)
            case 0x02: _ = take(4)
            case 0x08: request.replyTo = text()
            case 0x09: request.correlation = text()
            case 0x26: (_, _) = (text(), text())
            default: _ = text()
            }
        }
        request.payload = String(decoding: rest, as: UTF8.self)
        return request
    }

    private static func text(_ text: String) -> [UInt8] {
        [UInt8(text.utf8.count >> 8), UInt8(text.utf8.count & 0xFF)] + Array(text.utf8)
    }

    private static func length(_ count: Int) -> [UInt8] {
        count < 128 ? [UInt8(count)] : [UInt8(count & 0x7F | 0x80)] + length(count >> 7)
    }

    private static func packet(_ type: UInt8, _ body: [UInt8]) -> [UInt8] { [type] + length(body.count) + body }
}

extension RawClient {
    /// Sends a request with a body.
    func ask(_ method: String, _ target: String, _ headers: String = "", _ body: String = "") throws {
        let length = body.isEmpty ? "" : "Content-Length: \(body.utf8.count)\n"
        let head = "\(method) \(target) HTTP/1.1\nHost: localhost\n\(headers)\(headers.isEmpty ? "" : "\n")\(length)\n"
        try send(bytes: Array(head.replacing("\n", with: "\r\n").utf8) + Array(body.utf8))
    }

    /// Sends a request and reads its answer.
    func get(_ method: String, _ target: String, _ headers: String = "", _ body: String = "") throws -> Answer {
        try ask(method, target, headers, body)
        return try answer(hasBody: method != "HEAD")
    }
}
