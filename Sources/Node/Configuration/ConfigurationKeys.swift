/// The table of all keys. Validation, environment variables, suggestions and the test of `docs/configuration.md` read
/// it, so a key that is not here does not exist.
import AMQP
import Core
import Mesh
import Security

/// What a value may be.
enum ValueType: Sendable, Equatable {
    case text
    case path
    case address
    case addressOrOff
    /// Where other nodes come in: nothing that only this machine knows, as a path.
    case networkAddressOrOff
    case hostAddress
    case join
    case integer(ClosedRange<Int>)
    case seconds(ClosedRange<Int>)
    case size(ClosedRange<Int>)
    case choice([String])
    case texts

    /// What errors and the reference say is allowed.
    var words: String {
        switch self {
        case .text: "text"
        case .path: "a path"
        case .address: "ADDRESS:PORT or unix:/path"
        case .addressOrOff: "ADDRESS:PORT, unix:/path or off"
        case .networkAddressOrOff: "ADDRESS:PORT or off"
        case .hostAddress: "HOST:PORT"
        case .join: "full, configured or a whole number from 1 to \(MeshKeys.maxLinks)"
        case .integer(let range): "a whole number from \(range.lowerBound) to \(range.upperBound)"
        case .seconds(let range): "whole seconds from \(range.lowerBound) to \(range.upperBound)"
        case .size(let range): "a size from \(Size.text(of: range.lowerBound)) to \(Size.text(of: range.upperBound))"
        case .choice(let words): words.joined(separator: " | ")
        case .texts: "a list of texts"
        }
    }
}

/// One key of the configuration.
public struct ConfigurationKey: Sendable {
    /// The path: names and `[]` for the entries of a list, `<component>` and `<name>` for a free name;
    /// `listeners[].listen`.
    public let path: String
    let type: ValueType
    /// The default as text; `required` where there is none.
    public let standard: String
    /// One sentence.
    public let meaning: String
    /// Whether a reload (SIGHUP) applies a change.
    public let isLive: Bool

    init(_ path: String, _ type: ValueType, _ standard: String, _ meaning: String, isLive: Bool = false) {
        self.path = path
        self.type = type
        self.standard = standard
        self.meaning = meaning
        self.isLive = isLive
    }

    /// What a value may be, in words.
    public var allowed: String { type.words }

    /// The steps of the path; a list's entries are the step `[]`.
    var steps: [String] {
        path.split(separator: ".").flatMap { $0.hasSuffix("[]") ? [String($0.dropLast(2)), "[]"] : [String($0)] }
    }

    /// Whether a step stands for any name.
    static func isFree(_ step: String) -> Bool { step.hasPrefix("<") }

    /// The environment variable that overrides the key; `0` stands for any index, `COMPONENT` and `NAME` for any name.
    public var variable: String {
        let words = steps.map {
            Self.isFree($0) ? $0.dropFirst().dropLast().uppercased() : $0 == "[]" ? "0" : $0.uppercased()
        }
        return "APUS_" + words.joined(separator: "_")
    }
}

/// A key of the section `limits` and the field it sets.
struct LimitKey: Sendable {
    let name: String
    let field: any WritableKeyPath<Limits, Int> & Sendable
    let type: ValueType
    let meaning: String

    init(
        _ name: String, _ field: any WritableKeyPath<Limits, Int> & Sendable, _ type: ValueType, _ meaning: String
    ) {
        self.name = name
        self.field = field
        self.type = type
        self.meaning = meaning
    }

    /// The default as the reference writes it.
    var standard: String {
        let value = Limits()[keyPath: field]
        if case .size = type { return Size.text(of: value) }
        return String(value)
    }
}

/// All keys.
public enum ConfigurationKeys {
    /// The components that log, by their loggers' labels.
    static let components = [
        "node", "reactor", "tls", "security", "audit", "admin", "webhooks", "bridge", "mesh", "mqtt.trace",
    ]

    static let levels = ["trace", "debug", "info", "notice", "warning", "error"]

    static let limits: [LimitKey] = [
        LimitKey("max_connections", \.maxConnections, .integer(1...10_000_000), "Connections at once."),
        LimitKey(
            "max_packet", \.maxPacketBytes, .size(128...268_435_456),
            "The largest packet taken; a larger one closes its connection."),
        LimitKey("max_topic_levels", \.maxTopicLevels, .integer(1...128), "Levels of a topic or filter."),
        LimitKey("max_topic_bytes", \.maxTopicBytes, .integer(1...65_535), "Bytes of a topic or filter."),
        LimitKey(
            "max_subscriptions_per_session", \.maxSubscriptionsPerSession, .integer(1...10_000_000),
            "Subscriptions of one session; further ones are refused."),
        LimitKey("max_sessions", \.maxSessions, .integer(1...100_000_000), "Sessions, connected or absent."),
        LimitKey(
            "max_queued_events", \.maxQueuedEvents, .integer(0...100_000_000),
            "Guaranteed events that wait in one session."),
        LimitKey("max_queued", \.maxQueuedBytes, .size(0...(1 << 40)), "Bytes of events that wait in one session."),
        LimitKey(
            "max_in_flight", \.maxInFlight, .integer(1...65_535), "Events sent to a client and not yet acknowledged."),
        LimitKey(
            "max_unsettled", \.maxUnsettled, .integer(1...65_535),
            "Guaranteed events received from a client and not yet settled."),
        LimitKey(
            "max_output", \.maxOutputBytes, .size(4_096...(1 << 32)), "Bytes that wait for a slow reader."),
        LimitKey("max_mailbox", \.maxMailboxBytes, .size(65_536...(1 << 36)), "Bytes that wait for a lane."),
        LimitKey(
            "max_topic_aliases", \.maxTopicAliases, .integer(0...65_535),
            "Topic aliases of an MQTT 5 connection, in each direction."),
        LimitKey(
            "max_topic_alias_bytes", \.maxTopicAliasBytes, .size(0...(1 << 32)),
            "Bytes of topics that a client's aliases stand for."),
        LimitKey(
            "max_keep_alive", \.maxKeepAliveSeconds, .seconds(0...65_535),
            "The longest keep-alive of an MQTT 5 client; 0 is any."),
        LimitKey("max_retained_events", \.maxRetainedEvents, .integer(0...1_000_000_000), "Retained events."),
        LimitKey("max_retained", \.maxRetainedBytes, .size(0...(1 << 44)), "Bytes of retained events."),
        LimitKey(
            "max_tombstones", \.maxTombstones, .integer(0...100_000_000),
            "Deleted topics that a node of a mesh remembers."),
        LimitKey(
            "tombstone_life", \.tombstoneSeconds, .seconds(60...31_536_000), "Seconds a deleted topic is remembered."),
        LimitKey(
            "max_channels", \.maxChannels, .integer(1...10_000_000),
            "Channels of streams over HTTP on a lane: one for each user and set of filters."),
        LimitKey("max_stream_filters", \.maxStreamFilters, .integer(1...10_000), "Filters of one stream over HTTP."),
        LimitKey(
            "max_stream_window_events", \.maxStreamWindowEvents, .integer(0...1_000_000),
            "Events that a channel keeps for readers that come back."),
        LimitKey("max_stream_window", \.maxStreamWindowBytes, .size(0...(1 << 32)), "Bytes of these events."),
        LimitKey(
            "max_stream_windows", \.maxStreamBytes, .size(0...(1 << 40)), "Bytes of these events on a lane."),
        LimitKey(
            "stream_resume", \.streamResumeSeconds, .seconds(0...3_600),
            "Seconds that a channel without readers goes on collecting."),
        LimitKey(
            "max_outstanding_requests", \.maxOutstandingRequests, .integer(1...10_000_000),
            "Requests over HTTP that wait for a reply at once."),
        LimitKey(
            "max_idempotency_keys", \.maxIdempotencyKeys, .integer(1...10_000_000),
            "Requests with an `Idempotency-Key` that are remembered."),
        LimitKey(
            "idempotency", \.idempotencySeconds, .seconds(0...86_400), "Seconds an `Idempotency-Key` is remembered."),
        LimitKey("max_webhooks", \.maxWebhooks, .integer(0...100_000), "Webhooks, configured and created ones."),
        LimitKey(
            "max_amqp_frame", \.maxAMQPFrameBytes, .size(512...(1 << 20)),
            "The largest frame of AMQP taken; messages may be spread over many."),
        LimitKey("max_amqp_sessions", \.maxAMQPSessions, .integer(1...32_768), "Sessions of a connection of AMQP."),
        LimitKey("max_amqp_links", \.maxAMQPLinks, .integer(1...65_536), "Links of a session of AMQP."),
        LimitKey(
            "amqp_credit", \.amqpCredit, .integer(1...32_768),
            "Deliveries that a publisher may have under way on a link of AMQP."),
        LimitKey(
            "max_unsettled_deliveries", \.maxUnsettledDeliveries, .integer(1...1_000_000),
            "Deliveries sent on a link of AMQP and not yet settled."),
        LimitKey(
            "connect_timeout", \.connectTimeoutSeconds, .seconds(1...3_600),
            "Seconds in which a new connection must log in."),
        LimitKey(
            "session_expiry", \.sessionExpirySeconds, .seconds(0...4_294_967_295), "Seconds a session is kept absent."),
        LimitKey(
            "max_publish_rate", \.maxPublishRate, .integer(0...1_000_000_000),
            "Events a second and connection; 0 is unlimited."),
    ]

    private static let webhooks: [ConfigurationKey] = [
        ConfigurationKey(
            "http.webhooks[].name", .text, "required", "Letters, digits, `.`, `_` and `-`."),
        ConfigurationKey(
            "http.webhooks[].url", .text, "required", "Where events are sent to, `http://` or `https://`."),
        ConfigurationKey(
            "http.webhooks[].filters", .texts, "required", "The events that are sent."),
        ConfigurationKey(
            "http.webhooks[].group", .text, "none", "The shared group that the webhook is a member of."),
        ConfigurationKey(
            "http.webhooks[].weight", .integer(0...1_000), "none",
            "How much of the group's events it is to have, beside the other members."),
        ConfigurationKey(
            "http.webhooks[].secret", .text, "none", "Signs every request (`Apus-Signature`)."),
        ConfigurationKey(
            "http.webhooks[].user", .text, "webhook:<name>", "Whose rights it has."),
        ConfigurationKey(
            "http.webhooks[].parallelism", .integer(1...64), "1",
            "Requests at once; more than one gives up the order."),
        ConfigurationKey(
            "http.webhooks[].retry_first", .seconds(1...86_400), "3",
            "Seconds until the second attempt; doubled for each further one."),
        ConfigurationKey(
            "http.webhooks[].retry_max", .seconds(1...86_400), "64", "The most seconds between two attempts."),
        ConfigurationKey(
            "http.webhooks[].attempts", .integer(0...1_000_000), "0", "Attempts for one event; 0 is until it expires."),
        ConfigurationKey(
            "http.webhooks[].rejected_codes", .texts, "4xx but 408, 425, 429; 508",
            "Status codes that end the attempts."),
        ConfigurationKey(
            "http.webhooks[].timeout", .seconds(1...3_600), "10", "Seconds for one attempt."),
    ]

    /// The table, in the order of the reference.
    public static let all: [ConfigurationKey] =
        [
            ConfigurationKey("node.name", .text, "the host name", "The node's name, unique in the mesh."),
            ConfigurationKey("node.data", .path, "./apus-data", "The directory of everything the node keeps."),
            ConfigurationKey("node.lanes", .integer(0...256), "0", "Event loops; 0 means one per core."),
            ConfigurationKey(
                "node.drain_seconds", .seconds(0...3_600), "10", "How long a stopping node flushes.", isLive: true),
            ConfigurationKey(
                "listeners[].protocol", .choice(ListenerSettings.ProtocolName.allCases.map(\.rawValue)), "required",
                "What the listener speaks."),
            ConfigurationKey("listeners[].listen", .address, "required", "Where it listens; port 0 takes a free one."),
            ConfigurationKey("listeners[].name", .text, "protocol and address", "How logs and metrics call it."),
            ConfigurationKey("listeners[].tls", .text, "none", "The section of `tls` that it speaks TLS with."),
            ConfigurationKey(
                "listeners[].anonymous", .choice(AnonymousPolicy.allCases.map(\.rawValue)), "security.anonymous",
                "Who may come here without a user name.", isLive: true),
        ]
        + TLSKeys.all
        + MeshKeys.all
        + SecurityKeys.all + TokenKeys.all + QuotaKeys.all
        + [
            ConfigurationKey(
                "admin.listen", .addressOrOff, ListenAddress.standardAdmin.description,
                "Where the management interface (HTTP) listens."),
            ConfigurationKey(
                "admin.tls", .text, "none", "The section of `tls` that the management interface speaks TLS with."),
            ConfigurationKey(
                "admin.users", .texts, "whoever is on this machine",
                "Users who may use it, with their passwords in `security.users`."),
            ConfigurationKey(
                "mqtt.sys_interval", .seconds(0...86_400), "10",
                "Seconds between updates of the topics under `$SYS/`; 0 is none."),
            ConfigurationKey(
                "mqtt.trace_payload", .choice(["no", "yes"]), "no",
                "Whether the packet log of a traced client shows payloads."),
        ]
        + [
            ConfigurationKey(
                "amqp.unprefixed_address", .choice(AMQPSettings.Unprefixed.allCases.map(\.rawValue)), "topic",
                "What an address of AMQP is that does not say it, as `topic://` and `queue://` do."),
            ConfigurationKey(
                "amqp.require_sasl", .choice(["false", "true"]), "false",
                "Whether clients that skip SASL, and so say no user name, are refused."),
            ConfigurationKey(
                "amqp.remote_plain", .choice(["false", "true"]), "true",
                "Whether clients of other machines are offered PLAIN, whose passwords can be read on the way."),
            ConfigurationKey(
                "amqp.idle_timeout", .seconds(0...86_400), "60",
                "Seconds of silence after which a client of AMQP is given up; 0 is never."),
        ]
        + [
            ConfigurationKey(
                "http.cors_origins", .texts, "none",
                "Origins whose pages may use the HTTP listeners from a browser, as `https://example.org`; `*` is any."),
            ConfigurationKey(
                "http.debug_echo", .choice(["false", "true"]), "false",
                "Whether `/echo` is there, for tools that test WebSocket conformance."),
            ConfigurationKey(
                "http.webhook_users", .texts, "whoever is on this machine",
                "Users who may manage webhooks over HTTP."),
        ]
        + webhooks
        + BridgeKeys.all
        + limits.map { ConfigurationKey("limits.\($0.name)", $0.type, $0.standard, $0.meaning) }
        + [
            ConfigurationKey(
                "limits.queue_full", .choice(Limits.QueueFull.allCases.map(\.rawValue)), "drop_newest",
                "Which events a session's full queue gives up."),
            ConfigurationKey("log.level", .choice(levels), "info", "The least level that is logged.", isLive: true),
            ConfigurationKey(
                "log.format", .choice(LogFormat.allCases.map(\.rawValue)), "auto",
                "How lines look; auto is text on a terminal and JSON otherwise."),
            ConfigurationKey(
                "log.levels.<component>", .choice(levels), "log.level", "Another level for one component.",
                isLive: true),
        ]

    /// The variable of the commands' password for the management interface. Not a key: a node has no use for it.
    public static let passwordVariable = "APUS_ADMIN_PASSWORD"

    /// The names allowed below `steps`, in the order of the table; empty where names are free.
    static func names(below steps: [String]) -> [String] {
        var names: [String] = []
        for key in all where key.steps.starts(with: steps) && key.steps.count > steps.count {
            let name = key.steps[steps.count]
            if !ConfigurationKey.isFree(name), !names.contains(name) { names.append(name) }
        }
        return names
    }

    /// The type of the value at `steps`, or nil when that is no value.
    static func type(at steps: [String]) -> ValueType? { all.first { $0.steps == steps }?.type }

    /// The rows of the reference page, as Markdown; a test compares them with `docs/configuration.md`.
    public static var markdown: String {
        var lines = ["| Key | Allowed | Default | Meaning | Variable | Live |", "|---|---|---|---|---|---|"]
        for key in all {
            let allowed = key.allowed.replacing("|", with: "\\|")
            let live = key.isLive ? "yes" : "restart"
            lines.append(
                "| `\(key.path)` | \(allowed) | \(key.standard) | \(key.meaning) | `\(key.variable)` | \(live) |")
        }
        return lines.joined(separator: "\n") + "\n"
    }
}
