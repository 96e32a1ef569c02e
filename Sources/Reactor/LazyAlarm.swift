import Core

/// An alarm of a lane that is made when it is first set: most lanes never need theirs. Confined to the lane.
struct LazyAlarm {
    private var alarm: Alarm?

    /// Sets it to a time in the lane's milliseconds; nil keeps it silent.
    /// - Parameter ring: what it does; the first call's is kept.
    mutating func set(_ time: UInt64?, on lane: ReactorLane, ring: @escaping (ReactorLane) -> Void) {
        guard time != nil || alarm != nil else { return }
        let alarm = self.alarm ?? make(on: lane, ring)
        alarm.at = time ?? .max
    }

    private mutating func make(on lane: ReactorLane, _ ring: @escaping (ReactorLane) -> Void) -> Alarm {
        let made = Alarm { lane in if let lane = lane as? ReactorLane { ring(lane) } }
        lane.alarms.append(made)
        alarm = made
        return made
    }

    /// Keeps it silent.
    func silence() { alarm?.at = .max }
}
