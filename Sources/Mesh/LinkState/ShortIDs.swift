/// Who has which number in destination sets. Every node works it out from what all advertise, without asking anybody.

/// A node's claim to a number.
struct ShortIDClaim: Equatable {
    var node: NodeIndex
    var id: NodeID
    var shortID: UInt16
    /// How many numbers the node has claimed in this life.
    var claims: UInt32
    /// Has left the state of joining: others may have sent to this number already.
    var isUp: Bool
    var isReachable: Bool

    /// Who is asked first: a node that can be reached before one that cannot, one that is up before one that joins.
    fileprivate var rank: Int { (isReachable ? 0 : 2) + (isUp ? 0 : 1) }

    /// Of two claims to the same number the one that holds: the better rank, then the fewer claims (who has had to give
    /// way least), then the smaller id.
    fileprivate static func holds(_ a: Self, over b: Self) -> Bool {
        if a.rank != b.rank { return a.rank < b.rank }
        return a.claims != b.claims ? a.claims < b.claims : a.id < b.id
    }
}

enum ShortIDs {
    /// What follows from the claims.
    struct Outcome: Equatable {
        /// By claim: the number the node has, or 0.
        var numbers: [UInt16]
        /// Claims that must be made anew, with another number.
        var losers: [Int]
    }

    /// A number claimed by several of the same rank is nobody's until the losers have claimed another: nodes that have
    /// not heard of all claims yet would take it for different nodes'.
    static func assign(_ claims: [ShortIDClaim]) -> Outcome {
        var outcome = Outcome(numbers: Array(repeating: 0, count: claims.count), losers: [])
        let order = claims.indices.filter { claims[$0].shortID != 0 }
            .sorted {
                claims[$0].shortID != claims[$1].shortID
                    ? claims[$0].shortID < claims[$1].shortID : ShortIDClaim.holds(claims[$0], over: claims[$1])
            }
        var place = 0
        while place < order.count {
            let first = order[place]
            var end = place + 1
            while end < order.count, claims[order[end]].shortID == claims[first].shortID {
                outcome.losers.append(order[end])
                end += 1
            }
            let isContested = end > place + 1 && claims[order[place + 1]].rank == claims[first].rank
            if !isContested { outcome.numbers[first] = claims[first].shortID }
            place = end
        }
        return outcome
    }

    /// A number that nobody claims: random, so that two nodes that look at the same time find different ones.
    static func free(_ claims: [ShortIDClaim], random: () -> UInt64) -> UInt16 {
        let taken = claims.map(\.shortID).sorted()
        var number = UInt16(truncatingIfNeeded: random() % 0xFFFF + 1)
        // At most 1,024 numbers are taken: one of so many that follow one another is free.
        for _ in 0...taken.count {
            guard number == 0 || taken.contains(number) else { return number }
            number &+= 1
        }
        return number
    }
}
