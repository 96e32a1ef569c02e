/// How long to wait before an event is tried again: pure arithmetic.

/// A wait that doubles from attempt to attempt, up to a highest one, and is shortened a little by chance, so that
/// webhooks that failed together do not come back together.
struct Backoff: Equatable, Sendable {
    /// Milliseconds after the first attempt.
    var first: UInt64
    /// The most milliseconds.
    var highest: UInt64

    /// The part of a wait that chance may take off: a fifth.
    static let jitterDivisor: UInt64 = 5

    /// Milliseconds between attempt number `attempt` (from 1) and the next.
    /// - Parameter random: any number; each gives one of the waits that are possible.
    func delay(after attempt: Int, random: UInt64) -> UInt64 {
        let doublings = max(0, attempt - 1)
        var wait = highest
        if doublings < first.leadingZeroBitCount { wait = min(highest, first << UInt64(doublings)) }
        return wait - random % (wait / Self.jitterDivisor + 1)
    }
}
