/// What a node is told to be. Made by ``Configuration/load(file:environment:flags:)`` from a file, the environment and
/// flags; every value in it has been checked. `docs/configuration.md` is the reference of the keys.
public import AMQP
public import Bridge
public import Core
public import Logging
public import Mesh
public import Security
public import TLS
public import Web
public import Webhooks

/// A complete, valid configuration.
public struct Configuration: Sendable, Equatable {
    /// `node.name`: unique in the mesh.
    public var name: String
    /// `node.data`: the directory of everything the node keeps.
    public var data = "./apus-data"
    /// `node.lanes`: event loops; 0 means one per core.
    public var lanes = 0
    /// `node.drain_seconds`: how long a stopping node flushes.
    public var drainSeconds = 10
    /// `listeners`: where clients come in.
    public var listeners = [
        ListenerSettings(protocolName: .mqtt, address: .standard),
        ListenerSettings(protocolName: .http, address: .standardHTTP),
        ListenerSettings(protocolName: .amqp, address: .standardAMQP),
    ]
    /// `mesh`; nil for a node that is in none: that neither listens for others nor dials them.
    public var mesh: MeshSettings?
    /// `tls`: in the order of the file.
    public var tls: [TLSSettings] = []
    /// `security`.
    public var security = SecuritySettings()
    /// `admin`.
    public var admin = AdminSettings()
    /// `mqtt`.
    public var mqtt = MQTTSettings()
    /// `amqp`.
    public var amqp = AMQPSettings()
    /// `http`.
    public var http = WebSettings()
    /// `http.webhooks`.
    public var webhooks: [WebhookEntry] = []
    /// `bridges`.
    public var bridges: [BridgeDefinition] = []
    /// `limits`.
    public var limits = Limits()
    /// `log`.
    public var log = LogSettings()
    /// Where values stand that are no defaults, by key: `apus.yaml:12`, the name of an environment variable, or a flag.
    var places: [String: String] = [:]

    /// The defaults, under a name.
    public init(name: String) { self.name = name }
}

/// One entry of `listeners`.
public struct ListenerSettings: Sendable, Equatable {
    /// The protocols a listener can speak; the raw value is the word in the configuration and in the `ready` record.
    public enum ProtocolName: String, Sendable, CaseIterable { case mqtt, http, amqp }

    /// `protocol`.
    public var protocolName: ProtocolName
    /// `listen`.
    public var address: ListenAddress
    /// `name`: how logs and metrics call it; by default protocol and address.
    public var name: String
    /// `tls`: the section that it speaks TLS with; nil for none.
    public var tls: String?
    /// `anonymous`: who may come here without a user name; nil for what `security` says.
    public var anonymous: AnonymousPolicy?
    /// Who may come in.
    public var entrance = EntranceSettings()

    /// The same without what a reload changes.
    var fixed: ListenerSettings {
        var fixed = self
        fixed.anonymous = nil
        return fixed
    }

    /// Makes a listener; without a name it is called by protocol and address.
    public init(protocolName: ProtocolName, address: ListenAddress, name: String? = nil) {
        self.protocolName = protocolName
        self.address = address
        self.name = name ?? "\(protocolName.rawValue) \(address)"
    }
}

/// The section `security`.
public struct SecuritySettings: Sendable, Equatable {
    /// `users`: path of the user file; nil means nobody can log in with a password.
    public var users: String?
    /// `anonymous`: who may come without a user name.
    public var anonymous = AnonymousPolicy.loopback
    /// `tokens`: whose tokens are taken.
    public var tokens: [TokenIssuer] = []
    /// `access`: in the order of the file; empty means everything is allowed.
    public var access: [AccessRule] = []
    /// Where each of them stands, for messages: file and line, or the variable.
    public var accessPlaces: [String] = []
    /// `broad_subscriptions`: what becomes of subscriptions that are broader than the rules.
    public var broadSubscriptions = BroadSubscriptions.refuse
    /// `quotas`: in the order of the file.
    public var quotas: [QuotaRule] = []

    /// The defaults.
    public init() {}
}

extension SecuritySettings {
    /// The access rules, ready for use.
    /// - Throws: naming the rule that is no good; a configuration that was checked has none.
    public func accessRules() throws(AccessRules.Failure) -> AccessRules {
        try AccessRules(access, broadSubscriptions: broadSubscriptions)
    }
}

/// One entry of `http.webhooks`.
public struct WebhookEntry: Sendable, Equatable {
    /// What it is; checked.
    public var definition: WebhookDefinition
    /// `user`: whose rights it has; nil for those of `webhook:<name>`.
    public var user: String?
}

/// The section `admin`: the management interface.
public struct AdminSettings: Sendable, Equatable {
    /// `listen`: nil for `off`.
    public var address: ListenAddress? = .standardAdmin
    /// `tls`: the section that it speaks TLS with; nil for none.
    public var tls: String?
    /// `users`: who may use it; empty means whoever is on this machine.
    public var users: [String] = []

    /// The defaults.
    public init() {}
}

/// The section `mqtt`.
public struct MQTTSettings: Sendable, Equatable {
    /// `sys_interval`: seconds between two updates of the topics under `$SYS/`; 0 means there are none.
    public var sysIntervalSeconds = 10
    /// `trace_payload`: whether the log of a traced client's packets shows the beginnings of payloads.
    public var tracesPayload = false

    /// The defaults.
    public init() {}
}

/// The section `log`.
public struct LogSettings: Sendable, Equatable {
    /// `level`: the least level that is logged.
    public var level = Logger.Level.info
    /// `format`.
    public var format = LogFormat.auto
    /// `levels`: other levels of single components, by logger label.
    public var levels: [String: Logger.Level] = [:]

    /// The defaults.
    public init() {}
}

/// How log lines look.
public enum LogFormat: String, Sendable, CaseIterable {
    /// Text on a terminal, JSON otherwise.
    case auto
    /// For people.
    case text
    /// One JSON object a line.
    case json
}

extension Configuration {
    /// Something about the value of `key`, with the place where that stands, or what it is in.
    func problem(_ key: String, _ message: String) -> ConfigurationProblem {
        var path = key[...]
        while places[String(path)] == nil, let end = path.lastIndex(where: { $0 == "." || $0 == "[" }) {
            path = path[..<end]
        }
        return ConfigurationProblem(place: places[String(path)] ?? "configuration", key: key, message: message)
    }
}

/// One thing wrong in a configuration.
public struct ConfigurationProblem: Sendable, Equatable, CustomStringConvertible {
    /// Where: `apus.yaml:12`, the name of an environment variable, or a flag.
    public let place: String
    /// The key's path, as `listeners[0].listen`; empty when the problem is not about a key.
    public let key: String
    /// What is wrong and what is allowed.
    public let message: String

    /// `place: key: message`.
    public var description: String { key.isEmpty ? "\(place): \(message)" : "\(place): \(key): \(message)" }
}

/// Everything that is wrong in a configuration, at once. Processes exit with 78 (`EX_CONFIG`) on it.
public struct ConfigurationError: Error, Sendable, CustomStringConvertible {
    /// The problems, never empty.
    public let problems: [ConfigurationProblem]

    /// One problem a line.
    public var description: String { problems.map(\.description).joined(separator: "\n") }
}
