/// How long to wait before something is tried again: pure arithmetic.

/// A wait that doubles from attempt to attempt, up to a highest one, and is shortened a little by chance, so that
/// those who failed together do not come back together.
public struct Backoff: Equatable, Sendable {
    /// Milliseconds after the first attempt.
    public var first: UInt64
    /// The most milliseconds.
    public var highest: UInt64

    /// The part of a wait that chance may take off: a fifth.
    private static let jitterDivisor: UInt64 = 5

    /// Makes one.
    public init(first: UInt64, highest: UInt64) {
        self.first = first
        self.highest = highest
    }

    /// Milliseconds between attempt number `attempt` (from 1) and the next.
    /// - Parameter random: any number; each gives one of the waits that are possible.
    public func delay(after attempt: Int, random: UInt64) -> UInt64 {
        let doublings = max(0, attempt - 1)
        var wait = highest
        if doublings < first.leadingZeroBitCount { wait = min(highest, first << UInt64(doublings)) }
        return wait - random % (wait / Self.jitterDivisor + 1)
    }
}
