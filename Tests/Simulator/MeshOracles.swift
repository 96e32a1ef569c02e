import Core

@testable import Mesh

/// The oracles that look into the nodes: freshness, agreement, adjacency, routes, interest.
final class MeshOracles: Inspector {
    unowned let play: Play
    let frames: FrameOracle
    private var interestCheckedAt: UInt64 = 0
    private(set) var difference = "nothing was looked at"

    init(_ play: Play) {
        self.play = play
        frames = FrameOracle(play.observer, play.world)
        play.world.onSent = { [unowned self] end, bytes in sent(end, bytes) }
    }

    private var brains: [(station: Station, node: MeshNode)] {
        play.world.stations.compactMap { station in
            guard station.isRunning, let brain = station.brain as? MeshBrain, let node = brain.node else { return nil }
            return (station, node)
        }
    }

    // MARK: Frames

    private func sent(_ end: SocketEnd, _ bytes: UnsafeRawBufferPointer) {
        let watch = end.watch as? FrameWatch ?? FrameWatch()
        end.watch = watch
        watch.take(bytes) { frame in
            frames.sent(frame, from: end.station.index, to: end.peer.station.index, origin: origin(of: frame))
        }
    }

    /// Stations by the number in destination sets that they were last seen with.
    private var origins: [UInt16: Int] = [:]

    private func origin(of frame: DataFrame) -> Int? {
        if let known = origins[frame.originID], let node = (play.world.stations[known].brain as? MeshBrain)?.node,
            node.nodes[NodeTable.own].shortID == frame.originID, node.epoch == frame.originEpoch
        {
            return known
        }
        for (station, node) in brains
        where node.nodes[NodeTable.own].shortID == frame.originID && node.epoch == frame.originEpoch {
            origins[frame.originID] = station.index
            return station.index
        }
        return nil
    }

    // MARK: Looking

    func look() {
        judgeFreshness()
        noteReachability()
        judgeBounds()
        if play.isTroubled || !isConverged { play.observer.noteUnrest() } else { play.observer.noteCalm() }
    }

    /// I5: nobody goes back to something older.
    private func judgeFreshness() {
        for (station, node) in brains {
            guard let brain = station.brain as? MeshBrain else { continue }
            while brain.versions.count < node.nodes.count { brain.versions.append(nil) }
            for index in 0..<node.nodes.count {
                guard let version = node.linkState.database[index]?.advertisement.head.version else { continue }
                if let seen = brain.versions[index], version < seen {
                    play.observer.violate(
                        "I5", "\(station.name) went back to an older advertisement of \(node.nodes[index].name)")
                }
                brain.versions[index] = version
            }
        }
    }

    /// What grows has an end.
    private func judgeBounds() {
        for (station, node) in brains {
            if node.links.count > node.settings.maxLinks {
                play.observer.violate("I14", "\(station.name) has \(node.links.count) links")
            }
            for link in node.links {
                for queue in link.queues where queue.heldBytes > node.settings.maxLinkBytes + FrameHeader.maxSize {
                    play.observer.violate(
                        "I14", "\(station.name) holds \(queue.heldBytes) bytes for one link and class")
                }
            }
        }
    }

    /// Since when one station has no route to another, and when it last had none for so long that guaranteed events may
    /// have been given up.
    private var unreachable: [Int: UInt64] = [:]
    private var gaveUp: [Int: UInt64] = [:]
    private static let patience: UInt64 = 25_000_000

    private func noteReachability() {
        let brains = brains
        let now = play.world.now
        for (station, node) in brains {
            for (other, there) in brains where other !== station {
                let pair = station.index << 16 | other.index
                if node.isKnown(there.identity.id) {
                    unreachable[pair] = nil
                } else {
                    let since = unreachable[pair] ?? now
                    unreachable[pair] = since
                    if now > since + Self.patience { gaveUp[pair] = now }
                }
            }
        }
    }

    // MARK: Agreement

    var isConverged: Bool {
        difference = findDifference() ?? ""
        return difference.isEmpty
    }

    var isConnected: Bool {
        let brains = brains
        for (station, node) in brains {
            let hops = hops(from: station.index)
            for (other, there) in brains where hops[other.index] >= 0 && !node.isKnown(there.identity.id) {
                difference = "\(station.name) has no route to \(other.name)"
                return false
            }
        }
        return true
    }

    /// Distances in links over the cables that work, from one station; -1 where there is none.
    private func hops(from start: Int) -> [Int] {
        let world = play.world
        var hops = Array(repeating: -1, count: world.stations.count)
        hops[start] = 0
        var next = [start]
        while let station = next.first {
            next.removeFirst()
            for cable in world.stations[station].cables where cable.isSilent == [false, false] {
                let other = cable.ends[0] == station ? cable.ends[1] : cable.ends[0]
                guard hops[other] < 0, world.stations[other].isRunning, !play.scenario.missing.contains(other) else {
                    continue
                }
                hops[other] = hops[station] + 1
                next.append(other)
            }
        }
        return hops
    }

    private func findDifference() -> String? {
        let brains = brains
        guard brains.count == play.stationNumbers.count else { return "not all nodes run" }
        for (station, node) in brains {
            if let reason = node.hasLeft { return "\(station.name) has left: \(reason)" }
            let hops = hops(from: station.index)
            for (other, there) in brains where other !== station {
                guard let index = node.nodes.known(there.identity.id) else {
                    if hops[other.index] < 0 { continue }
                    return "\(station.name) does not know \(other.name)"
                }
                let routes = node.linkState.routes
                let distance = index < routes.distances.count ? routes.distances[index] : .max
                if hops[other.index] < 0 {
                    if routes.isReachable(index) { return "\(station.name) believes that it reaches \(other.name)" }
                    continue
                }
                let expected = UInt64(hops[other.index]) * 10
                guard routes.isReachable(index), distance == expected else {
                    return "\(station.name) has \(other.name) at distance \(distance), not \(expected)"
                }
                if node.linkState.digest != there.linkState.digest {
                    return "\(station.name) and \(other.name) have other advertisements"
                }
                if node.nodes[index].epoch != there.epoch {
                    return "\(station.name) knows another life of \(other.name)"
                }
                if node.nodes[index].shortID != there.nodes[NodeTable.own].shortID || node.nodes[index].shortID == 0 {
                    return "\(station.name) has another number for \(other.name)"
                }
                if node.interest.digest != there.interest.digest {
                    return "\(station.name) and \(other.name) have other interests"
                }
            }
            if let problem = judgeAdjacencies(station, node, brains) { return problem }
        }
        return interestDifference(brains)
    }

    /// I12: whoever has an adjacency has it with somebody who has it too.
    private func judgeAdjacencies(
        _ station: Station, _ node: MeshNode, _ brains: [(station: Station, node: MeshNode)]
    ) -> String? {
        for link in node.links where link.isUp {
            let peer = brains.first { $0.node.identity.id == node.nodes[link.peer].id }
            guard peer?.node.links.contains(where: { $0.nonce == link.nonce && $0.isUp }) ?? false else {
                return "\(station.name) has a link up that \(node.nodes[link.peer].name) has not"
            }
        }
        return nil
    }

    // MARK: Interest

    private var interestDifference: String?

    /// Who wants what, as each node has it, against who wants it: what holds for a while must be known, and nothing
    /// else (I6, I7). Looked at twice a second.
    private func interestDifference(_ brains: [(station: Station, node: MeshNode)]) -> String? {
        let now = play.world.now
        guard now >= interestCheckedAt + 500_000 || interestDifference != nil else { return nil }
        interestCheckedAt = now
        interestDifference = nil
        let numbers = Dictionary(uniqueKeysWithValues: brains.map { ($0.node.identity.id, $0.station.index) })
        for topic in play.observer.ledger.topics {
            let (must, may) = wanting(topic, now)
            for (station, node) in brains {
                let found = topic.withUnsafeBytes { node.router.remoteMatches($0) }
                let stations = Set(
                    (found.nodes + found.groups.flatMap(\.nodes)).compactMap { index in
                        numbers[node.nodes[index].id]
                    })
                let reachable = Set(brains.filter { node.isKnown($0.node.identity.id) }.map(\.station.index))
                let missing = must.intersection(reachable).subtracting(stations).subtracting([station.index])
                let wrong = stations.subtracting(may)
                if missing.isEmpty, wrong.isEmpty { continue }
                interestDifference =
                    "\(station.name) believes that \(stations.sorted()) want "
                    + String(decoding: topic, as: UTF8.self) + ", but not \(missing.sorted()) do and not "
                    + "\(wrong.sorted()) do not"
                return interestDifference
            }
        }
        return nil
    }

    /// Stations that have wanted a topic for a while, and those that may have.
    private func wanting(_ topic: [UInt8], _ now: UInt64) -> (must: Set<Int>, may: Set<Int>) {
        var must: Set<Int> = []
        var may: Set<Int> = []
        let start = now - min(now, Observer.propagation)
        for listener in play.observer.ledger.listeners where listener.goneAt >= start {
            if !may.contains(listener.station), listener.mayHaveWanted(topic, from: start, to: now) {
                may.insert(listener.station)
            }
            // Of groups a node lists members elsewhere only while it has none itself.
            if listener.goneAt == .max, listener.group == nil, !must.contains(listener.station),
                listener.wanted(topic, from: start, to: now)
            {
                must.insert(listener.station)
            }
        }
        return (must, may)
    }

    // MARK: The end

    var isDrained: Bool {
        let brains = brains
        for (_, node) in brains {
            for case let stream? in node.streams.outgoing where !stream.isSpent && node.isReachable(stream.node) {
                return false
            }
        }
        return Set(brains.map(\.node.retained.digest)).count <= 1
    }

    func judgeEnd() {
        frames.judgeCrossings()
        let world = play.world
        let lived = { (station: Int, life: Int) in
            world.stations[station].isRunning && world.stations[station].life == life
        }
        play.observer.judgeCompleteness(lived: lived) { message, station in
            gaveUp[message.station << 16 | station].map { $0 > message.at } ?? false
        }
        judgeRetained(lived)
    }

    /// I17: everybody has the same values, and none that was replaced.
    private func judgeRetained(_ lived: (Int, Int) -> Bool) {
        let ledger = play.observer.ledger
        // What a clock far ahead has written is not outdone before that time has come.
        let isClockWild = play.scenario.faults.contains { $0.kind == .clock && abs($0.value) > 60_000 }
        for topic in Topics.live.count..<Topics.all.count {
            let name = ledger.topics[topic]
            var values: [Int?: [String]] = [:]
            for (station, node) in brains {
                let event = name.withUnsafeBytes { node.router.retained($0, now: station.lane.now) }
                let number = event.flatMap { event -> Int? in
                    Payload.number(
                        UnsafeRawBufferPointer(
                            start: event.bytes + event.topicLength + event.propertiesLength,
                            count: event.payloadLength))
                }
                values[number, default: []].append(station.name)
            }
            let all = values.sorted { ($0.key ?? -1) < ($1.key ?? -1) }
            guard all.count == 1 else {
                let text = all.map { "\($0.key.map { "\($0)" } ?? "nothing") at \($0.value.sorted())" }
                play.observer.violate("I17", "\(Topics.all[topic]) is \(text)")
                continue
            }
            guard !isClockWild else { continue }
            judgeLast(topic, all[0].key, lived)
        }
    }

    /// Whether a value, or none, can be what was written last.
    private func judgeLast(_ topic: Int, _ value: Int?, _ lived: (Int, Int) -> Bool) {
        let messages = play.observer.ledger.messages
        let writes = messages.indices.filter { messages[$0].isRetained && messages[$0].topic == topic }
        func isOutdone(_ write: Int) -> Bool {
            writes.contains { other in
                guard other > write, lived(messages[other].station, messages[other].life) else { return false }
                if messages[other].station == messages[write].station, messages[other].life == messages[write].life {
                    return true
                }
                // Who agreed with everybody after a quiet time knew of the value.
                let spread = messages[write].at + Observer.transit
                return messages[other].agreedAt >= spread
                    && play.observer.isCalm(messages[write].at, spread)
            }
        }
        if let value {
            if isOutdone(value) {
                play.observer.violate("I17", "\(Topics.all[topic]) is \(value), which was replaced or deleted later")
            }
        } else if let last = writes.last, writes.allSatisfy({ !messages[$0].isDelete || isOutdone($0) }),
            lived(messages[last].station, messages[last].life)
        {
            play.observer.violate("I17", "\(Topics.all[topic]) has no value, and nobody has deleted \(last)")
        }
    }
}

extension MeshNode {
    /// Whether a node is known here by its id.
    fileprivate func isKnown(_ id: NodeID) -> Bool { nodes.known(id).map { isReachable($0) } ?? false }
}

extension Play {
    /// A run of the mesh.
    static func mesh(
        _ scenario: Scenario, sabotage: UInt32 = 0, tracing message: Int? = nil,
        log: ((UInt64, String, MeshLogLevel, String) -> Void)? = nil
    ) -> Outcome {
        let play = Play(scenario, sabotage: sabotage) { play, station in MeshBrain(play, station) }
        play.logger = log
        let oracles = MeshOracles(play)
        oracles.frames.traced = message
        return play.run(oracles)
    }

    func log(_ station: Station, _ level: MeshLogLevel, _ message: String) {
        logger?(world.now, "\(station.name).\(station.life)", level, message)
    }
}
