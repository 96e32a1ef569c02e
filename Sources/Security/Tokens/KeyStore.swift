/// The keys at one location: which ones are good now, and when to look for new ones. When and what, not how: files are
/// read and URLs are fetched by ``KeyFetcher``.
import Synchronization

/// What became of a look at keys, for the log.
public enum KeyNotice: Sendable, Equatable {
    /// There are other keys than before; `omissions` says which of the set were left out, and why.
    case changed(location: String, keys: Int, omissions: [String])
    /// They could not be had; the ones from before stay.
    case failed(location: String, reason: String)
}

/// Shared by the token thread (which asks) and the fetcher (which brings). One lock, held for a few assignments.
final class KeyStore: Sendable {
    /// What was brought.
    struct Delivery: Sendable {
        var bytes: [UInt8]
        /// For how long the server says that it is good, in seconds.
        var maxAgeSeconds: Int?
    }

    /// Why nothing was brought.
    struct Failure: Error, Equatable {
        var reason: String
    }

    /// What to do after a delivery.
    struct Arrival {
        var notice: KeyNotice?
        /// Whether a key that was good is not any more: what was verified with it must be verified again.
        var hasLostKeys = false
    }

    private static let second: UInt64 = 1_000_000_000
    /// Between looks at a URL, when its server does not say.
    static let interval = 600 * second
    /// The bounds of what a server may say.
    static let intervals = 60...86_400
    /// Between looks at whether a file has changed.
    static let fileInterval = 5 * second
    /// After a look that failed; doubled each time, up to ``interval``.
    static let retryInterval = 30 * second
    /// Between looks for the sake of keys that nobody knows: tokens with random names cost the server nothing.
    static let demandInterval = 30 * second
    /// The same for files.
    static let fileDemandInterval = second
    /// For how long keys are good without a look that succeeded.
    static let maxAge = 86_400 * second

    private struct State {
        var keys: KeySet?
        /// When the last look succeeded.
        var succeededAt: UInt64 = 0
        var failures: UInt64 = 0
        /// Looks that have ended.
        var looks: UInt64 = 0
        /// When the next look is due; all times in monotonic nanoseconds.
        var dueAt: UInt64 = 0
        /// When the last look began; nil before the first one.
        var begunAt: UInt64?
        var isLooking = false
        /// What the last delivery was, to see whether there is anything new.
        var lastBytes: [UInt8] = []
    }

    let location: KeyLocation
    let authorities: String?
    private let state = Mutex(State())

    init(_ location: KeyLocation, authorities: String?) {
        self.location = location
        self.authorities = authorities
    }

    private var isFile: Bool { if case .file = location { true } else { false } }

    /// The keys that may be used, or why there are none.
    func keys(now: UInt64) throws(Failure) -> KeySet {
        let (keys, succeededAt) = state.withLock { ($0.keys, $0.succeededAt) }
        guard let keys else { throw Failure(reason: "the keys of \(location.text) have not been had yet") }
        // Somebody may keep us from the server so that a key goes on that its owner has withdrawn.
        guard isFile || now - min(now, succeededAt) <= Self.maxAge else {
            throw Failure(reason: "the keys of \(location.text) are older than a day and cannot be had anew")
        }
        return keys
    }

    /// Looks that have ended so far.
    var looks: UInt64 { state.withLock { $0.looks } }

    /// When the next look is due.
    var dueAt: UInt64 { state.withLock { $0.isLooking ? .max : $0.dueAt } }

    /// Somebody misses a key.
    /// - Returns: whether it is worth waiting for a look: one is under way or was made due. If so, ``looks`` grows.
    func demand(now: UInt64) -> Bool {
        let interval = isFile ? Self.fileDemandInterval : Self.demandInterval
        return state.withLock { state in
            if state.isLooking || state.dueAt <= now { return true }
            if let begunAt = state.begunAt, now - min(now, begunAt) < interval { return false }
            state.dueAt = now
            return true
        }
    }

    /// Makes a look due, unless there was one a moment ago.
    func refresh(now: UInt64) { _ = demand(now: now) }

    /// A look begins; nobody else looks until ``end(_:now:)``.
    func begin(now: UInt64) {
        state.withLock { state in
            state.isLooking = true
            state.begunAt = now
        }
    }

    /// A look ends.
    func end(_ result: Result<Delivery, Failure>, now: UInt64) -> Arrival {
        state.withLock { state in
            state.isLooking = false
            state.looks += 1
            do throws(Failure) {
                let delivery = try result.get()
                let arrival = try Self.take(delivery, location, &state)
                state.succeededAt = now
                state.failures = 0
                let seconds = delivery.maxAgeSeconds.map {
                    UInt64(min(max($0, Self.intervals.lowerBound), Self.intervals.upperBound))
                }
                state.dueAt = now + (isFile ? Self.fileInterval : seconds.map { $0 * Self.second } ?? Self.interval)
                return arrival
            } catch {
                let isNew = state.failures == 0
                state.failures = min(state.failures + 1, 10)
                let pause = min(Self.retryInterval << (state.failures - 1), Self.interval)
                state.dueAt = now + (isFile ? Self.fileInterval : pause)
                // A file that is broken is looked at every few seconds; that is no news.
                guard isNew || !isFile else { return Arrival() }
                return Arrival(notice: .failed(location: location.text, reason: error.reason))
            }
        }
    }

    private static func take(
        _ delivery: Delivery, _ location: KeyLocation, _ state: inout State
    ) throws(Failure) -> Arrival {
        if state.keys != nil, state.lastBytes == delivery.bytes { return Arrival() }
        let keys: KeySet
        do throws(StrictJSON.Failure) {
            keys = try KeySet(parsing: delivery.bytes)
        } catch {
            throw Failure(reason: error.reason)
        }
        let old = state.keys
        state.keys = keys
        state.lastBytes = delivery.bytes
        if let old, old.isContained(in: keys), keys.isContained(in: old) { return Arrival() }
        return Arrival(
            notice: .changed(location: location.text, keys: keys.keys.count, omissions: keys.omissions),
            hasLostKeys: old.map { !$0.isContained(in: keys) } ?? false)
    }
}
