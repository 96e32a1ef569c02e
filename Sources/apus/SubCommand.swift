/// `apus sub`.
import ArgumentParser
import Glibc
import Synchronization

/// Prints events as they come.
struct SubCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sub",
        abstract: "Subscribe by MQTT and print events.",
        discussion: """
            Takes the common options of mosquitto_sub. Prints each payload on a line until it is interrupted, and \
            connects again when the connection is lost. With -C it ends after that many events, with -W after that \
            many seconds: with 1 when -C was not reached by then.

            Examples:
              apus sub -t 'greetings/#' -v
              apus sub -t a/+ -t b/# -q 1 -C 10
              apus sub -t state -C 1 -W 5
            """,
        // -h is the host, as in mosquitto_sub.
        helpNames: .long)

    @OptionGroup var client: ClientOptions

    @Option(name: .shortAndLong, parsing: .singleValue, help: "A topic filter; repeatable.")
    var topic: [String]

    @Flag(name: .shortAndLong, help: "Print the topic before the payload.")
    var verbose = false

    @Option(name: [.customShort("C"), .long], help: "End after this many events.")
    var count: Int?

    @Option(name: [.customShort("W"), .long], help: ArgumentHelp("End after this long.", valueName: "seconds"))
    var timeout: Int?

    @Flag(
        name: [.customShort("c"), .customLong("disable-clean-session")],
        help: "Let the server keep the session; needs --id.")
    var keepsSession = false

    @Option(name: .shortAndLong, help: "The quality of service: 0, 1 or 2.")
    var qos = 0

    @Flag(name: [.customShort("R"), .customLong("no-retained")], help: "Do not print retained events.")
    var skipsRetained = false

    func validate() throws {
        try ClientOptions.validate(qos: qos)
        if topic.isEmpty || topic.contains("") { throw ValidationError("Say what to subscribe to by -t FILTER") }
        for filter in topic where !MosquittoClient.isFilter(filter) {
            throw ValidationError("'\(filter)' is no topic filter: '+' stands alone in a level, '#' alone in the last")
        }
        if let count, count < 1 { throw ValidationError("--count must be at least 1") }
        if let timeout, timeout < 1 { throw ValidationError("--timeout must be at least 1") }
        if keepsSession, client.id == nil { throw ValidationError("--disable-clean-session needs --id") }
    }

    func run() throws {
        Interruption.watch()
        var printed = 0
        var isOpen = true
        let connection = try MosquittoClient(client.settings(isCleanSession: !keepsSession))
        connection.onMessage = { message in
            if skipsRetained && message.isRetained { return }
            // Events that come after the last one asked for are not printed.
            if let count, printed >= count { return }
            printed += 1
            let prefix = verbose ? Array("\(message.topic) ".utf8) : []
            if !writeAll(prefix + message.payload + [0x0A], to: STDOUT_FILENO) { isOpen = false }
        }
        let deadline = timeout.map(Deadline.init(seconds:))
        try connection.connect()
        try connection.subscribe(to: topic, qos: qos)
        while isOpen, !Interruption.isRequested {
            if let count, printed >= count { break }
            if let deadline, deadline.isOver { break }
            do {
                try connection.loop(milliseconds: 100)
            } catch {
                printError("apus: \(error); connecting again")
                try reconnect(connection, until: deadline)
            }
        }
        connection.disconnect()
        if let count, printed < count, !Interruption.isRequested {
            throw CommandFailure("\(printed) of \(count) event(s) came within \(timeout ?? 0) seconds")
        }
    }

    /// Tries each second, until it succeeds or the time is over.
    private func reconnect(_ connection: MosquittoClient, until deadline: Deadline?) throws {
        while !Interruption.isRequested {
            if let deadline, deadline.isOver { return }
            sleep(1)
            do {
                try connection.reconnect()
            } catch {
                printError("apus: \(error)")
                continue
            }
            return try connection.subscribe(to: topic, qos: qos)
        }
    }
}

/// Whether someone wants the command to end.
enum Interruption {
    private static let requested = Atomic<Bool>(false)

    static var isRequested: Bool { requested.load(ordering: .relaxed) }

    /// Makes SIGINT and SIGTERM a request instead of the end. An atomic store is all a signal handler may do.
    static func watch() {
        // Once before any signal, so that the handler does not have to make it.
        requested.store(false, ordering: .relaxed)
        signal(SIGINT) { _ in Interruption.requested.store(true, ordering: .relaxed) }
        signal(SIGTERM) { _ in Interruption.requested.store(true, ordering: .relaxed) }
    }
}
