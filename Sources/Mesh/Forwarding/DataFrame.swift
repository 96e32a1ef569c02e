/// Frames that carry events: a header and a destination set that every node on the way rewrites, and what is sealed
/// behind them, which nobody but the origin and the destinations looks at.
///
///     0  header: length u24, type, flags, class, time to live, lane
///     8  origin u16, area u16, namespace u16, destinations u16 (kind in the upper 4 bits, 0 = list)
///     16 origin's epoch u64
///     24 for each destination: short id u16, epoch tag u16, counter u32
///        sealed: see ``EventContent``

/// One destination of a frame. 8 bytes.
struct Destination: BitwiseCopyable, Equatable {
    /// The node's number.
    var shortID: UInt16
    /// Which life of it is meant: the lower 16 bits of the counted part of its epoch, so that two lives that follow one
    /// another always differ.
    var epochTag: UInt16
    /// Counts the frames of this origin, lane (or stream) and destination, from 1.
    var counter: UInt32

    static let size = 8

    static func tag(ofEpoch epoch: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: epoch >> 16) }
}

/// A frame with events as received, borrowed.
struct DataFrame: BitwiseCopyable {
    /// Bytes in front of the destinations.
    static let fixedSize = 24
    /// Destinations of one frame at most: all nodes of an area.
    static let maxDestinations = 1_024

    /// The whole frame.
    let bytes: UnsafeRawBufferPointer
    let header: FrameHeader
    let originID: UInt16
    let namespace: UInt16
    let originEpoch: UInt64
    let destinationCount: Int

    /// Looks at a complete frame of type data or stream data; nil when it is malformed.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.fixedSize, let base = bytes.baseAddress else { return nil }
        self.bytes = bytes
        header = FrameHeader(base)
        originID = UInt16(littleEndian: base.loadUnaligned(fromByteOffset: 8, as: UInt16.self))
        let area = UInt16(littleEndian: base.loadUnaligned(fromByteOffset: 10, as: UInt16.self))
        namespace = UInt16(littleEndian: base.loadUnaligned(fromByteOffset: 12, as: UInt16.self))
        let word = UInt16(littleEndian: base.loadUnaligned(fromByteOffset: 14, as: UInt16.self))
        originEpoch = UInt64(littleEndian: base.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        destinationCount = Int(word & 0xFFF)
        // One area and lists only, so far; other kinds are for meshes that say so when they shake hands.
        guard area == 0, word >> 12 == 0, destinationCount > 0, destinationCount <= Self.maxDestinations else {
            return nil
        }
        guard bytes.count >= sealedOffset else { return nil }
    }

    @inline(__always)
    func destination(_ index: Int) -> Destination {
        guard let base = bytes.baseAddress else { return Destination(shortID: 0, epochTag: 0, counter: 0) }
        let word = UInt64(
            littleEndian: base.loadUnaligned(fromByteOffset: Self.fixedSize + index * Destination.size, as: UInt64.self)
        )
        return Destination(
            shortID: UInt16(truncatingIfNeeded: word), epochTag: UInt16(truncatingIfNeeded: word >> 16),
            counter: UInt32(truncatingIfNeeded: word >> 32))
    }

    private var sealedOffset: Int { Self.fixedSize + destinationCount * Destination.size }

    /// What the origin has sealed.
    var sealed: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[sealedOffset...]) }

    /// The same with other destinations.
    func copy(_ destinations: [Destination]) -> [UInt8] {
        let length = Self.size(destinations: destinations.count, sealed: sealed.count)
        return [UInt8](unsafeUninitializedCapacity: length) { buffer, count in
            guard let base = UnsafeMutableRawPointer(buffer.baseAddress), let from = bytes.baseAddress else {
                return
            }
            base.copyMemory(from: from, byteCount: Self.fixedSize)
            var header = self.header
            header.length = length
            header.write(to: base)
            let word = UInt16(truncatingIfNeeded: destinations.count) & 0xFFF
            base.storeBytes(of: word.littleEndian, toByteOffset: 14, as: UInt16.self)
            for (index, destination) in destinations.enumerated() { Self.write(destination, at: index, to: base) }
            let sealed = self.sealed
            if let from = sealed.baseAddress {
                (base + (length - sealed.count)).copyMemory(from: from, byteCount: sealed.count)
            }
            count = length
        }
    }

    /// The same frame without what is sealed: a policy keeps that back.
    func hole(_ destinations: [Destination]) -> [UInt8] {
        var frame = copy(destinations)
        frame.removeLast(min(sealed.count, frame.count))
        var header = self.header
        header.length = frame.count
        header.flags |= StreamFlags.void | StreamFlags.keptBack
        frame.withUnsafeMutableBytes { if let base = $0.baseAddress { header.write(to: base) } }
        return frame
    }

    /// Bytes of a frame.
    static func size(destinations: Int, sealed: Int) -> Int { fixedSize + destinations * Destination.size + sealed }

    /// Writes what stands in front of the destinations.
    static func write(
        to base: UnsafeMutableRawPointer, length: Int, type: FrameType, frameClass: FrameClass, timeToLive: UInt8,
        lane: UInt8, flags: UInt8, originID: UInt16, namespace: UInt16, originEpoch: UInt64, destinations: Int
    ) {
        var header = FrameHeader(length: length, type: type, frameClass: frameClass)
        header.timeToLive = timeToLive
        header.lane = lane
        header.flags = flags
        header.write(to: base)
        let word =
            UInt64(originID) | UInt64(namespace) << 32 | UInt64(UInt16(truncatingIfNeeded: destinations) & 0xFFF) << 48
        base.storeBytes(of: word.littleEndian, toByteOffset: 8, as: UInt64.self)
        base.storeBytes(of: originEpoch.littleEndian, toByteOffset: 16, as: UInt64.self)
    }

    /// Writes one destination.
    @inline(__always)
    static func write(_ destination: Destination, at index: Int, to base: UnsafeMutableRawPointer) {
        let word =
            UInt64(destination.shortID) | UInt64(destination.epochTag) << 16 | UInt64(destination.counter) << 32
        base.storeBytes(of: word.littleEndian, toByteOffset: fixedSize + index * Destination.size, as: UInt64.self)
    }
}
