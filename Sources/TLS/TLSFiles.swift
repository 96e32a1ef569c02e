import Glibc

/// Reads the files of a door and remembers what they were like, so that a change is noticed.
struct TLSFiles: Sendable {
    /// What a file or a directory was like when it was read; another one, or another content, has another stamp.
    struct Stamp: Equatable, Sendable {
        var device: UInt
        var inode: UInt
        var size: Int
        var seconds: Int
        var nanoseconds: Int

        init(_ status: stat) {
            device = status.st_dev
            inode = status.st_ino
            size = status.st_size
            seconds = status.st_mtim.tv_sec
            nanoseconds = status.st_mtim.tv_nsec
        }

        /// Nil when there is nothing under the path.
        init?(path: String) {
            var status = stat()
            guard stat(path, &status) == 0 else { return nil }
            self.init(status)
        }
    }

    private struct Entry: Sendable {
        var path: String
        var stamp: Stamp?
    }

    /// Bytes of a file with certificates or keys. A bundle of all public authorities has a quarter of it.
    static let maxFileBytes = 1 << 20
    /// Bytes of a file with revocation lists: those of large authorities have tens of megabytes.
    static let maxListBytes = 64 << 20
    /// For how long a file must have been left alone before a change of it is looked at by itself, in nanoseconds: one
    /// that is still being copied may end between two certificates.
    private static let restNanoseconds: Int64 = 500_000_000

    private var entries: [Entry] = []

    /// Whether anything that was read is different now.
    var haveChanged: Bool { entries.contains { Stamp(path: $0.path) != $0.stamp } }

    /// Whether what is different now has been left alone for a moment, so that nobody is writing it any more.
    ///
    /// By the system's clock, which the times of files are of. A time in the future says nothing about that.
    var haveSettled: Bool {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        return entries.allSatisfy { entry in
            guard let stamp = Stamp(path: entry.path), stamp != entry.stamp else { return true }
            let (seconds, isOver) = Int64(now.tv_sec).subtractingReportingOverflow(Int64(stamp.seconds))
            guard !isOver, (0...1).contains(seconds) else { return true }
            let age = seconds * 1_000_000_000 + Int64(now.tv_nsec) - Int64(stamp.nanoseconds)
            return age < 0 || age >= Self.restNanoseconds
        }
    }

    /// Reads a whole file.
    /// - Throws: also when it changes meanwhile: it is then not what anybody meant, and ``haveChanged``.
    mutating func read(_ path: String, limit: Int = maxFileBytes) throws(TLSFailure) -> [UInt8] {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else {
            let reason = String(cString: strerror(errno))
            entries.append(Entry(path: path, stamp: Stamp(path: path)))
            throw TLSFailure("\(path): \(reason)")
        }
        defer { close(file) }
        var status = stat()
        guard fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            entries.append(Entry(path: path, stamp: Stamp(path: path)))
            throw TLSFailure("\(path): not a file")
        }
        entries.append(Entry(path: path, stamp: Stamp(status)))
        guard status.st_size <= limit else {
            throw TLSFailure("\(path): larger than \(limit >> 20) MiB, which no such file is")
        }
        var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
        var count = 0
        while count < bytes.count {
            let room = bytes.count - count
            let got = bytes.withUnsafeMutableBytes { Glibc.read(file, $0.baseAddress.map { $0 + count }, room) }
            if got < 0, errno == EINTR { continue }
            guard got >= 0 else { throw TLSFailure("\(path): \(String(cString: strerror(errno)))") }
            if got == 0 { break }
            count += got
        }
        bytes.removeLast(bytes.count - count)
        guard count == status.st_size, fstat(file, &status) == 0, Stamp(status) == entries.last?.stamp else {
            throw TLSFailure("\(path): changed while it was read")
        }
        return bytes
    }

    /// The files with revocation lists, at least one: the path itself, or those in the directory whose names end as
    /// theirs do.
    mutating func revocationFiles(_ path: String) throws(TLSFailure) -> [String] {
        var status = stat()
        guard stat(path, &status) == 0 else {
            entries.append(Entry(path: path, stamp: nil))
            throw TLSFailure("\(path): \(String(cString: strerror(errno)))")
        }
        guard status.st_mode & S_IFMT == S_IFDIR else { return [path] }
        entries.append(Entry(path: path, stamp: Stamp(status)))
        guard let directory = opendir(path) else {
            throw TLSFailure("\(path): \(String(cString: strerror(errno)))")
        }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if !name.hasPrefix("."), name.hasSuffix(".pem") || name.hasSuffix(".crl") { names.append(name) }
        }
        guard !names.isEmpty else { throw TLSFailure("\(path): no file in it ends with .pem or .crl") }
        return names.sorted().map { "\(path)/\($0)" }
    }
}
