import Testing
import TestSupport

@testable import Core
@testable import MQTT
@testable import Mesh

/// A session as bytes, and frames of type session: what is written is read again, and nothing else is.
struct SessionBytesTests {
    private struct Random {
        var state: UInt64
        mutating func next(_ limit: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(ClientHash.mix(state) % UInt64(limit))
        }
        mutating func bytes(_ limit: Int) -> [UInt8] { (0..<next(limit)).map { _ in UInt8(next(256)) } }
    }

    private func event(_ random: inout Random, now: UInt64) -> Event {
        let topic = Array("t/\(random.next(1_000))".utf8)
        let (properties, payload) = (random.bytes(20), random.bytes(60))
        return topic.withUnsafeBytes { topic in
            properties.withUnsafeBytes { properties in
                payload.withUnsafeBytes { payload in
                    Event(
                        topic: topic, properties: properties, payload: payload, qos: UInt8(random.next(3)),
                        isRetained: random.next(2) == 0,
                        expiresAt: random.next(2) == 0 ? 0 : now + 1 + UInt64(random.next(100_000)),
                        extensionLength: UInt16(random.next(properties.count + 1)), identity: UInt64(random.next(.max)))
                }
            }
        }
    }

    private func contents(_ random: inout Random, now: UInt64) -> SessionBytes.Contents {
        var contents = SessionBytes.Contents()
        if random.next(2) == 0 {
            contents.will = ConnectPacket.Will(
                topic: Array("w/x".utf8), payload: random.bytes(30), qos: UInt8(random.next(3)),
                isRetained: random.next(2) == 0, properties: random.bytes(10), delaySeconds: UInt32(random.next(99)),
                expirySeconds: random.next(2) == 0 ? nil : UInt32(random.next(99)))
            contents.willMillisecondsLeft = UInt64(random.next(10_000))
        }
        contents.received = (0..<random.next(5)).map { _ in UInt16(random.next(65_535) + 1) }
        contents.first = UInt64(random.next(1 << 40))
        for _ in 0..<random.next(6) {
            var slot = InFlight.Slot()
            slot.state = InFlight.State(rawValue: UInt8(random.next(4))) ?? .settled
            slot.isRetained = random.next(2) == 0
            if slot.state == .awaitingPuback || slot.state == .awaitingPubrec {
                slot.event = event(&random, now: now)
                slot.identifiers = (0..<random.next(3)).map { _ in UInt32(random.next(1 << 28)) }
            }
            contents.slots.append(slot)
        }
        for _ in 0..<random.next(6) {
            contents.waiting.append(
                EventQueue.Entry(
                    event: event(&random, now: now), qos: UInt8(random.next(3)), isRetained: random.next(2) == 0,
                    identifiers: (0..<random.next(3)).map { _ in UInt32(random.next(1 << 28)) }))
        }
        return contents
    }

    private func text(_ event: Event?, now: UInt64) -> String {
        guard let event else { return "-" }
        let left = event.expiresAt == 0 ? 0 : event.expiresAt - now
        return "\(Array(event.topic)) \(Array(event.properties)) \(Array(event.payload)) \(event.qos) "
            + "\(event.isRetained) \(left) \(event.extensionLength) \(event.identity)"
    }

    private func text(_ contents: SessionBytes.Contents, now: UInt64) -> [String] {
        ["\(String(describing: contents.will)) \(contents.willMillisecondsLeft) \(contents.received) \(contents.first)"]
            + contents.slots.map { "\($0.state) \($0.isRetained) \($0.identifiers) \(text($0.event, now: now))" }
            + contents.waiting.map { "\($0.qos) \($0.isRetained) \($0.identifiers) \(text($0.event, now: now))" }
    }

    @Test func contentsAreReadAsTheyWereWritten() throws {
        var random = Random(state: 1)
        for _ in 0..<300 {
            let contents = contents(&random, now: 5_000)
            let bytes = contents.bytes(now: 5_000)
            let read = try SessionBytes.Contents(bytes, now: 90_000, limits: Limits())
            #expect(text(read, now: 90_000) == text(contents, now: 5_000))
            #expect(read.bytes(now: 90_000) == bytes)
        }
    }

    @Test func contentsThatEndEarlyOrLateAreRefused() {
        var random = Random(state: 2)
        for _ in 0..<40 {
            let bytes = contents(&random, now: 5_000).bytes(now: 5_000)
            for length in 0..<bytes.count {
                #expect(throws: MQTTFailure.self) {
                    try SessionBytes.Contents(Array(bytes[..<length]), now: 0, limits: Limits())
                }
            }
            #expect(throws: MQTTFailure.self) { try SessionBytes.Contents(bytes + [0], now: 0, limits: Limits()) }
        }
    }

    @Test func spoiltContentsNeverStopTheNode() {
        var random = Random(state: 3)
        var taken = 0
        for _ in 0..<3_000 {
            var bytes = contents(&random, now: 5_000).bytes(now: 5_000)
            for _ in 0...random.next(3) { bytes[random.next(bytes.count)] = UInt8(random.next(256)) }
            guard let read = try? SessionBytes.Contents(bytes, now: 5_000, limits: Limits()) else { continue }
            taken += 1
            // What is taken is something that could have been written.
            #expect((try? SessionBytes.Contents(read.bytes(now: 5_000), now: 5_000, limits: Limits())) != nil)
        }
        #expect(taken > 0)
    }

    @Test func outlines() throws {
        let outline = SessionBytes.Outline(
            expirySeconds: 77, millisecondsLeft: 76_543,
            subscriptions: [
                .init(
                    filter: Array("a/+/#".utf8), options: [.qos(2), .noLocal], identifier: 5, wantsRetained: false),
                .init(
                    filter: Array("$share/g/b".utf8), options: [.qos(1), .retainAsPublished], identifier: 0,
                    wantsRetained: true),
                .init(filter: Array("$local/c".utf8), options: [], identifier: 9, wantsRetained: false),
            ])
        let bytes = outline.bytes
        let read = try SessionBytes.Outline(bytes)
        #expect(read.bytes == bytes)
        #expect(read.subscriptions.map(\.identifier) == [5, 0, 9])
        #expect(read.subscriptions.map(\.wantsRetained) == [false, true, false])
        #expect(read.subscriptions[0].options == [.qos(2), .noLocal])
        #expect(read.expirySeconds == 77 && read.millisecondsLeft == 76_543)
        for length in 0..<bytes.count {
            #expect(throws: MQTTFailure.self) { try SessionBytes.Outline(Array(bytes[..<length])) }
        }
        #expect(throws: MQTTFailure.self) { try SessionBytes.Outline(bytes + [1]) }
    }

    /// A weight is an entry without a filter behind its subscription's: nodes that know of none leave it out.
    @Test func outlinesWithWeights() throws {
        func subscribed(_ filter: String, _ weight: UInt16?) -> SessionBytes.Subscribed {
            .init(
                filter: Array(filter.utf8), options: .qos(1), identifier: 3, wantsRetained: false, weight: weight)
        }
        var outline = SessionBytes.Outline(
            expirySeconds: 1, millisecondsLeft: 2, subscriptions: [subscribed("$share/g/b", nil), subscribed("c", nil)])
        let plain = outline.bytes
        outline.subscriptions[0].weight = 5
        var bytes = plain
        // One entry more: no options, the weight in the place of the identifier, an empty filter.
        bytes[16] += 1
        bytes.insert(contentsOf: [0, 0, 0, 0, 5, 0, 0], at: 17 + 7 + "$share/g/b".utf8.count)
        #expect(outline.bytes == bytes)
        #expect(try SessionBytes.Outline(bytes).subscriptions.map(\.weight) == [5, nil])
        // An empty filter is none, which is what older nodes go by.
        #expect(throws: TopicFilter.Failure.self) { try TopicFilter([UInt8](), grammar: .mqtt, limits: Limits()) }
        bytes[27 + 10] = 4
        #expect(throws: MQTTFailure.self) { try SessionBytes.Outline(bytes) }
    }

    /// Frames of all kinds as they were sent, then cut and spoilt: a node takes them or says why not.
    @Test func spoiltFramesNeverStopTheNode() {
        let stage = Stage(2)
        var sent: [[UInt8]] = []
        stage.watches = { sent.append($0) }
        for round in 0..<4 {
            let client = StageClient(stage, at: round % 2, "c").connected()
            client.subscribe("t/#")
            client.publish("t/x", "text")
            stage.advance(100)
        }
        stage.advance(9_000)
        stage.watches = { _ in }
        let kinds = Set(sent.map { $0[FrameHeader.size] })
        #expect(kinds.isSuperset(of: [1, 2, 3, 4, 5, 6, 7, 9, 10].filter { $0 != 4 }))
        var random = Random(state: 4)
        var complaints = 0
        for frame in sent {
            for length in FrameHeader.size..<frame.count {
                let before = stage.nodes[0].complaints.count
                stage.nodes[0].receive(Array(frame[..<length]), from: 1)
                // Lists and the last part of a transfer may end anywhere between two entries, or bytes.
                if ![9, 11, 12, 13].contains(frame[FrameHeader.size]) {
                    #expect(stage.nodes[0].complaints.count == before + 1)
                }
            }
            for _ in 0..<50 {
                var spoilt = frame
                for _ in 0...random.next(3) {
                    spoilt[FrameHeader.size + random.next(spoilt.count - FrameHeader.size)] = UInt8(random.next(256))
                }
                stage.nodes[0].receive(spoilt, from: 1)
            }
            complaints = stage.nodes[0].complaints.count
            stage.advance(1)
        }
        #expect(complaints > 100)
        // It still works.
        stage.advance(15_000)
        let client = StageClient(stage, at: 1, "after").connected()
        client.disconnect()
        #expect(StageClient(stage, at: 0, "after").connected().isPresent == true)
        #expect(stage.nodes.allSatisfy { $0.moves.incomingBytes == 0 })
    }

    @Test func homesAreSharedOutEvenlyAndOnlyThoseOfALostNodeMove() {
        let stage = Stage(5, lanes: 1)
        let moves = stage.nodes[0].moves
        let clients = (0..<5_000).map { ClientHash("c\($0)", namespace: "default") }
        let before = clients.map { moves?.home(of: $0) ?? -1 }
        for node in 0..<5 {
            let share = before.filter { $0 == stage.nodes[0].index(of: node) || node == 0 && $0 == 0 }.count
            #expect((850...1_150).contains(share))
        }
        let lost = stage.nodes[0].index(of: 3)
        stage.kill(3)
        let after = clients.map { moves?.home(of: $0) ?? -1 }
        for (old, new) in zip(before, after) { #expect(old == lost ? new != lost : new == old) }
    }
}
