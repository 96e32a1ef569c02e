/// Comparing and hashing raw bytes. Core has no C library, and the data path must not make a String of a topic.

/// Whether `count` bytes at `a` and `b` are the same.
@inlinable @inline(__always)
public func bytesEqual(_ a: UnsafeRawPointer, _ b: UnsafeRawPointer, _ count: Int) -> Bool {
    if count >= 8 {
        var offset = 0
        let last = count &- 8
        while offset < last {
            if a.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
                != b.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            {
                return false
            }
            offset &+= 8
        }
        // The last eight bytes may overlap those already compared: cheaper than a loop over the rest.
        return a.loadUnaligned(fromByteOffset: last, as: UInt64.self)
            == b.loadUnaligned(fromByteOffset: last, as: UInt64.self)
    }
    var offset = 0
    while offset < count {
        if a.load(fromByteOffset: offset, as: UInt8.self) != b.load(fromByteOffset: offset, as: UInt8.self) {
            return false
        }
        offset &+= 1
    }
    return true
}

/// A keyed 64-bit hash of `count` bytes (multiply and fold, as in wyhash).
///
/// The key is random per process, so a peer that chooses topics cannot choose their places in a table.
@inlinable @inline(__always)
public func hashBytes(_ bytes: UnsafeRawPointer, _ count: Int, key: UInt64) -> UInt64 {
    let first: UInt64
    let second: UInt64
    var state = key ^ (UInt64(truncatingIfNeeded: count) &* 0x9E37_79B9_7F4A_7C15)
    if count >= 8 {
        var offset = 0
        while offset &+ 16 < count {
            state = foldedProduct(
                bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self) ^ 0xA076_1D64_78BD_642F,
                bytes.loadUnaligned(fromByteOffset: offset &+ 8, as: UInt64.self) ^ state)
            offset &+= 16
        }
        first = bytes.loadUnaligned(fromByteOffset: offset <= count &- 8 ? offset : count &- 8, as: UInt64.self)
        second = bytes.loadUnaligned(fromByteOffset: count &- 8, as: UInt64.self)
    } else if count >= 4 {
        first = UInt64(bytes.loadUnaligned(as: UInt32.self))
        second = UInt64(bytes.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self))
    } else if count > 0 {
        first =
            UInt64(bytes.load(as: UInt8.self)) << 16
            | UInt64(bytes.load(fromByteOffset: count >> 1, as: UInt8.self)) << 8
            | UInt64(bytes.load(fromByteOffset: count &- 1, as: UInt8.self))
        second = 0
    } else {
        first = 0
        second = 0
    }
    return foldedProduct(first ^ 0xE703_7ED1_A0B4_28DB ^ key, second ^ 0x8EBC_6AF0_9C88_C6E3 ^ state)
}

/// The two halves of a 128-bit product, folded into one word.
@inlinable @inline(__always)
public func foldedProduct(_ a: UInt64, _ b: UInt64) -> UInt64 {
    let product = a.multipliedFullWidth(by: b)
    return product.high ^ product.low
}
