import Core

/// What the parts ask for, and what the link state tells.
extension MeshNode: ControlPlane {
    var now: UInt64 { lane.now }
    func wallClock() -> UInt64 { host.wallClock() }
    func random() -> UInt64 { host.random() }
    func log(_ level: MeshLogLevel, _ message: String) { host.log(level, message) }
    var establishedLinks: [LinkNumber] { links.map(\.number) }
    func peer(of link: LinkNumber) -> NodeIndex { self.link(link)?.peer ?? NodeTable.own }
    func isReachable(_ node: NodeIndex) -> Bool { linkState.routes.isReachable(node) }

    /// Bytes that may wait on a control connection; beyond it the neighbour is too slow for the mesh.
    private static var maxControlBytes: Int { 16 << 20 }

    func send(_ frame: [UInt8], on link: LinkNumber) {
        guard let mesh = self.link(link) else { return }
        mesh.counters.controlBytesOut &+= UInt64(frame.count)
        mesh.control.send(frame)
        if mesh.control.link.unsentBytes > Self.maxControlBytes {
            mesh.control.end(.congested, "the control connection takes too little")
        }
    }

    func wake(at time: UInt64) {
        // Also for when the alarm is set anew before it has rung.
        partDeadline = min(partDeadline, time)
        alarm.at = min(alarm.at, max(time, now))
    }

    // MARK: Frames for other nodes

    @discardableResult
    func route(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool) -> Bool {
        let next = linkState.routes.link(to: node)
        guard next != 0, nodes[node].shortID != 0, let mesh = link(next) else {
            counters.controlUnroutable &+= 1
            return false
        }
        guard let frame = mesh.gate == nil ? frame : gated(frame, out: mesh) else { return true }
        return pass(wrap(frame, to: node, isBulk: isBulk), isBulk: isBulk, on: mesh)
    }

    func sendBulk(_ frame: [UInt8], on link: LinkNumber) -> Bool {
        guard let mesh = self.link(link), mesh.isUp, isReachable(mesh.peer), nodes[mesh.peer].shortID != 0 else {
            return false
        }
        return pass(wrap(frame, to: mesh.peer, isBulk: true), isBulk: true, on: mesh)
    }

    func gate(on link: LinkNumber) -> LinkGate? { self.link(link)?.gate }

    func tellWeights(_ weights: [GroupWeight]) { linkState.setWeights(weights) }

    private func wrap(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool) -> [UInt8] {
        var writer = WireWriter(.routed, isBulk ? .bulk : .control, capacity: frame.count + 32)
        writer.u16(nodes[node].shortID)
        writer.u16(nodes[NodeTable.own].shortID)
        writer.u64(epoch)
        writer.raw(frame)
        var whole = writer.finish()
        whole[6] = Forwarder.timeToLive
        return whole
    }

    private func pass(_ frame: [UInt8], isBulk: Bool, on mesh: MeshLink) -> Bool {
        guard frame.count <= FrameHeader.maxSize else { return false }
        guard isBulk else {
            send(frame, on: mesh.number)
            return true
        }
        guard mesh.data != nil else { return false }
        frame.withUnsafeBytes { forwarder.append($0, to: mesh, .bulk) }
        return true
    }

    /// A control frame for some node has come in, on either connection of a link.
    /// - Parameter mesh: that link; nil when it is sent another way after its link has gone.
    func receiveRouted(
        _ body: UnsafeRawBufferPointer, _ header: FrameHeader, isBulk: Bool, from mesh: MeshLink?
    ) -> (ByeReason, String)? {
        var reader = WireReader(body)
        let destination = reader.u16()
        let originID = reader.u16()
        let epoch = reader.u64()
        let inner = reader.rest()
        guard !reader.isBroken, inner.count >= FrameHeader.size, let base = inner.baseAddress else {
            return (.malformed, "a routed frame that cannot be read")
        }
        let innerHeader = FrameHeader(base)
        guard innerHeader.length == inner.count else {
            return (.malformed, "a routed frame with a wrong length inside")
        }
        if let mesh, mesh.gate?.isSelective ?? false {
            // The neighbour's own retained events for this node; the part that takes them asks the policy.
            let isNeighbourly =
                destination == nodes[NodeTable.own].shortID && originID == nodes[mesh.peer].shortID
                && GatedFrames.isNeighbourly(innerHeader.type)
            if !isNeighbourly {
                guard let changed = gated(Array(inner), in: mesh) else { return nil }
                return changed.withUnsafeBytes { inner in
                    hand(inner, to: destination, from: originID, epoch, header, isBulk: isBulk)
                }
            }
        }
        return hand(inner, to: destination, from: originID, epoch, header, isBulk: isBulk)
    }

    /// Takes a frame that is for this node, or passes it on.
    private func hand(
        _ inner: UnsafeRawBufferPointer, to destination: UInt16, from originID: UInt16, _ epoch: UInt64,
        _ header: FrameHeader, isBulk: Bool
    ) -> (ByeReason, String)? {
        guard let base = inner.baseAddress else { return nil }
        let innerHeader = FrameHeader(base)
        if destination == nodes[NodeTable.own].shortID {
            guard let origin = nodes.node(shortID: originID), nodes[origin].epoch == epoch,
                let type = FrameType(rawValue: innerHeader.type)
            else {
                counters.wrongEpoch &+= 1
                return nil
            }
            receiveFar(type, UnsafeRawBufferPointer(rebasing: inner[FrameHeader.size...]), from: origin)
            return nil
        }
        guard header.timeToLive > 1, let node = nodes.node(shortID: destination),
            let mesh = link(linkState.routes.link(to: node))
        else {
            counters.controlUnroutable &+= 1
            return nil
        }
        var frame = WireWriter(.routed, isBulk ? .bulk : .control, capacity: inner.count + 32)
        frame.u16(destination)
        frame.u16(originID)
        frame.u64(epoch)
        if mesh.gate == nil {
            frame.raw(inner)
        } else {
            guard let passing = gated(Array(inner), out: mesh) else { return nil }
            frame.raw(passing)
        }
        var whole = frame.finish()
        whole[6] = header.timeToLive - 1
        _ = pass(whole, isBulk: isBulk, on: mesh)
        return nil
    }

    /// A frame that another node has sent to this one.
    private func receiveFar(_ type: FrameType, _ body: UnsafeRawBufferPointer, from origin: NodeIndex) {
        var reader = WireReader(body)
        var problem: String?
        switch type {
        case .streamAcknowledgement, .streamSync: problem = streams.receive(type, &reader, from: origin)
        case .retainedDigests, .retainedValues, .retainedRequest:
            problem = retained.receive(type, &reader, fromNode: origin)
        case .session: problem = sessions.receive(type, &reader, from: origin)
        case .traceAnswer: problem = probes.answered(&reader, from: origin)
        case .inquiry: problem = inquiries.asked(&reader, by: origin)
        case .inquiryAnswer: problem = inquiries.answered(&reader, from: origin)
        default: problem = "\(type) is not for nodes far away"
        }
        _ = reader.rest()
        if let problem {
            counters.malformed &+= 1
            log(.debug, "frame of \(nodes[origin].name): \(problem)")
        }
    }

    // MARK: Frames of neighbours

    /// A frame of a control connection.
    func receiveControl(
        _ type: FrameType, _ header: FrameHeader, _ body: UnsafeRawBufferPointer, on mesh: MeshLink
    ) -> (ByeReason, String)? {
        mesh.lastHeard = now
        mesh.lastHeardOnControl = now
        mesh.counters.controlBytesIn &+= UInt64(body.count + FrameHeader.size)
        var reader = WireReader(body)
        let problem: String?
        switch type {
        case .hello: problem = heardHello(&reader, on: mesh)
        case .advertisement, .advertisementRequest, .advertisementVersions:
            problem = linkState.receive(type, &reader, from: mesh.number)
        case .interestDelta, .interestSnapshot, .interestRequest, .interestVersions:
            problem = interest.receive(type, &reader, from: mesh.number)
        case .retainedDigests, .retainedValues, .retainedRequest:
            problem = retained.receive(type, &reader, from: mesh.number)
        case .linkAcknowledgement: problem = forwarder.acknowledged(&reader, on: mesh)
        case .routed: return receiveRouted(body, header, isBulk: false, from: mesh)
        case .linkPolicy: problem = heardPolicy(&reader, on: mesh)
        default: problem = nil
        }
        schedule()
        guard let problem else { return nil }
        counters.malformed &+= 1
        return (.malformed, problem)
    }
}

extension MeshNode: LinkStateEvents {
    func routesChanged(_ routes: Routes) {
        findGivenUp()
        forwarder.routesChanged(routes)
        interest.routesChanged(routes)
        streams.routesChanged(routes)
        sessions.routesChanged(routes)
        convergence.settled(at: host.microseconds())
    }

    /// A neighbour that tells of a link no more has noticed its end first. What this node has sent there goes another
    /// way now, with everything else, and not when its own patience is over.
    private func findGivenUp() {
        guard let own = linkState.node(NodeTable.own) else { return }
        for mesh in links where mesh.isUp && !mesh.isGivenUp {
            let isTwoWay = own.links.contains { $0.adjacency.nonce == mesh.nonce && $0.isTwoWay }
            if isTwoWay {
                mesh.wasTwoWay = true
            } else if mesh.wasTwoWay {
                mesh.isGivenUp = true
                forwarder.linkDown(mesh)
                // Nothing more goes there from now on, so that what is sent another way is not sent twice.
                mesh.control.end(.otherHalf, "the other node tells of it no more")
                mesh.data?.end(.otherHalf, "the other node tells of it no more")
                wake(at: now)
            }
        }
    }

    func nodeChanged(_ node: NodeIndex, isRestart: Bool) {
        if node == NodeTable.own, isRestart { host.keep(epoch: epoch) }
        arrivals.nodeChanged(node)
        interest.nodeChanged(node, isRestart: isRestart)
        if isRestart { streams.nodeRestarted(node) }
        sessions.nodeChanged(node, isRestart: isRestart)
    }

    func nodeLeft(_ node: NodeIndex) {
        interest.nodeLeft(node)
        streams.nodeLeft(node)
        for target in dials.targets where !target.isConfigured && target.node == node { dials.remove(target.number) }
    }

    func forget(_ node: NodeIndex) -> Bool {
        guard interest.hasForgotten(node), sessions.hasForgotten(node) else { return false }
        streams.forget(node)
        forwarder.forget(node)
        arrivals.forgetNode(node)
        gone.removeAll { $0.peer == node }
        for target in dials.targets where target.node == node { dials.update(target.number) { $0.node = nil } }
        return true
    }

    func mustLeave(_ reason: String) { leave(reason) }

    func shortIDChanged(_ own: UInt16) { host.keep(shortID: own) }

    func weightsChanged(_ node: NodeIndex, _ weights: [GroupWeight]) { interest.weightsChanged(node, weights) }
}

extension MeshNode: StreamForwarding {
    func forwardStream(_ sealed: UnsafeRawBufferPointer, flags: UInt8, to targets: [StreamTarget]) {
        let number = UInt8(FrameClass.guaranteed.rawValue) << 4
        forwarder.forward(sealed, flags: flags, lane: number, to: targets)
    }

    func released(_ hold: UInt64) { departures.released(hold) }

    func noMember(_ sealed: UnsafeRawBufferPointer, at node: NodeIndex, expiresAt: UInt64) {
        departures.chooseAgain(sealed, expiresAt: expiresAt)
    }

    func givenUp(_ sealed: UnsafeRawBufferPointer, expiresAt: UInt64, wasSent: Bool) -> Bool {
        // What may be with a member already is nobody else's, if it is to come once (MQTT 5 §4.8.2).
        guard let content = EventContent(sealed), !content.shares.isEmpty, !wasSent || content.qos < 2 else {
            return false
        }
        departures.chooseAgain(sealed, expiresAt: expiresAt)
        return true
    }
}
