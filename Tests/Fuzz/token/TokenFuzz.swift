@testable import Core
@testable import Security

/// What clients and key servers send before anybody is known: tokens, key sets, JSON, the messages of SCRAM and
/// OAUTHBEARER. No read beyond the end, no trap; what is read says the same when it is written and read again.

// libFuzzer calls on one thread only.
nonisolated(unsafe) private let verifier: TokenVerifier = {
    // The key of RFC 8037 A.1, and a secret that tokens of the corpus are not signed with.
    let keys = """
        {"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        {"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}
        """
    guard
        let issuer = try? TokenIssuer(
            issuer: "i", audience: "a", keys: "/k", algorithms: TokenAlgorithm.allCases.map(\.rawValue))
    else { preconditionFailure("an issuer") }
    let store = KeyStore(issuer.keys, authorities: nil)
    let arrival = store.end(.success(.init(bytes: Array(keys.utf8), maxAgeSeconds: nil)), now: 1)
    precondition(arrival.notice != nil, "keys")
    return TokenVerifier(entries: [.init(issuer: issuer, store: store)])
}()

nonisolated(unsafe) private let scram: SCRAMVerifier = {
    guard let made = try? SCRAMVerifier(password: Array("pencil".utf8), salt: [UInt8](1...16), iterations: 4_096) else {
        preconditionFailure("a verifier")
    }
    return made
}()

/// The first byte chooses the parser, the rest is its input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 0 else { return 0 }
    let bytes = Array(UnsafeBufferPointer(start: start + 1, count: count - 1))
    switch start[0] % 8 {
    case 0: json(bytes)
    case 1: token(bytes)
    case 2: claims(bytes)
    case 3: keys(bytes)
    case 4: scramFirst(bytes)
    case 5: scramFinal(bytes)
    case 6: bearer(bytes)
    default: texts(bytes)
    }
    return 0
}

private func json(_ bytes: [UInt8]) {
    guard let value = try? StrictJSON(bytes[...]) else { return }
    precondition(depth(value) <= StrictJSON.maxDepth)
    // Space around changes nothing, and something behind is refused.
    precondition((try? StrictJSON(([0x20, 0x0A] + bytes + [9])[...])) == value)
    precondition((try? StrictJSON((bytes + [0x2C])[...])) == nil)
    precondition((try? StrictJSON(([UInt8(ascii: "[")] + bytes)[...])) == nil)
}

private func depth(_ value: StrictJSON) -> Int {
    switch value {
    case .object(let members): 1 + (members.values.map { depth($0) }.max() ?? 0)
    case .array(let elements): 1 + (elements.map { depth($0) }.max() ?? 0)
    default: 0
    }
}

/// Nobody has signed what comes here.
private func token(_ bytes: [UInt8]) {
    if case .proven = verifier.verify(bytes, wall: 1, monotonic: 2) { preconditionFailure("a forged token") }
    guard let token = try? Token(parsing: bytes) else { return }
    precondition(bytes.count <= Token.maxBytes && bytes.starts(with: token.signedBytes))
    let parts = [token.signedBytes, [UInt8(ascii: ".")], Array(Base64.encode(token.signature, .url).utf8)]
    precondition(parts.flatMap { $0 } == bytes, "one value, one text")
}

private func claims(_ bytes: [UInt8]) {
    guard let issuer = verifier.entries.first?.issuer, let claims = try? StrictJSON(bytes[...]).members else { return }
    guard let proof = try? TokenProof(claims, of: issuer, now: 1_000_000) else { return }
    precondition(!proof.user.isEmpty && proof.user.utf8.count <= User.maxNameBytes && proof.endsAt > 1_000_000)
    precondition(proof.attributes.count <= TokenProof.maxClaims && proof.groups.count <= TokenProof.maxGroups)
    precondition(proof.attributes.values.joined().allSatisfy { $0.utf8.count <= TokenProof.maxClaimBytes })
}

private func keys(_ bytes: [UInt8]) {
    guard let set = try? KeySet(parsing: bytes) else { return }
    precondition(!set.keys.isEmpty && set.keys.count <= KeySet.maxKeys && set.isContained(in: set))
    for key in set.keys {
        for algorithm in TokenAlgorithm.allCases {
            precondition(!key.verifies([UInt8](repeating: 1, count: 64), of: bytes, algorithm), "a forged signature")
        }
    }
}

private func scramFirst(_ bytes: [UInt8]) {
    guard let first = try? SCRAMClientFirst(parsing: bytes) else { return }
    precondition(Array((first.header.text + first.bare).utf8) == bytes)
    precondition(!first.user.isEmpty && (1...SCRAMClientFirst.maxNonceBytes).contains(first.nonce.utf8.count))
    let server = SCRAMServer(first, scram, nonce: "n")
    precondition(server.challenge.utf8.count < SCRAMClientFinal.maxBytes)
}

private func scramFinal(_ bytes: [UInt8]) {
    guard let final = try? SCRAMClientFinal(parsing: bytes) else { return }
    precondition(bytes.starts(with: final.withoutProof.utf8))
    guard let first = try? SCRAMClientFirst(parsing: Array("n,,n=user,r=x".utf8)) else {
        preconditionFailure("a first message")
    }
    let signature = try? SCRAMServer(first, scram, nonce: "n").signature(for: final)
    precondition(signature == nil, "a forged proof")
}

private func bearer(_ bytes: [UInt8]) {
    guard let message = try? BearerMessage(parsing: bytes) else { return }
    precondition(message.token.count <= bytes.count && bytes.starts(with: message.header.text.utf8))
}

private func texts(_ bytes: [UInt8]) {
    for dialect in [Base64.Dialect.plain, .padded, .url] {
        guard let decoded = Base64.decode(bytes[...], dialect) else { continue }
        precondition(Array(Base64.encode(decoded, dialect).utf8) == bytes, "one value, one text")
    }
    let text = String(decoding: bytes, as: UTF8.self)
    precondition(PeerAddress.network(of: text).utf8.count <= 256)
    if let age = KeyDownload.maxAge(cacheControl: text) { precondition((0...1 << 30).contains(age)) }
    if let verifier = try? SCRAMVerifier(parsing: text) { precondition(verifier.encoded == text) }
    if case .url(let url) = try? KeyLocation(text) {
        let isHere = ["http://1", "http://[", "http://l", "http://L"].contains(url.prefix(8))
        precondition(isHere || url.hasPrefix("https://"))
    }
    guard let file = try? UserFile(parsing: bytes, file: "f") else { return }
    precondition((try? UserFile(parsing: Array(file.encoded.utf8), file: "f")) == file)
}
