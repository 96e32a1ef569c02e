import Core

@testable import Mesh

/// The real mesh on a station: its sockets, clocks, chance and disk are the world's.
final class MeshBrain: Brain {
    private final class Host: MeshHost {
        unowned let brain: MeshBrain
        init(_ brain: MeshBrain) { self.brain = brain }

        override func dial(_ address: String, ticket: Int) { brain.dial(address, ticket) }
        override func wallClock() -> UInt64 { brain.station.wallClock }
        override func microseconds() -> UInt64 { brain.station.clockStart * 1_000 + brain.station.world.now }
        override func random() -> UInt64 { brain.station.randomness.next() }
        override func keep(shortID: UInt16) { brain.play.disks[brain.station.index].shortID = shortID }
        override func keep(epoch: UInt64) { brain.play.disks[brain.station.index].keep(epoch: epoch) }
        override func log(_ level: MeshLogLevel, _ message: String) { brain.play.log(brain.station, level, message) }
    }

    unowned let play: Play
    private(set) unowned var station: Station
    private(set) var node: MeshNode!
    private var host: Host!
    /// What was last seen, to notice changes.
    private var routesVersion: UInt64 = 0
    /// By node index: the newest advertisement seen (I5).
    var versions: [AdvertisementVersion?] = []

    init(_ play: Play, _ station: Station) {
        self.play = play
        self.station = station
    }

    /// How stations call each other: the name, a dot and the cable's number.
    static func address(_ station: Int, _ cable: Int) -> String { "n\(station).\(cable):1" }

    private func dial(_ address: String, _ ticket: Int) {
        let parts = address.dropFirst().split(whereSeparator: { $0 == "." || $0 == ":" }).compactMap { Int($0) }
        let isKnown = parts.count == 3
        station.dial(to: isKnown ? parts[0] : nil, cable: isKnown ? parts[1] : 0, tag: UInt64(ticket))
    }

    func start(on station: Station) {
        host = Host(self)
        let scenario = play.scenario
        let isLater = scenario.hasLater ?? false && station.index % 2 == 1
        #if DEBUG
            host.sabotage = Sabotage(rawValue: play.sabotage)
            if isLater { host.sabotage.insert(.later) }
        #endif
        var settings = MeshSettings()
        if isLater { settings.versions = 1...2 }
        settings.listen = Self.address(station.index, 0)
        settings.advertise = [Self.address(station.index, 0)]
        settings.join = scenario.joinsFully ? .full : .configured
        settings.profile = MeshSettings.Profile(rawValue: scenario.profile) ?? .standard
        for cable in station.cables {
            let isFirst = cable.ends[0] == station.index
            // Mostly one side dials, at times both.
            guard isFirst || cable.dialsBothWays else { continue }
            let other = cable.ends[isFirst ? 1 : 0]
            guard !scenario.missing.contains(other) else { continue }
            var entry = MeshSettings.LinkEntry(address: Self.address(other, cable.number))
            entry.name = cable.number == 0 ? "" : "\(cable.number)"
            settings.links.append(entry)
        }
        if scenario.hasPolicies ?? false, station.index % 2 == 0 { settings.policies = Self.policies }
        let disk = play.disks[station.index]
        let identity = MeshIdentity(
            id: NodeID(high: disk.idHigh, low: disk.idLow),
            epoch: play.keepsEpoch ? 1 << 16 : disk.epochCounter << 16 | host.random() & 0xFFFF,
            instance: host.random(),
            shortID: disk.shortID, name: station.name)
        node = MeshNode(settings, identity, router: station.router, lane: station.lane, host: host)
    }

    /// Every frame is judged, retained events are compared in both directions; all of it passes.
    private static let policies: [LinkPolicy] = {
        var policy = LinkPolicy(peers: ["*"])
        policy.export.deny = ["never/>"].compactMap { try? TopicFilter($0, grammar: .smf) }
        policy.import.deny = policy.export.deny
        return [policy]
    }()

    func accept(_ line: Line) -> Conversation { node.accepted(line, on: station.lane) }

    func connected(_ line: Line, tag: UInt64) -> Conversation { node.dialled(Int(tag), link: line, on: station.lane) }

    func dialFailed(tag: UInt64) { node.dialFailed(Int(tag), "no answer") }

    func passed() {
        let version = node.linkState.routes.version
        if version != routesVersion {
            routesVersion = version
            station.world.onUnrest()
        }
    }
}
