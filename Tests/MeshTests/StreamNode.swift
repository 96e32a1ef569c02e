@testable import Mesh

/// A node: streams, what publishes, and the local queues.
final class StreamNode: ControlPlane, StreamForwarding {
    struct Taken {
        var note: StreamNote
        var life: Int
        var isPossibleDuplicate: Bool
        var isSettled: Bool
    }

    let index: Int
    unowned let network: StreamNetwork
    var life = 1
    var nodes: NodeTable
    private var made: Streams?
    var streams: Streams { made.unsafelyUnwrapped }
    var routes = Routes()
    /// Events handed on, in order; what a crash takes away has gone.
    var taken: [Taken] = []
    /// Events accepted, by destination, in order.
    var published: [[StreamNote]]
    var publications = 0
    var heldBy: UInt64 = 0
    var holdsSeen = 0
    var totals = StreamCounters()
    var failure: String?
    private var wakeAt = UInt64.max

    init(_ index: Int, _ network: StreamNetwork) {
        self.index = index
        self.network = network
        published = Array(repeating: [], count: network.scenario.nodes)
        nodes = StreamNode.table(of: index, network)
        made = Streams(plane: self, forwarding: self, settings: network.scenario.settings)
    }

    /// Node numbers of the network are turned so that each is 0 to itself.
    func local(_ node: Int) -> NodeIndex { node == index ? 0 : node < index ? node + 1 : node }
    func global(_ node: NodeIndex) -> Int { node == 0 ? index : node <= index ? node - 1 : node }

    static func epoch(_ life: Int) -> UInt64 { UInt64(life) << 16 | 0x55 }

    private static func table(of index: Int, _ network: StreamNetwork) -> NodeTable {
        let own = NodeID(high: 1, low: UInt64(index))
        let table = NodeTable(own: own, epoch: epoch(1), instance: 1, name: "")
        for other in 0..<network.scenario.nodes where other != index {
            guard let place = table.index(of: NodeID(high: 1, low: UInt64(other))) else { continue }
            table.update(place, epoch: epoch(1), instance: 1, name: "")
        }
        return table
    }

    /// The process dies and starts again.
    func restart() {
        totals.add(streams.counters)
        life += 1
        taken.removeAll { $0.life == life - 1 && !$0.isSettled }
        nodes = StreamNode.table(of: index, network)
        nodes.update(0, epoch: Self.epoch(life), instance: 1, name: "")
        for other in network.all where other.index != index {
            nodes.update(local(other.index), epoch: Self.epoch(other.life), instance: 1, name: "")
        }
        made = Streams(plane: self, forwarding: self, settings: network.scenario.settings)
        streams.routesChanged(routes)
        heldBy = 0
        wakeAt = .max
    }

    // MARK: What streams ask

    var now: UInt64 { network.now }
    func wallClock() -> UInt64 { network.now }
    func random() -> UInt64 { network.random.next() }
    var establishedLinks: [LinkNumber] { [] }
    func peer(of link: LinkNumber) -> NodeIndex { 0 }
    func send(_ frame: [UInt8], on link: LinkNumber) {}
    func log(_ level: MeshLogLevel, _ message: String) {}
    func isReachable(_ node: NodeIndex) -> Bool { routes.isReachable(node) }

    /// One timer, as the hub has one: it is set to an earlier time or not at all.
    func wake(at time: UInt64) {
        guard time < wakeAt else { return }
        wakeAt = max(time, now)
        let due = wakeAt
        network.at(due) { [unowned self] in if wakeAt == due { tick() } }
    }

    private func tick() {
        wakeAt = .max
        if let next = streams.tick() { wake(at: max(next, now + 1)) }
    }

    func route(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool) -> Bool {
        guard routes.isReachable(node) else { return false }
        let (to, from) = (global(node), index)
        network.carry(from: from, to: to, channel: 0, link: routes.link(to: node)) { [network] in
            network.all[to].control(frame, from: from)
        }
        return true
    }

    func forwardStream(_ sealed: UnsafeRawBufferPointer, flags: UInt8, to targets: [StreamTarget]) {
        if network.scenario.mutant == .skipsVoids, flags & StreamFlags.void != 0 { return }
        let (bytes, from, epoch) = (Array(sealed), index, Self.epoch(life))
        for target in targets {
            let to = global(target.node)
            let destination = Destination(
                shortID: 1, epochTag: Destination.tag(ofEpoch: nodes[target.node].epoch), counter: target.counter)
            network.carry(from: from, to: to, channel: 1, link: routes.link(to: target.node)) { [network] in
                network.all[to].data(bytes, flags, from: from, epoch, destination)
            }
        }
    }

    func released(_ hold: UInt64) { if hold == heldBy { heldBy = 0 } }

    func noMember(_ sealed: UnsafeRawBufferPointer, at node: NodeIndex, expiresAt: UInt64) {
        // The other member is at the same node, as if somebody had joined meanwhile.
        var note = StreamNote(sealed)
        note.isRedirected = true
        _ = streams.publish(note.sealed(size: 8), events: 1, to: [node], expiresAt: expiresAt)
        published[global(node)].append(note)
    }

    func givenUp(_ sealed: UnsafeRawBufferPointer, expiresAt: UInt64, wasSent: Bool) -> Bool { false }

    // MARK: What arrives

    private func control(_ frame: [UInt8], from: Int) {
        let header = frame.withUnsafeBytes { $0.baseAddress.map { FrameHeader($0) } }
        guard let header, let type = FrameType(rawValue: header.type) else { return }
        frame.withUnsafeBytes { bytes in
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
            if let reason = streams.receive(type, &reader, from: local(from)) { failure = reason }
        }
    }

    private func data(_ sealed: [UInt8], _ flags: UInt8, from: Int, _ epoch: UInt64, _ destination: Destination) {
        var destination = destination
        let mutant = network.scenario.mutant
        if mutant == .ignoresLives { destination.epochTag = Destination.tag(ofEpoch: Self.epoch(life)) }
        let arrival = sealed.withUnsafeBytes {
            streams.arrived(from: local(from), originEpoch: epoch, destination, flags: flags, $0)
        }
        switch arrival {
        case .deliver(let delivery): handOn(sealed, flags, delivery)
        case .duplicate where mutant == .forgetsDuplicates && !sealed.isEmpty: handOn(sealed, flags, nil)
        case .held where mutant == .doesNotWait && !sealed.isEmpty: handOn(sealed, flags, nil)
        default: break
        }
        while let next = streams.take() { handOn(next.sealed, next.flags, next.delivery) }
    }

    private func handOn(_ sealed: [UInt8], _ flags: UInt8, _ delivery: Streams.Delivery?) {
        let note = sealed.withUnsafeBytes { StreamNote($0) }
        if note.isHomeless, !note.isRedirected, let delivery {
            let hasMember = network.scenario.mutant == .forgetsRefusals
            return later { $0.streams.settled(delivery, hasMember: hasMember) }
        }
        let place = taken.count
        taken.append(
            Taken(
                note: note, life: life, isPossibleDuplicate: flags & StreamFlags.possibleDuplicate != 0,
                isSettled: false))
        if network.scenario.mutant == .settlesEarly, let delivery { streams.settled(delivery) }
        later { node in
            node.taken[place].isSettled = true
            if let delivery { node.streams.settled(delivery) }
        }
    }

    /// The local queues take their time, if this life lasts.
    private func later(_ body: @escaping (StreamNode) -> Void) {
        let settling = network.scenario.settling
        guard settling > 0 else { return body(self) }
        let life = life
        network.at(now + network.random.next() % (settling + 1)) { [unowned self] in if life == self.life { body(self) }
        }
    }
}

extension StreamCounters {
    mutating func add(_ other: StreamCounters) {
        droppedUnreachable += other.droppedUnreachable
        droppedExpired += other.droppedExpired
        duplicates += other.duplicates
        framesResent += other.framesResent
        framesSent += other.framesSent
        voidsSent += other.voidsSent
        heldFrames += other.heldFrames
        renumbered += other.renumbered
        refused += other.refused
        held += other.held
        noMember += other.noMember
        beyondWindow += other.beyondWindow
        probesSent += other.probesSent
    }
}
