import COpenSSL

/// Certificates, keys and lists in files as text (RFC 7468).
enum PEM {
    /// All certificates of a file, at least one; the caller frees them.
    static func certificates(_ bytes: [UInt8], _ path: String) throws(TLSFailure) -> [OpaquePointer] {
        try all(bytes, path, "certificate", "CERTIFICATE", X509_free) {
            PEM_read_bio_X509($0, nil, { _, _, _, _ in -1 }, nil)
        }
    }

    /// All revocation lists of a file, at least one; the caller frees them.
    static func revocationLists(_ bytes: [UInt8], _ path: String) throws(TLSFailure) -> [OpaquePointer] {
        try all(bytes, path, "revocation list", "X509 CRL", X509_CRL_free) {
            PEM_read_bio_X509_CRL($0, nil, { _, _, _, _ in -1 }, nil)
        }
    }

    private static func all(
        _ bytes: [UInt8], _ path: String, _ what: String, _ mark: String, _ free: (OpaquePointer?) -> Void,
        _ read: (OpaquePointer) -> OpaquePointer?
    ) throws(TLSFailure) -> [OpaquePointer] {
        var found: [OpaquePointer] = []
        let isWhole =
            withInput(bytes) { bio -> Bool in
                while let entry = read(bio) { found.append(entry) }
                return apus_error_is_pem_end(ERR_peek_last_error()) == 1
            } ?? false
        let reason = TLSFailure.openSSL(path)
        if isWhole, !found.isEmpty { return found }
        for entry in found { free(entry) }
        if !found.isEmpty || !isWhole {
            throw TLSFailure("\(reason.description): \(what) \(found.count + 1) of the file is damaged")
        }
        throw TLSFailure("\(path): no \(what) in it; expected text with -----BEGIN \(mark)-----\(derHint(bytes))")
    }

    private static func derHint(_ bytes: [UInt8]) -> String {
        bytes.first == 0x30 ? " (this looks like DER: openssl converts it with -inform DER)" : ""
    }

    /// The private key of a file; the caller frees it.
    static func key(_ bytes: [UInt8], _ path: String, passphrase: String?) throws(TLSFailure) -> OpaquePointer {
        // Without a function of ours libcrypto would ask at the terminal.
        let key =
            withInput(bytes) { bio in
                guard let passphrase else { return PEM_read_bio_PrivateKey(bio, nil, { _, _, _, _ in -1 }, nil) }
                return passphrase.withCString {
                    PEM_read_bio_PrivateKey(bio, nil, fillIn, UnsafeMutableRawPointer(mutating: $0))
                }
            } ?? nil
        let reason = TLSFailure.openSSL(path)
        if let key { return key }
        let text = String(decoding: bytes, as: UTF8.self)
        guard text.contains("PRIVATE KEY-----") else {
            throw TLSFailure("\(path): no private key in it; expected text with PRIVATE KEY-----\(derHint(bytes))")
        }
        guard text.contains("ENCRYPTED") else { throw reason }
        throw TLSFailure(
            passphrase == nil
                ? "\(path): the key is encrypted and there is no passphrase" : "\(path): the passphrase is wrong")
    }

    private static func withInput<Result>(_ bytes: [UInt8], _ body: (OpaquePointer) -> Result) -> Result? {
        ERR_clear_error()
        return bytes.withUnsafeBytes { buffer in
            guard let bio = BIO_new_mem_buf(buffer.baseAddress, Int32(clamping: buffer.count)) else { return nil }
            defer { BIO_free(bio) }
            return body(bio)
        }
    }
}

/// Gives libcrypto the passphrase that it asks for.
private func fillIn(
    _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int32, _ purpose: Int32, _ passphrase: UnsafeMutableRawPointer?
) -> Int32 {
    guard let buffer, let passphrase else { return -1 }
    let text = passphrase.assumingMemoryBound(to: UInt8.self)
    var count = 0
    while text[count] != 0 { count += 1 }
    guard count <= Int(size) else { return -1 }
    UnsafeMutableRawPointer(buffer).copyMemory(from: text, byteCount: count)
    return Int32(count)
}
