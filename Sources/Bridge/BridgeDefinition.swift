/// What a bridge is: the broker at its other end, and which topics go across.
public import Core

/// One bridge, as configured. Holds a password: to be logged and shown only as ``BridgeDescription`` does.
public struct BridgeDefinition: Sendable, Equatable {
    /// The versions of MQTT that can be spoken with the broker.
    public enum Version: String, Sendable, CaseIterable {
        /// Carries properties, and what keeps events from going in circles.
        case v5 = "5"
        /// Carries neither.
        case v311 = "3.1.1"
    }

    /// Which way events go.
    public enum Direction: String, Sendable, CaseIterable {
        /// From the broker to this node.
        case incoming = "in"
        /// From this node to the broker.
        case outgoing = "out"
        /// Both ways.
        case both

        /// Whether events come in.
        var isIn: Bool { self != .outgoing }
        /// Whether events go out.
        var isOut: Bool { self != .incoming }
    }

    /// Topics that go across.
    public struct Topic: Sendable, Equatable {
        /// A topic filter of MQTT, without the prefixes.
        public var filter: String
        /// Which way.
        public var direction = Direction.both
        /// The highest quality of service.
        public var qos: UInt8 = 1
        /// What stands in front of a topic at this node.
        public var localPrefix = ""
        /// What stands in front of it at the broker.
        public var remotePrefix = ""

        /// Makes an entry.
        public init(
            filter: String, direction: Direction = .both, qos: UInt8 = 1, localPrefix: String = "",
            remotePrefix: String = ""
        ) {
            self.filter = filter
            self.direction = direction
            self.qos = qos
            self.localPrefix = localPrefix
            self.remotePrefix = remotePrefix
        }
    }

    /// How TLS is spoken; all are paths of PEM files.
    public struct Security: Sendable, Equatable {
        /// The authorities that the broker's certificate must come from; nil for those of the system.
        public var authorities: String?
        /// The node's certificate for this broker.
        public var certificate: String?
        /// Its key.
        public var key: String?
        /// Whether the certificate must be for the host that is dialled.
        public var isNameVerified = true

        /// Of the system's authorities, without a certificate of its own.
        public init() {}
    }

    /// The name; letters, digits, `.`, `_` and `-`, at most ``maxNameBytes``.
    public var name: String
    /// The broker's host.
    public var host: String
    /// The broker's port.
    public var port: UInt16
    /// What the broker is called where an event says where it has been; the same at every bridge to it.
    public var broker: String
    /// The version of MQTT.
    public var version = Version.v5
    /// The client id; nil for `apus-<node>-<name>`.
    public var clientID: String?
    /// The user name that the broker is told.
    public var user: String?
    /// The password.
    public var password: String?
    /// Nil without TLS.
    public var security: Security?
    /// What goes across.
    public var topics: [Topic]
    /// The shared group, here and at the broker, by which bridges of a mesh to the same broker share its events.
    public var group: String?
    /// Whether the broker keeps what is for this bridge while it is away.
    public var isSessionKept = true
    /// For how long a broker of MQTT 5 keeps it.
    public var sessionExpirySeconds: UInt32 = 86_400
    /// Seconds between signs of life.
    public var keepAliveSeconds: UInt16 = 60
    /// Waits between attempts to connect.
    public var backoff = Backoff(first: 1_000, highest: 60_000)
    /// Guaranteed events handed to the broker and not acknowledged; further ones wait. More than 20 is more than a
    /// mosquitto takes that has not been told to: it ends the connection, and does not say so before.
    public var maxInFlight = 20
    /// Brokers and meshes that an event may have been at.
    public var maxHops = 8

    /// Bytes of a name.
    public static let maxNameBytes = 64
    /// Entries of ``topics``.
    public static let maxTopics = 100
    /// Bytes of a broker's name.
    public static let maxBrokerBytes = 256
    static let maxHopsAllowed = 32

    /// Makes a bridge with the defaults for all but what it needs.
    public init(name: String, host: String, port: UInt16, topics: [Topic]) {
        self.name = name
        self.host = host
        self.port = port
        self.topics = topics
        broker = "\(host):\(port)".lowercased()
    }

    /// What is wrong with a definition: the field, and the rule that it breaks.
    public struct Failure: Error, Sendable, Equatable, CustomStringConvertible {
        /// The field's name, in the configuration's spelling.
        public var field: String
        /// The rule.
        public var rule: String

        /// Both.
        public var description: String { "\(field) \(rule)" }
    }

    /// Checks everything that can be checked without the network.
    public func check(limits: Limits = Limits()) throws(Failure) { _ = try map(limits: limits) }

    /// Everything that ``check(limits:)`` finds; empty for a definition that is good.
    public func flaws(limits: Limits = Limits()) -> [Failure] {
        var flaws: [Failure] = []
        _ = look(limits, &flaws)
        return flaws
    }

    /// Checks, and compiles the topics.
    func map(limits: Limits) throws(Failure) -> BridgeMap {
        var flaws: [Failure] = []
        let entries = look(limits, &flaws)
        if let first = flaws.first { throw first }
        return BridgeMap(entries)
    }

    private func look(_ limits: Limits, _ flaws: inout [Failure]) -> [BridgeMap.Entry] {
        func require(_ holds: Bool, _ field: String, _ rule: String) {
            if !holds { flaws.append(Failure(field: field, rule: rule)) }
        }
        require(
            PlainName.isOne(name, maxBytes: Self.maxNameBytes), "name",
            "must be 1 to \(Self.maxNameBytes) letters, digits, '.', '_' or '-' and begin with a letter or digit")
        require(!host.isEmpty && port > 0, "to", "must be HOST:PORT")
        let isWord = broker.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7F }
        require(
            isWord && (1...Self.maxBrokerBytes).contains(broker.utf8.count), "broker",
            "must be 1 to \(Self.maxBrokerBytes) bytes without spaces")
        for (field, text) in [("client_id", clientID), ("user", user), ("password", password)] {
            guard let text else { continue }
            require((1...65_535).contains(text.utf8.count), field, "must have 1 to 65535 bytes")
        }
        // MQTT 3.1.1 §3.1.2.9; MQTT 5 allows it, brokers mostly do not.
        require(password == nil || user != nil, "password", "needs a user")
        require(security?.key == nil || security?.certificate != nil, "tls.key", "needs tls.certificate")
        require((1...Self.maxHopsAllowed).contains(maxHops), "max_hops", "must be 1 to \(Self.maxHopsAllowed)")
        require(
            (1...Self.maxTopics).contains(topics.count), "topics", "must have 1 to \(Self.maxTopics) entries")
        if let group {
            let isPlain = (1...256).contains(group.utf8.count) && !group.utf8.contains { "/+#\0".utf8.contains($0) }
            require(isPlain, "group", "must be 1 to 256 bytes without '/', '+', '#' and NUL")
            let comesBack = topics.contains { $0.direction == .both }
            require(
                version == .v5 || !comesBack, "group",
                "with topics that go both ways needs version \"5\": events that come back cannot be told otherwise")
        }
        var entries: [BridgeMap.Entry] = []
        for (index, topic) in topics.enumerated() {
            do throws(Failure) { entries.append(try topic.entry(named: "topics[\(index)]", limits)) } catch {
                flaws.append(error)
            }
        }
        return entries
    }
}

extension BridgeDefinition.Topic {
    fileprivate func entry(
        named called: String, _ limits: Limits
    ) throws(BridgeDefinition.Failure) -> BridgeMap.Entry {
        func refuse(_ field: String, _ rule: String) -> BridgeDefinition.Failure {
            BridgeDefinition.Failure(field: "\(called).\(field)", rule: rule)
        }
        guard qos <= 2 else { throw refuse("qos", "must be 0, 1 or 2") }
        for (field, prefix) in [("local_prefix", localPrefix), ("remote_prefix", remotePrefix)] {
            if prefix.utf8.contains(where: { "+#\0".utf8.contains($0) }) {
                throw refuse(field, "must not contain '+' and '#'")
            }
        }
        func compile(_ text: String, _ field: String) throws(BridgeDefinition.Failure) -> TopicFilter {
            let filter: TopicFilter
            do throws(TopicFilter.Failure) {
                filter = try TopicFilter(text, grammar: .mqtt, limits: limits)
            } catch { throw refuse(field, "'\(text)' is no topic filter: \(error)") }
            guard filter.group == nil, !filter.isLocalOnly else {
                throw refuse(field, "'\(text)' must not begin with $share or $local; see group")
            }
            return filter
        }
        _ = try compile(filter, "filter")
        let local = try compile(localPrefix + filter, "local_prefix")
        let remote = try compile(remotePrefix + filter, "remote_prefix")
        if direction.isIn, local.bytes.first == UInt8(ascii: "$") {
            throw refuse("local_prefix", "is needed: topics that begin with '$' are the node's own")
        }
        if direction.isOut, remote.bytes.first == UInt8(ascii: "$") {
            throw refuse("remote_prefix", "is needed: topics that begin with '$' are the broker's own")
        }
        return BridgeMap.Entry(
            local: local, remote: remote, localPrefix: Array(localPrefix.utf8), remotePrefix: Array(remotePrefix.utf8),
            qos: qos, isIn: direction.isIn, isOut: direction.isOut)
    }
}
