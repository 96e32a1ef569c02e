/// A data directory's part in a mesh: what `apus join` writes, and `apus leave` sets aside.
import Glibc
import Mesh
public import Security

/// The membership of the node whose data directory it is.
public struct MeshMembership: Sendable {
    /// Why something could not be done.
    public struct Failure: Error, CustomStringConvertible {
        /// What is wrong, and what to do.
        public let description: String
    }

    /// The data directory.
    public let data: String

    private var folder: String { "\(data)/mesh" }
    private var file: JoinedFile { JoinedFile(data: data) }

    /// Names a data directory, which need not be there yet.
    public init(data: String) { self.data = data }

    /// Whether the directory has joined a mesh.
    public var isJoined: Bool { file.isThere }

    /// Whether a node runs with this directory.
    public var isRunning: Bool { MeshIdentityFile.isRunning(data: data) }

    /// The id of the node; nil when there was none yet.
    public func nodeID() throws(Failure) -> String? {
        do throws(MeshIdentityFile.Failure) { return try MeshIdentityFile.id(data: data)?.description } catch {
            throw Failure(description: error.description)
        }
    }

    /// What the node's certificate calls it; nil when there is none that can be read.
    public var certificateName: String? {
        guard let pem = try? Certificate.load("\(folder)/\(JoinedFile.certificate)") else { return nil }
        return pem.commonName
    }

    /// Becomes the node of an invitation. Everything is written, or the node is none of the mesh: `joined.yaml` comes
    /// last.
    /// - Parameters:
    ///   - token: a verified one.
    ///   - listen: where other nodes may come in; nil for a node that only dials.
    ///   - replacing: sets aside what is there from another mesh.
    ///   - now: seconds since 1970.
    /// - Returns: where that was put; nil when there was nothing.
    public func join(
        _ token: InvitationToken, listen: ListenAddress?, replacing: Bool, now: Int64
    ) throws(Failure) -> String? {
        guard let id = NodeID(token.node.id) else { throw Failure(description: "'\(token.node.id)' is no node id") }
        if isJoined, !replacing {
            throw Failure(
                description: """
                    \(data) has joined a mesh already. `apus leave --data \(data)` sets that aside, or --force does; \
                    --data names another directory
                    """)
        }
        var aside: String?
        let text = JoinedFile.text(
            name: token.name, mesh: token.mesh, addresses: token.addresses, listen: listen?.description)
        try run { () throws(MeshIdentityFile.Failure) in
            try MeshIdentityFile.whileStopped(data: data) { folder throws(MeshIdentityFile.Failure) in
                aside = try setAside(now: now)
                try write(token.keyPEM, "\(folder)/\(JoinedFile.key)", .secret)
                try write(token.certificatePEM, "\(folder)/\(JoinedFile.certificate)", .open)
                try write(token.authorityPEM, "\(folder)/\(JoinedFile.authority)", .open)
                try MeshIdentityFile.begin(id, in: folder)
                try write(Array(text.utf8), file.path, .open)
            }
        }
        return aside
    }

    /// Moves what was written by ``join(_:listen:replacing:now:)``, and who the node was, to a directory of their own.
    /// A node that runs must have left its mesh before.
    /// - Returns: the directory; nil when there was nothing.
    public func leave(now: Int64) throws(Failure) -> String? {
        var aside: String?
        try run { () throws(MeshIdentityFile.Failure) in aside = try setAside(now: now) }
        return aside
    }

    private func setAside(now: Int64) throws(MeshIdentityFile.Failure) -> String? {
        // First what makes a node of the mesh of it, and its key last.
        let names = ["joined.yaml", "identity", JoinedFile.authority, JoinedFile.certificate, JoinedFile.key]
        guard access("\(folder)/\(JoinedFile.key)", F_OK) == 0 || isJoined else { return nil }
        var target = "\(folder)/left-\(UTC.text(now))"
        var attempt = 2
        while mkdir(target, 0o700) != 0 {
            guard errno == EEXIST, attempt < 1_000 else { throw failure("cannot make the directory \(target)") }
            target = "\(folder)/left-\(UTC.text(now))-\(attempt)"
            attempt += 1
        }
        for name in names {
            guard rename("\(folder)/\(name)", "\(target)/\(name)") == 0 || errno == ENOENT else {
                throw failure("cannot move \(folder)/\(name)")
            }
        }
        return target
    }

    private func write(_ bytes: [UInt8], _ path: String, _ mode: AtomicFile.Mode) throws(MeshIdentityFile.Failure) {
        do throws(CertificateFailure) { try AtomicFile.write(bytes, to: path, mode) } catch {
            throw MeshIdentityFile.Failure(description: error.description)
        }
    }

    private func failure(_ what: String) -> MeshIdentityFile.Failure {
        MeshIdentityFile.Failure(description: "\(what): \(String(cString: strerror(errno)))")
    }

    private func run(_ body: () throws(MeshIdentityFile.Failure) -> Void) throws(Failure) {
        do throws(MeshIdentityFile.Failure) { try body() } catch { throw Failure(description: error.description) }
    }
}
