/// `apus pub`.
import ArgumentParser
import Glibc

/// Publishes one event, or one for each line.
struct PubCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pub",
        abstract: "Publish events by MQTT.",
        discussion: """
            Takes the common options of mosquitto_pub. Ends with 0 when the server has taken everything, with 1 when \
            not. It tells of an event that it does not take, as one beyond the access rules, with -V 5 and -q 1 or 2 \
            only: at QoS 0, and in MQTT 3.1.1, publishers are not told.

            Examples:
              apus pub -t greetings/world -m hello
              apus pub -t plans/today -f plan.txt -q 1 -r
              tail -f app.log | apus pub -t logs/app -l
              apus pub -t plans/today -n -r
            """,
        // -h is the host, as in mosquitto_pub.
        helpNames: .long)

    /// The largest payload of MQTT.
    private static let maxPayloadBytes = 268_435_455
    /// Events sent and not yet taken; more wait, so that a fast file does not fill the memory.
    private static let maxPending = 1_000

    @OptionGroup var client: ClientOptions

    @Option(name: .shortAndLong, help: "The topic.")
    var topic: String

    @Option(name: .shortAndLong, help: "The payload.")
    var message: String?

    @Option(name: .shortAndLong, help: "Send this file as the payload.")
    var file: String?

    @Flag(name: [.customShort("l"), .customLong("stdin-line")], help: "Send each line of standard input as one event.")
    var lines = false

    @Flag(name: [.customShort("s"), .customLong("stdin-file")], help: "Send all of standard input as one event.")
    var stdin = false

    @Flag(name: [.customShort("n"), .customLong("null-message")], help: "Send an empty payload.")
    var nothing = false

    @Flag(name: .shortAndLong, help: "Let the server retain the event.")
    var retain = false

    @Option(name: .shortAndLong, help: "The quality of service: 0, 1 or 2.")
    var qos = 0

    func validate() throws {
        try ClientOptions.validate(qos: qos)
        let sources = [message != nil, file != nil, lines, stdin, nothing].count { $0 }
        if sources != 1 {
            throw ValidationError("Say what to send by exactly one of -m, -f, -l, -s and -n")
        }
        if topic.isEmpty || topic.contains(where: { $0 == "+" || $0 == "#" }) {
            throw ValidationError("A topic to publish to is not empty and has no '+' or '#'")
        }
    }

    func run() throws {
        let payload = try wholePayload()
        let connection = try MosquittoClient(client.settings(isCleanSession: true))
        connection.onRefusal = { printError("apus: \($0)") }
        try connection.connect()
        if let payload {
            try publish(payload, on: connection)
        } else {
            try publishLines(on: connection)
        }
        let deadline = Deadline(seconds: 30)
        while !connection.pending.isEmpty {
            if deadline.isOver { throw CommandFailure("\(connection.pending.count) event(s) were not acknowledged") }
            try connection.loop(milliseconds: 100)
        }
        connection.disconnect()
        guard connection.refused > 0 else { return }
        if lines { throw CommandFailure("\(connection.refused) event(s) were refused") }
        throw ExitCode.failure
    }

    /// What to send, or nil when it comes line by line.
    private func wholePayload() throws -> [UInt8]? {
        if let message { return Array(message.utf8) }
        if let file { return try readAll(path: file, limit: Self.maxPayloadBytes) }
        if stdin { return try readAll(STDIN_FILENO, limit: Self.maxPayloadBytes, name: "standard input") }
        return nothing ? [] : nil
    }

    private func publish(_ payload: [UInt8], on connection: MosquittoClient) throws {
        while connection.pending.count >= Self.maxPending { try connection.loop(milliseconds: 100) }
        try connection.publish(topic: topic, payload: payload, qos: qos, isRetained: retain)
    }

    private func publishLines(on connection: MosquittoClient) throws {
        var held: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            // Waits for both, so that the connection lives while nobody types.
            var waits = [
                pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0),
                pollfd(fd: connection.socket, events: Int16(POLLIN), revents: 0),
            ]
            if poll(&waits, 2, 500) < 0, errno != EINTR { throw CommandFailure.system("cannot wait for input") }
            if waits[1].revents != 0 || waits[0].revents == 0 { try connection.loop(milliseconds: 0) }
            guard waits[0].revents != 0 else { continue }
            let count = read(STDIN_FILENO, &chunk, chunk.count)
            if count < 0 {
                if errno == EINTR { continue }
                throw CommandFailure.system("cannot read standard input")
            }
            if count == 0 { break }
            held += chunk[..<count]
            var start = held.startIndex
            while let end = held[start...].firstIndex(of: 0x0A) {
                try publish(Array(held[start..<end]), on: connection)
                start = end + 1
            }
            held.removeSubrange(..<start)
            if held.count > Self.maxPayloadBytes { throw CommandFailure("a line is too long for one event") }
        }
        if !held.isEmpty { try publish(held, on: connection) }
    }
}
