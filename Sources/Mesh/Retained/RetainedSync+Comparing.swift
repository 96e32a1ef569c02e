import Core

// Finding out what differs: digests, listings and answers.

extension RetainedSync {
    func receiveDigest(_ reader: inout WireReader, _ peer: RetainedPeer) -> Bool {
        let (theirs, since) = (reader.u64(), reader.u64())
        guard reader.isWhole else { return false }
        (peer.digest, peer.since) = (theirs, since)
        if theirs == digest {
            synchronised(peer, areEqual: true)
        } else if peer.leads {
            // The answer to this one is the buckets.
            if !peer.isComparing, !isFruitless(peer, theirs) { sendDigest(.digest, to: peer) }
        } else if peer.comparison == nil, let link = peer.links.first {
            let (digest, digests) = (router.retainedDigest, router.retainedBucketDigests)
            plane.send(RetainedFrame.buckets(.buckets, digest, since: self.since, digests), on: link)
        }
        return true
    }

    /// The leader's comparison has come to its end.
    func receiveFinished(_ reader: inout WireReader, _ peer: RetainedPeer) -> Bool {
        let (theirs, since) = (reader.u64(), reader.u64())
        guard reader.isWhole, !peer.leads else { return false }
        (peer.digest, peer.since) = (theirs, since)
        peer.stop()
        synchronised(peer, areEqual: peer.filter == nil && theirs == digest)
        return true
    }

    func receiveBuckets(_ reader: inout WireReader, _ peer: RetainedPeer) -> Bool {
        let (theirs, since) = (reader.u64(), reader.u64())
        var digests: [UInt64] = []
        digests.reserveCapacity(Router.retainedBuckets)
        for _ in 0..<Router.retainedBuckets { digests.append(reader.u64()) }
        guard reader.isWhole, peer.leads else { return false }
        guard !peer.isComparing, !isFruitless(peer, theirs) else { return true }
        (peer.digest, peer.since) = (theirs, since)
        let own = router.retainedBucketDigests
        begin(peer, own.indices.filter { own[$0] != digests[$0] })
        return true
    }

    /// Begins to list what is in buckets that differ.
    func begin(_ peer: RetainedPeer, _ differing: [Int]) {
        guard !differing.isEmpty else { return synchronised(peer, areEqual: true) }
        // Neighbours of one node begin at different places, so that it does not get all from each of them.
        let first = Int(plane.random() % UInt64(differing.count))
        let order = differing[first...] + differing[..<first]
        peer.ranges = order.reversed().map { HashRange(bucket: $0) }
        peer.round &+= 1
        peer.portion = 0
        peer.gained = 0
        peer.isComparing = true
        peer.deadline = plane.now + Time.patience
        began(peer)
        counters.rounds += 1
    }

    /// Rounds in close succession become rarer, unless they end with equal digests.
    private func began(_ peer: RetainedPeer) {
        peer.lastRound = plane.now
        peer.pause = min(peer.pause * 2, Time.maxPause)
    }

    // MARK: Leading

    /// Goes on with a comparison that this node leads: asks for values that it wants, or lists the next portion.
    func proceed(_ peer: RetainedPeer, _ budget: inout Int) {
        guard peer.unsent.isEmpty, !requestValues(peer), !peer.isAwaiting else { return }
        var count = peer.sections.reduce(0) { $0 + $1.entries.count }
        while let wanted = peer.ranges.last, peer.sections.count < RetainedFrame.maxSections,
            count + RangeReader.maxEntries <= RetainedFrame.maxEntries
        {
            guard let range = peer.reader.read(wanted, router, budget: &budget) else { return }
            peer.ranges.removeLast()
            if range.last < wanted.last {
                peer.ranges.append(HashRange(first: range.last + 1, last: wanted.last))
            }
            var entries = peer.reader.entries
            if let filter = peer.filter { entries.removeAll { !filter.admits($0, router) } }
            peer.sections.append(RetainedSection(range: range, entries: entries))
            count += entries.count
        }
        guard !peer.sections.isEmpty else { return finish(peer) }
        peer.portion &+= 1
        let listing = RetainedListing(round: peer.round, portion: peer.portion, sections: peer.sections)
        peer.awaited = peer.sections.map(\.range)
        peer.sections = []
        peer.isAwaiting = true
        peer.deadline = plane.now + Time.patience
        sendBulk(RetainedFrame.listing(listing), to: peer)
    }

    func take(_ answer: RetainedAnswer, from peer: RetainedPeer) {
        guard peer.isComparing, peer.isAwaiting, answer.round == peer.round, answer.portion == peer.portion else {
            return
        }
        peer.isAwaiting = false
        peer.deadline = plane.now + Time.patience
        peer.gained += answer.taken
        let done = min(answer.sections, peer.awaited.count)
        var left = Array(peer.awaited[done...])
        if let through = answer.through, let first = left.first, through >= first.first, through < first.last {
            left[0].first = through + 1
        } else if answer.sections == 0 {
            // No progress at all would go on for ever.
            left = Array(left.dropFirst())
        }
        peer.ranges.append(contentsOf: left.reversed())
        peer.awaited = []
        peer.dropWants()
        // With a policy the other end gives what it has by itself.
        peer.wants = peer.filter == nil ? answer.newer : []
    }

    private func finish(_ peer: RetainedPeer) {
        peer.stop()
        let own = peer.filter == nil ? digest : peer.view.total
        peer.fruitless = peer.gained == 0 ? (own, peer.digest, plane.now + Time.fruitless) : nil
        synchronised(peer, areEqual: false)
        if let link = peer.links.first {
            plane.send(RetainedFrame.digest(.finished, own, since: peer.filter == nil ? since : 0), on: link)
        }
        if peer.gained > 0 { peer.compareAt = min(peer.compareAt, plane.now + peer.pause) }
    }

    // MARK: Answering

    /// Goes on with a comparison that the other one leads.
    func compare(_ peer: RetainedPeer, _ budget: inout Int) {
        guard var comparison = peer.comparison else { return }
        while !comparison.isCompared {
            let done = comparison.answer.sections
            guard done < comparison.listing.sections.count, comparison.answer.newer.count < 600,
                peer.wants.count < 1_200
            else {
                comparison.isCompared = true
                break
            }
            let section = comparison.listing.sections[done]
            guard let range = peer.reader.read(section.range, router, budget: &budget) else {
                peer.comparison = comparison
                return
            }
            compare(section.entries, peer.reader.entries, through: range.last, peer, &comparison.answer)
            budget -= section.entries.count
            if range.last < section.range.last {
                comparison.answer.through = range.last
                comparison.isCompared = true
            } else {
                comparison.answer.sections += 1
            }
        }
        peer.comparison = comparison
        guard peer.unsent.isEmpty, !requestValues(peer) else { return }
        comparison.answer.taken = peer.taken
        peer.taken = 0
        peer.comparison = nil
        // For the next portion, or for the end of it.
        peer.deadline = plane.now + Time.patience
        sendBulk(RetainedFrame.answer(comparison.answer), to: peer)
    }

    /// Compares what both have in a range; both by hash.
    private func compare(
        _ theirs: [RetainedEntry], _ own: [RetainedEntry], through last: UInt64, _ peer: RetainedPeer,
        _ answer: inout RetainedAnswer
    ) {
        var (a, b) = (0, 0)
        while a < theirs.count || b < own.count {
            let hash = min(
                a < theirs.count ? theirs[a].hash : .max, b < own.count ? own[b].hash : .max)
            guard hash <= last else { return }
            let (firstA, firstB) = (a, b)
            while a < theirs.count, theirs[a].hash == hash { a += 1 }
            while b < own.count, own[b].hash == hash { b += 1 }
            settle(theirs[firstA..<a], own[firstB..<b], peer, &answer)
            // Hash .max cannot be passed otherwise.
            if hash == .max { return }
        }
    }

    /// Decides who wants what of the entries with one hash: nearly always one topic.
    private func settle(
        _ theirs: ArraySlice<RetainedEntry>, _ own: ArraySlice<RetainedEntry>, _ peer: RetainedPeer,
        _ answer: inout RetainedAnswer
    ) {
        func want(_ entry: RetainedEntry, isAbsent: Bool) -> RetainedWant {
            RetainedWant(place: entry.place, hash: entry.hash, isAbsent: isAbsent)
        }
        if peer.filter != nil { return wantNewer(theirs, than: own, peer) }
        if theirs.count <= 1, own.count <= 1 {
            switch (theirs.first, own.first) {
            case (let theirs?, let own?):
                if own.version < theirs.version { peer.wants.append(want(theirs, isAbsent: false)) }
                if theirs.version < own.version { answer.newer.append(want(own, isAbsent: false)) }
            case (let theirs?, nil): peer.wants.append(want(theirs, isAbsent: true))
            case (nil, let own?): answer.newer.append(want(own, isAbsent: true))
            case (nil, nil): break
            }
            return
        }
        // Several topics with the same hash: without their names nobody knows which is which.
        guard theirs.map(\.version).sorted() != own.map(\.version).sorted() else { return }
        for entry in theirs { peer.wants.append(want(entry, isAbsent: false)) }
        for entry in own { answer.newer.append(want(entry, isAbsent: false)) }
    }

    /// With a policy: what is newer there; what is newer here goes the other way by itself, if it may.
    private func wantNewer(
        _ theirs: ArraySlice<RetainedEntry>, than own: ArraySlice<RetainedEntry>, _ peer: RetainedPeer
    ) {
        for entry in theirs where !own.contains(where: { $0.version == entry.version }) {
            // Of several topics with one hash nobody knows which is which.
            if theirs.count == 1, own.count == 1, let known = own.first, entry.version < known.version { continue }
            peer.wants.append(RetainedWant(place: entry.place, hash: entry.hash, isAbsent: own.isEmpty))
        }
    }
}
