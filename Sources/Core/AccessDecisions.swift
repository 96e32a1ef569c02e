/// The access rules as they apply to one principal, and what they say.

/// How much of a subscription the rules allow.
enum AccessReach: Sendable, Equatable {
    case everything
    /// Some of it: each event must be looked at.
    case something
    case nothing
}

/// The rules as they apply to one principal.
struct ResolvedAccess {
    struct Entry {
        var effect: AccessRule.Effect
        var uses: AccessUses
        /// nil matches everything (a deny rule whose variable could not be filled in).
        var filter: TopicFilter?
        /// Where it stands in ``AccessRules/rules``.
        var rule: Int32
    }

    let entries: [Entry]
    /// Whether subscriptions that are broader than the rules get what is allowed of them.
    var filtersBroad = false

    func mayPublish(_ topic: UnsafeRawBufferPointer) -> Bool { isAllowed(deciding(.publish, topic)) }

    /// Whether it may publish with the retain flag.
    func mayRetain(_ topic: UnsafeRawBufferPointer) -> Bool {
        isAllowed(deciding(.publish, topic)) && isAllowed(deciding(.retain, topic))
    }

    /// Whether it may have the events of a topic: a subscription to that topic alone would be granted, because what
    /// touches it covers it.
    func mayRead(_ topic: UnsafeRawBufferPointer) -> Bool { isAllowed(deciding(.subscribe, topic)) }

    /// How much of a subscription may be granted. As a whole only if one allow rule covers all of it and no deny rule
    /// before touches any of it; several allow rules that cover it together are not put together. A shared one is
    /// granted as a whole or not at all.
    func reach(_ filter: TopicFilter) -> AccessReach {
        if isAllowed(deciding(.subscribe, filter)) {
            return filter.group == nil || isAllowed(deciding(.share, filter)) ? .everything : .nothing
        }
        guard filtersBroad, filter.group == nil, touching(filter) != nil else { return .nothing }
        return .something
    }

    private func isAllowed(_ place: Int?) -> Bool { place.map { entries[$0].effect == .allow } ?? false }

    /// The first entry that decides about a topic; nil when none does, which is a denial.
    func deciding(_ use: AccessUses, _ topic: UnsafeRawBufferPointer) -> Int? {
        for index in entries.indices where entries[index].uses.contains(use) {
            guard let filter = entries[index].filter else { return index }
            if filter.group == nil, filter.matches(topic) { return index }
        }
        return nil
    }

    /// The first entry that decides about a subscription as a whole.
    func deciding(_ use: AccessUses, _ filter: TopicFilter) -> Int? {
        for index in entries.indices where entries[index].uses.contains(use) {
            guard let own = entries[index].filter else { return index }
            // A rule about a group is for its members only.
            if own.group != nil, own.group != filter.group { continue }
            switch entries[index].effect {
            case .allow: if own.covers(filter) { return index }
            case .deny: if own.intersects(filter) { return index }
            }
        }
        return nil
    }

    /// The first entry that allows some of a subscription. A denial before is noticed if it covers the subscription; if
    /// it only covers what the entry would allow, the subscription is granted and gets nothing.
    func touching(_ filter: TopicFilter) -> Int? {
        for index in entries.indices where entries[index].uses.contains(.subscribe) {
            guard let own = entries[index].filter else { return nil }
            if own.group != nil { continue }
            switch entries[index].effect {
            case .allow: if own.intersects(filter) { return index }
            case .deny: if own.covers(filter) { return nil }
            }
        }
        return nil
    }
}

// MARK: Explaining

/// What the rules say about something, and which of them.
public struct AccessExplanation: Sendable, Equatable {
    /// The answer.
    public enum Verdict: String, Sendable {
        /// Granted.
        case allowed
        /// Refused.
        case denied
        /// Granted; each event is checked against what the rules allow.
        case filtered
    }

    /// The answer.
    public var verdict: Verdict
    /// The rule that decides, by its place in ``AccessRules/rules``; nil when none does.
    public var rule: Int?
    /// The rule's filter with the variables filled in; nil when it has none, or when a value cannot stand in a topic,
    /// so that it matches everything.
    public var filter: String?
    /// What the rule that decides is asked about: for a shared group that is either right.
    public var action: AccessRule.Action
}

extension AccessRules {
    /// What somebody asks to do.
    public enum Question: Sendable {
        /// Publish without the retain flag.
        case publish(topic: [UInt8])
        /// Publish with the retain flag.
        case retain(topic: [UInt8])
        /// Subscribe; with a shared group the right to share is asked for besides.
        case subscribe(TopicFilter)
        /// Use the management interface.
        case administer
    }

    /// Says what the rules say, and which of them decides.
    public func explain(_ question: Question, _ identity: Identity, clientID: String) -> AccessExplanation {
        if case .administer = question {
            let rule = administrationRule(for: identity)
            return AccessExplanation(
                verdict: mayAdminister(identity) ? .allowed : .denied, rule: rule, filter: nil, action: .admin)
        }
        guard let access = resolve(for: identity, clientID: clientID) else {
            return explainWithoutRules(question)
        }
        switch question {
        case .publish(let topic):
            let place = topic.withUnsafeBytes { access.deciding(.publish, $0) }
            return access.explanation(place, .publish, isNodes: topic.first == UInt8(ascii: "$"))
        case .retain(let topic):
            let isNodes = topic.first == UInt8(ascii: "$")
            let (publish, retain) = topic.withUnsafeBytes { topic in
                (access.deciding(.publish, topic), access.deciding(.retain, topic))
            }
            let first = access.explanation(publish, .publish, isNodes: isNodes)
            return first.verdict == .denied ? first : access.explanation(retain, .retain, isNodes: isNodes)
        case .subscribe(let filter):
            let first = access.explanation(access.deciding(.subscribe, filter), .subscribe)
            if first.verdict == .allowed {
                guard filter.group != nil else { return first }
                return access.explanation(access.deciding(.share, filter), .share)
            }
            guard access.reach(filter) == .something else { return first }
            var broad = access.explanation(access.touching(filter), .subscribe)
            broad.verdict = .filtered
            return broad
        case .administer: return AccessExplanation(verdict: .denied, rule: nil, filter: nil, action: .admin)
        }
    }

    private func explainWithoutRules(_ question: Question) -> AccessExplanation {
        let (action, topic): (AccessRule.Action, [UInt8]) =
            switch question {
            case .publish(let topic): (.publish, topic)
            case .retain(let topic): (.retain, topic)
            case .subscribe(let filter): (filter.group == nil ? .subscribe : .share, [])
            case .administer: (.admin, [])
            }
        let isNodes = topic.first == UInt8(ascii: "$")
        return AccessExplanation(verdict: isNodes ? .denied : .allowed, rule: nil, filter: nil, action: action)
    }
}

extension ResolvedAccess {
    /// - Parameter isNodes: the topic begins with `$`: only the node itself publishes there, whatever rules say.
    fileprivate func explanation(
        _ place: Int?, _ action: AccessRule.Action, isNodes: Bool = false
    ) -> AccessExplanation {
        guard let place, !isNodes else {
            return AccessExplanation(verdict: .denied, rule: nil, filter: nil, action: action)
        }
        let entry = entries[place]
        return AccessExplanation(
            verdict: entry.effect == .allow ? .allowed : .denied, rule: Int(entry.rule),
            filter: entry.filter?.wholeText, action: action)
    }
}
