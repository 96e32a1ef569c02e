// The sessions of a namespace: one for each client id, wherever it lives.

import Synchronization

/// Some of a namespace's sessions.
public struct SessionPage: Sendable {
    /// One session.
    public struct Entry: Sendable {
        /// The client's id.
        public var clientID: String
        /// Where it lives.
        public var address: PortAddress
    }

    /// The sessions, in an order that stays the same while the node runs.
    public var sessions: [Entry] = []
    /// What to pass as `after` for the next page; nil when there is none.
    public var next: String?
}

extension Router {
    /// Where the session of a client id lives; nil when there is none.
    public func session(of clientID: String) -> PortAddress? { sessions.withLock { $0[clientID] } }

    /// What became of a claim to a client id.
    public enum SessionClaim: Sendable, Equatable {
        /// The claim holds.
        case held
        /// A session of this client id lives there.
        case taken(PortAddress)
        /// There are as many sessions as there may be.
        case overLimit
        /// The user has as many as the quotas allow.
        case overQuota
    }

    /// Claims a client id for a new session.
    public func claimSession(_ clientID: String, for address: PortAddress) -> SessionClaim {
        sessions.withLock {
            $0.claim(
                clientID, for: address, after: nil, countedFor: nil, evenOverQuota: false, limit: limits.maxSessions)
        }
    }

    /// Claims a client id for a new session of a principal, which counts for its user.
    /// - Parameters:
    ///   - former: a session of this client id that is to end: if it still has the id, the new one takes its place in
    ///     one step. Given up and claimed again, the id could be somebody else's on another lane in between.
    ///   - evenOverQuota: whether it is claimed even if it is one too many: a session that comes from another node is
    ///     there already.
    public func claimSession(
        _ clientID: String, for address: PortAddress, after former: PortAddress? = nil, as principal: Principal,
        evenOverQuota: Bool = false, on lane: Lane
    ) -> SessionClaim {
        let usage = principal.allowance?.sessions
        let claim = sessions.withLock {
            $0.claim(
                clientID, for: address, after: former, countedFor: usage, evenOverQuota: evenOverQuota,
                limit: limits.maxSessions)
        }
        if claim == .overQuota, let usage { principal.refuse(.sessions, usage, "connect", on: lane) }
        return claim
    }

    /// Gives a client id up, if the session at `address` still has it.
    public func releaseSession(_ clientID: String, at address: PortAddress) {
        let isGone = sessions.withLock { $0.release(clientID, at: address) }
        if isGone { mover?.sessionEnded(clientID) }
    }

    /// Sessions of the namespace, connected and absent.
    public var sessionCount: Int { sessions.withLock { $0.count } }

    // MARK: Listing

    /// Sessions looked at for one page: one with few hits ends early, and the next goes on.
    private static var visitedAtMost: Int { 20_000 }

    /// A page of the sessions. There may be fewer than `limit`, even none, although there is a next page.
    /// - Parameters:
    ///   - after: the ``SessionPage/next`` of the page before; nil for the first.
    ///   - prefix: what the client ids begin with; empty for all.
    public func sessions(after: String?, limit: Int, prefix: String) -> SessionPage {
        var page = SessionPage()
        var after = after
        var visited = 0
        let first = after.map(SessionTable.part(of:)) ?? 0
        for part in first..<SessionTable.partCount {
            // One part under the lock at a time; sorting is done outside of it.
            var (found, last, size) = sessions.withLock { table in
                let (found, last) = table.sessions(part: part, after: after, prefix: prefix)
                return (found, last, table.count(part: part))
            }
            after = nil
            visited += size
            found.sort { $0.clientID.precedesByBytes($1.clientID) }
            page.sessions += found.prefix(limit - page.sessions.count)
            let isLast = part == SessionTable.partCount - 1
            if page.sessions.count == limit {
                let isCut = page.sessions.last?.clientID != found.last?.clientID
                if isCut || !isLast { page.next = page.sessions.last?.clientID }
                return page
            }
            if visited >= Self.visitedAtMost, !isLast, let last {
                page.next = last
                return page
            }
        }
        return page
    }
}
