// What the mesh asks of the router: what this node wants, for other nodes, and what those want, for this one.

import Synchronization

/// What one node wants of what the filter matches.
public struct RemoteEntry: Sendable {
    /// Which topics; with a group if a member of a shared group wants them.
    public var filter: TopicFilter
    /// Whether a member of the group is there to take events; always for filters without a group.
    public var isPresent: Bool

    /// Makes an entry.
    public init(filter: TopicFilter, isPresent: Bool = true) {
        self.filter = filter
        self.isPresent = isPresent
    }
}

/// Another node as the router knows it; see ``Router/addRemoteNode(_:)``.
public struct RemoteNode: Sendable, Equatable {
    /// Its number; the mesh's port finds 1 more among a target's identifiers.
    public let node: Int
}

/// Whether somebody on this node wants what a filter matches.
public enum LocalInterest: Sendable, Equatable {
    /// Nobody.
    case none
    /// Only members of a shared group that are not there now.
    case absent
    /// Somebody.
    case present
}

/// What became of an entry of a node's set.
public enum RemoteOutcome: Sendable, Equatable {
    /// It is part of the set, and was not.
    case added
    /// It was already, but for whether somebody is present.
    case changed
    /// It was already.
    case same
}

/// A part of what a node wants; see ``Router/remoteFilters(of:after:limit:bytes:places:)``.
public struct RemoteFilterPage: Sendable {
    /// In the order of their places.
    public var entries: [RemoteEntry] = []
    /// Where to go on; nil after the last.
    public var next: UInt32?
}

/// Who wants a topic, for explanations.
public struct RemoteMatches: Sendable, Equatable {
    /// A shared group that the topic is shared out to.
    public struct Group: Sendable, Equatable {
        /// As a client would subscribe to it.
        public var filter: String
        /// What other nodes know it by.
        public var key: UInt64
        /// Members here that events may go to now.
        public var localMembers = 0
        /// Nodes with members that events may go to now.
        public var nodes: [Int] = []
        /// Of a group that is shared out by weight what each of those members and nodes weighs; else nothing.
        public var localWeights: [UInt32] = []
        /// In the order of the nodes.
        public var nodeWeights: [UInt32] = []
    }

    /// Nodes with subscriptions, in order.
    public var nodes: [Int] = []
    /// Subscriptions here.
    public var local = 0
    /// Shared groups here or elsewhere.
    public var groups: [Group] = []
}

/// What the mesh is told of changes here. Used under the index's lock, but for what never changes.
final class MeshHook {
    /// Filters that wait to be taken; beyond it the mesh must look through all subscriptions.
    static let maxTouched = 1 << 16

    private let tell: @Sendable () -> Void
    private var isTold = false
    /// Nil where it has been taken: freeing very many at once would take long.
    var touched: [TopicFilter?] = []
    /// From where on `touched` has not been taken yet.
    var taken = 0
    var isOverflown = true

    init(tell: @escaping @Sendable () -> Void) { self.tell = tell }

    func touch(_ filter: TopicFilter) {
        guard filter.bytes.first != UInt8(ascii: "$") else { return }
        if touched.count - taken < Self.maxTouched { touched.append(filter) } else { isOverflown = true }
    }

    /// What is to be called once the lock has been given back.
    func takeCall() -> (@Sendable () -> Void)? {
        guard !isTold, taken < touched.count || isOverflown else { return nil }
        isTold = true
        return tell
    }

    func take(max: Int) -> [TopicFilter] {
        isTold = false
        let end = min(touched.count, taken + max)
        defer {
            taken = end
            if taken == touched.count {
                touched.removeAll(keepingCapacity: touched.capacity <= 1_024)
                taken = 0
            }
        }
        var filters: [TopicFilter] = []
        filters.reserveCapacity(end - taken)
        for place in taken..<end {
            if let filter = touched[place].take() { filters.append(filter) }
        }
        return filters
    }
}

extension Router {
    // MARK: What this node wants

    /// Gives the mesh its port and tells it of what this node wants. Once, and before any other call here.
    /// - Parameter interestChanged: called on any thread when subscriptions have begun or ended; not again until
    ///   ``takeInterestChanges(max:)`` has been called.
    public func attachMesh(_ port: Port, on lane: Lane, interestChanged: @escaping @Sendable () -> Void) {
        register(port, on: lane)
        let address = port.address
        changingInterest {
            meshHook = MeshHook(tell: interestChanged)
            index.remote.address = address
            meshPort = address
        }
    }

    /// The mesh's port; ``PortAddress/none`` on a node without one.
    public var meshAddress: PortAddress { indexLock.withLock { _ in index.remote.address } }

    /// Runs a change of subscriptions under the lock, and tells the mesh afterwards if there is one.
    func changingInterest<Result: Sendable>(_ body: () -> Result) -> Result {
        let (result, call) = indexLock.withLock { _ in (body(), meshHook?.takeCall()) }
        call?()
        return result
    }

    /// Called under the index's lock when a subscription of this node has begun, ended or changed.
    func noteLocalChange(_ filter: TopicFilter) {
        noteChange(filter)
        meshHook?.touch(filter)
    }

    /// Filters of subscriptions that began, ended or changed since, with their groups, oldest first. One may come
    /// several times, and may have nobody who wants it any more: ask ``localInterest(in:)``.
    public func takeInterestChanges(max: Int) -> [TopicFilter] {
        indexLock.withLock { _ in meshHook?.take(max: max) ?? [] }
    }

    /// Whether changes were too many to be kept: then all subscriptions must be looked through with
    /// ``localFilters(after:places:)``, and what is known of them be compared. True once after the mesh was attached.
    public func takeInterestOverflow() -> Bool {
        indexLock.withLock { _ in
            defer { meshHook?.isOverflown = false }
            return meshHook?.isOverflown ?? false
        }
    }

    /// Whether somebody here wants what a filter matches, and other nodes may know. Subscriptions under `$local/` do
    /// not count, nor those to topics that begin with `$`. A session that waits for its client counts as present but
    /// in a shared group.
    public func localInterest(in filter: TopicFilter) -> LocalInterest {
        indexLock.withLock { _ in index.localInterest(in: filter) }
    }

    /// The same for several filters.
    public func localInterest(in filters: [TopicFilter]) -> [LocalInterest] {
        indexLock.withLock { _ in filters.map { index.localInterest(in: $0) } }
    }

    /// Filters of this node's subscriptions, those of the next `places` places after `cursor`; 0 is the beginning. A
    /// subscription that is there from the first page to the last is listed.
    public func localFilters(after cursor: UInt32, places: Int) -> (filters: [TopicFilter], next: UInt32?) {
        indexLock.withLock { _ in index.localFilters(after: cursor, places: places) }
    }

    // MARK: What other nodes want

    /// Makes room for what a node wants.
    /// - Parameter node: from 1 to 4,095.
    public func addRemoteNode(_ node: Int) -> RemoteNode {
        precondition(node > 0 && node < RemoteInterest.maxNodes, "a record has 12 bits for the node")
        indexLock.withLock { _ in index.addRemoteNode(node) }
        return RemoteNode(node: node)
    }

    /// Removes everything a node wants, looking at `max` places. It is called again with the place returned.
    /// - Returns: where to go on; nil when the node is gone.
    public func removeRemoteNode(_ remote: RemoteNode, after cursor: UInt32 = 0, max: Int) -> UInt32? {
        changingInterest {
            index.setWeights([], of: remote.node, hook: meshHook) { noteChange($0) }
            let next = index.sweepRemote(remote.node, after: cursor, places: max, isAll: true) { noteChange($0) }
            if next == nil { index.remote.nodes[remote.node] = nil }
            return next
        }
    }

    /// A node wants more. Few entries at a time: the lock is held.
    @discardableResult
    public func subscribe(_ remote: RemoteNode, _ entries: some Sequence<RemoteEntry>) -> [RemoteOutcome] {
        indexLock.withLock { _ in
            entries.map { entry in
                let (change, isNew) = index.subscribeRemote(remote.node, entry)
                if isNew { noteChange(entry.filter) }
                return switch change {
                case .added: .added
                case .presenceChanged: .changed
                case .same: .same
                }
            }
        }
    }

    /// A node wants less. Few filters at a time: the lock is held.
    /// - Returns: for each what was there of the node's present set.
    @discardableResult
    public func unsubscribe(_ remote: RemoteNode, _ filters: some Sequence<TopicFilter>) -> [LocalInterest] {
        indexLock.withLock { _ in
            filters.map { filter in
                guard let (wasFresh, wasPresent) = index.unsubscribeRemote(remote.node, filter) else { return .none }
                noteChange(filter)
                return !wasFresh ? .none : wasPresent ? .present : .absent
            }
        }
    }

    /// Begins a node's set anew: what is subscribed from now on is part of it, what was before is only found until
    /// ``sweep(_:after:places:)`` has removed it. So nothing that stays is ever missing.
    public func beginSet(of remote: RemoteNode) {
        indexLock.withLock { _ in index.beginRemoteSet(remote.node) }
    }

    /// Removes what has not become part of a node's present set, looking at some places. It is called again with the
    /// place returned.
    /// - Returns: where to go on; nil at the end.
    public func sweep(_ remote: RemoteNode, after cursor: UInt32 = 0, places: Int) -> UInt32? {
        indexLock.withLock { _ in
            index.sweepRemote(remote.node, after: cursor, places: places, isAll: false) { noteChange($0) }
        }
    }

    /// Part of a node's present set: of the next `places` places after `cursor`, `limit` entries at most, and no more
    /// once they have `bytes` bytes; 0 is the beginning. What is there from the first page to the last is listed
    /// exactly once.
    public func remoteFilters(
        of remote: RemoteNode, after cursor: UInt32 = 0, limit: Int, bytes: Int = .max, places: Int
    ) -> RemoteFilterPage {
        indexLock.withLock { _ in
            var page = RemoteFilterPage()
            guard let node = index.remote.nodes[remote.node] else { return page }
            var number = cursor
            let highest = index.remote.records.highestUsed
            let last = min(UInt64(highest), UInt64(cursor) + UInt64(max(places, 1)))
            var left = bytes
            while UInt64(number) < last, page.entries.count < max(limit, 1), left > 0 {
                number += 1
                let record = index.remote.records[number]
                guard record.word != 0, record.owner == remote.node, record.generation == node.generation,
                    let filter = index.remoteFilter(of: number)
                else { continue }
                left -= filter.bytes.count
                page.entries.append(RemoteEntry(filter: filter, isPresent: record.isPresent))
            }
            page.next = number < highest ? number : nil
            return page
        }
    }

    /// Notes whether a node can be reached: shared groups avoid nodes that cannot. Ordinary look-ups stay as they are.
    public func setReachable(_ remote: RemoteNode, _ isReachable: Bool) {
        changingInterest { index.setReachable(remote.node, isReachable, hook: meshHook) { noteChange($0) } }
    }

    /// Entries that other nodes have in the index.
    public var remoteFilterCount: Int { indexLock.withLock { _ in index.remote.records.count } }

    // MARK: Shared groups

    /// What other nodes know a shared group by: a fixed hash of its name and filter. Nil when it is gone.
    public func groupKey(_ number: UInt32) -> UInt64? { indexLock.withLock { _ in index.groups[number]?.key } }

    /// This node's number for a shared group; nil when nobody is known to be in it.
    public func groupNumber(_ key: UInt64) -> UInt32? { indexLock.withLock { _ in index.groupsByKey[key] } }

    /// What members of a shared group are subscribed to, the group's name included; nil when nobody is known to be in
    /// it any more.
    func filter(ofGroup number: UInt32) -> TopicFilter? {
        indexLock.withLock { _ in index.groupFilter(number) }
    }

    /// Gives a run to a member on this node of a shared group, because another node has chosen this one for it: to one
    /// that is present if there is one. Nothing has matched when there is no member, or when the group is another that
    /// happens to have the same key.
    public func deliverShare(_ run: UnsafePointer<EventRun>, key: UInt64, on lane: Lane) -> PublishOutcome {
        var outcome = PublishOutcome(verdict: .routed, matched: 0, refused: 0, pending: 0, token: 0)
        let found = indexLock.withLock { _ -> (Target, UInt32, UInt32)? in
            guard let group = index.groupsByKey[key], let entry = index.groups[group],
                TopicFilter(
                    path: index.path(to: entry.node), ending: entry.ending, group: nil, isLocalOnly: false
                ).matches(run.pointee.topicBytes)
            else { return nil }
            let turn = index.takeTurn(of: group)
            guard let hit = index.localMember(of: group, turn: turn),
                index.isReadable(run.pointee.topicBytes, hit)
            else { return nil }
            return (hit.target.0, hit.target.1, group)
        }
        guard let (member, number, group) = found else { return outcome }
        var (target, identifier) = (member, number)
        if identifier != 0 { target.identifierCount = 1 }
        outcome.matched = 1
        lane.runToken = 0
        lane.held = 0
        lane.group = group
        lane.groupRouter = UInt32(truncatingIfNeeded: self.number)
        lane.runSerial &+= 1
        withUnsafePointer(to: &identifier) { identifiers in
            lane.identifiers = identifiers
            if target.address.lane == lane.number {
                outcome.refused = Int32(truncatingIfNeeded: lane.deliver(run, &target))
            } else {
                stage(run, &target, 1, to: target.address.lane, on: lane, &outcome)
            }
        }
        lane.group = 0
        outcome.token = lane.runToken
        outcome.pending &+= Int32(truncatingIfNeeded: lane.held)
        return outcome
    }

    // MARK: Explaining

    /// Who wants a topic. For explanations: it walks the index under the lock.
    public func remoteMatches(_ topic: UnsafeRawBufferPointer) -> RemoteMatches {
        guard Topic.isValid(topic, limits: limits) else { return RemoteMatches() }
        return indexLock.withLock { _ in
            var raw = RawMatch()
            var scratch = MatchScratch()
            index.match(topic, into: &raw, scratch: &scratch)
            var matches = RemoteMatches(nodes: raw.remotes.map { Int($0) - 1 }, local: raw.hits.count)
            let mesh = index.remote.address.packed
            var start = 0
            for (number, end) in zip(raw.groupNumbers, raw.groupEnds) {
                defer { start = end }
                guard let known = index.groups[number] else { continue }
                let filter = TopicFilter(
                    path: index.path(to: known.node), ending: known.ending, group: known.name, isLocalOnly: false)
                var group = RemoteMatches.Group(filter: filter.wholeText, key: known.key)
                let members = raw.members[start..<end]
                let isWeighted = members.contains { $0.weight > 0 }
                for hit in members {
                    if hit.address == mesh {
                        group.nodes.append(Int(hit.identifier) - 1)
                        if isWeighted { group.nodeWeights.append(hit.weight) }
                    } else {
                        group.localMembers += 1
                        if isWeighted { group.localWeights.append(hit.weight) }
                    }
                }
                matches.groups.append(group)
            }
            return matches
        }
    }
}
