/// Access rules made ready: whom a rule is for, and topics whose variables are to be filled in.

/// What a rule is asked about.
struct AccessUses: OptionSet, Sendable {
    let rawValue: UInt8
    static let publish = AccessUses(rawValue: 1)
    /// Publishing with the retain flag.
    static let retain = AccessUses(rawValue: 2)
    static let subscribe = AccessUses(rawValue: 4)
    /// Being a member of a shared group.
    static let share = AccessUses(rawValue: 8)

    /// The questions that rules about an action are asked. Those about publishing speak for the retain flag too, but
    /// the one about retaining that stands before has the first word; in the same way sharing.
    init(_ action: AccessRule.Action) {
        switch action {
        case .publish: self = [.publish, .retain]
        case .subscribe: self = [.subscribe, .share]
        case .all: self = [.publish, .retain, .subscribe, .share]
        case .retain: self = .retain
        case .share: self = .share
        case .admin: self = []
        }
    }

    init(rawValue: UInt8) { self.rawValue = rawValue }
}

/// A rule, checked.
struct CompiledRule: Sendable {
    let effect: AccessRule.Effect
    let action: AccessRule.Action
    let uses: AccessUses
    let templates: [TopicTemplate]
    private let users: [String]
    private let groups: [String]
    private let claims: [(name: String, value: String)]

    init(_ rule: AccessRule, at index: Int) throws(AccessRules.Failure) {
        effect = rule.effect
        action = rule.action
        uses = AccessUses(rule.action)
        users = rule.users
        groups = rule.groups
        var claims: [(name: String, value: String)] = []
        for claim in rule.claims {
            guard let equals = claim.utf8.firstIndex(of: UInt8(ascii: "=")), equals != claim.startIndex else {
                throw AccessRules.Failure(rule: index, topic: claim, problem: .malformedClaim)
            }
            claims.append((String(claim[..<equals]), String(claim[claim.utf8.index(after: equals)...])))
        }
        self.claims = claims
        if rule.action == .admin {
            if let topic = rule.topics.first {
                throw AccessRules.Failure(rule: index, topic: topic, problem: .topicsForAdmin)
            }
            if rule.effect == .allow, users.isEmpty, groups.isEmpty, claims.isEmpty {
                throw AccessRules.Failure(rule: index, topic: "", problem: .adminForEveryone)
            }
        } else if rule.topics.isEmpty {
            throw AccessRules.Failure(rule: index, topic: "", problem: .noTopics)
        }
        var templates: [TopicTemplate] = []
        for topic in rule.topics {
            do throws(TopicTemplate.Failure) {
                let template = try TopicTemplate(topic)
                if template.hasGroup, !uses.contains(.share) {
                    throw .groupForPublishing
                }
                templates.append(template)
            } catch {
                throw AccessRules.Failure(rule: index, topic: topic, problem: error)
            }
        }
        self.templates = templates
    }

    /// Whether users, groups and claims of the rule are those of an identity.
    func isFor(_ identity: Identity) -> Bool {
        guard users.isEmpty || users.contains(identity.user ?? "anonymous") else { return false }
        guard groups.isEmpty || groups.contains(where: identity.groups.contains) else { return false }
        return claims.isEmpty || claims.contains { has(identity, $0.name, $0.value) }
    }

    private func has(_ identity: Identity, _ name: String, _ value: String) -> Bool {
        guard !identity.attributes.isEmpty else { return false }
        if identity.attributes[name]?.contains(value) == true { return true }
        // A token may have claims of any name: one that is called `cert.cn` proves nothing about a certificate.
        if name.hasPrefix("claim.") || name.hasPrefix("cert.") { return false }
        return identity.attributes["claim.\(name)"]?.contains(value) == true
            || identity.attributes["cert.\(name)"]?.contains(value) == true
    }
}

/// A topic filter with variables in it.
struct TopicTemplate: Sendable {
    typealias Failure = AccessRules.Failure.Problem

    enum Variable: Sendable, Equatable {
        case username, clientID
        /// One of ``Identity/attributes``.
        case attribute(String)
    }

    enum Part: Sendable {
        case text(String)
        /// By its place in ``variables``.
        case variable(Int)
    }

    /// A rule does not become more than so many filters for one principal.
    static let maxExpansions = 16

    /// As it is written.
    let text: String
    /// The filter, when there are no variables.
    let fixed: TopicFilter?
    /// Whether it is about members of a shared group only.
    let hasGroup: Bool
    private let parts: [Part]
    /// Each once: it has the same value wherever it stands.
    private let variables: [Variable]

    init(_ text: String) throws(Failure) {
        self.text = text
        var parts: [Part] = []
        var variables: [Variable] = []
        var rest = text[...]
        while let start = rest.firstRange(of: "${") {
            parts.append(.text(String(rest[..<start.lowerBound])))
            guard let end = rest[start.upperBound...].firstIndex(of: "}"),
                let variable = Self.variable(String(rest[start.upperBound..<end]))
            else { throw .unknownVariable }
            let known = variables.firstIndex(of: variable)
            if known == nil { variables.append(variable) }
            parts.append(.variable(known ?? variables.count - 1))
            rest = rest[rest.index(after: end)...]
        }
        parts.append(.text(String(rest)))
        self.parts = parts
        self.variables = variables
        let sample = Self.fill(parts, Array(repeating: "name", count: variables.count))
        guard let filter = try? TopicFilter(sample, grammar: .either) else { throw .malformedFilter }
        hasGroup = filter.group != nil
        fixed = variables.isEmpty ? filter : nil
    }

    static func variable(_ name: String) -> Variable? {
        switch name {
        case "username": return .username
        case "clientid": return .clientID
        default: break
        }
        if name.hasPrefix("claim."), name.utf8.count > "claim.".utf8.count { return .attribute(name) }
        if name.hasPrefix("cert."), PeerCertificate.variables.contains(String(name.dropFirst("cert.".count))) {
            return .attribute(name)
        }
        return nil
    }

    /// What a template stands for.
    struct Expansion {
        var filters: [TopicFilter]
        /// Whether it stands for nothing else: every variable had values, all of them can stand in a topic, and they
        /// were not too many.
        var isComplete: Bool
    }

    /// Fills the variables in, each with each of its values.
    func expanded(for identity: Identity, clientID: String) -> Expansion {
        if let fixed { return Expansion(filters: [fixed], isComplete: true) }
        var isComplete = true
        var rows: [[String]] = [[]]
        for variable in variables {
            let all = Self.values(of: variable, identity, clientID)
            let plain = all.filter(Self.isPlain)
            if all.isEmpty || plain.count < all.count { isComplete = false }
            var longer: [[String]] = []
            for row in rows {
                for value in plain {
                    guard longer.count < Self.maxExpansions else {
                        isComplete = false
                        break
                    }
                    longer.append(row + [value])
                }
            }
            rows = longer
        }
        let filters = rows.compactMap { try? TopicFilter(Self.fill(parts, $0), grammar: .either) }
        return Expansion(filters: filters, isComplete: isComplete && filters.count == rows.count)
    }

    private static func values(of variable: Variable, _ identity: Identity, _ clientID: String) -> [String] {
        switch variable {
        case .username: identity.user.map { [$0] } ?? []
        case .clientID: [clientID]
        case .attribute(let name): identity.attributes[name] ?? []
        }
    }

    private static func fill(_ parts: [Part], _ values: [String]) -> String {
        var text = ""
        for part in parts {
            switch part {
            case .text(let piece): text += piece
            case .variable(let place): text += values[place]
            }
        }
        return text
    }

    /// Whether a value can stand in a topic without changing what the topic means. Bytes, not characters: a separator
    /// followed by a combining mark is another character but still a separator. `$` begins `$share` and variables.
    static func isPlain(_ value: String) -> Bool {
        !value.isEmpty && !value.utf8.contains { "/+#*>$\0".utf8.contains($0) }
    }
}
