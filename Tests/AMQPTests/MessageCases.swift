/// Bytes that are no message, and what is said of them.
enum MessageCases {
    /// A body, so that nothing else is missing.
    private static let body = "00 53 75 a0 00"

    static let malformed: [(bytes: String, error: String)] =
        frames + headers + annotations + properties + applications + bodies + footers

    private static let frames: [(String, String)] = [
        ("00", "message: the bytes end within a value"),
        ("00 53", "message: the bytes end within a value"),
        ("00 53 75", "data: the bytes end within a value"),
        ("53 75 a0 00", "message: a described value is expected"),
        ("ff", "message: a described value is expected"),
        ("'GET / HTTP/1.1'", "message: a described value is expected"),
        ("a0 00", "message: a described value is expected"),
        ("00 53 6f 45", "message: there is no section with this descriptor"),
        ("00 53 79 45", "message: there is no section with this descriptor"),
        ("00 53 14 45", "message: there is no section with this descriptor"),
        ("00 44 45", "message: there is no section with this descriptor"),
        ("00 80 0000000100000075 a0 00", "message: there is no section with this descriptor"),
        ("00 80 0000468c00000075 a0 00", "message: there is no section with this descriptor"),
        ("00 80 00000000000000", "message: the bytes end within a value"),
        ("00 a3 10 'amqp:data:binarx' a0 00", "message: there is no section with this descriptor"),
        ("00 a3 00 a0 00", "message: there is no section with this descriptor"),
        ("00 a3 ff 'amqp:data:binary' a0 00", "message: the bytes end within a value"),
        ("00 b3 ffffffff 'amqp:data:binary' a0 00", "message: the bytes end within a value"),
        ("00 a1 10 'amqp:data:binary' a0 00", "message: the value has another type than the field"),
        ("00 52 75 a0 00", "message: the value has another type than the field"),
        ("00 40 75", "message: the value has another type than the field"),
        ("00 00 53 75 a0 00", "message: there is no type with this constructor"),
        ("00 c0 01 00 a0 00", "message: the value has another type than the field"),
        ("\(body) 00", "data: the bytes end within a value"),
        ("\(body) 40", "data: a described value is expected"),
    ]

    private static let headers: [(String, String)] = [
        ("00 53 70 40 \(body)", "header: the value has another type than the field"),
        ("00 53 70 c1 01 00 \(body)", "header: the value has another type than the field"),
        ("00 53 70 e0 02 00 40 \(body)", "header: the value has another type than the field"),
        ("00 53 70 c0", "header: the bytes end within a value"),
        ("00 53 70 c0 00 \(body)", "header: the bytes end within a value"),
        ("00 53 70 c0 ff 05", "header: the bytes end within a value"),
        ("00 53 70 d0 ffffffff 00000005", "header: the bytes end within a value"),
        ("00 53 70 d0 00000003 000000 \(body)", "header: the bytes end within a value"),
        ("00 53 70 c0 02 02 41 \(body)", "header: the bytes end within a value"),
        ("00 53 70 c0 03 01 41 41 \(body)", "header: the size of a list, map or array is not that of its values"),
        ("00 53 70 c0 07 06 40 40 40 40 40 40 \(body)", "header: there are more values than fields"),
        ("00 53 70 d0 00000004 ffffffff \(body)", "header: there are more values than fields"),
        ("00 53 70 c0 03 01 50 01 \(body)", "header: the value has another type than the field"),
        ("00 53 70 c0 03 01 56 02 \(body)", "header: a boolean is neither 0 nor 1"),
        ("00 53 70 c0 04 02 40 52 04 \(body)", "header: the value has another type than the field"),
        ("00 53 70 c0 06 03 40 40 54 04 40 \(body)", "header: the value has another type than the field"),
        ("00 53 70 c0 05 04 40 40 40 43 \(body)", "header: the value has another type than the field"),
        ("00 53 70 c0 06 05 40 40 40 40 44 \(body)", "header: the value has another type than the field"),
        ("00 53 70 45 00 53 70 45 \(body)", "header: it is there twice, or behind a later section"),
        ("00 53 72 c1 01 00 00 53 70 45 \(body)", "header: it is there twice, or behind a later section"),
        ("\(body) 00 53 70 45", "header: it is there twice, or behind a later section"),
    ]

    private static let annotations: [(String, String)] = [
        ("00 53 71 45 \(body)", "delivery-annotations: the value has another type than the field"),
        ("00 53 71 c1 02 01 40 \(body)", "delivery-annotations: a map has an odd number of keys and values"),
        ("00 53 71 c1 04 02 a1 00 40 \(body)", "delivery-annotations: a key has another type than the map's keys"),
        ("00 53 71 c1 04 02 a3 00 57 \(body)", "delivery-annotations: there is no type with this constructor"),
        ("00 53 72 40 \(body)", "message-annotations: the value has another type than the field"),
        ("00 53 72 c1 02 01 40 \(body)", "message-annotations: a map has an odd number of keys and values"),
        ("00 53 72 c1 04 02 a1 00 40 \(body)", "message-annotations: a key has another type than the map's keys"),
        ("00 53 72 c1 03 02 40 40 \(body)", "message-annotations: a key has another type than the map's keys"),
        ("00 53 72 c1 05 02 a3 01 80 40 \(body)", "message-annotations: a symbol is not ASCII"),
        ("00 53 72 c1 03 02 a3 00 \(body)", "message-annotations: the bytes end within a value"),
        (
            "00 53 72 c1 05 02 a3 00 40 40 \(body)",
            "message-annotations: the size of a list, map or array is not that of its values"
        ),
        (
            "00 53 72 c1 08 02 a3 00 c0 03 01 40 40 \(body)",
            "message-annotations: the size of a list, map or array is not that of its values"
        ),
        ("00 53 72 c1 09 02 a3 00 f0 00000000 \(body)", "message-annotations: the bytes end within a value"),
        (
            "00 53 72 d1 0000000d 00000002 a3 00 f0 00000005 7fffffff 40",
            "message-annotations: the bytes end within a value"
        ),
        (
            "00 53 72 d1 00000010 00000002 a3 00 f0 00000005 7fffffff 40 \(body)",
            "message-annotations: there are too many values"
        ),
        ("00 53 72 d1 00000004 7ffffffe \(body)", "message-annotations: the bytes end within a value"),
        ("00 53 73 45 00 53 72 c1 01 00 \(body)", "message-annotations: it is there twice, or behind a later section"),
    ]

    private static let properties: [(String, String)] = [
        ("00 53 73 c1 01 00 \(body)", "properties: the value has another type than the field"),
        ("00 53 73 00 53 73 45 \(body)", "properties: the value has another type than the field"),
        ("00 53 73 c0 0f 0e 40404040404040404040404040 40 \(body)", "properties: there are more values than fields"),
        ("00 53 73 c0 02 01 43 \(body)", "properties: the value has another type than the field"),
        ("00 53 73 c0 04 01 a3 01 'a' \(body)", "properties: the value has another type than the field"),
        ("00 53 73 c0 05 02 40 a1 01 'u' \(body)", "properties: the value has another type than the field"),
        ("00 53 73 c0 04 03 40 40 45 \(body)", "properties: the value has another type than the field"),
        ("00 53 73 c0 05 03 40 40 a1 05 \(body)", "properties: the bytes end within a value"),
        ("00 53 73 c0 06 03 40 40 a1 01 ff \(body)", "properties: a string is not UTF-8"),
        ("00 53 73 c0 07 04 40 40 40 a3 01 's' \(body)", "properties: the value has another type than the field"),
        ("00 53 73 c0 08 05 40 40 40 40 c0 01 00 \(body)", "properties: the value has another type than the field"),
        ("00 53 73 c0 08 06 40 40 40 40 40 72 00000000 \(body)", "properties: the bytes end within a value"),
        (
            "00 53 73 c0 0b 06 40 40 40 40 40 72 00000000 \(body)",
            "properties: the value has another type than the field"
        ),
        (
            "00 53 73 c0 0a 07 40 40 40 40 40 40 a1 01 'c' \(body)",
            "properties: the value has another type than the field"
        ),
        ("00 53 73 c0 0a 07 40 40 40 40 40 40 a3 01 c3 \(body)", "properties: a symbol is not ASCII"),
        (
            "00 53 73 c0 0b 08 40 40 40 40 40 40 40 a1 01 'c' \(body)",
            "properties: the value has another type than the field"
        ),
        (
            "00 53 73 c0 0a 09 40 40 40 40 40 40 40 40 44 \(body)",
            "properties: the value has another type than the field"
        ),
        (
            "00 53 73 c0 0b 0a 40 40 40 40 40 40 40 40 40 44 \(body)",
            "properties: the value has another type than the field"
        ),
        (
            "00 53 73 c0 0c 0b 40 40 40 40 40 40 40 40 40 40 44 \(body)",
            "properties: the value has another type than the field"
        ),
        (
            "00 53 73 c0 0d 0c 40 40 40 40 40 40 40 40 40 40 40 44 \(body)",
            "properties: the value has another type than the field"
        ),
        (
            "00 53 73 c0 0e 0d 40 40 40 40 40 40 40 40 40 40 40 40 44 \(body)",
            "properties: the value has another type than the field"
        ),
        ("00 53 73 45 00 53 73 45 \(body)", "properties: it is there twice, or behind a later section"),
        ("00 53 74 c1 01 00 00 53 73 45 \(body)", "properties: it is there twice, or behind a later section"),
    ]

    private static let applications: [(String, String)] = [
        ("00 53 74 45 \(body)", "application-properties: the value has another type than the field"),
        ("00 53 74 c1 04 01 a1 00 40 \(body)", "application-properties: a map has an odd number of keys and values"),
        ("00 53 74 c1 03 02 40 40 \(body)", "application-properties: a key has another type than the map's keys"),
        (
            "00 53 74 c1 05 02 a3 01 'k' 40 \(body)",
            "application-properties: a key has another type than the map's keys"
        ),
        ("00 53 74 c1 04 02 53 01 40 \(body)", "application-properties: a key has another type than the map's keys"),
        ("00 53 74 c1 05 02 a1 01 ff 40 \(body)", "application-properties: a string is not UTF-8"),
        ("00 53 74 c1 07 02 a1 00 a1 02 c328 \(body)", "application-properties: a string is not UTF-8"),
        ("00 53 74 c1 06 02 a1 00 c0 01 01 \(body)", "application-properties: the bytes end within a value"),
        ("00 53 74 c1 06 02 a1 00 00 53 01 \(body)", "application-properties: the bytes end within a value"),
        (
            "00 53 74 c1 01 00 00 53 74 c1 01 00 \(body)",
            "application-properties: it is there twice, or behind a later section"
        ),
        ("\(body) 00 53 74 c1 01 00", "application-properties: it is there twice, or behind a later section"),
    ]

    private static let bodies: [(String, String)] = [
        ("00 53 75 a1 00", "data: the value has another type than the field"),
        ("00 53 75 40", "data: the value has another type than the field"),
        ("00 53 75 45", "data: the value has another type than the field"),
        ("00 53 75 a0 01", "data: the bytes end within a value"),
        ("00 53 75 b0 000000", "data: the bytes end within a value"),
        ("00 53 75 b0 7fffffff 00", "data: the bytes end within a value"),
        ("00 53 75 b0 ffffffff 00", "data: the bytes end within a value"),
        ("00 53 76 c1 01 00", "amqp-sequence: the value has another type than the field"),
        ("00 53 76 40", "amqp-sequence: the value has another type than the field"),
        ("00 53 76 c0 03 01 40 40", "amqp-sequence: the size of a list, map or array is not that of its values"),
        ("00 53 77", "amqp-value: the bytes end within a value"),
        ("00 53 77 57", "amqp-value: there is no type with this constructor"),
        ("00 53 77 a1 01 ff", "amqp-value: a string is not UTF-8"),
        ("00 53 77 c1 02 01 40", "amqp-value: a map has an odd number of keys and values"),
        ("00 53 77 f0 00000005 7fffffff 40", "amqp-value: there are too many values"),
        ("00 53 77 40 00 53 77 40", "amqp-value: it is there twice, or behind a later section"),
        ("\(body) 00 53 77 40", "amqp-value: the body is of one kind"),
        ("\(body) 00 53 76 45", "amqp-sequence: the body is of one kind"),
        ("00 53 76 45 \(body)", "data: the body is of one kind"),
    ]

    private static let footers: [(String, String)] = [
        ("\(body) 00 53 78 45", "footer: the value has another type than the field"),
        ("\(body) 00 53 78 c1 04 02 a1 00 40", "footer: a key has another type than the map's keys"),
        ("\(body) 00 53 78 c1 01 00 00 53 78 c1 01 00", "footer: it is there twice, or behind a later section"),
        ("\(body) 00 53 78 c1 01 00 \(body)", "data: it is there twice, or behind a later section"),
        ("\(body) 00 53 78 c1 ff 00", "footer: the bytes end within a value"),
    ]
}
