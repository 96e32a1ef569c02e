import Glibc
public import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// Bounds of an HTTP server.
public struct HTTPLimits: Sendable {
    /// Bytes of the request line and all header fields.
    public var headerBytes = 16 << 10
    /// Bytes of a request's body.
    public var bodyBytes = 64 << 10
    /// Connections at once; a further one is closed.
    public var maxConnections = 256
    /// From a request's first byte, or a connection's beginning, to the request's last byte.
    public var requestSeconds = 10
    /// In which a handler must answer; then the client is told 503, and a later answer is ignored.
    public var handlerSeconds = 30
    /// How long a connection may be silent between requests.
    public var idleSeconds = 60
    /// In which a client must take an answer.
    public var responseSeconds = 30
    /// In which a client may read the last answer of a connection.
    public var lingerSeconds = 2

    /// The defaults.
    public init() {}
}

/// An HTTP/1.1 server: listeners, their connections, one thread. What is asked goes to one handler, for which a
/// ``RouteTable`` is made.
///
/// Threading: ``listen(_:)`` and ``stop(graceMilliseconds:)`` block and so are not for handlers.
public final class HTTPServer: Sendable {
    /// Why a server cannot listen.
    public struct Failure: Error, Sendable, CustomStringConvertible {
        /// The address and the system's reason.
        public let description: String
    }

    private let limits: HTTPLimits
    private let handler: HTTPHandler
    private let logger: Logger
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let life = ServerLife()
    private let listeners = Mutex<[(channel: any Channel, unixPath: String?)]>([])

    /// Makes a server that listens nowhere yet.
    public init(limits: HTTPLimits = HTTPLimits(), logger: Logger, handler: @escaping HTTPHandler) {
        self.limits = limits
        self.logger = logger
        self.handler = handler
    }

    // MARK: Listening

    /// Accepts connections from now on.
    /// - Parameter address: `127.0.0.1:8222`, `[::1]:0` or `unix:/path`.
    /// - Returns: the address it is bound to, with the port that was free if 0 was asked for.
    public func listen(_ address: String) throws(Failure) -> String {
        let unixPath = address.hasPrefix("unix:") ? String(address.dropFirst(5)) : nil
        do {
            if let unixPath {
                Self.removeStale(unixPath)
                let channel = try bootstrap(isUnix: true).bind(unixDomainSocketPath: unixPath).wait()
                listeners.withLock { $0.append((channel, unixPath)) }
                return address
            }
            let (host, port) = try Self.split(address)
            let channel = try bootstrap(isUnix: false).bind(to: SocketAddress(ipAddress: host, port: port)).wait()
            listeners.withLock { $0.append((channel, nil)) }
            let bound = channel.localAddress?.port ?? port
            return host.contains(":") ? "[\(host)]:\(bound)" : "\(host):\(bound)"
        } catch let failure as Failure {
            throw failure
        } catch let error as IOError {
            throw Failure(description: "cannot listen on \(address): \(String(cString: strerror(error.errnoCode)))")
        } catch {
            throw Failure(description: "cannot listen on \(address): \(error)")
        }
    }

    private static func split(_ address: String) throws(Failure) -> (host: String, port: Int) {
        guard let colon = address.lastIndex(of: ":"), let port = UInt16(address[address.index(after: colon)...]) else {
            throw Failure(description: "\(address): expected ADDRESS:PORT, [IPV6]:PORT or unix:/path")
        }
        var host = address[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        return (String(host), Int(port))
    }

    /// A socket file that nobody answers on is what a killed process left behind.
    private static func removeStale(_ path: String) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else { return }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let probe = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        defer { close(probe) }
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(probe, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        if status != 0, errno == ECONNREFUSED { unlink(path) }
    }

    private func bootstrap(isUnix: Bool) -> ServerBootstrap {
        var bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 256)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { [limits, life, handler, logger] channel in
                Self.start(channel, limits, life, handler, logger)
            }
        if !isUnix {
            bootstrap = bootstrap.serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
        }
        return bootstrap
    }

    private static func start(
        _ channel: any Channel, _ limits: HTTPLimits, _ life: ServerLife, _ handler: @escaping HTTPHandler,
        _ logger: Logger
    ) -> EventLoopFuture<Void> {
        guard life.add(channel, limit: limits.maxConnections) else {
            logger.debug("connection refused: limit reached", metadata: ["limit": "\(limits.maxConnections)"])
            return channel.eventLoop.makeFailedFuture(ChannelError.operationUnsupported)
        }
        channel.closeFuture.whenComplete { _ in life.remove(channel) }
        return channel.eventLoop.makeCompletedFuture {
            let connection = HTTPConnection(limits: limits, life: life, handler: handler)
            var bounds = NIOHTTPDecoderLimitConfiguration()
            bounds.maxHeaderFieldSize = limits.headerBytes
            bounds.maxHeaderListSize = limits.headerBytes
            bounds.maxHeaderFieldCount = 100
            let pipeline = channel.pipeline.syncOperations
            try pipeline.addHandler(ArrivalHandler(connection))
            try pipeline.configureHTTPServerPipeline(
                withPipeliningAssistance: true, withErrorHandling: false, withOutboundHeaderValidation: true,
                withEncoderConfiguration: HTTPResponseEncoder.Configuration(), withDecoderLimitConfiguration: bounds)
            try pipeline.addHandler(connection)
        }
    }

    // MARK: Stopping

    /// Stops listening, lets requests that are under way be answered for at most `graceMilliseconds`, and ends.
    public func stop(graceMilliseconds: Int) {
        let ending = listeners.withLock { listeners in
            defer { listeners = [] }
            return listeners
        }
        for (channel, unixPath) in ending {
            // Closed already or closed now: either way it no longer listens.
            channel.close(promise: nil)
            if let unixPath { unlink(unixPath) }
        }
        life.drain(milliseconds: graceMilliseconds)
        do { try group.syncShutdownGracefully() } catch {
            logger.warning("the HTTP server did not end cleanly", metadata: ["problem": "\(error)"])
        }
    }
}

/// What the connections of a server share.
final class ServerLife: Sendable {
    private let channels = Mutex<[ObjectIdentifier: any Channel]>([:])
    private let isOver = Mutex(false)
    private let clock = Mutex<(second: time_t, text: String)>((0, ""))

    /// Notes a connection.
    /// - Returns: whether there was room for it.
    func add(_ channel: any Channel, limit: Int) -> Bool {
        channels.withLock { channels in
            guard channels.count < limit else { return false }
            channels[ObjectIdentifier(channel)] = channel
            return true
        }
    }

    func remove(_ channel: any Channel) { channels.withLock { $0[ObjectIdentifier(channel)] = nil } }

    /// Runs `body` on a loop, unless the server has ended: an answer that comes too late has nobody left to read it.
    func execute(on loop: any EventLoop, _ body: @escaping @Sendable () -> Void) {
        isOver.withLock { isOver in if !isOver { loop.execute(body) } }
    }

    /// Tells all connections to end after their requests, waits for them, and lets nothing more come.
    func drain(milliseconds: Int) {
        let open = channels.withLock { Array($0.values) }
        for channel in open { channel.pipeline.fireUserInboundEventTriggered(HTTPConnection.Drain()) }
        if let loop = open.first?.eventLoop {
            let all = EventLoopFuture.andAllComplete(open.map(\.closeFuture), on: loop)
            let promise = loop.makePromise(of: Void.self)
            all.cascade(to: promise)
            let limit = loop.scheduleTask(in: .milliseconds(Int64(milliseconds))) { promise.succeed() }
            promise.futureResult.whenComplete { _ in limit.cancel() }
            // Nothing makes it fail; and were it to, what follows would be the same.
            _ = try? promise.futureResult.wait()
        }
        isOver.withLock { $0 = true }
    }

    /// The time for the field `Date` (RFC 9110 §5.6.7), made once a second.
    func date() -> String {
        clock.withLock { clock in
            var now = time(nil)
            if now != clock.second {
                var parts = tm()
                gmtime_r(&now, &parts)
                let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
                let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
                func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
                let day = "\(days[Int(parts.tm_wday)]), \(two(parts.tm_mday)) \(months[Int(parts.tm_mon)])"
                let hour = "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))"
                clock = (now, "\(day) \(parts.tm_year + 1_900) \(hour) GMT")
            }
            return clock.text
        }
    }
}
