import Testing

@testable import AMQP

@Suite struct ValueWalkerTests {
    private static func walk(_ bytes: [UInt8]) -> Result<Int, ValueWalker.Problem> {
        bytes.withUnsafeBytes { bytes in
            var walker = ValueWalker(bytes)
            return Result { () throws(ValueWalker.Problem) in try walker.walk(at: 0) }
        }
    }

    private static func kind(_ bytes: [UInt8]) -> ValueWalker.Problem.Kind? {
        if case .failure(let problem) = walk(bytes) { problem.kind } else { nil }
    }

    /// Every constructor of the specification, with the least that can follow it.
    private static let whole: [[UInt8]] =
        [
            [0x40], [0x41], [0x42], [0x43], [0x44], [0x45], [0x50, 1], [0x51, 1], [0x52, 1], [0x53, 1], [0x54, 1],
            [0x55, 1], [0x56, 1], [0x60, 1, 2], [0x61, 1, 2],
        ]
        + [0x70, 0x71, 0x72, 0x73, 0x74].map { [$0, 1, 2, 3, 4] }
        + [0x80, 0x81, 0x82, 0x83, 0x84].map { [$0, 1, 2, 3, 4, 5, 6, 7, 8] }
        + [0x94, 0x98].map { [$0] + [UInt8](repeating: 7, count: 16) }
        + [0xA0, 0xA1, 0xA3].map { [$0, 2, 65, 66] }
        + [0xB0, 0xB1, 0xB3].map { [$0, 0, 0, 0, 2, 65, 66] }
        + [
            [0xC0, 1, 0], [0xC1, 1, 0], [0xC0, 3, 2, 0x40, 0x45], [0xC1, 5, 2, 0x52, 1, 0x52, 2],
            [0xD0, 0, 0, 0, 4, 0, 0, 0, 0], [0xD1, 0, 0, 0, 6, 0, 0, 0, 2, 0x40, 0x41], [0xE0, 2, 0, 0x40],
            [0xE0, 2, 200, 0x43], [0xE0, 4, 2, 0x50, 1, 2], [0xE0, 6, 2, 0xA3, 1, 65, 1, 66],
            [0xF0, 0, 0, 0, 5, 0, 0, 0, 0, 0x70], [0xE0, 6, 2, 0xC0, 1, 0, 1, 0],
            // An array of arrays of bytes; an array of described symbols.
            [0xE0, 10, 2, 0xE0, 3, 1, 0x50, 9, 3, 1, 0x50, 8], [0xE0, 7, 1, 0x00, 0x53, 1, 0xA3, 1, 65],
            [0x00, 0x53, 0x24, 0x45], [0x00, 0xA3, 1, 65, 0x40], [0x00, 0x44, 0x40],
            [0x00, 0xB3, 0, 0, 0, 1, 65, 0xC0, 1, 0],
        ]

    @Test func everyTypePassesAndNoPrefixOfIt() {
        for bytes in Self.whole {
            #expect(Self.walk(bytes + [0xFF]) == .success(bytes.count), "\(bytes)")
            for count in 0..<bytes.count {
                #expect(Self.kind(Array(bytes[..<count])) == .endsEarly, "\(bytes): \(count)")
            }
        }
    }

    @Test func unknownConstructorsFail() {
        let known = Set(Self.whole.map { $0[0] })
        #expect(known.count == 40)
        for code in UInt8.min...UInt8.max where !known.contains(code) {
            #expect(Self.kind([code] + [UInt8](repeating: 0, count: 20)) == .unknownConstructor(code))
            #expect(Self.kind([0xE0, 22, 1, code] + [UInt8](repeating: 0, count: 20)) == .unknownConstructor(code))
        }
        #expect(Self.kind([0xC0, 2, 1, 0x57]) == .unknownConstructor(0x57))
    }

    private static let wrong: [(bytes: [UInt8], kind: ValueWalker.Problem.Kind)] = [
        ([0xC0, 3, 1, 0x40, 0x40], .sizeMismatch), ([0xC0, 2, 0, 0x40], .sizeMismatch),
        ([0xC0, 2, 2, 0x40], .countTooLarge), ([0xC0, 1, 1], .countTooLarge), ([0xC1, 2, 1, 0x40], .oddMap),
        ([0xD1, 0, 0, 0, 5, 0, 0, 0, 1, 0x40], .oddMap), ([0xC0, 0, 0], .endsEarly), ([0xC0, 9, 0], .endsEarly),
        ([0xC0, 4, 1, 0x50, 1, 1], .sizeMismatch), ([0xC0, 3, 2, 0x40, 0x50, 1], .endsEarly),
        ([0xC0, 4, 1, 0xA0, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1], .endsEarly),
        ([0xC0, 4, 1, 0xC0, 2, 0, 0x40], .endsEarly), ([0xE0, 3, 2, 0x50, 1], .countTooLarge),
        ([0xE0, 4, 1, 0x50, 1, 2], .sizeMismatch), ([0xE0, 3, 1, 0x43, 0], .sizeMismatch), ([0xE0, 1, 0], .endsEarly),
        ([0xE0, 2, 1, 0x00], .endsEarly), ([0xE0, 4, 1, 0x00, 0x53, 1], .endsEarly),
        ([0xE0, 6, 0, 0x00, 0x53, 1, 0x00, 0x53], .nestedDescriptor),
        ([0xE0, 4, 3, 0xA3, 0, 0], .countTooLarge), ([0xE0, 6, 2, 0xC0, 1, 0, 2, 0], .endsEarly),
        ([0xB0, 255, 255, 255, 255], .endsEarly), ([0xD0, 255, 255, 255, 255, 0, 0, 0, 0], .endsEarly),
        ([0x00, 0x00, 0x40, 0x40], .badDescriptor), ([0x00, 0x40, 0x40], .badDescriptor),
        ([0x00, 0xC0, 1, 0, 0x40], .badDescriptor), ([0x00, 0xA1, 1, 65, 0x40], .badDescriptor),
        ([0x00, 0x53, 1, 0x00, 0x53, 1, 0x40], .nestedDescriptor),
        ([0xF0, 0, 0, 0, 5, 255, 255, 255, 255, 0x40], .tooManyValues),
        ([0xF0, 0, 0, 0, 5, 0, 0, 16, 0, 0x43], .tooManyValues),
        ([0xF0, 0, 0, 0, 5, 255, 255, 255, 255, 0x45], .tooManyValues),
        ([0xF0, 0, 0, 0, 6, 255, 255, 255, 255, 0x50, 0], .tooManyValues),
        ([0xD0, 0, 0, 0, 5, 128, 0, 0, 0, 0x40], .tooManyValues),
        ([0xB3, 0, 0, 4, 1] + [UInt8](repeating: 65, count: 1_025), .symbolTooLong),
        ([0x00, 0xB3, 0, 0, 4, 1] + [UInt8](repeating: 65, count: 1_026), .symbolTooLong),
    ]

    @Test(arguments: wrong.indices)
    func wrongClaimsFail(_ index: Int) {
        let (bytes, kind) = Self.wrong[index]
        #expect(Self.kind(bytes) == kind, "\(bytes.prefix(20))")
    }

    @Test func depthIsBounded() {
        func nested(_ count: Int) -> [UInt8] {
            (0..<count).reduce([0x40]) { inner, _ in
                [0xD0] + ScanValue.big(UInt32(inner.count + 4)) + [0, 0, 0, 1] + inner
            }
        }
        #expect(Self.walk(nested(16)) == .success(nested(16).count))
        #expect(Self.kind(nested(17)) == .tooDeep)
        #expect(Self.kind(nested(5_000)) == .tooDeep)
        // Arrays in arrays, each of one element.
        var arrays: [UInt8] = [0x50, 1]
        for _ in 0..<20 { arrays = [0xF0] + ScanValue.big(UInt32(arrays.count + 4)) + [0, 0, 0, 1] + arrays }
        #expect(Self.kind(arrays) == .tooDeep)
    }

    @Test func valuesAreCountedOverAllContainers() {
        func list(_ count: Int, of inner: [UInt8]) -> [UInt8] {
            let bytes = (0..<count).flatMap { _ in inner }
            return [0xD0] + ScanValue.big(UInt32(bytes.count + 4)) + ScanValue.big(UInt32(count)) + bytes
        }
        #expect(Self.kind(list(4_095, of: [0x40])) == nil)
        #expect(Self.kind(list(4_096, of: [0x40])) == .tooManyValues)
        // Small arrays of many values without bytes.
        #expect(Self.kind(list(15, of: [0xE0, 2, 255, 0x41])) == nil)
        #expect(Self.kind(list(16, of: [0xE0, 2, 255, 0x41])) == .tooManyValues)
        // Descriptors count.
        #expect(Self.kind(list(2_047, of: [0x00, 0x44, 0x40])) == nil)
        #expect(Self.kind(list(2_048, of: [0x00, 0x44, 0x40])) == .tooManyValues)
    }
}
