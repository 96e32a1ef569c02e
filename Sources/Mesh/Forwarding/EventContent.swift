import Core

/// What is sealed in a frame: a run of events of one publisher to one topic.
///
///     0  flags u8 (0-1 QoS, 2 retained, 3 part, 4 last part, 5 first part, 6 shares only), shares u8, topic u16
///     4  extension u16, events u16
///     8  properties u32, milliseconds left u32 (0: does not expire)
///     16 if the QoS is above 0: identity of the first event u64, those of the others follow
///        if retained: version, time u64 and writer u64
///        for each share: node's short id u16, key of the group u64
///        topic, properties, and for each event: length u32, payload
///
/// What is too large for a frame is sealed as a whole and then cut. Each part says its topic, so that a policy can be
/// asked for every frame on its own: flags u8, topic u16 and the topic, then a piece.
struct EventContent {
    /// One member of one shared group is to have the event: at this node.
    struct Share: Equatable {
        var shortID: UInt16
        var key: UInt64
    }

    private static let fixedSize = 16
    static let retainedFlag: UInt8 = 4
    static let partFlag: UInt8 = 8
    static let lastPartFlag: UInt8 = 16
    static let firstPartFlag: UInt8 = 32
    /// Only the members of shared groups that are named are to have it.
    static let sharesOnlyFlag: UInt8 = 64

    /// What policies ask for: the topic of whatever is sealed, and how many events it stands for, a large one counted
    /// with its first part. The topic is nil when it cannot be read. No more is looked at than that.
    static func label(_ sealed: UnsafeRawBufferPointer) -> (topic: UnsafeRawBufferPointer?, events: Int) {
        var reader = WireReader(sealed)
        let flags = reader.u8()
        if flags & partFlag != 0 {
            let topic = reader.bytes(Int(reader.u16()))
            return (reader.isBroken || topic.isEmpty ? nil : topic, flags & firstPartFlag == 0 ? 0 : 1)
        }
        let shares = Int(reader.u8())
        let topicLength = Int(reader.u16())
        _ = reader.u16()
        let events = Int(reader.u16())
        _ = reader.u64()
        _ = reader.bytes((flags & 3 != 0 ? 8 : 0) + (flags & retainedFlag != 0 ? 16 : 0) + shares * 10)
        let topic = reader.bytes(topicLength)
        return (reader.isBroken || topic.isEmpty ? nil : topic, events)
    }

    /// A part of a large event.
    struct Part {
        var flags: UInt8
        var topic: UnsafeRawBufferPointer
        var piece: UnsafeRawBufferPointer

        /// Reads a part; nil when it is malformed or none.
        init?(_ sealed: UnsafeRawBufferPointer) {
            var reader = WireReader(sealed)
            flags = reader.u8()
            topic = reader.bytes(Int(reader.u16()))
            piece = reader.rest()
            guard flags & EventContent.partFlag != 0, !reader.isBroken, !topic.isEmpty else { return nil }
        }

        static func seal(_ piece: ArraySlice<UInt8>, topic: UnsafeRawBufferPointer, flags: UInt8) -> [UInt8] {
            var part: [UInt8] = []
            part.reserveCapacity(3 + topic.count + piece.count)
            part.append(flags)
            withUnsafeBytes(of: UInt16(truncatingIfNeeded: topic.count).littleEndian) { part.append(contentsOf: $0) }
            part.append(contentsOf: topic)
            part.append(contentsOf: piece)
            return part
        }
    }

    /// Where the parts lie, borrowed.
    var topic: UnsafeRawBufferPointer
    var properties: UnsafeRawBufferPointer
    var flags: UInt8
    var extensionLength: UInt16
    var eventCount: Int
    /// Milliseconds that the events are still wanted for; 0 for ever.
    var millisecondsLeft: UInt32
    /// What tells guaranteed events from all others; see ``EventRun/identity``.
    var identity: UInt64
    var version: EventVersion
    var shares: [Share]
    /// The events: each its length and its payload.
    var payloads: UnsafeRawBufferPointer

    var qos: UInt8 { min(flags & 3, 2) }
    var isRetained: Bool { flags & Self.retainedFlag != 0 }

    /// Reads what is sealed in a frame; nil when it is malformed. Every length has been checked then.
    init?(_ sealed: UnsafeRawBufferPointer) {
        var reader = WireReader(sealed)
        flags = reader.u8()
        // What a part holds means something only when all of them are together.
        guard flags & Self.partFlag == 0 else { return nil }
        let shareCount = Int(reader.u8())
        let topicLength = Int(reader.u16())
        extensionLength = reader.u16()
        eventCount = Int(reader.u16())
        let propertiesLength = Int(reader.u32())
        millisecondsLeft = reader.u32()
        identity = flags & 3 != 0 ? reader.u64() : 0
        version = .none
        if flags & Self.retainedFlag != 0 { version = EventVersion(time: reader.u64(), writer: reader.u64()) }
        shares = []
        for _ in 0..<shareCount where !reader.isBroken {
            shares.append(Share(shortID: reader.u16(), key: reader.u64()))
        }
        topic = reader.bytes(topicLength)
        properties = reader.bytes(propertiesLength)
        payloads = reader.rest()
        guard !reader.isBroken, topicLength > 0, eventCount > 0, Int(extensionLength) <= propertiesLength else {
            return nil
        }
        guard Self.areWhole(payloads, eventCount) else { return nil }
    }

    private static func areWhole(_ payloads: UnsafeRawBufferPointer, _ count: Int) -> Bool {
        var offset = 0
        for _ in 0..<count {
            guard payloads.count - offset >= 4 else { return false }
            let length = Int(UInt32(littleEndian: payloads.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
            guard payloads.count - offset - 4 >= length else { return false }
            offset += 4 + length
        }
        return offset == payloads.count
    }

    /// Bytes that ``write(_:_:shares:from:count:now:to:)`` writes.
    static func size(_ run: UnsafePointer<EventRun>, shares: Int, from first: Int, count: Int) -> Int {
        var size = fixedSize + shares * 10 + run.pointee.topicLength + run.pointee.propertiesLength + count * 4
        if run.pointee.qos > 0 { size += 8 }
        if run.pointee.isRetained { size += 16 }
        for index in first..<first + count { size += Int(run.pointee.events[index].payloadLength) }
        return size
    }

    /// Says anew how long sealed events are wanted for, when they are sent again.
    static func setMillisecondsLeft(_ milliseconds: UInt32, in sealed: UnsafeMutableRawBufferPointer) {
        guard sealed.count >= fixedSize else { return }
        sealed.storeBytes(of: milliseconds.littleEndian, toByteOffset: 12, as: UInt32.self)
    }

    /// Seals events of a run that is not packed.
    static func write(
        _ run: UnsafePointer<EventRun>, shares: [Share], from first: Int, count: Int, now: UInt64,
        to base: UnsafeMutableRawPointer
    ) {
        var place = base
        func put(_ value: some FixedWidthInteger) {
            place.storeBytes(of: value.littleEndian, as: type(of: value.littleEndian))
            place += value.bitWidth / 8
        }
        func copy(_ bytes: UnsafeRawPointer, _ count: Int) {
            place.copyMemory(from: bytes, byteCount: count)
            place += count
        }
        let run = run.pointee
        put(run.qos | (run.isRetained ? retainedFlag : 0) | (shares.isEmpty ? 0 : sharesOnlyFlag))
        put(UInt8(truncatingIfNeeded: shares.count))
        put(UInt16(truncatingIfNeeded: run.topicLength))
        put(run.extensionLength)
        put(UInt16(truncatingIfNeeded: count))
        put(UInt32(truncatingIfNeeded: run.propertiesLength))
        let left = run.expiresAt == 0 ? 0 : UInt32(clamping: max(1, run.expiresAt > now ? run.expiresAt - now : 1))
        put(left)
        if run.qos > 0 { put(run.identity == 0 ? 0 : run.identity &+ UInt64(first)) }
        if run.isRetained {
            // The events of a run have versions that follow one another.
            put(run.version.time &+ UInt64(first))
            put(run.version.writer)
        }
        for share in shares {
            put(share.shortID)
            put(share.key)
        }
        copy(run.topic, run.topicLength)
        copy(run.properties, run.propertiesLength)
        for index in first..<first + count {
            put(run.events[index].payloadLength)
            copy(run.events[index].payload, Int(run.events[index].payloadLength))
        }
    }
}
