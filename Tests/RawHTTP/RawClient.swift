import Glibc

/// A blocking client that sends bytes as they are and reads answers, giving up after five seconds.
public final class RawClient {
    /// What did not go as it should.
    public struct Failure: Error { let what: String }

    /// One answer.
    public struct Answer: Equatable, Sendable {
        /// The status code.
        public var status: Int
        /// By lower-case name.
        public var headers: [String: String]
        /// The body as text.
        public var body: String
    }

    private let socket: Int32
    private var received: [UInt8] = []
    private var hasEnded = false

    /// Connects to `127.0.0.1:1234` or `unix:/path`.
    public init(_ address: String, seconds: Int = 5) throws {
        if address.hasPrefix("unix:") {
            socket = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            var path = sockaddr_un()
            path.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &path.sun_path) { $0.copyBytes(from: address.dropFirst(5).utf8) }
            try connect(&path, MemoryLayout<sockaddr_un>.size)
        } else {
            socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            var place = sockaddr_in()
            place.sin_family = sa_family_t(AF_INET)
            place.sin_port = UInt16(address.split(separator: ":").last ?? "")?.bigEndian ?? 0
            place.sin_addr.s_addr = inet_addr("127.0.0.1")
            try connect(&place, MemoryLayout<sockaddr_in>.size)
        }
        var time = timeval(tv_sec: seconds, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }

    private func connect<Address>(_ address: inout Address, _ size: Int) throws {
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { Glibc.connect(socket, $0, socklen_t(size)) }
        }
        guard status == 0 else { throw Failure(what: "connect: \(String(cString: strerror(errno)))") }
    }

    deinit { close(socket) }

    /// Sends a text in which a newline stands for CR LF.
    public func send(_ text: String) throws {
        try send(bytes: Array(text.replacing("\n", with: "\r\n").utf8))
    }

    /// Sends bytes.
    public func send(bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(socket, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw Failure(what: "send: \(String(cString: strerror(errno)))") }
            sent += count
        }
    }

    /// The connection will be reset, as by a client that has crashed, when this object goes.
    public func resetAtTheEnd() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<Glibc.linger>.size))
    }

    /// No more will be sent.
    public func finish() { shutdown(socket, Int32(SHUT_WR)) }

    /// Reads one answer; its body is as long as `Content-Length` says, unless there is none.
    public func answer(hasBody: Bool = true) throws -> Answer {
        while end(of: "\r\n\r\n") == nil { try readSome() }
        let headLength = end(of: "\r\n\r\n") ?? 0
        let lines = String(decoding: received[..<headLength], as: UTF8.self).split(separator: "\r\n")
        received.removeFirst(headLength)
        var answer = Answer(status: Int(lines[0].split(separator: " ")[1]) ?? 0, headers: [:], body: "")
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            answer.headers[parts[0].lowercased()] = String(parts[1].drop { $0 == " " })
        }
        let length = hasBody ? answer.headers["content-length"].flatMap { Int($0) } ?? 0 : 0
        while received.count < length { try readSome() }
        answer.body = String(decoding: received[..<length], as: UTF8.self)
        received.removeFirst(length)
        return answer
    }

    /// Whether the server ends the connection without a further byte.
    public func isEnded() throws -> Bool {
        guard received.isEmpty else { return false }
        var byte: UInt8 = 0
        let count = recv(socket, &byte, 1, 0)
        if count < 0, errno == EAGAIN { throw Failure(what: "neither an answer nor the end came") }
        return count <= 0
    }

    /// Reads so many bytes.
    public func receive(_ count: Int) throws -> [UInt8] {
        while received.count < count { try readSome() }
        defer { received.removeFirst(count) }
        return Array(received[..<count])
    }

    /// Reads what there is, at least a byte; nothing at the end of the connection.
    public func receiveSome() throws -> [UInt8] {
        if received.isEmpty {
            do { try readSome() } catch let failure { if !hasEnded { throw failure } }
        }
        defer { received = [] }
        return received
    }

    private func end(of mark: String) -> Int? {
        received.firstRange(of: Array(mark.utf8)).map(\.upperBound)
    }

    private func readSome() throws {
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        let count = recv(socket, &chunk, chunk.count, 0)
        hasEnded = count == 0 || count < 0 && errno == ECONNRESET
        if count == 0 { throw Failure(what: "the connection ended") }
        guard count > 0 else { throw Failure(what: "recv: \(String(cString: strerror(errno)))") }
        received += chunk[..<count]
    }
}
