public import Core

/// Links: how they come to be, live and end.
extension MeshNode {
    // MARK: Connections

    /// The conversation of a connection that the listener has accepted.
    public func accepted(_ link: Link, on lane: Lane) -> Conversation {
        let conversation = MeshConversation(node: self, link: link, dialling: nil, target: 0, dataOf: nil)
        if handshakes.count >= Self.maxHandshakes {
            conversation.end(.tooManyLinks, "too many others are at the door")
        } else {
            handshakes.append(conversation)
        }
        return conversation
    }

    /// Handshakes under way at once. Whoever is not proven yet may open connections, and each new one looks at all.
    private static var maxHandshakes: Int { 256 }

    /// The conversation of a connection that was dialled.
    public func dialled(_ ticket: Int, link: Link, on lane: Lane) -> Conversation {
        let (target, dataOf) = tickets.removeValue(forKey: ticket) ?? (0, 0)
        let mesh = dataOf == 0 ? nil : self.link(dataOf)
        let entry = dials.target(target)?.entry
        // The link of a data connection may have ended meanwhile, which is no failure of the target.
        let isLate = dataOf != 0 && mesh == nil
        let conversation = MeshConversation(
            node: self, link: link, dialling: entry ?? MeshSettings.LinkEntry(address: ""),
            target: isLate ? 0 : target, dataOf: mesh)
        if dials.target(target)?.usesPreviousSecret ?? false { conversation.secret = settings.previousSecret }
        if entry == nil || isLate { conversation.end(.removed, "not wanted any more") }
        handshakes.append(conversation)
        return conversation
    }

    /// Nobody answered.
    public func dialFailed(_ ticket: Int, _ reason: String) {
        guard let (target, dataOf) = tickets.removeValue(forKey: ticket) else { return }
        if dataOf != 0 {
            link(dataOf)?.control.end(.otherHalf, "the data connection cannot be made: \(reason)")
        } else {
            failed(target, reason, isRefusal: false)
        }
        schedule()
    }

    /// The first frame of a connection that this node dials or answers.
    func initiation(for entry: MeshSettings.LinkEntry?, dataOf: MeshLink?) -> Initiation {
        var own = Initiation()
        own.versionMin = settings.versions.lowerBound
        own.versionMax = settings.versions.upperBound
        own.meshID = settings.meshID
        own.node = identity.id
        own.epoch = epoch
        own.instance = identity.instance
        own.name = identity.name
        own.purpose = dataOf == nil ? .control : .data
        own.linkName = entry?.name ?? ""
        own.nonce = (random(), random())
        own.hasSecret = settings.secret != nil
        own.token = dataOf?.nonce ?? 0
        let profile = entry?.profile ?? settings.profile
        own.helloMilliseconds = UInt32(profile.helloMilliseconds)
        own.multiplier = UInt8(profile.multiplier)
        own.cost = entry?.cost ?? 1
        if dataOf == nil {
            own.linkNumber = UInt16(nextLinkNumber)
            repeat { nextLinkNumber = nextLinkNumber % 65_535 + 1 } while link(nextLinkNumber) != nil
        }
        #if DEBUG
            if sabotage.contains(.later) { Later.lengthen(&own) }
        #endif
        return own
    }

    /// Whether a peer may come in; called with its first frame.
    func judge(_ theirs: Initiation, _ conversation: MeshConversation) -> (ByeReason, String)? {
        if let hasLeft { return (leftBecause, hasLeft) }
        guard theirs.meshID == settings.meshID else {
            return (
                .wrongMesh, "this node is of the mesh '\(settings.meshID)', the peer of '\(theirs.meshID)' (mesh.id)"
            )
        }
        guard Initiation.common(conversation.own, theirs) != nil else {
            return (
                .version,
                "this node speaks versions \(settings.versions.lowerBound) to \(settings.versions.upperBound) of the "
                    + "mesh's protocol, the peer \(theirs.versionMin) to \(theirs.versionMax)"
            )
        }
        if let refusal = judgeIdentity(theirs, conversation) { return refusal }
        guard theirs.hasSecret == (settings.secret != nil) else {
            return (
                .secret, theirs.hasSecret ? "the peer has a mesh.secret, this node has none" : "mesh.secret is required"
            )
        }
        if theirs.node == identity.id {
            return theirs.instance == identity.instance
                ? (.ownself, "this address is the node itself")
                : (.duplicateNode, "the peer has the same id: each node needs a data directory of its own")
        }
        if theirs.purpose == .data { return nil }
        if let problem = meetTwice(theirs, conversation) { return problem }
        guard links.count < settings.maxLinks || link(to: theirs) != nil else {
            return (.tooManyLinks, "this node has \(links.count) links, as many as mesh.max_links allows")
        }
        return nil
    }

    /// Both ends may have dialled at the same time: the connection dialled by the smaller id stays.
    private func meetTwice(_ theirs: Initiation, _ conversation: MeshConversation) -> (ByeReason, String)? {
        let name = conversation.isDialler ? conversation.own.linkName : theirs.linkName
        if conversation.isDialler, let old = links.first(where: { nodes[$0.peer].id == theirs.node && $0.name == name })
        {
            dials.update(conversation.target) { $0.node = old.peer }
            if old.instance == theirs.instance { return (.alreadyLinked, "there is a link already") }
        }
        for other in handshakes where other !== conversation && other.isDialler != conversation.isDialler {
            guard let peer = other.handshakingPeer, peer.node == theirs.node, peer.purpose == .control else { continue }
            let otherName = other.isDialler ? other.own.linkName : peer.linkName
            guard otherName == name else { continue }
            let staysOurs = identity.id < theirs.node
            if conversation.isDialler == staysOurs {
                other.end(.alreadyLinked, "both have dialled; the other connection stays")
            } else {
                return (.alreadyLinked, "both have dialled; the other connection stays")
            }
        }
        return nil
    }

    // MARK: Links

    /// The link with a number.
    func link(_ number: LinkNumber) -> MeshLink? {
        // Few, and in order.
        links.first { $0.number == number }
    }

    /// The link that a peer's first frame is about, if there is one already.
    func link(to theirs: Initiation) -> MeshLink? {
        links.first { nodes[$0.peer].id == theirs.node && $0.name == theirs.linkName }
    }

    /// A control connection's handshake is over: there is a link.
    func settle(_ conversation: MeshConversation, _ theirs: Initiation) -> (ByeReason, String)? {
        guard let peer = nodes.index(of: theirs.node) else { return (.tooManyLinks, "too many nodes are known") }
        if nodes[peer].name.isEmpty { nodes.update(peer, epoch: 0, instance: 0, name: theirs.name) }
        let mesh = MeshLink(
            number: LinkNumber(conversation.own.linkNumber), peer: peer, own: conversation.own, theirs: theirs,
            isDialler: conversation.isDialler, target: conversation.target, control: conversation,
            gate: LinkGate.of(
                settings.policies, theirs.node, name(of: theirs, conversation.link.certificate),
                hashKey: router.hashSeed, now: now), maxBytes: settings.maxLinkBytes, now: now)
        if let old = links.first(where: { $0.peer == peer && $0.name == mesh.name }) {
            // Whoever dials knows best that the old connection is no more.
            takeDown(old, .replaced, "a newer connection takes its place")
        }
        handshakes.removeAll { $0 === conversation }
        conversation.become(mesh)
        let place = links.firstIndex { $0.number > mesh.number } ?? links.count
        links.insert(mesh, at: place)
        takeCounters(for: mesh)
        dials.update(mesh.target) {
            $0.node = peer
            $0.isDialling = false
            $0.failures = 0
            $0.lastProblem = ""
        }
        tellPolicy(on: mesh)
        linkState.linkUp(mesh.number)
        interest.linkUp(mesh.number)
        retained.linkUp(mesh.number)
        if mesh.isDialler {
            dial(dials.target(mesh.target)?.entry.address ?? "", target: mesh.target, dataOf: mesh.number)
        }
        hello(on: mesh)
        schedule()
        return nil
    }

    /// A data connection's handshake is over.
    func attach(_ conversation: MeshConversation, _ theirs: Initiation) -> MeshLink? {
        handshakes.removeAll { $0 === conversation }
        let token = conversation.isDialler ? conversation.own.token : theirs.token
        guard let mesh = links.first(where: { $0.nonce == token && nodes[$0.peer].id == theirs.node }),
            mesh.data == nil
        else { return nil }
        mesh.data = conversation
        // What waits does so in the link's queues, where it can be chosen from and sent another way.
        conversation.link.setNotSentLowWater(Forwarder.socketBytes)
        hello(on: mesh)
        schedule()
        return mesh
    }

    /// A connection has ended, for whatever reason.
    func ended(_ conversation: MeshConversation, _ phase: MeshConversation.Phase, _ reason: CloseReason) {
        handshakes.removeAll { $0 === conversation }
        let suspicion = conversation.suspicion(reason)
        let text = suspicion ?? conversation.farewell?.text ?? "\(reason)"
        if let said = conversation.farewell?.reason { counters.refused[Int(said.rawValue) % ByeReason.places] &+= 1 }
        switch phase {
        case .control(let mesh), .data(let mesh): takeDown(mesh, .otherHalf, text)
        case .initiating, .probing, .proving, .over:
            if let mesh = links.first(where: { $0.control === conversation || $0.data === conversation }) {
                takeDown(mesh, .otherHalf, text)
            } else {
                handshakeEnded(conversation, text, isSuspicious: suspicion != nil)
            }
        }
        schedule()
    }

    private func handshakeEnded(_ conversation: MeshConversation, _ text: String, isSuspicious: Bool) {
        audit(conversation)
        if conversation.dataOf != 0 {
            link(conversation.dataOf)?.control.end(.otherHalf, "the data connection has failed: \(text)")
            return
        }
        guard conversation.isDialler else {
            guard let farewell = conversation.farewell else { return }
            if farewell.isOurs {
                log(.warning, "a peer at \(conversation.peer) was refused: \(text)")
            } else if farewell.reason?.isRefusal ?? false {
                log(.warning, "a peer at \(conversation.peer) does not want this node: \(text)")
            }
            return
        }
        let reason = conversation.farewell?.reason
        if reason == .ownself { return dials.update(conversation.target) { $0.isHopeless = true } }
        if reason == .alreadyLinked {
            return dials.failed(conversation.target, now: now, random: random(), isRefusal: false)
        }
        if reason == .secret, settings.previousSecret != nil {
            // The other end may not have the new one yet.
            dials.update(conversation.target) { $0.usesPreviousSecret.toggle() }
        }
        failed(conversation.target, text, isRefusal: conversation.farewell != nil, isSuspicious: isSuspicious)
    }

    private func failed(_ number: Int, _ reason: String, isRefusal: Bool, isSuspicious: Bool = false) {
        guard let target = dials.target(number) else { return }
        if target.lastProblem != reason {
            log(
                isRefusal || isSuspicious ? .warning : .info,
                "no link to \(target.entry.address): \(reason)" + (isRefusal ? "" : "; it is tried again"))
        }
        dials.update(number) { $0.lastProblem = reason }
        dials.failed(number, now: now, random: random(), isRefusal: isRefusal)
    }

    /// A link is no more: its connections end, what was on its way goes another way.
    func takeDown(_ mesh: MeshLink, _ reason: ByeReason, _ text: String) {
        guard let place = links.firstIndex(where: { $0 === mesh }) else { return }
        links.remove(at: place)
        keepCounters(of: mesh)
        if mesh.isUp { convergence.changed(at: host.microseconds(), computations: linkState.counters.computations) }
        log(mesh.isUp ? .notice : .info, "link to \(nodes[mesh.peer].name) is down: \(text)")
        mesh.control.end(reason, text)
        mesh.data?.end(reason, text)
        mesh.data = nil
        forwarder.linkDown(mesh)
        linkState.linkDown(mesh.number)
        interest.linkDown(mesh.number)
        retained.linkDown(mesh.number)
        if mesh.isUp { linkState.adjacencyDown(mesh.number) }
        if linkState.node(mesh.peer) == nil { linkState.forgetLater(mesh.peer, now) }
        dials.lost(mesh.target, now: now, random: random())
    }

    /// An operator has taken a target away.
    func removeTarget(_ target: Dials.Target) {
        dials.remove(target.number)
        for mesh in links where mesh.target == target.number { takeDown(mesh, .removed, "the link has been removed") }
    }

    // MARK: Hello

    /// Flags of a hello: the data connection is there; the node is still joining.
    private static var dataFlag: UInt8 { 1 }
    private static var joiningFlag: UInt8 { 2 }
    /// The sender wants to hear a hello at once.
    private static var questionFlag: UInt8 { 4 }

    /// Says that this node is alive, and what it knows.
    func hello(on mesh: MeshLink, isQuestion: Bool = false) {
        mesh.helloSequence += 1
        let micros = host.microseconds()
        mesh.helloTimes[Int(mesh.helloSequence & 15)] = micros
        mesh.nextHello = now + mesh.helloMilliseconds
        var writer = WireWriter(.hello)
        writer.varint(mesh.helloSequence)
        writer.varint(mesh.heardSequence)
        writer.varint(mesh.heardSequence == 0 ? 0 : micros - mesh.heardAt)
        writer.u8(
            (mesh.data != nil ? Self.dataFlag : 0) | (isJoined ? 0 : Self.joiningFlag)
                | (isQuestion ? Self.questionFlag : 0))
        writer.u64(linkState.digest)
        writer.u64(interest.digest)
        writer.u64(retained.digest)
        #if DEBUG
            if sabotage.contains(.later) {
                writer.raw(Later.bytes)
                soundLater(on: mesh)
            }
        #endif
        send(writer.finish(), on: mesh.number)
    }

    func heardHello(_ reader: inout WireReader, on mesh: MeshLink) -> String? {
        let sequence = reader.varint()
        let echo = reader.varint()
        let delay = reader.varint()
        let flags = reader.u8()
        let (state, interests, values) = (reader.u64(), reader.u64(), reader.u64())
        guard !reader.isBroken else { return "a hello that cannot be read" }
        let micros = host.microseconds()
        mesh.heardSequence = sequence
        mesh.heardAt = micros
        if echo > 0, echo <= mesh.helloSequence, mesh.helloSequence - echo < 16 {
            let sent = mesh.helloTimes[Int(echo & 15)]
            if micros > sent, delay <= micros - sent {
                let trip = micros - sent - delay
                mesh.roundTrip = mesh.roundTrip == 0 ? trip : (mesh.roundTrip * 7 + trip) / 8
            }
        }
        if flags & Self.questionFlag != 0 { hello(on: mesh) }
        if flags & Self.dataFlag != 0, mesh.data != nil, !mesh.isUp {
            mesh.readyHellos += 1
            if mesh.readyHellos == 1 { hello(on: mesh) }
            if mesh.readyHellos >= 2 { announce(mesh) }
        }
        linkState.heard(digest: state, on: mesh.number)
        interest.heard(digest: interests, on: mesh.number)
        retained.heard(digest: values, on: mesh.number)
        return nil
    }

    private func announce(_ mesh: MeshLink) {
        mesh.isUp = true
        convergence.changed(
            at: host.microseconds(), computations: linkState.counters.computations, rising: mesh.number)
        log(.notice, "link to \(nodes[mesh.peer].name) is up")
        linkState.adjacencyUp(
            Adjacency(
                link: mesh.number, peer: mesh.peer, nonce: mesh.nonce, cost: mesh.cost,
                remoteLink: mesh.remoteNumber))
    }

    /// Hellos that are due, and links that have been silent for too long.
    func tickLinks() {
        for mesh in links {
            if now >= mesh.lastHeard + mesh.timeout || now >= mesh.lastHeardOnControl + mesh.timeout * 3 {
                counters.silences &+= 1
                takeDown(mesh, .silence, "nothing was heard for \(now - mesh.lastHeardOnControl) ms")
                continue
            }
            if mesh.isGivenUp {
                takeDown(mesh, .otherHalf, "the other node tells of it no more")
                continue
            }
            if isStuck(mesh) {
                takeDown(mesh, .congested, "the data connection has taken nothing for \(Self.dataPatience) ms")
                continue
            }
            if now >= mesh.nextHello { hello(on: mesh) }
            if now >= mesh.acknowledgeAt { forwarder.acknowledge(mesh) }
        }
    }

    /// For how long a data connection with something to acknowledge may acknowledge nothing, in milliseconds: longer
    /// than a frame takes on a link of 64 kbit/s.
    private static var dataPatience: UInt64 { 10_000 }

    /// Hellos pass, but what is larger does not.
    private func isStuck(_ mesh: MeshLink) -> Bool {
        // What was given up to make room still has to be taken. What the system's buffer takes says nothing: small
        // pieces may pass where large ones do not.
        let (sent, progress) = mesh.queues.reduce((UInt64(0), UInt64(0))) {
            ($0.0 &+ $1.sentTotal, $0.1 &+ $1.acknowledgedTotal)
        }
        if sent == progress || progress != mesh.progress {
            mesh.progress = progress
            mesh.progressAt = now
        }
        return now - mesh.progressAt >= Self.dataPatience
    }

    // MARK: Dialling

    func isLinked(_ target: Dials.Target) -> Bool {
        links.contains { mesh in
            mesh.target == target.number || (target.node == mesh.peer && mesh.name == target.entry.name)
        }
    }

    func dialDue() {
        for target in dials.due(now: now, isLinked: isLinked) {
            if !target.isConfigured, links.count >= settings.maxLinks { continue }
            dials.update(target.number) { $0.isDialling = true }
            dial(target.entry.address, target: target.number, dataOf: 0)
        }
    }

    private func dial(_ address: String, target: Int, dataOf: LinkNumber) {
        let ticket = nextTicket
        nextTicket += 1
        tickets[ticket] = (target, dataOf)
        host.dial(address, ticket: ticket)
    }

    /// Nodes that advertisements tell of are dialled as far as the configuration says.
    func learnTargets() {
        guard settings.join != .configured else { return }
        for node in 1..<max(nodes.count, 1) where !dials.targets.contains(where: { $0.node == node }) {
            guard wants(node), let address = linkState.node(node)?.addresses.first else { continue }
            // The one with the smaller id dials at once, so that not both do.
            let delay = identity.id < nodes[node].id ? random() % 100 : 1_500 + random() % 500
            dials.add(MeshSettings.LinkEntry(address: address), isConfigured: false, node: node, at: now + delay)
        }
    }

    private func wants(_ node: NodeIndex) -> Bool {
        guard !links.contains(where: { $0.peer == node }), isReachable(node) else { return false }
        guard settings.allow.isEmpty || Self.lists(settings.allow, nodes[node].id, nodes[node].name) else {
            return false
        }
        switch settings.join {
        case .configured: return false
        case .full: return links.count < settings.maxLinks
        case .atLeast(let wanted): return links.count < wanted
        }
    }
}
