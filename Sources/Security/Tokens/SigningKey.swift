/// A key that tokens are verified with, out of a JWK (RFC 7517, RFC 7518 §6, RFC 8037).
import COpenSSL

/// A public key, or a shared secret. Immutable.
/// SAFETY: libcrypto's EVP_PKEY may be used for verifying from several threads at once; nobody changes it after init,
/// and deinit runs when nobody uses it any more.
final class SigningKey: @unchecked Sendable {
    enum Kind: Sendable, Equatable {
        case rsa, p256, p384, ed25519, secret
    }

    let kind: Kind
    /// The key's name in its set; nil for none.
    let identifier: String?
    /// The one algorithm that the key is for, by its name; nil when the set does not say.
    let algorithm: String?
    /// The JWK's values that make the key, so that two sets can be compared.
    let material: [UInt8]
    private let key: OpaquePointer?

    /// Moduli of RSA: less can be factored, more only takes time.
    private static let modulusBits = 2_048...8_192

    /// Reads a JWK.
    /// - Throws: why it cannot be used; the set's other keys may still be good.
    init(_ members: [String: StrictJSON]) throws(StrictJSON.Failure) {
        if let use = members["use"], use.text != "sig" { throw .init("the key is not for signatures ('use')") }
        if let operations = members["key_ops"], operations.texts?.contains("verify") != true {
            throw .init("the key is not for verifying ('key_ops')")
        }
        identifier = try Self.optionalText("kid", members)
        algorithm = try Self.optionalText("alg", members)
        guard let type = members["kty"]?.text else { throw .init("'kty' is missing") }
        if type != "oct", members["d"] != nil { throw .init("the key is a private one, which must not be here") }
        let made: (kind: Kind, key: OpaquePointer?, material: [UInt8])
        switch type {
        case "RSA": made = try Self.rsa(Self.bytes("n", members), Self.bytes("e", members))
        case "EC": made = try Self.elliptic(members)
        case "OKP": made = try Self.edwards(members)
        case "oct":
            let secret = try Self.bytes("k", members)
            guard secret.count >= 32 else { throw .init("the secret has less than 32 bytes") }
            made = (.secret, nil, secret)
        default: throw .init("the key type '\(type.prefix(16))' is unknown")
        }
        (kind, key, material) = made
    }

    deinit { EVP_PKEY_free(key) }

    /// Whether a signature of `algorithm` can be this key's: its type fits, and the set does not say otherwise.
    func fits(_ algorithm: TokenAlgorithm) -> Bool {
        if let only = self.algorithm, only != algorithm.rawValue { return false }
        switch algorithm.family {
        case .rsaPKCS1, .rsaPSS: return kind == .rsa
        case .ecdsa: return kind == (algorithm == .es256 ? .p256 : .p384)
        case .edDSA: return kind == .ed25519
        // RFC 7518 §3.2: the secret is at least as long as the digest.
        case .hmac: return kind == .secret && material.count >= algorithm.digest.size
        }
    }

    // MARK: Verifying

    /// Whether `signature` is this key's over `input`. Takes tens of microseconds.
    func verifies(_ signature: [UInt8], of input: [UInt8], _ algorithm: TokenAlgorithm) -> Bool {
        guard fits(algorithm) else { return false }
        if kind == .secret {
            guard let expected = try? algorithm.digest.hmac(key: material, input) else { return false }
            return isSame(expected, signature)
        }
        var signature = signature
        if algorithm.family == .ecdsa {
            guard let encoded = Self.ecdsaDER(signature, half: kind == .p256 ? 32 : 48) else { return false }
            signature = encoded
        }
        defer { ERR_clear_error() }
        guard let context = EVP_MD_CTX_new() else { return false }
        defer { EVP_MD_CTX_free(context) }
        var inner: OpaquePointer?
        let digest = algorithm.family == .edDSA ? nil : EVP_get_digestbyname(algorithm.digest.rawValue)
        guard EVP_DigestVerifyInit(context, &inner, digest, nil, key) == 1 else { return false }
        if algorithm.family == .rsaPSS {
            // RFC 7518 §3.5: the salt is as long as the digest.
            guard EVP_PKEY_CTX_set_rsa_padding(inner, RSA_PKCS1_PSS_PADDING) == 1,
                EVP_PKEY_CTX_set_rsa_pss_saltlen(inner, RSA_PSS_SALTLEN_DIGEST) == 1
            else { return false }
        }
        return EVP_DigestVerify(context, signature, signature.count, input, input.count) == 1
    }

    /// RFC 7518 §3.4: r and s one after the other; libcrypto wants them in DER.
    private static func ecdsaDER(_ signature: [UInt8], half: Int) -> [UInt8]? {
        guard signature.count == 2 * half, let made = ECDSA_SIG_new() else { return nil }
        defer { ECDSA_SIG_free(made) }
        let r = signature.withUnsafeBufferPointer { BN_bin2bn($0.baseAddress, Int32(half), nil) }
        let s = signature[half...].withUnsafeBufferPointer { BN_bin2bn($0.baseAddress, Int32(half), nil) }
        guard ECDSA_SIG_set0(made, r, s) == 1 else {
            BN_free(r)
            BN_free(s)
            return nil
        }
        var output: UnsafeMutablePointer<UInt8>?
        let length = i2d_ECDSA_SIG(made, &output)
        guard length > 0, let output else { return nil }
        defer { CRYPTO_free(output, nil, 0) }
        return Array(UnsafeBufferPointer(start: output, count: Int(length)))
    }

    // MARK: Making

    private static func optionalText(
        _ name: String, _ members: [String: StrictJSON]
    ) throws(StrictJSON.Failure) -> String? {
        guard let value = members[name] else { return nil }
        guard let text = value.text else { throw .init("'\(name)' is no text") }
        return text
    }

    private static func bytes(
        _ name: String, _ members: [String: StrictJSON]
    ) throws(StrictJSON.Failure) -> [UInt8] {
        guard let text = members[name]?.text else { throw .init("'\(name)' is missing") }
        guard let bytes = Base64.decode(text, .url) else { throw .init("'\(name)' is not base64url") }
        return bytes
    }

    private static func rsa(
        _ modulus: [UInt8], _ exponent: [UInt8]
    ) throws(StrictJSON.Failure) -> (Kind, OpaquePointer?, [UInt8]) {
        guard let high = modulus.first, let low = modulus.last, high != 0, low & 1 == 1 else {
            throw .init("'n' is no modulus")
        }
        guard modulusBits.contains(modulus.count * 8 - high.leadingZeroBitCount) else {
            throw .init("the modulus must have \(modulusBits.lowerBound) to \(modulusBits.upperBound) bits")
        }
        // Odd, more than 1, and small: verifying takes a time that grows with it.
        guard let first = exponent.first, let last = exponent.last, first != 0, last & 1 == 1, exponent.count <= 4,
            exponent != [1]
        else { throw .init("'e' is no exponent of at most 32 bits") }
        let numbers = DER.sequence([DER.integer(modulus), DER.integer(exponent)])
        guard let key = decode([DER.rsaEncryption, DER.null], numbers) else {
            throw .init("libcrypto does not take the RSA key")
        }
        return (.rsa, key, modulus + exponent)
    }

    private static func elliptic(
        _ members: [String: StrictJSON]
    ) throws(StrictJSON.Failure) -> (Kind, OpaquePointer?, [UInt8]) {
        let (kind, curve, size): (Kind, [UInt8], Int)
        switch members["crv"]?.text {
        case "P-256": (kind, curve, size) = (.p256, DER.p256, 32)
        case "P-384": (kind, curve, size) = (.p384, DER.p384, 48)
        default: throw .init("the curve is neither P-256 nor P-384")
        }
        let x = try bytes("x", members)
        let y = try bytes("y", members)
        guard x.count == size, y.count == size else { throw .init("'x' and 'y' must have \(size) bytes each") }
        let point = [4] + x + y
        guard let key = decode([DER.ecPublicKey, curve], point) else { throw .init("the point is not on the curve") }
        // Decoding has looked whether the point is on the curve; this looks at all else (SP 800-56A §5.6.2.3).
        let check = EVP_PKEY_CTX_new_from_pkey(nil, key, nil)
        defer { EVP_PKEY_CTX_free(check) }
        guard EVP_PKEY_public_check(check) == 1 else {
            EVP_PKEY_free(key)
            ERR_clear_error()
            throw .init("the point is not on the curve")
        }
        return (kind, key, point)
    }

    private static func edwards(
        _ members: [String: StrictJSON]
    ) throws(StrictJSON.Failure) -> (Kind, OpaquePointer?, [UInt8]) {
        guard members["crv"]?.text == "Ed25519" else { throw .init("the curve is not Ed25519") }
        let x = try bytes("x", members)
        guard x.count == 32, let key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nil, x, x.count) else {
            ERR_clear_error()
            throw .init("'x' must have 32 bytes")
        }
        return (.ed25519, key, x)
    }

    /// A key from its SubjectPublicKeyInfo (RFC 5280 §4.1): what it is for, and the key itself.
    private static func decode(_ algorithm: [[UInt8]], _ key: [UInt8]) -> OpaquePointer? {
        defer { ERR_clear_error() }
        let info = DER.sequence([DER.sequence(algorithm), DER.bitString(key)])
        return info.withUnsafeBufferPointer { buffer in
            var start = buffer.baseAddress
            return d2i_PUBKEY(nil, &start, buffer.count)
        }
    }
}

/// As much of DER (X.690) as public keys need.
private enum DER {
    static let null: [UInt8] = [0x05, 0x00]
    /// 1.2.840.113549.1.1.1
    static let rsaEncryption: [UInt8] = [0x06, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1]
    /// 1.2.840.10045.2.1
    static let ecPublicKey: [UInt8] = [0x06, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1]
    /// 1.2.840.10045.3.1.7
    static let p256: [UInt8] = [0x06, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7]
    /// 1.3.132.0.34
    static let p384: [UInt8] = [0x06, 5, 0x2B, 0x81, 0x04, 0, 0x22]

    static func sequence(_ parts: [[UInt8]]) -> [UInt8] { tagged(0x30, parts.flatMap { $0 }) }
    static func bitString(_ bytes: [UInt8]) -> [UInt8] { tagged(0x03, [0] + bytes) }
    /// A positive number without leading zeros.
    static func integer(_ bytes: [UInt8]) -> [UInt8] {
        tagged(0x02, (bytes.first ?? 0) & 0x80 == 0 ? bytes : [0] + bytes)
    }

    private static func tagged(_ tag: UInt8, _ content: [UInt8]) -> [UInt8] {
        let count = content.count
        if count < 0x80 { return [tag, UInt8(count)] + content }
        let length = [UInt8(truncatingIfNeeded: count >> 8), UInt8(truncatingIfNeeded: count)].drop { $0 == 0 }
        return [tag, 0x80 | UInt8(length.count)] + length + content
    }
}
