import Core
import FoundationEssentials
import Web

/// `/v1/clients`: sessions, connected and absent.
extension AdminService {
    private static let subscriptionsShown = 1_000

    func addClientRoutes(to table: inout RouteTable) {
        table.add(.get, "/v1/clients") { [unowned self] request, responder in
            do throws(Problem) { try listClients(request, responder) } catch { responder.send(error) }
        }
        table.add(.get, "/v1/clients/{id}") { [unowned self] request, responder in
            withInbox(request, responder) { inbox, lane in
                let description = inbox.describe(on: lane, maxSubscriptions: Self.subscriptionsShown)
                let number = lane.number
                responder.send { Self.json(Self.document(description, lane: number, isWhole: true)) }
            }
        }
        table.add(.delete, "/v1/clients/{id}") { [unowned self] request, responder in
            do throws(Problem) { try kick(request, responder) } catch { responder.send(error) }
        }
        for (method, isOn) in [(Method.put, true), (.delete, false)] {
            table.add(method, "/v1/clients/{id}/trace") { [unowned self] request, responder in
                withInbox(request, responder) { inbox, lane in
                    guard inbox.setTrace(isOn, on: lane) else {
                        responder.send(Problem(409, "Only packets of MQTT clients can be logged."))
                        return
                    }
                    responder.send(.noContent)
                }
            }
        }
    }

    /// Calls `body` with the session that the path names, on its lane; without one the answer is 404.
    private func withInbox(
        _ request: HTTPRequest, _ responder: HTTPResponder, _ body: @escaping @Sendable (Inbox, Lane) -> Void
    ) {
        let id = request.parameters["id"] ?? ""
        let unknown = Problem(404, "There is no session of this client id.")
        guard let address = router.session(of: id) else {
            responder.send(unknown)
            return
        }
        lanes.call(address.lane) { lane in
            // The session may have ended on the way here.
            guard let inbox = lane.port(at: address) as? Inbox else {
                responder.send(unknown)
                return
            }
            body(inbox, lane)
        }
    }

    private func kick(_ request: HTTPRequest, _ responder: HTTPResponder) throws(Problem) {
        let endsSession = try Self.flag(request, "session")
        withInbox(request, responder) { inbox, lane in
            guard endsSession || inbox.link != nil else {
                responder.send(Problem(409, "The client is not connected; session=true would end its session."))
                return
            }
            inbox.kick(endsSession: endsSession, on: lane)
            responder.send(.noContent)
        }
    }

    private static func flag(_ request: HTTPRequest, _ name: String) throws(Problem) -> Bool {
        switch request.query(name) {
        case nil, "false": return false
        case "true": return true
        case .some: throw Problem(400, "\(name) is true or false.")
        }
    }

    // MARK: The list

    private func listClients(_ request: HTTPRequest, _ responder: HTTPResponder) throws(Problem) {
        let wanted: Bool?
        switch request.query("state") {
        case nil: wanted = nil
        case "connected": wanted = true
        case "absent": wanted = false
        case .some: throw Problem(400, "state is connected or absent.")
        }
        let page = router.sessions(
            after: request.query("after"), limit: try Self.limit(request), prefix: request.query("prefix") ?? "")
        var places = [[PortAddress]](repeating: [], count: lanes.count)
        for session in page.sessions { places[session.address.lane].append(session.address) }
        // Only a constant may be handed to the lanes.
        let asked = places
        lanes.gather { lane in
            asked[lane.number].compactMap { address in
                (lane.port(at: address) as? Inbox)?.describe(on: lane, maxSubscriptions: 0)
            }
        } then: { (answers: [[InboxDescription]]) in
            responder.send {
                var clients = answers.enumerated().flatMap { lane, descriptions in
                    descriptions.map { Self.document($0, lane: lane, isWhole: false) }
                }
                if let wanted { clients.removeAll { $0.connected != wanted } }
                // In the order of the page, which sessions that ended meanwhile have left.
                let order = Dictionary(
                    page.sessions.enumerated().map { (Array($1.clientID.utf8), $0) }, uniquingKeysWith: min)
                clients.sort { (order[Array($0.id.utf8)] ?? 0) < (order[Array($1.id.utf8)] ?? 0) }
                return Self.json(ClientPageDocument(clients: clients, next: page.next))
            }
        }
    }

    private static func document(_ session: InboxDescription, lane: Int, isWhole: Bool) -> ClientDocument {
        let now = Date()
        var document = ClientDocument(
            id: session.clientID, user: session.user, connected: session.connection != nil,
            protocol: session.protocolName, peer: session.connection?.peer,
            connectedSince: session.connection?.ageMilliseconds.map { now - Double($0) / 1_000 },
            endsAt: session.endsInMilliseconds.map { now + Double($0) / 1_000 },
            subscriptionCount: session.subscriptionCount, queuedEvents: session.queuedEvents,
            queuedBytes: session.queuedBytes, inFlight: session.inFlight)
        guard isWhole else { return document }
        document.keepAliveSeconds = session.connection?.keepAliveSeconds
        document.clean = session.isClean
        document.sessionExpirySeconds = session.expirySeconds
        document.will = session.hasWill
        document.lane = lane
        document.subscriptions = session.subscriptions.map {
            ClientDocument.Subscription(
                filter: $0.filter, qos: Int($0.options.qos), noLocal: $0.options.contains(.noLocal),
                retainAsPublished: $0.options.contains(.retainAsPublished),
                identifier: $0.identifier == 0 ? nil : Int($0.identifier), weight: $0.weight.map { Int($0) })
        }
        return document
    }
}
