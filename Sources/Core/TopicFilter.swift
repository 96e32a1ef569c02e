/// A topic filter, compiled. Two grammars make one type: MQTT (`+`, `#`) and SMF (`*`, `red*`, `>`).
public struct TopicFilter: Sendable, Equatable {
    /// How a filter is written.
    public enum Grammar: Sendable {
        /// `+` one level, `#` the rest and the parent. `*` and `>` are ordinary characters.
        case mqtt
        /// `*` one level, `red*` a level's prefix, `>` at least one further level. `+` and `#` are ordinary.
        case smf
        /// MQTT when the filter holds `+` or `#`, else SMF: for configuration and the HTTP plane.
        case either
    }

    /// What a level of a filter matches.
    public enum Kind: UInt8, Sendable {
        /// Just the bytes of the level.
        case literal
        /// Any one level.
        case single
        /// One level that begins with these bytes, or is them.
        case prefix
        /// Every further level, and none (`#`). Always last.
        case rest
        /// At least one further level (`>`). Always last.
        case more
    }

    /// One level: its kind and the range of its bytes in ``bytes``.
    public struct Level: Sendable, Equatable {
        /// What the level matches.
        public var kind: Kind
        /// Offset of the level's first byte.
        public var start: Int32
        /// Bytes of a literal, or of a prefix without its `*`.
        public var length: Int32
    }

    /// Why a filter was refused.
    public enum Failure: Error, Equatable, Sendable, CustomStringConvertible {
        /// There is nothing of it.
        case empty
        /// More bytes than a topic may have.
        case tooLong
        /// More levels than a topic may have.
        case tooManyLevels
        /// Not UTF-8, or with a NUL in it.
        case notText
        /// A wildcard that does not stand alone in its level, or a rest-wildcard that is not last.
        case misplacedWildcard
        /// `$share` without a group, with a wildcard in it, or without a filter.
        case malformedShare

        /// What would be right, for people.
        public var description: String {
            switch self {
            case .empty: "a filter has at least one character"
            case .tooLong: "it is longer than max_topic_bytes allows"
            case .tooManyLevels: "it has more levels than max_topic_levels allows"
            case .notText: "it is no text: UTF-8 without NUL"
            case .misplacedWildcard: "'+' and '#' stand alone in a level, '#' only in the last one"
            case .malformedShare: "it is no shared subscription: $share/GROUP/FILTER, the group without '+' and '#'"
            }
        }
    }

    /// The filter's text, without `$share/<group>/` and `$local/`.
    public let bytes: [UInt8]
    /// The levels, in order.
    public let levels: [Level]
    /// The shared subscription's group; nil for an ordinary subscription.
    public let group: [UInt8]?
    /// Whether other nodes must not learn of this subscription (`$local/…`).
    public let isLocalOnly: Bool

    /// Compiles a filter.
    /// - Parameters:
    ///   - text: the filter as the client wrote it, with `$share/<group>/` or `$local/` in front if it did.
    ///   - grammar: which characters are wildcards.
    ///   - limits: bounds on bytes and levels.
    /// - Throws: ``Failure`` when the filter is malformed (MQTT 3.1.1 §4.7.1, MQTT 5 §4.8.2).
    public init(_ text: some Collection<UInt8>, grammar: Grammar, limits: Limits) throws(Failure) {
        guard !text.isEmpty else { throw .empty }
        guard text.count <= limits.maxTopicBytes else { throw .tooLong }
        let whole = Array(text)
        guard whole.withUnsafeBytes(Topic.isText) else { throw .notText }
        let (start, group, isLocalOnly) = try Self.options(whole)
        self.group = group
        self.isLocalOnly = isLocalOnly
        bytes = Array(whole[start...])
        guard !bytes.isEmpty else { throw group == nil ? .empty : .malformedShare }
        levels = try Self.split(bytes, grammar: grammar.resolved(for: bytes), limits: limits)
    }

    /// Compiles a filter from a string; see the other initialiser.
    public init(_ text: String, grammar: Grammar, limits: Limits = Limits()) throws(Failure) {
        try self.init(Array(text.utf8), grammar: grammar, limits: limits)
    }

    /// Reads `$share/<group>/` and `$local/` off the front, each once: `$local/$share/<group>/<filter>` is a group that
    /// other nodes do not learn of, and what else begins with `$` is a topic's own.
    private static func options(_ whole: [UInt8]) throws(Failure) -> (start: Int, group: [UInt8]?, local: Bool) {
        let share = Array("$share".utf8)
        let local = Array("$local/".utf8)
        let isLocal = whole.starts(with: local)
        let text = isLocal ? whole[local.count...] : whole[...]
        let nameStart = text.startIndex + share.count + 1
        guard text.starts(with: share), text.count == share.count || text[nameStart - 1] == UInt8(ascii: "/") else {
            return (text.startIndex, nil, isLocal)
        }
        guard nameStart < text.endIndex,
            let nameEnd = text[nameStart...].firstIndex(of: UInt8(ascii: "/")), nameEnd > nameStart,
            nameEnd + 1 < text.endIndex
        else { throw .malformedShare }
        let name = text[nameStart..<nameEnd]
        guard !name.contains(UInt8(ascii: "+")), !name.contains(UInt8(ascii: "#")) else { throw .malformedShare }
        return (nameEnd + 1, Array(name), isLocal)
    }

    private static func split(_ text: [UInt8], grammar: Grammar, limits: Limits) throws(Failure) -> [Level] {
        var levels: [Level] = []
        var start = 0
        while true {
            let end = text[start...].firstIndex(of: UInt8(ascii: "/")) ?? text.count
            let level = try compile(text[start..<end], isLast: end == text.count, grammar: grammar)
            levels.append(level)
            guard levels.count <= limits.maxTopicLevels else { throw .tooManyLevels }
            if end == text.count { return levels }
            start = end + 1
        }
    }

    private static func compile(_ level: ArraySlice<UInt8>, isLast: Bool, grammar: Grammar) throws(Failure) -> Level {
        func made(_ kind: Kind, _ length: Int) -> Level {
            Level(kind: kind, start: Int32(level.startIndex), length: Int32(length))
        }
        if grammar == .mqtt {
            if level.contains(UInt8(ascii: "#")) {
                guard level.count == 1, isLast else { throw .misplacedWildcard }
                return made(.rest, 1)
            }
            if level.contains(UInt8(ascii: "+")) {
                guard level.count == 1 else { throw .misplacedWildcard }
                return made(.single, 1)
            }
            return made(.literal, level.count)
        }
        if level.last == UInt8(ascii: "*") {
            return level.count == 1 ? made(.single, 1) : made(.prefix, level.count - 1)
        }
        // `>` is a wildcard only alone and last; elsewhere it is an ordinary character.
        if isLast, level.count == 1, level.first == UInt8(ascii: ">") { return made(.more, 1) }
        return made(.literal, level.count)
    }

    /// The filter as text, without its options.
    public var text: String { String(decoding: bytes, as: UTF8.self) }

    /// The filter as a client would write it, with the group and the locality in front.
    public var wholeText: String {
        let share = group.map { "$share/\(String(decoding: $0, as: UTF8.self))/" } ?? ""
        return (isLocalOnly ? "$local/" : "") + share + text
    }

    /// The bytes of a level.
    public func label(_ level: Level) -> ArraySlice<UInt8> {
        bytes[Int(level.start)..<Int(level.start) + Int(level.length)]
    }

    /// Whether a wildcard stands first, so that `$` topics are not matched (MQTT 3.1.1 §4.7.2).
    public var startsWithWildcard: Bool {
        switch levels[0].kind {
        case .single, .rest, .more: true
        case .literal, .prefix: false
        }
    }
}

extension TopicFilter.Grammar {
    fileprivate func resolved(for text: [UInt8]) -> TopicFilter.Grammar {
        guard case .either = self else { return self }
        return text.contains(UInt8(ascii: "+")) || text.contains(UInt8(ascii: "#")) ? .mqtt : .smf
    }
}

extension TopicFilter {
    /// Whether the filter matches a topic. For access rules and changed subscriptions; events go through the index.
    public func matches(_ topic: UnsafeRawBufferPointer) -> Bool {
        if startsWithWildcard, topic.first == UInt8(ascii: "$") { return false }
        var position = 0  // start of the next topic level; count + 1 once the last has been taken
        for level in levels {
            if level.kind == .rest { return true }
            guard position <= topic.count else { return false }
            if level.kind == .more { return true }
            var end = position
            while end < topic.count, topic[end] != UInt8(ascii: "/") { end &+= 1 }
            guard labelMatches(level, topic, position, end &- position) else { return false }
            position = end &+ 1
        }
        return position == topic.count + 1
    }

    private func labelMatches(_ level: Level, _ topic: UnsafeRawBufferPointer, _ start: Int, _ length: Int) -> Bool {
        let wanted = Int(level.length)
        switch level.kind {
        case .single: return true
        case .literal where length != wanted, .prefix where length < wanted: return false
        default: break
        }
        guard wanted > 0 else { return true }
        return bytes.withUnsafeBytes { own in
            bytesEqual(own.baseAddress! + Int(level.start), topic.baseAddress! + start, wanted)
        }
    }

    /// Whether every topic that `other` matches is matched by this filter too.
    public func covers(_ other: TopicFilter) -> Bool {
        if startsWithWildcard, other.bytes.first == UInt8(ascii: "$") { return false }
        let least = leastLevels
        let theirLeast = other.leastLevels
        // What may go on is covered only by what may go on, from the same level or an earlier one.
        guard isOpen ? theirLeast >= least : !other.isOpen && theirLeast == least else { return false }
        return (0..<least).allSatisfy { index in
            let own = levels[index]
            let theirs = other.levels[index]
            return switch (own.kind, theirs.kind) {
            case (.single, _), (.rest, _), (.more, _): true
            case (.prefix, .literal), (.prefix, .prefix): other.label(theirs).starts(with: label(own))
            case (.literal, .literal): other.label(theirs) == label(own)
            default: false
            }
        }
    }

    /// Whether topics of any further depth are matched.
    private var isOpen: Bool { levels.last?.kind == .rest || levels.last?.kind == .more }

    /// Levels of the shortest topic that is matched; `#` alone needs one as well, for no topic has none.
    private var leastLevels: Int { max(1, levels.last?.kind == .rest ? levels.count - 1 : levels.count) }

    /// Whether some topic could be matched by both filters.
    public func intersects(_ other: TopicFilter) -> Bool {
        let dollar = UInt8(ascii: "$")
        if startsWithWildcard, other.bytes.first == dollar { return false }
        if other.startsWithWildcard, bytes.first == dollar { return false }
        var index = 0
        while true {
            let own = index < levels.count ? levels[index] : nil
            let theirs = index < other.levels.count ? other.levels[index] : nil
            switch (own?.kind, theirs?.kind) {
            case (nil, nil), (.rest, _), (_, .rest): return true
            case (nil, _), (_, nil): return false
            case (.more, _), (_, .more): return true
            default: break
            }
            guard let own, let theirs, labelsMeet(own, other, theirs) else { return false }
            index += 1
        }
    }

    private func labelsMeet(_ own: Level, _ other: TopicFilter, _ theirs: Level) -> Bool {
        let a = label(own)
        let b = other.label(theirs)
        return switch (own.kind, theirs.kind) {
        case (.single, _), (_, .single): true
        case (.prefix, .prefix): a.starts(with: b) || b.starts(with: a)
        case (.prefix, _): b.starts(with: a)
        case (_, .prefix): a.starts(with: b)
        default: a == b
        }
    }
}
