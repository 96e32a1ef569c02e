import Core

/// At a destination: frames become events of this node's router, in order and once. Confined to the mesh's lane.
final class Arrivals {
    /// What is known of one origin.
    private struct Origin {
        var epoch: UInt64 = 0
        /// By the frames' lane.
        var lanes = [ArrivalOrder](repeating: ArrivalOrder(), count: Origin.laneCount)
        /// Parts of a large event, by lane; streams have one of their own.
        var assemblies: [UInt8: Assembly] = [:]

        static let laneCount = FrameClass.allCases.count * Forwarder.lanesPerClass
    }

    /// What has come of a large event.
    private struct Assembly {
        /// As every part says, which the policies on the way have believed.
        var topic: [UInt8]
        var bytes: [UInt8] = []
    }

    /// A run of the turn, or one on its way to other lanes, that a stream waits for.
    private struct Unsettled {
        var delivery: Streams.Delivery
        /// Index of the run in the turn.
        var run: Int
        /// Lanes that must still answer.
        var pending: Int32 = 0
    }

    /// Bytes of frames that are held for order.
    private static let maxHeldBytes = 8 << 20
    /// Bytes of large events that are not complete, of all origins.
    private static let maxAssemblyBytes = 256 << 20
    /// Streams' parts are put together under this lane.
    private static let streamLane = UInt8.max

    /// It lives as long as its lane.
    private unowned(unsafe) let node: MeshNode
    private let principal: Principal
    private let turn: Turn
    private var origins: [Origin] = []
    /// Lanes with held frames, in the order in which they began to hold.
    private var holding: [(origin: NodeIndex, lane: UInt8)] = []
    private var heldBytes = 0
    private var assemblyBytes = 0
    /// Runs of the turn that streams wait for.
    private var unsettled: [Unsettled] = []
    /// Runs that other lanes have been sent, by token.
    private var awaited: [UInt32: Unsettled] = [:]

    init(_ node: MeshNode) {
        self.node = node
        turn = node.lane.turn
        principal = .node(node.router)
    }

    /// Whether the turn takes another frame.
    var hasRoom: Bool { !turn.isFull && turn.eventCount <= Turn.eventCapacity / 2 }

    // MARK: Order

    /// A frame with this node among its destinations.
    /// - Parameter isCopy: its bytes do not live until the turn has been routed.
    func arrive(_ frame: DataFrame, _ mine: Destination, isCopy: Bool) {
        guard let origin = node.nodes.node(shortID: frame.originID), node.nodes.epoch(of: origin) == frame.originEpoch,
            mine.epochTag == Destination.tag(ofEpoch: node.epoch)
        else {
            node.counters.wrongEpoch &+= 1
            return
        }
        while origins.count <= origin { origins.append(Origin()) }
        if origins[origin].epoch != frame.originEpoch {
            forget(origin)
            origins[origin] = Origin(epoch: frame.originEpoch)
        }
        switch frame.header.type {
        case FrameType.streamData.rawValue: arriveStream(frame, mine, from: origin, isCopy: isCopy)
        case FrameType.trace.rawValue: node.probes.arrived(frame, from: origin)
        default: arriveDirect(frame, mine, from: origin, isCopy: isCopy)
        }
    }

    private func arriveDirect(_ frame: DataFrame, _ mine: Destination, from origin: NodeIndex, isCopy: Bool) {
        let number = frame.header.lane & UInt8(Origin.laneCount - 1)
        let isUnrest = node.now < node.forwarder.changedAt + ArrivalOrder.unrestMilliseconds
        let hasRoom = heldBytes + frame.bytes.count <= Self.maxHeldBytes
        let missing = origins[origin].lanes[Int(number)].missing
        let verdict = origins[origin].lanes[Int(number)].judge(mine.counter, isUnrest: isUnrest, hasRoom: hasRoom)
        node.counters.missing &+= origins[origin].lanes[Int(number)].missing &- missing
        switch verdict {
        case .late:
            node.counters.late &+= 1
            #if DEBUG
                guard node.sabotage.contains(.lateDelivered) else { return }
                deliver(frame.sealed, from: origin, lane: number, isCopy: isCopy, nil)
            #endif
        case .deliver:
            deliver(frame.sealed, from: origin, lane: number, isCopy: isCopy, nil)
            if !holding.isEmpty { letGo(origin, number) }
        case .hold:
            let copy = frame.copy([mine])
            heldBytes += copy.count
            node.counters.held &+= 1
            let until = node.now + ArrivalOrder.holdMilliseconds
            origins[origin].lanes[Int(number)].hold(mine.counter, copy, until: until)
            if !holding.contains(where: { $0.origin == origin && $0.lane == number }) {
                holding.append((origin, number))
            }
            node.wake(at: until)
        }
    }

    private func arriveStream(_ frame: DataFrame, _ mine: Destination, from origin: NodeIndex, isCopy: Bool) {
        if case .deliver(let delivery) = node.streams.arrived(from: origin, frame, mine) {
            deliver(frame.sealed, from: origin, lane: Self.streamLane, isCopy: isCopy, delivery)
        }
        takeReleased()
    }

    /// Frames of streams that waited for others.
    private func takeReleased() {
        while hasRoom, let next = node.streams.take() {
            next.sealed.withUnsafeBytes {
                deliver($0, from: next.delivery.origin, lane: Self.streamLane, isCopy: true, next.delivery)
            }
        }
    }

    /// Held frames whose turn has come.
    private func letGo(_ origin: NodeIndex, _ number: UInt8) {
        let before = (origins[origin].lanes[Int(number)].heldBytes, origins[origin].lanes[Int(number)].missing)
        defer {
            heldBytes -= before.0 - origins[origin].lanes[Int(number)].heldBytes
            node.counters.missing &+= origins[origin].lanes[Int(number)].missing &- before.1
        }
        while hasRoom, let held = origins[origin].lanes[Int(number)].takeHeld(now: node.now, late: &node.counters.late)
        {
            held.frame.withUnsafeBytes { bytes in
                guard let frame = DataFrame(bytes) else { return }
                deliver(frame.sealed, from: origin, lane: number, isCopy: true, nil)
            }
        }
        guard origins[origin].lanes[Int(number)].held.isEmpty else { return }
        holding.removeAll { $0.origin == origin && $0.lane == number }
    }

    // MARK: Delivering

    /// Hands what is sealed in a frame to the router, with the rest of the turn.
    private func deliver(
        _ sealed: UnsafeRawBufferPointer, from origin: NodeIndex, lane number: UInt8, isCopy: Bool,
        _ delivery: Streams.Delivery?
    ) {
        // A policy on the way has kept it back; the number counts all the same.
        if sealed.isEmpty, delivery == nil { return }
        var bytes = sealed
        var topic: [UInt8]?
        if let flags = sealed.first, flags & EventContent.partFlag != 0 {
            guard let whole = assemble(sealed, origin, number) else {
                if let delivery { node.streams.settled(delivery) }
                return
            }
            topic = whole.topic
            bytes = keep(whole.bytes)
        } else if isCopy {
            bytes = keep(Array(sealed))
        }
        // The router stops at a topic that is none, and the rest of the turn would be lost.
        guard let content = EventContent(bytes), content.topic[0] != UInt8(ascii: "$"),
            content.eventCount <= Turn.eventCapacity / 2, Topic.isValid(content.topic, limits: node.router.limits),
            topic?.elementsEqual(content.topic) ?? true,
            EventProperties.areSound(content.properties, extensionLength: Int(content.extensionLength))
        else {
            node.counters.malformed &+= 1
            if let delivery { node.streams.settled(delivery) }
            return
        }
        node.counters.eventsIn &+= UInt64(content.eventCount)
        if content.shares.isEmpty {
            if let delivery { unsettled.append(Unsettled(delivery: delivery, run: turn.runCount)) }
            append(content)
        } else {
            #if DEBUG
                if node.sabotage.contains(.sharesForAll) {
                    append(content)
                    turn.runs[turn.runCount - 1].isFromMesh = false
                }
            #endif
            share(content, delivery, wasCut: topic != nil)
        }
    }

    /// Bytes that live until the turn has been routed.
    private func keep(_ bytes: [UInt8]) -> UnsafeRawBufferPointer {
        let place = turn.makeScratch(bytes.count)
        bytes.withUnsafeBytes { if let base = $0.baseAddress { place.copyMemory(from: base, byteCount: $0.count) } }
        return UnsafeRawBufferPointer(start: place, count: bytes.count)
    }

    private func append(_ content: EventContent) {
        turn.runs[turn.runCount] = run(content, turn.events + turn.eventCount)
        turn.runCount += 1
        turn.eventCount += content.eventCount
        turn.principal = principal
    }

    private func run(_ content: EventContent, _ events: UnsafeMutablePointer<EventView>) -> EventRun {
        let nowhere = UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped
        let expiresAt = content.millisecondsLeft == 0 ? 0 : node.now + UInt64(content.millisecondsLeft)
        let payloads = content.payloads.baseAddress ?? nowhere
        var offset = 0
        for index in 0..<content.eventCount {
            // Every length has been checked when the content was read.
            let length = Int(UInt32(littleEndian: payloads.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
            events[index] = EventView(payload: payloads + offset + 4, payloadLength: length)
            offset += 4 + length
        }
        var run = EventRun(
            topic: content.topic.baseAddress ?? nowhere, topicLength: content.topic.count, events: events,
            count: content.eventCount, wire: nowhere, wireLength: 0,
            properties: content.properties.baseAddress ?? nowhere, propertiesLength: content.properties.count,
            publisher: node.port.address, layout: .none, qos: content.qos, isRetained: content.isRetained,
            expiresAt: expiresAt)
        run.extensionLength = content.extensionLength
        run.isFromMesh = true
        run.version = content.version
        run.identity = content.identity
        return run
    }

    /// A retained value has come from a neighbour and is newer than what was here: subscribers get it like an event.
    func deliver(_ event: Event, _ version: EventVersion) {
        if !hasRoom { routeTurn() }
        let bytes = keep(
            Array(
                UnsafeRawBufferPointer(
                    start: event.bytes, count: event.topicLength + event.propertiesLength + event.payloadLength)))
        guard let base = bytes.baseAddress else { return }
        let view = turn.events + turn.eventCount
        var run = EventRun(event: event, view: view, publisher: node.port.address)
        let moved = base - event.bytes
        run.topic += moved
        run.properties += moved
        view.pointee.payload += moved
        run.wire = base
        run.isFromMesh = true
        run.version = version
        turn.runs[turn.runCount] = run
        turn.runCount += 1
        turn.eventCount += 1
        turn.principal = principal
    }

    private func routeTurn() {
        // Shares of groups have been delivered at once, and nothing refers to what was copied for them.
        guard !turn.isEmpty else { return turn.forgetUnused() }
        node.router.route(turn, on: node.lane)
        routed(turn)
        turn.removeAll()
    }

    /// One member of each shared group that is named here has it.
    /// - Parameter wasCut: whether it came in parts; then whoever sent it has no more than those.
    private func share(_ content: EventContent, _ delivery: Streams.Delivery?, wasCut: Bool) {
        let own = node.nodes.shortID(of: NodeTable.own)
        var run = run(content, turn.events + turn.eventCount)
        // One that names this node by another number than it has now is to be sealed anew.
        var hasMember = content.shares.contains { $0.shortID == own }
        if !hasMember { node.counters.noMember &+= 1 }
        for share in content.shares where share.shortID == own {
            let outcome = node.router.deliverShare(&run, key: share.key, on: node.lane)
            if outcome.matched == 0 {
                node.counters.noMember &+= 1
                hasMember = wasCut && delivery != nil
                if hasMember { node.departures.chooseAgain(content, share.key, expiresAt: run.expiresAt) }
            } else if outcome.pending > 0, let delivery {
                awaited[outcome.token] = Unsettled(delivery: delivery, run: 0, pending: outcome.pending)
                return
            }
        }
        if let delivery { node.streams.settled(delivery, hasMember: hasMember) }
    }

    /// A part of a large event.
    /// - Returns: the whole, with its last part.
    private func assemble(
        _ sealed: UnsafeRawBufferPointer, _ origin: NodeIndex, _ number: UInt8
    ) -> Assembly? {
        guard let part = EventContent.Part(sealed) else {
            node.counters.malformed &+= 1
            return nil
        }
        if part.flags & EventContent.firstPartFlag != 0 {
            takeAssembly(origin, number)
            origins[origin].assemblies[number] = Assembly(topic: Array(part.topic))
        }
        guard let soFar = origins[origin].assemblies[number], soFar.topic.elementsEqual(part.topic),
            soFar.bytes.count + part.piece.count <= node.router.limits.maxPacketBytes + (1 << 20),
            assemblyBytes + part.piece.count <= Self.maxAssemblyBytes
        else {
            takeAssembly(origin, number)
            node.counters.incomplete &+= 1
            return nil
        }
        origins[origin].assemblies[number]?.bytes.append(contentsOf: part.piece)
        assemblyBytes += part.piece.count
        return part.flags & EventContent.lastPartFlag != 0 ? takeAssembly(origin, number) : nil
    }

    @discardableResult
    private func takeAssembly(_ origin: NodeIndex, _ number: UInt8) -> Assembly? {
        let whole = origins[origin].assemblies.removeValue(forKey: number)
        assemblyBytes -= whole?.bytes.count ?? 0
        return whole
    }

    // MARK: Settling

    /// The turn has been routed.
    func routed(_ turn: Turn) {
        for index in 0..<turn.runCount {
            let remote = node.port.takeRemote(index)
            let run = turn.runs + index
            guard run.pointee.isFromMesh, run.pointee.qos == 0, !run.pointee.isRetained,
                turn.outcomes[index].verdict == .routed
            else {
                continue
            }
            if turn.outcomes[index].matched <= remote { node.counters.staleInterest &+= 1 }
        }
        for var entry in unsettled {
            let outcome = turn.outcomes[entry.run]
            if outcome.pending > 0 {
                entry.pending = outcome.pending
                awaited[outcome.token] = entry
            } else {
                node.streams.settled(entry.delivery)
            }
        }
        unsettled.removeAll(keepingCapacity: true)
    }

    /// Another lane has taken a run, or refused it and counted that.
    func receiptArrived(token: UInt32, more: Int) {
        guard var entry = awaited[token] else { return }
        entry.pending += Int32(truncatingIfNeeded: more) - 1
        if entry.pending > 0 {
            awaited[token] = entry
        } else {
            awaited[token] = nil
            node.streams.settled(entry.delivery)
        }
    }

    /// A node has another life: what came from the one before is forgotten.
    func nodeChanged(_ index: NodeIndex) {
        guard index < origins.count, origins[index].epoch != node.nodes.epoch(of: index) else { return }
        forget(index)
        origins[index] = Origin()
    }

    /// A node's index is going to be another's.
    func forgetNode(_ index: NodeIndex) {
        guard index < origins.count else { return }
        forget(index)
        origins[index] = Origin()
    }

    /// What was kept of an origin's former life.
    private func forget(_ index: NodeIndex) {
        for order in origins[index].lanes { heldBytes -= order.heldBytes }
        for part in origins[index].assemblies.values { assemblyBytes -= part.bytes.count }
        holding.removeAll { $0.origin == index }
    }

    /// Frames that have been held for long enough.
    func tick() -> UInt64? {
        for (origin, number) in holding { letGo(origin, number) }
        takeReleased()
        routeTurn()
        var next = UInt64.max
        for (origin, number) in holding { next = min(next, origins[origin].lanes[Int(number)].deadline ?? .max) }
        return next == .max ? nil : next
    }
}
