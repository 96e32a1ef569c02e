import CLinux
public import Core
import Glibc
public import TLS

/// A listening socket and the adapter that speaks on it. Accepts on the lane that watches it and gives each connection
/// to the lane with the fewest.
public final class Listener: Sendable {
    let socket: Int32
    let adapter: any Adapter
    /// What configuration and rules call it; may be empty.
    public let name: String
    /// Transport security of its connections; nil for none.
    public let door: TLSDoor?
    /// Who may come in; nil for everybody.
    let admission: Admission?
    /// The address it is bound to; with port 0 asked for, the one that was free.
    public let address: SocketAddress
    private let unixPath: String?

    /// Binds and listens. Nothing is accepted before a lane watches it.
    /// - Throws: ``SocketAddress/Failure`` naming the address and the system's reason.
    public init(
        _ address: SocketAddress, adapter: any Adapter, name: String = "", door: TLSDoor? = nil,
        admission: Admission? = nil
    ) throws(SocketAddress.Failure) {
        self.adapter = adapter
        self.name = name
        self.door = door
        self.admission = admission
        unixPath = address.unixPath
        let socket = Glibc.socket(
            address.family, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else { throw Self.failure(address) }
        self.socket = socket
        Self.set(socket, SOL_SOCKET, SO_REUSEADDR, 1)
        if address.family == AF_INET6 { Self.set(socket, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1) }
        if let path = address.unixPath { Self.removeStale(path, address) }
        guard address.withSystemAddress({ Glibc.bind(socket, $0, $1) }) == 0, listen(socket, 4_096) == 0 else {
            let failure = Self.failure(address)
            Glibc.close(socket)
            throw failure
        }
        self.address = unixPath == nil ? SocketAddress(socket: socket, peer: false) ?? address : address
    }

    /// A socket file that nobody answers on is what a killed node left behind.
    private static func removeStale(_ path: String, _ address: SocketAddress) {
        let probe = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        defer { Glibc.close(probe) }
        if address.withSystemAddress({ connect(probe, $0, $1) }) != 0, errno == ECONNREFUSED { unlink(path) }
    }

    private static func failure(_ address: SocketAddress) -> SocketAddress.Failure {
        SocketAddress.Failure(description: "cannot listen on \(address): \(String(cString: strerror(errno)))")
    }

    static func set(_ socket: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
        var value = value
        setsockopt(socket, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    /// What every TCP connection is told.
    static func setStreamOptions(_ socket: Int32) {
        set(socket, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        // Bytes that nobody acknowledges for half a minute mean a dead peer.
        set(socket, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, 30_000)
    }

    /// Stops listening for good.
    func close() {
        Glibc.close(socket)
        if let unixPath { unlink(unixPath) }
    }

    /// What accepting one connection came to.
    enum Accepted {
        case connection(Int32, SocketAddress?)
        case none
        case exhausted
    }

    /// Accepts one connection.
    func accept() -> Accepted {
        while true {
            let flags = Int32(SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
            let accepted = accept4(socket, nil, nil, flags)
            if accepted >= 0 {
                let peer = SocketAddress(socket: accepted, peer: true)
                if peer?.family != AF_UNIX { Self.setStreamOptions(accepted) }
                return .connection(accepted, peer)
            }
            switch errno {
            case EINTR, ECONNABORTED: continue
            case EMFILE, ENFILE, ENOBUFS, ENOMEM: return .exhausted
            default: return .none
            }
        }
    }
}
