import Testing

@testable import Core

@Suite struct AccessTests {
    private static func rules(_ rules: AccessRule...) throws -> AccessRules { try AccessRules(rules) }

    @Test func withoutRulesEverythingIsAllowed() {
        let bench = Bench()
        #expect(bench.publish("anything").verdict == .routed)
        #expect(bench.subscribe(bench.port(), "#") == .granted(isNew: true))
    }

    @Test func aSubscriptionBroaderThanTheRuleIsRefused() throws {
        let bench = Bench(rules: try Self.rules(AccessRule(effect: .allow, action: .all, topics: ["a/#"])))
        let port = bench.port()
        #expect(bench.subscribe(port, "a/b/+") == .granted(isNew: true))
        #expect(bench.subscribe(port, "a/#") == .granted(isNew: true))
        #expect(bench.subscribe(port, "#") == .notAuthorized)
        #expect(bench.subscribe(port, "+/b") == .notAuthorized)
        #expect(bench.subscribe(port, "$share/g/#") == .notAuthorized)
        #expect(bench.publish("a/x").verdict == .routed)
        #expect(bench.publish("b").verdict == .notAuthorized)
        #expect(bench.all[0].counters.subscriptionsRefused == 3)
        #expect(bench.all[0].counters.dropped[DropReason.notAuthorized.rawValue] == 1)
    }

    @Test func theFirstRuleThatFitsDecides() throws {
        let bench = Bench(
            rules: try Self.rules(
                AccessRule(effect: .deny, action: .all, topics: ["a/secret/#"]),
                AccessRule(effect: .allow, action: .publish, topics: ["a/>"]),
                AccessRule(effect: .allow, action: .subscribe, topics: ["a/open/#"])))
        let port = bench.port()
        #expect(bench.publish("a/secret/1").verdict == .notAuthorized)
        #expect(bench.publish("a/other").verdict == .routed)
        #expect(bench.publish("a").verdict == .notAuthorized, "> wants a further level")
        #expect(bench.subscribe(port, "a/open/+") == .granted(isNew: true))
        #expect(bench.subscribe(port, "a/#") == .notAuthorized, "would touch what is denied")
    }

    @Test func rulesForUsersAndGroups() throws {
        let bench = Bench(
            rules: try Self.rules(
                AccessRule(effect: .allow, action: .publish, topics: ["u"], users: ["ann"]),
                AccessRule(effect: .allow, action: .publish, topics: ["g"], groups: ["ops"]),
                AccessRule(effect: .allow, action: .publish, topics: ["n"], users: ["anonymous"])))
        func may(_ topic: String, _ principal: Principal) -> Bool {
            bench.publish(topic, as: principal).verdict == .routed
        }
        let ann = bench.principal("ann")
        let bob = bench.principal("bob", groups: ["ops"])
        let nobody = bench.principal()
        #expect([may("u", ann), may("g", ann), may("n", ann)] == [true, false, false])
        #expect([may("u", bob), may("g", bob), may("n", bob)] == [false, true, false])
        #expect([may("u", nobody), may("g", nobody), may("n", nobody)] == [false, false, true])
    }

    @Test(arguments: ["+", "#", "a/b", "*", ">", "x*", "", "a\0"])
    func aNameNeverWidensARule(_ name: String) throws {
        let bench = Bench(
            rules: try Self.rules(
                AccessRule(effect: .allow, action: .all, topics: ["d/${clientid}/#", "u/${username}"])))
        let principal = bench.principal(name, clientID: name)
        let port = bench.port()
        for topic in ["d/other/x", "d/a/b/c", "u/other", "d/x/y"] {
            #expect(bench.publish(topic, as: principal).verdict == .notAuthorized)
        }
        #expect(bench.subscribe(port, "d/#", as: principal) == .notAuthorized)
        #expect(bench.subscribe(port, "d/+/x", as: principal) == .notAuthorized)
    }

    @Test func aNameThatFitsIsFilledIn() throws {
        let bench = Bench(
            rules: try Self.rules(AccessRule(effect: .allow, action: .all, topics: ["d/${clientid}/${username}/#"])))
        let principal = bench.principal("ann", clientID: "dev-1")
        #expect(bench.publish("d/dev-1/ann/x", as: principal).verdict == .routed)
        #expect(bench.publish("d/dev-2/ann/x", as: principal).verdict == .notAuthorized)
        #expect(bench.publish("d/dev-1/ann/x", as: bench.principal(nil, clientID: "dev-1")).verdict == .notAuthorized)
    }

    @Test func newRulesHoldForPrincipalsThatAreThere() throws {
        let bench = Bench()
        let principal = bench.principal("ann")
        #expect(bench.publish("a", as: principal).verdict == .routed)
        bench.router.reload(try Self.rules(AccessRule(effect: .allow, action: .all, topics: ["b"])))
        #expect(bench.publish("a", as: principal).verdict == .notAuthorized)
        #expect(bench.publish("b", as: principal).verdict == .routed)
        #expect(bench.subscribe(bench.port(), "a", as: principal) == .notAuthorized)
        bench.router.reload(.none)
        #expect(bench.publish("a", as: principal).verdict == .routed)
    }

    @Test func aMalformedRuleIsNamed() {
        #expect(throws: AccessRules.Failure(rule: 1, topic: "a/#/b")) {
            try Self.rules(
                AccessRule(effect: .allow, action: .all, topics: ["a"]),
                AccessRule(effect: .allow, action: .all, topics: ["b", "a/#/b"]))
        }
    }
}
