import Core

// Handing over what differs: requests and values.

extension RetainedSync {
    // MARK: Asking

    /// Asks for the next values that are wanted.
    /// - Returns: whether there are still values to come.
    func requestValues(_ peer: RetainedPeer) -> Bool {
        guard peer.wanted < peer.wants.count else {
            peer.dropWants()
            return false
        }
        guard peer.pull == nil else { return true }
        let end = min(peer.wanted + RetainedFrame.maxWants, peer.wants.count)
        peer.pullNumber &+= 1
        peer.pull = RetainedPeer.Pull(
            number: peer.pullNumber, count: end - peer.wanted, deadline: plane.now + Time.requestPatience)
        peer.deadline = plane.now + Time.patience
        sendBulk(RetainedFrame.request(peer.pullNumber, peer.wants[peer.wanted..<end]), to: peer)
        return true
    }

    /// No answer has come.
    func repeatPull(_ pull: RetainedPeer.Pull, _ peer: RetainedPeer) {
        guard pull.attempts < Self.maxAttempts else {
            counters.abandoned += 1
            return abandon(peer)
        }
        peer.pull?.attempts += 1
        peer.pull?.deadline = plane.now + Time.requestPatience
        let wants = peer.wants[peer.wanted..<peer.wanted + pull.count]
        sendBulk(RetainedFrame.request(pull.number, wants), to: peer)
    }

    /// Takes what has come of the values asked for; what did not fit is asked for again.
    func receiveValues(_ reader: inout WireReader, _ peer: RetainedPeer) -> Bool {
        let number = reader.u32()
        let count = Int(min(reader.varint(), UInt64(RetainedFrame.maxWants)))
        // An answer to a request that has been given up, or has been answered before.
        guard let pull = peer.pull, pull.number == number else { return true }
        guard count > 0, count <= pull.count else { return false }
        peer.pull = nil
        for _ in 0..<count {
            guard peer.wanted < peer.wants.count else { return false }
            let part = RetainedFrame.readPart(&reader, maxLength: maxValueBytes)
            guard !reader.isBroken else { return false }
            guard let part else {
                peer.partial = nil
                peer.wanted += 1
                continue
            }
            guard take(part, peer) else { return false }
        }
        return reader.isWhole
    }

    /// - Returns: whether it makes sense.
    private func take(_ part: RetainedPart, _ peer: RetainedPeer) -> Bool {
        let want = peer.wants[peer.wanted]
        if part.offset == 0, part.bytes.count == part.totalLength {
            peer.partial = nil
            peer.wanted += 1
            return apply(part, part.bytes, want, peer)
        }
        if part.offset == 0 {
            peer.partial = RetainedPeer.Partial(hash: want.hash, version: part.version, bytes: [])
        }
        guard var partial = peer.partial, partial.hash == want.hash, partial.version == part.version,
            partial.bytes.count == part.offset
        else {
            // The value has changed meanwhile: from the beginning, if it is still there.
            peer.partial = nil
            peer.wants[peer.wanted].offset = 0
            return part.offset == Int(want.offset)
        }
        peer.partial = nil
        partial.bytes.append(contentsOf: part.bytes)
        guard partial.bytes.count == part.totalLength else {
            peer.wants[peer.wanted].offset = UInt32(truncatingIfNeeded: partial.bytes.count)
            peer.partial = partial
            return true
        }
        peer.wanted += 1
        return partial.bytes.withUnsafeBytes { apply(part, $0, want, peer) }
    }

    /// Puts a complete value into the store and gives it to subscribers if it is newer.
    private func apply(
        _ part: RetainedPart, _ bytes: UnsafeRawBufferPointer, _ want: RetainedWant, _ peer: RetainedPeer
    ) -> Bool {
        let topic = UnsafeRawBufferPointer(rebasing: bytes[..<part.topicLength])
        guard Topic.isValid(topic, limits: router.limits) else { return false }
        let properties = UnsafeRawBufferPointer(
            rebasing: bytes[part.topicLength..<part.topicLength + part.propertiesLength])
        guard EventProperties.areSound(properties, extensionLength: Int(part.extensionLength)) else { return false }
        counters.received += 1
        if let filter = peer.filter, !filter.admits(topic) {
            counters.kept += 1
            return true
        }
        let isDeletion = part.payloadLength == 0
        var left = min(part.millisecondsLeft, 1 << 50)
        if isDeletion {
            let life = UInt64(max(router.limits.tombstoneSeconds, 0)) * 1_000
            left = min(left, life)
            // It has been forgotten here, and will be everywhere soon.
            if want.isAbsent, left < min(60_000, life / 10) { return true }
            left = max(left, 1)
        }
        let propertiesEnd = part.topicLength + part.propertiesLength
        let event = Event(
            topic: topic, properties: properties, payload: UnsafeRawBufferPointer(rebasing: bytes[propertiesEnd...]),
            qos: part.qos,
            isRetained: !isDeletion || part.isTold, expiresAt: left == 0 ? 0 : plane.now + left,
            extensionLength: part.extensionLength)
        switch router.mergeRetained(event, part.version, now: plane.now) {
        case .advanced(let hadValue):
            counters.advanced += 1
            peer.gained += 1
            peer.taken += 1
            noteNews(from: peer.node)
            if !isDeletion || (part.isTold && hadValue) { deliver(event, part.version) }
        case .full:
            counters.refused += 1
            // What this node lacks has not been deleted any more.
            since = plane.wallClock()
        case .notNewer: break
        }
        return true
    }

    // MARK: Giving

    /// Sends as much of what is asked for as fits in a frame.
    func receiveRequest(_ reader: inout WireReader, _ peer: RetainedPeer) -> Bool {
        let (number, wants) = RetainedFrame.readRequest(&reader)
        guard !reader.isBroken, !wants.isEmpty else { return false }
        if peer.isComparing { peer.deadline = plane.now + Time.patience }
        guard peer.unsent.count < RetainedPeer.maxUnsent else { return true }
        var body = WireWriter(.retainedValues, .bulk, capacity: 4_096)
        var count = 0
        var room = RetainedFrame.maxValueBytes
        for want in wants {
            guard let (event, version) = offered(want, to: peer) else {
                room -= 1
                body.u8(RetainedFrame.goneFlag)
                count += 1
                continue
            }
            let all = event.topicLength + event.propertiesLength + event.payloadLength
            let isWhole = want.offset == 0 && all + RetainedPart.overhead <= room
            // Parts only of what does not fit in a frame of its own.
            guard isWhole || count == 0 else { break }
            append(event, version, from: Int(want.offset) < all ? Int(want.offset) : 0, room: room, to: &body)
            counters.sent += 1
            count += 1
            room -= all + RetainedPart.overhead
            if !isWhole || room < RetainedPart.overhead { break }
        }
        var frame = WireWriter(.retainedValues, .bulk, capacity: body.count + 16)
        frame.u32(number)
        frame.varint(UInt64(count))
        frame.raw(body.bytes[FrameHeader.size...])
        counters.bytesSent += frame.count
        sendBulk(frame.finish(), to: peer)
        return true
    }

    private func append(
        _ event: Event, _ version: EventVersion, from offset: Int, room: Int, to writer: inout WireWriter
    ) {
        let all = UnsafeRawBufferPointer(
            start: event.bytes, count: event.topicLength + event.propertiesLength + event.payloadLength)
        let end = min(all.count, offset + room - RetainedPart.overhead)
        let left = event.expiresAt == 0 ? 0 : max(1, event.expiresAt - min(event.expiresAt, plane.now))
        let part = RetainedPart(
            version: version, millisecondsLeft: left, isTold: event.isRetained, qos: event.qos,
            extensionLength: event.extensionLength, topicLength: event.topicLength,
            propertiesLength: event.propertiesLength, payloadLength: event.payloadLength, offset: offset,
            bytes: UnsafeRawBufferPointer(rebasing: all[offset..<end]))
        withExtendedLifetime(event) { RetainedFrame.write(part, to: &writer) }
    }

    /// What another node may have of what it wants; nil when it has gone.
    private func offered(_ want: RetainedWant, to peer: RetainedPeer) -> (event: Event, version: EventVersion)? {
        guard let stored = router.retainedEvent(at: want.place, hash: want.hash),
            !stored.event.isExpired(at: plane.now)
        else { return nil }
        if let filter = peer.filter {
            // It asks by a number: it may be another topic than the one that was listed.
            return withExtendedLifetime(stored.event) { filter.admits(stored.event.topic) } ? stored : nil
        }
        guard want.isAbsent, stored.event.payloadLength > 0, isForgotten(stored.version, by: peer) else {
            return stored
        }
        let entry = RetainedEntry(hash: want.hash, version: stored.version, place: want.place)
        if router.forgetRetained(entry) != nil { counters.adopted += 1 }
        return nil
    }

    /// Whether a value that a peer lacks was deleted so long ago that nobody remembers: this node has been away for
    /// longer than deletions are remembered, the peer has not, and the value is from before.
    private func isForgotten(_ version: EventVersion, by peer: RetainedPeer) -> Bool {
        let life = UInt64(max(router.limits.tombstoneSeconds, 0)) * 1_000
        guard lastSynchronised.now != 0, plane.now - lastSynchronised.now > life, peer.since != 0,
            peer.since <= lastSynchronised.wall
        else { return false }
        return version.milliseconds <= lastSynchronised.wall
    }
}
