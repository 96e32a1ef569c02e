import Core
import Testing

@testable import Security

/// A certificate of `name`, good until an hour after the start.
private func certificate(_ name: String, notAfter: Int64 = TestTime.start / 1_000 + 3_600) -> PeerCertificate {
    var certificate = PeerCertificate()
    certificate.subject = "CN=\(name)"
    certificate.commonName = name
    certificate.organizationalUnits = ["pumps", "wells"]
    certificate.serial = "0a"
    certificate.notAfter = notAfter
    return certificate
}

private func credentials(
    certificateOf name: String?, groups: [String] = [], user: String? = nil, password: String? = nil,
    protocolName: String = "mqtt"
) -> Credentials {
    var who = credentials(user, password)
    who.certificate = certificate(name ?? "nobody")
    who.certificateUser = name
    who.certificateGroups = groups
    who.protocolName = protocolName
    return who
}

@Suite("Identities", .timeLimit(.minutes(1)))
struct IdentityTests {
    private let time = TestTime()

    // MARK: Certificates

    @Test("Who sends no name is the certificate's user, with groups, attributes and an end")
    func certificateUser() throws {
        let authenticator = try make([user("pump", "p", groups: ["fleet"])], anonymous: .never, time: time)
        let answer = authenticator.authenticate(credentials(certificateOf: "pump", groups: ["pumps", "fleet"])) { _ in }
        let identity = try #require(answer?.identity)
        #expect(identity.user == "pump")
        #expect(identity.groups == ["fleet", "pumps"])
        #expect(identity.lifetimeMilliseconds == 3_600_000)
        #expect(
            identity.attributes == [
                "cert.cn": ["pump"], "cert.ou": ["pumps", "wells"], "cert.serial": ["0a"], "cert.subject": ["CN=pump"],
            ])
        // In no file at all.
        let other = authenticator.authenticate(credentials(certificateOf: "spiffe://plant/17")) { _ in }
        #expect(other?.identity?.user == "spiffe://plant/17")
        #expect(authenticator.counters.hashes == 0)
    }

    @Test("A name must be the certificate's, or come with its password")
    func certificateAndName() throws {
        let records = Records()
        let authenticator = try make(
            [user("anna", "one", groups: ["ops"])], anonymous: .never, time: time, audit: records)
        #expect(authenticator.answer(credentials(certificateOf: "pump", user: "pump"))?.identity?.user == "pump")
        #expect(
            authenticator.answer(credentials(certificateOf: "pump", user: "anna")) == .refused(.badCredentials))
        #expect(records.reasons == ["the certificate is another user's"])
        let both = authenticator.answer(
            credentials(certificateOf: "pump", groups: ["pumps"], user: "anna", password: "one"))
        #expect(both?.identity?.user == "anna")
        #expect(both?.identity?.groups == ["ops"], "the groups are the certificate's owner's")
        #expect(both?.identity?.attributes["cert.cn"] == ["pump"])
        #expect(both?.identity?.lifetimeMilliseconds == 3_600_000)
        #expect(
            authenticator.answer(credentials(certificateOf: "pump", user: "pump", password: "x"))
                == .refused(.badCredentials), "judged by the password")
        #expect(authenticator.answer(credentials(certificateOf: "pump", user: "")) == .refused(.badCredentials))
    }

    @Test("A certificate without a user's name is no user, but may put into groups")
    func certificateWithoutUser() throws {
        let authenticator = try make([user("anna", "one")], anonymous: .never, time: time)
        #expect(
            authenticator.answer(credentials(certificateOf: nil, groups: ["pumps"])) == .refused(.anonymousNotAllowed))
        let anna = authenticator.answer(
            credentials(certificateOf: nil, groups: ["pumps"], user: "anna", password: "one"))
        #expect(anna?.identity?.groups == ["pumps"])
    }

    @Test("AMQP says whether it wants the certificate's user; nobody gets another one's")
    func external() throws {
        let records = Records()
        let authenticator = try make([], anonymous: .everywhere, time: time, audit: records)
        let anonymous = authenticator.answer(credentials(certificateOf: "pump", protocolName: "amqp"))
        #expect(anonymous?.identity?.user == nil && anonymous?.identity != nil)
        var external = credentials(certificateOf: "pump", protocolName: "amqp")
        external.provenUser = "pump"
        #expect(authenticator.answer(external)?.identity?.user == "pump")
        external.provenUser = "anna"
        #expect(authenticator.answer(external) == .refused(.badCredentials))
        external.certificateUser = nil
        #expect(authenticator.answer(external) == .refused(.badCredentials))
        #expect(records.take().map(\.user) == ["anna", "anna"])
    }

    @Test("Names that no certificate may give, and an end that has passed")
    func badCertificates() throws {
        let records = Records()
        let authenticator = try make([], time: time, audit: records)
        for name in ["", "anonymous", "a\nb", String(repeating: "x", count: 257)] {
            #expect(authenticator.answer(credentials(certificateOf: name)) == .refused(.badCredentials))
        }
        #expect(records.take().allSatisfy { $0.reason.hasPrefix("certificate: ") })
        var late = credentials(certificateOf: "pump")
        late.certificate?.notAfter = TestTime.start / 1_000
        #expect(authenticator.answer(late) == .refused(.badCredentials))
        #expect(records.reasons == ["the certificate has expired"])
        var forever = credentials(certificateOf: "pump")
        forever.certificate?.notAfter = .max
        #expect(authenticator.answer(forever)?.identity != nil)
    }

    // MARK: Anonymous

    @Test("A listener may have a policy of its own")
    func anonymousByListener() throws {
        let records = Records()
        var settings = IdentitySettings(users: [], anonymous: .loopback)
        settings.anonymousByListener = ["public": .everywhere, "inner": .never]
        let authenticator = try make(settings, audit: records)
        let table: [(listener: String, local: Bool, remote: Bool)] = [
            ("public", true, true), ("inner", false, false), ("other", true, false), ("", true, false),
        ]
        for (listener, local, remote) in table {
            for (isLocal, isAllowed) in [(true, local), (false, remote)] {
                var who = credentials(nil, nil, isLocal: isLocal)
                who.listener = listener
                #expect(
                    authenticator.answer(who) == (isAllowed ? .accepted(Identity()) : .refused(.anonymousNotAllowed)))
            }
        }
        let taken = records.take()
        #expect(
            taken.map(\.reason) == [
                "anonymous clients are not allowed", "anonymous clients are not allowed",
                "anonymous clients are allowed from this machine only",
                "anonymous clients are allowed from this machine only",
            ])
        #expect(taken.map(\.object) == ["inner", "inner", "other", ""])
        #expect(taken.allSatisfy { $0.kind == .authentication && $0.isRefusal && $0.action == "connect" })
        #expect(taken.allSatisfy { $0.peer == "192.0.2.1:5" && $0.protocolName == "mqtt" && $0.clientID == "c" })
        // Who brings a secret wants to be somebody.
        #expect(authenticator.answer(credentials(nil, "secret", isLocal: true)) == .refused(.badCredentials))
        #expect(authenticator.answer(credentials(nil, "", isLocal: true)) == .accepted(Identity()))
    }

    // MARK: Tokens

    private func settings(_ forge: Forge, _ scratch: Scratch, users: [User] = []) throws -> IdentitySettings {
        var settings = IdentitySettings(users: users)
        settings.issuers = [try issuer(try scratch.write(keySet(forge.jwk(["kid": "k"]))))]
        return settings
    }

    @Test("A token as a password, and as a bearer token: user, groups, claims, an end")
    func token() throws {
        let (forge, scratch) = (try Forge(.p256), try Scratch())
        let authenticator = try make(
            settings(forge, scratch, users: [user("anna", "one", groups: ["ops"])]), time: time)
        let token = forge.token(.es256, claims(["groups": "[\"dev\",\"ops\"]", "department": "\"x\""]), kid: "k")
        for name in [nil, "", "anna"] {
            let identity = try #require(authenticator.answer(credentials(name, token))?.identity)
            #expect(identity.user == "anna")
            #expect(identity.groups == ["ops", "dev"])
            #expect(identity.attributes["claim.department"] == ["x"])
            #expect(identity.lifetimeMilliseconds == 630_000)
        }
        var bearer = credentials(nil, nil)
        bearer.token = Array(token.utf8)
        #expect(authenticator.answer(bearer)?.identity?.user == "anna")
        bearer.token = Array("opaque".utf8)
        #expect(authenticator.answer(bearer) == .refused(.badCredentials))
        #expect(authenticator.answer(credentials("bob", token)) == .refused(.badCredentials))
        // Passwords are passwords still.
        #expect(authenticator.answer(credentials("anna", "one"))?.identity?.user == "anna")
        // The certificate ends first.
        var both = credentials(nil, token)
        both.certificate = certificate("x", notAfter: TestTime.start / 1_000 + 60)
        #expect(authenticator.answer(both)?.identity?.lifetimeMilliseconds == 60_000)
    }

    @Test("A good token is remembered until it ends, and no longer")
    func tokenCache() throws {
        let (forge, scratch, records) = (try Forge(.ed25519), try Scratch(), Records())
        let authenticator = try make(settings(forge, scratch), time: time, audit: records)
        let token = forge.token(.edDSA, claims(), kid: "k")
        #expect(authenticator.answer(credentials(nil, token)) != nil)
        for _ in 0..<100 {
            #expect(authenticator.authenticate(credentials(nil, token)) { _ in }?.identity?.user == "anna")
        }
        #expect(authenticator.counters.tokens == 1)
        time.pass(seconds: 629)
        #expect(authenticator.answer(credentials(nil, token))?.identity?.lifetimeMilliseconds == 1_000)
        time.pass(seconds: 13)
        #expect(authenticator.answer(credentials(nil, token)) == .refused(.badCredentials))
        #expect(records.reasons == ["token: expired 42 s ago"])
    }

    @Test("The client learns less than the record says")
    func tokenReasons() throws {
        let (forge, scratch, records) = (try Forge(.ed25519), try Scratch(), Records())
        var bounds = IdentityBounds()
        bounds.addressFailures.burst = 100
        let authenticator = try make(settings(forge, scratch), bounds: bounds, time: time, audit: records)
        let table = [
            (Forge.token(header: #"{"alg":"none"}"#, claims()), "token: algorithm none is never accepted"),
            (forge.token(.edDSA, claims(["aud": "\"x\""]), kid: "k"), "token: it is for another audience than 'apus'"),
            (forge.token(.edDSA, claims(["nbf": "2000000500"]), kid: "k"), "token: not valid before 500 s from now"),
            (try Forge(.ed25519).token(.edDSA, claims(), kid: "k"), "token: its signature is wrong"),
            (forge.token(.edDSA, claims(["iss": "\"x\""])), "token: it is of an issuer that is not configured"),
        ]
        for (token, reason) in table {
            #expect(authenticator.answer(credentials(nil, token)) == .refused(.badCredentials))
            let taken = records.take()
            #expect(taken.map(\.reason) == [reason])
            #expect(taken.allSatisfy { !"\($0)".contains(token) }, "no secrets in records")
        }
        var large = credentials(nil, nil)
        large.token = [UInt8](repeating: 0x61, count: 65_536)
        #expect(authenticator.authenticate(large) { _ in } == .refused(.badCredentials))
        #expect(records.reasons == ["token: it is larger than 16384 bytes"])
    }

    @Test("Tokens that wait for keys take a bounded memory")
    func waitingTokens() throws {
        let server = try KeyServer()
        defer { server.stop() }
        server.hang()
        var settings = IdentitySettings()
        settings.issuers = [try issuer(server.url)]
        var bounds = IdentityBounds()
        bounds.waitingTokenBytes = 100_000
        let authenticator = try make(settings, bounds: bounds, time: time)
        let answers = Answers()
        let filling = "\"c\":\"\(String(repeating: "x", count: 600))\""
        let input = Forge.input(#"{"alg":"EdDSA"}"#, claims().dropLast() + ",\(filling)}")
        var refused = 0
        for number in 1_000..<1_200 {
            let token = "\(input).\(Base64.encode(Array("\(number)".utf8), .url))"
            let answer = authenticator.authenticate(credentials(nil, token)) { answers.reply($0) }
            if answer == .refused(.busy) { refused += 1 }
            #expect(answer == nil || answer == .refused(.busy))
        }
        #expect(200 - refused == 100_000 / (input.utf8.count + 7))
        #expect(authenticator.counters.waiting == 200 - refused)
        authenticator.stop()
        #expect(answers.wait(for: 200 - refused).count == 200 - refused)
    }

    @Test("A reload that takes the issuer away does not leave those waiting who wait for its keys")
    func waitingAcrossReload() throws {
        let server = try KeyServer()
        defer { server.stop() }
        server.hang()
        var settings = IdentitySettings()
        settings.issuers = [try issuer(server.url)]
        let authenticator = try make(settings)
        let answers = Answers()
        let token = "\(Forge.input(#"{"alg":"EdDSA"}"#, claims())).AAAA"
        #expect(authenticator.authenticate(credentials(nil, token)) { answers.reply($0) } == nil)
        // It has been looked at, and put aside.
        while authenticator.counters.tokens == 0 {}
        let start = ContinuousClock.now
        try authenticator.reload(IdentitySettings())
        #expect(answers.wait(for: 1) == [.refused(.badCredentials)])
        #expect(ContinuousClock.now - start < .seconds(5), "long before the fetch is given up")
        #expect(authenticator.counters.waiting == 0)
    }

    @Test("Tokens do not wait for passwords")
    func ownThread() throws {
        let (forge, scratch, gate) = (try Forge(.ed25519), try Scratch(), Gate())
        let authenticator = try make(settings(forge, scratch, users: [user("anna", "one")]), gate: gate, time: time)
        let answers = Answers()
        #expect(authenticator.authenticate(credentials("anna", "one"), reply: { answers.reply($0) }) == nil)
        #expect(gate.waitUntilEntered())
        #expect(authenticator.answer(credentials(nil, forge.token(.edDSA, claims(), kid: "k")))?.identity != nil)
        gate.open()
        #expect(answers.wait(for: 1).count == 1)
    }

    // MARK: OAUTHBEARER

    @Test("OAUTHBEARER: a good token lets in; a bad one is explained, then refused (RFC 7628)")
    func bearer() throws {
        let (forge, scratch) = (try Forge(.ed25519), try Scratch())
        let authenticator = try make(settings(forge, scratch), time: time)
        let token = forge.token(.edDSA, claims(), kid: "k")
        func exchange() throws -> any AuthenticationExchange {
            try #require(authenticator.begin(.oauthBearer, credentials(nil, nil)))
        }
        for message in [
            "n,,\u{1}auth=Bearer \(token)\u{1}\u{1}",
            "n,a=anna,\u{1}host=x\u{1}port=5671\u{1}auth=bearer \(token)\u{1}\u{1}",
            "y,a=anna,\u{1}AUTH=BEARER  \(token)\u{1}\u{1}",
        ] {
            guard case .finished(.accepted(let identity), []) = try exchange().step(message) else {
                Issue.record("\(message.prefix(20))")
                continue
            }
            #expect(identity.user == "anna")
            #expect(identity.lifetimeMilliseconds == 630_000)
        }
        let late = forge.token(.edDSA, claims(["exp": "1999999000"]), kid: "k")
        let table = [
            ("n,,\u{1}auth=Bearer \(late)\u{1}\u{1}", "invalid_token"), ("n,,\u{1}auth=\u{1}\u{1}", "invalid_token"),
            ("n,a=bob,\u{1}auth=Bearer \(token)\u{1}\u{1}", "invalid_token"), ("n,,\u{1}\u{1}", "invalid_token"),
            ("n,,\u{1}auth=Basic \(token)\u{1}\u{1}", "invalid_request"), ("", "invalid_request"),
            ("p=tls-unique,,\u{1}auth=Bearer \(token)\u{1}\u{1}", "invalid_request"),
            ("n,,\u{1}auth=Bearer \(token)\u{1}", "invalid_request"),
            ("n,,auth=Bearer \(token)\u{1}\u{1}", "invalid_request"),
            ("n,,\u{1}auth=Bearer \(token)\u{1}auth=Bearer \(token)\u{1}\u{1}", "invalid_request"),
            ("n,,\u{1}=x\u{1}\u{1}", "invalid_request"),
            ("n,,\u{1}auth=Bearer \(String(repeating: "x", count: 65_536))\u{1}\u{1}", "invalid_request"),
        ]
        for (message, status) in table {
            let exchange = try exchange()
            #expect(
                exchange.step(message) == .challenge(Array("{\"status\":\"\(status)\"}".utf8)), "\(message.prefix(40))")
            #expect(exchange.step([1]) == .finished(.refused(.badCredentials), []))
        }
        #expect(authenticator.counters.refused == table.count, "once each")
    }

    // MARK: Reload

    @Test("A reload forgets those whose password has changed, and only those")
    func keptCache() throws {
        let (anna, bob) = (try user("anna", "one"), try user("bob", "two"))
        let authenticator = try make([anna, bob], time: time)
        #expect(authenticator.answer(credentials("anna", "one"))?.identity != nil)
        #expect(authenticator.answer(credentials("bob", "two"))?.identity != nil)
        let moved = try User(name: "bob", hash: bob.hash, groups: ["new"])
        try authenticator.reload(IdentitySettings(users: [user("anna", "one"), moved]))
        #expect(authenticator.counters.cached == 1)
        let hashes = authenticator.counters.hashes
        #expect(authenticator.answer(credentials("bob", "two"))?.identity?.groups == ["new"])
        #expect(authenticator.counters.hashes == hashes)
        #expect(authenticator.isStillGood(Identity(user: "bob")))
        #expect(authenticator.isStillGood(Identity()))
        try authenticator.reload(IdentitySettings(users: []))
        #expect(!authenticator.isStillGood(Identity(user: "bob")))
        var token = Identity(user: "zoe")
        token.attributes = ["claim.sub": ["zoe"]]
        #expect(authenticator.isStillGood(token))
        #expect(authenticator.answer(credentials("bob", "two")) == .refused(.badCredentials))
    }
}
