/// What was sent to a broker of MQTT 3.1.1 that sends it back: pure, without a clock.
import Core
import Synchronization

/// The memory of a bridge, for the thread that it has and those that come after it: echoes may be on their way while
/// one takes the place of another.
final class Echoes: Sendable {
    let memory: Mutex<EchoMemory>

    /// - Parameter key: random.
    init(key: UInt64) { memory = Mutex(EchoMemory(key: key)) }
}

/// A broker of MQTT 3.1.1 gives a client its own events if it has subscribed to them, and nothing in them says whose
/// they are. So a bridge whose topics go both ways remembers what it has sent, as hashes of topic and payload, and
/// takes as many of them off what comes in. Two events that are the same in both cannot be told apart, and need not be:
/// of each the right number remains.
struct EchoMemory {
    /// Events that are remembered; beyond it the oldest is forgotten.
    static let capacity = 10_000
    /// For how long an echo is waited for.
    static let lifeMilliseconds: UInt64 = 60_000

    private struct Entry {
        var hash: UInt64
        var at: UInt64
    }

    private let key: UInt64
    /// In the order in which they were sent; those before `first` have left.
    private var entries: [Entry] = []
    private var first = 0
    /// Echoes that are waited for.
    private var expected: [UInt64: Int] = [:]
    /// Echoes that came before their entries have left.
    private var met: [UInt64: Int] = [:]

    /// - Parameter key: random.
    init(key: UInt64) { self.key = key }

    /// Events that are remembered.
    var count: Int { entries.count - first }

    /// Notes what is sent.
    mutating func remember(_ topic: UnsafeRawBufferPointer, _ payload: UnsafeRawBufferPointer, now: UInt64) {
        forget(before: now)
        if count >= Self.capacity { drop() }
        let hash = hash(topic, payload)
        entries.append(Entry(hash: hash, at: now))
        expected[hash, default: 0] += 1
    }

    /// Whether what came in is an echo, which is not waited for any longer then.
    mutating func take(_ topic: UnsafeRawBufferPointer, _ payload: UnsafeRawBufferPointer, now: UInt64) -> Bool {
        forget(before: now)
        guard count > 0 else { return false }
        let hash = hash(topic, payload)
        guard let waiting = expected[hash] else { return false }
        expected[hash] = waiting == 1 ? nil : waiting - 1
        met[hash, default: 0] += 1
        return true
    }

    private mutating func forget(before now: UInt64) {
        while first < entries.count, entries[first].at + Self.lifeMilliseconds <= now { drop() }
    }

    private mutating func drop() {
        let hash = entries[first].hash
        first += 1
        if first == entries.count {
            entries = []
            first = 0
        } else if first >= 1_024, first * 2 > entries.count {
            entries.removeFirst(first)
            first = 0
        }
        if let echoes = met[hash] {
            met[hash] = echoes == 1 ? nil : echoes - 1
        } else if let waiting = expected[hash] {
            expected[hash] = waiting == 1 ? nil : waiting - 1
        }
    }

    private func hash(_ topic: UnsafeRawBufferPointer, _ payload: UnsafeRawBufferPointer) -> UInt64 {
        func part(_ bytes: UnsafeRawBufferPointer, _ key: UInt64) -> UInt64 {
            guard let base = bytes.baseAddress, bytes.count > 0 else { return key }
            return hashBytes(base, bytes.count, key: key)
        }
        return part(payload, part(topic, key))
    }
}
