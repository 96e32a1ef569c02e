import Core
import Glibc
import Testing

@testable import Security

private let second: UInt64 = 1_000_000_000

extension KeyStore {
    fileprivate func deliver(_ text: String, maxAge: Int? = nil, now: UInt64) -> KeyStore.Arrival {
        begin(now: now)
        return end(.success(.init(bytes: Array(text.utf8), maxAgeSeconds: maxAge)), now: now)
    }

    fileprivate func fail(now: UInt64) -> KeyStore.Arrival {
        begin(now: now)
        return end(.failure(.init(reason: "no route")), now: now)
    }
}

@Suite("Keys of tokens", .timeLimit(.minutes(1)))
struct KeyStoreTests {
    private func write(_ text: String, _ path: String) throws {
        // Renamed, as one would: a reader sees the old set or the new one.
        let temporary = path + ".new"
        let file = try #require(fopen(temporary, "w"))
        fputs(text, file)
        fclose(file)
        #expect(rename(temporary, path) == 0)
    }

    @Test("When a URL is looked at: every ten minutes, as the server says, or after a failure")
    func schedule() throws {
        let store = KeyStore(.url("https://x/"), authorities: nil)
        let keys = keySet(try Forge(.ed25519).jwk())
        #expect(store.dueAt == 0, "at once")
        #expect(throws: KeyStore.Failure.self) { try store.keys(now: 0) }
        #expect(store.fail(now: 1).notice == .failed(location: "https://x/", reason: "no route"))
        #expect(store.dueAt == 1 + 30 * second)
        for pause: UInt64 in [60, 120, 240, 480, 600, 600] {
            #expect(store.fail(now: 5).notice != nil)
            #expect(store.dueAt == 5 + pause * second)
        }
        #expect(store.deliver(keys, now: 7).notice == .changed(location: "https://x/", keys: 1, omissions: []))
        #expect(store.dueAt == 7 + 600 * second)
        for (said, bounded): (Int, UInt64) in [(0, 60), (59, 60), (61, 61), (7_200, 7_200), (1 << 30, 86_400)] {
            #expect(store.deliver(keys, maxAge: said, now: 9).notice == nil, "the same keys are no news")
            #expect(store.dueAt == 9 + bounded * second)
        }
        store.begin(now: 10)
        #expect(store.dueAt == .max, "one look at a time")
    }

    @Test("Old keys stay through failures, for a day")
    func oldKeys() throws {
        let store = KeyStore(.url("https://x/"), authorities: nil)
        _ = store.deliver(keySet(try Forge(.ed25519).jwk()), now: second)
        for hour: UInt64 in 1...24 {
            _ = store.fail(now: hour * 3_600 * second)
            #expect(throws: Never.self) { try store.keys(now: hour * 3_600 * second) }
        }
        #expect(throws: KeyStore.Failure.self) { try store.keys(now: (86_400 + 2) * second) }
        // What is no key set is a failure as well.
        #expect(store.deliver("{\"keys\":[]}", now: 90_000 * second).notice != nil)
        #expect(throws: KeyStore.Failure.self) { try store.keys(now: 90_000 * second) }
        // Files are here: nobody keeps us from them.
        let file = KeyStore(.file("/x"), authorities: nil)
        _ = file.deliver(keySet(try Forge(.ed25519).jwk()), now: second)
        #expect(throws: Never.self) { try file.keys(now: 10 * 86_400 * second) }
    }

    @Test("Tokens with unknown keys make a look due once in 30 s, however many there are")
    func demand() throws {
        let store = KeyStore(.url("https://x/"), authorities: nil)
        #expect(store.demand(now: 1), "the first look is due anyway")
        _ = store.deliver(keySet(try Forge(.ed25519).jwk()), now: 10 * second)
        #expect(!store.demand(now: 11 * second))
        #expect(!store.demand(now: 39 * second))
        #expect(store.demand(now: 40 * second))
        #expect(store.dueAt == 40 * second)
        #expect(store.demand(now: 41 * second), "due already")
        store.begin(now: 41 * second)
        #expect(store.demand(now: 42 * second), "under way")
        _ = store.end(.failure(.init(reason: "x")), now: 43 * second)
        #expect(!store.demand(now: 44 * second))
        #expect(store.looks == 2)
    }

    @Test("A key that is gone is noticed; one that was added takes nothing away")
    func lostKeys() throws {
        let (a, b) = (try Forge(.ed25519).jwk(["kid": "a"]), try Forge(.ed25519).jwk(["kid": "b"]))
        let store = KeyStore(.url("https://x/"), authorities: nil)
        #expect(!store.deliver(keySet(a), now: 1).hasLostKeys)
        #expect(!store.deliver(keySet(a, b), now: 2).hasLostKeys)
        #expect(!store.deliver(keySet(b, a), now: 3).hasLostKeys)
        let arrival = store.deliver(keySet(b), now: 4)
        #expect(arrival.hasLostKeys)
        #expect(arrival.notice == .changed(location: "https://x/", keys: 1, omissions: []))
        // The same name for another key.
        #expect(store.deliver(keySet(try Forge(.ed25519).jwk(["kid": "b"])), now: 5).hasLostKeys)
    }

    @Test("How long an answer may be kept")
    func cacheControl() {
        let table: [(String, Int?)] = [
            ("max-age=300", 300), (" public, max-age=19845, must-revalidate, no-transform\r\n", 19_845),
            ("Max-Age=\"60\"", 60), ("no-store", 0), ("max-age=300, no-cache", 0), ("private", nil), ("", nil),
            ("max-age=x", nil), ("max-age=-5", 0), ("max-age=99999999999999999999", nil), ("s-maxage=5", nil),
        ]
        for (text, age) in table { #expect(KeyDownload.maxAge(cacheControl: text) == age, "\(text)") }
    }

    // MARK: With files and servers

    @Test("A file must be good at the start and at a reload; a change is taken by itself, a broken one is not")
    func file() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/keys.json"
        let (a, b) = (try Forge(.ed25519), try Forge(.ed25519))
        let notices = Notices()
        var settings = IdentitySettings()
        settings.issuers = [try issuer(path)]
        let failure = try #require(throws: IdentityFailure.self) { try make(settings) }
        #expect(failure.description == "the keys of tokens: cannot open \(path): No such file or directory")
        try write("{}", path)
        #expect(throws: IdentityFailure.self) { try make(settings) }
        try write(keySet(a.jwk(["kid": "a"])), path)
        let time = TestTime()
        let authenticator = try make(settings, time: time) { notices.put($0) }
        #expect(notices.next() == .changed(location: path, keys: 1, omissions: []))
        let (tokenA, tokenB) = (a.token(.edDSA, claims(), kid: "a"), b.token(.edDSA, claims(), kid: "b"))
        #expect(authenticator.answer(credentials(nil, tokenA))?.identity?.user == "anna")
        // The file is looked at again for a key that nobody knows.
        try write(keySet(b.jwk(["kid": "b"])), path)
        time.pass(seconds: 2)
        #expect(authenticator.answer(credentials(nil, tokenB))?.identity?.user == "anna")
        #expect(notices.next() == .changed(location: path, keys: 1, omissions: []))
        // What was verified by the old key is not good any more, though it was remembered.
        #expect(authenticator.answer(credentials(nil, tokenA)) == .refused(.badCredentials))
        try write("broken", path)
        #expect(throws: IdentityFailure.self) { try authenticator.reload(settings) }
        #expect(authenticator.answer(credentials(nil, tokenB))?.identity?.user == "anna")
        authenticator.stop()
    }

    @Test("Keys from a server: rotation at once, failures keep the old ones, clients wait meanwhile")
    func server() throws {
        let server = try KeyServer()
        defer { server.stop() }
        let (a, b) = (try Forge(.rsa), try Forge(.p256))
        let (tokenA, tokenB) = (a.token(.rs256, claims(), kid: "a"), b.token(.es256, claims(), kid: "b"))
        server.set(keySet(a.jwk(["kid": "a"])), fields: "Cache-Control: max-age=3600\r\n")
        let notices = Notices()
        let time = TestTime()
        var settings = IdentitySettings()
        settings.issuers = [try issuer(server.url)]
        let authenticator = try make(settings, time: time) { notices.put($0) }
        defer { authenticator.stop() }
        // Whoever comes before the first keys waits for them.
        #expect(authenticator.answer(credentials(nil, tokenA))?.identity?.user == "anna")
        #expect(notices.next() == .changed(location: server.url, keys: 1, omissions: []))
        // A new key: found at once, and once only within 30 s.
        server.set(keySet(a.jwk(["kid": "a"]), b.jwk(["kid": "b"])))
        #expect(authenticator.answer(credentials(nil, tokenB)) == .refused(.badCredentials))
        #expect(server.requests == 1)
        time.pass(seconds: 30)
        #expect(authenticator.answer(credentials(nil, tokenB))?.identity?.user == "anna")
        #expect(server.requests == 2)
        #expect(notices.next() == .changed(location: server.url, keys: 2, omissions: []))
        let unknown = a.token(.rs256, claims(), kid: "zzz")
        for _ in 0..<5 { #expect(authenticator.answer(credentials(nil, unknown)) == .refused(.badCredentials)) }
        #expect(server.requests == 2)
        // A server in trouble takes nothing away.
        for (index, status) in ["500 Oops", "301 Moved", "404 Not Found"].enumerated() {
            server.set("", status: status, fields: "Location: http://127.0.0.1:1/\r\n")
            time.pass(seconds: 30)
            let other = a.token(.rs256, claims(), kid: "u\(index)")
            #expect(authenticator.answer(credentials(nil, other)) == .refused(.badCredentials))
            guard case .failed(server.url, let reason) = notices.next() else { Issue.record("no notice"); return }
            #expect(reason.contains("status \(status.prefix(3))"), "\(reason)")
        }
        server.set(String(repeating: " ", count: 300_000))
        time.pass(seconds: 30)
        #expect(
            authenticator.answer(credentials(nil, a.token(.rs256, claims(), kid: "v"))) == .refused(.badCredentials))
        #expect(
            notices.next() == .failed(location: server.url, reason: "\(server.url): larger than 262144 bytes"))
        #expect(authenticator.answer(credentials(nil, a.token(.rs256, claims(["x": "1"]), kid: "a")))?.identity != nil)
        #expect(authenticator.answer(credentials(nil, b.token(.es256, claims(["x": "1"]), kid: "b")))?.identity != nil)
    }

    @Test("A server that says nothing holds up nobody's end")
    func hangingServer() throws {
        let server = try KeyServer()
        defer { server.stop() }
        server.hang()
        var settings = IdentitySettings()
        settings.issuers = [try issuer(server.url)]
        let authenticator = try make(settings)
        let answers = Answers()
        let token = try Forge(.ed25519).token(.edDSA, claims())
        #expect(authenticator.authenticate(credentials(nil, token), reply: { answers.reply($0) }) == nil)
        // Other ways in do not wait for it.
        #expect(authenticator.answer(credentials(nil, nil, isLocal: true)) == .accepted(Identity()))
        #expect(authenticator.counters.waiting == 1)
        let start = Clocks.system.monotonicNanoseconds()
        authenticator.stop()
        #expect(Clocks.system.monotonicNanoseconds() - start < 3 * second)
        #expect(answers.wait(for: 1) == [.refused(.busy)])
    }

    @Test("A reload keeps the keys of places that stay, and lets go of others")
    func reload() throws {
        let server = try KeyServer()
        defer { server.stop() }
        let forge = try Forge(.ed25519)
        server.set(keySet(forge.jwk()))
        let time = TestTime()
        var settings = IdentitySettings()
        settings.issuers = [try issuer(server.url)]
        let authenticator = try make(settings, time: time)
        defer { authenticator.stop() }
        let token = forge.token(.edDSA, claims())
        #expect(authenticator.answer(credentials(nil, token))?.identity?.user == "anna")
        #expect(authenticator.mechanisms == [.oauthBearer])
        try authenticator.reload(settings)
        #expect(authenticator.answer(credentials(nil, token))?.identity?.user == "anna")
        #expect(server.requests == 1)
        #expect(authenticator.counters.tokens >= 2, "verified anew")
        try authenticator.reload(IdentitySettings())
        #expect(authenticator.mechanisms.isEmpty)
        var bearer = credentials(nil, nil)
        bearer.token = Array(token.utf8)
        #expect(authenticator.answer(bearer) == .refused(.badCredentials))
    }
}
