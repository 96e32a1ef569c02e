import Core
import Web

/// `/v1/retained`: the last values of topics. Looked up on the HTTP thread, in steps of which each holds the router's
/// lock for a short while.
extension AdminService {
    private static let removedAtOnce = 1_000
    private static var unknown: Problem { Problem(404, "There is no retained event of this topic.") }

    func addRetainedRoutes(to table: inout RouteTable) {
        table.add(.get, "/v1/retained") { [unowned self] request, responder in
            do throws(Problem) { try listRetained(request, responder) } catch { responder.send(error) }
        }
        table.add(.delete, "/v1/retained") { [unowned self] request, responder in
            do throws(Problem) {
                // Without a filter everything would go by mistake.
                let filter = try filter(request, standard: nil)
                atLaneTime(responder) { [self] now in remove(filter, after: 0, removed: 0, now, responder) }
            } catch { responder.send(error) }
        }
        table.add(.get, "/v1/retained/{topic...}") { [unowned self] request, responder in
            let topic = Array((request.parameters["topic"] ?? "").utf8)
            atLaneTime(responder) { [router] now in
                guard let event = topic.withUnsafeBytes({ router.retained($0, now: now) }) else {
                    responder.send(Self.unknown)
                    return
                }
                var response = HTTPResponse(type: "application/octet-stream", body: Array(event.payload))
                response.headers.add("Apus-QoS", String(event.qos))
                responder.send(Self.guarded(response))
            }
        }
        table.add(.delete, "/v1/retained/{topic...}") { [unowned self] request, responder in
            let topic = Array((request.parameters["topic"] ?? "").utf8)
            if topic.withUnsafeBytes({ router.removeRetained($0) }) {
                responder.send(.noContent)
            } else {
                responder.send(Self.unknown)
            }
        }
    }

    /// Calls `body` on the HTTP thread with the lanes' time, which expiry goes by.
    private func atLaneTime(_ responder: HTTPResponder, _ body: @escaping @Sendable (UInt64) -> Void) {
        lanes.call(0) { lane in
            let now = lane.now
            responder.run { body(now) }
        }
    }

    private func listRetained(_ request: HTTPRequest, _ responder: HTTPResponder) throws(Problem) {
        let filter = try filter(request, standard: "#")
        let limit = try Self.limit(request)
        guard let after = UInt32(request.query("after") ?? "0") else {
            throw Problem(400, "after is the next of the page before.")
        }
        atLaneTime(responder) { [router] now in
            let page = router.retainedPage(matching: filter, after: after, limit: limit, now: now)
            let documents = page.events.map {
                RetainedDocument(
                    topic: String(decoding: $0.topic, as: UTF8.self), qos: Int($0.qos), bytes: $0.payloadLength)
            }
            responder.send(Self.json(RetainedPageDocument(retained: documents, next: page.next.map { String($0) })))
        }
    }

    /// Removes a page of what matches, and then the next one in a later turn of the loop: others are served between.
    private func remove(
        _ filter: TopicFilter, after: UInt32, removed: Int, _ now: UInt64, _ responder: HTTPResponder
    ) {
        let page = router.retainedPage(matching: filter, after: after, limit: Self.removedAtOnce, now: now)
        let count = removed + page.events.count { router.removeRetained($0.topic) }
        if let next = page.next {
            responder.run { [self] in remove(filter, after: next, removed: count, now, responder) }
        } else {
            responder.send(Self.json(RemovedDocument(removed: count)))
        }
    }

    private func filter(_ request: HTTPRequest, standard: String?) throws(Problem) -> TopicFilter {
        guard let text = request.query("filter") ?? standard else {
            throw Problem(400, "filter is missing; # stands for all topics.")
        }
        do throws(TopicFilter.Failure) {
            let filter = try TopicFilter(text, grammar: .mqtt, limits: router.limits)
            if filter.group == nil, !filter.isLocalOnly { return filter }
        } catch { throw Problem(400, "filter is no topic filter: \(error).") }
        throw Problem(400, "filter has neither $share nor $local here.")
    }
}
