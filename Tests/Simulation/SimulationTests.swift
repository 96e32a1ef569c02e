import Testing

@testable import Mesh

@Suite struct SimulationTests {}
