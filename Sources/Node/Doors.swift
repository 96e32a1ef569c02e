/// Transport security of a node: the sections of `tls` as listeners, the mesh and the management interface use
/// them, and how their files are read again while the node runs.
import Admin
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
                guard let door = try Self.make(use, configuration) else { continue }
                doors.append(door)
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

    /// Reads the files of a door; nil when the configuration has no such section.
    private static func make(_ use: Use, _ configuration: Configuration) throws(TLSFailure) -> TLSDoor? {
        guard var settings = configuration.tls.first(where: { $0.name == use.section }) else { return nil }
        // In the mesh everybody shows who it is.
        if use.protocols == ["apus-mesh"] { settings.clientCertificate = .required }
        return try TLSDoor(settings, role: use.role, protocols: use.protocols)
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
    func watch(_ reactor: Reactor, _ server: HTTPServer?) {
        guard !doors.isEmpty else { return }
        timer.schedule(
            deadline: .now() + .seconds(Self.lookSeconds), repeating: .seconds(Self.lookSeconds),
            leeway: .milliseconds(200))
        timer.setEventHandler { [self] in
            if doors.contains(where: \.haveFilesChanged) { reload(reactor, server, onlyChanged: true) }
        }
    }

    /// Reads certificates, keys and revocation lists anew. What is no good is not taken: what was read before stays in
    /// use. Connections whose peers' certificates have been revoked, or have ended, are closed, those to the management
    /// interface as well.
    func reload(_ reactor: Reactor, _ server: HTTPServer?, onlyChanged: Bool = false) {
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
        server?.judgeCertificates()
    }

    private func warn() {
        for door in doors {
            for warning in door.warnings {
                logger.warning("\(warning)", metadata: ["tls": "\(door.settings.name)"])
            }
        }
    }
}

extension Doors {
    /// What a node would say of the files that its doors need, all of it.
    fileprivate static func look(at configuration: Configuration) -> Configuration.TLSReport {
        var report = Configuration.TLSReport()
        func add(_ text: String, to list: inout [String]) {
            if !list.contains(text) { list.append(text) }
        }
        var seen: [String] = []
        for use in uses(configuration) where !seen.contains(use.name) {
            seen.append(use.name)
            do throws(TLSFailure) {
                guard let door = try make(use, configuration) else { continue }
                add(use.section, to: &report.sections)
                for warning in door.warnings { add("tls.\(use.section): \(warning)", to: &report.warnings) }
            } catch {
                add("\(error)", to: &report.problems)
            }
        }
        do throws(MeshIdentityFile.Failure) {
            let section = configuration.mesh?.tls
            _ = try MeshShell.certified(configuration.tls.first { $0.name == section })
        } catch {
            // A file that cannot be read has been named already.
            if report.problems.isEmpty { report.problems.append(error.description) }
        }
        return report
    }
}

extension Configuration {
    /// How the files are that `tls` names.
    public struct TLSReport: Sendable, Equatable {
        /// The sections that something uses and whose files are good.
        public fileprivate(set) var sections: [String] = []
        /// Why a node would not start.
        public fileprivate(set) var problems: [String] = []
        /// What is odd, as an expired certificate of the node.
        public fileprivate(set) var warnings: [String] = []
    }

    /// Reads certificates, keys, authorities and revocation lists as a node does when it starts.
    public func checkTLS() -> TLSReport { Doors.look(at: self) }
}
