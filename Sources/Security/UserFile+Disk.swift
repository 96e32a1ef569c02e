/// The user file on disk. A change is seen whole or not at all, and two changes at the same time do not lose one.
import Glibc

extension UserFile {
    /// Far more than the users of one node need; keeps a mistaken path (a device, a log) from filling the memory.
    private static let maxFileBytes = 64 << 20

    /// Loads the file at `path`.
    public static func load(_ path: String) throws(UserFileError) -> UserFile {
        try UserFile(parsing: read(path), file: path)
    }

    /// Loads the file at `path` (an empty one when `creating` and there is none), applies `change` and writes it back.
    /// Holds a lock of the directory meanwhile, so that changes made at the same time follow each other.
    public static func update(
        _ path: String, creating: Bool = false, _ change: (inout UserFile) throws(UserFileError) -> Void
    ) throws(UserFileError) {
        let directory = try openDirectory(of: path)
        defer { close(directory) }
        guard flock(directory, LOCK_EX) == 0 else { throw failure("cannot lock the directory of \(path)") }
        var file = UserFile()
        if !(creating && access(path, F_OK) != 0 && errno == ENOENT) { file = try load(path) }
        try change(&file)
        try file.write(to: path)
    }

    /// Writes the file: to a temporary file beside it, flushed, then renamed over it. Readable by its owner only.
    public func write(to path: String) throws(UserFileError) {
        let target = Self.resolved(path)
        let temporary = "\(target).\(getpid()).new"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Self.failure("cannot create \(temporary)") }
        do throws(UserFileError) {
            defer { close(descriptor) }
            try Self.keepOwner(of: target, on: descriptor)
            try Self.write(Array(encoded.utf8), to: descriptor, path: temporary)
            guard fsync(descriptor) == 0 else { throw Self.failure("cannot flush \(temporary)") }
            guard rename(temporary, target) == 0 else { throw Self.failure("cannot replace \(target)") }
        } catch {
            unlink(temporary)
            throw error
        }
        let directory = try Self.openDirectory(of: target)
        defer { close(directory) }
        guard fsync(directory) == 0 else { throw Self.failure("cannot flush the directory of \(target)") }
    }

    /// Follows a symbolic link, which renaming would otherwise replace by a file.
    private static func resolved(_ path: String) -> String {
        guard let real = realpath(path, nil) else { return path }
        defer { free(real) }
        return String(cString: real)
    }

    /// A node that runs as its own user must still be able to read what root has changed.
    private static func keepOwner(of path: String, on descriptor: Int32) throws(UserFileError) {
        var old = stat()
        guard stat(path, &old) == 0, old.st_uid != geteuid() || old.st_gid != getegid() else { return }
        guard fchown(descriptor, old.st_uid, old.st_gid) == 0 else {
            throw failure("cannot keep the owner of \(path)")
        }
    }

    private static func write(_ bytes: [UInt8], to descriptor: Int32, path: String) throws(UserFileError) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0 {
                if errno == EINTR { continue }
                throw failure("cannot write \(path)")
            }
            rest = rest.dropFirst(count)
        }
    }

    private static func read(_ path: String) throws(UserFileError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure("cannot open \(path)") }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0 {
                if errno == EINTR { continue }
                throw failure("cannot read \(path)")
            }
            if count == 0 { return bytes }
            bytes += chunk[..<count]
            if bytes.count > maxFileBytes { throw UserFileError("\(path): larger than 64 MiB, surely not a user file") }
        }
    }

    private static func openDirectory(of path: String) throws(UserFileError) -> Int32 {
        let directory: String
        switch path.lastIndex(of: "/") {
        case nil: directory = "."
        case path.startIndex?: directory = "/"
        case let slash?: directory = String(path[..<slash])
        }
        let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure("cannot open the directory of \(path)") }
        return descriptor
    }

    private static func failure(_ what: String) -> UserFileError {
        UserFileError("\(what): \(String(cString: strerror(errno)))")
    }
}
