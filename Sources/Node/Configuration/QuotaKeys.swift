/// Quotas and who may come in at a listener: `security.quotas` and keys of `listeners`, and how they are read. See
/// `docs/configuration.md`.
public import Core
import Reactor

/// The keys.
enum QuotaKeys {
    private static let counts: ValueType = .integer(0...1_000_000_000)
    /// A rate of nothing would leave clients waiting for ever.
    private static let rates: ValueType = .integer(1...1_000_000_000)

    static let all: [ConfigurationKey] = [
        ConfigurationKey(
            "listeners[].proxy_protocol", .choice(["false", "true"]), "false",
            "Whether every connection begins with a PROXY protocol header, which says where it comes from."),
        ConfigurationKey(
            "listeners[].proxy_from", .texts, "anywhere",
            "The balancers, as addresses or ranges; nobody else may say where a connection comes from."),
        ConfigurationKey("listeners[].max_connections", counts, "none", "Connections at once."),
        ConfigurationKey(
            "listeners[].connection_rate", rates, "none", "Connections a second, with a burst of two seconds' worth."),
        rule("users", .texts, "everyone", "Users the rule is for, each by itself; `anonymous` is one, too."),
        rule("groups", .texts, "everyone", "Groups the rule is for; each user of them counts by itself."),
        rule("listeners", .texts, "all", "Listeners the rule is for, by name."),
        rule("addresses", .texts, "anywhere", "Addresses or ranges the rule is for; without users each by itself."),
        rule("max_connections", counts, "none", "Connections at once."),
        rule("connection_rate", rates, "none", "Connections a second; the burst is twice that, and at least 10."),
        rule("max_sessions", counts, "none", "Sessions, connected and absent."),
        rule("max_subscriptions", counts, "none", "Subscriptions of all sessions."),
        rule("publish_rate", rates, "none", "Events a second, with a burst of one second's worth."),
        rule("publish_bytes", .size(1...(1 << 40)), "none", "Bytes a second, as they are received."),
        rule("max_payload", .size(0...(1 << 30)), "none", "Bytes of one payload."),
        rule("max_retained_events", counts, "none", "Topics whose retained event was published."),
        rule("max_retained", .size(0...(1 << 40)), "none", "Bytes of these events."),
    ]

    private static func rule(
        _ name: String, _ type: ValueType, _ standard: String, _ meaning: String
    ) -> ConfigurationKey {
        ConfigurationKey("security.quotas[].\(name)", type, standard, meaning, isLive: true)
    }
}

/// Who may come in at a listener.
public struct EntranceSettings: Sendable, Equatable {
    /// `proxy_protocol`: whether a balancer says where connections come from.
    public var takesProxyHeaders = false
    /// `proxy_from`: the balancers; empty for anybody.
    public var balancers: [AddressRange] = []
    /// `max_connections`; nil for any number.
    public var maxConnections: Int?
    /// `connection_rate`; nil for any.
    public var connectionRate: Int?

    /// Everybody.
    public init() {}

    /// The admission of a listener with these settings.
    func admission(listener: String, quotas: Quotas?, audit: (any AuditSink)?) -> Admission {
        Admission(
            listener: listener, maxConnections: maxConnections, connectionRate: connectionRate, quotas: quotas,
            balancer: takesProxyHeaders ? Admission.Balancer(addresses: balancers) : nil, audit: audit)
    }
}

extension ConfigurationReader {
    /// The keys of a listener.
    mutating func entrance(_ fields: [String: Setting], _ called: String) -> EntranceSettings {
        let steps = ["listeners", "[]"]
        var entrance = EntranceSettings()
        let answer = choice(fields["proxy_protocol"], "\(called).proxy_protocol", of: Answer.self)
        entrance.takesProxyHeaders = answer == .yes
        entrance.balancers = ranges(fields["proxy_from"], "\(called).proxy_from")
        if fields["proxy_from"] != nil, !entrance.takesProxyHeaders {
            report(fields["proxy_from"], "\(called).proxy_from", "has no meaning without proxy_protocol: true")
        }
        entrance.maxConnections = number(
            fields["max_connections"], "\(called).max_connections", key(steps + ["max_connections"]))
        entrance.connectionRate = number(
            fields["connection_rate"], "\(called).connection_rate", key(steps + ["connection_rate"]))
        return entrance
    }

    /// `security.quotas`.
    mutating func quotas(_ setting: Setting?) -> [QuotaRule] {
        var rules: [QuotaRule] = []
        for (index, item) in items(setting, "security.quotas").enumerated() {
            let called = "security.quotas[\(index)]"
            let steps = ["security", "quotas", "[]"]
            let fields = group(item, at: steps, called: called)
            var rule = QuotaRule()
            rule.users = texts(fields["users"], "\(called).users") ?? []
            rule.groups = texts(fields["groups"], "\(called).groups") ?? []
            rule.listeners = texts(fields["listeners"], "\(called).listeners") ?? []
            rule.addresses = ranges(fields["addresses"], "\(called).addresses")
            for resource in QuotaResource.allCases {
                let name = resource.key
                rule.limits[resource] = number(fields[name], "\(called).\(name)", key(steps + [name]))
            }
            let names = QuotaResource.allCases.map(\.key)
            if case .map = item, names.allSatisfy({ fields[$0] == nil }) {
                report(item, called, "a quota limits something: \(names.joined(separator: ", "))")
            }
            rules.append(rule)
        }
        return rules
    }

    /// A name that no listener has would make a quota that never holds.
    mutating func check(_ rules: [QuotaRule], _ listeners: [ListenerSettings], _ setting: Setting?) {
        let known = listeners.map(\.name)
        for (index, rule) in rules.enumerated() {
            for name in rule.listeners where !known.contains(name) {
                report(
                    setting, "security.quotas[\(index)].listeners",
                    "no listener has the name '\(name)'; there are: \(known.joined(separator: ", "))")
            }
        }
    }

    private mutating func ranges(_ setting: Setting?, _ key: String) -> [AddressRange] {
        (texts(setting, key) ?? []).compactMap { text in
            if let range = AddressRange(text) { return range }
            report(setting, key, "'\(text)' is neither an address nor a range, as 10.0.0.0/8 or 2001:db8::/32")
            return nil
        }
    }
}
