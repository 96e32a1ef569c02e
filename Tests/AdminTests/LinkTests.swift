import Admin
import Foundation
import RawHTTP
import Synchronization
import Testing
import Web

/// Links as a node would keep them, without a mesh.
private final class PaperMesh: MeshManaging {
    private let kept = Mutex<[LinkDocument]>([])

    func links(_ answer: @escaping @Sendable ([LinkDocument]) -> Void) {
        let links = kept.withLock { $0 }
        // As a lane would, from a thread of its own.
        Thread.detachNewThread { answer(links) }
    }

    func topology(_ answer: @escaping @Sendable (TopologyDocument) -> Void) {
        answer(TopologyDocument(node: "stage", id: "1", mesh: "paper", state: "joined", nodes: [], links: []))
    }

    func explain(_ topic: String, _ answer: @escaping @Sendable (ExplanationDocument) -> Void) {
        answer(ExplanationDocument(topic: topic, local: 2, nodes: [], groups: [], links: []))
    }

    func trace(_ topic: String, _ answer: @escaping @Sendable (TraceDocument) -> Void) {
        answer(TraceDocument(topic: topic, local: 3, paths: []))
    }

    func addLink(to: String, name: String, cost: Int) throws(Problem) -> Bool {
        guard to != "far:1" else { throw Problem(409, "far:1 may be another machine.") }
        return kept.withLock { links in
            let before = links.count
            links.removeAll { $0.to == to && $0.name == name }
            let isNew = links.count == before
            links.append(LinkDocument(to: to, name: name, state: "missing", origin: "added", cost: cost))
            return isNew
        }
    }

    func removeLink(to: String, name: String) throws(Problem) {
        let isFound = kept.withLock { links in
            defer { links.removeAll { $0.to == to && $0.name == name } }
            return links.contains { $0.to == to && $0.name == name }
        }
        guard isFound else { throw Problem(404, "The node does not dial \(to).") }
    }
}

@Suite struct LinkTests {
    @Test func linksAreListedAddedAndRemoved() throws {
        let stage = try AdminStage(mesh: PaperMesh())
        func links() throws -> [LinkDocument] {
            let list: LinkListDocument = try stage.get("/v1/mesh/links")
            return list.links
        }
        #expect(try links().isEmpty)
        #expect(try stage.ask("PUT", "/v1/mesh/links?to=127.0.0.1:7401").status == 201)
        #expect(try stage.ask("PUT", "/v1/mesh/links?to=127.0.0.1:7401&cost=7").status == 204)
        #expect(try stage.ask("PUT", "/v1/mesh/links?to=127.0.0.1:7401&cost=65535&name=r%C3%A4dio").status == 201)
        #expect(
            try links() == [
                LinkDocument(to: "127.0.0.1:7401", name: "", state: "missing", origin: "added", cost: 7),
                LinkDocument(to: "127.0.0.1:7401", name: "rädio", state: "missing", origin: "added", cost: 65_535),
            ])
        #expect(try stage.ask("DELETE", "/v1/mesh/links?to=127.0.0.1:7401").status == 204)
        #expect(try stage.ask("DELETE", "/v1/mesh/links?to=127.0.0.1:7401").status == 404)
        #expect(try links().map(\.cost) == [65_535])
        for wrong in ["", "?to=", "?to=a:1&cost=0", "?to=a:1&cost=65536", "?to=a:1&cost=x"] {
            #expect(try stage.ask("PUT", "/v1/mesh/links\(wrong)").status == 400, "\(wrong)")
        }
        let refused = try stage.ask("PUT", "/v1/mesh/links?to=far:1")
        #expect(refused.status == 409 && refused.body.contains("another machine"))
        let foreign = ["Origin: http://evil.example"]
        #expect(try stage.ask("PUT", "/v1/mesh/links?to=a:1", headers: foreign).status == 403)
    }

    @Test func aNodeInNoMeshSaysSo() throws {
        let stage = try AdminStage()
        for method in ["GET", "PUT", "DELETE"] {
            let answer = try stage.ask(method, "/v1/mesh/links?to=a:1")
            #expect(answer.status == 409 && answer.body.contains("in no mesh"), "\(answer)")
        }
    }

    @Test func theMeshIsSeen() throws {
        let stage = try AdminStage(mesh: PaperMesh())
        let topology: TopologyDocument = try stage.get("/v1/mesh/topology")
        #expect(topology.mesh == "paper")
        let explanation: ExplanationDocument = try stage.get("/v1/mesh/explain?topic=a/b")
        #expect(explanation.topic == "a/b" && explanation.local == 2)
        let trace: TraceDocument = try stage.get("/v1/mesh/trace?topic=a/b")
        #expect(trace.topic == "a/b" && trace.local == 3)
        let alone = try AdminStage()
        for path in ["topology", "explain?topic=a", "trace?topic=a"] {
            #expect(try alone.ask("GET", "/v1/mesh/\(path)").status == 409, "\(path)")
        }
    }

    @Test func aNodeThatJoinsIsNotReadyYet() throws {
        let stage = try AdminStage()
        stage.service.becomeReady([], isJoining: true)
        let joining = try stage.ask("GET", "/readyz")
        #expect(joining.status == 503 && joining.body.contains("joining"))
        let node: NodeDocument = try stage.get("/v1/node")
        #expect(node.state == "joining")
        stage.service.becomeJoined()
        #expect(try stage.ask("GET", "/readyz").status == 200)
        stage.service.becomeDraining()
        stage.service.becomeJoined()
        #expect(try stage.ask("GET", "/readyz").status == 503)
    }
}
