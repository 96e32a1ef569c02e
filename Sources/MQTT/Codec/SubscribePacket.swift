import Core

/// SUBSCRIBE and UNSUBSCRIBE (MQTT 3.1.1 §3.8, §3.10).
struct SubscribePacket {
    struct Entry {
        var filter: [UInt8]
        var qos: UInt8
    }

    var identifier: UInt16
    var entries: [Entry] = []

    /// Reads the variable header and payload.
    /// - Parameter hasOptions: whether each filter is followed by its options, as in SUBSCRIBE.
    init(_ bytes: UnsafeRawBufferPointer, hasOptions: Bool) throws(MQTTFailure) {
        var reader = PacketReader(bytes)
        identifier = try reader.packetIdentifier()
        while !reader.isAtEnd {
            let filter = Array(try reader.text())
            let qos = hasOptions ? try reader.byte() : 0
            guard qos < 3, !filter.isEmpty else { throw .malformed }
            entries.append(Entry(filter: filter, qos: qos))
        }
        guard !entries.isEmpty else { throw .malformed }
    }
}
