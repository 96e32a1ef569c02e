/// The last value of each topic, found by topic or by filter. Guarded by the router's retained lock.
struct RetainedEvents: ~Copyable {
    private var tree: TopicTree
    private var events: [Event?] = [nil]
    private var free: [UInt32] = []
    private var bytes = 0
    private let limits: Limits

    init(key: UInt64, limits: Limits) {
        tree = TopicTree(key: key, linked: true)
        self.limits = limits
    }

    /// Topics that have a value.
    var count: Int { events.count - 1 - free.count }

    /// Replaces a topic's value; an empty payload removes it (MQTT 3.1.1 §3.3.1.3).
    /// - Returns: false when a limit is reached, and nothing was stored.
    mutating func set(_ topic: UnsafeRawBufferPointer, _ event: Event?) -> Bool {
        guard let event, event.payloadLength > 0 else {
            remove(topic)
            return true
        }
        let known = find(topic)
        let old = known == 0 ? nil : events[Int(tree.nodes[known].first)]
        let grown = bytes + event.cost - (old?.cost ?? 0)
        guard grown <= limits.maxRetainedBytes, old != nil || count < limits.maxRetainedEvents else { return false }
        bytes = grown
        if known != 0, old != nil {
            events[Int(tree.nodes[known].first)] = event
            return true
        }
        var node = TopicTree.root
        Self.forEachLevel(topic) { level in node = tree.insertChild(of: node, .literal, level) }
        let number = free.popLast() ?? UInt32(events.count)
        if number == events.count { events.append(event) } else { events[Int(number)] = event }
        tree.nodes[node].first = number
        return true
    }

    private mutating func remove(_ topic: UnsafeRawBufferPointer) {
        let node = find(topic)
        guard node != 0 else { return }
        let number = tree.nodes[node].first
        guard number != 0 else { return }
        bytes -= events[Int(number)]?.cost ?? 0
        events[Int(number)] = nil
        free.append(number)
        tree.nodes[node].first = 0
        tree.prune(node)
    }

    private func find(_ topic: UnsafeRawBufferPointer) -> UInt32 {
        var node = TopicTree.root
        let nowhere = UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped
        Self.forEachLevel(topic) { level in
            guard node != 0 else { return }
            let base = level.baseAddress ?? nowhere
            node = tree.child(
                of: node, .literal, base, level.count, levelHash: tree.levelHash(base, level.count))
        }
        return node
    }

    private static func forEachLevel(_ topic: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) {
        var start = 0
        for index in 0...topic.count where index == topic.count || topic[index] == UInt8(ascii: "/") {
            body(UnsafeRawBufferPointer(rebasing: topic[start..<index]))
            start = index + 1
        }
    }

    /// The values whose topics a filter matches, in no particular order.
    func matching(_ filter: TopicFilter) -> [Event] {
        var found: [Event] = []
        var stack: [(node: UInt32, level: Int)] = [(TopicTree.root, 0)]
        while let (node, level) = stack.popLast() {
            guard level < filter.levels.count else {
                take(node, into: &found)
                continue
            }
            let wanted = filter.levels[level]
            if wanted.kind == .rest || wanted.kind == .more {
                if wanted.kind == .rest, node != TopicTree.root { take(node, into: &found) }
                // From here on everything below matches: the level stays the same.
                pushChildren(of: node, level: level, filter, &stack, &found)
            } else if wanted.kind == .literal {
                let child = filter.bytes.withUnsafeBytes { bytes in
                    let nowhere = UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped
                    let base = (bytes.baseAddress ?? nowhere) + Int(wanted.start)
                    let count = Int(wanted.length)
                    return tree.child(of: node, .literal, base, count, levelHash: tree.levelHash(base, count))
                }
                if child != 0 { stack.append((child, level + 1)) }
            } else {
                pushChildren(of: node, level: level, filter, &stack, &found)
            }
        }
        return found
    }

    private func pushChildren(
        of node: UInt32, level: Int, _ filter: TopicFilter, _ stack: inout [(node: UInt32, level: Int)],
        _ found: inout [Event]
    ) {
        let wanted = filter.levels[level]
        var child = tree.links[node].firstChild
        while child != 0 {
            let label = tree.label(child)
            let isHidden = node == TopicTree.root && wanted.kind != .prefix && label.first == UInt8(ascii: "$")
            if !isHidden {
                switch wanted.kind {
                case .more:
                    take(child, into: &found)
                    stack.append((child, level))
                case .rest: stack.append((child, level))
                case .prefix:
                    if label.starts(with: filter.label(wanted)) { stack.append((child, level + 1)) }
                default: stack.append((child, level + 1))
                }
            }
            child = tree.links[child].next
        }
    }

    private func take(_ node: UInt32, into found: inout [Event]) {
        if let event = events[Int(tree.nodes[node].first)] { found.append(event) }
    }
}
