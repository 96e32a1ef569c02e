internal import ArgumentParser
internal import FoundationEssentials
internal import Glibc

/// One raw figure.
struct Sample: Encodable {
    let scenario: String
    let broker: String
    let metric: String
    let unit: String
    let round: Int
    let value: Double
}

/// All figures of a run and everything that went wrong.
final class Report {
    private(set) var samples: [Sample] = []
    private(set) var failures: [String] = []

    func add(_ scenario: String, _ broker: String, _ metric: String, _ unit: String, round: Int = 0, _ value: Double) {
        samples.append(
            Sample(scenario: scenario, broker: broker, metric: metric, unit: unit, round: round, value: value))
    }

    /// Records a failure. What the broker measured in that scenario is withdrawn: a wrong run is never averaged.
    func fail(_ scenario: String, _ broker: String, _ reason: String) {
        failures.append("\(scenario) \(broker): \(reason)")
        progress("FAILURE \(scenario) \(broker): \(reason)")
        // Variants of the node ("lanes-2", "churned") are withdrawn together.
        samples.removeAll {
            $0.scenario == scenario && ($0.broker == broker || BrokerKind(rawValue: $0.broker) == nil)
        }
    }

    func hasFailed(_ scenario: String, _ broker: String) -> Bool {
        failures.contains { $0.hasPrefix("\(scenario) \(broker):") }
    }

    func values(_ scenario: String, _ broker: String, _ metric: String) -> [Double] {
        samples.filter { $0.scenario == scenario && $0.broker == broker && $0.metric == metric }.map(\.value)
    }

    func median(_ scenario: String, _ broker: String, _ metric: String) -> Double? {
        let sorted = values(scenario, broker, metric).sorted()
        return sorted.isEmpty ? nil : Self.median(sorted: sorted)
    }

    /// - Parameter values: at least one, in order.
    static func median(sorted values: [Double]) -> Double {
        let middle = values.count / 2
        return values.count % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2
    }

    private struct Document: Encodable {
        let settings: [String: String]
        let failures: [String]
        let samples: [Sample]
    }

    /// The end of a run: writes everything down and says what went wrong, if anything did.
    /// - Parameters:
    ///   - settings: how it was measured.
    ///   - json: the file that everything is written to; nil for none.
    func conclude(settings: [String: String], json path: String?) throws {
        if let path {
            let machine = ["processors": "\(sysconf(Int32(_SC_NPROCESSORS_ONLN)))"]
            try Scratch.write(try json(settings: settings.merging(machine) { $1 }) + "\n", to: path)
        }
        guard !failures.isEmpty else { return }
        say("\nFAILURES")
        for failure in failures { say("  " + failure) }
        throw ExitCode(1)
    }

    /// Everything as JSON; `settings` say how it was measured.
    private func json(settings: [String: String]) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        return String(
            decoding: try encoder.encode(Document(settings: settings, failures: failures, samples: samples)),
            as: UTF8.self)
    }
}

/// Numbers and columns for people.
enum Text {
    /// Three significant digits or so.
    static func number(_ value: Double) -> String {
        let size = abs(value)
        return fixed(value, size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3)
    }

    /// Median and extremes of at least one value.
    static func spread(_ values: [Double]) -> String {
        let sorted = values.sorted()
        guard let least = sorted.first, let most = sorted.last else { return "-" }
        return "\(number(Report.median(sorted: sorted))) (\(number(least))..\(number(most)))"
    }

    static func fixed(_ value: Double, _ digits: Int) -> String {
        guard value.isFinite, abs(value) < 1e15 else { return "-" }
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let rounded = Int((abs(value) * scale).rounded())
        let sign = value < 0 && rounded > 0 ? "-" : ""
        guard digits > 0 else { return "\(sign)\(rounded)" }
        let fraction = String(rounded % Int(scale))
        return "\(sign)\(rounded / Int(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
    }

    /// Rows as columns of equal width, two spaces apart.
    static func columns(_ rows: [[String]]) -> [String] {
        var widths: [Int] = []
        for row in rows {
            for (index, cell) in row.enumerated() {
                if index == widths.count { widths.append(0) }
                widths[index] = max(widths[index], cell.count)
            }
        }
        return rows.map { row in
            var line = ""
            for (index, cell) in row.enumerated() {
                line += cell
                if index + 1 < row.count { line += String(repeating: " ", count: widths[index] - cell.count + 2) }
            }
            return line
        }
    }
}
