import CLinux
import Core
import Glibc
import TLS

/// A connection that is to be made.
struct DialRequest: Sendable {
    /// As it was asked for.
    let address: String
    let timeoutMilliseconds: UInt64
    let adapter: DialledAdapter
    /// Transport security; nil for none.
    let door: TLSDoor?
    /// What the server's certificate must be for; nil for anything.
    let serverName: String?
    /// Told why there is no connection; on the lane.
    let failed: @Sendable (String) -> Void
}

/// Makes the conversation of one connection that was dialled.
struct DialledAdapter: Adapter {
    let name: String
    let make: @Sendable (Link, Lane) -> Conversation

    func makeConversation(link: Link, on lane: Lane) -> Conversation { make(link, lane) }
}

/// The connections that one lane is making: names that are being looked up, sockets that are connecting. Confined to
/// the lane.
final class Dials {
    private struct Dial {
        let request: DialRequest
        /// When all of it must be over.
        let deadline: UInt64
        /// When the address being tried has had its time; while a name is looked up, the end.
        var attemptDeadline: UInt64
        /// Addresses not tried yet.
        var addresses: ArraySlice<SocketAddress> = []
        /// The one being tried.
        var current: SocketAddress?
        /// -1 while a name is looked up.
        var socket: Int32 = -1
        /// What became of the addresses before.
        var failures: [String] = []
    }

    /// Connections that a lane may be making at once.
    static let maxDials = 1_024

    private let epoll: Int32
    /// The first token of epoll that is ours; the dial's number is added.
    private let tokens: UInt64
    private let resolver: Resolver
    private var dials: [UInt32: Dial] = [:]
    private var lastNumber: UInt32 = 0
    private var alarm = LazyAlarm()

    init(epoll: Int32, tokens: UInt64, resolver: Resolver) {
        self.epoll = epoll
        self.tokens = tokens
        self.resolver = resolver
    }

    deinit { for dial in dials.values where dial.socket >= 0 { close(dial.socket) } }

    /// Begins to make a connection.
    func begin(_ request: DialRequest, on lane: ReactorLane) {
        guard dials.count < Self.maxDials else {
            return request.failed("too many connections are being made")
        }
        let deadline = lane.now + max(request.timeoutMilliseconds, 1)
        lastNumber &+= 1
        let number = lastNumber
        var dial = Dial(request: request, deadline: deadline, attemptDeadline: deadline)
        do throws(SocketAddress.Failure) {
            if request.address.hasPrefix("unix:") {
                dial.addresses = [try SocketAddress(request.address)]
            } else {
                let (host, port) = try SocketAddress.parts(of: request.address)
                guard !host.isEmpty, port != 0 else {
                    throw SocketAddress.Failure(description: "expected a host and a port other than 0")
                }
                if let numeric = try? SocketAddress.lookUp(host, port, flags: AI_NUMERICHOST) {
                    dial.addresses = numeric[...]
                } else {
                    let (lanes, lane) = (lane.lanes, lane.number)
                    try resolver.lookUp(host, port) { result in
                        lanes.call(lane) { ($0 as? ReactorLane)?.resolved(number, result) }
                    }
                }
            }
        } catch {
            return request.failed(error.description)
        }
        let isResolved = !dial.addresses.isEmpty
        dials[number] = dial
        if isResolved { tryNext(number, on: lane) }
        setAlarm(on: lane)
    }

    /// A name has been looked up.
    func resolved(
        _ number: UInt32, _ result: Result<[SocketAddress], SocketAddress.Failure>, on lane: ReactorLane
    ) {
        // It may have taken longer than anybody waited.
        guard dials[number] != nil else { return }
        switch result {
        case .success(let addresses): dials[number]?.addresses = addresses[...]
        case .failure(let failure): dials[number]?.failures.append(failure.description)
        }
        tryNext(number, on: lane)
        setAlarm(on: lane)
    }

    /// A socket has connected, or will not.
    func ready(_ token: UInt64, on lane: ReactorLane) {
        let number = UInt32(truncatingIfNeeded: token &- tokens)
        guard let dial = dials[number], dial.socket >= 0 else { return }
        var reason: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(dial.socket, SOL_SOCKET, SO_ERROR, &reason, &length)
        if reason == 0 {
            connected(number, on: lane)
        } else {
            attemptFailed(number, String(cString: strerror(reason)))
            tryNext(number, on: lane)
        }
        setAlarm(on: lane)
    }

    /// Ends all of them: the node is stopping.
    func giveUp() {
        let all = dials
        dials = [:]
        alarm.silence()
        for dial in all.values {
            if dial.socket >= 0 { close(dial.socket) }
            dial.request.failed("the node is stopping")
        }
    }

    // MARK: Addresses in turn

    /// Goes on with the next address; without one the dial has failed.
    private func tryNext(_ number: UInt32, on lane: ReactorLane) {
        while var dial = dials[number] {
            guard let address = dial.addresses.first, lane.now < dial.deadline else {
                dials[number] = nil
                return dial.request.failed(Self.reason(dial))
            }
            let share = (dial.deadline - lane.now) / UInt64(dial.addresses.count)
            dial.addresses.removeFirst()
            dial.current = address
            dial.attemptDeadline = lane.now + max(share, 1)
            let kind = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
            dial.socket = socket(address.family, kind, 0)
            dials[number] = dial
            guard dial.socket >= 0 else {
                attemptFailed(number, String(cString: strerror(errno)))
                continue
            }
            if address.unixPath == nil { Listener.setStreamOptions(dial.socket) }
            let status = address.withSystemAddress { connect(dial.socket, $0, $1) }
            // An interrupted connect goes on by itself.
            if status == 0 || errno == EINPROGRESS || errno == EINTR {
                let token = tokens + UInt64(number)
                if apus_epoll_set(epoll, EPOLL_CTL_ADD, dial.socket, EPOLLOUT.rawValue, token) == 0 { return }
            }
            attemptFailed(number, String(cString: strerror(errno)))
        }
    }

    private func attemptFailed(_ number: UInt32, _ reason: String) {
        guard let dial = dials[number] else { return }
        if dial.socket >= 0 { close(dial.socket) }
        dials[number]?.socket = -1
        // Whoever asked for this very address knows it.
        let address = dial.current?.description ?? dial.request.address
        dials[number]?.failures.append(address == dial.request.address ? reason : "\(address): \(reason)")
    }

    private static func reason(_ dial: Dial) -> String {
        dial.failures.isEmpty ? "no answer in time" : dial.failures.joined(separator: "; ")
    }

    private func connected(_ number: UInt32, on lane: ReactorLane) {
        guard let dial = dials[number] else { return }
        let peer = SocketAddress(socket: dial.socket, peer: true)
        // Whoever dials a free port of its own machine often enough may meet itself (simultaneous open).
        guard let peer, peer.family == AF_UNIX || peer.description != Self.own(dial.socket) else {
            attemptFailed(number, peer == nil ? "the connection ended at once" : "nobody listens there")
            return tryNext(number, on: lane)
        }
        dials[number] = nil
        _ = apus_epoll_set(epoll, EPOLL_CTL_DEL, dial.socket, 0, 0)
        lane.lanes.connectionJoined(lane.number)
        do throws(TLSFailure) {
            try lane.start(
                dial.socket, isLocal: peer.isLocal, adapter: dial.request.adapter, listener: nil,
                door: dial.request.door, serverName: dial.request.serverName)
        } catch {
            close(dial.socket)
            lane.lanes.connectionLeft(lane.number)
            dial.request.failed(error.description)
        }
    }

    private static func own(_ socket: Int32) -> String? { SocketAddress(socket: socket, peer: false)?.description }

    // MARK: Time

    private func setAlarm(on lane: ReactorLane) {
        let next = dials.values.lazy.map(\.attemptDeadline).min()
        alarm.set(next, on: lane) { [unowned self] in endLate(on: $0) }
    }

    private func endLate(on lane: ReactorLane) {
        let late = dials.filter { $0.value.attemptDeadline <= lane.now }.keys
        for number in late {
            let isLookingUp = dials[number]?.current == nil
            attemptFailed(number, isLookingUp ? "the name was not found in time" : "no answer in time")
            tryNext(number, on: lane)
        }
        setAlarm(on: lane)
    }
}
