/// Whom a node lets in: the configuration's part in ``Security/NodeAuthenticator``.
import Core
import Glibc
import Logging
import Security

extension IdentitySettings {
    /// Reads the users that a configuration names. The rest is in it already.
    init(_ configuration: Configuration, users: [User]) {
        self.init(users: users, anonymous: configuration.security.anonymous)
        for listener in configuration.listeners {
            if let policy = listener.anonymous { anonymousByListener[listener.name] = policy }
        }
        issuers = configuration.security.tokens
        fakeSaltKey = Self.saltKey(data: configuration.data)
    }

    /// What the salts of users that do not exist are made of: kept beside the data, so that asking before and after a
    /// restart does not tell who exists. Without a directory to keep it in it is new each time.
    private static func saltKey(data: String) -> [UInt8] {
        let path = "\(data)/salts"
        var key = [UInt8](repeating: 0, count: 32)
        let old = open(path, O_RDONLY | O_CLOEXEC)
        if old >= 0 {
            defer { close(old) }
            if read(old, &key, key.count) == key.count { return key }
        }
        for index in key.indices { key[index] = .random(in: .min ... .max) }
        let made = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard made >= 0 else { return key }
        defer { close(made) }
        if write(made, key, key.count) != key.count { unlink(path) }
        return key
    }
}

extension KeyNotice {
    /// Says in the log what became of an issuer's keys.
    func log(_ logger: Logger) {
        switch self {
        case .changed(let location, let keys, let omissions):
            logger.notice("keys of tokens read", metadata: ["location": "\(location)", "keys": "\(keys)"])
            for omission in omissions {
                logger.warning("a key was left out: \(omission)", metadata: ["location": "\(location)"])
            }
        case .failed(let location, let reason):
            logger.error(
                "keys of tokens cannot be had, the ones from before stay in use",
                metadata: ["location": "\(location)", "problem": "\(reason)"])
        }
    }
}
