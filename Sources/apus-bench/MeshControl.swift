internal import Glibc

/// What links say to one another beside events, and what remote filters take.
extension MeshCampaign {
    /// Bytes on one link, both ways, of a change that comes alone, and of each of many at once.
    static let (changeMust, stormMust) = (120.0, 24.0)
    /// Bytes of a link that comes again when nothing has changed.
    static let reconnectMust = 10_240.0
    /// Anonymous memory of another node's filter.
    static let filterMust = 96.0

    /// Bytes of both directions of a link's control connection.
    private func control(_ node: MeshNode, _ peer: String) throws -> Int {
        let link = try node.link(to: peer)
        return link.controlBytesOut + link.controlBytesIn
    }

    /// Bytes a second of a link on which nothing happens.
    private func idleRate(_ node: MeshNode, _ peer: String, seconds: Double) throws -> Double {
        let before = try control(node, peer)
        let begin = now()
        pause(milliseconds: Int(seconds * 1e3))
        let bytes = try control(node, peer) - before
        return Double(bytes) * 1e9 / Double(now() - begin)
    }

    /// How the devices are called that filters are for: neighbouring names share most of their bytes, or hardly any.
    /// What is told of many filters and what is kept of them may depend on it.
    private enum Naming: String, CaseIterable { case numbered, scattered }

    /// Names of the same length, all different.
    private static func filter(_ prefix: String, _ number: Int, _ naming: Naming = .numbered) -> String {
        // Times an odd number: every number below 2^40 gets another one.
        let scattered = UInt64(number + 1) &* 0x9e37_79b9_7f4a_7c15 & 0xff_ffff_ffff
        let digits = naming == .numbered ? String(number) : String(scattered, radix: 16)
        return "\(prefix)/" + String(repeating: "0", count: max(0, 10 - digits.count)) + digits + "/cmd"
    }

    private func awaitFilters(_ node: MeshNode, of peer: String, _ isSo: (Int) -> Bool) throws {
        try MeshChain.wait("the filters of \(peer) do not come to \(node.name)", seconds: 120) {
            try node.view().nodes.contains { $0.name == peer && isSo($0.filters) }
        }
    }

    /// Subscribes many filters of one client at once; returns when the other node has them.
    private func subscribe(
        _ client: Int32, at origin: MeshNode, _ prefix: String, _ naming: Naming = .numbered, count: Int,
        until seer: MeshNode
    )
        throws
    {
        let before = try seer.view().nodes.first { $0.name == origin.name }?.filters ?? 0
        let filters = (0..<count).map { Self.filter(prefix, $0, naming) }
        try Handshake.subscribe(client, filters, qos: 0, origin.broker.frames)
        try awaitFilters(seer, of: origin.name) { $0 >= before + count }
    }

    /// Scenario `bytes`.
    func controlBytes() throws {
        let chain = try chain(["A", "B", "C"])
        defer { chain.stop() }
        let (a, b, c) = (chain[0], chain[1], chain[2])
        let client = try Handshake.open(c.broker, client: "changes")
        defer { close(client) }
        try subscribe(client, at: c, "first", count: 1, until: a)
        let seconds = options.quick ? 2.0 : 5.0
        let rates = try chain.withSteadyLinks {
            [try idleRate(b, a.name, seconds: seconds), try idleRate(b, c.name, seconds: seconds)]
        }
        attempt("bytes-change") { try singleChanges(chain, client, rates) }
        for naming in Naming.allCases { attempt("bytes-storm") { try storm(chain, client, rates, naming) } }
        chain.stop()
        attempt("bytes-reconnect") { try reconnect() }
    }

    /// Control bytes of the links of the second node, to the first and to the third, while something is done, and the
    /// seconds it took.
    private func spent(_ chain: MeshChain, _ step: () throws -> Void) throws -> (bytes: [Int], seconds: Double) {
        let peers = [chain[0].name, chain[2].name]
        return try chain.withSteadyLinks {
            let before = try peers.map { try control(chain[1], $0) }
            let begin = now()
            try step()
            let bytes = try zip(peers, before).map { try control(chain[1], $0) - $1 }
            return (bytes, Double(now() - begin) / 1e9)
        }
    }

    /// What each of many things took, without what an idle link says. Every one must have been told of.
    private static func share(_ bytes: Int, _ idle: Double, of count: Int) throws -> Double {
        let each = (Double(bytes) - idle) / Double(count)
        guard each > 0 else { throw Failure("\(bytes) bytes for \(count) changes are less than an idle link's") }
        return each
    }

    /// One subscription after another, begun and ended, each alone.
    private func singleChanges(_ chain: MeshChain, _ client: Int32, _ rates: [Double]) throws {
        let (a, c) = (chain[0], chain[2])
        let changes = options.quick ? 20 : 60
        let (bytes, took) = try spent(chain) {
            for index in 0..<changes {
                let filter = Self.filter("one", index / 2)
                let frames = c.broker.frames
                let packet =
                    index % 2 == 0
                    ? frames.subscribe([filter], qos: 0) : frames.unsubscribe([filter], packetID: UInt16(index + 1))
                try Handshake.send(client, packet, frames)
                _ = try Handshake.packet(client, frames)
                pause(milliseconds: 150)
            }
        }
        for (index, peer) in [a.name, c.name].enumerated() {
            let each = try Self.share(bytes[index], rates[index] * took, of: changes)
            figure("bytes-change", "a change, link B-\(peer)", "bytes", each, must: Self.changeMust)
        }
    }

    /// Many subscriptions at once.
    private func storm(_ chain: MeshChain, _ client: Int32, _ rates: [Double], _ naming: Naming) throws {
        let (a, c) = (chain[0], chain[2])
        let count = 10_000
        let (bytes, took) = try spent(chain) {
            try subscribe(client, at: c, "storm-\(naming)", naming, count: count, until: a)
            pause(milliseconds: 300)
        }
        for (index, peer) in [a.name, c.name].enumerated() {
            let each = try Self.share(bytes[index], rates[index] * took, of: count)
            figure("bytes-storm", "a \(naming) filter in a storm, link B-\(peer)", "bytes", each, must: Self.stormMust)
        }
    }

    /// A link that ends and comes again while nobody subscribes.
    private func reconnect() throws {
        let pair = try chain(["A", "B"])
        defer { pair.stop() }
        let (a, b) = (pair[0], pair[1])
        let client = try Handshake.open(a.broker, client: "filters")
        defer { close(client) }
        let count = options.quick ? 10_000 : 100_000
        try subscribe(client, at: a, "fleet", count: count, until: b)
        let rate = try pair.withSteadyLinks { try idleRate(b, a.name, seconds: 2) }
        // What a link has counted outlives it.
        let before = Double(try control(b, a.name))
        try b.dial(a.meshPort, false)
        try MeshChain.wait("the link does not end") { try b.view().links.isEmpty && a.view().links.isEmpty }
        pause(milliseconds: 200)
        let bytes = try pair.withSteadyLinks {
            try b.dial(a.meshPort, true)
            let begin = now()
            try pair.settle()
            pause(milliseconds: 2_000)
            return Double(try control(b, a.name)) - before - rate * Double(now() - begin) / 1e9
        }
        try awaitFilters(b, of: a.name) { $0 >= count }
        figure("bytes-reconnect", "reconnecting, \(count) filters unchanged", "bytes", bytes, must: Self.reconnectMust)
    }

    /// Scenario `filters`: the memory that another node's filters take.
    func filters() throws {
        for naming in Naming.allCases { attempt("filters") { try filters(naming) } }
    }

    /// In nodes of their own.
    private func filters(_ naming: Naming) throws {
        let pair = try chain(["A", "B"])
        defer { pair.stop() }
        let (a, b) = (pair[0], pair[1])
        let client = try Handshake.open(a.broker, client: "filters")
        defer { close(client) }
        // A client may have 100,000, so the first ones are another's.
        let first = try Handshake.open(a.broker, client: "first")
        defer { close(first) }
        try subscribe(first, at: a, "first", count: 100, until: b)
        pause(milliseconds: 1_500)
        let count = options.quick ? 20_000 : 100_000
        let before = [a, b].map { $0.process.memory("Anonymous") }
        let cpuBefore = [a, b].map { $0.process.processorTime() }
        let begin = now()
        try pair.withSteadyLinks { try subscribe(client, at: a, "fleet", naming, count: count, until: b) }
        let seconds = Double(now() - begin) / 1e9
        pause(milliseconds: 1_500)
        for (index, node) in [a, b].enumerated() {
            let cpu = Double(node.process.processorTime() - cpuBefore[index]) / 1e3 / Double(count)
            figure("filters", "CPU a \(naming) filter, \(node.name)", "us", cpu)
            let bytes = Double(node.process.memory("Anonymous") - before[index]) * 1_024 / Double(count)
            let what = index == 0 ? "where its subscriber is" : "on the other node"
            figure(
                "filters", "memory a \(naming) filter, \(what)", "bytes", bytes,
                must: index == 0 ? nil : Self.filterMust)
        }
        figure("filters", "until \(count) \(naming) are there", "s", seconds)
    }

    /// Scenario `idle`: what a link takes on which nothing happens.
    func idle() throws {
        let alone = try nodeAlone()
        defer { alone.process.kill() }
        let pair = try chain(["A", "B"])
        defer { pair.stop() }
        let nodes = [alone, pair[0], pair[1]]
        pause(milliseconds: 2_000)
        let link = try pair[0].link(to: pair[1].name)
        let before = nodes.map { $0.process.processorTime() }
        let begin = now()
        try pair.withSteadyLinks { pause(milliseconds: options.quick ? 4_000 : 15_000) }
        let costs = zip(nodes, before).map { $0.process.processorTime() - $1 }
        let seconds = Double(now() - begin) / 1e9
        let after = try pair[0].link(to: pair[1].name)
        let (out, into) = (
            after.controlBytesOut - link.controlBytesOut, after.controlBytesIn - link.controlBytesIn
        )
        figure("idle", "control bytes, out", "bytes/s", Double(out) / seconds)
        figure("idle", "control bytes, in", "bytes/s", Double(into) / seconds)
        let microseconds = costs.map { Double($0) / 1e3 / seconds }
        figure("idle", "CPU of a node alone", "us/s", microseconds[0])
        figure("idle", "CPU of a node with one link", "us/s", (microseconds[1] + microseconds[2]) / 2)
    }
}
