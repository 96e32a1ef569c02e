import CLinux
import Core
import Glibc
import Testing

@testable import Reactor

extension Sockets {
    /// In processes of their own: the other tests open and close descriptors too.
    @Suite("Descriptors")
    struct DescriptorTests {
        @Test("A thousand connections opened and cut leave nothing behind")
        func thousandConnections() async {
            await #expect(processExitsWith: .success) {
                let stage = try Stage(lanes: 2)
                try Client(stage).subscribe("warm/up")
                guard stage.isDeserted() else { exit(2) }
                let before = openDescriptors()
                for batch in 0..<10 {
                    let clients = try (0..<100).map { _ in try Client(stage) }
                    for (number, client) in clients.enumerated() {
                        // Some are cut before they were accepted, some in the middle of a packet, some politely.
                        switch (number + batch) % 5 {
                        case 0: client.willReset()
                        case 1: try client.subscribe("a/\(number)")
                        case 2:
                            try client.send("SUB a/b\nPUB a/b x\nPUB a/")
                            client.willReset()
                        case 3: try client.send("PUB a/b to many\nQUIT\n")
                        default: try client.send("SUB a/+\n")
                        }
                    }
                }
                guard stage.isDeserted() else { exit(3) }
                guard eventually({ stage.router.subscriptionCount == 0 }) else { exit(4) }
                guard eventually({ openDescriptors().count == before.count }) else {
                    // For whoever reads the log of a failure.
                    print("open: \(openDescriptors())\nbefore: \(before)")
                    exit(5)
                }
                guard stage.reactor.counters().accepted == 1_001 else { exit(6) }
            }
        }

        @Test("Without a descriptor left, who is connected is served, and others again as soon as one is free")
        func exhaustion() async {
            await #expect(processExitsWith: .success) {
                let stage = try Stage()
                let early = try Client(stage)
                try early.subscribe("a")
                var waiting: [Int32] = []
                for _ in 0..<40 { waiting.append(socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)) }
                var limit = rlimit()
                getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                let usual = limit.rlim_cur
                limit.rlim_cur = rlim_t(waiting.max()! + 11)
                setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                for socket in waiting {
                    let status = stage.listener.address.withSystemAddress { connect(socket, $0, $1) }
                    guard status == 0 else { exit(2) }
                }
                for round in 0..<20 {
                    try early.send("PUB a \(round)\n")
                    guard try early.line() == "EVT a \(round)" else { exit(3) }
                    usleep(10_000)
                }
                guard stage.reactor.lanes.connectionCount < 20 else { exit(4) }
                for socket in waiting.prefix(20) { close(socket) }
                guard eventually({ stage.reactor.lanes.connectionCount > 5 }) else { exit(5) }
                for socket in waiting.dropFirst(20) { close(socket) }
                guard eventually({ stage.reactor.lanes.connectionCount == 1 }) else { exit(6) }
                let late = try Client(stage)
                try late.subscribe("b")
                limit.rlim_cur = usual
                setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
                guard stage.reactor.counters().descriptorsExhausted > 0 else { exit(7) }
            }
        }
    }

    /// What each open descriptor is, in the words of `/proc`.
    static func openDescriptors() -> [String] {
        guard let folder = opendir("/proc/self/fd") else { return [] }
        defer { closedir(folder) }
        var found: [String] = []
        while let entry = readdir(folder) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            var target = [CChar](repeating: 0, count: 256)
            let count = readlink("/proc/self/fd/\(name)", &target, target.count)
            guard count > 0 else { continue }
            found.append(String(decoding: target.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self))
        }
        return found
    }
}
