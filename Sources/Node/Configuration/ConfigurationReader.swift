/// Checks a tree of settings and makes a configuration of it. All problems are collected, so that a person mends a file
/// once and not ten times.
import AMQP
import Core
import Logging
import Security
import TLS
import Web
import Webhooks

/// Reads one tree.
struct ConfigurationReader {
    private(set) var problems: [ConfigurationProblem]
    /// Of ``Configuration/places``.
    private var places: [String: String] = [:]
    /// Who listens where, for the addresses that have been read.
    private var addresses: [ListenAddress: (who: String, key: String, setting: Setting)] = [:]
    /// Places of texts that refer to a variable that is not set. That has been said; they are empty.
    private let unset: Set<String>

    init(problems: [ConfigurationProblem], unset: Set<String>) {
        self.problems = problems
        self.unset = unset
    }

    mutating func read(_ tree: Setting, hostName: String) -> Configuration {
        var configuration = Configuration(name: hostName)
        let root = group(tree, at: [], called: "")
        let node = group(root["node"], at: ["node"], called: "node")
        if let name = text(node["name"], "node.name") { configuration.name = name }
        if let data = text(node["data"], "node.data") { configuration.data = data }
        let lanes = key(["node", "lanes"])
        if let count = number(node["lanes"], "node.lanes", lanes) { configuration.lanes = count }
        let drain = key(["node", "drain_seconds"])
        if let seconds = number(node["drain_seconds"], "node.drain_seconds", drain) {
            configuration.drainSeconds = seconds
        }
        configuration.tls = tls(root["tls"])
        configuration.listeners = listeners(root["listeners"], configuration.tls)
        configuration.mesh = mesh(root["mesh"])
        check(meshTLS: root["mesh"]?["tls"], configuration.tls)
        configuration.security = security(root["security"])
        check(configuration.security.quotas, configuration.listeners, root["security"])
        configuration.admin = admin(root["admin"], configuration.security, configuration.tls)
        configuration.mqtt = mqtt(root["mqtt"])
        configuration.amqp = amqp(root["amqp"])
        configuration.http = http(root["http"])
        configuration.limits = limits(root["limits"])
        configuration.webhooks = webhooks(root["http"], configuration.limits)
        configuration.bridges = bridges(root["bridges"], configuration.limits)
        configuration.log = log(root["log"])
        configuration.places = places
        return configuration
    }

    // MARK: Sections

    /// A switch.
    enum Answer: String, CaseIterable { case no = "false", yes = "true" }

    private mutating func listeners(_ setting: Setting?, _ sections: [TLSSettings]) -> [ListenerSettings] {
        var listeners: [ListenerSettings] = []
        var names: [String: String] = [:]
        for (index, item) in items(setting, "listeners").enumerated() {
            let called = "listeners[\(index)]"
            let fields = group(item, at: ["listeners", "[]"], called: called)
            let kind = required(fields, "protocol", in: item, called) { reader, setting, key in
                reader.choice(setting, key, of: ListenerSettings.ProtocolName.self)
            }
            let address = required(fields, "listen", in: item, called) { reader, setting, key in
                reader.address(setting, key)
            }
            let name = text(fields["name"], "\(called).name")
            let tls = reference(fields["tls"], "\(called).tls", among: sections)
            let anonymous = choice(fields["anonymous"], "\(called).anonymous", of: AnonymousPolicy.self)
            let entrance = entrance(fields, called)
            guard let kind, let address else { continue }
            var listener = ListenerSettings(protocolName: kind, address: address, name: name)
            listener.tls = tls
            listener.anonymous = anonymous
            listener.entrance = entrance
            if let setting = fields["listen"] { claim(address, setting, "\(called).listen", called) }
            if let other = names.updateValue(called, forKey: listener.name), name != nil {
                report(fields["name"], "\(called).name", "\(other) has the name '\(listener.name)' as well")
            }
            listeners.append(listener)
        }
        return listeners
    }

    private mutating func admin(
        _ setting: Setting?, _ security: SecuritySettings, _ sections: [TLSSettings]
    ) -> AdminSettings {
        var admin = AdminSettings()
        let fields = group(setting, at: ["admin"], called: "admin")
        admin.tls = reference(fields["tls"], "admin.tls", among: sections)
        admin.users = texts(fields["users"], "admin.users") ?? []
        if let listen = fields["listen"] {
            if case .text("off", _) = listen {
                admin.address = nil
            } else if let address = address(listen, "admin.listen") {
                admin.address = address
                claim(address, listen, "admin.listen", "the management interface")
                let hasRule = security.access.contains { $0.action == .admin && $0.effect == .allow }
                if !address.isLocal, fields["users"] == nil, !hasRule {
                    let message = "'\(address)' can be reached from other machines: name who may in admin.users"
                    report(listen, "admin.listen", "\(message), or listen on 127.0.0.1")
                }
            }
        }
        if fields["listen"] == nil, let other = addresses[.standardAdmin] {
            let advice = "admin.listen names another address, or off"
            report(
                other.setting, other.key,
                "the management interface listens on \(ListenAddress.standardAdmin); \(advice)")
        }
        let hasOtherProof = !security.tokens.isEmpty || sections.contains { $0.name == admin.tls && $0.user != nil }
        if !admin.users.isEmpty, security.users == nil, !hasOtherProof {
            report(fields["users"], "admin.users", "needs security.users, the file with their passwords")
        }
        return admin
    }

    /// Two cannot listen on one address.
    /// - Parameter who: for the other one's message.
    mutating func claim(_ address: ListenAddress, _ setting: Setting, _ key: String, _ who: String) {
        guard !address.isAnyPort else { return }
        if let other = addresses.updateValue((who, key, setting), forKey: address) {
            report(setting, key, "\(other.who) listens on \(address) as well")
        }
    }

    private mutating func mqtt(_ setting: Setting?) -> MQTTSettings {
        enum Answer: String, CaseIterable { case no, yes }
        var mqtt = MQTTSettings()
        let fields = group(setting, at: ["mqtt"], called: "mqtt")
        let interval = key(["mqtt", "sys_interval"])
        if let seconds = number(fields["sys_interval"], "mqtt.sys_interval", interval) {
            mqtt.sysIntervalSeconds = seconds
        }
        if let answer = choice(fields["trace_payload"], "mqtt.trace_payload", of: Answer.self) {
            mqtt.tracesPayload = answer == .yes
        }
        return mqtt
    }

    private mutating func amqp(_ setting: Setting?) -> AMQPSettings {
        var amqp = AMQPSettings()
        let fields = group(setting, at: ["amqp"], called: "amqp")
        if let kind = choice(
            fields["unprefixed_address"], "amqp.unprefixed_address", of: AMQPSettings.Unprefixed.self)
        {
            amqp.unprefixedAddress = kind
        }
        if let answer = choice(fields["require_sasl"], "amqp.require_sasl", of: Answer.self) {
            amqp.allowsNoSASL = answer == .no
        }
        if let answer = choice(fields["remote_plain"], "amqp.remote_plain", of: Answer.self) {
            amqp.allowsRemotePlain = answer == .yes
        }
        if let seconds = number(fields["idle_timeout"], "amqp.idle_timeout", key(["amqp", "idle_timeout"])) {
            amqp.idleMilliseconds = seconds * 1_000
        }
        return amqp
    }

    private mutating func http(_ setting: Setting?) -> WebSettings {
        var http = WebSettings()
        let fields = group(setting, at: ["http"], called: "http")
        http.corsOrigins = texts(fields["cors_origins"], "http.cors_origins") ?? []
        for origin in http.corsOrigins where origin != "*" {
            let parts = origin.split(separator: "/", omittingEmptySubsequences: false)
            let isOrigin =
                parts.count == 3 && ["http:", "https:"].contains(parts[0]) && parts[1] == "" && parts[2] != ""
            guard !isOrigin else { continue }
            let message = "'\(origin)' is no origin; expected https://HOST, perhaps with :PORT, and nothing behind it"
            report(fields["cors_origins"], "http.cors_origins", message)
        }
        if let answer = choice(fields["debug_echo"], "http.debug_echo", of: Answer.self) {
            http.isEchoOn = answer == .yes
        }
        http.webhookUsers = texts(fields["webhook_users"], "http.webhook_users") ?? []
        return http
    }

    private mutating func webhooks(_ setting: Setting?, _ limits: Limits) -> [WebhookEntry] {
        guard case .map(let entries, _)? = setting else { return [] }
        let list = entries.first { $0.name == "webhooks" }?.value
        var webhooks: [WebhookEntry] = []
        var names: [String: String] = [:]
        for (index, item) in items(list, "http.webhooks").enumerated() {
            let called = "http.webhooks[\(index)]"
            guard let webhook = webhook(item, called) else { continue }
            let definition = webhook.definition
            // That the list is empty has been said.
            let flaws = definition.flaws(limits: limits).filter { $0.field != "filters" || !definition.filters.isEmpty }
            for flaw in flaws { report(item[flaw.field] ?? item, "\(called).\(flaw.field)", flaw.rule) }
            guard flaws.isEmpty else { continue }
            if let other = names.updateValue(called, forKey: definition.name) {
                report(item["name"], "\(called).name", "\(other) has the name '\(definition.name)' as well")
            }
            webhooks.append(webhook)
        }
        return webhooks
    }

    private mutating func webhook(_ item: Setting, _ called: String) -> WebhookEntry? {
        let steps = ["http", "webhooks", "[]"]
        let fields = group(item, at: steps, called: called)
        let name = required(fields, "name", in: item, called) { $0.text($1, $2) }
        let url = required(fields, "url", in: item, called) { $0.text($1, $2) }
        let filters = required(fields, "filters", in: item, called) { $0.texts($1, $2) }
        func value(_ name: String, _ reader: inout Self) -> Int? {
            reader.number(fields[name], "\(called).\(name)", reader.key(steps + [name]))
        }
        guard let name, let url, let filters else { return nil }
        var definition = WebhookDefinition(name: name, url: url, filters: filters)
        definition.group = text(fields["group"], "\(called).group")
        definition.weight = value("weight", &self)
        definition.secret = text(fields["secret"], "\(called).secret")
        if let number = value("parallelism", &self) { definition.parallelism = number }
        if let number = value("attempts", &self) { definition.attempts = number }
        if let seconds = value("timeout", &self) { definition.timeoutMilliseconds = UInt64(seconds) * 1_000 }
        if let seconds = value("retry_first", &self) {
            definition.retryFirstMilliseconds = UInt64(seconds) * 1_000
            definition.retryMaxMilliseconds = max(definition.retryMaxMilliseconds, definition.retryFirstMilliseconds)
        }
        if let seconds = value("retry_max", &self) { definition.retryMaxMilliseconds = UInt64(seconds) * 1_000 }
        if let codes = texts(fields["rejected_codes"], "\(called).rejected_codes") {
            let numbers = codes.compactMap { Int($0) }
            if numbers.count < codes.count {
                report(fields["rejected_codes"], "\(called).rejected_codes", "expected status codes from 300 to 599")
            }
            definition.rejectedCodes = Set(numbers)
        }
        return WebhookEntry(definition: definition, user: text(fields["user"], "\(called).user"))
    }

    private mutating func limits(_ setting: Setting?) -> Limits {
        var limits = Limits()
        let fields = group(setting, at: ["limits"], called: "limits")
        for key in ConfigurationKeys.limits {
            if let value = number(fields[key.name], "limits.\(key.name)", key.type) {
                limits[keyPath: key.field] = value
            }
        }
        if let policy = choice(fields["queue_full"], "limits.queue_full", of: Limits.QueueFull.self) {
            limits.queueFull = policy
        }
        return limits
    }

    private mutating func log(_ setting: Setting?) -> LogSettings {
        var log = LogSettings()
        let fields = group(setting, at: ["log"], called: "log")
        if let level = level(fields["level"], "log.level") { log.level = level }
        if let format = choice(fields["format"], "log.format", of: LogFormat.self) { log.format = format }
        let levels = group(fields["levels"], at: ["log", "levels"], called: "log.levels")
        for (component, setting) in levels.sorted(by: { $0.key < $1.key }) {
            if let level = level(setting, "log.levels.\(component)") { log.levels[component] = level }
            let known = ConfigurationKeys.components
            // A level of `mqtt` is one of `mqtt.trace`, too.
            guard !known.contains(where: { $0 == component || $0.hasPrefix("\(component).") }) else { continue }
            let hint = nearest(to: component, among: known + ["mqtt"]).map { "; did you mean '\($0)'?" } ?? ";"
            let message = "there is no such component\(hint) allowed: \(known.joined(separator: ", "))"
            report(setting, "log.levels.\(component)", message)
        }
        return log
    }

    // MARK: Values

    /// The fields of a group; reports names that are not keys. `steps` is the group's path in the table.
    mutating func group(_ setting: Setting?, at steps: [String], called: String) -> [String: Setting] {
        switch setting {
        case nil, .nothing?: return [:]
        case .text?, .list?:
            report(setting, called, "expected a group of keys, found \(setting?.kind ?? "nothing")")
            return [:]
        case .map(let entries, _)?:
            let allowed = ConfigurationKeys.names(below: steps)
            var fields: [String: Setting] = [:]
            for entry in entries {
                let path = called.isEmpty ? entry.name : "\(called).\(entry.name)"
                if allowed.isEmpty || allowed.contains(entry.name) {
                    fields[entry.name] = entry.value
                    note(entry.value, path)
                } else {
                    let hint = nearest(to: entry.name, among: allowed).map { "; did you mean '\($0)'?" } ?? ""
                    let message =
                        "unknown key\(hint)\(hint.isEmpty ? ";" : "") allowed: \(allowed.joined(separator: ", "))"
                    problems.append(.init(place: entry.place, key: path, message: message))
                }
            }
            return fields
        }
    }

    /// Remembers where a value stands.
    private mutating func note(_ setting: Setting, _ key: String) {
        switch setting {
        case .text(_, let place), .list(_, let place): if place != Setting.standardPlace { places[key] = place }
        case .map, .nothing: break
        }
    }

    mutating func items(_ setting: Setting?, _ key: String) -> [Setting] {
        switch setting {
        case nil, .nothing?: return []
        case .list(let items, _)?: return items
        case .text?, .map?:
            report(setting, key, "expected a list, found \(setting?.kind ?? "nothing")")
            return []
        }
    }

    mutating func required<Value>(
        _ fields: [String: Setting], _ name: String, in item: Setting, _ called: String,
        _ read: (inout Self, Setting, String) -> Value?
    ) -> Value? {
        let key = "\(called).\(name)"
        switch fields[name] {
        case nil:
            switch item {
            case .map, .nothing: report(item, key, "is missing")
            case .text, .list: break  // Already reported as no group.
            }
            return nil
        case .nothing(let place)?:
            problems.append(.init(place: place, key: key, message: "has no value"))
            return nil
        case let setting?:
            return read(&self, setting, key)
        }
    }

    mutating func text(_ setting: Setting?, _ key: String) -> String? {
        switch setting {
        case nil: return nil
        case .text(let text, let place)?:
            if text.isEmpty, unset.contains(place) { return nil }
            if !text.isEmpty, !text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7F }) {
                return text
            }
            report(setting, key, text.isEmpty ? "must not be empty" : "must not contain control characters")
            return nil
        case .nothing?:
            report(setting, key, "has no value")
            return nil
        case .list?, .map?:
            report(setting, key, "expected a single value, found \(setting?.kind ?? "nothing")")
            return nil
        }
    }

    mutating func texts(_ setting: Setting?, _ key: String) -> [String]? {
        switch setting {
        case nil: return nil
        case .list(let items, _)?:
            if items.isEmpty { report(setting, key, "the list must not be empty") }
            return items.enumerated().compactMap { index, item in text(item, "\(key)[\(index)]") }
        case .text(let text, let place)? where ConfigurationFile.isVariable(place):
            // A variable holds one text: its list is separated by commas.
            return text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        case .text?, .map?, .nothing?:
            report(setting, key, "expected a list, as [a, b], found \(setting?.kind ?? "nothing")")
            return nil
        }
    }

    mutating func number(_ setting: Setting?, _ key: String, _ type: ValueType) -> Int? {
        guard let text = text(setting, key) else { return nil }
        let value: Int?
        let range: ClosedRange<Int>
        switch type {
        case .integer(let bounds), .seconds(let bounds):
            range = bounds
            // YAML knows 1_000 as well; hexadecimal and octal forms would only surprise here.
            value = Int(String(text.filter { $0 != "_" }))
        case .size(let bounds):
            range = bounds
            value = Size.bytes(of: text)
        case .text, .path, .address, .addressOrOff, .networkAddressOrOff, .hostAddress, .join, .choice, .texts:
            return nil
        }
        if let value, range.contains(value) { return value }
        var hint = ""
        if case .size = type { hint = " (write 65536, 64KiB, 16MiB or 1GiB)" }
        report(setting, key, "'\(text)' is not allowed; expected \(type.words)\(hint)")
        return nil
    }

    mutating func choice<Value: RawRepresentable & CaseIterable>(
        _ setting: Setting?, _ key: String, of type: Value.Type
    ) -> Value? where Value.RawValue == String {
        guard let text = text(setting, key) else { return nil }
        if let value = Value(rawValue: text) { return value }
        reportChoice(setting, key, text, Value.allCases.map(\.rawValue))
        return nil
    }

    private mutating func level(_ setting: Setting?, _ key: String) -> Logger.Level? {
        guard let text = text(setting, key) else { return nil }
        if ConfigurationKeys.levels.contains(text) { return Logger.Level(rawValue: text) }
        reportChoice(setting, key, text, ConfigurationKeys.levels)
        return nil
    }

    private mutating func reportChoice(_ setting: Setting?, _ key: String, _ text: String, _ words: [String]) {
        let hint = nearest(to: text, among: words).map { "did you mean '\($0)'? " } ?? ""
        report(setting, key, "'\(text)' is not allowed; \(hint)expected \(words.joined(separator: " | "))")
    }

    mutating func address(_ setting: Setting, _ key: String) -> ListenAddress? {
        guard let text = text(setting, key) else { return nil }
        do throws(ListenAddress.Malformed) {
            return try ListenAddress(parsing: text)
        } catch {
            report(setting, key, "'\(text)' is no address to listen on: \(error.reason)")
            return nil
        }
    }

    func key(_ steps: [String]) -> ValueType { ConfigurationKeys.type(at: steps) ?? .text }

    mutating func report(_ setting: Setting?, _ key: String, _ message: String) {
        problems.append(.init(place: setting?.place ?? "configuration", key: key, message: message))
    }
}
