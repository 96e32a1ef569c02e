import Testing

@testable import Core

@Suite("Access rules")
struct AccessTests {
    private func access(
        _ rules: [AccessRule], user: String? = nil, groups: [String] = [], clientID: String = "c1"
    ) throws -> ResolvedAccess {
        let identity = Identity(user: user, groups: groups)
        return try #require(try AccessRules(rules).resolve(for: identity, clientID: clientID))
    }

    private func mayPublish(_ access: ResolvedAccess, _ topic: String) -> Bool {
        Array(topic.utf8).withUnsafeBytes { access.mayPublish($0) }
    }

    private func maySubscribe(_ access: ResolvedAccess, _ filter: String, smf: Bool = false) throws -> Bool {
        access.reach(try TopicFilter(filter, grammar: smf ? .smf : .mqtt)) == .everything
    }

    @Test("No rules allow everything; any rule makes deny the default")
    func defaults() throws {
        #expect(AccessRules.none.resolve(for: Identity(), clientID: "c") == nil)
        let some = try access([AccessRule(effect: .allow, action: .all, topics: ["a"])])
        #expect(mayPublish(some, "a") && !mayPublish(some, "b"))
        #expect(try maySubscribe(some, "a"))
        #expect(try !maySubscribe(some, "b"))
        let others = try access([AccessRule(effect: .allow, action: .all, topics: ["#"], users: ["eve"])])
        #expect(!mayPublish(others, "a"), "rules for others still make deny the default")
    }

    @Test("The first rule that matches decides")
    func order() throws {
        let deny = AccessRule(effect: .deny, action: .all, topics: ["a/secret/#"])
        let allow = AccessRule(effect: .allow, action: .all, topics: ["a/#"])
        let denyFirst = try access([deny, allow])
        #expect(
            mayPublish(denyFirst, "a/b") && !mayPublish(denyFirst, "a/secret/x") && !mayPublish(denyFirst, "a/secret"))
        let allowFirst = try access([allow, deny])
        #expect(mayPublish(allowFirst, "a/secret/x"))
        #expect(try maySubscribe(allowFirst, "a/#"))
    }

    @Test("A deny rule refuses every subscription that touches it, before an allow rule is asked")
    func denyIntersects() throws {
        let rules = try access([
            AccessRule(effect: .deny, action: .subscribe, topics: ["+/secret/#"]),
            AccessRule(effect: .allow, action: .subscribe, topics: ["#", "$SYS/#"]),
        ])
        for filter in ["a/secret", "a/+", "#", "+/+", "a/#", "a/secret/x", "+/secret", "$share/g/a/#"] {
            #expect(try !maySubscribe(rules, filter), "\(filter)")
        }
        for filter in ["a", "+", "a/b", "a/open/#", "secret/b", "a/secrets"] {
            #expect(try maySubscribe(rules, filter), "\(filter)")
        }
        #expect(try !maySubscribe(rules, "a/sec*", smf: true))
        #expect(try !maySubscribe(rules, "a/>", smf: true))
        #expect(try maySubscribe(rules, "a/op*", smf: true))
    }

    @Test("An allow rule must cover the whole subscription")
    func allowCovers() throws {
        let rules = try access([
            AccessRule(effect: .allow, action: .subscribe, topics: ["a/+/c", "b/#", "c/>", "d/re*"])
        ])
        for filter in ["a/b/c", "a/+/c", "b", "b/#", "b/+/x", "c/x", "c/+/#", "d/red"] {
            #expect(try maySubscribe(rules, filter), "\(filter)")
        }
        #expect(try maySubscribe(rules, "d/red*", smf: true))
        for filter in ["a/#", "a/+/+", "+/b/c", "#", "c", "c/#", "d/+", "$SYS/#", "+/x"] {
            #expect(try !maySubscribe(rules, filter), "\(filter)")
        }
        #expect(!mayPublish(rules, "b"), "the rule is about subscribing")
    }

    @Test("A claim that a rule names in full is that one, not one with a name like it")
    func claimsInFull() throws {
        let rules = [
            AccessRule(effect: .allow, action: .publish, topics: ["c"], claims: ["cert.cn=ops"]),
            AccessRule(effect: .allow, action: .publish, topics: ["t"], claims: ["claim.role=ops"]),
            AccessRule(effect: .allow, action: .publish, topics: ["b"], claims: ["cn=ops"]),
        ]
        func may(_ attributes: [String: [String]]) throws -> [Bool] {
            var identity = Identity(user: "eve")
            identity.attributes = attributes
            let access = try #require(try AccessRules(rules).resolve(for: identity, clientID: "c"))
            return ["c", "t", "b"].map { mayPublish(access, $0) }
        }
        #expect(try may(["cert.cn": ["ops"]]) == [true, false, true])
        #expect(try may(["claim.role": ["ops"]]) == [false, true, false])
        // A token may have a claim of any name.
        #expect(try may(["claim.cert.cn": ["ops"]]) == [false, false, false])
        #expect(try may(["claim.claim.role": ["ops"]]) == [false, false, false])
        #expect(try may(["claim.cn": ["ops"]]) == [false, false, true])
    }

    @Test("Users, groups and actions select rules")
    func selection() throws {
        let rules = [
            AccessRule(effect: .allow, action: .publish, topics: ["u/#"], users: ["ann", "bob"]),
            AccessRule(effect: .allow, action: .publish, topics: ["g/#"], groups: ["fleet"]),
            AccessRule(effect: .allow, action: .publish, topics: ["both/#"], users: ["ann"], groups: ["fleet"]),
            AccessRule(effect: .allow, action: .publish, topics: ["open/#"], users: ["anonymous"]),
        ]
        let ann = try access(rules, user: "ann")
        #expect(
            mayPublish(ann, "u/x") && !mayPublish(ann, "g/x") && !mayPublish(ann, "both/x")
                && !mayPublish(ann, "open/x"))
        let annInFleet = try access(rules, user: "ann", groups: ["other", "fleet"])
        #expect(mayPublish(annInFleet, "g/x") && mayPublish(annInFleet, "both/x"))
        let nobody = try access(rules)
        #expect(mayPublish(nobody, "open/x") && !mayPublish(nobody, "u/x"))
        #expect(try !maySubscribe(ann, "u/x"))
    }

    @Test("Names are filled in for the one who asks")
    func variables() throws {
        let rules = [
            AccessRule(effect: .allow, action: .all, topics: ["u/${username}/#", "c/${clientid}", "x${clientid}/>"])
        ]
        let ann = try access(rules, user: "ann", clientID: "sensor-1")
        #expect(mayPublish(ann, "u/ann/x") && mayPublish(ann, "c/sensor-1") && mayPublish(ann, "xsensor-1/y"))
        #expect(!mayPublish(ann, "u/bob/x") && !mayPublish(ann, "c/sensor-2") && !mayPublish(ann, "u/${username}/x"))
        #expect(try maySubscribe(ann, "u/ann/#"))
        #expect(try !maySubscribe(ann, "u/+/#"))
        let nobody = try access(rules, clientID: "sensor-1")
        #expect(mayPublish(nobody, "c/sensor-1") && !mayPublish(nobody, "u/anonymous/x"))
    }

    @Test(
        "A name with a wildcard or separator never widens an allow rule nor narrows a deny rule",
        arguments: ["#", "+", "*", ">", "a/b", "/", "", "a*", "x#", "\0", "a/+", "c1/#"])
    func hostileNames(_ name: String) throws {
        let allow = [
            AccessRule(effect: .allow, action: .all, topics: ["dev/${clientid}/#", "dev/${clientid}", "${clientid}/#"])
        ]
        let allowed = try access(allow, clientID: name)
        for topic in ["dev/other/x", "dev/a/b", "dev/a", "dev", "a/b", "x", "dev//x"] {
            #expect(!mayPublish(allowed, topic), "\(topic)")
        }
        #expect(try !maySubscribe(allowed, "dev/#"))
        #expect(try !maySubscribe(allowed, "#"))
        let deny = [
            AccessRule(effect: .deny, action: .all, topics: ["private/${clientid}/#"]),
            AccessRule(effect: .allow, action: .all, topics: ["#"]),
        ]
        let denied = try access(deny, clientID: name)
        #expect(!mayPublish(denied, "private/x/y") && !mayPublish(denied, "other"))
        #expect(try !maySubscribe(denied, "other"))
    }

    @Test("Malformed rules are refused with their place")
    func malformed() {
        func failure(_ topics: [String]) -> AccessRules.Failure? {
            do {
                _ = try AccessRules([
                    AccessRule(effect: .allow, action: .all, topics: ["a"]),
                    AccessRule(effect: .allow, action: .all, topics: topics),
                ])
                return nil
            } catch { return error }
        }
        #expect(failure(["b", "a/#/b"]) == AccessRules.Failure(rule: 1, topic: "a/#/b"))
        #expect(failure([""]) == AccessRules.Failure(rule: 1, topic: ""))
        #expect(failure(["a+"]) == AccessRules.Failure(rule: 1, topic: "a+"))
        #expect(failure(["${username}#"]) == AccessRules.Failure(rule: 1, topic: "${username}#"))
        #expect(failure(["a/*/>", "+/b", "${username}/${clientid}"]) == nil)
    }

    @Test(
        "A name never becomes an option of a filter, nor hides a separator in a character",
        arguments: ["$share", "$local", "$SYS", "bob/\u{301}", "bob/\u{301}x", "x${username}"])
    func namesThatChangeMeaning(_ name: String) throws {
        let rules = [
            AccessRule(effect: .allow, action: .all, topics: ["${clientid}/g/#", "${clientid}/#", "dev/${clientid}/#"])
        ]
        let allowed = try access(rules, user: "ann", clientID: name)
        for topic in ["a", "g/x", "x/y", "dev/bob/\u{301}/y", "dev/bob/\u{301}x", "dev/xann/y"] {
            #expect(!mayPublish(allowed, topic), "\(topic)")
        }
        for filter in ["#", "a", "g/#", "$SYS/#", "dev/bob/#"] {
            #expect(try !maySubscribe(allowed, filter), "\(filter)")
        }
    }
}
