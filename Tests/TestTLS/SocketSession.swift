import COpenSSL

/// A client's session of libssl on a blocking socket.
public final class SocketSession {
    /// What went wrong.
    public struct Failure: Error {
        /// In libssl's words.
        public let what: String

        /// For those who use it.
        public init(what: String) { self.what = what }
    }

    /// The version that is spoken.
    public enum Version: Sendable, CaseIterable, Codable { case v12, v13 }

    private let ssl: OpaquePointer
    private let context: OpaquePointer

    /// Shakes hands.
    public init(socket: Int32, certificate: TestCertificates.Certificate?, version: Version) throws {
        guard let context = SSL_CTX_new(TLS_client_method()), let ssl = SSL_new(context) else {
            throw Failure(what: "SSL_new")
        }
        (self.context, self.ssl) = (context, ssl)
        let number = Int(version == .v12 ? TLS1_2_VERSION : TLS1_3_VERSION)
        SSL_ctrl(ssl, SSL_CTRL_SET_MIN_PROTO_VERSION, number, nil)
        SSL_ctrl(ssl, SSL_CTRL_SET_MAX_PROTO_VERSION, number, nil)
        if let certificate {
            SSL_use_certificate(ssl, certificate.x509)
            SSL_use_PrivateKey(ssl, certificate.key)
        }
        SSL_set_fd(ssl, socket)
        ERR_clear_error()
        guard SSL_connect(ssl) == 1 else { throw failure("connect") }
    }

    deinit {
        SSL_free(ssl)
        SSL_CTX_free(context)
    }

    private func failure(_ what: String) -> Failure {
        let reason = ERR_reason_error_string(ERR_get_error()).map { String(cString: $0) }
        return Failure(what: "\(what): \(reason ?? "the socket")")
    }

    /// Sends all of it.
    public func send(_ bytes: [UInt8]) throws {
        ERR_clear_error()
        guard SSL_write(ssl, bytes, Int32(bytes.count)) == bytes.count else { throw failure("write") }
    }

    /// What comes next; nil when the server has said goodbye.
    public func receive() throws -> [UInt8]? {
        ERR_clear_error()
        var buffer = [UInt8](repeating: 0, count: 1 << 14)
        let count = SSL_read(ssl, &buffer, Int32(buffer.count))
        if count > 0 { return Array(buffer[..<Int(count)]) }
        guard SSL_get_error(ssl, count) == SSL_ERROR_ZERO_RETURN else { throw failure("read") }
        return nil
    }

    /// Says goodbye.
    public func close() { SSL_shutdown(ssl) }

    /// What a client says first.
    public static func hello() -> [UInt8] { LibsslClient(.init()).takeOutput() }
}
