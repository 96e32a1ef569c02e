import CProton
import Testing
import TestSupport

@testable import AMQP

/// The scanner and the guard between two ends that libqpid-proton makes.
@Suite struct FrameEngineTests {
    /// What the peer sent, frame by frame, behind the protocol header.
    private struct Line {
        var pending: [UInt8] = []
        var hasHeader = false
        var guardian = FrameGuard(channelMax: 255, handleMax: 1_023)
        var counts: [Frame.Performative: Int] = [:]
        var refused: [String] = []

        /// Takes bytes; what passes is returned.
        mutating func take(_ bytes: [UInt8], judged: Bool = true) -> [UInt8] {
            pending += bytes
            var passed: [UInt8] = []
            if !hasHeader, pending.count >= 8 {
                passed += pending[..<8]
                pending.removeFirst(8)
                hasHeader = true
            }
            while hasHeader {
                let scan = pending.withUnsafeBytes { FrameScanner(maxFrameBytes: 65_536).scan($0) }
                guard case .frame(let frame) = scan else {
                    if case .failure(let error) = scan {
                        refused.append(error.text)
                        pending = []
                    }
                    break
                }
                if let performative = frame.performative { counts[performative, default: 0] += 1 }
                let verdict = pending.withUnsafeBytes { bytes -> FrameGuard.Verdict in
                    guard judged, case .frame(let frame) = FrameScanner(maxFrameBytes: 65_536).scan(bytes) else {
                        return .pass
                    }
                    return guardian.admit(frame)
                }
                switch verdict {
                case .pass: passed += pending[..<frame.length]
                case .discard: break
                case .end(_, let error), .close(let error): refused.append(error.text)
                }
                pending.removeFirst(frame.length)
            }
            return passed
        }
    }

    /// Carries frames both ways until both ends are silent.
    private static func run(_ client: ScanPeer, _ server: ScanPeer, _ up: inout Line, _ down: inout Line) {
        while true {
            let sent = client.produce()
            let answered = server.produce()
            if sent.isEmpty, answered.isEmpty { return }
            server.take(up.take(sent))
            client.take(down.take(answered, judged: false))
        }
    }

    @Test(arguments: [512, 65_536]) func whatProtonSendsPasses(_ maxFrameBytes: Int) throws {
        let client = ScanPeer(isServer: false)
        let server = ScanPeer(isServer: true, maxFrameBytes: UInt32(maxFrameBytes))
        var (up, down) = (Line(), Line())
        let connection = client.connection
        pn_connection_open(connection)
        let sessions = (0..<3).map { _ in pn_session(connection) }
        for session in sessions { pn_session_open(session) }
        client.messagesToSend = 3_000
        server.messagesToSend = 500
        var links: [OpaquePointer?] = []
        for (number, session) in sessions.enumerated() {
            let sender = pn_sender(session, "up-\(number)")
            pn_terminus_set_address(pn_link_target(sender), "a/\(number)")
            pn_link_open(sender)
            let receiver = pn_receiver(session, "down-\(number)")
            let source = pn_link_source(receiver)
            pn_terminus_set_address(source, "b/#")
            pn_terminus_set_durability(source, PN_DELIVERIES)
            pn_terminus_set_expiry_policy(source, PN_EXPIRE_NEVER)
            let filter = pn_terminus_filter(source)
            pn_data_put_map(filter)
            pn_data_enter(filter)
            _ = "no-local".withCString { pn_data_put_symbol(filter, pn_bytes(8, $0)) }
            pn_data_put_described(filter)
            pn_data_enter(filter)
            pn_data_put_ulong(filter, 0x0000_468C_0000_0003)
            pn_data_put_list(filter)
            pn_data_exit(filter)
            pn_data_exit(filter)
            pn_link_open(receiver)
            pn_link_flow(receiver, 100)
            links += [sender, receiver]
        }
        Self.run(client, server, &up, &down)
        client.messageBytes = 5_000
        client.sendsSettled = true
        client.messagesToSend = 3_100
        for number in [1, 3, 5] { pn_link_drain(links[number], 20) }
        Self.run(client, server, &up, &down)
        pn_link_detach(links[0])
        for link in links[1...] { pn_link_close(link) }
        Self.run(client, server, &up, &down)
        for session in sessions { pn_session_close(session) }
        pn_connection_close(connection)
        Self.run(client, server, &up, &down)
        #expect(up.refused == [] && down.refused == [] && up.pending.isEmpty && down.pending.isEmpty)
        #expect(client.errors == [] && server.errors == [])
        #expect(server.received >= 3_000 && client.received == 500 && client.settled == 3_000)
        for performative in ScanFrames.all { #expect(up.counts[performative, default: 0] > 0, "\(performative)") }
    }

    /// Frames that are right in themselves and make little sense in their order: what the guard lets through is no
    /// reason for the engine to give the connection up.
    @Test func theEngineAcceptsWhatPasses() {
        var passed: [Frame.Performative: Int] = [:]
        var (ended, received) = (0, 0)
        for seed in 0..<300 {
            let server = ScanPeer(isServer: true)
            let seen = Self.play(ScanRandom(state: UInt64(seed)), to: server)
            passed.merge(seen.passed, uniquingKeysWith: +)
            ended += seen.ended
            received += server.received
        }
        for performative in ScanFrames.all where performative != .close {
            #expect(passed[performative, default: 0] >= 200, "\(performative)")
        }
        #expect(passed[.transfer, default: 0] > 3_000 && received > 1_000 && ended > 300)
    }

    private static func play(
        _ seed: ScanRandom, to server: ScanPeer
    ) -> (passed: [Frame.Performative: Int], ended: Int) {
        var random = seed
        server.messagesToSend = 50
        server.take(Array("AMQP".utf8) + [0, 1, 0, 0])
        var guardian = FrameGuard(channelMax: 255, handleMax: 1_023)
        var (begunSeen, ended) = (0, 0)
        var passed: [Frame.Performative: Int] = [:]
        for number in 0..<600 {
            let bytes = number == 0 ? ScanFrames.frame(.open, [.string("c")]) : random.frame()
            let verdict = bytes.withUnsafeBytes { bytes -> FrameGuard.Verdict in
                guard case .frame(let frame) = FrameScanner(maxFrameBytes: 65_536).scan(bytes) else {
                    Issue.record("\(ScanFrames.failure(Array(bytes))?.text ?? "incomplete")")
                    return .discard
                }
                let verdict = guardian.admit(frame)
                if case .pass = verdict, let performative = frame.performative {
                    passed[performative, default: 0] += 1
                    random.passed(frame)
                }
                return verdict
            }
            if case .pass = verdict { server.take(bytes) }
            server.handleEvents()
            while begunSeen < server.begun.count {
                guardian.begun(Engine.Session(pointer: server.begun[begunSeen]))
                begunSeen += 1
            }
            if case .end(let channel, _) = verdict {
                ended += 1
                random.ended(channel)
                guard let session = guardian.session(on: channel) else {
                    Issue.record("no session on channel \(channel)")
                    break
                }
                server.end(session.pointer)
            }
            _ = server.produce()
            #expect(server.errors == [], "\(bytes)")
            if case .close = verdict { break }
        }
        return (passed, ended)
    }

    @Test(arguments: [[0x53, 0x10], [0x80, 0, 0, 0, 0, 0, 0, 0, 0x10]] as [[UInt8]])
    func theEngineUnderstandsDescriptors(_ descriptor: [UInt8]) {
        let server = ScanPeer(isServer: true)
        server.take(Array("AMQP".utf8) + [0, 1, 0, 0])
        server.take(ScanFrames.frame([0] + descriptor + ScanValue.list([.string("c")]).bytes))
        server.take(ScanFrames.frame(.begin, [.null, .uint(0), .uint(0xFFFF_FFFF), .uint(0xFFFF_FFFF)]))
        _ = server.produce()
        #expect(server.begun.count == 1)
        #expect(server.errors == [])
    }

    /// Bytes of whole frames are changed: nothing is read outside, and what passes has a structure that holds.
    @Test func changedBytesNeverPassBroken() {
        var random = ScanRandom(state: 1)
        var passed = 0
        for round in 0..<60_000 {
            var bytes =
                round % 2 == 0
                ? random.frame()
                : ScanFrames.frame(ScanFrames.all[round / 2 % 9], ScanFrames.full(ScanFrames.all[round / 2 % 9]))
            for _ in 0..<random.below(4) { bytes[random.below(bytes.count)] = UInt8(random.below(256)) }
            bytes.withUnsafeBytes { bytes in
                guard case .frame(let frame) = FrameScanner(maxFrameBytes: 65_536).scan(bytes) else { return }
                passed += 1
                #expect(frame.length <= bytes.count && frame.performativeLength <= frame.body.count)
                guard frame.performative != nil else { return }
                var walker = ValueWalker(frame.body)
                #expect((try? walker.walk(at: 0)) == frame.performativeLength)
            }
        }
        #expect(passed > 20_000)
    }
}

/// Frames from a seed.
struct ScanRandom {
    var state: UInt64

    mutating func below(_ bound: Int) -> Int {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int(state >> 33) % bound
    }

    private mutating func uint(_ bound: Int) -> ScanValue { .uint(UInt32(below(bound))) }
    private mutating func maybe(_ value: ScanValue) -> ScanValue { below(3) == 0 ? .null : value }
    private mutating func boolean() -> ScanValue { [.null, .yes, .no][below(3)] }

    /// What has passed: links of each channel's session, by their handles; whether the peer receives.
    private var links: [UInt16: [UInt32: Bool]] = [:]
    /// The delivery-ids that may be right.
    private var next: [UInt16: Int] = [:]
    private var ended: Set<UInt16> = []

    init(state: UInt64) { self.state = state }

    mutating func passed(_ frame: Frame) {
        let (channel, fields) = (frame.channel, frame.fields)
        switch frame.performative {
        case .begin: links[channel] = [:]
        case .end:
            links[channel] = nil
            ended.remove(channel)
        case .attach: links[channel]?[fields.handle] = fields.said.contains(.receiver)
        case .detach: links[channel]?[fields.handle] = nil
        case .transfer where fields.said.contains(.id): next[channel] = Int(fields.id) + 1
        default: break
        }
    }

    mutating func ended(_ channel: UInt16) { ended.insert(channel) }

    /// Mostly one that is attached in the direction that fits.
    private mutating func handle(_ channel: UInt16, receives: Bool? = nil) -> ScanValue {
        let fitting = (links[channel] ?? [:]).filter { receives == nil || $0.value == receives }.keys.sorted()
        return fitting.isEmpty || below(50) == 0 ? uint(6) : .uint(fitting[below(fitting.count)])
    }

    private static let states: [ScanValue] = [
        .null, .described(0x23, .list([.uint(0), .ulong(0)])), .described(0x24, .list([])),
        .described(0x25, .list([])), .described(0x26, .list([])), .described(0x27, .list([.yes, .null, .map([])])),
        .described(0x99, .list([.uint(1)])),
        // Ends the session: there are no transactions.
        .described(0x34, .list([.binary([1]), .described(0x24, .list([]))])),
    ]

    private mutating func deliveryState() -> ScanValue { Self.states[below(100) == 0 ? 7 : below(7)] }

    /// On two channels, with few handles and names, so that they meet. What makes no sense is rare, so that much
    /// happens before it comes.
    mutating func frame() -> [UInt8] {
        let channel = UInt16(below(12) == 0 ? 1 : 0)
        let isBegun = links[channel] != nil
        if !isBegun || below(300) == 0 {
            return ScanFrames.frame(.begin, [.null, uint(9), uint(3_000), uint(3_000)], channel: channel)
        }
        if ended.contains(channel) ? below(5) == 0 : below(150) == 0 {
            return ScanFrames.frame(.end, [], channel: channel)
        }
        let performative: Frame.Performative
        let fields: [ScanValue]
        switch below(40) {
        case 0...3:
            performative = .attach
            fields = attach(channel)
        case 4: (performative, fields) = (.detach, [handle(channel), boolean()])
        case 5...12:
            performative = .flow
            let hasLink = below(3) > 0
            fields = [
                maybe(uint(9)), uint(100_000), uint(9), uint(9), hasLink ? handle(channel) : .null,
                hasLink ? uint(200) : .null, maybe(uint(1_000)), .null, boolean(), boolean(),
            ]
        case 13...19:
            performative = .disposition
            let first = below(10)
            fields = [
                [.yes, .no][below(2)], .uint(UInt32(first)), maybe(.uint(UInt32(first + below(9)))), boolean(),
                deliveryState(),
            ]
        default:
            performative = .transfer
            let id = below(100) == 0 ? below(50) : next[channel] ?? 0
            fields = [
                handle(channel, receives: false), .uint(UInt32(id)), maybe(.binary([1, 2])), .uint(0), boolean(),
                below(9) == 0 ? .yes : .no, .null, deliveryState(), .null, below(10) == 0 ? .yes : .null,
            ]
        }
        return ScanFrames.frame(
            performative, fields, channel: channel,
            payload: performative == .transfer ? [UInt8](repeating: 1, count: below(300)) : [])
    }

    private mutating func attach(_ channel: UInt16) -> [ScanValue] {
        let source = ScanValue.described(0x28, .list([.string("a")]))
        let target = ScanValue.described(0x29, .list([.string("a")]))
        let handle = UInt32(below(6))
        let free = (0..<6).first { links[channel]?[$0] == nil } ?? handle
        return [
            .string("l\(below(1_000))"), .uint(below(30) == 0 ? handle : free), [.yes, .no][below(2)], .null, .null,
            maybe(source), maybe(target), .null, .null, .uint(0),
        ]
    }
}
