/// Unicode's normal form C (UAX #15), which Swift's library compares texts by, but does not show.
@_spi(_Unicode) import Swift

extension String {
    /// Whether the text is in normal form C: no other text that is in it is equal to this one.
    var isNormal: Bool { utf8.allSatisfy { $0 < 0x80 } || _nfc.elementsEqual(unicodeScalars) }
}
