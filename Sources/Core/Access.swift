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
