// What other nodes want, in the same index as this node's subscriptions: a look-up finds both in one walk. Other nodes
// may want very much, so it is kept lean: 12 bytes for a node and filter. A filter without wildcards matches one topic
// only and stands in a table by its text; the others hang at the tree, in front of this node's own.

/// The part of the index that belongs to other nodes. Under the router's lock like all of it.
struct RemoteInterest: ~Copyable {
    /// That a node wants what a filter matches.
    struct Record {
        /// In a text's, node's or group's list; tagged where it is one of the tree's.
        var next: UInt32 = 0
        /// Where the text is; the tree's node; or the group.
        var place: UInt32
        /// Bytes of the text; or how the filter ends, and 4 for a member.
        var detail: UInt16
        /// Node in the lower 12 bits, generation in two; whether somebody is present; whether it is a text. 0 when
        /// free.
        var word: UInt16

        static let (presentBit, literalBit): (UInt16, UInt16) = (1 << 14, 1 << 15)
        static let memberBit: UInt16 = 4

        var owner: Int { Int(word & 0xFFF) }
        var generation: UInt16 {
            get { word >> 12 & 3 }
            set { word = word & ~(3 << 12) | newValue << 12 }
        }
        var isPresent: Bool {
            get { word & Self.presentBit != 0 }
            set { word = newValue ? word | Self.presentBit : word & ~Self.presentBit }
        }
        var isLiteral: Bool { word & Self.literalBit != 0 }
        var isMember: Bool { !isLiteral && detail & Self.memberBit != 0 }
        var ending: TopicIndex.Ending { TopicIndex.Ending(rawValue: UInt8(detail & 3)) ?? .exact }
    }

    /// A node as the index knows it.
    struct Node {
        var isReachable = true
        /// Which of its records are part of its present set; the others are on their way out.
        var generation: UInt16 = 0
        var memberships = 0
        /// Sets begun since the last one was complete.
        var unfinished = 0
    }

    /// Nodes are numbered below; a record has 12 bits for it.
    static let maxNodes = 4_096
    private static let tag: UInt32 = 1 << 31

    /// The mesh's port.
    var address = PortAddress.none
    var nodes: [Node?] = []
    var records = Arena<Record>()
    private var texts = ByteArena()
    private var literals = NumberTable()

    /// Bytes of records, texts and their table.
    var bytesHeld: Int { records.bytesHeld + texts.bytesHeld + literals.bytesHeld }

    var hasLiterals: Bool { literals.count != 0 }

    /// Whether what stands in a tree's list is a node's, not this node's own.
    @inline(__always)
    static func isRemote(_ number: UInt32) -> Bool { number & tag != 0 }
    static func tagged(_ number: UInt32) -> UInt32 { number | tag }
    static func untagged(_ number: UInt32) -> UInt32 { number & ~tag }

    func next(_ tagged: UInt32) -> UInt32 { records[Self.untagged(tagged)].next }
    func setNext(_ tagged: UInt32, _ next: UInt32) { records[Self.untagged(tagged)].next = next }

    func isFresh(_ record: Record) -> Bool { nodes[record.owner]?.generation == record.generation }

    // MARK: Texts

    /// The first record of a text; 0 when there is none.
    func literal(_ text: UnsafeRawPointer, _ count: Int, hash: UInt32) -> UInt32 {
        literals.find(hash) { number in
            let record = records[number]
            return Int(record.detail) == count && bytesEqual(texts.address(record.place), text, count)
        }
    }

    func text(_ record: Record) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: texts.address(record.place), count: Int(record.detail))
    }

    mutating func insertLiteral(_ text: UnsafeRawBufferPointer, hash: UInt32, word: UInt16, behind head: UInt32) {
        var record = Record(place: 0, detail: UInt16(text.count), word: word)
        guard head != 0 else {
            record.place = texts.store(text)
            literals.insert(records.allocate(record), hash: hash)
            return
        }
        record.place = records[head].place
        record.next = records[head].next
        let number = records.allocate(record)
        records[head].next = number
    }

    mutating func removeLiteral(_ number: UInt32, head: UInt32, hash: UInt32) {
        let record = records[number]
        if number != head {
            var previous = head
            while records[previous].next != number { previous = records[previous].next }
            records[previous].next = record.next
        } else {
            literals.remove(number, hash: hash)
            if record.next == 0 {
                texts.release(record.place, count: Int(record.detail))
            } else {
                literals.insert(record.next, hash: hash)
            }
        }
        release(number)
    }

    mutating func release(_ number: UInt32) {
        records[number].word = 0
        records.release(number)
    }
}

/// Which of a group's members an event may go to.
enum RemoteMemberKind { case present, absent, unreachable }

extension TopicIndex {
    /// What became of what a node wants.
    enum RemoteChange { case added, presenceChanged, same }

    private func textHash(_ text: UnsafeRawPointer, _ count: Int) -> UInt32 {
        UInt32(truncatingIfNeeded: hashBytes(text, count, key: key))
    }

    /// A node wants what a filter matches. What it already wanted becomes part of its present set.
    /// - Returns: whether its present set has changed, and whether look-ups find something else.
    mutating func subscribeRemote(_ node: Int, _ entry: RemoteEntry) -> (change: RemoteChange, isNew: Bool) {
        guard let generation = remote.nodes[node]?.generation else { return (.same, false) }
        let filter = entry.filter
        let word = UInt16(node) | generation << 12 | (entry.isPresent ? RemoteInterest.Record.presentBit : 0)
        if filter.isLiteral {
            return filter.bytes.withUnsafeBytes { text in
                guard let base = text.baseAddress else { return (.same, false) }
                let hash = textHash(base, text.count)
                let head = remote.literal(base, text.count, hash: hash)
                let known = findOwner(node, from: head, detail: nil)
                if known != 0 { return refresh(known, entry.isPresent, generation) }
                remote.insertLiteral(
                    text, hash: hash, word: word | RemoteInterest.Record.literalBit, behind: head)
                return (.added, true)
            }
        }
        let (place, ending) = tree.insertPath(filter)
        if let name = filter.group {
            let number = group(named: name, node: place, ending: ending)
            let known = findOwner(node, from: groups[number]?.firstRemote ?? 0, detail: nil)
            if known != 0 { return refresh(known, entry.isPresent, generation) }
            let record = RemoteInterest.Record(
                next: groups[number]?.firstRemote ?? 0, place: number, detail: RemoteInterest.Record.memberBit,
                word: word)
            groups[number]?.firstRemote = remote.records.allocate(record)
            groups[number]?.memberCount += 1
            remote.nodes[node]?.memberships += 1
            return (.added, true)
        }
        let head = head(of: place, ending)
        let known = findOwner(node, from: head, detail: UInt16(ending.rawValue))
        if known != 0 { return refresh(RemoteInterest.untagged(known), entry.isPresent, generation) }
        let number = RemoteInterest.tagged(
            remote.records.allocate(
                RemoteInterest.Record(next: head, place: place, detail: UInt16(ending.rawValue), word: word)))
        if head != 0, !RemoteInterest.isRemote(head) { setPrevious(of: head, number) }
        setHead(of: place, ending, number)
        return (.added, true)
    }

    private func refresh(
        _ number: UInt32, _ isPresent: Bool, _ generation: UInt16
    ) -> (change: RemoteChange, isNew: Bool) {
        let record = remote.records[number]
        let isOther = record.isPresent != isPresent
        remote.records[number].isPresent = isPresent
        remote.records[number].generation = generation
        if record.generation != generation { return (.added, isOther && record.isMember) }
        return (isOther ? .presenceChanged : .same, isOther && record.isMember)
    }

    /// A node does not want any more what a filter matches.
    /// - Returns: nil when it did not; else whether it was part of its present set, and whether somebody was present.
    mutating func unsubscribeRemote(_ node: Int, _ filter: TopicFilter) -> (wasFresh: Bool, wasPresent: Bool)? {
        let number = findRemote(node, filter)
        guard number != 0 else { return nil }
        let record = remote.records[number]
        let wasFresh = remote.isFresh(record)
        removeRemote(number)
        return (wasFresh, record.isPresent)
    }

    func findRemote(_ node: Int, _ filter: TopicFilter) -> UInt32 {
        if filter.isLiteral {
            return filter.bytes.withUnsafeBytes { text in
                guard let base = text.baseAddress else { return 0 }
                let hash = textHash(base, text.count)
                return findOwner(node, from: remote.literal(base, text.count, hash: hash), detail: nil)
            }
        }
        guard let (place, ending) = tree.findPath(filter) else { return 0 }
        if let name = filter.group {
            guard let number = groupNumbers[GroupKey(node: place, ending: ending, name: name)] else { return 0 }
            return findOwner(node, from: groups[number]?.firstRemote ?? 0, detail: nil)
        }
        return RemoteInterest.untagged(findOwner(node, from: head(of: place, ending), detail: UInt16(ending.rawValue)))
    }

    /// The record of a node in a list; only of one that ends so, unless `detail` is nil. As it stands in the list.
    private func findOwner(_ node: Int, from head: UInt32, detail: UInt16?) -> UInt32 {
        var number = head
        while number != 0, detail == nil || RemoteInterest.isRemote(number) {
            let record = remote.records[RemoteInterest.untagged(number)]
            if record.owner == node, detail == nil || record.detail == detail { return number }
            number = record.next
        }
        return 0
    }

    mutating func removeRemote(_ number: UInt32) {
        let record = remote.records[number]
        if record.isLiteral {
            let text = remote.text(record)
            guard let base = text.baseAddress else { return }
            let hash = textHash(base, text.count)
            remote.removeLiteral(number, head: remote.literal(base, text.count, hash: hash), hash: hash)
        } else if record.isMember {
            unlinkMember(number, record)
            remote.nodes[record.owner]?.memberships -= 1
            remote.release(number)
            leaveGroup(record.place)
        } else {
            unlinkFromTree(number, record)
            remote.release(number)
            tree.prune(record.place)
        }
    }

    private mutating func unlinkMember(_ number: UInt32, _ record: RemoteInterest.Record) {
        var other = groups[record.place]?.firstRemote ?? 0
        if other == number {
            groups[record.place]?.firstRemote = record.next
            return
        }
        while remote.records[other].next != number { other = remote.records[other].next }
        remote.records[other].next = record.next
    }

    private mutating func unlinkFromTree(_ number: UInt32, _ record: RemoteInterest.Record) {
        let tagged = RemoteInterest.tagged(number)
        var previous: UInt32 = 0
        var other = head(of: record.place, record.ending)
        while other != tagged {
            previous = other
            other = remote.next(other)
        }
        if previous == 0 {
            setHead(of: record.place, record.ending, record.next)
        } else {
            remote.setNext(previous, record.next)
        }
        if record.next != 0, !RemoteInterest.isRemote(record.next) { setPrevious(of: record.next, previous) }
    }

    private func head(of place: UInt32, _ ending: Ending) -> UInt32 {
        ending == .exact ? tree.nodes[place].first : tree.nodes[place].second
    }

    private func setHead(of place: UInt32, _ ending: Ending, _ number: UInt32) {
        if ending == .exact { tree.nodes[place].first = number } else { tree.nodes[place].second = number }
    }

    /// The filter of a record.
    func remoteFilter(of number: UInt32) -> TopicFilter? {
        let record = remote.records[number]
        if record.isLiteral { return TopicFilter(canonical: remote.text(record)) }
        guard record.isMember else {
            return TopicFilter(path: path(to: record.place), ending: record.ending, group: nil, isLocalOnly: false)
        }
        guard let group = groups[record.place] else { return nil }
        return TopicFilter(path: path(to: group.node), ending: group.ending, group: group.name, isLocalOnly: false)
    }

    // MARK: Looking up

    func collectLiteral(_ topic: UnsafeRawPointer, _ count: Int, into result: inout RawMatch) {
        var number = remote.literal(topic, count, hash: textHash(topic, count))
        while number != 0 {
            let record = remote.records[number]
            result.remotes.append(UInt32(record.owner + 1))
            number = record.next
        }
    }

    /// Takes a record of a tree's list.
    /// - Returns: what stands behind it.
    func collectRemote(_ tagged: UInt32, atEnd: Bool, into result: inout RawMatch) -> UInt32 {
        let record = remote.records[RemoteInterest.untagged(tagged)]
        if record.ending != .more || !atEnd { result.remotes.append(UInt32(record.owner + 1)) }
        return record.next
    }

    func forEachRemoteMember(of group: Group, _ body: (RawMatch.Hit, RemoteMemberKind) -> Void) {
        var number = group.firstRemote
        while number != 0 {
            let record = remote.records[number]
            let isReachable = remote.nodes[record.owner]?.isReachable ?? false
            let kind: RemoteMemberKind = !isReachable ? .unreachable : record.isPresent ? .present : .absent
            let options = kind == .present ? DeliveryOptions.remote : .remote.union(.absentMember)
            body(
                RawMatch.Hit(
                    address: remote.address.packed, identifier: UInt32(record.owner + 1), options: options), kind)
            number = record.next
        }
    }

    // MARK: Nodes

    mutating func addRemoteNode(_ node: Int) {
        while remote.nodes.count <= node { remote.nodes.append(nil) }
        if remote.nodes[node] == nil { remote.nodes[node] = RemoteInterest.Node() }
    }

    /// From here on what the node wants counts only if it says so again; the rest is still found until it is swept.
    mutating func beginRemoteSet(_ node: Int) {
        guard var known = remote.nodes[node] else { return }
        known.unfinished += 1
        if known.unfinished > 2 {
            // Two bits tell three generations apart from the next: what is left of earlier ones becomes the last one.
            forEachRemoteRecord(of: node) { remote.records[$0].generation = known.generation }
            known.unfinished = 1
        }
        known.generation = (known.generation + 1) & 3
        remote.nodes[node] = known
    }

    private func forEachRemoteRecord(of node: Int, _ body: (UInt32) -> Void) {
        guard remote.records.count > 0 else { return }
        for number in 1...max(remote.records.highest, 1) where remote.records[number].owner == node { body(number) }
    }

    /// Removes what is not part of a node's present set, or with `isAll` everything: from the records after `cursor`,
    /// `places` of them.
    /// - Returns: where to go on; nil at the end.
    mutating func sweepRemote(
        _ node: Int, after cursor: UInt32, places: Int, isAll: Bool, changed: (TopicFilter?) -> Void
    ) -> UInt32? {
        guard let known = remote.nodes[node] else { return nil }
        var number = cursor
        var changes = 0
        let last = min(UInt64(remote.records.highestUsed), UInt64(cursor) + UInt64(max(places, 1)))
        while UInt64(number) < last {
            number += 1
            let record = remote.records[number]
            guard record.word != 0, record.owner == node, isAll || record.generation != known.generation else {
                continue
            }
            changes += 1
            if changes <= Self.manyRemoteChanges { changed(remoteFilter(of: number)) }
            removeRemote(number)
        }
        if changes > Self.manyRemoteChanges { changed(nil) }
        if UInt64(number) < UInt64(remote.records.highestUsed) { return number }
        if !isAll { remote.nodes[node]?.unfinished = 0 }
        return nil
    }

    private static let manyRemoteChanges = 64

    /// Notes whether a node can be reached; `changed` is told the filters of groups that choose anew, or nil for many.
    mutating func setReachable(
        _ node: Int, _ isReachable: Bool, hook: MeshHook? = nil, changed: (TopicFilter?) -> Void
    ) {
        guard let known = remote.nodes[node], known.isReachable != isReachable else { return }
        remote.nodes[node]?.isReachable = isReachable
        setWeightsReachable(node, isReachable, hook: hook, changed: changed)
        guard known.memberships > 0 else { return }
        if known.memberships > Self.manyRemoteChanges || groups.count > 1_024 { return changed(nil) }
        for (_, group) in groups where findOwner(node, from: group.firstRemote, detail: nil) != 0 {
            changed(
                TopicFilter(path: path(to: group.node), ending: group.ending, group: group.name, isLocalOnly: false))
        }
    }

    // MARK: What this node wants

    /// Whether somebody here wants what a filter matches, and may tell other nodes.
    func localInterest(in filter: TopicFilter) -> LocalInterest {
        guard filter.bytes.first != UInt8(ascii: "$"), let (place, ending) = tree.findPath(filter) else { return .none }
        guard let name = filter.group else {
            var number = head(of: place, ending)
            while RemoteInterest.isRemote(number) { number = remote.next(number) }
            while number != 0 {
                let record = records[number]
                if record.role == .direct, record.ending == ending, !record.isLocalOnly { return .present }
                number = record.next
            }
            return .none
        }
        guard let group = groupNumbers[GroupKey(node: place, ending: ending, name: name)] else { return .none }
        var found = LocalInterest.none
        var number = groups[group]?.firstMember ?? 0
        while number != 0 {
            let record = records[number]
            if !record.isLocalOnly {
                if ports[record.owner].isPresent { return .present }
                found = .absent
            }
            number = record.next
        }
        return found
    }

    /// The filters of this node's subscriptions, some of them: of the records after `cursor`, `places` of them.
    func localFilters(after cursor: UInt32, places: Int) -> (filters: [TopicFilter], next: UInt32?) {
        var found: [TopicFilter] = []
        var number = cursor
        let last = min(UInt64(records.highestUsed), UInt64(cursor) + UInt64(max(places, 1)))
        while UInt64(number) < last {
            number += 1
            let role = records[number].role
            if role == .direct || role == .member { found.append(filter(of: number)) }
        }
        return (found, UInt64(number) < UInt64(records.highestUsed) ? number : nil)
    }

    // MARK: Keys of groups

    /// Fixed, so that every node has the same key for a group.
    static func key(of filter: TopicFilter) -> UInt64 {
        let bytes = filter.canonical
        return bytes.withUnsafeBytes { bytes in
            bytes.baseAddress.map { hashBytes($0, bytes.count, key: 0x4170_7573_4D65_7368) } ?? 0
        }
    }
}

extension Arena {
    /// No record in use has a higher number; 0 when there has been none.
    var highestUsed: UInt32 { count == 0 ? 0 : highest }
}

extension TopicFilter {
    /// Whether it matches exactly one topic, its text, and belongs to no group.
    var isLiteral: Bool { group == nil && levels.allSatisfy { $0.kind == .literal } }
}
