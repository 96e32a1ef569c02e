/// Who a node is in its mesh, from start to start: `mesh/identity` in the data directory. Other nodes tell a node's
/// lives apart by their number, so the next one is on the disk before the first frame is sent.
import Glibc
import Mesh
import Synchronization

/// The file, and the lock that keeps a second process from being the same node.
///
/// Threading: callable from any thread; writing waits for the disk, and so is not for lanes.
final class MeshIdentityFile: Sendable {
    /// Why a node cannot be who it was.
    struct Failure: Error, CustomStringConvertible {
        /// Names the file, and what to do.
        let description: String
    }

    /// What is kept.
    struct Record: Equatable {
        var id: NodeID
        /// Counts the node's lives; 48 bits.
        var life: UInt64
        /// The number in destination sets that it had last; 0 for none.
        var shortID: UInt16
    }

    /// The largest number of a life: 48 bits.
    static let maxLife: UInt64 = (1 << 48) - 1
    private static let maxBytes = 4_096

    /// Who the node is in this life.
    let identity: MeshIdentity
    private let directory: String
    private let path: String
    private let lock: Int32
    private let record: Mutex<Record>

    /// Begins another life of the node whose data directory this is, or the first one of a new node.
    /// - Parameters:
    ///   - data: `node.data`; made when it is not there.
    ///   - name: what the node calls itself.
    ///   - certified: the id that the node's certificate gives it. A new node takes it; one that has another id cannot
    ///     prove who it is and does not start.
    init(data: String, name: String, certified: NodeID? = nil) throws(Failure) {
        directory = "\(data)/mesh"
        path = "\(directory)/identity"
        try Self.makeDirectory(data)
        try Self.makeDirectory(directory)
        lock = try Self.lock("\(directory)/lock", data)
        var record: Record
        do throws(Failure) {
            let id = certified ?? NodeID(high: .random(in: 1 ... .max), low: .random(in: .min ... .max))
            record = try Self.read(path) ?? Record(id: id, life: 0, shortID: 0)
            if let certified, record.id != certified { throw Self.notCertified(path, record.id, certified) }
            guard record.life < Self.maxLife else { throw Self.damaged(path, "the number of its life is too large") }
            record.life += 1
            try Self.write(record, path, in: directory)
        } catch {
            close(lock)
            throw error
        }
        identity = MeshIdentity(
            id: record.id, epoch: Self.epoch(life: record.life), instance: .random(in: .min ... .max),
            shortID: record.shortID, name: name)
        self.record = Mutex(record)
    }

    deinit { close(lock) }

    /// Makes another node of a directory of the mesh: one that has not lived yet. To be called by
    /// ``whileStopped(data:_:)``.
    static func begin(_ id: NodeID, in directory: String) throws(Failure) {
        try write(Record(id: id, life: 0, shortID: 0), "\(directory)/identity", in: directory)
    }

    /// Does something while no node runs with a data directory, which is made when it is not there; the closure gets
    /// the directory of the mesh in it.
    static func whileStopped(data: String, _ body: (_ directory: String) throws(Failure) -> Void) throws(Failure) {
        let directory = "\(data)/mesh"
        try makeDirectory(data)
        try makeDirectory(directory)
        let lock = try lock("\(directory)/lock", data)
        defer { close(lock) }
        try body(directory)
    }

    /// Whether a node runs with a data directory.
    static func isRunning(data: String) -> Bool {
        let descriptor = open("\(data)/mesh/lock", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        return flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK
    }

    /// The id in a data directory; nil for a node that has none yet.
    static func id(data: String) throws(Failure) -> NodeID? { try read("\(data)/mesh/identity")?.id }

    /// Keeps the number that the node has in destination sets, so that it claims the same one next time.
    func save(shortID: UInt16) throws(Failure) {
        try change { $0.shortID = shortID }
    }

    /// Keeps an epoch that had to be raised, because others had heard of a later life, as after a restored backup.
    func save(epoch: UInt64) throws(Failure) {
        try change { $0.life = max($0.life, epoch >> 16) }
    }

    private func change(_ body: (inout Record) -> Void) throws(Failure) {
        let (path, directory) = (path, directory)
        try record.withLock { record throws(Failure) in
            var changed = record
            body(&changed)
            if changed != record { try Self.write(changed, path, in: directory) }
            record = changed
        }
    }

    /// 16 random bits below, in case two lives were given one number in spite of everything.
    private static func epoch(life: UInt64) -> UInt64 { life << 16 | .random(in: 0...0xFFFF) }

    // MARK: Text

    private static let head = "# Who this node is in its mesh. Not to be copied: two nodes must not be the same.\n"

    /// The text of a file.
    static func text(of record: Record) -> String {
        let body = head + "id \(record.id)\nlife \(record.life)\nshort \(record.shortID)\n"
        return body + "check \(check(body))\n"
    }

    /// Reads the text of a file; nil when it is not as it was written.
    static func parse(_ text: String) -> Record? {
        var fields: [Substring: Substring] = [:]
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            let words = line.split(separator: " ")
            guard words.count == 2, fields.updateValue(words[1], forKey: words[0]) == nil else { return nil }
        }
        guard let id = fields["id"].flatMap({ NodeID($0) }), let life = fields["life"].flatMap({ UInt64($0) }),
            let shortID = fields["short"].flatMap({ UInt16($0) })
        else { return nil }
        let record = Record(id: id, life: life, shortID: shortID)
        return text == Self.text(of: record) ? record : nil
    }

    /// FNV-1a: against half a file and flipped bits, not against people.
    private static func check(_ text: String) -> String {
        let hash = text.utf8.reduce(0xCBF2_9CE4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
        return String(hash, radix: 16)
    }

    // MARK: Disk

    private static func failure(_ what: String, _ cure: String) -> Failure {
        Failure(description: "\(what): \(String(cString: strerror(errno))); \(cure)")
    }

    private static func damaged(_ path: String, _ what: String) -> Failure {
        Failure(
            description: """
                \(path) is damaged: \(what); restore it from a backup, or remove it: the node then joins as a new one
                """)
    }

    private static func notCertified(_ path: String, _ id: NodeID, _ certified: NodeID) -> Failure {
        Failure(
            description: """
                the node's certificate is that of the node \(certified), and \(path) says that it is \(id): give the \
                node its own certificate, or remove that file to become the one of the certificate
                """)
    }

    private static func makeDirectory(_ path: String) throws(Failure) {
        guard mkdir(path, 0o700) != 0, errno != EEXIST else { return }
        if errno == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex {
            try makeDirectory(String(path[..<slash]))
            if mkdir(path, 0o700) == 0 || errno == EEXIST { return }
        }
        throw failure("cannot make the directory \(path)", "node.data names one that the node may write to")
    }

    /// Held as long as the process lives: the system gives it back, whatever the end was like.
    private static func lock(_ path: String, _ data: String) throws(Failure) -> Int32 {
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw failure("cannot open \(path)", "the node must be able to write there") }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let isTaken = errno == EWOULDBLOCK
            let reason = failure("cannot lock \(path)", "the file system must know locks")
            close(descriptor)
            guard isTaken else { throw reason }
            throw Failure(
                description: """
                    another node runs with the data directory \(data) (it holds \(path)); give each node its own \
                    node.data, or --data
                    """)
        }
        return descriptor
    }

    /// - Returns: nil when there is no file: the node is new.
    private static func read(_ path: String) throws(Failure) -> Record? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw failure("cannot open \(path)", "the node must be able to read who it is")
        }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: maxBytes + 1)
        var count = 0
        while count < bytes.count {
            let more = bytes.withUnsafeMutableBytes { bytes in
                let rest = UnsafeMutableRawBufferPointer(rebasing: bytes[count...])
                return Glibc.read(descriptor, rest.baseAddress, rest.count)
            }
            if more < 0, errno == EINTR { continue }
            guard more >= 0 else { throw failure("cannot read \(path)", "the node must be able to read who it is") }
            if more == 0 { break }
            count += more
        }
        guard count > 0 else { throw damaged(path, "it is empty") }
        guard let record = parse(String(decoding: bytes[..<count], as: UTF8.self)) else {
            throw damaged(path, "it is not as the node wrote it")
        }
        return record
    }

    /// Writes all of a file or nothing: whoever reads it after a power failure finds the old one or the new one.
    private static func write(_ record: Record, _ path: String, in directory: String) throws(Failure) {
        let cure = "the node must be able to write there"
        let temporary = path + ".new"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw failure("cannot open \(temporary)", cure) }
        let bytes = Array(text(of: record).utf8)
        let isWritten = Glibc.write(descriptor, bytes, bytes.count) == bytes.count && fsync(descriptor) == 0
        let reason = failure("cannot write \(temporary)", cure)
        close(descriptor)
        guard isWritten else { throw reason }
        guard rename(temporary, path) == 0 else { throw failure("cannot replace \(path)", cure) }
        let folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw failure("cannot open \(directory)", cure) }
        defer { close(folder) }
        guard fsync(folder) == 0 else { throw failure("cannot write \(directory)", cure) }
    }
}
