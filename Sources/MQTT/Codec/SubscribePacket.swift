import Core

/// SUBSCRIBE (MQTT 5 §3.8).
struct SubscribePacket {
    struct Entry {
        var filter: [UInt8]
        var options: DeliveryOptions
        /// When retained events are wanted (§3.8.3.1).
        var retainHandling: RetainHandling
    }

    enum RetainHandling: UInt8 { case always, ifNew, never }

    var identifier: UInt16
    /// The client's number for the subscriptions; 0 for none.
    var subscriptionIdentifier: UInt32 = 0
    /// What the client is to have of its shared groups' events.
    var weight = Weight.none
    var entries: [Entry] = []

    /// The user property ``weightName``, for all shared subscriptions of the packet.
    enum Weight: Equatable {
        case none
        case said(UInt16)
        /// It is no number of 0…1000, or is there twice.
        case invalid
    }

    /// The user property that says the weight of a member of a shared group.
    static let weightName: StaticString = "apus-weight"

    /// Reads the variable header and payload.
    init(_ bytes: UnsafeRawBufferPointer, version: MQTTVersion) throws(MQTTFailure) {
        var reader = PacketReader(bytes)
        identifier = try reader.packetIdentifier()
        if version == .v5 {
            var properties = try reader.properties(.subscribe)
            while let property = try properties.next() {
                if property.identifier == .subscriptionIdentifier { subscriptionIdentifier = property.number }
                if property.identifier == .userProperty, Self.isWeight(property.bytes) { take(weight: property.value) }
            }
        }
        while !reader.isAtEnd {
            let filter = Array(try reader.text())
            let byte = try reader.byte()
            guard version == .v5 ? byte & 0xC0 == 0 : byte & 0xFC == 0 else { throw .malformed }
            guard byte & 3 < 3 else { throw version == .v5 ? .protocolError : .malformed }
            guard let handling = RetainHandling(rawValue: byte >> 4 & 3) else { throw .protocolError }
            // Bits 2 and 3 are the same on the wire and in the options: no-local, retain-as-published.
            let options = DeliveryOptions(rawValue: byte & 0x0F)
            let isShared = ["$share/", "$local/$share/"].contains { filter.starts(with: $0.utf8) }
            if isShared, options.contains(.noLocal) { throw .protocolError }
            guard version == .v5 || !filter.isEmpty else { throw .malformed }
            entries.append(Entry(filter: filter, options: options, retainHandling: handling))
        }
        guard !entries.isEmpty else { throw version == .v5 ? .protocolError : .malformed }
    }

    private static func isWeight(_ name: UnsafeRawBufferPointer) -> Bool {
        name.elementsEqual(UnsafeRawBufferPointer(start: weightName.utf8Start, count: weightName.utf8CodeUnitCount))
    }

    private mutating func take(weight value: UnsafeRawBufferPointer) {
        guard weight == .none, let number = MemberWeight.parse(value) else {
            weight = .invalid
            return
        }
        weight = .said(number)
    }
}

/// UNSUBSCRIBE (MQTT 5 §3.10).
struct UnsubscribePacket {
    var identifier: UInt16
    var filters: [[UInt8]] = []

    /// Reads the variable header and payload.
    init(_ bytes: UnsafeRawBufferPointer, version: MQTTVersion) throws(MQTTFailure) {
        var reader = PacketReader(bytes)
        identifier = try reader.packetIdentifier()
        if version == .v5 {
            var properties = try reader.properties(.unsubscribe)
            try properties.skip()
        }
        while !reader.isAtEnd {
            let filter = Array(try reader.text())
            guard version == .v5 || !filter.isEmpty else { throw .malformed }
            filters.append(filter)
        }
        guard !filters.isEmpty else { throw version == .v5 ? .protocolError : .malformed }
    }
}
