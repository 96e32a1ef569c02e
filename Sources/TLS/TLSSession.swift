import COpenSSL
public import Core

/// Where a session writes for the length of a call: memory of the lane, and what lies in it afterwards. It is to be
/// sent, and what cannot be, to be given back by ``TLSSession/keep(_:)``.
public struct TLSOutput {
    /// The beginning.
    public let base: UnsafeMutableRawPointer
    /// Bytes that it has room for.
    public let capacity: Int
    /// Bytes to be sent.
    public var count = 0

    /// Makes an output without anything in it.
    public init(base: UnsafeMutableRawPointer, capacity: Int) {
        self.base = base
        self.capacity = capacity
    }
}

/// TLS of one connection (RFC 8446, RFC 5246): bytes of the wire in, bytes of the protocol out, and the other way
/// round. No socket, no clock. While nothing is on its way it holds no buffer.
///
/// Threading: confined to its connection's lane.
public final class TLSSession {
    /// Whether the handshake is still under way. Nothing can be sent before it is over.
    public private(set) var isHandshaking = true
    /// Why it cannot go on; nil while it can.
    public private(set) var failure: String? { didSet { isHandshaking = false } }
    /// The peer has said that no more data will come (`close_notify`).
    public private(set) var hasInputEnded = false
    /// What the peer has proven; nil without a certificate, and before the handshake is over.
    public private(set) var certificate: PeerCertificate?
    /// What the certificate's owner is called; nil without a name.
    public private(set) var user: String?
    /// The groups of the certificate's owner.
    public private(set) var groups: [String] = []
    /// Whether any byte has come.
    public private(set) var hasHeard = false

    private let door: TLSDoor
    /// They must outlive the session: libssl's calls lead to them.
    private let contexts: TLSContexts
    /// By whose files the peer's certificate has been judged.
    private var judges: TLSContexts
    private let ssl: OpaquePointer
    private let wire: UnsafeMutablePointer<TLSWire>
    private var isClosed = false

    /// Bytes of data in one record (RFC 8446 section 5.1): so many may come out of a call beyond what went in.
    public static let maxRecordBytes = 16_384
    /// Bytes that `count` bytes of data may become: header, content type and tag for each record.
    public static func sealedBytes(_ count: Int) -> Int { count + (count / maxRecordBytes + 1) * 64 }
    /// Records without data, as those that change keys, that one call takes.
    private static let maxEmptyRecords = 64
    /// Records of a handshake that one call takes.
    private static let maxHandshakeRecords = 1_024

    /// A session for a new connection, with the door's files as they were last read.
    /// - Parameter serverName: for the role of a client, the name or address that the server's certificate must be
    ///   for; nil when whoever the authorities have certified will do.
    public init(_ door: TLSDoor, serverName: String? = nil) throws(TLSFailure) {
        let contexts = door.contexts
        guard let ssl = contexts.makeSession() else { throw .openSSL("TLS") }
        guard let method = contexts.method, let bio = BIO_new(method) else {
            SSL_free(ssl)
            throw .openSSL("TLS")
        }
        self.door = door
        self.contexts = contexts
        judges = contexts
        self.ssl = ssl
        wire = .allocate(capacity: 1)
        wire.initialize(to: TLSWire())
        BIO_set_data(bio, wire)
        SSL_set_bio(ssl, bio, bio)
        if door.role == .client {
            SSL_set_connect_state(ssl)
            if let serverName { try expect(serverName) }
        } else {
            SSL_set_accept_state(ssl)
        }
    }

    private func expect(_ serverName: String) throws(TLSFailure) {
        ERR_clear_error()
        // An address is no name: it is looked for elsewhere in the certificate, and not told to the server.
        if X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), serverName) == 1 { return }
        SSL_set_hostflags(ssl, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
        guard SSL_set1_host(ssl, serverName) == 1, apus_ssl_set_server_name(ssl, serverName) == 1 else {
            throw .openSSL("TLS: \(serverName)")
        }
    }

    deinit {
        SSL_free(ssl)
        wire.pointee.releaseKept()
        wire.deallocate()
    }

    // MARK: Bytes

    /// Begins: a client says hello.
    public func start(_ output: inout TLSOutput) {
        guard door.role == .client, isHandshaking, failure == nil else { return }
        withWire(UnsafeRawBufferPointer(start: nil, count: 0), &output) { shakeHands() }
    }

    /// Takes all of what was received.
    /// - Parameter plain: has room for ``maxRecordBytes`` more than `sealed` has.
    /// - Returns: bytes of data.
    public func receive(
        _ sealed: UnsafeRawBufferPointer, into plain: UnsafeMutableRawBufferPointer, _ output: inout TLSOutput
    ) -> Int {
        guard failure == nil, !hasInputEnded else { return 0 }
        hasHeard = hasHeard || !sealed.isEmpty
        return withWire(sealed, &output) {
            wire.pointee.recordsLeft = Self.maxHandshakeRecords
            if isHandshaking { shakeHands() }
            return isHandshaking ? 0 : unseal(into: plain)
        }
    }

    /// Whether a message of the handshake's kind, as one that changes keys, has come in part after the handshake:
    /// libssl seals nothing before the rest has come.
    public var isListening: Bool { !isHandshaking && failure == nil && SSL_in_init(ssl) == 1 }

    /// Seals data.
    /// - Returns: bytes taken: all of them, unless the handshake is not over (none), there is a failure, or
    ///   ``isListening``.
    public func send(_ plain: UnsafeRawBufferPointer, _ output: inout TLSOutput) -> Int {
        guard !isHandshaking, failure == nil, !isClosed, !isListening, let base = plain.baseAddress else { return 0 }
        return withWire(UnsafeRawBufferPointer(start: nil, count: 0), &output) {
            var taken = 0
            while taken < plain.count {
                let count = SSL_write(ssl, base + taken, Int32(clamping: plain.count - taken))
                guard count > 0 else {
                    fail(SSL_get_error(ssl, count))
                    break
                }
                taken += Int(count)
            }
            return taken
        }
    }

    /// Says that no more data will come (`close_notify`), once.
    public func close(_ output: inout TLSOutput) {
        guard !isHandshaking, failure == nil, !isClosed else { return }
        isClosed = true
        withWire(UnsafeRawBufferPointer(start: nil, count: 0), &output) { _ = SSL_shutdown(ssl) }
    }

    /// Bytes that the socket has not taken.
    public var kept: UnsafeRawBufferPointer {
        let start = wire.pointee.keptStart
        return UnsafeRawBufferPointer(start: wire.pointee.kept.map { $0 + start }, count: keptCount)
    }

    /// The number of ``kept`` bytes.
    public var keptCount: Int { wire.pointee.keptEnd - wire.pointee.keptStart }

    /// Keeps the end of an output, which the socket did not take.
    public func keep(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress, !bytes.isEmpty else { return }
        if !wire.pointee.keepFirst(base, bytes.count) { fail("too much waits to be sent") }
    }

    /// The first of the kept bytes have been sent.
    public func dropKept(_ count: Int) { wire.pointee.dropKept(count) }

    /// Nothing more will be sent.
    public func releaseKept() { wire.pointee.releaseKept() }

    /// It ends for a reason that libssl does not know of, as time.
    public func fail(_ reason: String) { if failure == nil { failure = reason } }

    private func withWire<Result>(
        _ input: UnsafeRawBufferPointer, _ output: inout TLSOutput, _ body: () -> Result
    ) -> Result {
        wire.pointee.input = input.baseAddress
        wire.pointee.inputLeft = input.count
        wire.pointee.output = output.base
        wire.pointee.outputRoom = output.capacity
        wire.pointee.outputCount = output.count
        ERR_clear_error()
        let result = body()
        output.count = wire.pointee.outputCount
        wire.pointee.input = nil
        wire.pointee.inputLeft = 0
        wire.pointee.output = nil
        return result
    }

    private func shakeHands() {
        let status = SSL_do_handshake(ssl)
        if status == 1 { return handsShaken() }
        let error = SSL_get_error(ssl, status)
        if error != SSL_ERROR_WANT_READ { fail(error) }
    }

    private func handsShaken() {
        isHandshaking = false
        guard let peer = SSL_get0_peer_certificate(ssl) else { return }
        do throws(CertificateReader.Refusal) {
            let certificate = try CertificateReader.read(peer)
            self.certificate = certificate
            user = door.user(certificate)
            groups = door.groups(certificate)
        } catch {
            failure = "the peer's certificate has \(error.reason)"
        }
    }

    private func unseal(into plain: UnsafeMutableRawBufferPointer) -> Int {
        guard failure == nil, let base = plain.baseAddress else { return 0 }
        // What the handshake left behind would be taken for an error of the data.
        ERR_clear_error()
        wire.pointee.recordsLeft = Self.maxEmptyRecords
        var count = 0
        while wire.pointee.inputLeft > 0 || SSL_pending(ssl) > 0 {
            guard count < plain.count else {
                failure = "no room for what was received"
                break
            }
            let got = SSL_read(ssl, base + count, Int32(clamping: plain.count - count))
            guard got > 0 else {
                let error = SSL_get_error(ssl, got)
                if error == SSL_ERROR_ZERO_RETURN {
                    hasInputEnded = true
                } else if error != SSL_ERROR_WANT_READ {
                    fail(error)
                }
                break
            }
            count += Int(got)
            wire.pointee.recordsLeft += 1
        }
        return count
    }

    // MARK: Words

    private func fail(_ status: Int32) {
        let error = ERR_peek_error()
        let alert = apus_error_alert(error)
        let verdict = SSL_get_verify_result(ssl)
        if wire.pointee.recordsLeft < 0 {
            failure = "too many records without data"
        } else if status == SSL_ERROR_ZERO_RETURN {
            failure = "the peer ended the connection in the handshake"
        } else if alert >= 0, let text = SSL_alert_desc_string_long(alert) {
            failure = "the peer refused: \(String(cString: text))"
        } else if verdict != X509_V_OK, let text = X509_verify_cert_error_string(verdict) {
            failure = "the peer's certificate: \(String(cString: text))"
        } else {
            failure = TLSFailure.text(of: error)
        }
        ERR_clear_error()
    }

    /// Version, suite and the protocol that was agreed on (ALPN), for the log; empty before the handshake is over.
    public var summary: String {
        guard !isHandshaking, failure == nil, let version = SSL_get_version(ssl),
            let suite = SSL_get_current_cipher(ssl),
            let name = SSL_CIPHER_get_name(suite)
        else { return "" }
        let text = "\(String(cString: version)) \(String(cString: name))"
        return applicationProtocol.map { "\(text) \($0)" } ?? text
    }

    /// The protocol that was agreed on (ALPN, RFC 7301).
    public var applicationProtocol: String? {
        var name: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        SSL_get0_alpn_selected(ssl, &name, &count)
        return name.map { String(decoding: UnsafeBufferPointer(start: $0, count: Int(count)), as: UTF8.self) }
    }

    /// Whether an earlier session was resumed.
    public var isResumed: Bool { SSL_session_reused(ssl) == 1 }

    /// What is wrong with the peer's certificate by the door's files as they were last read; nil for nothing.
    public func judge() -> String? {
        guard certificate != nil, let peer = SSL_get0_peer_certificate(ssl) else { return nil }
        judges = door.contexts
        return judges.fault(of: peer, chain: SSL_get_peer_cert_chain(ssl))
    }

    /// Whether the door's files have been read anew since the peer's certificate was judged.
    public var isJudgementOld: Bool { certificate != nil && judges !== door.contexts }
}
