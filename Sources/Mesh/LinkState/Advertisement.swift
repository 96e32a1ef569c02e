/// What a node tells all others about itself and its links: a link-state advertisement, `docs/wire-format.md`.
///
/// The body of the frame; positions up to 54 are fixed, so that a node that knows the advertisement already, or passes
/// it on, looks at nothing else:
///
///     0  area u16, flags u16, lifetime u32 (milliseconds left, put in anew by everyone who passes it on)
///     8  node id
///     24 epoch u64, instance u64, sequence u64
///     48 short id u16, claims u32
///     54 name, addresses, adjacencies (neighbour, its link numbers, nonce, cost: 32 bytes each)
///        extensions: type u16, length, bytes; kept as they are by who does not know them

/// How new an advertisement is: by the life of its node first.
struct AdvertisementVersion: Equatable, Comparable, BitwiseCopyable {
    var epoch: UInt64
    var sequence: UInt64

    static func < (a: Self, b: Self) -> Bool { (a.epoch, a.sequence) < (b.epoch, b.sequence) }
}

/// The part at fixed positions.
struct AdvertisementHead: Equatable, BitwiseCopyable {
    static let size = 54
    /// Where the milliseconds left are.
    static let lifetimeOffset = 4

    /// Bits of the flags; unknown ones are passed on.
    static let noTransit: UInt16 = 1
    static let draining: UInt16 = 2
    static let joining: UInt16 = 4
    /// The node has left for good: it is to be forgotten now.
    static let left: UInt16 = 8

    var area: UInt16 = 0
    var flags: UInt16 = 0
    var lifetime: UInt32
    var id: NodeID
    var version: AdvertisementVersion
    var instance: UInt64
    var shortID: UInt16
    var claims: UInt32

    func has(_ flag: UInt16) -> Bool { flags & flag != 0 }
}

/// One adjacency as its node tells of it.
struct AdvertisedAdjacency: Equatable, BitwiseCopyable {
    static let size = 32

    var neighbour: NodeID
    /// The link's number at the advertising node, and at the neighbour.
    var link: UInt16
    var remoteLink: UInt16
    /// Random for every handshake: both ends tell the same, or the adjacency does not hold.
    var nonce: UInt64
    var cost: UInt32
}

/// An advertisement.
struct Advertisement: Equatable {
    /// Bytes of a name, and of an address.
    static let maxText = 255
    static let maxAddresses = 16
    static let maxAdjacencies = 64
    static let maxExtensionBytes = 4_096
    /// Bytes of a body at most.
    static let maxSize = 16 << 10
    /// Above all costs of links; see ``ShortestPaths``.
    static let maxCost: UInt32 = 1 << 24 - 1
    /// The bit of an extension's type that says: who does not know this must not go on.
    static let criticalExtension: UInt16 = 1 << 15

    var head: AdvertisementHead
    var name = ""
    var addresses: [String] = []
    /// In the order of the link numbers, each once.
    var adjacencies: [AdvertisedAdjacency] = []
    /// What more there is, known here or not, as received; see ``AdvertisedWeights``.
    var extensions: [UInt8] = []

    /// A frame with it.
    func frame() -> [UInt8] {
        var writer = WireWriter(.advertisement, capacity: 160 + adjacencies.count * AdvertisedAdjacency.size)
        writer.u16(head.area)
        writer.u16(head.flags)
        writer.u32(head.lifetime)
        writer.nodeID(head.id)
        writer.u64(head.version.epoch)
        writer.u64(head.instance)
        writer.u64(head.version.sequence)
        writer.u16(head.shortID)
        writer.u32(head.claims)
        writer.text(name)
        writer.varint(UInt64(addresses.count))
        for address in addresses { writer.text(address) }
        writer.varint(UInt64(adjacencies.count))
        for adjacency in adjacencies {
            writer.nodeID(adjacency.neighbour)
            writer.u16(adjacency.link)
            writer.u16(adjacency.remoteLink)
            writer.u64(adjacency.nonce)
            writer.u32(adjacency.cost)
        }
        writer.raw(extensions)
        return writer.finish()
    }

    /// Whether routes, numbers and details are the same, whatever the version says.
    func saysTheSame(as other: Advertisement) -> Bool {
        head.flags == other.head.flags && head.shortID == other.head.shortID && head.claims == other.head.claims
            && head.version.epoch == other.head.version.epoch && head.instance == other.head.instance
            && name == other.name && addresses == other.addresses && adjacencies == other.adjacencies
    }
}

/// Why an advertisement cannot be read.
enum AdvertisementError: String, Error {
    case truncated = "an advertisement is malformed"
    case tooLarge = "an advertisement is too large"
    case adjacencies = "an advertisement has too many adjacencies, one twice, or one of its node with itself"
    case addresses = "an advertisement has too many addresses"
    case critical = "an advertisement has a critical extension that is not known here"
}

extension AdvertisementHead {
    /// Reads the fixed part; check the reader afterwards.
    init(_ reader: inout WireReader) {
        area = reader.u16()
        flags = reader.u16()
        lifetime = reader.u32()
        id = reader.nodeID()
        let epoch = reader.u64()
        instance = reader.u64()
        version = AdvertisementVersion(epoch: epoch, sequence: reader.u64())
        shortID = reader.u16()
        claims = reader.u32()
    }
}

extension Advertisement {
    /// Reads a body.
    init(_ body: UnsafeRawBufferPointer) throws(AdvertisementError) {
        guard body.count <= Self.maxSize else { throw .tooLarge }
        var reader = WireReader(body)
        head = AdvertisementHead(&reader)
        name = reader.text(max: Self.maxText)
        let addressCount = reader.count(each: 1)
        guard addressCount <= Self.maxAddresses else { throw .addresses }
        for _ in 0..<addressCount { addresses.append(reader.text(max: Self.maxText)) }
        let adjacencyCount = reader.count(each: AdvertisedAdjacency.size)
        guard adjacencyCount <= Self.maxAdjacencies else { throw .adjacencies }
        adjacencies.reserveCapacity(adjacencyCount)
        for _ in 0..<adjacencyCount {
            let adjacency = AdvertisedAdjacency(
                neighbour: reader.nodeID(), link: reader.u16(), remoteLink: reader.u16(), nonce: reader.u64(),
                cost: min(max(reader.u32(), 1), Self.maxCost))
            guard !reader.isBroken else { throw .truncated }
            guard adjacency.neighbour != head.id, adjacencies.last.map({ $0.link < adjacency.link }) ?? true else {
                throw .adjacencies
            }
            adjacencies.append(adjacency)
        }
        let rest = reader.rest()
        guard !reader.isBroken else { throw .truncated }
        guard rest.count <= Self.maxExtensionBytes else { throw .tooLarge }
        var extensionReader = WireReader(rest)
        while extensionReader.count > 0 {
            let type = extensionReader.u16()
            _ = extensionReader.block()
            guard !extensionReader.isBroken else { throw .truncated }
            guard type & Self.criticalExtension == 0 else { throw .critical }
        }
        extensions = Array(rest)
    }
}
