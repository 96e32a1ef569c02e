import Testing

@testable import Mesh

/// Whole nodes: routes, interest and events.
@Suite struct NodeTests {
    @Test func aLineOfThreeKnowsItsWays() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        let c = field.start("c:1", links: ["b:1"])
        field.run(1_500)
        #expect(a.node.linkState.routes.isReachable(a.node.nodes.known(c.node.identity.id) ?? 99))
        #expect(c.node.linkState.routes.isReachable(c.node.nodes.known(a.node.identity.id) ?? 99))
        #expect(b.node.nodes.entries.allSatisfy { $0.shortID != 0 })
        #expect(a.node.linkState.digest == c.node.linkState.digest)
        #expect(a.node.isJoined && b.node.isJoined && c.node.isJoined)
    }

    @Test func anEventCrossesTwoLinks() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        let c = field.start("c:1", links: ["b:1"])
        field.run(1_500)
        let listener = try c.subscribe("x/#")
        field.run(100)
        for number in 0..<10 { a.publish("x/1", "\(number)") }
        a.publish("y", "nobody wants it")
        field.run(10)
        #expect(listener.heard == (0..<10).map(String.init))
        #expect(b.node.counters.transit == 10)
        #expect(a.node.counters.noRoute == 0 && b.node.counters.staleInterest == 0)
    }
}
