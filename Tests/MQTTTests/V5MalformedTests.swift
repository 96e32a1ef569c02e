import Core
import Testing

/// MQTT 5: everything in ``V5Malformed`` ends its connection, with its reason, and harms nobody.
@Suite struct V5MalformedTests {
    private static func isConnect(_ example: V5Malformed.Case) -> Bool { example.bytes.first == 0x10 }

    /// Before CONNECT, or as CONNECT: a CONNACK with the reason, or silence when there is none.
    private func early(_ example: V5Malformed.Case) throws {
        let node = try TestNode()
        let client = TestClient5(node)
        let answers = client.ask(example.bytes)
        if answers.isEmpty {
            #expect(example.reasons.isEmpty, "not answered")
        } else if case .connack(false, let reason, _) = answers[0], answers.count == 1 {
            #expect(example.reasons.contains(reason), "answered with \(String(reason, radix: 16))")
        } else {
            Issue.record("\(answers)")
        }
        #expect(client.closing != nil)
        #expect(node.router.sessionCount == 0)
    }

    /// After CONNECT: a DISCONNECT with the reason; others notice nothing.
    private func late(_ example: V5Malformed.Case) throws {
        let node = try TestNode()
        let witness = TestClient5(node, "witness")
        witness.subscribe("#")
        let client = TestClient5(node, "c")
        client.subscribe("own", qos: 1)
        // What came before is still done.
        let answers = client.ask(Frame5.publish("own", "x", qos: 1, id: 9), example.bytes)
        #expect(answers.filter { $0 == .event("own", "x", qos: 1, id: 1) || $0 == .puback(9) }.count == 2)
        if case .disconnect(let reason, _)? = answers.last, answers.count == 3 {
            #expect(example.reasons.contains(reason), "answered with \(String(reason, radix: 16))")
        } else {
            Issue.record("\(answers)")
        }
        #expect(client.closing != nil)
        #expect(witness.events().map(\.topic) == ["own"])
        #expect(witness.closing == nil)
        #expect(node.router.sessionCount == 1)
        #expect(node.router.retainedCount == 0)
    }

    private func check(_ example: V5Malformed.Case) throws {
        if Self.isConnect(example) { try early(example) } else { try late(example) }
    }

    @Test(arguments: V5Malformed.misplaced) func propertiesWhereTheyDoNotBelong(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.doubled) func propertiesTwice(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.lengths) func propertyLengthsThatLie(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.cutProperties) func propertiesThatAreCut(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.values) func valuesOutOfRange(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.text) func illFormedText(_ example: V5Malformed.Case) throws { try check(example) }

    @Test(arguments: V5Malformed.truncated + V5Malformed.truncatedConnect)
    func packetsCutAtEveryByte(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.trailing) func packetsWithSomethingBehindTheirEnd(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.flags) func wrongFlags(_ example: V5Malformed.Case) throws { try check(example) }

    @Test(arguments: V5Malformed.notAClients) func packetsThatAClientMayNotSend(_ example: V5Malformed.Case) throws {
        try late(example)
    }

    @Test(arguments: V5Malformed.remaining) func remainingLengthsThatLie(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.identifiers) func packetIdentifierZero(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.topics) func topicsAndFiltersThatAreNone(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.reasons) func reasonCodesThatThePacketDoesNotHave(_ example: V5Malformed.Case) throws {
        try check(example)
    }

    @Test(arguments: V5Malformed.connects) func connectsThatAreNone(_ example: V5Malformed.Case) throws {
        try early(example)
    }

    /// Anything but CONNECT at first: closed without a word (§3.1).
    @Test func anythingButConnectAtFirst() throws {
        let frames = V5Malformed.examples.map(\.bytes) + V5Malformed.notAClients.map(\.bytes).filter { $0[0] != 0x10 }
        for frame in frames + [Frame.pingreq, Frame5.disconnect(), Frame5.auth(0x18)] {
            let node = try TestNode()
            let client = TestClient5(node)
            #expect(client.ask(frame, Frame5.connect("c")).isEmpty)
            #expect(client.closing != nil)
            #expect(node.router.sessionCount == 0)
        }
    }

    /// The table is as long as it claims, and every example it is made from is good.
    @Test func theTableIsWhatItClaims() throws {
        let all = [
            V5Malformed.misplaced, V5Malformed.doubled, V5Malformed.lengths, V5Malformed.cutProperties,
            V5Malformed.values, V5Malformed.text, V5Malformed.truncated, V5Malformed.truncatedConnect,
            V5Malformed.trailing, V5Malformed.flags, V5Malformed.notAClients, V5Malformed.remaining,
            V5Malformed.identifiers, V5Malformed.topics, V5Malformed.reasons, V5Malformed.connects,
        ]
        #expect(all.map(\.count).reduce(0, +) > 3_000)
        for example in V5Malformed.examples {
            let client = TestClient5(try TestNode(), "c", expiry: 1)
            let answers = client.ask(example.bytes)
            #expect(client.closing == (example.name == "DISCONNECT" ? .clientDisconnected : nil), "\(example.name)")
            #expect(!answers.contains { if case .disconnect = $0 { true } else { false } })
        }
        for place in V5Malformed.places {
            for (id, rule) in Property5.rules where rule.places.contains(place) && ![11, 21, 22, 28].contains(id) {
                let client =
                    place == .connect || place == .will
                    ? TestClient5(try TestNode())
                    : TestClient5(try TestNode(), "c", expiry: 1)
                let answers = client.ask(V5Malformed.packet(place, Property5.block([.sample(id)])))
                // AUTH is well-formed, but not allowed to a client that named no method.
                let expected: [Place5: CloseReason] = [.disconnect: .clientDisconnected, .auth: .protocolError]
                #expect(client.closing == expected[place], "\(rule.name) in \(place): \(answers)")
            }
        }
    }

    /// Every packet, cut into two reads at every byte, is the same packet.
    @Test func packetsInPiecesAreTheSame() throws {
        for example in V5Malformed.examples {
            let whole = TestClient5(try TestNode(), "c").ask(example.bytes)
            for cut in 1..<example.bytes.count {
                let client = TestClient5(try TestNode(), "c")
                #expect(client.ask(Array(example.bytes.prefix(cut))).isEmpty)
                #expect(client.ask(Array(example.bytes.dropFirst(cut))) == whole)
            }
        }
    }
}
