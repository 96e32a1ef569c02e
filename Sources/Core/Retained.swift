/// The last value of each topic: set, found by topic, looked up by filter in bounded steps, expired.
///
/// Threading: guarded by the router's retained lock. Nothing here takes time in proportion to the whole store; a step
/// of a look-up or of a sweep is bounded by its caller, in nodes or places.

/// What became of a value that was to be retained. It holds the value that was there before, so that this is freed
/// by whoever drops the outcome, after the lock.
struct RetainOutcome {
    /// Whether the store now holds what it was asked to; false when a limit is reached, and nothing has changed.
    var isStored: Bool
    /// What the topic had before, if that has gone; with versions it may be a tombstone.
    var replaced: Event?
    /// The version of the run's first event, when versions are kept.
    var version = EventVersion.none
    /// Whether the store has changed, when versions are kept.
    var hasAdvanced = false
}

/// The retained events of one namespace: a tree of levels, and the events by number.
///
/// Every call names the time, in milliseconds of the lanes' clock. An event whose time is over is never returned. It is
/// removed when a look-up meets it, when its topic gets another, by ``sweepExpired(now:max:)``, and when a new topic
/// finds the store full.
struct RetainedEvents: ~Copyable {
    // What is not private is used in `RetainedEvents+Versions.swift` as well.
    private(set) var tree: TopicTree
    var slots = EventSlots()
    let limits: Limits
    /// The events' versions; nil as long as the node is in no mesh. Then there are no tombstones.
    var versions: RetainedVersions?

    /// Bytes that count for the limit: each event's ``Event/cost``.
    private(set) var bytes = 0
    /// Topics that are remembered as deleted, and what they would count for.
    private(set) var tombstoneCount = 0
    private(set) var tombstoneBytes = 0
    /// Events and tombstones that expire at some time.
    private(set) var expiring = 0
    /// No event expires before this time.
    private var soonest = UInt64.max
    /// The same, as far as known from the round of sweeping that is under way.
    private var soonestOfRound = UInt64.max
    /// The number that the sweep looks at next.
    private var sweepPlace: UInt32 = 1

    /// Places that are looked at for expired events when the store is full.
    static let sweepWhenFull = 64

    init(key: UInt64, limits: Limits) {
        tree = TopicTree(key: key, linked: true)
        self.limits = limits
    }

    /// Topics that have a value, expired ones included until they are found.
    var count: Int { slots.count - tombstoneCount }
    /// Whom values count for, by number, where a quota says so.
    var owners: [UInt32: Allowance] = [:]
    /// Those of them that begin with `$`: what the node says of itself.
    private(set) var nodeCount = 0
    /// Their bytes.
    private(set) var nodeBytes = 0
    /// Nodes of the tree, and stops of look-ups between two steps.
    var treeSize: (nodes: Int, stops: Int) { (tree.count, tree.stops.count) }

    // MARK: Setting

    /// Replaces a topic's value; an empty payload removes it (MQTT 3.1.1 §3.3.1.3). For stores without versions, and
    /// topics that have none.
    mutating func set(
        _ topic: UnsafeRawBufferPointer, _ event: Event?, for owner: Allowance? = nil, now: UInt64
    ) -> RetainOutcome {
        guard let event, event.payloadLength > 0 else {
            return RetainOutcome(isStored: true, replaced: remove(topic))
        }
        var node = find(topic)
        if !hasRoom(for: event, at: node) {
            guard sweepExpired(now: now, max: Self.sweepWhenFull) > 0 else { return RetainOutcome(isStored: false) }
            // The sweep may have removed the topic itself.
            node = find(topic)
            guard hasRoom(for: event, at: node) else { return RetainOutcome(isStored: false) }
        }
        let number = node == 0 ? 0 : tree.nodes[node].first
        if number != 0 {
            count(event, 1)
            let old = slots.replace(number, by: event)
            if let old { count(old, -1) }
            change(owner: owner, of: number, from: old, to: event)
            return RetainOutcome(isStored: true, replaced: old)
        }
        change(owner: owner, of: insert(topic, event), from: nil, to: event)
        return RetainOutcome(isStored: true)
    }

    /// Puts an event where its topic has none.
    /// - Returns: its number.
    mutating func insert(_ topic: UnsafeRawBufferPointer, _ event: Event) -> UInt32 {
        count(event, 1)
        var node = TopicTree.root
        Self.forEachLevel(topic) { level in node = tree.insertChild(of: node, .literal, level) }
        let number = slots.store(event)
        tree.nodes[node].first = number
        return number
    }

    /// Removes a topic's value or tombstone, and returns it.
    mutating func remove(_ topic: UnsafeRawBufferPointer) -> Event? {
        let node = find(topic)
        return node == 0 ? nil : removeValue(of: node).event
    }

    /// Removes the value of a node, and the nodes that then carry nothing.
    mutating func removeValue(of node: UInt32) -> (event: Event?, nodes: Int) {
        let number = tree.nodes[node].first
        guard number != 0 else { return (nil, 0) }
        let event = slots.take(number)
        if let event { count(event, -1) }
        change(owner: nil, of: number, from: event, to: nil)
        if let versions {
            if event?.isTombstone ?? false { versions.unlistTombstone(number) }
            versions.remove(number)
        }
        tree.nodes[node].first = 0
        return (event, tree.prune(node))
    }

    /// The limits are the clients'. What the node says of itself is little and always the same topics.
    func hasRoom(for event: Event, at node: UInt32) -> Bool {
        if event.topic.first == UInt8(ascii: "$") { return true }
        let number = node == 0 ? 0 : tree.nodes[node].first
        var old = number == 0 ? nil : slots[number]
        if old?.isTombstone ?? false { old = nil }
        guard bytes - nodeBytes + event.cost - (old?.cost ?? 0) <= limits.maxRetainedBytes else { return false }
        return old != nil || count - nodeCount < limits.maxRetainedEvents
    }

    mutating func count(_ event: Event, _ sign: Int) {
        if event.isTombstone {
            tombstoneCount += sign
            tombstoneBytes += sign * event.cost
        } else {
            bytes += sign * event.cost
        }
        if event.topic.first == UInt8(ascii: "$") {
            nodeCount += sign
            nodeBytes += sign * event.cost
        }
        guard event.expiresAt != 0 else { return }
        expiring += sign
        guard sign > 0 else { return }
        soonest = min(soonest, event.expiresAt)
        soonestOfRound = min(soonestOfRound, event.expiresAt)
    }

    func find(_ topic: UnsafeRawBufferPointer) -> UInt32 {
        var node = TopicTree.root
        Self.forEachLevel(topic) { level in if node != 0 { node = child(of: node, level) } }
        return node
    }

    private func child(of node: UInt32, _ label: UnsafeRawBufferPointer) -> UInt32 {
        let nowhere = UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped
        let base = label.baseAddress ?? nowhere
        return tree.child(of: node, .literal, base, label.count, levelHash: tree.levelHash(base, label.count))
    }

    private static func forEachLevel(_ topic: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) {
        var start = 0
        for index in 0...topic.count where index == topic.count || topic[index] == UInt8(ascii: "/") {
            body(UnsafeRawBufferPointer(rebasing: topic[start..<index]))
            start = index + 1
        }
    }

    private static func isExpired(_ expiresAt: UInt64, now: UInt64) -> Bool { expiresAt != 0 && expiresAt <= now }

    // MARK: Expiry

    /// Looks at `max` places at most, from where it stopped the last time, and removes events whose time is over.
    /// Costs nothing as long as none can be.
    /// - Returns: how many values were removed.
    mutating func sweepExpired(now: UInt64, max: Int) -> Int {
        if let versions { versions.now = Swift.max(versions.now, now) }
        guard expiring > 0, soonest <= now else { return 0 }
        var removed = 0
        for _ in 0..<min(max, Int(slots.highest)) {
            if let event = slots[sweepPlace] {
                if Self.isExpired(event.expiresAt, now: now) {
                    let gone = expire(find(event.topic), now: now).event
                    if !(gone?.isTombstone ?? true) { removed += 1 }
                } else if event.expiresAt != 0 {
                    soonestOfRound = min(soonestOfRound, event.expiresAt)
                }
            }
            sweepPlace += 1
            guard sweepPlace > slots.highest else { continue }
            sweepPlace = 1
            soonest = soonestOfRound
            soonestOfRound = .max
            if soonest > now { break }
        }
        if let versions { giveUpTombstones(versions) }
        return removed
    }

    // MARK: Looking up

    /// The value of one topic.
    mutating func value(of topic: UnsafeRawBufferPointer, now: UInt64) -> Event? {
        let node = find(topic)
        guard node != 0, tree.nodes[node].first != 0, let event = slots[tree.nodes[node].first] else { return nil }
        guard Self.isExpired(event.expiresAt, now: now) else { return event.isTombstone ? nil : event }
        _ = expire(node, now: now)
        return nil
    }

    /// One step of a look-up: visits at most `nodes` nodes and finds at most `events` events.
    mutating func advance(_ walk: inout RetainedWalk, nodes: Int, events: Int, now: UInt64) {
        resume(&walk)
        var left = max(nodes, 1)
        let most = max(events, 1)
        while left > 0, walk.found.count < most, !walk.frames.isEmpty {
            walk.visited += 1
            left -= 1 + visit(&walk, now: now)
        }
        park(&walk)
    }

    /// Gives up the stops of a look-up that is not going on.
    mutating func abandon(_ walk: inout RetainedWalk) {
        guard walk.state == .parked else { return }
        for frame in walk.frames { _ = tree.stops.leave(frame.place) }
        walk.frames.removeAll()
        walk.end()
    }

    /// A frame's node becomes a stop, which follows its node's siblings when the node is removed.
    private mutating func park(_ walk: inout RetainedWalk) {
        for index in walk.frames.indices { walk.frames[index].place = tree.stops.stand(on: walk.frames[index].place) }
        walk.state = walk.frames.isEmpty ? .finished : .parked
    }

    private mutating func resume(_ walk: inout RetainedWalk) {
        walk.forgetFound()
        walk.visited = 0
        switch walk.state {
        case .new: pushChildren(of: TopicTree.root, level: 0, &walk)
        case .parked:
            for index in walk.frames.indices { walk.frames[index].place = tree.stops.leave(walk.frames[index].place) }
            walk.frames.removeAll { $0.place == 0 }
        case .finished: break
        }
        walk.state = .finished
    }

    /// Visits the top frame's next node.
    /// - Returns: nodes removed because their event had expired.
    private mutating func visit(_ walk: inout RetainedWalk, now: UInt64) -> Int {
        let top = walk.frames.count - 1
        let (number, level) = (walk.frames[top].place, Int(walk.frames[top].level))
        let node = tree.nodes[number]
        let kind = walk.filter.levels[level].kind
        // On to the next sibling first. It stays in the tree whatever is removed here: only this node and ancestors of
        // it, each without further children, can be, and no frame stands on those.
        let next = kind == .literal ? 0 : node.next
        if next == 0 { walk.frames.removeLast() } else { walk.frames[top].place = next }
        guard fits(number, node.parent, walk.filter, level) else { return 0 }
        let goesOn = kind == .rest || kind == .more
        let below = goesOn ? level : level + 1
        let isLast = below == walk.filter.levels.count
        if !isLast, node.firstChild != 0 { pushChildren(of: number, level: below, &walk) }
        guard node.first != 0, isLast || goesOn || walk.filter.levels[below].kind == .rest else { return 0 }
        guard Self.isExpired(slots.expiresAt(node.first), now: now) else {
            if let event = slots[node.first], !event.isTombstone { walk.found.append(event) }
            return 0
        }
        return expire(number, now: now).nodes
    }

    /// Puts a node's children that may fit a level of the filter on the stack: the literal one, or the first of all.
    private func pushChildren(of node: UInt32, level: Int, _ walk: inout RetainedWalk) {
        let wanted = walk.filter.levels[level]
        var first = tree.nodes[node].firstChild
        if wanted.kind == .literal {
            first = walk.filter.withLabel(wanted) { child(of: node, $0) }
        }
        if first != 0 { walk.frames.append(RetainedWalk.Frame(place: first, level: UInt32(level))) }
    }

    /// Whether a node that stands in a frame fits its level of the filter.
    private func fits(_ number: UInt32, _ parent: UInt32, _ filter: TopicFilter, _ level: Int) -> Bool {
        let wanted = filter.levels[level]
        switch wanted.kind {
        case .single, .rest, .more:
            guard level == 0, parent == TopicTree.root else { return true }
            return tree.label(number).first != UInt8(ascii: "$")
        case .literal, .prefix:
            // A literal was found by its hash. But while the look-up was parked its node may have gone, and the frame
            // now stands on a sibling.
            let label = tree.label(number)
            return filter.withLabel(wanted) { wantedLabel in
                guard let own = label.baseAddress, let theirs = wantedLabel.baseAddress else {
                    return wantedLabel.isEmpty && (wanted.kind == .prefix || label.isEmpty)
                }
                let isLongEnough =
                    wanted.kind == .literal
                    ? label.count == wantedLabel.count : label.count >= wantedLabel.count
                return isLongEnough && bytesEqual(own, theirs, wantedLabel.count)
            }
        }
    }

    // MARK: Listing

    /// Events by number: at most `events` that the filter matches, among at most `places` places after `place`.
    /// An event keeps its number for as long as its topic has a value, so pages need nothing remembered between them.
    /// - Returns: the last place looked at, or 0 when there are no further ones.
    func list(
        _ filter: TopicFilter, after place: UInt32, places: Int, events: Int, now: UInt64, into found: inout [Event]
    ) -> UInt32 {
        var place = place
        var left = max(places, 1)
        while place < slots.highest, left > 0, found.count < events {
            place += 1
            left -= 1
            guard let event = slots[place], !event.isTombstone, !Self.isExpired(event.expiresAt, now: now) else {
                continue
            }
            if filter.matches(event.topic) { found.append(event) }
        }
        return place < slots.highest ? place : 0
    }
}

/// A look-up by filter that goes on in steps: a stack of places in the tree, the next node to visit of each level on
/// the way. Between steps these are stops, so every insertion and removal may happen meanwhile: a topic that matches
/// and has a value all the time is found exactly once, since siblings keep their order and new ones come first.
struct RetainedWalk: ~Copyable {
    struct Frame {
        /// During a step the next node to visit; between steps a stop.
        var place: UInt32
        /// The level of the filter that the node and its further siblings must fit.
        var level: UInt32
    }

    enum State { case new, parked, finished }

    let filter: TopicFilter
    fileprivate(set) var state = State.new
    fileprivate var frames: [Frame] = []
    /// What the last step found.
    fileprivate(set) var found: [Event] = []
    /// Nodes that the last step visited.
    fileprivate(set) var visited = 0

    init(_ filter: TopicFilter) { self.filter = filter }

    /// Lets go of what the last step found, outside the lock.
    mutating func forgetFound() { found.removeAll(keepingCapacity: true) }

    /// Ends a walk that holds no stops.
    mutating func end() { state = .finished }
}

extension TopicFilter {
    /// The bytes of a level without a copy.
    @inline(__always)
    fileprivate func withLabel<Result>(_ level: Level, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        bytes.withUnsafeBytes { own in
            body(UnsafeRawBufferPointer(rebasing: own[Int(level.start)..<Int(level.start) + Int(level.length)]))
        }
    }
}
