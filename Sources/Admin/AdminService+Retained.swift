import Core
import Web

/// `/v1/retained`: the last values of topics.
extension AdminService {
    func addRetainedRoutes(to table: inout RouteTable) {
        table.add(.get, "/v1/retained") { [unowned self] request, responder in
            do throws(Problem) {
                let filter = try filter(request, standard: "#")
                let (events, isMore) = retained.page(
                    matching: filter, after: request.query("after"), limit: try Self.limit(request))
                let documents = events.map {
                    RetainedDocument(topic: Self.topic(of: $0), qos: Int($0.qos), bytes: $0.payloadLength)
                }
                let next = isMore ? documents.last?.topic : nil
                responder.send(Self.json(RetainedPage(retained: documents, next: next)))
            } catch { responder.send(error) }
        }
        table.add(.delete, "/v1/retained") { [unowned self] request, responder in
            do throws(Problem) {
                // Without a filter everything would go by mistake.
                let filter = try filter(request, standard: nil)
                responder.send(Self.json(RemovedDocument(removed: retained.removeAll(matching: filter))))
            } catch { responder.send(error) }
        }
        let unknown = Problem(404, "There is no retained event of this topic.")
        table.add(.get, "/v1/retained/{topic...}") { [unowned self] request, responder in
            guard let event = retained.event(request.parameters["topic"] ?? "") else {
                responder.send(unknown)
                return
            }
            var response = HTTPResponse(type: "application/octet-stream", body: Array(event.payload))
            response.headers.add("Apus-QoS", String(event.qos))
            responder.send(Self.guarded(response))
        }
        table.add(.delete, "/v1/retained/{topic...}") { [unowned self] request, responder in
            if retained.remove(request.parameters["topic"] ?? "") {
                responder.send(.noContent)
            } else {
                responder.send(unknown)
            }
        }
    }

    private static func topic(of event: Event) -> String { String(decoding: event.topic, as: UTF8.self) }

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
