import Synchronization
import Testing
import TestSupport

@testable import Core

/// Versions of retained events: the clock, which value stays, deletions that are remembered, digests.
@Suite("Versions of retained events")
struct RetainedVersionTests {
    /// A wall clock that tests set.
    final class Wall: Sendable {
        let time: Atomic<UInt64>
        init(_ time: UInt64) { self.time = Atomic(time) }
        var now: UInt64 { time.load(ordering: .relaxed) }
        func set(_ value: UInt64) { time.store(value, ordering: .relaxed) }
    }

    private func clock(_ wall: Wall, writer: UInt64 = 1) -> RetainedClock {
        RetainedClock(writer: writer) { wall.now }
    }

    private func store(_ limits: Limits = Limits(), wall: Wall = Wall(1_000), writer: UInt64 = 1) -> RetainedEvents {
        var store = RetainedEvents(key: writer, limits: limits)
        let life = UInt64(limits.tombstoneSeconds) * 1_000
        store.keepVersions(RetainedVersions(clock: clock(wall, writer: writer), tombstoneLife: life))
        return store
    }

    // MARK: The clock

    @Test("The clock follows the wall clock, and only grows when that goes back or stands still")
    func backwards() {
        let wall = Wall(5_000)
        var clock = clock(wall)
        var last = EventVersion.none
        for step in 0..<2_000 {
            wall.set(step % 3 == 0 ? 5_000 + UInt64(step) : 4_000)
            let version = clock.next(1 + step % 5, after: 0)
            #expect(last < version)
            last = version.advanced(by: step % 5)
        }
        wall.set(100_000)
        #expect(clock.next(1, after: 0) == EventVersion(time: 100_000 << 16, writer: 1))
    }

    @Test("A version far in the future does not drag the clock along, but what is written after it is newer")
    func future() {
        let wall = Wall(1_000_000)
        var clock = clock(wall)
        let near = (wall.now + 59_000) << 16
        clock.heard(near)
        #expect(clock.clamped == 0)
        #expect(clock.next(1, after: 0).time == near + 1)
        let far = (wall.now + 3_600_000) << 16
        clock.heard(far)
        #expect(clock.clamped == 1)
        let next = clock.next(1, after: 0)
        #expect(next.milliseconds <= wall.now + RetainedClock.maxAhead)
        #expect(clock.next(3, after: far).time == far + 1)
        #expect(clock.next(1, after: 0).time < far)
    }

    @Test("A version that no clock can have made is refused and counted")
    func implausible() {
        var store = store()
        let event = Event("a", "1")
        let outcome = store.merge(event, EventVersion(time: .max, writer: 9))
        let refused = store.versions?.implausible
        #expect(!outcome.hasAdvanced && refused == 1)
        let highest = EventVersion(time: EventVersion.maxTime - 1, writer: 9)
        #expect(store.merge(event, highest).hasAdvanced)
        let mine = store.merge(Event("a", "2"), .none)
        #expect(mine.hasAdvanced && highest < mine.version)
    }

    // MARK: Which value stays

    @Test("Whatever the order and however often, the newest version stays, and digests are equal")
    func algebra() {
        var random = Seeded(31)
        for round in 0..<200 {
            var writes: [(Event, EventVersion)] = []
            for number in 0..<20 {
                let version = EventVersion(
                    time: UInt64(1 + random.below(6)) << 16, writer: UInt64(1 + random.below(4)))
                // The same version is the same write.
                let payload = random.once(in: 4) ? "" : "\(version.time) \(version.writer)"
                let topic = "t/\(number % 3)"
                if writes.contains(where: { $0.1 == version && $0.0.topicText == topic }) { continue }
                writes.append((Event(topic, payload), version))
            }
            var stores: [[String]] = []
            var digests: [UInt64] = []
            for replica in 0..<3 {
                var store = store(writer: UInt64(50 + replica))
                var order = (0..<writes.count * 2).map { $0 % writes.count }
                for index in order.indices { order.swapAt(index, random.below(order.count)) }
                for index in order { _ = store.merge(writes[index].0, writes[index].1) }
                stores.append(store.dump)
                digests.append(store.versions?.digest ?? 0)
            }
            #expect(stores[0] == stores[1] && stores[1] == stores[2], "round \(round)")
            #expect(digests[0] == digests[1] && digests[1] == digests[2])
        }
    }

    @Test("Digests kept up are those computed anew, and a bucket's entries are those of its topics")
    func digests() throws {
        var random = Seeded(77)
        var limits = Limits()
        limits.tombstoneSeconds = 10
        limits.maxTombstones = 60
        var store = store(limits)
        var now: UInt64 = 1
        for step in 0..<6_000 {
            let topic = "a/\(random.below(300))/\(random.below(3))"
            now += UInt64(random.below(20))
            switch random.below(10) {
            case 0: _ = store.delete(Array(topic.utf8))
            case 1: _ = store.merge(Event(topic, ""), .none, now: now)
            case 2: _ = store.merge(Event(topic, "x", expiresAt: now + UInt64(random.below(200))), .none, now: now)
            case 3: _ = store.sweepExpired(now: now, max: 50)
            case 4: _ = store.all(try TopicFilter("a/+/1", grammar: .mqtt), now: now)
            default: _ = store.merge(Event(topic, "y"), .none, now: now)
            }
            #expect(store.tombstoneCount <= 60 + 50)
            if step % 500 == 499 { store.checkDigests() }
        }
        let givenUp = store.versions?.givenUp ?? 0
        #expect(givenUp > 0)
    }

    @Test("A deleted topic is remembered: an older value does not come back, a newer one does")
    func deletions() throws {
        var store = store()
        _ = store.merge(Event("a", "1"), EventVersion(time: 10, writer: 1))
        #expect(store.merge(Event("a", ""), EventVersion(time: 20, writer: 1)).hasAdvanced)
        var (count, tombstones, bytes) = (store.count, store.tombstoneCount, store.bytes)
        #expect(count == 0 && tombstones == 1 && bytes == 0)
        #expect(!store.merge(Event("a", "0"), EventVersion(time: 19, writer: 9)).hasAdvanced)
        #expect(store.all(try TopicFilter("#", grammar: .mqtt)).isEmpty)
        var listed: [Event] = []
        _ = store.list(
            try TopicFilter("#", grammar: .mqtt), after: 0, places: 10, events: 10, now: 1, into: &listed)
        #expect(listed.isEmpty)
        #expect(store.merge(Event("a", "2"), EventVersion(time: 21, writer: 1)).hasAdvanced)
        (count, tombstones, bytes) = (store.count, store.tombstoneCount, store.bytes)
        #expect(count == 1 && tombstones == 0 && bytes == 66)
        store.checkDigests()
        // A deletion of what was never there is one as well.
        #expect(store.merge(Event("b", ""), EventVersion(time: 20, writer: 1)).hasAdvanced)
        #expect(!store.merge(Event("b", "1"), EventVersion(time: 19, writer: 1)).hasAdvanced)
    }

    @Test("A deletion is forgotten after its time; an expired value keeps its version for as long")
    func lives() {
        var limits = Limits()
        limits.tombstoneSeconds = 10
        var store = store(limits)
        _ = store.merge(Event("a", ""), EventVersion(time: 20, writer: 1), now: 100)
        _ = store.merge(Event("e", "1", expiresAt: 200), EventVersion(time: 20, writer: 1), now: 100)
        let digest = store.versions?.digest
        #expect(store.sweepExpired(now: 200, max: 10) == 1)
        var (kept, tombstones) = (store.versions?.digest, store.tombstoneCount)
        #expect(kept == digest && tombstones == 2)
        #expect(!store.merge(Event("e", "0"), EventVersion(time: 19, writer: 1), now: 300).hasAdvanced)
        #expect(store.sweepExpired(now: 10_100, max: 10) == 0)
        (kept, tombstones) = (store.versions?.digest, store.tombstoneCount)
        #expect(tombstones == 1)
        _ = store.sweepExpired(now: 10_200, max: 10)
        (kept, tombstones) = (store.versions?.digest, store.tombstoneCount)
        let nodes = store.treeSize.nodes
        #expect(kept == 0 && tombstones == 0 && nodes == 0)
        #expect(store.merge(Event("e", "0"), EventVersion(time: 19, writer: 1), now: 10_300).hasAdvanced)
    }

    @Test("Too many deletions: the oldest are given up and counted")
    func tooMany() {
        var limits = Limits()
        limits.maxTombstones = 5
        var store = store(limits)
        for number in 0..<8 { _ = store.merge(Event("t/\(number)", ""), EventVersion(time: 20, writer: 1)) }
        let (count, givenUp) = (store.tombstoneCount, store.versions?.givenUp)
        #expect(count == 5 && givenUp == 3)
        #expect(store.merge(Event("t/2", "old"), EventVersion(time: 10, writer: 1)).hasAdvanced)
        #expect(!store.merge(Event("t/3", "old"), EventVersion(time: 10, writer: 1)).hasAdvanced)
        // Long topics count for more than one.
        let long = String(repeating: "x", count: 2_000)
        _ = store.merge(Event(long, ""), EventVersion(time: 20, writer: 1))
        let left = store.tombstoneCount
        #expect(left == 0)
        store.checkDigests()
    }

    @Test("When there is no room a newer value of another topic is refused, and nothing has changed")
    func full() {
        var limits = Limits()
        limits.maxRetainedEvents = 2
        var store = store(limits)
        #expect(store.merge(Event("a", "1"), .none).isStored && store.merge(Event("b", "1"), .none).isStored)
        let digest = store.versions?.digest
        let refused = store.merge(Event("c", "1"), .none)
        #expect(!refused.isStored && refused.version != .none)
        let after = store.versions?.digest
        #expect(after == digest)
        _ = store.merge(Event("a", ""), .none)
        #expect(store.merge(Event("c", "1"), .none).isStored)
        // Its tombstone has a place, but no room for a value.
        #expect(!store.merge(Event("a", "1"), .none).isStored)
        store.checkDigests()
    }
}

extension RetainedEvents {
    /// Merges a value, or without payload a deletion.
    mutating func merge(_ event: Event, _ version: EventVersion, now: UInt64 = 1) -> RetainOutcome {
        guard let versions else { return RetainOutcome(isStored: false) }
        let life = versions.tombstoneLife
        let kept = event.isTombstone ? .tombstone(of: event.topic, until: now + life, isTold: true) : event
        return merge(event.topic, kept, version: version, ahead: 0, now: now, versions)
    }

    mutating func delete(_ topic: [UInt8]) -> Event? { topic.withUnsafeBytes { delete($0) } }

    /// Topics, values and versions, sorted.
    var dump: [String] {
        var lines: [String] = []
        var number: UInt32 = 1
        while number <= slots.highest {
            if let event = slots[number], let version = versions?.version(number) {
                lines.append("\(event.topicText)=\(event.text) \(version.time) \(version.writer)")
            }
            number += 1
        }
        return lines.sorted()
    }

    /// Compares digests, lists and counts with what is there.
    func checkDigests(sourceLocation: SourceLocation = #_sourceLocation) {
        guard let versions else { return }
        var digests = [UInt64](repeating: 0, count: RetainedVersions.bucketCount)
        var topics = [[UInt64]](repeating: [], count: RetainedVersions.bucketCount)
        var (values, tombstones) = (0, 0)
        var number: UInt32 = 1
        while number <= slots.highest {
            if let event = slots[number] {
                let hash = RetainedVersions.hash(event.topic)
                let bucket = RetainedVersions.bucket(hash)
                digests[bucket] &+= RetainedVersions.mixture(hash, versions.version(number))
                topics[bucket].append(hash)
                if event.isTombstone { tombstones += 1 } else { values += 1 }
            }
            number += 1
        }
        #expect(digests == versions.digests, sourceLocation: sourceLocation)
        #expect(digests.reduce(0, &+) == versions.digest, sourceLocation: sourceLocation)
        let (count, tombstoneCount) = (self.count, self.tombstoneCount)
        #expect(values == count && tombstones == tombstoneCount, sourceLocation: sourceLocation)
        for bucket in topics.indices {
            var entries: [RetainedEntry] = []
            var place: UInt32 = 0
            repeat {
                guard let next = versions.list(bucket, after: place, max: 2, into: &entries) else { break }
                place = next
            } while place != 0
            #expect(entries.map(\.hash).sorted() == topics[bucket].sorted(), sourceLocation: sourceLocation)
        }
    }
}
