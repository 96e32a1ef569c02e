/// What neighbours tell each other: advertisements are flooded, and versions compared when a link is established or
/// the digests in hellos differ.
///
///     versions: count, then for each advertisement node id, epoch u64, sequence u64
///     request:  count, then node ids; each advertisement comes in a frame of its own

/// What goes on with one neighbour on one link.
struct LinkExchange {
    /// Advertisements a neighbour may ask for at once, and milliseconds for one more.
    static let answerBurst: UInt64 = 4_096
    static let answerInterval: UInt64 = 1
    /// Milliseconds between two repairs.
    static let repairInterval: UInt64 = 1_000
    /// Different digests in so many hellos are a reason to compare versions even if they keep changing.
    static let maxMismatches = 32

    let link: LinkNumber
    /// The neighbour has told what it has.
    var hasVersions = false
    /// Of that, what this node has not got yet. Never iterated.
    var awaited: [NodeID: AdvertisementVersion] = [:]
    /// Both digests of the last hello, if they differed.
    var mismatch: (theirs: UInt64, own: UInt64)?
    var mismatches = 0
    var repairedAt: UInt64?
    var answers: TokenBucket

    init(link: LinkNumber, now: UInt64) {
        self.link = link
        answers = TokenBucket(capacity: Self.answerBurst, interval: Self.answerInterval, now: now)
    }
}

extension LinkState {
    // MARK: Links

    /// A control connection is established: both ends tell what they have, and ask for what they miss.
    func linkUp(_ link: LinkNumber) {
        exchanges.removeAll { $0.link == link }
        exchanges.insert(
            LinkExchange(link: link, now: plane.now),
            at: exchanges.firstIndex { $0.link > link } ?? exchanges.count)
        plane.send(versionsFrame(), on: link)
    }

    /// A control connection has gone, and the link with it.
    func linkDown(_ link: LinkNumber) {
        exchanges.removeAll { $0.link == link }
        adjacencyDown(link)
    }

    /// A hello brought the neighbour's digest. The same mismatch in two hellos is not one that is just being mended.
    func heard(digest theirs: UInt64, on link: LinkNumber) {
        guard let place = exchanges.firstIndex(where: { $0.link == link }) else { return }
        guard theirs != digest else {
            exchanges[place].mismatch = nil
            exchanges[place].mismatches = 0
            return
        }
        let isSame = exchanges[place].mismatch.map { $0 == (theirs, digest) } ?? false
        exchanges[place].mismatch = (theirs, digest)
        exchanges[place].mismatches += 1
        guard isSame || exchanges[place].mismatches >= LinkExchange.maxMismatches else { return }
        let now = plane.now
        if let last = exchanges[place].repairedAt, now - last < LinkExchange.repairInterval { return }
        exchanges[place].repairedAt = now
        exchanges[place].mismatches = 0
        counters.repairs += 1
        plane.send(versionsFrame(), on: link)
    }

    // MARK: Frames

    /// Takes a frame.
    /// - Returns: why it is malformed.
    func receive(_ type: FrameType, _ reader: inout WireReader, from link: LinkNumber) -> String? {
        switch type {
        case .advertisement: receiveAdvertisement(reader.rest(), from: link)
        case .advertisementVersions: receiveVersions(&reader, from: link)
        case .advertisementRequest: receiveRequest(&reader, from: link)
        default: "a frame of type \(type.rawValue) is not for the link state"
        }
    }

    private func receiveAdvertisement(_ body: UnsafeRawBufferPointer, from link: LinkNumber) -> String? {
        var reader = WireReader(body)
        let head = AdvertisementHead(&reader)
        guard !reader.isBroken else { return AdvertisementError.truncated.rawValue }
        guard head.area == 0, head.lifetime > 0 else {
            counters.ignored += 1
            return nil
        }
        let now = plane.now
        let nodes = plane.nodes
        if head.id == nodes[NodeTable.own].id {
            heardOfOneself(head, from: link)
            return nil
        }
        let known = nodes.known(head.id)
        switch database.freshness(head.version, of: known) {
        case .same:
            counters.stale += 1
            return nil
        case .older:
            counters.stale += 1
            if let entry = known.flatMap({ database[$0] }) { answer(entry, on: link, now) }
            return nil
        case .newer: break
        }
        let advertisement: Advertisement
        do { advertisement = try Advertisement(body) } catch { return error.rawValue }
        accept(advertisement, body, from: link, now)
        return nil
    }

    /// Takes a newer advertisement of another node, and passes it on.
    private func accept(
        _ advertisement: Advertisement, _ body: UnsafeRawBufferPointer, from link: LinkNumber, _ now: UInt64
    ) {
        let nodes = plane.nodes
        let head = advertisement.head
        let known = nodes.known(head.id)
        let entry = known.flatMap { database[$0] }
        if head.has(AdvertisementHead.left), entry?.hasLeft ?? true {
            counters.ignored += 1
            return
        }
        guard entry.map({ !$0.hasLeft }) ?? false || hasRoom(for: head.id, isKnown: known != nil, now),
            let node = nodes.index(of: head.id)
        else {
            counters.refusedForNodes += 1
            return complain("there are too many nodes: node \(head.id) is refused", now)
        }
        if let entry, !entry.rate.take(now) {
            counters.refusedForRate += 1
            return complain("node \(head.id) advertises too often", now)
        }
        let before = (entry?.hasLeft ?? true) ? nil : entry?.advertisement
        let epoch = nodes[node].epoch
        var frame = WireWriter(.advertisement, capacity: FrameHeader.size + body.count)
        frame.raw(body)
        let lifetime = min(UInt64(head.lifetime), LinkStateDatabase.maxLifetime)
        database.store(advertisement, frame: frame.finish(), of: node, expiresAt: now + lifetime, now: now)
        nodes.update(node, epoch: head.version.epoch, instance: head.instance, name: advertisement.name)
        counters.accepted += 1
        named = nil
        if let entry = database[node] { flood(entry, except: link, now) }
        noteStored(head.id, head.version)
        if head.has(AdvertisementHead.left) {
            plane.log(.notice, "node \(advertisement.name) has left the mesh for good")
            database.leave(node)
            return left(node, now)
        }
        plane.wake(at: database.expiry)
        noteWeights(of: node, advertisement, before: before)
        guard !(before.map(advertisement.saysTheSame) ?? false) else { return }
        settleSoon(now)
        let isRestart = epoch != 0 && epoch != head.version.epoch
        if isRestart { forgive(node, now) }
        if isRestart || before.map({ Self.detailsDiffer($0, advertisement) }) ?? true {
            events.nodeChanged(node, isRestart: isRestart)
        }
    }

    /// Whether a node may be added to those that are present. Anybody can invent nodes; so those that nobody who can be
    /// reached has a link to come in slowly, never take the last indices, and make room for those that somebody has.
    private func hasRoom(for id: NodeID, isKnown: Bool, _ now: UInt64) -> Bool {
        if database.hasRoom, isKnown { return true }
        if database.hasRoom, plane.nodes.inUse < LinkStateDatabase.maxUnnamed, newcomers.take(now) { return true }
        guard isNamed(id, now) else { return false }
        if database.hasRoom { return true }
        // The one that was heard of longest ago and cannot be reached.
        let out = database.present.filter { $0 != NodeTable.own && !routes.isReachable($0) && !isNeighbour($0) }
            .min { (database[$0]?.receivedAt ?? 0, $0) < (database[$1]?.receivedAt ?? 0, $1) }
        guard let out else { return false }
        database.leave(out)
        counters.evicted += 1
        left(out, now)
        return true
    }

    private func isNeighbour(_ node: NodeIndex) -> Bool {
        plane.establishedLinks.contains { plane.peer(of: $0) == node }
    }

    /// Whether a node is at the other end of an own link, or a neighbour of a node that can be reached, as that one
    /// says.
    private func isNamed(_ id: NodeID, _ now: UInt64) -> Bool {
        if let known = plane.nodes.known(id), isNeighbour(known) { return true }
        if named == nil {
            var found: [NodeID: NodeIndex] = [:]
            for node in database.present where routes.isReachable(node) {
                guard let entry = database[node] else { continue }
                for adjacency in entry.advertisement.adjacencies where found[adjacency.neighbour] == nil {
                    found[adjacency.neighbour] = node
                }
            }
            named = found
        }
        guard let voucher = named?[id].flatMap({ database[$0] }) else { return false }
        return voucher.node == NodeTable.own || voucher.vouching.take(now)
    }

    /// Whether more differs than links and what settling finds out.
    private static func detailsDiffer(_ a: Advertisement, _ b: Advertisement) -> Bool {
        a.head.flags != b.head.flags || a.head.instance != b.head.instance || a.name != b.name
            || a.addresses != b.addresses
    }

    /// Passes an advertisement on, with the time it has left.
    private func flood(_ entry: LinkStateEntry, except link: LinkNumber, _ now: UInt64) {
        let frame = Self.frame(entry, now)
        for other in plane.establishedLinks where other != link { plane.send(frame, on: other) }
    }

    private static func frame(_ entry: LinkStateEntry, _ now: UInt64) -> [UInt8] {
        // What has left is told of only to nodes that have something older; they need not keep it for long.
        let left = UInt32(truncatingIfNeeded: max(entry.lifetime(now), 1_000))
        var frame = entry.frame
        frame.withUnsafeMutableBytes {
            $0.storeBytes(
                of: left.littleEndian, toByteOffset: FrameHeader.size + AdvertisementHead.lifetimeOffset,
                as: UInt32.self)
        }
        return frame
    }

    /// Sends what is newer than what a neighbour has sent, or what it has asked for.
    func answer(_ entry: LinkStateEntry, on link: LinkNumber, _ now: UInt64) {
        guard let place = exchanges.firstIndex(where: { $0.link == link }), exchanges[place].answers.take(now) else {
            counters.refusedAnswers += 1
            return
        }
        plane.send(Self.frame(entry, now), on: link)
    }

    /// One line a minute about what is refused; the rest is counted.
    private func complain(_ message: String, _ now: UInt64) {
        if let last = complainedAt, now - last < 60_000 { return }
        complainedAt = now
        plane.log(.warning, message)
    }

    // MARK: Versions

    private func versionsFrame() -> [UInt8] {
        var writer = WireWriter(.advertisementVersions, capacity: 16 + database.present.count * 32)
        writer.varint(UInt64(database.present.count))
        for node in database.present {
            guard let head = database[node]?.advertisement.head else { continue }
            writer.nodeID(head.id)
            writer.u64(head.version.epoch)
            writer.u64(head.version.sequence)
        }
        return writer.finish()
    }

    private func receiveVersions(_ reader: inout WireReader, from link: LinkNumber) -> String? {
        let count = reader.count(each: 32)
        guard count <= LinkStateDatabase.maxNodes else { return "versions of more nodes than there may be" }
        var missing: [(id: NodeID, version: AdvertisementVersion)] = []
        for _ in 0..<count {
            let id = reader.nodeID()
            let version = AdvertisementVersion(epoch: reader.u64(), sequence: reader.u64())
            let known = plane.nodes.known(id)
            switch database.freshness(version, of: known) {
            case .newer: missing.append((id, version))
            case .same: break
            case .older:
                // It has left for good, and the neighbour has not heard of it.
                guard let entry = known.flatMap({ database[$0] }), entry.hasLeft,
                    entry.advertisement.head.has(AdvertisementHead.left)
                else { break }
                answer(entry, on: link, plane.now)
            }
        }
        guard reader.isWhole else { return "versions of advertisements are malformed" }
        guard let place = exchanges.firstIndex(where: { $0.link == link }) else { return nil }
        exchanges[place].hasVersions = true
        exchanges[place].awaited = Dictionary(missing.map { ($0.id, $0.version) }) { max($0, $1) }
        guard !missing.isEmpty else {
            synchronised()
            return nil
        }
        var writer = WireWriter(.advertisementRequest, capacity: 16 + missing.count * 16)
        writer.varint(UInt64(missing.count))
        for entry in missing { writer.nodeID(entry.id) }
        plane.send(writer.finish(), on: link)
        return nil
    }

    private func receiveRequest(_ reader: inout WireReader, from link: LinkNumber) -> String? {
        let count = reader.count(each: 16)
        guard count <= LinkStateDatabase.maxNodes else { return "a request for more nodes than there may be" }
        let now = plane.now
        var wanted: [NodeID] = []
        for _ in 0..<count { wanted.append(reader.nodeID()) }
        guard reader.isWhole else { return "a request for advertisements is malformed" }
        for id in wanted {
            guard let entry = plane.nodes.known(id).flatMap({ database[$0] }), !entry.hasLeft else { continue }
            answer(entry, on: link, now)
        }
        return nil
    }

    /// An advertisement has come: it may be the last that a neighbour had announced.
    func noteStored(_ id: NodeID, _ version: AdvertisementVersion) {
        for place in exchanges.indices {
            guard let awaited = exchanges[place].awaited[id], awaited <= version else { continue }
            exchanges[place].awaited[id] = nil
            if exchanges[place].hasVersions, exchanges[place].awaited.isEmpty { synchronised() }
        }
    }

    private func synchronised() {
        guard !isSynchronised else { return }
        isSynchronised = true
        plane.wake(at: plane.now)
    }
}
