/// Access rules: which topics a principal may publish to and keep events at, and which filters it may subscribe to.
/// Rules are ordered, the first that matches decides; with no rule at all everything is allowed, with any rule the
/// default is deny.

/// One line of the access rules, as configured.
public struct AccessRule: Sendable, Equatable {
    /// What a matching rule says.
    public enum Effect: String, Sendable, CaseIterable { case allow, deny }
    /// What the rule is about.
    public enum Action: String, Sendable, CaseIterable {
        /// Publishing, with the retain flag as well unless a rule before says otherwise.
        case publish
        /// Subscribing and reading, in shared groups as well unless a rule before says otherwise.
        case subscribe
        /// Everything that topics are needed for.
        case all
        /// Publishing with the retain flag, which needs the right to publish besides.
        case retain
        /// Subscribing in a shared group, which needs the right to subscribe besides.
        case share
        /// Using the management interface. Has no topics.
        case admin
    }

    /// What a match means.
    public var effect: Effect
    /// What the rule is about.
    public var action: Action
    /// Topic filters (either grammar, `#`/`+` or `>`/`*`), which may hold variables; see ``AccessRules/variables``.
    /// One with `$share/<group>/` in front is about members of this group only.
    public var topics: [String]
    /// Users the rule is for; empty means everyone, `anonymous` means clients without a user name.
    public var users: [String]
    /// Groups the rule is for; empty means everyone.
    public var groups: [String]
    /// What must have been proven besides, as `name=value`, one of them: names are those of ``Identity/attributes``,
    /// with or without `claim.` or `cert.` in front. Empty means nothing.
    public var claims: [String]

    /// Makes a rule.
    public init(
        effect: Effect, action: Action, topics: [String], users: [String] = [], groups: [String] = [],
        claims: [String] = []
    ) {
        self.effect = effect
        self.action = action
        self.topics = topics
        self.users = users
        self.groups = groups
        self.claims = claims
    }
}

/// What becomes of a subscription that is broader than the rules allow.
public enum BroadSubscriptions: String, Sendable, CaseIterable {
    /// It is refused.
    case refuse
    /// It is granted if the rules allow some of it, and gets only what they allow. In shared groups it is refused.
    case filter
}

/// All access rules of a namespace, checked when the configuration is read.
public struct AccessRules: Sendable, Equatable {
    /// The rules, in order.
    public let rules: [AccessRule]
    /// What becomes of subscriptions that are broader than the rules.
    public let broadSubscriptions: BroadSubscriptions
    /// The same rules, made ready.
    let compiled: [CompiledRule]

    /// Why a rule cannot be used.
    public struct Failure: Error, Equatable, Sendable, CustomStringConvertible {
        /// What is wrong.
        public enum Problem: Error, Equatable {
            /// It is no topic filter.
            case malformedFilter
            /// It has a variable that does not exist.
            case unknownVariable
            /// A rule about publishing names a shared group.
            case groupForPublishing
            /// A rule about topics has none.
            case noTopics
            /// A rule about the management interface has topics.
            case topicsForAdmin
            /// A rule would let everybody use the management interface.
            case adminForEveryone
            /// A claim is not of the form `name=value`.
            case malformedClaim
        }

        /// Index of the rule.
        public var rule: Int
        /// The topic filter or claim; empty when it is about the rule as a whole.
        public var topic: String
        /// What is wrong with it.
        public var problem: Problem

        /// Makes a failure.
        public init(rule: Int, topic: String, problem: Problem = .malformedFilter) {
            self.rule = rule
            self.topic = topic
            self.problem = problem
        }

        /// What is wrong, in words.
        public var description: String {
            switch problem {
            case .malformedFilter: "'\(topic)' is not a topic filter"
            case .unknownVariable:
                "'\(topic)' has an unknown variable; allowed: \(AccessRules.variables.joined(separator: ", "))"
            case .groupForPublishing: "'\(topic)': shared groups are for subscribers; leave $share/<group>/ out"
            case .noTopics: "the rule has no topics"
            case .topicsForAdmin: "a rule about admin has no topics"
            case .adminForEveryone: "a rule that allows admin names users, groups or claims"
            case .malformedClaim: "'\(topic)' is no claim; expected name=value"
            }
        }
    }

    /// Takes rules over after compiling each topic once with harmless variables.
    /// - Throws: ``Failure`` naming the first thing that is wrong.
    public init(_ rules: [AccessRule], broadSubscriptions: BroadSubscriptions = .refuse) throws(Failure) {
        var compiled: [CompiledRule] = []
        for (index, rule) in rules.enumerated() { compiled.append(try CompiledRule(rule, at: index)) }
        self.rules = rules
        self.broadSubscriptions = broadSubscriptions
        self.compiled = compiled
    }

    /// No rules: everything is allowed.
    public static let none = AccessRules(unchecked: [])

    private init(unchecked rules: [AccessRule]) {
        self.rules = rules
        broadSubscriptions = .refuse
        compiled = []
    }

    /// The variables that topics may hold, as they are written; `<name>` stands for a claim's name.
    public static let variables =
        ["${username}", "${clientid}"] + PeerCertificate.variables.map { "${cert.\($0)}" } + ["${claim.<name>}"]

    /// Whether a name, without `${` and `}`, is that of a variable.
    public static func isVariable(_ name: String) -> Bool { TopicTemplate.variable(name) != nil }

    /// Equal rules, in the same order.
    public static func == (one: AccessRules, other: AccessRules) -> Bool {
        one.rules == other.rules && one.broadSubscriptions == other.broadSubscriptions
    }

    /// Whether somebody may use the management interface: the first rule about it that is for this identity decides,
    /// without one nobody may. Never anybody without a name.
    public func mayAdminister(_ identity: Identity) -> Bool {
        guard identity.user != nil else { return false }
        return administrationRule(for: identity).map { rules[$0].effect == .allow } ?? false
    }

    /// The rule that decides whether an identity may use the management interface; nil when none is for it.
    public func administrationRule(for identity: Identity) -> Int? {
        compiled.firstIndex { $0.action == .admin && $0.isFor(identity) }
    }

    /// The rules that can apply to one principal, with its names filled in; nil when there are no rules at all.
    func resolve(for identity: Identity, clientID: String) -> ResolvedAccess? {
        guard !rules.isEmpty else { return nil }
        var entries: [ResolvedAccess.Entry] = []
        for (index, rule) in compiled.enumerated() where !rule.uses.isEmpty && rule.isFor(identity) {
            for template in rule.templates {
                func add(_ filter: TopicFilter?) {
                    entries.append(
                        ResolvedAccess.Entry(
                            effect: rule.effect, uses: rule.uses, filter: filter, rule: Int32(index)))
                }
                let expansion = template.expanded(for: identity, clientID: clientID)
                // A value that cannot stand in a topic must not widen an allow rule, nor narrow a deny rule.
                if rule.effect == .deny, !expansion.isComplete { add(nil) } else { expansion.filters.forEach(add) }
            }
        }
        return ResolvedAccess(entries: entries, filtersBroad: broadSubscriptions == .filter)
    }

    /// Whether a reader may be given what is published to a topic: the same as asking ``resolve(for:clientID:)``, for
    /// those who ask once.
    func mayRead(_ topic: UnsafeRawBufferPointer, _ reader: Reader) -> Bool {
        if rules.isEmpty || reader.isNode { return true }
        for rule in compiled where rule.uses.contains(.subscribe) && rule.isFor(reader.identity) {
            for template in rule.templates {
                if let filter = template.fixed {
                    if filter.group == nil, filter.matches(topic) { return rule.effect == .allow }
                    continue
                }
                let expansion = template.expanded(for: reader.identity, clientID: reader.clientID)
                if rule.effect == .deny, !expansion.isComplete { return false }
                if expansion.filters.contains(where: { $0.group == nil && $0.matches(topic) }) {
                    return rule.effect == .allow
                }
            }
        }
        return false
    }
}

/// Who reads at a port, as access rules see it. Never changes, so that any lane may ask.
final class Reader: Sendable {
    let identity: Identity
    let clientID: String
    /// Whether it is the node itself, which no rules bind.
    let isNode: Bool

    init(identity: Identity, clientID: String, isNode: Bool = false) {
        self.identity = identity
        self.clientID = clientID
        self.isNode = isNode
    }

    /// Whether rules cannot tell the two apart.
    func hasSameRights(as other: Reader) -> Bool {
        self === other
            || isNode == other.isNode && clientID == other.clientID && identity.user == other.identity.user
                && identity.groups == other.identity.groups && identity.attributes == other.identity.attributes
    }
}
