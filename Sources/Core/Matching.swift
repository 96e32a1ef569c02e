/// Looking a topic up in the index: an iterative walk with its own stack, bounded by the nodes that match.

/// What a walk found, before it is sorted out for a lane. Reused from look-up to look-up.
struct RawMatch {
    struct Hit {
        var address: UInt64
        var identifier: UInt32
        var options: DeliveryOptions
        /// The port's number; 0 for other nodes.
        var port: UInt32 = 0
        /// Of a member of a group that is shared out by weight; 0 in all others.
        var weight: UInt32 = 0

        /// Where it goes, and the subscription's identifier.
        var target: (Target, UInt32) {
            (Target(address: PortAddress(packed: address), options: options.subtracting(.filtered)), identifier)
        }
    }

    /// Direct subscriptions, one for each that matched.
    var hits: [Hit] = []
    /// Members of shared groups, group after group.
    var members: [Hit] = []
    /// Where each group's members end in ``members``.
    var groupEnds: [Int] = []
    /// Each group's number.
    var groupNumbers: [UInt32] = []
    /// Other nodes that want the topic, as identifiers of the mesh's port: each once, in order.
    var remotes: [UInt32] = []

    mutating func removeAll() {
        remotes.removeAll(keepingCapacity: true)
        hits.removeAll(keepingCapacity: true)
        members.removeAll(keepingCapacity: true)
        groupEnds.removeAll(keepingCapacity: true)
        groupNumbers.removeAll(keepingCapacity: true)
    }

    /// A node may have several filters that match: once is enough.
    mutating func sortRemotes() {
        remotes.sort()
        var count = 1
        for index in 1..<remotes.count where remotes[index] != remotes[count - 1] {
            remotes[count] = remotes[index]
            count += 1
        }
        remotes.removeLast(remotes.count - count)
    }
}

/// The scratch space of a walk.
struct MatchScratch {
    struct Step {
        var node: UInt32
        var level: Int32
    }

    struct Level {
        var start: Int
        var count: Int
        var hash: UInt64
    }

    var levels: [Level] = []
    var stack: [Step] = []
    /// Nodes that the last walk visited.
    var visited = 0
}

extension TopicIndex {
    /// Finds every subscription that matches `topic` (MQTT 3.1.1 §4.7).
    ///
    /// - Parameter topic: a valid topic, see ``Topic/isValid(_:limits:)``.
    func match(_ topic: UnsafeRawBufferPointer, into result: inout RawMatch, scratch: inout MatchScratch) {
        result.removeAll()
        guard let base = topic.baseAddress else { return }
        splitLevels(base, topic.count, into: &scratch)
        let isSystem = topic[0] == UInt8(ascii: "$")
        if remote.hasLiterals { collectLiteral(base, topic.count, into: &result) }
        defer { if result.remotes.count > 1 { result.sortRemotes() } }
        let depth = Int32(scratch.levels.count)
        scratch.stack.removeAll(keepingCapacity: true)
        scratch.stack.append(MatchScratch.Step(node: TopicTree.root, level: 0))
        scratch.visited = 0
        while let step = scratch.stack.popLast() {
            scratch.visited += 1
            let node = tree.nodes[step.node]
            let hidden = isSystem && step.level == 0
            if node.second != 0, !hidden { collect(node.second, atEnd: step.level == depth, into: &result) }
            if step.level == depth {
                if node.first != 0 { collect(node.first, atEnd: true, into: &result) }
                continue
            }
            guard node.childCount != 0 else { continue }
            let level = scratch.levels[Int(step.level)]
            if node.singleChild != 0, !hidden {
                scratch.stack.append(MatchScratch.Step(node: node.singleChild, level: step.level + 1))
            }
            let literal = tree.child(
                of: step.node, .literal, base + level.start, level.count, levelHash: level.hash)
            if literal != 0 { scratch.stack.append(MatchScratch.Step(node: literal, level: step.level + 1)) }
            if node.hasPrefixChildren {
                tree.forEachPrefixChild(of: step.node, base + level.start, level.count) {
                    scratch.stack.append(MatchScratch.Step(node: $0, level: step.level + 1))
                }
            }
        }
    }

    private func splitLevels(_ base: UnsafeRawPointer, _ count: Int, into scratch: inout MatchScratch) {
        scratch.levels.removeAll(keepingCapacity: true)
        var start = 0
        for index in 0...count
        where index == count || base.load(fromByteOffset: index, as: UInt8.self) == UInt8(ascii: "/") {
            let length = index - start
            scratch.levels.append(
                MatchScratch.Level(start: start, count: length, hash: tree.levelHash(base + start, length)))
            start = index + 1
        }
    }

    /// Takes a list of records; `>` does not match where the topic ends.
    private func collect(_ head: UInt32, atEnd: Bool, into result: inout RawMatch) {
        var number = head
        while number != 0 {
            if RemoteInterest.isRemote(number) {
                number = collectRemote(number, atEnd: atEnd, into: &result)
                continue
            }
            let record = records[number]
            number = record.next
            if record.ending == .more, atEnd { continue }
            if record.role == .group {
                collectMembers(of: record.owner, into: &result)
            } else {
                result.hits.append(hit(record))
            }
        }
    }

    /// The members of a group that an event may go to: those here that are present; if there are none, the nodes that
    /// have one; if none has, the absent ones here, so that guaranteed events wait with one; else other nodes' absent
    /// ones. With weights, those here that are present and the nodes that have one.
    private func collectMembers(of groupNumber: UInt32, into result: inout RawMatch) {
        guard let group = groups[groupNumber] else { return }
        forEachMember(of: group) { result.members.append($0) }
        result.groupEnds.append(result.members.count)
        result.groupNumbers.append(groupNumber)
    }

    /// Calls `body` with the members of the best kind that a group has.
    private func forEachMember(of group: Group, orAbsent: Bool = true, _ body: (RawMatch.Hit) -> Void) {
        if isWeighted(group) {
            var total: UInt64 = 0
            forEachWeighted(of: group) { total += UInt64($0.weight) }
            // Where everybody's is 0 nobody comes before another.
            if total > 0 { return forEachWeighted(of: group, body) }
        }
        var isFound = false
        func local(present: Bool) {
            var number = group.firstMember
            while number != 0 {
                let record = records[number]
                number = record.next
                guard ports[record.owner].isPresent == present else { continue }
                isFound = true
                body(hit(record))
            }
        }
        local(present: true)
        if !isFound, group.firstRemote != 0 {
            forEachRemoteMember(of: group) { hit, kind in
                guard kind == .present else { return }
                isFound = true
                body(hit)
            }
        }
        guard orAbsent, !isFound else { return }
        local(present: false)
        if isFound || group.firstRemote == 0 { return }
        for wanted in [RemoteMemberKind.absent, .unreachable] where !isFound {
            forEachRemoteMember(of: group) { hit, kind in
                guard kind == wanted else { return }
                isFound = true
                body(hit)
            }
        }
    }

    /// The `turn`-th member of a group, counted round and round among those of the best kind that it has, or by weight.
    /// - Parameter orAbsent: whether an absent one will do when nobody is present.
    func member(of groupNumber: UInt32, turn: UInt32, orAbsent: Bool) -> RawMatch.Hit? {
        groups[groupNumber].flatMap { member(of: $0, turn: turn, orAbsent: orAbsent) }
    }

    /// The `turn`-th member of a group on this node, among those present if there are any, or by weight.
    func localMember(of groupNumber: UInt32, turn: UInt32) -> RawMatch.Hit? {
        guard var group = groups[groupNumber] else { return nil }
        group.firstRemote = 0
        return member(of: group, turn: turn, orAbsent: true)
    }

    private func member(of group: Group, turn: UInt32, orAbsent: Bool) -> RawMatch.Hit? {
        var (count, total): (UInt64, UInt64) = (0, 0)
        forEachMember(of: group, orAbsent: orAbsent) {
            count += 1
            total += UInt64($0.weight)
        }
        guard count > 0 else { return nil }
        var left = total > 0 ? MemberWeight.share(of: total, turn: turn) : UInt64(turn) % count
        var found: RawMatch.Hit?
        forEachMember(of: group, orAbsent: orAbsent) { hit in
            guard found == nil else { return }
            let size = total > 0 ? UInt64(hit.weight) : 1
            if left < size { found = hit } else { left -= size }
        }
        return found
    }

    func hit(_ record: Record) -> RawMatch.Hit {
        var options = record.options
        if readersVersion == 0 {
            options.remove(.filtered)
        } else if ports[record.owner].judged != readersVersion {
            options.insert(.filtered)
        }
        return RawMatch.Hit(
            address: ports[record.owner].address.packed, identifier: record.identifier, options: options,
            port: record.owner)
    }
}
