internal import CLinux
internal import Glibc

/// The inner loops: pointers only, nothing that allocates or counts references.
extension Session {
    /// Lets every publisher send what its window allows.
    @inline(__always)
    func pump() {
        let quantum = max(1, window / 4)
        for index in 0..<senderCount {
            let sender = senders + index
            if sender.pointee.blocked || sender.pointee.sent == sender.pointee.target { continue }
            let allowed = min(confirmed(index) + window, sender.pointee.target) - sender.pointee.sent
            if allowed >= min(quantum, sender.pointee.target - sender.pointee.sent) {
                send(sender, receiverCount + index, allowed)
            }
        }
    }

    /// The number of messages of a publisher that all its subscribers (and, with QoS 1, the broker) have confirmed.
    @inline(__always)
    private func confirmed(_ index: Int) -> Int {
        let sender = senders + index
        switch plan.flow {
        case .fan:
            var least = plan.qos > 0 ? sender.pointee.acknowledged : Int.max
            for subscriber in sender.pointee.firstSubscriber..<sender.pointee.endSubscriber {
                least = min(least, receivers[subscriber].received)
            }
            return least
        case .pooled:
            return totalReceived / senderCount
        case .matched:
            guard let cumulative else { return 0 }
            let lap = sender.pointee.block.frames
            var done = sender.pointee.confirmed
            while done < sender.pointee.sent,
                (done + 1) / lap * cumulative[lap] + cumulative[(done + 1) % lap] <= totalReceived
            {
                done += 1
            }
            sender.pointee.confirmed = done
            return done
        }
    }

    private func send(_ sender: UnsafeMutablePointer<Sender>, _ token: Int, _ count: Int) {
        let size = sender.pointee.block.frameSize
        let frames = sender.pointee.block.frames
        // Whole messages in a frame, as many as it holds.
        let most = isWebSocket ? FrameWriter.largest / size : Int.max
        var allowed = count
        while allowed > 0 {
            let position = sender.pointee.sent % frames
            let bytes = min(allowed, frames - position, most) * size - sender.pointee.offset
            let start = sender.pointee.block.bytes + position * size + sender.pointee.offset
            let sent =
                isWebSocket
                ? sender.pointee.writer.send(sender.pointee.fd, start, bytes)
                : Glibc.send(sender.pointee.fd, start, bytes, Int32(MSG_NOSIGNAL))
            if sent < 0 && errno != EAGAIN && errno != EINTR {
                problem = "send to the broker: \(String(cString: strerror(errno)))"
                return
            }
            let total = sender.pointee.offset + max(0, sent)
            let whole = total / size
            sender.pointee.sent += whole
            sender.pointee.offset = total - whole * size
            allowed -= whole
            if sent < bytes {
                sender.pointee.blocked = true
                poll.change(sender.pointee.fd, Poll.input | Poll.output, token: token)
                return
            }
        }
    }

    /// Reads once from a subscriber and checks every message.
    @inline(__always)
    func receive(_ index: Int) {
        let receiver = receivers + index
        let carried = receiver.pointee.carryCount
        if carried > 0 { memcpy(buffer, receiver.pointee.carry, carried) }
        let got = recv(receiver.pointee.fd, buffer + carried, Self.readSize, 0)
        guard got > 0 else { return closed(got, "subscriber", index) }
        let count = carried + (isWebSocket ? receiver.pointee.reader.unwrap(buffer + carried, got) : got)
        guard count >= carried else { return notAFrame("subscriber", index) }
        let before = receiver.pointee.received
        let used: Int
        if bytesOnly {
            let size = senders[0].block.frameSize
            receiver.pointee.received += count / size
            used = count / size * size
        } else {
            switch plan.flow {
            case .fan: used = scanOrdered(receiver, count)
            case .pooled: used = scanPooled(receiver, count)
            case .matched: used = scanMatched(receiver, count)
            }
        }
        guard used >= 0 else {
            problem = mismatch(receiver, index)
            return
        }
        totalReceived += receiver.pointee.received - before
        receiver.pointee.carryCount = count - used
        if count > used { memcpy(receiver.pointee.carry, buffer + used, count - used) }
        if receiver.pointee.ackCount > 0 { flushAcks(receiver) }
    }

    /// Walks whole messages; `accept` says whether one is the message that had to come. -1 if not.
    @inline(__always)
    private func walk(_ count: Int, _ accept: (UnsafeMutablePointer<UInt8>) -> Bool) -> Int {
        let block = senders[0].block
        var at = buffer
        let end = buffer + count
        while end - at >= block.frameSize {
            let head = UnsafeRawPointer(at).loadUnaligned(as: UInt32.self)
            guard head & block.headerMask == block.header, accept(at + block.payloadOffset) else {
                wrongAt = at - buffer
                return -1
            }
            at += block.frameSize
        }
        return at - buffer
    }

    /// What came instead of the event that was due, for whoever has to find out why.
    private func mismatch(_ receiver: UnsafeMutablePointer<Receiver>, _ index: Int) -> String {
        let block = senders[0].block
        let frame = UnsafeRawPointer(buffer + wrongAt)
        let head = frame.loadUnaligned(as: UInt32.self) & block.headerMask
        let stamp = (frame + block.payloadOffset).loadUnaligned(as: UInt64.self)
        let due = receiver.pointee.expected.map { Int($0[receiver.pointee.next]) } ?? receiver.pointee.next
        let found =
            head == block.header
            ? "number \(stamp & 0xffff_ffff) of publisher \(stamp >> 32)"
            : "bytes beginning with 0x\(String(frame.loadUnaligned(as: UInt32.self).byteSwapped, radix: 16))"
        let wanted =
            plan.flow == .pooled ? "" : ", number \(due) of publisher \(receiver.pointee.source) was due"
        return "lost, doubled, reordered or foreign event: after \(receiver.pointee.received) events "
            + "subscriber \(index) got \(found)\(wanted) (numbers go round at \(block.frames))"
    }

    private func scanOrdered(_ receiver: UnsafeMutablePointer<Receiver>, _ count: Int) -> Int {
        let frames = UInt64(senders[0].block.frames)
        let source = receiver.pointee.source << 32
        var next = UInt64(receiver.pointee.next)
        var seen = 0
        let acks = receiver.pointee.acks
        var ackCount = receiver.pointee.ackCount
        let properties = propertyBytes
        let used = walk(count) { payload in
            guard UnsafeRawPointer(payload).loadUnaligned(as: UInt64.self) == source | next else { return false }
            next = next + 1 == frames ? 0 : next + 1
            seen &+= 1
            if let acks {
                guard ackCount + 4 <= Self.ackRoom else { return false }
                acks[ackCount] = 0x40
                acks[ackCount + 1] = 2
                acks[ackCount + 2] = payload[-2 - properties]
                acks[ackCount + 3] = payload[-1 - properties]
                ackCount += 4
            }
            return true
        }
        receiver.pointee.next = Int(next)
        receiver.pointee.received += seen
        receiver.pointee.ackCount = ackCount
        return used
    }

    private func scanPooled(_ receiver: UnsafeMutablePointer<Receiver>, _ count: Int) -> Int {
        let frames = senders[0].block.frames
        let sources = bySource
        let sourceCount = senderCount
        var seen = 0
        let used = walk(count) { payload in
            let stamp = UnsafeRawPointer(payload).loadUnaligned(as: UInt64.self)
            let source = Int(stamp >> 32)
            guard source < sourceCount else { return false }
            let expected = sources[source] % frames
            guard Int(stamp & 0xffff_ffff) == expected else { return false }
            sources[source] += 1
            seen &+= 1
            return true
        }
        receiver.pointee.received += seen
        return used
    }

    private func scanMatched(_ receiver: UnsafeMutablePointer<Receiver>, _ count: Int) -> Int {
        guard let list = receiver.pointee.expected, receiver.pointee.expectedCount > 0 else { return -1 }
        let length = receiver.pointee.expectedCount
        let source = receiver.pointee.source << 32
        var next = receiver.pointee.next
        var seen = 0
        let used = walk(count) { payload in
            let due = source | UInt64(UInt32(bitPattern: list[next]))
            guard UnsafeRawPointer(payload).loadUnaligned(as: UInt64.self) == due else { return false }
            next = next + 1 == length ? 0 : next + 1
            seen &+= 1
            return true
        }
        receiver.pointee.next = next
        receiver.pointee.received += seen
        return used
    }

    /// PUBACKs to a publisher: they come in the order of the publishes, each once.
    func acknowledge(_ index: Int) {
        let sender = senders + index
        let carried = sender.pointee.carryCount
        if carried > 0, let carry = sender.pointee.carry { memcpy(buffer, carry, carried) }
        let got = recv(sender.pointee.fd, buffer + carried, Self.readSize, 0)
        guard got > 0 else { return closed(got, "publisher", index) }
        guard plan.qos > 0, let carry = sender.pointee.carry else {
            problem = "the broker sent \(got) bytes to publisher \(index)"
            return
        }
        let count = carried + (isWebSocket ? sender.pointee.reader.unwrap(buffer + carried, got) : got)
        guard count >= carried else { return notAFrame("publisher", index) }
        var at = 0
        while count - at >= 2 {
            let size = 2 + Int(buffer[at + 1])
            guard count - at >= size else { break }
            let due = sender.pointee.acknowledged % sender.pointee.block.frames + 1
            guard isSuccess(buffer + at, size), Int(buffer[at + 2]) << 8 | Int(buffer[at + 3]) == due else {
                let bytes = (0..<min(size, count - at)).map { String(buffer[at + $0], radix: 16) }
                problem = "publisher \(index): 0x\(bytes.joined(separator: " ")) where PUBACK of \(due) was due"
                return
            }
            sender.pointee.acknowledged += 1
            at += size
        }
        sender.pointee.carryCount = count - at
        memcpy(carry, buffer + at, count - at)
    }

    /// Whether a packet is a PUBACK that says success; in MQTT 5 it may have a reason code and properties.
    @inline(__always)
    private func isSuccess(_ packet: UnsafeMutablePointer<UInt8>, _ size: Int) -> Bool {
        guard packet[0] == 0x40, size >= 4 else { return false }
        if size == 4 { return true }
        return propertyBytes > 0 && packet[4] < 0x80 && (size == 5 || 6 + Int(packet[5]) == size)
    }

    func flushAcks() {
        unsentAcks = false
        for index in 0..<receiverCount where receivers[index].ackCount > 0 { flushAcks(receivers + index) }
    }

    private func flushAcks(_ receiver: UnsafeMutablePointer<Receiver>) {
        guard let acks = receiver.pointee.acks else { return }
        let count = receiver.pointee.ackCount
        let sent = max(
            0,
            isWebSocket
                ? receiver.pointee.writer.send(receiver.pointee.fd, acks, count)
                : Glibc.send(receiver.pointee.fd, acks, count, Int32(MSG_NOSIGNAL)))
        receiver.pointee.ackCount = count - sent
        if sent < count {
            memmove(acks, acks + sent, count - sent)
            unsentAcks = true
        }
    }

    private func notAFrame(_ role: String, _ index: Int) {
        problem = "\(role) \(index) got what is no frame of MQTT over WebSocket"
    }

    private func closed(_ result: Int, _ role: String, _ index: Int) {
        if result < 0, errno == EAGAIN || errno == EINTR { return }
        problem = "the broker closed the connection of \(role) \(index)"
    }
}
