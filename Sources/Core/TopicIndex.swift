/// The subscriptions of one namespace: a tree of levels with lists of subscriptions at its nodes. One writer at a time,
/// under the router's lock; readers come through their lane's ``MatchCache``, and here only on a miss.
struct TopicIndex: ~Copyable {
    /// One subscription of one port, or of a group's member, or the entry that stands for a group. 32 bytes.
    struct Record {
        /// Neighbours in the list of the node (or of the group, for a member).
        var next: UInt32 = 0
        var previous: UInt32 = 0
        /// The node it hangs at; for a member its group.
        var place: UInt32
        /// The port; for a group's entry the group.
        var owner: UInt32
        /// Neighbours in the list of everything the port subscribes to.
        var portNext: UInt32 = 0
        var portPrevious: UInt32 = 0
        var identifier: UInt32
        var options: DeliveryOptions
        var role: Role
        /// How the filter ends: `#`, `>` or neither.
        var ending: Ending
        var isLocalOnly: Bool
    }

    /// `free` is a record that is not in use.
    enum Role: UInt8 { case direct, group, member, free }
    enum Ending: UInt8 { case exact, rest, more }

    /// A port as the index knows it: its number stays when its address changes.
    struct PortRecord {
        var address: PortAddress
        var firstRecord: UInt32 = 0
        var count: UInt32 = 0
        /// Memberships in shared groups among them.
        var memberships: UInt32 = 0
        /// The version of the access rules that its subscriptions have been judged by; see `TopicIndex+Access.swift`.
        var judged: UInt32 = 0
        /// Who reads there. Kept alive from here; nil before the first subscription.
        var reader: Unmanaged<Reader>?
        /// Whether somebody is there to take events now; groups prefer such members.
        var isPresent = true
    }

    struct Group {
        var name: [UInt8]
        var node: UInt32
        var ending: Ending
        var entry: UInt32
        /// The same for this group on every node.
        var key: UInt64
        var firstMember: UInt32 = 0
        /// Other nodes that have members; see `TopicIndex+Remote.swift`.
        var firstRemote: UInt32 = 0
        /// Members, and nodes that have some.
        var memberCount: UInt32 = 0
        /// The weights that members here have said, by record; see `GroupWeights.swift`.
        var weights: [UInt32: UInt16] = [:]
        /// Counts the events that were given to a member outside a match.
        var turn: UInt32
    }

    struct GroupKey: Hashable {
        var node: UInt32
        var ending: Ending
        var name: [UInt8]
    }

    var tree: TopicTree
    var records = Arena<Record>()
    var ports = Arena<PortRecord>()
    var groups: [UInt32: Group] = [:]
    private(set) var groupNumbers: [GroupKey: UInt32] = [:]
    /// Groups by the key that other nodes know them by.
    private(set) var groupsByKey: [UInt64: UInt32] = [:]
    private var nextGroup: UInt32 = 1
    private var table = NumberTable()
    /// What other nodes want.
    var remote = RemoteInterest()
    /// What they say of weights in shared groups.
    var remoteWeights = RemoteWeights()
    /// The access rules that readers are judged by.
    var readerRules = AccessRules.none
    /// Their version; 0 while there are none.
    var readersVersion: UInt32 = 0
    let key: UInt64

    init(key: UInt64) {
        self.key = key
        tree = TopicTree(key: key, linked: false)
    }

    deinit {
        for port in 0..<ports.highest where ports[port + 1].reader != nil { ports[port + 1].reader?.release() }
    }

    /// Subscriptions, each member of a group counted.
    private(set) var subscriptionCount = 0
    /// Members of groups among them.
    private(set) var membershipCount = 0

    // MARK: Ports

    mutating func addPort(_ address: PortAddress) -> UInt32 { ports.allocate(PortRecord(address: address)) }

    /// From here on changes are not told one by one: `changed` is told nil, for any filter.
    static let manyChanges = 64

    /// Removes a port with everything it subscribes to; `changed` is told each filter, or nil for very many. The mesh
    /// is told by its hook.
    mutating func removePort(_ port: UInt32, hook: MeshHook? = nil, changed: (TopicFilter?) -> Void) {
        let isMany = ports[port].count > Self.manyChanges
        if isMany { changed(nil) }
        while ports[port].firstRecord != 0 {
            let record = ports[port].firstRecord
            if !isMany || hook != nil {
                let filter = filter(of: record)
                hook?.touch(filter)
                if !isMany { changed(filter) }
            }
            remove(record)
        }
        ports[port].reader?.release()
        ports[port].reader = nil
        ports.release(port)
    }

    /// Notes whether somebody is attached to a port; `changed` is told each filter whose groups choose anew, or nil
    /// for very many.
    mutating func setPresence(
        _ port: UInt32, _ isPresent: Bool, hook: MeshHook? = nil, changed: (TopicFilter?) -> Void
    ) {
        guard ports[port].isPresent != isPresent else { return }
        ports[port].isPresent = isPresent
        guard ports[port].memberships > 0 else { return }
        let isMany = ports[port].memberships > Self.manyChanges
        if isMany { changed(nil) }
        if isMany, hook == nil { return }
        var number = ports[port].firstRecord
        while number != 0 {
            if records[number].role == .member {
                let filter = filter(of: number)
                hook?.touch(filter)
                if !isMany { changed(filter) }
            }
            number = records[number].portNext
        }
    }

    // MARK: Subscribing

    /// Adds or replaces a subscription.
    /// - Returns: whether it is new.
    mutating func subscribe(_ port: UInt32, _ subscription: Subscription) -> Bool {
        let (node, ending) = tree.insertPath(subscription.filter)
        var place = node
        var role = Role.direct
        if let name = subscription.filter.group {
            place = group(named: name, node: node, ending: ending)
            role = .member
        }
        let known = find(place: place, role: role, ending: ending, owner: port)
        if known != 0 {
            records[known].options = subscription.options
            records[known].identifier = subscription.identifier
            records[known].isLocalOnly = subscription.filter.isLocalOnly
            setWeight(of: known, subscription.weight)
            return false
        }
        let record = records.allocate(
            Record(
                place: place, owner: port, identifier: subscription.identifier, options: subscription.options,
                role: role, ending: ending, isLocalOnly: subscription.filter.isLocalOnly))
        table.insert(record, hash: hash(place: place, role: role, ending: ending, owner: port))
        linkToPlace(record)
        linkToPort(record, port)
        setWeight(of: record, subscription.weight)
        subscriptionCount += 1
        return true
    }

    /// Notes what a member has said; nil for nothing.
    private mutating func setWeight(of number: UInt32, _ weight: UInt16?) {
        guard records[number].role == .member else { return }
        let group = records[number].place
        guard weight != nil || groups[group]?.weights.isEmpty == false else { return }
        groups[group]?.weights[number] = weight
    }

    /// Removes a subscription.
    /// - Returns: whether it was there.
    mutating func unsubscribe(_ port: UInt32, _ filter: TopicFilter) -> Bool {
        let record = find(port, filter)
        guard record != 0 else { return false }
        remove(record)
        return true
    }

    /// The identifier of a port's subscription; nil when there is none.
    func identifier(of port: UInt32, _ filter: TopicFilter) -> UInt32? {
        let record = find(port, filter)
        return record == 0 ? nil : records[record].identifier
    }

    /// The record of a port's subscription; 0 when there is none.
    func find(_ port: UInt32, _ filter: TopicFilter) -> UInt32 {
        guard let (node, ending) = tree.findPath(filter) else { return 0 }
        var place = node
        var role = Role.direct
        if let name = filter.group {
            guard let number = groupNumbers[GroupKey(node: node, ending: ending, name: name)] else { return 0 }
            place = number
            role = .member
        }
        return find(place: place, role: role, ending: ending, owner: port)
    }

    /// The filter of a record, written in the grammar that can express it: prefixes and `>` are SMF, else MQTT.
    func filter(of number: UInt32) -> TopicFilter {
        let record = records[number]
        let group = record.role == .member ? groups[record.place] : nil
        return TopicFilter(
            path: path(to: group?.node ?? record.place), ending: record.ending, group: group?.name,
            isLocalOnly: record.isLocalOnly)
    }

    /// Calls `body` with every subscription of a port.
    func forEachSubscription(of port: UInt32, limit: Int = .max, _ body: (Subscription) -> Void) {
        var number = ports[port].firstRecord
        var left = limit
        while number != 0, left > 0 {
            left -= 1
            let record = records[number]
            body(
                Subscription(
                    filter: filter(of: number), options: record.options, identifier: record.identifier,
                    weight: record.role == .member ? groups[record.place]?.weights[number] : nil))
            number = record.portNext
        }
    }

    // MARK: Paths

    func path(to node: UInt32) -> [(TopicFilter.Kind, [UInt8])] { tree.path(to: node) }

    // MARK: Records

    private func hash(place: UInt32, role: Role, ending: Ending, owner: UInt32) -> UInt32 {
        let where_ = UInt64(place) << 8 | UInt64(role.rawValue) << 4 | UInt64(ending.rawValue)
        return UInt32(
            truncatingIfNeeded: foldedProduct(
                where_ ^ key, (UInt64(owner) &* 2 &+ 1) &* 0xD6E8_FEB8_6659_FD93))
    }

    private func find(place: UInt32, role: Role, ending: Ending, owner: UInt32) -> UInt32 {
        table.find(hash(place: place, role: role, ending: ending, owner: owner)) { number in
            let record = records[number]
            return record.place == place && record.owner == owner && record.role == role && record.ending == ending
        }
    }

    private mutating func remove(_ number: UInt32) {
        let record = records[number]
        setWeight(of: number, nil)
        table.remove(
            number,
            hash: hash(place: record.place, role: record.role, ending: record.ending, owner: record.owner))
        unlinkFromPort(number)
        unlinkFromPlace(number)
        records[number].role = .free
        records.release(number)
        subscriptionCount -= 1
    }

    private mutating func linkToPort(_ number: UInt32, _ port: UInt32) {
        let head = ports[port].firstRecord
        records[number].portNext = head
        if head != 0 { records[head].portPrevious = number }
        ports[port].firstRecord = number
        ports[port].count += 1
        if records[number].role == .member {
            ports[port].memberships += 1
            membershipCount += 1
        }
    }

    private mutating func unlinkFromPort(_ number: UInt32) {
        let record = records[number]
        if record.portPrevious == 0 {
            ports[record.owner].firstRecord = record.portNext
        } else {
            records[record.portPrevious].portNext = record.portNext
        }
        if record.portNext != 0 { records[record.portNext].portPrevious = record.portPrevious }
        ports[record.owner].count -= 1
        if record.role == .member {
            ports[record.owner].memberships -= 1
            membershipCount -= 1
        }
    }

    /// The head of the list a record belongs to: a node's exact or rest list, or a group's members.
    private func head(_ record: Record) -> UInt32 {
        switch (record.role, record.ending) {
        case (.member, _): groups[record.place]?.firstMember ?? 0
        case (_, .exact): tree.nodes[record.place].first
        default: tree.nodes[record.place].second
        }
    }

    private mutating func setHead(_ record: Record, _ number: UInt32) {
        switch (record.role, record.ending) {
        case (.member, _): groups[record.place]?.firstMember = number
        case (_, .exact): tree.nodes[record.place].first = number
        default: tree.nodes[record.place].second = number
        }
    }

    /// What other nodes want stands first in a node's list, so a record may have one of those before it.
    private mutating func linkToPlace(_ number: UInt32) {
        let record = records[number]
        var previous: UInt32 = 0
        var next = head(record)
        while RemoteInterest.isRemote(next) {
            previous = next
            next = remote.next(next)
        }
        records[number].next = next
        records[number].previous = previous
        if next != 0 { records[next].previous = number }
        if previous == 0 { setHead(record, number) } else { remote.setNext(previous, number) }
        if record.role == .member { groups[record.place]?.memberCount += 1 }
    }

    private mutating func unlinkFromPlace(_ number: UInt32) {
        let record = records[number]
        if record.previous == 0 {
            setHead(record, record.next)
        } else if RemoteInterest.isRemote(record.previous) {
            remote.setNext(record.previous, record.next)
        } else {
            records[record.previous].next = record.next
        }
        if record.next != 0 { records[record.next].previous = record.previous }
        if record.role == .member {
            leaveGroup(record.place)
        } else {
            tree.prune(record.place)
        }
    }

    /// Notes who stands before a record: another one, or what another node wants.
    func setPrevious(of number: UInt32, _ previous: UInt32) { records[number].previous = previous }

    // MARK: Groups

    mutating func group(named name: [UInt8], node: UInt32, ending: Ending) -> UInt32 {
        let groupKey = GroupKey(node: node, ending: ending, name: name)
        if let number = groupNumbers[groupKey] { return number }
        let number = nextGroup
        // Numbers are not used again before all others have been: an event may still carry one.
        repeat { nextGroup = nextGroup == .max ? 1 : nextGroup + 1 } while groups[nextGroup] != nil
        let entry = records.allocate(
            Record(
                place: node, owner: number, identifier: 0, options: .qos(0), role: .group, ending: ending,
                isLocalOnly: false))
        let filter = TopicFilter(path: path(to: node), ending: ending, group: name, isLocalOnly: false)
        let key = Self.key(of: filter)
        groups[number] = Group(
            name: name, node: node, ending: ending, entry: entry, key: key, turn: UInt32(truncatingIfNeeded: key))
        groupNumbers[groupKey] = number
        groupsByKey[key] = number
        linkToPlace(entry)
        return number
    }

    /// A member has gone, or a node that had some.
    mutating func leaveGroup(_ number: UInt32) {
        groups[number]?.memberCount -= 1
        guard let group = groups[number], group.memberCount == 0 else { return }
        groups[number] = nil
        groupNumbers[GroupKey(node: group.node, ending: group.ending, name: group.name)] = nil
        if groupsByKey[group.key] == number { groupsByKey[group.key] = nil }
        unlinkFromPlace(group.entry)
        records[group.entry].role = .free
        records.release(group.entry)
    }
}

extension TopicFilter {
    /// A filter from the levels of a tree.
    init(
        path: [(Kind, [UInt8])], ending: TopicIndex.Ending, group: [UInt8]?, isLocalOnly: Bool
    ) {
        var bytes: [UInt8] = []
        var levels: [Level] = []
        let isSMF = ending == .more || path.contains { $0.0 == .prefix }
        func append(_ kind: Kind, _ label: [UInt8], suffix: [UInt8] = []) {
            if !levels.isEmpty { bytes.append(UInt8(ascii: "/")) }
            levels.append(Level(kind: kind, start: Int32(bytes.count), length: Int32(label.count)))
            bytes += label + suffix
        }
        for (kind, label) in path {
            switch kind {
            case .single: append(.single, [UInt8(ascii: isSMF ? "*" : "+")])
            case .prefix: append(.prefix, label, suffix: [UInt8(ascii: "*")])
            default: append(.literal, label)
            }
        }
        if ending == .rest { append(.rest, [UInt8(ascii: "#")]) }
        if ending == .more { append(.more, [UInt8(ascii: ">")]) }
        self.init(bytes: bytes, levels: levels, group: group, isLocalOnly: isLocalOnly)
    }

    init(bytes: [UInt8], levels: [Level], group: [UInt8]?, isLocalOnly: Bool) {
        self.bytes = bytes
        self.levels = levels
        self.group = group
        self.isLocalOnly = isLocalOnly
    }
}
