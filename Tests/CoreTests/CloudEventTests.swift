/// What makes the properties of an event those of a CloudEvent.
import Core
import Testing

@Suite("CloudEvents") struct CloudEventTests {
    private static let least = [("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "t")]

    private func isOne(_ users: [(String, String)]) -> Bool {
        var writer = EventPropertiesWriter()
        writer.add(.contentType, Array("text/plain".utf8))
        for (name, value) in users { writer.addUser(Array(name.utf8), Array(value.utf8)) }
        return writer.finish().bytes.withUnsafeBytes { CloudEvent.isOne($0) }
    }

    @Test("The four that every event has, version 1.0, none empty")
    func required() {
        #expect(isOne(Self.least))
        #expect(isOne(Self.least.reversed() + [("ext", "")]))
        for index in Self.least.indices {
            var users = Self.least
            users.remove(at: index)
            #expect(!isOne(users), "without \(Self.least[index].0)")
            #expect(!isOne([(Self.least[index].0, "")] + Self.least), "the first counts")
            #expect(isOne(Self.least + [(Self.least[index].0, "")]), "the first counts")
        }
        #expect(!isOne([("specversion", "0.3")] + Self.least))
        #expect(!isOne([("Specversion", "1.0")] + Self.least.dropFirst()))
    }

    @Test(
        "Names of attributes",
        arguments: [
            ("id", true), ("x1", true), ("1", true), ("partitionkey", true), ("dataschema", true), ("", false),
            ("data", false), ("datacontenttype", false), ("Id", false), ("a-b", false), ("ä", false), ("a b", false),
            ("a`", false), ("a{", false), ("a:", false), ("a/", false),
        ])
    func names(name: String, isAttribute: Bool) {
        #expect(Array(name.utf8).withUnsafeBytes { CloudEvent.isAttribute($0) } == isAttribute)
    }
}
