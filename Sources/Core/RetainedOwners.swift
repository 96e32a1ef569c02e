/// Whom retained values count for: those of whoever published them last, where a quota says so. Under the router's
/// retained lock.
extension RetainedEvents {
    /// A number's value has changed: from nothing, or to nothing or a tombstone. Costs nothing without quotas.
    mutating func change(owner: Allowance?, of number: UInt32, from old: Event?, to event: Event?) {
        let owner = owner?.limitsRetained ?? false ? owner : nil
        guard owner != nil || !owners.isEmpty else { return }
        if let old, let former = owners.removeValue(forKey: number) {
            former.retainedEvents?.subtract(.retainedEvents)
            former.retainedBytes?.subtract(.retainedBytes, old.cost)
        }
        guard let owner, let event, !event.isTombstone else { return }
        // Asked before: what is stored is counted in any case.
        _ = owner.retainedEvents?.add(.retainedEvents, inAnyCase: true)
        _ = owner.retainedBytes?.add(.retainedBytes, event.cost, inAnyCase: true)
        owners[number] = owner
    }

    /// Whether a value would be more than its owner may have, in place of what the topic has now.
    /// - Returns: what is used up.
    func usedUp(
        by owner: Allowance, cost: Int, at topic: UnsafeRawBufferPointer
    ) -> (QuotaResource, Usage)? {
        let node = find(topic)
        let number = node == 0 ? 0 : tree.nodes[node].first
        let former = number == 0 ? nil : owners[number]
        let old = former == nil ? 0 : slots[number]?.cost ?? 0
        if let usage = owner.retainedEvents, former?.retainedEvents !== usage,
            usage.count(.retainedEvents) + 1 > usage.limits[.retainedEvents]
        {
            return (.retainedEvents, usage)
        }
        if let usage = owner.retainedBytes {
            let more = former?.retainedBytes === usage ? cost - old : cost
            // Whoever is over already may still write something smaller.
            if more > 0, usage.count(.retainedBytes) + more > usage.limits[.retainedBytes] {
                return (.retainedBytes, usage)
            }
        }
        return nil
    }
}
