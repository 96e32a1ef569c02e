/// `apus check`: a configuration is looked at without starting a node.
import ArgumentParser
import Node

/// `apus check`.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check a configuration without starting a node.",
        discussion: """
            Reads the file as `apus run` would, with the environment applied, and says everything that is wrong with \
            it: file, line, key, and what is allowed. Certificates, keys, authorities, revocation lists, the user file \
            and the keys of tokens are read, too. Ends with 78 when something is wrong that would keep a node from \
            starting; warnings are about what it would start with.

            Examples:
              apus check mesh-configs/secured.yaml
              apus check --keys
            """)

    @Flag(help: "Print the table of all keys (Markdown) instead.")
    var keys = false

    @Argument(help: "The configuration. Default: the file named by APUS_CONFIG.")
    var file: String?

    func validate() throws {
        if !keys, file == nil, Configuration.processEnvironment["APUS_CONFIG"] == nil {
            throw ValidationError("Missing expected argument '<file>', and APUS_CONFIG names none")
        }
    }

    func run() throws {
        if keys { return print(ConfigurationKeys.markdown, terminator: "") }
        let configuration = try Configuration.load(file: file)
        let report = configuration.checkFiles()
        for warning in report.warnings { printError("warning: \(warning)") }
        for problem in report.problems { printError("\(problem)") }
        if !report.problems.isEmpty { throw ExitCode(78) }
        for line in configuration.summary(report) { print(line) }
        for warning in configuration.openDoors { printError("warning: \(warning)") }
    }
}
