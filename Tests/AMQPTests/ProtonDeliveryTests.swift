import CProton
import Testing

@testable import AMQP

/// Deliveries of the engine, in and out.
@Suite struct ProtonDeliveryTests {
    // MARK: In

    @Test func receivesAndSettles() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 100)
        stage.client.send([1, 2, 3], on: sender, isSettled: true)
        stage.client.send([4, 5], on: sender)
        stage.client.send([], on: sender)
        stage.pump()
        let deliveries = stage.takeDeliveries()
        #expect(deliveries.map(\.link) == [ours, ours, ours])
        for (delivery, expected) in zip(deliveries.map(\.delivery), [[1, 2, 3], [4, 5], []] as [[UInt8]]) {
            let state = stage.engine.state(delivery)
            #expect(!state.isPartial && !state.isAborted)
            #expect(state.isSettled == (expected.count == 3))
            #expect(state.pendingBytes == expected.count)
            #expect(stage.read(ours, 100) == expected)
            stage.engine.advance(ours)
            stage.engine.settle(delivery, state.isSettled ? nil : .accepted)
        }
        stage.pump()
        #expect(stage.events.isEmpty)
        #expect(stage.client.count(PN_DELIVERY) == 2)
    }

    @Test func readsInPieces() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 1)
        stage.client.send([1, 2, 3, 4, 5], on: sender)
        stage.pump()
        let delivery = try #require(stage.takeDeliveries().first).delivery
        #expect(stage.read(ours, 3) == [1, 2, 3])
        #expect(stage.engine.state(delivery).pendingBytes == 2)
        #expect(stage.read(ours, 3) == [4, 5])
        #expect(stage.read(ours, 3) == [])
    }

    @Test func everyOutcomeArrives() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 100)
        var error = AMQPError(.preconditionFailed, "no `to`")
        error.info = [("field", "to")]
        let outcomes: [Outcome?] = [
            .accepted, .rejected(error), .released, .modified(isFailed: true, isUndeliverableHere: false),
            .modified(isFailed: false, isUndeliverableHere: true), .rejected(nil), nil,
        ]
        let theirs = outcomes.map { _ in stage.client.send([1], on: sender) }
        stage.pump()
        for (delivery, outcome) in zip(stage.takeDeliveries(), outcomes) {
            stage.engine.advance(ours)
            stage.engine.settle(delivery.delivery, outcome)
        }
        stage.pump()
        let expected = [PN_ACCEPTED, PN_REJECTED, PN_RELEASED, PN_MODIFIED, PN_MODIFIED, PN_REJECTED, 0]
        #expect(theirs.map { pn_delivery_remote_state($0) } == expected.map { UInt64($0) })
        #expect(theirs.allSatisfy { pn_delivery_settled($0) })
        let rejected = pn_disposition_condition(pn_delivery_remote(theirs[1]))
        #expect(ProtonClient.condition(rejected)?.name == "amqp:precondition-failed")
        #expect(ProtonClient.condition(rejected)?.text == "no `to`")
        #expect(ProtonEngine.texts(pn_condition_info(rejected)).map(\.value) == ["to"])
        #expect(ProtonClient.condition(pn_disposition_condition(pn_delivery_remote(theirs[5]))) == nil)
        #expect(pn_disposition_is_failed(pn_delivery_remote(theirs[3])))
        #expect(!pn_disposition_is_undeliverable(pn_delivery_remote(theirs[3])))
        #expect(!pn_disposition_is_failed(pn_delivery_remote(theirs[4])))
        #expect(pn_disposition_is_undeliverable(pn_delivery_remote(theirs[4])))
    }

    /// One disposition tells of all deliveries that are accepted in a row.
    @Test func dispositionsAreCoalesced() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 100)
        for _ in 0..<100 { stage.client.send([1], on: sender) }
        stage.pump()
        for delivery in stage.takeDeliveries() {
            stage.engine.advance(ours)
            stage.engine.settle(delivery.delivery, .accepted)
        }
        let answer = stage.produce()
        #expect(answer.count < 50)
        #expect(Search.frame(0x15, in: answer) != nil)
        #expect(stage.client.count(PN_DELIVERY) == 100)
    }

    @Test func receivesALargeMessage() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 2)
        let message = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        stage.client.send(message, on: sender)
        // The frames come one after another, with an event each.
        var got: [UInt8] = []
        var rest = stage.client.bytes()[...]
        var partial = 0
        while !rest.isEmpty {
            let size = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
            #expect(size <= 65_536)
            stage.feed(Array(rest.prefix(size)))
            rest = rest.dropFirst(size)
            let delivery = try #require(stage.takeDeliveries().first).delivery
            let state = stage.engine.state(delivery)
            #expect(state.isPartial == !rest.isEmpty)
            partial += state.isPartial ? 1 : 0
            got += stage.read(ours, state.pendingBytes)
            guard !state.isPartial else { continue }
            stage.engine.advance(ours)
            stage.engine.settle(delivery, .accepted)
        }
        #expect(got == message)
        #expect(partial == 15)
        stage.pump()
        #expect(stage.client.count(PN_DELIVERY) == 1)
    }

    @Test func noticesAnAbortedDelivery() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 2)
        let theirs = stage.client.send([UInt8](repeating: 1, count: 10), on: sender, hasMore: true)
        stage.pump()
        let delivery = try #require(stage.takeDeliveries().first).delivery
        #expect(stage.engine.state(delivery).isPartial)
        pn_delivery_abort(theirs)
        stage.pump()
        #expect(stage.takeDeliveries().map(\.delivery) == [delivery])
        let state = stage.engine.state(delivery)
        #expect(state.isAborted && state.isSettled && !state.isPartial)
        #expect(state.pendingBytes == 0)
        #expect(stage.read(ours, 10) == [])
        stage.engine.advance(ours)
        stage.engine.settle(delivery, nil)
        stage.client.send([9], on: sender)
        stage.pump()
        let next = try #require(stage.takeDeliveries().first).delivery
        #expect(stage.engine.state(next).pendingBytes == 1)
        #expect(stage.read(ours, 10) == [9])
    }

    /// A delivery may be settled before it is complete (it is too large): the rest of it is thrown away.
    @Test(arguments: [true, false])
    func ignoresTheRestOfASettledDelivery(_ isProducedBetween: Bool) throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 5)
        let theirs = stage.client.send([1, 2], on: sender, hasMore: true)
        stage.feed(stage.client.bytes())
        let delivery = try #require(stage.takeDeliveries().first).delivery
        stage.engine.settle(delivery, .rejected(AMQPError(.messageSizeExceeded, "too large")))
        if isProducedBetween { stage.produce() }
        stage.client.append([3, 4], on: sender)
        stage.feed(stage.client.bytes())
        stage.client.append([5, 6], on: sender)
        pn_link_advance(sender)
        stage.feed(stage.client.bytes())
        stage.client.send([9], on: sender)
        stage.pump()
        let deliveries = stage.takeDeliveries()
        #expect(deliveries.count == 1)
        let next = try #require(deliveries.first).delivery
        #expect(stage.engine.state(next).pendingBytes == 1)
        #expect(stage.read(ours, 10) == [9])
        #expect(stage.engine.credit(ours) == 3)
        #expect(stage.takeFailure() == nil)
        #expect(pn_delivery_remote_state(theirs) == UInt64(PN_REJECTED))
    }

    @Test func namesNoSettledDelivery() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let first = stage.client.sender(session, "1", to: "a")
        let link = stage.answerAttach(credit: 5)
        let second = stage.client.sender(session, "2", to: "a")
        _ = stage.answerAttach(credit: 5)
        // An event of another link comes between two of the same delivery.
        stage.client.send([1], on: first, hasMore: true)
        var bytes = stage.client.bytes()
        stage.client.send([2], on: second)
        bytes += stage.client.bytes()
        stage.client.append([3], on: first)
        pn_link_advance(first)
        bytes += stage.client.bytes()
        bytes.withUnsafeBytes { stage.engine.take($0) }
        var named = 0
        while let event = stage.engine.nextEvent() {
            guard case .delivery(let delivery, let from) = event else { continue }
            named += 1
            if from == link {
                #expect(!stage.engine.state(delivery).isPartial)
                #expect(stage.read(link, 10) == [1, 3])
            }
            stage.engine.advance(from)
            stage.engine.settle(delivery, .accepted)
        }
        #expect(named == 2)
    }

    /// Deliveries may be settled long after they have been read, in any order.
    @Test func settlesLater() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 100)
        let theirs = (0..<10).map { stage.client.send([UInt8($0)], on: sender) }
        stage.pump()
        var held: [Engine.Delivery] = []
        for (index, delivery) in stage.takeDeliveries().enumerated() {
            #expect(stage.read(ours, 10) == [UInt8(index)])
            stage.engine.advance(ours)
            stage.engine.setContext(delivery.delivery, index)
            held.append(delivery.delivery)
        }
        stage.pump()
        #expect(stage.client.count(PN_DELIVERY) == 0)
        for delivery in held.reversed() {
            let index = stage.engine.context(delivery)
            stage.engine.settle(delivery, index % 2 == 0 ? .accepted : .released)
            stage.pump()
            let expected = index % 2 == 0 ? PN_ACCEPTED : PN_RELEASED
            #expect(pn_delivery_remote_state(theirs[index]) == UInt64(expected))
        }
    }

    // MARK: Out

    @Test func sendsSettledAndUnsettled() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let receiver = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        stage.client.grant(receiver, 10)
        stage.pump()
        #expect(stage.send([1, 2], on: ours, isSettled: true) == nil)
        #expect(stage.send([3, 4], on: ours) != nil)
        let parts: [[UInt8]] = [[5], [6, 7], [], [8]]
        parts[0].withUnsafeBytes { first in
            parts[1].withUnsafeBytes { second in
                parts[3].withUnsafeBytes { fourth in
                    let message = MessageParts(first: first, second: second, fourth: fourth)
                    #expect(stage.engine.send(message, on: ours, isSettled: true) == nil)
                }
            }
        }
        #expect(stage.engine.bufferedBytes == 8)
        #expect(stage.engine.credit(ours) == 7)
        stage.pump()
        #expect(stage.engine.bufferedBytes == 0)
        #expect(stage.client.received[receiver]?.map(\.bytes) == [[1, 2], [3, 4], [5, 6, 7, 8]])
        #expect(stage.client.received[receiver]?.map(\.isSettled) == [true, false, true])
    }

    @Test func hearsEveryOutcome() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let receiver = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        stage.client.grant(receiver, 10)
        stage.pump()
        let sent = (0..<6).compactMap { index -> Engine.Delivery? in
            let delivery = stage.send([UInt8(index)], on: ours)
            if let delivery { stage.engine.setContext(delivery, index) }
            return delivery
        }
        stage.pump()
        let got = try #require(stage.client.received[receiver]).map(\.delivery)
        let rejection = pn_disposition_condition(pn_delivery_local(got[1]))
        pn_condition_set_name(rejection, "amqp:internal-error")
        pn_condition_set_description(rejection, "broken")
        pn_disposition_set_failed(pn_delivery_local(got[3]), true)
        pn_disposition_set_undeliverable(pn_delivery_local(got[4]), true)
        for (delivery, state) in zip(got, [PN_ACCEPTED, PN_REJECTED, PN_RELEASED, PN_MODIFIED, PN_MODIFIED, nil]) {
            stage.client.settle(delivery, state)
        }
        stage.pump()
        let told = stage.takeDeliveries().map(\.delivery)
        #expect(Set(told) == Set(sent))
        for delivery in told {
            let (outcome, isSettled) = stage.engine.remoteState(delivery)
            #expect(isSettled)
            switch (stage.engine.context(delivery), outcome) {
            case (0, .accepted), (2, .released), (3, .modified(true, false)), (4, .modified(false, true)), (5, nil):
                break
            case (1, .rejected(let error)): #expect(error == AMQPError(.internalError, "broken"))
            default: Issue.record("\(stage.engine.context(delivery)) \(String(describing: outcome))")
            }
            stage.engine.settle(delivery)
        }
        stage.pump()
        #expect(stage.takeDeliveries().isEmpty)
        #expect(pn_link_unsettled(receiver) == 0)
    }

    /// A receiver that settles second says the outcome, and waits for the sender to settle.
    @Test func settlesFirst() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let receiver = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        stage.client.grant(receiver, 10)
        stage.pump()
        let sent = [stage.send([1], on: ours), stage.send([2], on: ours)].compactMap { $0 }
        stage.pump()
        let got = try #require(stage.client.received[receiver]).map(\.delivery)
        for delivery in got { pn_delivery_update(delivery, UInt64(PN_ACCEPTED)) }
        var bytes = stage.client.bytes()
        for delivery in got { pn_delivery_settle(delivery) }
        bytes += stage.client.bytes()
        bytes.withUnsafeBytes { stage.engine.take($0) }
        // Told twice of each, it is named once: it is settled then.
        var named: [Engine.Delivery] = []
        while let event = stage.engine.nextEvent() {
            guard case .delivery(let delivery, _) = event else { continue }
            named.append(delivery)
            stage.engine.settle(delivery)
        }
        #expect(named == sent)
    }

    @Test func tellsAReceiverThatItIsSettled() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let receiver = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        stage.client.grant(receiver, 10)
        stage.pump()
        let sent = try #require(stage.send([1], on: ours))
        stage.pump()
        let got = try #require(stage.client.received[receiver]?.first).delivery
        pn_delivery_update(got, UInt64(PN_ACCEPTED))
        stage.pump()
        let (outcome, isSettled) = stage.engine.remoteState(sent)
        guard case .accepted? = outcome, !isSettled else { throw Missing("accepted") }
        stage.engine.settle(sent)
        stage.pump()
        #expect(pn_delivery_settled(got))
        stage.client.settle(got, nil)
        stage.pump()
        #expect(stage.takeFailure() == nil)
    }

    @Test func sendsALargeMessage() throws {
        let stage = EngineStage { transport, _ in pn_transport_set_max_frame(transport, 16_384) }
        let (session, _) = stage.open()
        let receiver = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        stage.client.grant(receiver, 1)
        stage.pump()
        let message = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 17) }
        stage.send(message, on: ours)
        #expect(stage.engine.bufferedBytes == 1_000_000)
        stage.pump()
        #expect(stage.client.received[receiver]?.map(\.bytes) == [message])
    }

    /// What the peer's session window does not let through waits in the engine, and is counted.
    @Test func waitsForTheSessionsWindow() throws {
        let stage = EngineStage { transport, _ in pn_transport_set_max_frame(transport, 1_024) }
        stage.client.open()
        let session = pn_session(stage.client.connection)!
        pn_session_set_incoming_capacity(session, 4_096)
        pn_session_open(session)
        stage.pump()
        stage.engine.open([], offering: [])
        stage.engine.begin(try #require(stage.takeBegun()))
        let receiver = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        stage.client.grant(receiver, 100)
        stage.pump()
        for index in 0..<10 { stage.send([UInt8](repeating: UInt8(index), count: 500), on: ours, isSettled: true) }
        stage.engine.produce(into: stage.output)
        #expect(stage.engine.bufferedBytes == 3_000)
        stage.client.take(stage.output.takeBytes())
        stage.pump()
        #expect(stage.client.received[receiver]?.count == 10)
        #expect(stage.engine.bufferedBytes == 0)
    }

    /// Proton would put what a receiver sends into what is sent to it.
    @Test func takesNoTransferFromAReceiver() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        _ = stage.client.receiver(session, "1", from: "a")
        _ = stage.answerAttach()
        // Two transfers: handle 0, delivery-id 0 and 1, a tag of one byte.
        for id in [0, 1] as [UInt8] {
            let transfer: [UInt8] = [0, 0x53, 0x14, 0xC0, 8, 3, 0x43, 0x52, id, 0xA0, 1, id, 9]
            ([0, 0, 0, UInt8(transfer.count + 8), 2, 0, 0, 0] + transfer).withUnsafeBytes { stage.engine.take($0) }
        }
        while let event = stage.engine.nextEvent() { stage.events.append(event) }
        #expect(stage.takeDeliveries().isEmpty)
        #expect(try #require(stage.takeFailure()).condition == .notAllowed)
        stage.produce()
        #expect(stage.client.count(PN_CONNECTION_REMOTE_CLOSE) == 1)
    }
}
