/// Numbers that look random and are the same for the same seed: SplitMix64.
struct Randomness {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    /// A source of its own for one component: what one draws does not change what another gets.
    func split(_ label: UInt64, _ number: Int = 0) -> Randomness {
        Randomness(seed: Self.mix(Self.mix(state ^ label &* 0xD6E8_FEB8_6659_FD93) ^ UInt64(bitPattern: Int64(number))))
    }

    static func mix(_ value: UInt64) -> UInt64 {
        var z = value &+ 0x9E37_79B9_7F4A_7C15
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }

    mutating func next() -> UInt64 {
        defer { state &+= 0x9E37_79B9_7F4A_7C15 }
        return Self.mix(state)
    }

    /// 0 to `limit` - 1; 0 when there is nothing to choose from.
    mutating func below(_ limit: Int) -> Int { limit <= 1 ? 0 : Int(next() % UInt64(limit)) }

    mutating func between(_ range: ClosedRange<Int>) -> Int { range.lowerBound + below(range.count) }

    mutating func chance(_ probability: Double) -> Bool {
        Double(next() >> 11) / Double(1 << 53) < probability
    }

    mutating func pick<Element>(_ choices: [Element]) -> Element { choices[below(choices.count)] }

    /// A number whose logarithm is evenly spread: short times and long ones are equally likely.
    mutating func logarithmic(_ range: ClosedRange<Int>) -> Int {
        var low = range.lowerBound
        var steps = 0
        while low < range.upperBound, low > 0 {
            low *= 2
            steps += 1
        }
        let base = range.lowerBound << below(max(steps, 1))
        return min(base + below(base), range.upperBound)
    }

    /// 0 to `count` - 1, the small ones more often: Zipf's law with exponent 1, nearly.
    mutating func zipf(_ count: Int) -> Int {
        // The smallest of a few numbers whose range halves: close enough, and without logarithms.
        var limit = count
        while limit > 1, chance(0.6) { limit = (limit + 1) / 2 }
        return below(limit)
    }
}

/// A hash over everything that happens. The same seed gives the same one (I20).
struct TraceHash {
    private(set) var value: UInt64 = 0x6170_7573
    private(set) var count = 0

    mutating func note(_ a: UInt64, _ b: UInt64 = 0) {
        value = (value ^ a) &* 0x9E37_79B9_7F4A_7C15
        value = (value ^ value >> 29 ^ b) &* 0xBF58_476D_1CE4_E5B9
        value ^= value >> 32
        count += 1
    }

    mutating func note(_ bytes: UnsafeRawBufferPointer) {
        var sum: UInt64 = UInt64(bytes.count)
        var offset = 0
        while offset + 8 <= bytes.count {
            sum = (sum ^ bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) &* 0x9E37_79B9_7F4A_7C15
            sum ^= sum >> 32
            offset += 8
        }
        while offset < bytes.count {
            sum = (sum ^ UInt64(bytes[offset])) &* 0xBF58_476D_1CE4_E5B9
            offset += 1
        }
        note(sum)
    }
}
