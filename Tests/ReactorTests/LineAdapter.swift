import Core

/// A whole protocol in one page, built on Core's public interface alone: the worked example of
/// `docs/adding-an-adapter.md`, and the proof that a protocol comes in without a line in Core.
///
/// A client sends lines: `SUB <filter>` and `PUB <topic> <payload>`. It gets `EVT <topic> <payload>`, and `ERR` for
/// what it may not do.
final class LineAdapter: Adapter {
    let name = "line"
    private let router: Router

    init(router: Router) { self.router = router }

    func makeConversation(link: Link, on lane: Lane) -> Conversation {
        let principal = Principal(identity: Identity(), clientID: "line", router: router)
        let conversation = LineConversation(principal: principal, link: link)
        router.register(conversation.port, on: lane)
        return conversation
    }
}

/// Lines in, publishes and subscriptions out.
private final class LineConversation: Conversation {
    let port: LinePort
    private let principal: Principal
    private unowned(unsafe) let link: Link

    init(principal: Principal, link: Link) {
        self.principal = principal
        self.link = link
        port = LinePort(link: link)
    }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        turn.principal = principal
        var start = 0
        while let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) {
            if turn.isFull { return Progress(consumed: start, verdict: .routeFirst) }
            let line = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
            if line.starts(with: Array("PUB ".utf8)) {
                publish(UnsafeRawBufferPointer(rebasing: line[4...]), turn)
            } else {
                // A subscription must not see what was published before it.
                if !turn.isEmpty { return Progress(consumed: start, verdict: .routeFirst) }
                if !subscribe(line, on: lane) { say("ERR\n") }
            }
            start = end + 1
        }
        return Progress(consumed: start, verdict: .waiting)
    }

    private func publish(_ text: UnsafeRawBufferPointer, _ turn: Turn) {
        let space = text.firstIndex(of: UInt8(ascii: " ")) ?? text.count
        guard let base = text.baseAddress, space > 0 else { return say("ERR\n") }
        let payload = min(space + 1, text.count)
        let event = turn.events + turn.eventCount
        event.pointee = EventView(payload: base + payload, payloadLength: text.count - payload)
        turn.runs[turn.runCount] = EventRun(
            topic: base, topicLength: space, events: event, count: 1, wire: base, wireLength: 0, properties: base,
            propertiesLength: 0, publisher: port.address, layout: .none, qos: 0, isRetained: false)
        turn.eventCount += 1
        turn.runCount += 1
    }

    private func subscribe(_ line: UnsafeRawBufferPointer, on lane: Lane) -> Bool {
        guard line.starts(with: Array("SUB ".utf8)),
            let filter = try? TopicFilter(line[4...], grammar: .either, limits: lane.limits)
        else { return false }
        let outcome = principal.router.subscribe(
            port, Subscription(filter: filter, options: .qos(0)), as: principal, on: lane)
        if case .granted = outcome { return true }
        return false
    }

    private func say(_ text: String) { Array(text.utf8).withUnsafeBytes { link.append($0.baseAddress!, $0.count) } }

    override func close(_ reason: CloseReason, on lane: Lane) { principal.router.unregister(port, on: lane) }
}

/// Events out, as lines.
private final class LinePort: Port {
    private unowned(unsafe) let link: Link

    init(link: Link) { self.link = link }

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        guard !link.isCongested else {
            lane.counters.drop(.outputFull, run.pointee.count)
            return 0
        }
        for index in 0..<run.pointee.count {
            let view = run.pointee.events[index]
            let words: [(UnsafeRawPointer, Int)] = [
                (run.pointee.topic, run.pointee.topicLength), (view.payload, Int(view.payloadLength)),
            ]
            var end: UInt8 = UInt8(ascii: " ")
            Array("EVT ".utf8).withUnsafeBytes { link.append($0.baseAddress!, $0.count) }
            for (bytes, count) in words {
                link.append(bytes, count)
                link.append(&end, 1)
                end = UInt8(ascii: "\n")
            }
        }
        return 0
    }
}
