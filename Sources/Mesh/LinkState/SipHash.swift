/// SipHash-2-4 with a fixed key: the same on every node and in every version, unlike the hashing of the standard
/// library, which is seeded anew in every process. What nodes must agree on is made of it: ties between paths, digests.
struct SipHash {
    private var v0: UInt64
    private var v1: UInt64
    private var v2: UInt64
    private var v3: UInt64
    private var count: UInt64 = 0

    /// The key is two little-endian words.
    init(key0: UInt64, key1: UInt64) {
        v0 = key0 ^ 0x736F_6D65_7073_6575
        v1 = key1 ^ 0x646F_7261_6E64_6F6D
        v2 = key0 ^ 0x6C79_6765_6E65_7261
        v3 = key1 ^ 0x7465_6462_7974_6573
    }

    @inline(__always)
    private mutating func round() {
        v0 &+= v1
        v1 = (v1 << 13 | v1 >> 51) ^ v0
        v0 = v0 << 32 | v0 >> 32
        v2 &+= v3
        v3 = (v3 << 16 | v3 >> 48) ^ v2
        v0 &+= v3
        v3 = (v3 << 21 | v3 >> 43) ^ v0
        v2 &+= v1
        v1 = (v1 << 17 | v1 >> 47) ^ v2
        v2 = v2 << 32 | v2 >> 32
    }

    /// Takes eight bytes, little-endian.
    @inline(__always)
    mutating func append(_ word: UInt64) {
        v3 ^= word
        round()
        round()
        v0 ^= word
        count &+= 8
    }

    /// The hash of the words, and of up to seven bytes after them.
    @inline(__always)
    consuming func finish(_ rest: UInt64 = 0, bytes: Int = 0) -> UInt64 {
        let length = count &+ UInt64(bytes)
        append(rest | length << 56)
        v2 ^= 0xFF
        round()
        round()
        round()
        round()
        return v0 ^ v1 ^ v2 ^ v3
    }
}

extension SipHash {
    /// "ML1-tie" and "ML1-dig".
    private static let tieKey: UInt64 = 0x0065_6974_2D31_4C4D
    private static let digestKey: UInt64 = 0x0067_6964_2D31_4C4D

    /// What decides between paths of equal cost: 48 bits of a link, the same at both ends. The sum over a path of 1,024
    /// links fits 58 bits. Never 0, so that a longer path always has a larger sum.
    static func tie(_ a: NodeID, _ aLink: UInt16, _ b: NodeID, _ bLink: UInt16) -> UInt64 {
        let isOrdered = a < b || (a == b && aLink <= bLink)
        let (small, large) = isOrdered ? (a, b) : (b, a)
        let links = isOrdered ? (aLink, bLink) : (bLink, aLink)
        var hash = SipHash(key0: tieKey, key1: 0)
        hash.append(small.high)
        hash.append(small.low)
        hash.append(large.high)
        hash.append(large.low)
        return max(1, hash.finish(UInt64(links.0) | UInt64(links.1) << 16, bytes: 4) >> 16)
    }

    /// What an advertisement adds to the digest of all.
    static func digest(_ id: NodeID, _ version: AdvertisementVersion) -> UInt64 {
        var hash = SipHash(key0: digestKey, key1: 0)
        hash.append(id.high)
        hash.append(id.low)
        hash.append(version.epoch)
        hash.append(version.sequence)
        return hash.finish()
    }
}
