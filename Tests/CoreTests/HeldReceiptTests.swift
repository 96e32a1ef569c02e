import Testing

@testable import Core

@Suite("Receipts that a full port holds, and properties that are taken out of their packing for others")
struct HeldReceiptTests {
    @Test(
        "A patient run's publisher waits for the port that holds it, on its own lane and on another", arguments: [0, 1])
    func held(lane: Int) throws {
        let field = Field(lanes: 2)
        let publisher = field.recorder()
        let slow = field.recorder(on: lane)
        slow.holds = true
        try field.subscribe(slow, "a", .qos(1))
        let outcome = field.publish("a", ["x"], qos: 1, publisher: publisher.address, isPatient: true)
        field.settle()
        #expect(outcome.pending == 1 && outcome.token != 0)
        let receipt = try #require(slow.held.first)
        #expect(field.all[lane].heldRuns == 1 && field.all[lane].statistics().heldRuns == 1)
        // From another lane an answer has come that promises one more.
        #expect(publisher.receipts.map(\.more) == (lane == 0 ? [] : [1]))
        field.all[lane].answer(receipt, refused: 2)
        field.all[lane].routeDeferred()
        field.settle()
        #expect(field.all[lane].heldRuns == 0)
        #expect(publisher.receipts.last == Recorder.Receipt(token: outcome.token, refused: 2))
        #expect(publisher.receipts.reduce(0) { $0 + 1 - $1.more } == Int(outcome.pending))
    }

    @Test("Several ports that hold one run are waited for one by one")
    func several() throws {
        let field = Field(lanes: 2)
        let publisher = field.recorder()
        let slow = [field.recorder(), field.recorder(), field.recorder(on: 1), field.recorder(on: 1)]
        for port in slow {
            port.holds = true
            try field.subscribe(port, "a/#", .qos(1))
        }
        let outcome = field.publish("a/b", ["x", "y"], qos: 1, publisher: publisher.address, isPatient: true)
        field.settle()
        #expect(outcome.pending == 3, "two here, one answer of the other lane")
        for port in slow { for receipt in port.held { field.all[port.address.lane].answer(receipt) } }
        for lane in field.all { lane.routeDeferred() }
        field.settle()
        #expect(publisher.receipts.reduce(Int(outcome.pending)) { $0 + $1.more - 1 } == 0)
    }

    @Test("Who is not patient, publishes directly, or is nobody, is not held")
    func impatient() throws {
        let field = Field()
        let publisher = field.recorder()
        let slow = field.recorder()
        slow.holds = true
        try field.subscribe(slow, "a", .qos(1))
        #expect(field.publish("a", ["x"], qos: 1, publisher: publisher.address).pending == 0)
        #expect(field.publish("a", ["x"], qos: 0, publisher: publisher.address, isPatient: true).pending == 0)
        #expect(field.publish("a", ["x"], qos: 1, isPatient: true).pending == 0)
        #expect(slow.held.isEmpty && slow.payloads.count == 3)
    }

    /// Writes the packed bytes twice, as a content type.
    final class Doubling: EventPacking {
        var calls = 0

        override func unpack(_ run: UnsafePointer<EventRun>, into properties: inout EventPropertiesWriter) {
            calls += 1
            let packed = UnsafeRawBufferPointer(start: run.pointee.properties, count: run.pointee.propertiesLength)
            properties.add(.contentType, Array(packed) + Array(packed))
            properties.add(.messageID, packed)
        }
    }

    @Test("Properties are unpacked once for all ports that need it, and not for those that take them packed")
    func packed() throws {
        let field = Field(lanes: 2)
        let packing = Doubling()
        let ports = [field.recorder(), field.recorder(), field.recorder(takesPacked: true), field.recorder(on: 1)]
        for port in ports { try field.subscribe(port, "a/+") }
        field.publish(
            "a/b", ["x", "y"], isRetained: true, layout: WireLayout(rawValue: 9), properties: "pq", packing: packing)
        field.settle()
        #expect(ports[2].runs.map(\.properties) == ["pq"])
        #expect(ports[2].runs.map(\.layout.rawValue) == [9])
        for port in [ports[0], ports[1], ports[3]] {
            #expect(port.payloads == ["x", "y"])
            #expect(port.runs.map(\.layout) == [.none])
            #expect(port.runs.map(\.properties) == ["\u{3}\0\u{4}pqpq\u{61}\0\u{2}pq"])
        }
        #expect(packing.calls == 2, "once on each lane")
        // The retained event is the last one, unpacked.
        let kept = try #require(
            Array("a/b".utf8).withUnsafeBytes { field.router.retained($0, now: 1) })
        #expect(kept.text == "y" && kept.extensionLength == 5)
    }
}
