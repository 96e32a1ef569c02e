import CLinux
import Core
import Foundation
import Glibc
import Synchronization
import TLS
import TestTLS
import Testing

@testable import Reactor

extension Sockets {
    @Suite("TLS")
    struct SecureTests {
        @Test("Lines to and fro", arguments: SocketSession.Version.allCases)
        func lines(version: SocketSession.Version) throws {
            let stage = try Stage(lanes: 2, door: SecureGround().door())
            let clients = try (0..<4).map { _ in try SecureClient(stage, version: version) }
            for client in clients {
                try client.send("SUB t\n")
                #expect(try client.line() == "OK")
            }
            let filler = String(repeating: "x", count: 20_000)
            for number in 0..<50 {
                try clients[number % 4].send("PUB t \(number) \(filler)\n")
                for client in clients { #expect(try client.line() == "EVT t \(number) \(filler)") }
            }
            try clients[0].send("QUIT\n")
            #expect(try clients[0].line() == nil, "a goodbye, not only an end")
            #expect(eventually { stage.closed(.clientDisconnected) == 1 })
        }

        @Test("Five megabytes for a slow reader arrive whole, then the end", arguments: [false, true])
        func slowReader(halfClosed: Bool) throws {
            let stage = try Stage(door: SecureGround().door(), adapter: { _ in BlockAdapter() })
            let client = try SecureClient(stage, receiveBuffer: 4_096)
            try client.send("F5000000\n")
            if halfClosed { client.finishWriting() }
            let received = try client.all(pausing: 100)
            #expect(FinishTests.isBlock(received, 5_000_000), "\(received.count) bytes")
            #expect(eventually { stage.closed(.administrative) == 1 })
        }

        @Test("A connection moves to and fro; what was sent behind the request is not lost")
        func moves() throws {
            let stage = try Stage(lanes: 3, door: SecureGround().door()) { _ in Nomad.Maker() }
            let client = try SecureClient(stage)
            for round in 1...300 {
                try client.send("M\(round % 3)\nW\nW\n")
                #expect(try client.lines(3) == Array(repeating: "\(round % 3)", count: 3))
            }
            try client.send((1...100).map { "M\($0 % 3)\n" }.joined())
            #expect(try client.lines(100) == (1...100).map { "\($0 % 3)" })
        }

        @Test("Half a handshake is ended in time, however it stopped")
        func halfHandshake() throws {
            let ground = try SecureGround()
            ground.settings.handshakeMilliseconds = 300
            let diary = AuditDiary()
            let stage = try Stage(door: ground.door(), audit: diary)
            let silent = try Client(stage)
            let half = try Client(stage)
            try half.send([22, 3, 1, 0, 200, 1, 0, 0])
            let start = apus_monotonic_ns()
            #expect(try half.all().isEmpty)
            #expect(try silent.all().isEmpty)
            let milliseconds = (apus_monotonic_ns() - start) / 1_000_000
            #expect((250..<1_500).contains(milliseconds))
            #expect(eventually { stage.closed(.handshakeFailed) == 2 })
            #expect(diary.reasons == Array(repeating: "the handshake took too long", count: 2))
        }

        @Test(
            "An idle connection costs less than 24 KiB, and nothing once it has gone",
            arguments: SocketSession.Version.allCases)
        func idleMemory(version: SocketSession.Version) async {
            await #expect(processExitsWith: .success) { [version] in
                // All threads' memory in one place, where it is counted.
                mallopt(M_ARENA_MAX, 1)
                let stage = try Stage(lanes: 2, door: SecureGround().door())
                var sockets: [Int32] = []
                func connect(_ count: Int) throws {
                    for _ in 0..<count {
                        let client = try SecureClient(stage, version: version)
                        try client.send("SUB t\n")
                        guard try client.line() == "OK" else { exit(2) }
                        // Only our end is to be measured.
                        sockets.append(dup(client.socket))
                    }
                    guard eventually({ stage.reactor.lanes.connectionCount == sockets.count }) else { exit(3) }
                    usleep(50_000)
                }
                try connect(200)
                let before = apus_heap_bytes()
                try connect(2_000)
                let each = (Int(apus_heap_bytes()) - Int(before)) / 2_000
                guard each < 24_576 else { exit(4) }
                for socket in sockets.dropFirst(200) { close(socket) }
                guard eventually({ stage.reactor.lanes.connectionCount == 200 }) else { exit(5) }
                usleep(50_000)
                let left = (Int(apus_heap_bytes()) - Int(before)) / 2_000
                guard left < 1_000 else { exit(6) }
            }
        }

        @Test("Who is refused is told why, counted and recorded; who says nothing is not")
        func refusals() throws {
            let ground = try SecureGround()
            ground.settings.peerAuthorities = ground.caPath
            ground.settings.clientCertificate = .required
            let diary = AuditDiary()
            var limits = Limits()
            limits.lingerMilliseconds = 300
            let stage = try Stage(limits: limits, door: ground.door(), audit: diary)
            do {
                let client = try SecureClient(stage)
                let failure = #expect(throws: SecureClient.Failure.self) { try client.line() }
                #expect(failure?.what == "read: tlsv13 alert certificate required")
            }
            #expect(eventually { stage.closed(.handshakeFailed) == 1 })
            let plain = try Client(stage)
            try plain.send("SUB t\n")
            let alert = try plain.all()
            #expect(alert.isEmpty, "who does not speak TLS would not understand an alert either")
            #expect(eventually { stage.closed(.handshakeFailed) == 2 })
            #expect(diary.reasons == ["peer did not return a certificate", "wrong version number"])
            #expect(diary.records.allSatisfy { $0.kind == .connection && $0.isRefusal && $0.object == "stage" })
            #expect(diary.records.allSatisfy { $0.peer.hasPrefix("127.0.0.1:") && $0.protocolName == "line" })
            for shutting in [true, false] {
                let probe = try Client(stage)
                if shutting { probe.finishWriting() }
            }
            #expect(eventually { stage.closed(.connectionLost) == 2 })
            let quitter = try Client(stage)
            try quitter.send([22, 3, 1])
            quitter.finishWriting()
            #expect(eventually { stage.closed(.handshakeFailed) == 3 })
            #expect(diary.reasons.last == "the peer ended the connection in the handshake")
            #expect(stage.isDeserted())
        }

        @Test("The connection knows whose it is, and ends within a second of the certificate's revocation")
        func revocation() throws {
            let ground = try SecureGround()
            ground.settings.peerAuthorities = ground.caPath
            ground.settings.clientCertificate = .optional
            ground.settings.user = "${cert.cn}"
            ground.settings.groups = ["g-${cert.cn}"]
            ground.settings.revocations = try ground.files.write(
                "crl.pem", ground.files.revocationList(of: ground.authority))
            let (bad, good) = (
                try ground.files.make("bad", issuer: ground.authority),
                try ground.files.make("good", issuer: ground.authority)
            )
            let (door, diary) = (try ground.door(), AuditDiary())
            let stage = try Stage(lanes: 2, door: door, audit: diary) { _ in IdentityAdapter() }
            let others = try (0..<100).map { try SecureClient(stage, certificate: $0 % 2 == 0 ? good : nil) }
            let client = try SecureClient(stage, certificate: bad)
            try client.send("?\n")
            #expect(try client.line() == "bad [g-bad] bad true stage")
            try others[1].send("?\n")
            #expect(try others[1].line() == "- [] - true stage")
            try ground.files.write("crl.pem", ground.files.revocationList(of: ground.authority, revoked: [bad]))
            try door.reload()
            let start = apus_monotonic_ns()
            stage.reactor.judgeCertificates()
            #expect(try client.line() == nil)
            #expect(apus_monotonic_ns() - start < 1_000_000_000)
            #expect(eventually { stage.closed(.proofEnded) == 1 })
            for other in others {
                try other.send("?\n")
                #expect(try other.line() != nil)
            }
            #expect(stage.reactor.lanes.connectionCount == 100)
            #expect(diary.records.map(\.user) == ["bad"])
            #expect(diary.reasons == ["the peer's certificate: certificate revoked"])
        }

        @Test("A chain of certificates that the socket does not take at once arrives", .timeLimit(.minutes(1)))
        func longChain() throws {
            let ground = try SecureGround()
            let pair = ground.settings.certificates[0]
            let chain = try (0..<60).map { try ground.files.makeAuthority("Link \($0)").pem }.joined()
            try ground.files.write("server.pem", String(contentsOfFile: pair.certificate, encoding: .utf8) + chain)
            let stage = try Stage(door: ground.door())
            // Accepted sockets have what the listener has.
            Listener.set(stage.listener.socket, SOL_SOCKET, SO_SNDBUF, 4_096)
            for version in SocketSession.Version.allCases {
                let client = try SecureClient(stage, version: version, receiveBuffer: 2_048)
                try client.send("SUB t\n")
                #expect(try client.line() == "OK")
            }
        }

        @Test("Who is revoked in the middle of the handshake does not stay", arguments: SocketSession.Version.allCases)
        func revocationInHandshake(version: SocketSession.Version) throws {
            let ground = try SecureGround()
            let bad = try ground.files.make("bad", issuer: ground.authority)
            ground.settings.peerAuthorities = ground.caPath
            ground.settings.clientCertificate = .required
            ground.settings.revocations = try ground.files.write(
                "crl.pem", ground.files.revocationList(of: ground.authority, revoked: []))
            let (door, diary) = (try ground.door(), AuditDiary())
            let stage = try Stage(door: door, audit: diary)
            let number: Int32 = version == .v12 ? 0x0303 : 0x0304
            let client = LibsslClient(.init(certificate: bad, versions: number...number))
            let wire = try Client(stage)
            try wire.send(client.takeOutput())
            var last: [UInt8] = []
            while version == .v12 ? last.isEmpty : !client.isOpen {
                client.take(try wire.receive(1))
                last += client.takeOutput()
            }
            try ground.files.write("crl.pem", ground.files.revocationList(of: ground.authority, revoked: [bad]))
            try door.reload()
            stage.reactor.judgeCertificates()
            usleep(100_000)
            try wire.send(last)
            #expect(eventually { stage.closed(.proofEnded) == 1 })
            #expect(diary.reasons == ["the peer's certificate: certificate revoked"])
        }

        @Test("A dialled connection says its first word at once, and it arrives after the handshake")
        func dialling() throws {
            let ground = try SecureGround()
            let stage = try Stage(lanes: 2, door: ground.door())
            let subscriber = try SecureClient(stage)
            try subscriber.send("SUB t\n")
            #expect(try subscriber.line() == "OK")
            let door = try ground.clientDoor()
            let diary = DialDiary()
            func dial(_ name: String?) {
                stage.reactor.dial(
                    stage.listener.address.description, on: 1, timeoutMilliseconds: 5_000, adapterName: "dialled",
                    door: door, serverName: name,
                    makeConversation: { link, _ in DialledWords(link, "PUB t hello\nSUB x\n", diary) },
                    failed: { diary.note("failed: \($0)") })
            }
            dial("server.example")
            #expect(try subscriber.line() == "EVT t hello")
            #expect(eventually { diary.notes == ["received OK\n server.example"] })
            dial("other.example")
            #expect(eventually { diary.notes.count == 2 })
            #expect(diary.notes.last == "closed handshakeFailed")
            dial(nil)
            #expect(try subscriber.line() == "EVT t hello")
        }

        @Test("Half a message of a handshake, while much waits to be sent, harms nobody")
        func halfMessage() async {
            await #expect(processExitsWith: .success) {
                let stage = try Stage(door: SecureGround().door()) { _ in BlockAdapter() }
                Listener.set(stage.listener.socket, SOL_SOCKET, SO_SNDBUF, 4_096)
                for isCompleted in [true, false] {
                    // Makes a long hello.
                    let name = String(repeating: "a-long-name.", count: 20) + "example"
                    let client = LibsslClient(
                        .init(versions: 0x0303...0x0303, serverName: name, suites: "ALL:@SECLEVEL=0"))
                    let wire = try Client(stage, receiveBuffer: 4_096)
                    var time = timeval(tv_sec: 1, tv_usec: 0)
                    setsockopt(wire.socket, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
                    while !client.isOpen {
                        try wire.send(client.takeOutput())
                        client.take(try wire.receive(1))
                    }
                    client.send(Array("W800000\n".utf8))
                    try wire.send(client.takeOutput())
                    usleep(100_000)
                    let records = client.renegotiate()
                    guard records.count > 1 else { exit(2) }
                    try wire.send(records[0])
                    usleep(100_000)
                    // What has been sealed comes; what has not waits for the rest of the message, without haste.
                    _ = try? wire.receive(1_000_000)
                    let passes = clock()
                    usleep(200_000)
                    guard clock() - passes < 100_000 else { exit(3) }
                    guard isCompleted else { continue }
                    for record in records.dropFirst() { try wire.send(record) }
                    guard try wire.receive(800_000).count == 800_000 else { exit(4) }
                }
                guard stage.isDeserted() else { exit(5) }
                let other = try SecureClient(stage)
                try other.send("F10\n")
                guard try other.all().count == 10 else { exit(6) }
            }
        }

        @Test("A storm of handshakes does not keep those who are there from being served")
        func storm() throws {
            let stage = try Stage(door: SecureGround(isRSA: true).door())
            let client = try SecureClient(stage)
            try client.send("SUB t\n")
            #expect(try client.line() == "OK")
            // All hellos at once; nobody takes the answers before the end.
            let hello = SocketSession.hello()
            let crowd = try (0..<300).map { _ in try Client(stage) }
            for one in crowd { try one.send(hello) }
            var slowest: UInt64 = 0
            for number in 0..<20 {
                let start = apus_monotonic_ns()
                try client.send("PUB t \(number)\n")
                #expect(try client.line() == "EVT t \(number)")
                slowest = max(slowest, apus_monotonic_ns() - start)
            }
            #expect(slowest < 250_000_000)
            for one in crowd { #expect(try one.receive(5)[0] == 22, "everybody has the server's hello") }
        }

        @Test("A thousand connections end in all ways there are, and nothing is left of them")
        func manyEnds() async {
            await #expect(processExitsWith: .success) {
                var limits = Limits()
                limits.lingerMilliseconds = 300
                let stage = try Stage(lanes: 2, limits: limits, door: SecureGround().door()) { _ in BlockAdapter() }
                let before = Sockets.openDescriptors().count
                for batch in 0..<10 {
                    let clients = try (0..<100).map {
                        try SecureClient(stage, version: $0 % 2 == 0 ? .v12 : .v13)
                    }
                    for (number, client) in clients.enumerated() {
                        try client.send(number % 3 == 0 ? "F100000\nF10\n" : number % 3 == 1 ? "S\nF100\n" : "N\n")
                        switch (number + batch) % 4 {
                        case 0: client.finishWriting()
                        case 1: shutdown(client.socket, Int32(SHUT_WR))
                        case 2: if number % 3 != 2 { guard try client.all().count > 0 else { exit(2) } }
                        default: break
                        }
                    }
                }
                guard eventually({ stage.reactor.counters().accepted == 1_000 }), stage.isDeserted() else { exit(3) }
                guard eventually({ Sockets.openDescriptors().count == before }) else { exit(4) }
            }
        }

        @Test("An end without a goodbye is no end of input: somebody may have cut the connection")
        func truncation() throws {
            let stage = try Stage(door: SecureGround().door()) { _ in BlockAdapter() }
            let (polite, cut) = (try SecureClient(stage), try SecureClient(stage))
            for client in [polite, cut] { try client.send("S\nW3\n") }
            #expect(try polite.receive(3).count == 3 && cut.receive(3).count == 3)
            polite.finishWriting()
            // One that stays says its word a moment later and ends.
            #expect(try polite.all() == Array("bye".utf8))
            shutdown(cut.socket, Int32(SHUT_WR))
            #expect(eventually { stage.closed(.connectionLost) == 1 })
            #expect(stage.closed(.administrative) == 1)
        }
    }
}

/// Answers every line with what the transport knows of the peer.
private struct IdentityAdapter: Adapter {
    let name = "identity"
    func makeConversation(link: Link, on lane: Lane) -> Conversation { Identities(link) }
}

private final class Identities: Conversation {
    private unowned let link: Link

    init(_ link: Link) { self.link = link }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        let name = link.certificate?.commonName ?? "-"
        let groups = link.provenGroups.joined(separator: " ")
        let text = "\(link.provenUser ?? "-") [\(groups)] \(name) \(link.isEncrypted) \(link.listenerName)\n"
        Array(text.utf8).withUnsafeBytes { link.append($0.baseAddress!, $0.count) }
        return Progress(consumed: bytes.count, verdict: .waiting)
    }
}

/// Notes of what happened to dialled connections.
private final class DialDiary: Sendable {
    private let all = Mutex<[String]>([])
    func note(_ text: String) { all.withLock { $0.append(text) } }
    var notes: [String] { all.withLock { $0 } }
}

/// Says its words as soon as it is made.
private final class DialledWords: Conversation {
    private unowned let link: Link
    private let diary: DialDiary

    init(_ link: Link, _ words: String, _ diary: DialDiary) {
        self.link = link
        self.diary = diary
        super.init()
        Array(words.utf8).withUnsafeBytes { link.append($0.baseAddress!, $0.count) }
    }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        let name = link.certificate?.commonName ?? "-"
        diary.note("received \(String(decoding: bytes, as: UTF8.self)) \(name)")
        return Progress(consumed: bytes.count, verdict: .waiting)
    }

    override func close(_ reason: CloseReason, on lane: Lane) {
        if reason != .shutdown { diary.note("closed \(reason)") }
    }
}
