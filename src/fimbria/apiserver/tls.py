"""A certificate of one's own, because kubectl sends tokens over TLS only.

`make_ca_and_cert` makes a certificate authority and a server certificate with elliptic-curve keys
in a directory, once; they are used again after a restart, so that kubeconfig files stay valid.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LIFETIME_DAYS = 11_000


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files. `authority` is what clients trust."""

    authority: Path
    certificate: Path
    key: Path


def make_ca_and_cert(
    directory: Path, hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1")
) -> Certificates:
    """Certificates for these names and addresses below `directory`, made unless they are there.

    Files: ca.crt, tls.crt, tls.key (mode 0600). The authority's key is not kept.
    """
    paths = Certificates(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")
    if all(path.exists() for path in (paths.authority, paths.certificate, paths.key)):
        return paths
    authority, certificate, key = _generate(hosts)
    # The key goes last: its presence says that the set is complete.
    for path, content in (
        (paths.authority, authority),
        (paths.certificate, certificate),
        (paths.key, key),
    ):
        temporary = path.with_suffix(path.suffix + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    return paths


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A TLS context for a server. Raises OSError or ssl.SSLError if the files are no use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    return context


def _generate(hosts: Sequence[str]) -> tuple[bytes, bytes, bytes]:
    """PEM of the authority, of the server's certificate and of its key."""
    # cryptography takes longer to load than the rest of the start; most starts find the files.
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    def general_name(host: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            return x509.DNSName(host)

    # A fixed start, so that the certificate is valid too where the clock is behind.
    start = datetime(2020, 1, 1, tzinfo=UTC)
    end = start + timedelta(days=LIFETIME_DAYS)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    authority = (
        x509.CertificateBuilder()
        .subject_name(name("fimbria-ca"))
        .issuer_name(name("fimbria-ca"))
        .public_key(ca_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([general_name(host) for host in hosts])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name("fimbria-apiserver"))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return authority.public_bytes(pem), certificate.public_bytes(pem), secret
