import COpenSSL
import Glibc

/// What libssl reads from and writes to: bytes that lie in the lane's buffers for the length of a call, and those that
/// the socket did not take. Lives at one place in memory, which the BIO points to; confined to its lane.
struct TLSWire {
    /// Bytes received and not yet taken by libssl.
    var input: UnsafeRawPointer?
    var inputLeft = 0
    /// Where libssl writes to for the length of a call.
    var output: UnsafeMutableRawPointer?
    var outputRoom = 0
    var outputCount = 0
    /// Records that may begin before libssl gives data.
    var recordsLeft = 0
    /// What could not be sent: from malloc, nil for none.
    var kept: UnsafeMutableRawPointer?
    var keptStart = 0
    var keptEnd = 0
    var keptCapacity = 0

    /// Bytes that may be kept: a window, or the largest flight of a handshake.
    static let maxKept = 1 << 20
    /// Bytes of a record's header (RFC 8446 section 5.1).
    private static let headerBytes = 5

    /// Gives libssl bytes.
    mutating func read(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int {
        guard let from = input, inputLeft > 0 else { return 0 }
        let part = min(count, inputLeft)
        buffer.copyMemory(from: from, byteCount: part)
        input = from + part
        inputLeft -= part
        return part
    }

    /// Whether too many records have come without any data in them. libssl asks for headers and bodies in turn.
    mutating func isFlooded(asking count: Int) -> Bool {
        guard count == Self.headerBytes, inputLeft > 0 else { return false }
        recordsLeft -= 1
        return recordsLeft < 0
    }

    /// Takes bytes from libssl, behind what waits already.
    /// - Returns: false when too many wait.
    mutating func write(_ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
        if keptEnd == keptStart, let output, count <= outputRoom - outputCount {
            (output + outputCount).copyMemory(from: bytes, byteCount: count)
            outputCount += count
            return true
        }
        return keep(bytes, count)
    }

    /// Keeps bytes until the socket takes them.
    mutating func keep(_ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
        guard count > 0 else { return true }
        guard keptEnd - keptStart + count <= Self.maxKept else { return false }
        if keptCapacity - keptEnd < count { makeKeptRoom(count) }
        guard let kept else { return false }
        (kept + keptEnd).copyMemory(from: bytes, byteCount: count)
        keptEnd += count
        return true
    }

    /// Bytes that must go before those that are kept already.
    mutating func keepFirst(_ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
        guard let later = kept, keptEnd > keptStart else { return keep(bytes, count) }
        let (start, length) = (keptStart, keptEnd - keptStart)
        kept = nil
        (keptStart, keptEnd, keptCapacity) = (0, 0, 0)
        defer { later.deallocate() }
        return keep(bytes, count) && keep(later + start, length)
    }

    private mutating func makeKeptRoom(_ count: Int) {
        let length = keptEnd - keptStart
        // Little by little must not copy everything each time.
        let capacity = length == 0 ? count : max(length + count, length * 2)
        let other = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
        if let kept {
            other.copyMemory(from: kept + keptStart, byteCount: length)
            kept.deallocate()
        }
        kept = other
        (keptStart, keptEnd, keptCapacity) = (0, length, capacity)
    }

    /// The first bytes of what is kept have been sent.
    mutating func dropKept(_ count: Int) {
        keptStart += count
        if keptStart == keptEnd { releaseKept() }
    }

    mutating func releaseKept() {
        kept?.deallocate()
        kept = nil
        (keptStart, keptEnd, keptCapacity) = (0, 0, 0)
    }

    // MARK: BIO

    /// What libssl calls. One for each set of contexts, which outlives its sessions.
    static func makeMethod() -> OpaquePointer? {
        guard let method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | 0x70, "apus") else { return nil }
        BIO_meth_set_create(method) { bio in
            BIO_set_init(bio, 1)
            return 1
        }
        BIO_meth_set_read(method) { bio, buffer, count in
            guard let wire = TLSWire.wire(of: bio), let buffer, count > 0 else { return -1 }
            apus_bio_clear(bio)
            if wire.pointee.isFlooded(asking: Int(count)) { return -1 }
            let got = wire.pointee.read(buffer, Int(count))
            if got == 0 {
                apus_bio_want_read(bio)
                return -1
            }
            return Int32(got)
        }
        BIO_meth_set_write(method) { bio, bytes, count in
            guard let wire = TLSWire.wire(of: bio), let bytes, count >= 0 else { return -1 }
            apus_bio_clear(bio)
            return wire.pointee.write(bytes, Int(count)) ? count : -1
        }
        BIO_meth_set_ctrl(method) { _, command, _, _ in command == BIO_CTRL_FLUSH ? 1 : 0 }
        return method
    }

    private static func wire(of bio: OpaquePointer?) -> UnsafeMutablePointer<TLSWire>? {
        BIO_get_data(bio)?.assumingMemoryBound(to: TLSWire.self)
    }
}
