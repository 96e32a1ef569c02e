import Core

/// The properties of a PUBLISH from a client (MQTT 5 §3.3.2.3): what goes on to subscribers as it came, and what is
/// meant for the node.
struct PublishProperties {
    /// Everything but expiry and alias, as it came; lives as long as the packet, or as the turn.
    var forwarded: UnsafeRawBufferPointer
    /// Whether ``forwarded`` is all there was, so that the packet can be sent on byte for byte.
    var isVerbatim = true
    /// Seconds from now; nil for an event that does not expire.
    var expirySeconds: UInt32?
    /// The topic's alias; nil without one.
    var alias: UInt16?
    /// Whether the payload says that it is UTF-8.
    var isText = false

    /// Reads a section of properties.
    /// - Parameter turn: gives memory when the section has to be put together anew.
    init(_ section: UnsafeRawBufferPointer, _ turn: Turn) throws(MQTTFailure) {
        forwarded = section
        var kept: (start: Int, end: Int)? = (0, 0)
        var count = 0
        var reader = PropertyReader(section, allowed: .publish)
        while let property = try reader.next() {
            switch property.identifier {
            case .messageExpiry: expirySeconds = property.number
            case .topicAlias: alias = UInt16(truncatingIfNeeded: property.number)
            // Only a server may send one (§3.3.4-6).
            case .subscriptionIdentifier: throw .protocolError
            default:
                if property.identifier == .payloadFormat { isText = property.number == 1 }
                count += property.range.count
                // What is kept lies mostly in one piece, between expiry and alias.
                if let piece = kept {
                    if piece.start == piece.end {
                        kept = (property.range.lowerBound, property.range.upperBound)
                    } else {
                        kept = piece.end == property.range.lowerBound ? (piece.start, property.range.upperBound) : nil
                    }
                }
            }
        }
        guard expirySeconds != nil || alias != nil else { return }
        isVerbatim = false
        if let kept {
            forwarded = UnsafeRawBufferPointer(rebasing: section[kept.start..<kept.end])
        } else {
            forwarded = try Self.gather(section, count, turn)
        }
    }

    private static func gather(
        _ section: UnsafeRawBufferPointer, _ count: Int, _ turn: Turn
    ) throws(MQTTFailure) -> UnsafeRawBufferPointer {
        let scratch = turn.makeScratch(count)
        var place = scratch
        var reader = PropertyReader(section, allowed: .publish)
        while let property = try reader.next() {
            if property.identifier == .messageExpiry || property.identifier == .topicAlias { continue }
            let piece = UnsafeRawBufferPointer(rebasing: section[property.range])
            if let base = piece.baseAddress { place.copyMemory(from: base, byteCount: piece.count) }
            place += piece.count
        }
        return UnsafeRawBufferPointer(start: scratch, count: count)
    }
}
