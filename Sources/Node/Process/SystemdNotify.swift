/// Telling the service manager how the node is (`sd_notify`): a datagram to the socket that `NOTIFY_SOCKET` names.
import Glibc

/// What the service manager is told. Without a service manager nothing happens.
public struct SystemdNotify: Sendable {
    /// A state of the service.
    public enum State: Sendable {
        /// All listeners accept.
        case ready
        /// A reload has begun; `ready` ends it.
        case reloading
        /// The node is stopping.
        case stopping
        /// One line for `systemctl status`.
        case status(String)
    }

    /// Why the service manager could not be told.
    public struct Failure: Error, CustomStringConvertible {
        /// The reason.
        public let description: String
    }

    private let path: String?

    /// Takes the socket's path from `environment`.
    public init(environment: [String: String] = Configuration.processEnvironment) {
        path = environment["NOTIFY_SOCKET"].flatMap { $0.isEmpty ? nil : $0 }
    }

    /// Whether there is a service manager to tell.
    public var isActive: Bool { path != nil }

    /// Tells the service manager.
    /// - Throws: when the service manager's socket does not take it.
    public func send(_ state: State) throws(Failure) {
        guard let path else { return }
        try Self.send(Array(Self.text(of: state).utf8), to: path)
    }

    private static func text(of state: State) -> String {
        switch state {
        case .ready: "READY=1"
        // systemd orders the two states of a reload by this time.
        case .reloading: "RELOADING=1\nMONOTONIC_USEC=\(monotonicMicroseconds())"
        case .stopping: "STOPPING=1"
        case .status(let text): "STATUS=" + text.split(whereSeparator: \.isNewline).joined(separator: " ")
        }
    }

    private static func monotonicMicroseconds() -> Int {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
    }

    private static func send(_ message: [UInt8], to path: String) throws(Failure) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var name = Array(path.utf8)
        guard name[0] == UInt8(ascii: "/") || name[0] == UInt8(ascii: "@") else {
            throw Failure(description: "NOTIFY_SOCKET is '\(path)', neither a path nor an abstract socket")
        }
        // '@' stands for the leading zero of an abstract socket's name, which is as long as the address says.
        let isAbstract = name[0] == UInt8(ascii: "@")
        if isAbstract { name[0] = 0 }
        let room = MemoryLayout.size(ofValue: address.sun_path)
        guard name.count < room else { throw Failure(description: "NOTIFY_SOCKET is longer than \(room - 1) bytes") }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
        let length = MemoryLayout<sa_family_t>.size + name.count + (isAbstract ? 0 : 1)

        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw failure("cannot make a socket for \(path)") }
        defer { close(descriptor) }
        let sent = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(descriptor, message, message.count, Int32(MSG_NOSIGNAL), $0, socklen_t(length))
            }
        }
        guard sent == message.count else { throw failure("cannot notify \(path)") }
    }

    private static func failure(_ what: String) -> Failure {
        Failure(description: "\(what): \(String(cString: strerror(errno)))")
    }
}
