import Testing

@testable import Web

/// Chunked bodies on their own: what is one, however it is cut, and what is not.
@Suite struct ChunkedTests {
    /// What became of bytes: the body and what is left behind it, or a failure; nil when more is needed.
    private func take(
        _ bytes: [UInt8], pieces: [Int] = [], limit: Int = 1_000
    ) -> Result<(body: String, left: Int), ChunkedBody.Failure>? {
        var body = ChunkedBody(limit: limit)
        var start = 0
        for end in pieces + [bytes.count] {
            let piece = Array(bytes[start..<end])
            let outcome = piece.withUnsafeBytes { bytes in
                Result { () throws(ChunkedBody.Failure) in try body.take(bytes) }
            }
            switch outcome {
            case .failure(let failure): return .failure(failure)
            case .success(let (count, isComplete)):
                start += count
                if isComplete { return .success((String(decoding: body.bytes, as: UTF8.self), bytes.count - start)) }
                #expect(start == end)
            }
        }
        return nil
    }

    @Test(
        arguments: [
            ("0\n\n", "", 0), ("3\nabc\n0\n\n", "abc", 0), ("3\nabc\n0\n\nGET", "abc", 3),
            ("A\n0123456789\n0\n\n", "0123456789", 0),
            ("a\n0123456789\n0\n\n", "0123456789", 0), ("003\nabc\n00\n\n", "abc", 0),
            ("1\na\n1\nb\n1\nc\n0\n\n", "abc", 0),
            ("3;name=value\nabc\n0;last\n\n", "abc", 0), ("3;a=\"b;c\"\nabc\n0\n\n", "abc", 0),
            ("3;\tx\nabc\n0\n\n", "abc", 0),
            ("0\nX: y\n\n", "", 0), ("0\nX:\nY: z\n\n!", "", 1), ("2\n\n\n0\n\n", "\r\n", 0),
            ("0000000000000A1\n", nil, 0),
        ] as [(String, String?, Int)])
    func whatIsABody(text: String, body: String?, left: Int) throws {
        let bytes = wire(text)
        guard let body else {
            #expect(take(bytes) == nil)
            return
        }
        let whole = try #require(try take(bytes)?.get())
        #expect(whole.body == body)
        #expect(whole.left == left)
        // However it is cut; and every prefix waits for more.
        for cut in 0..<bytes.count - left {
            #expect(take(Array(bytes[..<cut])) == nil, "\(cut)")
            #expect(try take(bytes, pieces: [cut])?.get().body == body, "\(cut)")
        }
        #expect(try take(bytes, pieces: Array(1..<bytes.count))?.get().body == body)
    }

    /// Sizes and line ends that some parser somewhere has read in another way.
    @Test(arguments: [
        "\r\n", "\n", " 3\r\n", "3 \r\n", "\t3\r\n", "3\t;x\r\n", "0x3\r\n", "+3\r\n", "-3\r\n", "3_0\r\n", "3.0\r\n",
        "3h\r\n",
        ";x\r\n", "g\r\n", "3\n", "3\r\r\n", "3\rabc", "3;x\n", "3;x\ry", "3;\u{0}\r\n", "3;\u{7F}\r\n", "3;\u{1}\r\n",
        "\u{FF13}\r\n",
        "3\r\nabc0\r\n", "3\r\nabc\n0", "3\r\nabc\rx", "3\r\nabcd", "3\r\nabc\n\r", "3\r\nabc 0", "3\r\nab\r\n\r\n",
        "0\r\n\n", "0\r\n\rx", "0\r\n folded: x", "0\r\n:x", "0\r\nX\r\n", "0\r\nX y: z", "0\r\nX : y", "0\r\nX: y\n",
        "0\r\nX: y\rz",
        "0\r\nX: \u{0}", "0\r\nX\u{0}:", "0\r\nX: y\r\n Z", "0\n", "0\r0", "00000000000000001\r\n",
        "FFFFFFFFFFFFFFFF\r\n",
        "8000000000000000\r\n", "10000000000000000\r\n", "\u{B}3\r\n", "3\u{C}\r\n", "3,3\r\n", "3\\r\r\n", "\"3\"\r\n",
    ])
    func whatIsNone(text: String) {
        #expect(isMalformed(take(Array(text.utf8))))
        #expect(isMalformed(take(Array(text.utf8), pieces: Array(1..<text.utf8.count))))
    }

    private func isMalformed(_ result: Result<(body: String, left: Int), ChunkedBody.Failure>?) -> Bool {
        if case .failure(.malformed) = result { return true }
        return false
    }

    @Test func limits() throws {
        func outcome(_ text: String, limit: Int) -> ChunkedBody.Failure? {
            if case .failure(let failure) = take(wire(text), limit: limit) { return failure }
            return nil
        }
        #expect(outcome("5\nabcde\n0\n\n", limit: 5) == nil)
        #expect(outcome("6\n", limit: 5) == .tooLarge)
        // Refused by what is announced, before it comes, and without an overflow.
        for size in ["7FFFFFFFFFFFFFF", "FFFFFFFFFFFFFFF", "000000000000006"] {
            #expect(outcome("\(size)\n", limit: 5) == .tooLarge)
        }
        #expect(outcome("3\nabc\n3\n", limit: 5) == .tooLarge)
        #expect(outcome("3\nabc\n2\nde\n0\n\n", limit: 5) == nil)
        // What surrounds the body has a limit too.
        let long = String(repeating: "x", count: 1_024)
        #expect(outcome("1;\(long)", limit: 5) == nil)
        #expect(outcome("1;\(long)x", limit: 5) == .malformed)
        #expect(outcome("1;\(long)\na\n1;\(long)\nb\n0\n\n", limit: 5) == nil, "each size has its own")
        #expect(outcome("0\nA:\(long.dropLast(2))\n\n", limit: 5) == nil)
        #expect(outcome("0\nA:\(long.dropLast())\n\n", limit: 5) == .malformed)
        #expect(outcome("0\n" + String(repeating: "A:\n", count: 513) + "\n", limit: 5) == .malformed, "all together")
        // An end of line is not free of charge either.
        #expect(outcome("0\nA:" + String(repeating: "\r", count: 2), limit: 5) == .malformed)
    }
}
