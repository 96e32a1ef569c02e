import COpenSSL
import Core
import Glibc
import Synchronization
import TLS

@testable import Reactor

/// Certificates in a folder, and doors made of them.
final class SecureGround {
    let files: TestCertificates
    let authority: TestCertificates.Certificate
    var settings: TLSSettings

    init(isRSA: Bool = false) throws {
        files = try TestCertificates()
        authority = try files.makeAuthority("Root")
        let server = try files.make("server.example", issuer: authority) {
            $0.names = "DNS:server.example,IP:127.0.0.1"
            $0.isRSA = isRSA
        }
        settings = TLSSettings(
            name: "test",
            certificates: [
                TLSSettings.Pair(
                    certificate: try files.write("server.pem", server.pem),
                    key: try files.write("server.key", server.keyPEM()))
            ])
        try files.write("ca.pem", authority.pem)
    }

    var caPath: String { "\(files.folder)/ca.pem" }

    func door() throws -> TLSDoor { try TLSDoor(settings, role: .server) }

    /// For dialling.
    func clientDoor() throws -> TLSDoor {
        var settings = TLSSettings(name: "dials", certificates: [])
        settings.peerAuthorities = caPath
        return try TLSDoor(settings, role: .client)
    }
}

/// A blocking client of a secured stage, which gives up after five seconds.
final class SecureClient {
    struct Failure: Error { let what: String }

    let socket: Int32
    let ssl: OpaquePointer
    private let context: OpaquePointer
    private var received: [UInt8] = []

    /// - Parameters:
    ///   - receiveBuffer: the kernel's buffer, to be a slow reader early.
    ///   - shakes: whether the handshake is made now.
    init(
        _ stage: Stage, certificate: TestCertificates.Certificate? = nil, version: Int32 = TLS1_3_VERSION,
        receiveBuffer: Int32 = 0, shakes: Bool = true
    ) throws {
        let address = stage.listener.address
        socket = Glibc.socket(address.family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var time = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        if receiveBuffer > 0 { Listener.set(socket, SOL_SOCKET, SO_RCVBUF, receiveBuffer) }
        if address.family != AF_UNIX { Listener.set(socket, Int32(IPPROTO_TCP), TCP_NODELAY, 1) }
        guard let context = SSL_CTX_new(TLS_client_method()), let ssl = SSL_new(context) else {
            throw Failure(what: "SSL_new")
        }
        (self.context, self.ssl) = (context, ssl)
        SSL_ctrl(ssl, SSL_CTRL_SET_MIN_PROTO_VERSION, Int(version), nil)
        SSL_ctrl(ssl, SSL_CTRL_SET_MAX_PROTO_VERSION, Int(version), nil)
        if let certificate {
            SSL_use_certificate(ssl, certificate.x509)
            SSL_use_PrivateKey(ssl, certificate.key)
        }
        SSL_set_fd(ssl, socket)
        guard address.withSystemAddress({ Glibc.connect(socket, $0, $1) }) == 0 else {
            throw Failure(what: "connect: \(String(cString: strerror(errno)))")
        }
        if shakes { try shakeHands() }
    }

    deinit {
        SSL_free(ssl)
        SSL_CTX_free(context)
        Glibc.close(socket)
    }

    func shakeHands() throws {
        ERR_clear_error()
        guard SSL_connect(ssl) == 1 else { throw failure("connect") }
    }

    private func failure(_ what: String) -> Failure {
        let reason = ERR_reason_error_string(ERR_get_error()).map { String(cString: $0) }
        return Failure(what: "\(what): \(reason ?? String(cString: strerror(errno)))")
    }

    func send(_ text: String) throws { try send(Array(text.utf8)) }

    func send(_ bytes: [UInt8]) throws {
        ERR_clear_error()
        guard SSL_write(ssl, bytes, Int32(bytes.count)) == bytes.count else { throw failure("write") }
    }

    /// - Returns: false at the end, which must have been said and not just come.
    private func readSome(_ pause: UInt32 = 0) throws -> Bool {
        if pause > 0 { usleep(pause) }
        ERR_clear_error()
        var buffer = [UInt8](repeating: 0, count: 1 << 14)
        let count = SSL_read(ssl, &buffer, Int32(buffer.count))
        if count > 0 {
            received += buffer[..<Int(count)]
            return true
        }
        guard SSL_get_error(ssl, count) == SSL_ERROR_ZERO_RETURN else { throw failure("read") }
        return false
    }

    /// The next line; nil at the end of the connection.
    func line() throws -> String? {
        while true {
            if let end = received.firstIndex(of: UInt8(ascii: "\n")) {
                defer { received.removeFirst(end + 1) }
                return String(decoding: received[..<end], as: UTF8.self)
            }
            guard try readSome() else { return nil }
        }
    }

    func lines(_ count: Int) throws -> [String?] { try (0..<count).map { _ in try line() } }

    /// Everything up to the end of the connection.
    func all(pausing: UInt32 = 0) throws -> [UInt8] {
        while try readSome(pausing) {}
        defer { received = [] }
        return received
    }

    func receive(_ count: Int) throws -> [UInt8] {
        while received.count < count { guard try readSome() else { throw Failure(what: "the connection ended") } }
        defer { received.removeFirst(count) }
        return Array(received[..<count])
    }

    /// Says goodbye and goes on reading.
    func finishWriting() { SSL_shutdown(ssl) }
}

/// Collects records.
final class AuditDiary: AuditSink {
    private let all = Mutex<[AuditRecord]>([])
    func record(_ record: AuditRecord) { all.withLock { $0.append(record) } }
    var records: [AuditRecord] { all.withLock { $0 } }
    var reasons: [String] { records.map(\.reason) }
}
