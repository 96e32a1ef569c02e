import Testing

@testable import Mesh

/// Handshakes and the life of links.
@Suite struct LinkTests {
    @Test func twoNodesFindEachOther() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        field.run(400)
        #expect(a.node.links.count == 1 && a.node.links.allSatisfy { $0.isUp })
        #expect(b.node.links.count == 1 && b.node.links.allSatisfy { $0.isUp })
        #expect(a.node.links.first?.nonce == b.node.links.first?.nonce)
    }

    @Test func bothDialAndOneLinkStays() {
        let field = MeshField()
        let a = field.start("a:1", links: ["b:1"])
        let b = field.start("b:1", links: ["a:1"])
        field.run(3_000)
        #expect(a.node.links.count == 1 && b.node.links.count == 1)
        #expect(a.ends(to: b).count == 2, "a control and a data connection")
        let dials = a.dialCount + b.dialCount
        field.run(20_000)
        #expect(a.dialCount + b.dialCount == dials, "nobody dials again")
    }

    @Test(arguments: [
        ("another mesh", "mesh.id"), ("no secret", "mesh.secret"), ("wrong secret", "mesh.secret"),
    ])
    func whoDoesNotBelongIsToldWhy(_ difference: String, _ word: String) {
        let field = MeshField()
        let a = field.start("a:1", links: []) {
            $0.secret = difference == "another mesh" ? nil : "correct horse battery"
        }
        let b = field.start("b:1", links: ["a:1"]) {
            if difference == "another mesh" { $0.meshID = "other" }
            if difference == "wrong secret" { $0.secret = "another secret altogether" }
        }
        field.run(30_000)
        #expect(a.node.links.isEmpty && b.node.links.isEmpty)
        #expect(a.lines.contains { $0.contains(word) }, "\(a.lines)")
        #expect(b.lines.contains { $0.contains(word) }, "\(b.lines)")
        #expect(b.dialCount < 15, "no storm: \(b.dialCount)")
        #expect(b.lines.count < 5, "and no flood of the log: \(b.lines)")
    }

    @Test func aSecretThatBothKnowOpensTheDoor() {
        let field = MeshField()
        let a = field.start("a:1", links: []) { $0.secret = "correct horse battery" }
        field.start("b:1", links: ["a:1"]) { $0.secret = "correct horse battery" }
        field.run(400)
        #expect(a.node.links.count == 1 && a.node.links.allSatisfy { $0.isUp })
    }

    @Test func aBrokenLinkComesBack() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        field.run(400)
        field.cut(a, b)
        field.run(5)
        #expect(a.node.links.isEmpty || a.node.links.allSatisfy { !$0.isUp })
        field.run(600)
        #expect(a.node.links.count == 1 && a.node.links.allSatisfy { $0.isUp })
        #expect(b.node.links.count == 1 && b.node.links.allSatisfy { $0.isUp })
    }

    @Test func silenceEndsALink() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        field.run(1_000)
        for end in a.ends(to: b) { end.isSilent = true }
        field.run(250)
        #expect(b.node.links.allSatisfy { $0.isUp })
        field.run(300)
        #expect(b.node.counters.silences == 1)
    }

    @Test func aNodeThatDialsItselfStops() {
        let field = MeshField()
        let a = field.start("a:1", links: ["a:1"])
        field.run(20_000)
        #expect(a.node.links.isEmpty)
        #expect(a.dialCount == 1)
    }

    @Test func aRestartedNodeTakesItsPlaceAgain() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        var b = field.start("b:1", links: ["a:1"])
        field.run(500)
        field.kill(b)
        b = field.start("b:1", links: ["a:1"])
        field.run(700)
        #expect(a.node.links.count == 1 && a.node.links.allSatisfy { $0.isUp })
        #expect(b.node.links.count == 1)
    }

    @Test func aCloneIsRefused() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"], id: 77)
        field.run(1_000)
        let clone = field.start("c:1", links: ["a:1"], id: 77)
        field.run(5_000)
        #expect(clone.node.links.isEmpty)
        #expect(clone.lines.contains { $0.contains("data directory") }, "\(clone.lines)")
        #expect(b.node.links.count == 1 && b.node.links.allSatisfy { $0.isUp })
        #expect(a.node.links.count == 1)
    }
}
