import COpenSSL
import Core

/// Reads what a certificate says (RFC 5280), which its owner and the authority have chosen: everything has a limit, and
/// a text that others could read as another one makes the certificate useless.
struct CertificateReader {
    /// Why a certificate is not taken although its authority is trusted.
    struct Refusal: Error {
        let reason: String
    }

    /// Entries of the subject, and alternative names.
    private static let maxNames = 256
    /// Bytes of one of them.
    private static let maxNameBytes = 1_024

    /// Everything that rules and logs may ask for.
    static func read(_ certificate: OpaquePointer) throws(Refusal) -> PeerCertificate {
        var result = PeerCertificate()
        guard let subject = X509_get_subject_name(certificate), let issuer = X509_get_issuer_name(certificate) else {
            throw Refusal(reason: "no subject or issuer")
        }
        result.subject = try text(of: subject)
        result.issuer = try text(of: issuer)
        result.serial = hexadecimal(X509_get0_serialNumber(certificate))
        var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
        var count: UInt32 = 0
        guard X509_digest(certificate, EVP_sha256(), &digest, &count) == 1 else { throw Refusal(reason: "no digest") }
        result.fingerprint = hexadecimal(digest[..<Int(count)])
        result.commonName = try values(subject, NID_commonName).last
        result.organizationalUnits = try values(subject, NID_organizationalUnitName)
        result.organizations = try values(subject, NID_organizationName)
        try readAlternativeNames(certificate, into: &result)
        var time = tm()
        if ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) == 1 { result.notAfter = Int64(timegm(&time)) }
        return result
    }

    /// The DNS names that a certificate is for, in lower case; the common name when it has no alternative names.
    static func hostNames(_ certificate: OpaquePointer) throws(Refusal) -> [String] {
        let read = try read(certificate)
        let names = read.dnsNames.isEmpty ? read.commonName.map { [$0] } ?? [] : read.dnsNames
        return names.map { $0.lowercased() }
    }

    private static func text(of name: OpaquePointer) throws(Refusal) -> String {
        guard X509_NAME_entry_count(name) <= maxNames, let bio = BIO_new(BIO_s_mem()) else {
            throw Refusal(reason: "too many names")
        }
        defer { BIO_free(bio) }
        var data: UnsafeMutablePointer<CChar>?
        guard apus_name_print(bio, name) >= 0 else { throw Refusal(reason: "a name that cannot be read") }
        let count = apus_bio_data(bio, &data)
        guard count > 0, let data else { return "" }
        return String(decoding: UnsafeRawBufferPointer(start: data, count: count), as: UTF8.self)
    }

    private static func values(_ name: OpaquePointer, _ kind: Int32) throws(Refusal) -> [String] {
        var values: [String] = []
        var index = X509_NAME_get_index_by_NID(name, kind, -1)
        while index >= 0, values.count < maxNames {
            let value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index))
            var bytes: UnsafeMutablePointer<UInt8>?
            let count = ASN1_STRING_to_UTF8(&bytes, value)
            guard count >= 0, let bytes else { throw Refusal(reason: "a name that cannot be read") }
            defer { CRYPTO_free(bytes, #file, #line) }
            values.append(try checked(bytes, Int(count)))
            index = X509_NAME_get_index_by_NID(name, kind, index)
        }
        return values
    }

    /// As text, unless somebody who stops at a NUL would read another one.
    private static func checked(_ bytes: UnsafePointer<UInt8>, _ count: Int) throws(Refusal) -> String {
        guard count <= maxNameBytes else { throw Refusal(reason: "a name of more than \(maxNameBytes) bytes") }
        let buffer = UnsafeBufferPointer(start: bytes, count: count)
        guard !buffer.contains(0) else { throw Refusal(reason: "a name with a NUL in it") }
        guard let text = String(validating: buffer, as: UTF8.self) else {
            throw Refusal(reason: "a name that is no UTF-8")
        }
        return text
    }

    private static func readAlternativeNames(
        _ certificate: OpaquePointer, into result: inout PeerCertificate
    ) throws(Refusal) {
        var critical: Int32 = 0
        guard let names = apus_alternative_names(certificate, &critical) else {
            // -1: there are none.
            if critical == -1 { return }
            throw Refusal(reason: "alternative names that cannot be read")
        }
        defer { apus_general_names_free(names) }
        let count = apus_general_name_count(names)
        guard count <= maxNames else { throw Refusal(reason: "more than \(maxNames) alternative names") }
        for index in 0..<count {
            var bytes: UnsafePointer<UInt8>?
            var length: Int32 = 0
            let type = apus_general_name(names, index, &bytes, &length)
            guard let bytes else { continue }
            let text = try checked(bytes, Int(length))
            switch type {
            case GEN_DNS: result.dnsNames.append(text)
            case GEN_EMAIL: result.emails.append(text)
            case GEN_URI: result.uris.append(text)
            default: break
            }
        }
    }

    private static func hexadecimal(_ number: UnsafePointer<ASN1_INTEGER>?) -> String {
        guard let number, let data = ASN1_STRING_get0_data(number) else { return "" }
        return hexadecimal(UnsafeBufferPointer(start: data, count: Int(ASN1_STRING_length(number))))
    }

    private static func hexadecimal(_ bytes: some Collection<UInt8>) -> String {
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for byte in bytes {
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return String(decoding: text, as: UTF8.self)
    }
}
