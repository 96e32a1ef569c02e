/// The destination's side of streams.
extension Streams {
    /// A frame that is to be handed on, and settled with this afterwards.
    struct Delivery: Equatable, BitwiseCopyable {
        var origin: NodeIndex
        var counter: UInt64
        fileprivate var generation: UInt32
    }

    /// What to do with a frame that has arrived.
    enum Arrival: Equatable {
        /// Hand it on, then ask ``Streams/take()``, and call ``Streams/settled(_:hasMember:)`` when its time has come.
        case deliver(Delivery)
        /// It has been before.
        case duplicate
        /// Others in front of it are missing: it is kept.
        case held
        /// It carries nothing.
        case void
        /// It belongs to another life of either node, or there is no room for it now.
        case refused
    }

    /// A frame of type `streamData` with this node among its destinations has arrived. Whatever it was, frames that
    /// waited may be ready then: ``take()`` is to be called until it returns nil, before the next frame is.
    /// - Parameter destination: this node's entry.
    func arrived(from origin: NodeIndex, _ frame: DataFrame, _ destination: Destination) -> Arrival {
        arrived(
            from: origin, originEpoch: frame.originEpoch, destination, flags: frame.header.flags, frame.sealed)
    }

    /// The same of a frame's parts.
    func arrived(
        from origin: NodeIndex, originEpoch: UInt64, _ destination: Destination, flags: UInt8,
        _ sealed: UnsafeRawBufferPointer
    ) -> Arrival {
        checkEpoch()
        guard origin != NodeTable.own, destination.epochTag == Destination.tag(ofEpoch: ownEpoch),
            let stream = stream(from: origin, epoch: originEpoch)
        else {
            counters.staleFrames += 1
            return .refused
        }
        let (bytes, gaps) = (stream.heldBytes, stream.gaps)
        let arrival = stream.arrived(
            destination.counter, flags: flags, sealed, mustWait: !released.isEmpty,
            maxBytes: settings.maxHeldBytesOfAll - heldBytes)
        heldBytes += stream.heldBytes - bytes
        stream.unacknowledged += 1
        var isUrgent = stream.unacknowledged >= settings.acknowledgeFrames
        if stream.gaps > gaps, stream.hastenedAt != plane.now {
            // The origin should know soon what is missing.
            stream.hastenedAt = plane.now
            isUrgent = true
        }
        #if DEBUG
            if plane.sabotage.contains(.streamDoubled), case .duplicate = arrival {
                return .deliver(
                    Delivery(
                        origin: stream.origin, counter: UInt64(destination.counter), generation: stream.generation))
            }
        #endif
        let answer = translate(arrival, stream)
        releaseFrames(of: stream)
        if isUrgent { acknowledge(stream) } else { acknowledgeLater(stream) }
        return answer
    }

    private func translate(_ arrival: IncomingStream.Arrival, _ stream: IncomingStream) -> Arrival {
        switch arrival {
        case .next(let counter):
            return .deliver(Delivery(origin: stream.origin, counter: counter, generation: stream.generation))
        case .held:
            counters.heldFrames += 1
            return .held
        case .duplicate:
            counters.duplicates += 1
            return .duplicate
        case .void: return .void
        case .refused:
            counters.beyondWindow += 1
            return .refused
        }
    }

    private func releaseFrames(of stream: IncomingStream) {
        while let frame = stream.release() {
            let cost = IncomingStream.cost(frame.sealed.count)
            if frame.flags & StreamFlags.void != 0 {
                heldBytes -= cost
            } else {
                let delivery = Delivery(
                    origin: stream.origin, counter: frame.counter, generation: stream.generation)
                released.append((delivery, frame))
            }
        }
    }

    /// The next frame that waited and is to be handed on.
    func take() -> (delivery: Delivery, flags: UInt8, sealed: [UInt8])? {
        guard let next = released.popFirst() else { return nil }
        heldBytes -= IncomingStream.cost(next.frame.sealed.count)
        return (next.delivery, next.frame.flags, next.frame.sealed)
    }

    /// All local queues have taken or refused what a frame carried.
    /// - Parameter hasMember: false when it was a share of a shared group that has no member here: the origin will
    ///   choose another.
    func settled(_ delivery: Delivery, hasMember: Bool = true) {
        guard delivery.origin < incoming.count, let stream = incoming[delivery.origin],
            stream.generation == delivery.generation
        else { return }
        stream.settle(delivery.counter, hasMember ? .settled : .refused)
        acknowledgeLater(stream)
    }

    /// The state for a life of an origin; nil when that life is over.
    private func stream(from origin: NodeIndex, epoch: UInt64) -> IncomingStream? {
        guard epoch >= plane.nodes[origin].epoch else { return nil }
        while incoming.count <= origin { incoming.append(nil) }
        if let stream = incoming[origin] {
            if stream.epoch == epoch { return stream }
            if epoch < stream.epoch { return nil }
            forget(stream)
        }
        generations &+= 1
        let made = IncomingStream(from: origin, epoch: epoch, generation: generations, settings: settings)
        incoming[origin] = made
        return made
    }

    /// Frees what waits for frames that will not come.
    func forget(_ stream: IncomingStream) {
        heldBytes -= stream.heldBytes
        stream.discard()
        stream.acknowledgeAt = .max
    }

    /// An origin asks what has arrived.
    func asked(_ probe: StreamProbe, from origin: NodeIndex) {
        guard origin != NodeTable.own, probe.destinationEpoch == ownEpoch,
            let stream = stream(from: origin, epoch: probe.originEpoch)
        else {
            counters.staleFrames += 1
            return
        }
        stream.echo = probe.number
        acknowledge(stream)
    }

    // MARK: Acknowledging

    private func acknowledgeLater(_ stream: IncomingStream) {
        guard stream.acknowledgeAt == .max else { return }
        stream.acknowledgeAt = plane.now + settings.acknowledgeDelay
        if !stream.isListed {
            stream.isListed = true
            due.append(stream.origin)
        }
        wake(at: stream.acknowledgeAt)
    }

    private func acknowledge(_ stream: IncomingStream) {
        let said = stream.acknowledgement(ownEpoch: ownEpoch)
        guard plane.route(said.frame(), to: stream.origin, isBulk: false) else {
            // Later, or when there is a route again; and the origin will ask.
            return acknowledgeLater(stream)
        }
        counters.acknowledgementsSent += 1
        stream.unacknowledged = 0
        stream.echo = 0
        stream.acknowledgeAt = .max
    }

    /// Sends the acknowledgements that are due.
    /// - Returns: when the next ones are; .max for none.
    func acknowledgeDue(_ now: UInt64) -> UInt64 {
        let list = due
        due = []
        for origin in list {
            guard origin < incoming.count, let stream = incoming[origin], stream.isListed else { continue }
            if stream.acknowledgeAt > now, stream.acknowledgeAt != .max {
                due.append(origin)
                continue
            }
            let isDue = stream.acknowledgeAt <= now
            stream.isListed = false
            stream.acknowledgeAt = .max
            // Without a route it waits until routes change.
            if isDue, plane.isReachable(origin) { acknowledge(stream) }
        }
        var next = UInt64.max
        for origin in due { if let stream = incoming[origin] { next = min(next, stream.acknowledgeAt) } }
        return next
    }

    /// Routes have changed: origins that could not be told are.
    func acknowledgeLater() {
        for case let stream? in incoming where stream.unacknowledged > 0 { acknowledgeLater(stream) }
    }
}
