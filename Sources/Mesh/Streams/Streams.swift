/// Guaranteed events from this node to others and from others to this one: every event once and in order while both
/// live, whatever happens between them.
///
/// A stream is named by its origin, the origin's epoch, its destination and the destination's epoch; its frames have
/// contiguous counters from 1. Nodes on the way know nothing of streams: frames get lost, overtake one another and
/// come twice, and the two ends make up for it. The origin keeps what is sealed in a ``Spool``, once for all
/// destinations, until each has settled it; a frame on the wire carries all destinations whose windows are open, and
/// whatever waits or is sent again goes to one destination alone. The destination hands frames on in order and
/// acknowledges those that its local queues have taken or refused.
///
/// Confined to the mesh's lane.

/// One destination of a frame, and the frame's counter in the stream to it.
struct StreamTarget: Equatable, BitwiseCopyable {
    var node: NodeIndex
    var counter: UInt32
}

/// What streams ask of the node they belong to, besides what all parts do.
protocol StreamForwarding: AnyObject {
    /// Sends sealed bytes as one frame of type `streamData` and class `guaranteed`, tagged with the destinations'
    /// present epochs. It may get lost.
    /// - Parameters:
    ///   - sealed: valid during the call; empty in a void.
    ///   - flags: ``StreamFlags``, for the header.
    func forwardStream(_ sealed: UnsafeRawBufferPointer, flags: UInt8, to targets: [StreamTarget])
    /// A held publisher may go on: called once for each number of ``Streams/Publication/hold``. It must not publish
    /// before it has returned.
    func released(_ hold: UInt64)
    /// A node had no member for a share in what was sealed; another one is to be chosen. Called when the streams are
    /// not busy: it may publish.
    /// - Parameter sealed: valid during the call; how long it is wanted for may be out of date.
    func noMember(_ sealed: UnsafeRawBufferPointer, at node: NodeIndex, expiresAt: UInt64)
    /// A node has not been reachable for too long, and what is sealed is no longer kept for it. If it was a share,
    /// another member may be chosen; it must not be published before this has returned.
    /// - Parameters:
    ///   - sealed: valid during the call; how long it is wanted for may be out of date.
    ///   - wasSent: whether the node may have had it.
    /// - Returns: whether it goes to others; else it is counted as dropped.
    func givenUp(_ sealed: UnsafeRawBufferPointer, expiresAt: UInt64, wasSent: Bool) -> Bool
}

final class Streams {
    /// What has become of an event.
    struct Publication: Equatable {
        /// Not 0: it has been taken although a destination's share is full, and its publisher should wait until
        /// ``StreamForwarding/released(_:)`` is called with this number.
        var hold: UInt64 = 0
        /// Reachable destinations that have not been given it, because twice their share is full.
        var refused = 0
        /// Unreachable destinations that have not been given it.
        var dropped = 0
    }

    unowned let plane: any ControlPlane
    unowned let forwarding: any StreamForwarding
    let settings: StreamSettings
    let spool: any Spool
    var counters = StreamCounters()

    /// By node.
    var outgoing: [OutgoingStream?] = []
    var incoming: [IncomingStream?] = []
    /// Outgoing streams with something to send or to wait for.
    private var active: [OutgoingStream] = []
    /// Origins that an acknowledgement is due to.
    var due: [NodeIndex] = []
    /// Frames that waited and may be handed on.
    var released = Ring<(delivery: Delivery, frame: IncomingStream.Frame)>()
    /// What waits for frames in front of it or to be taken, of all origins.
    var heldBytes = 0
    var generations: UInt32 = 0
    private var routes = Routes()
    private(set) var ownEpoch: UInt64
    private var holds: [UInt64: Int] = [:]
    private var nextHold: UInt64 = 1
    private var nextProbe: UInt64 = 1
    private var wokenAt = UInt64.max
    private var accepted: [NodeIndex] = []
    private var targets: [StreamTarget] = []

    init(
        plane: any ControlPlane, forwarding: any StreamForwarding, settings: StreamSettings = StreamSettings(),
        spool: any Spool = MemorySpool()
    ) {
        self.plane = plane
        self.forwarding = forwarding
        self.settings = settings
        self.spool = spool
        ownEpoch = plane.nodes[NodeTable.own].epoch
    }

    // MARK: Publishing

    /// Takes an event, or a run of events, for some nodes.
    /// - Parameters:
    ///   - sealed: see ``EventContent``.
    ///   - events: how many there are, for the counters.
    ///   - nodes: each at most once, and not this node.
    ///   - expiresAt: from when on nobody wants it, monotonic milliseconds; 0 for never.
    func publish(_ sealed: [UInt8], events: Int, to nodes: [NodeIndex], expiresAt: UInt64) -> Publication {
        checkEpoch()
        var publication = Publication()
        var full = 0
        accepted.removeAll(keepingCapacity: true)
        let cost = MemorySpool.cost(of: sealed.count)
        for node in nodes where node != NodeTable.own {
            let stream = stream(to: node)
            let bytes = spool.bytes(for: node) + cost
            if !stream.isReachable {
                if bytes > settings.maxStreamBytes || plane.now >= stream.unreachableSince + settings.patience {
                    counters.droppedUnreachable += events
                    publication.dropped += 1
                    continue
                }
            } else if bytes > 2 * settings.maxStreamBytes {
                counters.refused += events
                publication.refused += 1
                continue
            } else if bytes > settings.maxStreamBytes {
                full += 1
            }
            accepted.append(node)
        }
        guard !accepted.isEmpty else { return publication }
        if full > 0 {
            publication.hold = nextHold
            nextHold += 1
            holds[publication.hold] = full
            counters.held += 1
        }
        let entry = OutgoingStream.Entry(
            position: spool.append(sealed, for: accepted), expiresAt: expiresAt,
            size: sealed.count + OutgoingStream.frameOverhead, cost: cost, events: events)
        send(entry, sealed, hold: publication.hold)
        return publication
    }

    /// Gives an entry to the streams that have accepted it; one frame for all whose windows are open.
    private func send(_ entry: OutgoingStream.Entry, _ sealed: [UInt8], hold: UInt64) {
        let now = plane.now
        targets.removeAll(keepingCapacity: true)
        for node in accepted {
            let stream = stream(to: node)
            if !stream.isListed {
                stream.isListed = true
                active.append(stream)
            }
            stream.take(entry)
            if hold != 0, stream.isReachable, spool.bytes(for: node) > settings.maxStreamBytes {
                stream.hold(hold, share: settings.maxStreamBytes)
            }
            guard stream.waiting.count == 1, stream.canBegin else { continue }
            let counter = stream.begin(now: now)
            targets.append(StreamTarget(node: node, counter: UInt32(truncatingIfNeeded: counter)))
            wake(at: stream.timeoutAt)
        }
        guard !targets.isEmpty else { return }
        counters.framesSent += 1
        sealed.withUnsafeBytes { forwarding.forwardStream($0, flags: 0, to: targets) }
    }

    /// The stream to a node, made when it is new, in the node's present life.
    private func stream(to node: NodeIndex) -> OutgoingStream {
        if node < outgoing.count, let stream = outgoing[node] {
            refresh(stream)
            return stream
        }
        while outgoing.count <= node { outgoing.append(nil) }
        let made = OutgoingStream(to: node, epoch: plane.nodes[node].epoch, settings: settings)
        made.link = routes.link(to: node)
        made.unreachableSince = plane.now
        outgoing[node] = made
        return made
    }

    /// Makes sure that a stream's numbers belong to the present life of its destination.
    private func refresh(_ stream: OutgoingStream) {
        let epoch = plane.nodes[stream.node].epoch
        #if DEBUG
            if plane.sabotage.contains(.streamNotRenumbered) { return }
        #endif
        if stream.epoch != epoch { counters.renumbered += stream.restart(epoch: epoch) }
    }

    // MARK: Sending what waits

    /// Sends what is lost, and then what waits, as far as the windows allow.
    func pump(_ stream: OutgoingStream) {
        refresh(stream)
        guard stream.isReachable else { return }
        let now = plane.now
        while let index = stream.resendNext(now: now) {
            if isExpired(stream.window[index], now) { expire(stream.void(index), stream) }
            counters.framesResent += 1
            #if DEBUG
                if plane.sabotage.contains(.streamForgotten) { continue }
            #endif
            forward(stream.window[index], counter: stream.base + UInt64(index), to: stream.node)
        }
        while let first = stream.waiting.first {
            if isExpired(first, now) {
                if let entry = stream.dropWaiting() { expire(entry, stream) }
                continue
            }
            guard stream.canBegin else { break }
            let counter = stream.begin(now: now)
            forward(first, counter: counter, to: stream.node)
        }
        release(stream)
        wake(at: stream.timeoutAt)
    }

    private func isExpired(_ entry: OutgoingStream.Entry, _ now: UInt64) -> Bool {
        !entry.isVoid && entry.expiresAt != 0 && entry.expiresAt <= now
    }

    private func expire(_ entry: OutgoingStream.Entry, _ stream: OutgoingStream) {
        counters.droppedExpired += entry.events
        spool.trim(entry.position, for: stream.node)
    }

    /// Sends one frame to one destination.
    private func forward(_ entry: OutgoingStream.Entry, counter: UInt64, to node: NodeIndex) {
        targets.removeAll(keepingCapacity: true)
        targets.append(StreamTarget(node: node, counter: UInt32(truncatingIfNeeded: counter)))
        counters.framesSent += 1
        if entry.isVoid {
            counters.voidsSent += 1
            let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
            return forwarding.forwardStream(nothing, flags: StreamFlags.void, to: targets)
        }
        let flags = entry.isPossibleDuplicate ? StreamFlags.possibleDuplicate : 0
        let now = plane.now
        spool.read(entry.position) { sealed in
            if entry.expiresAt != 0 {
                EventContent.setMillisecondsLeft(UInt32(clamping: max(1, entry.expiresAt - now)), in: sealed)
            }
            forwarding.forwardStream(UnsafeRawBufferPointer(sealed), flags: flags, to: targets)
        }
    }

    /// Lets publishers go on for whom there is room.
    private func release(_ stream: OutgoingStream, all: Bool = false) {
        while let hold = all ? stream.holds.popFirst()?.number : stream.takeReleased() {
            guard let others = holds[hold] else { continue }
            holds[hold] = others > 1 ? others - 1 : nil
            if others == 1 { forwarding.released(hold) }
        }
    }

    private func sendProbe(_ stream: OutgoingStream) {
        stream.probe(now: plane.now, number: nextProbe)
        let probe = StreamProbe(originEpoch: ownEpoch, destinationEpoch: stream.epoch, number: nextProbe)
        nextProbe += 1
        counters.probesSent += 1
        plane.route(probe.frame(), to: stream.node, isBulk: false)
    }

    // MARK: Hearing

    /// Takes an acknowledgement or a probe.
    /// - Returns: why it is malformed; nil when it is not.
    func receive(_ type: FrameType, _ reader: inout WireReader, from node: NodeIndex) -> String? {
        checkEpoch()
        switch type {
        case .streamAcknowledgement:
            guard let said = StreamAcknowledgement(&reader) else { return "a malformed acknowledgement of a stream" }
            return heard(said, from: node)
        case .streamSync:
            guard let probe = StreamProbe(&reader) else { return "a malformed probe of a stream" }
            asked(probe, from: node)
            return nil
        default: return "not a frame of streams"
        }
    }

    private func heard(_ said: StreamAcknowledgement, from node: NodeIndex) -> String? {
        guard node < outgoing.count, let stream = outgoing[node], said.originEpoch == ownEpoch,
            said.destinationEpoch == stream.epoch, stream.epoch == plane.nodes[node].epoch
        else {
            counters.staleFrames += 1
            return nil
        }
        counters.acknowledgementsReceived += 1
        let failure = stream.heard(said, now: plane.now) { entry in
            if !entry.isVoid { spool.trim(entry.position, for: node) }
        }
        if let failure { return failure }
        var homeless: [OutgoingStream.Entry] = []
        for counter in said.refusals where counter >= stream.base {
            let index = Int(counter - stream.base)
            if !stream.window[index].isVoid { homeless.append(stream.voidRefused(index)) }
        }
        pump(stream)
        for entry in homeless {
            counters.noMember += entry.events
            // A copy: whoever chooses another member publishes it, and the spool is busy with neither then.
            var sealed: [UInt8] = []
            spool.read(entry.position) { sealed = Array($0) }
            spool.trim(entry.position, for: node)
            sealed.withUnsafeBytes { forwarding.noMember($0, at: node, expiresAt: entry.expiresAt) }
        }
        return nil
    }

    // MARK: Nodes and routes

    /// Routes have changed.
    func routesChanged(_ routes: Routes) {
        checkEpoch()
        self.routes = routes
        for case let stream? in outgoing {
            let link = routes.link(to: stream.node)
            guard link != stream.link else { continue }
            let wasReachable = stream.isReachable
            stream.link = link
            if !stream.isReachable {
                if wasReachable { stream.unreachableSince = plane.now }
                stream.stopTimer()
                release(stream, all: true)
                if !stream.isIdle { wake(at: stream.unreachableSince + settings.patience) }
            } else {
                refresh(stream)
                if !stream.window.isEmpty { sendProbe(stream) }
                pump(stream)
            }
        }
        acknowledgeLater()
    }

    /// A node's newest advertisement names another life of it.
    func nodeRestarted(_ node: NodeIndex) {
        checkEpoch()
        guard node != NodeTable.own else { return }
        let epoch = plane.nodes[node].epoch
        if node < outgoing.count, let stream = outgoing[node] { pump(stream) }
        if node < incoming.count, let stream = incoming[node], stream.epoch < epoch {
            forget(stream)
            incoming[node] = nil
        }
    }

    /// A node has left, or has not been heard of for so long that it counts as gone. Counters are kept, in case it is
    /// the same life of it that comes back.
    func nodeLeft(_ node: NodeIndex) {
        checkEpoch()
        if node < outgoing.count, let stream = outgoing[node] {
            // Routes will say so, but nothing may be sent there any more.
            stream.link = 0
            stream.unreachableSince = plane.now - min(plane.now, settings.patience)
            stream.stopTimer()
            giveUp(stream)
        }
        if node < incoming.count, let stream = incoming[node] { forget(stream) }
    }

    /// A node to which there never was a way is forgotten: its index is going to be another's.
    func forget(_ node: NodeIndex) {
        if node < outgoing.count, let stream = outgoing[node] {
            giveUp(stream)
            active.removeAll { $0 === stream }
            outgoing[node] = nil
        }
        if node < incoming.count, let stream = incoming[node] {
            forget(stream)
            incoming[node] = nil
        }
        due.removeAll { $0 == node }
    }

    /// Gives up all that waits for a node.
    private func giveUp(_ stream: OutgoingStream) {
        for index in 0..<stream.window.count where !stream.window[index].isVoid {
            giveUp(stream.void(index), of: stream, wasSent: true)
        }
        while let entry = stream.dropWaiting() { giveUp(entry, of: stream, wasSent: entry.isPossibleDuplicate) }
        release(stream, all: true)
    }

    private func giveUp(_ entry: OutgoingStream.Entry, of stream: OutgoingStream, wasSent: Bool) {
        var goesToOthers = false
        spool.read(entry.position) { sealed in
            goesToOthers = forwarding.givenUp(
                UnsafeRawBufferPointer(sealed), expiresAt: entry.expiresAt, wasSent: wasSent)
        }
        if !goesToOthers { counters.droppedUnreachable += entry.events }
        spool.trim(entry.position, for: stream.node)
    }

    /// A new epoch of this node is another identity: all streams begin anew.
    func checkEpoch() {
        let epoch = plane.nodes[NodeTable.own].epoch
        guard epoch != ownEpoch else { return }
        ownEpoch = epoch
        for case let stream? in outgoing { counters.renumbered += stream.restart(epoch: stream.epoch) }
        for case let stream? in incoming { forget(stream) }
        incoming = []
        due = []
        for case let stream? in outgoing { pump(stream) }
    }

    // MARK: Time

    /// Asks to be called at a time, unless it has been asked for that or an earlier one already.
    func wake(at time: UInt64) {
        guard time < wokenAt else { return }
        wokenAt = time
        plane.wake(at: time)
    }

    /// Does what is due.
    /// - Returns: when to be called next.
    func tick() -> UInt64? {
        checkEpoch()
        wokenAt = .max
        let now = plane.now
        var next = UInt64.max
        for stream in active {
            if !stream.isReachable {
                let end = stream.unreachableSince + settings.patience
                if end > now { next = min(next, end) } else if !stream.isSpent { giveUp(stream) }
            } else if stream.timeoutAt <= now {
                if stream.timedOut(now: now) { sendProbe(stream) }
                pump(stream)
            }
            next = min(next, stream.timeoutAt)
        }
        active.removeAll { stream in
            if stream.isIdle { stream.isListed = false }
            return stream.isIdle
        }
        next = min(next, acknowledgeDue(now))
        wokenAt = next
        return next == .max ? nil : next
    }

    // MARK: Seeing it

    /// What waits for a node.
    struct Status: Equatable {
        var isReachable = false
        var numbered = 0
        var waiting = 0
        var bytes = 0
        var roundTripMilliseconds = 0
    }

    func status(of node: NodeIndex) -> Status {
        guard node < outgoing.count, let stream = outgoing[node] else { return Status() }
        return Status(
            isReachable: stream.isReachable, numbered: stream.window.count, waiting: stream.waiting.count,
            bytes: spool.bytes(for: node), roundTripMilliseconds: Int(stream.smoothedRoundTrip))
    }
}
