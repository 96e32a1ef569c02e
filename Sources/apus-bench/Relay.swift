internal import Glibc

/// The kernel's price: a single-threaded epoll loop that copies bytes from socket to socket and understands
/// nothing. Every other broker's cost is quoted relative to it, so it must be as cheap as it can be made:
/// no allocation, no reference counting and no copy in user space on the way.
///
/// A connection says once who it is (`Hello`), then: bytes of a publisher go to all subscribers of its group.
final class Relay {
    /// The first bytes of a connection to a relay.
    enum Hello {
        static let size = 4
        static let acknowledgement: UInt8 = 0x4b

        static func encode(publisher: Bool, group: Int) -> [UInt8] {
            [0xa9, publisher ? 1 : 2, UInt8(truncatingIfNeeded: group), UInt8(truncatingIfNeeded: group >> 8)]
        }
    }

    private struct Connection {
        var fd: Int32
        /// -1 until the hello has arrived.
        var group: Int32
        var publisher: Bool
        /// Bytes the socket did not take.
        var pending: UnsafeMutablePointer<UInt8>?
        var pendingStart: Int
        var pendingEnd: Int
        var pendingCapacity: Int
    }

    private struct Group {
        var publishers = 0
        var outputs: UnsafeMutablePointer<Int32> = .allocate(capacity: Relay.maximumOutputs)
        var outputCount = 0
        /// What a pass has gathered from several publishers; nil while there is only one.
        var gathered: UnsafeMutablePointer<UInt8>?
        var gatheredCount = 0
        var dirty = false
    }

    private static let maximumOutputs = 256
    private static let maximumGroups = 1024
    private static let maximumDescriptors = 4096
    private static let readSize = 65536
    private static let gatherSize = 4 * 65536

    private let poll: Poll
    private let listener: Int32
    /// The port it listens on.
    let port: UInt16
    private let connections: UnsafeMutablePointer<Connection>
    private let groups: UnsafeMutablePointer<Group>
    private let dirty: UnsafeMutablePointer<Int32>
    private var dirtyCount = 0
    private let buffer: UnsafeMutablePointer<UInt8>

    init(port: UInt16) throws {
        poll = try Poll()
        (listener, self.port) = try Socket.listen(port: port)
        connections = .allocate(capacity: Self.maximumDescriptors)
        groups = .allocate(capacity: Self.maximumGroups)
        for index in 0..<Self.maximumGroups { (groups + index).initialize(to: Group()) }
        dirty = .allocate(capacity: Self.maximumGroups)
        buffer = .allocate(capacity: Self.readSize)
        try poll.add(listener, Poll.input, token: Int(listener))
    }

    /// Runs until the process is killed.
    func run() throws {
        while true {
            try poll.serve(listener, accept: accept, drain: drain, receive: receive)
            for index in 0..<dirtyCount { flush(Int(dirty[index])) }
            dirtyCount = 0
        }
    }

    private func accept() throws {
        while let fd = Socket.accept(listener) {
            guard Int(fd) < Self.maximumDescriptors else {
                close(fd)
                continue
            }
            (connections + Int(fd)).initialize(
                to: Connection(
                    fd: fd, group: -1, publisher: false, pending: nil, pendingStart: 0, pendingEnd: 0,
                    pendingCapacity: 0))
            try poll.add(fd, Poll.input, token: Int(fd))
        }
    }

    private func receive(_ fd: Int32) {
        let connection = connections + Int(fd)
        let number = Int(connection.pointee.group)
        guard number >= 0 else { return greet(fd) }
        let group = groups + number
        guard group.pointee.publishers > 1 else {
            let count = recv(fd, buffer, Self.readSize, 0)
            guard count > 0 else { return ended(fd, count) }
            // One publisher: its bytes are the pass's bytes, so they can leave from the buffer they arrived in.
            return send(group, buffer, count)
        }
        if group.pointee.gathered == nil { group.pointee.gathered = .allocate(capacity: Self.gatherSize) }
        guard let gathered = group.pointee.gathered else { return }
        if group.pointee.gatheredCount + Self.readSize > Self.gatherSize { flush(number, keepMark: true) }
        let count = recv(fd, gathered + group.pointee.gatheredCount, Self.readSize, 0)
        guard count > 0 else { return ended(fd, count) }
        group.pointee.gatheredCount += count
        if !group.pointee.dirty {
            group.pointee.dirty = true
            dirty[dirtyCount] = Int32(number)
            dirtyCount += 1
        }
    }

    private func flush(_ number: Int, keepMark: Bool = false) {
        let group = groups + number
        if !keepMark { group.pointee.dirty = false }
        guard let gathered = group.pointee.gathered, group.pointee.gatheredCount > 0 else { return }
        send(group, gathered, group.pointee.gatheredCount)
        group.pointee.gatheredCount = 0
    }

    @inline(__always)
    private func send(_ group: UnsafeMutablePointer<Group>, _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int) {
        for index in 0..<group.pointee.outputCount {
            let fd = group.pointee.outputs[index]
            let output = connections + Int(fd)
            var sent = 0
            if output.pointee.pendingStart == output.pointee.pendingEnd {
                sent = max(0, Glibc.send(fd, bytes, count, Int32(MSG_NOSIGNAL)))
                if sent == count { continue }
            }
            keep(output, bytes + sent, count - sent)
        }
    }

    /// The socket is full: remembers the rest and asks to be told when there is room again.
    private func keep(_ output: UnsafeMutablePointer<Connection>, _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int) {
        if output.pointee.pendingStart == output.pointee.pendingEnd {
            output.pointee.pendingStart = 0
            output.pointee.pendingEnd = 0
            poll.change(output.pointee.fd, Poll.input | Poll.output, token: Int(output.pointee.fd))
        }
        let needed = output.pointee.pendingEnd + count
        if needed > output.pointee.pendingCapacity {
            let capacity = max(needed * 2, 1 << 20)
            let larger = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
            if let old = output.pointee.pending {
                memcpy(larger, old, output.pointee.pendingEnd)
                old.deallocate()
            }
            output.pointee.pending = larger
            output.pointee.pendingCapacity = capacity
        }
        if let pending = output.pointee.pending { memcpy(pending + output.pointee.pendingEnd, bytes, count) }
        output.pointee.pendingEnd = needed
    }

    private func drain(_ fd: Int32) {
        let output = connections + Int(fd)
        guard let pending = output.pointee.pending else { return }
        let rest = output.pointee.pendingEnd - output.pointee.pendingStart
        let sent = Glibc.send(fd, pending + output.pointee.pendingStart, rest, Int32(MSG_NOSIGNAL))
        guard sent > 0 else { return }
        output.pointee.pendingStart += sent
        if sent == rest { poll.change(fd, Poll.input, token: Int(fd)) }
    }

    private func greet(_ fd: Int32) {
        let count = recv(fd, buffer, Hello.size, 0)
        guard count == Hello.size, buffer[0] == 0xa9 else { return ended(fd, count) }
        let number = Int(buffer[2]) | Int(buffer[3]) << 8
        guard number < Self.maximumGroups, groups[number].outputCount < Self.maximumOutputs else { return ended(fd, 0) }
        connections[Int(fd)].group = Int32(number)
        if buffer[1] == 1 {
            connections[Int(fd)].publisher = true
            groups[number].publishers += 1
        } else {
            groups[number].outputs[groups[number].outputCount] = fd
            groups[number].outputCount += 1
        }
        buffer[0] = Hello.acknowledgement
        _ = Glibc.send(fd, buffer, 1, Int32(MSG_NOSIGNAL))
    }

    private func ended(_ fd: Int32, _ result: Int) {
        if result < 0, errno == EAGAIN || errno == EINTR { return }
        let connection = connections[Int(fd)]
        if connection.group >= 0 {
            let group = groups + Int(connection.group)
            if connection.publisher { group.pointee.publishers -= 1 }
            for index in 0..<group.pointee.outputCount where group.pointee.outputs[index] == fd {
                group.pointee.outputCount -= 1
                group.pointee.outputs[index] = group.pointee.outputs[group.pointee.outputCount]
                break
            }
        }
        connection.pending?.deallocate()
        close(fd)
    }
}
