import Testing
import TestSupport

@testable import Mesh

/// What the shortest paths are, found in the slow and certain way.
struct ReferencePaths {
    struct Sum: Comparable {
        var cost: UInt64
        var tie: UInt64
        static func < (a: Self, b: Self) -> Bool { (a.cost, a.tie) < (b.cost, b.tie) }
        static func + (a: Self, b: Self) -> Self { Sum(cost: a.cost + b.cost, tie: a.tie + b.tie) }
    }

    let graph: LinkGraph
    private(set) var sums: [[Sum?]]

    /// Floyd and Warshall, on pairs of costs and ties; nodes that pass nothing on are never in the middle.
    init(_ graph: LinkGraph) {
        self.graph = graph
        let count = graph.count
        var sums = [[Sum?]](repeating: Array(repeating: nil, count: count), count: count)
        for vertex in 0..<count {
            for edge in graph.edges(of: vertex).map({ graph.edges[$0] }) {
                let sum = Sum(cost: edge.cost, tie: edge.tie)
                if sums[vertex][Int(edge.target)].map({ sum < $0 }) ?? true { sums[vertex][Int(edge.target)] = sum }
            }
            sums[vertex][vertex] = Sum(cost: 0, tie: 0)
        }
        for middle in 0..<count where graph.isTransit[middle] {
            for from in 0..<count {
                guard let first = sums[from][middle] else { continue }
                for to in 0..<count {
                    guard let second = sums[middle][to] else { continue }
                    let sum = first + second
                    if sums[from][to].map({ sum < $0 }) ?? true { sums[from][to] = sum }
                }
            }
        }
        self.sums = sums
    }

    /// The edges of `from` that shortest paths to `to` begin with: one, if paths are unique.
    func firstEdges(_ from: Int, _ to: Int) -> [LinkGraph.Edge] {
        guard from != to, let sum = sums[from][to] else { return [] }
        return graph.edges(of: from).map { graph.edges[$0] }.filter { edge in
            let target = Int(edge.target)
            guard target == to || graph.isTransit[target], let rest = sums[target][to] else { return false }
            return Sum(cost: edge.cost, tie: edge.tie) + rest == sum
        }
    }
}

@Suite struct ShortestPathsTests {
    /// Few different costs, so that ties decide often; several links between two nodes; islands; nodes that pass
    /// nothing on. Link numbers count at each node.
    static func graph(_ random: inout Seeded, nodes: Int, links: Int, costs: ClosedRange<UInt64>) -> LinkGraph {
        let ids = (0..<nodes).map { _ in NodeID(high: random.next(), low: random.next()) }
        var edges = [[LinkGraph.Edge]](repeating: [], count: nodes)
        for _ in 0..<links {
            let a = Int.random(in: 0..<nodes, using: &random)
            let b = Int.random(in: 0..<nodes, using: &random)
            guard a != b else { continue }
            let (aLink, bLink) = (UInt16(edges[a].count + 1), UInt16(edges[b].count + 1))
            let cost = UInt64.random(in: costs, using: &random)
            let tie = SipHash.tie(ids[a], aLink, ids[b], bLink)
            edges[a].append(.init(target: Int32(b), link: aLink, remoteLink: bLink, cost: cost, tie: tie))
            edges[b].append(.init(target: Int32(a), link: bLink, remoteLink: aLink, cost: cost, tie: tie))
        }
        var graph = LinkGraph(vertices: nodes)
        for vertex in 0..<nodes {
            graph.begin(isTransit: Int.random(in: 0..<8, using: &random) != 0)
            for edge in edges[vertex] { graph.append(edge) }
        }
        return graph
    }

    static func routes(_ graph: LinkGraph) -> [Routes] {
        var paths = ShortestPaths()
        return (0..<graph.count).map {
            paths.routes(graph, own: $0, nodes: Array(0..<graph.count), count: graph.count)
        }
    }

    /// The far end of a node's link.
    static func other(_ graph: LinkGraph, _ vertex: Int, _ link: LinkNumber) -> LinkGraph.Edge? {
        graph.edges(of: vertex).map { graph.edges[$0] }.first { Int($0.link) == link }
    }

    /// What the routes of all nodes must be, taken together.
    static func check(_ graph: LinkGraph, _ routes: [Routes], _ note: Comment) {
        let reference = ReferencePaths(graph)
        let count = graph.count
        for from in 0..<count {
            for to in 0..<count where from != to {
                let first = reference.firstEdges(from, to)
                #expect(first.count <= 1, "unique, \(note) \(from) \(to)")
                #expect(routes[from].link(to: to) == (first.first.map { Int($0.link) } ?? 0), note)
                #expect(routes[from].distances[to] == reference.sums[from][to]?.cost ?? .max, note)
            }
            #expect(routes[from].link(to: from) == 0)
            #expect(routes[from].distances[from] == 0)
        }
        for origin in 0..<count {
            var parents = [[Int]](repeating: [], count: count)
            var used = 0
            for node in 0..<count {
                let children = routes[node].children(of: origin)
                // By uniqueness and symmetry: a neighbour is a child exactly if its distance is mine and the link's.
                let derived = graph.edges(of: node).map { graph.edges[$0] }.filter { edge in
                    guard node == origin || graph.isTransit[node], let own = reference.sums[node][origin],
                        let theirs = reference.sums[Int(edge.target)][origin]
                    else { return false }
                    return theirs == own + ReferencePaths.Sum(cost: edge.cost, tie: edge.tie)
                }
                #expect(children.sorted() == derived.map { Int($0.link) }.sorted(), note)
                for link in children {
                    guard let edge = other(graph, node, link) else {
                        Issue.record("no such link")
                        continue
                    }
                    parents[Int(edge.target)].append(node)
                    used += 1
                    // The child's own path to the origin begins with the same link.
                    #expect(routes[Int(edge.target)].link(to: origin) == Int(edge.remoteLink), note)
                }
            }
            let reached = (0..<count).filter { $0 != origin && reference.sums[$0][origin] != nil }
            #expect(used == reached.count, "a tree has one link less than nodes, \(note)")
            for node in 0..<count { #expect(parents[node].count == (reached.contains(node) ? 1 : 0), note) }
        }
    }

    @Test func pathsAreTheReferencesAndChildrenMakeTrees() {
        for seed in 0..<250 {
            var random = Seeded(seed: UInt64(seed))
            let nodes = Int.random(in: 1...14, using: &random)
            let graph = Self.graph(
                &random, nodes: nodes, links: Int.random(in: 0...nodes * 3, using: &random),
                costs: 1...[1, 2, 3, 1_000].randomElement(using: &random)!)
            Self.check(graph, Self.routes(graph), "seed \(seed)")
        }
    }

    /// Forwarding by each node's own next link: every link is crossed at most once, whoever the destinations are.
    @Test func pathsToAllMakeATree() {
        for seed in 0..<100 {
            var random = Seeded(seed: UInt64(1_000 + seed))
            let graph = Self.graph(&random, nodes: 20, links: 60, costs: 1...2)
            let routes = Self.routes(graph)
            for from in 0..<graph.count {
                var entered: [Int: Set<Int>] = [:]
                for to in 0..<graph.count where routes[from].link(to: to) != 0 {
                    var at = from
                    var hops = 0
                    while at != to, hops <= graph.count {
                        guard let edge = Self.other(graph, at, routes[at].link(to: to)) else { break }
                        entered[Int(edge.target), default: []].insert(at << 16 | Int(edge.link))
                        at = Int(edge.target)
                        hops += 1
                    }
                    #expect(at == to, "seed \(seed)")
                }
                #expect(entered.values.allSatisfy { $0.count == 1 }, "seed \(seed)")
                #expect(entered[from] == nil)
            }
        }
    }

    @Test func aNodeThatPassesNothingOnIsOnlyAnEnd() {
        // 0 - 1 - 2, and the long way 0 - 3 - 2; 1 passes nothing on.
        func edge(_ target: Int32, _ link: UInt16, _ remote: UInt16, _ cost: UInt64, _ tie: UInt64) -> LinkGraph.Edge {
            LinkGraph.Edge(target: target, link: link, remoteLink: remote, cost: cost, tie: tie)
        }
        var graph = LinkGraph(vertices: 4)
        graph.begin(isTransit: true)
        graph.append(edge(1, 1, 1, 1, 11))
        graph.append(edge(3, 2, 1, 50, 12))
        graph.begin(isTransit: false)
        graph.append(edge(0, 1, 1, 1, 11))
        graph.append(edge(2, 2, 1, 1, 13))
        graph.begin(isTransit: true)
        graph.append(edge(1, 1, 2, 1, 13))
        graph.append(edge(3, 2, 2, 50, 14))
        graph.begin(isTransit: true)
        graph.append(edge(0, 1, 2, 50, 12))
        graph.append(edge(2, 2, 2, 50, 14))
        let routes = Self.routes(graph)
        Self.check(graph, routes, "no transit")
        #expect(routes[0].links == [0, 1, 2, 2])
        #expect(routes[0].distances == [0, 1, 100, 50])
        #expect(routes[1].links == [1, 0, 2, 1] || routes[1].links == [1, 0, 2, 2])
        #expect(routes[1].children(of: 0).isEmpty)
    }

    /// 256 nodes with six links each: what one computation of all routes takes.
    @Test func timeOfALargeMesh() {
        var random = Seeded(seed: 42)
        let graph = Self.graph(&random, nodes: 256, links: 768, costs: 1...100)
        var paths = ShortestPaths()
        let nodes = Array(0..<256)
        let clock = ContinuousClock()
        var best = Duration.seconds(1_000)
        var reached = 0
        for _ in 0..<3 {
            best = min(
                best,
                clock.measure {
                    reached = paths.routes(graph, own: 7, nodes: nodes, count: 256).links.count { $0 != 0 }
                })
        }
        print("all routes of a node, 256 nodes, 768 links: \(best), \(reached) nodes reached")
        #expect(reached > 100)
    }
}
