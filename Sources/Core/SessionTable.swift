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

    /// Claims a client id; see ``Router/claimSession(_:for:after:as:evenOverQuota:on:)``.
    /// - Parameter limit: how many sessions there may be.
    mutating func claim(
        _ clientID: String, for address: PortAddress, after former: PortAddress?, countedFor usage: Usage?,
        evenOverQuota: Bool, limit: Int
    ) -> Router.SessionClaim {
        let known = self[clientID]
        if let known, known != former { return .taken(known) }
        guard known != nil || count < limit else { return .overLimit }
        guard count(clientID, for: usage, inAnyCase: evenOverQuota) else { return .overQuota }
        self[clientID] = address
        return .held
    }

    /// Gives a client id up, if the session at `address` still has it.
    /// - Returns: whether it had.
    mutating func release(_ clientID: String, at address: PortAddress) -> Bool {
        guard self[clientID] == address else { return false }
        self[clientID] = nil
        uncount(clientID)
        return true
    }

    /// Notes whom a session counts for; nil for nobody. One that follows another of its client id takes its place.
    /// - Parameter inAnyCase: whether it is counted even if it is one too many.
    /// - Returns: false, and nothing has changed, when it would be one too many.
    private mutating func count(_ clientID: String, for usage: Usage?, inAnyCase: Bool) -> Bool {
        guard usage != nil || !usages.isEmpty else { return true }
        let former = usages[ClientKey(clientID)]
        guard former !== usage else { return true }
        if let usage, !usage.add(.sessions, inAnyCase: inAnyCase) { return false }
        former?.subtract(.sessions)
        usages[ClientKey(clientID)] = usage
        return true
    }

    /// A session has ended.
    private mutating func uncount(_ clientID: String) {
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
