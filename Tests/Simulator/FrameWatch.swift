import Core

@testable import Mesh

/// Reads what one side of a connection sends, frame by frame, as the neighbour does.
final class FrameWatch {
    private var bytes: [UInt8] = []
    private var first = 0
    private var purpose: Initiation.Purpose?

    /// Takes bytes and calls `body` with every complete frame of events, as it lies on the wire.
    func take(_ new: UnsafeRawBufferPointer, _ body: (DataFrame) -> Void) {
        if purpose == .control { return }
        bytes += new
        bytes.withUnsafeBytes { all in
            while all.count - first >= FrameHeader.size, let base = all.baseAddress {
                let header = FrameHeader(base + first)
                guard header.length >= FrameHeader.size, all.count - first >= header.length else { break }
                let frame = UnsafeRawBufferPointer(start: base + first, count: header.length)
                first += header.length
                if purpose == nil, header.type == FrameType.initiate.rawValue {
                    purpose = Initiation(UnsafeRawBufferPointer(rebasing: frame[FrameHeader.size...]))?.purpose
                    if purpose == .control { break }
                }
                guard header.type == FrameType.data.rawValue || header.type == FrameType.streamData.rawValue else {
                    continue
                }
                if let data = DataFrame(frame) { body(data) }
            }
        }
        if first > 1 << 16 || first == bytes.count {
            bytes.removeFirst(first)
            first = 0
        }
    }
}

/// The oracles of forwarding: conservation (I1), one crossing (I2), bounded transmissions (I3). They see every frame
/// with events that a station sends.
final class FrameOracle {
    /// One destination's part of one frame: nobody else's looks the same.
    private struct Copy: Hashable {
        var origin: UInt16
        var lane: UInt8
        var shortID: UInt16
        var counter: UInt32
        var originEpoch: UInt64
    }
    private struct Held: Hashable {
        var copy: Copy
        var station: Int
    }
    private struct Account {
        /// How often it came in; what a station publishes comes in once.
        var received = 0
        var sent = 0
        /// Sockets that the station had seen end when it sent the copy for the first time.
        var endsBefore = 0
        var timeToLive = 0
    }
    private struct Crossing: Hashable {
        var message: Int
        var from: Int
        var to: Int
    }

    unowned let observer: Observer
    unowned let world: World
    private var accounts: [Held: Account] = [:]
    private var crossings: [Crossing: (count: Int, last: UInt64)] = [:]
    /// When the origin sent a message of a stream.
    private var streamed: [Int: UInt64] = [:]
    /// Origin, destination and counter of what origins have sent of streams.
    private var copies: Set<UInt64> = []
    private var resent: Set<Int> = []
    private(set) var frames = 0
    /// A message whose frames are printed.
    var traced: Int?

    init(_ observer: Observer, _ world: World) {
        self.observer = observer
        self.world = world
    }

    func sent(_ frame: DataFrame, from: Int, to: Int, origin: Int?) {
        frames += 1
        conserve(frame, from, to, origin)
        guard let message = message(of: frame) else { return }
        if frame.header.type == FrameType.streamData.rawValue, origin == from { noteStream(frame, message) }
        if message == traced {
            let destinations = (0..<frame.destinationCount).map { frame.destination($0) }
            print(
                "\(world.now) us: message \(message) n\(from)-n\(to), type \(frame.header.type), lane "
                    + "\(frame.header.lane), flags \(frame.header.flags), to "
                    + destinations.map { "\($0.shortID)#\($0.counter)" }.joined(separator: " "))
        }
        let key = Crossing(message: message, from: from, to: to)
        crossings[key] = (count: (crossings[key]?.count ?? 0) + 1, last: world.now)
    }

    /// The message that a frame begins with; nil when it is a part of one, or a share that travels alone.
    private func message(of frame: DataFrame) -> Int? {
        guard let flags = frame.sealed.first, flags & EventContent.partFlag == 0,
            let content = EventContent(frame.sealed), content.shares.isEmpty, content.payloads.count >= 4 + Payload.size
        else { return nil }
        return Payload.number(UnsafeRawBufferPointer(rebasing: content.payloads[4..<4 + Payload.size]), isHead: true)
    }

    /// A stream sends again what it has heard nothing of, and later to destinations whose windows were full: neither is
    /// a second crossing of the same transmission.
    private func noteStream(_ frame: DataFrame, _ message: Int) {
        for index in 0..<frame.destinationCount {
            let destination = frame.destination(index)
            let copy =
                UInt64(frame.originID) << 48 | UInt64(destination.shortID) << 32 | UInt64(destination.counter)
            if !copies.insert(copy).inserted { resent.insert(message) }
        }
        if streamed.updateValue(world.now, forKey: message) ?? world.now != world.now { resent.insert(message) }
    }

    private func conserve(_ frame: DataFrame, _ from: Int, _ to: Int, _ origin: Int?) {
        // A stream sends again what was not acknowledged, so only direct frames are conserved.
        guard frame.header.type == FrameType.data.rawValue else { return }
        let ends = world.stations[from].endCount
        for index in 0..<frame.destinationCount {
            let destination = frame.destination(index)
            let copy = Copy(
                origin: frame.originID, lane: frame.header.lane, shortID: destination.shortID,
                counter: destination.counter, originEpoch: frame.originEpoch)
            let held = Held(copy: copy, station: from)
            var account = accounts[held] ?? Account(received: 0, endsBefore: ends, timeToLive: 256)
            if account.sent == 0 { account.endsBefore = ends }
            account.sent += 1
            let mayHaveSent = account.received + (origin == from ? 1 : 0) + ends - account.endsBefore
            if account.sent > max(mayHaveSent, 0) {
                observer.violate(
                    "I1",
                    "n\(from) sends copy \(copy) for the \(account.sent). time to n\(to), having had it "
                        + "\(mayHaveSent) times")
            }
            if Int(frame.header.timeToLive) >= account.timeToLive {
                observer.violate("I3", "n\(from) sends copy \(copy) with a time to live that has not become less")
            }
            accounts[held] = account
            accounts[Held(copy: copy, station: to), default: Account(endsBefore: 0, timeToLive: 0)].received += 1
            let there = accounts[Held(copy: copy, station: to)]?.timeToLive ?? 0
            accounts[Held(copy: copy, station: to)]?.timeToLive = max(there, Int(frame.header.timeToLive))
        }
    }

    /// I2: in calm times an event crosses a link at most once.
    func judgeCrossings() {
        let inOrder = crossings.sorted {
            ($0.key.message, $0.key.from, $0.key.to) < ($1.key.message, $1.key.from, $1.key.to)
        }
        for (crossing, (count, last)) in inOrder where count > 1 && !resent.contains(crossing.message) {
            let message = observer.ledger.messages[crossing.message]
            guard observer.isCalm(message.at - min(message.at, Observer.propagation), last) else { continue }
            observer.violate(
                "I2",
                "message \(observer.describe(crossing.message)) crossed n\(crossing.from)-n\(crossing.to) "
                    + "\(count) times"
            )
        }
    }
}
