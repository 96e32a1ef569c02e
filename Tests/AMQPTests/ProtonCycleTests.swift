import CProton
import Glibc
import Testing

@testable import AMQP

/// What is counted over many connections.
@Suite struct ProtonCycleTests {
    /// Resident bytes of this process.
    private static func residentBytes() throws -> Int {
        let file = try #require(fopen("/proc/self/statm", "r"))
        defer { fclose(file) }
        var line = [UInt8](repeating: 0, count: 200)
        let count = fread(&line, 1, line.count, file)
        let fields = String(decoding: line.prefix(count), as: UTF8.self).split(separator: " ")
        return try #require(Int(fields[1])) * Int(getpagesize())
    }

    /// Connections that are cut while deliveries are under way, in both directions and in every state.
    private static func cycle() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        let sender = stage.client.sender(session, "in", to: "a")
        let incoming = stage.answerAttach(credit: 10)
        let receiver = stage.client.receiver(session, "out", from: "a")
        let outgoing = stage.answerAttach()
        stage.client.grant(receiver, 10)
        stage.pump()
        for index in 0..<4 { stage.client.send([1, 2, 3], on: sender, isSettled: index == 0) }
        stage.client.send([4], on: sender, hasMore: true)
        stage.feed(stage.client.bytes())
        for (index, delivery) in stage.takeDeliveries().enumerated() where index < 4 {
            stage.engine.advance(incoming)
            if index == 0 { stage.engine.settle(delivery.delivery, nil) }
            if index == 1 { stage.engine.settle(delivery.delivery, .rejected(AMQPError(.notFound, "x"))) }
        }
        for index in 0..<4 { stage.send([UInt8](repeating: 7, count: 1_000), on: outgoing, isSettled: index % 2 == 0) }
        stage.produce()
        stage.send([8], on: outgoing)
        #expect(stage.client.received[receiver]?.count == 4)
    }

    @Test func connectionsLeaveNothingBehind() throws {
        for _ in 0..<200 { try Self.cycle() }
        let before = try Self.residentBytes()
        for _ in 0..<1_000 { try Self.cycle() }
        // One connection's engine has more than 20 KiB: 1,000 of them would be seen beside other tests.
        #expect(try Self.residentBytes() - before < 8_000_000)
    }

    @Test func linksLeaveNothingBehind() throws {
        let stage = EngineStage()
        let (session, _) = stage.open()
        func cycle() throws {
            let theirs = stage.client.receiver(session, "r", from: "a")
            let ours = stage.answerAttach()
            pn_link_close(theirs)
            stage.pump()
            stage.events.removeAll()
            stage.engine.detach(ours, isClosing: true, nil)
            stage.engine.free(ours)
            pn_link_free(theirs)
            stage.pump()
        }
        for _ in 0..<500 { try cycle() }
        let before = try Self.residentBytes()
        for _ in 0..<5_000 { try cycle() }
        // A link has about 1 KiB, on each side.
        #expect(try Self.residentBytes() - before < 4_000_000)
    }
}
