import Core

/// Text with variables of a certificate, as `${cert.cn}`: how its owner is called.
struct NameTemplate: Sendable {
    private enum Piece: Sendable {
        case text(String)
        case variable(String)
    }

    /// Names that one template may give.
    private static let maxNames = 64

    private var pieces: [Piece] = []

    /// Reads a template.
    /// - Throws: with the variables that there are.
    init(_ text: String) throws(TLSFailure) {
        var rest = text[...]
        while let start = rest.firstRange(of: "${") {
            if start.lowerBound > rest.startIndex { pieces.append(.text(String(rest[..<start.lowerBound]))) }
            rest = rest[start.upperBound...]
            guard let end = rest.firstIndex(of: "}") else { throw TLSFailure("\(text): a variable ends with }") }
            let name = rest[..<end]
            rest = rest[rest.index(after: end)...]
            guard name.hasPrefix("cert."), PeerCertificate.variables.contains(String(name.dropFirst(5))) else {
                let known = PeerCertificate.variables.map { "${cert.\($0)}" }.joined(separator: " ")
                throw TLSFailure("\(text): unknown variable ${\(name)}; there are \(known)")
            }
            pieces.append(.variable(String(name.dropFirst(5))))
        }
        if !rest.isEmpty { pieces.append(.text(String(rest))) }
    }

    /// The text for every value of its variables; none when one of them has no value or an empty one.
    func names(_ certificate: PeerCertificate) -> [String] {
        var names = [""]
        for piece in pieces {
            switch piece {
            case .text(let text): for index in names.indices { names[index] += text }
            case .variable(let name):
                let values = (certificate.values(of: name) ?? []).filter { !$0.isEmpty }
                var longer: [String] = []
                for name in names { for value in values { longer.append(name + value) } }
                names = Array(longer.prefix(Self.maxNames))
            }
        }
        return names.filter { !$0.isEmpty }
    }
}
