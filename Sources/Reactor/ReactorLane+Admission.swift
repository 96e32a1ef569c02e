import Core
import Glibc

/// The way of an accepted connection to its conversation: past the listener's limits, the PROXY header where one is
/// expected, and the limits of the address that it comes from. Whoever is refused is closed at once, and nothing has
/// been made for it.
extension ReactorLane {
    /// Decides about a connection that has been accepted.
    func admit(_ socket: Int32, _ peer: SocketAddress?, _ listener: Listener) {
        guard let admission = listener.admission else {
            return assign(socket, isLocal: peer?.isLocal ?? false, listener, nil)
        }
        do throws(OverQuota) {
            let stay = try admission.admitToListener(peer, on: self)
            guard admission.balancer == nil else { return entrance.begin(socket, peer, listener, stay, on: self) }
            enter(socket, listener, peer: peer, told: nil, isLocal: peer?.isLocal ?? false, stay)
        } catch { refuse(socket) }
    }

    /// Goes on with a connection that is known to come from `peer`.
    /// - Parameters:
    ///   - told: the same if the socket does not know it.
    ///   - stay: what keeps it counted at its listener.
    func enter(
        _ socket: Int32, _ listener: Listener, peer: SocketAddress?, told: SocketAddress?, isLocal: Bool,
        _ stay: QuotaStay?
    ) {
        do throws(OverQuota) {
            let stays = [stay, try listener.admission?.admitFrom(peer, on: self)].compactMap { $0 }
            let isOrdinary = told == nil && stays.isEmpty
            assign(socket, isLocal: isLocal, listener, isOrdinary ? nil : Arrival(told: told, stays: stays))
        } catch { refuse(socket) }
    }

    private func refuse(_ socket: Int32) {
        counters.close(.overQuota)
        Glibc.close(socket)
    }

    /// Gives the connection to its lane.
    private func assign(_ socket: Int32, isLocal: Bool, _ listener: Listener, _ arrival: Arrival?) {
        let lane = listener.adapter.homeLane.map { lanes.assignConnection(to: $0) } ?? lanes.assignConnection()
        guard lane != number else {
            return startAccepted(socket, isLocal: isLocal, listener: listener, arrival: arrival)
        }
        lanes.call(lane) { lane in
            (lane as? ReactorLane)?.startAccepted(socket, isLocal: isLocal, listener: listener, arrival: arrival)
        }
    }
}
