import CProton
import Core
import Testing
import TestSupport

@testable import AMQP

/// Flows that ask for one in answer (§2.7.4, echo): the numbers are those that Proton's own flows say, and Proton at
/// the other end goes on with them.
@Suite struct EchoTests {
    /// A flow as it was sent.
    private struct Flow: Equatable {
        var channel: UInt16
        var nextIncomingID: UInt32
        var incomingWindow: UInt32
        var nextOutgoingID: UInt32
        var outgoingWindow: UInt32
        var handle: UInt32?
        var deliveryCount: UInt32?
        var credit: UInt32?
        var available: UInt32?
        var isDraining: Bool?
        var asks: Bool?

        init?(_ frame: [UInt8]) {
            guard frame.count > 13, frame[10] == 0x13, frame[11] == 0xC0 else { return nil }
            var numbers: [UInt32?] = []
            var place = 14
            while place < frame.count {
                switch frame[place] {
                case 0x40: numbers.append(nil)
                case 0x41: numbers.append(1)
                case 0x42, 0x43: numbers.append(0)
                case 0x52:
                    numbers.append(UInt32(frame[place + 1]))
                    place += 1
                case 0x70:
                    numbers.append(frame[place + 1..<place + 5].reduce(0) { $0 << 8 | UInt32($1) })
                    place += 4
                default: return nil
                }
                place += 1
            }
            guard numbers.count == Int(frame[13]), numbers.count >= 4, numbers.count <= 11 else { return nil }
            numbers += Array(repeating: nil, count: 11 - numbers.count)
            guard let first = numbers[0], let second = numbers[1], let third = numbers[2], let fourth = numbers[3]
            else { return nil }
            channel = UInt16(frame[6]) << 8 | UInt16(frame[7])
            (nextIncomingID, incomingWindow, nextOutgoingID, outgoingWindow) = (first, second, third, fourth)
            (handle, deliveryCount, credit, available) = (numbers[4], numbers[5], numbers[6], numbers[7])
            (isDraining, asks) = (numbers[8].map { $0 != 0 }, numbers[9].map { $0 != 0 })
        }
    }

    private static func frames(_ bytes: [UInt8]) -> [[UInt8]] {
        var frames: [[UInt8]] = []
        var rest = bytes[...]
        if rest.starts(with: Array("AMQP".utf8)) { rest = rest.dropFirst(8) }
        while rest.count >= 8 {
            let length = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
            frames.append(Array(rest.prefix(length)))
            rest = rest.dropFirst(length)
        }
        return frames
    }

    private static func flows(_ bytes: [UInt8]) -> [Flow] { frames(bytes).compactMap { Flow($0) } }

    private static func transfers(_ bytes: [UInt8]) -> UInt32 {
        frames(bytes).reduce(0) { $0 + ($1.count > 10 && $1[10] == 0x14 ? 1 : 0) }
    }

    /// A flow that asks.
    private static func asking(
        handle: UInt32? = nil, count: UInt32? = nil, credit: UInt32? = nil, drains: Bool = false, channel: UInt16 = 0
    ) -> [UInt8] {
        ScanFrames.frame(
            .flow,
            [
                .uint(0), .uint(0x7FFF_FFFF), .uint(0), .uint(0x7FFF_FFFF), handle.map { .uint($0) } ?? .null,
                count.map { .uint($0) } ?? .null, credit.map { .uint($0) } ?? .null, .null, drains ? .yes : .no, .yes,
            ], channel: channel)
    }

    /// What the node sends when it has got some bytes; the client takes it, too.
    private static func answer(_ client: FieldClient, to bytes: [UInt8]) -> [UInt8] {
        client.node.receive(client.connection, bytes)
        client.node.settle()
        let answer = client.connection.link.takeSent()
        client.proton.take(answer)
        return answer
    }

    // MARK: One link

    @Test func aReceiverAsks() throws {
        let client = FieldClient(try FieldNode())
        let receiver = client.receiver(from: "a", credit: 10)
        client.send(["1", "2", "3"], on: client.sender(to: "a"), isSettled: true)
        client.pump()
        #expect(client.texts(receiver) == ["1", "2", "3"] && pn_link_credit(receiver) == 7)
        let flows = Self.flows(Self.answer(client, to: Self.asking(handle: 0, count: 3, credit: 7)))
        let flow = try #require(flows.first)
        #expect(flows.count == 1)
        #expect(flow.handle == 0 && flow.deliveryCount == 3 && flow.credit == 7)
        #expect(flow.available == 0 && flow.isDraining == false && flow.asks == nil)
        #expect(flow.nextOutgoingID == 3 && flow.nextIncomingID == 3)
        #expect(pn_link_credit(receiver) == 7)
        // Proton's own flow when it gives the credit up, and ours afterwards.
        client.proton.drain(receiver, 0)
        let proton = try #require(Self.flows(Self.answer(client, to: client.proton.bytes())).first)
        #expect(proton.deliveryCount == 10 && proton.credit == 0 && proton.isDraining == true)
        var ours = try #require(
            Self.flows(Self.answer(client, to: Self.asking(handle: 0, count: 10, credit: 0, drains: true))).first)
        #expect(ours.available == 0)
        ours.available = nil
        #expect(ours == proton)
        #expect(pn_link_credit(receiver) == 0 && !pn_link_draining(receiver))
        // The credit that is given next counts.
        pn_link_set_drain(receiver, false)
        client.proton.grant(receiver, 2)
        client.send(["4"], on: client.sender("t", to: "a"))
        client.pump()
        #expect(client.texts(receiver).last == "4" && pn_link_credit(receiver) == 1)
        #expect(client.closing == nil)
    }

    @Test func aSenderAsks() throws {
        var limits = Limits()
        limits.amqpCredit = 40
        let client = FieldClient(try FieldNode(limits: limits))
        let sender = client.sender(to: "a")
        client.send((1...7).map { "\($0)" }, on: sender)
        client.pump()
        #expect(pn_link_credit(sender) == 33)
        let flows = Self.flows(Self.answer(client, to: Self.asking(handle: 0, count: 7)))
        let flow = try #require(flows.first)
        #expect(flows.count == 1)
        #expect(flow.handle == 0 && flow.deliveryCount == 7 && flow.credit == 33 && flow.isDraining == false)
        #expect(flow.nextIncomingID == 7 && flow.nextOutgoingID == 0 && flow.available == nil && flow.asks == nil)
        #expect(pn_link_credit(sender) == 33)
        // Proton's own, when it grants more, and ours afterwards.
        client.send(["8", "9", "10"], on: sender)
        let granted = try #require(Self.flows(Self.answer(client, to: client.proton.bytes())).last)
        #expect(granted.credit == 40)
        #expect(Self.flows(Self.answer(client, to: Self.asking(handle: 0, count: 10))) == [granted])
        #expect(pn_link_credit(sender) == 40)
    }

    /// Messages that have no credit are said to be available.
    @Test func whatWaitsIsAvailable() throws {
        let client = FieldClient(try FieldNode())
        let receiver = client.receiver(from: "a", credit: 2)
        client.send((1...5).map { "\($0)" }, on: client.sender(to: "a"))
        client.pump()
        let flow = try #require(Self.flows(Self.answer(client, to: Self.asking(handle: 0, count: 2, credit: 0))).first)
        #expect(flow.deliveryCount == 2 && flow.credit == 0 && flow.available == 3)
        // More credit and a question in one flow: the answer comes behind what the credit is for.
        let bytes = Self.answer(client, to: Self.asking(handle: 0, count: 2, credit: 2))
        #expect(Self.transfers(bytes) == 2)
        let second = try #require(Flow(Self.frames(bytes).last ?? []))
        #expect(second.deliveryCount == 4 && second.credit == 0 && second.available == 1)
        #expect(second.nextOutgoingID == 4)
        _ = receiver
    }

    /// What the session's window holds back is not sent, and its credit not used.
    @Test func aShutWindowKeepsCredit() throws {
        let client = FieldClient(try FieldNode())
        let receiver = client.receiver(from: "a", credit: 10)
        client.send(["1"], on: client.sender(to: "a"), isSettled: true)
        client.pump()
        #expect(client.texts(receiver) == ["1"])
        func flow(window: UInt32) -> [UInt8] {
            ScanFrames.frame(
                .flow,
                [
                    .uint(1), .uint(window), .uint(1), .uint(100), .uint(0), .uint(1), .uint(9), .null, .no, .yes,
                ])
        }
        #expect(Self.flows(Self.answer(client, to: flow(window: 1))).map(\.credit) == [9])
        // Behind the first one the window is shut.
        client.send(["2", "3", "4"], on: client.sender("t", to: "a"), isSettled: true)
        client.pump()
        #expect(client.texts(receiver) == ["1", "2"])
        let shut = ScanFrames.frame(
            .flow,
            [.uint(2), .uint(0), .uint(4), .uint(100), .uint(0), .uint(2), .uint(8), .null, .no, .yes])
        let told = try #require(Self.flows(Self.answer(client, to: shut)).first)
        #expect(told.deliveryCount == 2 && told.credit == 8 && told.nextOutgoingID == 2)
    }

    // MARK: Drain

    @Test func drainIsAnsweredOnce() throws {
        let client = FieldClient(try FieldNode())
        let receiver = client.receiver(from: "a", credit: 5)
        let flows = Self.flows(
            Self.answer(client, to: Self.asking(handle: 0, count: 0, credit: 5, drains: true)))
        #expect(flows.map(\.deliveryCount) == [5] && flows.map(\.credit) == [0])
        // Nothing to give up: Proton says nothing, so it is our answer.
        let again = Self.flows(
            Self.answer(client, to: Self.asking(handle: 0, count: 5, credit: 0, drains: true)))
        #expect(again.map(\.deliveryCount) == [5] && again.map(\.credit) == [0] && again.map(\.isDraining) == [true])
        _ = receiver
    }

    // MARK: Sessions

    /// Transfers are counted by frames, not by messages.
    @Test func aSessionIsAsked() throws {
        let client = FieldClient(try FieldNode()) { transport, _ in pn_transport_set_max_frame(transport, 512) }
        let receiver = client.receiver(from: "a", credit: 10)
        let sender = client.sender(to: "a")
        client.proton.send(FieldClient.message([UInt8](repeating: 65, count: 200_000)), on: sender, isSettled: true)
        let sent = client.proton.bytes()
        let got = Self.answer(client, to: sent)
        #expect(client.received(receiver).map(\.bytes.count) == [200_008])
        #expect(Self.transfers(sent) >= 4 && Self.transfers(got) > 400)
        let flows = Self.flows(Self.answer(client, to: Self.asking()))
        let flow = try #require(flows.first)
        #expect(flows.count == 1 && flow.handle == nil && flow.credit == nil && flow.isDraining == nil)
        #expect(flow.nextIncomingID == Self.transfers(sent) && flow.nextOutgoingID == Self.transfers(got))
        #expect(flow.incomingWindow == 0x7FFF_FFFF && flow.outgoingWindow == 0x7FFF_FFFF)
        #expect(pn_link_credit(receiver) == 9)
    }

    /// Channels and handles of the two ends are not the same.
    @Test func eachEndHasItsNumbers() throws {
        let node = try FieldNode()
        let connection = node.accept()
        func attach(_ name: String, _ handle: UInt32, receives: Bool) -> [UInt8] {
            ScanFrames.frame(
                .attach,
                [
                    .string(name), .uint(handle), receives ? .yes : .no, .null, .null,
                    .described(0x28, .list([.string("a")])), .described(0x29, .list([.string("a")])), .null, .null,
                    .uint(70),
                ], channel: 7)
        }
        let begin = ScanFrames.frame(.begin, [.null, .uint(.max), .uint(100), .uint(100)], channel: 7)
        let other = ScanFrames.frame(.begin, [.null, .uint(0), .uint(100), .uint(100)], channel: 3)
        node.receive(
            connection,
            Array("AMQP".utf8) + [0, 1, 0, 0] + ScanFrames.frame(.open, [.string("c")]) + other + begin
                + attach("x", 90, receives: true) + attach("x", 40, receives: false)
                + attach("y", 41, receives: true))
        node.settle()
        let answers = Self.frames(connection.link.takeSent())
        let attached = answers.filter { $0.count > 10 && $0[10] == 0x12 }.compactMap { ScanFrames.fields($0)?.handle }
        #expect(attached.count == 3)
        let transfer = ScanFrames.frame(
            .transfer, [.uint(40), .uint(0), .binary([1]), .uint(0), .yes], channel: 7,
            payload: FieldClient.message("m"))
        node.receive(connection, transfer + transfer.replacingID(1))
        node.receive(connection, Self.asking(handle: 90, count: 0, credit: 1, channel: 7))
        node.settle()
        let first = try #require(Self.flows(connection.link.takeSent()).last)
        #expect(first.channel == 1 && first.handle == attached[0])
        #expect(first.deliveryCount == 1 && first.credit == 0 && first.available == 1)
        #expect(first.nextIncomingID == 1 && first.nextOutgoingID == 1)
        node.receive(connection, Self.asking(handle: 40, count: 72, channel: 7))
        node.settle()
        let second = try #require(Self.flows(connection.link.takeSent()).last)
        #expect(second.channel == 1 && second.handle == attached[1] && second.deliveryCount == 72)
        node.receive(connection, Self.asking(channel: 3))
        node.settle()
        let third = try #require(Self.flows(connection.link.takeSent()).last)
        #expect(third.channel == 0 && third.nextIncomingID == 0 && third.handle == nil)
        // A handle that is free again, and a link that takes another one of ours.
        let detach = ScanFrames.frame(.detach, [.uint(90), .yes], channel: 7)
        node.receive(connection, detach + attach("z", 90, receives: true))
        node.settle()
        let now = Self.frames(connection.link.takeSent()).compactMap {
            $0.count > 10 && $0[10] == 0x12 ? ScanFrames.fields($0)?.handle : nil
        }
        node.receive(connection, Self.asking(handle: 90, count: 0, credit: 3, channel: 7))
        node.settle()
        let fourth = Self.flows(connection.link.takeSent())
        #expect(fourth.map(\.handle) == now && fourth.map(\.credit) == [3])
        #expect(connection.closing == nil)
    }

    // MARK: Bounds

    @Test func manyQuestionsHaveOneAnswer() throws {
        let client = FieldClient(try FieldNode())
        _ = client.receiver(from: "a", credit: 10)
        _ = client.receiver("s", from: "b", credit: 10)
        var bytes: [UInt8] = []
        for _ in 0..<500 {
            bytes += Self.asking(handle: 0, count: 0, credit: 10) + Self.asking()
            bytes += Self.asking(handle: 1, count: 0, credit: 10)
        }
        let flows = Self.flows(Self.answer(client, to: bytes))
        // A link's answer tells the session's state, too.
        #expect(flows.map(\.handle) == [0, 1])
        #expect(flows.allSatisfy { $0.asks == nil })
        #expect(client.closing == nil)
    }

    /// Whoever is gone is not answered, and nothing else is disturbed.
    @Test func linksThatAreGoneAreNotAnswered() throws {
        let client = FieldClient(try FieldNode())
        let kept = client.receiver("k", from: "a", credit: 5)
        let link = client.proton.receiver(client.session, "r", from: "queue://q")
        let bytes = client.proton.bytes()
        // Refused; the client does not know yet.
        let answer = Self.answer(client, to: bytes + Self.asking(handle: 1, count: 0, credit: 5))
        #expect(Self.flows(answer) == [])
        #expect(client.condition(link) == "amqp:not-implemented")
        pn_link_close(link)
        client.pump()
        // Asked and detached at once.
        let leaving =
            Self.asking(handle: 0, count: 0, credit: 5) + ScanFrames.frame(.detach, [.uint(0), .yes])
        #expect(Self.flows(Self.answer(client, to: leaving)) == [])
        // Asked at the end of the session, and of the connection.
        let end = Self.asking() + ScanFrames.frame(.end, [])
        #expect(Self.flows(Self.answer(client, to: end)) == [])
        _ = kept
    }

    // MARK: What is sent

    /// However the engine's bytes are cut, the same is counted.
    @Test func anyPiecesWillDo() throws {
        let client = FieldClient(try FieldNode())
        let connection = client.node.accept()
        var bytes: [UInt8] = []
        client.node.receive(
            connection,
            Array("AMQP".utf8) + [0, 1, 0, 0] + ScanFrames.frame(.open, [.string("d")])
                + ScanFrames.frame(.begin, [.null, .uint(5), .uint(1_000), .uint(100)], channel: 9)
                + ScanFrames.frame(
                    .attach, [.string("n"), .uint(4), .yes, .null, .null, .described(0x28, .list([.string("a")]))],
                    channel: 9)
                + Self.asking(handle: 4, count: 0, credit: 100, channel: 9))
        client.node.settle()
        client.send((1...50).map { "\($0)" }, on: client.sender(to: "a"))
        client.pump()
        client.node.settle()
        bytes += connection.link.takeSent()
        let pointer = try #require(OpaquePointer(bitPattern: 64))
        var request = EchoRequest(channel: 9, nextIncomingID: 5, askedAt: 1)
        request.link = EchoRequest.Link(
            engine: Engine.Link(pointer: pointer),
            nameHash: Frame.linkHash(isOutgoing: true, "n".utf8), count: 0)
        for size in [1, 2, 3, 7, 8, 10, 11, 12, 64, bytes.count] {
            var sent = SentFrames()
            var rest = bytes[...]
            while !rest.isEmpty {
                rest.prefix(size).withUnsafeBytes { sent.note($0) }
                rest = rest.dropFirst(size)
            }
            #expect(sent.isBetweenFrames)
            #expect(sent.flowCount == 1)
            let state = try #require(sent.state(for: request))
            #expect(state.nextOutgoingID == 50 && state.channel == 0 && state.handle == 0)
            request.askedAt = 0
            #expect(sent.state(for: request) == nil)
            request.askedAt = 1
        }
    }
}

extension [UInt8] {
    /// The transfer with another delivery-id, which is at its usual place.
    fileprivate func replacingID(_ id: UInt8) -> [UInt8] {
        // delivery-id 0 has one byte, and another number two.
        guard let place = firstIndex(of: 0x43) else { return self }
        var bytes = self
        bytes.replaceSubrange(place...place, with: [0x52, id])
        bytes[3] += 1
        bytes[12] += 1
        return bytes
    }
}
