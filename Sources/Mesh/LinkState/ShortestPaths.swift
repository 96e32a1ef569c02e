/// Shortest paths that are unique: of paths with the same cost the one with the smaller sum of ties is taken, and every
/// node computes the same, because costs and ties are the same in both directions. So the paths from one node to all
/// are a tree, a part of a shortest path is one, and a node knows what its neighbours' paths are.
///
/// A node that passes nothing on is a beginning or an end of a path, never within one; this keeps what is said above.

/// The links of all nodes, each from both ends. Vertices are dense numbers.
struct LinkGraph {
    /// What a link of a node that is about to stop costs more: no path takes it that has another way.
    static let drainCost: UInt64 = 1 << 20

    struct Edge: BitwiseCopyable, Equatable {
        let target: Int32
        /// The link's number here and at the other end.
        let link: UInt16
        let remoteLink: UInt16
        let cost: UInt64
        let tie: UInt64
    }

    private(set) var edges: [Edge] = []
    /// Where each vertex's edges begin; one more than there are vertices when complete.
    private(set) var offsets: [Int32] = []
    private(set) var isTransit: [Bool] = []

    init(vertices: Int) {
        edges.reserveCapacity(vertices * 8)
        offsets.reserveCapacity(vertices + 1)
        isTransit.reserveCapacity(vertices)
    }

    /// The next vertex; its edges follow.
    mutating func begin(isTransit: Bool) {
        offsets.append(Int32(edges.count))
        self.isTransit.append(isTransit)
    }

    mutating func append(_ edge: Edge) { edges.append(edge) }

    var count: Int { isTransit.count }

    func edges(of vertex: Int) -> Range<Int> {
        Int(offsets[vertex])..<(vertex + 1 < offsets.count ? Int(offsets[vertex + 1]) : edges.count)
    }

    /// Vertices and edges looked at for all routes, roughly.
    func work(neighbours: Int) -> Int { (count + edges.count) * (neighbours + 1) }
}

/// Dijkstra's algorithm with memory that is used again.
struct ShortestPaths {
    private struct Candidate: BitwiseCopyable {
        let cost: UInt64
        let tie: UInt64
        let vertex: Int32

        @inline(__always)
        static func < (a: Self, b: Self) -> Bool { a.cost != b.cost ? a.cost < b.cost : a.tie < b.tie }
    }

    /// By vertex: the sum of the costs; .max without a path.
    private(set) var costs: [UInt64] = []
    /// By vertex: the sum of the ties.
    private(set) var ties: [UInt64] = []
    /// By vertex: the edge of the root that the path begins with; -1 without a path and for the root.
    private(set) var firstEdges: [Int32] = []
    private var heap: [Candidate] = []

    mutating func run(_ graph: LinkGraph, from root: Int) {
        costs.removeAll(keepingCapacity: true)
        ties.removeAll(keepingCapacity: true)
        firstEdges.removeAll(keepingCapacity: true)
        costs.append(contentsOf: repeatElement(.max, count: graph.count))
        ties.append(contentsOf: repeatElement(.max, count: graph.count))
        firstEdges.append(contentsOf: repeatElement(-1, count: graph.count))
        heap.removeAll(keepingCapacity: true)
        (costs[root], ties[root]) = (0, 0)
        push(Candidate(cost: 0, tie: 0, vertex: Int32(root)))
        while let next = pop() {
            let vertex = Int(next.vertex)
            // A better way was found meanwhile, or this is as far as the path may go.
            guard next.cost == costs[vertex], next.tie == ties[vertex], vertex == root || graph.isTransit[vertex] else {
                continue
            }
            let first = firstEdges[vertex]
            for place in graph.edges(of: vertex) {
                let edge = graph.edges[place]
                let target = Int(edge.target)
                let cost = next.cost + edge.cost
                let tie = next.tie + edge.tie
                guard cost < costs[target] || (cost == costs[target] && tie < ties[target]) else { continue }
                (costs[target], ties[target]) = (cost, tie)
                firstEdges[target] = vertex == root ? Int32(place) : first
                push(Candidate(cost: cost, tie: tie, vertex: edge.target))
            }
        }
    }

    private mutating func push(_ candidate: Candidate) {
        heap.append(candidate)
        var place = heap.count - 1
        while place > 0 {
            let parent = (place - 1) / 2
            guard candidate < heap[parent] else { break }
            heap[place] = heap[parent]
            place = parent
        }
        heap[place] = candidate
    }

    private mutating func pop() -> Candidate? {
        guard let first = heap.first else { return nil }
        let last = heap.removeLast()
        let count = heap.count
        guard count > 0 else { return first }
        var place = 0
        while true {
            var child = place * 2 + 1
            guard child < count else { break }
            if child + 1 < count, heap[child + 1] < heap[child] { child += 1 }
            guard heap[child] < last else { break }
            heap[place] = heap[child]
            place = child
        }
        heap[place] = last
        return first
    }

    /// This node's routes, and whose floods it passes on to whom.
    ///
    /// What node o floods travels on the tree of o's shortest paths. This node passes it to a neighbour whose path
    /// *from* o ends with the link between them, which is, since paths are the same in both directions, one whose path
    /// *to* o begins with it: the neighbours' paths are computed as this node's are.
    /// - Parameters:
    ///   - nodes: the nodes of the vertices.
    ///   - count: indices of nodes that there are.
    mutating func routes(_ graph: LinkGraph, own: Int, nodes: [NodeIndex], count: Int) -> Routes {
        var routes = Routes()
        routes.links = Array(repeating: 0, count: count)
        routes.distances = Array(repeating: .max, count: count)
        routes.children = Array(repeating: [], count: count)
        run(graph, from: own)
        for vertex in 0..<graph.count where costs[vertex] != .max {
            routes.distances[nodes[vertex]] = costs[vertex]
            if firstEdges[vertex] >= 0 {
                routes.links[nodes[vertex]] = LinkNumber(graph.edges[Int(firstEdges[vertex])].link)
            }
        }
        for neighbour in Self.neighbours(graph, of: own) {
            run(graph, from: Int(neighbour))
            for vertex in 0..<graph.count where firstEdges[vertex] >= 0 {
                let first = graph.edges[Int(firstEdges[vertex])]
                guard first.target == Int32(own) else { continue }
                routes.children[nodes[vertex]].append(LinkNumber(first.remoteLink))
            }
        }
        return routes
    }

    /// Who is at the other ends of a vertex's edges, each once, in the order of the edges, which is that of the links.
    static func neighbours(_ graph: LinkGraph, of vertex: Int) -> [Int32] {
        var neighbours: [Int32] = []
        for place in graph.edges(of: vertex) where !neighbours.contains(graph.edges[place].target) {
            neighbours.append(graph.edges[place].target)
        }
        return neighbours
    }
}
