public import Core
public import Web

/// What the management interface asks of the mesh. Answers may come on any thread.
public protocol MeshManaging: Sendable {
    /// The mesh as this node sees it.
    func topology(_ answer: @escaping @Sendable (TopologyDocument) -> Void)
    /// Where an event of a topic would go.
    func explain(_ topic: String, _ answer: @escaping @Sendable (ExplanationDocument) -> Void)
    /// Sends a probe the way an event of a topic would take; answers after a second at most.
    func trace(_ topic: String, _ answer: @escaping @Sendable (TraceDocument) -> Void)
    /// Topics that were active lately on any node; answers after a second at most.
    func topics(_ filter: TopicFilter, limit: Int, _ answer: @escaping @Sendable (MeshTopicsDocument) -> Void)
    /// The node's links.
    func links(_ answer: @escaping @Sendable ([LinkDocument]) -> Void)
    /// Dials a node from now on.
    /// - Parameter to: `host:port`, not checked yet.
    /// - Returns: whether it was not dialled before.
    /// - Throws: why this node does not dial it.
    func addLink(to: String, name: String, cost: Int) throws(Problem) -> Bool
    /// Dials a node no longer, and ends the link.
    /// - Throws: when it was not dialled.
    func removeLink(to: String, name: String) throws(Problem)
    /// Takes the node out of the mesh for good; answers when it has left.
    func leave(_ answer: @escaping @Sendable () -> Void)
}

/// `/v1/mesh/links`: links, and what is dialled.
extension AdminService {
    private static let costs = 1...65_535

    func addLinkRoutes(to table: inout RouteTable) {
        table.add(.get, "/v1/mesh/links") { [unowned self] _, responder in
            do throws(Problem) {
                try meshOrProblem().links { links in
                    responder.send { Self.json(LinkListDocument(links: links)) }
                }
            } catch { responder.send(error) }
        }
        table.add(.put, "/v1/mesh/links") { [unowned self] request, responder in
            do throws(Problem) {
                let mesh = try meshOrProblem()
                guard let cost = Int(request.query("cost") ?? "10"), Self.costs.contains(cost) else {
                    throw Problem(400, "cost is a number from \(Self.costs.lowerBound) to \(Self.costs.upperBound).")
                }
                let isNew = try mesh.addLink(
                    to: try Self.target(request), name: request.query("name") ?? "", cost: cost)
                responder.send(isNew ? HTTPResponse(status: 201) : .noContent)
            } catch { responder.send(error) }
        }
        table.add(.delete, "/v1/mesh/links") { [unowned self] request, responder in
            do throws(Problem) {
                try meshOrProblem().removeLink(to: try Self.target(request), name: request.query("name") ?? "")
                responder.send(.noContent)
            } catch { responder.send(error) }
        }
        table.add(.post, "/v1/mesh/leave") { [unowned self] _, responder in
            do throws(Problem) {
                try meshOrProblem().leave { responder.send(.noContent) }
            } catch { responder.send(error) }
        }
    }

    func meshOrProblem() throws(Problem) -> any MeshManaging {
        guard let mesh else {
            throw Problem(409, "The node is in no mesh: mesh.listen or mesh.links of its configuration puts it in one.")
        }
        return mesh
    }

    private static func target(_ request: HTTPRequest) throws(Problem) -> String {
        guard let to = request.query("to"), !to.isEmpty else { throw Problem(400, "to is the other node's HOST:PORT.") }
        return to
    }
}
