/// Reads YAML into the tree of a configuration, by libyaml.
import CYAML

extension Setting {
    /// Reads YAML text of one document; `file` is the name places begin with.
    static func parse(yaml: String, file: String) throws(ConfigurationError) -> Setting {
        let reader = YAMLReader(file: file)
        let bytes = Array(yaml.utf8)
        do throws(ConfigurationError) {
            return try bytes.withUnsafeBufferPointer { (bytes) throws(ConfigurationError) in try reader.read(bytes) }
        } catch { throw error.hinting(at: yaml, file) }
    }
}

/// One reading of a file. libyaml has made all nodes of the document, with aliases resolved, before any is looked at.
private struct YAMLReader {
    /// How deep groups and lists may be nested; an alias to what it stands in would have no end.
    private static let depthLimit = 64
    /// How many values a file may stand for: aliases of aliases multiply.
    private static let valueLimit = 100_000

    /// The name that places begin with.
    let file: String

    func read(_ bytes: UnsafeBufferPointer<UInt8>) throws(ConfigurationError) -> Setting {
        // libyaml keeps pointers to its parser.
        let parser = UnsafeMutablePointer<yaml_parser_t>.allocate(capacity: 1)
        defer { parser.deallocate() }
        guard yaml_parser_initialize(parser) == 1 else { throw failure(file, "not YAML: no memory") }
        defer { yaml_parser_delete(parser) }
        yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
        yaml_parser_set_input_string(parser, bytes.baseAddress, bytes.count)
        var document = try load(parser)
        defer { yaml_document_delete(&document) }
        guard let root = yaml_document_get_root_node(&document) else { return .map([], place: file) }
        var second = try load(parser)
        defer { yaml_document_delete(&second) }
        if let node = yaml_document_get_root_node(&second) {
            throw failure(place(node.pointee.start_mark), "not YAML: a second document begins here")
        }
        var values = 0
        return try setting(root, of: &document, depth: 0, values: &values)
    }

    private func load(_ parser: UnsafeMutablePointer<yaml_parser_t>) throws(ConfigurationError) -> yaml_document_t {
        var document = yaml_document_t()
        guard yaml_parser_load(parser, &document) == 1 else { throw mistake(parser.pointee) }
        return document
    }

    private func setting(
        _ node: UnsafeMutablePointer<yaml_node_t>, of document: inout yaml_document_t, depth: Int, values: inout Int
    ) throws(ConfigurationError) -> Setting {
        let place = place(node.pointee.start_mark)
        values += 1
        guard depth < Self.depthLimit else { throw failure(place, "nested deeper than \(Self.depthLimit) levels") }
        guard values <= Self.valueLimit else { throw failure(place, "more than \(Self.valueLimit) values") }
        switch node.pointee.type {
        case YAML_SEQUENCE_NODE:
            let list = node.pointee.data.sequence.items
            var settings: [Setting] = []
            var item = list.start
            while let next = item, next != list.top {
                if let node = yaml_document_get_node(&document, next.pointee) {
                    settings.append(try setting(node, of: &document, depth: depth + 1, values: &values))
                }
                item = next + 1
            }
            return .list(settings, place: place)
        case YAML_MAPPING_NODE:
            let pairs = node.pointee.data.mapping.pairs
            var entries: [Setting.Entry] = []
            var names: Set<String> = []
            var pair = pairs.start
            while let next = pair, next != pairs.top {
                let key = yaml_document_get_node(&document, next.pointee.key)
                if let key, let value = yaml_document_get_node(&document, next.pointee.value) {
                    let entry = try entry(key, value, of: &document, depth: depth, values: &values)
                    guard names.insert(entry.name).inserted else {
                        throw failure(entry.place, "the key '\(entry.name)' stands here twice")
                    }
                    entries.append(entry)
                }
                pair = next + 1
            }
            return .map(entries, place: place)
        default:
            let text = text(node.pointee)
            let isPlain = node.pointee.data.scalar.style == YAML_PLAIN_SCALAR_STYLE
            return isPlain && ["", "~", "null", "Null", "NULL"].contains(text)
                ? .nothing(place: place) : .text(text, place: place)
        }
    }

    private func entry(
        _ key: UnsafeMutablePointer<yaml_node_t>, _ value: UnsafeMutablePointer<yaml_node_t>,
        of document: inout yaml_document_t, depth: Int, values: inout Int
    ) throws(ConfigurationError) -> Setting.Entry {
        let place = place(key.pointee.start_mark)
        guard key.pointee.type == YAML_SCALAR_NODE else { throw failure(place, "a key must be a single word") }
        return .init(
            name: text(key.pointee), place: place,
            value: try setting(value, of: &document, depth: depth + 1, values: &values))
    }

    private func text(_ node: yaml_node_t) -> String {
        let bytes = UnsafeBufferPointer(start: node.data.scalar.value, count: node.data.scalar.length)
        return String(decoding: bytes, as: UTF8.self)
    }

    /// What libyaml did not like, and where.
    private func mistake(_ parser: yaml_parser_t) -> ConfigurationError {
        let problem = parser.problem.map { String(cString: $0) } ?? "no memory"
        guard parser.error != YAML_READER_ERROR else {
            return failure(file, "not YAML: \(problem) at byte \(parser.problem_offset)")
        }
        let context = parser.context.map { String(cString: $0) + ": " } ?? ""
        return failure(place(parser.problem_mark), "not YAML: \(context)\(problem)")
    }

    private func failure(_ place: String, _ message: String) -> ConfigurationError {
        ConfigurationError(problems: [.init(place: place, key: "", message: message)])
    }

    private func place(_ mark: yaml_mark_t) -> String { "\(file):\(mark.line + 1)" }
}

extension ConfigurationError {
    /// Says what is probably meant when a line is no YAML because of a variable in it: between braces or brackets
    /// `${NAME}` begins a group.
    fileprivate func hinting(at yaml: String, _ file: String) -> ConfigurationError {
        let lines = yaml.split(separator: "\n", omittingEmptySubsequences: false)
        return ConfigurationError(
            problems: problems.map { problem in
                guard problem.message.hasPrefix("not YAML"), problem.place.hasPrefix("\(file):"),
                    let number = Int(problem.place.dropFirst(file.count + 1)), lines.indices.contains(number - 1),
                    let start = lines[number - 1].firstRange(of: "${")?.lowerBound,
                    let end = lines[number - 1][start...].firstIndex(of: "}")
                else { return problem }
                let hint = "; inside { } and [ ] a variable is written in quotes: \"\(lines[number - 1][start...end])\""
                return ConfigurationProblem(place: problem.place, key: problem.key, message: problem.message + hint)
            })
    }
}
