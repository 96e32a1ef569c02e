/// What `apus check` says of a configuration that is good.
import Security

extension Configuration {
    /// For people, a line each. Counts what would be too long to list.
    public func summary(_ files: FileReport) -> [String] {
        var lines = ["OK  node '\(name)', data in \(data)"]
        let addresses = listeners.map { "\($0.protocolName.rawValue) \($0.address)" }
        lines.append("listeners: \(addresses.isEmpty ? "none" : addresses.joined(separator: ", "))")
        lines.append("management: \(admin.address?.description ?? "off")")
        if let meshSummary { lines.append(meshSummary) }
        lines.append("anonymous clients: \(anonymousSummary)")
        if let users = files.users { lines.append("users: \(users) in \(security.users ?? "")") }
        let counts = [
            ("access rules", security.access.count), ("quotas", security.quotas.count),
            ("issuers of tokens", security.tokens.count), ("bridges", bridges.count), ("webhooks", webhooks.count),
        ]
        let words = counts.filter { $0.1 > 0 || $0.0 == "access rules" }.map { "\($0.0): \($0.1)" }
        lines.append(words.joined(separator: "; "))
        if !files.sections.isEmpty { lines.append("TLS: \(files.sections.joined(separator: ", "))") }
        return lines.prefix(1) + lines.dropFirst().map { "    \($0)" }
    }

    /// One word when it is the same everywhere.
    private var anonymousSummary: String {
        let policies = listeners.map { anonymous(at: $0) }
        guard let first = policies.first else { return security.anonymous.rawValue }
        if policies.allSatisfy({ $0 == first }) { return first.rawValue }
        return zip(listeners, policies).map { "\($1.rawValue) at \($0.name)" }.joined(separator: ", ")
    }

    /// What may be meant, but should be known.
    public var openDoors: [String] {
        if listeners.isEmpty { return ["without listeners no client can connect"] }
        let open = listeners.filter { anonymous(at: $0) == .everywhere && !$0.address.isLocal }
        if open.isEmpty { return [] }
        let place = open.count == listeners.count ? "the node" : open.map(\.name).joined(separator: ", ")
        return ["anyone who reaches \(place) may connect without a user name"]
    }
}
