import Core
import Testing
import TestSupport

/// Random lives of clients on two lanes against a simple model. A failure prints its seed; APUS_SEED repeats it.
@Suite struct PropertyTests {
    @Test(arguments: Seeded.seeds) func nothingLostDoubledOrReordered(seed: UInt64) throws {
        var world = try World(seed: seed)
        for _ in 0..<1_500 { world.act() }
        world.finish()
        if !world.problems.isEmpty {
            Issue.record("APUS_SEED=\(seed): \(world.problems.prefix(5).joined(separator: "; "))")
        }
    }

    /// The model must be able to fail: a client that forgets what it received sees duplicates.
    @Test func theModelNotices() throws {
        var world = try World(seed: 1)
        world.forgets = true
        for _ in 0..<1_500 { world.act() }
        world.finish()
        #expect(!world.problems.isEmpty)
    }
}

/// A client as a good library would be: persistent session, QoS 1 and 2 in both directions, resending after a cut.
private final class Device {
    struct Sending {
        var id: UInt16
        var qos: UInt8
        var frame: [UInt8]
        var isReceived = false
    }

    let name: String
    var client: TestClient?
    /// Publishes not finished, oldest first.
    var sending: [Sending] = []
    var nextID: UInt16 = 1
    var sent: [String: Int] = [:]
    /// QoS 2 identifiers received and not completed.
    var held: Set<UInt16> = []
    /// Acknowledgements not sent yet: a client may take its time.
    var unsaid: [[UInt8]] = []
    /// Topic prefix to granted QoS.
    var subscribed: [String: UInt8] = [:]

    init(_ name: String) { self.name = name }
}

private struct World {
    let node: TestNode
    var random: Seeded
    var devices: [Device] = []
    var problems: [String] = []
    var forgets = false
    /// By subscriber and stream: the numbers that must arrive, in order, and those that did.
    private var due: [String: [Int]] = [:]
    private var arrived: [String: [Int]] = [:]

    init(seed: UInt64) throws {
        random = Seeded(seed: seed)
        var limits = Limits()
        limits.maxInFlight = 16
        limits.maxUnsettled = 16
        node = try TestNode(lanes: 2, limits: limits)
        devices = (0..<6).map { Device("d\($0)") }
        for device in devices { connect(device) }
    }

    private mutating func roll(_ count: Int) -> Int { Int.random(in: 0..<count, using: &random) }

    mutating func act() {
        let device = devices[roll(devices.count)]
        guard let client = device.client, client.closing == nil else { return connect(device) }
        switch roll(50) {
        case 0..<25: publish(device, client)
        case 25..<33: read(device, client)
        case 33..<36: settle()
        case 36..<41: node.lanes[roll(2)].pass()
        case 41..<44: subscribe(device, client)
        case 44: unsubscribe(device, client)
        case 45: cut(device, client)
        case 46: stall(client)
        case 47:
            client.send(Frame.disconnect)
            leave(device, client)
        default: connect(device)
        }
    }

    /// Everybody comes back, everything is said, and then everything must have arrived.
    mutating func finish() {
        for _ in 0..<400 {
            for device in devices {
                if device.client?.closing != nil || device.client == nil { connect(device) }
                guard let client = device.client else { continue }
                if client.connection.link.isCongested { node.drain(client.connection) }
                read(device, client, all: true)
            }
            settle()
        }
        for device in devices where !device.sending.isEmpty {
            problems.append("\(device.name) has unfinished publishes")
        }
        for (stream, numbers) in due where arrived[stream, default: []] != numbers {
            let got = arrived[stream, default: []]
            let missing = numbers.filter { !got.contains($0) }
            let extra = got.filter { !numbers.contains($0) }
            problems.append("\(stream): missing \(missing), not due \(extra), \(got.count) of \(numbers.count)")
        }
    }

    // MARK: What devices do

    private mutating func connect(_ device: Device) {
        // Sometimes a second connection takes the first one over.
        if let client = device.client, client.closing == nil { read(device, client) }
        let client = TestClient(node, lane: roll(2))
        client.send(Frame.connect(device.name, clean: false))
        if let old = device.client { _ = old.answers() }
        device.client = client
        device.unsaid = []
        if forgets { device.held = [] }
        var frames: [UInt8] = []
        for sending in device.sending {
            if sending.isReceived {
                frames += Frame.pubrel(sending.id)
            } else {
                frames += [sending.frame[0] | 8] + sending.frame.dropFirst()
            }
        }
        client.send(frames)
        settle()
        read(device, client)
    }

    /// A publish whose effects are certain before anybody changes subscriptions: those settle first.
    private mutating func publish(_ device: Device, _ client: TestClient) {
        guard device.sending.count < 12 else { return read(device, client) }
        let qos = UInt8(roll(3))
        let topic = "t/\(roll(4))"
        let stream = "\(device.name) \(topic) \(qos)"
        let number = device.sent[stream, default: 0]
        device.sent[stream] = number + 1
        let id = qos > 0 ? takeID(device) : 0
        let frame = Frame.publish(topic, "\(stream) \(number)", qos: qos, id: id)
        if qos > 0 { device.sending.append(Device.Sending(id: id, qos: qos, frame: frame)) }
        for subscriber in devices where qos > 0 {
            if let granted = subscriber.subscribed[topic], granted > 0 {
                due["\(subscriber.name) <- \(stream)", default: []].append(number)
            }
        }
        // In two reads, sometimes.
        let split = roll(2) == 0 ? roll(frame.count) : 0
        if split > 0 { client.step(Array(frame[..<split])) }
        client.step(Array(frame[split...]))
    }

    private func takeID(_ device: Device) -> UInt16 {
        while device.sending.contains(where: { $0.id == device.nextID }) { device.nextID = device.nextID % 40 + 1 }
        defer { device.nextID = device.nextID % 40 + 1 }
        return device.nextID
    }

    private mutating func subscribe(_ device: Device, _ client: TestClient) {
        let topic = "t/\(roll(4))"
        guard device.subscribed[topic] == nil, finishPublishes() else { return }
        let qos = UInt8(roll(3))
        client.send(Frame.subscribe(1, [(topic, qos)]))
        guard client.closing == nil else { return }
        device.subscribed[topic] = qos
        read(device, client)
    }

    private mutating func unsubscribe(_ device: Device, _ client: TestClient) {
        guard let topic = device.subscribed.keys.sorted().first, finishPublishes(), client.closing == nil else {
            return
        }
        client.send(Frame.unsubscribe(2, [topic]))
        device.subscribed[topic] = nil
        read(device, client)
    }

    /// A publish that was cut off may still arrive later; which subscriptions it will find must be certain.
    private mutating func finishPublishes() -> Bool {
        settle()
        for device in devices {
            if let client = device.client { read(device, client) }
        }
        return devices.allSatisfy { device in device.sending.allSatisfy { $0.isReceived } }
    }

    private mutating func cut(_ device: Device, _ client: TestClient) {
        // In the middle of a packet, sometimes, and before its mail has been read.
        if roll(2) == 0 { client.step(Array(Frame.publish("t/0", "never complete").dropLast(1 + roll(10)))) }
        node.cut(client.connection)
        leave(device, client)
    }

    /// A reader becomes slow, or has caught up.
    private mutating func stall(_ client: TestClient) {
        if client.connection.link.isCongested {
            node.drain(client.connection)
        } else {
            client.connection.link.isCongested = true
        }
    }

    /// What the node sent before the end may still have arrived, or not.
    private mutating func leave(_ device: Device, _ client: TestClient) {
        if roll(2) == 0 { read(device, client) }
        device.client = nil
    }

    private func settle() { node.settle() }

    // MARK: What devices hear

    private mutating func read(_ device: Device, _ client: TestClient, all: Bool = false) {
        for answer in client.answers() { take(answer, device) }
        guard client.closing == nil else { return }
        // Some acknowledgements are said now, in order.
        let count = all ? device.unsaid.count : roll(device.unsaid.count + 1)
        let said = device.unsaid.prefix(count).flatMap { $0 }
        device.unsaid.removeFirst(count)
        if !said.isEmpty { client.step(said) }
    }

    private mutating func take(_ answer: Answer, _ device: Device) {
        switch answer {
        case .publish(let event): take(event, device)
        case .puback(let id): device.sending.removeAll { $0.id == id && $0.qos == 1 }
        case .pubrec(let id):
            for index in device.sending.indices where device.sending[index].id == id {
                device.sending[index].isReceived = true
            }
            device.unsaid.append(Frame.pubrel(id))
        case .pubcomp(let id): device.sending.removeAll { $0.id == id && $0.isReceived }
        case .pubrel(let id):
            device.held.remove(id)
            device.unsaid.append(Frame.pubcomp(id))
        case .connack(_, let code): if code != 0 { problems.append("\(device.name) was refused with \(code)") }
        case .suback, .unsuback: break
        case .pingresp, .other: problems.append("\(device.name) got \(answer)")
        }
    }

    private mutating func take(_ event: Answer.Publish, _ device: Device) {
        if event.qos == 2 {
            device.unsaid.append(Frame.pubrec(event.id))
            // Method A of §4.3.3 on the client's side: the identifier decides.
            guard device.held.insert(event.id).inserted else { return }
        } else if event.qos == 1 {
            device.unsaid.append(Frame.puback(event.id))
        }
        let words = event.text.split(separator: " ")
        guard words.count == 4, let number = Int(words[3]), words[1] == event.topic else {
            problems.append("\(device.name) got '\(event.text)' on \(event.topic)")
            return
        }
        let stream = "\(device.name) <- \(words[0]) \(words[1]) \(words[2])"
        let isExactlyOnce = words[2] == "2" && event.qos == 2
        let known = arrived[stream, default: []]
        if event.qos == 0 {
            // Direct ones may be lost, not doubled or reordered.
            if let last = known.last, number <= last, words[2] == "0" {
                problems.append("\(stream): \(number) after \(last)")
            }
            if words[2] == "0" { arrived[stream] = [number] }
            return
        }
        guard !known.contains(number) else {
            // At least once may be twice.
            if isExactlyOnce { problems.append("\(stream): \(number) twice") }
            return
        }
        if let last = known.last, number < last { problems.append("\(stream): \(number) after \(last)") }
        arrived[stream, default: []].append(number)
    }
}
