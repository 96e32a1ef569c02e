import Core

/// Events between nodes. The node that takes an event from its publisher decides which nodes it goes to; every node on
/// the way splits these by its own next links, without a look at the topic; each of them delivers it to its
/// subscriptions. A destination stands in one copy only, whatever the nodes on the way believe, so that routing can
/// never double an event. Confined to the mesh's lane.
final class Forwarder {
    /// Links that a frame may cross.
    static let timeToLive: UInt8 = 24
    /// Sealed bytes of a frame beyond which a run is spread over several frames, and a large event over parts.
    static let frameBytes = 64 << 10
    static let partBytes = 192 << 10
    /// Lanes of a class: within one, order holds.
    private static let lanesPerClass = 16
    /// Bytes of frames that are held for order, or parked, at a node.
    private static let maxHeldBytes = 8 << 20
    /// For how long a frame waits for a better next link than the one it came from, in milliseconds.
    private static let parkMilliseconds: UInt64 = 20
    /// Frames' parts are flags of the frame: a part, the first, the last.
    private static let (partFlag, firstFlag, lastFlag): (UInt8, UInt8, UInt8) = (2, 4, 8)
    /// Only the shared groups that are named are to have it.
    static let sharesOnlyFlag: UInt8 = 16

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

    /// What a destination knows of one origin.
    private struct Origin {
        var epoch: UInt64 = 0
        var lanes: [UInt8: ArrivalOrder] = [:]
        var assemblies: [UInt8: [UInt8]] = [:]
    }

    private unowned let node: MeshNode
    private let principal: Principal
    private var routes = Routes()
    private var changedAt: UInt64 = 0
    /// By destination: for each lane the frames sent there so far.
    private var sent: [[UInt32]] = []
    private var origins: [Origin] = []
    /// Lanes with held frames, in the order in which they began to hold.
    private var holding: [(origin: NodeIndex, lane: UInt8)] = []
    private var heldBytes = 0
    private var parked: [Parked] = []
    /// Links that are down and whose frames wait for the new routes.
    private var orphans: [MeshLink] = []
    private var branches: [Branch] = []
    private var branchCount = 0
    private let lane: Lane

    init(_ node: MeshNode) {
        self.node = node
        lane = node.lane
        principal = .node(node.router)
    }

    // MARK: At the origin

    /// Sends a run to the nodes that want it.
    /// - Parameter wanted: indices of nodes, plus 1.
    /// - Returns: how many guaranteed events were refused.
    func publish(
        _ run: UnsafePointer<EventRun>, to wanted: UnsafeBufferPointer<UInt32>, _ target: Target, on lane: Lane
    ) -> Int {
        let origin = node.nodes[NodeTable.own].shortID
        guard origin != 0 else {
            node.counters.noRoute &+= UInt64(run.pointee.count)
            return 0
        }
        node.counters.eventsOut &+= UInt64(run.pointee.count)
        let publisher = run.pointee.publisher
        let hash = (UInt64(publisher.place) << 32 | UInt64(publisher.generation)) &* 0x9E37_79B9_7F4A_7C15
        let number = UInt8(truncatingIfNeeded: FrameClass.direct.rawValue) << 4 | UInt8(truncatingIfNeeded: hash >> 60)
        var first = 0
        while first < run.pointee.count {
            var count = 1
            var size = EventContent.size(run, shares: 0, from: first, count: 1)
            while first + count < run.pointee.count {
                let next = Int(run.pointee.events[first + count].payloadLength) + 4
                guard size + next <= Self.frameBytes else { break }
                size += next
                count += 1
            }
            sendDirect(run, from: first, count: count, size: size, to: wanted, lane: number, origin: origin)
            first += count
        }
        return 0
    }

    private func sendDirect(
        _ run: UnsafePointer<EventRun>, from first: Int, count: Int, size: Int,
        to wanted: UnsafeBufferPointer<UInt32>, lane number: UInt8, origin: UInt16
    ) {
        guard size <= Self.partBytes else {
            return sendInParts(run, from: first, size: size, to: wanted, lane: number, origin: origin)
        }
        branchOut(wanted, lane: number)
        for index in 0..<branchCount {
            write(branches[index], type: .data, frameClass: .direct, lane: number, flags: 0, sealed: size) { place in
                EventContent.write(
                    run, shares: [], from: first, count: count, now: node.now, version: (0, 0), to: place)
            }
        }
    }

    /// A large event: sealed as a whole, sent in parts, put together by the destinations.
    private func sendInParts(
        _ run: UnsafePointer<EventRun>, from first: Int, size: Int, to wanted: UnsafeBufferPointer<UInt32>,
        lane number: UInt8, origin: UInt16
    ) {
        let whole = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 1)
        defer { whole.deallocate() }
        EventContent.write(run, shares: [], from: first, count: 1, now: node.now, version: (0, 0), to: whole)
        var offset = 0
        while offset < size {
            let count = min(Self.partBytes, size - offset)
            var flags = Self.partFlag
            if offset == 0 { flags |= Self.firstFlag }
            if offset + count == size { flags |= Self.lastFlag }
            branchOut(wanted, lane: number)
            for index in 0..<branchCount {
                write(branches[index], type: .data, frameClass: .direct, lane: number, flags: flags, sealed: count) {
                    $0.copyMemory(from: whole + offset, byteCount: count)
                }
            }
            offset += count
        }
    }

    /// Sorts the destinations by the links they are reached over, and counts a frame for each.
    private func branchOut(_ wanted: UnsafeBufferPointer<UInt32>, lane number: UInt8) {
        branchCount = 0
        for identifier in wanted {
            let destination = NodeIndex(identifier) - 1
            let shortID = node.nodes[destination].shortID
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
                    shortID: shortID, epochTag: Destination.tag(ofEpoch: node.nodes[destination].epoch),
                    counter: sent[destination][Int(number)]), to: next)
        }
    }

    @inline(__always)
    private func add(_ destination: Destination, to next: LinkNumber) {
        for index in 0..<branchCount where branches[index].link.number == next {
            branches[index].destinations.append(destination)
            return
        }
        guard let link = node.link(next) ?? orphans.first(where: { $0.number == next }) else {
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

    @inline(__always)
    private func write(
        _ branch: Branch, type: FrameType, frameClass: FrameClass, lane number: UInt8, flags: UInt8, sealed: Int,
        _ fill: (UnsafeMutableRawPointer) -> Void
    ) {
        let own = node.nodes[NodeTable.own].shortID
        let length = DataFrame.size(destinations: branch.destinations.count, sealed: sealed)
        let link = branch.link
        let base = link.queues[Int(frameClass.rawValue)].reserve(length)
        DataFrame.write(
            to: base, length: length, type: type, frameClass: frameClass, timeToLive: Self.timeToLive, lane: number,
            flags: flags, originID: own, namespace: 0, originEpoch: node.epoch,
            destinations: branch.destinations.count)
        for index in 0..<branch.destinations.count {
            DataFrame.write(branch.destinations[index], at: index, to: base)
        }
        fill(base + (length - sealed))
        link.queues[Int(frameClass.rawValue)].commit(length)
        link.wantsToSend()
    }

    // MARK: On the way

    /// A frame has come in on a link's data connection.
    /// - Returns: why the connection must end, if it must.
    func receive(
        _ bytes: UnsafeRawBufferPointer, _ header: FrameHeader, on link: MeshLink, _ conversation: MeshConversation,
        _ turn: Turn
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
            return pass(frame, from: link.number, conversation, turn)
        case FrameType.routed.rawValue:
            return node.receiveRouted(
                UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]), header, isBulk: true)
        case FrameType.bye.rawValue: return (.otherHalf, "the neighbour ends the data connection")
        default: return nil
        }
    }

    /// Splits a frame: to the next links whoever is behind them, to this node's subscriptions if it is a destination.
    private func pass(
        _ frame: DataFrame, from link: LinkNumber, _ conversation: MeshConversation?, _ turn: Turn
    ) -> (ByeReason, String)? {
        let own = node.nodes[NodeTable.own].shortID
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
        if branchCount > 0 { passOn(frame) }
        if !returning.isEmpty { park(frame, returning, link) }
        if let mine { arrive(frame, mine, conversation, turn) }
        return nil
    }

    private func passOn(_ frame: DataFrame) {
        guard frame.header.timeToLive > 1, let from = frame.bytes.baseAddress else {
            node.counters.timeToLive &+= 1
            return
        }
        node.counters.transit &+= 1
        let sealed = frame.sealed.count
        let frameClass = Int(min(max(frame.header.frameClass, 1), FrameClass.bulk.rawValue))
        for index in 0..<branchCount {
            let link = branches[index].link
            let count = branches[index].destinations.count
            let length = DataFrame.size(destinations: count, sealed: sealed)
            let base = link.queues[frameClass].reserve(length)
            base.copyMemory(from: from, byteCount: DataFrame.fixedSize)
            var header = frame.header
            header.length = length
            header.timeToLive -= 1
            header.write(to: base)
            let word = UInt16(truncatingIfNeeded: count) & 0xFFF
            base.storeBytes(of: word.littleEndian, toByteOffset: 14, as: UInt16.self)
            for place in 0..<count { DataFrame.write(branches[index].destinations[place], at: place, to: base) }
            if let bytes = frame.sealed.baseAddress {
                (base + (length - sealed)).copyMemory(from: bytes, byteCount: sealed)
            }
            link.queues[frameClass].commit(length)
            link.wantsToSend()
        }
    }

    /// The next link is the one the frame came from: the two nodes do not agree yet. A moment later they will.
    private func park(_ frame: DataFrame, _ destinations: [Destination], _ link: LinkNumber) {
        node.counters.parked &+= 1
        guard heldBytes + frame.bytes.count <= Self.maxHeldBytes else {
            node.counters.noRoute &+= UInt64(destinations.count)
            return
        }
        let copy = Self.copy(frame, destinations)
        heldBytes += copy.count
        parked.append(Parked(frame: copy, link: link, until: node.now + Self.parkMilliseconds))
        node.wake(at: node.now + Self.parkMilliseconds)
    }

    /// A frame with other destinations.
    private static func copy(_ frame: DataFrame, _ destinations: [Destination]) -> [UInt8] {
        let length = DataFrame.size(destinations: destinations.count, sealed: frame.sealed.count)
        return [UInt8](unsafeUninitializedCapacity: length) { buffer, count in
            guard let base = UnsafeMutableRawPointer(buffer.baseAddress), let from = frame.bytes.baseAddress else {
                return
            }
            base.copyMemory(from: from, byteCount: DataFrame.fixedSize)
            var header = frame.header
            header.length = length
            header.write(to: base)
            let word = UInt16(truncatingIfNeeded: destinations.count) & 0xFFF
            base.storeBytes(of: word.littleEndian, toByteOffset: 14, as: UInt16.self)
            for (index, destination) in destinations.enumerated() { DataFrame.write(destination, at: index, to: base) }
            if let sealed = frame.sealed.baseAddress {
                (base + (length - frame.sealed.count)).copyMemory(from: sealed, byteCount: frame.sealed.count)
            }
            count = length
        }
    }

    // MARK: At a destination

    private func arrive(_ frame: DataFrame, _ mine: Destination, _ conversation: MeshConversation?, _ turn: Turn) {
        guard let origin = node.nodes.node(shortID: frame.originID), node.nodes[origin].epoch == frame.originEpoch,
            mine.epochTag == Destination.tag(ofEpoch: node.epoch)
        else {
            node.counters.wrongEpoch &+= 1
            return
        }
        while origins.count <= origin { origins.append(Origin()) }
        if origins[origin].epoch != frame.originEpoch { origins[origin] = Origin(epoch: frame.originEpoch) }
        let number = frame.header.lane
        let mayHold =
            node.now < changedAt + ArrivalOrder.unrestMilliseconds
            && heldBytes + frame.bytes.count <= Self.maxHeldBytes
        switch origins[origin].lanes[number, default: ArrivalOrder()].judge(mine.counter, mayHold: mayHold) {
        case .late: node.counters.late &+= 1
        case .hold:
            let copy = Self.copy(frame, [mine])
            heldBytes += copy.count
            node.counters.held &+= 1
            let until = node.now + ArrivalOrder.holdMilliseconds
            origins[origin].lanes[number]?.hold(mine.counter, copy, until: until)
            if !holding.contains(where: { $0.origin == origin && $0.lane == number }) {
                holding.append((origin, number))
            }
            node.wake(at: until)
        case .deliver:
            deliver(frame, from: origin, copied: false, turn)
            if !holding.isEmpty { letGo(origin, number, turn) }
        }
    }

    /// Held frames whose turn has come.
    private func letGo(_ origin: NodeIndex, _ number: UInt8, _ turn: Turn) {
        while !turn.isFull, let held = origins[origin].lanes[number]?.takeHeld(now: node.now) {
            heldBytes -= held.frame.count
            held.frame.withUnsafeBytes { bytes in
                if let frame = DataFrame(bytes) { deliver(frame, from: origin, copied: true, turn) }
            }
        }
        guard origins[origin].lanes[number]?.held.isEmpty ?? true else { return }
        holding.removeAll { $0.origin == origin && $0.lane == number }
    }

    /// Hands the events of a frame to the router, with the rest of the turn.
    private func deliver(_ frame: DataFrame, from origin: NodeIndex, copied: Bool, _ turn: Turn) {
        var sealed = frame.sealed
        let flags = frame.header.flags
        if flags & Self.partFlag != 0 {
            guard let whole = assemble(frame, origin) else { return }
            sealed = Self.keep(whole, in: turn)
        } else if copied {
            sealed = Self.keep(Array(sealed), in: turn)
        }
        guard let content = EventContent(sealed), content.topic[0] != UInt8(ascii: "$") else {
            node.counters.malformed &+= 1
            return
        }
        append(content, to: turn)
    }

    private static func keep(_ bytes: [UInt8], in turn: Turn) -> UnsafeRawBufferPointer {
        let place = turn.makeScratch(bytes.count)
        bytes.withUnsafeBytes { if let base = $0.baseAddress { place.copyMemory(from: base, byteCount: $0.count) } }
        return UnsafeRawBufferPointer(start: place, count: bytes.count)
    }

    private func append(_ content: EventContent, to turn: Turn) {
        node.counters.eventsIn &+= UInt64(content.eventCount)
        let nowhere = UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped
        let expiresAt = content.millisecondsLeft == 0 ? 0 : node.now + UInt64(content.millisecondsLeft)
        var offset = 0
        var left = content.eventCount
        let events = turn.events + turn.eventCount
        let room = min(left, Turn.eventCapacity - turn.eventCount)
        guard room == left else { return overflow(content) }
        let payloads = content.payloads.baseAddress ?? nowhere
        for index in 0..<content.eventCount {
            let length = Int(UInt32(littleEndian: payloads.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
            events[index] = EventView(payload: payloads + offset + 4, payloadLength: length)
            offset += 4 + length
            left -= 1
        }
        var run = EventRun(
            topic: content.topic.baseAddress ?? nowhere, topicLength: content.topic.count, events: events,
            count: content.eventCount, wire: nowhere, wireLength: 0,
            properties: content.properties.baseAddress ?? nowhere, propertiesLength: content.properties.count,
            publisher: node.port.address, layout: .none, qos: content.qos, isRetained: content.isRetained,
            expiresAt: expiresAt)
        run.extensionLength = content.extensionLength
        run.isFromMesh = true
        turn.runs[turn.runCount] = run
        turn.runCount += 1
        turn.eventCount += content.eventCount
        turn.principal = principal
    }

    /// More events than a turn has room for: a frame never has that many.
    private func overflow(_ content: EventContent) { node.counters.malformed &+= 1 }

    /// A part of a large event.
    /// - Returns: the whole, with its last part.
    private func assemble(_ frame: DataFrame, _ origin: NodeIndex) -> [UInt8]? {
        let (flags, number) = (frame.header.flags, frame.header.lane)
        if flags & Self.firstFlag != 0 { origins[origin].assemblies[number] = [] }
        guard let soFar = origins[origin].assemblies[number]?.count,
            soFar + frame.sealed.count <= node.router.limits.maxPacketBytes + (1 << 20)
        else {
            origins[origin].assemblies[number] = nil
            node.counters.incomplete &+= 1
            return nil
        }
        origins[origin].assemblies[number]?.append(contentsOf: frame.sealed)
        guard flags & Self.lastFlag != 0 else { return nil }
        return origins[origin].assemblies.removeValue(forKey: number)
    }

    /// A turn that this filled has been routed.
    func routed(_ turn: Turn, _ arrivals: inout [Arrival]) { arrivals.removeAll(keepingCapacity: true) }

    func receiptArrived(token: UInt32) {}

    // MARK: Links

    /// Puts a frame into a link's queue.
    func append(_ frame: UnsafeRawBufferPointer, to link: MeshLink, _ frameClass: FrameClass) {
        guard let base = frame.baseAddress else { return }
        link.queues[Int(frameClass.rawValue)].reserve(frame.count).copyMemory(from: base, byteCount: frame.count)
        link.queues[Int(frameClass.rawValue)].commit(frame.count)
        link.wantsToSend()
    }

    /// Gives the connection what it takes: streams and direct events by turns, the rest when there is room.
    func produce(on link: MeshLink, _ conversation: MeshConversation) {
        link.isDirty = false
        while conversation.link.unsentBytes < 64 << 10 {
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
        guard
            routes.links.contains(link.number) || link.queues.contains(where: { !$0.isEmpty || $0.unacknowledged > 0 })
        else { return }
        orphans.append(link)
    }

    func routesChanged(_ new: Routes) {
        routes = new
        changedAt = node.now
        guard !orphans.isEmpty || !parked.isEmpty else { return }
        let waiting = orphans
        orphans = []
        let turn = lane.turn
        for link in waiting {
            for frameClass in 1...3 {
                link.queues[frameClass].forEachFrame { bytes in
                    link.counters.salvaged &+= 1
                    salvage(bytes, from: link.number, turn)
                }
                link.queues[frameClass].removeAll()
            }
        }
        let again = parked
        parked = []
        for frame in again { unpark(frame, turn) }
    }

    private func salvage(_ bytes: UnsafeRawBufferPointer, from link: LinkNumber, _ turn: Turn) {
        if let header = bytes.baseAddress.map({ FrameHeader($0) }), header.type == FrameType.routed.rawValue {
            _ = node.receiveRouted(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]), header, isBulk: true)
        } else if let frame = DataFrame(bytes) {
            _ = pass(frame, from: 0, nil, turn)
        }
    }

    private func unpark(_ parked: Parked, _ turn: Turn) {
        heldBytes -= parked.frame.count
        parked.frame.withUnsafeBytes { if let frame = DataFrame($0) { _ = pass(frame, from: 0, nil, turn) } }
    }

    func nodeChanged(_ index: NodeIndex) {
        if index < origins.count, origins[index].epoch != node.nodes[index].epoch {
            for lane in origins[index].lanes.values { for held in lane.held { heldBytes -= held.frame.count } }
            holding.removeAll { $0.origin == index }
            origins[index] = Origin()
        }
    }

    /// Frames that have waited long enough.
    func tick() -> UInt64? {
        let turn = lane.turn
        let due = parked.filter { $0.until <= node.now }
        parked.removeAll { $0.until <= node.now }
        for frame in due { unpark(frame, turn) }
        for (origin, number) in holding { letGo(origin, number, turn) }
        if !turn.isEmpty {
            node.router.route(turn, on: lane)
            turn.removeAll()
        }
        var next = parked.map(\.until).min() ?? .max
        for (origin, number) in holding { next = min(next, origins[origin].lanes[number]?.deadline ?? .max) }
        return next == .max ? nil : next
    }
}

/// A frame whose events are in the turn, and what is to be done when they have been routed.
struct Arrival {
    var origin: NodeIndex
    var counter: UInt32
    var run: Int
}
