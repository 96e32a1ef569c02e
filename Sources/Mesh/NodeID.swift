/// Who a node is: the same for as long as its data directory lives. 128 bits, random.
public struct NodeID: Hashable, Comparable, Sendable, BitwiseCopyable, CustomStringConvertible {
    /// The upper and the lower half.
    public var high: UInt64, low: UInt64

    /// Makes an id from its halves.
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// Reads 32 hexadecimal digits; nil when it is something else.
    public init?(_ text: some StringProtocol) {
        guard text.utf8.count == 32, let high = UInt64(text.prefix(16), radix: 16),
            let low = UInt64(text.suffix(16), radix: 16)
        else { return nil }
        self.init(high: high, low: low)
    }

    /// 32 hexadecimal digits.
    public var description: String {
        func hex(_ half: UInt64) -> String {
            let digits = String(half, radix: 16)
            return String(repeating: "0", count: 16 - digits.count) + digits
        }
        return hex(high) + hex(low)
    }

    /// The order that ties are broken by.
    public static func < (a: NodeID, b: NodeID) -> Bool { (a.high, a.low) < (b.high, b.low) }
}

/// What names a node in this process: dense, given at first contact, used for another only when this one was never
/// reached and everything of it has been forgotten. 0 is this node.
public typealias NodeIndex = Int

/// What names a link on this node, from 1; used again only after the link has been gone for a while.
public typealias LinkNumber = Int
