import Core
import Glibc
import Logging
import MQTT
import Synchronization
import Testing

@testable import Admin
@testable import Reactor

/// Lets everybody in, under the user name given.
private final class OpenDoor: Authenticator {
    func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? { .accepted(Identity(user: credentials.user)) }
}

/// A reactor that speaks MQTT, with its statistics, for as long as a test needs it.
final class RunningNode {
    let router: Router
    let reactor: Reactor
    let listener: Listener
    let source: StatisticsSource

    init(lanes: Int = 2, limits: Limits = Limits(), rules: AccessRules = .none) throws {
        router = Router(limits: limits, accessRules: rules, hashKey: 42)
        let adapter = MQTTAdapter(
            routers: ["default": router], authenticator: OpenDoor(), random: { UInt64.random(in: .min ... .max) })
        listener = try Listener(SocketAddress("127.0.0.1:0"), adapter: adapter)
        reactor = try Reactor(
            lanes: lanes, limits: limits, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        source = StatisticsSource(
            name: "test \"node\"", version: "1.2.3", protocols: ["mqtt"], lanes: reactor.lanes, router: router)
        reactor.listen(listener)
    }

    deinit { reactor.stop(drainMilliseconds: 100) }

    /// What the node says of itself, asked for as the management side does.
    func statistics() async -> NodeStatistics {
        await withCheckedContinuation { continuation in source.gather { continuation.resume(returning: $0) } }
    }

    func metrics() async throws -> ParsedMetrics { try ParsedMetrics(Metrics.prometheus(await statistics())) }

    /// Asks again until it holds or five seconds are over.
    func metrics(until condition: (ParsedMetrics) -> Bool) async throws -> ParsedMetrics {
        var metrics = try await metrics()
        for _ in 0..<500 where !condition(metrics) {
            try await Task.sleep(for: .milliseconds(10))
            metrics = try await self.metrics()
        }
        return metrics
    }
}

/// A blocking MQTT 3.1.1 client, which gives up after five seconds.
final class Client {
    struct Failure: Error { var what: String }

    private let socket: Int32
    private var received: [UInt8] = []

    init(_ node: RunningNode, _ clientID: String, clean: Bool = true, user: String? = nil) throws {
        let address = node.listener.address
        socket = Glibc.socket(address.family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var time = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        guard address.withSystemAddress({ Glibc.connect(socket, $0, $1) }) == 0 else {
            throw Failure(what: "connect: \(String(cString: strerror(errno)))")
        }
        let flags: UInt8 = (clean ? 2 : 0) | (user == nil ? 0 : 0x80)
        try send(0x10, text("MQTT") + [4, flags, 0, 0] + text(clientID) + (user.map { text($0) } ?? []))
        guard try packet().first == 0x20 else { throw Failure(what: "no CONNACK") }
    }

    deinit { Glibc.close(socket) }

    private func text(_ text: String) -> [UInt8] {
        [UInt8(text.utf8.count >> 8), UInt8(text.utf8.count & 0xFF)] + text.utf8
    }

    private func send(_ first: UInt8, _ body: [UInt8]) throws {
        // Nothing here is longer than one byte of length says.
        let bytes = [first, UInt8(body.count)] + body
        guard body.count < 128, Glibc.send(socket, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else {
            throw Failure(what: "send: \(String(cString: strerror(errno)))")
        }
    }

    /// The next packet, its first byte and its body.
    func packet() throws -> [UInt8] {
        while true {
            if received.count >= 2, received.count >= 2 + Int(received[1]) {
                defer { received.removeFirst(2 + Int(received[1])) }
                return [received[0]] + received[2..<2 + Int(received[1])]
            }
            var buffer = [UInt8](repeating: 0, count: 65_536)
            let count = recv(socket, &buffer, buffer.count, 0)
            guard count > 0 else { throw Failure(what: "recv: \(count) \(String(cString: strerror(errno)))") }
            received += buffer[..<count]
        }
    }

    /// Subscribes and returns the code of the answer.
    @discardableResult
    func subscribe(_ filter: String, qos: UInt8 = 0) throws -> UInt8 {
        try send(0x82, [0, 1] + text(filter) + [qos])
        let answer = try packet()
        guard answer.count == 4, answer[0] == 0x90 else { throw Failure(what: "no SUBACK: \(answer)") }
        return answer[3]
    }

    func publish(_ topic: String, _ payload: String, qos: UInt8 = 0, id: UInt8 = 1, retain: Bool = false) throws {
        try send(0x30 | qos << 1 | (retain ? 1 : 0), text(topic) + (qos > 0 ? [0, id] : []) + payload.utf8)
        if qos > 0 { while try packet().first != 0x40 {} }
    }

    /// The next event at QoS 0.
    func event() throws -> (topic: String, payload: String, isRetained: Bool) {
        let packet = try packet()
        guard packet[0] & 0xF6 == 0x30 else { throw Failure(what: "no event: \(packet)") }
        let length = Int(packet[1]) << 8 | Int(packet[2])
        return (
            String(decoding: packet[3..<3 + length], as: UTF8.self),
            String(decoding: packet[(3 + length)...], as: UTF8.self), packet[0] & 1 == 1
        )
    }

    func disconnect() throws { try send(0xE0, []) }
}
