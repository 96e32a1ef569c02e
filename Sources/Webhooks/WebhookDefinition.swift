/// What a webhook is: where its events come from, where they go, and how long and how often that is tried.
public import Core

/// One webhook, as configured or created. Holds a secret: to be logged and shown only as ``WebhookDescription`` does.
public struct WebhookDefinition: Sendable, Equatable {
    /// The name; letters, digits, `.`, `_` and `-`, at most ``maxNameBytes``.
    public var name: String
    /// The target, `http://…` or `https://…`. May hold a user and a password for HTTP Basic.
    public var url: String
    /// The topics whose events are sent, in either grammar. A topic that several of them match is sent once, except
    /// in a shared group, where each filter has its own share.
    public var filters: [String]
    /// The shared group that the webhook is a member of, for every filter; nil for none.
    public var group: String?
    /// What it is to have of the group's events (``MemberWeight``); nil when it says nothing.
    public var weight: Int?
    /// The key of the signature; nil for no signature.
    public var secret: String?
    /// Requests at once. With 1 the target is told of events in the order in which the node took them.
    public var parallelism = 1
    /// Milliseconds until the second attempt; doubled for each further one.
    public var retryFirstMilliseconds: UInt64 = 3_000
    /// The most milliseconds between two attempts.
    public var retryMaxMilliseconds: UInt64 = 64_000
    /// Attempts for one event; 0 means until it expires.
    public var attempts = 0
    /// Status codes by which the target says that it will never take an event. Other answers than these and 2xx are
    /// failures, to be tried again.
    public var rejectedCodes = Self.standardRejectedCodes
    /// Milliseconds for one attempt, from the look-up of the name to the answer's last byte.
    public var timeoutMilliseconds: UInt64 = 10_000

    /// Bytes of a name.
    public static let maxNameBytes = 64
    /// Filters of one webhook.
    public static let maxFilters = 100
    /// Requests at once of one webhook.
    public static let maxParallelism = 64
    private static let maxURLBytes = 2_048
    private static let maxSecretBytes = 1_024
    private static let maxAttempts = 1_000_000
    private static let dayMilliseconds: UInt64 = 86_400_000

    /// 4xx, the same request will never do, except those that speak of the moment: 408 (took too long), 425 (too
    /// early) and 429 (too many). 409 is among the rejected: a target that knows the event already says so, and asking
    /// again would hold all that come behind. And 508: the target is this node, or leads back to it.
    public static let standardRejectedCodes = Set(400...499).subtracting([408, 425, 429]).union([508])

    /// Makes a webhook with the defaults for all but what it needs.
    public init(name: String, url: String, filters: [String]) {
        self.name = name
        self.url = url
        self.filters = filters
    }

    /// What is wrong with a definition: the field, and the rule that it breaks.
    public struct Failure: Error, Sendable, Equatable, CustomStringConvertible {
        /// The field's name, in the configuration's spelling.
        public var field: String
        /// The rule.
        public var rule: String

        /// Both.
        public var description: String { "\(field) \(rule)" }
    }

    /// Checks everything that can be checked without the network.
    /// - Returns: the filters, compiled, with the group.
    /// - Throws: naming the key that is wrong, and what is right.
    @discardableResult
    public func check(limits: Limits = Limits()) throws(Failure) -> [TopicFilter] {
        var flaws: [Failure] = []
        let filters = look(limits, &flaws)
        if let first = flaws.first { throw first }
        return filters
    }

    /// Everything that ``check(limits:)`` finds; empty for a definition that is good.
    public func flaws(limits: Limits = Limits()) -> [Failure] {
        var flaws: [Failure] = []
        _ = look(limits, &flaws)
        return flaws
    }

    private func look(_ limits: Limits, _ flaws: inout [Failure]) -> [TopicFilter] {
        func require(_ holds: Bool, _ field: String, _ rule: String) {
            if !holds { flaws.append(Failure(field: field, rule: rule)) }
        }
        require(
            PlainName.isOne(name, maxBytes: Self.maxNameBytes), "name",
            "must be 1 to \(Self.maxNameBytes) letters, digits, '.', '_' or '-' and begin with a letter or digit")
        require(url.utf8.count <= Self.maxURLBytes, "url", "must have at most \(Self.maxURLBytes) bytes")
        if let rule = WebhookURL.flaw(of: url) { require(false, "url", rule) }
        require(
            (1...Self.maxFilters).contains(filters.count), "filters", "must be 1 to \(Self.maxFilters) topic filters")
        let range = 1...Self.maxParallelism
        require(range.contains(parallelism), "parallelism", "must be from 1 to \(range.upperBound)")
        let day = Self.dayMilliseconds
        require((1...day).contains(retryFirstMilliseconds), "retry_first", "must be from 1 ms to a day")
        require(
            (retryFirstMilliseconds...max(day, retryFirstMilliseconds)).contains(retryMaxMilliseconds), "retry_max",
            "must be at least retry_first and at most a day")
        require((0...Self.maxAttempts).contains(attempts), "attempts", "must be from 0 to \(Self.maxAttempts)")
        require(
            rejectedCodes.allSatisfy { (300...599).contains($0) }, "rejected_codes", "must be from 300 to 599")
        require(
            (1...3_600_000).contains(timeoutMilliseconds), "timeout", "must be from 1 ms to an hour")
        if let weight {
            require(MemberWeight.parse(weight) != nil, "weight", "must be from 0 to \(MemberWeight.max)")
            require(group != nil, "weight", "is for members of a shared group: group must name one")
        }
        require(
            secret.map { (1...Self.maxSecretBytes).contains($0.utf8.count) } ?? true, "secret",
            "must have 1 to \(Self.maxSecretBytes) bytes")
        return compileFilters(limits, &flaws)
    }

    private func compileFilters(_ limits: Limits, _ flaws: inout [Failure]) -> [TopicFilter] {
        var group = group
        if let name = group {
            let isShort = (1...256).contains(name.utf8.count)
            if !isShort || name.utf8.contains(where: { "/+#\0".utf8.contains($0) }) {
                flaws.append(Failure(field: "group", rule: "must be 1 to 256 bytes without '/', '+', '#' and NUL"))
                group = nil
            }
        }
        var compiled: [TopicFilter] = []
        for filter in filters {
            do throws(Failure) { compiled.append(try compile(filter, in: group, limits)) } catch { flaws.append(error) }
        }
        return compiled
    }

    private func compile(_ filter: String, in group: String?, _ limits: Limits) throws(Failure) -> TopicFilter {
        let plain = try Self.compile(filter, named: filter, limits)
        guard let group else { return plain }
        guard plain.group == nil else {
            throw Failure(field: "filters", rule: "'\(filter)': has a group of its own, and so has the webhook")
        }
        let local = plain.isLocalOnly ? "$local/" : ""
        return try Self.compile("\(local)$share/\(group)/\(plain.text)", named: filter, limits)
    }

    private static func compile(
        _ text: String, named filter: String, _ limits: Limits
    ) throws(Failure) -> TopicFilter {
        do throws(TopicFilter.Failure) { return try TopicFilter(text, grammar: .either, limits: limits) } catch {
            throw Failure(field: "filters", rule: "'\(filter)' is no topic filter: \(error)")
        }
    }
}

/// What may be a target. Stricter than a URL may be: what two parsers could read in two ways is refused.
enum WebhookURL {
    /// The rule that a URL breaks; nil when it can be used.
    static func flaw(of url: String) -> String? {
        guard let authorityStart = schemeEnd(url) else { return "must begin with http:// or https://" }
        guard url.utf8.allSatisfy({ (0x21...0x7E).contains($0) && !"\"<>\\^`{|}".utf8.contains($0) }) else {
            return "must be ASCII without spaces, quotes, brackets and backslashes; others are percent-encoded"
        }
        guard !url.utf8.contains(UInt8(ascii: "#")) else { return "must have no fragment" }
        let authority = url[authorityStart...].prefix { $0 != "/" && $0 != "?" }
        var place = Substring(authority)
        if let at = place.lastIndex(of: "@") {
            guard !place[..<at].contains("@") else { return "must have at most one '@' before the host" }
            place = place[place.index(after: at)...]
        }
        return flaw(ofPlace: place)
    }

    private static func flaw(ofPlace place: Substring) -> String? {
        var host = place
        var port: Substring?
        if place.hasPrefix("[") {
            guard let close = place.firstIndex(of: "]") else { return "must close the '[' of its address" }
            host = place[place.index(after: place.startIndex)..<close]
            let rest = place[place.index(after: close)...]
            guard rest.isEmpty || rest.hasPrefix(":") else { return "must have a ':' between address and port" }
            if !rest.isEmpty { port = rest.dropFirst() }
            guard host.utf8.allSatisfy({ isHex($0) || $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: ".") }) else {
                return "must have an IPv6 address between its brackets"
            }
        } else if let colon = place.firstIndex(of: ":") {
            host = place[..<colon]
            port = place[place.index(after: colon)...]
        }
        guard !host.isEmpty else { return "must name a host" }
        let isPlain = host.utf8.allSatisfy { isHex($0) || isLetter($0) || "-._:".utf8.contains($0) }
        guard isPlain else { return "must name a host by letters, digits, '-', '.' and '_'" }
        if let port {
            guard !port.isEmpty, port.utf8.allSatisfy({ isDigit($0) }), let number = UInt16(port), number > 0 else {
                return "must have a port from 1 to 65535"
            }
        }
        return nil
    }

    /// The URL without what is secret in it.
    static func masked(_ url: String) -> String {
        guard let start = schemeEnd(url) else { return url }
        let authority = url[start...].prefix { $0 != "/" && $0 != "?" }
        guard let at = authority.lastIndex(of: "@") else { return url }
        return url[..<start] + "***" + url[at...]
    }

    private static func schemeEnd(_ url: String) -> String.Index? {
        for scheme in ["http://", "https://"] where url.lowercased().hasPrefix(scheme) {
            return url.utf8.index(url.startIndex, offsetBy: scheme.utf8.count)
        }
        return nil
    }

    private static func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
    private static func isLetter(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
    }
    private static func isHex(_ byte: UInt8) -> Bool {
        isDigit(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte | 0x20)
    }
}
