/// What is served at an HTTP listener, and what may become of a request.
public import Core

/// Takes the requests of all connections of a listener.
///
/// Threading: shared by all lanes; each call is made on the connection's lane and must not block.
public protocol HTTPSite: AnyObject, Sendable {
    /// Bounds of requests.
    var limits: HTTPLimits { get }

    /// Says whether a request may go on, when its head has come and perhaps nothing of its body. Called again for the
    /// same request when more of it has come.
    func admit(_ head: RequestHead, of connection: HTTPConversation, on lane: Lane) -> Admission

    /// Takes a complete request.
    /// - Parameters:
    ///   - body: borrowed, like the head: valid during the call, and after ``RequestVerdict/publishing`` until the turn
    ///     has been routed.
    ///   - turn: what is to be published; a site that does not add to it must not act while it has something in it, but
    ///     say ``RequestVerdict/routeFirst``.
    func take(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, of connection: HTTPConversation, _ turn: Turn,
        on lane: Lane
    ) -> RequestVerdict

    /// The turn has been routed: answers what was published, in order.
    func routed(_ turn: Turn, of connection: HTTPConversation, on lane: Lane)
}

extension HTTPSite {
    /// Whoever gets here may go on.
    public func admit(_ head: RequestHead, of connection: HTTPConversation, on lane: Lane) -> Admission { .granted }
}

/// Whether a request may go on.
public enum Admission {
    /// It may.
    case granted
    /// It is not known yet: the connection is not read until ``Link/resume()`` is called.
    case pending
    /// It may not, or there is nothing to be done: this is the answer.
    case answered(HTTPResponse)
}

/// What became of a request.
public enum RequestVerdict {
    /// The answer has been written with ``HTTPConversation/respond(_:)``.
    case answered
    /// It is in the turn, and ``HTTPSite/routed(_:of:on:)`` answers it; the next request may join it.
    case publishing
    /// The same, but the next request has to wait for the answer.
    case publishingAlone
    /// The answer comes later, by ``HTTPConversation/respond(_:)`` or the responder of
    /// ``HTTPConversation/answerLater()``.
    case later
    /// Nothing has been done: the turn must be routed before.
    case routeFirst
    /// The answer goes on for as long as the stream lives; what the client still sends is thrown away.
    case streaming(any HTTPStream)
    /// From here on the connection is another conversation's.
    case upgraded(Conversation)
    /// What the request is about lives on another lane: the connection moves there, and the request is taken there.
    case moving(to: Int, any HTTPTraveller)
}

/// The entry of HTTP: makes a conversation for each accepted connection.
public final class HTTPAdapter: Adapter {
    /// The name in configuration and metrics.
    public let name: String
    private let site: any HTTPSite
    private let wallClock: @Sendable () -> Int

    /// Makes the adapter of a site.
    /// - Parameter wallClock: seconds since 1970, for the field `Date`.
    public init(name: String = "http", site: any HTTPSite, wallClock: @escaping @Sendable () -> Int) {
        self.name = name
        self.site = site
        self.wallClock = wallClock
    }

    /// A conversation for a new connection.
    public func makeConversation(link: Link, on lane: Lane) -> Conversation {
        HTTPConversation(site: site, link: link, shared: HTTPLane.of(lane, wallClock), on: lane)
    }
}

/// What HTTP keeps for a lane: room for a head, the text of the date. Confined to the lane.
final class HTTPLane {
    let storage = RequestHead.Storage()
    private unowned let lane: Lane
    let wallClock: @Sendable () -> Int
    private var dateAt: UInt64 = 0
    private var dateLine: [UInt8] = []

    private init(_ lane: Lane, _ wallClock: @escaping @Sendable () -> Int) {
        self.lane = lane
        self.wallClock = wallClock
    }

    /// The lane's time in milliseconds.
    var now: UInt64 { lane.now }

    static func of(_ lane: Lane, _ wallClock: @escaping @Sendable () -> Int) -> HTTPLane {
        if let known = lane.belongings["http.lane"] as? HTTPLane { return known }
        let made = HTTPLane(lane, wallClock)
        lane.belongings["http.lane"] = made
        return made
    }

    /// `Date: …` with its line end (RFC 9110 §5.6.7), made anew once a second.
    func date() -> [UInt8] {
        guard dateLine.isEmpty || now >= dateAt + 1_000 else { return dateLine }
        let seconds = wallClock()
        // Whole seconds of the wall clock may begin in the midst of one of the lane's: at most a second late.
        dateAt = now
        dateLine = Array("Date: \(HTTPDate.text(seconds))\r\n".utf8)
        return dateLine
    }
}

/// The form of dates in HTTP (RFC 9110 §5.6.7).
enum HTTPDate {
    private static let days = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]
    private static let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]

    /// `Sun, 06 Nov 1994 08:49:37 GMT` for seconds since 1970.
    static func text(_ seconds: Int) -> String {
        let (days, rest) = (max(seconds, 0) / 86_400, max(seconds, 0) % 86_400)
        let (year, month, day) = date(days)
        func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let clock = "\(two(rest / 3_600)):\(two(rest / 60 % 60)):\(two(rest % 60))"
        return "\(Self.days[days % 7]), \(two(day)) \(months[month - 1]) \(year) \(clock) GMT"
    }

    /// Year, month and day from days since 1970, in the proleptic Gregorian calendar: years begin in March and eras of
    /// 400 years are all alike.
    private static func date(_ days: Int) -> (Int, Int, Int) {
        let shifted = days + 719_468
        let era = shifted / 146_097
        let dayOfEra = shifted % 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let part = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * part + 2) / 5 + 1
        let month = part < 10 ? part + 3 : part - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day)
    }
}
