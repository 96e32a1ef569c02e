/// Properties on their way across: as libmosquitto keeps them, and as the node does.
import CMosquitto
import Core
import Glibc

/// What a broker of MQTT 5 said of an event.
struct ArrivedProperties {
    /// As the node keeps them, without trail and response topic.
    var writer = EventPropertiesWriter()
    var responseTopic: [UInt8] = []
    var trail = BridgeTrail()
    /// Seconds that the event has left; nil for ever.
    var expirySeconds: UInt32?
    /// Whether the payload is said to be text.
    var isText = false

    /// Reads them; unknown ones are the connection's and not the event's.
    init(_ list: OpaquePointer?) {
        var next = list
        while let property = next {
            take(property, mosquitto_property_identifier(property))
            next = mosquitto_property_next(property)
        }
    }

    private mutating func take(_ property: OpaquePointer, _ identifier: Int32) {
        switch UInt32(clamping: identifier) {
        case MQTT_PROP_PAYLOAD_FORMAT_INDICATOR.rawValue:
            var value: UInt8 = 0
            guard mosquitto_property_read_byte(property, identifier, &value, false) != nil else { return }
            isText = value == 1
            writer.add(.payloadFormat, byte: value)
        case MQTT_PROP_MESSAGE_EXPIRY_INTERVAL.rawValue:
            var value: UInt32 = 0
            guard mosquitto_property_read_int32(property, identifier, &value, false) != nil else { return }
            expirySeconds = value
        case MQTT_PROP_CONTENT_TYPE.rawValue:
            withText(property, identifier) { writer.add(.contentType, $0) }
        case MQTT_PROP_RESPONSE_TOPIC.rawValue:
            withText(property, identifier) { responseTopic = Array($0) }
        case MQTT_PROP_CORRELATION_DATA.rawValue:
            var value: UnsafeMutableRawPointer?
            var count: UInt16 = 0
            guard mosquitto_property_read_binary(property, identifier, &value, &count, false) != nil else { return }
            defer { free(value) }
            writer.add(.correlationData, UnsafeRawBufferPointer(start: value, count: value == nil ? 0 : Int(count)))
        case MQTT_PROP_USER_PROPERTY.rawValue:
            takeUser(property, identifier)
        default: break
        }
    }

    private mutating func takeUser(_ property: OpaquePointer, _ identifier: Int32) {
        var name: UnsafeMutablePointer<CChar>?
        var value: UnsafeMutablePointer<CChar>?
        guard mosquitto_property_read_string_pair(property, identifier, &name, &value, false) != nil else { return }
        defer {
            free(name)
            free(value)
        }
        let (nameBytes, valueBytes) = (Self.bytes(name), Self.bytes(value))
        if BridgeTrail.isTrail(nameBytes) { trail.add(valueBytes) } else { writer.addUser(nameBytes, valueBytes) }
    }

    private func withText(
        _ property: OpaquePointer, _ identifier: Int32, _ body: (UnsafeRawBufferPointer) -> Void
    ) {
        var text: UnsafeMutablePointer<CChar>?
        guard mosquitto_property_read_string(property, identifier, &text, false) != nil else { return }
        defer { free(text) }
        body(Self.bytes(text))
    }

    private static func bytes(_ text: UnsafeMutablePointer<CChar>?) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: text, count: text.map { strlen($0) } ?? 0)
    }
}

/// What a broker of MQTT 5 is told of an event.
struct DepartingProperties: ~Copyable {
    private(set) var list: OpaquePointer?
    /// Whether one of them cannot be said.
    private(set) var hasFailed = false
    /// What they take in a packet, without their length.
    private(set) var bytes = 0
    private var userProperties = 0
    /// Those of one event. libmosquitto looks at all of them for each that is added.
    static let maxUserProperties = 1_000

    deinit {
        var list = list
        mosquitto_property_free_all(&list)
    }

    /// - Parameters:
    ///   - expirySeconds: what is left; nil for ever.
    ///   - responseTopic: the response topic at the broker; asked for the one at the node.
    ///   - trail: with this node's mesh at its end.
    init(
        _ properties: UnsafeRawBufferPointer, expirySeconds: UInt32?, trail: BridgeTrail,
        responseTopic: (UnsafeRawBufferPointer) -> [UInt8]
    ) {
        for property in EventProperties(properties) where !hasFailed {
            switch property.identifier {
            case .payloadFormat:
                note(
                    mosquitto_property_add_byte(
                        &list, Int32(MQTT_PROP_PAYLOAD_FORMAT_INDICATOR.rawValue), property.bytes.first ?? 0), 2)
            case .contentType: add(MQTT_PROP_CONTENT_TYPE, property.bytes)
            case .responseTopic:
                responseTopic(property.bytes).withUnsafeBytes { add(MQTT_PROP_RESPONSE_TOPIC, $0) }
            case .correlationData:
                note(
                    mosquitto_property_add_binary(
                        &list, Int32(MQTT_PROP_CORRELATION_DATA.rawValue), property.bytes.baseAddress,
                        UInt16(clamping: property.bytes.count)), 3 + property.bytes.count)
            case .userProperty:
                if !BridgeTrail.isTrail(property.bytes) { addUser(property.bytes, property.value) }
            // MQTT has no words for them.
            case .messageID, .priority, .foreign: break
            }
        }
        if let expirySeconds {
            note(
                mosquitto_property_add_int32(
                    &list, Int32(MQTT_PROP_MESSAGE_EXPIRY_INTERVAL.rawValue), expirySeconds), 5)
        }
        trail.value.withUnsafeBytes { addUser(BridgeTrail.nameBytes, $0) }
    }

    private mutating func note(_ result: Int32, _ size: Int) {
        bytes += size
        if result != MOSQ_ERR_SUCCESS.rawValue { hasFailed = true }
    }

    private mutating func add(_ identifier: mqtt5_property, _ text: UnsafeRawBufferPointer) {
        guard let text = Self.terminated(text) else { return hasFailed = true }
        note(mosquitto_property_add_string(&list, Int32(identifier.rawValue), text), 2 + text.count)
    }

    private mutating func addUser(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        userProperties += 1
        guard userProperties <= Self.maxUserProperties, let name = Self.terminated(name),
            let value = Self.terminated(value)
        else { return hasFailed = true }
        note(
            mosquitto_property_add_string_pair(&list, Int32(MQTT_PROP_USER_PROPERTY.rawValue), name, value),
            3 + name.count + value.count)
    }

    /// A string of C; nil when there is a zero within.
    static func terminated(_ text: UnsafeRawBufferPointer) -> [CChar]? {
        text.contains(0) ? nil : text.map { CChar(bitPattern: $0) } + [0]
    }
}
