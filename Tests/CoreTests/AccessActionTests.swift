import Testing

@testable import Core

@Suite("Access rules by action, claim and variable")
struct AccessActionTests {
    private func access(
        _ rules: [AccessRule], user: String? = "ann", groups: [String] = [], clientID: String = "c1",
        _ attributes: [String: [String]] = [:]
    ) throws -> ResolvedAccess {
        var identity = Identity(user: user, groups: groups)
        identity.attributes = attributes
        return try #require(try AccessRules(rules).resolve(for: identity, clientID: clientID))
    }

    private func mayPublish(_ access: ResolvedAccess, _ topic: String) -> Bool {
        Array(topic.utf8).withUnsafeBytes { access.mayPublish($0) }
    }

    private func mayRetain(_ access: ResolvedAccess, _ topic: String) -> Bool {
        Array(topic.utf8).withUnsafeBytes { access.mayRetain($0) }
    }

    private func maySubscribe(_ access: ResolvedAccess, _ filter: String) throws -> Bool {
        access.reach(try TopicFilter(filter, grammar: .mqtt)) == .everything
    }

    @Test("Who may publish may retain, unless a rule about retaining stands before")
    func retain() throws {
        let plain = try access([AccessRule(effect: .allow, action: .publish, topics: ["a/#"])])
        #expect(mayRetain(plain, "a/x") && !mayRetain(plain, "b"))
        let denied = try access([
            AccessRule(effect: .allow, action: .retain, topics: ["a/state"]),
            AccessRule(effect: .deny, action: .retain, topics: ["a/#", "c"]),
            AccessRule(effect: .allow, action: .publish, topics: ["a/#", "b/#"]),
        ])
        #expect(mayPublish(denied, "a/x") && !mayRetain(denied, "a/x"))
        #expect(mayPublish(denied, "a/state") && mayRetain(denied, "a/state"))
        #expect(mayPublish(denied, "b/x") && mayRetain(denied, "b/x"))
        #expect(!mayPublish(denied, "c") && !mayRetain(denied, "c"))
        #expect(try !maySubscribe(denied, "a/x"))
        let alone = try access([AccessRule(effect: .allow, action: .retain, topics: ["a"])])
        #expect(!mayRetain(alone, "a") && !mayPublish(alone, "a"), "retaining is no right to publish")
        let late = try access([
            AccessRule(effect: .allow, action: .publish, topics: ["a"]),
            AccessRule(effect: .deny, action: .retain, topics: ["a"]),
        ])
        #expect(mayRetain(late, "a"), "the first that matches decides")
    }

    @Test("Who may subscribe may share, unless a rule about sharing stands before; a rule may name the group")
    func share() throws {
        let rules = try access([
            AccessRule(effect: .allow, action: .share, topics: ["$share/good/jobs/#"]),
            AccessRule(effect: .deny, action: .share, topics: ["jobs/#", "$share/bad/free/#"]),
            AccessRule(effect: .allow, action: .subscribe, topics: ["jobs/#", "free/#"]),
            AccessRule(effect: .allow, action: .subscribe, topics: ["$share/only/members/#"]),
        ])
        for filter in ["jobs/#", "jobs/1", "free/#", "$share/good/jobs/#", "$share/good/jobs/1", "$share/any/free/1"] {
            #expect(try maySubscribe(rules, filter), "\(filter)")
        }
        for filter in [
            "$share/other/jobs/#", "$share/other/jobs/1", "$share/bad/free/#", "$share/good/#", "members/1",
            "$share/other/members/1",
        ] {
            #expect(try !maySubscribe(rules, filter), "\(filter)")
        }
        #expect(try maySubscribe(rules, "$share/only/members/1"))
        let topic = Array("members/1".utf8)
        #expect(topic.withUnsafeBytes { !rules.mayRead($0) }, "a member's right is no right to read for itself")
        let alone = try access([AccessRule(effect: .allow, action: .share, topics: ["#"])])
        #expect(try !maySubscribe(alone, "$share/g/a"))
    }

    @Test("`all` is about everything but administration")
    func all() throws {
        let list = [
            AccessRule(effect: .deny, action: .all, topics: ["no/#"]),
            AccessRule(effect: .allow, action: .all, topics: ["#"]),
        ]
        let rules = try access(list)
        #expect(mayPublish(rules, "a") && mayRetain(rules, "a"))
        #expect(try maySubscribe(rules, "a/#") && maySubscribe(rules, "$share/g/a/#"))
        #expect(!mayPublish(rules, "no/x") && !mayRetain(rules, "no/x"))
        #expect(try !maySubscribe(rules, "#") && !maySubscribe(rules, "$share/g/no"))
        #expect(try !AccessRules(list).mayAdminister(Identity(user: "ann")))
    }

    @Test("Administration: the first rule for an identity decides, never for one without a name")
    func admin() throws {
        let rules = try AccessRules([
            AccessRule(effect: .deny, action: .admin, topics: [], users: ["bob"]),
            AccessRule(effect: .allow, action: .admin, topics: [], users: ["ann"], groups: ["ops"]),
            AccessRule(effect: .allow, action: .admin, topics: [], groups: ["root"]),
            AccessRule(effect: .allow, action: .admin, topics: [], users: ["anonymous"]),
        ])
        #expect(rules.mayAdminister(Identity(user: "ann", groups: ["ops"])))
        #expect(!rules.mayAdminister(Identity(user: "ann")))
        #expect(rules.mayAdminister(Identity(user: "eve", groups: ["root"])))
        #expect(!rules.mayAdminister(Identity(user: "bob", groups: ["root", "ops"])))
        #expect(!rules.mayAdminister(Identity(user: nil)))
        #expect(!AccessRules.none.mayAdminister(Identity(user: "ann")))
        let others = try #require(rules.resolve(for: Identity(user: "ann", groups: ["ops"]), clientID: ""))
        #expect(!mayPublish(others, "a"), "a rule about administration makes deny the default, too")
    }

    @Test("Claims select rules, with or without where they come from")
    func claims() throws {
        func mayPublish(_ claims: [String], _ attributes: [String: [String]]) throws -> Bool {
            let rule = AccessRule(effect: .allow, action: .publish, topics: ["a"], claims: claims)
            return self.mayPublish(try access([rule], attributes), "a")
        }
        let ops = ["claim.department": ["sales", "ops"], "cert.ou": ["fleet=1"]]
        #expect(try mayPublish(["department=ops"], ops) && mayPublish(["claim.department=ops"], ops))
        #expect(try mayPublish(["x=y", "ou=fleet=1"], ops) && mayPublish(["cert.ou=fleet=1"], ops))
        #expect(try !mayPublish(["cert.department=ops"], ops) && !mayPublish(["claim.ou=fleet=1"], ops))
        #expect(try !mayPublish(["department=op"], ops) && !mayPublish(["department="], ops))
        #expect(try !mayPublish(["department=ops"], [:]))
    }

    @Test("Variables of certificates and tokens; several values are several filters")
    func attributes() throws {
        let rules = [
            AccessRule(effect: .deny, action: .all, topics: ["dept/${claim.department}/secret"]),
            AccessRule(effect: .allow, action: .all, topics: ["cn/${cert.cn}/#", "dept/${claim.department}/#"]),
            AccessRule(effect: .allow, action: .all, topics: ["two/${cert.ou}/of/${cert.ou}/${cert.o}"]),
        ]
        let known = try access(
            rules,
            [
                "cert.cn": ["pump"], "claim.department": ["ops", "sales"], "cert.ou": ["x", "y"], "cert.o": ["1", "2"],
            ])
        for topic in ["cn/pump/a", "dept/ops/a", "dept/sales/a", "two/x/of/x/2", "two/y/of/y/1"] {
            #expect(mayPublish(known, topic), "\(topic)")
        }
        for topic in ["cn/other/a", "dept/hr/a", "dept/ops/secret", "dept/sales/secret", "two/x/of/y/1"] {
            #expect(!mayPublish(known, topic), "\(topic)")
        }
        let nobody = try access(rules)
        #expect(!mayPublish(nobody, "cn/pump/a") && !mayPublish(nobody, "dept/ops/a"))
    }

    @Test(
        "Regex and variable injection: a claim with a wildcard or separator widens no allow and narrows no deny",
        arguments: ["#", "+", "*", ">", "a/b", "", "a*", "$share", "\0", "a/+", "ops/\u{301}"])
    func hostileClaims(_ value: String) throws {
        let allow = [AccessRule(effect: .allow, action: .all, topics: ["d/${claim.d}/#", "${cert.cn}/#"])]
        let allowed = try access(allow, ["claim.d": [value], "cert.cn": [value]])
        for topic in ["d/x/y", "d", "d/a/b", "x/y", "a/b/c", "d//y", "g/x"] {
            #expect(!mayPublish(allowed, topic), "\(topic)")
        }
        #expect(try !maySubscribe(allowed, "d/#") && !maySubscribe(allowed, "#"))
        let mixed = try access(allow, ["claim.d": ["good", value]])
        #expect(mayPublish(mixed, "d/good/x") && !mayPublish(mixed, "d/other/x"), "a good value still counts")
        let deny = [
            AccessRule(effect: .deny, action: .all, topics: ["d/${claim.d}/#"]),
            AccessRule(effect: .allow, action: .all, topics: ["#"]),
        ]
        let denied = try access(deny, ["claim.d": ["good", value]])
        #expect(!mayPublish(denied, "d/good/x") && !mayPublish(denied, "d/other/x"))
    }

    @Test("More values than a rule takes: an allow takes the first, a deny denies")
    func manyValues() throws {
        let values = (0..<40).map { "v\($0)" }
        let allowed = try access(
            [AccessRule(effect: .allow, action: .all, topics: ["d/${claim.d}"])], ["claim.d": values])
        #expect(allowed.entries.count == 16)
        #expect(mayPublish(allowed, "d/v0") && mayPublish(allowed, "d/v15") && !mayPublish(allowed, "d/v16"))
        let denied = try access(
            [
                AccessRule(effect: .deny, action: .all, topics: ["d/${claim.d}"]),
                AccessRule(effect: .allow, action: .all, topics: ["#"]),
            ], ["claim.d": values])
        #expect(!mayPublish(denied, "d/v39") && !mayPublish(denied, "e"))
        #expect(denied.entries.count == 2)
    }

    @Test("What cannot be a rule is named")
    func failures() {
        func problem(_ rule: AccessRule) -> AccessRules.Failure.Problem? {
            do throws(AccessRules.Failure) {
                _ = try AccessRules([rule])
                return nil
            } catch { return error.problem }
        }
        #expect(problem(AccessRule(effect: .allow, action: .all, topics: [])) == .noTopics)
        #expect(problem(AccessRule(effect: .allow, action: .admin, topics: ["a"], users: ["x"])) == .topicsForAdmin)
        #expect(problem(AccessRule(effect: .allow, action: .admin, topics: [])) == .adminForEveryone)
        #expect(problem(AccessRule(effect: .deny, action: .admin, topics: [])) == nil)
        #expect(problem(AccessRule(effect: .allow, action: .publish, topics: ["$share/g/a"])) == .groupForPublishing)
        #expect(problem(AccessRule(effect: .allow, action: .retain, topics: ["$share/g/a"])) == .groupForPublishing)
        #expect(problem(AccessRule(effect: .allow, action: .all, topics: ["$share/g/a"])) == nil)
        #expect(problem(AccessRule(effect: .allow, action: .all, topics: ["${user}"])) == .unknownVariable)
        #expect(problem(AccessRule(effect: .allow, action: .all, topics: ["${cert.key}"])) == .unknownVariable)
        #expect(problem(AccessRule(effect: .allow, action: .all, topics: ["${claim.}"])) == .unknownVariable)
        #expect(problem(AccessRule(effect: .allow, action: .all, topics: ["${username"])) == .unknownVariable)
        #expect(problem(AccessRule(effect: .allow, action: .all, topics: ["a"], claims: ["x"])) == .malformedClaim)
        #expect(problem(AccessRule(effect: .allow, action: .all, topics: ["a"], claims: ["=x"])) == .malformedClaim)
    }

    @Test("The rule that decides, and what it was for this client")
    func explain() throws {
        let rules = try AccessRules(
            [
                AccessRule(effect: .deny, action: .retain, topics: ["t/${username}/x"]),
                AccessRule(effect: .allow, action: .publish, topics: ["t/${username}/#"], groups: ["devices"]),
                AccessRule(effect: .deny, action: .share, topics: ["jobs"]),
                AccessRule(effect: .allow, action: .subscribe, topics: ["jobs", "cmd/${clientid}/#"]),
                AccessRule(effect: .allow, action: .admin, topics: [], users: ["ann"]),
            ], broadSubscriptions: .filter)
        let ann = Identity(user: "ann", groups: ["devices"])
        func explain(_ question: AccessRules.Question, _ identity: Identity? = nil) -> AccessExplanation {
            rules.explain(question, identity ?? ann, clientID: "c1")
        }
        func topic(_ text: String) -> [UInt8] { Array(text.utf8) }
        #expect(
            explain(.publish(topic: topic("t/ann/x")))
                == AccessExplanation(verdict: .allowed, rule: 1, filter: "t/ann/#", action: .publish))
        #expect(
            explain(.retain(topic: topic("t/ann/x")))
                == AccessExplanation(verdict: .denied, rule: 0, filter: "t/ann/x", action: .retain))
        #expect(explain(.retain(topic: topic("t/ann/y"))).rule == 1)
        #expect(
            explain(.publish(topic: topic("t/bob/x")))
                == AccessExplanation(verdict: .denied, rule: nil, filter: nil, action: .publish))
        #expect(explain(.publish(topic: topic("t/ann/x")), Identity(user: "ann")).verdict == .denied)
        #expect(explain(.publish(topic: topic("$SYS/x"))).verdict == .denied)
        func subscribe(_ text: String) throws -> AccessExplanation {
            explain(.subscribe(try TopicFilter(text, grammar: .either)))
        }
        #expect(try subscribe("jobs") == .init(verdict: .allowed, rule: 3, filter: "jobs", action: .subscribe))
        #expect(try subscribe("$share/g/jobs") == .init(verdict: .denied, rule: 2, filter: "jobs", action: .share))
        #expect(try subscribe("cmd/#") == .init(verdict: .filtered, rule: 3, filter: "cmd/c1/#", action: .subscribe))
        #expect(try subscribe("$share/g/cmd/#").verdict == .denied)
        #expect(explain(.administer).rule == 4 && explain(.administer, Identity(user: "bob")).verdict == .denied)
        let bad = explain(.retain(topic: topic("t/ann/y")), Identity(user: "#"))
        #expect(bad == AccessExplanation(verdict: .denied, rule: nil, filter: nil, action: .publish))
        #expect(
            AccessRules.none.explain(.publish(topic: topic("a")), ann, clientID: "")
                == AccessExplanation(verdict: .allowed, rule: nil, filter: nil, action: .publish))
    }
}
