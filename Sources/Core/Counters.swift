/// What a lane counts. Plain numbers written by their lane alone and added up when somebody asks.

/// Why an event did not reach a port, or was not taken from a publisher.
public enum DropReason: Int, CaseIterable, Sendable {
    /// A slow reader's output was full (direct events).
    case outputFull
    /// A session's queue was full (guaranteed events).
    case queueFull
    /// Another lane's mailbox was full (direct events).
    case mailboxFull
    /// The access rules do not let the principal publish there.
    case notAuthorized
    /// The principal publishes faster than its quota.
    case quotaExceeded
    /// The retained store was full; the event itself was delivered.
    case retainedFull
    /// The event's time was over before it could be sent.
    case expired
    /// Larger than the client takes (MQTT 5 §3.1.2.11.4).
    case clientLimit
    /// The member of a shared group that it was chosen for has left, and no other was there.
    case noMember
    /// The payload is not the text that it claims to be (MQTT 5 §3.3.2.3.2).
    case badPayload
    /// The answer to a request that nobody waits for any more.
    case lateReply
    /// A webhook's target said that it will not take it, or never answered.
    case webhookRejected
    /// Its receiver rejected it (AMQP 1.0 §3.4.2), or can never take it (§3.4.5).
    case rejected
    /// Its receiver released it and it could not be given back (AMQP 1.0 §3.4.4).
    case released
    /// The rules do not let the subscriber of a broader filter read the topic.
    case notReadable
    /// A policy of the mesh keeps it from crossing a link.
    case linkPolicy
    /// It waited in a webhook or a bridge when the node stopped.
    case stopping
}

/// Why a connection ended.
public enum CloseReason: Int, CaseIterable, Sendable, Error {
    /// The client said goodbye.
    case clientDisconnected
    /// The peer closed or reset the connection without a word.
    case connectionLost
    /// Bytes that are not the protocol's.
    case malformedPacket
    /// Well-formed packets at the wrong time.
    case protocolError
    /// A packet larger than the limit.
    case packetTooLarge
    /// A protocol version this node does not speak.
    case unsupportedVersion
    /// No complete CONNECT in time.
    case connectTimeout
    /// Nothing heard for one and a half times the keep-alive.
    case keepAliveTimeout
    /// Another connection took the client id.
    case takenOver
    /// Wrong credentials, or anonymous where that is not allowed.
    case notAuthenticated
    /// A client id that cannot be used.
    case badClientID
    /// More connections or sessions than the limit, or too many waiting to be authenticated.
    case overLimit
    /// More publishes at once than the node allows (MQTT 5 §3.3.4).
    case receiveMaximumExceeded
    /// A topic alias out of range (MQTT 5 §3.3.2.3.4).
    case topicAliasInvalid
    /// A publish to something that is no topic.
    case topicNameInvalid
    /// A direct event whose payload is not the text that it claims to be (MQTT 5 §3.3.2.3.2).
    case payloadFormatInvalid
    /// A way of authentication that the node does not offer (MQTT 5 §4.12).
    case badAuthenticationMethod
    /// No complete request, or no answer taken, in time (HTTP).
    case requestTimeout
    /// The peer read a stream of events more slowly than they came.
    case slowReader
    /// TLS was not agreed on, or the certificate is not good.
    case handshakeFailed
    /// The proof of who it is has ended: a token or certificate expired, a certificate was revoked, a user removed.
    case proofEnded
    /// A quota of the user, the address or the listener.
    case overQuota
    /// Somebody who may do so ended it.
    case administrative
    /// The node is stopping.
    case shutdown
}

/// The counters of one lane.
public struct Counters: Sendable, Equatable {
    /// Events taken from publishers, refused ones included; what the node itself publishes does not count.
    public var eventsIn: UInt64 = 0
    /// Bytes of packets that brought events in.
    public var bytesIn: UInt64 = 0
    /// Events handed to ports.
    public var eventsOut: UInt64 = 0
    /// Packets other than events taken from clients.
    public var packetsIn: UInt64 = 0
    /// Packets other than events written to clients.
    public var packetsOut: UInt64 = 0
    /// Bytes read from sockets.
    public var socketBytesIn: UInt64 = 0
    /// Bytes that sockets took.
    public var socketBytesOut: UInt64 = 0
    /// Requests to connect (MQTT CONNECT, SASL logins of AMQP), whatever the answer.
    public var connects: UInt64 = 0
    /// Sessions that ended because their clients did not come back in time.
    public var sessionsExpired: UInt64 = 0
    /// Look-ups in the match cache, one for each run.
    public var cacheLookups: UInt64 = 0
    /// Connections accepted.
    public var accepted: UInt64 = 0
    /// Times accept found no descriptor left.
    public var descriptorsExhausted: UInt64 = 0
    /// Match-cache look-ups that had to walk the index.
    public var cacheMisses: UInt64 = 0
    /// Subscriptions refused by the access rules or a limit.
    public var subscriptionsRefused: UInt64 = 0
    /// Frames that were answered with an error for their link or session instead of being taken (AMQP 1.0).
    public var framesRefused: UInt64 = 0
    /// Events dropped, by reason.
    public var dropped = [UInt64](repeating: 0, count: DropReason.allCases.count)
    /// What was refused by a quota, by resource.
    public var refused = [UInt64](repeating: 0, count: QuotaResource.allCases.count)
    /// Connections closed, by reason.
    public var closed = [UInt64](repeating: 0, count: CloseReason.allCases.count)

    /// Counters at zero.
    public init() {}

    /// Counts dropped events.
    public mutating func drop(_ reason: DropReason, _ count: Int = 1) {
        dropped[reason.rawValue] &+= UInt64(truncatingIfNeeded: count)
    }

    /// Counts what was refused by a quota.
    public mutating func refuse(_ resource: QuotaResource) { refused[resource.rawValue] &+= 1 }

    /// Counts a closed connection.
    public mutating func close(_ reason: CloseReason) { closed[reason.rawValue] &+= 1 }

    /// Adds another lane's counters.
    public mutating func add(_ other: Counters) {
        eventsIn &+= other.eventsIn
        bytesIn &+= other.bytesIn
        eventsOut &+= other.eventsOut
        packetsIn &+= other.packetsIn
        packetsOut &+= other.packetsOut
        socketBytesIn &+= other.socketBytesIn
        socketBytesOut &+= other.socketBytesOut
        connects &+= other.connects
        sessionsExpired &+= other.sessionsExpired
        cacheLookups &+= other.cacheLookups
        accepted &+= other.accepted
        descriptorsExhausted &+= other.descriptorsExhausted
        cacheMisses &+= other.cacheMisses
        subscriptionsRefused &+= other.subscriptionsRefused
        framesRefused &+= other.framesRefused
        for index in dropped.indices { dropped[index] &+= other.dropped[index] }
        for index in refused.indices { refused[index] &+= other.refused[index] }
        for index in closed.indices { closed[index] &+= other.closed[index] }
    }
}
