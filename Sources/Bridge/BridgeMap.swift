/// How topics change on their way across: pure functions.
import Core

/// The topics of a bridge, compiled. Of several entries that match a topic the first counts.
struct BridgeMap: Sendable, Equatable {
    /// One entry.
    struct Entry: Sendable, Equatable {
        /// The filter with the prefix, at this node.
        var local: TopicFilter
        /// The same at the broker.
        var remote: TopicFilter
        var localPrefix: [UInt8]
        var remotePrefix: [UInt8]
        /// The highest quality of service.
        var qos: UInt8
        var isIn: Bool
        var isOut: Bool
    }

    /// A topic at the other side.
    struct Mapped: Equatable {
        var topic: [UInt8]
        /// The highest quality of service.
        var qos: UInt8
    }

    let entries: [Entry]

    init(_ entries: [Entry]) { self.entries = entries }

    /// What an event of this node is published as at the broker; nil when it does not go there.
    func outgoing(_ topic: UnsafeRawBufferPointer) -> Mapped? {
        for entry in entries where entry.isOut && entry.local.matches(topic) {
            guard let mapped = Self.exchange(topic, entry.localPrefix, entry.remotePrefix) else { continue }
            return Mapped(topic: mapped, qos: entry.qos)
        }
        return nil
    }

    /// What an event of the broker is published as at this node; nil when it was not asked for.
    func incoming(_ topic: UnsafeRawBufferPointer) -> Mapped? {
        for entry in entries where entry.isIn && entry.remote.matches(topic) {
            guard let mapped = Self.exchange(topic, entry.remotePrefix, entry.localPrefix) else { continue }
            return Mapped(topic: mapped, qos: entry.qos)
        }
        return nil
    }

    /// Whether what is published at the broker comes in.
    func comesIn(_ topic: UnsafeRawBufferPointer) -> Bool {
        entries.contains { $0.isIn && $0.remote.matches(topic) }
    }

    /// Where a responder at the broker sends the answer to a request of this node, which waits for it at `topic`: by
    /// the entry that the answer comes in by, else by that of the request, else where it is.
    func outgoing(responseTopic topic: UnsafeRawBufferPointer, of request: UnsafeRawBufferPointer) -> [UInt8] {
        for entry in entries where entry.isIn && entry.local.matches(topic) {
            if let mapped = Self.exchange(topic, entry.localPrefix, entry.remotePrefix) { return mapped }
        }
        for entry in entries where entry.isOut && entry.local.matches(request) {
            if let mapped = Self.exchange(topic, entry.localPrefix, entry.remotePrefix) { return mapped }
        }
        return Array(topic)
    }

    /// Where a responder at this node sends the answer to a request of the broker's; likewise.
    func incoming(responseTopic topic: UnsafeRawBufferPointer, of request: UnsafeRawBufferPointer) -> [UInt8] {
        for entry in entries where entry.isOut && entry.remote.matches(topic) {
            if let mapped = Self.exchange(topic, entry.remotePrefix, entry.localPrefix) { return mapped }
        }
        for entry in entries where entry.isIn && entry.remote.matches(request) {
            if let mapped = Self.exchange(topic, entry.remotePrefix, entry.localPrefix) { return mapped }
        }
        return Array(topic)
    }

    /// Puts one prefix in the place of another. A filter `plant/#` matches `plant` as well: where both prefixes end
    /// with a `/`, that is the other's parent.
    static func exchange(_ topic: UnsafeRawBufferPointer, _ prefix: [UInt8], _ other: [UInt8]) -> [UInt8]? {
        if topic.starts(with: prefix) {
            let mapped = other + topic[prefix.count...]
            return mapped.isEmpty ? nil : mapped
        }
        let slash = UInt8(ascii: "/")
        guard prefix.last == slash, other.last == slash, other.count > 1, topic.elementsEqual(prefix.dropLast()) else {
            return nil
        }
        return Array(other.dropLast())
    }
}
