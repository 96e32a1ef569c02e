/// The section `bridges`: MQTT brokers that events go to and come from. See `docs/bridge.md`.
import Bridge
import Core

/// The keys of the section.
enum BridgeKeys {
    static let all: [ConfigurationKey] = [
        key("name", .text, "required", "Letters, digits, `.`, `_` and `-`."),
        key("to", .hostAddress, "required", "The broker."),
        key("version", .choice(BridgeDefinition.Version.allCases.map(\.rawValue)), "5", "The version of MQTT."),
        key("client_id", .text, "apus-<node>-<name>", "The client id; must stay the same for a session to be kept."),
        key("user", .text, "none", "The user name that the broker is told."),
        key("password", .text, "none", "Its password."),
        key("tls.ca", .path, "the system's", "Authorities (PEM) that the broker's certificate must come from."),
        key("tls.certificate", .path, "none", "The certificate (PEM) for this broker."),
        key("tls.key", .path, "the certificate's file", "Its private key (PEM)."),
        key(
            "tls.verify_name", .choice(["false", "true"]), "true",
            "Whether the certificate must be for the host of `to`."),
        key("topics[].filter", .text, "required", "A topic filter of MQTT, without the prefixes."),
        key(
            "topics[].direction", .choice(BridgeDefinition.Direction.allCases.map(\.rawValue)), "required",
            "From the broker, to it, or both."),
        key("topics[].qos", .integer(0...2), "1", "The highest quality of service."),
        key("topics[].local_prefix", .text, "none", "What stands in front of the topics here."),
        key("topics[].remote_prefix", .text, "none", "What stands in front of them at the broker."),
        key("broker", .text, "to", "What the broker is called in `apus-bridge`; the same at every bridge to it."),
        key("group", .text, "none", "The shared group of bridges of a mesh to the same broker."),
        key(
            "session", .choice(["clean", "kept"]), "kept",
            "Whether the broker keeps what is for the bridge while it is away."),
        key(
            "session_expiry", .seconds(0...4_294_967_295), "86400", "Seconds that a broker of MQTT 5 keeps it."),
        key("keep_alive", .seconds(5...65_535), "60", "Seconds between signs of life."),
        key("retry_first", .seconds(1...86_400), "1", "Seconds until the second attempt to connect; then doubled."),
        key("retry_max", .seconds(1...86_400), "60", "The most seconds between two attempts."),
        key("max_in_flight", .integer(1...10_000), "20", "Guaranteed events at the broker and not acknowledged."),
        key("max_hops", .integer(1...32), "8", "Brokers and meshes that an event may have been at."),
    ]

    private static func key(
        _ name: String, _ type: ValueType, _ standard: String, _ meaning: String
    ) -> ConfigurationKey {
        ConfigurationKey("bridges[].\(name)", type, standard, meaning, isLive: true)
    }
}

extension ConfigurationReader {
    private enum Session: String, CaseIterable { case clean, kept }

    /// The bridges, in the order of the file.
    mutating func bridges(_ setting: Setting?, _ limits: Limits) -> [BridgeDefinition] {
        var bridges: [BridgeDefinition] = []
        var names: [String: String] = [:]
        for (index, item) in items(setting, "bridges").enumerated() {
            let called = "bridges[\(index)]"
            guard let bridge = bridge(item, called) else { continue }
            let flaws = bridge.flaws(limits: limits)
            for flaw in flaws { report(item[flaw.field] ?? item, "\(called).\(flaw.field)", flaw.rule) }
            guard flaws.isEmpty else { continue }
            if let other = names.updateValue(called, forKey: bridge.name) {
                report(item["name"], "\(called).name", "\(other) has the name '\(bridge.name)' as well")
                continue
            }
            bridges.append(bridge)
        }
        return bridges
    }

    private mutating func bridge(_ item: Setting, _ called: String) -> BridgeDefinition? {
        let fields = group(item, at: ["bridges", "[]"], called: called)
        let name = required(fields, "name", in: item, called) { $0.text($1, $2) }
        let to = required(fields, "to", in: item, called) { $0.text($1, $2) }
        let topics = topics(fields["topics"], in: item, called)
        guard let name, let to, let topics else { return nil }
        if let reason = MeshKeys.reasonAgainst(address: to) {
            report(fields["to"], "\(called).to", "'\(to)' is no address of a broker: \(reason)")
            return nil
        }
        // Just checked: a host, a colon and a port.
        let colon = to.lastIndex(of: ":") ?? to.startIndex
        let host = to[..<colon].filter { $0 != "[" && $0 != "]" }
        let port = UInt16(to[colon...].dropFirst()) ?? 0
        var bridge = BridgeDefinition(name: name, host: String(host), port: port, topics: topics)
        bridge.broker = text(fields["broker"], "\(called).broker") ?? to.lowercased()
        bridge.group = text(fields["group"], "\(called).group")
        bridge.clientID = text(fields["client_id"], "\(called).client_id")
        bridge.user = text(fields["user"], "\(called).user")
        bridge.password = text(fields["password"], "\(called).password")
        if let version = choice(fields["version"], "\(called).version", of: BridgeDefinition.Version.self) {
            bridge.version = version
        }
        if let session = choice(fields["session"], "\(called).session", of: Session.self) {
            bridge.isSessionKept = session == .kept
        }
        bridge.security = security(of: fields["tls"], called)
        readNumbers(fields, &bridge, called)
        return bridge
    }

    private mutating func readNumbers(
        _ fields: [String: Setting], _ bridge: inout BridgeDefinition, _ called: String
    ) {
        func value(_ name: String, _ reader: inout Self) -> Int? {
            reader.number(fields[name], "\(called).\(name)", reader.key(["bridges", "[]", name]))
        }
        if let seconds = value("session_expiry", &self) { bridge.sessionExpirySeconds = UInt32(clamping: seconds) }
        if let seconds = value("keep_alive", &self) { bridge.keepAliveSeconds = UInt16(clamping: seconds) }
        if let seconds = value("retry_first", &self) {
            bridge.backoff.first = UInt64(seconds) * 1_000
            bridge.backoff.highest = max(bridge.backoff.highest, bridge.backoff.first)
        }
        if let seconds = value("retry_max", &self) {
            bridge.backoff.highest = UInt64(seconds) * 1_000
            if bridge.backoff.highest < bridge.backoff.first {
                report(fields["retry_max"], "\(called).retry_max", "must be at least retry_first")
            }
        }
        if let count = value("max_in_flight", &self) { bridge.maxInFlight = count }
        if let count = value("max_hops", &self) { bridge.maxHops = count }
    }

    /// - Returns: nil when there is no such section.
    private mutating func security(of setting: Setting?, _ called: String) -> BridgeDefinition.Security? {
        switch setting {
        case nil: return nil
        // `tls:` alone: the system's authorities.
        case .nothing?: return BridgeDefinition.Security()
        case .map?, .list?, .text?: break
        }
        let fields = group(setting, at: ["bridges", "[]", "tls"], called: "\(called).tls")
        var security = BridgeDefinition.Security()
        security.authorities = text(fields["ca"], "\(called).tls.ca")
        security.certificate = text(fields["certificate"], "\(called).tls.certificate")
        security.key = text(fields["key"], "\(called).tls.key")
        if let answer = choice(fields["verify_name"], "\(called).tls.verify_name", of: Answer.self) {
            security.isNameVerified = answer == .yes
        }
        return security
    }

    private mutating func topics(
        _ setting: Setting?, in item: Setting, _ called: String
    ) -> [BridgeDefinition.Topic]? {
        guard setting != nil else {
            report(item, "\(called).topics", "is missing")
            return nil
        }
        var topics: [BridgeDefinition.Topic] = []
        let steps = ["bridges", "[]", "topics", "[]"]
        for (index, item) in items(setting, "\(called).topics").enumerated() {
            let called = "\(called).topics[\(index)]"
            let fields = group(item, at: steps, called: called)
            let filter = required(fields, "filter", in: item, called) { $0.text($1, $2) }
            let direction = required(fields, "direction", in: item, called) { reader, setting, key in
                reader.choice(setting, key, of: BridgeDefinition.Direction.self)
            }
            let qos = number(fields["qos"], "\(called).qos", key(steps + ["qos"]))
            let local = prefix(fields["local_prefix"], "\(called).local_prefix")
            let remote = prefix(fields["remote_prefix"], "\(called).remote_prefix")
            guard let filter, let direction else { return nil }
            topics.append(
                BridgeDefinition.Topic(
                    filter: filter, direction: direction, qos: UInt8(clamping: qos ?? 1), localPrefix: local,
                    remotePrefix: remote))
        }
        return topics
    }

    /// A prefix may be empty, and says then what is so without it.
    private mutating func prefix(_ setting: Setting?, _ key: String) -> String {
        if case .text("", _)? = setting { return "" }
        return text(setting, key) ?? ""
    }
}
