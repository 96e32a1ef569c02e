internal import CLinux
internal import Glibc

/// Opening a WebSocket for MQTT (RFC 6455 §4).
enum Upgrade {
    /// The key and its answer are those of the RFC: what is measured is not the handshake.
    static let request = Array(
        """
        GET /mqtt HTTP/1.1\r
        Host: 127.0.0.1\r
        Connection: Upgrade\r
        Upgrade: websocket\r
        Sec-WebSocket-Version: 13\r
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
        Sec-WebSocket-Protocol: mqtt\r
        \r

        """.utf8)

    /// Whether an answer's head says that the frames may begin.
    static func check(_ head: String) throws {
        guard head.hasPrefix("HTTP/1.1 101 "), head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") else {
            throw Failure("no WebSocket: \(head)")
        }
    }
}

/// Puts what a client sends into masked binary frames: one for each block that it hands over, of at most 65,535 bytes.
/// The mask is 0, which is legal and costs only the one who takes it off.
struct FrameWriter {
    /// Bytes of the header that have not left, and of the payload that it announces.
    private var headerRest = 0
    private var payloadRest = 0
    /// The header, its last byte last; shorter ones leave the beginning out.
    private var header: UInt64 = 0

    /// The most that one frame holds.
    static let largest = 65_535

    /// The header of a frame with `count` bytes, which are at most ``largest``.
    static func header(_ count: Int) -> [UInt8] {
        let length: [UInt8] = count < 126 ? [0x80 | UInt8(count)] : [0xFE, UInt8(count >> 8), UInt8(count & 0xff)]
        return [FrameReader.binary] + length + [0, 0, 0, 0]
    }

    /// Sends `count` bytes as far as the socket takes them. When it does not take all, the rest has to come first the
    /// next time.
    /// - Returns: how many it took, or -1 with `errno` when it took nothing.
    @inline(__always)
    mutating func send(_ fd: Int32, _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int) -> Int {
        var done = 0
        while done < count {
            if payloadRest == 0 { open(min(count - done, Self.largest)) }
            let wanted = min(payloadRest, count - done)
            let sent = put(fd, bytes + done, wanted)
            guard sent >= 0 else { return done > 0 ? done : -1 }
            let ofHeader = min(sent, headerRest)
            headerRest -= ofHeader
            payloadRest -= sent - ofHeader
            done += sent - ofHeader
            if headerRest > 0 || sent - ofHeader < wanted { break }
        }
        return done
    }

    @inline(__always)
    private mutating func open(_ count: Int) {
        payloadRest = count
        // Big-endian, seen as eight bytes: a byte or none, what a frame is, its length, the mask's four zeros.
        if count < 126 {
            header = (UInt64(FrameReader.binary) << 8 | UInt64(0x80 | count)) << 32
            headerRest = 6
        } else {
            header = (UInt64(FrameReader.binary) << 24 | 0xFE << 16 | UInt64(count)) << 32
            headerRest = 8
        }
        header = header.bigEndian
    }

    /// One system call for what is left of the header, and payload.
    @inline(__always)
    private mutating func put(_ fd: Int32, _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int) -> Int {
        guard headerRest > 0 else { return Glibc.send(fd, bytes, count, Int32(MSG_NOSIGNAL)) }
        let skipped = 8 - headerRest
        return withUnsafeMutableBytes(of: &header) { raw in
            withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { parts in
                parts[0] = iovec(iov_base: raw.baseAddress.map { $0 + skipped }, iov_len: 8 - skipped)
                parts[1] = iovec(iov_base: bytes, iov_len: count)
                var message = msghdr()
                message.msg_iov = parts.baseAddress
                message.msg_iovlen = 2
                return sendmsg(fd, &message, Int32(MSG_NOSIGNAL))
            }
        }
    }
}

/// Takes the frames apart that a node sends; they may be cut anywhere.
struct FrameReader {
    /// The only frames that a node should send here: whole binary messages. Pings were not asked for.
    static let binary: UInt8 = 0x82

    /// Bytes of the open frame that have not come.
    private var rest = 0
    /// Bytes of a header that have come, and how many of its length are to come.
    private var headerCount = 0
    private var lengthBytes = 0

    /// Moves the payload in what was read together to its beginning.
    /// - Returns: the bytes of payload, or -1 for a frame that should not be there.
    @inline(__always)
    mutating func unwrap(_ bytes: UnsafeMutablePointer<UInt8>, _ count: Int) -> Int {
        var at = 0
        var kept = 0
        while at < count {
            if rest > 0 && headerCount == 0 {
                let part = min(rest, count - at)
                memmove(bytes + kept, bytes + at, part)
                kept += part
                at += part
                rest -= part
            } else {
                guard take(bytes[at]) else { return -1 }
                at += 1
            }
        }
        return kept
    }

    /// A byte of a header.
    @inline(__always)
    private mutating func take(_ byte: UInt8) -> Bool {
        switch headerCount {
        case 0:
            guard byte == Self.binary else { return false }
            headerCount = 1
            return true
        case 1:
            // A server masks nothing, so the highest bit is not set.
            guard byte < 128 else { return false }
            lengthBytes = byte == 126 ? 2 : byte == 127 ? 8 : 0
            rest = lengthBytes == 0 ? Int(byte) : 0
            headerCount = lengthBytes == 0 ? 0 : 2
            return true
        default:
            guard rest < 1 << 32 else { return false }
            rest = rest << 8 | Int(byte)
            headerCount += 1
            if headerCount == 2 + lengthBytes { headerCount = 0 }
            return true
        }
    }
}
