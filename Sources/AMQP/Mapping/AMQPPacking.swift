import Core

/// Properties of plain messages as they came: the head of each message, without its payload, stands at the properties
/// of its run.
///
/// SAFETY: it has no state.
final class AMQPPacking: EventPacking, @unchecked Sendable {
    /// The one there is.
    static let shared = AMQPPacking()

    override func unpack(_ run: UnsafePointer<EventRun>, into properties: inout EventPropertiesWriter) {
        guard run.pointee.count > 0 else { return }
        // It has been read before, when it came, without an error.
        guard let sections = try? MessageSections(run.pointee.message(0)) else { return }
        CanonicalProperties(sections).add(to: &properties) {
            (0..<run.pointee.count).allSatisfy { Value.isUTF8(run.pointee.events[$0].bytes) }
        }
        properties.addForeign(.amqp, ForeignMessage.bytes(of: sections))
    }
}

extension EventRun {
    /// A message of a packed run: each begins with the head, which is as long for all of them.
    @inline(__always)
    func message(_ index: Int) -> UnsafeRawBufferPointer {
        let view = events[index]
        return UnsafeRawBufferPointer(
            start: view.payload - propertiesLength, count: propertiesLength + Int(view.payloadLength))
    }
}

extension EventView {
    /// The payload as a buffer.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: payload, count: Int(payloadLength)) }
}
