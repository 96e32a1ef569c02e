internal import Glibc

/// The kernel's price of one hop: carries each connection on to a port, both ways, and understands nothing. It stands
/// where a node would, and its cost is what moving the same bytes in the same portions takes. Single-threaded; nothing
/// is allocated on the way.
final class Pipe {
    /// One end of a connection that is carried.
    private struct End {
        /// -1 when there is none.
        var fd: Int32 = -1
        var other: Int32 = -1
        /// Bytes for this end that its socket did not take. While there are any nothing more is read from the other.
        var pending: UnsafeMutablePointer<UInt8>?
        var pendingStart = 0
        var pendingEnd = 0
    }

    private static let readSize = 65_536
    private static let maximumDescriptors = 4_096

    private let poll: Poll
    private let listener: Int32
    private let target: UInt16
    /// The port it listens on.
    let port: UInt16
    private let ends: UnsafeMutablePointer<End>
    private let buffer: UnsafeMutablePointer<UInt8>

    init(port: UInt16, to target: UInt16) throws {
        poll = try Poll()
        (listener, self.port) = try Socket.listen(port: port)
        self.target = target
        ends = .allocate(capacity: Self.maximumDescriptors)
        ends.initialize(repeating: End(), count: Self.maximumDescriptors)
        buffer = .allocate(capacity: Self.readSize)
        try poll.add(listener, Poll.input, token: Int(listener))
    }

    /// Runs until the process is killed.
    func run() throws -> Never {
        while true {
            try poll.serve(listener, accept: accept, drain: drain, receive: carry)
        }
    }

    private func accept() throws {
        while let fd = Socket.accept(listener) {
            // Whoever is not there yet will be dialled again.
            guard let further = try? Socket.connect(port: target) else {
                close(fd)
                continue
            }
            guard max(fd, further) < Self.maximumDescriptors else {
                close(fd)
                close(further)
                continue
            }
            ends[Int(fd)] = End(fd: fd, other: further)
            ends[Int(further)] = End(fd: further, other: fd)
            try poll.add(fd, Poll.input, token: Int(fd))
            try poll.add(further, Poll.input, token: Int(further))
        }
    }

    /// Takes what has come at one end to the other.
    private func carry(_ fd: Int32) {
        let end = ends + Int(fd)
        guard end.pointee.fd >= 0 else { return }
        let other = ends + Int(end.pointee.other)
        guard other.pointee.pendingStart == other.pointee.pendingEnd else { return }
        let count = recv(fd, buffer, Self.readSize, 0)
        guard count > 0 else {
            if count < 0, errno == EAGAIN || errno == EINTR { return }
            return finish(fd)
        }
        let sent = max(0, Glibc.send(other.pointee.fd, buffer, count, Int32(MSG_NOSIGNAL)))
        guard sent < count else { return }
        let pending = other.pointee.pending ?? .allocate(capacity: Self.readSize)
        memcpy(pending, buffer + sent, count - sent)
        other.pointee.pending = pending
        other.pointee.pendingStart = 0
        other.pointee.pendingEnd = count - sent
        watch(other)
        watch(end)
    }

    private func drain(_ fd: Int32) {
        let end = ends + Int(fd)
        guard end.pointee.fd >= 0, let pending = end.pointee.pending else { return }
        let rest = end.pointee.pendingEnd - end.pointee.pendingStart
        guard rest > 0 else { return }
        let sent = Glibc.send(fd, pending + end.pointee.pendingStart, rest, Int32(MSG_NOSIGNAL))
        guard sent > 0 else { return }
        end.pointee.pendingStart += sent
        guard sent == rest else { return }
        watch(end)
        watch(ends + Int(end.pointee.other))
    }

    /// Reads while the other end takes what is read; writes while something is left.
    private func watch(_ end: UnsafeMutablePointer<End>) {
        let other = ends + Int(end.pointee.other)
        let input = other.pointee.pendingStart == other.pointee.pendingEnd ? Poll.input : 0
        let output = end.pointee.pendingStart < end.pointee.pendingEnd ? Poll.output : 0
        poll.change(end.pointee.fd, input | output, token: Int(end.pointee.fd))
    }

    /// Closes both ends; what one of them still had to get is lost, as with a node that dies.
    private func finish(_ fd: Int32) {
        for number in [fd, ends[Int(fd)].other] {
            ends[Int(number)].pending?.deallocate()
            ends[Int(number)] = End()
            close(number)
        }
    }
}
