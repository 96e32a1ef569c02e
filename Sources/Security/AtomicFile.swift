/// Small files that are seen whole or not at all.
package import Glibc

/// Reading and writing of them.
package enum AtomicFile {
    /// Who may read a file.
    package enum Mode: mode_t {
        /// Its owner only: keys.
        case secret = 0o600
        /// Everybody: certificates and lists.
        case open = 0o644
    }

    /// No file of certificates is larger; keeps a mistaken path (a device, a log) from filling the memory.
    package static let maxBytes = 16 << 20

    static func failure(_ what: String, _ number: Int32 = errno) -> CertificateFailure {
        CertificateFailure("\(what): \(String(cString: strerror(number)))")
    }

    /// Whether there is something at `path`.
    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 || errno != ENOENT }

    /// Writes a file: to a temporary one beside it, flushed, then renamed over it. The owner of an old file stays.
    package static func write(_ bytes: [UInt8], to path: String, _ mode: Mode) throws(CertificateFailure) {
        let temporary = "\(path).\(getpid()).new"
        unlink(temporary)
        let descriptor = Glibc.open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode.rawValue)
        guard descriptor >= 0 else { throw failure("cannot create \(temporary)") }
        do throws(CertificateFailure) {
            defer { close(descriptor) }
            // The umask may have taken something away.
            guard fchmod(descriptor, mode.rawValue) == 0 else { throw failure("cannot set the rights of \(path)") }
            try keepOwner(of: path, on: descriptor)
            var rest = bytes[...]
            while !rest.isEmpty {
                let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { throw failure("cannot write \(temporary)") }
                rest = rest.dropFirst(count)
            }
            guard fsync(descriptor) == 0 else { throw failure("cannot flush \(temporary)") }
            guard rename(temporary, path) == 0 else { throw failure("cannot replace \(path)") }
        } catch {
            unlink(temporary)
            throw error
        }
        let directory = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let folder = try openFolder(directory)
        defer { close(folder) }
        guard fsync(folder) == 0 else { throw failure("cannot flush \(directory)") }
    }

    /// Why a file was not read. What the system says is in `errno`'s numbers.
    package enum ReadFailure: Error {
        /// It is not there, or not for us.
        case opening(Int32)
        /// It is a directory, or broken.
        case reading(Int32)
        /// It has more bytes than were asked for.
        case tooLarge
    }

    /// Reads a file.
    /// - Parameter most: bytes; a larger file is refused.
    package static func read(_ path: String, most: Int = maxBytes) throws(CertificateFailure) -> [UInt8] {
        do throws(ReadFailure) { return try bytes(of: path, most: most) } catch {
            switch error {
            case .opening(let number): throw failure("cannot open \(path)", number)
            case .reading(let number): throw failure("cannot read \(path)", number)
            case .tooLarge: throw CertificateFailure("\(path) is larger than \(most >> 20) MiB")
            }
        }
    }

    /// The same for those who have words of their own.
    package static func bytes(of path: String, most: Int) throws(ReadFailure) -> [UInt8] {
        let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .opening(errno) }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0 {
                if errno == EINTR { continue }
                throw .reading(errno)
            }
            if count == 0 { return bytes }
            bytes += chunk[..<count]
            if bytes.count > most { throw .tooLarge }
        }
    }

    /// Opens a directory.
    static func openFolder(_ path: String) throws(CertificateFailure) -> Int32 {
        let descriptor = Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure("cannot open the directory \(path)") }
        return descriptor
    }

    /// A node that runs as its own user must still be able to read what root has changed.
    private static func keepOwner(of path: String, on descriptor: Int32) throws(CertificateFailure) {
        var old = stat()
        guard stat(path, &old) == 0, old.st_uid != geteuid() || old.st_gid != getegid() else { return }
        guard fchown(descriptor, old.st_uid, old.st_gid) == 0 else { throw failure("cannot keep the owner of \(path)") }
    }
}
