/// What bounds the streams of a node.
struct StreamSettings {
    /// Frames and bytes of one stream that may be under way: numbered, and not settled by the destination.
    var windowFrames = 8_192
    var windowBytes = 8 << 20
    /// Bytes that wait for one destination. Beyond that publishers are held; twice as much is never taken.
    var maxStreamBytes = 64 << 20
    /// How long events wait for a destination without a route, milliseconds.
    var patience: UInt64 = 30_000
    /// An acknowledgement waits so long for others, milliseconds, and for so many frames.
    var acknowledgeDelay: UInt64 = 5
    var acknowledgeFrames = 32
    /// Bytes of frames of one origin, and of all, that wait for others in front of them.
    var maxHeldBytes = 8 << 20
    var maxHeldBytesOfAll = 64 << 20

    init() {}
}

/// What streams have counted.
struct StreamCounters: Equatable {
    /// Frames sent, sent again among them, and those that carried nothing.
    var framesSent = 0
    var framesResent = 0
    var voidsSent = 0
    var probesSent = 0
    var acknowledgementsSent = 0
    var acknowledgementsReceived = 0
    /// Acknowledgements and probes that belong to another life of either end.
    var staleFrames = 0
    /// Events given up because their destination was unreachable: beyond its share, or for too long.
    var droppedUnreachable = 0
    /// Events whose time was over before they were sent or sent again.
    var droppedExpired = 0
    /// Events not taken for a destination because twice its share was full.
    var refused = 0
    /// Publishers held.
    var held = 0
    /// Events numbered anew for another life of their destination.
    var renumbered = 0
    /// Frames received that had been before.
    var duplicates = 0
    /// Frames received that had to wait for others.
    var heldFrames = 0
    /// Frames received that the window or the memory for those that wait did not allow.
    var beyondWindow = 0
    /// Shares that the destination had no member for.
    var noMember = 0
}
