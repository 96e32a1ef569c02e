import AMQP
import Core
import Foundation
import Logging
import Mesh
import Node
import Security
import Testing

func load(
    _ yaml: String, environment: [String: String] = [:], flags: [ConfigurationFlag] = []
) throws -> Configuration {
    try Configuration.load(yaml: yaml, file: "apus.yaml", environment: environment, flags: flags)
}

func problems(
    _ yaml: String, environment: [String: String] = [:], flags: [ConfigurationFlag] = []
) -> [String] {
    do {
        let configuration = try load(yaml, environment: environment, flags: flags)
        Issue.record("accepted: \(configuration)")
        return []
    } catch let error as ConfigurationError {
        return error.problems.map(\.description)
    } catch {
        Issue.record(error)
        return []
    }
}

@Suite("Configuration")
struct ConfigurationTests {
    @Test(
        "Nothing configured: MQTT on loopback",
        arguments: ["", "# only a comment\n", "{}", "---\n", "null", "security:\n"])
    func standard(yaml: String) throws {
        let configuration = try load(yaml)
        #expect(!configuration.name.isEmpty)
        #expect(configuration == Configuration(name: configuration.name))
        #expect(
            configuration.listeners.map(\.address.description) == [
                "127.0.0.1:1883", "127.0.0.1:8080", "127.0.0.1:5672",
            ])
        #expect(configuration.data == "./apus-data")
        #expect(configuration.security.anonymous == .loopback)
        #expect(configuration.mqtt.sysIntervalSeconds == 10 && !configuration.mqtt.tracesPayload)
        #expect(configuration.limits == Limits())
    }

    @Test("A file with everything")
    func everything() throws {
        let configuration = try load(
            """
            node: { name: frankfurt, data: /var/lib/apus, lanes: 4, drain_seconds: 3 }
            listeners:
              - { protocol: mqtt, listen: "0.0.0.0:1883", name: outside }
              - protocol: mqtt
                listen: "[::1]:1884"
              - { protocol: mqtt, listen: "localhost:1885" }
              - { protocol: mqtt, listen: unix:/run/apus.sock }
            security:
              users: ./users
              anonymous: never
              access:
                - { allow: all, topics: ["#"], groups: [ops], users: [anna, anonymous] }
                - { deny: publish, topics: ["a/${username}/+", "b/${clientid}/>"] }
            mqtt: { sys_interval: 0, trace_payload: yes }
            limits:
              { max_packet: 1MiB, max_connections: 1_000, max_publish_rate: 5, max_queued: 65536, session_expiry: 0 }
            log: { level: warning, format: json, levels: { mqtt: debug, mqtt.trace: trace } }
            """)
        #expect(configuration.name == "frankfurt")
        #expect(configuration.data == "/var/lib/apus")
        #expect(configuration.lanes == 4)
        #expect(configuration.drainSeconds == 3)
        #expect(
            configuration.listeners.map(\.address) == [
                .ipv4(host: "0.0.0.0", port: 1883), .ipv6(host: "::1", port: 1884),
                .ipv4(host: "127.0.0.1", port: 1885), .unix(path: "/run/apus.sock"),
            ])
        #expect(configuration.listeners.map(\.address.isLocal) == [false, true, true, true])
        #expect(configuration.listeners.map(\.name).prefix(2) == ["outside", "mqtt [::1]:1884"])
        #expect(configuration.security.users == "./users")
        #expect(configuration.security.anonymous == .never)
        #expect(
            configuration.security.access == [
                AccessRule(effect: .allow, action: .all, topics: ["#"], users: ["anna", "anonymous"], groups: ["ops"]),
                AccessRule(effect: .deny, action: .publish, topics: ["a/${username}/+", "b/${clientid}/>"]),
            ])
        var limits = Limits()
        limits.maxPacketBytes = 1 << 20
        limits.maxConnections = 1_000
        limits.maxPublishRate = 5
        limits.maxQueuedBytes = 65_536
        limits.sessionExpirySeconds = 0
        #expect(configuration.mqtt.sysIntervalSeconds == 0 && configuration.mqtt.tracesPayload)
        #expect(configuration.limits == limits)
        #expect(configuration.log.level == .warning)
        #expect(configuration.log.format == .json)
        #expect(configuration.log.levels == ["mqtt": .debug, "mqtt.trace": .trace])
    }

    @Test(
        "Each mistake is named with file, line, key and what is allowed",
        arguments: [
            ("nod: {}", "apus.yaml:1: nod: unknown key; did you mean 'node'? allowed: node, listeners"),
            (
                "zzzzzz: {}",
                "apus.yaml:1: zzzzzz: unknown key; allowed: node, listeners, tls, mesh, security, admin, mqtt, amqp,"
            ),
            ("node:\n  nmae: x", "apus.yaml:2: node.nmae: unknown key; did you mean 'name'?"),
            ("node: 5", "apus.yaml:1: node: expected a group of keys, found a single value"),
            ("node: [a]", "apus.yaml:1: node: expected a group of keys, found a list"),
            ("- a", "apus.yaml:1: expected a group of keys, found a list"),
            ("node: { name: \"\" }", "apus.yaml:1: node.name: must not be empty"),
            ("node: { name: \"a\\nb\" }", "apus.yaml:1: node.name: must not contain control characters"),
            ("node:\n  name:", "apus.yaml:2: node.name: has no value"),
            ("node: { name: [a] }", "apus.yaml:1: node.name: expected a single value, found a list"),
            (
                "node: { lanes: two }",
                "apus.yaml:1: node.lanes: 'two' is not allowed; expected a whole number from 0 to"
            ),
            ("node: { lanes: -1 }", "apus.yaml:1: node.lanes: '-1' is not allowed"),
            ("node: { lanes: 1.5 }", "apus.yaml:1: node.lanes: '1.5' is not allowed"),
            ("node: { lanes: 99999999999999999999 }", "apus.yaml:1: node.lanes: '99999999999999999999' is not allowed"),
            (
                "node: { drain_seconds: 1h }",
                "apus.yaml:1: node.drain_seconds: '1h' is not allowed; expected whole seconds"
            ),
            (
                "mqtt: { sys_interval: often }",
                "apus.yaml:1: mqtt.sys_interval: 'often' is not allowed; expected whole seconds from 0 to 86400"
            ),
            ("mqtt: { trace_payload: maybe }", "apus.yaml:1: mqtt.trace_payload: 'maybe' is not allowed"),
            ("listeners: {}", "apus.yaml:1: listeners: expected a list, found a group of keys"),
            ("listeners: [5]", "apus.yaml:1: listeners[0]: expected a group of keys, found a single value"),
            ("listeners:\n  - { protocol: mqtt }", "apus.yaml:2: listeners[0].listen: is missing"),
            ("listeners:\n  - { listen: \"127.0.0.1:1\" }", "apus.yaml:2: listeners[0].protocol: is missing"),
            (
                "listeners:\n  -\n    protocol: mqt\n    listen: \"127.0.0.1:1\"",
                "apus.yaml:3: listeners[0].protocol: 'mqt' is not allowed; did you mean 'mqtt'? expected mqtt"
            ),
            ("listeners: [{ protocol: mqtt, listen: 1883 }]", "apus.yaml:1: listeners[0].listen: '1883' is no address"),
            (
                "listeners: [{ protocol: mqtt, listen: \":1883\" }]",
                "apus.yaml:1: listeners[0].listen: ':1883' is no address"
            ),
            ("listeners: [{ protocol: mqtt, listen: \"h:1883\" }]", "apus.yaml:1: listeners[0].listen: 'h:1883' is no"),
            (
                "listeners: [{ protocol: mqtt, listen: \"::1:1883\" }]",
                "apus.yaml:1: listeners[0].listen: '::1:1883' is no"
            ),
            ("listeners: [{ protocol: mqtt, listen: \"127.0.0.1:65536\" }]", "apus.yaml:1: listeners[0].listen:"),
            ("listeners: [{ protocol: mqtt, listen: \"127.0.0.1:+1\" }]", "apus.yaml:1: listeners[0].listen:"),
            ("listeners: [{ protocol: mqtt, listen: \"256.0.0.1:1\" }]", "apus.yaml:1: listeners[0].listen:"),
            ("listeners: [{ protocol: mqtt, listen: \"unix:\" }]", "apus.yaml:1: listeners[0].listen: 'unix:' is no"),
            (
                "listeners:\n  - { protocol: mqtt, listen: \"[::1]:1\" }\n  - { protocol: mqtt, listen: \"[::1]:1\" }",
                "apus.yaml:3: listeners[1].listen: listeners[0] listens on [::1]:1 as well"
            ),
            (
                "security: { anonymous: always }",
                "apus.yaml:1: security.anonymous: 'always' is not allowed; expected loopback |"
            ),
            (
                "security: { access: [{ topics: [a] }] }",
                "apus.yaml:1: security.access[0]: a rule needs 'allow' or 'deny'"
            ),
            (
                "security: { access: [{ allow: all, deny: all, topics: [a] }] }",
                "apus.yaml:1: security.access[0].deny: a rule has either"
            ),
            ("security: { access: [{ allow: all }] }", "apus.yaml:1: security.access[0].topics: is missing"),
            (
                "security: { access: [{ allow: all, topics: a }] }",
                "apus.yaml:1: security.access[0].topics: expected a list"
            ),
            (
                "security: { access: [{ allow: all, topics: [] }] }",
                "apus.yaml:1: security.access[0].topics: the list must"
            ),
            (
                "security: { access: [{ allow: read, topics: [a] }] }",
                "apus.yaml:1: security.access[0].allow: 'read' is not"
            ),
            (
                "security: { access: [{ allow: all, topics: [\"${user}/a\"] }] }",
                "apus.yaml:1: security.access[0].topics: unknown variable '${user}'; allowed: ${username}, ${clientid}"
            ),
            (
                "security: { access: [{ allow: all, topics: [\"a/#/b\"] }] }",
                "apus.yaml:1: security.access[0].topics: 'a/#/b': '#' stands for all further levels"
            ),
            (
                "limits:\n  max_conections: 5",
                "apus.yaml:2: limits.max_conections: unknown key; did you mean 'max_connections'?"
            ),
            (
                "limits: { max_packet: 16MB }",
                "apus.yaml:1: limits.max_packet: '16MB' is not allowed; expected a size from 128"
            ),
            ("limits: { max_packet: 1TiB }", "apus.yaml:1: limits.max_packet: '1TiB' is not allowed"),
            ("limits: { max_packet: 9999999999999GiB }", "apus.yaml:1: limits.max_packet: '9999999999999GiB' is not"),
            ("limits: { max_packet: 0 }", "apus.yaml:1: limits.max_packet: '0' is not allowed"),
            ("limits: { max_packet: MiB }", "apus.yaml:1: limits.max_packet: 'MiB' is not allowed"),
            ("limits: { max_in_flight: 65536 }", "apus.yaml:1: limits.max_in_flight: '65536' is not allowed"),
            ("log: { level: warn }", "apus.yaml:1: log.level: 'warn' is not allowed; "),
            ("log: { levels: { mqtt: loud } }", "apus.yaml:1: log.levels.mqtt: 'loud' is not allowed"),
            (
                "log: { levels: { mqttt: debug } }",
                "apus.yaml:1: log.levels.mqttt: there is no such component; did you mean 'mqtt'? allowed: node, reactor"
            ),
            (
                "log: { levels: { node.signals: debug } }",
                "apus.yaml:1: log.levels.node.signals: there is no such component; allowed: node, reactor"
            ),
            ("log: { format: xml }", "apus.yaml:1: log.format: 'xml' is not allowed; expected auto | text | json"),
            (
                "node: { name: ${APUS_SECRET_NAME} }",
                "apus.yaml:1: not YAML: while parsing a flow mapping: did not find expected ',' or '}'; "
                    + "inside { } and [ ] a variable is written in quotes: \"${APUS_SECRET_NAME}\""
            ),
            (
                "admin: { listen: \"127.0.0.1:1883\" }",
                "apus.yaml:1: admin.listen: listeners[0] listens on 127.0.0.1:1883 as well"
            ),
            (
                "listeners: [{ protocol: mqtt, listen: \"127.0.0.1:8222\" }]",
                "apus.yaml:1: listeners[0].listen: the management interface listens on 127.0.0.1:8222; admin.listen"
            ),
            (
                "mesh: { listen: \"127.0.0.1:8222\" }\nadmin: { listen: \"127.0.0.1:8222\" }",
                "apus.yaml:2: admin.listen: the mesh listens on 127.0.0.1:8222 as well"
            ),
            (
                "bridges: [{ name: b, to: \"h:1\", topics: [{ filter: a/#/b, direction: in }] }]",
                "apus.yaml:1: bridges[0].topics[0].filter: 'a/#/b' is no topic filter: '+' and '#' stand alone"
            ),
            ("node:\n  name: ${NOT_SET}", "apus.yaml:2: the environment variable NOT_SET is not set"),
            ("node: { name: a, name: b }", "apus.yaml:1: the key 'name' stands here twice"),
            ("a: b: c", "apus.yaml:1: not YAML"),
            ("node: {}\nnode: {}", "apus.yaml:2: the key 'node' stands here twice"),
            ("node: {}\n---\nnode: {}", "apus.yaml:3: not YAML: a second document begins here"),
            ("node: { name: *a }", "apus.yaml:1: not YAML: found undefined alias"),
            ("node: &a { name: *a }", "apus.yaml:1: nested deeper than 64 levels"),
            ("node: { name: \u{1}a }", "apus.yaml: not YAML: control characters are not allowed at byte 14"),
            ("node:\n\tname: x", "apus.yaml:2: not YAML"),
            ("? [a]\n: b", "apus.yaml:1: a key must be a single word"),
        ])
    func mistake(yaml: String, expected: String) {
        let found = problems(yaml)
        #expect(found.contains { $0.hasPrefix(expected) }, "\(found)")
    }

    @Test("All mistakes at once")
    func allAtOnce() {
        let found = problems(
            """
            node: { lanes: x }
            listners: []
            limits:
              max_packet: big
              max_connections: 0
            log: { level: loud }
            """, environment: ["APUS_NODE_LANE": "1"])
        #expect(found.count == 6, "\(found)")
    }

    @Test("One mistake is named once, and the second of a list entry beside the first")
    func onceEach() {
        #expect(problems("security: { access: [{ allow: all, topics: [] }] }").count == 1)
        #expect(
            problems("node: { name: \"${NOT_SET}\", lanes: \"${NOT_SET}\" }").allSatisfy { $0.contains("is not set") })
        #expect(problems("http: { webhooks: [{ name: w, url: \"http://h\", filters: [] }] }").count == 1)
        let webhook = problems("http: { webhooks: [{ name: w, url: h, filters: [a/#/b, a, b+] }] }")
        #expect(webhook.count == 3, "\(webhook)")
        #expect(webhook.contains { $0.hasPrefix("apus.yaml:1: http.webhooks[0].url: must begin with http://") })
        #expect(webhook.contains { $0.contains("'b+' is no topic filter: '+' and '#' stand alone") })
        let bridge = problems("bridges: [{ name: '-', to: \"h:1\", topics: [{ filter: b+, direction: in }] }]")
        #expect(bridge.count == 2, "\(bridge)")
    }

    @Test("Components are those that log")
    func components() throws {
        let sources = root.appending(path: "Sources")
        let walk = try #require(FileManager.default.enumerator(atPath: sources.path()))
        var found: Set<String> = []
        for name in walk.compactMap({ $0 as? String }) where name.hasSuffix(".swift") {
            let text = try String(contentsOf: sources.appending(path: name), encoding: .utf8)
            for match in text.matches(of: #/Logger\(label: "([^"]+)"/#) { found.insert(String(match.output.1)) }
        }
        for name in found { #expect(throws: Never.self, "\(name)") { try load("log: { levels: { \(name): info } }") } }
        let listed = problems("log: { levels: { x: info } }").first?.components(separatedBy: "allowed: ").last ?? ""
        #expect(Set(listed.components(separatedBy: ", ")) == found)
    }

    @Test("Flag before environment before file before default")
    func precedence() throws {
        let yaml = "node: { name: file, lanes: 1 }\nlog: { level: error }"
        #expect(try load(yaml).name == "file")
        #expect(try load(yaml, environment: ["APUS_NODE_NAME": "env"]).name == "env")
        let flagged = try load(
            yaml, environment: ["APUS_NODE_NAME": "env", "APUS_NODE_DATA": "/env"],
            flags: [.name("flag"), .logLevel("trace"), .logFormat("text")])
        #expect(flagged.name == "flag")
        #expect(flagged.data == "/env")
        #expect(flagged.lanes == 1)
        #expect(flagged.log.level == .trace)
        #expect(flagged.log.format == .text)
        // What is overridden need not be right.
        #expect(try load("node: { lanes: x }", flags: [.lanes("2")]).lanes == 2)
    }

    @Test("Every key has a variable")
    func variables() throws {
        let configuration = try load(
            "listeners: [{ protocol: mqtt, listen: \"127.0.0.1:1\" }]",
            environment: [
                "APUS_SECURITY_ANONYMOUS": "never", "APUS_LIMITS_MAX_PACKET": "64KiB", "APUS_NODE_DRAIN_SECONDS": "1",
                "APUS_LISTENERS_0_LISTEN": "127.0.0.1:2", "APUS_LISTENERS_1_LISTEN": "127.0.0.1:3",
                "APUS_LISTENERS_1_PROTOCOL": "mqtt", "APUS_LOG_LEVELS_MQTT_TRACE": "debug",
                "APUS_SECURITY_ACCESS_0_ALLOW": "all", "APUS_SECURITY_ACCESS_0_TOPICS": "a/#,b", "PATH": "/bin",
                "APUS_CONFIG": "elsewhere",
            ])
        #expect(configuration.security.anonymous == .never)
        #expect(configuration.limits.maxPacketBytes == 65_536)
        #expect(configuration.drainSeconds == 1)
        #expect(configuration.listeners.map(\.address.description) == ["127.0.0.1:2", "127.0.0.1:3"])
        #expect(configuration.log.levels == ["mqtt.trace": .debug])
        #expect(configuration.security.access.map(\.topics) == [["a/#", "b"]])
    }

    @Test(
        "Wrong variables and flags are named",
        arguments: [
            ("APUS_NODE_LANES", "x", "APUS_NODE_LANES: node.lanes: 'x' is not allowed"),
            (
                "APUS_NODE_LANE", "1",
                "APUS_NODE_LANE: this environment variable names no key; did you mean APUS_NODE_LANES?"
            ),
            ("APUS_WHATEVER_ELSE", "1", "APUS_WHATEVER_ELSE: this environment variable names no key"),
            ("APUS_NODE", "1", "APUS_NODE: this environment variable names no key"),
            ("APUS_LISTENERS_X_LISTEN", "1", "APUS_LISTENERS_X_LISTEN: this environment variable names no key"),
            ("APUS_LISTENERS_7_LISTEN", "1", "APUS_LISTENERS_7_LISTEN: there is no entry 6 yet"),
            ("APUS_LOG_LEVELS_", "info", "APUS_LOG_LEVELS_: this environment variable names no key"),
        ])
    func wrongVariable(name: String, value: String, expected: String) {
        let found = problems("", environment: [name: value])
        #expect(found.count == 1)
        #expect(found.first?.hasPrefix(expected) == true, "\(found)")
    }

    @Test("--mqtt moves the first MQTT listener, or adds one")
    func mqttFlag() throws {
        let flag = ConfigurationFlag.mqtt("127.0.0.1:0")
        let standard = ["127.0.0.1:0", "127.0.0.1:8080", "127.0.0.1:5672"]
        #expect(try load("", flags: [flag]).listeners.map(\.address.description) == standard)
        #expect(try load("listeners: []", flags: [flag]).listeners.map(\.address.description) == ["127.0.0.1:0"])
        let two = """
            listeners:
              - { protocol: mqtt, listen: "127.0.0.1:1", name: a }
              - { protocol: mqtt, listen: "127.0.0.1:2" }
            """
        let moved = try load(two, flags: [flag]).listeners
        #expect(moved.map(\.address.description) == ["127.0.0.1:0", "127.0.0.1:2"])
        #expect(moved.first?.name == "a")
        #expect(problems("", flags: [.mqtt("x")]).first?.hasPrefix("--mqtt: listeners[0].listen: 'x'") == true)
        #expect(try load("listeners:", flags: [flag]).listeners.map(\.address.description) == standard)
        let onlyHTTP = try load("", flags: [.http("127.0.0.1:0")]).listeners
        #expect(onlyHTTP.map(\.address.description) == ["127.0.0.1:1883", "127.0.0.1:0", "127.0.0.1:5672"])
        #expect(try load("", flags: [.http("off")]).listeners.map(\.protocolName) == [.mqtt, .amqp])
        let onlyAMQP = try load("", flags: [.amqp("[::1]:5673"), .http("off")]).listeners
        #expect(onlyAMQP.map(\.address.description) == ["127.0.0.1:1883", "[::1]:5673"])
        #expect(try load("", flags: [.amqp("off")]).listeners.map(\.protocolName) == [.mqtt, .http])
        #expect(try load(two, flags: [.amqp("127.0.0.1:0")]).listeners.map(\.protocolName) == [.mqtt, .mqtt, .amqp])
    }

    @Test("Upper-case variables in values come from the environment, rule variables do not")
    func substitution() throws {
        let configuration = try load(
            """
            node: { name: "n-${SITE}-${APUS_SITE}", data: "$HOME/${SITE" }
            security: { access: [{ allow: all, topics: ["${SITE}/${username}"] }] }
            """, environment: ["SITE": "x: [y", "APUS_SITE": "s"])
        #expect(configuration.name == "n-x: [y-s")
        #expect(configuration.data == "$HOME/${SITE")
        #expect(configuration.security.access.first?.topics == ["x: [y/${username}"])
    }

    @Test("What a reload cannot change is named")
    func reload() throws {
        let old = try load("node: { name: a }")
        let new = try load(
            """
            node: { name: b, drain_seconds: 1 }
            security: { anonymous: never }
            amqp: { unprefixed_address: queue, require_sasl: true, remote_plain: false, idle_timeout: 0 }
            limits: { max_sessions: 5 }
            log: { level: debug, format: json }
            """)
        #expect(
            new.keysNeedingRestart(since: old) == [
                "node.name", "amqp.unprefixed_address", "amqp.require_sasl", "amqp.remote_plain", "amqp.idle_timeout",
                "limits.max_sessions", "log.format",
            ])
        #expect(old.keysNeedingRestart(since: old).isEmpty)
    }

    @Test("AMQP: what addresses are, who may come without SASL, time-outs and limits")
    func amqp() throws {
        #expect(try load("").amqp == AMQPSettings())
        let set = try load(
            """
            amqp: { unprefixed_address: queue, require_sasl: true, remote_plain: false, idle_timeout: 5 }
            limits:
              max_amqp_frame: 512
              max_amqp_sessions: 1
              max_amqp_links: 2
              amqp_credit: 3
              max_unsettled_deliveries: 4
            """)
        #expect(set.amqp.unprefixedAddress == .queue)
        #expect(!set.amqp.allowsNoSASL && !set.amqp.allowsRemotePlain)
        #expect(set.amqp.idleMilliseconds == 5_000)
        let limits = set.limits
        #expect(limits.maxAMQPFrameBytes == 512 && limits.maxAMQPSessions == 1 && limits.maxAMQPLinks == 2)
        #expect(limits.amqpCredit == 3 && limits.maxUnsettledDeliveries == 4)
        let variables = ["APUS_AMQP_UNPREFIXED_ADDRESS": "queue", "APUS_LIMITS_AMQP_CREDIT": "9"]
        let varied = try load("", environment: variables)
        #expect(varied.amqp.unprefixedAddress == .queue && varied.limits.amqpCredit == 9)
    }

    @Test(
        "Mistakes about AMQP are named",
        arguments: [
            (
                "amqp: { unprefixed_address: queu }",
                "apus.yaml:1: amqp.unprefixed_address: 'queu' is not allowed; did you mean 'queue'? expected topic |"
            ),
            (
                "amqp:\n  require_sasl: maybe",
                "apus.yaml:2: amqp.require_sasl: 'maybe' is not allowed; expected false | true"
            ),
            (
                "amqp: { idle_timeout: -1 }",
                "apus.yaml:1: amqp.idle_timeout: '-1' is not allowed; expected whole seconds"
            ),
            ("amqp: { idle: 5 }", "apus.yaml:1: amqp.idle: unknown key; allowed: unprefixed_address, require_sasl"),
            ("amqp: 5672", "apus.yaml:1: amqp: expected a group of keys"),
            ("limits: { max_amqp_frame: 511 }", "apus.yaml:1: limits.max_amqp_frame: '511' is not allowed"),
            ("limits: { amqp_credit: 0 }", "apus.yaml:1: limits.amqp_credit: '0' is not allowed"),
        ])
    func amqpMistake(yaml: String, expected: String) {
        let found = problems(yaml)
        #expect(found.count == 1 && found[0].hasPrefix(expected), "\(found)")
    }

    @Test("The management interface: on loopback, elsewhere, off")
    func admin() throws {
        #expect(try load("").admin.address?.description == "127.0.0.1:8222")
        #expect(try load("admin: { listen: off }").admin.address == nil)
        #expect(try load("", flags: [.admin("off")]).admin.address == nil)
        #expect(try load("", environment: ["APUS_ADMIN_LISTEN": "unix:/a"]).admin.address == .unix(path: "/a"))
        #expect(try load("", environment: ["APUS_ADMIN_PASSWORD": "for the commands"]).admin == AdminSettings())
        let named = try load("security: { users: u }\nadmin: { listen: \"0.0.0.0:1\", users: [anna, bert] }").admin
        #expect(named.address == .ipv4(host: "0.0.0.0", port: 1))
        #expect(named.users == ["anna", "bert"])
        #expect(named != AdminSettings())
        for (yaml, problem) in [
            ("admin: { listen: on }", "apus.yaml:1: admin.listen: 'on' is no address to listen on"),
            ("admin: { listen: \"0.0.0.0:1\" }", "apus.yaml:1: admin.listen: '0.0.0.0:1' can be reached from other"),
            ("admin: { users: [a] }", "apus.yaml:1: admin.users: needs security.users"),
            ("admin: { users: [] }", "apus.yaml:1: admin.users: the list must not be empty"),
        ] {
            let found = problems(yaml)
            #expect(found.count == 1 && found.first?.hasPrefix(problem) == true, "\(found)")
        }
        let other = try load("security: { users: u }\nadmin: { listen: off, users: [a] }")
        #expect(
            try other.keysNeedingRestart(since: load("node: { name: \(other.name) }")) == [
                "admin.listen", "admin.users",
            ])
    }

    @Test("Files that cannot be read are named")
    func unreadable() throws {
        for (path, word) in [
            ("/nonexistent/apus.yaml", "cannot be opened"), ("/tmp", "cannot be read"), ("/dev/zero", "1 MiB"),
        ] {
            let error = #expect(throws: ConfigurationError.self) {
                try Configuration.load(file: path, environment: [:])
            }
            #expect(error?.description.hasPrefix("\(path): ") == true)
            #expect(error?.description.contains(word) == true)
        }
    }
}
