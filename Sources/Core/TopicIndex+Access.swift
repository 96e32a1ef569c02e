/// Who reads at which port, for access rules.
///
/// A subscription that the rules allow as a whole is delivered to without a further look. Where they allow only some of
/// it (``DeliveryOptions/filtered``), or where rules or reader have changed since it was judged
/// (``PortRecord/judged``), its reader is asked about each topic when the topic is looked up; the answer is part of
/// what the lanes' match caches remember, so an event costs nothing for it. Under the router's lock, as the
/// whole index.
extension TopicIndex {
    /// Notes who has subscribed at a port.
    /// - Parameters:
    ///   - version: the version of the rules that the subscription was judged by; nil for any.
    ///   - isFirst: whether the port had no other subscription.
    func noteReader(_ reader: Reader, of port: UInt32, judgedBy version: UInt32?, isFirst: Bool) {
        setReader(reader, of: port)
        let version = version ?? readersVersion
        if isFirst {
            ports[port].judged = version
        } else if ports[port].judged == readersVersion {
            ports[port].judged = version
        }
    }

    /// Whoever reads at a port now has other rights than the one before; the node itself stays what it is.
    /// - Returns: whether its subscriptions must be judged again.
    func replaceReader(_ reader: Reader, of port: UInt32) -> Bool {
        guard ports[port].count > 0, let known = ports[port].reader else { return false }
        let former = known.takeUnretainedValue()
        guard !former.isNode, former !== reader else { return false }
        let isSame = former.hasSameRights(as: reader)
        setReader(reader, of: port)
        guard !isSame, readersVersion != 0 else { return false }
        // No version of rules: from now on every topic is looked at.
        ports[port].judged = 0
        return true
    }

    private func setReader(_ reader: Reader, of port: UInt32) {
        if let known = ports[port].reader {
            if known.toOpaque() == Unmanaged.passUnretained(reader).toOpaque() { return }
            known.release()
        }
        ports[port].reader = Unmanaged.passRetained(reader)
    }

    /// Whether a hit may be delivered to: its reader may read the topic.
    func isReadable(_ topic: UnsafeRawBufferPointer, _ hit: RawMatch.Hit) -> Bool {
        guard hit.options.contains(.filtered), let reader = ports[hit.port].reader else { return true }
        return readerRules.mayRead(topic, reader.takeUnretainedValue())
    }

    /// Takes out what may not be read.
    /// - Returns: how many subscriptions that were, and how many readers were asked.
    func removeUnreadable(from found: inout RawMatch, _ topic: UnsafeRawBufferPointer) -> (removed: Int, asked: Int) {
        guard readersVersion != 0 else { return (0, 0) }
        var asked = 0
        var removed = keepReadable(&found.hits, topic, &asked)
        guard found.members.contains(where: { $0.options.contains(.filtered) }) else { return (removed, asked) }
        var kept = RawMatch()
        var start = 0
        for (group, end) in zip(found.groupNumbers, found.groupEnds) {
            var members = Array(found.members[start..<end])
            removed += keepReadable(&members, topic, &asked)
            start = end
            guard !members.isEmpty else { continue }
            kept.members += members
            kept.groupEnds.append(kept.members.count)
            kept.groupNumbers.append(group)
        }
        (found.members, found.groupEnds, found.groupNumbers) = (kept.members, kept.groupEnds, kept.groupNumbers)
        return (removed, asked)
    }

    private func keepReadable(
        _ hits: inout [RawMatch.Hit], _ topic: UnsafeRawBufferPointer, _ asked: inout Int
    ) -> Int {
        var kept = 0
        for index in hits.indices {
            var hit = hits[index]
            if hit.options.contains(.filtered) {
                asked += 1
                guard isReadable(topic, hit) else { continue }
                hit.options.remove(.filtered)
            }
            hits[kept] = hit
            kept += 1
        }
        let removed = hits.count - kept
        hits.removeLast(removed)
        return removed
    }

    // MARK: Judging again

    /// Where a look through the subscriptions of some ports stands.
    struct Review {
        /// The next port to look at, and the last.
        var port: UInt32
        var last: UInt32
        /// The port whose subscriptions are being judged; 0 for none.
        var current: UInt32 = 0
        /// Its next subscription.
        var record: UInt32 = 0
        /// How often its list has changed under the look.
        var restarts = 0
        var reader: Reader?
        var access: ResolvedAccess?
    }

    /// What a step of a review has found.
    struct ReviewStep {
        /// What it took, in subscriptions judged and ports looked at.
        var cost = 0
        var isFinished = false
        /// The port whose subscriptions were judged, if one was finished.
        var finished: UInt32 = 0
        /// Subscriptions that the rules do not allow any more. They are still there.
        var refused: [TopicFilter] = []
        /// The port they belong to, and who read there.
        var port: UInt32 = 0
        var reader: Reader?
    }

    private static let (portsPerStep, recordsPerStep) = (64, 16)
    /// From then on a port's subscriptions are judged in one step.
    private static let maxRestarts = 8

    /// Goes on with a review of the ports of a lane.
    func step(_ review: inout Review, lane: Int) -> ReviewStep {
        var step = ReviewStep()
        if review.current == 0 {
            seek(&review, lane: lane, &step)
            guard review.current != 0 else { return step }
        }
        let port = review.current
        guard let reader = review.reader, isBeingReviewed(port, reader, lane: lane) else {
            // It has ended, or somebody else reads there now: from the beginning.
            review.port = min(review.port, port)
            review.current = 0
            step.cost += 1
            return step
        }
        (step.port, step.reader) = (port, reader)
        var left = review.restarts < Self.maxRestarts ? Self.recordsPerStep : .max
        while review.record != 0, left > 0 {
            let record = records[review.record]
            guard record.owner == port, record.role == .direct || record.role == .member else {
                // Given up meanwhile, perhaps used again for another.
                review.record = ports[port].firstRecord
                review.restarts += 1
                return step
            }
            left -= 1
            step.cost += 1
            judge(review.record, review.access, &step)
            review.record = record.portNext
        }
        if review.record == 0 {
            ports[port].judged = readersVersion
            step.finished = port
            (review.current, review.access, review.reader, review.restarts) = (0, nil, nil, 0)
        }
        return step
    }

    private func isBeingReviewed(_ port: UInt32, _ reader: Reader, lane: Int) -> Bool {
        ports[port].count > 0 && ports[port].address.lane == lane
            && ports[port].reader?.toOpaque() == Unmanaged.passUnretained(reader).toOpaque()
    }

    private func seek(_ review: inout Review, lane: Int, _ step: inout ReviewStep) {
        let end = min(review.last, ports.highest)
        var left = Self.portsPerStep
        while review.port <= end, left > 0 {
            let port = review.port
            review.port += 1
            left -= 1
            guard ports[port].count > 0, ports[port].address.lane == lane, ports[port].judged != readersVersion,
                let reader = ports[port].reader?.takeUnretainedValue()
            else { continue }
            review.current = port
            review.record = ports[port].firstRecord
            review.reader = reader
            review.access = reader.isNode ? nil : readerRules.resolve(for: reader.identity, clientID: reader.clientID)
            break
        }
        step.cost += 1
        step.isFinished = review.port > end && review.current == 0
    }

    private func judge(_ number: UInt32, _ access: ResolvedAccess?, _ step: inout ReviewStep) {
        let filter = filter(of: number)
        switch access?.reach(filter) ?? .everything {
        case .everything: setFiltered(number, false)
        case .something: setFiltered(number, true)
        case .nothing: step.refused.append(filter)
        }
    }

    /// Notes whether each topic must be looked at for a subscription.
    func setFiltered(_ number: UInt32, _ isFiltered: Bool) {
        if isFiltered { records[number].options.insert(.filtered) } else { records[number].options.remove(.filtered) }
    }
}
