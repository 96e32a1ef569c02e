import Glibc

/// Bytes of a connection that were received and not yet taken: a packet that is not complete. It grows by doubling, and
/// only with bytes that have arrived; while there are none it holds no memory, unless they are being looked at in the
/// lane's buffer. Its owner releases it.
struct CarryBuffer {
    private var base: UnsafeMutableRawPointer?
    /// What is taken little by little is not moved each time.
    private var start = 0
    private(set) var count = 0
    private var capacity = 0

    /// The bytes; nil when there never were any.
    @inline(__always)
    var bytes: UnsafeMutableRawPointer? { base.map { $0 + start } }

    /// Copies the bytes to where more are going to follow them.
    @inline(__always)
    func copy(to buffer: UnsafeMutableRawPointer) {
        if count > 0, let bytes { buffer.copyMemory(from: bytes, byteCount: count) }
    }

    /// The bytes have been copied and are looked at there: what is left of them is ``keep(_:_:)``'s.
    @inline(__always)
    mutating func forgetBytes() {
        count = 0
        start = 0
    }

    /// Keeps bytes; there must be none.
    mutating func keep(_ bytes: UnsafeRawPointer, _ count: Int) {
        if isWasteful(count) { release() }
        reserve(count)
        base?.copyMemory(from: bytes, byteCount: count)
        self.count = count
    }

    /// Makes room behind the bytes.
    /// - Parameter more: bytes that there is to be room for at least.
    mutating func makeRoom(_ more: Int) -> UnsafeMutableRawBufferPointer {
        reserve(count + more)
        guard let base else { return UnsafeMutableRawBufferPointer(start: nil, count: 0) }
        return UnsafeMutableRawBufferPointer(start: base + count, count: capacity - count)
    }

    /// Bytes have been written to the room that was made.
    mutating func grow(_ more: Int) { count += more }

    /// Bytes at the beginning have been taken; some are left.
    mutating func drop(_ taken: Int) {
        start += taken
        count -= taken
        if isWasteful(count) { move(count) }
    }

    /// Hands the buffer over and leaves an empty one.
    mutating func take() -> CarryBuffer {
        let all = self
        self = CarryBuffer()
        return all
    }

    mutating func release() {
        base?.deallocate()
        self = CarryBuffer()
    }

    /// Makes the buffer at least `needed` bytes large, its bytes at the beginning.
    private mutating func reserve(_ needed: Int) {
        guard capacity < needed else {
            if start > 0, let base { memmove(base, base + start, count) }
            start = 0
            return
        }
        // Doubling, so that a packet of n bytes is copied log n times; never more than twice what has arrived.
        move(max(needed, min(capacity * 2, count * 2), 256))
    }

    private mutating func move(_ capacity: Int) {
        let other = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
        if let base {
            other.copyMemory(from: base + start, byteCount: count)
            base.deallocate()
        }
        base = other
        start = 0
        self.capacity = capacity
    }

    /// Whether most of a large buffer would be empty with so many bytes.
    private func isWasteful(_ count: Int) -> Bool { capacity > 4_096 && count * 4 < capacity }
}
