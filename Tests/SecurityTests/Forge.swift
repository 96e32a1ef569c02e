import COpenSSL
import Testing

@testable import Security

/// Makes keys and signs tokens with them, good and bad ones.
final class Forge {
    enum Kind { case rsa, p256, p384, ed25519 }

    let kind: Kind
    private let key: OpaquePointer

    init(_ kind: Kind) throws {
        self.kind = kind
        let name =
            switch kind {
            case .rsa: "RSA"
            case .p256, .p384: "EC"
            case .ed25519: "ED25519"
            }
        let context = EVP_PKEY_CTX_new_from_name(nil, name, nil)
        defer { EVP_PKEY_CTX_free(context) }
        #expect(EVP_PKEY_keygen_init(context) == 1)
        switch kind {
        case .rsa: #expect(EVP_PKEY_CTX_set_rsa_keygen_bits(context, 2_048) == 1)
        case .p256: #expect(EVP_PKEY_CTX_set_group_name(context, "prime256v1") == 1)
        case .p384: #expect(EVP_PKEY_CTX_set_group_name(context, "secp384r1") == 1)
        case .ed25519: break
        }
        var made: OpaquePointer?
        #expect(EVP_PKEY_generate(context, &made) == 1)
        key = try #require(made)
    }

    deinit { EVP_PKEY_free(key) }

    private func number(_ name: String, pad: Int = 0) -> [UInt8] {
        var value: OpaquePointer?
        #expect(EVP_PKEY_get_bn_param(key, name, &value) == 1)
        defer { BN_free(value) }
        var bytes = [UInt8](repeating: 0, count: Int(BN_num_bits(value) + 7) / 8)
        BN_bn2bin(value, &bytes)
        return Array(repeating: 0, count: max(0, pad - bytes.count)) + bytes
    }

    /// The members of the public JWK.
    var members: [String: String] {
        func text(_ bytes: [UInt8]) -> String { Base64.encode(bytes, .url) }
        switch kind {
        case .rsa: return ["kty": "RSA", "n": text(number("n")), "e": text(number("e"))]
        case .p256:
            return ["kty": "EC", "crv": "P-256", "x": text(number("qx", pad: 32)), "y": text(number("qy", pad: 32))]
        case .p384:
            return ["kty": "EC", "crv": "P-384", "x": text(number("qx", pad: 48)), "y": text(number("qy", pad: 48))]
        case .ed25519:
            var bytes = [UInt8](repeating: 0, count: 32)
            var length = bytes.count
            #expect(EVP_PKEY_get_raw_public_key(key, &bytes, &length) == 1)
            return ["kty": "OKP", "crv": "Ed25519", "x": text(bytes)]
        }
    }

    /// The JWK with more members.
    func jwk(_ more: [String: String] = [:]) -> String {
        let all = members.merging(more) { $1 }.sorted { $0.key < $1.key }
        return "{" + all.map { "\"\($0)\":\"\($1)\"" }.joined(separator: ",") + "}"
    }

    /// The public key in PEM, as somebody might mistake it for a shared secret.
    var pem: [UInt8] {
        let bio = BIO_new(BIO_s_mem())
        defer { BIO_free(bio) }
        #expect(PEM_write_bio_PUBKEY(bio, key) == 1)
        var bytes = [UInt8](repeating: 0, count: 4_096)
        let count = BIO_read(bio, &bytes, 4_096)
        return Array(bytes.prefix(Int(max(0, count))))
    }

    /// Signs, as `algorithm` says.
    func sign(_ input: [UInt8], _ algorithm: TokenAlgorithm) -> [UInt8] {
        let context = EVP_MD_CTX_new()
        defer { EVP_MD_CTX_free(context) }
        var inner: OpaquePointer?
        let digest = algorithm.family == .edDSA ? nil : EVP_get_digestbyname(algorithm.digest.rawValue)
        #expect(EVP_DigestSignInit(context, &inner, digest, nil, key) == 1)
        if algorithm.family == .rsaPSS {
            #expect(EVP_PKEY_CTX_set_rsa_padding(inner, RSA_PKCS1_PSS_PADDING) == 1)
            #expect(EVP_PKEY_CTX_set_rsa_pss_saltlen(inner, RSA_PSS_SALTLEN_DIGEST) == 1)
        }
        var signature = [UInt8](repeating: 0, count: 1_024)
        var length = signature.count
        #expect(EVP_DigestSign(context, &signature, &length, input, input.count) == 1)
        signature = Array(signature.prefix(length))
        guard algorithm.family == .ecdsa else { return signature }
        var start: UnsafePointer<UInt8>?
        let made = signature.withUnsafeBufferPointer { buffer in
            start = buffer.baseAddress
            return d2i_ECDSA_SIG(nil, &start, buffer.count)
        }
        defer { ECDSA_SIG_free(made) }
        let half = kind == .p256 ? 32 : 48
        var raw = [UInt8](repeating: 0, count: 2 * half)
        #expect(BN_bn2binpad(ECDSA_SIG_get0_r(made), &raw, Int32(half)) == half)
        raw.withUnsafeMutableBufferPointer { buffer in
            let place = buffer.baseAddress.map { $0 + half }
            #expect(BN_bn2binpad(ECDSA_SIG_get0_s(made), place, Int32(half)) == half)
        }
        return raw
    }

    /// A whole token.
    func token(_ algorithm: TokenAlgorithm, _ claims: String, kid: String? = nil, header: String? = nil) -> String {
        let words = kid.map { ",\"kid\":\"\($0)\"" } ?? ""
        let input = Self.input(header ?? "{\"alg\":\"\(algorithm.rawValue)\",\"typ\":\"JWT\"\(words)}", claims)
        return "\(input).\(Base64.encode(sign(Array(input.utf8), algorithm), .url))"
    }

    static func input(_ header: String, _ claims: String) -> String {
        "\(Base64.encode(Array(header.utf8), .url)).\(Base64.encode(Array(claims.utf8), .url))"
    }

    /// A token signed with a shared secret.
    static func token(secret: [UInt8], _ algorithm: TokenAlgorithm, _ claims: String) throws -> String {
        let input = input("{\"alg\":\"\(algorithm.rawValue)\"}", claims)
        return "\(input).\(Base64.encode(try algorithm.digest.hmac(key: secret, Array(input.utf8)), .url))"
    }

    /// A token whose signature is whatever.
    static func token(header: String, _ claims: String, signature: [UInt8] = []) -> String {
        "\(input(header, claims)).\(Base64.encode(signature, .url))"
    }
}

func keySet(_ keys: String...) -> String { "{\"keys\":[\(keys.joined(separator: ","))]}" }

/// Claims that are good at ``TestTime/start``, with some replaced (nil: left out). Values are JSON.
func claims(_ changes: [String: String?] = [:]) -> String {
    var all: [String: String] = [
        "iss": "\"https://idp.example\"", "aud": "\"apus\"", "sub": "\"anna\"", "exp": "2000000600",
    ]
    for (name, value) in changes { all[name] = value }
    return "{" + all.sorted { $0.key < $1.key }.map { "\"\($0)\":\($1)" }.joined(separator: ",") + "}"
}

func issuer(
    _ keys: String, algorithms: [String]? = nil, leeway: Int = 30, userClaim: String = "sub"
) throws -> TokenIssuer {
    try TokenIssuer(
        issuer: "https://idp.example", audience: "apus", keys: keys, userClaim: userClaim, algorithms: algorithms,
        leewaySeconds: leeway)
}

/// A verifier with keys in memory.
func verifier(_ keys: String, algorithms: [String]? = nil, userClaim: String = "sub") throws -> TokenVerifier {
    let issuer = try issuer("/nowhere", algorithms: algorithms, userClaim: userClaim)
    let store = KeyStore(issuer.keys, authorities: nil)
    let arrival = store.end(.success(.init(bytes: Array(keys.utf8), maxAgeSeconds: nil)), now: 1)
    try #require(arrival.notice != nil, "the keys are usable")
    return TokenVerifier(entries: [.init(issuer: issuer, store: store)])
}

extension TokenVerifier {
    func verify(_ token: String) -> Verdict { verify(Array(token.utf8), wall: TestTime.start, monotonic: 2) }

    /// Why a token is refused; nil when it is not.
    func reason(_ token: String) -> String? {
        switch verify(token) {
        case .proven: nil
        case .refused(let refusal), .unknownKey(_, let refusal): refusal.reason
        }
    }

    func proof(_ token: String) -> TokenProof? {
        if case .proven(let proof) = verify(token) { proof } else { nil }
    }
}
