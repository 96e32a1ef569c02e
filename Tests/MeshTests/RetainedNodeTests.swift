import Testing

@testable import Core
@testable import Mesh

/// Retained events of whole nodes, over real links.
@Suite struct RetainedNodeTests {
    private func value(_ topic: String, at station: MeshField.Station) -> String? {
        Array(topic.utf8).withUnsafeBytes { station.router.retained($0, now: station.lane.now) }
            .map { String(decoding: $0.payload, as: UTF8.self) }
    }

    @Test func aRetainedEventIsKeptEverywhereWhoeverSubscribes() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        let c = field.start("c:1", links: ["b:1"])
        field.run(1_500)
        let listener = try c.subscribe("x/#")
        field.run(100)
        a.publish("x/1", "direct", isRetained: true)
        a.publish("x/2", "sure", qos: 1, isRetained: true)
        field.run(50)
        for station in [a, b, c] {
            #expect(value("x/1", at: station) == "direct" && value("x/2", at: station) == "sure")
        }
        #expect(listener.heard.sorted() == ["direct", "sure"])
        #expect(a.node.retained.digest == c.node.retained.digest && a.node.retained.digest == b.node.retained.digest)
    }

    @Test func aNodeThatComesLaterGetsWhatWasThere() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        for number in 0..<300 { a.publish("x/\(number)", "\(number)", isRetained: true) }
        let b = field.start("b:1", links: ["a:1"])
        let listener = try b.subscribe("#")
        field.run(3_000)
        #expect(b.router.retainedCount == 300 && listener.heard.count == 300)
        #expect(a.node.retained.digest == b.node.retained.digest)
        // And again after its next start.
        field.kill(b)
        let again = field.start("b:1", links: ["a:1"])
        field.run(3_000)
        #expect(again.router.retainedCount == 300)
        #expect(again.lines.allSatisfy { !$0.contains("retained") })
    }

    @Test func whatIsDeletedDuringAPartitionStaysDeleted() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        field.run(1_500)
        for number in 0..<20 { a.publish("x/\(number)", "1", isRetained: true) }
        field.run(100)
        #expect(b.router.retainedCount == 20)
        let listener = try b.subscribe("x/#")
        for pass in 0..<500 {
            field.cut(a, b)
            if pass == 100 { for number in 0..<10 { a.publish("x/\(number)", "", isRetained: true) } }
            if pass == 200 { for number in 10..<15 { b.publish("x/\(number)", "2", isRetained: true) } }
            field.run(1)
        }
        #expect(b.router.retainedCount == 20 && a.router.retainedCount == 10)
        let topic = Array("x/19".utf8)
        #expect(topic.withUnsafeBytes { a.router.removeRetained($0) })
        field.run(8_000)
        #expect(a.router.retainedCount == 9 && b.router.retainedCount == 9)
        #expect(value("x/12", at: a) == "2" && value("x/3", at: b) == nil && value("x/19", at: b) == nil)
        // Its own five, and ten that have gone; of what management removed nobody is told.
        #expect(listener.heard.sorted() == Array(repeating: "", count: 10) + Array(repeating: "2", count: 5))
        #expect(a.node.retained.digest == b.node.retained.digest)
    }
}
