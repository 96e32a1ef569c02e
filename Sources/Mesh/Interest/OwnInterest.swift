import Core

/// What this node wants, as others are told: filters that are not covered by others, and shared groups. Confined to
/// the mesh's lane.
final class OwnInterest {
    /// A shared group with a filter.
    private struct Group {
        var filter: TopicFilter
        var wanted = LocalInterest.none
        var told = LocalInterest.none
        var isChanged = false
        /// What others are to know of weights in it, and where it stands in ``weighted``.
        var weight: GroupWeight?
        var weightedAt = 0
    }

    private let router: Router
    private let cover: CoverSet
    private var groups: [Group?] = []
    private var groupPlaces: [[UInt8]: Int] = [:]
    private var freeGroups: [Int] = []
    private var changedGroups: [Int] = []
    /// Places of the groups with weights: those in which somebody here has said one, and those in which somebody
    /// elsewhere has. What stands behind ``AdvertisedWeights/maxGroups`` is not told, and moves up.
    private var weighted: [[Int]] = [[], []]
    private var hasNewWeights = false

    /// Where looking through all subscriptions has got to; nil when there is no need to.
    private var scan: Scan?
    private enum Scan {
        case subscriptions(UInt32)
        case filters(UInt32)
        case groups(Int)
    }

    private(set) var epoch: UInt64
    private(set) var sequence: UInt64 = 0
    private(set) var hash: UInt64 = 0
    var log = InterestLog()
    /// Neighbours that are being sent the whole set: the log is kept longer meanwhile.
    var readers = 0

    init(router: Router, epoch: UInt64) {
        self.router = router
        self.epoch = epoch
        cover = CoverSet(key: router.hashSeed)
    }

    /// Filters others have been told of.
    var toldCount: Int { cover.toldCount + groups.count { $0.map { $0.told != .none } ?? false } }
    /// Whether there is something to do besides what the router has.
    var hasWork: Bool { scan != nil || cover.hasWork || cover.hasChanges || !changedGroups.isEmpty }

    /// The next life begins: others forget what they were told in this one, and are told all of it anew as one step.
    func restart(epoch: UInt64) {
        self.epoch = epoch
        sequence = sequence == 0 ? 0 : 1
        log.restart(at: sequence)
    }

    // MARK: What has changed

    /// Changes that are looked at in one go: about a millisecond.
    private static let changesPerStep = 512
    private static let placesPerStep = 1_024

    /// Takes what has changed since, some of it.
    /// - Returns: how much it was, and whether there may be more.
    func takeChanges() -> (count: Int, isMore: Bool) {
        let changes = router.takeInterestChanges(max: Self.changesPerStep)
        note(changes)
        if router.takeInterestOverflow() { scan = .subscriptions(0) }
        if changes.isEmpty { scanSome() }
        return (changes.count, changes.count == Self.changesPerStep || scan != nil)
    }

    /// Looks through everything: what was missed, and what should not be there any more.
    private func scanSome() {
        switch scan {
        case nil: return
        case .subscriptions(let cursor):
            let (filters, next) = router.localFilters(after: cursor, places: Self.placesPerStep)
            note(filters)
            scan = next.map { .subscriptions($0) } ?? .filters(0)
        case .filters(let cursor):
            var filters: [TopicFilter] = []
            let next = cover.wantedFilters(after: cursor, limit: Self.changesPerStep, places: Self.placesPerStep) {
                filters.append($0)
            }
            note(filters)
            scan = next.map { .filters($0) } ?? .groups(0)
        case .groups(let first):
            let end = min(groups.count, first + Self.changesPerStep)
            note(groups[first..<end].compactMap { $0?.filter })
            scan = end < groups.count ? .groups(end) : nil
        }
    }

    private func note(_ filters: [TopicFilter]) {
        guard !filters.isEmpty else { return }
        for (filter, interest) in zip(filters, router.localInterest(in: filters)) {
            if filter.group != nil {
                note(group: filter, interest)
            } else if interest == .none {
                cover.remove(filter)
            } else {
                cover.insert(filter)
            }
        }
    }

    private func note(group filter: TopicFilter, _ interest: LocalInterest) {
        let key = filter.canonical
        guard let place = groupPlaces[key] ?? (interest == .none ? nil : addGroup(filter, key)) else { return }
        if interest == .present {
            unweighed.insert(place)
        } else {
            unweighed.remove(place)
            setWeight(nil, at: place)
        }
        groups[place]?.wanted = interest
        guard groups[place]?.isChanged == false else { return }
        groups[place]?.isChanged = true
        changedGroups.append(place)
    }

    private func addGroup(_ filter: TopicFilter, _ key: [UInt8]) -> Int {
        let place = freeGroups.popLast() ?? groups.count
        if place == groups.count { groups.append(nil) }
        groups[place] = Group(filter: filter)
        groupPlaces[key] = place
        return place
    }

    // MARK: Weights

    /// Adding a group's weights up takes a look at all its members: once for each time that weights are told.
    private var unweighed: Set<Int> = []

    private func setWeight(_ weight: GroupWeight?, at place: Int) {
        guard let group = groups[place], group.weight != weight else { return }
        hasNewWeights = true
        groups[place]?.weight = weight
        guard group.weight?.isSaid != weight?.isSaid else { return }
        if let former = group.weight {
            // The last one takes its place.
            let list = former.isSaid ? 0 : 1
            let last = weighted[list].removeLast()
            if last != place {
                weighted[list][group.weightedAt] = last
                groups[last]?.weightedAt = group.weightedAt
            }
        }
        if let weight {
            let list = weight.isSaid ? 0 : 1
            groups[place]?.weightedAt = weighted[list].count
            weighted[list].append(place)
        }
    }

    /// What others are to know of weights, in the order of the keys, and whether there is more than they are told; nil
    /// when nothing has changed.
    func takeWeights() -> (weights: [GroupWeight], isMore: Bool)? {
        for place in unweighed.sorted() {
            if let filter = groups[place]?.filter { setWeight(router.localWeight(of: filter), at: place) }
        }
        unweighed.removeAll(keepingCapacity: true)
        guard hasNewWeights else { return nil }
        hasNewWeights = false
        var places = Array(weighted[0].prefix(AdvertisedWeights.maxGroups))
        places += weighted[1].prefix(AdvertisedWeights.maxGroups - places.count)
        var told: [GroupWeight] = []
        for weight in places.compactMap({ groups[$0]?.weight }).sorted(by: { $0.key < $1.key })
        where told.last?.key != weight.key {
            told.append(weight)
        }
        return (told, weighted[0].count + weighted[1].count > places.count)
    }

    // MARK: Telling

    /// A change, and by how much it changes the set's hash.
    private struct Change {
        var filter: [UInt8]
        var effect: UInt64

        init(_ filter: [UInt8], from old: LocalInterest, to new: LocalInterest) {
            self.filter = filter
            let base = InterestHash.base(filter)
            effect = Self.share(base, new) &- Self.share(base, old)
        }

        private static func share(_ base: UInt64, _ interest: LocalInterest) -> UInt64 {
            interest == .none ? 0 : InterestHash.entry(base, isPresent: interest == .present)
        }
    }

    /// Makes deltas of what has changed, what begins first and what ends afterwards, and puts them into the log.
    /// - Returns: the deltas, complete frames.
    func makeDeltas(origin: NodeID) -> [[UInt8]] {
        cover.work(Self.changesPerStep / 2)
        var begins: [Change] = []
        var absent: [Change] = []
        var ends: [Change] = []
        cover.takeChanges(max: Self.changesPerStep) { filter, isBegin in
            if isBegin {
                begins.append(Change(filter.canonical, from: .none, to: .present))
            } else {
                ends.append(Change(filter.canonical, from: .present, to: .none))
            }
        }
        for place in changedGroups.prefix(Self.changesPerStep) {
            guard let (change, interest) = takeGroup(place) else { continue }
            switch interest {
            case .none: ends.append(change)
            case .absent: absent.append(change)
            case .present: begins.append(change)
            }
        }
        changedGroups.removeFirst(min(changedGroups.count, Self.changesPerStep))
        var delta = DeltaMaker(frames: [], changes: FilterChanges(), bytes: 0)
        for (list, place) in [(begins, \FilterChanges.begins), (absent, \.absent), (ends, \.ends)] {
            for change in list.sorted(by: { FilterChanges.precedes($0.filter, $1.filter) }) {
                if delta.isFull { finish(&delta, origin) }
                delta.changes[keyPath: place].append(change.filter)
                delta.bytes += change.filter.count
                hash &+= change.effect
            }
        }
        finish(&delta, origin)
        return delta.frames
    }

    private struct DeltaMaker {
        var frames: [[UInt8]]
        var changes: FilterChanges
        var bytes: Int
        var isFull: Bool { changes.count == FilterChanges.maxCount || bytes >= FilterChanges.maxBytes }
    }

    private func finish(_ delta: inout DeltaMaker, _ origin: NodeID) {
        guard delta.changes.count > 0 else { return }
        sequence += 1
        let version = InterestFrames.Version(origin: origin, epoch: epoch, sequence: sequence, hash: hash)
        let frame = InterestFrames.delta(version, delta.changes)
        let more = readers > 0 ? InterestLog.longer : 1
        log.append(
            frame, version: sequence, count: delta.changes.count, maxChanges: Self.maxLogged * more,
            maxBytes: Self.maxLogBytes * more)
        delta.frames.append(frame)
        delta.changes = FilterChanges()
        delta.bytes = 0
    }

    /// Changes that are kept for neighbours that are a little behind.
    private static let maxLogged = 10_000
    private static let maxLogBytes = 1 << 20

    /// Takes a group that may have changed; nil when it has not.
    private func takeGroup(_ place: Int) -> (Change, LocalInterest)? {
        guard var group = groups[place] else { return nil }
        let key = group.filter.canonical
        let told = group.told
        group.isChanged = false
        group.told = group.wanted
        groups[place] = group
        if group.wanted == .none {
            groups[place] = nil
            groupPlaces[key] = nil
            freeGroups.append(place)
        }
        return told == group.wanted ? nil : (Change(key, from: told, to: group.wanted), group.wanted)
    }

    // MARK: The whole set

    /// Where a listing of the whole set has got to.
    enum Cursor {
        case filters(UInt32)
        case groups(Int)
    }

    /// Some of the set, in the way of ``Router/remoteFilters(of:after:limit:bytes:places:)``.
    func page(after cursor: Cursor, limit: Int, bytes: Int, places: Int) -> (FilterChanges, next: Cursor?) {
        var changes = FilterChanges()
        switch cursor {
        case .filters(let number):
            let next = cover.toldFilters(after: number, limit: limit, bytes: bytes, places: places) {
                changes.begins.append($0.canonical)
            }
            return (changes, next.map { .filters($0) } ?? (groups.isEmpty ? nil : .groups(0)))
        case .groups(let first):
            var place = first
            var left = bytes
            while place < groups.count, changes.count < limit, left > 0 {
                defer { place += 1 }
                guard let group = groups[place], group.told != .none else { continue }
                let key = group.filter.canonical
                left -= key.count
                if group.told == .present { changes.begins.append(key) } else { changes.absent.append(key) }
            }
            return (changes, place < groups.count ? .groups(place) : nil)
        }
    }
}
