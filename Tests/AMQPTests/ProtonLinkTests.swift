import CProton
import Testing

@testable import AMQP

/// Links, termini and credit of the engine.
@Suite struct ProtonLinkTests {
    // MARK: Termini

    @Test func readsWhatASourceSays() throws {
        let stage = EngineStage()
        let (session, ours) = stage.open()
        let link = stage.client.receiver(session, "sub|1", from: "a/#") { link in
            let source = pn_link_source(link)
            pn_terminus_set_durability(source, PN_DELIVERIES)
            pn_terminus_set_expiry_policy(source, PN_EXPIRE_NEVER)
            pn_terminus_set_timeout(source, 17)
            pn_terminus_set_distribution_mode(source, PN_DIST_MODE_COPY)
            ProtonEngine.put(symbols: ["topic", "shared"], into: pn_terminus_capabilities(source))
            Self.putFilters(pn_terminus_filter(source))
            pn_link_set_snd_settle_mode(link, PN_SND_SETTLED)
            pn_link_set_rcv_settle_mode(link, PN_RCV_SECOND)
            pn_link_set_max_message_size(link, 4_096)
        }
        stage.pump()
        let attached = try #require(stage.takeAttached())
        #expect(stage.engine.name(attached) == "sub|1")
        #expect(stage.engine.session(of: attached) == ours)
        #expect(!stage.engine.isIncoming(attached))
        let attach = stage.engine.remoteAttach(attached)
        #expect(attach.senderSettles == .settled)
        #expect(attach.receiverSettles == .second)
        #expect(attach.maxMessageBytes == 4_096)
        let source = attach.source
        #expect(source.kind == .source)
        #expect(source.address == "a/#")
        #expect(source.durability == .unsettledState)
        #expect(source.expiry == .never)
        #expect(source.timeout == 17)
        #expect(source.distributionMode == "copy")
        #expect(source.capabilities == ["topic", "shared"])
        #expect(source.filters.count == 3)
        #expect(source.filters[0].name == "selector")
        #expect(source.filters[0].symbol == "apache.org:selector-filter:string")
        #expect(source.filters[0].text == "a > 1")
        #expect(source.filters[0].value == [0xA1, 5] + Array("a > 1".utf8))
        #expect(source.filters[1].code == 0x0000_468C_0000_0003)
        #expect(source.filters[1].symbol == nil)
        #expect(source.filters[1].value == [0x45])
        #expect(source.filters[1].text == nil)
        #expect(source.filters[2].name == "plain")
        #expect(source.filters[2].symbol == nil && source.filters[2].code == nil)
        #expect(source.filters[2].value == [0x54, 7])

        // What is granted comes back as it was said.
        stage.engine.attach(
            attached,
            LocalAttach(
                source: source, target: attach.target, senderSettles: .settled, receiverSettles: .first,
                maxMessageBytes: 9))
        stage.pump()
        let granted = ProtonEngine.terminus(pn_link_remote_source(link))
        #expect(granted.address == "a/#")
        #expect(granted.durability == .unsettledState)
        #expect(granted.expiry == .never)
        #expect(granted.timeout == 17)
        #expect(granted.distributionMode == "copy")
        #expect(granted.capabilities == ["topic", "shared"])
        #expect(granted.filters.map(\.value) == source.filters.map(\.value))
        #expect(granted.filters.map(\.symbol) == source.filters.map(\.symbol))
        #expect(granted.filters.map(\.code) == source.filters.map(\.code))
        #expect(pn_link_remote_snd_settle_mode(link) == PN_SND_SETTLED)
        #expect(pn_link_remote_rcv_settle_mode(link) == PN_RCV_FIRST)
        #expect(pn_link_remote_max_message_size(link) == 9)
    }

    /// A described string, a described empty list and a value that is not described.
    private static func putFilters(_ data: OpaquePointer?) {
        guard let data else { return }
        func put(_ text: String, _ put: (OpaquePointer?, pn_bytes_t) -> Int32) {
            text.withCString { _ = put(data, pn_bytes_t(size: text.utf8.count, start: $0)) }
        }
        pn_data_put_map(data)
        pn_data_enter(data)
        put("selector", pn_data_put_symbol)
        pn_data_put_described(data)
        pn_data_enter(data)
        put("apache.org:selector-filter:string", pn_data_put_symbol)
        put("a > 1", pn_data_put_string)
        pn_data_exit(data)
        put("no-local", pn_data_put_symbol)
        pn_data_put_described(data)
        pn_data_enter(data)
        pn_data_put_ulong(data, 0x0000_468C_0000_0003)
        pn_data_put_list(data)
        pn_data_exit(data)
        put("plain", pn_data_put_symbol)
        pn_data_put_int(data, 7)
        pn_data_exit(data)
    }

    @Test func readsWhatATargetSays() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        _ = stage.client.sender(session, "s", to: "orders") {
            ProtonEngine.put(symbols: ["topic"], into: pn_terminus_capabilities(pn_link_target($0)))
        }
        stage.pump()
        let link = try #require(stage.takeAttached())
        #expect(stage.engine.isIncoming(link))
        let attach = stage.engine.remoteAttach(link)
        #expect(attach.target.kind == .target)
        #expect(attach.target.address == "orders")
        #expect(attach.target.capabilities == ["topic"])
        #expect(attach.source.kind == .null || attach.source.address == nil)
        #expect(attach.senderSettles == .mixed)
    }

    @Test func tellsNullAnonymousDynamicAndCoordinatorApart() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        _ = stage.client.sender(session, "null", to: nil) { pn_terminus_set_type(pn_link_target($0), PN_UNSPECIFIED) }
        _ = stage.client.sender(session, "anonymous", to: nil)
        _ = stage.client.sender(session, "coordinator", to: nil) {
            pn_terminus_set_type(pn_link_target($0), PN_COORDINATOR)
        }
        _ = stage.client.receiver(session, "dynamic", from: nil) {
            pn_terminus_set_dynamic(pn_link_source($0), true)
        }
        stage.pump()
        var kinds: [String: Terminus] = [:]
        while let link = stage.takeAttached() {
            let attach = stage.engine.remoteAttach(link)
            kinds[stage.engine.name(link)] = stage.engine.isIncoming(link) ? attach.target : attach.source
        }
        #expect(kinds["null"]?.kind == .null)
        #expect(kinds["anonymous"]?.kind == .target)
        #expect(kinds["anonymous"]?.address == nil)
        #expect(kinds["coordinator"]?.kind == .coordinator)
        #expect(kinds["dynamic"]?.kind == .source)
        #expect(kinds["dynamic"]?.isDynamic == true)
    }

    // MARK: Refuse and detach

    @Test(arguments: [true, false])
    func refusesALink(_ isSender: Bool) throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let link =
            isSender ? stage.client.sender(session, "x", to: "x") : stage.client.receiver(session, "x", from: "x")
        stage.pump()
        let ours = try #require(stage.takeAttached())
        var error = AMQPError(.notFound, "no such thing")
        error.info = [("address", "x")]
        stage.engine.refuse(ours, error)
        stage.pump()
        #expect(stage.client.count(PN_LINK_REMOTE_OPEN) == 1)
        #expect(stage.client.count(PN_LINK_REMOTE_CLOSE) == 1)
        let null = isSender ? pn_link_remote_target(link) : pn_link_remote_source(link)
        #expect(pn_terminus_get_type(null) == PN_UNSPECIFIED)
        #expect(ProtonClient.condition(pn_link_remote_condition(link))?.name == "amqp:not-found")
        #expect(ProtonClient.condition(pn_link_remote_condition(link))?.text == "no such thing")
        #expect(ProtonEngine.texts(pn_condition_info(pn_link_remote_condition(link))).map(\.value) == ["x"])
        pn_link_close(link)
        stage.pump()
        #expect(try #require(stage.takeDetached()).link == ours)
        stage.engine.free(ours)
        stage.pump()
        #expect(stage.events.isEmpty)
    }

    @Test func refusesATransactionCoordinator() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let link = stage.client.sender(session, "tx", to: nil) {
            pn_terminus_set_type(pn_link_target($0), PN_COORDINATOR)
        }
        stage.pump()
        stage.engine.refuse(try #require(stage.takeAttached()), AMQPError(.notImplemented, "no transactions"))
        stage.pump()
        #expect(ProtonClient.condition(pn_link_remote_condition(link))?.name == "amqp:not-implemented")
    }

    @Test func detachesAndCloses() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let first = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        stage.engine.detach(ours, isClosing: false, AMQPError(.stolen, "elsewhere"))
        stage.pump()
        #expect(stage.client.count(PN_LINK_REMOTE_DETACH) == 1)
        #expect(ProtonClient.condition(pn_link_remote_condition(first))?.name == "amqp:link:stolen")
        pn_link_detach(first)
        stage.pump()
        let detached = try #require(stage.takeDetached())
        #expect(!detached.isClosing && detached.error == nil)
        stage.engine.free(ours)

        let second = stage.client.receiver(session, "2", from: "a")
        let other = stage.answerAttach()
        pn_condition_set_name(pn_link_condition(second), "amqp:resource-limit-exceeded")
        pn_link_close(second)
        stage.pump()
        let closed = try #require(stage.takeDetached())
        #expect(closed.link == other && closed.isClosing)
        #expect(closed.error == AMQPError(.resourceLimitExceeded, ""))
        stage.engine.detach(other, isClosing: true, nil)
        stage.engine.free(other)
        stage.pump()
        #expect(stage.client.count(PN_LINK_REMOTE_CLOSE) == 1)
    }

    @Test func reusesANameAfterDetach() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        for _ in 0..<10 {
            let link = stage.client.receiver(session, "again", from: "a")
            let ours = stage.answerAttach()
            pn_link_detach(link)
            stage.pump()
            #expect(try #require(stage.takeDetached()).link == ours)
            stage.engine.detach(ours, isClosing: false, nil)
            stage.engine.free(ours)
            stage.pump()
            pn_link_free(link)
        }
        #expect(stage.events.isEmpty)
    }

    @Test func keepsAContext() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        _ = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        #expect(stage.engine.context(ours) == nil)
        let context = UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 1)
        defer { context.deallocate() }
        stage.engine.setContext(ours, context)
        #expect(stage.engine.context(ours) == context)
    }

    // MARK: Events of what is freed

    @Test func namesNoFreedLink() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 10)
        // Deliveries and a detach that are in the collector while the link is freed.
        stage.client.send([1], on: sender)
        stage.client.send([2], on: sender)
        pn_link_close(sender)
        stage.client.bytes().withUnsafeBytes { stage.engine.take($0) }
        stage.engine.detach(ours, isClosing: true, nil)
        stage.engine.free(ours)
        #expect(stage.engine.nextEvent() == nil)
        stage.pump()
        #expect(stage.events.isEmpty)
    }

    @Test func namesNothingOfAFreedSession() throws {
        let stage = EngineStage()
        let (session, ours) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        _ = stage.answerAttach(credit: 10)
        stage.client.send([1], on: sender)
        _ = stage.client.receiver(session, "2", from: "a")
        stage.client.bytes().withUnsafeBytes { stage.engine.take($0) }
        pn_session_close(session)
        stage.client.bytes().withUnsafeBytes { stage.engine.take($0) }
        stage.engine.end(ours, nil)
        stage.engine.free(ours)
        #expect(stage.engine.nextEvent() == nil)
        stage.pump()
        #expect(stage.events.isEmpty)
        // The channel can be used again.
        let next = stage.client.session()
        stage.pump()
        stage.engine.begin(try #require(stage.takeBegun()))
        stage.pump()
        #expect(pn_session_state(next) == PN_LOCAL_ACTIVE | PN_REMOTE_ACTIVE)
    }

    // MARK: Credit

    @Test func countsCreditOfASender() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let receiver = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        #expect(stage.engine.credit(ours) == 0)
        stage.client.grant(receiver, 3)
        stage.pump()
        #expect(stage.takeFlows() == [ours])
        #expect(stage.engine.credit(ours) == 3)
        stage.send([1], on: ours, isSettled: true)
        #expect(stage.engine.credit(ours) == 2)
    }

    @Test func countsCreditOfAReceiver() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 2)
        #expect(pn_link_credit(sender) == 2)
        #expect(stage.engine.credit(ours) == 2)
        stage.client.send([1], on: sender, isSettled: true)
        stage.pump()
        #expect(stage.engine.credit(ours) == 1)
        for delivery in stage.takeDeliveries() {
            stage.engine.advance(ours)
            stage.engine.settle(delivery.delivery, nil)
        }
        #expect(stage.engine.credit(ours) == 1)
        stage.engine.grant(ours, 5)
        stage.pump()
        #expect(pn_link_credit(sender) == 6)
    }

    /// Proton takes transfers for which there is no credit; it is seen by the count.
    @Test func seesTransfersWithoutCredit() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 1)
        stage.client.send([7], on: sender, isSettled: true)
        var bytes = stage.client.bytes()
        stage.feed(bytes)
        #expect(stage.engine.credit(ours) == 0)
        // The same transfer again: delivery-id 1 in place of 0.
        let at = try #require(Search.positions([0x43, 0xA0, 8], in: bytes).first)
        bytes.replaceSubrange(at..<at + 1, with: [0x52, 1])
        bytes[3] += 1
        bytes[12] += 1
        stage.feed(bytes)
        #expect(stage.takeFailure() == nil)
        #expect(stage.engine.credit(ours) == -1)
    }

    /// A sender that moves its delivery-count back would grant itself credit.
    @Test func takesNoCreditFromASender() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 4)
        stage.client.send([7], on: sender, isSettled: true)
        stage.pump()
        #expect(stage.engine.credit(ours) == 3)
        // flow: windows, handle 0, delivery-count 4,294,967,000.
        stage.feed([
            0, 0, 0, 33, 2, 0, 0, 0, 0x00, 0x53, 0x13, 0xC0, 20, 7, 0x43, 0x52, 99, 0x52, 1, 0x52, 99, 0x43,
            0x70, 0xFF, 0xFF, 0xFE, 0xD8, 0x52, 4, 0x40, 0x40, 0x40, 0x40,
        ])
        #expect(stage.takeFailure() == nil)
        #expect(stage.takeFlows() == [ours])
        #expect(stage.engine.credit(ours) == 3)
    }

    @Test func drains() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let receiver = stage.client.receiver(session, "1", from: "a")
        let ours = stage.answerAttach()
        #expect(!stage.engine.isDraining(ours))
        stage.client.drain(receiver, 10)
        stage.pump()
        #expect(stage.engine.isDraining(ours))
        stage.send([1], on: ours, isSettled: true)
        stage.send([2], on: ours, isSettled: true)
        stage.engine.drained(ours)
        stage.pump()
        #expect(stage.engine.credit(ours) == 0)
        #expect(stage.client.received[receiver]?.map(\.bytes) == [[1], [2]])
        #expect(!pn_link_draining(receiver))
        #expect(pn_link_drained(receiver) == 8)
        // Credit that comes without drain ends it.
        pn_link_set_drain(receiver, false)
        stage.client.grant(receiver, 1)
        stage.pump()
        #expect(!stage.engine.isDraining(ours))
        #expect(stage.engine.credit(ours) == 1)
    }

    @Test func learnsThatASenderGivesUpItsCredit() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "1", to: "a")
        let ours = stage.answerAttach(credit: 4)
        // flow: windows, handle 0, delivery-count 4.
        stage.feed([
            0, 0, 0, 28, 2, 0, 0, 0, 0x00, 0x53, 0x13, 0xC0, 15, 7, 0x43, 0x52, 99, 0x43, 0x52, 99, 0x43,
            0x52, 4, 0x43, 0x40, 0x40, 0x40, 0x40,
        ])
        #expect(stage.takeFailure() == nil)
        #expect(stage.engine.credit(ours) == 0)
        _ = sender
    }
}
