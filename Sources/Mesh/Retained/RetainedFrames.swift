import Core

/// What two neighbours tell each other to have the same retained events, `docs/wire-format.md`: bodies of the frames
/// retainedDigests, retainedRequest and retainedValues. `v` is a varint, a version is time u64 and writer u64.
///
///     retainedDigests, by its first byte:
///       0 digest    over everything u64, since u64
///       1 buckets   over everything u64, since u64, of each of 1,024 buckets u64
///       2 finished  over everything u64, since u64
///       3 listing   round u32, portion u32, sections v; each: first hash u64, last hash u64, entries v; each:
///                   hash u64, version, place u32
///       4 answer    round u32, portion u32, sections compared v, partly compared u8, through hash u64, taken v,
///                   newer v; each: absent u8, place u32, hash u64
///       5 offer     over what may cross the link u64, 0 u64
///       6 had       over what may cross the link u64, 0 u64, of each of 1,024 buckets u64
///     retainedRequest: number u32, wants v; each: absent u8, place u32, hash u64, offset u32
///     retainedValues: number u32, values v, in the order of the request; each: flags u8 (0 gone, 1 told; after gone
///       nothing follows), version, milliseconds left u64 (0: does not expire), QoS u8, extension u16, topic u16,
///       properties u32, payload u32 (0: deleted), offset u32, length v and bytes of topic, properties and payload

/// Hashes of topics from the first to the last; both in the same bucket.
struct HashRange: Equatable {
    var first: UInt64
    var last: UInt64

    init(first: UInt64, last: UInt64) {
        self.first = first
        self.last = last
    }

    /// All of a bucket.
    init(bucket: Int) {
        first = UInt64(bucket) << 54
        last = first | (1 << 54 - 1)
    }

    var bucket: Int { Int(first >> 54) }
}

/// A range with all that the sender has there, by hash.
struct RetainedSection {
    var range: HashRange
    var entries: [RetainedEntry]
}

/// What the sender has in some ranges. The receiver takes what is newer, and then answers.
struct RetainedListing {
    var round: UInt32
    var portion: UInt32
    var sections: [RetainedSection]
}

/// The answer to a listing.
struct RetainedAnswer {
    var round: UInt32
    var portion: UInt32
    /// Sections that have been compared completely.
    var sections: Int
    /// The last hash that was compared of the section after these; nil when none was.
    var through: UInt64?
    /// How many values the sender of the answer has taken over.
    var taken: Int
    /// What it has that is newer.
    var newer: [RetainedWant]
}

/// Something to be asked for.
struct RetainedWant: Equatable {
    /// The place at the node that is asked.
    var place: UInt32
    var hash: UInt64
    /// Bytes of the value that are there already.
    var offset: UInt32 = 0
    /// Whether the one that asks has nothing of this topic, not even that it was deleted.
    var isAbsent: Bool
}

/// A value, or a part of a large one.
struct RetainedPart {
    var version: EventVersion
    /// Milliseconds that the value, or the memory of its deletion, still lasts; 0 for ever.
    var millisecondsLeft: UInt64
    /// Of a deletion: whether subscribers hear of it.
    var isTold: Bool
    var qos: UInt8
    var extensionLength: UInt16
    var topicLength: Int
    var propertiesLength: Int
    var payloadLength: Int
    /// Where ``bytes`` belong in topic, properties and payload, one after another.
    var offset: Int
    var bytes: UnsafeRawBufferPointer

    var totalLength: Int { topicLength + propertiesLength + payloadLength }
    /// Bytes of a part without its own.
    static let overhead = 60
}

/// The frames. Those that are read may be anything: what does not make sense breaks the reader.
enum RetainedFrame {
    /// What a frame of type retainedDigests is.
    enum Kind: UInt8 {
        /// One digest over everything.
        case digest = 0
        /// One for each bucket.
        case buckets = 1
        /// The sender has compared everything that differed.
        case finished = 2
        case listing = 3
        case answer = 4
        /// One digest over what the sender may give; neighbours with a policy.
        case offer = 5
        /// One for each bucket, of what the sender may be given.
        case had = 6
    }

    /// Entries of a listing or an answer; both stay below 64 KiB.
    static let maxEntries = 2_100
    /// Sections of a listing.
    static let maxSections = 64
    /// Values of a request.
    static let maxWants = 256
    /// Bytes of values in a frame.
    static let maxValueBytes = 60_000

    /// A frame with the digest over everything, for `digest` and `finished`.
    static func digest(_ kind: Kind, _ digest: UInt64, since: UInt64) -> [UInt8] {
        var writer = WireWriter(.retainedDigests)
        writer.u8(kind.rawValue)
        writer.u64(digest)
        writer.u64(since)
        return writer.finish()
    }

    static func buckets(
        _ kind: Kind, _ digest: UInt64, since: UInt64, _ digests: [UInt64]
    ) -> [UInt8] {
        var writer = WireWriter(.retainedDigests, capacity: 32 + digests.count * 8)
        writer.u8(kind.rawValue)
        writer.u64(digest)
        writer.u64(since)
        for digest in digests { writer.u64(digest) }
        return writer.finish()
    }

    static func listing(_ listing: RetainedListing) -> [UInt8] {
        var writer = WireWriter(.retainedDigests, .bulk, capacity: 1_024)
        writer.u8(Kind.listing.rawValue)
        writer.u32(listing.round)
        writer.u32(listing.portion)
        writer.varint(UInt64(listing.sections.count))
        for section in listing.sections {
            writer.u64(section.range.first)
            writer.u64(section.range.last)
            writer.varint(UInt64(section.entries.count))
            for entry in section.entries {
                writer.u64(entry.hash)
                writer.u64(entry.version.time)
                writer.u64(entry.version.writer)
                writer.u32(entry.place)
            }
        }
        return writer.finish()
    }

    /// Reads what follows the kind.
    static func readListing(_ reader: inout WireReader) -> RetainedListing {
        var listing = RetainedListing(round: reader.u32(), portion: reader.u32(), sections: [])
        let count = reader.count(each: 17)
        if count > maxSections { reader.refuse() }
        for _ in 0..<count where !reader.isBroken {
            let range = HashRange(first: reader.u64(), last: reader.u64())
            if range.first > range.last || range.first >> 54 != range.last >> 54 { reader.refuse() }
            var section = RetainedSection(range: range, entries: [])
            let entryCount = reader.count(each: 28)
            section.entries.reserveCapacity(entryCount)
            var last = range.first
            for _ in 0..<entryCount {
                let entry = RetainedEntry(
                    hash: reader.u64(), version: EventVersion(time: reader.u64(), writer: reader.u64()),
                    place: reader.u32())
                if entry.hash < last || entry.hash > range.last { reader.refuse() }
                last = entry.hash
                section.entries.append(entry)
            }
            listing.sections.append(section)
        }
        if !reader.isWhole { reader.refuse() }
        return listing
    }

    static func answer(_ answer: RetainedAnswer) -> [UInt8] {
        var writer = WireWriter(.retainedDigests, .bulk, capacity: 64 + answer.newer.count * 13)
        writer.u8(Kind.answer.rawValue)
        writer.u32(answer.round)
        writer.u32(answer.portion)
        writer.varint(UInt64(answer.sections))
        writer.u8(answer.through == nil ? 0 : 1)
        writer.u64(answer.through ?? 0)
        writer.varint(UInt64(answer.taken))
        writer.varint(UInt64(answer.newer.count))
        for want in answer.newer {
            writer.u8(want.isAbsent ? 1 : 0)
            writer.u32(want.place)
            writer.u64(want.hash)
        }
        return writer.finish()
    }

    /// Reads what follows the kind.
    static func readAnswer(_ reader: inout WireReader) -> RetainedAnswer {
        var answer = RetainedAnswer(
            round: reader.u32(), portion: reader.u32(), sections: 0, through: nil, taken: 0, newer: [])
        answer.sections = Int(min(reader.varint(), UInt64(maxSections)))
        let hasThrough = reader.u8() != 0
        let through = reader.u64()
        if hasThrough { answer.through = through }
        answer.taken = Int(min(reader.varint(), UInt64(maxEntries)))
        let count = reader.count(each: 13)
        if count > maxEntries { reader.refuse() }
        for _ in 0..<count where !reader.isBroken {
            let isAbsent = reader.u8() & 1 != 0
            answer.newer.append(RetainedWant(place: reader.u32(), hash: reader.u64(), isAbsent: isAbsent))
        }
        if !reader.isWhole { reader.refuse() }
        return answer
    }

    static func request(_ number: UInt32, _ wants: ArraySlice<RetainedWant>) -> [UInt8] {
        var writer = WireWriter(.retainedRequest, .bulk, capacity: 32 + wants.count * 17)
        writer.u32(number)
        writer.varint(UInt64(wants.count))
        for want in wants {
            writer.u8(want.isAbsent ? 1 : 0)
            writer.u32(want.place)
            writer.u64(want.hash)
            writer.u32(want.offset)
        }
        return writer.finish()
    }

    static func readRequest(_ reader: inout WireReader) -> (number: UInt32, wants: [RetainedWant]) {
        let number = reader.u32()
        var wants: [RetainedWant] = []
        let count = reader.count(each: 17)
        if count > maxWants { reader.refuse() }
        for _ in 0..<count where !reader.isBroken {
            let isAbsent = reader.u8() & 1 != 0
            let (place, hash) = (reader.u32(), reader.u64())
            wants.append(RetainedWant(place: place, hash: hash, offset: reader.u32(), isAbsent: isAbsent))
        }
        if !reader.isWhole { reader.refuse() }
        return (number, wants)
    }

    /// Flags of a part: nothing follows, the topic is not there any more.
    static let goneFlag: UInt8 = 1
    private static let toldFlag: UInt8 = 2

    static func write(_ part: RetainedPart, to writer: inout WireWriter) {
        writer.u8(part.isTold ? toldFlag : 0)
        writer.u64(part.version.time)
        writer.u64(part.version.writer)
        writer.u64(part.millisecondsLeft)
        writer.u8(part.qos)
        writer.u16(part.extensionLength)
        writer.u16(UInt16(truncatingIfNeeded: part.topicLength))
        writer.u32(UInt32(truncatingIfNeeded: part.propertiesLength))
        writer.u32(UInt32(truncatingIfNeeded: part.payloadLength))
        writer.u32(UInt32(truncatingIfNeeded: part.offset))
        writer.varint(UInt64(part.bytes.count))
        writer.raw(part.bytes)
    }

    /// Reads a part; nil when the topic is not there any more.
    /// - Parameter maxLength: bytes that topic, properties and payload may have together.
    static func readPart(_ reader: inout WireReader, maxLength: Int) -> RetainedPart? {
        let flags = reader.u8()
        if flags & goneFlag != 0 { return nil }
        var part = RetainedPart(
            version: EventVersion(time: reader.u64(), writer: reader.u64()), millisecondsLeft: reader.u64(),
            isTold: flags & toldFlag != 0, qos: reader.u8(), extensionLength: reader.u16(),
            topicLength: Int(reader.u16()), propertiesLength: Int(reader.u32()), payloadLength: Int(reader.u32()),
            offset: Int(reader.u32()), bytes: UnsafeRawBufferPointer(start: nil, count: 0))
        part.bytes = reader.block()
        let isSound =
            part.qos <= 2 && part.topicLength > 0 && Int(part.extensionLength) <= part.propertiesLength
            && part.totalLength <= maxLength && part.bytes.count > 0
            && part.offset + part.bytes.count <= part.totalLength
        if !isSound { reader.refuse() }
        return part
    }
}
