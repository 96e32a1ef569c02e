import Foundation
import Testing

/// What the documents promise: links that lead somewhere, and rooms without a clock or dice of their own.
@Suite struct DocumentTests {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    private static func files(_ folder: String, ending: String) -> [String] {
        let walk = FileManager.default.enumerator(atPath: root.appending(path: folder).path)
        let names = (walk?.compactMap { $0 as? String } ?? []).filter { $0.hasSuffix(ending) }
        return names.sorted().map { "\(folder)/\($0)" }
    }

    private static func lines(_ path: String) throws -> [Substring] {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
            .split(separator: "\n", omittingEmptySubsequences: false)
    }

    @Test func relativeLinksLeadSomewhere() throws {
        let documents = Self.files("docs", ending: ".md") + ["README.md", "CHANGELOG.md"]
        var followed = 0
        for document in documents where FileManager.default.fileExists(atPath: Self.root.appending(path: document).path)
        {
            let folder = Self.root.appending(path: document).deletingLastPathComponent()
            var isCode = false
            for (number, line) in try Self.lines(document).enumerated() {
                if line.hasPrefix("```") { isCode.toggle() }
                guard !isCode else { continue }
                for part in line.components(separatedBy: "](").dropFirst() {
                    let target = String(part.prefix { $0 != ")" && $0 != "#" && $0 != " " })
                    guard !target.isEmpty, !target.contains(":") else { continue }
                    followed += 1
                    if !FileManager.default.fileExists(atPath: folder.appending(path: target).path) {
                        Issue.record("\(document):\(number + 1): \(target) is not there")
                    }
                }
            }
        }
        #expect(followed > 0)
    }

    /// Time and randomness are handed in, and nothing waits: hence the same input is the same run.
    @Test func coreAndProtocolsHaveNoClockAndNoDice() throws {
        let forbidden = ["ContinuousClock", "SuspendingClock", "RandomNumberGenerator", ".random(", "Task {", "await "]
        let sources = Self.files("Sources/Core", ending: ".swift") + Self.files("Sources/MQTT", ending: ".swift")
        #expect(sources.count > 20)
        for source in sources {
            for (number, line) in try Self.lines(source).enumerated() where !line.contains("//") {
                for word in forbidden where line.contains(word) { Issue.record("\(source):\(number + 1): \(word)") }
            }
        }
    }
}
