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

    /// Resident bytes that are more after something has been done often.
    private static func growth(_ first: Int, _ then: Int, _ cycle: () throws -> Void) throws -> Int {
        for _ in 0..<first { try cycle() }
        let before = try residentBytes()
        for _ in 0..<then { try cycle() }
        return try residentBytes() - before
    }

    /// Whether this is a build with a sanitizer: freed memory stays in use there, and leaks are found in another way.
    private static let isSanitized = dlsym(nil, "__asan_init") != nil || dlsym(nil, "__tsan_init") != nil

    // In processes of their own: what other tests need at the time would be counted, too.

    @Test(.disabled(if: isSanitized)) func connectionsLeaveNothingBehind() async {
        await #expect(processExitsWith: .success) {
            // One connection's engine has more than 20 KiB.
            guard try ProtonCycleTests.growth(200, 1_000, ProtonCycleTests.cycle) < 4_000_000 else { exit(2) }
        }
    }

    @Test(.disabled(if: isSanitized)) func linksLeaveNothingBehind() async {
        await #expect(processExitsWith: .success) {
            let stage = EngineStage()
            let (session, _) = stage.open()
            let growth = try ProtonCycleTests.growth(500, 5_000) {
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
            // A link has about 1 KiB, on each side.
            guard growth < 4_000_000 else { exit(2) }
        }
    }
}
