/// What a node has learnt by joining a mesh: `mesh/joined.yaml` in its data directory, a piece of configuration that
/// stands below the file of the configuration and above the defaults. ``MeshMembership`` writes it.

import Glibc

/// The file.
struct JoinedFile {
    let path: String
    private let folder: String

    /// The name of the section `tls` that it makes.
    static let section = "joined"
    static let (certificate, key, authority) = ("node.crt", "node.key", "ca.crt")

    init(data: String) {
        folder = "\(data)/mesh"
        path = "\(folder)/joined.yaml"
    }

    /// The file in the data directory that a configuration will have.
    init(_ tree: Setting?, environment: [String: String], flags: [ConfigurationFlag]) {
        var data = Configuration(name: "").data
        if case .text(let text, _)? = tree?["node"]?["data"] { data = text }
        if let text = environment["APUS_NODE_DATA"] { data = text }
        self.init(data: flags.last { $0.target == .key(["node", "data"]) }?.value ?? data)
    }

    /// Whether the node has joined a mesh.
    var isThere: Bool { access(path, F_OK) == 0 }

    /// The tree, with paths as the node will open them; nil for a node that has not joined.
    func read() throws(ConfigurationError) -> Setting? {
        guard isThere else { return nil }
        // Without substitution: it is no text of a person, and a `$` in it is a dollar.
        let tree = try Setting.parse(yaml: ConfigurationFile.read(path), file: path)
        guard case .map(let entries, let place) = tree else { return nil }
        return .map(entries.map { $0.name == "tls" ? located($0) : $0 }, place: place)
    }

    /// Paths in the file are relative to it, so that a data directory can be moved.
    private func located(_ entry: Setting.Entry) -> Setting.Entry {
        var entry = entry
        switch entry.value {
        case .map(let entries, let place): entry.value = .map(entries.map { located($0) }, place: place)
        case .text(let text, let place) where ["certificate", "key", "client_ca"].contains(entry.name):
            if !text.hasPrefix("/") { entry.value = .text("\(folder)/\(text)", place: place) }
        case .text, .list, .nothing: break
        }
        return entry
    }

    /// The text of the file.
    static func text(name: String, mesh: String, addresses: [String], listen: String?) -> String {
        func quoted(_ text: String) -> String {
            "'"
                + text.split(separator: "'", omittingEmptySubsequences: false)
                .joined(separator: "''") + "'"
        }
        var lines = [
            "# How this node takes part in its mesh. Written by `apus join`; `apus leave` sets it aside. What the",
            "# configuration itself says of a key holds. Paths are relative to this file.",
            "node:", "  name: \(quoted(name))", "mesh:", "  id: \(quoted(mesh))", "  tls: \(section)",
        ]
        if let listen { lines.append("  listen: \(quoted(listen))") }
        lines.append("  links:")
        for address in addresses { lines.append("    - to: \(quoted(address))") }
        lines += [
            "tls:", "  \(section):", "    certificate: \(certificate)", "    key: \(key)",
            "    client_ca: \(authority)", "    require_client_certificate: true",
        ]
        return lines.joined(separator: "\n") + "\n"
    }
}

extension Setting {
    /// Takes over the keys of another tree that are not set in this one, group by group; a list is one value.
    mutating func fill(from other: Setting) {
        guard case .map(var entries, let place) = self, case .map(let others, _) = other else { return }
        for entry in others {
            guard let index = entries.firstIndex(where: { $0.name == entry.name }) else {
                entries.append(entry)
                continue
            }
            if case .nothing = entries[index].value {
                entries[index] = entry
            } else {
                entries[index].value.fill(from: entry.value)
            }
        }
        self = .map(entries, place: place)
    }
}
