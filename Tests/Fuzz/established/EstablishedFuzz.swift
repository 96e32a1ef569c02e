/// What happens behind the door: the client is let in first, with a valid CONNECT of the version that the input's first
/// byte chooses, so that the search begins where sessions, properties and windows are.

/// The first two bytes choose the client, the rest is what it sends.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 1 else { return 0 }
    var play = Play(Array(UnsafeBufferPointer(start: start, count: count)))
    play.established()
    play.finish()
    return 0
}
