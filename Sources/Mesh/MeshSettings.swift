public import Core

/// `mesh` of the configuration, and what the node adds to it.
public struct MeshSettings: Sendable, Equatable {
    /// How fast silence is noticed.
    public enum Profile: String, Sendable, CaseIterable {
        /// Every 100 ms; four missing are the end of the link.
        case standard
        /// Every 20 ms, five.
        case fast
        /// Every second, three; for links with loss and seconds of delay.
        case satellite

        /// Milliseconds between two hellos.
        public var helloMilliseconds: Int {
            switch self {
            case .standard: 100
            case .fast: 20
            case .satellite: 1_000
            }
        }
        /// Hellos that may be missing.
        public var multiplier: Int {
            switch self {
            case .standard: 4
            case .fast: 5
            case .satellite: 3
            }
        }
    }

    /// Which nodes are dialled besides those configured.
    public enum Join: Sendable, Equatable {
        /// Every node that is learnt of, up to ``maxLinks``.
        case full
        /// None.
        case configured
        /// As many as it takes to have this many links.
        case atLeast(Int)
    }

    /// A link this node dials.
    public struct LinkEntry: Sendable, Equatable {
        /// `host:port`.
        public var address: String
        /// What a frame costs here; routes have the smallest sum. The larger of both ends' holds.
        public var cost: UInt32 = 10
        /// Tells several links between the same two nodes apart.
        public var name = ""
        /// Nil: the node's.
        public var profile: Profile?
        /// Names or ids of nodes that may be there; empty for any.
        public var allow: [String] = []

        /// A link to an address.
        public init(address: String) { self.address = address }
    }

    /// Nodes of different meshes refuse each other.
    public var meshID = "apus"
    /// Where peers come in; nil for a node that only dials.
    public var listen: String?
    /// The addresses that other nodes are told; empty for those of the listener, if it can be reached.
    public var advertise: [String] = []
    /// What both ends of a link must know; nil on loopback, or where certificates say who is who.
    public var secret: String?
    /// What they had to know before: still taken, and tried when the other end refuses ``secret``.
    public var previousSecret: String?
    /// The section of the configuration that says how the links are encrypted; nil for not at all.
    public var tls: String?
    /// Whether a peer is who its certificate says (``NodeCertificate``), and nobody without one.
    public var requiresCertificate = false
    /// Names or ids of nodes that may be neighbours; empty for any.
    public var allow: [String] = []
    /// What may cross the links; the first whose peers match counts.
    public var policies: [LinkPolicy] = []
    /// Links this node dials.
    public var links: [LinkEntry] = []
    /// Which others it dials.
    public var join = Join.full
    /// How fast silence is noticed.
    public var profile = Profile.standard
    /// Whether events of others may pass through this node.
    public var isTransit = true
    /// Links a node may have; further ones are refused.
    public var maxLinks = 32
    /// Bytes kept for each link and class until the neighbour has them: also what waits for a slow one.
    public var maxLinkBytes = 4 << 20
    /// Bytes of guaranteed events that wait for one node.
    public var maxStreamBytes = 64 << 20
    /// Filters of one node that others take.
    public var maxFilters = 1_000_000
    /// Versions of the protocol that the node speaks; tests have others.
    var versions = Initiation.versions

    /// The defaults.
    public init() {}

    /// Whether a peer has to prove that it belongs to the mesh; needed beyond one machine.
    public var provesPeers: Bool { secret != nil || requiresCertificate }
}

/// What may cross the links to some neighbours, as configured.
public struct LinkPolicy: Sendable, Equatable {
    /// One direction.
    public struct Direction: Sendable, Equatable {
        /// Topics that may pass; empty for all that are not denied.
        public var allow: [TopicFilter] = []
        /// Topics that may not, whatever is allowed.
        public var deny: [TopicFilter] = []
        /// Direct events a second; nil for any number.
        public var rate: Int?

        /// Lets everything pass.
        public init() {}

        /// Whether it keeps some topics back.
        public var isSelective: Bool { !allow.isEmpty || !deny.isEmpty }
    }

    /// Names or ids of the neighbours; `*` for all.
    public var peers: [String]
    /// From this node to them.
    public var export = Direction()
    /// From them to this node.
    public var `import` = Direction()

    /// For some neighbours.
    public init(peers: [String]) { self.peers = peers }
}

/// Who this node is in the mesh.
public struct MeshIdentity: Sendable, Equatable {
    /// Kept on disk.
    public var id: NodeID
    /// Larger than that of every former life: 48 bits counted on disk, then 16 random ones.
    public var epoch: UInt64
    /// Random for this start.
    public var instance: UInt64
    /// The number in destination sets that it had last; 0 for none.
    public var shortID: UInt16
    /// What the node calls itself.
    public var name: String

    /// Makes an identity.
    public init(id: NodeID, epoch: UInt64, instance: UInt64, shortID: UInt16 = 0, name: String) {
        self.id = id
        self.epoch = epoch
        self.instance = instance
        self.shortID = shortID
        self.name = name
    }
}
