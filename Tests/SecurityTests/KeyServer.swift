import Dispatch
import Glibc
import Synchronization
import Security
import Testing

/// An HTTP server on loopback that gives each request the answer that the test has set.
final class KeyServer: Sendable {
    private let listening: Int32
    let port: UInt16
    private let answer = Mutex("")
    private let count = Mutex(0)
    private let done = DispatchSemaphore(value: 0)

    init() throws {
        listening = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = listening
        let isListening = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length) == 0 && listen(descriptor, 16) == 0
                    && getsockname(descriptor, $0, &length) == 0
            }
        }
        try #require(isListening)
        port = UInt16(bigEndian: address.sin_port)
        DispatchQueue(label: "key server").async { self.serve() }
    }

    /// Requests so far.
    var requests: Int { count.withLock { $0 } }
    var url: String { "http://127.0.0.1:\(port)/keys" }

    func set(_ body: String, status: String = "200 OK", fields: String = "") {
        answer.withLock {
            $0 = "HTTP/1.1 \(status)\r\nContent-Length: \(body.utf8.count)\r\nConnection: close\r\n\(fields)\r\n\(body)"
        }
    }

    /// Accepts, but says nothing.
    func hang() { answer.withLock { $0 = "" } }

    func stop() {
        shutdown(listening, Int32(SHUT_RDWR))
        _ = done.wait(timeout: .now() + 10)
        close(listening)
    }

    private func serve() {
        var held: [Int32] = []
        while true {
            let connection = accept(listening, nil, nil)
            if connection < 0 { break }
            count.withLock { $0 += 1 }
            var request = [UInt8](repeating: 0, count: 4_096)
            var text = ""
            while !text.contains("\r\n\r\n") {
                let count = read(connection, &request, request.count)
                if count <= 0 { break }
                text += String(decoding: request[..<count], as: UTF8.self)
            }
            let bytes = Array(answer.withLock { $0 }.utf8)
            guard !bytes.isEmpty else {
                held.append(connection)
                continue
            }
            _ = send(connection, bytes, bytes.count, Int32(MSG_NOSIGNAL))
            close(connection)
        }
        for connection in held { close(connection) }
        done.signal()
    }
}

/// Keeps what is told of keys, and waits for it.
final class Notices: Sendable {
    private let notices = Mutex<[KeyNotice]>([])
    private let arrived = DispatchSemaphore(value: 0)

    func put(_ notice: KeyNotice) {
        notices.withLock { $0.append(notice) }
        arrived.signal()
    }

    /// The next notice, if it comes within ten seconds.
    func next() -> KeyNotice? {
        guard arrived.wait(timeout: .now() + 10) == .success else { return nil }
        return notices.withLock { $0.isEmpty ? nil : $0.removeFirst() }
    }
}
