import Core

/// Who a node is by its certificate: an alternative name `apus:node:` and the 32 hexadecimal digits of its id, and, if
/// the certificate is for one mesh only, another one `apus:mesh:` and the mesh's id. Its common name is the node's.
enum NodeCertificate {
    static let nodePrefix = "apus:node:"
    static let meshPrefix = "apus:mesh:"

    /// Why a peer is not who it says; nil when its certificate proves it.
    static func problem(_ certificate: PeerCertificate?, of node: NodeID, mesh: String) -> String? {
        guard let certificate else { return "a certificate of the mesh is required (mesh.tls)" }
        let names = certificate.uris.filter { $0.hasPrefix(nodePrefix) }
        guard names.count == 1, let name = names.first else {
            return "the certificate '\(certificate.subject)' names \(names.isEmpty ? "no node" : "several nodes"): "
                + "one alternative name \(nodePrefix)ID is expected"
        }
        guard let proven = NodeID(name.dropFirst(nodePrefix.count)), proven == node else {
            return "the certificate is that of '\(name)', the peer says that it is the node \(node)"
        }
        let meshes = certificate.uris.filter { $0.hasPrefix(meshPrefix) }
        guard meshes.count <= 1 else { return "the certificate '\(certificate.subject)' names several meshes" }
        guard meshes.allSatisfy({ $0.utf8.elementsEqual((meshPrefix + mesh).utf8) }) else {
            return "the certificate is for another mesh than '\(mesh)'"
        }
        return nil
    }
}

extension MeshNode {
    /// What a peer is called: by its certificate if that is what counts, else as it says.
    func name(of theirs: Initiation, _ certificate: PeerCertificate?) -> String {
        settings.requiresCertificate ? certificate?.commonName ?? "" : theirs.name
    }

    /// Whether a list has a node, by its name or its id.
    static func lists(_ list: [String], _ id: NodeID, _ name: String) -> Bool {
        list.contains { entry in
            NodeID(entry) == id || !name.isEmpty && entry.utf8.elementsEqual(name.utf8)
        }
    }

    /// Whether a peer's first frame comes from somebody who may be there; called with that frame.
    func judgeIdentity(_ theirs: Initiation, _ conversation: MeshConversation) -> (ByeReason, String)? {
        let certificate = conversation.link.certificate
        if settings.requiresCertificate,
            let problem = NodeCertificate.problem(certificate, of: theirs.node, mesh: settings.meshID)
        {
            return (.certificate, problem)
        }
        // Its neighbours are refused by their own lists; the node itself is refused for another reason.
        guard theirs.node != identity.id else { return nil }
        let name = name(of: theirs, certificate)
        guard settings.allow.isEmpty || Self.lists(settings.allow, theirs.node, name) else {
            return (.notAllowed, "the node '\(name)' (\(theirs.node)) is not in mesh.allow of this node")
        }
        guard conversation.allow.isEmpty || Self.lists(conversation.allow, theirs.node, name) else {
            return (
                .notAllowed,
                "the node '\(name)' (\(theirs.node)) is none of those that this node expects there (mesh.links, allow)"
            )
        }
        return nil
    }

    /// Whether both connections of a link are of one certificate.
    func judgeData(_ conversation: MeshConversation, _ theirs: Initiation) -> (ByeReason, String)? {
        let token = conversation.isDialler ? conversation.own.token : theirs.token
        guard let mesh = links.first(where: { $0.nonce == token && nodes[$0.peer].id == theirs.node }),
            mesh.control.link.certificate != conversation.link.certificate
        else { return nil }
        return (.certificate, "the data connection has another certificate than its link")
    }

    /// Tells the audit that a peer was refused by this node, or that it was dialled and is not who it should be.
    func audit(_ conversation: MeshConversation) {
        guard let farewell = conversation.farewell, farewell.isOurs, let reason = farewell.reason, reason.isRefusal
        else { return }
        var record = AuditRecord(.mesh, "link", reason: farewell.text)
        if let theirs = conversation.theirs { record.object = "\(theirs.name) (\(theirs.node))" }
        record.user = conversation.link.certificate?.commonName
        record.peer = conversation.peer
        record.protocolName = MeshAdapter.name
        host.audit(record)
    }
}
