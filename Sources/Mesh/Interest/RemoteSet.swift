import Core

/// What another node wants, as far as this one knows it. The filters themselves are in the router's index; here is how
/// far they are. Confined to the mesh's lane.
final class RemoteSet {
    /// A whole set on its way in.
    struct Intake {
        var link: LinkNumber
        var job: UInt64
        /// The next part.
        var next: UInt64 = 0
        /// Parts asked for.
        var granted: UInt64 = 0
        /// Parts under way that are wanted at once; more while they come quickly.
        var window: UInt64 = 1
        /// When the parts not yet here were asked for, oldest first.
        var askedAt: [UInt64] = []
        /// The shortest time that one took.
        var quickest = UInt64.max
        var heardAt: UInt64
    }

    /// A neighbour that has, or had, a version.
    struct Source {
        var link: LinkNumber
        var epoch: UInt64
        var sequence: UInt64
    }

    let node: NodeIndex
    let origin: NodeID
    let remote: RemoteNode

    /// The life of the node that the set belongs to.
    var epoch: UInt64
    var sequence: UInt64 = 0
    /// As the node says.
    var announcedHash: UInt64 = 0
    /// Of what is here.
    var hash: UInt64 = 0
    /// Filters that are here.
    var count = 0
    /// Bytes of what has been added, roughly.
    var bytes = 0
    /// Whether what is here is version `sequence`; else it is more, or less.
    var isComplete = true
    /// Hashes of versions before this one cannot be compared: the set was listed while it changed.
    var comparableFrom: UInt64 = 0
    /// Whether some of it was refused.
    var isTruncated = false
    /// Since when, and after how many milliseconds it is tried again.
    var truncatedAt: UInt64 = 0
    var patience: UInt64 = 0
    var log = InterestLog()
    /// Neighbours that are being sent the whole set.
    var readers = 0
    var sources: [Source] = []
    var intake: Intake?
    /// Where the removal of what is no more in the set has got to; nil when there is nothing to remove.
    var sweep: UInt32?
    /// Whether all of it is being removed, and the set with it.
    var isLeaving = false
    /// When a neighbour was last asked for it, and which; 0 for never.
    var askedAt: UInt64 = 0
    var askedLink: LinkNumber = 0
    /// When something that was asked for last arrived.
    var progressAt: UInt64 = 0
    /// Since when the node cannot be reached; 0 while it can.
    var unreachableSince: UInt64 = 0

    init(node: NodeIndex, origin: NodeID, remote: RemoteNode, epoch: UInt64) {
        self.node = node
        self.origin = origin
        self.remote = remote
        self.epoch = epoch
    }

    var version: InterestFrames.Version {
        InterestFrames.Version(origin: origin, epoch: epoch, sequence: sequence, hash: announcedHash)
    }

    /// Whether others can be given it.
    var isServable: Bool { isComplete && !isLeaving }

    func isNewer(_ epoch: UInt64, _ sequence: UInt64) -> Bool {
        epoch > self.epoch
            || epoch == self.epoch && (sequence > self.sequence || !isComplete && sequence == self.sequence)
    }

    /// Whether a neighbour has more than there is here.
    var isBehind: Bool { sources.contains { isNewer($0.epoch, $0.sequence) } }

    /// Notes which version a neighbour has.
    func note(_ link: LinkNumber, _ epoch: UInt64, _ sequence: UInt64) {
        let source = Source(link: link, epoch: epoch, sequence: sequence)
        if let place = sources.firstIndex(where: { $0.link == link }) {
            if (epoch, sequence) > (sources[place].epoch, sources[place].sequence) { sources[place] = source }
        } else {
            sources.append(source)
        }
    }

    func forget(_ link: LinkNumber) { sources.removeAll { $0.link == link } }

    /// The neighbour to ask next: one that has more, and not the one asked last if there is another.
    func nextSource() -> LinkNumber? {
        let able = sources.filter { isNewer($0.epoch, $0.sequence) }
        guard let place = able.firstIndex(where: { $0.link == askedLink }) else { return able.first?.link }
        return able[(place + 1) % able.count].link
    }
}
