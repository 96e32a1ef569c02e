internal import COpenSSL
internal import Glibc

/// TLS on a socket, straight through libssl: what a program costs that does nothing else. For the load generator's side
/// and for the relay that the node is compared with.
final class TLSStream {
    /// What both sides of the bench agree on.
    final class Context {
        let pointer: OpaquePointer

        /// A server's, with a certificate and its key (PEM).
        init(certificate: String, key: String) throws {
            guard let made = SSL_CTX_new(TLS_server_method()) else { throw Failure("no context of TLS") }
            pointer = made
            guard SSL_CTX_use_certificate_chain_file(made, certificate) == 1,
                SSL_CTX_use_PrivateKey_file(made, key, SSL_FILETYPE_PEM) == 1
            else { throw Failure("TLS does not take \(certificate) with \(key)") }
            tune()
        }

        /// A client's, which trusts anybody.
        init() throws {
            guard let made = SSL_CTX_new(TLS_client_method()) else { throw Failure("no context of TLS") }
            pointer = made
            tune()
        }

        deinit { SSL_CTX_free(pointer) }

        private func tune() {
            // One system call brings whole records instead of their headers first.
            SSL_CTX_ctrl(pointer, SSL_CTRL_SET_READ_AHEAD, 1, nil)
            let modes = UInt64(SSL_MODE_ENABLE_PARTIAL_WRITE) | UInt64(SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
            SSL_CTX_ctrl(pointer, SSL_CTRL_MODE, Int(modes), nil)
        }

        func set(maximum version: Int32) { SSL_CTX_ctrl(pointer, SSL_CTRL_SET_MAX_PROTO_VERSION, Int(version), nil) }
    }

    let fd: Int32
    let ssl: OpaquePointer
    /// Bytes that were to be written and could not.
    private var unsent: [UInt8] = []
    private var unsentStart = 0

    /// Shakes hands, waiting; afterwards the socket is as it was.
    /// - Parameter resuming: a session to go on with.
    init(_ fd: Int32, _ context: Context, isServer: Bool, resuming: OpaquePointer? = nil) throws {
        guard let ssl = SSL_new(context.pointer) else { throw Failure("no state of TLS") }
        self.fd = fd
        self.ssl = ssl
        SSL_set_fd(ssl, fd)
        if let resuming { SSL_set_session(ssl, resuming) }
        while true {
            let result = isServer ? SSL_accept(ssl) : SSL_connect(ssl)
            if result == 1 { return }
            var waiting = pollfd(fd: fd, events: 0, revents: 0)
            switch SSL_get_error(ssl, result) {
            case SSL_ERROR_WANT_READ: waiting.events = Int16(POLLIN)
            case SSL_ERROR_WANT_WRITE: waiting.events = Int16(POLLOUT)
            default:
                let reason = ERR_reason_error_string(ERR_peek_last_error()).map { String(cString: $0) } ?? "ended"
                SSL_free(ssl)
                throw Failure("TLS handshake: \(reason)")
            }
            guard poll(&waiting, 1, 10_000) > 0 else { throw Failure("TLS handshake: no answer") }
        }
    }

    deinit { SSL_free(ssl) }

    /// Bytes read; 0 when there are none now; nil at the end.
    func read(_ buffer: UnsafeMutablePointer<UInt8>, _ room: Int) -> Int? {
        var total = 0
        while total < room {
            let count = SSL_read(ssl, buffer + total, Int32(room - total))
            if count > 0 {
                total += Int(count)
                continue
            }
            if SSL_get_error(ssl, count) == SSL_ERROR_WANT_READ { return total }
            return total > 0 ? total : nil
        }
        return total
    }

    var hasUnsent: Bool { unsentStart < unsent.count }

    /// Whether libssl holds bytes that the socket will not tell of.
    var hasPending: Bool { SSL_has_pending(ssl) == 1 }

    /// Writes what it can and keeps the rest.
    func write(_ bytes: UnsafePointer<UInt8>, _ count: Int) {
        var sent = 0
        if !hasUnsent { sent = push(bytes, count) }
        if sent < count { unsent.append(contentsOf: UnsafeBufferPointer(start: bytes + sent, count: count - sent)) }
    }

    /// Goes on with the rest.
    func flush() {
        guard hasUnsent else { return }
        unsentStart += unsent.withUnsafeBufferPointer { all in
            all.baseAddress.map { push($0 + unsentStart, all.count - unsentStart) } ?? 0
        }
        if !hasUnsent {
            unsent.removeAll(keepingCapacity: true)
            unsentStart = 0
        }
    }

    private func push(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int {
        var sent = 0
        while sent < count {
            let result = SSL_write(ssl, bytes + sent, Int32(count - sent))
            guard result > 0 else { break }
            sent += Int(result)
        }
        return sent
    }
}
