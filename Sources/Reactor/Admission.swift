public import Core
import Glibc

/// Who may come in at a listener, asked before anything is made for a connection: how many at once and in a second, for
/// the listener and for each address, and by way of which balancer. One for each listener.
///
/// Threading: asked on the lane that accepts; what it counts is given back on any.
public final class Admission: Sendable {
    /// The balancer in front of a listener, which says where connections come from.
    public struct Balancer: Sendable {
        /// Where it connects from; empty for anywhere: then whoever reaches the listener can say where he comes from.
        public var addresses: [AddressRange]

        /// Makes the settings of a balancer.
        public init(addresses: [AddressRange] = []) { self.addresses = addresses }

        /// Whether somebody who connects may be it.
        func mayBe(_ peer: SocketAddress?) -> Bool {
            guard !addresses.isEmpty else { return true }
            // A Unix socket is guarded by the file system.
            guard let peer, let address = peer.networkAddress else { return peer?.isLocal ?? false }
            return addresses.contains { $0.contains(address) }
        }
    }

    /// The listener's name, for rules and records.
    let name: String
    /// Nil where connections come by themselves.
    let balancer: Balancer?
    private let own: Quotas?
    private let quotas: Quotas?
    private let audit: (any AuditSink)?

    /// Makes the admission of a listener.
    /// - Parameters:
    ///   - maxConnections: at once; nil for any number.
    ///   - connectionRate: in a second, with a burst of two seconds' worth and at least 10; nil for any number.
    ///   - quotas: the node's, which have rules for addresses and listeners.
    ///   - balancer: who must say with the PROXY protocol where each connection comes from; nil for nobody.
    public init(
        listener name: String = "", maxConnections: Int? = nil, connectionRate: Int? = nil, quotas: Quotas? = nil,
        balancer: Balancer? = nil, audit: (any AuditSink)? = nil
    ) {
        self.name = name
        self.balancer = balancer
        self.quotas = quotas
        self.audit = audit
        var limits: [QuotaResource: Int] = [:]
        limits[.connections] = maxConnections
        limits[.connectionRate] = connectionRate
        let rule = QuotaRule(listeners: [name], limits: limits)
        own = limits.isEmpty ? nil : Quotas([rule], audit: audit, section: "listeners")
    }

    /// What keeps a connection counted at its listener; nil where nothing counts.
    func admitToListener(_ peer: SocketAddress?, on lane: Lane) throws(OverQuota) -> QuotaStay? {
        try admit(own, nil, peer, on: lane)
    }

    /// What keeps a connection counted for where it comes from.
    func admitFrom(_ peer: SocketAddress?, on lane: Lane) throws(OverQuota) -> QuotaStay? {
        try admit(quotas, peer?.networkAddress, peer, on: lane)
    }

    private func admit(
        _ quotas: Quotas?, _ address: NetworkAddress?, _ peer: SocketAddress?, on lane: Lane
    ) throws(OverQuota) -> QuotaStay? {
        guard let quotas else { return nil }
        let result = quotas.admit(
            listener: name, address: address, peer: peer?.description ?? "unknown", now: lane.now)
        if case .failure(let over) = result { lane.counters.refuse(over.resource) }
        return try result.get()
    }

    /// Records a connection that did not get as far as its protocol.
    func record(_ reason: String, _ peer: SocketAddress?) {
        guard let audit else { return }
        var record = AuditRecord(.connection, "connect", reason: reason)
        record.object = name
        record.peer = peer?.description ?? "unknown"
        audit.record(record)
    }
}

/// What was found out about a connection before it was made, and what keeps it counted. Goes with the connection.
final class Arrival: Sendable {
    /// Where it comes from, if somebody else has told; nil when the socket knows.
    let told: SocketAddress?
    private let stays: [QuotaStay]

    init(told: SocketAddress?, stays: [QuotaStay]) {
        self.told = told
        self.stays = stays
    }
}

extension SocketAddress {
    /// The address without its port; nil for a Unix socket.
    var networkAddress: NetworkAddress? {
        bytes.withUnsafeBytes { bytes in
            switch family {
            case AF_INET where bytes.count >= 8: NetworkAddress(bytes: UnsafeRawBufferPointer(rebasing: bytes[4..<8]))
            case AF_INET6 where bytes.count >= 24:
                NetworkAddress(bytes: UnsafeRawBufferPointer(rebasing: bytes[8..<24]))
            default: nil
            }
        }
    }

    /// The address of a peer that somebody has told of.
    init(_ address: NetworkAddress, port: UInt16) {
        if address.isIPv4 {
            var system = sockaddr_in()
            system.sin_family = sa_family_t(AF_INET)
            system.sin_port = port.bigEndian
            system.sin_addr.s_addr = UInt32(truncatingIfNeeded: address.low).bigEndian
            self.init(bytes: withUnsafeBytes(of: &system) { Array($0) })
        } else {
            var system = sockaddr_in6()
            system.sin6_family = sa_family_t(AF_INET6)
            system.sin6_port = port.bigEndian
            withUnsafeMutableBytes(of: &system.sin6_addr) { place in
                place.storeBytes(of: address.high.bigEndian, as: UInt64.self)
                place.storeBytes(of: address.low.bigEndian, toByteOffset: 8, as: UInt64.self)
            }
            self.init(bytes: withUnsafeBytes(of: &system) { Array($0) })
        }
    }
}
