import FoundationEssentials
import Glibc

/// What the system says of this process. What it does not say is nil.
public struct ProcessStatistics: Sendable, Equatable {
    /// User and system time, in seconds.
    public var cpuSeconds: Double?
    /// Memory that is in use, in bytes.
    public var residentBytes: Int?
    /// Address space, in bytes.
    public var virtualBytes: Int?
    /// Open file descriptors.
    public var openDescriptors: Int?
    /// File descriptors that may be open.
    public var maxDescriptors: Int?

    /// As it is now. Reads `/proc`: some tens of microseconds.
    public static func now() -> ProcessStatistics {
        var statistics = ProcessStatistics()
        var time = timespec()
        if clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0 {
            statistics.cpuSeconds = Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
        }
        if let text = read("/proc/self/statm") {
            let pages = text.split(separator: " ").prefix(2).compactMap { Int($0) }
            if pages.count == 2 {
                statistics.virtualBytes = pages[0] * Int(getpagesize())
                statistics.residentBytes = pages[1] * Int(getpagesize())
            }
        }
        statistics.openDescriptors = openDescriptors()
        if let text = read("/proc/self/limits") {
            let line = text.split(separator: "\n").first { $0.hasPrefix("Max open files") }
            statistics.maxDescriptors = line?.split(separator: " ").dropFirst(3).first.flatMap { Int($0) }
        }
        return statistics
    }

    /// Since Linux 6.2 the directory's size is their number; before that they are counted.
    private static func openDescriptors() -> Int? {
        var status = stat()
        guard stat("/proc/self/fd", &status) == 0 else { return nil }
        if status.st_size > 0 { return Int(status.st_size) }
        guard let names = try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd") else { return nil }
        return names.count
    }

    private static func read(_ path: String) -> String? {
        guard let data = FileManager.default.contents(atPath: path) else { return nil }
        return String(decoding: data, as: UTF8.self)
    }
}
