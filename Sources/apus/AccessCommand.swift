/// `apus access`: what the access rules say, and why.
import ArgumentParser
import Core
import Node
import Security

/// `apus access`.
struct AccessCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "access", abstract: "Ask what the access rules of a configuration say.",
        subcommands: [AccessCheck.self])
}

/// `apus access check`.
struct AccessCheck: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Say whether somebody may do something, and which rule decides.",
        discussion: """
            Reads the configuration as `apus run` would; no node is asked. The groups of a user come from the user \
            file unless given. Without --user it is a client without a name. Ends with 0 when it is allowed, also if \
            only in part (filtered), with 1 when it is denied.

            Examples:
              apus access check --config apus.yaml --user pump-17 --publish telemetry/pump-17/state
              apus access check --config apus.yaml --user olivia --group operators --subscribe 'telemetry/#'
              apus access check --config apus.yaml --client-id c1 --share workers/jobs/# --json
            """)

    @Option(
        help: ArgumentHelp(
            "The configuration (YAML). Default: the file named by APUS_CONFIG, else none.", valueName: "file"))
    var config: String?

    @Option(help: ArgumentHelp("The user. Default: a client without a name.", valueName: "name"))
    var user: String?

    @Option(help: ArgumentHelp("The client id.", valueName: "id"))
    var clientID = ""

    @Option(help: ArgumentHelp("A group of the user; repeatable. Default: as in the user file.", valueName: "name"))
    var group: [String] = []

    @Option(
        help: ArgumentHelp(
            "A claim of the user's token, or with cert. in front of the name of the certificate; repeatable.",
            valueName: "name=value"))
    var claim: [String] = []

    @Option(help: ArgumentHelp("May it publish to this topic?", valueName: "topic"))
    var publish: String?

    @Option(help: ArgumentHelp("May it publish to this topic with the retain flag?", valueName: "topic"))
    var retain: String?

    @Option(help: ArgumentHelp("May it subscribe to this filter?", valueName: "filter"))
    var subscribe: String?

    @Option(help: ArgumentHelp("May it subscribe as a member of this group?", valueName: "group/filter"))
    var share: String?

    @Flag(help: "May it use the management interface, besides those named in admin.users?")
    var admin = false

    @Flag(help: "Print JSON instead of text for people.")
    var json = false

    func validate() throws {
        let asked = [publish, retain, subscribe, share].count { $0 != nil } + (admin ? 1 : 0)
        if asked != 1 {
            throw ValidationError("Ask for one of --publish, --retain, --subscribe, --share, --admin")
        }
    }

    func run() throws {
        let question = try question()
        let identity = identity(try claims())
        let configuration = try Configuration.load(file: config)
        let security = configuration.security
        let rules: AccessRules
        do throws(AccessRules.Failure) { rules = try security.accessRules() } catch {
            throw CommandFailure("security.access[\(error.rule)]: \(error)")
        }
        var asker = identity
        if group.isEmpty { asker.groups = try groups(security) }
        let found = rules.explain(question, asker, clientID: clientID)
        let answer = AccessAnswer(found, rules, places: security.accessPlaces)
        if json { try printJSON(answer) } else { print(answer.text(for: asker)) }
        if found.verdict == .denied { throw ExitCode(1) }
    }

    // MARK: What is asked

    private func question() throws -> AccessRules.Question {
        if let publish { return .publish(topic: try topic(publish)) }
        if let retain { return .retain(topic: try topic(retain)) }
        if let subscribe { return .subscribe(try filter(subscribe)) }
        if let share { return .subscribe(try filter(share.hasPrefix("$share/") ? share : "$share/\(share)")) }
        return .administer
    }

    private func topic(_ text: String) throws -> [UInt8] {
        let bytes = Array(text.utf8)
        guard bytes.withUnsafeBytes({ Topic.isValid($0, limits: Limits()) }) else {
            throw ValidationError("'\(text)' is no topic")
        }
        return bytes
    }

    private func filter(_ text: String) throws -> TopicFilter {
        guard let filter = try? TopicFilter(text, grammar: .either) else {
            throw ValidationError("'\(text)' is no topic filter")
        }
        return filter
    }

    private func claims() throws -> [String: [String]] {
        var claims: [String: [String]] = [:]
        for claim in claim {
            guard let equals = claim.firstIndex(of: "="), equals != claim.startIndex else {
                throw ValidationError("'\(claim)' is no claim; expected name=value")
            }
            let name = String(claim[..<equals])
            let isWhole = name.hasPrefix("cert.") || name.hasPrefix("claim.")
            claims[isWhole ? name : "claim.\(name)", default: []].append(String(claim[claim.index(after: equals)...]))
        }
        return claims
    }

    private func identity(_ claims: [String: [String]]) -> Identity {
        var identity = Identity(user: user, groups: group)
        identity.attributes = claims
        return identity
    }

    /// The groups of the user in the user file; nobody in particular has none.
    private func groups(_ security: SecuritySettings) throws -> [String] {
        guard let user, let path = security.users else { return [] }
        guard let known = try UserFile.load(path).users.first(where: { $0.name == user }) else {
            printError("note: '\(user)' is not in \(path), so without --group it has no groups")
            return []
        }
        return known.groups
    }
}

/// The answer, for people and for programs.
struct AccessAnswer: Encodable {
    let verdict: String
    /// The rule that decides, with where it stands.
    let rule: Int?
    let place: String?
    let effect: String?
    let action: String?
    let topics: [String]?
    let users: [String]?
    let groups: [String]?
    let claims: [String]?
    /// The filter that matched, variables filled in.
    let filter: String?

    /// Whether only the node itself may do it, without any rule.
    private let isNodes: Bool

    private enum CodingKeys: String, CodingKey {
        case verdict, rule, place, effect, action, topics, users, groups, claims, filter
    }

    init(_ found: AccessExplanation, _ rules: AccessRules, places: [String]) {
        verdict = found.verdict.rawValue
        rule = found.rule
        filter = found.filter
        place = found.rule.flatMap { $0 < places.count ? places[$0] : nil }
        let deciding = found.rule.map { rules.rules[$0] }
        effect = deciding?.effect.rawValue
        action = deciding?.action.rawValue
        topics = deciding?.topics
        users = deciding?.users
        groups = deciding?.groups
        claims = deciding?.claims
        isNodes = rules.rules.isEmpty && found.action != .admin
    }

    /// One or two lines.
    func text(for identity: Identity) -> String {
        guard let rule, let effect, let action else {
            if verdict == AccessExplanation.Verdict.allowed.rawValue { return "allowed: there are no access rules" }
            return isNodes ? "denied: topics that begin with $ are the node's" : "denied: no rule allows it"
        }
        var text = "\(verdict) by security.access[\(rule)]"
        if let place { text += " (\(place))" }
        text += ": \(effect) \(action)"
        if let topics, !topics.isEmpty { text += " [\(topics.joined(separator: ", "))]" }
        text += [("user", users), ("group", groups), ("claim", claims)]
            .map { name, values in
                guard let values, !values.isEmpty else { return "" }
                return " for \(name) \(values.joined(separator: " or "))"
            }.joined()
        if let filter, topics?.contains(filter) != true { text += "\n  for this client: \(filter)" }
        if filter == nil, effect == "deny", topics?.isEmpty == false {
            text += "\n  a variable of the rule has no value that can stand in a topic, so it denies everything"
        }
        if verdict == AccessExplanation.Verdict.filtered.rawValue {
            text += "\n  the rules do not allow all of it: what they do not allow is left out"
        }
        return text
    }
}
