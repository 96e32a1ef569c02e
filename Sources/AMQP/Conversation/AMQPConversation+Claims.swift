import Core

/// The node at `$cbs`: clients that send a token before they do anything else are told that it is fine, because the
/// connection has been authenticated already. What the token says is not looked at.
extension AMQPConversation {
    /// Answers put-token with status 202 on the client's link from `$cbs`.
    func answerClaim(_ message: IncomingMessage, _ bytes: UnsafeRawBufferPointer, on lane: Lane) {}
}
