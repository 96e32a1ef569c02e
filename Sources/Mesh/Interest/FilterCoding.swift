import Core

/// How filters stand in frames: their canonical forms (``TopicFilter/canonical``), each without what it shares with the
/// one before it, in front and at the end. Sorted, filters take few bytes each.
///
///     begins varint, begins absent varint, ends varint: how many of each follow, in this order
///     for each: bytes shared in front varint; new bytes in the upper, bytes shared at the end in the lower 4 bits, 15
///     saying that the number minus 15 follows as a varint; the new bytes
struct FilterChanges {
    /// Filters that are wanted from now on.
    var begins: [[UInt8]] = []
    /// Filters of groups whose members are all absent.
    var absent: [[UInt8]] = []
    /// Filters that are not wanted any more.
    var ends: [[UInt8]] = []

    /// Filters of one frame at most.
    static let maxCount = 1_024
    /// Bytes of the filters of one frame, before they are coded, but for the last filter.
    static let maxBytes = 64 << 10

    var count: Int { begins.count + absent.count + ends.count }

    /// The order in which filters are told: it makes them short.
    static func precedes(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        a.withUnsafeBytes { a in
            b.withUnsafeBytes { b in
                let shared = sharedPrefix(a, b)
                guard shared < a.count, shared < b.count else { return a.count < b.count }
                return a[shared] < b[shared]
            }
        }
    }

    private static func sharedPrefix(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Int {
        let most = min(a.count, b.count)
        var count = 0
        while count < most, a[count] == b[count] { count += 1 }
        return count
    }

    func write(to writer: inout WireWriter) {
        writer.varint(UInt64(begins.count))
        writer.varint(UInt64(absent.count))
        writer.varint(UInt64(ends.count))
        var last: [UInt8] = []
        for list in [begins, absent, ends] {
            for filter in list {
                Self.write(filter, after: last, to: &writer)
                last = filter
            }
        }
    }

    private static func write(_ filter: [UInt8], after last: [UInt8], to writer: inout WireWriter) {
        filter.withUnsafeBytes { filter in
            last.withUnsafeBytes { last in
                let front = sharedPrefix(filter, last)
                var end = 0
                let most = min(filter.count, last.count) - front
                while end < most, filter[filter.count - 1 - end] == last[last.count - 1 - end] { end += 1 }
                let new = filter.count - front - end
                writer.varint(UInt64(front))
                writer.u8(UInt8(min(new, 15) << 4 | min(end, 15)))
                if new >= 15 { writer.varint(UInt64(new - 15)) }
                if end >= 15 { writer.varint(UInt64(end - 15)) }
                writer.raw(filter[front..<front + new])
            }
        }
    }
}

/// A change as read from a frame.
struct FilterChange {
    enum Kind { case begins, absent, ends }

    var kind: Kind
    var filter: TopicFilter
    /// See ``InterestHash``.
    var base: UInt64
    /// Bytes of the canonical form.
    var bytes: Int

    /// Reads all changes of a frame; nil when it is malformed. Every length has been checked then, and nobody wants
    /// topics that begin with `$`.
    static func read(_ reader: inout WireReader) -> [FilterChange]? {
        let counts = [reader.varint(), reader.varint(), reader.varint()]
        guard !reader.isBroken, counts.allSatisfy({ $0 <= UInt64(FilterChanges.maxCount) }) else { return nil }
        let count = counts.reduce(0, +)
        guard count <= UInt64(FilterChanges.maxCount), count <= UInt64(reader.count) else { return nil }
        var changes: [FilterChange] = []
        changes.reserveCapacity(Int(count))
        var current: [UInt8] = []
        // What is coded in few bytes may be long: no more than a sender may put into a frame.
        var left = FilterChanges.maxBytes + TopicFilter.maxCanonicalBytes
        for (kind, number) in zip([Kind.begins, .absent, .ends], counts) {
            for _ in 0..<number {
                guard readNext(&reader, &current) else { return nil }
                left -= current.count
                guard left >= 0, let change = make(kind, current) else { return nil }
                changes.append(change)
            }
        }
        return reader.isWhole ? changes : nil
    }

    private static func readNext(_ reader: inout WireReader, _ current: inout [UInt8]) -> Bool {
        let front = reader.varint()
        let lengths = reader.u8()
        let new = UInt64(lengths >> 4) + (lengths >> 4 == 15 ? reader.varint() & 0xFFFF_FFFF : 0)
        let end = UInt64(lengths & 15) + (lengths & 15 == 15 ? reader.varint() & 0xFFFF_FFFF : 0)
        guard !reader.isBroken, front <= UInt64(current.count), end <= UInt64(current.count) - front,
            front + new + end <= UInt64(TopicFilter.maxCanonicalBytes), new <= UInt64(reader.count)
        else { return false }
        let bytes = reader.bytes(Int(new))
        current.replaceSubrange(Int(front)..<current.count - Int(end), with: bytes)
        return true
    }

    private static func make(_ kind: Kind, _ canonical: [UInt8]) -> FilterChange? {
        canonical.withUnsafeBytes { bytes in
            guard let filter = TopicFilter(canonical: bytes), filter.bytes.first != UInt8(ascii: "$"),
                kind != .absent || filter.group != nil
            else { return nil }
            return FilterChange(kind: kind, filter: filter, base: InterestHash.base(bytes), bytes: bytes.count)
        }
    }
}

/// A set's hash is the sum of its filters' hashes, modulo 2^64, so it does not depend on their order. The same on every
/// node: it has no key.
enum InterestHash {
    static func base(_ canonical: UnsafeRawBufferPointer) -> UInt64 {
        canonical.baseAddress.map { hashBytes($0, canonical.count, key: 0x496E_7465_7265_7374) } ?? 0
    }

    static func base(_ canonical: [UInt8]) -> UInt64 { canonical.withUnsafeBytes { base($0) } }

    static func entry(_ base: UInt64, isPresent: Bool) -> UInt64 {
        mixed(base ^ (isPresent ? 0x9E37_79B9_7F4A_7C15 : 0xC2B2_AE3D_27D4_EB4F))
    }

    static func mixed(_ value: UInt64) -> UInt64 {
        var word = value
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }
}
