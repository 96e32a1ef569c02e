import Glibc
import Synchronization
import TestTLS

/// A broker of MQTT, on a thread of its own: it says yes to everything, or what a test lets it say, and tells what it
/// was sent.
final class FakeBroker: Sendable {
    struct Packet: Sendable, Equatable {
        var first: UInt8
        var body: [UInt8]

        var qos: UInt8 { first >> 1 & 3 }
        /// The number of PUBLISH with QoS 1 or 2, SUBSCRIBE and answers.
        var identifier: [UInt8] {
            let place = first & 0xF0 == 0x30 ? 2 + (Int(body[0]) << 8 | Int(body[1])) : 0
            return Array(body[place..<place + 2])
        }
        /// Of PUBLISH of MQTT 5 with less than 128 bytes of properties.
        var payload: String {
            let place = 2 + (Int(body[0]) << 8 | Int(body[1])) + (qos > 0 ? 2 : 0)
            return String(decoding: body[(place + 1 + Int(body[place]))...], as: UTF8.self)
        }
    }

    /// What a broker says to a packet that came with its n-th connection, the first being 1; nil for yes.
    typealias Answer = @Sendable (Packet, Int) -> [UInt8]?

    private struct State {
        var packets: [Packet] = []
        var wire: FakeWire?
        var connections = 0
        var isStopped = false
    }

    let port: UInt16
    private let listener: Int32
    private let certificate: FakeWire.Identity?
    private let answer: Answer
    private let state = Mutex(State())

    /// - Parameter certificate: for TLS.
    init(certificate: FakeWire.Identity? = nil, answer: @escaping Answer = { _, _ in nil }) {
        self.certificate = certificate
        self.answer = answer
        // What OpenSSL does to a connection that is gone must not end the tests.
        signal(SIGPIPE, SIG_IGN)
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutableBytes(of: &address) { bytes in
            guard let base = bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self) else { return }
            bind(listener, base, size)
            listen(listener, 8)
            getsockname(listener, base, &size)
        }
        self.listener = listener
        port = UInt16(bigEndian: address.sin_port)
        start { [self] in serve() }
    }

    /// From now on every connection ends at once. The port stays taken for as long as the process is there: a bridge
    /// of one test that tries again must not come to the broker of another.
    func stop() {
        state.withLock { state in
            state.isStopped = true
            return state.wire
        }?.end()
    }

    /// Ends the connection.
    func drop() { state.withLock { $0.wire }?.end() }

    var packets: [Packet] { state.withLock { $0.packets } }
    var connections: Int { state.withLock { $0.connections } }

    /// Packets of a kind.
    func packets(_ first: UInt8) -> [Packet] { packets.filter { $0.first & 0xF0 == first & 0xF0 } }

    /// Waits for a packet of a kind, ten seconds at most.
    func wait(for first: UInt8, count: Int = 1) -> [Packet] {
        for _ in 0..<2_000 {
            let found = packets(first)
            if found.count >= count { return found }
            usleep(5_000)
        }
        return packets(first)
    }

    /// Sends all of it, or as much as the connection takes before it ends.
    func send(_ bytes: [UInt8]) { _ = state.withLock { $0.wire }?.write(bytes) }

    /// Sends on a thread of its own.
    /// - Parameter times: how often; nil for as long as the connection is there.
    /// - Returns: how many bytes have been sent.
    func flood(_ bytes: [UInt8], times: Int? = nil) -> FloodGauge {
        let gauge = FloodGauge()
        guard let wire = state.withLock({ $0.wire }) else { return gauge }
        start {
            var round = 0
            while round < times ?? .max, wire.write(bytes, gauge) { round += 1 }
        }
        return gauge
    }

    /// PUBLISH of MQTT 5.
    static func publish(
        _ topic: String, _ payload: [UInt8], qos: UInt8, identifier: UInt8 = 1, properties: [UInt8] = []
    ) -> [UInt8] {
        var body: [UInt8] = [0, UInt8(topic.utf8.count)] + Array(topic.utf8)
        if qos > 0 { body += [0, identifier] }
        body += length(properties.count) + properties + payload
        return [0x30 | qos << 1] + length(body.count) + body
    }

    private static func length(_ count: Int) -> [UInt8] {
        var (rest, bytes) = (count, [UInt8]())
        repeat {
            bytes.append(UInt8(rest & 127) | (rest > 127 ? 128 : 0))
            rest >>= 7
        } while rest > 0
        return bytes
    }

    private func serve() {
        while true {
            let descriptor = accept(listener, nil, nil)
            guard descriptor >= 0 else { break }
            guard !state.withLock({ $0.isStopped }) else {
                close(descriptor)
                continue
            }
            guard let wire = FakeWire(descriptor, certificate) else { continue }
            let connection = state.withLock { state in
                state.wire = wire
                state.connections += 1
                return state.connections
            }
            while let packet = wire.readPacket() {
                state.withLock { $0.packets.append(packet) }
                _ = wire.write(answer(packet, connection) ?? Self.yes(packet))
            }
            wire.end()
        }
        close(listener)
    }

    private static func yes(_ packet: Packet) -> [UInt8] {
        switch packet.first & 0xF0 {
        case 0x10: [0x20, 3, 0, 0, 0]
        case 0x80: [0x90, 4] + packet.identifier + [0, 2]
        case 0x30 where packet.qos == 1: [0x40, 2] + packet.identifier
        case 0x30 where packet.qos == 2: [0x50, 2] + packet.identifier
        case 0x60: [0x70, 2] + packet.identifier
        case 0xC0: [0xD0, 0]
        default: []
        }
    }

    private func start(_ body: @escaping @Sendable () -> Void) {
        final class Box: Sendable {
            let body: @Sendable () -> Void
            init(_ body: @escaping @Sendable () -> Void) { self.body = body }
        }
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { argument in
                if let argument { Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body() }
                return nil
            }, Unmanaged.passRetained(Box(body)).toOpaque())
        pthread_detach(thread)
    }
}
