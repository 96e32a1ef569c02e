internal import Glibc

/// An end of a path that publishes the messages of a circle.
protocol TrafficSender: AnyObject {
    var descriptor: Int32 { get }
    /// Messages since the start.
    var sent: Int { get }
    /// Those the broker has taken over; where nobody acknowledges, those that were sent.
    var confirmed: Int { get }
    /// Whether bytes wait for room in the socket.
    var isBlocked: Bool { get }
    /// Sends at most so many more.
    func send(_ count: Int) throws
    func readable() throws
    func writable() throws
    /// Called once before each window.
    func tick() throws
}

/// An end of a path that checks what it gets, in order.
protocol TrafficReceiver: AnyObject {
    var descriptor: Int32 { get }
    /// Messages since the start.
    var received: Int { get }
    var isBlocked: Bool { get }
    func readable() throws
    func writable() throws
    func tick() throws
}

/// One sender and its receivers, of whatever protocol, driven by this thread: the sender is never further ahead of its
/// slowest receiver than its window, and every delivery is accounted for.
final class Traffic {
    private let broker: Child
    private let sender: any TrafficSender
    private let receivers: [any TrafficReceiver]
    private let window: Int
    private let poll: Poll
    /// Who waits for room in its socket, the sender last.
    private var waits: [Bool]
    private var target = 0

    init(_ broker: Child, _ sender: any TrafficSender, _ receivers: [any TrafficReceiver], window: Int) throws {
        self.broker = broker
        self.sender = sender
        self.receivers = receivers
        self.window = window
        poll = try Poll()
        waits = Array(repeating: false, count: receivers.count + 1)
        for (index, receiver) in receivers.enumerated() {
            try poll.add(receiver.descriptor, Poll.input, token: index)
        }
        try poll.add(sender.descriptor, Poll.input, token: receivers.count)
    }

    /// Sends so many messages; returns when all are delivered to everybody and nothing else came.
    func run(count: Int) throws -> Window {
        try sender.tick()
        for receiver in receivers { try receiver.tick() }
        target += count
        let brokerBefore = broker.processorTime()
        let clientBefore = Session.ownTime()
        let begin = now()
        do {
            try drive()
        } catch {
            throw Failure("\(error)\(broker.lastWords())")
        }
        let wall = now() - begin
        let client = Session.ownTime() - clientBefore
        pause(milliseconds: 3)
        try dispatch(poll.wait(milliseconds: 0))
        let cost = broker.processorTime() - brokerBefore
        for (index, receiver) in receivers.enumerated() where receiver.received != target {
            throw Failure("receiver \(index) got \(receiver.received) messages, \(target) were due")
        }
        return Window(
            deliveries: count * receivers.count, messages: count, brokerNanoseconds: cost, clientNanoseconds: client,
            wallNanoseconds: wall)
    }

    /// Finds out how many messages take so long.
    func calibrated(seconds: Double) throws -> Int {
        var count = 200
        while true {
            let took = Double(try run(count: count).wallNanoseconds) / 1e9
            let needed = Double(count) * seconds / max(took, 1e-6)
            if took > seconds / 2 { return max(100, Int(needed)) }
            count = max(100, min(Int(needed), count * 10))
        }
    }

    private func drive() throws {
        var lastProgress = now()
        var lastTotal = (0, 0, 0)
        let quantum = max(1, window / 4)
        while true {
            var least = sender.confirmed
            var total = 0
            for receiver in receivers {
                least = min(least, receiver.received)
                total += receiver.received
            }
            if least >= target, sender.sent == target { return }
            let allowed = min(least + window, target) - sender.sent
            if !sender.isBlocked, allowed >= min(quantum, target - sender.sent), allowed > 0 {
                try sender.send(allowed)
                update(receivers.count, sender.descriptor, sender.isBlocked)
            }
            let count = poll.wait(milliseconds: 500)
            try dispatch(count)
            if (total, sender.sent, sender.confirmed) != lastTotal {
                lastTotal = (total, sender.sent, sender.confirmed)
                lastProgress = now()
            } else if now() - lastProgress > 10_000_000_000 {
                let missing = sender.sent * receivers.count - total
                throw Failure(
                    "nothing came for 10 s: of \(sender.sent) messages sent (\(target) were to be) \(missing) "
                        + "deliveries are lost and \(sender.sent - sender.confirmed) not confirmed")
            }
        }
    }

    private func dispatch(_ count: Int) throws {
        for place in 0..<count {
            let index = poll.token(place)
            let ready = poll.ready(place)
            if index < receivers.count {
                let receiver = receivers[index]
                if ready & Poll.output != 0 { try receiver.writable() }
                if ready & ~Poll.output != 0 { try receiver.readable() }
                update(index, receiver.descriptor, receiver.isBlocked)
            } else {
                if ready & Poll.output != 0 { try sender.writable() }
                if ready & ~Poll.output != 0 { try sender.readable() }
                update(index, sender.descriptor, sender.isBlocked)
            }
        }
    }

    private func update(_ index: Int, _ descriptor: Int32, _ isBlocked: Bool) {
        guard waits[index] != isBlocked else { return }
        waits[index] = isBlocked
        poll.change(descriptor, isBlocked ? Poll.input | Poll.output : Poll.input, token: index)
    }
}
