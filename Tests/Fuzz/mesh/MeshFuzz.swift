import Core
import TestSupport

@testable import Mesh

/// A node with two links, and what a neighbour says on one of them after a real handshake: frames of every kind with
/// names that exist or do not, copies of real ones with changes, whatever bytes. The node must not trap, keep what it
/// held within bounds, and be able to go on with its other neighbour.

/// What libFuzzer calls with each input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 1 else { return 0 }
    var play = MeshPlay(Array(UnsafeBufferPointer(start: start, count: count)))
    play.run()
    return 0
}

/// Copies of frames that a real neighbour has sent, to be changed.
private final class Recorded {
    var frames: [[UInt8]] = []
    private var rest: [UInt8] = []

    func take(_ bytes: [UInt8]) {
        rest += bytes
        while rest.count >= FrameHeader.size {
            let length = rest.withUnsafeBytes { $0.baseAddress.map { FrameHeader($0).length } ?? 0 }
            guard length >= FrameHeader.size, rest.count >= length else { return }
            if frames.count < 32 { frames.append(Array(rest.prefix(length))) }
            rest.removeFirst(length)
        }
    }
}

private struct MeshPlay {
    private let input: [UInt8]
    private var place = 0
    private let field = MeshField()
    private let node: MeshField.Station
    private let friend: MeshField.Station
    private let foe: MeshField.Station
    private let listener: Listening
    private let recorded = Recorded()
    private var counter: UInt32 = 0

    init(_ input: [UInt8]) {
        self.input = input
        node = field.start("a:1", links: []) { $0.maxFilters = 64 }
        friend = field.start("b:1", links: ["a:1"])
        foe = field.start("c:1", links: ["a:1"])
        guard let listener = try? node.subscribe("x", "s/#", "$share/g/y") else { fatalError("no listener") }
        self.listener = listener
        field.run(5)
        for end in foe.ends { end.onSend = { [recorded] in recorded.take($0) } }
        field.run(400)
        precondition(node.node.links.count == 2 && node.node.links.allSatisfy(\.isUp), "no links after a handshake")
    }

    private mutating func byte() -> UInt8 {
        guard place < input.count else { return 0 }
        defer { place += 1 }
        return input[place]
    }

    private mutating func bytes(_ count: Int) -> [UInt8] {
        let end = min(place + count, input.count)
        defer { place = end }
        return Array(input[place..<end])
    }

    mutating func run() {
        // Half of the inputs leave the neighbour itself silent, so that only what is made up comes.
        if byte() & 1 != 0 { for end in foe.ends { end.isSilent = true } }
        while place < input.count { step() }
        field.run(20)
        finish()
    }

    private mutating func step() {
        switch byte() % 16 {
        case 0: say(frame(byte(), bytes(Int(byte()))), onData: byte() & 1 != 0)
        case 1, 2: say(events(), onData: true)
        case 3: say(routed(frame(byte(), bytes(Int(byte())))), onData: false)
        case 4: say(routed(named()), onData: byte() & 1 != 0)
        case 5, 6: say(named(), onData: false)
        case 7, 8: say(changed(), onData: byte() & 3 == 0)
        case 9: say(routed(changed()), onData: byte() & 1 != 0)
        case 10: say(bytes(Int(byte())), onData: byte() & 1 != 0)
        case 11: field.run(Int(byte() % 64))
        case 12:
            node.publish(["x", "z", "y", "t/1"][Int(byte() & 3)], "p", qos: byte() % 3, isRetained: byte() & 1 != 0)
        case 13: friend.publish(["x", "s/1", "y"][Int(byte() % 3)], "p", qos: byte() % 3, isRetained: byte() & 1 != 0)
        case 14: say(session(), onData: false)
        default: field.run(1)
        }
    }

    // MARK: What is said

    private func say(_ bytes: [UInt8], onData: Bool) {
        let ends = node.ends(to: foe).filter { $0.isData == onData }
        if let end = ends.first { _ = end.inject(bytes) }
    }

    private func frame(_ type: UInt8, _ body: [UInt8]) -> [UInt8] {
        let length = FrameHeader.size + body.count
        return [UInt8(truncatingIfNeeded: length), UInt8(truncatingIfNeeded: length >> 8), 0, type % 36, 0, 0, 24, 0]
            + body
    }

    private mutating func id() -> NodeID {
        switch byte() % 4 {
        case 0: foe.node.identity.id
        case 1: node.node.identity.id
        case 2: friend.node.identity.id
        default: NodeID(high: 1, low: UInt64(byte()) + 1)
        }
    }

    private mutating func epoch() -> UInt64 {
        switch byte() % 8 {
        case 0: node.node.epoch
        case 1: friend.node.epoch
        case 2: foe.node.epoch + 1 << 16
        case 3: .max
        case 4: UInt64(byte())
        default: foe.node.epoch
        }
    }

    private mutating func shortID() -> UInt16 {
        let nodes = node.node.nodes
        switch byte() % 4 {
        case 0, 1: return nodes[NodeTable.own].shortID
        case 2: return nodes.known(friend.node.identity.id).map { nodes[$0].shortID } ?? 0
        default: return UInt16(byte())
        }
    }

    /// A frame for a node that need not be a neighbour.
    private mutating func routed(_ inner: [UInt8]) -> [UInt8] {
        var writer = WireWriter(.routed)
        writer.u16(shortID())
        let nodes = node.node.nodes
        writer.u16(nodes.known(foe.node.identity.id).map { nodes[$0].shortID } ?? 0)
        writer.u64(foe.node.epoch)
        writer.raw(inner)
        var whole = writer.finish()
        whole[6] = byte() % 25
        return whole
    }

    /// A frame of a kind that begins with whose it is.
    private mutating func named() -> [UInt8] {
        let kinds: [FrameType] = [
            .interestDelta, .interestSnapshot, .interestRequest, .interestVersions, .advertisementRequest,
            .advertisementVersions, .streamAcknowledgement, .streamSync, .retainedDigests, .retainedValues,
            .retainedRequest, .inquiry, .inquiryAnswer, .traceAnswer, .linkAcknowledgement, .hello,
        ]
        let kind = kinds[Int(byte() % 16)]
        var writer = WireWriter(kind)
        switch kind {
        case .interestDelta, .interestSnapshot:
            writer.nodeID(id())
            writer.u64(epoch())
        case .interestRequest:
            writer.u8(byte() % 3)
            writer.nodeID(id())
            writer.u64(epoch())
        case .interestVersions, .advertisementVersions, .advertisementRequest:
            if kind == .interestVersions { writer.u8(byte() & 1) }
            writer.u8(byte() % 4)
            writer.nodeID(id())
            writer.u64(epoch())
        case .streamAcknowledgement, .streamSync:
            writer.u64(node.node.epoch)
            writer.u64(foe.node.epoch)
            if byte() & 1 != 0 {
                writer.varint(UInt64(byte()))
                writer.varint(UInt64(byte()))
                writer.varint(1 << UInt64(byte() % 40))
                writer.varint(0)
            }
        case .inquiry:
            writer.u8(0)
            writer.u64(UInt64(byte()))
            writer.u16(UInt16(byte()))
            writer.block([[35], [120], [43]][Int(byte() % 3)] as [UInt8])
        default: break
        }
        writer.raw(bytes(Int(byte() % 128)))
        return writer.finish()
    }

    private mutating func session() -> [UInt8] {
        var writer = WireWriter.session(SessionFrame(rawValue: byte() % 14) ?? .claim)
        writer.u64(UInt64(byte() % 8))
        if byte() & 1 != 0 {
            writer.u64(UInt64(byte()))
            writer.u64(UInt64(byte()))
            writer.u64(UInt64(byte()))
            writer.u8(byte() & 3)
        }
        writer.raw(bytes(Int(byte() % 64)))
        return routed(writer.finish())
    }

    /// A frame that was really sent, with some bytes changed.
    private mutating func changed() -> [UInt8] {
        guard !recorded.frames.isEmpty else { return [] }
        var copy = recorded.frames[Int(byte()) % recorded.frames.count]
        for _ in 0..<(byte() % 5) {
            let at = FrameHeader.size + Int(byte()) | Int(byte() & 1) << 8
            if at < copy.count { copy[at] = byte() }
        }
        return copy
    }

    /// Events with a destination set.
    private mutating func events() -> [UInt8] {
        let kind = byte()
        let sealed = kind & 1 != 0 ? bytes(Int(byte())) : content()
        let nodes = node.node.nodes
        var destinations: [Destination] = []
        for _ in 0...(byte() % 3) {
            counter &+= byte() & 7 == 0 ? UInt32(byte()) : 1
            let meant = kind & 2 != 0 ? byte() : 0
            destinations.append(
                Destination(
                    shortID: meant == 0 ? nodes[NodeTable.own].shortID : shortID(),
                    epochTag: Destination.tag(ofEpoch: meant & 2 == 0 ? node.node.epoch : friend.node.epoch),
                    counter: counter))
        }
        let length = DataFrame.size(destinations: destinations.count, sealed: sealed.count)
        var whole = [UInt8](repeating: 0, count: length)
        let type: FrameType = kind & 4 == 0 ? .data : kind & 8 == 0 ? .streamData : .trace
        let origin = nodes.known(foe.node.identity.id).map { nodes[$0].shortID } ?? 0
        let (flags, lane) = (byte() & 3, kind >> 4)
        whole.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return }
            DataFrame.write(
                to: base, length: length, type: type, frameClass: type == .streamData ? .guaranteed : .direct,
                timeToLive: 24, lane: lane, flags: flags, originID: origin, namespace: 0,
                originEpoch: foe.node.epoch, destinations: destinations.count)
            for (index, destination) in destinations.enumerated() {
                DataFrame.write(destination, at: index, to: base)
            }
            buffer[(length - sealed.count)...].copyBytes(from: sealed)
        }
        return whole
    }

    private mutating func content() -> [UInt8] {
        let topics = ["x", "s/1", "y", "t", "$SYS/a", "#", ""]
        let topic = Array(topics[Int(byte() % 7)].utf8)
        let (flags, shares) = (byte(), byte() & 1)
        let properties = bytes(Int(byte() % 16))
        let events = byte() % 4
        var writer = WireWriter(.data)
        writer.u8(flags)
        writer.u8(shares)
        writer.u16(UInt16(topic.count))
        writer.u16(UInt16(min(Int(byte() % 4), properties.count)))
        writer.u16(UInt16(events))
        writer.u32(UInt32(properties.count))
        writer.u32(UInt32(byte()))
        if flags & 3 != 0 { writer.u64(UInt64(byte())) }
        if flags & EventContent.retainedFlag != 0 {
            writer.u64(byte() & 1 == 0 ? UInt64(byte()) : .max)
            writer.u64(UInt64(byte()))
        }
        if shares != 0 {
            writer.u16(shortID())
            writer.u64(UInt64(byte()))
        }
        writer.raw(topic)
        writer.raw(properties)
        for _ in 0..<events {
            let payload = bytes(Int(byte() % 8))
            writer.u32(UInt32(payload.count))
            writer.raw(payload)
        }
        return Array(writer.finish()[FrameHeader.size...])
    }

    // MARK: What must hold

    private func finish() {
        let mesh = node.node!
        precondition(node.lane.turn.isEmpty, "a turn was left behind")
        precondition(mesh.links.count <= mesh.settings.maxLinks)
        precondition(mesh.nodes.count <= NodeTable.maxNodes)
        precondition(mesh.gone.count <= GoneLink.max)
        for other in 1..<mesh.nodes.count { precondition(mesh.interest.filterCount(of: other) <= 64) }
        _ = mesh.statistics()
        _ = mesh.topology()
        // Nobody has told the node to leave: it takes its own clients' events as before.
        let before = listener.heard.count
        node.publish("x", "still here")
        field.run(1)
        precondition(listener.heard.count > before, "local events do not come any more")
        node.router.unregister(listener, on: node.lane)
        field.dismantle()
    }
}
