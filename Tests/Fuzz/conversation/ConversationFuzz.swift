/// Whole conversations of any version on two lanes, from the first byte on: see `Play` for what must hold.

/// An even first byte: the rest is one client's bytes, cut into reads. An odd one: the rest is a script for four.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 0 else { return 0 }
    var play = Play(Array(UnsafeBufferPointer(start: start + 1, count: count - 1)))
    if start[0] & 1 == 0 { play.stream(pieces: Int(start[0] >> 1)) } else { play.script() }
    play.finish()
    return 0
}
