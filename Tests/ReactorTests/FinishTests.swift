import CLinux
import Core
import Foundation
import Glibc
import Synchronization
import Testing

@testable import Reactor

/// What the ends of connections are like: everything that was said arrives, whoever the peer is.
extension Sockets {
    @Suite("Ends of connections")
    struct FinishTests {
        /// A block of `count` bytes in which every place is told from those around it.
        static func block(_ count: Int) -> [UInt8] {
            var block: [UInt8] = []
            block.reserveCapacity(count + part.count)
            while block.count < count { block += part }
            block.removeLast(block.count - count)
            return block
        }

        /// Whether the bytes are such a block: of two arrays a failed expectation would write out the difference.
        static func isBlock(_ bytes: some Collection<UInt8>, _ count: Int) -> Bool {
            bytes.count == count && bytes.elementsEqual(block(count))
        }

        /// Of a prime length, so that no buffer's size is a multiple of it.
        private static let part = (0..<65_521).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }

        @Test("Five megabytes for a slow reader arrive whole, then the end", arguments: [false, true])
        func slowReader(halfClosed: Bool) throws {
            let stage = try Stage(adapter: { _ in BlockAdapter() })
            let client = try Client(stage, receiveBuffer: 4_096)
            try client.send("F5000000\n")
            // The end of what it says must not cut off what it is told.
            if halfClosed { client.finishWriting() }
            #expect(eventually { stage.reactor.counters().socketBytesOut > 0 })
            let received = try client.all(pausing: 200)
            #expect(Self.isBlock(received, 5_000_000), "\(received.count) bytes")
            #expect(eventually { stage.closed(.administrative) == 1 })
        }

        @Test("A peer that goes on sending reads the answer and then the end")
        func sender() throws {
            let stage = try Stage(adapter: { _ in BlockAdapter() })
            let client = try Client(stage)
            try client.send("F100000\n")
            let junk = [UInt8](repeating: 7, count: 1 << 16)
            // Far more than the buffers of both sides hold; unread it would make the close a reset.
            for _ in 0..<200 { try client.send(junk) }
            #expect(try Self.isBlock(client.all(), 100_000))
            client.finishWriting()
            #expect(eventually { stage.closed(.administrative) == 1 })
        }

        @Test("A flood for a connection that is ending does not keep the lane from others")
        func flood() throws {
            var limits = Limits()
            limits.lingerMilliseconds = 1_000
            let stage = try Stage(limits: limits, adapter: { _ in BlockAdapter() })
            let flooding = try (0..<2).map { _ in try Client(stage) }
            let (isOver, ended) = (Flag(), Flag())
            for client in flooding { try client.send("F10\n") }
            let sockets = flooding.map(\.socket)
            for socket in sockets {
                Thread.detachNewThread {
                    let junk = [UInt8](repeating: 7, count: 1 << 18)
                    while isOver.value.load(ordering: .relaxed) == 0,
                        send(socket, junk, junk.count, Int32(MSG_NOSIGNAL)) > 0
                    {}
                    ended.value.add(1, ordering: .relaxed)
                }
            }
            let start = apus_monotonic_ns()
            for _ in 0..<20 {
                let other = try Client(stage)
                try other.send("F10\n")
                #expect(try Self.isBlock(other.all(), 10))
            }
            #expect(eventually { stage.closed(.administrative) >= 22 }, "the floods are ended, too")
            #expect(apus_monotonic_ns() - start < 5_000_000_000)
            isOver.value.store(1, ordering: .relaxed)
            #expect(eventually { ended.value.load(ordering: .relaxed) == sockets.count })
        }

        @Test("Who never reads the last bytes is ended all the same, and who never closes too")
        func deadlines() throws {
            var limits = Limits()
            limits.lastBytesMilliseconds = 300
            limits.lastBytesPerSecond = 1 << 30
            limits.lingerMilliseconds = 200
            let stage = try Stage(limits: limits, adapter: { _ in BlockAdapter() })
            let (deaf, open) = (try Client(stage, receiveBuffer: 4_096), try Client(stage))
            #expect(eventually { stage.reactor.lanes.connectionCount == 2 })
            let start = apus_monotonic_ns()
            try open.send("F10\n")
            #expect(eventually { stage.reactor.lanes.connectionCount == 1 })
            #expect(apus_monotonic_ns() - start >= 200_000_000)
            #expect(try Self.isBlock(open.all(), 10))
            try deaf.send("F9000000\n")
            #expect(eventually { stage.reactor.counters().socketBytesOut > 10 })
            #expect(eventually { stage.reactor.lanes.connectionCount == 0 })
            // A second for each so many bytes is added: a slow reader has its chance.
            limits.lastBytesPerSecond = 1 << 16
            let other = try Stage(limits: limits, adapter: { _ in BlockAdapter() })
            let slow = try Client(other, receiveBuffer: 4_096)
            try slow.send("F9000000\n")
            #expect(eventually { other.reactor.counters().socketBytesOut > 10 })
            usleep(500_000)
            #expect(try Self.isBlock(slow.all(), 9_000_000))
        }

        @Test("The end of input is the conversation's to judge", arguments: [true, false])
        func inputEnded(stays: Bool) throws {
            let stage = try Stage(adapter: { _ in BlockAdapter() })
            let client = try Client(stage)
            try client.send(stays ? "S\n" : "N\n")
            client.finishWriting()
            if !stays { #expect(try client.all().isEmpty) }
            // One that stays says its word a moment later and ends.
            if stays { #expect(try client.all() == Array("bye".utf8)) }
            #expect(eventually { stage.closed(stays ? .administrative : .connectionLost) == 1 })
        }

        @Test("A drain that the conversation takes upon itself, and one that it does not", arguments: [true, false])
        func drain(takes: Bool) throws {
            let stage = try Stage(adapter: { _ in BlockAdapter() })
            let client = try Client(stage, receiveBuffer: 4_096)
            try client.send(takes ? "D\nW3000000\n" : "W3000000\n")
            #expect(eventually { stage.reactor.counters().socketBytesOut > 0 })
            stage.reactor.lanes.call(0) { ($0 as? ReactorLane)?.stop(drainMilliseconds: 5_000) }
            let received = try client.all(pausing: 20)
            #expect(Self.isBlock(received.prefix(3_000_000), 3_000_000))
            #expect(Array(received.dropFirst(3_000_000)) == (takes ? Array("bye".utf8) : []))
        }

        @Test("An output that rides on another is congested with it")
        func rider() throws {
            var limits = Limits()
            limits.maxOutputBytes = 50_000
            let stage = try Stage(limits: limits, adapter: { _ in BlockAdapter() })
            let client = try Client(stage, receiveBuffer: 4_096)
            // The rider comes when it is congested already: it is told at once.
            try client.send("W9000000\nR\n")
            #expect(eventually { BlockAdapter.congestion.load(ordering: .relaxed) == 1 })
            _ = try client.receive(9_000_000)
            try client.send("R\n")
            #expect(eventually { BlockAdapter.congestion.load(ordering: .relaxed) == 0 })
        }

        @Test("Ten thousand connections end, twice each in their own way, and no descriptor is left")
        func manyEnds() async {
            await #expect(processExitsWith: .success) {
                var limits = Limits()
                limits.lingerMilliseconds = 300
                let stage = try Stage(lanes: 2, limits: limits, adapter: { _ in BlockAdapter() })
                do {
                    let first = try Client(stage)
                    try first.send("F1\n")
                    guard try first.all().count == 1 else { exit(2) }
                }
                guard stage.isDeserted() else { exit(2) }
                let before = openDescriptors().count
                for batch in 0..<100 {
                    let clients = try (0..<100).map { _ in try Client(stage) }
                    for (number, client) in clients.enumerated() {
                        // Finished twice by the conversation, by both sides, by a reset, by silence.
                        try client.send(number % 2 == 0 ? "F10\nF10\n" : "S\nF100\n")
                        switch (number + batch) % 4 {
                        case 0: client.finishWriting()
                        case 1: client.willReset()
                        case 2: guard try client.all().count > 0 else { exit(3) }
                        default: break
                        }
                    }
                }
                // Some may not have been accepted yet.
                guard eventually({ stage.reactor.counters().accepted == 10_001 }), stage.isDeserted() else { exit(4) }
                guard eventually({ openDescriptors().count == before }) else {
                    print("open: \(openDescriptors().count), before: \(before)")
                    exit(5)
                }
            }
        }
    }
}

/// Lines of commands for the ends of a connection: `F5` answers with five bytes and finishes, `W5` only answers, `S`
/// and `N` say whether the connection stays when input ends, `D` that it drains itself, `R` makes a rider, or notes
/// whether the one there is is congested.
final class BlockAdapter: Adapter {
    let name = "block"
    /// What the last `R` found.
    static let congestion = Atomic<Int>(-1)

    func makeConversation(link: Link, on lane: Lane) -> Conversation { BlockConversation(link) }
}

private final class BlockConversation: Conversation {
    private unowned let link: Link
    private var stays = true
    private var drains = false
    private var isEnding = false
    private var rider: Output?

    init(_ link: Link) { self.link = link }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        var start = 0
        while let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) {
            let count = Int(String(decoding: bytes[(start + 1)..<end], as: UTF8.self)) ?? 0
            switch bytes[start] {
            case UInt8(ascii: "F"), UInt8(ascii: "W"):
                Sockets.FinishTests.block(count).withUnsafeBytes { block in
                    if let base = block.baseAddress { link.append(base, block.count) }
                }
                if bytes[start] == UInt8(ascii: "F") { link.finish(.administrative) }
            case UInt8(ascii: "S"): stays = true
            case UInt8(ascii: "N"): stays = false
            case UInt8(ascii: "D"): drains = true
            default: ride()
            }
            start = end + 1
        }
        return Progress(consumed: start, verdict: .waiting)
    }

    private func ride() {
        if rider == nil {
            rider = Output()
            link.rider = rider
        }
        BlockAdapter.congestion.store(rider?.isCongested == true ? 1 : 0, ordering: .relaxed)
    }

    override func inputEnded(on lane: Lane) -> Bool {
        if stays { link.tick(at: lane.now + 150) }
        return stays
    }

    override func drain(on lane: Lane) -> Bool {
        isEnding = drains
        if drains { link.tick(at: lane.now + 150) }
        return drains
    }

    /// Ends what stayed.
    override func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
        link.append(line: "bye")
        link.finish(.administrative)
        return .success(nil)
    }
}

/// A number that threads share.
private final class Flag: Sendable { let value = Atomic<Int>(0) }
