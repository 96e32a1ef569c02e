import Glibc

/// Repeatable randomness (SplitMix64), the same on every machine.
///
/// Either for a seed, or for a number that keeps the tests of a process apart: then the process has a seed, which is
/// drawn once or taken from the environment variable APUS_SEED, and every expectation ends with ``note``, so that a
/// failure says how to repeat it.
public struct Seeded: RandomNumberGenerator, Sendable {
    private static let wantedSeed = getenv("APUS_SEED").flatMap { UInt64(String(cString: $0)) }
    private static let processSeed = wantedSeed ?? UInt64.random(in: 1...999_999_999)

    private var state: UInt64

    /// Random numbers of this process.
    /// - Parameter stream: keeps the random numbers of different tests apart.
    public init(_ stream: UInt64) { state = Self.processSeed &+ stream &* 0xD1B5_4A32_D192_ED03 }

    /// The random numbers of a seed.
    public init(seed: UInt64) { state = seed }

    /// The seeds of a test that is run with several: APUS_SEED alone, when it is set.
    public static var seeds: [UInt64] { wantedSeed.map { [$0] } ?? Array(1...40) }

    /// How to repeat what failed.
    public var note: String { "repeat with APUS_SEED=\(Self.processSeed)" }

    /// The next 64 random bits.
    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }

    /// A number from 0 up to, not including, `bound`.
    public mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }

    /// True once in `times`.
    public mutating func once(in times: Int) -> Bool { below(times) == 0 }

    /// One of several.
    public mutating func pick<Element>(_ choices: [Element]) -> Element { choices[below(choices.count)] }
}
