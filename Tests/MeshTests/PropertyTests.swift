import Testing

@testable import Core
@testable import Mesh

/// Properties that other nodes send, and what is sealed with them.
@Suite struct PropertyTests {
    private func areSound(_ bytes: [UInt8], extensionLength: Int = 0) -> Bool {
        bytes.withUnsafeBytes { EventProperties.areSound($0, extensionLength: extensionLength) }
    }

    @Test func whatPublishersSayIsSound() {
        var writer = EventPropertiesWriter()
        writer.add(.payloadFormat, byte: 1)
        writer.add(.contentType, Array("text/plain".utf8))
        writer.add(.responseTopic, Array("reply/to".utf8))
        writer.add(.correlationData, [0, 255])
        for _ in 0..<3 { writer.addUser(Array("a".utf8), Array("ü".utf8)) }
        writer.add(.messageID, [1, 2, 0])
        writer.add(.priority, byte: 9)
        writer.addForeign(.none, [1, 2, 3])
        let (bytes, extensionLength) = writer.finish()
        #expect(areSound(bytes, extensionLength: Int(extensionLength)) && areSound([]))
        // Cut anywhere, or with its extension in another place, it is not.
        for length in 1..<bytes.count {
            let isSound = areSound(Array(bytes[..<length]), extensionLength: Int(extensionLength))
            #expect(!isSound || length == 0, "\(length)")
        }
        for length in 0..<bytes.count where length != Int(extensionLength) {
            #expect(!areSound(bytes, extensionLength: length), "\(length)")
        }
    }

    @Test(arguments: [
        [0x01, 2], [0x01], [0x03, 0, 1, 0], [0x03, 0, 1, 0xFF], [0x03, 0, 9, 65], [0x08, 0, 0], [0x08, 0, 1, 0x23],
        [0x26, 0, 1, 65], [0x26, 0, 1, 0xC0, 0, 0], [0x02, 0, 0, 0, 1], [0x0B, 5], [0x23, 0, 1], [0xFF],
        [0x01, 0, 0x01, 0], [0x09, 0, 0, 0x09, 0, 0], [0x62, 1],
    ])
    func whatMQTTForbidsIsNot(_ bytes: [UInt8]) {
        #expect(!areSound(bytes))
    }

    @Test func aPolicyReadsTheTopicOfWhateverIsSealed() {
        for flags in [UInt8(0), 1, 2, 4, 5] {
            var sealed: [UInt8] = [flags, 1, 3, 0, 0, 0, 2, 0] + [UInt8](repeating: 0, count: 8)
            sealed += [UInt8](repeating: 7, count: (flags & 3 != 0 ? 8 : 0) + (flags & 4 != 0 ? 16 : 0) + 10)
            sealed += Array("a/b".utf8) + [0, 0, 0, 0, 0, 0, 0, 0]
            sealed.withUnsafeBytes {
                let label = EventContent.label($0)
                #expect(label.topic.map { String(decoding: $0, as: UTF8.self) } == "a/b" && label.events == 2)
                #expect(EventContent($0)?.topic.elementsEqual("a/b".utf8) == true)
            }
            for length in 0..<sealed.count - 11 {
                #expect(Array(sealed[..<length]).withUnsafeBytes { EventContent.label($0).topic } == nil)
            }
        }
    }

    @Test func aToldPolicyIsReadAsItWasWritten() throws {
        var policy = LinkPolicy(peers: ["*"])
        policy.export.deny = Border.filters("de/>", "a/b*", "#")
        policy.import.allow = Border.filters("cmd/#")
        let told = ToldPolicy(LinkGate(policy, hashKey: 1, now: 0))
        let frame = told.frame()
        for length in FrameHeader.size..<frame.count {
            frame.withUnsafeBytes {
                var reader = WireReader(UnsafeRawBufferPointer(rebasing: $0[FrameHeader.size..<length]))
                #expect(ToldPolicy(&reader) == nil, "\(length)")
            }
        }
        frame.withUnsafeBytes {
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: $0[FrameHeader.size...]))
            #expect(ToldPolicy(&reader)?.export.deny.map(\.canonical) == policy.export.deny.map(\.canonical))
        }
    }
}
