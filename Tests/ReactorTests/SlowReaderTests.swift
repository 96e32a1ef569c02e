import CLinux
import Core
import Glibc
import Testing

@testable import Reactor

extension Sockets {
    @Suite("Slow and hasty clients")
    struct SlowReaderTests {
        @Test("A client that never reads: direct events are dropped and counted, others are served, then it recovers")
        func slowReader() throws {
            var limits = Limits()
            limits.maxOutputBytes = 100_000
            let stage = try Stage(limits: limits)
            let (slow, quick) = (try Client(stage, receiveBuffer: 4_096), try Client(stage))
            try slow.subscribe("t")
            try quick.subscribe("t")
            let filler = String(repeating: "x", count: 1_000)
            for batch in 0..<200 {
                try quick.send((0..<100).map { "PUB t \(batch * 100 + $0) \(filler)\n" }.joined())
                #expect(try quick.lines(100).last == "EVT t \(batch * 100 + 99) \(filler)")
            }
            let dropped = stage.dropped(.outputFull)
            #expect(dropped > 5_000 && dropped < 20_000, "\(dropped) of 20,000")
            // What is left is whole, in order and complete up to what was dropped.
            var numbers: [Int] = []
            for _ in 0..<20_000 - Int(dropped) {
                let words = try #require(try slow.line()).split(separator: " ")
                #expect(words.count == 4 && words[3].count == 1_000)
                numbers.append(Int(words[2]) ?? -1)
            }
            #expect(numbers == Array(0..<numbers.count), "nothing came between two drops")
            try quick.send("PUB t again\n")
            #expect(try slow.line() == "EVT t again")
        }

        @Test("Small events for a client that never reads cost their bytes, not a buffer each")
        func trickle() async {
            await #expect(processExitsWith: .success) {
                var limits = Limits()
                limits.maxOutputBytes = 16 << 20
                let stage = try Stage(limits: limits)
                let (slow, quick) = (try Client(stage, receiveBuffer: 4_096), try Client(stage))
                try slow.subscribe("#")
                try quick.subscribe("t")
                // Fill what the kernel takes, then one small event a pass.
                let filler = String(repeating: "x", count: 100_000)
                while stage.reactor.counters().eventsOut < 60 { try quick.send("PUB fill \(filler)\n") }
                let before = dataPages()
                for _ in 0..<4_000 {
                    try quick.send("PUB t 1\n")
                    guard try quick.line() == "EVT t 1" else { exit(2) }
                }
                let grown = (dataPages() - before) * 4_096
                guard grown < 2_500_000 else {
                    print("4,000 events of 8 bytes took \(grown) bytes")
                    exit(3)
                }
            }
        }

        @Test("What a client sent before it closed is taken, all of it")
        func lastWords() throws {
            let path = "/tmp/apus-words-\(getpid()).sock"
            let stage = try Stage("unix:\(path)")
            let subscriber = try Client(stage)
            try subscriber.subscribe("t")
            try subscriber.subscribe("done")
            let publisher = try Client(stage)
            // The first part is kept as the beginning of a packet; the rest and the end arrive while the lane is busy.
            try publisher.send("PUB done \(String(repeating: "x", count: 70_000))")
            usleep(50_000)
            stage.reactor.lanes.call(0) { _ in usleep(200_000) }
            usleep(50_000)
            try publisher.send("\n" + String(repeating: "PUB t \(String(repeating: "y", count: 1_000))\n", count: 130))
            shutdown(publisher.socket, Int32(SHUT_RDWR))
            #expect(try subscriber.line()?.utf8.count == 70_009)
            for number in 0..<130 {
                // A missing one would be waited for in vain.
                guard try subscriber.line()?.utf8.count == 1_006 else {
                    Issue.record("event \(number) is missing")
                    return
                }
            }
        }
    }

    /// Pages of the process's data, whether touched or not.
    static func dataPages() -> Int {
        guard let file = fopen("/proc/self/statm", "r") else { return 0 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        fgets(&line, 256, file)
        let words = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).split(
            separator: " ")
        return words.count > 5 ? Int(words[5]) ?? 0 : 0
    }
}
