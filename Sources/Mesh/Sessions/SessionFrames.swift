/// Frames of type session, `docs/wire-format.md`: a kind, then what stands here. Numbers are final.
enum SessionFrame: UInt8 {
    /// To the home: request u64, hash, known count u64, age u32: milliseconds since the client came.
    case claim = 1
    /// From the home: request u64, count u64, previous holder (u8 whether there is one, node id).
    case granted = 2
    /// To the holder: request u64, count u64, mode u8, user (u8 whether there is one, text), client id.
    case take = 3
    /// From it, when there is nothing to send, or from the home, when a later claim holds (`stale`): request u64,
    /// ``SessionStatus`` u8, node id for `elsewhere`.
    case answer = 4
    /// To the holder: request u64; the new node has subscribed and wants the contents.
    case fetch = 5
    /// Request u64: the new node has the session.
    case done = 6
    /// Request u64: the old node has heard it.
    case doneHeard = 7
    /// Request u64: nothing comes of the move.
    case abort = 8
    /// A part of a transfer: request u64, ``SessionPart`` u8, serial u32, total u32, offset u32, bytes.
    case part = 9
    /// What has arrived of it: request u64, ``SessionPart`` u8, serial u32, bytes u32.
    case partHeard = 10
    /// Holder to home: hash and count u64 of sessions.
    case announce = 11
    /// Home to a former holder: hash, count u64, node id of who came later.
    case superseded = 12
    /// Holder to home: hash and count u64 of sessions that have ended.
    case release = 13
}

/// Why there is nothing to send.
enum SessionStatus: UInt8 {
    /// There is no session, or it has ended now.
    case nothing = 0
    /// It is another user's.
    case refused = 1
    /// Somebody else has claimed the client id since.
    case stale = 2
    /// Too many are moving; ask again.
    case busy = 3
    /// It has gone, or is, at another node.
    case elsewhere = 4
    /// There is more in it than may move.
    case tooLarge = 5
}

/// What a transfer has.
enum SessionPart: UInt8 {
    /// What the new node needs to subscribe.
    case outline = 0
    /// What was in the session when the new node had subscribed.
    case contents = 1
    /// What came to the old node afterwards.
    case tail = 2
}

extension WireWriter {
    /// Begins a frame of type session.
    static func session(_ kind: SessionFrame, isBulk: Bool = false, capacity: Int = 64) -> WireWriter {
        var writer = WireWriter(.session, isBulk ? .bulk : .control, capacity: capacity)
        writer.u8(kind.rawValue)
        return writer
    }

    mutating func client(_ hash: ClientHash) {
        u64(hash.high)
        u64(hash.low)
    }

    mutating func optional(_ node: NodeID?) {
        u8(node == nil ? 0 : 1)
        nodeID(node ?? NodeID(high: 0, low: 0))
    }
}

extension WireReader {
    mutating func client() -> ClientHash {
        let high = u64()
        return ClientHash(high: high, low: u64())
    }

    /// The count of a claim: milliseconds since 1970, or a few more. Others count on from it.
    mutating func claimCount() -> UInt64 {
        let count = u64()
        if count > 1 << 62 { refuse() }
        return count
    }

    mutating func optionalNode() -> NodeID? {
        let isThere = u8()
        if isThere > 1 { refuse() }
        let id = nodeID()
        return isThere == 1 ? id : nil
    }

    mutating func optionalText(max: Int) -> String? {
        switch u8() {
        case 0: return nil
        case 1: return text(max: max)
        default:
            refuse()
            return nil
        }
    }
}
