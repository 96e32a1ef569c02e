import Core
import Testing

@testable import Reactor

/// The line protocol on a lane whose chore puts off a publish, as that of delayed wills does.
private final class ChoreAdapter: Adapter {
    let name = "chore"
    private let line: LineAdapter
    private let router: Router

    init(router: Router) {
        line = LineAdapter(router: router)
        self.router = router
    }

    func makeConversation(link: Link, on lane: Lane) -> Conversation {
        if lane.chores.isEmpty {
            let principal = Principal(identity: Identity(), clientID: "chore", router: router)
            lane.chores.append { lane in
                let event = Array("due".utf8).withUnsafeBytes { topic in
                    Event(
                        topic: topic, properties: .init(start: nil, count: 0), payload: .init(start: nil, count: 0),
                        qos: 0, isRetained: false, expiresAt: 0)
                }
                lane.publishLater(event, as: principal)
            }
        }
        return line.makeConversation(link: link, on: lane)
    }
}

extension Sockets {
    @Suite("What chores put off")
    struct ChoreTests {
        /// Nothing else happens on the lane: no byte arrives, no connection ends.
        @Test("A publish put off by a chore goes out in the same pass")
        func publishedInTheSamePass() throws {
            let stage = try Stage(adapter: { ChoreAdapter(router: $0) })
            let client = try Client(stage)
            try client.subscribe("due")
            #expect(try client.line() == "EVT due ")
        }
    }
}
