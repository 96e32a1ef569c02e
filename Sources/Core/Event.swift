/// Events, borrowed and owned. What a read brought in is borrowed from the receive buffer and routed in place; it is
/// copied into an ``Event`` only where it must live on: an in-flight window, a queue, a retained slot, a will.

/// Which wire format a run's bytes are in, so that a port of the same format copies them as they are. Adapters choose
/// their own values; `none` means there are no such bytes.
public struct WireLayout: RawRepresentable, Sendable, Equatable, BitwiseCopyable {
    /// The adapter's number for the format.
    public let rawValue: UInt8
    /// Makes a layout; 0 is ``none``.
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// No wire form.
    public static let none = WireLayout(rawValue: 0)
}

/// One event of a run, borrowed. 16 bytes.
public struct EventView: BitwiseCopyable {
    /// The payload's first byte; undefined when it is empty.
    public var payload: UnsafeRawPointer
    /// The payload's bytes.
    public var payloadLength: UInt32
    /// The publisher's number for the event (MQTT packet identifier), for its acknowledgement.
    public var reference: UInt16
    /// Reserved for the adapter that publishes.
    public var flags: UInt16

    /// Makes a view; the memory must stay valid until the turn has been routed.
    @inlinable
    public init(payload: UnsafeRawPointer, payloadLength: Int, reference: UInt16 = 0, flags: UInt16 = 0) {
        self.payload = payload
        self.payloadLength = UInt32(truncatingIfNeeded: payloadLength)
        self.reference = reference
        self.flags = flags
    }
}

/// Consecutive events of one publisher to one topic with the same flags and properties: routed as one.
public struct EventRun: BitwiseCopyable {
    /// The topic.
    public var topic: UnsafeRawPointer
    /// The topic's bytes.
    public var topicLength: Int
    /// The first of ``count`` events.
    public var events: UnsafeMutablePointer<EventView>
    /// Events in the run; at least 1.
    public var count: Int
    /// All events as received, one after another, when ``layout`` is not `none`.
    public var wire: UnsafeRawPointer
    /// Bytes at ``wire``.
    public var wireLength: Int
    /// Properties of every event of the run, as ``EventProperties`` reads them; often none.
    public var properties: UnsafeRawPointer
    /// Bytes at ``properties``.
    public var propertiesLength: Int
    /// Who publishes, so that it can be left out (no-local).
    public var publisher: PortAddress
    /// What the bytes at ``wire`` are.
    public var layout: WireLayout
    /// Quality of service as published: 0, 1 or 2. Above 0 the events are guaranteed.
    public var qos: UInt8
    /// Whether the event is to be kept as its topic's last value.
    public var isRetained: Bool
    /// How many of the last bytes at ``properties`` are of no use to MQTT; see ``EventProperties``.
    public var extensionLength: UInt16 = 0
    /// Whether its publisher waits for receipts, however long they take, and publishes less meanwhile: a full queue may
    /// hold its receipt (``Lane/hold(_:evenImpatient:)``) instead of refusing the event.
    public var isPatient = false
    /// Whether it comes from another node, which has chosen the destinations: it goes to this node's subscriptions
    /// only, and to a shared group only when the other node says so (``Router/deliverShare(_:key:on:)``).
    public var isFromMesh = false
    /// The version of the first event, when it is to be kept as its topic's last value and another node has given it
    /// one, or the router has; each of the following is one later (``EventVersion/advanced(by:)``).
    public var version = EventVersion.none
    /// How the properties are taken out of what stands at ``properties``, when they are still as they were received;
    /// nil when they are as ``EventProperties`` reads them. See ``Port/takesPacked``.
    public var packing: Unmanaged<EventPacking>?
    /// What tells the first of its events from all others in the mesh, the following ones having the numbers that
    /// follow; 0 for events that are not guaranteed, and for all while the node is in no mesh.
    public var identity: UInt64 = 0
    /// From when on nobody wants it any more, in the lane's milliseconds; 0 for never.
    public var expiresAt: UInt64
    /// Owned copies of the events, made when the first port needs one; lane's scratch.
    @usableFromInline var owned: UnsafeMutablePointer<Unmanaged<EventStorage>?>?
    /// The topic's hash and what the match cache had under it when the turn began; router's scratch.
    @usableFromInline var hash: UInt64
    @usableFromInline var known: UnsafeMutableRawPointer?

    /// The topic as a buffer.
    @inlinable public var topicBytes: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: topic, count: topicLength)
    }

    /// A run of one event that is owned already.
    public init(event: Event, view: UnsafeMutablePointer<EventView>, publisher: PortAddress) {
        let base = event.bytes
        view.pointee = EventView(
            payload: base + event.topicLength + event.propertiesLength, payloadLength: event.payloadLength)
        self.init(
            topic: base, topicLength: event.topicLength, events: view, count: 1, wire: base, wireLength: 0,
            properties: base + event.topicLength, propertiesLength: event.propertiesLength, publisher: publisher,
            layout: .none, qos: event.qos, isRetained: event.isRetained, expiresAt: event.expiresAt)
        extensionLength = event.extensionLength
        identity = event.identity
    }

    /// Makes a run of borrowed events.
    @inlinable @inline(__always)
    public init(
        topic: UnsafeRawPointer, topicLength: Int, events: UnsafeMutablePointer<EventView>, count: Int,
        wire: UnsafeRawPointer, wireLength: Int, properties: UnsafeRawPointer, propertiesLength: Int,
        publisher: PortAddress, layout: WireLayout, qos: UInt8, isRetained: Bool, expiresAt: UInt64 = 0
    ) {
        self.topic = topic
        self.topicLength = topicLength
        self.events = events
        self.count = count
        self.wire = wire
        self.wireLength = wireLength
        self.properties = properties
        self.propertiesLength = propertiesLength
        self.publisher = publisher
        self.layout = layout
        self.qos = qos
        self.isRetained = isRetained
        self.expiresAt = expiresAt
        packing = nil
        owned = nil
        hash = 0
        known = nil
    }

    /// Event `index` as an owned one, shared by every port that asks during this turn. Not of a packed run: see
    /// ``Lane/unpacked(_:)``.
    public func event(_ index: Int) -> Event {
        if let known = owned?[index] { return Event(storage: known.takeUnretainedValue()) }
        let view = events[index]
        let event = Event(
            topic: topicBytes, properties: UnsafeRawBufferPointer(start: properties, count: propertiesLength),
            payload: UnsafeRawBufferPointer(start: view.payload, count: Int(view.payloadLength)), qos: qos,
            isRetained: isRetained, expiresAt: expiresAt, extensionLength: extensionLength,
            identity: identity == 0 ? 0 : identity &+ UInt64(truncatingIfNeeded: index))
        owned?[index] = Unmanaged.passRetained(event.storage)
        return event
    }
}

/// What an owned event knows of itself, in front of its bytes.
@usableFromInline struct EventHeader {
    var topicLength: Int32
    var propertiesLength: Int32
    var payloadLength: Int32
    var qos: UInt8
    var isRetained: Bool
    var extensionLength: UInt16
    var expiresAt: UInt64
    var identity: UInt64
}

/// The one allocation of an owned event.
@usableFromInline final class EventStorage: ManagedBuffer<EventHeader, UInt8> {}

/// An event that lives on, shared by reference. Immutable once made: topic, properties and payload in one allocation.
/// SAFETY: the storage is written only in `init`, before anybody else has the reference; read-only afterwards.
public struct Event: @unchecked Sendable {
    let storage: EventStorage

    init(storage: EventStorage) { self.storage = storage }

    /// Copies an event.
    public init(
        topic: UnsafeRawBufferPointer, properties: UnsafeRawBufferPointer, payload: UnsafeRawBufferPointer,
        qos: UInt8, isRetained: Bool, expiresAt: UInt64 = 0, extensionLength: UInt16 = 0, identity: UInt64 = 0
    ) {
        let count = topic.count + properties.count + payload.count
        let buffer = EventStorage.create(minimumCapacity: count) { _ in
            EventHeader(
                topicLength: Int32(topic.count), propertiesLength: Int32(properties.count),
                payloadLength: Int32(payload.count), qos: qos, isRetained: isRetained,
                extensionLength: extensionLength, expiresAt: expiresAt, identity: identity)
        }
        storage = unsafeDowncast(buffer, to: EventStorage.self)
        storage.withUnsafeMutablePointerToElements { elements in
            var place = UnsafeMutableRawPointer(elements)
            func take(_ part: UnsafeRawBufferPointer) {
                guard let base = part.baseAddress, part.count > 0 else { return }
                place.copyMemory(from: base, byteCount: part.count)
                place += part.count
            }
            take(topic)
            take(properties)
            take(payload)
        }
    }

    /// Topic, properties and payload, one after another. Valid while the event is.
    public var bytes: UnsafeRawPointer { storage.withUnsafeMutablePointerToElements { UnsafeRawPointer($0) } }
    /// Bytes of the topic.
    public var topicLength: Int { Int(storage.header.topicLength) }
    /// Bytes of the properties.
    public var propertiesLength: Int { Int(storage.header.propertiesLength) }
    /// Bytes of the payload.
    public var payloadLength: Int { Int(storage.header.payloadLength) }
    /// How many of the last bytes of the properties are of no use to MQTT; see ``EventProperties``.
    public var extensionLength: UInt16 { storage.header.extensionLength }
    /// Quality of service as published.
    public var qos: UInt8 { storage.header.qos }
    /// Whether it was published to be retained.
    public var isRetained: Bool { storage.header.isRetained }
    /// From when on nobody wants it any more, in the lane's milliseconds; 0 for never.
    public var expiresAt: UInt64 { storage.header.expiresAt }
    /// What tells it from all others in the mesh; see ``EventRun/identity``.
    public var identity: UInt64 { storage.header.identity }
    /// Whether its time is over.
    public func isExpired(at now: UInt64) -> Bool { expiresAt != 0 && expiresAt <= now }
    /// What the event counts for in a limit: its bytes and its own overhead.
    public var cost: Int { Self.cost(topicLength + propertiesLength + payloadLength) }
    /// What an event of so many bytes would count for.
    static func cost(_ bytes: Int) -> Int { bytes + 64 }
    /// The topic.
    public var topic: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: bytes, count: topicLength) }
    /// The properties, as ``EventProperties`` reads them.
    public var properties: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: bytes + topicLength, count: propertiesLength)
    }
    /// The payload.
    public var payload: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: bytes + topicLength + propertiesLength, count: payloadLength)
    }
    /// The same event with another identity.
    func identified(_ identity: UInt64) -> Event {
        Event(
            topic: topic, properties: properties, payload: payload, qos: qos, isRetained: isRetained,
            expiresAt: expiresAt, extensionLength: extensionLength, identity: identity)
    }
}
