import Core

/// Comparing bytes with words; case matters.
extension UnsafeRawBufferPointer {
    /// Whether the bytes are a word.
    @inline(__always)
    func isEqual(_ word: StaticString) -> Bool {
        guard count == word.utf8CodeUnitCount else { return false }
        guard let base = baseAddress else { return true }
        return bytesEqual(base, UnsafeRawPointer(word.utf8Start), count)
    }

    /// Whether the bytes are the same as others.
    @inline(__always)
    func isEqual(_ other: UnsafeRawBufferPointer) -> Bool {
        guard count == other.count else { return false }
        guard let base = baseAddress, let otherBase = other.baseAddress else { return true }
        return bytesEqual(base, otherBase, count)
    }

    /// Whether the bytes begin with a word.
    @inline(__always)
    func starts(with word: StaticString) -> Bool {
        count >= word.utf8CodeUnitCount && upTo(word.utf8CodeUnitCount).isEqual(word)
    }

    /// The bytes from an offset on.
    @inline(__always)
    func from(_ offset: Int) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: self[offset...]) }

    /// The bytes up to an offset.
    @inline(__always)
    func upTo(_ offset: Int) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: self[..<offset]) }
}
