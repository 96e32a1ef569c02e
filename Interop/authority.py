"""Certificates for the tests: authorities, those between them and the leaves, good ones and bad ones of every kind,
keys of several types, revocation lists. For tests only: keys are made fast and kept in files beside the certificates.

    authority = Authority(directory)                      makes directory/ca.pem
    server = authority.server("node")                     directory/node.pem and node.key, for localhost and 127.0.0.1
    anna = authority.client("anna", units=["readers"])
    authority.revoke(anna)
    authority.write_revocations(directory / "ca.crl")"""

import datetime
import ipaddress
import itertools
import os
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
DAY = datetime.timedelta(days=1)
HERE = ("localhost", "127.0.0.1")
NUMBERS = itertools.count()


def new_key(kind="ec"):
    """`ec` (P-256), `ec384`, `ed25519`, or `rsa` with the number of bits behind it: `rsa2048`."""
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("ec"):
        return ec.generate_private_key(ec.SECP384R1() if kind == "ec384" else ec.SECP256R1())
    return rsa.generate_private_key(65_537, int(kind.removeprefix("rsa") or 2_048))


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def put(path, content):
    """Writes a file as a good program does: it is there as a whole or not at all."""
    fresh = pathlib.Path(f"{path}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def host_name(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Leaf:
    """A certificate with its key, in files: `path` has the certificate and those between it and the root."""

    def __init__(self, directory, name, certificate, key, chain, passphrase):
        self.name, self.certificate, self.private = name, certificate, key
        self.path, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        pem = serialization.Encoding.PEM
        put(self.path, b"".join(each.public_bytes(pem) for each in (certificate, *chain)))
        cipher = (serialization.BestAvailableEncryption(passphrase.encode()) if passphrase
                  else serialization.NoEncryption())
        put(self.key, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, cipher))
        self.key.chmod(0o600)

    @property
    def serial(self):
        return self.certificate.serial_number


class Authority:
    """A root, or with `parent` one between. Its certificate is at `path`, what it has revoked in `revoked`."""

    def __init__(self, directory, name="ca", parent=None, key="ec", constrained=None, **more):
        self.directory, self.name, self.parent = pathlib.Path(directory), name, parent
        self.private = new_key(key)
        self.revoked = []
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Authority {name} of the tests")])
        builder = self._builder(subject, self.private.public_key(), parent, **more)
        # With `constrained` False it says that it is no authority, and is used as one.
        builder = builder.add_extension(
            x509.BasicConstraints(ca=constrained is not False, path_length=None), critical=True)
        builder = builder.add_extension(x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        ), critical=True)
        signer = parent.private if parent else self.private
        self.certificate = builder.sign(signer, hash_for(signer))
        self.path = self.directory / f"{name}.pem"
        put(self.path, self.certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def chain(self):
        """Certificates from this one to the root, without the root."""
        return [self.certificate, *self.parent.chain] if self.parent else []

    def _builder(self, subject, public, issuer, start=-DAY, end=365 * DAY):
        builder = (
            x509.CertificateBuilder().subject_name(subject).public_key(public)
            .serial_number(x509.random_serial_number())
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .not_valid_before(now() + start).not_valid_after(now() + end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        by = issuer.private.public_key() if issuer else public
        return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by), critical=False)

    def issue(self, name, usage, hosts=(), uris=(), units=(), emails=(), key="ec", common=None, file=None,
              passphrase=None, self_signed=False, organization=None, chain=None, crl=None, **times):
        """A leaf. `common` is the common name, else `name` is; `file` names the files. `times`: start and end, counted
        from now. `chain` replaces what is between it and the root; `crl` says where its list is."""
        private = new_key(key)
        words = [x509.NameAttribute(NameOID.COMMON_NAME, name if common is None else common)]
        words += [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
        words += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
        subject = x509.Name(words)
        builder = self._builder(subject, private.public_key(), None if self_signed else self, **times)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        names = [host_name(host) for host in hosts] + [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.RFC822Name(mail) for mail in emails]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if crl:
            place = x509.DistributionPoint([x509.UniformResourceIdentifier(crl)], None, None, None)
            builder = builder.add_extension(x509.CRLDistributionPoints([place]), critical=False)
        signer = private if self_signed else self.private
        certificate = builder.sign(signer, hash_for(signer))
        between = [] if self_signed else self.chain if chain is None else chain
        return Leaf(self.directory, file or name, certificate, private, between, passphrase)

    def server(self, name, hosts=HERE, **more):
        return self.issue(name, [SERVER], hosts=hosts, **more)

    def client(self, name, **more):
        return self.issue(name, [CLIENT], **more)

    def node(self, name, identity, mesh="interop", hosts=HERE, **more):
        """Of a node in a mesh, which is server and client: its id stands in a URI, and its mesh's in another one."""
        uris = [f"apus:node:{identity}"] + ([f"apus:mesh:{mesh}"] if mesh else [])
        return self.issue(name, [SERVER, CLIENT], hosts=hosts, uris=uris, **more)

    def revoke(self, leaf):
        self.revoked.append(leaf.certificate.serial_number)

    def revocations(self, start=-DAY, end=30 * DAY):
        """The list of what has been revoked, as PEM; also when that is nothing."""
        builder = (
            x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
            .last_update(now() + start).next_update(now() + end)
            .add_extension(x509.CRLNumber(next(NUMBERS) + 1), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.private.public_key()), False)
        )
        for serial in self.revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now() - DAY / 24).build())
        return builder.sign(self.private, hash_for(self.private)).public_bytes(serialization.Encoding.PEM)

    def write_revocations(self, path, *others, **times):
        """The lists of this authority and others, in one file."""
        put(path, b"".join(each.revocations(**times) for each in (self, *others)))
        return path

    def long_chain(self, name, length, **more):
        """A leaf below so many authorities."""
        above = self
        for number in range(length):
            above = Authority(self.directory, f"{name}-{number}", parent=above)
        return above.client(name, **more)


def hash_for(key):
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
