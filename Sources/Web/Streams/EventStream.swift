import Core

/// Server-Sent Events (WHATWG HTML §9.2), `GET /events`.
enum EventStreams {
    /// Opens a stream, or sends the connection to the lane where it goes on.
    static func open(
        _ request: HTTPRequest, _ principal: Principal, _ web: WebLane, _ connection: HTTPConversation, _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        guard request.method == .get else { throw .onlyGet }
        let wanted = try StreamRequest.stream(request, lane.limits)
        return try Reception(wanted, principal, until: Visitor.end(of: connection), web.context).begin(
            connection, on: lane)
    }
}

/// One stream of a channel. Idle it is these few words, and a timer.
final class EventStream: HTTPStream {
    /// The connection outlives its stream.
    unowned(unsafe) let link: Link
    let channel: EventChannel
    let format: StreamFormat
    /// Whether it has everything, and gets what comes as it comes. Kept by the channel, like ``place``.
    var isLive = false
    /// Its place in the channel's list; -1 when it is in none.
    var place = -1
    /// The last event it was sent; behind the channel's while it is not live, and unknown while it is.
    var position: UInt64
    /// When something other than a live event was last sent, in the lane's milliseconds.
    private var lastSent: UInt64
    /// When the proof of who reads it ends; `max` for never.
    private let endsAt: UInt64
    /// Retained events that come first. What comes meanwhile waits in the window, so that no id is sent before all of
    /// them have been: whoever is cut off among them gets them again.
    private var retained: RetainedDelivery?

    /// What becomes of a portion of what a stream lacks.
    enum Progress {
        /// It has everything.
        case done
        /// The budget is used up.
        case more
        /// The reader has not read what it was sent.
        case blocked
        /// And what it needs next has left the window.
        case tooSlow
    }

    /// A comment is sent when nothing else has been for so long, in milliseconds.
    static let heartbeat: UInt64 = 15_000
    /// Events out of the window cost less than the nodes of a tree that work is counted in.
    private static let eventsPerUnit = 8
    /// Bytes that are put together before they are appended.
    private static let blockBytes = 16_384

    /// - Parameter hasRetained: whether retained events come first.
    init(
        _ channel: EventChannel, _ link: Link, _ format: StreamFormat, after position: UInt64, hasRetained: Bool,
        until endsAt: UInt64, on lane: Lane
    ) {
        self.endsAt = endsAt
        self.channel = channel
        self.link = link
        self.format = format
        self.position = position
        lastSent = lane.now
        guard hasRetained else { return }
        let retained = RetainedDelivery()
        for (index, filter) in channel.filters.enumerated() {
            retained.add(RetainedDelivery.Start(filter: filter, qos: 2, identifier: UInt32(index)))
        }
        self.retained = retained
    }

    /// Writes the first lines.
    func begin(_ gap: (reason: Gap, after: String)?) {
        var bytes: [UInt8] = []
        StreamText.append("retry: 2000\n: connected\n\n", to: &bytes)
        if let gap { StreamText.writeGap(gap.reason, after: gap.after.utf8.prefix(128), to: &bytes) }
        if retained == nil { writePosition(to: &bytes) }
        append(bytes)
    }

    /// An id without an event: from here on the reader knows where it is.
    private func writePosition(to bytes: inout [UInt8]) {
        channel.writeID(position, to: &bytes)
        StreamText.append("\n\n", to: &bytes)
    }

    private func append(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
    }

    // MARK: Catching up

    /// Sends a portion of what it lacks: retained events, then what the window has.
    func catchUp(_ budget: inout Int, on lane: Lane) -> Progress {
        lastSent = lane.now
        if let retained {
            if let stop = sendRetained(retained, &budget, on: lane) { return stop }
            self.retained = nil
            var bytes: [UInt8] = []
            writePosition(to: &bytes)
            append(bytes)
        }
        return sendWindow(&budget, on: lane)
    }

    /// - Returns: why it does not go on.
    private func sendRetained(_ retained: RetainedDelivery, _ budget: inout Int, on lane: Lane) -> Progress? {
        let progress = retained.work(&budget, as: channel.principal, on: lane) { event, start in
            if link.isCongested { return false }
            // An earlier filter has found it already.
            if channel.filters[..<Int(start.identifier)].contains(where: { $0.matches(event.topic) }) { return true }
            var bytes: [UInt8] = []
            channel.write(event, isRetained: true, as: format, on: lane, to: &bytes)
            append(bytes)
            channel.sent(1, bytes: bytes.count, on: lane)
            return true
        }
        return switch progress {
        case .done: nil
        case .more: .more
        case .blocked: .blocked
        }
    }

    private func sendWindow(_ budget: inout Int, on lane: Lane) -> Progress {
        var bytes: [UInt8] = []
        while true {
            if position + 1 < channel.window.first {
                // What it needs has left the window meanwhile: because of its reader, or because too much came at once.
                if link.isCongested { return .tooSlow }
                var id = channel.prefix
                StreamText.append(position, to: &id)
                StreamText.writeGap(.window, after: id, to: &bytes)
                position = channel.window.first - 1
            }
            if position == channel.last {
                append(bytes)
                return .done
            }
            guard !link.isCongested else { return .blocked }
            guard budget > 0 else { return .more }
            budget -= 1
            var count = 0
            while count < Self.eventsPerUnit, position < channel.last, bytes.count < Self.blockBytes {
                position += 1
                guard let event = channel.window.event(position) else { continue }
                guard channel.isWanted(event, on: lane) else { continue }
                channel.writeID(position, to: &bytes)
                StreamText.append("\n", to: &bytes)
                channel.write(event, isRetained: false, as: format, on: lane, to: &bytes)
                count += 1
            }
            append(bytes)
            channel.sent(count, bytes: bytes.count, on: lane)
            bytes.removeAll(keepingCapacity: true)
        }
    }

    // MARK: HTTPStream

    var owner: Identity? { channel.principal.identity }

    func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
        guard place >= 0 else { return .success(nil) }
        guard lane.now < endsAt else {
            channel.principal.proofHasEnded()
            let line: StaticString = ": the token or certificate has ended\n\n"
            link.append(line.utf8Start, line.utf8CodeUnitCount)
            return .failure(.proofEnded)
        }
        let last = isLive ? max(lastSent, channel.lastSent) : lastSent
        guard lane.now >= last + Self.heartbeat else { return .success(min(last + Self.heartbeat, endsAt)) }
        // A reader that takes nothing for so long will not come to take it.
        guard !link.isCongested else { return .failure(.slowReader) }
        let line: StaticString = ":\n\n"
        link.append(line.utf8Start, line.utf8CodeUnitCount)
        lastSent = lane.now
        return .success(min(lane.now + Self.heartbeat, endsAt))
    }

    func outputDrained(on lane: Lane) {
        lastSent = lane.now
        if !isLive, place >= 0 { lane.workLater(channel) }
    }

    func drain(on lane: Lane) {
        let line: StaticString = ": the node is stopping\n\n"
        link.append(line.utf8Start, line.utf8CodeUnitCount)
    }

    func ended(_ reason: CloseReason, on lane: Lane) { channel.leave(self, on: lane) }
}
