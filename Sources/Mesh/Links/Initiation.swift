import COpenSSL

/// The first frame of every connection, in both directions: who is there, and what for. `docs/wire-format.md`.
struct Initiation: Equatable {
    /// What the connection is for.
    enum Purpose: UInt8 { case control = 0, data = 1 }

    /// Versions of the protocol that this program speaks.
    static let versions: ClosedRange<UInt8> = 1...1
    private static let magic: UInt32 = 0x7375_7061  // "apus"
    private static let secretFlag: UInt8 = 1

    var versionMin = Self.versions.lowerBound
    var versionMax = Self.versions.upperBound
    /// What else the sender can do; none of the bits has a meaning yet.
    var features: UInt64 = 0
    var meshID = ""
    var node = NodeID(high: 0, low: 0)
    var epoch: UInt64 = 0
    var instance: UInt64 = 0
    var name = ""
    var purpose = Purpose.control
    var linkName = ""
    /// Random: no two handshakes are the same.
    var nonce: (UInt64, UInt64) = (0, 0)
    var hasSecret = false
    /// The sender's number for the link.
    var linkNumber: UInt16 = 0
    /// What a later version has at the end; nothing in this one.
    var rest: [UInt8] = []
    /// A data connection: the adjacency nonce of the link it belongs to.
    var token: UInt64 = 0
    var helloMilliseconds: UInt32 = 100
    var multiplier: UInt8 = 4
    var cost: UInt32 = 10

    static func == (a: Initiation, b: Initiation) -> Bool { a.frame() == b.frame() }

    func frame() -> [UInt8] {
        var writer = WireWriter(.initiate, capacity: 160)
        writer.u32(Self.magic)
        writer.u8(versionMin)
        writer.u8(versionMax)
        writer.u64(features)
        writer.text(meshID)
        writer.nodeID(node)
        writer.u64(epoch)
        writer.u64(instance)
        writer.text(name)
        writer.u8(purpose.rawValue)
        writer.text(linkName)
        writer.u64(nonce.0)
        writer.u64(nonce.1)
        writer.u8(hasSecret ? Self.secretFlag : 0)
        writer.u16(linkNumber)
        writer.u64(token)
        writer.u32(helloMilliseconds)
        writer.u8(multiplier)
        writer.u32(cost)
        writer.raw(rest)
        return writer.finish()
    }

    /// The newest version that both ends speak; nil when there is none.
    static func common(_ own: Initiation, _ theirs: Initiation) -> UInt8? {
        let newest = min(own.versionMax, theirs.versionMax)
        return newest >= max(own.versionMin, theirs.versionMin) ? newest : nil
    }

    init() {}

    /// Reads the body of the frame; nil when it is malformed. What a later version adds at the end is left unread.
    init?(_ body: UnsafeRawBufferPointer) {
        var reader = WireReader(body)
        guard reader.u32() == Self.magic else { return nil }
        versionMin = reader.u8()
        versionMax = reader.u8()
        features = reader.u64()
        meshID = reader.text(max: 64)
        node = reader.nodeID()
        epoch = reader.u64()
        instance = reader.u64()
        name = reader.text(max: 255)
        guard let purpose = Purpose(rawValue: reader.u8()) else { return nil }
        self.purpose = purpose
        linkName = reader.text(max: 64)
        nonce = (reader.u64(), reader.u64())
        hasSecret = reader.u8() & Self.secretFlag != 0
        linkNumber = reader.u16()
        token = reader.u64()
        helloMilliseconds = reader.u32()
        multiplier = reader.u8()
        cost = reader.u32()
        guard !reader.isBroken, versionMin <= versionMax, (1...60_000).contains(helloMilliseconds),
            (2...100).contains(multiplier), node != NodeID(high: 0, low: 0)
        else { return nil }
    }
}

/// What shows that a peer knows the mesh's secret, without saying it: an HMAC over both first frames, whose random
/// numbers make it different every time.
enum SecretProof {
    static let size = 32

    /// HMAC-SHA256 (RFC 2104). Without a secret it proves nothing and is all zero.
    static func make(_ secret: String?, isDialler: Bool, _ dialler: [UInt8], _ acceptor: [UInt8]) -> [UInt8] {
        guard let secret else { return [UInt8](repeating: 0, count: size) }
        let key = Array(secret.utf8)
        let input = Array("apus mesh 1".utf8) + [isDialler ? 1 : 2] + dialler + acceptor
        var output = [UInt8](repeating: 0, count: size)
        var length = 0
        let made = EVP_Q_mac(
            nil, "HMAC", nil, "SHA256", nil, key, key.count, input, input.count, &output, output.count, &length)
        // Without libcrypto's help nobody gets in: a proof that no other side computes.
        return made != nil && length == size ? output : [UInt8](repeating: 0xFF, count: size + 1)
    }

    /// Compares in a time that does not tell where the difference is.
    static func matches(_ a: some Collection<UInt8>, _ b: [UInt8]) -> Bool {
        guard a.count == b.count else { return false }
        var difference: UInt8 = 0
        for (x, y) in zip(a, b) { difference |= x ^ y }
        return difference == 0
    }
}

/// Why a connection is refused or ended: a number for programs and a text for people, in the frame `bye`.
enum ByeReason: UInt8, Sendable, CaseIterable {
    /// The node is stopping.
    case stopping = 1
    /// It belongs to another mesh.
    case wrongMesh = 2
    /// There is no version both speak.
    case version = 3
    /// The secret is wrong, or only one side has one.
    case secret = 4
    /// The dialler has reached itself.
    case ownself = 5
    /// Another node with this id is alive.
    case duplicateNode = 6
    /// The two are linked already.
    case alreadyLinked = 7
    /// It has as many links as it may.
    case tooManyLinks = 8
    /// A data connection whose link is not there.
    case noLink = 9
    /// The link has been removed by an operator.
    case removed = 10
    /// A newer connection takes its place.
    case replaced = 11
    /// A frame that cannot be understood.
    case malformed = 12
    /// Nothing was heard for too long.
    case silence = 13
    /// The other connection of the link has ended.
    case otherHalf = 14
    /// The peer does not take what it is sent.
    case congested = 15
    /// The certificate is not that of the node that the peer says it is.
    case certificate = 16
    /// It is not among the nodes that may be neighbours.
    case notAllowed = 17
    /// The node has left the mesh for good.
    case left = 18

    /// Counters of reasons have so many places.
    static let places = 32

    /// Whether somebody was kept out, and did not just come at the wrong moment.
    var isRefusal: Bool {
        switch self {
        case .wrongMesh, .version, .secret, .duplicateNode, .tooManyLinks, .malformed, .silence, .certificate,
            .notAllowed:
            true
        case .stopping, .ownself, .alreadyLinked, .noLink, .removed, .replaced, .otherHalf, .congested, .left: false
        }
    }

    /// The frame that says so.
    func frame(_ text: String) -> [UInt8] {
        var writer = WireWriter(.bye)
        writer.u8(rawValue)
        writer.text(text)
        return writer.finish()
    }
}
