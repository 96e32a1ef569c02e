import Core

/// At the origin: events of this node's publishers on their way to other nodes. The router has matched them already;
/// here they are sealed, once for all destinations. Confined to the mesh's lane.
final class Departures {
    /// Sealed bytes beyond which a run is spread over several frames.
    private static let frameBytes = 64 << 10
    /// Sealed bytes beyond which an event is cut.
    private static let partBytes = 64 << 10

    /// It lives as long as its lane.
    private unowned(unsafe) let node: MeshNode
    /// Reused from run to run.
    private var wanted: [NodeIndex] = []
    private var shares: [EventContent.Share] = []
    /// Publishers that wait until a destination has room, by the streams' number.
    private var holds: [UInt64: Lane.Receipt] = [:]

    /// A guaranteed event that came while the node was joining.
    private struct Early {
        var event: Event
        /// The group of which this is one member's share; nil when it is for all who want it.
        var share: UInt64?
        /// Groups that have had their shares: those that were known here.
        var served: [UInt64] = []
        /// Who waits for its acknowledgement.
        var receipt: Lane.Receipt?
    }

    private var early: [Early] = []
    private var earlyBytes = 0

    init(_ node: MeshNode) { self.node = node }

    // MARK: While joining

    /// Keeps guaranteed events until it is known which nodes want them; their publishers wait, too. A member's share
    /// that has been given to another node is kept as such, and its member is chosen anew.
    /// - Returns: how many were refused, because too much waits.
    func keepUntilJoined(_ run: UnsafePointer<EventRun>, on lane: Lane) -> Int {
        let share = lane.group == 0 ? nil : node.router.groupKey(lane.group)
        if lane.group != 0, share == nil {
            lane.counters.drop(.noMember, run.pointee.count)
            return 0
        }
        let served = share == nil ? node.router.remoteMatches(run.pointee.topicBytes).groups.map(\.key) : []
        var refused = 0
        for index in 0..<run.pointee.count {
            let event = run.pointee.event(index)
            let cost = event.cost + served.count * MemoryLayout<UInt64>.size
            guard earlyBytes + cost <= node.settings.maxStreamBytes else {
                refused += 1
                continue
            }
            earlyBytes += cost
            // Whoever publishes a share is answered for the whole event, which comes after it.
            let isLast = share == nil && index == run.pointee.count - 1
            let receipt = isLast ? lane.hold(run, evenImpatient: true) : nil
            early.append(Early(event: event, share: share, served: served, receipt: receipt))
        }
        if refused > 0 { lane.counters.drop(.queueFull, refused) }
        return refused
    }

    /// The node knows what the others want: what waited goes to them.
    func joined() {
        let waiting = early
        (early, earlyBytes) = ([], 0)
        let view = UnsafeMutablePointer<EventView>.allocate(capacity: 1)
        defer { view.deallocate() }
        for entry in waiting {
            if let key = entry.share {
                choose(key, entry.event)
                continue
            }
            let matches = node.router.remoteMatches(entry.event.topic)
            var run = EventRun(event: entry.event, view: view, publisher: .none)
            shares.removeAll(keepingCapacity: true)
            // Retained events have been sent to all, or are compared.
            wanted = entry.event.isRetained ? [] : matches.nodes
            if !wanted.isEmpty { _ = send(&run, on: node.lane) }
            // Groups that nobody here knew of.
            for group in matches.groups where !entry.served.contains(group.key) { choose(group.key, entry.event) }
            if let receipt = entry.receipt { node.lane.answer(receipt) }
        }
    }

    /// A member of a group gets an event that had none yet: in turn or by weight, here or elsewhere.
    private func choose(_ key: UInt64, _ event: Event) {
        guard let group = node.router.groupNumber(key) else { return node.lane.counters.drop(.noMember) }
        node.lane.redistributeLater(event, group: group, in: node.router)
    }

    // MARK: Publishing

    /// Sends a run to the nodes that want it.
    /// - Parameter identifiers: numbers of nodes, plus 1.
    /// - Returns: how many guaranteed events were refused.
    func publish(
        _ run: UnsafePointer<EventRun>, to identifiers: UnsafeBufferPointer<UInt32>, on lane: Lane
    ) -> Int {
        wanted.removeAll(keepingCapacity: true)
        for identifier in identifiers { wanted.append(NodeIndex(identifier) - 1) }
        return publish(run, on: lane)
    }

    /// Sends a run to all nodes, because it is to be retained.
    func publishEverywhere(_ run: UnsafePointer<EventRun>, on lane: Lane) -> Int {
        wanted.removeAll(keepingCapacity: true)
        for other in 1..<max(node.nodes.count, 1) where node.nodes.shortID(of: other) != 0 {
            // Who cannot be reached compares its values when it can be again.
            if node.isReachable(other) || run.pointee.qos > 0 { wanted.append(other) }
        }
        return wanted.isEmpty ? 0 : publish(run, on: lane)
    }

    private func publish(_ run: UnsafePointer<EventRun>, on lane: Lane) -> Int {
        shares.removeAll(keepingCapacity: true)
        if lane.group != 0 {
            guard let key = node.router.groupKey(lane.group) else { return 0 }
            for node in wanted {
                shares.append(EventContent.Share(shortID: self.node.nodes.shortID(of: node), key: key))
            }
        }
        return send(run, on: lane)
    }

    private func send(_ run: UnsafePointer<EventRun>, on lane: Lane) -> Int {
        node.counters.eventsOut &+= UInt64(run.pointee.count)
        // Order holds within a lane; each publisher is in one.
        let publisher = UInt64(run.pointee.publisher.place) << 32 | UInt64(run.pointee.publisher.generation)
        let hash = UInt8(truncatingIfNeeded: (publisher &* 0x9E37_79B9_7F4A_7C15) >> 60)
        var first = 0
        var refused = 0
        while first < run.pointee.count {
            let (count, size) = portion(run, from: first)
            if run.pointee.qos > 0 {
                refused += sendStream(run, from: first, count: count, size: size, lane)
            } else {
                sendDirect(run, from: first, count: count, size: size, FrameClass.direct.rawValue << 4 | hash)
            }
            first += count
        }
        return refused
    }

    /// As many events as one frame should have.
    private func portion(_ run: UnsafePointer<EventRun>, from first: Int) -> (count: Int, size: Int) {
        var count = 1
        var size = EventContent.size(run, shares: shares.count, from: first, count: 1)
        while first + count < run.pointee.count {
            let next = Int(run.pointee.events[first + count].payloadLength) + 4
            guard size + next <= Self.frameBytes else { break }
            size += next
            count += 1
        }
        return (count, size)
    }

    private func seal(
        _ run: UnsafePointer<EventRun>, from first: Int, count: Int, to place: UnsafeMutableRawPointer
    ) {
        EventContent.write(
            run, shares: shares, from: first, count: count, now: node.now, to: place)
    }

    private func sealed(_ run: UnsafePointer<EventRun>, from first: Int, count: Int, size: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: size) { buffer, written in
            guard let base = buffer.baseAddress else { return }
            seal(run, from: first, count: count, to: UnsafeMutableRawPointer(base))
            written = size
        }
    }

    private func sendDirect(_ run: UnsafePointer<EventRun>, from first: Int, count: Int, size: Int, _ number: UInt8) {
        if size <= Self.partBytes {
            node.forwarder.branchOut(wanted, lane: number)
            node.forwarder.writeBranches(
                type: .data, frameClass: .direct, lane: number, flags: 0, sealed: size,
                label: (run.pointee.topicBytes, count)
            ) { seal(run, from: first, count: count, to: $0) }
        } else {
            let topic = run.pointee.topicBytes
            forEachPart(of: topic, sealed(run, from: first, count: count, size: size)) { part in
                node.forwarder.branchOut(wanted, lane: number)
                let isFirst = part[0] & EventContent.firstPartFlag != 0
                node.forwarder.writeBranches(
                    type: .data, frameClass: .direct, lane: number, flags: 0, sealed: part.count,
                    label: (topic, isFirst ? 1 : 0)
                ) { place in
                    part.withUnsafeBytes {
                        if let base = $0.baseAddress { place.copyMemory(from: base, byteCount: $0.count) }
                    }
                }
            }
        }
    }

    private func sendStream(
        _ run: UnsafePointer<EventRun>, from first: Int, count: Int, size: Int, _ lane: Lane
    ) -> Int {
        let whole = sealed(run, from: first, count: count, size: size)
        if size <= Self.partBytes {
            return publish(whole, run, events: count, expiresAt: run.pointee.expiresAt, lane)
        }
        // Parts do not expire one by one.
        var refused = 0
        forEachPart(of: run.pointee.topicBytes, whole) {
            refused = max(refused, publish($0, run, events: count, expiresAt: 0, lane))
        }
        return refused
    }

    private func publish(
        _ sealed: [UInt8], _ run: UnsafePointer<EventRun>, events: Int, expiresAt: UInt64, _ lane: Lane
    ) -> Int {
        let publication = node.streams.publish(sealed, events: events, to: wanted, expiresAt: expiresAt)
        if publication.hold != 0, let receipt = lane.hold(run, evenImpatient: true) {
            holds[publication.hold] = receipt
        }
        return publication.refused > 0 ? events : 0
    }

    /// A destination has room again.
    func released(_ hold: UInt64) {
        if let receipt = holds.removeValue(forKey: hold) { node.lane.answer(receipt) }
    }

    /// The node that was chosen for a share has no member any more: another member is chosen, here or elsewhere.
    func chooseAgain(_ sealed: UnsafeRawBufferPointer, expiresAt: UInt64) {
        guard let content = EventContent(sealed) else { return }
        for share in content.shares { chooseAgain(content, share.key, expiresAt: expiresAt) }
    }

    /// Another member of a group is chosen for events, here or elsewhere.
    func chooseAgain(_ content: EventContent, _ key: UInt64, expiresAt: UInt64) {
        guard let group = node.router.groupNumber(key) else {
            return node.lane.counters.drop(.noMember, content.eventCount)
        }
        var offset = 0
        for index in 0..<content.eventCount {
            let length = Int(
                UInt32(littleEndian: content.payloads.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
            let payload = UnsafeRawBufferPointer(rebasing: content.payloads[offset + 4..<offset + 4 + length])
            offset += 4 + length
            let event = Event(
                topic: content.topic, properties: content.properties, payload: payload, qos: content.qos,
                isRetained: false, expiresAt: expiresAt, extensionLength: content.extensionLength,
                identity: content.identity == 0 ? 0 : content.identity &+ UInt64(index))
            node.lane.redistributeLater(event, group: group, in: node.router)
        }
    }

    private func forEachPart(of topic: UnsafeRawBufferPointer, _ whole: [UInt8], _ body: ([UInt8]) -> Void) {
        var offset = 0
        while offset < whole.count {
            let count = min(Self.partBytes, whole.count - offset)
            var flags = EventContent.partFlag
            if offset == 0 { flags |= EventContent.firstPartFlag }
            if offset + count == whole.count { flags |= EventContent.lastPartFlag }
            body(EventContent.Part.seal(whole[offset..<offset + count], topic: topic, flags: flags))
            offset += count
        }
    }
}
