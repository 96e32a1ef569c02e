/// Reads the parts of a frame's body. A part that is not there makes the reader ``isBroken`` and reads as zero or
/// empty, so that a frame is read to its end and judged once. Borrowed: valid while the bytes are.
public struct WireReader {
    private let bytes: UnsafeRawBufferPointer
    private var offset = 0
    /// Whether something was read that is not there, or not as it should be.
    public private(set) var isBroken = false

    /// Reads from the beginning.
    public init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    /// Bytes not read yet.
    public var count: Int { bytes.count - offset }
    /// Whether everything has been read, and all of it was there.
    public var isWhole: Bool { !isBroken && offset == bytes.count }

    /// What has just been read makes no sense.
    public mutating func refuse() { isBroken = true }

    private mutating func take(_ count: Int) -> UnsafeRawPointer? {
        guard !isBroken, count >= 0, bytes.count - offset >= count, let base = bytes.baseAddress else {
            isBroken = true
            return nil
        }
        defer { offset += count }
        return base + offset
    }

    /// One byte.
    public mutating func u8() -> UInt8 { take(1)?.load(as: UInt8.self) ?? 0 }
    /// Two bytes.
    public mutating func u16() -> UInt16 {
        take(2).map { UInt16(littleEndian: $0.loadUnaligned(as: UInt16.self)) } ?? 0
    }
    /// Four bytes.
    public mutating func u32() -> UInt32 {
        take(4).map { UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self)) } ?? 0
    }
    /// Eight bytes.
    public mutating func u64() -> UInt64 {
        take(8).map { UInt64(littleEndian: $0.loadUnaligned(as: UInt64.self)) } ?? 0
    }
    /// Sixteen bytes.
    public mutating func nodeID() -> NodeID {
        let high = u64()
        return NodeID(high: high, low: u64())
    }

    /// LEB128, at most ten bytes.
    public mutating func varint() -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while shift < 64 {
            let byte = u8()
            if isBroken { return 0 }
            if shift == 63, byte > 1 { break }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        isBroken = true
        return 0
    }

    /// A number of things that take at least `each` bytes: never more than can be there.
    public mutating func count(each: Int) -> Int {
        let count = varint()
        guard !isBroken, count <= UInt64(self.count / max(each, 1)) else {
            isBroken = true
            return 0
        }
        return Int(count)
    }

    /// That many bytes, where they lie.
    public mutating func bytes(_ count: Int) -> UnsafeRawBufferPointer {
        guard let start = take(count) else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        return UnsafeRawBufferPointer(start: start, count: count)
    }

    /// A length as a varint and that many bytes, where they lie.
    public mutating func block() -> UnsafeRawBufferPointer {
        let length = count(each: 1)
        return bytes(length)
    }

    /// A length and UTF-8 text of at most `max` bytes.
    public mutating func text(max: Int) -> String {
        let block = block()
        guard !isBroken, block.count <= max, let text = String(validating: block, as: UTF8.self) else {
            isBroken = true
            return ""
        }
        return text
    }

    /// All that is left.
    public mutating func rest() -> UnsafeRawBufferPointer { bytes(count) }
}
