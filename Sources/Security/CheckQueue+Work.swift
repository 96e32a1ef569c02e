/// What check threads do: hash passwords, verify tokens. Never on a lane.
import Core
import Synchronization

extension CheckQueue {
    /// A password thread's life: until the queue is stopped.
    func workOnPasswords() {
        while true {
            passwordJobs.wait()
            let (job, isStopped) = state.withLock { ($0.passwordLine.next(), $0.isStopped) }
            if isStopped { return }
            if let job, case .password(let user, let password) = job.secret { hash(job.digest, user, password) }
        }
    }

    /// The token thread's life: until the queue is stopped.
    func workOnTokens() {
        while true {
            tokenJobs.wait()
            let (job, isStopped) = state.withLock { ($0.tokenLine.next(), $0.isStopped) }
            if isStopped { return }
            if let job, case .token(let token) = job.secret { verify(job, token) }
        }
    }

    /// The fetcher has ended a look at keys.
    func arrived(_ arrival: KeyStore.Arrival) {
        if arrival.hasLostKeys {
            state.withLock { state in
                state.tokens.removeAll()
                state.tokenEpoch += 1
            }
        }
        unpark()
    }

    /// Jobs that wait for keys are looked at again.
    /// - Parameter isAnew: whether they may wait again, because they are going to be looked for elsewhere.
    func unpark(isAnew: Bool = false) {
        let count = state.withLock { state in
            let parked = state.parked
            state.parked = []
            for var job in parked {
                if isAnew { job.hasWaited = false }
                state.tokenLine.append(job)
            }
            return parked.count
        }
        for _ in 0..<count { tokenJobs.signal() }
    }

    private func answer(_ answers: [(Waiter, LoginAnswer)]) {
        for (waiter, answer) in answers { waiter.reply(conclude(answer, waiter.who)) }
    }

    // MARK: Passwords

    private func hash(_ digest: CredentialDigest, _ name: String, _ password: [UInt8]) {
        guard refuseLimited(digest) else { return }
        // Users may be reloaded while we hash; then the answer must come from the new table.
        while true {
            let user = state.withLock { state in
                state.counters.hashes += 1
                return state.users[name]
            }
            let matches: Bool?
            do throws(ScryptError) {
                // An unknown user costs a hash as well: time must not tell who exists.
                matches = try check(user?.hash ?? dummy, password)
            } catch {
                matches = nil
            }
            if finish(digest, name, user, matches) { return }
        }
    }

    /// Those who waited while others from the same address failed too often are not served any more.
    /// - Returns: whether anybody is left who waits.
    private func refuseLimited(_ digest: CredentialDigest) -> Bool {
        let now = now()
        let (refused, isWanted) = state.withLock { state -> ([(Waiter, LoginAnswer)], Bool) in
            var refused: [(Waiter, LoginAnswer)] = []
            var kept: [Waiter] = []
            for waiter in state.waiters[digest] ?? [] {
                let reason = state.limits.reasonAgainst(name: waiter.guessed, address: waiter.address, now: now)
                if let reason {
                    refused.append((waiter, .refused(.tooManyFailures, reason)))
                } else {
                    kept.append(waiter)
                }
            }
            state.waiters[digest] = kept.isEmpty ? nil : kept
            state.counters.waiting -= refused.count
            return (refused, !kept.isEmpty)
        }
        answer(refused)
        return isWanted
    }

    /// - Returns: false when the user has changed meanwhile.
    private func finish(_ digest: CredentialDigest, _ name: String, _ user: User?, _ matches: Bool?) -> Bool {
        let (now, wall) = (now(), wall())
        let answers = state.withLock { state -> [(Waiter, LoginAnswer)]? in
            let current = state.users[name]
            guard current?.hash == user?.hash else { return nil }
            let waiters = state.waiters.removeValue(forKey: digest) ?? []
            state.counters.waiting -= waiters.count
            guard let matches else {
                state.counters.failures += 1
                return waiters.map { ($0, .refused(.busy, "libcrypto could not check the password")) }
            }
            guard matches, let current else {
                for waiter in waiters { state.limits.failed(name: name, address: waiter.address, now: now) }
                return waiters.map { ($0, .wrongPassword) }
            }
            // One who was stopped meanwhile answers nobody and keeps nothing.
            if !state.isStopped {
                state.passwords.insert(digest, VerifiedPassword(user: current.name, hash: current.hash))
            }
            return waiters.map { waiter in
                state.limits.succeeded(name: name, address: waiter.address)
                return (waiter, .accept(current.name, current, waiter.who, wall: wall))
            }
        }
        guard let answers else { return false }
        answer(answers)
        return true
    }

    // MARK: Tokens

    private func verify(_ job: Job, _ token: [UInt8]) {
        guard refuseLimited(job.digest) else { return letGo(token) }
        while true {
            let (now, wall) = (now(), wall())
            let (verifier, epoch) = state.withLock { state in
                state.counters.tokens += 1
                return (state.verifier, state.tokenEpoch)
            }
            // Counted before the keys are looked at: keys that come later are seen by the number.
            let looks = verifier.stores.map(\.looks)
            let verdict = verifier.verify(token, wall: wall, monotonic: now)
            if case .unknownKey(let store, _) = verdict, !job.hasWaited, store.demand(now: now) {
                missedKeys.withLock { $0 }?()
                park(job, epoch) { verifier.stores.map(\.looks) != looks }
                return
            }
            if finish(job.digest, verdict, epoch, now, wall) { return letGo(token) }
        }
    }

    /// A token does not wait any more.
    private func letGo(_ token: [UInt8]) {
        state.withLock { state in
            if !state.isStopped { state.tokenBytes -= token.count }
        }
    }

    /// Puts a job aside until keys have come; `isLate` says whether some have come already.
    private func park(_ job: Job, _ epoch: Int, isLate: () -> Bool) {
        var job = job
        let goesOn = state.withLock { state in
            if state.isStopped { return false }
            // After a reload nobody may look there any more.
            guard state.tokenEpoch == epoch else {
                state.tokenLine.append(job)
                return true
            }
            job.hasWaited = true
            // Asked under the lock: a look counts first and then comes for the parked.
            if isLate() {
                state.tokenLine.append(job)
                return true
            }
            state.parked.append(job)
            return false
        }
        if goesOn { tokenJobs.signal() }
    }

    /// - Returns: false when issuers or keys have changed meanwhile.
    private func finish(
        _ digest: CredentialDigest, _ verdict: TokenVerifier.Verdict, _ epoch: Int, _ now: UInt64, _ wall: Int64
    ) -> Bool {
        let answers = state.withLock { state -> [(Waiter, LoginAnswer)]? in
            guard state.tokenEpoch == epoch else { return nil }
            let waiters = state.waiters.removeValue(forKey: digest) ?? []
            state.counters.waiting -= waiters.count
            switch verdict {
            case .proven(let proof):
                if !state.isStopped { state.tokens.insert(digest, proof) }
                let user = state.users[proof.user]
                return waiters.map { ($0, Self.answer(proof, user, $0.who, wall)) }
            case .refused(let refusal), .unknownKey(_, let refusal):
                if refusal.isGuess {
                    for waiter in waiters { state.limits.failed(name: nil, address: waiter.address, now: now) }
                }
                return waiters.map { ($0, .refused(.badCredentials, "token: \(refusal.reason)")) }
            }
        }
        guard let answers else { return false }
        answer(answers)
        return true
    }
}
