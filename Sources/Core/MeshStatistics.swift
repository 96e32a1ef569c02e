/// The mesh of a node in numbers, for metrics. The mesh's lane puts them together when asked.
public struct MeshStatistics: Sendable {
    /// Something that is counted under a name.
    public struct Count: Sendable, Equatable {
        /// In snake case.
        public var name: String
        /// Since the start.
        public var value: UInt64

        /// Makes a count.
        public init(_ name: String, _ value: some BinaryInteger) {
            self.name = name
            self.value = UInt64(clamping: value)
        }
    }

    /// A link, there or gone: what it counts goes on when it comes back.
    public struct Link: Sendable {
        /// The other node's name and id.
        public var peer: String, peerID: String
        /// Tells several links to the same node apart.
        public var name: String
        /// Whether frames cross it.
        public var isUp = false
        /// What a frame costs.
        public var cost: UInt32 = 0
        /// In microseconds; 0 while unknown.
        public var roundTrip: UInt64 = 0
        /// Of the data connection.
        public var framesOut: UInt64 = 0, framesIn: UInt64 = 0, bytesOut: UInt64 = 0, bytesIn: UInt64 = 0
        /// Of the control connection.
        public var controlBytesOut: UInt64 = 0, controlBytesIn: UInt64 = 0
        /// Bytes that wait, and that were sent and not acknowledged.
        public var waitingBytes = 0, unacknowledgedBytes = 0
        /// Frames given up because too much waited, and sent another way when the link went down.
        public var dropped: UInt64 = 0, salvaged: UInt64 = 0

        /// Makes a link that has counted nothing.
        public init(peer: String, peerID: String, name: String) {
            self.peer = peer
            self.peerID = peerID
            self.name = name
        }
    }

    /// Another node.
    public struct Node: Sendable {
        /// Its name and id.
        public var name: String, id: String
        /// Whether there is a way to it.
        public var isReachable: Bool
        /// Filters that it wants events of.
        public var filters: Int
        /// Guaranteed events for it that it has not settled, in bytes.
        public var streamBytes: Int

        /// Makes a node.
        public init(name: String, id: String, isReachable: Bool, filters: Int, streamBytes: Int) {
            self.name = name
            self.id = id
            self.isReachable = isReachable
            self.filters = filters
            self.streamBytes = streamBytes
        }
    }

    /// Whether the node takes part and knows what its neighbours know.
    public var isJoined = false
    /// Of this node, in the order of their numbers; those that are gone come last.
    public var links: [Link] = []
    /// The other nodes.
    public var nodes: [Node] = []
    /// Filters that this node tells the others.
    public var ownFilters = 0
    /// Frames that did not get where they should, by reason.
    public var dropped: [Count] = []
    /// Connections that were refused or ended with a reason.
    public var ended: [Count] = []
    /// Everything else that is counted once.
    public var counts: [Count] = []
    /// Guaranteed events that were given up, by reason.
    public var streamDrops: [Count] = []
    /// Sessions that moved, by direction.
    public var moved: [Count] = []
    /// Claims to sessions that brought none, by reason.
    public var notMoved: [Count] = []
    /// From a link's change to the routes that follow from it.
    public var convergence = ConvergenceStatistics()

    /// Nothing yet.
    public init() {}
}

/// How long it took from a link of this node going down or coming up until the new routes were in force.
public struct ConvergenceStatistics: Sendable, Equatable {
    /// Upper bounds of the buckets, in microseconds; there is one more for all that took longer.
    public static let bounds: [UInt64] = [
        1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
        10_000_000, 30_000_000,
    ]
    /// By bucket.
    public private(set) var counts = [UInt64](repeating: 0, count: ConvergenceStatistics.bounds.count + 1)
    /// Of all, in microseconds.
    public private(set) var sum: UInt64 = 0

    /// Nothing yet.
    public init() {}

    /// Notes one change.
    public mutating func add(microseconds: UInt64) {
        let bucket = Self.bounds.firstIndex { microseconds <= $0 } ?? Self.bounds.count
        counts[bucket] &+= 1
        sum &+= microseconds
    }

    /// Changes noted.
    public var count: UInt64 { counts.reduce(0, &+) }
}
