@testable import Mesh

/// Nodes with streams and a network between them that loses, doubles, delays and overtakes, in virtual time: the same
/// seed gives the same run. What is wrong in the end is found by ``StreamOracle``.

/// Mistakes that are made on purpose, to see that the oracle finds them.
enum StreamMutant: CaseIterable {
    /// Acknowledges a frame before the local queues have it.
    case settlesEarly
    /// Hands duplicates on.
    case forgetsDuplicates
    /// Hands frames on although others in front of them are missing.
    case doesNotWait
    /// Does not send voids.
    case skipsVoids
    /// Takes frames for a former life of the destination.
    case ignoresLives
    /// A share's refusal is taken for its settling.
    case forgetsRefusals
}

/// What is unkind about a network and its nodes.
struct StreamScenario {
    var nodes = 2
    var settings = StreamSettings()
    /// Out of 1,000 frames.
    var lost = 0
    var doubled = 0
    /// Milliseconds on the way, and how much more at most. Frames on one path keep their order unless they may
    /// overtake.
    var delay: UInt64 = 5
    var jitter: UInt64 = 10
    var overtakes = false
    /// How many events each node publishes, one about every so many milliseconds, to one or several others.
    var events = 200
    var pace: UInt64 = 3
    var maxSize = 400
    /// Out of 1,000 events that expire, after at most so many milliseconds.
    var expiring = 0
    var expiry: UInt64 = 60
    /// Out of 1,000 events that are shares without a member where they go first.
    var homeless = 0
    /// How long the local queues take, at most.
    var settling: UInt64 = 0
    /// Changes of routes, cuts and restarts in the course of the run.
    var reroutes = 0
    var cuts = 0
    var longestCut: UInt64 = 2_000
    var originRestarts = 0
    var destinationRestarts = 0
    var mutant: StreamMutant?
    /// Virtual time in which everything must be done, milliseconds.
    var patience: UInt64 = 300_000
}

/// What one event is, in its sealed bytes behind the place of ``EventContent``'s fixed part.
struct StreamNote: Hashable {
    var origin: Int
    var life: Int
    var number: Int
    /// A share that has been redirected.
    var isRedirected = false
    var isHomeless = false

    func sealed(size: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 16)
        for value in [origin, life, number, isRedirected ? 1 : 0, isHomeless ? 1 : 0] {
            withUnsafeBytes(of: UInt32(value).littleEndian) { bytes += $0 }
        }
        return bytes + [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: size)
    }

    init(origin: Int, life: Int, number: Int, isHomeless: Bool) {
        (self.origin, self.life, self.number, self.isHomeless) = (origin, life, number, isHomeless)
    }

    init(_ sealed: UnsafeRawBufferPointer) {
        func word(_ index: Int) -> Int { Int(sealed.loadUnaligned(fromByteOffset: 16 + index * 4, as: UInt32.self)) }
        (origin, life, number) = (word(0), word(1), word(2))
        (isRedirected, isHomeless) = (word(3) == 1, word(4) == 1)
    }
}

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

/// The network, and time.
final class StreamNetwork {
    private struct Event {
        var time: UInt64
        var serial: UInt64
        var body: () -> Void
    }

    let scenario: StreamScenario
    var random: Seeded
    private(set) var now: UInt64 = 1_000
    private(set) var all: [StreamNode] = []
    private var heap: [Event] = []
    private var serial: UInt64 = 0
    /// When the last frame of a path arrives: by from, to, channel and link.
    private var lastArrival: [Int: UInt64] = [:]
    /// Links that carry nothing: routes lead elsewhere, or nowhere, until they find out.
    private var cut: Set<Int> = []
    private var isHealed = false
    /// A number that differs when anything in a run does.
    private(set) var trace: UInt64 = 0

    init(_ scenario: StreamScenario, stream: UInt64) {
        self.scenario = scenario
        random = Seeded(stream)
        for index in 0..<scenario.nodes { all.append(StreamNode(index, self)) }
        for node in all { setRoutes(node) }
    }

    func at(_ time: UInt64, _ body: @escaping () -> Void) {
        serial += 1
        heap.append(Event(time: time, serial: serial, body: body))
        var child = heap.count - 1
        while child > 0, precedes(heap[child], heap[(child - 1) / 2]) {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    private func precedes(_ a: Event, _ b: Event) -> Bool { (a.time, a.serial) < (b.time, b.serial) }

    private func pop() -> Event? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return first }
        heap[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < heap.count && precedes(heap[child], heap[least]) { least = child }
            guard least != parent else { return first }
            heap.swapAt(parent, least)
            parent = least
        }
    }

    /// Takes a frame along a path.
    func carry(from: Int, to: Int, channel: Int, link: LinkNumber, _ arrive: @escaping () -> Void) {
        guard link != 0, !cut.contains(min(from, to) * 64 + max(from, to)) else { return }
        var copies = 1
        if !isHealed {
            if random.below(1_000) < scenario.lost { copies = 0 }
            if random.below(1_000) < scenario.doubled { copies += 1 }
        }
        for _ in 0..<copies {
            var time = now + scenario.delay * UInt64(link) + random.next() % (scenario.jitter + 1)
            let path = ((from * 64 + to) * 2 + channel) * 64 + link
            if !scenario.overtakes { time = max(time, lastArrival[path] ?? 0) }
            lastArrival[path] = time
            at(time, arrive)
        }
    }

    private func setRoutes(_ node: StreamNode, link: LinkNumber = 1) {
        var routes = Routes()
        routes.links = Array(repeating: link, count: scenario.nodes)
        routes.links[0] = 0
        for other in 0..<scenario.nodes where cut.contains(min(node.index, other) * 64 + max(node.index, other)) {
            routes.links[node.local(other)] = 0
        }
        node.routes = routes
        node.streams.routesChanged(routes)
    }

    // MARK: A run

    private func span() -> UInt64 { UInt64(scenario.events) * scenario.pace + 500 }

    /// Somewhere in the course of the run.
    private func sometime() -> UInt64 { now + random.next() % span() }

    private func plan() {
        for _ in 0..<scenario.reroutes {
            let (node, link) = (random.below(scenario.nodes), 1 + random.below(4))
            at(sometime()) { [unowned self] in setRoutes(all[node], link: link) }
        }
        for _ in 0..<scenario.cuts { planCut() }
        for _ in 0..<scenario.originRestarts { planRestart(random.below(max(1, scenario.nodes - 1))) }
        for _ in 0..<scenario.destinationRestarts { planRestart(scenario.nodes - 1) }
        for node in all { publishNext(node) }
    }

    /// A pair can no longer reach each other: first silently, then the routes say so, for a while.
    private func planCut() {
        let (a, b) = (random.below(scenario.nodes), random.below(scenario.nodes))
        guard a != b else { return }
        let pair = min(a, b) * 64 + max(a, b)
        let (start, length) = (sometime(), random.next() % scenario.longestCut)
        at(start) { [unowned self] in if !isHealed { cut.insert(pair) } }
        for node in [a, b] {
            at(start + random.next() % 400) { [unowned self] in setRoutes(all[node]) }
            at(start + length + random.next() % 100) { [unowned self] in
                cut.remove(pair)
                setRoutes(all[node])
            }
        }
    }

    private func planRestart(_ index: Int) {
        at(sometime()) { [unowned self] in
            guard !isHealed else { return }
            all[index].restart()
            let life = all[index].life
            for other in all where other.index != index {
                at(now + random.next() % 50) {
                    guard other.nodes[other.local(index)].epoch < StreamNode.epoch(life) else { return }
                    other.nodes.update(other.local(index), epoch: StreamNode.epoch(life), instance: 1, name: "")
                    other.streams.nodeRestarted(other.local(index))
                }
            }
        }
    }

    private func publishNext(_ node: StreamNode) {
        at(now + random.next() % (2 * scenario.pace + 1)) { [unowned self] in
            guard node.publications < scenario.events else { return }
            if node.heldBy == 0 { publish(node) }
            publishNext(node)
        }
    }

    private func publish(_ node: StreamNode) {
        node.publications += 1
        var destinations = all.indices.filter { $0 != node.index && random.once(in: 2) }
        if destinations.isEmpty {
            destinations = [all.indices.filter { $0 != node.index }.randomElement(using: &random) ?? 0]
        }
        let isHomeless = destinations.count == 1 && random.below(1_000) < scenario.homeless
        let note = StreamNote(
            origin: node.index, life: node.life, number: node.publications, isHomeless: isHomeless)
        let expiresAt = random.below(1_000) < scenario.expiring ? now + 1 + random.next() % scenario.expiry : 0
        let publication = node.streams.publish(
            note.sealed(size: random.below(scenario.maxSize + 1)), events: 1, to: destinations.map { node.local($0) },
            expiresAt: expiresAt)
        node.heldBy = publication.hold
        if publication.hold != 0 { node.holdsSeen += 1 }
        if publication.refused > 0 { node.failure = "refused although the publisher was held" }
        for destination in destinations { node.published[destination].append(note) }
    }

    private var isDrained: Bool {
        all.allSatisfy {
            $0.publications == scenario.events && $0.streams.spool.count == 0 && $0.streams.heldBytes == 0
        }
    }

    /// Runs until everything has arrived, or time is over.
    /// - Returns: what is wrong; nil for nothing.
    func run() -> String? {
        plan()
        let end = now + scenario.patience
        while let event = pop(), event.time < end {
            now = event.time
            event.body()
            trace = (trace ^ now) &* 0x9E37_79B9_7F4A_7C15 ^ UInt64(heap.count)
            if !isHealed, now > 1_000 + span() * 2, all.allSatisfy({ $0.publications == scenario.events }) { heal() }
            if isHealed, isDrained, now > 1_000 + span() * 2 + 5_000 { break }
        }
        for node in all { node.totals.add(node.streams.counters) }
        return StreamOracle(self).failure
    }

    private func heal() {
        isHealed = true
        cut = []
        for node in all { setRoutes(node) }
    }

    var isQuiet: Bool { isDrained }
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

/// Judges a run.
struct StreamOracle {
    private(set) var failure: String?

    init(_ network: StreamNetwork) {
        for node in network.all {
            if let reason = node.failure { failure = "node \(node.index): \(reason)" }
        }
        if failure == nil, !network.isQuiet {
            let left = network.all.map { "\($0.publications)/\($0.streams.spool.count)/\($0.streams.heldBytes)" }
            failure = "not everything has arrived: \(left)"
        }
        for origin in network.all where failure == nil {
            var missing = 0
            for destination in network.all where destination.index != origin.index {
                missing += judge(origin, destination)
            }
            let counted = origin.totals.droppedExpired + origin.totals.droppedUnreachable + origin.totals.noMember
            // What is given up may have arrived, and its acknowledgement not. What a node alone had dies with it.
            if failure == nil, origin.life == 1, missing > counted {
                failure = "of node \(origin.index) \(missing) are missing, \(counted) counted"
            }
        }
    }

    /// - Returns: how many events have not been settled in any life of the destination.
    private mutating func judge(_ origin: StreamNode, _ destination: StreamNode) -> Int {
        let all = origin.published[destination.index]
        var places: [StreamNote: Int] = [:]
        for (place, note) in all.enumerated() { places[note] = place }
        var settled: Set<StreamNote> = []
        var last: [Int: Int] = [:]
        let name = "from \(origin.index) to \(destination.index)"
        for taken in destination.taken where taken.note.origin == origin.index {
            guard let place = places[taken.note] else {
                failure = "\(name): \(taken.note) was not published"
                continue
            }
            // Within one life of the destination: in order, and so never twice.
            if let before = last[taken.life], before >= place {
                failure = "\(name): \(taken.note) came after \(all[before])"
            }
            last[taken.life] = place
            if settled.contains(taken.note), !taken.isPossibleDuplicate {
                failure = "\(name): \(taken.note) came to two lives without saying so"
            }
            if taken.isSettled { settled.insert(taken.note) }
        }
        return all.count - settled.count
    }
}
