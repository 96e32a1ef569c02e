/// Environment variables and flags, put over the tree of the file.

/// A flag of `apus run` that sets a key.
public struct ConfigurationFlag: Sendable, Equatable {
    enum Target: Sendable, Equatable {
        case key([String])
        /// The address of the first listener of a protocol; one is added when there is none. `off` removes all of them.
        case listener(ListenerSettings.ProtocolName)
        /// The address of one more link.
        case link
    }

    let flag: String
    let target: Target
    let value: String

    /// `--name`.
    public static func name(_ value: String) -> Self {
        .init(flag: "--name", target: .key(["node", "name"]), value: value)
    }
    /// `--data`.
    public static func data(_ value: String) -> Self {
        .init(flag: "--data", target: .key(["node", "data"]), value: value)
    }
    /// `--lanes`.
    public static func lanes(_ value: String) -> Self {
        .init(flag: "--lanes", target: .key(["node", "lanes"]), value: value)
    }
    /// `--mqtt`: where the first MQTT listener listens.
    public static func mqtt(_ value: String) -> Self { .init(flag: "--mqtt", target: .listener(.mqtt), value: value) }
    /// `--http`: where the first HTTP listener listens, or `off`.
    public static func http(_ value: String) -> Self { .init(flag: "--http", target: .listener(.http), value: value) }
    /// `--amqp`: where the first AMQP listener listens, or `off`.
    public static func amqp(_ value: String) -> Self { .init(flag: "--amqp", target: .listener(.amqp), value: value) }
    /// `--admin`: where the management interface listens, or `off`.
    public static func admin(_ value: String) -> Self {
        .init(flag: "--admin", target: .key(["admin", "listen"]), value: value)
    }
    /// `--mesh`: where other nodes come in, or `off`.
    public static func mesh(_ value: String) -> Self {
        .init(flag: "--mesh", target: .key(["mesh", "listen"]), value: value)
    }
    /// `--link`: dials one more node.
    public static func link(_ value: String) -> Self { .init(flag: "--link", target: .link, value: value) }
    /// `--log-level`.
    public static func logLevel(_ value: String) -> Self {
        .init(flag: "--log-level", target: .key(["log", "level"]), value: value)
    }
    /// `--log-format`.
    public static func logFormat(_ value: String) -> Self {
        .init(flag: "--log-format", target: .key(["log", "format"]), value: value)
    }
}

extension ConfigurationFlag {
    /// Whether it says where somebody may come in.
    var namesListener: Bool {
        switch target {
        case .listener: true
        case .key(let steps): steps == ["mesh", "listen"]
        case .link: false
        }
    }
}

/// The variable that names the configuration file; not a key.
let fileVariable = "APUS_CONFIG"

extension Setting {
    /// Sets every key that an `APUS_…` variable names. One that names no key is a problem, unless the file refers to it
    /// by `${…}`: a misspelt variable that changes nothing would be found too late.
    mutating func override(
        by environment: [String: String], referred: Set<String>, problems: inout [ConfigurationProblem]
    ) {
        // By length and then by name, so that LISTENERS_2 comes before LISTENERS_10.
        let others = [fileVariable, ConfigurationKeys.passwordVariable]
        let names = environment.keys.filter { $0.hasPrefix("APUS_") && !others.contains($0) }
            .sorted { ($0.utf8.count, $0) < ($1.utf8.count, $1) }
        let variables = names.compactMap { name -> (name: String, steps: [String], index: Int)? in
            guard let steps = Self.steps(ofVariable: name) else {
                if !referred.contains(name) { problems.append(Self.unknown(variable: name)) }
                return nil
            }
            return (name, steps, steps.lazy.compactMap { Int($0) }.first ?? 0)
        }
        for (name, steps, _) in variables.sorted(by: { $0.index < $1.index }) {
            guard let value = environment[name] else { continue }
            if let reason = set(steps[...], to: value, place: name) {
                problems.append(.init(place: name, key: "", message: reason))
            }
        }
    }

    private static func unknown(variable: String) -> ConfigurationProblem {
        let known = ConfigurationKeys.all.map(\.variable)
        let hint = nearest(to: variable, among: known).map { "; did you mean \($0)?" } ?? ""
        return .init(place: variable, key: "", message: "this environment variable names no key\(hint)")
    }

    /// Sets what a flag names.
    mutating func override(by flag: ConfigurationFlag, problems: inout [ConfigurationProblem]) {
        let steps: [String]
        switch flag.target {
        case .key(let key): steps = key
        case .listener(let name) where flag.value == "off": return removeListeners(name)
        case .listener(let name):
            var index = 0
            if case .list(let items, _)? = self["listeners"] {
                index =
                    items.firstIndex { item in
                        if case .text(let text, _)? = item["protocol"] { text == name.rawValue } else { false }
                    } ?? items.count
                if index == items.count {
                    _ = set(["listeners", String(index), "protocol"], to: name.rawValue, place: flag.flag)
                }
            }
            steps = ["listeners", String(index), "listen"]
        case .link: return addLink(flag, &problems)
        }
        if let reason = set(steps[...], to: flag.value, place: flag.flag) {
            problems.append(.init(place: flag.flag, key: "", message: reason))
        }
    }

    /// What may follow a link's address.
    private static let linkKeys = ["cost", "name", "profile"]

    /// `HOST:PORT`, and behind it keys of a link: `HOST:PORT,cost=100,name=radio`.
    private mutating func addLink(_ flag: ConfigurationFlag, _ problems: inout [ConfigurationProblem]) {
        var count = 0
        if case .list(let items, _)? = self["mesh"]?["links"] { count = items.count }
        let parts = flag.value.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        var seen: [String] = []
        for (number, part) in parts.enumerated() {
            let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            if number > 0, pair.count != 2 || !Self.linkKeys.contains(pair[0]) || seen.contains(pair[0]) {
                let known = Self.linkKeys.map { "\($0)=" }.joined(separator: ", ")
                let message =
                    "'\(part)' is not understood; HOST:PORT, then each once: \(known), as in HOST:PORT,cost=100"
                problems.append(.init(place: flag.flag, key: "", message: message))
                continue
            }
            let (key, value) = number == 0 ? ("to", part) : (pair[0], pair[1])
            seen.append(key)
            if let reason = set(["mesh", "links", String(count), key], to: value, place: flag.flag) {
                problems.append(.init(place: flag.flag, key: "", message: reason))
            }
        }
    }

    private mutating func removeListeners(_ name: ListenerSettings.ProtocolName) {
        guard case .map(var entries, let place) = self,
            let index = entries.firstIndex(where: { $0.name == "listeners" }),
            case .list(let items, let listPlace) = entries[index].value
        else { return }
        let others = items.filter { item in
            if case .text(let text, _)? = item["protocol"] { text != name.rawValue } else { true }
        }
        entries[index].value = .list(others, place: listPlace)
        self = .map(entries, place: place)
    }

    /// The key that a variable names, with indices and component names in it.
    private static func steps(ofVariable name: String) -> [String]? {
        for key in ConfigurationKeys.all {
            var rest = name.dropFirst("APUS".count)
            var steps: [String] = []
            for step in key.steps {
                guard rest.first == "_" else { break }
                rest = rest.dropFirst()
                switch step {
                case "[]":
                    let digits = rest.prefix { $0.isASCII && $0.isNumber }
                    guard let index = Int(digits) else { break }
                    steps.append(String(index))
                    rest = rest.dropFirst(digits.count)
                case "<component>":
                    guard !rest.isEmpty else { break }
                    steps.append(rest.lowercased().replacing("_", with: "."))
                    rest = ""
                case "<name>":
                    let name = rest.prefix { $0 != "_" }
                    guard !name.isEmpty else { break }
                    steps.append(name.lowercased())
                    rest = rest.dropFirst(name.count)
                default:
                    guard rest.hasPrefix(step.uppercased()) else { break }
                    steps.append(step)
                    rest = rest.dropFirst(step.count)
                }
            }
            if rest.isEmpty, steps.count == key.steps.count { return steps }
        }
        return nil
    }

    /// Puts `value` at `steps`, making groups and the next list entry on the way. Returns why that is impossible.
    private mutating func set(_ steps: ArraySlice<String>, to value: String, place: String) -> String? {
        guard let step = steps.first else {
            self = .text(value, place: place)
            return nil
        }
        let rest = steps.dropFirst()
        if let index = Int(step) {
            var items: [Setting] = []
            switch self {
            case .list(let old, _): items = old
            case .nothing: break
            case .map, .text: return nil  // The file's mistake, which the reader reports with its line.
            }
            if index > items.count { return "there is no entry \(index - 1) yet, so entry \(index) cannot be set" }
            if index == items.count { items.append(.nothing(place: place)) }
            let reason = items[index].set(rest, to: value, place: place)
            self = .list(items, place: self.place)
            return reason
        }
        var entries: [Entry] = []
        switch self {
        case .map(let old, _): entries = old
        case .nothing: break
        case .list, .text: return nil  // As above.
        }
        let index = entries.firstIndex { $0.name == step } ?? entries.count
        if index == entries.count { entries.append(Entry(name: step, place: place, value: .nothing(place: place))) }
        let reason = entries[index].value.set(rest, to: value, place: place)
        self = .map(entries, place: self.place)
        return reason
    }
}

/// The candidate nearest to `word`, if one is near enough to be what was meant.
func nearest(to word: String, among candidates: [String]) -> String? {
    let limit = max(1, min(4, word.count / 3))
    var best: (candidate: String, distance: Int)?
    for candidate in candidates {
        let distance = editDistance(Array(word.utf8), Array(candidate.utf8))
        if distance <= limit, distance < best?.distance ?? .max { best = (candidate, distance) }
    }
    return best?.candidate
}

/// Insertions, deletions, replacements and swaps of neighbours from `a` to `b`.
private func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
    // Configurations are small, but a line of a mistaken file need not be.
    guard a.count <= 256 else { return .max }
    var beforeLast: [Int] = []
    var last = Array(0...b.count)
    for i in a.indices {
        var row = [i + 1]
        for j in b.indices {
            var distance = min(last[j] + (a[i] == b[j] ? 0 : 1), last[j + 1] + 1, row[j] + 1)
            if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { distance = min(distance, beforeLast[j - 1] + 1) }
            row.append(distance)
        }
        (beforeLast, last) = (last, row)
    }
    return last[b.count]
}
