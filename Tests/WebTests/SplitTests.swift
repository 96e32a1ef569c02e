import Testing
import TestSupport

/// However a client's bytes are cut into reads, what it is answered is the same.
@Suite struct SplitTests {
    /// Random numbers that a seed repeats (SplitMix64).

    private func request(_ number: Int, _ generator: inout Seeded, isLast: Bool) -> [UInt8] {
        let path =
            ["/now", "/pub", "/pub", "/alone", "/later/soon", "/later", "/204"].randomElement(using: &generator) ?? ""
        var methods = ["POST", "PUT", "BREW"]
        if !path.hasPrefix("/later"), !path.hasPrefix("/pub"), !path.hasPrefix("/alone") { methods += ["HEAD", "GET"] }
        let method = methods.randomElement(using: &generator) ?? ""
        let isOlder = Int.random(in: 0..<8, using: &generator) == 0
        var text = String(repeating: "\n", count: Int.random(in: 0..<3, using: &generator) / 2)
        let start = ["", "http://x"].randomElement(using: &generator) ?? ""
        text += "\(method) \(start)\(path)/\(number)?q=\(generator.next()) HTTP/1.\(isOlder ? 0 : 1)\nHost: h\n"
        if isOlder, !isLast { text += "Connection: keep-alive\n" }
        if !isOlder, isLast { text += "Connection: close\n" }
        if Int.random(in: 0..<6, using: &generator) == 0 { text += "Origin: \(number)\n" }
        let body = (0..<Int.random(in: 0..<40, using: &generator)).map { _ in
            "abc\r\n:;0".utf8.randomElement(using: &generator) ?? 0
        }
        if Int.random(in: 0..<5, using: &generator) == 0 { text += "Expect: 100-continue\n" }
        guard !isOlder, Bool.random(using: &generator) else {
            return wire(text + "Content-Length: \(body.count)\n\n") + body
        }
        var bytes = wire(text + "Transfer-Encoding: chunked\n\n")
        var rest = body[...]
        while !rest.isEmpty {
            let part = rest.prefix(Int.random(in: 1...20, using: &generator))
            bytes +=
                wire("\(String(part.count, radix: 16))\(Bool.random(using: &generator) ? ";x=y" : "")\n") + part + [
                    13, 10,
                ]
            rest = rest.dropFirst(part.count)
        }
        return bytes + wire(Bool.random(using: &generator) ? "0\n\n" : "0\nTrailer: x\n\n")
    }

    private func withoutInterim(_ bytes: [UInt8]) -> String {
        String(decoding: bytes, as: UTF8.self).replacing("HTTP/1.1 100 Continue\r\n\r\n", with: "")
    }

    @Test(arguments: 1...200)
    func requestsCutAtRandomPlacesAreAnsweredTheSameAsOneByOne(seed: Int) {
        var generator = Seeded(seed: UInt64(seed))
        let count = Int.random(in: 1...12, using: &generator)
        let requests = (0..<count).map { request($0, &generator, isLast: $0 == count - 1) }
        var alone = HTTPPlay()
        let wanted = requests.flatMap { alone.send($0, cuts: []) }
        #expect(alone.isOver)
        #expect(alone.site.requests.count == count)
        alone.check(wanted)
        let all = requests.flatMap { $0 }
        for round in 0..<4 {
            var pieces = HTTPPlay()
            let pieceCount = round == 0 ? 0 : Int.random(in: 1...30, using: &generator)
            let cuts = (0..<pieceCount).map { _ in Int.random(in: 0...all.count, using: &generator) }.sorted()
            let output = pieces.send(all, cuts: round == 3 ? Array(1..<all.count) : cuts)
            #expect(withoutInterim(output) == withoutInterim(wanted), "cut at \(cuts)")
            #expect(pieces.site.requests == alone.site.requests)
            pieces.check(output)
        }
    }
}
