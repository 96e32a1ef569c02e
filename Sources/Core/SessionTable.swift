/// Which client ids have a session, and where. Split into parts by hash, so that a listing of a million sessions holds
/// the lock of it for one part at a time. Guarded by the router's mutex.
struct SessionTable {
    static let partCount = 256

    private var parts = [[ClientKey: PortAddress]](repeating: [:], count: Self.partCount)
    /// Sessions.
    private(set) var count = 0
    /// Whom sessions count for, where a quota says so.
    private var usages: [ClientKey: Usage] = [:]

    subscript(clientID: String) -> PortAddress? {
        get { parts[Self.part(of: clientID)][ClientKey(clientID)] }
        set {
            let part = Self.part(of: clientID)
            count -= parts[part].count
            parts[part][ClientKey(clientID)] = newValue
            count += parts[part].count
        }
    }

    /// Notes whom a session counts for; nil for nobody. One that follows another of its client id takes its place.
    /// - Parameter inAnyCase: whether it is counted even if it is one too many.
    /// - Returns: false, and nothing has changed, when it would be one too many.
    mutating func count(_ clientID: String, for usage: Usage?, inAnyCase: Bool) -> Bool {
        guard usage != nil || !usages.isEmpty else { return true }
        let former = usages[ClientKey(clientID)]
        guard former !== usage else { return true }
        if let usage, !usage.add(.sessions, inAnyCase: inAnyCase) { return false }
        former?.subtract(.sessions)
        usages[ClientKey(clientID)] = usage
        return true
    }

    /// A session has ended.
    mutating func uncount(_ clientID: String) {
        guard !usages.isEmpty else { return }
        usages.removeValue(forKey: ClientKey(clientID))?.subtract(.sessions)
    }

    /// The part that a client id is in, the same for as long as the process lives.
    static func part(of clientID: String) -> Int { ClientKey(clientID).hashValue & (partCount - 1) }

    /// The sessions of a part whose ids begin with `prefix` and come after `after` in the order of their bytes; in no
    /// particular order. And the last id of the part, whatever it begins with.
    func sessions(part: Int, after: String?, prefix: String) -> (found: [SessionPage.Entry], last: String?) {
        var found: [SessionPage.Entry] = []
        var last: String?
        for (key, address) in parts[part] {
            if last.map({ $0.precedesByBytes(key.text) }) ?? true { last = key.text }
            if let after, !after.precedesByBytes(key.text) { continue }
            if key.text.utf8.starts(with: prefix.utf8) {
                found.append(SessionPage.Entry(clientID: key.text, address: address))
            }
        }
        return (found, last)
    }

    /// Sessions in a part.
    func count(part: Int) -> Int { parts[part].count }
}

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
            var (found, last, size) = withSessions { table in
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

/// A client id compared byte by byte: for a String two spellings of one accented letter would be the same client.
struct ClientKey: Hashable {
    let text: String

    init(_ text: String) { self.text = text }

    static func == (a: ClientKey, b: ClientKey) -> Bool { a.text.utf8.elementsEqual(b.text.utf8) }

    func hash(into hasher: inout Hasher) {
        var text = text
        text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
}

extension String {
    /// Whether this text comes before another in the order of their bytes.
    func precedesByBytes(_ other: String) -> Bool { utf8.lexicographicallyPrecedes(other.utf8) }
}
