/// What a link is sent in one class: frames in order, those that wait and those that were sent and not acknowledged.
/// When the link goes down both go another way. Bounded in bytes. Confined to the mesh's lane.
///
/// Frames lie whole in chunks, first the sent ones, then those that wait, so that what is sent is sent from where it
/// lies.
struct LinkQueue {
    private struct Chunk {
        var base: UnsafeMutableRawPointer
        var capacity: Int
        /// The first byte that is still of use, the first not sent, and the end.
        var start = 0
        var sent = 0
        var end = 0
        /// When the last frame was put in.
        var filledAt: UInt64 = 0
    }

    private static let chunkSize = 64 << 10

    private var chunks: [Chunk] = []
    /// Chunks in front of this one have nothing to send.
    private var sending = 0
    private var spare: UnsafeMutableRawPointer?
    private let maxBytes: Int
    /// Bytes held by chunks.
    private(set) var heldBytes = 0
    /// Bytes that wait.
    private(set) var waitingBytes = 0
    /// Sent since the connection was made, and acknowledged or given up of that.
    private(set) var sentTotal: UInt64 = 0
    private var releasedTotal: UInt64 = 0
    /// What the neighbour says that it has taken.
    private(set) var acknowledgedTotal: UInt64 = 0
    /// Frames given up because there was no room.
    private(set) var dropped: UInt64 = 0

    init(maxBytes: Int) { self.maxBytes = maxBytes }

    /// Gives all memory back.
    mutating func removeAll() {
        for chunk in chunks { chunk.base.deallocate() }
        spare?.deallocate()
        spare = nil
        chunks = []
        (sending, heldBytes, waitingBytes) = (0, 0, 0)
    }

    var isEmpty: Bool { waitingBytes == 0 }
    /// Bytes sent and not acknowledged.
    var unacknowledged: Int { Int(sentTotal - releasedTotal) }

    /// Room for a frame of `size` bytes at the end; the caller fills it and then calls ``commit(_:)``. To make room
    /// what was sent longest ago is forgotten first, then what has waited longest is dropped and counted.
    mutating func reserve(_ size: Int) -> UnsafeMutableRawPointer {
        if let last = chunks.last, last.capacity - last.end >= size { return last.base + last.end }
        while heldBytes + max(size, Self.chunkSize) > maxBytes, !chunks.isEmpty { giveUpFirst() }
        return addChunk(size)
    }

    mutating func commit(_ size: Int, now: UInt64) {
        chunks[chunks.count - 1].end += size
        chunks[chunks.count - 1].filledAt = now
        waitingBytes += size
    }

    private mutating func addChunk(_ size: Int) -> UnsafeMutableRawPointer {
        let capacity = max(size, Self.chunkSize)
        let base: UnsafeMutableRawPointer
        if capacity == Self.chunkSize, let spare {
            base = spare
            self.spare = nil
        } else {
            base = .allocate(byteCount: capacity, alignment: 16)
        }
        chunks.append(Chunk(base: base, capacity: capacity))
        heldBytes += capacity
        return base
    }

    /// The first chunk goes, with what is in it.
    private mutating func giveUpFirst() {
        let chunk = chunks[0]
        releasedTotal += UInt64(chunk.sent - chunk.start)
        waitingBytes -= chunk.end - chunk.sent
        var offset = chunk.sent
        while offset < chunk.end {
            dropped += 1
            offset += max(FrameHeader(chunk.base + offset).length, FrameHeader.size)
        }
        removeFirst()
    }

    private mutating func removeFirst() {
        let chunk = chunks.removeFirst()
        heldBytes -= chunk.capacity
        if chunk.capacity == Self.chunkSize, spare == nil { spare = chunk.base } else { chunk.base.deallocate() }
        sending = max(0, sending - 1)
    }

    /// Whole frames that wait, at most about `max` bytes of them but at least one; empty when none waits. They count as
    /// sent. Valid until the queue changes.
    mutating func next(max: Int) -> UnsafeRawBufferPointer {
        while sending < chunks.count, chunks[sending].sent == chunks[sending].end, sending < chunks.count - 1 {
            sending += 1
        }
        guard sending < chunks.count else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        let chunk = chunks[sending]
        var count = chunk.end - chunk.sent
        if count > max {
            count = 0
            while count < max {
                let length = FrameHeader(chunk.base + chunk.sent + count).length
                if count > 0, count + length > max { break }
                count += length
            }
        }
        guard count > 0 else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        chunks[sending].sent += count
        waitingBytes -= count
        sentTotal += UInt64(count)
        return UnsafeRawBufferPointer(start: chunk.base + chunk.sent, count: count)
    }

    /// The neighbour has taken that many bytes since the connection was made.
    /// - Returns: false when it says more than it was sent.
    mutating func acknowledge(_ total: UInt64) -> Bool {
        guard total <= sentTotal else { return false }
        acknowledgedTotal = max(acknowledgedTotal, total)
        guard total > releasedTotal else { return true }
        var left = Int(total - releasedTotal)
        releasedTotal = total
        while left > 0, let chunk = chunks.first {
            let part = min(left, chunk.sent - chunk.start)
            chunks[0].start += part
            left -= part
            guard chunks[0].start == chunks[0].end else { break }
            if chunks.count > 1 || chunk.capacity > Self.chunkSize {
                removeFirst()
            } else {
                // The only chunk is used again from its beginning.
                (chunks[0].start, chunks[0].sent, chunks[0].end) = (0, 0, 0)
            }
        }
        return true
    }

    /// Drops frames that have waited since before a time, those of a chunk together: a slow link is for what is new.
    mutating func dropWaiting(since time: UInt64) {
        for place in sending..<max(sending, chunks.count - 1) where chunks[place].filledAt < time {
            let chunk = chunks[place]
            var offset = chunk.sent
            while offset < chunk.end {
                dropped += 1
                offset += max(FrameHeader(chunk.base + offset).length, FrameHeader.size)
            }
            waitingBytes -= chunk.end - chunk.sent
            chunks[place].end = chunk.sent
        }
    }

    /// Every frame that was not acknowledged, in order; those that were sent come first.
    func forEachFrame(_ body: (UnsafeRawBufferPointer) -> Void) {
        for chunk in chunks {
            var offset = chunk.start
            while offset < chunk.end {
                let length = FrameHeader(chunk.base + offset).length
                guard length >= FrameHeader.size, chunk.end - offset >= length else { break }
                body(UnsafeRawBufferPointer(start: chunk.base + offset, count: length))
                offset += length
            }
        }
    }
}
