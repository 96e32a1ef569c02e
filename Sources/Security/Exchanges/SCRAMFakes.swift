/// Verifiers for users who have none, so that an exchange with them looks like any other and fails at its end.

/// Makes fakes by name: the same one whenever somebody asks.
struct SCRAMFakes: Sendable {
    private let key: [UInt8]
    /// The rounds that most verifiers of the user file ask for, as those of the fakes must not stand out.
    let iterations: Int
    /// Whether anybody has a verifier: without, the mechanism is not offered.
    let isOffered: Bool

    init(key: [UInt8], users: [User]) {
        self.key = key
        var counts: [Int: Int] = [:]
        for user in users {
            if let scram = user.scram { counts[scram.iterations, default: 0] += 1 }
        }
        isOffered = !counts.isEmpty
        iterations =
            counts.max { ($0.value, $0.key) < ($1.value, $1.key) }?.key ?? SCRAMVerifier.standardIterations
    }

    /// The fake of a name.
    func verifier(for name: String) throws(ScryptError) -> SCRAMVerifier {
        let salt = try Digest.sha256.hmac(key: key, Array("salt:\(name)".utf8))
        let key = try Digest.sha256.hmac(key: self.key, Array("key:\(name)".utf8))
        return SCRAMVerifier(
            fakeSalt: Array(salt.prefix(SCRAMVerifier.saltBytes)), key: key, iterations: iterations)
    }
}
