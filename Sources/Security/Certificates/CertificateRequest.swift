/// What a certificate is to say.

/// An order for a certificate.
public struct CertificateRequest: Sendable, Equatable {
    /// What it is for; the raw value is the word of the index and of `apus certs list`.
    public enum Kind: Sendable, Equatable {
        /// A server that clients dial, and no node of a mesh.
        case server
        /// A node: dialled by clients and other nodes, and dials other nodes.
        case node(NodeName)
        /// A client.
        case client

        /// One word.
        public var word: String {
            switch self {
            case .server: "server"
            case .node: "node"
            case .client: "client"
            }
        }
    }

    /// For how long server and client certificates hold, when nobody says.
    public static let standardDays = 825
    /// For how long an authority holds, when nobody says.
    public static let standardAuthorityDays = 3_650
    /// A hundred years.
    public static let maxDays = 36_500
    static let (maxHosts, maxGroups) = (100, 16)

    /// What it is for.
    public var kind: Kind
    /// The common name: of the node, of the user.
    public var name: String
    /// Host names and addresses that it is dialled by.
    public var hosts: [String] = []
    /// Organisational units: the groups of a client.
    public var groups: [String] = []
    /// Of a client.
    public var email: String?
    /// For how long it holds; never longer than its authority.
    public var days = standardDays

    /// Makes an order.
    public init(_ kind: Kind, name: String) {
        self.kind = kind
        self.name = name
    }

    /// Why there can be no such certificate; nil when there can.
    public var reasonAgainst: String? {
        if let reason = CertificateName.reasonAgainst(name) { return reason }
        if let reason = Self.reasonAgainst(days: days) { return reason }
        if kind == .server, hosts.isEmpty {
            return "a server's certificate needs the names or addresses that clients dial: --host"
        }
        if kind == .client, !hosts.isEmpty { return "a client's certificate has no hosts" }
        guard hosts.count <= Self.maxHosts else { return "there are more than \(Self.maxHosts) hosts" }
        guard groups.count <= Self.maxGroups else { return "there are more than \(Self.maxGroups) groups" }
        for group in groups {
            if let reason = CertificateName.reasonAgainst(group: group) { return reason }
        }
        return email.flatMap { CertificateName.reasonAgainst(email: $0) }
    }

    static func reasonAgainst(days: Int) -> String? {
        (1...maxDays).contains(days) ? nil : "\(days) days are not allowed; expected 1 to \(maxDays)"
    }
}
