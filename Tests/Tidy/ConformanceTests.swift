import Foundation
import Testing

/// `docs/conformance-mqtt.md` is complete: every numbered statement of both specifications is there once, and every
/// proof it names exists.
@Suite struct ConformanceTests {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    /// Sections of appendix B with their highest number; where numbers are missing, with the ones that are there.
    private static let version5: [(section: String, numbers: ClosedRange<Int>)] = [
        ("1.5.4", 1...3), ("1.5.5", 1...1), ("1.5.7", 1...1), ("2.1.3", 1...1), ("2.2.1", 2...6), ("2.2.2", 1...1),
        ("3.1.0", 1...2), ("3.1.2", 1...30), ("3.1.3", 1...12), ("3.1.4", 1...6), ("3.2.0", 1...2), ("3.2.2", 1...22),
        ("3.3.1", 1...13), ("3.3.2", 1...20), ("3.3.4", 1...10), ("3.4.2", 1...3), ("3.5.2", 1...3), ("3.6.1", 1...1),
        ("3.6.2", 1...3), ("3.7.2", 1...3), ("3.8.1", 1...1), ("3.8.3", 1...5), ("3.8.4", 1...8), ("3.9.2", 1...2),
        ("3.9.3", 1...2), ("3.10.1", 1...1), ("3.10.3", 1...2), ("3.10.4", 1...6), ("3.11.2", 1...2),
        ("3.11.3", 1...2), ("3.12.4", 1...1), ("3.14.0", 1...1), ("3.14.1", 1...1), ("3.14.2", 1...4),
        ("3.14.4", 1...3), ("3.15.1", 1...1), ("3.15.2", 1...3), ("4.1.0", 1...2), ("4.2.0", 1...1), ("4.3.1", 1...1),
        ("4.3.2", 1...5), ("4.3.3", 1...13), ("4.4.0", 1...2), ("4.5.0", 1...2), ("4.6.0", 1...6), ("4.7.0", 1...1),
        ("4.7.1", 1...2), ("4.7.2", 1...1), ("4.7.3", 1...4), ("4.8.2", 1...6), ("4.9.0", 1...3), ("4.12.0", 1...7),
        ("4.12.1", 1...2), ("4.13.1", 1...1), ("4.13.2", 1...1), ("6.0.0", 1...4),
    ]

    private static let version311: [(section: String, numbers: ClosedRange<Int>)] = [
        ("1.5.3", 1...3), ("2.2.2", 1...2), ("2.3.1", 1...7), ("3.1.0", 1...2), ("3.1.2", 1...24), ("3.1.3", 1...11),
        ("3.1.4", 1...5), ("3.2.0", 1...1), ("3.2.2", 1...6), ("3.3.1", 1...12), ("3.3.2", 1...3), ("3.3.4", 1...1),
        ("3.3.5", 1...2), ("3.6.1", 1...1), ("3.8.1", 1...1), ("3.8.3", 1...4), ("3.8.4", 1...6), ("3.9.3", 1...2),
        ("3.10.1", 1...1), ("3.10.3", 1...2), ("3.10.4", 1...6), ("3.12.4", 1...1), ("3.14.1", 1...1),
        ("3.14.4", 1...3), ("4.1.0", 1...2), ("4.3.1", 1...1), ("4.3.2", 1...2), ("4.3.3", 1...2), ("4.4.0", 1...1),
        ("4.5.0", 1...2), ("4.6.0", 1...6), ("4.7.1", 1...3), ("4.7.2", 1...1), ("4.7.3", 1...4), ("4.8.0", 1...2),
        ("6.0.0", 1...4), ("7.0.0", 1...2), ("7.1.1", 1...1), ("7.1.2", 1...1),
    ]

    private struct Row {
        let id: String
        let demand: String
        let binds: String
        let proof: String
    }

    /// The rows of the table under a heading.
    private static func rows(under heading: String) throws -> [Row] {
        let text = try String(contentsOf: root.appending(path: "docs/conformance-mqtt.md"), encoding: .utf8)
        let sections = text.components(separatedBy: "\n## ")
        let section = try #require(sections.first { $0.hasPrefix(heading + "\n") }, "no section \(heading)")
        return section.split(separator: "\n").filter { $0.hasPrefix("| MQTT-") }.compactMap { line in
            let cells = line.dropFirst().dropLast().split(separator: "|").map {
                $0.trimmingCharacters(in: .whitespaces)
            }
            guard cells.count == 4 else {
                Issue.record("not four columns: \(line)")
                return nil
            }
            return Row(id: cells[0], demand: cells[1], binds: cells[2], proof: cells[3])
        }
    }

    @Test(arguments: [("MQTT 5.0", 251), ("MQTT 3.1.1", 141)])
    func everyStatementIsThereOnce(heading: String, count: Int) throws {
        let ranges = heading == "MQTT 5.0" ? Self.version5 : Self.version311
        let wanted = ranges.flatMap { range in range.numbers.map { "MQTT-\(range.section)-\($0)" } }
        #expect(wanted.count == count)
        let ids = try Self.rows(under: heading).map(\.id)
        #expect(ids == wanted, "in the order of the specification")
    }

    @Test(arguments: ["MQTT 5.0", "MQTT 3.1.1"]) func everyProofExists(heading: String) throws {
        let tests = try Self.tests()
        #expect(tests.count > 300)
        for row in try Self.rows(under: heading) {
            #expect(!row.demand.isEmpty, "\(row.id)")
            #expect(["server", "client", "both"].contains(row.binds), "\(row.id)")
            if row.proof == "client only" {
                #expect(row.binds == "client", "\(row.id)")
                continue
            }
            if row.proof == "not offered" { continue }
            let proofs = row.proof.components(separatedBy: ", ")
            for proof in proofs {
                guard proof.hasPrefix("`"), proof.hasSuffix("`"), proof.count > 2 else {
                    Issue.record("\(row.id): neither a test nor one of the agreed words: \(proof)")
                    continue
                }
                let name = String(proof.dropFirst().dropLast())
                let exists =
                    name.hasPrefix("Interop/")
                    ? FileManager.default.fileExists(atPath: Self.root.appending(path: name).path)
                    : tests.contains(name)
                #expect(exists, "\(row.id): \(name) is not there")
            }
        }
    }

    /// All tests as `Suite/function`: a function marked `@Test` belongs to the type declared last before it.
    private static func tests() throws -> Set<String> {
        let walk = FileManager.default.enumerator(atPath: root.appending(path: "Tests").path)
        var found: Set<String> = []
        for path in walk?.compactMap({ $0 as? String }) ?? [] where path.hasSuffix("Tests.swift") {
            var suite: Substring?
            var isTest = false
            for line in try String(contentsOf: root.appending(path: "Tests/\(path)"), encoding: .utf8)
                .split(separator: "\n") where !line.drop(while: { $0 == " " }).hasPrefix("//")
            {
                if let name = word(after: "struct ", in: line), name.hasSuffix("Tests") { suite = name }
                if line.contains("@Test") { isTest = true }
                if let name = word(after: "func ", in: line) {
                    if isTest, let suite { found.insert("\(suite)/\(name)") }
                    isTest = false
                }
            }
        }
        return found
    }

    private static func word(after keyword: String, in line: Substring) -> Substring? {
        guard let range = line.range(of: keyword) else { return nil }
        let name = line[range.upperBound...].prefix { $0.isLetter || $0.isNumber || $0 == "_" }
        return name.isEmpty ? nil : name
    }
}
