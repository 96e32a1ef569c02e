import Core

/// A link to a neighbour: its two connections, what is known of its liveness, and the queues of what it is sent.
/// Confined to the mesh's lane.
final class MeshLink {
    let number: LinkNumber
    let peer: NodeIndex
    /// Tells several links between the same nodes apart.
    let name: String
    /// The same at both ends, new for every handshake.
    let nonce: UInt64
    let remoteNumber: UInt16
    /// Whether this node has dialled it, and opens the data connection.
    let isDialler: Bool
    /// The larger of what both ends say.
    var cost: UInt32
    /// The version of the protocol that is spoken on it: the newest one that both ends know.
    let version: UInt8
    /// The instance of the process at the other end.
    let instance: UInt64
    /// The connections; the data connection comes a little later.
    unowned let control: MeshConversation
    var data: MeshConversation?
    /// What it was dialled as; 0 for accepted ones.
    let target: Int
    /// What may cross it; nil for everything.
    let gate: LinkGate?

    // Liveness
    let helloMilliseconds: UInt64
    let timeout: UInt64
    var lastHeard: UInt64
    var lastHeardOnControl: UInt64
    var nextHello: UInt64
    var helloSequence: UInt64 = 0
    var heardSequence: UInt64 = 0
    var heardAt: UInt64 = 0
    /// Hellos heard while both sides had a data connection.
    var readyHellos = 0
    /// Whether the adjacency has been announced.
    var isUp = false
    /// Whether both ends have told of it at the same time.
    var wasTwoWay = false
    /// The neighbour tells of it no more: it has noticed first.
    var isGivenUp = false
    /// What was acknowledged when it was looked at last, and since when that has not changed although there is more.
    var progress: UInt64 = 0
    var progressAt: UInt64 = 0
    /// Round trip in microseconds, smoothed; 0 while unknown.
    var roundTrip: UInt64 = 0
    /// When each of the last hellos was sent, by sequence.
    var helloTimes: [UInt64] = Array(repeating: 0, count: 16)

    // What is sent
    /// By class.
    var queues: [LinkQueue]
    /// Whether the data connection is going to be asked for bytes.
    var isDirty = false
    /// Whose turn it is among the classes.
    var turnClass = 1
    /// Bytes of each class taken from the data connection.
    var taken: [UInt64] = [0, 0, 0, 0]
    /// Of those, what the neighbour has been told.
    var acknowledged: [UInt64] = [0, 0, 0, 0]
    var acknowledgeAt = UInt64.max
    /// What was sent and received.
    var counters = LinkCounters()

    init(
        number: LinkNumber, peer: NodeIndex, own: Initiation, theirs: Initiation, isDialler: Bool, target: Int,
        control: MeshConversation, gate: LinkGate?, maxBytes: Int, now: UInt64
    ) {
        self.gate = gate
        self.number = number
        self.peer = peer
        self.isDialler = isDialler
        self.target = target
        self.control = control
        name = isDialler ? own.linkName : theirs.linkName
        let (dialler, acceptor) = isDialler ? (own, theirs) : (theirs, own)
        nonce = dialler.nonce.0 &+ acceptor.nonce.1
        remoteNumber = theirs.linkNumber
        // Without a common one nobody gets so far.
        version = Initiation.common(own, theirs) ?? own.versionMin
        instance = theirs.instance
        cost = max(own.cost, theirs.cost)
        helloMilliseconds = UInt64(max(own.helloMilliseconds, theirs.helloMilliseconds))
        timeout = helloMilliseconds * UInt64(max(own.multiplier, theirs.multiplier))
        lastHeard = now
        lastHeardOnControl = now
        nextHello = now
        queues = FrameClass.allCases.map { _ in LinkQueue(maxBytes: maxBytes) }
    }

    /// Frames given up because too much waited.
    var dropped: UInt64 { queues.reduce(counters.dropped) { $0 &+ $1.dropped } }

    deinit { for index in queues.indices { queues[index].removeAll() } }

    /// When it must be looked at next.
    var deadline: UInt64 {
        min(min(nextHello, acknowledgeAt), min(lastHeard + timeout, lastHeardOnControl + timeout * 3))
    }

    /// Asks the connection for ``MeshConversation/produce(on:)``.
    func wantsToSend() {
        guard !isDirty, let data else { return }
        isDirty = true
        _ = data.link.reserve(1)
    }
}

/// What a link counts.
struct LinkCounters: Equatable {
    var framesOut: UInt64 = 0
    var framesIn: UInt64 = 0
    var bytesOut: UInt64 = 0
    var bytesIn: UInt64 = 0
    var controlBytesOut: UInt64 = 0
    var controlBytesIn: UInt64 = 0
    /// Frames given up because too much waited, before the link was there again.
    var dropped: UInt64 = 0
    /// Frames sent another way when it went down.
    var salvaged: UInt64 = 0
    /// Frames that the policy has kept from going out and from coming in.
    var keptOut: UInt64 = 0
    var keptIn: UInt64 = 0
}
