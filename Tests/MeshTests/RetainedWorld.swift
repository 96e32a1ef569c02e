import Core
import Synchronization
import TestSupport

@testable import Core
@testable import Mesh

/// Nodes that have nothing but a router and a ``RetainedSync``, links between them that are queues in memory, and a
/// time that stands still until everything has been done. Publishes travel to all nodes that can be reached.
final class RetainedWorld {
    /// A frame or an event on its way.
    private struct Packet {
        var at: UInt64
        var order: Int
        var from: Int
        var to: Int
        /// Nil for an event.
        var frame: [UInt8]?
        var isBulk = false
        var event: (Event, EventVersion)?
    }

    private(set) var nodes: [RetainedNode] = []
    /// By pair: whether a link is there.
    private var links: [[Bool]] = []
    private var packets: [Packet] = []
    private var order = 0
    var now: UInt64 = 1_000
    /// Milliseconds that a frame takes.
    var delay: UInt64 = 2
    /// Of a hundred frames in class bulk, how many get lost.
    var loss = 0
    /// Whether hellos carry digests.
    var greets = true
    /// Whether some frames are changed on their way.
    var mutates = false
    /// Whether events of live publishes reach other nodes.
    var carriesEvents = true
    var random: Random
    let limits: Limits
    /// The largest amount of frames and bytes that was on its way at once.
    private(set) var mostBulkBytes = 0
    private(set) var largestFrame = 0
    private var nextHello: UInt64 = 0

    init(_ count: Int, seed: UInt64, limits: Limits = Limits()) {
        random = Random(seed)
        self.limits = limits
        for number in 0..<count { nodes.append(RetainedNode(number, count, self, epoch: 1)) }
        links = Array(repeating: Array(repeating: false, count: count), count: count)
    }

    var wall: UInt64 { 1_700_000_000_000 + now }

    // MARK: Links

    func link(_ a: Int, _ b: Int) {
        guard !links[a][b] else { return }
        (links[a][b], links[b][a]) = (true, true)
        nodes[a].sync.linkUp(b + 1)
        nodes[b].sync.linkUp(a + 1)
    }

    func cut(_ a: Int, _ b: Int) {
        guard links[a][b] else { return }
        (links[a][b], links[b][a]) = (false, false)
        packets.removeAll { ($0.from == a && $0.to == b) || ($0.from == b && $0.to == a) }
        nodes[a].sync.linkDown(b + 1)
        nodes[b].sync.linkDown(a + 1)
    }

    func isLinked(_ a: Int, _ b: Int) -> Bool { links[a][b] }

    /// Begins a node anew, with nothing; its links stay.
    func restart(_ number: Int) {
        let neighbours = nodes.indices.filter { links[number][$0] }
        for other in neighbours { cut(number, other) }
        packets.removeAll { $0.to == number }
        nodes[number] = RetainedNode(number, nodes.count, self, epoch: nodes[number].epoch + 1)
        for other in neighbours { link(number, other) }
    }

    func reachable(from node: Int) -> [Int] {
        var found = [node]
        var index = 0
        while index < found.count {
            for other in nodes.indices where links[found[index]][other] && !found.contains(other) {
                found.append(other)
            }
            index += 1
        }
        return found
    }

    // MARK: Time

    func send(_ frame: [UInt8], from: Int, to: Int, isBulk: Bool) {
        largestFrame = max(largestFrame, frame.count)
        if isBulk, Int(random.next() % 100) < loss { return }
        var frame = frame
        if mutates, random.below(3) == 0, frame.count > FrameHeader.size {
            if random.below(3) == 0 { frame.removeLast(random.below(frame.count - FrameHeader.size)) }
            let place = FrameHeader.size + random.below(max(1, frame.count - FrameHeader.size))
            if place < frame.count { frame[place] = UInt8(truncatingIfNeeded: random.next()) }
        }
        packets.append(Packet(at: now + delay, order: order, from: from, to: to, frame: frame, isBulk: isBulk))
        order += 1
        mostBulkBytes = max(mostBulkBytes, packets.reduce(0) { $0 + ($1.isBulk ? $1.frame?.count ?? 0 : 0) })
    }

    func spread(_ event: Event, _ version: EventVersion, from: Int) {
        guard carriesEvents else { return }
        for other in reachable(from: from) where other != from {
            let at = now + delay + random.next() % 20
            packets.append(Packet(at: at, order: order, from: from, to: other, event: (event, version)))
            order += 1
        }
    }

    /// Lets time pass.
    func run(_ milliseconds: UInt64) {
        let end = now + milliseconds
        while true {
            for node in nodes { node.work() }
            if packets.contains(where: { $0.at <= now }) {
                deliver()
                continue
            }
            if nextHello <= now { hello() }
            let next = min(
                packets.reduce(UInt64.max) { min($0, $1.at) },
                nodes.reduce(nextHello) { min($0, $1.wakeAt) }, end)
            guard next > now || now < end else { break }
            now = max(next, now)
            if now >= end, !packets.contains(where: { $0.at <= now }), nodes.allSatisfy({ $0.wakeAt > now }) { break }
        }
    }

    private func deliver() {
        var due = packets.filter { $0.at <= now }
        packets.removeAll { $0.at <= now }
        due.sort { ($0.at, $0.order) < ($1.at, $1.order) }
        for packet in due {
            // A link that was cut meanwhile carries nothing more; an event comes some way while there is one.
            guard packet.frame == nil || links[packet.from][packet.to] else { continue }
            nodes[packet.to].receive(packet.frame, packet.event, from: packet.from, isBulk: packet.isBulk)
        }
    }

    private func hello() {
        for a in nodes.indices where greets {
            for b in nodes.indices where links[a][b] { nodes[b].sync.heard(digest: nodes[a].sync.digest, on: a + 1) }
        }
        nextHello = now + 100
    }

    /// Whether all nodes of each component have the same.
    var hasConverged: Bool {
        nodes.indices.allSatisfy { node in
            reachable(from: node).allSatisfy { nodes[$0].sync.digest == nodes[node].sync.digest }
        }
    }

    /// Lets time pass until all nodes of each component have the same.
    /// - Returns: how long it took; nil when it took longer than `limit`.
    func converge(within limit: UInt64) -> UInt64? {
        let start = now
        while now - start <= limit {
            run(50)
            if hasConverged, packets.allSatisfy({ $0.event == nil }) { return now - start }
        }
        return nil
    }
}

/// One of them.
final class RetainedNode: ControlPlane {
    let number: Int
    let epoch: UInt64
    unowned let world: RetainedWorld
    let router: Router
    let lane: Lane
    let nodes: NodeTable
    private(set) var sync: RetainedSync!
    var wakeAt: UInt64 = 0
    private(set) var complaints: [String] = []
    /// Milliseconds that its wall clock is ahead.
    var skew: Int64 = 0
    /// By topic: the newest version that a subscriber of this node has been given.
    private(set) var seen: [String: EventVersion] = [:]
    /// Replicated values that a subscriber was given after a newer one.
    private(set) var regressed = 0
    /// Replicated values given to subscribers, by topic and payload.
    private(set) var replicated: [String] = []
    let subscriber = RetainedSubscriber()
    /// The most entries and values dealt with in one call.
    private(set) var mostWork = 0

    private final class MeshPort: Port {
        unowned let node: RetainedNode
        init(_ node: RetainedNode) { self.node = node }

        override func deliver(
            _ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane
        ) -> Int {
            guard target.pointee.options.contains(.everywhere) else { return 0 }
            for index in 0..<run.pointee.count {
                node.published(run.pointee.event(index), run.pointee.version.advanced(by: index))
            }
            return 0
        }
    }

    init(_ number: Int, _ count: Int, _ world: RetainedWorld, epoch: UInt64) {
        self.number = number
        self.epoch = epoch
        self.world = world
        lane = Lane(number: 0, lanes: Lanes(wakes: [{}], limits: world.limits))
        router = Router(limits: world.limits, hashKey: UInt64(number) + 77 + epoch << 8)
        // Indexes are those of the world, but each node has index 0 for itself.
        nodes = NodeTable(own: Self.id(number), epoch: epoch, instance: epoch, name: "n\(number)")
        for other in 0..<count where other != number { _ = nodes.index(of: Self.id(other)) }
        let clock = WallClock()
        self.clock = clock
        clock.time.store(world.wall, ordering: .relaxed)
        router.keepRetainedVersions(
            writer: Self.id(number).high, wallClock: { clock.time.load(ordering: .relaxed) }, changed: {})
        sync = RetainedSync(plane: self, router: router) { [unowned self] in replicated($0, $1) }
        let port = MeshPort(self)
        router.register(port, on: lane)
        router.meshPort = port.address
        router.register(subscriber, on: lane)
        if let filter = try? TopicFilter("#", grammar: .mqtt) {
            let subscription = Subscription(filter: filter, options: .qos(0))
            _ = router.subscribe(subscriber, subscription, as: .node(router), on: lane)
        }
    }

    private final class WallClock: Sendable { let time = Atomic<UInt64>(0) }
    private let clock: WallClock
    private var waiting: [(Event, EventVersion)] = []

    static func id(_ number: Int) -> NodeID { NodeID(high: UInt64(number) * 13 % 31 + 1, low: UInt64(number)) }

    func index(of other: Int) -> NodeIndex { nodes.known(Self.id(other)) ?? 0 }
    private func other(_ node: NodeIndex) -> Int { Int(nodes[node].id.low) }

    // MARK: What a control plane does

    var now: UInt64 { world.now }
    func wallClock() -> UInt64 { UInt64(Int64(world.wall) + skew) }
    func random() -> UInt64 { world.random.next() }
    var establishedLinks: [LinkNumber] {
        world.nodes.indices.filter { world.isLinked(number, $0) }.map { $0 + 1 }
    }
    func peer(of link: LinkNumber) -> NodeIndex { index(of: link - 1) }
    func send(_ frame: [UInt8], on link: LinkNumber) {
        world.send(frame, from: number, to: link - 1, isBulk: false)
    }
    func route(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool) -> Bool {
        let other = other(node)
        guard world.isLinked(number, other) else { return false }
        world.send(frame, from: number, to: other, isBulk: isBulk)
        return true
    }
    func isReachable(_ node: NodeIndex) -> Bool { world.reachable(from: number).contains(other(node)) }
    func wake(at time: UInt64) { wakeAt = min(wakeAt, time) }
    func log(_ level: MeshLogLevel, _ message: String) { complaints.append(message) }

    // MARK: What happens

    private func setTime() {
        lane.now = world.now
        clock.time.store(wallClock(), ordering: .relaxed)
    }

    func work() {
        setTime()
        guard wakeAt <= now else { return }
        wakeAt = .max
        let before = sync.counters
        if let next = sync.tick() { wake(at: next) }
        mostWork = max(mostWork, sync.counters.received - before.received)
        routeWaiting()
    }

    func receive(_ frame: [UInt8]?, _ event: (Event, EventVersion)?, from: Int, isBulk: Bool) {
        setTime()
        if let (event, version) = event {
            seen[event.topicText] = max(seen[event.topicText] ?? .none, version)
            return arrive(event, version)
        }
        let before = sync.counters.received
        frame?.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress, let type = FrameType(rawValue: FrameHeader(base).type) else { return }
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
            let reason =
                isBulk
                ? sync.receive(type, &reader, fromNode: index(of: from))
                : sync.receive(type, &reader, from: from + 1)
            if let reason { complaints.append(reason) }
        }
        mostWork = max(mostWork, sync.counters.received - before)
        routeWaiting()
    }

    private func replicated(_ event: Event, _ version: EventVersion) {
        if let known = seen[event.topicText], version <= known { regressed += 1 }
        seen[event.topicText] = version
        replicated.append("\(event.topicText)=\(event.text)")
        waiting.append((event, version))
    }

    /// Routes an event of another node.
    private func arrive(_ event: Event, _ version: EventVersion) {
        let turn = lane.turn
        turn.runs[0] = EventRun(event: event, view: turn.events, publisher: .none)
        turn.runs[0].isFromMesh = true
        turn.runs[0].version = version
        (turn.runCount, turn.eventCount, turn.principal) = (1, 1, .node(router))
        router.route(turn, on: lane)
        turn.removeAll()
    }

    /// Not from within the part that found them.
    private func routeWaiting() {
        for (event, version) in waiting { arrive(event, version) }
        waiting = []
    }

    fileprivate func published(_ event: Event, _ version: EventVersion) {
        seen[event.topicText] = version
        world.spread(event, version, from: number)
    }

    // MARK: What tests do

    func publish(_ topic: String, _ payload: String, expiresIn left: UInt64 = 0) {
        publish(topic, bytes: Array(payload.utf8), expiresIn: left)
    }

    func publish(_ topic: String, bytes: [UInt8], expiresIn left: UInt64 = 0) {
        setTime()
        let event = Array(topic.utf8).withUnsafeBytes { topic in
            bytes.withUnsafeBytes { payload in
                Event(
                    topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: payload, qos: 0,
                    isRetained: true, expiresAt: left == 0 ? 0 : now + left)
            }
        }
        router.publish(event, as: .node(router), on: lane)
    }

    func remove(_ topic: String) {
        setTime()
        if Array(topic.utf8).withUnsafeBytes({ router.removeRetained($0) }) { sync.localChanged() }
    }

    func value(_ topic: String) -> String? {
        Array(topic.utf8).withUnsafeBytes { router.retained($0, now: now) }.map(\.text)
    }

    /// Everything a new subscription would see.
    var contents: [String] {
        guard let filter = try? TopicFilter("#", grammar: .mqtt) else { return [] }
        return router.retained(matching: filter, now: now).map { "\($0.topicText)=\($0.text)" }.sorted()
    }

    /// All topics with their versions, deletions included.
    var versions: [UInt64: EventVersion] {
        var entries: [RetainedEntry] = []
        for bucket in 0..<Router.retainedBuckets {
            _ = router.retainedEntries(of: bucket, after: 0, max: .max, into: &entries)
        }
        return Dictionary(entries.map { ($0.hash, $0.version) }) { max($0, $1) }
    }
}

/// Counts what subscribers are given.
final class RetainedSubscriber: Port {
    var events = 0
    var last: [String: String] = [:]

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        events += run.pointee.count
        let event = run.pointee.event(run.pointee.count - 1)
        last[event.topicText] = event.text
        return 0
    }
}

extension Event {
    var text: String { String(decoding: payload, as: UTF8.self) }
    var topicText: String { String(decoding: topic, as: UTF8.self) }
}

/// Random numbers that are the same for the same seed.
struct Random {
    private var state: UInt64
    init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 &+ 1 }
    mutating func next() -> UInt64 {
        state = state &+ 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
}
