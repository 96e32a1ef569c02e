import Core
import Testing

@testable import Mesh

/// What an operator sees: active topics over the mesh, numbers, convergence.
@Suite struct SeeingTests {
    private func line(_ field: MeshField) -> [MeshField.Station] {
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        let c = field.start("c:1", links: ["b:1"])
        field.run(1_500)
        return [a, b, c]
    }

    private func topics(
        _ field: MeshField, at station: MeshField.Station, _ filter: String = "#", limit: Int = 100,
        milliseconds: Int = 100
    ) throws -> MeshTopics? {
        var found: MeshTopics?
        station.node.topics(try TopicFilter(filter, grammar: .mqtt), limit: limit) { found = $0 }
        field.run(milliseconds)
        return found
    }

    @Test func activeTopicsOfAllNodesAreMerged() throws {
        let field = MeshField()
        let stations = line(field)
        let listener = try stations[2].subscribe("x/#", "+/1")
        field.run(100)
        stations[0].publish("x/1", "")
        stations[2].publish("y", "")
        field.run(20)
        #expect(listener.heard.count == 1)
        for station in stations {
            let found = try #require(try topics(field, at: station))
            #expect(found.silent.isEmpty && !found.isTruncated)
            #expect(
                found.topics == [
                    MeshTopics.Topic(
                        topic: "x/1",
                        places: [
                            .init(node: "a:1", isPublished: true, subscriptions: 0),
                            .init(node: "c:1", isPublished: false, subscriptions: 2),
                        ]),
                    MeshTopics.Topic(topic: "y", places: [.init(node: "c:1", isPublished: true, subscriptions: 0)]),
                ])
        }
        let some = try #require(try topics(field, at: stations[1], "x/#"))
        #expect(some.topics.map(\.topic) == ["x/1"] && !some.isTruncated)
        let first = try #require(try topics(field, at: stations[1], limit: 1))
        #expect(first.topics.map(\.topic) == ["x/1"] && first.isTruncated)
    }

    @Test func manyTopicsComeInPartsAndTheFirstOfThemAreNamed() throws {
        let field = MeshField()
        let stations = line(field)
        let long = String(repeating: "l", count: 200)
        for number in 0..<1_500 { stations[2].publish("t/\(10_000 + number)/\(long)", "") }
        field.run(10)
        let found = try #require(try topics(field, at: stations[0], limit: 1_000, milliseconds: 900))
        #expect(found.silent.isEmpty && found.isTruncated)
        #expect(found.topics.count == 1_000)
        #expect(found.topics.first?.topic == "t/10000/\(long)" && found.topics.last?.topic == "t/10999/\(long)")
    }

    @Test func whoDoesNotAnswerIsNamed() throws {
        let field = MeshField()
        let stations = line(field)
        stations[0].publish("x", "")
        for end in stations[1].ends(to: stations[2]) + stations[2].ends(to: stations[1]) { end.isSilent = true }
        var found: MeshTopics?
        stations[0].node.topics(try TopicFilter("#", grammar: .mqtt), limit: 10) { found = $0 }
        field.run(500)
        #expect(found == nil)
        field.run(600)
        #expect(found?.silent == ["c:1"] && found?.topics.map(\.topic) == ["x"])
    }

    @Test func inquiriesAreBounded() throws {
        let field = MeshField()
        let stations = line(field)
        var answers: [MeshTopics] = []
        for _ in 0..<100 {
            stations[0].node.topics(try TopicFilter("#", grammar: .mqtt), limit: 10) { answers.append($0) }
        }
        field.run(1_100)
        #expect(answers.count == 100)
        #expect(answers.count { $0.silent.isEmpty } == Inquiries.maxUnderWay)
        #expect(answers.first { !$0.silent.isEmpty }?.silent == ["a:1", "b:1", "c:1"])
    }

    @Test func framesForNobodyAreCounted() throws {
        let field = MeshField()
        let stations = line(field)
        let listener = try stations[1].subscribe("x")
        field.run(100)
        let other = try stations[2].subscribe("x")
        field.run(100)
        stations[0].publish("x", "")
        field.run(20)
        #expect(listener.heard.count == 1 && other.heard.count == 1)
        #expect(stations.allSatisfy { $0.node.counters.staleInterest == 0 })
        // The other nodes do not know yet.
        stations[1].router.unregister(listener, on: stations[1].lane)
        stations[0].publish("x", "")
        field.run(10)
        #expect(other.heard.count == 2)
        #expect(stations.map { $0.node.counters.staleInterest } == [0, 1, 0])
    }

    @Test func countersOfALinkOutliveIt() throws {
        let field = MeshField()
        let stations = line(field)
        let listener = try stations[2].subscribe("x")
        field.run(100)
        for _ in 0..<10 { stations[0].publish("x", "") }
        field.run(10)
        #expect(listener.heard.count == 10)
        let before = stations[1].node.statistics()
        #expect(before.links.map(\.peer) == ["a:1", "c:1"] && before.links.allSatisfy(\.isUp))
        #expect(before.links[1].framesOut == 10 && before.links[1].bytesOut > 0)
        // Both came up at once, or one after the other.
        let ups = before.convergence.count
        #expect((1...2).contains(ups))
        field.kill(stations[2])
        field.run(5)
        let gone = stations[1].node.statistics()
        #expect(gone.links.map(\.peer) == ["a:1", "c:1"] && gone.links.map(\.isUp) == [true, false])
        #expect(gone.links[1].framesOut == 10)
        #expect(gone.nodes.first { $0.name == "c:1" }?.isReachable == false)
        #expect(gone.convergence.count == ups + 1 && gone.convergence.sum <= before.convergence.sum + 3_000)
        field.start("c:1", links: ["b:1"])
        field.run(2_000)
        let again = stations[1].node.statistics()
        #expect(again.links.map(\.isUp) == [true, true] && again.links[1].framesOut >= 10)
        #expect(again.convergence.count == ups + 2)
        #expect(again.ended.first { $0.name == "wrong_mesh" }?.value == 0)
    }

    /// The management interface has a line of help for each of these, and the reference describes them.
    @Test func whatIsCountedHasItsNames() {
        let field = MeshField()
        let statistics = field.start("a:1", links: []).node.statistics()
        #expect(
            statistics.counts.map(\.name).sorted() == [
                "advertisements_refused", "events_received", "events_sent", "filters_refused", "frames_held",
                "frames_missing", "frames_parked", "frames_transit", "interest_bytes_sent", "interest_repairs",
                "retained_received", "retained_refused", "retained_sent", "retained_taken", "route_computations",
                "session_bytes_sent", "session_claims", "silences", "stream_frames_resent", "stream_frames_sent",
                "stream_publishers_held", "weights_malformed", "weights_untold",
            ])
        #expect(
            statistics.ended.count == ByeReason.allCases.count
                && Set(statistics.ended.map(\.name)).count == ByeReason.allCases.count)
    }

    @Test func anIdleNodeSleeps() {
        let field = MeshField()
        let stations = line(field)
        field.run(3_000)
        var awake = 0
        for _ in 0..<1_000 {
            field.run(1)
            if stations[1].node.alarm.at <= field.now + 1 { awake += 1 }
        }
        // Two links with ten hellos a second, and what is put off for a moment.
        #expect(awake < 200)
    }

    @Test func convergenceIsCountedByBucket() {
        var convergence = Convergence()
        convergence.changed(at: 100, computations: 1)
        convergence.changed(at: 900, computations: 1)
        convergence.settled(at: 1_600)
        convergence.settled(at: 9_999_999)
        #expect(convergence.statistics.count == 1 && convergence.statistics.counts[1] == 1)
        #expect(convergence.statistics.sum == 1_500)
        // Nothing had to follow.
        convergence.changed(at: 2_000, computations: 2)
        convergence.forget(computations: 2, isSettled: true)
        convergence.forget(computations: 3, isSettled: false)
        convergence.forget(computations: 3, isSettled: true)
        convergence.settled(at: 60_000_000)
        #expect(convergence.statistics.count == 1)
        convergence.changed(at: 0, computations: 3)
        convergence.settled(at: 60_000_000)
        #expect(convergence.statistics.counts.last == 1)
    }

    @Test func heldFramesAreBoundedAndEachIsCountedOnce() {
        var order = ArrivalOrder()
        #expect(order.judge(1, isUnrest: true, hasRoom: true) == .deliver)
        #expect(order.judge(4, isUnrest: true, hasRoom: true) == .hold)
        order.hold(4, [0, 0, 0], until: 100)
        #expect(order.judge(4, isUnrest: false, hasRoom: true) == .late, "held already")
        #expect(order.judge(6, isUnrest: false, hasRoom: true) == .hold, "behind one that is held")
        order.hold(6, [0, 0], until: 100)
        #expect(order.heldBytes == 5)
        // No room: it goes on, and what is held and older will never be in order again.
        #expect(order.judge(5, isUnrest: true, hasRoom: false) == .deliver)
        var late: UInt64 = 0
        #expect(order.takeHeld(now: 0, late: &late)?.counter == 6)
        #expect(late == 1 && order.heldBytes == 0 && order.held.isEmpty)
        #expect(order.missing == 3)
    }
}
