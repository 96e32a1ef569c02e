import Core
import Testing

@testable import Bridge

@Suite("What a broker sends") struct TrafficTests {
    private func traffic(
        _ version: BridgeDefinition.Version = .v5, _ topics: [BridgeDefinition.Topic] = [.init(filter: "#")]
    ) throws -> BridgeTraffic {
        var definition = BridgeDefinition(name: "b", host: "h", port: 1, topics: topics)
        definition.version = version
        var limits = Limits()
        limits.maxPacketBytes = 1_000
        limits.maxTopicLevels = 8
        return BridgeTraffic(
            definition, map: try definition.map(limits: limits), limits: limits, place: "mesh/m", echoes: Echoes(key: 1)
        )
    }

    private func take(
        _ traffic: inout BridgeTraffic, _ topic: [UInt8], _ payload: [UInt8] = [1],
        _ change: (inout ArrivedProperties) -> Void = { _ in }
    ) -> Event? {
        var properties = ArrivedProperties(nil)
        change(&properties)
        topic.withUnsafeBytes { topic in
            payload.withUnsafeBytes {
                traffic.take(topic, $0, qos: 1, isRetained: false, properties, now: 1_000)
            }
        }
        return traffic.takeEvents().first
    }

    private func counts(_ traffic: inout BridgeTraffic) -> BridgeCounts {
        var counts = BridgeCounts()
        traffic.takeCounts(into: &counts)
        return counts
    }

    private func dropped(_ traffic: inout BridgeTraffic) -> [BridgeCounts.Reason] {
        let counts = counts(&traffic)
        return BridgeCounts.Reason.allCases.filter { counts.droppedIn[BridgeCounts.place($0)] > 0 }
    }

    @Test("An event says where it has been")
    func trail() throws {
        var traffic = try traffic()
        let event = try #require(
            take(&traffic, Array("a".utf8)) { properties in
                Array("x y".utf8).withUnsafeBytes { properties.trail.add($0) }
            })
        #expect(
            event.properties.elementsEqual([0x26, 0, 11] + Array("apus-bridge".utf8) + [0, 7] + Array("x y h:1".utf8)))
        #expect(event.qos == 1 && event.expiresAt == 0)
    }

    @Test("What comes back, has been too far, or makes no sense is dropped and counted")
    func drops() throws {
        var traffic = try traffic()
        func check(_ reason: BridgeCounts.Reason, _ event: Event?, _ comment: Comment) {
            #expect(event == nil, comment)
            #expect(dropped(&traffic) == [reason], comment)
        }
        check(.badTopic, take(&traffic, Array("a/+".utf8)), "a wildcard")
        check(.badTopic, take(&traffic, [0x61, 0]), "a zero")
        check(.badTopic, take(&traffic, [0xFF, 0x61]), "no text")
        check(.badTopic, take(&traffic, Array("1/2/3/4/5/6/7/8/9".utf8)), "too deep")
        check(.tooLarge, take(&traffic, Array("a".utf8), [UInt8](repeating: 0, count: 1_000)), "too large")
        check(.unmatched, take(&traffic, Array("$SYS/x".utf8)), "nobody has asked for it")
        check(.badPayload, take(&traffic, Array("a".utf8), [0xFF]) { $0.isText = true }, "no text")
        check(.expired, take(&traffic, Array("a".utf8)) { $0.expirySeconds = 0 }, "its time is over")
        check(.badProperty, take(&traffic, Array("a".utf8)) { $0.responseTopic = Array("a/#".utf8) }, "a filter")
        let far = Array("1 2 3 4 5 6 7 8".utf8)
        check(.tooFar, take(&traffic, Array("a".utf8)) { p in far.withUnsafeBytes { p.trail.add($0) } }, "too far")
        let here = Array("1 mesh/m 3".utf8)
        #expect(take(&traffic, Array("a".utf8)) { p in here.withUnsafeBytes { p.trail.add($0) } } == nil)
        #expect(counts(&traffic).loopsIn == 1)
    }

    @Test("A local prefix cannot make a topic of the node's own")
    func noNodesTopics() throws {
        var traffic = try traffic(.v5, [.init(filter: "#", direction: .incoming, localPrefix: "x/")])
        #expect(take(&traffic, Array("y".utf8)).map { $0.topic.elementsEqual("x/y".utf8) } == true)
        var bare = try self.traffic(.v5, [.init(filter: "#", direction: .incoming, remotePrefix: "r/")])
        #expect(take(&bare, Array("r/$SYS/x".utf8)) == nil)
        #expect(dropped(&bare) == [.badTopic])
    }

    @Test("Random bytes as topics and properties do no harm")
    func noise() throws {
        var traffic = try traffic()
        var random = Seeded(state: 11)
        for _ in 0..<5_000 {
            func bytes(_ most: Int) -> [UInt8] {
                (0..<Int.random(in: 0...most, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
            }
            let (topic, payload, trail, response) = (bytes(20), bytes(1_100), bytes(300), bytes(20))
            let event = take(&traffic, topic, payload) { properties in
                trail.withUnsafeBytes { properties.trail.add($0) }
                properties.responseTopic = response
                properties.isText = response.count % 2 == 0
            }
            if let event { #expect(Topic.isValid(event.topic, limits: Limits())) }
        }
    }
}
