internal import CLinux
internal import Glibc

/// One publisher while it runs.
struct Sender {
    var fd: Int32
    var block: Block
    /// Whole messages handed to the kernel since the start, and bytes of the one after them.
    var sent = 0
    var offset = 0
    var target = 0
    /// PUBACKs received.
    var acknowledged = 0
    /// The start of an acknowledgement whose end has not arrived.
    var carry: UnsafeMutablePointer<UInt8>?
    var carryCount = 0
    var blocked = false
    var firstSubscriber: Int
    var endSubscriber: Int
    /// Flow `matched`: messages whose deliveries have all been seen, if all arrive in order.
    var confirmed = 0
    /// Over WebSocket only.
    var writer = FrameWriter()
    var reader = FrameReader()
}

/// One subscriber while it runs.
struct Receiver {
    var fd: Int32
    var received = 0
    var goal = 0
    /// Position in the circle, or in `expected`.
    var next = 0
    var source: UInt64
    var expected: UnsafeMutablePointer<Int32>?
    var expectedCount = 0
    /// The start of a message whose end has not arrived.
    var carry: UnsafeMutablePointer<UInt8>
    var carryCount = 0
    var acks: UnsafeMutablePointer<UInt8>?
    var ackCount = 0
    /// Over WebSocket only.
    var writer = FrameWriter()
    var reader = FrameReader()
}

/// Something that goes on beside the measured traffic, on a connection of its own.
protocol SideTraffic: AnyObject {
    var descriptor: Int32 { get }
    func readable() throws
    func tick() throws
}

/// What one measured window cost.
struct Window {
    var deliveries: Int
    var messages: Int
    var brokerNanoseconds: UInt64
    var clientNanoseconds: UInt64
    var wallNanoseconds: UInt64

    var microsecondsPerDelivery: Double { Double(brokerNanoseconds) / 1e3 / Double(max(1, deliveries)) }
    var thousandDeliveriesPerSecond: Double { Double(deliveries) * 1e6 / Double(max(1, wallNanoseconds)) }
    var clientMicroseconds: Double { Double(clientNanoseconds) / 1e3 / Double(max(1, deliveries)) }
}

/// All connections of one scenario to one broker, driven by this thread, with every delivery accounted for.
final class Session {
    let plan: Plan
    let broker: Broker
    let poll: Poll
    /// Messages in flight per publisher: the plan's, or less where the broker takes less.
    private(set) var window: Int
    /// Bytes between a packet identifier and the payload.
    let propertyBytes: Int
    let senders: UnsafeMutablePointer<Sender>
    let senderCount: Int
    let receivers: UnsafeMutablePointer<Receiver>
    let receiverCount: Int
    /// Those that are there: all of them, unless one could not be opened.
    private var openSenders = 0
    private var openReceivers = 0
    /// Flow `pooled`: deliveries seen of each publisher.
    let bySource: UnsafeMutablePointer<Int>
    /// Flow `matched`: deliveries expected of the first n messages of a lap.
    var cumulative: UnsafeMutablePointer<Int>?
    /// The relay mixes streams of bytes, so in flow `pooled` only bytes can be counted.
    let bytesOnly: Bool
    /// Whether packets travel in frames.
    let isWebSocket: Bool
    let buffer: UnsafeMutablePointer<UInt8>
    var totalReceived = 0
    var unsentAcks = false
    var problem: String?
    /// Where in the buffer the event begins that should not be there.
    var wrongAt = 0
    var side: (any SideTraffic)?

    static let readSize = 256 * 1024
    static let ackRoom = 64 * 1024
    /// The longest acknowledgement: a byte for its length, and what that can say.
    static let longestAck = 2 + 255
    static let sideToken = Int.max >> 1

    /// - Parameter places: the brokers of the subscribers, in their order, when they are not the publishers'; what the
    ///   windows charge is the publishers'.
    init(_ plan: Plan, _ broker: Broker, subscribersAt places: [Broker] = []) throws {
        self.plan = plan
        self.broker = broker
        poll = try Poll()
        window = plan.window
        propertyBytes = broker.frames.publishPropertyBytes
        senderCount = plan.publishers.count
        receiverCount = plan.subscribers.count
        senders = .allocate(capacity: senderCount)
        receivers = .allocate(capacity: receiverCount)
        bySource = .allocate(capacity: senderCount)
        bySource.initialize(repeating: 0, count: senderCount)
        bytesOnly = broker.kind.isRelay && plan.flow == .pooled
        isWebSocket = broker.frames.isWebSocket
        var blocks: [Block] = []
        for (index, publisher) in plan.publishers.enumerated() {
            blocks.append(
                Block(
                    broker.frames, topics: publisher.topics, payload: plan.payload, source: index, qos: plan.qos))
        }
        guard let first = blocks.first else { throw Failure("a plan needs a publisher") }
        buffer = .allocate(capacity: Self.readSize + max(first.frameSize, Self.longestAck))
        if plan.flow == .matched { cumulative = Self.cumulative(plan) }
        if plan.alternate {
            for index in 0..<receiverCount {
                try openReceiver(index, first, places.isEmpty ? broker : places[index])
                try openSender(index, blocks[index])
            }
        } else {
            for index in 0..<receiverCount { try openReceiver(index, first, places.isEmpty ? broker : places[index]) }
            for index in 0..<senderCount { try openSender(index, blocks[index]) }
        }
    }

    deinit {
        for index in 0..<openReceivers {
            close(receivers[index].fd)
            receivers[index].carry.deallocate()
            receivers[index].acks?.deallocate()
            receivers[index].expected?.deallocate()
        }
        for index in 0..<openSenders {
            close(senders[index].fd)
            senders[index].block.bytes.deallocate()
            senders[index].carry?.deallocate()
        }
        receivers.deallocate()
        senders.deallocate()
        bySource.deallocate()
        cumulative?.deallocate()
        buffer.deallocate()
    }

    private func openReceiver(_ index: Int, _ block: Block, _ broker: Broker) throws {
        let wanted = plan.subscribers[index]
        let fd: Int32
        if broker.kind.isRelay {
            fd = try Handshake.join(port: broker.port, publisher: false, group: wanted.publisher)
        } else {
            fd = try Handshake.open(broker, client: "\(plan.clientPrefix)sub-\(index)")
            try Handshake.subscribe(fd, wanted.filters, qos: plan.qos, broker.frames)
        }
        var receiver = Receiver(fd: fd, source: UInt64(wanted.publisher), carry: .allocate(capacity: block.frameSize))
        if let expected = wanted.expected {
            let list = UnsafeMutablePointer<Int32>.allocate(capacity: max(1, expected.count))
            list.initialize(from: expected, count: expected.count)
            receiver.expected = list
            receiver.expectedCount = expected.count
        }
        if plan.qos > 0 { receiver.acks = .allocate(capacity: Self.ackRoom) }
        (receivers + index).initialize(to: receiver)
        openReceivers += 1
        try poll.add(fd, Poll.input, token: index)
    }

    private func openSender(_ index: Int, _ block: Block) throws {
        let fd: Int32
        if broker.kind.isRelay {
            fd = try Handshake.join(port: broker.port, publisher: true, group: plan.flow == .pooled ? 0 : index)
        } else {
            let (descriptor, welcome) = try Handshake.connect(broker, client: "\(plan.clientPrefix)pub-\(index)")
            fd = descriptor
            if plan.qos > 0 { window = min(window, welcome.receiveMaximum) }
        }
        let range = plan.publishers[index].subscribers
        var sender = Sender(
            fd: fd, block: block, firstSubscriber: range.lowerBound, endSubscriber: range.upperBound)
        if plan.qos > 0 { sender.carry = .allocate(capacity: Self.longestAck) }
        (senders + index).initialize(to: sender)
        openSenders += 1
        try poll.add(fd, Poll.input, token: receiverCount + index)
    }

    private static func cumulative(_ plan: Plan) -> UnsafeMutablePointer<Int> {
        let frames = plan.publishers.first?.topics.count ?? 0
        let sums = UnsafeMutablePointer<Int>.allocate(capacity: frames + 1)
        sums.initialize(repeating: 0, count: frames + 1)
        for subscriber in plan.subscribers {
            for message in subscriber.expected ?? [] { sums[Int(message) + 1] += 1 }
        }
        for index in 0..<frames { sums[index + 1] += sums[index] }
        return sums
    }
}

/// The measured window.
extension Session {
    /// Every publisher sends `count` more messages; returns when all are delivered and nothing else came.
    func run(count: Int) throws -> Window {
        let before = totalReceived
        aim(count)
        let goal = (0..<receiverCount).reduce(0) { $0 + receivers[$1].goal }
        let brokerBefore = broker.processorTime()
        let clientBefore = Self.ownTime()
        let begin = now()
        do {
            try drive(goal: goal)
        } catch {
            throw Failure("\(error)\(broker.lastWords())")
        }
        let wall = now() - begin
        let client = Self.ownTime() - clientBefore
        try settle()
        let cost = broker.processorTime() - brokerBefore
        try check()
        return Window(
            deliveries: totalReceived - before, messages: count * senderCount, brokerNanoseconds: cost,
            clientNanoseconds: client, wallNanoseconds: wall)
    }

    /// Sets the targets: how much each publisher sends, how much each subscriber must then have.
    private func aim(_ count: Int) {
        for index in 0..<senderCount { senders[index].target += count }
        for index in 0..<receiverCount {
            switch plan.flow {
            case .fan: receivers[index].goal += count
            case .pooled: receivers[index].goal += count * senderCount
            case .matched:
                let target = senders[0].target
                let lap = senders[0].block.frames
                let list = receivers[index].expected
                let rest = (0..<receivers[index].expectedCount).count { Int(list?[$0] ?? 0) < target % lap }
                receivers[index].goal = target / lap * receivers[index].expectedCount + rest
            }
        }
    }

    private func drive(goal: Int) throws {
        var lastProgress = now()
        var lastTotal = -1
        var passes = 0
        while true {
            try side?.tick()
            pump()
            if unsentAcks { flushAcks() }
            if totalReceived >= goal && finished() { return }
            let count = poll.wait(milliseconds: side == nil ? 500 : 1)
            try dispatch(count)
            if let problem { throw Failure(problem) }
            passes &+= 1
            guard count == 0 || passes & 0xfff == 0 else { continue }
            if totalReceived != lastTotal {
                lastTotal = totalReceived
                lastProgress = now()
            } else if now() - lastProgress > 5_000_000_000 {
                throw Failure("\(goal - totalReceived) of \(goal) deliveries are missing; nothing came for 5 s")
            }
        }
    }

    @inline(__always)
    private func dispatch(_ count: Int) throws {
        for index in 0..<count {
            let token = poll.token(index)
            if token < receiverCount {
                receive(token)
            } else if token < receiverCount + senderCount {
                if poll.ready(index) & Poll.output != 0 {
                    senders[token - receiverCount].blocked = false
                    poll.change(senders[token - receiverCount].fd, Poll.input, token: token)
                }
                if poll.ready(index) & ~Poll.output != 0 { acknowledge(token - receiverCount) }
            } else {
                try side?.readable()
            }
        }
    }

    private func finished() -> Bool {
        for index in 0..<senderCount {
            if senders[index].sent != senders[index].target { return false }
            if plan.qos > 0 && senders[index].acknowledged != senders[index].sent { return false }
        }
        return !unsentAcks
    }

    /// Gives the broker time to finish what it may have put off, and surplus events time to arrive.
    private func settle() throws {
        pause(milliseconds: 3)
        try dispatch(poll.wait(milliseconds: 0))
        if let problem { throw Failure(problem) }
    }

    private func check() throws {
        for index in 0..<receiverCount where receivers[index].received != receivers[index].goal {
            throw Failure(
                "subscriber \(index) got \(receivers[index].received) events, \(receivers[index].goal) were due")
        }
        guard plan.flow == .pooled, !bytesOnly else { return }
        for index in 0..<senderCount where bySource[index] != senders[index].sent {
            throw Failure("of publisher \(index) came \(bySource[index]) events, \(senders[index].sent) were due")
        }
    }

    func attach(_ traffic: any SideTraffic) throws {
        side = traffic
        try poll.add(traffic.descriptor, Poll.input, token: Self.sideToken)
    }

    static func ownTime() -> UInt64 {
        apus_clock_ns(CLOCK_PROCESS_CPUTIME_ID)
    }
}
