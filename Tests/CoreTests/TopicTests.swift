import Testing
import TestSupport

@testable import Core

@Suite("Topics")
struct TopicTests {
    private func isValid(_ bytes: [UInt8], _ limits: Limits = Limits()) -> Bool {
        bytes.withUnsafeBytes { Topic.isValid($0, limits: limits) }
    }

    @Test(
        "Legal topics",
        arguments: ["a", "/", "//", "/a", "a/", "a//b", "a b", "*", "a*", ">", "a/>/b", "$SYS/x", "ü/€/😀", "\u{1}"])
    func legal(_ topic: String) { #expect(isValid(Array(topic.utf8))) }

    @Test("Illegal topics", arguments: ["", "+", "a/+", "a+", "#", "a/#", "a#b", "a\0", "\0", "ü\0"])
    func illegal(_ topic: String) { #expect(!isValid(Array(topic.utf8))) }

    @Test(
        "Bytes that are not UTF-8",
        arguments: [
            [0x80], [0xBF], [0xC0, 0x80], [0xC1, 0xBF], [0xE0, 0x80, 0x80], [0xE0, 0x9F, 0xBF],
            [0xF0, 0x80, 0x80, 0x80],
            [0xF0, 0x8F, 0xBF, 0xBF], [0xED, 0xA0, 0x80], [0xED, 0xBF, 0xBF], [0xF4, 0x90, 0x80, 0x80],
            [0xF5, 0x80, 0x80, 0x80], [0xFE], [0xFF], [0xC3], [0xE2, 0x82], [0xF0, 0x9F, 0x98], [0xC3, 0x28],
            [0xE2, 0x28, 0xA1], [0xE2, 0x82, 0x28], [0xF0, 0x9F, 0x98, 0x28],
        ] as [[UInt8]])
    func notUTF8(_ bytes: [UInt8]) {
        #expect(!isValid(bytes))
        #expect(!isValid(Array("a/".utf8) + bytes + Array("/b".utf8)))
        #expect(throws: TopicFilter.Failure.notText) {
            try TopicFilter(Array("a/".utf8) + bytes, grammar: .mqtt, limits: Limits())
        }
    }

    @Test(
        "The edges of UTF-8",
        arguments: [
            [0x7F], [0xC2, 0x80], [0xDF, 0xBF], [0xE0, 0xA0, 0x80], [0xED, 0x9F, 0xBF], [0xEE, 0x80, 0x80],
            [0xEF, 0xBF, 0xBF], [0xF0, 0x90, 0x80, 0x80], [0xF4, 0x8F, 0xBF, 0xBF],
        ] as [[UInt8]])
    func edgesOfUTF8(_ bytes: [UInt8]) { #expect(isValid(bytes)) }

    @Test("UTF-8 as the standard library sees it")
    func againstStandardLibrary() {
        var random = Seeded(1)
        let heads: [UInt8] = [
            0x20, 0x7F, 0x80, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0x9F, 0xA0, 0x8F,
        ]
        for _ in 0..<20_000 {
            let bytes = (0..<random.below(7)).map { _ in random.pick(heads) }
            #expect(
                bytes.withUnsafeBytes(Topic.isUTF8) == (String(validating: bytes, as: UTF8.self) != nil), "\(bytes)")
        }
    }

    @Test("Levels and bytes are limited")
    func limits() {
        #expect(isValid([UInt8](repeating: UInt8(ascii: "/"), count: 127)))
        #expect(!isValid([UInt8](repeating: UInt8(ascii: "/"), count: 128)))
        #expect(isValid([UInt8](repeating: UInt8(ascii: "a"), count: 65_535)))
        #expect(!isValid([UInt8](repeating: UInt8(ascii: "a"), count: 65_536)))
        var small = Limits()
        small.maxTopicLevels = 2
        small.maxTopicBytes = 5
        #expect(isValid(Array("ab/cd".utf8), small))
        #expect(!isValid(Array("a/b/c".utf8), small))
        #expect(!isValid(Array("ab/cde".utf8), small))
    }

    @Test("Text has no NUL")
    func text() {
        #expect([UInt8]("a/ü".utf8).withUnsafeBytes(Topic.isText))
        #expect([UInt8]().withUnsafeBytes(Topic.isText))
        #expect(![97, 0].withUnsafeBytes(Topic.isText))
    }

    @Test("Bytes compare and hash as they should, at every length and offset")
    func bytes() {
        var random = Seeded(2)
        let bytes = (0..<64).map { _ in UInt8(random.below(256)) }
        for start in 0..<8 {
            for count in 0...40 {
                let one = Array(bytes[start..<start + count])
                var other = one
                bytes.withUnsafeBytes { all in
                    one.withUnsafeBytes { copy in
                        guard let base = all.baseAddress, let copyBase = copy.baseAddress else { return }
                        #expect(bytesEqual(base + start, copyBase, count))
                        #expect(hashBytes(base + start, count, key: 5) == hashBytes(copyBase, count, key: 5))
                        #expect(
                            count == 0 || hashBytes(base + start, count, key: 6) != hashBytes(copyBase, count, key: 5))
                    }
                }
                for place in 0..<count {
                    other[place] ^= 0x10
                    let isEqual = one.withUnsafeBytes { one in
                        other.withUnsafeBytes { bytesEqual(one.baseAddress!, $0.baseAddress!, count) }
                    }
                    #expect(!isEqual, "length \(count), byte \(place)")
                    other[place] ^= 0x10
                }
            }
        }
    }
}
