import Testing
import TestSupport

@testable import Core

/// Expiry, limits and management of the retained store.
@Suite("The retained store")
struct RetainedStoreTests {
    private func filter(_ text: String) throws -> TopicFilter { try TopicFilter(text, grammar: .mqtt) }

    @Test("Expired events are not found, and a look-up that meets them removes them")
    func expiry() throws {
        var store = RetainedEvents(key: 1, limits: Limits())
        for number in 0..<100 { store.put("a/\(number)/x", "1", expiresAt: number % 2 == 0 ? 50 : 0) }
        store.put("b", "1", expiresAt: 50)
        let before = store.all(try filter("#"), now: 49)
        #expect(before.count == 101 && before.allSatisfy { $0.expiresAt == 0 || $0.expiresAt == 50 })
        let after = store.all(try filter("a/#"), now: 50)
        let (count, expiring, nodes) = (store.count, store.expiring, store.treeSize.nodes)
        #expect(after.count == 50 && count == 51 && expiring == 1 && nodes == 102)
        let single = Array("b".utf8).withUnsafeBytes { store.value(of: $0, now: 50) }
        let left = store.count
        #expect(single == nil && left == 50)
    }

    @Test("A step that removes expired events counts the nodes it frees")
    func expiredSteps() throws {
        var store = RetainedEvents(key: 1, limits: Limits())
        for number in 0..<1_000 { store.put("a/\(number)/x/y/z", "1", expiresAt: 50) }
        var walk = RetainedWalk(try filter("#"))
        var visited = 0
        while walk.state != .finished {
            let before = store.treeSize.nodes
            store.advance(&walk, nodes: 20, events: 20, now: 60)
            let removed = before - store.treeSize.nodes
            // The last removal of a step may take its whole branch with it.
            if walk.visited > 20 || walk.visited + removed > 20 + 5 { Issue.record("\(walk.visited), \(removed)") }
            #expect(walk.found.isEmpty)
            visited += walk.visited
        }
        let (nodes, bytes) = (store.treeSize.nodes, store.bytes)
        #expect(nodes == 0 && bytes == 0 && visited == 4_001)
    }

    @Test("The sweep goes on where it stopped, finds all in time, and costs nothing before")
    func sweep() {
        var random = Seeded(700)
        var store = RetainedEvents(key: 1, limits: Limits())
        var known: [String: UInt64] = [:]
        var now: UInt64 = 1
        for _ in 0..<300 {
            for _ in 0..<20 {
                let topic = "t/\(random.below(3_000))"
                let expiresAt = random.once(in: 2) ? now + 1 + UInt64(random.below(500)) : 0
                store.put(topic, random.once(in: 5) ? "" : "1", expiresAt: expiresAt, now: now)
                let hasValue = Array(topic.utf8).withUnsafeBytes { store.value(of: $0, now: now) } != nil
                known[topic] = hasValue ? expiresAt : nil
            }
            now += UInt64(random.below(10))
            let count = store.count
            let removed = store.sweepExpired(now: now, max: 100)
            let left = store.count
            #expect(left == count - removed && removed <= 100)
        }
        // One round, wherever it begins, finds whatever is left.
        let places = 3_000
        _ = store.sweepExpired(now: now, max: places)
        let alive = known.values.count { $0 == 0 || $0 > now }
        let (count, expiring) = (store.count, store.expiring)
        #expect(count == alive && expiring == known.values.count { $0 > now }, "\(random.note)")
        _ = store.sweepExpired(now: .max, max: places)
        let last = (store.count, store.expiring)
        #expect(last == (known.values.count { $0 == 0 }, 0), "\(random.note)")
    }

    @Test("What is set behind the sweep's back, in a place it has passed, is not forgotten")
    func behindTheSweep() {
        var store = RetainedEvents(key: 1, limits: Limits())
        store.put("first", "1", expiresAt: 10)
        for number in 0..<99 { store.put("t/\(number)", "1", expiresAt: 1_000) }
        var removed = store.sweepExpired(now: 10, max: 50)
        #expect(removed == 1)
        store.put("takes the first place", "1", expiresAt: 20)
        removed = store.sweepExpired(now: 10, max: 200)
        #expect(removed == 0)
        removed = store.sweepExpired(now: 20, max: 200)
        #expect(removed == 1)
    }

    @Test("Expired events make room when the store is full, in number and in bytes")
    func makesRoom() {
        var limits = Limits()
        limits.maxRetainedEvents = 40
        var store = RetainedEvents(key: 1, limits: limits)
        for number in 0..<40 { store.put("t/\(number)", "1", expiresAt: number < 10 ? 50 : 0) }
        var stored = store.put("new", "1", now: 49)
        #expect(!stored)
        stored = store.put("new", "1", now: 50)
        var count = store.count
        #expect(stored && count == 31)

        limits.maxRetainedBytes = 1_000
        store = RetainedEvents(key: 1, limits: limits)
        let large = String(repeating: "x", count: 800)
        store.put("t", large, expiresAt: 50)
        stored = store.put("u", large, now: 49)
        #expect(!stored)
        stored = store.put("u", large, now: 50)
        count = store.count
        #expect(stored && count == 1)
        stored = store.put("u", large + large)
        let bytes = store.bytes
        #expect(!stored && bytes == 1 + 800 + 64)
        // The topic whose value has to go first is the very one that is set.
        store.put("u", large, expiresAt: 60)
        stored = store.put("u", String(repeating: "y", count: 930), now: 60)
        let grown = store.bytes
        #expect(stored && grown == 1 + 930 + 64)
    }

    @Test("What a replaced or removed event held is freed at once")
    func freed() {
        weak var old: EventStorage?
        var store = RetainedEvents(key: 1, limits: Limits())
        func set(_ topic: String, _ payload: String) {
            let event = Event(topic, payload)
            old = event.storage
            _ = store.set(event.topic, event, now: 1)
        }
        set("a", "1")
        #expect(old != nil)
        store.put("a", "2")
        #expect(old == nil)
        set("a", "3")
        store.put("a", "")
        #expect(old == nil)
        set("a", "4")
        store = RetainedEvents(key: 1, limits: Limits())
        #expect(old == nil, "and with the store")
    }

    @Test("Pages: everything that stays is listed once, whatever comes and goes between them")
    func pages() throws {
        var random = Seeded(710)
        let field = Field()
        for number in 0..<500 { field.publish("keep/\(number)", ["payload"], qos: 1, isRetained: true) }
        for number in 0..<500 { field.publish("go/\(number)", ["1"], isRetained: true) }
        for text in ["keep/+", "#", "keep/#"] {
            var listed: [String] = []
            var next: UInt32? = 0
            while let after = next {
                let page = field.router.retainedPage(
                    matching: try filter(text), after: after, limit: 37, places: 300, now: 1)
                #expect(page.events.count <= 37)
                listed += page.events.map(\.topicText).filter { $0.hasPrefix("keep/") }
                next = page.next
                for _ in 0..<20 {
                    let topic = "go/\(random.below(1_000))"
                    field.publish(topic, [random.once(in: 2) ? "" : "1"], isRetained: true)
                }
            }
            #expect(listed.count == 500 && Set(listed).count == 500, "\(random.note)")
        }
        let one = field.router.retainedPage(matching: try filter("keep/7"), limit: 10, now: 1)
        #expect(one.next == nil && one.events.count == 1)
        #expect(one.events[0].qos == 1 && one.events[0].payloadLength == 7 && one.events[0].expiresAt == 0)
        let none = field.router.retainedPage(matching: try filter("nothing"), limit: 10, now: 1)
        #expect(none.next == nil && none.events.isEmpty)
    }

    @Test("Management: bytes, one topic, removal, the sweep")
    func management() throws {
        let field = Field()
        field.publish("a", ["12345"], isRetained: true)
        #expect(field.router.retainedBytes == 1 + 5 + 64)
        let topic = Array("a".utf8)
        #expect(topic.withUnsafeBytes { field.router.retained($0, now: 1) }?.text == "12345")
        #expect(topic.withUnsafeBytes { field.router.removeRetained($0) })
        #expect(!topic.withUnsafeBytes { field.router.removeRetained($0) })
        #expect(topic.withUnsafeBytes { field.router.retained($0, now: 1) } == nil)
        #expect(field.router.retainedBytes == 0 && field.router.retainedCount == 0)
        let event = Event("b", "1", expiresAt: 30)
        field.router.publish(event, as: field.principal(), on: field.all[0])
        #expect(try field.router.retained(matching: filter("b"), now: 29).map(\.expiresAt) == [30])
        #expect(field.router.sweepExpiredRetained(now: 29) == 0)
        #expect(field.router.sweepExpiredRetained(now: 30) == 1 && field.router.retainedCount == 0)
    }
}
