import Core
import Testing

@testable import Bridge

extension BridgeMap {
    init(_ topics: [BridgeDefinition.Topic]) throws {
        self = try BridgeDefinition(name: "b", host: "h", port: 1, topics: topics).map(limits: Limits())
    }

    func outgoing(_ topic: String) -> String? {
        Array(topic.utf8).withUnsafeBytes { outgoing($0).map { String(decoding: $0.topic, as: UTF8.self) } }
    }

    func incoming(_ topic: String) -> String? {
        Array(topic.utf8).withUnsafeBytes { incoming($0).map { String(decoding: $0.topic, as: UTF8.self) } }
    }
}

/// Numbers that are the same in every run.
struct Seeded: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }
}

@Suite("Topics across") struct MapTests {
    typealias Topic = BridgeDefinition.Topic

    @Test("Prefixes are exchanged, directions kept, the first entry counts")
    func prefixes() throws {
        let map = try BridgeMap([
            Topic(filter: "in/#", direction: .incoming, qos: 0, localPrefix: "l/", remotePrefix: "r/"),
            Topic(filter: "out/+", direction: .outgoing, qos: 2, localPrefix: "l/", remotePrefix: "r/"),
            Topic(filter: "#", direction: .both, qos: 1, localPrefix: "site/", remotePrefix: ""),
        ])
        #expect(map.incoming("r/in/a/b") == "l/in/a/b")
        #expect(map.incoming("r/in") == "l/in", "# matches the parent as well")
        #expect(map.outgoing("l/in/a") == nil)
        #expect(map.outgoing("l/out/x") == "r/out/x")
        #expect(map.outgoing("l/out/x/y") == nil)
        #expect(map.incoming("anything/else") == "site/anything/else")
        #expect(map.outgoing("site/a") == "a")
        #expect(map.outgoing("site") == nil, "there is nothing left of it")
        #expect(map.outgoing("site/") == nil, "nor of this")
        #expect(map.incoming("$SYS/broker") == nil)
        #expect(map.incoming("") == "site/" || map.incoming("") == nil)
    }

    @Test("A filter's parent goes from prefix to prefix")
    func parents() throws {
        let map = try BridgeMap([Topic(filter: "#", localPrefix: "plant/", remotePrefix: "far/away/")])
        #expect(map.outgoing("plant") == "far/away")
        #expect(map.incoming("far/away") == "plant")
        #expect(map.outgoing("plan") == nil && map.outgoing("plants/x") == nil)
    }

    @Test("What goes out comes back as the same topic, whatever prefixes and topics")
    func thereAndBack() throws {
        var random = Seeded(state: 1)
        let pieces = ["a", "b", "", "ä", "plant", "x*", ">"]
        func some(_ count: Int) -> String {
            (0..<count).map { _ in pieces.randomElement(using: &random) ?? "" }.joined(separator: "/")
        }
        var crossed = 0
        for _ in 0..<2_000 {
            let local = Int.random(in: 0...2, using: &random)
            let remote = Int.random(in: 0...2, using: &random)
            let topic = Topic(
                filter: "#", localPrefix: local == 0 ? "" : some(local) + "/",
                remotePrefix: remote == 0 ? "" : some(remote) + "/")
            let map = try BridgeMap([topic])
            let name = topic.localPrefix + some(3)
            guard let out = map.outgoing(name) else { continue }
            crossed += 1
            #expect(map.incoming(out) == name, "\(topic) \(name)")
        }
        #expect(crossed > 1_500)
    }

    @Test("Response topics go through the prefixes of the way that the answer comes")
    func responses() throws {
        let map = try BridgeMap([
            Topic(filter: "ask/#", direction: .outgoing, localPrefix: "l/", remotePrefix: "r/"),
            Topic(filter: "answers/#", direction: .incoming, localPrefix: "here/", remotePrefix: "there/"),
        ])
        func out(_ topic: String, of request: String) -> String {
            Array(topic.utf8).withUnsafeBytes { topic in
                Array(request.utf8).withUnsafeBytes {
                    String(decoding: map.outgoing(responseTopic: topic, of: $0), as: UTF8.self)
                }
            }
        }
        #expect(out("here/answers/1", of: "l/ask/x") == "there/answers/1")
        #expect(out("l/reply", of: "l/ask/x") == "r/reply", "by the request's own prefixes")
        #expect(out("elsewhere", of: "l/ask/x") == "elsewhere")
    }

    @Test("Definitions that cannot work are refused, with the field")
    func refused() {
        func field(_ change: (inout BridgeDefinition) -> Void) -> String? {
            var definition = BridgeDefinition(name: "b", host: "h", port: 1, topics: [Topic(filter: "a/#")])
            change(&definition)
            do throws(BridgeDefinition.Failure) { try definition.check() } catch { return error.field }
            return nil
        }
        #expect(field { _ in } == nil)
        #expect(field { $0.name = "" } == "name")
        #expect(field { $0.name = "a b" } == "name")
        #expect(field { $0.port = 0 } == "to")
        #expect(field { $0.broker = "a b" } == "broker")
        #expect(field { $0.password = "p" } == "password")
        #expect(field { $0.maxHops = 0 } == "max_hops")
        #expect(field { $0.topics = [] } == "topics")
        #expect(field { $0.topics[0].filter = "a/#/b" } == "topics[0].filter")
        #expect(field { $0.topics[0].filter = "$share/g/a" } == "topics[0].filter")
        #expect(field { $0.topics[0].localPrefix = "+/" } == "topics[0].local_prefix")
        #expect(field { $0.topics[0].qos = 3 } == "topics[0].qos")
        #expect(field { $0.topics[0].filter = "$SYS/#" } == "topics[0].local_prefix")
        #expect(
            field {
                $0.topics[0].filter = "$SYS/#"
                $0.topics[0].direction = .incoming
                $0.topics[0].localPrefix = "sys/"
            } == nil)
        #expect(field { $0.topics[0].remotePrefix = "$x/" } == "topics[0].remote_prefix")
        #expect(field { $0.group = "a/b" } == "group")
        #expect(field { $0.group = "g" } == nil)
        #expect(
            field {
                $0.group = "g"
                $0.version = .v311
            } == "group")
    }
}
