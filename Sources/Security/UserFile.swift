/// The user file: `name:hash`, `name:hash:group,group` or `name:hash:group,group:verifier` a line, blank lines and
/// lines that begin with `#` kept as they are. Made by `apus user add`; a person may edit it.

/// A user who may log in.
public struct User: Sendable, Equatable {
    /// The name a client gives.
    public let name: String
    /// The stored form of the password.
    public let hash: ScryptHash
    /// Groups that access rules may name.
    public let groups: [String]
    /// For logins by SCRAM-SHA-256; nil when the user has none and so cannot.
    public let scram: SCRAMVerifier?

    /// Makes a user; throws what is wrong with the name or a group.
    public init(
        name: String, hash: ScryptHash, groups: [String] = [], scram: SCRAMVerifier? = nil
    ) throws(UserFileError) {
        if let reason = Self.reasonAgainst(name: name) { throw UserFileError(reason) }
        for group in groups {
            if let reason = Self.reasonAgainst(group: group) { throw UserFileError(reason) }
        }
        self.name = name
        self.hash = hash
        self.groups = groups
        self.scram = scram
    }

    /// The longest name, in bytes.
    public static let maxNameBytes = 256

    /// What is wrong with `name`, or nil when it can be a user's name.
    public static func reasonAgainst(name: String) -> String? {
        if let reason = reasonAgainst(word: name, called: "a user name") { return reason }
        if name.hasPrefix("#") { return "a user name must not begin with '#', which begins a comment" }
        if name == "anonymous" { return "the user name 'anonymous' stands for clients without a name in access rules" }
        return nil
    }

    /// What is wrong with the name of one who is proven by a certificate or a token, or nil. It is in no file, so it
    /// may contain what separates fields there: `spiffe://plant/pump`, `auth0|17`.
    static func reasonAgainst(provenName name: String) -> String? {
        if name.isEmpty { return "the user name is empty" }
        if name.utf8.count > maxNameBytes { return "the user name is longer than \(maxNameBytes) bytes" }
        if name.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) { return "the user name contains control characters" }
        if name == "anonymous" { return "the user name 'anonymous' stands for clients without a name" }
        // Texts that differ in their bytes only are equal wherever names are compared: each name has one spelling.
        if !name.isNormal { return "the user name is not in Unicode's normal form C" }
        return nil
    }

    private static func reasonAgainst(group: String) -> String? {
        if group.utf8.contains(UInt8(ascii: ",")) { return "a group name must not contain ','" }
        return reasonAgainst(word: group, called: "a group name")
    }

    private static func reasonAgainst(word: String, called kind: String) -> String? {
        let bytes = word.utf8
        guard let first = bytes.first, let last = bytes.last else { return "\(kind) must not be empty" }
        if bytes.count > maxNameBytes { return "\(kind) must not be longer than \(maxNameBytes) bytes" }
        if bytes.contains(UInt8(ascii: ":")) { return "\(kind) must not contain ':'" }
        if bytes.contains(where: { $0 < 0x20 || $0 == 0x7F }) { return "\(kind) must not contain control characters" }
        if first == 0x20 || last == 0x20 { return "\(kind) must not begin or end with a space" }
        return nil
    }
}

/// What is wrong with a user file or a user: one line per problem, `file:line: reason` where a line is known.
public struct UserFileError: Error, Equatable, CustomStringConvertible {
    /// The problems, in the order of the file.
    public let problems: [String]

    init(_ problem: String) { problems = [problem] }
    init(problems: [String]) { self.problems = problems }

    /// The problems, one a line.
    public var description: String { problems.joined(separator: "\n") }
}

/// A user file in memory, with its comments.
public struct UserFile: Sendable, Equatable {
    private enum Line: Sendable, Equatable {
        case text(String)
        case user(User)
    }

    private var lines: [Line]

    /// A file without users.
    public init() { lines = [] }

    /// Reads the text of a user file. `file` is the name errors say. All problems are reported at once.
    public init(parsing bytes: [UInt8], file: String) throws(UserFileError) {
        lines = []
        var problems: [String] = []
        var firstLine: [String: Int] = [:]
        var raw = bytes.split(separator: 0x0A, omittingEmptySubsequences: false)
        if raw.last?.isEmpty == true { raw.removeLast() }
        for (index, line) in raw.enumerated() {
            let place = "\(file):\(index + 1)"
            guard let text = String(validating: line.last == 0x0D ? line.dropLast() : line, as: UTF8.self) else {
                problems.append("\(place): the line is not UTF-8")
                continue
            }
            if text.utf8.first == UInt8(ascii: "#") || text.utf8.allSatisfy({ $0 == 0x20 || $0 == 0x09 }) {
                lines.append(.text(text))
                continue
            }
            do throws(UserFileError) {
                let user = try Self.user(parsing: text)
                if let first = firstLine[user.name] {
                    problems.append("\(place): user '\(user.name)' is already on line \(first)")
                } else {
                    firstLine[user.name] = index + 1
                    lines.append(.user(user))
                }
            } catch {
                problems += error.problems.map { "\(place): \($0)" }
            }
        }
        if !problems.isEmpty { throw UserFileError(problems: problems) }
    }

    private static func user(parsing text: String) throws(UserFileError) -> User {
        let fields = text.split(separator: ":", omittingEmptySubsequences: false)
        guard (2...4).contains(fields.count) else {
            throw UserFileError(
                "expected name:hash, name:hash:group,group or name:hash:group,group:verifier, found "
                    + "\(fields.count) field(s)")
        }
        var groups: [Substring] = []
        if fields.count > 2, !fields[2].isEmpty {
            groups = fields[2].split(separator: ",", omittingEmptySubsequences: false)
        }
        let hash: ScryptHash
        var scram: SCRAMVerifier?
        do throws(ScryptError) {
            hash = try ScryptHash(parsing: fields[1])
            if fields.count == 4 { scram = try SCRAMVerifier(parsing: fields[3]) }
        } catch {
            throw UserFileError(error.description)
        }
        return try User(name: String(fields[0]), hash: hash, groups: groups.map(String.init), scram: scram)
    }

    /// The users, in the order of the file.
    public var users: [User] {
        lines.compactMap { line in
            if case .user(let user) = line { user } else { nil }
        }
    }

    /// The user called `name`, if there is one.
    public func user(named name: String) -> User? { users.first { $0.name == name } }

    /// Adds `user`, or replaces the one of the same name where it stands.
    public mutating func set(_ user: User) {
        if let index = index(of: user.name) {
            lines[index] = .user(user)
        } else {
            lines.append(.user(user))
        }
    }

    /// Removes the user called `name`; says whether there was one.
    public mutating func remove(_ name: String) -> Bool {
        guard let index = index(of: name) else { return false }
        lines.remove(at: index)
        return true
    }

    private func index(of name: String) -> Int? {
        lines.firstIndex { line in
            if case .user(let user) = line { user.name == name } else { false }
        }
    }

    /// The file's text.
    public var encoded: String {
        var text = ""
        for line in lines {
            switch line {
            case .text(let comment): text += comment
            case .user(let user):
                text += "\(user.name):\(user.hash.encoded)"
                if !user.groups.isEmpty || user.scram != nil { text += ":" + user.groups.joined(separator: ",") }
                if let scram = user.scram { text += ":" + scram.encoded }
            }
            text += "\n"
        }
        return text
    }
}
