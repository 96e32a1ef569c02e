/// Versions of retained events, the same on all nodes, and the clock that makes them.

/// Which of two values of a topic is the newer one, wherever they were published: the one with the later time, and of
/// equal times the one with the greater writer.
public struct EventVersion: Hashable, Comparable, Sendable, BitwiseCopyable {
    /// Milliseconds since 1970 in the upper 48 bits, in the lower 16 a count that keeps versions of a millisecond
    /// apart. The sum of both only grows.
    public var time: UInt64
    /// The node that gave the version: the upper half of its id.
    public var writer: UInt64

    /// Makes a version from its parts.
    @inlinable
    public init(time: UInt64, writer: UInt64) {
        self.time = time
        self.writer = writer
    }

    /// No version yet. Older than every other.
    public static let none = EventVersion(time: 0, writer: 0)

    /// No clock shows this: what comes with it was not made by a node. Far enough below the end that counting on from
    /// anything smaller cannot overflow.
    static let maxTime: UInt64 = 1 << 62

    /// Milliseconds since 1970 when it was made, by the clock of who made it.
    @inlinable public var milliseconds: UInt64 { time >> 16 }

    /// The version of an event of a run whose first has this one: each has its own.
    @inlinable public func advanced(by events: Int) -> EventVersion {
        EventVersion(time: time &+ UInt64(truncatingIfNeeded: events), writer: writer)
    }

    /// The order of writing.
    @inlinable public static func < (a: EventVersion, b: EventVersion) -> Bool {
        a.time != b.time ? a.time < b.time : a.writer < b.writer
    }
}

/// A hybrid logical clock: never behind the wall clock, never back, never behind what it has heard of, but for times
/// that are too far ahead.
struct RetainedClock {
    /// How far another node's clock may be ahead of this one's, in milliseconds. Beyond it this clock does not follow;
    /// a topic's next version is greater than its last one all the same, see `next(_:after:)`.
    static let maxAhead: UInt64 = 60_000

    private let writer: UInt64
    private let wallClock: @Sendable () -> UInt64
    private var last: UInt64 = 0
    /// Versions heard that were too far ahead.
    private(set) var clamped: UInt64 = 0

    /// - Parameter wallClock: milliseconds since 1970; called on any thread.
    init(writer: UInt64, wallClock: @escaping @Sendable () -> UInt64) {
        self.writer = writer
        self.wallClock = wallClock
    }

    private var wall: UInt64 { min(wallClock(), EventVersion.maxTime >> 17) }

    /// The version of the first of `count` events; the others' follow it.
    /// - Parameter known: the time of what the topic has now. What is written by somebody who has seen that is newer.
    mutating func next(_ count: Int, after known: UInt64) -> EventVersion {
        let own = max(wall << 16, last &+ 1)
        last = own &+ UInt64(truncatingIfNeeded: count &- 1)
        return EventVersion(time: max(own, known &+ 1), writer: writer)
    }

    /// Another node's version has been taken over.
    mutating func heard(_ time: UInt64) {
        let limit = (wall &+ Self.maxAhead) << 16
        if time > limit { clamped &+= 1 }
        last = max(last, min(time, limit))
    }
}
