/// What the ends of a stream say to each other, `docs/wire-format.md`. Both frames are routed to their receiver like
/// any control frame, and name the lives of both nodes: what belongs to a former life is ignored.

/// Flags of frames with guaranteed events, in the header.
enum StreamFlags {
    /// Sent to a former life of the destination before, which may have passed it on.
    static let possibleDuplicate: UInt8 = 1
    /// Carries nothing, so that the numbers have no hole: what had this number has expired or was given up.
    static let void: UInt8 = 2
    /// With ``void``: a policy has kept back what it carried.
    static let keptBack: UInt8 = 4
}

/// What a destination has of a stream.
///
///     8  origin's epoch u64, destination's epoch u64
///        cumulative varint: all up to this counter has been settled
///        frames varint, bytes varint: how much beyond it may be under way
///        echo varint: the number of the probe that is answered, 0 for none
///        ranges u8, at most 8, each: gap varint and length varint, from 1: received beyond the cumulative counter
///        refusals u8, at most 16, each: code u8, counter varint as a distance to the cumulative one
struct StreamAcknowledgement: Equatable {
    /// Counters of frames received, both included.
    struct Range: Equatable {
        var first: UInt64
        var last: UInt64
    }

    /// Why a frame was not taken.
    enum Refusal: UInt8 {
        /// It was a share of a shared group that has no member there.
        case noMember = 1
    }

    static let maxRanges = 8
    static let maxRefusals = 16
    /// Counters stay far below what could overflow.
    static let maxCounter: UInt64 = 1 << 62

    var originEpoch: UInt64
    var destinationEpoch: UInt64
    var cumulative: UInt64
    var windowFrames: UInt64
    var windowBytes: UInt64
    var echo: UInt64 = 0
    /// In ascending order, with gaps between them.
    var ranges: [Range] = []
    /// Counters refused, in ascending order. Each waits for its void before the cumulative counter goes past it.
    var refusals: [UInt64] = []

    /// The frame, complete.
    func frame() -> [UInt8] {
        var writer = WireWriter(.streamAcknowledgement)
        writer.u64(originEpoch)
        writer.u64(destinationEpoch)
        writer.varint(cumulative)
        writer.varint(windowFrames)
        writer.varint(windowBytes)
        writer.varint(echo)
        let ranges = ranges.prefix(Self.maxRanges)
        writer.u8(UInt8(truncatingIfNeeded: ranges.count))
        var end = cumulative
        for range in ranges {
            writer.varint(range.first &- end)
            writer.varint(range.last &- range.first &+ 1)
            end = range.last
        }
        let refusals = refusals.prefix(Self.maxRefusals)
        writer.u8(UInt8(truncatingIfNeeded: refusals.count))
        for counter in refusals {
            writer.u8(Refusal.noMember.rawValue)
            writer.varint(counter &- cumulative)
        }
        return writer.finish()
    }

    init(
        originEpoch: UInt64, destinationEpoch: UInt64, cumulative: UInt64, windowFrames: UInt64, windowBytes: UInt64
    ) {
        self.originEpoch = originEpoch
        self.destinationEpoch = destinationEpoch
        self.cumulative = cumulative
        self.windowFrames = windowFrames
        self.windowBytes = windowBytes
    }

    /// Reads a frame's body; nil when it is malformed: cut short or too long, ranges or refusals that are empty, run
    /// backwards or overflow, too many of them, unknown refusals.
    init?(_ reader: inout WireReader) {
        self.init(
            originEpoch: reader.u64(), destinationEpoch: reader.u64(), cumulative: reader.varint(),
            windowFrames: reader.varint(), windowBytes: reader.varint())
        echo = reader.varint()
        guard cumulative <= Self.maxCounter else { return nil }
        let rangeCount = Int(reader.u8())
        guard rangeCount <= Self.maxRanges else { return nil }
        var end = cumulative
        for _ in 0..<rangeCount {
            let (gap, length) = (reader.varint(), reader.varint())
            guard !reader.isBroken, gap > 0, length > 0, gap <= Self.maxCounter, length <= Self.maxCounter,
                end <= Self.maxCounter
            else { return nil }
            let first = end + gap
            end = first + (length - 1)
            ranges.append(Range(first: first, last: end))
        }
        let refusalCount = Int(reader.u8())
        guard refusalCount <= Self.maxRefusals else { return nil }
        var last: UInt64 = 0
        for _ in 0..<refusalCount {
            let (code, distance) = (reader.u8(), reader.varint())
            guard !reader.isBroken, Refusal(rawValue: code) != nil, distance > last, distance <= Self.maxCounter else {
                return nil
            }
            last = distance
            refusals.append(cumulative + distance)
        }
        guard reader.isWhole else { return nil }
    }

    /// The largest counter it speaks of.
    var highest: UInt64 { max(cumulative, ranges.last?.last ?? 0, refusals.last ?? 0) }
}

/// Asks a destination what it has of a stream; the answer is an acknowledgement that echoes the number.
///
///     8  origin's epoch u64, destination's epoch u64, number varint, from 1
struct StreamProbe: Equatable {
    var originEpoch: UInt64
    var destinationEpoch: UInt64
    var number: UInt64

    init(originEpoch: UInt64, destinationEpoch: UInt64, number: UInt64) {
        self.originEpoch = originEpoch
        self.destinationEpoch = destinationEpoch
        self.number = number
    }

    /// Reads a frame's body; nil when it is malformed.
    init?(_ reader: inout WireReader) {
        self.init(originEpoch: reader.u64(), destinationEpoch: reader.u64(), number: reader.varint())
        guard reader.isWhole, number > 0 else { return nil }
    }

    /// The frame, complete.
    func frame() -> [UInt8] {
        var writer = WireWriter(.streamSync)
        writer.u64(originEpoch)
        writer.u64(destinationEpoch)
        writer.varint(number)
        return writer.finish()
    }
}
