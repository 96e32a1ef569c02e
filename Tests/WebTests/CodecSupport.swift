import Core
import Glibc
import TestSupport

@testable import Web

/// What the tests of codecs share: bytes as buffers, heads out of fields, properties that can be compared, and random
/// input that can be repeated with the environment variable APUS_SEED.

func withBuffer<Answer>(_ bytes: [UInt8], _ body: (UnsafeRawBufferPointer) throws -> Answer) rethrows -> Answer {
    try bytes.withUnsafeBytes { try body($0) }
}

func withBuffer<Answer>(_ text: String, _ body: (UnsafeRawBufferPointer) throws -> Answer) rethrows -> Answer {
    try withBuffer(Array(text.utf8), body)
}

/// A property, owned.
struct Said: Equatable, CustomStringConvertible {
    var identifier: EventProperties.Identifier
    var bytes: [UInt8]
    var value: [UInt8] = []

    static func user(_ name: String, _ value: String) -> Said {
        Said(identifier: .userProperty, bytes: Array(name.utf8), value: Array(value.utf8))
    }

    static func text(_ identifier: EventProperties.Identifier, _ text: String) -> Said {
        Said(identifier: identifier, bytes: Array(text.utf8))
    }

    var description: String {
        "\(identifier) \(String(decoding: bytes, as: UTF8.self))"
            + (value.isEmpty ? "" : "=\(String(decoding: value, as: UTF8.self))")
    }

    static func list(_ bytes: [UInt8]) -> [Said] {
        withBuffer(bytes) { bytes in
            EventProperties(bytes).map {
                Said(identifier: $0.identifier, bytes: Array($0.bytes), value: Array($0.value))
            }
        }
    }

    static func list(_ writer: EventPropertiesWriter) -> [Said] { list(writer.finish().bytes) }

    static func bytes(_ list: [Said]) -> [UInt8] {
        var writer = EventPropertiesWriter()
        for said in list {
            switch said.identifier {
            case .payloadFormat, .priority: writer.add(said.identifier, byte: said.bytes.first ?? 0)
            case .userProperty: writer.addUser(said.bytes, said.value)
            default: writer.add(said.identifier, said.bytes)
            }
        }
        return writer.finish().bytes
    }

    /// Order counts among user properties; everything else is there once.
    static func sorted(_ list: [Said]) -> [Said] {
        list.enumerated().sorted {
            ($0.element.identifier.rawValue, $0.offset) < ($1.element.identifier.rawValue, $1.offset)
        }.map(\.element)
    }
}

struct NoHead: Error {}

/// A head with these lines of fields.
func withHead<Answer>(_ lines: [[UInt8]], _ body: (RequestHead) throws -> Answer) throws -> Answer {
    let head = Array("POST /t HTTP/1.1\r\nHost: x\r\n".utf8) + lines.flatMap { $0 + [13, 10] } + [13, 10]
    let storage = RequestHead.Storage()
    // The head borrows the storage without holding it.
    return try withExtendedLifetime(storage) {
        try withBuffer(head) { bytes in
            let outcome = try RequestHead.parse(bytes, headerBytes: 32_768, targetBytes: 8_192, storage)
            guard case .complete(let head) = outcome, head.length == bytes.count else { throw NoHead() }
            return try body(head)
        }
    }
}

/// What header fields say, given as lines.
func eventHeaders(_ lines: [[UInt8]]) throws -> EventHeaders { try withHead(lines) { try EventHeaders($0) } }

func eventHeaders(_ lines: String...) throws -> EventHeaders { try eventHeaders(lines.map { Array($0.utf8) }) }

/// Random input of clients.
extension Seeded {
    /// Bytes of all kinds, zeros and line ends among them.
    mutating func bytes(upTo count: Int) -> [UInt8] {
        (0..<below(count + 1)).map { _ in below(4) == 0 ? [0, 10, 13, 37, 32, 255][below(6)] : UInt8(below(256)) }
    }

    /// UTF-8 without NUL: ASCII, what is special somewhere, and characters of two, three and four bytes.
    mutating func text(upTo count: Int) -> String {
        let special: [Character] = ["\r", "\n", "\t", "%", "\"", "\\", " ", ":", ";", ",", "/", "=", "\u{7F}", "\u{1}"]
        let wide: [Character] = ["ä", "ß", "€", "語", "🪶", "\u{FFFD}", "\u{10FFFF}", "\u{80}"]
        var text = ""
        for _ in 0..<below(count + 1) {
            switch below(4) {
            case 0: text.append(special[below(special.count)])
            case 1: text.append(wide[below(wide.count)])
            default: text.append(Character(Unicode.Scalar(UInt8(33 + below(94)))))
            }
        }
        return text
    }
}
