internal import CLinux
internal import Glibc

/// Thousands of readers over HTTP on one topic: streams of Server-Sent Events, and MQTT over WebSocket.
final class WebCrowd {
    /// A reader; ``inbox`` is what it has got since it was last looked at.
    private struct Reader {
        let fd: Int32
        let isStream: Bool
        var inbox: [UInt8] = []
        var isDone = false
    }

    private let broker: Broker
    private let poll: Poll
    private var readers: [Reader] = []
    private var buffer = [UInt8](repeating: 0, count: 65_536)

    static let topic = "crowd/all"
    /// Streams from one source address.
    private static let perAddress = 9_000

    init(_ broker: Broker) throws {
        self.broker = broker
        poll = try Poll()
    }

    deinit {
        for reader in readers { close(reader.fd) }
    }

    var count: Int { readers.count }

    /// - Parameter firstSource: see ``Crowd/init(_:count:firstSource:)``.
    func openSockets(_ count: Int, firstSource: UInt32) throws {
        let crowd = try Crowd(broker, count: count, firstSource: firstSource)
        try crowd.subscribe { _ in Self.topic }
        for fd in crowd.handOver() { try add(fd, isStream: false) }
    }

    func openStreams(_ count: Int, firstSource: UInt32) throws {
        let request = Array("GET /events?filter=\(Self.topic) HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".utf8)
        let first = readers.count
        for index in 0..<count {
            let source = firstSource + UInt32(index / Self.perAddress)
            try add(try Socket.connect(port: broker.port, source: source), isStream: true)
        }
        for reader in readers[first...] { try Handshake.sendAll(reader.fd, request) }
        // An id without an event tells the reader where it is: from there on it misses nothing.
        try collect("the beginning of a stream", among: first..<readers.count) {
            $0.starts(with: Array("HTTP/1.1 200 ".utf8)) && Self.occurrences(of: "\nid: ", in: $0) == 1
                && $0.suffix(2).elementsEqual([10, 10])
        }
    }

    private func add(_ fd: Int32, isStream: Bool) throws {
        try poll.add(fd, Poll.input, token: readers.count)
        readers.append(Reader(fd: fd, isStream: isStream))
    }

    /// Publishes one event over HTTP; all must get it, and once.
    /// - Returns: nanoseconds until the last one had it, and the broker's processor time.
    func publish(_ number: Int) throws -> (wall: UInt64, processor: UInt64) {
        let payload = "this is event number \(number) of the crowd"
        let fd = try Socket.connect(port: broker.port)
        defer { close(fd) }
        let before = broker.processorTime()
        let begin = now()
        try Handshake.sendAll(fd, Self.post(payload))
        let packet = Frames(.v3).publish(Self.topic, payload: Array(payload.utf8))
        let frame = [FrameReader.binary, UInt8(packet.count)] + packet
        let line = "data: \(payload)\n"
        try collect("event \(number)", among: 0..<readers.count) {
            // What a frame begins with is no text.
            $0.first == FrameReader.binary ? $0.count >= frame.count : Self.occurrences(of: line, in: $0) > 0
        }
        let wall = now() - begin
        let processor = broker.processorTime() - before
        let head = try Handshake.head(fd)
        guard head.hasPrefix("HTTP/1.1 202 ") else { throw Failure("the event was not accepted: \(head)") }
        try check(number, frame, line)
        return (wall, processor)
    }

    private static func post(_ payload: String) -> [UInt8] {
        let head = "POST /TOPIC/\(topic) HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        return Array(
            (head + "Content-Type: text/plain\r\nContent-Length: \(payload.utf8.count)\r\n\r\n\(payload)").utf8)
    }

    /// Gives surplus events time to come, and looks whether everybody has the one and nothing else.
    private func check(_ number: Int, _ frame: [UInt8], _ line: String) throws {
        pause(milliseconds: 100)
        while try readSome(milliseconds: 0) > 0 {}
        for (index, reader) in readers.enumerated() {
            let isRight =
                reader.isStream
                ? Self.occurrences(of: line, in: reader.inbox) == 1
                    && Self.occurrences(of: "data: ", in: reader.inbox) == 1
                : reader.inbox == frame
            guard isRight else {
                let kind = reader.isStream ? "stream" : "WebSocket client"
                throw Failure(
                    "\(kind) \(index) did not get event \(number) and nothing else: "
                        + String(decoding: reader.inbox.prefix(400), as: UTF8.self))
            }
        }
    }

    /// Reads until everybody of a range has what is awaited, from nothing on.
    private func collect(_ what: String, among range: Range<Int>, _ isIt: ([UInt8]) -> Bool) throws {
        for index in readers.indices {
            readers[index].inbox.removeAll(keepingCapacity: true)
            readers[index].isDone = !range.contains(index)
        }
        var missing = range.count
        let end = now() + 30_000_000_000
        while missing > 0 {
            guard now() < end else { throw Failure("\(missing) of \(range.count) readers have not got \(what)") }
            let count = try readSome(milliseconds: 500)
            for place in 0..<count {
                let index = poll.token(place)
                guard !readers[index].isDone, isIt(readers[index].inbox) else { continue }
                readers[index].isDone = true
                missing -= 1
            }
        }
    }

    /// Reads once from each that has something.
    /// - Returns: how many those were; the poll still has them.
    private func readSome(milliseconds: Int32) throws -> Int {
        let count = poll.wait(milliseconds: milliseconds)
        for place in 0..<count {
            let index = poll.token(place)
            let got = recv(readers[index].fd, &buffer, buffer.count, 0)
            if got > 0 {
                readers[index].inbox.append(contentsOf: buffer[..<got])
            } else if got == 0 || errno != EAGAIN && errno != EINTR {
                throw Failure("reader \(index) was cut")
            }
        }
        return count
    }

    private static func occurrences(of text: String, in bytes: [UInt8]) -> Int {
        var text = text
        return text.withUTF8 { text in
            guard let first = text.first else { return 0 }
            return bytes.withUnsafeBytes { bytes in
                var found = 0
                var at = 0
                while at + text.count <= bytes.count {
                    let isHere = bytes[at] == first && bytes[at..<at + text.count].elementsEqual(text)
                    found += isHere ? 1 : 0
                    at += isHere ? text.count : 1
                }
                return found
            }
        }
    }

    /// Cuts every other reader without a word.
    func cutHalf() throws {
        var rest: [Reader] = []
        for (index, reader) in readers.enumerated() {
            if index % 2 == 0 {
                Socket.setHardClose(reader.fd)
                close(reader.fd)
            } else {
                poll.change(reader.fd, Poll.input, token: rest.count)
                rest.append(reader)
            }
        }
        readers = rest
    }

    /// Ends all connections in good order.
    func end() {
        for reader in readers { close(reader.fd) }
        readers = []
    }
}

/// Scenario crowd: a question to the node alone.
extension Campaign {
    func crowd(_ scenario: String) {
        let each = options.quick ? 1_000 : 5_000
        attempt(scenario, .apus) {
            try crowdMemory(scenario, each)
            let broker = try Broker.start(.apusws, options.start)
            defer { broker.stop() }
            pause(milliseconds: 200)
            let descriptors = broker.descriptors()
            figure(scenario, "apus", "rss before", "KB", Double(broker.memory("Rss")))
            var after: [Double] = []
            for cycle in 1...2 {
                try crowdCycle(scenario, broker, each, cycle)
                for _ in 0..<100 where broker.descriptors() > descriptors { pause(milliseconds: 100) }
                // What is tidied is tidied once a second.
                pause(milliseconds: 2_000)
                after.append(Double(broker.memory("Rss")))
                figure(
                    scenario, "apus", "rss after cycle \(cycle)", "KB", after[cycle - 1],
                    must: cycle == 2 ? after[0] * 1.05 + 2_048 : nil)
                figure(
                    scenario, "apus", "descriptors left, cycle \(cycle)", "",
                    Double(broker.descriptors() - descriptors), must: 0)
            }
        }
    }

    /// Memory of clients that do nothing, each kind in a node of its own: none lives in what others have left.
    private func crowdMemory(_ scenario: String, _ each: Int) throws {
        for isStream in [false, true] {
            let broker = try Broker.start(.apusws, options.start)
            defer { broker.stop() }
            pause(milliseconds: 200)
            let empty = broker.memory("Rss")
            let crowd = try WebCrowd(broker)
            if isStream {
                try crowd.openStreams(each, firstSource: 2)
            } else {
                try crowd.openSockets(each, firstSource: 2)
            }
            pause(milliseconds: 500)
            figure(
                scenario, "apus", isStream ? "rss/stream" : "rss/WebSocket client", "KB",
                Double(broker.memory("Rss") - empty) / Double(each), must: 12)
        }
    }

    /// All come, get events, half of them are cut, the others get one more and leave.
    private func crowdCycle(_ scenario: String, _ broker: Broker, _ each: Int, _ cycle: Int) throws {
        let crowd = try WebCrowd(broker)
        try crowd.openSockets(each, firstSource: UInt32(cycle * 10))
        try crowd.openStreams(each, firstSource: UInt32(cycle * 10 + 5))
        var slowest: UInt64 = 0
        var processor: UInt64 = 0
        let events = 5
        for number in 1...events {
            let cost = try crowd.publish(number)
            slowest = max(slowest, cost.wall)
            processor += cost.processor
        }
        let readers = crowd.count
        figure(
            scenario, "apus", "one event to \(readers), cycle \(cycle)", "ms", Double(slowest) / 1e6, must: 1_000)
        figure(
            scenario, "apus", "CPU/delivery, cycle \(cycle)", "us", Double(processor) / 1e3 / Double(events * readers))
        figure(scenario, "apus", "rss full, cycle \(cycle)", "KB", Double(broker.memory("Rss")))
        try crowd.cutHalf()
        _ = try crowd.publish(events + 1)
        crowd.end()
    }
}
