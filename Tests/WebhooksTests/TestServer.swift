import Foundation
import Glibc

/// A blocking HTTP/1.1 server on a port of this machine, one thread for each connection: what webhooks deliver to.
final class TestServer: @unchecked Sendable {
    struct Request: Sendable {
        var target: String
        /// As received, in order.
        var fields: [(name: String, value: String)]
        var body: [UInt8]
        /// The head's bytes, as they came.
        var head: String
        /// The number of its connection.
        var connection: Int

        subscript(name: String) -> String? {
            fields.first { $0.name.lowercased() == name.lowercased() }?.value
        }
        var text: String { String(decoding: body, as: UTF8.self) }
    }

    enum Answer: Sendable {
        case status(Int, fields: [String] = [], body: String = "")
        /// Nothing, until the other side gives up.
        case silence
        /// The answer, once the server is told to go on.
        case held(Int)
    }

    struct Failure: Error { let what: String }

    let port: UInt16
    private let listener: Int32
    private let answer: @Sendable (Request, Int) -> Answer
    private let condition = NSCondition()
    private var requests: [Request] = []
    private var sockets: Set<Int32> = []
    private var connections = 0
    private var isReleased = false
    private var isStopped = false

    /// - Parameter answer: is given each request and its number, from 1.
    init(port: UInt16 = 0, _ answer: @escaping @Sendable (Request, Int) -> Answer) throws {
        self.answer = answer
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var one: Int32 = 1
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let listener = self.listener
        let status = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address -> Int32 in
                guard bind(listener, address, size) == 0, listen(listener, 512) == 0 else { return -1 }
                return getsockname(listener, address, &size)
            }
        }
        self.port = UInt16(bigEndian: address.sin_port)
        guard status == 0 else { throw Failure(what: "listen: \(String(cString: strerror(errno)))") }
        Thread.detachNewThread { [self] in accept() }
    }

    var url: String { "http://127.0.0.1:\(port)/hook" }

    /// Ends all connections, and the port is free.
    func stop() {
        condition.withLock {
            guard !isStopped else { return }
            isStopped = true
            shutdown(listener, Int32(SHUT_RDWR))
            close(listener)
            for socket in sockets { shutdown(socket, Int32(SHUT_RDWR)) }
            condition.broadcast()
        }
    }

    /// Lets held answers go.
    func release() {
        condition.withLock {
            isReleased = true
            condition.broadcast()
        }
    }

    var all: [Request] { condition.withLock { requests } }
    var connectionCount: Int { condition.withLock { connections } }

    /// Waits until so many requests have come.
    func wait(for count: Int, seconds: Double = 20) -> [Request] {
        let end = Date(timeIntervalSinceNow: seconds)
        return condition.withLock {
            while requests.count < count, condition.wait(until: end) {}
            return requests
        }
    }

    /// Whether all connections end in time.
    func isDeserted(seconds: Double = 10) -> Bool {
        let end = Date(timeIntervalSinceNow: seconds)
        return condition.withLock {
            while !sockets.isEmpty, condition.wait(until: end) {}
            return sockets.isEmpty
        }
    }

    private func accept() {
        while true {
            let socket = Glibc.accept(listener, nil, nil)
            guard socket >= 0 else { return }
            let number = condition.withLock { () -> Int in
                if isStopped { return 0 }
                sockets.insert(socket)
                connections += 1
                return connections
            }
            if number == 0 {
                close(socket)
                return
            }
            Thread.detachNewThread { [self] in
                serve(socket, number)
                condition.withLock {
                    sockets.remove(socket)
                    condition.broadcast()
                    close(socket)
                }
            }
        }
    }

    private func serve(_ socket: Int32, _ connection: Int) {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            guard let (request, length) = Self.request(bytes, connection) else {
                let count = recv(socket, &chunk, chunk.count, 0)
                guard count > 0 else { return }
                bytes += chunk[..<count]
                continue
            }
            bytes.removeFirst(length)
            let number = condition.withLock { () -> Int in
                requests.append(request)
                condition.broadcast()
                return requests.count
            }
            switch answer(request, number) {
            case .silence:
                // The other side's end is what ends this.
                while recv(socket, &chunk, chunk.count, 0) > 0 {}
                return
            case .held(let status):
                condition.withLock { while !isReleased, !isStopped { condition.wait() } }
                guard send(socket, status, [], "") else { return }
            case .status(let status, let fields, let body):
                guard send(socket, status, fields, body) else { return }
            }
        }
    }

    private func send(_ socket: Int32, _ status: Int, _ fields: [String], _ body: String) -> Bool {
        let lines = ["HTTP/1.1 \(status) Answer", "Content-Length: \(body.utf8.count)"] + fields
        let bytes = Array((lines.joined(separator: "\r\n") + "\r\n\r\n" + body).utf8)
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(socket, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return false }
            sent += count
        }
        return true
    }

    private static func request(_ bytes: [UInt8], _ connection: Int) -> (Request, Int)? {
        guard let end = bytes.firstRange(of: Array("\r\n\r\n".utf8)) else { return nil }
        let head = String(decoding: bytes[..<end.lowerBound], as: UTF8.self)
        let lines = head.components(separatedBy: "\r\n")
        var fields: [(String, String)] = []
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            fields.append((String(parts[0]), parts.count > 1 ? parts[1].trimmingCharacters(in: .whitespaces) : ""))
        }
        let length = fields.first { $0.0.lowercased() == "content-length" }.flatMap { Int($0.1) } ?? 0
        guard bytes.count >= end.upperBound + length else { return nil }
        let target = lines[0].split(separator: " ").dropFirst().first.map(String.init) ?? ""
        let body = Array(bytes[end.upperBound..<end.upperBound + length])
        return (
            Request(target: target, fields: fields, body: body, head: head, connection: connection),
            end.upperBound + length
        )
    }
}
