import Core
import Web

/// `/v1/mesh/…`: what there is, and where events go.
extension AdminService {
    func addMeshRoutes(to table: inout RouteTable) {
        addTopicsRoute(to: &table)
        table.add(.get, "/v1/mesh/topology") { [unowned self] _, responder in
            do throws(Problem) {
                try meshOrProblem().topology { topology in responder.send { Self.json(topology) } }
            } catch { responder.send(error) }
        }
        table.add(.get, "/v1/mesh/explain") { [unowned self] request, responder in
            do throws(Problem) {
                try meshOrProblem().explain(try topic(request)) { found in responder.send { Self.json(found) } }
            } catch { responder.send(error) }
        }
        table.add(.get, "/v1/mesh/trace") { [unowned self] request, responder in
            do throws(Problem) {
                try meshOrProblem().trace(try topic(request)) { found in responder.send { Self.json(found) } }
            } catch { responder.send(error) }
        }
    }

    private func addTopicsRoute(to table: inout RouteTable) {
        table.add(.get, "/v1/mesh/topics") { [unowned self] request, responder in
            do throws(Problem) {
                let mesh = try meshOrProblem()
                let limit = try Self.limit(request)
                let filter: TopicFilter
                do throws(TopicFilter.Failure) {
                    filter = try TopicFilter(request.query("filter") ?? "#", grammar: .mqtt, limits: router.limits)
                } catch { throw Problem(400, "filter is no topic filter of MQTT: \(error).") }
                guard filter.group == nil, !filter.isLocalOnly else {
                    throw Problem(400, "filter names topics, hence neither $share nor $local.")
                }
                mesh.topics(filter, limit: limit) { found in responder.send { Self.json(found) } }
            } catch { responder.send(error) }
        }
    }

    private func topic(_ request: HTTPRequest) throws(Problem) -> String {
        guard let topic = request.query("topic"),
            Array(topic.utf8).withUnsafeBytes({ Topic.isValid($0, limits: router.limits) })
        else { throw Problem(400, "topic is the topic of an event, without wildcards.") }
        return topic
    }
}
