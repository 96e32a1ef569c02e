/// Which levels are logged, changeable while the node runs.
public import Logging
import Synchronization

/// The levels of all components. Read for every log call, written on reload and on SIGUSR2.
public final class LogLevels: Sendable {
    private struct Table: Sendable {
        var settings: LogSettings
        var isDebugging = false
        /// The answer is asked often and changes seldom.
        var resolved: [String: Logger.Level] = [:]
    }

    private let table: Mutex<Table>

    /// Begins with `settings`.
    public init(_ settings: LogSettings) { table = Mutex(Table(settings: settings)) }

    /// The level of the component with logger label `label`: that of its name, else of the longest dotted prefix of it
    /// (`mqtt` sets `mqtt.codec`, too), else the general one.
    public func level(of label: String) -> Logger.Level {
        table.withLock { table in
            if let level = table.resolved[label] { return level }
            let level = Self.resolve(label.lowercased(), table)
            // Labels are few and written in the source; the bound only guards against a mistake.
            if table.resolved.count < 1_000 { table.resolved[label] = level }
            return level
        }
    }

    private static func resolve(_ label: String, _ table: Table) -> Logger.Level {
        var level = table.settings.level
        var name = label[...]
        while !name.isEmpty {
            if let found = table.settings.levels[String(name)] {
                level = found
                break
            }
            guard let dot = name.lastIndex(of: ".") else { break }
            name = name[..<dot]
        }
        return table.isDebugging ? min(level, .debug) : level
    }

    /// Takes new levels.
    public func update(_ settings: LogSettings) {
        table.withLock { table in
            table.settings = settings
            table.resolved = [:]
        }
    }

    /// Switches between the configured levels and at least `debug` for everything. Returns whether it is on now.
    public func toggleDebug() -> Bool {
        table.withLock { table in
            table.isDebugging.toggle()
            table.resolved = [:]
            return table.isDebugging
        }
    }
}
