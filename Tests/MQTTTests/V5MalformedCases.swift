import Testing

/// What a client of MQTT 5 may do wrong, as a table: bytes, and the reasons that are right (§4.13, and where the
/// specification leaves open whether something is malformed or a protocol error, both).
enum V5Malformed {
    struct Case: CustomTestStringConvertible, Sendable {
        let name: String
        let bytes: [UInt8]
        let reasons: Set<UInt8>
        var testDescription: String { name }

        init(_ name: String, _ bytes: [UInt8], _ reasons: UInt8...) {
            self.name = name
            self.bytes = bytes
            self.reasons = Set(reasons)
        }
    }

    // MARK: Frames with any properties

    /// Where a client sends properties.
    static let places: [Place5] = [
        .connect, .will, .publish, .puback, .pubrec, .pubrel, .pubcomp, .subscribe, .unsubscribe, .disconnect,
        .auth,
    ]

    /// A good packet around a property block, which may be anything.
    static func packet(_ place: Place5, _ block: [UInt8]) -> [UInt8] {
        let connect = Frame.text("MQTT") + [5]
        return switch place {
        case .connect: Frame.packet(0x10, connect + [2, 0, 0] + block + Frame.text("c"))
        case .will:
            Frame.packet(
                0x10, connect + [6, 0, 0, 0] + Frame.text("c") + block + Frame.text("will") + Frame.text("gone"))
        case .publish: Frame.packet(0x32, Frame.text("t") + [0, 1] + block)
        case .puback: Frame.packet(0x40, [0, 1, 0] + block)
        case .pubrec: Frame.packet(0x50, [0, 1, 0] + block)
        case .pubrel: Frame.packet(0x62, [0, 1, 0] + block)
        case .pubcomp: Frame.packet(0x70, [0, 1, 0] + block)
        case .subscribe: Frame.packet(0x82, [0, 1] + block + Frame.text("t") + [0])
        case .unsubscribe: Frame.packet(0xA2, [0, 1] + block + Frame.text("t"))
        case .disconnect: Frame.packet(0xE0, [0] + block)
        case .auth: Frame.packet(0xF0, [0x18] + block)
        case .connack, .suback, .unsuback: []
        }
    }

    private static func each(_ make: (Place5) -> [Case]) -> [Case] { places.flatMap(make) }

    // MARK: Properties

    /// Every property where it does not belong, and identifiers that are none (§2.2.2.2).
    static let misplaced: [Case] = each { place in
        (UInt8(0)...127).compactMap { id in
            let rule = Property5.rules[id]
            guard rule?.places.contains(place) != true else { return nil }
            return Case(
                "\(rule?.name ?? "property \(id)") in \(place)",
                packet(place, Property5.block([rule == nil ? .init(id, .byte(0)) : .sample(id)])), 0x81)
        }
    }

    /// Every property twice that may be there once. A subscription identifier has no business in a client's PUBLISH.
    static let doubled: [Case] = each { place in
        Property5.rules.keys.sorted().filter { id in
            // A Server Reference is a server's alone, though DISCONNECT may have one.
            ![28, 38].contains(id) && Property5.rules[id]?.places.contains(place) == true
        }.map { id in
            Case(
                "\(Property5.rules[id]?.name ?? "") twice in \(place)",
                packet(place, Property5.block([.sample(id), .user("k", "v"), .sample(id)])), 0x82)
        }
    }

    /// Property lengths that lie.
    static let lengths: [Case] = each { place in
        let user = Property5.user("k", "v").bytes
        return [
            Case("five-byte property length in \(place)", packet(place, [0x80, 0x80, 0x80, 0x80, 1] + user), 0x81),
            Case("property length of 0 in two bytes in \(place)", packet(place, [0x80, 0]), 0x81),
            Case("property length in too many bytes in \(place)", packet(place, [0x87, 0x80, 0] + user), 0x81),
            Case("property length of 256 MB in \(place)", packet(place, [0xFF, 0xFF, 0xFF, 0x7F] + user), 0x81),
            Case("property length of 100 in \(place)", packet(place, [100] + user), 0x81),
            Case("property length that cuts a property in \(place)", packet(place, [5] + user), 0x81),
            Case("property identifier alone in \(place)", packet(place, [1, 38]), 0x81),
            Case("property identifier of two bytes in \(place)", packet(place, [3, 0x80, 1, 0]), 0x81),
            Case("user property with a long key in \(place)", packet(place, [5, 38, 0xFF, 0xFF, 0x61, 0x61]), 0x81),
            Case("user property without value in \(place)", packet(place, [4, 38, 0, 1, 0x6B]), 0x81),
        ]
    }

    /// Every cut of every property, with the length that fits.
    static let cutProperties: [Case] = each { place in
        Property5.rules.keys.sorted().filter { Property5.rules[$0]?.places.contains(place) == true }.flatMap { id in
            let bytes = Property5.sample(id).bytes
            return (1..<bytes.count).map { count in
                Case(
                    "\(Property5.rules[id]?.name ?? "") of \(count) bytes in \(place)",
                    packet(place, [UInt8(count)] + bytes.prefix(count)), 0x81)
            }
        }
    }

    static let values: [Case] =
        (UInt8(2)...4).flatMap { value in
            [
                Case("payload format \(value)", packet(.publish, [2, 1, value]), 0x81, 0x82),
                Case("payload format \(value) of a will", packet(.will, [2, 1, value]), 0x81, 0x82),
                Case("request problem information \(value)", packet(.connect, [2, 23, value]), 0x82),
                Case("request response information \(value)", packet(.connect, [2, 25, value]), 0x82),
            ]
        } + [
            Case("receive maximum 0", packet(.connect, [3, 33, 0, 0]), 0x82),
            Case("maximum packet size 0", packet(.connect, [5, 39, 0, 0, 0, 0]), 0x82),
            Case("topic alias 0", packet(.publish, [3, 35, 0, 0]), 0x94),
            Case("topic alias 65", packet(.publish, [3, 35, 0, 65]), 0x94),
            Case("topic alias 65,535", packet(.publish, [3, 35, 0xFF, 0xFF]), 0x94),
            Case("subscription identifier 0", packet(.subscribe, [2, 11, 0]), 0x82),
            Case(
                "subscription identifier of five bytes", packet(.subscribe, [6, 11, 0x80, 0x80, 0x80, 0x80, 1]), 0x81),
            Case("subscription identifier in too many bytes", packet(.subscribe, [3, 11, 0x81, 0]), 0x81),
            Case("subscription identifier in PUBLISH", packet(.publish, [2, 11, 1]), 0x82),
            Case("response topic with #", packet(.publish, Property5.block([.responseTopic("a/#")])), 0x82),
            Case("response topic with +", packet(.publish, Property5.block([.responseTopic("+")])), 0x82),
            Case("response topic of a will with +", packet(.will, Property5.block([.responseTopic("+/a")])), 0x82),
            Case("session expiry after none", packet(.disconnect, [5, 17, 0, 0, 0, 1]), 0x82),
            Case("authentication data alone", packet(.connect, Property5.block([.authenticationData([1])])), 0x82),
            Case("authentication method", packet(.connect, Property5.block([.authenticationMethod("m")])), 0x8C),
        ]

    // MARK: Text

    /// Ill-formed text in every field that is text (§1.5.4).
    static let text: [Case] = CodecTests.badText.flatMap { bad in
        let string = Frame.binary(bad)
        let strings: [(Place5, UInt8, String)] = [
            (.publish, 3, "content type"), (.publish, 8, "response topic"), (.will, 3, "content type"),
            (.will, 8, "response topic"), (.connect, 21, "authentication method"), (.puback, 31, "reason string"),
            (.pubrec, 31, "reason string"), (.pubrel, 31, "reason string"), (.pubcomp, 31, "reason string"),
            (.disconnect, 31, "reason string"),
        ]
        var cases = strings.map { place, id, name in
            Case("\(name) \(bad) in \(place)", packet(place, Property5.block([.init(id, .raw(string))])), 0x81)
        }
        for place in places {
            let key = Property5.block([.init(38, .raw(string + Frame.text("v")))])
            let value = Property5.block([.init(38, .raw(Frame.text("k") + string))])
            cases.append(Case("user key \(bad) in \(place)", packet(place, key), 0x81))
            cases.append(Case("user value \(bad) in \(place)", packet(place, value), 0x81))
        }
        let connect = Frame.text("MQTT") + [5]
        cases += [
            Case("topic \(bad)", Frame.packet(0x30, string + [0]), 0x81),
            Case("topic \(bad) at QoS 1", Frame.packet(0x32, string + [0, 1, 0]), 0x81),
            Case("filter \(bad)", Frame.packet(0x82, [0, 1, 0] + string + [0]), 0x81),
            Case("filter \(bad) of UNSUBSCRIBE", Frame.packet(0xA2, [0, 1, 0] + string), 0x81),
            Case("client id \(bad)", Frame.packet(0x10, connect + [2, 0, 0, 0] + string), 0x81),
            Case(
                "will topic \(bad)",
                Frame.packet(0x10, connect + [6, 0, 0, 0] + Frame.text("c") + [0] + string + Frame.text("p")), 0x81),
            Case("user \(bad)", Frame.packet(0x10, connect + [0x82, 0, 0, 0] + Frame.text("c") + string), 0x81),
        ]
        return cases
    }

    // MARK: Packets

    /// A good packet of each kind that a client sends after CONNECT, at its longest.
    static let examples: [(name: String, bytes: [UInt8], goodLengths: Set<Int>)] = [
        ("PUBLISH", Frame5.publish("ab", [], [.user("k", "v")]), []),
        ("PUBLISH at QoS 1", Frame5.publish("ab", [], qos: 1, id: 1, [.user("k", "v")]), []),
        ("PUBLISH at QoS 2", Frame5.publish("ab", [], qos: 2, id: 1, [.user("k", "v")]), []),
        ("PUBACK", Frame5.puback(1, 0, [.user("k", "v")]), [2, 3]),
        ("PUBREC", Frame5.pubrec(1, 0, [.user("k", "v")]), [2, 3]),
        ("PUBREL", Frame5.pubrel(1, 0, [.user("k", "v")]), [2, 3]),
        ("PUBCOMP", Frame5.pubcomp(1, 0, [.user("k", "v")]), [2, 3]),
        ("SUBSCRIBE", Frame5.subscribe(1, [.init("ab")], [.subscriptionID(1)]), []),
        ("UNSUBSCRIBE", Frame5.unsubscribe(1, ["ab"], [.user("k", "v")]), []),
        ("DISCONNECT", Frame5.disconnect(0, [.user("k", "v")]), [0, 1]),
    ]

    /// Every packet cut at every byte, with the remaining length that fits.
    static let truncated: [Case] = examples.flatMap { example in
        let body = Array(example.bytes.dropFirst(2))
        return (0..<body.count).filter { !example.goodLengths.contains($0) }.map { count in
            let cut = Frame.packet(example.bytes[0], Array(body.prefix(count)))
            // Without a filter it is complete, but wrong (§3.8.3, §3.10.3).
            let isEmptyList =
                example.bytes[0] == 0x82 && count == 5 || example.bytes[0] == 0xA2 && count == 10
            return isEmptyList
                ? Case("\(example.name) without a filter", cut, 0x82)
                : Case("\(example.name) of \(count) bytes", cut, 0x81)
        }
    }

    static let truncatedConnect: [Case] = {
        let whole = Frame5.connect(
            "id", properties: [.user("k", "v")], will: .init(topic: "w", properties: [.willDelay(1)]), user: "u",
            password: "p")
        let body = Array(whole.dropFirst(2))
        // Nobody who has not said the level can be told anything.
        return (0..<body.count).map { count in
            let cut = Frame.packet(0x10, Array(body.prefix(count)))
            return count < 7 ? Case("CONNECT of \(count) bytes", cut) : Case("CONNECT of \(count) bytes", cut, 0x81)
        }
    }()

    /// Something behind the end of a packet.
    static let trailing: [Case] =
        examples.filter { !$0.name.hasPrefix("PUBLISH") }.map {
            Case("\($0.name) with more", Frame.packet($0.bytes[0], $0.bytes.dropFirst(2) + [0]), 0x81)
        } + [
            Case("CONNECT with more", Frame.packet(0x10, Frame5.connect("c").dropFirst(2) + [0]), 0x81),
            Case("PINGREQ with a body", [0xC0, 1, 0], 0x81),
        ]

    /// All flags but the right ones (§2.1.3).
    static let flags: [Case] = {
        let rest: [(UInt8, UInt8, [UInt8])] = examples.filter { !$0.name.hasPrefix("PUBLISH") }.map {
            ($0.bytes[0] & 0xF0, $0.bytes[0] & 0x0F, Array($0.bytes.dropFirst()))
        }
        let others: [(UInt8, UInt8, [UInt8])] = [(0xC0, 0, [0]), (0xF0, 0, [0])]
        var cases = (rest + others).flatMap { type, right, tail in
            (UInt8(0)...15).filter { $0 != right }.map {
                Case("type \(type >> 4) with flags \($0)", [type | $0] + tail, 0x81)
            }
        }
        for first: UInt8 in [0x36, 0x37, 0x3E, 0x3F] {
            cases.append(Case("PUBLISH \(first)", Frame.packet(first, Frame.text("t") + [0, 1, 0]), 0x81))
        }
        for first: UInt8 in [0x38, 0x39] {
            cases.append(Case("PUBLISH \(first)", Frame.packet(first, Frame.text("t") + [0]), 0x81))
        }
        return cases
    }()

    /// Packets that only a server sends, a type that is none, and a second CONNECT.
    static let notAClients: [Case] = [
        Case("CONNACK", [0x20, 3, 0, 0, 0], 0x82), Case("SUBACK", [0x90, 4, 0, 1, 0, 0], 0x82),
        Case("UNSUBACK", [0xB0, 4, 0, 1, 0, 0], 0x82), Case("PINGRESP", [0xD0, 0], 0x82),
        Case("AUTH", [0xF0, 0], 0x82), Case("AUTH with a method", packet(.auth, Property5.block([.sample(21)])), 0x82),
        Case("CONNECT", Frame5.connect("c"), 0x82), Case("CONNECT of 3.1.1", Frame.connect("c"), 0x82),
        Case("type 0", [0, 0], 0x81), Case("type 0 with flags", [0x0F, 0], 0x81),
    ]

    /// Remaining lengths of five bytes, of too many bytes, and of 256 MB, for every type.
    static let remaining: [Case] =
        [0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2, 0xC0, 0xE0].flatMap {
            (first: UInt8) in
            [
                Case("five-byte length of \(first)", [first, 0x80, 0x80, 0x80, 0x80, 1], 0x81),
                Case("five-byte length of \(first), all ones", [first, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], 0x81),
                Case("256 MB of \(first)", [first, 0xFF, 0xFF, 0xFF, 0x7F], 0x95, 0x81),
            ]
        }
        + examples.map {
            Case(
                "\($0.name) with its length in too many bytes",
                [$0.bytes[0], $0.bytes[1] | 0x80, 0] + $0.bytes.dropFirst(2), 0x81)
        } + [Case("PINGREQ with its length in two bytes", [0xC0, 0x80, 0], 0x81)]

    static let identifiers: [Case] = [
        Case("PUBLISH at QoS 1 with identifier 0", Frame5.publish("t", "x", qos: 1, id: 0), 0x81, 0x82),
        Case("PUBLISH at QoS 2 with identifier 0", Frame5.publish("t", "x", qos: 2, id: 0), 0x81, 0x82),
        Case("PUBACK with identifier 0", Frame5.puback(0), 0x81, 0x82),
        Case("PUBREC with identifier 0", Frame5.pubrec(0), 0x81, 0x82),
        Case("PUBREL with identifier 0", Frame5.pubrel(0), 0x81, 0x82),
        Case("PUBCOMP with identifier 0", Frame5.pubcomp(0), 0x81, 0x82),
        Case("SUBSCRIBE with identifier 0", Frame5.subscribe(0, [.init("a")]), 0x81, 0x82),
        Case("UNSUBSCRIBE with identifier 0", Frame5.unsubscribe(0, ["a"]), 0x81, 0x82),
    ]

    // MARK: Topics and filters

    static let topics: [Case] = [
        Case("no topic", Frame5.publish("", "x"), 0x82),
        Case("no topic at QoS 2", Frame5.publish("", "x", qos: 2, id: 1), 0x82),
        Case("topic #", Frame5.publish("#", "x"), 0x90), Case("topic +", Frame5.publish("+", "x"), 0x90),
        Case("topic a/#", Frame5.publish("a/#", "x", qos: 1, id: 1), 0x90),
        Case("topic a+", Frame5.publish("a+", "x", qos: 2, id: 1), 0x90),
        Case("topic of 129 levels", Frame5.publish(String(repeating: "/", count: 128), "x"), 0x90),
        Case("topic of 65,536 levels", Frame5.publish(String(repeating: "/", count: 65_535), "x"), 0x90),
        Case("topic longer than its packet", [0x30, 5, 0, 4, 0x61, 0x62, 0x63], 0x81),
        Case("filter longer than its packet", Frame.packet(0x82, [0, 1, 0, 0, 9, 0x61, 0]), 0x81),
        Case("filter that is good and then half of one", Frame.packet(0x82, [0, 1, 0, 0, 1, 0x61, 0, 0, 1]), 0x81),
        Case("QoS 3", Frame5.subscribe(1, [.init("a"), .init("a", qos: 3)]), 0x82),
        Case("retain handling 3", Frame5.subscribe(1, [.init("a", retainHandling: 3)]), 0x82),
        Case("reserved option", Frame5.subscribe(1, [.init("a", retainHandling: 4)]), 0x81),
        Case("no local of a shared subscription", Frame5.subscribe(1, [.init("$share/g/a", noLocal: true)]), 0x82),
    ]

    // MARK: Reason codes

    /// Every reason code that the packet does not have (§2.4).
    static let reasons: [Case] = {
        let publish: Set<UInt8> = [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
        let table: [(String, UInt8, [UInt8], Set<UInt8>)] = [
            ("PUBACK", 0x40, [0, 1], publish), ("PUBREC", 0x50, [0, 1], publish), ("PUBREL", 0x62, [0, 1], [0, 0x92]),
            ("PUBCOMP", 0x70, [0, 1], [0, 0x92]), ("DISCONNECT", 0xE0, [], Set(V5DisconnectTests.clientReasons)),
        ]
        return table.flatMap { name, first, start, good in
            (UInt8(0)...255).filter { !good.contains($0) }.map {
                Case("\(name) with reason \($0)", Frame.packet(first, start + [$0]), 0x81, 0x82)
            }
        }
    }()

    // MARK: CONNECT

    private static func connect(_ flags: UInt8, _ payload: [UInt8]) -> [UInt8] {
        Frame.packet(0x10, Frame.text("MQTT") + [5, flags, 0, 0, 0] + payload)
    }

    static let connects: [Case] = {
        let id = Frame.text("c")
        let will = [0] + Frame.text("w") + Frame.text("p")
        return [
            Case("reserved flag", connect(3, id), 0x81),
            Case("will QoS 1 without will", connect(0x0A, id), 0x81),
            Case("will QoS 2 without will", connect(0x12, id), 0x81),
            Case("will retain without will", connect(0x22, id), 0x81),
            Case("will QoS 3", connect(0x1E, id + will), 0x81),
            Case("will flag without will", connect(6, id), 0x81),
            Case("will without flag", connect(2, id + will), 0x81),
            Case("user flag without user", connect(0x82, id), 0x81),
            Case("user without flag", connect(2, id + Frame.text("u")), 0x81),
            Case("password flag without password", connect(0x42, id), 0x81),
            Case("password without flag", connect(0x82, id + Frame.text("u") + Frame.text("p")), 0x81),
            Case("will without a topic", connect(6, id + [0] + Frame.text("") + Frame.text("p")), 0x81, 0x82, 0x90),
            Case("will to #", connect(6, id + [0] + Frame.text("#") + Frame.text("p")), 0x90),
            Case(
                "will to 129 levels", Frame5.connect("c", will: .init(topic: .init(repeating: "/", count: 128))), 0x90),
            Case("client id longer than the packet", connect(2, [0xFF, 0xFF, 0x61]), 0x81),
            Case("flags of CONNECT", [0x11] + Frame5.connect("c").dropFirst()),
            Case("256 MB", [0x10, 0xFF, 0xFF, 0xFF, 0x7F]),
            Case("five-byte length", [0x10, 0x80, 0x80, 0x80, 0x80, 1]),
            Case("name of another protocol", Frame.packet(0x10, Frame.text("AMQP") + [5, 2, 0, 0, 0] + id)),
            Case("name in small letters", Frame.packet(0x10, Frame.text("mqtt") + [5, 2, 0, 0, 0] + id)),
        ]
    }()
}
