public import Core

/// What the mesh of a node counts, put together for metrics.

/// What is kept of a link that is not there: its counters go on when it comes back.
struct GoneLink {
    let peer: NodeIndex
    let name: String
    let cost: UInt32
    var counters: LinkCounters

    /// Of so many the counters are kept; beyond it the one that went first is forgotten.
    static let max = 64
}

/// Measures how long it takes until routes follow a change of this node's links. Confined to the mesh's lane.
struct Convergence {
    private(set) var statistics = ConvergenceStatistics()
    /// When a link changed that the routes do not follow yet, in microseconds, and how often routes had been computed
    /// by then.
    private var pending: (since: UInt64, computations: UInt64)?
    /// The link, if it has come up: routes follow when the other end tells of it, too.
    private(set) var rising: LinkNumber?

    /// A link has gone down or come up.
    mutating func changed(at time: UInt64, computations: UInt64, rising link: LinkNumber? = nil) {
        guard pending == nil else { return }
        pending = (time, computations)
        rising = link
    }

    /// There are new routes.
    mutating func settled(at time: UInt64) {
        guard let (since, _) = pending else { return }
        (pending, rising) = (nil, nil)
        statistics.add(microseconds: time &- min(since, time))
    }

    /// Routes were computed and are what they were: nothing had to follow.
    mutating func forget(computations: UInt64, isSettled: Bool) {
        if isSettled, let known = pending?.computations, computations > known { (pending, rising) = (nil, nil) }
    }
}

extension MeshNode {
    /// The numbers of this moment. Called on the mesh's lane.
    public func statistics() -> MeshStatistics {
        var statistics = MeshStatistics()
        statistics.isJoined = isJoined && hasLeft == nil
        statistics.links = links.map(count) + gone.map(count)
        for other in linkState.nodes where other != NodeTable.own {
            statistics.nodes.append(
                MeshStatistics.Node(
                    name: nodes[other].name, id: nodes[other].id.description, isReachable: isReachable(other),
                    filters: interest.filterCount(of: other), streamBytes: streams.status(of: other).bytes))
        }
        statistics.ownFilters = interest.filterCount(of: NodeTable.own)
        statistics.dropped = drops
        statistics.ended = ByeReason.allCases.map {
            .init($0.label, counters.refused[Int($0.rawValue) % ByeReason.places])
        }
        statistics.counts = counts
        statistics.streamDrops = [
            .init("unreachable", streams.counters.droppedUnreachable),
            .init("expired", streams.counters.droppedExpired), .init("full", streams.counters.refused),
        ]
        let moves = sessions.counters
        statistics.moved = [.init("in", moves.movedIn), .init("out", moves.movedOut)]
        statistics.notMoved = [
            .init("timed_out", moves.timedOut), .init("refused", moves.refused), .init("lost", moves.lost),
            .init("unclaimed", moves.unclaimed), .init("too_large", moves.tooLarge),
            .init("abandoned", moves.abandoned),
        ]
        statistics.convergence = convergence.statistics
        return statistics
    }

    private func count(_ mesh: MeshLink) -> MeshStatistics.Link {
        var link = MeshStatistics.Link(
            peer: nodes[mesh.peer].name, peerID: nodes[mesh.peer].id.description, name: mesh.name)
        link.isUp = mesh.isUp
        link.cost = mesh.cost
        link.roundTrip = mesh.roundTrip
        link.count(mesh.counters)
        link.dropped = mesh.dropped
        link.waitingBytes = mesh.queues.reduce(0) { $0 + $1.waitingBytes }
        link.unacknowledgedBytes = mesh.queues.reduce(0) { $0 + $1.unacknowledged }
        return link
    }

    private func count(_ gone: GoneLink) -> MeshStatistics.Link {
        var link = MeshStatistics.Link(
            peer: nodes[gone.peer].name, peerID: nodes[gone.peer].id.description, name: gone.name)
        link.cost = gone.cost
        link.count(gone.counters)
        return link
    }

    private var drops: [MeshStatistics.Count] {
        [
            .init("no_route", counters.noRoute), .init("time_to_live", counters.timeToLive),
            .init("late", counters.late), .init("wrong_epoch", counters.wrongEpoch),
            .init("malformed", counters.malformed), .init("stale_interest", counters.staleInterest),
            .init("no_member", counters.noMember), .init("incomplete", counters.incomplete),
            .init("control_unroutable", counters.controlUnroutable),
            .init("stream_duplicate", streams.counters.duplicates),
            .init("stream_beyond_window", streams.counters.beyondWindow),
            .init("interest_full", interest.counters.framesDropped),
            .init(
                "policy_out", links.reduce(gone.reduce(0) { $0 &+ $1.counters.keptOut }) { $0 &+ $1.counters.keptOut }),
            .init("policy_in", links.reduce(gone.reduce(0) { $0 &+ $1.counters.keptIn }) { $0 &+ $1.counters.keptIn }),
        ]
    }

    private var counts: [MeshStatistics.Count] {
        [
            .init("frames_missing", counters.missing), .init("frames_held", counters.held),
            .init("frames_parked", counters.parked), .init("frames_transit", counters.transit),
            .init("events_sent", counters.eventsOut), .init("events_received", counters.eventsIn),
            .init("silences", counters.silences), .init("stream_frames_sent", streams.counters.framesSent),
            .init("stream_frames_resent", streams.counters.framesResent),
            .init("stream_publishers_held", streams.counters.held),
            .init("interest_bytes_sent", interest.counters.bytesSent),
            .init("interest_repairs", interest.counters.mismatches),
            .init("filters_refused", interest.counters.filtersRefused),
            .init("route_computations", linkState.counters.computations),
            .init("advertisements_refused", linkState.counters.refusedForRate &+ linkState.counters.refusedForNodes),
            .init("weights_malformed", linkState.counters.malformedWeights),
            .init("weights_untold", interest.counters.weightsUntold),
            .init("retained_sent", retained.counters.sent), .init("retained_received", retained.counters.received),
            .init("retained_taken", retained.counters.advanced), .init("retained_refused", retained.counters.refused),
            .init("session_claims", sessions.counters.claims), .init("session_bytes_sent", sessions.counters.bytesOut),
        ]
    }

    /// Whether nothing is left that could make routes follow the last change of a link.
    var areRoutesSettled: Bool {
        guard linkState.settleAt == nil else { return false }
        guard let rising = convergence.rising, link(rising) != nil else { return true }
        return linkState.node(NodeTable.own)?.links.contains {
            LinkNumber($0.adjacency.link) == rising && $0.isTwoWay
        } ?? true
    }

    // MARK: Links that go and come

    /// A link is no more; what it has counted stays.
    func keepCounters(of mesh: MeshLink) {
        var counters = mesh.counters
        counters.dropped = mesh.dropped
        gone.removeAll { $0.peer == mesh.peer && $0.name == mesh.name }
        if gone.count >= GoneLink.max { gone.removeFirst() }
        gone.append(GoneLink(peer: mesh.peer, name: mesh.name, cost: mesh.cost, counters: counters))
    }

    /// A link is there; its counters go on where they were.
    func takeCounters(for mesh: MeshLink) {
        guard let place = gone.firstIndex(where: { $0.peer == mesh.peer && $0.name == mesh.name }) else { return }
        mesh.counters = gone.remove(at: place).counters
    }

    /// Frames of a link that has gone were sent another way.
    func noteSalvaged(_ count: UInt64, of mesh: MeshLink) {
        guard count > 0 else { return }
        if let place = gone.firstIndex(where: { $0.peer == mesh.peer && $0.name == mesh.name }) {
            gone[place].counters.salvaged &+= count
        } else if let again = links.first(where: { $0.peer == mesh.peer && $0.name == mesh.name }) {
            again.counters.salvaged &+= count
        }
    }
}

extension MeshStatistics.Link {
    fileprivate mutating func count(_ counters: LinkCounters) {
        (framesOut, framesIn) = (counters.framesOut, counters.framesIn)
        (bytesOut, bytesIn) = (counters.bytesOut, counters.bytesIn)
        (controlBytesOut, controlBytesIn) = (counters.controlBytesOut, counters.controlBytesIn)
        (dropped, salvaged) = (counters.dropped, counters.salvaged)
    }
}

extension ByeReason {
    /// Its name in snake case.
    fileprivate var label: String {
        switch self {
        case .stopping: "stopping"
        case .wrongMesh: "wrong_mesh"
        case .version: "version"
        case .secret: "secret"
        case .ownself: "ownself"
        case .duplicateNode: "duplicate_node"
        case .alreadyLinked: "already_linked"
        case .tooManyLinks: "too_many_links"
        case .noLink: "no_link"
        case .removed: "removed"
        case .replaced: "replaced"
        case .malformed: "malformed"
        case .silence: "silence"
        case .otherHalf: "other_half"
        case .congested: "congested"
        case .certificate: "certificate"
        case .notAllowed: "not_allowed"
        case .left: "left"
        }
    }
}
