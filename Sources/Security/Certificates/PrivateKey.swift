/// Private keys: elliptic curve P-256, which every TLS library speaks and small devices can compute.
import COpenSSL

/// A private key.
///
/// Threading: to be used by one thread at a time.
public final class PrivateKey {
    let pointer: OpaquePointer

    /// The longest passphrase, in bytes; libcrypto's own bound.
    public static let maxPassphraseBytes = 1_023
    /// Rounds of PBKDF2 that keep a passphrase from being guessed: a fraction of a second whenever the key is read.
    private static let passphraseRounds: Int32 = 200_000

    private init(_ pointer: OpaquePointer) { self.pointer = pointer }

    deinit { EVP_PKEY_free(pointer) }

    /// Makes a fresh key.
    /// - Throws: when libcrypto cannot.
    public static func generate() throws(CertificateFailure) -> PrivateKey {
        guard let context = EVP_PKEY_CTX_new_from_name(nil, "EC", nil) else { throw .library("cannot make a key") }
        defer { EVP_PKEY_CTX_free(context) }
        var key: OpaquePointer?
        guard EVP_PKEY_keygen_init(context) == 1, EVP_PKEY_CTX_set_group_name(context, "P-256") == 1,
            EVP_PKEY_generate(context, &key) == 1, let key
        else { throw .library("cannot make a key") }
        return PrivateKey(key)
    }

    /// Reads a key in PEM form.
    /// - Parameters:
    ///   - name: what problems call it: the file.
    ///   - passphrase: of an encrypted key.
    public static func read(
        pem: [UInt8], passphrase: [UInt8]? = nil, name: String
    ) throws(CertificateFailure) -> PrivateKey {
        let buffer = try MemoryBuffer(pem)
        var secret = passphrase ?? []
        let key = withUnsafeMutablePointer(to: &secret) { secret in
            PEM_read_bio_PrivateKey(buffer.pointer, nil, givePassphrase, passphrase == nil ? nil : secret)
        }
        guard let key else {
            guard isEncrypted(pem) else { throw .library("\(name) is no private key in PEM form") }
            ERR_clear_error()
            throw CertificateFailure(
                passphrase == nil
                    ? "the key \(name) is encrypted: say where its passphrase is" : "the passphrase of \(name) is wrong"
            )
        }
        return PrivateKey(key)
    }

    /// Reads a key in DER form.
    /// - Throws: when it is damaged or something is left over.
    public static func read(der: [UInt8]) throws(CertificateFailure) -> PrivateKey {
        let key = der.withUnsafeBufferPointer { bytes in
            var cursor = bytes.baseAddress
            let key = d2i_AutoPrivateKey(nil, &cursor, bytes.count)
            guard cursor == bytes.baseAddress.map({ $0 + bytes.count }) else {
                EVP_PKEY_free(key)
                return nil as OpaquePointer?
            }
            return key
        }
        guard let key else { throw .library("not a private key") }
        return PrivateKey(key)
    }

    private static func isEncrypted(_ pem: [UInt8]) -> Bool {
        String(decoding: pem, as: UTF8.self).contains("ENCRYPTED")
    }

    /// PKCS #8 in PEM form, encrypted when there is a passphrase (AES-256, PBKDF2; RFC 8018).
    /// - Throws: when libcrypto cannot write it.
    public func pem(passphrase: [UInt8]? = nil) throws(CertificateFailure) -> [UInt8] {
        let buffer = try MemoryBuffer()
        guard let plain = EVP_PKEY2PKCS8(pointer) else { throw .library("cannot write a key") }
        defer { PKCS8_PRIV_KEY_INFO_free(plain) }
        guard let passphrase else {
            guard PEM_write_bio_PKCS8_PRIV_KEY_INFO(buffer.pointer, plain) == 1 else {
                throw .library("cannot write a key")
            }
            return buffer.take()
        }
        guard (1...Self.maxPassphraseBytes).contains(passphrase.count) else {
            throw CertificateFailure("a passphrase has 1 to \(Self.maxPassphraseBytes) bytes")
        }
        let method = PKCS5_pbe2_set_iv(EVP_aes_256_cbc(), Self.passphraseRounds, nil, 0, nil, NID_hmacWithSHA256)
        guard let method else { throw .library("cannot encrypt a key") }
        let secret = passphrase.map { CChar(bitPattern: $0) }
        // Takes the method over, unless it fails.
        guard let sealed = PKCS8_set0_pbe(secret, Int32(secret.count), plain, method) else {
            X509_ALGOR_free(method)
            throw .library("cannot encrypt a key")
        }
        defer { X509_SIG_free(sealed) }
        guard PEM_write_bio_PKCS8(buffer.pointer, sealed) == 1 else { throw .library("cannot write a key") }
        return buffer.take()
    }

    /// The key in DER form (RFC 5915), not encrypted.
    var der: [UInt8] {
        get throws(CertificateFailure) { try encoded { i2d_PrivateKey(pointer, $0) } }
    }

    /// Signs: ECDSA with SHA-256.
    func signature(of bytes: [UInt8]) throws(CertificateFailure) -> [UInt8] {
        guard let context = EVP_MD_CTX_new() else { throw .library("cannot sign") }
        defer { EVP_MD_CTX_free(context) }
        var count = 0
        guard EVP_DigestSignInit(context, nil, EVP_sha256(), nil, pointer) == 1,
            EVP_DigestSign(context, nil, &count, bytes, bytes.count) == 1
        else { throw .library("cannot sign") }
        var signature = [UInt8](repeating: 0, count: count)
        guard EVP_DigestSign(context, &signature, &count, bytes, bytes.count) == 1 else {
            throw .library("cannot sign")
        }
        return Array(signature.prefix(count))
    }
}
