/// All issuers, and what their keys say of a token.

/// The issuers that are configured, each with the place of its keys.
struct TokenVerifier: Sendable {
    struct Entry: Sendable {
        var issuer: TokenIssuer
        var store: KeyStore
    }

    /// What is known of a token.
    enum Verdict: Sendable {
        case proven(TokenProof)
        case refused(TokenRefusal)
        /// Its key is not there; it may come.
        case unknownKey(KeyStore, TokenRefusal)
    }

    var entries: [Entry] = []

    /// The most issuers that one node takes tokens of.
    static let maxIssuers = 64

    var isEmpty: Bool { entries.isEmpty }
    var stores: [KeyStore] {
        var stores: [KeyStore] = []
        for entry in entries where !stores.contains(where: { $0 === entry.store }) { stores.append(entry.store) }
        return stores
    }

    /// Verifies a token. Takes some tens of microseconds for each key that is tried.
    /// - Parameters:
    ///   - wall: milliseconds since 1970.
    ///   - monotonic: nanoseconds, for the age of keys.
    func verify(_ bytes: [UInt8], wall: Int64, monotonic: UInt64) -> Verdict {
        let token: Token
        do throws(TokenRefusal) { token = try Token(parsing: bytes) } catch { return .refused(error) }
        // Not believed yet, but it says whose key to ask.
        let claimed = token.claims["iss"]?.text
        var verdict = Verdict.refused(TokenRefusal("it is of an issuer that is not configured"))
        for entry in entries where entry.issuer.issuer == claimed {
            let next = verify(token, entry, wall, monotonic)
            if case .proven = next { return next }
            // What an issuer that has signed it says of it says more than that another one has not.
            if case .refused(let refusal) = verdict, refusal.isSigned { continue }
            verdict = next
        }
        return verdict
    }

    private func verify(_ token: Token, _ entry: Entry, _ wall: Int64, _ monotonic: UInt64) -> Verdict {
        guard entry.issuer.algorithms.contains(token.algorithm) else {
            return .refused(TokenRefusal("algorithm \(token.algorithm.rawValue) is not among those of the issuer"))
        }
        let keys: KeySet
        do throws(KeyStore.Failure) { keys = try entry.store.keys(now: monotonic) } catch {
            return .unknownKey(entry.store, TokenRefusal(error.reason, isGuess: false))
        }
        let candidates = keys.candidates(token.algorithm, identifier: token.keyIdentifier)
        guard !candidates.isEmpty else {
            guard let identifier = token.keyIdentifier else {
                let reason = "no key of the issuer fits \(token.algorithm.rawValue)"
                return .unknownKey(entry.store, TokenRefusal(reason, isGuess: false))
            }
            let name = identifier.prefix(64)
            if keys.has(identifier) {
                return .refused(TokenRefusal("the key '\(name)' is not for \(token.algorithm.rawValue)"))
            }
            return .unknownKey(entry.store, TokenRefusal("the key '\(name)' is unknown", isGuess: false))
        }
        guard candidates.contains(where: { $0.verifies(token.signature, of: token.signedBytes, token.algorithm) })
        else {
            let refusal = TokenRefusal("its signature is wrong")
            // Without a name it may be that of a key that came after ours.
            return token.keyIdentifier == nil ? .unknownKey(entry.store, refusal) : .refused(refusal)
        }
        do throws(TokenRefusal) {
            return .proven(try TokenProof(token.claims, of: entry.issuer, now: wall))
        } catch {
            return .refused(error)
        }
    }
}
