/// What a bridge makes of the events that come and go: topics, properties, and which of them stay where they are.
/// Without a socket, a clock or a thread of its own.
import CMosquitto
import Core
import Glibc
import Synchronization

/// Used on the bridge's thread only.
struct BridgeTraffic {
    /// Why an event does not go out.
    struct Drop: Error {
        var reason: BridgeCounts.Reason
    }

    private let map: BridgeMap
    private let limits: Limits
    private let isV5: Bool
    private let maxHops: Int
    /// What the broker and this node's mesh are called in trails.
    private let broker: [UInt8]
    private let place: [UInt8]
    /// Nil where the broker does not send back what it was sent.
    private let echoes: Echoes?
    /// What has come in and was not taken yet.
    private(set) var events: [Event] = []
    private(set) var eventBytes = 0
    private var counts = BridgeCounts()

    init(_ definition: BridgeDefinition, map: BridgeMap, limits: Limits, place: String, echoes: Echoes) {
        self.map = map
        self.limits = limits
        isV5 = definition.version == .v5
        maxHops = definition.maxHops
        broker = Array(definition.broker.utf8)
        self.place = Array(place.utf8)
        let goesBothWays = map.entries.contains(where: \.isIn) && map.entries.contains(where: \.isOut)
        self.echoes = !isV5 && goesBothWays ? echoes : nil
    }

    // MARK: In

    /// Takes what libmosquitto hands out. Nothing in it has been checked but that topic and properties are UTF-8.
    mutating func take(_ arrival: RemoteClient.Arrival, now: UInt64) {
        let message = arrival.message.pointee
        guard let topic = message.topic else { return }
        let remote = UnsafeRawBufferPointer(start: topic, count: strlen(topic))
        let payload = UnsafeRawBufferPointer(start: message.payload, count: max(0, Int(message.payloadlen)))
        take(
            remote, payload, qos: UInt8(clamping: message.qos), isRetained: message.retain,
            ArrivedProperties(arrival.properties), now: now)
    }

    /// The same, taken apart.
    mutating func take(
        _ remote: UnsafeRawBufferPointer, _ payload: UnsafeRawBufferPointer, qos: UInt8, isRetained: Bool,
        _ properties: ArrivedProperties, now: UInt64
    ) {
        let isEcho = echoes?.memory.withLock { $0.take(remote, payload, now: now) } ?? false
        if isEcho { return counts.loopsIn += 1 }
        guard remote.count + payload.count <= limits.maxPacketBytes else { return counts.dropIn(.tooLarge) }
        guard let mapped = map.incoming(remote) else { return counts.dropIn(.unmatched) }
        let isTopic = mapped.topic.withUnsafeBytes { Topic.isValid($0, limits: limits) }
        guard isTopic, mapped.topic.first != UInt8(ascii: "$") else { return counts.dropIn(.badTopic) }
        guard !properties.isText || Topic.isUTF8(payload) else { return counts.dropIn(.badPayload) }
        if properties.expirySeconds == 0 { return counts.dropIn(.expired) }
        var trail = properties.trail
        switch trail.verdict(to: place, maxHops: maxHops) {
        case .goes: break
        case .returns: return counts.loopsIn += 1
        case .tooFar: return counts.dropIn(.tooFar)
        }
        trail.add(broker)
        var writer = properties.writer
        if !properties.responseTopic.isEmpty {
            let topic = properties.responseTopic.withUnsafeBytes { map.incoming(responseTopic: $0, of: remote) }
            let isTopic = topic.withUnsafeBytes { Topic.isValid($0, limits: limits) }
            guard isTopic else { return counts.dropIn(.badProperty) }
            writer.add(.responseTopic, topic)
        }
        guard writer.addUser(BridgeTrail.nameBytes, trail.value) else { return counts.dropIn(.tooFar) }
        let (bytes, extensionLength) = writer.finish()
        guard mapped.topic.count + bytes.count + payload.count <= limits.maxPacketBytes else {
            return counts.dropIn(.tooLarge)
        }
        let expiresAt = properties.expirySeconds.map { now + UInt64($0) * 1_000 } ?? 0
        let event = mapped.topic.withUnsafeBytes { topic in
            bytes.withUnsafeBytes { properties in
                Event(
                    topic: topic, properties: properties, payload: payload, qos: min(qos, 2), isRetained: isRetained,
                    expiresAt: expiresAt, extensionLength: extensionLength)
            }
        }
        events.append(event)
        eventBytes += event.cost
    }

    /// What has come in since the last call.
    mutating func takeEvents() -> [Event] {
        defer { (events, eventBytes) = ([], 0) }
        return events
    }

    /// Adds what has been counted since the last call.
    mutating func takeCounts(into total: inout BridgeCounts) {
        for index in counts.droppedIn.indices { total.droppedIn[index] += counts.droppedIn[index] }
        total.loopsIn += counts.loopsIn
        counts = BridgeCounts()
    }

    // MARK: Out

    /// Hands an event to libmosquitto.
    /// - Returns: libmosquitto's number for it and the quality of service that it goes with.
    mutating func publish(
        _ departure: BridgeWire.Departure, with client: RemoteClient, now: UInt64
    ) -> Result<(Int32, UInt8), Drop> {
        let event = departure.event
        guard !event.isExpired(at: now) else { return .failure(Drop(reason: .expired)) }
        guard let mapped = map.outgoing(event.topic) else { return .failure(Drop(reason: .unmatched)) }
        let isSendable = mapped.topic.withUnsafeBytes {
            $0.count <= 0xFFFF && !$0.contains(0) && $0.first != UInt8(ascii: "$")
        }
        let topic = mapped.topic.withUnsafeBytes { DepartingProperties.terminated($0) }
        guard isSendable, let topic else { return .failure(Drop(reason: .badTopic)) }
        let qos = min(departure.qos, mapped.qos, client.maxQoS)
        let outcome: Result<Int32, RemoteClient.Unsendable>
        if isV5 {
            var trail = BridgeTrail(event.properties)
            trail.add(place)
            let left = event.expiresAt == 0 ? nil : UInt32(clamping: (event.expiresAt - now + 999) / 1_000)
            let properties = DepartingProperties(event.properties, expirySeconds: left, trail: trail) {
                map.outgoing(responseTopic: $0, of: event.topic)
            }
            guard !properties.hasFailed else { return .failure(Drop(reason: .badProperty)) }
            outcome = client.publish(
                topic: topic, payload: event.payload, qos: qos, isRetained: departure.isRetained, properties.list,
                propertyBytes: properties.bytes)
        } else {
            outcome = client.publish(
                topic: topic, payload: event.payload, qos: qos, isRetained: departure.isRetained, nil,
                propertyBytes: 0)
        }
        switch outcome {
        case .success(let identifier):
            mapped.topic.withUnsafeBytes { topic in
                guard let echoes, map.comesIn(topic) else { return }
                echoes.memory.withLock { $0.remember(topic, event.payload, now: now) }
            }
            return .success((identifier, qos))
        case .failure(let reason): return .failure(Drop(reason: Self.reason(reason)))
        }
    }

    private static func reason(_ unsendable: RemoteClient.Unsendable) -> BridgeCounts.Reason {
        switch unsendable {
        case .tooLarge, .noMemory: .tooLarge
        case .badTopic: .badTopic
        case .badProperty: .badProperty
        case .lost: .disconnected
        }
    }
}
