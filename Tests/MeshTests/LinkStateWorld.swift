/// Link states joined by queues in memory, in virtual time: links have delays and lives, nodes crash and start anew.
/// The same seed gives the same run.
import Core
import TestSupport

@testable import Mesh

/// One node: what its link state asks of the node, and what it is told.
final class WorldNode: ControlPlane, LinkStateEvents {
    enum Event: Equatable {
        case routes(UInt64)
        case changed(NodeIndex, isRestart: Bool)
        case left(NodeIndex)
        case mustLeave
        case shortID(UInt16)
        case weights(NodeIndex, [GroupWeight])
    }

    let id: NodeID
    let name: String
    var nodes: NodeTable
    var now: UInt64 = 0
    var random64: Seeded
    var told: [Event] = []
    var lines: [String] = []
    var sent: [(link: LinkNumber, frame: [UInt8])] = []
    var peers: [LinkNumber: NodeIndex] = [:]
    /// When the link state wants its tick.
    var alarm: UInt64?
    /// When the world will look whether it is due.
    var scheduled: UInt64?
    var settings: LinkStateSettings
    private(set) var state: LinkState!

    init(
        id: NodeID, name: String = "", epoch: UInt64, instance: UInt64, seed: UInt64, now: UInt64 = 0,
        settings: LinkStateSettings = LinkStateSettings()
    ) {
        self.id = id
        self.name = name
        self.now = now
        self.settings = settings
        self.settings.name = name
        random64 = Seeded(seed: seed)
        nodes = NodeTable(own: id, epoch: epoch, instance: instance, name: name)
        state = LinkState(plane: self, events: self, settings: self.settings)
    }

    var establishedLinks: [LinkNumber] { peers.keys.sorted() }
    func wallClock() -> UInt64 { 1_700_000_000_000 + now }
    func random() -> UInt64 { random64.next() }
    func peer(of link: LinkNumber) -> NodeIndex { peers[link] ?? 0 }
    func send(_ frame: [UInt8], on link: LinkNumber) { if peers[link] != nil { sent.append((link, frame)) } }
    func route(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool) -> Bool { false }
    func isReachable(_ node: NodeIndex) -> Bool { state.routes.isReachable(node) }
    func wake(at time: UInt64) { alarm = min(alarm ?? .max, time) }
    func log(_ level: MeshLogLevel, _ message: String) { lines.append(message) }

    func routesChanged(_ routes: Routes) { told.append(.routes(routes.version)) }
    func nodeChanged(_ node: NodeIndex, isRestart: Bool) { told.append(.changed(node, isRestart: isRestart)) }
    func nodeLeft(_ node: NodeIndex) { told.append(.left(node)) }
    func mustLeave(_ reason: String) { told.append(.mustLeave) }
    func shortIDChanged(_ own: UInt16) { told.append(.shortID(own)) }
    func weightsChanged(_ node: NodeIndex, _ weights: [GroupWeight]) { told.append(.weights(node, weights)) }

    /// Lets time pass in one step, ticking when it was asked for.
    func advance(to time: UInt64) {
        now = max(now, 1)
        while let due = alarm, due <= time {
            now = max(now, due)
            alarm = state.tick()
        }
        now = time
    }

    /// Gives a whole frame to the link state.
    @discardableResult
    func receive(_ frame: [UInt8], from link: LinkNumber) -> String? {
        frame.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress, let type = FrameType(rawValue: FrameHeader(base).type) else {
                return "no frame"
            }
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
            return state.receive(type, &reader, from: link)
        }
    }

    /// An established link to a node that speaks by hand.
    func establish(_ link: LinkNumber, to peer: NodeID) {
        peers[link] = nodes.index(of: peer)
        state.linkUp(link)
    }
}

/// Many nodes.
final class LinkStateWorld {
    struct Wire {
        let a: Int, b: Int
        let number: LinkNumber
        var delay: UInt64
        var cost: UInt32 = 10
        var isUp = false
        /// Counts the connections; frames of former ones are lost.
        var life = 0
        var nonce: UInt64 = 0
        /// When the last frame in each direction arrives: connections keep order.
        var busy: [UInt64] = [0, 0]
    }

    enum Happening {
        case tick(Int)
        case frame(wire: Int, life: Int, to: Int, [UInt8])
        case ready(wire: Int, life: Int)
        case hello(wire: Int, life: Int)
        case action(() -> Void)
    }

    var now: UInt64 = 1
    var random: Seeded
    var nodes: [WorldNode] = []
    var isAlive: [Bool] = []
    var wires: [Wire] = []
    var malformed: [String] = []
    var frames = 0
    /// Of a thousand frames so many are lost, and as many come twice, the second time late. Connections do neither;
    /// what mends it must work all the same.
    var trouble: UInt64 = 0
    /// Milliseconds from one hello to the next.
    var helloInterval: UInt64 = 100
    private var heap: [(at: UInt64, order: UInt64, what: Happening)] = []
    private var order: UInt64 = 0
    private var lives: [UInt64] = []
    /// What every node has applied of each other: never an older one after a newer.
    private var applied: [[NodeID: AdvertisementVersion]] = []
    var regressions = 0

    init(seed: UInt64) { random = Seeded(seed: seed) }

    // MARK: Building

    @discardableResult
    func add(_ settings: LinkStateSettings = LinkStateSettings(), id given: NodeID? = nil) -> Int {
        let index = nodes.count
        let id = given ?? NodeID(high: random.next(), low: random.next())
        lives.append(1)
        nodes.append(
            WorldNode(
                id: id, name: "n\(index)", epoch: 1 << 16 | random.next() & 0xFFFF, instance: random.next(),
                seed: random.next(), now: now, settings: settings))
        isAlive.append(true)
        applied.append([:])
        settle(index)
        return index
    }

    @discardableResult
    func connect(_ a: Int, _ b: Int, delay: UInt64 = 2, cost: UInt32 = 10) -> Int {
        wires.append(Wire(a: a, b: b, number: wires.count + 1, delay: delay, cost: cost))
        up(wires.count - 1)
        return wires.count - 1
    }

    func up(_ wire: Int) {
        guard !wires[wire].isUp, isAlive[wires[wire].a], isAlive[wires[wire].b] else { return }
        wires[wire].isUp = true
        wires[wire].life += 1
        wires[wire].nonce = random.next()
        wires[wire].busy = [now, now]
        let (a, b, number) = (wires[wire].a, wires[wire].b, wires[wire].number)
        nodes[a].now = now
        nodes[b].now = now
        nodes[a].peers[number] = nodes[a].nodes.index(of: nodes[b].id)
        nodes[b].peers[number] = nodes[b].nodes.index(of: nodes[a].id)
        for end in [a, b] {
            nodes[end].state.linkUp(number)
            settle(end)
        }
        at(now + 2 * helloInterval, .ready(wire: wire, life: wires[wire].life))
        at(now + helloInterval, .hello(wire: wire, life: wires[wire].life))
    }

    /// Both ends notice at times of their own.
    func down(_ wire: Int, noticedWithin: UInt64 = 5) {
        guard wires[wire].isUp else { return }
        wires[wire].isUp = false
        let life = wires[wire].life
        for end in [wires[wire].a, wires[wire].b] {
            let delay = noticedWithin == 0 ? 0 : random.next() % (noticedWithin + 1)
            at(now + delay, .action { [unowned self] in noticed(wire, life, end) })
        }
    }

    private func noticed(_ wire: Int, _ life: Int, _ end: Int) {
        guard isAlive[end], wires[wire].life == life, !wires[wire].isUp else { return }
        let number = wires[wire].number
        nodes[end].peers[number] = nil
        nodes[end].state.adjacencyDown(number)
        nodes[end].state.linkDown(number)
    }

    func crash(_ node: Int) {
        isAlive[node] = false
        for wire in wires.indices where wires[wire].a == node || wires[wire].b == node { down(wire) }
    }

    /// Starts a node anew; its links come up again.
    /// - Parameter epochStep: 0 for a disk that is older than the last life.
    func restart(_ node: Int, epochStep: UInt64 = 1, settings: LinkStateSettings? = nil) {
        crash(node)
        lives[node] += epochStep
        let old = nodes[node]
        nodes[node] = WorldNode(
            id: old.id, name: old.name, epoch: lives[node] << 16 | random.next() & 0xFFFF, instance: random.next(),
            seed: random.next(), now: now, settings: settings ?? old.settings)
        applied[node] = [:]
        isAlive[node] = true
        settle(node)
        at(
            now + 20,
            .action { [unowned self] in
                for wire in wires.indices where wires[wire].a == node || wires[wire].b == node { up(wire) }
            })
    }

    // MARK: Running

    func at(_ time: UInt64, _ what: Happening) {
        order += 1
        heap.append((time, order, what))
        var place = heap.count - 1
        while place > 0, (heap[place].at, heap[place].order) < (heap[(place - 1) / 2].at, heap[(place - 1) / 2].order) {
            heap.swapAt(place, (place - 1) / 2)
            place = (place - 1) / 2
        }
    }

    private func next() -> (at: UInt64, order: UInt64, what: Happening) {
        let first = heap[0]
        let last = heap.removeLast()
        guard !heap.isEmpty else { return first }
        heap[0] = last
        var place = 0
        while true {
            var child = place * 2 + 1
            guard child < heap.count else { return first }
            if child + 1 < heap.count, (heap[child + 1].at, heap[child + 1].order) < (heap[child].at, heap[child].order)
            {
                child += 1
            }
            guard (heap[child].at, heap[child].order) < (heap[place].at, heap[place].order) else { return first }
            heap.swapAt(child, place)
            place = child
        }
    }

    func run(_ milliseconds: UInt64) {
        let end = now + milliseconds
        while let first = heap.first, first.at <= end {
            let happening = next()
            now = max(now, happening.at)
            handle(happening.what)
        }
        now = end
        for node in nodes { node.now = end }
    }

    private func handle(_ what: Happening) {
        for node in nodes { node.now = now }
        switch what {
        case .tick(let node):
            nodes[node].scheduled = nil
            if isAlive[node], let due = nodes[node].alarm, due <= now { nodes[node].alarm = nodes[node].state.tick() }
            settle(node)
        case .frame(let wire, let life, let to, let frame):
            guard isAlive[to], wires[wire].isUp, wires[wire].life == life else { return }
            frames += 1
            if let reason = nodes[to].receive(frame, from: wires[wire].number) { malformed.append(reason) }
            compare(to)
            settle(to)
        case .ready(let wire, let life):
            guard wires[wire].isUp, wires[wire].life == life else { return }
            for end in [wires[wire].a, wires[wire].b] {
                nodes[end].state.adjacencyUp(adjacency(wire, at: end))
                settle(end)
            }
        case .hello(let wire, let life):
            guard wires[wire].isUp, wires[wire].life == life else { return }
            let (a, b, number) = (wires[wire].a, wires[wire].b, wires[wire].number)
            let digests = (nodes[a].state.digest, nodes[b].state.digest)
            nodes[a].state.heard(digest: digests.1, on: number)
            nodes[b].state.heard(digest: digests.0, on: number)
            settle(a)
            settle(b)
            at(now + helloInterval, .hello(wire: wire, life: life))
        case .action(let action):
            action()
            for node in nodes.indices { settle(node) }
        }
    }

    func adjacency(_ wire: Int, at end: Int) -> Adjacency {
        let wire = wires[wire]
        let other = wire.a == end ? wire.b : wire.a
        return Adjacency(
            link: wire.number, peer: nodes[end].nodes.known(nodes[other].id) ?? 0, nonce: wire.nonce, cost: wire.cost,
            remoteLink: UInt16(wire.number))
    }

    /// Takes what a node has sent, and sees to its alarm.
    private func settle(_ node: Int) {
        guard isAlive[node] else { return }
        let sent = nodes[node].sent
        nodes[node].sent = []
        for (link, frame) in sent {
            let wire = link - 1
            guard wires[wire].isUp else { continue }
            let direction = wires[wire].a == node ? 0 : 1
            let arrival = max(wires[wire].busy[direction], now + wires[wire].delay + random.next() % 3)
            wires[wire].busy[direction] = arrival
            let what = Happening.frame(
                wire: wire, life: wires[wire].life, to: direction == 0 ? wires[wire].b : wires[wire].a, frame)
            let fate = trouble == 0 ? 1_000 : random.next() % 1_000
            if fate >= trouble { at(arrival, what) }
            if fate >= trouble, fate < 2 * trouble { at(arrival + 1 + random.next() % 500, what) }
        }
        if let alarm = nodes[node].alarm, alarm < (nodes[node].scheduled ?? .max) {
            nodes[node].scheduled = alarm
            at(max(alarm, now), .tick(node))
        }
    }

    /// Notes what a node holds now.
    private func compare(_ node: Int) {
        for index in nodes[node].state.nodes {
            guard let head = nodes[node].state.database[index]?.advertisement.head else { continue }
            if let before = applied[node][head.id], head.version < before { regressions += 1 }
            applied[node][head.id] = head.version
        }
    }

    // MARK: Looking

    func routes(_ node: Int) -> Routes { nodes[node].state.routes }

    /// Links up between live nodes, with the costs and ties that all nodes should use.
    func truth() -> LinkGraph {
        var graph = LinkGraph(vertices: nodes.count)
        for node in nodes.indices {
            graph.begin(isTransit: nodes[node].settings.isTransit)
            guard isAlive[node] else { continue }
            for wire in wires where wire.isUp && (wire.a == node || wire.b == node) {
                let other = wire.a == node ? wire.b : wire.a
                let number = UInt16(wire.number)
                graph.append(
                    LinkGraph.Edge(
                        target: Int32(other), link: number, remoteLink: number, cost: UInt64(wire.cost),
                        tie: SipHash.tie(nodes[node].id, number, nodes[other].id, number)))
            }
        }
        return graph
    }
}
