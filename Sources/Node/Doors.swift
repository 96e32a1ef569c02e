/// Transport security of a node: the sections of `tls` as listeners, the mesh and the management interface use
/// them, and how their files are read again while the node runs.
import Core
@preconcurrency import Dispatch
import Logging
import Mesh
import Reactor
import TLS

/// All doors of a node. Callable from any thread; reading files is for threads that may wait.
final class Doors: Sendable {
    /// How often it is looked whether files have changed, in seconds.
    private static let lookSeconds = 2

    private let doors: [TLSDoor]
    private let names: [String]
    private let logger = Logger(label: "tls")
    private let audit: any AuditSink
    private let timer: any DispatchSourceTimer

    /// Reads what the listeners and the management interface of a configuration need.
    init(_ configuration: Configuration, audit: any AuditSink) throws(Node.StartFailure) {
        self.audit = audit
        var doors: [TLSDoor] = []
        var names: [String] = []
        do throws(TLSFailure) {
            for use in Self.uses(configuration) where !names.contains(use.name) {
                guard var settings = configuration.tls.first(where: { $0.name == use.section }) else { continue }
                // In the mesh everybody shows who it is.
                if use.protocols == ["apus-mesh"] { settings.clientCertificate = .required }
                doors.append(try TLSDoor(settings, role: use.role, protocols: use.protocols))
                names.append(use.name)
            }
        } catch { throw Node.StartFailure(description: error.description, isConfiguration: true) }
        self.doors = doors
        self.names = names
        timer = DispatchSource.makeTimerSource(queue: DispatchQueue(label: "tls"))
        // One that has never run must not be released.
        timer.schedule(deadline: .distantFuture)
        timer.resume()
        warn()
    }

    private struct Use {
        var section: String
        var role = TLSDoor.Role.server
        var protocols: [String]
        /// Doors of the same name are one.
        var name: String { "\(section) \(role) \(protocols)" }

        init(_ section: String, _ protocolName: String, role: TLSDoor.Role = .server) {
            self.section = section
            self.role = role
            protocols = [protocolName == "http" ? "http/1.1" : protocolName == "mesh" ? "apus-mesh" : protocolName]
        }
    }

    private static func uses(_ configuration: Configuration) -> [Use] {
        var uses = configuration.listeners.compactMap { listener in
            listener.tls.map { Use($0, listener.protocolName.rawValue) }
        }
        if let section = configuration.admin.tls { uses.append(Use(section, "http")) }
        if let section = configuration.mesh?.tls {
            uses += [Use(section, "mesh"), Use(section, "mesh", role: .client)]
        }
        return uses
    }

    private func door(_ use: Use) -> TLSDoor? { names.firstIndex(of: use.name).map { doors[$0] } }

    /// The door of a listener; nil for one without TLS.
    func server(_ section: String?, _ protocolName: String) -> TLSDoor? {
        section.flatMap { door(Use($0, protocolName)) }
    }

    /// The door of links that come in, or of those that are dialled; nil for a mesh without certificates.
    func mesh(_ settings: MeshSettings, _ role: TLSDoor.Role) -> TLSDoor? {
        settings.tls.flatMap { door(Use($0, "mesh", role: role)) }
    }

    /// Looks at the files from time to time, and takes over what has changed.
    func watch(_ reactor: Reactor) {
        guard !doors.isEmpty else { return }
        timer.schedule(
            deadline: .now() + .seconds(Self.lookSeconds), repeating: .seconds(Self.lookSeconds),
            leeway: .milliseconds(200))
        timer.setEventHandler { [self] in
            if doors.contains(where: \.haveFilesChanged) { reload(reactor, onlyChanged: true) }
        }
    }

    /// Reads certificates, keys and revocation lists anew. What is no good is not taken: what was read before stays in
    /// use. Connections whose peers' certificates have been revoked, or have ended, are closed.
    func reload(_ reactor: Reactor, onlyChanged: Bool = false) {
        for door in doors where !onlyChanged || door.haveFilesChanged {
            var record = AuditRecord(.administration, "tls.reload", isRefusal: false)
            record.object = "tls.\(door.settings.name)"
            do throws(TLSFailure) {
                try door.reload()
                logger.notice("certificates read again", metadata: ["tls": "\(door.settings.name)"])
            } catch {
                logger.error(
                    "certificates refused, those read before stay in use",
                    metadata: ["tls": "\(door.settings.name)", "problem": "\(error)"])
                record.isRefusal = true
                record.reason = error.description
            }
            audit.record(record)
        }
        warn()
        reactor.judgeCertificates()
    }

    private func warn() {
        for door in doors {
            for warning in door.warnings {
                logger.warning("\(warning)", metadata: ["tls": "\(door.settings.name)"])
            }
        }
    }
}
