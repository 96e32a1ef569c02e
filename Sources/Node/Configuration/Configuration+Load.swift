/// From file, environment and flags to a configuration.
import AMQP
import Core
import FoundationEssentials
import Glibc
import Mesh
import Security
import Web
import Webhooks

extension Configuration {
    /// The environment of this process.
    public static var processEnvironment: [String: String] { ProcessInfo.processInfo.environment }

    /// Makes a configuration. A flag wins over the environment, that over the file, that over the defaults. A node of
    /// which nobody says anything, without a file and with no listener named, can be dialled by others on this machine.
    /// What `apus join` has written into the data directory stands between file and defaults.
    /// - Parameters:
    ///   - file: path of a YAML file; nil takes the one that `APUS_CONFIG` names, or none.
    ///   - environment: `APUS_…` variables set keys, and texts of the file refer to any by `${NAME}`.
    ///   - flags: what the command line says.
    public static func load(
        file: String?, environment: [String: String] = processEnvironment, flags: [ConfigurationFlag] = []
    ) throws(ConfigurationError) -> Configuration {
        guard let path = file ?? environment[fileVariable] else {
            let names =
                environment.keys.contains { $0.hasPrefix("APUS_LISTENERS_") } || flags.contains(where: \.namesListener)
            let isJoined = JoinedFile(nil, environment: environment, flags: flags).isThere
            let yaml = names || isJoined ? "" : "mesh: { listen: '\(ListenAddress.standardMesh)' }"
            return try load(yaml: yaml, file: "configuration", environment: environment, flags: flags)
        }
        let yaml = try ConfigurationFile.read(path)
        return try load(yaml: yaml, file: path, environment: environment, flags: flags)
    }

    /// The same from the text of a file; `file` is the name that problems say.
    public static func load(
        yaml: String, file: String, environment: [String: String] = [:], flags: [ConfigurationFlag] = []
    ) throws(ConfigurationError) -> Configuration {
        var problems: [ConfigurationProblem] = []
        var referred: Set<String> = []
        var tree = try Setting.parse(yaml: yaml, file: file)
            .substituted(from: environment, used: &referred, problems: &problems)
        let unset = Set(problems.map(\.place))
        if case .nothing(let place) = tree { tree = .map([], place: place) }
        tree.addStandardListeners()
        if let joined = try JoinedFile(tree, environment: environment, flags: flags).read() { tree.fill(from: joined) }
        tree.override(by: environment, referred: referred, problems: &problems)
        for flag in flags { tree.override(by: flag, problems: &problems) }
        var reader = ConfigurationReader(problems: problems, unset: unset)
        let configuration = reader.read(tree, hostName: hostName())
        guard reader.problems.isEmpty else { throw ConfigurationError(problems: reader.problems) }
        return configuration
    }

    /// The keys in which this configuration differs from `running` and that a reload cannot apply; the node keeps the
    /// running values of these until it is started again.
    public func keysNeedingRestart(since running: Configuration) -> [String] {
        var keys: [String] = []
        if name != running.name { keys.append("node.name") }
        if data != running.data { keys.append("node.data") }
        if lanes != running.lanes { keys.append("node.lanes") }
        if listeners.map(\.fixed) != running.listeners.map(\.fixed) { keys.append("listeners") }
        if tls != running.tls { keys.append("tls") }
        keys += meshKeysNeedingRestart(since: running)
        if admin.address != running.admin.address { keys.append("admin.listen") }
        if admin.tls != running.admin.tls { keys.append("admin.tls") }
        if admin.users != running.admin.users { keys.append("admin.users") }
        if mqtt.sysIntervalSeconds != running.mqtt.sysIntervalSeconds { keys.append("mqtt.sys_interval") }
        if mqtt.tracesPayload != running.mqtt.tracesPayload { keys.append("mqtt.trace_payload") }
        if amqp.unprefixedAddress != running.amqp.unprefixedAddress { keys.append("amqp.unprefixed_address") }
        if amqp.allowsNoSASL != running.amqp.allowsNoSASL { keys.append("amqp.require_sasl") }
        if amqp.allowsRemotePlain != running.amqp.allowsRemotePlain { keys.append("amqp.remote_plain") }
        if amqp.idleMilliseconds != running.amqp.idleMilliseconds { keys.append("amqp.idle_timeout") }
        if http.corsOrigins != running.http.corsOrigins { keys.append("http.cors_origins") }
        if http.isEchoOn != running.http.isEchoOn { keys.append("http.debug_echo") }
        if webhooks != running.webhooks { keys.append("http.webhooks") }
        if http.webhookUsers != running.http.webhookUsers { keys.append("http.webhook_users") }
        for key in ConfigurationKeys.limits where limits[keyPath: key.field] != running.limits[keyPath: key.field] {
            keys.append("limits.\(key.name)")
        }
        if limits.queueFull != running.limits.queueFull { keys.append("limits.queue_full") }
        if log.format != running.log.format { keys.append("log.format") }
        return keys
    }

    /// The links of a node that is in a mesh come and go; everything else is what other nodes have been told.
    private func meshKeysNeedingRestart(since running: Configuration) -> [String] {
        guard let mesh, let other = running.mesh else { return mesh == running.mesh ? [] : ["mesh"] }
        var keys: [String] = []
        if mesh.meshID != other.meshID { keys.append("mesh.id") }
        if mesh.listen != other.listen { keys.append("mesh.listen") }
        if mesh.advertise != other.advertise { keys.append("mesh.advertise") }
        if mesh.secret != other.secret { keys.append("mesh.secret") }
        if mesh.previousSecret != other.previousSecret { keys.append("mesh.previous_secret") }
        if mesh.tls != other.tls { keys.append("mesh.tls") }
        if mesh.allow != other.allow { keys.append("mesh.allow") }
        if mesh.policies != other.policies { keys.append("mesh.policies") }
        if mesh.join != other.join { keys.append("mesh.join") }
        if mesh.profile != other.profile { keys.append("mesh.profile") }
        if mesh.isTransit != other.isTransit { keys.append("mesh.transit") }
        if mesh.maxLinks != other.maxLinks { keys.append("mesh.max_links") }
        if mesh.maxLinkBytes != other.maxLinkBytes { keys.append("mesh.max_link_bytes") }
        if mesh.maxStreamBytes != other.maxStreamBytes { keys.append("mesh.max_stream_bytes") }
        if mesh.maxFilters != other.maxFilters { keys.append("mesh.max_filters") }
        return keys
    }

    private static func hostName() -> String {
        var buffer = [CChar](repeating: 0, count: 256)
        let result = gethostname(&buffer, buffer.count - 1)
        let name = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return result == 0 && !name.isEmpty ? name : "apus"
    }
}

extension Setting {
    /// A node without `listeners` speaks MQTT, HTTP and AMQP on loopback; environment and flags may move these.
    fileprivate mutating func addStandardListeners() {
        guard case .map(var entries, let place) = self else { return }
        switch self["listeners"] {
        case nil: break
        case .nothing?: entries.removeAll { $0.name == "listeners" }
        case .text?, .list?, .map?: return
        }
        let standard = [
            (ListenerSettings.ProtocolName.mqtt, ListenAddress.standard), (.http, .standardHTTP),
            (.amqp, .standardAMQP),
        ]
        let listeners = standard.map { name, address in
            Setting.map(
                [
                    Entry(
                        name: "protocol", place: Setting.standardPlace,
                        value: .text(name.rawValue, place: Setting.standardPlace)),
                    Entry(
                        name: "listen", place: Setting.standardPlace,
                        value: .text(address.description, place: Setting.standardPlace)),
                ], place: Setting.standardPlace)
        }
        entries.append(
            Entry(
                name: "listeners", place: Setting.standardPlace, value: .list(listeners, place: Setting.standardPlace)))
        self = .map(entries, place: place)
    }
}

/// The file of a configuration.
enum ConfigurationFile {
    /// No configuration is larger; keeps a mistaken path from filling the memory.
    private static let maxBytes = 1 << 20

    /// Whether a place is an environment variable and no line of a file.
    static func isVariable(_ place: String) -> Bool { place.hasPrefix("APUS_") && !place.contains(":") }

    static func read(_ path: String) throws(ConfigurationError) -> String {
        func problem(_ message: String) -> ConfigurationError {
            ConfigurationError(problems: [.init(place: path, key: "", message: message)])
        }
        let bytes: [UInt8]
        do throws(AtomicFile.ReadFailure) { bytes = try AtomicFile.bytes(of: path, most: maxBytes) } catch {
            switch error {
            case .opening(let number): throw problem("cannot be opened: \(String(cString: strerror(number)))")
            case .reading(let number): throw problem("cannot be read: \(String(cString: strerror(number)))")
            case .tooLarge: throw problem("is larger than 1 MiB, surely not a configuration")
            }
        }
        guard let text = String(validating: bytes, as: UTF8.self) else { throw problem("is not UTF-8 text") }
        return text
    }
}

/// Where a configuration comes from, kept so that a reload reads the same again.
public struct ConfigurationSource: Sendable {
    /// The file, or nil for that of `APUS_CONFIG` or none.
    public var file: String?
    /// The environment.
    public var environment: [String: String]
    /// What the command line says.
    public var flags: [ConfigurationFlag]

    /// Makes a source.
    public init(
        file: String?, environment: [String: String] = Configuration.processEnvironment,
        flags: [ConfigurationFlag] = []
    ) {
        self.file = file
        self.environment = environment
        self.flags = flags
    }

    /// Reads and checks the configuration as it is now.
    /// - Throws: with every mistake that was found, each with its place.
    public func load() throws(ConfigurationError) -> Configuration {
        try Configuration.load(file: file, environment: environment, flags: flags)
    }
}
