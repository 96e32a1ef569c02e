import COpenSSL
import TLS

/// One end of a connection in memory.
protocol Wired: AnyObject {
    /// What it has to say since it was last asked.
    func takeOutput() -> [UInt8]
    /// Takes what the other end said.
    func take(_ bytes: [UInt8])
}

/// A plain libssl client, which does what it is told.
final class LibsslClient: Wired {
    let ssl: OpaquePointer
    let context: OpaquePointer
    private let (input, output): (OpaquePointer?, OpaquePointer?)
    private(set) var received: [UInt8] = []
    private(set) var failure: String?
    private(set) var hasEnded = false
    private var session: OpaquePointer?

    /// What the client has and wants.
    struct Options {
        var authority: TestCertificates.Certificate?
        var certificate: TestCertificates.Certificate?
        /// Sent after the certificate.
        var chain: [TestCertificates.Certificate] = []
        var versions: ClosedRange<Int32> = TLS1_2_VERSION...TLS1_3_VERSION
        var protocols: [String] = []
        var serverName: String?
        var resumed: LibsslClient?
        var suites: String?
    }

    init(_ options: Options) {
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

    var isOpen: Bool { SSL_is_init_finished(ssl) == 1 && failure == nil }
    var isResumed: Bool { SSL_session_reused(ssl) == 1 }
    var version: String { String(cString: SSL_get_version(ssl)) }

    /// The common name of the server's certificate.
    var serverCommonName: String? {
        guard let certificate = SSL_get0_peer_certificate(ssl) else { return nil }
        var text = [CChar](repeating: 0, count: 256)
        X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, &text, 256)
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    func send(_ bytes: [UInt8]) {
        if !bytes.isEmpty, SSL_write(ssl, bytes, Int32(bytes.count)) <= 0 { note() }
    }

    func close() { SSL_shutdown(ssl) }

    func takeOutput() -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = BIO_read(output, &buffer, Int32(buffer.count))
        return Array(buffer.prefix(max(0, Int(count))))
    }

    func take(_ bytes: [UInt8]) {
        BIO_write(input, bytes, Int32(bytes.count))
        advance()
    }

    func advance() {
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

/// A session of ours.
final class OurEnd: Wired {
    let session: TLSSession
    private(set) var received: [UInt8] = []
    private var said: [UInt8] = []
    private static let room = 1 << 17

    init(_ door: TLSDoor, serverName: String? = nil) throws {
        session = try TLSSession(door, serverName: serverName)
        run { session.start(&$0) }
    }

    private func run(_ body: (inout TLSOutput) -> Void) {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: Self.room, alignment: 16)
        defer { memory.deallocate() }
        var output = TLSOutput(base: memory, capacity: Self.room)
        body(&output)
        said += UnsafeRawBufferPointer(start: memory, count: output.count)
        said += session.kept
        session.dropKept(session.keptCount)
    }

    func send(_ bytes: [UInt8]) -> Int {
        var taken = 0
        run { output in taken = bytes.withUnsafeBytes { session.send($0, &output) } }
        return taken
    }

    func close() { run { session.close(&$0) } }

    func takeOutput() -> [UInt8] {
        defer { said = [] }
        return said
    }

    func take(_ bytes: [UInt8]) {
        var plain = [UInt8](repeating: 0, count: bytes.count + TLSSession.maxRecordBytes)
        var count = 0
        run { output in
            bytes.withUnsafeBytes { sealed in
                plain.withUnsafeMutableBytes { count = session.receive(sealed, into: $0, &output) }
            }
        }
        received += plain[..<count]
    }
}

/// Carries bytes to and fro until nobody has anything to say.
/// - Parameter piece: bytes at once; nil for all there are.
func talk(_ one: some Wired, _ other: some Wired, piece: Int? = nil) {
    func carry(_ bytes: [UInt8], to end: some Wired) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let part = rest.prefix(piece ?? 48_000)
            end.take(Array(part))
            rest = rest.dropFirst(part.count)
        }
    }
    for _ in 0..<10_000 {
        let (forth, back) = (one.takeOutput(), other.takeOutput())
        if forth.isEmpty, back.isEmpty { return }
        carry(forth, to: other)
        carry(back, to: one)
    }
}
