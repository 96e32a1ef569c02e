import Testing
import TestSupport

@testable import Mesh

/// Frames between the ends of a stream: what is written is read, and nothing else is.
@Suite("Frames of streams") struct StreamFrameTests {
    private func read(_ frame: [UInt8]) -> StreamAcknowledgement? {
        frame.withUnsafeBytes { bytes in
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
            return StreamAcknowledgement(&reader)
        }
    }

    private var sample: StreamAcknowledgement {
        var said = StreamAcknowledgement(
            originEpoch: 1 << 40, destinationEpoch: 2 << 40, cumulative: 1_000, windowFrames: 8_192,
            windowBytes: 8 << 20)
        said.echo = 300
        said.ranges = [.init(first: 1_002, last: 1_002), .init(first: 1_005, last: 2_000)]
        said.refusals = [1_001, 1_004]
        return said
    }

    @Test func whatIsWrittenIsRead() {
        #expect(read(sample.frame()) == sample)
        var random = Seeded(1)
        for _ in 0..<500 {
            var said = sample
            said.cumulative = random.next() % 1_000_000
            var end = said.cumulative
            said.ranges = (0..<random.below(9)).map { _ in
                let first = end + 1 + random.next() % 1_000
                end = first + random.next() % 1_000
                return .init(first: first, last: end)
            }
            var last = said.cumulative
            said.refusals = (0..<random.below(17)).map { _ in
                last += 1 + random.next() % 100
                return last
            }
            #expect(read(said.frame()) == said, "\(random.note)")
        }
    }

    @Test func everyCutAndEveryByteMoreIsRefused() {
        let frame = sample.frame()
        for count in FrameHeader.size..<frame.count { #expect(read(Array(frame[..<count])) == nil) }
        #expect(read(frame + [0]) == nil)
    }

    /// A frame by hand, from the cumulative counter on.
    private func frame(_ cumulative: UInt64, ranges: [(UInt64, UInt64)], refusals: [(UInt8, UInt64)] = []) -> [UInt8] {
        var writer = WireWriter(.streamAcknowledgement)
        writer.u64(1)
        writer.u64(1)
        for value in [cumulative, 1, 1, 0] { writer.varint(value) }
        writer.u8(UInt8(ranges.count))
        for (gap, length) in ranges {
            writer.varint(gap)
            writer.varint(length)
        }
        writer.u8(UInt8(refusals.count))
        for (code, distance) in refusals {
            writer.u8(code)
            writer.varint(distance)
        }
        return writer.finish()
    }

    @Test func whatMakesNoSenseIsRefused() {
        #expect(read(frame(5, ranges: [(1, 1)])) != nil)
        #expect(read(frame(5, ranges: [(0, 1)])) == nil, "it begins where the last one ends")
        #expect(read(frame(5, ranges: [(1, 0)])) == nil, "empty")
        // A range that runs backwards is one whose length overflows.
        #expect(read(frame(5, ranges: [(3, .max)])) == nil)
        #expect(read(frame(5, ranges: [(.max - 3, 1)])) == nil)
        #expect(read(frame(.max, ranges: [])) == nil)
        #expect(read(frame(5, ranges: Array(repeating: (1 << 61, 1 << 61), count: 8))) == nil)
        #expect(read(frame(5, ranges: Array(repeating: (2, 1), count: 8))) != nil)
        #expect(read(frame(5, ranges: Array(repeating: (2, 1), count: 9))) == nil)
        #expect(read(frame(5, ranges: [], refusals: [(1, 1), (1, 2)])) != nil)
        #expect(read(frame(5, ranges: [], refusals: [(1, 2), (1, 2)])) == nil)
        #expect(read(frame(5, ranges: [], refusals: [(1, 0)])) == nil)
        #expect(read(frame(5, ranges: [], refusals: [(9, 1)])) == nil)
        #expect(read(frame(5, ranges: [], refusals: (1...17).map { (1, $0) })) == nil)
    }

    @Test func garbageIsReadWithoutHarm() {
        var random = Seeded(2)
        for _ in 0..<2_000 {
            var bytes = sample.frame()
            for _ in 0..<1 + random.below(4) {
                bytes[FrameHeader.size + random.below(bytes.count - FrameHeader.size)] = UInt8.random(
                    in: 0...255, using: &random)
            }
            if let said = read(bytes) { #expect(said.highest >= said.cumulative, "\(random.note)") }
        }
    }

    @Test func acknowledgingWhatWasNotSentIsRefused() {
        let desk = StreamTests.Desk()
        for _ in 0..<5 { desk.publish(to: [1]) }
        #expect(desk.hear(desk.said(6)) != nil)
        var said = desk.said(2)
        said.ranges = [.init(first: 4, last: 6)]
        #expect(desk.hear(said) != nil)
        said = desk.said(2)
        said.refusals = [6]
        #expect(desk.hear(said) != nil)
        #expect(desk.streams.spool.count == 5, "nothing of it has been believed")
        #expect(desk.hear([UInt8](repeating: 0, count: 20), .streamAcknowledgement, from: 1) != nil)
        // What is late is no mistake, and whoever has never been sent anything is not believed either.
        #expect(desk.hear(desk.said(4)) == nil && desk.hear(desk.said(2)) == nil)
        #expect(desk.hear(desk.said(1, by: 2), from: 2) == nil)
        #expect(desk.streams.spool.count == 1)
    }
}
