import Core

/// The address in `reply-to` as the topic that other protocols answer to.
enum ReplyAddress {
    private static let limits = Limits()
    private static let topics: [StaticString] = ["topic://", "temp-topic://"]
    private static let queues: [StaticString] = ["queue://", "temp-queue://", "/queue/", "/queues/", "/exchanges/"]
    private static let schemes: [StaticString] = ["amqp://", "amqps://"]

    /// The topic; nil for a queue, and for what no client may publish to.
    static func topic(_ address: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        var rest = address
        if let scheme = schemes.first(where: { MediaText.matches(rest, $0) }) {
            rest = rest.from(scheme.utf8CodeUnitCount)
            guard let slash = rest.firstIndex(of: UInt8(ascii: "/")) else { return nil }
            rest = rest.from(slash + 1)
        }
        if let prefix = topics.first(where: { MediaText.matches(rest, $0) }) {
            rest = rest.from(prefix.utf8CodeUnitCount)
        } else if queues.contains(where: { MediaText.matches(rest, $0) }) {
            return nil
        }
        return Topic.isValid(rest, limits: limits) ? rest : nil
    }
}
