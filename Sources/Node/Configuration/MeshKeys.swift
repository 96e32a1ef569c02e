/// The section `mesh`: its keys, and how it is read. See `docs/configuration.md`.
import Core
import Mesh

/// The keys of the section, and what its values may be.
enum MeshKeys {
    /// Characters of the shortest secret.
    static let minSecretCharacters = 16
    /// Filters of one direction of a policy: as many as nodes tell each other.
    static let maxPolicyFilters = 256
    /// Links of one node: as many as it may tell others of.
    static let maxLinks = 64
    /// Bytes of a link's name, of the mesh's id and of an address.
    private static let (maxNameBytes, maxAddressBytes) = (64, 255)

    static let all: [ConfigurationKey] =
        [
            ConfigurationKey("mesh.id", .text, "apus", "The mesh; nodes of another one are refused."),
            ConfigurationKey(
                "mesh.listen", .networkAddressOrOff, "off; without a file \(ListenAddress.standardMesh)",
                "Where other nodes come in; port 0 takes a free one."),
            ConfigurationKey(
                "mesh.advertise", .texts, "the listener's address",
                "Where other nodes are told to dial this one, as `HOST:PORT`."),
            ConfigurationKey(
                "mesh.secret", .text, "none",
                "What both ends of a link must know; at least \(minSecretCharacters) characters; "
                    + "not needed with mesh.tls."
            ),
            ConfigurationKey(
                "mesh.previous_secret", .text, "none",
                "The secret before: still accepted, while a new one is given to all."
            ),
            ConfigurationKey(
                "mesh.tls", .text, "none",
                "The entry of tls that links use, in both directions; nodes are then who their certificates say."),
            ConfigurationKey(
                "mesh.allow", .texts, "every node", "Nodes that may be neighbours, by name or id; others are refused."),
            ConfigurationKey("mesh.links[].to", .hostAddress, "required", "A node that this one dials.", isLive: true),
            ConfigurationKey(
                "mesh.links[].cost", .integer(1...65_535), "10",
                "What a frame costs here; routes have the smallest sum.",
                isLive: true),
            ConfigurationKey(
                "mesh.links[].name", .text, "none", "Tells several links between the same two nodes apart.",
                isLive: true),
            ConfigurationKey(
                "mesh.links[].profile", .choice(MeshSettings.Profile.allCases.map(\.rawValue)), "mesh.profile",
                "How fast silence is noticed on this link.", isLive: true),
            ConfigurationKey(
                "mesh.links[].allow", .texts, "every node", "Nodes that may be there, by name or id.", isLive: true),
            ConfigurationKey(
                "mesh.join", .join, "full",
                "Which other nodes are dialled: all that are learnt of, none, or up to so many links."),
            ConfigurationKey(
                "mesh.profile", .choice(MeshSettings.Profile.allCases.map(\.rawValue)), "standard",
                "How fast silence is noticed: hellos every 100 ms, 20 ms or 1 s."),
            ConfigurationKey(
                "mesh.transit", .choice(["false", "true"]), "true",
                "Whether events of others may pass through this node."),
            ConfigurationKey(
                "mesh.max_links", .integer(1...maxLinks), "32", "Links a node may have; further ones are refused."),
            ConfigurationKey(
                "mesh.max_link_bytes", .size(65_536...(1 << 32)), "4MiB",
                "Bytes kept for each link and class until the neighbour has them."),
            ConfigurationKey(
                "mesh.max_stream_bytes", .size(65_536...(1 << 40)), "64MiB",
                "Bytes of guaranteed events that wait for one node."),
            ConfigurationKey(
                "mesh.max_filters", .integer(1...100_000_000), "1000000", "Filters of one node that others take."),
            ConfigurationKey(
                "mesh.policies[].peers", .texts, "required",
                "Neighbours that the policy is for, by name or id; * for all. The first that matches counts."),
        ] + direction("export", "out to") + direction("import", "in from")

    private static func direction(_ name: String, _ way: String) -> [ConfigurationKey] {
        [
            ConfigurationKey(
                "mesh.policies[].\(name).allow", .texts, "every topic", "Topics that may go \(way) these neighbours."),
            ConfigurationKey(
                "mesh.policies[].\(name).deny", .texts, "none",
                "Topics that may not go \(way) them, whatever is allowed."),
            ConfigurationKey(
                "mesh.policies[].\(name).rate", .integer(1...100_000_000), "any",
                "Direct events a second that may; further ones are dropped."),
        ]
    }

    static func isNameTooLong(_ name: String) -> Bool { name.utf8.count > maxNameBytes }

    /// Why a text is no address of a node; nil when it is one.
    static func reasonAgainst(address text: String) -> String? {
        guard let colon = text.lastIndex(of: ":"), colon != text.startIndex else {
            return "expected HOST:PORT, as node-2.example.org:7400 or [2001:db8::1]:7400"
        }
        let (host, digits) = (text[..<colon], text[text.index(after: colon)...])
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits), port > 0 else {
            return "the port '\(digits)' is not a number from 1 to 65535"
        }
        if host.hasPrefix("[") {
            do throws(ListenAddress.Malformed) { _ = try ListenAddress(parsing: text) } catch { return error.reason }
        } else if host.contains(":") {
            return "an IPv6 address stands in brackets: [\(host)]:\(digits)"
        }
        let isHost = host.utf8.allSatisfy { (0x21...0x7E).contains($0) && $0 != 0x2F }
        return isHost && text.utf8.count <= maxAddressBytes ? nil : "'\(host)' is neither an address nor a host's name"
    }

    /// Whether an address of a node is on this machine. A name may stand for anything, but for `localhost`.
    static func isLocal(_ text: String) -> Bool {
        guard let address = try? ListenAddress(parsing: text) else { return false }
        return address.isLocal
    }
}

extension Configuration {
    /// One line for people: what the node does in its mesh; nil when it is in none.
    public var meshSummary: String? {
        guard let mesh else { return nil }
        let links = mesh.links.map(\.address).joined(separator: ", ")
        let proofs = [mesh.tls.map { "tls '\($0)'" }, mesh.secret.map { _ in "a secret" }].compactMap { $0 }
        let secret = proofs.isEmpty ? "" : ", with " + proofs.joined(separator: " and ")
        return "mesh '\(mesh.meshID)'\(secret): listens on \(mesh.listen ?? "nothing"), dials "
            + (links.isEmpty ? "nobody" : links)
    }
}

extension ConfigurationReader {
    /// - Returns: nil when the node is in no mesh. What is wrong is reported even then.
    mutating func mesh(_ setting: Setting?) -> MeshSettings? {
        var mesh = MeshSettings()
        let fields = group(setting, at: ["mesh"], called: "mesh")
        if let id = text(fields["id"], "mesh.id") {
            mesh.meshID = id
            if MeshKeys.isNameTooLong(id) { report(fields["id"], "mesh.id", "has more than 64 bytes") }
        }
        readSecret(fields["secret"], "mesh.secret") { mesh.secret = $0 }
        readSecret(fields["previous_secret"], "mesh.previous_secret") { mesh.previousSecret = $0 }
        if mesh.previousSecret != nil, mesh.secret == nil {
            report(fields["previous_secret"], "mesh.previous_secret", "needs mesh.secret, the one that takes its place")
        }
        mesh.tls = text(fields["tls"], "mesh.tls")
        mesh.requiresCertificate = mesh.tls != nil
        mesh.allow = texts(fields["allow"], "mesh.allow") ?? []
        mesh.policies = policies(fields["policies"])
        mesh.listen = meshListen(fields["listen"], mesh)
        mesh.advertise = texts(fields["advertise"], "mesh.advertise") ?? []
        for address in mesh.advertise {
            guard let reason = MeshKeys.reasonAgainst(address: address) else { continue }
            report(fields["advertise"], "mesh.advertise", "'\(address)' is no address of a node: \(reason)")
        }
        mesh.links = links(fields["links"], mesh)
        if let join = join(fields["join"]) { mesh.join = join }
        if let profile = choice(fields["profile"], "mesh.profile", of: MeshSettings.Profile.self) {
            mesh.profile = profile
        }
        if let answer = choice(fields["transit"], "mesh.transit", of: Answer.self) { mesh.isTransit = answer == .yes }
        readLimits(fields, &mesh)
        if mesh.links.count > mesh.maxLinks {
            report(fields["links"], "mesh.links", "there are \(mesh.links.count), mesh.max_links is \(mesh.maxLinks)")
        }
        return mesh.listen == nil && mesh.links.isEmpty ? nil : mesh
    }

    private mutating func readSecret(_ setting: Setting?, _ key: String, _ take: (String) -> Void) {
        guard let secret = text(setting, key) else { return }
        take(secret)
        guard secret.count < MeshKeys.minSecretCharacters else { return }
        let rule = "a secret has at least \(MeshKeys.minSecretCharacters) characters"
        report(setting, key, "\(rule), the same on every node of the mesh")
    }

    private mutating func meshListen(_ setting: Setting?, _ mesh: MeshSettings) -> String? {
        guard let setting, case .some(let text) = text(setting, "mesh.listen"), text != "off" else { return nil }
        guard let address = address(setting, "mesh.listen") else { return nil }
        claim(address, setting, "mesh.listen", "the mesh")
        if case .unix = address {
            report(setting, "mesh.listen", "'\(text)': nodes meet over IP; expected ADDRESS:PORT or off")
        } else if !address.isLocal, !mesh.provesPeers {
            report(setting, "mesh.listen", "'\(text)' can be reached from other machines: \(Self.needsSecret)")
        }
        return address.description
    }

    private static let needsSecret =
        "set mesh.secret (at least \(MeshKeys.minSecretCharacters) characters, the same on every node) or mesh.tls, "
        + "or stay on 127.0.0.1"

    // MARK: Policies

    private mutating func policies(_ setting: Setting?) -> [LinkPolicy] {
        var policies: [LinkPolicy] = []
        for (index, item) in items(setting, "mesh.policies").enumerated() {
            let called = "mesh.policies[\(index)]"
            let steps = ["mesh", "policies", "[]"]
            let fields = group(item, at: steps, called: called)
            let peers = required(fields, "peers", in: item, called) { $0.texts($1, $2) }
            let export = direction(fields["export"], "export", called)
            let `import` = direction(fields["import"], "import", called)
            guard let peers else { continue }
            var policy = LinkPolicy(peers: peers)
            (policy.export, policy.import) = (export, `import`)
            policies.append(policy)
        }
        return policies
    }

    private mutating func direction(_ setting: Setting?, _ name: String, _ called: String) -> LinkPolicy.Direction {
        let steps = ["mesh", "policies", "[]", name]
        let fields = group(setting, at: steps, called: "\(called).\(name)")
        var rules = LinkPolicy.Direction()
        rules.allow = filters(fields["allow"], "\(called).\(name).allow")
        rules.deny = filters(fields["deny"], "\(called).\(name).deny")
        rules.rate = number(fields["rate"], "\(called).\(name).rate", key(steps + ["rate"]))
        return rules
    }

    private mutating func filters(_ setting: Setting?, _ called: String) -> [TopicFilter] {
        let texts = texts(setting, called) ?? []
        if texts.count > MeshKeys.maxPolicyFilters {
            report(setting, called, "there are \(texts.count); at most \(MeshKeys.maxPolicyFilters) are possible")
        }
        var filters: [TopicFilter] = []
        for text in texts {
            guard let filter = try? TopicFilter(text, grammar: .either), filter.group == nil, !filter.isLocalOnly else {
                report(setting, called, "'\(text)' is no topic filter: de/> or de/# for everything below de")
                continue
            }
            filters.append(filter)
        }
        return filters
    }

    private mutating func links(_ setting: Setting?, _ mesh: MeshSettings) -> [MeshSettings.LinkEntry] {
        var links: [MeshSettings.LinkEntry] = []
        for (index, item) in items(setting, "mesh.links").enumerated() {
            let called = "mesh.links[\(index)]"
            guard let link = link(item, called, mesh) else { continue }
            if let other = links.firstIndex(where: { $0.address == link.address && $0.name == link.name }) {
                report(item, called, "mesh.links[\(other)] goes to \(link.address) as well; give each its own name")
            }
            links.append(link)
        }
        return links
    }

    private mutating func link(_ item: Setting, _ called: String, _ mesh: MeshSettings) -> MeshSettings.LinkEntry? {
        let steps = ["mesh", "links", "[]"]
        let fields = group(item, at: steps, called: called)
        let to = required(fields, "to", in: item, called) { $0.text($1, $2) }
        let cost = number(fields["cost"], "\(called).cost", key(steps + ["cost"]))
        let name = text(fields["name"], "\(called).name")
        let profile = choice(fields["profile"], "\(called).profile", of: MeshSettings.Profile.self)
        guard let to else { return nil }
        if let reason = MeshKeys.reasonAgainst(address: to) {
            report(fields["to"], "\(called).to", "'\(to)' is no address of a node: \(reason)")
        } else if !MeshKeys.isLocal(to), !mesh.provesPeers {
            report(fields["to"], "\(called).to", "'\(to)' may be another machine: \(Self.needsSecret)")
        }
        var link = MeshSettings.LinkEntry(address: to)
        if let cost { link.cost = UInt32(cost) }
        if let name {
            link.name = name
            if MeshKeys.isNameTooLong(name) { report(fields["name"], "\(called).name", "has more than 64 bytes") }
        }
        link.profile = profile
        link.allow = texts(fields["allow"], "\(called).allow") ?? []
        return link
    }

    private mutating func join(_ setting: Setting?) -> MeshSettings.Join? {
        guard let text = text(setting, "mesh.join") else { return nil }
        switch text {
        case "full": return .full
        case "configured": return .configured
        default:
            if let count = Int(text), (1...MeshKeys.maxLinks).contains(count) { return .atLeast(count) }
            report(setting, "mesh.join", "'\(text)' is not allowed; expected \(ValueType.join.words)")
            return nil
        }
    }

    private mutating func readLimits(_ fields: [String: Setting], _ mesh: inout MeshSettings) {
        func value(_ name: String, _ reader: inout Self) -> Int? {
            reader.number(fields[name], "mesh.\(name)", reader.key(["mesh", name]))
        }
        if let count = value("max_links", &self) { mesh.maxLinks = count }
        if let bytes = value("max_link_bytes", &self) { mesh.maxLinkBytes = bytes }
        if let bytes = value("max_stream_bytes", &self) { mesh.maxStreamBytes = bytes }
        if let count = value("max_filters", &self) { mesh.maxFilters = count }
    }
}
