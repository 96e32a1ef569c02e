import COpenSSL
import Core
import Synchronization

/// Transport security of one listener, or of what is dialled: certificates, authorities, and who must show one.
///
/// Threading: any thread. Reading files blocks: not on a lane.
public final class TLSDoor: Sendable {
    /// Which end of its connections is ours.
    public enum Role: Sendable { case server, client }

    private struct State: Sendable {
        var contexts: TLSContexts
        var files: TLSFiles
    }

    /// As configured.
    public let settings: TLSSettings
    /// Which end of its connections is ours.
    public let role: Role
    private let protocols: [String]
    private let ticketKeys: TicketKeys
    private let user: NameTemplate?
    private let groups: [NameTemplate]
    private let state: Mutex<State>

    /// Reads all files.
    /// - Parameter protocols: for ALPN (RFC 7301), the best first. A client that offers others only is refused, one
    ///   that offers none is not.
    /// - Throws: naming the file and what is right.
    public init(_ settings: TLSSettings, role: Role, protocols: [String] = []) throws(TLSFailure) {
        self.settings = settings
        self.role = role
        self.protocols = protocols
        do throws(TLSFailure) {
            user = if let text = settings.user { try NameTemplate(text) } else { nil }
            var templates: [NameTemplate] = []
            for text in settings.groups { templates.append(try NameTemplate(text)) }
            groups = templates
        } catch {
            throw TLSFailure("tls.\(settings.name): \(error)")
        }
        ticketKeys = try TicketKeys()
        var files = TLSFiles()
        let contexts = try TLSContexts(
            settings, role: role, protocols: protocols, ticketKeys: ticketKeys, files: &files)
        state = Mutex(State(contexts: contexts, files: files))
    }

    /// Reads all files anew. Only when all are good are they used, for connections made from then on; the others keep
    /// what they have.
    /// - Throws: naming the file and what is right.
    public func reload() throws(TLSFailure) {
        var files = TLSFiles()
        let made: Result<TLSContexts, TLSFailure>
        do throws(TLSFailure) {
            made = .success(
                try TLSContexts(settings, role: role, protocols: protocols, ticketKeys: ticketKeys, files: &files))
        } catch {
            made = .failure(error)
        }
        state.withLock {
            // Also of files that were no good: they are looked at again when they change again.
            $0.files = files
            if case .success(let contexts) = made { $0.contexts = contexts }
        }
        if case .failure(let failure) = made { throw failure }
    }

    /// Whether anything is different from when it was last read.
    public var haveFilesChanged: Bool { state.withLock { $0.files }.haveChanged }

    /// Whether nobody seems to be writing those that are different: they have been left alone for a moment.
    public var haveFilesSettled: Bool { state.withLock { $0.files }.haveSettled }

    /// What is odd about the files but no reason not to use them, as an expired certificate of ours.
    public var warnings: [String] { contexts.warnings }

    /// What new connections use.
    var contexts: TLSContexts { state.withLock { $0.contexts } }

    /// What the owner of a verified certificate is called here.
    func user(_ certificate: PeerCertificate) -> String? { user?.names(certificate).first }

    /// The groups of a verified certificate's owner.
    func groups(_ certificate: PeerCertificate) -> [String] {
        var all: [String] = []
        for template in groups {
            for name in template.names(certificate) where !all.contains(name) { all.append(name) }
        }
        return all
    }
}
