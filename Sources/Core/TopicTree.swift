/// The tree of levels under both the subscription index and the retained events: nodes in an arena, one edge table for
/// the whole tree. A node is found from its parent in one probe, whatever the number of its siblings.
struct TopicTree: ~Copyable {
    /// One level of one filter or topic. 32 bytes.
    struct Node {
        /// The level's bytes themselves if they are at most 4, else their place in the label arena. It stands first, so
        /// that a node's address is that of such bytes.
        var label: UInt32 = 0
        var parent: UInt32 = 0
        var edgeHash: UInt32 = 0
        /// Children of every kind, `single` included. In a linked tree, see below, this and two other fields are links.
        var childCount: UInt32 = 0
        /// The child for `+`, reached without a probe; 0 for none.
        var singleChild: UInt32 = 0
        /// What the owner of the tree hangs here: for subscriptions two list heads, for retained events one.
        var first: UInt32 = 0
        var second: UInt32 = 0
        var labelLength: UInt16 = 0
        var kind: UInt8 = 0
        var hasPrefixChildren: Bool = false
    }

    /// The root's number.
    static let root: UInt32 = 1

    private(set) var nodes = Arena<Node>(givesBack: true)
    /// Where look-ups stand that are between two steps; only in a linked tree.
    var stops = NodeStops()
    private var labels = ByteArena()
    private var edges = NumberTable()
    /// For nodes with prefix children: how many there are of each length, so that a look-up probes only those lengths.
    private var prefixLengths: [UInt32: [Int: Int]] = [:]
    private let hasLinks: Bool
    private let key: UInt64

    init(key: UInt64, linked: Bool) {
        self.key = key
        hasLinks = linked
        _ = nodes.allocate(Node())
    }

    /// Bytes of nodes, labels and edges.
    var bytesHeld: Int { nodes.bytesHeld + labels.bytesHeld + edges.bytesHeld }

    /// Nodes, the root not counted.
    var count: Int { nodes.count - 1 }

    /// A level's hash, to be reused for every parent it is looked up under.
    @inline(__always)
    func levelHash(_ bytes: UnsafeRawPointer, _ count: Int) -> UInt64 { hashBytes(bytes, count, key: key) }

    @inline(__always)
    private func edgeHash(_ parent: UInt32, _ kind: TopicFilter.Kind, _ levelHash: UInt64) -> UInt32 {
        UInt32(
            truncatingIfNeeded: foldedProduct(
                levelHash ^ UInt64(kind.rawValue), (UInt64(parent) &* 2 &+ 1) &* 0x9E37_79B9_7F4A_7C15))
    }

    /// The child of `parent` for a literal or prefix level; 0 when there is none.
    @inline(__always)
    func child(
        of parent: UInt32, _ kind: TopicFilter.Kind, _ bytes: UnsafeRawPointer, _ count: Int, levelHash: UInt64
    ) -> UInt32 {
        edges.find(edgeHash(parent, kind, levelHash)) { number in
            let node = nodes[number]
            return node.parent == parent && Int(node.labelLength) == count && node.kind == kind.rawValue
                && bytesEqual(labelAddress(number, node), bytes, count)
        }
    }

    /// The child of `parent` for a filter's or topic's level, made if it is not there.
    mutating func insertChild(of parent: UInt32, _ kind: TopicFilter.Kind, _ label: UnsafeRawBufferPointer) -> UInt32 {
        var node = Node()
        node.parent = parent
        node.kind = kind.rawValue
        let number: UInt32
        if kind == .single {
            guard nodes[parent].singleChild == 0 else { return nodes[parent].singleChild }
            number = nodes.allocate(node)
            nodes[parent].singleChild = number
        } else {
            let empty = UnsafeRawPointer(bitPattern: 1).unsafelyUnwrapped
            let hash = levelHash(label.baseAddress ?? empty, label.count)
            let known = child(of: parent, kind, label.baseAddress ?? empty, label.count, levelHash: hash)
            guard known == 0 else { return known }
            node.edgeHash = edgeHash(parent, kind, hash)
            node.label = storeLabel(label)
            node.labelLength = UInt16(label.count)
            number = nodes.allocate(node)
            edges.insert(number, hash: node.edgeHash)
            if kind == .prefix {
                prefixLengths[parent, default: [:]][label.count, default: 0] += 1
                nodes[parent].hasPrefixChildren = true
            }
        }
        if hasLinks { link(number, under: parent) } else { nodes[parent].childCount += 1 }
        return number
    }

    /// Removes a node that carries nothing and has no children, and its ancestors that then are the same.
    /// - Returns: how many they were.
    @discardableResult
    mutating func prune(_ start: UInt32) -> Int {
        var number = start
        var count = 0
        while number != Self.root {
            let node = nodes[number]
            let isBare = hasLinks ? node.firstChild == 0 : node.childCount == 0 && node.second == 0
            guard isBare, node.first == 0 else { return count }
            if node.kind == TopicFilter.Kind.single.rawValue {
                nodes[node.parent].singleChild = 0
            } else {
                edges.remove(number, hash: node.edgeHash)
                if node.labelLength > Self.shortLabel { labels.release(node.label, count: Int(node.labelLength)) }
                if node.kind == TopicFilter.Kind.prefix.rawValue { forgetPrefix(node) }
            }
            if hasLinks { unlink(number, node) } else { nodes[node.parent].childCount -= 1 }
            nodes.release(number)
            number = node.parent
            count += 1
        }
        return count
    }

    /// Calls `body` with each child of `parent` whose prefix these bytes begin with.
    func forEachPrefixChild(
        of parent: UInt32, _ bytes: UnsafeRawPointer, _ count: Int, _ body: (UInt32) -> Void
    ) {
        guard let lengths = prefixLengths[parent] else { return }
        for length in lengths.keys where length <= count {
            let number = child(of: parent, .prefix, bytes, length, levelHash: levelHash(bytes, length))
            if number != 0 { body(number) }
        }
    }

    /// The bytes of a node's level. Valid until the tree changes.
    @inline(__always)
    func label(_ number: UInt32) -> UnsafeRawBufferPointer {
        let node = nodes[number]
        return node.labelLength == 0
            ? UnsafeRawBufferPointer(start: nil, count: 0)
            : UnsafeRawBufferPointer(start: labelAddress(number, node), count: Int(node.labelLength))
    }

    private static var shortLabel: UInt16 { 4 }

    @inline(__always)
    private func labelAddress(_ number: UInt32, _ node: Node) -> UnsafeRawPointer {
        UnsafeRawPointer(node.labelLength > Self.shortLabel ? labels.address(node.label) : nodes.rawAddress(number))
    }

    private mutating func storeLabel(_ label: UnsafeRawBufferPointer) -> UInt32 {
        guard label.count <= Int(Self.shortLabel) else { return labels.store(label) }
        var short: UInt32 = 0
        withUnsafeMutableBytes(of: &short) { $0.copyMemory(from: label) }
        return short
    }

    private mutating func forgetPrefix(_ node: Node) {
        let length = Int(node.labelLength)
        prefixLengths[node.parent]?[length]? -= 1
        if prefixLengths[node.parent]?[length] == 0 { prefixLengths[node.parent]?[length] = nil }
        if prefixLengths[node.parent]?.isEmpty ?? true {
            prefixLengths[node.parent] = nil
            nodes[node.parent].hasPrefixChildren = false
        }
    }

    private mutating func link(_ number: UInt32, under parent: UInt32) {
        let head = nodes[parent].firstChild
        nodes[number].next = head
        if head != 0 { nodes[head].previous = number }
        nodes[parent].firstChild = number
    }

    /// Takes a node out of its siblings; look-ups that stand on it go on to the next.
    private mutating func unlink(_ number: UInt32, _ node: Node) {
        if node.previous == 0 {
            nodes[node.parent].firstChild = node.next
        } else {
            nodes[node.previous].next = node.next
        }
        if node.next != 0 { nodes[node.next].previous = node.previous }
        stops.move(from: number, to: node.next)
    }
}

/// Filters as paths; not in a linked tree.
extension TopicTree {
    /// The levels of a node, from the first on.
    func path(to node: UInt32) -> [(TopicFilter.Kind, [UInt8])] {
        var levels: [(TopicFilter.Kind, [UInt8])] = []
        var number = node
        while number != Self.root {
            let kind = TopicFilter.Kind(rawValue: nodes[number].kind) ?? .literal
            levels.append((kind, Array(label(number))))
            number = nodes[number].parent
        }
        return levels.reversed()
    }

    /// The node of a filter, made if it is not there, and how the filter ends.
    mutating func insertPath(_ filter: TopicFilter) -> (node: UInt32, ending: TopicIndex.Ending) {
        var node = Self.root
        for level in filter.levels {
            if level.kind == .rest { return (node, .rest) }
            if level.kind == .more { return (node, .more) }
            node = filter.bytes.withUnsafeBytes { bytes in
                let start = Int(level.start)
                return insertChild(
                    of: node, level.kind, UnsafeRawBufferPointer(rebasing: bytes[start..<start + Int(level.length)]))
            }
        }
        return (node, .exact)
    }

    func findPath(_ filter: TopicFilter) -> (node: UInt32, ending: TopicIndex.Ending)? {
        var node = Self.root
        for level in filter.levels {
            switch level.kind {
            case .rest: return (node, .rest)
            case .more: return (node, .more)
            case .single: node = nodes[node].singleChild
            case .literal, .prefix:
                node = filter.bytes.withUnsafeBytes { bytes in
                    // An empty array has no address to begin with; a filter is never empty.
                    guard let base = bytes.baseAddress else { return 0 }
                    let start = base + Int(level.start)
                    let count = Int(level.length)
                    return child(
                        of: node, level.kind, start, count, levelHash: levelHash(start, count))
                }
            }
            if node == 0 { return nil }
        }
        return (node, .exact)
    }
}

/// A linked tree is walked by wildcard (retained events): every node knows its siblings. All its levels are literals,
/// so it has no use for a child for `+`, a second list or a number of children; the links stand in their places.
extension TopicTree.Node {
    /// The child that was made last; 0 for none.
    var firstChild: UInt32 {
        get { singleChild }
        set { singleChild = newValue }
    }
    /// The sibling that was made before this one; 0 for none.
    var next: UInt32 {
        get { second }
        set { second = newValue }
    }
    /// The sibling that was made after this one; 0 for none.
    var previous: UInt32 {
        get { childCount }
        set { childCount = newValue }
    }
}
