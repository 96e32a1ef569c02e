/// Whether the session that a broker keeps has gone bad: pure, without a clock.
///
/// A mosquitto that was killed may count events of QoS 2 from before as under way for ever. When that makes as many as
/// it takes at once, it refuses each further one (0x97) and ends the connection. Waiting does not help then, nor does
/// connecting again; only another session does.
struct SessionDoubt {
    /// Failures in a row, and for how long at least, before a session is given up.
    private static let maxFailures = 5
    private static let minMilliseconds: UInt64 = 10_000

    private var failures = 0
    private var since: UInt64 = 0
    /// A session has been given up, and the broker has taken nothing since: it is not the session.
    private var isGivenUp = false

    /// The broker has taken a guaranteed event.
    mutating func acknowledged() { self = SessionDoubt() }

    /// The broker has refused the only guaranteed event that it had, or the connection has ended before it answered to
    /// any.
    /// - Parameter now: milliseconds.
    /// - Returns: whether the session should be given up.
    mutating func failed(_ now: UInt64) -> Bool {
        if failures == 0 { since = now }
        failures += 1
        guard !isGivenUp, failures >= Self.maxFailures, now - since >= Self.minMilliseconds else { return false }
        isGivenUp = true
        return true
    }
}
