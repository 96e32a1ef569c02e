import Foundation
import Glibc
import Testing

@testable import Security

/// A directory that goes with the test, with an authority in it.
private final class Folder {
    let path = "/tmp/apus-certs-\(getpid())-\(UInt32.random(in: .min ... .max))"
    var authority: AuthorityFolder { AuthorityFolder(path) }

    init(now: Int64 = noon) throws { try authority.create(name: "Test CA", now: now) }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    var files: Set<String> { Set((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []) }

    func text(_ name: String) throws -> String { try String(contentsOfFile: "\(path)/\(name)", encoding: .utf8) }

    func rights(_ name: String) -> mode_t {
        var info = stat()
        return stat("\(path)/\(name)", &info) == 0 ? info.st_mode & 0o777 : 0
    }

    /// Runs the command `openssl`; nil when there is none.
    func openssl(_ arguments: String...) throws -> (status: Int32, text: String)? {
        let binary = "/usr/bin/openssl"
        guard access(binary, X_OK) == 0 else { return nil }
        let process = Process()
        process.executableURL = URL(filePath: binary)
        process.arguments = arguments
        process.currentDirectoryURL = URL(filePath: path)
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, text)
    }
}

private func reason(_ body: () throws -> Void) -> String {
    do {
        try body()
        return ""
    } catch { return "\(error)" }
}

@Suite("The authority's directory")
struct CertificatesFolderTests {
    @Test("Files, their rights, and the index that says what was issued")
    func files() throws {
        let folder = try Folder()
        #expect(folder.files == ["ca.crt", "ca.key", "ca.crl", "issued.txt"])
        let issued = try folder.authority.issue(CertificateRequest(.client, name: "device-1"), now: noon)
        #expect(issued.certificatePath == "\(folder.path)/device-1.crt")
        #expect(folder.files.isSuperset(of: ["device-1.crt", "device-1.key"]) && folder.files.count == 6)
        for name in ["ca.key", "device-1.key"] { #expect(folder.rights(name) == 0o600) }
        for name in ["ca.crt", "ca.crl", "issued.txt", "device-1.crt"] { #expect(folder.rights(name) == 0o644) }
        #expect(
            try folder.text("issued.txt").hasSuffix(
                "\n\(issued.certificate.serial) client 2028-06-03T12:00:00Z - device-1\n"))
        // The leaf and nothing else.
        #expect(try folder.text("device-1.crt").components(separatedBy: "BEGIN CERTIFICATE").count == 2)
        let key = try PrivateKey.read(pem: Array(folder.text("device-1.key").utf8), name: "device-1.key")
        #expect(issued.certificate.belongs(to: key))
        #expect(try folder.authority.index().entries.map(\.name) == ["device-1"])
    }

    @Test("Nothing is overwritten unasked; a key that is not to be kept is not")
    func overwriting() throws {
        let folder = try Folder()
        let before = try folder.text("ca.crt")
        #expect(reason { try folder.authority.create(name: "Test CA", now: noon) }.contains("--force"))
        let request = CertificateRequest(.client, name: "device-1")
        let first = try folder.authority.issue(request, now: noon).certificate
        #expect(reason { _ = try folder.authority.issue(request, now: noon) }.contains("--force"))
        let second = try folder.authority.issue(request, key: .none, replacing: true, now: noon).certificate
        #expect(first.serial != second.serial && !folder.files.contains("device-1.key"))
        #expect(try Array(folder.text("device-1.crt").utf8) == second.pem)
        // Both hold, and both are revoked.
        let revoked = try folder.authority.revoke("device-1", now: noon + 1)
        #expect(revoked.map(\.serial) == [first.serial, second.serial])
        #expect(try folder.text("ca.crt") == before)
        try folder.authority.create(name: "Test CA", replacing: true, now: noon)
        #expect(try folder.text("ca.crt") != before && folder.authority.index().entries.isEmpty)
        #expect(try folder.authority.revocations()?.serials == [])
    }

    @Test("Revoking: once, by name or serial number; the numbers of lists rise")
    func revoking() throws {
        let folder = try Folder()
        let first = try #require(try folder.authority.revocations())
        let issued = try ["a", "b", "c"].map {
            try folder.authority.issue(CertificateRequest(.client, name: $0), now: noon).certificate
        }
        #expect(try folder.authority.revoke("b", now: noon + 5).map(\.revokedAt) == [noon + 5])
        #expect(try folder.authority.revoke("b", now: noon + 6).isEmpty)
        #expect(try folder.authority.revoke(issued[2].serial, days: 1, now: noon + 7).count == 1)
        #expect(reason { _ = try folder.authority.revoke("x", now: noon) }.contains("nothing was issued to 'x'"))
        let list = try #require(try folder.authority.revocations())
        #expect(Set(list.serials) == [issued[1].serial, issued[2].serial])
        #expect(list.number > first.number && list.nextUpdate == noon + 7 + day)
        // A clock that was put back does not bring a number back.
        let renewed = try folder.authority.renewRevocations(now: noon - 100 * day)
        #expect(renewed.number == list.number + 1 && Set(renewed.serials) == Set(list.serials))
        let states = try folder.authority.index().entries.map { $0.state(now: noon + 8) }
        #expect(states == [.good, .revoked, .revoked])
        #expect(try folder.authority.index().entries[0].state(now: noon + 825 * day) == .expired)
        // A list that was lost comes back whole.
        unlink(folder.authority.revocationsPath)
        #expect(try Set(folder.authority.renewRevocations(now: noon).serials) == Set(list.serials))
    }

    @Test("An authority whose key has a passphrase")
    func passphrase() throws {
        let folder = try Folder()
        let locked = AuthorityFolder(folder.path, passphrase: Array("of the authority".utf8))
        try locked.create(name: "Test CA", replacing: true, now: noon)
        #expect(try folder.text("ca.key").contains("ENCRYPTED"))
        let request = CertificateRequest(.client, name: "a")
        #expect(reason { _ = try folder.authority.issue(request, now: noon) }.contains("encrypted"))
        #expect(!folder.files.contains("a.crt"))
        let storage = AuthorityFolder.KeyStorage.encrypted(Array("of the client".utf8))
        _ = try locked.issue(request, key: storage, now: noon)
        #expect(try folder.text("a.key").contains("ENCRYPTED"))
    }

    @Test("An index that was spoilt by hand is refused with file and line, and so is what is not there")
    func index() throws {
        let folder = try Folder()
        let good = "ab01 client 2028-06-03T12:00:00Z - device-1"
        func parse(_ text: String) throws -> IssuedIndex {
            try IssuedIndex(parsing: Array(text.utf8), file: "issued.txt")
        }
        #expect(try parse("# x\n\n\(good)\n").entries.count == 1)
        #expect(try parse(parse(good).encoded) == parse(good))
        for line in [
            "x", good + " more", good.replacingOccurrences(of: "ab01", with: "ab0"),
            good.replacingOccurrences(of: "client", with: "friend"), good.replacingOccurrences(of: "06", with: "13"),
            good.replacingOccurrences(of: " - ", with: " yes "), good.replacingOccurrences(of: "dev", with: "../dev"),
        ] { #expect(reason { _ = try parse("\(good)\n\(line)\n") }.hasPrefix("issued.txt:2: "), "\(line)") }
        let nothing = AuthorityFolder("\(folder.path)/nothing")
        #expect(reason { _ = try nothing.revoke("a", now: noon) }.contains("apus certs init"))
        #expect(reason { _ = try nothing.certificate() }.contains("apus certs init"))
        unlink(folder.authority.keyPath)
        #expect(reason { _ = try folder.authority.renewRevocations(now: noon) }.contains("ca.key is not there"))
    }

    @Test("Commands at the same time lose nothing")
    func together() async throws {
        let folder = try Folder()
        let path = folder.path
        await withTaskGroup { group in
            for index in 0..<8 {
                group.addTask {
                    _ = try? AuthorityFolder(path).issue(CertificateRequest(.client, name: "d\(index)"), now: noon)
                }
            }
        }
        #expect(try Set(folder.authority.index().entries.map(\.name)) == Set((0..<8).map { "d\($0)" }))
    }

    @Test("The command openssl finds them good, and what is revoked not")
    func command() throws {
        // By the clock: openssl has no other.
        let now = Int64(time(nil))
        let folder = try Folder(now: now)
        var node = CertificateRequest(.node(try .random(mesh: "plant")), name: "node-1")
        node.hosts = ["localhost", "127.0.0.1", "::1"]
        _ = try folder.authority.issue(node, now: now)
        _ = try folder.authority.issue(CertificateRequest(.client, name: "device-1"), now: now)
        func verify(_ purpose: String, _ name: String, _ more: String = "-x509_strict") throws -> (Int32, String)? {
            try folder.openssl("verify", "-CAfile", "ca.crt", more, "-purpose", purpose, "\(name).crt")
        }
        guard let good = try verify("sslserver", "node-1") else { return }
        #expect(good.0 == 0, "\(good.1)")
        #expect(try verify("sslclient", "node-1")?.0 == 0)
        #expect(try verify("sslclient", "device-1")?.0 == 0)
        #expect(try verify("sslserver", "device-1")?.0 != 0)
        _ = try folder.authority.revoke("device-1", now: now)
        let checked = ["verify", "-CAfile", "ca.crt", "-CRLfile", "ca.crl", "-crl_check"]
        let revoked = try #require(
            try folder.openssl(checked[0], checked[1], checked[2], checked[3], checked[4], checked[5], "device-1.crt"))
        #expect(revoked.status != 0 && revoked.text.contains("revoked"), "\(revoked.text)")
        #expect(
            try folder.openssl(checked[0], checked[1], checked[2], checked[3], checked[4], checked[5], "node-1.crt")?
                .status == 0)
        let text = try #require(try folder.openssl("x509", "-in", "node-1.crt", "-noout", "-text")).text
        for part in [
            "Version: 3", "ecdsa-with-SHA256", "NIST CURVE: P-256", "CA:FALSE", "Digital Signature",
            "TLS Web Server Authentication, TLS Web Client Authentication", "DNS:localhost", "IP Address:127.0.0.1",
            "URI:apus:node:", "URI:apus:mesh:plant", "Subject Key Identifier", "Authority Key Identifier",
        ] { #expect(text.contains(part), "\(part)") }
        let key = try #require(try folder.openssl("pkey", "-in", "node-1.key", "-noout", "-check"))
        #expect(key.status == 0, "\(key.text)")
        let list = try #require(try folder.openssl("crl", "-in", "ca.crl", "-CAfile", "ca.crt", "-noout", "-text")).text
        #expect(list.contains("verify OK") && list.contains("Version 2") && list.contains("CRL Number"), "\(list)")
    }
}
