import Core

/// A whole protocol in one page, built on Core's public interface alone: the worked example of
/// `docs/adding-an-adapter.md`, and the proof that a protocol comes in without a line in Core.
///
/// Lines of text. The client says `SUB filter`, answered `OK` or `NO`; `PUB topic payload`; `QUIT`. It is told
/// `EVT topic payload`.
final class LineAdapter: Adapter {
    let name = "line"
    private let router: Router

    init(router: Router) { self.router = router }

    func makeConversation(link: Link, on lane: Lane) -> Conversation { LineConversation(link, router, lane) }
}

/// The state machine of one connection. The connection owns it, so it must not own the connection.
private final class LineConversation: Conversation {
    private unowned let link: Link
    private let principal: Principal
    private let port: LinePort

    init(_ link: Link, _ router: Router, _ lane: Lane) {
        self.link = link
        principal = Principal(identity: Identity(), clientID: link.peer, router: router)
        port = LinePort(link)
        super.init()
        router.register(port, on: lane)
    }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        var start = 0
        turn.principal = principal
        while let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) {
            let parts = bytes[start..<end].split(
                separator: UInt8(ascii: " "), maxSplits: 2, omittingEmptySubsequences: false)
            switch (String(decoding: parts[0], as: UTF8.self), parts.count) {
            case ("PUB", 3):
                if turn.isFull { return Progress(consumed: start, verdict: .routeFirst) }
                publish(parts[1], parts[2], turn)
            case ("SUB", 2):
                // What was published before must not reach a subscription that comes after it.
                if !turn.isEmpty { return Progress(consumed: start, verdict: .routeFirst) }
                subscribe(parts[1], on: lane)
            case ("QUIT", 1): return Progress(consumed: end + 1, verdict: .close(.clientDisconnected))
            default: return Progress(consumed: start, verdict: .close(.malformedPacket))
            }
            start = end + 1
        }
        let isTooLarge = bytes.count - start > lane.limits.maxPacketBytes
        return Progress(consumed: start, verdict: isTooLarge ? .close(.packetTooLarge) : .waiting)
    }

    private func publish(_ topic: Slice<UnsafeRawBufferPointer>, _ payload: Slice<UnsafeRawBufferPointer>, _ turn: Turn)
    {
        guard let base = topic.base.baseAddress else { return }
        let event = turn.events + turn.eventCount
        event.pointee = EventView(payload: base + payload.startIndex, payloadLength: payload.count)
        turn.runs[turn.runCount] = EventRun(
            topic: base + topic.startIndex, topicLength: topic.count, events: event, count: 1, wire: base,
            wireLength: 0, properties: base, propertiesLength: 0, publisher: port.address, layout: .none, qos: 0,
            isRetained: false)
        turn.eventCount += 1
        turn.runCount += 1
    }

    private func subscribe(_ text: Slice<UnsafeRawBufferPointer>, on lane: Lane) {
        var isGranted = false
        if let filter = try? TopicFilter(text, grammar: .either, limits: lane.limits) {
            let subscription = Subscription(filter: filter, options: .qos(0))
            if case .granted = principal.router.subscribe(port, subscription, as: principal, on: lane) {
                isGranted = true
            }
        }
        link.append(line: isGranted ? "OK\n" : "NO\n")
    }

    override func close(_ reason: CloseReason, on lane: Lane) { principal.router.unregister(port, on: lane) }
}

/// Where the router delivers to; it leaves with the conversation.
private final class LinePort: Port {
    private unowned let link: Link

    init(_ link: Link) { self.link = link }

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        for index in 0..<run.pointee.count {
            if link.isCongested {
                lane.counters.drop(.outputFull)
                continue
            }
            let event = run.pointee.events[index]
            link.append(line: "EVT ")
            link.append(run.pointee.topic, run.pointee.topicLength)
            link.append(line: " ")
            link.append(event.payload, Int(event.payloadLength))
            link.append(line: "\n")
            lane.counters.eventsOut &+= 1
        }
        return 0
    }
}

extension Output {
    /// Appends a short piece of text.
    func append(line: StaticString) { append(line.utf8Start, line.utf8CodeUnitCount) }
}
