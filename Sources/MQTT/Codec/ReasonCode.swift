import Core

/// Reason codes (MQTT 5 §2.4). From 0x80 on they say that something failed.
enum ReasonCode: UInt8 {
    /// Also "normal disconnection" and "granted QoS 0".
    case success = 0x00
    case grantedQoS1 = 0x01
    case grantedQoS2 = 0x02
    case disconnectWithWill = 0x04
    case noMatchingSubscribers = 0x10
    case noSubscriptionExisted = 0x11
    case continueAuthentication = 0x18
    case reauthenticate = 0x19
    case unspecifiedError = 0x80
    case malformedPacket = 0x81
    case protocolError = 0x82
    case implementationSpecificError = 0x83
    case unsupportedProtocolVersion = 0x84
    case clientIdentifierNotValid = 0x85
    case badUserNameOrPassword = 0x86
    case notAuthorized = 0x87
    case serverUnavailable = 0x88
    case serverBusy = 0x89
    case serverShuttingDown = 0x8B
    case badAuthenticationMethod = 0x8C
    case keepAliveTimeout = 0x8D
    case sessionTakenOver = 0x8E
    case topicFilterInvalid = 0x8F
    case topicNameInvalid = 0x90
    case packetIdentifierInUse = 0x91
    case packetIdentifierNotFound = 0x92
    case receiveMaximumExceeded = 0x93
    case topicAliasInvalid = 0x94
    case packetTooLarge = 0x95
    case messageRateTooHigh = 0x96
    case quotaExceeded = 0x97
    case administrativeAction = 0x98
    case payloadFormatInvalid = 0x99
    case connectionRateExceeded = 0x9F

    /// The reason string that goes with a failure (§3.2.2.3.9 and others): what is wrong, for people.
    var text: String {
        switch self {
        case .success, .grantedQoS1, .grantedQoS2, .disconnectWithWill, .continueAuthentication, .reauthenticate: ""
        case .noMatchingSubscribers: "nobody has subscribed to this topic"
        case .noSubscriptionExisted: "there was no such subscription"
        case .unspecifiedError: "the node failed"
        case .malformedPacket: "the packet is malformed"
        case .protocolError: "the packet is not allowed here"
        case .implementationSpecificError: "the node does not accept this"
        case .unsupportedProtocolVersion: "only MQTT 3.1, 3.1.1 and 5 are spoken here"
        case .clientIdentifierNotValid: "the client identifier cannot be used"
        case .badUserNameOrPassword: "user name, password or token is wrong"
        case .notAuthorized: "the access rules do not allow it"
        case .serverUnavailable: "the node is not available"
        case .serverBusy: "too many connections at once; try again"
        case .serverShuttingDown: "the node is stopping"
        case .badAuthenticationMethod: "this authentication method is not offered"
        case .keepAliveTimeout: "nothing was heard for one and a half times the keep-alive"
        case .sessionTakenOver: "another connection uses this client identifier now"
        case .topicFilterInvalid: "not a topic filter"
        case .topicNameInvalid: "not a topic that can be published to"
        case .packetIdentifierInUse: "the packet identifier is in use"
        case .packetIdentifierNotFound: "nothing with this packet identifier is in flight"
        case .receiveMaximumExceeded: "more publishes in flight than the receive maximum"
        case .topicAliasInvalid: "the topic alias is out of range"
        case .packetTooLarge: "the packet is larger than the maximum packet size"
        case .messageRateTooHigh: "too many events a second"
        case .quotaExceeded: "a limit of the node is reached"
        case .administrativeAction: "an administrator ended the connection"
        case .payloadFormatInvalid: "the payload is not UTF-8 although it says so"
        case .connectionRateExceeded: "too many attempts; try again later"
        }
    }

    /// What a client may be told of why its connection ends; nil where it ended it, or is gone.
    init?(_ reason: CloseReason) {
        switch reason {
        case .clientDisconnected, .connectionLost, .connectTimeout, .requestTimeout, .handshakeFailed: return nil
        case .malformedPacket: self = .malformedPacket
        case .protocolError: self = .protocolError
        case .packetTooLarge: self = .packetTooLarge
        case .unsupportedVersion: self = .unsupportedProtocolVersion
        case .keepAliveTimeout: self = .keepAliveTimeout
        case .takenOver: self = .sessionTakenOver
        case .notAuthenticated, .proofEnded: self = .notAuthorized
        case .badClientID: self = .clientIdentifierNotValid
        case .overLimit, .slowReader, .overQuota: self = .quotaExceeded
        case .receiveMaximumExceeded: self = .receiveMaximumExceeded
        case .topicAliasInvalid: self = .topicAliasInvalid
        case .topicNameInvalid: self = .topicNameInvalid
        case .payloadFormatInvalid: self = .payloadFormatInvalid
        case .badAuthenticationMethod: self = .badAuthenticationMethod
        case .administrative: self = .administrativeAction
        case .shutdown: self = .serverShuttingDown
        }
    }
}

extension CloseReason {
    /// How a connection ends on which bytes were refused.
    init(_ failure: MQTTFailure) {
        switch failure {
        case .malformed: self = .malformedPacket
        case .protocolError: self = .protocolError
        case .unsupportedVersion: self = .unsupportedVersion
        case .badAuthenticationMethod: self = .badAuthenticationMethod
        case .topicNameInvalid: self = .topicNameInvalid
        case .payloadFormatInvalid: self = .payloadFormatInvalid
        }
    }
}
