public import Core
import Glibc
public import Logging
public import Reactor
import Synchronization
public import TLS
public import Web

/// An HTTP server of its own, for the management interface: one lane on its own thread, so that whoever looks at the
/// node disturbs no client and is answered however busy the node is.
///
/// Threading: ``listen(_:)`` and ``stop(graceMilliseconds:)`` block and so are not for handlers.
public final class HTTPServer: Sendable {
    /// Why a server cannot listen.
    public typealias Failure = SocketAddress.Failure

    private let reactor: Reactor
    private let adapter: HTTPAdapter

    /// Makes a server that listens nowhere yet.
    /// - Parameters:
    ///   - maxConnections: connections at once; a further one is closed.
    ///   - audit: is told of connections that were refused.
    public init(
        limits: HTTPLimits = HTTPLimits(), maxConnections: Int = 256, logger: Logger,
        audit: (any AuditSink)? = nil, handler: @escaping HTTPHandler
    ) throws(Failure) {
        var bounds = Limits()
        bounds.maxConnections = maxConnections
        reactor = try Reactor(lanes: 1, limits: bounds, logger: logger, name: "admin")
        if let audit { reactor.setAudit(audit) }
        adapter = HTTPAdapter(site: HandlerSite(limits: limits, handler: handler)) { time(nil) }
    }

    /// Accepts connections from now on.
    /// - Parameter address: `127.0.0.1:8222`, `[::1]:0` or `unix:/path`.
    /// - Parameter door: transport security; nil for none.
    /// - Returns: the address it is bound to, with the port that was free if 0 was asked for.
    public func listen(_ address: String, door: TLSDoor? = nil) throws(Failure) -> String {
        let listener = try Listener(try SocketAddress(address), adapter: adapter, name: "admin", door: door)
        reactor.listen(listener)
        return listener.address.description
    }

    /// Ends connections whose peers' certificates are no longer good; see ``Reactor/judgeCertificates()``.
    public func judgeCertificates() { reactor.judgeCertificates() }

    /// Stops listening, lets requests that are under way be answered for at most `graceMilliseconds`, and ends.
    public func stop(graceMilliseconds: Int) { reactor.stop(drainMilliseconds: UInt64(max(graceMilliseconds, 0))) }
}
