/// Everything that is wrong with the files of a section of the configuration, so that a person mends them once.
import COpenSSL

/// One thing that is wrong with a section's files.
public struct TLSFlaw: Sendable, Equatable {
    /// The key of the section that names the file, as `more[0].key`; nil when it is about no single one.
    public let key: String?
    /// The file, what is wrong with it and what would be right.
    public let description: String
}

extension TLSSettings {
    /// Reads all files, and goes on after one that is no good.
    ///
    /// Threading: any thread. Blocks: not on a lane.
    public func flaws(role: TLSDoor.Role, protocols: [String]) -> [TLSFlaw] {
        var flaws: [TLSFlaw] = []
        var files = TLSFiles()
        func look(_ key: String?, _ read: (inout TLSFiles) throws(TLSFailure) -> Void) {
            do throws(TLSFailure) { try read(&files) } catch {
                flaws.append(TLSFlaw(key: key, description: error.description))
            }
        }
        if let path = peerAuthorities {
            look("client_ca") { (files) throws(TLSFailure) in
                for authority in try PEM.certificates(files.read(path), path) { X509_free(authority) }
            }
        }
        if let path = revocations {
            look("crl") { (files) throws(TLSFailure) in
                for name in try files.revocationFiles(path) {
                    let bytes = try files.read(name, limit: TLSFiles.maxListBytes)
                    for list in try PEM.revocationLists(bytes, name) { X509_CRL_free(list) }
                }
            }
        }
        for (index, pair) in certificates.enumerated() {
            let group = index == 0 ? "" : "more[\(index - 1)]."
            var chain: [OpaquePointer] = []
            defer { for certificate in chain { X509_free(certificate) } }
            look("\(group)certificate") { (files) throws(TLSFailure) in
                chain = try PEM.certificates(files.read(pair.certificate), pair.certificate)
            }
            // One file with both that cannot be read is named once.
            if chain.isEmpty, pair.key == pair.certificate { continue }
            look("\(group)key") { (files) throws(TLSFailure) in
                let key = try PEM.key(files.read(pair.key), pair.key, passphrase: pair.passphrase)
                defer { EVP_PKEY_free(key) }
                if let own = chain.first { try TLSContexts.match(own, key, pair) }
            }
        }
        guard flaws.isEmpty else { return flaws }
        // What can be seen only of all of it, as suites that OpenSSL does not know.
        look(nil) { (_) throws(TLSFailure) in _ = try TLSDoor(self, role: role, protocols: protocols) }
        return flaws
    }
}
