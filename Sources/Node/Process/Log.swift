/// Logging: swift-log records as lines on standard error, one `write` each. Standard output stays for what a command
/// prints.
import Glibc
public import Logging

/// Sets logging up, and writes the records that other programs wait for.
public struct Log: Sendable {
    /// The levels, to be changed on reload and on a signal.
    public let levels: LogLevels
    private let output: LogOutput

    /// Logging as `settings` say, to `descriptor` (standard error), which stays the caller's.
    public init(_ settings: LogSettings, descriptor: Int32 = 2) {
        levels = LogLevels(settings)
        output = LogOutput(settings.format, descriptor: descriptor)
    }

    /// Makes this the log of all loggers made from now on. Once in a process.
    public func bootstrap() {
        let log = self
        LoggingSystem.bootstrap { label in LineLogHandler(label: label, levels: log.levels, output: log.output) }
    }

    /// A logger of this log without making it everyone's, for tests and before ``bootstrap()``.
    public func logger(_ label: String) -> Logger {
        Logger(label: label) { LineLogHandler(label: $0, levels: levels, output: output) }
    }

    /// Says that all listeners accept: one line whatever the levels are, because scripts wait for it. In JSON it is
    /// `{"event":"ready","listeners":[{"protocol":"mqtt","address":"127.0.0.1:1883"}],"admin":"127.0.0.1:8222",…}`.
    /// - Parameters:
    ///   - listeners: with the addresses that the system chose.
    ///   - admin: the address of the management interface; nil without one.
    public func ready(node: String, listeners: [(protocolName: String, address: String)], admin: String? = nil) {
        output.ready(node: node, listeners: listeners, admin: admin)
    }
}

/// Where lines go.
struct LogOutput: Sendable {
    private let descriptor: Int32
    private let format: LogFormat
    private let isColoured: Bool

    init(_ format: LogFormat, descriptor: Int32) {
        let isTerminal = isatty(descriptor) == 1
        self.descriptor = descriptor
        self.format = format == .auto ? (isTerminal ? .text : .json) : format
        // https://no-color.org
        isColoured = isTerminal && getenv("NO_COLOR") == nil
    }

    func write(level: Logger.Level, label: String, message: String, metadata: Logger.Metadata) {
        write(
            LogLine(isColoured: isColoured, format: format)
                .bytes(time: now(), level: level, label: label, message: message, metadata: metadata))
    }

    func ready(node: String, listeners: [(protocolName: String, address: String)], admin: String?) {
        guard format == .json else {
            let all = listeners + (admin.map { [("admin", $0)] } ?? [])
            let addresses = all.map { "\($0.protocolName) \($0.address)" }.joined(separator: ", ")
            return write(level: .info, label: "node", message: "ready: \(addresses)", metadata: ["node": "\(node)"])
        }
        var line = Array(#"{"event":"ready","listeners":["#.utf8)
        for (index, listener) in listeners.enumerated() {
            line += (index > 0 ? "," : "").utf8
            line += #"{"protocol":"#.utf8
            LogLine.appendJSON(listener.protocolName, to: &line)
            line += #","address":"#.utf8
            LogLine.appendJSON(listener.address, to: &line)
            line.append(UInt8(ascii: "}"))
        }
        line.append(UInt8(ascii: "]"))
        if let admin {
            line += #","admin":"#.utf8
            LogLine.appendJSON(admin, to: &line)
        }
        line += #","node":"#.utf8
        LogLine.appendJSON(node, to: &line)
        line += #","time":""#.utf8
        LogLine.append(now(), to: &line)
        line += #"","level":"info"}"#.utf8
        line.append(0x0A)
        write(line)
    }

    private func now() -> timespec {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return time
    }

    /// One write for a line, so that lines of several threads do not mix. What cannot be written is lost: there is
    /// nowhere left to say so, and a node does not stop because its log's reader has gone.
    private func write(_ line: [UInt8]) {
        var rest = line[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { return }
            rest = rest.dropFirst(count)
        }
    }
}

/// The handler behind each logger.
struct LineLogHandler: LogHandler {
    let label: String
    let levels: LogLevels
    let output: LogOutput
    var metadata: Logger.Metadata = [:]
    var metadataProvider: Logger.MetadataProvider?
    /// A level set on one logger; without it the table decides, at every call.
    private var own: Logger.Level?

    init(label: String, levels: LogLevels, output: LogOutput) {
        self.label = label
        self.levels = levels
        self.output = output
    }

    var logLevel: Logger.Level {
        get { own ?? levels.level(of: label) }
        set { own = newValue }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        var all = metadata
        if let provided = metadataProvider?.get() { all.merge(provided) { _, new in new } }
        if let given = event.metadata { all.merge(given) { _, new in new } }
        if let error = event.error { all["error"] = "\(error)" }
        output.write(level: event.level, label: label, message: event.message.description, metadata: all)
    }
}
