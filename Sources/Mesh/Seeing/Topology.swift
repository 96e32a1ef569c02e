import Core

/// What an operator may see of the mesh from one node.
public struct MeshTopology: Sendable {
    /// A node.
    public struct Node: Sendable {
        /// Its id, in hexadecimal.
        public var id: String
        /// What it calls itself.
        public var name: String
        /// Its number in destination sets; 0 for none.
        public var shortID: UInt16
        /// Whether there is a way to it now.
        public var isReachable: Bool
        /// The sum of the costs on the way; 0 for the node itself.
        public var distance: UInt64
        /// The node that the way begins with.
        public var via: String
        /// Whether events of others may pass through it.
        public var isTransit: Bool
        /// Whether it is stopping.
        public var isDraining: Bool
        /// Where it can be dialled.
        public var addresses: [String]
        /// Milliseconds since it was heard of.
        public var age: UInt64
        /// Filters that it wants.
        public var filters: Int
        /// Its neighbours.
        public var neighbours: [Neighbour]
    }

    /// One end of a link, as its node tells it.
    public struct Neighbour: Sendable {
        /// The other node's id.
        public var id: String
        /// And its name.
        public var name: String
        /// What a frame costs.
        public var cost: UInt32
        /// Whether the other end tells of it, too: only then it is used.
        public var isTwoWay: Bool
    }

    /// A link of this node.
    public struct Link: Sendable {
        /// This node's number for it.
        public var number: Int
        /// The other node.
        public var peer: String
        /// Its id.
        public var peerID: String
        /// Tells several links to the same node apart.
        public var name: String
        /// `up`, or `starting` until both connections are there.
        public var state: String
        /// What a frame costs.
        public var cost: UInt32
        /// Where it is dialled; empty for links that the other side has dialled.
        public var address: String
        /// In microseconds; 0 while unknown.
        public var roundTrip: UInt64
        /// Frames and bytes since it is there.
        public var framesOut: UInt64, framesIn: UInt64, bytesOut: UInt64, bytesIn: UInt64
        /// The same of the control connection.
        public var controlBytesOut: UInt64, controlBytesIn: UInt64
        /// Bytes that wait, and that were sent and not acknowledged.
        public var waiting: Int, unacknowledged: Int
        /// Frames given up because too much waited.
        public var dropped: UInt64
    }

    /// This node.
    public var node = ""
    /// Its id.
    public var id = ""
    /// The mesh's name.
    public var mesh = ""
    /// `joining`, `joined` or why it has left.
    public var state = ""
    /// All nodes, this one first.
    public var nodes: [Node] = []
    /// This node's links.
    public var links: [Link] = []
    /// What is dialled and not there, with the reason.
    public var missing: [(address: String, problem: String)] = []
    /// What was counted.
    public var counters = MeshCounters()
}

extension MeshNode {
    /// What there is, for an operator. Called on the mesh's lane.
    public func topology() -> MeshTopology {
        var topology = MeshTopology()
        topology.node = identity.name
        topology.id = identity.id.description
        topology.mesh = settings.meshID
        topology.state = hasLeft ?? (isJoined ? "joined" : "joining")
        topology.counters = counters
        for node in 0..<nodes.count {
            if let seen = describe(node) { topology.nodes.append(seen) }
        }
        topology.links = links.map(describe)
        for target in dials.targets where target.isConfigured && !isLinked(target) {
            topology.missing.append((target.entry.address, target.lastProblem))
        }
        return topology
    }

    private func describe(_ node: NodeIndex) -> MeshTopology.Node? {
        guard let known = linkState.node(node) else { return nil }
        let routes = linkState.routes
        let next = link(routes.link(to: node)).map { nodes[$0.peer].name }
        return MeshTopology.Node(
            id: known.id.description, name: known.name, shortID: nodes[node].shortID,
            isReachable: routes.isReachable(node),
            distance: node < routes.distances.count && routes.isReachable(node) ? routes.distances[node] : 0,
            via: next ?? "", isTransit: known.isTransit, isDraining: known.isDraining, addresses: known.addresses,
            age: known.age, filters: interest.filterCount(of: node),
            neighbours: known.links.map { link in
                MeshTopology.Neighbour(
                    id: link.adjacency.neighbour.description, name: link.neighbour.map { nodes[$0].name } ?? "",
                    cost: link.adjacency.cost, isTwoWay: link.isTwoWay)
            })
    }

    private func describe(_ mesh: MeshLink) -> MeshTopology.Link {
        MeshTopology.Link(
            number: mesh.number, peer: nodes[mesh.peer].name, peerID: nodes[mesh.peer].id.description, name: mesh.name,
            state: mesh.isUp ? "up" : "starting", cost: mesh.cost,
            address: dials.target(mesh.target)?.entry.address ?? "", roundTrip: mesh.roundTrip,
            framesOut: mesh.counters.framesOut, framesIn: mesh.counters.framesIn, bytesOut: mesh.counters.bytesOut,
            bytesIn: mesh.counters.bytesIn, controlBytesOut: mesh.counters.controlBytesOut,
            controlBytesIn: mesh.counters.controlBytesIn, waiting: mesh.queues.reduce(0) { $0 + $1.waitingBytes },
            unacknowledged: mesh.queues.reduce(0) { $0 + $1.unacknowledged },
            dropped: mesh.dropped)
    }

    /// Sends a probe the way an event of a topic would take.
    /// - Parameter done: called on the mesh's lane, after a second at most.
    public func trace(_ topic: String, done: @escaping (MeshTrace) -> Void) { probes.send(topic, done: done) }

    // MARK: Explaining

    /// Where an event of a topic would go, and why not elsewhere.
    public func explain(_ topic: String) -> MeshExplanation {
        var explanation = MeshExplanation()
        let matches = Array(topic.utf8).withUnsafeBytes { router.remoteMatches($0) }
        explanation.local = matches.local
        for node in matches.nodes { explanation.nodes.append(way(to: node, topic)) }
        for group in matches.groups {
            explanation.groups.append(
                MeshExplanation.Group(
                    filter: group.filter, localMembers: group.localMembers, nodes: group.nodes.map { nodes[$0].name },
                    localWeights: group.localWeights, nodeWeights: group.nodeWeights))
        }
        for node in explanation.nodes where node.problem.isEmpty {
            if let place = explanation.links.firstIndex(where: { $0.link == node.link }) {
                explanation.links[place].nodes.append(node.name)
            } else {
                explanation.links.append(
                    MeshExplanation.Link(link: node.link, peer: node.via, nodes: [node.name]))
            }
        }
        return explanation
    }

    private func way(to node: NodeIndex, _ topic: String) -> MeshExplanation.Node {
        let next = linkState.routes.link(to: node)
        var way = MeshExplanation.Node(name: nodes[node].name, link: next, via: "", problem: "")
        if let mesh = link(next) {
            way.via = nodes[mesh.peer].name
            if nodes[node].shortID == 0 { way.problem = "it has no number in destination sets yet" }
            if let gate = mesh.gate, !Array(topic.utf8).withUnsafeBytes({ gate.export.admits($0) }) {
                way.problem = "mesh.policies of this node does not let the topic out to \(way.via)"
            }
        } else {
            way.problem = "there is no way to it: direct events are dropped, guaranteed ones wait for 30 seconds"
        }
        return way
    }
}

/// Where an event would go.
public struct MeshExplanation: Sendable {
    /// A node that wants it.
    public struct Node: Sendable {
        /// Its name.
        public var name: String
        /// The link that the way begins with; 0 for none.
        public var link: Int
        /// The neighbour behind that link.
        public var via: String
        /// Why it would not get there; empty when it would.
        public var problem: String
    }

    /// A shared group that one member of would have it.
    public struct Group: Sendable {
        /// As it is subscribed to.
        public var filter: String
        /// Members here that may be chosen: they come first, but where weights count.
        public var localMembers: Int
        /// Nodes with members that may be chosen; where no weights count only when there are none here.
        public var nodes: [String]
        /// What each member here weighs; empty where no weights count.
        public var localWeights: [UInt32]
        /// What the members at each of the nodes weigh together; empty where no weights count.
        public var nodeWeights: [UInt32]
    }

    /// A link that would carry one frame.
    public struct Link: Sendable {
        /// This node's number for it.
        public var link: Int
        /// The neighbour.
        public var peer: String
        /// The nodes behind it that want the event.
        public var nodes: [String]
    }

    /// Subscriptions on this node that match.
    public var local = 0
    /// Other nodes that want it.
    public var nodes: [Node] = []
    /// Shared groups.
    public var groups: [Group] = []
    /// Links that it would be sent over, once each.
    public var links: [Link] = []
}
