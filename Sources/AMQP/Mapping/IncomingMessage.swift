import Core

extension WireLayout {
    /// A message as it came in transfers (§3.2): all of its sections.
    static let amqp = WireLayout(rawValue: 3)
}

/// A message that a client has sent. What the router must know is read at once, everything else when a subscriber of
/// another protocol wants it. The bytes must stay valid meanwhile.
struct IncomingMessage {
    let sections: MessageSections

    /// Finds the sections, in time proportional to what is not payload.
    /// - Throws: `amqp:decode-error`, or `amqp:resource-limit-exceeded` for a head of more than
    ///   ``MessageSections/maxHeadBytes``, too many values or body sections, or too deep a nesting.
    init(_ bytes: UnsafeRawBufferPointer) throws(AMQPError) { sections = try MessageSections(bytes) }

    /// Everything in front of the payload, the body's constructor and size included.
    var head: UnsafeRawBufferPointer { sections.bytes.upTo(sections.payloadStart) }
    /// The payload of a plain message.
    var payload: UnsafeRawBufferPointer { sections.bytes.from(sections.payloadStart) }
    /// Whether the payload is the end of the message: of one data section, or of a value that is a string or binary.
    /// A message without body is plain too, with an empty payload.
    var isPlain: Bool { sections.isPlain }
    /// `properties.to`, if it is a string.
    var to: UnsafeRawBufferPointer? { sections.to }
    /// `header.ttl`.
    var ttlMilliseconds: UInt64? { sections.ttlMilliseconds }
    /// `properties.absolute-expiry-time`, in milliseconds since 1970.
    var absoluteExpiryTime: UInt64? { sections.absoluteExpiryTime }
    /// Whether message annotation `x-opt-retain` is true.
    var isRetained: Bool { sections.isRetained }

    /// Adds the properties as ``EventProperties`` has them, and what AMQP needs to make the same message again.
    /// - Returns: the payload.
    func unpack(into properties: inout EventPropertiesWriter) -> [UInt8] {
        var payload: [UInt8] = []
        if isPlain {
            payload = Array(self.payload)
        } else if sections.body == .data {
            var reader = ValueReader(body)
            while !reader.isAtEnd, let piece = try? Self.nextPiece(&reader) { payload += piece.bytes }
        } else {
            payload = Array(body)
        }
        payload.withUnsafeBytes { payload in
            CanonicalProperties(sections).add(to: &properties) { Value.isUTF8(payload) }
        }
        properties.addForeign(.amqp, ForeignMessage.bytes(of: sections))
        return payload
    }

    /// All sections of the body.
    private var body: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: sections.bytes[sections.bodyStart..<sections.footerStart])
    }

    /// The value of the next section of a body.
    private static func nextPiece(_ reader: inout ValueReader) throws(ValueError) -> Value {
        _ = try MessageSections.Section.next(&reader)
        return try reader.next()
    }
}
