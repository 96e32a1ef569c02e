import Testing

@testable import Mesh

/// Nodes of different versions in one mesh: what they agree on, what they refuse, and what they let pass that they do
/// not understand. `docs/wire-format.md`, "What a node does with what it does not know".
@Suite struct VersionTests {
    @Test(
        "Two nodes speak the newest version that both know",
        arguments: [(1...2, 1...1, 1), (1...1, 1...2, 1), (1...3, 2...5, 3), (2...2, 1...2, 2), (1...255, 7...7, 7)])
    func agreed(_ a: ClosedRange<UInt8>, _ b: ClosedRange<UInt8>, _ version: UInt8) throws {
        let field = MeshField()
        let (one, two) = Self.pair(field, a, b)
        field.run(400)
        for station in [one, two] {
            let link = try #require(station.node.links.first)
            #expect(link.isUp && link.version == version)
        }
        field.dismantle()
    }

    @Test(
        "Without a common version both say both ranges, and nobody makes a storm of it",
        arguments: [(2...2, 1...1), (1...1, 2...2), (3...9, 1...2), (1...254, 255...255)])
    func refused(_ a: ClosedRange<UInt8>, _ b: ClosedRange<UInt8>) {
        let field = MeshField()
        let (one, two) = Self.pair(field, a, b)
        field.run(30_000)
        #expect(one.node.links.isEmpty && two.node.links.isEmpty)
        let texts = [(a, b), (b, a)].map { own, theirs in
            "this node speaks versions \(own.lowerBound) to \(own.upperBound) of the mesh's protocol, the peer "
                + "\(theirs.lowerBound) to \(theirs.upperBound)"
        }
        for station in [one, two] {
            #expect(station.lines.contains { line in texts.contains { line.contains($0) } }, "\(station.lines)")
            // Who dials says it once, who is dialled each time.
            let most = station === two ? 4 : two.dialCount + 2
            #expect(station.lines.count <= most, "a flood of the log: \(station.lines)")
        }
        #expect(two.dialCount > 2, "it tries again: the other one may be renewed")
        #expect(two.dialCount < 15, "a storm: \(two.dialCount)")
        field.dismantle()
    }

    @Test("Who was refused for its version is linked when it has been renewed")
    func renewed() throws {
        let field = MeshField()
        var (one, two) = Self.pair(field, 2...2, 1...1)
        field.run(10_000)
        #expect(one.node.links.isEmpty)
        field.kill(two)
        two = field.start("b:1", links: ["a:1"]) { $0.versions = 1...2 }
        field.run(500)
        #expect(try #require(one.node.links.first).version == 2)
        #expect(try #require(two.node.links.first).isUp)
        field.kill(one)
        one = field.start("a:1", links: []) { $0.versions = 1...1 }
        field.run(6_000)
        #expect(try #require(two.node.links.first).version == 1, "it goes on with the older one")
        field.dismantle()
    }

    @Test("A first frame of a later version is read as far as it is known")
    func longer() throws {
        var first = Initiation()
        first.node = NodeID(high: 1, low: 2)
        first.meshID = "m"
        let frame = first.frame()
        first.rest = Later.bytes
        first.features = .max
        let longer = first.frame()
        #expect(longer.count == frame.count + Later.bytes.count)
        let read = longer.dropFirst(FrameHeader.size).withUnsafeBytes { Initiation($0) }
        #expect(read?.node == first.node && read?.meshID == "m" && read?.features == .max)
        for count in FrameHeader.size..<frame.count {
            #expect(frame[FrameHeader.size..<count].withUnsafeBytes { Initiation($0) } == nil, "cut at \(count)")
        }
    }

    @Test(
        "What a later version says disturbs nobody, and its extension comes to everybody as it was",
        arguments: [0, 1, 2])
    func later(place: Int) throws {
        let field = MeshField()
        let names = ["a:1", "b:1", "c:1"]
        let stations = names.enumerated().map { index, name in
            let station = field.start(name, links: index == 0 ? [] : [names[index - 1]]) {
                $0.secret = "correct horse battery"
                if index == place { $0.versions = 1...2 }
            }
            if index == place { station.sabotage = .later }
            return station
        }
        var types: Set<UInt8> = []
        field.onBytes = { from, _, bytes in
            guard from === stations[place] else { return }
            for type in Later.types where bytes.count > 3 && Self.frames(bytes).contains(type) { types.insert(type) }
        }
        field.run(5_000)
        let origin = stations[place]
        for station in stations {
            #expect(station.node.links.count == (station === stations[1] ? 2 : 1))
            #expect(station.node.links.allSatisfy { $0.isUp && $0.version == 1 })
            #expect(station.node.counters.malformed == 0 && station.node.counters.silences == 0)
            let index = try #require(station.node.nodes.index(of: origin.node.identity.id))
            let told = try #require(station.node.linkState.database[index]?.advertisement)
            #expect(told.extensions == Later.addition, "\(station.address) has \(told.extensions)")
            #expect(told.head.flags & 0x7FF0 == 0x7FF0)
            #expect(station.node.linkState.routes.isReachable(index) || station === origin)
        }
        // What it sent was really sent.
        #expect(types.isSuperset(of: Later.types), "\(types)")
        field.dismantle()
    }

    @Test("A critical extension ends the link with its reason, and the link comes back")
    func critical() throws {
        let field = MeshField()
        let (one, two) = Self.pair(field, 1...1, 1...1)
        field.run(400)
        var advertisement = Advertisement(
            head: AdvertisementHead(
                lifetime: 300_000, id: NodeID(high: 5, low: 5), version: AdvertisementVersion(epoch: 1, sequence: 1),
                instance: 1, shortID: 9, claims: 1))
        advertisement.extensions = Later.addition
        var isRead = try #require(one.ends(to: two).first { !$0.isData }).inject(advertisement.frame())
        field.run(50)
        #expect(isRead && one.node.links.count == 1 && one.node.nodes.index(of: NodeID(high: 5, low: 5)) != nil)
        advertisement.head.version.sequence = 2
        // The upper bit of the little-endian type.
        advertisement.extensions[1] |= 0x80
        isRead = try #require(one.ends(to: two).first { !$0.isData }).inject(advertisement.frame())
        field.run(20)
        #expect(isRead && one.lines.contains { $0.contains("critical extension") }, "\(one.lines)")
        #expect(two.lines.contains { $0.contains("critical extension") }, "\(two.lines)")
        field.run(2_000)
        #expect(one.node.links.count == 1 && one.node.links.allSatisfy { $0.isUp })
        field.dismantle()
    }

    private static func pair(
        _ field: MeshField, _ a: ClosedRange<UInt8>, _ b: ClosedRange<UInt8>
    ) -> (MeshField.Station, MeshField.Station) {
        (field.start("a:1", links: []) { $0.versions = a }, field.start("b:1", links: ["a:1"]) { $0.versions = b })
    }

    /// The types of the frames in what a connection has sent at once, and of those inside of routed ones.
    private static func frames(_ bytes: [UInt8]) -> Set<UInt8> {
        var (types, place): (Set<UInt8>, Int) = ([], 0)
        while bytes.count - place >= FrameHeader.size {
            let header = bytes[place...].withUnsafeBytes { $0.baseAddress.map { FrameHeader($0) } }
            guard let header, header.length >= FrameHeader.size, bytes.count - place >= header.length else { break }
            types.insert(header.type)
            if header.type == FrameType.routed.rawValue, header.length > FrameHeader.size + 15 {
                types.insert(bytes[place + FrameHeader.size + 15])
            }
            place += header.length
        }
        return types
    }
}
