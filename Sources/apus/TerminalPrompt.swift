/// Asking for a password on a terminal.
import Glibc

/// Reads without showing what is typed.
enum TerminalPrompt {
    /// Asks on standard error and reads a line from standard input.
    static func password(_ prompt: String) throws -> [UInt8] {
        var shown = termios()
        guard tcgetattr(STDIN_FILENO, &shown) == 0 else { throw CommandFailure.system("cannot ask for a password") }
        var hidden = shown
        // Without signals from the keyboard nothing can end the process while the terminal is hidden; ^C is read below.
        hidden.c_lflag &= ~tcflag_t(ECHO | ISIG)
        // ^C ends a line as Return does, or it would wait in the terminal for one.
        withUnsafeMutableBytes(of: &hidden.c_cc) { $0[Int(VEOL)] = 0x03 }
        guard tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden) == 0 else {
            throw CommandFailure.system("cannot hide the password")
        }
        defer {
            tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown)
            writeAll([0x0A], to: STDERR_FILENO)
        }
        writeAll(Array(prompt.utf8), to: STDERR_FILENO)
        var line: [UInt8] = []
        while line.count <= 64 << 10 {
            var byte: UInt8 = 0
            let count = read(STDIN_FILENO, &byte, 1)
            if count < 0 && errno == EINTR { continue }
            if count <= 0 || byte == 0x0A { break }
            if byte == 0x03 { throw CommandFailure("cancelled") }
            line.append(byte)
        }
        return line
    }
}
