/// `apus user`: the user file.
import ArgumentParser
import Glibc
import Security

/// `apus user`.
struct UserCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "user",
        abstract: "Manage the users who may log in.",
        discussion: """
            The file is the one that `security.users` names. A running node takes a change on SIGHUP. The password is \
            asked for on a terminal, else read from the first line of standard input or of --password-file; it is not \
            an argument, where other users of the machine could see it.

            Examples:
              apus user add --file users --group operators olivia
              echo "$SECRET" | apus user add --file users pump-17
              apus user list --file users
              apus user remove --file users pump-17
            """,
        subcommands: [UserAdd.self, UserRemove.self, UserList.self, UserCheck.self])
}

/// What all subcommands of `apus user` take.
struct UserFileOption: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("The user file.", valueName: "path"))
    var file: String
}

/// Where a password comes from.
struct PasswordOption: ParsableArguments {
    @Option(help: ArgumentHelp("Read the password from the first line of this file.", valueName: "path"))
    var passwordFile: String?

    /// The password: from the file, by asking (`twice` when a mistake would go unseen), or from standard input.
    func read(twice: Bool) throws -> [UInt8] {
        let password: [UInt8]
        if let passwordFile {
            password = firstLine(of: try readAll(path: passwordFile, limit: 64 << 10))
        } else if isatty(STDIN_FILENO) == 1 {
            password = try TerminalPrompt.password("Password: ")
            if twice, try TerminalPrompt.password("Again: ") != password {
                throw CommandFailure("the passwords differ")
            }
        } else {
            password = firstLine(of: try readAll(STDIN_FILENO, limit: 64 << 10, name: "standard input"))
        }
        if password.isEmpty { throw CommandFailure("the password is empty") }
        if password.count > NodeAuthenticator.maxPasswordBytes {
            throw CommandFailure("the password is longer than \(NodeAuthenticator.maxPasswordBytes) bytes")
        }
        return password
    }

    private func firstLine(of bytes: [UInt8]) -> [UInt8] {
        var line = Array(bytes.prefix { $0 != 0x0A })
        if line.last == 0x0D { line.removeLast() }
        return line
    }
}

/// `apus user add`.
struct UserAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Add a user, or change the password of one.",
        discussion: """
            Makes the file when there is none. Without --group an existing user keeps the groups.

            --scram stores what SCRAM-SHA-256 logins need as well (MQTT 5 AUTH, AMQP). It is easier to guess a \
            password from than the scrypt hash if the file is ever stolen: give such users passwords that are long \
            and random. A new password without --scram takes it away.

            Examples:
              apus user add --file users --group operators olivia
              apus user add --file users --scram pump-17
            """)

    @OptionGroup var file: UserFileOption
    @OptionGroup var password: PasswordOption

    @Option(help: "A group of the user; repeatable.")
    var group: [String] = []

    @Flag(help: "Let the user log in by SCRAM-SHA-256, too.")
    var scram = false

    @Option(help: ArgumentHelp("Rounds that a client computes for SCRAM.", valueName: "count"))
    var scramIterations: Int?

    @Argument(help: "The user's name.")
    var name: String

    func validate() throws {
        guard let scramIterations else { return }
        let range = SCRAMVerifier.iterationRange
        guard scram else { throw ValidationError("--scram-iterations goes with --scram") }
        guard range.contains(scramIterations) else {
            throw ValidationError("--scram-iterations must be from \(range.lowerBound) to \(range.upperBound)")
        }
    }

    func run() throws {
        if let reason = User.reasonAgainst(name: name) { throw CommandFailure(reason) }
        let password = try password.read(twice: true)
        let hash = try ScryptHash(password: password)
        let verifier =
            scram
            ? try SCRAMVerifier(password: password, iterations: scramIterations ?? SCRAMVerifier.standardIterations)
            : nil
        var isNew = true
        var losesSCRAM = false
        try UserFile.update(file.file, creating: true) { file throws(UserFileError) in
            let old = file.user(named: name)
            isNew = old == nil
            losesSCRAM = old?.scram != nil && verifier == nil
            let groups = group.isEmpty ? old?.groups ?? [] : group
            file.set(try User(name: name, hash: hash, groups: groups, scram: verifier))
        }
        print("\(isNew ? "added" : "changed") \(name)\(losesSCRAM ? ", who cannot use SCRAM any more" : "")")
    }
}

/// `apus user remove`.
struct UserRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Remove a user.",
        discussion: """
            Example:
              apus user remove --file users pump-17
            """)

    @OptionGroup var file: UserFileOption

    @Argument(help: "The user's name.")
    var name: String

    func run() throws {
        let path = file.file
        var isRemoved = false
        try UserFile.update(path) { file throws(UserFileError) in isRemoved = file.remove(name) }
        guard isRemoved else { throw CommandFailure("there is no user '\(name)' in \(path)") }
        print("removed \(name)")
    }
}

/// `apus user list`.
struct UserList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the users and their groups.",
        discussion: """
            One user a line: the name, the groups after a tab, and `scram` after another tab for one who can log in by \
            SCRAM-SHA-256.

            Example:
              apus user list --file users
            """)

    @OptionGroup var file: UserFileOption

    func run() throws {
        for user in try UserFile.load(file.file).users {
            var columns = [user.name]
            if !user.groups.isEmpty || user.scram != nil { columns.append(user.groups.joined(separator: ",")) }
            if user.scram != nil { columns.append("scram") }
            print(columns.joined(separator: "\t"))
        }
    }
}

/// `apus user check`.
struct UserCheck: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Check a user's password.",
        discussion: """
            Ends with 0 when the password is right and with 1 when it is wrong or the user unknown.

            Example:
              apus user check --file users olivia
            """)

    @OptionGroup var file: UserFileOption
    @OptionGroup var password: PasswordOption

    @Argument(help: "The user's name.")
    var name: String

    func run() throws {
        let users = try UserFile.load(file.file)
        guard let user = users.user(named: name) else {
            throw CommandFailure("there is no user '\(name)' in \(file.file)")
        }
        guard try user.hash.matches(password.read(twice: false)) else {
            throw CommandFailure("the password is wrong")
        }
        print("the password is right")
    }
}

/// Whether a file is there and may be read.
func isReadable(_ path: String) -> Bool { access(path, R_OK) == 0 }
