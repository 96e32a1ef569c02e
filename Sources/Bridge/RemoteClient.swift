/// The connection to the broker: libmosquitto, driven by its caller. One thread; callbacks come within ``read()``,
/// ``write()`` and ``connect()`` only.
import CMosquitto
import Core
import Glibc

/// One client, for all connections of a bridge: libmosquitto keeps what the broker has not acknowledged from one to the
/// next, and sends it again.
///
/// It is told that several threads use it. That is not so, but then it writes nothing on its own: acknowledgements of
/// what has come in stay with it until ``write()``.
final class RemoteClient {
    /// What has happened, in order.
    enum Notice {
        /// The broker's answer; 0 is yes.
        case answered(code: Int32, hasSession: Bool)
        /// The broker has an event, or refuses it from 128 on (MQTT 5 §3.4.2.1).
        case published(identifier: Int32, code: Int32)
        /// What was granted for the filter of a subscription; 128 and more are refusals.
        case subscribed(identifier: Int32, granted: Int32)
        /// The connection has ended.
        case ended(code: Int32)
    }

    /// An event as libmosquitto hands it out; valid during the call.
    struct Arrival {
        var message: UnsafePointer<mosquitto_message>
        var properties: OpaquePointer?
    }

    /// What went wrong, in words for the log.
    struct Failure: Error {
        var text: String
    }

    private let definition: BridgeDefinition
    private let client: OpaquePointer
    private(set) var notices: [Notice] = []
    /// Called for each event that has come in.
    var onArrival: ((Arrival) -> Void)?
    /// Whether ``read()`` has come to the end of a packet. Then there may be another one that OpenSSL has taken from
    /// the socket already, which does not become readable because of it.
    private(set) var mayHaveMore = false
    /// Events that have come in with this call of ``read()``; more than one only if it does not end when it should.
    private(set) var arrivals = 0
    private var isReading = false
    /// The first error of this connection: libmosquitto tells the log what is wrong with a certificate, and its caller
    /// only that TLS failed.
    private var firstError: String?
    /// What the broker says it takes (MQTT 5 §3.2.2.3.4, §3.2.2.3.5). libmosquitto keeps to what a broker has said last
    /// when a later connection says nothing of it, and refuses events beyond.
    private var brokerQoS: UInt8 = 2
    private var isSessionForeign = false
    var maxQoS: UInt8 { isSessionForeign ? min(brokerQoS, 1) : brokerQoS }
    private(set) var keepsRetained = true
    /// Guaranteed events that the broker takes before it has acknowledged the first (MQTT 5 §3.2.2.3.3). Here
    /// libmosquitto does the same, and keeps back events beyond: direct ones would overtake them.
    private(set) var receiveMaximum = 65_535
    /// The largest packet that the broker takes (MQTT 5 §3.2.2.3.6), and with the connection before; see ``hangUp()``.
    private var maximumPacketSize = UInt32.max
    private var formerPacketSize = UInt32.max
    var takesSmallerPackets: Bool { maximumPacketSize < formerPacketSize }
    /// Whether a broker has said yes. From then on libmosquitto keeps events of QoS 2 that have come in and were not
    /// released, whatever becomes of the session at the broker.
    private(set) var wasConnected = false

    private var isV5: Bool { definition.version == .v5 }

    /// Called once before the first client is made: libmosquitto counts.
    static func prepare() { mosquitto_lib_init() }

    init(_ definition: BridgeDefinition, clientID: String) throws(Failure) {
        self.definition = definition
        guard let client = mosquitto_new(clientID, !definition.isSessionKept, nil) else {
            throw Failure(text: "libmosquitto cannot make a client: \(String(cString: strerror(errno)))")
        }
        self.client = client
        mosquitto_user_data_set(client, Unmanaged.passUnretained(self).toOpaque())
        let version = isV5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311
        try check(mosquitto_threaded_set(client, true), "libmosquitto")
        try check(mosquitto_int_option(client, MOSQ_OPT_PROTOCOL_VERSION, version), "version")
        try check(mosquitto_int_option(client, MOSQ_OPT_TCP_NODELAY, 1), "TCP_NODELAY")
        let window = Int32(definition.maxInFlight)
        try check(mosquitto_int_option(client, MOSQ_OPT_SEND_MAXIMUM, window), "max_in_flight")
        // What comes in is held back by not reading it; a mosquitto that has kept a session sends all of it at once,
        // whatever it was told, and libmosquitto would end the connection for that.
        try check(mosquitto_int_option(client, MOSQ_OPT_RECEIVE_MAXIMUM, 65_535), "receive maximum")
        if definition.user != nil {
            try check(mosquitto_username_pw_set(client, definition.user, definition.password), "user and password")
        }
        if let security = definition.security { try secure(security) }
        setCallbacks()
    }

    deinit { mosquitto_destroy(client) }

    private func secure(_ security: BridgeDefinition.Security) throws(Failure) {
        let files = [
            ("tls.ca", security.authorities), ("tls.certificate", security.certificate), ("tls.key", security.key),
        ]
        for (field, path) in files {
            guard let path, access(path, R_OK) != 0 else { continue }
            throw Failure(text: "\(field): cannot read \(path): \(String(cString: strerror(errno)))")
        }
        if security.authorities == nil {
            try check(mosquitto_int_option(client, MOSQ_OPT_TLS_USE_OS_CERTS, 1), "tls")
        }
        if security.authorities != nil || security.certificate != nil {
            let key = security.key ?? security.certificate
            try check(mosquitto_tls_set(client, security.authorities, nil, security.certificate, key, nil), "tls")
        }
        // 1 is SSL_VERIFY_PEER; nil are the versions and suites of OpenSSL, from TLS 1.2 on.
        try check(mosquitto_tls_opts_set(client, 1, nil, nil), "tls")
        try check(mosquitto_tls_insecure_set(client, !security.isNameVerified), "tls")
    }

    private func setCallbacks() {
        mosquitto_connect_v5_callback_set(client) { _, context, code, flags, properties in
            RemoteClient.from(context)?.answered(code, flags, properties)
        }
        mosquitto_disconnect_v5_callback_set(client) { _, context, code, _ in
            RemoteClient.from(context)?.notices.append(.ended(code: code))
        }
        mosquitto_publish_v5_callback_set(client) { _, context, identifier, code, _ in
            RemoteClient.from(context)?.notices.append(.published(identifier: identifier, code: code))
        }
        mosquitto_subscribe_v5_callback_set(client) { _, context, identifier, count, granted, _ in
            guard count > 0, let granted else { return }
            RemoteClient.from(context)?.notices.append(.subscribed(identifier: identifier, granted: granted[0]))
        }
        mosquitto_message_v5_callback_set(client) { _, context, message, properties in
            guard let message else { return }
            guard let client = RemoteClient.from(context) else { return }
            client.arrivals += 1
            client.onArrival?(Arrival(message: message, properties: properties))
            client.endReading()
        }
        mosquitto_log_callback_set(client) { _, context, level, text in
            guard let client = RemoteClient.from(context) else { return }
            if level == MOSQ_LOG_ERR, let text, client.firstError == nil { client.firstError = String(cString: text) }
            client.endReading()
        }
    }

    /// Lets ``read()`` return after this packet. With TLS `mosquitto_loop_read` goes on for as long as OpenSSL has
    /// something, for ever if the broker sends enough; unless EAGAIN is in `errno` when it has dealt with a packet.
    /// Every release tells its log of every packet, and an event is handed out after that.
    private func endReading() {
        guard isReading else { return }
        mayHaveMore = true
        errno = EAGAIN
    }

    /// The context is the client itself, which owns the C client and so outlives every callback.
    private static func from(_ context: UnsafeMutableRawPointer?) -> RemoteClient? {
        context.map { Unmanaged<RemoteClient>.fromOpaque($0).takeUnretainedValue() }
    }

    private func answered(_ code: Int32, _ flags: Int32, _ properties: OpaquePointer?) {
        keepsRetained = true
        if let properties {
            var count: UInt16 = 0
            let identifier = Int32(MQTT_PROP_RECEIVE_MAXIMUM.rawValue)
            if mosquitto_property_read_int16(properties, identifier, &count, false) != nil {
                receiveMaximum = max(Int(count), 1)
            }
            let size = Int32(MQTT_PROP_MAXIMUM_PACKET_SIZE.rawValue)
            mosquitto_property_read_int32(properties, size, &maximumPacketSize, false)
            var value: UInt8 = 0
            if mosquitto_property_read_byte(properties, Int32(MQTT_PROP_MAXIMUM_QOS.rawValue), &value, false) != nil {
                brokerQoS = value
            }
            if mosquitto_property_read_byte(properties, Int32(MQTT_PROP_RETAIN_AVAILABLE.rawValue), &value, false)
                != nil
            {
                keepsRetained = value != 0
            }
        }
        notices.append(.answered(code: code, hasSession: flags & 1 != 0))
        if code == 0, wasConnected, takesSmallerPackets { hangUp() }
    }

    /// Lets libmosquitto send nothing of what it has. It is about to, and ends the process when that is larger than the
    /// broker takes now (2.0.11 with its assertions: `log__printf` without a client). Without a socket it sends
    /// nothing; and it closes the one that it has for a connection, here one that cannot be: no TCP goes to a broadcast
    /// address.
    private func hangUp() { mosquitto_connect_bind_v5(client, "255.255.255.255", 1, 60, nil, nil) }

    /// Takes over what the broker has said last, see ``maxQoS``.
    func inherit(from former: RemoteClient) {
        brokerQoS = former.brokerQoS
        receiveMaximum = former.receiveMaximum
        maximumPacketSize = former.maximumPacketSize
    }

    /// The connection serves.
    /// - Parameter isSessionForeign: see ``BridgeWire/hasForeignSession``; nothing goes out with QoS 2 then.
    func noteConnected(isSessionForeign: Bool) {
        self.isSessionForeign = isSessionForeign
        wasConnected = true
        formerPacketSize = maximumPacketSize
    }

    /// What has happened since the last call.
    func takeNotices() -> [Notice] {
        defer { notices.removeAll(keepingCapacity: true) }
        return notices
    }

    // MARK: Connection

    /// Dials. Waits for the resolver and for TCP, as long as the kernel tries; not for TLS nor for the broker's answer.
    /// - Parameter maxPacketBytes: the largest packet that the broker is told to send.
    func connect(maxPacketBytes: Int) throws(Failure) {
        firstError = nil
        notices = []
        mayHaveMore = false
        var properties: OpaquePointer?
        defer { mosquitto_property_free_all(&properties) }
        if isV5 {
            if definition.isSessionKept {
                let identifier = Int32(MQTT_PROP_SESSION_EXPIRY_INTERVAL.rawValue)
                try check(
                    mosquitto_property_add_int32(&properties, identifier, definition.sessionExpirySeconds), "session")
            }
            let identifier = Int32(MQTT_PROP_MAXIMUM_PACKET_SIZE.rawValue)
            try check(
                mosquitto_property_add_int32(&properties, identifier, UInt32(clamping: maxPacketBytes)), "packet size")
        }
        let result = mosquitto_connect_bind_v5(
            client, definition.host, Int32(definition.port), Int32(definition.keepAliveSeconds), nil, properties)
        try check(result, "cannot connect")
    }

    /// Ends the connection without a word. Its descriptor is closed by the next ``connect(maxPacketBytes:)``: until
    /// then nothing is read, and so nothing taken, that could not be acknowledged.
    func abandon() {
        if socket >= 0 { shutdown(socket, Int32(SHUT_RDWR)) }
    }

    /// The socket; negative when there is none.
    var socket: Int32 { mosquitto_socket(client) }

    /// Whether there is something to write.
    var wantsWrite: Bool { mosquitto_want_write(client) }

    /// Reads a packet, or as much of it as is there; notices and arrivals come meanwhile.
    func read() throws(Failure) {
        mayHaveMore = false
        arrivals = 0
        isReading = true
        defer { isReading = false }
        try check(mosquitto_loop_read(client, 1), "connection lost")
    }

    /// Writes what waits, acknowledgements of what has been read among it.
    func write() throws(Failure) { try check(mosquitto_loop_write(client, 1), "connection lost") }

    /// Signs of life; about once a second.
    func tick() throws(Failure) { try check(mosquitto_loop_misc(client), "connection lost") }

    /// Says good-bye.
    /// - Parameter forgetsSession: whether the broker is told to keep nothing (MQTT 5 §3.14.2.2.2).
    func disconnect(forgetsSession: Bool) {
        var properties: OpaquePointer?
        defer { mosquitto_property_free_all(&properties) }
        if isV5, forgetsSession {
            mosquitto_property_add_int32(&properties, Int32(MQTT_PROP_SESSION_EXPIRY_INTERVAL.rawValue), 0)
        }
        // Whether it arrives does not matter any more: the connection ends either way.
        mosquitto_disconnect_v5(client, 0, properties)
    }

    // MARK: Events

    /// Subscribes to one filter.
    /// - Returns: the number of the answer.
    func subscribe(_ filter: String, qos: UInt8, options: Int32) throws(Failure) -> Int32 {
        var identifier: Int32 = 0
        try check(
            mosquitto_subscribe_v5(client, &identifier, filter, Int32(qos), isV5 ? options : 0, nil),
            "cannot subscribe to '\(filter)'")
        return identifier
    }

    /// Hands an event over; it is written by ``write()``.
    /// - Parameters:
    ///   - topic: ends with a zero.
    ///   - propertyBytes: of the properties in a packet, without their length.
    /// - Returns: the number of the answer, or why the event can never be sent.
    func publish(
        topic: [CChar], payload: UnsafeRawBufferPointer, qos: UInt8, isRetained: Bool, _ properties: OpaquePointer?,
        propertyBytes: Int
    ) -> Result<Int32, Unsendable> {
        let size = Self.packetSize(
            topic: topic.count - 1, payload.count, isGuaranteed: min(qos, maxQoS) > 0, propertyBytes)
        guard size <= maximumPacketSize else { return .failure(.tooLarge) }
        var identifier: Int32 = 0
        let result = mosquitto_publish_v5(
            client, &identifier, topic, Int32(clamping: payload.count), payload.baseAddress, Int32(min(qos, maxQoS)),
            isRetained && keepsRetained, properties)
        switch result {
        case MOSQ_ERR_SUCCESS.rawValue: return .success(identifier)
        case MOSQ_ERR_OVERSIZE_PACKET.rawValue, MOSQ_ERR_PAYLOAD_SIZE.rawValue: return .failure(.tooLarge)
        case MOSQ_ERR_INVAL.rawValue, MOSQ_ERR_MALFORMED_UTF8.rawValue: return .failure(.badTopic)
        case MOSQ_ERR_DUPLICATE_PROPERTY.rawValue, MOSQ_ERR_PROTOCOL.rawValue: return .failure(.badProperty)
        case MOSQ_ERR_NOMEM.rawValue: return .failure(.noMemory)
        default:
            // The connection is about to be found lost. A guaranteed event that has got a number is with libmosquitto
            // nevertheless.
            return qos > 0 && identifier != 0 ? .success(identifier) : .failure(.lost)
        }
    }

    /// Bytes of PUBLISH of MQTT 5. libmosquitto counts too few of them when it is given an event, and so would keep one
    /// that it cannot send.
    private static func packetSize(topic: Int, _ payload: Int, isGuaranteed: Bool, _ properties: Int) -> Int {
        func lengthBytes(_ count: Int) -> Int { count < 128 ? 1 : count < 16_384 ? 2 : count < 2_097_152 ? 3 : 4 }
        let body = 2 + topic + (isGuaranteed ? 2 : 0) + lengthBytes(properties) + properties + payload
        return 1 + lengthBytes(body) + body
    }

    /// Why an event was not taken over.
    enum Unsendable: Error { case tooLarge, badTopic, badProperty, noMemory, lost }

    // MARK: Words

    /// Why the broker said no.
    func refusal(_ code: Int32) -> String {
        let reason = isV5 ? mosquitto_reason_string(code) : mosquitto_connack_string(code)
        let text = reason.map { String(cString: $0) } ?? "\(code)"
        let isLogin = isV5 ? [134, 135].contains(code) : [4, 5].contains(code)
        guard isLogin else { return "refused: \(text)" }
        let who = definition.user.map { "user '\($0)' and its password" } ?? "a client without a user name"
        return "refused: \(text) (the broker does not take \(who))"
    }

    /// Why a connection ended.
    /// - Parameter isNew: whether the broker had not answered yet.
    func ending(_ code: Int32, isNew: Bool) -> String {
        if isNew, code == MOSQ_ERR_CONN_LOST.rawValue { return Self.lost(definition.security) }
        if code == MOSQ_ERR_TLS.rawValue, let firstError { return Self.reason(ofTLS: firstError) }
        // What a broker of MQTT 5 says in its DISCONNECT.
        if code >= 128, let reason = mosquitto_reason_string(code) { return String(cString: reason) }
        return String(cString: mosquitto_strerror(code))
    }

    /// What it may mean that the connection has ended before the broker's answer came.
    private static func lost(_ security: BridgeDefinition.Security?) -> String {
        switch security {
        case .none: "the broker ended it without an answer; if it speaks TLS there: tls"
        // With TLS 1.3 the answer to a missing certificate comes after the handshake.
        case .some(let security) where security.certificate == nil:
            "the broker ended it without an answer; if it asks for a certificate: tls.certificate and tls.key"
        case .some: "the broker ended it without an answer; perhaps it does not take tls.certificate"
        }
    }

    private func check(_ result: Int32, _ what: String) throws(Failure) {
        guard result != MOSQ_ERR_SUCCESS.rawValue else { return }
        if result == MOSQ_ERR_TLS.rawValue, let firstError {
            throw Failure(text: "\(what): \(Self.reason(ofTLS: firstError))")
        }
        if result == MOSQ_ERR_ERRNO.rawValue {
            throw Failure(text: "\(what): \(String(cString: strerror(errno)))")
        }
        throw Failure(text: "\(what): \(String(cString: mosquitto_strerror(result)))")
    }

    /// What OpenSSL or libmosquitto say about TLS, and what to look at.
    private static func reason(ofTLS text: String) -> String {
        let advice =
            if text.contains("certificate verify failed") {
                "the broker's certificate comes from no authority in tls.ca, or has ended"
            } else if text.contains("host name verification failed") {
                "the broker's certificate is for another name than the host of 'to'"
            } else if text.contains("wrong version number") {
                "the broker speaks no TLS at this port"
            } else if text.contains("unexpected eof") {
                "the connection was lost in the handshake; perhaps the broker speaks no TLS there"
            } else if text.contains("certificate required") || text.contains("handshake failure") {
                "the broker asks for a certificate: tls.certificate and tls.key"
            } else {
                ""
            }
        return advice.isEmpty ? text : "\(advice) (\(text))"
    }
}
