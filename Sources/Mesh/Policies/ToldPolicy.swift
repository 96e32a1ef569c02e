import Core

/// What a neighbour has said of its policy for the link: which topics it lets out and in. Both ends must know that to
/// compare their retained events: only what may cross is compared.
///
///     linkPolicy: for export, then import: allowed v, denied v, then those filters, each a block in canonical form
struct ToldPolicy: Equatable {
    /// Filters of one direction that a node may tell, and bytes of all.
    static let maxFilters = 256
    static let maxBytes = 128 << 10

    var export = LinkPolicy.Direction()
    var `import` = LinkPolicy.Direction()

    init() {}

    init(_ gate: LinkGate) {
        export = gate.export.rules
        `import` = gate.import.rules
    }

    func frame() -> [UInt8] {
        var writer = WireWriter(.linkPolicy, capacity: 256)
        for rules in [export, `import`] {
            writer.varint(UInt64(rules.allow.count))
            writer.varint(UInt64(rules.deny.count))
            for filter in rules.allow + rules.deny { writer.block(filter.canonical) }
        }
        return writer.finish()
    }

    /// Reads the body of the frame; nil when it is malformed.
    init?(_ reader: inout WireReader) {
        guard reader.count <= Self.maxBytes else { return nil }
        func direction() -> LinkPolicy.Direction? {
            let (allowed, denied) = (reader.varint(), reader.varint())
            guard allowed <= UInt64(Self.maxFilters), denied <= UInt64(Self.maxFilters) else { return nil }
            var rules = LinkPolicy.Direction()
            for number in 0..<allowed + denied {
                guard let filter = TopicFilter(canonical: reader.block()), filter.group == nil else { return nil }
                if number < allowed { rules.allow.append(filter) } else { rules.deny.append(filter) }
            }
            return rules
        }
        guard let export = direction(), let `import` = direction(), reader.isWhole else { return nil }
        (self.export, self.import) = (export, `import`)
    }
}

/// Which retained events two neighbours compare when either has a policy, from one of them to the other.
final class RetainedFilter {
    private let gate: TopicGate?
    private let told: LinkPolicy.Direction

    /// - Parameters:
    ///   - gate: of this node, for the direction; nil for everything.
    ///   - told: what the other end lets pass in it.
    init(_ gate: TopicGate?, _ told: LinkPolicy.Direction) {
        self.gate = gate
        self.told = told
    }

    func admits(_ topic: UnsafeRawBufferPointer) -> Bool {
        (gate?.admits(topic) ?? true) && (!told.isSelective || told.admits(topic))
    }
}

extension MeshNode {
    /// Tells a neighbour what may cross the link, before anything else; nothing if that is everything.
    func tellPolicy(on mesh: MeshLink) {
        guard let gate = mesh.gate, gate.isSelective else { return }
        send(ToldPolicy(gate).frame(), on: mesh.number)
    }

    func heardPolicy(_ reader: inout WireReader, on mesh: MeshLink) -> String? {
        guard let told = ToldPolicy(&reader) else { return "a policy of a link that cannot be read" }
        retained.heard(policy: told, on: mesh.number)
        return nil
    }
}
