import Core

/// A session as bytes, for another node: numbers in network order like all of MQTT, `docs/wire-format.md`. The outline
/// is what the other node needs to subscribe; the contents follow when it has.
enum SessionBytes {
    /// The layout below; another one is refused.
    static let version: UInt8 = 1

    /// What a session is subscribed to, and how long it waits for its client.
    struct Outline {
        var expirySeconds: UInt32
        /// Until the session ends if nobody comes back.
        var millisecondsLeft: UInt64
        var subscriptions: [Subscribed]
    }

    /// One subscription of it.
    struct Subscribed {
        var filter: [UInt8]
        var options: DeliveryOptions
        var identifier: UInt32
        var wantsRetained: Bool
        /// Of a member of a shared group; nil when it has said none.
        var weight: UInt16?
    }

    /// What is in it.
    struct Contents {
        var will: ConnectPacket.Will?
        var willMillisecondsLeft: UInt64 = 0
        /// Packet identifiers of QoS 2 publishes received and not yet released.
        var received: [UInt16] = []
        /// The window: the sequence number of its first slot, and its slots.
        var first: UInt64 = 0
        var slots: [InFlight.Slot] = []
        var waiting: [EventQueue.Entry] = []
    }
}

/// Appends to bytes.
struct SessionWriter {
    private(set) var bytes: [UInt8] = [SessionBytes.version]

    init(capacity: Int) { bytes.reserveCapacity(capacity) }

    mutating func put(_ value: some FixedWidthInteger) {
        withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
    }

    /// Bytes with a two-byte length in front.
    mutating func put(short block: some Collection<UInt8>) {
        put(UInt16(truncatingIfNeeded: block.count))
        bytes.append(contentsOf: block)
    }

    /// Bytes with a four-byte length in front.
    mutating func put(long block: some Collection<UInt8>) {
        put(UInt32(truncatingIfNeeded: block.count))
        bytes.append(contentsOf: block)
    }

    mutating func put(_ identifiers: [UInt32]) {
        put(UInt16(truncatingIfNeeded: identifiers.count))
        for identifier in identifiers { put(identifier) }
    }

    mutating func put(_ event: Event, now: UInt64) {
        put(event.qos | (event.isRetained ? 4 : 0))
        put(event.extensionLength)
        put(event.identity)
        // What expires has a millisecond at least: 0 stands for never.
        put(event.expiresAt == 0 ? 0 : max(1, event.expiresAt - min(now, event.expiresAt)))
        put(short: event.topic)
        put(long: event.properties)
        put(long: event.payload)
    }

    mutating func put(_ entry: EventQueue.Entry, now: UInt64) {
        put(entry.qos | (entry.isRetained ? 4 : 0))
        put(entry.identifiers)
        put(entry.event, now: now)
    }

    mutating func put(_ will: ConnectPacket.Will, millisecondsLeft: UInt64) {
        put(will.qos | (will.isRetained ? 4 : 0) | (will.expirySeconds == nil ? 0 : 8))
        put(millisecondsLeft)
        put(will.delaySeconds)
        put(will.expirySeconds ?? 0)
        put(short: will.topic)
        put(short: will.payload)
        put(long: will.properties)
    }
}

extension SessionBytes.Outline {
    var bytes: [UInt8] {
        var writer = SessionWriter(capacity: 32 + subscriptions.count * 48)
        writer.put(expirySeconds)
        writer.put(millisecondsLeft)
        let count = subscriptions.count + subscriptions.count { $0.weight != nil }
        writer.put(UInt32(truncatingIfNeeded: count))
        for entry in subscriptions {
            writer.put(entry.options.rawValue & 15 | (entry.wantsRetained ? 16 : 0))
            writer.put(entry.identifier)
            writer.put(short: entry.filter)
            guard let weight = entry.weight else { continue }
            // As an entry of its own, without a filter: nodes that know of no weights leave that out.
            writer.put(UInt8(0))
            writer.put(UInt32(weight))
            writer.put(short: [])
        }
        return writer.bytes
    }

    init(_ bytes: [UInt8]) throws(MQTTFailure) {
        var failure: MQTTFailure?
        self.init(expirySeconds: 0, millisecondsLeft: 0, subscriptions: [])
        bytes.withUnsafeBytes { bytes in
            do throws(MQTTFailure) { try read(bytes) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    private mutating func read(_ bytes: UnsafeRawBufferPointer) throws(MQTTFailure) {
        var reader = PacketReader(bytes)
        guard try reader.byte() == SessionBytes.version else { throw .malformed }
        expirySeconds = try reader.uint32()
        millisecondsLeft = try reader.uint64()
        for _ in 0..<(try reader.count(each: 7)) {
            let bits = try reader.byte()
            guard bits < 32, bits & 3 < 3 else { throw .malformed }
            let identifier = try reader.uint32()
            let filter = Array(try reader.binary())
            if filter.isEmpty, let last = subscriptions.indices.last {
                guard let weight = MemberWeight.parse(identifier) else { throw .malformed }
                subscriptions[last].weight = weight
                continue
            }
            subscriptions.append(
                SessionBytes.Subscribed(
                    filter: filter, options: DeliveryOptions(rawValue: bits & 15), identifier: identifier,
                    wantsRetained: bits & 16 != 0))
        }
        guard reader.isAtEnd else { throw .malformed }
    }
}

extension SessionBytes.Contents {
    /// What tells the events apart.
    var identities: [UInt64] { slots.compactMap { $0.event?.identity } + waiting.map(\.event.identity) }

    /// - Parameter now: the lane's time, which all times left count from.
    func bytes(now: UInt64) -> [UInt8] {
        let size = waiting.reduce(0) { $0 + $1.event.cost } + slots.reduce(0) { $0 + ($1.event?.cost ?? 8) }
        var writer = SessionWriter(capacity: 64 + size)
        writer.put(UInt8(will == nil ? 0 : 1))
        if let will { writer.put(will, millisecondsLeft: willMillisecondsLeft) }
        writer.put(UInt32(truncatingIfNeeded: received.count))
        for identifier in received { writer.put(identifier) }
        writer.put(first)
        writer.put(UInt32(truncatingIfNeeded: slots.count))
        for slot in slots {
            writer.put(slot.state.rawValue | (slot.isRetained ? 4 : 0) | (slot.event == nil ? 0 : 8))
            guard let event = slot.event else { continue }
            writer.put(slot.identifiers)
            writer.put(event, now: now)
        }
        writer.put(UInt32(truncatingIfNeeded: waiting.count))
        for entry in waiting { writer.put(entry, now: now) }
        return writer.bytes
    }

    init(_ bytes: [UInt8], now: UInt64, limits: Limits) throws(MQTTFailure) {
        var failure: MQTTFailure?
        self.init()
        bytes.withUnsafeBytes { bytes in
            do throws(MQTTFailure) { try read(bytes, now, limits) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    private mutating func read(
        _ bytes: UnsafeRawBufferPointer, _ now: UInt64, _ limits: Limits
    ) throws(MQTTFailure) {
        var reader = PacketReader(bytes)
        guard try reader.byte() == SessionBytes.version else { throw .malformed }
        switch try reader.byte() {
        case 0: break
        case 1: will = try reader.will(&willMillisecondsLeft, limits)
        default: throw .malformed
        }
        for _ in 0..<(try reader.count(each: 2)) { received.append(try reader.packetIdentifier()) }
        first = try reader.uint64()
        let count = try reader.count(each: 1)
        // A window has at most as many slots as there are packet identifiers, and its numbers never end.
        guard count <= 65_535, first < 1 << 60 else { throw .malformed }
        for _ in 0..<count { slots.append(try reader.slot(now, limits)) }
        for _ in 0..<(try reader.count(each: 32)) { waiting.append(try reader.entry(now, limits)) }
        guard reader.isAtEnd else { throw .malformed }
    }
}

extension PacketReader {
    fileprivate mutating func uint64() throws(MQTTFailure) -> UInt64 {
        let high = try uint32()
        return UInt64(high) << 32 | UInt64(try uint32())
    }

    /// A number of things that take at least `each` bytes: never more than can be there.
    fileprivate mutating func count(each: Int) throws(MQTTFailure) -> Int {
        let count = Int(try uint32())
        guard count <= left / each else { throw .malformed }
        return count
    }

    /// Bytes with a four-byte length in front.
    private mutating func long() throws(MQTTFailure) -> UnsafeRawBufferPointer { try take(Int(try uint32())) }

    private mutating func identifiers() throws(MQTTFailure) -> [UInt32] {
        let count = Int(try uint16())
        guard count <= left / 4 else { throw .malformed }
        var identifiers: [UInt32] = []
        for _ in 0..<count { identifiers.append(try uint32()) }
        return identifiers
    }

    private mutating func event(_ now: UInt64, _ limits: Limits) throws(MQTTFailure) -> Event {
        let bits = try byte()
        let extensionLength = try uint16()
        let identity = try uint64()
        let millisecondsLeft = try uint64()
        let topic = try binary()
        let properties = try long()
        let payload = try long()
        guard bits < 8, bits & 3 < 3, Topic.isValid(topic, limits: limits), Int(extensionLength) <= properties.count,
            millisecondsLeft < 1 << 60
        else { throw .malformed }
        return Event(
            topic: topic, properties: properties, payload: payload, qos: bits & 3, isRetained: bits & 4 != 0,
            expiresAt: millisecondsLeft == 0 ? 0 : now + millisecondsLeft, extensionLength: extensionLength,
            identity: identity)
    }

    fileprivate mutating func entry(_ now: UInt64, _ limits: Limits) throws(MQTTFailure) -> EventQueue.Entry {
        let bits = try byte()
        guard bits < 8, bits & 3 < 3 else { throw .malformed }
        let identifiers = try identifiers()
        return EventQueue.Entry(
            event: try event(now, limits), qos: bits & 3, isRetained: bits & 4 != 0, identifiers: identifiers)
    }

    fileprivate mutating func slot(_ now: UInt64, _ limits: Limits) throws(MQTTFailure) -> InFlight.Slot {
        let bits = try byte()
        guard bits < 16, let state = InFlight.State(rawValue: bits & 3) else { throw .malformed }
        var slot = InFlight.Slot()
        slot.state = state
        slot.isRetained = bits & 4 != 0
        // What the client has not got yet has an event, what it has got has none.
        let hasEvent = bits & 8 != 0
        guard hasEvent == (state == .awaitingPuback || state == .awaitingPubrec) else { throw .malformed }
        if hasEvent {
            slot.identifiers = try identifiers()
            slot.event = try event(now, limits)
        }
        return slot
    }

    fileprivate mutating func will(
        _ millisecondsLeft: inout UInt64, _ limits: Limits
    ) throws(MQTTFailure) -> ConnectPacket.Will {
        let bits = try byte()
        guard bits < 16, bits & 3 < 3 else { throw .malformed }
        millisecondsLeft = try uint64()
        let delay = try uint32()
        let expiry = try uint32()
        let topic = try binary()
        guard Topic.isValid(topic, limits: limits), millisecondsLeft < 1 << 60 else { throw .malformed }
        let payload = try binary()
        return ConnectPacket.Will(
            topic: Array(topic), payload: Array(payload), qos: bits & 3, isRetained: bits & 4 != 0,
            properties: Array(try long()), delaySeconds: delay, expirySeconds: bits & 8 == 0 ? nil : expiry)
    }
}
