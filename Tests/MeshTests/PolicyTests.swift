import Testing

@testable import Core
@testable import Mesh

/// What must not cross a link does not, in no frame and in neither direction, and everything else goes on.
@Suite struct PolicyTests {
    private func numbers(_ range: Range<Int>) -> [String] { range.map(String.init) }

    @Test func directEventsStayInside() throws {
        let border = Border()
        let far = try border.c.subscribe("#")
        let near = try border.a.subscribe("#")
        border.field.run(100)
        for number in 0..<20 {
            border.a.publish(Border.topic, Border.payload)
            border.a.publish("ok/\(number)", "\(number)")
            border.c.publish(Border.topic, Border.payload)
            border.c.publish("ok/c", "c\(number)")
        }
        border.field.run(100)
        #expect(far.heard.filter { !$0.hasPrefix("c") && $0 != Border.payload } == numbers(0..<20))
        #expect(near.heard.count { $0.hasPrefix("c") } == 20 && near.heard.count { $0 == Border.payload } == 20)
        #expect(border.leaks.isEmpty && border.bytesSeen > 1_000, "\(border.leaks)")
        #expect(border.kept(border.a) == 20 && border.kept(border.b) == 20)
        #expect(border.a.records.contains { $0.action == "export" && $0.object == Border.topic })
        let dropped = border.a.node.statistics().dropped.first { $0.name == "policy_out" }
        #expect(dropped?.value == 20)
    }

    @Test(arguments: [UInt8(1), 2])
    func streamsGoOnWithoutWhatStaysInside(_ qos: UInt8) throws {
        let border = Border()
        let far = try border.c.subscribe("#")
        let near = try border.a.subscribe("#")
        border.field.run(100)
        let large = String(repeating: Border.payload, count: 20_000)
        for number in 0..<60 {
            border.a.publish("ok/1", "\(number)", qos: qos)
            border.a.publish(Border.topic, number == 7 ? large : Border.payload, qos: qos)
            border.c.publish(Border.topic, Border.payload, qos: qos)
            border.c.publish("ok/2", "c\(number)", qos: qos)
            if number == 30 { border.cut() }
            border.field.run(3)
        }
        border.field.run(3_000)
        #expect(far.heard.filter { Int($0) != nil } == numbers(0..<60))
        #expect(near.heard.filter { $0.hasPrefix("c") } == (0..<60).map { "c\($0)" })
        #expect(border.leaks.isEmpty, "\(border.leaks.prefix(4))")
        #expect(border.kept(border.a) >= 60 && border.kept(border.b) >= 60)
        for station in [border.a, border.b, border.c] {
            #expect(station?.node.streams.spool.count == 0, "nothing is sent again for ever")
        }
        let resent = border.a.node.streams.counters.framesResent
        border.field.run(20_000)
        #expect(border.a.node.streams.counters.framesResent == resent)
    }

    @Test func largeEventsPassOrStayAsAWhole() throws {
        let border = Border()
        let far = try border.c.subscribe("#")
        border.field.run(100)
        let fine = String(repeating: "fine-", count: 50_000)
        for qos in [UInt8(0), 1] {
            border.a.publish("ok/large", fine, qos: qos)
            border.a.publish(Border.topic, String(repeating: Border.payload, count: 20_000), qos: qos)
        }
        border.field.run(500)
        #expect(far.heard.map(\.count) == [fine.count, fine.count])
        #expect(border.leaks.isEmpty && border.c.node.counters.incomplete == 0)
        #expect(border.kept(border.a) == 2, "a large one counts once: \(border.kept(border.a))")
    }

    @Test func sharesStayInsideAndTheGroupGoesOn() throws {
        let border = Border()
        let far = try border.c.subscribe("$share/g/#")
        border.field.run(200)
        for number in 0..<20 {
            border.a.publish(Border.topic, Border.payload, qos: 1)
            border.a.publish("ok/1", "\(number)", qos: 1)
            border.a.publish(Border.topic, Border.payload)
        }
        border.field.run(1_000)
        #expect(far.heard == numbers(0..<20))
        #expect(border.leaks.isEmpty && border.a.node.streams.spool.count == 0)
    }

    @Test func retainedEventsAreComparedWithoutThem() throws {
        let border = Border()
        border.a.publish("ok/1", "one", isRetained: true)
        border.a.publish(Border.topic, Border.payload, isRetained: true)
        border.a.publish("de/more", Border.payload, qos: 1, isRetained: true)
        border.c.publish("de/other", Border.payload, isRetained: true)
        border.field.run(300)
        #expect(border.retained("ok/1", at: border.c) == "one" && border.retained(Border.topic, at: border.c) == nil)
        // The link is away meanwhile; then everything is compared.
        border.part()
        border.a.publish("ok/2", "two", isRetained: true)
        border.a.publish("ok/1", "", isRetained: true)
        border.a.publish(Border.topic, Border.payload + "2", isRetained: true)
        border.c.publish("ok/3", "three", isRetained: true)
        border.heal()
        for station in [border.a, border.b, border.c] {
            #expect(border.retained("ok/2", at: try #require(station)) == "two")
            #expect(border.retained("ok/3", at: try #require(station)) == "three")
            #expect(border.retained("ok/1", at: try #require(station)) == nil)
        }
        #expect(border.retained("de/other", at: border.a) == nil && border.retained("de/more", at: border.b) == nil)
        #expect(border.retained("de/more", at: border.a) != nil && border.retained("de/other", at: border.b) != nil)
        #expect(border.leaks.isEmpty, "\(border.leaks)")
        // What differs for good is no reason to go on comparing, not even while it changes.
        let rounds = [border.a, border.b].map { $0?.node.retained.counters.rounds }
        for number in 0..<100 {
            border.a.publish(Border.topic, "\(Border.payload) \(number)", isRetained: true)
            border.field.run(1_000)
        }
        #expect([border.a, border.b].map { $0?.node.retained.counters.rounds } == rounds)
        #expect(border.leaks.isEmpty)
    }

    @Test func anEdgeGivesWhatItMayAndTakesWhatItMay() throws {
        var edge = LinkPolicy(peers: ["*"])
        edge.export.allow = Border.filters("tele/>")
        edge.import.allow = Border.filters("cmd/#")
        let field = MeshField()
        let hub = field.start("hub:1", links: [])
        for number in 0..<500 {
            hub.publish("cmd/\(number)", "\(number)", isRetained: true)
            hub.publish("tele/hub/\(number)", "x", isRetained: true)
        }
        let node = field.start("edge:1", links: ["hub:1"]) { $0.policies = [edge] }
        node.publish("tele/1", "t", isRetained: true)
        node.publish("own/1", "o", isRetained: true)
        field.run(3_000)
        #expect(node.router.retainedCount == 502 && hub.router.retainedCount == 1_001)
        let rounds = node.node.retained.counters.rounds + hub.node.retained.counters.rounds
        hub.publish("cmd/7", "", isRetained: true)
        node.publish("tele/2", "t", qos: 1, isRetained: true)
        node.publish("cmd/8", "not from there", isRetained: true)
        field.run(200_000)
        #expect(node.router.retainedCount == 502 && hub.router.retainedCount == 1_001)
        let more = node.node.retained.counters.rounds + hub.node.retained.counters.rounds - rounds
        #expect(more < 4, "\(more) comparisons of what may differ")
    }

    @Test func sessionsStayWhereTheyAre() throws {
        let border = Border()
        let first = BorderClient(border.a, "walker")
        first.subscribe("#")
        border.field.run(200)
        first.disconnect()
        border.field.run(50)
        border.a.publish(Border.topic, Border.payload, qos: 1)
        border.a.publish("ok/1", "queued", qos: 1)
        border.field.run(100)
        let second = BorderClient(border.c, "walker")
        let before = border.field.now
        while second.isPresent == nil, border.field.now < before + 5_000 { border.field.run(10) }
        #expect(second.isPresent == false, "it goes on without its session")
        #expect(border.field.now - before < 1_000, "at once: \(border.field.now - before) ms")
        border.field.run(5_000)
        #expect(border.leaks.isEmpty, "\(border.leaks)")
        #expect(!second.hasHeard("queued"))
        // At home everything is still there.
        let third = BorderClient(border.a, "walker")
        border.field.run(3_000)
        #expect(third.isPresent == true && third.hasHeard(Border.payload) && third.hasHeard("queued"))
        #expect(border.leaks.isEmpty, "\(border.leaks)")
    }

    @Test func sessionsMoveWhereThereIsNoPolicy() throws {
        let border = Border(a: { _ in }, b: { _ in })
        let first = BorderClient(border.a, "walker")
        first.subscribe("#")
        border.field.run(200)
        first.disconnect()
        border.field.run(50)
        border.a.publish(Border.topic, Border.payload, qos: 1)
        border.field.run(100)
        let second = BorderClient(border.c, "walker")
        border.field.run(3_000)
        #expect(second.isPresent == true && second.hasHeard(Border.payload))
        #expect(!border.leaks.isEmpty, "whoever looks at the border sees it")
    }

    @Test func listingsLeaveThemOut() throws {
        let border = Border()
        border.a.publish(Border.topic, "x")
        border.a.publish("ok/1", "x")
        border.c.publish("ok/2", "x")
        border.field.run(100)
        for (station, expected) in [(border.c, ["ok/1", "ok/2"]), (border.a, [Border.topic, "ok/1", "ok/2"])] {
            var found: MeshTopics?
            try #require(station).node.topics(try TopicFilter("#", grammar: .mqtt), limit: 100) { found = $0 }
            border.field.run(200)
            #expect(found?.topics.map(\.topic) == expected && found?.silent == [])
        }
        var trace: MeshTrace?
        _ = try border.c.subscribe("#")
        border.field.run(100)
        border.a.node.trace(Border.topic) { trace = $0 }
        border.field.run(1_200)
        #expect(trace?.paths.count == 1 && border.leaks.isEmpty, "\(border.leaks)")
        let explanation = border.a.node.explain(Border.topic)
        #expect(explanation.nodes.first?.problem.contains("mesh.policies") == true && explanation.links.isEmpty)
        #expect(border.a.node.explain("ok/1").nodes.first?.problem == "")
    }

    @Test func whatMayNotComeInGoesNoFurther() throws {
        var policy = LinkPolicy(peers: ["a:1"])
        policy.import.deny = Border.filters("de/#")
        let border = Border(a: { _ in }, b: { $0.policies = [policy] })
        let (middle, far) = (try border.b.subscribe("#"), try border.c.subscribe("#"))
        border.field.run(100)
        for number in 0..<20 {
            border.a.publish(Border.topic, Border.payload, qos: UInt8(number % 3))
            border.a.publish("ok/1", "\(number)", qos: 1)
            border.a.publish("de/kept\(number)", "x", qos: 1, isRetained: true)
        }
        border.field.run(2_000)
        #expect(middle.heard == numbers(0..<20) && far.heard == middle.heard)
        #expect(border.b.router.retainedCount == 0 && border.c.router.retainedCount == 0)
        #expect(border.kept(border.b) >= 40 && border.a.node.streams.spool.count == 0)
        // A session that waits on the other side of it stays there: what is in it may not come in.
        let first = BorderClient(border.a, "walker")
        first.subscribe("#")
        border.field.run(100)
        let second = BorderClient(border.c, "walker")
        border.field.run(1_000)
        #expect(second.isPresent == false)
    }

    @Test func moreThanTheRateIsDropped() throws {
        var policy = LinkPolicy(peers: ["*"])
        policy.export.rate = 50
        let border = Border(a: { $0.policies = [policy] }, b: { _ in })
        let far = try border.c.subscribe("#")
        border.field.run(100)
        for number in 0..<1_000 {
            border.a.publish("ok", "direct")
            if number % 10 == 0 { border.a.publish("ok", "\(number / 10)", qos: 1) }
            border.field.run(2)
        }
        border.field.run(1_000)
        #expect(far.heard.filter { Int($0) != nil } == numbers(0..<100), "guaranteed ones all pass")
        let direct = far.heard.count { $0 == "direct" }
        #expect((50...150).contains(direct), "\(direct)")
        #expect(border.kept(border.a) == UInt64(1_000 - direct))
        #expect(border.a.records.count <= 3, "one a second: \(border.a.records.count)")
    }

    /// Events come in runs; whatever their length, the rate holds for them.
    @Test(arguments: [1, 7, 50, 51, 400, 2_000, 65_535])
    func theRateHoldsForRunsOfAnyLength(_ length: Int) {
        let (perSecond, seconds) = (50, 4_000)
        var rate = EventRate(perSecond: perSecond, now: 7)
        var passed = 0
        for step in 0...seconds * 10 {
            while rate.take(length, now: 7 + UInt64(step) * 100) { passed += length }
        }
        let due = perSecond * seconds
        #expect((due...due + perSecond + length).contains(passed), "a burst of a second's events, and one run")
    }

    /// A guaranteed run passes in any case: direct events do not wait until it is paid for.
    @Test func guaranteedRunsLeaveNoDebt() {
        var direction = LinkPolicy.Direction()
        direction.rate = 50
        let gate = TopicGate(direction, hashKey: 1, now: 0)
        func passes(_ events: Int, isGuaranteed: Bool = false, at now: UInt64) -> Bool {
            gate.judge(nil, events: events, isGuaranteed: isGuaranteed, now: now) == .pass
        }
        #expect(passes(2_000, isGuaranteed: true, at: 0) && !passes(1, at: 19) && passes(1, at: 20))
        #expect(passes(2_000, at: 40) && !passes(1, at: 40_039) && passes(1, at: 40_040))
        #expect(passes(2_000, isGuaranteed: true, at: 40_040))
        // After a long silence there is one second's worth.
        #expect((0..<60).count { _ in passes(1, at: .max) } == 50)
    }

    @Test func theFirstPolicyForAPeerCounts() {
        var (open, closed) = (LinkPolicy(peers: ["b:1", "c:1"]), LinkPolicy(peers: ["*"]))
        closed.export.deny = Border.filters("#")
        open.export.deny = Border.filters("x")
        func admits(_ name: String, _ topic: String) -> Bool? {
            let gate = LinkGate.of([open, closed], NodeID(high: 1, low: 2), name, hashKey: 1, now: 0)
            return Array(topic.utf8).withUnsafeBytes { gate?.export.admits($0) }
        }
        #expect(admits("b:1", "y") == true && admits("b:1", "x") == false && admits("d:1", "y") == false)
        #expect(LinkGate.of([open], NodeID(high: 1, low: 2), "d:1", hashKey: 1, now: 0) == nil)
        open.peers = ["00000000000000010000000000000002"]
        #expect(admits("d:1", "y") == true)
    }
}
