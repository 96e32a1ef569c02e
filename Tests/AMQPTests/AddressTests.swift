import Core
import Testing

@testable import AMQP

/// What an address names, in the words of the table below; `amqp:…` when it is refused.
private func named(
    _ text: String?, _ role: Address.Role = .target, capabilities: [String] = [], group: String? = nil,
    unprefixed: AMQPSettings.Unprefixed = .topic, limits: Limits = Limits()
) -> String {
    var settings = AMQPSettings()
    settings.unprefixedAddress = unprefixed
    do throws(AMQPError) {
        let address = try Address(text, capabilities: capabilities, role: role, group: group, settings, limits: limits)
        switch address {
        case .topic(let bytes): return "topic " + String(decoding: bytes, as: UTF8.self)
        case .filter(let filter): return "filter " + filter.wholeText
        case .queue(let name): return "queue " + name
        case .management: return "management"
        case .claims: return "claims"
        case .anonymous: return "anonymous"
        }
    } catch {
        return error.condition.rawValue
    }
}

@Suite struct AddressTests {
    @Test(arguments: [
        ("a/b", "topic a/b"), ("topic://a/b", "topic a/b"), ("TOPIC://A/b", "topic A/b"),
        ("temp-topic://a", "topic a"), ("Temp-Topic://a", "topic a"),
        ("queue://a/b", "queue a/b"), ("QUEUE://Q", "queue Q"), ("temp-queue://t", "queue t"),
        ("amqp://host/a/b", "topic a/b"), ("amqps://u:p@[::1]:5671/topic://a", "topic a"),
        ("AMQPS://host:1/$cbs", "claims"), ("amqp://h//queues/q", "queue q"),
        ("/a", "topic /a"), ("a//b/", "topic a//b/"), ("topics/a", "topic topics/a"), ("t", "topic t"),
        ("q", "topic q"),
        ("topic:/a", "topic topic:/a"), ("topic://topic://a", "topic topic://a"), ("amqpx://a", "topic amqpx://a"),
        ("ünï/ツ", "topic ünï/ツ"), ("a*b", "topic a*b"), ("a>/b", "topic a>/b"), ("a/b>", "topic a/b>"),
        ("$SYS/x", "topic $SYS/x"), ("apus/reply/x", "topic apus/reply/x"),
        ("$cbs", "claims"), ("$management", "management"), ("orders/$management", "management"),
        ("/management", "management"), ("topic://$cbs", "topic $cbs"),
    ]) func targets(text: String, expected: String) {
        #expect(named(text) == expected)
        #expect(named(text, .message) == expected)
    }

    @Test func nothing() {
        #expect(named(nil) == "anonymous" && named("") == "anonymous")
        #expect(named(nil, .source) == "amqp:invalid-field" && named("", .source) == "amqp:invalid-field")
        #expect(named(nil, .message) == "amqp:precondition-failed")
        for text in ["topic://", "queue://", "amqp://host", "amqp://host/", "amqps://", "amqp://host/topic://"] {
            #expect(named(text) == "amqp:invalid-field", "\(text)")
            #expect(named(text, .source) == "amqp:invalid-field", "\(text)")
        }
    }

    @Test(arguments: [
        "a/+", "#", "a/#", "+/b", "a+b", "a#", "*", "a/*/b", "a*", "a*/b", ">", "a/>", "topic://a/>", "/topic/a.*",
        "/topic/#", "/exchanges/amq.topic/a%2E%2A", "a\u{0}b", "$share/g/a", "topic://$share/g/a", "$local/a",
    ]) func noTargets(text: String) {
        #expect(named(text) == "amqp:invalid-field")
        #expect(named(text, .message) == "amqp:invalid-field")
    }

    @Test(arguments: [
        ("a/b", "filter a/b"), ("topic://a/>", "filter a/>"), ("topic://a/+/#", "filter a/+/#"),
        ("a/*/c*", "filter a/*/c*"),
        ("#", "filter #"), (">", "filter >"), ("amqp://h/a/#", "filter a/#"),
        ("$share/g/a/>", "filter $share/g/a/>"), ("topic://$share/g/#", "filter $share/g/#"),
        ("$local/a", "filter $local/a"), ("$local/$share/g/a/+", "filter $local/$share/g/a/+"),
        ("queue://a/>", "queue a/>"), ("$management", "management"), ("$cbs", "claims"),
        ("/topic/a.b", "filter a/b"), ("/topic/*.b.#", "filter +/b/#"), ("/topic/#", "filter #"),
        ("/exchange/amq.topic/a.*", "filter a/+"), ("/exchanges/amq.topic/a%2Eb.%23", "filter a/b/#"),
        ("/exchanges/amq.topic/a%2Fb.c", "filter a/b/c"), ("/exchanges/amq.topic/%E3%83%84", "filter ツ"),
        ("/topic/ab*.c", "filter ab*/c"),
        ("/queues/a%20b", "queue a b"), ("/queue/q", "queue q"), ("/amq/queue/q", "queue q"),
    ]) func sources(text: String, expected: String) {
        #expect(named(text, .source) == expected)
    }

    @Test(arguments: [
        ("a/#/b", "amqp:invalid-field"), ("a+/b", "amqp:invalid-field"), ("a/#b", "amqp:invalid-field"),
        ("a/+/*", "amqp:invalid-field"), ("topic://+/>", "amqp:invalid-field"), ("a/b*/#", "amqp:invalid-field"),
        ("$share/g", "amqp:invalid-field"), ("$share//a", "amqp:invalid-field"), ("$share/g+/a", "amqp:invalid-field"),
        ("a\u{0}", "amqp:invalid-field"), ("/topic/a.#.b", "amqp:invalid-field"), ("/topic/a.+", "amqp:invalid-field"),
        ("/topic/a/b", "amqp:invalid-field"), ("/topic/", "amqp:invalid-field"), ("/topic/%4", "amqp:invalid-field"),
        ("/topic/%zz", "amqp:invalid-field"), ("/topic/%ff", "amqp:invalid-field"),
        ("/exchanges/amq.topic", "amqp:invalid-field"), ("/exchanges/amq.topic/a/b", "amqp:invalid-field"),
        ("/exchanges/logs/a", "amqp:not-found"), ("/exchange/amq.fanout/x", "amqp:not-found"),
    ]) func noSources(text: String, condition: String) {
        #expect(named(text, .source) == condition)
    }

    @Test(arguments: [
        ("/topic/a.b", "topic a/b"), ("/exchange/amq.topic/a.b", "topic a/b"),
        ("/exchanges/amq.topic/a.b%2Fc", "topic a/b/c"), ("/exchanges/x/a", "amqp:not-found"),
        ("/exchanges/amq.topic", "amqp:invalid-field"), ("/topic/a/b", "amqp:invalid-field"),
        ("/topic", "topic /topic"), ("/topics/a", "topic /topics/a"), ("topic:///topic/a", "topic /topic/a"),
        ("/amq/queue/a/b", "amqp:invalid-field"),
    ]) func pathsAsTargets(text: String, expected: String) {
        #expect(named(text) == expected)
    }

    @Test("Capabilities say what a name is, whatever stands in front of it")
    func capabilities() {
        #expect(named("a", capabilities: ["topic"], unprefixed: .queue) == "topic a")
        #expect(named("queue://a", capabilities: ["topic"]) == "topic a")
        #expect(named("topic://a", capabilities: ["queue"]) == "queue a")
        #expect(named("a", capabilities: ["temporary-topic"]) == "topic a")
        #expect(named("a", capabilities: ["temporary-queue"]) == "queue a")
        #expect(named("a/>", .source, capabilities: ["shared", "topic", "global"]) == "filter a/>")
        #expect(named("/topic/a", capabilities: ["topic"]) == "topic /topic/a")
        #expect(named("/topic/a", capabilities: ["queue"]) == "queue /topic/a")
        #expect(named("a", capabilities: ["Topic", "other"], unprefixed: .queue) == "queue a")
    }

    @Test("Addresses that this node has made are topics, whatever a client takes them for")
    func own() {
        #expect(named("apus/reply/1", .source, capabilities: ["temporary-queue"]) == "filter apus/reply/1")
        #expect(named("apus/reply/1", capabilities: ["queue"]) == "topic apus/reply/1")
        #expect(named("topic://apus/reply/1", unprefixed: .queue) == "topic apus/reply/1")
        #expect(named("apus/reply/1", unprefixed: .queue) == "topic apus/reply/1")
        #expect(named("apus/replyx", unprefixed: .queue) == "queue apus/replyx")
    }

    @Test func unprefixedNames() {
        #expect(named("a/b", unprefixed: .queue) == "queue a/b")
        #expect(named("topic://a", unprefixed: .queue) == "topic a")
        #expect(named("/topic/a.b", unprefixed: .queue) == "topic a/b")
        #expect(named("$share/g/a", .source, unprefixed: .queue) == "filter $share/g/a")
        #expect(named("$local/a", .source, unprefixed: .queue) == "filter $local/a")
    }

    @Test func groups() {
        #expect(named("a/>", .source, group: "workers") == "filter $share/workers/a/>")
        #expect(named("$local/a/+", .source, group: "w") == "filter $local/$share/w/a/+")
        #expect(named("a", .source, group: "c/w+#%") == "filter $share/c%2Fw%2B%23%25/a")
        #expect(named("/topic/*", .source, group: "w") == "filter $share/w/+")
        #expect(named("$share/x/a", .source, group: "w") == "amqp:invalid-field")
        #expect(named("a", .source, group: "") == "amqp:invalid-field")
    }

    @Test func limits() {
        var limits = Limits()
        limits.maxTopicBytes = 8
        limits.maxTopicLevels = 3
        #expect(named("topic://12345678", limits: limits) == "topic 12345678")
        #expect(named("topic://123456789", limits: limits) == "amqp:invalid-field")
        #expect(named("123456789", .source, limits: limits) == "amqp:invalid-field")
        #expect(named("1/2/3", limits: limits) == "topic 1/2/3")
        #expect(named("1/2/3/4", limits: limits) == "amqp:invalid-field")
        #expect(named("1/2/3/4", .source, limits: limits) == "amqp:invalid-field")
        #expect(named("/topic/1.2.3", limits: limits) == "topic 1/2/3")
        #expect(named("/topic/1.2.3.4", limits: limits) == "amqp:invalid-field")
    }

    @Test func errorsNameTheAddressAndWhatIsRight() throws {
        func text(_ address: String, _ role: Address.Role) -> String {
            do throws(AMQPError) {
                _ = try Address(address, role: role, AMQPSettings(), limits: Limits())
                return ""
            } catch { return error.text }
        }
        #expect(
            text("a/+/>", .source)
                == "the address 'a/+/>' mixes two grammars; a filter has + and # as in MQTT, or * and >")
        #expect(text("a/#", .target).hasPrefix("the address 'a/#' has a wildcard; only receivers"))
        #expect(text("/exchanges/logs/a", .target) == "there is no exchange 'logs'; topics are in amq.topic")
        let long = text(String(repeating: "#", count: 100_000), .target)
        #expect(long.utf8.count < 300 && long.contains("…"))
    }

    @Test func wildcardsOfAFilter() throws {
        for (text, expected) in [("a/b", false), ("a/+", true), ("a/b*", true), ("a/*b", false), ("$share/g/a", false)]
        {
            guard case .filter(let filter) = try Address(text, role: .source, AMQPSettings(), limits: Limits()) else {
                Issue.record("\(text) is no filter")
                continue
            }
            #expect(filter.hasWildcards == expected, "\(text)")
        }
    }

    @Test("The quick look at a message's `to` agrees with the thorough one, or leaves it to it")
    func quickLook() {
        let quick = [
            "a/b", "topic://a/b", "ToPiC://a", "temp-topic://a", "amqp://host/a/b", "amqps://h/topic://a", "/a", "a*b",
            "apus/reply/x", "t", "q", "temp", "ünï",
        ]
        let thorough = [
            "", "topic://", "amqp://h", "amqp://", "queue://a", "temp-queue://a", "/topic/a", "/queues/q", "/queue/q",
            "/exchanges/amq.topic/a", "/exchange/x/a", "/amq/queue/q", "$cbs", "$share/g/a", "a/*", "a*/b", "a/>",
            "a/+",
            "#",
        ]
        for unprefixed in AMQPSettings.Unprefixed.allCases {
            var settings = AMQPSettings()
            settings.unprefixedAddress = unprefixed
            for text in quick + thorough {
                let found = Array(text.utf8).withUnsafeBytes { bytes in
                    Address.topic(ofTo: bytes, settings).map { String(decoding: $0, as: UTF8.self) }
                }
                let isPlain = !text.contains("://") || text.hasPrefix("amqp://host")
                let isQuick = unprefixed == .topic || !isPlain || text.hasPrefix("apus/")
                #expect((found != nil) == (quick.contains(text) && isQuick), "\(text)")
                if let found { #expect(named(text, .message, unprefixed: unprefixed) == "topic \(found)", "\(text)") }
            }
        }
    }
}
