internal import Glibc

/// The packets that a client of the side traffic gets: each so small that its length is one byte.
final class SmallPackets {
    private let buffer: UnsafeMutablePointer<UInt8>
    private let room: Int
    /// Bytes of a packet that is not complete.
    private var carried = 0

    /// - Parameter room: bytes read at once.
    init(room: Int) {
        self.room = room
        buffer = .allocate(capacity: room)
    }

    deinit { buffer.deallocate() }

    /// Reads once and hands on what is complete.
    /// - Returns: how many packets that was; nil when the broker has closed the connection.
    func read(_ descriptor: Int32, _ take: (UnsafeMutablePointer<UInt8>, Int) throws -> Void) throws -> Int? {
        let got = recv(descriptor, buffer + carried, room - carried, 0)
        guard got > 0 else { return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : nil }
        let count = carried + got
        var packets = 0
        var at = 0
        while count - at >= 2 {
            let size = 2 + Int(buffer[at + 1])
            guard count - at >= size else { break }
            try take(buffer + at, size)
            packets += 1
            at += size
        }
        memmove(buffer, buffer + at, count - at)
        carried = count - at
        return packets
    }
}
