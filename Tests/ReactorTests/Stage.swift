import CLinux
import Core
import Glibc
import Logging
import TLS
import Testing

@testable import Reactor

/// A reactor with one adapter on one listener, for as long as a test needs it.
final class Stage {
    let reactor: Reactor
    let listener: Listener
    let router: Router

    init(
        _ address: String = "127.0.0.1:0", lanes: Int = 1, limits: Limits = Limits(),
        door: TLSDoor? = nil, audit: (any AuditSink)? = nil, admission: Admission? = nil,
        logger: Logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
        adapter: ((Router) -> any Adapter)? = nil
    ) throws {
        router = Router(limits: limits, hashKey: 42)
        listener = try Listener(
            SocketAddress(address), adapter: adapter?(router) ?? LineAdapter(router: router), name: "stage", door: door,
            admission: admission)
        reactor = try Reactor(lanes: lanes, limits: limits, logger: logger)
        if let audit { reactor.setAudit(audit) }
        reactor.listen(listener)
    }

    deinit { reactor.stop(drainMilliseconds: 100) }

    func dropped(_ reason: DropReason) -> UInt64 { reactor.counters().dropped[reason.rawValue] }
    func closed(_ reason: CloseReason) -> UInt64 { reactor.counters().closed[reason.rawValue] }

    /// Waits until every connection has ended.
    func isDeserted() -> Bool { eventually { self.reactor.lanes.connectionCount == 0 } }
}

/// Looks again until it holds or five seconds are over.
func eventually(_ condition: () -> Bool) -> Bool {
    for _ in 0..<1_000 {
        if condition() { return true }
        usleep(5_000)
    }
    return condition()
}

/// A blocking client of the line protocol, which gives up after five seconds.
final class Client {
    let socket: Int32
    private var received: [UInt8] = []
    private var taken = 0

    struct Failure: Error { let what: String }

    /// - Parameters:
    ///   - receiveBuffer: the kernel's buffer, to be a slow reader early.
    ///   - from: the address to connect from.
    init(_ stage: Stage, receiveBuffer: Int32 = 0, from: String? = nil) throws {
        let address = stage.listener.address
        socket = Glibc.socket(address.family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var time = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        if receiveBuffer > 0 { Listener.set(socket, SOL_SOCKET, SO_RCVBUF, receiveBuffer) }
        if address.family != AF_UNIX { Listener.set(socket, Int32(IPPROTO_TCP), TCP_NODELAY, 1) }
        if let from {
            let own = try SocketAddress(from)
            guard own.withSystemAddress({ Glibc.bind(socket, $0, $1) }) == 0 else {
                throw Failure(what: "bind: \(String(cString: strerror(errno)))")
            }
        }
        try connect(address)
    }

    private func connect(_ address: SocketAddress) throws {
        guard address.withSystemAddress({ Glibc.connect(socket, $0, $1) }) == 0 else {
            throw Failure(what: "connect: \(String(cString: strerror(errno)))")
        }
    }

    deinit { Glibc.close(socket) }

    func send(_ text: String) throws { try send(Array(text.utf8)) }

    func send(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(socket, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw Failure(what: "send: \(String(cString: strerror(errno)))") }
            sent += count
        }
    }

    /// The next line; nil at the end of the connection.
    func line() throws -> String? {
        var looked = taken
        while true {
            if let end = received[looked...].firstIndex(of: UInt8(ascii: "\n")) {
                defer { taken = end + 1 }
                return String(decoding: received[taken..<end], as: UTF8.self)
            }
            if taken > 0 {
                received.removeFirst(taken)
                taken = 0
            }
            looked = received.count
            var buffer = [UInt8](repeating: 0, count: 1 << 18)
            let count = recv(socket, &buffer, buffer.count, 0)
            if count == 0 || count < 0 && errno == ECONNRESET { return nil }
            guard count > 0 else { throw Failure(what: "recv: \(String(cString: strerror(errno)))") }
            received.append(contentsOf: buffer[..<count])
        }
    }

    /// Everything up to the end of the connection; a reset is a failure.
    /// - Parameter pausing: microseconds between reads, to be a slow reader.
    func all(pausing: UInt32 = 0) throws -> [UInt8] {
        while try readSome(pausing) {}
        defer { received = [] }
        return received
    }

    /// So many bytes.
    func receive(_ count: Int) throws -> [UInt8] {
        while received.count < count { guard try readSome(0) else { throw Failure(what: "the connection ended") } }
        defer { received.removeFirst(count) }
        return Array(received[..<count])
    }

    private func readSome(_ pause: UInt32) throws -> Bool {
        if pause > 0 { usleep(pause) }
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = recv(socket, &buffer, buffer.count, 0)
        guard count >= 0 else { throw Failure(what: "recv: \(String(cString: strerror(errno)))") }
        received.append(contentsOf: buffer[..<count])
        return count > 0
    }

    func lines(_ count: Int) throws -> [String?] { try (0..<count).map { _ in try line() } }

    /// Subscribes and waits for the answer.
    func subscribe(_ filter: String) throws {
        try send("SUB \(filter)\n")
        let answer = try line()
        guard answer == "OK" else { throw Failure(what: "SUB \(filter): \(answer ?? "end")") }
    }

    func finishWriting() { shutdown(socket, Int32(SHUT_WR)) }

    /// Makes the close a reset.
    func willReset() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<Glibc.linger>.size))
    }
}

/// All tests with sockets run one after another: they measure time and memory.
@Suite("Real sockets", .serialized) enum Sockets {}
