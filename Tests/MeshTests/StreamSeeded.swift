import Glibc

/// Repeatable randomness (SplitMix64). The seed is drawn once per process, or taken from the environment variable
/// APUS_SEED; every expectation about random input ends with ``note``, so that a failure says how to repeat it.
struct Seeded: RandomNumberGenerator {
    private static let processSeed: UInt64 = {
        if let text = getenv("APUS_SEED"), let seed = UInt64(String(cString: text)) { return seed }
        return UInt64.random(in: 1...999_999_999)
    }()

    private var state: UInt64

    /// - Parameter stream: keeps the random numbers of different tests apart.
    init(_ stream: UInt64) { state = Self.processSeed &+ stream &* 0xD1B5_4A32_D192_ED03 }

    /// How to repeat what failed.
    var note: String { "repeat with APUS_SEED=\(Self.processSeed)" }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }

    /// A number from 0 up to, not including, `bound`.
    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }

    /// True once in `times`.
    mutating func once(in times: Int) -> Bool { below(times) == 0 }

    mutating func pick<Element>(_ choices: [Element]) -> Element { choices[below(choices.count)] }
}
