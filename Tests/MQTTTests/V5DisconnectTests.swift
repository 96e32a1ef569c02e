import Core
import Testing

/// MQTT 5: DISCONNECT in both directions (§3.14), AUTH (§3.15, §4.12) and how errors end a connection (§4.13).
@Suite struct V5DisconnectTests {
    // MARK: From the client

    /// Reason codes that a client may use (§3.14.2.1).
    static let clientReasons: [UInt8] = [
        0, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    ]

    @Test(arguments: clientReasons) func everyReasonOfAClientIsTaken(reason: UInt8) throws {
        for properties in [nil, [], [.sessionExpiry(5), .reasonString("so"), .user("a", "b"), .user("a", "b")]]
            as [[Property5]?]
        {
            let client = TestClient5(try TestNode(), "c", expiry: 60)
            #expect(client.ask(Frame5.disconnect(reason, properties), [0xFF, 0xFF], Frame.pingreq).isEmpty)
            #expect(client.closing == .clientDisconnected, "what stands behind it is not looked at")
        }
    }

    @Test func reservedFlagsAreMalformed() throws {
        for flags in UInt8(1)...15 {
            let client = TestClient5(try TestNode(), "c")
            #expect(client.ask([0xE0 | flags, 0]) == [.disconnect(0x81)])
            #expect(client.closing != nil)
        }
    }

    // MARK: From the node

    @Test(arguments: [
        (CloseReason.administrative, UInt8(0x98)), (.shutdown, 0x8B), (.overLimit, 0x97), (.takenOver, 0x8E),
    ])
    func theNodeSaysWhyItEndsAConnection(reason: CloseReason, code: UInt8) throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        node.cut(client.connection, reason)
        node.settle()
        #expect(client.answers() == [.disconnect(code)])
    }

    @Test func olderClientsAreClosedWithoutAWord() throws {
        for reason in [CloseReason.administrative, .shutdown, .takenOver, .keepAliveTimeout] {
            let node = try TestNode()
            let client = TestClient(node, "c")
            node.cut(client.connection, reason)
            #expect(client.answers().isEmpty)
        }
    }

    @Test func nothingIsSaidToThoseWhoHaveGone() throws {
        for reason in [CloseReason.connectionLost, .clientDisconnected] {
            let node = try TestNode()
            let client = TestClient5(node, "c")
            node.cut(client.connection, reason)
            #expect(client.answers().isEmpty)
        }
    }

    /// No DISCONNECT before a CONNACK that let the client in ([MQTT-3.14.0-1]).
    @Test func noDisconnectBeforeConnack() throws {
        let frames: [[UInt8]] = [
            Frame.pingreq, Frame5.publish("a", "x"), [0, 0], [0xF0, 0],
            Frame5.connect("c", properties: [.topicAlias(1)]),
            Frame5.connect("c", properties: [.receiveMaximum(0)]), [0x10, 0xFF, 0xFF, 0xFF, 0x7F], Frame5.disconnect(),
        ]
        for frame in frames {
            let client = TestClient5(try TestNode())
            for answer in client.ask(frame) {
                guard case .connack(false, 0x80..., _) = answer else {
                    Issue.record("\(answer)")
                    continue
                }
            }
            #expect(client.closing != nil)
        }
        for reason in [CloseReason.shutdown, .administrative, .connectTimeout] {
            let node = try TestNode()
            node.authenticator.answers { _ in nil }
            let client = TestClient5(node)
            client.send(Frame5.connect("c"))
            node.cut(client.connection, reason)
            #expect(
                client.answers().allSatisfy { if case .disconnect = $0 { false } else { true } },
                "while credentials are checked")
        }
    }

    /// DISCONNECT is the last packet, once, without a Session Expiry Interval, and explains itself.
    @Test func disconnectIsTheLastPacket() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", expiry: 60)
        client.subscribe("#", qos: 1)
        client.send(Frame5.publish("a", "x"), [0x30, 1, 0], Frame5.publish("a", "y"), Frame.pingreq)
        TestClient5(node, "s").send(Frame5.publish("a", "z", qos: 1, id: 1))
        node.advance(milliseconds: 10_000)
        let answers = client.wholeAnswers()
        #expect(answers.count == 2)
        guard case .disconnect(0x81, let properties)? = answers.last else {
            Issue.record("\(answers)")
            return
        }
        #expect(properties.allSatisfy { $0.id == 31 })
        #expect(client.closing != nil)
    }

    @Test func disconnectFitsTheClientsMaximumPacketSize() throws {
        for size in 20...70 {
            let client = TestClient5(
                try TestNode(), "c", properties: [.maximumPacketSize(UInt32(size))])
            _ = client.bytes()
            client.send([0x30, 1, 0])
            let bytes = client.bytes()
            #expect(bytes.count <= size)
            #expect(bytes.first == 0xE0)
        }
    }

    // MARK: AUTH: no method is offered (§4.12)

    @Test func anAuthenticationMethodIsNotOffered() throws {
        let client = TestClient5(try TestNode())
        #expect(
            client.ask(
                Frame5.connect("c", properties: [.authenticationMethod("SCRAM-SHA-1"), .authenticationData([1])]),
                Frame5.auth(0x18, [.authenticationMethod("SCRAM-SHA-1")]))
                == [.connack(present: false, reason: 0x8C)])
        #expect(client.closing == .badAuthenticationMethod)
    }

    @Test func authenticationDataWithoutAMethodIsAProtocolError() throws {
        let client = TestClient5(try TestNode())
        #expect(
            client.ask(Frame5.connect("c", properties: [.authenticationData([1])]))
                == [.connack(present: false, reason: 0x82)])
    }

    /// Who has not begun with a method may not send AUTH; and gets none, nor a method in CONNACK.
    @Test(arguments: [
        Frame5.auth(), Frame5.auth(0x18), Frame5.auth(0x19, [.authenticationMethod("m")]),
        Frame5.auth(0, [.authenticationMethod("m"), .authenticationData([1])]),
    ])
    func authWithoutAMethodIsAProtocolError(frame: [UInt8]) throws {
        let client = TestClient5(try TestNode(), "c")
        #expect(!client.connack.contains { $0.id == 21 || $0.id == 22 })
        #expect(client.ask(frame, Frame.pingreq) == [.disconnect(0x82)])
        #expect(client.closing != nil)
        let early = TestClient5(try TestNode())
        #expect(early.ask(frame).isEmpty, "before CONNECT there is nobody to answer")
        #expect(early.closing != nil)
    }

    @Test func authWithFlagsIsMalformed() throws {
        for flags in UInt8(1)...15 {
            let client = TestClient5(try TestNode(), "c")
            #expect(client.ask([0xF0 | flags, 0]) == [.disconnect(0x81)])
            #expect(client.closing != nil)
        }
    }

    // MARK: What an error costs others

    @Test func anErrorEndsItsOwnConnectionOnly() throws {
        let node = try TestNode(lanes: 2)
        let others = (0..<4).map { TestClient5(node, "o\($0)", lane: $0 % 2) }
        for other in others { other.subscribe("t", qos: 1) }
        let bad = TestClient5(node, "b")
        #expect(
            bad.ask(Frame5.publish("t", "x", qos: 1, id: 1), [0x36, 5, 0, 1, 0x74, 0, 1]).last == .disconnect(0x81))
        for other in others {
            #expect(other.events().count == 1)
            #expect(other.ask(Frame.pingreq) == [.pingresp])
        }
    }

    /// The reader these tests use is strict: it must be able to notice what a node may not send.
    @Test func theTestsReaderNoticesWhatMayNotBeSent() {
        let wrong: [[UInt8]] = [
            [0x20, 3, 2, 0, 0], [0x20, 3, 1, 0x87, 0], [0x20, 3, 0, 1, 0], [0x21, 3, 0, 0, 0], [0x20, 2, 0, 0],
            [0x20, 5, 0, 0, 2, 1, 1], [0x40, 3, 0, 1, 0x92], [0x40, 2, 0, 0], [0x70, 3, 0, 1, 0x10],
            [0x90, 4, 0, 1, 0, 3], [0x90, 3, 0, 1, 0], [0xB0, 4, 0, 1, 0, 1], [0xE0, 1, 4], [0xF0, 0], [0xC0, 0],
            [0xE0, 7, 0x81, 5, 0x11, 0, 0, 0, 1], [0x38, 4, 0, 1, 0x61, 0], [0x36, 6, 0, 1, 0x61, 0, 1, 0],
            [0x30, 3, 0, 0, 0], [0x30, 4, 0, 1, 0x23, 0], [0x30, 7, 0, 1, 0x61, 3, 0x23, 0, 0],
            [0x30, 8, 0, 1, 0x61, 4, 1, 1, 1, 1], [0x30, 4, 0, 1, 0, 0], [0x32, 6, 0, 1, 0x61, 0, 0, 0],
        ]
        for bytes in wrong {
            var rest = bytes
            #expect(Answer5.takeAll(&rest) == [.other(bytes)])
        }
    }
}
