import Admin
import Core
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

    func leave(_ answer: @escaping @Sendable () -> Void) { Thread.detachNewThread { answer() } }

    func topology(_ answer: @escaping @Sendable (TopologyDocument) -> Void) {
        answer(TopologyDocument(node: "a", id: "1", mesh: "m", state: "joined", nodes: [], links: []))
    }

    func explain(_ topic: String, _ answer: @escaping @Sendable (ExplanationDocument) -> Void) {
        answer(ExplanationDocument(topic: topic, local: 1, nodes: [], groups: [], links: []))
    }

    func trace(_ topic: String, _ answer: @escaping @Sendable (TraceDocument) -> Void) {
        answer(TraceDocument(topic: topic, local: 2, paths: []))
    }

    func topics(_ filter: TopicFilter, limit: Int, _ answer: @escaping @Sendable (MeshTopicsDocument) -> Void) {
        let place = MeshTopicsDocument.Place(node: "a", published: true, subscriptions: limit)
        answer(
            MeshTopicsDocument(
                topics: [.init(topic: filter.text, nodes: [place])], truncated: false, noAnswer: ["b"]))
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

    @Test func whatThereIsInTheMeshIsTold() throws {
        let stage = try AdminStage(mesh: PaperMesh())
        let topology: TopologyDocument = try stage.get("/v1/mesh/topology")
        #expect(topology.mesh == "m" && topology.state == "joined")
        let explanation: ExplanationDocument = try stage.get("/v1/mesh/explain?topic=a/b")
        #expect(explanation.topic == "a/b" && explanation.local == 1)
        let trace: TraceDocument = try stage.get("/v1/mesh/trace?topic=a%2Fb")
        #expect(trace.topic == "a/b" && trace.local == 2)
        for wrong in ["", "?topic=", "?topic=a/%2B", "?topic=%23"] {
            #expect(try stage.ask("GET", "/v1/mesh/explain\(wrong)").status == 400, "\(wrong)")
            #expect(try stage.ask("GET", "/v1/mesh/trace\(wrong)").status == 400, "\(wrong)")
        }
    }

    @Test func sharesOfGroupsWithWeightsAreSaid() throws {
        let plain = ExplanationDocument.Group(filter: "$share/g/t", localMembers: 2, nodes: ["b"])
        #expect(plain.shares == nil)
        let weighted = ExplanationDocument.Group(
            filter: "$share/g/t", localMembers: 3, nodes: ["b", "c"],
            localWeights: [.init(weight: 100, members: 2), .init(weight: 0, members: 1)], nodeWeights: [180, 20])
        #expect(
            weighted.shares == [
                "members here: 50.0 % (200 of 400): 2 of weight 100, 1 of weight 0",
                "members at b: 45.0 % (180 of 400)", "members at c: 5.0 % (20 of 400)",
            ])
        let elsewhere = ExplanationDocument.Group(
            filter: "$share/g/t", localMembers: 0, nodes: ["b", "c"], localWeights: [], nodeWeights: [1, 2])
        #expect(elsewhere.shares == ["members at b: 33.3 % (1 of 3)", "members at c: 66.7 % (2 of 3)"])
        // What another version may say.
        var odd = elsewhere
        odd.nodeWeights = [0, 0]
        #expect(odd.shares == nil)
        odd.nodeWeights = [1]
        #expect(odd.shares == nil)
        odd.nodeWeights = [.max, .max]
        #expect(odd.shares == nil)
    }

    @Test func theMeshIsSortedForPeople() throws {
        func node(_ name: String, _ neighbours: [String]) -> TopologyDocument.Node {
            TopologyDocument.Node(
                id: name + "-id", name: name, shortID: 1, reachable: true, distance: 1, via: nil, transit: true,
                draining: false, addresses: [], ageMilliseconds: 1, filters: 0,
                neighbours: neighbours.map { .init(id: $0 + "-id", name: $0, cost: 10, twoWay: true) })
        }
        func link(_ peer: String, _ name: String?) -> TopologyDocument.Link {
            TopologyDocument.Link(
                peer: peer, name: name, state: "up", cost: 10, roundTripMicroseconds: 1, framesOut: 0, framesIn: 0,
                bytesOut: 0, bytesIn: 0, controlBytesOut: 0, controlBytesIn: 0, waitingBytes: 0, dropped: 0)
        }
        let told = TopologyDocument(
            node: "b", id: "b-id", mesh: "m", state: "joined",
            nodes: [node("b", ["c", "a"]), node("c", ["b", "a"]), node("a", ["c", "b"])],
            links: [link("c", "radio"), link("c", nil), link("a", nil)])
        let sorted = told.sorted
        #expect(sorted.nodes.map(\.name) == ["a", "b", "c"])
        #expect(sorted.nodes.map { $0.neighbours.map(\.name) } == [["b", "c"], ["a", "c"], ["a", "b"]])
        #expect(sorted.links.map(\.peer) == ["a", "c", "c"] && sorted.links.map(\.name) == [nil, nil, "radio"])
        #expect(sorted.sorted == sorted)
    }

    @Test func activeTopicsAreListed() throws {
        let stage = try AdminStage(mesh: PaperMesh())
        let all: MeshTopicsDocument = try stage.get("/v1/mesh/topics")
        #expect(all.topics.map(\.topic) == ["#"] && all.topics[0].nodes[0].subscriptions == 100)
        #expect(all.noAnswer == ["b"])
        let some: MeshTopicsDocument = try stage.get("/v1/mesh/topics?filter=a/%2B&limit=7")
        #expect(some.topics == [.init(topic: "a/+", nodes: [.init(node: "a", published: true, subscriptions: 7)])])
        for wrong in ["filter=a%23", "filter=", "filter=$share/g/a", "filter=$local/a", "limit=0", "limit=1001"] {
            #expect(try stage.ask("GET", "/v1/mesh/topics?\(wrong)").status == 400, "\(wrong)")
        }
    }

    @Test func aNodeInNoMeshSaysSo() throws {
        let stage = try AdminStage()
        for method in ["GET", "PUT", "DELETE"] {
            let answer = try stage.ask(method, "/v1/mesh/links?to=a:1")
            #expect(answer.status == 409 && answer.body.contains("in no mesh"), "\(answer)")
        }
        for path in ["topology", "explain?topic=a", "trace?topic=a", "topics"] {
            #expect(try stage.ask("GET", "/v1/mesh/\(path)").status == 409, "\(path)")
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
