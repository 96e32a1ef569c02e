import Testing
import TestSupport

@testable import Mesh

@Suite struct AdvertisementTests {
    static func sample(_ random: inout Seeded) -> Advertisement {
        let head = AdvertisementHead(
            area: 0, flags: UInt16(truncatingIfNeeded: random.next()),
            lifetime: UInt32.random(in: 1...300_000, using: &random),
            id: NodeID(high: random.next(), low: random.next()),
            version: AdvertisementVersion(epoch: random.next(), sequence: random.next()), instance: random.next(),
            shortID: UInt16(truncatingIfNeeded: random.next()), claims: UInt32(truncatingIfNeeded: random.next()))
        var advertisement = Advertisement(head: head)
        advertisement.name = String(repeating: "ä", count: Int.random(in: 0...127, using: &random))
        for place in 0..<Int.random(in: 0...16, using: &random) {
            advertisement.addresses.append("host-\(place).example:\(place)")
        }
        for place in 0..<Int.random(in: 0...64, using: &random) {
            advertisement.adjacencies.append(
                AdvertisedAdjacency(
                    neighbour: NodeID(high: random.next(), low: random.next()), link: UInt16(place * 3 + 1),
                    remoteLink: UInt16(truncatingIfNeeded: random.next()), nonce: random.next(),
                    cost: UInt32.random(in: 1...Advertisement.maxCost, using: &random)))
        }
        for _ in 0..<Int.random(in: 0...3, using: &random) {
            var writer = WireWriter(.advertisement)
            writer.u16(UInt16(truncatingIfNeeded: random.next()) & 0x7FFF)
            writer.block((0..<Int.random(in: 0...200, using: &random)).map { UInt8(truncatingIfNeeded: $0) })
            advertisement.extensions += writer.finish().dropFirst(FrameHeader.size)
        }
        return advertisement
    }

    /// Reads the body of a frame, cut to so many bytes.
    static func read(_ frame: [UInt8], count: Int? = nil) throws(AdvertisementError) -> Advertisement {
        let body = Array(frame.dropFirst(FrameHeader.size).prefix(count ?? .max))
        let result: Result<Advertisement, AdvertisementError> = body.withUnsafeBytes { bytes in
            do throws(AdvertisementError) { return .success(try Advertisement(bytes)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    @Test func whatIsWrittenIsRead() throws {
        var random = Seeded(seed: 1)
        for _ in 0..<300 {
            let advertisement = Self.sample(&random)
            let frame = advertisement.frame()
            let header = frame.withUnsafeBytes { FrameHeader($0.baseAddress!) }
            #expect(header.length == frame.count)
            #expect(header.type == FrameType.advertisement.rawValue)
            #expect(try Self.read(frame) == advertisement)
            #expect(frame.count - FrameHeader.size <= Advertisement.maxSize)
        }
    }

    /// A cut one is refused, unless the cut is between two extensions: those end where the frame ends.
    @Test func aTruncatedOneIsRefused() {
        var random = Seeded(seed: 2)
        for _ in 0..<20 {
            var advertisement = Self.sample(&random)
            advertisement.extensions = []
            let frame = advertisement.frame()
            for count in 0..<frame.count - FrameHeader.size {
                #expect(throws: AdvertisementError.self, "cut at \(count)") { try Self.read(frame, count: count) }
            }
        }
    }

    @Test func changedBytesNeverTrapAndNeverExceedTheLimits() {
        var random = Seeded(seed: 3)
        var read = 0
        for _ in 0..<3_000 {
            var frame = Self.sample(&random).frame()
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                frame[Int.random(in: FrameHeader.size..<frame.count, using: &random)] = UInt8(
                    truncatingIfNeeded: random.next())
            }
            guard let advertisement = try? Self.read(frame) else { continue }
            read += 1
            #expect(advertisement.adjacencies.count <= Advertisement.maxAdjacencies)
            #expect(advertisement.addresses.count <= Advertisement.maxAddresses)
            #expect(advertisement.extensions.count <= Advertisement.maxExtensionBytes)
        }
        #expect(read > 0)
    }

    @Test func limitsAreRefusedWithTheirReason() {
        var random = Seeded(seed: 4)
        var advertisement = Self.sample(&random)
        advertisement.extensions = []
        let one = AdvertisedAdjacency(
            neighbour: NodeID(high: 1, low: 1), link: 1, remoteLink: 1, nonce: 1, cost: 1)
        func refused(_ change: (inout Advertisement) -> Void) -> AdvertisementError? {
            var changed = advertisement
            change(&changed)
            do { _ = try Self.read(changed.frame()) } catch { return error }
            return nil
        }
        #expect(refused { _ in } == nil)
        #expect(
            refused { changed in
                changed.adjacencies = (1...65).map {
                    var adjacency = one
                    adjacency.link = UInt16($0)
                    return adjacency
                }
            } == .adjacencies)
        #expect(refused { $0.adjacencies = [one, one] } == .adjacencies)
        #expect(
            refused {
                $0.adjacencies = [one]; $0.adjacencies[0].neighbour = $0.head.id
            } == .adjacencies)
        #expect(refused { $0.addresses = Array(repeating: "a:1", count: 17) } == .addresses)
        #expect(refused { $0.name = String(repeating: "n", count: 256) } == .truncated)
        #expect(refused { $0.extensions = [0, 0x80, 0] } == .critical)
        #expect(refused { $0.extensions = [0, 0, 2, 1] } == .truncated)
        #expect(refused { $0.extensions = Array(repeating: 0, count: 4_098) } == .tooLarge)
        #expect(refused { $0.extensions = Array(repeating: 0, count: 16_384) } == .tooLarge)
    }

    @Test func aCostIsBroughtIntoItsRange() throws {
        var advertisement = Advertisement(
            head: AdvertisementHead(
                lifetime: 1, id: NodeID(high: 0, low: 9), version: AdvertisementVersion(epoch: 1, sequence: 1),
                instance: 1, shortID: 1, claims: 1))
        advertisement.adjacencies = [
            AdvertisedAdjacency(neighbour: NodeID(high: 1, low: 1), link: 1, remoteLink: 1, nonce: 1, cost: 0),
            AdvertisedAdjacency(neighbour: NodeID(high: 1, low: 1), link: 2, remoteLink: 1, nonce: 1, cost: .max),
        ]
        #expect(try Self.read(advertisement.frame()).adjacencies.map(\.cost) == [1, Advertisement.maxCost])
    }

    /// The vectors of the reference implementation.
    @Test func sipHashIsTheOneOfTheReference() {
        let (key0, key1): (UInt64, UInt64) = (0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908)
        #expect(SipHash(key0: key0, key1: key1).finish() == 0x726F_DB47_DD0E_0E31)
        var eight = SipHash(key0: key0, key1: key1)
        eight.append(0x0706_0504_0302_0100)
        #expect(eight.finish() == 0x93F5_F579_9A93_2462)
        var fifteen = SipHash(key0: key0, key1: key1)
        fifteen.append(0x0706_0504_0302_0100)
        #expect(fifteen.finish(0x0E_0D0C_0B0A_0908, bytes: 7) == 0xA129_CA61_49BE_45E5)
    }

    /// Ties are part of what nodes agree on: they never change.
    @Test func tiesAreTheSameAtBothEndsAndForever() {
        let (a, b) = (NodeID(high: 1, low: 2), NodeID(high: 3, low: 4))
        #expect(SipHash.tie(a, 5, b, 6) == SipHash.tie(b, 6, a, 5))
        #expect(SipHash.tie(a, 5, b, 6) != SipHash.tie(a, 6, b, 5))
        #expect(SipHash.tie(a, 5, b, 6) < 1 << 48)
        // Worked out with another implementation.
        #expect(SipHash.tie(a, 5, b, 6) == 100521157736843)
    }
}
