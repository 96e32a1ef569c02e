/// Certificates (RFC 5280): read, looked at and verified by libcrypto.
import COpenSSL
import Glibc

/// A certificate.
///
/// Threading: to be used by one thread at a time.
public final class Certificate {
    let pointer: OpaquePointer

    /// Takes over a certificate of libcrypto.
    init(_ pointer: OpaquePointer) { self.pointer = pointer }

    deinit { X509_free(pointer) }

    /// Reads the first certificate of a PEM file; `name` is what problems call it.
    /// - Throws: when there is no certificate in it, or it is damaged.
    public static func read(pem: [UInt8], name: String) throws(CertificateFailure) -> Certificate {
        let buffer = try MemoryBuffer(pem)
        guard let pointer = PEM_read_bio_X509(buffer.pointer, nil, givePassphrase, nil) else {
            throw .library("\(name) is no certificate in PEM form")
        }
        return Certificate(pointer)
    }

    /// Reads the first certificate of the PEM file at `path`.
    /// - Throws: when the file cannot be read or has no certificate.
    public static func load(_ path: String) throws(CertificateFailure) -> Certificate {
        try read(pem: AtomicFile.read(path), name: path)
    }

    /// Reads a certificate in DER form, of which nothing may be left over.
    /// - Throws: when it is damaged or something is left over.
    public static func read(der: [UInt8]) throws(CertificateFailure) -> Certificate {
        let pointer = der.withUnsafeBufferPointer { bytes in
            var cursor = bytes.baseAddress
            let pointer = d2i_X509(nil, &cursor, bytes.count)
            guard cursor == bytes.baseAddress.map({ $0 + bytes.count }) else {
                X509_free(pointer)
                return nil as OpaquePointer?
            }
            return pointer
        }
        guard let pointer else { throw .library("not a certificate") }
        return Certificate(pointer)
    }

    /// The certificate in PEM form.
    public var pem: [UInt8] {
        get throws(CertificateFailure) {
            let buffer = try MemoryBuffer()
            guard PEM_write_bio_X509(buffer.pointer, pointer) == 1 else { throw .library("cannot write a certificate") }
            return buffer.take()
        }
    }

    /// The certificate in DER form.
    public var der: [UInt8] {
        get throws(CertificateFailure) { try encoded { i2d_X509(pointer, $0) } }
    }

    // MARK: What it says

    /// The subject as one text (RFC 2253).
    public var subject: String { Self.text(of: X509_get_subject_name(pointer)) }

    /// The issuer as one text (RFC 2253).
    public var issuer: String { Self.text(of: X509_get_issuer_name(pointer)) }

    /// The subject's common name; the last one, if there are several.
    public var commonName: String? { subjectTexts(NID_commonName).last }

    /// The subject's organisational units.
    public var organizationalUnits: [String] { subjectTexts(NID_organizationalUnitName) }

    /// The serial number in lower-case hexadecimal, two digits a byte.
    public var serial: String {
        X509_get0_serialNumber(pointer).map { Hexadecimal.text(of: $0.pointee) } ?? ""
    }

    /// SHA-256 of the certificate in lower-case hexadecimal.
    public var fingerprint: String {
        var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
        var count: UInt32 = 0
        guard X509_digest(pointer, EVP_sha256(), &digest, &count) == 1 else { return "" }
        return Hexadecimal.text(of: Array(digest.prefix(Int(count))))
    }

    /// When it begins, in seconds since 1970.
    public var notBefore: Int64 { UTC.seconds(X509_get0_notBefore(pointer)) ?? .max }

    /// When it ends, in seconds since 1970.
    public var notAfter: Int64 { UTC.seconds(X509_get0_notAfter(pointer)) ?? .min }

    /// Whether it may sign others.
    public var isAuthority: Bool { X509_check_ca(pointer) == 1 }

    /// Whether `key` is its key.
    public func belongs(to key: PrivateKey) -> Bool {
        defer { ERR_clear_error() }
        return X509_check_private_key(pointer, key.pointer) == 1
    }

    /// Whether `signature` (ECDSA or RSA, with SHA-256) of `bytes` was made with its key.
    func verifies(_ signature: [UInt8], of bytes: [UInt8]) -> Bool {
        defer { ERR_clear_error() }
        guard let context = EVP_MD_CTX_new() else { return false }
        defer { EVP_MD_CTX_free(context) }
        return EVP_DigestVerifyInit(context, nil, EVP_sha256(), nil, X509_get0_pubkey(pointer)) == 1
            && EVP_DigestVerify(context, signature, signature.count, bytes, bytes.count) == 1
    }

    /// What it may be used for.
    public var usages: Set<Usage> {
        let bits = X509_get_extended_key_usage(pointer)
        // Without the extension everything is allowed.
        return Set(Usage.allCases.filter { bits == .max || bits & $0.bit != 0 })
    }

    /// Alternative names.
    public var alternativeNames: AlternativeNames {
        guard let raw = X509_get_ext_d2i(pointer, NID_subject_alt_name, nil, nil) else { return AlternativeNames() }
        let stack = OpaquePointer(raw)
        defer { GENERAL_NAMES_free(stack) }
        var names = AlternativeNames()
        for index in 0..<max(0, OPENSSL_sk_num(stack)) {
            guard let name = OPENSSL_sk_value(stack, index)?.assumingMemoryBound(to: GENERAL_NAME.self) else {
                continue
            }
            names.add(name)
        }
        return names
    }

    private func subjectTexts(_ kind: Int32) -> [String] {
        guard let name = X509_get_subject_name(pointer) else { return [] }
        var texts: [String] = []
        var index = X509_NAME_get_index_by_NID(name, kind, -1)
        while index >= 0 {
            var utf8: UnsafeMutablePointer<UInt8>?
            let data = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index))
            let count = ASN1_STRING_to_UTF8(&utf8, data)
            if count >= 0, let utf8 {
                texts.append(String(decoding: UnsafeBufferPointer(start: utf8, count: Int(count)), as: UTF8.self))
                CRYPTO_free(utf8, nil, 0)
            }
            index = X509_NAME_get_index_by_NID(name, kind, index)
        }
        return texts
    }

    static func text(of name: OpaquePointer?) -> String {
        guard let name, let buffer = try? MemoryBuffer() else { return "" }
        // The flags of RFC 2253, but letters beyond ASCII as they are.
        let texts = ASN1_STRFLGS_ESC_2253 | ASN1_STRFLGS_ESC_CTRL | ASN1_STRFLGS_UTF8_CONVERT
        let unknown = ASN1_STRFLGS_DUMP_UNKNOWN | ASN1_STRFLGS_DUMP_DER | XN_FLAG_DUMP_UNKNOWN_FIELDS
        let flags = UInt(texts) | UInt(unknown) | UInt(XN_FLAG_SEP_COMMA_PLUS | XN_FLAG_DN_REV | XN_FLAG_FN_SN)
        return X509_NAME_print_ex(buffer.pointer, name, 0, flags) >= 0 ? buffer.takeText() : ""
    }
}

extension Certificate {
    /// What the extended key usage allows (RFC 5280, section 4.2.1.12).
    public enum Usage: String, Sendable, CaseIterable {
        /// To be dialled.
        case server
        /// To dial.
        case client

        fileprivate var bit: UInt32 { self == .server ? UInt32(XKU_SSL_SERVER) : UInt32(XKU_SSL_CLIENT) }
        fileprivate var purpose: Int32 { self == .server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT }
    }

    /// The alternative names (RFC 5280, section 4.2.1.6).
    public struct AlternativeNames: Equatable {
        /// Names of hosts.
        public var dnsNames: [String] = []
        /// Addresses, IPv4 or IPv6.
        public var addresses: [String] = []
        /// URIs; those that begin with `apus:` say which node, and of which mesh.
        public var uris: [String] = []
        /// Addresses of e-mail.
        public var emails: [String] = []

        fileprivate mutating func add(_ name: UnsafePointer<GENERAL_NAME>) {
            var type: Int32 = 0
            guard let value = GENERAL_NAME_get0_value(name, &type) else { return }
            let string = value.assumingMemoryBound(to: ASN1_STRING.self).pointee
            guard [GEN_DNS, GEN_URI, GEN_EMAIL, GEN_IPADD].contains(type) else { return }
            let bytes = Array(UnsafeBufferPointer(start: string.data, count: Int(max(0, string.length))))
            let text = String(decoding: bytes, as: UTF8.self)
            switch type {
            case GEN_DNS: dnsNames.append(text)
            case GEN_URI: uris.append(text)
            case GEN_EMAIL: emails.append(text)
            default: HostName.text(ofAddress: bytes).map { addresses.append($0) }
            }
        }
    }

    /// Which node it is, and of which mesh; nil for the certificate of something else.
    public var node: NodeName? {
        let uris = alternativeNames.uris
        let ids = uris.filter { $0.hasPrefix(NodeName.idPrefix) }
        let meshes = uris.filter { $0.hasPrefix(NodeName.meshPrefix) }
        // Two in one certificate would let its owner choose.
        guard ids.count == 1, meshes.count <= 1 else { return nil }
        return try? NodeName(
            id: String(ids[0].dropFirst(NodeName.idPrefix.count)),
            mesh: meshes.first.map { String($0.dropFirst(NodeName.meshPrefix.count)) })
    }

    /// Why the certificate is not to be trusted; nil when it comes from `authority` and may be used so at that time.
    /// - Parameters:
    ///   - authority: the only certificate that is trusted.
    ///   - usage: what it is to be used for; nil looks at signature and time alone.
    ///   - revocations: the authority's list; nil asks nobody.
    ///   - now: seconds since 1970.
    public func reasonAgainst(
        from authority: Certificate, for usage: Usage?, revocations: RevocationList? = nil, now: Int64
    ) -> String? {
        defer { ERR_clear_error() }
        guard let store = X509_STORE_new(), let context = X509_STORE_CTX_new() else { return "no memory" }
        defer {
            X509_STORE_CTX_free(context)
            X509_STORE_free(store)
        }
        guard X509_STORE_add_cert(store, authority.pointer) == 1,
            revocations.map({ X509_STORE_add_crl(store, $0.pointer) == 1 }) ?? true,
            X509_STORE_CTX_init(context, store, pointer, nil) == 1,
            usage.map({ X509_STORE_CTX_set_purpose(context, $0.purpose) == 1 }) ?? true
        else { return "no memory" }
        X509_STORE_CTX_set_time(context, 0, time_t(now))
        // Strict: the extensions must be as RFC 5280 wants them.
        var flags = UInt(X509_V_FLAG_X509_STRICT)
        if revocations != nil { flags |= UInt(X509_V_FLAG_CRL_CHECK) }
        X509_STORE_CTX_set_flags(context, flags)
        if X509_verify_cert(context) == 1 { return nil }
        return String(cString: X509_verify_cert_error_string(Int(X509_STORE_CTX_get_error(context))))
    }
}
