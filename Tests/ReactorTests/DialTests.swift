import CLinux
import Core
import Glibc
import Synchronization
import Testing

@testable import Reactor

/// What callers have seen, in order.
private final class Diary: Sendable {
    private let entries = Mutex<[String]>([])

    func note(_ entry: String) { entries.withLock { $0.append(entry) } }
    var all: [String] { entries.withLock { $0 } }
}

/// Says a greeting, notes the lines it hears, and moves to the lane that `MOVE n` names.
private final class Caller: Conversation {
    private unowned let link: Link
    private let diary: Diary
    private let stays: Bool

    init(_ link: Link, _ lane: Lane, greeting: String, _ diary: Diary, stays: Bool = false) {
        self.link = link
        self.diary = diary
        self.stays = stays
        super.init()
        diary.note("connected on \(lane.number)\(link.isLocal ? " locally" : "")")
        say(greeting)
    }

    private func say(_ text: String) {
        Array(text.utf8).withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
    }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        guard let end = bytes.firstIndex(of: UInt8(ascii: "\n")) else {
            return Progress(consumed: 0, verdict: .waiting)
        }
        let line = String(decoding: bytes[..<end], as: UTF8.self)
        diary.note("\(line) on \(lane.number)")
        guard line.hasPrefix("MOVE "), let target = Int(line.dropFirst(5)) else {
            return Progress(consumed: end + 1, verdict: .routeFirst)
        }
        link.move(to: target) { conversation, lane in
            guard let caller = conversation as? Caller else { return }
            caller.say("moved to \(lane.number)\n")
            caller.link.resume()
        }
        return Progress(consumed: end + 1, verdict: .paused)
    }

    override func inputEnded(on lane: Lane) -> Bool {
        diary.note("input ended")
        return stays
    }

    override func close(_ reason: CloseReason, on lane: Lane) { diary.note("closed: \(reason)") }
}

/// A listening socket that nobody accepts on but the test.
private final class Door {
    let socket: Int32
    let address: SocketAddress

    init(backlog: Int32 = 16) throws {
        let any = try SocketAddress("127.0.0.1:0")
        let made = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        #expect(any.withSystemAddress { bind(made, $0, $1) } == 0 && listen(made, backlog) == 0)
        socket = made
        address = try #require(SocketAddress(socket: made, peer: false))
        var time = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { Glibc.close(socket) }

    func open() -> Int32 { accept(socket, nil, nil) }

    static func say(_ text: String, to guest: Int32) { Glibc.send(guest, text, text.utf8.count, Int32(MSG_NOSIGNAL)) }

    /// What a guest says next.
    static func hear(_ guest: Int32) -> String {
        var buffer = [UInt8](repeating: 0, count: 1_024)
        let count = recv(guest, &buffer, buffer.count, 0)
        return String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
    }
}

extension Stage {
    fileprivate func dial(
        _ address: String, on lane: Int = 0, timeout: UInt64 = 5_000, greeting: String = "", _ diary: Diary,
        stays: Bool = false
    ) {
        reactor.dial(
            address, on: lane, timeoutMilliseconds: timeout, adapterName: "caller",
            makeConversation: { Caller($0, $1, greeting: greeting, diary, stays: stays) },
            failed: { diary.note("failed: \($0)") })
    }
}

extension Sockets {
    @Suite("Outgoing connections")
    struct DialTests {
        @Test("A number, a Unix socket and a name are reached, and counted like any connection")
        func connects() throws {
            let path = "/tmp/apus-dial-\(getpid()).sock"
            for (listening, dialled) in [
                ("127.0.0.1:0", nil), ("[::1]:0", nil), ("unix:\(path)", nil), ("127.0.0.1:0", "localhost"),
            ] {
                let stage = try Stage(listening, lanes: 2)
                let subscriber = try Client(stage)
                try subscriber.subscribe("t")
                var address = stage.listener.address.description
                if let dialled { address = "\(dialled):\(address.split(separator: ":")[1])" }
                let diary = Diary()
                stage.dial(address, on: 1, greeting: "SUB x\nPUB t hello\n", diary)
                #expect(try subscriber.line() == "EVT t hello")
                #expect(eventually { diary.all == ["connected on 1 locally", "OK on 1"] }, "\(address): \(diary.all)")
                // Its own, the one accepted for it, and the subscriber's.
                #expect(stage.reactor.lanes.connectionCount == 3)
                let traffic = stage.reactor.statistics().flatMap(\.traffic)
                #expect(traffic.filter { $0.protocolName == "caller" }.reduce(0) { $0 + $1.connections } == 1)
                #expect(stage.reactor.counters().accepted == 2)
            }
        }

        @Test("Nobody there, nonsense, a name that is nobody's: the reason is told, once, and nothing is left behind")
        func failures() async {
            await #expect(processExitsWith: .success) {
                let stage = try Stage()
                try Client(stage).subscribe("warm/up")
                guard stage.isDeserted() else { exit(2) }
                var closed: Door? = try Door()
                let port = closed?.address.description ?? ""
                closed = nil
                let before = openDescriptors()
                for (address, reason) in [
                    (port, "failed: Connection refused"),
                    ("nonsense", "failed: nonsense: expected HOST:PORT"),
                    (":7400", "failed: expected a host and a port"),
                    ("127.0.0.1:0", "failed: expected a host and a port"),
                    ("unix:/nonexistent/x", "failed: No such file"),
                    ("no-such-node.invalid:7400", "failed: "),
                ] {
                    let diary = Diary()
                    stage.dial(address, timeout: 2_000, diary)
                    guard eventually({ !diary.all.isEmpty }), diary.all.count == 1, diary.all[0].hasPrefix(reason)
                    else {
                        print("\(address): \(diary.all)")
                        exit(3)
                    }
                }
                guard stage.reactor.lanes.connectionCount == 0 else { exit(4) }
                guard eventually({ openDescriptors().count == before.count }) else { exit(5) }
            }
        }

        @Test("Who does not answer is given up in time; the next address of a name has its share")
        func timeOut() throws {
            let stage = try Stage()
            // A backlog that is full drops what comes.
            let door = try Door(backlog: 0)
            var crowd: [Int32] = []
            defer { for guest in crowd { close(guest) } }
            for _ in 0..<8 {
                let guest = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue), 0)
                _ = door.address.withSystemAddress { connect(guest, $0, $1) }
                crowd.append(guest)
            }
            let (diary, clock) = (Diary(), ContinuousClock())
            let start = clock.now
            stage.dial(door.address.description, timeout: 400, diary)
            #expect(eventually { !diary.all.isEmpty })
            #expect(diary.all == ["failed: no answer in time"])
            #expect((.milliseconds(380)..<(.milliseconds(2_000))).contains(clock.now - start), "\(clock.now - start)")
            #expect(stage.reactor.lanes.connectionCount == 0)
        }

        @Test("Half open and cut: the conversation is told, and the connection is forgotten")
        func ends() throws {
            let stage = try Stage()
            let door = try Door()
            for (stays, isReset, expected) in [
                (false, false, ["input ended", "closed: connectionLost"]), (false, true, ["closed: connectionLost"]),
                (true, false, ["input ended"]),
            ] {
                let diary = Diary()
                stage.dial(door.address.description, greeting: "hello", diary, stays: stays)
                let guest = door.open()
                #expect(Door.hear(guest) == "hello")
                if isReset {
                    var linger = linger(l_onoff: 1, l_linger: 0)
                    setsockopt(guest, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<Glibc.linger>.size))
                    close(guest)
                } else {
                    shutdown(guest, Int32(SHUT_WR))
                }
                #expect(eventually { diary.all == ["connected on 0 locally"] + expected }, "\(diary.all)")
                #expect(eventually { stage.reactor.lanes.connectionCount == (stays ? 1 : 0) })
                if !isReset { close(guest) }
            }
        }

        @Test("A node that stops gives up what it is connecting to, and waits for none of it")
        func stopping() throws {
            let stage = try Stage(lanes: 2)
            let door = try Door(backlog: 0)
            var crowd: [Int32] = []
            defer { for guest in crowd { close(guest) } }
            for _ in 0..<8 {
                let guest = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue), 0)
                _ = door.address.withSystemAddress { connect(guest, $0, $1) }
                crowd.append(guest)
            }
            let (diary, clock) = (Diary(), ContinuousClock())
            stage.dial(door.address.description, on: 1, timeout: 60_000, diary)
            usleep(50_000)
            let start = clock.now
            stage.reactor.stop(drainMilliseconds: 5_000)
            #expect(clock.now - start < .seconds(2))
            #expect(diary.all == ["failed: the node is stopping"])
        }

        @Test("A connection that was dialled moves between lanes like one that was accepted")
        func moves() throws {
            let stage = try Stage(lanes: 3)
            let door = try Door()
            let diary = Diary()
            stage.dial(door.address.description, on: 2, greeting: "hello", diary)
            let guest = door.open()
            defer { close(guest) }
            #expect(Door.hear(guest) == "hello")
            for lane in [0, 1, 2] {
                Door.say("MOVE \(lane)\nagain\n", to: guest)
                #expect(Door.hear(guest) == "moved to \(lane)\n")
                #expect(eventually { diary.all.last == "again on \(lane)" }, "\(diary.all)")
            }
            #expect(stage.reactor.lanes.connectionCount == 1)
        }

        @Test("An adapter with a home has all its connections on that lane")
        func homeLane() throws {
            let diary = Diary()
            let stage = try Stage(lanes: 3) { _ in HomeAdapter(diary: diary) }
            let clients = try (0..<20).map { _ in try Client(stage) }
            for client in clients { try client.send("x\n") }
            #expect(eventually { diary.all.count == 40 })
            #expect(Set(diary.all) == ["connected on 1 locally", "x on 1"])
            #expect(stage.reactor.lanes.connectionCount == 20)
        }
    }

    @Suite("Queues in user space")
    struct UnsentTests {
        @Test("Who keeps a queue of its own is called for more until all is sent, whatever the reader's pace")
        func ownQueue() throws {
            for (isSlow, lowWater) in [(false, 0), (false, 65_536), (true, 0), (true, 65_536)] {
                let total = isSlow ? 3_000_000 : 20_000_000
                let stage = try Stage { _ in SourceAdapter(total: total, lowWater: lowWater) }
                let client = try Client(stage, receiveBuffer: isSlow ? 8_192 : 0)
                try client.send("go\n")
                #expect(try client.all(pausing: isSlow ? 50 : 0).count == total)
            }
        }

        @Test("With a low-water mark the system holds little of what a slow reader has not taken")
        func lowWater() throws {
            for (lowWater, range) in [(65_536, 0..<700_000), (0, 700_000..<20_000_000)] {
                let stage = try Stage { _ in SourceAdapter(total: 20_000_000, lowWater: lowWater) }
                let client = try Client(stage, receiveBuffer: 4_096)
                try client.send("go\n")
                usleep(300_000)
                // What went into the socket and has not been read: the rest waits in the conversation.
                let sent = stage.reactor.counters().socketBytesOut
                #expect(range.contains(Int(sent)), "\(sent) with \(lowWater)")
            }
        }
    }
}

/// Makes callers that say nothing, on lane 1.
private struct HomeAdapter: Adapter {
    let name = "home"
    let homeLane: Int? = 1
    let diary: Diary

    func makeConversation(link: Link, on lane: Lane) -> Conversation { Caller(link, lane, greeting: "", diary) }
}

/// Sends so many bytes to whoever says anything, at most 64 KiB at a time, and finishes.
private struct SourceAdapter: Adapter {
    let name = "source"
    let total: Int
    let lowWater: Int

    func makeConversation(link: Link, on lane: Lane) -> Conversation {
        if lowWater > 0 { link.setNotSentLowWater(lowWater) }
        return Source(link, total)
    }
}

private final class Source: Conversation {
    private static let block = [UInt8](repeating: 0x61, count: 7_000)
    private unowned let link: Link
    private var left: Int

    init(_ link: Link, _ total: Int) {
        self.link = link
        left = total
    }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        sendSome()
        return Progress(consumed: bytes.count, verdict: .waiting)
    }

    override func outputDrained(on lane: Lane) { sendSome() }

    private func sendSome() {
        while left > 0, link.unsentBytes < 65_536 {
            let count = min(left, Self.block.count)
            Self.block.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, count) } }
            left -= count
        }
        if left == 0 { link.finish(.administrative) }
    }
}
