/// The frames of WebSocket (RFC 6455 §5) as a server sees them: headers, masks, text, codes. Nothing here keeps bytes.

import Core

/// What a frame is (§5.2).
enum WebSocketOpcode: UInt8 {
    case continuation = 0
    case text = 1
    case binary = 2
    case close = 8
    case ping = 9
    case pong = 10

    /// Control frames may stand between the fragments of a message.
    @inline(__always)
    var isControl: Bool { rawValue & 8 != 0 }
}

/// A code with which a connection is closed (§7.4).
struct WebSocketCode: RawRepresentable, Equatable, Sendable {
    var rawValue: UInt16

    static let normal = WebSocketCode(rawValue: 1_000)
    static let goingAway = WebSocketCode(rawValue: 1_001)
    static let protocolError = WebSocketCode(rawValue: 1_002)
    static let unsupportedData = WebSocketCode(rawValue: 1_003)
    static let invalidData = WebSocketCode(rawValue: 1_007)
    static let policyViolation = WebSocketCode(rawValue: 1_008)
    static let messageTooBig = WebSocketCode(rawValue: 1_009)
    static let tryAgainLater = WebSocketCode(rawValue: 1_013)

    /// Whether a peer may send it: not those that only stand for what never was on the wire, nor unassigned ones.
    var maySend: Bool {
        switch rawValue {
        case 1_000...1_003, 1_007...1_014, 3_000...4_999: true
        default: false
        }
    }
}

/// Why a connection ends because of what the peer sent, with a word for whoever looks for the mistake.
enum WebSocketFailure: Error, Equatable {
    case unmasked
    case reservedBits
    case unknownOpcode
    case wastefulLength
    case impossibleLength
    case longControl
    case fragmentedControl
    case nothingToContinue
    case unfinishedMessage
    case textNotTaken
    case binaryNotTaken
    case messageTooBig
    case notUTF8
    case badClose

    /// What the peer is told.
    var code: WebSocketCode {
        switch self {
        case .textNotTaken, .binaryNotTaken: .unsupportedData
        case .messageTooBig: .messageTooBig
        case .notUTF8: .invalidData
        default: .protocolError
        }
    }

    /// What is counted.
    var reason: CloseReason {
        switch self {
        case .messageTooBig: .packetTooLarge
        case .textNotTaken, .binaryNotTaken, .nothingToContinue, .unfinishedMessage: .protocolError
        default: .malformedPacket
        }
    }

    /// The text in the close frame; at most 123 bytes.
    var text: StaticString {
        switch self {
        case .unmasked: "a client masks its frames"
        case .reservedBits: "reserved bits are set and no extension was agreed on"
        case .unknownOpcode: "unknown opcode"
        case .wastefulLength: "a length takes as few bytes as it can"
        case .impossibleLength: "a length has at most 63 bits"
        case .longControl: "a control frame has at most 125 bytes"
        case .fragmentedControl: "a control frame is not fragmented"
        case .nothingToContinue: "there is no message to continue"
        case .unfinishedMessage: "the message before is not finished"
        case .textNotTaken: "this protocol takes binary messages"
        case .binaryNotTaken: "this protocol takes text messages"
        case .messageTooBig: "the message is too big"
        case .notUTF8: "text is UTF-8"
        case .badClose: "the close frame is malformed"
        }
    }
}

/// The header of a frame from a client.
struct WebSocketHeader: BitwiseCopyable {
    var opcode: WebSocketOpcode
    var isFinal: Bool
    /// Bytes of the payload.
    var length: Int
    /// The mask, its first byte lowest.
    var key: UInt32
    /// Bytes of the header itself.
    var size: Int

    /// The largest header that a server writes.
    static let maxServerSize = 10
    /// The most bytes of a control frame's payload.
    static let maxControl = 125

    /// How far parsing came.
    enum Outcome {
        case incomplete
        case header(WebSocketHeader)
        case refused(WebSocketFailure)
    }

    /// Parses the header at the beginning of `bytes`. What is wrong is refused as soon as its byte is there.
    @inline(__always)
    static func parse(_ bytes: UnsafeRawBufferPointer) -> Outcome {
        guard bytes.count >= 2 else {
            if let first = bytes.first, let failure = refuse(first: first) { return .refused(failure) }
            return .incomplete
        }
        let (first, second) = (bytes[0], bytes[1])
        guard first & 0x70 == 0, let opcode = WebSocketOpcode(rawValue: first & 0x0F) else {
            return .refused(refuse(first: first) ?? .unknownOpcode)
        }
        let isFinal = first & 0x80 != 0
        guard isFinal || !opcode.isControl else { return .refused(.fragmentedControl) }
        guard second & 0x80 != 0 else { return .refused(.unmasked) }
        let short = second & 0x7F
        guard short <= maxControl || !opcode.isControl else { return .refused(.longControl) }
        if short < 126 {
            guard bytes.count >= 6 else { return .incomplete }
            let key = bytes.loadUnaligned(fromByteOffset: 2, as: UInt32.self)
            return .header(
                WebSocketHeader(
                    opcode: opcode, isFinal: isFinal, length: Int(short), key: UInt32(littleEndian: key), size: 6))
        }
        return parseLong(bytes, opcode, isFinal, short)
    }

    /// A length of 16 or 64 bits.
    private static func parseLong(
        _ bytes: UnsafeRawBufferPointer, _ opcode: WebSocketOpcode, _ isFinal: Bool, _ short: UInt8
    ) -> Outcome {
        let wide = short == 126 ? 2 : 8
        guard bytes.count >= 2 + wide else { return .incomplete }
        let length: UInt64
        if wide == 2 {
            length = UInt64(UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
            guard length > 125 else { return .refused(.wastefulLength) }
        } else {
            length = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt64.self))
            guard length > 65_535 else { return .refused(.wastefulLength) }
            guard length <= UInt64(Int64.max) else { return .refused(.impossibleLength) }
        }
        guard bytes.count >= 6 + wide else { return .incomplete }
        let key = bytes.loadUnaligned(fromByteOffset: 2 + wide, as: UInt32.self)
        return .header(
            WebSocketHeader(
                opcode: opcode, isFinal: isFinal, length: Int(length), key: UInt32(littleEndian: key),
                size: 6 + wide))
    }

    private static func refuse(first: UInt8) -> WebSocketFailure? {
        if first & 0x70 != 0 { return .reservedBits }
        guard let opcode = WebSocketOpcode(rawValue: first & 0x0F) else { return .unknownOpcode }
        return opcode.isControl && first & 0x80 == 0 ? .fragmentedControl : nil
    }

    /// Writes the header of a frame of the server's, which is not masked. Room for ``maxServerSize`` suffices.
    /// - Returns: bytes written.
    @inline(__always)
    @discardableResult
    static func write(
        _ opcode: WebSocketOpcode, isFinal: Bool, length: Int, to place: UnsafeMutableRawPointer
    ) -> Int {
        place.storeBytes(of: opcode.rawValue | (isFinal ? 0x80 : 0), as: UInt8.self)
        if length < 126 {
            place.storeBytes(of: UInt8(truncatingIfNeeded: length), toByteOffset: 1, as: UInt8.self)
            return 2
        }
        if length <= 65_535 {
            place.storeBytes(of: 126, toByteOffset: 1, as: UInt8.self)
            place.storeBytes(of: UInt16(truncatingIfNeeded: length).bigEndian, toByteOffset: 2, as: UInt16.self)
            return 4
        }
        place.storeBytes(of: 127, toByteOffset: 1, as: UInt8.self)
        place.storeBytes(of: UInt64(length).bigEndian, toByteOffset: 2, as: UInt64.self)
        return 10
    }
}

/// The mask over a client's payloads (§5.3).
enum WebSocketMask {
    /// Copies `count` bytes and takes the mask off them.
    /// - Returns: the mask for the bytes that follow.
    @inline(__always)
    static func remove(
        _ key: UInt32, from source: UnsafeRawPointer, to target: UnsafeMutableRawPointer, _ count: Int
    ) -> UInt32 {
        let wide = UInt64(key) | UInt64(key) << 32
        var place = 0
        while place &+ 8 <= count {
            let word = source.loadUnaligned(fromByteOffset: place, as: UInt64.self) ^ wide.littleEndian
            target.storeBytes(of: word, toByteOffset: place, as: UInt64.self)
            place &+= 8
        }
        if place < count, count >= 8 {
            // The last eight once more, some of them for the second time, instead of up to seven one by one.
            place = count &- 8
            let ahead = UInt64(truncatingIfNeeded: place & 3 &* 8)
            let turned = ahead == 0 ? wide : wide &>> ahead | wide &<< (64 &- ahead)
            let word = source.loadUnaligned(fromByteOffset: place, as: UInt64.self) ^ turned.littleEndian
            target.storeBytes(of: word, toByteOffset: place, as: UInt64.self)
            place = count
        }
        while place < count {
            let mask = UInt8(truncatingIfNeeded: key >> UInt32(truncatingIfNeeded: place & 3 &* 8))
            target.storeBytes(
                of: source.load(fromByteOffset: place, as: UInt8.self) ^ mask, toByteOffset: place, as: UInt8.self)
            place &+= 1
        }
        let turned = UInt32(truncatingIfNeeded: count & 3 &* 8)
        return turned == 0 ? key : key >> turned | key << (32 &- turned)
    }
}

/// Text that comes in pieces, cut anywhere: whether it is UTF-8 (RFC 3629), noticed at the first byte that cannot be.
struct UTF8Check: BitwiseCopyable {
    /// Bytes that the character which has begun still needs.
    private var needed: UInt8 = 0
    /// The bounds of the next of them.
    private var lowest: UInt8 = 0x80
    private var highest: UInt8 = 0xBF

    /// Whether no character is incomplete.
    var isComplete: Bool { needed == 0 }

    /// Takes the next bytes.
    /// - Returns: whether the text can still become UTF-8.
    mutating func take(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var place = 0
        while place < bytes.count {
            if needed == 0 {
                while place &+ 8 <= bytes.count,
                    bytes.loadUnaligned(fromByteOffset: place, as: UInt64.self) & 0x8080_8080_8080_8080 == 0
                {
                    place &+= 8
                }
                guard place < bytes.count else { break }
            }
            let byte = bytes[place]
            place &+= 1
            if needed == 0 {
                guard begin(byte) else { return false }
            } else {
                guard byte >= lowest, byte <= highest else { return false }
                needed &-= 1
                (lowest, highest) = (0x80, 0xBF)
            }
        }
        return true
    }

    @inline(__always)
    private mutating func begin(_ byte: UInt8) -> Bool {
        switch byte {
        case 0..<0x80: return true
        case 0xC2...0xDF: needed = 1
        case 0xE0: (needed, lowest) = (2, 0xA0)
        case 0xED: (needed, highest) = (2, 0x9F)
        case 0xE1...0xEF: needed = 2
        case 0xF0: (needed, lowest) = (3, 0x90)
        case 0xF4: (needed, highest) = (3, 0x8F)
        case 0xF1...0xF3: needed = 3
        default: return false
        }
        return true
    }
}

extension WebSocketCode {
    /// The code of a close frame's payload: nil without one.
    /// - Throws: when the payload is not what it may be (§5.5.1, §7.4).
    static func parse(_ payload: UnsafeRawBufferPointer) throws(WebSocketFailure) -> WebSocketCode? {
        guard !payload.isEmpty else { return nil }
        guard payload.count >= 2 else { throw .badClose }
        let code = WebSocketCode(
            rawValue: UInt16(bigEndian: payload.loadUnaligned(fromByteOffset: 0, as: UInt16.self)))
        guard code.maySend else { throw .badClose }
        var check = UTF8Check()
        guard check.take(UnsafeRawBufferPointer(rebasing: payload[2...])), check.isComplete else { throw .notUTF8 }
        return code
    }

    /// How a peer is told why the inside conversation ends.
    init(_ reason: CloseReason) {
        switch reason {
        case .clientDisconnected: self = .normal
        case .connectionLost, .shutdown: self = .goingAway
        case .malformedPacket, .protocolError, .unsupportedVersion, .receiveMaximumExceeded, .topicAliasInvalid,
            .topicNameInvalid, .badAuthenticationMethod:
            self = .protocolError
        case .payloadFormatInvalid: self = .invalidData
        case .packetTooLarge: self = .messageTooBig
        case .connectTimeout, .keepAliveTimeout, .requestTimeout, .takenOver, .notAuthenticated, .badClientID,
            .slowReader, .administrative, .handshakeFailed, .proofEnded:
            self = .policyViolation
        case .overLimit, .overQuota: self = .tryAgainLater
        }
    }
}
