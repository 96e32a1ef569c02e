/// The section `security`: its keys, and how it is read. See `docs/configuration.md`.
import Core
import Security

/// The keys of the section.
enum SecurityKeys {
    static let all: [ConfigurationKey] = [
        ConfigurationKey(
            "security.users", .path, "none", "The user file, made by `apus user add`.", isLive: true),
        ConfigurationKey(
            "security.anonymous", .choice(AnonymousPolicy.allCases.map(\.rawValue)), "loopback",
            "Who may come without a user name.", isLive: true),
        ConfigurationKey(
            "security.access[].allow", .choice(AccessRule.Action.allCases.map(\.rawValue)), "allow or deny",
            "What the rule allows.", isLive: true),
        ConfigurationKey(
            "security.access[].deny", .choice(AccessRule.Action.allCases.map(\.rawValue)), "allow or deny",
            "What the rule denies.", isLive: true),
        ConfigurationKey(
            "security.access[].topics", .texts, "required but for `admin`",
            "Topic filters, which may hold `${username}`, `${clientid}`, `${cert.cn}` and the like, `${claim.NAME}`.",
            isLive: true),
        ConfigurationKey(
            "security.access[].users", .texts, "everyone",
            "Users the rule is for; `anonymous` means clients without a name.", isLive: true),
        ConfigurationKey(
            "security.access[].groups", .texts, "everyone", "Groups the rule is for.", isLive: true),
        ConfigurationKey(
            "security.access[].claims", .texts, "everyone",
            "What a token or certificate says of those the rule is for, as `name=value`; one of them is enough.",
            isLive: true),
        ConfigurationKey(
            "security.broad_subscriptions", .choice(BroadSubscriptions.allCases.map(\.rawValue)), "refuse",
            "What becomes of a subscription that is broader than the rules: refused, or given what they allow.",
            isLive: true),
    ]
}

extension ConfigurationReader {
    mutating func security(_ setting: Setting?) -> SecuritySettings {
        var security = SecuritySettings()
        let fields = group(setting, at: ["security"], called: "security")
        security.users = text(fields["users"], "security.users")
        if let policy = choice(fields["anonymous"], "security.anonymous", of: AnonymousPolicy.self) {
            security.anonymous = policy
        }
        if let answer = choice(
            fields["broad_subscriptions"], "security.broad_subscriptions", of: BroadSubscriptions.self)
        {
            security.broadSubscriptions = answer
        }
        security.tokens = tokens(fields["tokens"])
        security.quotas = quotas(fields["quotas"])
        for (index, item) in items(fields["access"], "security.access").enumerated() {
            if let rule = rule(item, "security.access[\(index)]") {
                security.access.append(rule)
                security.accessPlaces.append(item.place)
            }
        }
        return security
    }

    private mutating func rule(_ item: Setting, _ called: String) -> AccessRule? {
        let fields = group(item, at: ["security", "access", "[]"], called: called)
        let isAboutAdmin = [fields["allow"], fields["deny"]].contains { setting in
            if case .text("admin", _)? = setting { true } else { false }
        }
        let topics = isAboutAdmin ? [] : required(fields, "topics", in: item, called) { $0.texts($1, $2) }
        let users = texts(fields["users"], "\(called).users") ?? []
        let groups = texts(fields["groups"], "\(called).groups") ?? []
        let claims = texts(fields["claims"], "\(called).claims") ?? []
        for topic in topics ?? [] { check(topic, fields["topics"], "\(called).topics") }
        guard let effect = effect(fields, item, called) else { return nil }
        let word = effect.rawValue
        let action = choice(fields[word], "\(called).\(word)", of: AccessRule.Action.self)
        guard let action, let topics else { return nil }
        if isAboutAdmin, let topics = fields["topics"] {
            report(topics, "\(called).topics", "a rule about admin has no topics")
            return nil
        }
        let rule = AccessRule(
            effect: effect, action: action, topics: topics, users: users, groups: groups, claims: claims)
        // A filter that is none is named when all rules are put together.
        do throws(AccessRules.Failure) { _ = try AccessRules([rule]) } catch {
            switch error.problem {
            case .malformedFilter, .unknownVariable: break
            case .malformedClaim: report(fields["claims"], "\(called).claims", error.description)
            case .groupForPublishing: report(fields["topics"], "\(called).topics", error.description)
            // An empty list has been named already.
            case .noTopics: break
            case .topicsForAdmin, .adminForEveryone: report(item, called, error.description)
            }
        }
        return rule
    }

    private mutating func effect(
        _ fields: [String: Setting], _ item: Setting, _ called: String
    ) -> AccessRule.Effect? {
        switch (fields["allow"], fields["deny"]) {
        case (_?, nil): return .allow
        case (nil, _?): return .deny
        case (nil, nil):
            if case .map = item {
                let actions = AccessRule.Action.allCases.map(\.rawValue).joined(separator: " | ")
                report(item, called, "a rule needs 'allow' or 'deny': \(actions)")
            }
            return nil
        case (_?, let deny?):
            report(deny, "\(called).deny", "a rule has either 'allow' or 'deny', not both")
            return nil
        }
    }

    /// Whether `topic` can be a rule's filter: a variable that nobody knows would never match, and a `deny` that never
    /// matches is a hole.
    private mutating func check(_ topic: String, _ setting: Setting?, _ key: String) {
        if topic.utf8.count > 65_535 { report(setting, key, "a topic filter has at most 65535 bytes") }
        if topic.utf8.contains(0) { report(setting, key, "a topic filter must not contain a NUL character") }
        var rest = topic[...]
        while let start = rest.firstRange(of: "${") {
            guard let end = rest[start.upperBound...].firstIndex(of: "}") else {
                report(setting, key, "'\(topic)' has a '${' without '}'")
                return
            }
            let name = String(rest[start.upperBound..<end])
            if !AccessRules.isVariable(name) {
                let allowed = AccessRules.variables.joined(separator: ", ")
                report(setting, key, "unknown variable '${\(name)}'; allowed: \(allowed)")
            }
            rest = rest[rest.index(after: end)...]
        }
        let levels = topic.split(separator: "/", omittingEmptySubsequences: false)
        if levels.dropLast().contains("#") {
            report(setting, key, "'\(topic)': '#' stands for all further levels and so must be the last one")
        }
    }
}
