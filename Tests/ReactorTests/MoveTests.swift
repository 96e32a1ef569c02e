import Core
import Glibc
import Testing

@testable import Reactor

/// Says where it is, moves, and asks for ticks: what the line adapter has no need of.
final class Nomad: Conversation {
    struct Maker: Adapter {
        let name = "nomad"
        func makeConversation(link: Link, on lane: Lane) -> Conversation { Nomad(link) }
    }

    private unowned let link: Link
    private var ticks = 0

    init(_ link: Link) { self.link = link }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        guard let end = bytes.firstIndex(of: UInt8(ascii: "\n")) else {
            return Progress(consumed: 0, verdict: .waiting)
        }
        let line = String(decoding: bytes[..<end], as: UTF8.self)
        let number = Int(line.dropFirst(1)) ?? 0
        func move() {
            link.move(to: number) { conversation, lane in
                (conversation as? Nomad)?.say(lane)
                (conversation as? Nomad)?.link.resume()
            }
        }
        switch line.first {
        case "W": say(lane)
        case "M":
            move()
            return Progress(consumed: end + 1, verdict: .paused)
        case "X":
            move()
            return Progress(consumed: end + 1, verdict: .close(.clientDisconnected))
        case "T":
            ticks = 3
            link.tick(at: lane.now + UInt64(number))
        default: return Progress(consumed: end + 1, verdict: .close(.malformedPacket))
        }
        return Progress(consumed: end + 1, verdict: .routeFirst)
    }

    private func say(_ lane: Lane) {
        let text = Array("\(lane.number)\n".utf8)
        text.withUnsafeBytes { link.append($0.baseAddress!, $0.count) }
    }

    override func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
        say(lane)
        ticks -= 1
        return ticks == 0 ? .failure(.keepAliveTimeout) : .success(lane.now + 200)
    }
}

extension Sockets {
    @Suite("Moving between lanes, and ticks")
    struct MoveTests {
        @Test("A connection moves to and fro; what was sent behind the request is not lost")
        func toAndFro() throws {
            let stage = try Stage(lanes: 3) { _ in Nomad.Maker() }
            let client = try Client(stage)
            try client.send("W\n")
            #expect(try client.line() == "0")
            for round in 1...300 {
                try client.send("M\(round % 3)\nW\nW\n")
                #expect(try client.lines(3) == Array(repeating: "\(round % 3)", count: 3))
            }
            try client.send((1...100).map { "M\($0 % 3)\n" }.joined())
            #expect(try client.lines(100) == (1...100).map { "\($0 % 3)" })
            #expect(stage.reactor.lanes.connectionCount == 1)
        }

        @Test("Many at once, half of them cut on the way")
        func crowd() throws {
            let stage = try Stage(lanes: 2) { _ in Nomad.Maker() }
            for _ in 0..<20 {
                let clients = try (0..<20).map { _ in try Client(stage) }
                for (number, client) in clients.enumerated() {
                    if number % 2 == 0 { client.willReset() }
                    try client.send("M1\nM0\nM1\nW\n")
                }
                for (number, client) in clients.enumerated() where number % 2 == 1 {
                    #expect(try client.lines(4) == ["1", "0", "1", "1"])
                }
            }
            #expect(stage.isDeserted())
        }

        @Test("A connection that ends in the pass in which it asked to move is forgotten")
        func moveAndClose() async {
            await #expect(processExitsWith: .success) {
                // Under the address sanitizer this says more than here.
                let stage = try Stage(lanes: 2) { _ in Nomad.Maker() }
                for _ in 0..<50 {
                    let client = try Client(stage)
                    try client.send("X1\n")
                    guard try client.line() == nil else { exit(2) }
                }
                guard stage.isDeserted() else { exit(3) }
            }
        }

        @Test("Ticks come when asked for, not before and not much later, and may close")
        func ticks() throws {
            let stage = try Stage { _ in Nomad.Maker() }
            let client = try Client(stage)
            let clock = ContinuousClock()
            let start = clock.now
            try client.send("T300\n")
            #expect(try client.line() == "0")
            #expect((.milliseconds(290)..<(.milliseconds(1_000))).contains(clock.now - start))
            #expect(try client.lines(2) == ["0", "0"])
            #expect((.milliseconds(690)..<(.milliseconds(2_500))).contains(clock.now - start))
            #expect(try client.line() == nil)
            #expect(stage.closed(.keepAliveTimeout) == 1)
        }
    }
}
