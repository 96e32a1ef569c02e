// Stand-ins until the parts are here.
import Core
struct Adjacency {
    var link: LinkNumber; var peer: NodeIndex; var nonce: UInt64; var cost: UInt32; var remoteLink: UInt16
}
protocol LinkStateEvents: AnyObject {
    func routesChanged(_ routes: Routes)
    func nodeChanged(_ node: NodeIndex, isRestart: Bool)
    func nodeLeft(_ node: NodeIndex)
    func mustLeave(_ reason: String)
    func shortIDChanged(_ own: UInt16)
}
struct LinkStateSettings {
    var name: String; var addresses: [String] = []; var isTransit = true; var shortID: UInt16 = 0;
    init(name: String) { self.name = name }
}
final class LinkState {
    init(plane: any ControlPlane, events: any LinkStateEvents, settings: LinkStateSettings) {}
    var routes = Routes()
    var digest: UInt64 = 0
    func adjacencyUp(_ a: Adjacency) {}
    func adjacencyDown(_ l: LinkNumber) {}
    func setDraining(_ d: Bool) {}
    func linkUp(_ l: LinkNumber) {}
    func linkDown(_ l: LinkNumber) {}
    func receive(_ t: FrameType, _ r: inout WireReader, from: LinkNumber) -> String? { nil }
    func heard(digest: UInt64, on: LinkNumber) {}
    var isSynchronised: Bool { true }
    func tick() -> UInt64? { nil }
    func addresses(of n: NodeIndex) -> [String] { [] }
}
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
    func tick() -> UInt64? { nil }
}
extension Router {
    func attachMesh(_ p: Port, on lane: Lane, interestChanged: @escaping @Sendable () -> Void) { register(p, on: lane) }
}
