/// What time it is. Tests bring a time of their own.
import Glibc

/// The two clocks: one that only goes forward, for limits and ages, and the calendar's, for what documents say.
public struct Clocks: Sendable {
    /// Nanoseconds since some moment in the past; never steps back.
    public var monotonicNanoseconds: @Sendable () -> UInt64
    /// Milliseconds since 1970.
    public var wallMilliseconds: @Sendable () -> Int64

    /// The system's.
    public static let system = Clocks(
        monotonicNanoseconds: {
            var time = timespec()
            clock_gettime(CLOCK_MONOTONIC, &time)
            return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
        },
        wallMilliseconds: {
            var time = timespec()
            clock_gettime(CLOCK_REALTIME, &time)
            return Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000
        })

    /// Other clocks.
    public init(
        monotonicNanoseconds: @escaping @Sendable () -> UInt64, wallMilliseconds: @escaping @Sendable () -> Int64
    ) {
        self.monotonicNanoseconds = monotonicNanoseconds
        self.wallMilliseconds = wallMilliseconds
    }
}
