/// Whether the session that a broker keeps has gone bad: pure, without a clock.
///
/// A mosquitto that was killed may count events of QoS 2 from before as under way for ever. When that makes as many as
/// it takes at once, it refuses each further one (0x97) and ends the connection. Waiting does not help then, nor does
/// connecting again; only another session does.
struct SessionDoubt {
    /// Failures in a row, and for how long at least, before a session is given up.
    private static let maxFailures = 5
    static let minMilliseconds: UInt64 = 10_000

    private let patience: UInt64
    private var failures = 0
    private var since: UInt64 = 0
    /// A session has been given up, and the broker has taken nothing since: it is not the session.
    private var isGivenUp = false
    /// The broker has said that it has too much. Connections end for other reasons as well: one event that a broker
    /// does not bear, a broker that is started over and over. A session is worth too much to give it up for those.
    private var hasSeenRefusal = false

    /// - Parameter patience: milliseconds between the first failure and the last, at least.
    init(patience: UInt64 = minMilliseconds) { self.patience = patience }

    /// The broker has taken a guaranteed event.
    mutating func acknowledged() { self = SessionDoubt(patience: patience) }

    /// The broker has refused an event, or ended the connection, because it has as many as it takes.
    mutating func refused() { hasSeenRefusal = true }

    /// The broker has refused the only guaranteed event that it had, or the connection has ended before it answered to
    /// any.
    /// - Parameter now: milliseconds.
    /// - Returns: whether the session should be given up.
    mutating func failed(_ now: UInt64) -> Bool {
        guard hasSeenRefusal else { return false }
        if failures == 0 { since = now }
        failures += 1
        guard !isGivenUp, failures >= Self.maxFailures, now - since >= patience else { return false }
        isGivenUp = true
        return true
    }
}
