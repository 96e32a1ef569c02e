/// Whom a node lets in: the configuration's part in ``Security/NodeAuthenticator``.
import Core
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
    /// restart does not tell who exists. Without a directory to keep it in it is as old as the process.
    private static func saltKey(data: String) -> [UInt8] {
        let path = "\(data)/salts"
        if let key = try? AtomicFile.read(path), key.count == newKey.count { return key }
        try? AtomicFile.write(newKey, to: path, .secret)
        return newKey
    }

    private static let newKey = (0..<32).map { _ in UInt8.random(in: .min ... .max) }
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
