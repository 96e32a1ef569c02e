/// The messages of SCRAM-SHA-256 (RFC 5802 §5 and §7, RFC 7677) and their arithmetic, without any state.

/// What a client says first: `n,,n=user,r=nonce`.
struct SCRAMClientFirst: Equatable {
    /// The longest message: a name of full length, each character escaped, and room for a nonce.
    static let maxBytes = 2_048
    /// The longest nonce of a client.
    static let maxNonceBytes = 256

    let header: SASLHeader
    let user: String
    let nonce: String
    /// All behind the header; part of what is proven.
    let bare: String

    init(parsing message: [UInt8]) throws(SASLFailure) {
        guard message.count <= Self.maxBytes else { throw SASLFailure("the message is too long") }
        guard isText(message) else { throw SASLFailure("the message is no UTF-8") }
        let (header, rest) = try SASLHeader.take(from: message)
        self.header = header
        bare = String(decoding: rest, as: UTF8.self)
        let fields = rest.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        if fields[0].starts(with: "m=".utf8) {
            throw SASLFailure("the client asks for extensions", word: "extensions-not-supported")
        }
        guard fields.count >= 2, fields[0].starts(with: "n=".utf8), fields[1].starts(with: "r=".utf8),
            let user = SASLHeader.unescaped(fields[0].dropFirst(2)), !user.isEmpty
        else { throw SASLFailure("the first message is malformed", word: "other-error") }
        let nonce = fields[1].dropFirst(2)
        guard Self.isNonce(nonce), nonce.count <= Self.maxNonceBytes else {
            throw SASLFailure("the nonce is malformed", word: "other-error")
        }
        self.user = user
        self.nonce = String(decoding: nonce, as: UTF8.self)
    }

    private static func isNonce(_ text: ArraySlice<UInt8>) -> Bool {
        !text.isEmpty && text.allSatisfy { (0x21...0x7E).contains($0) && $0 != UInt8(ascii: ",") }
    }
}

/// Whether bytes are UTF-8 without NUL.
private func isText(_ bytes: [UInt8]) -> Bool { !bytes.contains(0) && String(validating: bytes, as: UTF8.self) != nil }

/// What a client says at the end: `c=biws,r=nonce,p=proof`.
struct SCRAMClientFinal: Equatable {
    /// The longest message: two nonces, a header with a name, a proof.
    static let maxBytes = 4_096

    /// The channel binding as it was written.
    let binding: String
    let nonce: String
    let proof: [UInt8]
    /// All before the proof.
    let withoutProof: String

    init(parsing message: [UInt8]) throws(SASLFailure) {
        guard message.count <= Self.maxBytes else { throw SASLFailure("the message is too long") }
        guard isText(message) else { throw SASLFailure("the message is no UTF-8") }
        let fields = message.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        guard let last = fields.last, fields.count >= 3, fields[0].starts(with: "c=".utf8),
            fields[1].starts(with: "r=".utf8), last.starts(with: "p=".utf8),
            let proof = Base64.decode(last.dropFirst(2), .padded)
        else { throw SASLFailure("the final message is malformed", word: "other-error") }
        binding = String(decoding: fields[0].dropFirst(2), as: UTF8.self)
        nonce = String(decoding: fields[1].dropFirst(2), as: UTF8.self)
        self.proof = proof
        withoutProof = String(decoding: message[..<(last.startIndex - 1)], as: UTF8.self)
    }
}

/// The server's side between the two.
struct SCRAMServer {
    let first: SCRAMClientFirst
    let verifier: SCRAMVerifier
    /// The client's nonce and ours.
    let nonce: String
    /// What the client is asked.
    let challenge: String

    /// Bytes of our part of the nonce; RFC 5802 asks for what nobody can guess.
    static let nonceBytes = 24

    init(_ first: SCRAMClientFirst, _ verifier: SCRAMVerifier, nonce ours: String) {
        self.first = first
        self.verifier = verifier
        nonce = first.nonce + ours
        challenge = "r=\(nonce),s=\(Base64.encode(verifier.salt, .padded)),i=\(verifier.iterations)"
    }

    /// Checks the client's last message.
    /// - Returns: what proves to the client that we know its verifier; nil when the proof is wrong.
    func signature(for final: SCRAMClientFinal) throws(SASLFailure) -> String? {
        guard final.binding == Base64.encode(Array(first.header.text.utf8), .padded) else {
            throw SASLFailure("the header is another one than at the beginning", word: "channel-bindings-dont-match")
        }
        guard final.nonce == nonce else { throw SASLFailure("the nonce is another one", word: "other-error") }
        let message = Array("\(first.bare),\(challenge),\(final.withoutProof)".utf8)
        do throws(ScryptError) {
            let signature = try Digest.sha256.hmac(key: verifier.storedKey, message)
            let answer = try Digest.sha256.hmac(key: verifier.serverKey, message)
            guard final.proof.count == signature.count else { return nil }
            let clientKey = zip(final.proof, signature).map { $0 ^ $1 }
            guard isSame(try Digest.sha256(clientKey), verifier.storedKey) else { return nil }
            return Base64.encode(answer, .padded)
        } catch {
            throw SASLFailure("libcrypto could not check the proof", word: "other-error")
        }
    }
}
