import Core

/// What may cross a link: asked for every frame with events that is to leave over a link with a policy, or has come in
/// over it, whoever its origin is. Confined to the mesh's lane.

/// One direction of a link.
final class TopicGate {
    /// Topics whose decision is remembered, at most.
    private static let places = 1_024
    /// Longer topics are looked up in the filters every time.
    private static let maxRemembered = 256

    private struct Decision {
        var topic: [UInt8] = []
        var admits = false
    }

    let rules: LinkPolicy.Direction
    /// Keyed, so that nobody can choose topics that drive each other out.
    private let hashKey: UInt64
    /// By the topic's hash; made when the first is asked for.
    private var decisions: [Decision] = []
    private var rate: EventRate?

    init(_ rules: LinkPolicy.Direction, hashKey: UInt64, now: UInt64) {
        self.rules = rules
        self.hashKey = hashKey
        rate = rules.rate.map { EventRate(perSecond: $0, now: now) }
    }

    /// What becomes of a frame.
    enum Verdict { case pass, keep, slow }

    /// Decides about a frame with events.
    /// - Parameters:
    ///   - topic: nil when it cannot be read: what is not known to be allowed stays.
    ///   - isGuaranteed: guaranteed events take from the rate and are never kept back for it: they would only be sent
    ///     again.
    func judge(_ topic: UnsafeRawBufferPointer?, events: Int, isGuaranteed: Bool, now: UInt64) -> Verdict {
        if rules.isSelective {
            guard let topic, admits(topic) else { return .keep }
        }
        guard rate != nil else { return .pass }
        return rate?.take(events, mayOwe: !isGuaranteed, now: now) ?? true || isGuaranteed ? .pass : .slow
    }

    /// Whether events of a topic may pass, however many.
    func admits(_ topic: UnsafeRawBufferPointer) -> Bool {
        guard rules.isSelective else { return true }
        guard topic.count <= Self.maxRemembered, let base = topic.baseAddress else { return rules.admits(topic) }
        if decisions.isEmpty { decisions = Array(repeating: Decision(), count: Self.places) }
        let place = Int(truncatingIfNeeded: hashBytes(base, topic.count, key: hashKey) % UInt64(Self.places))
        if decisions[place].topic.elementsEqual(topic) { return decisions[place].admits }
        let admits = rules.admits(topic)
        decisions[place] = Decision(topic: Array(topic), admits: admits)
        return admits
    }
}

extension LinkPolicy.Direction {
    /// Whether the filters let a topic pass.
    func admits(_ topic: UnsafeRawBufferPointer) -> Bool {
        if deny.contains(where: { $0.matches(topic) }) { return false }
        return allow.isEmpty || allow.contains { $0.matches(topic) }
    }
}

/// So many events a second, and as many at once. Time in milliseconds.
struct EventRate {
    private let perSecond: Int64
    /// Thousandths of events that may pass now; negative after a run of more than that, until it is paid for. A frame
    /// counts its events with 16 bits, so that the debt is less than 65,536 of them.
    private var level: Int64
    private var since: UInt64

    /// Thousandths of events when nothing has passed for a while.
    private var full: Int64 { perSecond * 1_000 }

    init(perSecond: Int, now: UInt64) {
        self.perSecond = Int64(max(perSecond, 1))
        level = self.perSecond * 1_000
        since = now
    }

    /// Takes what so many events cost. A run passes as a whole while one event may, and then nothing does until what
    /// it took too much is paid for: so the rate holds whatever the length of runs.
    /// - Parameter mayOwe: false takes no more than there is.
    mutating func take(_ events: Int, mayOwe: Bool = true, now: UInt64) -> Bool {
        if now > since {
            // The first comparison also keeps the product small.
            let missing = full - level
            let elapsed = now - since
            level = elapsed > UInt64(missing / perSecond) ? full : level + Int64(elapsed) * perSecond
            since = now
        }
        let cost = Int64(min(max(events, 1), Int(UInt16.max))) * 1_000
        guard level >= 1_000 else { return false }
        level -= mayOwe ? cost : min(cost, level)
        return true
    }
}

/// The policy of this node for a link, both directions.
final class LinkGate {
    let export: TopicGate
    let `import`: TopicGate

    init(_ policy: LinkPolicy, hashKey: UInt64, now: UInt64) {
        export = TopicGate(policy.export, hashKey: hashKey, now: now)
        `import` = TopicGate(policy.import, hashKey: hashKey, now: now)
    }

    var isSelective: Bool { export.rules.isSelective || `import`.rules.isSelective }

    /// The gate that a node's policies make for a neighbour; nil when none is for it.
    static func of(_ policies: [LinkPolicy], _ id: NodeID, _ name: String, hashKey: UInt64, now: UInt64) -> LinkGate? {
        let policy = policies.first { $0.peers.contains("*") || MeshNode.lists($0.peers, id, name) }
        return policy.map { LinkGate($0, hashKey: hashKey, now: now) }
    }
}

extension MeshNode {
    /// Asks a policy about events, and counts those that it keeps back.
    func passes(
        _ gate: TopicGate, _ topic: UnsafeRawBufferPointer?, _ events: Int, isGuaranteed: Bool, on link: MeshLink,
        isOut: Bool
    ) -> Bool {
        let verdict = gate.judge(topic, events: events, isGuaranteed: isGuaranteed, now: now)
        guard verdict != .pass else { return true }
        noteKept(topic, events, isSlowed: verdict == .slow, on: link, isOut: isOut)
        return false
    }

    /// Counts what a policy keeps back, and tells the audit.
    func noteKept(
        _ topic: UnsafeRawBufferPointer?, _ events: Int, isSlowed: Bool = false, on link: MeshLink, isOut: Bool
    ) {
        lane.counters.drop(.linkPolicy, events)
        if isOut { link.counters.keptOut &+= 1 } else { link.counters.keptIn &+= 1 }
        guard now >= keptAuditAt else { return }
        // One a second says that it happens; the counters say how often.
        keptAuditAt = now + 1_000
        var record = AuditRecord(.mesh, isOut ? "export" : "import")
        record.object = topic.map { String(decoding: $0, as: UTF8.self) } ?? ""
        record.peer = nodes[link.peer].name
        record.protocolName = MeshAdapter.name
        record.reason = isSlowed ? "more direct events than its rate (mesh.policies)" : "mesh.policies keeps it back"
        host.audit(record)
    }
}
