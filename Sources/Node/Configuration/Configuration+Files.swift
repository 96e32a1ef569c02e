/// What a configuration names beside itself: files, and directories of sockets. A node that does not start because of
/// one says what is wrong with all of them, and `apus check` says it before.
import Bridge
import Glibc
import Security
import TLS

/// How the files are that a configuration names.
public struct FileReport: Sendable, Equatable {
    /// The sections of `tls` that something uses and whose files are good.
    public private(set) var sections: [String] = []
    /// Users of the user file; nil when it is not there, or is no good.
    public fileprivate(set) var users: Int?
    /// Why a node would not start.
    public private(set) var problems: [ConfigurationProblem] = []
    /// What is odd, as an expired certificate of the node.
    public private(set) var warnings: [ConfigurationProblem] = []

    mutating func addSection(_ name: String) { if !sections.contains(name) { sections.append(name) } }
    mutating func addProblem(_ problem: ConfigurationProblem) {
        if !problems.contains(problem) { problems.append(problem) }
    }
    mutating func warn(_ problem: ConfigurationProblem) { if !warnings.contains(problem) { warnings.append(problem) } }
}

extension Configuration {
    /// Reads certificates, keys, authorities, revocation lists, users and the keys of tokens as a node does when it
    /// starts, and looks for whatever else would keep it, or somebody, from coming in.
    public func checkFiles() -> FileReport {
        var report = FileReport()
        Doors.look(at: self, &report)
        checkUsers(&report)
        checkTokens(&report)
        checkSockets(&report)
        checkBridges(&report)
        checkLogins(&report)
        return report
    }

    /// Why a node does not start, with the places of everything that is wrong with files; `reason` when it is nothing
    /// of that kind, or is not so any more.
    func startFailure(_ reason: String, isConfiguration: Bool = false) -> Node.StartFailure {
        let problems = checkFiles().problems
        if problems.isEmpty { return Node.StartFailure(description: reason, isConfiguration: isConfiguration) }
        return startFailure(problems[0], problems)
    }

    /// The same for one that a person should know of first.
    func startFailure(_ first: ConfigurationProblem) -> Node.StartFailure { startFailure(first, checkFiles().problems) }

    private func startFailure(
        _ first: ConfigurationProblem, _ all: [ConfigurationProblem]
    ) -> Node.StartFailure {
        let problems = [first] + all.filter { $0 != first }
        return Node.StartFailure(
            description: ConfigurationError(problems: problems).description, isConfiguration: true)
    }

    /// A user file that is not there yet is no fault of the configuration; one that cannot be read is.
    private func checkUsers(_ report: inout FileReport) {
        guard let path = security.users else { return }
        guard access(path, R_OK) == 0 else {
            let message = "there is no readable file \(path); make it with `apus user add`"
            return report.warn(problem("security.users", message))
        }
        let file: UserFile
        do throws(UserFileError) { file = try UserFile.load(path) } catch {
            return report.addProblem(problem("security.users", error.description))
        }
        report.users = file.users.count
        // Who comes by a token or a certificate needs no entry.
        guard security.tokens.isEmpty, !namesUsers(admin.tls) else { return }
        for (index, name) in admin.users.enumerated() where !file.users.contains(where: { $0.name == name }) {
            report.warn(
                problem("admin.users[\(index)]", "there is no '\(name)' in \(path), so nobody can be that user"))
        }
    }

    private func checkTokens(_ report: inout FileReport) {
        for (index, issuer) in security.tokens.enumerated() {
            if let reason = issuer.reasonAgainstKeys() {
                report.addProblem(problem("security.tokens[\(index)].keys", reason))
            }
            if let path = issuer.authorities { warnOf(path, "security.tokens[\(index)].ca", &report) }
        }
    }

    private func checkSockets(_ report: inout FileReport) {
        let listening = listeners.enumerated().map { ("listeners[\($0)].listen", $1.address) }
        for (key, address) in listening + (admin.address.map { [("admin.listen", $0)] } ?? []) {
            guard case .unix(let path) = address, let slash = path.lastIndex(of: "/"), slash != path.startIndex else {
                continue
            }
            let directory = String(path[..<slash])
            var status = stat()
            if stat(directory, &status) == 0, status.st_mode & S_IFMT == S_IFDIR { continue }
            let problem = problem(key, "there is no directory \(directory) for the socket")
            // Those are empty after a start of the machine: a service's own is made when the service starts.
            let isMadeLater = directory.hasPrefix("/run/") || directory.hasPrefix("/var/run/")
            if isMadeLater { report.warn(problem) } else { report.addProblem(problem) }
        }
    }

    /// A node starts without them, and the bridge does not connect.
    private func checkBridges(_ report: inout FileReport) {
        for (index, bridge) in bridges.enumerated() {
            let files = [
                ("ca", bridge.security?.authorities), ("certificate", bridge.security?.certificate),
                ("key", bridge.security?.key),
            ]
            for (name, path) in files {
                if let path { warnOf(path, "bridges[\(index)].tls.\(name)", &report) }
            }
        }
    }

    private func warnOf(_ path: String, _ key: String, _ report: inout FileReport) {
        guard access(path, R_OK) != 0 else { return }
        report.warn(problem(key, "cannot read \(path): \(String(cString: strerror(errno)))"))
    }

    /// Listeners at which nobody can log in, for there is nothing to prove who one is.
    private func checkLogins(_ report: inout FileReport) {
        guard security.users == nil, security.tokens.isEmpty else { return }
        for (index, listener) in listeners.enumerated() where !namesUsers(listener.tls) {
            guard anonymous(at: listener) == .never else { continue }
            let key = listener.anonymous == nil ? "security.anonymous" : "listeners[\(index)].anonymous"
            let message =
                "nobody can log in at \(listener.name): there are neither security.users nor security.tokens, and its "
                + "certificates name no user"
            report.warn(problem(key, message))
        }
    }

    /// Whether the certificates of clients say who they are.
    private func namesUsers(_ section: String?) -> Bool { tls.contains { $0.name == section && $0.user != nil } }

    /// Who may come to a listener without a user name.
    func anonymous(at listener: ListenerSettings) -> AnonymousPolicy { listener.anonymous ?? security.anonymous }
}
