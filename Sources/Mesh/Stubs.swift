// Stand-ins until the parts are here.
import Core
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
