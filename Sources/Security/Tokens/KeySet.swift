/// A set of keys (RFC 7517 §5), and which of them a token may have been signed with.

/// The keys of an issuer. Immutable.
struct KeySet: Sendable {
    let keys: [SigningKey]
    /// What was left out, one reason for each key, for the log.
    let omissions: [String]

    /// The largest text.
    static let maxBytes = 256 << 10
    /// Keys in a set.
    static let maxKeys = 64
    /// Keys that are tried for a token that does not name one.
    static let maxCandidates = 8

    /// Reads a set. Keys of unknown kinds and such that cannot be used are left out (RFC 7517 §5).
    /// - Throws: why there is no usable key.
    init(parsing bytes: [UInt8]) throws(StrictJSON.Failure) {
        guard bytes.count <= Self.maxBytes else { throw .init("the key set is larger than \(Self.maxBytes) bytes") }
        guard let list = try StrictJSON(bytes[...]).members?["keys"]?.elements else {
            throw .init("the text is no key set: an object with the list 'keys' is expected")
        }
        guard list.count <= Self.maxKeys else { throw .init("the key set has more than \(Self.maxKeys) keys") }
        var keys: [SigningKey] = []
        var omissions: [String] = []
        for (index, value) in list.enumerated() {
            guard let members = value.members else { throw .init("keys[\(index)] is no object") }
            do throws(StrictJSON.Failure) {
                keys.append(try SigningKey(members))
            } catch {
                omissions.append("keys[\(index)]: \(error.reason)")
            }
        }
        guard !keys.isEmpty else {
            throw .init("the key set has no usable key" + (omissions.first.map { " (\($0))" } ?? ""))
        }
        self.keys = keys
        self.omissions = omissions
    }

    /// The keys that a token with these words in its header may have been signed with. A named key is never replaced by
    /// another one.
    func candidates(_ algorithm: TokenAlgorithm, identifier: String?) -> [SigningKey] {
        let fitting = keys.filter { $0.fits(algorithm) && (identifier == nil || $0.identifier == identifier) }
        return Array(fitting.prefix(Self.maxCandidates))
    }

    /// Whether there is a key with this name, of whatever type.
    func has(_ identifier: String) -> Bool { keys.contains { $0.identifier == identifier } }

    /// Whether all keys of this set are in the other one as well, with the same names and for the same algorithms.
    func isContained(in other: KeySet) -> Bool {
        keys.allSatisfy { key in
            other.keys.contains {
                $0.identifier == key.identifier && $0.kind == key.kind && $0.algorithm == key.algorithm
                    && $0.material == key.material
            }
        }
    }
}
