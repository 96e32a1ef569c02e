public import Core

/// Active topics over the whole mesh: every node is asked which topics its lanes remember, that is, which were
/// published to on it or came to it lately.

/// Topics that were active somewhere.
public struct MeshTopics: Sendable {
    /// A node that remembers a topic.
    public struct Place: Sendable, Equatable {
        /// Its name.
        public var node: String
        /// Whether a publisher of it published to the topic.
        public var isPublished: Bool
        /// Its subscriptions that matched.
        public var subscriptions: Int
    }

    /// A topic.
    public struct Topic: Sendable, Equatable {
        /// Its text.
        public var topic: String
        /// In the order of the nodes' names.
        public var places: [Place]
    }

    /// The first in the order of their bytes.
    public var topics: [Topic] = []
    /// Whether there are more.
    public var isTruncated = false
    /// Nodes that did not answer in time, or not completely.
    public var silent: [String] = []
}

/// What this node asks of others for its operator, and answers them. Confined to the mesh's lane.
///
///     inquiry:        kind u8 (0: topics), number u64, limit u16, filter block
///     inquiry answer: number u64, part u8 from 0, flags u8 (0 last part, 1 there are more topics), count varint,
///                     for each: topic block, subscriptions varint, flags u8 (0 published there)
final class Inquiries {
    /// Topics that a node says at most.
    static let maxTopics = 1_000
    /// And bytes of them.
    static let maxBytes = 256 << 10
    /// Bytes of topics in an answer of all nodes.
    static let maxBytesOfAll = 4 << 20
    /// Inquiries that are under way at once, own ones and those of others.
    static let maxUnderWay = 16
    /// Bytes of topics in one part of an answer: with one more topic it is still below a frame's.
    static let partBytes = 48 << 10
    static let maxParts: UInt8 = 16
    /// For how long answers are waited for, in milliseconds.
    static let patience: UInt64 = 1_000
    /// Bytes of topics that a lane is asked for at once.
    private static let laneBytes = 64 << 10
    private static let topicsKind: UInt8 = 0

    /// What one node says of a topic.
    struct Note: Equatable {
        var node: NodeIndex
        var subscriptions: Int
        var isPublished: Bool

        /// What another lane of the same node says.
        mutating func add(_ other: Note) {
            subscriptions = max(subscriptions, other.subscriptions)
            isPublished = isPublished || other.isPublished
        }
    }

    /// What has come of one node's answer.
    private struct Answering {
        var node: NodeIndex
        /// By part.
        var heard: UInt64 = 0
        /// How many there are; 0 until the last has come.
        var parts: UInt8 = 0

        var isComplete: Bool { parts > 0 && heard == (1 << UInt64(parts)) - 1 }
    }

    /// One that this node's operator has made.
    private struct Own {
        var number: UInt64
        var until: UInt64
        var answering: [Answering]
        var found: FirstNotes
        var done: (MeshTopics) -> Void
    }

    /// The lanes of this node are being asked.
    private struct Collection {
        var number: UInt64
        /// Whom to tell: the own inquiry's, or another node's number.
        var asker: NodeIndex
        var request: UInt64
        var filter: TopicFilter
        /// Where to go on with each lane; nil for those that have said all.
        var places: [Int?]
        var found: FirstNotes
        var until: UInt64
    }

    private unowned let node: MeshNode
    private var own: [Own] = []
    private var collections: [Collection] = []
    private var nextNumber: UInt64 = 1

    init(_ node: MeshNode) { self.node = node }

    // MARK: Asking

    /// Asks all nodes that there is a way to.
    /// - Parameter done: called on the mesh's lane, when all have answered or after a second.
    func ask(_ filter: TopicFilter, limit: Int, done: @escaping (MeshTopics) -> Void) {
        let limit = min(max(limit, 1), Self.maxTopics)
        let others = node.linkState.nodes.filter { $0 != NodeTable.own && node.isReachable($0) }
        guard own.count < Self.maxUnderWay, collections.count < 2 * Self.maxUnderWay else {
            var nothing = MeshTopics()
            nothing.silent = [node.nodes[NodeTable.own].name] + others.map { node.nodes[$0].name }
            return done(nothing)
        }
        let number = nextNumber
        nextNumber += 1
        own.append(
            Own(
                number: number, until: node.now + Self.patience,
                answering: ([NodeTable.own] + others).map { Answering(node: $0) },
                found: FirstNotes(count: limit, bytes: Self.maxBytesOfAll), done: done))
        var writer = WireWriter(.inquiry, capacity: 32 + filter.bytes.count)
        writer.u8(Self.topicsKind)
        writer.u64(number)
        writer.u16(UInt16(limit))
        writer.block(filter.bytes)
        let frame = writer.finish()
        for other in others { node.route(frame, to: other, isBulk: false) }
        node.wake(at: node.now + Self.patience)
        collect(filter, limit: limit, for: NodeTable.own, number)
    }

    /// A part of another node's answer.
    func answered(_ reader: inout WireReader, from origin: NodeIndex) -> String? {
        let number = reader.u64()
        let part = reader.u8()
        let flags = reader.u8()
        let count = reader.count(each: 3)
        guard !reader.isBroken, count <= Self.maxTopics, part < Self.maxParts else {
            return "a malformed answer to an inquiry"
        }
        let place = own.firstIndex { $0.number == number }
        let answering = place.flatMap { own[$0].answering.firstIndex { $0.node == origin } }
        for _ in 0..<count {
            let topic = reader.block()
            let subscriptions = reader.varint()
            let isPublished = reader.u8() & 1 != 0
            guard Topic.isValid(topic, limits: node.router.limits) else { continue }
            guard let place, answering != nil else { continue }
            let note = Note(node: origin, subscriptions: Int(clamping: subscriptions), isPublished: isPublished)
            own[place].found.add(Array(topic), note)
        }
        guard reader.isWhole else { return "a malformed answer to an inquiry" }
        guard let place, let answering else { return nil }
        own[place].answering[answering].heard |= 1 << UInt64(part)
        if flags & 1 != 0 { own[place].answering[answering].parts = part + 1 }
        if flags & 2 != 0 { own[place].found.isTruncated = true }
        finishIfComplete(place)
        return nil
    }

    private func finishIfComplete(_ place: Int) {
        if own[place].answering.allSatisfy(\.isComplete) { finish(place) }
    }

    private func finish(_ place: Int) {
        var inquiry = own.remove(at: place)
        var topics = MeshTopics()
        topics.silent = inquiry.answering.filter { !$0.isComplete }.map { node.nodes[$0.node].name }.sorted()
        for (topic, notes) in inquiry.found.sorted() {
            let places = notes.map {
                MeshTopics.Place(
                    node: node.nodes[$0.node].name, isPublished: $0.isPublished, subscriptions: $0.subscriptions)
            }
            topics.topics.append(
                MeshTopics.Topic(
                    topic: String(decoding: topic, as: UTF8.self), places: places.sorted { $0.node < $1.node }))
        }
        topics.isTruncated = inquiry.found.isTruncated
        inquiry.done(topics)
    }

    // MARK: Being asked

    /// Another node's inquiry. What a later version asks for is left without an answer.
    func asked(_ reader: inout WireReader, by origin: NodeIndex) -> String? {
        guard reader.u8() == Self.topicsKind else {
            _ = reader.rest()
            return reader.isBroken ? "a malformed inquiry" : nil
        }
        let number = reader.u64()
        let limit = Int(reader.u16())
        let text = reader.block()
        guard reader.isWhole, let filter = try? TopicFilter(text, grammar: .mqtt, limits: node.router.limits) else {
            return "a malformed inquiry"
        }
        collect(filter, limit: min(max(limit, 1), Self.maxTopics), for: origin, number)
        return nil
    }

    private func collect(_ filter: TopicFilter, limit: Int, for asker: NodeIndex, _ request: UInt64) {
        // The asker names whoever does not answer.
        guard collections.count < 2 * Self.maxUnderWay else { return }
        let number = nextNumber
        nextNumber += 1
        collections.append(
            Collection(
                number: number, asker: asker, request: request, filter: filter,
                places: Array(repeating: 0, count: node.lane.lanes.count),
                found: FirstNotes(count: limit, bytes: Self.maxBytes), until: node.now + Self.patience))
        gather(collections.count - 1)
    }

    /// Asks all lanes that have not said all, each for a part of what it remembers.
    private func gather(_ index: Int) {
        let (number, filter, places) = (
            collections[index].number, collections[index].filter, collections[index].places
        )
        let (home, lanes, router) = (node.lane.number, node.lane.lanes, node.router)
        lanes.gather { lane in
            guard let place = places[lane.number] else { return RecentTopics() }
            return lane.recentTopics(of: router, matching: filter, from: place, bytes: Self.laneBytes)
        } then: { answers in
            lanes.call(home) { MeshNode.of($0)?.inquiries.took(number, answers) }
        }
    }

    private func took(_ number: UInt64, _ answers: [RecentTopics]) {
        guard let index = collections.firstIndex(where: { $0.number == number }) else { return }
        for topic in answers.flatMap(\.topics) {
            let note = Note(
                node: NodeTable.own, subscriptions: topic.local, isPublished: topic.isPublishedHere)
            collections[index].found.add(topic.bytes, note)
        }
        collections[index].places = answers.map(\.next)
        if collections[index].places.contains(where: { $0 != nil }) { return gather(index) }
        let collection = collections.remove(at: index)
        if collection.asker == NodeTable.own { tookOwn(collection) } else { tell(collection) }
    }

    private func tookOwn(_ collection: Collection) {
        guard let place = own.firstIndex(where: { $0.number == collection.request }),
            let answering = own[place].answering.firstIndex(where: { $0.node == NodeTable.own })
        else { return }
        var found = collection.found
        for (topic, notes) in found.sorted() { for note in notes { own[place].found.add(topic, note) } }
        if found.isTruncated { own[place].found.isTruncated = true }
        own[place].answering[answering].heard = 1
        own[place].answering[answering].parts = 1
        finishIfComplete(place)
    }

    private func tell(_ collection: Collection) {
        var found = collection.found
        let topics = found.sorted()
        var next = 0
        var part: UInt8 = 0
        repeat {
            let first = next
            var bytes = 0
            while next < topics.count, bytes < Self.partBytes {
                bytes += topics[next].topic.count
                next += 1
            }
            var writer = WireWriter(.inquiryAnswer, .bulk, capacity: 32 + bytes + (next - first) * 6)
            writer.u64(collection.request)
            writer.u8(part)
            writer.u8((next == topics.count ? 1 : 0) | (found.isTruncated ? 2 : 0))
            writer.varint(UInt64(next - first))
            for (topic, notes) in topics[first..<next] {
                writer.block(topic)
                writer.varint(UInt64(notes.reduce(0) { $0 + $1.subscriptions }))
                writer.u8(notes.contains(where: \.isPublished) ? 1 : 0)
            }
            node.route(writer.finish(), to: collection.asker, isBulk: true)
            part += 1
        } while next < topics.count && part < Self.maxParts
    }

    // MARK: Time

    /// Inquiries whose time is over.
    func tick() -> UInt64? {
        collections.removeAll { $0.until <= node.now }
        while let place = own.firstIndex(where: { $0.until <= node.now }) { finish(place) }
        return (own.map(\.until) + collections.map(\.until)).min()
    }
}

extension MeshNode {
    /// Asks all nodes which topics were active lately.
    /// - Parameter done: called on the mesh's lane, after a second at most.
    public func topics(_ filter: TopicFilter, limit: Int, done: @escaping (MeshTopics) -> Void) {
        inquiries.ask(filter, limit: limit, done: done)
        schedule()
    }
}

/// The first topics in the order of their bytes, at most so many of so many bytes, with what nodes say of them. Up to
/// twice as much is kept meanwhile.
struct FirstNotes {
    private let maxCount: Int
    private let maxBytes: Int
    private var notes: [[UInt8]: [Inquiries.Note]] = [:]
    private var bytes = 0
    /// The first topic that there was no room for.
    private var ceiling: [UInt8]?
    /// Whether there are more topics.
    var isTruncated = false

    init(count: Int, bytes: Int) {
        maxCount = count
        maxBytes = bytes
    }

    /// Adds what a node says; of several lanes' notes the subscriptions are those of the largest.
    mutating func add(_ topic: [UInt8], _ note: Inquiries.Note) {
        if let ceiling, !topic.lexicographicallyPrecedes(ceiling) { return }
        if let place = notes[topic]?.firstIndex(where: { $0.node == note.node }) {
            notes[topic]?[place].add(note)
            return
        }
        if notes[topic] == nil { bytes += topic.count }
        notes[topic, default: []].append(note)
        if notes.count > 2 * maxCount || bytes > 2 * maxBytes { _ = sorted() }
    }

    /// What there is, and no more than may be.
    mutating func sorted() -> [(topic: [UInt8], notes: [Inquiries.Note])] {
        var all = notes.keys.sorted { $0.lexicographicallyPrecedes($1) }
        var (count, size) = (0, 0)
        while count < min(all.count, maxCount), size + all[count].count <= maxBytes {
            size += all[count].count
            count += 1
        }
        if count < all.count {
            ceiling = all[count]
            isTruncated = true
            for topic in all[count...] { notes[topic] = nil }
            bytes = size
            all.removeLast(all.count - count)
        }
        return all.map { ($0, notes[$0] ?? []) }
    }
}
