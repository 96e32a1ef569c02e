/// The executable: subcommands, and how they end.
import ArgumentParser
import Glibc
import Node
import Security

/// The root command.
struct Apus: ParsableCommand {
    static let version = Node.version

    static let configuration = CommandConfiguration(
        commandName: "apus",
        abstract: "An event mesh router.",
        discussion: """
            Start a node and try it out:
              apus run
              apus sub -t 'greetings/#' -v
              apus pub -t greetings/world -m hello

            Exit codes: 0 done, 1 failed, 2 usage, 78 configuration.
            """,
        version: "apus \(version)",
        subcommands: [
            RunCommand.self, CheckCommand.self, UserCommand.self, AccessCommand.self, CertsCommand.self,
            InviteCommand.self, JoinCommand.self, LeaveCommand.self, PubCommand.self, SubCommand.self,
            StatusCommand.self, ClientsCommand.self, RetainedCommand.self, LinkCommand.self, TopologyCommand.self,
            ExplainCommand.self, TraceCommand.self, TopicsCommand.self, CompletionsCommand.self, VersionCommand.self,
        ])
}

/// `apus version`.
struct VersionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "version", abstract: "Print the version.")

    func run() { print("apus \(Apus.version)") }
}

/// A command that could not do its work; the process ends with 1.
struct CommandFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }

    /// A failed call of the C library.
    static func system(_ what: String) -> CommandFailure {
        CommandFailure("\(what): \(String(cString: strerror(errno)))")
    }
}

/// The way in. Parses by hand of ArgumentParser's `main`, because that ends usage errors with 64 where we promise 2.
@main
enum Entry {
    private static let usageCode: Int32 = 2
    private static let configurationCode: Int32 = 78

    static func main() {
        do {
            var command = try Apus.parseAsRoot()
            try command.run()
        } catch let error as ConfigurationError {
            end(configurationCode, "\(error)")
        } catch let error as CommandFailure {
            end(1, "apus: \(error)")
        } catch let error as UserFileError {
            end(1, "apus: \(error)")
        } catch let error as CertificateFailure {
            end(1, "apus: \(error)")
        } catch let error as MeshMembership.Failure {
            end(1, "apus: \(error)")
        } catch let error as ScryptError {
            end(1, "apus: \(error)")
        } catch {
            let code = Apus.exitCode(for: error)
            let text = Apus.fullMessage(for: error)
            if code == .success {
                if !text.isEmpty { print(text) }
                exit(0)
            }
            end(code == .validationFailure ? usageCode : code.rawValue, text)
        }
    }

    private static func end(_ code: Int32, _ text: String) -> Never {
        if !text.isEmpty { printError(text) }
        exit(code)
    }
}

/// Prints a line to standard error.
func printError(_ text: String) {
    writeAll(Array((text + "\n").utf8), to: STDERR_FILENO)
}

/// Writes all of `bytes`; false when the reader is gone.
@discardableResult
func writeAll(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        if count < 0 && errno == EINTR { continue }
        if count <= 0 { return false }
        rest = rest.dropFirst(count)
    }
    return true
}

/// Reads all of a descriptor, at most `limit` bytes.
func readAll(_ descriptor: Int32, limit: Int, name: String) throws -> [UInt8] {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    while true {
        let count = read(descriptor, &chunk, chunk.count)
        if count < 0 {
            if errno == EINTR { continue }
            throw CommandFailure.system("cannot read \(name)")
        }
        if count == 0 { return bytes }
        bytes += chunk[..<count]
        if bytes.count > limit { throw CommandFailure("\(name) is larger than \(limit) bytes") }
    }
}

/// Reads a file, at most `limit` bytes.
func readAll(path: String, limit: Int) throws -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw CommandFailure.system("cannot open \(path)") }
    defer { close(descriptor) }
    return try readAll(descriptor, limit: limit, name: path)
}
