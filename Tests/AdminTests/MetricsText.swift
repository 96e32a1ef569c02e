import Testing

/// A strict reader of the text format 0.0.4, written from its description: whatever is not exactly as described is an
/// error.
struct ParsedMetrics {
    struct Failure: Error, CustomStringConvertible {
        var line: Int
        var what: String
        var description: String { "line \(line): \(what)" }
    }

    struct Sample: Equatable {
        var name: String
        var labels: [String: String]
        var value: Double
    }

    struct Family {
        var type: String
        var help: String
        var samples: [Sample] = []
    }

    private(set) var families: [String: Family] = [:]
    private var current: String?
    private var seen: Set<String> = []

    init(_ text: String) throws {
        guard text.hasSuffix("\n") else { throw Failure(line: 0, what: "the last line has no line feed") }
        var pendingHelp: (name: String, text: String)?
        for (number, line) in text.dropLast().split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            func failure(_ what: String) -> Failure { Failure(line: number + 1, what: "\(what): \(line)") }
            if let match = line.wholeMatch(of: /# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)/) {
                guard pendingHelp == nil else { throw failure("HELP without TYPE before") }
                pendingHelp = (String(match.output.1), String(match.output.2))
            } else if let match = line.wholeMatch(of: /# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram)/) {
                let name = String(match.output.1)
                guard let help = pendingHelp, help.name == name else { throw failure("TYPE without its HELP") }
                guard families[name] == nil else { throw failure("a family twice") }
                families[name] = Family(type: String(match.output.2), help: help.text)
                (current, pendingHelp) = (name, nil)
            } else {
                guard pendingHelp == nil else { throw failure("HELP without TYPE") }
                guard let sample = Self.sample(line) else { throw failure("no sample") }
                try add(sample, failure)
            }
        }
        for (name, family) in families where family.samples.isEmpty {
            throw Failure(line: 0, what: "\(name) has no samples")
        }
    }

    private static func sample(_ line: Substring) -> Sample? {
        let pattern = /([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([-+.0-9eEInf]+)/
        guard let match = line.wholeMatch(of: pattern), let value = Double(match.output.3) else { return nil }
        var labels: [String: String] = [:]
        var rest = match.output.2 ?? ""
        while !rest.isEmpty {
            guard let label = rest.prefixMatch(of: /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,?)/)
            else { return nil }
            guard labels.updateValue(String(label.output.2), forKey: String(label.output.1)) == nil else { return nil }
            rest = rest[label.range.upperBound...]
            // A comma only between two.
            guard rest.isEmpty == label.output.3.isEmpty else { return nil }
        }
        return Sample(name: String(match.output.1), labels: labels, value: value)
    }

    private mutating func add(_ sample: Sample, _ failure: (String) -> Failure) throws {
        guard let current, var family = families[current] else { throw failure("a sample without a family") }
        let suffixes = family.type == "histogram" ? ["_bucket", "_sum", "_count"] : [""]
        guard suffixes.contains(where: { sample.name == current + $0 }) else { throw failure("not of its family") }
        let identity = sample.name + sample.labels.sorted { $0.key < $1.key }.map { "\($0)=\($1)" }.joined()
        guard seen.insert(identity).inserted else { throw failure("a sample twice") }
        guard sample.name.hasSuffix("_bucket") == (sample.labels["le"] != nil) else { throw failure("le") }
        family.samples.append(sample)
        families[current] = family
    }

    /// The value of a sample; nil when it is not there.
    func value(_ name: String, _ labels: [String: String] = [:]) -> Double? {
        families.values.flatMap(\.samples).first { $0.name == name && $0.labels == labels }?.value
    }
}
