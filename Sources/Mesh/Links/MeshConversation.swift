public import Core

/// One connection between two nodes: the handshake, then frames. A link has two of them. Confined to the mesh's lane.
public final class MeshConversation: Conversation {
    /// How far it is.
    enum Phase {
        /// Waits for the other's first frame; a dialler has sent its own.
        case initiating
        /// Answers late: finds out whether another node with the same id is alive.
        case probing(Initiation, [UInt8], until: UInt64)
        /// Waits for the proof that the other knows the secret.
        case proving(Initiation, [UInt8])
        case control(MeshLink)
        case data(MeshLink)
        case over
    }

    /// It lives as long as its lane.
    unowned(unsafe) let node: MeshNode
    let link: Link
    let isDialler: Bool
    /// What was dialled: the target's number; 0 for accepted connections.
    let target: Int
    /// A data connection that this node dials: its link's number.
    let dataOf: LinkNumber
    private(set) var phase = Phase.initiating
    var own = Initiation()
    private var ownFrame: [UInt8] = []
    /// Where the other end is. A socket that has ended no longer says so.
    let peer: String
    /// The address that was dialled; empty for accepted connections.
    private let dialled: String
    /// Names or ids of nodes that may be at the other end; empty for any.
    let allow: [String]
    /// What this end proves to know. An acceptor's is the one that the dialler has proven.
    var secret: String?
    /// Who the peer says it is; nil until it has.
    private(set) var theirs: Initiation?
    /// The first bytes that came, until the peer has named itself.
    private var opening: [UInt8] = []
    private let deadline: UInt64
    /// Why it ends, told to the other side or heard from it.
    private(set) var farewell: (reason: ByeReason?, text: String, isOurs: Bool)?

    /// For how long a handshake may take, in milliseconds.
    private static let handshakeMilliseconds: UInt64 = 5_000
    /// For how long an older connection of the same node is asked whether it is alive.
    private static let probeMilliseconds: UInt64 = 100

    init(node: MeshNode, link: Link, dialling entry: MeshSettings.LinkEntry?, target: Int, dataOf: MeshLink?) {
        self.node = node
        self.link = link
        self.target = target
        self.dataOf = dataOf?.number ?? 0
        isDialler = entry != nil
        allow = entry?.allow ?? []
        dialled = entry?.address ?? ""
        peer = link.peer
        secret = node.settings.secret
        deadline = node.now + Self.handshakeMilliseconds
        super.init()
        link.tick(at: deadline)
        own = node.initiation(for: entry, dataOf: dataOf)
        guard isDialler else { return }
        ownFrame = own.frame()
        send(ownFrame)
    }

    /// Appends a frame.
    func send(_ frame: [UInt8]) {
        frame.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
    }

    public override var label: String {
        switch phase {
        case .control(let mesh), .data(let mesh): "mesh link \(mesh.number) to \(node.nodes[mesh.peer].name)"
        default: "mesh"
        }
    }

    /// The peer that has named itself, while the handshake is under way.
    var handshakingPeer: Initiation? {
        switch phase {
        case .probing(let theirs, _, _), .proving(let theirs, _): theirs
        default: nil
        }
    }

    // MARK: Conversation

    public override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        if case .data(let mesh) = phase { return receiveData(bytes, mesh, turn) }
        if case .initiating = phase, opening.count < Stranger.size { opening = Array(bytes.prefix(Stranger.size)) }
        var consumed = 0
        while bytes.count - consumed >= FrameHeader.size, let base = bytes.baseAddress {
            let header = FrameHeader(base + consumed)
            if case .initiating = phase, let problem = problem(ofFirst: header) {
                return refuse(.malformed, problem, consumed)
            }
            guard header.length >= FrameHeader.size, header.length <= FrameHeader.maxSize else {
                return refuse(.malformed, "a frame of \(header.length) bytes", consumed)
            }
            guard bytes.count - consumed >= header.length else { break }
            let frame = UnsafeRawBufferPointer(start: base + consumed, count: header.length)
            consumed += header.length
            if let (reason, text) = take(frame, header) { return refuse(reason, text, consumed) }
            if case .probing = phase { return Progress(consumed: consumed, verdict: .paused) }
            // Events may come right behind the proof.
            if case .data = phase { return Progress(consumed: consumed, verdict: .routeFirst) }
            if case .over = phase { return Progress(consumed: consumed, verdict: .close(.clientDisconnected)) }
        }
        return Progress(consumed: consumed, verdict: turn.isEmpty ? .waiting : .routeFirst)
    }

    /// Why what came first is no frame of a mesh.
    private func problem(ofFirst header: FrameHeader) -> String? {
        let stranger = Stranger(opening)
        let isFirst = header.type == FrameType.initiate.rawValue || header.type == FrameType.bye.rawValue
        guard stranger != nil || !isFirst else { return nil }
        let what = stranger.map { "\(isDialler ? "what answers" : "the peer") speaks \($0.rawValue)" }
        if isDialler { return what ?? "the first frame of what answers is none of the mesh" }
        return "this is the mesh's port, and \(what ?? "the first frame is none of the mesh")"
    }

    /// What may be wrong where a dialled connection ended before the peer named itself: nothing was heard of it but
    /// perhaps bytes that are not the mesh's. Nil when it has named itself or said why it ends.
    func suspicion(_ reason: CloseReason) -> String? {
        guard isDialler, theirs == nil, farewell?.isOurs ?? true else { return nil }
        var what = farewell?.text
        if farewell == nil {
            switch (Stranger(opening), reason) {
            case (let stranger?, _): what = "what answers speaks \(stranger.rawValue)"
            case (nil, .handshakeFailed): what = "TLS was not agreed on"
            case (nil, .connectionLost), (nil, .clientDisconnected): what = "it was closed without a word"
            default: return nil
            }
        } else if farewell?.reason != .malformed, farewell?.reason != .silence {
            return nil
        }
        let port = dialled.isEmpty ? "this" : dialled
        return what.map { "\($0); perhaps \(port) is not the mesh's port (mesh.listen of the other node)" }
    }

    /// Frames of a data connection, as many as the turn has room for.
    private func receiveData(_ bytes: UnsafeRawBufferPointer, _ mesh: MeshLink, _ turn: Turn) -> Progress {
        var consumed = 0
        while bytes.count - consumed >= FrameHeader.size, let base = bytes.baseAddress {
            let header = FrameHeader(base + consumed)
            guard header.length >= FrameHeader.size, header.length <= FrameHeader.maxSize else {
                return refuse(.malformed, "a frame of \(header.length) bytes", consumed)
            }
            guard bytes.count - consumed >= header.length else { break }
            guard node.arrivals.hasRoom else { return Progress(consumed: consumed, verdict: .routeFirst) }
            let frame = UnsafeRawBufferPointer(start: base + consumed, count: header.length)
            consumed += header.length
            if let (reason, text) = node.forwarder.receive(frame, header, on: mesh) {
                return refuse(reason, text, consumed)
            }
        }
        return Progress(consumed: consumed, verdict: turn.isEmpty ? .waiting : .routeFirst)
    }

    /// - Returns: why the connection must end, if it must.
    private func take(
        _ frame: UnsafeRawBufferPointer, _ header: FrameHeader
    ) -> (ByeReason, String)? {
        let body = UnsafeRawBufferPointer(rebasing: frame[FrameHeader.size...])
        guard let type = FrameType(rawValue: header.type) else { return nil }
        if type == .bye { return hearBye(body) }
        switch phase {
        case .initiating:
            guard let theirs = Initiation(body) else { return (.malformed, "a first frame that cannot be read") }
            return meet(theirs, Array(frame))
        case .proving(let theirs, let theirFrame):
            guard type == .authenticate else { return (.malformed, "\(type) before the proof of the secret") }
            return prove(body, theirs, theirFrame)
        case .control(let mesh): return node.receiveControl(type, header, body, on: mesh)
        case .probing, .data, .over: return nil
        }
    }

    private func hearBye(_ body: UnsafeRawBufferPointer) -> (ByeReason, String)? {
        var reader = WireReader(body)
        let reason = ByeReason(rawValue: reader.u8())
        let text = reader.text(max: 1_024)
        if farewell == nil { farewell = (reason, "the other node says: \(text)", false) }
        phase = .over
        return nil
    }

    private func refuse(_ reason: ByeReason, _ text: String, _ consumed: Int) -> Progress {
        leave(reason, text)
        link.finish(.protocolError)
        return Progress(consumed: consumed, verdict: .waiting)
    }

    /// Tells the other side why; the caller, or the connection's end, does the rest.
    private func leave(_ reason: ByeReason, _ text: String) {
        guard farewell == nil else { return }
        farewell = (reason, text, true)
        send(reason.frame(text))
    }

    /// Ends the connection with a reason.
    func end(_ reason: ByeReason, _ text: String) {
        leave(reason, text)
        switch reason {
        // Nobody is there to read it.
        case .silence, .otherHalf, .replaced, .congested: link.close(.connectionLost)
        case .stopping, .left: link.finish(.shutdown)
        default: link.finish(.protocolError)
        }
    }

    // MARK: Handshake

    private func meet(_ theirs: Initiation, _ frame: [UInt8]) -> (ByeReason, String)? {
        self.theirs = theirs
        if let refusal = node.judge(theirs, self) { return refusal }
        if !isDialler, theirs.purpose == .control, let old = node.link(to: theirs), old.instance != theirs.instance {
            // Another process with this id: the one before, unless its connection answers.
            node.hello(on: old, isQuestion: true)
            phase = .probing(theirs, frame, until: node.now + Self.probeMilliseconds)
            link.tick(at: node.now + Self.probeMilliseconds)
            return nil
        }
        answer(theirs, frame)
        return nil
    }

    private func answer(_ theirs: Initiation, _ frame: [UInt8]) {
        phase = .proving(theirs, frame)
        if isDialler {
            sendProof(frame)
        } else {
            own.purpose = theirs.purpose
            own.linkName = theirs.linkName
            ownFrame = own.frame()
            send(ownFrame)
        }
    }

    private func sendProof(_ theirFrame: [UInt8]) {
        let (dialler, acceptor) = isDialler ? (ownFrame, theirFrame) : (theirFrame, ownFrame)
        var writer = WireWriter(.authenticate)
        writer.raw(SecretProof.make(secret, isDialler: isDialler, dialler, acceptor))
        send(writer.finish())
    }

    private func prove(
        _ body: UnsafeRawBufferPointer, _ theirs: Initiation, _ theirFrame: [UInt8]
    ) -> (ByeReason, String)? {
        let (dialler, acceptor) = isDialler ? (ownFrame, theirFrame) : (theirFrame, ownFrame)
        func isProof(of secret: String?) -> Bool {
            SecretProof.matches(body, SecretProof.make(secret, isDialler: !isDialler, dialler, acceptor))
        }
        if !isDialler, let previous = node.settings.previousSecret, isProof(of: previous) { secret = previous }
        guard isProof(of: secret) else { return (.secret, "mesh.secret is another one") }
        if !isDialler { sendProof(theirFrame) }
        switch theirs.purpose {
        case .control:
            if let (reason, text) = node.settle(self, theirs) { return (reason, text) }
        case .data:
            if let refusal = node.judgeData(self, theirs) { return refusal }
            guard let mesh = node.attach(self, theirs) else { return (.noLink, "there is no such link any more") }
            phase = .data(mesh)
        }
        return nil
    }

    /// The handshake of a control connection is over.
    func become(_ mesh: MeshLink) { phase = .control(mesh) }

    // MARK: Time

    public override func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
        switch phase {
        case .control, .data, .over: return .success(nil)
        case .probing(let theirs, let frame, let until):
            guard node.now >= until else { return .success(until) }
            if let old = node.link(to: theirs), old.lastHeardOnControl > until - Self.probeMilliseconds {
                end(
                    .duplicateNode,
                    "another node with the id \(theirs.node) is alive: each needs a data directory of its own")
                return .success(nil)
            }
            answer(theirs, frame)
            link.resume()
            return .success(deadline)
        case .initiating, .proving:
            guard node.now >= deadline else { return .success(deadline) }
            leave(.silence, "the handshake took too long")
            return .failure(.connectTimeout)
        }
    }

    public override func produce(on lane: Lane) {
        if case .data(let mesh) = phase { node.forwarder.produce(on: mesh, self) }
    }

    public override func outputDrained(on lane: Lane) {
        if case .data(let mesh) = phase, mesh.queues.contains(where: { !$0.isEmpty }) {
            _ = link.reserve(1); mesh.isDirty = true
        }
    }

    public override func routed(_ turn: Turn, on lane: Lane) { node.arrivals.routed(turn) }

    public override func drain(on lane: Lane) -> Bool {
        node.drain()
        return true
    }

    public override func close(_ reason: CloseReason, on lane: Lane) {
        let before = phase
        phase = .over
        node.ended(self, before, reason)
    }
}
