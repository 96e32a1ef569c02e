import Core

/// Events between nodes. The node that takes an event from its publisher decides which nodes it goes to; every node on
/// the way splits these by its own next links, without a look at the topic; each of them delivers it to its
/// subscriptions. A destination stands in one copy only, whatever the nodes on the way believe, so that routing can
/// never double an event. Confined to the mesh's lane.
final class Forwarder {
    /// Links that a frame may cross.
    static let timeToLive: UInt8 = 24
    /// For how long direct events wait for a slow link, in milliseconds: what is older is dropped.
    private static let longestWait: UInt64 = 5_000
    /// Lanes of a class: within one, order holds.
    static let lanesPerClass = 16
    /// Bytes of frames that are parked at a node.
    private static let maxParkedBytes = 8 << 20
    /// For how long a frame waits for a better next link than the one it came from, in milliseconds.
    private static let parkMilliseconds: UInt64 = 20
    /// Where the frames of one destination go on: those of one link at a time.
    private struct Branch {
        var link: MeshLink
        var destinations: [Destination] = []
    }

    private struct Parked {
        var frame: [UInt8]
        var link: LinkNumber
        var until: UInt64
    }

    /// It lives as long as its lane.
    private unowned(unsafe) let node: MeshNode
    private(set) var routes = Routes()
    /// When they changed last.
    private(set) var changedAt: UInt64 = 0
    /// By destination: for each lane the frames sent there so far.
    private var sent: [[UInt32]] = []
    private var parkedBytes = 0
    private var parked: [Parked] = []
    /// Links that are down and whose frames wait for the new routes.
    private var orphans: [MeshLink] = []
    private var branches: [Branch] = []
    private var branchCount = 0
    /// The link that was looked up last; forgotten when links or routes change.
    private var latest: MeshLink?

    init(_ node: MeshNode) {
        self.node = node
    }

    /// Sorts the destinations by the links they are reached over, and counts a frame for each.
    func branchOut(_ wanted: [NodeIndex], lane number: UInt8) {
        branchCount = 0
        for destination in wanted {
            let shortID = node.nodes.shortID(of: destination)
            let next = routes.link(to: destination)
            guard next != 0, shortID != 0 else {
                node.counters.noRoute &+= 1
                continue
            }
            while sent.count <= destination { sent.append([]) }
            if sent[destination].isEmpty { sent[destination] = Array(repeating: 0, count: 4 * Self.lanesPerClass) }
            sent[destination][Int(number)] &+= 1
            add(
                Destination(
                    shortID: shortID, epochTag: Destination.tag(ofEpoch: node.nodes.epoch(of: destination)),
                    counter: sent[destination][Int(number)]), to: next)
        }
    }

    /// The link with a number; one that is down until the routes no longer lead there.
    @inline(__always)
    private func lookUp(_ number: LinkNumber) -> MeshLink? {
        if let latest, latest.number == number { return latest }
        latest = node.link(number) ?? orphans.first { $0.number == number }
        return latest
    }

    @inline(__always)
    private func add(_ destination: Destination, to next: LinkNumber) {
        for index in 0..<branchCount where branches[index].link.number == next {
            branches[index].destinations.append(destination)
            return
        }
        guard let link = lookUp(next) else {
            node.counters.noRoute &+= 1
            return
        }
        if branchCount == branches.count {
            branches.append(Branch(link: link))
        } else {
            branches[branchCount].link = link
            branches[branchCount].destinations.removeAll(keepingCapacity: true)
        }
        branches[branchCount].destinations.append(destination)
        branchCount += 1
    }

    /// Writes a frame of this node for each link that ``branchOut(_:lane:)`` found.
    /// - Parameters:
    ///   - label: what policies ask for; nil for what is no event.
    ///   - fill: writes the sealed bytes.
    @inline(__always)
    func writeBranches(
        type: FrameType, frameClass: FrameClass, lane number: UInt8, flags: UInt8, sealed: Int,
        label: @autoclosure () -> (topic: UnsafeRawBufferPointer?, events: Int)?,
        _ fill: (UnsafeMutableRawPointer) -> Void
    ) {
        let own = node.nodes.shortID(of: NodeTable.own)
        for index in 0..<branchCount {
            let link = branches[index].link
            let count = branches[index].destinations.count
            var (flags, sealed) = (flags, sealed)
            if let gate = link.gate, sealed > 0, let label = label() {
                let isStream = type == .streamData
                if !node.passes(gate.export, label.topic, label.events, isGuaranteed: isStream, on: link, isOut: true) {
                    guard isStream else {
                        takeBack(index, lane: number)
                        continue
                    }
                    (flags, sealed) = (StreamFlags.void | StreamFlags.keptBack, 0)
                }
            }
            let length = DataFrame.size(destinations: count, sealed: sealed)
            let base = link.queues[Int(frameClass.rawValue)].reserve(length)
            DataFrame.write(
                to: base, length: length, type: type, frameClass: frameClass, timeToLive: Self.timeToLive,
                lane: number, flags: flags, originID: own, namespace: 0, originEpoch: node.epoch, destinations: count)
            for place in 0..<count { DataFrame.write(branches[index].destinations[place], at: place, to: base) }
            if sealed > 0 { fill(base + (length - sealed)) }
            link.queues[Int(frameClass.rawValue)].commit(length, now: node.now)
            link.wantsToSend()
            link.counters.framesOut &+= 1
        }
    }

    /// A direct frame of this node is not sent to the destinations of a branch: the next one has its numbers.
    private func takeBack(_ branch: Int, lane number: UInt8) {
        for destination in branches[branch].destinations {
            guard let node = node.nodes.node(shortID: destination.shortID), node < sent.count, !sent[node].isEmpty
            else { continue }
            sent[node][Int(number)] &-= 1
        }
    }

    /// Sends sealed bytes with counters that are given.
    func forward(_ sealed: UnsafeRawBufferPointer, flags: UInt8, lane number: UInt8, to targets: [StreamTarget]) {
        branchCount = 0
        for target in targets {
            let shortID = node.nodes.shortID(of: target.node)
            let next = routes.link(to: target.node)
            guard next != 0, shortID != 0 else { continue }
            add(
                Destination(
                    shortID: shortID, epochTag: Destination.tag(ofEpoch: node.nodes.epoch(of: target.node)),
                    counter: target.counter), to: next)
        }
        writeBranches(
            type: .streamData, frameClass: .guaranteed, lane: number, flags: flags, sealed: sealed.count,
            label: EventContent.label(sealed)
        ) { place in
            if let base = sealed.baseAddress { place.copyMemory(from: base, byteCount: sealed.count) }
        }
    }

    // MARK: On the way

    /// A frame has come in on a link's data connection.
    /// - Returns: why the connection must end, if it must.
    func receive(
        _ bytes: UnsafeRawBufferPointer, _ header: FrameHeader, on link: MeshLink
    ) -> (ByeReason, String)? {
        link.lastHeard = node.now
        let frameClass = Int(min(header.frameClass, FrameClass.bulk.rawValue))
        link.taken[frameClass] &+= UInt64(bytes.count)
        link.counters.framesIn &+= 1
        link.counters.bytesIn &+= UInt64(bytes.count)
        if link.acknowledgeAt == .max {
            link.acknowledgeAt = node.now + 5
            node.wake(at: link.acknowledgeAt)
        } else if link.taken[frameClass] &- link.acknowledged[frameClass] > 256 << 10 {
            acknowledge(link)
        }
        switch header.type {
        case FrameType.data.rawValue, FrameType.streamData.rawValue:
            guard let frame = DataFrame(bytes) else { return (.malformed, "a frame with events that cannot be read") }
            if let gate = link.gate, isKept(frame, gate.import, link, isOut: false) {
                keepBack(frame, link)
            } else {
                pass(frame, from: link.number)
            }
            return nil
        case FrameType.trace.rawValue:
            guard let frame = DataFrame(bytes), let stamped = node.probes.stamped(frame) else {
                return (.malformed, "a probe that cannot be read")
            }
            stamped.withUnsafeBytes { if let frame = DataFrame($0) { pass(frame, from: link.number, isCopy: true) } }
            return nil
        case FrameType.routed.rawValue:
            return node.receiveRouted(
                UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]), header, isBulk: true, from: link)
        case FrameType.bye.rawValue: return (.otherHalf, "the neighbour ends the data connection")
        default: return nil
        }
    }

    /// Splits a frame: to the next links whoever is behind them, to this node's subscriptions if it is a destination.
    private func pass(_ frame: DataFrame, from link: LinkNumber, isCopy: Bool = false) {
        let own = node.nodes.shortID(of: NodeTable.own)
        branchCount = 0
        var mine: Destination?
        var returning: [Destination] = []
        for index in 0..<frame.destinationCount {
            let destination = frame.destination(index)
            if destination.shortID == own, own != 0 {
                mine = destination
                continue
            }
            guard let next = node.nodes.node(shortID: destination.shortID).map({ routes.link(to: $0) }), next != 0
            else {
                node.counters.noRoute &+= 1
                continue
            }
            if next == link, link != 0 { returning.append(destination) } else { add(destination, to: next) }
        }
        #if DEBUG
            if node.sabotage.contains(.destinationsNotSplit) {
                for branch in 0..<branchCount {
                    branches[branch].destinations = (0..<frame.destinationCount).map { frame.destination($0) }
                }
            }
        #endif
        if branchCount > 0 { passOn(frame) }
        if !returning.isEmpty { park(frame, returning, link) }
        if let mine { node.arrivals.arrive(frame, mine, isCopy: isCopy) }
    }

    private func passOn(_ frame: DataFrame) {
        guard frame.header.timeToLive > 1, let from = frame.bytes.baseAddress else {
            node.counters.timeToLive &+= 1
            return
        }
        node.counters.transit &+= 1
        let frameClass = Int(min(max(frame.header.frameClass, 1), FrameClass.bulk.rawValue))
        for index in 0..<branchCount {
            let link = branches[index].link
            let count = branches[index].destinations.count
            var sealed = frame.sealed.count
            var isHole = false
            if let gate = link.gate, isKept(frame, gate.export, link, isOut: true) {
                (sealed, isHole) = (0, true)
            }
            let length = DataFrame.size(destinations: count, sealed: sealed)
            let base = link.queues[frameClass].reserve(length)
            base.copyMemory(from: from, byteCount: DataFrame.fixedSize)
            var header = frame.header
            header.length = length
            header.timeToLive -= 1
            if isHole { header.flags |= StreamFlags.void | StreamFlags.keptBack }
            #if DEBUG
                if node.sabotage.contains(.timeToLiveKept) { header.timeToLive += 1 }
            #endif
            header.write(to: base)
            let word = UInt16(truncatingIfNeeded: count) & 0xFFF
            base.storeBytes(of: word.littleEndian, toByteOffset: 14, as: UInt16.self)
            for place in 0..<count { DataFrame.write(branches[index].destinations[place], at: place, to: base) }
            if sealed > 0, let bytes = frame.sealed.baseAddress {
                (base + (length - sealed)).copyMemory(from: bytes, byteCount: sealed)
            }
            link.queues[frameClass].commit(length, now: node.now)
            link.wantsToSend()
            link.counters.framesOut &+= 1
        }
    }

    /// Whether a policy keeps a frame back. Holes and probes carry nothing.
    private func isKept(_ frame: DataFrame, _ gate: TopicGate, _ link: MeshLink, isOut: Bool) -> Bool {
        guard !frame.sealed.isEmpty, frame.header.type != FrameType.trace.rawValue else { return false }
        let label = EventContent.label(frame.sealed)
        let isStream = frame.header.type == FrameType.streamData.rawValue
        return !node.passes(gate, label.topic, label.events, isGuaranteed: isStream, on: link, isOut: isOut)
    }

    /// A frame that may not come in: its numbers go on without what it carried, so that its destinations do not wait.
    private func keepBack(_ frame: DataFrame, _ link: MeshLink) {
        frame.hole((0..<frame.destinationCount).map { frame.destination($0) }).withUnsafeBytes {
            if let hole = DataFrame($0) { pass(hole, from: link.number, isCopy: true) }
        }
    }

    /// The next link is the one the frame came from: the two nodes do not agree yet. A moment later they will.
    private func park(_ frame: DataFrame, _ destinations: [Destination], _ link: LinkNumber) {
        node.counters.parked &+= 1
        guard parkedBytes + frame.bytes.count <= Self.maxParkedBytes else {
            node.counters.noRoute &+= UInt64(destinations.count)
            return
        }
        let copy = frame.copy(destinations)
        parkedBytes += copy.count
        parked.append(Parked(frame: copy, link: link, until: node.now + Self.parkMilliseconds))
        node.wake(at: node.now + Self.parkMilliseconds)
    }

    // MARK: Links

    /// Puts a frame into a link's queue.
    func append(_ frame: UnsafeRawBufferPointer, to link: MeshLink, _ frameClass: FrameClass) {
        guard let base = frame.baseAddress else { return }
        link.queues[Int(frameClass.rawValue)].reserve(frame.count).copyMemory(from: base, byteCount: frame.count)
        link.queues[Int(frameClass.rawValue)].commit(frame.count, now: node.now)
        link.wantsToSend()
        link.counters.framesOut &+= 1
    }

    /// Bytes that a data connection holds of what is to be sent.
    static let socketBytes = 64 << 10

    /// Gives the connection what it takes: streams and direct events by turns, the rest when there is room.
    func produce(on link: MeshLink, _ conversation: MeshConversation) {
        link.isDirty = false
        if node.now > Self.longestWait {
            link.queues[Int(FrameClass.direct.rawValue)].dropWaiting(since: node.now - Self.longestWait)
        }
        while conversation.link.unsentBytes < Self.socketBytes {
            guard let frameClass = nextClass(link) else { return }
            let portion = frameClass == Int(FrameClass.bulk.rawValue) ? 16 << 10 : 128 << 10
            let bytes = link.queues[frameClass].next(max: portion)
            guard let base = bytes.baseAddress else { return }
            link.counters.bytesOut &+= UInt64(bytes.count)
            conversation.link.append(base, bytes.count)
        }
    }

    private func nextClass(_ link: MeshLink) -> Int? {
        for step in 1...3 {
            let candidate = (link.turnClass + step - 1) % 3 + 1
            guard !link.queues[candidate].isEmpty else { continue }
            link.turnClass = candidate % 3 + 1
            return candidate
        }
        return nil
    }

    /// Tells the neighbour what has been taken.
    func acknowledge(_ link: MeshLink) {
        link.acknowledgeAt = .max
        guard link.taken != link.acknowledged else { return }
        link.acknowledged = link.taken
        var writer = WireWriter(.linkAcknowledgement)
        for bytes in link.taken[1...] { writer.varint(bytes) }
        node.send(writer.finish(), on: link.number)
    }

    /// The neighbour has told what it has taken.
    func acknowledged(_ reader: inout WireReader, on link: MeshLink) -> String? {
        for frameClass in 1...3 {
            let total = reader.varint()
            guard !reader.isBroken, link.queues[frameClass].acknowledge(total) else {
                return "an acknowledgement of what was never sent"
            }
        }
        return nil
    }

    /// A link is down: what it was sent and has not acknowledged waits for the new routes.
    func linkDown(_ link: MeshLink) {
        latest = nil
        guard
            routes.links.contains(link.number) || link.queues.contains(where: { !$0.isEmpty || $0.unacknowledged > 0 })
        else { return }
        orphans.append(link)
    }

    func routesChanged(_ new: Routes) {
        latest = nil
        routes = new
        changedAt = node.now
        guard !orphans.isEmpty || !parked.isEmpty else { return }
        let waiting = orphans
        orphans = []
        for link in waiting {
            var count: UInt64 = 0
            for frameClass in 1...3 {
                link.queues[frameClass].forEachFrame { bytes in
                    count &+= 1
                    salvage(bytes)
                }
                link.queues[frameClass].removeAll()
            }
            node.noteSalvaged(count, of: link)
        }
        let again = parked
        parked = []
        for frame in again { unpark(frame) }
    }

    private func salvage(_ bytes: UnsafeRawBufferPointer) {
        if let header = bytes.baseAddress.map({ FrameHeader($0) }), header.type == FrameType.routed.rawValue {
            let body = UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...])
            _ = node.receiveRouted(body, header, isBulk: true, from: nil)
        } else if let frame = DataFrame(bytes) {
            pass(frame, from: 0, isCopy: true)
        }
    }

    private func unpark(_ parked: Parked) {
        parkedBytes -= parked.frame.count
        parked.frame.withUnsafeBytes { if let frame = DataFrame($0) { pass(frame, from: 0, isCopy: true) } }
    }

    /// A node's index is going to be another's.
    func forget(_ node: NodeIndex) { if node < sent.count { sent[node] = [] } }

    /// Frames that have waited long enough.
    func tick() -> UInt64? {
        guard !parked.isEmpty else { return nil }
        let due = parked.filter { $0.until <= node.now }
        parked.removeAll { $0.until <= node.now }
        for frame in due { unpark(frame) }
        return parked.map(\.until).min()
    }
}
