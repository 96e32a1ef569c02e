import Core

/// A set that a neighbour is being sent.
struct OutgoingSet {
    enum Place {
        case own(OwnInterest.Cursor)
        case remote(UInt32)
    }

    let node: NodeIndex
    let epoch: UInt64
    var job: UInt64 = 0
    var place: Place
    /// The version it was when the listing began.
    var from: UInt64 = 0
    var hash: UInt64 = 0
    var number: UInt64 = 0
    /// Parts that may be sent.
    var granted: UInt64 = 1
    /// When the neighbour last said so.
    var heardAt: UInt64 = 0
    var hasBegun = false
}

// Comparing versions, asking and answering.
extension Interest {
    // MARK: Telling versions

    /// Tells a neighbour every version that is here, of nodes that can be reached.
    func tellAll(_ link: LinkNumber) {
        guard neighbours[link] != nil else { return }
        neighbours[link]?.toldAt = max(plane.now, 1)
        neighbours[link]?.mismatches = 0
        var versions = [ownVersion]
        for case let set? in sets where set.unreachableSince == 0 && set.isServable && set.sequence > 0 {
            versions.append(set.version)
        }
        counters.versionsSent += 1
        send(InterestFrames.versions(versions, areAll: true), on: link)
    }

    /// A neighbour is to be told a version, with others that it is to be told soon.
    func offer(_ node: NodeIndex, on link: LinkNumber) {
        guard neighbours[link] != nil, neighbours[link]?.offers.contains(node) == false else { return }
        neighbours[link]?.offers.append(node)
        plane.wake(at: plane.now)
    }

    /// A set has advanced otherwise than by deltas: whoever gets its changes from here is told.
    func offerAdvance(of node: NodeIndex, except link: LinkNumber) {
        for child in routes.children(of: node) where child != link { offer(node, on: child) }
    }

    /// Tells neighbours what they are to be told.
    /// - Returns: when there will be more.
    func tellSome() -> UInt64 {
        var next = UInt64.max
        for link in plane.establishedLinks {
            guard let neighbour = neighbours[link] else { continue }
            if !neighbour.offers.isEmpty {
                neighbours[link]?.offers = []
                let versions = neighbour.offers.compactMap { offered($0) }
                if !versions.isEmpty {
                    counters.versionsSent += 1
                    send(InterestFrames.versions(versions, areAll: false), on: link)
                }
            }
            // It answers with what it spoke of; by then the link state may know those nodes.
            if neighbour.knowsMore {
                let due = neighbour.toldAt + Self.batchMilliseconds * 5
                if due <= plane.now {
                    neighbours[link]?.knowsMore = false
                    tellAll(link)
                } else {
                    next = min(next, due)
                }
            }
        }
        return next
    }

    private func offered(_ node: NodeIndex) -> InterestFrames.Version? {
        if node == NodeTable.own { return ownVersion }
        guard node < sets.count, let set = sets[node], set.isServable, set.sequence > 0 else { return nil }
        return set.version
    }

    // MARK: Comparing

    /// A neighbour has these versions: what is newer is asked for, and if they are all it has, it is told what is newer
    /// here.
    func compare(_ versions: [InterestFrames.Version], areAll: Bool, on link: LinkNumber) {
        guard neighbours[link] != nil else { return }
        if areAll { neighbours[link]?.knowsMore = false }
        var told = Array(repeating: false, count: sets.count)
        var isOwnKnown = false
        for version in versions {
            if version.origin == plane.nodes[NodeTable.own].id {
                isOwnKnown = version.epoch == own.epoch && version.sequence == own.sequence
                continue
            }
            guard let set = set(of: version.origin, epoch: version.epoch, on: link) else { continue }
            set.note(link, version.epoch, version.sequence)
            if set.isNewer(version.epoch, version.sequence) {
                ask(set)
            } else if set.sequence == version.sequence, set.node < told.count {
                told[set.node] = true
            }
        }
        guard areAll else { return }
        neighbours[link]?.hasTold = true
        if !isOwnKnown, own.sequence > 0 { offer(NodeTable.own, on: link) }
        for case let set? in sets where set.unreachableSince == 0 && set.isServable && set.sequence > 0 {
            let isSame = set.node < told.count && told[set.node]
            let isBehind = set.sources.contains { $0.link == link && set.isNewer($0.epoch, $0.sequence) }
            if !isSame, !isBehind { offer(set.node, on: link) }
        }
        plane.wake(at: plane.now)
    }

    // MARK: Asking

    /// Asks a neighbour that has more of a set, unless one has just been asked.
    func ask(_ set: RemoteSet) {
        guard set.intake == nil, !set.isLeaving, let link = set.nextSource() else { return }
        guard nextAsk(set) <= plane.now else { return plane.wake(at: nextAsk(set)) }
        set.askedAt = max(plane.now, 1)
        set.askedLink = link
        counters.requestsSent += 1
        send(
            InterestFrames.request(
                .ask(set.origin, epoch: set.epoch, have: set.sequence, isWhole: !set.isComplete)), on: link)
    }

    /// When a neighbour may be asked for a set again: at once if none has been, soon after an answer that was not all,
    /// else when it must have got lost.
    private func nextAsk(_ set: RemoteSet) -> UInt64 {
        if set.askedAt == 0 { return 0 }
        if set.progressAt > set.askedAt { return min(set.progressAt + 50, set.askedAt + Self.retryMilliseconds) }
        return set.askedAt + Self.retryMilliseconds
    }

    /// Asks for what is still missing.
    /// - Returns: when to look again.
    func askAgain() -> UInt64 {
        var next = UInt64.max
        for case let set? in sets where !set.isLeaving {
            if set.unreachableSince != 0 { next = min(next, set.unreachableSince + unreachablePatience) }
            if let intake = set.intake {
                let due = intake.heardAt + 3 * Self.retryMilliseconds
                if due > plane.now {
                    next = min(next, due)
                    continue
                }
                send(InterestFrames.request(.grant(job: intake.job, granted: 0)), on: intake.link)
                abandon(set)
            }
            recoverFromTruncation(set)
            if set.isTruncated { next = min(next, max(set.truncatedAt + set.patience, plane.now + 1_000)) }
            guard set.isBehind else { continue }
            if nextAsk(set) <= plane.now { ask(set) }
            next = min(next, max(nextAsk(set), plane.now + 1))
        }
        return next
    }

    /// A set of which some was refused is asked for again once there is room.
    private func recoverFromTruncation(_ set: RemoteSet) {
        guard set.isTruncated, set.isComplete, set.count < maxFilters / 10 * 9, set.bytes < Self.maxSetBytes,
            plane.now >= set.truncatedAt + set.patience
        else { return }
        set.isComplete = false
        set.askedAt = 0
        digestChanged()
    }

    // MARK: Answering

    /// Sets that wait to be sent to one neighbour; it asks again for more.
    private static let maxJobs = 1_024
    /// Bytes of deltas in one answer.
    private static let maxAnswerBytes = 64 << 10
    /// Milliseconds after which a neighbour that does not want more parts is given up.
    private static let maxSilence: UInt64 = 10_000
    private static let filtersOfPart = 512
    private static let placesOfPart = 8_192

    func answer(_ request: InterestFrames.Request, on link: LinkNumber) {
        switch request {
        case .ask(let origin, let epoch, let have, let isWhole):
            guard let node = plane.nodes.known(origin), let version = offered(node), epoch <= version.epoch else {
                return
            }
            let known = epoch < version.epoch ? 0 : have
            guard known < version.sequence || isWhole && known == version.sequence else { return }
            counters.requestsAnswered += 1
            if isWhole || !sendDeltas(of: node, after: known, on: link) { enqueue(node, version, on: link) }
        case .grant(let job, let granted):
            guard let place = neighbours[link]?.jobs.firstIndex(where: { $0.job == job && $0.hasBegun }) else { return }
            if granted == 0 {
                if let gone = neighbours[link]?.jobs.remove(at: place) { release(gone) }
                return
            }
            neighbours[link]?.jobs[place].granted = granted
            neighbours[link]?.jobs[place].heardAt = plane.now
            plane.wake(at: plane.now)
        case .unknown: return
        }
    }

    private func sendDeltas(of node: NodeIndex, after version: UInt64, on link: LinkNumber) -> Bool {
        let log = node == NodeTable.own ? own.log : sets[node]?.log
        guard let log, log.reaches(version) else { return false }
        for frame in log.frames(after: version, maxBytes: Self.maxAnswerBytes) { send(frame, on: link) }
        return true
    }

    private func enqueue(_ node: NodeIndex, _ version: InterestFrames.Version, on link: LinkNumber) {
        guard let jobs = neighbours[link]?.jobs, jobs.count < Self.maxJobs else { return }
        // One that asks again has given up what it was being sent.
        if let place = jobs.firstIndex(where: { $0.node == node }), let old = neighbours[link]?.jobs.remove(at: place) {
            release(old)
        }
        let start: OutgoingSet.Place = node == NodeTable.own ? .own(.filters(0)) : .remote(0)
        neighbours[link]?.jobs.append(OutgoingSet(node: node, epoch: version.epoch, place: start))
        plane.wake(at: plane.now)
    }

    /// A set is not being sent any more.
    func release(_ job: OutgoingSet) {
        guard job.hasBegun else { return }
        if job.node == NodeTable.own { own.readers -= 1 } else { sets[job.node]?.readers -= 1 }
    }

    /// Sends the next parts, one to a neighbour.
    /// - Returns: whether there is more to send.
    func serveSome() -> Bool {
        var isMore = false
        for link in plane.establishedLinks {
            guard var neighbour = neighbours[link], !neighbour.jobs.isEmpty else { continue }
            neighbours[link]?.jobs = []
            let isOver = serve(&neighbour.jobs[0], on: link)
            if isOver { release(neighbour.jobs.removeFirst()) }
            neighbours[link]?.jobs = neighbour.jobs
            guard let first = neighbour.jobs.first else { continue }
            if !first.hasBegun || first.number < first.granted {
                isMore = true
            } else {
                plane.wake(at: plane.now + 1_000)
            }
        }
        return isMore
    }

    /// Sends the next part if it may be sent.
    /// - Returns: whether the set is over.
    private func serve(_ job: inout OutgoingSet, on link: LinkNumber) -> Bool {
        guard let version = offered(job.node), version.epoch == job.epoch else {
            if job.hasBegun { abort(job, on: link) }
            return true
        }
        if !job.hasBegun {
            lastJob += 1
            job.job = lastJob
            job.from = version.sequence
            job.hash = version.hash
            job.heardAt = plane.now
            job.hasBegun = true
            if job.node == NodeTable.own { own.readers += 1 } else { sets[job.node]?.readers += 1 }
        }
        guard job.number < job.granted else {
            guard plane.now >= job.heardAt + Self.maxSilence else { return false }
            abort(job, on: link)
            return true
        }
        let changes = nextPage(&job)
        guard let changes else { return false }
        var part = InterestFrames.Part(
            origin: version.origin, epoch: job.epoch, job: job.job, number: job.number, from: job.from,
            to: version.sequence, hash: job.hash)
        part.isLast = changes.isLast
        part.isTruncated = job.node != NodeTable.own && sets[job.node]?.isTruncated ?? false
        let log = job.node == NodeTable.own ? own.log : sets[job.node]?.log
        if part.isLast, job.from != version.sequence, log?.reaches(job.from) != true {
            // It changed so much meanwhile that nobody knows any more what it was.
            abort(job, on: link)
            return true
        }
        counters.partsSent += 1
        send(InterestFrames.snapshot(part, changes.page), on: link)
        job.number += 1
        if part.isLast, job.from != version.sequence { _ = sendDeltas(of: job.node, after: job.from, on: link) }
        return part.isLast
    }

    private func abort(_ job: OutgoingSet, on link: LinkNumber) {
        let origin = plane.nodes[job.node].id
        var part = InterestFrames.Part(origin: origin, epoch: job.epoch, job: job.job, number: job.number)
        part.isAborted = true
        send(InterestFrames.snapshot(part, FilterChanges()), on: link)
    }

    /// The next filters of a set; nil when so far there were none and there is more to look through.
    private func nextPage(_ job: inout OutgoingSet) -> (page: FilterChanges, isLast: Bool)? {
        var page = FilterChanges()
        switch job.place {
        case .own(let cursor):
            let (found, next) = own.page(
                after: cursor, limit: Self.filtersOfPart, bytes: FilterChanges.maxBytes, places: Self.placesOfPart)
            page = found
            if let next { job.place = .own(next) }
            if page.count == 0, next != nil { return nil }
            page.sort()
            return (page, next == nil)
        case .remote(let cursor):
            guard let set = sets[job.node] else { return (page, true) }
            let found = router.remoteFilters(
                of: set.remote, after: cursor, limit: Self.filtersOfPart, bytes: FilterChanges.maxBytes,
                places: Self.placesOfPart)
            for entry in found.entries {
                let canonical = entry.filter.canonical
                if entry.isPresent { page.begins.append(canonical) } else { page.absent.append(canonical) }
            }
            if let next = found.next { job.place = .remote(next) }
            if page.count == 0, found.next != nil { return nil }
            page.sort()
            return (page, found.next == nil)
        }
    }
}

extension FilterChanges {
    fileprivate mutating func sort() {
        begins.sort(by: Self.precedes)
        absent.sort(by: Self.precedes)
        ends.sort(by: Self.precedes)
    }
}
