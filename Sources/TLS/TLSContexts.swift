import COpenSSL

/// What libssl needs to know for one reading of a door's files: a context for each certificate, the authorities, the
/// revocation lists. Never changed once made; sessions keep the ones they began with.
/// SAFETY: immutable after init; libssl's contexts and stores count references and lock by themselves.
final class TLSContexts: @unchecked Sendable {
    /// A context, and the names for which it is chosen.
    private struct Named {
        var context: OpaquePointer
        var names: [String]
        /// Of the keys it has certificates for: one of each kind.
        var keyKinds: [Int32]
    }

    let role: TLSDoor.Role
    let settings: TLSSettings
    /// What is odd about the files but no reason not to use them.
    private(set) var warnings: [String] = []
    /// What sessions read and write with.
    private(set) var method: OpaquePointer?
    private var contexts: [Named] = []
    private var store: OpaquePointer?
    /// The names of protocols as they go over the wire (RFC 7301 section 3.1), the best first.
    private let protocols: UnsafeMutableBufferPointer<UInt8>
    private let ticketKeys: TicketKeys

    /// Certificates between a peer's own and the authority.
    static let maxIntermediates: Int32 = 5
    /// Bytes of all certificates that a peer may send.
    private static let maxChainBytes = 32_768
    /// Suites of TLS 1.2: those with forward secrecy and authenticated encryption.
    private static let suites =
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
        + "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
    private static let suites13 = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

    /// Reads all files and makes the contexts.
    init(
        _ settings: TLSSettings, role: TLSDoor.Role, protocols names: [String], ticketKeys: TicketKeys,
        files: inout TLSFiles
    ) throws(TLSFailure) {
        self.role = role
        self.settings = settings
        self.ticketKeys = ticketKeys
        let wire = names.flatMap { [UInt8(clamping: $0.utf8.count)] + Array($0.utf8.prefix(255)) }
        protocols = .allocate(capacity: wire.count)
        _ = protocols.initialize(from: wire)
        method = TLSWire.makeMethod()
        ERR_clear_error()
        try makeStore(&files)
        var authorities: [OpaquePointer] = []
        defer { for authority in authorities { X509_free(authority) } }
        if let path = settings.peerAuthorities {
            authorities = try PEM.certificates(files.read(path), path)
            for authority in authorities {
                guard X509_STORE_add_cert(store, authority) == 1 else { throw .openSSL(path) }
                if X509_cmp_time(X509_get0_notAfter(authority), nil) < 0 {
                    warnings.append("\(path): an authority's certificate has expired")
                }
            }
        } else if role == .client {
            X509_STORE_set_default_paths(store)
        }
        try readRevocations(&files)
        for pair in settings.certificates { try add(pair, &files) }
        if contexts.isEmpty { try addContext([], kind: nil) }
        for named in contexts { try configure(named.context, authorities) }
    }

    deinit {
        for named in contexts { SSL_CTX_free(named.context) }
        X509_STORE_free(store)
        BIO_meth_free(method)
        protocols.deallocate()
    }

    /// A session for a new connection; nil when there is no memory.
    func makeSession() -> OpaquePointer? { contexts.first.flatMap { SSL_new($0.context) } }

    // MARK: Files

    private func makeStore(_ files: inout TLSFiles) throws(TLSFailure) {
        let needsAuthorities = role == .server && settings.clientCertificate != .none
        if needsAuthorities, settings.peerAuthorities == nil {
            throw TLSFailure("tls.\(settings.name): client certificates need client_ca, which says who issues them")
        }
        if role == .server, settings.certificates.isEmpty {
            throw TLSFailure("tls.\(settings.name): a server needs a certificate and a key")
        }
        store = X509_STORE_new()
        guard store != nil else { throw .openSSL("tls.\(settings.name)") }
        X509_STORE_set_depth(store, Self.maxIntermediates)
    }

    private func readRevocations(_ files: inout TLSFiles) throws(TLSFailure) {
        guard let path = settings.revocations else { return }
        for name in try files.revocationFiles(path) {
            for list in try PEM.revocationLists(files.read(name, limit: TLSFiles.maxListBytes), name) {
                defer { X509_CRL_free(list) }
                guard X509_STORE_add_crl(store, list) == 1 else { throw .openSSL(name) }
                if let next = X509_CRL_get0_nextUpdate(list), X509_cmp_time(next, nil) < 0 {
                    warnings.append("\(name): the revocation list has expired: whom its issuer certified is refused")
                }
            }
        }
        X509_STORE_set_flags(store, UInt(X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL))
    }

    /// A certificate with its chain and key. One for the names of another, but with a key of another kind, stands
    /// beside it: the client's abilities choose.
    private func add(_ pair: TLSSettings.Pair, _ files: inout TLSFiles) throws(TLSFailure) {
        let chain = try PEM.certificates(files.read(pair.certificate), pair.certificate)
        defer { for certificate in chain { X509_free(certificate) } }
        let key = try PEM.key(files.read(pair.key), pair.key, passphrase: pair.passphrase)
        defer { EVP_PKEY_free(key) }
        try Self.match(chain[0], key, pair)
        let names: [String]
        do throws(CertificateReader.Refusal) {
            names = try CertificateReader.hostNames(chain[0])
        } catch {
            throw TLSFailure("\(pair.certificate): \(error.reason)")
        }
        warn(pair.certificate, chain)
        let kind = EVP_PKEY_get_base_id(key)
        var place = contexts.firstIndex { $0.names == names && !$0.keyKinds.contains(kind) }
        if place == nil {
            try addContext(names, kind: kind)
            place = contexts.count - 1
        }
        guard let place else { return }
        if !contexts[place].keyKinds.contains(kind) { contexts[place].keyKinds.append(kind) }
        let context = contexts[place].context
        guard SSL_CTX_use_certificate(context, chain[0]) == 1 else { throw .openSSL(pair.certificate) }
        guard SSL_CTX_use_PrivateKey(context, key) == 1 else { throw .openSSL(pair.key) }
        for certificate in chain.dropFirst() {
            guard apus_ssl_ctx_add_chain(context, certificate) == 1 else { throw .openSSL(pair.certificate) }
        }
    }

    /// Checks that a key is the one of a pair's certificate.
    static func match(
        _ certificate: OpaquePointer, _ key: OpaquePointer, _ pair: TLSSettings.Pair
    ) throws(TLSFailure) {
        guard X509_check_private_key(certificate, key) != 1 else { return }
        ERR_clear_error()
        throw TLSFailure("\(pair.key): not the key of the first certificate in \(pair.certificate)")
    }

    private func warn(_ path: String, _ chain: [OpaquePointer]) {
        for (number, certificate) in chain.enumerated() {
            let which = number == 0 ? "the certificate" : "certificate \(number + 1) of the chain"
            if X509_cmp_time(X509_get0_notAfter(certificate), nil) < 0 {
                warnings.append("\(path): \(which) has expired")
            }
            if X509_cmp_time(X509_get0_notBefore(certificate), nil) > 0 {
                warnings.append("\(path): \(which) is not valid yet")
            }
        }
        let purpose = role == .server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT
        if X509_check_purpose(chain[0], purpose, 0) != 1 {
            warnings.append("\(path): its extended key usage is not \(role == .server ? "server" : "client")Auth")
        }
        ERR_clear_error()
    }

    private func addContext(_ names: [String], kind: Int32?) throws(TLSFailure) {
        guard let context = SSL_CTX_new(role == .server ? TLS_server_method() : TLS_client_method()) else {
            throw .openSSL("tls.\(settings.name)")
        }
        contexts.append(Named(context: context, names: names, keyKinds: kind.map { [$0] } ?? []))
        // Before a certificate comes in: it decides which keys are large enough.
        SSL_CTX_set_security_level(context, 2)
    }

    // MARK: Contexts

    private func configure(
        _ context: OpaquePointer, _ authorities: [OpaquePointer]
    ) throws(TLSFailure) {
        apus_ssl_ctx_basics(context)
        let name = "tls.\(settings.name)"
        guard apus_ssl_ctx_min_version(context, settings.minimumVersion == .v13 ? TLS1_3_VERSION : TLS1_2_VERSION) == 1
        else { throw .openSSL("\(name).min_version") }
        guard SSL_CTX_set_cipher_list(context, settings.cipherList ?? Self.suites) == 1 else {
            throw .openSSL("\(name).ciphers: \(settings.cipherList ?? "")")
        }
        guard SSL_CTX_set_ciphersuites(context, settings.cipherSuites ?? Self.suites13) == 1 else {
            throw .openSSL("\(name).cipher_suites: \(settings.cipherSuites ?? "")")
        }
        guard apus_ssl_ctx_groups(context, "X25519:P-256:P-384:P-521") == 1 else { throw .openSSL(name) }
        apus_ssl_ctx_max_cert_list(context, Self.maxChainBytes)
        SSL_CTX_set_verify_depth(context, Self.maxIntermediates)
        SSL_CTX_set1_cert_store(context, store)
        if role == .client {
            SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nil)
            apus_ssl_ctx_no_tickets(context)
            if !protocols.isEmpty {
                SSL_CTX_set_alpn_protos(context, protocols.baseAddress, UInt32(protocols.count))
            }
            return
        }
        switch settings.clientCertificate {
        case .none: SSL_CTX_set_verify(context, SSL_VERIFY_NONE, nil)
        case .optional: SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nil)
        case .required: SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
        }
        if settings.clientCertificate != .none {
            for authority in authorities { SSL_CTX_add_client_CA(context, authority) }
        }
        configureServer(context)
    }

    private func configureServer(_ context: OpaquePointer) {
        let me = Unmanaged.passUnretained(self).toOpaque()
        if contexts.count > 1 {
            let call: @convention(c) (OpaquePointer?, UnsafeMutablePointer<Int32>?, UnsafeMutableRawPointer?) -> Int32 =
                { ssl, _, me in
                    guard let ssl, let me else { return SSL_TLSEXT_ERR_NOACK }
                    return TLSContexts.from(me).choose(ssl)
                }
            apus_ssl_ctx_server_name(context, call, me)
        }
        if !protocols.isEmpty {
            let call: SSL_CTX_alpn_select_cb_func = { _, chosen, count, offered, offeredCount, me in
                guard let me, let chosen, let count else { return SSL_TLSEXT_ERR_ALERT_FATAL }
                let mine = TLSContexts.from(me).protocols
                var place: UnsafeMutablePointer<UInt8>?
                let status = SSL_select_next_proto(
                    &place, count, mine.baseAddress, UInt32(mine.count), offered, offeredCount)
                guard status == OPENSSL_NPN_NEGOTIATED else { return SSL_TLSEXT_ERR_ALERT_FATAL }
                chosen.pointee = UnsafePointer(place)
                return SSL_TLSEXT_ERR_OK
            }
            SSL_CTX_set_alpn_select_cb(context, call, me)
        }
        // One ticket is enough: who resumes gets a new one.
        SSL_CTX_set_num_tickets(context, 1)
        SSL_CTX_set_timeout(context, TicketKeys.seconds)
        let identity = Array(settings.name.utf8.suffix(Int(SSL_MAX_SID_CTX_LENGTH)))
        SSL_CTX_set_session_id_context(context, identity.isEmpty ? [0] : identity, UInt32(max(identity.count, 1)))
        SSL_CTX_set_ex_data(context, 0, me)
        SSL_CTX_set_tlsext_ticket_key_evp_cb(context) { ssl, name, vector, cipher, code, isSealing in
            guard let me = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), 0), let name, let vector, let cipher, let code
            else { return -1 }
            return TLSContexts.from(me).ticketKeys.prepare(
                name: name, vector: vector, cipher: cipher, code: code, isSealing: isSealing == 1)
        }
        SSL_CTX_set_session_ticket_cb(
            context, nil,
            { _, session, _, _, status, me in
                guard let me, status == SSL_TICKET_SUCCESS || status == SSL_TICKET_SUCCESS_RENEW else {
                    return SSL_TICKET_RETURN_IGNORE_RENEW
                }
                return TLSContexts.from(me).judgeResumption(session)
                    ? SSL_TICKET_RETURN_USE_RENEW
                    : SSL_TICKET_RETURN_IGNORE_RENEW
            }, me)
    }

    private static func from(_ pointer: UnsafeMutableRawPointer) -> TLSContexts {
        Unmanaged<TLSContexts>.fromOpaque(pointer).takeUnretainedValue()
    }

    /// Chooses the certificate for the name that a client asks for (RFC 6066 section 3): the first for that very name,
    /// then the first for all names of its domain, else the default one.
    private func choose(_ ssl: OpaquePointer) -> Int32 {
        guard let text = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name) else { return SSL_TLSEXT_ERR_NOACK }
        let name = String(cString: text).lowercased()
        var found = contexts.first { $0.names.contains(name) }
        if found == nil, let dot = name.firstIndex(of: ".") {
            let wild = "*" + name[dot...]
            found = contexts.first { $0.names.contains(wild) }
        }
        guard let found else { return SSL_TLSEXT_ERR_NOACK }
        SSL_set_SSL_CTX(ssl, found.context)
        return SSL_TLSEXT_ERR_OK
    }

    // MARK: Judging

    /// Whether a session may be resumed without another handshake: its certificate is still good, and there is one if
    /// there has to be. A ticket has no chain: who needs one shows it again.
    private func judgeResumption(_ session: OpaquePointer?) -> Bool {
        guard let certificate = SSL_SESSION_get0_peer(session) else { return settings.clientCertificate != .required }
        return settings.clientCertificate != .none && fault(of: certificate, chain: nil) == nil
    }

    /// What is wrong now with a peer's certificate; nil for nothing.
    func fault(of certificate: OpaquePointer, chain: OpaquePointer?) -> String? {
        guard let judgement = X509_STORE_CTX_new() else { return "no memory" }
        defer {
            X509_STORE_CTX_free(judgement)
            ERR_clear_error()
        }
        guard X509_STORE_CTX_init(judgement, store, certificate, chain) == 1,
            X509_STORE_CTX_set_default(judgement, role == .server ? "ssl_client" : "ssl_server") == 1,
            let parameters = X509_STORE_CTX_get0_param(judgement)
        else { return "no memory" }
        X509_VERIFY_PARAM_set_depth(parameters, Self.maxIntermediates)
        X509_VERIFY_PARAM_set_auth_level(parameters, 2)
        if X509_verify_cert(judgement) == 1 { return nil }
        return String(cString: X509_verify_cert_error_string(Int(X509_STORE_CTX_get_error(judgement))))
    }
}
