import Core

/// What an event keeps of a message besides its canonical properties, so that AMQP receivers get the same bare message,
/// the same footer and the publisher's message annotations (``EventProperties/Identifier/foreign``).
///
/// A byte of flags; the lengths, in two bytes each, of the first three of four parts; the parts: message annotations,
/// properties with application properties, what stands in the body beside the payload, footer. All of it is shorter
/// than ``MessageSections/maxHeadBytes`` and this head. There is none that could be left out: what is not stored here
/// would go out with a `to`, which the publisher may not have written.
struct ForeignMessage {
    /// Where the payload goes.
    enum Form: UInt8 {
        /// Behind the third part, which ends with a constructor, and its own size.
        case plain
        /// It is the body.
        case encoded
        /// In pieces, each behind its own descriptor, constructor and size, which are the third part.
        case pieces
    }

    var isDurable: Bool
    var form: Form
    /// The whole section, or nothing.
    var annotations: UnsafeRawBufferPointer
    /// The bare message before its body.
    var bare: UnsafeRawBufferPointer
    var body: UnsafeRawBufferPointer
    /// The whole section, or nothing.
    var footer: UnsafeRawBufferPointer

    private static let headLength = 7

    /// Reads what ``bytes(of:)`` made; nil for anything else.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.headLength, let form = Form(rawValue: bytes[0] >> 1) else { return nil }
        isDurable = bytes[0] & 1 == 1
        self.form = form
        func length(_ part: Int) -> Int { Int(bytes[1 + part * 2]) << 8 | Int(bytes[2 + part * 2]) }
        let bareStart = Self.headLength + length(0)
        let bodyStart = bareStart + length(1)
        let footerStart = bodyStart + length(2)
        guard footerStart <= bytes.count else { return nil }
        annotations = UnsafeRawBufferPointer(rebasing: bytes[Self.headLength..<bareStart])
        bare = UnsafeRawBufferPointer(rebasing: bytes[bareStart..<bodyStart])
        body = UnsafeRawBufferPointer(rebasing: bytes[bodyStart..<footerStart])
        footer = bytes.from(footerStart)
    }

    /// What is to be kept of a message.
    static func bytes(of sections: MessageSections) -> [UInt8] {
        let form: Form = sections.isPlain ? .plain : sections.body == .data ? .pieces : .encoded
        let annotations = UnsafeRawBufferPointer(rebasing: sections.bytes[sections.annotations])
        let bare = UnsafeRawBufferPointer(rebasing: sections.bytes[sections.bareStart..<sections.bodyStart])
        let footer = sections.bytes.from(sections.footerStart)
        var kept: [UInt8] = []
        kept.reserveCapacity(headLength + annotations.count + bare.count + footer.count + 32)
        kept.append(form.rawValue << 1 | (sections.isDurable ? 1 : 0))
        append(annotations.count, to: &kept)
        append(bare.count, to: &kept)
        append(0, to: &kept)
        kept += annotations
        kept += bare
        let start = kept.count
        switch form {
        case .plain: kept += plainBody(sections)
        case .encoded: break
        case .pieces: appendPieces(sections, to: &kept)
        }
        kept[5] = UInt8(truncatingIfNeeded: (kept.count - start) >> 8)
        kept[6] = UInt8(truncatingIfNeeded: kept.count - start)
        kept += footer
        return kept
    }

    /// The body up to its constructor.
    private static func plainBody(_ sections: MessageSections) -> UnsafeRawBufferPointer {
        guard let content = sections.content else { return sections.bytes.upTo(0) }
        let width = content.constructor >> 4 == 0xA ? 1 : content.constructor >> 4 == 0xB ? 4 : 0
        return UnsafeRawBufferPointer(rebasing: sections.bytes[sections.bodyStart..<sections.payloadStart - width])
    }

    private static func appendPieces(_ sections: MessageSections, to kept: inout [UInt8]) {
        var reader = ValueReader(
            UnsafeRawBufferPointer(rebasing: sections.bytes[sections.bodyStart..<sections.footerStart]))
        while !reader.isAtEnd {
            let start = reader.cursor
            guard (try? MessageSections.Section.next(&reader)) != nil, let value = try? reader.next() else { return }
            kept += UnsafeRawBufferPointer(start: start, count: value.start - start)
        }
    }

    private static func append(_ count: Int, to kept: inout [UInt8]) {
        kept.append(UInt8(truncatingIfNeeded: count >> 8))
        kept.append(UInt8(truncatingIfNeeded: count))
    }

    /// Writes a body whose payload is in pieces.
    /// - Returns: false when the pieces are not those of the payload.
    func writePieces(_ payload: UnsafeRawBufferPointer, to writer: ValueWriter) -> Bool {
        var offset = 0
        var place = body
        while !place.isEmpty {
            var reader = ValueReader(place)
            guard (try? MessageSections.Section.next(&reader)) != nil,
                let size = Self.size(&reader), payload.count - offset >= size
            else { return false }
            let length = place.count - (reader.end - reader.cursor)
            writer.raw(place.upTo(length))
            writer.raw(UnsafeRawBufferPointer(rebasing: payload[offset..<offset + size]))
            offset += size
            place = place.from(length)
        }
        return offset == payload.count
    }

    /// The size behind the constructor of a binary.
    private static func size(_ reader: inout ValueReader) -> Int? {
        let bytes = UnsafeRawBufferPointer(start: reader.cursor, count: reader.end - reader.cursor)
        switch bytes.first {
        case 0xA0 where bytes.count >= 2:
            guard (try? reader.skip(2)) != nil else { return nil }
            return Int(bytes[1])
        case 0xB0 where bytes.count >= 5:
            guard (try? reader.skip(5)) != nil else { return nil }
            return Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 1, as: UInt32.self)))
        default: return nil
        }
    }
}
