import TestSupport

@testable import Mesh

/// Nodes with streams and a network between them that loses, doubles, delays and overtakes, in virtual time: the same
/// seed gives the same run. What is wrong in the end is found by ``StreamOracle``.
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
