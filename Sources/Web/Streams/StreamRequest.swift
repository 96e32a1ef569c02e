import Core

/// What identifies an event of a stream: `<channel>-<number>`, where the channel is the run of the node, two letters
/// for the lane and eight for the channel's random number. So whoever comes back with it finds the lane and the
/// channel. Knowing an id gives no right to anything.
struct EventID: Sendable, Equatable {
    /// The number of the lane.
    var lane: Int
    /// The channel's random number.
    var channel: UInt64
    /// The event's number in its channel.
    var number: UInt64

    private static let (laneDigits, channelDigits) = (2, 8)
    /// Channels' numbers are below.
    static let channels: UInt64 = 1 << 40

    /// What the ids of a channel begin with.
    static func prefix(_ instance: String, lane: Int, channel: UInt64) -> [UInt8] {
        func padded(_ number: some BinaryInteger, _ count: Int) -> String {
            let digits = String(number, radix: 36)
            return String(repeating: "0", count: max(0, count - digits.utf8.count)) + digits
        }
        return Array("\(instance)\(padded(lane, laneDigits))\(padded(channel, channelDigits))-".utf8)
    }

    /// Reads an id; nil when it is none of this run of the node.
    init?(_ text: String, instance: String, laneCount: Int) {
        let instance = Array(instance.utf8)
        let bytes = Array(text.utf8.prefix(80))
        let laneStart = instance.count
        let channelStart = laneStart + Self.laneDigits
        let end = channelStart + Self.channelDigits
        guard bytes.count < 80, bytes.count > end, bytes.starts(with: instance), bytes[end] == UInt8(ascii: "-"),
            bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "+") }),
            let lane = Int(String(decoding: bytes[laneStart..<channelStart], as: UTF8.self), radix: 36),
            let channel = UInt64(String(decoding: bytes[channelStart..<end], as: UTF8.self), radix: 36),
            let number = UInt64(String(decoding: bytes[(end + 1)...], as: UTF8.self)),
            (0..<laneCount).contains(lane)
        else { return nil }
        self.lane = lane
        self.channel = channel
        self.number = number
    }
}

/// What a request for events asks for.
struct StreamRequest: Sendable {
    /// How it is answered.
    enum Kind: Sendable {
        /// As a stream.
        case stream(StreamFormat, wantsRetained: Bool)
        /// With what there is, or what comes within a time.
        case poll(waitMilliseconds: Int, limit: Int)
    }

    let kind: Kind
    /// Sorted, without repetitions; with the group, if there is one.
    let filters: [TopicFilter]
    let group: String?
    /// What a member of a group is to have of its events (``MemberWeight``); nil when it says nothing.
    let weight: UInt16?
    /// The id of the last event that the reader has, as it says.
    let after: String?

    /// The longest that a poll waits.
    static let maxWaitMilliseconds = 60_000

    /// Reads the parameters of `GET /events`.
    static func stream(_ request: HTTPRequest, _ limits: Limits) throws(Problem) -> StreamRequest {
        try check(request, ["filter", "group", "weight", "format", "retained", "last_event_id"])
        let format: StreamFormat
        switch request.query("format") {
        case nil, "auto": format = .auto
        case "json": format = .json
        default: throw Problem(400, "format is auto or json.")
        }
        let wantsRetained: Bool
        switch request.query("retained") {
        case nil, "true": wantsRetained = true
        case "false": wantsRetained = false
        default: throw Problem(400, "retained is true or false.")
        }
        let after = request.headers["Last-Event-ID"] ?? request.query("last_event_id")
        let group = request.query("group")
        let weight = try number(request, "weight", 0...Int(MemberWeight.max)).flatMap { MemberWeight.parse($0) }
        guard weight == nil || group != nil else {
            throw Problem(400, "weight is for members of a shared group, which group= names.")
        }
        return try StreamRequest(
            .stream(format, wantsRetained: wantsRetained), request, after: after, group: group, weight: weight, limits)
    }

    /// Reads the parameters of `GET /poll`.
    static func poll(_ request: HTTPRequest, _ limits: Limits) throws(Problem) -> StreamRequest {
        try check(request, ["filter", "wait", "after", "limit"])
        let wait = try number(request, "wait", 0...maxWaitMilliseconds) ?? 25_000
        let most = max(limits.maxStreamWindowEvents, 1)
        let limit = try number(request, "limit", 1...most) ?? min(100, most)
        return try StreamRequest(
            .poll(waitMilliseconds: wait, limit: limit), request, after: request.query("after"), group: nil, limits)
    }

    private init(
        _ kind: Kind, _ request: HTTPRequest, after: String?, group: String?, weight: UInt16? = nil, _ limits: Limits
    ) throws(Problem) {
        self.kind = kind
        self.group = group
        self.weight = weight
        self.after = after.flatMap { $0.isEmpty ? nil : $0 }
        let texts = Set(request.query.filter { $0.name == "filter" }.map(\.value))
        guard !texts.isEmpty else { throw Problem(400, "filter is needed: at least one topic filter.") }
        guard texts.count <= limits.maxStreamFilters else {
            throw Problem(400, "filter: a stream has at most \(limits.maxStreamFilters) filters.")
        }
        if let group, group.isEmpty || group.utf8.contains(where: { "/+#".utf8.contains($0) }) {
            throw Problem(400, "group is a name without /, + and #.")
        }
        var filters: [TopicFilter] = []
        for text in texts.sorted() { filters.append(try Self.filter(text, group: group, limits)) }
        self.filters = filters
    }

    /// A misspelt parameter must not go unnoticed: the stream would be another one than was meant.
    private static func check(_ request: HTTPRequest, _ names: Set<String>) throws(Problem) {
        guard let wrong = request.query.first(where: { !names.contains($0.name) }) else { return }
        throw Problem(400, "\(wrong.name) is no parameter here; there are \(names.sorted().joined(separator: ", ")).")
    }

    private static func number(
        _ request: HTTPRequest, _ name: String, _ range: ClosedRange<Int>
    ) throws(Problem) -> Int? {
        guard let text = request.query(name) else { return nil }
        guard let number = Int(text), range.contains(number) else {
            throw Problem(400, "\(name) is a whole number from \(range.lowerBound) to \(range.upperBound).")
        }
        return number
    }

    private static func filter(_ text: String, group: String?, _ limits: Limits) throws(Problem) -> TopicFilter {
        let plain = try compile(text, limits)
        guard plain.group == nil else { throw Problem(400, "filter: a shared group is named with group=.") }
        guard let group else { return plain }
        return try compile((plain.isLocalOnly ? "$local/" : "") + "$share/\(group)/" + plain.text, limits)
    }

    private static func compile(_ text: String, _ limits: Limits) throws(Problem) -> TopicFilter {
        do throws(TopicFilter.Failure) {
            return try TopicFilter(Array(text.utf8), grammar: .either, limits: limits)
        } catch {
            throw Problem(400, "filter: \(text.prefix(200)): \(error).")
        }
    }
}
