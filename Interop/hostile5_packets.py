"""The packets of hostile5.py: malformed ones with the reasons that MQTT 5 has for them, filters that are none, and
large ones that are all right."""

import itertools

import wire
from node import packet, text

MALFORMED, PROTOCOL_ERROR, TOPIC_INVALID, ALIAS_INVALID, QUOTA = 0x81, 0x82, 0x90, 0x94, 0x97

# Text that is none: U+0000, a surrogate, an overlong slash, a lone continuation byte, a character cut short.
BAD_TEXTS = [b"a\0b", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xc0\xaf", b"\x80", b"\xe2\x82", b"\xf4\x90\x80\x80"]


def raw_text(raw):
    return len(raw).to_bytes(2, "big") + raw


def malformed_packets(version):
    """What ends a connection: a name, the packet, the reasons that fit."""
    none = wire.properties(version)
    found = [
        ("CONNACK", packet(0x20, b"\0\0" + none), [PROTOCOL_ERROR]),
        ("SUBACK", packet(0x90, b"\0\1" + none + b"\0"), [PROTOCOL_ERROR]),
        ("UNSUBACK", packet(0xB0, b"\0\1" + (none + b"\0" if none else b"")), [PROTOCOL_ERROR]),
        ("PINGRESP", packet(0xD0, b""), [PROTOCOL_ERROR]),
        ("a second CONNECT", wire.connect(version, "hostile"), [PROTOCOL_ERROR]),
        ("packet type 0", packet(0x00, b""), [MALFORMED, PROTOCOL_ERROR]),
        ("AUTH", packet(0xF0, b""), [PROTOCOL_ERROR]),
        ("QoS 3", packet(0x36, text("a") + b"\0\1" + none), [MALFORMED]),
        ("DUP at QoS 0", packet(0x38, text("a") + none), [MALFORMED, PROTOCOL_ERROR]),
        ("PINGREQ with a body", packet(0xC0, b"x"), [MALFORMED]),
        ("PUBLISH of nothing", packet(0x30, b""), [MALFORMED]),
        ("PUBREL of nothing", packet(0x62, b""), [MALFORMED]),
        ("SUBSCRIBE to nothing", packet(0x82, b"\0\1" + none), [MALFORMED, PROTOCOL_ERROR]),
        ("UNSUBSCRIBE from nothing", packet(0xA2, b"\0\1" + none), [MALFORMED, PROTOCOL_ERROR]),
        ("SUBSCRIBE at QoS 3", wire.subscribe(version, "a", 3), [MALFORMED, PROTOCOL_ERROR]),
        ("a remaining length of five bytes", b"\x30\x80\x80\x80\x80\x01", [MALFORMED]),
        ("a topic longer than its packet", packet(0x30, b"\xff\xffa"), [MALFORMED]),
        ("PUBLISH with 65,535 levels", wire.publish(version, "/" * 65_534, b"x", 1), [TOPIC_INVALID, QUOTA]),
        ("PUBLISH with 32,768 names", wire.publish(version, "a/" * 32_767 + "a", b"x", 1), [TOPIC_INVALID, QUOTA]),
        ("PUBLISH to +", wire.publish(version, "a/+", b"x"), [TOPIC_INVALID]),
        ("PUBLISH to #", wire.publish(version, "#", b"x"), [TOPIC_INVALID]),
        ("PUBLISH to no topic", wire.publish(version, "", b"x"), [PROTOCOL_ERROR] if version == 5 else []),
    ]
    acknowledged = b"\0\1"
    for first in (0x41, 0x51, 0x60, 0x63, 0x71):
        found.append((f"flags of {first:#x}", packet(first, acknowledged), [MALFORMED]))
    for first, body in ((0x80, text("a") + b"\0"), (0x83, text("a") + b"\0"), (0xA0, text("a")), (0xAF, text("a"))):
        found.append((f"flags of {first:#x}", packet(first, b"\0\1" + none + body), [MALFORMED]))
    for first in (0xC1, 0xE1):
        found.append((f"flags of {first:#x}", packet(first, b""), [MALFORMED]))
    zero = [MALFORMED, PROTOCOL_ERROR]
    found += [
        ("identifier 0 at QoS 1", wire.publish(version, "a", b"x", 1, 0), zero),
        ("identifier 0 at QoS 2", wire.publish(version, "a", b"x", 2, 0), zero),
        ("identifier 0 of SUBSCRIBE", wire.subscribe(version, "a", 0, 0), zero),
        ("identifier 0 of UNSUBSCRIBE", wire.unsubscribe(version, "a", 0), zero),
    ]
    for bad in BAD_TEXTS:
        name = bad.hex()
        found += [
            (f"PUBLISH to {name}", packet(0x30, raw_text(bad) + none), [MALFORMED]),
            (f"SUBSCRIBE to {name}", packet(0x82, b"\0\1" + none + raw_text(bad) + b"\0"), [MALFORMED]),
            (f"UNSUBSCRIBE from {name}", packet(0xA2, b"\0\1" + none + raw_text(bad)), [MALFORMED]),
        ]
    return found + (malformed_in_version_5() if version == 5 else [])


def malformed_in_version_5():
    """What only properties can get wrong."""
    five = b"\x80\x80\x80\x80\x01"
    with_options = text("a") + b"\0"
    found = [
        ("PUBLISH: property length of five bytes", packet(0x30, text("a") + five + b"x" * 20), [MALFORMED]),
        ("SUBSCRIBE: property length of five bytes", packet(0x82, b"\0\1" + five + with_options), [MALFORMED]),
        ("PUBREL: property length of five bytes", packet(0x62, b"\0\1\0" + five), [MALFORMED]),
        ("DISCONNECT: property length of five bytes", packet(0xE0, b"\0" + five), [MALFORMED]),
        ("properties longer than the packet", packet(0x30, text("a") + b"\xff\xff\xff\x7f"), [MALFORMED]),
        ("a subscription identifier of five bytes", packet(0x82, b"\0\1\6\x0b" + five + with_options), [MALFORMED]),
        ("subscription identifier 0", packet(0x82, b"\0\1\2\x0b\0" + with_options), [PROTOCOL_ERROR]),
        ("no-local and shared", packet(0x82, b"\0\1\0" + text("$share/g/a") + b"\4"), [PROTOCOL_ERROR]),
        ("retain handling 3", packet(0x82, b"\0\1\0" + text("a") + b"\x30"), [PROTOCOL_ERROR]),
        ("reserved options", packet(0x82, b"\0\1\0" + text("a") + b"\x40"), [MALFORMED]),
        ("topic alias 0", packet(0x30, text("a") + b"\3\x23\0\0"), [ALIAS_INVALID]),
        ("topic alias 65", packet(0x30, text("a") + b"\3\x23\0\x41"), [ALIAS_INVALID]),
        ("an alias nobody gave", packet(0x30, text("") + b"\3\x23\0\1"), [PROTOCOL_ERROR]),
        ("an unknown property", packet(0x30, text("a") + b"\2\x7f\0"), [MALFORMED]),
        ("a property twice", packet(0x30, text("a") + b"\4\1\0\1\0"), [PROTOCOL_ERROR]),
        ("the server's property", packet(0x30, text("a") + b"\2\x0b\1"), [PROTOCOL_ERROR]),
        ("a response topic with #", packet(0x30, text("a") + b"\4\x08" + text("#")), [PROTOCOL_ERROR]),
        ("session expiry after none", packet(0xE0, b"\0\5" + wire.expiry(9)), [PROTOCOL_ERROR]),
    ]
    for bad in BAD_TEXTS:
        content = b"\x26" + text("key") + raw_text(bad)
        frame = wire.publish(5, "a", b"x", more=content)
        found.append((f"user property {bad.hex()}", frame, [MALFORMED]))
    return found


def malformed_connects(version):
    """CONNECTs that are none: a name, the packet, the reasons of CONNACK that fit."""
    none = wire.properties(version)
    head = text("MQTT") + bytes([version])
    rest = b"\0\0" + none
    found = [
        ("a reserved connect flag", packet(0x10, head + b"\3" + rest + text("x")), [MALFORMED]),
        ("will QoS 3", packet(0x10, head + b"\x1e" + rest + text("x") + none + text("w") + text("p")), [MALFORMED]),
        ("will QoS without will", packet(0x10, head + b"\x0a" + rest + text("x")), [MALFORMED, PROTOCOL_ERROR]),
        ("more than a CONNECT", packet(0x10, head + b"\2" + rest + text("x") + b"more"), [MALFORMED]),
        ("less than a CONNECT", packet(0x10, head + b"\2" + rest + b"\0\x09x"), [MALFORMED]),
    ]
    for bad in BAD_TEXTS:
        name = bad.hex()
        found += [
            (f"client id {name}", packet(0x10, head + b"\2" + rest + raw_text(bad)), [MALFORMED]),
            (f"user name {name}", packet(0x10, head + b"\x82" + rest + text("x") + raw_text(bad)), [MALFORMED]),
            (
                f"will topic {name}",
                packet(0x10, head + b"\6" + rest + text("x") + none + raw_text(bad) + text("p")),
                [MALFORMED, TOPIC_INVALID],
            ),
        ]
    if version == 5:
        five = b"\x80\x80\x80\x80\x01"
        found += [
            ("CONNECT: property length of five bytes", packet(0x10, head + b"\2\0\0" + five + text("x")), [MALFORMED]),
            ("receive maximum 0", packet(0x10, head + b"\2\0\0\3\x21\0\0" + text("x")), [PROTOCOL_ERROR]),
            ("maximum packet size 0", packet(0x10, head + b"\2\0\0\5\x27\0\0\0\0" + text("x")), [PROTOCOL_ERROR]),
            ("will topic #", wire.connect(5, "x", will=("#", "p")), [TOPIC_INVALID]),
        ]
    return found


def refused_filters():
    """Filters that are none, or are too long."""
    return [
        "$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/g+/a", "$share/g#/a", "$share/+/a",
        "$share/g/a#", "#/a", "a#", "a+", "+a", "a/#/b", "/" * 65_534, "a/" * 32_767 + "#", "+/" * 32_767 + "+",
        "#/" * 32_767 + "#", "$share/g/" + "+/" * 32_763,
    ]


def long_packets(version):
    """As large as packets other than PUBLISH may be, 512 KiB: a name, the packet, the answer."""
    none = wire.properties(version)
    distinct = [text(f"{place:x}") for place in range(65_000)]
    deep = [text(f"{place}/" + "+/" * 100 + "#") for place in range(2_000)]
    found = []
    for name, filters in (("65,000 filters", distinct), ("2,000 filters of 102 levels", deep)):
        options = b"".join(topic_filter + b"\1" for topic_filter in filters)
        found.append((f"SUBSCRIBE with {name}", packet(0x82, b"\0\1" + none + options), wire.SUBACK))
        found.append((f"SUBSCRIBE again with {name}", packet(0x82, b"\0\2" + none + options), wire.SUBACK))
        frame = packet(0xA2, b"\0\3" + none + b"".join(filters))
        found.append((f"UNSUBSCRIBE with {name}", frame, 0xB0))
    one = text("$share/g/a") * 40_000
    found.append(("UNSUBSCRIBE with one filter 40,000 times", packet(0xA2, b"\0\4" + none + one), 0xB0))
    options = b"".join(topic_filter + b"\2" for topic_filter in distinct)
    found.append(("SUBSCRIBE with 65,000 at last", packet(0x82, b"\0\5" + none + options), wire.SUBACK))
    if version == 5:
        many = b"\x26\0\1k\0\1v" * 8_000
        in_subscribe = packet(0x82, b"\0\6" + wire.properties(5, many) + text("a") + b"\0")
        in_unsubscribe = packet(0xA2, b"\0\7" + wire.properties(5, many) + text("a"))
        found.append(("SUBSCRIBE with 8,000 user properties", in_subscribe, wire.SUBACK))
        found.append(("UNSUBSCRIBE with 8,000 user properties", in_unsubscribe, 0xB0))
        in_pubrel = packet(0x62, b"\0\x08\0" + wire.properties(5, many))
        found.append(("PUBREL with 8,000 user properties", in_pubrel, wire.PUBCOMP))
    large = wire.publish(version, "large", bytes(16_000_000), 1, 9)
    found.append(("PUBLISH of 16 MB", large, wire.PUBACK))
    return found


def combined_filters(depth):
    """All filters of `depth` levels of + and a, and one more level that no topic has: bodies of 8,192 filters each."""
    filters = [text("/".join(levels) + "/none") + b"\0" for levels in itertools.product("+a", repeat=depth)]
    return [b"".join(filters[start : start + 8_192]) for start in range(0, len(filters), 8_192)]
