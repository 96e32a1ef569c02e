import Core

/// How far a request has come in that is not complete: what need not be looked at before more is there, and since when
/// its sender has been at it.
struct PartialRequest {
    /// Bytes that a request whose beginning is there has at least; nothing is looked at before they have come.
    var awaited = 0
    /// How far the end of an incomplete head has been looked for.
    private var searched = 0
    /// An incomplete head is parsed again when its end is there, or it has so many bytes: what comes byte by byte must
    /// not be parsed from its beginning each time.
    private var parseAgainAt = 0
    /// Whether its sender has been told to go on.
    var hasContinued = false
    /// When the first byte of a head, or of a body, came; 0 while there is none.
    private(set) var beganAt: UInt64 = 0
    /// Whether the head is complete.
    private(set) var isBody = false
    /// Bytes of the body: all of them if its head says how many, or those of the chunks so far.
    var bodyLength = 0

    /// Whether the head may be complete, or too long.
    mutating func isWorthParsing(_ bytes: UnsafeRawBufferPointer, atMost limit: Int) -> Bool {
        if bytes.count >= min(parseAgainAt, limit) || hasHeadEnd(bytes) { return true }
        searched = bytes.count
        return false
    }

    /// Whether an empty line is in what has come since the last look, or a line feed that ends no line and never will.
    private func hasHeadEnd(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var place = max(searched, 1)
        while place < bytes.count {
            if bytes[place] == 10 {
                if bytes[place - 1] != 13 { return true }
                if place >= 3, bytes[place - 2] == 10, bytes[place - 3] == 13 { return true }
            }
            place += 1
        }
        return false
    }

    /// So many bytes were parsed, and are not a whole head.
    mutating func headIsIncomplete(_ count: Int) {
        searched = count
        parseAgainAt = count * 2
    }

    /// The first bytes of the head are there.
    /// - Returns: whether that is news.
    mutating func begin(at now: UInt64) -> Bool {
        guard beganAt == 0 else { return false }
        beganAt = now
        return true
    }

    /// The body begins.
    /// - Parameter length: its bytes; 0 when they are not known yet.
    /// - Returns: whether that is news.
    mutating func beginBody(_ length: Int, at now: UInt64) -> Bool {
        guard !isBody else { return false }
        isBody = true
        beganAt = now
        bodyLength = length
        return true
    }
}
