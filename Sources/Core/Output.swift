/// Where a conversation's bytes go: a window of memory that is appended to, and what happens when it is full. The
/// reactor's connection, the WebSocket handler and the tests each have their own kind. Confined to its lane.
open class Output {
    /// The next free byte.
    public final var cursor: UnsafeMutableRawPointer
    /// The end of the free bytes. Equal to ``cursor`` when there is no window yet: the first append asks for one.
    public final var end: UnsafeMutableRawPointer

    /// Makes an output without a window.
    public init() {
        cursor = UnsafeMutableRawPointer(bitPattern: 16).unsafelyUnwrapped
        end = cursor
    }

    /// Takes bytes for which the window has no room.
    open func appendSlowly(_ bytes: UnsafeRawPointer, _ count: Int) {}

    /// Makes the window at least `count` (at most ``maxReservation``) bytes large.
    open func makeRoom(_ count: Int) {}

    /// Packets other than events appended since whoever owns the output last looked.
    public final var packets: UInt32 = 0

    /// Whether direct events should be dropped because the reader is too slow. Kept by the subclass.
    public final var isCongested = false

    /// The most bytes one ``reserve(_:)`` may ask for.
    public static let maxReservation = 16_384

    /// Appends bytes.
    @inlinable @inline(__always)
    public final func append(_ bytes: UnsafeRawPointer, _ count: Int) {
        if end - cursor >= count {
            cursor.copyMemory(from: bytes, byteCount: count)
            cursor += count
        } else {
            appendSlowly(bytes, count)
        }
    }

    /// At least `count` contiguous bytes to write into; the caller then moves ``cursor``.
    @inlinable @inline(__always)
    public final func reserve(_ count: Int) -> UnsafeMutableRawPointer {
        if end - cursor < count { makeRoom(count) }
        return cursor
    }
}
