import Foundation
import Glibc
import Mesh
import Testing

@testable import Node

/// A data directory of its own, removed with it.
private final class DataDirectory {
    let path = "/tmp/apus-identity-\(getpid())-\(UInt32.random(in: .min ... .max))"

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func start() throws -> MeshIdentityFile { try MeshIdentityFile(data: "\(path)/deep/data", name: "a") }

    var file: String { "\(path)/deep/data/mesh/identity" }

    func text() throws -> String { try String(contentsOfFile: file, encoding: .utf8) }

    func write(_ text: String) throws { try text.write(toFile: file, atomically: false, encoding: .utf8) }

    /// Why a start is refused.
    func refusal() -> String {
        do {
            _ = try start()
            return ""
        } catch { return "\(error)" }
    }
}

@Suite("Who a node is in the mesh")
struct MeshIdentityTests {
    @Test("The id stays, every life is later than all before, and is on the disk when it begins")
    func lives() throws {
        let data = DataDirectory()
        var epochs: [UInt64] = []
        var ids: Set<NodeID> = []
        var instances: Set<UInt64> = []
        for life in 1...20 {
            let file = try data.start()
            let written = try #require(MeshIdentityFile.parse(data.text()))
            #expect(written.life == UInt64(life) && written.id == file.identity.id)
            #expect(file.identity.epoch >> 16 == UInt64(life))
            #expect(file.identity.name == "a")
            epochs.append(file.identity.epoch)
            ids.insert(file.identity.id)
            instances.insert(file.identity.instance)
        }
        #expect(ids.count == 1 && instances.count == 20)
        #expect(epochs == epochs.sorted() && Set(epochs).count == 20)
        let other = DataDirectory()
        #expect(try !ids.contains(other.start().identity.id))
        var info = stat()
        #expect(stat(data.file, &info) == 0 && info.st_mode & 0o777 == 0o600)
    }

    @Test("The short id is kept; so is an epoch that had to be raised")
    func changes() throws {
        let data = DataDirectory()
        var file: MeshIdentityFile? = try data.start()
        #expect(file?.identity.shortID == 0)
        try file?.save(shortID: 4_711)
        try file?.save(epoch: 1_000 << 16 | 0xFFFF)
        try file?.save(epoch: 5 << 16)
        file = nil
        let next = try data.start().identity
        #expect(next.shortID == 4_711 && next.epoch >> 16 == 1_001)
    }

    @Test("A second node with the same data directory does not start, and disturbs nothing; the next one may")
    func locked() throws {
        let data = DataDirectory()
        var file: MeshIdentityFile? = try data.start()
        let text = try data.text()
        #expect(data.refusal().hasPrefix("another node runs with the data directory \(data.path)/deep/data"))
        #expect(data.refusal().contains("--data"))
        #expect(try data.text() == text)
        withExtendedLifetime(file) {}
        file = nil
        #expect(data.refusal() == "")
    }

    @Test("A damaged file is named, with the cure; nothing is written over it")
    func damaged() throws {
        let data = DataDirectory()
        _ = try data.start()
        let good = try data.text()
        let digit = try #require(good.firstRange(of: "life 1"))
        for bad in [
            "", "id", String(good.dropLast(3)), good.replacingCharacters(in: digit, with: "life 2"), good + "life 9\n",
            String(repeating: "x", count: 100_000), good.replacing("short 0", with: "short 70000"),
        ] {
            try data.write(bad)
            let reason = data.refusal()
            #expect(reason.hasPrefix("\(data.file) is damaged: ") && reason.contains("remove it"), "\(reason)")
            #expect(try data.text() == bad)
        }
        try data.write(good)
        #expect(data.refusal() == "")
        // What a power failure leaves of the next file is not looked at.
        try "half".write(toFile: data.file + ".new", atomically: false, encoding: .utf8)
        #expect(data.refusal() == "")
        #expect(try MeshIdentityFile.parse(data.text())?.life == 3)
    }

    @Test("The last life of all is refused instead of beginning anew")
    func lastLife() throws {
        let data = DataDirectory()
        _ = try data.start()
        let record = MeshIdentityFile.Record(
            id: NodeID(high: 1, low: 2), life: MeshIdentityFile.maxLife, shortID: 0)
        try data.write(MeshIdentityFile.text(of: record))
        #expect(data.refusal().contains("too large"))
    }

    @Test("Where nothing can be written, the start says so")
    func unwritable() {
        #expect(throws: MeshIdentityFile.Failure.self) { try MeshIdentityFile(data: "/proc/nonexistent", name: "a") }
        #expect(throws: MeshIdentityFile.Failure.self) { try MeshIdentityFile(data: "/dev/null/data", name: "a") }
    }
}
