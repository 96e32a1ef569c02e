import Core
import Foundation
import Mesh
import Node
import Testing

/// The root of the package.
let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

/// What the repository shows of configuration: the files to start from, and the reference page.
@Suite("Configuration that is shown")
struct ShippedConfigurationTests {
    @Test("Every file to start from loads, and says how to start it")
    func meshConfigs() throws {
        let folder = root.appending(path: "mesh-configs")
        let walk = try #require(FileManager.default.enumerator(atPath: folder.path()))
        // What is for Kubernetes is no configuration of a node; packaging/deployments.py looks at it.
        let names = walk.compactMap { $0 as? String }
            .filter { $0.hasSuffix(".yaml") && !$0.hasPrefix("kubernetes/") }
        #expect(names.count >= 25)
        for name in names {
            let path = folder.appending(path: name).path()
            let text = try String(contentsOfFile: path, encoding: .utf8)
            #expect(text.contains("apus run --config mesh-configs/\(name)"), "\(name) does not say how to start it")
            let secret = text.contains("${APUS_MESH_SECRET}") ? ["APUS_MESH_SECRET": "sixteen characters"] : [:]
            #expect(throws: Never.self, "\(name)") { try Configuration.load(file: path, environment: secret) }
        }
    }

    @Test("A folder of files to start from is a mesh that fits on one machine, and every link in it leads somewhere")
    func wholeMeshes() throws {
        let folder = root.appending(path: "mesh-configs")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path())
            .filter { !$0.contains(".") && $0 != "kubernetes" }
        #expect(Set(names) == ["pair", "triangle", "ring-of-five", "regions", "hub-and-edges", "secure"])
        for name in names {
            let files = try FileManager.default.contentsOfDirectory(atPath: folder.appending(path: name).path())
                .filter { !$0.hasPrefix("secret-") && $0 != "node.yaml" }
            let nodes = try files.map {
                try Configuration.load(file: folder.appending(path: "\(name)/\($0)").path(), environment: [:])
            }
            let meshes = try nodes.map { try #require($0.mesh) }
            let listening = meshes.compactMap(\.listen)
            let addresses =
                nodes.flatMap { $0.listeners.map(\.address.description) }
                + nodes.compactMap(\.admin.address?.description) + listening
            #expect(Set(addresses).count == addresses.count, "\(name): \(addresses.sorted())")
            #expect(Set(nodes.map(\.data)).count == nodes.count && Set(nodes.map(\.name)).count == nodes.count)
            #expect(Set(meshes.map(\.meshID)).count == 1)
            for mesh in meshes {
                for link in mesh.links { #expect(listening.contains(link.address), "\(name): \(link.address)") }
            }
        }
    }

    @Test("The reference page has the table of all keys")
    func reference() throws {
        let page = try String(contentsOf: root.appending(path: "docs/configuration.md"), encoding: .utf8)
        for row in ConfigurationKeys.markdown.split(separator: "\n") {
            #expect(page.contains(row), "docs/configuration.md lacks this row; `apus check --keys` prints the table")
        }
        let rows = page.split(separator: "\n").count { $0.hasPrefix("| `") && !$0.hasPrefix("| `--") }
        #expect(rows == ConfigurationKeys.all.count, "docs/configuration.md has rows of keys that do not exist")
    }

    @Test("The table's defaults are the real ones")
    func tableDefaults() throws {
        for key in ConfigurationKeys.all where key.path.hasPrefix("limits.") {
            let name = key.path.dropFirst("limits.".count)
            #expect(try load("limits: { \(name): \(key.standard) }").limits == Limits(), "\(key.path)")
        }
    }

    @Test("The page of operations has a row for each reason, and for nothing else")
    func reasons() throws {
        let page = try String(contentsOf: root.appending(path: "docs/operations.md"), encoding: .utf8)
        func names(after mark: String) throws -> [String] {
            let start = try #require(page.range(of: mark)).upperBound
            let lines = page[start...].split(separator: "\n", omittingEmptySubsequences: false)
            let rows = lines.drop { !$0.hasPrefix("| ") }.prefix { $0.hasPrefix("|") }
            return rows.compactMap { $0.firstMatch(of: #/^\| `(\w+)` \|/#).map { String($0.output.1) } }
        }
        let dropped = try names(after: "`dropped_<reason>`")
        #expect(dropped.sorted() == DropReason.allCases.map { "\($0)" }.sorted())
        let closed = try names(after: "`closed_<reason>`")
        #expect(closed.sorted() == CloseReason.allCases.map { "\($0)" }.sorted())
    }
}
