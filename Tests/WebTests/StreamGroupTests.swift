import Core
import Testing
import TestSupport

@testable import Web

@Suite("Streams over HTTP that share a subscription")
struct StreamGroupTests {
    /// A member of the group and what it has read.
    private struct Member {
        var client: StandClient
        var reader = EventSourceReader()

        mutating func read() { reader.take(client.received()) }
    }

    private func member(
        _ stand: StreamStand, lane: Int = 0, after id: String? = nil, weight: Int? = nil
    ) -> Member {
        var member = Member(client: stand.client(lane: lane))
        let target = "/events?filter=t&filter=u&group=g" + (weight.map { "&weight=\($0)" } ?? "")
        if let id {
            member.client.get(target, "Last-Event-ID: \(id)")
        } else {
            member.client.get(target)
        }
        member.read()
        return member
    }

    @Test("Each event once among three streams, on one lane and on three", arguments: [1, 3])
    func once(lanes: Int) throws {
        let stand = try StreamStand(lanes: lanes)
        var members = (0..<3).map { member(stand, lane: $0 % lanes) }
        for number in 0..<90 { stand.publish(number % 2 == 0 ? "t" : "u", "\(number)", qos: 1, lane: number % lanes) }
        for index in members.indices { members[index].read() }
        let all = members.flatMap { $0.reader.messages.map(\.data) }
        #expect(all.count == 90)
        #expect(Set(all).count == 90)
        for member in members { #expect(member.reader.messages.count >= 15) }
    }

    @Test("By weight, which a reader that comes back may change")
    func weights() throws {
        let stand = try StreamStand(lanes: 2)
        var (canary, other) = (member(stand, weight: 5), member(stand, lane: 1, weight: 95))
        func publish(_ round: String) { for number in 0..<200 { stand.publish("t", "\(round)\(number)") } }
        publish("a")
        canary.read()
        other.read()
        #expect(abs(canary.reader.messages.count - 10) <= 3)
        #expect(canary.reader.messages.count + other.reader.messages.count == 200)
        canary.client.cut()
        var back = member(stand, after: canary.reader.lastID, weight: 95)
        publish("b")
        back.read()
        #expect(abs(back.reader.messages.count - 100) <= 4)
    }

    @Test("Who has gone gets nothing, what it was chosen for and not sent goes to others", arguments: [1, 3])
    func leaving(lanes: Int) throws {
        let stand = try StreamStand(lanes: lanes)
        var members = (0..<3).map { member(stand, lane: $0 % lanes) }
        // A slow reader is cut by the event that finds it so, which is another's then.
        members[1].client.link.isCongested = true
        for number in 0..<30 { stand.publish("t", "\(number)", qos: 1) }
        #expect(members[1].client.closing == .slowReader)
        for index in members.indices { members[index].read() }
        #expect(members[1].reader.messages.isEmpty)
        let all = members.flatMap { $0.reader.messages.map(\.data) }
        #expect(all.count == 30)
        #expect(Set(all).count == 30)
        #expect(stand.dropped(.noMember) == 0)
    }

    @Test("Alone it collects while it is away, and what nobody takes in time is dropped and counted")
    func alone() throws {
        let stand = try StreamStand()
        var only = member(stand)
        stand.publish("t", "1")
        only.read()
        only.client.cut()
        for number in 2...4 { stand.publish("t", "\(number)") }
        var back = member(stand, after: only.reader.lastID)
        #expect(back.reader.messages.map(\.data) == ["2", "3", "4"])
        stand.publish("t", "5")
        back.read()
        #expect(back.reader.messages.last?.data == "5")
        back.client.cut()
        stand.publish("t", "6")
        stand.publish("t", "7")
        // Another comes: what waits for the first stays its own until its time is over.
        var other = member(stand)
        stand.publish("t", "8")
        other.read()
        #expect(other.reader.messages.map(\.data) == ["8"])
        stand.advance(milliseconds: 61_000)
        other.read()
        #expect(other.reader.messages.map(\.data) == ["8", "6", "7"])
        other.client.cut()
        stand.publish("t", "9")
        stand.advance(milliseconds: 61_000)
        #expect(stand.dropped(.noMember) == 1)
        #expect(stand.streams().channelCount == 0)
    }

    @Test("A reader that is back before its end was noticed takes the stream over")
    func takeover() throws {
        let stand = try StreamStand(lanes: 2)
        var old = member(stand)
        stand.publish("t", "1")
        var back = member(stand, lane: 1, after: old.reader.lastID)
        #expect(old.client.closing == .takenOver)
        stand.publish("t", "2")
        old.read()
        back.read()
        #expect(old.reader.messages.map(\.data) == ["1"])
        #expect(back.reader.messages.map(\.data) == ["1", "2"])
        #expect(stand.streams().channelCount == 1)
    }

    @Test("Nothing is lost, and nothing comes to two, while members are killed at random", arguments: 0..<30)
    func random(seed: UInt64) throws {
        var random = Seeded(seed: seed)
        let lanes = Int(random.next() % 3) + 1
        let stand = try StreamStand(lanes: lanes)
        var members = (0..<3).map { member(stand, lane: $0 % lanes) }
        var lost: [Int: EventSourceReader] = [:]
        var published = 0
        for _ in 0..<300 {
            if random.next() % 4 > 0 {
                stand.publish(
                    random.next() % 2 == 0 ? "t" : "u", "\(published)", qos: UInt8(random.next() % 3),
                    lane: Int(random.next() % UInt64(lanes)))
                published += 1
                continue
            }
            let index = Int(random.next() % 3)
            if let reader = lost[index] {
                var back = member(stand, lane: Int(random.next() % UInt64(lanes)), after: reader.lastID)
                back.reader = merged(reader, back.reader)
                members[index] = back
                lost[index] = nil
            } else {
                if random.next() % 2 == 0 { members[index].client.link.isCongested = true }
                members[index].read()
                if random.next() % 2 == 0 { members[index].client.cut() }
                guard members[index].client.closing != nil else { continue }
                members[index].read()
                lost[index] = members[index].reader
            }
        }
        // All are back and take what is theirs.
        for index in 0..<3 {
            members[index].read()
            if members[index].client.closing == nil, members[index].client.link.isCongested {
                members[index].client.cut()
            }
            guard members[index].client.closing != nil else { continue }
            var back = member(stand, after: members[index].reader.lastID)
            back.reader = merged(members[index].reader, back.reader)
            members[index] = back
        }
        for index in 0..<3 { members[index].read() }
        let all = members.flatMap { $0.reader.messages.map(\.data) }
        #expect(all.count == published, "seed \(seed)")
        #expect(Set(all).count == published, "seed \(seed)")
        #expect(stand.dropped(.noMember) == 0)
    }

    /// What was read before an interruption, and after.
    private func merged(_ before: EventSourceReader, _ after: EventSourceReader) -> EventSourceReader {
        var all = after
        all.prepend(before.messages)
        return all
    }
}
