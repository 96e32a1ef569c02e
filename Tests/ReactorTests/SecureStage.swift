import Core
import Glibc
import Synchronization
import TLS
import TestTLS

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
    let socket: Int32
    private let session: SocketSession
    private var received: [UInt8] = []

    typealias Failure = SocketSession.Failure

    /// - Parameter receiveBuffer: the kernel's buffer, to be a slow reader early.
    init(
        _ stage: Stage, certificate: TestCertificates.Certificate? = nil, version: SocketSession.Version = .v13,
        receiveBuffer: Int32 = 0
    ) throws {
        // The plain client makes the connection; what is said on it is the session's.
        let plain = try Client(stage, receiveBuffer: receiveBuffer)
        socket = dup(plain.socket)
        session = try SocketSession(socket: socket, certificate: certificate, version: version)
    }

    deinit { Glibc.close(socket) }

    func send(_ text: String) throws { try session.send(Array(text.utf8)) }

    /// - Returns: false at the end, which must have been said and not just come.
    private func readSome(_ pause: UInt32 = 0) throws -> Bool {
        if pause > 0 { usleep(pause) }
        guard let bytes = try session.receive() else { return false }
        received += bytes
        return true
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
    func finishWriting() { session.close() }
}

/// Collects records.
final class AuditDiary: AuditSink {
    private let all = Mutex<[AuditRecord]>([])
    func record(_ record: AuditRecord) { all.withLock { $0.append(record) } }
    var records: [AuditRecord] { all.withLock { $0 } }
    var reasons: [String] { records.map(\.reason) }
}
