import TLS
import Testing

@Suite struct TLSSettingsTests {
    @Test("Without being told, nobody is asked for a certificate and nothing before TLS 1.2 is spoken")
    func defaults() {
        let settings = TLSSettings(name: "devices", certificates: [])
        #expect(settings.clientCertificate == .none)
        #expect(settings.minimumVersion == .v12)
    }
}
