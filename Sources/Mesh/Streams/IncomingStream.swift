/// What one origin sends to this node: what has been handed on, what has been settled, what waits for frames in front
/// of it. Decides; ``Streams`` speaks. Confined to the mesh's lane.
///
/// Up to ``cumulative`` everything is settled; up to ``delivered`` everything has been handed on, in order; beyond that
/// there are ``ranges`` of frames that wait.
final class IncomingStream {
    enum State: UInt8 {
        /// Handed on; the local queues have not all said that they have taken or refused it.
        case handedOn
        case settled
        /// A share without a member here: the origin chooses another, and sends a void for it.
        case refused
    }

    /// A frame that waits, or has waited.
    struct Frame {
        var counter: UInt64
        var flags: UInt8
        var sealed: [UInt8]
    }

    enum Arrival {
        /// The next one: to be handed on now.
        case next(UInt64)
        case duplicate
        case held
        case void
        /// The window or the memory does not allow it.
        case refused
    }

    let origin: NodeIndex
    /// The origin's life that the counters belong to.
    let epoch: UInt64
    /// Tells this state from others of the same origin.
    let generation: UInt32
    private let settings: StreamSettings
    private(set) var cumulative: UInt64 = 0
    private(set) var delivered: UInt64 = 0
    /// Of the frames behind ``cumulative`` up to ``delivered``.
    private var states = Ring<State>()
    private var refusals = 0
    private var waiting: [UInt64: Frame] = [:]
    /// Counters in ``waiting``, ascending, with gaps between them.
    private var ranges: [StreamAcknowledgement.Range] = []
    /// Bytes that wait.
    private(set) var heldBytes = 0
    /// The number of a probe that has no answer yet; 0 for none.
    var echo: UInt64 = 0
    /// Frames since the last acknowledgement, and when it is due; .max for not.
    var unacknowledged = 0
    var acknowledgeAt = UInt64.max
    /// Whether it is among those that an acknowledgement may be due to.
    var isListed = false
    /// When an acknowledgement was sent out of turn last.
    var hastenedAt: UInt64 = 0

    init(from origin: NodeIndex, epoch: UInt64, generation: UInt32, settings: StreamSettings) {
        self.origin = origin
        self.epoch = epoch
        self.generation = generation
        self.settings = settings
    }

    static func cost(_ count: Int) -> Int { count + 96 }

    /// Gaps in what has been received.
    var gaps: Int { ranges.count }

    /// The counter that 32 bits of it mean, close to what is being received.
    private func expand(_ counter: UInt32) -> UInt64? {
        let distance = Int64(Int32(bitPattern: counter &- UInt32(truncatingIfNeeded: delivered)))
        let full = Int64(bitPattern: delivered) + distance
        return full > 0 ? UInt64(full) : nil
    }

    /// A frame has arrived.
    /// - Parameters:
    ///   - mustWait: whether it must wait although it is the next one, because released ones have not been handed on.
    ///   - maxBytes: what may still wait, of all origins.
    func arrived(
        _ number: UInt32, flags: UInt8, _ sealed: UnsafeRawBufferPointer, mustWait: Bool, maxBytes: Int
    ) -> Arrival {
        guard let counter = expand(number), counter > cumulative else { return .duplicate }
        let isVoid = flags & StreamFlags.void != 0
        if counter <= delivered {
            guard isVoid, states[Int(counter - cumulative) - 1] == .refused else { return .duplicate }
            settle(counter, .settled)
            return .void
        }
        guard counter - cumulative <= UInt64(settings.windowFrames) else { return .refused }
        if counter == delivered + 1, isVoid || !mustWait {
            delivered = counter
            states.append(isVoid ? .settled : .handedOn)
            if isVoid { advance() }
            return isVoid ? .void : .next(counter)
        }
        guard waiting[counter] == nil else { return .duplicate }
        let cost = Self.cost(sealed.count)
        guard heldBytes + cost <= settings.maxHeldBytes, cost <= maxBytes else { return .refused }
        waiting[counter] = Frame(counter: counter, flags: flags, sealed: Array(sealed))
        heldBytes += cost
        insert(counter)
        return .held
    }

    /// The next frame that waited and need not wait any longer; it is being handed on, unless it is a void.
    func release() -> Frame? {
        guard let first = ranges.first, first.first == delivered + 1,
            let frame = waiting.removeValue(forKey: first.first)
        else { return nil }
        if first.first == first.last { ranges.removeFirst() } else { ranges[0].first += 1 }
        heldBytes -= Self.cost(frame.sealed.count)
        delivered += 1
        let isVoid = frame.flags & StreamFlags.void != 0
        states.append(isVoid ? .settled : .handedOn)
        if isVoid { advance() }
        return frame
    }

    private func insert(_ counter: UInt64) {
        // The first range that ends at the counter or beyond.
        var (low, high) = (0, ranges.count)
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].last < counter { low = middle + 1 } else { high = middle }
        }
        let joinsBefore = low > 0 && ranges[low - 1].last + 1 == counter
        let joinsAfter = low < ranges.count && ranges[low].first == counter + 1
        switch (joinsBefore, joinsAfter) {
        case (true, true):
            ranges[low - 1].last = ranges[low].last
            ranges.remove(at: low)
        case (true, false): ranges[low - 1].last = counter
        case (false, true): ranges[low].first = counter
        case (false, false): ranges.insert(StreamAcknowledgement.Range(first: counter, last: counter), at: low)
        }
    }

    /// The local queues have taken or refused what a frame carried, or there was nobody to take it.
    func settle(_ counter: UInt64, _ state: State) {
        guard counter > cumulative, counter <= delivered else { return }
        let index = Int(counter - cumulative) - 1
        let before = states[index]
        guard before != .settled else { return }
        if before == .refused { refusals -= 1 }
        if state == .refused { refusals += 1 }
        states[index] = state
        advance()
    }

    private func advance() {
        while states.first == .settled {
            _ = states.popFirst()
            cumulative += 1
        }
    }

    /// What the origin is told.
    func acknowledgement(ownEpoch: UInt64) -> StreamAcknowledgement {
        var said = StreamAcknowledgement(
            originEpoch: epoch, destinationEpoch: ownEpoch, cumulative: cumulative,
            windowFrames: UInt64(settings.windowFrames), windowBytes: UInt64(settings.windowBytes))
        said.echo = echo
        if refusals > 0 {
            noteRefusals(&said)
        } else if delivered > cumulative {
            said.ranges.append(StreamAcknowledgement.Range(first: cumulative + 1, last: delivered))
        }
        said.ranges += ranges.prefix(max(0, StreamAcknowledgement.maxRanges - said.ranges.count))
        return said
    }

    /// Refused frames are left out of the ranges: what has been received there is not what the origin will send.
    private func noteRefusals(_ said: inout StreamAcknowledgement) {
        var first = cumulative + 1
        for index in 0..<states.count where states[index] == .refused {
            let counter = cumulative + 1 + UInt64(index)
            if said.refusals.count < StreamAcknowledgement.maxRefusals { said.refusals.append(counter) }
            if counter > first, said.ranges.count < StreamAcknowledgement.maxRanges {
                said.ranges.append(StreamAcknowledgement.Range(first: first, last: counter - 1))
            }
            first = counter + 1
        }
        if first <= delivered, said.ranges.count < StreamAcknowledgement.maxRanges {
            said.ranges.append(StreamAcknowledgement.Range(first: first, last: delivered))
        }
    }

    /// Frees what waits.
    func discard() {
        waiting = [:]
        ranges = []
        heldBytes = 0
    }
}
