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
    /// How often it is looked whether files have changed, in seconds. A file that is still being written is taken at
    /// the next look.
    private static let lookSeconds = 1

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
                guard let settings = Self.settings(use, configuration) else { continue }
                doors.append(try TLSDoor(settings, role: use.role, protocols: use.protocols))
                names.append(use.name)
            }
        } catch { throw configuration.startFailure(error.description, isConfiguration: true) }
        self.doors = doors
        self.names = names
        timer = DispatchSource.makeTimerSource(queue: DispatchQueue(label: "tls"))
        // One that has never run must not be released; of one that runs and has nothing to do the library complains in
        // the system's log.
        timer.setEventHandler {}
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

    /// What a door is to be; nil when the configuration has no such section.
    private static func settings(_ use: Use, _ configuration: Configuration) -> TLSSettings? {
        guard var settings = configuration.tls.first(where: { $0.name == use.section }) else { return nil }
        // In the mesh everybody shows who it is.
        if use.protocols == ["apus-mesh"] { settings.clientCertificate = .required }
        return settings
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
            let changed = doors.filter { $0.haveFilesChanged && $0.haveFilesSettled }
            if !changed.isEmpty { read(changed, reactor, server) }
        }
    }

    /// Reads certificates, keys and revocation lists anew. What is no good is not taken: what was read before stays in
    /// use. Connections whose peers' certificates have been revoked, or have ended, are closed, those to the management
    /// interface as well.
    func reload(_ reactor: Reactor, _ server: HTTPServer?) { read(doors, reactor, server) }

    private func read(_ doors: [TLSDoor], _ reactor: Reactor, _ server: HTTPServer?) {
        for door in doors {
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
    static func look(at configuration: Configuration, _ report: inout FileReport) {
        var seen: [String] = []
        var faulty: [String] = []
        for use in uses(configuration) where !seen.contains(use.name) {
            seen.append(use.name)
            guard let settings = settings(use, configuration) else { continue }
            let flaws = settings.flaws(role: use.role, protocols: use.protocols)
            for flaw in flaws { report.addProblem(problem(flaw, settings, configuration)) }
            if !flaws.isEmpty { faulty.append(use.section) }
            guard flaws.isEmpty, let door = try? TLSDoor(settings, role: use.role, protocols: use.protocols) else {
                continue
            }
            report.addSection(use.section)
            for warning in door.warnings { report.warn(configuration.problem("tls.\(use.section)", warning)) }
        }
        do throws(MeshIdentityFile.Failure) {
            let section = configuration.mesh?.tls
            _ = try MeshShell.certified(configuration.tls.first { $0.name == section })
        } catch {
            // A file that cannot be read has been named already.
            let section = configuration.mesh?.tls ?? ""
            if faulty.contains(section) { return }
            report.addProblem(configuration.problem("tls.\(section).certificate", error.description))
        }
    }

    private static func problem(
        _ flaw: TLSFlaw, _ settings: TLSSettings, _ configuration: Configuration
    ) -> ConfigurationProblem {
        let section = "tls.\(settings.name)"
        guard let name = flaw.key else {
            // Its words begin with the key, if it is about one.
            let key = flaw.description.prefix { $0 != ":" }
            guard key.hasPrefix("\(section)."), configuration.places[String(key)] != nil else {
                return configuration.problem(section, flaw.description)
            }
            return configuration.problem(String(key), String(flaw.description.dropFirst(key.count + 2)))
        }
        let key = "\(section).\(name)"
        // A key that is in the certificate's file has no line of its own.
        if name.hasSuffix("key"), configuration.places[key] == nil {
            return configuration.problem("\(key.dropLast("key".count))certificate", flaw.description)
        }
        return configuration.problem(key, flaw.description)
    }
}
