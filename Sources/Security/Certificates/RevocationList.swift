/// Lists of revoked certificates, version 2 (RFC 5280, section 5).
import COpenSSL

/// A list.
///
/// Threading: to be used by one thread at a time.
public final class RevocationList {
    let pointer: OpaquePointer

    /// For how long a list holds, when nobody says.
    public static let standardDays = 30

    private init(_ pointer: OpaquePointer) { self.pointer = pointer }

    deinit { X509_CRL_free(pointer) }

    /// Reads a list in PEM form; `name` is what problems call it.
    /// - Throws: when there is no list in it, or it is damaged.
    public static func read(pem: [UInt8], name: String) throws(CertificateFailure) -> RevocationList {
        let buffer = try MemoryBuffer(pem)
        guard let pointer = PEM_read_bio_X509_CRL(buffer.pointer, nil, givePassphrase, nil) else {
            throw .library("\(name) is no list of revoked certificates in PEM form")
        }
        return RevocationList(pointer)
    }

    /// The list in PEM form.
    public var pem: [UInt8] {
        get throws(CertificateFailure) {
            let buffer = try MemoryBuffer()
            guard PEM_write_bio_X509_CRL(buffer.pointer, pointer) == 1 else { throw .library("cannot write a list") }
            return buffer.take()
        }
    }

    /// Who has signed it, as one text (RFC 2253).
    public var issuer: String { Certificate.text(of: X509_CRL_get_issuer(pointer)) }

    /// When the next list is to be there, in seconds since 1970.
    public var nextUpdate: Int64 { UTC.seconds(X509_CRL_get0_nextUpdate(pointer)) ?? .min }

    /// Counts the lists of an authority; 0 when it does not say.
    public var number: Int64 {
        guard let raw = X509_CRL_get_ext_d2i(pointer, NID_crl_number, nil, nil) else { return 0 }
        let integer = raw.assumingMemoryBound(to: ASN1_INTEGER.self)
        defer { ASN1_INTEGER_free(integer) }
        var value: Int64 = 0
        return ASN1_INTEGER_get_int64(&value, integer) == 1 ? value : 0
    }

    /// The serial numbers of what is revoked, in lower-case hexadecimal.
    public var serials: [String] {
        guard let stack = X509_CRL_get_REVOKED(pointer) else { return [] }
        return (0..<max(0, OPENSSL_sk_num(stack))).compactMap { index in
            guard let entry = OPENSSL_sk_value(stack, index) else { return nil }
            return X509_REVOKED_get0_serialNumber(OpaquePointer(entry)).map { Hexadecimal.text(of: $0.pointee) }
        }
    }

    // MARK: Making one

    static func draft(
        issuer: Certificate, from start: Int64, to end: Int64, number: Int64
    ) throws(CertificateFailure) -> RevocationList {
        guard let pointer = X509_CRL_new() else { throw .library("no memory") }
        let list = RevocationList(pointer)
        guard let (start, end) = times(start, end) else { throw .library("cannot write a time") }
        defer {
            ASN1_TIME_free(start)
            ASN1_TIME_free(end)
        }
        // Version 2 is written as 1.
        guard X509_CRL_set_version(pointer, 1) == 1,
            X509_CRL_set_issuer_name(pointer, X509_get_subject_name(issuer.pointer)) == 1,
            X509_CRL_set1_lastUpdate(pointer, start) == 1, X509_CRL_set1_nextUpdate(pointer, end) == 1
        else { throw .library("cannot make a list") }
        var context = X509V3_CTX()
        X509V3_set_ctx(&context, issuer.pointer, nil, nil, pointer, 0)
        guard let added = X509V3_EXT_conf_nid(nil, &context, NID_authority_key_identifier, "keyid:always") else {
            throw .library("cannot write an extension")
        }
        defer { X509_EXTENSION_free(added) }
        let integer = ASN1_INTEGER_new()
        defer { ASN1_INTEGER_free(integer) }
        guard X509_CRL_add_ext(pointer, added, -1) == 1, let integer, ASN1_INTEGER_set_int64(integer, number) == 1,
            X509_CRL_add1_ext_i2d(pointer, NID_crl_number, integer, 0, 0) == 1
        else { throw .library("cannot write an extension") }
        return list
    }

    private static func times(
        _ start: Int64, _ end: Int64
    ) -> (UnsafeMutablePointer<ASN1_TIME>, UnsafeMutablePointer<ASN1_TIME>)? {
        guard let first = ASN1_TIME_set(nil, time_t(start)) else { return nil }
        guard let second = ASN1_TIME_set(nil, time_t(end)) else {
            ASN1_TIME_free(first)
            return nil
        }
        return (first, second)
    }

    func add(serial: String, at seconds: Int64) throws(CertificateFailure) {
        guard let bytes = Hexadecimal.bytes(serial) else {
            throw CertificateFailure("'\(serial)' is no serial number: expected pairs of hexadecimal digits")
        }
        guard let entry = X509_REVOKED_new(), let integer = ASN1_INTEGER_new(),
            let time = ASN1_TIME_set(nil, time_t(seconds))
        else { throw .library("no memory") }
        defer {
            ASN1_INTEGER_free(integer)
            ASN1_TIME_free(time)
        }
        try setInteger(bytes, integer)
        guard X509_REVOKED_set_serialNumber(entry, integer) == 1, X509_REVOKED_set_revocationDate(entry, time) == 1,
            X509_CRL_add0_revoked(pointer, entry) == 1
        else {
            X509_REVOKED_free(entry)
            throw .library("cannot list a certificate")
        }
    }

    func sign(_ key: OpaquePointer) throws(CertificateFailure) {
        guard X509_CRL_sort(pointer) == 1, X509_CRL_sign(pointer, key, EVP_sha256()) > 0 else {
            throw .library("cannot sign")
        }
    }
}
