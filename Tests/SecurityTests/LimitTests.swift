import Core
import Testing

@testable import Security

private let second: UInt64 = 1_000_000_000

@Suite("Failure limits", .timeLimit(.minutes(1)))
struct LimitTests {
    @Test("Twenty from an address, then one in five seconds; others are not disturbed")
    func address() {
        var limits = FailureLimits()
        for count in 0..<20 {
            #expect(limits.reasonAgainst(name: "u\(count)", address: "a", now: 0) == nil)
            limits.failed(name: "u\(count)", address: "a", now: 0)
        }
        #expect(limits.reasonAgainst(name: "x", address: "a", now: 0) == "too many failures from this address")
        #expect(limits.reasonAgainst(name: nil, address: "a", now: 0) == "too many failures from this address")
        #expect(limits.reasonAgainst(name: "x", address: "b", now: 0) == nil)
        #expect(limits.reasonAgainst(name: "x", address: "a", now: 5 * second - 1) != nil)
        #expect(limits.reasonAgainst(name: "x", address: "a", now: 5 * second) == nil)
        limits.failed(name: "x", address: "a", now: 5 * second)
        #expect(limits.reasonAgainst(name: "x", address: "a", now: 5 * second) != nil)
        #expect(limits.reasonAgainst(name: "x", address: "a", now: 105 * second) == nil)
    }

    @Test("A name from everywhere: a hundred, then one a second; but not where the user has been before")
    func name() {
        var limits = FailureLimits()
        limits.succeeded(name: "anna", address: "home")
        for count in 0..<100 {
            #expect(limits.reasonAgainst(name: "anna", address: "a\(count)", now: 0) == nil)
            limits.failed(name: "anna", address: "a\(count)", now: 0)
        }
        #expect(limits.reasonAgainst(name: "anna", address: "new", now: 0) == "too many failures with this name")
        #expect(limits.reasonAgainst(name: "bob", address: "new", now: 0) == nil)
        #expect(limits.reasonAgainst(name: "anna", address: "home", now: 0) == nil)
        #expect(limits.reasonAgainst(name: "anna", address: "new", now: second) == nil)
        // At home somebody may guess, too, but not for long.
        for _ in 0..<10 { limits.failed(name: "anna", address: "home", now: 0) }
        #expect(
            limits.reasonAgainst(name: "anna", address: "home", now: 0)
                == "too many failures with this name from this address")
    }

    @Test("Being right forgives what was mistyped, not what else came from there")
    func forgiven() {
        var limits = FailureLimits()
        for _ in 0..<9 { limits.failed(name: "anna", address: "a", now: 0) }
        limits.succeeded(name: "anna", address: "a")
        for _ in 0..<9 { limits.failed(name: "anna", address: "a", now: 0) }
        #expect(limits.reasonAgainst(name: "anna", address: "a", now: 0) == nil)
        limits.failed(name: "bob", address: "a", now: 0)
        limits.failed(name: "bob", address: "a", now: 0)
        #expect(limits.reasonAgainst(name: "bob", address: "a", now: 0) == "too many failures from this address")
    }

    @Test("A million names take no more room than the bound, and do not free who is at the limit")
    func bounded() {
        var limits = FailureLimits(entries: 1_024)
        for _ in 0..<20 { limits.failed(name: nil, address: "guesser", now: 0) }
        for number in 0..<100_000 {
            limits.failed(name: "n\(number)", address: "a\(number)", now: 0)
        }
        #expect(limits.count <= 3 * 1_024)
        #expect(limits.reasonAgainst(name: nil, address: "guesser", now: 0) != nil)
    }

    @Test("Addresses without ports; networks of IPv6")
    func addresses() {
        let table = [
            ("192.0.2.1:5", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"), ("[2001:db8:1:2:3::9]:1883", "2001:db8:1:2::/64"),
            ("[2001:db8:1:2:ffff::1]:1", "2001:db8:1:2::/64"), ("[::1]:5", "0:0:0:0::/64"),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1"), ("[fe80::1%eth0]:5", "fe80:0:0:0::/64"),
            ("2001:db8::1", "2001:db8:0:0::/64"),
            ("unix", "unix"), ("unix:/run/x", "unix"), ("", "unix"), ("unknown", "unknown"), ("[", ""),
            (String(repeating: "x", count: 1_000), String(repeating: "x", count: 64)),
        ]
        for (peer, network) in table { #expect(PeerAddress.network(of: peer) == network, "\(peer)") }
    }

    // MARK: In the authenticator

    @Test("Guessing a password is slowed down; who was verified before passes; the wait ends")
    func guessing() throws {
        let time = TestTime()
        let records = Records()
        let authenticator = try make([user("anna", "one"), user("bob", "two")], time: time, audit: records)
        #expect(authenticator.answer(credentials("anna", "one"))?.identity?.user == "anna")
        for count in 0..<10 {
            #expect(authenticator.answer(credentials("anna", "guess \(count)")) == .refused(.badCredentials))
        }
        let hashes = authenticator.counters.hashes
        #expect(authenticator.answer(credentials("anna", "guess")) == .refused(.tooManyFailures))
        #expect(authenticator.counters.hashes == hashes, "not even looked at")
        #expect(authenticator.answer(credentials("anna", "one"))?.identity?.user == "anna")
        #expect(authenticator.answer(credentials("bob", "two"))?.identity?.user == "bob")
        #expect(authenticator.answer(credentials("anna", "x", peer: "198.51.100.1:5")) == .refused(.badCredentials))
        time.pass(seconds: 10)
        #expect(authenticator.answer(credentials("anna", "guess")) == .refused(.badCredentials))
        let reasons = records.reasons
        #expect(reasons.count(where: { $0 == "the password is wrong or the user unknown" }) == 12)
        #expect(reasons.count(where: { $0 == "too many failures with this name from this address" }) == 1)
        #expect(authenticator.counters.refused == 13)
        #expect(authenticator.counters.refusedLimited == 1)
    }

    @Test("Who stood in line when the limit was reached is not served")
    func inLine() throws {
        let gate = Gate()
        let time = TestTime()
        let authenticator = try make([user("anna", "one")], gate: gate, time: time)
        let answers = Answers()
        for count in 0..<100 {
            #expect(authenticator.authenticate(credentials("u\(count)", "x"), reply: { answers.reply($0) }) == nil)
        }
        gate.open(100)
        let results = answers.wait(for: 100)
        #expect(results.count == 100)
        #expect(results.count(where: { $0 == .refused(.badCredentials) }) == 20)
        #expect(results.count(where: { $0 == .refused(.tooManyFailures) }) == 80)
        #expect(authenticator.counters.hashes == 20)
        #expect(authenticator.counters.waiting == 0)
    }

    @Test("Names of 64 KiB, passwords of 64 KiB: refused at once, cut in the record, counted")
    func huge() throws {
        let records = Records()
        let authenticator = try make([user("anna", "one")], audit: records)
        let huge = String(repeating: "x", count: 65_536)
        for who in [credentials(huge, "p"), credentials(huge, nil), credentials("anna", huge)] {
            #expect(authenticator.authenticate(who) { _ in } == .refused(.badCredentials))
        }
        let taken = records.take()
        #expect(taken.count == 3)
        #expect(taken.allSatisfy { ($0.user ?? "").utf8.count <= 260 && $0.reason.utf8.count < 100 })
        #expect(authenticator.counters.hashes == 0)
        for _ in 0..<17 { _ = authenticator.authenticate(credentials("anna", huge)) { _ in } }
        #expect(authenticator.answer(credentials("anna", "one")) == .refused(.tooManyFailures))
    }

    @Test("Bad signatures count against the address; tokens that are merely late do not")
    func tokens() throws {
        let scratch = try Scratch()
        let forge = try Forge(.ed25519)
        let path = try scratch.write(keySet(forge.jwk(["kid": "k"])))
        let time = TestTime()
        var settings = IdentitySettings()
        settings.issuers = [try issuer(path)]
        let authenticator = try make(settings, time: time)
        for number in 0..<40 {
            let late = forge.token(.edDSA, claims(["exp": "1999999000", "n": "\(number)"]), kid: "k")
            #expect(authenticator.answer(credentials(nil, late)) == .refused(.badCredentials))
        }
        let other = try Forge(.ed25519)
        let good = forge.token(.edDSA, claims(), kid: "k")
        #expect(authenticator.answer(credentials(nil, good))?.identity?.user == "anna")
        for number in 0..<20 {
            let forged = other.token(.edDSA, claims(["n": "\(number)"]), kid: "k")
            #expect(authenticator.answer(credentials(nil, forged)) == .refused(.badCredentials))
        }
        let next = forge.token(.edDSA, claims(["n": "1"]), kid: "k")
        #expect(authenticator.answer(credentials(nil, next)) == .refused(.tooManyFailures))
        #expect(authenticator.answer(credentials(nil, good))?.identity?.user == "anna", "verified before")
        time.pass(seconds: 5)
        #expect(authenticator.answer(credentials(nil, next))?.identity?.user == "anna")
    }
}
