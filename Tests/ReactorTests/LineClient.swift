import Glibc
@testable import Reactor

/// A blocking client of the line protocol.
final class LineClient {
    let socket: Int32
    private var buffer: [UInt8] = []

    init(_ address: String) throws {
        socket = try Self.connect(address)
        var patience = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(socket) }

    struct Failure: Error { let text: String }

    private static func connect(_ text: String) throws -> Int32 {
        let address = try SocketAddress(text)
        let socket = Glibc.socket(address.family, Int32(SOCK_STREAM.rawValue), 0)
        let status = address.withSystemAddress { Glibc.connect(socket, $0, $1) }
        guard status == 0 else { throw Failure(text: "connect \(text): \(errno)") }
        return socket
    }

    func send(_ text: String) {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let sent = rest.withUnsafeBytes { Glibc.send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if sent <= 0 { return }
            rest = rest.dropFirst(sent)
        }
    }

    /// The next line, without its end; nil when the node closed or said nothing for ten seconds.
    func line() -> String? {
        var searched = 0
        while true {
            if let end = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                defer { buffer.removeFirst(end + 1) }
                return String(decoding: buffer[..<end], as: UTF8.self)
            }
            searched = buffer.count
            var chunk = [UInt8](repeating: 0, count: 65_536)
            let count = recv(socket, &chunk, chunk.count, 0)
            if count <= 0 { return nil }
            buffer += chunk[..<count]
        }
    }

    /// Subscribes, and returns when the subscription holds: the answer to an unknown word comes after it.
    func subscribe(_ filter: String) {
        send("SUB \(filter)\nsync\n")
        while let line = line(), line != "ERR" {}
    }
}
