@testable import Mesh

// What a ``StreamNetwork`` is to run.

/// Mistakes that are made on purpose, to see that the oracle finds them.
enum StreamMutant: CaseIterable {
    /// Acknowledges a frame before the local queues have it.
    case settlesEarly
    /// Hands duplicates on.
    case forgetsDuplicates
    /// Hands frames on although others in front of them are missing.
    case doesNotWait
    /// Does not send voids.
    case skipsVoids
    /// Takes frames for a former life of the destination.
    case ignoresLives
    /// A share's refusal is taken for its settling.
    case forgetsRefusals
}

/// What is unkind about a network and its nodes.
struct StreamScenario {
    var nodes = 2
    var settings = StreamSettings()
    /// Out of 1,000 frames.
    var lost = 0
    var doubled = 0
    /// Milliseconds on the way, and how much more at most. Frames on one path keep their order unless they may
    /// overtake.
    var delay: UInt64 = 5
    var jitter: UInt64 = 10
    var overtakes = false
    /// How many events each node publishes, one about every so many milliseconds, to one or several others.
    var events = 200
    var pace: UInt64 = 3
    var maxSize = 400
    /// Out of 1,000 events that expire, after at most so many milliseconds.
    var expiring = 0
    var expiry: UInt64 = 60
    /// Out of 1,000 events that are shares without a member where they go first.
    var homeless = 0
    /// How long the local queues take, at most.
    var settling: UInt64 = 0
    /// Changes of routes, cuts and restarts in the course of the run.
    var reroutes = 0
    var cuts = 0
    var longestCut: UInt64 = 2_000
    var originRestarts = 0
    var destinationRestarts = 0
    var mutant: StreamMutant?
    /// Virtual time in which everything must be done, milliseconds.
    var patience: UInt64 = 300_000
}

/// What one event is, in its sealed bytes behind the place of ``EventContent``'s fixed part.
struct StreamNote: Hashable {
    var origin: Int
    var life: Int
    var number: Int
    /// A share that has been redirected.
    var isRedirected = false
    var isHomeless = false

    func sealed(size: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 16)
        for value in [origin, life, number, isRedirected ? 1 : 0, isHomeless ? 1 : 0] {
            withUnsafeBytes(of: UInt32(value).littleEndian) { bytes += $0 }
        }
        return bytes + [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: size)
    }

    init(origin: Int, life: Int, number: Int, isHomeless: Bool) {
        (self.origin, self.life, self.number, self.isHomeless) = (origin, life, number, isHomeless)
    }

    init(_ sealed: UnsafeRawBufferPointer) {
        func word(_ index: Int) -> Int { Int(sealed.loadUnaligned(fromByteOffset: 16 + index * 4, as: UInt32.self)) }
        (origin, life, number) = (word(0), word(1), word(2))
        (isRedirected, isHomeless) = (word(3) == 1, word(4) == 1)
    }
}
