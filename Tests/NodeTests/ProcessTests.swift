import Glibc
import Node
import Testing

/// A datagram socket bound to `name`; a leading zero byte makes it abstract.
private struct Receiver: ~Copyable {
    let descriptor: Int32

    init(_ name: [UInt8]) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + name.count)
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
        }
        #expect(result == 0)
        var timeout = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    func receive() -> String {
        var buffer = [UInt8](repeating: 0, count: 1_024)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return String(decoding: buffer[..<max(0, count)], as: UTF8.self)
    }
}

@Suite("Service manager and signals", .serialized)
struct ProcessTests {
    @Test("The service manager hears every state, by path and by abstract socket")
    func notify() throws {
        let path = "/tmp/apus-notify-\(getpid())"
        defer { unlink(path) }
        for (name, bound) in [(path, Array(path.utf8) + [0]), ("@\(path)", [0] + Array(path.utf8))] {
            let receiver = try Receiver(bound)
            let manager = SystemdNotify(environment: ["NOTIFY_SOCKET": name])
            #expect(manager.isActive)
            try manager.send(.ready)
            #expect(receiver.receive() == "READY=1")
            try manager.send(.stopping)
            #expect(receiver.receive() == "STOPPING=1")
            try manager.send(.status("two\nlines"))
            #expect(receiver.receive() == "STATUS=two lines")
            try manager.send(.reloading)
            let reloading = receiver.receive().split(separator: "\n")
            #expect(reloading.first == "RELOADING=1")
            let time = try #require(reloading.last?.wholeMatch(of: /MONOTONIC_USEC=([0-9]+)/)?.output.1)
            var now = timespec()
            clock_gettime(CLOCK_MONOTONIC, &now)
            let sent = try #require(Int(time))
            #expect(abs(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000 - sent) < 5_000_000)
        }
    }

    @Test("Without a service manager nothing happens; with a wrong one it is said")
    func notifyNobody() throws {
        try SystemdNotify(environment: [:]).send(.ready)
        try SystemdNotify(environment: ["NOTIFY_SOCKET": ""]).send(.ready)
        for path in ["relative", "/nonexistent/socket", "/" + String(repeating: "x", count: 200)] {
            #expect(throws: SystemdNotify.Failure.self) {
                try SystemdNotify(environment: ["NOTIFY_SOCKET": path]).send(.ready)
            }
        }
    }

    @Test("Signals are waited for, each as its request")
    func signals() {
        // Directed at this thread, which alone has them blocked here.
        Signals.block()
        let table: [(Int32, Signals.Request)] = [
            (SIGTERM, .terminate), (SIGINT, .terminate), (SIGHUP, .reload), (SIGUSR1, .report), (SIGUSR2, .toggleDebug),
        ]
        for (signal, request) in table {
            pthread_kill(pthread_self(), signal)
            #expect(Signals.wait(seconds: 5) == request)
        }
        #expect(Signals.wait(seconds: 0) == nil)
    }
}
