import COpenSSL
import Glibc
import Synchronization
import TestTLS

@testable import Bridge

/// How much of a flood the other side has taken.
final class FloodGauge: Sendable {
    private let count = Atomic<Int>(0)

    var bytes: Int { count.load(ordering: .relaxed) }

    func add(_ more: Int) { count.add(more, ordering: .relaxed) }

    /// Waits until nothing has gone out for a second, or more than this has.
    /// - Returns: the bytes that have.
    func settle(atMost most: Int) -> Int {
        var last = -1
        while last != bytes, bytes <= most {
            last = bytes
            usleep(1_000_000)
        }
        return bytes
    }
}

/// A fake broker's end of a connection, with TLS or without. One thread reads, another may write meanwhile.
final class FakeWire: Sendable {
    /// Who a broker is with TLS.
    final class Identity: Sendable {
        /// The context of OpenSSL, which is for any thread; for as long as the process is there.
        fileprivate let context: UInt

        init(_ certificate: TestCertificates.Certificate) {
            let context = SSL_CTX_new(TLS_server_method())
            SSL_CTX_use_certificate(context, certificate.x509)
            SSL_CTX_use_PrivateKey(context, certificate.key)
            self.context = UInt(bitPattern: context)
        }
    }

    private let descriptor: Int32
    /// A session of OpenSSL, which is for one thread at a time; 0 without TLS.
    private let session: Mutex<UInt>
    /// What is to be written, whole packets, by the thread that found nobody at it.
    private let queue = Mutex<(parts: [(bytes: [UInt8], gauge: FloodGauge?)], isBeingWritten: Bool)>(([], false))

    init?(_ descriptor: Int32, _ identity: Identity?) {
        self.descriptor = descriptor
        guard let identity else {
            session = Mutex(0)
            return
        }
        let ssl = SSL_new(OpaquePointer(bitPattern: identity.context))
        SSL_set_fd(ssl, descriptor)
        SSL_ctrl(ssl, SSL_CTRL_MODE, Int(SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER), nil)
        session = Mutex(UInt(bitPattern: ssl))
        guard SSL_accept(ssl) == 1 else { return nil }
        // From here on nothing waits within OpenSSL.
        _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
    }

    deinit {
        session.withLock { if $0 != 0 { SSL_free(OpaquePointer(bitPattern: $0)) } }
        close(descriptor)
    }

    func end() { shutdown(descriptor, Int32(SHUT_RDWR)) }

    /// Writes packets, after those that are being written.
    /// - Returns: false when the connection has ended.
    func write(_ bytes: [UInt8], _ gauge: FloodGauge? = nil) -> Bool {
        let isMine = queue.withLock { queue in
            queue.parts.append((bytes, gauge))
            defer { queue.isBeingWritten = true }
            return !queue.isBeingWritten
        }
        guard isMine else { return true }
        while let part = nextPart() {
            guard writeNow(part.bytes, part.gauge) else { return false }
        }
        return true
    }

    private func nextPart() -> (bytes: [UInt8], gauge: FloodGauge?)? {
        queue.withLock { queue in
            if queue.parts.isEmpty {
                queue.isBeingWritten = false
                return nil
            }
            return queue.parts.removeFirst()
        }
    }

    private func writeNow(_ bytes: [UInt8], _ gauge: FloodGauge?) -> Bool {
        bytes.withUnsafeBytes { bytes in
            var place = 0
            while place < bytes.count {
                let rest = UnsafeRawBufferPointer(rebasing: bytes[place...])
                let sent = session.withLock { number in
                    guard let ssl = OpaquePointer(bitPattern: number) else {
                        return send(
                            descriptor, rest.baseAddress, rest.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
                    }
                    ERR_clear_error()
                    return Int(SSL_write(ssl, rest.baseAddress, Int32(rest.count)))
                }
                if sent > 0 {
                    place += sent
                    gauge?.add(sent)
                } else if !wait(POLLOUT) {
                    return false
                }
            }
            return true
        }
    }

    /// - Returns: false when the connection has ended.
    private func wait(_ events: Int32) -> Bool {
        var ready = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        poll(&ready, 1, 1_000)
        return Int32(ready.revents) & (POLLHUP | POLLERR) == 0
    }

    private func read(_ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        var place = 0
        while place < count {
            let got = session.withLock { number in
                guard let ssl = OpaquePointer(bitPattern: number) else {
                    return recv(descriptor, &bytes[place], count - place, Int32(MSG_DONTWAIT))
                }
                ERR_clear_error()
                return Int(SSL_read(ssl, &bytes[place], Int32(count - place)))
            }
            if got > 0 { place += got } else if got == 0 || !wait(POLLIN) { return nil }
        }
        return bytes
    }

    /// The next packet; nil when the connection has ended.
    func readPacket() -> FakeBroker.Packet? {
        guard let first = read(1)?[0] else { return nil }
        var (length, shift) = (0, 0)
        while let digit = read(1)?[0] {
            length |= Int(digit & 127) << shift
            shift += 7
            if digit < 128 {
                guard let body = length == 0 ? [] : read(length) else { return nil }
                return FakeBroker.Packet(first: first, body: body)
            }
        }
        return nil
    }
}

/// An authority, and a broker's certificate of it.
struct FakeAuthority {
    private let certificates: TestCertificates
    let identity: FakeWire.Identity
    /// How a bridge knows it.
    let security: BridgeDefinition.Security

    init() throws {
        certificates = try TestCertificates()
        let authority = try certificates.makeAuthority("authority")
        identity = FakeWire.Identity(
            try certificates.make("broker", issuer: authority) { $0.names = "IP:127.0.0.1" })
        var security = BridgeDefinition.Security()
        security.authorities = try certificates.write("authority.pem", authority.pem)
        self.security = security
    }
}
