import COpenSSL
import Core

/// Requests that may be repeated: what the header `Idempotency-Key` means, and the digests that stand for a user's key
/// and for a request. `IdempotencyWindow` remembers them.
enum Idempotency {
    /// The header that says that an answer was given before.
    static let replayed = "Idempotency-Replayed"

    /// What becomes of a request with a key.
    enum Verdict {
        /// It is to be carried out; ``IdempotencyTicket/settle(_:)`` or ``IdempotencyTicket/abandon()`` follows.
        case proceed(IdempotencyTicket)
        /// It was carried out before, and this was the answer.
        case repeated(HTTPResponse)
    }

    /// Judges a request that has a key.
    /// - Parameters:
    ///   - key: the header's value.
    ///   - method: as sent, like `target` and `body`; together they say whether a request is the same.
    /// - Throws: 400 for a key that is none, 409 while the first is under way, 422 when the request is another one.
    static func judge(
        key: some Collection<UInt8>, method: UnsafeRawBufferPointer, target: UnsafeRawBufferPointer,
        body: UnsafeRawBufferPointer, _ principal: Principal, _ window: IdempotencyWindow, now: UInt64
    ) throws(Problem) -> Verdict {
        guard !key.isEmpty, key.count <= IdempotencyWindow.maxKeyBytes else {
            throw Problem(400, "Idempotency-Key has from 1 to \(IdempotencyWindow.maxKeyBytes) bytes.")
        }
        var owner = Digest.Maker(window.secret)
        owner.add(Array(principal.identity.namespace.utf8))
        // A client without a name is not the user whose name is empty.
        owner.add(principal.identity.user.map { [1] + Array($0.utf8) } ?? [0])
        owner.add(Array(key))
        var request = Digest.Maker(window.secret)
        request.add(method)
        request.add(target)
        request.add(body)
        guard let owner = owner.finish(), let request = request.finish() else {
            throw Problem(500, "The request's digest could not be made.")
        }
        switch window.claim(owner, request, now: now) {
        case .new(let ticket): return .proceed(ticket)
        case .answered(var response):
            response.headers.add(replayed, "true")
            return .repeated(response)
        case .answeredAtLength(let status):
            throw Problem(
                409,
                "The request was carried out before and answered with \(status); answers of more than "
                    + "\(IdempotencyWindow.maxAnswerBytes) bytes are not kept.")
        case .underWay: throw .later(409, "The first request with this Idempotency-Key has no answer yet.", seconds: 1)
        case .different: throw Problem(422, "This Idempotency-Key was used for another request.")
        }
    }
}

/// 128 bits that stand for something longer.
struct Digest: Hashable, Sendable {
    var high: UInt64
    var low: UInt64

    /// Half of SHA-256 over parts, each behind its length.
    struct Maker: ~Copyable {
        private let context: OpaquePointer?
        private var isFine = true

        /// - Parameter secret: keyed with a secret, digests cannot be foretold.
        init(_ secret: [UInt64] = []) {
            context = EVP_MD_CTX_new()
            isFine = EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1
            secret.withUnsafeBytes { add($0) }
        }

        deinit { EVP_MD_CTX_free(context) }

        mutating func add(_ part: UnsafeRawBufferPointer) {
            var length = UInt64(part.count).littleEndian
            isFine = isFine && EVP_DigestUpdate(context, &length, 8) == 1
            if let base = part.baseAddress { isFine = isFine && EVP_DigestUpdate(context, base, part.count) == 1 }
        }

        mutating func add(_ part: [UInt8]) { part.withUnsafeBytes { add($0) } }

        /// The digest; nil when the library had no memory.
        mutating func finish() -> Digest? {
            var output = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
            guard isFine, EVP_DigestFinal_ex(context, &output, nil) == 1 else { return nil }
            return output.withUnsafeBytes {
                Digest(
                    high: $0.loadUnaligned(as: UInt64.self), low: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            }
        }
    }
}
