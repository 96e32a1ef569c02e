/// A configuration before it is checked: names and texts, each with the place it comes from. The file makes the tree,
/// environment and flags change it, ``ConfigurationReader`` checks it; so one set of rules serves all three.

/// A node of the tree.
indirect enum Setting: Sendable {
    case text(String, place: String)
    case list([Setting], place: String)
    case map([Entry], place: String)
    /// A key without a value.
    case nothing(place: String)

    /// The place of what nobody has said.
    static let standardPlace = "default"

    struct Entry: Sendable {
        let name: String
        let place: String
        var value: Setting
    }

    var place: String {
        switch self {
        case .text(_, let place), .list(_, let place), .map(_, let place), .nothing(let place): place
        }
    }

    /// What it is, for "expected …, found …".
    var kind: String {
        switch self {
        case .text: "a single value"
        case .list: "a list"
        case .map: "a group of keys"
        case .nothing: "nothing"
        }
    }

    subscript(_ name: String) -> Setting? {
        guard case .map(let entries, _) = self else { return nil }
        return entries.first { $0.name == name }?.value
    }
}

extension Setting {
    /// Replaces `${NAME}` in all texts by environment variables. Only upper-case names: `${username}` belongs to access
    /// rules. Values are texts and stay texts, whatever they look like; one with a variable that is not set is empty.
    func substituted(
        from environment: [String: String], used: inout Set<String>, problems: inout [ConfigurationProblem]
    ) -> Setting {
        switch self {
        case .text(let text, let place):
            return .text(
                Self.substitute(text, place, environment, used: &used, problems: &problems), place: place)
        case .list(let items, let place):
            var settings: [Setting] = []
            for item in items {
                settings.append(item.substituted(from: environment, used: &used, problems: &problems))
            }
            return .list(settings, place: place)
        case .map(var entries, let place):
            for index in entries.indices {
                entries[index].value =
                    entries[index].value.substituted(from: environment, used: &used, problems: &problems)
            }
            return .map(entries, place: place)
        case .nothing:
            return self
        }
    }

    private static func substitute(
        _ text: String, _ place: String, _ environment: [String: String], used: inout Set<String>,
        problems: inout [ConfigurationProblem]
    ) -> String {
        var result = ""
        var isWhole = true
        var rest = text[...]
        while let dollar = rest.firstIndex(of: "$") {
            result += rest[..<dollar]
            let after = rest[rest.index(after: dollar)...]
            guard after.first == "{", let end = after.firstIndex(of: "}") else {
                result += "$"
                rest = after
                continue
            }
            let name = String(after[after.index(after: after.startIndex)..<end])
            rest = after[after.index(after: end)...]
            guard isVariableName(name) else {
                result += "${\(name)}"
                continue
            }
            used.insert(name)
            if let value = environment[name] {
                result += value
            } else {
                isWhole = false
                problems.append(
                    .init(place: place, key: "", message: "the environment variable \(name) is not set"))
            }
        }
        return isWhole ? result + rest : ""
    }

    private static func isVariableName(_ name: String) -> Bool {
        guard let first = name.utf8.first, !(0x30...0x39).contains(first) else { return false }
        return name.utf8.allSatisfy { (0x41...0x5A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x5F }
    }
}
