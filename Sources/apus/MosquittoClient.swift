/// An MQTT client over libmosquitto, driven by its caller: one thread, no callback outside of
/// ``MosquittoClient/loop(milliseconds:)``.
import CMosquitto
import Glibc

/// One connection.
final class MosquittoClient {
    /// How to connect.
    struct Settings {
        var host = "localhost"
        var port = 1883
        var unixPath: String?
        var clientID: String?
        var isCleanSession = true
        var user: String?
        var password: String?
        var keepAliveSeconds = 60
        var version = ProtocolVersion.v311
        var isDebugging = false
        /// Nil without TLS.
        var security: Security?
    }

    /// How TLS is spoken; all are paths of PEM files, or of a directory.
    struct Security {
        var authorities: String?
        var authorityDirectory: String?
        var certificate: String?
        var key: String?
        /// Whether the certificate must be for the host that is dialled.
        var isNameVerified = true
    }

    enum ProtocolVersion {
        case v31, v311, v5

        init?(word: String) {
            switch word {
            case "31", "3.1", "mqttv31": self = .v31
            case "311", "3.1.1", "mqttv311": self = .v311
            case "5", "mqttv5": self = .v5
            default: return nil
            }
        }

        var number: Int32 {
            switch self {
            case .v31: MQTT_PROTOCOL_V31
            case .v311: MQTT_PROTOCOL_V311
            case .v5: MQTT_PROTOCOL_V5
            }
        }
    }

    /// An event as it came.
    struct Message {
        let topic: String
        let payload: [UInt8]
        let isRetained: Bool
    }

    /// Called for each event.
    var onMessage: ((Message) -> Void)?
    /// What the server granted for each filter of the last subscription; 128 and more are refusals.
    private(set) var granted: [Int32]?
    /// Publishes that are not done yet.
    private(set) var pending: Set<Int32> = []
    /// Publishes that the server has refused, which only one of MQTT 5 says, and only at QoS 1 and 2.
    private(set) var refused = 0
    /// Called for the first refusal of each reason.
    var onRefusal: ((String) -> Void)?

    private let settings: Settings
    private let client: OpaquePointer
    private var connectCode: Int32?
    /// Publishes that were done before `publish` knew their id.
    private var doneEarly: Set<Int32> = []
    /// Reasons of refusals that were told.
    private var toldReasons: Set<Int32> = []
    /// The first error of this attempt: libmosquitto tells the log what is wrong with a certificate, and its caller
    /// only that TLS failed.
    private var firstError: String?

    init(_ settings: Settings) throws {
        self.settings = settings
        mosquitto_lib_init()
        guard let client = mosquitto_new(settings.clientID, settings.isCleanSession, nil) else {
            throw CommandFailure.system("cannot make a client")
        }
        self.client = client
        mosquitto_user_data_set(client, Unmanaged.passUnretained(self).toOpaque())
        try check(mosquitto_int_option(client, MOSQ_OPT_PROTOCOL_VERSION, settings.version.number), "protocol version")
        try check(mosquitto_int_option(client, MOSQ_OPT_TCP_NODELAY, 1), "TCP_NODELAY")
        if settings.user != nil || settings.password != nil {
            try check(mosquitto_username_pw_set(client, settings.user, settings.password), "user name and password")
        }
        if let security = settings.security { try secure(security) }
        setCallbacks()
    }

    private func secure(_ security: Security) throws {
        for path in [security.authorities, security.authorityDirectory, security.certificate, security.key] {
            if let path, !isReadable(path) { throw CommandFailure.system("cannot read \(path)") }
        }
        try check(
            mosquitto_tls_set(
                client, security.authorities, security.authorityDirectory, security.certificate, security.key, nil),
            "TLS")
        // 1 is SSL_VERIFY_PEER; nil are the versions and suites of OpenSSL, from TLS 1.2 on.
        try check(mosquitto_tls_opts_set(client, 1, nil, nil), "TLS")
        try check(mosquitto_tls_insecure_set(client, !security.isNameVerified), "TLS")
    }

    deinit {
        mosquitto_destroy(client)
        mosquitto_lib_cleanup()
    }

    private func setCallbacks() {
        mosquitto_connect_callback_set(client) { _, context, code in
            MosquittoClient.from(context)?.connectCode = code
        }
        mosquitto_publish_v5_callback_set(client) { _, context, id, code, _ in
            MosquittoClient.from(context)?.published(id, code)
        }
        mosquitto_subscribe_callback_set(client) { _, context, _, count, granted in
            MosquittoClient.from(context)?.granted =
                granted.map { Array(UnsafeBufferPointer(start: $0, count: Int(count))) } ?? []
        }
        mosquitto_message_callback_set(client) { _, context, message in
            guard let message = message?.pointee, let topic = message.topic else { return }
            let payload = message.payload.map {
                Array(UnsafeRawBufferPointer(start: $0, count: Int(message.payloadlen)))
            }
            MosquittoClient.from(context)?.onMessage?(
                Message(topic: String(cString: topic), payload: payload ?? [], isRetained: message.retain))
        }
        mosquitto_log_callback_set(client) { _, context, level, text in
            guard let client = MosquittoClient.from(context), let text else { return }
            if client.settings.isDebugging { printError(String(cString: text)) }
            if level == MOSQ_LOG_ERR, client.firstError == nil { client.firstError = String(cString: text) }
        }
    }

    /// The context is the client itself, which owns the C client and so outlives every callback.
    private static func from(_ context: UnsafeMutableRawPointer?) -> MosquittoClient? {
        context.map { Unmanaged<MosquittoClient>.fromOpaque($0).takeUnretainedValue() }
    }

    /// A publish is done; from 128 on the code is a refusal (MQTT 5 §3.4.2.1).
    private func published(_ id: Int32, _ code: Int32) {
        if pending.remove(id) == nil { doneEarly.insert(id) }
        guard code >= 128 else { return }
        refused += 1
        guard toldReasons.insert(code).inserted else { return }
        let reason = mosquitto_reason_string(code).map { String(cString: $0) } ?? "reason \(code)"
        onRefusal?("\(place) refused the event: \(reason)")
    }

    /// Whether `text` is a topic filter of MQTT.
    static func isFilter(_ text: String) -> Bool { mosquitto_sub_topic_check(text) == MOSQ_ERR_SUCCESS.rawValue }

    /// Where it connects to, for errors.
    private var place: String { settings.unixPath ?? "\(settings.host):\(settings.port)" }

    /// Connects and waits for the server's answer, at most ten seconds.
    func connect() throws {
        connectCode = nil
        firstError = nil
        // For libmosquitto port 0 says that the host is the path of a Unix socket.
        let host = settings.unixPath ?? settings.host
        let port = settings.unixPath == nil ? Int32(settings.port) : 0
        try check(mosquitto_connect(client, host, port, Int32(settings.keepAliveSeconds)), "cannot connect to \(place)")
        try waitForAnswer()
    }

    /// Connects again after a loss; like ``connect()``.
    func reconnect() throws {
        connectCode = nil
        firstError = nil
        try check(mosquitto_reconnect(client), "cannot connect to \(place)")
        try waitForAnswer()
    }

    private func waitForAnswer() throws {
        let deadline = Deadline(seconds: 10)
        while connectCode == nil {
            if deadline.isOver { throw CommandFailure("\(place) does not answer the CONNECT packet") }
            let result = mosquitto_loop(client, 200, 1)
            if connectCode == nil { try check(result, "cannot connect to \(place)") }
        }
        if let code = connectCode, code != 0 {
            let reason = settings.version == .v5 ? mosquitto_reason_string(code) : mosquitto_connack_string(code)
            throw CommandFailure("\(place) refused the connection: \(reason.map { String(cString: $0) } ?? "\(code)")")
        }
    }

    /// Sends an event; it is done when its id has left ``pending``.
    func publish(topic: String, payload: [UInt8], qos: Int, isRetained: Bool) throws {
        guard let length = Int32(exactly: payload.count) else { throw CommandFailure("the payload is too large") }
        var id: Int32 = 0
        try check(mosquitto_publish(client, &id, topic, length, payload, Int32(qos), isRetained), "cannot publish")
        if doneEarly.remove(id) == nil { pending.insert(id) }
    }

    /// Subscribes to all `filters` and waits for the answer, at most ten seconds.
    func subscribe(to filters: [String], qos: Int) throws {
        granted = nil
        let pointers = filters.map { strdup($0) }
        defer { for pointer in pointers { free(pointer) } }
        try check(
            mosquitto_subscribe_multiple(client, nil, Int32(pointers.count), pointers, Int32(qos), 0, nil),
            "cannot subscribe")
        let deadline = Deadline(seconds: 10)
        while granted == nil {
            if deadline.isOver { throw CommandFailure("\(place) does not answer the SUBSCRIBE packet") }
            try loop(milliseconds: 200)
        }
        for (filter, code) in zip(filters, granted ?? []) where code >= 128 {
            throw CommandFailure("\(place) refused the subscription to '\(filter)'")
        }
    }

    /// Sends and receives, waiting at most `milliseconds` for something to come.
    func loop(milliseconds: Int) throws {
        let result = mosquitto_loop(client, Int32(milliseconds), 1)
        if result == MOSQ_ERR_ERRNO.rawValue, errno == EINTR { return }
        try check(result, "connection to \(place)")
    }

    /// The socket, to wait on together with others; negative when not connected.
    var socket: Int32 { mosquitto_socket(client) }

    /// Says good-bye and lets it go out.
    func disconnect() {
        // The answer does not matter any more: the work is done, and the connection ends either way.
        mosquitto_disconnect(client)
        mosquitto_loop(client, 100, 1)
    }

    private func check(_ result: Int32, _ what: String) throws {
        guard result != MOSQ_ERR_SUCCESS.rawValue else { return }
        if result == MOSQ_ERR_TLS.rawValue, let firstError {
            throw CommandFailure("\(what): \(Self.reason(ofTLS: firstError))")
        }
        if result == MOSQ_ERR_CONN_LOST.rawValue, connectCode == nil { throw CommandFailure("\(what): \(lost)") }
        if result == MOSQ_ERR_ERRNO.rawValue { throw CommandFailure.system(what) }
        throw CommandFailure("\(what): \(String(cString: mosquitto_strerror(result)))")
    }
}

extension MosquittoClient {
    /// What it may mean that the connection has ended before the server's answer came.
    private var lost: String {
        switch settings.security {
        case .none: "The connection was lost; if the node speaks TLS there: --cafile"
        // With TLS 1.3 the server's answer to a missing certificate comes after the handshake.
        case .some(let security) where security.certificate == nil:
            "The connection was lost; if the node asks for a certificate: --cert and --key"
        case .some: "The connection was lost; perhaps the node does not take --cert"
        }
    }

    /// What OpenSSL or libmosquitto say about TLS, and what to try.
    private static func reason(ofTLS text: String) -> String {
        let advice =
            if text.contains("certificate verify failed") {
                "the node's certificate comes from no authority in --cafile or --capath, or has ended"
            } else if text.contains("host name verification failed") {
                "the node's certificate is for another name than --host"
            } else if text.contains("wrong version number") {
                "the node speaks no TLS there; leave --cafile out or give another --port"
            } else if text.contains("certificate required") || text.contains("handshake failure") {
                "the node asks for a certificate: --cert and --key"
            } else if text.contains("unexpected eof") {
                "the connection was lost in the handshake; perhaps the node speaks no TLS there"
            } else {
                ""
            }
        return advice.isEmpty ? text : "\(advice) (\(text))"
    }
}

/// A moment to come.
struct Deadline {
    private let end: ContinuousClock.Instant

    init(seconds: Int) { end = .now + .seconds(seconds) }

    var isOver: Bool { .now >= end }
}
