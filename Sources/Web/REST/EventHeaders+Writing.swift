/// The properties of an event as the header fields of a response or of a webhook's request.
import Core

extension EventHeaders {
    /// The fields of an event. Whatever is in the properties, each is one line of ASCII: see ``FieldText``.
    ///
    /// An event that is a CloudEvent has `ce-*` fields (binary mode). Text without a content type is `text/plain`.
    /// - Parameters:
    ///   - expiresAt: when its time is over, 0 for never; what is left is `Apus-Time-To-Live`.
    ///   - now: the lane's milliseconds.
    static func fields(of properties: UnsafeRawBufferPointer, expiresAt: UInt64 = 0, now: UInt64 = 0) -> Headers {
        var headers = Headers()
        var hasType = false
        var isText = false
        var writer = UserFields(isCloudEvent: CloudEvent.isOne(properties))
        for property in EventProperties(properties) {
            switch property.identifier {
            case .payloadFormat: isText = property.bytes.first == 1
            case .contentType:
                hasType = true
                headers.add("Content-Type", FieldText.encode(property.bytes, .own))
            case .correlationData: headers.add("Apus-Correlation-Id", FieldText.encode(property.bytes, .escaped))
            case .responseTopic: headers.add("Apus-Reply-To", FieldText.encode(property.bytes, .escaped))
            case .messageID: headers.add("Apus-Message-Id", FieldText.encode(property.bytes, .escaped))
            case .priority: headers.add("Apus-Priority", String(property.bytes.first ?? 4))
            case .userProperty: writer.write(property, to: &headers)
            case .foreign: break
            }
        }
        if isText, !hasType { headers.add("Content-Type", "text/plain; charset=utf-8") }
        if expiresAt != 0 { headers.add("Apus-Time-To-Live", String(expiresAt > now ? expiresAt - now : 0)) }
        return headers
    }

    /// Which field a user property goes to.
    private struct UserFields {
        let isCloudEvent: Bool
        var hasPartitionKey = false
        /// Attributes that have been written: a CloudEvent has each once.
        var attributes: Set<[UInt8]> = []

        init(isCloudEvent: Bool) { self.isCloudEvent = isCloudEvent }

        mutating func write(_ property: EventProperties.Property, to headers: inout Headers) {
            let (name, value) = (property.bytes, property.value)
            if Self.isTrace(name) {
                headers.add(name.text, FieldText.encode(value, .own))
            } else if isCloudEvent, CloudEvent.isAttribute(name), attributes.insert(Array(name)).inserted {
                headers.add("ce-\(name.text)", FieldText.encode(value, .attribute))
            } else if !isCloudEvent, !hasPartitionKey, name.isPartitionKey {
                hasPartitionKey = true
                headers.add("Apus-Partition-Key", FieldText.encode(value, .escaped))
            } else {
                headers.add(FieldText.name("Apus-Property-", name), FieldText.encode(value, .escaped))
            }
        }

        /// Names are lower case here: a property is not a field.
        private static func isTrace(_ name: UnsafeRawBufferPointer) -> Bool {
            guard name.allSatisfy({ $0 >= UInt8(ascii: "a") }) else { return false }
            return name.isSame(as: "traceparent") || name.isSame(as: "tracestate") || name.isSame(as: "baggage")
        }
    }
}
