/// A filter as bytes that are the same on every node, however it was written: what filters are compared, sorted, hashed
/// and sent as. Text has no NUL, so NUL and one more byte say what text cannot: `+` any level, `*` a prefix ends here,
/// `#` the rest, `>` at least one more; `g` in front a group's name follows, up to the next NUL. A filter without
/// wildcards and group is its own text.
extension TopicFilter {
    private enum Mark {
        static let single = UInt8(ascii: "+")
        static let prefix = UInt8(ascii: "*")
        static let rest = UInt8(ascii: "#")
        static let more = UInt8(ascii: ">")
        static let group = UInt8(ascii: "g")
    }

    /// No canonical form is longer: text of the longest filter, a byte more for every level, and what marks the group.
    public static let maxCanonicalBytes = 65_535 + Topic.maxLevels + 3

    /// Appends the canonical form. Whether the filter is local-only is no part of it.
    public func appendCanonical(to place: inout [UInt8]) {
        if let group {
            place += [0, Mark.group]
            place += group
            place.append(0)
        }
        if levels.allSatisfy({ $0.kind == .literal }) {
            place += bytes
            return
        }
        for (index, level) in levels.enumerated() {
            if index > 0 { place.append(UInt8(ascii: "/")) }
            switch level.kind {
            case .literal: place += label(level)
            case .single: place += [0, Mark.single]
            case .prefix:
                place += label(level)
                place += [0, Mark.prefix]
            case .rest: place += [0, Mark.rest]
            case .more: place += [0, Mark.more]
            }
        }
    }

    /// The canonical form.
    public var canonical: [UInt8] {
        var place: [UInt8] = []
        place.reserveCapacity(bytes.count + levels.count + (group?.count ?? 0) + 3)
        appendCanonical(to: &place)
        return place
    }

    /// Reads a canonical form; nil when it is none. Its text is MQTT's, but for prefixes and `>`, which only SMF has.
    public init?(canonical: UnsafeRawBufferPointer) {
        guard canonical.count > 0, canonical.count <= Self.maxCanonicalBytes, Topic.isUTF8(canonical) else {
            return nil
        }
        var start = 0
        var group: [UInt8]?
        if canonical.count > 2, canonical[0] == 0, canonical[1] == Mark.group {
            guard let end = canonical[2...].firstIndex(of: 0), end > 2 else { return nil }
            let name = Array(canonical[2..<end])
            let isName = !name.contains { $0 == UInt8(ascii: "/") || $0 == Mark.single || $0 == Mark.rest }
            guard isName else { return nil }
            group = name
            start = end + 1
        }
        let path = UnsafeRawBufferPointer(rebasing: canonical[start...])
        guard path.count > 0, let (bytes, levels) = Self.read(path),
            bytes.count + (group?.count ?? 0) <= 65_535, levels.count <= Topic.maxLevels
        else { return nil }
        self.init(bytes: bytes, levels: levels, group: group, isLocalOnly: false)
    }

    private static func read(_ path: UnsafeRawBufferPointer) -> ([UInt8], [Level])? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(path.count)
        var levels: [Level] = []
        var isSMF = false
        var start = 0
        while true {
            let end = path[start...].firstIndex(of: UInt8(ascii: "/")) ?? path.count
            guard let (kind, length) = kind(of: path[start..<end], isLast: end == path.count),
                levels.count < Topic.maxLevels
            else { return nil }
            if !levels.isEmpty { bytes.append(UInt8(ascii: "/")) }
            if kind == .prefix || kind == .more { isSMF = true }
            let isText = kind == .literal || kind == .prefix
            levels.append(Level(kind: kind, start: Int32(bytes.count), length: Int32(isText ? length : 1)))
            bytes += path[start..<start + length]
            switch kind {
            case .literal: break
            case .single: bytes.append(Mark.single)
            case .prefix: bytes.append(Mark.prefix)
            case .rest: bytes.append(Mark.rest)
            case .more: bytes.append(Mark.more)
            }
            if end == path.count { break }
            start = end + 1
        }
        // Only MQTT has `#`, only SMF the others: one text cannot hold both, unless it is read by its levels.
        if isSMF { for level in levels where level.kind == .single { bytes[Int(level.start)] = Mark.prefix } }
        return (bytes, levels)
    }

    /// What a level is, and how many bytes of text it has.
    private static func kind(of level: Slice<UnsafeRawBufferPointer>, isLast: Bool) -> (Kind, Int)? {
        guard let mark = level.firstIndex(of: 0) else { return (.literal, level.count) }
        let length = mark - level.startIndex
        guard mark == level.endIndex - 2 else { return nil }
        switch level[mark + 1] {
        case Mark.single where length == 0: return (.single, 0)
        case Mark.prefix where length > 0: return (.prefix, length)
        case Mark.rest where length == 0 && isLast: return (.rest, 0)
        case Mark.more where length == 0 && isLast: return (.more, 0)
        default: return nil
        }
    }
}
