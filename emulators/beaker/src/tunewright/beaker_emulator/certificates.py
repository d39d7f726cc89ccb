"""A certificate authority and a certificate of this server's own: the client knows no gRPC without TLS."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tunewright.beaker_emulator.store import write_file

_VALID = datetime.timedelta(days=365)


@dataclass(frozen=True)
class Certificates:
    """In PEM."""

    authority: bytes
    server: bytes
    server_key: bytes


def make_certificates(directory: Path) -> Certificates:
    """Those of the directory, made where they are not there: a client that has the authority keeps working."""
    paths = [directory / name for name in ("ca.pem", "server.pem", "server-key.pem")]
    if not all(path.is_file() for path in paths):
        directory.mkdir(parents=True, exist_ok=True)
        made = _make()
        for path, content in zip(paths, (made.authority, made.server, made.server_key), strict=True):
            write_file(path, content)
    return Certificates(*(path.read_bytes() for path in paths))


def _make() -> Certificates:
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = _name("Beaker emulator's certificate authority")
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = (
        _builder(_name("localhost"), authority_name, server_key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificates(authority.public_bytes(pem), server.public_bytes(pem), key)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _VALID)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
