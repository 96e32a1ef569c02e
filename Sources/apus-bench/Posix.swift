internal import CLinux
internal import Glibc

/// Something went wrong that the user must read; the text is complete.
struct Failure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }

    /// The failed system call with the reason the kernel gave.
    static func system(_ call: String) -> Failure {
        Failure("\(call): \(String(cString: strerror(errno)))")
    }
}

/// Monotonic time in nanoseconds.
@inline(__always)
func now() -> UInt64 {
    apus_monotonic_ns()
}

/// Sleeps at least the given number of milliseconds.
func pause(milliseconds: Int) {
    usleep(UInt32(milliseconds * 1000))
}

/// Writes one line to standard error.
func progress(_ line: String) {
    put(line + "\n", on: STDERR_FILENO)
}

/// Writes one line to standard output, at once.
func say(_ line: String) {
    put(line + "\n", on: STDOUT_FILENO)
}

private func put(_ text: String, on fd: Int32) {
    var text = text
    text.withUTF8 { _ = write(fd, $0.baseAddress, $0.count) }
}

/// Raises the soft limit of open descriptors to the hard one; children inherit it.
func raiseDescriptorLimit() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// TCP sockets on loopback, nothing more than the bench needs.
enum Socket {
    /// A non-blocking listener on 127.0.0.1; port 0 takes a free one.
    static func listen(port: UInt16) throws -> (fd: Int32, port: UInt16) {
        let fd = try stream()
        var yes: Int32 = 1
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        guard bindTo(fd, host: 0x7f00_0001, port: port) == 0 else { throw Failure.system("bind") }
        guard Glibc.listen(fd, 4096) == 0 else { throw Failure.system("listen") }
        setNonBlocking(fd)
        return (fd, try localPort(of: fd))
    }

    /// A port nobody listens on at this moment.
    static func freePort() throws -> UInt16 {
        let listener = try listen(port: 0)
        close(listener.fd)
        return listener.port
    }

    /// Connects to 127.0.0.1, from 127.0.0.`source`: ten thousand connections need more than one address when
    /// earlier ones still linger. The socket comes back non-blocking with Nagle's algorithm off.
    static func connect(port: UInt16, source: UInt32 = 1) throws -> Int32 {
        let fd = try stream()
        if source != 1 {
            var yes: Int32 = 1
            setsockopt(fd, Int32(IPPROTO_IP), IP_BIND_ADDRESS_NO_PORT, &yes, socklen_t(MemoryLayout<Int32>.size))
            guard bindTo(fd, host: 0x7f00_0000 + source, port: 0) == 0 else { throw Failure.system("bind") }
        }
        var address = loopback(host: 0x7f00_0001, port: port)
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            let failure = Failure.system("connect to port \(port)")
            close(fd)
            throw failure
        }
        setNoDelay(fd)
        setNonBlocking(fd)
        return fd
    }

    /// The next connection that waits at a listener, non-blocking and with Nagle's algorithm off; nil for none.
    @inline(__always)
    static func accept(_ listener: Int32) -> Int32? {
        let fd = accept4(listener, nil, nil, Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue))
        guard fd >= 0 else { return nil }
        setNoDelay(fd)
        return fd
    }

    static func setNonBlocking(_ fd: Int32) {
        _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)
    }

    static func setNoDelay(_ fd: Int32) {
        var yes: Int32 = 1
        setsockopt(fd, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
    }

    /// Closing will reset the connection instead of ending it politely: what a cut cable looks like.
    static func setHardClose(_ fd: Int32) {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    }

    private static func stream() throws -> Int32 {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard fd >= 0 else { throw Failure.system("socket") }
        return fd
    }

    private static func loopback(host: UInt32, port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = host.bigEndian
        return address
    }

    private static func bindTo(_ fd: Int32, host: UInt32, port: UInt16) -> Int32 {
        var address = loopback(host: host, port: port)
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }

    private static func localPort(of fd: Int32) throws -> UInt16 {
        var address = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(fd, $0, &length) }
        }
        guard result == 0 else { throw Failure.system("getsockname") }
        return UInt16(bigEndian: address.sin_port)
    }
}

/// One epoll instance and room for its events.
final class Poll {
    static let input: UInt32 = EPOLLIN.rawValue
    static let output: UInt32 = EPOLLOUT.rawValue

    let fd: Int32
    let events: UnsafeMutablePointer<epoll_event>
    let capacity: Int32 = 512

    init() throws {
        fd = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard fd >= 0 else { throw Failure.system("epoll_create1") }
        events = .allocate(capacity: Int(capacity))
    }

    deinit {
        close(fd)
        events.deallocate()
    }

    func add(_ descriptor: Int32, _ interest: UInt32, token: Int) throws {
        guard apus_epoll_set(fd, EPOLL_CTL_ADD, descriptor, interest, UInt64(token)) == 0 else {
            throw Failure.system("epoll_ctl")
        }
    }

    func change(_ descriptor: Int32, _ interest: UInt32, token: Int) {
        _ = apus_epoll_set(fd, EPOLL_CTL_MOD, descriptor, interest, UInt64(token))
    }

    /// The number of ready descriptors; 0 after the time-out or a signal.
    @inline(__always)
    func wait(milliseconds: Int32) -> Int {
        Int(max(0, epoll_wait(fd, events, capacity, milliseconds)))
    }

    /// Waits, and serves once what is ready; the tokens are the descriptors.
    /// - Parameters:
    ///   - accept: connections wait at the listener.
    ///   - drain: a socket takes more.
    ///   - receive: a socket has bytes, or has ended.
    @inline(__always)
    func serve(
        _ listener: Int32, accept: () throws -> Void, drain: (Int32) -> Void, receive: (Int32) -> Void
    ) rethrows {
        for index in 0..<wait(milliseconds: -1) {
            let fd = Int32(truncatingIfNeeded: token(index))
            if fd == listener {
                try accept()
                continue
            }
            let ready = ready(index)
            if ready & Self.output != 0 { drain(fd) }
            if ready & ~Self.output != 0 { receive(fd) }
        }
    }

    @inline(__always)
    func token(_ index: Int) -> Int {
        Int(apus_epoll_token(events + index))
    }

    @inline(__always)
    func ready(_ index: Int) -> UInt32 {
        apus_epoll_events(events + index)
    }
}

/// A reproducible sequence of numbers (SplitMix64): the same run everywhere.
struct Seeded: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
