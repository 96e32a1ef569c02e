// Weights of the members of shared groups: how much of a group's events a member is to have, such as the 5 % of a
// canary. As long as nobody present has said a weight a group is shared out as `Matching.swift` says; from then on by
// weight, over all members of the whole mesh that can be reached. See `docs/decisions/0032`.

import Synchronization

/// The weight of a member of a shared group.
public enum MemberWeight {
    /// Of a member that has said none.
    public static let standard: UInt16 = 100
    /// The largest that can be said.
    public static let max: UInt16 = 1_000

    /// A weight in decimal digits; nil when it is no number of 0…1000.
    public static func parse(_ text: some Collection<UInt8>) -> UInt16? {
        guard (1...4).contains(text.count) else { return nil }
        var value: UInt16 = 0
        for byte in text {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            value = value * 10 + UInt16(byte - UInt8(ascii: "0"))
        }
        return value <= max ? value : nil
    }

    /// A weight that came as a number; nil when it is none of 0…1000.
    public static func parse(_ number: some BinaryInteger) -> UInt16? {
        (0...Int(max)).contains(Int(clamping: number)) ? UInt16(truncatingIfNeeded: number) : nil
    }

    /// Which of `total` equal shares is due at a turn: from turn to turn it goes on by the golden ratio, which spreads
    /// any interval's turns as evenly as can be, whatever its length. So a member of 5 % gets every twentieth event or
    /// so, and not a handful in a row.
    @inline(__always)
    static func share(of total: UInt64, turn: UInt32) -> UInt64 {
        (UInt64(turn) &* 0x9E37_79B9_7F4A_7C15).multipliedFullWidth(by: total).high
    }
}

/// What a node tells others of a shared group that has weights.
public struct GroupWeight: Sendable, Equatable {
    /// The same for a group on every node; see ``Router/groupKey(_:)``.
    public var key: UInt64
    /// The weights of its present members, added up.
    public var sum: UInt32
    /// Whether one of them has said a weight; else somebody on another node has.
    public var isSaid: Bool

    /// Makes one.
    public init(key: UInt64, sum: UInt32, isSaid: Bool) {
        self.key = key
        self.sum = sum
        self.isSaid = isSaid
    }
}

/// What other nodes say of weights. Nothing here is ever iterated by key.
struct RemoteWeights {
    /// By node, in the order of the keys; of nodes that say something only.
    private(set) var lists: [Int: [GroupWeight]] = [:]
    /// By group: nodes that can be reached and where a weight has been said.
    private var said: [UInt64: Int] = [:]

    func isSaid(_ key: UInt64) -> Bool { !said.isEmpty && said[key] != nil }

    /// The weight of a node's members together: of those it has said nothing of, one member's.
    func weight(of node: Int, _ key: UInt64) -> UInt32 {
        guard let list = lists[node] else { return UInt32(MemberWeight.standard) }
        var (low, high) = (0, list.count)
        while low < high {
            let middle = (low + high) / 2
            if list[middle].key < key { low = middle + 1 } else { high = middle }
        }
        return low < list.count && list[low].key == key ? list[low].sum : UInt32(MemberWeight.standard)
    }

    /// Takes what a node says.
    mutating func set(_ list: [GroupWeight], of node: Int, isReachable: Bool) {
        if isReachable { count(node, -1) }
        lists[node] = list.isEmpty ? nil : list
        if isReachable { count(node, 1) }
    }

    /// Counts what a node has said, or not any more.
    mutating func count(_ node: Int, _ sign: Int) {
        for entry in lists[node] ?? [] where entry.isSaid {
            let count = said[entry.key, default: 0] + sign
            said[entry.key] = count > 0 ? count : nil
        }
    }
}

extension TopicIndex {
    /// Whether a group is shared out by weight: a present member here has said one, or one on a node in reach has.
    func isWeighted(_ group: Group) -> Bool {
        hasSaid(group) || remoteWeights.isSaid(group.key)
    }

    private func hasSaid(_ group: Group) -> Bool {
        // The order cannot show.
        !group.weights.isEmpty && group.weights.keys.contains { ports[records[$0].owner].isPresent }
    }

    /// Calls `body` with the present members of a group, and with the nodes in reach that have some, each with its
    /// weight.
    func forEachWeighted(of group: Group, _ body: (RawMatch.Hit) -> Void) {
        var number = group.firstMember
        while number != 0 {
            let record = records[number]
            if ports[record.owner].isPresent {
                var hit = hit(record)
                hit.weight = UInt32(group.weights[number] ?? MemberWeight.standard)
                body(hit)
            }
            number = record.next
        }
        guard group.firstRemote != 0 else { return }
        forEachRemoteMember(of: group) { hit, kind in
            guard kind == .present else { return }
            var hit = hit
            hit.weight = remoteWeights.weight(of: Int(hit.identifier) - 1, group.key)
            body(hit)
        }
    }

    /// Whose turn it is when an event of a group is given to a member on its own, outside a match.
    mutating func takeTurn(of groupNumber: UInt32) -> UInt32 {
        groups[groupNumber]?.turn &+= 1
        return groups[groupNumber]?.turn ?? 0
    }

    // MARK: What this node says, and others do

    /// The weight of the members here of a group that other nodes may know; nil for a group without weights, and when
    /// nobody here is present.
    func localWeight(of filter: TopicFilter) -> GroupWeight? {
        guard let name = filter.group, let (place, ending) = tree.findPath(filter),
            let number = groupNumbers[GroupKey(node: place, ending: ending, name: name)], let group = groups[number],
            !group.weights.isEmpty || remoteWeights.isSaid(group.key)
        else { return nil }
        var sum: UInt64 = 0
        var (isSaid, isPresent) = (false, false)
        var member = group.firstMember
        while member != 0 {
            let record = records[member]
            if ports[record.owner].isPresent, !record.isLocalOnly {
                isPresent = true
                let weight = group.weights[member]
                if weight != nil { isSaid = true }
                sum += UInt64(weight ?? MemberWeight.standard)
            }
            member = record.next
        }
        guard isPresent, isSaid || remoteWeights.isSaid(group.key) else { return nil }
        return GroupWeight(key: group.key, sum: UInt32(clamping: sum), isSaid: isSaid)
    }

    /// A node says other weights than before; `changed` is told the groups that choose anew because of it.
    mutating func setWeights(
        _ list: [GroupWeight], of node: Int, hook: MeshHook?, changed: (TopicFilter?) -> Void
    ) {
        let before = remoteWeights.lists[node] ?? []
        guard let known = remote.nodes[node], before != list else { return }
        remoteWeights.set(list, of: node, isReachable: known.isReachable)
        // Both are in the order of the keys, and short.
        noteWeights((before + list).filter { before.contains($0) != list.contains($0) }, hook, changed)
    }

    /// A node can be reached again, or not any more: what it says of weights counts, or does not.
    mutating func setWeightsReachable(
        _ node: Int, _ isReachable: Bool, hook: MeshHook?, changed: (TopicFilter?) -> Void
    ) {
        guard let list = remoteWeights.lists[node] else { return }
        remoteWeights.count(node, isReachable ? 1 : -1)
        noteWeights(list, hook, changed)
    }

    /// Groups choose anew; and this node may have something to say of them, or nothing any more.
    private func noteWeights(_ list: [GroupWeight], _ hook: MeshHook?, _ changed: (TopicFilter?) -> Void) {
        for entry in list {
            guard let filter = groupsByKey[entry.key].flatMap({ groupFilter($0) }) else { continue }
            changed(filter)
            hook?.touch(filter)
        }
    }

    /// What members of a group are subscribed to, the group's name included.
    func groupFilter(_ number: UInt32) -> TopicFilter? {
        groups[number].map { group in
            TopicFilter(path: path(to: group.node), ending: group.ending, group: group.name, isLocalOnly: false)
        }
    }
}

extension Router {
    /// What other nodes are to be told of weights in a shared group; nil for nothing, as of a group in which nobody
    /// here is present, or nobody anywhere has said a weight.
    public func localWeight(of filter: TopicFilter) -> GroupWeight? {
        indexLock.withLock { _ in index.localWeight(of: filter) }
    }

    /// Takes what a node says of weights, in place of what it said before.
    /// - Parameter weights: in the order of their keys, each once.
    public func setWeights(_ weights: [GroupWeight], of remote: RemoteNode) {
        changingInterest { index.setWeights(weights, of: remote.node, hook: meshHook) { noteChange($0) } }
    }
}
