@testable import AMQP
@testable import Core

/// Bytes as a message from a client: they are refused, or every way that they may take ends with the same bare message.

// libFuzzer calls on one thread only.
nonisolated(unsafe) private let lane = Lane(number: 0, lanes: Lanes(wakes: [{}], limits: Limits()))
nonisolated(unsafe) private let outgoing = OutgoingMessages(usesTopicPrefix: false)

/// The first byte chooses what the receiver wants, the rest is the message.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 0 else { return 0 }
    let options = MessageOptions(
        needsTopic: start[0] & 1 == 1, deliveryCount: UInt32(start[0] >> 1 & 3), isRetained: start[0] & 8 == 8)
    let bytes = UnsafeRawBufferPointer(start: start + 1, count: count - 1)
    guard let message = try? IncomingMessage(bytes) else { return 0 }
    let bare = Array(bytes[message.sections.bareStart...])
    var writer = EventPropertiesWriter()
    let payload = message.unpack(into: &writer)
    let (properties, extensionLength) = writer.finish()
    check(properties, extensionLength)
    let event = Event(of: properties, extensionLength, payload)
    check(sent(event, options), bare, options)
    checkCanonical(properties, extensionLength, payload, options)
    guard message.isPlain else { return 0 }
    precondition(payload.elementsEqual(message.payload) && message.head.count + payload.count == bytes.count)
    var view = EventView(
        payload: bytes.baseAddress.unsafelyUnwrapped + message.head.count, payloadLength: payload.count)
    withUnsafeMutablePointer(to: &view) { view in
        var run = EventRun(
            topic: topicStart, topicLength: 5, events: view, count: 1, wire: bytes.baseAddress.unsafelyUnwrapped,
            wireLength: bytes.count, properties: bytes.baseAddress.unsafelyUnwrapped,
            propertiesLength: message.head.count, publisher: .none, layout: .amqp, qos: 0, isRetained: false)
        run.packing = Unmanaged.passUnretained(AMQPPacking.shared)
        lane.runSerial += 1
        withUnsafePointer(to: &run) { run in
            let passed = outgoing.message(run, 0, options, on: lane).bytes
            check(passed, bare, options)
            let unpacked = lane.unpacked(run)
            let same = UnsafeRawBufferPointer(
                start: unpacked.pointee.properties, count: unpacked.pointee.propertiesLength)
            precondition(same.elementsEqual(properties))
        }
    }
    return 0
}

nonisolated(unsafe) private let topicStart: UnsafeRawPointer = {
    let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 5, alignment: 1)
    bytes.copyBytes(from: "topic".utf8)
    return UnsafeRawPointer(bytes.baseAddress.unsafelyUnwrapped)
}()

private func sent(_ event: Event, _ options: MessageOptions) -> [UInt8] {
    // The message borrows from the event.
    withExtendedLifetime(event) { outgoing.message(event, options, on: lane).bytes }
}

/// What was written is a message with the same bare one, and says what was wanted.
private func check(_ sent: [UInt8], _ bare: [UInt8], _ options: MessageOptions) {
    sent.withUnsafeBytes { buffer in
        guard let sections = try? MessageSections(buffer) else {
            // A head at the limit may have become longer by what the receiver wants.
            precondition(sent.count > MessageSections.maxHeadBytes - 256, "what is written can be read")
            return
        }
        precondition(buffer[sections.bareStart...].elementsEqual(bare), "the bare message is the same")
        precondition(sections.isRetained == options.isRetained && sections.deliveryCount == options.deliveryCount)
        precondition(sections.hasHopAnnotations == (options.isRetained || options.needsTopic))
        precondition(!sections.hasDeliveryAnnotations)
    }
}

/// Properties are those of an event: read to their end, each a text that MQTT may pass on.
private func check(_ properties: [UInt8], _ extensionLength: UInt16) {
    properties.withUnsafeBytes { buffer in
        var (count, extras) = (0, 0)
        for property in EventProperties(buffer) {
            switch property.identifier {
            case .userProperty:
                precondition(Topic.isText(property.bytes) && Topic.isText(property.value))
                count += 5 + property.bytes.count + property.value.count
            case .contentType:
                precondition(Topic.isText(property.bytes))
                count += 3 + property.bytes.count
            case .responseTopic:
                precondition(Topic.isValid(property.bytes, limits: Limits()))
                count += 3 + property.bytes.count
            case .correlationData: count += 3 + property.bytes.count
            case .payloadFormat: count += 2
            case .messageID: extras += 3 + property.bytes.count
            case .priority: extras += 2
            case .foreign: extras += 6 + property.bytes.count
            }
        }
        precondition(count + extras == buffer.count && extras == extensionLength)
    }
}

/// As if another protocol had published it: what AMQP receivers get maps to the same user properties again.
private func checkCanonical(
    _ properties: [UInt8], _ extensionLength: UInt16, _ payload: [UInt8], _ options: MessageOptions
) {
    let common = Array(properties[..<(properties.count - Int(extensionLength))])
    let sent = sent(Event(of: common, 0, payload), options)
    sent.withUnsafeBytes { buffer in
        guard let message = try? IncomingMessage(buffer) else {
            precondition(sent.count > MessageSections.maxHeadBytes / 8, "what is written can be read")
            return
        }
        var writer = EventPropertiesWriter()
        precondition(message.unpack(into: &writer) == payload)
        let back = writer.finish().bytes
        precondition(users(back) == users(common))
    }
}

private func users(_ properties: [UInt8]) -> [[UInt8]] {
    properties.withUnsafeBytes { buffer in
        EventProperties(buffer).filter { $0.identifier == .userProperty }.map {
            Array($0.bytes) + [0] + Array($0.value)
        }
    }
}

extension Event {
    fileprivate init(of properties: [UInt8], _ extensionLength: UInt16, _ payload: [UInt8]) {
        self = properties.withUnsafeBytes { properties in
            payload.withUnsafeBytes { payload in
                Event(
                    topic: UnsafeRawBufferPointer(start: topicStart, count: 5), properties: properties,
                    payload: payload,
                    qos: 0, isRetained: false, extensionLength: extensionLength)
            }
        }
    }
}

extension MessageParts {
    fileprivate var bytes: [UInt8] { [first, second, third, fourth].flatMap { Array($0) } }
}
