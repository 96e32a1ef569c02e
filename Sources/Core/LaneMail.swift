import Synchronization

/// Mail between lanes: packing runs into blocks, posting them once a pass, and delivering what has arrived.

/// In front of every record in a block. The body follows: targets, identifiers, views, topic, properties, bytes.
struct MailRecord: BitwiseCopyable {
    enum Kind: UInt8 { case run, receipt }

    /// Bytes of the record with its body; a multiple of 16.
    var size: UInt32
    var kind: Kind
    var layout: WireLayout = .none
    var qos: UInt8 = 0
    var isRetained: Bool = false
    var targetCount: UInt32 = 0
    var identifierCount: UInt32 = 0
    var eventCount: UInt32 = 0
    var topicLength: UInt32 = 0
    var propertiesLength: UInt32 = 0
    var extensionLength: UInt16 = 0
    var bytesLength: UInt32 = 0
    var expiresAt: UInt64 = 0
    /// Who published; for a receipt, who is told.
    var publisher: PortAddress
    var token: UInt32 = 0
    var refused: UInt32 = 0
    /// In a receipt: how many further ones will come.
    var more: UInt32 = 0
    var isPatient = false
    var isFromMesh = false
    var version = EventVersion.none
    var packing: Unmanaged<EventPacking>?
    /// The shared group that this is one member's share of; 0 for none.
    var group: UInt32 = 0
    /// The number of the router whose group that is.
    var router: UInt32 = 0
    var identity: UInt64 = 0
}

extension Lane {
    private static let headerSize = (MemoryLayout<MailRecord>.size + 15) & ~15

    /// Packs a run for targets of another lane.
    /// - Parameter token: nonzero when a receipt is wanted.
    /// - Returns: false when that lane's mailbox is full and the run was dropped; guaranteed runs never are, their
    ///   publishers are held by ``Limits/maxUnsettled``.
    func stage(
        _ run: UnsafePointer<EventRun>, _ targets: UnsafePointer<Target>, _ count: Int, to lane: Int, token: UInt32
    ) -> Bool {
        let hasWire = run.pointee.layout != .none
        var bytes = run.pointee.wireLength
        if !hasWire {
            bytes = 0
            for index in 0..<run.pointee.count { bytes += Int(run.pointee.events[index].payloadLength) }
        }
        if run.pointee.qos == 0 {
            let waiting = lanes.shared[lane].mailbox.pendingBytes.load(ordering: .relaxed) + stagedBytes[lane]
            if waiting + bytes > limits.maxMailboxBytes { return false }
        }
        var identifierCount = 0
        for index in 0..<count { identifierCount += Int(targets[index].identifierCount) }
        let views = run.pointee.count * MemoryLayout<EventView>.stride
        let body =
            count * MemoryLayout<Target>.stride + views + identifierCount * 4 + run.pointee.topicLength
            + run.pointee.propertiesLength + bytes
        let size = (Self.headerSize + body + 15) & ~15
        var record = MailRecord(size: UInt32(size), kind: .run, publisher: run.pointee.publisher)
        record.layout = run.pointee.layout
        record.qos = run.pointee.qos
        record.isRetained = run.pointee.isRetained
        record.expiresAt = run.pointee.expiresAt
        record.isPatient = run.pointee.isPatient
        record.isFromMesh = run.pointee.isFromMesh
        record.version = run.pointee.version
        record.packing = run.pointee.packing
        record.group = group
        record.router = groupRouter
        record.identity = run.pointee.identity
        record.targetCount = UInt32(count)
        record.identifierCount = UInt32(identifierCount)
        record.eventCount = UInt32(run.pointee.count)
        record.topicLength = UInt32(run.pointee.topicLength)
        record.propertiesLength = UInt32(run.pointee.propertiesLength)
        record.extensionLength = run.pointee.extensionLength
        record.bytesLength = UInt32(bytes)
        record.token = token
        pack(record, run, targets, at: room(size, for: lane))
        return true
    }

    private func pack(
        _ record: MailRecord, _ run: UnsafePointer<EventRun>, _ targets: UnsafePointer<Target>,
        at base: UnsafeMutableRawPointer
    ) {
        base.storeBytes(of: record, as: MailRecord.self)
        let parts = MailParts(record, base)
        var identifier: UInt32 = 0
        for index in 0..<Int(record.targetCount) {
            var target = targets[index]
            for offset in 0..<Int(target.identifierCount) {
                parts.identifiers[Int(identifier) + offset] = identifiers[Int(target.identifierStart) + offset]
            }
            target.identifierStart = identifier
            identifier += UInt32(target.identifierCount)
            parts.targets[index] = target
        }
        parts.topic.copyMemory(from: run.pointee.topic, byteCount: run.pointee.topicLength)
        parts.properties.copyMemory(from: run.pointee.properties, byteCount: run.pointee.propertiesLength)
        let events = run.pointee.events
        if record.layout != .none {
            parts.bytes.copyMemory(from: run.pointee.wire, byteCount: run.pointee.wireLength)
            let moved = UnsafeRawPointer(parts.bytes) - run.pointee.wire
            for index in 0..<run.pointee.count {
                parts.events[index] = events[index]
                parts.events[index].payload = events[index].payload + moved
            }
        } else {
            var place = parts.bytes
            for index in 0..<run.pointee.count {
                let view = events[index]
                place.copyMemory(from: view.payload, byteCount: Int(view.payloadLength))
                parts.events[index] = view
                parts.events[index].payload = UnsafeRawPointer(place)
                place += Int(view.payloadLength)
            }
        }
    }

    func stageReceipt(to publisher: PortAddress, token: UInt32, refused: Int, more: Int) {
        var record = MailRecord(size: UInt32(Self.headerSize), kind: .receipt, publisher: publisher)
        record.token = token
        record.refused = UInt32(refused)
        record.more = UInt32(more)
        room(Self.headerSize, for: publisher.lane).storeBytes(of: record, as: MailRecord.self)
    }

    /// Calls `body` on another lane, after all mail staged for it before.
    public final func callLater(_ lane: Int, _ body: @escaping @Sendable (Lane) -> Void) {
        sealBlock(lane)
        staged[lane].append(.call(body))
        hasStaged = true
    }

    /// Room for a record in the block being written for a lane.
    private func room(_ size: Int, for lane: Int) -> UnsafeMutableRawPointer {
        if let block = stagedBlocks[lane] {
            if block.capacity - block.count >= size { return advance(block, size, lane) }
            sealBlock(lane)
        }
        let block = lanes.shared[lane].mailbox.makeBlock(size)
        block.passStart = meter.passStart
        stagedBlocks[lane] = block
        hasStaged = true
        return advance(block, size, lane)
    }

    private func advance(_ block: MailBlock, _ size: Int, _ lane: Int) -> UnsafeMutableRawPointer {
        let place = block.base + block.count
        block.count += size
        stagedBytes[lane] += size
        return place
    }

    private func sealBlock(_ lane: Int) {
        guard let block = stagedBlocks[lane] else { return }
        staged[lane].append(.block(block))
        stagedBlocks[lane] = nil
    }

    /// Posts everything staged; the loop calls it once a pass, before it sends.
    public final func postMail() {
        guard hasStaged else { return }
        hasStaged = false
        for lane in 0..<lanes.count {
            sealBlock(lane)
            guard !staged[lane].isEmpty else { continue }
            let mustWake = lanes.shared[lane].mailbox.post(staged[lane], bytes: stagedBytes[lane])
            staged[lane].removeAll(keepingCapacity: true)
            stagedBytes[lane] = 0
            if mustWake { lanes.shared[lane].wake() }
        }
    }

    /// Delivers what has arrived; the loop calls it when it was woken.
    public final func readMail() {
        for mail in mailbox.take() {
            switch mail {
            case .call(let body): body(self)
            case .block(let block):
                let before = counters.eventsOut
                deliver(block)
                meter.sentForeign(counters.eventsOut &- before, since: block.passStart)
                mailbox.recycle(block)
            }
        }
    }

    private func deliver(_ block: MailBlock) {
        var offset = 0
        while offset < block.count {
            let base = block.base + offset
            let record = base.load(as: MailRecord.self)
            switch record.kind {
            case .run: deliver(record, base)
            case .receipt:
                port(at: record.publisher)?
                    .receiptArrived(
                        token: record.token, refused: Int(record.refused), more: Int(record.more), on: self)
            }
            offset += Int(record.size)
        }
    }

    private func deliver(_ record: MailRecord, _ base: UnsafeMutableRawPointer) {
        let parts = MailParts(record, base)
        var run = EventRun(
            topic: parts.topic, topicLength: Int(record.topicLength), events: parts.events,
            count: Int(record.eventCount), wire: parts.bytes, wireLength: Int(record.bytesLength),
            properties: parts.properties, propertiesLength: Int(record.propertiesLength),
            publisher: record.publisher, layout: record.layout, qos: record.qos, isRetained: record.isRetained,
            expiresAt: record.expiresAt)
        run.extensionLength = record.extensionLength
        run.isPatient = record.isPatient
        run.isFromMesh = record.isFromMesh
        run.version = record.version
        run.packing = record.packing
        run.identity = record.identity
        runToken = record.token
        held = 0
        identifiers = UnsafePointer(parts.identifiers)
        (group, groupRouter) = (record.group, record.router)
        // What is delivered next is nobody's share.
        defer { group = 0 }
        runSerial &+= 1
        var refused = 0
        withUnsafeMutablePointer(to: &run) { run in
            if record.qos > 0 { run.pointee.owned = turn.owned }
            for index in 0..<Int(record.targetCount) {
                refused += deliver(UnsafePointer(run), UnsafePointer(parts.targets + index))
            }
            if record.qos > 0 { releaseOwned(Int(record.eventCount)) }
        }
        if record.token != 0 {
            stageReceipt(to: record.publisher, token: record.token, refused: refused, more: held)
        }
    }

    /// Mail is read between turns, so the turn's own scratch is free for the shared copies.
    private func releaseOwned(_ count: Int) {
        for index in 0..<count {
            turn.owned[index]?.release()
            turn.owned[index] = nil
        }
    }
}

/// Where the parts of a run's record lie.
private struct MailParts {
    let targets: UnsafeMutablePointer<Target>
    let events: UnsafeMutablePointer<EventView>
    let identifiers: UnsafeMutablePointer<UInt32>
    let topic: UnsafeMutableRawPointer
    let properties: UnsafeMutableRawPointer
    let bytes: UnsafeMutableRawPointer

    init(_ record: MailRecord, _ base: UnsafeMutableRawPointer) {
        var place = base + (MemoryLayout<MailRecord>.size + 15) & ~15
        targets = place.assumingMemoryBound(to: Target.self)
        place += Int(record.targetCount) * MemoryLayout<Target>.stride
        events = place.assumingMemoryBound(to: EventView.self)
        place += Int(record.eventCount) * MemoryLayout<EventView>.stride
        identifiers = place.assumingMemoryBound(to: UInt32.self)
        place += Int(record.identifierCount) * 4
        topic = place
        properties = topic + Int(record.topicLength)
        bytes = properties + Int(record.propertiesLength)
    }
}
