// Stand-ins until the parts are here.
import Core
struct StreamTarget: Equatable, BitwiseCopyable { var node: NodeIndex; var counter: UInt32 }
final class Streams {
    struct Delivery: Equatable, BitwiseCopyable { var origin: NodeIndex; var counter: UInt64 }
    enum Arrival: Equatable { case deliver(Delivery), duplicate, held, void, refused }
    struct Publication { var hold: UInt64 = 0; var refused = 0; var dropped = 0 }
    func publish(_ sealed: [UInt8], events: Int, to nodes: [NodeIndex], expiresAt: UInt64) -> Publication {
        Publication()
    }
    func arrived(from origin: NodeIndex, _ frame: DataFrame, _ destination: Destination) -> Arrival { .refused }
    func take() -> (delivery: Delivery, flags: UInt8, sealed: [UInt8])? { nil }
    func settled(_ d: Delivery, hasMember: Bool = true) {}
}
extension MeshNode { var streams: Streams { Streams() } }
extension Lane { func hold(_ run: UnsafePointer<EventRun>, evenImpatient: Bool) -> Receipt? { hold(run) } }
final class Interest {
    init(plane: any ControlPlane, router: Router, maxFilters: Int) {}
    var digest: UInt64 = 0
    func localChanged() {}
    func linkUp(_ l: LinkNumber) {}
    func linkDown(_ l: LinkNumber) {}
    func receive(_ t: FrameType, _ r: inout WireReader, from: LinkNumber) -> String? { nil }
    func heard(digest: UInt64, on: LinkNumber) {}
    func routesChanged(_ r: Routes) {}
    func nodeChanged(_ n: NodeIndex, isRestart: Bool) {}
    func nodeLeft(_ n: NodeIndex) {}
    var isSynchronised: Bool { true }
    func count(of n: NodeIndex) -> Int { 0 }
    func tick() -> UInt64? { nil }
}
