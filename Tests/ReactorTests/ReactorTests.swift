import Core
import Glibc
import Logging
import Testing

@testable import Reactor

/// The reactor over real sockets, with the line protocol. One after another: they count this process's descriptors.
@Suite(.serialized) struct ReactorTests {
    /// A running reactor with one listener.
    private final class Running {
        let reactor: Reactor
        let address: String
        let router: Router

        init(_ listen: String = "127.0.0.1:0", lanes: Int = 1, limits: Limits = Limits()) throws {
            reactor = try Reactor(
                lanes: lanes, limits: limits, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            router = Router(limits: limits, hashKey: 1)
            let listener = try Listener(try SocketAddress(listen), adapter: LineAdapter(router: router))
            reactor.listen(listener)
            address = listen.hasPrefix("unix:") ? listen : listener.address.description
        }

        deinit { reactor.stop(drainMilliseconds: 1_000) }

        func waitForConnections(_ count: Int) -> Bool {
            for _ in 0..<1_000 {
                if reactor.lanes.connectionCount == count { return true }
                usleep(10_000)
            }
            return false
        }
    }

    @Test(arguments: ["127.0.0.1:0", "[::1]:0", "unix:/tmp/apus-reactor-test.sock"])
    func eventsCrossSockets(_ listen: String) throws {
        let node: Running
        do { node = try Running(listen) } catch {
            // A machine without IPv6 has nothing to test there.
            if listen.hasPrefix("[") { return }
            throw error
        }
        let subscriber = try LineClient(node.address)
        subscriber.subscribe("plant/+/temp")
        let publisher = try LineClient(node.address)
        publisher.send("PUB plant/7/temp 21.5\nPUB other x\nPUB plant/8/temp\n")
        #expect(subscriber.line() == "EVT plant/7/temp 21.5")
        #expect(subscriber.line() == "EVT plant/8/temp ")
    }

    @Test func whatComesByteByByteIsTheSame() throws {
        let node = try Running()
        let client = try LineClient(node.address)
        client.subscribe("a")
        for byte in "PUB a hello\nPUB a world\n" {
            client.send(String(byte))
            usleep(500)
        }
        #expect(client.line() == "EVT a hello")
        #expect(client.line() == "EVT a world")
    }

    @Test func aSelfSubscriberSeesItsEventsInOrder() throws {
        let node = try Running()
        let client = try LineClient(node.address)
        client.subscribe("a")
        client.send((0..<20_000).map { "PUB a \($0)\n" }.joined())
        #expect((0..<20_000).allSatisfy { client.line() == "EVT a \($0)" })
    }

    @Test func orderIsKeptBetweenLanes() throws {
        let node = try Running(lanes: 2)
        let subscriber = try LineClient(node.address)
        subscriber.subscribe("a/#")
        let publisher = try LineClient(node.address)
        publisher.send((0..<20_000).map { "PUB a/\($0 % 7) \($0)\n" }.joined())
        #expect((0..<20_000).allSatisfy { subscriber.line() == "EVT a/\($0 % 7) \($0)" })
    }

    @Test func aBlockLargerThanEveryBuffer() throws {
        let node = try Running()
        let subscriber = try LineClient(node.address)
        subscriber.subscribe("a")
        let payload = String(repeating: "0123456789", count: 200_000)
        let publisher = try LineClient(node.address)
        publisher.send("PUB a \(payload)\nPUB a end\n")
        #expect(subscriber.line() == "EVT a \(payload)")
        #expect(subscriber.line() == "EVT a end")
    }

    @Test func aReaderThatNeverReadsCostsNobodyElse() throws {
        var limits = Limits()
        limits.maxOutputBytes = 1 << 18
        let node = try Running(limits: limits)
        let lazy = try LineClient(node.address)
        lazy.subscribe("flood")
        let other = try LineClient(node.address)
        other.subscribe("ping")
        let publisher = try LineClient(node.address)
        let block = (0..<1_000).map { "PUB flood \($0)-\(String(repeating: "x", count: 1_000))\n" }.joined()
        for round in 0..<30 {
            publisher.send(block + "PUB ping \(round)\n")
            #expect(other.line() == "EVT ping \(round)")
        }
        let counters = node.reactor.counters()
        #expect(counters.dropped[DropReason.outputFull.rawValue] > 1_000)
        #expect(counters.eventsIn == 30_030)
        // When it reads again it finds whole lines, then live events.
        for _ in 0..<200 { #expect(lazy.line()?.hasPrefix("EVT flood ") == true) }
    }

    @Test func connectionsThatAreCutLeaveNothing() throws {
        let node = try Running(lanes: 2)
        let before = Self.openDescriptors()
        for _ in 0..<2 {
            var clients: [LineClient] = []
            for number in 0..<500 {
                let client = try LineClient(node.address)
                client.send("SUB t/\(number)\nPUB t/\(number) x\n")
                clients.append(client)
            }
            for (number, client) in clients.enumerated() { #expect(client.line() == "EVT t/\(number) x") }
            clients.removeAll()
            #expect(node.waitForConnections(0))
        }
        #expect(node.router.subscriptionCount == 0)
        #expect(Self.openDescriptors() == before)
    }

    @Test func descriptorExhaustionIsSurvived() throws {
        let node = try Running()
        let early = try LineClient(node.address)
        early.subscribe("a")
        var old = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &old)
        var low = old
        low.rlim_cur = rlim_t(Self.openDescriptors() + 12)
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &low)
        var clients: [LineClient] = []
        while clients.count < 40, let client = try? LineClient(node.address) { clients.append(client) }
        // Who is in still works while others are turned away.
        early.send("PUB a still\n")
        #expect(early.line() == "EVT a still")
        clients.removeAll()
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &old)
        #expect(node.waitForConnections(1))
        let late = try LineClient(node.address)
        late.subscribe("b")
        late.send("PUB b again\n")
        #expect(late.line() == "EVT b again")
        #expect(node.reactor.counters().descriptorsExhausted > 0)
    }

    @Test func moreConnectionsThanTheLimitAreTurnedAway() throws {
        var limits = Limits()
        limits.maxConnections = 2
        let node = try Running(limits: limits)
        let clients = try (0..<2).map { _ in try LineClient(node.address) }
        for client in clients { client.subscribe("a") }
        #expect(try LineClient(node.address).line() == nil)
        #expect(node.reactor.counters().closed[CloseReason.overLimit.rawValue] == 1)
        clients[0].send("PUB a x\n")
        #expect(clients[1].line() == "EVT a x")
    }

    private static func openDescriptors() -> Int {
        guard let directory = opendir("/proc/self/fd") else { return 0 }
        defer { closedir(directory) }
        var count = 0
        while readdir(directory) != nil { count += 1 }
        return count
    }
}

@Suite struct TimerWheelTests {
    @Test func agreesWithAPlainList() {
        var random = SystemRandomNumberGenerator()
        var now: UInt64 = 1_000_000
        var wheel = TimerWheel(now: now)
        var known: [Int: UInt64] = [:]
        for _ in 0..<20_000 {
            let number = Int.random(in: 0..<200, using: &random)
            switch Int.random(in: 0..<4, using: &random) {
            case 0:
                wheel.cancel(number)
                known[number] = nil
            case 1:
                now += UInt64.random(in: 0..<5_000, using: &random)
                let due = Set(wheel.advance(to: now))
                for number in due {
                    #expect(known[number].map { $0 <= now } == true, "never early")
                    known[number] = nil
                }
                // A deadline is met at the latest one tick after it.
                #expect(known.values.allSatisfy { $0 + TimerWheel.tickMilliseconds > now })
            default:
                let deadline = now + UInt64.random(in: 0..<200_000, using: &random)
                wheel.set(number, deadline: deadline)
                known[number] = deadline
            }
            if known.isEmpty {
                #expect(wheel.wait(from: now) == nil)
            } else if let wait = wheel.wait(from: now) {
                // It may wake early, a turn of the wheel before a far deadline, but not late.
                #expect(UInt64(wait) + now <= (known.values.min() ?? 0) + 2 * TimerWheel.tickMilliseconds)
            } else {
                Issue.record("there is a deadline, and no wait")
            }
        }
    }
}
