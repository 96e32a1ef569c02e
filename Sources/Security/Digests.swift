/// Digests and keyed digests, computed by libcrypto.
import COpenSSL

/// The hash functions in use.
enum Digest: String, Sendable {
    case sha256 = "SHA256"
    case sha384 = "SHA384"
    case sha512 = "SHA512"

    /// Bytes of a digest.
    var size: Int {
        switch self {
        case .sha256: 32
        case .sha384: 48
        case .sha512: 64
        }
    }

    /// The digest of `bytes`.
    func callAsFunction(_ bytes: [UInt8]) throws(ScryptError) -> [UInt8] {
        var output = [UInt8](repeating: 0, count: size)
        var length = 0
        guard EVP_Q_digest(nil, rawValue, nil, bytes, bytes.count, &output, &length) == 1, length == size else {
            ERR_clear_error()
            throw .unavailable
        }
        return output
    }

    /// HMAC (RFC 2104) of `bytes`.
    func hmac(key: [UInt8], _ bytes: [UInt8]) throws(ScryptError) -> [UInt8] {
        var output = [UInt8](repeating: 0, count: size)
        var length = 0
        let done = EVP_Q_mac(
            nil, "HMAC", nil, rawValue, nil, key, key.count, bytes, bytes.count, &output, output.count, &length)
        guard done != nil, length == size else {
            ERR_clear_error()
            throw .unavailable
        }
        return output
    }
}

/// Whether two secrets are the same, in a time that says nothing about where they differ.
func isSame(_ a: [UInt8], _ b: [UInt8]) -> Bool {
    a.count == b.count && CRYPTO_memcmp(a, b, a.count) == 0
}
