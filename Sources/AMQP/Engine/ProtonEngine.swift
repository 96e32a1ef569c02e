import CProton

/// The engine of libqpid-proton.
final class ProtonEngine {
    typealias Session = OpaquePointer
    typealias Link = OpaquePointer
    typealias Delivery = OpaquePointer
}
