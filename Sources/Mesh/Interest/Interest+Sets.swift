import Core

// The sets of other nodes: how they come in, and go.
extension Interest {
    /// The set of a node, made if there is none. Nil for this node's own, for nodes that the link state does not know,
    /// and for former lives.
    func set(of origin: NodeID, epoch: UInt64, on link: LinkNumber) -> RemoteSet? {
        guard let node = plane.nodes.known(origin), epoch <= plane.nodes[node].epoch else {
            // The link state says which life it is: once it does, the neighbour is asked to say it again.
            neighbours[link]?.knowsMore = true
            plane.wake(at: plane.now)
            return nil
        }
        guard node != NodeTable.own, epoch == plane.nodes[node].epoch else { return nil }
        while sets.count <= node { sets.append(nil) }
        if let known = sets[node] {
            if epoch < known.epoch { return nil }
            if epoch > known.epoch || known.isLeaving { restart(known, epoch) }
            return known
        }
        let made = RemoteSet(node: node, origin: origin, remote: router.addRemoteNode(node), epoch: epoch)
        if !routes.isReachable(node) {
            made.unreachableSince = max(plane.now, 1)
            router.setReachable(made.remote, false)
        }
        sets[node] = made
        if let weights = weights[node] { router.setWeights(weights, of: made.remote) }
        return made
    }

    /// Another life of a node begins, without any interest yet. What it wanted before is removed little by little.
    func restart(_ set: RemoteSet, _ epoch: UInt64) {
        set.epoch = epoch
        clear(set)
        router.setWeights(weights[set.node] ?? [], of: set.remote)
        set.isComplete = true
        set.sweep = 0
        set.sources.removeAll { $0.epoch < epoch }
        digestChanged()
        plane.wake(at: plane.now)
    }

    /// Nothing that is here counts any more.
    private func clear(_ set: RemoteSet) {
        router.beginSet(of: set.remote)
        set.intake = nil
        set.sequence = 0
        (set.announcedHash, set.hash, set.count, set.bytes, set.comparableFrom) = (0, 0, 0, 0, 0)
        set.isTruncated = false
        set.isLeaving = false
        set.sweep = nil
        restartLog(set, at: 0)
    }

    func restartLog(_ set: RemoteSet, at version: UInt64) {
        logBytes -= set.log.bytes
        set.log.restart(at: version)
    }

    /// The node is not coming back soon: everything it wanted is removed.
    func leave(_ set: RemoteSet) {
        guard !set.isLeaving else { return }
        clear(set)
        set.isComplete = false
        set.isLeaving = true
        set.sweep = 0
        digestChanged()
    }

    // MARK: Arriving

    func arrived(_ what: Arrived) {
        if appliedAt != plane.now { (applied, appliedAt) = (0, plane.now) }
        if waiting.isEmpty, applied < Self.changesPerStep { return apply(what) }
        guard waitingChanges + what.count <= Self.maxWaiting else {
            counters.framesDropped += 1
            return
        }
        waiting.append(what)
        waitingChanges += what.count
        plane.wake(at: plane.now + 1)
    }

    /// Applies some of what waits.
    /// - Returns: whether there is more.
    func applySome() -> Bool {
        if appliedAt != plane.now { (applied, appliedAt) = (0, plane.now) }
        while waitingTaken < waiting.count, applied < Self.changesPerStep {
            let what = waiting[waitingTaken]
            waitingTaken += 1
            waitingChanges -= what.count
            apply(what)
        }
        if waitingTaken == waiting.count || waitingTaken > 64 && waitingTaken * 2 > waiting.count {
            waiting.removeSubrange(..<waitingTaken)
            waitingTaken = 0
        }
        return !waiting.isEmpty
    }

    private func apply(_ what: Arrived) {
        applied += what.count
        switch what {
        case .delta(let version, let changes, let frame, let link): apply(version, changes, frame, from: link)
        case .part(let part, let changes, let link): apply(part, changes, from: link)
        }
    }

    // MARK: Deltas

    private func apply(
        _ version: InterestFrames.Version, _ changes: [FilterChange], _ frame: [UInt8], from link: LinkNumber
    ) {
        guard let set = set(of: version.origin, epoch: version.epoch, on: link) else {
            counters.deltasOld += 1
            return
        }
        set.note(link, version.epoch, version.sequence)
        guard set.isComplete else { return ask(set) }
        guard version.sequence > set.sequence else {
            counters.deltasOld += 1
            return
        }
        guard version.sequence == set.sequence + 1 else {
            counters.deltasEarly += 1
            return ask(set)
        }
        change(set, changes)
        set.sequence = version.sequence
        set.announcedHash = version.hash
        set.progressAt = plane.now
        counters.deltasApplied += 1
        digestChanged()
        guard isAsAnnounced(set) else { return }
        keep(frame, of: set, count: changes.count)
        for child in routes.children(of: set.node) where child != link { send(frame, on: child) }
        if set.isBehind { plane.wake(at: plane.now + 1) }
    }

    /// Compares what is here with what should be. A set that is not as its node says is asked for as a whole.
    private func isAsAnnounced(_ set: RemoteSet) -> Bool {
        guard set.sequence >= set.comparableFrom, !set.isTruncated, set.hash != set.announcedHash else { return true }
        counters.mismatches += 1
        plane.log(.warning, "interest of node \(set.origin) is not as announced: asking for all of it")
        set.isComplete = false
        set.askedAt = plane.now
        restartLog(set, at: 0)
        digestChanged()
        return false
    }

    private func keep(_ frame: [UInt8], of set: RemoteSet, count: Int) {
        guard set.isServable else { return }
        logBytes -= set.log.bytes
        let more = set.readers > 0 ? InterestLog.longer : 1
        // All logs together have a limit as well: beyond it each is short.
        let bytes = logBytes < Self.maxLogBytes ? Self.maxLogBytesOfSet * more : frame.count
        set.log.append(
            frame, version: set.sequence, count: count, maxChanges: Self.maxLoggedOfSet * more, maxBytes: bytes)
        logBytes += set.log.bytes
    }

    private static let maxLoggedOfSet = 2_000
    private static let maxLogBytesOfSet = 256 << 10
    private static let maxLogBytes = 32 << 20
    /// Filters that are changed under the router's lock at once.
    private static let batch = 64

    private func change(_ set: RemoteSet, _ changes: [FilterChange]) {
        var start = 0
        while start < changes.count {
            var end = start + 1
            let isEnd = changes[start].kind == .ends
            while end < changes.count, end - start < Self.batch, (changes[end].kind == .ends) == isEnd { end += 1 }
            if isEnd { remove(set, changes[start..<end]) } else { add(set, changes[start..<end]) }
            start = end
        }
    }

    private func add(_ set: RemoteSet, _ changes: ArraySlice<FilterChange>) {
        var taken = changes.filter { fits($0) }
        let room = max(0, maxFilters - set.count)
        if taken.count > room || set.bytes > Self.maxSetBytes {
            taken = set.bytes > Self.maxSetBytes ? [] : Array(taken.prefix(room))
        }
        if taken.count < changes.count { refuse(set, changes.count - taken.count) }
        let outcomes = router.subscribe(
            set.remote, taken.lazy.map { RemoteEntry(filter: $0.filter, isPresent: $0.kind == .begins) })
        for (change, outcome) in zip(taken, outcomes) {
            let isPresent = change.kind == .begins
            switch outcome {
            case .same: continue
            case .added:
                set.count += 1
                set.bytes += change.bytes
            case .changed: set.hash &-= InterestHash.entry(change.base, isPresent: !isPresent)
            }
            set.hash &+= InterestHash.entry(change.base, isPresent: isPresent)
        }
    }

    private func remove(_ set: RemoteSet, _ changes: ArraySlice<FilterChange>) {
        for (change, was) in zip(changes, router.unsubscribe(set.remote, changes.lazy.map(\.filter))) where was != .none
        {
            set.count -= 1
            set.bytes -= change.bytes
            set.hash &-= InterestHash.entry(change.base, isPresent: was == .present)
        }
    }

    private func fits(_ change: FilterChange) -> Bool {
        let filter = change.filter
        return filter.bytes.count <= router.limits.maxTopicBytes && filter.levels.count <= router.limits.maxTopicLevels
    }

    private func refuse(_ set: RemoteSet, _ count: Int) {
        counters.filtersRefused += count
        guard !set.isTruncated else { return }
        truncated(set)
        plane.log(
            .warning, "node \(set.origin) wants more than this node takes: \(maxFilters) filters, or too long ones")
    }

    /// Some of a set is missing, and will be for a while.
    private func truncated(_ set: RemoteSet) {
        guard !set.isTruncated else { return }
        set.isTruncated = true
        set.truncatedAt = plane.now
        set.patience = min(max(set.patience * 2, Self.leastPatience), Self.mostPatience)
        plane.wake(at: set.truncatedAt + set.patience)
    }

    /// Milliseconds until a set of which some was refused is asked for again, from the first to the last time.
    private static let (leastPatience, mostPatience): (UInt64, UInt64) = (30_000, 3_600_000)

    // MARK: Whole sets

    private func apply(_ part: InterestFrames.Part, _ changes: [FilterChange], from link: LinkNumber) {
        guard let set = set(of: part.origin, epoch: part.epoch, on: link), begin(part, of: set, from: link),
            var intake = set.intake
        else { return }
        if part.isAborted {
            set.forget(link)
            return abandon(set)
        }
        intake.next += 1
        intake.heardAt = plane.now
        set.progressAt = plane.now
        if !intake.askedAt.isEmpty {
            let time = plane.now - intake.askedAt.removeFirst()
            intake.quickest = min(intake.quickest, time)
            // Parts that queue up on a slow link would delay hellos.
            intake.window = time <= intake.quickest + 50 ? min(intake.window + 1, Self.maxWindow) : 1
        }
        set.intake = intake
        change(set, changes)
        if part.isTruncated { truncated(set) }
        guard part.isLast else { return grant(set) }
        set.intake = nil
        set.sequence = part.from
        set.announcedHash = part.hash
        set.comparableFrom = part.to
        set.isComplete = true
        set.sweep = 0
        restartLog(set, at: part.from)
        counters.setsTaken += 1
        digestChanged()
        plane.wake(at: plane.now)
        if part.from == part.to, !isAsAnnounced(set) { return }
        if !set.isTruncated { set.patience = 0 }
        offerAdvance(of: set.node, except: link)
    }

    /// Parts on their way at once.
    private static let maxWindow: UInt64 = 4

    /// Whether a part is the next one that is wanted; the first part of a set begins it.
    private func begin(_ part: InterestFrames.Part, of set: RemoteSet, from link: LinkNumber) -> Bool {
        if let intake = set.intake {
            if intake.link == link, intake.job == part.job, intake.next == part.number { return true }
            if intake.link == link, intake.job == part.job { abandon(set) }
            send(InterestFrames.request(.grant(job: part.job, granted: 0)), on: link)
            return false
        }
        guard part.number == 0, !part.isAborted, set.isBehind, set.askedLink == link else {
            if !part.isAborted { send(InterestFrames.request(.grant(job: part.job, granted: 0)), on: link) }
            return false
        }
        let sequence = set.sequence
        // From here on what is here is neither this version nor that. What was here is found until it has gone.
        clear(set)
        set.sequence = sequence
        set.isComplete = false
        set.intake = RemoteSet.Intake(link: link, job: part.job, granted: 1, heardAt: plane.now)
        digestChanged()
        return true
    }

    private func grant(_ set: RemoteSet) {
        guard var intake = set.intake else { return }
        let granted = intake.next + intake.window
        guard granted > intake.granted else { return }
        for _ in intake.granted..<granted { intake.askedAt.append(plane.now) }
        intake.granted = granted
        set.intake = intake
        send(InterestFrames.request(.grant(job: intake.job, granted: granted)), on: intake.link)
    }

    /// A set that was on its way in will not be completed. What has come is found as well as what was before; all of
    /// it is asked for again.
    func abandon(_ set: RemoteSet) {
        set.intake = nil
        set.askedAt = 0
        counters.setsGivenUp += 1
        plane.wake(at: plane.now)
    }

    // MARK: Going

    /// Removes some of what is no longer wanted.
    /// - Returns: whether there is more.
    func sweepSome() -> Bool {
        var left = Self.changesPerStep
        var isMore = false
        for node in sets.indices {
            guard let set = sets[node] else { continue }
            if set.unreachableSince != 0, plane.now >= set.unreachableSince + unreachablePatience {
                leave(set)
            }
            guard let cursor = set.sweep else { continue }
            guard left > 0 else { return true }
            left -= Self.changesPerStep / 2
            if set.isLeaving {
                set.sweep = router.removeRemoteNode(set.remote, after: cursor, max: Self.changesPerStep)
                if set.sweep == nil { sets[node] = nil }
            } else {
                set.sweep = router.sweep(set.remote, after: cursor, places: Self.changesPerStep)
            }
            isMore = isMore || set.sweep != nil
        }
        return isMore
    }
}
