/// What a node tells others of the filters that somebody on it wants: those that are not covered by another one. The
/// rest is kept, and told when what covers it ends.
///
/// Sound at every moment: whatever a filter of the set matches is matched by a filter that others have been told of,
/// if the changes are told in the order of ``takeChanges(max:_:)``. A filter too many may be told for a
/// while; it is taken back when ``work(_:)`` comes to it.
///
/// Confined to whoever made it. Filters have no group here, and do not begin with `$`.
public final class CoverSet {
    /// A filter. 28 bytes, besides the levels that it does not share with others.
    private struct Entry {
        /// The other filter with the same levels that ends in the other way (`#`, `>`).
        var next: UInt32 = 0
        var node: UInt32
        /// What covers it: in the set, and told or itself covered; 0 for none.
        var cover: UInt32 = 0
        /// What it covers, as a list.
        var firstCovered: UInt32 = 0
        var nextCovered: UInt32 = 0
        var previousCovered: UInt32 = 0
        var ending: TopicIndex.Ending
        var flags: UInt8 = 0

        /// Somebody wants it.
        static let wanted: UInt8 = 1
        /// Others are to know of it.
        static let shown: UInt8 = 2
        /// Others have been told of it.
        static let told: UInt8 = 4
        /// It is in the list of what may have begun.
        static let begins: UInt8 = 8
        /// It is in the list of what may have ended.
        static let ends: UInt8 = 64
        /// It waits for what it covers to be covered otherwise, before it ends.
        static let ending: UInt8 = 16
        /// It stands in the list of those that wait so.
        static let queued: UInt8 = 128
        /// It is not free.
        static let used: UInt8 = 32

        func has(_ flag: UInt8) -> Bool { flags & flag != 0 }
    }

    /// Entries that wait to be told, in order.
    private struct Waiting {
        var numbers: [UInt32] = []
        var taken = 0
        var isEmpty: Bool { taken == numbers.count }

        mutating func take(max: Int) -> ArraySlice<UInt32> {
            let end = Swift.min(numbers.count, taken + max)
            defer { taken = end }
            return numbers[taken..<end]
        }

        mutating func tidy() {
            guard isEmpty else { return }
            numbers.removeAll(keepingCapacity: numbers.capacity <= 1_024)
            taken = 0
        }
    }

    /// Nodes that the search for a cover visits; a filter of which none is found by then counts as not covered.
    public static let maxVisits = 256

    private var tree: TopicTree
    private var entries = Arena<Entry>()
    private var begins = Waiting()
    private var ends = Waiting()
    /// Entries that are not wanted any more and still cover others.
    private var leaving: [UInt32] = []
    /// Next entry to be looked at again, because a wildcard came after it; 0 when there is nothing to do.
    private var recheck: UInt32 = 0
    /// The entry at which a whole round has been made.
    private var recheckLeft = 0
    private var stack: [(node: UInt32, level: Int)] = []
    private var levels: [(kind: TopicFilter.Kind, start: Int, length: Int)] = []

    /// Filters that somebody wants.
    public private(set) var count = 0
    /// Filters that others have been told of.
    public private(set) var toldCount = 0
    /// Searches that were given up.
    public private(set) var searchesGivenUp = 0

    /// Makes an empty set.
    /// - Parameter key: random; makes the places of filters in tables unpredictable.
    public init(key: UInt64) { tree = TopicTree(key: key, linked: false) }

    /// Whether ``work(_:)`` has something to do.
    public var hasWork: Bool { !leaving.isEmpty || recheckLeft > 0 }
    /// Whether ``takeChanges(max:_:)`` has something.
    public var hasChanges: Bool { !begins.isEmpty || !ends.isEmpty }

    // MARK: Changing

    /// Somebody wants a filter.
    public func insert(_ filter: TopicFilter) {
        let (node, ending) = tree.insertPath(filter)
        let known = find(node, ending)
        if known != 0 {
            // One that is about to end stays; what it still covers may stay with it.
            guard !entries[known].has(Entry.wanted) else { return }
            entries[known].flags |= Entry.wanted
            entries[known].flags &= ~Entry.ending
            count += 1
            if entries[known].cover == 0, !entries[known].has(Entry.shown) { cover(known) }
            // Others may have been shown already because it was about to end.
            if filter.levels.contains(where: { $0.kind != .literal }) { recheckAll() }
            return
        }
        let number = entries.allocate(Entry(node: node, ending: ending, flags: Entry.wanted | Entry.used))
        hang(number, at: node, ending)
        count += 1
        // The round that is under way has become longer.
        if recheckLeft > 0 { recheckLeft += 1 }
        let cover = findCover(of: number, filter)
        if cover == 0 { show(number) } else { link(number, under: cover) }
        if filter.levels.contains(where: { $0.kind != .literal }) { recheckAll() }
    }

    /// A wildcard has come: whatever is shown may be covered now.
    private func recheckAll() {
        recheckLeft = Int(entries.highestUsed)
        if recheck == 0 { recheck = 1 }
    }

    /// Nobody wants a filter any more.
    public func remove(_ filter: TopicFilter) {
        guard let (node, ending) = tree.findPath(filter) else { return }
        let number = find(node, ending)
        guard number != 0, entries[number].has(Entry.wanted) else { return }
        entries[number].flags &= ~Entry.wanted
        count -= 1
        if entries[number].firstCovered == 0 { return end(number) }
        entries[number].flags |= Entry.ending
        guard !entries[number].has(Entry.queued) else { return }
        entries[number].flags |= Entry.queued
        leaving.append(number)
    }

    /// Goes on with what takes long: what was covered by a filter that ends is covered otherwise or shown, then the
    /// filter ends; and filters that were shown before one came that covers them are taken back.
    /// - Parameter budget: searches for a cover, at most.
    public func work(_ budget: Int) {
        var left = budget
        while left > 0, let number = leaving.last {
            let entry = entries[number]
            guard entry.has(Entry.ending), entry.firstCovered != 0 else {
                leaving.removeLast()
                entries[number].flags &= ~(Entry.queued | Entry.ending)
                if entry.has(Entry.ending) { end(number) }
                continue
            }
            let covered = entry.firstCovered
            left -= 1
            unlink(covered)
            cover(covered)
        }
        while left > 0, recheckLeft > 0 {
            if recheck > entries.highestUsed { recheck = 1 }
            guard entries.highestUsed > 0 else { break }
            let entry = entries[recheck]
            recheckLeft -= 1
            // Places that are empty or hidden cost little, but not nothing.
            if entry.has(Entry.used), entry.has(Entry.shown), entry.has(Entry.wanted) {
                left -= 1
                cover(recheck)
            } else if recheck & 15 == 0 {
                left -= 1
            }
            recheck += 1
        }
        if entries.highestUsed == 0 { recheckLeft = 0 }
        if recheckLeft <= 0 { recheck = 0 }
    }

    /// Covers an entry that is covered by nothing, or shows it.
    private func cover(_ number: UInt32) {
        let cover = findCover(of: number, filter(of: number))
        if cover == 0 { return show(number) }
        link(number, under: cover)
        hide(number)
    }

    private func show(_ number: UInt32) {
        entries[number].flags |= Entry.shown
        guard !entries[number].has(Entry.told), !entries[number].has(Entry.begins) else { return }
        entries[number].flags |= Entry.begins
        begins.numbers.append(number)
    }

    private func hide(_ number: UInt32) {
        entries[number].flags &= ~Entry.shown
        guard entries[number].has(Entry.told), !entries[number].has(Entry.ends) else { return }
        entries[number].flags |= Entry.ends
        ends.numbers.append(number)
    }

    /// An entry that nobody wants and that covers nothing ends.
    private func end(_ number: UInt32) {
        if entries[number].cover != 0 { unlink(number) }
        hide(number)
        freeIfOver(number)
    }

    /// Frees an entry that nobody needs any more, once others have forgotten it.
    private func freeIfOver(_ number: UInt32) {
        let entry = entries[number]
        let isNeeded =
            Entry.wanted | Entry.shown | Entry.told | Entry.begins | Entry.ends | Entry.ending | Entry.queued
        guard entry.flags & isNeeded == 0 else { return }
        if entry.ending == .exact {
            tree.nodes[entry.node].first = 0
        } else if tree.nodes[entry.node].second == number {
            tree.nodes[entry.node].second = entry.next
        } else {
            entries[tree.nodes[entry.node].second].next = 0
        }
        entries[number].flags = 0
        entries.release(number)
        tree.prune(entry.node)
    }

    // MARK: Telling

    /// Some of the changes since: every filter that others are to be told of before any that they are to forget. What
    /// is told has been told when this returns.
    /// - Parameter max: changes at most.
    public func takeChanges(max: Int, _ body: (TopicFilter, _ begins: Bool) -> Void) {
        let new = begins.take(max: max)
        for number in new {
            entries[number].flags &= ~Entry.begins
            if entries[number].has(Entry.shown), !entries[number].has(Entry.told) {
                entries[number].flags |= Entry.told
                toldCount += 1
                body(filter(of: number), true)
            }
            freeIfOver(number)
        }
        guard begins.isEmpty else { return }
        begins.tidy()
        for number in ends.take(max: max - new.count) {
            entries[number].flags &= ~Entry.ends
            if entries[number].has(Entry.told), !entries[number].has(Entry.shown) {
                entries[number].flags &= ~Entry.told
                toldCount -= 1
                body(filter(of: number), false)
            }
            freeIfOver(number)
        }
        ends.tidy()
    }

    /// Filters that others have been told of: of the places after `cursor`, `places` of them, `limit` filters at
    /// most, and no more once they have `bytes` bytes.
    /// What is there from the first page to the last is listed exactly once.
    /// - Returns: where to go on; nil at the end.
    public func toldFilters(
        after cursor: UInt32, limit: Int, bytes: Int, places: Int, _ body: (TopicFilter) -> Void
    ) -> UInt32? {
        list(after: cursor, limit: limit, bytes: bytes, places: places, flag: Entry.told, body)
    }

    /// Filters that somebody wants, in the same way.
    public func wantedFilters(
        after cursor: UInt32, limit: Int, places: Int, _ body: (TopicFilter) -> Void
    ) -> UInt32? {
        list(after: cursor, limit: limit, bytes: .max, places: places, flag: Entry.wanted, body)
    }

    private func list(
        after cursor: UInt32, limit: Int, bytes: Int, places: Int, flag: UInt8, _ body: (TopicFilter) -> Void
    ) -> UInt32? {
        var left = bytes
        let highest = entries.highestUsed
        var number = cursor
        var found = 0
        let last = min(UInt64(highest), UInt64(cursor) + UInt64(max(places, 1)))
        while UInt64(number) < last, found < limit, left > 0 {
            number += 1
            guard entries[number].has(flag) else { continue }
            found += 1
            let filter = filter(of: number)
            left -= filter.bytes.count
            body(filter)
        }
        return number < highest ? number : nil
    }

    private func filter(of number: UInt32) -> TopicFilter {
        TopicFilter(
            path: tree.path(to: entries[number].node), ending: entries[number].ending, group: nil, isLocalOnly: false)
    }

    // MARK: Lists

    private func find(_ node: UInt32, _ ending: TopicIndex.Ending) -> UInt32 {
        if ending == .exact { return tree.nodes[node].first }
        var number = tree.nodes[node].second
        while number != 0, entries[number].ending != ending { number = entries[number].next }
        return number
    }

    private func hang(_ number: UInt32, at node: UInt32, _ ending: TopicIndex.Ending) {
        if ending == .exact {
            tree.nodes[node].first = number
        } else {
            entries[number].next = tree.nodes[node].second
            tree.nodes[node].second = number
        }
    }

    private func link(_ number: UInt32, under cover: UInt32) {
        let next = entries[cover].firstCovered
        entries[number].cover = cover
        entries[number].nextCovered = next
        entries[number].previousCovered = 0
        if next != 0 { entries[next].previousCovered = number }
        entries[cover].firstCovered = number
    }

    private func unlink(_ number: UInt32) {
        let entry = entries[number]
        if entry.previousCovered == 0 {
            entries[entry.cover].firstCovered = entry.nextCovered
        } else {
            entries[entry.previousCovered].nextCovered = entry.nextCovered
        }
        if entry.nextCovered != 0 { entries[entry.nextCovered].previousCovered = entry.previousCovered }
        entries[number].cover = 0
        entries[number].nextCovered = 0
        entries[number].previousCovered = 0
    }

    // MARK: Searching

    /// A wanted entry that covers another one; 0 when none is found. Of two that match the same topics, as `a/>` and
    /// `a/+/#`, the one with the smaller number covers, so that covering never goes in a circle.
    private func findCover(of number: UInt32, _ filter: TopicFilter) -> UInt32 {
        // `>` is one level and the rest; so is `#` alone, because there is no topic without levels.
        levels.removeAll(keepingCapacity: true)
        for level in filter.levels {
            if level.kind == .more || level.kind == .rest && filter.levels.count == 1 { levels.append((.single, 0, 0)) }
            levels.append((level.kind == .more ? .rest : level.kind, Int(level.start), Int(level.length)))
        }
        let least = levels.last?.kind == .rest ? levels.count - 1 : levels.count
        let isSystem = filter.bytes.first == UInt8(ascii: "$")
        return filter.bytes.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return 0 }
            stack.removeAll(keepingCapacity: true)
            stack.append((TopicTree.root, 0))
            var visits = 0
            while let (node, depth) = stack.popLast() {
                visits += 1
                if visits > Self.maxVisits {
                    searchesGivenUp += 1
                    return 0
                }
                let isHidden = isSystem && depth == 0
                if !isHidden, let found = openCover(at: node, depth, least, of: number) { return found }
                guard depth < levels.count else {
                    let exact = tree.nodes[node].first
                    if exact != 0, mayCover(exact, number) { return exact }
                    continue
                }
                push(below: node, depth, base, isHidden: isHidden)
            }
            return 0
        }
    }

    /// A filter that ends at a node and takes everything from there on.
    private func openCover(at node: UInt32, _ depth: Int, _ least: Int, of number: UInt32) -> UInt32? {
        var other = tree.nodes[node].second
        while other != 0 {
            let entry = entries[other]
            let needs = entry.ending == .more || node == TopicTree.root ? depth + 1 : depth
            if needs <= least, mayCover(other, number) { return other }
            other = entry.next
        }
        return nil
    }

    private func push(below node: UInt32, _ depth: Int, _ base: UnsafeRawPointer, isHidden: Bool) {
        let level = levels[depth]
        guard level.kind != .rest, tree.nodes[node].childCount > 0 else { return }
        if level.kind == .literal {
            let text = base + level.start
            let child = tree.child(
                of: node, .literal, text, level.length, levelHash: tree.levelHash(text, level.length))
            if child != 0 { stack.append((child, depth + 1)) }
        }
        if level.kind != .single, tree.nodes[node].hasPrefixChildren {
            tree.forEachPrefixChild(of: node, base + level.start, level.length) { stack.append(($0, depth + 1)) }
        }
        // Last, so that it is looked at first: what covers much is more likely to be there.
        if !isHidden, tree.nodes[node].singleChild != 0 { stack.append((tree.nodes[node].singleChild, depth + 1)) }
    }

    /// Whether an entry that matches all that another one does may be its cover.
    private func mayCover(_ cover: UInt32, _ number: UInt32) -> Bool {
        guard cover != number, entries[cover].has(Entry.wanted) else { return false }
        return cover < number || !filter(of: number).covers(filter(of: cover))
    }
}
