import Core
import TestSupport
import Testing

@testable import Mesh

/// Weights of members of shared groups over several nodes, and how nodes tell each other.
@Suite struct WeightTests {
    private static let weights = [
        GroupWeight(key: 1, sum: 0, isSaid: true), GroupWeight(key: 0x0102_0304_0506_0708, sum: 100, isSaid: false),
        GroupWeight(key: .max, sum: .max, isSaid: true),
    ]

    // MARK: The extension

    @Test func theExtensionIsTheseBytes() {
        let bytes: [UInt8] = [
            1, 0, 9 + 10 + 13,
            1, 0, 0, 0, 0, 0, 0, 0, 1,
            8, 7, 6, 5, 4, 3, 2, 1, 0xC8, 0x01,
            0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F,
        ]
        #expect(AdvertisedWeights.extensionBytes(Self.weights) == bytes)
        #expect(AdvertisedWeights.read(bytes) == Self.weights)
        // Among others that are not known here.
        #expect(AdvertisedWeights.read([9, 0, 2, 1, 2] + bytes + [9, 0, 0]) == Self.weights)
        #expect(AdvertisedWeights.extensionBytes([]) == [] && AdvertisedWeights.read([]) == [])
        #expect(AdvertisedWeights.read([9, 0, 1, 1]) == [])
    }

    @Test func asManyAsThereMayBeFit() {
        let many = (0..<100).map { GroupWeight(key: .max - 100 + $0, sum: .max, isSaid: true) }
        let bytes = AdvertisedWeights.extensionBytes(many)
        #expect(AdvertisedWeights.read(bytes) == Array(many.prefix(AdvertisedWeights.maxGroups)))
        #expect(bytes.count <= Advertisement.maxExtensionBytes)
    }

    /// Each with what is wrong.
    static let malformed: [(String, [UInt8])] = [
        ("ends in a key", [1, 0, 4, 1, 2, 3, 4]),
        ("has no sum", [1, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("ends in a sum", [1, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0x80]),
        ("a sum that is too large", [1, 0, 13, 1, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x3F]),
        ("twice the same", [1, 0, 18] + Array(repeatElement([1, 0, 0, 0, 0, 0, 0, 0, 1], count: 2).joined())),
        ("not in order", [1, 0, 18, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
        ("there twice", [1, 0, 0, 1, 0, 0]),
        (
            "too many",
            [1, 0, 0xC9, 0x04] + (0..<65).flatMap { [UInt8($0), 0, 0, 0, 0, 0, 0, 0, 1] }
        ),
    ]

    @Test(arguments: malformed) func aMalformedOneIsLeftOut(_ what: String, _ bytes: [UInt8]) {
        #expect(AdvertisedWeights.read(bytes) == nil, "\(what)")
        // The advertisement is as good as without it, and goes on with it.
        let node = LinkStateTests.node()
        node.establish(1, to: LinkStateTests.id(1))
        node.establish(2, to: LinkStateTests.id(2))
        node.sent = []
        var advertisement = LinkStateTests.advertisement(of: 3)
        advertisement.extensions = bytes
        #expect(node.receive(advertisement.frame(), from: 1) == nil)
        #expect(LinkStateTests.sent(node, on: 2) == [advertisement])
        #expect(node.state.counters.malformedWeights == 1)
        #expect(!node.told.contains { if case .weights = $0 { true } else { false } })
    }

    @Test func changedBytesNeverTrap() {
        var random = Seeded(seed: 5)
        var read = 0
        for _ in 0..<5_000 {
            let count = Int.random(in: 0...8, using: &random)
            let weights = (0..<count).map { _ in
                GroupWeight(key: random.next(), sum: UInt32(truncatingIfNeeded: random.next()), isSaid: true)
            }.sorted { $0.key < $1.key }
            var bytes = AdvertisedWeights.extensionBytes(weights)
            #expect(AdvertisedWeights.read(bytes) == weights)
            guard !bytes.isEmpty else { continue }
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8(truncatingIfNeeded: random.next())
            }
            guard let found = AdvertisedWeights.read(bytes) else { continue }
            read += 1
            #expect(found.count <= AdvertisedWeights.maxGroups)
            #expect(zip(found, found.dropFirst()).allSatisfy { $0.key < $1.key })
        }
        #expect(read > 0)
    }

    /// A node tells what it is told to, and passes on what others say byte by byte: so does one that knows of no
    /// weights, for which this is an extension like type 9.
    @Test func whatOthersSayIsToldAndPassedOn() {
        let node = LinkStateTests.node()
        node.establish(1, to: LinkStateTests.id(1))
        node.establish(2, to: LinkStateTests.id(2))
        node.sent = []
        var advertisement = LinkStateTests.advertisement(of: 3)
        advertisement.extensions = AdvertisedWeights.extensionBytes(Self.weights)
        node.receive(advertisement.frame(), from: 1)
        let index = node.nodes.known(LinkStateTests.id(3)) ?? -1
        #expect(node.told.contains(.weights(index, Self.weights)))
        #expect(LinkStateTests.sent(node, on: 2) == [advertisement])
        // The same again says nothing new, and no routes are computed because of weights.
        node.advance(to: 2_000)
        node.told = []
        let computations = node.state.counters.computations
        advertisement.head.version.sequence += 1
        node.receive(advertisement.frame(), from: 1)
        advertisement.head.version.sequence += 1
        advertisement.extensions = [9] + advertisement.extensions.dropFirst()
        node.sent = []
        node.receive(advertisement.frame(), from: 1)
        #expect(node.told == [.weights(index, [])])
        #expect(LinkStateTests.sent(node, on: 2) == [advertisement])
        node.advance(to: 2_500)
        #expect(node.state.counters.computations == computations)
        // Its own.
        node.sent = []
        node.state.setWeights(Self.weights)
        node.state.setWeights(Self.weights)
        node.advance(to: 3_000)
        let own = LinkStateTests.sent(node, on: 1)
        #expect(own.map(\.extensions) == [AdvertisedWeights.extensionBytes(Self.weights)])
    }

    /// Changes one after another are told in few advertisements.
    @Test func changesAreHeldBack() {
        let node = LinkStateTests.node()
        node.establish(1, to: LinkStateTests.id(1))
        node.advance(to: 5_000)
        node.sent = []
        for number in 0..<2_000 {
            node.advance(to: 5_000 + UInt64(number))
            node.state.setWeights([GroupWeight(key: 1, sum: UInt32(number), isSaid: true)])
        }
        node.advance(to: 8_000)
        let own = LinkStateTests.sent(node, on: 1)
        #expect(own.count > 5 && own.count <= 40, "\(own.count)")
        #expect(own.last.flatMap { AdvertisedWeights.read($0.extensions) }?.first?.sum == 1_999)
    }

    // MARK: Several nodes

    private func line(_ field: MeshField) -> [MeshField.Station] {
        let stations = [
            field.start("a:1", links: []), field.start("b:1", links: ["a:1"]), field.start("c:1", links: ["b:1"]),
        ]
        field.run(1_500)
        return stations
    }

    private func publish(_ count: Int, at station: MeshField.Station, _ field: MeshField, qos: UInt8 = 0) {
        for number in 0..<count {
            station.publish("t", "\(number)", qos: qos)
            if number % 50 == 49 { field.run(1) }
        }
        field.run(qos > 0 ? 300 : 50)
    }

    @Test(arguments: [UInt8(0), 1]) func aCanaryTwoLinksAwayGetsItsShareFromEveryNode(qos: UInt8) throws {
        let field = MeshField()
        let stations = line(field)
        let stable = [try stations[0].member(weight: nil), try stations[0].member(weight: nil)]
        let middle = try stations[1].member(weight: 180)
        let canary = try stations[2].member(weight: 20)
        field.run(200)
        var before = 0
        for station in stations {
            publish(400, at: station, field, qos: qos)
            #expect(abs(canary.heard.count - before - 20) <= 3, "published at \(station.address)")
            before = canary.heard.count
        }
        #expect(stable.allSatisfy { abs($0.heard.count - 300) <= 8 }, "\(stable.map(\.heard.count))")
        #expect(abs(middle.heard.count - 540) <= 8)
        #expect((stable + [middle, canary]).map(\.heard.count).reduce(0, +) == 1_200, "each goes to one")
        #expect(stations.allSatisfy { $0.node.counters.noMember == 0 })
        // It goes, and with it the only one but the middle that has said a weight; the node may be gone as well.
        field.kill(stations[2])
        field.run(1_000)
        publish(400, at: stations[0], field, qos: qos)
        #expect(stable.map(\.heard.count).reduce(middle.heard.count, +) + canary.heard.count == 1_600)
        // Without anybody that has said one, members on the node come first again.
        stations[1].router.unregister(middle, on: stations[1].lane)
        field.run(200)
        let other = try stations[1].member(weight: nil)
        field.run(200)
        publish(100, at: stations[0], field, qos: qos)
        #expect(other.heard.isEmpty)
        field.dismantle()
    }

    @Test func aNodeThatComesLaterKnows() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let canary = try a.member(weight: 5)
        field.run(500)
        let b = field.start("b:1", links: ["a:1"])
        let other = try b.member(weight: nil)
        field.run(1_500)
        publish(420, at: b, field)
        #expect(abs(canary.heard.count - 20) <= 3 && canary.heard.count + other.heard.count == 420)
        // Another weight by subscribing again.
        try a.say(100, canary)
        field.run(200)
        publish(400, at: b, field)
        #expect(abs(canary.heard.count - 220) <= 6)
        // The node is started anew, with a member that says nothing.
        field.kill(a)
        field.run(600)
        let again = field.start("a:1", links: [])
        let plain = try again.member(weight: nil)
        field.run(2_500)
        publish(100, at: b, field)
        #expect(plain.heard.isEmpty && canary.heard.count + other.heard.count == 920)
        field.dismantle()
    }

    /// An advertisement that says something of weights only leads to no new routes; its links are those from before.
    @Test func newWeightsLeaveTheTopologyAsItIs() throws {
        let field = MeshField()
        let stations = line(field)
        for (number, station) in stations.enumerated() {
            _ = try station.member(weight: UInt16(number))
            field.run(300)
            for other in stations {
                let nodes = other.node.topology().nodes
                #expect(nodes.count == 3 && nodes.allSatisfy { $0.neighbours.allSatisfy(\.isTwoWay) }, "\(nodes)")
            }
        }
        field.dismantle()
    }

    /// What is beyond the limit counts as if nothing were said, and moves up when there is room.
    @Test func soManyGroupsAreTold() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        field.run(1_000)
        let count = AdvertisedWeights.maxGroups + 6
        let members = try (0..<count).map { try a.member("$share/g/t/\($0)", weight: 300) }
        field.run(500)
        func told() -> [GroupWeight] { b.node.interest.weights.values.first ?? [] }
        #expect(told().count == AdvertisedWeights.maxGroups && told().allSatisfy { $0.sum == 300 && $0.isSaid })
        #expect(a.node.interest.counters.weightsUntold > 0)
        #expect(a.lines.count { $0.contains("more than 64 shared groups") } == 1)
        let first = Set(told().map(\.key))
        for member in members.prefix(10) { a.router.unregister(member, on: a.lane) }
        field.run(500)
        #expect(told().count == count - 10)
        #expect(!Set(told().map(\.key)).isSubset(of: first))
        for member in members.dropFirst(10) { a.router.unregister(member, on: a.lane) }
        field.run(500)
        #expect(told().isEmpty)
        field.dismantle()
    }
}

extension MeshField.Station {
    /// A member of a shared group that says a weight, or nothing.
    func member(_ filter: String = "$share/g/t", weight: UInt16?) throws -> Listening {
        let port = Listening()
        router.register(port, on: lane)
        try say(weight, port, filter)
        return port
    }

    fileprivate func say(_ weight: UInt16?, _ port: Listening, _ filter: String = "$share/g/t") throws {
        let principal = Principal(identity: Identity(user: nil), clientID: "member", router: router)
        let subscription = Subscription(
            filter: try TopicFilter(filter, grammar: .mqtt), options: .qos(1), weight: weight)
        _ = router.subscribe(port, subscription, as: principal, on: lane)
    }
}
