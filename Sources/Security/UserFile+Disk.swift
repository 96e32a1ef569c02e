/// The user file on disk. A change is seen whole or not at all, and two changes at the same time do not lose one.
import Glibc

extension UserFile {
    /// Far more than the users of one node need; keeps a mistaken path (a device, a log) from filling the memory.
    private static let maxFileBytes = 64 << 20

    /// Loads the file at `path`.
    /// - Throws: naming the file, and the line that is no user.
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

    /// Writes the file, whole or not at all. Readable by its owner only.
    /// - Throws: naming the file; what was there before is untouched then.
    public func write(to path: String) throws(UserFileError) {
        do throws(CertificateFailure) {
            try AtomicFile.write(Array(encoded.utf8), to: Self.resolved(path), .secret)
        } catch { throw UserFileError(error.description) }
    }

    /// Follows a symbolic link, which renaming would otherwise replace by a file.
    private static func resolved(_ path: String) -> String {
        guard let real = realpath(path, nil) else { return path }
        defer { free(real) }
        return String(cString: real)
    }

    private static func read(_ path: String) throws(UserFileError) -> [UInt8] {
        do throws(CertificateFailure) { return try AtomicFile.read(path, most: maxFileBytes) } catch {
            throw UserFileError(error.description)
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
