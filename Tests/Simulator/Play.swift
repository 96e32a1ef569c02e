import Core

@testable import Mesh

/// A scenario being played: stations, members and faults over a world, and what the observer has to say.
final class Play {
    let scenario: Scenario
    let world: World
    let observer: Observer
    /// Mistakes that the nodes make: ``Sabotage``, in debug builds.
    let sabotage: UInt32
    let makeBrain: (Play, Station) -> any Brain
    private(set) var members: [Member] = []
    private(set) var isHealed = false
    /// What every station's disk holds.
    var disks: [Disk]
    /// Faults that are in force.
    private(set) var active: Set<Int> = []
    private var slowUntil: UInt64 = 0
    /// Where the nodes' logs go: time, node, level, line.
    var logger: ((UInt64, String, MeshLogLevel, String) -> Void)?
    /// Publishing has ended.
    private(set) var isQuiet = false

    init(_ scenario: Scenario, sabotage: UInt32 = 0, makeBrain: @escaping (Play, Station) -> any Brain) {
        self.scenario = scenario
        self.sabotage = sabotage
        self.makeBrain = makeBrain
        let world = World(seed: scenario.seed)
        self.world = world
        observer = Observer(world)
        disks = (0..<scenario.nodes).map { Disk($0, world.randomness.split(4, $0)) }
        var limits = Limits()
        limits.maxSubscriptionsPerSession = 10_000
        #if DEBUG
            if Sabotage(rawValue: sabotage).contains(.tombstonesDropped) { limits.maxTombstones = 0 }
        #endif
        world.stations = (0..<scenario.nodes).map { Station(world, index: $0, limits: limits) }
        for spec in scenario.cables {
            let cable = Cable(
                world, spec.a, spec.b, number: spec.number, delay: UInt64(spec.delay), jitter: UInt64(spec.jitter),
                rate: spec.rate)
            world.cables.append(cable)
            world.stations[spec.a].cables.append(cable)
            world.stations[spec.b].cables.append(cable)
        }
        world.onUnrest = { [unowned self] in observer.noteUnrest() }
        world.onFault = { [unowned self] number, begins in fault(number, begins) }
        world.onMember = { [unowned self] number in members[number].act(in: self) }
        for index in stationNumbers {
            let at = UInt64(world.stations[index].randomness.below(500_000))
            world.plan(at: at) { [unowned self] in start(index) }
        }
        makeMembers()
        for (number, fault) in scenario.faults.enumerated() {
            world.plan(.fault(number, begins: true), at: UInt64(fault.at) * 1_000)
            world.plan(.fault(number, begins: false), at: UInt64(min(fault.at + fault.length, scenario.heal)) * 1_000)
        }
        world.plan(at: UInt64(scenario.heal) * 1_000) { [unowned self] in heal() }
    }

    /// Whether processes start with the epoch they had before.
    var keepsEpoch: Bool {
        #if DEBUG
            return Sabotage(rawValue: sabotage).contains(.epochKept)
        #else
            return false
        #endif
    }

    /// Stations that take part.
    var stationNumbers: [Int] { (0..<scenario.nodes).filter { !scenario.missing.contains($0) } }

    // MARK: Stations

    func start(_ index: Int) {
        let station = world.stations[index]
        guard !station.isRunning else { return }
        disks[index].count()
        station.start { makeBrain(self, station) }
        for member in members where member.station == index { member.begin(in: self) }
    }

    private func stop(_ index: Int, powerOff: Bool) {
        let station = world.stations[index]
        for listener in observer.ledger.listeners where listener.station == index && listener.goneAt == .max {
            listener.goneAt = world.now
        }
        for member in members where member.station == index { member.lost() }
        station.crash(powerOff: powerOff)
        observer.noteUnrest()
    }

    // MARK: Faults

    /// Whether something is wrong right now, or was a moment ago.
    var isTroubled: Bool { !active.isEmpty || world.now < slowUntil }

    private func fault(_ number: Int, _ begins: Bool) {
        let fault = scenario.faults[number]
        guard !isHealed || !begins else { return }
        if begins { active.insert(number) } else if active.remove(number) == nil { return }
        if !begins, [.slow, .spike, .pause].contains(fault.kind) { slowUntil = world.now + 3_000_000 }
        if fault.isAboutCable {
            aboutCable(world.cables[fault.target], fault, number, begins)
        } else if fault.isAboutNode {
            guard !scenario.missing.contains(fault.target) else { return }
            aboutNode(fault, begins)
        } else {
            aboutMany(fault, begins)
        }
    }

    private func aboutCable(_ cable: Cable, _ fault: Scenario.Fault, _ number: Int, _ begins: Bool) {
        let spec = scenario.cables[fault.target]
        switch fault.kind {
        case .reset: if begins { cable.reset() }
        case .silence, .silenceOneWay: settleSilence()
        case .flap: if begins { flap(cable, number) } else { settleSilence() }
        case .slow: cable.rate = begins ? fault.value : spec.rate
        case .spike: cable.delay = UInt64(spec.delay + (begins ? fault.value * 1_000 : 0))
        case .halfOpen:
            if begins { for connection in cable.connections { connection.ends[fault.value].vanishOrReset() } }
        default: break
        }
    }

    /// Down, and a period later up again, as long as the fault lasts.
    private func flap(_ cable: Cable, _ number: Int) {
        guard active.contains(number) else { return }
        let period = UInt64(max(scenario.faults[number].value, 5)) * 1_000
        if scenario.faults[number].value % 2 == 0 {
            cable.reset()
        } else {
            flapping[number, default: false].toggle()
            settleSilence()
        }
        world.plan(at: world.now + period) { [unowned self] in flap(cable, number) }
    }

    private var flapping: [Int: Bool] = [:]

    /// What is silent follows from all faults together.
    private func settleSilence() {
        observer.noteUnrest()
        for (index, cable) in world.cables.enumerated() {
            var isSilent = [false, false]
            for number in active.sorted() {
                let fault = scenario.faults[number]
                switch fault.kind {
                case .silence where fault.target == index: isSilent = [true, true]
                case .silenceOneWay where fault.target == index: isSilent[fault.value] = true
                case .flap where fault.target == index && flapping[number] ?? false: isSilent = [true, true]
                case .isolate where cable.ends.contains(fault.target): isSilent = [true, true]
                case .partition where fault.value >> cable.ends[0] & 1 != fault.value >> cable.ends[1] & 1:
                    isSilent = [true, true]
                default: break
                }
            }
            cable.setSilent(from: 0, isSilent[0])
            cable.setSilent(from: 1, isSilent[1])
        }
    }

    private func aboutNode(_ fault: Scenario.Fault, _ begins: Bool) {
        let index = fault.target
        switch fault.kind {
        case .crash, .powerOff, .oldDisk, .wipe:
            guard begins else { return start(index) }
            stop(index, powerOff: fault.kind == .powerOff)
            if fault.kind == .oldDisk { disks[index].goBack() }
            if fault.kind == .wipe { disks[index].wipe() }
        case .pause:
            let end = UInt64(min(fault.at + fault.length, scenario.heal)) * 1_000
            if begins { world.stations[index].pause(until: end) }
        case .clock: world.stations[index].clockError += Int64(begins ? fault.value : -fault.value)
        case .isolate: settleSilence()
        case .storm:
            for member in members where member.station == index {
                if begins { member.storm(fault.value, in: self) } else { member.calm(in: self) }
            }
        default: break
        }
    }

    private func aboutMany(_ fault: Scenario.Fault, _ begins: Bool) {
        switch fault.kind {
        case .partition: settleSilence()
        case .resetMany:
            guard begins else { return }
            for (index, cable) in world.cables.enumerated()
            where Randomness.mix(UInt64(fault.value + index)) & 1 == 0 { cable.reset() }
        default: break
        }
    }

    /// Everything works again.
    private func heal() {
        for number in active.sorted() { fault(number, false) }
        isHealed = true
        active = []
        settleSilence()
        for index in stationNumbers { start(index) }
        observer.noteUnrest()
    }

    // MARK: Members

    private func makeMembers() {
        let load = scenario.load
        for station in stationNumbers {
            for number in 0..<load.publishers {
                members.append(
                    Member(members.count, .publisher, station, world.randomness.split(5, station << 8 | number)))
            }
            for number in 0..<load.subscribers {
                members.append(
                    Member(members.count, .subscriber, station, world.randomness.split(6, station << 8 | number)))
            }
        }
        for group in 0..<load.groups {
            var randomness = world.randomness.split(7, group)
            let filter = Topics.filter(&randomness, wildcards: 50, retained: 0)
            for station in stationNumbers where randomness.chance(0.6) {
                let member = Member(
                    members.count, .subscriber, station, world.randomness.split(8, group << 16 | station))
                member.group = ("g\(group)", filter)
                // In every other group most say a weight, 0 among them, and some nothing.
                if group % 2 == 1, station % 3 != 2 { member.weight = UInt16(station * 50 % 1_000) }
                members.append(member)
            }
        }
    }

    /// No event is published from now on.
    func quieten() { isQuiet = true }
}

/// What a station keeps when its process ends.
struct Disk {
    private(set) var idHigh: UInt64
    private(set) var idLow: UInt64
    private(set) var epochCounter: UInt64 = 0
    var shortID: UInt16 = 0
    private var randomness: Randomness

    init(_ index: Int, _ randomness: Randomness) {
        self.randomness = randomness
        idHigh = 0
        idLow = 0
        idHigh = self.randomness.next()
        idLow = self.randomness.next()
    }

    /// The node had to raise its epoch.
    mutating func keep(epoch: UInt64) { epochCounter = max(epochCounter, epoch >> 16) }
    /// A process starts.
    mutating func count() { epochCounter += 1 }
    /// The disk is as it was up to two starts ago.
    mutating func goBack() { epochCounter -= min(epochCounter, 2) }
    /// Nothing is left: the node is another one from now on.
    mutating func wipe() {
        epochCounter = 0
        shortID = 0
        idHigh = randomness.next()
        idLow = randomness.next()
    }
}
