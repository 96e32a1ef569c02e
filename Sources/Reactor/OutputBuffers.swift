/// The buffers that a lane's connections write to, small and large. Some are kept for the next pass; the rest is the
/// system's. Confined to the lane.
struct OutputBuffers {
    /// Bytes of a large one: it is sent when full, never grown.
    static let largeSize = 1 << 16
    /// Bytes of a small one, a connection's first window in a pass.
    static let smallSize = 1 << 10
    private static let largeKept = 32
    private static let smallKept = 128

    private var large: [UnsafeMutableRawPointer] = []
    private var small: [UnsafeMutableRawPointer] = []

    static func size(isLarge: Bool) -> Int { isLarge ? largeSize : smallSize }

    @inline(__always)
    mutating func take(isLarge: Bool) -> UnsafeMutableRawPointer {
        isLarge
            ? large.popLast() ?? .allocate(byteCount: Self.largeSize, alignment: 4_096)
            : small.popLast() ?? .allocate(byteCount: Self.smallSize, alignment: 16)
    }

    @inline(__always)
    mutating func give(_ buffer: UnsafeMutableRawPointer, isLarge: Bool) {
        if isLarge {
            if large.count < Self.largeKept { large.append(buffer) } else { buffer.deallocate() }
        } else {
            if small.count < Self.smallKept { small.append(buffer) } else { buffer.deallocate() }
        }
    }

    /// Releases those that are kept.
    mutating func release() {
        for buffer in large + small { buffer.deallocate() }
        (large, small) = ([], [])
    }
}
