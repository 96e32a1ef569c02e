import Core
import Glibc
import Synchronization
import Testing

@testable import Reactor

extension Sockets {
    /// What the reactor measures and shows of real connections.
    @Suite("Meters and taps") struct Meters {
        /// Collects what it is shown.
        private final class Collector: LinkTap {
            private let book: Book

            init(_ book: Book) { self.book = book }

            override func received(_ bytes: UnsafeRawBufferPointer, on lane: Lane) {
                book.bytes.withLock { $0.received += bytes }
            }

            override func sent(_ bytes: UnsafeRawBufferPointer, on lane: Lane) {
                book.bytes.withLock { $0.sent += bytes }
            }
        }

        private final class Book: Sendable {
            let bytes = Mutex<(received: [UInt8], sent: [UInt8])>(([], []))

            var received: String { bytes.withLock { String(decoding: $0.received, as: UTF8.self) } }
            var sent: String { bytes.withLock { String(decoding: $0.sent, as: UTF8.self) } }
        }

        /// Every connection is tapped from its first byte on.
        private final class TappedAdapter: Adapter {
            let name = "line"
            private let inner: LineAdapter
            private let book: Book

            init(_ router: Router, _ book: Book) {
                inner = LineAdapter(router: router)
                self.book = book
            }

            func makeConversation(link: Link, on lane: Lane) -> Conversation {
                link.tap = Collector(book)
                return inner.makeConversation(link: link, on: lane)
            }
        }

        private func traffic(_ stage: Stage) -> [Int] {
            stage.reactor.statistics().map { $0.traffic.first { $0.protocolName == "line" }?.connections ?? 0 }
        }

        @Test func everyByteIsShownOnceAndInOrder() throws {
            let book = Book()
            let stage = try Stage { TappedAdapter($0, book) }
            let client = try Client(stage)
            try client.subscribe("t")
            var said = "SUB t\n"
            var heard = "OK\n"
            // Small ones, one that fills windows, and one that is sent where it lies; the last in pieces.
            for size in [1, 900, 5_000, 70_000, 300_000] {
                let payload = String(repeating: "\(size % 7)", count: size)
                let line = "PUB t \(payload)\n"
                try client.send(Array(line.utf8.prefix(line.utf8.count / 2)))
                try client.send(Array(line.utf8.dropFirst(line.utf8.count / 2)))
                #expect(try client.line() == "EVT t \(payload)")
                said += line
                heard += "EVT t \(payload)\n"
            }
            #expect(book.received == said, "whole lines, each once")
            #expect(book.sent == heard)
            let counters = stage.reactor.counters()
            #expect(counters.socketBytesIn == UInt64(said.utf8.count))
            #expect(counters.socketBytesOut == UInt64(heard.utf8.count))
        }

        @Test func whatASlowReaderHasNotReadIsShownAsWell() throws {
            let book = Book()
            let stage = try Stage { TappedAdapter($0, book) }
            let slow = try Client(stage, receiveBuffer: 4_096)
            try slow.subscribe("t")
            let filler = String(repeating: "x", count: 100_000)
            for number in 0..<8 { try slow.send("PUB t \(number)\(filler)\n") }
            for number in 0..<8 { #expect(try slow.line() == "EVT t \(number)\(filler)") }
            #expect(book.sent == "OK\n" + (0..<8).map { "EVT t \($0)\(filler)\n" }.joined())
        }

        @Test func connectionsAreCountedByProtocolAndLane() throws {
            let stage = try Stage(lanes: 2)
            var clients = try (0..<6).map { _ in try Client(stage) }
            for client in clients { try client.subscribe("t") }
            #expect(traffic(stage) == [3, 3])
            clients.removeAll()
            #expect(eventually { self.traffic(stage) == [0, 0] })
        }

        @Test func latenciesAreWeightedByEvents() throws {
            let stage = try Stage(lanes: 2)
            let clients = try (0..<4).map { _ in try Client(stage) }
            for client in clients { try client.subscribe("t") }
            let began = clock()
            for number in 0..<50 {
                try clients[0].send("PUB t \(number)\n")
                for client in clients { #expect(try client.line() == "EVT t \(number)") }
            }
            let elapsed = clock() - began
            // The pass that sent the last event may not be over yet.
            #expect(eventually { stage.reactor.statistics().reduce(0) { $0 + $1.latency.count } == 200 })
            let statistics = stage.reactor.statistics()
            #expect(statistics.reduce(0) { $0 + $1.counters.eventsOut } == 200)
            #expect(statistics.allSatisfy { $0.latency.count == 100 })
            for lane in statistics {
                // An event was on its way for some time, and no longer than the test took.
                #expect(lane.latency.sumNanoseconds > 0 && lane.latency.sumNanoseconds < 100 * elapsed)
                #expect(lane.passes.count > 50 && lane.passes.busyNanoseconds > 0)
                #expect(lane.passes.idleNanoseconds > 0)
            }
        }

        @Test func busyAndIdleTimeAreAllTheTimeThereIs() throws {
            let stage = try Stage()
            let client = try Client(stage)
            try client.subscribe("t")
            let (first, began) = (stage.reactor.statistics()[0].passes, clock())
            for _ in 0..<100 {
                try client.send("PUB t x\n")
                _ = try client.line()
            }
            let (second, ended) = (stage.reactor.statistics()[0].passes, clock())
            let measured =
                second.busyNanoseconds + second.idleNanoseconds - first.busyNanoseconds
                - first.idleNanoseconds
            // The two looks are part of passes themselves, and on a busy machine some time apart from the clock's.
            let difference = abs(Int(measured) - Int(ended - began))
            #expect(difference < Int(ended - began) / 2 + 20_000_000)
        }

        private func clock() -> UInt64 {
            var time = timespec()
            clock_gettime(CLOCK_MONOTONIC, &time)
            return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
        }
    }
}
