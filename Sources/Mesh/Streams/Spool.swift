/// Where guaranteed events are kept until every node they are for has them: one payload for all of its destinations.
///
/// The first spool lives in memory. It is shaped like what a store on disk can do: what is appended gets a position,
/// is read by position, and is given up by one destination after the other; each destination's bytes are known, since
/// shares are limited. A store on disk takes ``append(_:for:)`` as the moment from which its commit counts, and has the
/// publishers' receipts held until that has happened; a memory has committed at once.

/// Names something kept in a spool, and nothing else for as long as it is kept. What the number means is the spool's
/// own matter.
struct SpoolPosition: Equatable, BitwiseCopyable {
    var value: UInt64

    /// Stands for nothing.
    static let none = SpoolPosition(value: .max)
}

/// Confined to the mesh's lane.
protocol Spool: AnyObject {
    /// Keeps sealed bytes for some destinations, at least one.
    func append(_ sealed: [UInt8], for destinations: [NodeIndex]) -> SpoolPosition
    /// Reads what is at a position. The reader may change the bytes: how long they are wanted for is said anew whenever
    /// they are sent.
    func read(_ position: SpoolPosition, _ body: (UnsafeMutableRawBufferPointer) -> Void)
    /// A destination no longer needs what is at a position; trimmed once none does.
    func trim(_ position: SpoolPosition, for destination: NodeIndex)
    /// What counts against a destination's share.
    func bytes(for destination: NodeIndex) -> Int
    /// Bytes kept, each payload once.
    var bytes: Int { get }
    /// Payloads kept.
    var count: Int { get }
}

extension Spool {
    /// What sealed bytes count for: themselves and what is kept beside them.
    static func cost(of length: Int) -> Int { length + 96 }
}

/// A spool in memory: payloads with reference counts, in slots that are used again.
final class MemorySpool: Spool {
    private struct Slot {
        var sealed: [UInt8] = []
        var references: Int32 = 0
        /// Tells a slot's tenants apart.
        var generation: UInt32 = 0
    }

    private var slots: [Slot] = []
    private var free: [UInt32] = []
    private var shares: [Int] = []
    private var generation: UInt32 = 0
    private(set) var bytes = 0
    private(set) var count = 0

    init() {}

    func append(_ sealed: [UInt8], for destinations: [NodeIndex]) -> SpoolPosition {
        guard !destinations.isEmpty else { return .none }
        let index: Int
        if let known = free.popLast() {
            index = Int(known)
        } else {
            index = slots.count
            slots.append(Slot())
        }
        let cost = Self.cost(of: sealed.count)
        slots[index].sealed = sealed
        slots[index].references = Int32(truncatingIfNeeded: destinations.count)
        generation = generation == .max ? 1 : generation + 1
        slots[index].generation = generation
        for destination in destinations {
            while shares.count <= destination { shares.append(0) }
            shares[destination] += cost
        }
        bytes += cost
        count += 1
        return SpoolPosition(value: UInt64(slots[index].generation) << 32 | UInt64(index))
    }

    private func index(_ position: SpoolPosition) -> Int? {
        let index = Int(position.value & 0xFFFF_FFFF)
        guard index < slots.count, slots[index].references > 0,
            UInt64(slots[index].generation) == position.value >> 32
        else { return nil }
        return index
    }

    func read(_ position: SpoolPosition, _ body: (UnsafeMutableRawBufferPointer) -> Void) {
        guard let index = index(position) else { return }
        slots[index].sealed.withUnsafeMutableBytes { body($0) }
    }

    func trim(_ position: SpoolPosition, for destination: NodeIndex) {
        guard let index = index(position) else { return }
        let cost = Self.cost(of: slots[index].sealed.count)
        if destination < shares.count { shares[destination] -= cost }
        slots[index].references -= 1
        guard slots[index].references == 0 else { return }
        slots[index].sealed = []
        bytes -= cost
        count -= 1
        free.append(UInt32(truncatingIfNeeded: index))
        if count == 0 {
            slots = []
            free = []
        }
    }

    func bytes(for destination: NodeIndex) -> Int { destination < shares.count ? shares[destination] : 0 }
}
