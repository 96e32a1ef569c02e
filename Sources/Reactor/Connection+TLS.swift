import Core
import TLS

/// TLS between a connection and its socket. What comes from the socket lies in a buffer of the lane and is unsealed
/// straight to where the connection wants it; what is sealed goes to the socket out of another one. What the socket
/// does not take of it is kept by the session, and nothing more is sealed before it has gone: data waits as it is, in
/// the connection's queue, also until the handshake is over.
extension Connection {
    // MARK: Reading

    /// - Returns: bytes of data; 0 when there are none now.
    func readSealed(_ secured: SecuredTransport, _ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int {
        let session = secured.session
        let wasHandshaking = session.isHandshaking
        // The socket stays readable: it is looked at again in the next pass.
        if wasHandshaking, lane.handshakeSteps >= ReactorLane.handshakesAtOnce { return 0 }
        // All that is received is unsealed at once, and so nothing waits where no event of the socket would tell.
        let most = min(count - TLSSession.maxRecordBytes, ReactorLane.sealedSize)
        guard most > 0 else { return 0 }
        let received: Int
        switch receiveSome(lane.sealedInput, most) {
        case .bytes(let count): received = count
        case .none: return 0
        case .end, .lost:
            sealedInputHasEnded(secured)
            return 0
        }
        var output = lane.takeOutput()
        let data = session.receive(
            UnsafeRawBufferPointer(start: lane.sealedInput, count: received),
            into: UnsafeMutableRawBufferPointer(start: buffer, count: count), &output)
        if wasHandshaking, output.count > 0 || !session.isHandshaking { lane.handshakeSteps += 1 }
        sendSealed(secured, output)
        if wasHandshaking, !session.isHandshaking, session.failure == nil { handsShaken(secured) }
        if data == 0 {
            settleInput()
            // What the session has to say, as a long chain of certificates, may have to wait for the socket.
            updateInterest()
        }
        return data
    }

    /// The socket has ended. Without a goodbye before it (`close_notify`) somebody on the way may have cut it off.
    private func sealedInputHasEnded(_ secured: SecuredTransport) {
        let session = secured.session
        if session.isHandshaking, session.hasHeard, finishing == nil {
            session.fail("the peer ended the connection in the handshake")
            record(session)
            secured.isFailureSettled = true
            close(.handshakeFailed)
        } else if finishing != nil, !isWritingShut, !session.isHandshaking, session.failure == nil {
            inputHasEnded()
        } else {
            close(finishing ?? .connectionLost)
        }
    }

    /// What was received has been taken: an end or a failure behind it comes into effect.
    func settleInput() {
        guard let secured, closing == nil else { return }
        if let failure = secured.session.failure {
            if !secured.isFailureSettled { settle(failure, secured) }
        } else if secured.session.hasInputEnded, !hasInputEnded, !isPaused || finishing != nil {
            inputHasEnded()
        }
    }

    /// A failure in sealing comes into effect, once nobody is busy with what waits: it is released.
    func settleFailure() {
        if let secured, secured.session.failure != nil { settleInput() }
    }

    /// The peer is told by an alert, which lies in the output already, and gets time to read it.
    private func settle(_ failure: String, _ secured: SecuredTransport) {
        secured.isFailureSettled = true
        record(secured.session)
        if let finishing { return close(finishing) }
        releaseOutput()
        finish(secured.handshakeDeadline == nil ? .malformedPacket : .handshakeFailed)
    }

    private func record(_ session: TLSSession) {
        guard let reason = session.failure, let audit = lane.audit else { return }
        var record = AuditRecord(.connection, "handshake", reason: reason)
        if secured?.handshakeDeadline == nil { record.action = "receive" }
        record.object = listenerName
        record.peer = peer
        record.protocolName = protocolName
        record.user = provenUser
        audit.record(record)
    }

    private var protocolName: String { traffic?.takeUnretainedValue().protocolName ?? "" }

    // MARK: Handshake

    /// The connection has its conversation: a client says hello.
    func startHandshake() {
        guard let secured, secured.session.isHandshaking else { return }
        setHandshakeTimer(secured)
        var output = lane.takeOutput()
        secured.session.start(&output)
        sendSealed(secured, output)
        settleInput()
        updateInterest()
    }

    /// The conversation asks for a deadline: the earlier one counts.
    func askInHandshake(_ secured: SecuredTransport, _ deadline: UInt64) {
        secured.askedDeadline = deadline
        setHandshakeTimer(secured)
    }

    private func setHandshakeTimer(_ secured: SecuredTransport) {
        guard let deadline = secured.handshakeDeadline else { return }
        lane.setTimer(self, min(deadline, secured.askedDeadline ?? deadline))
    }

    private func handsShaken(_ secured: SecuredTransport) {
        secured.handshakeDeadline = nil
        if finishing == nil {
            if let asked = secured.askedDeadline { lane.setTimer(self, asked) } else { lane.cancelTimer(self) }
        }
        judgeLate()
        // What waited for this is sent when the socket says that it takes it.
        updateInterest()
    }

    /// While the handshake is under way the socket is read whatever the conversation says, and written to only what the
    /// session has to say.
    func watchHandshake(_ secured: SecuredTransport) {
        watch(reads: closing == nil && !hasInputEnded, writes: secured.countedBytes > 0)
    }

    /// A deadline has come while the handshake is under way.
    /// - Returns: whether it was the handshake's, and not the conversation's.
    func isHandshakesTick(_ secured: SecuredTransport) -> Bool {
        if let deadline = secured.handshakeDeadline, lane.now >= deadline {
            secured.session.fail("the handshake took too long")
            secured.isFailureSettled = true
            record(secured.session)
            close(.handshakeFailed)
            return true
        }
        guard let asked = secured.askedDeadline, lane.now >= asked else {
            setHandshakeTimer(secured)
            return true
        }
        secured.askedDeadline = nil
        setHandshakeTimer(secured)
        return false
    }

    // MARK: Writing

    /// - Returns: bytes of data taken; after a failure all of them, to nowhere, and ``settleFailure()`` is due.
    func writeSealed(_ secured: SecuredTransport, _ bytes: UnsafeRawPointer, _ count: Int) -> Int {
        let session = secured.session
        guard session.failure == nil else { return count }
        var taken = 0
        while taken < count, !session.isHandshaking, !session.isListening, session.keptCount == 0 {
            let part = min(count - taken, OutputBuffers.largeSize)
            var output = lane.takeOutput()
            let sealed = session.send(UnsafeRawBufferPointer(start: bytes + taken, count: part), &output)
            sendSealed(secured, output)
            taken += sealed
            // After a failure, or a goodbye, there is nobody to say it to.
            if sealed < part { return count }
        }
        return taken
    }

    /// Sends what a call to the session has left in its output.
    private func sendSealed(_ secured: SecuredTransport, _ output: TLSOutput) {
        if output.count > 0 {
            let sent = sendSome(output.base, output.count)
            if sent < output.count {
                secured.session.keep(
                    UnsafeRawBufferPointer(start: output.base + sent, count: output.count - sent))
            }
        }
        countKept(secured)
    }

    /// Sends what the socket did not take before.
    /// - Returns: whether it has all gone, and data may follow.
    func sendKept(_ secured: SecuredTransport) -> Bool {
        let kept = secured.session.kept
        if let base = kept.baseAddress, !kept.isEmpty {
            secured.session.dropKept(sendSome(base, kept.count))
            countKept(secured)
        }
        return secured.session.keptCount == 0 && !secured.session.isHandshaking
    }

    private func countKept(_ secured: SecuredTransport) {
        let count = secured.session.keptCount
        guard count != secured.countedBytes else { return }
        pendingBytes += count - secured.countedBytes
        secured.countedBytes = count
    }

    /// Says that nothing more will come, if nothing was left out.
    /// - Returns: whether that has gone.
    func sayGoodbye(_ secured: SecuredTransport) -> Bool {
        guard pendingBytes == 0 else { return false }
        var output = lane.takeOutput()
        secured.session.close(&output)
        sendSealed(secured, output)
        return pendingBytes == 0
    }

    // MARK: Judging

    /// The door's files may have been read anew in the middle of the handshake, or while the connection was between two
    /// lanes: when all others were judged it was not seen.
    func judgeLate() {
        if let secured, secured.session.isJudgementOld { _ = judgeCertificate() }
    }

    /// Ends the connection if its peer's certificate is no longer good.
    /// - Returns: whether there was one to judge.
    func judgeCertificate() -> Bool {
        guard let secured, secured.session.certificate != nil, closing == nil, finishing == nil else { return false }
        guard let reason = secured.session.judge() else { return true }
        if let audit = lane.audit {
            var record = AuditRecord(.authentication, "certificate", reason: "the peer's certificate: \(reason)")
            record.object = listenerName
            record.peer = peer
            record.protocolName = protocolName
            record.user = provenUser
            audit.record(record)
        }
        close(.proofEnded)
        return true
    }
}
