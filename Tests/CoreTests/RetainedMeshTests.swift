import Synchronization
import Testing

@testable import Core

/// What the mesh's port hears of retained events, and what the router does with those of other nodes.
@Suite("Retained events in a mesh")
struct RetainedMeshTests {
    private final class MeshRecorder: Port {
        var runs: [(topic: String, payloads: [String], version: EventVersion, options: DeliveryOptions)] = []
        var refuses = 0

        override func deliver(
            _ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane
        ) -> Int {
            let payloads = (0..<run.pointee.count).map { run.pointee.event($0).text }
            runs.append(
                (
                    String(decoding: run.pointee.topicBytes, as: UTF8.self), payloads, run.pointee.version,
                    target.pointee.options
                ))
            return run.pointee.qos > 0 ? refuses : 0
        }
    }

    private final class Changes: Sendable { let count = Atomic<Int>(0) }

    private func mesh(_ field: Field, on lane: Int = 0) -> (port: MeshRecorder, changes: Changes) {
        let (port, changes) = (MeshRecorder(), Changes())
        field.router.keepRetainedVersions(
            writer: 7, wallClock: { 1_000 }, changed: { changes.count.add(1, ordering: .relaxed) })
        field.router.register(port, on: field.all[lane])
        field.router.meshPort = port.address
        return (port, changes)
    }

    @Test("Every retained run reaches the mesh's port once with its version, whoever subscribes", arguments: [0, 1])
    func everywhere(lane: Int) throws {
        let field = Field(lanes: 2)
        let (port, _) = mesh(field, on: lane)
        let local = field.recorder()
        try field.subscribe(local, "#")
        field.publish("a", ["1", "2", "3"], isRetained: true)
        field.publish("a", ["4"], qos: 1, isRetained: true)
        field.publish("b", ["no"])
        field.publish("$SYS/x", ["no"], as: .node(field.router), isRetained: true)
        field.settle()
        #expect(port.runs.map(\.topic) == ["a", "a"])
        #expect(port.runs.map(\.payloads) == [["1", "2", "3"], ["4"]])
        #expect(port.runs.allSatisfy { $0.options == .everywhere && $0.version.writer == 7 })
        // Each event has a version of its own.
        #expect(port.runs[0].version.advanced(by: 2) < port.runs[1].version)
        #expect(local.payloads == ["1", "2", "3", "4", "no"])
        let entry = try #require(field.entries().first)
        #expect(entry.version == port.runs[1].version)
        #expect(field.entries().count == 1)
    }

    @Test("A guaranteed publisher hears of the mesh's port like of any other", arguments: [0, 1])
    func receipts(lane: Int) throws {
        let field = Field(lanes: 2)
        let (port, _) = mesh(field, on: lane)
        let publisher = field.recorder()
        port.refuses = 1
        let outcome = field.publish("a", ["1"], qos: 1, isRetained: true, publisher: publisher.address)
        field.settle()
        if lane == 0 {
            #expect(outcome.refused == 1 && outcome.pending == 0)
        } else {
            #expect(outcome.pending == 1)
            #expect(publisher.receipts == [Recorder.Receipt(token: outcome.token, refused: 1)])
        }
    }

    @Test("A packed run reaches it unpacked, and with its version")
    func packed() throws {
        let field = Field()
        let (port, _) = mesh(field)
        let packing = EventPacking()
        let reader = field.recorder()
        try field.subscribe(reader, "a")
        field.publish("a", ["1"], isRetained: true, packing: packing)
        #expect(port.runs.count == 1 && port.runs[0].version != .none)
    }

    @Test("Events of other nodes keep their versions and are not sent back")
    func fromMesh() throws {
        let field = Field()
        let (port, _) = mesh(field)
        let local = field.recorder()
        try field.subscribe(local, "#")
        let newer = EventVersion(time: 5_000 << 16, writer: 3)
        field.arrive(Event("a", "new"), newer)
        field.arrive(Event("a", "old"), EventVersion(time: 9, writer: 9))
        #expect(port.runs.isEmpty)
        // What comes as an event is always delivered; only the newest stays.
        #expect(local.payloads == ["new", "old"])
        let kept = Array("a".utf8).withUnsafeBytes { field.router.retained($0, now: 1) }
        #expect(kept?.text == "new")
        #expect(field.entries().map(\.version) == [newer])
        // A publish here, by a clock that is behind, comes after it.
        field.publish("a", ["mine"], isRetained: true)
        #expect(newer < port.runs[0].version)
    }

    @Test("What management removes is remembered as deleted, and the mesh is woken")
    func management() throws {
        let field = Field()
        let (port, changes) = mesh(field)
        field.publish("a", ["1"], isRetained: true)
        let topic = Array("a".utf8)
        #expect(topic.withUnsafeBytes { field.router.removeRetained($0) })
        #expect(!topic.withUnsafeBytes { field.router.removeRetained($0) })
        #expect(changes.count.load(ordering: .relaxed) == 1)
        let entry = try #require(field.entries().first)
        #expect(port.runs[0].version < entry.version)
        let stored = field.router.retainedEvent(at: entry.place, hash: entry.hash)
        #expect(stored?.event.payloadLength == 0 && stored?.event.isRetained == false)
        #expect(field.router.retainedCount == 0 && field.router.retainedVersionCounts.tombstones == 1)
        // The node's own is not for others.
        field.publish("$SYS/x", ["1"], as: .node(field.router), isRetained: true)
        #expect(Array("$SYS/x".utf8).withUnsafeBytes { field.router.removeRetained($0) })
        #expect(changes.count.load(ordering: .relaxed) == 1 && field.entries().count == 1)
    }

    @Test("Without a mesh there are neither versions nor tombstones")
    func without() {
        let field = Field()
        field.publish("a", ["1"], isRetained: true)
        field.publish("a", [""], isRetained: true)
        let (size, isNil) = field.router.retainedLock.withLock { _ in
            (field.router.retainedEvents.treeSize.nodes, field.router.retainedEvents.versions == nil)
        }
        #expect(size == 0 && isNil && field.router.retainedDigest == 0 && field.entries().isEmpty)
    }
}

extension Field {
    /// An event comes from another node.
    func arrive(_ event: Event, _ version: EventVersion) {
        let turn = all[0].turn
        turn.runs[0] = EventRun(event: event, view: turn.events, publisher: .none)
        turn.runs[0].isFromMesh = true
        turn.runs[0].version = version
        (turn.runCount, turn.eventCount, turn.principal) = (1, 1, .node(router))
        router.route(turn, on: all[0])
        turn.removeAll()
    }

    /// All topics with a version.
    func entries() -> [RetainedEntry] {
        var entries: [RetainedEntry] = []
        for bucket in 0..<Router.retainedBuckets {
            _ = router.retainedEntries(of: bucket, after: 0, max: .max, into: &entries)
        }
        return entries
    }
}
