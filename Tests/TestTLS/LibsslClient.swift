import COpenSSL

/// One end of a connection in memory.
public protocol Wired: AnyObject {
    /// What it has to say since it was last asked.
    func takeOutput() -> [UInt8]
    /// Takes what the other end said.
    func take(_ bytes: [UInt8])
}

/// A plain libssl client, which does what it is told.
public final class LibsslClient: Wired {
    /// libssl's session.
    public let ssl: OpaquePointer
    private let context: OpaquePointer
    private let (input, output): (OpaquePointer?, OpaquePointer?)
    /// All data so far.
    public private(set) var received: [UInt8] = []
    /// libssl's words for what went wrong.
    public private(set) var failure: String?
    /// Whether the server has said goodbye.
    public private(set) var hasEnded = false

    /// What the client has and wants.
    public struct Options {
        /// Whom it trusts; nil for everybody.
        public var authority: TestCertificates.Certificate?
        /// Shown to the server.
        public var certificate: TestCertificates.Certificate?
        /// Sent after the certificate.
        public var chain: [TestCertificates.Certificate]
        /// Which it speaks.
        public var versions: ClosedRange<Int32>
        /// For ALPN.
        public var protocols: [String]
        /// For SNI.
        public var serverName: String?
        /// Whose session it resumes.
        public var resumed: LibsslClient?
        /// Suites of TLS 1.2.
        public var suites: String?

        /// What a client is like.
        public init(
            authority: TestCertificates.Certificate? = nil, certificate: TestCertificates.Certificate? = nil,
            chain: [TestCertificates.Certificate] = [],
            versions: ClosedRange<Int32>? = nil, protocols: [String] = [],
            serverName: String? = nil, resumed: LibsslClient? = nil, suites: String? = nil
        ) {
            self.authority = authority
            self.certificate = certificate
            self.chain = chain
            self.versions = versions ?? TLS1_2_VERSION...TLS1_3_VERSION
            self.protocols = protocols
            self.serverName = serverName
            self.resumed = resumed
            self.suites = suites
        }
    }

    /// Says hello.
    public init(_ options: Options) {
        context = SSL_CTX_new(TLS_client_method())
        SSL_CTX_set_security_level(context, 0)
        _ = apus_ssl_ctx_min_version(context, options.versions.lowerBound)
        SSL_CTX_ctrl(context, SSL_CTRL_SET_MAX_PROTO_VERSION, Int(options.versions.upperBound), nil)
        if let suites = options.suites { SSL_CTX_set_cipher_list(context, suites) }
        if let authority = options.authority {
            X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.x509)
            SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nil)
        }
        if let certificate = options.certificate {
            SSL_CTX_use_certificate(context, certificate.x509)
            SSL_CTX_use_PrivateKey(context, certificate.key)
            for link in options.chain { _ = apus_ssl_ctx_add_chain(context, link.x509) }
        }
        if !options.protocols.isEmpty {
            let wire = options.protocols.flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) }
            SSL_CTX_set_alpn_protos(context, wire, UInt32(wire.count))
        }
        ssl = SSL_new(context)
        (input, output) = (BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()))
        SSL_set_bio(ssl, input, output)
        SSL_set_connect_state(ssl)
        if let name = options.serverName { _ = apus_ssl_set_server_name(ssl, name) }
        if let old = options.resumed, let session = SSL_get1_session(old.ssl) {
            SSL_set_session(ssl, session)
            SSL_SESSION_free(session)
        }
        advance()
    }

    deinit {
        SSL_free(ssl)
        SSL_CTX_free(context)
    }

    /// The handshake is over and nothing went wrong.
    public var isOpen: Bool { SSL_is_init_finished(ssl) == 1 && failure == nil }
    /// Whether it resumed a session.
    public var isResumed: Bool { SSL_session_reused(ssl) == 1 }
    /// As `TLSv1.3`.
    public var version: String { String(cString: SSL_get_version(ssl)) }

    /// The common name of the server's certificate.
    public var serverCommonName: String? {
        guard let certificate = SSL_get0_peer_certificate(ssl) else { return nil }
        var text = [CChar](repeating: 0, count: 256)
        X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, &text, 256)
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Seals data.
    public func send(_ bytes: [UInt8]) {
        if !bytes.isEmpty, SSL_write(ssl, bytes, Int32(bytes.count)) <= 0 { note() }
    }

    /// Begins another handshake (TLS 1.2); a hello of more than 512 bytes goes into several records.
    /// - Returns: the records.
    public func renegotiate() -> [[UInt8]] {
        SSL_ctrl(ssl, SSL_CTRL_SET_MAX_SEND_FRAGMENT, 512, nil)
        SSL_renegotiate(ssl)
        SSL_do_handshake(ssl)
        var (records, rest) = ([[UInt8]](), takeOutput()[...])
        while let place = rest.indices.first {
            records.append(Array(rest.prefix(5 + Int(rest[place + 3]) << 8 + Int(rest[place + 4]))))
            rest = rest.dropFirst(records.last?.count ?? 0)
        }
        return records
    }

    /// Says goodbye.
    public func close() { SSL_shutdown(ssl) }

    /// What is to go over the wire.
    public func takeOutput() -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = BIO_read(output, &buffer, Int32(buffer.count))
        return Array(buffer.prefix(max(0, Int(count))))
    }

    /// Takes what came over the wire.
    public func take(_ bytes: [UInt8]) {
        BIO_write(input, bytes, Int32(bytes.count))
        advance()
    }

    /// Goes on with what there is.
    public func advance() {
        ERR_clear_error()
        if SSL_is_init_finished(ssl) == 0 {
            let status = SSL_do_handshake(ssl)
            if status != 1 { return note(status) }
        }
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = SSL_read(ssl, &buffer, Int32(buffer.count))
            guard count > 0 else { return note(count) }
            received += buffer[..<Int(count)]
        }
    }

    private func note(_ status: Int32 = -1) {
        let error = SSL_get_error(ssl, status)
        if error == SSL_ERROR_ZERO_RETURN { hasEnded = true }
        guard error == SSL_ERROR_SSL || error == SSL_ERROR_SYSCALL, failure == nil else { return }
        let code = ERR_get_error()
        failure = ERR_reason_error_string(code).map { String(cString: $0) } ?? "unknown"
    }
}
