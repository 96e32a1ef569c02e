/// What the management interface says of the mesh.

/// `GET /v1/mesh/topology`: the mesh as this node sees it.
public struct TopologyDocument: Codable, Sendable, Equatable {
    /// A node.
    public struct Node: Codable, Sendable, Equatable {
        /// 32 hexadecimal digits.
        public var id: String
        /// What it calls itself.
        public var name: String
        /// Its number in destination sets; 0 for none.
        public var shortID: Int
        /// Whether there is a way to it now.
        public var reachable: Bool
        /// The sum of the costs on the way.
        public var distance: Int
        /// The neighbour that the way begins with; left out for the node itself.
        public var via: String?
        /// Whether events of others may pass through it.
        public var transit: Bool
        /// Whether it is stopping.
        public var draining: Bool
        /// Where it can be dialled.
        public var addresses: [String]
        /// Since it was heard of.
        public var ageMilliseconds: Int
        /// Filters that it wants events of.
        public var filters: Int
        /// The other ends of its links.
        public var neighbours: [Neighbour]

        /// Makes a node's entry.
        public init(
            id: String, name: String, shortID: Int, reachable: Bool, distance: Int, via: String?, transit: Bool,
            draining: Bool, addresses: [String], ageMilliseconds: Int, filters: Int, neighbours: [Neighbour]
        ) {
            self.id = id
            self.name = name
            self.shortID = shortID
            self.reachable = reachable
            self.distance = distance
            self.via = via
            self.transit = transit
            self.draining = draining
            self.addresses = addresses
            self.ageMilliseconds = ageMilliseconds
            self.filters = filters
            self.neighbours = neighbours
        }
    }

    /// One end of a link, as its node tells it.
    public struct Neighbour: Codable, Sendable, Equatable {
        /// The other node.
        public var id: String
        /// And its name.
        public var name: String
        /// What a frame costs.
        public var cost: Int
        /// Whether the other end tells of it, too: only then it is used.
        public var twoWay: Bool

        /// Makes an entry.
        public init(id: String, name: String, cost: Int, twoWay: Bool) {
            self.id = id
            self.name = name
            self.cost = cost
            self.twoWay = twoWay
        }
    }

    /// A link of this node.
    public struct Link: Codable, Sendable, Equatable {
        /// The other node.
        public var peer: String
        /// Tells several links to the same node apart; left out when it has no name.
        public var name: String?
        /// `up`, or `starting`.
        public var state: String
        /// What a frame costs.
        public var cost: Int
        /// Microseconds to the other node and back; 0 while unknown.
        public var roundTripMicroseconds: Int
        /// Since it is there.
        public var framesOut: Int, framesIn: Int, bytesOut: Int, bytesIn: Int
        /// The same of its control connection.
        public var controlBytesOut: Int, controlBytesIn: Int
        /// Bytes that wait for the other node.
        public var waitingBytes: Int
        /// Frames given up because too much waited.
        public var dropped: Int

        /// Makes an entry.
        public init(
            peer: String, name: String?, state: String, cost: Int, roundTripMicroseconds: Int, framesOut: Int,
            framesIn: Int, bytesOut: Int, bytesIn: Int, controlBytesOut: Int, controlBytesIn: Int, waitingBytes: Int,
            dropped: Int
        ) {
            self.peer = peer
            self.name = name
            self.state = state
            self.cost = cost
            self.roundTripMicroseconds = roundTripMicroseconds
            self.framesOut = framesOut
            self.framesIn = framesIn
            self.bytesOut = bytesOut
            self.bytesIn = bytesIn
            self.controlBytesOut = controlBytesOut
            self.controlBytesIn = controlBytesIn
            self.waitingBytes = waitingBytes
            self.dropped = dropped
        }
    }

    /// The same for people: nodes, their neighbours and the links by name, so that two looks at one mesh differ only
    /// where the mesh does.
    public var sorted: TopologyDocument {
        var copy = self
        for place in copy.nodes.indices {
            copy.nodes[place].neighbours.sort { ($0.name, $0.id, $0.cost) < ($1.name, $1.id, $1.cost) }
        }
        copy.nodes.sort { ($0.name, $0.id) < ($1.name, $1.id) }
        copy.links.sort { ($0.peer, $0.name ?? "", $0.cost) < ($1.peer, $1.name ?? "", $1.cost) }
        return copy
    }

    /// This node's name.
    public var node: String
    /// This node's id.
    public var id: String
    /// The name of the mesh.
    public var mesh: String
    /// `joining`, `joined`, or why it has left.
    public var state: String
    /// All nodes, this one first.
    public var nodes: [Node]
    /// This node's links.
    public var links: [Link]

    /// Makes the answer.
    public init(node: String, id: String, mesh: String, state: String, nodes: [Node], links: [Link]) {
        self.node = node
        self.id = id
        self.mesh = mesh
        self.state = state
        self.nodes = nodes
        self.links = links
    }
}

/// `GET /v1/mesh/explain`: where an event of a topic would go from this node.
public struct ExplanationDocument: Codable, Sendable, Equatable {
    /// A node that wants it.
    public struct Node: Codable, Sendable, Equatable {
        /// Its name.
        public var node: String
        /// The neighbour that the way begins with; left out when there is no way.
        public var via: String?
        /// Why it would not get there; left out when it would.
        public var problem: String?

        /// Makes an entry.
        public init(node: String, via: String?, problem: String?) {
            self.node = node
            self.via = via
            self.problem = problem
        }
    }

    /// Members of one weight.
    public struct Weight: Codable, Sendable, Equatable {
        /// What each of them weighs.
        public var weight: Int
        /// How many they are.
        public var members: Int

        /// Makes an entry.
        public init(weight: Int, members: Int) {
            self.weight = weight
            self.members = members
        }
    }

    /// A shared group that one member of would have it.
    public struct Group: Codable, Sendable, Equatable {
        /// As it is subscribed to.
        public var filter: String
        /// Members here, which come first, but where weights count.
        public var localMembers: Int
        /// Nodes with members; where no weights count for when there are none here.
        public var nodes: [String]
        /// The members here by what they weigh, the heaviest first; left out where no weights count.
        public var localWeights: [Weight]?
        /// In the order of the nodes: what the members there weigh together; left out where no weights count.
        public var nodeWeights: [Int]?

        /// Makes an entry.
        public init(
            filter: String, localMembers: Int, nodes: [String], localWeights: [Weight]? = nil,
            nodeWeights: [Int]? = nil
        ) {
            self.filter = filter
            self.localMembers = localMembers
            self.nodes = nodes
            self.localWeights = localWeights
            self.nodeWeights = nodeWeights
        }

        /// No weight, and no number of members, is larger.
        private static let maxNumber = Int(UInt32.max)

        /// For people, of a group that is shared out by weight: the parts of the members here and of other nodes, each
        /// a line; nil for other groups.
        public var shares: [String]? {
            guard let localWeights, let nodeWeights, nodeWeights.count == nodes.count else { return nil }
            // Numbers of another node, or of a later version.
            let numbers = localWeights.flatMap { [$0.weight, $0.members] } + nodeWeights
            guard numbers.allSatisfy({ (0...Self.maxNumber).contains($0) }) else { return nil }
            let here = localWeights.reduce(0) { $0 &+ $1.weight &* $1.members }
            let total = nodeWeights.reduce(here, &+)
            guard total > 0, total <= Int.max / 1_001 else { return nil }
            func part(_ weight: Int) -> String {
                let tenths = (weight * 1_000 + total / 2) / total
                return "\(tenths / 10).\(tenths % 10) % (\(weight) of \(total))"
            }
            var lines: [String] = []
            if !localWeights.isEmpty {
                let members = localWeights.map { "\($0.members) of weight \($0.weight)" }.joined(separator: ", ")
                lines.append("members here: \(part(here)): \(members)")
            }
            for (node, weight) in zip(nodes, nodeWeights) { lines.append("members at \(node): \(part(weight))") }
            return lines
        }
    }

    /// A link that would carry one frame.
    public struct Link: Codable, Sendable, Equatable {
        /// The neighbour.
        public var peer: String
        /// The nodes behind it that want the event.
        public var nodes: [String]

        /// Makes an entry.
        public init(peer: String, nodes: [String]) {
            self.peer = peer
            self.nodes = nodes
        }
    }

    /// What was asked for.
    public var topic: String
    /// Subscriptions on this node that match.
    public var local: Int
    /// Other nodes that want it.
    public var nodes: [Node]
    /// Shared groups.
    public var groups: [Group]
    /// Links that would carry it, each once.
    public var links: [Link]

    /// Makes the answer.
    public init(topic: String, local: Int, nodes: [Node], groups: [Group], links: [Link]) {
        self.topic = topic
        self.local = local
        self.nodes = nodes
        self.groups = groups
        self.links = links
    }
}

/// `GET /v1/mesh/trace`: the way a probe took.
public struct TraceDocument: Codable, Sendable, Equatable {
    /// A node on the way.
    public struct Hop: Codable, Sendable, Equatable {
        /// Its name.
        public var node: String
        /// When the probe was there, microseconds since 1970 by its own clock.
        public var microseconds: Int

        /// Makes an entry.
        public init(node: String, microseconds: Int) {
            self.node = node
            self.microseconds = microseconds
        }
    }

    /// The way to one node.
    public struct Path: Codable, Sendable, Equatable {
        /// Its name.
        public var node: String
        /// From this node to that one; empty when no answer came within a second.
        public var hops: [Hop]
        /// Until the answer was back, by this node's clock.
        public var roundTripMicroseconds: Int

        /// Makes an entry.
        public init(node: String, hops: [Hop], roundTripMicroseconds: Int) {
            self.node = node
            self.hops = hops
            self.roundTripMicroseconds = roundTripMicroseconds
        }
    }

    /// What was asked for.
    public var topic: String
    /// Subscriptions on this node that match.
    public var local: Int
    /// The ways to the other nodes that want it.
    public var paths: [Path]

    /// Makes the answer.
    public init(topic: String, local: Int, paths: [Path]) {
        self.topic = topic
        self.local = local
        self.paths = paths
    }
}

/// `GET /v1/mesh/topics`: topics that were active lately.
public struct MeshTopicsDocument: Codable, Sendable, Equatable {
    /// A node that remembers a topic.
    public struct Place: Codable, Sendable, Equatable {
        /// Its name.
        public var node: String
        /// Whether a publisher of it published to the topic.
        public var published: Bool
        /// Its subscriptions that matched.
        public var subscriptions: Int

        /// Makes an entry.
        public init(node: String, published: Bool, subscriptions: Int) {
            self.node = node
            self.published = published
            self.subscriptions = subscriptions
        }
    }

    /// A topic.
    public struct Topic: Codable, Sendable, Equatable {
        /// Its text.
        public var topic: String
        /// Where it was active.
        public var nodes: [Place]

        /// Makes an entry.
        public init(topic: String, nodes: [Place]) {
            self.topic = topic
            self.nodes = nodes
        }
    }

    /// The first in the order of their bytes.
    public var topics: [Topic]
    /// Whether there are more.
    public var truncated: Bool
    /// Nodes that did not answer within a second.
    public var noAnswer: [String]

    /// Makes the answer.
    public init(topics: [Topic], truncated: Bool, noAnswer: [String]) {
        self.topics = topics
        self.truncated = truncated
        self.noAnswer = noAnswer
    }
}
