import Core
import Testing

/// MQTT 5: many events in one read are the same as one after another, whoever gets them: nothing that is done for a run
/// as a whole may forget what belongs to one event or to one receiver.
@Suite struct V5RunTests {
    /// What a publisher says, packet by packet.
    enum Script: String, CaseIterable {
        case plain, user, expiry, alias, aliasFirst, retained, text, mixedSizes, mixedTopics

        func frames(_ qos: UInt8) -> [[UInt8]] {
            (1...30).map { number in
                let id = UInt16(number)
                func publish(_ topic: String, _ payload: String, retain: Bool = false, _ properties: [Property5] = [])
                    -> [UInt8]
                {
                    Frame5.publish(topic, payload, qos: qos, id: id, retain: retain, properties)
                }
                return switch self {
                case .plain: publish("t/1", "\(number)")
                case .user: publish("t/1", "\(number)", [.user("a", "b"), .contentType("c")])
                case .expiry: publish("t/1", "\(number)", [.messageExpiry(30)])
                case .alias: publish(number == 1 ? "t/1" : "", "\(number)", [.user("k", "v"), .topicAlias(4)])
                case .aliasFirst: publish("t/1", "\(number)", [.topicAlias(4), .user("k", "v")])
                case .retained: publish("t/1", "\(number)", retain: true)
                case .text: publish("t/1", "\(number)", [.payloadFormat(1)])
                case .mixedSizes: publish("t/1", String(repeating: "\(number) ", count: number % 3 == 0 ? 200 : 1))
                case .mixedTopics: publish("t/\(number / 4)", "\(number)")
                }
            }
        }
    }

    /// Clients that differ in everything that a run has to respect.
    private final class Audience {
        let five: [TestClient5]
        let older: [TestClient]

        init(_ node: TestNode) {
            func client(_ name: String, lane: Int, _ properties: [Property5] = []) -> TestClient5 {
                TestClient5(node, "\(name)\(lane)", lane: lane, properties: properties)
            }
            var five: [TestClient5] = []
            var older: [TestClient] = []
            for lane in 0...1 {
                let plain = client("plain", lane: lane)
                let numbered = client("numbered", lane: lane)
                let small = client("small", lane: lane, [.maximumPacketSize(100)])
                let aliased = client("aliased", lane: lane, [.topicAliasMaximum(3)])
                let slow = client("slow", lane: lane, [.receiveMaximum(4)])
                plain.subscribe("t/#", qos: 2)
                numbered.subscribe("t/+", qos: 2, id: 77)
                _ = small.ask(Frame5.subscribe(1, [.init("t/#", qos: 1, retainAsPublished: true)]))
                aliased.subscribe("t/#", qos: 0)
                slow.subscribe("t/#", qos: 2)
                five += [plain, numbered, small, aliased, slow]
                let three = TestClient(node, "older\(lane)", lane: lane)
                three.subscribe("t/#", qos: 1)
                older.append(three)
            }
            self.five = five
            self.older = older
        }

        /// Everything that each has got, with topics for aliases, acknowledged until nothing more comes.
        func heard() -> [[Answer5.Publish]] {
            five.map { client in
                var known: [UInt16: String] = [:]
                var all: [Answer5.Publish] = []
                var events = client.events()
                while !events.isEmpty {
                    for var event in events {
                        if let alias = event.alias {
                            if !event.topic.isEmpty { known[alias] = event.topic }
                            event.topic = known[alias] ?? "unknown"
                            event.properties.removeAll { $0.id == 35 }
                        }
                        all.append(event)
                    }
                    client.send(
                        events.filter { $0.qos > 0 }.flatMap {
                            $0.qos == 1 ? Frame5.puback($0.id) : Frame5.pubrec($0.id, 0x80)
                        })
                    events = client.events()
                }
                return all
            }
        }
    }

    @Test(arguments: Script.allCases, [UInt8(0), 1, 2]) func oneReadIsTheSameAsMany(script: Script, qos: UInt8) throws {
        func run(_ pieces: [[UInt8]]) throws -> ([[Answer5.Publish]], [[Answer.Publish]], [Answer5]) {
            let node = try TestNode(lanes: 2)
            let audience = Audience(node)
            let sender = TestClient5(node, "s")
            var answers: [Answer5] = []
            for piece in pieces { answers += sender.ask(piece) }
            #expect(sender.closing == nil)
            return (audience.heard(), audience.older.map { $0.events() }, answers)
        }
        let frames = script.frames(qos)
        let single = try run(frames)
        let whole = try run([frames.flatMap { $0 }])
        #expect(single.2 == whole.2)
        #expect(single.1 == whole.1)
        for (one, other) in zip(single.0, whole.0) { #expect(one == other) }
        // And they are what was published.
        let wanted = script == .mixedSizes ? 20 : 30
        #expect(whole.0.map(\.count) == Array(repeating: [30, 30, wanted, 30, 30], count: 2).flatMap { $0 })
        #expect(whole.1.map(\.count) == [30, 30])
        let numbered = whole.0[1]
        #expect(numbered.allSatisfy { $0.subscriptionIDs == [77] })
        #expect(whole.0[2].allSatisfy { $0.retain == (script == .retained) })
        #expect(whole.0[0].allSatisfy { !$0.retain && $0.qos == qos })
        #expect(whole.0[3].allSatisfy { $0.topic.hasPrefix("t/") && $0.qos == 0 })
    }

    // MARK: A bad one among good ones

    @Test func aPayloadThatIsNoTextAmongThoseThatAre() throws {
        let node = try TestNode(lanes: 2)
        let near = TestClient5(node, "n")
        let far = TestClient5(node, "f", lane: 1)
        near.subscribe("t", qos: 1)
        far.subscribe("t", qos: 1)
        let sender = TestClient5(node, "s")
        func frame(_ number: UInt16, _ payload: [UInt8], qos: UInt8) -> [UInt8] {
            Frame5.publish("t", payload, qos: qos, id: number, [.payloadFormat(1)])
        }
        let answers = sender.ask(
            frame(1, [0x61], qos: 1), frame(2, [0xFF], qos: 1), frame(3, [0x62], qos: 1), frame(4, [0xFF], qos: 2),
            frame(5, [0x63], qos: 1))
        #expect(Set(answers.map { "\($0)" }).count == 5)
        #expect(answers.contains(.puback(2, 0x99)) && answers.contains(.pubrec(4, 0x99)))
        for id in [UInt16(1), 3, 5] { #expect(answers.contains(.puback(id))) }
        for client in [near, far] { #expect(client.events().map(\.text) == ["a", "b", "c"]) }
        #expect(
            sender.ask(
                frame(0, [0x64], qos: 0), frame(0, [0x65], qos: 0), frame(0, [0xC0], qos: 0), frame(0, [0x66], qos: 0))
                == [.disconnect(0x99)])
        for client in [near, far] { #expect(client.events().map(\.text) == ["d", "e"]) }
    }

    @Test func eventsBeforeAnAliasThatIsWrongAreDelivered() throws {
        let node = try TestNode()
        let receiver = TestClient5(node, "r")
        receiver.subscribe("#")
        let sender = TestClient5(node, "s")
        #expect(
            sender.ask(
                Frame5.publish("t", "1", [.topicAlias(1)]), Frame5.publish("", "2", [.topicAlias(1)]),
                Frame5.publish("", "3", [.topicAlias(65)]), Frame5.publish("t", "4"))
                == [.disconnect(0x94)])
        #expect(receiver.events().map(\.text) == ["1", "2"])
    }

    // MARK: Aliases and what is not sent

    /// The alias must not cost an event its delivery: without it, it fits.
    @Test(arguments: [UInt8(0), 1]) func anAliasMakesNoEventTooLarge(qos: UInt8) throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", properties: [.maximumPacketSize(100), .topicAliasMaximum(5)])
        client.subscribe("#", qos: qos)
        let sender = TestClient5(node, "s")
        let room = 100 - 2 - 3 - 1 - (qos > 0 ? 2 : 0)
        for _ in 0..<3 { sender.send(Frame5.publish("t", [UInt8](repeating: 7, count: room), qos: qos, id: 1)) }
        #expect(client.events().map(\.payload.count) == [room, room, room])
        #expect(node.dropped(.clientLimit) == 0)
    }

    /// A client knows an alias only from a packet that it got.
    @Test(arguments: [UInt8(0), 1]) func whatWasNotSentTeachesNoAlias(qos: UInt8) throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", properties: [.maximumPacketSize(100), .topicAliasMaximum(5)])
        client.subscribe("#", qos: qos)
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t", [UInt8](repeating: 7, count: 500), qos: qos, id: 1))
        sender.send(Frame5.publish("t", "x", qos: qos, id: 1), Frame5.publish("t", "y", qos: qos, id: 1))
        #expect(client.events().first?.topic == "t")
        // The same for direct events that a slow reader misses.
        client.connection.link.isCongested = true
        sender.send(Frame5.publish("u", "missed"), Frame5.publish("u", "missed, too"))
        #expect(client.answers().isEmpty)
        node.drain(client.connection)
        sender.send(Frame5.publish("u", "seen"))
        let events = client.events()
        #expect(events.last?.text == "seen")
        #expect(events.last?.topic == "u")
    }
}
