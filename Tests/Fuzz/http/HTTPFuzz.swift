/// Whole HTTP conversations, from the first byte to the end: see `HTTPPlay` for what must hold.

/// The first byte says how the rest is cut into reads: whole, in up to seven pieces, or byte by byte.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 0 else { return 0 }
    let bytes = Array(UnsafeBufferPointer(start: start + 1, count: count - 1))
    let pieces = Int(start[0] & 7)
    let cuts = pieces == 7 ? Array(0..<bytes.count) : (0..<pieces).map { ($0 + 1) * bytes.count / (pieces + 1) }
    var whole = HTTPPlay()
    let first = whole.send(bytes, cuts: [])
    whole.check(first + whole.finish())
    var cut = HTTPPlay()
    let output = cut.send(bytes, cuts: cuts)
    cut.check(output + cut.finish())
    // What is taken does not depend on the cuts, but a limit may be met by what is wrong first.
    precondition(whole.site.requests == cut.site.requests, "\(whole.site.requests) and \(cut.site.requests)")
    return 0
}
