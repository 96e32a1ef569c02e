import CLinux
import Core
import Glibc

/// The connections of a lane's listeners whose PROXY header has not come yet. There is neither a conversation nor
/// anything of TLS for them. Confined to the lane.
final class Entrance {
    private struct Waiting {
        let socket: Int32
        let peer: SocketAddress?
        let listener: Listener
        let stay: QuotaStay?
        let deadline: UInt64
        var header = ProxyHeader()
    }

    private let epoll: Int32
    /// The first token of epoll that is ours; the connection's number is added.
    private let tokens: UInt64
    private var waiting: [UInt32: Waiting] = [:]
    /// The numbers, in the order in which their time is over; those that have gone are skipped.
    private var order: [UInt32] = []
    private var first = 0
    private var lastNumber: UInt32 = 0
    private var alarm = LazyAlarm()

    init(epoll: Int32, tokens: UInt64) {
        self.epoll = epoll
        self.tokens = tokens
    }

    deinit { for entry in waiting.values { close(entry.socket) } }

    /// Connections that wait; they count like others.
    var count: Int { waiting.count }

    /// Waits for a connection's header.
    func begin(
        _ socket: Int32, _ peer: SocketAddress?, _ listener: Listener, _ stay: QuotaStay?, on lane: ReactorLane
    ) {
        guard listener.admission?.balancer?.mayBe(peer) ?? false else {
            listener.admission?.record("not one of the addresses that the PROXY protocol is taken from", peer)
            lane.counters.close(.notAuthenticated)
            close(socket)
            return
        }
        lastNumber &+= 1
        let number = lastNumber
        guard apus_epoll_set(epoll, EPOLL_CTL_ADD, socket, EPOLLIN.rawValue, tokens + UInt64(number)) == 0 else {
            lane.counters.close(.overLimit)
            close(socket)
            return
        }
        let deadline = lane.now + UInt64(lane.limits.connectTimeoutSeconds) * 1_000
        waiting[number] = Waiting(socket: socket, peer: peer, listener: listener, stay: stay, deadline: deadline)
        order.append(number)
        setAlarm(on: lane)
    }

    /// A socket has bytes, or has ended.
    func ready(_ token: UInt64, on lane: ReactorLane) {
        let number = UInt32(truncatingIfNeeded: token &- tokens)
        guard let entry = waiting[number] else { return }
        // Looked at first and taken afterwards, because what follows the header is for somebody else.
        let count = recv(entry.socket, lane.receiveBuffer, ProxyHeader.maxBytes, Int32(MSG_PEEK))
        guard count > 0 else {
            if count < 0, errno == EAGAIN || errno == EINTR { return }
            return end(number, .connectionLost, nil, on: lane)
        }
        let step = waiting[number]?.header.take(UnsafeRawBufferPointer(start: lane.receiveBuffer, count: count))
        switch step {
        case .incomplete: take(entry.socket, count, on: lane)
        case .complete(let taken, let source):
            take(entry.socket, taken, on: lane)
            enter(number, source, on: lane)
        case .malformed(let reason): end(number, .malformedPacket, reason, on: lane)
        case nil: break
        }
    }

    private func take(_ socket: Int32, _ count: Int, on lane: ReactorLane) {
        guard count > 0 else { return }
        let taken = recv(socket, lane.receiveBuffer, count, 0)
        lane.counters.socketBytesIn &+= UInt64(truncatingIfNeeded: max(taken, 0))
    }

    private func enter(_ number: UInt32, _ source: ProxyHeader.Source, on lane: ReactorLane) {
        guard let entry = waiting.removeValue(forKey: number) else { return }
        _ = apus_epoll_set(epoll, EPOLL_CTL_DEL, entry.socket, 0, 0)
        var told: SocketAddress?
        if case .client(let address, let port) = source { told = SocketAddress(address, port: port) }
        lane.enter(
            entry.socket, entry.listener, peer: told ?? entry.peer, told: told,
            isLocal: source == .balancer && entry.peer?.isLocal ?? false, entry.stay)
    }

    private func end(_ number: UInt32, _ reason: CloseReason, _ why: String?, on lane: ReactorLane) {
        guard let entry = waiting.removeValue(forKey: number) else { return }
        lane.counters.close(reason)
        if let why { entry.listener.admission?.record(why, entry.peer) }
        close(entry.socket)
    }

    /// Ends all of them: the node is stopping.
    func giveUp() {
        for entry in waiting.values { close(entry.socket) }
        waiting = [:]
        order = []
        first = 0
        alarm.silence()
    }

    // MARK: Time

    private func setAlarm(on lane: ReactorLane) {
        while first < order.count, waiting[order[first]] == nil { first += 1 }
        if first * 2 >= order.count {
            order.removeFirst(first)
            first = 0
        }
        let next = order.isEmpty ? nil : waiting[order[first]]?.deadline
        alarm.set(next, on: lane) { [unowned self] in endLate(on: $0) }
    }

    private func endLate(on lane: ReactorLane) {
        while first < order.count {
            let number = order[first]
            if let entry = waiting[number] {
                guard entry.deadline <= lane.now else { break }
                end(number, .connectTimeout, "no PROXY protocol header in time", on: lane)
            }
            first += 1
        }
        setAlarm(on: lane)
    }
}
