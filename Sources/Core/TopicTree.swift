/// The tree of levels under both the subscription index and the retained events: nodes in an arena, one edge table for
/// the whole tree. A node is found from its parent in one probe, whatever the number of its siblings.
struct TopicTree: ~Copyable {
    /// One level of one filter or topic. 32 bytes.
    struct Node {
        var parent: UInt32 = 0
        /// Place of the level's bytes in the label arena.
        var label: UInt32 = 0
        var edgeHash: UInt32 = 0
        /// Children of every kind, `single` included.
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

    /// Siblings, for a tree that is walked by wildcard (retained events).
    struct Links {
        var firstChild: UInt32 = 0
        var next: UInt32 = 0
        var previous: UInt32 = 0
    }

    /// The root's number.
    static let root: UInt32 = 1

    private(set) var nodes = Arena<Node>()
    private(set) var links = Arena<Links>()
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
        if linked { _ = links.allocate(Links()) }
    }

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
                && bytesEqual(labels.address(node.label), bytes, count)
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
            node.label = labels.store(label)
            node.labelLength = UInt16(label.count)
            number = nodes.allocate(node)
            edges.insert(number, hash: node.edgeHash)
            if kind == .prefix {
                prefixLengths[parent, default: [:]][label.count, default: 0] += 1
                nodes[parent].hasPrefixChildren = true
            }
        }
        nodes[parent].childCount += 1
        if hasLinks { link(number, under: parent) }
        return number
    }

    /// Removes a node that carries nothing and has no children, and its ancestors that then are the same.
    mutating func prune(_ start: UInt32) {
        var number = start
        while number != Self.root {
            let node = nodes[number]
            guard node.childCount == 0, node.first == 0, node.second == 0 else { return }
            if node.kind == TopicFilter.Kind.single.rawValue {
                nodes[node.parent].singleChild = 0
            } else {
                edges.remove(number, hash: node.edgeHash)
                labels.release(node.label, count: Int(node.labelLength))
                if node.kind == TopicFilter.Kind.prefix.rawValue { forgetPrefix(node) }
            }
            if hasLinks { unlink(number, under: node.parent) }
            nodes[node.parent].childCount -= 1
            nodes.release(number)
            number = node.parent
        }
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

    /// The bytes of a node's level.
    @inline(__always)
    func label(_ number: UInt32) -> UnsafeRawBufferPointer {
        let node = nodes[number]
        return node.labelLength == 0
            ? UnsafeRawBufferPointer(start: nil, count: 0)
            : UnsafeRawBufferPointer(start: labels.address(node.label), count: Int(node.labelLength))
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

    /// Nodes and their links are allocated and released together, so they share their numbers.
    private mutating func link(_ number: UInt32, under parent: UInt32) {
        let head = links[parent].firstChild
        let own = links.allocate(Links(firstChild: 0, next: head, previous: 0))
        assert(own == number)
        if head != 0 { links[head].previous = number }
        links[parent].firstChild = number
    }

    private mutating func unlink(_ number: UInt32, under parent: UInt32) {
        let own = links[number]
        if own.previous == 0 { links[parent].firstChild = own.next } else { links[own.previous].next = own.next }
        if own.next != 0 { links[own.next].previous = own.previous }
        links.release(number)
    }
}
