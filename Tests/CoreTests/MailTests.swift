import Testing

@testable import Core

/// What crosses from lane to lane.
@Suite struct MailTests {
    @Test func eventsArriveOnceInOrderWithIdentifiers() {
        let bench = Bench(lanes: 3)
        let ports = [bench.port(on: 1), bench.port(on: 1), bench.port(on: 2)]
        for (number, port) in ports.enumerated() { bench.subscribe(port, "a/#", identifier: UInt32(number + 7)) }
        for number in 0..<5_000 { bench.publish("a/\(number % 3)", "\(number)") }
        #expect(ports.allSatisfy { $0.deliveries.isEmpty }, "nobody is called on another lane")
        bench.pass()
        for (number, port) in ports.enumerated() {
            #expect(port.deliveries.map(\.payload) == (0..<5_000).map(String.init))
            #expect(port.deliveries.allSatisfy { $0.identifiers == [UInt32(number + 7)] })
        }
    }

    @Test func receiptsComeBackWhenTheOtherLaneHasTakenTheRun() {
        let bench = Bench(lanes: 3)
        let publisher = bench.port()
        for lane in 0..<3 { bench.subscribe(bench.port(on: lane), "a") }
        let outcome = bench.publish("a", qos: 1, publisher: publisher.address)
        #expect(outcome.pending == 2 && outcome.token != 0 && outcome.matched == 3)
        #expect(publisher.receipts.isEmpty)
        bench.pass()
        bench.pass()
        #expect(publisher.receipts == [outcome.token, outcome.token], "one answer from each lane")
        let next = bench.publish("a", qos: 1, publisher: publisher.address)
        #expect(next.token != outcome.token)
        #expect(bench.publish("a", qos: 0, publisher: publisher.address).pending == 0)
    }

    @Test func aFullMailboxDropsDirectEventsAndCountsThem() {
        var limits = Limits()
        limits.maxMailboxBytes = 1_000
        let bench = Bench(lanes: 2, limits: limits)
        let port = bench.port(on: 1)
        let publisher = bench.port()
        bench.subscribe(port, "a")
        let payload = String(repeating: "x", count: 300)
        for _ in 0..<10 { bench.publish("a", payload) }
        for _ in 0..<10 { bench.publish("a", payload, qos: 1, publisher: publisher.address) }
        bench.pass()
        let dropped = bench.all[0].counters.dropped[DropReason.mailboxFull.rawValue]
        #expect(dropped > 0 && dropped < 10)
        #expect(port.deliveries.filter { $0.qos == 1 }.count == 10, "a guaranteed event is never dropped here")
        #expect(port.deliveries.filter { $0.qos == 0 }.count == 10 - Int(dropped))
        // What has been read makes room again.
        bench.publish("a", payload)
        #expect(bench.all[0].counters.dropped[DropReason.mailboxFull.rawValue] == dropped)
    }

    @Test func eventsLargerThanABlock() {
        let bench = Bench(lanes: 2)
        let port = bench.port(on: 1)
        bench.subscribe(port, "a")
        let payload = String(repeating: "0123456789", count: 30_000)
        bench.publish("a", "before")
        bench.publish("a", payload)
        bench.publish("a", "after")
        bench.pass()
        #expect(port.deliveries.map(\.payload) == ["before", payload, "after"])
    }

    @Test func callsKeepTheirPlaceAmongEvents() {
        let bench = Bench(lanes: 2)
        let port = bench.port(on: 1)
        bench.subscribe(port, "a")
        bench.publish("a", "1")
        let address = port.address
        bench.all[0].callLater(1) { lane in
            (lane.port(at: address) as? RecordingPort)?.receipts.append(1)
            (lane.port(at: address) as? RecordingPort).map { #expect($0.deliveries.count == 1) }
        }
        bench.publish("a", "2")
        bench.pass()
        #expect(port.receipts == [1] && port.deliveries.count == 2)
    }

    @Test func connectionsGoToTheLaneWithTheFewest() {
        let lanes = Lanes(wakes: (0..<3).map { _ in {} }, limits: Limits())
        #expect((0..<6).map { _ in lanes.assignConnection() } == [0, 1, 2, 0, 1, 2])
        lanes.connectionLeft(1)
        #expect(lanes.assignConnection() == 1)
        #expect(lanes.connectionCount == 6)
    }
}
