/// What a run consists of, apart from chance: nodes, cables, faults and load. Made from a seed, made smaller by
/// shrinking, kept as a file to be replayed.
struct Scenario: Codable, Equatable {
    enum Shape: String, Codable, CaseIterable { case line, ring, star, full, random, regions, bridges, grid }

    struct CableSpec: Codable, Equatable {
        var a: Int
        var b: Int
        var number = 0
        /// Microseconds.
        var delay = 200
        var jitter = 0
        /// Bytes a second; 0 for any number.
        var rate = 0

        var label: String { "n\(a)-n\(b)" + (number == 0 ? "" : ".\(number)") }
    }

    /// One thing that goes wrong, from `at` for `length` milliseconds; the heal ends all of them.
    struct Fault: Codable, Equatable {
        enum Kind: String, Codable, CaseIterable {
            /// All connections of a cable are cut, and both sides are told.
            case reset
            /// Nothing gets through a cable, and nobody is told.
            case silence
            /// The same in one direction (`value`: the side that is not heard).
            case silenceOneWay
            /// Up and down, every `value` milliseconds; even values are resets, odd ones silence.
            case flap
            /// `value` bytes a second.
            case slow
            /// `value` milliseconds more, one way.
            case spike
            /// One side's connections are cut without the other's being told (`value`: the side).
            case halfOpen
            /// The process ends, and starts again after `length`.
            case crash
            /// The machine loses its power, and has it again after `length`.
            case powerOff
            /// As crash, and the disk is as it was some starts ago.
            case oldDisk
            /// As crash, and the disk is empty.
            case wipe
            /// The process does nothing.
            case pause
            /// The clock on the wall steps by `value` milliseconds, and back.
            case clock
            /// Nodes whose bits are set in `value` are cut off from the others.
            case partition
            /// A node is cut off from all others.
            case isolate
            /// Half of all cables are reset at once (`value`: which).
            case resetMany
            /// `value` subscriptions come at once, and go again.
            case storm
        }

        var at: Int
        var length: Int
        var kind: Kind
        /// A cable's or a node's number.
        var target: Int
        var value = 0

        var isAboutCable: Bool {
            switch kind {
            case .reset, .silence, .silenceOneWay, .flap, .slow, .spike, .halfOpen: true
            default: false
            }
        }
        var isAboutNode: Bool {
            switch kind {
            case .crash, .powerOff, .oldDisk, .wipe, .pause, .clock, .isolate, .storm: true
            default: false
            }
        }
    }

    /// What the members do.
    struct Load: Codable, Equatable {
        /// Publishers of each node.
        var publishers = 1
        /// Milliseconds between two publishes of one, on average.
        var interval = 80
        var subscribers = 2
        /// Shared groups.
        var groups = 1
        /// Percent of the publishes with QoS 1 or 2, and of those that are retained.
        var guaranteed = 40
        var retained = 10
        /// Percent of the filters with wildcards.
        var wildcards = 20
        /// Percent of the subscribers that change filters, or nodes, all the time.
        var restless = 20
        /// Percent of the publishes that are large.
        var large = 1
    }

    var seed: UInt64
    var shape: Shape
    var nodes: Int
    var cables: [CableSpec]
    var faults: [Fault]
    var load = Load()
    /// Milliseconds from the start to the heal.
    var heal: Int
    /// Nodes that are left out of it, by shrinking.
    var missing: [Int] = []
    /// Hello profile: "standard", "fast", "satellite".
    var profile = "standard"
    /// Whether nodes learn of each other and dial.
    var joinsFully = false
    /// Whether some nodes have policies for their links, which keep nothing back that is ever published.
    var hasPolicies: Bool?
    /// Whether every other node is of a later version: it says more than the others understand, and knows what they do.
    var hasLater: Bool?

    /// When faults may begin: by then everybody knows everybody.
    static let calmStart = 6_000

    func cableText(_ number: Int) -> String { number < cables.count ? cables[number].label : "?" }

    func text(_ fault: Fault) -> String {
        let target = fault.isAboutCable ? cableText(fault.target) : fault.isAboutNode ? "n\(fault.target)" : ""
        return "\(fault.at) ms: \(fault.kind.rawValue) \(target) for \(fault.length) ms, value \(fault.value)"
    }
}

extension Scenario {
    /// How large the worlds of a swarm are.
    struct Size {
        var nodes = 3...8
        var active = 4_000...16_000
        var maxFaults = 10
        /// Nil for a few of all.
        var kinds: [Fault.Kind]?
        var shapes = Shape.allCases
        static let unit = Size()
    }

    /// The scenario of a seed.
    init(seed: UInt64, size: Size = .unit) {
        var randomness = Randomness(seed: seed).split(10)
        let shape = randomness.pick(size.shapes)
        let nodes = randomness.between(size.nodes)
        let active = randomness.between(size.active)
        self.init(
            seed: seed, shape: shape, nodes: nodes, cables: [], faults: [], heal: Scenario.calmStart + active)
        cables = Self.makeCables(shape, nodes, &randomness)
        load.publishers = randomness.between(1...2)
        load.interval = randomness.logarithmic(20...300)
        load.subscribers = randomness.between(1...3)
        load.groups = randomness.between(0...2)
        load.guaranteed = randomness.pick([0, 30, 60, 100])
        load.retained = randomness.pick([0, 10, 30])
        load.wildcards = randomness.pick([5, 20, 60])
        load.restless = randomness.pick([0, 20, 50])
        load.large = randomness.pick([0, 0, 1, 5])
        profile = randomness.pick(["standard", "standard", "fast"])
        joinsFully = randomness.chance(0.15)
        faults = makeFaults(&randomness, size, active: active)
        if randomness.chance(0.4) { hasPolicies = true }
        if randomness.chance(0.3) { hasLater = true }
    }

    // MARK: Topologies

    static func makeCables(_ shape: Shape, _ nodes: Int, _ randomness: inout Randomness) -> [CableSpec] {
        var pairs: [(Int, Int)] = []
        func add(_ a: Int, _ b: Int) {
            let pair = (min(a, b), max(a, b))
            guard a != b, a < nodes, b < nodes, !pairs.contains(where: { $0 == pair }) else { return }
            pairs.append(pair)
        }
        switch shape {
        case .line: for node in 1..<nodes { add(node - 1, node) }
        case .ring: for node in 0..<nodes { add(node, (node + 1) % nodes) }
        case .star: for node in 1..<nodes { add(0, node) }
        case .full: for a in 0..<nodes { for b in 0..<a { add(a, b) } }
        case .random:
            for node in 1..<nodes { add(node, randomness.below(node)) }
            let degree = randomness.between(3...6)
            for _ in 0..<nodes * (degree - 2) / 2 + 1 { add(randomness.below(nodes), randomness.below(nodes)) }
        case .regions:
            let half = (nodes + 1) / 2
            for a in 0..<half { for b in 0..<a { add(a, b) } }
            for a in half..<nodes { for b in half..<a { add(a, b) } }
            add(0, half)
            add(half - 1, nodes - 1)
        case .grid:
            // Rows of three: many paths are equally long.
            for node in 1..<nodes {
                if node % 3 != 0 { add(node - 1, node) }
                if node >= 3 { add(node - 3, node) }
            }
        case .bridges:
            // Triangles in a row, each hanging on the one before by one cable.
            for node in 1..<nodes {
                add(node - 1, node)
                if node % 3 == 2 { add(node - 2, node) }
            }
        }
        let isFar = randomness.chance(0.4)
        var specs = pairs.map { a, b in
            let delay = randomness.logarithmic(isFar ? 1_000...30_000 : 100...3_000)
            return CableSpec(a: a, b: b, delay: delay, jitter: randomness.chance(0.5) ? randomness.below(delay) : 0)
        }
        // Some pairs have a second cable.
        if randomness.chance(0.2), let first = specs.first {
            specs.append(CableSpec(a: first.a, b: first.b, number: 1, delay: first.delay * 2))
        }
        return specs
    }

    // MARK: Faults

    private func makeFaults(_ randomness: inout Randomness, _ size: Size, active: Int) -> [Fault] {
        // Swarm testing: every seed has a few kinds only, so that one does not hide another.
        var kinds = Fault.Kind.allCases
        for index in kinds.indices.reversed() { kinds.swapAt(index, randomness.below(index + 1)) }
        kinds = size.kinds ?? Array(kinds.prefix(randomness.between(1...5)))
        guard !kinds.isEmpty else { return [] }
        let count = randomness.below(size.maxFaults + 1)
        return (0..<count).map { _ in
            makeFault(randomness.pick(kinds), at: Scenario.calmStart + randomness.below(active), &randomness)
        }.sorted { ($0.at, $0.target) < ($1.at, $1.target) }
    }

    private func makeFault(_ kind: Fault.Kind, at: Int, _ randomness: inout Randomness) -> Fault {
        var fault = Fault(at: at, length: randomness.logarithmic(20...8_000), kind: kind, target: 0)
        fault.target = randomness.below(fault.isAboutCable ? cables.count : nodes)
        switch kind {
        case .silenceOneWay, .halfOpen: fault.value = randomness.below(2)
        case .flap: fault.value = randomness.logarithmic(10...2_000)
        case .slow: fault.value = randomness.pick([125, 1_000, 8_000, 64_000])
        case .spike: fault.value = randomness.logarithmic(50...5_000)
        case .crash: if randomness.chance(0.4) { fault.length = randomness.between(5...250) }
        case .pause: fault.length = randomness.logarithmic(100...20_000)
        case .clock: fault.value = randomness.pick([-3_600_000, -5_000, 5_000, 3_600_000])
        case .partition: fault.value = 1 + randomness.below(1 << min(nodes, 30) - 2)
        case .resetMany: fault.value = Int(randomness.next() >> 33)
        case .storm: fault.value = randomness.logarithmic(50...1_000)
        default: break
        }
        return fault
    }
}
