import Core
import TestSupport
import Testing

@testable import Web

/// Publishers that a full port holds, as the way to other nodes does: they are answered when it has room.
@Suite("Publishers of the web that a full port holds") struct HeldPublisherTests {
    private final class HoldingPort: Port {
        var held: [Lane.Receipt] = []

        override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
            if let receipt = lane.hold(run, evenImpatient: true) { held.append(receipt) }
            return 0
        }
    }

    private final class Waiter: ReceiptWaiter {
        var settled: [Int] = []
        func settled(_ tag: Int, refused: Int, on lane: Lane) { settled.append(tag) }
    }

    private struct OpenDoor: Authenticator {
        func authenticate(
            _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
        ) -> AuthenticationResult? { .accepted(Identity(user: credentials.user)) }
    }

    /// A router, two lanes, and a port on one of them that holds who publishes to `far/#`.
    private struct Stand {
        let stage = WebSocketStage(lanes: 2)
        let router = Router(limits: Limits(), hashKey: 4_711)
        let context: WebContext
        let port = HoldingPort()
        let principal: Principal

        init(lane: Int) throws {
            context = WebContext(
                routers: ["default": router], authenticator: OpenDoor(), settings: WebSettings(), nodeName: "test",
                version: "0", instance: "run", adapters: [:], webhooks: nil, random: { 4 }, wallClock: { 0 })
            principal = Principal(identity: Identity(user: nil), clientID: "", router: router)
            router.register(port, on: stage.lanes[lane])
            _ = router.subscribe(
                port, Subscription(filter: try TopicFilter("far/#", grammar: .mqtt), options: .qos(1)),
                as: principal, on: stage.lanes[lane])
        }

        func release() {
            guard !port.held.isEmpty else { return }
            stage.lanes[port.address.lane].answer(port.held.removeFirst())
            stage.settle()
        }
    }

    @Test(arguments: [0, 1]) func requestsWait(lane: Int) throws {
        let stand = try Stand(lane: lane)
        let own = stand.stage.lanes[0]
        let publisher = PublisherPort.of(stand.router, stand.context.state(of: own), on: own)
        let waiter = Waiter()
        for tag in 1...2 {
            let event = Array("far/1".utf8).withUnsafeBytes { topic in
                Event(
                    topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0),
                    payload: UnsafeRawBufferPointer(start: nil, count: 0), qos: 1, isRetained: false)
            }
            let outcome = stand.router.publish(
                event, as: stand.principal, publisher: publisher.address, on: own)
            #expect(publisher.expect(outcome, tag: tag, for: waiter))
        }
        stand.stage.settle()
        #expect(waiter.settled.isEmpty && publisher.count == 2 && stand.port.held.count == 2)
        stand.release()
        #expect(waiter.settled == [1])
        stand.release()
        #expect(waiter.settled == [1, 2] && publisher.count == 0)
    }

    @Test(arguments: [0, 1]) func publishesOverWebSocketWait(lane: Int) throws {
        let stand = try Stand(lane: lane)
        let connection = stand.stage.open(.text) { link in
            JSONConversation(
                stand.context, link: link, principal: stand.principal, until: .max, on: stand.stage.lanes[0])
        }
        func ask(_ text: String) -> [String]? {
            connection.ask(ClientFrame.text(text))?.map { String(decoding: $0.payload, as: UTF8.self) }
        }
        #expect(ask(#"{"op":"publish","id":1,"topic":"far/1","payload":"x","qos":1}"#) == [])
        #expect(ask(#"{"op":"publish","id":2,"topic":"far/2","payload":"x","qos":1}"#) == [])
        #expect(ask(#"{"op":"publish","id":3,"topic":"near","payload":"x","qos":1}"#)?.count == 1)
        #expect(stand.port.held.count == 2)
        for id in 1...2 {
            stand.release()
            let frames = try #require(ServerFrame.all(connection.link.takeSent()))
            #expect(frames.count == 1)
            let text = String(decoding: frames.first?.payload ?? [], as: UTF8.self)
            #expect(text.contains(#""op":"ok""#) && text.contains("\"id\":\(id)"), "\(text)")
        }
    }

    /// What a client says that the node does not read cannot count as silence.
    @Test func aClientThatIsNotReadIsNotSilent() throws {
        let stand = try Stand(lane: 0)
        let connection = stand.stage.open(.text) { link in
            JSONConversation(
                stand.context, link: link, principal: stand.principal, until: .max, on: stand.stage.lanes[0])
        }
        let limit = stand.stage.lanes[0].limits.maxUnsettled
        for id in 0...limit {
            let text = #"{"op":"publish","id":\#(id),"topic":"far/1","payload":"x","qos":1}"#
            _ = connection.ask(ClientFrame.text(text))
        }
        #expect(stand.port.held.count == limit)
        for _ in 0..<4 { stand.stage.advance(milliseconds: 31_000) }
        #expect(connection.closing == nil && connection.finishing == nil)
        for _ in 0...limit { stand.release() }
        let frames = try #require(ServerFrame.all(connection.link.takeSent()))
        #expect(frames.count { String(decoding: $0.payload, as: UTF8.self).contains(#""op":"ok""#) } == limit + 1)
        // From then on it is asked again, and does not answer.
        for _ in 0..<3 { stand.stage.advance(milliseconds: 31_000) }
        #expect(connection.closing != nil || connection.finishing != nil)
    }
}
