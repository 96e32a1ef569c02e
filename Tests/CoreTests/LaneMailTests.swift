import Synchronization
import Testing
import TestSupport

@testable import Core

@Suite("Mail between lanes")
struct LaneMailTests {
    @Test("A run crosses with its wire form, views, properties and identifiers", arguments: [0, 9] as [UInt8])
    func crosses(_ layout: UInt8) throws {
        let field = Field(lanes: 2)
        let ports = [field.recorder(on: 1), field.recorder(on: 1), field.recorder(on: 0)]
        try field.subscribe(ports[0], "a/+", .qos(1), identifier: 5)
        try field.subscribe(ports[0], "a/b", .qos(2), identifier: 6)
        try field.subscribe(ports[1], "#", [.qos(0), .noLocal])
        try field.subscribe(ports[2], "a/b", identifier: 8)
        let publisher = PortAddress(lane: 0, slot: 99, generation: 3)
        let outcome = field.publish(
            "a/b", ["one", "", "three"], qos: 2, layout: WireLayout(rawValue: layout), properties: "props",
            publisher: publisher)
        #expect(outcome.matched == 4 && outcome.pending == 1 && outcome.token != 0)
        #expect(ports[2].payloads == ["one", "", "three"] && ports[0].deliveries.isEmpty)
        field.settle()
        for port in ports {
            #expect(port.payloads == ["one", "", "three"] && port.topics == ["a/b", "a/b", "a/b"])
            #expect(port.runs.count == 1 && port.runs[0].properties == "props" && port.runs[0].publisher == publisher)
            #expect(port.runs[0].layout.rawValue == layout)
            #expect(port.runs[0].wire == (layout == 0 ? "" : "[one][][three]"))
        }
        #expect(ports[0].deliveries[0].identifiers.sorted() == [5, 6] && ports[0].deliveries[0].options.qos == 2)
        #expect(ports[1].deliveries[0].identifiers == [] && ports[1].deliveries[0].options == [.noLocal])
    }

    @Test("Receipts come back with the token, once for each lane, and say what was refused")
    func receipts() throws {
        let field = Field(lanes: 3)
        let publisher = field.recorder(on: 0)
        let (near, far, farther) = (field.recorder(on: 1), field.recorder(on: 1), field.recorder(on: 2))
        for port in [near, far, farther] { try field.subscribe(port, "t", .qos(1)) }
        far.refuses = 2
        let first = field.publish("t", ["a", "b", "c"], qos: 1, publisher: publisher.address)
        let second = field.publish("t", ["d"], qos: 1, publisher: publisher.address)
        #expect(first.pending == 2 && second.pending == 2 && first.token != second.token)
        field.settle()
        let expected = [
            Recorder.Receipt(token: first.token, refused: 0), Recorder.Receipt(token: first.token, refused: 2),
            Recorder.Receipt(token: second.token, refused: 0), Recorder.Receipt(token: second.token, refused: 2),
        ]
        #expect(publisher.receipts.sorted { ($0.token, $0.refused) < ($1.token, $1.refused) } == expected)
        // Direct events and events of nobody are not answered.
        let direct = field.publish("t", ["a"], qos: 0, publisher: publisher.address)
        let ownerless = field.publish("t", ["a"], qos: 1)
        #expect(direct.pending == 0 && ownerless.pending == 0)
        field.settle()
        #expect(publisher.receipts.count == 4)
    }

    @Test("A receipt for a publisher that has left, and mail for a port that has left, are harmless")
    func stale() throws {
        let field = Field(lanes: 2)
        let publisher = field.recorder(on: 0)
        let port = field.recorder(on: 1)
        try field.subscribe(port, "t", .qos(1))
        field.publish("t", ["a"], qos: 1, publisher: publisher.address)
        field.all[0].postMail()
        field.router.unregister(publisher, on: field.all[0])
        let newcomer = field.recorder(on: 0)
        field.settle()
        #expect(port.payloads == ["a"] && publisher.receipts.isEmpty && newcomer.receipts.isEmpty)

        field.publish("t", ["b"], qos: 1, publisher: newcomer.address)
        field.router.unregister(port, on: field.all[1])
        let tenant = field.recorder(on: 1)
        field.settle()
        #expect(port.payloads == ["a"] && tenant.deliveries.isEmpty)
        #expect(newcomer.receipts.count == 1, "the answer still comes, or the publisher would wait for ever")
    }

    @Test("A full mailbox drops direct events and counts them; guaranteed ones always pass")
    func bound() throws {
        var limits = Limits()
        limits.maxMailboxBytes = 10_000
        let field = Field(lanes: 2, limits: limits)
        let (port, other) = (field.recorder(on: 1), field.recorder(on: 1))
        try field.subscribe(port, "t", .qos(1))
        try field.subscribe(other, "t", .qos(1))
        let payload = String(repeating: "x", count: 1_000)
        for _ in 0..<20 { field.publish("t", [payload]) }
        let taken = 20 - Int(field.dropped(.mailboxFull)) / 2
        #expect((5...9).contains(taken), "\(taken) events of 1,000 bytes in 10,000")
        for _ in 0..<20 { field.publish("t", [payload], qos: 1) }
        #expect(field.dropped(.mailboxFull) == UInt64(20 - taken) * 2)
        field.all[0].postMail()
        field.publish("t", [payload])
        #expect(field.dropped(.mailboxFull) == UInt64(21 - taken) * 2, "what was posted counts as well")
        field.settle()
        #expect(port.deliveries.count == taken + 20 && other.deliveries.count == taken + 20)
        field.publish("t", [payload])
        field.settle()
        #expect(port.deliveries.count == taken + 21, "what was read makes room again")
        #expect(field.all[1].mailbox.pendingBytes.load(ordering: .relaxed) == 0)
    }

    @Test("Order is kept through many blocks, large events and calls")
    func order() throws {
        let field = Field(lanes: 2)
        let port = field.recorder(on: 1)
        try field.subscribe(port, "t")
        var random = Seeded(300)
        var expected: [String] = []
        for number in 0..<5_000 {
            let size = random.once(in: 200) ? 90_000 : random.below(200)
            let payloads = (0...random.below(3)).map { "\(number).\($0)" + String(repeating: "-", count: size / 4) }
            expected += payloads
            field.publish("t", payloads, layout: WireLayout(rawValue: UInt8(random.below(2))))
            if random.once(in: 100) { field.all[0].postMail() }
            if random.once(in: 400) { field.settle() }
        }
        field.settle()
        #expect(port.payloads == expected, "\(random.note)")
        #expect(field.dropped(.mailboxFull) == 0)
    }

    @Test("A call is made after what was staged before it, and before what comes after")
    func calls() throws {
        let field = Field(lanes: 2)
        let port = field.recorder(on: 1)
        try field.subscribe(port, "t")
        let address = port.address
        field.publish("t", ["before"])
        field.all[0].callLater(1) { lane in
            (lane.port(at: address) as? Recorder)?.deliveries.append(
                .init(topic: "", payload: "call", options: [], identifiers: [], qos: 0, isRetained: false))
        }
        field.publish("t", ["after"])
        field.settle()
        #expect(port.payloads == ["before", "call", "after"])
    }

    @Test("One wake for a batch, another only after the mail was read")
    func wakes() throws {
        let field = Field(lanes: 2)
        let port = field.recorder(on: 1)
        try field.subscribe(port, "t")
        for _ in 0..<10 {
            field.publish("t", ["x"])
            field.all[0].postMail()
        }
        #expect(field.wakes[1].count.load(ordering: .relaxed) == 1)
        field.all[1].readMail()
        #expect(port.deliveries.count == 10)
        field.all[0].postMail()
        #expect(field.wakes[1].count.load(ordering: .relaxed) == 1, "nothing staged, nobody woken")
        field.publish("t", ["x"])
        field.all[0].postMail()
        #expect(field.wakes[1].count.load(ordering: .relaxed) == 2)
    }

    @Test("Owned copies made on the other lane are shared and outlive the mail")
    func owned() throws {
        let field = Field(lanes: 2)
        let ports = [field.recorder(on: 1), field.recorder(on: 1)]
        for port in ports {
            port.keeps = true
            try field.subscribe(port, "t", .qos(1))
        }
        for round in 0..<3 {
            field.publish("t", ["a\(round)", "b\(round)"], qos: 1, properties: "p")
            field.settle()
        }
        for port in ports { #expect(port.owned.map(\.text) == ["a0", "b0", "a1", "b1", "a2", "b2"]) }
        #expect(zip(ports[0].owned, ports[1].owned).allSatisfy { $0.storage === $1.storage })
        #expect(ports[0].owned.allSatisfy { $0.topicText == "t" && $0.propertiesLength == 1 && $0.qos == 1 })
    }
}
