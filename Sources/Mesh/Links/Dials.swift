/// What a node dials: the configured addresses and those it has learnt, with patience. Confined to the mesh's lane.
struct Dials {
    /// One thing that is dialled again and again until there is a link.
    struct Target {
        let number: Int
        var entry: MeshSettings.LinkEntry
        /// Given by an operator; otherwise learnt from advertisements.
        var isConfigured: Bool
        /// Who answers there, once known.
        var node: NodeIndex?
        var isDialling = false
        var nextAt: UInt64
        var failures = 0
        /// The other end does not take the secret: the one before is tried in turn with it.
        var usesPreviousSecret = false
        /// What the log has been told last.
        var lastProblem = ""
        /// It is this node itself, or something else that waiting does not mend.
        var isHopeless = false
    }

    private(set) var targets: [Target] = []
    private var nextNumber = 1

    private static let shortest: UInt64 = 100
    private static let longest: UInt64 = 5_000

    mutating func add(_ entry: MeshSettings.LinkEntry, isConfigured: Bool, node: NodeIndex? = nil, at time: UInt64) {
        targets.append(
            Target(number: nextNumber, entry: entry, isConfigured: isConfigured, node: node, nextAt: time))
        nextNumber += 1
    }

    mutating func remove(_ number: Int) { targets.removeAll { $0.number == number } }

    func target(_ number: Int) -> Target? { targets.first { $0.number == number } }

    mutating func update(_ number: Int, _ body: (inout Target) -> Void) {
        guard let index = targets.firstIndex(where: { $0.number == number }) else { return }
        body(&targets[index])
    }

    /// It did not work; it is tried again after twice the time, at most five seconds, with jitter.
    mutating func failed(_ number: Int, now: UInt64, random: UInt64, isRefusal: Bool) {
        update(number) { target in
            target.isDialling = false
            target.failures = min(target.failures + 1, 16)
            let doubled = Self.shortest << UInt64(min(target.failures - 1, 6))
            let wait = isRefusal ? Self.longest : min(doubled, Self.longest)
            target.nextAt = now + wait / 2 + random % (wait / 2 + 1)
        }
    }

    /// There was a link and it has ended: at once again, with a little jitter.
    mutating func lost(_ number: Int, now: UInt64, random: UInt64) {
        update(number) { target in
            target.isDialling = false
            target.failures = 0
            target.nextAt = now + random % 50
        }
    }

    /// Those to be dialled now.
    func due(now: UInt64, isLinked: (Target) -> Bool) -> [Target] {
        targets.filter { !$0.isDialling && !$0.isHopeless && $0.nextAt <= now && !isLinked($0) }
    }

    /// When the next is to be dialled.
    func deadline(isLinked: (Target) -> Bool) -> UInt64 {
        var next = UInt64.max
        for target in targets where !target.isDialling && !target.isHopeless && !isLinked(target) {
            next = min(next, target.nextAt)
        }
        return next
    }
}
