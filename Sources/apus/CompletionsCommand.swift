/// `apus completions`.
import ArgumentParser

/// `apus completions`.
struct CompletionsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "completions",
        abstract: "Print a script with which a shell completes commands and flags.",
        discussion: """
            `make install` and the Debian package bring these scripts with them. Otherwise, for one shell or for good:

            Examples:
              source <(apus completions bash)
              apus completions bash > ~/.local/share/bash-completion/completions/apus
              apus completions zsh > ~/.zfunc/_apus
              apus completions fish > ~/.config/fish/completions/apus.fish
            """)

    /// A shell that there are scripts for.
    enum Shell: String, CaseIterable, ExpressibleByArgument {
        case bash, zsh, fish

        var parser: CompletionShell {
            switch self {
            case .bash: .bash
            case .zsh: .zsh
            case .fish: .fish
            }
        }
    }

    @Argument(help: "The shell.")
    var shell: Shell

    func run() {
        print(Apus.completionScript(for: shell.parser))
    }
}
