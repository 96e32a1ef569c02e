import Foundation

@testable import AMQP
@testable import Core

/// Bytes from hexadecimal digits; `'text'` stands for the bytes of a text.
func hex(_ text: String) -> [UInt8] {
    var bytes: [UInt8] = []
    var pending: UInt8?
    var isQuoted = false
    for byte in text.utf8 {
        if byte == UInt8(ascii: "'") {
            isQuoted.toggle()
        } else if isQuoted {
            bytes.append(byte)
        } else if let digit = UInt8(String(UnicodeScalar(byte)), radix: 16) {
            if let high = pending { bytes.append(high << 4 | digit) }
            pending = pending == nil ? digit : nil
        }
    }
    return bytes
}

/// Properties as lines that a test can compare: `contentType text/plain`, `user a = b`. Foreign ones are left out.
func lines(_ properties: UnsafeRawBufferPointer) -> [String] {
    EventProperties(properties).compactMap { property in
        let text = String(decoding: property.bytes, as: UTF8.self)
        switch property.identifier {
        case .userProperty: return "user \(text) = \(String(decoding: property.value, as: UTF8.self))"
        case .payloadFormat, .priority: return "\(property.identifier) \(property.bytes[0])"
        case .foreign: return nil
        default: return "\(property.identifier) \(text)"
        }
    }
}

/// A lane without a loop, messages on their way through it, and what is made of them.
final class MessageStand {
    let lane: Lane
    let outgoing: OutgoingMessages

    init(usesTopicPrefix: Bool = false) {
        lane = Lane(number: 0, lanes: Lanes(wakes: [{}], limits: Limits()))
        outgoing = OutgoingMessages(usesTopicPrefix: usesTopicPrefix)
    }

    /// Runs `body` with a packed run of messages, whose heads must be the same; a new delivery of the lane.
    func packed<Result>(
        _ messages: [[UInt8]], topic: String = "t", qos: UInt8 = 0, expiresAt: UInt64 = 0,
        _ body: (UnsafePointer<EventRun>) throws -> Result
    ) throws -> Result {
        let topic = Array(topic.utf8)
        let all = UnsafeMutableRawBufferPointer.allocate(
            byteCount: messages.reduce(topic.count) { $0 + $1.count }, alignment: 1)
        let views = UnsafeMutablePointer<EventView>.allocate(capacity: messages.count)
        defer {
            all.deallocate()
            views.deallocate()
        }
        all.copyBytes(from: topic + messages.joined())
        var place = topic.count
        var head = UnsafeRawBufferPointer(start: nil, count: 0)
        for (index, bytes) in messages.enumerated() {
            let part = UnsafeRawBufferPointer(rebasing: all[place..<place + bytes.count])
            let message = try IncomingMessage(part)
            precondition(message.isPlain && (index == 0 || head.elementsEqual(message.head)))
            if index == 0 { head = message.head }
            views[index] = EventView(
                payload: part.baseAddress.unsafelyUnwrapped + head.count, payloadLength: message.payload.count)
            place += bytes.count
        }
        let start = UnsafeRawPointer(all.baseAddress.unsafelyUnwrapped)
        var run = EventRun(
            topic: start, topicLength: topic.count, events: views, count: messages.count, wire: start + topic.count,
            wireLength: all.count - topic.count, properties: head.baseAddress.unsafelyUnwrapped,
            propertiesLength: head.count, publisher: .none, layout: .amqp, qos: qos, isRetained: false,
            expiresAt: expiresAt)
        run.packing = Unmanaged.passUnretained(AMQPPacking.shared)
        lane.runSerial += 1
        return try withUnsafePointer(to: &run) { try body($0) }
    }

    /// The event that a message becomes when it must wait.
    func event(_ message: [UInt8], topic: String = "t", qos: UInt8 = 0, expiresAt: UInt64 = 0) throws -> Event {
        let isPlain = try message.withUnsafeBytes { try IncomingMessage($0).isPlain }
        if isPlain {
            return try packed([message], topic: topic, qos: qos, expiresAt: expiresAt) {
                lane.unpacked($0).pointee.event(0)
            }
        }
        var writer = EventPropertiesWriter()
        let payload = try message.withUnsafeBytes { try IncomingMessage($0).unpack(into: &writer) }
        return event(writer, payload, topic: topic, qos: qos, expiresAt: expiresAt)
    }

    /// An event of another protocol.
    func event(
        _ writer: EventPropertiesWriter, _ payload: [UInt8], topic: String = "t", qos: UInt8 = 0,
        expiresAt: UInt64 = 0
    ) -> Event {
        let (properties, extensionLength) = writer.finish()
        return Array(topic.utf8).withUnsafeBytes { topic in
            properties.withUnsafeBytes { properties in
                payload.withUnsafeBytes { payload in
                    Event(
                        topic: topic, properties: properties, payload: payload, qos: qos, isRetained: false,
                        expiresAt: expiresAt, extensionLength: extensionLength)
                }
            }
        }
    }

    /// Canonical properties and payload of a message.
    func unpacked(_ message: [UInt8], topic: String = "t") throws -> (properties: [String], payload: [UInt8]) {
        let event = try event(message, topic: topic)
        return (lines(event.properties), Array(event.payload))
    }

    /// The message that receivers get of an event.
    func sent(_ event: Event, _ options: MessageOptions = MessageOptions()) -> [UInt8] {
        withExtendedLifetime(event) { outgoing.message(event, options, on: lane).bytes }
    }

    /// The message that receivers get of a message which is passed on at once.
    func passed(
        _ message: [UInt8], _ options: MessageOptions = MessageOptions(), topic: String = "t", expiresAt: UInt64 = 0
    ) throws -> [UInt8] {
        try packed([message], topic: topic, expiresAt: expiresAt) {
            outgoing.message($0, 0, options, on: lane).bytes
        }
    }
}

extension MessageParts {
    /// All pieces together.
    var bytes: [UInt8] { [first, second, third, fourth].flatMap { Array($0) } }
}

/// The sections of a message, which must be one.
func sections<Result>(_ bytes: [UInt8], _ body: (MessageSections) throws -> Result) throws -> Result {
    try bytes.withUnsafeBytes { try body(MessageSections($0)) }
}

/// The bare message and the footer.
func bare(_ bytes: [UInt8]) throws -> [UInt8] { try sections(bytes) { Array(bytes[$0.bareStart...]) } }

/// The error of bytes that are no message; nil when they are one.
func failure(_ bytes: [UInt8]) -> AMQPError? {
    // A copy of exactly this size, so that reading beyond it can be noticed.
    let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
    defer { copy.deallocate() }
    copy.copyBytes(from: bytes)
    do throws(AMQPError) {
        _ = try IncomingMessage(UnsafeRawBufferPointer(copy))
        return nil
    } catch {
        return error
    }
}
