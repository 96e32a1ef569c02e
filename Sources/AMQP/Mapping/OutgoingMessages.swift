import Core

/// What a receiver's link wants of a message.
struct MessageOptions: Equatable {
    /// Whether the topic is to be said in an annotation, because the link's source has wildcards.
    var needsTopic = false
    /// How often the message could not be delivered before (§3.2.1).
    var deliveryCount: UInt32 = 0
    /// Whether it is what its topic has kept.
    var isRetained = false
}

/// Messages for receivers, from events of all protocols. What is the same for all messages of a run and for all of
/// its receivers is encoded once. One per lane, confined to it.
final class OutgoingMessages {
    private let encoder: MessageEncoder
    /// The run that was encoded last: without and with the topic annotation.
    private let plain = EncodedMessage()
    private let withTopic = EncodedMessage()
    private var serial: UInt64?
    private var run: (events: UnsafeMutablePointer<EventView>, properties: UnsafeRawPointer)?
    private let single = EncodedMessage()

    /// - Parameter usesTopicPrefix: whether addresses that are written begin with `topic://`.
    init(usesTopicPrefix: Bool) { encoder = MessageEncoder(usesTopicPrefix: usesTopicPrefix) }

    /// A message of a run that is being delivered. Valid until the next call, and not beyond the delivery.
    func message(
        _ run: UnsafePointer<EventRun>, _ index: Int, _ options: MessageOptions, on lane: Lane
    ) -> MessageParts {
        if serial != lane.runSerial || self.run?.events != run.pointee.events
            || self.run?.properties != run.pointee.properties
        {
            serial = lane.runSerial
            self.run = (run.pointee.events, run.pointee.properties)
            plain.options = nil
            withTopic.options = nil
        }
        let encoded = options.needsTopic ? withTopic : plain
        if encoded.options != options { encode(run, options, on: lane, into: encoded) }
        if case .message(let offset) = encoded.body {
            let message = run.pointee.message(index)
            var parts = MessageParts()
            if offset > 0 || encoded.isRewritten { parts.first = encoded.start.bytes }
            parts.second = message.from(offset)
            return parts
        }
        return encoded.parts(run.pointee.events[index].bytes)
    }

    /// A message of an event that has waited. Valid until the next call, and no longer than the event.
    func message(_ event: Event, _ options: MessageOptions, on lane: Lane) -> MessageParts {
        let source = MessageSource(
            topic: event.topic, properties: event.properties, extensionLength: Int(event.extensionLength),
            isDurable: event.qos > 0, expiresAt: event.expiresAt, now: lane.now)
        encoder.encode(source, options, into: single)
        return single.parts(event.payload)
    }

    @inline(never)
    private func encode(
        _ run: UnsafePointer<EventRun>, _ options: MessageOptions, on lane: Lane, into encoded: EncodedMessage
    ) {
        if run.pointee.packing != nil, run.pointee.layout == .amqp,
            let sections = try? MessageSections(run.pointee.message(0))
        {
            let source = MessageSource(
                topic: run.pointee.topicBytes, properties: UnsafeRawBufferPointer(start: nil, count: 0),
                extensionLength: 0, isDurable: sections.isDurable, expiresAt: run.pointee.expiresAt, now: lane.now)
            encoder.encode(sections, source, options, into: encoded)
        } else {
            let run = lane.unpacked(run)
            let properties = UnsafeRawBufferPointer(
                start: run.pointee.properties, count: run.pointee.propertiesLength)
            let source = MessageSource(
                topic: run.pointee.topicBytes, properties: properties,
                extensionLength: Int(run.pointee.extensionLength), isDurable: run.pointee.qos > 0,
                expiresAt: run.pointee.expiresAt, now: lane.now)
            encoder.encode(source, options, into: encoded)
        }
        encoded.options = options
    }
}

/// An event as the encoder sees it.
struct MessageSource {
    var topic: UnsafeRawBufferPointer
    /// As ``EventProperties`` reads them.
    var properties: UnsafeRawBufferPointer
    var extensionLength: Int
    var isDurable: Bool
    /// In the lane's milliseconds; 0 for never.
    var expiresAt: UInt64
    var now: UInt64

    /// Milliseconds left; nil for an event that does not expire. Who gets it at the last moment has one left.
    var timeToLive: UInt32? { expiresAt == 0 ? nil : UInt32(clamping: expiresAt > now ? expiresAt - now : 1) }
}

/// What messages of an event or of a run have in common. Confined to the lane.
final class EncodedMessage {
    /// What stands behind ``start`` and ``bare``.
    enum Body {
        /// The message as it was received, from an offset on.
        case message(Int)
        /// One data section.
        case data
        /// What the publisher wrote up to the constructor, the size, the payload.
        case plain(UnsafeRawBufferPointer)
        /// The payload is the body.
        case encoded
        /// The publisher's data sections.
        case pieces(ForeignMessage)
    }

    /// What the message was encoded for; nil before.
    var options: MessageOptions?
    /// Header and message annotations; of events of other protocols the properties too.
    let start = ValueWriter()
    /// Whether ``start`` takes the place of what was received.
    var isRewritten = false
    /// The publisher's properties and application properties. Borrowed.
    var bare = UnsafeRawBufferPointer(start: nil, count: 0)
    var body = Body.data
    /// The publisher's footer. Borrowed.
    var footer = UnsafeRawBufferPointer(start: nil, count: 0)
    /// What stands between ``bare`` and the payload.
    private let bodyStart = ValueWriter(capacity: 64)

    /// The message with a payload.
    @inline(__always)
    func parts(_ payload: UnsafeRawBufferPointer) -> MessageParts {
        var parts = MessageParts(first: start.bytes, second: bare)
        bodyStart.removeAll()
        switch body {
        case .data:
            bodyStart.descriptor(.data)
            bodyStart.variableSize(0xA0, payload.count)
        case .plain(let prefix):
            bodyStart.raw(prefix)
            if let constructor = prefix.last { bodyStart.size(payload.count, of: constructor) }
        case .encoded, .message:
            parts.third = payload
            parts.fourth = footer
            return parts
        case .pieces(let message):
            if !message.writePieces(payload, to: bodyStart) {
                bodyStart.removeAll()
                bodyStart.descriptor(.data)
                bodyStart.variableSize(0xA0, payload.count)
                bodyStart.raw(payload)
            }
            parts.third = bodyStart.bytes
            parts.fourth = footer
            return parts
        }
        parts.third = bodyStart.bytes
        parts.fourth = payload
        return parts
    }
}
