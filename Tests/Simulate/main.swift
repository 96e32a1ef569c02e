@testable import Simulator

print("nothing yet")
