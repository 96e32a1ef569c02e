import Core

/// The port of streams and polls over HTTP: one set of subscriptions, for all readers of a user that want the same, and
/// a bounded window of what came last, for those that come back.
///
/// A reader that has everything is *live*: it gets what comes as it comes. One that lacks something is *behind* until
/// it has been given that from the window, in portions. A channel that nobody reads goes on collecting for
/// ``Limits/streamResumeSeconds``; then ``StreamLane`` ends it.
///
/// A member of a shared group has a channel of its own with one reader. What was chosen for it and not been sent when
/// the reader goes is given to other members that are there; without any it waits for the reader, and goes to whoever
/// is there when the channel ends.
///
/// When access rules are reloaded and do not allow its subscriptions any more, its readers are cut. Each new reader is
/// judged anew.
final class EventChannel: Port {
    let key: ChannelKey
    let filters: [TopicFilter]
    /// Its random number.
    let code: UInt64
    /// What its ids begin with.
    let prefix: [UInt8]
    /// Who subscribed: of the same identity as all readers.
    let principal: Principal
    private(set) var window = EventWindow()
    /// When its readers last got an event, in the lane's milliseconds.
    private(set) var lastSent: UInt64 = 0
    /// What it has said of its weight in its shared group; nil for nothing.
    var weight: UInt16?
    /// Kept by the lane's list of channels that nobody reads.
    var idlePlace = -1
    var idleSince: UInt64 = 0

    private unowned let lanes: StreamLane
    /// By format.
    private var live = [[EventStream]](repeating: [], count: StreamFormat.allCases.count)
    private var behind: [EventStream] = []
    private var polls: [LongPoll] = []
    /// Up to where a shared group's reader was sent everything when it went.
    private var sentThrough: UInt64 = 0
    /// Whether the router has been told that a shared group's reader is gone.
    private var isAbsent = false

    init(
        _ key: ChannelKey, _ filters: [TopicFilter], code: UInt64, prefix: [UInt8], _ lanes: StreamLane,
        _ principal: Principal
    ) {
        self.key = key
        self.filters = filters
        self.code = code
        self.prefix = prefix
        self.lanes = lanes
        self.principal = principal
    }

    /// The number of the last event.
    var last: UInt64 { window.next - 1 }
    /// Streams that are attached.
    private var isRead: Bool { !behind.isEmpty || !polls.isEmpty || live.contains { !$0.isEmpty } }

    // MARK: Delivery

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        let first = window.next
        for event in lanes.events(of: run, on: lane) { lanes.windowBytes += window.append(event, group: lane.group) }
        if isAbsent { handOver(from: first, on: lane) }
        for format in StreamFormat.allCases where !live[format.rawValue].isEmpty { send(run, first, format, on: lane) }
        if !polls.isEmpty { answerPolls(on: lane) }
        if !behind.isEmpty { lane.workLater(self) }
        trim(on: lane)
        return 0
    }

    /// One block for all streams of a format. A reader that has not read what it was sent before is cut: it can come
    /// back for what the window still has.
    private func send(_ run: UnsafePointer<EventRun>, _ first: UInt64, _ format: StreamFormat, on lane: Lane) {
        let bodies = lanes.bodies(of: run, as: format, on: lane)
        lanes.block.removeAll(keepingCapacity: true)
        var start = 0
        for (index, end) in bodies.ends.enumerated() {
            writeID(first + UInt64(index), to: &lanes.block)
            StreamText.append("\n", to: &lanes.block)
            lanes.block.append(contentsOf: bodies.bytes[start..<end])
            start = end
        }
        lastSent = lane.now
        var slow: [EventStream] = []
        lanes.block.withUnsafeBytes { block in
            guard let base = block.baseAddress else { return }
            for stream in live[format.rawValue] {
                if stream.link.isCongested {
                    slow.append(stream)
                } else {
                    stream.link.append(base, block.count)
                }
            }
            let count = (live[format.rawValue].count - slow.count) * run.pointee.count
            lane.counters.eventsOut &+= UInt64(truncatingIfNeeded: count)
            lanes.traffic.sent(count, bytes: (live[format.rawValue].count - slow.count) * block.count, qos: 0)
        }
        for stream in slow { cut(stream, .slowReader, position: first - 1) }
    }

    /// Ends a stream: it gets nothing more. What follows from it follows when its connection has ended.
    func cut(_ stream: EventStream, _ reason: CloseReason, position: UInt64) {
        remove(stream)
        stream.position = position
        stream.link.close(reason)
    }

    /// The oldest events leave a window that is full.
    private func trim(on lane: Lane) {
        let limits = lane.limits
        while window.count > limits.maxStreamWindowEvents || window.bytes > limits.maxStreamWindowBytes
            || window.count > 0 && lanes.windowBytes > limits.maxStreamBytes
        {
            let number = window.first
            guard let entry = window.removeFirst(), let event = entry.event else { continue }
            lanes.windowBytes -= event.cost
            // Nobody else has it either.
            if key.group != nil, number > unsentAfter { lane.counters.drop(.queueFull) }
        }
    }

    override func unregistered(on lane: Lane) {
        if key.group != nil { handOver(from: sentThrough + 1, toAnybody: true, on: lane) }
        lanes.windowBytes -= window.bytes
        window = EventWindow()
    }

    // MARK: Shared groups

    /// The event up to which the reader of a shared group has been sent everything.
    private var unsentAfter: UInt64 {
        if let stream = behind.first { return stream.position }
        return isRead ? last : sentThrough
    }

    /// Gives events of a shared group that nobody here has been sent to other members.
    private func handOver(from first: UInt64, toAnybody: Bool = false, on lane: Lane) {
        let router = principal.router
        var number = max(first, window.first)
        while number < window.next {
            if let entry = window.entry(number), let event = entry.event, entry.group != 0,
                toAnybody || router.hasPresentMember(entry.group)
            {
                _ = window.giveAway(number)
                lanes.windowBytes -= event.cost
                lane.redistributeLater(event, group: entry.group, in: router)
            }
            number += 1
        }
    }

    // MARK: Readers

    /// A stream begins to read, behind at first; ``catchUp(_:on:)`` is to follow.
    func attach(_ stream: EventStream, on lane: Lane) {
        if key.group != nil {
            // Its reader is back on another connection, before the end of the former has been noticed.
            for old in behind + live.joined() { cut(old, .takenOver, position: old.position) }
            if isAbsent { principal.router.setPresence(self, true) }
            isAbsent = false
        }
        lanes.stopIdling(self)
        stream.place = behind.count
        behind.append(stream)
    }

    /// A stream's connection has ended.
    func leave(_ stream: EventStream, on lane: Lane) {
        if stream.isLive { stream.position = last }
        remove(stream)
        guard !isRead, !isAbsent else { return }
        if key.group != nil {
            isAbsent = true
            principal.router.setPresence(self, false)
            sentThrough = stream.position
            handOver(from: sentThrough + 1, on: lane)
        }
        lanes.beginIdling(self, at: lane.now)
    }

    private func remove(_ stream: EventStream) {
        let place = stream.place
        guard place >= 0 else { return }
        stream.place = -1
        func take(_ list: inout [EventStream]) {
            let last = list.removeLast()
            guard last !== stream else { return }
            list[place] = last
            last.place = place
        }
        if stream.isLive { take(&live[stream.format.rawValue]) } else { take(&behind) }
        stream.isLive = false
    }

    /// Gives streams that are behind what they lack.
    override func work(_ budget: inout Int, on lane: Lane) -> Bool {
        var index = 0
        while index < behind.count {
            let stream = behind[index]
            if catchUp(stream, &budget, on: lane) { return true }
            // Otherwise another is in its place by now, or it waits for its reader.
            if index < behind.count, behind[index] === stream { index += 1 }
        }
        return false
    }

    /// Gives a stream a portion of what it lacks.
    /// - Returns: whether there is more, and the budget is used up.
    func catchUp(_ stream: EventStream, _ budget: inout Int, on lane: Lane) -> Bool {
        switch stream.catchUp(&budget, on: lane) {
        case .done:
            remove(stream)
            stream.isLive = true
            stream.place = live[stream.format.rawValue].count
            live[stream.format.rawValue].append(stream)
        case .tooSlow: cut(stream, .slowReader, position: stream.position)
        case .more: return true
        case .blocked: break
        }
        return false
    }

    /// Writes the line of an id.
    func writeID(_ number: UInt64, to bytes: inout [UInt8]) {
        StreamText.append("id: ", to: &bytes)
        bytes.append(contentsOf: prefix)
        StreamText.append(number, to: &bytes)
    }

    // MARK: Polls

    /// A poll waits for the next event.
    func wait(_ poll: LongPoll) {
        lanes.stopIdling(self)
        poll.place = polls.count
        polls.append(poll)
    }

    /// A poll waits no longer.
    func leave(_ poll: LongPoll, on lane: Lane) {
        let place = poll.place
        if place >= 0 {
            poll.place = -1
            let last = polls.removeLast()
            if last !== poll {
                polls[place] = last
                last.place = place
            }
        }
        if !isRead { lanes.beginIdling(self, at: lane.now) }
    }

    /// What came is what all of them wait for, so it is written once.
    private func answerPolls(on lane: Lane) {
        let waiting = polls
        polls = []
        var known: (position: UInt64, limit: Int, page: LongPoll.Page)?
        for poll in waiting {
            poll.place = -1
            if known?.position != poll.position || known?.limit != poll.limit {
                let page = page(after: poll.position, limit: poll.limit, hasGap: false, on: lane)
                known = (poll.position, poll.limit, page)
            }
            if let known { poll.answer(known.page, on: lane) }
        }
        if !isRead { lanes.beginIdling(self, at: lane.now) }
    }

    /// The answer to a poll: what the window has after a number.
    func page(after position: UInt64, limit: Int, hasGap: Bool, on lane: Lane) -> LongPoll.Page {
        var page = LongPoll.Page()
        var gap = hasGap
        var number = position
        if number + 1 < window.first {
            number = window.first - 1
            gap = true
        }
        StreamText.append(#"{"events":["#, to: &page.body)
        while number < last, page.count < limit {
            number += 1
            guard let event = window.event(number) else { continue }
            guard isWanted(event, on: lane) else { continue }
            if page.count > 0 { StreamText.append(",", to: &page.body) }
            lanes.writeJSON(EventParts(event), on: lane, to: &page.body)
            page.count += 1
        }
        StreamText.append(#"],"next":""#, to: &page.body)
        page.body.append(contentsOf: prefix)
        StreamText.append(number, to: &page.body)
        StreamText.append(gap ? #"","gap":true}"# : #""}"#, to: &page.body)
        return page
    }

    /// Whether there is something in the window after a number.
    func hasEvents(after position: UInt64) -> Bool { position < last }

    /// Whether an event out of the window may be sent: what is kept there came under the rules of that time.
    func isWanted(_ event: Event, on lane: Lane) -> Bool {
        if event.isExpired(at: lane.now) {
            lane.counters.drop(.expired)
        } else if principal.router.mayRead(event.topic, as: principal) {
            return true
        } else {
            lane.counters.drop(.notReadable)
        }
        return false
    }

    /// Its readers asked for all of its filters, so what is left of them is nobody's.
    override func revoked(_ filter: TopicFilter, on lane: Lane) {
        for stream in behind { cut(stream, .administrative, position: stream.position) }
        for stream in live.joined() { cut(stream, .administrative, position: last) }
        if !polls.isEmpty { answerPolls(on: lane) }
    }

    /// Counts what was sent other than as it came.
    func sent(_ count: Int, bytes: Int, on lane: Lane) {
        lane.counters.eventsOut &+= UInt64(truncatingIfNeeded: count)
        lanes.traffic.sent(count, bytes: bytes, qos: 0)
    }

    /// Writes an event out of the window or the retained store.
    func write(_ event: Event, isRetained: Bool, as format: StreamFormat, on lane: Lane, to bytes: inout [UInt8]) {
        lanes.write(EventParts(event, isRetained: isRetained), as: format, on: lane, to: &bytes)
    }
}
