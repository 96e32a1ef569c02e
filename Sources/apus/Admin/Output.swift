/// How the commands that manage a node print: tables for people, JSON for programs.
import FoundationEssentials

/// Prints a document as JSON.
func printJSON(_ document: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
    encoder.dateEncodingStrategy = .iso8601
    print(String(decoding: try encoder.encode(document), as: UTF8.self))
}

/// Prints rows in columns that fit, under a head.
func printTable(_ head: [String], _ rows: [[String]]) {
    let lines = [head] + rows.map { $0.map(printable) }
    let widths = head.indices.map { column in lines.map { $0[column].count }.max() ?? 0 }
    for line in lines {
        var text = ""
        for (column, cell) in line.enumerated() {
            let padding = column == line.count - 1 ? 0 : widths[column] + 2 - cell.count
            text += cell + String(repeating: " ", count: padding)
        }
        print(text)
    }
}

/// A text that others have chosen, without characters that a terminal would obey.
func printable(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
        if scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) {
            result += "\\u{\(String(scalar.value, radix: 16))}"
        } else {
            result.unicodeScalars.append(scalar)
        }
    }
    return result
}

/// How long something has lasted, in its two largest units.
func duration(_ seconds: Int) -> String {
    let seconds = max(0, seconds)
    if seconds < 60 { return "\(seconds) s" }
    if seconds < 3_600 { return "\(seconds / 60) min \(seconds % 60) s" }
    if seconds < 86_400 { return "\(seconds / 3_600) h \(seconds % 3_600 / 60) min" }
    return "\(seconds / 86_400) d \(seconds % 86_400 / 3_600) h"
}
