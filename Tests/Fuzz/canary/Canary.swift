/// The fuzzing of the fuzzing: this target has a mistake that only a search can find, and `run.sh` fails when it stays
/// undiscovered.

/// Traps on inputs that begin with a certain word.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = UnsafeBufferPointer(start: start, count: count)
    let word = Array("TRAP".utf8)
    var found = 0
    for index in word.indices {
        guard index < input.count, input[index] == word[index] else { return 0 }
        found += 1
    }
    // The mistake: one step beyond the end.
    return word[found] == 0 ? 1 : 0
}
