import Glibc
import Security
import Testing

private func hash() throws -> ScryptHash { try ScryptHash(password: Array("pw".utf8), cost: .least) }

private let text = "$scrypt$ln=10,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"

private func parse(_ text: String) throws -> UserFile { try UserFile(parsing: Array(text.utf8), file: "users") }

/// A directory that goes with the test.
final class Scratch {
    let path: String

    init() throws {
        var template = Array("/tmp/apus-users-XXXXXX".utf8CString)
        path = try template.withUnsafeMutableBufferPointer { buffer in
            let base = try #require(buffer.baseAddress)
            let made = try #require(mkdtemp(base))
            return String(cString: made)
        }
    }

    deinit {
        for name in names { unlink("\(path)/\(name)") }
        rmdir(path)
    }

    /// Writes a file.
    /// - Returns: its path.
    func write(_ text: String, _ name: String = "file") throws -> String {
        let path = "\(self.path)/\(name)"
        let file = try #require(fopen(path, "w"))
        fputs(text, file)
        fclose(file)
        return path
    }

    var names: [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names
    }
}

@Suite("User file")
struct UserFileTests {
    @Test("Users, groups and comments are read and written back as they were")
    func roundTrip() throws {
        let source = "# the fleet\n\nanna:\(text):admins,ops\nb@x.org:\(text)\n   \n# end\n"
        let file = try parse(source)
        #expect(file.users.map(\.name) == ["anna", "b@x.org"])
        #expect(file.user(named: "anna")?.groups == ["admins", "ops"])
        #expect(file.encoded == source)
        let scram = try SCRAMVerifier(password: Array("pw".utf8), iterations: 4_096)
        let withVerifier = "anna:\(text):admins:\(scram.encoded)\nbob:\(text)::\(scram.encoded)\n"
        #expect(try parse(withVerifier).users.map(\.scram) == [scram, scram])
        #expect(try parse(withVerifier).encoded == withVerifier)
        #expect(try parse("anna:\(text):").users.first?.groups == [])
        #expect(try parse("anna:\(text)\r\n").users.count == 1)
        #expect(try parse("").users.isEmpty)
    }

    @Test("Changing keeps the place, adding appends, removing removes")
    func change() throws {
        var file = try parse("# one\nanna:\(text)\n# two\nbob:\(text)\n")
        file.set(try User(name: "anna", hash: try hash(), groups: ["g"]))
        file.set(try User(name: "carl", hash: try hash()))
        #expect(file.users.map(\.name) == ["anna", "bob", "carl"])
        #expect(file.encoded.hasPrefix("# one\nanna:$scrypt$"))
        #expect(file.remove("bob") == true)
        #expect(file.remove("bob") == false)
        #expect(file.encoded.contains("# two\ncarl:"))
    }

    @Test(
        "Malformed lines are named with file, line and reason",
        arguments: [
            ("anna", "users:1: expected name:hash, name:hash:group,group or name:hash:group,group:verifier, found 1"),
            ("# x\nanna:secret", "users:2: the hash must look like"),
            (":\(text)", "users:1: a user name must not be empty"),
            (" anna:\(text)", "users:1: a user name must not begin or end with a space"),
            ("an\u{7}na:\(text)", "users:1: a user name must not contain control characters"),
            ("anonymous:\(text)", "users:1: the user name 'anonymous' stands for"),
            ("anna:\(text):a,,b", "users:1: a group name must not be empty"),
            ("anna:\(text):a:b", "users:1: the verifier must look like"),
            ("anna:\(text):a:", "users:1: the verifier must look like"),
            ("anna:\(text):a:b:c", "users:1: expected name:hash, name:hash:group,group or"),
            ("anna:\(text)\n\nanna:\(text)", "users:3: user 'anna' is already on line 1"),
            (String(repeating: "n", count: 257) + ":\(text)", "users:1: a user name must not be longer than 256 bytes"),
        ])
    func malformed(source: String, expected: String) throws {
        let error = try #require(throws: UserFileError.self) { try parse(source) }
        #expect(error.problems.count == 1)
        #expect(error.description.hasPrefix(expected), "\(error)")
        #expect(!error.description.contains("secret"))
    }

    @Test("All problems are reported at once, and bytes that are not UTF-8 are one")
    func severalProblems() throws {
        let bytes = Array("anna\n".utf8) + [0xFF, 0xFE, 0x0A] + Array("ok:\(text)\nbob:x\n".utf8)
        let error = try #require(throws: UserFileError.self) { try UserFile(parsing: bytes, file: "u") }
        #expect(error.problems.count == 3)
        #expect(error.problems[1] == "u:2: the line is not UTF-8")
    }

    @Test("Written whole, mode 0600, nothing left beside it")
    func write() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/users"
        #expect(throws: UserFileError.self) { try UserFile.load(path) }
        #expect(throws: UserFileError.self) { try UserFile.update(path) { _ in } }
        let user = try User(name: "anna", hash: try hash())
        try UserFile.update(path, creating: true) { file throws(UserFileError) in file.set(user) }
        try UserFile.update(path) { file throws(UserFileError) in file.set(user) }
        #expect(try UserFile.load(path).users == [user])
        var status = stat()
        #expect(stat(path, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        #expect(scratch.names == ["users"])
    }

    @Test("A change that fails leaves the file alone; a symbolic link stays one")
    func failedChangeAndLink() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/users"
        let user = try User(name: "anna", hash: try hash())
        try UserFile.update(path, creating: true) { file throws(UserFileError) in file.set(user) }
        #expect(throws: UserFileError.self) {
            try UserFile.update(path) { file throws(UserFileError) in
                _ = file.remove("anna")
                _ = try User(name: "", hash: user.hash)
            }
        }
        #expect(try UserFile.load(path).users == [user])
        let link = scratch.path + "/link"
        #expect(symlink(path, link) == 0)
        try UserFile.update(link) { file throws(UserFileError) in _ = file.remove("anna") }
        #expect(try UserFile.load(path).users.isEmpty)
        var status = stat()
        #expect(lstat(link, &status) == 0)
        #expect(status.st_mode & S_IFMT == S_IFLNK)
    }
}
