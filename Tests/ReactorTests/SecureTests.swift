import COpenSSL
import CLinux
import Core
import Foundation
import Glibc
import Synchronization
import TLS
import Testing

@testable import Reactor

extension Sockets {
    @Suite("TLS")
    struct SecureTests {
        @Test("Lines to and fro", arguments: [TLS1_2_VERSION, TLS1_3_VERSION])
        func lines(version: Int32) throws {
            let stage = try Stage(lanes: 2, door: SecureGround().door())
            let clients = try (0..<4).map { _ in try SecureClient(stage, version: version) }
            for client in clients {
                try client.send("SUB t\n")
                #expect(try client.line() == "OK")
            }
            let filler = String(repeating: "x", count: 20_000)
            for number in 0..<50 {
                try clients[number % 4].send("PUB t \(number) \(filler)\n")
                for client in clients { #expect(try client.line() == "EVT t \(number) \(filler)") }
            }
            try clients[0].send("QUIT\n")
            #expect(try clients[0].line() == nil, "a goodbye, not only an end")
            #expect(eventually { stage.closed(.clientDisconnected) == 1 })
        }

        @Test("Five megabytes for a slow reader arrive whole, then the end", arguments: [false, true])
        func slowReader(halfClosed: Bool) throws {
            let stage = try Stage(door: SecureGround().door(), adapter: { _ in BlockAdapter() })
            let client = try SecureClient(stage, receiveBuffer: 4_096)
            try client.send("F5000000\n")
            if halfClosed { client.finishWriting() }
            let received = try client.all(pausing: 100)
            #expect(FinishTests.isBlock(received, 5_000_000), "\(received.count) bytes")
            #expect(eventually { stage.closed(.administrative) == 1 })
        }

        @Test("A connection moves to and fro; what was sent behind the request is not lost")
        func moves() throws {
            let stage = try Stage(lanes: 3, door: SecureGround().door()) { _ in Nomad.Maker() }
            let client = try SecureClient(stage)
            for round in 1...300 {
                try client.send("M\(round % 3)\nW\nW\n")
                #expect(try client.lines(3) == Array(repeating: "\(round % 3)", count: 3))
            }
            try client.send((1...100).map { "M\($0 % 3)\n" }.joined())
            #expect(try client.lines(100) == (1...100).map { "\($0 % 3)" })
        }

        @Test("Half a handshake is ended in time, however it stopped")
        func halfHandshake() throws {
            let ground = try SecureGround()
            ground.settings.handshakeMilliseconds = 300
            let diary = AuditDiary()
            let stage = try Stage(door: ground.door(), audit: diary)
            let silent = try Client(stage)
            let half = try Client(stage)
            try half.send([22, 3, 1, 0, 200, 1, 0, 0])
            let start = apus_monotonic_ns()
            #expect(try half.all().isEmpty)
            #expect(try silent.all().isEmpty)
            let milliseconds = (apus_monotonic_ns() - start) / 1_000_000
            #expect((250..<1_500).contains(milliseconds))
            #expect(eventually { stage.closed(.handshakeFailed) == 2 })
            #expect(diary.reasons == Array(repeating: "the handshake took too long", count: 2))
        }
    }
}
