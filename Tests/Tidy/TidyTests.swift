import Foundation
import Testing

/// The layout and the rules of the repository, as a test: who may import whom, how large a file may be, where the
/// compiler's checks may be set aside.
@Suite struct TidyTests {
    /// What each room may import. `docs/architecture.md` draws it. No room has Foundation, only its essentials: the
    /// rest would bring the tables of ICU into the program, 30 MB.
    private static let arrows: [String: Set<String>] = [
        "Core": ["Synchronization"],
        "TLS": ["Core", "COpenSSL", "Glibc", "Synchronization"],
        "Reactor": ["Core", "TLS", "CLinux", "Glibc", "Logging", "Synchronization"],
        "MQTT": ["Core"],
        "AMQP": ["Core", "CProton"],
        "Mesh": ["Core", "COpenSSL"],
        "Web": ["Core", "COpenSSL", "FoundationEssentials", "Synchronization"],
        "Admin": [
            "Core", "Web", "TLS", "Reactor", "Dispatch", "FoundationEssentials", "Glibc", "Logging", "Synchronization",
        ],
        "Webhooks": ["Core", "CCurl", "CLinux", "COpenSSL", "Glibc", "Logging", "Synchronization"],
        "Bridge": ["Core", "CMosquitto", "CLinux", "Glibc", "Logging", "Synchronization"],
        "Security": ["Core", "CCurl", "CLinux", "COpenSSL", "Glibc", "Synchronization"],
        "Node": [
            "Core", "TLS", "Reactor", "MQTT", "AMQP", "Mesh", "Web", "Webhooks", "Bridge", "Admin", "Security",
            "CLinux", "Glibc", "CYAML", "Dispatch", "FoundationEssentials", "Logging", "Synchronization",
        ],
        "apus": [
            "Core", "Node", "Admin", "Web", "Security", "CMosquitto", "CCurl", "ArgumentParser", "Glibc",
            "FoundationEssentials", "Synchronization",
        ],
        "apus-bench": [
            "ArgumentParser", "CLinux", "COpenSSL", "CProton", "Glibc", "FoundationEssentials", "Synchronization",
        ],
    ]

    /// Files that may say `@unchecked Sendable`, each with a `SAFETY:` line that says why it holds.
    private static let unchecked: Set<String> = [
        "AMQP/Mapping/AMQPPacking.swift", "Core/Event.swift", "Core/Lane.swift", "Core/Mailbox.swift",
        "Core/Router.swift", "Reactor/ReactorLane.swift", "TLS/TLSContexts.swift",
        "Security/Semaphore.swift", "Security/Tokens/SigningKey.swift",
    ]

    private static let lineLimit = 120
    private static let functionLimit = 70
    private static let fileLimit = 800

    private struct Source {
        /// The path below `Sources`, or below the root for other files.
        var path: String
        var lines: [Substring]
    }

    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    private static func files(_ folder: String) throws -> [Source] {
        let base = root.appending(path: folder)
        guard let walk = FileManager.default.enumerator(atPath: base.path) else { return [] }
        return try walk.compactMap { $0 as? String }.filter { $0.hasSuffix(".swift") && !$0.contains(".work/") }
            .sorted()
            .map { path in
                let text = try String(contentsOf: base.appending(path: path), encoding: .utf8)
                return Source(path: path, lines: text.split(separator: "\n", omittingEmptySubsequences: false))
            }
    }

    @Test func roomsImportOnlyWhatTheirArrowsAllow() throws {
        let sources = try Self.files("Sources")
        #expect(sources.count > 50, "the sources were found")
        for source in sources {
            let room = String(source.path.prefix { $0 != "/" })
            guard let allowed = Self.arrows[room] else {
                Issue.record("\(source.path): a room without arrows; draw them here and in docs/architecture.md")
                continue
            }
            for line in source.lines {
                let words = line.split(separator: " ").filter { !["public", "internal", "package"].contains($0) }
                guard words.first == "import", words.count > 1 else { continue }
                #expect(allowed.contains(String(words[1])), "\(source.path) imports \(words[1])")
            }
        }
    }

    @Test func filesAndFunctionsFitTheReader() throws {
        for source in try Self.files("Sources") + Self.files("Tests") {
            #expect(source.lines.count <= Self.fileLimit, "\(source.path) has \(source.lines.count) lines")
            for (number, line) in source.lines.enumerated() where line.count > Self.lineLimit {
                Issue.record("\(source.path):\(number + 1): longer than \(Self.lineLimit) characters")
            }
            for (name, start, length) in Self.functions(source) where length > Self.functionLimit {
                Issue.record("\(source.path):\(start): \(name) has \(length) lines")
            }
        }
    }

    /// Functions by indentation, which the formatter guarantees: from `func` to the brace under it.
    private static func functions(_ source: Source) -> [(name: String, start: Int, length: Int)] {
        var found: [(String, Int, Int)] = []
        var open: [(indent: Int, name: String, start: Int)] = []
        for (number, line) in source.lines.enumerated() {
            let indent = line.prefix { $0 == " " }.count
            let text = line.dropFirst(indent)
            if let last = open.last, indent == last.indent, text.hasPrefix("}"), !text.contains("else") {
                found.append((last.name, last.start, number + 1 - last.start + 1))
                open.removeLast()
            }
            let words = text.split(separator: " ")
            // A requirement of a protocol has no body and ends with neither.
            let opens = text.hasSuffix("{") || text.hasSuffix("(")
            if let word = words.firstIndex(of: "func"), !text.hasPrefix("//"), opens, word < 6 {
                open.append((indent, String(words[min(word + 1, words.count - 1)]), number + 1))
            }
        }
        return found
    }

    @Test func theCompilersChecksAreSetAsideOnlyWhereAgreed() throws {
        for source in try Self.files("Sources") {
            for (number, line) in source.lines.enumerated() {
                let place = "\(source.path):\(number + 1)"
                // The load generator's signal handler may touch nothing but plain memory.
                if source.path != "apus-bench/Child.swift" {
                    #expect(!line.contains("nonisolated(unsafe)"), "\(place)")
                }
                #expect(
                    !line.contains("try!") && !line.contains("fatalError("), "\(place): a peer must not end the node")
                guard line.contains("@unchecked Sendable"), !line.contains("//") else { continue }
                #expect(Self.unchecked.contains(source.path), "\(place): not on the list")
                let before = source.lines[max(0, number - 5)..<number]
                #expect(before.contains { $0.contains("SAFETY:") }, "\(place): say why it is safe")
            }
        }
    }

    @Test func everyFileBeginsWithWhatItIsFor() throws {
        for source in try Self.files("Sources") {
            #expect(
                source.lines.prefix(30).contains { $0.hasPrefix("///") || $0.hasPrefix("//") },
                "\(source.path): a reader wants to know what this is")
        }
    }

    /// Every public declaration says what it is for: those that say `public` or `open`, the requirements of public
    /// protocols, and the cases of public enums, unless all of them stand in the line of the enum. What overrides has
    /// its comment where it was declared first.
    @Test func everyPublicDeclarationIsExplained() throws {
        var count = 0
        for source in try Self.files("Sources") {
            // Members of a public protocol or enum are public without saying so.
            var outer: [(indent: Int, isEnum: Bool)] = []
            for (number, line) in source.lines.enumerated() {
                let indent = line.prefix { $0 == " " }.count
                let words = line.split { $0 == " " || $0 == "(" || $0 == "<" || $0 == ":" || $0 == "{" }
                guard let first = words.first(where: { !$0.hasPrefix("@") && !$0.hasSuffix(")") }) else { continue }
                outer.removeAll { indent <= $0.indent }
                let isPublic = (first == "public" || first == "open") && words.contains { Self.keywords.contains($0) }
                let isMember =
                    outer.last.map {
                        indent == $0.indent + 4
                            && ($0.isEnum ? first == "case" || first == "indirect" : Self.keywords.contains(first))
                    } ?? false
                if isPublic, line.hasSuffix("{"), words.contains("protocol") || words.contains("enum") {
                    outer.append((indent, words.contains("enum")))
                }
                guard isPublic || isMember, !words.contains("override"), !words.contains("extension"),
                    !words.contains("import")
                else { continue }
                count += 1
                let before = source.lines[..<number].last { !$0.drop { $0 == " " }.hasPrefix("@") } ?? ""
                if !before.drop(while: { $0 == " " }).hasPrefix("///") {
                    Issue.record("\(source.path):\(number + 1): without a word on what it is for")
                }
            }
        }
        #expect(count > 1_000, "the declarations were found")
    }

    private static let keywords: Set<Substring> = [
        "func", "var", "let", "init", "subscript", "struct", "class", "enum", "protocol", "typealias", "actor", "case",
        "init?", "associatedtype", "mutating", "static",
    ]

    /// What belongs to one machine or one writer has no place in what strangers read.
    @Test func nothingHereNamesAMachine() throws {
        let words = ["/work/", "/root/", "/home/"]
        for source in try Self.files("Sources") {
            for (number, line) in source.lines.enumerated() {
                for word in words { #expect(!line.contains(word), "\(source.path):\(number + 1)") }
            }
        }
    }
}
