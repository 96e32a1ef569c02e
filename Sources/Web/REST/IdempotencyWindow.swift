import Core
import Synchronization

/// Which requests with an `Idempotency-Key` were made lately, and what they were answered, so that a client that lost
/// an answer can ask again and nothing is done twice (draft-ietf-httpapi-idempotency-key-header). `Idempotency` has the
/// digests.
///
/// A key is a user's own; clients without a name share theirs. Remembered are requests that reached the router, for
/// ``Limits/idempotencySeconds`` from their beginning, in this node's memory only. Beyond
/// ``Limits/maxIdempotencyKeys``, or ``maxBytes`` of answers, the oldest is forgotten.
///
/// Threading: any lane. Touched only by requests with the header; under the lock a request is found, added or removed,
/// and nothing is ever done in proportion to how many there are.
final class IdempotencyWindow: Sendable {
    /// Bytes of a key.
    static let maxKeyBytes = 255
    /// Answers that are larger are not kept.
    static let maxAnswerBytes = 4 << 10
    /// Bytes of all answers.
    static let maxBytes = 64 << 20

    /// What is known of a request that is about to be made.
    enum Claim {
        /// It is new; whoever made the claim says what comes of it.
        case new(IdempotencyTicket)
        /// It was answered before.
        case answered(HTTPResponse)
        /// It was answered before, with more bytes than are kept.
        case answeredAtLength(status: Int)
        /// It has been made before and has no answer yet.
        case underWay
        /// The key was used for another request.
        case different
    }

    private let table: Mutex<IdempotencyTable>
    /// Random; makes digests, hence places in the table, unpredictable.
    let secret: [UInt64]

    init(limits: Limits, random: () -> UInt64) {
        table = Mutex(IdempotencyTable(limits))
        secret = (0..<4).map { _ in random() }
    }

    /// Claims a key for a request.
    /// - Parameters:
    ///   - key: stands for the user and the key.
    ///   - request: stands for all of the request that matters.
    ///   - now: a lane's time.
    func claim(_ key: Digest, _ request: Digest, now: UInt64) -> Claim {
        let (slot, serial, isNew) = table.withLock { table in
            table.forgetExpired(now: now)
            if let place = table.find(key, now: now) {
                return (table[place], table[place].serial, false)
            }
            let place = table.add(key, request, now: now)
            return (table[place], table[place].serial, true)
        }
        if isNew { return .new(IdempotencyTicket(window: self, key: key, serial: serial)) }
        guard slot.request == request else { return .different }
        switch slot.state {
        case .underWay: return .underWay
        case .answered(let response): return .answered(response)
        case .answeredAtLength(let status): return .answeredAtLength(status: status)
        }
    }

    fileprivate func settle(_ key: Digest, _ serial: UInt64, _ response: HTTPResponse?) {
        table.withLock { table in
            guard let place = table.find(key), table[place].serial == serial else { return }
            if let response { table.settle(place, response) } else { table.remove(place) }
        }
    }

    /// Requests that are remembered.
    var count: Int { table.withLock { $0.count } }
    /// Bytes of answers that are remembered.
    var bytes: Int { table.withLock { $0.bytes } }
}

/// The right to say what came of a request with an idempotency key. May be used on any lane, once.
struct IdempotencyTicket: Sendable {
    fileprivate let window: IdempotencyWindow
    fileprivate let key: Digest
    fileprivate let serial: UInt64

    /// The request has been carried out: whoever repeats it is given this answer.
    func settle(_ response: HTTPResponse) { window.settle(key, serial, response) }

    /// The request has come to nothing, and may be made again.
    func abandon() { window.settle(key, serial, nil) }
}

/// The requests by key, in the order they came: a hash table of fixed size over places that are taken when needed.
struct IdempotencyTable: ~Copyable {
    enum State {
        case underWay
        case answered(HTTPResponse)
        case answeredAtLength(status: Int)
    }

    struct Slot {
        var key: Digest
        var request: Digest
        var serial: UInt64 = 0
        var endsAt: UInt64 = 0
        var state = State.underWay
        var bytes = 0
        /// The next in the chain of the same hash; 0 for none. Of a free place: the next free one.
        var next: UInt32 = 0
        var older: UInt32 = 0
        var newer: UInt32 = 0
    }

    /// Expired requests that one claim forgets at most: more than come in, so that they all go.
    private static let forgottenAtOnce = 8
    private static let chunkShift = 10
    private static let noDigest = Digest(high: 0, low: 0)

    private let capacity: Int
    private let milliseconds: UInt64
    private let mask: Int
    /// Heads of chains; empty until the first claim.
    private var chains: [UInt32] = []
    /// Places from 1, in pieces, so that more of them does not mean to copy those there are.
    private var chunks: [[Slot]] = []
    private var used: UInt32 = 0
    private var free: UInt32 = 0
    private var oldest: UInt32 = 0
    private var newest: UInt32 = 0
    private var serial: UInt64 = 0
    /// Requests that are remembered.
    private(set) var count = 0
    /// Bytes of their answers.
    private(set) var bytes = 0

    init(_ limits: Limits) {
        capacity = max(1, min(limits.maxIdempotencyKeys, 1 << 24))
        milliseconds = UInt64(max(limits.idempotencySeconds, 0)) * 1_000
        var size = 64
        while size < min(capacity, 1 << 20) { size *= 2 }
        mask = size - 1
    }

    subscript(place: UInt32) -> Slot {
        _read { yield chunks[Int(place) >> Self.chunkShift][Int(place) & (1 << Self.chunkShift - 1)] }
        _modify { yield &chunks[Int(place) >> Self.chunkShift][Int(place) & (1 << Self.chunkShift - 1)] }
    }

    /// The place of a key that is remembered.
    func find(_ key: Digest) -> UInt32? {
        guard !chains.isEmpty else { return nil }
        var place = chains[Int(truncatingIfNeeded: key.low) & mask]
        while place != 0 {
            if self[place].key == key { return place }
            place = self[place].next
        }
        return nil
    }

    /// The place of a key that is remembered; forgets it when its time is over.
    mutating func find(_ key: Digest, now: UInt64) -> UInt32? {
        guard let place = find(key) else { return nil }
        guard self[place].endsAt <= now else { return place }
        remove(place)
        return nil
    }

    /// Adds a key that is not there.
    mutating func add(_ key: Digest, _ request: Digest, now: UInt64) -> UInt32 {
        if chains.isEmpty { chains = Array(repeating: 0, count: mask + 1) }
        if count >= capacity { remove(oldest) }
        let place = takePlace()
        let chain = Int(truncatingIfNeeded: key.low) & mask
        serial += 1
        var slot = Slot(key: key, request: request, serial: serial, endsAt: now + milliseconds)
        slot.next = chains[chain]
        slot.older = newest
        self[place] = slot
        chains[chain] = place
        if newest == 0 { oldest = place } else { self[newest].newer = place }
        newest = place
        count += 1
        return place
    }

    /// Keeps an answer, if it is small.
    mutating func settle(_ place: UInt32, _ response: HTTPResponse) {
        let size = response.keptBytes
        guard size <= IdempotencyWindow.maxAnswerBytes else {
            self[place].state = .answeredAtLength(status: response.status)
            return
        }
        bytes += size - self[place].bytes
        self[place].bytes = size
        self[place].state = .answered(response)
        while bytes > IdempotencyWindow.maxBytes, oldest != 0 { remove(oldest) }
    }

    mutating func remove(_ place: UInt32) {
        let slot = self[place]
        let chain = Int(truncatingIfNeeded: slot.key.low) & mask
        if chains[chain] == place {
            chains[chain] = slot.next
        } else {
            var before = chains[chain]
            while self[before].next != place { before = self[before].next }
            self[before].next = slot.next
        }
        if slot.older == 0 { oldest = slot.newer } else { self[slot.older].newer = slot.newer }
        if slot.newer == 0 { newest = slot.older } else { self[slot.newer].older = slot.older }
        bytes -= slot.bytes
        count -= 1
        self[place] = Slot(key: Self.noDigest, request: Self.noDigest, next: free)
        free = place
    }

    mutating func forgetExpired(now: UInt64) {
        var left = Self.forgottenAtOnce
        while left > 0, oldest != 0, self[oldest].endsAt <= now {
            remove(oldest)
            left -= 1
        }
    }

    private mutating func takePlace() -> UInt32 {
        if free != 0 {
            let place = free
            free = self[place].next
            return place
        }
        used += 1
        if Int(used) >> Self.chunkShift >= chunks.count {
            chunks.append(
                Array(repeating: Slot(key: Self.noDigest, request: Self.noDigest), count: 1 << Self.chunkShift))
        }
        return used
    }
}

extension HTTPResponse {
    /// What it counts for when it is kept.
    fileprivate var keptBytes: Int {
        headers.fields.reduce(body.count) { $0 + $1.name.utf8.count + $1.value.utf8.count }
    }
}
