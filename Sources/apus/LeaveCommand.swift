/// `apus leave`: a node leaves its mesh for good.
import Admin
import ArgumentParser
import Glibc
import Node
import Security

/// `apus leave`.
struct LeaveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "leave",
        abstract: "Leave the mesh for good.",
        discussion: """
            Tells the node that runs with the data directory to leave, and waits until it has; it serves its clients \
            alone from then on. What `apus join` wrote is moved to mesh/left-…, and the next start is a node \
            without a mesh. A node whose configuration has `mesh` joins again at its next start: take that out of it. \
            The other nodes would still let it in: revoke its certificate where the authority is.

            Examples:
              apus leave
              apus leave --data /var/lib/apus --admin 127.0.0.1:8223
            """)

    /// In which a node leaves: it tells the others, and what waits for them is given away.
    private static let waitSeconds = 30

    @OptionGroup var options: AdminOptions

    @Option(
        help: ArgumentHelp(
            "The node's data directory. Default: APUS_NODE_DATA, else ./apus-data.", valueName: "directory"))
    var data: String?

    func run() throws {
        let membership = MeshMembership(data: nodeData(data))
        guard membership.isJoined || membership.isRunning else {
            throw CommandFailure(
                "no node of a mesh runs with \(membership.data), and it has not joined one by `apus join`; "
                    + (otherNode ?? "--data names another directory"))
        }
        let name = membership.certificateName
        if membership.isRunning { try stop(membership) }
        if let aside = try membership.leave(now: secondsNow()) {
            print("what `apus join` wrote is in \(aside)")
        } else {
            print("it was in the mesh by its configuration and joins again when it starts: take `mesh` out of that")
        }
        guard let name else { return print("left") }
        print("left. To let nobody in with its certificate, where the authority is:")
        print("  apus certs revoke \(name)")
    }

    /// What to try when another node is managed at the address that would be asked; nil when there is none.
    private var otherNode: String? {
        guard let client = try? options.client(), let node: NodeDocument = try? client.document("/v1/node"),
            let data = node.data
        else { return nil }
        return "the node at \(client.address) has --data \(data)"
    }

    /// Has the running node leave, after a look whether it is the one of the directory.
    private func stop(_ membership: MeshMembership) throws {
        let client = try options.client()
        let before: TopologyDocument = try client.document("/v1/mesh/topology")
        let own = before.nodes.first { $0.distance == 0 && $0.via == nil && $0.name == before.node }
        if let own, let id = try membership.nodeID(), own.id != id {
            throw CommandFailure(
                """
                the node at \(client.address) is \(own.id), and that of \(membership.data) is \(id): --admin names \
                another node, --data another directory
                """)
        }
        if Self.isMember(before) {
            _ = try client.send("POST", "/v1/mesh/leave")
            var rest = Self.waitSeconds * 10
            while Self.isMember(try client.document("/v1/mesh/topology")) {
                guard rest > 0 else { throw CommandFailure("the node has not left after \(Self.waitSeconds) seconds") }
                rest -= 1
                usleep(100_000)
            }
        }
        print("\(printable(before.node)) has left the mesh '\(printable(before.mesh))' and serves its clients alone")
    }

    private static func isMember(_ mesh: TopologyDocument) -> Bool { ["joining", "joined"].contains(mesh.state) }
}
