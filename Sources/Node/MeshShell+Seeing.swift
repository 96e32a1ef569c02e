/// The mesh's words for what there is, in those of the management interface.
import Admin
import Core
import Mesh
import Reactor

extension MeshShell {
    func topology(_ answer: @escaping @Sendable (TopologyDocument) -> Void) {
        reactor.lanes.call(Self.lane) { lane in
            guard let topology = MeshNode.of(lane)?.topology() else { return }
            answer(Self.document(topology))
        }
    }

    /// What the mesh counts; nil before it has begun.
    func statistics(_ answer: @escaping @Sendable (MeshStatistics?) -> Void) {
        reactor.lanes.call(Self.lane) { answer(MeshNode.of($0)?.statistics()) }
    }

    func topics(_ filter: TopicFilter, limit: Int, _ answer: @escaping @Sendable (MeshTopicsDocument) -> Void) {
        reactor.lanes.call(Self.lane) { lane in
            MeshNode.of(lane)?.topics(filter, limit: limit) { found in
                answer(
                    MeshTopicsDocument(
                        topics: found.topics.map { topic in
                            MeshTopicsDocument.Topic(
                                topic: topic.topic,
                                nodes: topic.places.map {
                                    MeshTopicsDocument.Place(
                                        node: $0.node, published: $0.isPublished, subscriptions: $0.subscriptions)
                                })
                        }, truncated: found.isTruncated, noAnswer: found.silent))
            }
        }
    }

    func explain(_ topic: String, _ answer: @escaping @Sendable (ExplanationDocument) -> Void) {
        reactor.lanes.call(Self.lane) { lane in
            guard let found = MeshNode.of(lane)?.explain(topic) else { return }
            answer(
                ExplanationDocument(
                    topic: topic, local: found.local,
                    nodes: found.nodes.map { node in
                        ExplanationDocument.Node(
                            node: node.name, via: node.via.isEmpty ? nil : node.via,
                            problem: node.problem.isEmpty ? nil : node.problem)
                    },
                    groups: found.groups.map { group in
                        let isWeighted = !group.localWeights.isEmpty || !group.nodeWeights.isEmpty
                        return ExplanationDocument.Group(
                            filter: group.filter, localMembers: group.localMembers, nodes: group.nodes,
                            localWeights: isWeighted ? Self.counted(group.localWeights) : nil,
                            nodeWeights: isWeighted ? group.nodeWeights.map { Int($0) } : nil)
                    },
                    links: found.links.map { ExplanationDocument.Link(peer: $0.peer, nodes: $0.nodes) }))
        }
    }

    /// The heaviest first. There are a thousand weights at most, whatever the number of members.
    private static func counted(_ weights: [UInt32]) -> [ExplanationDocument.Weight] {
        var found: [ExplanationDocument.Weight] = []
        for weight in weights.sorted(by: >) {
            if let last = found.indices.last, found[last].weight == Int(weight) {
                found[last].members += 1
            } else {
                found.append(ExplanationDocument.Weight(weight: Int(weight), members: 1))
            }
        }
        return found
    }

    func trace(_ topic: String, _ answer: @escaping @Sendable (TraceDocument) -> Void) {
        reactor.lanes.call(Self.lane) { lane in
            MeshNode.of(lane)?.trace(topic) { found in
                let paths = found.paths.map { path in
                    TraceDocument.Path(
                        node: path.node,
                        hops: path.hops.map { TraceDocument.Hop(node: $0.node, microseconds: Int(clamping: $0.time)) },
                        roundTripMicroseconds: Int(clamping: path.roundTrip))
                }
                answer(TraceDocument(topic: topic, local: found.local, paths: paths))
            }
        }
    }

    private static func document(_ topology: MeshTopology) -> TopologyDocument {
        TopologyDocument(
            node: topology.node, id: topology.id, mesh: topology.mesh, state: topology.state,
            nodes: topology.nodes.map { node in
                TopologyDocument.Node(
                    id: node.id, name: node.name, shortID: Int(node.shortID), reachable: node.isReachable,
                    distance: Int(clamping: node.distance), via: node.via.isEmpty ? nil : node.via,
                    transit: node.isTransit, draining: node.isDraining, addresses: node.addresses,
                    ageMilliseconds: Int(clamping: node.age), filters: node.filters,
                    neighbours: node.neighbours.map { neighbour in
                        TopologyDocument.Neighbour(
                            id: neighbour.id, name: neighbour.name, cost: Int(neighbour.cost),
                            twoWay: neighbour.isTwoWay)
                    })
            },
            links: topology.links.map { link in
                TopologyDocument.Link(
                    peer: link.peer, name: link.name.isEmpty ? nil : link.name, state: link.state,
                    cost: Int(link.cost), roundTripMicroseconds: Int(clamping: link.roundTrip),
                    framesOut: Int(clamping: link.framesOut), framesIn: Int(clamping: link.framesIn),
                    bytesOut: Int(clamping: link.bytesOut), bytesIn: Int(clamping: link.bytesIn),
                    controlBytesOut: Int(clamping: link.controlBytesOut),
                    controlBytesIn: Int(clamping: link.controlBytesIn), waitingBytes: link.waiting,
                    dropped: Int(clamping: link.dropped))
            })
    }
}
