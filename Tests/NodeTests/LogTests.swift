import Foundation
import Logging
import Node
import Testing

/// Runs `body` with a log to a pipe and returns what was written.
private func written(_ settings: LogSettings, _ body: (Log) -> Void) throws -> String {
    let pipe = Pipe()
    body(Log(settings, descriptor: pipe.fileHandleForWriting.fileDescriptor))
    try pipe.fileHandleForWriting.close()
    return String(decoding: try pipe.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
}

private func json(_ line: some StringProtocol) throws -> [String: Any] {
    try #require(JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
}

private func settings(_ format: LogFormat, _ level: Logger.Level = .info) -> LogSettings {
    var settings = LogSettings()
    settings.format = format
    settings.level = level
    return settings
}

@Suite("Log")
struct LogTests {
    @Test("A JSON line is one line and says what was said, whatever it was")
    func escaping() throws {
        let nasty = "q\" b\\ n\n r\r t\t z\u{0} e\u{1B}[31m d\u{7F} ü € 😀 \u{2028} </script>"
        let text = try written(settings(.json)) { log in
            log.logger("node").info(
                "\(nasty)", metadata: ["k\"\n": "\(nasty)", "list": ["a", "\n"], "map": ["x": "\"y"], "level": "mine"])
        }
        #expect(text.hasSuffix("}\n"))
        #expect(text.utf8.count { $0 == 0x0A } == 1)
        let record = try json(text)
        #expect(record["message"] as? String == nasty)
        #expect(record["k\"\n"] as? String == nasty)
        #expect(record["list"] as? [String] == ["a", "\n"])
        #expect(record["map"] as? [String: String] == ["x": "\"y"])
        #expect(record["level"] as? String == "info")
        #expect(record["_level"] as? String == "mine")
        #expect(record["component"] as? String == "node")
    }

    @Test("The time is UTC with milliseconds; numbers stay numbers")
    func timeAndNumbers() throws {
        let before = Date().addingTimeInterval(-0.002)
        let text = try written(settings(.json)) { log in
            log.logger("a").error("x", metadata: ["n": .stringConvertible(42), "yes": .stringConvertible(true)])
        }
        let record = try json(text)
        #expect(record["n"] as? Int == 42)
        #expect(record["yes"] as? Bool == true)
        let time = try #require(record["time"] as? String)
        let date = try Date(time, strategy: Date.ISO8601FormatStyle(includingFractionalSeconds: true))
        #expect(date >= before && date <= Date())
    }

    @Test("Text lines show no control characters, and no colour outside of a terminal")
    func textLines() throws {
        let text = try written(settings(.text)) { log in
            log.logger("mqtt").warning("bad\u{1B}[2J\nforged line", metadata: ["id": "a b\n", "n": "1"])
        }
        #expect(text.utf8.count { $0 == 0x0A } == 1)
        #expect(!text.contains("\u{1B}"))
        #expect(text.contains(#"Z warning mqtt: bad\x1b[2J\nforged line id="a b\n" n=1"#), "\(text)")
    }

    @Test("auto is JSON where no terminal is")
    func auto() throws {
        let text = try written(settings(.auto)) { $0.logger("x").info("y") }
        #expect(try json(text)["message"] as? String == "y")
    }

    @Test("Levels by component, changed while running")
    func levels() throws {
        var some = settings(.json, .warning)
        some.levels = ["mqtt": .debug]
        let text = try written(some) { log in
            let node = log.logger("node")
            let codec = log.logger("mqtt.codec")
            node.info("no 1")
            codec.debug("yes 1")
            codec.trace("no 2")
            #expect(log.levels.toggleDebug())
            node.debug("yes 2")
            #expect(!log.levels.toggleDebug())
            node.debug("no 3")
            log.levels.update(settings(.json, .error))
            codec.debug("no 4")
            node.error("yes 3")
        }
        #expect(
            try text.split(separator: "\n").map { try json($0)["message"] as? String } == ["yes 1", "yes 2", "yes 3"])
    }

    @Test("The ready record, in JSON one line that begins as promised, and at any level")
    func ready() throws {
        let text = try written(settings(.json, .error)) { log in
            log.ready(node: "n", listeners: [("mqtt", "127.0.0.1:1883"), ("mqtt", "[::1]:2")])
        }
        #expect(
            text.hasPrefix(
                #"{"event":"ready","listeners":[{"protocol":"mqtt","address":"127.0.0.1:1883"},"#
                    + #"{"protocol":"mqtt","address":"[::1]:2"}]"#))
        #expect(try json(text)["node"] as? String == "n")
        #expect(try json(text)["admin"] == nil)
        let managed = try written(settings(.json, .error)) { $0.ready(node: "n", listeners: [], admin: "[::1]:8222") }
        #expect(try json(managed)["admin"] as? String == "[::1]:8222")
        let plain = try written(settings(.text, .error)) { $0.ready(node: "n", listeners: [("mqtt", "127.0.0.1:1")]) }
        #expect(plain.contains("ready: mqtt 127.0.0.1:1"))
    }
}
