/// Writes a frame: header first, the length put in by ``finish()``. For control frames; events have their own way.
public struct WireWriter {
    /// What has been written.
    public private(set) var bytes: [UInt8]

    /// Begins a frame.
    public init(_ type: FrameType, _ frameClass: FrameClass = .control, capacity: Int = 64) {
        bytes = []
        bytes.reserveCapacity(capacity)
        bytes.append(contentsOf: repeatElement(0, count: FrameHeader.size))
        let header = FrameHeader(length: 0, type: type, frameClass: frameClass)
        bytes.withUnsafeMutableBytes { if let base = $0.baseAddress { header.write(to: base) } }
    }

    /// Bytes so far, header included.
    public var count: Int { bytes.count }

    /// One byte.
    public mutating func u8(_ value: UInt8) { bytes.append(value) }
    /// Two bytes.
    public mutating func u16(_ value: UInt16) { integer(value.littleEndian) }
    /// Four bytes.
    public mutating func u32(_ value: UInt32) { integer(value.littleEndian) }
    /// Eight bytes.
    public mutating func u64(_ value: UInt64) { integer(value.littleEndian) }
    /// Sixteen bytes.
    public mutating func nodeID(_ value: NodeID) {
        u64(value.high)
        u64(value.low)
    }

    private mutating func integer(_ value: some FixedWidthInteger) {
        withUnsafeBytes(of: value) { bytes.append(contentsOf: $0) }
    }

    /// LEB128.
    public mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: rest))
    }

    /// Bytes without a length.
    public mutating func raw(_ value: some Sequence<UInt8>) { bytes.append(contentsOf: value) }

    /// A length and bytes.
    public mutating func block(_ value: some Collection<UInt8>) {
        varint(UInt64(value.count))
        bytes.append(contentsOf: value)
    }

    /// A length and UTF-8 text.
    public mutating func text(_ value: String) { block(value.utf8) }

    /// The frame, with its length in the header.
    public consuming func finish() -> [UInt8] {
        let length = bytes.count
        bytes[0] = UInt8(truncatingIfNeeded: length)
        bytes[1] = UInt8(truncatingIfNeeded: length >> 8)
        bytes[2] = UInt8(truncatingIfNeeded: length >> 16)
        return bytes
    }
}
