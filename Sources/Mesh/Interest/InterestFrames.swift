import Core

/// The frames of interest, `docs/wire-format.md`.
enum InterestFrames {
    /// How far a node's set is.
    struct Version: Equatable {
        var origin: NodeID
        var epoch: UInt64
        var sequence: UInt64
        var hash: UInt64
    }

    /// A frame with a body that has been received, to be passed on as it is.
    static func frame(_ type: FrameType, _ body: UnsafeRawBufferPointer) -> [UInt8] {
        var writer = WireWriter(type, capacity: FrameHeader.size + body.count)
        writer.raw(body)
        return writer.finish()
    }

    // MARK: Changes

    ///     origin 16, epoch u64, sequence varint, hash of the set afterwards u64, changes
    ///
    /// A delta makes version `sequence` of the version before, and of no other.
    static func delta(_ version: Version, _ changes: FilterChanges) -> [UInt8] {
        var writer = WireWriter(.interestDelta, capacity: 64 + changes.count * 24)
        writer.nodeID(version.origin)
        writer.u64(version.epoch)
        writer.varint(version.sequence)
        writer.u64(version.hash)
        changes.write(to: &writer)
        return writer.finish()
    }

    static func readDelta(_ reader: inout WireReader) -> (Version, [FilterChange])? {
        let origin = reader.nodeID()
        let epoch = reader.u64()
        let sequence = reader.varint()
        let hash = reader.u64()
        guard !reader.isBroken, sequence > 0, sequence < .max, let changes = FilterChange.read(&reader) else {
            return nil
        }
        return (Version(origin: origin, epoch: epoch, sequence: sequence, hash: hash), changes)
    }

    // MARK: Whole sets

    /// Part of a whole set. The parts together are every filter that was in the set from the first part to the last;
    /// one that came or went meanwhile may be among them or not. So they make version `from`, together with all deltas
    /// to version `to`, and nothing in between can be compared.
    struct Part {
        var origin: NodeID
        var epoch: UInt64
        /// The sender's number for all parts of one set.
        var job: UInt64
        /// From 0.
        var number: UInt64
        var isLast = false
        /// The sender cannot go on; ask somebody else, or later.
        var isAborted = false
        /// The sender has refused some of it itself.
        var isTruncated = false
        var from: UInt64 = 0
        var to: UInt64 = 0
        /// Of version `from`.
        var hash: UInt64 = 0
    }

    ///     origin 16, epoch u64, job varint, number varint, flags u8 (0 last, 1 given up, 2 not all of it)
    ///     if last: from varint, to varint, hash u64; then changes, which only begin
    static func snapshot(_ part: Part, _ changes: FilterChanges) -> [UInt8] {
        var writer = WireWriter(.interestSnapshot, capacity: 64 + changes.count * 24)
        writer.nodeID(part.origin)
        writer.u64(part.epoch)
        writer.varint(part.job)
        writer.varint(part.number)
        writer.u8((part.isLast ? 1 : 0) | (part.isAborted ? 2 : 0) | (part.isTruncated ? 4 : 0))
        if part.isLast {
            writer.varint(part.from)
            writer.varint(part.to)
            writer.u64(part.hash)
        }
        changes.write(to: &writer)
        return writer.finish()
    }

    static func readSnapshot(_ reader: inout WireReader) -> (Part, [FilterChange])? {
        let origin = reader.nodeID()
        let epoch = reader.u64()
        let job = reader.varint()
        var part = Part(origin: origin, epoch: epoch, job: job, number: reader.varint())
        let flags = reader.u8()
        part.isLast = flags & 1 != 0
        part.isAborted = flags & 2 != 0
        part.isTruncated = flags & 4 != 0
        if part.isLast {
            part.from = reader.varint()
            part.to = reader.varint()
            part.hash = reader.u64()
        }
        guard !reader.isBroken, part.from <= part.to, part.to < .max, let changes = FilterChange.read(&reader),
            !changes.contains(where: { $0.kind == .ends })
        else { return nil }
        return (part, changes)
    }

    // MARK: Asking

    enum Request: Equatable {
        /// What is new since version `have`; all of it if `isWhole`.
        case ask(NodeID, epoch: UInt64, have: UInt64, isWhole: Bool)
        /// The sender of a set may send parts with numbers below `granted`; with 0 none at all any more.
        case grant(job: UInt64, granted: UInt64)
        /// Of a later version.
        case unknown
    }

    ///     kind u8; 0: origin 16, epoch u64, have varint, whole u8; 1: job varint, granted varint
    static func request(_ request: Request) -> [UInt8] {
        var writer = WireWriter(.interestRequest)
        switch request {
        case .ask(let origin, let epoch, let have, let isWhole):
            writer.u8(0)
            writer.nodeID(origin)
            writer.u64(epoch)
            writer.varint(have)
            writer.u8(isWhole ? 1 : 0)
        case .grant(let job, let granted):
            writer.u8(1)
            writer.varint(job)
            writer.varint(granted)
        case .unknown: writer.u8(.max)
        }
        return writer.finish()
    }

    static func readRequest(_ reader: inout WireReader) -> Request? {
        let request: Request
        switch reader.u8() {
        case 0:
            let origin = reader.nodeID()
            let epoch = reader.u64()
            let have = reader.varint()
            request = .ask(origin, epoch: epoch, have: have, isWhole: reader.u8() & 1 != 0)
        case 1:
            let job = reader.varint()
            request = .grant(job: job, granted: reader.varint())
        default:
            _ = reader.rest()
            request = .unknown
        }
        return reader.isWhole ? request : nil
    }

    // MARK: Versions

    /// Nodes of one frame at most: all of a mesh.
    static let maxVersions = NodeTable.maxNodes
    private static let versionSize = 33

    ///     flags u8 (0: these are all), count varint, for each origin 16, epoch u64, sequence varint, hash u64
    static func versions(_ versions: [Version], areAll: Bool) -> [UInt8] {
        var writer = WireWriter(.interestVersions, capacity: 16 + versions.count * (versionSize + 3))
        writer.u8(areAll ? 1 : 0)
        writer.varint(UInt64(versions.count))
        for version in versions {
            writer.nodeID(version.origin)
            writer.u64(version.epoch)
            writer.varint(version.sequence)
            writer.u64(version.hash)
        }
        return writer.finish()
    }

    static func readVersions(_ reader: inout WireReader) -> (versions: [Version], areAll: Bool)? {
        let areAll = reader.u8() & 1 != 0
        let count = reader.count(each: versionSize)
        guard count <= maxVersions else { return nil }
        var versions: [Version] = []
        versions.reserveCapacity(count)
        for _ in 0..<count {
            let origin = reader.nodeID()
            let epoch = reader.u64()
            let sequence = reader.varint()
            versions.append(Version(origin: origin, epoch: epoch, sequence: sequence, hash: reader.u64()))
        }
        return reader.isWhole ? (versions, areAll) : nil
    }
}
