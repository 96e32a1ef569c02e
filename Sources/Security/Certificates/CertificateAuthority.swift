/// A certificate authority in memory: signs certificates of nodes, servers and clients, and lists of revoked ones
/// (RFC 5280). ``AuthorityFolder`` keeps one on disk.
import COpenSSL

/// An authority.
///
/// Threading: to be used by one thread at a time.
public final class CertificateAuthority {
    /// A certificate and its key.
    public struct Issued {
        /// The certificate, signed by the authority.
        public let certificate: Certificate
        /// Its key.
        public let key: PrivateKey
    }

    /// The authority's own certificate.
    public let certificate: Certificate
    private let key: PrivateKey

    /// Other machines' clocks may be behind this one.
    static let clockSlackSeconds: Int64 = 300
    static let secondsPerDay: Int64 = 86_400
    private static let serialBytes = 16

    /// Puts an authority together from its parts.
    public init(certificate: Certificate, key: PrivateKey) throws(CertificateFailure) {
        guard certificate.isAuthority else {
            throw CertificateFailure("'\(certificate.subject)' is no authority: it may not sign certificates")
        }
        guard certificate.belongs(to: key) else {
            throw CertificateFailure("the key is not the one of the authority '\(certificate.subject)'")
        }
        self.certificate = certificate
        self.key = key
    }

    /// Makes a new authority.
    /// - Parameters:
    ///   - name: its common name.
    ///   - days: how long it holds.
    ///   - now: seconds since 1970.
    public static func create(
        name: String, days: Int = CertificateRequest.standardAuthorityDays, now: Int64
    ) throws(CertificateFailure) -> CertificateAuthority {
        if let reason = CertificateName.reasonAgainst(group: name) { throw CertificateFailure("authority: \(reason)") }
        if let reason = CertificateRequest.reasonAgainst(days: days) { throw CertificateFailure(reason) }
        let key = try PrivateKey.generate()
        let draft = try CertificateDraft(key: key)
        try draft.setSerial(randomSerial())
        try draft.setTimes(from: now - clockSlackSeconds, to: now + Int64(days) * secondsPerDay)
        try draft.setSubject(commonName: name, organizationalUnits: [])
        try draft.setIssuer(draft.certificate)
        // It signs what is used, and no other authorities.
        try draft.add(NID_basic_constraints, "critical,CA:TRUE,pathlen:0", issuer: draft.certificate)
        try draft.add(NID_key_usage, "critical,keyCertSign,cRLSign", issuer: draft.certificate)
        try draft.add(NID_subject_key_identifier, "hash", issuer: draft.certificate)
        try draft.add(NID_authority_key_identifier, "keyid:always", issuer: draft.certificate)
        try draft.sign(key)
        return try CertificateAuthority(certificate: draft.certificate, key: key)
    }

    /// Makes a key and a certificate for it.
    /// - Parameter now: seconds since 1970.
    /// - Throws: when libcrypto cannot make or sign it.
    public func issue(_ request: CertificateRequest, now: Int64) throws(CertificateFailure) -> Issued {
        if let reason = request.reasonAgainst { throw CertificateFailure(reason) }
        guard certificate.notAfter > now else {
            throw CertificateFailure("the authority has expired at \(UTC.text(certificate.notAfter))")
        }
        let key = try PrivateKey.generate()
        let draft = try CertificateDraft(key: key)
        try draft.setSerial(Self.randomSerial())
        let end = min(now + Int64(request.days) * Self.secondsPerDay, certificate.notAfter)
        try draft.setTimes(from: max(now - Self.clockSlackSeconds, certificate.notBefore), to: end)
        try draft.setSubject(commonName: request.name, organizationalUnits: request.groups)
        try draft.setIssuer(certificate)
        try draft.add(NID_basic_constraints, "critical,CA:FALSE", issuer: certificate)
        try draft.add(NID_key_usage, "critical,digitalSignature", issuer: certificate)
        try draft.add(NID_ext_key_usage, Self.usages(of: request.kind), issuer: certificate)
        try draft.add(NID_subject_key_identifier, "hash", issuer: certificate)
        try draft.add(NID_authority_key_identifier, "keyid:always", issuer: certificate)
        try draft.add(alternativeNames: GeneralNames(of: request))
        try draft.sign(self.key)
        return Issued(certificate: draft.certificate, key: key)
    }

    /// Makes a list of what is revoked.
    /// - Parameters:
    ///   - revoked: serial numbers and when each was revoked.
    ///   - number: larger than that of any list before.
    ///   - days: when a next list is to be there: whoever checks refuses everybody after that time.
    ///   - now: seconds since 1970.
    public func revocationList(
        of revoked: [(serial: String, at: Int64)], number: Int64, days: Int = RevocationList.standardDays, now: Int64
    ) throws(CertificateFailure) -> RevocationList {
        if let reason = CertificateRequest.reasonAgainst(days: days) { throw CertificateFailure(reason) }
        let list = try RevocationList.draft(
            issuer: certificate, from: now - Self.clockSlackSeconds, to: now + Int64(days) * Self.secondsPerDay,
            number: number)
        for entry in revoked { try list.add(serial: entry.serial, at: entry.at) }
        try list.sign(key.pointer)
        return list
    }

    /// Signs what is no certificate.
    func signature(of bytes: [UInt8]) throws(CertificateFailure) -> [UInt8] { try key.signature(of: bytes) }

    func keyPEM(passphrase: [UInt8]?) throws(CertificateFailure) -> [UInt8] { try key.pem(passphrase: passphrase) }

    /// A node both dials and is dialled.
    private static func usages(of kind: CertificateRequest.Kind) -> StaticString {
        switch kind {
        case .server: "serverAuth"
        case .node: "serverAuth,clientAuth"
        case .client: "clientAuth"
        }
    }

    /// 128 random bits (RFC 5280, section 4.1.2.2: positive, at most 20 bytes).
    private static func randomSerial() throws(CertificateFailure) -> [UInt8] {
        let bytes = try randomBytes(serialBytes)
        return bytes.contains { $0 != 0 } ? bytes : [1]
    }
}

/// A certificate that is being written.
private struct CertificateDraft {
    let certificate: Certificate

    init(key: PrivateKey) throws(CertificateFailure) {
        guard let pointer = X509_new() else { throw .library("cannot make a certificate") }
        certificate = Certificate(pointer)
        // Version 3 is written as 2.
        guard X509_set_version(pointer, 2) == 1, X509_set_pubkey(pointer, key.pointer) == 1 else {
            throw .library("cannot make a certificate")
        }
    }

    func setSerial(_ bytes: [UInt8]) throws(CertificateFailure) {
        try setInteger(bytes, X509_get_serialNumber(certificate.pointer))
    }

    func setTimes(from start: Int64, to end: Int64) throws(CertificateFailure) {
        guard ASN1_TIME_set(X509_getm_notBefore(certificate.pointer), time_t(start)) != nil,
            ASN1_TIME_set(X509_getm_notAfter(certificate.pointer), time_t(end)) != nil
        else { throw .library("cannot write a time") }
    }

    func setSubject(commonName: String, organizationalUnits: [String]) throws(CertificateFailure) {
        let subject = X509_get_subject_name(certificate.pointer)
        let entries = organizationalUnits.map { (NID_organizationalUnitName, $0) } + [(NID_commonName, commonName)]
        for (kind, text) in entries {
            let bytes = Array(text.utf8)
            guard X509_NAME_add_entry_by_NID(subject, kind, MBSTRING_UTF8, bytes, Int32(bytes.count), -1, 0) == 1
            else { throw .library("'\(text)' cannot stand in a certificate") }
        }
    }

    func setIssuer(_ issuer: Certificate) throws(CertificateFailure) {
        guard X509_set_issuer_name(certificate.pointer, X509_get_subject_name(issuer.pointer)) == 1 else {
            throw .library("cannot write the issuer")
        }
    }

    /// Adds an extension whose text is ours; texts of others are not given to libcrypto's little language.
    func add(_ kind: Int32, _ text: StaticString, issuer: Certificate) throws(CertificateFailure) {
        var context = X509V3_CTX()
        X509V3_set_ctx(&context, issuer.pointer, certificate.pointer, nil, nil, 0)
        guard let added = X509V3_EXT_conf_nid(nil, &context, kind, "\(text)") else {
            throw .library("cannot write an extension")
        }
        defer { X509_EXTENSION_free(added) }
        guard X509_add_ext(certificate.pointer, added, -1) == 1 else { throw .library("cannot write an extension") }
    }

    func add(alternativeNames names: GeneralNames) throws(CertificateFailure) {
        guard !names.isEmpty else { return }
        let raw = UnsafeMutableRawPointer(names.pointer)
        guard X509_add1_ext_i2d(certificate.pointer, NID_subject_alt_name, raw, 0, 0) == 1 else {
            throw .library("cannot write alternative names")
        }
    }

    func sign(_ key: PrivateKey) throws(CertificateFailure) {
        guard X509_sign(certificate.pointer, key.pointer, EVP_sha256()) > 0 else { throw .library("cannot sign") }
    }
}

/// Alternative names that are being written.
private final class GeneralNames {
    let pointer: OpaquePointer

    var isEmpty: Bool { OPENSSL_sk_num(pointer) == 0 }

    init(of request: CertificateRequest) throws(CertificateFailure) {
        guard let pointer = OPENSSL_sk_new_null() else { throw .library("no memory") }
        self.pointer = pointer
        for host in request.hosts {
            switch try HostName(host) {
            case .name(let name): try add(GEN_DNS, Array(name.utf8))
            case .address(let bytes): try add(GEN_IPADD, bytes)
            }
        }
        if let email = request.email { try add(GEN_EMAIL, Array(email.utf8)) }
        if case .node(let node) = request.kind {
            for uri in node.uris { try add(GEN_URI, Array(uri.utf8)) }
        }
    }

    deinit { GENERAL_NAMES_free(pointer) }

    private func add(_ type: Int32, _ bytes: [UInt8]) throws(CertificateFailure) {
        let kind = type == GEN_IPADD ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING
        guard let name = GENERAL_NAME_new() else { throw .library("no memory") }
        guard let string = ASN1_STRING_type_new(kind) else {
            GENERAL_NAME_free(name)
            throw .library("no memory")
        }
        GENERAL_NAME_set0_value(name, type, string)
        guard ASN1_STRING_set(string, bytes, Int32(bytes.count)) == 1, OPENSSL_sk_push(pointer, name) > 0 else {
            GENERAL_NAME_free(name)
            throw .library("no memory")
        }
    }
}

/// Writes a positive number, its highest byte first.
func setInteger(_ bytes: [UInt8], _ integer: UnsafeMutablePointer<ASN1_INTEGER>?) throws(CertificateFailure) {
    guard let number = BN_bin2bn(bytes, Int32(bytes.count), nil) else { throw .library("no memory") }
    defer { BN_free(number) }
    guard let integer, BN_to_ASN1_INTEGER(number, integer) != nil else { throw .library("cannot write a number") }
}
