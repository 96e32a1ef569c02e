import Core

@testable import Mesh

/// The codecs of the mesh: whatever bytes, they refuse or say what they can say again in the same words, and never
/// read beyond.

/// The first byte chooses what is read.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 1 else { return 0 }
    // A copy of just these bytes, so that a byte read beyond is noticed.
    let body = UnsafeMutableRawBufferPointer.allocate(byteCount: count - 1, alignment: 1)
    defer { body.deallocate() }
    body.copyMemory(from: UnsafeRawBufferPointer(start: start + 1, count: count - 1))
    let bytes = UnsafeRawBufferPointer(body)
    switch start[0] % 12 {
    case 0: content(bytes)
    case 1: dataFrame(bytes)
    case 2: advertisement(bytes)
    case 3: interest(bytes)
    case 4: streams(bytes)
    case 5: retained(bytes)
    case 6: sessions(bytes)
    case 7: initiation(bytes)
    case 8: queue(bytes)
    case 9: filters(bytes)
    case 10: order(bytes)
    default: reader(bytes)
    }
    return 0
}

private func body(of frame: [UInt8], _ read: (inout WireReader) -> Void) {
    frame.withUnsafeBytes {
        var reader = WireReader(UnsafeRawBufferPointer(rebasing: $0[FrameHeader.size...]))
        read(&reader)
    }
}

/// What policies read of frames: no more than is there, and the topic that subscribers see.
private func policies(_ bytes: UnsafeRawBufferPointer) {
    var policy = LinkPolicy(peers: ["*"])
    policy.export.deny = ["de/>"].compactMap { try? TopicFilter($0, grammar: .smf) }
    let gate = LinkGate(policy, hashKey: 1, now: 0)
    for type: FrameType in [.session, .inquiryAnswer, .retainedValues] {
        var writer = WireWriter(type)
        writer.raw(bytes)
        let frame = writer.finish()
        if case .change(let changed) = GatedFrames.judge(frame, gate.export, back: gate.export) {
            precondition(changed.count <= frame.count && changed[3] == frame[3])
        }
    }
    var reader = WireReader(bytes)
    if let told = ToldPolicy(&reader) {
        body(of: told.frame()) { precondition(ToldPolicy(&$0) != nil, "what is said cannot be read") }
    }
    let label = EventContent.label(bytes)
    if let part = EventContent.Part(bytes) {
        precondition(label.topic?.elementsEqual(part.topic) == true)
    } else if let content = EventContent(bytes), content.flags & EventContent.partFlag == 0 {
        precondition(label.topic?.elementsEqual(content.topic) == true && label.events == content.eventCount)
    }
}

private func content(_ bytes: UnsafeRawBufferPointer) {
    policies(bytes)
    guard let content = EventContent(bytes) else { return }
    _ = EventProperties.areSound(content.properties, extensionLength: Int(content.extensionLength))
    precondition(content.topic.count > 0 && content.eventCount > 0)
    precondition(Int(content.extensionLength) <= content.properties.count)
    var offset = 0
    for _ in 0..<content.eventCount {
        offset += 4 + Int(UInt32(littleEndian: content.payloads.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
        precondition(offset <= content.payloads.count)
    }
    precondition(offset == content.payloads.count)
}

private func dataFrame(_ bytes: UnsafeRawBufferPointer) {
    guard let frame = DataFrame(bytes) else { return }
    let destinations = (0..<frame.destinationCount).map { frame.destination($0) }
    let copy = frame.copy(destinations)
    copy.withUnsafeBytes { again in
        guard let same = DataFrame(again) else { preconditionFailure("a copy is none") }
        precondition((0..<same.destinationCount).map { same.destination($0) } == destinations)
        precondition(same.sealed.elementsEqual(frame.sealed) && same.originEpoch == frame.originEpoch)
    }
}

private func advertisement(_ bytes: UnsafeRawBufferPointer) {
    guard let advertisement = try? Advertisement(bytes) else { return }
    let frame = advertisement.frame()
    frame.withUnsafeBytes {
        let again = try? Advertisement(UnsafeRawBufferPointer(rebasing: $0[FrameHeader.size...]))
        precondition(again?.saysTheSame(as: advertisement) == true && again?.extensions == advertisement.extensions)
    }
    if let weights = AdvertisedWeights.read(advertisement.extensions) {
        precondition(AdvertisedWeights.read(AdvertisedWeights.extensionBytes(weights)) == weights)
    }
}

private func interest(_ bytes: UnsafeRawBufferPointer) {
    var reader = WireReader(bytes)
    if let (version, changes) = InterestFrames.readDelta(&reader) {
        precondition(version.sequence > 0 && changes.count <= FilterChanges.maxCount)
    }
    reader = WireReader(bytes)
    if let (part, changes) = InterestFrames.readSnapshot(&reader) {
        precondition(part.from <= part.to && changes.count <= FilterChanges.maxCount)
    }
    reader = WireReader(bytes)
    if let request = InterestFrames.readRequest(&reader), request != .unknown {
        body(of: InterestFrames.request(request)) { precondition(InterestFrames.readRequest(&$0) == request) }
    }
    reader = WireReader(bytes)
    if let (versions, areAll) = InterestFrames.readVersions(&reader) {
        body(of: InterestFrames.versions(versions, areAll: areAll)) {
            precondition(InterestFrames.readVersions(&$0)?.versions == versions)
        }
    }
}

private func streams(_ bytes: UnsafeRawBufferPointer) {
    var reader = WireReader(bytes)
    if let said = StreamAcknowledgement(&reader) {
        body(of: said.frame()) { precondition(StreamAcknowledgement(&$0) == said) }
    }
    reader = WireReader(bytes)
    if let probe = StreamProbe(&reader) { body(of: probe.frame()) { precondition(StreamProbe(&$0) == probe) } }
}

private func retained(_ bytes: UnsafeRawBufferPointer) {
    var reader = WireReader(bytes)
    let listing = RetainedFrame.readListing(&reader)
    if reader.isWhole { precondition(listing.sections.count <= RetainedFrame.maxSections) }
    reader = WireReader(bytes)
    _ = RetainedFrame.readAnswer(&reader)
    reader = WireReader(bytes)
    let request = RetainedFrame.readRequest(&reader)
    if reader.isWhole { precondition(request.wants.count <= RetainedFrame.maxWants) }
    reader = WireReader(bytes)
    while !reader.isBroken, reader.count > 0 {
        guard RetainedFrame.readPart(&reader, maxLength: 1_000) != nil else { break }
    }
}

private func sessions(_ bytes: UnsafeRawBufferPointer) {
    var reader = WireReader(bytes)
    _ = reader.client()
    _ = reader.optionalNode()
    _ = reader.optionalText(max: 100)
    _ = reader.client()
    var feed = WireReader(bytes)
    var transfer = IncomingTransfer(part: .contents, serial: 1, total: Int(feed.u16()))
    while feed.count > 0, !feed.isBroken {
        let (offset, size) = (Int(feed.u16()), Int(feed.u8()))
        transfer.take(at: offset, feed.bytes(min(size, feed.count)))
        precondition(transfer.bytes.count <= transfer.total)
    }
}

private func initiation(_ bytes: UnsafeRawBufferPointer) {
    guard let initiation = Initiation(bytes) else { return }
    initiation.frame().withUnsafeBytes {
        let again = Initiation(UnsafeRawBufferPointer(rebasing: $0[FrameHeader.size...]))
        precondition(again?.node == initiation.node && again?.name == initiation.name)
    }
}

/// Frames of any size in and out: order, and bounds.
private func queue(_ bytes: UnsafeRawBufferPointer) {
    var queue = LinkQueue(maxBytes: 256 << 10)
    defer { queue.removeAll() }
    var reader = WireReader(bytes)
    var (sent, acknowledged): (UInt64, UInt64) = (0, 0)
    while reader.count > 0, !reader.isBroken {
        let step = reader.u8()
        switch step & 3 {
        case 0, 1:
            let size = FrameHeader.size + Int(reader.u8()) << (step >> 2 & 7)
            let place = queue.reserve(size)
            FrameHeader(length: size, type: .data).write(to: place)
            queue.commit(size, now: 0)
        case 2:
            let part = queue.next(max: 1 << (step >> 4 & 15) + 1)
            sent += UInt64(part.count)
            var offset = 0
            while offset < part.count {
                offset += FrameHeader(part.baseAddress.unsafelyUnwrapped + offset).length
            }
            precondition(offset == part.count, "half a frame was sent")
        default:
            let total = acknowledged + UInt64(reader.u16())
            let isTaken = queue.acknowledge(total)
            precondition(isTaken == (total <= sent))
            if isTaken { acknowledged = max(acknowledged, total) }
        }
        precondition(queue.heldBytes <= 512 << 10 && queue.waitingBytes >= 0 && queue.unacknowledged >= 0)
    }
    queue.forEachFrame { precondition($0.count >= FrameHeader.size) }
}

private func filters(_ bytes: UnsafeRawBufferPointer) {
    var reader = WireReader(bytes)
    guard let changes = FilterChange.read(&reader) else { return }
    precondition(reader.isWhole && changes.count <= FilterChanges.maxCount)
}

/// Counters in any order: each is delivered once, in ascending order.
private func order(_ bytes: UnsafeRawBufferPointer) {
    var order = ArrivalOrder()
    var delivered: [UInt32] = []
    var late: UInt64 = 0
    var now: UInt64 = 0
    for step in bytes {
        now += UInt64(step >> 7) * 30
        let counter = 100 + UInt32(step & 31)
        switch order.judge(counter, isUnrest: step & 32 != 0, hasRoom: step & 64 == 0) {
        case .deliver: delivered.append(counter)
        case .late: break
        case .hold: order.hold(counter, [step], until: now + 100)
        }
        while let held = order.takeHeld(now: now, late: &late) { delivered.append(held.counter) }
        precondition(order.heldBytes == order.held.count)
    }
    while let held = order.takeHeld(now: .max, late: &late) { delivered.append(held.counter) }
    precondition(order.held.isEmpty && order.heldBytes == 0)
    precondition(zip(delivered, delivered.dropFirst()).allSatisfy { $0 < $1 }, "\(delivered)")
}

private func reader(_ bytes: UnsafeRawBufferPointer) {
    var reader = WireReader(bytes)
    while !reader.isBroken, reader.count > 0 {
        switch reader.u8() % 8 {
        case 0: _ = reader.varint()
        case 1: precondition(reader.count(each: 3) <= bytes.count / 3)
        case 2: _ = reader.block()
        case 3: _ = reader.text(max: 10)
        case 4: _ = reader.nodeID()
        case 5: _ = reader.u64()
        case 6: _ = reader.u32()
        default: _ = reader.u16()
        }
        precondition(reader.count >= 0)
    }
}
