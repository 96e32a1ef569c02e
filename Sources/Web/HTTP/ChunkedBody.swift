/// A body in chunks (RFC 9112 §7.1), put together as it comes. Strict like ``RequestHead``: no bare line feeds, no
/// white space around sizes. Trailers must be header fields; they are read and thrown away.
struct ChunkedBody {
    enum Failure: Error, Equatable {
        case malformed
        /// More bytes than a body may have.
        case tooLarge
    }

    private enum Step {
        case size, extensions, sizeEnd, data, dataEnd, trailerStart, trailerName, trailer, trailerLineEnd, trailerEnd
        case end
    }

    /// Bytes of the extensions of a size, and of all trailers: as good as never more than a few.
    private static let overheadBytes = 1_024

    /// What has come so far.
    private(set) var bytes: [UInt8] = []
    private let limit: Int
    private var step = Step.size
    private var left = 0
    private var digits = 0
    private var lineLength = 0

    init(limit: Int) { self.limit = limit }

    /// Takes what belongs to the body.
    /// - Returns: how many bytes that were, and whether the body is complete.
    mutating func take(_ input: UnsafeRawBufferPointer) throws(Failure) -> (count: Int, isComplete: Bool) {
        var place = 0
        while place < input.count {
            if step == .data {
                let part = min(left, input.count - place)
                bytes.append(contentsOf: UnsafeRawBufferPointer(rebasing: input[place..<place + part]))
                place += part
                left -= part
                if left == 0 { step = .dataEnd }
                continue
            }
            try takeFraming(input[place])
            place += 1
            if step == .end { return (place, true) }
        }
        return (place, false)
    }

    private mutating func takeFraming(_ byte: UInt8) throws(Failure) {
        switch step {
        case .size: try takeSize(byte)
        case .extensions:
            if byte == 13 {
                step = .sizeEnd
            } else {
                try countLine(byte)
            }
        case .sizeEnd:
            guard byte == 10 else { throw .malformed }
            lineLength = 0
            step = left > 0 ? .data : .trailerStart
        case .dataEnd:
            // CR and LF, counted by the digits that the next size has not begun with.
            guard byte == (digits == 0 ? 13 : 10) else { throw .malformed }
            digits = digits == 0 ? -1 : 0
            if byte == 10 { step = .size }
        case .trailerStart:
            if byte == 13 {
                step = .trailerEnd
            } else {
                guard Token.contains(byte) else { throw .malformed }
                try countLine(byte)
                step = .trailerName
            }
        case .trailerName:
            guard Token.contains(byte) || byte == UInt8(ascii: ":") else { throw .malformed }
            try countLine(byte)
            if byte == UInt8(ascii: ":") { step = .trailer }
        case .trailer:
            if byte == 13 {
                step = .trailerLineEnd
            } else {
                try countLine(byte)
            }
        case .trailerLineEnd:
            guard byte == 10 else { throw .malformed }
            step = .trailerStart
        case .trailerEnd:
            guard byte == 10 else { throw .malformed }
            step = .end
        case .data, .end: break
        }
    }

    private mutating func takeSize(_ byte: UInt8) throws(Failure) {
        let digit: UInt8
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - UInt8(ascii: "A") + 10
        case 13, UInt8(ascii: ";"):
            guard digits > 0 else { throw .malformed }
            guard left <= limit - bytes.count else { throw .tooLarge }
            digits = 0
            step = byte == 13 ? .sizeEnd : .extensions
            return
        default: throw .malformed
        }
        digits += 1
        guard digits <= 15 else { throw .malformed }
        left = left << 4 | Int(digit)
    }

    private mutating func countLine(_ byte: UInt8) throws(Failure) {
        guard byte >= 0x20 && byte != 0x7F || byte == 9 else { throw .malformed }
        lineLength += 1
        guard lineLength <= Self.overheadBytes else { throw .malformed }
    }
}

/// A chunked request: its head, and what has come of its body.
final class ChunkedRequest {
    let head: [UInt8]
    var body: ChunkedBody

    init(head: [UInt8], limit: Int) {
        self.head = head
        body = ChunkedBody(limit: limit)
    }
}
