/// Bytes on their way that the socket did not take, in the lane's buffers, in order. The lane gives the buffers and
/// takes them back; how many bytes there are in all counts the connection, which has others besides.
struct OutputQueue {
    private struct Chunk {
        var base: UnsafeMutableRawPointer
        var start: Int32
        var end: Int32
        var isLarge: Bool

        var room: Int { OutputBuffers.size(isLarge: isLarge) - Int(end) }
    }

    private var chunks: [Chunk] = []
    /// Chunks at the beginning that have been sent.
    private var sent = 0

    var isEmpty: Bool { chunks.isEmpty }

    /// Copies bytes behind the last ones, if they fit into their buffer: little by little must not cost a buffer each
    /// time.
    /// - Returns: whether they did.
    mutating func appendToLast(_ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
        guard let last = chunks.last, last.room >= count else { return false }
        (last.base + Int(last.end)).copyMemory(from: bytes, byteCount: count)
        chunks[chunks.count - 1].end += Int32(count)
        return true
    }

    /// Takes a buffer over.
    /// - Parameters:
    ///   - start: bytes of it that were sent already.
    ///   - end: bytes in it.
    mutating func append(_ base: UnsafeMutableRawPointer, from start: Int, to end: Int, isLarge: Bool) {
        chunks.append(Chunk(base: base, start: Int32(start), end: Int32(end), isLarge: isLarge))
    }

    /// The first bytes that lie together; nil when there are none.
    var first: UnsafeRawBufferPointer? {
        guard sent < chunks.count else { return nil }
        let chunk = chunks[sent]
        return UnsafeRawBufferPointer(start: chunk.base + Int(chunk.start), count: Int(chunk.end - chunk.start))
    }

    /// Some of ``first`` has gone, if not all of it.
    mutating func dropFirst(_ count: Int, to buffers: inout OutputBuffers) {
        chunks[sent].start += Int32(count)
        guard chunks[sent].start == chunks[sent].end else { return }
        buffers.give(chunks[sent].base, isLarge: chunks[sent].isLarge)
        sent += 1
    }

    /// Forgets what has gone; due after the last ``dropFirst(_:to:)`` of a time.
    mutating func settle() {
        chunks.removeFirst(sent)
        sent = 0
        if chunks.isEmpty { chunks = [] }
    }

    /// Nothing of it will be sent.
    mutating func release(to buffers: inout OutputBuffers) {
        for chunk in chunks[sent...] { buffers.give(chunk.base, isLarge: chunk.isLarge) }
        chunks = []
        sent = 0
    }
}
