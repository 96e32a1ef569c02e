/// The node's bridges, as the configuration starts them and the management interface shows them.
import Admin
import Bridge
import Core
import Logging
import Mesh

extension BridgeService {
    /// Makes the service of a node.
    convenience init(_ configuration: Configuration, lanes: Lanes, router: Router) {
        // Every node of a mesh is the same place for an event: what has left the mesh does not come back by another.
        let place = configuration.mesh.map { "mesh/\($0.meshID)" } ?? "node/\(configuration.name)"
        // A space would end the name in a trail.
        let settings = BridgeSettings(
            nodeName: configuration.name, place: String(place.map { $0.isWhitespace ? "_" : $0 }),
            logger: Logger(label: "bridge"), random: { UInt64.random(in: .min ... .max) })
        self.init(settings, lanes: lanes, router: router)
    }

    /// What they tell, for the management interface and the metrics.
    func documents() -> [BridgeDocument] { list().map { BridgeDocument($0) } }
}

extension BridgeDocument {
    fileprivate init(_ bridge: BridgeDescription) {
        let counts = bridge.counts
        func byReason(_ numbers: [UInt64]) -> [String: UInt64] {
            Dictionary(
                uniqueKeysWithValues: zip(BridgeCounts.Reason.allCases, numbers).map { ($0.rawValue, $1) })
        }
        self.init(
            name: bridge.name, to: bridge.address, broker: bridge.broker, version: bridge.version,
            tls: bridge.isSecure, clientId: bridge.clientID, state: bridge.state.rawValue)
        lastError = bridge.lastError
        nextAttemptSeconds = bridge.nextAttemptMilliseconds.map { Double($0) / 1_000 }
        queuedEvents = bridge.queuedEvents
        queuedBytes = bridge.queuedBytes
        inFlight = bridge.inFlight
        eventsIn = counts.eventsIn
        eventsOut = counts.eventsOut
        droppedIn = byReason(counts.droppedIn)
        droppedOut = byReason(counts.droppedOut)
        loopsPreventedIn = counts.loopsIn
        loopsPreventedOut = counts.loopsOut
        connects = counts.connects
        failures = counts.failures
        holdsGivenUp = counts.holdsGivenUp
        sessionsGivenUp = counts.sessionsGivenUp
    }
}
