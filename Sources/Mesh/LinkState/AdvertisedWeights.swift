import Core

/// The weights of shared groups as an extension of an advertisement, `docs/wire-format.md`: for each group its key
/// `u64` and a varint, twice the sum of the weights of the node's present members, and 1 if one of them has said a
/// weight. In the order of the keys, each once. Not critical: nodes that do not know it pass it on.
enum AdvertisedWeights {
    /// The extension's type.
    static let type: UInt16 = 1
    /// Groups that a node tells of: with 13 bytes each well below ``Advertisement/maxExtensionBytes``.
    static let maxGroups = 64
    /// Bytes of a group at least.
    private static let minSize = 9

    /// The extension; nothing for no groups.
    static func extensionBytes(_ weights: [GroupWeight]) -> [UInt8] {
        guard !weights.isEmpty else { return [] }
        var content = WireWriter(.advertisement, capacity: FrameHeader.size + weights.count * 13)
        for weight in weights.prefix(maxGroups) {
            content.u64(weight.key)
            content.varint(UInt64(weight.sum) << 1 | (weight.isSaid ? 1 : 0))
        }
        var writer = WireWriter(.advertisement, capacity: FrameHeader.size + weights.count * 13 + 8)
        writer.u16(type)
        writer.block(content.finish().dropFirst(FrameHeader.size))
        return Array(writer.finish().dropFirst(FrameHeader.size))
    }

    /// Reads the extensions of an advertisement.
    /// - Returns: what they say of weights; nil when that is malformed.
    static func read(_ extensions: [UInt8]) -> [GroupWeight]? {
        extensions.withUnsafeBytes { bytes in
            var reader = WireReader(bytes)
            var found: [GroupWeight]?
            while reader.count > 0 {
                let type = reader.u16()
                let block = reader.block()
                guard !reader.isBroken else { return nil }
                guard type == Self.type else { continue }
                guard found == nil, let weights = read(block) else { return nil }
                found = weights
            }
            return found ?? []
        }
    }

    private static func read(_ block: UnsafeRawBufferPointer) -> [GroupWeight]? {
        guard block.count / minSize <= maxGroups * 2 else { return nil }
        var reader = WireReader(block)
        var weights: [GroupWeight] = []
        while reader.count > 0 {
            let key = reader.u64()
            let word = reader.varint()
            guard !reader.isBroken, let sum = UInt32(exactly: word >> 1), weights.count < maxGroups,
                weights.last.map({ $0.key < key }) ?? true
            else { return nil }
            weights.append(GroupWeight(key: key, sum: sum, isSaid: word & 1 != 0))
        }
        return weights
    }
}

extension LinkState {
    /// What this node says of weights in shared groups from now on.
    func setWeights(_ weights: [GroupWeight]) {
        guard weights != ownWeights else { return }
        ownWeights = weights
        news(plane.now)
    }

    /// Tells of what another node says, if it is something else than before.
    func noteWeights(of node: NodeIndex, _ advertisement: Advertisement, before: Advertisement?) {
        let former = before?.extensions ?? []
        guard advertisement.extensions != former else { return }
        let weights = AdvertisedWeights.read(advertisement.extensions)
        if weights == nil { counters.malformedWeights += 1 }
        if weights ?? [] != AdvertisedWeights.read(former) ?? [] { events.weightsChanged(node, weights ?? []) }
    }
}
