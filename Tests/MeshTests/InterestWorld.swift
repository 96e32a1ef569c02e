import Core
import TestSupport

@testable import Mesh

/// Nodes with nothing but their interest, links that hold frames up and may lose them, and routes that every node
/// learns when it pleases.
final class InterestWorld {
    struct Wire {
        let ends: (Int, Int)
        let delay: UInt64
        var isUp = false
        /// Counts the times it came up: what was on its way before is gone.
        var life = 0
        /// When the last frame arrives, in both directions: order is kept.
        var arrival: (UInt64, UInt64) = (0, 0)
    }

    private struct Event {
        var time: UInt64
        var number: Int
        var body: () -> Void
    }

    var now: UInt64 = 1_000
    var random: Seeded
    var nodes: [InterestNode] = []
    var wires: [Wire] = []
    /// One of this many frames gets lost; 0 for none.
    var loses = 0
    /// Milliseconds until a node hears of other routes, at most.
    var routeDelay = 60
    private var events: [Event] = []
    private var eventNumber = 0
    var frames = 0
    var bytes = 0

    init(seed: UInt64, nodes count: Int, maxFilters: Int = 1_000_000) {
        random = Seeded(seed: seed)
        for number in 0..<count { nodes.append(InterestNode(self, number, epoch: 1 << 16, maxFilters: maxFilters)) }
    }

    func at(_ time: UInt64, _ body: @escaping () -> Void) {
        eventNumber += 1
        var place = events.count
        let event = Event(time: max(time, now), number: eventNumber, body: body)
        events.append(event)
        // A heap by time, then number.
        while place > 0, isBefore(event, events[(place - 1) / 2]) {
            events[place] = events[(place - 1) / 2]
            place = (place - 1) / 2
        }
        events[place] = event
    }

    private func isBefore(_ a: Event, _ b: Event) -> Bool { (a.time, a.number) < (b.time, b.number) }

    private func popEvent() -> Event? {
        guard let first = events.first, let last = events.popLast() else { return nil }
        guard !events.isEmpty else { return first }
        var place = 0
        while true {
            var child = place * 2 + 1
            guard child < events.count else { break }
            if child + 1 < events.count, isBefore(events[child + 1], events[child]) { child += 1 }
            guard isBefore(events[child], last) else { break }
            events[place] = events[child]
            place = child
        }
        events[place] = last
        return first
    }

    func run(for milliseconds: UInt64) {
        let end = now + milliseconds
        while let first = events.first, first.time <= end, let event = popEvent() {
            now = max(now, event.time)
            event.body()
        }
        now = end
    }

    // MARK: Links

    func addWire(_ a: Int, _ b: Int, delay: UInt64) {
        wires.append(Wire(ends: (a, b), delay: delay))
        up(wires.count - 1)
    }

    func up(_ wire: Int) {
        guard !wires[wire].isUp else { return }
        wires[wire].isUp = true
        wires[wire].life += 1
        let (a, b) = wires[wire].ends
        nodes[a].link(wire + 1, to: b)
        nodes[b].link(wire + 1, to: a)
        nodes[a].interest?.linkUp(wire + 1)
        nodes[b].interest?.linkUp(wire + 1)
        hello(wire, wires[wire].life)
        changeRoutes()
    }

    func down(_ wire: Int) {
        guard wires[wire].isUp else { return }
        wires[wire].isUp = false
        for node in [wires[wire].ends.0, wires[wire].ends.1] { nodes[node].unlink(wire + 1) }
        changeRoutes()
    }

    private func hello(_ wire: Int, _ life: Int) {
        at(now + 100) { [unowned self] in
            guard wires[wire].isUp, wires[wire].life == life else { return }
            for end in [wires[wire].ends.0, wires[wire].ends.1] {
                guard let digest = nodes[end].interest?.digest else { continue }
                carry(wire, from: end) { $0.interest?.heard(digest: digest, on: wire + 1) }
            }
            hello(wire, life)
        }
    }

    private func carry(_ wire: Int, from node: Int, _ body: @escaping (InterestNode) -> Void) {
        let life = wires[wire].life
        let isFirst = wires[wire].ends.0 == node
        let time = max(now + wires[wire].delay, isFirst ? wires[wire].arrival.0 : wires[wire].arrival.1)
        if isFirst { wires[wire].arrival.0 = time } else { wires[wire].arrival.1 = time }
        let other = isFirst ? wires[wire].ends.1 : wires[wire].ends.0
        at(time) { [unowned self] in
            guard wires[wire].isUp, wires[wire].life == life else { return }
            body(nodes[other])
        }
    }

    func send(_ frame: [UInt8], on link: LinkNumber, from node: Int) {
        guard wires[link - 1].isUp else { return }
        frames += 1
        bytes += frame.count
        if loses > 0, random.once(in: loses) { return }
        carry(link - 1, from: node) { $0.take(frame, on: link) }
    }

    // MARK: Routes

    /// Distances from a node over links that are up, in hops; then by the smaller number.
    func parents(of origin: Int) -> [Int: LinkNumber] {
        var parents: [Int: LinkNumber] = [origin: 0]
        var layer = [origin]
        while !layer.isEmpty {
            var next: [Int] = []
            for (number, wire) in wires.enumerated() where wire.isUp {
                for (from, to) in [(wire.ends.0, wire.ends.1), (wire.ends.1, wire.ends.0)]
                where layer.contains(from) && (parents[to] == nil) {
                    parents[to] = number + 1
                    next.append(to)
                }
            }
            layer = next
        }
        return parents
    }

    /// Every node learns of the routes there are now, in its own time.
    func changeRoutes() {
        for node in nodes { at(now + UInt64(random.below(routeDelay + 1))) { [unowned self] in learn(node.number) } }
    }

    func learn(_ number: Int) {
        let node = nodes[number]
        var routes = Routes()
        routes.links = Array(repeating: 0, count: node.nodes.count)
        routes.distances = Array(repeating: .max, count: node.nodes.count)
        routes.children = Array(repeating: [], count: node.nodes.count)
        for other in nodes.indices {
            let parents = parents(of: other)
            guard parents[number] != nil else { continue }
            let index = node.index(of: other)
            while routes.links.count <= index {
                routes.links.append(0)
                routes.distances.append(.max)
                routes.children.append([])
            }
            if other != number { routes.links[index] = parents[number] ?? 0 }
            for (child, link) in parents.sorted(by: { $0.key < $1.key }) where child != other && child != number {
                let ends = wires[link - 1].ends
                if ends.0 == number && ends.1 == child || ends.1 == number && ends.0 == child {
                    routes.children[index].append(link)
                }
            }
        }
        node.routes = routes
        node.interest?.routesChanged(routes)
    }

    /// A node ends and begins its next life, without subscriptions.
    func restart(_ number: Int) {
        for (wire, each) in wires.enumerated() where each.ends.0 == number || each.ends.1 == number { down(wire) }
        let epoch = nodes[number].epoch + (1 << 16)
        nodes[number] = InterestNode(self, number, epoch: epoch, maxFilters: nodes[number].maxFilters)
        for other in nodes where other.number != number {
            at(now + UInt64(random.below(200))) { [unowned self] in nodes[other.number].hear(of: number, epoch) }
        }
        for (wire, each) in wires.enumerated() where each.ends.0 == number || each.ends.1 == number {
            at(now + UInt64(random.below(100))) { [unowned self] in up(wire) }
        }
    }

    // MARK: Judging

    /// What is different between what nodes want and what the others have of it.
    func differences() -> [String] {
        var found: [String] = []
        for a in nodes {
            for b in nodes where a.number != b.number && parents(of: a.number)[b.number] != nil {
                let index = b.index(of: a.number)
                guard let interest = b.interest, let own = a.interest else { continue }
                if interest.version(of: index) != own.ownVersion, own.own.sequence > 0 {
                    let version = interest.version(of: index).map { "\($0.epoch >> 16).\($0.sequence)" } ?? "nothing"
                    let wanted = "\(own.own.epoch >> 16).\(own.own.sequence)"
                    found.append("\(b.number) has \(version) of \(a.number) instead of \(wanted)")
                } else if b.content(of: a.number) != a.ownContent() {
                    found.append("\(b.number) has other filters of \(a.number)")
                }
            }
        }
        return found
    }
}

/// A node of the world.
final class InterestNode: ControlPlane {
    final class Client: Port {}

    unowned let world: InterestWorld
    let number: Int
    let epoch: UInt64
    let maxFilters: Int
    let nodes: NodeTable
    let lane: Lane
    let router: Router
    let mesh = Client()
    let client = Client()
    let principal: Principal
    var interest: Interest?
    var routes = Routes()
    private var peers: [LinkNumber: NodeIndex] = [:]
    private(set) var establishedLinks: [LinkNumber] = []
    private var wakes = Set<UInt64>()
    var refusals: [String] = []
    var logged: [String] = []
    private var draws: UInt64 = 0

    static func id(_ number: Int) -> NodeID { NodeID(high: UInt64(number + 1) << 40, low: 77) }

    init(_ world: InterestWorld, _ number: Int, epoch: UInt64, maxFilters: Int) {
        self.world = world
        self.number = number
        self.epoch = epoch
        self.maxFilters = maxFilters
        nodes = NodeTable(own: Self.id(number), epoch: epoch, instance: 1, name: "\(number)")
        let lanes = Lanes(wakes: [{}], limits: Limits())
        lane = Lane(number: 0, lanes: lanes)
        router = Router(limits: Limits(), hashKey: UInt64(number) &* 77 &+ 5)
        principal = Principal(identity: Identity(user: nil, groups: []), clientID: "c", router: router)
        router.attachMesh(mesh, on: lane) {}
        router.register(client, on: lane)
        interest = Interest(plane: self, router: router, maxFilters: maxFilters)
        wake(at: now)
    }

    // MARK: What the parts ask

    var now: UInt64 { world.now }
    func wallClock() -> UInt64 { world.now }
    func random() -> UInt64 {
        draws += 1
        return InterestHash.mixed(draws)
    }
    func peer(of link: LinkNumber) -> NodeIndex { peers[link] ?? 0 }
    func send(_ frame: [UInt8], on link: LinkNumber) { world.send(frame, on: link, from: number) }
    func route(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool) -> Bool { false }
    func isReachable(_ node: NodeIndex) -> Bool { routes.isReachable(node) }
    func log(_ level: MeshLogLevel, _ message: String) { logged.append(message) }

    func wake(at time: UInt64) {
        let time = max(time, now)
        guard wakes.insert(time).inserted else { return }
        world.at(time) { [weak self] in
            guard let self else { return }
            wakes.remove(time)
            if let next = interest?.tick() { wake(at: max(next, now + 1)) }
        }
    }

    // MARK: What happens to it

    func index(of other: Int) -> NodeIndex {
        if let known = nodes.known(Self.id(other)) { return known }
        let index = nodes.index(of: Self.id(other)) ?? 0
        nodes.update(index, epoch: world.nodes[other].epoch, instance: 1, name: "\(other)")
        interest?.nodeChanged(index, isRestart: false)
        return index
    }

    func hear(of other: Int, _ epoch: UInt64) {
        let index = index(of: other)
        guard epoch >= nodes[index].epoch else { return }
        nodes.update(index, epoch: epoch, instance: 1, name: "\(other)")
        interest?.nodeChanged(index, isRestart: true)
    }

    func link(_ link: LinkNumber, to other: Int) {
        peers[link] = index(of: other)
        establishedLinks = (establishedLinks + [link]).sorted()
    }

    func unlink(_ link: LinkNumber) {
        establishedLinks.removeAll { $0 == link }
        interest?.linkDown(link)
    }

    func take(_ frame: [UInt8], on link: LinkNumber) {
        frame.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress, let type = FrameType(rawValue: FrameHeader(base).type) else { return }
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
            if let reason = interest?.receive(type, &reader, from: link) { refusals.append(reason) }
        }
    }

    func subscribe(_ text: String, grammar: TopicFilter.Grammar = .mqtt) {
        guard let filter = try? TopicFilter(text, grammar: grammar) else { return }
        _ = router.subscribe(client, Subscription(filter: filter, options: .qos(0)), as: principal, on: lane)
        interest?.localChanged()
    }

    func unsubscribe(_ text: String, grammar: TopicFilter.Grammar = .mqtt) {
        guard let filter = try? TopicFilter(text, grammar: grammar) else { return }
        router.unsubscribe(client, filter)
        interest?.localChanged()
    }

    // MARK: What it has

    func content(of other: Int) -> [String] {
        let index = index(of: other)
        guard let interest, index < interest.sets.count, let set = interest.sets[index] else { return [] }
        var found: [String] = []
        var cursor: UInt32 = 0
        while true {
            let page = router.remoteFilters(of: set.remote, after: cursor, limit: 100, places: 100)
            found += page.entries.map { "\($0.filter.wholeText) \($0.isPresent)" }
            guard let next = page.next else { return found.sorted() }
            cursor = next
        }
    }

    func ownContent() -> [String] {
        guard let own = interest?.own else { return [] }
        var found: [String] = []
        var cursor: OwnInterest.Cursor? = .filters(0)
        while let place = cursor {
            let (page, next) = own.page(after: place, limit: 100, bytes: 1 << 20, places: 100)
            for (list, isPresent) in [(page.begins, true), (page.absent, false)] {
                for bytes in list {
                    let filter = bytes.withUnsafeBytes { TopicFilter(canonical: $0) }
                    found.append("\(filter?.wholeText ?? "?") \(isPresent)")
                }
            }
            cursor = next
        }
        return found.sorted()
    }
}
