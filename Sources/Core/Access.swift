/// Access rules: which topics a principal may publish to and which filters it may subscribe to. Rules are ordered, the
/// first that matches decides; with no rule at all everything is allowed, with any rule the default is deny.

/// One line of the access rules, as configured.
public struct AccessRule: Sendable, Equatable {
    /// What a matching rule says.
    public enum Effect: String, Sendable, CaseIterable { case allow, deny }
    /// What the rule is about.
    public enum Action: String, Sendable, CaseIterable { case publish, subscribe, all }

    /// What a match means.
    public var effect: Effect
    /// Publishing, subscribing or both.
    public var action: Action
    /// Topic filters (either grammar, `#`/`+` or `>`/`*`); may hold `${username}` and `${clientid}`.
    public var topics: [String]
    /// Users the rule is for; empty means everyone, `anonymous` means clients without a user name.
    public var users: [String]
    /// Groups the rule is for; empty means everyone.
    public var groups: [String]

    /// Makes a rule.
    public init(effect: Effect, action: Action, topics: [String], users: [String] = [], groups: [String] = []) {
        self.effect = effect
        self.action = action
        self.topics = topics
        self.users = users
        self.groups = groups
    }
}

/// All access rules of a namespace, checked when the configuration is read.
public struct AccessRules: Sendable, Equatable {
    /// The rules, in order.
    public let rules: [AccessRule]

    /// Why a rule cannot be used.
    public struct Failure: Error, Equatable, Sendable {
        /// Index of the rule.
        public var rule: Int
        /// The topic filter that is malformed.
        public var topic: String
    }

    /// Takes rules over after compiling each topic once with harmless variables.
    /// - Throws: ``Failure`` naming the first filter that is malformed.
    public init(_ rules: [AccessRule]) throws(Failure) {
        for (index, rule) in rules.enumerated() {
            for topic in rule.topics {
                let sample = AccessRules.substitute(topic, user: "user", clientID: "client") ?? topic
                if (try? TopicFilter(sample, grammar: .either)) == nil { throw Failure(rule: index, topic: topic) }
            }
        }
        self.rules = rules
    }

    /// No rules: everything is allowed.
    public static let none = AccessRules(unchecked: [])

    private init(unchecked rules: [AccessRule]) { self.rules = rules }

    /// The rules that can apply to one principal, with its names filled in; nil when there are no rules at all.
    func resolve(for identity: Identity, clientID: String) -> ResolvedAccess? {
        guard !rules.isEmpty else { return nil }
        let user = identity.user ?? "anonymous"
        var entries: [ResolvedAccess.Entry] = []
        for rule in rules {
            guard rule.users.isEmpty || rule.users.contains(user) else { continue }
            guard rule.groups.isEmpty || rule.groups.contains(where: identity.groups.contains) else { continue }
            for topic in rule.topics {
                guard let text = Self.substitute(topic, user: identity.user, clientID: clientID),
                    let filter = try? TopicFilter(text, grammar: .either)
                else {
                    // A name that cannot stand in a topic must not widen an allow rule, nor narrow a deny rule.
                    if rule.effect == .deny { entries.append(.init(effect: .deny, action: rule.action, filter: nil)) }
                    continue
                }
                entries.append(.init(effect: rule.effect, action: rule.action, filter: filter))
            }
        }
        return ResolvedAccess(entries: entries)
    }

    /// Fills in `${username}` and `${clientid}`; nil when a value is missing or is not plain.
    private static func substitute(_ topic: String, user: String?, clientID: String) -> String? {
        var text = topic
        for (name, value) in [("${username}", user), ("${clientid}", clientID)] {
            guard text.contains(name) else { continue }
            guard let value, isPlain(value) else { return nil }
            text = text.replacing(name, with: value)
        }
        return text
    }

    /// Whether a name can stand in a topic without changing what the topic means. Bytes, not characters: a separator
    /// followed by a combining mark is another character but still a separator. `$` begins `$share` and variables.
    private static func isPlain(_ name: String) -> Bool {
        !name.isEmpty && !name.utf8.contains { "/+#*>$\0".utf8.contains($0) }
    }
}

/// The rules as they apply to one principal.
struct ResolvedAccess {
    struct Entry {
        var effect: AccessRule.Effect
        var action: AccessRule.Action
        /// nil matches everything (a deny rule whose variable could not be filled in).
        var filter: TopicFilter?
    }

    let entries: [Entry]

    func mayPublish(_ topic: UnsafeRawBufferPointer) -> Bool {
        for entry in entries where entry.action != .subscribe {
            if entry.filter?.matches(topic) ?? true { return entry.effect == .allow }
        }
        return false
    }

    /// A subscription is allowed only if one allow rule covers all of it and no deny rule before touches any of it.
    func maySubscribe(_ filter: TopicFilter) -> Bool {
        for entry in entries where entry.action != .publish {
            switch entry.effect {
            case .allow: if entry.filter?.covers(filter) ?? true { return true }
            case .deny: if entry.filter?.intersects(filter) ?? true { return false }
            }
        }
        return false
    }

    /// The same as ``maySubscribe(_:)`` for a filter without wildcards: what touches it covers it.
    func mayRead(_ topic: UnsafeRawBufferPointer) -> Bool {
        for entry in entries where entry.action != .publish {
            if entry.filter?.matches(topic) ?? true { return entry.effect == .allow }
        }
        return false
    }
}
