/// Which refusals of a principal have been recorded lately, so that a client that tries again and again does not fill
/// the records. Confined to the principal's lane.
final class RecentRefusals {
    private static let capacity = 32
    /// For how long the same refusal is not recorded again, in milliseconds.
    static let span: UInt64 = 10_000

    private let key: UInt64
    /// Hash of the refusal and when it was recorded.
    private var known: [(hash: UInt64, at: UInt64)] = []

    init(key: UInt64) { self.key = key }

    /// Whether a refusal has not been recorded within the span. While more different ones than there is room for have
    /// been, further ones are not recorded either.
    func isNew(_ action: AccessRule.Action, _ object: UnsafeRawBufferPointer, now: UInt64) -> Bool {
        var hash = key ^ UInt64(action.rawValue.utf8.first ?? 0) << 8 ^ UInt64(action.rawValue.utf8.count)
        if let base = object.baseAddress { hash = hashBytes(base, object.count, key: hash) }
        if known.contains(where: { $0.hash == hash && now &- $0.at < Self.span }) { return false }
        if known.count == Self.capacity { known.removeAll { now &- $0.at >= Self.span } }
        guard known.count < Self.capacity else { return false }
        known.removeAll { $0.hash == hash }
        known.append((hash, now))
        return true
    }
}
