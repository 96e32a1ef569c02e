internal import CLinux
internal import Glibc

/// What a signal handler has to clean up: plain memory, because a handler may not allocate.
private enum Living {
    static let capacity = 64
    static let pathCapacity = 4096
    // SAFETY: written by the only thread, before handlers are set or in single stores; a handler only reads.
    nonisolated(unsafe) static let pids: UnsafeMutablePointer<pid_t> = {
        let memory = UnsafeMutablePointer<pid_t>.allocate(capacity: capacity)
        memory.initialize(repeating: 0, count: capacity)
        return memory
    }()
    // SAFETY: as above; an entry is a C string that is never freed.
    nonisolated(unsafe) static let paths: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?> = {
        let memory = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>.allocate(capacity: pathCapacity)
        memory.initialize(repeating: nil, count: pathCapacity)
        return memory
    }()

    /// Kills and reaps nothing but what was started here, then removes the temporary files.
    static func killAll() {
        for index in 0..<capacity where pids[index] > 0 {
            Glibc.kill(pids[index], SIGKILL)
            pids[index] = 0
        }
        // The directory was remembered first, so it goes last.
        var index = pathCapacity - 1
        while index >= 0 {
            if let path = paths[index] {
                if unlink(path) != 0 { rmdir(path) }
            }
            index -= 1
        }
    }

    static func remember(_ path: String) {
        guard let slot = (0..<pathCapacity).first(where: { paths[$0] == nil }) else { return }
        paths[slot] = strdup(path)
    }
}

/// A started program. It is killed when the bench ends, however that happens.
final class Child {
    let pid: pid_t
    let command: [String]
    private let log: String
    private var ended = false

    private init(pid: pid_t, command: [String], log: String) {
        self.pid = pid
        self.command = command
        self.log = log
    }

    /// A process that is not ours: it is looked at, never ended.
    init(attachedTo pid: pid_t) {
        self.pid = pid
        command = []
        log = ""
        ended = true
    }

    /// The path of this executable.
    static let ownPath: String = {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        return count > 0 ? String(decoding: buffer[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self) : "apus-bench"
    }()

    /// The node's executable: the one that was asked for, or the one beside this.
    static func node(_ wanted: String?) -> String {
        let wanted = wanted ?? ownPath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/apus"
        // Children start in a directory of their own, so the path must hold there, too.
        guard let path = realpath(wanted, nil) else { return wanted }
        defer { free(path) }
        return String(cString: path)
    }

    /// Ends all children and removes temporary files at exit and on SIGINT, SIGTERM and SIGHUP.
    static func killAllAtExit() {
        _ = Living.pids
        _ = Living.paths
        signal(SIGPIPE, SIG_IGN)
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal(number) { number in
                Living.killAll()
                _exit(128 + number)
            }
        }
        atexit {
            Living.killAll()
            Scratch.removeAll()
        }
    }

    /// Starts a program; what it prints goes to a file that `output()` reads.
    static func spawn(_ command: [String]) throws -> Child {
        guard let program = command.first, let slot = (0..<Living.capacity).first(where: { Living.pids[$0] == 0 })
        else { throw Failure("too many child processes") }
        let log = Scratch.path("output-\(now())")
        Living.remember(log)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addchdir_np(&actions, Scratch.path(""))
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        var arguments: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var pid: pid_t = 0
        let result = posix_spawnp(&pid, program, &actions, nil, &arguments, apus_environment())
        guard result == 0 else { throw Failure("\(program): \(String(cString: strerror(result)))") }
        Living.pids[slot] = pid
        return Child(pid: pid, command: command, log: log)
    }

    /// All it has printed so far.
    func output() -> String {
        Scratch.read(log) ?? ""
    }

    /// For a failure of a broker: whether it has ended, and the end of what it printed.
    func lastWords() -> String {
        // Of somebody else's process nothing is known.
        guard !command.isEmpty else { return "" }
        pause(milliseconds: 50)
        let tail = output().split(separator: "\n").suffix(5).joined(separator: "\n    ")
        let state = isRunning ? "" : "; the broker has ended"
        return tail.isEmpty ? state : "\(state); its last words:\n    \(tail)"
    }

    var isRunning: Bool {
        if ended { return false }
        var status: Int32 = 0
        if waitpid(pid, &status, WNOHANG) == pid { forget() }
        return !ended
    }

    /// Ends it at once.
    func kill() {
        end(SIGKILL, patienceMilliseconds: 5000)
    }

    /// Asks it to end and waits; kills it when it does not.
    func terminate(patienceMilliseconds: Int) {
        end(SIGTERM, patienceMilliseconds: patienceMilliseconds)
        if !ended { end(SIGKILL, patienceMilliseconds: 5000) }
    }

    private func end(_ signal: Int32, patienceMilliseconds: Int) {
        guard isRunning else { return }
        Glibc.kill(pid, signal)
        let begin = now()
        while isRunning, now() - begin < UInt64(patienceMilliseconds) * 1_000_000 { usleep(1000) }
    }

    private func forget() {
        ended = true
        for index in 0..<Living.capacity where Living.pids[index] == pid { Living.pids[index] = 0 }
    }

    deinit {
        kill()
        unlink(log)
    }
}

/// The bench's temporary directory, and small files.
enum Scratch {
    private static let directory: String = {
        let parent = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(parent)/apus-bench-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { return parent }
        let path = String(cString: made)
        // A broker started by root may give up its rights before it reads its configuration.
        chmod(path, 0o755)
        Living.remember(path)
        return path
    }()

    static func path(_ name: String) -> String {
        "\(directory)/\(name)"
    }

    /// Writes a file into the temporary directory and returns its path.
    static func write(_ text: String, name: String) throws -> String {
        let path = path(name)
        Living.remember(path)
        try write(text, to: path)
        return path
    }

    static func write(_ text: String, to path: String) throws {
        guard let file = fopen(path, "w") else { throw Failure.system(path) }
        fputs(text, file)
        fclose(file)
    }

    /// The text of a file; works for `/proc`, whose files have no size.
    static func read(_ path: String) -> String? {
        let fd = open(path, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return nil }
        defer { close(fd) }
        var text: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16384)
        while true {
            let count = Glibc.read(fd, &chunk, chunk.count)
            guard count > 0 else { break }
            text.append(contentsOf: chunk[..<count])
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// The names in a directory, without the dotted ones.
    static func entries(of path: String) -> [String] {
        guard let stream = opendir(path) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = Glibc.readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names
    }

    /// Removes the directory with everything that children have left in it.
    static func removeAll() {
        guard directory.contains("apus-bench-") else { return }
        remove(directory)
    }

    private static func remove(_ path: String) {
        var information = stat()
        guard lstat(path, &information) == 0 else { return }
        if information.st_mode & S_IFMT == S_IFDIR {
            for name in entries(of: path) { remove("\(path)/\(name)") }
            rmdir(path)
        } else {
            unlink(path)
        }
    }
}
