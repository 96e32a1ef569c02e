import Core

/// Frames between nodes that are no events and yet tell of topics or carry events, at a link whose policy keeps some
/// topics back. Called at the node that sends over the link and at the one that receives, whoever the frames are from.
/// They are read only here, and only for such links.
enum GatedFrames {
    /// What becomes of one.
    enum Fate: Equatable {
        case pass
        case keep
        case change([UInt8])
    }

    /// Frames that neighbours send each other over their own link: the ends ask the policy entry by entry.
    static func isNeighbourly(_ type: UInt8) -> Bool {
        switch FrameType(rawValue: type) {
        case .retainedDigests, .retainedValues, .retainedRequest: true
        default: false
        }
    }

    /// Decides about a complete frame inside of a routed one.
    /// - Parameters:
    ///   - gate: of the direction that the frame takes.
    ///   - back: of the other one.
    static func judge(_ frame: [UInt8], _ gate: TopicGate, back: TopicGate) -> Fate {
        guard frame.count > FrameHeader.size else { return .pass }
        switch FrameType(rawValue: frame[3]) {
        case .retainedDigests, .retainedValues, .retainedRequest:
            // Of neighbours elsewhere. They compare over their own link; parts of values do not say their topic.
            return gate.rules.isSelective || back.rules.isSelective ? .keep : .pass
        case .session: return judgeSession(frame, gate, back: back)
        case .inquiryAnswer: return gate.rules.isSelective ? judgeAnswer(frame, gate) : .pass
        default: return .pass
        }
    }

    /// What is in a session is not for this protocol to read: it does not cross. Whoever claims one goes on without it
    /// at once, in that the node that has it is asked to leave it behind.
    private static func judgeSession(_ frame: [UInt8], _ gate: TopicGate, back: TopicGate) -> Fate {
        switch SessionFrame(rawValue: frame[FrameHeader.size]) {
        case .part: return gate.rules.isSelective ? .keep : .pass
        case .take:
            let mode = FrameHeader.size + 17
            guard back.rules.isSelective, frame.count > mode, frame[mode] == SurrenderMode.move.rawValue else {
                return .pass
            }
            var changed = frame
            changed[mode] = SurrenderMode.yield.rawValue
            return .change(changed)
        default: return .pass
        }
    }

    /// Topics that may not cross are left out of the answer to an inquiry.
    private static func judgeAnswer(_ frame: [UInt8], _ gate: TopicGate) -> Fate {
        frame.withUnsafeBytes { bytes in
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
            let (number, part, flags) = (reader.u64(), reader.u8(), reader.u8())
            let count = reader.count(each: 3)
            var body = WireWriter(.inquiryAnswer, .bulk, capacity: frame.count)
            var kept = 0
            for _ in 0..<count {
                let (topic, subscriptions, marks) = (reader.block(), reader.varint(), reader.u8())
                guard !reader.isBroken, gate.admits(topic) else { continue }
                kept += 1
                body.block(topic)
                body.varint(subscriptions)
                body.u8(marks)
            }
            // What cannot be read to its end is no answer.
            guard reader.isWhole else { return .keep }
            if kept == count { return .pass }
            var writer = WireWriter(.inquiryAnswer, .bulk, capacity: body.count + 24)
            writer.u64(number)
            writer.u8(part)
            writer.u8(flags)
            writer.varint(UInt64(kept))
            writer.raw(body.bytes[FrameHeader.size...])
            return .change(writer.finish())
        }
    }
}

extension MeshNode {
    /// What of a frame may leave over a link; nil for nothing.
    func gated(_ frame: [UInt8], out mesh: MeshLink) -> [UInt8]? {
        guard let gate = mesh.gate else { return frame }
        return gated(frame, gate.export, back: gate.import, mesh, isOut: true)
    }

    /// What of a frame may come in over a link; nil for nothing.
    func gated(_ frame: [UInt8], in mesh: MeshLink) -> [UInt8]? {
        guard let gate = mesh.gate else { return frame }
        return gated(frame, gate.import, back: gate.export, mesh, isOut: false)
    }

    private func gated(
        _ frame: [UInt8], _ gate: TopicGate, back: TopicGate, _ mesh: MeshLink, isOut: Bool
    ) -> [UInt8]? {
        switch GatedFrames.judge(frame, gate, back: back) {
        case .pass: return frame
        case .change(let changed): return changed
        case .keep:
            if isOut { mesh.counters.keptOut &+= 1 } else { mesh.counters.keptIn &+= 1 }
            return nil
        }
    }
}
