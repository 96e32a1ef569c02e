import Core
import Synchronization
import Web
import TestSupport

/// A site that answers with what it was asked, in each of the ways there are: `/later…` by a responder that the test
/// holds, `/pub…` by publishing, `/alone…` by publishing alone, `/stream` with a stream, everything else at once.
final class PlaySite: HTTPSite {
    let limits: HTTPLimits
    private let held = Mutex<[HTTPResponder]>([])
    private let seen = Mutex<[String]>([])
    private let ends = Mutex<[CloseReason]>([])

    init(limits: HTTPLimits = HTTPLimits()) {
        self.limits = limits
    }

    /// Who publishes on a lane.
    private func principal(_ lane: Lane) -> Principal {
        if let known = lane.belongings["play"] as? Principal { return known }
        let made = Principal(identity: Identity(), clientID: "play", router: Router(limits: Limits(), hashKey: 1))
        lane.belongings["play"] = made
        return made
    }

    /// Requests in the order they were taken, as they are answered.
    var requests: [String] { seen.withLock { $0 } }
    /// Why streams ended.
    var streamEnds: [CloseReason] { ends.withLock { $0 } }
    /// Responders that have not answered, oldest first; the caller is their only owner.
    func takeResponders() -> [HTTPResponder] {
        held.withLock { held in
            defer { held = [] }
            return held
        }
    }

    /// Pages of another origin get a line more.
    func admit(_ head: RequestHead, of connection: HTTPConversation, on lane: Lane) -> Admission {
        if let origin = head.value("origin") { connection.extraLines = Array("X-Origin: \(origin.text)\r\n".utf8) }
        if head.target.text.hasPrefix("/forbidden") { return .answered(HTTPResponse(status: 403)) }
        return .granted
    }

    func take(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, of connection: HTTPConversation, _ turn: Turn,
        on lane: Lane
    ) -> RequestVerdict {
        let target = head.target.text
        let isPublish = target.hasPrefix("/pub") || target.hasPrefix("/alone")
        if !isPublish, !turn.isEmpty { return .routeFirst }
        if isPublish, target.hasPrefix("/alone"), !turn.isEmpty { return .routeFirst }
        let summary = "\(head.method.text) \(target) \(body.count):\(body.text)"
        seen.withLock { $0.append(summary) }
        if isPublish {
            publish(head.target, body, turn, on: lane)
            return target.hasPrefix("/alone") ? .publishingAlone : .publishing
        }
        if target.hasPrefix("/later") {
            let responder = connection.answerLater(on: lane)
            if target.hasPrefix("/later/soon") {
                responder.send(HTTPResponse(type: "text/plain", body: Array(summary.utf8)))
            } else {
                held.withLock { $0.append(responder) }
            }
            return .later
        }
        if target == "/stream" {
            connection.beginStream(lines: "Content-Type: text/event-stream\r\n")
            return .streaming(PlayStream(connection.link) { reason in self.ends.withLock { $0.append(reason) } })
        }
        let status = target.hasPrefix("/204") ? 204 : target.hasPrefix("/304") ? 304 : 200
        connection.respond(HTTPResponse(status: status, body: Array(summary.utf8)))
        return .answered
    }

    private func publish(_ target: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane)
    {
        guard let base = target.baseAddress else { return }
        let payload = body.baseAddress ?? base
        let event = turn.events + turn.eventCount
        event.pointee = EventView(payload: payload, payloadLength: body.count)
        turn.runs[turn.runCount] = EventRun(
            topic: base, topicLength: target.count, events: event, count: 1, wire: payload, wireLength: body.count,
            properties: payload, propertiesLength: 0, publisher: .none, layout: .none, qos: 0, isRetained: false)
        turn.eventCount += 1
        turn.runCount += 1
        turn.principal = principal(lane)
    }

    func routed(_ turn: Turn, of connection: HTTPConversation, on lane: Lane) {
        for number in 0..<turn.runCount {
            let run = turn.runs + number
            let event = run.pointee.events[0]
            let topic = UnsafeRawBufferPointer(start: run.pointee.topic, count: Int(run.pointee.topicLength))
            let body = UnsafeRawBufferPointer(start: event.payload, count: Int(event.payloadLength))
            connection.respond(HTTPResponse(status: 202, body: Array("\(topic.text) \(body.text)".utf8)))
        }
    }
}

/// A stream that notes how it ends.
private final class PlayStream: HTTPStream {
    var owner: Identity? { nil }
    private unowned let link: Link
    private let note: (CloseReason) -> Void

    init(_ link: Link, _ note: @escaping (CloseReason) -> Void) {
        self.link = link
        self.note = note
    }

    func tick(on lane: Lane) -> Result<UInt64?, CloseReason> { .success(nil) }
    func outputDrained(on lane: Lane) {}
    func drain(on lane: Lane) {
        let line: StaticString = "bye"
        link.append(line.utf8Start, line.utf8CodeUnitCount)
    }
    func ended(_ reason: CloseReason, on lane: Lane) { note(reason) }
}
